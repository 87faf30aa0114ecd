"""One logged session, ranked again: by hand."""

import math

import numpy as np
import pytest

from clickstream.records import RegisteredSession
from improvement.evaluation.judging import Judge, Judged
from improvement.objects import Object
from improvement.profiles.profile import Profile
from improvement.profiles.settings import ProfileSettings
from tests.improvement.evaluation.conftest import at
from tests.support import click, make_domain, make_object, make_session

SECOND = 1 / math.log2(3)
DOMAIN = make_domain(dimensions=2)
QUERY = at(0)
#: Nearest to the query first: a, b, c, d.
ORIGINALS = {
    name: make_object(name, at(degrees)) for name, degrees in zip("abcd", (0, 10, 20, 30), strict=True)
}


def session(shown: str, clicked: str, **changes: str) -> RegisteredSession:
    made = make_session("s", "ann", list(shown)).model_dump()
    return RegisteredSession(**made | {"events": tuple(click(o, **changes) for o in clicked)})


def judge(
    one: RegisteredSession,
    copies: dict[tuple[str, str], Object] | None = None,
    propensities: tuple[float, ...] = (),
) -> Judged:
    found = Judge(DOMAIN, "learned", propensities).judge(one, QUERY, ORIGINALS, copies or {})
    assert isinstance(found, Judged)
    return found


def test_as_shown_counts_the_shown_order_and_no_learning_that_of_the_originals():
    found = judge(session(shown="dcba", clicked="b")).found
    assert found["as shown"] == pytest.approx((1 / 2, 1 / 3, 1 / 2))
    assert found["no learning"] == pytest.approx((SECOND, 1 / 2, SECOND))
    assert found["learned"] == found["no learning"]


def test_a_copy_ranks_in_place_of_its_original_for_its_user_alone():
    copies = {("ann", "d"): make_object("d", at(0.1)), ("bob", "c"): make_object("c", at(0))}
    found = judge(session(shown="abcd", clicked="d"), copies)
    assert found.has_copies
    assert found.found["learned"] == pytest.approx((SECOND, 1 / 2, SECOND))
    assert found.found["no learning"][1] == 1 / 4


def test_a_profile_ranks_again_what_the_copies_put_first():
    # with the copy of c: a 0, c -5, b 10, d 30 degrees; half way to 50 the first three are b, a, c
    copies = {("ann", "c"): make_object("c", at(-5))}
    liking = Profile("ann", DOMAIN.name, embedding=at(50)[0])
    settings = ProfileSettings(search_weight=0.5, rescored=3)

    def place(clicked: str, profile: Profile | None, method: str | None = "learned") -> dict[str, float]:
        told = Judge(DOMAIN, method, profiles=settings).judge(
            session(shown="dcba", clicked=clicked), QUERY, ORIGINALS, copies, profile
        )
        assert isinstance(told, Judged)
        assert told.has_profile == (profile is not None)
        return {name: 1 / rank for name, (_, rank, _) in told.found.items()}

    both = "learned + profile"
    assert [place(one, liking)[both] for one in "abcd"] == pytest.approx([2, 1, 3, 4])
    assert [place(one, liking)["learned"] for one in "abcd"] == pytest.approx([1, 3, 2, 4])
    assert [place(one, None)[both] for one in "abcd"] == pytest.approx([1, 3, 2, 4])
    assert place("a", liking, method=None).keys() == {"as shown", "no learning", "profile"}


def test_two_clicks_are_held_against_the_best_order_of_two():
    found = judge(session(shown="abcd", clicked="bd")).found["no learning"]
    assert found[0] == pytest.approx((SECOND + 1 / math.log2(5)) / (1 + SECOND))


def test_equal_scores_keep_the_shown_order():
    twins = {"x": make_object("x", at(5)), "y": make_object("y", at(5))}
    found = Judge(DOMAIN, None).judge(session(shown="yx", clicked="x"), QUERY, twins, {})
    assert isinstance(found, Judged)
    assert found.found["no learning"][1] == 1 / 2


def test_a_click_weighs_the_inverse_of_the_chance_that_its_place_was_looked_at():
    propensities = (1.0, 0.5, 0.25)
    found = judge(session(shown="dcba", clicked="ca"), propensities=propensities)
    # "c" stood second: weight 2; "a" fourth, which is as likely as the third, the last one known: weight 4
    assert found.weight == 3
    best = 4 + 2 * SECOND
    assert found.found["no learning"][2] == pytest.approx((4 + 2 / 2) / best)  # a first, c third
    assert found.found["as shown"][2] == pytest.approx((2 * SECOND + 4 / math.log2(5)) / best)


@pytest.mark.parametrize("tiny", [0.0, 1e-12, 0.05])
def test_inverse_propensities_are_clipped_at_ten(tiny: float):
    assert judge(session(shown="dcba", clicked="c"), propensities=(1.0, tiny)).weight == 10


def test_places_are_those_of_what_was_shown_even_when_some_of_it_is_gone():
    found = judge(session(shown="xcba", clicked="c"), propensities=(1.0, 0.5, 0.1))
    assert found.weight == 2


@pytest.mark.parametrize(
    ("one", "says"),
    [
        (session(shown="axyz", clicked="a"), "fewer than 2 of the shown objects"),
        (session(shown="abx", clicked="x"), "no clicked object is still there"),
        (session(shown="abc", clicked="b", event_type="hide"), "dislikes only, no click"),
    ],
)
def test_what_tells_nothing_says_why(one: RegisteredSession, says: str):
    assert says in str(Judge(DOMAIN, None).judge(one, QUERY, ORIGINALS, {}))


def test_rows_weigh_sessions_by_their_clicks_and_pair_them_with_no_learning():
    sessions = [session("dcba", "a"), session("dcba", "c")]
    judged = [judge(one, propensities=(1.0, 0.5, 0.5, 0.25)) for one in sessions]
    shown, baseline, learned = Judge(DOMAIN, "learned").rows(judged, seed=0)
    assert (shown.method, baseline.method, learned.method) == ("as shown", "no learning", "learned")
    assert baseline.metrics["mrr"].mean == pytest.approx(np.mean([1, 1 / 3]))
    assert baseline.metrics["ips_mrr"].mean == pytest.approx((4 * 1 + 2 / 3) / 6)
    assert shown.differences["mrr"].mean == pytest.approx(np.mean([1 / 4 - 1, 1 / 2 - 1 / 3]))
    assert learned.differences["ndcg@10"].mean == 0
    assert math.isnan(learned.differences["ndcg@10"].low)  # both sessions are one user's

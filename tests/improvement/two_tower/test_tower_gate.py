from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from improvement.domain import SearchDomain
from improvement.errors import Conflict, NotFound
from improvement.evaluation.gate import Rule
from improvement.evaluation.metrics import ndcg
from improvement.evaluation.report import Estimate
from improvement.evaluation.whole import Found, Held
from improvement.green.settings import GateSettings
from improvement.improver import Improver
from improvement.two_tower.checkpoints import Checkpoint
from improvement.two_tower.facts import History
from improvement.two_tower.names import BEGUN, towers_name
from improvement.two_tower.next_engagement import TowerSide, ask_both, cases
from improvement.two_tower.publishing import publish
from improvement.two_tower.reading import facts_of
from improvement.two_tower.switching import promote_towers
from improvement.two_tower.tower_gate import TooFewYet, run_tower_gate, verdict
from improvement.wiring import Rooms
from tests.improvement.two_tower.published import (
    begun,
    come_back,
    engaged,
    held,
    move,
    trained,
    with_towers,
)

MARK = 1_000.0


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return with_towers(domain)


def quiet(what: str, count: int) -> None:
    pass


def test_the_users_of_the_test_are_those_who_came_back_for_something_new(rooms: Rooms, domain: SearchDomain):
    def did(user: str, objects: list[str], at: float, signal: float = 0.8) -> None:
        pairs = engaged(domain, user, objects, at)
        rooms.pairs.add([replace(pair, pair_id=f"{pair.pair_id}{at}", signal=signal) for pair in pairs])

    did("ann", ["a", "b"], MARK - 10)
    did("ann", ["c", "a", "d"], MARK + 10)
    did("bob", ["a"], MARK - 10)
    did("bob", ["a"], MARK + 50)  # nothing new
    did("cid", ["a"], MARK + 60)  # nobody knew them
    did("dan", ["b"], MARK)  # at the watermark is before it
    did("dan", ["c"], MARK + 20)
    did("eve", ["a"], MARK - 10)
    did("eve", ["b"], MARK + 70, signal=-0.5)  # turned away
    found = cases(rooms.pairs, domain.name, MARK, 10, quiet)
    assert [(one.user_id, one.wanted, one.at) for one in found] == [
        ("dan", {"c"}, MARK + 20), ("ann", {"c", "d"}, MARK + 10),
    ]  # fmt: skip
    assert [past.object_id for past in found[1].pasts] == ["a", "b"]
    assert [one.user_id for one in cases(rooms.pairs, domain.name, MARK, 3, quiet)] == ["dan"]


def test_each_side_recommends_with_its_own_tower_and_items_as_a_plain_loop_does(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    begun(rooms, improving, domain)
    come_back(rooms, domain, users=6)
    head = trained(improving, domain, MARK)
    green = publish(improving, domain, head)
    blue = rooms.releases.blue(towers_name(domain.name))
    base = rooms.releases.serving(domain.name).space
    sides = [TowerSide(rooms.towers.tower(one.space), base) for one in (blue, green)]
    these = cases(rooms.pairs, domain.name, MARK, 100, quiet)
    objects, _ = rooms.vectors.page(domain.name, 1_000)
    pages = [
        {base: facts_of(domain, objects[start : start + 7], base, base)[0]}
        for start in range(0, len(objects), 7)
    ]
    found = ask_both(
        lambda ids, space: rooms.facts.of(domain, ids, space), pages, sides[0], sides[1], these, 2, 100, quiet
    )
    for side, release, samples in zip(sides, (blue, green), (found.blue, found.green), strict=True):
        items = held(rooms, domain, release.space)
        for place, case in enumerate(these):
            history = History(case.pasts, np.stack([items[past.object_id] for past in case.pasts]), case.at)
            user = side.tower.users([history])[0]
            known = {past.object_id for past in case.pasts}
            order = sorted((i for i in items if i not in known), key=lambda i: -float(items[i] @ user))
            marks = [i in case.wanted for i in order]
            assert samples["recall@20"].values[place] == sum(marks[:20]) / len(case.wanted)
            assert samples["ndcg@10"].values[place] == pytest.approx(ndcg(marks, len(case.wanted), 10))
            pair = found.queries[place][0 if side is sides[0] else 1]
            np.testing.assert_allclose(pair, user, atol=1e-5)
    assert (found.users, found.enough) == (6, 6)


def test_users_with_too_little_behind_them_count_in_the_second_row_only(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    begun(rooms, improving, domain)
    come_back(rooms, domain, users=3)
    rooms.pairs.add(engaged(domain, "new", ["o1"], MARK - 5))
    rooms.pairs.add(engaged(domain, "new", ["o2", "never there"], MARK + 5))
    rooms.pairs.add(engaged(domain, "lost", ["o1"], MARK - 5))
    rooms.pairs.add(engaged(domain, "lost", ["never there"], MARK + 5))
    head = trained(improving, domain, MARK)
    publish(improving, domain, head)
    found = run_tower_gate(improving, domain, head).as_json()
    assert found["metrics"]["blue"]["recall@20"]["count"] == 3
    assert found["metrics"]["blue"]["all_recall@20"]["count"] == 4  # who wanted what is gone does not count
    assert (found["source"]["users"], found["source"]["users_with_enough"]) == (4, 3)


def test_too_few_users_is_noverdict_and_nothing_is_stored(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    begun(rooms, improving, domain)
    head = trained(improving, domain, MARK)
    with pytest.raises(NotFound):
        run_tower_gate(improving, domain, head)
    publish(improving, domain, head)
    come_back(rooms, domain, users=1)
    with pytest.raises(TooFewYet, match="1 users with at least 2 engagements"):
        run_tower_gate(improving, domain, head)
    with pytest.raises(NotFound):
        rooms.reports.latest(head)


def test_what_engagement_moved_in_the_collection_that_serves_is_not_its_towers_merit(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    begun(rooms, improving, domain)
    come_back(rooms, domain, users=5)
    head = trained(improving, domain, MARK)
    publish(improving, domain, head)
    before = run_tower_gate(improving, domain, head)
    rows = held(rooms, domain)
    move(rooms, domain, {i: -row for i, row in rows.items()})
    after = run_tower_gate(improving, domain, head)
    assert after.found["metrics"] == before.found["metrics"]


def test_the_report_is_kept_names_nobody_and_says_what_holds(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    begun(rooms, improving, domain)
    come_back(rooms, domain, users=5)
    head = trained(improving, domain, MARK)
    publish(improving, domain, head)
    seen: dict[str, int] = {}
    report = run_tower_gate(
        improving, domain, head, progress=lambda what, n: seen.update({what: seen.get(what, 0) + n})
    )
    assert seen == {"read": 5, "prepared": 5, "ranked": 30, "searched": 5, "compared": 30}
    assert rooms.reports.latest(head) == report
    assert (report.domain, report.build) == (towers_name(domain.name), head)
    assert report.passed
    assert [rule["rule"] for rule in report.found["rules"]] == ["users", "recall@20", "ndcg@10", "missing"]
    assert not any(f"u{n}" in str(report.as_json()) for n in range(5))
    assert run_tower_gate(improving, domain, head).found == report.found
    promote_towers(improving, domain, head, "ann")
    with pytest.raises(Conflict, match="serves already"):
        run_tower_gate(improving, domain, head)


def test_objects_that_it_lacks_are_against_it(rooms: Rooms, improving: Improver, domain: SearchDomain):
    begun(rooms, improving, domain)
    come_back(rooms, domain)
    head = trained(improving, domain, MARK)
    green = publish(improving, domain, head)
    rooms.vectors.delete(green.collection_id, ["o20"])
    report = run_tower_gate(improving, domain, head)
    assert not report.passed
    assert "green lacks 3.333% of blue's objects" in report.reasons[0]


def judged(
    trained_by: str, low: float, overlap: float = 0.0, coverage: tuple[int, int] = (10, 1), users: int = 99
) -> dict[str, Rule]:
    before = Checkpoint("c", "d", None, "s", 0.0, trained_by)
    difference = Estimate(low + 0.01, low, low + 0.02, users)
    differences = {"recall@20": difference, "ndcg@10": difference}
    found = Found(np.array([overlap]), *coverage)
    rules = verdict(GateSettings(), before, differences, found, Held(10, 0, None), users)
    return {rule.rule: rule for rule in rules}


def test_to_differ_from_towers_that_learned_nothing_is_not_held_against_learning():
    assert judged(BEGUN, low=0.0).keys() == {"users", "recall@20", "ndcg@10", "missing"}


def test_what_differs_from_towers_that_learned_must_be_better_beyond_chance():
    assert not judged("candidate", low=0.0)["overlap"].passed
    assert "overlap" not in judged("candidate", low=0.001)
    assert not judged("candidate", low=0.001)["coverage"].passed
    assert judged("candidate", low=0.0, overlap=0.3, coverage=(10, 8))["overlap"].passed


@settings(deadline=None, max_examples=50)
@given(low=st.floats(-0.5, 0.5), users=st.integers(0, 200), trained_by=st.sampled_from([BEGUN, "users"]))
def test_nothing_passes_that_may_be_worse_than_the_margin_or_that_too_few_tested(
    low: float, users: int, trained_by: str
):
    rules = judged(trained_by, low, overlap=1.0, coverage=(1, 1), users=users)
    assert all(rule.passed for rule in rules.values()) == (low >= -0.01 and users >= 50)


def test_what_could_not_be_measured_does_not_pass():
    before = Checkpoint("c", "d", None, "s", 0.0, "candidate")
    nothing = Found(np.zeros(0), 0, 0)
    rules = verdict(GateSettings(), before, {}, nothing, Held(0, 0, None), 0)
    assert not any(rule.passed for rule in rules)
    assert len(rules) == 6

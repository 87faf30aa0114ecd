"""Which copies a user keeps, against a naive loop."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickstream.records import RegisteredSession
from improvement.copies import Key
from improvement.inputs import ImprovementElement, ImprovementInput
from improvement.quality.limits import expires_at, most_useful, usefulness
from improvement.quality.settings import CopyLimits

USERS, OBJECTS = ["ann", "bob", "a\nb"], ["o1", "o2", "o3", "o 4"]
WEIGHTS = st.floats(-1, 1).filter(lambda weight: weight != 0)
SAID = st.lists(
    st.tuples(st.sampled_from(USERS), st.dictionaries(st.sampled_from(OBJECTS), WEIGHTS, min_size=1)),
    max_size=8,
)
USEFUL = st.dictionaries(
    st.tuples(st.sampled_from(USERS), st.text(max_size=3)), st.sampled_from([0.0, 0.5, 1.0, 2.0]), max_size=30
)


def inputs(said: Sequence[tuple[str, dict[str, float]]]) -> list[ImprovementInput]:
    row = np.ones((1, 2), np.float32)

    def one(number: int, user: str, weights: dict[str, float]) -> ImprovementInput:
        elements = [ImprovementElement(o, row, user, weight) for o, weight in weights.items()]
        clicked, skipped = [e for e in elements if e.weight > 0], [e for e in elements if e.weight < 0]
        return ImprovementInput(f"s{number}", ImprovementElement(f"s{number}", row, user), clicked, skipped)

    return [one(number, user, weights) for number, (user, weights) in enumerate(said)]


def naive(useful: dict[Key, float], per_user: int) -> set[Key]:
    kept = set()
    for key in useful:
        better = [o for o in useful if o[0] == key[0] and (-useful[o], o[1]) < (-useful[key], key[1])]
        if len(better) < per_user:
            kept.add(key)
    return kept


@given(SAID)
def test_usefulness_is_the_sum_of_the_sizes_of_the_weights_in_any_order(
    said: list[tuple[str, dict[str, float]]],
):
    found = usefulness(inputs(said))
    for user in USERS:
        for object_id in OBJECTS:
            sizes = [abs(weights[object_id]) for who, weights in said if who == user and object_id in weights]
            assert found.get((user, object_id), 0.0) == pytest.approx(sum(sizes))
            assert ((user, object_id) in found) == bool(sizes)
    shuffled = inputs(said)
    random.Random(0).shuffle(shuffled)
    assert usefulness(shuffled) == found


@given(USEFUL, st.integers(1, 12))
def test_the_most_useful_are_kept_as_a_naive_loop_keeps_them(useful: dict[Key, float], per_user: int):
    kept = most_useful(useful, per_user)
    assert len(set(kept)) == len(kept)
    assert set(kept) == naive(useful, per_user)


@given(USEFUL, st.integers(1, 12))
def test_who_may_keep_one_more_keeps_the_same_and_one_behind_them(useful: dict[Key, float], per_user: int):
    fewer, more = most_useful(useful, per_user), most_useful(useful, per_user + 1)
    for user in USERS:
        mine = [key for key in fewer if key[0] == user]
        also = [key for key in more if key[0] == user]
        assert also[: len(mine)] == mine
        assert len(also) - len(mine) in (0, 1)


@given(USEFUL, st.integers(1, 12))
def test_what_one_user_keeps_depends_on_nobody_else(useful: dict[Key, float], per_user: int):
    together = most_useful(useful, per_user)
    for user in USERS:
        alone = most_useful({key: value for key, value in useful.items() if key[0] == user}, per_user)
        assert [key for key in together if key[0] == user] == alone


def test_a_session_expires_by_the_servers_clock_or_never():
    session = RegisteredSession(session_id="s", search_query="", created_at=5, registered_at=100.0)
    assert expires_at(session, CopyLimits(expire_days=1.0)) == 86_500.0
    assert expires_at(session, CopyLimits(expire_days=None)) == float("inf")
    assert expires_at(session.model_copy(update={"registered_at": None}), CopyLimits()) == float("inf")


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("per_user", 0),
        ("per_user", 1.5),
        ("per_user", True),
        ("expire_days", 0.0),
        ("expire_days", float("nan")),
    ],
)
def test_limits_out_of_their_range_are_refused_by_name(field: str, bad: object):
    with pytest.raises(ValueError, match=f"{field}: expected"):
        CopyLimits(**{field: bad})  # type: ignore[arg-type]

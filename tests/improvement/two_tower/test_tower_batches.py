from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from improvement.two_tower.examples import Next, candidate_batch, next_of, unusable, user_batch
from improvement.two_tower.facts import ItemFacts, Past
from improvement.two_tower.pairs import Pair
from improvement.two_tower.sampling import Reason, log_frequencies

SIZE, WIDE = 4, 3


def pair(number: int, object_id: str = "o0", user_id: str = "u", signal: float = 0.6, **changes: Any) -> Pair:
    vector = np.random.default_rng(number).standard_normal(SIZE).astype(np.float32)
    made = Pair(
        f"e{number}", "things", user_id, object_id, None, "click", signal,
        Reason.ENGAGED if signal > 0 else Reason.DISLIKED, vector, None, "space", 1.0, 2.0,
    )  # fmt: skip
    return replace(made, **changes)


def facts(*object_ids: str) -> ItemFacts:
    return ItemFacts(object_ids, np.eye(len(object_ids), WIDE, dtype=np.float32), (None,) * len(object_ids))


def past(number: int, object_id: str, signal: float = 0.6) -> Past:
    return Past(f"e{number}", object_id, None, "click", signal, float(number))


def test_an_engagement_that_says_something_is_usable():
    assert unusable(pair(0), SIZE, {"space"}) is None
    assert unusable(pair(0, signal=-1.0), SIZE, {"elsewhere", "space"}) is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"user_vector": None}, "had no vector"),
        ({"user_vector": np.zeros(SIZE + 1, np.float32)}, f"user_vector: expected {SIZE}"),
        ({"user_vector": np.array([1, np.nan, 0, 0], np.float32)}, "user_vector: expected"),
        ({"user_vector": np.array([[1.0] * SIZE], np.float32)}, "user_vector: expected"),
        ({"signal": float("nan")}, "signal"),
        ({"signal": 0.0}, "signal"),
        ({"signal": 1.5}, "signal"),
        ({"space": "elsewhere"}, "another space"),
        ({"at": float("inf")}, "at"),
        ({"received_at": float("nan")}, "received_at"),
    ],
)
def test_a_bad_pair_is_left_out_with_the_reason(changes: dict[str, Any], why: str):
    assert why in str(unusable(pair(0, **changes), SIZE, {"space"}))


def test_pairs_become_rows_that_point_at_their_items():
    pairs = [pair(0, "a", "ann"), pair(1, "b", "bob"), pair(2, "a", "bob", -0.5)]
    made = candidate_batch(pairs, [["c", "b"], ["gone", "c"], []], facts("a", "b", "c"), {"a": 3, "b": 1}, 3)
    assert made.chosen.tolist() == [0, 1, 0]
    assert made.negatives.tolist() == [[2, 1, -1], [2, -1, -1], [-1, -1, -1]]
    assert made.signals.tolist() == pytest.approx([0.6, 0.6, -0.5])
    assert made.owners is not None
    assert made.owners.tolist() == [0, 1, 1]
    assert np.allclose(np.linalg.norm(made.users, axis=1), 1)
    assert np.array_equal(made.log_q, log_frequencies(("a", "b", "c"), {"a": 3, "b": 1}, 3))
    assert made.narrowed(SIZE, WIDE) is not None


@given(st.data())
def test_a_batch_is_what_a_naive_loop_makes(data: st.DataObject):
    names = [f"o{n}" for n in range(5)]
    count = data.draw(st.integers(1, 4))
    pairs = [
        pair(n, data.draw(st.sampled_from(names)), data.draw(st.sampled_from("xyz")))
        for n in range(data.draw(st.integers(1, 6)))
    ]
    drawn = [data.draw(st.lists(st.sampled_from([*names, "gone"]), unique=True, max_size=4)) for _ in pairs]
    made = candidate_batch(pairs, drawn, facts(*names), {}, count)
    for row, (one, its) in enumerate(zip(pairs, drawn, strict=True)):
        assert names[made.chosen[row]] == one.object_id
        assert [names[place] for place in made.negatives[row] if place >= 0] == [
            name for name in its if name != "gone"
        ][:count]
        for other, them in enumerate(pairs):
            assert made.owners is not None
            assert (made.owners[row] == made.owners[other]) == (one.user_id == them.user_id)
    assert made.narrowed(SIZE, WIDE) is not None


def test_a_user_is_asked_for_the_newest_they_liked_after_all_before_it():
    pasts = [past(1, "a"), past(2, "b", -0.5), past(3, "c"), past(4, "d", -0.5)]
    assert next_of("ann", pasts) == Next("ann", pasts[:2], pasts[2])
    assert next_of("ann", pasts[:2]) is None  # the only one left has nothing before it
    assert next_of("ann", [past(1, "a"), past(2, "b", -0.5)]) is None
    assert next_of("ann", []) is None


def vectors(*names: str) -> dict[str, Any]:
    return {name: np.eye(len(names), SIZE, dtype=np.float32)[place] for place, name in enumerate(names)}


def test_users_become_histories_with_what_came_next_and_what_was_passed_over():
    nexts = [Next("ann", [past(1, "a"), past(2, "gone")], past(3, "b"))]
    known = vectors("a", "b", "c")
    made = user_batch(nexts, [["c", "gone"]], known, 3)
    assert made is not None
    (history,) = made.histories
    assert (history.pasts, history.at) == ((past(1, "a"),), 3.0)
    assert np.array_equal(history.items, known["a"][None])
    assert np.array_equal(made.positives, known["b"][None])
    assert np.array_equal(made.negatives, np.stack([known["c"], *[np.zeros(SIZE)] * 2])[None])
    assert made.narrowed(SIZE) is not None


@pytest.mark.parametrize(
    ("before", "target", "negatives"),
    [("gone", "b", "c"), ("a", "gone", "c"), ("a", "b", "gone"), ("a", "b", ""), ("nothing", "b", "c")],
)
def test_a_user_of_whom_something_is_missing_is_left_out(before: str, target: str, negatives: str):
    known = vectors("a", "b", "c") | {"nothing": np.zeros(SIZE, np.float32)}
    missing = Next("ann", [past(1, before)], past(2, target))
    fine = Next("bob", [past(1, "a")], past(2, "b"))
    made = user_batch([missing, fine], [negatives.split(), ["c"]], known, 2)
    assert made is not None
    assert len(made.histories) == 1
    assert user_batch([missing], [negatives.split()], known, 2) is None

"""What a log of actions says: against a loop, in any order, and however much there is of it."""

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from clickstream.records import ReceivedAction
from improvement.evidence import MAX_WEIGHT, EvidenceWeights
from improvement.profiles.history import interactions
from improvement.profiles.online import rating_from_signals
from improvement.profiles.profile import Interaction


def received(object_id: str, action_type: str, received_at: float, **changes: Any) -> ReceivedAction:
    fields = {"action_id": "a", "user_id": "ann", "created_at": 5, "place": f"{received_at:020.3f}"} | changes
    return ReceivedAction(object_id=object_id, action_type=action_type, received_at=received_at, **fields)


def test_interactions_are_what_one_push_says_of_one_object_oldest_first():
    evidence = EvidenceWeights()
    said = interactions(
        [
            received("a", "like_post", 100.5, created_at=100),
            received("b", "hide", 100.5, created_at=400),  # the client's clock runs ahead
            received("a", "dwell", 100.5, created_at=99, meta={"dwell_seconds": 60}),
            received("a", "share_post", 200.5, created_at=50),
            received("c", "waves", 200.5),
            received("d", "like_post", 200.5),
            received("d", "not_interested", 200.5),
            received("e", "view_post", 300.0, created_at=None),
        ],
        evidence,
    )
    assert said == {
        "ann": [
            Interaction("a", 10.0, 50.0),
            Interaction("a", 7.0, 100.0),
            Interaction("b", -2.0, 100.5),
            Interaction("e", 1.0, 300.0),
        ]
    }
    assert interactions([], evidence) == {}


def test_no_number_of_actions_makes_a_weight_that_no_rating_takes():
    heavy = EvidenceWeights(events={"x": MAX_WEIGHT, "y": -MAX_WEIGHT}, long_dwell=MAX_WEIGHT)
    for kind, sign in (("x", 1), ("y", -1)):
        said = interactions([received("a", kind, 1.0, meta={"dwell_seconds": sign * 9})] * 1_000, heavy)
        assert [one.weight for one in said["ann"]] == [sign * MAX_WEIGHT]
        assert rating_from_signals([said["ann"][0].weight], 1e5) == pytest.approx(sign)


def test_a_thousand_times_at_once_counts_as_the_strongest_that_can_be_done():
    said = interactions([received("a", "view_post", 1.0)] * 1_000, EvidenceWeights())
    assert said == {"ann": [Interaction("a", 10.0, 1.0)]}


@pytest.mark.parametrize("remember", [1, 3, 1_000])
def test_of_each_user_the_latest_that_say_something_are_kept_in_whatever_order_they_are_read(remember: int):
    rng = np.random.default_rng(remember)
    kinds = ["like_post", "hide", "impression", "impression", "view_post"]
    log = [
        received(str(rng.integers(6)), str(rng.choice(kinds)), float(rng.integers(40)), user_id=str(user),
                 created_at=None)
        for user in rng.integers(4, size=600)
    ]  # fmt: skip
    whole = interactions(log, EvidenceWeights())
    for _ in range(3):
        read = interactions([log[i] for i in rng.permutation(len(log))], EvidenceWeights(), remember)
        naive = {user: of[-remember:] for user, of in whole.items()}
        for user, said in naive.items():  # of one push, which objects are left is a matter of their names
            assert [one.at for one in read[user]] == [one.at for one in said]
            assert set(read[user]) <= set(whole[user])


def test_what_says_nothing_pushes_nothing_out():
    likes = [received(str(i), "like_post", 1.0) for i in range(5)]
    noise = [received("x", "impression", 2.0 + i) for i in range(500)]
    assert len(interactions([*likes, *noise], EvidenceWeights(), remember=10)["ann"]) == 5
    once = [received("x", "view_post", 2.0)] * 500
    assert len(interactions([*likes, *once], EvidenceWeights(), remember=10)["ann"]) == 6


def test_a_user_who_did_very_much_costs_no_memory():
    def log() -> Iterator[Any]:
        for i in range(50_000):
            yield received("x" * 100, "like_post", float(i * 7_919 % 50_000))

    tracemalloc.start()
    try:
        said = interactions(log(), EvidenceWeights(), remember=20)["ann"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(said) == 20
    assert peak < 1_000_000

"""PairStore: pairs are stored once, given to batches once, archived, and erased everywhere."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pymongo.database import Database

from improvement.two_tower.pairs import Pair, PairStore
from improvement.two_tower.sampling import Reason
from tests.support import Clock, Gap

VECTOR = np.array([0.6, 0.8], np.float32)


@pytest.fixture
def pairs(database: Database[Any]) -> PairStore:
    store = PairStore(database)
    store.ensure_indexes()
    store.ensure_indexes()
    return store


def pair(number: int = 0, **changes: Any) -> Pair:
    made = Pair(
        f"a:{number}", "d", f"u{number % 3}", f"o{number}", None, "click", 0.5, Reason.ENGAGED, VECTOR, None,
        "s", at=100.0 + number, received_at=200.0 + number, seconds=number / 1000,
    )  # fmt: skip
    return replace(made, **changes)


def drawn(number: int, batch: str = "b") -> Pair:
    return pair(
        number, pair_id=f"n:0:a:{number}", signal=0.0, reason=Reason.RANDOM, batch=batch, seconds=None
    )


def ids(found: Any) -> list[str]:
    return [one.pair_id for one in found]


def test_a_pair_is_stored_once_and_comes_back_with_vectors_label_and_reason(pairs: PairStore):
    strange = pair(1, pair_id="e:3:\0“\n", user_id="$ü", object_id="a|b", author="x", item_vector=-VECTOR)
    bad = pair(2, signal=-0.9, reason=Reason.DISLIKED, user_vector=None)
    assert pairs.add([strange, bad]) == {strange.pair_id, bad.pair_id}
    assert pairs.add([strange, pair(3)]) == {"a:3"}
    found = {one.pair_id: one for one in pairs.between("d", 0, 1e9, vectors=True)}
    got = found[strange.pair_id]
    assert got.user_vector.tolist() == VECTOR.tolist()
    assert got.item_vector.tolist() == (-VECTOR).tolist()
    plain = {"user_vector": None, "item_vector": None}
    assert got.stored_at == pytest.approx(pairs.clock(), abs=60)
    assert vars(replace(got, **plain)) == vars(replace(strange, **plain, stored_at=got.stored_at))
    assert (got.label, found["a:2"].label, found["a:2"].user_vector) == (1, 0, None)
    assert pairs.known("d", [strange.pair_id, "a:3", "a:9"]) == {strange.pair_id, "a:3"}
    assert pairs.known("other", ["a:3"]) == set()
    assert pairs.add([]) == set()


def test_a_batch_gets_the_oldest_engagements_each_once_and_repeating_changes_nothing(pairs: PairStore):
    pairs.add([pair(number) for number in reversed(range(250))] + [drawn(1, "other")])
    assert pairs.unclaimed("d", 1_000) == 250
    assert pairs.unclaimed("d", 100) == 100
    assert pairs.unclaimed("d", 0) == 0
    assert pairs.unclaimed("nowhere", 10) == 0
    assert pairs.claim("d", "b1", 120) == 120
    assert pairs.claim("d", "b1", 120) == 120
    assert ids(pairs.of_batch("d", "b1")) == [f"a:{number}" for number in range(120)]
    assert pairs.claim("d", "b2", 500) == 130
    assert ids(pairs.of_batch("d", "b2"))[0] == "a:120"
    assert pairs.unclaimed("d", 10) == 0
    assert pairs.claim("d", "b3", 10) == 0


def test_a_claim_that_died_half_way_is_finished_by_repeating_it(pairs: PairStore, monkeypatch: Any):
    pairs.add([pair(number) for number in range(150)])

    class Died(Exception):
        pass

    def die() -> None:
        raise Died

    inner = pairs._pairs
    pairs._pairs = Gap(inner, "update_many", die)
    with pytest.raises(Died):
        pairs.claim("d", "b", 150)
    pairs._pairs = inner
    assert 0 < pairs.unclaimed("d", 200) < 150
    assert pairs.claim("d", "b", 150) == 150
    assert len(pairs.of_batch("d", "b")) == 150


def test_drawn_negatives_are_no_engagements(pairs: PairStore):
    pairs.add([pair(1, batch="b"), drawn(1), drawn(2)])
    assert ids(pairs.of_batch("d", "b")) == ["a:1"]
    assert pairs.unclaimed("d", 10) == 0
    assert ids(pairs.between("d", 0, 1e9)) == ["a:1"]
    assert pairs.counts("d", 0) == {
        Reason.ENGAGED: 1, Reason.DISLIKED: 0, Reason.SHOWN: 0, Reason.RANDOM: 2,
    }  # fmt: skip
    assert pairs.counts("d", 202)[Reason.RANDOM] == 1


def test_users_newest_engagements_come_oldest_first(pairs: PairStore):
    pairs.add([pair(number) for number in range(12)] + [drawn(0)])
    found = pairs.of_users("d", ["u0", "u1", "nobody", "u0"], until=209.0, limit=2)
    assert {user: ids(of) for user, of in found.items()} == {"u0": ["a:3", "a:6"], "u1": ["a:4", "a:7"]}
    assert pairs.of_users("d", [], 1e9, 5) == {}
    assert pairs.of_users("d", ["u0"], 1e9, 0) == {}


def test_between_two_moments_the_first_counts_and_the_last_does_not(pairs: PairStore):
    pairs.add([pair(number) for number in range(5)])
    assert ids(pairs.between("d", 201.0, 203.0)) == ["a:1", "a:2"]


def test_engagements_are_read_without_their_vectors_unless_they_are_asked_for(pairs: PairStore):
    pairs.add([pair(1, item_vector=VECTOR), drawn(1)])
    light, whole = list(pairs.between("d", 0, 1e9)), list(pairs.between("d", 0, 1e9, vectors=True))
    assert (light[0].user_vector, light[0].item_vector) == (None, None)
    assert whole[0].user_vector.tolist() == whole[0].item_vector.tolist() == VECTOR.tolist()
    plain = {"user_vector": None, "item_vector": None}
    assert vars(light[0]) == vars(replace(whole[0], **plain))


def test_engagements_received_are_counted_without_the_negatives_drawn_for_them(pairs: PairStore):
    pairs.add([pair(n) for n in range(5)] + [drawn(n) for n in range(5)])
    assert pairs.received("d", 201.0, 204.0) == 3
    assert pairs.received("d", 201.0, math.inf) == 4
    assert pairs.received("d", 201.0, math.inf, limit=2) == 2
    assert pairs.received("d", 201.0, math.inf, limit=0) == 0
    assert pairs.received("elsewhere", 0.0, math.inf) == 0


def test_what_was_stored_since_a_moment_is_found_however_long_ago_it_was_received(
    database: Database[Any],
):
    clock = Clock(1_000.0)
    pairs = PairStore(database, clock)
    pairs.add([pair(2)])
    clock.now = 2_000.0
    pairs.add([pair(1), pair(2), drawn(1)])
    pairs.add([pair(3, stored_at=1_500.0)])
    assert ids(pairs.stored_between("d", 1_000.0, 2_000.0)) == ["a:2", "a:3"]
    late = list(pairs.stored_between("d", 1_999.0, math.inf))
    assert [(one.pair_id, one.received_at, one.stored_at) for one in late] == [("a:1", 201.0, 2_000.0)]
    assert late[0].user_vector is None
    assert next(pairs.stored_between("d", 1_999.0, math.inf, vectors=True)).user_vector is not None
    assert "stored_at" not in database["training_pairs"].find_one({"reason": "random"})


def test_latencies_are_those_of_the_newest_that_have_one(pairs: PairStore):
    pairs.add([pair(number, seconds=None if number == 4 else number / 10) for number in range(6)])
    assert pairs.latencies("d", 201.0, 3) == [0.5, 0.3, 0.2]
    assert pairs.latencies("d", 0.0, 0) == []


def test_old_pairs_are_archived_without_their_vectors_but_not_before_a_batch_learned_from_them(
    pairs: PairStore,
):
    pairs.add([pair(number, batch="b") for number in range(130)] + [pair(500, received_at=1.0), drawn(1)])
    assert pairs.archive("d", before=300.0, limit=60) == 60
    assert pairs.archive("d", before=300.0) == 41  # the other 40, and the one drawn
    assert pairs.archive("d", before=300.0) == 0
    assert pairs.archive("d", 1e9, limit=0) == 0
    assert pairs.unclaimed("d", 10) == 1
    assert len(pairs.of_batch("d", "b")) == 30
    kept = list(pairs._archive.find({}))
    assert len(kept) == 101
    assert all("user_vector" not in one and one["reason"] for one in kept)
    assert pairs.known("d", ["a:3", "a:120"]) == {"a:3", "a:120"}


def test_an_archiving_that_died_half_way_is_finished_by_repeating_it(pairs: PairStore):
    pairs.add([pair(number, batch="b") for number in range(5)])

    def die() -> None:
        raise InterruptedError

    inner = pairs._archive
    pairs._archive = Gap(inner, "insert_many", die)
    with pytest.raises(InterruptedError):
        pairs.archive("d", 1e9)
    pairs._archive = inner
    assert pairs.archive("d", 1e9) == 5
    assert len(list(inner.find({}))) == 5


def test_erasing_takes_pairs_out_everywhere_also_while_they_are_archived(pairs: PairStore):
    pairs.add([pair(number, batch="b") for number in range(9)] + [pair(9, domain="e")])
    pairs.archive("d", 203.0)
    assert pairs.erase("u0") == 4  # 0, 3, 6, and 9 in the other domain
    assert pairs.erase("u0") == 0
    pairs._archive = Gap(pairs._archive, "insert_many", lambda: (inner.erase("u1"), None)[1], before=True)
    inner = PairStore(pairs._pairs.database)
    pairs.archive("d", 1e9)
    assert {one["user_id"] for one in inner._archive.find({})} == {"u2"}


def test_every_question_is_answered_by_an_index(pairs: PairStore):
    for question in (
        {"domain": "d", "open": True},
        {"domain": "d", "open": False, "received_at": {"$lt": 5.0}},
        {"domain": "d", "batch": "b", "engaged": True},
        {"domain": "d", "user_id": {"$in": ["a", "b"]}},
        {"domain": "d", "received_at": {"$gte": 1.0, "$lt": 2.0}},
        {"domain": "d", "engaged_at": {"$gte": 1.0, "$lt": 2.0}},
        {"domain": "d", "stored_at": {"$gte": 1.0, "$lt": 2.0}},
        {"user_id": "u"},
    ):
        plan = str(pairs._pairs.find(question).explain()["queryPlanner"]["winningPlan"])
        assert "IXSCAN" in plan, (question, plan)
        assert "COLLSCAN" not in plan, (question, plan)

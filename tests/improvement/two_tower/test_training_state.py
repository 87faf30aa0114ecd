import threading
from typing import Any

import pytest
from pymongo.database import Database

from improvement.two_tower.progress import MAX_REASON, LostTraining, TrainingState, TrainingStore
from tests.support import Clock

LEASE = 120.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database: Database[Any], clock: Clock) -> TrainingStore:
    return TrainingStore(database, clock)


def test_a_domain_that_was_never_trained_is_at_the_beginning(store: TrainingStore):
    assert store.of("things") == TrainingState("things")
    with store.held("things", LEASE) as hold:
        assert hold is not None
        assert hold.state == TrainingState("things")


def test_what_is_saved_is_there_for_whoever_comes_next(store: TrainingStore):
    with store.held("things", LEASE) as hold:
        assert hold is not None
        said = hold.save(head="h", batch="b", batches=1, published_at=1.5, reason="x" * 2 * MAX_REASON)
        assert said == hold.state
    with store.held("things", LEASE) as hold:
        assert hold is not None
        assert hold.state == said
        hold.save(batch=None, reason=None)
    assert store.of("things") == TrainingState("things", "h", None, 1.5, batches=1)
    assert len(said.reason or "") == MAX_REASON
    assert store.of("others") == TrainingState("others")


def test_one_worker_holds_a_domain_and_others_their_own(store: TrainingStore):
    with store.held("things", LEASE) as mine, store.held("things", LEASE) as second:
        assert mine is not None
        assert second is None
        with store.held("others", LEASE) as others:
            assert others is not None
        mine.keep()
    with store.held("things", LEASE) as again:
        assert again is not None


def test_the_lease_of_a_dead_worker_ends_and_he_cannot_write_any_more(store: TrainingStore, clock: Clock):
    with store.held("things", LEASE) as dead:
        assert dead is not None
        dead.save(batch="b")
        clock.now += LEASE - 1
        with store.held("things", LEASE) as early:
            assert early is None
        clock.now += 2
        with store.held("things", LEASE) as heir:
            assert heir is not None
            assert heir.state.batch == "b"
            for late in (dead.keep, lambda: dead.save(head="his", batch=None)):
                with pytest.raises(LostTraining):
                    late()
            assert store.of("things").head is None
            heir.save(head="mine", batch=None)
    assert store.of("things").head == "mine"


def test_a_worker_that_was_replaced_does_not_let_go_of_what_is_held_by_another(
    store: TrainingStore, clock: Clock
):
    slow = store.held("things", LEASE)
    slow.__enter__()
    clock.now += LEASE + 1
    with store.held("things", LEASE) as heir:
        assert heir is not None
        slow.__exit__(None, None, None)
        with store.held("things", LEASE) as third:
            assert third is None


def test_a_lease_that_ran_out_unnoticed_is_still_good(store: TrainingStore, clock: Clock):
    with store.held("things", LEASE) as hold:
        assert hold is not None
        clock.now += 2 * LEASE
        hold.save(head="h")
        with store.held("things", LEASE) as other:
            assert other is None


def test_keeping_on_writes_only_now_and_then(store: TrainingStore, clock: Clock, database: Database[Any]):
    def until() -> float:
        found = database["tower_training"].find_one({"_id": "things"})
        assert found is not None
        return float(found["until"])

    with store.held("things", LEASE) as hold:
        assert hold is not None
        first = until()
        clock.now += LEASE / 5
        hold.keep_on(1, 8, 0.5)
        assert until() == first
        clock.now += LEASE / 5
        hold.keep_on()
        assert until() == clock.now + LEASE
        clock.now -= 1_000  # a clock that was set back
        hold.keep_on()
        assert until() == clock.now + LEASE


def fail(store: TrainingStore) -> None:
    with store.held("things", LEASE) as hold:
        assert hold is not None
        hold.save(batch="b")
        raise RuntimeError


def test_an_error_lets_go(store: TrainingStore):
    with pytest.raises(RuntimeError):
        fail(store)
    with store.held("things", LEASE) as hold:
        assert hold is not None
        assert hold.state.batch == "b"


def test_a_field_that_is_not_there_cannot_be_saved(store: TrainingStore):
    with store.held("things", LEASE) as hold:
        assert hold is not None
        with pytest.raises(TypeError):
            hold.save(heads="h")


def test_of_many_who_want_it_at_once_one_gets_it(store: TrainingStore):
    together, got = threading.Barrier(8), []

    def want() -> None:
        together.wait()
        with store.held("things", LEASE) as hold:
            got.append(hold is not None)
            together.wait()  # nobody lets go before everybody asked

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False] * 7 + [True]

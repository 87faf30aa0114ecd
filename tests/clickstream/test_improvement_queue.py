"""Who works on what, and that nothing is lost or done twice."""

import threading
from typing import Any

import pytest
from pymongo.database import Database

from clickstream.improvement_queue import Claim, ImprovementQueue, Outcome, Owner, Request, Status
from tests.support import Clock

ANN, BOB = Owner("d", "ann"), Owner("d", "bob")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(database: Database[Any], clock: Clock) -> ImprovementQueue:
    made = ImprovementQueue(database, clock)
    made.ensure_indexes()
    return made


def request(session_id: str, owner: Owner = ANN, version: int = 1, priority: int = 1) -> Request:
    return Request(session_id, owner, version, priority)


def done(claim: Claim) -> dict[str, Outcome]:
    return {entry.entry_id: Outcome(Status.DONE) for of in claim.entries.values() for entry in of}


def claimed(claim: Claim) -> set[str | None]:
    return {entry.session_id for of in claim.entries.values() for entry in of}


def test_a_session_is_queued_once(queue: ImprovementQueue):
    queue.enqueue([request("s"), request("s")])
    queue.enqueue([request("s")])
    assert queue.counts()["pending"] == 1
    claim = queue.claim(10, 60)
    queue.finish(claim, done(claim))
    queue.enqueue([request("s")])
    assert queue.counts() == {"pending": 0, "done": 1, "skipped": 0, "failed": 0}


def test_a_session_that_changed_is_queued_again(queue: ImprovementQueue):
    queue.enqueue([request("s", version=1)])
    claim = queue.claim(10, 60)
    queue.finish(claim, done(claim))
    queue.enqueue([request("s", version=2)])
    assert queue.counts()["pending"] == 1


def test_a_failed_session_can_be_queued_again(queue: ImprovementQueue):
    queue.enqueue([request("s")])
    claim = queue.claim(10, 60)
    queue.finish(claim, {e: Outcome(Status.FAILED, "why") for e in done(claim)})
    assert queue.taught_by([ANN]) == {ANN: []}
    queue.enqueue([request("s")])
    assert queue.counts()["pending"] == 1
    assert queue.taught_by([ANN]) == {ANN: ["s"]}


def test_a_user_is_held_by_one_worker_at_a_time(queue: ImprovementQueue):
    queue.enqueue([request("s1"), request("s2", BOB)])
    first = queue.claim(1, 60)
    second = queue.claim(10, 60)
    assert claimed(first) == {"s1"}
    assert claimed(second) == {"s2"}
    queue.enqueue([request("s3")])
    assert queue.claim(10, 60).entries == {}
    queue.finish(first, done(first))
    assert claimed(queue.claim(10, 60)) == {"s3"}


def test_all_pending_sessions_of_a_claimed_user_come_along(queue: ImprovementQueue):
    queue.enqueue([request(f"s{i}") for i in range(20)])
    assert len(claimed(queue.claim(1, 60))) == 20


def test_an_expired_lease_is_taken_over(queue: ImprovementQueue, clock: Clock):
    queue.enqueue([request("s")])
    dead = queue.claim(10, 60)
    clock.now += 59
    assert queue.claim(10, 60).entries == {}
    clock.now += 2
    heir = queue.claim(10, 60)
    assert claimed(heir) == {"s"}
    assert queue.renew(dead, 60) == set()
    assert queue.renew(heir, 60) == {ANN.key}
    [entry] = heir.entries[ANN]
    assert entry.attempts == 2


def test_a_renewed_lease_is_kept(queue: ImprovementQueue, clock: Clock):
    queue.enqueue([request("s")])
    claim = queue.claim(10, 60)
    clock.now += 50
    assert queue.renew(claim, 60) == {ANN.key}
    clock.now += 50
    assert queue.claim(10, 60).entries == {}


def test_what_was_queued_again_meanwhile_stays_pending(queue: ImprovementQueue):
    queue.enqueue([request("s", version=1)])
    claim = queue.claim(10, 60)
    queue.enqueue([request("s", version=2)])
    queue.finish(claim, done(claim))
    assert queue.counts()["pending"] == 1


def test_surprising_sessions_go_first(queue: ImprovementQueue, clock: Clock):
    queue.enqueue([request("usual")])
    clock.now += 1
    queue.enqueue([request("surprising", BOB, priority=0)])
    assert claimed(queue.claim(1, 60)) == {"surprising"}


def test_forgiving_a_claim_does_not_count_the_attempt(queue: ImprovementQueue):
    queue.enqueue([request("s")])
    for _ in range(3):
        claim = queue.claim(10, 60)
        assert claim.entries[ANN][0].attempts == 1
        queue.forgive(claim, claim.entries)
        queue.give_back(claim)


def test_many_workers_claiming_at_once_share_no_user(queue: ImprovementQueue):
    queue.enqueue([request(f"s{i}", Owner("d", f"u{i % 40}")) for i in range(120)])
    claims: list[Claim] = []

    def work() -> None:
        while (claim := queue.claim(7, 60)).entries:
            claims.append(claim)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    owners = [owner for claim in claims for owner in claim.entries]
    assert len(owners) == len(set(owners)) == 40
    assert sum(len(claimed(claim)) for claim in claims) == 120


def test_four_workers_give_one_tick_per_interval(queue: ImprovementQueue, clock: Clock):
    def ticks() -> int:
        taken: list[bool] = []
        threads = [
            threading.Thread(target=lambda: taken.append(queue.take_tick("improvement", 30)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(taken)

    assert ticks() == 1
    assert ticks() == 0
    clock.now += 30
    assert ticks() == 1


def test_a_job_can_be_hurried_and_never_put_off(queue: ImprovementQueue, clock: Clock):
    queue.hurry("profiles")  # nobody took it yet: it is due as it is
    assert queue.take_tick("profiles", 7_200)
    queue.hurry("profiles", 60)
    queue.hurry("profiles", 600)
    assert not queue.take_tick("profiles", 7_200)
    clock.now += 60
    assert queue.take_tick("profiles", 7_200)
    queue.hurry("profiles")
    assert queue.take_tick("profiles", 7_200)
    queue.hurry("another")
    assert not queue.take_tick("profiles", 7_200)


def test_owners_with_confusable_ids_are_different(queue: ImprovementQueue):
    assert Owner("a", "b_c").key != Owner("a_b", "c").key
    assert Owner("d", None).key != Owner("d", "None").key


def test_erasing_removes_one_users_lines_in_every_domain_and_counts_their_sessions(
    queue: ImprovementQueue, database: Database[Any]
):
    queue.enqueue([request("a1"), request("a2", Owner("e", "ann")), request("b", BOB)])
    queue.enqueue([request("n", Owner("d", None))])
    queue.enqueue_rebuild([ANN, BOB])
    assert queue.erase("ann") == 2
    assert queue.erase("ann") == 0
    left = {(d["user_id"], d["session_id"]) for d in database["improvement_queue"].find()}
    assert left == {("bob", "b"), ("bob", None), (None, "n")}


def test_a_line_that_is_not_to_be_kept_is_gone_when_it_ended(queue: ImprovementQueue):
    queue.enqueue([request("gone"), request("kept")])
    queue.enqueue_rebuild([ANN])
    claim = queue.claim(10, 60)
    queue.finish(claim, {e: Outcome(Status.DONE, keep=e == "session:kept") for e in done(claim)})
    assert queue.entry("gone") is None
    assert queue.entry("kept") is not None
    assert queue.counts() == {"pending": 0, "done": 1, "skipped": 0, "failed": 0}


@pytest.mark.parametrize("keep", [True, False])
def test_a_line_erased_and_queued_again_meanwhile_stays_pending(queue: ImprovementQueue, keep: bool):
    queue.enqueue([request("s")])
    queue.enqueue_rebuild([ANN])
    claim = queue.claim(10, 60)
    queue.erase("ann")
    queue.enqueue([request("s")])
    queue.enqueue_rebuild([ANN])
    queue.finish(claim, {e: Outcome(Status.DONE, keep=keep) for e in done(claim)})
    assert queue.counts() == {"pending": 2, "done": 0, "skipped": 0, "failed": 0}


def test_a_claim_may_be_of_some_domains_and_is_of_what_is_most_urgent_in_them(queue: ImprovementQueue):
    for n in range(30):
        queue.enqueue([request(f"s{n}", Owner(f"d{n % 3}", f"u{n}"), priority=n // 10)])

    def first(limit: int, domains: list[str] | None) -> set[str | None]:
        claim = queue.claim(limit, 60, domains)
        queue.give_back(claim)
        return claimed(claim)

    wanted = [f"s{n}" for n in range(30) if n % 3 != 1]
    assert first(100, ["d0", "d2"]) == set(wanted)
    assert first(7, ["d0", "d2"]) == set(wanted[:7])
    assert first(7, ["d2", "nowhere", "d0", "d2"]) == set(wanted[:7])
    assert first(100, []) == first(100, ["nowhere"]) == set()
    assert first(100, None) == {f"s{n}" for n in range(30)}
    assert claimed(queue.claim(5, 60, ["d0"])) == {"s0", "s3", "s6", "s9", "s12"}
    assert first(3, ["d0"]) == {"s15", "s18", "s21"}, "whom nobody holds"


def test_who_is_put_off_goes_behind_everybody_until_asked_for_again(queue: ImprovementQueue, clock: Clock):
    users = [Owner("d", f"u{n}") for n in range(3)]
    for owner in users:
        clock.now += 1
        queue.enqueue([request(f"of {owner.user_id}", owner)])
    queue.enqueue_rebuild(users[:1])
    claim = queue.claim(1, 60)
    assert list(claim.entries) == users[:1]
    queue.put_off(claim, users[:1])
    queue.give_back(claim)
    order = []
    for _ in users:
        held = queue.claim(1, 60)
        order += list(held.entries)
    assert order == [users[1], users[2], users[0]]
    queue._leases.delete_many({})
    queue.requeue(["of u0"])
    assert list(queue.claim(1, 60).entries) == users[:1]


def test_a_worker_holds_a_user_until_it_gives_them_back(queue: ImprovementQueue):
    queue.enqueue([request("s")])
    assert queue.held([ANN, BOB]) == set()
    claim = queue.claim(10, 60)
    assert queue.held([ANN, BOB]) == {ANN}
    queue.finish(claim, done(claim))
    assert queue.held([ANN, BOB]) == queue.held([]) == set()


def test_queueing_again_can_leave_alone_what_failed(queue: ImprovementQueue):
    outcomes = {"s1": Status.DONE, "s2": Status.SKIPPED, "s3": Status.FAILED}
    queue.enqueue([request(session_id) for session_id in outcomes])
    claim = queue.claim(10, 60)
    queue.finish(claim, {f"session:{s}": Outcome(status) for s, status in outcomes.items()})
    queue.requeue([*outcomes, "never queued"], failed=False)
    assert queue.counts() == {"pending": 2, "done": 0, "skipped": 0, "failed": 1}
    queue.requeue(outcomes)
    assert queue.counts()["pending"] == 3


def test_how_far_a_job_has_come_is_remembered_beside_its_tick(queue: ImprovementQueue, clock: Clock):
    assert queue.reached("sweep") is None
    assert queue.take_tick("sweep", 60)
    assert queue.reached("sweep") is None
    queue.reach("sweep", 12.5)
    assert queue.reached("sweep") == 12.5
    clock.now += 61
    assert queue.take_tick("sweep", 60)
    assert (queue.reached("sweep"), queue.reached("another")) == (12.5, None)

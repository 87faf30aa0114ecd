"""Copies are bounded: a user keeps the most useful, and what old sessions taught goes."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
from pymongo.database import Database

from clickstream import store
from clickstream.improvement_queue import ImprovementQueue, Owner, Request
from clickstream.store import ClickstreamStore
from improvement.domain import SearchDomain
from improvement.evidence import DAY
from improvement.improver import Improver
from improvement.jobs import run_improvement
from improvement.periodic import RETRY_SECONDS, sweep_expired
from improvement.quality.settings import CopyLimits
from improvement.wiring import Rooms, improver
from tests.support import Clock, Gap, click, make_objects, make_session

DAYS = 30


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return replace(domain, copies=CopyLimits(per_user=1_000, expire_days=DAYS))


@dataclass
class World:
    """Users who search, and a clock that everything goes by."""

    rooms: Rooms
    domain: SearchDomain
    clock: Clock

    @property
    def improver(self) -> Improver:
        made = improver(self.rooms)
        return replace(made, clock=self.clock, domains={self.domain.name: self.domain})

    def search(self, session_id: str, user: str, shown: list[int], clicked: list[int]) -> None:
        session = make_session(
            session_id, user, [f"o{n}" for n in shown], domain=self.domain.name,
            created_at=int(self.clock.now) - 60,
        )  # fmt: skip
        self.rooms.clickstream.register(session)
        made_at = int(self.clock.now) - 30
        events = [click(f"o{n}").model_copy(update={"created_at": made_at}) for n in clicked]
        self.rooms.clickstream.push_events([(session_id, event) for event in events])
        version = self.rooms.clickstream.version(session_id) or 1
        self.rooms.queue.enqueue([Request(session_id, Owner(self.domain.name, user), version)])

    def improve(self) -> int:
        return run_improvement(self.improver, 100, idle_seconds=1e9)

    def copies(self, *users: str) -> set[tuple[str, str]]:
        blue = self.rooms.releases.blue(self.domain.name).collection_id
        found = self.rooms.vectors.copies(blue, list(users) or ["ann", "bob", "cid"])
        return {(copy.user_id, copy.original_id) for copy in found}

    def status(self, session_id: str) -> tuple[str, str | None]:
        entry = self.rooms.queue.entry(session_id)
        assert entry is not None
        return entry.status.value, entry.reason

    def pass_days(self, days: float) -> None:
        self.clock.now += days * DAY


@pytest.fixture
def world(rooms: Rooms, domain: SearchDomain, database: Database[Any]) -> World:
    rooms.vectors.upsert(rooms.releases.blue(domain.name).collection_id, make_objects(domain, 12))
    clock = Clock()
    stores = {"clickstream": ClickstreamStore(database, clock), "queue": ImprovementQueue(database, clock)}
    return World(replace(rooms, **stores), domain, clock)


# How many


def test_a_user_keeps_the_copies_of_what_their_sessions_say_most_of(world: World):
    world.search("s1", "ann", [0, 1, 2, 3, 4], [4])  # the click counts 1, each of the four others 1/4
    world.search("s2", "ann", [4, 5, 6], [6])  # 1, and 1/2
    world.search("s3", "bob", [0, 1], [1])
    world.improve()
    assert len(world.copies("ann")) == 7
    order = ["o4", "o6", "o5", "o0", "o1", "o2", "o3"]
    for most in (1, 2, 3, 4, 6):
        world.domain = replace(world.domain, copies=CopyLimits(per_user=most))
        world.rooms.queue.enqueue_rebuild([Owner(world.domain.name, user) for user in ("ann", "bob")])
        world.improve()
        assert world.copies("ann") == {("ann", o) for o in order[:most]}
        assert world.copies("bob") == {("bob", o) for o in ("o0", "o1")[:most]}


def test_what_is_kept_is_made_of_the_same_evidence_as_if_all_were(world: World):
    world.search("s1", "ann", [0, 1, 2, 3], [3])
    world.improve()
    blue = world.rooms.releases.blue(world.domain.name).collection_id
    [before] = world.rooms.vectors.named(blue, ["o3_ann"])
    world.rooms.vectors.erase(blue, ["ann"])
    world.domain = replace(world.domain, copies=CopyLimits(per_user=1))
    world.rooms.queue.enqueue_rebuild([Owner(world.domain.name, "ann")])
    world.improve()
    [after] = world.rooms.vectors.named(blue, ["o3_ann"])
    assert (after.revision, after.parts.tobytes()) == (before.revision, before.parts.tobytes())


# How long


def test_an_old_session_teaches_no_copy_and_says_why(world: World):
    world.search("old", "ann", [0, 1], [1])
    world.pass_days(DAYS + 1)
    world.search("new", "ann", [1, 2], [2])
    world.improve()
    assert world.status("old") == ("skipped", f"registered more than {DAYS} days ago")
    assert world.copies() == {("ann", "o1"), ("ann", "o2")}


def test_what_expired_goes_of_users_who_never_come_back(world: World):
    world.search("a", "ann", [0, 1], [1])
    world.pass_days(10)
    world.search("b", "ann", [1, 2], [2])
    world.search("c", "bob", [3, 4], [4])
    world.improve()
    assert world.copies() == {
        (u, f"o{n}") for u, n in [("ann", 0), ("ann", 1), ("ann", 2), ("bob", 3), ("bob", 4)]
    }
    world.pass_days(DAYS - 10 + 0.5)
    world.improve()
    assert world.copies() == {("ann", "o1"), ("ann", "o2"), ("bob", "o3"), ("bob", "o4")}
    assert world.status("a")[0] == "skipped"
    world.pass_days(10)
    world.improve()
    assert world.copies() == set()
    assert world.rooms.queue.counts()["pending"] == 0


def test_without_a_limit_nothing_expires(world: World):
    world.domain = replace(world.domain, copies=CopyLimits(expire_days=None))
    world.search("a", "ann", [0, 1], [1])
    world.improve()
    world.pass_days(100_000)
    world.rooms.queue.enqueue_rebuild([Owner(world.domain.name, "ann")])
    world.improve()
    assert len(world.copies()) == 2


def test_a_sweep_is_daily_and_queues_what_was_queued_before(world: World):
    for n in range(3):
        world.search(f"s{n}", "ann", [0, 1, 2], [n])
    world.search("no clicks", "bob", [0, 1], [])
    world.search("not asked", "cid", [0, 1], [0])
    world.rooms.queue.erase("cid")
    world.improve()

    def pending() -> int:
        return world.rooms.queue.counts()["pending"]

    world.pass_days(DAYS + 0.5)
    sweep_expired(world.improver, world.domain)
    assert pending() == 4
    sweep_expired(world.improver, world.domain)
    world.improve()
    assert pending() == 0
    for _ in range(3):
        world.pass_days(1)
        sweep_expired(world.improver, world.domain)
        assert pending() == 0


def test_a_session_that_failed_is_not_tried_again_for_being_old(world: World):
    world.search("s", "ann", [0, 1], [1])
    entries = world.rooms.queue._entries
    entries.update_many({}, {"$set": {"status": "failed", "reason": "it kills workers"}})
    world.pass_days(DAYS + 2)
    world.improve()
    assert world.status("s") == ("failed", "it kills workers")


def test_more_sessions_than_a_page_registered_at_one_instant_all_expire(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(store, "HISTORY_PAGE", 3)
    users = [f"u{n}" for n in range(8)]
    for user in users:
        world.search(f"of {user}", user, [0, 1], [1])
    world.improve()
    assert len(world.copies(*users)) == 16
    world.pass_days(DAYS + 0.1)
    world.improve()
    assert world.copies(*users) == set()


def crash() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("method", ["requeue", "reach", "reached"])
def test_a_sweep_that_dies_anywhere_is_done_by_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch, method: str, before: bool
):
    monkeypatch.setattr(store, "HISTORY_PAGE", 3)
    users = [f"u{n}" for n in range(8)]
    for user in users:
        world.search(f"of {user}", user, [0, 1], [1])
        world.clock.now += 1
    world.improve()
    world.pass_days(DAYS)
    dying: Any = Gap(world.rooms.queue, method, crash, before)
    with pytest.raises(KeyboardInterrupt):
        sweep_expired(replace(world.improver, queue=dying), world.domain)
    world.improve()
    world.clock.now += RETRY_SECONDS + 1
    world.improve()
    assert world.copies(*users) == set()


def test_a_sweep_that_was_killed_is_done_the_next_day(world: World):
    world.search("s", "ann", [0, 1], [1])
    world.improve()
    world.pass_days(DAYS)
    world.rooms.queue.take_tick(f"expired {world.domain.name}", DAY)  # and there it dies
    world.improve()
    assert world.copies()
    world.pass_days(1.1)
    world.improve()
    assert not world.copies()


def test_a_user_improved_by_a_clock_that_is_behind_is_swept_again(world: World):
    world.search("s", "ann", [0, 1], [1])
    world.pass_days(DAYS + 0.01)
    sweep_expired(world.improver, world.domain)
    behind = replace(world.improver, clock=lambda: world.clock.now - 0.02 * DAY)
    run_improvement(behind, 10, idle_seconds=1e9)
    assert world.copies()
    world.pass_days(1.1)
    world.improve()
    assert not world.copies()


def test_what_expires_later_or_sooner_by_new_settings_is_swept_by_them(world: World):
    world.search("s", "ann", [0, 1], [1])
    world.improve()
    world.pass_days(10)
    world.domain = replace(world.domain, copies=CopyLimits(expire_days=5.0))
    world.improve()
    assert not world.copies()
    world.domain = replace(world.domain, copies=CopyLimits(expire_days=20.0))
    world.rooms.queue.enqueue_rebuild([Owner(world.domain.name, "ann")])
    world.pass_days(2)
    world.improve()
    assert world.copies(), "it is young enough now"
    world.pass_days(10)
    world.improve()
    assert not world.copies()


def test_profiles_keep_what_copies_forget(world: World):
    world.search("s", "ann", [0, 1], [1])
    world.improve()
    said = world.rooms.profiles.load(world.domain.name, ["ann"])["ann"].searched
    assert said
    world.pass_days(DAYS + 1)
    world.improve()
    assert not world.copies()
    assert world.rooms.profiles.load(world.domain.name, ["ann"])["ann"].searched == said

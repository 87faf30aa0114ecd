"""Erasing a user, at rest and while everybody is at work: afterwards nothing names them."""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import pytest
from pymongo.collection import Collection
from pymongo.database import Database
from redis import Redis

from clickstream.improvement_queue import Owner, Request
from clickstream.records import Action
from improvement.domain import SearchDomain
from improvement.embedded import free_port
from improvement.erasure import erase_user
from improvement.errors import Unavailable
from improvement.evidence import EvidenceWeights
from improvement.improver import Improver
from improvement.jobs import improve_users, run_improvement, sweep_idle
from improvement.objects import Object
from improvement.profiles.cache import MemoryCache, RedisCache
from improvement.profiles.live import LiveProfiles
from improvement.profiles.settings import ProfileSettings
from improvement.profiles.store import ProfileStore
from improvement.promotion import rebuild_all
from improvement.routes import catalogue
from improvement.wiring import Rooms, improver
from tests.support import Gap, click, make_object, make_objects, make_session

NOTHING = {
    "sessions": 0, "events": 0, "actions": 0, "queue": 0, "profiles": 0, "neighbours": 0, "copies": 0,
    "towers": 0,
}  # fmt: skip


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return replace(
        domain, evidence=EvidenceWeights(), profiles=ProfileSettings(min_interactions=1, interests=2)
    )


@dataclass
class World:
    """A service at work, and everything that its stores hold."""

    rooms: Rooms
    domain: SearchDomain
    database: Database[Any]
    originals: list[Object]

    @property
    def live(self) -> LiveProfiles:
        rooms = self.rooms
        return LiveProfiles(
            rooms.profiles, rooms.actions, rooms.vectors, rooms.releases, rooms.domains, rooms.learning
        )

    @property
    def blue(self) -> str:
        return self.rooms.releases.blue(self.domain.name).collection_id

    def search(self, user: str | None, session_id: str) -> None:
        shown = ["o0", "o1", "o2"]
        self.rooms.clickstream.register(make_session(session_id, user, shown, domain=self.domain.name))
        self.rooms.clickstream.push_events([(session_id, click("o1"))])

    def ask(self, user: str | None, session_id: str) -> None:
        version = self.rooms.clickstream.version(session_id) or 1
        self.rooms.queue.enqueue([Request(session_id, Owner(self.domain.name, user), version)])

    def act(self, user: str, *objects: str) -> None:
        self.live.push(self.actions(user, *objects))

    def actions(self, user: str, *objects: str) -> list[Action]:
        return [
            Action(
                action_id=f"like {o}",
                user_id=user,
                object_id=o,
                action_type="like_post",
                domain=self.domain.name,
            )
            for o in objects
        ]

    def teach(self, user: str, session_id: str) -> None:
        """Have a user search, click and like, and everything be made of it."""
        self.search(user, session_id)
        self.ask(user, session_id)
        self.act(user, "o3", "o4")
        self.improve()
        self.later()

    def improve(self) -> None:
        run_improvement(improver(self.rooms), 10, idle_seconds=1e9)

    def later(self) -> None:
        """Run the batch of profiles as if a while had passed."""
        a_while = replace(self.rooms.batch, clock=lambda: time.time() + 1_000)
        store = self.rooms.profiles
        clock, store._clock = store._clock, lambda: time.time() + 900
        a_while.run(self.domain)
        store._clock = clock

    def settle(self) -> None:
        """Have everything be done that is waiting."""
        self.improve()
        self.later()
        assert self.rooms.queue.counts()["pending"] == 0

    def erase(self, user: str) -> dict[str, int]:
        return erase_user(self.rooms, user).as_json()

    def traces(self, user: str) -> list[str]:
        """Return everything in any store that names a user."""
        names = [user, quote(user, safe="")]
        found = []
        for name in self.database.list_collection_names():
            found += [f"{name}: {document}" for document in self.database[name].find()]
        client = self.rooms.vectors._client
        for collection in client.get_collections().collections:
            points, more = client.scroll(collection.name, limit=10_000, with_payload=True)
            assert more is None
            found += [f"{collection.name}: {point.payload}" for point in points]
        cache = self.rooms.profiles._cache
        if isinstance(cache, MemoryCache):
            found += [f"cached: {profile}" for profile in cache._profiles.values()]
            found += [f"cache: {key}" for key in [*cache._profiles, *cache._erased]]
        else:
            for key in cache._client.keys("*"):
                found += [f"redis: {key.decode()}: {cache._client.get(key)}"]
        return [one for one in found if any(f"{name}'" in one or f"{name}:" in one for name in names)]

    def forgotten(self, user: str, when: str = "") -> None:
        left = self.traces(user)
        assert not left, f"{when}: {left}"

    def whole(self, user: str) -> dict[str, Any]:
        """Return what a user has, to compare."""
        profile = self.rooms.profiles.load(self.domain.name, [user])[user]
        copies = self.rooms.vectors.copies(self.blue, [user])
        return {
            "copies": sorted((copy.original_id, copy.revision) for copy in copies),
            "seen": profile.profile.seen,
            "searched": len(profile.searched),
            "recent": [one.object_id for one in profile.recent],
            "settled": profile.announced == profile.applied,
        }


@pytest.fixture
def world(rooms: Rooms, domain: SearchDomain, database: Database[Any]) -> World:
    originals = make_objects(domain, 8)
    world = World(rooms, domain, database, originals)
    rooms.vectors.upsert(world.blue, originals)
    return world


def in_redis(world: World, client: Redis) -> World:
    """The same world, with profiles cached in Redis."""
    client.flushdb()
    profiles = ProfileStore(world.database, RedisCache(client, world.domain.name))
    batch = replace(world.rooms.batch, profiles=profiles)
    return replace(world, rooms=replace(world.rooms, profiles=profiles, batch=batch))


def between(
    world: World, room: str, method: str, act: Callable[[], None], before: bool
) -> tuple[Improver, Gap]:
    """Return a worker in whose way somebody steps, before or after it calls a method of a room."""
    gap: Any = Gap(getattr(world.rooms, room), method, act, before)
    worker = improver(world.rooms)
    if room in ("profiles", "neighbours"):
        return replace(worker, batch=replace(world.rooms.batch, **{room: gap})), gap
    return replace(worker, **{room: gap}), gap


#: What erasing calls, in order.
ERASURE = [
    ("profiles", "erase"), ("actions", "erase"), ("profiles", "mark_user"), ("neighbours", "erase"),
    ("clickstream", "erase"), ("queue", "erase"), ("vectors", "erase"), ("queue", "enqueue_rebuild"),
]  # fmt: skip


def moments(world: World, act: Callable[[], None]) -> Iterator[tuple[str, str, Rooms]]:
    """Yield a user, a name and rooms for each moment of an erasure at which something happens."""
    for i, (room, method, before) in enumerate((r, m, b) for r, m in ERASURE for b in (True, False)):
        gap: Any = Gap(getattr(world.rooms, room), method, act, before)
        yield (
            f"ann{i}",
            f"{'before' if before else 'after'} {room}.{method}",
            replace(world.rooms, **{room: gap}),
        )


def test_erasing_removes_one_user_everywhere_says_what_there_was_and_touches_nobody_else(world: World):
    green = world.rooms.releases.create(world.domain, "v2").collection_id
    for user in ("ann", "bob"):
        world.teach(user, f"session of {user[0]}")
        copy = make_object(f"o5_{user}", world.originals[5].parts, user_id=user, original_id="o5")
        world.rooms.vectors.upsert(green, [copy])
    world.search("ann", "never queued")
    world.rooms.profiles.get("ann", world.domain.name)
    before = world.whole("bob")
    copies = len(world.rooms.vectors.copies(world.blue, ["ann"]))
    assert copies > 0
    assert len(world.traces("ann")) > 10
    assert world.erase("ann") == {
        "sessions": 2, "events": 2, "actions": 2, "queue": 1, "profiles": 1, "neighbours": 1,
        "copies": copies + 1, "towers": 0,
    }  # fmt: skip
    assert world.erase("ann") == NOTHING
    world.settle()
    world.forgotten("ann")
    assert world.whole("bob") == before
    assert world.rooms.vectors.copies(green, ["bob"])
    assert world.rooms.clickstream.session("session of b").events
    assert world.rooms.queue.entry("session of b").status == "done"
    assert world.erase("ann") == world.erase("nobody") == NOTHING


def test_nothing_of_an_erased_user_is_in_redis(world: World, redis_url: str):
    with Redis.from_url(redis_url) as client:
        world = in_redis(world, client)
        for user in ("a:b", "a"):
            world.teach(user, f"session {len(user)}")
            world.rooms.profiles.get(user, world.domain.name)
        assert client.exists("user:a%3Ab:embedding")
        world.erase("a:b")
        world.settle()
        world.forgotten("a:b")
        assert client.exists("user:a:embedding")


def test_a_cache_that_is_away_is_said_and_erasing_again_completes_it(world: World, redis_url: str):
    with Redis.from_url(redis_url) as client:
        world = in_redis(world, client)
        world.teach("ann", "s")
        world.rooms.profiles.get("ann", world.domain.name)
        world.rooms.profiles._cache._client = Redis(port=free_port(), retry=None)
        with pytest.raises(Unavailable, match="cache"):
            world.erase("ann")
        world.rooms.profiles._cache._client = client
        world.erase("ann")
        world.settle()
        world.forgotten("ann")


def test_an_erasure_that_died_half_way_is_completed_by_the_next(world: World):
    def die() -> None:
        raise ConnectionError("the store is away")

    for user, when, rooms in moments(world, die):
        world.search(user, when)
        world.ask(user, when)
        world.act(user, "o3")
        world.improve()
        world.search(user, f"{when} again")
        with pytest.raises(ConnectionError):
            erase_user(rooms, user)
        world.settle()
        world.erase(user)
        world.settle()
        world.forgotten(user, when)


def test_store_calls_do_not_grow_with_what_the_user_did(world: World, monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []
    for name in ("find", "bulk_write", "delete_many", "update_many"):
        real = getattr(Collection, name)

        def counted(self: Any, *args: Any, _name: str = name, _real: Any = real, **kwargs: Any) -> Any:
            calls.append(f"{self.name}.{_name}")
            return _real(self, *args, **kwargs)

        monkeypatch.setattr(Collection, name, counted)

    def erased(sessions: int) -> list[str]:
        for i in range(sessions):
            world.search("ann", f"s{i}")
            world.ask("ann", f"s{i}")
        world.act("ann", *[f"o{i % 8}" for i in range(sessions)])
        calls.clear()
        world.erase("ann")
        return list(calls)

    few, many = erased(1), erased(40)
    assert few == many
    assert len(few) < 20


#: What a worker calls while it improves users, in order.
WORKER = [
    ("queue", "claim"), ("queue", "taught_by"), ("clickstream", "sessions"), ("releases", "world"),
    ("clickstream", "save_query_vectors"), ("vectors", "find"), ("vectors", "copies"), ("queue", "renew"),
    ("vectors", "upsert"), ("vectors", "delete_copies"), ("vectors", "revisions"),
    ("profiles", "put_searched"), ("profiles", "load"), ("neighbours", "put"), ("profiles", "rebuild"),
    ("neighbours", "drop"), ("queue", "enqueue_rebuild"), ("queue", "forgive"), ("queue", "finish"),
]  # fmt: skip


@pytest.mark.parametrize("lease", ["held", "lost"])
def test_a_worker_leaves_nothing_of_a_user_who_is_erased_at_any_moment_of_its_work(world: World, lease: str):
    world.search("bob", "bob's")
    for i, (room, method, before) in enumerate((r, m, b) for r, m in WORKER for b in (True, False)):
        user, when = f"ann{i}", f"{'before' if before else 'after'} {room}.{method}"
        world.search(user, f"s{i}")
        world.ask(user, f"s{i}")
        world.act(user, "o5")
        world.rooms.queue.requeue(["bob's"])
        world.ask("bob", "bob's")

        def erase(user: str = user) -> None:
            if lease == "lost":
                world.rooms.queue._leases.delete_many({})
            world.erase(user)
            if lease == "lost":  # and somebody else does the rebuild before this worker goes on
                world.improve()

        worker, gap = between(world, room, method, erase, before)
        improve_users(worker, 10)
        assert gap.acted, when
        world.settle()
        world.forgotten(user, when)
    assert world.whole("bob")["copies"], "who was improved beside them"
    assert world.rooms.queue.entry("bob's").status == "done"


#: What a batch of profiles calls, in order.
BATCH = [
    ("profiles", "due_pages"), ("actions", "of_users"), ("releases", "serving"), ("vectors", "means"),
    ("neighbours", "put"), ("neighbours", "drop"), ("profiles", "rebuild"), ("profiles", "drop"),
]  # fmt: skip


def test_a_batch_of_profiles_leaves_nothing_of_a_user_who_is_erased_at_any_moment_of_it(world: World):
    for i, (room, method, before) in enumerate((r, m, b) for r, m in BATCH for b in (True, False)):
        user, when = f"ann{i}", f"{'before' if before else 'after'} {room}.{method}"
        world.act(user, "o5", "o6")
        world.act("bob", "o5")
        world.rooms.profiles.mark([Owner(world.domain.name, one) for one in (user, "bob")])

        def erase_and_improve(user: str = user) -> None:
            world.erase(user)
            world.improve()

        gap: Any = Gap(getattr(world.rooms, room), method, erase_and_improve, before)
        replace(world.rooms.batch, **{room: gap}).run(world.domain)
        assert gap.acted, when
        world.settle()
        world.forgotten(user, when)
    assert world.whole("bob")["recent"] == ["o5"]


#: What taking actions calls, in order.
LIVE = [
    ("profiles", "announce"), ("actions", "push"), ("releases", "serving"), ("vectors", "means"),
    ("profiles", "get"), ("profiles", "load"), ("actions", "take_back"), ("profiles", "apply"),
]  # fmt: skip


def test_actions_announced_before_an_erasure_leave_nothing_whenever_they_are_logged(world: World):
    moments = [(r, m, b) for r, m in LIVE for b in (True, False)]
    for i, (room, method, before) in enumerate(moments[1:]):  # before the announcement: a user who comes back
        for others in ([], ["bob"]):  # one user alone is looked up in another way
            user, when = f"ann{i}{others}", f"{'before' if before else 'after'} {room}.{method} {others}"
            world.act(user, "o5")
            gap: Any = Gap(getattr(world.rooms, room), method, lambda user=user: world.erase(user), before)
            live = replace(world.live, **{room: gap})
            live.push([action for one in [user, *others] for action in world.actions(one, "o6", "o7")])
            assert gap.acted or method in ("get", "load"), when
            if not gap.acted:
                world.erase(user)
            world.settle()
            world.forgotten(user, when)
    assert world.whole("bob")["recent"] == ["o6", "o7"]


def test_a_worker_or_a_batch_that_runs_in_the_middle_of_an_erasure_leaves_nothing(world: World):
    def work() -> None:
        world.improve()
        world.later()

    for user, when, rooms in moments(world, work):
        for queued in ("q", "r"):
            world.search(user, f"{queued} {when}")
            world.ask(user, f"{queued} {when}")
        world.act(user, "o5")
        erase_user(rooms, user)
        world.settle()
        world.forgotten(user, when)


def test_what_a_user_does_while_being_erased_is_logged_and_in_the_profile_or_neither(world: World):
    user = ""

    def act() -> None:
        world.act(user, "o7")

    for user, when, rooms in moments(world, act):
        world.act(user, "o5", "o6")
        erase_user(rooms, user)
        world.settle()
        logged = [action.object_id for action in world.rooms.actions.of_user(user, world.domain.name)]
        assert logged in ([], ["o7"]), when
        if logged:
            assert world.whole(user)["recent"] == logged, when
        else:
            world.forgotten(user, when)


def test_a_sweep_that_read_the_sessions_before_queues_nothing_that_stays(world: World):
    for i, (room, method, before) in enumerate(
        [
            ("clickstream", "idle_sessions", False), ("queue", "enqueue", True), ("queue", "enqueue", False),
            ("queue", "requeue", True), ("queue", "requeue", False), ("clickstream", "mark_swept", True),
        ]
    ):  # fmt: skip
        user = f"ann{i}"
        world.search(user, f"s{i}")
        world.rooms.clickstream.register(
            make_session(f"unusable {i}", user, ["o0"], domain=world.domain.name)
        )
        world.ask(user, f"unusable {i}")
        world.improve()
        world.rooms.clickstream.push_events([(f"unusable {i}", click("elsewhere"))])
        worker, gap = between(world, room, method, lambda user=user: world.erase(user), before)
        sweep_idle(worker, idle_seconds=-1)
        assert gap.acted
        world.settle()
        world.forgotten(user, f"{room}.{method}")


def test_whoever_asks_late_for_an_erased_users_session_leaves_no_line(world: World):
    for user, session_id in (("ann", "s"), (None, "t")):
        world.search(user, session_id)
        if user:
            world.erase(user)
        else:
            world.rooms.clickstream._sessions.delete_one({"_id": session_id})
        world.rooms.queue.enqueue([Request(session_id, Owner(world.domain.name, user), 3)])
        world.settle()
        assert world.rooms.queue.entry(session_id) is None
    world.forgotten("ann")
    assert world.database["improvement_queue"].count_documents({}) == 0


def test_rebuilds_queued_for_users_who_were_read_before_leave_no_line(world: World):
    world.teach("ann", "s")
    queue: Any = Gap(world.rooms.queue, "owners", lambda: world.erase("ann"), before=False)
    rebuild_all(world.rooms.releases, queue, world.rooms.profiles, world.domain.name)
    world.settle()
    world.forgotten("ann", "after a promotion")
    world.teach("eve", "t")
    vectors: Any = Gap(world.rooms.vectors, "copies_of", lambda: world.erase("eve"), before=False)
    writer = catalogue(replace(world.rooms, vectors=vectors), world.domain)
    writer.upsert([make_object("o1", world.originals[2].parts)], world.domain.encoder.model_id)
    world.settle()
    world.forgotten("eve", "after an object changed")


def test_a_rebuild_is_kept_while_its_user_has_sessions(world: World):
    world.teach("ann", "s")
    world.rooms.queue.enqueue_rebuild([Owner(world.domain.name, "ann")])
    world.settle()
    assert world.rooms.queue.counts()["done"] == 2


def test_copies_written_to_a_collection_that_is_green_by_then_are_deleted(world: World):
    world.search("ann", "s")
    world.ask("ann", "s")
    green = world.rooms.releases.create(world.domain, "v2").collection_id
    world.rooms.vectors.upsert(green, world.originals)

    def promote_and_erase() -> None:
        world.rooms.releases.set_blue(world.domain.name, "v2")
        world.erase("ann")

    worker, _ = between(world, "vectors", "upsert", promote_and_erase, before=True)
    improve_users(worker, 10)
    assert any("user_id" in one for one in world.traces("ann")), "the worker wrote after the erasure"
    world.settle()
    world.forgotten("ann")


def test_an_ended_line_cannot_be_mistaken_for_one_queued_after_the_erasure(world: World):
    world.search("ann", "s")
    world.ask("ann", "s")

    def erase_and_queue_again() -> None:
        world.erase("ann")
        world.rooms.queue.enqueue([Request("s", Owner(world.domain.name, "ann"), 2)])

    worker, _ = between(world, "vectors", "upsert", erase_and_queue_again, before=True)
    improve_users(worker, 10)
    world.settle()
    world.forgotten("ann")


@pytest.mark.parametrize("before", [True, False])
def test_a_page_for_a_session_that_is_erased_meanwhile_is_not_stored(world: World, before: bool):
    world.search("ann", "s")
    store = world.rooms.clickstream
    sessions = store._sessions

    def erase() -> None:
        store._sessions = sessions
        world.erase("ann")

    store._sessions = Gap(sessions, "find", erase, before)
    store.register(make_session("s", "ann", ["o7"], domain=world.domain.name))
    assert store._sessions is sessions
    world.settle()
    world.forgotten("ann")


def test_an_erased_user_who_comes_back_is_a_new_user(world: World):
    world.teach("ann", "s")
    world.erase("ann")
    world.search("ann", "again")
    world.ask("ann", "again")
    world.act("ann", "o3")
    world.settle()
    whole = world.whole("ann")
    assert (whole["recent"], whole["searched"], whole["settled"]) == (["o3"], 2, True)
    assert world.rooms.queue.entry("again").status == "done"
    assert world.rooms.clickstream.session("s") is None
    assert world.rooms.profiles.get("ann", world.domain.name).seen


def test_any_id_is_erased_and_no_similar_one(world: World):
    ids = [
        "a.b$c", "%", "ann", "ann_1", "ann2", "Ann", " ann", "日本/…", "'\"\\", "None", "\n", "\0", "*", ".*",
    ]  # fmt: skip
    for number, user in enumerate(ids):
        world.search(user, f"s{number}")
        world.act(user, "o1")
    for number, user in enumerate(ids):
        assert world.erase(user)["sessions"] == 1
        left = [world.rooms.clickstream.session(f"s{n}") is not None for n in range(len(ids))]
        assert left == [n > number for n in range(len(ids))], user
        for other in ids[number + 1 :]:
            assert world.rooms.profiles.get(other, world.domain.name) is not None
            assert len(world.rooms.actions.of_user(other, world.domain.name)) == 1


def test_while_workers_and_users_are_busy_the_erased_leave_nothing_and_the_others_lose_nothing(world: World):
    users = [f"user {i}." for i in range(12)]
    erased, kept = users[:8], users[8:]
    alive, lock, stop = set(users), threading.Lock(), threading.Event()
    errors: list[BaseException] = []
    numbers = iter(range(10**6))

    def busy(step: Callable[[random.Random], None], seed: int) -> threading.Thread:
        def run() -> None:
            chance = random.Random(seed)
            while not stop.is_set():
                try:
                    step(chance)
                except BaseException as error:
                    errors.append(error)
                    return

        return threading.Thread(target=run)

    class Announcing:
        """Lets nobody start to act who is being erased; whoever started goes on."""

        def __getattr__(self, name: str) -> Any:
            return getattr(world.rooms.profiles, name)

        def announce(self, owners: Sequence[Owner]) -> None:
            with lock:
                if all(owner.user_id in alive for owner in owners):
                    world.rooms.profiles.announce(owners)
                    return
            raise KeyError("erased")

    live = replace(world.live, profiles=Announcing())  # type: ignore[arg-type]

    def push(chance: random.Random) -> None:
        number = next(numbers)
        actions = [
            Action(action_id=f"{number}", user_id=user, object_id=f"o{number % 8}", action_type="like_post",
                   domain=world.domain.name)
            for user in chance.sample(users, 2)
        ]  # fmt: skip
        with contextlib.suppress(KeyError):
            live.push(actions)

    def search(chance: random.Random) -> None:
        user, session_id = chance.choice(users), f"session {next(numbers)}"
        with lock:
            if user not in alive:
                return
            world.rooms.clickstream.register(
                make_session(session_id, user, ["o0", "o1", "o2"], domain=world.domain.name)
            )
        world.rooms.clickstream.push_events([(session_id, click("o1"))])
        world.ask(user, session_id)

    def work(chance: random.Random) -> None:
        run_improvement(improver(world.rooms), 4, idle_seconds=-1)
        world.rooms.batch.run(world.domain)

    steps = [push, push, search, search, work, work]
    threads = [busy(step, seed) for seed, step in enumerate(steps)]
    for thread in threads:
        thread.start()
    for user in erased:
        time.sleep(0.25)
        with lock:
            alive.discard(user)
        world.erase(user)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors, errors
    world.settle()
    for user in erased:
        world.forgotten(user)
    for user in kept:
        whole = world.whole(user)
        logged = world.rooms.actions.of_user(user, world.domain.name)
        assert whole["settled"]
        assert sorted(whole["recent"]) == sorted(action.object_id for action in logged)
        assert (len(whole["copies"]) > 0) == (whole["searched"] > 0)

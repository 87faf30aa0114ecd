"""catch_up: whatever was logged and not learned is learned, once, and in bounded steps."""

import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from clickstream.records import SessionEvent
from improvement.domain import SearchDomain
from improvement.improver import Improver
from improvement.two_tower import catching_up
from improvement.two_tower.catching_up import LOOK_BACK
from improvement.wiring import Rooms, improver
from tests.improvement.two_tower.living import World, with_towers
from tests.support import Calls, Gap, make_session


def catch_up(worker: Improver, domain: SearchDomain) -> int:
    """Catch up also with what was received just now."""
    return catching_up.catch_up(worker, domain, settled=0.0)


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return with_towers(domain)


@pytest.fixture
def world(rooms: Rooms, domain: SearchDomain) -> World:
    return World(rooms, domain)


@pytest.fixture
def worker(rooms: Rooms) -> Improver:
    return improver(rooms)


def like(object_id: str, event_id: str = "e") -> SessionEvent:
    return SessionEvent(event_id=event_id, object_id=object_id, event_type="like")


def test_what_live_learning_missed_is_learned_once_and_its_pairs_say_no_seconds(
    world: World, worker: Improver
):
    world.serve("first")
    received = world.log(*(world.act(n, item=f"o{n}") for n in range(4)), world.act(9, kind="view_post"))
    world.live().hear_actions(received[:2])
    assert catch_up(worker, world.domain) == 2
    assert catch_up(worker, world.domain) == 0
    assert world.user("ann").count == 4
    pairs = world.pairs()
    assert [pairs[f"a:{one.place}"].seconds is None for one in received[:4]] == [False, False, True, True]
    assert pairs[f"a:{received[3].place}"].received_at == received[3].received_at


def test_events_that_came_before_their_session_are_learned_after_it(world: World, worker: Improver):
    world.serve("first")
    store = world.rooms.clickstream
    store.push_events([("s1", like("o1")), ("s2", like("o2")), ("s3", like("o3"))])
    world.live().hear_events([("s1", like("o1"))])
    assert catch_up(worker, world.domain) == 0
    store.register(make_session("s1", "ann", ["o1"], domain=world.name))
    store.register(make_session("s2", None, ["o2"], domain=world.name))
    store.register(make_session("s3", "bob", ["o3"], domain=world.name))
    store.mark_irrelevant("s3")
    assert catch_up(worker, world.domain) == 1
    store.push_events([("s1", like("o4", "later"))])
    assert catch_up(worker, world.domain) == 1
    assert world.user("ann").count == 2
    assert catch_up(worker, world.domain) == 0


def test_while_nothing_serves_or_learning_is_frozen_everything_waits(world: World, worker: Improver):
    world.log(world.act(1))
    assert catch_up(worker, world.domain) == 0
    world.serve("first")
    world.rooms.learning.freeze(world.name, "me", "test")
    assert catch_up(worker, world.domain) == 0
    world.rooms.learning.resume(world.name, "me", "test")
    assert catch_up(worker, world.domain) == 1


def test_the_first_time_looks_back_a_week_and_the_next_go_on_from_there(
    world: World, worker: Improver, monkeypatch: Any
):
    world.serve("first")
    world.log(world.act(1))
    later = worker.clock() + LOOK_BACK + catching_up.OVERLAP + 10
    assert catch_up(replace(worker, clock=lambda: later), world.domain) == 0
    assert catch_up(worker, world.domain) == 1


def test_one_time_does_a_bounded_part_and_the_next_one_the_rest(
    world: World, worker: Improver, monkeypatch: Any
):
    world.serve("first")
    monkeypatch.setattr(catching_up, "PAGE", 3)
    monkeypatch.setattr(catching_up, "ENOUGH", 4)
    world.log(*(world.act(n, item=f"o{n}") for n in range(8)))
    assert [catch_up(worker, world.domain) for _ in range(3)] == [6, 2, 0]
    monkeypatch.setattr(catching_up, "OVERLAP", 0.0)
    monkeypatch.setattr(catching_up, "READ", 5)
    for n in range(20, 32):
        world.log(world.act(n, kind="view_post" if n < 31 else "like_post"))
    done = [catch_up(worker, world.domain) for _ in range(4)]
    assert sum(done) == 1
    assert done[0] == 0


def test_whoever_is_killed_after_any_call_is_caught_up_with(rooms: Rooms, domain: SearchDomain):
    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    stores = ("entries", "pairs", "vectors")

    def begun(name: str) -> tuple[World, Any]:
        one = replace(domain, name=f"{domain.name}-{name}")
        world = World(replace(rooms, domains={one.name: one}), one)
        world.serve("first")
        world.live().hear_actions(world.log(world.act(1, f"ann {name}", "o1")))
        return world, world.log(world.act(2, f"ann {name}", "o2"), world.act(3, f"ann {name}", "o3", "hide"))

    def outcome(world: World, name: str) -> Any:
        user = world.user(f"ann {name}")
        rows = sorted(
            (pair.object_id, pair.signal, pair.user_vector.tobytes() if pair.user_vector is not None else b"")
            for pair in world.pairs().values()
        )
        return user.vector.tobytes(), user.count, rows, {o: v.tobytes() for o, v in world.shown().items()}

    whole, received = begun("whole")
    calls = Calls()
    calls.around(whole.live(), *stores).hear_actions(received)
    expected = outcome(whole, "whole")
    for after in range(1, calls.calls + 1):
        world, received = begun(str(after))
        with pytest.raises(Killed):
            Calls(after, kill).around(world.live(), *stores).hear_actions(received)
        catch_up(improver(world.rooms), world.domain)
        assert outcome(world, str(after)) == expected, f"killed after call {after}"


def test_a_store_that_fails_leaves_the_rest_to_the_next_time(
    world: World, worker: Improver, monkeypatch: Any
):
    world.serve("first")
    world.log(world.act(1))
    with monkeypatch.context() as broken:
        broken.setattr(world.rooms.pairs, "add", lambda pairs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            catch_up(worker, world.domain)
    assert catch_up(worker, world.domain) == 1
    assert world.user("ann").count == 1


def test_the_log_is_read_from_a_moment_on_oldest_first(world: World):
    first = world.log(world.act(1), world.act(2))
    second = world.log(world.act(3))
    log = world.rooms.actions
    assert [one.action_id for one in log.since(world.name, 0.0)] == ["1", "2", "3"]
    assert [one.action_id for one in log.since(world.name, second[0].received_at - 1e-6)] == ["3"]
    assert list(log.since("elsewhere", 0.0)) == []
    assert log.held([first[0].place, "never"]) == {first[0].place}


def test_sessions_come_in_the_order_they_were_active_with_all_their_events(world: World):
    store = world.rooms.clickstream
    for name in ("s1", "s2"):
        store.register(make_session(name, "ann", ["o1"], domain=world.name))
    store.push_events([("s1", like("o1"))])
    found = [
        (session.session_id, len(session.events))
        for page in store.active(world.name, 0)
        for session, _ in page
    ]
    assert found == [("s2", 0), ("s1", 1)]
    newest = [at for page in store.active(world.name, 0) for _, at in page][-1]
    assert [session.session_id for page in store.active(world.name, newest) for session, _ in page] == ["s1"]
    plan = str(store._sessions.find({"domain": "d", "last_activity_at": {"$gte": 1.0}}).explain())
    assert "IXSCAN" in plan
    assert "COLLSCAN" not in plan
    assert store.owners(["s1", "x"]).keys() == {"s1"}


def together(*these: Any) -> None:
    failures: list[BaseException] = []

    def doing(one: Any) -> None:
        try:
            one()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=doing, args=(one,)) for one in these]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_of_two_workers_one_catches_up_and_nothing_is_learned_twice(world: World, worker: Improver):
    world.serve("first")
    world.log(*(world.act(n, user=f"u{n % 100}", item=f"o{n % 5}") for n in range(300)))
    learned: list[int] = []
    together(*(lambda: learned.append(catch_up(worker, world.domain)) for _ in range(2)))
    assert sum(learned) == 300
    assert [world.item(f"o{n}").count for n in range(5)] == [60] * 5
    with worker.training.held(f"{world.name}.catching up", 60):
        world.log(world.act(1000))
        assert catch_up(worker, world.domain) == 0
    assert catch_up(worker, world.domain) == 1
    with worker.training.held(world.name, 60) as training:  # whoever trains is in nobody's way
        assert training is not None
        world.log(world.act(1001))
        assert catch_up(worker, world.domain) == 1


def test_whose_lease_was_lost_leaves_the_rest_to_the_other(world: World, worker: Improver, monkeypatch: Any):
    world.serve("first")
    monkeypatch.setattr(catching_up, "PAGE", 1)
    world.log(*(world.act(n, item=f"o{n}") for n in range(3)))
    held = worker.training._training

    def take() -> None:
        held.update_one({"_id": f"{world.name}.catching up"}, {"$set": {"token": "another", "until": 0.0}})

    impatient = replace(worker, tower_lease=1e-9, pairs=Gap(worker.pairs, "add", take))
    assert catch_up(impatient, world.domain) == 0
    assert len(world.pairs()) == 1
    assert catch_up(worker, world.domain) == 2
    assert world.user("ann").count == 3


def test_what_came_just_now_is_left_to_the_process_that_received_it(world: World, worker: Improver):
    world.serve("first")
    received = world.log(*(world.act(n, item=f"o{n % 12}") for n in range(60)))
    world.rooms.clickstream.register(make_session("s1", "bob", ["o1"], domain=world.name))
    world.rooms.clickstream.push_events([("s1", like("o1"))])
    together(
        lambda: world.live().hear_actions(received),
        lambda: catching_up.catch_up(worker, world.domain),
    )
    assert world.user("ann").count == 60
    assert catching_up.catch_up(worker, world.domain) == 0
    later = replace(worker, clock=lambda: time.time() + catching_up.SETTLED + 1)
    assert catching_up.catch_up(later, world.domain) == 1  # the event, of which no process heard
    assert world.user("bob").count == 1
    assert world.user("ann").count == 60


def test_a_clock_ahead_makes_nothing_be_lost(world: World, worker: Improver, monkeypatch: Any):
    world.serve("first")
    now = time.time()

    def log(number: int, at: float) -> None:
        with monkeypatch.context() as wrong:
            wrong.setattr(world.rooms.actions, "_clock", lambda: at)
            world.log(world.act(number, item=f"o{number}"))

    def at(moment: float) -> int:
        return catch_up(replace(worker, clock=lambda: moment), world.domain)

    log(0, now - 100)
    log(1, now + 7_200)
    assert at(now) == 1  # a server's clock was ahead: that one waits
    log(2, now + 10)
    assert [at(now + 20), at(now + 20)] == [1, 0]
    worker.queue.reach(f"towers actions {world.name}", now + 9_000)  # a worker's clock was ahead
    log(3, now + 25)
    assert [at(now + 30), at(now + 7_201), at(now + 7_202)] == [1, 1, 0]
    assert world.user("ann").count == 4

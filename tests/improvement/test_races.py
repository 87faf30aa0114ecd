"""What happens when somebody else acts in the gap between two store calls."""

from dataclasses import replace
from typing import Any

import pytest

from clickstream.improvement_queue import Owner, Request
from improvement.domain import SearchDomain
from improvement.improver import Improver
from improvement.jobs import improve_users, run_improvement, sweep_idle
from improvement.objects import Object
from improvement.vectors import VectorStore
from improvement.wiring import Rooms
from tests.support import Gap, WordEncoder, click, make_object, make_objects, make_session


@pytest.fixture
def blue(rooms: Rooms, domain: SearchDomain) -> str:
    return rooms.releases.blue(domain.name).collection_id


@pytest.fixture
def originals(rooms: Rooms, domain: SearchDomain, blue: str) -> list[Object]:
    objects = make_objects(domain, 8)
    rooms.vectors.upsert(blue, objects)
    return objects


def ask(rooms: Rooms, domain: SearchDomain, session_id: str, user: str = "ann") -> None:
    version = rooms.clickstream.version(session_id) or 1
    rooms.queue.enqueue([Request(session_id, Owner(domain.name, user), version)])


def teach(rooms: Rooms, domain: SearchDomain, session_id: str, user: str = "ann") -> None:
    session = make_session(session_id, user, ["o0", "o1", "o2"], domain=domain.name)
    rooms.clickstream.register(session)
    rooms.clickstream.push_events([(session_id, click("o1"))])
    ask(rooms, domain, session_id, user)


pytestmark = pytest.mark.usefixtures("originals")


def test_copies_deleted_during_a_search_do_not_bring_their_originals_back_beside_them(
    rooms: Rooms, domain: SearchDomain, improving: Improver, blue: str
):
    teach(rooms, domain, "s")
    improve_users(improving, 10)
    client = rooms.vectors._client
    racing = Gap(client, "query_points", lambda: rooms.vectors.delete_copies_of(blue, ["o0", "o1", "o2"]))
    query = domain.embed(["red shoes"])[0]
    hits, _ = VectorStore(racing).search(domain.name, domain.search_index_info, query, 8, user_id="ann")
    shown = [hit.object_id for hit in hits]
    assert len(shown) == len(set(shown)) == 8


def test_an_event_stored_while_its_session_is_improved_is_learned_next(
    rooms: Rooms, domain: SearchDomain, improving: Improver
):
    rooms.clickstream.register(make_session("s", "ann", ["o0", "o1"], domain=domain.name))

    def improve_now() -> None:
        ask(rooms, domain, "s")
        improve_users(improving, 10)

    events = rooms.clickstream._events
    rooms.clickstream._events = Gap(events, "insert_many", improve_now, before=True)
    rooms.clickstream.push_events([("s", click("o1"))])
    rooms.clickstream._events = events
    assert rooms.queue.entry("s").reason == "no clicks"
    ask(rooms, domain, "s")
    improve_users(improving, 10)
    assert rooms.queue.entry("s").status == "done"


def test_a_server_whose_clock_is_behind_loses_no_click(
    rooms: Rooms, domain: SearchDomain, improving: Improver
):
    rooms.clickstream.register(make_session("s", "ann", ["o0", "o1"], domain=domain.name))
    ask(rooms, domain, "s")
    improve_users(improving, 10)
    rooms.clickstream._clock = lambda: 1_000_000.0
    rooms.clickstream.push_events([("s", click("o1"))])
    ask(rooms, domain, "s")
    improve_users(improving, 10)
    assert rooms.queue.entry("s").status == "done"


def test_a_claim_that_comes_too_late_gives_its_leases_back(
    rooms: Rooms, domain: SearchDomain, improving: Improver
):
    teach(rooms, domain, "s")
    leases = rooms.queue._leases

    def another_worker() -> None:
        rooms.queue._leases = leases
        assert improve_users(improving, 10).ended == 1

    rooms.queue._leases = Gap(leases, "insert_many", another_worker, before=True)
    assert improve_users(improving, 10) == (0, 0)
    rooms.queue._leases = leases
    teach(rooms, domain, "t")
    assert improve_users(improving, 10).ended == 1


def test_a_user_who_is_overtaken_again_and_again_is_not_given_up(
    rooms: Rooms, domain: SearchDomain, improving: Improver, blue: str, originals: list[Object]
):
    teach(rooms, domain, "s")
    written = 0

    class Busy:
        def __getattr__(self, name: str) -> Any:
            return getattr(rooms.vectors, name)

        def upsert(self, collection: str, objects: list[Object]) -> None:
            nonlocal written
            rooms.vectors.upsert(collection, objects)
            if any(o.user_id for o in objects):
                written += 1
                changed = make_object("o1", originals[1].parts, payload={"n": written})
                rooms.vectors.upsert(collection, [changed])

    busy: Any = replace(improving, vectors=Busy())
    for _ in range(3):
        assert run_improvement(busy, 10, idle_seconds=1e9) == 0
    assert written > 10
    run_improvement(improving, 10, idle_seconds=1e9)
    assert rooms.queue.entry("s").status == "done"


def test_an_encoder_that_is_down_takes_no_copy_away(
    rooms: Rooms, domain: SearchDomain, improving: Improver, blue: str
):
    class Down(WordEncoder):
        def encode(self, texts: Any) -> Any:
            raise MemoryError("not now")

    teach(rooms, domain, "s")
    improve_users(improving, 10)
    before = rooms.vectors.copies(blue, ["ann"])
    down = replace(domain, encoder=Down(model_id="words-v2"))
    rooms.queue.enqueue_rebuild([Owner(domain.name, "ann")])
    run_improvement(replace(improving, domains={domain.name: down}), 10, idle_seconds=1e9)
    assert rooms.vectors.copies(blue, ["ann"]) == before
    assert rooms.queue.counts()["failed"] == 1, "the rebuild says that it failed"


def test_a_promotion_whose_caller_died_is_finished_by_the_worker(
    rooms: Rooms, domain: SearchDomain, improving: Improver, originals: list[Object]
):
    teach(rooms, domain, "s")
    improve_users(improving, 10)
    green = rooms.releases.create(domain, "v2").collection_id
    rooms.vectors.upsert(green, originals)
    rooms.releases.set_blue(domain.name, "v2")  # and here the process dies
    run_improvement(improving, 10, idle_seconds=1e9)
    assert {copy.original_id for copy in rooms.vectors.copies(green, ["ann"])} == {"o0", "o1", "o2"}
    assert rooms.releases.unrebuilt() == set()


def test_a_promotion_during_an_improvement_leaves_the_copies_on_the_new_blue(
    rooms: Rooms, domain: SearchDomain, improving: Improver, originals: list[Object]
):
    green = rooms.releases.create(domain, "v2").collection_id
    rooms.vectors.upsert(green, originals)
    teach(rooms, domain, "s")
    promoting: Any = Gap(rooms.vectors, "upsert", lambda: rooms.releases.set_blue(domain.name, "v2"))
    assert improve_users(replace(improving, vectors=promoting), 10).ended == 0
    improve_users(improving, 10)
    assert {copy.original_id for copy in rooms.vectors.copies(green, ["ann"])} == {"o0", "o1", "o2"}


def test_a_session_that_turned_unusable_takes_its_influence_back(
    rooms: Rooms, domain: SearchDomain, improving: Improver, blue: str
):
    teach(rooms, domain, "s")
    improve_users(improving, 10)
    assert rooms.vectors.copies(blue, ["ann"])
    rooms.clickstream.push_events([("s", click("o1", f"again {i}")) for i in range(11)])
    sweep_idle(improving, idle_seconds=-1)
    improve_users(improving, 10)
    assert rooms.queue.entry("s").status == "skipped"
    assert rooms.vectors.copies(blue, ["ann"]) == []


def test_a_worker_that_slept_through_its_lease_leaves_nothing_stale(
    rooms: Rooms, domain: SearchDomain, improving: Improver, blue: str
):
    teach(rooms, domain, "s")

    def sleep_while_another_works() -> None:
        rooms.queue._leases.delete_many({})  # the lease ran out
        rooms.clickstream.mark_irrelevant("s")
        rooms.queue.requeue(["s"])
        improve_users(improving, 10)

    sleepy: Any = Gap(rooms.vectors, "upsert", sleep_while_another_works, before=True)
    improve_users(replace(improving, vectors=sleepy), 10)
    run_improvement(improving, 10, idle_seconds=1e9)
    assert rooms.queue.entry("s").status == "skipped"
    assert rooms.vectors.copies(blue, ["ann"]) == []


def test_two_that_number_a_batch_at_once_agree(rooms: Rooms, domain: SearchDomain):
    for i in range(4):
        rooms.clickstream.register(make_session(f"s{i}", "ann", ["o0"], domain=domain.name))
    sessions = rooms.clickstream._sessions
    store = rooms.clickstream

    def another() -> None:
        store._sessions = sessions
        store.release("r")

    store._sessions = Gap(sessions, "update_many", another)
    batch = store.release("r")
    store._sessions = sessions
    numbered = store.batch_sessions(batch.batch_id, 0, 10)
    assert [(s.session_id, s.session_number) for s in numbered] == [(f"s{i}", i + 1) for i in range(4)]

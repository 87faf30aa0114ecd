"""Sessions, events and batches in Mongo, over a real socket."""

import multiprocessing
import threading
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import BulkWriteError

from clickstream.records import QueryVector, Session, SessionEvent
from clickstream.store import ClickstreamStore, SessionFull, insert_new
from tests.support import Clock, click, make_session


@pytest.fixture
def store(database: Database[Any]) -> ClickstreamStore:
    made = ClickstreamStore(database)
    made.ensure_indexes()
    return made


def test_registering_a_session_twice_changes_nothing(store: ClickstreamStore):
    store.register(make_session("s", "u", ["a", "b"]))
    before = store.session("s")
    store.register(make_session("s", "u", ["a", "b"]))
    store.register(make_session("s", "someone else", ["b", "a"], query="another"))
    assert store.session("s") == before


def test_a_second_page_extends_the_shown_list_in_order(store: ClickstreamStore):
    store.register(make_session("s", "u", ["a", "b"]))
    store.register(make_session("s", "u", ["b", "c", "d"]))
    session = store.session("s")
    assert session is not None
    assert [r.object_id for r in session.search_results] == ["a", "b", "c", "d"]


def test_an_object_shown_twice_stands_where_it_was_seen_first(store: ClickstreamStore):
    store.register(make_session("s", "u", ["b", "a", "b", "c", "a"]))
    store.register(make_session("s", "u", ["c", "e", "d", "e"]))
    session = store.session("s")
    assert session is not None
    assert [r.object_id for r in session.search_results] == ["b", "a", "c", "e", "d"]


def test_pages_posted_at_once_by_many_threads_are_all_kept_once(store: ClickstreamStore):
    pages = [[f"{page}-{i}" for i in range(5)] for page in range(8)]
    threads = [
        threading.Thread(target=store.register, args=(make_session("s", "u", page),)) for page in pages * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session = store.session("s")
    assert session is not None
    assert sorted(r.object_id for r in session.search_results) == sorted(o for page in pages for o in page)


ARM = {"experiment": "e", "arm": "copies"}


def arm_of(store: ClickstreamStore, session_id: str = "s") -> tuple[str | None, str | None]:
    session = store.session(session_id)
    assert session is not None
    return session.experiment, session.arm


def test_pages_of_the_same_arm_and_user_leave_a_session_its_arm(store: ClickstreamStore):
    for _ in range(2):
        store.register(make_session("s", "u", ["a", "b"], **ARM))
        store.register(make_session("s", "u", ["c"], **ARM))
    assert arm_of(store) == ("e", "copies")


@pytest.mark.parametrize("shows", [["c"], ["a"], []], ids=["something new", "the same", "nothing"])
@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("u", {"experiment": "e", "arm": "originals"}),
        ("u", {"experiment": "another", "arm": "copies"}),
        ("someone else", ARM),
        (None, ARM),
        ("u", ARM | {"mixed": True}),
    ],
)
def test_a_page_of_another_arm_or_user_or_kind_of_list_takes_a_session_out_of_its_experiment(
    store: ClickstreamStore, user: str | None, said: dict[str, Any], shows: list[str]
):
    store.register(make_session("s", "u", ["a", "b"], **ARM))
    store.register(make_session("s", user, shows, **said))
    assert arm_of(store) == (None, None)
    store.register(make_session("s", "u", ["d"], **ARM))
    assert arm_of(store) == (None, None), "later pages do not bring it back"
    session = store.session("s")
    assert session is not None
    assert session.user_id == "u"
    assert [r.object_id for r in session.search_results] == list(dict.fromkeys(["a", "b", *shows, "d"]))


def test_a_page_without_an_arm_counts_only_if_it_adds_nothing(store: ClickstreamStore):
    store.register(make_session("s", "u", ["a", "b"], **ARM))
    store.register(make_session("s", "u", ["b", "a"]))
    assert arm_of(store) == ("e", "copies"), "a frontend that tells again what was shown"
    store.register(make_session("s", "u", ["a", "c"]))
    assert arm_of(store) == (None, None)


def test_a_session_that_began_without_an_arm_never_gets_one(store: ClickstreamStore):
    store.register(make_session("s", "u", ["a"]))
    store.register(make_session("s", "u", ["b"], **ARM))
    assert arm_of(store) == (None, None)


def test_pages_of_two_arms_at_once_leave_none_whatever_comes_first(store: ClickstreamStore):
    first, second = (make_session("s", "u", [o], experiment="e", arm=o) for o in "ab")
    assert store.register_many([(first, None), (second, None)]) == []
    assert arm_of(store) == (None, None)
    threads = [
        threading.Thread(target=store.register, args=(make_session("t", "u", [o], experiment="e", arm=o),))
        for o in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert arm_of(store, "t") == (None, None)
    session = store.session("t")
    assert session is not None
    assert sorted(r.object_id for r in session.search_results) == ["a", "b", "c", "d"]


def test_a_session_that_would_show_too_much_is_refused(store: ClickstreamStore):
    for page in range(3):
        store.register(make_session("s", "u", [f"{page}-{i}" for i in range(1_000)]))
    with pytest.raises(SessionFull, match="more than 3000"):
        store.register(make_session("s", "u", ["one more"]))


def test_a_repeated_event_is_ignored_and_the_first_one_stays(store: ClickstreamStore):
    store.register(make_session("s", "u", ["a"]))
    assert store.push_events([("s", click("a", "e"))]) == 1
    assert store.push_events([("s", click("b", "e")), ("s", click("a", "f"))]) == 1
    session = store.session("s")
    assert session is not None
    assert [(e.event_id, e.object_id) for e in session.events] == [("e", "a"), ("f", "a")]


def test_the_same_event_id_in_two_sessions_is_two_events(store: ClickstreamStore):
    assert store.push_events([("s", click("a", "e")), ("t", click("a", "e"))]) == 2


def test_events_before_their_session_out_of_order_are_joined(store: ClickstreamStore):
    store.push_events([("s", click("b", "late", seconds_ago=10))])
    store.push_events([("s", click("a", "early", seconds_ago=50))])
    assert store.session("s") is None
    store.register(make_session("s", "u", ["a", "b"]))
    session = store.session("s")
    assert session is not None
    assert [e.event_id for e in session.events] == ["early", "late"]


def test_more_than_a_hundred_events_are_all_returned(store: ClickstreamStore):
    store.register(make_session("s", "u", ["a"]))
    store.push_events([("s", click("a", str(i))) for i in range(250)])
    session = store.session("s")
    assert session is not None
    assert len(session.events) == 250


def test_meta_with_mongo_operators_comes_back_as_it_was(store: ClickstreamStore):
    meta = {"$set": {"a.b": 1}, "x.y": [{"$gt": 2}], "": None}
    store.register(make_session("s", "u", ["a"], search_meta=meta))
    store.register(make_session("s", "u", ["a", "b"], search_meta=meta))
    store.push_events([("s", SessionEvent(event_id="e", object_id="a", meta=meta))])
    session = store.session("s")
    assert session is not None
    assert session.search_meta == meta
    assert session.events[0].meta == meta


def test_only_duplicate_keys_are_swallowed(database: Database[Any]):
    database["t"].create_index("n", unique=True)
    database["t"].insert_one({"n": 1})
    numbers = [{"n": n} for n in (2, 1, 3, 3)]
    assert insert_new(lambda: database["t"].insert_many(numbers, ordered=False)) == {1, 3}
    assert insert_new(lambda: database["t"].insert_many([{"n": 4}], ordered=False)) == set()

    def failing() -> None:
        raise BulkWriteError({"writeErrors": [{"code": 11000}, {"code": 121, "errmsg": "validation"}]})

    with pytest.raises(BulkWriteError):
        insert_new(failing)

    def unconfirmed() -> None:
        raise BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": 64}]})

    with pytest.raises(BulkWriteError):
        insert_new(unconfirmed)


def test_a_query_vector_is_kept_with_its_session(store: ClickstreamStore):
    vector = QueryVector(model_id="m", vectors=((0.5, -0.25),))
    store.register(make_session("s", "u", ["a"]), vector)
    store.register(make_session("t", "u", ["a"]))
    store.save_query_vectors({"t": vector})
    for session in store.sessions(["s", "t"]):
        assert session.query_vector is not None
        assert session.query_vector.model_id == "m"
        assert [list(row) for row in session.query_vector.vectors] == [[0.5, -0.25]]


def test_a_session_is_idle_once_until_something_happens(database: Database[Any]):
    clock = Clock()
    store = ClickstreamStore(database, clock)
    store.ensure_indexes()
    store.register(make_session("s", "u", ["a"]))
    assert store.idle_sessions(60, 10) == []
    clock.now += 61
    idle = store.idle_sessions(60, 10)
    assert [session.session_id for session, _ in idle] == ["s"]
    store.mark_swept([(session.session_id, at) for session, at in idle])
    assert store.idle_sessions(60, 10) == []
    store.push_events([("s", click("a"))])
    clock.now += 61
    assert [session.session_id for session, _ in store.idle_sessions(60, 10)] == ["s"]


def test_an_event_during_the_sweep_keeps_the_session_for_the_next(database: Database[Any]):
    clock = Clock()
    store = ClickstreamStore(database, clock)
    store.register(make_session("s", "u", ["a"]))
    clock.now += 61
    idle = store.idle_sessions(60, 10)
    store.push_events([("s", click("a"))])
    store.mark_swept([(session.session_id, at) for session, at in idle])
    clock.now += 61
    assert len(store.idle_sessions(60, 10)) == 1


@pytest.mark.parametrize("newest_first", [True, False])
def test_history_walks_a_domain_in_pages_and_misses_and_repeats_nothing(
    database: Database[Any], monkeypatch: pytest.MonkeyPatch, newest_first: bool
):
    monkeypatch.setattr("clickstream.store.HISTORY_PAGE", 3)
    clock = Clock()
    store = ClickstreamStore(database, clock)
    store.ensure_indexes()
    order = [f"s{i}" for i in range(8)]
    for i, session_id in enumerate(order):
        clock.now += i % 4 == 0  # four sessions in the same instant: more than one page
        store.register(make_session(session_id, "u", ["a"], domain="shop"))
    store.register(make_session("elsewhere", "u", ["a"], domain="other"))
    store.push_events([("s5", click("a"))])
    expected = order[::-1] if newest_first else order
    for limit in (0, 2, 3, 7, 8, 100):
        walked = list(store.history("shop", newest_first=newest_first, limit=limit))
        assert [session.session_id for session in walked] == expected[:limit]
        assert all(session.registered_at for session in walked)
        assert all(len(session.events) == (session.session_id == "s5") for session in walked)


def test_when_a_session_was_registered_is_the_servers_word_and_in_no_answer(database: Database[Any]):
    store = ClickstreamStore(database, Clock(1_800_000_000.5))
    store.register(make_session("s", "u", ["a"], created_at=5))
    session = store.session("s")
    assert session is not None
    assert (session.created_at, session.registered_at) == (5, 1_800_000_000.5)
    assert "registered_at" not in session.model_dump()


def test_the_same_release_id_answers_the_same_batch(store: ClickstreamStore):
    for i in range(3):
        store.register(make_session(f"s{i}", "u", ["a"]))
    first = store.release("r1")
    store.register(make_session("s3", "u", ["a"]))
    assert store.release("r1") == first
    second = store.release("r2")
    assert second.batch_id != first.batch_id
    assert [s.session_id for s in store.batch_sessions(first.batch_id, 0, 10)] == ["s0", "s1", "s2"]
    assert [s.session_id for s in store.batch_sessions(second.batch_id, 0, 10)] == ["s3"]


def test_a_release_that_died_halfway_is_finished_by_repeating_it(
    store: ClickstreamStore, database: Database[Any]
):
    for i in range(4):
        store.register(make_session(f"s{i}", "u", ["a"]))
    batch = store.release("r")
    database["session_batches"].update_one({}, {"$set": {"status": "collecting", "released_at": None}})
    database["sessions"].update_many({"_id": {"$in": ["s2", "s3"]}}, {"$set": {"session_number": None}})
    store.release("r")
    sessions = store.batch_sessions(batch.batch_id, 0, 10)
    assert [(s.session_id, s.session_number) for s in sessions] == [
        ("s0", 1),
        ("s1", 2),
        ("s2", 3),
        ("s3", 4),
    ]


def test_no_session_falls_between_releases(store: ClickstreamStore):
    stop = threading.Event()
    registered: list[str] = []

    def register(worker: int) -> None:
        while not stop.wait(0.002):  # a release numbers all of them: without a pause it would never catch up
            session_id = f"{worker}-{len(registered)}"
            store.register(make_session(session_id, "u", ["a"]))
            registered.append(session_id)

    threads = [threading.Thread(target=register, args=(worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
    batches = [store.release(f"r{i}") for i in range(12)]
    stop.set()
    for thread in threads:
        thread.join()
    batches.append(store.release("last"))
    released = [s for b in batches for s in store.batch_sessions(b.batch_id, 0, 100_000)]
    assert sorted(s.session_id for s in released) == sorted(registered)
    for batch in batches:
        numbers = [s.session_number for s in store.batch_sessions(batch.batch_id, 0, 100_000)]
        assert numbers == list(range(1, len(numbers) + 1))


def test_erasing_takes_a_users_sessions_with_their_events_and_nobody_elses(
    store: ClickstreamStore, database: Database[Any]
):
    for i in range(150):
        store.register(make_session(f"ann {i}", "ann", ["a", "b"]))
        store.push_events([(f"ann {i}", click("a")), (f"ann {i}", click("b"))])
    for user in ("bob", "Ann", None):
        store.register(make_session(f"of {user}", user, ["a"]))
        store.push_events([(f"of {user}", click("a"))])
    assert store.erase("ann") == (150, 300)
    assert store.erase("ann") == store.erase("nobody") == (0, 0)
    assert {s["_id"] for s in database["sessions"].find()} == {"of bob", "of Ann", "of None"}
    assert {e["session_id"] for e in database["session_events"].find()} == {"of bob", "of Ann", "of None"}


def test_events_that_come_while_their_session_is_erased_go_with_it(
    store: ClickstreamStore, database: Database[Any]
):
    store.register(make_session("s", "ann", ["a", "b"]))
    sessions = store._sessions

    class Meanwhile:
        def __getattr__(self, name: str) -> Any:
            return getattr(sessions, name)

        def bulk_write(self, *args: Any, **kwargs: Any) -> Any:
            store._sessions = sessions
            store.push_events([("s", click("a"))])
            return sessions.bulk_write(*args, **kwargs)

    store._sessions = Meanwhile()
    assert store.erase("ann") == (1, 1)
    assert database["session_events"].count_documents({}) == 0


def test_a_page_for_a_session_that_is_erased_meanwhile_is_left_out_alone(store: ClickstreamStore):
    for session_id in ("s", "t"):
        store.register(make_session(session_id, session_id, ["a"]))
    sessions = store._sessions

    class Meanwhile:
        def __getattr__(self, name: str) -> Any:
            return getattr(sessions, name)

        def find(self, *args: Any, **kwargs: Any) -> Any:
            store._sessions = sessions
            store.erase("s")
            return sessions.find(*args, **kwargs)

    store._sessions = Meanwhile()
    assert store.register_many([(make_session(s, s, ["b"]), None) for s in ("s", "t")]) == []
    assert store.session("s") is None
    session = store.session("t")
    assert session is not None
    assert [r.object_id for r in session.search_results] == ["a", "b"]


def _register_from_another_process(url: str, database: str, barrier: Any) -> None:
    with MongoClient(url) as client:
        store = ClickstreamStore(client[database])
        barrier.wait()
        for i in range(30):
            store.register(
                Session(session_id=f"s{i}", search_query="q", search_results=({"object_id": "a"},))
            )
            store.push_events([(f"s{i}", SessionEvent(event_id="e", object_id="a"))])


def test_two_processes_registering_the_same_leave_it_once(
    mongo_url: str, store: ClickstreamStore, database: Database[Any]
):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [
        context.Process(target=_register_from_another_process, args=(mongo_url, database.name, barrier))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    sessions = store.sessions([f"s{i}" for i in range(30)])
    assert len(sessions) == 30
    assert all(len(s.events) == 1 and len(s.search_results) == 1 for s in sessions)


def test_history_leaves_out_who_is_erased_while_it_is_walked(
    store: ClickstreamStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("clickstream.store.HISTORY_PAGE", 2)
    for number in range(6):
        store.register(make_session(f"s{number}", f"u{number % 2}", ["a"], domain="shop"))
    walked = store.history("shop", limit=10)
    first = next(walked)
    assert first.user_id is not None
    store.erase("u0" if first.user_id == "u1" else "u1")
    later = [session.user_id for session in walked]
    assert set(later[1:]) == {first.user_id}


def test_sessions_are_walked_in_the_order_they_came_and_the_end_is_left_out(database: Database[Any]):
    clock = Clock()
    start = clock.now
    store = ClickstreamStore(database, clock)
    store.ensure_indexes()
    for second in range(115):
        clock.now = start + second
        made = [make_session(f"s{second:03}{end}", "ann", ["o1"], domain="d") for end in "ab"]
        made.append(make_session(f"other {second}", "ann", ["o1"], domain="other"))
        store.register_many([(session, None) for session in made])
    pages = list(store.registered("d", start + 10, start + 101))
    assert [len(page) for page in pages] == [100, 82]
    walked = [one for page in pages for one in page]
    assert walked == [(f"s{n:03}{end}", start + n) for n in range(10, 101) for end in "ab"]
    assert list(store.registered("d", start + 1_000, start + 2_000)) == []
    assert list(store.registered("d", start + 2, start)) == []

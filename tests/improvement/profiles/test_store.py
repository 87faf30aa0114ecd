"""The profile store on a real (embedded) Mongo."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.monitoring import CommandListener, CommandStartedEvent

from clickstream.improvement_queue import Owner
from improvement.profiles import store as store_module
from improvement.profiles.cache import MemoryCache
from improvement.profiles.negative import NegativeProfile
from improvement.profiles.profile import Interaction, Profile, StoredProfile
from improvement.profiles.store import CHUNK, WRITES, Applied, ProfileStore, Rebuilt
from tests.support import Clock

ANN = Owner("things", "ann")


class Counting(CommandListener):
    """Remembers which commands were sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.sent.append(event.command_name)

    def succeeded(self, event: Any) -> None: ...
    def failed(self, event: Any) -> None: ...


@pytest.fixture
def counting() -> Counting:
    return Counting()


@pytest.fixture
def watched(mongo_url: str, database: Database[Any], counting: Counting) -> Iterator[Database[Any]]:
    with MongoClient(mongo_url, event_listeners=[counting]) as client:
        yield client[database.name]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache() -> MemoryCache:
    return MemoryCache()


@pytest.fixture
def store(watched: Database[Any], cache: MemoryCache, clock: Clock) -> ProfileStore:
    made = ProfileStore(watched, cache, clock)
    made.ensure_indexes()
    made.ensure_indexes()
    return made


def unit(seed: int) -> Any:
    row = np.random.default_rng(seed).standard_normal(33).astype(np.float32)
    return row / np.linalg.norm(row)


def liked(*objects: str, at: float = 1.5) -> list[Interaction]:
    return [Interaction(object_id, 5.0, at + i) for i, object_id in enumerate(objects)]


def load(store: ProfileStore, user_id: str = "ann", domain: str = "things") -> StoredProfile:
    return store.load(domain, [user_id])[user_id]


def waiting(store: ProfileStore, domain: str, limit: int) -> list[StoredProfile]:
    return [one for page in store.due_pages(domain, limit, store._clock()) for one in page]


def act(store: ProfileStore, *objects: str, user_id: str = "ann", remember: int = 200) -> None:
    """Announce a push and apply it, as real time does."""
    store.announce([Owner("things", user_id)])
    stored = load(store, user_id)
    count = stored.profile.positives + len(objects)
    assert (
        store.apply([Applied(replace(stored.profile, positives=count), liked(*objects))], remember) == set()
    )


def assert_same(got: Profile | None, expected: Profile, but: tuple[str, ...] = ()) -> None:
    assert got is not None
    for field in fields(Profile):
        mine, theirs = getattr(got, field.name), getattr(expected, field.name)
        if field.name in but:
            continue
        if isinstance(theirs, NegativeProfile):
            assert mine.at == theirs.at
            assert mine.vector.dtype == np.float64
            np.testing.assert_array_equal(mine.vector, theirs.vector.astype(np.float32))
        elif isinstance(theirs, np.ndarray):
            assert (mine.dtype, mine.shape) == (np.float32, theirs.shape), field.name
            np.testing.assert_array_equal(mine, theirs)
        else:
            assert (mine, type(mine)) == (theirs, type(theirs)), field.name


def test_every_field_comes_back_from_mongo_to_the_last_bit(store: ProfileStore, clock: Clock):
    for user_id in ("ann", "", "a.b$c", "ä\0…", "x" * 512):
        store.mark([Owner("things", user_id)])
        stored = load(store, user_id)
        profile = replace(
            stored.profile,
            model_version="words-v1",
            embedding=unit(1),
            liked=unit(2),
            negative=NegativeProfile(np.float64(0.7) * unit(3), 1_800_000_000.25),
            interests=np.stack([unit(4), unit(5)]),
            positives=5,
            negatives=2,
            seen=("o1", "ö:2"),
        )
        recent = [Interaction("ö1", -2.5, 7.125), Interaction("$o2", 1, 8)]
        assert store.rebuild([Rebuilt(stored, profile, recent, "why")]) == set()
        store.put_searched("things", {user_id: liked("s1", "s2")})
        got = load(store, user_id)
        expected = replace(profile, updated_at=clock.now, generated_at=clock.now, version=3)
        assert_same(got.profile, expected)
        assert got.recent == tuple(recent)
        assert got.searched == tuple(liked("s1", "s2"))
        assert (got.announced, got.applied, got.announced_at, got.reread) == (0, 0, 0.0, False)


def test_a_profile_can_lose_what_it_had(store: ProfileStore):
    act(store, "o1")
    stored = load(store)
    rich = replace(
        stored.profile, embedding=unit(1), negative=NegativeProfile(unit(2), 5.0), interests=unit(3)[None]
    )
    store.rebuild([Rebuilt(stored, rich, [])])
    stored = load(store)
    assert stored.profile.interests.shape == (1, 33)
    bare = replace(stored.profile, embedding=None, negative=None, interests=np.empty((0, 0), np.float32))
    store.rebuild([Rebuilt(stored, bare, [])])
    assert_same(load(store).profile, replace(bare, version=3))


def test_get_answers_from_the_cache_then_from_mongo_and_knows_no_strangers(
    store: ProfileStore, cache: MemoryCache, counting: Counting
):
    assert store.get("ann", "things") is None
    act(store, "o1")
    cached = store.get("ann", "things")
    counting.sent.clear()
    assert store.get("ann", "things") is cached
    assert counting.sent == []
    cache._profiles.clear()
    assert_same(store.get("ann", "things"), load(store).profile)
    counting.sent.clear()
    assert_same(store.get("ann", "things"), load(store).profile)
    assert counting.sent == ["find"], "the load of the assertion"
    assert store.get("ann", "shoes") is None


def test_an_announcement_makes_a_user_known_and_due_but_does_not_change_the_profile(
    store: ProfileStore, clock: Clock
):
    store.announce([ANN, ANN, Owner("things", None), Owner("shoes", "ann")])
    stored = load(store)
    assert (stored.announced, stored.applied, stored.announced_at) == (1, 0, clock.now)
    assert_same(stored.profile, Profile("ann", "things"))
    clock.now += 5
    store.announce([ANN])
    assert (load(store).announced, load(store).announced_at) == (2, clock.now)
    assert load(store, domain="shoes").announced == 1
    assert [one.profile.user_id for one in waiting(store, "things", 10)] == ["ann"]
    store.announce([])


def test_applying_keeps_the_latest_interactions_and_objects_and_counts_the_pushes(store: ProfileStore):
    for i in range(5):
        act(store, f"o{i}", remember=3)
    stored = load(store)
    assert [one.object_id for one in stored.recent] == ["o2", "o3", "o4"]
    assert stored.profile.seen == tuple(f"o{i}" for i in range(5))
    act(store, "o1", "o9", "o8", remember=3)
    stored = load(store)
    assert [one.object_id for one in stored.recent] == ["o1", "o9", "o8"]
    assert stored.profile.seen == ("o2", "o3", "o4", "o1", "o9", "o8"), "the latest last, 2 * remember"
    assert (stored.announced, stored.applied, stored.profile.version) == (6, 6, 6)


def test_a_push_can_bring_nothing_new_and_one_that_a_batch_took_for_dead_is_not_applied(store: ProfileStore):
    store.announce([ANN])
    assert store.apply([Applied(load(store).profile, [])], 10) == set()
    store.announce([ANN])
    dead = load(store)
    assert store.rebuild([Rebuilt(dead, dead.profile, liked("o1"))]) == set()
    taken_over = load(store)
    assert taken_over.applied == taken_over.announced == 2
    assert store.apply([Applied(taken_over.profile, liked("o1"))], 10) == {"ann"}
    assert load(store).recent == tuple(liked("o1"))


def test_what_was_stored_is_cached_at_once(store: ProfileStore, cache: MemoryCache):
    act(store, "o1")
    assert_same(cache.get("ann", "things"), load(store).profile)
    stored = load(store)
    store.rebuild([Rebuilt(stored, replace(stored.profile, embedding=unit(1)), [])])
    assert_same(cache.get("ann", "things"), load(store).profile)


def test_whoever_applies_to_an_outdated_profile_is_told_and_nothing_of_theirs_is_stored(
    store: ProfileStore, cache: MemoryCache
):
    store.announce([Owner("things", user) for user in ("ann", "bob")])
    loaded = store.load("things", ["ann", "bob"])
    act(store, "o1")
    changes = [Applied(one.profile, liked("late")) for one in loaded.values()]
    assert store.apply(changes, 10) == {"ann"}
    assert [one.object_id for one in load(store).recent] == ["o1"]
    assert [one.object_id for one in load(store, "bob").recent] == ["late"]
    assert cache.get("ann", "things").seen == ("o1",)


def test_nobody_can_change_the_same_user_twice_in_one_call(store: ProfileStore):
    store.announce([ANN])
    stored = load(store)
    with pytest.raises(ValueError, match="each user once"):
        store.apply([Applied(stored.profile, liked("o1")), Applied(stored.profile, liked("o2"))], 10)
    with pytest.raises(ValueError, match="each user once"):
        store.rebuild([Rebuilt(stored, stored.profile, [])] * 2)
    assert load(store).recent == ()


def together(*calls: Callable[[], None]) -> None:
    """Run all calls at once, in threads; raise what one of them raised."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], None]) -> None:
        barrier.wait()
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_of_many_threads_acting_for_the_same_users_nothing_is_lost_and_nothing_counts_twice(
    store: ProfileStore,
):
    users, threads, pushes = ["ann", "bob"], 6, 8

    def push(thread: int) -> None:
        for i in range(pushes):
            store.announce([Owner("things", user) for user in users])
            open_users = set(users)
            while open_users:
                changes = [
                    Applied(replace(one.profile, positives=one.profile.positives + 1), liked(f"{thread} {i}"))
                    for one in store.load("things", open_users).values()
                ]
                open_users = store.apply(changes, 1_000)

    together(*[lambda thread=thread: push(thread) for thread in range(threads)])
    for user in users:
        stored = load(store, user)
        names = [one.object_id for one in stored.recent]
        assert sorted(names) == sorted(f"{t} {i}" for t in range(threads) for i in range(pushes))
        assert stored.profile.positives == stored.applied == stored.announced == threads * pushes
        assert stored.profile.version == threads * pushes


def test_of_many_who_make_a_user_known_at_once_each_is_counted(store: ProfileStore):
    owners = [Owner("things", f"u{i}") for i in range(20)]
    evidence = {owner.user_id: liked("s") for owner in owners if owner.user_id}
    together(
        *[lambda: store.announce(owners)] * 5,
        *[lambda: store.mark(owners)] * 2,
        *[lambda: store.put_searched("things", evidence)] * 2,
    )
    found = store.load("things", [f"u{i}" for i in range(20)])
    assert len(found) == 20
    assert {(one.announced, one.profile.version, one.reread) for one in found.values()} == {(5, 4, True)}


class Between:
    """A collection that does something once after its next bulk write."""

    def __init__(self, inner: Any, act: Callable[[], None]) -> None:
        self._inner, self._act = inner, act

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def bulk_write(self, *args: Any, **kwargs: Any) -> Any:
        result = self._inner.bulk_write(*args, **kwargs)
        act, self._act = self._act, lambda: None
        act()
        return result


def overtake_after_writing(store: ProfileStore, act: Callable[[], None]) -> None:
    collection = store._profiles

    def with_the_real_one() -> None:
        store._profiles = collection
        act()

    store._profiles = Between(collection, with_the_real_one)


@pytest.mark.parametrize("others", [1, WRITES - 1])
def test_a_write_that_others_wrote_over_before_it_was_checked_is_still_known_as_done(
    store: ProfileStore, others: int
):
    store.announce([Owner("things", user) for user in ("ann", "bob")])
    loaded = store.load("things", ["ann", "bob"])
    act(store, "first", user_id="bob")  # so that bob's write is lost, and each must be checked

    def others_act() -> None:
        for i in range(others):
            act(store, f"later {i}")

    overtake_after_writing(store, others_act)
    changes = [Applied(one.profile, liked("mine")) for one in loaded.values()]
    assert store.apply(changes, 1_000) == {"bob"}
    names = [one.object_id for one in load(store).recent]
    assert names == ["mine", *(f"later {i}" for i in range(others))]
    assert not load(store).reread


def test_a_write_that_can_no_longer_be_told_from_a_lost_one_has_the_profile_read_from_the_log(
    store: ProfileStore,
):
    store.announce([Owner("things", user) for user in ("ann", "bob")])
    loaded = store.load("things", ["ann", "bob"])
    act(store, "first", user_id="bob")

    def others_act() -> None:
        for i in range(WRITES):
            act(store, f"later {i}")

    overtake_after_writing(store, others_act)
    changes = [Applied(one.profile, liked("mine")) for one in loaded.values()]
    assert store.apply(changes, 1_000) == {"bob"}
    assert load(store).reread, "neither counted twice nor lost: the log knows"


def test_a_rebuild_loses_against_an_announcement_in_between(store: ProfileStore):
    act(store, "o1")
    act(store, "o1", user_id="bob")
    loaded = list(waiting(store, "things", 10))
    store.announce([ANN])
    changes = [Rebuilt(one, replace(one.profile, embedding=unit(1)), []) for one in loaded]
    assert store.rebuild(changes) == {"ann"}
    assert load(store).profile.embedding is None
    assert [one.object_id for one in load(store).recent] == ["o1"]
    assert [one.profile.user_id for one in waiting(store, "things", 10)] == ["ann"]
    assert load(store, "bob").recent == ()


def test_a_rebuild_settles_what_was_announced_and_tells_why_there_is_none(
    store: ProfileStore, database: Database[Any], clock: Clock
):
    store.announce([ANN])
    store.mark([ANN])
    clock.now += 100
    stored = load(store)
    assert store.rebuild([Rebuilt(stored, stored.profile, liked("o1"), "1 of 3 interactions")]) == set()
    after = load(store)
    assert (after.announced, after.applied, after.reread) == (1, 1, False)
    assert after.recent == tuple(liked("o1"))
    assert (after.profile.generated_at, after.profile.updated_at) == (clock.now, clock.now)
    assert waiting(store, "things", 10) == []
    assert database["user_embeddings"].find_one()["reason"] == "1 of 3 interactions"


@pytest.mark.parametrize(
    "meanwhile",
    [
        lambda store: store.mark([ANN]),
        lambda store: store.mark_all("things"),
        lambda store: store.put_searched("things", {"ann": liked("s")}),
        lambda store: store.put_searched("things", {"ann": []}),
        lambda store: act(store, "o2"),
    ],
    ids=["mark", "mark_all", "put_searched", "put_searched nothing", "act"],
)
def test_a_rebuild_loses_against_whatever_else_makes_the_user_due(
    store: ProfileStore, meanwhile: Callable[[ProfileStore], None]
):
    act(store, "o1")
    stored = load(store)
    meanwhile(store)
    assert store.rebuild([Rebuilt(stored, stored.profile, [])]) == {"ann"}
    assert [one.profile.user_id for one in waiting(store, "things", 10)] == ["ann"]


def test_marked_users_are_read_again_and_unknown_ones_become_known(store: ProfileStore):
    act(store, "o1")
    stored = load(store)
    store.rebuild([Rebuilt(stored, stored.profile, stored.recent)])
    assert waiting(store, "things", 10) == []
    store.mark([ANN, Owner("things", "new"), Owner("things", None)])
    store.mark([])
    due = {one.profile.user_id: one for one in waiting(store, "things", 10)}
    assert due.keys() == {"ann", "new"}
    assert all(one.reread for one in due.values())
    assert [one.object_id for one in due["ann"].recent] == ["o1"]
    assert (due["new"].announced, due["new"].applied) == (0, 0)


def test_a_whole_domain_is_marked_and_no_other(store: ProfileStore):
    store.announce([Owner(domain, f"u{i}") for domain in ("things", "shoes") for i in range(3)])
    assert store.mark_all("things") == 3
    assert all(one.reread for one in waiting(store, "things", 10))
    assert not any(one.reread for one in waiting(store, "shoes", 10))
    assert store.mark_all("nothing") == 0


def test_one_user_is_marked_in_every_domain_but_nobody_is_made_known(store: ProfileStore):
    store.announce([Owner(domain, user) for domain in ("things", "shoes") for user in ("ann", "bob")])
    assert store.mark_user("ann") == 2
    assert store.mark_user("nobody") == 0
    for domain in ("things", "shoes"):
        assert load(store, "ann", domain).reread
        assert not load(store, "bob", domain).reread
    assert store.load("things", ["nobody"]) == {}


def test_evidence_of_searches_is_replaced_as_a_whole_and_makes_nobody_known_without_any(store: ProfileStore):
    store.put_searched("things", {"ann": liked("a", "b"), "nobody": []})
    store.put_searched("things", {})
    assert load(store).searched == tuple(liked("a", "b"))
    assert (load(store).announced, load(store).applied) == (0, 0)
    assert "nobody" not in store.load("things", ["nobody"])
    store.put_searched("things", {"ann": liked("c")})
    assert load(store).searched == tuple(liked("c"))
    store.put_searched("things", {"ann": []})
    assert load(store).searched == ()
    assert [one.profile.user_id for one in waiting(store, "things", 10)] == ["ann"]


def test_the_due_come_in_the_order_they_waited_and_not_before_their_time(store: ProfileStore, clock: Clock):
    for user in ("c", "a", "b"):
        store.mark([Owner("things", user)])
        clock.now += 1
    assert [one.profile.user_id for one in waiting(store, "things", 10)] == ["c", "a", "b"]
    assert [one.profile.user_id for one in waiting(store, "things", 2)] == ["c", "a"]
    assert waiting(store, "things", 0) == [] == waiting(store, "things", -1) == waiting(store, "shoes", 10)
    store.postpone("things", {"c": "later", "nobody": "who?"}, 60)
    assert [one.profile.user_id for one in waiting(store, "things", 10)] == ["a", "b"]
    clock.now += 60
    assert [one.profile.user_id for one in waiting(store, "things", 10)] == ["a", "b", "c"]
    assert store.load("things", ["nobody"]) == {}
    store.postpone("things", {}, 60)


def test_the_due_are_read_a_page_at_a_time_and_who_came_later_is_left_out(
    store: ProfileStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(store_module, "PAGE", 4)
    for i in range(10):
        store.mark([Owner("things", f"u{i}")])
        clock.now += 1
    started = clock.now - 1  # when u9 was marked
    store.mark([Owner("things", "late")])
    pages = [[one.profile.user_id for one in page] for page in store.due_pages("things", 100, started)]
    assert pages == [many(4), many(8)[4:], many(10)[8:]]
    assert [len(page) for page in store.due_pages("things", 5, started)] == [4, 1]
    assert list(store.due_pages("things", 0, started)) == []


def test_acting_does_not_bring_a_postponed_user_forward(store: ProfileStore, clock: Clock):
    store.announce([ANN])
    store.postpone("things", {"ann": "x" * 5_000}, 60)
    clock.now += 10
    store.announce([ANN])
    assert waiting(store, "things", 10) == []
    clock.now += 50
    assert len(waiting(store, "things", 10)) == 1


def test_a_profile_is_dropped_unless_its_user_came_back(store: ProfileStore, cache: MemoryCache):
    for user in ("ann", "bob", "cid"):
        act(store, "o1", user_id=user)
    stored = list(store.load("things", ["ann", "bob", "cid"]).values())
    store.announce([Owner("things", "bob")])
    store.put_searched("things", {"cid": liked("s")})
    store.drop(stored)
    store.drop([])
    assert store.load("things", ["ann", "bob", "cid"]).keys() == {"bob", "cid"}
    assert cache.get("ann", "things") is None
    assert store.get("ann", "things") is None


def test_erasing_deletes_one_user_in_every_domain_and_nobody_else(
    store: ProfileStore, cache: MemoryCache, database: Database[Any]
):
    owners = [
        Owner(domain, user) for domain in ("things", "shoes", "gone") for user in ("ann", "ann2", "Ann")
    ]
    store.announce(owners)
    for owner in owners:
        store.get(str(owner.user_id), owner.domain)
    assert store.erase("ann", ["things", "shoes"]) == 3
    for owner in owners:
        known = owner.user_id != "ann"
        assert (cache.get(str(owner.user_id), owner.domain) is not None) == known
        assert (store.get(str(owner.user_id), owner.domain) is not None) == known
    assert store.erase("ann", ["things", "shoes"]) == 0
    assert database["user_embeddings"].count_documents({"user_id": "ann"}) == 0


def test_nothing_that_was_under_way_brings_an_erased_user_back(
    store: ProfileStore, cache: MemoryCache, database: Database[Any]
):
    act(store, "o1")
    act(store, "o1", user_id="bob")
    stored = load(store)
    store.erase("ann", ["things"])
    store.announce([Owner("things", "bob")])
    others = load(store, "bob").profile
    assert store.apply([Applied(stored.profile, liked("o2")), Applied(others, liked("o2"))], 10) == set()
    assert store.rebuild([Rebuilt(stored, stored.profile, [])]) == {"ann"}, "told, so that they can clean up"
    store.put_searched("things", {"ann": []})
    store.postpone("things", {"ann": "failed"}, 1)
    store.drop([stored])
    assert store.mark_all("things") == 1
    assert [found["user_id"] for found in database["user_embeddings"].find()] == ["bob"]
    assert cache.get("ann", "things") is None
    assert cache.get("bob", "things").version == 2


def test_who_was_read_before_an_erasure_is_not_cached_after_it(store: ProfileStore, cache: MemoryCache):
    act(store, "o1")
    cache._profiles.clear()
    collection = store._profiles

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(collection, name)

        def find_one(self, *args: Any) -> Any:
            found = collection.find_one(*args)
            store._profiles = collection
            store.erase("ann", ["things"])
            return found

    store._profiles = Slow()
    assert store.get("ann", "things") is not None, "the answer was on its way"
    assert cache.get("ann", "things") is None
    assert store.get("ann", "things") is None


def test_an_erased_user_who_comes_back_is_new(store: ProfileStore):
    for i in range(3):
        act(store, f"o{i}")
    store.erase("ann", ["things"])
    act(store, "o9")
    stored = load(store)
    assert stored.profile.seen == ("o9",)
    assert (stored.announced, stored.applied, stored.profile.version) == (1, 1, 1)
    assert_same(store.get("ann", "things"), stored.profile)


def many(count: int) -> list[str]:
    return [f"u{i}" for i in range(count)]


@pytest.mark.parametrize(
    ("call", "trips"),
    [
        (lambda s: s.announce([Owner("things", user) for user in many(150)]), ["update"]),
        (lambda s: s.mark([Owner("things", user) for user in many(150)]), ["update"]),
        (lambda s: s.mark_all("things"), ["update"]),
        (lambda s: s.load("things", many(150)), ["find", "find"]),
        (
            lambda s: s.put_searched("things", {u: liked("o") * (i % 2) for i, u in enumerate(many(150))}),
            ["update"],
        ),
        (lambda s: s.postpone("things", dict.fromkeys(many(150), "x"), 1), ["update"]),
        (lambda s: s.erase("u1", ["things", "shoes"]), ["find", "delete"]),
        (lambda s: s.announce([]), []),
        (lambda s: s.apply([], 5), []),
        (lambda s: s.rebuild([]), []),
        (lambda s: s.load("things", []), []),
    ],
    ids=lambda value: "-".join(value) or "none" if isinstance(value, list) else None,
)
def test_store_calls_do_not_grow_with_the_users(
    store: ProfileStore, counting: Counting, call: Callable[[ProfileStore], Any], trips: list[str]
):
    store.announce([Owner("things", user) for user in many(150)])
    counting.sent.clear()
    call(store)
    assert counting.sent == trips


def test_writing_takes_one_round_trip_and_who_was_faster_costs_a_read(
    store: ProfileStore, counting: Counting
):
    users = many(CHUNK)
    store.announce([Owner("things", user) for user in users])
    loaded = store.load("things", users).values()
    counting.sent.clear()
    assert store.apply([Applied(one.profile, liked("o")) for one in loaded], 5) == set()
    assert counting.sent == ["update"]
    assert store.apply([Applied(one.profile, liked("o")) for one in loaded], 5) == set(users)
    assert counting.sent == ["update", "update", "find"]
    loaded = store.load("things", users).values()
    counting.sent.clear()
    assert store.rebuild([Rebuilt(one, one.profile, []) for one in loaded]) == set()
    loaded = store.load("things", users).values()
    store.drop(list(loaded))
    assert counting.sent == ["update", "find", "delete"]
    assert store.load("things", users) == {}


def test_only_as_many_writes_are_remembered_as_promised(store: ProfileStore, database: Database[Any]):
    for i in range(WRITES + 5):
        act(store, f"o{i}")
    assert len(database["user_embeddings"].find_one()["writes"]) == WRITES == store_module.WRITES

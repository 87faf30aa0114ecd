"""The batch of profiles on real stores: what it makes, whom it leaves alone, and one failure stays one."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo.database import Database

from clickstream.actions import ActionStore
from clickstream.improvement_queue import Owner
from clickstream.records import Action
from improvement.domain import SearchDomain
from improvement.evidence import EvidenceWeights
from improvement.profiles import batch as module
from improvement.profiles.batch import RETRY_SECONDS, SETTLE_SECONDS, BatchReport, ProfileBatch
from improvement.profiles.cache import MemoryCache
from improvement.profiles.interests import taste
from improvement.profiles.live import LiveProfiles
from improvement.profiles.made import made
from improvement.profiles.profile import Interaction, Profile, StoredProfile
from improvement.profiles.settings import ProfileSettings
from improvement.profiles.store import ProfileStore
from improvement.promotion import promote
from improvement.wiring import Rooms
from tests.support import Clock, make_object

SETTINGS = ProfileSettings(remember=10, min_interactions=3)
ITEMS = {
    f"o{n}": row.astype(np.float32)
    for n, row in enumerate(np.random.default_rng(0).standard_normal((40, 16)))
}


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return replace(domain, evidence=EvidenceWeights(), profiles=SETTINGS)


@dataclass
class World:
    """Objects, users who act on them, and a clock that the stores share."""

    rooms: Rooms
    domain: SearchDomain
    clock: Clock
    profiles: ProfileStore
    actions: ActionStore
    batch: ProfileBatch
    acted: int = 0

    @property
    def live(self) -> LiveProfiles:
        rooms = self.rooms
        return LiveProfiles(
            self.profiles, self.actions, rooms.vectors, rooms.releases, rooms.domains, rooms.learning
        )

    def actions_of(self, user: str, objects: Sequence[str], kind: str = "like_post") -> list[Action]:
        self.acted += 1
        self.clock.now += 1
        return [
            Action(
                action_id=f"{self.acted}/{n}", user_id=user, object_id=o, action_type=kind,
                domain=self.domain.name,
            )
            for n, o in enumerate(objects)
        ]  # fmt: skip

    def act(self, user: str, *objects: str, kind: str = "like_post") -> None:
        self.live.push(self.actions_of(user, objects, kind))

    def die_while_acting(self, user: str, *objects: str) -> None:
        """Announce and log what a user does, and never apply it."""
        self.profiles.announce([Owner(self.domain.name, user)])
        self.actions.push(self.actions_of(user, objects))

    def search(self, user: str, **weights: float) -> None:
        self.clock.now += 1
        said = [Interaction(o, weight, self.clock.now + n) for n, (o, weight) in enumerate(weights.items())]
        self.profiles.put_searched(self.domain.name, {user: said})

    def run(self, **kw: Any) -> BatchReport:
        return self.batch.run(self.domain, **kw)

    def stored(self, user: str) -> StoredProfile:
        return self.profiles.load(self.domain.name, [user])[user]

    def profile(self, user: str) -> Profile:
        return self.stored(user).profile

    def neighbours(self) -> set[str]:
        space = self.rooms.releases.space(self.domain.name)
        near = self.rooms.neighbours.near(self.domain.name, space, np.ones(16, np.float32), 100, "-")
        return {user for user, _ in near}


@pytest.fixture
def world(rooms: Rooms, domain: SearchDomain, database: Database[Any]) -> World:
    collection = rooms.releases.blue(domain.name).collection_id
    rooms.vectors.upsert(collection, [make_object(o, row) for o, row in ITEMS.items()])
    clock = Clock()
    profiles, actions = ProfileStore(database, MemoryCache(), clock), ActionStore(database, clock)
    batch = replace(rooms.batch, profiles=profiles, actions=actions, clock=clock)
    return World(rooms, domain, clock, profiles, actions, batch)


def expected(*said: tuple[str, float, float], settings: ProfileSettings = SETTINGS) -> Any:
    objects, weights, at = zip(*said, strict=True)
    return taste(np.stack([ITEMS[o] for o in objects]), weights, at, settings)


def assert_same(profile: Profile, said: Any) -> None:
    np.testing.assert_allclose(profile.embedding, said.embedding, atol=1e-6)
    np.testing.assert_allclose(profile.liked, said.liked, atol=1e-6)
    assert (profile.negative is None) == (said.negative is None)
    if profile.negative is not None:
        np.testing.assert_allclose(profile.negative.vector, said.negative.vector, atol=1e-6)
        assert profile.negative.at == said.negative.at


# What is made


def test_a_profile_is_made_of_actions_and_searches_together(world: World):
    world.act("ann", "o1", "o2")
    world.act("ann", "o3", kind="not_interested")
    at = world.clock.now
    world.search("ann", o4=2.5, o5=-1.5)
    report = world.run()
    assert (report.processed, report.skipped, report.failed) == (["ann"], {}, {})
    profile = world.profile("ann")
    whole = [("o1", 5, at - 1), ("o2", 5, at - 1), ("o3", -5, at), ("o4", 2.5, at + 1), ("o5", -1.5, at + 2)]
    assert_same(profile, expected(*whole))
    assert profile.model_version == world.rooms.releases.space(world.domain.name)
    assert profile.generated_at == world.clock.now
    assert profile.seen[2:] == ("o3", "o4", "o5")
    cached = world.profiles.get("ann", world.domain.name)
    assert cached is not None
    assert cached.version == profile.version


def test_what_a_search_says_against_objects_is_no_interaction(world: World):
    world.act("ann", "o1")
    world.act("ann", "o2", kind="not_interested")
    world.search("ann", o3=3.0, o4=-1.0, o5=-1.0, o6=-1.0)
    world.run()
    profile = world.profile("ann")
    assert (profile.positives, profile.negatives, profile.interactions) == (2, 1, 3)
    assert profile.negative is not None
    assert profile.negative.vector @ ITEMS["o5"] > 0


def test_objects_that_are_gone_say_nothing(world: World):
    world.act("ann", "o1", "o2", "o3", "gone")
    at = world.clock.now
    world.run()
    assert_same(world.profile("ann"), expected(("o1", 5, at), ("o2", 5, at), ("o3", 5, at)))
    assert world.profile("ann").positives == 3
    world.act("bob", "gone", "lost", "away")
    assert world.run().skipped == {"bob": "0 of 3 interactions"}


def test_too_few_interactions_are_kept_but_not_used(world: World):
    world.act("ann", "o1", "o2")
    assert world.run().skipped == {"ann": "2 of 3 interactions"}
    assert world.profile("ann").interactions == 2
    assert world.neighbours() == set()
    world.act("ann", "o3")
    assert (world.profile("ann").embedding @ ITEMS["o1"]) > 0.1, "what came before is still in it"
    assert world.run().processed == ["ann"]
    assert world.neighbours() == {"ann"}


def test_who_only_dislikes_has_a_negative_profile_and_no_neighbours(world: World):
    world.act("ann", "o1", "o2", "o3")
    world.run()
    assert world.neighbours() == {"ann"}
    world.profiles.erase("ann", [world.domain.name])
    world.act("ann", "o1", "o2", "o3", kind="not_interested")
    assert world.run().processed == ["ann"]
    profile = world.profile("ann")
    assert profile.embedding is None
    assert profile.negative is not None
    assert profile.negatives == 3
    assert world.neighbours() == set()


def test_when_nothing_is_left_the_profile_goes(world: World):
    world.search("ann", o1=3.0, o2=3.0, o3=3.0)
    world.act("bob", "o1", "o2", "o3")
    world.run()
    assert world.neighbours() == {"ann", "bob"}
    world.search("ann")  # every session was marked irrelevant
    assert world.run().skipped == {"ann": "no interactions left"}
    assert world.profiles.load(world.domain.name, ["ann", "bob"]).keys() == {"bob"}
    assert world.profiles.get("ann", world.domain.name) is None
    assert world.neighbours() == {"bob"}


def test_only_who_has_news_is_made_anew(world: World):
    world.act("ann", "o1", "o2", "o3")
    world.act("bob", "o1", "o2", "o3")
    assert sorted(world.run().processed) == ["ann", "bob"]
    before = world.profile("bob")
    world.act("ann", "o4")
    assert world.run().processed == ["ann"]
    assert len(world.run()) == 0
    after = world.profile("bob")
    assert (after.version, after.generated_at) == (before.version, before.generated_at)


def test_a_user_alone_and_among_others_gets_the_same_profile_to_the_last_bit(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "ROWS", 7)  # a few users at a time, and hardly a vector remembered
    for n in range(9):
        world.act(f"user {n}", *(f"o{(n * 3 + k) % 40}" for k in range(5)))
        world.search(f"user {n}", **{f"o{n + 20}": -1.0, f"o{n + 30}": 2.0})
    assert len(world.run().processed) == 9
    together = {n: world.profile(f"user {n}") for n in range(9)}
    monkeypatch.undo()
    for n, before in together.items():
        assert world.batch.rebuild(world.domain, [f"user {n}"]).processed == [f"user {n}"]
        after = world.profile(f"user {n}")
        assert after.embedding.tobytes() == before.embedding.tobytes()
        assert after.negative.vector.tobytes() == before.negative.vector.tobytes()
        assert after.version == before.version + 1


def test_a_limit_leaves_who_waited_least_for_later(world: World):
    for name in ("ann", "bob", "cat"):
        world.act(name, "o1", "o2", "o3")
    told: list[int] = []
    assert world.run(limit=2, progress=lambda report: told.append(len(report))).processed == ["ann", "bob"]
    assert told == [2]
    assert world.run(limit=2).processed == ["cat"]
    assert world.run(limit=0).processed == []


def test_more_users_than_one_query_gives_are_all_made(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "SWEEP", 2)
    for n in range(5):
        world.act(f"user {n}", "o1", "o2", "o3")
    assert sorted(world.run().processed) == [f"user {n}" for n in range(5)]


# Nothing counts twice, and nothing is lost


def test_who_is_acting_right_now_is_left_alone_and_stays_due(world: World):
    world.act("ann", "o1", "o2", "o3")
    world.profiles.announce([Owner(world.domain.name, "ann")])
    before = world.stored("ann")
    assert world.run().skipped == {"ann": "acting right now"}
    after = world.stored("ann")
    assert (after.profile.version, after.announced, after.applied) == (
        before.profile.version, before.announced, before.applied,
    )  # fmt: skip
    world.clock.now += SETTLE_SECONDS + 1
    assert world.run().processed == ["ann"]


def test_a_push_that_died_is_read_from_the_log_and_counts_once(world: World):
    world.act("ann", "o1", "o2")
    first = world.clock.now
    world.die_while_acting("ann", "o3")
    at = world.clock.now
    world.clock.now += SETTLE_SECONDS
    report = world.run()
    assert report.processed == ["ann"]
    assert_same(world.profile("ann"), expected(("o1", 5, first), ("o2", 5, first), ("o3", 5, at)))
    one = world.stored("ann")
    assert [i.object_id for i in one.recent] == ["o1", "o2", "o3"]
    assert one.announced == one.applied == 2
    assert len(world.run()) == 0


def test_a_profile_marked_for_rereading_forgets_what_the_log_does_not_have(world: World):
    world.act("ann", "o1", "o2", "o3")
    world.act("ann", "o4")
    world.actions.take_back(world.actions.of_user("ann", world.domain.name, limit=1))
    world.profiles.mark([Owner(world.domain.name, "ann")])
    world.run()
    assert [i.object_id for i in world.stored("ann").recent] == ["o1", "o2", "o3"]
    assert not world.stored("ann").reread
    assert world.profile("ann").positives == 3


def test_only_the_latest_that_are_remembered_are_read_again(world: World):
    for n in range(14):
        world.act("ann", f"o{n}")
    world.profiles.mark([Owner(world.domain.name, "ann")])
    world.run()
    assert [i.object_id for i in world.stored("ann").recent] == [f"o{n}" for n in range(4, 14)]
    assert world.profile("ann").positives == SETTINGS.remember


class Between:
    """Stands before a store and does something once, when one of its methods was called."""

    def __init__(self, inner: Any, method: str, act: Callable[[], None]) -> None:
        self.inner, self.method, self.act = inner, method, act

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if name != self.method:
            return found

        def call(*args: Any, **kw: Any) -> Any:
            result = found(*args, **kw)
            act, self.act = self.act, lambda: None
            act()
            return result

        return call


def test_what_a_user_does_while_the_batch_is_at_it_is_kept(world: World):
    world.act("ann", "o1", "o2", "o3")
    world.act("bob", "o1", "o2", "o3")
    vectors = Between(world.rooms.vectors, "means", lambda: world.act("ann", "o9"))
    report = replace(world.batch, vectors=vectors).run(world.domain)
    assert (report.processed, report.skipped) == (["bob"], {"ann": "acting right now"})
    assert [i.object_id for i in world.stored("ann").recent] == ["o1", "o2", "o3", "o9"]
    world.clock.now += 1
    assert world.run().processed == ["ann"]
    assert world.profile("ann").positives == 4


def test_a_run_ends_although_users_go_on_acting(world: World):
    for name in ("ann", "bob"):
        world.act(name, "o1", "o2", "o3")
    rounds: list[int] = []

    def act_again(report: BatchReport) -> None:
        rounds.append(len(report))
        world.act("ann", f"o{len(rounds) % 40}")

    assert sorted(world.run(progress=act_again).processed) == ["ann", "bob"]
    assert rounds == [2]
    assert world.run().processed == ["ann"], "what came meanwhile is for the next run"


def test_two_batches_at_once_make_every_profile_once_or_twice_and_never_half(world: World):
    for n in range(12):
        world.act(f"user {n}", "o1", f"o{n + 4}", "o3")
    reports: list[BatchReport] = []
    threads = [threading.Thread(target=lambda: reports.append(world.run())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 2
    assert set(reports[0].processed) | set(reports[1].processed) == {f"user {n}" for n in range(12)}
    assert not reports[0].failed
    assert not reports[1].failed
    for n in range(12):
        one = world.stored(f"user {n}")
        at = one.recent[0].at
        assert_same(one.profile, expected(("o1", 5, at), (f"o{n + 4}", 5, at), ("o3", 5, at)))


# One failure stays one


def test_a_user_whose_profile_cannot_be_made_fails_alone_and_is_tried_again_later(world: World):
    world.search("eve", o1=1e300, o2=3.0, o3=3.0)
    world.act("ann", "o1", "o2", "o3")
    report = world.run()
    assert report.processed == ["ann"]
    assert report.failed.keys() == {"eve"}
    assert "weights[0]" in report.failed["eve"]
    assert report.as_json()["failed"] == [
        {"user_id": "eve", "domain": world.domain.name, "reason": report.failed["eve"]}
    ]
    assert len(world.run()) == 0
    world.clock.now += RETRY_SECONDS + 1
    world.search("eve", o1=3.0, o2=3.0, o3=3.0)
    assert world.run().processed == ["eve"]


def test_a_plugin_that_cannot_weigh_somebodys_actions_does_not_touch_the_others(world: World):
    class Picky(EvidenceWeights):
        def weight(self, kind: str, meta: Any = None) -> float:
            if kind == "odd":
                raise ArithmeticError("odd one out")
            return super().weight(kind, meta)

    for name in ("ann", "eve"):
        world.act(name, "o1", "o2", "o3")
    world.act("eve", "o4", kind="odd")
    world.profiles.mark_all(world.domain.name)
    report = world.batch.run(replace(world.domain, evidence=Picky()))
    assert report.processed == ["ann"]
    assert report.failed == {"eve": "ArithmeticError: odd one out"}


def test_neighbours_that_cannot_be_told_do_not_fail_the_batch(world: World):
    class Away:
        def put(self, *args: Any) -> None:
            raise ConnectionError("the neighbours are away")

    world.act("ann", "o1", "o2", "o3")
    report = replace(world.batch, neighbours=Away()).run(world.domain)
    assert report.processed == ["ann"]
    assert world.profile("ann").generated_at is not None


def test_who_is_erased_while_the_batch_is_at_it_leaves_nothing_behind(world: World):
    world.act("ann", "o1", "o2", "o3")
    world.act("bob", "o1", "o2", "o3")

    def erase() -> None:
        world.profiles.erase("ann", [world.domain.name])
        world.rooms.neighbours.erase("ann")

    report = replace(world.batch, vectors=Between(world.rooms.vectors, "means", erase)).run(world.domain)
    assert report.processed == ["bob"]
    assert world.profiles.load(world.domain.name, ["ann", "bob"]).keys() == {"bob"}
    assert world.profiles.get("ann", world.domain.name) is None
    assert world.neighbours() == {"bob"}


# Model switches


def switch(world: World, space: str) -> None:
    rooms = world.rooms
    release = rooms.releases.create(world.domain, space)
    turned = [make_object(o, np.roll(row, 1)) for o, row in ITEMS.items()]
    rooms.vectors.upsert(release.collection_id, turned)
    promote(replace(rooms, profiles=world.profiles), world.domain.name, space, "ann")


def test_after_a_model_switch_profiles_are_made_of_the_new_vectors(world: World):
    world.act("ann", "o1", "o2", "o3")
    world.act("bob", "o1")
    world.run()
    before = world.profile("ann")
    switch(world, "v2")
    report = world.run()
    assert (report.processed, report.skipped) == (["ann"], {"bob": "1 of 3 interactions"})
    after = world.profile("ann")
    assert (before.model_version, after.model_version) == ("words-v1", "v2")
    np.testing.assert_allclose(after.embedding, np.roll(before.embedding, 1), atol=1e-5)
    assert world.profile("bob").model_version == "v2"
    assert world.neighbours() == {"ann"}


def test_a_switch_while_the_batch_is_at_it_does_not_leave_a_profile_of_the_old_space(world: World):
    world.act("ann", "o1", "o2", "o3")
    vectors = Between(world.rooms.vectors, "means", lambda: switch(world, "v2"))
    assert replace(world.batch, vectors=vectors).run(world.domain).skipped == {"ann": "acting right now"}
    world.clock.now += 1
    assert world.run().processed == ["ann"]
    assert world.profile("ann").model_version == "v2"


def test_who_acts_during_a_switch_is_done_soon_after(world: World):
    world.act("ann", "o1", "o2", "o3")
    world.run()
    assert not world.run().again_soon
    world.profiles.announce([Owner(world.domain.name, "ann")])
    assert not world.run().again_soon, "the next batch does"
    switch(world, "v2")
    report = world.run()
    assert report.skipped == {"ann": "acting right now"}
    assert report.again_soon


# Cost


class Counted:
    """Counts the calls to a store."""

    def __init__(self, inner: Any, calls: list[str]) -> None:
        self.inner, self.calls = inner, calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)

        def call(*args: Any, **kw: Any) -> Any:
            self.calls.append(name)
            return found(*args, **kw)

        return call


def test_store_calls_do_not_grow_with_the_users(world: World):
    def calls_for(users: range) -> list[str]:
        for n in users:
            world.act(f"user {n}", "o1", "o2", f"o{n % 30 + 5}")
            if n % 3 == 0:
                world.profiles.mark([Owner(world.domain.name, f"user {n}")])
        calls: list[str] = []
        stores = ("profiles", "actions", "vectors", "releases", "neighbours")
        counted = {name: Counted(getattr(world.batch, name), calls) for name in stores}
        assert len(replace(world.batch, **counted).run(world.domain).processed) == len(users)
        return sorted(calls)

    assert calls_for(range(3)) == calls_for(range(10, 50))


# One profile


@given(st.data())
def test_a_profile_made_is_what_a_loop_over_the_interactions_makes(data: st.DataObject):
    names = st.sampled_from([*list(ITEMS)[:6], "gone"])
    said = st.builds(
        Interaction,
        names,
        st.floats(-10, 10).filter(lambda w: abs(w) > 1e-3),
        st.integers(0, 10**7).map(float),
    )
    recent, searched = data.draw(st.lists(said, max_size=6)), data.draw(st.lists(said, max_size=6))
    stored = StoredProfile(Profile("ann", "things"), tuple(recent), tuple(searched))
    means = {**ITEMS, "gone": None}
    change = made(stored, means, "v1", SETTINGS)
    profile = change.profile
    known = [one for one in (*recent, *searched) if one.object_id != "gone"]
    likes = [one for one in known if one.weight > 0]
    dislikes = [one for one in recent if one.weight < 0 and one.object_id != "gone"]
    assert (profile.positives, profile.negatives) == (len(likes), len(dislikes))
    if likes:
        total = sum(one.weight * ITEMS[one.object_id] / np.linalg.norm(ITEMS[one.object_id]) for one in likes)
        np.testing.assert_allclose(profile.liked, total / np.linalg.norm(total), atol=1e-5)
    else:
        assert profile.liked is None
        assert profile.embedding is None
    assert (profile.negative is None) == all(one.weight > 0 for one in known)
    assert (change.reason is None) == (len(likes) + len(dislikes) >= 3)
    latest = {one.object_id: max(o.at for o in (*recent, *searched) if o.object_id == one.object_id)
              for one in (*recent, *searched)}  # fmt: skip
    assert set(profile.seen) == latest.keys()
    assert [latest[o] for o in profile.seen] == sorted(latest.values())


def test_what_is_seen_is_bounded_and_the_latest_stays():
    recent = tuple(Interaction(f"o{n}", 1.0, float(n)) for n in range(40))
    again = Interaction("o0", 1.0, 100.0)
    stored = StoredProfile(Profile("ann", "things"), (*recent, again), ())
    seen = made(stored, ITEMS, "v1", SETTINGS).profile.seen
    assert len(seen) == 2 * SETTINGS.remember
    assert seen[-2:] == ("o39", "o0")


# The log, read again


def test_after_a_model_switch_noise_in_the_log_pushes_nothing_out(world: World):
    world.act("ann", *(f"o{n}" for n in range(5)))
    world.act("bob", *(f"o{n}" for n in range(5)))
    for _ in range(30):
        world.act("ann", "o9", kind="impression")
        world.act("bob", *["o9"] * 20, kind="view_post")
    world.run()
    before = {user: world.stored(user) for user in ("ann", "bob")}
    world.profiles.mark_all(world.domain.name)
    assert sorted(world.run().processed) == ["ann", "bob"]
    for user, was in before.items():
        now = world.stored(user)
        assert now.recent == was.recent
        np.testing.assert_allclose(now.profile.embedding, was.profile.embedding, atol=1e-6)


def test_one_document_that_cannot_be_read_stops_nobody_else(world: World, database: Database[Any]):
    world.act("ann", "o1", "o2", "o3")
    world.act("bob", "o1", "o2", "o3")
    database["user_embeddings"].update_one({"user_id": "ann"}, {"$set": {"recent": ["garbage"]}})
    assert world.run().processed == ["bob"]
    found = database["user_embeddings"].find_one({"user_id": "ann"})
    assert "unreadable" in found["reason"]
    assert found["due_at"] > world.clock.now


class Away(MemoryCache):
    """A cache that cannot be reached."""

    def put(self, profiles: Sequence[Profile]) -> bool:
        return False


def test_what_could_not_be_cached_is_due_again_soon(world: World, database: Database[Any]):
    world.act("ann", "o1", "o2", "o3")
    world.run()
    world.profiles.mark_all(world.domain.name)
    uncached = replace(world.batch, profiles=ProfileStore(database, Away(), world.clock))
    assert uncached.run(world.domain).processed == ["ann"]
    assert world.run().processed == []
    world.clock.now += 61
    assert world.run().processed == ["ann"]
    cached = world.profiles.get("ann", world.domain.name)
    assert cached is not None
    assert cached.version == world.profile("ann").version


def test_a_cached_profile_of_another_space_is_looked_up_anew(world: World, database: Database[Any]):
    world.act("ann", "o1", "o2", "o3")
    world.run()
    database["user_embeddings"].update_one({"user_id": "ann"}, {"$set": {"model_version": "other"}})
    assert world.profiles.get("ann", world.domain.name).model_version != "other"
    assert world.profiles.get("ann", world.domain.name, "other").model_version == "other"

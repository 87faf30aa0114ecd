"""Improving users under the laws: pure copies, nothing lost, each trouble alone."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from dramatiq.middleware import TimeLimitExceeded
from pymongo.database import Database

from clickstream.improvement_queue import ImprovementQueue, Owner, Request, Status
from clickstream.records import Action, QueryVector, RegisteredSession
from improvement.domain import SearchDomain
from improvement.evidence import EvidenceWeights
from improvement.improver import Improver
from improvement.inputs import EvidenceBatch
from improvement.jobs import improve_users, run_improvement, sweep_idle
from improvement.objects import Object
from improvement.periodic import RETRY_SECONDS
from improvement.profiles.live import LiveProfiles
from improvement.profiles.profile import Interaction, StoredProfile
from improvement.profiles.settings import ProfileSettings
from improvement.promotion import profiles_tick, promote, rollback
from improvement.releases import Release
from improvement.routes import catalogue
from improvement.selection import Selection, SessionSelector
from improvement.wiring import Rooms, improver
from tests.support import Calls, WordEncoder, click, make_object, make_objects, make_session


@dataclass
class World:
    """A domain with forty objects, and what a test does to it."""

    rooms: Rooms
    domain: SearchDomain
    originals: list[Object]
    database: Database[Any]

    @property
    def improver(self) -> Improver:
        return improver(self.rooms)

    def search(
        self, session_id: str, user: str | None, shown: Sequence[int], clicked: Sequence[int], **kw: Any
    ) -> None:
        kw.setdefault("domain", self.domain.name)
        self.rooms.clickstream.register(make_session(session_id, user, [f"o{i}" for i in shown], **kw))
        self.rooms.clickstream.push_events([(session_id, click(f"o{i}")) for i in clicked])

    def queue(self, session_id: str, user: str | None) -> None:
        changed = self.rooms.clickstream.version(session_id) or 1
        self.rooms.queue.enqueue([Request(session_id, Owner(self.domain.name, user), changed)])

    def taught(
        self, session_id: str, user: str | None, shown: Sequence[int], clicked: Sequence[int], **kw: Any
    ) -> None:
        self.search(session_id, user, shown, clicked, **kw)
        self.queue(session_id, user)

    def improve(self) -> int:
        return run_improvement(self.improver, 100, idle_seconds=1e9)

    def status(self, session_id: str) -> tuple[str, str | None]:
        entry = self.rooms.queue.entry(session_id)
        assert entry is not None
        return entry.status.value, entry.reason

    def copies(self) -> dict[tuple[str, str], Object]:
        blue = self.rooms.releases.blue(self.domain.name).collection_id
        refs = self.rooms.vectors.copies(
            blue, [o.user_id for o in self.rooms.queue.owners(self.domain.name)] or ["-"]
        )
        names = sorted({f"{ref.original_id}_{ref.user_id}" for ref in refs})
        found = self.rooms.vectors.named(blue, names) if names else []
        return {(str(o.user_id), str(o.original_id)): o for o in found if o.user_id}

    def vectors(self) -> dict[tuple[str, str], bytes]:
        return {key: o.parts.tobytes() + o.mean.tobytes() for key, o in self.copies().items()}


@pytest.fixture
def world(rooms: Rooms, domain: SearchDomain, database: Database[Any]) -> World:
    originals = make_objects(domain, 40)
    rooms.vectors.upsert(rooms.releases.blue(domain.name).collection_id, originals)
    return World(rooms, domain, originals, database)


def test_a_click_makes_a_copy_nearer_to_the_query_and_leaves_the_original(world: World):
    world.taught("s", "ann", range(10), [4])
    before = world.rooms.vectors.find(world.rooms.releases.blue(world.domain.name).collection_id, ["o4"])[
        "o4"
    ]
    world.improve()
    assert world.status("s") == ("done", None)
    copies = world.copies()
    assert {o for _, o in copies} == {f"o{i}" for i in range(10)}
    query = world.domain.embed(["red shoes"])[0]
    copy = copies["ann", "o4"]
    assert (copy.parts @ query).max() > (before.parts @ query).max()
    assert (copy.object_id, copy.original_id, copy.user_id, copy.session_id) == ("o4_ann", "o4", "ann", "s")
    assert copy.payload == before.payload
    after = world.rooms.vectors.find(world.rooms.releases.blue(world.domain.name).collection_id, ["o4"])["o4"]
    np.testing.assert_array_equal(after.parts, before.parts)


def test_applying_twice_is_applying_once(world: World):
    world.taught("s", "ann", range(10), [4])
    world.improve()
    once = world.vectors()
    world.rooms.queue.requeue(["s"])
    world.improve()
    world.rooms.queue.enqueue_rebuild([Owner(world.domain.name, "ann")])
    world.improve()
    assert world.vectors() == once


def test_the_order_of_sessions_does_not_matter_and_all_leave_a_trace(world: World):
    sessions = {"s1": (range(10), [4], "red shoes"), "s2": (range(5, 15), [7, 14], "blue hat")}
    for name, (shown, clicked, query) in sessions.items():
        world.taught(f"ann-{name}", "ann", shown, clicked, query=query)
    world.improve()  # together
    for name, (shown, clicked, query) in reversed(sessions.items()):
        world.taught(f"bob-{name}", "bob", shown, clicked, query=query)
        world.improve()  # one by one, the other way round
    vectors = world.vectors()
    anns = {object_id: value for (user, object_id), value in vectors.items() if user == "ann"}
    bobs = {object_id: value for (user, object_id), value in vectors.items() if user == "bob"}
    assert anns == bobs
    assert set(anns) == {f"o{i}" for i in range(15)}


def test_a_later_session_does_not_erase_an_earlier_click(world: World):
    world.taught("s1", "ann", range(5), [4])
    world.improve()
    first = world.vectors()["ann", "o4"]
    world.taught("s2", "ann", range(10, 15), [12], query="blue hat")
    world.improve()
    assert world.vectors()["ann", "o4"] == first
    assert ("ann", "o12") in world.copies()


def test_marking_a_session_irrelevant_takes_it_back_out(world: World):
    world.taught("s1", "ann", range(5), [4])
    world.improve()
    before = world.vectors()
    world.taught("s2", "ann", range(3, 9), [8], query="blue hat")
    world.improve()
    assert world.vectors() != before
    world.rooms.clickstream.mark_irrelevant("s2")
    world.rooms.queue.requeue(["s2"])
    world.improve()
    assert world.vectors() == before
    assert world.status("s2") == ("skipped", "marked irrelevant")
    world.rooms.clickstream.mark_irrelevant("s1")
    world.rooms.queue.requeue(["s1"])
    world.improve()
    assert world.vectors() == {}


def test_original_id_is_right_after_any_number_of_rounds(world: World):
    for i in range(4):
        world.taught(f"s{i}", "ann", range(5), [i])
        world.improve()
        assert {o.original_id for o in world.copies().values()} == {f"o{i}" for i in range(5)}
        assert all(o.object_id == f"{o.original_id}_ann" for o in world.copies().values())


def test_drift_is_bounded_after_many_sessions(world: World):
    for i in range(12):
        world.taught(f"s{i}", "ann", range(10), [i % 10], query=f"red shoes {i}")
    world.improve()
    for (_, object_id), copy in world.copies().items():
        original = world.originals[int(object_id[1:])]
        for before, after in (*zip(original.parts, copy.parts, strict=True), (original.mean, copy.mean)):
            cosine = before @ after / np.linalg.norm(before) / np.linalg.norm(after)
            assert np.arccos(np.clip(cosine, -1, 1)) <= world.domain.adjuster.max_drift + 1e-3


def test_a_user_sees_nobody_elses_copies(world: World):
    world.taught("s", "ann", range(10), [4])
    world.improve()
    query = world.domain.embed(["red shoes"])[0]
    info = world.domain.search_index_info
    plain, _ = world.rooms.vectors.search(world.domain.name, info, query, 40)
    bobs, _ = world.rooms.vectors.search(world.domain.name, info, query, 40, user_id="bob")
    assert plain == bobs
    assert not any(hit.personalized for hit in bobs)


class Stubborn(SessionSelector):
    def select(self, session: RegisteredSession) -> Selection:
        if session.session_id == "odd":
            raise RuntimeError("the selector stumbled")
        return super().select(session)


def test_in_a_mixed_batch_every_valid_session_is_applied_and_every_other_has_its_reason(world: World):
    world.domain = replace(world.domain, selector=Stubborn())
    world.rooms = replace(world.rooms, domains={world.domain.name: world.domain})
    world.taught("none", "u0", range(5), [])
    world.taught("one", "u1", range(5), [3])
    world.taught("three", "u2", range(20), [1, 2, 7])
    world.taught("all", "u3", range(3), [0, 1, 2])
    world.taught("nobody", None, range(5), [3])
    world.taught("deleted", "u4", [97, 98, 99], [98])
    world.taught("partly deleted", "u5", [1, 98, 2], [2])
    world.taught("repeated", "u6", [1, 1, 2, 1], [2, 2])
    world.taught("explosive", "u7", range(5), [3], query="explode")
    world.taught("odd", "u8", range(5), [3])
    world.taught("elsewhere", "u9", range(5), [77])
    world.taught("no query", "u10", range(5), [3], query="")
    world.queue("unknown", "u11")
    world.improve()
    expected = {
        "none": ("skipped", "no clicks"),
        "one": ("done", None),
        "three": ("done", None),
        "all": ("done", None),
        "nobody": ("skipped", "anonymous"),
        "deleted": ("skipped", "no longer in the collection"),
        "partly deleted": ("done", None),
        "repeated": ("done", None),
        "explosive": ("failed", "the encoder exploded"),
        "odd": ("failed", "the selector stumbled"),
        "elsewhere": ("skipped", "no click on a shown object"),
        "no query": ("skipped", "no query text"),
    }
    for session_id, (status, reason) in expected.items():
        got, why = world.status(session_id)
        assert got == status, (session_id, why)
        assert (reason is None and why is None) or (reason or "") in (why or ""), session_id
    assert {user for user, _ in world.copies()} == {"u1", "u2", "u3", "u5", "u6"}
    assert world.rooms.queue.counts()["pending"] == 0
    assert world.rooms.queue.entry("unknown") is None, "a line about nothing would only keep a user's id"


class Selective:
    """An adjuster that cannot stand one user."""

    max_drift = 0.3

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def adjust(self, batch: EvidenceBatch) -> Any:
        if any(user == "eve" for user, _ in batch.keys):
            raise ArithmeticError("eve again")
        return self.inner.adjust(batch)


def test_a_user_whose_adjustment_fails_fails_alone_and_keeps_what_they_had(world: World):
    world.taught("e1", "eve", range(5), [2])
    world.improve()
    before = {key: value for key, value in world.vectors().items() if key[0] == "eve"}
    hostile = replace(world.domain, adjuster=Selective(world.domain.adjuster))
    world.rooms = replace(world.rooms, domains={hostile.name: hostile})
    world.taught("e2", "eve", range(5, 9), [7])
    world.taught("a", "ann", range(5), [2])
    world.improve()
    assert world.status("a") == ("done", None)
    assert world.status("e2") == ("failed", "ArithmeticError: eve again")
    after = world.vectors()
    assert {key: value for key, value in after.items() if key[0] == "eve"} == before
    assert ("ann", "o2") in after


def test_an_adjuster_that_returns_nan_writes_nothing(world: World):
    class Broken(Selective):
        def adjust(self, batch: EvidenceBatch) -> Any:
            return batch.parts * float("nan")

    hostile = replace(world.domain, adjuster=Broken(None))
    world.rooms = replace(world.rooms, domains={hostile.name: hostile})
    world.taught("s", "ann", range(5), [2])
    world.improve()
    assert world.status("s")[0] == "failed"
    assert "NaN" in str(world.status("s")[1])
    assert world.copies() == {}


def test_queries_are_embedded_once_and_remembered(world: World):
    encoder = world.domain.encoder
    assert isinstance(encoder, WordEncoder)
    world.taught("s1", "ann", range(5), [2])
    world.taught("s2", "bob", range(5), [2], query="blue hat")
    world.improve()
    assert sorted(encoder.calls[-1]) == ["blue hat", "red shoes"]
    calls = len(encoder.calls)
    world.rooms.queue.requeue(["s1"])
    world.improve()
    assert len(encoder.calls) == calls


def test_a_vector_of_another_embedding_model_is_not_compared(world: World):
    session = make_session("s", "ann", ["o1", "o2"], query="", domain=world.domain.name)
    foreign = QueryVector(model_id="another", vectors=((1.0,) * 16,))
    world.rooms.clickstream.register(session, foreign)
    world.rooms.clickstream.push_events([("s", click("o1"))])
    world.queue("s", "ann")
    world.improve()
    assert world.status("s") == ("skipped", "no query vector: its query is a vector of 'another'")


def test_store_calls_per_batch_do_not_grow_with_the_batch(world: World):
    def calls_for(sessions: range) -> int:
        for i in sessions:
            world.taught(f"s{i}", f"user{i}", range(i % 7, i % 7 + 20), [i % 7 + 3])
        counted = Calls()
        improve_users(counted.around(world.improver), 1_000)
        assert world.status(f"s{sessions[-1]}")[0] == "done"
        return counted.calls

    assert calls_for(range(3)) == calls_for(range(100, 112))


@pytest.mark.parametrize("after", range(2, 13))  # the first call is the claim itself
def test_a_store_failing_at_any_call_loses_nothing_and_applies_nothing_twice(world: World, after: int):
    def fail() -> None:
        raise ConnectionError("the store went away")

    world.taught("s1", "ann", range(10), [4])
    world.taught("s2", "bob", range(5), [2])
    interrupted = Calls(after, fail)
    with pytest.raises(ConnectionError):
        improve_users(interrupted.around(world.improver), 100)
    world.improve()
    assert world.status("s1") == world.status("s2") == ("done", None)
    after_trouble = world.vectors()
    world.rooms.vectors.delete_copies_of(
        world.rooms.releases.blue(world.domain.name).collection_id, [o.object_id for o in world.originals]
    )
    world.rooms.queue.requeue(["s1"])
    world.rooms.queue.requeue(["s2"])
    world.improve()
    assert world.vectors() == after_trouble


@pytest.mark.parametrize("after", range(1, 13))
def test_an_original_deleted_during_improvement_leaves_no_orphan(world: World, after: int):
    writer = catalogue(world.rooms, world.domain)
    world.taught("s", "ann", range(10), [4])
    interrupted = Calls(after, lambda: writer.delete(["o4", "o5"]))
    improve_users(interrupted.around(world.improver), 100)
    world.improve()
    assert world.rooms.queue.counts()["pending"] == 0
    assert not {"o4", "o5"} & {object_id for _, object_id in world.copies()}


@pytest.mark.parametrize("after", range(1, 13))
def test_an_original_replaced_during_improvement_gets_a_copy_of_the_new_one(world: World, after: int):
    writer = catalogue(world.rooms, world.domain)
    replaced = make_object("o4", np.eye(16, dtype=np.float32)[3], payload={"new": True})
    world.taught("s", "ann", range(10), [4])
    interrupted = Calls(after, lambda: writer.upsert([replaced], world.domain.encoder.model_id))
    improve_users(interrupted.around(world.improver), 100)
    world.improve()
    assert world.rooms.queue.counts()["pending"] == 0
    copy = world.copies()["ann", "o4"]
    assert copy.payload == {"new": True}
    assert float(copy.parts[0, 3]) > 0.9


def test_a_session_that_keeps_killing_its_worker_is_given_up(world: World):
    world.taught("s", "ann", range(5), [2])
    for _ in range(world.improver.max_attempts):
        assert world.rooms.queue.claim(10, lease_seconds=-1).entries  # the worker dies, its lease expires
    world.improve()
    assert world.status("s") == ("failed", "given up after 5 attempts")
    world.taught("t", "ann", range(5), [3])
    world.improve()
    assert world.status("t") == ("done", None)


def test_a_session_that_outlasts_the_time_limit_is_given_up(world: World):
    class Endless(Selective):
        def adjust(self, batch: EvidenceBatch) -> Any:
            if any(user == "eve" for user, _ in batch.keys):
                raise TimeLimitExceeded  # what Dramatiq throws into the running thread
            return self.inner.adjust(batch)

    endless = replace(world.domain, adjuster=Endless(world.domain.adjuster))
    world.rooms = replace(world.rooms, domains={endless.name: endless})
    world.taught("e", "eve", range(5), [2])
    for _ in range(world.improver.max_attempts):
        with pytest.raises(TimeLimitExceeded):
            world.improve()
    world.taught("a", "ann", range(5), [2])
    world.improve()
    assert world.status("e") == ("failed", "given up after 5 attempts")
    assert world.status("a") == ("done", None)


class Torn(EvidenceWeights):
    """Evidence of a plugin that has a mistake in it."""

    def of(self, session: RegisteredSession, propensities: Sequence[float] = ()) -> Any:
        wrong = {"none": None, "text": {"o2": "much"}, "nan": {"o2": float("nan")}, "list": ["o2"]}
        if session.session_id == "odd":
            raise RuntimeError("torn")
        return wrong.get(session.session_id, super().of(session, propensities))


@pytest.mark.parametrize(
    ("session_id", "status", "says"),
    [
        ("odd", "failed", "RuntimeError: torn"),
        ("text", "failed", "TypeError"),
        ("list", "failed", "AttributeError"),
        ("nan", "failed", "weight of 'o2': expected a finite number, got nan"),
        ("none", "skipped", "no event that the domain's evidence weighs"),
    ],
)
def test_evidence_that_fails_fails_its_session_alone(world: World, session_id: str, status: str, says: str):
    torn = replace(world.domain, evidence=Torn())
    world.rooms = replace(world.rooms, domains={torn.name: torn})
    world.taught(session_id, "ann", range(5), [2])
    world.taught("even", "ann", range(5), [3])
    world.improve()
    assert world.status(session_id)[0] == status
    assert says in str(world.status(session_id)[1])
    assert world.status("even") == ("done", None)


@pytest.mark.parametrize(("left", "status"), [(float("nan"), "skipped"), (-1.0, "skipped"), ("", "failed")])
def test_a_decay_that_fails_fails_its_session_alone(world: World, left: Any, status: str):
    class Rotten(EvidenceWeights):
        def decay(self, age_seconds: float) -> Any:
            return left if age_seconds > 0 else 1.0

    rotten = replace(world.domain, evidence=Rotten())
    world.rooms = replace(world.rooms, domains={rotten.name: rotten})
    now = int(time.time())
    world.taught("old", "ann", range(5), [2], created_at=now - 500)
    world.taught("new", "ann", range(5), [3], created_at=now - 60)
    world.improve()
    assert world.status("old")[0] == status
    assert world.status("new") == ("done", None)


@pytest.mark.parametrize("vectors", [((1.0, 2.0),), ((float("nan"),) * 16,)])
def test_a_stored_query_vector_that_cannot_be_used_is_skipped(world: World, vectors: Any):
    session = make_session("s", "ann", ["o1", "o2"], domain=world.domain.name)
    world.rooms.clickstream.register(session, QueryVector(model_id="words-v1", vectors=vectors))
    world.rooms.clickstream.push_events([("s", click("o1"))])
    world.queue("s", "ann")
    world.taught("t", "ann", range(5), [3])
    world.improve()
    assert world.status("s")[0] == "skipped"
    assert "its query vector has shape" in str(world.status("s")[1])
    assert world.status("t") == ("done", None)


def test_an_unconfigured_domain_fails_with_its_name(world: World):
    world.search("s", "ann", range(5), [2])
    world.rooms.queue.enqueue([Request("s", Owner("gone", "ann"), 1)])
    world.improve()
    assert world.status("s") == ("failed", "domain 'gone' is not configured")


def test_idle_sessions_that_pass_the_selector_queue_themselves(world: World):
    world.search("good", "ann", range(5), [2])
    world.search("clickless", "ann", range(5), [])
    sweep_idle(world.improver, idle_seconds=1e9)
    assert world.rooms.queue.counts()["pending"] == 0
    sweep_idle(world.improver, idle_seconds=-1)
    assert world.rooms.queue.entry("good") is not None
    assert world.rooms.queue.entry("clickless") is None
    world.improve()
    assert world.status("good") == ("done", None)


def test_late_events_of_an_improved_session_are_learned_too(world: World):
    world.search("s", "ann", range(5), [2])
    sweep_idle(world.improver, idle_seconds=-1)
    world.improve()
    before = world.vectors()
    world.rooms.clickstream.push_events([("s", click("o3", "late"))])
    sweep_idle(world.improver, idle_seconds=-1)
    world.improve()
    assert world.vectors()["ann", "o3"] != before["ann", "o3"]


def test_outcomes_are_counted(world: World):
    world.taught("s", "ann", range(5), [2])
    world.taught("t", "bob", range(5), [])
    world.improve()
    registry = world.rooms.metrics.registry
    for outcome, count in ((Status.DONE, 1), (Status.SKIPPED, 1)):
        labels = {"domain": world.domain.name, "outcome": outcome.value}
        assert registry.get_sample_value("improvement_sessions_total", labels) == count


# Profiles and popularity


class Broken:
    """A store that does not answer."""

    def __getattr__(self, name: str) -> Any:
        raise ConnectionError("the store went away")


def act(world: World, user: str, *objects: str) -> None:
    """Like objects outside a search, applied at once as the service does it."""
    rooms = world.rooms
    live = LiveProfiles(
        rooms.profiles, rooms.actions, rooms.vectors, rooms.releases, rooms.domains, rooms.learning
    )
    live.push(
        [
            Action(action_id=o, user_id=user, object_id=o, action_type="like_post", domain=world.domain.name)
            for o in objects
        ]
    )


@pytest.fixture
def lively(world: World) -> World:
    """A domain whose evidence knows all kinds of events, and whose profiles count from the first on."""
    settings = ProfileSettings(min_interactions=1, remember=5)
    world.domain = replace(world.domain, evidence=EvidenceWeights(), profiles=settings)
    world.rooms = replace(world.rooms, domains={world.domain.name: world.domain})
    return world


def stored(world: World, user: str) -> StoredProfile:
    return world.rooms.profiles.load(world.domain.name, [user])[user]


def test_improving_a_session_makes_its_users_profile_at_once(lively: World):
    lively.taught("s", "ann", range(5), [2], created_at=int(time.time()) - 500)
    lively.improve()
    one = stored(lively, "ann")
    evidence = lively.domain.evidence.of(lively.rooms.clickstream.sessions(["s"])[0])
    at = lively.rooms.clickstream.sessions(["s"])[0].created_at
    assert list(one.searched) == [Interaction(o, weight * 3.0, at) for o, weight in evidence.items()]
    assert max(one.searched, key=lambda i: i.weight).object_id == "o2"
    assert one.profile.positives == 1
    mean = lively.originals[2].mean
    assert one.profile.liked @ mean / np.linalg.norm(mean) == pytest.approx(1, abs=1e-5)


def test_improving_again_says_the_same_again_and_only_the_latest(lively: World):
    for n in range(4):
        lively.taught(f"s{n}", "ann", range(5), [4], created_at=int(time.time()) - 500 + n)
    lively.improve()
    once = stored(lively, "ann")
    assert len(once.searched) == 5
    assert once.searched[-1].at == max(one.at for one in once.searched)
    lively.rooms.queue.requeue(["s0", "s3"])
    lively.improve()
    twice = stored(lively, "ann")
    assert twice.searched == once.searched
    assert twice.profile.embedding.tobytes() == once.profile.embedding.tobytes()


def test_a_session_marked_irrelevant_takes_its_part_of_the_profile_back(lively: World):
    lively.taught("s1", "ann", range(5), [2])
    lively.improve()
    before = stored(lively, "ann")
    lively.taught("s2", "ann", range(5, 10), [7])
    lively.improve()
    assert len(stored(lively, "ann").searched) > len(before.searched)
    for session_id in ("s2", "s1"):
        lively.rooms.clickstream.mark_irrelevant(session_id)
        lively.rooms.queue.requeue([session_id])
        lively.improve()
        if session_id == "s2":
            assert stored(lively, "ann").searched == before.searched
    assert lively.rooms.profiles.load(lively.domain.name, ["ann"]) == {}


def test_nobody_and_who_never_searched_get_no_profile(lively: World):
    lively.taught("s", None, range(5), [2])
    lively.taught("t", "ann", range(5), [])
    lively.improve()
    assert lively.rooms.profiles.load(lively.domain.name, ["ann", "None"]) == {}


def test_a_profile_that_cannot_be_made_does_not_fail_the_copies_and_is_made_later(lively: World):
    lively.taught("s", "ann", range(5), [2])
    broken = replace(lively.improver, batch=replace(lively.rooms.batch, vectors=Broken()))
    improve_users(broken, 100)
    assert lively.status("s") == ("done", None)
    assert ("ann", "o2") in lively.copies()
    assert stored(lively, "ann").profile.embedding is None
    lively.improve()
    assert stored(lively, "ann").profile.embedding is not None


def test_evidence_that_could_not_be_stored_leaves_its_sessions_pending(lively: World):
    lively.taught("s", "ann", range(5), [2])
    broken = replace(lively.improver, batch=replace(lively.rooms.batch, profiles=Broken()))
    with pytest.raises(ConnectionError):
        improve_users(broken, 100)
    assert lively.status("s")[0] == "pending"
    lively.improve()
    assert lively.status("s") == ("done", None)
    assert stored(lively, "ann").searched


def test_the_batch_of_profiles_runs_when_it_is_due_and_not_before(lively: World):
    act(lively, "ann", "o1", "o2")
    assert stored(lively, "ann").profile.generated_at is None
    lively.improve()
    first = stored(lively, "ann").profile.generated_at
    assert first is not None
    act(lively, "ann", "o3")
    lively.improve()
    assert stored(lively, "ann").profile.generated_at == first
    lively.rooms.queue.hurry(profiles_tick(lively.domain.name))
    lively.improve()
    assert stored(lively, "ann").profile.generated_at > first


def test_a_batch_that_fails_is_due_again_soon_and_the_rest_of_the_work_goes_on(lively: World):
    act(lively, "ann", "o1", "o2")
    lively.taught("s", "bob", range(5), [2])
    broken = replace(lively.improver, batch=replace(lively.rooms.batch, releases=Broken()))
    assert run_improvement(broken, 100, idle_seconds=1e9) == 1
    assert lively.rooms.popularity.top(lively.domain.name, 10) != []
    assert stored(lively, "ann").profile.generated_at is None
    later = ImprovementQueue(lively.database, lambda: time.time() + RETRY_SECONDS + 1)
    run_improvement(replace(lively.improver, queue=later), 100, idle_seconds=1e9)
    assert stored(lively, "ann").profile.generated_at is not None


def switched(world: World, space: str) -> Release:
    release = world.rooms.releases.create(world.domain, space)
    world.rooms.vectors.upsert(release.collection_id, make_objects(world.domain, 40, seed=7))
    return release


def test_after_set_blue_the_next_run_makes_every_profile_anew(lively: World):
    act(lively, "ann", "o1", "o2")
    lively.taught("s", "bob", range(5), [2])
    lively.improve()
    switched(lively, "v2")
    rooms = lively.rooms
    promote(rooms, lively.domain.name, "v2", "ann")
    lively.improve()
    for user in ("ann", "bob"):
        assert stored(lively, user).profile.model_version == "v2"
    rollback(rooms, lively.domain.name, "ann")
    lively.improve()
    for user in ("ann", "bob"):
        assert stored(lively, user).profile.model_version == "words-v1"


def test_a_switch_whose_maker_died_is_finished_by_the_worker(lively: World):
    act(lively, "ann", "o1", "o2")
    lively.improve()
    switched(lively, "v2")
    lively.rooms.releases.set_blue(lively.domain.name, "v2")
    lively.improve()
    assert stored(lively, "ann").profile.model_version == "v2"


def test_popularity_is_counted_when_it_is_due(lively: World):
    begin = time.time()

    def improve(seconds: float) -> list[str]:
        later = ImprovementQueue(lively.database, lambda: begin + seconds)
        run_improvement(replace(lively.improver, queue=later), 100, idle_seconds=1e9)
        return [name for name, _ in lively.rooms.popularity.top(lively.domain.name, 10)]

    assert improve(0.0) == []
    act(lively, "ann", "o1", "o2")
    act(lively, "bob", "o2")
    lively.search("s", "cat", range(5), [4])
    assert improve(0.0) == []
    assert improve(RETRY_SECONDS + 1) == ["o2", "o1", "o4"]  # nothing was known: soon again
    act(lively, "cat", "o1")
    act(lively, "dan", "o1")
    interval = lively.improver.popularity_interval
    assert improve(RETRY_SECONDS + interval / 2) == ["o2", "o1", "o4"]
    assert improve(RETRY_SECONDS + interval + 2)[0] == "o1"

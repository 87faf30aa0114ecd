"""Audits of a real domain: what they measure, what they say of it, and what is done about it."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from pymongo.database import Database

from clickstream.actions import ActionStore
from clickstream.improvement_queue import Owner
from clickstream.records import Action, SessionEvent
from clickstream.store import ClickstreamStore
from improvement.domain import SearchDomain
from improvement.erasure import erase_user
from improvement.evaluation.drift import Grade
from improvement.green.builds import BuildState
from improvement.improver import Improver
from improvement.jobs import improve_users, run_improvement
from improvement.objects import Object
from improvement.promotion import promote, promote_build, rollback
from improvement.quality.audit import audit, audit_quality
from improvement.quality.audits import Audit, AuditStore, Finding
from improvement.quality.evidence_day import HOUR, evidence_day
from improvement.quality.healing import AUDIT, HEALED, go_on, heal, restore
from improvement.quality.learning import LEAST_RATE
from improvement.quality.samples import DAY, Kind, Row
from improvement.quality.settings import AuditSettings
from improvement.routes import catalogue
from improvement.wiring import Rooms
from tests.support import Clock, Gap, make_object, make_objects, make_session

SPACE = "words-v1"


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    likes = replace(domain.evidence, events={**domain.evidence.events, "like_post": 5.0})
    return replace(domain, evidence=likes, audit=AuditSettings(least_evidence=10, least_rate=0.0))


@pytest.fixture
def originals(rooms: Rooms, domain: SearchDomain) -> list[Object]:
    objects = make_objects(domain, 30)
    rooms.vectors.upsert(rooms.releases.blue(domain.name).collection_id, objects)
    return objects


@dataclass
class World:
    """A domain whose days pass."""

    rooms: Rooms
    improver: Improver
    domain: SearchDomain
    database: Database[Any]
    now: float
    count: int = 0

    def act(self, user: str, *objects: str, kind: str = "like_post", ago: float = HOUR) -> None:
        actions = []
        for object_id in objects:
            self.count += 1
            actions.append(Action(
                action_id=f"a{self.count}", user_id=user, object_id=object_id, action_type=kind,
                created_at=int(self.now - ago), domain=self.domain.name,
            ))  # fmt: skip
        ActionStore(self.database, Clock(self.now - ago)).push(actions)
        self.rooms.profiles.mark([Owner(self.domain.name, user)])

    def search(
        self, user: str | None, shown: Sequence[str], clicked: Sequence[str], ago: float = HOUR
    ) -> str:
        self.count += 1
        name, at = f"s{self.count}", int(self.now - ago)
        store = ClickstreamStore(self.database, Clock(self.now - ago))
        store.register(make_session(name, user, shown, created_at=at, domain=self.domain.name))
        store.push_events(
            [(name, SessionEvent(event_id=o, object_id=o, created_at=at + 30)) for o in clicked]
        )
        return name

    def profiles(self) -> None:
        self.rooms.batch.run(self.domain)

    def tomorrow(self, days: float = 1.0) -> None:
        self.now += days * DAY

    def audit(self, **changes: Any) -> Audit:
        asked = replace(self.domain, audit=replace(self.domain.audit, **changes))
        worker = replace(self.improver, domains={self.domain.name: asked})
        return audit(worker, asked, self.now)

    def open_alerts(self) -> dict[str, str]:
        return {one.alert.kind: one.alert.severity.value for one in self.rooms.alerts.open()}

    def turn_profiles(self, angle: float) -> None:
        """Somebody, or something, turns everybody's profile."""
        for found in self.rooms.profiles.sample(self.domain.name, 1_000):
            assert found.embedding is not None
            side = np.zeros_like(found.embedding)
            side[5] = 1.0
            side -= (side @ found.embedding) * found.embedding
            side /= np.linalg.norm(side)
            turned = np.cos(angle) * found.embedding + np.sin(angle) * side
            from improvement.profiles.documents import _binary  # noqa: PLC2701

            key = Owner(self.domain.name, found.user_id).key
            self.database["user_embeddings"].update_one(
                {"_id": key}, {"$set": {"embedding": _binary(turned)}}
            )


@pytest.fixture
def world(
    rooms: Rooms, improving: Improver, domain: SearchDomain, database: Database[Any], originals: list[Object]
) -> World:
    return World(rooms, improving, domain, database, time.time())


def grades(found: Audit) -> dict[str, str]:
    return {finding.kind: finding.grade.value for finding in found.findings}


# What is measured


def test_the_first_audit_has_nothing_to_compare_with_and_remembers(world: World):
    world.act("ann", "o1", "o2", "o3")
    world.profiles()
    found = world.audit()
    assert (found.grade, found.release, found.space) == (Grade.GOOD, SPACE, SPACE)
    assert found.measured["drift"]["objects"]["day"]["since"] is None
    assert len(world.rooms.samples.before(world.domain.name, Kind.OBJECTS, world.now).rows) == 30
    assert len(world.rooms.samples.before(world.domain.name, Kind.PROFILES, world.now).rows) == 1
    assert world.rooms.audits.latest(world.domain.name) == found
    assert json.dumps(found.as_json(), allow_nan=False)


def test_a_quiet_day_moves_nothing(world: World):
    world.act("ann", "o1", "o2", "o3")
    world.search("ann", ["o1", "o2", "o3"], ["o2"])
    world.rooms.queue.enqueue_rebuild([Owner(world.domain.name, "ann")])
    world.profiles()
    world.audit()
    world.tomorrow()
    found = world.audit()
    for kind in ("objects", "profiles"):
        day = found.measured["drift"][kind]["day"]
        assert (day["drift"]["mean"], day["cause"], day["replaced"]) == (0.0, "learning", 0)
    assert grades(found)["drift.objects"] == grades(found)["drift.profiles"] == "good"
    assert found.release_good
    assert world.open_alerts() == {}


def test_drift_of_profiles_is_a_warning_and_then_an_alarm(world: World):
    for user in ("ann", "bob"):
        world.act(user, "o1", "o2", "o3")
    world.profiles()
    world.audit()
    for angle, grade in ((0.2, "good"), (0.6, "warning"), (1.2, "alarm"), (0.0, "good")):
        world.tomorrow()
        world.turn_profiles(angle)
        found = world.audit()
        assert found.measured["drift"]["profiles"]["day"]["drift"]["mean"] == pytest.approx(
            1 - np.cos(angle), abs=1e-5
        )
        assert grades(found)["drift.profiles"] == grade
        expected = {} if grade == "good" else {"drift.profiles": grade}
        assert world.open_alerts() == expected
        assert found.release_good, "users moved, not the collection"


def test_a_slow_slide_is_seen_by_the_week(world: World):
    world.act("ann", "o1", "o2", "o3")
    world.profiles()
    world.audit()
    for _ in range(7):
        world.tomorrow()
        world.turn_profiles(0.12)
        found = world.audit()
    week = found.measured["drift"]["profiles"]["week"]["drift"]
    assert week["days"] == pytest.approx(7)
    assert week["whole"] > 0.1 > week["mean"]
    assert grades(found)["drift.profiles"] == "warning"
    assert "since a week ago" in next(f.message for f in found.findings if f.kind == "drift.profiles")


def test_objects_that_somebody_wrote_anew_did_not_drift_and_others_did(world: World, originals: list[Object]):
    world.audit()
    world.tomorrow()
    blue = world.rooms.releases.blue(world.domain.name).collection_id
    world.rooms.vectors.upsert(blue, [make_object("o1", -originals[1].parts)])
    found = world.audit()
    day = found.measured["drift"]["objects"]["day"]
    assert (day["replaced"], day["drift"]["whole"]) == (1, 0.0)
    world.tomorrow()
    corrupted = [replace(o, parts=-o.parts) for o in originals if o.object_id != "o1"]
    world.rooms.vectors.upsert(blue, corrupted)  # what was given is said to be the same
    found = world.audit()
    assert grades(found)["drift.objects"] == "alarm"
    assert not found.release_good


def test_copies_are_sampled_and_compared(world: World):
    for number in range(3):
        world.search("ann", ["o1", "o2", "o3"], ["o2"], ago=HOUR + number)
    run_improvement(world.improver, 10, idle_seconds=-1)
    assert world.rooms.vectors.copies(world.rooms.releases.blue(world.domain.name).collection_id, ["ann"])
    world.profiles()
    world.audit()
    world.tomorrow()
    drift = world.audit().measured["drift"]["copies"]["day"]["drift"]
    assert (drift["compared"], drift["whole"]) == (3, 0.0)
    world.search("ann", ["o1", "o2", "o3"], ["o1"])
    run_improvement(world.improver, 10, idle_seconds=-2 * DAY)
    world.tomorrow()
    assert world.audit().measured["drift"]["copies"]["day"]["drift"]["whole"] > 0


# Promotions


def build(world: World, name: str, turned: float = 0.0) -> Any:
    rooms, domain = world.rooms, world.domain
    made = rooms.builds.ask(domain.name, f"{SPACE}@{name}", SPACE, True, "ann", name * 32)
    green = rooms.releases.create(
        domain, made.embedding_model_id, space=SPACE, build=made.build_id, population=True
    )
    if turned:
        ids = [f"o{n}" for n in range(30)]
        targets = np.random.default_rng(1).standard_normal((30, 16)).astype(np.float32)
        targets /= np.linalg.norm(targets, axis=1, keepdims=True)
        rooms.population.save(made.build_id, ids, targets, [turned] * 30)
    rooms.mirror.reconcile(domain, rooms.releases.blue(domain.name), green)
    rooms.builds.end(made.build_id, BuildState.BUILT)
    return rooms.builds.get(made.build_id)


def test_what_a_promotion_moved_is_told_apart_from_drift(world: World):
    world.audit()
    world.tomorrow()
    promote_build(world.rooms, build(world, "a", turned=1.3), "ann", force="for the test")
    found = world.audit(self_heal=True)
    assert found.measured["drift"]["objects"]["day"]["cause"] == "promotion"
    assert "drift.objects" not in grades(found)
    assert grades(found)["drift.promoted"] == "alarm"
    assert (found.healing, found.release_good) == (None, False), "told, and not acted upon by itself"
    assert world.open_alerts()["drift.promoted"] == "alarm"
    world.tomorrow()
    assert grades(world.audit())["drift.objects"] == "good"


def test_vectors_of_another_space_are_not_compared(world: World):
    world.audit()
    world.tomorrow()
    world.rooms.releases.create(world.domain, "v2")
    world.rooms.releases.set_blue(world.domain.name, "v2")
    world.rooms.vectors.upsert(
        world.rooms.releases.blue(world.domain.name).collection_id, make_objects(world.domain, 30, seed=9)
    )
    found = world.audit()
    assert found.measured["drift"]["objects"]["day"] | {"since": 0} == {
        "since": 0, "cause": "space", "drift": None, "replaced": 0, "gone": 0, "new": 0,
    }  # fmt: skip
    assert not [kind for kind in grades(found) if kind.startswith("drift")]


# Evidence


@pytest.mark.parametrize(("clicked", "grade"), [(1, "good"), (2, "warning"), (3, "alarm")])
def test_the_balance_of_evidence_is_that_of_what_teaches(world: World, clicked: int, grade: str):
    """9 shown: 1 clicked and 8 passed over is 1:8, 2 and 7 are 1:3.5, 3 and 6 are 1:2."""
    shown = [f"o{n}" for n in range(9)]
    for user in range(4):
        world.search(f"u{user}", shown, shown[-clicked:])
    world.search("bouncing", shown, [])  # teaches nothing
    found = world.audit()
    assert grades(found)["evidence.balance"] == grade
    assert found.measured["evidence"]["positives"] == 4 * clicked
    assert found.measured["evidence"]["negatives"] == 4 * (9 - clicked)


def test_actions_are_evidence_too_and_too_little_says_nothing(world: World):
    world.act("ann", *[f"o{n}" for n in range(9)], kind="like_post")
    domain = world.domain
    actions = world.rooms.actions.newest(domain.name, 100)
    weighs = replace(domain, evidence=replace(domain.evidence, events={"like_post": 1.0, "hide": -1.0}))
    day = evidence_day(weighs, [], actions, world.now, 100)
    assert (day.actions, day.positives, day.negatives, day.users) == (9, 9, 0, {"ann"})
    assert "evidence.balance" not in grades(world.audit())


def test_only_a_day_is_read_and_the_rate_is_of_what_was_read(world: World):
    shown = ["o1", "o2", "o3"]
    for hours in (1, 2, 23, 25, 48):
        world.search("ann", shown, ["o3"], ago=hours * HOUR)

    def day(most: int) -> Any:
        history = world.rooms.clickstream.history(world.domain.name, limit=most)
        return evidence_day(world.domain, history, [], world.now, most)

    assert (day(100).sessions, day(100).pieces) == (3, 9)
    assert day(100).rate == pytest.approx(9 / 24)
    assert day(2).sessions == 2
    assert day(2).rate == pytest.approx(6 / 2, rel=0.01), "of the two hours that were read"


def test_code_of_the_domain_that_fails_is_no_evidence(world: World):
    class Exploding:
        def select(self, session: Any) -> Any:
            raise RuntimeError("the plugin exploded")

        click_events = frozenset({"click"})

    world.search("ann", ["o1"], ["o1"])
    broken: Any = replace(world.domain, selector=Exploding())
    day = evidence_day(broken, world.rooms.clickstream.history(world.domain.name, limit=9), [], world.now, 9)
    assert (day.failed, day.pieces, day.users) == (1, 0, {"ann"})


def test_a_stream_of_evidence_that_dries_up_is_a_warning(world: World):
    assert "evidence.rate" not in grades(world.audit(least_rate=1.0)), "there never was any"
    shown = [f"o{n}" for n in range(10)]
    for user in range(6):
        world.search(f"u{user}", shown, ["o9"])
    world.now += 1
    assert grades(world.audit(least_rate=1.0))["evidence.rate"] == "good"
    world.tomorrow(2)
    assert grades(world.audit(least_rate=1.0))["evidence.rate"] == "warning"
    assert world.open_alerts() == {"evidence.rate": "warning"}


# Coverage


def test_coverage_counts_those_who_were_there(world: World):
    for user in ("ann", "bob"):
        world.act(user, "o1", "o2", "o3")
    world.act("cat", "o1")
    world.search("dan", ["o1", "o2"], ["o2"], ago=3 * DAY)
    world.profiles()
    users = world.audit().measured["users"]
    day = users["day"]
    assert (day["active"], day["usable"], day["ready"], day["usable_of_ready"]) == (
        3,
        pytest.approx(2 / 3),
        2,
        1.0,
    )
    assert (users["week"]["active"], users["week"]["copies"]) == (4, 0.0)


def test_profiles_that_should_be_there_and_are_not_are_a_warning(world: World):
    for number in range(25):
        world.act(f"u{number}", "o1", "o2", "o3")
    world.profiles()
    assert grades(world.audit())["coverage.profiles"] == "good"
    world.database["user_embeddings"].update_many({}, {"$set": {"model_version": "another space"}})
    world.now += 1
    assert grades(world.audit())["coverage.profiles"] == "warning"


def test_new_objects_are_covered_when_somebody_saw_them(world: World):
    world.audit()
    world.tomorrow()
    blue = world.rooms.releases.blue(world.domain.name).collection_id
    new = [f"new{n}" for n in range(4)]
    world.rooms.vectors.upsert(blue, [make_object(name, np.ones(16)) for name in new])
    for user in range(50):
        world.search(f"u{user}", [*new[:3], "o1"], [])
    found = world.audit()
    assert found.measured["new_objects"] == {
        "new": 4, "shown": 3, "coverage": 0.75, "impressions": 150, "click_through": 0.0,
    }  # fmt: skip
    assert grades(found)["coverage.new_clicks"] == "warning"
    world.search("ann", [*new, "o1"], ["new0"])
    world.now += 1
    assert grades(world.audit())["coverage.new_clicks"] == "good"


def test_who_was_erased_is_in_no_sample(world: World):
    for user in ("ann", "bob"):
        world.act(user, "o1", "o2", "o3")
    world.profiles()
    world.audit()
    erase_user(world.rooms, "ann")
    assert world.rooms.samples.before(world.domain.name, Kind.PROFILES, world.now).rows.keys() == {
        Owner(world.domain.name, "bob").key
    }
    world.tomorrow()
    samples: Any = Gap(world.rooms.samples, "save", lambda: erase_user(world.rooms, "bob"), before=True)
    worker = replace(world.improver, samples=samples)
    world.tomorrow()
    audit(worker, world.domain, world.now)
    assert world.database["sample_rows"].count_documents({"owner": {"$ne": None}}) == 0
    everything = repr(
        [list(world.database[n].find()) for n in ("samples", "sample_rows", "audits", "alerts")]
    )
    assert "ann" not in everything
    assert "bob" not in everything


# What is done about it


def drifted(world: World) -> None:
    """A day on which everybody's profile runs away."""
    for user in ("ann", "bob"):
        world.act(user, "o1", "o2", "o3")
    world.profiles()
    world.audit()
    world.tomorrow()
    world.turn_profiles(1.2)


def test_on_an_alarm_it_heals_itself_if_the_domain_says_so(world: World):
    drifted(world)
    found = world.audit(self_heal=True)
    learning = world.rooms.learning.of(world.domain.name)
    assert (learning.frozen, learning.rate, learning.by) == (False, 0.5, AUDIT)
    assert "profiles moved by" in learning.why
    assert "goes on with rate 0.5" in found.healing
    assert set(world.open_alerts()) == {"drift.profiles", HEALED}
    due = world.database["user_embeddings"].count_documents({"reread": True, "pending": True})
    assert due == 2, "their profiles are made anew"
    assert world.rooms.releases.blue(world.domain.name).embedding_model_id == SPACE


def test_without_being_told_to_it_only_tells(world: World):
    drifted(world)
    assert world.audit().healing is None
    assert world.rooms.learning.of(world.domain.name).rate == 1.0


def test_the_rate_halves_with_every_alarm_and_not_below_the_least(world: World):
    drifted(world)
    rates = []
    for _ in range(3):
        world.audit(self_heal=True)
        rates.append(world.rooms.learning.of(world.domain.name).rate)
        world.tomorrow()
        world.audit(self_heal=True)
        world.tomorrow()
        world.turn_profiles(1.2)
    assert rates == [0.5, 0.25, 0.125]
    world.rooms.learning.resume(world.domain.name, "ann", "slowly", LEAST_RATE)
    world.audit(self_heal=True)
    assert world.rooms.learning.of(world.domain.name).rate == LEAST_RATE


def rate(world: World) -> float:
    return world.rooms.learning.of(world.domain.name).rate


def test_one_drift_of_profiles_is_healed_once_however_often_somebody_looks(world: World):
    drifted(world)
    for _ in range(3):
        world.audit(self_heal=True)
        world.now += HOUR / 6
    assert rate(world) == 0.5


def test_one_drift_of_objects_is_told_with_every_look_and_healed_once(world: World, originals: list[Object]):
    world.audit()
    world.tomorrow()
    blue = world.rooms.releases.blue(world.domain.name).collection_id
    world.rooms.vectors.upsert(blue, [replace(o, parts=-o.parts) for o in originals])
    for _ in range(3):
        found = world.audit(self_heal=True)
        assert grades(found)["drift.objects"] == "alarm"
        assert not found.release_good
        world.now += HOUR / 6
    assert rate(world) == 0.5


def test_what_healing_made_anew_is_no_drift_the_day_after(world: World):
    drifted(world)
    world.audit(self_heal=True)
    world.rooms.batch.run(world.domain.at_rate(0.5))
    for _ in range(2):
        world.tomorrow()
        assert grades(world.audit(self_heal=True)).get("drift.profiles") != "alarm"
    assert rate(world) == 0.5
    world.tomorrow()
    assert grades(world.audit())["drift.profiles"] == "good", "it goes on being measured"


@pytest.mark.parametrize("word", ["restore", "rate", "resume"])
def test_what_an_operator_had_made_anew_is_no_drift_either(world: World, word: str):
    drifted(world)
    if word == "restore":
        restore(world.improver, world.domain, "ann", "to be sure")
    elif word == "rate":
        go_on(world.improver, world.domain, "ann", "slower", 0.25)
    else:
        world.rooms.learning.freeze(world.domain.name, "ann", "I am looking at it")
        go_on(world.improver, world.domain, "ann", "go on")
    found = world.audit(self_heal=True)
    assert ("drift.profiles" in grades(found), found.healing) == (False, None)


def test_resuming_what_is_not_frozen_at_the_rate_it_has_hides_no_drift(world: World):
    drifted(world)
    go_on(world.improver, world.domain, "ann", "never mind", 1.0)
    assert grades(world.audit())["drift.profiles"] == "alarm"


@pytest.mark.parametrize("step", ["freeze", "resume"])
@pytest.mark.parametrize("before", [True, False])
def test_healing_that_died_is_finished_by_the_next_run_and_halves_once(world: World, step: str, before: bool):
    drifted(world)

    def die() -> None:
        raise ConnectionError("gone")

    learning: Any = Gap(world.rooms.learning, step, die, before)
    asked = replace(world.domain, audit=replace(world.domain.audit, self_heal=True))
    dying = replace(world.improver, learning=learning)
    with pytest.raises(ConnectionError):
        audit(dying, asked, world.now)
    assert world.rooms.audits.latest(world.domain.name).healing == AuditStore.DUE
    audit_quality(world.improver, asked)
    assert world.rooms.learning.of(world.domain.name).rate == 0.5
    assert not world.rooms.learning.of(world.domain.name).frozen
    assert world.rooms.audits.due(world.domain.name) is None


def test_an_operator_who_has_the_brake_keeps_it(world: World):
    drifted(world)
    world.rooms.learning.freeze(world.domain.name, "ann", "I am looking at it")
    found = world.audit(self_heal=True)
    learning = world.rooms.learning.of(world.domain.name)
    assert (learning.frozen, learning.by, learning.rate) == (True, "ann", 1.0)
    assert found.healing == "left to ann, who froze learning"


def known(world: World, good: bool) -> None:
    """An audit of what serves."""
    world.now += 1
    release = world.rooms.releases.blue(world.domain.name)
    findings = [] if good else [Finding("drift.objects", Grade.ALARM, "objects moved", 0.5)]
    world.rooms.audits.save(
        Audit(f"{world.now}", world.domain.name, world.now, release.embedding_model_id, release.collection_id,
              SPACE, findings, good, {})
    )  # fmt: skip


def serving(world: World) -> str:
    return world.rooms.releases.blue(world.domain.name).embedding_model_id


def test_restoring_goes_back_to_the_newest_collection_that_was_good(world: World):
    keeping = replace(world.domain, promotion=replace(world.domain.promotion, keep_previous=5))
    rooms = replace(world.rooms, domains={world.domain.name: keeping})
    known(world, good=True)
    for name, good in (("a", True), ("b", False), ("c", False)):
        promote_build(rooms, build(world, name), "ann", force="for the test")
        known(world, good)
    done = restore(world.improver, keeping, "ann", "it is bad")
    assert (done.release, done.rolled_back, serving(world)) == (f"{SPACE}@a", True, f"{SPACE}@a")
    again = restore(world.improver, keeping, "ann", "it is bad")
    assert (again.rolled_back, serving(world)) == (False, f"{SPACE}@a"), "that one is good"
    assert "good" in again.why


def test_restoring_never_goes_back_to_what_lacks_acknowledged_writes(world: World):
    rooms, domain = world.rooms, world.domain
    known(world, good=True)
    rooms.releases.create(domain, "by-hand")
    promote(rooms, domain.name, "by-hand", "ann")
    catalogue(rooms, domain).upsert([make_object("new", [1.0] * 16)], "by-hand")
    known(world, good=False)
    done = restore(world.improver, domain, "ann", "drift")
    assert (done.rolled_back, serving(world)) == (False, "by-hand")
    assert f"{SPACE!r} was good, but it was not kept in line" in done.why


def test_what_was_never_audited_is_not_known_to_be_good(world: World):
    promote_build(world.rooms, build(world, "a"), "ann", force="for the test")
    done = restore(world.improver, world.domain, "ann", "perhaps")
    assert (done.rolled_back, serving(world)) == (False, f"{SPACE}@a")
    assert "no earlier collection" in done.why
    rollback(world.rooms, world.domain.name, "ann")


def test_objects_that_drifted_are_healed_by_the_collection_before(world: World, originals: list[Object]):
    world.audit()
    promote_build(world.rooms, build(world, "a"), "ann", force="for the test")
    world.tomorrow()
    world.audit()
    world.tomorrow()
    blue = world.rooms.releases.blue(world.domain.name).collection_id
    world.rooms.vectors.upsert(blue, [replace(o, parts=-o.parts) for o in originals])
    found = world.audit(self_heal=True)
    assert grades(found)["drift.objects"] == "alarm"
    assert serving(world) == SPACE
    assert f"rolled back to '{SPACE}'" in found.healing
    said = world.rooms.releases.history(world.domain.name)[0]
    assert (said.undone_by, "objects moved" in said.undone_why) == (AUDIT, True)


def test_while_somebody_switches_healing_waits_frozen(world: World):
    world.audit()
    promote_build(world.rooms, build(world, "a"), "ann", force="for the test")
    known(world, good=False)
    found = replace(
        world.rooms.audits.latest(world.domain.name), healing=AuditStore.DUE, heal_rate=0.5, audit_id="x"
    )
    world.rooms.audits.save(found)
    with world.rooms.releases.promotions.switching(world.domain.name, "ann"):
        heal(world.improver, world.domain, found)
    assert world.rooms.learning.of(world.domain.name).frozen
    assert world.rooms.audits.due(world.domain.name) is not None
    heal(world.improver, world.domain, found)
    assert (serving(world), world.rooms.learning.of(world.domain.name).frozen) == (SPACE, False)


# The job


def test_a_worker_audits_once_a_day_and_again_soon_after_a_failure(world: World):
    audit_quality(world.improver, world.domain)
    audit_quality(world.improver, world.domain)
    assert len(world.rooms.audits.list(world.domain.name)) == 1
    tick = f"audit {world.domain.name}"
    world.rooms.queue.hurry(tick)

    def die() -> None:
        raise ConnectionError("gone")

    broken: Any = Gap(world.rooms.profiles, "sample", die)
    dying = replace(world.improver, batch=replace(world.improver.batch, profiles=broken))
    with pytest.raises(ConnectionError):
        audit_quality(dying, world.domain)
    due = world.database["ticks"].find_one({"_id": tick})["next_at"]
    assert due - time.time() < 2 * HOUR


def test_audits_by_hand_do_not_move_what_days_are_compared_with(world: World):
    for _ in range(3):
        world.audit()
        world.now += 60
    assert world.database["samples"].count_documents({"kind": "objects"}) == 1
    assert len(world.rooms.audits.list(world.domain.name)) == 3


def test_improving_and_auditing_leave_each_other_alone(world: World):
    for number in range(5):
        world.search(f"u{number}", ["o1", "o2", "o3"], ["o3"])
    run_improvement(world.improver, 10, idle_seconds=-1)
    assert world.rooms.audits.latest(world.domain.name) is not None
    assert improve_users(world.improver, 10).claimed == 0
    assert Row(np.ones(2, np.float32)).owner is None

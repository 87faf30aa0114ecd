"""Evidence weights from the clickstream into the copies."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import structlog
import torch

from clickstream.improvement_queue import Owner, Request
from improvement.domain import SearchDomain
from improvement.evidence import DAY, EvidenceWeights, SkippedItems
from improvement.improver import Improver
from improvement.inputs import EvidenceBatch
from improvement.jobs import run_improvement, sweep_idle
from improvement.periodic import refresh_propensities
from improvement.wiring import Rooms, improver
from tests.support import Clock, click, make_objects, make_session


class Linear:
    """Moves an object along its query by its weight, so that what was weighed can be measured."""

    max_drift = 0.5

    def adjust(self, batch: EvidenceBatch) -> torch.Tensor:
        queries = batch.queries[batch.evidence, 0]
        return batch.parts + 0.1 * (batch.weights[..., None] * queries).sum(1, keepdim=True)

    def __repr__(self) -> str:
        return "Linear()"


@dataclass
class World:
    """A domain of twenty objects whose evidence a test chooses."""

    rooms: Rooms
    domain: SearchDomain

    def weigh(self, evidence: EvidenceWeights) -> None:
        self.domain = replace(self.domain, evidence=evidence)
        self.rooms = replace(self.rooms, domains={self.domain.name: self.domain})

    @property
    def improver(self) -> Improver:
        return improver(self.rooms)

    def happened(self, session_id: str, user: str, *happened: tuple[int, str], **changes: Any) -> None:
        """Search, be shown o0 to o9, do something with some of them, and queue the session."""
        shown = changes.pop("shown", range(10))
        changes.setdefault("domain", self.domain.name)
        self.rooms.clickstream.register(make_session(session_id, user, [f"o{i}" for i in shown], **changes))
        self.more(session_id, user, *happened)

    def more(self, session_id: str, user: str, *happened: tuple[int, str]) -> None:
        events = [(session_id, click(f"o{i}", f"{i} {kind}", event_type=kind)) for i, kind in happened]
        self.rooms.clickstream.push_events(events)
        version = self.rooms.clickstream.version(session_id) or 1
        self.rooms.queue.enqueue([Request(session_id, Owner(self.domain.name, user), version)])

    def improve(self) -> None:
        run_improvement(self.improver, 100, idle_seconds=1e9)

    def improve_again(self, *users: str) -> None:
        self.rooms.queue.enqueue_rebuild(Owner(self.domain.name, user) for user in users)
        self.improve()

    def status(self, session_id: str) -> tuple[str, str | None]:
        entry = self.rooms.queue.entry(session_id)
        assert entry is not None
        return entry.status.value, entry.reason

    def revisions(self, user: str) -> dict[str, str]:
        blue = self.rooms.releases.blue(self.domain.name).collection_id
        return {copy.original_id: copy.revision for copy in self.rooms.vectors.copies(blue, [user])}

    def gains(self, user: str, query: str = "red shoes") -> dict[str, float]:
        """How much nearer to the query than the original each of the user's copies is."""
        blue = self.rooms.releases.blue(self.domain.name).collection_id
        names = sorted(self.revisions(user))
        originals = self.rooms.vectors.find(blue, names)
        copies = self.rooms.vectors.named(blue, [f"{name}_{user}" for name in names]) if names else []
        towards = self.domain.embed([query])[0]
        return {
            str(copy.original_id): float((copy.mean - originals[str(copy.original_id)].mean) @ towards)
            for copy in copies
        }


@pytest.fixture
def world(rooms: Rooms, domain: SearchDomain) -> World:
    rooms.vectors.upsert(
        rooms.releases.blue(domain.name).collection_id, make_objects(domain, 20, max_parts=1)
    )
    made = World(rooms, replace(domain, adjuster=Linear()))
    made.weigh(EvidenceWeights())
    return made


def test_a_hide_without_a_click_moves_that_one_object_away(world: World):
    world.happened("s", "ann", (4, "hide"))
    world.improve()
    assert world.status("s") == ("done", None)
    gains = world.gains("ann")
    assert gains.keys() == {"o4"}
    assert gains["o4"] < -0.01


def test_a_hide_without_a_click_queues_itself(world: World):
    session = make_session("s", "ann", ["o1", "o2"], domain=world.domain.name)
    world.rooms.clickstream.register(session)
    world.rooms.clickstream.push_events([("s", click("o2", event_type="hide"))])
    sweep_idle(world.improver, idle_seconds=-1)
    world.improve()
    assert world.gains("ann").keys() == {"o2"}


def test_a_like_moves_an_object_farther_than_a_view(world: World):
    world.happened("s", "ann", (0, "click"), (1, "like"))
    world.happened("t", "bob", (0, "click"), (1, "view"))
    world.improve()
    liked, viewed = world.gains("ann"), world.gains("bob")
    assert liked["o1"] > viewed["o1"] > 0
    assert liked["o0"] == viewed["o0"] > 0


def test_a_click_undone_by_a_dislike_turns_the_copy_round(world: World):
    world.happened("s", "ann", (4, "click"))
    world.improve()
    before = world.gains("ann")
    assert before["o4"] > 0
    assert max(before[f"o{i}"] for i in range(4)) < 0, "what stands above was passed over"
    world.more("s", "ann", (4, "dislike"))
    world.improve()
    after = world.gains("ann")
    assert after.keys() == {"o4"}
    assert after["o4"] < 0


def test_a_click_and_a_hide_that_cancel_out_say_nothing_and_leave_nothing(world: World):
    world.happened("s", "ann", (4, "click"))
    world.improve()
    world.more("s", "ann", (4, "hide"))
    world.improve()
    assert world.status("s") == ("skipped", "no event that the domain's evidence weighs")
    assert world.gains("ann") == {}


def test_evidence_that_knows_no_dislikes_skips_a_session_of_them(world: World):
    world.weigh(EvidenceWeights.published())
    world.happened("s", "ann", (4, "hide"))
    world.improve()
    assert world.status("s") == ("skipped", "no event that the domain's evidence weighs")


def test_old_evidence_counts_less_once_there_is_newer(world: World):
    world.weigh(EvidenceWeights(half_life_days=10))
    now = int(time.time())
    world.happened("old", "ann", (0, "like"), created_at=now - 20 * DAY)
    world.improve()
    alone = world.gains("ann")["o0"]
    world.happened("new", "ann", (12, "like"), shown=[12, 13], created_at=now - 60)
    world.improve()
    gains = world.gains("ann")
    assert gains["o12"] > 0
    assert gains["o0"] == pytest.approx(alone / 4, rel=0.25)  # the copy is scaled to unit length
    world.weigh(EvidenceWeights())
    world.improve_again("ann")
    assert world.gains("ann")["o0"] == pytest.approx(alone)


def test_one_users_newer_session_ages_nobody_elses(world: World):
    world.weigh(EvidenceWeights(half_life_days=10))
    now = int(time.time())
    world.happened("old", "ann", (0, "like"), created_at=now - 20 * DAY)
    world.improve()
    before = world.revisions("ann")
    world.happened("new", "bob", (12, "like"), shown=[12, 13])
    world.improve_again("ann", "bob")
    assert world.revisions("ann") == before


def test_evidence_grows_old_in_steps_and_not_with_every_session(world: World):
    world.weigh(EvidenceWeights(half_life_days=10))
    now = int(time.time())
    world.happened("s", "ann", (0, "like"), created_at=now - 2 * DAY)
    world.improve()
    before = world.revisions("ann")
    world.happened("t", "ann", (12, "like"), shown=[12, 13], created_at=now - 60)
    world.improve()
    assert world.revisions("ann").items() > before.items()


def test_a_session_dated_in_the_future_does_not_make_the_others_old(world: World):
    world.weigh(EvidenceWeights(half_life_days=1))
    world.happened("s", "ann", (0, "like"))
    world.improve()
    before = world.revisions("ann")
    ahead = int(time.time()) + 1_000 * DAY
    world.happened("t", "ann", (12, "hide"), shown=[12, 13], created_at=ahead)
    world.improve()
    assert world.status("t") == ("done", None)
    assert world.revisions("ann").items() > before.items()
    world.happened("u", "ann", (14, "like"), shown=[14, 15])
    world.improve()
    assert world.gains("ann")["o14"] == pytest.approx(world.gains("ann")["o0"], rel=0.3)


def test_marking_the_newest_session_irrelevant_takes_its_influence_and_its_age_back(world: World):
    world.weigh(EvidenceWeights(half_life_days=10))
    now = int(time.time())
    world.happened("old", "ann", (0, "like"), (3, "hide"), created_at=now - 20 * DAY)
    world.improve()
    before = world.revisions("ann")
    world.happened("new", "ann", (0, "hide"), (5, "like"), created_at=now - 60)
    world.improve()
    assert all(world.revisions("ann")[name] != revision for name, revision in before.items())
    world.rooms.clickstream.mark_irrelevant("new")
    world.rooms.queue.requeue(["new"])
    world.improve()
    assert world.revisions("ann") == before


def test_an_object_that_is_deleted_changes_no_other_objects_evidence(world: World):
    world.happened("s", "ann", (1, "like"), (2, "like"), (5, "hide"))
    world.improve()
    before = world.revisions("ann")
    assert before.keys() == {"o0", "o1", "o2", "o5"}
    blue = world.rooms.releases.blue(world.domain.name).collection_id
    world.rooms.vectors.delete(blue, ["o1", "o2"])
    world.improve_again("ann")
    assert world.revisions("ann") == {name: before[name] for name in ("o0", "o5")}


def test_new_propensities_change_copies_only_at_the_next_improvement(world: World):
    world.weigh(EvidenceWeights(max_inverse_propensity=5.0, skipped_items=SkippedItems.ALL))
    world.happened("s", "ann", (0, "click"), (3, "click"))
    world.improve()
    before, gains = world.revisions("ann"), world.gains("ann")
    world.rooms.propensities.save(world.domain.name, [1.0, 0.9, 0.8, 0.5, 0.1], 2_000, time.time())
    world.improve()
    assert world.revisions("ann") == before
    world.improve_again("ann")
    after = world.revisions("ann")
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"o3", "o4", "o5", "o6", "o7", "o8", "o9"}, "a click at 4, and what stands below it"
    assert world.gains("ann")["o3"] > gains["o3"]
    assert gains["o9"] < world.gains("ann")["o9"] < 0
    world.weigh(replace(world.domain.evidence, max_inverse_propensity=1.0))
    world.improve_again("ann")
    assert world.revisions("ann") == before


def search_much(world: World) -> None:
    """Leave a log in which places are looked at with chances 1, 0.5 and 0.2."""
    rng = np.random.default_rng(0)
    examination, relevance = np.array([1.0, 0.5, 0.2]), rng.beta(0.5, 1, 20)
    sessions, events = [], []
    for i in range(1_200):
        shown = rng.choice(20, 3, replace=False)
        sessions.append(
            (make_session(f"s{i}", None, [f"o{o}" for o in shown], domain=world.domain.name), None)
        )
        clicked = shown[rng.random(3) < examination * relevance[shown]]
        events += [(f"s{i}", click(f"o{o}")) for o in clicked]
    world.rooms.clickstream.register_many(sessions)
    world.rooms.clickstream.push_events(events)


def test_propensities_are_estimated_from_the_log_before_improving_once_a_day(world: World):
    search_much(world)
    name, store = world.domain.name, world.rooms.propensities
    world.improve()
    assert store.get(name) == (), "nobody asked for them"
    world.weigh(EvidenceWeights(max_inverse_propensity=5.0))
    world.improve()
    values = store.get(name)
    np.testing.assert_allclose(values, [1.0, 0.5, 0.2], atol=0.08)
    assert all(value == round(value, 2) for value in values)
    store.save(name, [1.0], 0, 0.0)
    world.improve()
    assert store.get(name) == (1.0,), "not due again"


def test_a_log_that_says_too_little_leaves_every_place_as_likely(world: World):
    world.weigh(EvidenceWeights(max_inverse_propensity=5.0))
    world.rooms.propensities.save(world.domain.name, [1.0, 0.5], 0, 0.0)
    world.happened("s", "ann", (4, "click"))
    world.improve()
    assert world.rooms.propensities.get(world.domain.name) == ()


class Broken:
    """A clickstream whose history cannot be read."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def history(self, *_: Any, **__: Any) -> Any:
        raise ConnectionError("no history")


def test_what_cannot_be_estimated_is_logged_and_improving_goes_on(world: World):
    world.weigh(EvidenceWeights(max_inverse_propensity=5.0))
    world.happened("s", "ann", (0, "click"))
    broken: Any = Broken(world.rooms.clickstream)
    with structlog.testing.capture_logs() as logs:
        run_improvement(replace(world.improver, clickstream=broken), 100, idle_seconds=1e9)
    assert "refresh_propensities" in [entry["job"] for entry in logs if entry["event"] == "job failed"]
    assert world.status("s") == ("done", None)


def test_an_estimate_that_failed_or_had_too_little_log_is_made_again_within_the_hour(world: World):
    world.weigh(EvidenceWeights(max_inverse_propensity=5.0))
    clock = Clock(1_000.0)
    store = world.rooms.propensities
    store._clock = clock
    broken: Any = Broken(world.rooms.clickstream)
    with pytest.raises(ConnectionError):
        refresh_propensities(replace(world.improver, clickstream=broken), world.domain)
    clock.now += 3_601
    refresh_propensities(world.improver, world.domain)  # an empty log
    clock.now += 3_601
    assert store.due(world.domain.name, 3_600)


def test_a_domain_that_uses_no_propensities_never_reads_its_history(world: World):
    broken: Any = Broken(world.rooms.clickstream)
    refresh_propensities(replace(world.improver, clickstream=broken), world.domain)
    assert world.rooms.propensities.due(world.domain.name, 60)


def test_propensities_come_from_the_newest_sessions_and_not_from_all(world: World):
    world.weigh(EvidenceWeights(max_inverse_propensity=5.0))
    asked: list[tuple[Sequence[Any], dict[str, Any]]] = []

    class Recording(Broken):
        def history(self, *names: Any, **options: Any) -> Any:
            asked.append((names, options))
            return self.inner.history(*names, **options)

    recording: Any = Recording(world.rooms.clickstream)
    refresh_propensities(replace(world.improver, clickstream=recording), world.domain)
    assert asked == [((world.domain.name,), {"limit": 20_000})]

"""Drift of the towers heals by itself: freeze, back to what was good, on with half the rate."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from improvement.domain import SearchDomain
from improvement.errors import Conflict
from improvement.improver import Improver
from improvement.objects import Object, Vectors
from improvement.quality.audits import Audit, AuditStore
from improvement.quality.healing import AUDIT
from improvement.quality.learning import LEAST_RATE
from improvement.quality.samples import DAY
from improvement.two_tower import reverting
from improvement.two_tower.audit import audit_towers, look
from improvement.two_tower.engagement import Engagement
from improvement.two_tower.entries import Kind
from improvement.two_tower.healing import HEALED, go_on_towers
from improvement.two_tower.live import LiveTowers
from improvement.two_tower.moves import moved_item
from improvement.two_tower.names import towers_name
from improvement.two_tower.serving import TowerServing
from improvement.two_tower.settings import TowerHealth
from improvement.wiring import Rooms
from tests.improvement.two_tower.given_towers import SETTINGS, serve_towers
from tests.support import make_objects

HOUR = 3_600.0


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    health = TowerHealth(good_drift=0.0005, most_drift=0.001, least_rate=0.0)
    return replace(domain, towers=replace(SETTINGS, health=health, max_drift=1.0))


@dataclass
class Days:
    """A domain with towers, whose days pass."""

    rooms: Rooms
    improver: Improver
    domain: SearchDomain
    objects: list[Object]
    serving: TowerServing
    now: float
    count: int = 0

    @property
    def name(self) -> str:
        return towers_name(self.domain.name)

    def look(self, **health: Any) -> Audit:
        towers = self.domain.towers
        assert towers is not None
        domain = replace(self.domain, towers=replace(towers, health=replace(towers.health, **health)))
        return look(self.worker(), domain, self.now)

    def worker(self) -> Improver:
        return replace(self.improver, clock=lambda: self.now)

    def calm_day(self) -> None:
        for _ in range(2):
            assert self.look().release_good
            self.now += DAY
        self.now -= DAY - HOUR

    def engage(self, users: int) -> int:
        """Have a crowd like the same thing, and then everything."""
        rooms = self.rooms
        live = LiveTowers(
            {self.domain.name: self.domain}, rooms.entries, rooms.pairs, rooms.vectors, rooms.towers,
            rooms.clickstream, rooms.actions, rooms.learning,
        )  # fmt: skip
        said = []
        for user in range(users):
            for o in [self.objects[0], *self.objects]:
                self.count += 1
                said.append(Engagement(
                    f"e{self.count}", self.domain.name, f"bot {user}", o.object_id, "like", 0.9, self.now,
                    self.now,
                ))  # fmt: skip
        return live.learn(self.domain, said)

    def vectors(self) -> Vectors:
        serving = self.rooms.towers.serving(self.domain.name)
        assert serving is not None
        held = self.rooms.vectors.means(serving.collection_id, [o.object_id for o in self.objects])
        return np.stack([held[o.object_id] for o in self.objects])

    def open_alerts(self) -> dict[str, str]:
        return {one.alert.kind: one.alert.severity.value for one in self.rooms.alerts.open(self.domain.name)}


@pytest.fixture
def days(rooms: Rooms, improving: Improver, domain: SearchDomain) -> Days:
    objects = make_objects(domain, 12)
    rooms.vectors.upsert(rooms.releases.blue(domain.name).collection_id, objects)
    return Days(
        rooms, improving, domain, objects, serve_towers(rooms, domain, objects), improving.clock() + DAY
    )


def test_a_hostile_burst_is_undone_and_learning_goes_on_at_half_the_rate(days: Days):
    days.calm_day()
    good = days.rooms.checkpoints.get(days.serving.checkpoint_id)
    assert good.good is True, "a day of good audits"
    as_made = days.vectors()
    assert days.engage(12) > 100
    assert np.abs(days.vectors() - as_made).max() > 0.02

    found = days.look()
    assert [f.kind for f in found.findings if f.grade.value == "alarm"] == ["towers.drift"]
    assert "what engagement moved was undone" in found.healing
    assert days.vectors() == pytest.approx(as_made, abs=1e-6), "the vectors are as the checkpoint says"
    entries = days.rooms.entries.load(days.domain.name, [(Kind.ITEM, o.object_id) for o in days.objects])
    assert all(entry.vector is None and entry.count > 0 for entry in entries.values())
    assert days.rooms.towers.serving(days.domain.name) == days.serving
    assert days.rooms.checkpoints.get(days.serving.checkpoint_id).good is True
    learning = days.rooms.learning.of(days.name)
    assert (learning.frozen, learning.rate, learning.by) == (False, 0.5, AUDIT)
    assert not days.rooms.learning.of(days.domain.name).at, "the domain itself learns on"
    assert days.rooms.training.of(days.domain.name).head == days.serving.checkpoint_id
    assert days.open_alerts() == {"towers.drift": "alarm", HEALED: "warning"}

    days.now += HOUR
    again = days.look()
    assert (again.healing, days.rooms.learning.of(days.name).rate) == (None, 0.5), "not for the same drift"
    days.now += 1.5 * DAY
    calm = days.look()
    assert (calm.release_good, days.open_alerts()) == (True, {})
    days.engage(1)
    newest = days.rooms.pairs.of_users(days.domain.name, ["bot 0"], days.now + 1, 11)["bot 0"]
    place = {o.object_id: n for n, o in enumerate(days.objects)}
    for pair in newest:  # each about an item that was liked once
        assert pair.item_vector is not None
        half = moved_item(pair.item_vector, pair.item_vector, pair.user_vector, 0.9, 0.01 / 2, 1.0)
        assert days.vectors()[place[pair.object_id]] == pytest.approx(half, abs=1e-5), "half as fast"
        assert np.abs(half - pair.item_vector).max() > 1e-4


def test_a_checkpoint_that_drifts_before_it_is_known_to_be_good_is_left(days: Days):
    days.calm_day()
    as_made = days.vectors()
    first = days.rooms.releases.blue(days.name)
    days.rooms.releases.follow(first, True)
    promoted = serve_towers(days.rooms, days.domain, days.objects, seed=7)
    assert days.look().release_good, "another space is no drift"
    days.now += 13 * HOUR
    days.engage(12)
    found = days.look()
    assert found.space == promoted.checkpoint_id
    assert "was judged bad" in found.healing
    assert days.rooms.towers.serving(days.domain.name) == days.serving
    assert days.rooms.checkpoints.get(promoted.checkpoint_id).good is False
    assert days.vectors() == pytest.approx(as_made, abs=1e-6)
    assert days.rooms.learning.of(days.name).rate == 0.5


def test_without_anything_good_the_untrained_towers_serve(days: Days):
    assert days.look().release_good
    days.now += 13 * HOUR
    days.engage(12)
    found = days.look()
    assert found.healing
    serving = days.rooms.towers.serving(days.domain.name)
    assert serving is not None
    assert days.rooms.checkpoints.get(serving.checkpoint_id).trained == "begun"
    assert days.rooms.checkpoints.get(days.serving.checkpoint_id).good is False


def test_healing_that_was_killed_anywhere_is_finished_by_the_next_worker(
    days: Days, monkeypatch: pytest.MonkeyPatch
):
    days.calm_day()
    as_made = days.vectors()
    days.engage(12)
    rooms = days.rooms
    steps = [
        (reverting, "undo_moves"), (rooms.samples, "rebase"), (rooms.learning, "resume"),
        (rooms.audits, "healed"),
    ]  # fmt: skip
    for place, (of, method) in enumerate(steps):
        with monkeypatch.context() as patched:

            def killed(*arguments: Any, **named: Any) -> None:
                raise KeyboardInterrupt

            patched.setattr(of, method, killed)
            with pytest.raises(KeyboardInterrupt):
                days.look() if place == 0 else audit_towers(days.worker(), days.domain)
        assert rooms.audits.due(days.name) is not None
        assert rooms.learning.of(days.name).frozen == (method != "healed")
    audit_towers(days.worker(), days.domain)
    assert rooms.audits.due(days.name) is None
    learning = rooms.learning.of(days.name)
    assert (learning.frozen, learning.rate) == (False, 0.5), "half, however often it was begun"
    assert days.vectors() == pytest.approx(as_made, abs=1e-6)


def test_what_an_operator_froze_is_left_to_them(days: Days):
    days.calm_day()
    days.engage(12)
    moved = days.vectors()
    days.rooms.learning.freeze(days.name, "ann", "I am looking")
    assert days.look().healing == "left to ann, who froze learning"
    learning = days.rooms.learning.of(days.name)
    assert (learning.frozen, learning.by, learning.rate) == (True, "ann", 1.0)
    assert (days.vectors() == moved).all()
    assert HEALED not in days.open_alerts()


def test_without_self_healing_there_is_only_the_alarm(days: Days):
    days.calm_day()
    days.engage(12)
    moved = days.vectors()
    found = days.look(self_heal=False)
    assert (found.healing, days.open_alerts()) == (None, {"towers.drift": "alarm"})
    assert (days.vectors() == moved).all()
    days.now += HOUR
    assert not days.look(self_heal=False).release_good


def test_healing_waits_while_somebody_is_at_it_and_learning_stays_frozen(
    days: Days, monkeypatch: pytest.MonkeyPatch
):
    def busy(*arguments: Any) -> None:
        raise Conflict("somebody is switching")

    days.calm_day()
    days.engage(12)
    with monkeypatch.context() as patched:
        patched.setattr(reverting, "revert_towers", busy)
        assert days.look().healing == AuditStore.DUE
        assert days.rooms.learning.of(days.name).frozen
    assert audit_towers(days.worker(), days.domain) == 1
    assert days.rooms.audits.due(days.name) is None
    assert not days.rooms.learning.of(days.name).frozen


def test_no_rate_falls_below_the_least_one(days: Days):
    days.calm_day()
    days.engage(12)
    days.rooms.learning.resume(days.name, "ann", "slowly", LEAST_RATE)
    found = days.look()
    assert (found.heal_rate, days.rooms.learning.of(days.name).rate) == (LEAST_RATE, LEAST_RATE)


def test_a_checkpoint_is_good_only_after_a_whole_day_without_an_alarm(days: Days):
    def good() -> bool | None:
        return days.rooms.checkpoints.get(days.serving.checkpoint_id).good

    days.look()
    days.now += DAY - HOUR
    days.look()
    assert good() is None
    days.engage(12)
    days.now += 2 * HOUR
    days.look(self_heal=False)
    assert good() is None, "it moved too far"
    for calm in (False, True, True):
        days.now += 0.9 * DAY
        assert days.look(self_heal=False).release_good == calm
        assert good() is None
    days.now += 0.2 * DAY
    days.look()
    assert good() is True


def test_an_operator_who_has_learning_go_on_decides_what_is_done_about_what_waits_to_be_healed(
    days: Days, monkeypatch: pytest.MonkeyPatch
):
    days.calm_day()
    days.engage(12)

    def busy(*arguments: Any, **named: Any) -> None:
        raise Conflict("somebody trains")

    with monkeypatch.context() as patched:
        patched.setattr(reverting, "revert_towers", busy)
        days.look()
    assert days.rooms.audits.due(days.name) is not None
    moved = days.vectors()
    go_on_towers(days.worker(), days.domain, "olga", "they were people", 1.0)
    assert days.rooms.audits.due(days.name) is None, "the next worker finds nothing to heal"
    assert days.rooms.learning.of(days.name).rate == 1.0
    assert days.vectors() == pytest.approx(moved)

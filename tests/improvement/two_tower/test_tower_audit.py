"""Audits of a domain's towers: what is measured, told, shown and counted, and what is done about drift."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import structlog
from prometheus_client import CollectorRegistry, generate_latest
from pymongo.database import Database
from typer.testing import CliRunner

from clickstream.actions import ActionStore
from clickstream.records import Action, SessionEvent
from clickstream.store import ClickstreamStore
from improvement.__main__ import app
from improvement.domain import SearchDomain
from improvement.errors import Conflict
from improvement.evaluation.drift import Grade
from improvement.evidence import EvidenceWeights
from improvement.improver import Improver
from improvement.objects import Object
from improvement.quality.alerts import Alert, Severity
from improvement.quality.audits import Audit
from improvement.quality.gauges import MEANINGS, StoredGauges
from improvement.quality.samples import DAY
from improvement.two_tower.audit import audit_name, audit_towers, look
from improvement.two_tower.entries import Entry, EntryStore, Kind
from improvement.two_tower.healing import HEALED
from improvement.two_tower.measuring import NewItems, new_items
from improvement.two_tower.names import towers_name
from improvement.two_tower.pairs import Pair
from improvement.two_tower.recomputing import recompute_stale
from improvement.two_tower.sampling import Reason
from improvement.two_tower.serving import TowerServing
from improvement.two_tower.settings import TowerHealth
from improvement.wiring import Rooms
from tests.improvement.two_tower.given_towers import SETTINGS, SIZE, serve_towers, unit
from tests.support import Clock, Gap, make_domain, make_objects, make_session

HOUR = 3_600.0
INTERNAL = "/api/v1/internal"
#: Loaded by the command line.
cli_domain = make_domain("towering", evidence=EvidenceWeights(), towers=SETTINGS)


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return replace(domain, towers=replace(SETTINGS, health=TowerHealth(least_pairs=10)))


@dataclass
class Towers:
    """A domain with towers, whose hours pass."""

    rooms: Rooms
    improver: Improver
    domain: SearchDomain
    database: Database[Any]
    objects: list[Object]
    serving: TowerServing
    now: float = 1_800_000_000.0
    count: int = 0

    @property
    def name(self) -> str:
        return self.domain.name

    def look(self, *, whole: bool = False, **health: Any) -> Audit:
        domain = self.with_health(**health)
        self.now += 1
        return look(replace(self.improver, clock=lambda: self.now), domain, self.now, whole=whole)

    def with_health(self, **health: Any) -> SearchDomain:
        towers = self.domain.towers
        assert towers is not None
        return replace(self.domain, towers=replace(towers, health=replace(towers.health, **health)))

    def pairs(self, count: int, reason: Reason = Reason.ENGAGED, ago: float = 60.0, **changes: Any) -> None:
        signal = {Reason.ENGAGED: 0.7, Reason.DISLIKED: -0.7}.get(reason, 0.0)
        made = []
        for _ in range(count):
            self.count += 1
            pair = Pair(
                f"p{self.count}", self.name, "ann", "o1", None, "like", signal, reason, None, None,
                self.serving.checkpoint_id, self.now - ago, self.now - ago, batch="b",
            )  # fmt: skip
            made.append(replace(pair, **changes))
        self.rooms.pairs.add(made)

    def create_items(self, *object_ids: str, ago: float = HOUR) -> None:
        EntryStore(self.database, Clock(self.now - ago)).create_items(self.name, object_ids)

    def search(self, shown: list[str], clicked: list[str], ago: float = HOUR, user: str = "ann") -> None:
        self.count += 1
        name, at = f"s{self.count}", int(self.now - ago)
        store = ClickstreamStore(self.database, Clock(self.now - ago))
        store.register(make_session(name, user, shown, created_at=at, domain=self.name))
        store.push_events([(name, SessionEvent(event_id=o, object_id=o, created_at=at)) for o in clicked])

    def users(self, prefix: str, number: int, count: int, **changes: Any) -> None:
        rows = unit(np.random.default_rng(number).normal(size=(number, SIZE)))
        made = {"vector": None, "space": self.serving.checkpoint_id} | changes
        entries = [
            replace(
                Entry(self.name, Kind.USER, f"{prefix}{n}", count=count),
                **(made | ({"vector": row} if made["vector"] is True else {})),
            )
            for n, row in enumerate(rows)
        ]
        assert not self.rooms.entries.save(entries)
        actions = [
            Action(action_id="a", user_id=entry.id, object_id="o1", action_type="like", domain=self.name)
            for entry in entries
        ]
        ActionStore(self.database, Clock(self.now - HOUR)).push(actions)

    def misplace(self, object_id: str, vector: Any) -> None:
        collection = self.serving.collection_id
        revision = self.rooms.vectors.revisions(collection, [object_id])[object_id].revision
        self.rooms.vectors.move(collection, {object_id: (vector, revision)})

    def alerts(self) -> dict[str, str]:
        return {one.alert.kind: one.alert.severity.value for one in self.rooms.alerts.open(self.name)}


@pytest.fixture
def towers(rooms: Rooms, improving: Improver, domain: SearchDomain, database: Database[Any]) -> Towers:
    objects = make_objects(domain, 20)
    rooms.vectors.upsert(rooms.releases.blue(domain.name).collection_id, objects)
    return Towers(rooms, improving, domain, database, objects, serve_towers(rooms, domain, objects))


def grades(found: Audit) -> dict[str, str]:
    return {finding.kind: finding.grade.value for finding in found.findings}


# Each row, on both sides of its threshold


def test_an_empty_service_is_looked_at_without_a_word(improving: Improver, domain: SearchDomain):
    for whole in (False, True):
        found = look(improving, domain, improving.clock(), whole=whole)
        assert (found.findings, found.space, found.grade) == ([], "", Grade.GOOD)
    assert json.dumps(found.as_json(), allow_nan=False)
    assert audit_towers(improving, domain) == 0, "nothing serves yet"
    assert improving.alerts.list() == []


def test_slow_learning_is_a_warning_until_it_is_fast_again(towers: Towers):
    towers.pairs(30, seconds=0.2)
    found = towers.look()
    assert grades(found)["towers.latency"] == "warning"
    told = {"p95": 0.2, "timed": 30, "since": "hour", "late": 0, "asked": 30}
    assert found.measured["latency"] == told
    assert towers.alerts()["towers.latency"] == "warning"
    towers.now += 2 * HOUR
    towers.pairs(30, seconds=0.004)
    assert grades(towers.look())["towers.latency"] == "good"
    assert "towers.latency" not in towers.alerts()


@pytest.mark.parametrize(("late", "grade"), [(5, "good"), (6, "warning")])
def test_learning_that_fails_when_engagements_come_is_a_warning(towers: Towers, late: int, grade: str):
    towers.pairs(80 - late, seconds=0.004, ago=3 * HOUR)
    towers.pairs(late, ago=3 * HOUR, stored_at=towers.now - 2 * HOUR)
    towers.pairs(10, ago=90_000.0, stored_at=towers.now)
    caught_up_at_once = {"stored_at": towers.now - 3 * HOUR + 60}
    towers.pairs(20, ago=3 * HOUR, **caught_up_at_once)
    found = towers.look()
    assert grades(found)["towers.latency"] == grade
    assert (found.measured["latency"]["late"], found.measured["latency"]["asked"]) == (late, 100)


def test_what_waited_for_the_first_towers_was_not_learned_late(towers: Towers):
    [promotion] = towers.rooms.releases.promotions.history(towers_name(towers.name))
    towers.now = promotion.at + 600
    towers.pairs(100, ago=2 * HOUR, stored_at=towers.now)
    assert towers.look().measured["latency"]["asked"] == 0


def test_alerts_end_when_nothing_is_left_that_they_could_be_judged_by(towers: Towers):
    towers.pairs(30, seconds=0.2)
    towers.create_items("n1", "n2", "n3")
    for _ in range(10):
        towers.search(["n1"], [])
    towers.users("u", 15, 5)
    towers.look(whole=True)
    told = {"latency", "cold_clicks", "items", "coverage", "balance", "audit.balance"}
    assert {f"towers.{kind}" for kind in told} <= towers.alerts().keys()
    towers.now += 30 * DAY
    towers.look()
    assert towers.alerts().keys() == {"towers.rate", "towers.audit.balance"}, "what the week judges stays"
    towers.look(whole=True)
    assert towers.alerts().keys() == {"towers.rate"}


def test_between_target_and_threshold_is_a_note_and_nobody_is_woken(towers: Towers):
    towers.pairs(30, seconds=0.03)
    towers.pairs(130, Reason.RANDOM)
    assert (grades(towers.look())["towers.latency"], towers.alerts()) == ("note", {})


def test_a_quiet_hour_is_judged_by_the_day_for_what_engagements_took(towers: Towers):
    towers.pairs(30, seconds=0.2, ago=20 * HOUR)
    towers.pairs(5, seconds=0.001)
    found = towers.look()
    assert (found.measured["latency"]["since"], grades(found)["towers.latency"]) == ("day", "warning")


def test_too_few_pairs_are_a_warning_once_there_ever_were_any(towers: Towers):
    assert "towers.rate" not in grades(towers.look())
    towers.pairs(9)
    assert grades(towers.look())["towers.rate"] == "warning"
    towers.pairs(100)
    assert grades(towers.look())["towers.rate"] == "good"
    towers.now += 3 * DAY
    found = towers.look()
    assert (grades(found)["towers.rate"], found.measured["per_hour"]) == ("warning", 0.0)


def test_a_quiet_night_of_a_busy_day_is_no_warning(towers: Towers):
    towers.pairs(300, ago=8 * HOUR)
    found = towers.look()
    assert (grades(found)["towers.rate"], found.measured["per_hour"]) == ("note", 300 / 24)


def test_the_balance_of_labels_is_counted_with_its_reasons(towers: Towers):
    towers.pairs(20)
    for reason, count in ((Reason.DISLIKED, 5), (Reason.SHOWN, 30), (Reason.RANDOM, 10)):
        towers.pairs(count, reason)
    found = towers.look()
    assert grades(found)["towers.balance"] == "alarm"
    assert found.measured["pairs"]["negatives_per_positive"] == 45 / 20
    [alert] = [one.alert for one in towers.rooms.alerts.open() if one.alert.kind == "towers.balance"]
    assert alert.facts["disliked"] == 5
    assert alert.facts["shown"] == 30
    towers.pairs(75, Reason.SHOWN)
    assert grades(towers.look())["towers.balance"] == "good"
    assert "towers.balance" not in towers.alerts()


def test_engagements_whose_negatives_are_still_to_be_drawn_do_not_count(towers: Towers):
    towers.pairs(50, batch=None)
    found = towers.look()
    assert "towers.balance" not in grades(found)
    assert found.measured["pairs"]["waiting"] == 50


def test_new_items_that_nobody_clicks_are_a_warning(towers: Towers):
    towers.create_items("o1", "o2")
    towers.create_items("o3", ago=2 * DAY)
    for clicked, grade in (("o3", "warning"), ("o1", "good")):
        for _ in range(10):
            towers.search(["o1", "o2", "o3"], [clicked])
        found = towers.look()
        assert grades(found)["towers.cold_clicks"] == grade
    assert found.measured["items"]["shown"] == 40
    assert found.measured["items"]["clicked"] == 10


def test_new_items_without_a_vector_are_a_warning(towers: Towers):
    towers.create_items(*[f"o{n}" for n in range(10)], "missing")
    towers.create_items("a moment ago", ago=1.0)
    assert grades(towers.look())["towers.items"] == "good"
    towers.create_items("missing, too", "and this")
    assert grades(towers.look())["towers.items"] == "warning"


def test_active_users_without_a_vector_are_a_warning(towers: Towers):
    towers.users("known ", 12, 3, vector=True)
    towers.users("new ", 20, 2)
    assert grades(towers.look())["towers.coverage"] == "good"
    towers.users("without ", 2, 3)
    assert grades(towers.look())["towers.coverage"] == "note"
    towers.users("of another space ", 4, 3, vector=True, space="older")
    found = towers.look()
    assert grades(found)["towers.coverage"] == "warning"
    week = found.measured["users"]["week"]
    assert (week["ready"], week["covered"], week["active"]) == (18, 12, 38)


def test_active_users_of_whom_the_towers_know_nothing_are_not_covered(towers: Towers):
    towers.domain = replace(towers.domain, evidence=EvidenceWeights())
    towers.users("known ", 30, 3, vector=True)
    acted = [
        ("acts", 3, "like"),
        ("sees", 3, "view"),
        ("begins", 2, "like"),
        ("acts on what is gone", 3, "like"),
    ]
    for who, count, kind in acted:
        actions = [
            Action(action_id=f"a{n}", user_id=f"{who} {user}", domain=towers.name, action_type=kind,
                   object_id="no such" if "gone" in who else f"o{n}")
            for user in range(10) for n in range(count)
        ]  # fmt: skip
        ActionStore(towers.database, Clock(towers.now - HOUR)).push(actions)
    for user in range(20):  # of another day
        towers.search(["o1", "o2", "o3"], ["o1", "o2", "o3"], ago=2 * DAY, user=f"searches {user}")
        towers.search(["o1", "o2", "o3"], ["o1", "o2"], user=f"is new {user}")
    found = towers.look()
    day, week = found.measured["users"]["day"], found.measured["users"]["week"]
    assert (day["active"], day["ready"], day["covered"]) == (90, 40, 30)
    assert (week["active"], week["ready"], week["covered"]) == (110, 60, 30)
    assert grades(found)["towers.coverage"] == "warning"


def test_items_of_which_nobody_knows_when_they_came_are_not_new(towers: Towers):
    towers.create_items("o1", "no vector")
    towers.rooms.entries._entries.update_many({"domain": towers.name}, {"$set": {"created_at": 0.0}})
    for _ in range(20):
        towers.search(["o1"], [])
    for now in (towers.now, HOUR):
        assert new_items(towers.improver, towers.domain, towers.serving, now) == NewItems()
    assert not {"towers.items", "towers.cold_clicks"} & grades(towers.look()).keys()


def test_what_only_the_week_shows_is_told_once_a_week(towers: Towers):
    towers.pairs(100)
    towers.pairs(50, Reason.SHOWN)
    assert "towers.audit.balance" not in grades(towers.look())
    found = towers.look(whole=True)
    assert grades(found)["towers.audit.balance"] == "warning"
    assert found.measured["pairs_of_week"]["positives"] == 100


def test_once_a_week_missing_vectors_are_made_anew(towers: Towers):
    collection = towers.serving.collection_id
    towers.rooms.vectors.delete(collection, ["o3", "o4"])
    assert towers.look().measured["recomputed"] is None
    assert towers.look(whole=True).measured["recomputed"] == {"items": 20, "missing": 2, "stale": 0}
    assert len(towers.rooms.vectors.find(collection, [o.object_id for o in towers.objects])) == 20


@pytest.mark.parametrize("moved", [False, True])
def test_once_a_week_vectors_of_something_else_are_put_right(towers: Towers, moved: bool):
    collection, vector = towers.serving.collection_id, unit(np.ones(SIZE))
    right = towers.rooms.vectors.means(collection, ["o3"])["o3"]
    if moved:  # by engagement, whose writer died before it was in the collection
        content = towers.rooms.vectors.told(collection, ["o3"])["o3"].revision
        entry = Entry(
            towers.name, Kind.ITEM, "o3", vector, right, towers.serving.checkpoint_id, content, count=1
        )
        assert not towers.rooms.entries.save([entry])
    else:  # a backup of another time, say
        towers.misplace("o3", vector)
    assert towers.look(whole=True).measured["recomputed"] == {"items": 20, "missing": 0, "stale": 1}
    expected = vector if moved else right
    assert towers.rooms.vectors.means(collection, ["o3"])["o3"] == pytest.approx(expected, abs=1e-6)
    assert towers.look(whole=True).measured["recomputed"]["stale"] == 0


def test_who_moves_an_item_while_it_is_made_anew_is_seen(towers: Towers):
    collection, vector = towers.serving.collection_id, unit(np.ones(SIZE))
    told = towers.rooms.vectors.told(collection, ["o3"])["o3"]
    towers.misplace("o3", -vector)
    entry = Entry(
        towers.name, Kind.ITEM, "o3", vector, told.mean, towers.serving.checkpoint_id, told.revision, count=1
    )
    vectors = Gap(towers.rooms.vectors, "move", lambda: towers.rooms.entries.save([entry]), before=True)
    recompute_stale(replace(towers.improver, vectors=vectors), towers.domain)
    assert vectors.acted
    assert towers.rooms.vectors.means(collection, ["o3"])["o3"] == pytest.approx(vector, abs=1e-6)


def test_hourly_audits_are_forgotten_after_a_season(towers: Towers):
    towers.look()
    towers.now += 91 * DAY
    towers.look(whole=True)
    assert len(towers.rooms.audits.list(towers_name(towers.name))) == 1


# When


def test_the_towers_are_looked_at_once_an_hour_whoever_asks(towers: Towers):
    assert [audit_towers(towers.improver, towers.domain) for _ in range(3)] == [1, 0, 0]
    towers.rooms.queue.hurry(f"signs {towers_name(towers.name)}")
    assert audit_towers(towers.improver, towers.domain) == 1
    first, second = towers.rooms.audits.list(towers_name(towers.name))[::-1]
    assert (first.measured["pairs_of_week"] is None, second.measured["pairs_of_week"] is None) == (
        False,
        True,
    )
    assert towers.rooms.audits.list(towers.name) == [], "the domain's own audits are others"


def test_a_look_that_failed_is_made_again_soon(towers: Towers, monkeypatch: pytest.MonkeyPatch):
    def away(*arguments: Any) -> None:
        raise ConnectionError("the store is away")

    monkeypatch.setattr(towers.rooms.pairs, "counts", away)
    with pytest.raises(ConnectionError):
        audit_towers(towers.improver, towers.domain)
    ticks = {one["_id"]: one["next_at"] for one in towers.rooms.queue._ticks.find()}
    soon = [at for name, at in ticks.items() if towers_name(towers.name) in name]
    assert len(soon) == 2
    assert max(soon) < towers.improver.clock() + 601


# Shown


def test_audits_of_towers_are_shown_over_http(rooms: Rooms, towers: Towers, service: httpx.Client):
    made = service.post(f"{INTERNAL}/audit", json={"towers": True}).json()
    assert (made["domain"], made["release"]) == (towers_name(towers.name), towers.serving.checkpoint_id)
    shown = service.get(f"{INTERNAL}/audit", params={"towers": True}).json()
    assert (shown["domain"], shown["audits"]) == (towers_name(towers.name), [made])
    assert service.get(f"{INTERNAL}/audit").json()["audits"] == []
    assert service.post(f"{INTERNAL}/audit", json={"towers": "maybe"}).status_code == 422


def test_a_domain_without_towers_has_no_audits_of_them(domain: SearchDomain):
    with pytest.raises(Conflict, match="has no towers"):
        audit_name(replace(domain, towers=None))


def test_operators_brake_the_towers_alone(rooms: Rooms, towers: Towers, service: httpx.Client):
    rooms.alerts.tell(Alert(towers.name, HEALED, Severity.WARNING, "they healed themselves"))
    said = {"by": "ann", "why": "spam", "towers": True}
    frozen = service.post(f"{INTERNAL}/learning/freeze", json=said).json()
    assert (frozen["domain"], frozen["frozen"]) == (towers_name(towers.name), True)
    assert rooms.alerts.open() == [], "somebody looked at it"
    assert service.get(f"{INTERNAL}/learning", params={"towers": True}).json() == frozen
    assert service.get(f"{INTERNAL}/learning").json()["frozen"] is False
    resumed = service.post(f"{INTERNAL}/learning/resume", json=said | {"rate": 0.25}).json()
    assert (resumed["frozen"], resumed["rate"]) == (False, 0.25)
    assert rooms.samples.baseline(towers_name(towers.name)) > 0, "what is caught up with is no drift"
    assert service.post(f"{INTERNAL}/learning/resume", json=said | {"rate": 2}).status_code == 422


@pytest.fixture
def run(mongo_url: str, database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    environment = {
        "MONGO_URL": mongo_url, "MONGO_DATABASE": database.name, "DATA_DIR": str(tmp_path / "data"),
        "DOMAINS": "tests.improvement.two_tower.test_tower_audit:cli_domain,tests.worker_domain:domain",
        "COLUMNS": "300",
    }  # fmt: skip
    yield lambda *arguments: CliRunner().invoke(app, list(arguments), env=environment)
    structlog.reset_defaults()


def test_the_command_line_audits_towers_and_draws_how_it_went(run: Any):
    assert "no audit yet" in run("audit", "--towers").stdout
    for _ in range(2):
        made = json.loads(run("audit", "--towers", "--now", "--json").stdout)
    assert [one["grade"] for one in made["audits"]] == ["good", "good"]
    shown = run("audit", "--towers").stdout
    for words in ("training pairs an hour", "drift of users, a day", "▁▁", "too little to judge yet"):
        assert words in shown
    assert json.loads(run("audit", "--json").stdout)["audits"] == []
    [frozen] = json.loads(run("learning", "freeze", "--towers", "--why", "spam", "--json").stdout)
    assert (frozen["domain"], frozen["frozen"]) == ("towering.towers", True)
    assert "spam" in run("learning", "status", "--towers").stdout
    [resumed] = json.loads(run("learning", "resume", "--towers", "--why", "gone", "--json").stdout)
    assert (resumed["frozen"], resumed["by"] != "") == (False, True)
    refused = run("audit", "--towers", "--domain", "work")
    assert (refused.exit_code, "has no towers" in refused.stderr) == (1, True)


# Counted


def scraped(improver: Improver) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(StoredGauges(improver))
    lines = generate_latest(registry).decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def test_gauges_of_a_service_without_engagements_are_there_and_up(towers: Towers):
    said, of = scraped(towers.improver), f'{{domain="{towers.name}"}}'
    assert said[f"tower_pairs_per_hour{of}"] == 0
    assert said[f"tower_engagements_unclaimed{of}"] == 0
    assert said[f"tower_checkpoint_timestamp_seconds{of}"] > 0
    assert said['stored_metrics_up{source="towers"}'] == 1
    assert f"tower_negatives_per_positive{of}" not in said


def test_no_name_is_told_twice_where_there_are_towers(towers: Towers, service: httpx.Client):
    towers.now = towers.improver.clock()
    towers.pairs(30, seconds=0.004)
    names = re.findall(r"^# TYPE (\S+) ", service.get("/metrics").text, re.MULTILINE)
    assert len(names) == len(set(names))
    assert "tower_update_quantile_seconds" in names


def test_every_gauge_of_the_towers_is_told_and_none_names_a_user(towers: Towers):
    improver = replace(towers.improver, clock=lambda: towers.now)
    towers.pairs(95, seconds=0.004, user_id="ann secret")
    towers.pairs(5, seconds=0.2, batch=None)
    towers.pairs(500, Reason.SHOWN)
    towers.create_items("o1")
    for _ in range(10):
        towers.search(["o1", "o2"], ["o1"], user="ann secret")
    towers.users("ann secret ", 10, 3, vector=True)
    towers.look()
    towers.now += DAY - HOUR - 60
    towers.pairs(20, seconds=0.004, batch=None)
    towers.look()
    said, of = scraped(improver), f'domain="{towers.name}"'
    assert said[f'tower_update_quantile_seconds{{{of},quantile="0.95"}}'] == 0.004
    assert said[f"tower_pairs_per_hour{{{of}}}"] == 20
    assert said[f"tower_engagements_unclaimed{{{of}}}"] == 25
    assert said[f"tower_negatives_per_positive{{{of}}}"] == pytest.approx(500 / 95)
    assert said[f'tower_drift_per_day{{{of},of="items"}}'] == 0
    assert said[f'tower_drift_per_day{{{of},of="users"}}'] == 0
    assert said[f"tower_cold_clickthrough{{{of}}}"] == 1
    assert said[f"tower_user_coverage_ratio{{{of}}}"] == 1
    assert said[f"tower_audit_timestamp_seconds{{{of}}}"] == towers.now
    assert "secret" not in "".join(said)
    assert {name.split("{")[0] for name in said} <= MEANINGS.keys()

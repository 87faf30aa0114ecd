"""Numbers from the stores on `/metrics`: there, cached, without users, and never a failure."""

import re
from dataclasses import replace
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from clickstream.improvement_queue import Owner
from improvement.domain import SearchDomain
from improvement.improver import Improver
from improvement.promotion import promote_build
from improvement.quality.alerts import Alert, Severity
from improvement.quality.audit import audit
from improvement.quality.gauges import FRESH, FRESH_SIZES, MEANINGS, StoredGauges
from improvement.wiring import Rooms
from tests.support import Clock, make_objects, make_session


@pytest.fixture
def originals(rooms: Rooms, domain: SearchDomain) -> None:
    rooms.vectors.upsert(rooms.releases.blue(domain.name).collection_id, make_objects(domain, 9))


def lines(text: str) -> dict[str, float]:
    found = re.findall(r"^([a-z_]+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def scraped(gauges: StoredGauges) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(gauges)
    return lines(generate_latest(registry).decode())


def filled(rooms: Rooms, improving: Improver, domain: SearchDomain) -> None:
    """A domain of which there is everything to say."""
    rooms.clickstream.register(make_session("s", "ann secret", ["o1", "o2"], domain=domain.name))
    rooms.alerts.tell(Alert(domain.name, "drift.objects", Severity.ALARM, "it moves"))
    rooms.learning.resume(domain.name, "ann secret", "slowly", 0.25)
    rooms.queue.enqueue_rebuild([Owner(domain.name, "ann secret")])
    name = "a" * 32
    build = rooms.builds.ask(domain.name, "words-v1@a", "words-v1", False, "ann secret", name)
    green = rooms.releases.create(domain, build.embedding_model_id, space="words-v1", build=name)
    blue = rooms.releases.blue(domain.name)
    rooms.mirror.reconcile(domain, blue, green)
    token = rooms.builds.claim(build, 60)
    rooms.builds.save(name, token, 60, state="building", stage="objects", done=3, total=9)
    rooms.reports.save(domain.name, name, green.collection_id, blue.collection_id, [], {})
    audit(improving, domain, improving.clock())


def test_everything_that_is_stored_is_told(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: None
):
    filled(rooms, improving, domain)
    said, name = scraped(StoredGauges(improving)), domain.name
    assert said[f'alerts_open{{domain="{name}",kind="drift.objects",severity="alarm"}}'] == 1
    assert said[f'learning_rate{{domain="{name}"}}'] == 0.25
    assert said[f'learning_frozen{{domain="{name}"}}'] == 0
    assert said[f'build_active{{domain="{name}",stage="objects"}}'] == 1
    assert (said[f'build_done{{domain="{name}"}}'], said[f'build_total{{domain="{name}"}}']) == (3, 9)
    assert said[f'gate_passed{{domain="{name}"}}'] == 1
    assert said[f'collection_points{{collection="words-v1",domain="{name}",kind="originals"}}'] == 9
    assert said[f'collection_blue{{collection="words-v1@a",domain="{name}"}}'] == 0
    assert said[f'evidence_per_hour{{domain="{name}"}}'] == 0
    assert {key.split("{")[0] for key in said} <= MEANINGS.keys()
    assert said['stored_metrics_up{source="alerts"}'] == 1


def test_no_label_carries_a_user(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: None, service: httpx.Client
):
    filled(rooms, improving, domain)
    text = service.get("/metrics").text
    assert "learning_rate" in text
    assert "ann" not in text
    assert "secret" not in text


def test_after_a_promotion_and_an_audit_their_numbers_are_there(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: None
):
    audit(improving, domain, improving.clock() - 86_400)
    audit(improving, domain, improving.clock())
    filled(rooms, improving, domain)
    rooms.builds.end("a" * 32, "built")
    promote_build(rooms, rooms.builds.get("a" * 32), "ann")
    promotion = rooms.releases.history(domain.name)[0]
    rooms.releases.promotions.watched(
        promotion, replace(promotion.watch, found={"before": 0.4, "after": 0.3})
    )
    said, name = scraped(StoredGauges(improving)), domain.name
    of = f'cause="learning",domain="{name}",of="objects",since="day"'
    assert said[f'drift_per_day{{{of},stat="mean"}}'] == 0
    assert said[f'promotion_timestamp_seconds{{domain="{name}"}}'] == pytest.approx(promotion.at)
    assert said[f'promotion_clickthrough{{domain="{name}",period="after"}}'] == 0.3
    assert said[f'build_active{{domain="{name}",stage="built"}}'] == 0


class Counted:
    """Rooms that count who is asked, and that can be told to fail."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.asked, self.broken = inner, list[str](), False

    def __getattr__(self, name: str) -> Any:
        self.asked.append(name)
        if self.broken and name != "domains":
            raise ConnectionError("the store is away")
        return getattr(self.inner, name)


def test_stores_are_asked_at_most_every_so_often(improving: Improver, originals: None):
    rooms: Any = Counted(improving)
    clock = Clock()
    gauges = StoredGauges(rooms, clock)
    first = scraped(gauges)
    rooms.asked.clear()
    clock.now += FRESH - 1
    assert scraped(gauges) == first
    assert rooms.asked == []
    clock.now += 2
    scraped(gauges)
    assert "alerts" in rooms.asked
    assert "vectors" not in rooms.asked, "sizes cost more"
    clock.now += FRESH_SIZES
    scraped(gauges)
    assert "vectors" in rooms.asked


def test_a_store_that_is_away_leaves_the_old_numbers_and_says_so(improving: Improver, originals: None):
    rooms: Any = Counted(improving)
    clock = Clock()
    gauges = StoredGauges(rooms, clock)
    before = scraped(gauges)
    rooms.broken = True
    clock.now += 2 * FRESH_SIZES
    after = scraped(gauges)
    sources = [key for key in after if key.startswith("stored_metrics_up")]
    assert [after[key] for key in sources] == [0] * len(sources)
    assert {k: v for k, v in after.items() if k not in sources} == {
        k: v for k, v in before.items() if k not in sources
    }
    rooms.broken = False
    assert scraped(gauges) == before, "it is asked again at once"


def test_from_the_start_on_a_store_that_is_away_is_no_failure(improving: Improver):
    rooms: Any = Counted(improving)
    rooms.broken = True
    assert set(scraped(StoredGauges(rooms)).values()) == {0.0}


def test_metrics_are_answered_with_both_kinds_each_name_once(service: httpx.Client):
    answer = service.get("/metrics")
    assert answer.status_code == 200
    names = re.findall(r"^# TYPE (\S+) ", answer.text, re.MULTILINE)
    assert len(names) == len(set(names))
    assert {"profile_push_seconds", "learning_rate", "improvement_batch_seconds"} <= set(names)

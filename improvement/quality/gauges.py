"""StoredGauges: what the stores say that no process counts, for `/metrics`. Labels never carry a user."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import structlog
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from improvement.domain import SearchDomain
from improvement.errors import NotFound
from improvement.green.builds import BuildState
from improvement.improver import Improver
from improvement.quality.growth import growth
from improvement.two_tower.names import towers_name

log = structlog.get_logger()

#: Seconds for which an answer of the stores is good enough; sizes of collections cost more, and change less.
FRESH, FRESH_SIZES = 30.0, 300.0
#: Seconds that current numbers of towers are of, newest engagements whose times are told, and as which
#: quantiles; and batches up to which what waits is counted.
HOUR, TIMED, QUANTILES, BATCHES = 3_600.0, 1_000, (0.5, 0.95, 0.99), 10


class Gauge(NamedTuple):
    """One number, its name, and what tells it from others of that name."""

    name: str
    labels: dict[str, str]
    value: float


#: Name -> what it means.
MEANINGS = {
    "alerts_open": "Alerts that are not over",
    "learning_frozen": "1 while a domain learns nothing",
    "learning_rate": "Share of a domain's own learning rates that it learns with",
    "drift_per_day": "Cosine distance a day by the latest audit, mean or 95th percentile",
    "evidence_per_hour": "Pieces of evidence an hour by the latest audit",
    "evidence_negatives_per_positive": "Negative pieces of evidence for a positive one by the latest audit",
    "users_with_profile_ratio": "Share of the users active in a period who have a profile that can be used",
    "new_objects_shown_ratio": "Share of the new objects of the sample that were shown to anybody",
    "audit_timestamp_seconds": "When the latest audit was, seconds since 1970",
    "build_active": "1 while a green build is queued or at work, by its stage",
    "build_done": "How far the newest green build is in its stage",
    "build_total": "How far it has to go, where that is known",
    "gate_passed": "1 if the latest gate of the newest build passed, else 0",
    "gate_timestamp_seconds": "When that gate ran, seconds since 1970",
    "promotion_timestamp_seconds": "When the serving collection was promoted, seconds since 1970",
    "promotion_clickthrough": "Share of sessions with a click before and after the latest promotion",
    "collection_points": "Points of a collection: originals and personal copies",
    "collection_bytes": "About how many bytes the vectors and payload of a collection take",
    "collection_blue": "1 for the collection that serves, else 0",
    "tower_update_quantile_seconds": "Time that learning from an engagement took, of the newest in an hour",
    "tower_pairs_per_hour": "Training pairs of the last hour",
    "tower_engagements_unclaimed": "Engagements that wait for a training batch, counted up to ten batches",
    "tower_negatives_per_positive": "Negative training pairs of a day for a positive one by the latest look",
    "tower_drift_per_day": "Mean cosine distance a day of the towers' vectors by the latest look",
    "tower_cold_clickthrough": "Click-through of items of the last day by the latest look",
    "tower_user_coverage_ratio": "Share of the active users with enough engagements who have a vector",
    "tower_checkpoint_timestamp_seconds": "When the checkpoint that serves was made, seconds since 1970",
    "tower_audit_timestamp_seconds": "When the towers were looked at last, seconds since 1970",
    "stored_metrics_up": "1 if the stores answered, else 0 and the other numbers are old",
}


class StoredGauges(Collector):
    """Reads the stores when somebody asks, and remembers the answers for a while.

    Where a store does not answer, what it said last is told again, and ``stored_metrics_up`` is 0.
    """

    def __init__(self, rooms: Improver, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        domains = list(rooms.domains)
        self._sources: dict[str, tuple[float, Callable[[], list[Gauge]]]] = {
            "alerts": (FRESH, lambda: list(_alerts(rooms))),
            "learning": (FRESH, lambda: [g for d in domains for g in _learning(rooms, d)]),
            "audits": (FRESH, lambda: [g for d in domains for g in _audits(rooms, d)]),
            "builds": (FRESH, lambda: [g for d in domains for g in _builds(rooms, d)]),
            "promotions": (FRESH, lambda: [g for d in domains for g in _promotions(rooms, d)]),
            "sizes": (FRESH_SIZES, lambda: list(_sizes(rooms, domains))),
        }
        if towers := [domain for domain in rooms.domains.values() if domain.towers is not None]:
            self._sources["towers"] = (FRESH, lambda: [g for d in towers for g in _towers(rooms, d)])
        self._known: dict[str, tuple[float, Sequence[Gauge]]] = {}

    def collect(self) -> Iterator[Metric]:
        """Yield every gauge that is known, by name."""
        families: dict[str, GaugeMetricFamily] = {}
        for gauge in self._all():
            names = sorted(gauge.labels)
            family = families.get(gauge.name)
            if family is None:
                family = GaugeMetricFamily(gauge.name, MEANINGS[gauge.name], labels=names)
                families[gauge.name] = family
            family.add_metric([gauge.labels[name] for name in names], gauge.value)
        yield from families.values()

    def _all(self) -> Iterator[Gauge]:
        now = self._clock()
        for source, (fresh, read) in self._sources.items():
            until, known = self._known.get(source, (float("-inf"), ()))
            up = 1.0
            if now >= until:
                try:
                    known = read()
                    self._known[source] = (now + fresh, known)
                except (
                    Exception
                ) as error:  # whatever a client library raises: the rest is still worth telling
                    log.warning("stored metrics are old", source=source, error=repr(error)[:500])
                    up = 0.0
            yield from known
            yield Gauge("stored_metrics_up", {"source": source}, up)


def _alerts(rooms: Improver) -> Iterator[Gauge]:
    for one in rooms.alerts.open():
        alert = one.alert
        labels = {"domain": alert.domain, "kind": alert.kind, "severity": alert.severity.value}
        yield Gauge("alerts_open", labels, 1.0)


def _learning(rooms: Improver, domain: str) -> Iterator[Gauge]:
    learning = rooms.learning.of(domain)
    yield Gauge("learning_frozen", {"domain": domain}, float(learning.frozen))
    yield Gauge("learning_rate", {"domain": domain}, learning.rate)


def _audits(rooms: Improver, domain: str) -> Iterator[Gauge]:
    audit, of = rooms.audits.latest(domain), {"domain": domain}
    if audit is None:
        return
    measured = audit.measured
    for kind, periods in measured["drift"].items():
        for period, one in periods.items():
            for stat in ("mean", "p95") if one["drift"] else ():
                labels = of | {"of": kind, "since": period, "stat": stat, "cause": one["cause"]}
                yield Gauge("drift_per_day", labels, one["drift"][stat])
    said: dict[str, tuple[dict[str, str], float | None]] = {
        "evidence_per_hour": (of, measured["evidence"]["rate_per_hour"]),
        "evidence_negatives_per_positive": (of, measured["evidence"]["negatives_per_positive"]),
        "new_objects_shown_ratio": (of, measured["new_objects"]["coverage"]),
        "audit_timestamp_seconds": (of, audit.at),
    }
    for name, (labels, value) in said.items():
        if value is not None:
            yield Gauge(name, labels, value)
    for period, users in measured["users"].items():
        if users["usable"] is not None:
            yield Gauge("users_with_profile_ratio", of | {"period": period}, users["usable"])


def _builds(rooms: Improver, domain: str) -> Iterator[Gauge]:
    of = {"domain": domain}
    try:
        build = rooms.builds.latest(domain)
    except NotFound:
        return
    working = build.state is BuildState.BUILDING
    stage = build.stage.value if working else build.state.value
    yield Gauge("build_active", of | {"stage": stage}, float(build.active))
    if working:
        yield Gauge("build_done", of, float(build.done))
        if build.total is not None:
            yield Gauge("build_total", of, float(build.total))
    try:
        report = rooms.reports.latest(build.build_id)
    except NotFound:
        return
    yield Gauge("gate_passed", of, float(report.passed))
    yield Gauge("gate_timestamp_seconds", of, report.created_at)


def _promotions(rooms: Improver, domain: str) -> Iterator[Gauge]:
    serving = rooms.releases.serving(domain).collection_id
    promotion, of = rooms.releases.promotions.latest(domain, serving), {"domain": domain}
    if promotion is None:
        return
    yield Gauge("promotion_timestamp_seconds", of, promotion.at)
    found = promotion.watch.found if promotion.watch else None
    for period in ("before", "after") if found else ():
        yield Gauge("promotion_clickthrough", of | {"period": period}, found[period] if found else 0.0)


def _towers(rooms: Improver, domain: SearchDomain) -> Iterator[Gauge]:
    """Tell what is cheap to ask as it is now, and the rest as the latest look at the towers found it."""
    assert domain.towers is not None
    name, of = domain.name, {"domain": domain.name}
    hour_ago = rooms.clock() - HOUR
    if seconds := rooms.pairs.latencies(name, hour_ago, TIMED):
        for quantile in QUANTILES:
            labels = of | {"quantile": str(quantile)}
            yield Gauge("tower_update_quantile_seconds", labels, float(np.quantile(seconds, quantile)))
    yield Gauge("tower_pairs_per_hour", of, float(sum(rooms.pairs.counts(name, hour_ago).values())))
    waiting = rooms.pairs.unclaimed(name, BATCHES * domain.towers.candidate_every)
    yield Gauge("tower_engagements_unclaimed", of, float(waiting))
    if (serving := rooms.towers.serving(name)) is not None:
        made_at = rooms.towers.checkpoint(serving.checkpoint_id).created_at
        yield Gauge("tower_checkpoint_timestamp_seconds", of, made_at)
    if (audit := rooms.audits.latest(towers_name(name))) is None:
        return
    measured = audit.measured
    for kind, periods in measured["drift"].items():
        if periods["day"]["drift"] is not None:
            yield Gauge("tower_drift_per_day", of | {"of": kind}, periods["day"]["drift"]["mean"])
    said = {
        "tower_negatives_per_positive": measured["pairs"]["negatives_per_positive"],
        "tower_cold_clickthrough": measured["items"]["click_through"],
        "tower_user_coverage_ratio": measured["users"]["week"]["share"],
        "tower_audit_timestamp_seconds": audit.at,
    }
    yield from (Gauge(gauge, of, value) for gauge, value in said.items() if value is not None)


def _sizes(rooms: Improver, domains: Sequence[str]) -> Iterator[Gauge]:
    for row in growth(rooms.releases, rooms.vectors, domains):
        labels = {"domain": row["domain"], "collection": row["embedding_model_id"]}
        for kind in ("originals", "copies"):
            yield Gauge("collection_points", labels | {"kind": kind}, float(row[kind]))
        yield Gauge("collection_bytes", labels, float(row["bytes"]))
        yield Gauge("collection_blue", labels, float(row["blue"]))

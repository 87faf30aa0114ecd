"""The audit of the towers: vital signs every hour, all of it once a week, and what is done about it."""

from typing import Any

import structlog

from improvement.domain import SearchDomain
from improvement.evaluation.drift import Grade
from improvement.improver import Improver
from improvement.quality.alerts import Alert, Severity
from improvement.quality.audits import Audit, AuditStore, Finding, new_id
from improvement.quality.learning import LEAST_RATE
from improvement.two_tower import vital_signs
from improvement.two_tower.healing import HEALED, heal_towers, judge_served
from improvement.two_tower.measuring import DAY, HOUR, WEEK, Measured, Pairs, measure, pairs_since
from improvement.two_tower.names import towers_name
from improvement.two_tower.overview import with_towers
from improvement.two_tower.recomputing import recompute_stale
from improvement.two_tower.settings import TowerHealth, TowerSettings
from improvement.two_tower.tower_drift import (
    WORDS,
    Changes,
    compare,
    drifted,
    drifted_in_week,
    remember,
    snapshots,
)

log = structlog.get_logger()

#: Seconds after which a look that failed is tried again.
RETRY = 600.0
#: Seconds for which what serves must have been looked at without an alarm to be judged good.
GOOD_SECONDS = DAY
#: For how long hourly audits are kept.
KEPT_SECONDS = 90 * DAY


def audit_name(domain: SearchDomain) -> str:
    """Return the name of audits, and of the brake, of a domain's towers; raises Conflict without towers."""
    return towers_name(with_towers(domain).name)


def audit_towers(rooms: Improver, domain: SearchDomain) -> int:
    """Look at a domain's towers once an hour, and audit them once a week; finish what a dead worker began.

    Returns:
        1 if something was done, else 0; nothing before the first publication.
    """
    name = towers_name(domain.name)
    if rooms.towers.serving(domain.name) is None:
        return 0
    due = rooms.audits.due(name)
    if due is not None:
        heal_towers(rooms, domain, due)
    hourly, weekly = f"signs {name}", f"audit {name}"
    whole = rooms.queue.take_tick(weekly, WEEK)
    if not (rooms.queue.take_tick(hourly, HOUR) or whole):
        return int(due is not None)
    try:
        look(rooms, domain, rooms.clock(), whole=whole)
    except BaseException:
        for tick in (hourly, weekly) if whole else (hourly,):
            rooms.queue.hurry(tick, RETRY)
        raise
    return 1


def look(
    rooms: Improver, domain: SearchDomain, now: float, *, whole: bool = False, acting: bool = True
) -> Audit:
    """Measure a domain's towers, judge, store and tell it, and act upon an alarm of drift.

    Nothing is refused for being empty: what cannot be judged yet is left out.

    Args:
        now: seconds since 1970.
        whole: do what is done once a week, too: look back a week, and make items anew whose vectors are
            missing, or of something else than what serves.
        acting: heal at once; else it is written down that it is due, and the next worker does it.

    Raises:
        Conflict: the domain has no towers, or others began to serve while items were made anew.
    """
    name, towers = audit_name(domain), domain.towers
    assert towers is not None
    serving = rooms.towers.serving(domain.name)
    recomputed = recompute_stale(rooms, domain).as_json() if whole and serving is not None else None
    changes: Changes = {}
    if serving is not None:
        items, users, people = snapshots(rooms, domain, towers, serving, now)
        changes = {one.kind: compare(rooms.samples, one) for one in (items, users)}
    measured = measure(rooms, domain, towers, serving, now)
    week = pairs_since(rooms, domain, now - WEEK) if whole else None
    before = rooms.audits.latest(name)
    ever = measured.any_pairs or bool(before and before.measured.get("ever"))
    findings = _findings(measured, changes, week, ever, towers.health)
    alarmed = any(f.kind == vital_signs.DRIFT and f.grade is Grade.ALARM for f in findings)
    found = Audit(
        audit_id=new_id(), domain=name, at=now, release=serving.checkpoint_id if serving else "",
        collection=serving.collection_id if serving else "", space=serving.checkpoint_id if serving else "",
        findings=findings, release_good=not alarmed,
        measured=_as_json(measured, changes, week) | {"ever": ever, "recomputed": recomputed},
        **_healing(rooms, name, towers, alarmed),
    )  # fmt: skip
    rooms.audits.save(found)
    if whole:
        rooms.audits.forget(name, now - KEPT_SECONDS)
    if serving is not None:
        remember(rooms, domain, (items, users), people, before is not None and before.space != found.space)
        judge_served(rooms, domain, found, GOOD_SECONDS)
    _tell(rooms, domain, found, whole)
    log.info("towers audited", domain=domain.name, grade=found.grade.value, findings=len(findings))
    if found.healing == AuditStore.DUE and acting:
        found = heal_towers(rooms, domain, found)
    return found


def _findings(
    measured: Measured, changes: Changes, week: Pairs | None, ever: bool, health: TowerHealth
) -> list[Finding]:
    pairs, items, users = measured.pairs, measured.items, measured.users["week"]
    judged = [
        vital_signs.latency(measured.seconds, health, measured.late, measured.asked),
        vital_signs.rate(measured.per_hour, ever, health),
        vital_signs.negatives(pairs.positives, pairs.negatives, health),
        drifted(changes, health),
        vital_signs.cold_clicks(items.shown, items.clicked, health),
        vital_signs.coverage(users.ready, users.covered, health),
        vital_signs.items(items.settled, items.with_vectors, health),
    ]
    if week is not None:
        judged += [
            drifted_in_week(changes, health),
            vital_signs.week_balance(week.positives, week.negatives, health),
        ]
    return [one for one in judged if one is not None]


def _as_json(measured: Measured, changes: Changes, week: Pairs | None) -> dict[str, Any]:
    return {
        "latency": {
            "p95": vital_signs.slowest(measured.seconds),
            "timed": len(measured.seconds),
            "since": measured.timed,
            "late": measured.late,
            "asked": measured.asked,
        },
        "per_hour": measured.per_hour,
        "pairs": measured.pairs.as_json(),
        "pairs_of_week": None if week is None else week.as_json(),
        "items": measured.items.as_json(),
        "users": {period: one.as_json() for period, one in measured.users.items()},
        "drift": {
            WORDS[kind]: {period: one.as_json() for period, one in periods.items()}
            for kind, periods in changes.items()
        },
    }


def _healing(rooms: Improver, name: str, towers: TowerSettings, alarmed: bool) -> dict[str, Any]:
    """Return whether an alarm of drift is to be acted upon, and with what rate learning goes on then."""
    if not (alarmed and towers.health.self_heal):
        return {}
    return {"healing": AuditStore.DUE, "heal_rate": max(LEAST_RATE, rooms.learning.of(name).rate / 2)}


def _tell(rooms: Improver, domain: SearchDomain, found: Audit, whole: bool) -> None:
    judged = {finding.kind for finding in found.findings}
    for kind in (*vital_signs.HOURLY, *(vital_signs.WEEKLY if whole else ())):
        if kind not in judged:  # nothing is left that it could be judged by
            rooms.alerts.over(domain.name, kind)
    for finding in found.findings:
        if finding.grade in (Grade.GOOD, Grade.NOTE):
            rooms.alerts.over(domain.name, finding.kind)
            if finding.kind == vital_signs.DRIFT and found.at - rooms.samples.baseline(found.domain) > DAY:
                rooms.alerts.over(domain.name, HEALED)
            continue
        severity = Severity.ALARM if finding.grade is Grade.ALARM else Severity.WARNING
        facts = {"value": finding.value, "checkpoint": found.release, "audit_id": found.audit_id}
        if finding.kind == vital_signs.BALANCE:
            facts |= found.measured["pairs"]["reasons"]
        rooms.alerts.tell(Alert(domain.name, finding.kind, severity, finding.message, facts))

"""The audit: once a day, is learning still doing good? Drift, balance and rate of evidence, coverage."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import structlog

from clickstream.improvement_queue import Owner
from improvement.domain import SearchDomain
from improvement.evaluation.drift import Grade, above, balance, worst
from improvement.improver import Improver
from improvement.quality.alerts import Alert, Severity
from improvement.quality.audits import Audit, AuditStore, Finding, new_id
from improvement.quality.coverage import Coverage, coverage
from improvement.quality.evidence_day import DAY, EvidenceDay, evidence_day
from improvement.quality.healing import heal
from improvement.quality.learning import LEAST_RATE
from improvement.quality.moved import AGES, Moved, compare, copies_now, objects_now, profiles_now
from improvement.quality.samples import Kind, Snapshot
from improvement.quality.settings import AuditSettings
from improvement.releases import Serving

log = structlog.get_logger()

#: Seconds between two audits of a domain, and after one that failed.
INTERVAL, RETRY = 86_400.0, 3_600.0
#: Newest sessions, and newest actions, of a day that are read; and those whose users were active in a week.
READ, READ_WEEK = 20_000, 100_000
#: Earlier audits asked whether there ever was evidence.
EARLIER = 7
#: Times that new objects were shown, below which their click-through says nothing; users, for coverage.
LEAST_SHOWN, LEAST_USERS = 100, 20
#: Kinds of findings that speak against the collection that serves, and not against what was learned on it.
AGAINST_RELEASE = ("drift.objects", "drift.promoted")


def audit_quality(rooms: Improver, domain: SearchDomain) -> None:
    """Audit a domain once a day, and finish what an audit that died wanted done."""
    if (due := rooms.audits.due(domain.name)) is not None:
        heal(rooms, domain, due)
    tick = f"audit {domain.name}"
    if not rooms.queue.take_tick(tick, INTERVAL):
        return
    try:
        audit(rooms, domain, rooms.clock())
    except BaseException:
        rooms.queue.hurry(tick, RETRY)
        raise


def audit(rooms: Improver, domain: SearchDomain, now: float) -> Audit:
    """Audit a domain: measure, store, tell what is wrong, and act upon it if the domain says so.

    Acted upon is only drift that was measured from after the last time; what is older was acted upon then.

    Args:
        now: seconds since 1970.
    """
    release = rooms.releases.blue(domain.name)
    serving = Serving(release.collection_id, release.space)
    profiles = rooms.profiles.sample(domain.name, domain.audit.sample)
    users = [profile.user_id for profile in profiles]
    snapshots = [
        objects_now(rooms, domain, serving, now),
        profiles_now(domain, serving, now, profiles),
        copies_now(rooms, domain, serving, now, users),
    ]
    changes = {snapshot.kind: compare(rooms.samples, snapshot) for snapshot in snapshots}
    new = changes[Kind.OBJECTS]["day"].new
    day = evidence_day(
        domain,
        rooms.clickstream.history(domain.name, limit=READ),
        rooms.actions.newest(domain.name, READ),
        now, READ, new,
    )  # fmt: skip
    week = rooms.clickstream.active_users(domain.name, now - 7 * DAY, READ_WEEK) | set(
        _acting(rooms, domain, now - 7 * DAY)
    )
    covered = {
        "day": coverage(rooms, domain, serving, day.users),
        "week": coverage(rooms, domain, serving, week),
    }
    had = any(one.measured["evidence"]["pieces"] for one in rooms.audits.list(domain.name, EARLIER))
    findings = [
        *_drifted(changes, domain.audit), *_balanced(day, had, domain.audit),
        *_covered(covered, day, domain.audit),
    ]  # fmt: skip
    found = Audit(
        audit_id=new_id(), domain=domain.name, at=now, release=release.embedding_model_id,
        collection=serving.collection_id, space=serving.space, findings=findings,
        release_good=not any(f.grade is Grade.ALARM and f.kind in AGAINST_RELEASE for f in findings),
        measured=_measured(changes, day, covered, new),
        **_healing(rooms, domain, changes),
    )  # fmt: skip
    rooms.audits.save(found)
    _remember(rooms, domain, snapshots, users)
    _tell(rooms, found)
    log.info("audited", domain=domain.name, grade=found.grade.value, findings=len(findings))
    if found.healing == AuditStore.DUE:
        heal(rooms, domain, found)
    return rooms.audits.latest(domain.name) or found


def _acting(rooms: Improver, domain: SearchDomain, since: float) -> Iterator[str]:
    for action in rooms.actions.newest(domain.name, READ):
        if action.received_at < since:
            return
        yield action.user_id


def _drifted(changes: Mapping[Kind, Mapping[str, Moved]], settings: AuditSettings) -> list[Finding]:
    """Judge how far vectors moved; by learning, or in the same space by a promotion."""
    findings = []
    for kind, periods in changes.items():
        for cause, name in (("learning", f"drift.{kind}"), ("promotion", "drift.promoted")):
            if cause == "promotion" and kind is not Kind.OBJECTS:
                continue  # made anew on other objects: nobody learned anything
            graded = []
            for period, one in periods.items():
                if one.cause == cause and one.drift is not None:
                    grade = above(one.drift.mean, settings.warn_drift, settings.alarm_drift)
                    if period == "week":  # the weekly audit asks for the whole way, too
                        so_far = above(one.drift.whole, settings.warn_drift, math.inf)
                        grade = worst([grade, so_far])
                    graded.append((list(Grade).index(grade), one.drift.mean, period, one, grade))
            if graded:
                _, value, period, one, grade = max(graded, key=lambda each: each[:2])
                assert one.drift is not None
                message = (
                    f"{kind} moved by {value:.3f} a day since a {period} ago ({one.drift.whole:.3f} in "
                    f"{one.drift.days:.1f} days, 95th percentile {one.drift.p95:.3f} a day, cosine distance)"
                )
                because = " because another collection serves" if cause == "promotion" else ""
                findings.append(Finding(name, grade, message + because, value))
    return findings


def _balanced(day: EvidenceDay, had: bool, settings: AuditSettings) -> list[Finding]:
    """Judge what people said: how much for and against, and how much of it."""
    findings = []
    if day.pieces >= settings.least_evidence:
        ratio, grade = balance(
            day.positives, day.negatives, settings.good_negatives, settings.least_negatives,
            settings.most_negatives,
        )  # fmt: skip
        low, high = settings.good_negatives
        message = (
            f"{day.negatives} pieces of evidence against objects and {day.positives} for them: "
            f"1:{ratio:.1f}, where 1:{low:.6g} to 1:{high:.6g} is good"
        )
        value = ratio if math.isfinite(ratio) else None
        findings.append(Finding("evidence.balance", grade, message, value))
    if settings.least_rate and (had or day.pieces):
        message = f"{day.rate:.1f} pieces of evidence an hour, where {settings.least_rate:.6g} is the least"
        grade = Grade.WARNING if day.rate < settings.least_rate else Grade.GOOD
        findings.append(Finding("evidence.rate", grade, message, day.rate))
    return findings


def _covered(covered: Mapping[str, Coverage], day: EvidenceDay, settings: AuditSettings) -> list[Finding]:
    """Judge who has a profile of those who could, and what became of new objects."""
    findings, week = [], covered["week"]
    if week.usable_of_ready is not None and week.ready >= LEAST_USERS:
        share = week.usable_of_ready
        grade = Grade.WARNING if share < settings.least_coverage else Grade.GOOD
        message = f"{share:.0%} of {week.ready} users who did enough for a profile have one that can be used"
        findings.append(Finding("coverage.profiles", grade, message, share))
    if day.new_shown >= LEAST_SHOWN:
        share = day.new_clicked / day.new_shown
        grade = Grade.WARNING if share < settings.least_new_clicks else Grade.GOOD
        message = f"new objects were clicked {share:.2%} of the {day.new_shown} times they were shown"
        findings.append(Finding("coverage.new_clicks", grade, message, share))
    return findings


def _measured(
    changes: Mapping[Kind, Mapping[str, Moved]],
    day: EvidenceDay,
    covered: Mapping[str, Coverage],
    new: Sequence[str],
) -> dict[str, Any]:
    return {
        "drift": {
            kind.value: {period: one.as_json() for period, one in periods.items()}
            for kind, periods in changes.items()
        },
        "evidence": {
            "sessions": day.sessions, "actions": day.actions, "positives": day.positives,
            "negatives": day.negatives, "pieces": day.pieces, "failed": day.failed,
            "negatives_per_positive": day.negatives / day.positives if day.positives else None,
            "rate_per_hour": day.rate,
        },
        "users": {period: one.as_json() for period, one in covered.items()},
        "new_objects": {
            "new": len(new), "shown": len(day.new_seen),
            "coverage": len(day.new_seen) / len(new) if new else None,
            "impressions": day.new_shown,
            "click_through": day.new_clicked / day.new_shown if day.new_shown else None,
        },
    }  # fmt: skip


def _healing(
    rooms: Improver, domain: SearchDomain, changes: Mapping[Kind, Mapping[str, Moved]]
) -> dict[str, Any]:
    """Return whether an alarm of drift is to be acted upon, and with what rate learning goes on then."""
    if not domain.audit.self_heal:
        return {}
    before = rooms.learning.of(domain.name).rate  # before the baseline, as healing writes it after that
    baseline = rooms.samples.baseline(domain.name)
    since = {
        kind: {name: one for name, one in periods.items() if one.since is not None and one.since > baseline}
        for kind, periods in changes.items()
    }
    kinds = {f"drift.{kind}" for kind in Kind}
    if not any(f.grade is Grade.ALARM and f.kind in kinds for f in _drifted(since, domain.audit)):
        return {}
    return {"healing": AuditStore.DUE, "heal_rate": max(LEAST_RATE, before / 2)}


def _remember(rooms: Improver, domain: SearchDomain, snapshots: list[Snapshot], users: list[str]) -> None:
    """Keep what the next audits compare with, unless that was done a moment ago."""
    for snapshot in snapshots:
        newest = rooms.samples.newest_at(domain.name, snapshot.kind)
        if newest is None or snapshot.at - newest >= AGES["day"] * DAY:
            rooms.samples.save(snapshot)
    gone = set(users) - rooms.profiles.load(domain.name, users).keys()  # erased while we read
    rooms.samples.erase([Owner(domain.name, user).key for user in gone])


def _tell(rooms: Improver, found: Audit) -> None:
    for finding in found.findings:
        if finding.grade is Grade.GOOD:
            rooms.alerts.over(found.domain, finding.kind)
        else:
            severity = Severity.ALARM if finding.grade is Grade.ALARM else Severity.WARNING
            facts = {"value": finding.value, "release": found.release, "audit_id": found.audit_id}
            rooms.alerts.tell(Alert(found.domain, finding.kind, severity, finding.message, facts))

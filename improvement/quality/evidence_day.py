"""What a domain's people did in a day: evidence for and against, who they were, what they saw of the new."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from clickstream.records import ReceivedAction, RegisteredSession
from improvement.domain import SearchDomain

log = structlog.get_logger()

HOUR, DAY = 3_600, 86_400

Said = TypeVar("Said", RegisteredSession, ReceivedAction)


@dataclass
class EvidenceDay:
    """What happened within a day, as far as it was read.

    A piece of evidence is one object that one session, or one action, says something about.

    Attributes:
        sessions, actions: how many were read.
        positives, negatives: pieces of evidence for objects, and against them.
        rate: pieces an hour.
        users: who was there.
        new_shown, new_clicked: how often new objects were shown, and clicked.
        new_seen: which of them were shown to anybody.
        failed: sessions and actions that the domain's own code could not judge.
    """

    sessions: int = 0
    actions: int = 0
    positives: int = 0
    negatives: int = 0
    rate: float = 0.0
    users: set[str] = field(default_factory=set)
    new_shown: int = 0
    new_clicked: int = 0
    new_seen: set[str] = field(default_factory=set)
    failed: int = 0

    @property
    def pieces(self) -> int:
        """Of either sign."""
        return self.positives + self.negatives


def evidence_day(
    domain: SearchDomain,
    sessions: Iterable[RegisteredSession],
    actions: Iterable[ReceivedAction],
    now: float,
    most: int,
    new: Collection[str] = (),
) -> EvidenceDay:
    """Return what the day before ``now`` (seconds since 1970) says; read no further back.

    Args:
        sessions, actions: the newest first, at most that many of each: where there are more in a day, the
            rate is that of the time they are from.
        new: ids of objects that are new.
    """
    day, fresh = EvidenceDay(), frozenset(new)
    session_rate = _read(
        day, ((one, one.registered_at) for one in sessions), now, most,
        lambda session: _add_session(day, domain, session, fresh),
    )  # fmt: skip
    action_rate = _read(
        day, ((one, one.received_at) for one in actions), now, most,
        lambda action: _add_action(day, domain, action),
    )  # fmt: skip
    day.rate = session_rate + action_rate
    if day.failed:
        log.warning("evidence that could not be judged", domain=domain.name, failed=day.failed)
    return day


def _read(
    day: EvidenceDay,
    dated: Iterable[tuple[Said, float | None]],
    now: float,
    most: int,
    add: Callable[[Said], None],
) -> float:
    """Count in what is of the day; return how many pieces of evidence an hour it has."""
    count, before, oldest = 0, day.pieces, now - DAY
    for one, at in dated:
        if at is None or at > now:
            continue
        if at < now - DAY:
            break
        count, oldest = count + 1, at
        if one.user_id is not None:
            day.users.add(one.user_id)
        try:
            add(one)
        except Exception:  # plugin code: what it cannot judge is no evidence
            day.failed += 1
    hours = (now - oldest) / HOUR if count >= most else DAY / HOUR
    return (day.pieces - before) / max(hours, 1 / HOUR)


def _add_session(
    day: EvidenceDay, domain: SearchDomain, session: RegisteredSession, new: frozenset[str]
) -> None:
    day.sessions += 1
    shown = {result.object_id for result in session.search_results} & new
    clicked = {e.object_id for e in session.events if e.event_type in domain.selector.click_events} & shown
    day.new_shown += len(shown)
    day.new_clicked += len(clicked)
    day.new_seen |= shown
    if domain.selector.select(session).usable:
        weights = domain.evidence.of(session).values()
        day.positives += sum(weight > 0 for weight in weights)
        day.negatives += sum(weight < 0 for weight in weights)


def _add_action(day: EvidenceDay, domain: SearchDomain, action: ReceivedAction) -> None:
    day.actions += 1
    weight = domain.evidence.weight(action.action_type, action.meta)
    day.positives += weight > 0
    day.negatives += weight < 0

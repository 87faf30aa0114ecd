"""Engagement: an event or action that says enough about an object to learn from; pure."""

from dataclasses import dataclass

from clickstream.records import ReceivedAction, SessionEvent
from improvement.domain import SearchDomain
from improvement.profiles.online import rating_from_signals


@dataclass(frozen=True)
class Engagement:
    """Somebody engaged with an object, or turned it away.

    Attributes:
        engagement_id: the same whenever it is made of the same event; tells it from all others of the domain.
        action: the event's or action's type.
        signal: `rating_from_signals` of its evidence, -1..1, never 0 (seed 001: like, reply and repost
            strong, click and long dwell weak; not interested, block and mute against).
        at: when it happened, seconds since 1970: the client's word, but not later than it was received.
        received_at: when it came, by the server's clock.
    """

    engagement_id: str
    domain: str
    user_id: str
    object_id: str
    action: str
    signal: float
    at: float
    received_at: float


def of_action(action: ReceivedAction, domain: SearchDomain) -> Engagement | None:
    """Return what an action outside a search says; None if that is only that the object was seen, or less."""
    signal = signal_of(domain, action.action_type, action.meta)
    if signal is None:
        return None
    return Engagement(
        f"a:{action.place}", domain.name, action.user_id, action.object_id, action.action_type, signal,
        min(float(action.created_at or action.received_at), action.received_at), action.received_at,
    )  # fmt: skip


def of_event(
    session_id: str, user_id: str, event: SessionEvent, domain: SearchDomain, received_at: float
) -> Engagement | None:
    """Return what an event of a user's session says; None as `of_action`."""
    signal = signal_of(domain, event.event_type, event.meta)
    if signal is None:
        return None
    return Engagement(
        f"e:{len(session_id)}:{session_id}:{event.event_id}", domain.name, user_id, event.object_id,
        event.event_type, signal, min(float(event.created_at or received_at), received_at), received_at,
    )  # fmt: skip


def signal_of(domain: SearchDomain, kind: str, meta: object = None) -> float | None:
    """Return how strongly an event speaks for or against its object, -1..1; None: it is no engagement."""
    assert domain.towers is not None
    weight = domain.evidence.weight(kind, meta if isinstance(meta, dict) else None)
    if weight == 0 or 0 < weight < domain.towers.engaged_from:
        return None
    return rating_from_signals([weight], domain.evidence.saturation) or None

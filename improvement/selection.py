"""Which sessions teach, and how soon (seed 002)."""

from collections.abc import Mapping
from dataclasses import dataclass

from clickstream.records import RegisteredSession

#: Events that say "this is what I was looking for".
CLICKS = frozenset(
    {
        "click", "item_click", "like", "bookmark", "comment", "reply", "share", "repost", "add_to_cart",
        "purchase",
    }
)  # fmt: skip
#: Events that say "take this away from me".
DISLIKES = frozenset({"not_interested", "dislike", "hide", "block", "mute"})


@dataclass(frozen=True)
class Selection:
    """Whether a session teaches; `reason` says why not. Lower `priority` is improved first."""

    reason: str | None = None
    priority: int = 1

    @property
    def usable(self) -> bool:
        """True when the session teaches."""
        return self.reason is None


@dataclass(frozen=True)
class SessionSelector:
    """The seed's rules as data. What a session that teaches says of each object is `EvidenceWeights`.

    Attributes:
        min_seconds: shortest useful session, last event minus start, in seconds; shorter is a bounce. One
            without clicks may be shorter, for a dislike is a matter of a second.
        max_clicks: most click events of a session with a clear preference.
        surprising_rank: a click shown below this place (1 = first) points at a ranking error: improved first.
        click_events: the event types that count as clicks.
        dislike_events: the event types that make a session without clicks teach.
    """

    min_seconds: int = 10
    max_clicks: int = 10
    surprising_rank: int = 3
    click_events: frozenset[str] = CLICKS
    dislike_events: frozenset[str] = DISLIKES

    def select(self, session: RegisteredSession) -> Selection:
        """Say whether the session teaches, and how soon."""
        clicks = [event for event in session.events if event.event_type in self.click_events]
        dislikes = [event for event in session.events if event.event_type in self.dislike_events]
        if session.is_irrelevant:
            return Selection("marked irrelevant")
        if session.user_id is None:
            return Selection("anonymous: there is no user to make copies for")
        if not clicks and not dislikes:
            return Selection("no clicks")
        if len(clicks) > self.max_clicks:
            return Selection(f"{len(clicks)} clicks, more than {self.max_clicks}: no clear preference")
        seconds = max(event.created_at or 0 for event in session.events) - (session.created_at or 0)
        if clicks and seconds < self.min_seconds:
            return Selection(f"lasted {seconds} s, under {self.min_seconds} s")
        places = shown_places(session)
        if not any(event.object_id in places for event in (*clicks, *dislikes)):
            return Selection(f"no {'click' if clicks else 'dislike'} on a shown object")
        surprising = any(places.get(event.object_id, 0) > self.surprising_rank for event in clicks)
        return Selection(priority=0 if surprising else 1)


def shown_places(session: RegisteredSession) -> Mapping[str, int]:
    """Return each shown object's place, 1 = first, in shown order."""
    return {result.object_id: place for place, result in enumerate(session.search_results, start=1)}

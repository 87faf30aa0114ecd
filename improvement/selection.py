"""Which sessions teach, and which of the shown objects count as clicked or skipped (seed 002)."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from clickstream.records import RegisteredSession

#: Events that say "this is what I was looking for". Anything else is kept, and teaches nothing in this step.
CLICKS = frozenset({"click", "item_click", "like", "bookmark", "comment", "share", "add_to_cart", "purchase"})


class SkippedItems(StrEnum):
    """Which shown, unclicked objects count as skipped."""

    ALL = "all"
    #: Only those shown above the last click: the user has surely looked at them.
    EXAMINED = "examined"


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
    """The seed's rules as data.

    Attributes:
        min_seconds: shortest useful session, last event minus start, in seconds; shorter is a bounce.
        max_clicks: most click events of a session with a clear preference.
        surprising_rank: a click shown below this place (1 = first) points at a ranking error: improved first.
        skipped_items: which unclicked objects count as skipped.
        click_events: the event types that count as clicks.
    """

    min_seconds: int = 10
    max_clicks: int = 10
    surprising_rank: int = 3
    skipped_items: SkippedItems = SkippedItems.EXAMINED
    click_events: frozenset[str] = CLICKS

    def select(self, session: RegisteredSession) -> Selection:
        """Say whether the session teaches, and how soon."""
        clicks = [event for event in session.events if event.event_type in self.click_events]
        if session.is_irrelevant:
            return Selection("marked irrelevant")
        if session.user_id is None:
            return Selection("anonymous: there is no user to make copies for")
        if not clicks:
            return Selection("no clicks")
        if len(clicks) > self.max_clicks:
            return Selection(f"{len(clicks)} clicks, more than {self.max_clicks}: no clear preference")
        seconds = max(event.created_at or 0 for event in session.events) - (session.created_at or 0)
        if seconds < self.min_seconds:
            return Selection(f"lasted {seconds} s, under {self.min_seconds} s")
        places = shown_places(session)
        if not any(event.object_id in places for event in clicks):
            return Selection("no click on a shown object")
        surprising = any(places.get(event.object_id, 0) > self.surprising_rank for event in clicks)
        return Selection(priority=0 if surprising else 1)

    def split(self, session: RegisteredSession) -> tuple[list[str], list[str]]:
        """Return the shown objects that were clicked and those that were skipped, each in shown order."""
        places = shown_places(session)
        clicked = {event.object_id for event in session.events if event.event_type in self.click_events}
        last = max((places[object_id] for object_id in clicked if object_id in places), default=0)
        looked_at = len(places) if self.skipped_items is SkippedItems.ALL else last
        skipped = [o for o, place in places.items() if place <= looked_at and o not in clicked]
        return [o for o in places if o in clicked], skipped


def shown_places(session: RegisteredSession) -> Mapping[str, int]:
    """Return each shown object's place, 1 = first, in shown order."""
    return {result.object_id: place for place, result in enumerate(session.search_results, start=1)}

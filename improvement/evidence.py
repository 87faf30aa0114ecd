"""What a session says about each object it showed: signed weights; each rule can be switched off."""

import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeGuard

from clickstream.records import RegisteredSession

#: How strongly an event outside a search speaks for its object (seed 004); `EVENT_WEIGHTS` has these too.
ACTION_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "view_post": 1.0,
        "like_post": 5.0,
        "bookmark_post": 7.0,
        "comment_post": 8.0,
        "share_post": 10.0,
        "dwell": 0.0,  # only its meta.dwell_seconds speaks
    }
)
#: How strongly one event speaks for (> 0) or against (< 0) its object; seeds 001 and 004, whose words are
#: strong, weak and very strong where they have no number. Other types say nothing.
EVENT_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "view": 1.0,
        "click": 2.0,
        "item_click": 2.0,
        "like": 5.0,
        "add_to_cart": 5.0,
        "bookmark": 7.0,
        "comment": 8.0,
        "reply": 8.0,
        "share": 10.0,
        "repost": 10.0,
        "purchase": 10.0,
        "skip": -1.0,
        "hide": -2.0,
        "dislike": -5.0,
        "not_interested": -5.0,
        "block": -10.0,
        "mute": -10.0,
        **ACTION_WEIGHTS,
    }
)
#: Seconds in a day.
DAY = 86_400
#: Seconds after its start in which an event belongs to a session's normal course.
GOING_ON = 3_600
#: Largest weight of one event, either way: far beyond what any saturation tells apart.
MAX_WEIGHT = 1e6
#: Steps in which age is counted, per half-life: a copy is made again when its evidence enters another step.
DECAY_STEPS = 4
#: Half-lives after which evidence fades no more: what is left then, a billionth, is still its sign.
MAX_HALF_LIVES = 30


class SkippedItems(StrEnum):
    """Which shown objects without any event of weight count as skipped."""

    #: Every one. Under inverse-propensity weighting, those below the last click weigh as much as the
    #: propensity of their place, the chance that they were looked at.
    ALL = "all"
    #: Only those shown above the last click: the user has surely looked at them.
    EXAMINED = "examined"


@dataclass(frozen=True)
class EvidenceWeights:
    """How events become evidence.

    The weights of an object's events in a session add up to w, and ``tanh(w / saturation)`` is its evidence,
    in -1..1. What was passed over counts ``tanh(skipped / saturation)``. Inverse-propensity weighting
    multiplies what happened at a place by ``min(1 / propensity, max_inverse_propensity)``: who acted on a
    place that few look at stands for those who did not get there (Joachims, Swaminathan, Schnabel, "Unbiased
    Learning-to-Rank with Biased Feedback", WSDM 2017). Age multiplies by ``0.5 ** (age / half life)``.

    Attributes:
        events: event type -> signed weight, at most `MAX_WEIGHT` in size. One weight for all switches
            grading off.
        saturation: weight that counts tanh(1) = 0.76 of full evidence, > 0; None cuts off at -1 and 1.
        skipped: weight of what was passed over, <= 0; 0 switches it off.
        skipped_items: which objects count as passed over.
        long_dwell: weight of an event whose ``meta["dwell_seconds"]`` is above ``long_dwell_seconds``, beside
            its type's own; 0 switches it off.
        short_dwell: weight of one below ``short_dwell_seconds``; 0 switches it off. By default it outweighs
            the click itself: what was left at once speaks against its object.
        per_session: divide by how many objects of the session were clicked, disliked or passed over (the
            means of the published loss), so that a session counts once, however much happened in it.
        max_inverse_propensity: clip of the inverse propensities, >= 1; 1 switches them off.
        half_life_days: age at which evidence counts half, > 0; None switches decay off. Age is the time to
            the same user's latest session, so a user's copies do not change while the user is away.

    Raises:
        ValueError: naming the field and what was expected.
    """

    events: Mapping[str, float] = field(default_factory=lambda: dict(EVENT_WEIGHTS), hash=False)
    saturation: float | None = 3.0
    skipped: float = -2.0
    skipped_items: SkippedItems = SkippedItems.EXAMINED
    long_dwell: float = 2.0
    long_dwell_seconds: float = 5.0
    short_dwell: float = -3.0
    short_dwell_seconds: float = 2.0
    per_session: bool = True
    max_inverse_propensity: float = 1.0
    half_life_days: float | None = None

    def __post_init__(self) -> None:
        def expect(holds: bool, name: str, expected: str, got: object) -> None:
            if not holds:
                raise ValueError(f"{name}: expected {expected}, got {got!r}")

        expect(isinstance(self.events, Mapping), "events", "a mapping of event types to weights", self.events)
        weights = {f"events[{event_type!r}]": weight for event_type, weight in self.events.items()}
        weights |= {name: getattr(self, name) for name in ("skipped", "long_dwell", "short_dwell")}
        for name, weight in weights.items():
            expect(
                _is_number(weight) and abs(weight) <= MAX_WEIGHT,
                name, f"a number from -{MAX_WEIGHT:.0f} to {MAX_WEIGHT:.0f}", weight,
            )  # fmt: skip
        for name in ("long_dwell_seconds", "short_dwell_seconds"):
            expect(_is_number(getattr(self, name)), name, "a finite number", getattr(self, name))
        expect(isinstance(self.per_session, bool), "per_session", "True or False", self.per_session)
        expect(self.skipped <= 0, "skipped", "a number <= 0", self.skipped)
        expect(
            0 <= self.short_dwell_seconds <= self.long_dwell_seconds,
            "short_dwell_seconds", "a number from 0 to long_dwell_seconds", self.short_dwell_seconds,
        )  # fmt: skip
        for name in ("saturation", "half_life_days"):
            value = getattr(self, name)
            expect(value is None or (_is_number(value) and value > 0), name, "a number > 0 or None", value)
        expect(isinstance(self.skipped_items, SkippedItems), "skipped_items",
               "a SkippedItems", self.skipped_items)  # fmt: skip
        clip = self.max_inverse_propensity
        expect(_is_number(clip) and clip >= 1, "max_inverse_propensity", "a number >= 1", clip)

    @classmethod
    def published(cls, skipped_items: SkippedItems = SkippedItems.ALL) -> "EvidenceWeights":
        """Return what the published adjuster knows: clicked or not, each the mean over its session."""
        in_a_search = EVENT_WEIGHTS.keys() - ACTION_WEIGHTS.keys()
        clicks = {
            event: 1.0 for event, weight in EVENT_WEIGHTS.items() if weight > 1 and event in in_a_search
        }
        return cls(
            events=clicks, saturation=None, skipped=-1.0, skipped_items=skipped_items,
            long_dwell=0.0, short_dwell=0.0,
        )  # fmt: skip

    def of(self, session: RegisteredSession, propensities: Sequence[float] = ()) -> dict[str, float]:
        """Return the signed weight of every shown object that the session says something about.

        Args:
            propensities: chance, in 0..1, that a user looks at the first, second ... place; a place beyond
                the last is as likely as the last; none means that all are certain.

        Returns:
            In shown order; each in -1..1, or up to ``max_inverse_propensity`` in size, and never 0. An object
            whose events cancel each other out is not in it: it was not passed over either.
        """
        events: dict[str, list[float]] = defaultdict(list)
        for event in session.events:
            if weight := self.weight(event.event_type, event.meta):
                events[event.object_id].append(weight)
        places: dict[str, int] = {}
        for place, result in enumerate(session.search_results):
            places.setdefault(result.object_id, place)
        # fsum: the sum must not depend on the order of the events, not even in its last bit
        strengths = {o: self._strength(math.fsum(events[o])) for o in places if o in events}
        evidence = {o: strength for o, strength in strengths.items() if strength}
        last = max((places[o] for o, weight in evidence.items() if weight > 0), default=-1)
        passed_over = set()
        if self.skipped and last >= 0:
            everything = self.skipped_items is SkippedItems.ALL
            passed_over = {o for o, place in places.items() if everything or place < last} - events.keys()
        groups = {
            1: sum(weight > 0 for weight in evidence.values()),
            -1: sum(weight < 0 for weight in evidence.values()),
        }
        weights = {}
        for object_id, place in places.items():
            looked_at = propensities[min(place, len(propensities) - 1)] if propensities else 1.0
            if object_id in passed_over:
                # above the last click it was looked at for certain
                chance = looked_at if place > last and self.max_inverse_propensity > 1 else 1.0
                weight, group = self._strength(self.skipped) * chance, len(passed_over)
            elif object_id in evidence:
                clip = self.max_inverse_propensity
                inverse = min(1 / looked_at, clip) if looked_at > 0 else clip
                weight = evidence[object_id] * inverse
                group = groups[1 if weight > 0 else -1]
            else:
                continue
            weights[object_id] = weight / group if self.per_session else weight
        return {object_id: weight for object_id, weight in weights.items() if weight}

    def weight(self, kind: str, meta: Mapping[str, Any] | None = None) -> float:
        """Return the signed weight of one event or action: its type's own and its dwell's; 0 says nothing.

        >>> EvidenceWeights().weight("like_post"), EvidenceWeights().weight("dwell", {"dwell_seconds": 42})
        (5.0, 2.0)
        """
        weight = self.events.get(kind, 0.0)
        seconds = (meta or {}).get("dwell_seconds")
        if _is_number(seconds):
            if seconds > self.long_dwell_seconds:
                weight += self.long_dwell
            elif 0 <= seconds < self.short_dwell_seconds:
                weight += self.short_dwell
        return weight

    def decay(self, age_seconds: float) -> float:
        """Return what is left, in (0, 1], of evidence this much older than its user's latest."""
        if self.half_life_days is None:
            return 1.0
        half_lives = min(max(0.0, age_seconds) / (self.half_life_days * DAY), MAX_HALF_LIVES)
        return float(0.5 ** (math.floor(half_lives * DECAY_STEPS) / DECAY_STEPS))

    def _strength(self, weight: float) -> float:
        return max(-1.0, min(1.0, weight)) if self.saturation is None else math.tanh(weight / self.saturation)


def happened_at(session: RegisteredSession) -> float:
    """Return when a session happened, in seconds since 1970, and never later than it was registered.

    ``created_at`` is a client's word, and its clock may run ahead: everything else would look old beside it.
    """
    return min((at for at in (session.created_at, session.registered_at) if at is not None), default=0.0)


def _is_number(value: object) -> TypeGuard[float]:
    # not math.isfinite: it raises on a whole number that no float holds
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max

"""PromotionLog: which collection served when, who had it serve and why, and who is switching just now."""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, NamedTuple

from bson import ObjectId
from pymongo import UpdateOne
from pymongo.database import Database

from clickstream.store import insert_new
from improvement.errors import Conflict

Document = dict[str, Any]
#: Goes on holding the domain; raises Conflict when somebody else has it by now. Takes and ignores a count.
Hold = Callable[..., object]

#: Seconds for which a domain is held by whoever switches it, from page to page of what they compare.
SWITCH_SECONDS = 120.0


class WatchState(StrEnum):
    """Where the watch over a promotion stands."""

    WATCHING = "watching"
    FELL = "fell"
    ENDED = "ended"


@dataclass(frozen=True)
class Watch:
    """What is known of the click-through after a promotion, see `evaluation.clickthrough`.

    Attributes:
        looks: how often the two periods were compared.
        found: what the last comparison found, as JSON can hold it; None before there was one.
        reason: why it ended.
    """

    state: WatchState = WatchState.WATCHING
    looks: int = 0
    looked_at: float | None = None
    found: Mapping[str, Any] | None = None
    reason: str | None = None

    def as_json(self) -> Document:
        """Return what the API shows and the store holds."""
        return {**asdict(self), "state": self.state.value}


@dataclass(frozen=True)
class Promotion:
    """One time that a collection was made blue.

    Attributes:
        previous: the collection that served until then; None for the first one.
        current: the collection that serves from then on.
        at: when, in seconds since 1970.
        by: who asked for it.
        build: the build that made it; None for a collection made by hand, which no gate has seen.
        report_id: the gate's report that it was promoted by, passed or not.
        forced: why, and against which reasons, if it was forced.
        undone: whether it was rolled back; ``undone_at``, ``undone_by`` and ``undone_why`` say more.
        finished: whether all that follows the switch is done.
        apart: whether what followed before is not to follow this one.
        order: number of the switch among the domain's, and ``undone_order`` that of the switch back: clocks
            of several machines would not tell which came first. 0 in what earlier versions wrote.
        watch: None where nothing is compared.
    """

    promotion_id: str
    domain: str
    previous: str | None
    current: str
    at: float
    by: str = ""
    build: str | None = None
    report_id: str | None = None
    forced: Mapping[str, Any] | None = None
    undone: bool = False
    undone_at: float | None = None
    undone_by: str = ""
    undone_why: str = ""
    finished: bool = True
    apart: bool = False
    order: int = 0
    undone_order: int = 0
    watch: Watch | None = None

    @property
    def left(self) -> str | None:
        """The collection that served before the latest switch: forwards, or back if it was undone."""
        return self.current if self.undone else self.previous

    def as_json(self) -> Document:
        """Return what the API shows."""
        shown = asdict(self)
        shown["gated"] = self.build is not None and self.forced is None
        shown["watch"] = None if self.watch is None else self.watch.as_json()
        return shown


class PromotionLog:
    """Collections ``promotions``, one document a switch, and ``switching``, one lease a domain."""

    def __init__(self, database: Database[Document], clock: Callable[[], float] = time.time) -> None:
        self._promotions = database["promotions"]
        self._switching = database["switching"]
        self.clock = clock

    def begin(self, domain: str, previous: str | None, current: str, facts: Document) -> None:
        """Write down a promotion that is about to be carried out."""
        self._promotions.insert_one(
            facts
            | {
                "_id": uuid.uuid4().hex,
                "domain": domain, "previous": previous, "current": current, "at": self.clock(),
                "undone": False, "rebuilt": previous is None, "finished": previous is None,
                "order": self._number(domain),
            }
        )  # fmt: skip

    def latest(self, domain: str, current: str | None) -> Promotion | None:
        """Return the newest promotion that made this collection blue and was not undone, or None."""
        wanted = {"domain": domain, "current": current, "undone": False}
        return max(map(_promotion, self._promotions.find(wanted)), key=_begun, default=None)

    def undoing(self, promotion: Promotion, by: str, why: str) -> None:
        """Write down a rollback that is about to be carried out."""
        said = {"undone_at": self.clock(), "undone_by": by, "undone_why": why, "finished": False}
        self._set(promotion, {**said, "undone_order": self._number(promotion.domain), "rebuilt": False})

    def half_undone(self, domain: str, blue: str | None) -> Promotion | None:
        """Return the rollback to this collection that was carried out and not written down so, or None."""
        newest = max(self.history(domain), key=_switched, default=None)
        if newest is None or newest.undone or newest.undone_at is None or newest.previous != blue:
            return None
        return newest

    def undone(self, promotion: Promotion) -> None:
        """Note that a rollback was carried out; it ends the watch."""
        ended = {} if promotion.watch is None else {"watch.state": WatchState.ENDED.value}
        self._set(promotion, {"undone": True, **ended})

    def watched(self, promotion: Promotion, watch: Watch) -> None:
        """Write what the watch over a promotion found."""
        self._set(promotion, {"watch": watch.as_json()})

    def unrebuilt(self) -> set[str]:
        """Return the domains that were switched and whose copies nobody has queued for rebuilding since."""
        return set(self._promotions.distinct("domain", {"rebuilt": False}))

    def mark_rebuilt(self, domain: str) -> None:
        """Note that the domain's copies are queued for rebuilding."""
        self._promotions.update_many({"domain": domain, "rebuilt": False}, {"$set": {"rebuilt": True}})

    def unfinished(self, domain: str) -> Promotion | None:
        """Return the newest switch after which something is still to be done, or None."""
        found = self._promotions.find({"domain": domain, "finished": False})
        return max(map(_promotion, found), key=_switched, default=None)

    def mark_finished(self, domain: str) -> None:
        """Note that all that follows the domain's switches is done."""
        self._promotions.update_many({"domain": domain, "finished": False}, {"$set": {"finished": True}})

    def history(self, domain: str, limit: int = 0) -> list[Promotion]:
        """Return a domain's promotions, the newest first; 0 is all of them."""
        found = map(_promotion, self._promotions.find({"domain": domain}))
        return sorted(found, key=_begun, reverse=True)[: limit or None]

    @contextmanager
    def switching(self, domain: str, by: str) -> Iterator[Hold]:
        """Hold a domain while it is switched; whoever dies with it holds it for `SWITCH_SECONDS` more.

        Raises:
            Conflict: somebody else holds it.
        """
        token, now = uuid.uuid4().hex, self.clock()
        first = UpdateOne({"_id": domain}, {"$setOnInsert": {"until": 0.0}}, upsert=True)
        insert_new(lambda: self._switching.bulk_write([first], ordered=False))
        mine = {"token": token, "until": now + SWITCH_SECONDS, "by": by}
        if not self._switching.update_one(
            {"_id": domain, "until": {"$lte": now}}, {"$set": mine}
        ).matched_count:
            who = (self._switching.find_one({"_id": domain}) or {}).get("by") or "somebody"
            raise Conflict(f"domain {domain!r} is being switched just now by {who}; try again in a moment")

        def hold(count: int = 0) -> None:
            more = {"$set": {"until": self.clock() + SWITCH_SECONDS}}
            if not self._switching.update_one({"_id": domain, "token": token}, more).matched_count:
                raise Conflict(f"the switch of domain {domain!r} took too long and somebody else took over")

        try:
            yield hold
        finally:
            self._switching.update_one({"_id": domain, "token": token}, {"$set": {"until": 0.0}})

    def _number(self, domain: str) -> int:
        """Return the number of the domain's next switch; whoever switches holds the domain."""
        return 1 + max((_switched(one).order for one in self.history(domain)), default=0)

    def _set(self, promotion: Promotion, values: Document) -> None:
        self._promotions.update_one({"_id": _identity(promotion)}, {"$set": values})


class Switched(NamedTuple):
    """When a switch was: its number among the domain's, and seconds since 1970 by its maker's clock."""

    order: int
    at: float


def last_served(promotions: Iterable[Promotion]) -> dict[str, Switched]:
    """Return when each collection that ever served was last left for another.

    >>> once = Promotion("p", "docs", "blue", "green", 5.0, undone=True, undone_at=7.0, order=1,
    ...     undone_order=2)
    >>> last_served([once])
    {'blue': Switched(order=1, at=5.0), 'green': Switched(order=2, at=7.0)}
    """
    left: dict[str, Switched] = {}
    for one in promotions:
        # One that was not carried out names as previous what served then and was left later, or serves still.
        times = [(one.previous, Switched(one.order, one.at))]
        if one.undone:
            times.append((one.current, Switched(one.undone_order, one.undone_at or one.at)))
        for collection, when in times:
            if collection is not None:
                left[collection] = max(when, left.get(collection, when))
    return left


def serving_last(promotions: Iterable[Promotion]) -> str | None:
    """Return the collection that the newest switch made blue; None without any."""
    newest = max(promotions, key=_switched, default=None)
    if newest is None:
        return None
    return newest.previous if newest.undone else newest.current


def _begun(promotion: Promotion) -> Switched:
    return Switched(promotion.order, promotion.at)


def _switched(promotion: Promotion) -> Switched:
    """Return when the latest switch of a promotion was: forwards, or back."""
    back = Switched(promotion.undone_order, promotion.undone_at or promotion.at)
    return max(_begun(promotion), back)


def _identity(promotion: Promotion) -> Any:
    """Return the ``_id``: promotions of earlier versions of this service have ones that Mongo gave."""
    identity = promotion.promotion_id
    return identity if len(identity) == len(uuid.uuid4().hex) else ObjectId(identity)


def _promotion(document: Document) -> Promotion:
    known = {f.name for f in fields(Promotion)}
    values = {name: value for name, value in document.items() if name in known}
    if (watch := values.get("watch")) is not None:
        values["watch"] = Watch(**{**watch, "state": WatchState(watch["state"])})
    return Promotion(promotion_id=str(document["_id"]), **values)

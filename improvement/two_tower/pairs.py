"""PairStore: training pairs, with the vectors at the time, labels and reasons; Mongo."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pymongo import ASCENDING, DESCENDING
from pymongo.database import Database

from clickstream.store import insert_new
from improvement.objects import Vectors
from improvement.two_tower import documents
from improvement.two_tower.sampling import Reason

#: Pairs, or users, named in one request; SecantusDB's ``$in`` takes the square of their number.
CHUNK, USERS = 100, 25
#: Pairs written in one request.
WRITTEN = 1_000
#: What pairs of engagements are there for; the others were drawn.
ENGAGEMENTS = frozenset({Reason.ENGAGED, Reason.DISLIKED})
#: What the archive does not keep.
_VECTORS = ("user_vector", "item_vector")

Document = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Pair:
    """A user and an item, and whether they belong together (seed 001: ``training_pairs``).

    Attributes:
        pair_id: an engagement's own id; of a negative drawn for it, that with ``n:`` and a number before it,
            as no engagement's begins.
        signal: -1..1; above 0 is label 1, else label 0; 0 for negatives that were drawn.
        user_vector, item_vector: (S,) float32 as they were before the engagement, in ``space``; None where
            there was none.
        at, received_at: when it happened and when it came, seconds since 1970.
        seconds: how long learning from it took, up to here; None for drawn negatives, and for what was
            caught up with later.
        batch: the training batch that learned from it; None: none yet.
        stored_at: when an engagement's pair was stored, seconds since 1970; None: now, when it is; None of
            drawn negatives.
    """

    pair_id: str
    domain: str
    user_id: str
    object_id: str
    author: str | None
    action: str
    signal: float
    reason: Reason
    user_vector: Vectors | None
    item_vector: Vectors | None
    space: str
    at: float
    received_at: float
    seconds: float | None = None
    batch: str | None = None
    stored_at: float | None = None

    @property
    def label(self) -> int:
        """1 for a positive pair, 0 for a negative one."""
        return int(self.signal > 0)


class PairStore:
    """Collection ``training_pairs``, and ``training_pairs_archive`` for what is older.

    ``_id`` is a digest of domain and pair_id, so an engagement is stored once, whoever hears of it how often.
    ``open`` is an engagement that no batch has learned from. ``engaged_at`` (when it was received) and
    ``stored_at`` are there of engagements only: asked by these, the many more that were drawn are not read.
    """

    def __init__(self, database: Database[Document], clock: Callable[[], float] = time.time) -> None:
        self._pairs, self._archive = database["training_pairs"], database["training_pairs_archive"]
        self.clock = clock

    def ensure_indexes(self) -> None:
        """Create the indexes; safe to repeat and to run from several processes."""
        for fields in (
            ("open", "received_at"), ("batch", "engaged"), ("received_at",), ("user_id",), ("engaged_at",),
            ("stored_at",),
        ):  # fmt: skip
            self._pairs.create_index([(field, ASCENDING) for field in ("domain", *fields)])
        self._pairs.create_index("user_id")
        self._archive.create_index("user_id")

    def add(self, pairs: Sequence[Pair]) -> set[str]:
        """Store pairs in one round trip for a thousand; return the ids of those that were new.

        Raises:
            BulkWriteError: a write failed for another reason than being a repeat; the same call again stores
                the rest.
        """
        new, now = set[str](), self.clock()
        for start in range(0, len(pairs), WRITTEN):
            part = pairs[start : start + WRITTEN]
            rows = [_document(pair, now) for pair in part]
            repeats = insert_new(lambda rows=rows: self._pairs.insert_many(rows, ordered=False))  # type: ignore[misc]
            new |= {pair.pair_id for place, pair in enumerate(part) if place not in repeats}
        return new

    def known(self, domain: str, pair_ids: Iterable[str]) -> set[str]:
        """Return those of these pairs that are stored already, or archived; `CHUNK` a request, or two."""
        names = {documents.digest(domain, pair_id): pair_id for pair_id in pair_ids}
        found: set[str] = set()
        for collection in (self._pairs, self._archive):
            left = [name for name in names if name not in found]
            for start in range(0, len(left), CHUNK):
                these = {"_id": {"$in": left[start : start + CHUNK]}}
                found |= {one["_id"] for one in collection.find(these, {"_id": 1})}
        return {names[name] for name in found}

    def unclaimed(self, domain: str, limit: int) -> int:
        """Return how many engagements no batch has learned from yet; counts up to ``limit``."""
        if limit <= 0:  # to Mongo, 0 is no limit
            return 0
        return self._pairs.count_documents({"domain": domain, "open": True}, limit=limit)

    def claim(self, domain: str, batch: str, count: int) -> int:
        """Give a batch the ``count`` oldest engagements that have none, by when they were received.

        Safe to repeat: a batch that has as many, or has learned from them, gets no more. For one worker at a
        time; of two, each engagement goes to one.

        Returns:
            How many the batch has now.
        """
        has = self._pairs.count_documents({"domain": domain, "batch": batch, "engaged": True})
        if has >= count:
            return has
        oldest = self._pairs.find({"domain": domain, "open": True}, {"_id": 1})
        names = [one["_id"] for one in oldest.sort("received_at", ASCENDING).limit(count - has)]
        for start in range(0, len(names), CHUNK):
            these = {"_id": {"$in": names[start : start + CHUNK]}, "open": True}
            has += self._pairs.update_many(these, {"$set": {"batch": batch, "open": False}}).modified_count
        return has

    def of_batch(self, domain: str, batch: str) -> list[Pair]:
        """Return a batch's engagements, as they were received; not the negatives drawn for them."""
        found = self._pairs.find({"domain": domain, "batch": batch, "engaged": True})
        return sorted(map(_pair, found), key=_received)

    def of_users(
        self, domain: str, user_ids: Iterable[str], until: float, limit: int
    ) -> dict[str, list[Pair]]:
        """Return users' newest engagements received before ``until``, oldest first, at most ``limit`` each.

        `USERS` a request, with all they did that is not archived; users without any are left out.
        """
        users, found = list(dict.fromkeys(user_ids)), dict[str, list[Pair]]()
        for start in range(0, len(users), USERS):
            mine = {"domain": domain, "user_id": {"$in": users[start : start + USERS]}}
            for one in self._pairs.find(mine):
                if one["engaged"] and one["received_at"] < until:
                    found.setdefault(one["user_id"], []).append(_pair(one))
        kept = {user: sorted(pairs, key=_received)[-limit:] for user, pairs in found.items()}
        return kept if limit > 0 else {}

    def between(self, domain: str, since: float, until: float, *, vectors: bool = False) -> Iterator[Pair]:
        """Yield engagements received from ``since`` until before ``until``, oldest first; read as needed.

        Args:
            vectors: whether with their vectors, which are most of what is read; else these are None.
        """
        return self._yield(domain, "engaged_at", since, until, vectors)

    def stored_between(
        self, domain: str, since: float, until: float, *, vectors: bool = False
    ) -> Iterator[Pair]:
        """Yield engagements whose pairs were stored then, the first stored first; as `between`.

        What is caught up with late was received long before it is stored.
        """
        return self._yield(domain, "stored_at", since, until, vectors)

    def received(self, domain: str, since: float, until: float, limit: int | None = None) -> int:
        """Return how many engagements `between` yields; counts up to ``limit``."""
        if limit is not None and limit <= 0:  # to Mongo, 0 is no limit
            return 0
        asked = _between(domain, since, until, "engaged_at")
        limited: dict[str, Any] = {} if limit is None else {"limit": limit}
        return self._pairs.count_documents(asked, **limited)

    def _yield(self, domain: str, by: str, since: float, until: float, vectors: bool) -> Iterator[Pair]:
        without = None if vectors else dict.fromkeys(_VECTORS, 0)
        yield from map(
            _pair, self._pairs.find(_between(domain, since, until, by), without).sort(by, ASCENDING)
        )

    def counts(self, domain: str, since: float) -> dict[Reason, int]:
        """Return how many pairs came since then, by reason; archived ones are not counted."""
        found = self._pairs.aggregate(
            [{"$match": _between(domain, since)}, {"$group": {"_id": "$reason", "pairs": {"$sum": 1}}}]
        )
        counted = {one["_id"]: int(one["pairs"]) for one in found}
        return {reason: counted.get(reason.value, 0) for reason in Reason}

    def latencies(self, domain: str, since: float, limit: int) -> list[float]:
        """Return how many seconds learning from each took, of the newest ``limit`` engagements since then."""
        asked = _between(domain, since, by="engaged_at")
        newest = self._pairs.find(asked, {"seconds": 1}).sort("engaged_at", DESCENDING)
        with newest as found:
            told = (one["seconds"] for one in found if one["seconds"] is not None)
            return list(islice(told, max(0, limit)))

    def archive(self, domain: str, before: float, limit: int = 10_000) -> int:
        """Move pairs received before then to the archive, without their vectors; return how many were moved.

        Unclaimed engagements stay. Dying half-way leaves some in both; repeating it finishes it. What is
        erased meanwhile is looked for again once it is in the archive, and taken out. For one worker at a
        time.
        """
        if limit <= 0:  # to Mongo, 0 is no limit
            return 0
        old = {"domain": domain, "open": False, "received_at": {"$lt": before}}
        without = dict.fromkeys(_VECTORS, 0)
        moved = 0
        with self._pairs.find(old, without).sort("received_at", ASCENDING).limit(limit) as found:
            while rows := list(islice(found, CHUNK)):
                repeats = insert_new(lambda rows=rows: self._archive.insert_many(rows, ordered=False))  # type: ignore[misc]
                names = [row["_id"] for row in rows]
                there = {one["_id"] for one in self._pairs.find({"_id": {"$in": names}}, {"_id": 1})}
                gone = [n for place, n in enumerate(names) if n not in there and place not in repeats]
                self._archive.delete_many({"_id": {"$in": gone}})
                moved += self._pairs.delete_many({"_id": {"$in": names}}).deleted_count
        return moved

    def erase(self, user_id: str) -> int:
        """Delete a user's pairs in every domain, archived ones too; return how many there were."""
        mine = {
            "user_id": user_id
        }  # the archive last: what is moved meanwhile arrives there before it leaves
        return sum(each.delete_many(mine).deleted_count for each in (self._pairs, self._archive))


def _between(domain: str, since: float, until: float | None = None, by: str = "received_at") -> Document:
    # not `$lte`: SecantusDB misses those of the last instant, for the index goes on behind it
    return {"domain": domain, by: {"$gte": since} | ({} if until is None else {"$lt": until})}


def _received(pair: Pair) -> tuple[float, float]:
    return pair.received_at, pair.at


def _document(pair: Pair, now: float) -> Document:
    engaged = pair.reason in ENGAGEMENTS
    document = {
        "_id": documents.digest(pair.domain, pair.pair_id),
        "pair_id": pair.pair_id,
        "domain": pair.domain,
        "user_id": pair.user_id,
        "object_id": pair.object_id,
        "author": pair.author,
        "action": pair.action,
        "signal": float(pair.signal),
        "label": pair.label,
        "reason": pair.reason.value,
        "user_vector": documents.binary(pair.user_vector),
        "item_vector": documents.binary(pair.item_vector),
        "space": pair.space,
        "at": float(pair.at),
        "received_at": float(pair.received_at),
        "seconds": pair.seconds,
        "batch": pair.batch,
        "engaged": engaged,
        "open": engaged and pair.batch is None,
    }
    if engaged:
        stored_at = now if pair.stored_at is None else pair.stored_at
        document |= {"engaged_at": float(pair.received_at), "stored_at": float(stored_at)}
    return document


def _pair(document: Document) -> Pair:
    return Pair(
        pair_id=document["pair_id"],
        domain=document["domain"],
        user_id=document["user_id"],
        object_id=document["object_id"],
        author=document["author"],
        action=document["action"],
        signal=document["signal"],
        reason=Reason(document["reason"]),
        user_vector=documents.vector(document.get("user_vector")),
        item_vector=documents.vector(document.get("item_vector")),
        space=document["space"],
        at=document["at"],
        received_at=document["received_at"],
        seconds=document["seconds"],
        batch=document["batch"],
        stored_at=document.get("stored_at"),
    )

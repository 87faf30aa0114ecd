"""EntryStore: the vectors of users and items in the towers' space as engagement moved them; Mongo."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Any

from bson import ObjectId
from pymongo import ASCENDING, DESCENDING, DeleteOne, UpdateOne
from pymongo.database import Database

from clickstream.store import insert_new
from improvement.objects import Vectors
from improvement.two_tower import documents
from improvement.two_tower.facts import Past

#: Entries asked for by id in one request; SecantusDB's ``$in`` takes the square of their number.
CHUNK = 100
#: Items noted, or deleted, in one request.
WRITTEN = 1_000
#: Newest engagements that moved an item whose ids it remembers, so that none moves it twice.
HEARD = 32

Document = dict[str, Any]


class Kind(StrEnum):
    """Whose vector an entry holds."""

    USER = "user"
    ITEM = "item"


@dataclass(frozen=True, eq=False)
class Before:
    """The vectors (S,) of a user and an item before an engagement; None where there was none."""

    engagement_id: str
    user: Vectors | None
    item: Vectors | None
    space: str = ""


@dataclass(frozen=True, eq=False)
class Entry:
    """What is known of one user, or of one item, of a domain's towers.

    Attributes:
        id: user id or object id.
        vector: (S,) unit float32 in ``space``; None: none yet (a new user; an item that nobody moved: its
            vector is what its collection holds).
        base: (S,) of an item: where ``space`` put it before anybody moved it; None with ``vector``.
        space: the checkpoint whose space the vectors are of.
        content: of an item that was moved: the revision of what was moved, as the collection of ``space``
            told it; where that tells another one by now, the vector says nothing any more.
        count: engagements that moved it, ever.
        pasts: of a user: the newest engagements, oldest first, as many as the user tower reads or a few more.
        before: of a user: what was before the newest engagements, until their training pairs are known to be
            stored, at most twice `HEARD` of them. Who dies between the write of a user and that of the pairs
            leaves it to whoever learns them again.
        heard: of an item: digests of the ids of the newest engagements, at most `HEARD`.
        created_at: when it was first heard of, seconds since 1970: cold start and recency go by it; 0.0 for
            an item that was there before anybody noted it, and that only engagements tell of.
        due: of a user: whether engagements came that the user tower has not read.
        version: conditional writes go by it; 0 is an entry that is not stored yet.
    """

    domain: str
    kind: Kind
    id: str
    vector: Vectors | None = None
    base: Vectors | None = None
    space: str = ""
    content: str = ""
    count: int = 0
    pasts: tuple[Past, ...] = ()
    before: tuple[Before, ...] = ()
    heard: tuple[str, ...] = ()
    created_at: float = 0.0
    due: bool = False
    version: int = 0

    @property
    def is_pretrained(self) -> bool:
        """Whether nobody has engaged with it yet: its vector is the encoder's, through the towers."""
        return self.count == 0

    @property
    def key(self) -> tuple[Kind, str]:
        """What tells it from the other entries of its domain."""
        return self.kind, self.id

    def knows(self, engagement_id: str) -> bool:
        """Say whether this engagement moved it already; of long ago nobody knows."""
        if self.kind is Kind.ITEM:
            return short(engagement_id) in self.heard
        return any(one.engagement_id == engagement_id for one in self.pasts)


def short(engagement_id: str) -> str:
    """Return what an item remembers of an engagement: not its id, which may name a user's session."""
    return documents.digest(engagement_id)[:16]


#: Seconds before now in which the newest items are looked for, one stretch after the other; None: ever.
RECENT = (60.0, 3_600.0, 86_400.0, 604_800.0, None)


class EntryStore:
    """Collection ``tower_entries``: one document a user or item of a domain; ``_id`` is a digest of all.

    Users and items share a collection so that an engagement reads both in one round trip, and writes both in
    another.
    """

    def __init__(self, database: Database[Document], clock: Callable[[], float] = time.time) -> None:
        self._entries = database["tower_entries"]
        self.clock = clock

    def ensure_indexes(self) -> None:
        """Create the indexes; safe to repeat and to run from several processes."""
        # Items have neither ``due`` nor ``user_id``.
        self._entries.create_index([("domain", ASCENDING), ("due", ASCENDING), ("due_at", ASCENDING)])
        self._entries.create_index([("domain", ASCENDING), ("kind", ASCENDING), ("space", ASCENDING)])
        self._entries.create_index([("domain", ASCENDING), ("kind", ASCENDING), ("created_at", ASCENDING)])
        self._entries.create_index("user_id")

    def load(self, domain: str, keys: Iterable[tuple[Kind, str]]) -> dict[tuple[Kind, str], Entry]:
        """Return the known ones of these entries; one round trip for a hundred."""
        names = [documents.digest(domain, *key) for key in dict.fromkeys(keys)]
        return {entry.key: entry for entry in map(_entry, self._find(names))}

    def versions(self, domain: str, keys: Iterable[tuple[Kind, str]]) -> dict[tuple[Kind, str], int]:
        """Return the versions of the known ones of these entries; one round trip for a hundred."""
        names = [documents.digest(domain, *key) for key in dict.fromkeys(keys)]
        found = self._find(names, {"kind": 1, "id": 1, "version": 1})
        return {(Kind(one["kind"]), one["id"]): int(one["version"]) for one in found}

    def save(self, entries: Sequence[Entry]) -> set[tuple[Kind, str]]:
        """Write entries, each on condition that it is stored in the version given; one round trip.

        One more when somebody else was faster.

        Args:
            entries: each once; their next versions are stored.

        Returns:
            The keys of those that somebody else changed, made or deleted meanwhile, and which were not
            written. Where somebody changed one right after this did, it may be among them, too: it knows
            the engagements that moved it.

        Raises:
            BulkWriteError: some may not be written.
            ValueError: an entry is there twice.
        """
        if not entries:
            return set()
        now, write = self.clock(), ObjectId()
        updates, keys = [], {}
        for entry in entries:
            name = documents.digest(entry.domain, *entry.key)
            keys[name] = entry.key
            change: Document = {"$set": _fields(entry) | {"write": write, "version": entry.version + 1}}
            if entry.kind is Kind.USER:  # who is due already waits since then
                change |= {"$min": {"due_at": now}} if entry.due else {"$unset": {"due_at": ""}}
            if entry.version:
                # That it exists is no news, but without it SecantusDB looks for indexes.
                known = {"_id": name, "version": {"$eq": entry.version, "$exists": True}}
                updates.append(UpdateOne(known, change))
            else:  # no stored one has this version: it is made, or its name is taken
                made = _identity(entry) | {
                    "created_at": entry.created_at or (now if entry.kind is Kind.USER else 0.0)
                }
                updates.append(UpdateOne({"_id": name, "version": 0}, change | {"$setOnInsert": made}, True))
        if len(keys) < len(entries):
            raise ValueError("entries: expected each once")
        written = 0

        def send() -> None:
            nonlocal written
            result = self._entries.bulk_write(updates, ordered=False)
            written = result.matched_count + result.upserted_count

        repeats = insert_new(send)
        if not repeats and written == len(updates):
            return set()
        stored = self._find(list(keys), {"write": 1})
        landed = {one["_id"] for one in stored if one.get("write") == write}
        return {key for name, key in keys.items() if name not in landed}

    def create_items(self, domain: str, object_ids: Iterable[str]) -> None:
        """Note that these items are there, those that are new as of now; a thousand a request."""
        now = self.clock()
        new: Document = {"space": "", "count": 0, "vector": None, "base": None, "version": 1}
        writes = [
            UpdateOne(
                {"_id": documents.digest(domain, Kind.ITEM, object_id)},
                {"$setOnInsert": _identity(Entry(domain, Kind.ITEM, object_id)) | new | {"created_at": now}},
                upsert=True,
            )
            for object_id in dict.fromkeys(object_ids)
        ]
        for start in range(0, len(writes), WRITTEN):  # two who make one at once: either may
            part = writes[start : start + WRITTEN]
            insert_new(lambda part=part: self._entries.bulk_write(part, ordered=False))  # type: ignore[misc]

    def delete_items(self, domain: str, object_ids: Iterable[str]) -> None:
        """Forget items that were deleted; a thousand a request."""
        names = [documents.digest(domain, Kind.ITEM, object_id) for object_id in dict.fromkeys(object_ids)]
        for start in range(0, len(names), WRITTEN):
            part = [DeleteOne({"_id": name}) for name in names[start : start + WRITTEN]]
            self._entries.bulk_write(part, ordered=False)

    def newest_items(self, domain: str, limit: int) -> list[Entry]:
        """Return the items that were created last, the newest first."""
        if limit <= 0:  # to Mongo, 0 is no limit
            return []
        mine, now, found = {"domain": domain, "kind": Kind.ITEM.value}, self.clock(), list[Entry]()
        for seconds in RECENT:  # SecantusDB reads all that it may return before it sorts, whatever the index
            since = {} if seconds is None else {"created_at": {"$gte": now - seconds}}
            newest = self._entries.find(mine | since).sort("created_at", DESCENDING).limit(limit)
            if len(found := [_entry(one) for one in newest]) >= limit:
                break
        return found

    def due_users(self, domain: str, limit: int, space: str | None = None) -> list[Entry]:
        """Return users whose engagements the user tower has not read, who waited longest first.

        Args:
            limit: most users.
            space: the space that serves; behind them come users who have vectors of another one. None: they
                do not.
        """
        where: list[Document] = [{"due": True}]
        if space is not None:  # not `$ne`, nor `$or`: SecantusDB would read them all
            others = ({"$gt": space}, {"$gt": "", "$lt": space})
            where += [{"kind": Kind.USER.value, "space": between} for between in others]
        found: dict[tuple[Kind, str], Entry] = {}
        for condition in where:
            if (room := limit - len(found)) <= 0:
                break
            mine = self._entries.find({"domain": domain} | condition)
            if "due" in condition:
                mine = mine.sort("due_at", ASCENDING)
            found |= {entry.key: entry for entry in map(_entry, mine.limit(room))}
        return list(found.values())

    def sample(self, domain: str, kind: Kind, limit: int) -> list[Entry]:
        """Return up to ``limit`` entries that have a vector, always the same ones (by their digests)."""
        mine = self._entries.find({"domain": domain, "kind": kind.value}).sort("_id", ASCENDING)
        with mine.hint("_id_") as every:  # another index would have Mongo sort them all first
            having = (one for one in every if one.get("vector") is not None)
            return [_entry(one) for one in islice(having, max(0, limit))]

    def erase(self, user_id: str) -> int:
        """Delete a user's entries in every domain; return how many there were."""
        return self._entries.delete_many({"user_id": user_id}).deleted_count

    def _find(self, names: Sequence[str], fields: Mapping[str, Any] | None = None) -> Iterable[Document]:
        for start in range(0, len(names), CHUNK):
            yield from self._entries.find({"_id": {"$in": names[start : start + CHUNK]}}, fields)


def _identity(entry: Entry) -> Document:
    mine: Document = {"domain": entry.domain, "kind": entry.kind.value, "id": entry.id}
    return mine | ({"user_id": entry.id} if entry.kind is Kind.USER else {})


def _fields(entry: Entry) -> Document:
    """Return what engagement changes, with what there is only of a user, or only of an item."""
    both: Document = {
        "vector": documents.binary(entry.vector),
        "space": entry.space,
        "count": entry.count,
    }
    if entry.kind is Kind.ITEM:
        heard = list(entry.heard[-HEARD:])
        return both | {"base": documents.binary(entry.base), "content": entry.content, "heard": heard}
    before = [
        {
            "id": one.engagement_id, "user": documents.binary(one.user),
            "item": documents.binary(one.item), "space": one.space,
        }
        for one in entry.before[-2 * HEARD :]
    ]  # fmt: skip
    return both | {"pasts": documents.packed(entry.pasts), "before": before, "due": entry.due}


def _entry(document: Document) -> Entry:
    return Entry(
        domain=document["domain"],
        kind=Kind(document["kind"]),
        id=document["id"],
        vector=documents.vector(document["vector"]),
        base=documents.vector(document.get("base")),
        space=document["space"],
        content=document.get("content", ""),
        count=document["count"],
        pasts=documents.pasts(document.get("pasts", "[]")),
        before=tuple(
            Before(one["id"], documents.vector(one["user"]), documents.vector(one["item"]), one["space"])
            for one in document.get("before", ())
        ),
        heard=tuple(document.get("heard", ())),
        created_at=document["created_at"],
        due=document.get("due", False),
        version=document["version"],
    )

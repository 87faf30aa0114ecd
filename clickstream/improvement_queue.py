"""ImprovementQueue: which sessions wait for improvement, who works on which user, and how each ended.

Mongo holds the truth. An entry stays ``pending`` until its outcome is written, so a worker that dies leaves
nothing to repair: its leases expire and another worker takes the users over.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from heapq import merge
from itertools import islice
from typing import Any

from pymongo import ASCENDING, DeleteOne, UpdateOne
from pymongo.database import Database

from clickstream.store import Document, insert_new

#: Characters kept of a reason: enough for a person, bounded for the store.
MAX_REASON = 1_000
#: Which pending entries go first, as an index has them.
ORDER = [("priority", ASCENDING), ("queued_at", ASCENDING)]
#: Priority of what was put off: behind everything else.
LAST = 1_000_000
#: Entries named in one request; SecantusDB's ``$in`` takes the square of their number.
NAMED = 100


class Status(StrEnum):
    """Where a queued session stands."""

    PENDING = "pending"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class Owner:
    """The unit of work: all copies of one user in one domain. None is every anonymous session."""

    domain: str
    user_id: str | None

    @property
    def key(self) -> str:
        """A fixed-length name for the lease; ids are opaque, so they are hashed, never joined."""
        return hashlib.sha256(json.dumps([self.domain, self.user_id]).encode()).hexdigest()


@dataclass(frozen=True)
class Request:
    """Ask for a session to be improved; a lower priority goes first.

    ``version`` is how often the session changed: a session that is queued or was improved already is queued
    again only if it changed since.
    """

    session_id: str
    owner: Owner
    version: int
    priority: int = 1


@dataclass(frozen=True)
class Entry:
    """One line of the queue. ``session_id`` is None for "rebuild all copies of this user"."""

    entry_id: str
    session_id: str | None
    owner: Owner
    status: Status
    reason: str | None
    attempts: int
    generation: str
    queued_at: float
    finished_at: float | None

    def as_json(self) -> dict[str, Any]:
        """Return what the API shows."""
        return {
            "session_id": self.session_id,
            "user_id": self.owner.user_id,
            "domain": self.owner.domain,
            "status": self.status.value,
            "reason": self.reason,
            "attempts": self.attempts,
            "queued_at": int(self.queued_at),
            "finished_at": int(self.finished_at) if self.finished_at is not None else None,
        }


@dataclass(frozen=True)
class Claim:
    """The users one worker holds until ``until`` (seconds), and their pending entries."""

    token: str
    until: float
    entries: Mapping[Owner, Sequence[Entry]] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How an entry ended, and why if it taught nothing.

    Attributes:
        keep: False deletes the entry: what it is about is gone, and so is who it names.
    """

    status: Status
    reason: str | None = None
    keep: bool = True


class ImprovementQueue:
    """Collections ``improvement_queue`` (``_id`` is the session id), ``improvement_leases``, ``ticks``."""

    def __init__(self, database: Database[Document], clock: Callable[[], float] = time.time) -> None:
        self._entries = database["improvement_queue"]
        self._leases = database["improvement_leases"]
        self._ticks = database["ticks"]
        self._clock = clock

    def ensure_indexes(self) -> None:
        """Create the indexes; safe to repeat and to run from several processes."""
        self._entries.create_index([("status", ASCENDING), *ORDER])
        self._entries.create_index([("status", ASCENDING), ("domain", ASCENDING), *ORDER])
        self._entries.create_index([("owner_key", ASCENDING), ("status", ASCENDING)])
        self._entries.create_index("user_id")
        self._leases.create_index("until")

    def enqueue(self, requests: Iterable[Request]) -> None:
        """Queue sessions, each once until it changes or fails; one round trip."""
        now = self._clock()
        self._upsert(
            [
                UpdateOne(
                    {
                        "_id": f"session:{r.session_id}",
                        "$or": [{"version": {"$lt": r.version}}, {"status": Status.FAILED}],
                    },
                    self._pending(r.owner, r.session_id, r.priority, now, r.version),
                    upsert=True,
                )
                for r in requests
            ]
        )

    def enqueue_rebuild(self, owners: Iterable[Owner]) -> None:
        """Queue "rebuild all copies" for users whose originals changed; one round trip."""
        now = self._clock()
        self._upsert(
            [
                UpdateOne(
                    {"_id": f"rebuild:{owner.key}"},
                    self._pending(owner, None, priority=0, now=now, version=0),
                    upsert=True,
                )
                for owner in set(owners)
            ]
        )

    def requeue(self, session_ids: Iterable[str], *, failed: bool = True) -> None:
        """Queue sessions again because they changed; those never queued stay out; one round trip.

        Args:
            failed: also those that failed; what kills workers is better left alone.
        """
        these: Document = {"_id": {"$in": [f"session:{session_id}" for session_id in session_ids]}}
        self._entries.update_many(
            these if failed else these | {"status": {"$ne": Status.FAILED}},
            {
                "$set": {
                    "status": Status.PENDING,
                    "reason": None,
                    "attempts": 0,
                    "generation": uuid.uuid4().hex,
                },
                "$min": {"priority": 1},  # it may have been put off when it was queued before
            },
        )

    def _pending(
        self, owner: Owner, session_id: str | None, priority: int, now: float, version: int
    ) -> Document:
        return {
            "$setOnInsert": {"session_id": session_id, "queued_at": now},
            "$set": {
                "domain": owner.domain,
                "user_id": owner.user_id,
                "owner_key": owner.key,
                "status": Status.PENDING,
                "reason": None,
                "attempts": 0,
                "priority": priority,
                "version": version,
                "finished_at": None,
                # no number: an entry deleted and queued again would start from 1, like its predecessor
                "generation": uuid.uuid4().hex,
            },
        }

    def _upsert(self, updates: list[UpdateOne]) -> None:
        if updates:  # a duplicate key says: queued already, and unchanged since
            insert_new(lambda: self._entries.bulk_write(updates, ordered=False))

    def claim(self, limit: int, lease_seconds: float, domains: Collection[str] | None = None) -> Claim:
        """Take up to ``limit`` pending entries' users, most urgent first; a constant number of round trips.

        A user is held by one worker at a time; a lease that expired is taken over. All pending entries of a
        claimed user come along, whatever the limit.

        Args:
            domains: those that are worked on, one more round trip each; None is all, also unknown ones. (Were
                those named that are not, each claim would walk over everything that waits in them.)
        """
        now = self._clock()
        token = uuid.uuid4().hex
        self._leases.delete_many({"until": {"$lt": now}})
        held = [lease["_id"] for lease in self._leases.find({}, {"_id": 1})]
        keys = self._first(limit, held) if domains is None else self._first_in(domains, limit, set(held))
        claim = Claim(token, now + lease_seconds)
        if not keys:
            return claim
        leases = [{"_id": key, "token": token, "until": claim.until} for key in keys]
        insert_new(lambda: self._leases.insert_many(leases, ordered=False))
        mine = [lease["_id"] for lease in self._leases.find({"token": token}, {"_id": 1})]
        pending = {"owner_key": {"$in": mine}, "status": Status.PENDING}
        self._entries.update_many(pending, {"$inc": {"attempts": 1}})
        entries: dict[Owner, list[Entry]] = {}
        for document in self._entries.find(pending).sort(ORDER):
            entry = _entry(document)
            entries.setdefault(entry.owner, []).append(entry)
        return Claim(token, claim.until, entries)

    def _first(self, limit: int, held: Sequence[str]) -> set[str]:
        """Return the keys of the owners whose entries go first and whom nobody holds."""
        waiting = {"status": Status.PENDING, "owner_key": {"$nin": held}}
        return {
            d["owner_key"] for d in self._entries.find(waiting, {"owner_key": 1}).sort(ORDER).limit(limit)
        }

    def _first_in(self, domains: Iterable[str], limit: int, held: Collection[str]) -> set[str]:
        """The same, of some domains alone."""
        shown = {"owner_key": 1, **{name: 1 for name, _ in ORDER}}
        found: list[list[Document]] = []
        for domain in set(domains):
            # two equalities and nothing else: with `$nin` SecantusDB reads what waits in every domain
            with self._entries.find({"status": Status.PENDING, "domain": domain}, shown).sort(ORDER) as every:
                found.append(list(islice((d for d in every if d["owner_key"] not in held), limit)))
        first = merge(*found, key=lambda d: tuple(d[name] for name, _ in ORDER))
        return {d["owner_key"] for d in islice(first, limit)}

    def renew(self, claim: Claim, lease_seconds: float) -> set[str]:
        """Extend the claim's leases; return the owner keys that are still held."""
        now = self._clock()
        mine = {"token": claim.token, "until": {"$gte": now}}
        self._leases.update_many(mine, {"$set": {"until": now + lease_seconds}})
        return {lease["_id"] for lease in self._leases.find(mine, {"_id": 1})}

    def finish(self, claim: Claim, outcomes: Mapping[str, Outcome]) -> None:
        """Write outcomes by entry id and give the leases back.

        An entry queued again in the meantime (its generation is another) stays pending, as does one without
        an outcome.
        """
        now = self._clock()
        generations = {entry.entry_id: entry.generation for of in claim.entries.values() for entry in of}
        updates: list[UpdateOne | DeleteOne] = []
        for entry_id, outcome in outcomes.items():
            claimed = {"_id": entry_id, "generation": generations[entry_id]}
            ended = {"status": outcome.status, "reason": _short(outcome.reason), "finished_at": now}
            updates.append(UpdateOne(claimed, {"$set": ended}) if outcome.keep else DeleteOne(claimed))
        if updates:
            self._entries.bulk_write(updates, ordered=False)
        self.give_back(claim)

    def give_back(self, claim: Claim) -> None:
        """Give the claim's leases back; what has no outcome yet is free for the next worker."""
        self._leases.delete_many({"token": claim.token})

    def forgive(self, claim: Claim, owners: Iterable[Owner]) -> None:
        """Do not count this attempt at these users' entries: what stopped it was not their doing."""
        entries = [entry.entry_id for owner in owners for entry in claim.entries[owner]]
        pending = {"_id": {"$in": entries}, "status": Status.PENDING, "attempts": {"$gt": 0}}
        self._entries.update_many(pending, {"$inc": {"attempts": -1}})

    def put_off(self, claim: Claim, owners: Iterable[Owner]) -> None:
        """Let everybody else go before these users: what stops them may last."""
        entries = [entry.entry_id for owner in owners for entry in claim.entries[owner]]
        for start in range(0, len(entries), NAMED):
            pending = {"_id": {"$in": entries[start : start + NAMED]}, "status": Status.PENDING}
            self._entries.update_many(pending, {"$set": {"priority": LAST}})

    def held(self, owners: Iterable[Owner]) -> set[Owner]:
        """Return those of these users whom a worker holds now, or held when it died; one round trip."""
        keys = {owner.key: owner for owner in owners}
        return {keys[lease["_id"]] for lease in self._leases.find({"_id": {"$in": list(keys)}}, {"_id": 1})}

    def taught_by(self, owners: Iterable[Owner]) -> dict[Owner, list[str]]:
        """Return every session queued for these users that has not failed: their evidence; one round trip."""
        keys = {owner.key: owner for owner in owners}
        sessions: dict[Owner, list[str]] = {owner: [] for owner in keys.values()}
        wanted = {"owner_key": {"$in": list(keys)}, "status": {"$ne": Status.FAILED}}
        found = self._entries.find(wanted, {"owner_key": 1, "session_id": 1})
        for document in found:
            if document["session_id"] is not None:
                sessions[keys[document["owner_key"]]].append(document["session_id"])
        return sessions

    def owners(self, domain: str) -> list[Owner]:
        """Return every user of a domain that ever had a session queued."""
        users = self._entries.distinct("user_id", {"domain": domain})
        return [Owner(domain, user_id) for user_id in users if user_id is not None]

    def rebuilding(self, domain: str) -> set[str]:
        """Return the owner keys of a domain whose "rebuild all copies" is pending."""
        waiting = {"status": Status.PENDING, "domain": domain, "session_id": None}
        return {entry["owner_key"] for entry in self._entries.find(waiting, {"owner_key": 1})}

    def erase(self, user_id: str) -> int:
        """Delete a user's lines in every domain; return of how many sessions there was one."""
        removed = self._entries.delete_many({"user_id": user_id, "session_id": {"$ne": None}}).deleted_count
        self._entries.delete_many({"user_id": user_id})
        return removed

    def entry(self, session_id: str) -> Entry | None:
        """Return a session's line, or None if it never was queued."""
        found = self._entries.find_one({"_id": f"session:{session_id}"})
        return _entry(found) if found else None

    def counts(self) -> dict[str, int]:
        """Return how many entries stand at each status."""
        groups = self._entries.aggregate([{"$group": {"_id": "$status", "count": {"$sum": 1}}}])
        found = {group["_id"]: int(group["count"]) for group in groups}
        return {status.value: found.get(status.value, 0) for status in Status}

    def take_tick(self, name: str, interval: float) -> bool:
        """Say whether this caller runs the job now: N workers, one tick per interval (seconds)."""
        now = self._clock()
        insert_new(
            lambda: self._ticks.bulk_write(
                [UpdateOne({"_id": name}, {"$setOnInsert": {"next_at": 0.0}}, upsert=True)], ordered=False
            )
        )
        due = {"_id": name, "next_at": {"$lte": now}}
        return self._ticks.update_one(due, {"$set": {"next_at": now + interval}}).modified_count == 1

    def reached(self, name: str) -> float | None:
        """Return how far a job has come, as it said last; None before it said anything."""
        found = self._ticks.find_one({"_id": name}, {"reached": 1}) or {}
        reached: float | None = found.get("reached")
        return reached

    def reach(self, name: str, value: float) -> None:
        """Note how far a job has come; whoever does it next goes on from there."""
        self._ticks.update_one({"_id": name}, {"$set": {"reached": value}})

    def hurry(self, name: str, seconds: float = 0.0) -> None:
        """Have a job's next tick come in that many seconds, unless it comes earlier anyway."""
        soon = {"$min": {"next_at": self._clock() + seconds}}
        self._ticks.update_one({"_id": name}, soon)  # a tick nobody took yet is due as it is


def _short(reason: str | None) -> str | None:
    return reason[:MAX_REASON] if reason else reason


def _entry(document: Document) -> Entry:
    return Entry(
        entry_id=document["_id"],
        session_id=document["session_id"],
        owner=Owner(document["domain"], document["user_id"]),
        status=Status(document["status"]),
        reason=document["reason"],
        attempts=document["attempts"],
        generation=document["generation"],
        queued_at=document["queued_at"],
        finished_at=document.get("finished_at"),
    )

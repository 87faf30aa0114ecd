"""ClickstreamStore: the only file that speaks Mongo for sessions, events and batches."""

import hashlib
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from heapq import nsmallest
from itertools import groupby, islice
from typing import Any, NamedTuple

from pymongo import ASCENDING, DESCENDING, DeleteMany, DeleteOne, InsertOne, UpdateOne
from pymongo.database import Database
from pymongo.errors import BulkWriteError, DuplicateKeyError

from clickstream.records import (
    BatchStatus,
    QueryVector,
    RegisteredSession,
    SearchResult,
    Session,
    SessionBatch,
    SessionEvent,
)

#: Mongo's code for a key that a unique index already holds: the only write error that may be swallowed.
DUPLICATE_KEY = 11000
#: Results one session may show over all its pages; a document holds 16 MB.
MAX_SHOWN = 3_000
#: Documents one numbering write touches while a batch is released.
NUMBERING_CHUNK = 1_000
#: Sessions asked for at once; SecantusDB's ``$in`` takes the square of this: 4 s for the events of 1,600.
ASKED = 200
#: Sessions read at once when a domain's history is walked; SecantusDB's ``$in`` takes the square of this.
HISTORY_PAGE = 100

Document = dict[str, Any]

#: What all pages of a session must say alike, or else it is of no arm.
_COUNTED_BY = ("user_id", "experiment", "arm", "mixed")
_NO_ARM: Document = {"experiment": None, "arm": None, "mixed": None}


class Whose(NamedTuple):
    """A session's domain and user, and whether it must not teach."""

    domain: str
    user_id: str | None
    is_irrelevant: bool


class SessionFull(ValueError):
    """A further page would make the session longer than `MAX_SHOWN` results."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"session {session_id!r} would show more than {MAX_SHOWN} results")


def insert_new(write: Callable[[], Any]) -> set[int]:
    """Run an unordered bulk write; swallow duplicate keys and nothing else.

    Returns:
        The places in the write, from 0, of the documents that were duplicates.

    Raises:
        BulkWriteError: any write failed for another reason.
    """
    try:
        write()
    except BulkWriteError as error:
        failures = error.details.get("writeErrors", [])
        others = [failure for failure in failures if failure.get("code") != DUPLICATE_KEY]
        if others or error.details.get("writeConcernErrors"):
            raise
        return {failure["index"] for failure in failures}
    return set()


class ClickstreamStore:
    """Sessions, their events, and the batches they are released in.

    Collections: ``sessions`` (``_id`` is the session id), ``session_events`` (unique session_id + event_id),
    ``session_batches`` (unique release_id). Events may come before their session: they are joined on reading.
    """

    def __init__(self, database: Database[Document], clock: Callable[[], float] = time.time) -> None:
        self._sessions = database["sessions"]
        self._events = database["session_events"]
        self._batches = database["session_batches"]
        self._clock = clock

    def ensure_indexes(self) -> None:
        """Create the indexes; safe to repeat and to run from several processes."""
        self._sessions.create_index([("swept", ASCENDING), ("last_activity_at", ASCENDING)])
        self._sessions.create_index([("batch_id", ASCENDING), ("session_number", ASCENDING)])
        self._sessions.create_index([("domain", ASCENDING), ("registered_at", ASCENDING), ("_id", ASCENDING)])
        self._sessions.create_index([("domain", ASCENDING), ("last_activity_at", ASCENDING)])
        self._sessions.create_index("user_id")
        self._events.create_index([("session_id", ASCENDING), ("event_id", ASCENDING)], unique=True)
        self._batches.create_index("release_id", unique=True)

    def register(self, session: Session, query_vector: QueryVector | None = None) -> None:
        """Store a session, or extend the shown list of a known one; a repeat changes nothing.

        Raises:
            SessionFull: the session would show more than `MAX_SHOWN` results.
        """
        for session_id in self.register_many([(session, query_vector)]):
            raise SessionFull(session_id)

    def register_many(self, sessions: Sequence[tuple[Session, QueryVector | None]]) -> list[str]:
        """Store many sessions in one to three round trips; the first registration of an id wins.

        Returns:
            The ids of sessions whose further page was refused because they would show too many results.
        """
        if not sessions:
            return []
        documents = [self._document(session, vector) for session, vector in sessions]
        first = _first(documents, "_id")
        repeats = insert_new(lambda: self._sessions.bulk_write(list(map(InsertOne, first.values())), False))
        if not repeats and len(first) == len(documents):
            return []
        return self._extend([session for session, _ in sessions])

    def _extend(self, pages: Sequence[Session]) -> list[str]:
        """Append to known sessions what their new pages show and they have not shown yet.

        Those that no longer are of one arm alone lose it, see `_of_another_arm`.

        Another process may be extending the same session right now: an update only lands on the list it was
        made for, and whoever comes second reads again. A session that was erased meanwhile stays erased.
        """
        ids = list({page.session_id for page in pages})
        while True:
            fields = {"search_results.object_id": 1, **dict.fromkeys(_COUNTED_BY, 1)}
            known = {d["_id"]: d for d in self._sessions.find({"_id": {"$in": ids}}, fields)}
            full, updates = self._extensions(pages, known)
            if not updates or self._sessions.bulk_write(updates).matched_count == len(updates):
                return full

    def _extensions(
        self, pages: Sequence[Session], known: Mapping[str, Document]
    ) -> tuple[list[str], list[UpdateOne]]:
        """Return the sessions that are full, and the updates that append what is new to the others."""
        shown = {i: {result["object_id"] for result in one["search_results"]} for i, one in known.items()}
        full, updates = [], []
        for page in pages:
            seen = shown.get(page.session_id)
            if seen is None:
                continue
            results = _first((result.model_dump() for result in page.search_results), "object_id")
            fresh = [result for object_id, result in results.items() if object_id not in seen]
            if len(seen) + len(fresh) > MAX_SHOWN:
                full.append(page.session_id)
                continue
            change: Document = {}
            if fresh:
                change = {
                    "$push": {"search_results": {"$each": fresh}},
                    "$inc": {"shown": len(fresh), "version": 1},
                    "$set": {"swept": False},
                    "$max": {"last_activity_at": self._clock()},
                }
            if _of_another_arm(page, known[page.session_id], adds=bool(fresh)):
                change["$set"] = change.get("$set", {}) | _NO_ARM
            if change:
                updates.append(UpdateOne({"_id": page.session_id, "shown": len(seen)}, change))
                seen.update(result["object_id"] for result in fresh)
        return full, updates

    def _document(self, session: Session, query_vector: QueryVector | None) -> Document:
        now = self._clock()
        document = session.model_dump(mode="python", exclude={"session_id"})
        results = list(_first(document["search_results"], "object_id").values())
        document["search_results"] = results
        if session.created_at is None:
            document["created_at"] = int(now)
        return document | {
            "_id": session.session_id,
            "shown": len(results),
            "version": 1,
            "is_irrelevant": False,
            "query_vector": query_vector.model_dump() if query_vector else None,
            "batch_id": None,
            "session_number": None,
            "registered_at": now,
            "last_activity_at": now,
            "swept": False,
        }

    def push_events(self, events: Sequence[tuple[str, SessionEvent]]) -> int:
        """Store (session id, event) pairs in three round trips; return how many were new.

        Raises:
            BulkWriteError: a write failed for another reason than being a repeat.
        """
        if not events:
            return 0
        now = self._clock()
        documents = []
        for session_id, event in events:
            document = event.model_dump()
            document["session_id"] = session_id
            document["received_at"] = now
            if event.created_at is None:
                document["created_at"] = int(now)
            documents.append(document)
        # Noted before, so that dying in between has the sweeper look again, and after, because somebody may
        # have looked in between and seen the new version without the events.
        self._note_change({session_id for session_id, _ in events}, now)
        repeats = insert_new(lambda: self._events.insert_many(documents, ordered=False))
        self._note_change({session_id for session_id, _ in events}, now)
        return len(documents) - len(repeats)

    def _note_change(self, session_ids: Iterable[str], now: float) -> None:
        self._sessions.update_many(
            {"_id": {"$in": list(session_ids)}},
            {"$set": {"swept": False}, "$max": {"last_activity_at": now}, "$inc": {"version": 1}},
        )

    def session(self, session_id: str) -> RegisteredSession | None:
        """Return one session with all its events, or None."""
        return next(iter(self.sessions([session_id])), None)

    def sessions(self, session_ids: Iterable[str]) -> list[RegisteredSession]:
        """Return the known ones of these sessions with all their events; two round trips for `ASKED`."""
        found: list[RegisteredSession] = []
        ids = list(session_ids)
        for start in range(0, len(ids), ASKED):
            found += self._joined(self._sessions.find({"_id": {"$in": ids[start : start + ASKED]}}))
        return found

    def history(self, domain: str, *, newest_first: bool = True, limit: int) -> Iterator[RegisteredSession]:
        """Yield up to ``limit`` of a domain's sessions with all their events, as they were registered.

        The ids are read first, then `HISTORY_PAGE` sessions at a time, in two round trips, as the caller
        needs them: what is registered meanwhile is not among them.
        """
        if limit <= 0:  # to Mongo, 0 is no limit
            return
        way = DESCENDING if newest_first else ASCENDING
        order = [("registered_at", way), ("_id", way)]
        found = self._sessions.find({"domain": domain}, {"_id": 1}).sort(order).limit(limit)
        ids = [document["_id"] for document in found]
        for start in range(0, len(ids), HISTORY_PAGE):
            page = ids[start : start + HISTORY_PAGE]
            known = {session.session_id: session for session in self.sessions(page)}
            # a session that is not there any more was erased since its id was read
            yield from (known[session_id] for session_id in page if session_id in known)

    def registered(self, domain: str, since: float, until: float) -> Iterator[list[tuple[str, float]]]:
        """Yield which of a domain's sessions were registered from then on and before ``until``, oldest first.

        In pages of `HISTORY_PAGE`, read as the caller needs them: the id and the time of each, in seconds
        since 1970.
        """
        # not `$lte`: SecantusDB misses the sessions of the last instant, for the index goes on behind it
        between = {"domain": domain, "registered_at": {"$gte": since, "$lt": until}}
        order = [("registered_at", ASCENDING), ("_id", ASCENDING)]
        with self._sessions.find(between, {"registered_at": 1}).sort(order) as found:
            while page := [(one["_id"], one["registered_at"]) for one in islice(found, HISTORY_PAGE)]:
                yield page

    def of_experiment(
        self, domain: str, experiment: str, since: float, until: float, limit: int
    ) -> Iterator[list[RegisteredSession]]:
        """Yield an experiment's first ``limit`` sessions registered from then on and before ``until``.

        Oldest first, in pages of `HISTORY_PAGE`, with all their events, read as the caller needs them. Who
        was erased meanwhile is not among them.
        """
        if limit <= 0:  # to Mongo, 0 is no limit
            return
        wanted = _registered(domain, since, until) | {"experiment": experiment}
        order = [("registered_at", ASCENDING), ("_id", ASCENDING)]
        ids = [one["_id"] for one in self._sessions.find(wanted, {"_id": 1}).sort(order).limit(limit)]
        for start in range(0, len(ids), HISTORY_PAGE):
            page = ids[start : start + HISTORY_PAGE]
            known = {session.session_id: session for session in self.sessions(page)}
            yield [known[session_id] for session_id in page if session_id in known]

    def count_registered(self, domain: str, since: float, until: float) -> int:
        """Return how many of a domain's sessions were registered from ``since`` until before ``until``."""
        return self._sessions.count_documents(_registered(domain, since, until))

    def clickthrough(
        self,
        domain: str,
        since: float,
        until: float,
        click_events: Collection[str],
        *,
        within: float,
        most: int,
    ) -> list[tuple[str | None, bool]]:
        """Return whose each session was that showed something, and whether it led to a click in time.

        Sessions registered from ``since`` until before ``until`` (seconds since 1970), but for those marked
        irrelevant. A click counts that came within that many seconds, so that old and new sessions have had
        the same time for one.

        Args:
            most: sessions returned at most: of more, those whose ids have the smallest digests.
        """
        fields = {"user_id": 1, "registered_at": 1, "shown": 1, "is_irrelevant": 1}
        found = self._sessions.find(_registered(domain, since, until), fields)
        showing = (one for one in found if one["shown"] and not one["is_irrelevant"])
        chosen = nsmallest(most, showing, key=lambda one: _digest(one["_id"]))
        clicks = {"event_type": {"$in": sorted(click_events)}}
        told: list[tuple[str | None, bool]] = []
        for start in range(0, len(chosen), HISTORY_PAGE):
            page = {one["_id"]: one for one in chosen[start : start + HISTORY_PAGE]}
            events = self._events.find(
                {"session_id": {"$in": list(page)}} | clicks, {"session_id": 1, "received_at": 1}
            )
            clicked = {
                event["session_id"]
                for event in events
                if event["received_at"] - page[event["session_id"]]["registered_at"] <= within
            }
            told += [(one["user_id"], session_id in clicked) for session_id, one in page.items()]
        return told

    def active(self, domain: str, since: float) -> Iterator[list[tuple[RegisteredSession, float]]]:
        """Yield a domain's sessions that were active from then on, oldest activity first, with its time.

        With all their events, in pages of `HISTORY_PAGE`, two round trips each, read as the caller needs
        them. Registering, a further page and an event are activity, by the server's clock; whatever is active
        again meanwhile may be missing, or come twice.
        """
        mine = {"domain": domain, "last_activity_at": {"$gte": since}}
        with self._sessions.find(mine).sort("last_activity_at", ASCENDING) as found:
            while page := list(islice(found, HISTORY_PAGE)):
                times = {document["_id"]: document["last_activity_at"] for document in page}
                yield [(session, times[session.session_id]) for session in self._joined(page)]

    def owners(self, session_ids: Iterable[str]) -> dict[str, Whose]:
        """Return whose the known ones of these sessions are; one round trip for `ASKED`."""
        asked, found = list(dict.fromkeys(session_ids)), dict[str, Whose]()
        fields = {"domain": 1, "user_id": 1, "is_irrelevant": 1}
        for start in range(0, len(asked), ASKED):
            for one in self._sessions.find({"_id": {"$in": asked[start : start + ASKED]}}, fields):
                found[one["_id"]] = Whose(one["domain"], one["user_id"], one["is_irrelevant"])
        return found

    def active_users(self, domain: str, since: float, limit: int) -> set[str]:
        """Return who had one of a domain's newest ``limit`` sessions, if it was registered since then."""
        if limit <= 0:  # to Mongo, 0 is no limit
            return set()
        recent = {"domain": domain, "registered_at": {"$gte": since}}
        order = [("registered_at", DESCENDING), ("_id", DESCENDING)]
        found = self._sessions.find(recent, {"user_id": 1}).sort(order).limit(limit)
        return {one["user_id"] for one in found if one["user_id"] is not None}

    def uncount(self, session_id: str) -> None:
        """Take a session out of its experiment, for something else was shown in it; safe to repeat."""
        self._sessions.update_one({"_id": session_id}, {"$set": _NO_ARM})

    def version(self, session_id: str) -> int | None:
        """Return how often the session changed, or None if unknown; clocks play no part in it."""
        found = self._sessions.find_one({"_id": session_id}, {"version": 1})
        return int(found["version"]) if found else None

    def mark_irrelevant(self, session_id: str) -> bool:
        """Take the session's influence out from the next improvement on; False when it is unknown."""
        change = {"$set": {"is_irrelevant": True}, "$inc": {"version": 1}}
        return self._sessions.update_one({"_id": session_id}, change).matched_count == 1

    def save_query_vectors(self, vectors: Mapping[str, QueryVector]) -> None:
        """Remember how queries were embedded, so that they need not be embedded again; one round trip."""
        if vectors:
            self._sessions.bulk_write(
                [
                    UpdateOne({"_id": i}, {"$set": {"query_vector": v.model_dump()}})
                    for i, v in vectors.items()
                ],
                ordered=False,
            )

    def idle_sessions(self, idle_seconds: float, limit: int) -> list[tuple[RegisteredSession, int]]:
        """Return sessions idle that long which nobody has swept since they changed, with their versions."""
        before = self._clock() - idle_seconds
        found = list(
            self._sessions.find({"swept": False, "last_activity_at": {"$lt": before}})
            .sort("last_activity_at", ASCENDING)
            .limit(limit)
        )
        versions = {document["_id"]: int(document["version"]) for document in found}
        return [(session, versions[session.session_id]) for session in self._joined(found)]

    def mark_swept(self, sessions: Iterable[tuple[str, int]]) -> None:
        """Note that these sessions were looked at, unless they changed since the version given."""
        updates = [
            UpdateOne({"_id": session_id, "version": version}, {"$set": {"swept": True}})
            for session_id, version in sessions
        ]
        if updates:
            self._sessions.bulk_write(updates, ordered=False)

    def erase(self, user_id: str) -> tuple[int, int]:
        """Delete a user's sessions and their events, in four round trips; safe to repeat.

        Returns:
            How many sessions there were, and how many events.
        """
        ids = [found["_id"] for found in self._sessions.find({"user_id": user_id}, {"_id": 1})]
        if not ids:
            return 0, 0
        # Events first: dying in between, the sessions still tell which are left. And again, because some may
        # have come meanwhile. One delete a session, sent together: `$in` costs SecantusDB the square.
        deletes = [DeleteMany({"session_id": session_id}) for session_id in ids]
        events = self._events.bulk_write(deletes, ordered=False).deleted_count
        mine = [DeleteOne({"_id": session_id, "user_id": user_id}) for session_id in ids]
        sessions = self._sessions.bulk_write(mine, ordered=False).deleted_count
        events += self._events.bulk_write(deletes, ordered=False).deleted_count
        return sessions, events

    def release(self, release_id: str) -> SessionBatch:
        """Close the batch that is collecting; the same release id answers the same batch.

        Membership is a mark on each session that is set once, so a session registered at any instant is in
        this batch or in the next, never in none. A release that died half-way is finished by repeating it.
        """
        now = self._clock()
        batch: Document = {
            "_id": uuid.uuid4().hex,
            "release_id": release_id,
            "status": BatchStatus.COLLECTING,
            "created_at": now,
            "released_at": None,
        }
        try:
            self._batches.insert_one(batch)
        except DuplicateKeyError:
            batch = self._batches.find_one({"release_id": release_id}) or batch
        if batch["status"] != BatchStatus.RELEASED:
            self._sessions.update_many(
                {"batch_id": None, "registered_at": {"$lte": batch["created_at"]}},
                {"$set": {"batch_id": batch["_id"]}},
            )
            self._number(batch["_id"])
            self._batches.update_one(
                {"_id": batch["_id"], "status": BatchStatus.COLLECTING},
                {"$set": {"status": BatchStatus.RELEASED, "released_at": int(now)}},
            )
        return self._batch(self._batches.find_one({"_id": batch["_id"]}) or batch)

    def _number(self, batch_id: str) -> None:
        """Number the batch's sessions 1.. in the order they were registered.

        The number is the place among all members, so two that number at once give the same numbers.
        """
        order = [("registered_at", ASCENDING), ("_id", ASCENDING)]
        members = [d["_id"] for d in self._sessions.find({"batch_id": batch_id}, {"_id": 1}).sort(order)]
        for start in range(0, len(members), NUMBERING_CHUNK):
            chunk = members[start : start + NUMBERING_CHUNK]
            self._sessions.bulk_write(
                [
                    UpdateOne(
                        {"_id": session_id, "session_number": None}, {"$set": {"session_number": number}}
                    )
                    for number, session_id in enumerate(chunk, start=start + 1)
                ],
                ordered=False,
            )

    def batch(self, batch_id: str) -> SessionBatch | None:
        """Return a batch by its id, or None."""
        found = self._batches.find_one({"_id": batch_id})
        return self._batch(found) if found else None

    def batch_sessions(self, batch_id: str, after_number: int, limit: int) -> list[RegisteredSession]:
        """Return up to ``limit`` sessions of a batch numbered above ``after_number``, in order."""
        found = (
            self._sessions.find({"batch_id": batch_id, "session_number": {"$gt": after_number}})
            .sort("session_number", ASCENDING)
            .limit(limit)
        )
        return self._joined(found)

    def _joined(self, documents: Iterable[Document]) -> list[RegisteredSession]:
        """Join sessions with their events; one round trip for all."""
        documents = list(documents)
        found = self._events.find({"session_id": {"$in": [d["_id"] for d in documents]}}) if documents else ()
        ordered = sorted(found, key=lambda e: (e["session_id"], e["created_at"], e["event_id"]))
        events = {
            session_id: tuple(map(_event, group))
            for session_id, group in groupby(ordered, key=lambda e: e["session_id"])
        }
        return [_session(document, events.get(document["_id"], ())) for document in documents]

    @staticmethod
    def _batch(document: Document) -> SessionBatch:
        return SessionBatch(
            batch_id=document["_id"],
            release_id=document["release_id"],
            status=document["status"],
            created_at=int(document["created_at"]),
            released_at=document["released_at"],
        )


def _of_another_arm(page: Session, known: Document, *, adds: bool) -> bool:
    """Say whether a further page takes a session out of its experiment: other arm, user, or kind of list.

    What names no experiment and adds nothing is a repeat, by a frontend that does not know of experiments.
    A session without an arm never gets one: its first page was something else.
    """
    if known.get("arm") is None or (page.experiment is None and page.arm is None and not adds):
        return False
    return any(getattr(page, name) != known.get(name) for name in _COUNTED_BY)


def _registered(domain: str, since: float, until: float) -> Document:
    return {"domain": domain, "registered_at": {"$gte": since, "$lt": until}}


def _digest(session_id: str) -> bytes:
    return hashlib.blake2b(session_id.encode(), digest_size=8).digest()


def _first(documents: Iterable[Document], key: str) -> dict[str, Document]:
    """Keep the first document of each key, in order: what was shown twice was seen where it stood first."""
    first: dict[str, Document] = {}
    for document in documents:
        first.setdefault(document[key], document)
    return first


def _without(document: Document, *keys: str) -> Document:
    return {key: value for key, value in document.items() if key not in keys}


def _event(document: Document) -> SessionEvent:
    # model_construct: what the store holds was validated on its way in
    return SessionEvent.model_construct(**_without(document, "_id", "session_id", "received_at"))


def _session(document: Document, events: tuple[SessionEvent, ...]) -> RegisteredSession:
    fields = _without(document, "_id", "batch_id", "last_activity_at", "swept", "shown", "version")
    vector = fields["query_vector"]
    return RegisteredSession.model_construct(
        **fields
        | {
            "session_id": document["_id"],
            "search_results": tuple(SearchResult.model_construct(**r) for r in fields["search_results"]),
            "events": events,
            "query_vector": QueryVector.model_construct(**vector) if vector else None,
        }
    )

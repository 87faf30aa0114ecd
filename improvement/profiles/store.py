"""ProfileStore: the only file that speaks Mongo for profiles; a cache in front of it."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import pymongo
from bson import ObjectId
from pymongo import ASCENDING, DeleteOne, UpdateOne
from pymongo.database import Database

from clickstream.improvement_queue import MAX_REASON, Owner
from clickstream.store import Document
from improvement.profiles import documents
from improvement.profiles.cache import ProfileCache
from improvement.profiles.profile import Interaction, Profile, StoredProfile

#: Seconds that somebody who waits for an answer waits for a profile.
GET_SECONDS = 2.0
#: Seconds after which a profile that could not be cached is made, and cached, again.
UNCACHED_SECONDS = 60.0
#: Seconds after which a document that cannot be read is looked at again.
UNREADABLE_SECONDS = 3_600.0
#: Users asked for by id in one request; SecantusDB's ``$in`` takes the square of their number.
CHUNK = 100
#: Users on a page of those who are due.
PAGE = 1_000
#: Writes of a profile that are remembered by name, so that a writer can tell whether its own is among them.
WRITES = 16
#: What serving does not need of a document.
_HISTORY = {"recent": 0, "searched": 0, "writes": 0}

#: A batch takes pushes for dead by counting them as applied; whoever comes after that must not apply.
#: ``under_way`` is announced less applied: to compare two fields, SecantusDB would read every document.
_UNDER_WAY: Document = {"under_way": {"$gt": 0, "$exists": True}}

#: A profile as it shall be, at the version it was made from; the change around it; what else must hold.
_Write = tuple[Profile, Document, Document]


@dataclass(frozen=True)
class Applied:
    """A profile after interactions were applied to it at once (not by the batch).

    Attributes:
        profile: as it is now, with the ``version`` it was loaded at.
        interactions: those that were applied, of one announced push.
    """

    profile: Profile
    interactions: Sequence[Interaction]


@dataclass(frozen=True)
class Rebuilt:
    """A profile that the batch made anew.

    Attributes:
        stored: as it was loaded.
        profile: as it is now; without an embedding when there are not enough interactions.
        recent: what to keep of the actions, oldest first.
        reason: why there is no embedding, or None.
    """

    stored: StoredProfile
    profile: Profile
    recent: Sequence[Interaction]
    reason: str | None = None


class ProfileStore:
    """Collection ``user_embeddings``: one document a user and domain (``_id`` is the owner's key).

    A push of actions is announced before it is logged and counted as applied with the profile it led to, so
    that a batch sees what is under way. Every change of a profile is conditional on the version it was made
    from: whoever comes second reads again.
    """

    def __init__(
        self, database: Database[Document], cache: ProfileCache, clock: Callable[[], float] = time.time
    ) -> None:
        self._profiles = database["user_embeddings"]
        self._cache = cache
        self._clock = clock

    def ensure_indexes(self) -> None:
        """Create the indexes; safe to repeat and to run from several processes."""
        # Not unique, for `_id` is: two who create a document at once must not stumble over a second index.
        self._profiles.create_index([("user_id", ASCENDING), ("domain", ASCENDING)])
        self._profiles.create_index([("domain", ASCENDING), ("pending", ASCENDING), ("due_at", ASCENDING)])

    def get(self, user_id: str, domain: str, space: str | None = None) -> Profile | None:
        """Return a user's profile from the cache, or else from Mongo, or None for an unknown user.

        Args:
            space: the serving embedding space; a cached profile of another one is not trusted.

        Raises:
            PyMongoError: Mongo did not answer in `GET_SECONDS`; a search goes on without a profile.
        """
        cached = self._cache.get(user_id, domain)
        if cached is not None and space in (None, cached.model_version):
            return cached
        with pymongo.timeout(GET_SECONDS):
            found = self._profiles.find_one({"_id": Owner(domain, user_id).key}, _HISTORY)
        if found is None:
            return None
        profile = documents.profile(found)
        self._cache.put([profile])
        return profile

    def load(self, domain: str, user_ids: Iterable[str]) -> dict[str, StoredProfile]:
        """Return the known ones of these users from Mongo, `CHUNK` a request."""
        keys = [Owner(domain, user_id).key for user_id in dict.fromkeys(user_ids)]
        return {found["user_id"]: documents.stored(found) for found in self._find(keys)}

    def sample(self, domain: str, limit: int) -> list[Profile]:
        """Return up to ``limit`` profiles with an embedding, always of the same users.

        They are those whose keys, which are digests, come first; what cannot be read is left out.
        """
        found: list[Profile] = []
        mine = self._profiles.find({"domain": domain}, _HISTORY).sort("_id", ASCENDING)
        with mine.hint("_id_") as every:  # another index would have Mongo sort them all first
            for document in every:
                if len(found) >= limit:
                    break
                if document.get("embedding") is None:
                    continue
                try:
                    found.append(documents.profile(document))
                except Exception:  # the batch says so, and of whom
                    continue
        return found

    def announce(self, owners: Iterable[Owner]) -> None:
        """Say that actions of these users are about to be logged; one round trip."""
        now = self._clock()
        self._upsert(
            owners,
            {
                "$inc": {"announced": 1, "under_way": 1},
                "$set": {"pending": True, "announced_at": now},
                "$max": {"due_at": now},  # who was put off stays put off
            },
        )

    def mark(self, owners: Iterable[Owner]) -> None:
        """Have the batch make these users' profiles anew, from the log; one round trip."""
        self._upsert(owners, self._reread())

    def mark_all(self, domain: str) -> int:
        """Have the batch make every profile of a domain anew, from the log; return how many there are."""
        return self._profiles.update_many({"domain": domain}, self._reread()).matched_count

    def mark_user(self, user_id: str) -> int:
        """Have the batch make a user's known profiles anew, from the log; return how many there are."""
        return self._profiles.update_many({"user_id": user_id}, self._reread()).matched_count

    def apply(self, changes: Sequence[Applied], remember: int) -> set[str]:
        """Store profiles that interactions were applied to; one round trip, two when somebody was faster.

        Args:
            changes: of one domain, each user once.
            remember: latest interactions to keep.

        Returns:
            The users of whom nothing was stored: somebody else changed them meanwhile (load, apply, store
            again), or a batch took their pushes for dead (``applied`` is ``announced`` then: mark them).
            Nothing is stored of who was erased meanwhile either, but they are not among them.

        Raises:
            ValueError: a user is there twice.
        """
        now = self._clock()
        updates: list[_Write] = []
        for change in changes:
            acted = dict.fromkeys(one.object_id for one in change.interactions)
            seen = dict.fromkeys(o for o in change.profile.seen if o not in acted) | acted
            profile = replace(change.profile, updated_at=now, seen=tuple(seen)[-2 * remember :])
            push = {"$each": documents.rows(change.interactions), "$slice": -remember}
            done = {"applied": 1, "under_way": -1}
            updates.append((profile, {"$push": {"recent": push}, "$inc": done}, _UNDER_WAY))
        changed, _ = self._write(updates)
        return changed

    def rebuild(self, changes: Sequence[Rebuilt]) -> set[str]:
        """Store what a batch made, each unless its user acted meanwhile; one round trip or two.

        Args:
            changes: of one domain, each user once.

        Returns:
            The users of whom nothing was stored: they acted meanwhile and are still due, or they were erased
            and `load` does not know them any more.

        Raises:
            ValueError: a user is there twice.
        """
        now = self._clock()
        updates: list[_Write] = []
        for change in changes:
            version, announced = change.stored.profile.version, change.stored.announced
            profile = replace(change.profile, updated_at=now, generated_at=now, version=version)
            values: Document = {
                "applied": announced,
                "under_way": 0,
                "pending": False,
                "reread": False,
                "reason": change.reason,
            }
            if change.recent is not change.stored.recent:  # read again from the log
                values["recent"] = documents.rows(change.recent)
            updates.append((profile, {"$set": values}, {"announced": announced}))
        changed, erased = self._write(updates)
        return changed | erased

    def put_searched(self, domain: str, evidence: Mapping[str, Sequence[Interaction]]) -> None:
        """Replace what users' improved sessions say, oldest first; their profiles are due. One round trip.

        Users without any evidence are only written to if they are known.
        """
        now = self._clock()
        updates = []
        for user_id, interactions in evidence.items():
            change: Document = {
                "$set": {"searched": documents.rows(interactions), "pending": True, "due_at": now},
                "$inc": {"version": 1},
            }
            owner = Owner(domain, user_id)
            updates.append(_upsert(owner, change) if interactions else UpdateOne({"_id": owner.key}, change))
        self._bulk(updates)

    def due_pages(self, domain: str, limit: int, before: float) -> Iterator[list[StoredProfile]]:
        """Yield users who were due by then, `PAGE` at a time, who waited longest first; read as needed.

        In one query, for SecantusDB reads all who are due to answer it, whatever the limit.

        Args:
            limit: most users; 0 or less gives none.
            before: seconds since 1970.
        """
        if limit <= 0:  # to Mongo, 0 is no limit
            return
        due = {"domain": domain, "pending": True, "due_at": {"$lte": before}}
        found = self._profiles.find(due).sort("due_at", ASCENDING).limit(limit).batch_size(PAGE)
        while page := list(islice(found, PAGE)):
            readable, unreadable = [], {}
            for document in page:
                try:
                    readable.append(documents.stored(document))
                except Exception as error:  # this user's trouble is nobody else's
                    unreadable[document["user_id"]] = f"unreadable: {error!r}"
            self.postpone(domain, unreadable, UNREADABLE_SECONDS)
            yield readable

    def postpone(self, domain: str, reasons: Mapping[str, str], seconds: float) -> None:
        """Note why users could not be done now, and when they are due again; one round trip."""
        due_at = self._clock() + seconds
        self._bulk(
            [
                UpdateOne(
                    {"_id": Owner(domain, user_id).key},
                    {"$set": {"due_at": due_at, "reason": reason[:MAX_REASON]}},
                )
                for user_id, reason in reasons.items()
            ]
        )

    def drop(self, stored: Sequence[StoredProfile]) -> None:
        """Delete profiles of which nothing is left, each unless it changed since; one round trip.

        Raises:
            Unavailable: the cache does not answer; nothing was deleted.
        """
        if not stored:
            return
        self._cache.erase([(one.profile.user_id, one.profile.domain) for one in stored])
        self._bulk(
            [
                DeleteOne(
                    {
                        "_id": documents.key(one.profile),
                        "version": one.profile.version,
                        "announced": one.announced,
                    }
                )
                for one in stored
            ]
        )

    def erase(self, user_id: str, domains: Iterable[str]) -> int:
        """Delete a user's profiles in every domain, cached ones too; return how many there were.

        Args:
            domains: those that may have cached something; the ones that have a profile are known.

        Raises:
            Unavailable: the cache does not answer; repeat the call.
        """
        mine = {"user_id": user_id}
        held = {found["domain"] for found in self._profiles.find(mine, {"domain": 1})}
        removed = self._profiles.delete_many(mine).deleted_count
        self._cache.erase([(user_id, domain) for domain in sorted(held.union(domains))])
        return removed

    def _reread(self) -> Document:
        return {
            "$set": {"pending": True, "reread": True, "due_at": self._clock()},
            "$inc": {"version": 1},
        }

    def _upsert(self, owners: Iterable[Owner], change: Document) -> None:
        self._bulk([_upsert(owner, change) for owner in set(owners) if owner.user_id is not None])

    def _bulk(self, writes: Sequence[UpdateOne | DeleteOne]) -> int:
        """Send writes in one request; return how many documents they found."""
        return self._profiles.bulk_write(writes, ordered=False).matched_count if writes else 0

    def _find(self, keys: Sequence[str], fields: Document | None = None) -> Iterable[Document]:
        for start in range(0, len(keys), CHUNK):
            yield from self._profiles.find({"_id": {"$in": keys[start : start + CHUNK]}}, fields)

    def _write(self, updates: Sequence[_Write]) -> tuple[set[str], set[str]]:
        """Store each profile if its version still is what it was; cache what was stored.

        Returns:
            The users whose version is not, and those who are gone.
        """
        name = ObjectId()
        stored: dict[str, Profile] = {}
        writes = []
        for profile, change, where in updates:
            key = documents.key(profile)
            more = {
                "$set": documents.fields(profile) | change.get("$set", {}),
                "$inc": {"version": 1} | change.get("$inc", {}),
                "$push": {"writes": {"$each": [name], "$slice": -WRITES}} | change.get("$push", {}),
            }
            # That they exist is no news, but without it SecantusDB looks for indexes: a fifth of the time.
            conditions = {
                field: value if isinstance(value, dict) else {"$eq": value, "$exists": True}
                for field, value in ({"version": profile.version} | where).items()
            }
            writes.append(UpdateOne({"_id": key} | conditions, more))
            stored[key] = replace(profile, version=profile.version + 1)
        if len(stored) < len(updates):
            raise ValueError("changes: expected each user once")
        changed: set[str] = set()
        erased: set[str] = set()
        if self._bulk(writes) < len(writes):
            changed, erased = self._outcome(stored, name)
        unstored = changed | erased
        written = [profile for profile in stored.values() if profile.user_id not in unstored]
        if not self._cache.put(written):  # or what is cached would be out of date for days
            again: Document = {"$set": {"pending": True, "due_at": self._clock() + UNCACHED_SECONDS}}
            self._bulk([UpdateOne({"_id": documents.key(profile)}, again) for profile in written])
        return changed, erased

    def _outcome(self, stored: Mapping[str, Profile], name: ObjectId) -> tuple[set[str], set[str]]:
        """Return the users who do not have the write of this name, and those who are gone."""
        changed: set[str] = set()
        erased = {profile.user_id for profile in stored.values()}
        unclear = []
        for found in self._find(list(stored), {"user_id": 1, "version": 1, "writes": 1}):
            erased.discard(found["user_id"])
            if name in found.get("writes", ()):
                continue
            if found["version"] < stored[found["_id"]].version + WRITES:
                changed.add(found["user_id"])
            else:  # so many wrote since that ours may be among the forgotten; the log knows
                unclear.append(found["_id"])
        self._bulk([UpdateOne({"_id": key}, self._reread()) for key in unclear])
        return changed, erased


def _upsert(owner: Owner, change: Document) -> UpdateOne:
    """Return a change that makes the document if need be, with what conditions of later writes ask for."""
    new = {"user_id": owner.user_id, "domain": owner.domain, "version": 0, "announced": 0, "applied": 0}
    for named in change.values():
        new = {field: value for field, value in new.items() if field not in named}
    return UpdateOne({"_id": owner.key}, change | {"$setOnInsert": new}, upsert=True)

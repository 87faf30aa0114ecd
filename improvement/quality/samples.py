"""SampleStore: what vectors were like at earlier audits, of a fixed sample."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Any

import numpy as np
from bson.binary import Binary
from pymongo import ASCENDING, DESCENDING, InsertOne, UpdateOne
from pymongo.database import Database

from clickstream.store import insert_new
from improvement.objects import Vectors

Document = dict[str, Any]

DAY = 86_400
#: Days for which every snapshot is kept, and weeks for which one of each is kept after that.
DAYS_KEPT, WEEKS_KEPT = 8, 5
#: Days for which what is made anew may still be moving, from when that was asked for.
SETTLING = 0.5
#: Rows written in one request.
WRITTEN = 1_000


class Kind(StrEnum):
    """Whose vectors they are."""

    OBJECTS = "objects"
    PROFILES = "profiles"
    COPIES = "copies"


#: What is made anew when learning is restored, or goes on at another rate: its move is then no drift.
MADE = (Kind.PROFILES, Kind.COPIES)


@dataclass(frozen=True, eq=False)
class Row:
    """One vector (D,), what it was made from, and the owner's key of the user it is about, if any."""

    vector: Vectors
    mark: str = ""
    owner: str | None = None


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The vectors of a sample at one time.

    Attributes:
        at: seconds since 1970.
        release: collection that served then; ``space``: its embedding space.
        rows: by a name that tells them apart; of what is about a user a digest, never an id.
        upto: name of the place up to which everything was in the sample; None if it was cut off nowhere.
    """

    domain: str
    kind: Kind
    at: float
    release: str
    space: str
    rows: Mapping[str, Row]
    upto: str | None = None


class SampleStore:
    """Collections ``samples``, one document a snapshot, and ``sample_rows``, one document a vector.

    One document a vector, so that a user's can be deleted. A snapshot counts when it is whole; what somebody
    left who died while writing one is forgotten a day later. ``baselines`` has one document a domain: when
    its profiles and copies were last had made anew.
    """

    def __init__(self, database: Database[Document]) -> None:
        self._samples = database["samples"]
        self._rows = database["sample_rows"]
        self._baselines = database["baselines"]

    def ensure_indexes(self) -> None:
        """Create the indexes; safe to repeat."""
        self._samples.create_index([("domain", ASCENDING), ("kind", ASCENDING), ("at", ASCENDING)])
        self._rows.create_index("sample")
        self._rows.create_index("owner")

    def save(self, snapshot: Snapshot) -> None:
        """Store a snapshot, and forget those that are too old."""
        sample = uuid.uuid4().hex
        self._samples.insert_one(
            {
                "_id": sample, "domain": snapshot.domain, "kind": snapshot.kind.value, "at": snapshot.at,
                "release": snapshot.release, "space": snapshot.space, "upto": snapshot.upto, "whole": False,
            }
        )  # fmt: skip
        named = iter(snapshot.rows.items())
        while some := list(islice(named, WRITTEN)):
            documents = [
                {"_id": f"{sample}\n{name}", "sample": sample, "name": name, "mark": row.mark,
                 "owner": row.owner, "row": Binary(np.asarray(row.vector, "<f4").tobytes())}
                for name, row in some
            ]  # fmt: skip
            self._rows.bulk_write([InsertOne(document) for document in documents], ordered=False)
        self._samples.update_one({"_id": sample}, {"$set": {"whole": True}})
        self._forget(snapshot.domain, snapshot.kind, snapshot.at)

    def before(self, domain: str, kind: Kind, at: float) -> Snapshot | None:
        """Return the newest snapshot that was made by then (seconds since 1970), or None.

        Of profiles and copies none that is older than the domain's baseline, or was made while they settled.
        """
        made = {"domain": domain, "kind": kind.value, "whole": True, "at": {"$lte": at}}
        found = self._samples.find_one(made, sort=[("at", DESCENDING)])
        if found is None or (kind in MADE and found["at"] < self.baseline(domain) + SETTLING * DAY):
            return None
        rows = {
            document["name"]: Row(np.frombuffer(document["row"], "<f4"), document["mark"], document["owner"])
            for document in self._rows.find({"sample": found["_id"]})
        }
        return Snapshot(domain, kind, found["at"], found["release"], found["space"], rows, found["upto"])

    def newest_at(self, domain: str, kind: Kind) -> float | None:
        """Return when the newest snapshot was made, or None."""
        made = {"domain": domain, "kind": kind.value, "whole": True}
        found = self._samples.find_one(made, sort=[("at", DESCENDING)])
        return None if found is None else float(found["at"])

    def rebase(self, domain: str, at: float) -> None:
        """Note that a domain's profiles and copies are made anew from then on (seconds since 1970)."""
        later = [UpdateOne({"_id": domain}, {"$max": {"at": at}}, upsert=True)]
        insert_new(lambda: self._baselines.bulk_write(later, ordered=False))

    def baseline(self, domain: str) -> float:
        """Return when a domain's profiles and copies were last had made anew; 0 if never."""
        found = self._baselines.find_one({"_id": domain})
        return 0.0 if found is None else float(found["at"])

    def erase(self, owner_keys: Sequence[str]) -> int:
        """Delete what is about these users, by their owner's keys; return how many vectors there were."""
        return sum(self._rows.delete_many({"owner": key}).deleted_count for key in owner_keys)

    def _forget(self, domain: str, kind: Kind, now: float) -> None:
        found = list(self._samples.find({"domain": domain, "kind": kind.value}, {"at": 1, "whole": 1}))
        times = {document["_id"]: float(document["at"]) for document in found if document["whole"]}
        broken = {d["_id"] for d in found if not d["whole"] and d["at"] < now - DAY}
        for sample in (times.keys() - kept(times, now)) | broken:
            self._samples.delete_one({"_id": sample})  # first: what has no document is not read
            self._rows.delete_many({"sample": sample})


def kept(times: Mapping[str, float], now: float) -> set[str]:
    """Return which snapshots are kept: all of `DAYS_KEPT` days, and before that the oldest of each week.

    >>> day = {f"day {n}": (100 - n) * 86_400.0 for n in range(60)}
    >>> sorted(kept(day, 100 * 86_400.0), key=lambda name: int(name[4:]))[-6:]
    ['day 8', 'day 9', 'day 16', 'day 23', 'day 30', 'day 37']
    """
    recent = {name for name, at in times.items() if at >= now - DAYS_KEPT * DAY}
    weeks: dict[int, str] = {}
    for name, at in sorted(times.items(), key=lambda one: one[1]):
        weeks.setdefault(int(at // (7 * DAY)), name)
    oldest = now - (DAYS_KEPT + 7 * WEEKS_KEPT) * DAY
    return recent | {name for name in weeks.values() if times[name] >= oldest}

"""PopulationStore: how each object of a build is turned by what everybody chose."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from bson.binary import Binary
from pymongo import InsertOne
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from improvement.objects import Vectors

#: Turns written, and turns asked for, in one request.
WRITTEN, ASKED = 1_000, 100
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Turn(NamedTuple):
    """Where to one object is turned, (D,), and how far; see `adjusters.population.Turns`."""

    target: Vectors
    amount: float


class PopulationStore:
    """Collection ``population``: one document for each object that a build turns, and one for each build.

    A build's turns are written once and never change: what an object looks like in a release is a function
    of what was given and of these. Every attempt to write them has documents of its own; the build's document
    (``_id`` is the build's id) names the attempt that counts, which is the first that was done. So a worker
    taken for dead that writes late changes nothing.
    """

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._turns = database["population"]

    def ensure_indexes(self) -> None:
        """Create the index; safe to repeat."""
        self._turns.create_index("build")

    def save(
        self,
        build: str,
        object_ids: Sequence[str],
        targets: Vectors,
        amounts: Sequence[float],
        facts: Mapping[str, Any] = NOTHING,
    ) -> Mapping[str, Any]:
        """Store a build's turns, unless another attempt has: ids, (N, D) and (N,).

        Args:
            facts: what is to be known of them.

        Returns:
            The facts of the attempt that counts.
        """
        attempt, rows = uuid.uuid4().hex, np.ascontiguousarray(targets, "<f4")
        for start in range(0, len(object_ids), WRITTEN):
            some = range(start, min(start + WRITTEN, len(object_ids)))
            documents = [
                {
                    "_id": _key(build, attempt, object_ids[n]), "build": build, "attempt": attempt,
                    "object_id": object_ids[n], "target": Binary(rows[n].tobytes()),
                    "amount": float(amounts[n]),
                }
                for n in some
            ]  # fmt: skip
            self._turns.bulk_write([InsertOne(document) for document in documents], ordered=False)
        done = {"_id": build, "build": build, "attempt": attempt, "facts": dict(facts)}
        with suppress(DuplicateKeyError):
            self._turns.insert_one(done)
        counts = self._turns.find_one({"_id": build})
        if counts is None:  # dropped since
            counts = {"attempt": None, "facts": dict(facts)}
        self._turns.delete_many({"build": build, "attempt": {"$ne": counts["attempt"]}})
        found: Mapping[str, Any] = counts["facts"]
        return found

    def of(self, build: str, object_ids: Iterable[str]) -> Mapping[str, Turn]:
        """Return the turns of those of these objects that have one, by object id."""
        ids = list(set(object_ids))
        done = self._turns.find_one({"_id": build}) if ids else None
        found: dict[str, Turn] = {}
        if done is None:
            return found
        for start in range(0, len(ids), ASKED):
            keys = [_key(build, done["attempt"], object_id) for object_id in ids[start : start + ASKED]]
            for document in self._turns.find({"_id": {"$in": keys}}):
                target = np.frombuffer(document["target"], "<f4")
                found[document["object_id"]] = Turn(target, document["amount"])
        return found

    def drop(self, build: str) -> None:
        """Forget a build's turns."""
        self._turns.delete_many({"build": build})


def _key(build: str, attempt: str, object_id: str) -> str:
    return f"{build}\n{attempt}\n{object_id}"  # the first two have no line break, so they can be told apart

"""PopularityStore: what is popular in each domain, in Mongo."""

import time
from collections.abc import Callable, Iterable

from pymongo.database import Database

from clickstream.store import Document


class PopularityStore:
    """Collection ``popularity``: one document a domain, the ids of its popular objects with their scores."""

    def __init__(self, database: Database[Document], clock: Callable[[], float] = time.time) -> None:
        self._popularity = database["popularity"]
        self._clock = clock

    def top(self, domain: str, limit: int) -> list[tuple[str, float]]:
        """Return up to ``limit`` popular objects and their scores, best first; one round trip.

        Objects may have been deleted since; none are returned while nothing is known.
        """
        found = self._popularity.find_one({"_id": domain}, {"objects": 1, "scores": 1})
        if found is None:
            return []
        return list(zip(found["objects"][:limit], found["scores"][:limit], strict=True))

    def save(self, domain: str, ranked: Iterable[tuple[str, float]]) -> None:
        """Replace what is popular, best first."""
        objects, scores = [], []
        for object_id, score in ranked:
            objects.append(object_id)
            scores.append(float(score))
        change = {"objects": objects, "scores": scores, "made_at": self._clock()}
        self._popularity.update_one({"_id": domain}, {"$set": change}, upsert=True)

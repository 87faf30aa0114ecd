"""PropensityStore: the propensities of each domain's places, in Mongo."""

import time
from collections.abc import Callable, Iterable

from pymongo import UpdateOne
from pymongo.database import Database

from clickstream.store import Document, insert_new


class PropensityStore:
    """Collection ``propensities``: one document a domain, what was estimated and when it is due again."""

    def __init__(self, database: Database[Document], clock: Callable[[], float] = time.time) -> None:
        self._propensities = database["propensities"]
        self._clock = clock

    def get(self, domain: str) -> tuple[float, ...]:
        """Return how likely each place is looked at, the first place first; none when nothing is known."""
        found = self._propensities.find_one({"_id": domain}, {"values": 1})
        return tuple(found.get("values", ())) if found else ()

    def save(self, domain: str, values: Iterable[float], sessions: int, at: float) -> None:
        """Remember an estimate, how many sessions it is from, and when it was made (seconds since 1970)."""
        estimate = {"values": [float(value) for value in values], "sessions": sessions, "at": at}
        self._propensities.update_one(
            {"_id": domain}, {"$set": estimate, "$setOnInsert": {"next_at": 0.0}}, upsert=True
        )

    def due(self, domain: str, seconds: float) -> bool:
        """Say whether this caller makes the next estimate: one of all callers in that many seconds.

        Whoever makes it calls `save`, and `next_in` with more when it is not needed again so soon.
        """
        now = self._clock()
        first = UpdateOne({"_id": domain}, {"$setOnInsert": {"next_at": 0.0}}, upsert=True)
        insert_new(lambda: self._propensities.bulk_write([first], ordered=False))
        due = {"_id": domain, "next_at": {"$lte": now}}
        return self._propensities.update_one(due, {"$set": {"next_at": now + seconds}}).modified_count == 1

    def next_in(self, domain: str, seconds: float) -> None:
        """Put the next estimate off: it is due in that many seconds."""
        self._propensities.update_one({"_id": domain}, {"$set": {"next_at": self._clock() + seconds}})

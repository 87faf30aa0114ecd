"""ActionStore: the only file that speaks Mongo for actions, the events outside a search."""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from pymongo import ASCENDING, DESCENDING
from pymongo.database import Database

from clickstream.records import Action, ReceivedAction
from clickstream.store import insert_new

Document = dict[str, Any]

#: Users or places asked for in one request. SecantusDB compares every document found with each of them: of
#: 500 users with 50 actions each, 25 at a time are read in half the time that 100 at a time take.
CHUNK = 25
#: What evidence reads of an action; what else its meta has may be large.
_EVIDENCE = {
    "user_id": 1, "domain": 1, "action_id": 1, "object_id": 1, "action_type": 1, "created_at": 1,
    "received_at": 1, "meta.dwell_seconds": 1,
}  # fmt: skip


class ActionStore:
    """What users did outside a search, each action once.

    Collection ``actions``: unique user_id + action_id. ``_id`` is the action's place in the log: it sorts as
    the actions were received, in one push as they were listed, so a log can be replayed as it happened.
    """

    def __init__(self, database: Database[Document], clock: Callable[[], float] = time.time) -> None:
        self._actions = database["actions"]
        self._clock = clock

    def ensure_indexes(self) -> None:
        """Create the indexes; safe to repeat and to run from several processes."""
        self._actions.create_index([("user_id", ASCENDING), ("action_id", ASCENDING)], unique=True)
        # The domain first: SecantusDB finds several users only behind what they have in common.
        self._actions.create_index([("domain", ASCENDING), ("user_id", ASCENDING), ("_id", DESCENDING)])

    def push(self, actions: Sequence[Action]) -> list[ReceivedAction]:
        """Store actions in one round trip; return those that were new, in the order given.

        The first of a user's action_id wins, in the log and in one push.

        Raises:
            BulkWriteError: a write failed for another reason than being a repeat. What was new is stored, and
                repeating the call stores the rest.
        """
        first: dict[tuple[str, str], Action] = {}
        for action in actions:
            first.setdefault((action.user_id, action.action_id), action)
        if not first:
            return []
        now, push = self._clock(), uuid.uuid4().hex
        documents = []
        for number, action in enumerate(first.values()):
            document = action.model_dump()
            # fixed widths: texts then sort as the numbers do
            document["_id"] = f"{int(now * 1e6):016x}-{push}-{number:08x}"
            document["received_at"] = now
            if action.created_at is None:
                document["created_at"] = int(now)
            documents.append(document)
        repeats = insert_new(lambda: self._actions.insert_many(documents, ordered=False))
        return [_received(document) for place, document in enumerate(documents) if place not in repeats]

    def of_user(
        self, user_id: str, domain: str, after: str | None = None, limit: int = 1_000
    ) -> list[ReceivedAction]:
        """Return a page of a user's actions in a domain, the latest received first.

        Args:
            after: ``place`` of the last action of the page before; None for the first page. What is received
                while the pages are walked sorts before them.
            limit: most actions on the page; 0 or less gives none.
        """
        if limit <= 0:  # to Mongo, 0 is no limit
            return []
        where: Document = {"user_id": user_id, "domain": domain}
        if after is not None:
            where["_id"] = {"$lt": after}
        return [_received(found) for found in self._actions.find(where).sort("_id", DESCENDING).limit(limit)]

    def of_users(self, user_ids: Iterable[str], domain: str) -> Iterator[ReceivedAction]:
        """Yield all that users ever did in a domain, in no order, `CHUNK` users a request; read as needed.

        Yields:
            Actions; of ``meta`` there is ``dwell_seconds`` at most.
        """
        users = list(dict.fromkeys(user_ids))
        for start in range(0, len(users), CHUNK):
            where = {"user_id": {"$in": users[start : start + CHUNK]}, "domain": domain}
            yield from map(_received, self._actions.find(where, _EVIDENCE))

    def newest(self, domain: str, limit: int) -> Iterator[ReceivedAction]:
        """Yield what was done last in a domain, by anybody, the latest received first; read as needed.

        Args:
            limit: most actions; 0 or less gives none.

        Yields:
            Actions; of ``meta`` there is ``dwell_seconds`` at most.
        """
        if limit > 0:  # to Mongo, 0 is no limit
            # Of all indexes `_id` alone has this order: Mongo walks it backwards, SecantusDB reads the log.
            latest = self._actions.find({"domain": domain}, _EVIDENCE).sort("_id", DESCENDING).limit(limit)
            yield from map(_received, latest)

    def since(self, domain: str, moment: float) -> Iterator[ReceivedAction]:
        """Yield what was done in a domain, by anybody, received from then on, oldest first; read as needed.

        Args:
            moment: seconds since 1970.

        Yields:
            Actions; of ``meta`` there is ``dwell_seconds`` at most.
        """
        # `_id` begins with the time, in microseconds of a fixed width; a text below "0" is before all of them
        after = {"$gte": f"{max(0, int(moment * 1e6)):016x}"}
        yield from map(
            _received, self._actions.find({"_id": after, "domain": domain}, _EVIDENCE).sort("_id", 1)
        )

    def held(self, places: Iterable[str]) -> set[str]:
        """Return those of these places of the log that hold an action; `CHUNK` a request."""
        asked, found = list(places), set[str]()
        for start in range(0, len(asked), CHUNK):
            these = {"_id": {"$in": asked[start : start + CHUNK]}}
            found |= {one["_id"] for one in self._actions.find(these, {"_id": 1})}
        return found

    def take_back(self, actions: Iterable[ReceivedAction]) -> None:
        """Delete these actions, `CHUNK` a request; those that are gone already are ignored."""
        places = [action.place for action in actions]
        for start in range(0, len(places), CHUNK):
            self._actions.delete_many({"_id": {"$in": places[start : start + CHUNK]}})

    def erase(self, user_id: str) -> int:
        """Delete a user's actions in every domain; return how many there were."""
        return self._actions.delete_many({"user_id": user_id}).deleted_count


def _received(document: Document) -> ReceivedAction:
    # model_construct: what the store holds was validated on its way in
    fields = {key: value for key, value in document.items() if key != "_id"}
    return ReceivedAction.model_construct(place=document["_id"], **fields)

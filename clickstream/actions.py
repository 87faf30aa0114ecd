"""ActionStore: the only file that speaks Mongo for actions, the events outside a search."""

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from pymongo import ASCENDING, DESCENDING
from pymongo.database import Database

from clickstream.records import Action, ReceivedAction
from clickstream.store import insert_new

Document = dict[str, Any]


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
        self._actions.create_index([("user_id", ASCENDING), ("domain", ASCENDING), ("_id", DESCENDING)])
        self._actions.create_index(
            [("domain", ASCENDING), ("received_at", ASCENDING), ("user_id", ASCENDING)]
        )

    def push(self, actions: Sequence[Action]) -> int:
        """Store actions in one round trip; return how many were new. The first of a user's action_id wins.

        Raises:
            BulkWriteError: a write failed for another reason than being a repeat. What was new is stored, and
                repeating the call stores the rest.
        """
        if not actions:
            return 0
        now, push = self._clock(), uuid.uuid4().hex
        documents = []
        for number, action in enumerate(actions):
            document = action.model_dump()
            # fixed widths: texts then sort as the numbers do
            document["_id"] = f"{int(now * 1e6):016x}-{push}-{number:08x}"
            document["received_at"] = now
            if action.created_at is None:
                document["created_at"] = int(now)
            documents.append(document)
        return len(documents) - insert_new(lambda: self._actions.insert_many(documents, ordered=False))

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

    def active_users(
        self, domain: str, since: float, limit: int, after: str | None = None
    ) -> dict[str, float]:
        """Return users with actions received at ``since`` or later, and when their latest came.

        An action can be found a moment after its ``received_at``, and the clocks of several web processes
        differ. So ask from some seconds before the time you asked last; the latest times tell who is new.

        Args:
            since: seconds since 1970 by the server's clock.
            limit: most users; 0 or less gives none.
            after: the last user of the page before; None for the first page.

        Returns:
            user id -> ``received_at`` of the user's latest action, by user id.
        """
        if limit <= 0:
            return {}
        found = self._actions.aggregate(
            [
                {"$match": {"domain": domain, "received_at": {"$gte": since}}},
                {"$group": {"_id": "$user_id", "latest": {"$max": "$received_at"}}},
                # not in the first match: with two ranges, SecantusDB uses no index
                *([] if after is None else [{"$match": {"_id": {"$gt": after}}}]),
                {"$sort": {"_id": ASCENDING}},
                {"$limit": limit},
            ]
        )
        return {user["_id"]: float(user["latest"]) for user in found}

    def erase(self, user_id: str) -> int:
        """Delete a user's actions in every domain; return how many there were."""
        return self._actions.delete_many({"user_id": user_id}).deleted_count


def _received(document: Document) -> ReceivedAction:
    # model_construct: what the store holds was validated on its way in
    fields = {key: value for key, value in document.items() if key != "_id"}
    return ReceivedAction.model_construct(place=document["_id"], **fields)

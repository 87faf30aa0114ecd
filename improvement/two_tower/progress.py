"""TrainingStore: which checkpoint is a domain's newest, and which batch is being trained; Mongo."""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database

from clickstream.store import insert_new

Document = dict[str, Any]
#: Characters kept of a reason.
MAX_REASON = 1_000


@dataclass(frozen=True)
class TrainingState:
    """How far the towers of a domain are.

    Attributes:
        head: id of the newest checkpoint; None before the first.
        batch: id of the training batch at work, or that a dead worker left; None: none.
        batches: how many batches were begun, ever.
        published_at, archived_at: when these were done last, seconds since 1970.
        users_at: up to when engagements were stored that the user tower has looked at.
        reason: why the last training stopped, if it failed; None: it did not.
        learned: engagements that batches took, ever, whatever became of their checkpoints.
        publish_asked: whether an operator asked to have the newest checkpoint published before it is due.
    """

    domain: str
    head: str | None = None
    batch: str | None = None
    published_at: float = 0.0
    users_at: float = 0.0
    archived_at: float = 0.0
    reason: str | None = None
    batches: int = 0
    learned: int = 0
    publish_asked: bool = False


class LostTraining(Exception):
    """Another worker trains by now."""


@dataclass
class Hold:
    """The right to train a domain's towers, until its lease ends.

    A lease that ran out is still this worker's while nobody else took it.
    """

    state: TrainingState
    training: Collection[Document]
    token: str
    lease_seconds: float
    clock: Callable[[], float]
    kept_at: float

    def keep(self) -> None:
        """Hold on for another lease; raises LostTraining."""
        self.save()

    def keep_on(self, *_: Any) -> None:
        """Do `keep` once a quarter of the lease has passed; may be called often, with any arguments."""
        if not 0 <= self.clock() - self.kept_at < self.lease_seconds / 4:
            self.keep()

    def save(self, **changes: Any) -> TrainingState:
        """Change fields of the state, in one update, and hold on for another lease.

        Raises:
            LostTraining: and nothing was changed.
            TypeError: there is no such field.
        """
        if changes.get("reason"):
            changes["reason"] = changes["reason"][:MAX_REASON]
        state, now = replace(self.state, **changes), self.clock()
        change = {"$set": {**changes, "until": now + self.lease_seconds}}
        mine = {"_id": self.state.domain, "token": self.token}
        if not self.training.update_one(mine, change).matched_count:
            raise LostTraining(f"the towers of {self.state.domain!r} are another worker's by now")
        self.state, self.kept_at = state, now
        return state


class TrainingStore:
    """Collection ``tower_training``: one document a domain (``_id``), held by one worker at a time."""

    def __init__(self, database: Database[dict[str, Any]], clock: Callable[[], float] = time.time) -> None:
        self._training, self.clock = database["tower_training"], clock

    def of(self, domain: str) -> TrainingState:
        """Return how far a domain's towers are."""
        return _state(domain, self._training.find_one({"_id": domain}) or {})

    def ask_publish(self, domain: str) -> None:
        """Have a worker publish a domain's newest checkpoint before it is due; whoever holds it goes on."""
        free = {"token": None, "until": 0.0}
        asked = UpdateOne(
            {"_id": domain}, {"$set": {"publish_asked": True}, "$setOnInsert": free}, upsert=True
        )
        insert_new(lambda: self._training.bulk_write([asked], ordered=False))

    @contextmanager
    def held(self, domain: str, lease_seconds: float) -> Iterator[Hold | None]:
        """Hold a domain's towers while the context lasts; None where another worker holds them.

        The lease of a worker that died ends by itself.
        """
        now, token = self.clock(), uuid.uuid4().hex
        first = {"_id": domain}, {"$setOnInsert": {"token": None, "until": 0.0}}
        insert_new(lambda: self._training.bulk_write([UpdateOne(*first, upsert=True)], ordered=False))
        taking = {"$set": {"token": token, "until": now + lease_seconds}}
        if not self._training.update_one({"_id": domain, "until": {"$lt": now}}, taking).matched_count:
            yield None
            return
        try:
            yield Hold(self.of(domain), self._training, token, lease_seconds, self.clock, now)
        finally:
            let_go = {"$set": {"token": None, "until": 0.0}}
            self._training.update_one({"_id": domain, "token": token}, let_go)


def _state(domain: str, found: Document) -> TrainingState:
    known = {one.name for one in fields(TrainingState)} - {"domain"}
    return TrainingState(domain, **{name: value for name, value in found.items() if name in known})

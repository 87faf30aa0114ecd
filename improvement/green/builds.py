"""BuildStore: what is being built, how far it is, and who works on it."""

import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from pymongo import DESCENDING
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, PyMongoError
from qdrant_client.http.exceptions import ApiException

from improvement.errors import Conflict, NotFound, Unavailable

Document = dict[str, Any]

#: What is nobody's fault: a store is away. A build that it stops goes on later, however often.
STORE_FAILURES: tuple[type[Exception], ...] = (Unavailable, PyMongoError, ApiException)
#: Characters kept of a reason.
MAX_REASON = 1_000


class BuildState(StrEnum):
    """Where a build stands."""

    QUEUED = "queued"
    BUILDING = "building"
    BUILT = "built"
    CANCELLED = "cancelled"
    FAILED = "failed"
    DISCARDED = "discarded"


#: States in which a build is worked on, or will be.
ACTIVE = (BuildState.QUEUED, BuildState.BUILDING)


class Stage(StrEnum):
    """What a build does, in this order."""

    EVIDENCE = "evidence"
    OBJECTS = "objects"
    COPIES = "copies"
    INDEX = "index"


class LostBuild(Unavailable):
    """Another worker took the build over, or somebody cancelled it."""


@dataclass(frozen=True)
class Build:
    """One green build.

    Attributes:
        build_id: 32 hexadecimal digits.
        embedding_model_id: of its release.
        space: embedding space that it builds in.
        population: whether what everybody chose turns its objects.
        asked_by: who asked for it.
        stage, done, total, stage_at: what it is at, how far, of how many (None: not known), and since when.
        cursor: where the stage goes on when the worker dies.
        taught_until: ``happened_at`` of the newest session it learned from; its gate tests on later ones.
        learned: sessions that its population learned from; and ``turned``: objects turned by it.
        failed: objects that it lacks, and ``failures``: why, of some.
        reason: why it ended as it did, or what stopped it last.
        attempts: how often a worker took it since it last got any further.
        gate_asked: whether a worker is to run its gate.
        created_at, updated_at, finished_at: seconds since 1970.
    """

    build_id: str
    domain: str
    embedding_model_id: str
    space: str
    population: bool
    asked_by: str = ""
    state: BuildState = BuildState.QUEUED
    stage: Stage = Stage.EVIDENCE
    done: int = 0
    total: int | None = None
    stage_at: float = 0.0
    cursor: str | None = None
    taught_until: float | None = None
    learned: int = 0
    turned: int = 0
    failed: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    reason: str | None = None
    attempts: int = 0
    gate_asked: bool = False
    created_at: float = 0.0
    updated_at: float = 0.0
    finished_at: float | None = None

    @property
    def active(self) -> bool:
        """Whether it is still being worked on, or will be."""
        return self.state in ACTIVE

    def rate(self, now: float) -> float | None:
        """How many of ``done`` a second, since this stage began; None before there is any."""
        seconds = now - self.stage_at
        return self.done / seconds if self.done and seconds > 0 else None

    def eta(self, now: float) -> float | None:
        """Seconds until this stage ends, if it goes on like this; None if nobody can know."""
        rate = self.rate(now)
        return None if not rate or self.total is None else max(0.0, self.total - self.done) / rate

    def as_json(self, now: float) -> Document:
        """Return what the API shows; of a build that ended, rates as they were then."""
        shown = {f.name: getattr(self, f.name) for f in fields(self)}
        then = now if self.finished_at is None else self.finished_at
        return shown | {"rate": self.rate(then), "eta_seconds": self.eta(then) if self.active else None}


class BuildStore:
    """Collection ``builds``: one document a build (``_id``), with the lease of the worker that has it."""

    def __init__(self, database: Database[Document], clock: Callable[[], float] = time.time) -> None:
        self._builds = database["builds"]
        self.clock = clock

    def ensure_indexes(self) -> None:
        """Create the index that lets a domain have one active build; safe to repeat."""
        self._builds.create_index("active", unique=True, sparse=True)

    def ask(
        self, domain: str, embedding_model_id: str, space: str, population: bool, by: str, build_id: str = ""
    ) -> Build:
        """Queue a build; raises Conflict while the domain has another one that is not finished."""
        if found := self._builds.find_one({"active": domain}):
            raise _busy(domain, f": {found['_id']}")
        build = Build(
            build_id or uuid.uuid4().hex, domain, embedding_model_id, space, population, by,
            created_at=self.clock(), updated_at=self.clock(),
        )  # fmt: skip
        try:
            self._builds.insert_one(_document(build) | {"active": domain, "token": None, "until": 0.0})
        except DuplicateKeyError:  # somebody else asked in between
            raise _busy(domain, "") from None
        return build

    def get(self, build_id: str) -> Build:
        """Return one build; raises NotFound."""
        found = self._builds.find_one({"_id": build_id})
        if found is None:
            raise NotFound(f"there is no build {build_id!r}")
        return _build(found)

    def latest(self, domain: str) -> Build:
        """Return a domain's newest build that was not discarded; raises NotFound."""
        wanted = {"domain": domain, "state": {"$ne": BuildState.DISCARDED}}
        found = self._builds.find_one(wanted, sort=[("created_at", DESCENDING)])
        if found is None:
            raise NotFound(f"domain {domain!r} has no build")
        return _build(found)

    def due(self) -> list[Build]:
        """Return what a worker could take now: queued, left behind by a dead one, or to be gated."""
        found = [
            *self._builds.find({"state": {"$in": list(ACTIVE)}, "until": {"$lt": self.clock()}}),
            *self._builds.find({"gate_asked": True, "until": {"$lt": self.clock()}}),
        ]
        return [_build(document) for document in found]

    def claim(self, build: Build, lease_seconds: float) -> str | None:
        """Take a due build; return the token that its changes need, or None if somebody was faster."""
        token, now = uuid.uuid4().hex, self.clock()
        change = {"$set": {"token": token, "until": now + lease_seconds}, "$inc": {"attempts": 1}}
        # Somebody faster may have ended it already: then it is free, but no longer due.
        due: Document = {"state": {"$in": list(ACTIVE)}} if build.active else {"gate_asked": True}
        free = {"_id": build.build_id, "until": {"$lt": now}, **due}
        return token if self._builds.update_one(free, change).modified_count else None

    def save(self, build_id: str, token: str, lease_seconds: float, **changes: Any) -> Build:
        """Write how far a build is, and hold it on; raises LostBuild where another worker has it."""
        now = self.clock()
        self._change(build_id, token, {**changes, "updated_at": now, "until": now + lease_seconds})
        return self.get(build_id)

    def finish(self, build_id: str, token: str, **changes: Any) -> Build:
        """Write what a worker that is done leaves, and let go of it; raises LostBuild like `save`."""
        now = self.clock()
        ended = "state" in changes and changes["state"] not in ACTIVE
        changes |= {"finished_at": now} if ended else {}
        free = {"token": None, "until": 0.0, "updated_at": now}
        self._change(build_id, token, {**changes, **free}, unset=("active",) if ended else ())
        return self.get(build_id)

    def give_back(self, build_id: str, token: str, reason: str | None = None, forgive: bool = False) -> bool:
        """Let any worker take the build, at once; return whether it still was this worker's.

        Args:
            reason: what stopped the worker.
            forgive: do not count this attempt, for it was not the build's fault.
        """
        free: Document = {"token": None, "until": 0.0} | (
            {} if reason is None else {"reason": _short(reason)}
        )
        change: Document = {"$set": free} | ({"$inc": {"attempts": -1}} if forgive else {})
        return self._builds.update_one({"_id": build_id, "token": token}, change).matched_count > 0

    def ask_gate(self, build_id: str) -> None:
        """Have a worker run a build's gate."""
        asked = {"gate_asked": True, "attempts": 0, "reason": None}
        self._builds.update_one({"_id": build_id}, {"$set": asked})

    def end(
        self,
        build_id: str,
        state: BuildState,
        reason: str | None = None,
        among: Collection[BuildState] = tuple(BuildState),
    ) -> bool:
        """Write how a build ended, whoever has it: the worker finds it is not his any more.

        Args:
            among: states from which it may end so; from another nothing happens, and False is returned.
        """
        ended = {
            "state": state, "reason": _short(reason), "finished_at": self.clock(), "token": None,
            "until": 0.0, "gate_asked": False,
        }  # fmt: skip
        wanted = {"_id": build_id, "state": {"$in": list(among)}}
        change = {"$set": ended, "$unset": {"active": ""}}
        return self._builds.update_one(wanted, change).matched_count > 0

    def named(self, domain: str, embedding_model_id: str) -> bool:
        """Say whether a domain ever had a build of this name."""
        wanted = {"domain": domain, "embedding_model_id": embedding_model_id}
        return self._builds.find_one(wanted, {"_id": 1}) is not None

    def list(self, domain: str, limit: int = 20) -> list[Build]:
        """Return a domain's builds, the newest first."""
        found = self._builds.find({"domain": domain}).sort("created_at", DESCENDING).limit(limit)
        return [_build(document) for document in found]

    def _change(self, build_id: str, token: str, changes: Document, unset: Collection[str] = ()) -> None:
        if "failures" in changes:
            changes["failures"] = _pairs(changes["failures"])
        if "reason" in changes:
            changes["reason"] = _short(changes["reason"])
        change: Document = {"$set": changes} | ({"$unset": dict.fromkeys(unset, "")} if unset else {})
        if not self._builds.update_one({"_id": build_id, "token": token}, change).matched_count:
            raise LostBuild(f"build {build_id!r} is not this worker's any more")


def _busy(domain: str, which: str) -> Conflict:
    return Conflict(f"domain {domain!r} is being built already{which}; cancel it first, or wait")


def _short(reason: str | None) -> str | None:
    return reason[:MAX_REASON] if reason else reason


def _pairs(failures: dict[str, str]) -> list[list[str]]:
    """Ids may have any character; names of fields may not."""
    return [[object_id, reason] for object_id, reason in failures.items()]


def _document(build: Build) -> Document:
    values = {f.name: getattr(build, f.name) for f in fields(build) if f.name != "build_id"}
    return {"_id": build.build_id, **values, "failures": _pairs(build.failures)}


def _build(document: Document) -> Build:
    known = {f.name for f in fields(Build)}
    values = {name: value for name, value in document.items() if name in known}
    values |= {
        "state": BuildState(document["state"]),
        "stage": Stage(document["stage"]),
        "failures": dict(document["failures"]),
    }
    return Build(document["_id"], **values)

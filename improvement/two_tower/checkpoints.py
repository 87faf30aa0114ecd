"""CheckpointStore: weights, optimisers, settings and watermark of towers; content-addressed, in GridFS."""

import hashlib
import json
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from bson import ObjectId
from gridfs import GridFSBucket
from gridfs.errors import CorruptGridFile, NoFile
from pymongo import ASCENDING, DESCENDING
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from improvement.errors import NotFound, Unavailable
from improvement.two_tower.facts import Arrays
from improvement.two_tower.names import BEGUN
from improvement.two_tower.packed import packed, settings_of, settings_text, unpacked
from improvement.two_tower.settings import TowerSettings

Document = dict[str, Any]

#: Bytes of a chunk in GridFS.
CHUNK = 1 << 20
#: Seconds after which whoever began to store a checkpoint and did not finish is taken for dead.
UPLOAD_SECONDS = 3_600.0
#: What a checkpoint's id is made of, beside the digest of its arrays.
_CONTENT = (
    "domain", "settings", "parent", "base_space", "lineage", "watermark", "trained", "engagements", "losses",
)  # fmt: skip
#: Checkpoints named in one request; SecantusDB's ``$in`` takes the square of their number.
ASKED = 100


@dataclass(frozen=True)
class Checkpoint:
    """One state of a domain's towers, as it is described beside its arrays.

    Attributes:
        checkpoint_id: SHA-256 of all that it holds but for when it was written: 64 hexadecimal digits. It is
            also the name of the embedding space that its towers make.
        parent: what it was trained from; None for the first, which is not trained.
        base_space: the embedding space of the texts that its projection reads.
        lineage: digest of the frozen projection and its base space, kept from parent to child. Vectors of
            checkpoints of another lineage have nothing to do with its own.
        watermark: when the newest engagement that it learned from was received; 0.0 for none.
        trained: what the step from its parent was: "begun", "candidate" or "users".
        engagements: how many it has learned from, ever.
        losses: of the steps from its parent.
        good: whether it is known to be good (True), bad (False: never reverted to), or neither yet.
    """

    checkpoint_id: str
    domain: str
    parent: str | None
    base_space: str
    watermark: float
    trained: str
    engagements: int = 0
    losses: tuple[float, ...] = ()
    good: bool | None = None
    bytes: int = 0
    created_at: float = 0.0
    lineage: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


class CheckpointStore:
    """GridFS bucket ``checkpoints`` (the arrays) and collection ``tower_checkpoints`` (what they are).

    Collection ``tower_uploads`` has a line for each file that is being written, so that what a dead writer
    left is found and deleted. A checkpoint is there once its description is, which is written last. What a
    deleted one was trained from, and its lineage, is remembered in ``tower_ancestry``.

    No user's id is in it: weights, and rows by object id. So erasing a user leaves checkpoints alone.
    """

    def __init__(self, database: Database[dict[str, Any]], clock: Callable[[], float] = time.time) -> None:
        self._database, self.clock = database, clock
        self._described, self._uploads = database["tower_checkpoints"], database["tower_uploads"]
        self._ancestry = database["tower_ancestry"]

    @property
    def _files(self) -> GridFSBucket:
        return GridFSBucket(self._database, "checkpoints", chunk_size_bytes=CHUNK)

    def ensure_indexes(self) -> None:
        """Create the indexes; safe to repeat and to run from several processes."""
        order = [("domain", ASCENDING), ("created_at", DESCENDING), ("_id", ASCENDING)]
        self._described.create_index(order)
        self._ancestry.create_index("parent")

    def save(
        self,
        domain: str,
        settings: TowerSettings,
        arrays: Arrays,
        *,
        parent: str | None,
        base_space: str,
        watermark: float,
        trained: str,
        engagements: int = 0,
        losses: tuple[float, ...] = (),
    ) -> Checkpoint:
        """Store a state, or find it stored: equal content has one id; repeating it after dying finishes it.

        One that was damaged since is mended. What is trained from a bad one is bad as well.

        Raises:
            Invalid: an array is not of finite numbers.
            Unavailable: it took longer than an hour.
        """
        content = packed(arrays)
        described: Document = {
            "domain": domain, "settings": settings_text(settings), "parent": parent,
            "base_space": base_space, "lineage": _lineage(base_space, arrays),
            "watermark": float(watermark), "trained": trained,
            "engagements": int(engagements), "losses": [float(loss) for loss in losses],
        }  # fmt: skip
        key = _digest(described, content)
        if self._described.find_one({"_id": key}, {"_id": 1}) is None:
            line = {"domain": domain, "parent": parent, "lineage": described["lineage"]}
            self._ancestry.update_one({"_id": key}, {"$set": line}, upsert=True)
            facts: Document = {"good": None, "bytes": len(content), "created_at": self.clock(), "facts": {}}
            self._upload(key, content, {"_id": key, **described, **facts})
        else:
            self._mend(key, content)
        if parent is not None and (self._described.find_one({"_id": parent}) or {}).get("good") is False:
            self.judge(
                key, False
            )  # behind it: whoever judges the parent meanwhile finds either this one or us
        return self.get(key)

    def _upload(self, key: str, content: bytes, document: Document) -> None:
        # Every attempt has a file of its own, so that none can spoil another's; the description names one.
        file = ObjectId()
        self._uploads.insert_one({"_id": file, "checkpoint": key, "at": self.clock()})
        self._files.upload_from_stream_with_id(file, key, content)
        try:
            self._described.insert_one(document | {"file": file})
        except DuplicateKeyError:
            self._delete_file(file)
        if not self._uploads.delete_one({"_id": file}).deleted_count:  # taken for dead, its file deleted
            self._described.delete_one({"_id": key, "file": file})
            raise Unavailable(f"checkpoint {key}: storing it took too long; it was not stored")

    def _mend(self, key: str, content: bytes) -> None:
        try:
            self.load(key)
            return
        except NotFound:
            return
        except Unavailable:
            found, file = self._find(key), ObjectId()
        self._uploads.insert_one({"_id": file, "checkpoint": key, "at": self.clock()})
        self._files.upload_from_stream_with_id(file, key, content)
        self._described.update_one({"_id": key}, {"$set": {"file": file}})
        self._uploads.delete_one({"_id": file})
        self._delete_file(found["file"])

    def get(self, checkpoint_id: str) -> Checkpoint:
        """Return what a checkpoint is; raises NotFound."""
        return _checkpoint(self._find(checkpoint_id))

    def _find(self, checkpoint_id: str) -> Document:
        found = self._described.find_one({"_id": checkpoint_id})
        if found is None:
            raise NotFound(f"there is no checkpoint {checkpoint_id!r}")
        return found

    def load(self, checkpoint_id: str) -> tuple[TowerSettings, dict[str, Any]]:
        """Return the settings and arrays, bit for bit.

        Raises:
            NotFound: there is no such checkpoint, or it was deleted meanwhile.
            Unavailable: the content is not what its id says: the store lost or changed some of it.
        """
        found = self._find(checkpoint_id)
        try:
            with self._files.open_download_stream(found["file"]) as file:
                content = file.read()
            if _digest(found, content) == checkpoint_id:
                return settings_of(found["settings"]), unpacked(content)
        except (NoFile, CorruptGridFile, zipfile.BadZipFile):
            pass
        self._find(checkpoint_id)  # the description is deleted first
        raise Unavailable(
            f"checkpoint {checkpoint_id}: what is stored is not what was stored (its digest differs); "
            "restore the store, or go back to another checkpoint"
        )

    def list(self, domain: str) -> "list[Checkpoint]":
        """Return a domain's checkpoints, the newest first."""
        order = [("created_at", DESCENDING), ("_id", ASCENDING)]
        return [_checkpoint(found) for found in self._described.find({"domain": domain}).sort(order)]

    def judge(self, checkpoint_id: str, good: bool) -> None:
        """Note whether a checkpoint is good; nothing where it was deleted."""
        self._described.update_one({"_id": checkpoint_id}, {"$set": {"good": good}})

    def judge_bad(self, checkpoint_id: str, but: str | None = None) -> set[str]:
        """Note that a checkpoint is bad, and with it all that came of it; return the ids of these.

        Towers that have learned nothing are not to blame; they are left as they are.

        Args:
            but: one that is spared, and what came of it.
        """
        known = self._described.find_one({"_id": checkpoint_id}, {"trained": 1})
        if checkpoint_id == but or (known is not None and known["trained"] == BEGUN):
            return set()
        bad, new = {checkpoint_id}, [checkpoint_id]
        while new:
            for one in new:
                self.judge(one, False)
            found: list[str] = []
            for start in range(0, len(new), ASKED):
                of = {"parent": {"$in": new[start : start + ASKED]}}
                found += [one["_id"] for one in self._ancestry.find(of, {"_id": 1})]
            new = [one for one in found if one not in bad and one != but]
            bad.update(new)
        return bad

    def ancestors(self, checkpoint_id: str) -> Sequence[str]:
        """Return what a checkpoint was trained from, deleted ones too, the nearest first."""
        found: list[str] = []
        at: str | None = checkpoint_id
        while (line := self._ancestry.find_one({"_id": at})) is not None and line["parent"] not in found:
            if (at := line["parent"]) is None:
                break
            found.append(at)
        return found

    def of_lineage(self, lineage: str, checkpoint_ids: Iterable[str]) -> set[str]:
        """Return which of these are known checkpoints of a lineage, deleted ones too."""
        asked, found = list(dict.fromkeys(checkpoint_ids)), set[str]()
        for start in range(0, len(asked), ASKED):
            these = {"_id": {"$in": asked[start : start + ASKED]}}
            found |= {one["_id"] for one in self._ancestry.find(these) if one["lineage"] == lineage}
        return found

    def prune(self, domain: str, keep: int, used: "set[str]") -> int:
        """Delete all but the newest ``keep``, the newest good one, and those in use; return how many.

        Of the lineages of what is kept the untrained ones stay, too: to these is gone back if all else fails.
        What a dead writer left behind is deleted as well. Whoever is loading one meanwhile gets NotFound.
        """
        self._sweep()
        stored = self.list(domain)
        kept = used | {one.checkpoint_id for one in stored[:keep]}
        kept |= {one.checkpoint_id for one in [one for one in stored if one.good][:1]}
        lineages = {one.lineage for one in stored if one.checkpoint_id in kept}
        kept |= {one.checkpoint_id for one in stored if one.trained == BEGUN and one.lineage in lineages}
        gone = [one.checkpoint_id for one in stored if one.checkpoint_id not in kept]
        for checkpoint_id in gone:
            found = self._described.find_one({"_id": checkpoint_id}, {"file": 1})
            if found is not None:
                # A line for the file, so that dying before it is deleted leaves it to the next sweep.
                line = {"_id": found["file"], "checkpoint": checkpoint_id, "at": 0.0}
                with suppress(DuplicateKeyError):
                    self._uploads.insert_one(line)
                self._described.delete_one({"_id": checkpoint_id, "file": found["file"]})
                self._delete_file(found["file"])
                self._uploads.delete_one({"_id": found["file"]})
        return len(gone)

    def _sweep(self) -> None:
        before = self.clock() - UPLOAD_SECONDS
        for line in list(self._uploads.find({"at": {"$lt": before}})):
            used = self._described.find_one({"_id": line["checkpoint"], "file": line["_id"]}, {"_id": 1})
            # The line first: a writer who is slow, and not dead, finds it gone and takes its word back.
            taken = self._uploads.delete_one({"_id": line["_id"]}).deleted_count
            if used is None and taken:
                self._delete_file(line["_id"])

    def _delete_file(self, file: ObjectId) -> None:
        with suppress(NoFile):  # its chunks are deleted all the same
            self._files.delete(file)


def _digest(described: Document, content: bytes) -> str:
    its = {name: described[name] for name in _CONTENT if name in described}  # earlier ones had no lineage
    said = json.dumps(its, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{said}\n{hashlib.sha256(content).hexdigest()}".encode()).hexdigest()


def _lineage(base_space: str, arrays: Arrays) -> str:
    projection = np.ascontiguousarray(arrays.get("model.projection", ()), "<f4")
    named = json.dumps([base_space, projection.shape]).encode()
    return hashlib.sha256(named + projection.tobytes()).hexdigest()


def _checkpoint(found: Document) -> Checkpoint:
    names = {"domain", "parent", "base_space", "watermark", "trained", "engagements", "good", "bytes"}
    made = Checkpoint(found["_id"], **{name: found[name] for name in names})
    return replace(
        made, losses=tuple(found["losses"]), created_at=found["created_at"], facts=found.get("facts", {}),
        lineage=found.get("lineage", ""),
    )  # fmt: skip

"""AuditStore: what audits found, and whether something is still to be done about it."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymongo import ASCENDING, DESCENDING
from pymongo.database import Database

from improvement.evaluation.drift import Grade, worst

Document = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """One thing that an audit judged.

    Attributes:
        kind: what it is about; the kind of the alert that it may lead to.
        value: the number it was judged by; None for infinity.
    """

    kind: str
    grade: Grade
    message: str
    value: float | None


@dataclass(frozen=True)
class Audit:
    """One look at how a domain's learning is doing.

    Attributes:
        at: seconds since 1970.
        release: collection that served, by its embedding model id; ``collection`` by its physical name.
        space: its embedding space.
        findings: what could be judged.
        release_good: whether nothing it found speaks against that collection.
        measured: numbers, as JSON can hold them.
        healing: "due" while it is still to be acted upon, else what was done, or None.
        heal_rate: rate that learning is to go on with then.
    """

    audit_id: str
    domain: str
    at: float
    release: str
    collection: str
    space: str
    findings: Sequence[Finding]
    release_good: bool
    measured: Mapping[str, Any]
    healing: str | None = None
    heal_rate: float | None = None

    @property
    def grade(self) -> Grade:
        """The worst of what was found."""
        return worst([finding.grade for finding in self.findings])

    def alarmed(self, prefix: str) -> list[Finding]:
        """Return the alarms whose kind begins so."""
        return [f for f in self.findings if f.grade is Grade.ALARM and f.kind.startswith(prefix)]

    def as_json(self) -> Document:
        """Return what the API shows and the store holds."""
        return {
            "audit_id": self.audit_id, "domain": self.domain, "at": self.at, "release": self.release,
            "collection": self.collection, "space": self.space, "grade": self.grade.value,
            "release_good": self.release_good,
            "findings": [
                {"kind": f.kind, "grade": f.grade.value, "message": f.message, "value": f.value}
                for f in self.findings
            ],
            "measured": dict(self.measured), "healing": self.healing, "heal_rate": self.heal_rate,
        }  # fmt: skip


class AuditStore:
    """Collection ``audits``: one document an audit (``_id``)."""

    #: What is written of an audit that is still to be acted upon.
    DUE = "due"

    def __init__(self, database: Database[Document]) -> None:
        self._audits = database["audits"]

    def ensure_indexes(self) -> None:
        """Create the index; safe to repeat."""
        self._audits.create_index([("domain", ASCENDING), ("at", DESCENDING)])

    def save(self, audit: Audit) -> None:
        """Store what an audit found."""
        document = audit.as_json()
        self._audits.insert_one({"_id": document.pop("audit_id"), **document})

    def latest(self, domain: str, collection: str | None = None) -> Audit | None:
        """Return a domain's newest audit, or the newest that this collection served at; None without one."""
        wanted: Document = {"domain": domain}
        if collection is not None:
            wanted["collection"] = collection
        found = self._audits.find_one(wanted, sort=[("at", DESCENDING)])
        return None if found is None else _audit(found)

    def list(self, domain: str, limit: int = 30) -> Sequence[Audit]:
        """Return a domain's newest audits, the newest first."""
        found = self._audits.find({"domain": domain}).sort("at", DESCENDING).limit(max(1, limit))
        return [_audit(document) for document in found]

    def due(self, domain: str) -> Audit | None:
        """Return the newest audit that is still to be acted upon, or None."""
        found = self._audits.find_one({"domain": domain, "healing": self.DUE}, sort=[("at", DESCENDING)])
        return None if found is None else _audit(found)

    def healed(self, audit: Audit, what: str) -> None:
        """Write what was done about an audit, and that nothing is left of earlier ones."""
        self._audits.update_one({"_id": audit.audit_id}, {"$set": {"healing": what}})
        older = {"domain": audit.domain, "healing": self.DUE, "at": {"$lt": audit.at}}
        self._audits.update_many(older, {"$set": {"healing": "a later audit was acted upon"}})

    def forget(self, domain: str, before: float) -> int:
        """Delete a domain's audits of before then (seconds since 1970), but for what is due."""
        old = {"domain": domain, "at": {"$lt": before}, "healing": {"$ne": self.DUE}}
        return self._audits.delete_many(old).deleted_count


def new_id() -> str:
    """Return an id for an audit."""
    return uuid.uuid4().hex


def _audit(document: Document) -> Audit:
    values = {name: value for name, value in document.items() if name not in ("_id", "grade")}
    values["findings"] = [
        Finding(f["kind"], Grade(f["grade"]), f["message"], f["value"]) for f in document["findings"]
    ]
    return Audit(audit_id=document["_id"], **values)

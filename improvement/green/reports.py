"""ReportStore: what gates found, and whether a collection may serve by it."""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymongo import ASCENDING, DESCENDING
from pymongo.database import Database

from improvement.errors import NotFound

Document = dict[str, Any]

#: Newest reports of a domain that are kept.
KEPT = 20


@dataclass(frozen=True)
class GateReport:
    """One run of a gate, as JSON can hold it.

    Attributes:
        build: the build that was tested; ``green`` and ``blue``: the collections that were compared.
        passed: whether green is better or not inferior, and nothing breaks a floor.
        reasons: why not, one sentence each.
        found: metrics with intervals, movers, what was tested on; see `evaluation.gate`.
        created_at: seconds since 1970.
    """

    report_id: str
    domain: str
    build: str
    green: str
    blue: str
    passed: bool
    reasons: tuple[str, ...]
    found: Mapping[str, Any]
    created_at: float

    def as_json(self) -> Document:
        """Return what the API shows."""
        return {
            "report_id": self.report_id,
            "domain": self.domain,
            "build": self.build,
            "green": self.green,
            "blue": self.blue,
            "passed": self.passed,
            "reasons": list(self.reasons),
            "created_at": self.created_at,
            **self.found,
        }


class ReportStore:
    """Collection ``gate_reports``: one document a run (``_id``); of each domain the newest `KEPT`.

    What somebody searched for stands beside their owner's key, so that it can be erased.
    """

    def __init__(self, database: Database[Document], clock: Callable[[], float] = time.time) -> None:
        self._reports = database["gate_reports"]
        self._clock = clock

    def ensure_indexes(self) -> None:
        """Create the index; safe to repeat."""
        self._reports.create_index([("build", ASCENDING), ("created_at", DESCENDING)])

    def save(
        self,
        domain: str,
        build: str,
        green: str,
        blue: str,
        reasons: list[str],
        found: Mapping[str, Any],
        owners: Mapping[str, Sequence[str]] | None = None,
    ) -> GateReport:
        """Store what a gate found, and forget what is too old; no reasons against it is passed.

        Args:
            found: as JSON can hold it, below 1 MB; it names no user.
            owners: for each list of ``found["movers"]`` the owner's key of whoever searched, in its order; no
                report shows it.
        """
        report = GateReport(
            uuid.uuid4().hex, domain, build, green, blue, not reasons, tuple(reasons), found, self._clock()
        )
        document = {"_id": report.report_id, **report.__dict__, "reasons": reasons}
        del document["report_id"]
        if owners is not None:
            document["found"] = {name: of for name, of in found.items() if name != "movers"}
            document["movers"] = {
                name: [{"owner": key, "shown": one} for key, one in zip(owners[name], movers, strict=True)]
                for name, movers in found["movers"].items()
            }
        self._reports.insert_one(document)
        held = self._reports.find({"domain": domain}, {"_id": 1}).sort("created_at", DESCENDING)
        for old in list(held)[KEPT:]:
            self._reports.delete_one(old)
        return report

    def erase(self, owner_keys: Iterable[str]) -> None:
        """Take what these users searched for out of every report, by their owner's keys."""
        for key in owner_keys:
            theirs = {"owner": key}
            self._reports.update_many({}, {"$pull": {"movers.gained": theirs, "movers.lost": theirs}})

    def get(self, report_id: str) -> GateReport:
        """Return one report; raises NotFound."""
        return _report(self._reports.find_one({"_id": report_id}), report_id)

    def latest(self, build: str) -> GateReport:
        """Return a build's newest report; raises NotFound."""
        found = self._reports.find_one({"build": build}, sort=[("created_at", DESCENDING)])
        return _report(found, f"of build {build}")


def _report(found: Document | None, what: str) -> GateReport:
    if found is None:
        raise NotFound(f"there is no gate report {what}")
    values = {name: value for name, value in found.items() if name not in ("_id", "movers")}
    if "movers" in found:
        movers = {name: [one["shown"] for one in of] for name, of in found["movers"].items()}
        values["found"] = {**found["found"], "movers": movers}
    return GateReport(found["_id"], **{**values, "reasons": tuple(found["reasons"])})

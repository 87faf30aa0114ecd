"""LearningStore: whether a domain learns, and how fast; the brake that an operator or an alarm pulls."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pymongo.database import Database

from improvement.errors import Invalid

#: Slowest that learning may be told to go on.
LEAST_RATE = 1 / 1024


@dataclass(frozen=True)
class Learning:
    """How a domain learns now.

    Attributes:
        frozen: nothing is learned: what is logged and queued waits.
        rate: share of the domain's own learning rates, in (0, 1].
        by, why, at: who said so last, for what reason, and when (seconds since 1970).
    """

    domain: str
    frozen: bool = False
    rate: float = 1.0
    by: str = ""
    why: str = ""
    at: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return what the API shows."""
        return asdict(self)


class LearningStore:
    """Collection ``learning``: one document a domain (``_id``); none is as the domain says."""

    def __init__(self, database: Database[dict[str, Any]], clock: Callable[[], float] = time.time) -> None:
        self._learning = database["learning"]
        self._clock = clock

    def of(self, domain: str) -> Learning:
        """Return how a domain learns."""
        found = self._learning.find_one({"_id": domain})
        return Learning(domain) if found is None else _learning(found)

    def each(self, domains: Sequence[str]) -> list[Learning]:
        """Return how each of these domains learns, in their order; one round trip."""
        found = {one["_id"]: one for one in self._learning.find({"_id": {"$in": list(domains)}})}
        return [_learning(found[name]) if name in found else Learning(name) for name in domains]

    def frozen(self, domains: Iterable[str]) -> set[str]:
        """Return those of these domains that learn nothing now; one round trip."""
        found = self._learning.find({"frozen": True}, {"_id": 1})
        return {document["_id"] for document in found} & set(domains)

    def freeze(self, domain: str, by: str, why: str) -> Learning:
        """Stop learning; the rate it resumes with stays."""
        return self._say(domain, {"frozen": True, "by": by, "why": why})

    def resume(self, domain: str, by: str, why: str, rate: float | None = None) -> Learning:
        """Learn again, with this share of the domain's rates; None keeps the one it had.

        Raises:
            Invalid: the rate is out of its range.
        """
        if rate is not None and not LEAST_RATE <= rate <= 1:
            raise Invalid(f"rate: expected a number from {LEAST_RATE:.6g} to 1, got {rate!r}")
        said = {} if rate is None else {"rate": rate}
        return self._say(domain, {"frozen": False, "by": by, "why": why, **said})

    def _say(self, domain: str, what: dict[str, Any]) -> Learning:
        change = {"$set": {**what, "at": self._clock()}}
        self._learning.update_one({"_id": domain}, change, upsert=True)
        return self.of(domain)


def _learning(document: dict[str, Any]) -> Learning:
    fields = {name: document[name] for name in ("frozen", "rate", "by", "why", "at") if name in document}
    return Learning(document["_id"], **fields)

"""Alerts: what an operator must know, once: in the log, in a metric, and to a webhook if there is one."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import structlog
from pymongo import DESCENDING, UpdateOne
from pymongo.database import Database

from clickstream.store import insert_new

Document = dict[str, Any]
log = structlog.get_logger()

#: Seconds after which what is not over is told again.
AGAIN_SECONDS = 86_400.0


class Severity(StrEnum):
    """How bad it is."""

    WARNING = "warning"
    ALARM = "alarm"


@dataclass(frozen=True)
class Alert:
    """Something an operator must know.

    Attributes:
        kind: what it is about, e.g. "drift.objects"; the same kind is told once until it is over.
        facts: numbers behind it, as JSON can hold them.
    """

    domain: str
    kind: str
    severity: Severity
    message: str
    facts: dict[str, Any] = field(default_factory=dict)


class Alarm(Protocol):
    """Where alerts go."""

    def tell(self, alert: Alert) -> None:
        """Tell an alert, unless the same was told already and is not over."""
        ...

    def over(self, domain: str, kind: str) -> None:
        """Note that what an alert was about is over."""
        ...


class Hook(Protocol):
    """Where an alert is sent to, see `Webhook`."""

    def send(self, document: Mapping[str, Any]) -> bool:
        """Send it, and return whether it arrived; never raises."""
        ...


@dataclass(frozen=True)
class StoredAlert:
    """An alert as it was told last.

    Attributes:
        first_at: since when it is so, in seconds since 1970.
        at: when it was found to be so last; ``told_at``: when it was told last.
        over_at: since when it is over; None while it is not.
        sent: whether the webhook took it; None without a webhook.
    """

    alert: Alert
    first_at: float
    at: float
    told_at: float
    over_at: float | None = None
    sent: bool | None = None

    def as_json(self) -> Document:
        """Return what the API shows."""
        return _said(self.alert) | {
            "open": self.over_at is None, "first_at": self.first_at, "at": self.at, "told_at": self.told_at,
            "over_at": self.over_at, "sent": self.sent,
        }  # fmt: skip


class AlertStore:
    """Collection ``alerts``: one document a domain and kind (``_id``), as it was told last.

    Of all processes that find the same thing, one tells it. It is told again when it gets worse, and once a
    day while it is not over.
    """

    def __init__(
        self,
        database: Database[Document],
        webhook: Hook | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._alerts = database["alerts"]
        self._webhook = webhook
        self._clock = clock

    def tell(self, alert: Alert) -> None:
        """Log, store and send an alert, unless the same was told less than a day ago and is not over."""
        now, key = self._clock(), _key(alert.domain, alert.kind)
        first = {"again_at": 0.0, "open": False, "severity": Severity.WARNING.value}
        insert_new(
            lambda: self._alerts.bulk_write(
                [UpdateOne({"_id": key}, {"$setOnInsert": first}, upsert=True)], ordered=False
            )
        )
        said = _said(alert) | {"at": now}
        self._alerts.update_one({"_id": key, "open": False}, {"$set": {"first_at": now, "again_at": 0.0}})
        telling = {"$set": said | {"open": True, "told_at": now, "over_at": None, "sent": None}}
        telling["$set"] |= {"again_at": now + AGAIN_SECONDS}
        due: list[Document] = [{"again_at": {"$lte": now}}]
        if alert.severity is Severity.ALARM:
            due.append({"severity": Severity.WARNING.value})
        if not any(self._alerts.update_one({"_id": key, **when}, telling).modified_count for when in due):
            self._alerts.update_one({"_id": key}, {"$set": said})
            return
        tell = log.error if alert.severity is Severity.ALARM else log.warning
        tell("alert", domain=alert.domain, kind=alert.kind, message=alert.message, facts=said["facts"])
        if self._webhook is not None:
            sent = self._webhook.send(said | {"text": f"[{alert.severity}] {alert.domain}: {alert.message}"})
            self._alerts.update_one({"_id": key}, {"$set": {"sent": sent}})

    def over(self, domain: str, kind: str) -> None:
        """Note that what an alert was about is over; nothing if it was not told."""
        now = self._clock()
        change = {"$set": {"open": False, "over_at": now, "again_at": 0.0}}
        if self._alerts.update_one({"_id": _key(domain, kind), "open": True}, change).modified_count:
            log.info("alert is over", domain=domain, kind=kind)

    def open(self, domain: str | None = None) -> list[StoredAlert]:
        """Return what is not over, of one domain or of all, what was told last first."""
        return [one for one in self.list(domain) if one.over_at is None]

    def list(self, domain: str | None = None) -> list[StoredAlert]:
        """Return every kind of alert as it was told last, what was told last first."""
        told: Document = {"told_at": {"$exists": True}}
        found = self._alerts.find(told if domain is None else told | {"domain": domain})
        return [_stored(document) for document in found.sort("told_at", DESCENDING)]


def _key(domain: str, kind: str) -> str:
    return f"{domain}\n{kind}"  # a domain's name has no line break


def _said(alert: Alert) -> Document:
    return {
        "domain": alert.domain, "kind": alert.kind, "severity": alert.severity.value,
        "message": alert.message, "facts": _plain(alert.facts),
    }  # fmt: skip


def _plain(facts: Mapping[str, Any]) -> Document:
    """Return facts without what JSON cannot say."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in facts.items()
    }


def _stored(document: Document) -> StoredAlert:
    severity = Severity(document["severity"])
    alert = Alert(document["domain"], document["kind"], severity, document["message"], document["facts"])
    return StoredAlert(
        alert, document["first_at"], document["at"], document["told_at"], document.get("over_at"),
        document.get("sent"),
    )  # fmt: skip

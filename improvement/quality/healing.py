"""What is done about drift: freeze learning, restore the last good release, go on more slowly."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import structlog

from improvement.domain import SearchDomain
from improvement.errors import Conflict
from improvement.improver import Improver
from improvement.promotion import PromotionRooms, profiles_tick, rebuild_all, rollback
from improvement.quality.alerts import Alert, Severity
from improvement.quality.audits import Audit, AuditStore
from improvement.quality.learning import Learning, LearningStore
from improvement.quality.samples import SampleStore
from improvement.releases import Release

log = structlog.get_logger()

#: Who does what audits want done.
AUDIT = "audit"
#: Kind of the alert that says so; the next promotion or an operator's word ends it.
HEALED = "healed"
#: Why nothing is rolled back.
GOOD, NONE_GOOD = "the audits of what serves are good", "no earlier collection is known to have been good"


class HealingRooms(PromotionRooms, Protocol):
    """What going on needs; `Rooms` and `Improver` both have it."""

    @property
    def learning(self) -> LearningStore: ...
    @property
    def samples(self) -> SampleStore: ...
    @property
    def audits(self) -> AuditStore: ...


@dataclass(frozen=True)
class Restored:
    """What restoring did.

    Attributes:
        release: what serves now, by its embedding model id.
        rolled_back: whether that was another one before.
        why: why it was, or was not.
    """

    release: str
    rolled_back: bool
    why: str

    def as_json(self) -> dict[str, Any]:
        """Return what the API shows."""
        return asdict(self)


def restore(rooms: Improver, domain: SearchDomain, by: str, why: str) -> Restored:
    """Roll back to the newest earlier collection whose audits were good; have copies and profiles made anew.

    Nothing is rolled back while the audits of what serves are good, where no earlier one is known to have
    been good, or where one on the way was not kept in line, whoever asks: it lacks what was written since,
    and that, once lost, is not restored. `rollback` goes there all the same, one step at a time.

    What is made anew has moved, which is no drift: audits compare nothing older from here on. Copies and
    profiles are made at the rate at which the domain learns then; while learning is frozen they wait.

    Raises:
        Conflict: somebody is switching the domain.
    """
    rooms.samples.rebase(domain.name, _now(rooms))
    serving = rooms.releases.blue(domain.name)
    way, why_not = ([], GOOD) if _good(rooms, serving) else _way_back(rooms, domain.name)
    for _ in way:
        rollback(rooms, domain.name, by, why)
    now = rooms.releases.blue(domain.name)
    if way:
        said = f"{serving.embedding_model_id!r} is not known to be good, and {now.embedding_model_id!r} was"
    else:
        rebuild_all(rooms.releases, rooms.queue, rooms.profiles, domain.name)
        rooms.wake()
        said = why_not
    log.warning("restored", domain=domain.name, by=by, why=why, release=now.embedding_model_id, said=said)
    return Restored(now.embedding_model_id, bool(way), said)


def go_on(
    rooms: HealingRooms, domain: SearchDomain, by: str, why: str, rate: float | None = None
) -> Learning:
    """Learn again: what was logged and queued meanwhile first, and with another rate everything anew.

    How far profiles and copies move by that is no drift: audits compare nothing older.

    Raises:
        Invalid: the rate is out of its range.
    """
    before = rooms.learning.of(domain.name)
    if before.frozen or rate not in (None, before.rate):
        rooms.samples.rebase(domain.name, _now(rooms))
    now = rooms.learning.resume(domain.name, by, why, rate)
    if now.rate != before.rate:
        rebuild_all(rooms.releases, rooms.queue, rooms.profiles, domain.name)
    rooms.queue.hurry(profiles_tick(domain.name))
    rooms.alerts.over(domain.name, HEALED)
    rooms.wake()
    return now


def heal(rooms: Improver, domain: SearchDomain, audit: Audit) -> None:
    """Act upon an alarm of drift: freeze, restore, and go on with half the rate; repeating it finishes it.

    Where an operator has frozen learning meanwhile, it is left to them. No drift since before this is healed
    once more, see `audit.audit`.
    """
    name, learning = domain.name, rooms.learning.of(domain.name)
    why = "; ".join(finding.message for finding in audit.alarmed("drift."))[:1_000] or "drift"
    if learning.frozen and learning.by != AUDIT:
        rooms.audits.healed(audit, f"left to {learning.by}, who froze learning")
        return
    rooms.learning.freeze(name, AUDIT, why)
    rooms.samples.rebase(name, audit.at)  # before the rate halves: who reads that rate finds this, too
    try:
        restored = restore(rooms, domain, AUDIT, why)
    except Conflict as refused:  # somebody is switching: the next run goes on
        log.warning("healing waits", domain=name, reason=str(refused))
        return
    rooms.learning.resume(name, AUDIT, why, audit.heal_rate)
    rebuild_all(rooms.releases, rooms.queue, rooms.profiles, name)
    rooms.wake()
    back = f"rolled back to {restored.release!r}" if restored.rolled_back else "nothing rolled back"
    done = f"learning was frozen, {back} ({restored.why}), and goes on with rate {audit.heal_rate}"
    rooms.alerts.tell(Alert(name, HEALED, Severity.WARNING, f"{why}: {done}"))
    rooms.audits.healed(audit, done)


def _good(rooms: Improver, release: Release) -> bool:
    audit = rooms.audits.latest(release.domain, release.collection_id)
    return audit is not None and audit.release_good


def _way_back(rooms: Improver, domain: str) -> tuple[list[Release], str]:
    """Return the collections on the way back, the last of them good; or none, and why."""
    there = {release.collection_id: release for release in rooms.releases.list(domain)}
    way: list[Release] = []
    at = rooms.releases.blue(domain).collection_id
    while (promotion := rooms.releases.promotions.latest(domain, at)) is not None:
        previous = there.get(promotion.previous or "")
        if previous is None or previous in way:
            break
        way.append(previous)
        if _good(rooms, previous):
            behind = next((one for one in way if not one.follows), None)
            if behind is None:
                return way, ""
            which = "it" if behind is previous else repr(behind.embedding_model_id)
            return [], (
                f"{previous.embedding_model_id!r} was good, but {which} was not kept in line with what "
                "serves and lacks what was written since"
            )
        at = previous.collection_id
    return [], NONE_GOOD


def _now(rooms: HealingRooms) -> float:
    return rooms.releases.promotions.clock()

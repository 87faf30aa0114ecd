"""What is done about drift of the towers: freeze, go back to the last good checkpoint, go on more slowly."""

from dataclasses import replace
from itertools import takewhile

import structlog

from improvement.domain import SearchDomain
from improvement.errors import Conflict
from improvement.improver import Improver
from improvement.quality.alerts import Alert, Severity
from improvement.quality.audits import Audit
from improvement.quality.healing import AUDIT, HealingRooms
from improvement.quality.learning import Learning
from improvement.two_tower.names import BEGUN, towers_name
from improvement.two_tower.vital_signs import DRIFT

log = structlog.get_logger()

#: Kind of the alert that says what was done; it is over a good day later, or when an operator says a word.
HEALED = "towers.healed"
#: Latest audits that are asked whether what serves is good; more than a day has.
EARLIER = 100


def heal_towers(rooms: Improver, domain: SearchDomain, audit: Audit) -> Audit:
    """Act upon an alarm of drift; repeating it finishes it; return the audit with what was done.

    Learning is frozen, the towers go back to the last good checkpoint, and learning goes on with the rate
    that the audit wrote down: half of what it was then. A checkpoint that served when drift was alarming, and
    was not known to be good before, is to blame, and judged bad; one that was known to be good serves on,
    without what engagement moved since. Where another one serves by now, which nobody blames, the audited one
    is judged bad, and all that came of it but for what serves; nothing else is done. Learning that anybody
    else has frozen is left to them.
    """
    from improvement.two_tower.reverting import revert_towers  # torch is for whoever heals

    name = towers_name(domain.name)
    why = "; ".join(finding.message for finding in audit.alarmed(DRIFT))[:1_000] or "drift"
    for brake in (rooms.learning.of(name), rooms.learning.of(domain.name)):
        if brake.frozen and brake.by != AUDIT:
            return _done(rooms, audit, f"left to {brake.by}, who froze learning")
    serving = rooms.towers.serving(domain.name)
    begun = rooms.learning.of(name).frozen  # by an audit that died behind it
    if not begun and serving is not None and serving.checkpoint_id != audit.space:
        rooms.checkpoints.judge_bad(audit.space, but=serving.checkpoint_id)
        return _done(rooms, audit, f"checkpoint {audit.space[:12]} was judged bad; it serves no longer")
    rooms.learning.freeze(name, AUDIT, why)
    blamed = _blamed(rooms, domain, audit)
    try:
        release = revert_towers(rooms, domain, AUDIT, why)
    except Conflict as refused:  # somebody is switching, or training: the next run goes on
        log.warning("healing waits", domain=name, reason=str(refused))
        return audit
    rooms.samples.rebase(name, max(audit.at, rooms.clock()))  # what was put back has moved, which is no drift
    rooms.learning.resume(name, AUDIT, why, audit.heal_rate)
    left = f"checkpoint {audit.space[:12]} was judged bad" if blamed else "what engagement moved was undone"
    done = (
        f"learning was frozen, {left}, {release.space[:12]} serves, and learning goes on with rate "
        f"{audit.heal_rate}"
    )
    rooms.alerts.tell(Alert(domain.name, HEALED, Severity.WARNING, f"{why}: {done}"))
    log.warning("towers healed", domain=domain.name, checkpoint=release.space, blamed=blamed, why=why)
    return _done(rooms, audit, done)


def go_on_towers(
    rooms: HealingRooms, domain: SearchDomain, by: str, why: str, rate: float | None = None
) -> Learning:
    """Have a domain's towers learn again, with this share of the domain's rates; None keeps the one they had.

    What was logged meanwhile is caught up with; how far that moves vectors is no drift.

    Raises:
        Invalid: the rate is out of its range.
    """
    name = towers_name(domain.name)
    if rooms.learning.of(name).frozen:
        rooms.samples.rebase(name, rooms.releases.promotions.clock())
    learning = rooms.learning.resume(name, by, why, rate)
    if (due := rooms.audits.due(name)) is not None:  # they have decided what is done about it
        rooms.audits.healed(due, f"left to {by}, who had learning go on")
    rooms.alerts.over(domain.name, HEALED)
    return learning


def judge_served(rooms: Improver, domain: SearchDomain, audit: Audit, least_seconds: float) -> None:
    """Judge the checkpoint that serves good, if its audits were that for so long.

    Args:
        least_seconds: since the first of these audits.
    """
    if not audit.release_good or not audit.space or rooms.checkpoints.get(audit.space).good is not None:
        return
    served = (one for one in rooms.audits.list(audit.domain, EARLIER) if one.collection == audit.collection)
    if any(one.at <= audit.at - least_seconds for one in takewhile(lambda one: one.release_good, served)):
        rooms.checkpoints.judge(audit.space, True)
        log.info("checkpoint judged good", domain=domain.name, checkpoint=audit.space)


def _blamed(rooms: Improver, domain: SearchDomain, audit: Audit) -> bool:
    """Judge the checkpoint that served bad, unless it was known to be good, or has learned nothing yet."""
    known = {one.checkpoint_id: one for one in rooms.checkpoints.list(domain.name)}
    served = known.get(audit.space)
    if served is None or served.good is True or served.trained == BEGUN:
        return False
    rooms.checkpoints.judge(audit.space, False)  # first: whoever dies behind it does not revert to it
    return True


def _done(rooms: Improver, audit: Audit, what: str) -> Audit:
    rooms.audits.healed(audit, what)
    return replace(audit, healing=what)

"""What a worker does for the towers' collections: publish what is due, gate it, promote it, tend to them."""

import structlog

from improvement.domain import SearchDomain
from improvement.errors import Conflict
from improvement.green.reports import GateReport
from improvement.green.rule import HOUR, is_fresh
from improvement.improver import Improver
from improvement.quality.alerts import Alert, Severity
from improvement.releases import Release
from improvement.two_tower.damaged import damage, tell_damage
from improvement.two_tower.following import TowerFollowing
from improvement.two_tower.lineage import frozen
from improvement.two_tower.names import towers_name
from improvement.two_tower.progress import Hold, LostTraining, TrainingState
from improvement.two_tower.publishing import publish
from improvement.two_tower.sound import give_up, sound_head
from improvement.two_tower.switching import (
    GATE,
    against_serving,
    candidate,
    drop_unserved,
    finish_tower_switch,
    newest_report,
    promote_towers,
)
from improvement.two_tower.tower_gate import TooFewYet, run_tower_gate

log = structlog.get_logger()

#: Who promotes what passed its gate.
BY = "towers"
#: Seconds between two comparisons of everything, and after one that failed.
TEND_SECONDS, RETRY_SECONDS = 3_600.0, 60.0
#: Seconds between two looks whether a gate that waits can say something.
GATE_SECONDS = 300.0
#: Times ``publish_hours`` after which what cannot be tested makes room for something newer.
PATIENCE = 3
#: What is to be done where what serves cannot be read.
UNREADABLE = (
    "It serves: items are found as before, vectors of users cannot be made anew. Restore the store, or run "
    "`towers revert`; else the next checkpoint that is better than untrained towers takes its place"
)


def publish_due(rooms: Improver, domain: SearchDomain) -> int:
    """Publish the newest checkpoint if that is due; gate it; promote what passed; return what was done.

    It is due ``publish_hours`` after the last publication, or when an operator asks. What is published
    follows, and is gated every `GATE_SECONDS` until its gate can say something, which takes users who came
    back. Only then a newer checkpoint takes its place, for one that is replaced all the time is never tested;
    or after `PATIENCE` times ``publish_hours``, or when an operator asks. What keeps the gate waiting is told
    after ``publish_hours``. Nothing is done while learning is frozen.

    A checkpoint that cannot be read is told, and does not wait for its gate any longer; where it is the
    newest, the nearest before it takes its place.

    Returns:
        How many publications, gates and promotions were done.

    Raises:
        LostTraining: another worker has the domain's towers.
    """
    assert domain.towers is not None
    serving, state = rooms.towers.serving(domain.name), rooms.training.of(domain.name)
    if serving is None or state.head is None:
        return 0
    if (error := damage(rooms, serving.checkpoint_id)) is not None:
        tell_damage(rooms, domain, serving.checkpoint_id, error, UNREADABLE)
    if state.head == serving.checkpoint_id and candidate(rooms, domain) is None and not state.publish_asked:
        return 0
    if frozen(rooms, domain):
        return 0
    with rooms.training.held(domain.name, rooms.tower_lease) as hold:
        if hold is None:
            raise LostTraining(f"the towers of {domain.name!r} are another worker's")
        asked = hold.state.publish_asked
        _drop_damaged(rooms, domain)
        done = _publish(rooms, domain, hold)
        green = candidate(rooms, domain)
        if green is None:
            return done
        return done + _gate(rooms, domain, green, hold, at_once=asked or done > 0)


def tend_releases(rooms: Improver, domain: SearchDomain) -> int:
    """Finish switches whose maker died; once an hour bring the towers' collections in line.

    A collection lacks what could not be made for it when it came, and what somebody wrote who died half-way,
    or could not bring because a checkpoint was unreadable.

    Returns:
        How many of these there were to do.
    """
    done = int(finish_tower_switch(rooms, domain))
    tick = f"towers followers {domain.name}"
    if not rooms.queue.take_tick(tick, TEND_SECONDS):
        return done
    try:
        following = TowerFollowing(rooms.releases, rooms.vectors, rooms.mirror, rooms.towers, rooms.entries)
        source, brought = rooms.releases.blue(domain.name), 0
        for release in rooms.towers.releases_of(domain.name):
            for ids in rooms.mirror.differing(source, release):
                following.bring(domain, ids)
                brought += len(ids)
    except BaseException:
        rooms.queue.hurry(tick, RETRY_SECONDS)
        raise
    if brought:
        log.info("towers compared", domain=domain.name, differed=brought)
    return done + 1


def _publish(rooms: Improver, domain: SearchDomain, hold: Hold) -> int:
    """Publish the newest checkpoint if that is due, or go on with one that is not finished."""
    serving, green, state = (
        rooms.releases.blue(towers_name(domain.name)),
        candidate(rooms, domain),
        hold.state,
    )
    assert state.head is not None
    head = sound_head(rooms, domain, hold)
    if green is not None and not green.index_created:
        begun = publish(rooms, domain, green.space, hold.keep_on)
    elif not _is_due(rooms, domain, green, hold):
        if state.publish_asked:
            hold.save(publish_asked=False)
        return 0
    else:
        if (error := damage(rooms, head)) is not None:
            give_up(rooms, domain, hold, error)
            return 0
        begun = publish(rooms, domain, head, hold.keep_on)
    drop_unserved(rooms, domain, begun.space)
    hold.save(published_at=rooms.training.clock(), publish_asked=False)
    log.info("checkpoint published", domain=domain.name, checkpoint=begun.space, serving=serving.space)
    return 1


def _is_due(rooms: Improver, domain: SearchDomain, green: Release | None, hold: Hold) -> bool:
    assert domain.towers is not None
    state = hold.state
    taken = {rooms.releases.blue(towers_name(domain.name)).space, *([] if green is None else [green.space])}
    if state.head is None or state.head in taken or rooms.towers.checkpoint(state.head).good is False:
        return False
    if state.publish_asked:
        return True
    if not _waited(rooms, domain, state):
        return False
    if green is None or newest_report(rooms, green.space) is not None:
        return True
    return _waited(rooms, domain, state, PATIENCE)


def _waited(rooms: Improver, domain: SearchDomain, state: TrainingState, times: float = 1) -> bool:
    """Say whether that many times ``publish_hours`` have passed since the last publication."""
    assert domain.towers is not None
    seconds = times * domain.towers.publish_hours * HOUR
    return not 0 <= rooms.training.clock() - state.published_at < seconds  # clocks differ


def _drop_damaged(rooms: Improver, domain: SearchDomain) -> None:
    green = candidate(rooms, domain)
    if green is not None and (error := damage(rooms, green.space)) is not None:
        what = "It waited to serve, and is not tested any more; a newer one is published when that is due"
        tell_damage(rooms, domain, green.space, error, what)
        drop_unserved(rooms, domain)


def _gate(rooms: Improver, domain: SearchDomain, green: Release, hold: Hold, at_once: bool) -> int:
    """Gate what was published unless that was done, and have it serve if it passed and the domain says so.

    Args:
        at_once: else a gate that had too few users is left alone for `GATE_SECONDS`.
    """
    assert domain.towers is not None
    report, done = newest_report(rooms, green.space), 0
    if report is None or _is_stale(rooms, domain, report):
        if not (rooms.queue.take_tick(f"towers gate {domain.name}", GATE_SECONDS) or at_once):
            return 0
        try:
            report = run_tower_gate(rooms, domain, green.space, progress=hold.keep_on)
        except TooFewYet as waits:
            log.debug("the towers' gate waits", domain=domain.name, reason=str(waits))
            if _waited(rooms, domain, hold.state):
                message = f"checkpoint {green.space[:12]} cannot be tested, and so does not serve: {waits}"
                rooms.alerts.tell(Alert(domain.name, GATE, Severity.WARNING, message))
            return 0
        done = 1
    if not report.passed:
        message = f"checkpoint {green.space[:12]} does not serve: {'; '.join(report.reasons)}"
        rooms.alerts.tell(Alert(domain.name, GATE, Severity.WARNING, message))
        return done
    rooms.alerts.over(domain.name, GATE)
    if not domain.towers.auto_promote or against_serving(rooms, domain, green.space, report):
        return done
    if frozen(rooms, domain):  # somebody pulled the brake while it was tested
        return done
    try:
        promote_towers(rooms, domain, green.space, BY, progress=hold.keep_on)
    except Conflict as reason:  # somebody is switching, or objects cannot be made: the next tick sees
        log.warning("towers not promoted", domain=domain.name, reason=str(reason))
        return done
    return done + 1


def _is_stale(rooms: Improver, domain: SearchDomain, report: GateReport) -> bool:
    """Say whether a report tells nothing about now: too old, or another collection serves."""
    serving, now = rooms.releases.blue(towers_name(domain.name)), rooms.releases.promotions.clock()
    return report.blue != serving.collection_id or not is_fresh(report, domain.gate.fresh_hours, now)

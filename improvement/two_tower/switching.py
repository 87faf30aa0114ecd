"""Promote and roll back towers: one alias call switches the items and the model that finds them.

Every function may be repeated after it died anywhere. All that a towers' collection holds is made of the
catalogue, so one that is to serve is brought in line with it whatever it lacks, and nothing is lost when one
is deleted. Users' own vectors are of the space that served before: the worker reads their histories anew, for
their entries name that space.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from improvement.domain import SearchDomain
from improvement.errors import Conflict, NotFound
from improvement.green.mirror import PAGE
from improvement.green.reports import GateReport
from improvement.green.rule import reasons_against
from improvement.improver import Improver
from improvement.promotion import GRACE, MAX_BY, MAX_WHY, SHOWN, said
from improvement.promotion_log import Hold, last_served
from improvement.releases import Release
from improvement.two_tower.damaged import DAMAGED
from improvement.two_tower.names import towers_name
from improvement.two_tower.unmoved import unmove

log = structlog.get_logger()

#: Kind of the alert that a checkpoint's gate is against it, or cannot say anything; the next switch ends it.
GATE = "towers.gate"
#: Called with how many objects were brought.
Progress = Callable[[int], object]


def promote_towers(
    rooms: Improver,
    domain: SearchDomain,
    checkpoint_id: str,
    by: str,
    force: str | None = None,
    progress: Progress = lambda count: None,
) -> Release:
    """Have a checkpoint's collection serve, if its gate lets it: one alias call switches items and model.

    Args:
        by: who asks.
        force: why to do it although the gate is against it; None does not. It is kept.
        progress: called again and again with how many objects were brought, or 0.

    Raises:
        Conflict: its gate is against it, more objects than the gate lets be missing cannot be made for it, no
            towers serve yet, or somebody else is switching.
        NotFound: it is not published.
        Invalid: ``by`` or ``force`` is empty or too long.
    """
    who, why = said("by", by, MAX_BY), None if force is None else said("force", force, MAX_WHY)
    name = towers_name(domain.name)
    with _switching(rooms, name, who, progress) as hold:
        _settle(rooms, name)
        if rooms.towers.serving(domain.name) is None:
            raise Conflict(f"domain {domain.name!r} has no towers that serve yet; a worker begins them first")
        green = rooms.releases.get(name, checkpoint_id)
        if not green.blue:
            _switch(rooms, domain, green, who, why, hold)
        _finish(rooms, domain, hold)
    return rooms.releases.blue(name)


def rollback_towers(
    rooms: Improver,
    domain: SearchDomain,
    by: str,
    why: str | None = None,
    progress: Progress = lambda count: None,
) -> Release:
    """Have the collection, and with it the model, serve again that served before: one alias call.

    What served until now is judged bad, and all that came of it: none of these is published, or reverted to,
    again, and those of their collections that never served are deleted. Where a rollback
    died behind its switch, it is finished, and nothing is rolled back once more.

    Raises:
        Conflict: there is none to roll back to, or somebody else is switching.
        NotFound, Unavailable: its checkpoint is gone, or damaged.
        Invalid: ``by`` or ``why`` is empty or too long.
    """
    who, reason = said("by", by, MAX_BY), "" if why is None else said("why", why, MAX_WHY)
    name = towers_name(domain.name)
    with _switching(rooms, name, who, progress) as hold:
        _settle(rooms, name)
        if rooms.towers.serving(domain.name) is None:
            raise Conflict(f"domain {domain.name!r} has no towers that serve yet: nothing to roll back")
        left = rooms.releases.blue(name)
        died = rooms.releases.promotions.unfinished(name)
        if died is None or died.undone_at is None or died.previous != left.collection_id:
            earlier = rooms.releases.earlier(name)
            rooms.towers.tower(earlier.space)  # before anything is changed, as in a promotion
            _catch_up(rooms, domain, earlier, hold)
            # Before the switch: whoever writes after it finds out whom else to tell.
            rooms.releases.follow(left, domain.towers is not None and domain.towers.keep_previous > 0)
            rooms.checkpoints.judge_bad(left.space, but=earlier.space)
            hold()
            rooms.releases.rollback(name, who, reason)
            log.warning(
                "towers rolled back", domain=domain.name, checkpoint=earlier.space, by=who, why=reason
            )
        _finish(rooms, domain, hold)
    return rooms.releases.blue(name)


def finish_tower_switch(rooms: Improver, domain: SearchDomain) -> bool:
    """Finish a switch whose maker died; return whether there was one, and its maker is not at it any more."""
    name = towers_name(domain.name)
    if rooms.releases.promotions.unfinished(name) is None:
        return False
    try:
        with rooms.releases.promotions.switching(name, "a worker") as hold:
            _settle(rooms, name)
            _finish(rooms, domain, hold)
    except Conflict as reason:
        log.info("a switch is left to be finished", domain=name, reason=str(reason))
        return False
    return True


def drop_unserved(rooms: Improver, domain: SearchDomain, but: str | None = None) -> int:
    """Delete the towers' collections that never served, but for one checkpoint's; return how many."""
    name, dropped = towers_name(domain.name), 0
    with rooms.releases.promotions.switching(name, "a worker") as hold:
        served = last_served(rooms.releases.history(name))
        for release in rooms.releases.list(name):
            if not release.blue and release.collection_id not in served and release.space != but:
                hold()
                rooms.releases.delete(name, release.embedding_model_id)
                dropped += 1
                log.info("unpromoted towers deleted", domain=domain.name, checkpoint=release.space)
    return dropped


def candidate(rooms: Improver, domain: SearchDomain) -> Release | None:
    """Return the newest towers' collection that was made to serve and never did; None without any.

    Those of checkpoints that were judged bad do not count.
    """
    name = towers_name(domain.name)
    served = last_served(rooms.releases.history(name))
    waiting = [
        one for one in rooms.releases.list(name)
        if one.follows and not one.blue and one.collection_id not in served
        and not _is_bad(rooms, one.space)
    ]  # fmt: skip
    return waiting[-1] if waiting else None


def newest_report(rooms: Improver, checkpoint_id: str) -> GateReport | None:
    """Return what the newest gate of a checkpoint found; None if none has tested it."""
    try:
        return rooms.reports.latest(checkpoint_id)
    except NotFound:
        return None


def against_serving(
    rooms: Improver, domain: SearchDomain, checkpoint_id: str, report: GateReport | None
) -> list[str]:
    """Return why a published checkpoint may not serve now, one sentence each; none if it may."""
    name = towers_name(domain.name)
    green, blue = rooms.releases.get(name, checkpoint_id), rooms.releases.blue(name)
    now = rooms.releases.promotions.clock()
    return reasons_against(report, checkpoint_id, green, blue, domain.gate.fresh_hours, now)


def _switch(
    rooms: Improver, domain: SearchDomain, green: Release, by: str, force: str | None, hold: Hold
) -> None:
    assert domain.towers is not None
    blue, report = rooms.releases.blue(green.domain), newest_report(rooms, green.space)
    against = against_serving(rooms, domain, green.space, report)
    if against and force is None:
        raise Conflict(
            f"checkpoint {green.space} may not serve: {'. '.join(against)}. Run `towers gate` and look at "
            f'what it found, or promote it with --force "why"'
        )
    rooms.towers.tower(green.space)  # before anything is changed: one that cannot be read must not serve
    missing = _catch_up(rooms, domain, green, hold, serving=blue)
    held = rooms.vectors.count(blue.collection_id, None)
    if len(missing) > domain.gate.most_missing * held:
        some = "; ".join(f"{object_id!r}: {why}" for object_id, why in list(missing.items())[:SHOWN])
        against = [*against, f"{len(missing)} objects of what serves cannot be made for it, such as {some}"]
        if force is None:
            raise Conflict(f"checkpoint {green.space} may not serve: {against[-1]}")
    # Before the switch: whoever writes after it finds out whom else to tell.
    rooms.releases.follow(blue, domain.towers.keep_previous > 0)
    hold()
    rooms.releases.set_blue(
        green.domain, green.embedding_model_id, by=by, build=green.space,
        report_id=report.report_id if report else None,
        forced=None if force is None else {"why": force, "reasons": against},
    )  # fmt: skip
    log.info("towers promoted", domain=domain.name, checkpoint=green.space, by=by, forced=force is not None)


@contextmanager
def _switching(rooms: Improver, name: str, by: str, progress: Progress) -> Iterator[Hold]:
    """Hold the switch of a domain's towers, and call progress whenever it is held on to."""
    with rooms.releases.promotions.switching(name, by) as hold:

        def both(count: int = 0) -> None:
            hold(count)
            progress(count)

        yield both


def _is_bad(rooms: Improver, checkpoint_id: str) -> bool:
    try:
        return rooms.towers.checkpoint(checkpoint_id).good is False
    except NotFound:
        return False


def _catch_up(
    rooms: Improver, domain: SearchDomain, target: Release, hold: Hold, serving: Release | None = None
) -> dict[str, str]:
    """Bring what is to serve in line with the catalogue, to the last write.

    What served before is put back to where its checkpoint has it.

    Returns:
        Which objects that ``serving`` holds cannot be made for it, and why; they are taken out of it, for as
        it holds them they are old.
    """
    rooms.releases.follow(target, True)
    if target.collection_id in last_served(rooms.releases.history(target.domain)):
        unmove(rooms, domain, rooms.releases.blue(domain.name), target, hold)
    while True:
        source = rooms.releases.blue(domain.name)
        failed = dict(rooms.mirror.reconcile(domain, source, target, hold).failed)
        unmade = list(failed)
        for start in range(0, len(unmade), PAGE):
            rooms.mirror.bring(domain, source, target, unmade[start : start + PAGE], keeping=False)
            hold()
        if rooms.releases.serving(domain.name).collection_id == source.collection_id:
            break
    if serving is None or not failed:
        return {}
    held = rooms.vectors.revisions(serving.collection_id, failed)
    return {object_id: why for object_id, why in failed.items() if object_id in held}


def _settle(rooms: Improver, name: str) -> None:
    """Write down what whoever died behind the latest switch did not."""
    serving = next((one.collection_id for one in rooms.releases.list(name) if one.blue), None)
    if half := rooms.releases.promotions.half_undone(name, serving):
        rooms.releases.promotions.undone(half)


def _finish(rooms: Improver, domain: SearchDomain, hold: Hold) -> None:
    """Do all that follows a switch, forwards or back."""
    name, promotions = towers_name(domain.name), rooms.releases.promotions
    _settle(rooms, name)
    rooms.alerts.over(domain.name, GATE)
    rooms.alerts.over(domain.name, DAMAGED)
    rooms.releases.mark_rebuilt(name)  # there are no copies in towers' collections
    _drop_old(rooms, domain, hold)
    promotions.mark_finished(name)


def _drop_old(rooms: Improver, domain: SearchDomain, hold: Hold) -> None:
    """Delete collections that served, but for the latest ``keep_previous``, and bad ones that never did."""
    assert domain.towers is not None
    name = towers_name(domain.name)
    left = last_served(rooms.releases.history(name))
    served = [one for one in rooms.releases.list(name) if one.collection_id in left and not one.blue]
    bad = [one for one in rooms.releases.list(name) if one.collection_id not in left and not one.blue]
    for release in [one for one in bad if _is_bad(rooms, one.space)]:
        hold()
        rooms.releases.delete(name, release.embedding_model_id)
        log.info("bad towers deleted", domain=domain.name, checkpoint=release.space)
    served.sort(key=lambda one: left[one.collection_id], reverse=True)
    for release in served[domain.towers.keep_previous :]:
        since = rooms.releases.promotions.clock() - left[release.collection_id].at
        time.sleep(min(GRACE, max(0.0, GRACE - since)))  # searches may still be reading it
        hold()
        rooms.releases.delete(name, release.embedding_model_id)
        log.info("towers deleted", domain=domain.name, checkpoint=release.space)

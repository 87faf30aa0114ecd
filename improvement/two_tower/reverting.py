"""Revert towers: back to the last checkpoint known to be good, as it was before engagement moved anything."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from improvement.domain import SearchDomain
from improvement.errors import Conflict, NotFound
from improvement.improver import Improver
from improvement.promotion import MAX_BY, MAX_WHY, said
from improvement.releases import Release
from improvement.two_tower.names import BEGUN, towers_name
from improvement.two_tower.progress import Hold
from improvement.two_tower.publishing import PAGE, publish
from improvement.two_tower.recomputing import recompute_stale
from improvement.two_tower.resetting import forget_moves
from improvement.two_tower.sound import is_whole
from improvement.two_tower.switching import drop_unserved, promote_towers, rollback_towers
from improvement.two_tower.untrained import begun_checkpoint

log = structlog.get_logger()

#: Seconds for which a worker that trains is waited for, and between two looks whether it still does.
PATIENCE, PAUSE = 30.0, 0.25


def revert_towers(rooms: Improver, domain: SearchDomain, by: str, why: str) -> Release:
    """Go back to the last checkpoint known to be good, without what engagement moved; train on from it.

    That is the newest that served, was judged good, and whose collection is there and kept in line; where it
    serves, it goes on serving. If none is known to be good, it is the untrained one that everything began
    with, made and published anew if need be. What it left is judged bad, and all that came of it; what waited
    to serve is deleted. The log and the training pairs stay: what is learned next is learned on top of the
    good one. Repeating it changes nothing more.

    Raises:
        Conflict: no towers serve, somebody else is switching, or a worker trains for too long.
        Invalid: ``by`` or ``why`` is empty or too long.
    """
    who, reason = said("by", by, MAX_BY), said("why", why, MAX_WHY)
    name = towers_name(domain.name)
    if rooms.towers.serving(domain.name) is None:
        raise Conflict(f"domain {domain.name!r} has no towers that serve yet: nothing to revert")
    with _held(rooms, domain) as hold:
        good = _last_good(rooms, domain) or _first(rooms, domain, hold)
        left = rooms.releases.blue(name)
        hold.save(head=good, reason=None)
        if left.space != good:
            rooms.checkpoints.judge_bad(left.space, but=good)
            _go_back(rooms, domain, good, who, reason, hold)
        drop_unserved(rooms, domain)
        undo_moves(rooms, domain, hold)
    log.warning("towers reverted", domain=domain.name, checkpoint=good, by=who, why=reason)
    return rooms.releases.blue(name)


def undo_moves(rooms: Improver, domain: SearchDomain, hold: Hold) -> int:
    """Give every item the vector again that the serving checkpoint made of it; return how many had another.

    What engagement moves meanwhile stays moved: freeze learning first.
    """
    source, after = rooms.releases.blue(domain.name), None
    while True:
        page, after = rooms.vectors.revision_page(source.collection_id, PAGE, after)
        forget_moves(rooms.entries, domain.name, page)
        hold.keep_on()
        if after is None:
            break
    found = recompute_stale(rooms, domain, hold.keep_on)
    hold.keep()
    return found.stale


def _last_good(rooms: Improver, domain: SearchDomain) -> str | None:
    name = towers_name(domain.name)
    there = {one.collection_id: one for one in rooms.releases.list(name) if one.blue or one.follows}
    known = [one.checkpoint_id for one in rooms.checkpoints.list(domain.name) if one.good]
    good = {one for one in known if is_whole(rooms, one)}
    for promotion in rooms.releases.history(name):  # the newest first
        for collection in (promotion.current, promotion.previous):
            release = there.get(collection or "")
            if release is not None and release.space in good:
                return release.space
    return None


def _first(rooms: Improver, domain: SearchDomain, hold: Hold) -> str:
    """Return the untrained checkpoint, published; that of the lineage that serves, if it can be read."""
    known = {one.checkpoint_id: one for one in rooms.checkpoints.list(domain.name)}
    serving = known.get(rooms.releases.blue(towers_name(domain.name)).space)
    begun = [one for one in known.values() if one.trained == BEGUN and is_whole(rooms, one.checkpoint_id)]
    begun.sort(key=lambda one: serving is not None and one.lineage == serving.lineage)
    first = begun[-1].checkpoint_id if begun else begun_checkpoint(rooms, domain)
    try:
        release = rooms.releases.get(towers_name(domain.name), first)
    except NotFound:
        release = None
    if release is None or not (release.blue or release.follows):
        publish(rooms, domain, first, hold.keep_on)
    return first


def _go_back(rooms: Improver, domain: SearchDomain, good: str, by: str, why: str, hold: Hold) -> None:
    """Roll back if that leads there, else promote it, against any gate."""
    try:
        earlier = rooms.releases.earlier(towers_name(domain.name)).space
    except Conflict:
        earlier = None
    if earlier == good:
        rollback_towers(rooms, domain, by, why, hold.keep_on)
    else:
        promote_towers(rooms, domain, good, by, why, hold.keep_on)


@contextmanager
def _held(rooms: Improver, domain: SearchDomain) -> Iterator[Hold]:
    """Hold a domain's training, waiting for whoever has it."""
    until = time.monotonic() + PATIENCE
    while True:
        with rooms.training.held(domain.name, rooms.tower_lease) as hold:
            if hold is not None:
                yield hold
                return
        if time.monotonic() > until:
            raise Conflict(
                f"a worker trains the towers of domain {domain.name!r} just now; try again later, or freeze "
                "their learning first"
            )
        time.sleep(PAUSE)

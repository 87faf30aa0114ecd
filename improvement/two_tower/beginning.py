"""Begin a domain's towers: untrained ones, made of the catalogue's own texts, that serve at once."""

import structlog

from improvement.domain import SearchDomain
from improvement.errors import NotFound
from improvement.improver import Improver
from improvement.promotion_log import serving_last
from improvement.releases import Release
from improvement.two_tower.names import towers_name
from improvement.two_tower.progress import Hold, LostTraining
from improvement.two_tower.publishing import publish
from improvement.two_tower.untrained import SAMPLE, begun_checkpoint

log = structlog.get_logger()

#: Who has the first towers serve.
BY = "towers"
#: Why no gate is asked.
WHY = "no towers served: there was nothing to test these against"


def begin_when_settled(rooms: Improver, domain: SearchDomain) -> int:
    """Begin a domain's towers as `begin_towers` does, once its catalogue does not grow under our hands.

    That is when it has `SAMPLE` objects, or as many as at the tick before: the objects that are there now
    decide for good what the projection keeps.
    """
    if rooms.towers.serving(domain.name) is not None:
        return 0
    count = rooms.vectors.count(rooms.releases.blue(domain.name).collection_id, None)
    tick = f"towers objects {domain.name}"
    rooms.queue.take_tick(tick, 0.0)  # it keeps how far a job has come
    before = rooms.queue.reached(tick)
    rooms.queue.reach(tick, count)
    return begin_towers(rooms, domain) if count >= SAMPLE or count == before else 0


def begin_towers(rooms: Improver, domain: SearchDomain) -> int:
    """Begin a domain's towers when it has objects and none serve; return how many were begun.

    The checkpoint is a function of settings and catalogue, so whoever repeats this after it was killed finds
    the same one, and finishes it. Where a checkpoint was published before and its alias was lost, that one
    serves again.

    Raises:
        LostTraining: another worker is at it.
    """
    if rooms.towers.serving(domain.name) is not None:
        return 0
    if not rooms.vectors.count(rooms.releases.blue(domain.name).collection_id, None):
        return 0
    with rooms.training.held(domain.name, rooms.tower_lease) as hold:
        if hold is None:
            raise LostTraining(f"the towers of {domain.name!r} are another worker's")
        checkpoint_id = _known(rooms, domain, hold) or begun_checkpoint(rooms, domain)
        if hold.state.head is None or not _exists(rooms, hold.state.head):
            hold.save(head=checkpoint_id)
        publish(rooms, domain, checkpoint_id, hold.keep_on)
        serve_first(rooms, domain, checkpoint_id)
        hold.save(published_at=rooms.training.clock())
    log.info("towers begun", domain=domain.name, checkpoint=checkpoint_id)
    return 1


def serve_first(rooms: Improver, domain: SearchDomain, checkpoint_id: str) -> Release:
    """Have a published checkpoint serve where none does; the promotion log says why no gate was asked."""
    name = towers_name(domain.name)
    with rooms.releases.promotions.switching(name, BY):
        release = rooms.releases.set_blue(
            name, checkpoint_id, by=BY, build=checkpoint_id, forced={"why": WHY, "reasons": []}
        )
        rooms.releases.mark_rebuilt(name)  # of towers there are no copies
        rooms.releases.promotions.mark_finished(name)
    return release


def _known(rooms: Improver, domain: SearchDomain, hold: Hold) -> str | None:
    """Return the checkpoint that served last, or else the newest; None without any."""
    name = towers_name(domain.name)
    served = serving_last(rooms.releases.history(name))
    spaces = [one.space for one in rooms.releases.list(name) if one.collection_id == served]
    known = [*spaces, *([hold.state.head] if hold.state.head else [])]
    return next((one for one in known if _exists(rooms, one)), None)


def _exists(rooms: Improver, checkpoint_id: str) -> bool:
    try:
        rooms.towers.checkpoint(checkpoint_id)
    except NotFound:
        return False
    return True

"""Which checkpoint training goes on from: one that can be read, and is not known to be bad."""

import structlog

from improvement.domain import SearchDomain
from improvement.errors import NotFound, Unavailable
from improvement.improver import Improver
from improvement.two_tower.damaged import tell_damage
from improvement.two_tower.lineage import Resumed, resumed
from improvement.two_tower.progress import Hold

log = structlog.get_logger()


def go_on(rooms: Improver, domain: SearchDomain, hold: Hold) -> Resumed:
    """Return the training that goes on from the head, or from what is sound before it.

    A head that was judged bad, or that cannot be read (an alarm tells that), is given up for the nearest of
    its ancestors that is neither, and at worst for untrained towers.
    """
    while True:
        head = sound_head(rooms, domain, hold)
        try:
            return resumed(rooms, domain, head)
        except (NotFound, Unavailable) as error:
            give_up(rooms, domain, hold, str(error))


def sound_head(rooms: Improver, domain: SearchDomain, hold: Hold) -> str:
    """Return the head, after it was given up if it was judged bad, or is gone."""
    head = hold.state.head
    assert head is not None
    try:
        if rooms.checkpoints.get(head).good is not False:
            return head
    except NotFound as error:
        return give_up(rooms, domain, hold, str(error))
    before = _before(rooms, domain, head)
    hold.save(head=before)
    log.warning("training goes back from what is bad", domain=domain.name, checkpoint=before, bad=head)
    return before


def give_up(rooms: Improver, domain: SearchDomain, hold: Hold, error: str) -> str:
    """Go back from a head that cannot be read, and tell it; return the new head."""
    head = hold.state.head
    assert head is not None
    before = _before(rooms, domain, head)
    what = (
        f"Training goes on from checkpoint {before}, and what was learned between the two is lost. "
        "Look at the store: it lost or changed some of its content"
    )
    tell_damage(rooms, domain, head, error, what)
    hold.save(head=before)
    return before


def is_whole(rooms: Improver, checkpoint_id: str) -> bool:
    """Say whether a checkpoint is there as it was stored."""
    try:
        rooms.checkpoints.load(checkpoint_id)
    except (NotFound, Unavailable):
        return False
    return True


def _before(rooms: Improver, domain: SearchDomain, head: str) -> str:
    from improvement.two_tower.untrained import begun_checkpoint  # brings torch

    known = {one.checkpoint_id: one for one in rooms.checkpoints.list(domain.name)}
    for one in rooms.checkpoints.ancestors(head):
        if one in known and known[one].good is not False and is_whole(rooms, one):
            return one
    return begun_checkpoint(rooms, domain)

"""Checkpoints that cannot be read: how that is found out, and told."""

from improvement.domain import SearchDomain
from improvement.errors import NotFound, Unavailable
from improvement.improver import Improver
from improvement.quality.alerts import Alert, Severity

#: Kind of the alert that a checkpoint cannot be read; the next switch of the towers ends it.
DAMAGED = "towers.damaged"


def damage(rooms: Improver, checkpoint_id: str) -> str | None:
    """Return why the towers of a checkpoint cannot be read; None if they can, or are loaded already."""
    try:
        rooms.towers.tower(checkpoint_id)
    except (NotFound, Unavailable) as error:
        return str(error)
    return None


def tell_damage(rooms: Improver, domain: SearchDomain, checkpoint_id: str, error: str, what: str) -> None:
    """Tell an alarm that a checkpoint cannot be read.

    Args:
        what: was done about it, or is to do; a sentence.
    """
    message = f"checkpoint {checkpoint_id} of the towers cannot be read ({error}). {what}"
    facts = {"checkpoint": checkpoint_id, "error": error}
    rooms.alerts.tell(Alert(domain.name, DAMAGED, Severity.ALARM, message, facts))

"""From a checkpoint to the next: training resumed from the head, its successor, or a stop that is told."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import structlog
from numpy.typing import NDArray

from improvement.domain import SearchDomain
from improvement.improver import Improver
from improvement.quality.alerts import Alert, Severity
from improvement.two_tower.checkpoints import Checkpoint
from improvement.two_tower.names import towers_name
from improvement.two_tower.progress import Hold
from improvement.two_tower.settings import TowerSettings

if TYPE_CHECKING:  # torch is for the worker, and only while it trains
    from improvement.two_tower.trainer import Training

log = structlog.get_logger()

#: Kind of the alert that training stopped.
STOPPED = "towers.nan"
#: Settings that the arrays of a checkpoint are shaped by: they stay as they were when its towers were begun.
SHAPE = ("size", "hidden", "layers", "heads", "authors", "actions")


@dataclass(frozen=True)
class Resumed:
    """A training as its head left it, with the present settings of its domain."""

    parent: Checkpoint
    training: "Training"
    arrays: dict[str, NDArray[Any]]

    @property
    def settings(self) -> TowerSettings:
        """The domain's, but for the towers' shape, which is the checkpoint's."""
        return self.training.settings


def resumed(rooms: Improver, domain: SearchDomain, head: str) -> Resumed:
    """Return the training that goes on from a checkpoint.

    Raises:
        NotFound, Unavailable: as `CheckpointStore.load`.
    """
    from improvement.two_tower.trainer import Training

    assert domain.towers is not None
    parent = rooms.checkpoints.get(head)
    saved, arrays = rooms.checkpoints.load(head)
    settings = replace(domain.towers, **{name: getattr(saved, name) for name in SHAPE})
    return Resumed(parent, Training.restored(settings, arrays), arrays)


def successor(
    rooms: Improver, one: Resumed, trained: str, watermark: float, learned: int, losses: Sequence[float]
) -> Checkpoint:
    """Store what the training learned since its parent.

    Args:
        trained: "candidate" or "users".
        watermark: when the newest engagement learned from was received.
        learned: engagements that nobody had learned from before.

    Raises:
        Invalid: a weight is not a finite number.
    """
    return rooms.checkpoints.save(
        one.parent.domain,
        one.settings,
        one.training.arrays(),
        parent=one.parent.checkpoint_id,
        base_space=one.parent.base_space,
        watermark=max(one.parent.watermark, watermark),
        trained=trained,
        engagements=one.parent.engagements + learned,
        losses=tuple(losses),
    )


def frozen(rooms: Improver, domain: SearchDomain) -> bool:
    """Say whether learning is frozen, of the domain or of its towers alone."""
    return bool(rooms.learning.frozen((domain.name, towers_name(domain.name))))


def rate(rooms: Improver, domain: SearchDomain) -> float:
    """Return the share of the learning rates that the brake leaves, of the domain and of its towers."""
    return rooms.learning.of(domain.name).rate * rooms.learning.of(towers_name(domain.name)).rate


def stop(
    rooms: Improver,
    domain: SearchDomain,
    hold: Hold,
    parent: str,
    what: str,
    error: Exception,
    **changes: Any,
) -> None:
    """Stop learning after an update that made no sense, keep the head, and say so.

    Told and frozen before it is written down: dying in between, the same is found, told and written again.

    Args:
        what: the training that is set aside.
        changes: of the state, so that it is not tried for ever.
    """
    name = towers_name(domain.name)
    reason = f"{what}: {error}"
    message = (
        f"training of the towers stopped at {what}: {error}. Checkpoint {parent} is kept, what was trained "
        f"since is thrown away and not tried again; learning of {name} is frozen until somebody resumes it"
    )
    facts = {"checkpoint": parent, "what": what, "error": str(error)}
    rooms.alerts.tell(Alert(domain.name, STOPPED, Severity.ALARM, message, facts))
    rooms.learning.freeze(name, "training", reason)
    hold.save(reason=reason, **changes)
    log.error("towers training stopped", domain=domain.name, what=what, checkpoint=parent, error=str(error))

"""ServingTowers: which towers serve a domain now, loaded when they are first used."""

from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from improvement.errors import NotFound
from improvement.releases import Release, Releases
from improvement.two_tower.checkpoints import Checkpoint, CheckpointStore
from improvement.two_tower.names import towers_name

if TYPE_CHECKING:  # torch comes with the first tower
    from improvement.two_tower.tower import Tower

#: Loaded towers kept: those that serve, those that served, one that is to, and one more.
KEPT = 4


@dataclass(frozen=True)
class TowerServing:
    """The towers' collection that serves a domain, and the checkpoint that made it.

    The alias of the towers is the one truth: the collection's space *is* the checkpoint's id, so switching
    the alias switches the model with it, forwards and back, in one call.
    """

    collection_id: str
    checkpoint_id: str


class ServingTowers:
    """Asks the alias each time, and keeps the last few loaded towers: content-addressed, they never change.

    Importing this loads no torch; `tower` does, when it is first called.
    """

    def __init__(self, releases: Releases, checkpoints: CheckpointStore) -> None:
        self._releases, self._checkpoints = releases, checkpoints
        self._loaded: Mapping[str, Tower] = {}
        self._loading = Lock()

    def serving(self, domain: str) -> TowerServing | None:
        """Return what serves a domain's towers; None before the first publication."""
        try:
            found = self._releases.serving(towers_name(domain))
        except NotFound:
            return None
        return TowerServing(found.collection_id, found.space)

    def checkpoint(self, checkpoint_id: str) -> Checkpoint:
        """Return what a checkpoint is; raises NotFound."""
        return self._checkpoints.get(checkpoint_id)

    def tower(self, checkpoint_id: str) -> "Tower":
        """Return the towers of a checkpoint; raises NotFound, Unavailable."""
        if (known := self._loaded.get(checkpoint_id)) is not None:
            return known
        with self._loading:  # by one thread: it takes long, and the others want the same
            if (known := self._loaded.get(checkpoint_id)) is not None:
                return known
            from improvement.two_tower.tower import Tower

            made = Tower(*self._checkpoints.load(checkpoint_id))
            newest = list(self._loaded.items())[-(KEPT - 1) :]
            self._loaded = {**dict(newest), checkpoint_id: made}  # never changed: others are reading it
            return made

    def releases_of(self, domain: str) -> list[Release]:
        """Return the towers' collections that every write of the catalogue must reach: the one that serves,
        and those that follow. Ask after the domain's own collection was written, as `Releases.world`."""
        return [one for one in self._releases.list(towers_name(domain)) if one.blue or one.follows]

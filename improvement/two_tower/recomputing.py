"""Recompute what is stale: every item has the vector that the serving towers, or engagement, gave it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import structlog

from improvement.domain import SearchDomain
from improvement.errors import Conflict
from improvement.evaluation.drift import UNMOVED, cosine_distances
from improvement.green.shapes import Shaper
from improvement.improver import Improver
from improvement.objects import Vectors
from improvement.releases import Release
from improvement.two_tower.entries import Entry, Kind
from improvement.two_tower.following import TowerFollowing
from improvement.two_tower.names import towers_name
from improvement.two_tower.resetting import forget_moves
from improvement.two_tower.shapes import EveryShape

log = structlog.get_logger()

#: Items made anew at once.
PAGE = 1_000
#: Rounds after which items are given up that somebody changes in each of them.
ROUNDS = 20


@dataclass(frozen=True)
class Recomputed:
    """How many items there are, were not in line with the catalogue, and had another vector than theirs."""

    items: int
    missing: int
    stale: int

    def as_json(self) -> dict[str, int]:
        """Return what the API shows."""
        return asdict(self)


def recompute_stale(
    rooms: Improver, domain: SearchDomain, progress: Callable[[], object] = lambda: None
) -> Recomputed:
    """Make every item of the serving towers' collection anew, and write those that differ from it.

    What the catalogue holds is brought, what it does no longer is taken out. An item that engagement moved is
    to be where its entry says, any other one where the candidate tower puts it. Repeating it goes on.

    Args:
        progress: called with every page.

    Raises:
        NotFound: no towers serve.
        Conflict: another collection of the towers serves by now, or items change all the time.
    """
    name = towers_name(domain.name)
    source, target = rooms.releases.blue(domain.name), rooms.releases.blue(name)
    following = TowerFollowing(rooms.releases, rooms.vectors, rooms.mirror, rooms.towers, rooms.entries)
    missing = items = stale = 0
    for ids in rooms.mirror.differing(source, target):
        following.bring(domain, ids)
        missing += len(ids)
        progress()
    after: str | None = None
    while True:
        page, after = rooms.vectors.revision_page(source.collection_id, PAGE, after)
        if rooms.releases.serving(name).collection_id != target.collection_id:
            raise Conflict("another collection of the towers serves by now")
        stale += _bring_in_line(rooms, domain, source, target, page)
        items += len(page)
        progress()
        if after is None:
            break
    if missing or stale:
        log.info("stale items made anew", domain=domain.name, missing=missing, stale=stale)
    return Recomputed(items, missing, stale)


def _bring_in_line(
    rooms: Improver, domain: SearchDomain, source: Release, target: Release, object_ids: Iterable[str]
) -> int:
    """Write the vectors of those that differ, and look again behind it whether engagement moved them.

    An entry that was moved from elsewhere than the towers put it, or with other content, is begun anew: how
    far an item may be moved counts from where its checkpoint put it.

    One whose content changes meanwhile is left alone: whoever changes it brings it.
    """
    shapes, ids, written = EveryShape(Shaper(rooms.population), rooms.towers), set(object_ids), set[str]()
    for _ in range(ROUNDS):
        entries, held = _entries(rooms, domain, ids), rooms.vectors.revisions(target.collection_id, ids)
        found = rooms.vectors.find(source.collection_id, held).values()
        objects = [o for o in found if held[o.object_id].given == o.given_revision]
        shaped = shapes.shaped(domain, objects, source.space, target).objects
        should = {o.object_id: o.parts[0] for o in shaped}
        moved = {
            i: e
            for i, e in entries.items()
            if i in should and e.vector is not None and e.space == target.space
        }
        bases = {i: e.base for i, e in moved.items() if e.base is not None and e.content == held[i].revision}
        strange = (moved.keys() - bases.keys()) | set(_differing(bases, should))
        forget_moves(rooms.entries, domain.name, sorted(strange))
        should |= {i: e.vector for i, e in moved.items() if e.vector is not None and i not in strange}
        off = _differing(rooms.vectors.means(target.collection_id, should), should)
        rooms.vectors.move(target.collection_id, {i: (should[i], held[i].revision) for i in off})
        written |= set(off)
        now = _entries(rooms, domain, off)
        ids = {i for i in off if _version(now, i) != _version(entries, i)}
        if not ids:
            return len(written)
    raise Conflict(f"{sorted(ids)[:3]} changed {ROUNDS} times while they were made anew")


def _entries(rooms: Improver, domain: SearchDomain, ids: Iterable[str]) -> dict[str, Entry]:
    found = rooms.entries.load(domain.name, [(Kind.ITEM, object_id) for object_id in ids])
    return {object_id: entry for (_, object_id), entry in found.items()}


def _differing(held: Mapping[str, Vectors], should: Mapping[str, Vectors]) -> list[str]:
    """Return the ids of what is held and points elsewhere."""
    ids = [object_id for object_id in held if object_id in should]
    if not ids:
        return []
    distances = cosine_distances(np.stack([held[i] for i in ids]), np.stack([should[i] for i in ids]))
    return [object_id for object_id, distance in zip(ids, distances, strict=True) if distance > UNMOVED]


def _version(entries: Mapping[str, Entry], object_id: str) -> int:
    return entries[object_id].version if object_id in entries else 0

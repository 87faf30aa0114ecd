"""Put the items of a towers' collection back to where its checkpoint puts them, before it serves again."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from improvement.domain import SearchDomain
from improvement.evaluation.drift import UNMOVED, cosine_distances
from improvement.green.shapes import Shaper
from improvement.improver import Improver
from improvement.objects import Object
from improvement.releases import Release
from improvement.two_tower.entries import Kind
from improvement.two_tower.shapes import EveryShape

#: Items compared at once.
PAGE = 1_000


def unmove(
    rooms: Improver,
    domain: SearchDomain,
    source: Release,
    release: Release,
    hold: Callable[[int], object] = lambda count: None,
) -> int:
    """Take out of a collection that does not serve all that engagement moved there; return how many items.

    How far engagement may move an item counts from where the checkpoint put it, so whatever it was moved when
    the collection served before must not be where the next move begins. Repeating it changes nothing.

    Args:
        source: the domain's own collection that serves.
        hold: called with how many were looked at.

    Raises:
        NotFound, Unavailable: the checkpoint is gone, or damaged.
    """
    after, moved = None, 0
    while True:
        objects, after = rooms.vectors.page(source.collection_id, PAGE, after)
        moved += _unmove(rooms, domain, source, release, objects)
        hold(len(objects))
        if after is None:
            return moved


def _unmove(
    rooms: Improver, domain: SearchDomain, source: Release, release: Release, objects: Sequence[Object]
) -> int:
    keys = [(Kind.ITEM, o.object_id) for o in objects]
    entries = rooms.entries.load(domain.name, keys).values()
    old = [one for one in entries if one.vector is not None and one.space == release.space]
    # Whoever is faster has moved it in the space that serves now, and forgot the old vector, too.
    rooms.entries.save([replace(one, vector=None, base=None, space="") for one in old])
    held = rooms.vectors.revisions(release.collection_id, [o.object_id for o in objects])
    same = [o for o in objects if o.object_id in held and held[o.object_id].given == o.given_revision]
    shapes = EveryShape(Shaper(rooms.population), rooms.towers)
    should = {o.object_id: o.parts[0] for o in shapes.shaped(domain, same, source.space, release).objects}
    means = rooms.vectors.means(release.collection_id, should)
    ids = [one for one in should if one in means]
    if not ids:
        return 0
    far = cosine_distances(np.stack([means[i] for i in ids]), np.stack([should[i] for i in ids])) > UNMOVED
    off = [one for one, is_far in zip(ids, far, strict=True) if is_far]
    rooms.vectors.move(release.collection_id, {one: (should[one], held[one].revision) for one in off})
    return len(off)

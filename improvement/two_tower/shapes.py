"""EveryShape: the shape of an object in any collection, the towers' among them, for `Mirror`."""

import hashlib
from collections.abc import Sequence

import numpy as np

from improvement.domain import SearchDomain
from improvement.green.shapes import Shaped, Shaper
from improvement.objects import Object, Vectors
from improvement.releases import Release
from improvement.two_tower.names import towers_name
from improvement.two_tower.reading import facts_of
from improvement.two_tower.serving import ServingTowers

#: Id of the only part that an object has in the towers' space.
PART = "tower"
NO_DIRECTION = "the towers see nothing in it: no text, no author, and nobody engaged with it"


class EveryShape:
    """Makes objects for any collection: the towers' by the candidate tower, all others by the `Shaper`.

    Of an object in the towers' space there is one part, the candidate tower's vector; its ``given_revision``
    is that of the content, as in every collection, so that `Mirror` keeps it in line, and what engagement
    moved there stays until the content changes.
    """

    def __init__(self, shaper: Shaper, towers: ServingTowers) -> None:
        self._shaper, self._towers = shaper, towers

    def shaped(self, domain: SearchDomain, objects: Sequence[Object], space: str, release: Release) -> Shaped:
        """Return originals as a release holds them, see `Shaper.shaped`.

        Raises:
            NotFound, Unavailable: the checkpoint of a towers' release is gone, or cannot be read.
        """
        if release.domain != towers_name(domain.name):
            return self._shaper.shaped(domain, objects, space, release)
        if not objects:
            return Shaped()
        tower = self._towers.tower(release.space)
        base_space = self._towers.checkpoint(release.space).base_space
        facts, failed = facts_of(domain, objects, space, base_space)
        rows = dict(zip(facts.object_ids, tower.items(facts), strict=True))
        made = []
        for o in objects:
            if o.object_id in failed:
                continue
            if not rows[o.object_id].any():
                failed[o.object_id] = NO_DIRECTION
                continue
            made.append(in_tower_space(o, rows[o.object_id]))
        return Shaped(made, failed)


def in_tower_space(o: Object, row: Vectors) -> Object:
    """Return an original with this vector (S,) of the towers' space in the place of its own."""
    content = o.given_revision
    digest = hashlib.blake2b(content.encode(), digest_size=16)
    digest.update(np.ascontiguousarray(row, "<f4").tobytes())
    return Object(
        o.object_id, np.ascontiguousarray(row[None], np.float32), (PART,), payload=o.payload,
        storage_meta=o.storage_meta, revision=digest.hexdigest(), given=content,
    )  # fmt: skip

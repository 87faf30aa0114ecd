"""Catalogue: writing originals so that their copies follow."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from clickstream.improvement_queue import ImprovementQueue, Owner
from improvement.background import Wake
from improvement.errors import Conflict
from improvement.objects import Object
from improvement.schemas import with_revision
from improvement.vectors import VectorStore


class Catalogue:
    """Upserts, inserts and deletes of one domain's objects; round trips per batch, never per object."""

    def __init__(self, vectors: VectorStore, queue: ImprovementQueue, wake: Wake, domain: str) -> None:
        self._vectors, self._queue, self._wake, self._domain = vectors, queue, wake, domain

    def insert(self, collection: str, objects: Sequence[Object]) -> None:
        """Write new objects; raises Conflict, and writes nothing, when an original exists already."""
        existing = self._vectors.revisions(collection, [o.object_id for o in objects if o.user_id is None])
        if existing:
            raise Conflict(f"already there, use upsert: {sorted(existing)[:10]}")
        self._vectors.upsert(collection, objects)

    def upsert(self, collection: str, objects: Sequence[Object], shrink_parts: bool = True) -> None:
        """Write objects; what is unchanged is left alone, and copies of what changed are made anew.

        Args:
            shrink_parts: False keeps stored parts whose part_id the new object does not name.
        """
        originals = [o for o in objects if o.user_id is None]
        if not shrink_parts:
            stored = self._vectors.find(collection, [o.object_id for o in originals])
            originals = [_merged(stored.get(o.object_id), o) for o in originals]
        before = self._vectors.revisions(collection, [o.object_id for o in originals])
        written = [o for o in originals if before.get(o.object_id) != o.revision]
        self._vectors.upsert(collection, [*written, *(o for o in objects if o.user_id is not None)])
        self._renew_copies(collection, [o.object_id for o in written if o.object_id in before])

    def delete(self, collection: str, object_ids: Sequence[str]) -> None:
        """Delete originals and every copy of them; unknown ids are ignored."""
        users = (
            {copy.user_id for copy in self._vectors.copies_of(collection, object_ids)}
            if object_ids
            else set()
        )
        self._queue_rebuild(users)
        self._vectors.delete(collection, object_ids)
        self._queue_rebuild(users)

    def _renew_copies(self, collection: str, changed: Sequence[str]) -> None:
        """Drop the copies of changed originals and have them rebuilt on the new ones.

        Queued before, so that dying in between loses nothing, and after, because a quick worker may have
        rebuilt them before we dropped them.
        """
        users = {copy.user_id for copy in self._vectors.copies_of(collection, changed)} if changed else set()
        if users:
            self._queue_rebuild(users)
            self._vectors.delete_copies_of(collection, changed)
            self._queue_rebuild(users)

    def _queue_rebuild(self, users: Iterable[str]) -> None:
        owners = [Owner(self._domain, user_id) for user_id in users]
        if owners:
            self._queue.enqueue_rebuild(owners)
            self._wake()


def _merged(stored: Object | None, new: Object) -> Object:
    """Return the new object with the stored parts it does not name behind its own."""
    if stored is None:
        return new
    kept = [i for i, part_id in enumerate(stored.part_ids) if part_id not in new.part_ids]
    return with_revision(
        replace(
            new,
            parts=np.concatenate([new.parts, stored.parts[kept]]),
            part_ids=(*new.part_ids, *(stored.part_ids[i] for i in kept)),
        )
    )

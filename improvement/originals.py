"""Originals written and deleted in one collection, so that their copies follow: the order matters.

Whoever has copies is queued before anything changes, so that dying in between loses nothing. Copies are
deleted after their originals have changed: one that is made meanwhile, of what was there before, is either
among those that are deleted, or its maker finds, after writing it, that the original changed. An original
that was not there before may have copies, too, for somebody else may have written it in between. And their
users are queued once more at the end, because a quick worker may have made the copies anew before we deleted
them.
"""

from collections.abc import Callable, Container, Sequence

from improvement.objects import Object
from improvement.vectors import VectorStore

#: Is told whose copies have to be made anew, by user id.
Renewing = Callable[[set[str]], object]


def write_originals(
    vectors: VectorStore,
    collection: str,
    objects: Sequence[Object],
    held: Container[str],
    renewing: Renewing,
) -> None:
    """Write originals; copies of those that were there are deleted, and their users told of.

    Args:
        held: ids of originals that were there; others had no copies then.
    """
    before = _users(vectors, collection, [o.object_id for o in objects if o.object_id in held])
    _tell(renewing, before)
    vectors.upsert(collection, objects)
    copies = vectors.copies_of(collection, [o.object_id for o in objects]) if objects else []
    users = before | {copy.user_id for copy in copies}
    _tell(renewing, users - before)
    if copies:
        vectors.delete_copies_of(collection, sorted({copy.original_id for copy in copies}))
    _tell(renewing, users)


def delete_originals(
    vectors: VectorStore, collection: str, object_ids: Sequence[str], renewing: Renewing
) -> None:
    """Delete originals and every copy of them, and tell of their users; unknown ids are ignored."""
    if object_ids:
        users = _users(vectors, collection, object_ids)
        _tell(renewing, users)
        vectors.delete(collection, object_ids)
        _tell(renewing, users)


def _users(vectors: VectorStore, collection: str, object_ids: Sequence[str]) -> set[str]:
    return {copy.user_id for copy in vectors.copies_of(collection, object_ids)} if object_ids else set()


def _tell(renewing: Renewing, users: set[str]) -> None:
    if users:
        renewing(users)

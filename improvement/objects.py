"""Object: one searchable thing, its parts, and whose it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Object:
    """An object of a collection, or a user's personal copy of one.

    Attributes:
        object_id: opaque id; a copy's is ``<original_id>_<user_id>``, for people to read, never parsed.
        parts: float32 array of shape (P, D), P >= 1, one row per part.
        part_ids: P ids, one per row of ``parts``, in the same order.
        average: float32 array of shape (D,), searched when the aggregation is AVG; None means the mean part.
        payload: what filters and callers see.
        storage_meta: where the caller keeps the object; never interpreted.
        user_id: whose copy this is; None for an original.
        original_id: the object this is a copy of; None for an original.
        session_id: the latest session that taught the copy, if any.
        revision: digest of what the object was made from; equal revisions mean equal vectors and payload.
        texts: what the rows were embedded from, one for each part, and behind them one for ``average`` if it
            has one; None where a vector was given. Empty: not known.
        raw: the rows as they were given, parts and then ``average`` or, of several parts without one, their
            ``centre``, where a collection holds them turned by what everybody chose (see `shapes`); None:
            ``parts`` and ``average`` are as given.
        given: the revision of what was given, where ``revision`` is another because of ``raw``.
        centre: (D,), the mean part as a collection holds it, which is not the mean of the parts that it holds
            where it gave them another length, or where they were turned; None: the mean of ``parts``.
    """

    object_id: str
    parts: Vectors
    part_ids: tuple[str, ...]
    average: Vectors | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)
    storage_meta: Mapping[str, Any] = field(default_factory=dict)
    user_id: str | None = None
    original_id: str | None = None
    session_id: str | None = None
    revision: str = ""
    texts: tuple[str | None, ...] = ()
    raw: Vectors | None = None
    given: str | None = None
    centre: Vectors | None = None

    @property
    def given_revision(self) -> str:
        """The revision of what was given; equal in every collection that holds the same content."""
        return self.revision if self.given is None else self.given

    @property
    def mean(self) -> Vectors:
        """The vector searched by aggregation AVG, shape (D,)."""
        if self.average is not None:
            return self.average
        if self.centre is not None:
            return self.centre
        mean: Vectors = self.parts.mean(axis=0, dtype=np.float32)
        return mean


def given_rows(o: Object) -> Vectors:
    """Return an object's rows as they were given: (P, D), or (P + 1, D) with its average behind its parts."""
    if o.raw is not None:
        return o.raw[: len(o.parts) + (o.average is not None)]
    return o.parts if o.average is None else np.concatenate([o.parts, o.average[None]])


def given_mean(o: Object) -> Vectors:
    """Return the vector searched by aggregation AVG as it would be if nobody had turned it: (D,)."""
    if o.raw is None:
        return o.mean
    behind = len(o.raw) > len(o.parts)
    mean: Vectors = o.raw[-1] if behind else o.raw.mean(axis=0, dtype=np.float32)
    return mean

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

    @property
    def mean(self) -> Vectors:
        """The vector searched by aggregation AVG, shape (D,)."""
        if self.average is not None:
            return self.average
        mean: Vectors = self.parts.mean(axis=0, dtype=np.float32)
        return mean

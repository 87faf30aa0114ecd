"""Vectors, engagements and names as documents of Mongo have them, and back."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from bson.binary import Binary
from numpy.typing import NDArray

from improvement.objects import Vectors
from improvement.two_tower.facts import Past

#: Subtype of BSON's own vectors, and how one starts when its numbers are float32 and none is padding.
_VECTOR, _FLOAT32 = 9, b"\x27\x00"


def digest(*names: str) -> str:
    """Return a fixed-length name for several; ids are opaque, so they are hashed, never joined."""
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def binary(vector: NDArray[Any] | None) -> Binary | None:
    """Return BSON's own vector, float32; copied in one go, where `Binary.from_vector` walks a list."""
    return None if vector is None else Binary(_FLOAT32 + np.asarray(vector, "<f4").tobytes(), _VECTOR)


def vector(found: bytes | None) -> Vectors | None:
    """Return the vector of `binary`."""
    return None if found is None else np.frombuffer(found, "<f4", offset=len(_FLOAT32))


def packed(pasts: Iterable[Past]) -> str:
    """Return engagements as one text: a store takes longer over hundreds of small values."""
    rows = [(one.engagement_id, one.object_id, one.author, one.action, one.signal, one.at) for one in pasts]
    return json.dumps(rows, separators=(",", ":"))


def pasts(found: str) -> tuple[Past, ...]:
    """Return the engagements of `packed`."""
    return tuple(Past(*row) for row in json.loads(found))

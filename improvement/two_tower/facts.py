"""What the towers read: an item's text and author, and a user's recent engagements."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from improvement.objects import Vectors

#: Arrays by name: all that a checkpoint holds of the towers, and what restores them bit for bit.
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class ItemFacts:
    """What the candidate tower reads of n items.

    Attributes:
        object_ids: n ids.
        texts: (n, T) unit rows of the frozen text encoder: the mean part of each object as it was given, in
            the embedding space that the towers were begun on; zeros where it has no direction.
        authors: n ids of authors; None where nobody is named.
    """

    object_ids: tuple[str, ...]
    texts: Vectors
    authors: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.object_ids)


@dataclass(frozen=True)
class Past:
    """One engagement as a user's history remembers it.

    Attributes:
        engagement_id: tells it from all others.
        author: of the object, as it was then.
        action: the event's or action's type.
        signal: how strongly it speaks for (> 0) or against (< 0) the object, -1..1, never 0.
        at: when it happened, seconds since 1970, by the server's clock at the latest.
    """

    engagement_id: str
    object_id: str
    author: str | None
    action: str
    signal: float
    at: float


@dataclass(frozen=True, eq=False)
class History:
    """What the user tower reads of one user: engagements, oldest first, and the vectors of their items.

    Attributes:
        pasts: h of them; those whose items have no vector are left out before.
        items: (h, S) unit rows of the towers' space.
        at: the moment to which time gaps are counted, seconds since 1970.
    """

    pasts: Sequence[Past]
    items: Vectors
    at: float


def bucket(name: str | None, buckets: int) -> int:
    """Return the row of a lookup table that a name is looked up in: 0 for None, else 1..buckets - 1.

    Names share rows where there are more of them than rows (the hashing trick: Weinberger et al., "Feature
    Hashing for Large Scale Multitask Learning", ICML 2009), so that no table grows with what strangers send.

    >>> bucket(None, 64), bucket("click", 64) == bucket("click", 64), bucket("click", 1)
    (0, True, 0)
    """
    if name is None or buckets < 2:
        return 0
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "big") % (buckets - 1)


def buckets_of(names: Sequence[str | None], buckets: int) -> NDArray[np.int64]:
    """Return `bucket` of each name, int64 (n,)."""
    return np.array([bucket(name, buckets) for name in names], np.int64)

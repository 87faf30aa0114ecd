"""What is near to a user's vectors: in turns where there are several, and different if that is wanted."""

from collections.abc import Sequence

import numpy as np

from improvement.domain import SearchIndexInfo
from improvement.objects import Vectors
from improvement.profiles.diversity import diverse
from improvement.profiles.sphere import directions
from improvement.recommended import Wish
from improvement.schemas import MAX_LIMIT
from improvement.vectors import Hit, VectorStore

#: Candidates that a diverse list is picked from: so many times its length, and at least and at most so many.
CANDIDATES, LEAST_CANDIDATES, MOST_CANDIDATES = 5, 50, MAX_LIMIT


def nearest(
    vectors: VectorStore,
    collection: str,
    info: SearchIndexInfo,
    queries: Vectors,
    wish: Wish,
    *,
    copies: bool,
) -> list[Hit]:
    """Return what is nearest to the queries (k, D), in turns; picked for being diverse, if that is wanted.

    Args:
        copies: whether the user's own copies stand in for their originals.
    """
    user_id = wish.user_id if copies else None
    count = wish.limit
    if wish.diversity > 0:
        count = max(count, min(max(CANDIDATES * count, LEAST_CANDIDATES), MOST_CANDIDATES))
    rankings = [
        vectors.search(
            collection, info, query, count, user_id=user_id, where=wish.where, without=wish.without
        )[0]
        for query in queries
    ]
    hits = in_turns(rankings, count)
    return hits if wish.diversity == 0 else _diverse(vectors, collection, queries, hits, wish, user_id)


def in_turns(rankings: Sequence[Sequence[Hit]], limit: int) -> list[Hit]:
    """Merge rankings: in turns, each gives its best hit not yet taken, the first ranking first."""
    taken: dict[str, Hit] = {}
    left = [iter(ranking) for ranking in rankings]
    while left and len(taken) < limit:
        for ranking in list(left):
            hit = next((hit for hit in ranking if hit.object_id not in taken), None)
            if hit is None:
                left.remove(ranking)
            else:
                taken[hit.object_id] = hit
    return list(taken.values())[:limit]


def _diverse(
    vectors: VectorStore,
    collection: str,
    queries: Vectors,
    hits: Sequence[Hit],
    wish: Wish,
    user_id: str | None,
) -> list[Hit]:
    # The engine's own MMR would do this in one call, but among originals and copies: a shadowed original
    # would push away its copy.
    means = vectors.means_of(collection, hits, user_id)
    found = [hit for hit in hits if hit.object_id in means]  # the others were deleted since
    if not found:
        return []
    rows = np.stack([means[hit.object_id] for hit in found])
    wanted = directions("queries", queries, (None, None))  # not all are of length 1, where distances are
    relevance = (directions("means", rows, (None, None)) @ wanted.T).max(axis=1)
    return [found[pick] for pick in diverse(relevance, rows, wish.diversity, wish.limit)]

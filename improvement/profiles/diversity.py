"""Maximal marginal relevance: a list that is relevant and does not say the same thing ten times."""

import numpy as np

from improvement.objects import Vectors
from improvement.profiles.sphere import Floats, directions


def diverse(relevance: Floats, vectors: Vectors, diversity: float, limit: int) -> list[int]:
    """Return rows in the order they are picked, each for its relevance and for being unlike those before it.

    The first is the most relevant, each next one maximises ``(1 - diversity) * relevance - diversity *
    (largest cosine to a row picked before)``; of equals, the earlier row. After J. Carbonell and J.
    Goldstein, "The Use of MMR, Diversity-Based Reranking" (SIGIR 1998).

    Args:
        relevance: (N,), on the scale of cosines.
        vectors: (N, D), finite, of any length.
        diversity: 0 to 1; 0 orders by relevance alone.
        limit: most rows.

    >>> vectors = np.array([[1.0, 0.0], [0.99, 0.1], [0.0, 1.0]], np.float32)
    >>> diverse(np.array([0.9, 0.8, 0.5]), vectors, 0.5, limit=3)
    [0, 2, 1]
    """
    rows = directions("vectors", vectors, (None, None))
    cosines = rows @ rows.T
    left = (1 - diversity) * np.asarray(relevance, np.float64)
    nearest = np.zeros(len(rows))
    picks: list[int] = []
    pick = int(np.argmax(relevance)) if len(rows) else 0
    while len(picks) < min(limit, len(rows)):
        nearest = np.maximum(nearest, cosines[pick]) if picks else cosines[pick]
        left[pick] = -np.inf
        picks.append(pick)
        pick = int(np.argmax(left - diversity * nearest))
    return picks

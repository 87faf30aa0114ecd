"""How good a ranked list is."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def ndcg_at_k(gains: ArrayLike, relevant: ArrayLike, k: int = 10) -> NDArray[np.float64]:
    """Return the normalised discounted cumulative gain of each list, 0 to 1.

    DCG@k = sum over places i = 1..k of gain_i / log2(i + 1); nDCG@k = DCG@k / the DCG@k of a list that starts
    with all relevant objects, min(k, relevant) of them. A query without relevant objects scores 0.

    Source: Järvelin and Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques",
    https://doi.org/10.1145/582415.582418, with binary gains.

    Args:
        gains: (lists, places), 1 where the shown object is relevant, else 0, best place first; short lists
            are filled up with 0.
        relevant: (lists,), how many relevant objects there are, shown or not.
        k: places looked at.

    Returns:
        Shape (lists,).

    >>> ndcg_at_k([[1, 0, 1], [0, 0, 0], [1, 1, 0]], relevant=[2, 5, 2], k=3)
    array([0.92, 0. , 1. ])
    """
    shown = np.asarray(gains, np.float64)[:, :k]
    discounts = 1 / np.log2(np.arange(2, k + 2))
    reachable = np.minimum(np.asarray(relevant), k)
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])[reachable]
    dcg = shown @ discounts[: shown.shape[1]]
    score: NDArray[np.float64] = np.divide(dcg, ideal, out=np.zeros_like(dcg), where=ideal > 0)
    return score


def relevance(lists: Sequence[Sequence[str]], relevant: Sequence[frozenset[str]], k: int) -> NDArray[np.int8]:
    """Return gains of shape (lists, k): 1 where the list's object at that place is relevant.

    >>> relevance([["a", "b"], ["c"]], [frozenset("b"), frozenset("c")], k=3)
    array([[0, 1, 0],
           [1, 0, 0]], dtype=int8)
    """
    gains = np.zeros((len(lists), k), np.int8)
    for row, (shown, wanted) in enumerate(zip(lists, relevant, strict=True)):
        gains[row, : len(shown[:k])] = [object_id in wanted for object_id in shown[:k]]
    return gains


def angles(left: ArrayLike, right: ArrayLike) -> NDArray[np.float64]:
    """Return the angle between matching rows of two (n, D) arrays, radians in [0, pi].

    2 atan2(|a - b|, |a + b|) of the unit vectors: unlike acos of the dot product, exact near 0.
    Source: W. Kahan 2006, "How Futile are Mindless Assessments of Roundoff", section 12.

    >>> angles([[1, 0], [2, 0]], [[0, 3], [5, 0]])
    array([1.571, 0. ])
    """
    a, b = (np.asarray(rows, np.float64) for rows in (left, right))
    a = a / np.linalg.norm(a, axis=1, keepdims=True)
    b = b / np.linalg.norm(b, axis=1, keepdims=True)
    apart, together = np.linalg.norm(a - b, axis=1), np.linalg.norm(a + b, axis=1)
    twice: NDArray[np.float64] = 2 * np.arctan2(apart, together)
    return twice

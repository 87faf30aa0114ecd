"""Exact ranking in memory, by the search's own conventions: MAX_SIM over parts, or the mean part."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from improvement.domain import MetricAggregationType, MetricType
from improvement.objects import Object, Vectors

#: Numbers in the largest intermediate of `scores`.
CHUNK = 1 << 24


def searched(found: Object, aggregation: MetricAggregationType) -> Vectors:
    """Return what the search compares with a query: the parts, or the mean part alone; (P, D)."""
    if aggregation is MetricAggregationType.MIN:
        return found.parts
    mean: Vectors = found.mean[None, :]
    return mean


def scores(queries: Sequence[Vectors], objects: Sequence[Vectors], metric: MetricType) -> Vectors:
    """Score every object for every query; larger = closer.

    A query's vectors each take the object's best part, and their similarities add up, as in Qdrant's MAX_SIM:
    the order is that of `improvement.similarity` with temperature 0. COSINE: cosines, 0 where a vector is 0.
    DOT: products. EUCLID: minus squared distances. Sums run in float64 and are rounded, so that equal vectors
    score the same whatever is scored beside them.

    Args:
        queries: Q arrays of shape (M, D).
        objects: N arrays of shape (P, D), what the search compares: the parts, or the mean part alone.

    Returns:
        float32 (Q, N).

    >>> two_parts = np.array([[1, 0], [0, 1]], np.float32)
    >>> scores([two_parts[:1], two_parts], [two_parts, two_parts[1:]], MetricType.COSINE)
    array([[1., 0.],
           [2., 1.]], dtype=float32)
    """
    found = np.empty((len(queries), len(objects)), np.float32)
    if not found.size:
        return found
    rows = np.concatenate(objects).astype(np.float64)
    starts = _starts(objects)
    squares = (rows * rows).sum(axis=1)
    step = max(1, CHUNK // (len(rows) * max(map(len, queries))))
    for start in range(0, len(queries), step):
        some = queries[start : start + step]
        vectors = np.concatenate(some).astype(np.float64)
        sizes = (vectors * vectors).sum(axis=1)
        each = vectors @ rows.T
        if metric is MetricType.COSINE:
            scale = np.sqrt(sizes)[:, None] * np.sqrt(squares)
            each = np.divide(each, scale, out=np.zeros_like(each), where=scale > 0)
        elif metric is MetricType.EUCLID:
            each = -np.maximum(0, sizes[:, None] + squares - 2 * each)
        best = np.maximum.reduceat(each, starts, axis=1)
        found[start : start + step] = np.add.reduceat(best, _starts(some), axis=0)
    return found


def _starts(arrays: Sequence[Vectors]) -> NDArray[np.intp]:
    return np.cumsum([0, *(len(array) for array in arrays[:-1])])


def best_first(scored: Vectors, depth: int) -> NDArray[np.intp]:
    """Return the places of the ``depth`` largest numbers, largest first; equal ones in their own order.

    >>> best_first(np.array([1, 3, 2, 3, 2], np.float32), depth=3)
    array([1, 3, 2])
    """
    candidates = np.arange(len(scored))
    if depth < len(scored):
        candidates = np.flatnonzero(scored >= np.partition(scored, -depth)[-depth])
    return candidates[np.argsort(-scored[candidates], kind="stable")][:depth]

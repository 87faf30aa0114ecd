"""How close an object is to a query; the one sign convention: larger = closer.

Dimension names as in `improvement.inputs`: P parts of an object, M vectors of a query, D dimensions. Leading
dimensions are batches and broadcast. Sums over parts and query vectors are written out one by one, and sums
over D run along contiguous rows: an answer then depends neither on what else is in the batch nor on padding,
which matrix products do not promise.
"""

import torch

from improvement.domain import MetricAggregationType, MetricType


def part_similarity(queries: torch.Tensor, parts: torch.Tensor, metric: MetricType) -> torch.Tensor:
    """Compare each query vector (..., M, D) with each part (..., P, D): (..., M, P).

    COSINE: the cosine, 0 where either vector is 0. DOT: the product. EUCLID: minus the distance, as in the
    published adjuster. Gradients are finite everywhere: 0 at a zero vector and at distance 0.

    >>> query, parts = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    >>> part_similarity(query, parts, MetricType.COSINE)
    tensor([[0.6000, 0.0000]])
    >>> part_similarity(query, parts, MetricType.EUCLID)
    tensor([[-4.4721, -1.0000]])
    """
    each = [vector[..., None, :] for vector in queries.unbind(-2)]
    if metric is MetricType.EUCLID:
        return torch.stack([-_length(parts - vector) for vector in each], dim=-2)
    products = torch.stack([(parts * vector).sum(-1) for vector in each], dim=-2)
    if metric is MetricType.DOT:
        return products
    scale = _length(queries)[..., :, None] * _length(parts)[..., None, :]
    return torch.where(scale > 0, products / torch.where(scale > 0, scale, 1), 0)


def object_similarity(
    queries: torch.Tensor,
    parts: torch.Tensor,
    metric: MetricType,
    aggregation: MetricAggregationType,
    temperature: float = 0.0,
    part_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compare each query vector (..., M, D) with the object of parts (..., P, D): (..., M).

    AVG: similarity to the mean part, the vector that the search calls `average`.
    MIN: softmin over the parts' distances, ``sum(w * s)`` over their similarities s with
    ``w = softmax(s / temperature)``: the nearest part counts most, and temperature 0 is exactly the search's
    MIN, the largest similarity. The weights are constants to the gradient: through them, a click would push
    away every part that is farther than the temperature from the softmin.

    Args:
        temperature: >= 0, in units of similarity; AVG does not use it.
        part_mask: (..., P) bool, True where a part is real; None means all. No real part: 0.

    >>> query, parts = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    >>> cosine, nearest = MetricType.COSINE, MetricAggregationType.MIN
    >>> object_similarity(query, parts, cosine, nearest)
    tensor([1.])
    >>> object_similarity(query, parts, cosine, nearest, temperature=1.0)  # tanh(1)
    tensor([0.7616])
    >>> object_similarity(query, parts, cosine, MetricAggregationType.AVG)
    tensor([0.])
    """
    if part_mask is None:
        part_mask = torch.ones(parts.shape[:-1], dtype=torch.bool, device=parts.device)
    if aggregation is MetricAggregationType.AVG:
        average = _mean(parts.transpose(-1, -2), part_mask[..., None, :])
        return part_similarity(queries, average[..., None, :], metric)[..., 0]
    return _softmin(part_similarity(queries, parts, metric), part_mask[..., None, :], temperature)


def query_similarity(similarity: torch.Tensor, query_mask: torch.Tensor, metric: MetricType) -> torch.Tensor:
    """Join the similarities of a query's vectors (..., M) to one: (...).

    Their mean; for EUCLID, minus the root of the mean squared distance. Both rank objects as Qdrant's MAX_SIM
    does, which sums over the query's vectors, and for EUCLID sums squares.

    Args:
        query_mask: (..., M) bool, True where a query vector is real. No real vector: 0.
    """
    if metric is MetricType.EUCLID:
        return -_root(_mean(similarity * similarity, query_mask))
    return _mean(similarity, query_mask)


def _mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _sum(torch.where(mask, values, 0)) / mask.sum(-1).clamp(min=1)


def _softmin(similarity: torch.Tensor, mask: torch.Tensor, temperature: float) -> torch.Tensor:
    real = similarity.masked_fill(~mask, -torch.inf)
    nearest = torch.where(mask.any(-1), real.amax(-1), 0)
    if temperature == 0:
        return nearest
    weights = ((real - nearest[..., None]) / temperature).exp().detach()
    return _sum(weights * similarity) / _sum(weights).clamp(min=1)


def _sum(values: torch.Tensor) -> torch.Tensor:
    total = torch.zeros_like(values[..., 0])
    for value in values.unbind(-1):
        total = total + value
    return total


def _length(rows: torch.Tensor) -> torch.Tensor:
    return _root((rows * rows).sum(-1))


def _root(squares: torch.Tensor) -> torch.Tensor:
    """Take the square root; its gradient at 0, infinite by itself, is 0 here."""
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1).sqrt(), 0)

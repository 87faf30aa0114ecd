"""From a padded batch to the evidence of rows: which query speaks to which part, and how loudly.

Dimension names as in `improvement.inputs`; K is evidence times query vectors, E * M, and R the rows, N * P.
"""

import math

import torch

from improvement.adjusters.base import check_finite
from improvement.adjusters.planes import LENGTHS, Evidence, in_order, products, squares, travel
from improvement.domain import MetricType
from improvement.inputs import EvidenceBatch


def object_evidence(batch: EvidenceBatch, parts: torch.Tensor, metric: MetricType) -> Evidence:
    """Return the evidence of the N objects, on the device and in the dtype of ``parts``.

    A search's M vectors share its weight. For COSINE and DOT, which ask for a direction only, each share is
    divided by its vector's length, and a vector of (nearly) zeros says nothing.

    Raises:
        ValueError: a query vector is not finite, or its square is not.
    """
    table = batch.queries.detach().to(parts).flatten(0, 1).contiguous()
    square = squares(table)
    check_finite("queries", square)  # NaN and infinity show in the squares
    vectors = batch.queries.shape[1]
    share = batch.query_mask.to(parts.device, torch.float64)
    if vectors > 1:
        share = share / share.sum(1, keepdim=True).clamp(min=1)
    share = share.flatten()
    if metric is not MetricType.EUCLID:
        shortest = LENGTHS[parts.element_size()][0] ** 2
        share = torch.where(square > shortest, share * square.rsqrt(), 0.0)
    index = batch.evidence.to(parts.device, torch.int64).contiguous()
    weight = batch.weights.detach().to(parts.device, torch.float64).contiguous()
    if vectors > 1:
        index = (index[..., None] * vectors + torch.arange(vectors, device=parts.device)).flatten(1)
        weight = weight.repeat_interleave(vectors, 1)
    weight = weight * share.index_select(0, index.flatten()).view(weight.shape)
    return Evidence(table, index, weight)


def part_evidence(
    evidence: Evidence, parts: torch.Tensor, mask: torch.Tensor, metric: MetricType, temperature: float
) -> Evidence:
    """Hand each object's evidence to its parts, by the softmin weights among the originals: R = N * P rows.

    They are those of `similarity.object_similarity`: softmax over the real parts of similarity / temperature;
    at 0 the nearest part gets all, and equally near ones share.

    Args:
        parts: (N, P, D).
        mask: (N, P) bool, True where a part is real.
    """
    if parts.shape[1] == 1:
        return evidence
    shape = (*mask.shape, evidence.index.shape[1])
    index = evidence.index[:, None].expand(shape).flatten(0, 1).contiguous()
    weight = (evidence.weight[:, None] * mask[..., None]).flatten(0, 1)
    spread = Evidence(evidence.table, index, weight)
    rows = parts.flatten(0, 1)
    found = products(rows, spread)
    square = squares(rows)[:, None]
    lengths = squares(evidence.table)[index]
    if metric is MetricType.COSINE:
        scale = (square * lengths).sqrt()
        found = torch.where(scale > 0, found / torch.where(scale > 0, scale, 1.0), 0.0)
    elif metric is MetricType.EUCLID:
        found = -(square + lengths - 2 * found).clamp(min=0).sqrt()
    similarity = torch.where(mask[..., None], found.view(shape), -torch.inf)
    behind = similarity - similarity.amax(1, keepdim=True)  # NaN where no part is real: its weight is 0
    loud = (behind == 0).double() if temperature == 0 else (behind / temperature).exp()
    loud = loud / in_order(loud.unbind(1)).clamp(min=1)[:, None]
    return Evidence(evidence.table, index, torch.where(weight == 0, 0.0, weight * loud.view(weight.shape)))


def mean_evidence(
    evidence: Evidence, parts: torch.Tensor, mask: torch.Tensor, metric: MetricType, time: float
) -> Evidence:
    """Let the mean part of each object follow the evidence; its step is the parts' one piece of evidence."""
    real = mask.to(parts)
    means = parts[:, 0] * real[:, :1]
    for p in range(1, parts.shape[1]):
        means.addcmul_(parts[:, p], real[:, p, None])
    means /= real.sum(1, keepdim=True).clamp(min=1)
    steps, _ = travel(means, evidence, metric, time, math.inf, only_step=True)
    moved = mask & (evidence.weight != 0).any(1, keepdim=True)
    of = torch.arange(len(parts), device=parts.device)[:, None].expand(mask.shape)
    return Evidence(steps, of.reshape(-1, 1), moved.double().reshape(-1, 1))

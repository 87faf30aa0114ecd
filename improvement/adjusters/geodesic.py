"""GeodesicAdjuster: each part follows its evidence along one great circle, in closed form."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from improvement.adjusters.base import check_device, check_dimensions, check_finite, check_settings
from improvement.domain import MetricAggregationType, SearchIndexInfo

if TYPE_CHECKING:  # plugins make adjusters in the web process, which loads no torch
    import torch

    from improvement.inputs import EvidenceBatch

#: Longest time anything follows its evidence: long enough to arrive, short enough to be multiplied.
LONGEST = 1e12
#: Share of the limit (also of 1, for limits below it) that stays free for rounding to float32.
SLACK = 2e-6


@dataclass(frozen=True)
class GeodesicAdjuster:
    """Move objects along the gradient of their summed evidence, exactly and at once.

    The objective of an object is ``sum(weight * similarity)`` over its evidence, with the signed weights of
    `EvidenceBatch`; EUCLID takes half the negative squared distance as similarity. Under MIN a query speaks
    to a part in proportion to the part's softmin weight among the originals; under AVG all parts move
    together, by what the mean part moves. The gradient of such a sum never leaves the plane of the part x and
    its direction ``g = sum(weight * query)``, so the whole flow is known from three products, x.x, x.g and
    g.g: each of ``num_iterations`` steps follows it exactly for a time of ``adjustment_rate``, whatever the
    number of steps. `docs/adjusters.md` has the formulas and what else was tried.

    Results do not depend on the batch, turn with the space (rotate all vectors, and the answers are rotated)
    and, for DOT and EUCLID, grow with it.

    Attributes:
        search_index_info: the embedding space; its metric and aggregation are the similarity's.
        adjustment_rate: time of one step, >= 0; in a short one, a click of weight w at an angle of theta
            turns by this times w * sin(theta).
        num_iterations: steps, >= 0.
        softmin_temperature: see `object_similarity`, >= 0; used by MIN.
        max_drift: farthest a part may move: radians (COSINE), or a share of its length (DOT, EUCLID).
        device: where torch computes, e.g. "cpu" or "cuda".

    Raises:
        ValueError: naming the setting and what was expected.
    """

    search_index_info: SearchIndexInfo
    adjustment_rate: float = 0.3
    num_iterations: int = 10
    softmin_temperature: float = 0.1
    max_drift: float = 0.4
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_settings(self)

    def adjust(self, batch: "EvidenceBatch") -> "torch.Tensor":
        """Return the adjusted parts, same shape and dtype as ``batch.parts``.

        Raises:
            ValueError: the batch holds NaN or infinity, or not the index's number of dimensions, or torch
                cannot use the device.
        """
        import torch  # here, not above: see TYPE_CHECKING

        from improvement.adjusters.evidence_rows import mean_evidence, object_evidence, part_evidence
        from improvement.adjusters.planes import travel

        info = self.search_index_info
        check_device(self.device)
        check_dimensions(batch, info)
        if batch.parts.dtype not in {torch.float32, torch.float64}:  # shorter ones cannot keep a small limit
            raise ValueError(f"parts: expected float32 or float64, got {batch.parts.dtype}")
        parts = batch.parts.detach().to(self.device).contiguous()
        mask, rows = batch.part_mask.to(self.device).contiguous(), parts.flatten(0, 1)
        metric = info.metric_type
        time = min(float(self.adjustment_rate) * self.num_iterations, LONGEST)
        limit = max(0.0, self.max_drift * (1 - SLACK) - SLACK)
        evidence = object_evidence(batch, parts, metric)
        if info.metric_aggregation_type is MetricAggregationType.AVG:
            steps = mean_evidence(evidence, parts, mask, metric, time)
            moved, checksum = travel(rows, steps, metric, time, limit, shift=True)
        else:
            evidence = part_evidence(evidence, parts, mask, metric, self.softmin_temperature)
            moved, checksum = travel(rows, evidence, metric, time, limit)
        if not math.isfinite(checksum):  # only then look at every number
            check_finite("weights", batch.weights)
            check_finite("parts", parts)
            raise ValueError("parts, queries, weights: expected numbers whose products are finite")
        return moved.view(parts.shape).to(batch.parts.device)

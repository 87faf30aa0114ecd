"""TorchBasedAdjuster: the published algorithm, a few AdamW steps on an object's parts, pulled back."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from improvement.adjusters.base import (
    check_device,
    check_dimensions,
    check_finite,
    check_settings,
    limit_drift,
)
from improvement.domain import SearchIndexInfo

if TYPE_CHECKING:  # plugins make adjusters in the web process, which loads no torch
    import torch

    from improvement.inputs import EvidenceBatch

#: Numbers in the largest tensor of one optimisation: small enough to stay in a processor's cache.
CHUNK = 1 << 17


@dataclass(frozen=True)
class TorchBasedAdjuster:
    """Move clicked objects toward their queries and skipped ones away by gradient descent (seeds 002, 003).

    The loss of an object is ``-sum(weight * similarity**3)`` over its evidence, with the signed weights of
    `EvidenceBatch`; AdamW (torch's defaults, weight decay 0.01) takes ``num_iterations`` steps on it, and
    `limit_drift` pulls the result back. AdamW moves every coordinate by up to ``adjustment_rate`` a step,
    however long the vector is. A part without gradient does not move: weight decay alone is no evidence.

    Computed in float64, object by object, so that rounding hides what little depends on the batch.

    Attributes:
        search_index_info: the embedding space; its metric and aggregation are the similarity's.
        adjustment_rate: AdamW's learning rate, >= 0.
        num_iterations: steps, >= 0.
        softmin_temperature: see `object_similarity`, >= 0; used by MIN.
        max_drift: farthest a part may move: radians (COSINE), or a share of its length (DOT, EUCLID).
        device: where torch computes, e.g. "cpu" or "cuda".

    Raises:
        ValueError: naming the setting and what was expected.
    """

    search_index_info: SearchIndexInfo
    adjustment_rate: float = 0.1
    num_iterations: int = 10
    softmin_temperature: float = 1.0
    max_drift: float = 0.3
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_settings(self)

    def adjust(self, batch: "EvidenceBatch") -> "torch.Tensor":
        """Return the adjusted parts, same shape and dtype as ``batch.parts``.

        Raises:
            ValueError: the batch holds NaN or infinity, or not the index's number of dimensions, or torch
                cannot use the device.
        """
        check_device(self.device)
        check_dimensions(batch, self.search_index_info)
        for field in ("parts", "queries", "weights"):
            check_finite(field, getattr(batch, field))
        adjusted = batch.parts.detach().clone()
        for rows in _chunks(batch):
            real = batch.part_mask[rows].any(0).nonzero()[:, 0]
            adjusted[rows[:, None], real] = self._descend(batch, rows[:, None], real).to(adjusted)
        metric = self.search_index_info.metric_type
        return limit_drift(batch.parts, adjusted, metric, self.max_drift, batch.part_mask)

    def _descend(self, batch: "EvidenceBatch", rows: "torch.Tensor", real: "torch.Tensor") -> "torch.Tensor":
        """Return the adjusted ``parts[rows, real]``, float64, for rows (n, 1) and part numbers (p)."""
        import torch  # here, not above: see TYPE_CHECKING

        from improvement.similarity import object_similarity, query_similarity

        info = self.search_index_info
        used = batch.weights[rows[:, 0]].ne(0).any(0).nonzero()[:, 0]
        weights = batch.weights[rows, used].to(self.device, torch.float64)
        evidence = batch.evidence[rows, used]
        queries = batch.queries[evidence].to(self.device, torch.float64)  # (n, E, M, D)
        query_mask = batch.query_mask[evidence].to(self.device)
        part_mask = batch.part_mask[rows, real].to(self.device)
        original = batch.parts[rows, real].detach().to(self.device, torch.float64)
        parts = original.clone().requires_grad_()
        moved = torch.zeros_like(part_mask)
        optimizer = torch.optim.AdamW([parts], lr=self.adjustment_rate)
        with torch.enable_grad():  # also when the caller has switched gradients off
            for _ in range(self.num_iterations):
                each = object_similarity(
                    queries.flatten(1, 2), parts, info.metric_type, info.metric_aggregation_type,
                    self.softmin_temperature, part_mask,
                ).reshape(query_mask.shape)  # fmt: skip
                similarity = query_similarity(each, query_mask, info.metric_type)
                loss = -(weights * similarity**3).sum()
                (parts.grad,) = torch.autograd.grad(loss, [parts])
                moved |= parts.grad.abs().amax(-1) > 0
                optimizer.step()
        return torch.where(moved[..., None], parts.detach(), original)


def _chunks(batch: "EvidenceBatch") -> "Iterator[torch.Tensor]":
    """Yield the rows that have evidence, alike ones together, as many at once as fit CHUNK."""
    import torch

    parts = batch.part_mask.sum(1).tolist()
    pieces = batch.weights.ne(0).sum(1).tolist()
    _, query_vectors, dimensions = batch.queries.shape
    chunk: list[int] = []
    widest = 0
    taught = [row for row, count in enumerate(pieces) if count and parts[row]]
    for row in sorted(taught, key=lambda row: (parts[row], pieces[row])):
        wider = max(widest, parts[row], pieces[row] * query_vectors)
        if chunk and (len(chunk) + 1) * wider * dimensions > CHUNK:
            yield torch.tensor(chunk)
            chunk, wider = [], max(parts[row], pieces[row] * query_vectors)
        chunk.append(row)
        widest = wider
    if chunk:
        yield torch.tensor(chunk)

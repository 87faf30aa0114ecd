"""Touch the long vectors twice: measure the plane of each row and its direction, then write a point of it.

A *row* is one part, x. Its *direction* is ``g = sum(weight * query)`` over its evidence. All that a step
needs to know of x and g are three products; all that it answers are two coefficients. On a processor both
passes are loops (`compiled`), on other devices torch's own operations (`on_device`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from improvement.adjusters import compiled
from improvement.domain import MetricType

#: The journey of each metric.
KINDS = {
    MetricType.COSINE: compiled.TURN,
    MetricType.DOT: compiled.TRANSLATE,
    MetricType.EUCLID: compiled.DRAW,
}
#: Shortest and longest row that moves, by bytes of a number: rounding could carry others over the limit.
LENGTHS = {4: (1e-30, 1e37), 8: (1e-140, 1e140)}
#: Squared sine of the angle between a row and its direction below which float64 is kept throughout: what is
#: left across x after subtracting would show float32's rounding.
NARROW = 1e-2


@dataclass(frozen=True)
class Evidence:
    """The evidence of R rows over a table of T query vectors, K pieces a row; weight 0 is no evidence.

    Attributes:
        table: (T, D) contiguous, dtype of the rows.
        index: (R, K) int64 rows of ``table``, contiguous.
        weight: (R, K) float64, signed, contiguous.
    """

    table: torch.Tensor
    index: torch.Tensor
    weight: torch.Tensor


def squares(rows: torch.Tensor) -> torch.Tensor:
    """Return ``x . x`` of every row, (R,) float64; not finite where a row is not."""
    answer = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    _run("squares", rows, answer)
    return answer


def products(rows: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """Return ``x . query`` of every piece of evidence, (R, K) float64; 0 where there is none."""
    answer = torch.empty_like(evidence.weight)
    _run("products", rows, evidence.table, evidence.index, evidence.weight, answer)
    return answer


def travel(
    rows: torch.Tensor,
    evidence: Evidence,
    metric: MetricType,
    time: float,
    limit: float,
    *,
    shift: bool = False,
    only_step: bool = False,
) -> tuple[torch.Tensor, float]:
    """Let each row follow its evidence for a time, or until it has drifted as far as it may.

    Args:
        rows: (R, D) contiguous float32 or float64.
        limit: farthest a row may move: radians (COSINE) or a share of its length (DOT, EUCLID).
        shift: instead of following it, add the direction once, as far as the limit allows.
        only_step: return how far the rows moved instead of where they are.

    Returns:
        The moved rows (R, D), and the sum of all their products, which is not finite when one of the rows,
        weights or queries used is not. A row without evidence comes back bit for bit.
    """
    out = torch.empty_like(rows)
    kind = compiled.SHIFT if shift else KINDS[metric]
    weights = evidence.weight
    total = weights.new_zeros(len(rows))
    if kind == compiled.DRAW:
        total = in_order((total, *weights.unbind(1)))
    journey = (
        kind,
        metric is MetricType.COSINE,
        time,
        limit,
        LENGTHS[rows.element_size()],
        only_step,
        NARROW,
    )
    checksum = _run("travel", rows, evidence.table, evidence.index, weights, total, *journey, out)
    return out, float(checksum)


def in_order(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """Add one after the other, so that padding with zeros changes no bit of the sum."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def _run(name: str, rows: torch.Tensor, *others: Any) -> Any:
    if rows.device.type == "cpu":
        arrays = [other.numpy() if isinstance(other, torch.Tensor) else other for other in others]
        return getattr(compiled, name)(rows.numpy(), *arrays)
    from improvement.adjusters import on_device

    return getattr(on_device, name)(rows, *others)

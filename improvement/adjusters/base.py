"""What adjusters share: the law of bounded drift, and checks that name what is wrong."""

import math
import sys
from typing import TYPE_CHECKING, Any

from improvement.domain import MetricType, SearchIndexInfo

if TYPE_CHECKING:  # plugins make adjusters in the web process, which loads no torch
    import torch

    from improvement.inputs import EvidenceBatch

#: Share of the limit that stays free (also of 1, for limits below it): rounding a row to float32, here or in
#: the store, moves it by up to 6e-8 of its length.
SLACK = 1e-6


def drift(original: "torch.Tensor", adjusted: "torch.Tensor", metric: MetricType) -> "torch.Tensor":
    """Measure how far rows (..., D) have moved: (...), float64.

    COSINE: the angle in radians, 0 to pi. DOT, EUCLID: ``|adjusted - original| / |original|``. Equal rows
    have drift 0; where the measure is undefined (a zero original; for the angle also a zero copy) it is
    infinite. The angle is ``2 atan2(|u - v|, |u + v|)`` of the unit vectors, exact for small angles too
    (W. Kahan, "How Futile are Mindless Assessments of Roundoff", 2006, section 12).

    >>> import torch
    >>> x, y = torch.tensor([[3.0, 0.0]]), torch.tensor([[3.0, 3.0]])
    >>> drift(x, y, MetricType.COSINE), drift(x, y, MetricType.DOT)
    (tensor([0.7854], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """
    import torch

    before, after = original.detach().double(), adjusted.detach().double()
    size, new_size = before.norm(dim=-1), after.norm(dim=-1)
    if metric is MetricType.COSINE:
        defined = (size > 0) & (new_size > 0)
        u, v = before / size[..., None], after / new_size[..., None]
        moved = 2 * torch.atan2((u - v).norm(dim=-1), (u + v).norm(dim=-1))
    else:
        defined = size > 0
        moved = (after - before).norm(dim=-1) / size
    moved = torch.where(defined, moved, math.inf)
    return torch.where((before == after).all(-1), 0.0, moved)


def limit_drift(
    original: "torch.Tensor",
    adjusted: "torch.Tensor",
    metric: MetricType,
    max_drift: float,
    mask: "torch.Tensor | None" = None,
) -> "torch.Tensor":
    """Pull rows (..., D) that moved too far back until `drift` is at most ``max_drift``.

    COSINE: along the great circle from the original to the adjusted row, keeping the adjusted row's length.
    DOT, EUCLID: along the straight line. Rows within the limit come back bit for bit. The original itself
    comes back where there is no way between: a zero original; for COSINE a zero or exactly opposite copy.

    Args:
        max_drift: radians (COSINE) or a share of the original's length, >= 0; infinity means no limit.
        mask: (...) bool, True where a row is real; the others come back as the original.

    Raises:
        ValueError: a real row holds NaN or infinity, the shapes differ, or ``max_drift`` is not >= 0.

    >>> import torch
    >>> x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    >>> limit_drift(x, y, MetricType.COSINE, torch.pi / 6)
    tensor([[1.7321, 1.0000]])
    """
    import torch

    check_setting("max_drift", max_drift, infinite=True)
    if original.shape != adjusted.shape:
        raise ValueError(f"adjusted: expected shape {tuple(original.shape)}, got {tuple(adjusted.shape)}")
    real = torch.ones_like(original[..., 0], dtype=torch.bool) if mask is None else mask
    for field, rows in (("original", original), ("adjusted", adjusted)):
        if not rows[real].isfinite().all():
            raise ValueError(f"{field}: expected finite numbers, got NaN or infinity")
    result = torch.where(real[..., None], adjusted.detach(), original.detach())
    if max_drift == math.inf:
        return result
    limit = max(0.0, max_drift - SLACK * (1 + max_drift))
    far = real & (drift(original, result, metric) > limit)
    before, after = original.detach()[far], result[far]
    pulled = _turned(before, after, limit) if metric is MetricType.COSINE else _moved(before, after, limit)
    pulled = pulled.to(result.dtype)
    # What rounding still carries over the limit (zero or subnormal rows, a limit near 0), and what has no
    # way between and is NaN here, does not move at all.
    lawful = drift(before, pulled, metric) <= max_drift
    result[far] = torch.where(lawful[..., None], pulled, before)
    return result


def _turned(original: "torch.Tensor", adjusted: "torch.Tensor", angle: float) -> "torch.Tensor":
    import torch

    before, after = original.double(), adjusted.double()
    start = before / before.norm(dim=-1, keepdim=True)
    across = after - (after * start).sum(-1, keepdim=True) * start
    width, length = across.norm(dim=-1, keepdim=True), after.norm(dim=-1, keepdim=True)
    # opposite rows: what is left across is rounding, and a direction made of it would be noise
    across = torch.where(width > 1e-9 * length, across / width, math.nan)
    turned: torch.Tensor = (math.cos(angle) * start + math.sin(angle) * across) * length
    return turned


def _moved(original: "torch.Tensor", adjusted: "torch.Tensor", share: float) -> "torch.Tensor":
    before = original.double()
    step = adjusted.double() - before
    scale: torch.Tensor = share * before.norm(dim=-1, keepdim=True) / step.norm(dim=-1, keepdim=True)
    return before + step * scale


def check_setting(name: str, value: float, *, whole: bool = False, infinite: bool = False) -> None:
    """Raise ValueError naming the setting unless it is a number >= 0.

    >>> check_setting("adjustment_rate", -1.0)
    Traceback (most recent call last):
    ValueError: adjustment_rate: expected a finite number >= 0, got -1.0
    """
    kind = "a whole number" if whole else "a number" if infinite else "a finite number"
    number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    too_large = sys.float_info.max < value < math.inf if number else True  # a whole number can be
    if too_large or not value >= 0 or (value == math.inf and not infinite):
        raise ValueError(f"{name}: expected {kind} >= 0, got {value!r}")


def check_settings(adjuster: Any) -> None:
    """Raise ValueError naming the first of an adjuster's settings that makes no sense."""
    check_setting("adjustment_rate", adjuster.adjustment_rate)
    check_setting("num_iterations", adjuster.num_iterations, whole=True)
    check_setting("softmin_temperature", adjuster.softmin_temperature)
    check_setting("max_drift", adjuster.max_drift, infinite=True)


def check_dimensions(batch: "EvidenceBatch", info: SearchIndexInfo) -> None:
    """Raise ValueError naming the field when a batch does not have the index's dimensions."""
    for field in ("parts", "queries"):
        dimensions = getattr(batch, field).shape[-1]
        if dimensions != info.dimensions:
            raise ValueError(f"{field}: expected {info.dimensions} dimensions, got {dimensions}")


def check_device(device: str) -> None:
    """Raise ValueError naming the setting unless torch can compute there."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either
        raise ValueError(f"device: expected one that torch can use here, got {device!r}: {error}") from error


def check_finite(field: str, values: "torch.Tensor") -> None:
    """Raise ValueError naming the field unless all its numbers are finite."""
    if (
        not math.isfinite(values.sum().item()) and not values.isfinite().all()
    ):  # a sum is quick, and may overflow
        raise ValueError(f"{field}: expected finite numbers, got NaN or infinity")

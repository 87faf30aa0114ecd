"""How far vectors moved from one audit to the next, and whether evidence is balanced: pure functions."""

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: Cosine distance below which a vector counts as unmoved: float32 vectors that were made anew differ by less.
UNMOVED = 1e-6


class Grade(StrEnum):
    """How a measure stands; a note is between its target and what anybody must be told of."""

    GOOD = "good"
    NOTE = "note"
    WARNING = "warning"
    ALARM = "alarm"


@dataclass(frozen=True)
class Drift:
    """How far the vectors moved that were there before and are there now.

    Attributes:
        compared: how many.
        days: how long it took, but at least one.
        mean, p95: cosine distance a day (0..2), the mean and the 95th percentile.
        whole: mean cosine distance over the whole time.
        moved: share of those that moved at all, 0..1.
    """

    compared: int
    days: float
    mean: float
    p95: float
    whole: float
    moved: float

    def as_json(self) -> dict[str, Any]:
        """Return what the API shows."""
        return asdict(self)


def cosine_distances(before: ArrayLike, now: ArrayLike) -> Floats:
    """Return 1 - cos of the angle between row and row, in 0..2: (N,).

    As half the squared distance of the unit vectors, which is exactly 0 for equal rows. NaN where a row has
    no length, or a number in it is not finite.

    Args:
        before, now: (N, D).

    Raises:
        ValueError: the shapes differ.

    >>> cosine_distances([[1, 0], [2, 0], [0, 0]], [[3, 0], [0, 1], [1, 0]])
    array([ 0.,  1., nan])
    """
    old, new = _unit(before), _unit(now)
    if old.shape != new.shape:
        raise ValueError(f"before, now: expected arrays of one shape, got {old.shape} and {new.shape}")
    distances: Floats = ((old - new) ** 2).sum(axis=1) / 2
    return distances


def drift(before: ArrayLike, now: ArrayLike, days: float) -> Drift | None:
    """Return how far rows moved in that many days; None if none of them can be compared.

    Nothing is extrapolated to a day: what moved in an hour is the drift of a day of which an hour is over.
    """
    distances = cosine_distances(before, now)
    distances = distances[np.isfinite(distances)]
    if not len(distances):
        return None
    days = max(1.0, days)
    return Drift(
        compared=len(distances),
        days=days,
        mean=float(distances.mean()) / days,
        p95=float(np.quantile(distances, 0.95)) / days,
        whole=float(distances.mean()),
        moved=float((distances > UNMOVED).mean()),
    )


def above(value: float, warn: float, alarm: float) -> Grade:
    """Grade what should be small.

    >>> above(0.1, warn=0.1, alarm=0.3).value, above(0.2, 0.1, 0.3).value, above(0.31, 0.1, 0.3).value
    ('good', 'warning', 'alarm')
    """
    return Grade.ALARM if value > alarm else Grade.WARNING if value > warn else Grade.GOOD


def balance(
    positives: int, negatives: int, good: tuple[float, float], least: float, most: float
) -> tuple[float, Grade]:
    """Return how many negative pieces of evidence there are for a positive one, and the grade of it.

    Infinity without any positive, NaN (which is good, for it says nothing) without any at all.

    >>> balance(10, 60, (5.0, 10.0), 3.0, 20.0)[1].value, balance(10, 40, (5.0, 10.0), 3.0, 20.0)[1].value
    ('good', 'warning')
    >>> balance(10, 20, (5.0, 10.0), 3.0, 20.0)[1].value, balance(0, 9, (5.0, 10.0), 3.0, 20.0)
    ('alarm', (inf, <Grade.ALARM: 'alarm'>))
    """
    if not positives and not negatives:
        return math.nan, Grade.GOOD
    ratio = negatives / positives if positives else math.inf
    if not least <= ratio <= most:
        return ratio, Grade.ALARM
    return ratio, Grade.GOOD if good[0] <= ratio <= good[1] else Grade.WARNING


def worst(grades: list[Grade]) -> Grade:
    """Return the worst of some grades; good for none."""
    return max(grades, key=list(Grade).index, default=Grade.GOOD)


def _unit(rows: ArrayLike) -> Floats:
    wide: Floats = np.asarray(rows, np.float64)
    if wide.ndim != 2:
        raise ValueError(f"expected rows of numbers, got an array of shape {wide.shape}")
    wide = np.where(np.isfinite(wide).all(axis=1, keepdims=True), wide, np.nan)
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0.0)
    scaled = np.divide(wide, largest, out=np.full_like(wide, np.nan), where=largest > 0)  # no overflow below
    unit: Floats = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    return unit

"""What a history says of its user, each engagement the more the newer it is; pure."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from improvement.objects import Vectors


def faded(signals: Sequence[float], keep: float) -> NDArray[np.float64]:
    """Return ``signal_i * keep^later_i``, float64 (h,), later_i counting the engagements after the i-th one.

    With these, `moves.user_of` is what `TwoTower.users` says before its projection learned anything.

    Args:
        signals: h of them in -1..1, oldest first.
        keep: what an engagement leaves of those before it, 0..1 (``1 - user_rate``).

    >>> faded([1.0, -0.5, 1.0], keep=0.5).tolist()
    [0.25, -0.25, 1.0]
    """
    made: NDArray[np.float64] = np.asarray(signals, np.float64) * keep ** np.arange(
        len(signals) - 1, -1, -1.0
    )
    return made


def amid(rows: Sequence[Vectors], weights: Sequence[float]) -> Vectors | None:
    """Return the place amid what was liked, float32 (D,): the mean of rows by their weights > 0.

    For spaces where near means distance, and no direction means anything: the sum of squared distances to
    what was liked, by weight, is least there. What speaks against a row leads to no place. None where nothing
    was liked.

    >>> amid([np.float32([2, 0]), np.float32([4, 0]), np.float32([-9, 9])], [1.0, 1.0, -1.0])
    array([3., 0.], dtype=float32)
    """
    liked = np.maximum(np.asarray(weights, np.float64), 0.0)
    if not len(rows) or not (total := float(liked.sum())):
        return None
    made: Vectors = (liked @ np.asarray(rows, np.float64) / total).astype(np.float32)
    return made

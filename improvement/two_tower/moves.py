"""How one engagement moves the vectors of its user and its item; pure, on unit vectors.

Both move on the great circle through the two (`improvement.profiles.sphere.turn`): towards each other by a
share of the angle between them for a signal > 0, apart by a share of what is missing to a right angle for a
signal < 0, and never beyond one, where they have nothing in common. Seed 001 adds and normalises instead::

    item  i' = unit(i + rate * s * u)            the turn of rate * s * sin(angle): ours to first order
    user  u' = unit((1 - a) * u + a * s * i)     the turn of a * s * the angle, but for s < 0, where it does
                                                 not stop at a right angle: see `improvement.profiles.online`
"""

import math
from collections.abc import Sequence

import numpy as np

from improvement.objects import Vectors
from improvement.profiles.sphere import Floats, directions, turn

#: Share of a user's first engagements, and more where 1 / (1 + how many) is less: seed 001.
MOST_SHARE = 0.1


def moved_item(
    item: Vectors, base: Vectors, user: Vectors | None, signal: float, rate: float, max_drift: float
) -> Vectors:
    """Return an item's vector (S,) after somebody engaged with it, unit float32.

    Args:
        item, base: (S,) as it is, and where its checkpoint put it.
        user: (S,) before the engagement; None moves nothing.
        signal: -1..1.
        rate: 0..1, share of the angle at full signal.
        max_drift: radians that it may at most be away from ``base``; beyond, it is brought back to there on
            the shortest way, and is still no farther from where it was going than before.

    >>> moved_item(np.float32([1, 0]), np.float32([1, 0]), np.float32([0, 1]), 1.0, 0.01, 0.3).round(4)
    array([0.9999, 0.0157], dtype=float32)
    """
    if user is None:
        return item
    moved = turn(*_unit(item, user), np.float64(rate * signal))[0]
    return within(moved, base, max_drift)


def within(vector: Floats | Vectors, base: Vectors, max_drift: float) -> Vectors:
    """Return a vector at most ``max_drift`` radians from another one, unit float32; on the shortest way.

    >>> within(np.float32([0, 1]), np.float32([1, 0]), np.pi / 6).round(4)
    array([0.866, 0.5  ], dtype=float32)
    """
    put, moved = _unit(base, vector)
    across = moved - (cosine := np.vdot(put, moved)) * put
    if math.atan2(size := float(np.linalg.norm(across)), cosine) > max_drift:
        beside = across / size if size else across  # of the exact opposite no way back is the shortest
        moved = math.cos(max_drift) * put + math.sin(max_drift) * beside if size else put
    return _float32(moved)


def moved_user(
    user: Vectors | None, item: Vectors, signal: float, count: int, least: float, rate: float = 1.0
) -> Vectors | None:
    """Return a user's vector (S,) after an engagement, unit float32; None while there is none.

    A moving average with decay: an engagement has the share ``rate * max(least, min(0.1, 1 / (1 + count)))``
    times its signal. Who had no vector gets the item's at a signal > 0.

    Args:
        item: (S,) before the engagement.
        count: engagements before it.
        least: 0..1, what the share does not fall below.
        rate: 0..1, of a domain that learns more slowly.

    >>> moved_user(np.float32([1, 0]), np.float32([0, 1]), 1.0, 4, least=0.05).round(3)
    array([0.988, 0.156], dtype=float32)
    """
    if user is None:
        return _float32(directions("item", item, (None,))) if signal > 0 else None
    share = rate * max(least, min(MOST_SHARE, 1 / (1 + count)))
    return _float32(turn(*_unit(user, item), np.float64(share * signal))[0])


def user_of(items: Sequence[Vectors], signals: Sequence[float]) -> Vectors | None:
    """Return the vector of a user of whom only engagements are known: the signed mean of items, unit float32.

    None where there are none, or they cancel each other out.
    """
    if not len(items):
        return None
    mean = np.asarray(signals, np.float64) @ np.asarray(items, np.float64)
    return _float32(mean / size) if (size := float(np.linalg.norm(mean))) > 1e-9 else None


def _unit(one: Floats | Vectors, other: Floats | Vectors) -> tuple[Floats, Floats]:
    return directions("vector", one, (None,)), directions("vector", other, (None,))


def _float32(vector: Floats) -> Vectors:
    return vector.astype(np.float32)

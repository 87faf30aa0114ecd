"""Turning unit vectors on great circles; and checks of strangers' vectors and numbers.

Whatever comes from outside goes through `directions`, `number` or `numbers` first; `turn` and `lengths` trust
what they are given. All errors begin with the name of the argument.
"""

import math
import sys
from contextlib import suppress

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Vectors as they are worked on, rows last.
Floats = NDArray[np.float64]
#: One number for all rows, or one a row.
Shares = Floats | np.float64

#: Radians below which two directions are one: what rounding to float32 moves a vector by, with room to spare.
PARALLEL = 1e-6
#: How far a length may be from 1 and count as 1, so that a unit vector comes back bit for bit.
UNIT_TOLERANCE = 1e-12


def turn(
    u: Floats, v: Floats, share: Shares, liked: Floats | None = None, max_drift: float = math.pi
) -> tuple[Floats, NDArray[np.bool_]]:
    """Turn unit rows u towards or away from unit rows v, each on their great circle.

    A share > 0 turns by that share of the angle between them, towards v. A share < 0 turns by that share of
    what is missing to a right angle, away from v, and not at all beyond one. See `online` for the geometry.
    Where u and v are parallel there is no side to turn to, and u stays, except that a share of 1 ends at v.
    Rows u of zeros become v at any share > 0; rows v of zeros turn nothing.

    Args:
        u, v: (..., D) of length 1 or 0, as `directions` makes them; they broadcast.
        share: (...), -1 to 1.
        liked: (..., D) of length 1 or 0, or None. Turns away stop where they would take a row farther than
            ``max_drift`` from it, or farther than the row is already; zeros stop nothing.
        max_drift: radians, 0 to pi.

    Returns:
        The turned rows (..., D), at length 1 again (zeros stay), those not turned bit for bit; and (...)
        whether u is v itself, to `PARALLEL`.

    >>> turned, same = turn(np.array([0.6, 0.8]), np.array([1.0, 0.0]), np.float64(-1.0))
    >>> turned.round(6), bool(same)
    (array([0., 1.]), False)
    """
    cosine = np.vecdot(u, v)
    across = v - cosine[..., None] * u
    sine = lengths(across)
    theta = np.arctan2(sine, cosine)  # exact where arccos is not, near 0 and pi
    by = share * np.where(share > 0, theta, np.maximum(0.0, math.pi / 2 - theta))
    aligned = sine < PARALLEL
    if aligned.any():  # no side to turn to, unless it is all the way to v
        by = np.where(aligned & (share < 1), 0.0, by)
    if not cosine.all():  # whoever has no profile yet goes all the way to the first thing liked
        by = np.where((share > 0) & ~u.any(-1), theta, by)
    across_size = np.where(sine > 0, sine, 1.0)
    if liked is not None and (by < 0).any():
        along, left = np.vecdot(u, liked), max_drift + by
        if not ((left > 0) & (along > np.cos(left))).all():  # else no way to turn leads out of the limit
            beside = np.vecdot(across, liked) / across_size
            by = np.maximum(by, -_room(along, beside, math.cos(max_drift)))
    turned = np.cos(by)[..., None] * u + (np.sin(by) / across_size)[..., None] * across
    return _unit(turned, lengths(turned)), aligned & (cosine > 0.5)


def _room(along: Floats, beside: Floats, least: float) -> Floats:
    """How far to turn away until the cosine to what was liked, now ``along``, is ``least`` (or falls at all).

    Turning away by t takes that cosine to ``along cos(t) - beside sin(t) = reach cos(t + phase)``.
    """
    reach, phase = np.hypot(along, beside), np.arctan2(beside, along)
    aim = np.minimum(along, least)
    free = aim <= -reach  # anywhere on this circle
    farthest = np.arccos(np.minimum(1.0, aim / np.where(free, 1.0, reach)))
    return np.where(free, math.inf, np.maximum(0.0, farthest - phase))


def lengths(rows: Floats) -> Floats:
    """Return the lengths (...) of rows (..., D)."""
    found: Floats = np.sqrt(np.vecdot(rows, rows))
    return found


def _unit(rows: Floats, size: Floats) -> Floats:
    keep = (np.abs(size - 1) <= UNIT_TOLERANCE) | (size == 0)
    return rows / np.where(keep, 1.0, size)[..., None]


def number(name: str, value: object, least: float = -math.inf, most: float = math.inf) -> float:
    """Return ``value`` as a float, if it is a finite number from ``least`` to ``most``.

    Raises:
        ValueError: it is not, or is a bool, or a whole number that no float holds.

    >>> number("rating", 2, -1, 1)
    Traceback (most recent call last):
    ValueError: rating: expected a finite number from -1 to 1, got 2
    """
    found = math.nan
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        with suppress(OverflowError):  # a whole number that no float holds
            found = float(value)
    if not (math.isfinite(found) and least <= found <= most):
        bounds = "" if math.inf in (-least, most) else f" from {least:g} to {most:g}"
        raise ValueError(f"{name}: expected a finite number{bounds}, got {value!r}")
    return found


def positive_number(name: str, value: object) -> float:
    """Return ``value`` as a float, if it is a finite number > 0; raises ValueError."""
    found = number(name, value)
    if found <= 0:
        raise ValueError(f"{name}: expected a number > 0, got {value!r}")
    return found


def _array(name: str, value: ArrayLike, expected: str) -> Floats:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # ragged
        raise ValueError(f"{name}: expected {expected}, got rows of different lengths") from None
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name}: expected {expected}, got {array.dtype}")
    return array.astype(np.float64, copy=False)


def numbers(
    name: str, value: ArrayLike, size: int, least: float, most: float, one_for_all: bool = True
) -> Floats:
    """Return numbers as floats (size,), if each is from ``least`` to ``most``.

    Args:
        least, most: finite; "at least" alone is a ``most`` of `sys.float_info.max`.
        one_for_all: whether one number may stand for ``size`` of them.

    Raises:
        ValueError: naming the first wrong one, or the shape expected.

    >>> numbers("ratings", [0.5, float("nan")], 2, -1, 1)
    Traceback (most recent call last):
    ValueError: ratings[1]: expected a finite number from -1 to 1, got nan
    """
    array = _array(name, value, "numbers")
    if one_for_all and array.ndim == 0:
        array = np.full(size, array)
    if array.shape != (size,):
        raise ValueError(f"{name}: expected shape {(size,)}, got {array.shape}")
    if (wrong := ~((array >= least) & (array <= most))).any():
        row = int(wrong.argmax())
        bounds = f"from {least:g} to {most:g}" if most < sys.float_info.max else f">= {least:g}"
        raise ValueError(f"{name}[{row}]: expected a finite number {bounds}, got {array[row]}")
    return array


def directions(name: str, value: ArrayLike, shape: tuple[int | None, ...] | None) -> Floats:
    """Return vectors at length 1, whatever finite length they have, even 1e-300 or 1e300; zeros stay.

    Args:
        value: (..., D), D >= 1.
        shape: the shape expected, None where any size does; None for any shape.

    Returns:
        Of the same shape; rows of length 1 (to `UNIT_TOLERANCE`) bit for bit.

    Raises:
        ValueError: naming the shape expected or the first number that is not finite.

    >>> directions("items", [[3.0, 4.0], [0.0, 0.0]], (None, 2))
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    rows = _array(name, value, "numbers")
    if shape is None:
        shape = (None,) * max(1, rows.ndim)
    fits = len(shape) == rows.ndim and all(s in (None, r) for s, r in zip(shape, rows.shape, strict=True))
    if not fits or rows.shape[-1] == 0:
        sizes = ", ".join("any" if s is None else str(s) for s in shape)
        raise ValueError(f"{name}: expected shape ({sizes}), the last at least 1, got {rows.shape}")
    if (
        rows.ndim == 1 and 1e-200 < (square := float(np.vdot(rows, rows))) < 1e200
    ):  # one vector: half the time
        alone = math.sqrt(square)
        return rows if abs(alone - 1) <= UNIT_TOLERANCE else rows / alone
    with np.errstate(over="ignore", invalid="ignore"):
        size = lengths(rows)
    if not ((size > 1e-100) & (size < 1e100)).all():  # zeros, no numbers, or squares that no float holds
        if not (finite := np.isfinite(rows)).all():
            at = np.argwhere(~finite)[0].tolist()
            raise ValueError(f"{name}{at}: expected a finite number, got {rows[tuple(at)]}")
        largest = np.abs(rows).max(-1, initial=0.0)
        extreme = (largest > 1e90) | ((largest < 1e-90) & (largest > 0))
        rows = rows / np.where(extreme, largest, 1.0)[..., None]
        size = lengths(rows)
    return _unit(rows, size)

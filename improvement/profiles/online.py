"""The profile of a user, one unit vector, after each interaction; and a fading one of what was disliked.

Geometry. A profile u and an item v, both of length 1, span a plane. In it lies one great circle through both,
and ``theta = angle(u, v)``. With w the unit vector of the plane that is orthogonal to u on v's side, every
update here is one turn on that circle::

    u' = cos(turn) u + sin(turn) w
    like     turn =  share * theta                   towards v; v itself at share 1 (slerp)
    dislike  turn = -share * max(0, pi/2 - theta)    away from v; orthogonal to v at share 1

with ``share = |rating| * max(learning_rate, 1 / (1 + interaction_count))``. So the length stays 1, nothing
leaks out of the plane, and a dislike turns in proportion to how far u points at v. It ends where u and v have
nothing in common, cosine 0 ("orthogonal negation": D. Widdows, "Orthogonal Negation in Vector Spaces for
Modelling Word-Meanings and Document Retrieval", ACL 2003); beyond that lies not "less of v" but "-v", which
means nothing in an embedding space. What does not point at v is not moved at all.

What dislikes cost. Written in u and v, a dislike is ``u' = a u - b v`` with a >= 1 and b >= 0, whatever the
share. Two laws follow for any run of dislikes v_i and any direction m with ``cos(u, m) >= 0`` at its start:

1. If no v_i points at m (all ``cos(v_i, m) <= 0``), ``cos(u, m)`` never falls. So a run takes the profile at
   most twice as far as the nearest direction that none of its dislikes points at.
2. ``cos(u, m)**2`` falls by at most ``sum(max(0, cos(v_i, m))**2)``: what they share with m, and no more.

A run that contradicts m from all sides, or hundreds of dislikes in few dimensions, can still leave it: a unit
vector does not remember where it came from. ``liked`` remembers: no dislike turns the profile farther than
``max_drift`` from it, in any number of dimensions and after any number of dislikes.

Why not the two obvious ways. Adding ``rating * v`` with a negative rating does not stop: it moves a profile
that has nothing to do with v, and ten dislikes end near the antipode. Counting dislikes as 0 freezes it:

>>> u, v, unrelated = np.array([0.8, 0.6, 0.0]), np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
>>> def added(u, v, rating, rate):
...     moved = (1 - rate * abs(rating)) * u + rate * rating * v
...     return moved / np.linalg.norm(moved)
>>> ways = {
...     "added": lambda u, v: added(u, v, -0.8, 0.3),
...     "as 0": lambda u, v: added(u, v, 0.0, 0.3),
...     "turned": lambda u, v: update_user_embedding(u, v, -0.8, 0.3, 100),
... }
>>> for name, dislike in ways.items():
...     one, ten = dislike(u, v), u
...     for _ in range(10):
...         ten = dislike(ten, v)
...     print(f"{name:6} {one @ v:5.2f} {ten @ v:5.2f} {dislike(u, unrelated) @ unrelated:5.2f}")
added   0.63 -0.96 -0.30
as 0    0.80  0.80  0.00
turned  0.65  0.06  0.00

The columns: the cosine to v, at first 0.80, after one dislike and after ten; the cosine to what it never
pointed at, after a dislike of that.
"""

import math
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from improvement.evidence import DAY, MAX_WEIGHT

Floats = NDArray[np.float64]
Shares = Floats | np.float64

#: Radians below which two directions are one: what rounding to float32 moves a vector by, with room to spare.
PARALLEL = 1e-6
#: How far a length may be from 1 and count as 1, so that a unit vector comes back bit for bit.
UNIT_TOLERANCE = 1e-12
#: Farthest, in radians, that dislikes take a profile from what was liked, when that is known: cosine 0.5.
MAX_DRIFT = math.pi / 3
#: Rows worked on at a time: a few hundred rows stay in the processor's cache.
CHUNK = 128


def rating_from_signals(
    signals: Mapping[str, float] | Iterable[float], saturation: float | None = 3.0
) -> float:
    """Return ``tanh(sum of the signals / saturation)`` of one interaction, -1 to 1.

    Args:
        signals: signed weights of what the user did with the item (see `improvement.evidence.EVENT_WEIGHTS`),
            by name or not, each at most `MAX_WEIGHT` in size; none give 0.
        saturation: weight that makes a rating of tanh(1) = 0.76, > 0; None cuts off at -1 and 1.

    Raises:
        ValueError: naming the argument and what was expected.

    >>> rating_from_signals({"view": 1.0, "like": 5.0, "short dwell": -3.0})
    0.7616
    >>> rating_from_signals([-5.0]), rating_from_signals([])
    (-0.9311, 0.0)
    """
    named = dict(signals) if isinstance(signals, Mapping) else dict(enumerate(signals))
    # fsum: the order of the signals must not matter, not even in the last bit
    total = math.fsum(_number(f"signals[{name!r}]", w, -MAX_WEIGHT, MAX_WEIGHT) for name, w in named.items())
    if saturation is None:
        return max(-1.0, min(1.0, total))
    return math.tanh(total / _positive("saturation", saturation))


def update_user_embedding(
    current_vector: ArrayLike,
    item_vector: ArrayLike,
    rating: float,
    learning_rate: float,
    interaction_count: int = 0,
    *,
    liked: ArrayLike | None = None,
    max_drift: float = MAX_DRIFT,
) -> Floats:
    """Return a user's profile after one more interaction: a new unit vector (D,).

    See the module for the formulas. The lengths of the vectors do not matter. Where directions are missing:

    - no profile yet (zeros): the item at a rating > 0, else still no profile, zeros;
    - an item of zeros, a rating of 0, or a dislike of what the profile does not point at: the profile as it
      is, bit for bit if its length is 1;
    - a dislike of the very item (to `PARALLEL`) that the profile is: it knew nothing else, so no profile is
      left, zeros. There is no side to turn to, and an invented one would rank items as before, plus noise;
    - a like of the exact opposite: as it is, for the same reason; the item if share is 1.

    Args:
        current_vector: the profile (D,), D >= 1, finite.
        item_vector: the item (D,), finite.
        rating: -1 to 1, e.g. from `rating_from_signals`.
        learning_rate: 0 to 1, what the share does not fall below as interactions add up. At 0 the likes make
            a running mean, and the turns fade as 1 / (1 + count).
        interaction_count: how many interactions, of either sign, came before this one, >= 0.
        liked: direction of what was liked (D,), e.g. the profile that the likes alone make; None or zeros:
            not known. Dislikes stop where they would take the profile farther than ``max_drift`` from it (or
            farther than it is already); likes are not held back.
        max_drift: radians, 0 to pi.

    Raises:
        ValueError: naming the argument and what was expected.

    >>> update_user_embedding([1.0, 0.0], [0.0, 2.0], rating=1.0, learning_rate=0.1, interaction_count=2)
    array([0.866, 0.5 ])
    >>> update_user_embedding([0.6, 0.8], [1.0, 0.0], rating=-1.0, learning_rate=1.0).round(6)
    array([0., 1.])
    """
    rating = _number("rating", rating, -1, 1)
    learning_rate = _number("learning_rate", learning_rate, 0, 1)
    if isinstance(interaction_count, bool) or not isinstance(interaction_count, int | np.integer):
        raise ValueError(f"interaction_count: expected a whole number, got {interaction_count!r}")
    if interaction_count < 0:
        raise ValueError(f"interaction_count: expected a number >= 0, got {interaction_count!r}")
    user = _directions("current_vector", current_vector, (None,))
    item = _directions("item_vector", item_vector, user.shape)
    near = None if liked is None else _directions("liked", liked, user.shape)
    max_drift = _number("max_drift", max_drift, 0, math.pi)
    share = np.float64(rating * max(learning_rate, 1 / (1 + int(interaction_count))))
    return _update(user, item, share, near, max_drift)


def update_user_embeddings(
    users: ArrayLike,
    items: ArrayLike,
    ratings: ArrayLike,
    learning_rates: ArrayLike,
    counts: ArrayLike,
    *,
    liked: ArrayLike | None = None,
    max_drift: float = MAX_DRIFT,
) -> Floats:
    """Do `update_user_embedding` for N users at once: new profiles (N, D).

    Args:
        users, items: (N, D), finite; N may be 0.
        ratings: (N,), -1 to 1.
        learning_rates: (N,) or one number, 0 to 1.
        counts: (N,) or one whole number, >= 0.
        liked: (N, D); a row of zeros is a user of whom it is not known.

    Raises:
        ValueError: naming the argument, its first bad row and what was expected.
    """
    user = _directions("users", users, (None, None))
    item = _directions("items", items, user.shape)
    near = None if liked is None else _directions("liked", liked, user.shape)
    max_drift = _number("max_drift", max_drift, 0, math.pi)
    size = len(user)
    rating = _numbers("ratings", ratings, size, -1, 1, one_for_all=False)
    least = _numbers("learning_rates", learning_rates, size, 0, 1)
    count = _numbers("counts", counts, size, 0, sys.float_info.max)
    if (wrong := count != np.floor(count)).any():
        row = int(wrong.argmax())
        raise ValueError(f"counts[{row}]: expected a whole number, got {count[row]}")
    share = rating * np.maximum(least, 1 / (1 + count))
    updated = np.empty_like(user)
    for start in range(0, size, CHUNK):
        rows = slice(start, start + CHUNK)
        beside = None if near is None else near[rows]
        updated[rows] = _update(user[rows], item[rows], share[rows], beside, max_drift)
    return updated


@dataclass(frozen=True, eq=False)
class NegativeProfile:
    """What a user disliked, fading: ``sum(|rating| * 0.5 ** (age / half life) * item)``, items of length 1.

    Its direction is the mean of the dislikes, its length their amount: dislikes that agree add up, those that
    have nothing to do with each other add up less (as the root of their number).

    Attributes:
        vector: the sum (D,), of any length, as it was at ``at``.
        at: the latest dislike, in seconds since 1970 by the server's clock.
    """

    vector: Floats
    at: float

    def strength(self, now: float, half_life_days: float) -> float:
        """Return how much it counts, 0 to 1: tanh of what is left of its length.

        One full dislike counts 0.76, half a life later 0.61, one life later 0.46. A ``now`` before ``at``
        counts as ``at``.
        """
        age = _number("now", now) - self.at
        return math.tanh(float(_lengths(self.vector)) * _left(age, half_life_days))


def remember_dislike(
    profile: NegativeProfile | None, item_vector: ArrayLike, rating: float, at: float, half_life_days: float
) -> NegativeProfile | None:
    """Return the negative profile after a rating; as it is, if that is no dislike or the item is zeros.

    Its direction moves towards the item along the great circle between them. The order in which dislikes
    arrive does not matter, only when they happened.

    Args:
        profile: None for a user who disliked nothing yet.
        item_vector: (D,), finite, of any length.
        rating: -1 to 1; only what is below 0 counts.
        at: when it happened, in seconds since 1970. Take the server's clock: from a date in the future, all
            that came before looks old.
        half_life_days: days after which a dislike counts half, > 0.

    Raises:
        ValueError: naming the argument and what was expected.

    >>> day = 86_400
    >>> first = remember_dislike(None, [2.0, 0.0], -1.0, at=0, half_life_days=30)
    >>> first.vector, round(first.strength(0, 30), 2), round(first.strength(30 * day, 30), 2)
    (array([1., 0.]), 0.76, 0.46)
    >>> remember_dislike(first, [0.0, 1.0], -0.5, at=30 * day, half_life_days=30).vector
    array([0.5, 0.5])
    """
    rating, at = _number("rating", rating, -1, 1), _number("at", at)
    shape = (None,) if profile is None else profile.vector.shape
    item = _directions("item_vector", item_vector, shape)
    age = 0.0 if profile is None else at - profile.at
    fading = _left(age, half_life_days)
    if rating >= 0 or not item.any():
        return profile
    if profile is None:
        return NegativeProfile(-rating * item, at)
    late = _left(-age, half_life_days)  # what happened before the latest dislike has faded since
    return NegativeProfile(fading * profile.vector - rating * late * item, max(at, profile.at))


def steer(
    query: ArrayLike,
    positive: ArrayLike | None,
    negative: ArrayLike | None,
    profile_weight: float,
    negative_weight: float,
) -> Floats:
    """Turn queries towards a profile, then away from a negative one: unit vectors, shape of the query.

    The turns are those of a like and a dislike, with the weights as shares. So the angle to the query is at
    most ``profile_weight * angle(query, positive) + negative_weight * pi / 2``, and the second turn ends at
    cosine 0 to the negative profile. A query that is the negative profile stays: it was asked for.

    Args:
        query: (..., D), finite. Zeros mean no query: the profile takes their place, if it has any weight.
        positive: the profile (D,), or None; zeros turn nothing.
        negative: the direction to leave (D,), or None, e.g. `NegativeProfile.vector`; zeros turn nothing.
        profile_weight: 0 to 1; 1 is the profile alone. At the angles that embeddings have (60 to 80 degrees),
            adding w times the profile to the query is about a weight of w / (1 + w).
        negative_weight: 0 to 1, e.g. a setting times `NegativeProfile.strength`.

    Raises:
        ValueError: naming the argument and what was expected.

    >>> steer([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], None, profile_weight=1 / 3, negative_weight=0.0)
    array([0.866, 0.5 , 0.   ])
    >>> steer([0.6, 0.8], None, [1.0, 0.0], profile_weight=0.0, negative_weight=1.0).round(6)
    array([0., 1.])
    """
    towards = _number("profile_weight", profile_weight, 0, 1)
    away = _number("negative_weight", negative_weight, 0, 1)
    steered = _directions("query", query, None)
    size = steered.shape[-1:]
    for name, profile, share in (("positive", positive, towards), ("negative", negative, -away)):
        if profile is not None:
            steered = _turn(steered, _directions(name, profile, size), np.float64(share))[0]
    return steered


def _update(u: Floats, v: Floats, share: Shares, liked: Floats | None, max_drift: float) -> Floats:
    updated, same = _turn(u, v, share, liked, max_drift)
    if (gone := same & (share < 0)).any():
        updated = np.where(gone[..., None], 0.0, updated)
    return updated


def _turn(
    u: Floats, v: Floats, share: Shares, liked: Floats | None = None, max_drift: float = math.pi
) -> tuple[Floats, NDArray[np.bool_]]:
    """Turn unit rows u (..., D) by signed shares (...); also say which rows are v itself."""
    cosine = np.vecdot(u, v)
    across = v - cosine[..., None] * u
    sine = _lengths(across)
    theta = np.arctan2(sine, cosine)  # exact where arccos is not, near 0 and pi
    turn = share * np.where(share > 0, theta, np.maximum(0.0, math.pi / 2 - theta))
    aligned = sine < PARALLEL
    if aligned.any():  # no side to turn to, unless it is all the way to v
        turn = np.where(aligned & (share < 1), 0.0, turn)
    if not cosine.all():  # whoever has no profile yet goes all the way to the first thing liked
        turn = np.where((share > 0) & ~u.any(-1), theta, turn)
    across_size = np.where(sine > 0, sine, 1.0)
    if liked is not None and (turn < 0).any():
        along, beside = np.vecdot(u, liked), np.vecdot(across, liked) / across_size
        turn = np.maximum(turn, -_room(along, beside, math.cos(max_drift)))
    turned = np.cos(turn)[..., None] * u + (np.sin(turn) / across_size)[..., None] * across
    return _unit(turned, _lengths(turned)), aligned & (cosine > 0.5)


def _room(along: Floats, beside: Floats, least: float) -> Floats:
    """How far to turn away until the cosine to what was liked, now ``along``, is ``least`` (or falls at all).

    Turning away by t takes that cosine to ``along cos(t) - beside sin(t) = reach cos(t + phase)``.
    """
    reach, phase = np.hypot(along, beside), np.arctan2(beside, along)
    aim = np.minimum(along, least)
    free = aim <= -reach  # anywhere on this circle
    farthest = np.arccos(np.minimum(1.0, aim / np.where(free, 1.0, reach)))
    return np.where(free, math.inf, np.maximum(0.0, farthest - phase))


def _lengths(rows: Floats) -> Floats:
    lengths: Floats = np.sqrt(np.vecdot(rows, rows))
    return lengths


def _unit(rows: Floats, size: Floats) -> Floats:
    keep = (np.abs(size - 1) <= UNIT_TOLERANCE) | (size == 0)
    return rows / np.where(keep, 1.0, size)[..., None]


def _left(age: float, half_life_days: float) -> float:
    return float(0.5 ** (max(0.0, age) / (_positive("half_life_days", half_life_days) * DAY)))


def _number(name: str, value: object, least: float = -math.inf, most: float = math.inf) -> float:
    number = math.nan
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        with suppress(OverflowError):  # a whole number that no float holds
            number = float(value)
    if not (math.isfinite(number) and least <= number <= most):
        bounds = "" if math.inf in (-least, most) else f" from {least:g} to {most:g}"
        raise ValueError(f"{name}: expected a finite number{bounds}, got {value!r}")
    return number


def _positive(name: str, value: object) -> float:
    number = _number(name, value)
    if number <= 0:
        raise ValueError(f"{name}: expected a number > 0, got {value!r}")
    return number


def _array(name: str, value: ArrayLike, expected: str) -> Floats:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # ragged
        raise ValueError(f"{name}: expected {expected}, got rows of different lengths") from None
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name}: expected {expected}, got {array.dtype}")
    return array.astype(np.float64, copy=False)


def _numbers(
    name: str, value: ArrayLike, size: int, least: float, most: float, one_for_all: bool = True
) -> Floats:
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


def _directions(name: str, value: ArrayLike, shape: tuple[int | None, ...] | None) -> Floats:
    """Check vectors, of any shape if ``shape`` is None, and give them length 1; zeros stay."""
    rows = _array(name, value, "numbers")
    if shape is None:
        shape = (None,) * max(1, rows.ndim)
    fits = len(shape) == rows.ndim and all(s in (None, r) for s, r in zip(shape, rows.shape, strict=True))
    if not fits or rows.shape[-1] == 0:
        sizes = ", ".join("any" if s is None else str(s) for s in shape)
        raise ValueError(f"{name}: expected shape ({sizes}), the last at least 1, got {rows.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        size = _lengths(rows)
    if not ((size > 1e-100) & (size < 1e100)).all():  # zeros, no numbers, or squares that no float holds
        if not (finite := np.isfinite(rows)).all():
            at = np.argwhere(~finite)[0].tolist()
            raise ValueError(f"{name}{at}: expected a finite number, got {rows[tuple(at)]}")
        largest = np.abs(rows).max(-1, initial=0.0)
        extreme = (largest > 1e90) | ((largest < 1e-90) & (largest > 0))
        rows = rows / np.where(extreme, largest, 1.0)[..., None]
        size = _lengths(rows)
    return _unit(rows, size)

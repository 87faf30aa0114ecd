"""The profile of a user, one unit vector, after each interaction.

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

import numpy as np
from numpy.typing import ArrayLike

from improvement.evidence import MAX_WEIGHT
from improvement.profiles.sphere import Floats, Shares, directions, number, numbers, positive_number, turn

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
    total = math.fsum(number(f"signals[{name!r}]", w, -MAX_WEIGHT, MAX_WEIGHT) for name, w in named.items())
    if saturation is None:
        return max(-1.0, min(1.0, total))
    return math.tanh(total / positive_number("saturation", saturation))


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
    - a dislike of the very item (to `PARALLEL`) that the profile is: there is no side to turn to, and an
      invented one would rank items as before, plus noise. The profile as it is, if ``liked`` is known: it was
      liked more than once, or more than this once disliked it. Else it knew nothing else, and is zeros;
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
    rating = number("rating", rating, -1, 1)
    learning_rate = number("learning_rate", learning_rate, 0, 1)
    if isinstance(interaction_count, bool) or not isinstance(interaction_count, int | np.integer):
        raise ValueError(f"interaction_count: expected a whole number, got {interaction_count!r}")
    if interaction_count < 0:
        raise ValueError(f"interaction_count: expected a number >= 0, got {interaction_count!r}")
    user = directions("current_vector", current_vector, (None,))
    item = directions("item_vector", item_vector, user.shape)
    near = None if liked is None else directions("liked", liked, user.shape)
    max_drift = number("max_drift", max_drift, 0, math.pi)
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
    user = directions("users", users, (None, None))
    item = directions("items", items, user.shape)
    near = None if liked is None else directions("liked", liked, user.shape)
    max_drift = number("max_drift", max_drift, 0, math.pi)
    size = len(user)
    rating = numbers("ratings", ratings, size, -1, 1, one_for_all=False)
    least = numbers("learning_rates", learning_rates, size, 0, 1)
    count = numbers("counts", counts, size, 0, sys.float_info.max)
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


def _update(u: Floats, v: Floats, share: Shares, liked: Floats | None, max_drift: float) -> Floats:
    updated, same = turn(u, v, share, liked, max_drift)
    gone = same & (share < 0)
    if liked is not None:
        gone = gone & ~liked.any(-1)
    return np.where(gone[..., None], 0.0, updated) if gone.any() else updated

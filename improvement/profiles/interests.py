"""What a user's interactions say together: the batch's profile, a pure function of the log."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from improvement.evidence import DAY
from improvement.objects import Vectors
from improvement.profiles.negative import NegativeProfile
from improvement.profiles.settings import ProfileSettings
from improvement.profiles.sphere import PARALLEL, Floats, directions, lengths, numbers, turn

#: Weight of a dislike that counts tanh(1) = 0.76 in the negative profile, as in `rating_from_signals`.
SATURATION = 3.0
#: How much nearer, in cosines, likes must be to the others of their interest for one interest more.
GAIN = 0.01
#: Rounds of k-means at most.
ROUNDS = 20
#: Largest weight, and second since 1970, that is taken for one.
_LARGEST = 1e15


@dataclass(frozen=True, eq=False)
class Taste:
    """What a user's interactions say together; all vectors in the space of the objects.

    Attributes:
        embedding: unit (D,), ``liked`` turned away from ``negative``; None without likes.
        liked: unit (D,), weighted mean direction of the likes; None without likes, or when they cancel out.
        negative: what was disliked, fading; None without dislikes.
        interests: unit rows (k, D), the heaviest first, each turned away like ``embedding``; k = 0 when the
            taste is one direction, else 2 to `ProfileSettings.interests`.
        positives, negatives: interactions of either sign.
    """

    embedding: Vectors | None
    liked: Vectors | None
    negative: NegativeProfile | None
    interests: Vectors
    positives: int
    negatives: int


def taste(vectors: ArrayLike, weights: ArrayLike, at: ArrayLike, settings: ProfileSettings) -> Taste:
    """Return what interactions say together; their order does not matter, not even in the last bit.

    With v the items at length 1, w their weights and age measured in days::

        liked     = unit(sum over w > 0 of  w * 0.5 ** (age / half_life_days) * v)
        negative  = sum over w < 0 of  tanh(|w| / 3) * 0.5 ** (age / negative_half_life_days) * v
        embedding = liked, turned away from negative by the share  away * strength

    ``negative`` is what `remember_dislike` makes of the same events one by one. Its strength is taken at the
    user's latest interaction, so that a profile does not change while its user is away. The turn is that of a
    dislike (see `online`): it ends at cosine 0 to ``negative``, at most ``max_drift`` from ``liked``.
    A user who likes the very thing they dislike keeps it.

    Interests are the clusters of spherical k-means (I. Dhillon, D. Modha, "Concept Decompositions for Large
    Sparse Text Data Using Clustering", 2001) over what was liked. One more is made as long as the weighted
    mean cosine of the likes to the *other* likes of their interest rises by `GAIN`: measured without itself,
    a like that agrees with nothing gains nothing by an interest of its own. The first centres are the likes
    that the others are nearest to, one after another, each counting what those before it leave far away.

    Args:
        vectors: items (N, D), finite, of any length; zeros say nothing and are not counted.
        weights: (N,), signed event weights; 0 says nothing and is not counted.
        at: (N,), when, in seconds since 1970.

    Raises:
        ValueError: naming the argument, its first bad row and what was expected.

    >>> made = taste([[2.0, 0.0], [0.0, 1.0]], [5.0, -5.0], [0.0, 60.0], ProfileSettings())
    >>> made.liked, made.embedding, made.negative.vector.round(2)
    (array([1., 0.], dtype=float32), array([1., 0.], dtype=float32), array([0.  , 0.93]))
    """
    rows = directions("vectors", vectors, (None, None))
    size = len(rows)
    weight = numbers("weights", weights, size, -_LARGEST, _LARGEST, one_for_all=False)
    when = numbers("at", at, size, -_LARGEST, _LARGEST, one_for_all=False)
    order = _order(rows, weight, when)
    likes, dislikes = order[weight[order] > 0], order[weight[order] < 0]
    counts = len(likes), len(dislikes)
    negative = _disliked(rows[dislikes], weight[dislikes], when[dislikes], settings)
    rows, share = rows[likes], _faded(weight[likes], when[likes], settings.half_life_days)
    total = share @ rows
    length = float(lengths(total))
    if length <= PARALLEL * share.sum():  # nothing liked, or for every like its opposite
        return Taste(None, None, negative, np.empty((0, rows.shape[1]), np.float32), *counts)
    positive = (total / length)[None]
    if settings.interests > 1:
        positive = np.concatenate([positive, _centres(rows, share, settings.interests)])
    turned = positive
    if negative is not None:
        away = settings.away * negative.strength(when[order].max(), settings.negative_half_life_days)
        direction = directions("negative", negative.vector, None)
        turned, _ = turn(positive, direction, np.float64(-away), positive, settings.max_drift)
    kept: Vectors = turned.astype(np.float32)
    return Taste(kept[0], positive[0].astype(np.float32), negative, kept[1:], *counts)


def _order(rows: Floats, weight: Floats, when: Floats) -> NDArray[np.intp]:
    """The rows that say something, in an order of their own: sums of floats depend on theirs."""
    says = np.flatnonzero((weight != 0) & rows.any(1))
    order = says[np.lexsort((when[says], weight[says]))]
    as_bytes = np.ascontiguousarray(rows[order]).view(f"V{rows.shape[1] * rows.itemsize}")[:, 0]
    return order[as_bytes.argsort(kind="stable")]


def _faded(weight: Floats, when: Floats, half_life_days: float | None) -> Floats:
    """Weights by age to the latest: against any later moment all would fade alike."""
    if half_life_days is None or len(when) == 0:
        return weight
    with np.errstate(over="ignore"):  # 0.5 to the infinity is 0
        faded: Floats = weight * 0.5 ** ((when.max() - when) / (half_life_days * DAY))
    return faded


def _disliked(
    rows: Floats, weight: Floats, when: Floats, settings: ProfileSettings
) -> NegativeProfile | None:
    if len(rows) == 0:
        return None
    share = _faded(np.tanh(-weight / SATURATION), when, settings.negative_half_life_days)
    return NegativeProfile(share @ rows, float(when.max()))


def _centres(rows: Floats, weight: Floats, most: int) -> Floats:
    """Unit centres of what was liked, heaviest first; none when it is one direction."""
    weight = weight / weight.sum()
    cosines = rows @ rows.T  # all that k-means needs to know
    others = cosines - 2 * np.eye(len(rows))  # no row speaks for itself
    nearest = np.full(len(rows), -1.0)  # of each row to the seeds
    seeds: list[int] = []
    clusters, agreed = np.ones((len(rows), 1)), 0.0
    while len(seeds) < min(most, len(rows)):
        seeds.append(int((weight @ np.maximum(0.0, others - nearest[:, None])).argmax()))
        nearest = np.maximum(nearest, cosines[:, seeds[-1]])
        split = _settled(cosines, weight, np.eye(len(seeds))[cosines[:, seeds].argmax(1)])
        better = _agreement(cosines, weight, split)
        if len(seeds) > 1 and better < agreed + GAIN:
            break
        clusters, agreed = split, better
    shares = clusters * weight[:, None]
    sums = (shares.T @ rows)[np.argsort(-shares.sum(0), kind="stable")]
    sums = sums[lengths(sums) > PARALLEL]
    return sums / lengths(sums)[:, None] if len(sums) > 1 else sums[:0]


def _settled(cosines: Floats, weight: Floats, clusters: Floats) -> Floats:
    for _ in range(ROUNDS):
        shares = clusters * weight[:, None]
        towards = cosines @ shares  # rows to the sums of clusters
        size = np.sqrt(np.maximum(0.0, (shares * towards).sum(0)))
        nearest = np.where(size > PARALLEL, towards / np.maximum(size, PARALLEL), -1.0).argmax(1)
        moved = np.eye(len(size))[nearest]
        if np.array_equal(moved, clusters):
            break
        clusters = moved
    return clusters


def _agreement(cosines: Floats, weight: Floats, clusters: Floats) -> float:
    """Weighted mean cosine of rows to the sum of the others in their cluster; 0 for one alone."""
    shares = clusters * weight[:, None]
    towards = cosines @ shares
    own, square = (towards * clusters).sum(1), clusters @ (shares * towards).sum(0)
    others = square - 2 * weight * own + weight**2  # squared length of the sum without the row itself
    alone = others <= 1e-9 * square
    return float(weight @ np.where(alone, 0.0, (own - weight) / np.sqrt(np.where(alone, 1.0, others))))

"""What everybody chose, as one turn for each object: pure functions on arrays.

How far is a matter of rates: an object chosen more often than others, where it was looked at, is turned
towards the queries that it was chosen for, one passed over more often is turned away from those that it was
shown for. What one account says is bounded three times: it counts as `PopulationSettings.per_user`
impressions of an object at most; of those who chose an object, who refused it and who were shown it, the
loudest is left out of how far; and in the mean rate every account counts once. So what only one account says
of an object does not move it, whatever that account does. Where to, all say who chose it, the loudest no
louder than the next one: leaving him out would leave a quieter account alone with what it wants. So no
account is more than half of where to.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from improvement.adjusters.base import SLACK
from improvement.domain import MetricType
from improvement.green.settings import PopulationSettings
from improvement.objects import Vectors

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Numbers in the largest intermediate of a sum over queries: few enough to stay in the processor's cache.
CHUNK = 1 << 16
#: Sine of the angle to its target, or to the opposite, below which a row stays: what is across is rounding.
PARALLEL = 1e-9


@dataclass(frozen=True, eq=False)
class PopulationEvidence:
    """What sessions say, one row for each object that one of them showed.

    Attributes:
        users: (n,) whose each impression is; numbers from 0.
        objects: (n,) what was shown; rows of what is to be turned.
        searches: (n,) row of ``queries``.
        chosen: (n,) >= 0, how much it was chosen, already weighed against its place's bias; 0: passed over.
        refused: (n,) >= 0, how much it was disliked.
        looked: (n,) 0..1, what the impression counts: how likely it was looked at, times what a choice
            counts there. Choices divided by it are a rate without the place's bias.
        queries: (S, D), prepared.
        count: how many objects there are.
    """

    users: Ints
    objects: Ints
    searches: Ints
    chosen: Floats
    refused: Floats
    looked: Floats
    queries: Vectors
    count: int


@dataclass(frozen=True, eq=False)
class Turns:
    """For each object, where to and how far.

    Attributes:
        targets: (N, D) float32; zeros where there is none.
        amounts: (N,) radians (cosine) or share of the length (dot, euclid); > 0 towards, < 0 away, 0 stays.
    """

    targets: Vectors
    amounts: Floats


def population_turns(evidence: PopulationEvidence, settings: PopulationSettings) -> Turns:
    """Return how far, and where to, each object is turned by what everybody chose.

    With an object's choices C, refusals R and impressions S, each without its loudest account, the mean rate
    m of all accounts and a prior of p impressions at that rate, its lift is the logarithm of
    ``(C + p m) / ((S + p) m) * (C + p m) / (C + p m + R)``: how many times as often as the mean it is chosen,
    times the share of what is said that speaks for it. It is turned by
    ``max_drift * lift / strongest``, at most ``max_drift``, towards the mean query that it was chosen for,
    the loudest account as loud there as the next one; where its lift is below 0, by ``away`` times that from
    the mean query that it was shown for, without the loudest. Towards, S counts every account, so that the
    doubt is always in favour of staying.

    One more account, whatever it does, changes an amount other than 0 by at most
    ``max_drift / strongest * (2 log(1 + per_user / (p m)) + |change of log(m)|)``, m being the smaller mean.

    Raises:
        ValueError: naming the column and what was expected.

    >>> def said(users: int) -> PopulationEvidence:  # each was shown two objects, and chose the first
    ...     shown = np.tile([0, 1], users)
    ...     return PopulationEvidence(
    ...         users=np.arange(2 * users) // 2, objects=shown, searches=0 * shown, chosen=1.0 - shown,
    ...         refused=0.0 * shown, looked=np.ones(2 * users), queries=np.ones((1, 2), np.float32), count=2,
    ...     )
    >>> settings = PopulationSettings(max_drift=0.2, prior=20, strongest=2, per_user=1, away=1)
    >>> population_turns(said(users=50), settings).amounts.round(3)
    array([ 0.052, -0.124])
    >>> population_turns(said(users=1), settings).amounts
    array([0., 0.])
    """
    _check(evidence)
    accounts = int(evidence.users.max(initial=-1)) + 1
    pairs, of = np.unique(evidence.objects * accounts + evidence.users, return_inverse=True)
    objects, users = np.divmod(pairs, max(1, accounts))
    columns = (evidence.looked, evidence.chosen, evidence.refused)
    shown, chosen, refused = (_sums(of, column, len(pairs)) for column in columns)
    most = np.full_like(shown, settings.per_user)
    bounded = most / np.maximum.reduce([most, shown, chosen, refused])
    shown, chosen, refused = shown * bounded, chosen * bounded, refused * bounded
    mean = _mean_rate(users, shown, chosen)
    if not mean:
        nowhere = np.zeros((evidence.count, evidence.queries.shape[1]), np.float32)
        return Turns(nowhere, np.zeros(evidence.count))

    def total(values: Floats) -> Floats:
        return _sums(objects, values, evidence.count)

    for_it, against, seen = (_without_loudest(objects, values) for values in (chosen, refused, shown))
    votes = total(chosen * for_it) + settings.prior * mean
    liked = votes * (votes / (votes + total(refused * against)))
    # Quotients of products, not sums of logarithms: where nobody is heard they are exactly 1, or less.
    towards = np.log(liked / ((total(shown) + settings.prior) * mean))
    away = np.log(liked / ((total(shown * seen) + settings.prior) * mean))
    lift = np.clip(0.0, towards, away) / settings.strongest  # the one nearer to 0, and 0 between them
    amounts = settings.max_drift * np.clip(np.where(lift > 0, lift, settings.away * lift), -1, 1)
    weights = np.where(
        amounts[evidence.objects] > 0,
        evidence.chosen * (bounded * _no_louder_than_the_next(objects, chosen, for_it, evidence.count))[of],
        evidence.looked * (bounded * seen)[of],
    )
    targets = _mean_queries(evidence, weights * (amounts[evidence.objects] != 0))
    return Turns(targets, np.where(targets.any(axis=1), amounts, 0.0))


def _sums(places: Ints, values: Floats, count: int) -> Floats:
    sums: Any = np.bincount(places, values, count)  # floats, for there are weights
    return np.asarray(sums, np.float64)


def _mean_rate(users: Ints, shown: Floats, chosen: Floats) -> float:
    """Return the mean over accounts of the rate at which each chooses, at most 1 each."""
    seen, chose = np.bincount(users, shown), np.bincount(users, chosen)
    some = seen > 0
    return float(np.minimum(1.0, chose[some] / seen[some]).mean()) if some.any() else 0.0


def _without_loudest(objects: Ints, values: Floats) -> NDArray[np.bool_]:
    """Say for each pair whether it is heard: all are, but for the largest value of each object."""
    heard = np.ones(len(objects), np.bool_)
    order = np.lexsort((-values, objects))
    heard[order[np.unique(objects[order], return_index=True)[1]]] = False
    return heard


def _no_louder_than_the_next(objects: Ints, values: Floats, heard: NDArray[np.bool_], count: int) -> Floats:
    """Return the factor that makes an object's loudest value as large as its next one; 1 for the others."""
    following = np.zeros(count)
    np.maximum.at(following, objects[heard], values[heard])
    return np.where(heard, 1.0, following[objects] / np.where(values > 0, values, 1.0))


def _mean_queries(evidence: PopulationEvidence, weights: Floats) -> Vectors:
    """Return each object's weighted mean query, zeros where no weight is above 0: (N, D)."""
    targets = np.zeros((evidence.count, evidence.queries.shape[1]), np.float32)
    rows = np.flatnonzero(weights > 0)
    rows = rows[np.argsort(evidence.objects[rows], kind="stable")]
    objects, place = np.unique(evidence.objects[rows], return_inverse=True)
    sums = np.zeros((len(objects), targets.shape[1]))
    step = max(1, CHUNK // max(1, targets.shape[1]))
    for start in range(0, len(rows), step):
        some, where = rows[start : start + step], place[start : start + step]
        starts = np.flatnonzero(np.diff(where, prepend=-1))
        weighed = evidence.queries[evidence.searches[some]] * _column(weights[some])
        sums[where[starts]] += np.add.reduceat(weighed, starts, axis=0)
    sums /= _column(_sums(place, weights[rows], len(objects)))
    targets[objects] = sums
    return targets


def turned(rows: Vectors, targets: Vectors, amounts: Floats, metric: MetricType) -> Vectors:
    """Turn rows (N, D) towards targets (N, D) by amounts (N,); a row never passes its target.

    COSINE: on the great circle to the target, or from it, at most to the opposite; lengths stay. EUCLID: on
    the straight line to it, or from it, by a share of the row's length. DOT: along the target's direction, or
    against it, by a share of the row's length.

    No row drifts farther than its amount, rounding included (`adjusters.base.drift`). A row stays, bit for
    bit, where it or its target is zeros, where no way leads there (it is at its target, or opposite), and
    where its format cannot measure the way. Each row is a function of itself, its target and its amount.

    Returns:
        A new float32 array (N, D).

    Raises:
        ValueError: naming the argument, for another shape, NaN or infinity.

    >>> rows, targets = np.array([[2, 0], [2, 0]], np.float32), np.array([[0, 1], [0, 1]], np.float32)
    >>> turned(rows, targets, np.array([np.pi / 6, -np.pi / 2]), MetricType.COSINE).round(3)
    array([[ 1.732, 1.   ], [ 0.   , -2.   ]], dtype=float32)
    >>> turned(rows, targets, np.array([0.5, -0.5]), MetricType.DOT).round(3)
    array([[ 2.,  1.], [ 2., -1.]], dtype=float32)
    """
    before = np.asarray(rows, np.float32)
    x, to, far = before.astype(np.float64), np.asarray(targets, np.float64), np.asarray(amounts, np.float64)
    if x.ndim != 2:
        raise ValueError(f"rows: expected shape (N, D), got {x.shape}")
    for name, values, shape in (
        ("rows", x, x.shape),
        ("targets", to, x.shape),
        ("amounts", far, x.shape[:1]),
    ):
        if values.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    # rounding may take what is left free
    reach = np.copysign(np.maximum(0.0, np.abs(far) - SLACK * (1 + np.abs(far))), far)
    with np.errstate(all="ignore"):  # where there is no way, it is NaN, and the row stays
        moved = _moved(x, to, reach, metric)
        after = moved.astype(np.float32)
        lawful = np.isfinite(after).all(axis=1) & (_drift(x, after.astype(np.float64), metric) <= np.abs(far))
    result: Vectors = np.where(lawful[:, None], after, before)
    return result


def _moved(x: Floats, to: Floats, reach: Floats, metric: MetricType) -> Floats:
    size, far = _length(x), _length(to)
    reach = np.where((reach != 0) & (size > 0) & (far > 0), reach, np.nan)
    if metric is MetricType.DOT:
        return x + _column(reach * size / far) * to
    if metric is MetricType.EUCLID:
        way = _length(to - x)
        return x + _column(np.minimum(reach * size, way) / np.where(way > 0, way, np.nan)) * (to - x)
    u, v = x / _column(size), to / _column(far)
    across = v - _column((u * v).sum(axis=1)) * u
    width = _length(across)
    across /= _column(np.where(width > PARALLEL, width, np.nan))
    angle = _angle(u, v)
    step = np.clip(reach, angle - np.pi, angle)
    arrived = _column(np.cos(step)) * u + _column(np.sin(step)) * across
    return arrived * _column(size / _length(arrived))


def _drift(x: Floats, y: Floats, metric: MetricType) -> Floats:
    if metric is MetricType.COSINE:
        return _angle(x / _column(_length(x)), y / _column(_length(y)))
    drift: Floats = _length(y - x) / _length(x)
    return drift


def _angle(u: Floats, v: Floats) -> Floats:
    angle: Floats = 2 * np.arctan2(_length(u - v), _length(u + v))
    return angle


def _length(x: Floats) -> Floats:
    # row by row: a matrix product, and with it the result, might depend on what else is in the batch
    length: Floats = np.sqrt((x * x).sum(axis=1))
    return length


def _column(values: Floats) -> Floats:
    return values[:, None]


def _check(evidence: PopulationEvidence) -> None:
    """Check the columns; raises ValueError naming the first that makes no sense."""
    limits = {"users": None, "objects": evidence.count, "searches": len(evidence.queries)}
    for name in ("users", "objects", "searches", "chosen", "refused", "looked"):
        column = getattr(evidence, name)
        if column.shape != (len(evidence.users),):
            raise ValueError(f"{name}: expected shape {(len(evidence.users),)}, got {column.shape}")
        if not np.isfinite(column).all() or (column < 0).any():
            raise ValueError(f"{name}: expected finite numbers >= 0")
        limit = limits.get(name)
        if limit is not None and (column >= limit).any():
            raise ValueError(f"{name}: expected numbers below {limit}, got {column.max()}")
    if evidence.queries.ndim != 2 or not np.isfinite(evidence.queries).all():
        raise ValueError("queries: expected finite numbers of shape (S, D)")

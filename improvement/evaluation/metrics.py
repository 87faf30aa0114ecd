"""How good a ranked list is, and how sure that is: pure functions; what is undefined is NaN, not 0."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Resamples of one bootstrap.
RESAMPLES = 2_000
#: Numbers in the largest array of a bootstrap; more groups are drawn in more rounds.
CHUNK = 1 << 22


def dcg(gains: ArrayLike, k: int = 10) -> float:
    """Return the discounted cumulative gain: sum over places i = 1..k of gain_i / log2(i + 1).

    Source: Järvelin and Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques",
    https://doi.org/10.1145/582415.582418, with the discount at every place.

    Args:
        gains: what each place is worth, best place first; any length.

    >>> dcg([1, 0, 1])
    1.5
    """
    first = np.asarray(gains, np.float64)[:k]
    return float(first @ (1 / np.log2(np.arange(2, len(first) + 2))))


def ndcg(hits: ArrayLike, relevant: int, k: int = 10) -> float:
    """Return DCG@k over the DCG@k of a list that starts with all relevant objects, 0 to 1.

    Args:
        hits: 1 where the object at that place is relevant, else 0, best place first.
        relevant: how many relevant objects there are, ranked or not; NaN when there is none.

    >>> ndcg([1, 1, 0], relevant=2), round(ndcg([0, 1], relevant=5), 4)
    (1.0, 0.214)
    >>> ndcg([0, 0], relevant=0)
    nan
    """
    return dcg(hits, k) / dcg(np.ones(min(k, relevant)), k) if relevant > 0 else float("nan")


def graded_ndcg(gains: ArrayLike, k: int = 10) -> float:
    """Return DCG@k over the DCG@k of the same list in its best order, 0 to 1; NaN without any gain.

    Args:
        gains: what each place is worth, >= 0, best place first, of everything that is worth something.

    >>> round(graded_ndcg([3, 0, 1]), 4), graded_ndcg([0, 0])
    (0.9639, nan)
    """
    best = dcg(-np.sort(-np.asarray(gains, np.float64)), k)
    return dcg(gains, k) / best if best > 0 else float("nan")


def reciprocal_rank(hits: ArrayLike) -> float:
    """Return 1 / place of the first relevant object, 0 to 1; NaN when there is none in the list.

    Source: Voorhees 1999, "The TREC-8 Question Answering Track Report" (mean reciprocal rank).

    >>> reciprocal_rank([0, 1, 1]), reciprocal_rank([0, 0])
    (0.5, nan)
    """
    places = np.flatnonzero(np.asarray(hits))
    return float(1 / (places[0] + 1)) if len(places) else float("nan")


def share(hits: ArrayLike, k: int = 10) -> float:
    """Return which share of the first k objects is marked, 0 to 1 (precision at k); NaN for an empty list.

    >>> share([1, 0, 1, 1], k=2)
    0.5
    """
    first = np.asarray(hits, np.float64)[:k]
    return float(first.mean()) if len(first) else float("nan")


def weighted_mean(values: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return sum(weight * value) / sum(weight), leaving NaN values out; NaN when nothing is left.

    With inverse propensities as weights this is the self-normalised estimate of Swaminathan and Joachims,
    "The Self-Normalized Estimator for Counterfactual Learning" (NIPS 2015): what everybody would have seen
    had they looked at every place, never outside the range of the values.

    Args:
        weights: >= 0, one for each value; None weighs all the same.

    >>> weighted_mean([1.0, 0.0, float("nan")], [3.0, 1.0, 5.0])
    0.75
    """
    sums, total = _group_sums(values, None, weights)
    return float(sums.sum() / total.sum()) if total.sum() > 0 else float("nan")


def bootstrap_interval(
    values: ArrayLike,
    groups: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the weighted mean; NaN values are left out.

    What is drawn, with replacement, is whole groups (users): the sessions of one user are not independent,
    and drawing them one by one would give intervals that are too narrow.
    Sources: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13; Field and Welsh 2007,
    "Bootstrapping clustered data", https://doi.org/10.1111/j.1467-9868.2007.00593.x.

    Args:
        values: the values, in any order.
        groups: whose each value is; None makes each its own group.
        weights: >= 0, as in `weighted_mean`.
        seed: equal seeds draw equal groups.
        resamples: how often all groups are drawn.
        level: share of the resampled means inside the interval.

    Returns:
        Its lower and upper end; NaN for fewer than two groups or values that are not finite.

    >>> bootstrap_interval([0.0, 1.0, 0.0, 1.0] * 25)
    (0.41, 0.60)
    >>> bootstrap_interval([0.1, 0.9], groups=["the same user"] * 2)
    (nan, nan)
    """
    sums, totals = _group_sums(values, groups, weights)
    count = len(sums)
    if count < 2 or not np.isfinite(sums).all():
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = []
    rows = max(1, CHUNK // count)
    for start in range(0, resamples, rows):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(rows, resamples - start))
        weight = drawn @ totals
        means.append((drawn @ sums)[weight > 0] / weight[weight > 0])
    found = np.concatenate(means)
    if not len(found):
        return float("nan"), float("nan")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _group_sums(
    values: ArrayLike, groups: ArrayLike | None, weights: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each group's sum of weight * value and its sum of weights, without the NaN values."""
    numbers: NDArray[np.float64] = np.asarray(values, np.float64)
    weight = np.ones_like(numbers) if weights is None else np.asarray(weights, np.float64)
    labels: NDArray[Any] = np.arange(len(numbers)) if groups is None else np.asarray(groups)
    if not numbers.shape == weight.shape == labels.shape or numbers.ndim != 1:
        raise ValueError(
            f"values, weights, groups: expected lists of one length, "
            f"got shapes {numbers.shape}, {weight.shape}, {labels.shape}"
        )
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise ValueError("weights: expected finite numbers >= 0")
    defined = ~np.isnan(numbers)
    _, rows = np.unique(labels[defined], return_inverse=True)
    size = int(rows.max(initial=-1)) + 1
    sums, totals = np.zeros(size), np.zeros(size)
    np.add.at(sums, rows, weight[defined] * numbers[defined])
    np.add.at(totals, rows, weight[defined])
    return sums, totals

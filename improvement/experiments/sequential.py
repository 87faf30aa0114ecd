"""Tests that hold however often one looks, and stops when one likes: pure functions of numbers.

An interval of the usual kind holds for one look. Who looks every day and stops at the first one that leaves
out 0 is wrong far more often than it says. A confidence sequence holds at all looks at once.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist


def mixture(planned: float, level: float) -> float:
    """Return rho squared, for which the sequence is the narrowest after so many observations.

    Source: Howard, Ramdas, McAuliffe and Sekhon 2021, "Time-uniform, nonparametric, nonasymptotic confidence
    sequences", https://doi.org/10.1214/20-AOS1991, section 3.5, with their approximation of Lambert's W.

    Args:
        planned: observations, > 0; settled before the first one.
        level: 0..1.
    """
    wrong = -2 * math.log(1 - level)
    return (wrong + math.log(wrong + 1)) / planned


def always_reach(error: float, observations: float, rho2: float, level: float) -> float:
    """Return how far, on either side, the confidence sequence of a mean reaches after so many observations.

    With chance ``level`` the truth is inside at every look, as the sample grows: the asymptotic confidence
    sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and
    asymptotic confidence sequences" (Annals of Statistics 2024, https://arxiv.org/abs/2103.06476), theorem
    2.2, written with the standard error of the mean. It is the mixture sequential probability ratio test of
    Johari, Koomen, Pekelis and Walsh, "Peeking at A/B tests" (KDD 2017), with an estimated variance.

    Args:
        error: standard error of the estimate, > 0.
        observations: how many there are now, > 0.
        rho2: see `mixture`; the same at every look.

    >>> rho2 = mixture(2_000, 0.95)
    >>> [round(always_reach(1.0, n, rho2, 0.95), 2) for n in (20, 200, 2_000, 20_000)]
    [9.08, 3.86, 3.04, 3.24]
    """
    times = rho2 * observations
    return error * math.sqrt((1 + 1 / times) * math.log((1 + times) / (1 - level) ** 2))


def always_p(estimate: float, error: float, observations: float, rho2: float) -> float:
    """Return the always-valid p-value of "it is 0", 0..1: below 0.05 at any look has at most that chance.

    The sequence of level 1 - p just leaves out 0: see `always_reach` for the arguments.

    >>> rho2 = mixture(2_000, 0.95)
    >>> round(always_p(always_reach(1.0, 500, rho2, 0.95), 1.0, 500, rho2), 6)
    0.05
    """
    times, z = rho2 * observations, estimate / error
    return min(1.0, math.sqrt(1 + times) * math.exp(-(z**2) * times / (2 * (1 + times))))


def reach(error: float, level: float) -> float:
    """Return how far, on either side, the usual interval of a mean reaches: for one look, planned before."""
    return error * NormalDist().inv_cdf((1 + level) / 2)


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return p-values that hold for all of these tests together; None stays, and counts as a test.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure". It asks nothing of how the
    tests depend on one another; of always-valid p-values it makes always-valid ones.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": None})
    {'a': 0.04, 'b': 0.09, 'c': 0.09, 'd': None}
    """
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    least = 0.0
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    for rank, (p, name) in enumerate(known):
        least = max(least, min(1.0, p * (len(p_values) - rank)))
        adjusted[name] = least
    return adjusted


def mismatch_p(counts: Sequence[int], shares: Sequence[float], concentration: float = 100.0) -> float:
    """Return the always-valid p-value of "people came as the shares say", 0..1.

    Source: Lindon and Malek 2022, "Anytime-Valid Inference for Multinomial Count Data",
    https://arxiv.org/abs/2011.03567: one over the Bayes factor of other shares, by a Dirichlet distribution
    around these, against these; looks may be as many as there are people.

    Args:
        counts: people of each arm.
        shares: that each should have, > 0, together 1.
        concentration: of the distribution; larger looks for smaller mismatches.

    >>> mismatch_p([500, 500], [0.5, 0.5]), round(mismatch_p([600, 400], [0.5, 0.5]), 6)
    (1.0, 0.000001)
    """
    prior = [concentration * share for share in shares]
    factor = math.lgamma(concentration) - math.lgamma(concentration + sum(counts))
    factor += math.fsum(
        math.lgamma(alpha + n) - math.lgamma(alpha) - n * math.log(share)
        for n, alpha, share in zip(counts, prior, shares, strict=True)
    )
    return min(1.0, math.exp(min(0.0, -factor)))

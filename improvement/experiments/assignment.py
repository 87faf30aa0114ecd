"""Who takes part in an experiment, and in which arm: a pure function of names, the same in every process."""

import hashlib
import math
from collections.abc import Mapping

from improvement.experiments.settings import Arm, Experiment

#: Bits of a digest that make a number: with half a step more, every one is a float and none is 0 or 1.
BITS = 52


def assigned(experiment: Experiment | None, user_id: str | None) -> Arm | None:
    """Return the arm of a user; None for who does not take part, and for nobody.

    Each user draws a number for the experiment and takes part if it is below the percentage: raising it
    leaves everybody who takes part where they are. And each draws a number u for each arm, by its name, and
    gets the arm of the least ``-ln(u) / share``: the chances are as the shares (a race of exponential clocks;
    Schindelhauer and Schomaker 2005, "Weighted distributed hash tables",
    https://doi.org/10.1145/1073970.1074008). An arm that comes wins its own share of races and changes no
    other; one that goes leaves its users to the others: nobody else moves, and with fewer moves the shares
    would not hold.
    """
    if experiment is None or user_id is None:
        return None
    if drawn(experiment.name, "", user_id) >= experiment.percent / 100:
        return None
    return min(
        experiment.arms, key=lambda arm: -math.log(drawn(experiment.name, arm.name, user_id)) / arm.share
    )


def drawn(experiment: str, arm: str, user_id: str) -> float:
    """Return the number, above 0 and below 1, that a user draws for an arm; "" is for taking part.

    Names are joined by their lengths, not by a character that they could contain:

    >>> drawn("a", "b|c", "d") == drawn("a", "b", "|cd")
    False
    """
    text = f"{len(experiment)}:{experiment}|{len(arm)}:{arm}|{user_id}"
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, person=b"experiment")
    return float(((int.from_bytes(digest.digest(), "big") >> (64 - BITS)) + 0.5) / 2**BITS)


def evenness(counts: Mapping[str, int], experiment: Experiment) -> float:
    """Return the chi-square p-value of so many users in each arm, if the arms have the shares they should.

    Source: Pearson 1900; its use for experiments: Fabijan et al., "Diagnosing Sample Ratio Mismatch in Online
    Controlled Experiments" (KDD 2019), https://doi.org/10.1145/3292500.3330722.

    Args:
        counts: users by the arm's name; arms without users may be left out.

    Returns:
        0..1; NaN without any users. For one look: of many, one in a hundred is below 0.01 by chance.
    """
    total = sum(counts.get(arm.name, 0) for arm in experiment.arms)
    if not total:
        return float("nan")
    shares = expected_shares(experiment)
    off = math.fsum((counts.get(name, 0) - total * share) ** 2 / share for name, share in shares.items())
    return chi_square_tail(off / total, len(experiment.arms) - 1)


def expected_shares(experiment: Experiment) -> dict[str, float]:
    """Return which share of those who take part each arm should have; they sum to 1."""
    total = math.fsum(arm.share for arm in experiment.arms)
    return {arm.name: arm.share / total for arm in experiment.arms}


def chi_square_tail(value: float, freedom: int) -> float:
    """Return the chance that a chi-square variable is at least that large.

    Source: Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.4.4 and 26.4.5: finite sums, for
    whole degrees of freedom.

    Args:
        value: >= 0.
        freedom: degrees of freedom, >= 1.

    >>> round(chi_square_tail(3.841458820694124, 1), 6), round(chi_square_tail(18.307038053275146, 10), 6)
    (0.05, 0.05)
    """
    half = value / 2
    if half <= 0:
        return 1.0
    # each term in logarithms: alone, half ** k overflows and exp(-half) is 0
    terms = [
        math.exp(k * math.log(half) - half - math.lgamma(k + 1))
        for k in (freedom / 2 - n for n in range(1, freedom // 2 + 1))
    ]
    start = math.erfc(math.sqrt(half)) if freedom % 2 else 0.0
    return min(1.0, start + math.fsum(terms))

"""Vital signs: each row of the monitoring table of seed 001, judged and said in a plain sentence; pure."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from improvement.evaluation.drift import Grade
from improvement.quality.audits import Finding
from improvement.two_tower.sampling import Reason
from improvement.two_tower.settings import TowerHealth

#: Kinds of findings, and of the alerts that they lead to.
LATENCY, RATE, BALANCE, DRIFT = "towers.latency", "towers.rate", "towers.balance", "towers.drift"
COLD_CLICKS, COVERAGE, ITEMS = "towers.cold_clicks", "towers.coverage", "towers.items"
#: Kinds that only the weekly audit judges.
WEEK_DRIFT, WEEK_BALANCE = "towers.audit.drift", "towers.audit.balance"
#: What every look judges, and what the weekly one judges besides.
HOURLY = (LATENCY, RATE, BALANCE, DRIFT, COLD_CLICKS, COVERAGE, ITEMS)
WEEKLY = (WEEK_DRIFT, WEEK_BALANCE)
#: Engagements below which a percentile of how long they took says nothing.
LEAST_TIMED = 20
#: Seconds after which learning from an engagement was late, and share of them that may be.
LATE_SECONDS, MOST_LATE = 60.0, 0.05
#: Positive pairs for one negative that a week should have, and how like itself a sample should stay.
WEEK_POSITIVES, WEEK_LIKE = (0.1, 0.5), 0.9


def latency(
    seconds: Sequence[float], health: TowerHealth, late: int = 0, engagements: int = 0
) -> Finding | None:
    """Judge how long learning from engagements took; None where there are too few.

    Args:
        seconds: that it took where it was done when they came.
        late: how many of so many ``engagements`` were learned from `LATE_SECONDS` later, or later than that:
            nobody waited for it, so these have no seconds; more than `MOST_LATE` are a warning by themselves.

    >>> latency([0.004] * 99 + [2.0], TowerHealth()).grade.value
    'good'
    >>> latency([0.004] * 94, TowerHealth(), late=6, engagements=100).grade.value
    'warning'
    """
    slow = slowest(seconds) if len(seconds) >= LEAST_TIMED else None
    failing = engagements >= LEAST_TIMED and late > MOST_LATE * engagements
    if slow is None and not failing:
        return None
    grade, said = Grade.WARNING, []
    if slow is not None:
        said.append(
            f"learning from an engagement took {1000 * slow:.1f} ms (95th percentile of {len(seconds)}), "
            f"where less than {1000 * health.good_latency:.6g} ms is the target"
        )
        grade = _above(slow, health.good_latency, health.most_latency)
    if late:
        said.append(
            f"{late} of {engagements} engagements of the last day were learned from more than "
            f"{LATE_SECONDS:.6g} s after they came"
        )
    return Finding(LATENCY, Grade.WARNING if failing else grade, "; ".join(said), slow)


def slowest(seconds: Sequence[float]) -> float | None:
    """Return the 95th percentile; None of nothing.

    >>> slowest([1.0, 2.0, 3.0]), slowest([])
    (2.9, None)
    """
    return float(np.quantile(seconds, 0.95)) if len(seconds) else None


def rate(per_hour: float, ever: bool, health: TowerHealth) -> Finding | None:
    """Judge how many training pairs come in an hour; None before anybody ever engaged.

    >>> rate(0.0, False, TowerHealth()) is None, rate(9.0, True, TowerHealth()).grade.value
    (True, 'warning')
    """
    if not ever:
        return None
    message = (
        f"{per_hour:.1f} training pairs an hour, where more than {health.good_rate:.6g} is the target and "
        f"{health.least_rate:.6g} the least"
    )
    return Finding(RATE, _below(per_hour, health.good_rate, health.least_rate), message, per_hour)


def trained(counts: Mapping[Reason, int], waiting: int) -> tuple[int, int]:
    """Return how many positive and negative pairs batches were made of.

    Negatives are drawn when a batch is trained, so engagements that wait for one have none yet. The share of
    these that is positive is taken to be that of all engagements.

    Args:
        counts: pairs of a period, by reason.
        waiting: how many engagements no batch has learned from.

    >>> trained({Reason.ENGAGED: 80, Reason.DISLIKED: 20, Reason.SHOWN: 200}, waiting=50)
    (40, 210)
    """
    engaged, disliked = counts.get(Reason.ENGAGED, 0), counts.get(Reason.DISLIKED, 0)
    drawn = counts.get(Reason.SHOWN, 0) + counts.get(Reason.RANDOM, 0)
    share = 1 - min(1.0, waiting / (engaged + disliked)) if engaged + disliked else 0.0
    return round(engaged * share), round(disliked * share) + drawn


def negatives(positives: int, negative: int, health: TowerHealth) -> Finding | None:
    """Judge how many negative pairs there are for a positive one; None where there are too few of both.

    >>> [negatives(100, n, TowerHealth()).grade.value for n in (200, 400, 700, 1_500, 2_100)]
    ['alarm', 'note', 'good', 'note', 'alarm']
    """
    if positives + negative < health.least_pairs:
        return None
    ratio = negative / positives if positives else math.inf
    low, high = health.good_negatives
    grade = Grade.GOOD if low <= ratio <= high else Grade.NOTE
    if not health.least_negatives <= ratio <= health.most_negatives:
        grade = Grade.ALARM
    message = (
        f"{negative} negative training pairs for {positives} positive ones: 1:{ratio:.1f}, where "
        f"1:{low:.6g} to 1:{high:.6g} is the target"
    )
    return Finding(BALANCE, grade, message, _number(ratio))


def cold_clicks(shown: int, clicked: int, health: TowerHealth) -> Finding | None:
    """Judge the click-through of items that are new; None where they were hardly shown.

    >>> [cold_clicks(1_000, n, TowerHealth()).grade.value for n in (4, 5, 10, 11)]
    ['warning', 'note', 'note', 'good']
    """
    if shown < health.least_pairs:
        return None
    share = clicked / shown
    message = (
        f"items of the last day were clicked {share:.2%} of the {shown} times they were shown, where more "
        f"than {100 * health.good_cold_clicks:.6g}% is the target"
    )
    return Finding(
        COLD_CLICKS, _below(share, health.good_cold_clicks, health.least_cold_clicks), message, share
    )


def coverage(ready: int, covered: int, health: TowerHealth) -> Finding | None:
    """Judge how many users have a vector, of those who did enough for one; None where they are too few.

    >>> [coverage(100, n, TowerHealth()).grade.value for n in (69, 70, 90, 91)]
    ['warning', 'note', 'note', 'good']
    """
    if ready < health.least_pairs:
        return None
    share = covered / ready
    message = (
        f"{share:.0%} of the {ready} active users with enough engagements have a vector of the towers that "
        f"serve, where more than {health.good_coverage:.0%} is the target"
    )
    return Finding(COVERAGE, _below(share, health.good_coverage, health.least_coverage), message, share)


def items(new: int, with_vectors: int, health: TowerHealth) -> Finding | None:
    """Judge how many new items can be found by the towers; None without new ones.

    >>> items(10, 9, TowerHealth()).grade.value, items(10, 8, TowerHealth()).grade.value
    ('good', 'warning')
    """
    if not new:
        return None
    share = with_vectors / new
    message = f"{share:.0%} of the {new} items of the last day have a vector"
    return Finding(ITEMS, Grade.WARNING if share < health.least_items else Grade.GOOD, message, share)


def drift(per_day: float, what: str, health: TowerHealth) -> Finding:
    """Judge how far vectors moved, as a mean cosine distance a day (0..2); ``what`` says it in words.

    >>> [drift(d, "", TowerHealth()).grade.value for d in (0.09, 0.1, 0.3, 0.31)]
    ['good', 'note', 'note', 'alarm']
    """
    grade = Grade.GOOD if per_day < health.good_drift else Grade.NOTE
    if per_day > health.most_drift:
        grade = Grade.ALARM
    message = f"{what}, where less than {health.good_drift:.6g} a day is the target"
    return Finding(DRIFT, grade, message, per_day)


def kept(share: float, of_week: bool, health: TowerHealth) -> Finding:
    """Judge the share of their nearest neighbours that items kept across a promotion, 0..1.

    Vectors of two spaces cannot be compared, who is near to whom can. It is nothing that healing reverts:
    the gate has judged what serves.

    >>> [kept(share, False, TowerHealth()).grade.value for share in (0.49, 0.5, 0.7, 0.71)]
    ['warning', 'note', 'note', 'good']
    """
    since = "a week ago" if of_week else "a day ago"
    message = (
        f"{share:.0%} of the items' nearest neighbours are those of {since}, across a promotion to another "
        f"space, where more than {health.good_kept:.0%} is the target"
    )
    grade = _below(share, health.good_kept, health.least_kept)
    return Finding(WEEK_DRIFT if of_week else DRIFT, grade, message, share)


def week_drift(like: float) -> Finding:
    """Judge how like itself a sample stayed in a week: its mean cosine similarity, -1..1.

    >>> week_drift(0.95).grade.value, week_drift(0.89).message
    ('good', 'high embedding drift: mean cosine similarity to a week ago is 0.890, where 0.9 is the least')
    """
    far = "high embedding drift: " if like < WEEK_LIKE else ""
    message = f"{far}mean cosine similarity to a week ago is {like:.3f}, where {WEEK_LIKE} is the least"
    return Finding(WEEK_DRIFT, Grade.WARNING if far else Grade.GOOD, message, like)


def week_balance(positives: int, negative: int, health: TowerHealth) -> Finding | None:
    """Judge how many positive pairs a week had for a negative one; None where there are too few of both.

    >>> [week_balance(n, 1_000, TowerHealth()).grade.value for n in (99, 100, 500, 501)]
    ['warning', 'good', 'good', 'warning']
    """
    if positives + negative < health.least_pairs:
        return None
    ratio = positives / negative if negative else math.inf
    low, high = WEEK_POSITIVES
    good = low <= ratio <= high
    message = (
        f"{'' if good else 'imbalanced training data: '}{ratio:.3f} positive pairs for a negative one in a "
        f"week, where {low} to {high} is good"
    )
    return Finding(WEEK_BALANCE, Grade.GOOD if good else Grade.WARNING, message, _number(ratio))


def _above(value: float, target: float, most: float) -> Grade:
    """Grade what should be less than the target, and is a warning above ``most``."""
    return Grade.WARNING if value > most else Grade.GOOD if value < target else Grade.NOTE


def _below(value: float, target: float, least: float) -> Grade:
    """Grade what should be more than the target, and is a warning below ``least``."""
    return Grade.WARNING if value < least else Grade.GOOD if value > target else Grade.NOTE


def _number(ratio: float) -> float | None:
    return ratio if math.isfinite(ratio) else None

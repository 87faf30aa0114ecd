"""The gate: which rules a green collection is held against, what was found, and a sentence for each.

Pure functions of what was measured; nothing that is undefined passes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from improvement.evaluation.report import Estimate
from improvement.green.settings import GateSettings

#: What the rules are held against that have to do with rankings: metric -> what to call it.
RANKED: Mapping[str, str] = {
    "ndcg@10": "nDCG@10 of what users see",
    "mrr": "MRR of what users see",
    "dataset_ndcg@10": "nDCG@10 on the data set",
    "dataset_mrr": "MRR on the data set",
    "dataset_topical@10": "the topical share on the data set",
}
#: Rules whose metrics every gate measures; the others count where they were measured.
ALWAYS = ("ndcg@10", "mrr")
OVERLAP = (
    "on average {found} of a query's ten best objects in blue are among its ten best in green; "
    "at least {threshold} must be"
)
COVERAGE = (
    "the searches find {found} as many different objects as in blue; at least {threshold} must be found"
)
MISSING = (
    "green lacks {found} of blue's objects, or holds an older version of them; "
    "at most {threshold} may be missing"
)
DRIFT = "the object that moved farthest is {found} from what was given; at most {threshold} is allowed"


@dataclass(frozen=True)
class Rule:
    """One rule, and whether it holds.

    Attributes:
        rule: its name.
        threshold: the domain's.
        found: what is held against it; NaN where it could not be measured.
        sentence: what was found, for an operator.
    """

    rule: str
    threshold: float
    found: float
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Measured:
    """What a gate measured.

    Attributes:
        judged: sessions that could be judged.
        differences: metric -> green - blue, paired.
        overlap: share of the ten best that stay, 0..1; NaN without any query.
        coverage: different objects found in green, as a share of blue's, >= 0; NaN without any.
        missing: share of blue's objects that green lacks, 0..1; NaN where blue has none.
        drift: farthest that an object is from what was given; None: not asked, of another space.
    """

    judged: int
    differences: Mapping[str, Estimate]
    overlap: float
    coverage: float
    missing: float
    drift: float | None


def verdict(measured: Measured, settings: GateSettings) -> list[Rule]:
    """Hold what was measured against a domain's thresholds; green passes when every rule does."""
    least = settings.least_sessions
    rules = [
        Rule(
            "sessions", least, measured.judged, measured.judged >= least,
            f"{measured.judged:,} sessions could be judged; at least {least:,} must be",
        )
    ]  # fmt: skip
    for metric, name in RANKED.items():
        if metric in measured.differences or metric in ALWAYS:
            margin = settings.topical_margin if "topical" in metric else settings.margin
            rules.append(not_inferior(metric, name, measured.differences.get(metric), margin))
    overlap, coverage, missing = measured.overlap, measured.coverage, measured.missing
    rules += [
        bounded("overlap", overlap, settings.least_overlap, math.inf, OVERLAP),
        bounded("coverage", coverage, settings.least_coverage, math.inf, COVERAGE),
        bounded("missing", missing, -math.inf, settings.most_missing, MISSING),
    ]
    if measured.drift is not None:
        drift = round(measured.drift, 6)  # what is stored has no more digits than that
        rules.append(bounded("drift", drift, -math.inf, settings.most_drift, DRIFT))
    return rules


def not_inferior(rule: str, name: str, difference: Estimate | None, margin: float) -> Rule:
    """Ask that a difference is above ``-margin`` at the lower end of its 95% interval.

    >>> not_inferior("mrr", "MRR", Estimate(0.02, -0.004, 0.03, 80), margin=0.01).sentence
    'MRR changes by +0.0200 (95% interval -0.0040 to +0.0300): not worse than by the margin of 0.01'
    >>> not_inferior("mrr", "MRR", None, margin=0.01).passed
    False
    """
    if difference is None or math.isnan(difference.mean):
        sentence = f"{name} could not be measured: there is nothing to measure it on"
        return Rule(rule, -margin, math.nan, False, sentence)
    change = f"{name} changes by {difference.mean:+.4f}"
    if math.isnan(difference.low):
        sentence = f"{change}, but there is no interval: it takes at least two users"
        return Rule(rule, -margin, math.nan, False, sentence)
    passed = difference.low >= -margin
    if not passed:
        says = f"it may be worse by more than the margin of {margin:g}"
    else:
        says = "better" if difference.low > 0 else f"not worse than by the margin of {margin:g}"
    interval = f"(95% interval {difference.low:+.4f} to {difference.high:+.4f})"
    return Rule(rule, -margin, difference.low, passed, f"{change} {interval}: {says}")


def bounded(rule: str, found: float, least: float, most: float, sentence: str) -> Rule:
    """Ask that a number is from ``least`` to ``most``; the sentence has places for both."""
    threshold = least if most == math.inf and least > -math.inf else most
    if math.isnan(found):
        says = f"{rule} could not be measured: there is nothing to measure it on"
        return Rule(rule, threshold, found, False, says)
    unit = ("", 1) if rule == "drift" else ("%", 100)
    told = {"found": f"{unit[1] * found:.4g}{unit[0]}", "threshold": f"{unit[1] * threshold:.4g}{unit[0]}"}
    return Rule(rule, threshold, found, least <= found <= most, sentence.format(**told))


def reasons(rules: Sequence[Rule]) -> list[str]:
    """Return the sentences of the rules that do not hold."""
    return [rule.sentence for rule in rules if not rule.passed]

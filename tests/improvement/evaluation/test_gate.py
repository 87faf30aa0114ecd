"""The rules of the gate: pure, by hand and as laws."""

import math
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from improvement.evaluation.gate import Measured, not_inferior, reasons, verdict
from improvement.evaluation.report import Estimate
from improvement.green.settings import GateSettings

EQUAL = Estimate(0.0, 0.0, 0.0, 100)
GOOD = Measured(100, {"ndcg@10": EQUAL, "mrr": EQUAL}, overlap=1.0, coverage=1.0, missing=0.0, drift=0.0)
DEFAULT = GateSettings()


def failing(measured: Measured, asked: GateSettings = DEFAULT) -> list[str]:
    return [rule.rule for rule in verdict(measured, asked) if not rule.passed]


def test_what_is_equal_passes_every_rule():
    rules = verdict(GOOD, DEFAULT)
    assert [rule.rule for rule in rules] == [
        "sessions", "ndcg@10", "mrr", "overlap", "coverage", "missing", "drift",
    ]  # fmt: skip
    assert reasons(rules) == []


@pytest.mark.parametrize(
    ("changes", "rule", "says"),
    [
        ({"judged": 49}, "sessions", "49 sessions could be judged; at least 50 must be"),
        ({"overlap": 0.2999}, "overlap", "29.99% of a query's ten best .* at least 30% must be"),
        ({"coverage": 0.5}, "coverage", "find 50% as many different objects .* at least 80%"),
        ({"missing": 0.00002}, "missing", "green lacks 0.002% of blue's objects.* at most 0%"),
        ({"drift": 0.31}, "drift", "moved farthest is 0.31 from what was given; at most 0.3"),
        ({"drift": math.inf}, "drift", "moved farthest is inf"),
        ({"overlap": math.nan}, "overlap", "overlap could not be measured"),
        ({"coverage": math.nan}, "coverage", "coverage could not be measured"),
        ({"missing": math.nan}, "missing", "missing could not be measured"),
        ({"drift": math.nan}, "drift", "drift could not be measured"),
    ],
)
def test_a_broken_floor_fails_alone_and_says_what_was_found(changes: dict[str, Any], rule: str, says: str):
    measured = replace(GOOD, **changes)
    assert failing(measured) == [rule]
    (sentence,) = reasons(verdict(measured, DEFAULT))
    assert re.search(says, sentence), sentence


def test_a_ranking_may_be_worse_by_less_than_the_margin_with_certainty():
    def asked(low: float, **changes: Any) -> list[str]:
        worse = Estimate(-0.005, low, 0.001, 100)
        return failing(replace(GOOD, differences=GOOD.differences | {"mrr": worse}), GateSettings(**changes))

    assert asked(-0.01) == []
    assert asked(-0.0101) == ["mrr"]
    assert asked(-0.0101, margin=0.02) == []
    assert asked(-1e-9, margin=0.0) == ["mrr"]


@pytest.mark.parametrize("missing", [None, Estimate(math.nan, math.nan, math.nan, 0)])
def test_a_ranking_that_was_not_measured_never_passes(missing: Estimate | None):
    found = {} if missing is None else {"ndcg@10": missing, "mrr": missing}
    assert failing(replace(GOOD, differences=found), GateSettings(margin=1.0)) == ["ndcg@10", "mrr"]


def test_one_user_alone_has_no_interval_and_does_not_pass():
    rule = not_inferior("mrr", "MRR", Estimate(0.5, math.nan, math.nan, 7), 0.01)
    assert not rule.passed
    assert math.isnan(rule.found)
    assert rule.sentence == "MRR changes by +0.5000, but there is no interval: it takes at least two users"


def test_what_is_told_of_a_ranking_is_whether_it_is_better_worse_or_neither():
    def told(low: float) -> str:
        return not_inferior("m", "M", Estimate(low + 0.01, low, 0.9, 9), 0.01).sentence.split(": ")[1]

    assert told(0.001) == "better"
    assert told(-0.01) == "not worse than by the margin of 0.01"
    assert told(-0.02) == "it may be worse by more than the margin of 0.01"


def test_a_data_set_has_rules_of_its_own_where_there_is_one():
    bad = Estimate(-0.015, -0.015, -0.015, 50)
    names = ("dataset_ndcg@10", "dataset_mrr", "dataset_topical@10")
    measured = replace(GOOD, differences=GOOD.differences | dict.fromkeys(names, bad))
    assert failing(measured) == ["dataset_ndcg@10", "dataset_mrr"]  # the topical margin is 0.02
    assert failing(measured, GateSettings(topical_margin=0.01)) == list(names)


def test_drift_is_not_asked_of_another_space_and_rounding_breaks_no_limit():
    assert failing(replace(GOOD, drift=None)) == []
    assert failing(replace(GOOD, drift=0.30000001)) == []
    assert failing(replace(GOOD, drift=1e30), GateSettings(most_drift=math.inf)) == []


@pytest.mark.parametrize(
    "hostile",
    [
        {"margin": math.nan}, {"margin": -0.1}, {"margin": "0.1"}, {"least_overlap": 1.1},
        {"least_coverage": None}, {"most_drift": math.nan}, {"most_missing": -1}, {"sessions": 1},
        {"sessions": 2.5}, {"history": 0}, {"history": True}, {"least_sessions": 0}, {"queries": 0},
        {"holdout": 0.0}, {"holdout": 1.0}, {"fresh_hours": 0},
    ],
)  # fmt: skip
def test_thresholds_that_make_no_sense_are_refused_by_name(hostile: dict[str, Any]):
    with pytest.raises(ValueError, match=next(iter(hostile))):
        GateSettings(**hostile)


numbers = st.floats(0, 2) | st.just(math.nan)
estimates = st.none() | st.tuples(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1)).map(
    lambda t: Estimate(t[0], t[0] - t[1], t[0] + t[2], 10)
)


@settings(max_examples=50)
@given(
    st.integers(0, 100), estimates, estimates, numbers, numbers, numbers, st.none() | numbers,
    st.floats(0, 1), st.floats(0, 1),
    st.sampled_from(["judged", "ndcg@10", "overlap", "coverage", "missing", "drift"]),
)  # fmt: skip
def test_what_gets_better_never_turns_from_passed_to_failed(
    judged: int, ndcg: Estimate | None, mrr: Estimate | None, overlap: float, coverage: float,
    missing: float, drift: float | None, threshold: float, step: float, which: str,
):  # fmt: skip
    def of(estimate: Estimate | None) -> dict[str, Estimate]:
        return {} if estimate is None else {"ndcg@10": estimate}

    others = {} if mrr is None else {"mrr": mrr}
    before = Measured(judged, of(ndcg) | others, overlap, coverage, missing, drift)
    change: dict[str, Any] = {
        "judged": {"judged": judged + 1},
        "overlap": {"overlap": overlap + step},
        "coverage": {"coverage": coverage + step},
        "missing": {"missing": missing - step},
        "drift": {"drift": None if drift is None else drift - step},
        "ndcg@10": {
            "differences": others | of(
                ndcg and Estimate(ndcg.mean + step, ndcg.low + step, ndcg.high + step, ndcg.count)
            )
        },
    }  # fmt: skip
    asked = GateSettings(
        margin=threshold, least_overlap=threshold, least_coverage=threshold, most_drift=threshold,
        most_missing=threshold,
    )  # fmt: skip
    after = replace(before, **change[which])
    assert set(failing(after, asked)) <= set(failing(before, asked))

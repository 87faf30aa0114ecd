"""The monitoring table of seed 001, row by row: what is a target, what is told of, and what says nothing."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from improvement.evaluation.drift import Grade, worst
from improvement.quality.audits import Finding
from improvement.two_tower import vital_signs
from improvement.two_tower.sampling import Reason
from improvement.two_tower.settings import TowerHealth
from improvement.two_tower.vital_signs import LEAST_TIMED, slowest, trained

HEALTH = TowerHealth()

#: Row by row: what judges it, values on both sides of the target and of the threshold, and their grades.
TABLE: list[tuple[str, Callable[[float], Finding | None], list[tuple[float, str]]]] = [
    ("latency < 10 ms, > 50 ms", lambda x: vital_signs.latency([x / 1000] * 100, HEALTH),
     [(0.0, "good"), (9.9, "good"), (10.0, "note"), (50.0, "note"), (50.1, "warning"), (9e9, "warning")]),
    ("pairs > 100/h, < 10/h", lambda x: vital_signs.rate(x, True, HEALTH),
     [(0.0, "warning"), (9.9, "warning"), (10.0, "note"), (100.0, "note"), (100.1, "good")]),
    ("1:5 to 1:10, < 1:3 or > 1:20", lambda x: vital_signs.negatives(1_000, round(1_000 * x), HEALTH),
     [(0.0, "alarm"), (2.999, "alarm"), (3.0, "note"), (4.999, "note"), (5.0, "good"), (10.0, "good"),
      (10.001, "note"), (20.0, "note"), (20.001, "alarm")]),
    ("drift < 0.1/day, > 0.3/day", lambda x: vital_signs.drift(x, "items moved", HEALTH),
     [(0.0, "good"), (0.099, "good"), (0.1, "note"), (0.3, "note"), (0.301, "alarm"), (2.0, "alarm")]),
    ("cold clicks > 1%, < 0.5%", lambda x: vital_signs.cold_clicks(100_000, round(1_000 * x), HEALTH),
     [(0.0, "warning"), (0.499, "warning"), (0.5, "note"), (1.0, "note"), (1.001, "good"), (100, "good")]),
    ("coverage > 90%, < 70%", lambda x: vital_signs.coverage(1_000, round(10 * x), HEALTH),
     [(0.0, "warning"), (69.9, "warning"), (70.0, "note"), (90.0, "note"), (90.1, "good"), (100, "good")]),
    ("new items >= 0.9", lambda x: vital_signs.items(1_000, round(1_000 * x), HEALTH),
     [(0.0, "warning"), (0.899, "warning"), (0.9, "good"), (1.0, "good")]),
    ("neighbours of a day > 70%, < 50%", lambda x: vital_signs.kept(x, False, HEALTH),
     [(0.0, "warning"), (0.499, "warning"), (0.5, "note"), (0.7, "note"), (0.701, "good"), (1.0, "good")]),
    ("neighbours of a week > 70%, < 50%", lambda x: vital_signs.kept(x, True, HEALTH),
     [(0.0, "warning"), (0.499, "warning"), (0.5, "note"), (0.7, "note"), (0.701, "good"), (1.0, "good")]),
    ("learned late <= 5%", lambda x: vital_signs.latency([0.001] * 100, HEALTH, round(1_000 * x), 1_000),
     [(0.0, "good"), (0.05, "good"), (0.051, "warning"), (1.0, "warning")]),
    ("a week's similarity >= 0.9", lambda x: vital_signs.week_drift(x),
     [(-1.0, "warning"), (0.899, "warning"), (0.9, "good"), (1.0, "good")]),
    ("a week's 0.1 to 0.5 positives", lambda x: vital_signs.week_balance(round(1_000 * x), 1_000, HEALTH),
     [(0.0, "warning"), (0.099, "warning"), (0.1, "good"), (0.5, "good"), (0.501, "warning")]),
]  # fmt: skip


@pytest.mark.parametrize(("row", "judge", "values"), TABLE, ids=[row for row, _, _ in TABLE])
def test_each_row_of_the_table_has_its_target_and_its_threshold(
    row: str, judge: Callable[[float], Finding | None], values: list[tuple[float, str]]
):
    for value, grade in values:
        found = judge(value)
        assert found is not None
        assert (value, found.grade.value) == (value, grade), row
        assert found.kind.startswith("towers.")
        assert found.message[-1].isalnum(), "a sentence"


@given(st.integers(0, 40), st.integers(0, 40))
def test_a_row_without_enough_behind_it_says_nothing(few: int, more: int):
    least = TowerHealth(least_pairs=few + more + 1)
    assert vital_signs.negatives(few, more, least) is None
    assert vital_signs.week_balance(few, more, least) is None
    assert vital_signs.cold_clicks(few + more, few, least) is None
    assert vital_signs.coverage(few + more, few, least) is None
    assert vital_signs.latency([9.9] * (LEAST_TIMED - 1), HEALTH) is None
    assert vital_signs.items(0, 0, HEALTH) is None


def test_the_silence_of_a_new_service_is_no_alarm():
    assert vital_signs.rate(0.0, ever=False, health=HEALTH) is None
    assert vital_signs.rate(0.0, ever=True, health=HEALTH).grade is Grade.WARNING


def test_what_is_switched_off_is_never_told():
    off = TowerHealth(least_rate=0.0, least_cold_clicks=0.0, least_coverage=0.0, least_items=0.0)
    found = [
        vital_signs.rate(0.0, True, off), vital_signs.cold_clicks(1_000, 0, off),
        vital_signs.coverage(1_000, 0, off), vital_signs.items(10, 0, off),
    ]  # fmt: skip
    assert worst([one.grade for one in found]) is Grade.NOTE


def test_pairs_of_one_kind_alone_are_out_of_balance():
    assert vital_signs.negatives(0, 500, HEALTH).grade is Grade.ALARM
    assert vital_signs.negatives(0, 500, HEALTH).value is None, "JSON has no infinity"
    assert vital_signs.negatives(500, 0, HEALTH).grade is Grade.ALARM
    assert vital_signs.week_balance(500, 0, HEALTH).value is None


@given(st.lists(st.floats(0, 1e6), min_size=LEAST_TIMED, max_size=200), st.randoms())
def test_the_order_of_engagements_is_nothing_to_their_latency(seconds: list[float], random):
    shuffled = list(seconds)
    random.shuffle(shuffled)
    assert vital_signs.latency(seconds, HEALTH) == vital_signs.latency(shuffled, HEALTH)
    assert min(seconds) <= slowest(seconds) <= max(seconds)


def test_a_few_slow_engagements_are_no_slow_service():
    assert vital_signs.latency([0.001] * 96 + [9.0] * 4, HEALTH).grade is Grade.GOOD
    assert vital_signs.latency([0.001] * 90 + [9.0] * 10, HEALTH).grade is Grade.WARNING


@given(
    st.integers(0, 5_000), st.integers(0, 5_000), st.integers(0, 20_000), st.integers(0, 12_000),
)  # fmt: skip
def test_what_waits_for_its_negatives_does_not_tip_the_balance(
    engaged: int, disliked: int, shown: int, waiting: int
):
    counts = {Reason.ENGAGED: engaged, Reason.DISLIKED: disliked, Reason.SHOWN: shown, Reason.RANDOM: 7}
    positives, negatives = trained(counts, waiting)
    assert 0 <= positives <= engaged
    assert shown + 7 <= negatives <= shown + 7 + disliked
    assert abs(positives + negatives - 7 - shown - max(0, engaged + disliked - waiting)) <= 1
    if waiting >= engaged + disliked:
        assert positives == 0


def test_a_day_of_which_nothing_was_trained_yet_is_not_out_of_balance():
    positives, negatives = trained({Reason.ENGAGED: 900}, 900)
    assert vital_signs.negatives(positives, negatives, HEALTH) is None


def test_no_judgement_fails_on_numbers_of_any_size():
    for value in (0.0, 1e-300, 1e300, math.pi):
        assert vital_signs.drift(value, "", HEALTH).value == value
        assert vital_signs.latency(np.full(50, value).tolist(), HEALTH) is not None


def test_learning_that_never_succeeds_at_once_is_slow_though_nobody_timed_it():
    found = vital_signs.latency([], HEALTH, late=40, engagements=400)
    assert (found.grade, found.value) == (Grade.WARNING, None)
    assert found.message.startswith("40 of 400 engagements")
    assert vital_signs.latency([], HEALTH, late=20, engagements=400) is None
    assert vital_signs.latency([], HEALTH, late=19, engagements=LEAST_TIMED - 1) is None
    both = vital_signs.latency([9.0] * 50, HEALTH, late=1, engagements=400)
    assert (both.grade, both.value) == (Grade.WARNING, 9.0)
    assert "1 of 400 engagements" in both.message


def test_neighbours_lost_across_a_promotion_are_a_warning_and_never_an_alarm():
    for of_week in (False, True):
        found = vital_signs.kept(0.0, of_week, HEALTH)
        assert found.grade is Grade.WARNING, "an alarm would heal what the gate has judged"
        assert "promotion" in found.message

"""How far vectors moved: laws of a distance, and what is no drift."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from improvement.evaluation.drift import (
    UNMOVED,
    Grade,
    above,
    balance,
    cosine_distances,
    drift,
    worst,
)

seeds = st.integers(0, 10_000)
sizes = st.tuples(st.integers(1, 30), st.integers(2, 12))


def rows(seed: int, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def rotation(seed: int, dimensions: int) -> np.ndarray:
    turned, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((dimensions, dimensions)))
    return turned


@given(seed=seeds, size=sizes)
@settings(deadline=None, max_examples=40)
def test_turning_the_whole_space_changes_nothing(seed: int, size: tuple[int, int]):
    before, now = rows(seed, size), rows(seed + 1, size)
    turn = rotation(seed + 2, size[1])
    np.testing.assert_allclose(
        cosine_distances(before @ turn, now @ turn), cosine_distances(before, now), atol=1e-5
    )


@given(seed=seeds, size=sizes, days=st.floats(0, 100), scale=st.floats(1e-30, 1e30))
@settings(deadline=None, max_examples=40)
def test_the_same_snapshot_has_not_moved_at_all(seed: int, size: tuple[int, int], days: float, scale: float):
    before = rows(seed, size).astype(np.float64)
    found = drift(before, before.copy(), days)
    assert (found.mean, found.p95, found.whole, found.moved) == (0, 0, 0, 0)
    assert found.compared == size[0]
    assert drift(before, before * scale, days).whole < UNMOVED  # lengths are no direction


@given(seed=seeds, size=sizes)
@settings(deadline=None, max_examples=40)
def test_distances_are_those_of_the_definition_row_by_row(seed: int, size: tuple[int, int]):
    before, now = rows(seed, size), rows(seed + 1, size)
    naive = [
        1 - float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
        for a, b in zip(before.astype(float), now.astype(float), strict=True)
    ]
    np.testing.assert_allclose(cosine_distances(before, now), naive, atol=1e-9)
    np.testing.assert_array_equal(cosine_distances(before, now), cosine_distances(now, before))


@given(seed=seeds, angle=st.floats(0, math.pi), days=st.floats(1, 60))
@settings(deadline=None, max_examples=40)
def test_a_turn_by_one_angle_is_one_minus_its_cosine_divided_by_the_days(
    seed: int, angle: float, days: float
):
    before = np.array([[1.0, 0.0]] * 20)
    now = np.array([[math.cos(angle), math.sin(angle)]] * 20)
    found = drift(before, now, days)
    assert found.whole == pytest.approx(1 - math.cos(angle), abs=1e-12)
    assert found.mean == pytest.approx(found.whole / days)
    assert found.p95 == pytest.approx(found.mean)


def test_what_moved_within_an_hour_is_not_extrapolated_to_a_day():
    found = drift([[1.0, 0.0]], [[0.0, 1.0]], days=1 / 24)
    assert (found.mean, found.days) == (1.0, 1.0)


def test_the_tail_is_told_beside_the_mean():
    before = np.tile([1.0, 0.0], (100, 1))
    now = before.copy()
    now[:10] = [0.0, 1.0]
    found = drift(before, now, 1.0)
    assert (found.mean, found.p95, found.moved) == (pytest.approx(0.1), 1.0, pytest.approx(0.1))


@pytest.mark.parametrize("broken", [[0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_rows_without_a_direction_are_left_out(broken: list[float]):
    found = drift([[1.0, 0.0], broken, [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0], broken], 1.0)
    assert (found.compared, found.mean) == (1, 0.0)
    assert drift([broken], [[1.0, 0.0]], 1.0) is None
    assert drift(np.empty((0, 3)), np.empty((0, 3)), 1.0) is None


@pytest.mark.parametrize(
    ("before", "now"), [([[1.0]], [[1.0, 2.0]]), ([[1.0]], [[1.0], [1.0]]), ([1.0], [1.0])]
)
def test_arrays_that_do_not_fit_are_refused(before: Any, now: Any):
    with pytest.raises(ValueError, match="shape"):
        cosine_distances(before, now)


@pytest.mark.parametrize(
    ("positives", "negatives", "grade"),
    [
        (100, 700, Grade.GOOD), (100, 500, Grade.GOOD), (100, 1000, Grade.GOOD),
        (100, 499, Grade.WARNING), (100, 300, Grade.WARNING), (100, 1001, Grade.WARNING),
        (100, 2000, Grade.WARNING), (100, 299, Grade.ALARM), (100, 2001, Grade.ALARM),
        (100, 0, Grade.ALARM), (0, 100, Grade.ALARM), (0, 0, Grade.GOOD),
    ],
)  # fmt: skip
def test_evidence_is_balanced_within_the_bounds_of_the_seed(positives: int, negatives: int, grade: Grade):
    assert balance(positives, negatives, (5.0, 10.0), 3.0, 20.0)[1] is grade


def test_grades_get_worse_and_the_worst_counts():
    assert [above(v, 0.1, 0.3) for v in (0.0, 0.1, 0.11, 0.3, 0.31)] == [
        Grade.GOOD, Grade.GOOD, Grade.WARNING, Grade.WARNING, Grade.ALARM,
    ]  # fmt: skip
    assert worst([]) is Grade.GOOD
    assert worst([Grade.GOOD, Grade.ALARM, Grade.WARNING]) is Grade.ALARM

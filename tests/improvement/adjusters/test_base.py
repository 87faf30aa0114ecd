import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from improvement.adjusters.base import check_setting, drift, limit_drift
from improvement.domain import MetricType

COSINE, DOT, EUCLID = MetricType.COSINE, MetricType.DOT, MetricType.EUCLID

limits = st.sampled_from([0.0, 1e-12, 1e-7, 2e-6, 0.01, 0.3, 1.0, 3.0, math.pi, 100.0])
numbers = st.one_of(st.floats(-3, 3, width=32), st.floats(-(2.0**100), 2.0**100, width=32))
pairs = st.integers(1, 5).flatmap(lambda d: arrays(np.float32, (2, 3, d), elements=numbers))


def wide_drift(original, adjusted, metric):
    """Measure in long double, by another formula than the code: the angle from sine and cosine."""
    x, y = original.astype(np.longdouble), adjusted.astype(np.longdouble)
    if np.array_equal(x, y):
        return 0.0
    if not x.any() or (metric is COSINE and not y.any()):
        return math.inf
    if metric is not COSINE:
        return np.sqrt(((y - x) ** 2).sum()) / np.sqrt((x**2).sum())
    u, v = x / np.sqrt((x**2).sum()), y / np.sqrt((y**2).sum())
    cosine = u @ v
    return np.arctan2(np.sqrt(((v - cosine * u) ** 2).sum()), cosine)


@pytest.mark.parametrize("metric", MetricType)
@given(pair=pairs, limit=limits)
@settings(deadline=None, max_examples=50)
def test_a_row_never_ends_up_farther_than_the_limit(metric, pair, limit):
    original, adjusted = torch.from_numpy(pair)
    limited = limit_drift(original, adjusted, metric, limit)
    assert limited.dtype == torch.float32
    assert limited.isfinite().all()
    for before, after in zip(original.numpy(), limited.numpy(), strict=True):
        assert wide_drift(before, after, metric) <= limit + 1e-17  # long double's own rounding


@pytest.mark.parametrize("metric", MetricType)
@given(pair=pairs)
@settings(deadline=None, max_examples=50)
def test_drift_is_what_long_double_measures(metric, pair):
    measured = drift(*torch.from_numpy(pair), metric)
    assert measured.dtype == torch.float64
    for before, after, got in zip(*pair, measured.tolist(), strict=True):
        assert got == pytest.approx(float(wide_drift(before, after, metric)), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("metric", MetricType)
@given(seed=st.integers(0, 2**32 - 1), limit=st.floats(1e-3, 3))
@settings(deadline=None, max_examples=30)
def test_a_row_is_pulled_back_to_the_limit_and_not_farther(metric, seed, limit):
    original, adjusted = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, 20, 6))).float()
    before = drift(original, adjusted, metric)
    after = drift(original, limit_drift(original, adjusted, metric, limit), metric)
    expected = before.clamp(max=limit)
    assert torch.allclose(after, expected, rtol=0, atol=2e-6 * (1 + limit))


def test_cosine_turns_on_the_great_circle_and_keeps_the_copys_length():
    original, adjusted = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 3.0]])
    limited = limit_drift(original, adjusted, COSINE, 0.3)
    assert limited.tolist() == [pytest.approx([3 * math.cos(0.3), 0, 3 * math.sin(0.3)], abs=1e-5)]


@pytest.mark.parametrize("metric", [DOT, EUCLID])
def test_dot_and_euclid_shrink_the_difference(metric):
    original, adjusted = torch.tensor([[2.0, 0.0]]), torch.tensor([[2.0, 4.0]])
    assert limit_drift(original, adjusted, metric, 0.5).tolist() == [pytest.approx([2, 1], abs=1e-5)]


@pytest.mark.parametrize("metric", MetricType)
def test_a_row_within_the_limit_comes_back_bit_for_bit(metric):
    original = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 8))).float()
    adjusted = original * 1.01 + 1e-3
    assert limit_drift(original, adjusted, metric, 0.3).equal(adjusted)


@pytest.mark.parametrize("metric", MetricType)
@given(pair=pairs)
@settings(deadline=None, max_examples=20)
def test_an_infinite_limit_passes_everything_bit_for_bit(metric, pair):
    original, adjusted = torch.from_numpy(pair)
    limited = limit_drift(original, adjusted, metric, math.inf)
    assert limited.equal(adjusted)
    assert limited.data_ptr() != adjusted.data_ptr()


@pytest.mark.parametrize("metric", MetricType)
@pytest.mark.parametrize(
    ("before", "after"), [([0.0, 0.0, 0.0], [1.0, 2.0, 3.0]), ([1.0, -2.0, 3.0], [-2.0, 4.0, -6.0])]
)
def test_a_zero_original_stays_and_an_opposite_copy_returns(metric, before, after):
    limited = limit_drift(torch.tensor([before]), torch.tensor([after]), metric, 0.3)
    if metric is COSINE or not any(before):
        assert limited.tolist() == [before]
    else:
        assert limited.tolist() == [pytest.approx([x * 0.7 for x in before], rel=1e-5)]


def test_an_opposite_copy_is_not_turned_into_a_direction_made_of_rounding():
    original = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 7))).float()
    assert limit_drift(original, -2 * original, COSINE, 0.3).equal(original)


def test_a_copy_of_length_zero_has_no_angle_and_becomes_the_original():
    assert limit_drift(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2), COSINE, 3.0).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("metric", MetricType)
def test_rows_are_limited_one_by_one(metric):
    original, adjusted = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 4, 5, 7))).float()
    together = limit_drift(original, adjusted, metric, 0.2)
    for index in np.ndindex(4, 5):
        assert limit_drift(original[index][None], adjusted[index][None], metric, 0.2)[0].equal(
            together[index]
        )


@pytest.mark.parametrize("limit", [0.3, math.inf])
def test_padding_comes_back_as_the_original_whatever_the_copy_holds(limit):
    original, mask = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([True, False])
    adjusted = torch.tensor([[1.0, 0.1], [math.nan, 5.0]])
    assert limit_drift(original, adjusted, COSINE, limit, mask).tolist() == [
        [1.0, adjusted[0, 1]],
        [0.0, 0.0],
    ]


@pytest.mark.parametrize("limit", [0.3, math.inf])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_errors_that_name_the_argument(limit, value):
    fine, broken = torch.ones(1, 2), torch.tensor([[1.0, value]])
    with pytest.raises(ValueError, match="^original: expected finite"):
        limit_drift(broken, fine, COSINE, limit)
    with pytest.raises(ValueError, match="^adjusted: expected finite"):
        limit_drift(fine, broken, COSINE, limit)


@pytest.mark.parametrize("limit", [-0.1, math.nan, None, "0.3"])
def test_a_limit_that_is_none_is_an_error(limit):
    with pytest.raises(ValueError, match="^max_drift: expected"):
        limit_drift(torch.ones(1, 2), torch.ones(1, 2), COSINE, limit)


def test_shapes_that_differ_are_an_error():
    with pytest.raises(ValueError, match=r"^adjusted: expected shape \(1, 2\), got \(1, 3\)"):
        limit_drift(torch.ones(1, 2), torch.ones(1, 3), COSINE, 0.3)


def test_the_arguments_are_not_changed():
    original, adjusted = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]], requires_grad=True)
    limited = limit_drift(original, adjusted, COSINE, 0.3)
    assert not limited.requires_grad
    assert original.tolist() == [[1.0, 0.0]]
    assert adjusted.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("value", [0, 0.0, 1, 2.5])
def test_numbers_from_zero_up_are_settings(value):
    check_setting("rate", value)


@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf, True, None, "1"])
def test_anything_else_is_an_error_that_names_the_setting(value):
    with pytest.raises(ValueError, match="^rate: expected a finite number >= 0, got "):
        check_setting("rate", value)


def test_a_whole_number_is_asked_for_by_name():
    check_setting("steps", 3, whole=True)
    with pytest.raises(ValueError, match="^steps: expected a whole number >= 0, got 3.0"):
        check_setting("steps", 3.0, whole=True)

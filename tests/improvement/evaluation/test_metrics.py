"""The metrics against their definitions written out, and the bootstrap against a naive loop."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from improvement.evaluation.metrics import (
    bootstrap_interval,
    graded_ndcg,
    ndcg,
    reciprocal_rank,
    share,
    weighted_mean,
)

hits = st.lists(st.booleans(), max_size=30)
numbers = st.floats(-1e3, 1e3)


@given(hits, st.integers(0, 10), st.integers(1, 15))
def test_ndcg_is_its_definition_written_out(ranking: list[bool], more: int, k: int):
    relevant = sum(ranking) + more
    gain = sum(hit / math.log2(place + 1) for place, hit in enumerate(ranking[:k], start=1))
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(k, relevant) + 1))
    found = ndcg(ranking, relevant, k)
    assert math.isnan(found) if relevant == 0 else found == pytest.approx(gain / ideal)


@given(hits.filter(any), st.data())
def test_moving_a_relevant_object_up_never_lowers_a_metric(ranking: list[bool], data: st.DataObject):
    place = data.draw(st.sampled_from([i for i, hit in enumerate(ranking) if hit]))
    higher = data.draw(st.integers(0, place))
    better = ranking.copy()
    better.insert(higher, better.pop(place))
    assert ndcg(better, sum(ranking)) >= ndcg(ranking, sum(ranking))
    assert reciprocal_rank(better) >= reciprocal_rank(ranking)
    assert share(better) >= share(ranking)
    assert graded_ndcg(better, k=30) >= graded_ndcg(ranking, k=30)


@given(hits.filter(any))
def test_with_equal_gains_graded_ndcg_is_ndcg(ranking: list[bool]):
    gains = [0.3 * hit for hit in ranking]
    assert graded_ndcg(gains) == pytest.approx(ndcg(ranking, sum(ranking)))


@given(st.lists(st.floats(0, 10), min_size=1, max_size=10).filter(any))
def test_graded_ndcg_is_one_for_the_best_order_and_no_more_for_any(gains: list[float]):
    assert graded_ndcg(sorted(gains, reverse=True)) == pytest.approx(1)
    assert 0 <= graded_ndcg(gains) <= 1 + 1e-12


def test_what_is_undefined_is_nan_not_zero():
    undefined = [ndcg([], 0), graded_ndcg([]), reciprocal_rank([False]), share([]), weighted_mean([])]
    undefined += [weighted_mean([float("nan")]), weighted_mean([1.0], [0.0]), *bootstrap_interval([1.0])]
    assert all(map(math.isnan, undefined))


@given(st.lists(st.tuples(numbers, st.floats(0.1, 10)), min_size=1, max_size=20))
def test_a_weighted_mean_stays_among_the_values_whatever_the_weights(pairs: list[tuple[float, float]]):
    values, weights = zip(*pairs, strict=True)
    mean = weighted_mean(values, weights)
    assert min(values) - 1e-9 <= mean <= max(values) + 1e-9
    assert weighted_mean(values, np.full(len(values), 3.0)) == pytest.approx(np.mean(values), abs=1e-9)


rows = st.lists(
    st.tuples(numbers | st.just(math.nan), st.sampled_from("abcde"), st.floats(0.5, 4)),
    min_size=2,
    max_size=15,
)


@given(rows, st.integers(0, 5))
def test_the_bootstrap_draws_whole_groups_as_a_naive_loop_does(
    pairs: list[tuple[float, str, float]], seed: int
):
    values, groups, weights = map(list, zip(*pairs, strict=True))
    names = sorted({group for value, group, _ in pairs if not math.isnan(value)})
    found = bootstrap_interval(values, groups, weights, seed=seed, resamples=50)
    if len(names) < 2:
        assert all(map(math.isnan, found))
        return
    rng, means = np.random.default_rng(seed), []
    for _ in range(50):
        total = weight = 0.0
        drawn = rng.multinomial(len(names), [1 / len(names)] * len(names))
        for name, times in zip(names, drawn, strict=True):
            for value, group, w in pairs:
                if group == name and not math.isnan(value):
                    total, weight = total + times * w * value, weight + times * w
        means.append(total / weight)
    assert found == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-9)


def test_drawn_in_one_round_or_in_many_the_interval_is_the_same(monkeypatch: pytest.MonkeyPatch):
    values = np.random.default_rng(1).random(100)
    whole = bootstrap_interval(values)
    monkeypatch.setattr("improvement.evaluation.metrics.CHUNK", 1_700)
    assert bootstrap_interval(values) == whole


def test_an_interval_over_users_is_wider_than_one_that_takes_their_sessions_for_independent():
    rng = np.random.default_rng(0)
    tastes = rng.random(20)
    values, users = np.repeat(tastes, 30), np.repeat(np.arange(20), 30)
    low, high = bootstrap_interval(values, users)
    narrow_low, narrow_high = bootstrap_interval(values)
    assert high - low > 3 * (narrow_high - narrow_low)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.random(40), resamples=200)
        covered += low <= 0.5 <= high
    assert 0.88 <= covered / 200 <= 0.99


@pytest.mark.parametrize("weights", [[1.0, -1.0], [1.0, math.inf], [1.0]])
def test_weights_that_cannot_be_are_refused(weights: list[float]):
    with pytest.raises(ValueError, match="weights"):
        weighted_mean([1.0, 2.0], weights)

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo.metrics import angles, ndcg_at_k, relevance


def naive_ndcg(gains: list[int], relevant: int, k: int) -> float:
    dcg = sum(gain / math.log2(place + 1) for place, gain in enumerate(gains[:k], start=1))
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(relevant, k) + 1))
    return dcg / ideal if ideal else 0.0


@settings(deadline=None, max_examples=50)
@given(
    lists=st.integers(1, 12).flatmap(
        lambda places: st.lists(
            st.lists(st.integers(0, 1), min_size=places, max_size=places), min_size=1, max_size=5
        )
    ),
    unseen=st.integers(0, 4),
    k=st.integers(1, 10),
)
def test_ndcg_agrees_with_its_formula(lists, unseen, k):
    relevant = [sum(gains) + unseen for gains in lists]
    expected = [naive_ndcg(gains, n, k) for gains, n in zip(lists, relevant, strict=True)]
    scores = ndcg_at_k(lists, relevant, k)
    np.testing.assert_allclose(scores, expected, atol=1e-12)
    assert ((scores >= 0) & (scores <= 1 + 1e-12)).all()


def test_a_perfect_first_page_scores_one_however_much_more_is_relevant():
    np.testing.assert_allclose(ndcg_at_k([[1] * 10], [400]), [1])


def test_moving_a_relevant_object_up_scores_more():
    lower, higher = ndcg_at_k([[0, 0, 1], [0, 1, 0]], [1, 1], k=3)
    assert higher > lower


def test_gains_of_short_and_long_lists_fill_k_places():
    gains = relevance([["a"], list("bca")], [frozenset("a"), frozenset("a")], k=2)
    assert gains.tolist() == [[1, 0], [0, 0]]


@settings(deadline=None, max_examples=50)
@given(angle=st.floats(0, math.pi), scale=st.floats(0.1, 10))
def test_angles_are_what_the_rows_were_turned_by(angle, scale):
    turned = [[scale * math.cos(angle), scale * math.sin(angle)]]
    assert angles([[1.0, 0.0]], turned)[0] == pytest.approx(angle, abs=1e-9)


def test_tiny_angles_are_not_lost_to_rounding():
    assert angles([[1.0, 0.0]], [[1.0, 1e-9]])[0] == pytest.approx(1e-9, rel=1e-6)

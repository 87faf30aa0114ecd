"""A fast pick of diverse rows against a naive loop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from improvement.profiles.diversity import diverse
from tests.improvement.profiles.given import unit


def naive(relevance: np.ndarray, vectors: np.ndarray, diversity: float, limit: int) -> list[int]:
    rows = unit(vectors.astype(np.float64)).astype(np.float64)
    left, picked = list(range(len(rows))), []
    while left and len(picked) < limit:

        def worth(row: int) -> float:
            nearest = max((float(rows[row] @ rows[other]) for other in picked), default=None)
            return relevance[row] if nearest is None else (
                (1 - diversity) * relevance[row] - diversity * nearest
            )  # fmt: skip

        best = max(left, key=worth)
        left.remove(best)
        picked.append(best)
    return picked


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 25),
    diversity=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    limit=st.integers(1, 30),
)
def test_the_picks_are_those_of_a_naive_loop(seed: int, rows: int, diversity: float, limit: int):
    rng = np.random.default_rng(seed)
    relevance, vectors = rng.uniform(-1, 1, rows), rng.standard_normal((rows, 6)).astype(np.float32)
    assert diverse(relevance, vectors, diversity, limit) == naive(relevance, vectors, diversity, limit)


def test_a_twin_of_what_was_picked_waits_until_there_is_nothing_else():
    vectors = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    assert diverse(np.array([0.9, 0.9, 0.2, 0.1]), vectors, 0.5, 4) == [0, 2, 3, 1]
    assert diverse(np.array([0.9, 0.9, 0.2, 0.1]), vectors, 0.0, 4) == [0, 1, 2, 3]


def test_nothing_to_pick_from_gives_nothing_and_zeros_are_a_vector_like_any():
    assert diverse(np.empty(0), np.empty((0, 3), np.float32), 0.5, 3) == []
    assert diverse(np.array([0.1, 0.2]), np.zeros((2, 3), np.float32), 0.5, 9) == [1, 0]


def test_vectors_that_are_none_are_named():
    with pytest.raises(ValueError, match="vectors"):
        diverse(np.array([0.1]), np.full((1, 3), np.nan, np.float32), 0.5, 1)

"""Ranking in memory follows the conventions of the search."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from improvement.domain import MetricAggregationType, MetricType
from improvement.evaluation.ranking import best_first, scores, searched
from improvement.objects import Object, Vectors
from improvement.similarity import object_similarity, query_similarity

metrics, aggregations = st.sampled_from(MetricType), st.sampled_from(MetricAggregationType)


def some(rng: np.random.Generator, count: int) -> list[Vectors]:
    return [rng.standard_normal((int(rng.integers(1, 4)), 5)).astype(np.float32) for _ in range(count)]


@given(st.integers(0, 1_000), metrics, aggregations)
def test_objects_rank_as_the_one_similarity_ranks_them(
    seed: int, metric: MetricType, aggregation: MetricAggregationType
):
    rng = np.random.default_rng(seed)
    queries, parts = some(rng, 3), some(rng, 8)
    objects = [Object(str(i), rows, ()) for i, rows in enumerate(parts)]
    found = scores(queries, [searched(one, aggregation) for one in objects], metric)
    for query, row in zip(queries, found, strict=True):
        vectors = torch.from_numpy(query).double()
        exact = [
            query_similarity(
                object_similarity(vectors, torch.from_numpy(rows).double(), metric, aggregation),
                torch.ones(len(query), dtype=torch.bool),
                metric,
            ).item()
            for rows in parts
        ]
        assert best_first(row, 8).tolist() == np.argsort(-np.array(exact), kind="stable").tolist()


@given(st.integers(0, 100), metrics)
def test_scores_do_not_depend_on_how_many_are_made_at_once(seed: int, metric: MetricType):
    rng = np.random.default_rng(seed)
    queries, objects = some(rng, 4), some(rng, 6)
    whole = scores(queries, objects, metric)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("improvement.evaluation.ranking.CHUNK", 1)
        one_by_one = scores(queries, objects, metric)
    np.testing.assert_allclose(whole, one_by_one, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(scores(queries[1:2], objects[2:3], metric)[0, 0], whole[1, 2], atol=1e-6)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 45))
def test_equal_scores_keep_their_order_however_deep_one_looks(values: list[int], depth: int):
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:depth]
    assert best_first(np.array(values, np.float32), depth).tolist() == expected


def test_a_vector_without_length_has_cosine_zero():
    zero, one = np.zeros((1, 2), np.float32), np.array([[1, 0], [-1, 0]], np.float32)
    assert scores([one[:1], zero], [zero, one[1:]], MetricType.COSINE).tolist() == [[0, -1], [0, 0]]


def test_nothing_to_score_is_no_scores():
    assert scores([], [np.ones((1, 2), np.float32)], MetricType.DOT).shape == (0, 1)
    assert scores([np.ones((1, 2), np.float32)], [], MetricType.DOT).shape == (1, 0)

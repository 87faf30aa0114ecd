import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client.http.models import Distance
from qdrant_client.local.multi_distances import calculate_multi_distance

from improvement.domain import MetricAggregationType, MetricType
from improvement.similarity import object_similarity, part_similarity, query_similarity

COSINE, DOT, EUCLID = MetricType.COSINE, MetricType.DOT, MetricType.EUCLID
MIN, AVG = MetricAggregationType.MIN, MetricAggregationType.AVG

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 4)


def normal(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def naive(q, p, metric):
    dot = sum(a * b for a, b in zip(q, p, strict=True))
    if metric is DOT:
        return dot
    if metric is EUCLID:
        return -math.dist(q, p)
    return dot / (math.hypot(*q) * math.hypot(*p))


@pytest.mark.parametrize("metric", MetricType)
@given(seed=seeds, m=sizes, p=sizes, d=sizes)
@settings(deadline=None, max_examples=25)
def test_part_similarity_is_what_a_loop_over_vectors_computes(metric, seed, m, p, d):
    queries, parts = normal(seed, 2, m, d), normal(seed + 1, 2, p, d)
    fast = part_similarity(queries, parts, metric)
    assert fast.shape == (2, m, p)
    for b, i, j in np.ndindex(2, m, p):
        expected = naive(queries[b, i].tolist(), parts[b, j].tolist(), metric)
        assert fast[b, i, j].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", MetricType)
def test_larger_is_closer_for_every_metric(metric):
    query, parts = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.9, 0.1], [0.5, 0.5], [-1.0, 0.2]])
    near, middle, far = part_similarity(query, parts, metric)[0]
    assert near > middle > far


def test_leading_dimensions_broadcast():
    queries, parts = normal(0, 3, 1, 2, 4), normal(1, 5, 3, 4)
    together = part_similarity(queries, parts, COSINE)
    assert together.shape == (3, 5, 2, 3)
    assert together[2, 4].equal(part_similarity(queries[2, 0], parts[4], COSINE))


@pytest.mark.parametrize("aggregation", MetricAggregationType)
@pytest.mark.parametrize("metric", MetricType)
@given(seed=seeds, m=sizes, objects=st.lists(sizes, min_size=2, max_size=6))
@settings(deadline=None, max_examples=25)
def test_objects_rank_as_qdrant_ranks_them(metric, aggregation, seed, m, objects):
    query = normal(seed, m, 5).float()
    parts = [normal(seed + i, p, 5).float() for i, p in enumerate(objects, start=1)]
    searched = [p.mean(0, keepdim=True) for p in parts] if aggregation is AVG else parts
    distance = Distance(metric.capitalize())
    qdrant = calculate_multi_distance(query.numpy(), [p.numpy() for p in searched], distance)
    ours = [
        query_similarity(object_similarity(query, p, metric, aggregation), torch.ones(m) > 0, metric).item()
        for p in parts
    ]
    # Qdrant sums over the query's vectors; its euclid is the root of summed squares, and larger is farther
    expected = -qdrant / math.sqrt(m) if metric is EUCLID else qdrant / m
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


@given(seed=seeds, p=sizes, temperature=st.floats(1e-3, 100))
@settings(deadline=None)
def test_softmin_is_the_weighted_mean_of_a_loop(seed, p, temperature):
    query, parts = normal(seed, 1, 3), normal(seed + 1, p, 3)
    similarities = part_similarity(query, parts, COSINE)[0].tolist()
    weights = [math.exp((s - max(similarities)) / temperature) for s in similarities]
    expected = sum(w * s for w, s in zip(weights, similarities, strict=True)) / sum(weights)
    soft = object_similarity(query, parts, COSINE, MIN, temperature)
    assert soft.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", MetricType)
def test_the_nearest_part_counts_most(metric):
    query, parts = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.9, 0.1], [0.5, 0.5], [-1.0, 0.2]])
    each = part_similarity(query, parts, metric)[0]
    soft = object_similarity(query, parts, metric, MIN, temperature=0.5)
    assert each.mean() < soft < each.max()
    parts.requires_grad_()
    part_similarity(query, parts, metric)[0].sum().backward()
    alone = parts.grad.norm(dim=-1)
    parts.grad = None
    object_similarity(query, parts, metric, MIN, temperature=0.5).sum().backward()
    near, middle, far = parts.grad.norm(dim=-1) / alone
    assert near > middle > far > 0


@pytest.mark.parametrize("metric", MetricType)
@given(seed=seeds, p=sizes)
@settings(deadline=None, max_examples=25)
def test_temperature_to_zero_is_exactly_the_nearest_part(metric, seed, p):
    query, parts = normal(seed, 1, 3), normal(seed + 1, p, 3)
    nearest = part_similarity(query, parts, metric).amax(-1)
    for temperature in (0.0, 5e-324, 1e-300, 1e-12):
        parts.grad = None
        soft = object_similarity(query, parts.requires_grad_(), metric, MIN, temperature)
        soft.sum().backward()
        assert soft.equal(nearest)
        assert parts.grad.isfinite().all()
        assert parts.grad.ne(0).any(-1).sum() == 1


def test_temperature_to_infinity_is_the_mean_over_parts():
    query, parts = normal(0, 1, 3), normal(1, 4, 3)
    soft = object_similarity(query, parts, DOT, MIN, 1e9)
    assert soft.item() == pytest.approx(part_similarity(query, parts, DOT).mean().item(), abs=1e-6)


@pytest.mark.parametrize("metric", MetricType)
def test_softmin_never_wants_a_part_farther_away(metric):
    # the gradient through the weights would, for every part farther than the temperature
    query = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    parts = torch.tensor([[2.0, 0.1], [-3.0, 1.0]], dtype=torch.float64, requires_grad=True)
    object_similarity(query, parts, metric, MIN, temperature=0.4).sum().backward()
    step = 1e-6 * parts.grad / parts.grad.norm(dim=-1, keepdim=True)
    before = part_similarity(query, parts.detach(), metric)
    assert (before.amax() - before.amin()) > 0.4
    assert (part_similarity(query, parts.detach() + step, metric) > before).all()


def test_avg_compares_with_the_mean_part_and_not_with_the_parts():
    query, parts = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    got = object_similarity(query, parts, COSINE, AVG)
    assert got.item() == pytest.approx(3 / math.sqrt(10))
    assert got.item() != pytest.approx(part_similarity(query, parts, COSINE).mean().item())


@pytest.mark.parametrize("aggregation", MetricAggregationType)
@pytest.mark.parametrize("metric", MetricType)
@given(seed=seeds, m=sizes, p=sizes, more=sizes, temperature=st.sampled_from([0.0, 0.3, 2.0]))
@settings(deadline=None, max_examples=25)
def test_padding_takes_no_part_and_gets_no_gradient(metric, aggregation, seed, m, p, more, temperature):
    query, parts = normal(seed, m, 3), normal(seed + 1, p, 3)
    padded_query = torch.cat([query, torch.zeros(more, 3)])
    padded = torch.cat([parts, torch.zeros(more, 3)])
    part_mask, query_mask = torch.arange(p + more) < p, torch.arange(m + more) < m

    def answer(q, x, query_mask, part_mask):
        x.requires_grad_()
        each = object_similarity(q, x, metric, aggregation, temperature, part_mask)
        joined = query_similarity(each, query_mask, metric)
        return joined.detach(), torch.autograd.grad(joined, x)[0]

    value, gradient = answer(query, parts, torch.ones(m) > 0, None)
    same, padded_gradient = answer(padded_query, padded, query_mask, part_mask)
    assert same.equal(value)
    assert padded_gradient[:p].equal(gradient)
    assert padded_gradient[p:].eq(0).all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("aggregation", MetricAggregationType)
@pytest.mark.parametrize("metric", MetricType)
@pytest.mark.parametrize(
    "rows", [[[0.0, 0.0]], [[1.0, 0.0]], [[1.0, 0.0], [-1.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]]
)
def test_zero_vectors_and_zero_distances_have_finite_gradients(metric, aggregation, temperature, rows):
    for query in ([[0.0, 0.0]], [[1.0, 0.0]]):
        parts = torch.tensor(rows, requires_grad=True)
        value = object_similarity(torch.tensor(query), parts, metric, aggregation, temperature)
        value.sum().backward()
        assert value.isfinite().all()
        assert parts.grad.isfinite().all()


@pytest.mark.parametrize("metric", MetricType)
def test_gradients_are_those_of_finite_differences(metric):
    query, parts = normal(0, 2, 3), normal(1, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: part_similarity(query, x, metric), parts)
    assert torch.autograd.gradcheck(lambda x: object_similarity(query, x, metric, AVG), parts)
    assert torch.autograd.gradcheck(lambda x: object_similarity(query, x, metric, MIN), parts)


@pytest.mark.parametrize("aggregation", MetricAggregationType)
def test_an_object_or_a_query_without_real_vectors_has_similarity_zero(aggregation):
    nothing = torch.zeros(2, dtype=torch.bool)
    parts = torch.ones(2, 3, requires_grad=True)
    for temperature in (0.0, 1.0):
        each = object_similarity(torch.ones(2, 3), parts, COSINE, aggregation, temperature, nothing)
        each.sum().backward()
        assert each.tolist() == [0.0, 0.0]
        assert parts.grad.eq(0).all()
    for metric in MetricType:
        assert query_similarity(torch.ones(2), nothing, metric).item() == 0.0

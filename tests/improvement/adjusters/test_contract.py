"""What every adjuster must do, whatever it computes: add a new one to ADJUSTERS and the laws run on it."""

import math
from dataclasses import fields, replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from improvement.adjusters.geodesic import GeodesicAdjuster
from improvement.adjusters.torch_based import TorchBasedAdjuster
from improvement.domain import MetricAggregationType, MetricType, SearchIndexInfo, VectorsAdjuster
from improvement.inputs import EvidenceBatch, ImprovementElement, ImprovementInput, evidence_batch
from improvement.similarity import object_similarity

#: (constructor, moderate settings: small steps, under which a click must help)
ADJUSTERS = [
    pytest.param((TorchBasedAdjuster, {"adjustment_rate": 0.01}), id="torch"),
    pytest.param((GeodesicAdjuster, {"adjustment_rate": 0.01}), id="geodesic"),
]
SPACES = [pytest.param(space, id="-".join(space)) for space in product(MetricType, MetricAggregationType)]

every_adjuster = pytest.mark.parametrize("adjuster", ADJUSTERS)
every_space = pytest.mark.parametrize("space", SPACES)
seeds = st.integers(0, 2**32 - 1)


def made(adjuster, space, dimensions, **settings):
    constructor, moderate = adjuster
    info = SearchIndexInfo(dimensions, *space)
    return constructor(info, **(moderate | settings))


@st.composite
def sessions(draw, dimensions=3):
    """Sessions of two users over up to six objects of 1-3 parts; nothing is unit length."""
    rng = np.random.default_rng(draw(seeds))

    def vectors(count):
        return rng.normal(size=(count, dimensions)).astype(np.float32)

    parts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=6))
    objects = {f"o{i}": vectors(count) for i, count in enumerate(parts)}
    result = []
    for number in range(draw(st.integers(1, 5))):
        user = draw(st.sampled_from("uv"))
        shown = draw(st.lists(st.sampled_from(sorted(objects)), min_size=1, unique=True))
        elements = [ImprovementElement(o, objects[o], user) for o in shown]
        clicks = draw(st.integers(0, len(shown)))
        query = ImprovementElement(f"s{number}", vectors(draw(st.integers(1, 2))), user)
        result.append(ImprovementInput(f"s{number}", query, elements[:clicks], elements[clicks:]))
    return result


def one_object(query, parts, *, clicked=True) -> EvidenceBatch:
    """One session in which one object was clicked or skipped."""
    element = ImprovementElement("o", np.array(parts, np.float32), "u")
    search = ImprovementElement("s", np.array(query, np.float32), "u")
    return evidence_batch([ImprovementInput("s", search, [element] * clicked, [element] * (not clicked))])


def tensors(batch):
    return {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "keys"}


def drift_of(before, after, metric):
    """Measure by another formula than the code, in long double."""
    if np.array_equal(before, after):
        return 0.0
    x, y = before.astype(np.longdouble), after.astype(np.longdouble)
    if metric is not MetricType.COSINE:
        return np.sqrt(((y - x) ** 2).sum() / (x**2).sum())
    u, v = x / np.sqrt((x**2).sum()), y / np.sqrt((y**2).sum())
    return np.arctan2(np.sqrt(((v - (u @ v) * u) ** 2).sum()), u @ v)


@every_adjuster
def test_it_is_a_vectors_adjuster(adjuster):
    assert isinstance(made(adjuster, (), 3), VectorsAdjuster)


@every_space
@every_adjuster
@given(inputs=sessions(), limit=st.sampled_from([0.0, 1e-7, 0.01, 0.3, 2.0]), rate=st.booleans())
@settings(deadline=None, max_examples=12)
def test_no_part_ever_drifts_farther_than_the_limit(adjuster, space, inputs, limit, rate):
    defaults = (adjuster[0], {}) if rate else adjuster
    batch = evidence_batch(inputs)
    adjusted = made(defaults, space, 3, max_drift=limit).adjust(batch)
    assert adjusted.isfinite().all()
    for before, after in zip(batch.parts[batch.part_mask], adjusted[batch.part_mask], strict=True):
        assert drift_of(before.numpy(), after.numpy(), space[0]) <= limit + 1e-17


@every_space
@every_adjuster
@given(inputs=sessions())
@settings(deadline=None, max_examples=8)
def test_it_is_pure(adjuster, space, inputs):
    batch = evidence_batch(inputs)
    before = {name: tensor.clone() for name, tensor in tensors(batch).items()}
    it = made(adjuster, space, 3)
    first, second = it.adjust(batch), it.adjust(batch)
    assert first.equal(second)
    assert first.shape == batch.parts.shape
    assert first.dtype == batch.parts.dtype
    assert not first.requires_grad
    for name, tensor in tensors(batch).items():
        assert tensor.equal(before[name]), name
        assert not tensor.requires_grad
        assert tensor.data_ptr() != first.data_ptr()


@every_adjuster
def test_it_works_where_gradients_are_switched_off_and_leaves_the_switch_alone(adjuster):
    batch = one_object([[1.0, 0.5, 0.0]], [[0.3, 1.0, 0.2]])
    it = made(adjuster, (), 3)
    expected = it.adjust(batch)
    with torch.no_grad():
        assert it.adjust(batch).equal(expected)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


@every_space
@every_adjuster
@given(inputs=sessions(), shuffle=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=12)
def test_an_object_depends_on_nothing_else_in_the_batch(adjuster, space, inputs, shuffle):
    it = made(adjuster, space, 3)
    batch = evidence_batch(inputs)
    together = dict(zip(batch.keys, it.adjust(batch), strict=True))
    masks = dict(zip(batch.keys, batch.part_mask, strict=True))
    for key in batch.keys:
        mine = [session for session in inputs if session.query.user_id == key[0]]
        shuffle.shuffle(mine)
        alone = evidence_batch(mine, only={key})
        assert it.adjust(alone)[0][alone.part_mask[0]].equal(together[key][masks[key]])


@every_space
@every_adjuster
@given(inputs=sessions(), order=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=8)
def test_the_order_of_rows_and_of_evidence_changes_nothing(adjuster, space, inputs, order):
    batch = evidence_batch(inputs)
    rows = list(range(len(batch.keys)))
    order.shuffle(rows)
    shuffled = replace(
        batch,
        keys=tuple(batch.keys[row] for row in rows),
        parts=batch.parts[rows],
        part_mask=batch.part_mask[rows],
        evidence=batch.evidence[rows],
        weights=batch.weights[rows],
    )
    it = made(adjuster, space, 3)
    adjusted = it.adjust(batch)
    assert it.adjust(shuffled).equal(adjusted[rows])
    turned = replace(batch, evidence=batch.evidence.flip(1), weights=batch.weights.flip(1))
    assert torch.allclose(it.adjust(turned), adjusted, rtol=0, atol=1e-6)


@every_space
@every_adjuster
@given(inputs=sessions(), more=st.integers(1, 3))
@settings(deadline=None, max_examples=12)
def test_more_padding_never_matters(adjuster, space, inputs, more):
    def pad(tensor, dim, value=0):
        shape = list(tensor.shape)
        shape[dim] = more
        return torch.cat([tensor, torch.full(shape, value, dtype=tensor.dtype)], dim)

    batch = evidence_batch(inputs)
    padded = replace(
        batch,
        parts=pad(batch.parts, 1),
        part_mask=pad(batch.part_mask, 1),
        queries=pad(pad(batch.queries, 1), 0, 1),
        query_mask=pad(pad(batch.query_mask, 1), 0, 1),
        evidence=pad(batch.evidence, 1, len(batch.queries)),
        weights=pad(batch.weights, 1),
    )
    it = made(adjuster, space, 3)
    expected, adjusted = it.adjust(batch), it.adjust(padded)
    assert adjusted[:, : expected.shape[1]].equal(expected)
    assert adjusted[:, expected.shape[1] :].eq(0).all()
    assert adjusted[~padded.part_mask].eq(0).all()


@every_space
@every_adjuster
@given(inputs=sessions(), data=st.data())
@settings(deadline=None, max_examples=8)
def test_a_row_without_evidence_comes_back_as_it_was(adjuster, space, inputs, data):
    batch = evidence_batch(inputs)
    count = len(batch.keys)
    kept = torch.tensor(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    fewer = replace(batch, weights=batch.weights * kept[:, None])
    it = made(adjuster, space, 3)
    adjusted = it.adjust(fewer)
    assert adjusted[~kept].equal(batch.parts[~kept])
    assert adjusted[kept].equal(it.adjust(batch)[kept])


@every_space
@every_adjuster
@given(seed=seeds, parts=st.integers(1, 3))
@settings(deadline=None, max_examples=20)
def test_a_click_brings_an_object_closer_and_a_skip_never_does(adjuster, space, seed, parts):
    metric, aggregation = space
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(parts + 1, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query, rows = vectors[:1], vectors[1:]

    def closeness(parts):
        return object_similarity(torch.from_numpy(query), parts.double(), metric, aggregation).item()

    before = closeness(torch.from_numpy(rows))
    # at similarity 0 the cube has no slope; next to the query there is no closer
    assume(abs(before) > 0.01 and not (metric is MetricType.COSINE and abs(before) > 0.9))
    it = made(adjuster, space, 16)
    assert closeness(it.adjust(one_object(query, rows))[0]) > before
    assert closeness(it.adjust(one_object(query, rows, clicked=False))[0]) < before


@every_space
@every_adjuster
@pytest.mark.parametrize("clicked", [True, False])
@pytest.mark.parametrize(
    ("query", "parts"),
    [
        ([[1.0, 0.0]], [[1.0, 0.0]]),  # the query itself: cosine 1, distance 0
        ([[1.0, 0.0]], [[-1.0, 0.0]]),  # its opposite
        ([[1.0, 0.0]], [[0.0, 1.0]]),  # a right angle, where the cube has no slope
        ([[1.0, 0.0]], [[2.0, 0.0], [2.0, 0.0]]),  # the same part twice
        ([[1.0, 0.0]], [[1.0, 1.0], [-1.0, -1.0]]),  # parts whose mean is 0
        ([[1.0, 0.0], [-1.0, 0.0]], [[1.0, 0.0]]),  # query vectors that contradict each other
        ([[1.0, 0.0]], [[0.0, 0.0]]),
        ([[0.0, 0.0]], [[1.0, 0.0]]),
        ([[0.0, 0.0]], [[0.0, 0.0]]),
        ([[1e18, 0.0]], [[1e18, 1e17]]),
        ([[1e-30, 1e-30]], [[1e-30, 0.0]]),
    ],
)
def test_special_places_give_finite_lawful_answers(adjuster, space, clicked, query, parts):
    batch = one_object(query, parts, clicked=clicked)
    adjusted = made(adjuster, space, 2).adjust(batch)
    assert adjusted.isfinite().all()
    for before, after in zip(batch.parts[0].numpy(), adjusted[0].numpy(), strict=True):
        if before.any():
            assert drift_of(before, after, space[0]) <= 0.3
        else:
            assert not after.any()


@every_adjuster
@pytest.mark.parametrize("metric", [MetricType.COSINE, MetricType.DOT])
def test_a_query_of_zeros_teaches_nothing(adjuster, metric):
    batch = one_object([[0.0, 0.0, 0.0]], [[1.0, 2.0, 3.0]])
    assert made(adjuster, (metric,), 3).adjust(batch).equal(batch.parts)


@every_adjuster
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("field", ["parts", "queries", "weights"])
def test_nan_and_infinity_are_errors_that_name_the_field(adjuster, field, value):
    batch = one_object([[1.0, 0.5, 0.0]], [[0.3, 1.0, 0.2]])
    broken = getattr(batch, field).clone()
    broken.view(-1)[0] = value
    with pytest.raises(ValueError, match=f"^{field}: expected finite numbers"):
        made(adjuster, (), 3).adjust(replace(batch, **{field: broken}))


@every_adjuster
def test_vectors_of_another_size_than_the_index_are_errors_that_name_the_field(adjuster):
    batch = one_object([[1.0, 0.5, 0.0]], [[0.3, 1.0, 0.2]])
    with pytest.raises(ValueError, match="^parts: expected 4 dimensions, got 3"):
        made(adjuster, (), 4).adjust(batch)
    with pytest.raises(ValueError, match="^queries: expected 3 dimensions, got 2"):
        made(adjuster, (), 3).adjust(replace(batch, queries=batch.queries[..., :2]))


@every_adjuster
@pytest.mark.parametrize("limit", [-0.1, math.nan, "0.3"])
def test_a_limit_that_is_none_is_an_error_when_the_adjuster_is_made(adjuster, limit):
    with pytest.raises(ValueError, match="^max_drift: expected"):
        made(adjuster, (), 3, max_drift=limit)


@every_adjuster
def test_float64_vectors_come_back_as_float64(adjuster):
    batch = one_object([[1.0, 0.5, 0.0]], [[0.3, 1.0, 0.2]])
    wide = replace(batch, parts=batch.parts.double())
    assert made(adjuster, (), 3).adjust(wide).dtype == torch.float64


@every_adjuster
@pytest.mark.parametrize("device", ["banana", "cuda:99"])
def test_a_device_that_torch_cannot_use_is_named(adjuster, device):
    batch = one_object([[1.0, 0.5, 0.0]], [[0.3, 1.0, 0.2]])
    with pytest.raises(ValueError, match="^device: expected one that torch can use"):
        made(adjuster, (), 3, device=device).adjust(batch)

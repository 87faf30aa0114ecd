"""GeodesicAdjuster against the same steps in full dimension, against gradient descent, and its own laws."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from improvement.adjusters import on_device, planes
from improvement.adjusters.base import drift
from improvement.adjusters.geodesic import SLACK, GeodesicAdjuster
from improvement.domain import MetricAggregationType, MetricType, SearchIndexInfo
from improvement.inputs import EvidenceBatch, ImprovementElement, ImprovementInput, evidence_batch
from improvement.similarity import part_similarity

COSINE, DOT, EUCLID = MetricType.COSINE, MetricType.DOT, MetricType.EUCLID
MIN, AVG = MetricAggregationType.MIN, MetricAggregationType.AVG
every_space = pytest.mark.parametrize(
    "space", [pytest.param((m, a), id=f"{m}-{a}") for m in MetricType for a in MetricAggregationType]
)
seeds = st.integers(0, 2**32 - 1)


def random_batch(seed, dimensions=12, dtype=torch.float32, unit=False) -> EvidenceBatch:
    """Sessions of two users over objects of 1-3 parts, with queries of 1-2 vectors."""
    rng = np.random.default_rng(seed)

    def vectors(count):
        rows = rng.normal(size=(count, dimensions))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True) if unit else rows

    objects = {f"o{i}": vectors(rng.integers(1, 4)) for i in range(6)}
    sessions = []
    for s in range(8):
        user = "uv"[s % 2]
        shown = rng.permutation(sorted(objects))[: rng.integers(1, 6)]
        elements = [
            ImprovementElement(o, objects[o], user, weight=float(w))
            for o, w in zip(shown, rng.uniform(-1, 1, len(shown)), strict=True)
        ]
        query = ImprovementElement(f"s{s}", vectors(rng.integers(1, 3)), user)
        clicked = [e for e in elements if e.weight > 0]
        skipped = [e for e in elements if e.weight < 0]
        sessions.append(ImprovementInput(f"s{s}", query, clicked, skipped))
    return evidence_batch(sessions, dtype)


def evidence_of(batch, n):
    """The pieces of object n in full: (query vector, signed weight), zero vectors and padding left out."""
    pieces = []
    for e in range(batch.weights.shape[1]):
        query, mask = batch.queries[batch.evidence[n, e]], batch.query_mask[batch.evidence[n, e]]
        for vector in query[mask].double().numpy():
            pieces.append((vector, batch.weights[n, e].item() / int(mask.sum())))
    return [piece for piece in pieces if piece[1]]


def unit(x):
    return x / np.linalg.norm(x)


def loop(batch, it):
    """The documented steps for each object by itself, one after the other, in all dimensions."""
    metric, aggregation = it.search_index_info.metric_type, it.search_index_info.metric_aggregation_type
    adjusted = batch.parts.double().clone().numpy()
    for n in range(len(batch.keys)):
        parts = [batch.parts[n, p].double().numpy() for p in torch.where(batch.part_mask[n])[0]]
        pieces = evidence_of(batch, n)
        if not pieces:
            continue
        if aggregation is AVG:
            mean = np.mean(parts, axis=0)
            step = walk(mean, pieces, it) - mean
            moved = [part + step for part in parts]
        else:
            moved = []
            for p, part in enumerate(parts):
                heard = []
                for q, w in pieces:
                    near = np.array([one_similarity(metric, q, other) for other in parts])
                    share = np.exp((near - near.max()) / it.softmin_temperature)
                    heard.append((q, w * share[p] / share.sum()))
                moved.append(walk(part, heard, it))
        for p, (before, after) in enumerate(zip(parts, moved, strict=True)):
            adjusted[n, p] = pulled_back(before, after, metric, it.max_drift * (1 - SLACK) - SLACK)
    return adjusted


def one_similarity(metric, q, x):
    if metric is DOT:
        return q @ x
    return -np.linalg.norm(q - x) if metric is EUCLID else q @ x / np.linalg.norm(q) / np.linalg.norm(x)


def walk(x, pieces, it):
    start = x
    for _ in range(it.num_iterations):
        if it.search_index_info.metric_type is EUCLID:
            total = sum(w for _, w in pieces)
            goal = sum(w * q for q, w in pieces) / total
            x = goal + (x - goal) * math.exp(-total * it.adjustment_rate)
            continue
        g = sum(w * unit(q) for q, w in pieces)
        if it.search_index_info.metric_type is DOT:
            x = x + it.adjustment_rate * np.linalg.norm(start) * g
            continue
        u, v = unit(x), unit(g)
        angle = math.acos(np.clip(u @ v, -1, 1))
        left = 2 * math.atan(math.tan(angle / 2) * math.exp(-np.linalg.norm(g) * it.adjustment_rate))
        x = np.linalg.norm(x) * (math.cos(left) * v + math.sin(left) * unit(u - (u @ v) * v))
    return x


def pulled_back(before, after, metric, limit):
    if metric is not COSINE:
        way = np.linalg.norm(after - before)
        return before + (after - before) * min(1, limit * np.linalg.norm(before) / way) if way else before
    u, v = unit(before), unit(after)
    if math.acos(np.clip(u @ v, -1, 1)) <= limit:
        return after
    return np.linalg.norm(after) * (math.cos(limit) * u + math.sin(limit) * unit(v - (u @ v) * u))


@every_space
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@given(seed=seeds, rate=st.sampled_from([0.02, 0.3]), limit=st.sampled_from([0.2, 10.0]))
@settings(deadline=None, max_examples=10)
def test_it_agrees_with_a_loop_that_takes_the_same_steps_in_full_dimension(
    space, dtype, tolerance, seed, rate, limit
):
    batch = random_batch(seed, dtype=dtype)
    it = GeodesicAdjuster(
        SearchIndexInfo(12, *space), rate, num_iterations=4, softmin_temperature=0.5, max_drift=limit
    )
    adjusted = it.adjust(batch).double().numpy()
    assert np.abs(adjusted - loop(batch, it)).max() <= tolerance * max(1, np.abs(adjusted).max())


def objective(batch, space, parts, shares):
    """The sum of weighted similarities as autograd can see it; ``shares`` (N, P, K) are the softmin's."""
    metric, aggregation = space
    queries = batch.queries[batch.evidence].double().flatten(1, 2)  # (N, E * M, D)
    counts = batch.query_mask.sum(1)[batch.evidence]
    weights = batch.weights.double()[..., None] * batch.query_mask[batch.evidence] / counts[..., None]
    weights = weights.flatten(1)
    if aggregation is AVG:
        mask = batch.part_mask[..., None]
        parts = ((parts * mask).sum(1) / mask.sum(1))[:, None]
        shares = torch.ones_like(shares[:, :1])
    if metric is EUCLID:
        near = -(queries[:, None] - parts[:, :, None]).square().sum(-1) / 2
    else:
        length = queries.norm(dim=-1).clamp(min=1e-30)
        near = torch.einsum("nkd,npd->npk", queries / length[..., None], parts)
        if metric is COSINE:
            near = near / parts.norm(dim=-1)[..., None].clamp(min=1e-30)
    return (weights[:, None] * shares * near).sum()


@every_space
def test_it_is_where_gradient_ascent_in_tiny_steps_arrives(space):
    metric, aggregation = space
    batch = random_batch(7, dtype=torch.float64, unit=True)
    it = GeodesicAdjuster(SearchIndexInfo(12, *space), 0.2, 3, softmin_temperature=0.5, max_drift=math.inf)
    queries = batch.queries[batch.evidence].flatten(1, 2)
    near = part_similarity(queries, batch.parts, metric).transpose(1, 2)
    near = near.masked_fill(~batch.part_mask[..., None], -math.inf)
    shares = (near / 0.5).softmax(1)
    size = batch.parts.norm(dim=-1, keepdim=True)
    x, steps = batch.parts.clone(), 600
    mean_size = None
    for _ in range(steps):
        x.requires_grad_()
        (slope,) = torch.autograd.grad(objective(batch, space, x, shares), [x])
        x, scale = x.detach(), 1.0
        if aggregation is AVG:  # the parts share one gradient: as many times as large as a part's own
            slope = slope * batch.part_mask.sum(1)[:, None, None]
            middle = x.sum(1, keepdim=True) / batch.part_mask.sum(1)[:, None, None]
            start = batch.parts.sum(1, keepdim=True) / batch.part_mask.sum(1)[:, None, None]
            mean_size = start.norm(dim=-1, keepdim=True)
            scale = mean_size if metric is DOT else mean_size**2 if metric is COSINE else 1.0
            moved = middle + scale * slope[:, :1] * 0.6 / steps
            if metric is COSINE:
                moved = moved * mean_size / moved.norm(dim=-1, keepdim=True)
            x = torch.where(batch.part_mask[..., None], x + moved - middle, x)
            continue
        scale = size if metric is DOT else size**2 if metric is COSINE else 1.0
        x = x + scale * slope * 0.6 / steps
        if metric is COSINE:
            x = torch.where(size > 0, x * size / x.norm(dim=-1, keepdim=True), x)
    assert torch.allclose(it.adjust(batch), x, atol=5e-3)
    assert not torch.allclose(batch.parts, x, atol=2e-2)


@every_space
@given(seed=seeds)
@settings(deadline=None, max_examples=8)
def test_rotating_the_space_rotates_the_answers(space, seed):
    batch = random_batch(seed, dtype=torch.float64)
    rng = np.random.default_rng(seed)
    turn = torch.from_numpy(np.linalg.qr(rng.normal(size=(12, 12)))[0])
    it = GeodesicAdjuster(SearchIndexInfo(12, *space))
    turned = replace(batch, parts=batch.parts @ turn, queries=batch.queries @ turn)
    assert torch.allclose(it.adjust(turned), it.adjust(batch) @ turn, atol=1e-9)


@every_space
@given(seed=seeds, scale=st.sampled_from([1e-6, 0.1, 3.0, 1e6]))
@settings(deadline=None, max_examples=8)
def test_scaling_the_space_scales_the_answers(space, seed, scale):
    batch = random_batch(seed, dtype=torch.float64)
    it = GeodesicAdjuster(SearchIndexInfo(12, *space), softmin_temperature=0.0)
    grown = replace(batch, parts=batch.parts * scale, queries=batch.queries * scale)
    assert torch.allclose(it.adjust(grown), it.adjust(batch) * scale, rtol=1e-7, atol=1e-9 * scale)


@every_space
@given(seed=seeds)
@settings(deadline=None, max_examples=8)
def test_only_the_time_counts_not_how_many_steps_it_is_cut_into(space, seed):
    batch = random_batch(seed)
    info = SearchIndexInfo(12, *space)
    assert GeodesicAdjuster(info, 0.5, 4).adjust(batch).equal(GeodesicAdjuster(info, 2.0, 1).adjust(batch))


@every_space
@pytest.mark.parametrize("setting", ["adjustment_rate", "num_iterations", "max_drift"])
def test_no_time_and_no_drift_change_nothing(space, setting):
    batch = random_batch(3)
    it = GeodesicAdjuster(SearchIndexInfo(12, *space), **{setting: 0})
    assert it.adjust(batch).equal(batch.parts)


@pytest.mark.parametrize("aggregation", MetricAggregationType)
def test_a_click_never_takes_an_object_past_its_query(aggregation):
    batch = random_batch(5, unit=True, dtype=torch.float64)
    only = replace(batch, weights=batch.weights * (torch.arange(batch.weights.shape[1]) == 0))
    only = replace(only, weights=only.weights.abs(), query_mask=only.query_mask & torch.tensor([True, False]))
    it = GeodesicAdjuster(SearchIndexInfo(12, COSINE, aggregation), 1e6, max_drift=math.inf)
    adjusted = it.adjust(only)
    query = only.queries[only.evidence[:, 0], 0]
    single = only.part_mask.sum(1) == 1
    assert single.any()
    assert drift(query[single], adjusted[single, 0], COSINE).max() < 1e-6


def test_clicks_draw_an_object_in_a_euclidean_space_to_their_mean_query_and_not_beyond():
    batch = random_batch(5, dtype=torch.float64)
    batch = replace(batch, weights=batch.weights.abs())
    it = GeodesicAdjuster(SearchIndexInfo(12, EUCLID, AVG), 1e6, max_drift=math.inf)
    adjusted = it.adjust(batch)
    for n in range(len(batch.keys)):
        pieces = evidence_of(batch, n)
        goal = sum(w * q for q, w in pieces) / sum(w for _, w in pieces)
        assert np.allclose(adjusted[n][batch.part_mask[n]].mean(0).numpy(), goal, atol=1e-9)


@given(seed=seeds, tiny=st.sampled_from([0.0, 1e-12, 1e-8, 1e-6, 1e-4, 1e-2]), many=st.booleans())
@settings(deadline=None, max_examples=50)
def test_an_object_next_to_what_was_disliked_leaves_it_within_the_limit(seed, tiny, many):
    rng = np.random.default_rng(seed)
    query = unit(rng.normal(size=64))
    part = unit(query + tiny * rng.normal(size=64))
    sessions = [
        ImprovementInput(
            f"s{i}",
            ImprovementElement(f"s{i}", query[None], "u"),
            [],
            [ImprovementElement("o", part[None], "u", weight=-1.0)],
        )
        for i in range(3 if many else 1)
    ]
    batch = evidence_batch(sessions)
    adjusted = GeodesicAdjuster(SearchIndexInfo(64), adjustment_rate=100.0).adjust(batch)
    assert drift(batch.parts, adjusted, COSINE).item() <= 0.4
    if tiny >= 1e-4:  # nearer than that is float32's own noise
        assert drift(batch.parts, adjusted, COSINE).item() > 0.3


def long_drift(before, after, metric):
    """Measure in long double, by another formula than the code, scaled so that nothing overflows."""
    x, y = before.double().numpy().astype(np.longdouble), after.double().numpy().astype(np.longdouble)
    same = (x == y).all(-1)
    scale = np.abs(x).max(-1, keepdims=True)
    x, y = x / scale, y / scale
    length = np.sqrt((x * x).sum(-1))
    if metric is not COSINE:
        return np.where(same, 0, np.sqrt(((y - x) ** 2).sum(-1)) / length)
    u, v = x / length[..., None], y / np.sqrt((y * y).sum(-1))[..., None]
    return np.where(
        same, 0, np.arctan2(np.sqrt(((v - (u * v).sum(-1)[..., None] * u) ** 2).sum(-1)), (u * v).sum(-1))
    )


def rows_of(parts, queries, evidence, weights, dtype):
    """One part for each object, one vector for each query."""
    count = len(parts)
    return EvidenceBatch(
        keys=tuple(("u", str(n)) for n in range(count)),
        parts=torch.as_tensor(parts, dtype=dtype)[:, None],
        part_mask=torch.ones(count, 1, dtype=torch.bool),
        queries=torch.as_tensor(queries, dtype=dtype)[:, None],
        query_mask=torch.ones(len(queries), 1, dtype=torch.bool),
        evidence=torch.as_tensor(evidence),
        weights=torch.as_tensor(weights, dtype=dtype),
    )


@every_space
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rate", [0.3, 100.0, 1e8])
def test_the_limit_holds_next_to_what_is_disliked_and_opposite_what_is_liked(space, dtype, rate):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 96))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    for limit in (1e-4, 0.4, 3.1):
        it = GeodesicAdjuster(SearchIndexInfo(96, *space), rate, max_drift=limit)
        for away in (0.0, 1e-7, 1.05e-6, 1e-5, 1.01e-4, 1e-3, 1e-2):
            near = x + away * rng.normal(size=x.shape) / math.sqrt(96)
            own = np.arange(50)[:, None]
            for query, weight in ((near, -1.0), (-near, 1.0), (near * 1e-12, -1.0)):
                batch = rows_of(x, query, own, np.full((50, 1), weight), dtype)
                assert long_drift(batch.parts, it.adjust(batch), space[0]).max() <= limit


@every_space
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rate", [0.3, 1e8])
def test_the_limit_holds_where_pieces_of_evidence_cancel(space, dtype, rate):
    rng = np.random.default_rng(1)
    x, weights = rng.normal(size=(2000, 2)), np.array([0.3, 0.4, 0.7, 0.9])
    queries = rng.normal(size=(4, 2000, 2))
    lengths = np.linalg.norm(queries, axis=-1, keepdims=True) if space[0] is not EUCLID else 1.0
    queries = queries / lengths
    queries[3] = -(weights[:3, None, None] * queries[:3]).sum(0) / weights[3]
    sizes = np.linalg.norm(queries, axis=-1) if space[0] is not EUCLID else np.ones((4, 2000))
    evidence = np.arange(2000)[:, None] + np.arange(4) * 2000
    batch = rows_of(x, queries.reshape(-1, 2), evidence, (weights[:, None] * sizes).T, dtype)
    it = GeodesicAdjuster(SearchIndexInfo(2, *space), rate)
    assert long_drift(batch.parts, it.adjust(batch), space[0]).max() <= 0.4


@every_space
@pytest.mark.parametrize("size", [1e-37, 1e-29, 1e-15, 1e15, 1e36])
@pytest.mark.parametrize("query_size", [1e-37, 1e-20, 1.0, 1e18, 1e37])
def test_the_limit_holds_at_the_ends_of_float32(space, size, query_size):
    rng = np.random.default_rng(2)
    x, q = rng.normal(size=(100, 8)) * size / 4, rng.normal(size=(100, 8)) * query_size / 4
    evidence = np.stack([np.arange(100), (np.arange(100) + 1) % 100], 1)
    batch = rows_of(x, q, evidence, rng.uniform(-1, 1, (100, 2)), torch.float32)
    it = GeodesicAdjuster(SearchIndexInfo(8, *space))
    if (
        space == (EUCLID, AVG) and query_size == 1e37 and size > 1e-30
    ):  # the mean part's own step leaves the format
        with pytest.raises(ValueError, match="expected numbers whose products are finite"):
            it.adjust(batch)
        return
    adjusted = it.adjust(batch)
    assert adjusted.isfinite().all()
    assert long_drift(batch.parts, adjusted, space[0]).max() <= 0.4


@every_space
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_however_much_evidence_others_have_an_object_moves_as_it_does_alone(space, dtype):
    rng = np.random.default_rng(3)
    counts = rng.integers(1, 41, 60)
    weights = rng.uniform(-1, 1, (60, 40)) * (np.arange(40) < counts[:, None])
    batch = rows_of(
        rng.normal(size=(60, 7)), rng.normal(size=(25, 7)), rng.integers(0, 25, (60, 40)), weights, dtype
    )
    it = GeodesicAdjuster(SearchIndexInfo(7, *space), max_drift=math.inf)
    together = it.adjust(batch)
    for n, count in enumerate(counts):
        one = slice(n, n + 1)
        alone = replace(
            batch,
            keys=batch.keys[one],
            parts=batch.parts[one],
            part_mask=batch.part_mask[one],
            evidence=batch.evidence[one, :count],
            weights=batch.weights[one, :count],
        )
        assert it.adjust(alone)[0].equal(together[n])


@every_space
def test_how_tensors_lie_in_memory_does_not_matter(space):
    def turned(tensor):
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)

    batch = random_batch(4)
    it = GeodesicAdjuster(SearchIndexInfo(12, *space))
    expected = it.adjust(batch)
    for field in ("parts", "part_mask", "queries", "query_mask", "evidence", "weights"):
        assert it.adjust(replace(batch, **{field: turned(getattr(batch, field))})).equal(expected), field
    learned = {f: getattr(batch, f).clone().requires_grad_() for f in ("parts", "queries", "weights")}
    assert it.adjust(replace(batch, **learned)).equal(expected)
    assert it.adjust(replace(batch, evidence=batch.evidence.int())).equal(expected)


@every_space
def test_nobody_and_nothing_are_cases(space):
    batch = random_batch(4)
    it = GeodesicAdjuster(SearchIndexInfo(12, *space))
    silent = replace(batch, evidence=batch.evidence[:, :0], weights=batch.weights[:, :0])
    assert it.adjust(silent).equal(batch.parts)
    empty = replace(
        batch, keys=(), parts=batch.parts[:0], part_mask=batch.part_mask[:0],
        evidence=batch.evidence[:0], weights=batch.weights[:0],
    )  # fmt: skip
    assert it.adjust(empty).shape == (0, 3, 12)


def test_formats_too_short_to_keep_the_limit_are_refused():
    batch = random_batch(4)
    with pytest.raises(ValueError, match="^parts: expected float32 or float64, got torch.float16"):
        GeodesicAdjuster(SearchIndexInfo(12)).adjust(replace(batch, parts=batch.parts.half()))


def test_threads_that_adjust_at_once_do_not_disturb_each_other():
    batches = [random_batch(seed) for seed in range(4)]
    it = GeodesicAdjuster(SearchIndexInfo(12))
    expected = [it.adjust(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            for got, wanted in zip(pool.map(it.adjust, batches), expected, strict=True):
                assert got.equal(wanted)


def test_the_nearest_part_alone_answers_at_temperature_0_and_equally_near_ones_share():
    query = ImprovementElement("s", np.array([[1.0, 0.0, 0.0]]), "u")
    parts = np.array([[0.8, 0.6, 0.0], [0.0, 1.0, 0.0]])
    session = ImprovementInput("s", query, [ImprovementElement("o", parts, "u")], [])
    it = GeodesicAdjuster(SearchIndexInfo(3), adjustment_rate=0.01, softmin_temperature=0.0)
    batch = evidence_batch([session])
    first, second = it.adjust(batch)[0]
    assert not first.equal(batch.parts[0, 0])
    assert second.equal(batch.parts[0, 1])
    twice = np.array([[0.8, 0.6, 0.0], [0.8, 0.6, 0.0]])
    batch = evidence_batch([replace(session, clicked_elements=[ImprovementElement("o", twice, "u")])])
    first, second = it.adjust(batch)[0]
    assert first.equal(second)
    whole = evidence_batch([replace(session, clicked_elements=[ImprovementElement("o", twice[:1], "u")])])
    half = drift(batch.parts[0, 0], first, COSINE).item()
    assert half == pytest.approx(
        drift(whole.parts[0, 0], it.adjust(whole)[0, 0], COSINE).item() / 2, rel=0.05
    )


@every_space
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@given(seed=seeds)
@settings(deadline=None, max_examples=5)
def test_the_torch_passes_of_other_devices_give_what_the_compiled_loops_give(space, dtype, tolerance, seed):
    batch = random_batch(seed, dtype=dtype)
    batch.parts[0, 0] = batch.queries[batch.evidence[0, 0], 0]  # a narrow plane
    it = GeodesicAdjuster(SearchIndexInfo(12, *space))
    expected = it.adjust(batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planes, "_run", lambda name, rows, *others: getattr(on_device, name)(rows, *others))
        patch.setattr(on_device, "CHUNK", 12 * 4)
        assert torch.allclose(
            it.adjust(batch), expected, rtol=0, atol=tolerance * max(1, expected.abs().max())
        )


@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="torch finds no GPU here; the same passes run on the processor in the test above",
)
@every_space
def test_a_gpu_gives_the_same_vectors(space):
    batch = random_batch(11)
    info = SearchIndexInfo(12, *space)
    on_gpu = GeodesicAdjuster(info, device="cuda").adjust(batch)
    assert on_gpu.device == batch.parts.device
    assert torch.allclose(on_gpu, GeodesicAdjuster(info).adjust(batch), atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("adjustment_rate", -0.1),
        ("adjustment_rate", math.nan),
        ("adjustment_rate", math.inf),
        ("adjustment_rate", 10**400),
        ("num_iterations", 1.5),
        ("num_iterations", -1),
        ("softmin_temperature", -1.0),
        ("softmin_temperature", "warm"),
        ("max_drift", -1.0),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(setting, value):
    with pytest.raises(ValueError, match=f"^{setting}: expected"):
        GeodesicAdjuster(SearchIndexInfo(3), **{setting: value})

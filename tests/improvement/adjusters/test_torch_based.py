import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from improvement.adjusters import torch_based
from improvement.adjusters.torch_based import TorchBasedAdjuster
from improvement.domain import MetricAggregationType, MetricType, SearchIndexInfo
from improvement.inputs import ImprovementElement, ImprovementInput, evidence_batch

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT.parent / "shared" / "data" / "published-adjuster-golden.json"
COSINE, DOT, EUCLID = MetricType.COSINE, MetricType.DOT, MetricType.EUCLID
MIN, AVG = MetricAggregationType.MIN, MetricAggregationType.AVG


def batch_of(query, clicked=(), skipped=(), dtype=torch.float32):
    def elements(name, objects):
        return [ImprovementElement(f"{name}{i}", np.array(o), "u") for i, o in enumerate(objects)]

    search = ImprovementElement("s", np.array(query), "u")
    session = ImprovementInput("s", search, elements("c", clicked), elements("n", skipped))
    return evidence_batch([session], dtype)


def unlimited(metric, aggregation=MIN, dimensions=2, **settings):
    return TorchBasedAdjuster(
        SearchIndexInfo(dimensions, metric, aggregation), max_drift=math.inf, **settings
    )


def test_it_reproduces_the_published_adjuster():
    entries = json.loads(GOLDEN.read_text())
    assert entries
    for entry in entries:
        batch = batch_of([entry["query"]], [[entry["clicked"]]], [[entry["non_clicked"]]])
        adjuster = unlimited(
            MetricType(entry["metric"].lower()),
            MetricAggregationType(entry["aggregation"].lower()),
            len(entry["query"]),
            adjustment_rate=entry["adjustment_rate"],
            num_iterations=entry["num_iterations"],
            softmin_temperature=entry["softmin_temperature"],
        )
        (clicked,), (skipped,) = adjuster.adjust(batch).tolist()
        assert clicked == pytest.approx(entry["clicked_adjusted"], abs=1e-5, rel=0), entry
        assert skipped == pytest.approx(entry["non_clicked_adjusted"], abs=1e-5, rel=0), entry


@pytest.mark.parametrize("aggregation", MetricAggregationType)
@pytest.mark.parametrize("metric", MetricType)
def test_every_object_of_a_batch_moves_as_a_loop_with_its_own_optimizer_moves_it(metric, aggregation):
    rng = np.random.default_rng(0)
    objects = {f"o{i}": rng.normal(size=(1 + i % 3, 5)) for i in range(8)}
    queries = [rng.normal(size=(1 + s % 2, 5)) for s in range(6)]
    sessions, pieces = [], {o: [] for o in objects}
    for s, query in enumerate(queries):
        shown = [f"o{(s + i) % 8}" for i in range(2 + s % 4)]
        elements = [ImprovementElement(o, objects[o], "u") for o in shown]
        clicks = 1 + s % 2
        sessions.append(
            ImprovementInput(
                f"s{s}", ImprovementElement(f"s{s}", query, "u"), elements[:clicks], elements[clicks:]
            )
        )
        for place, o in enumerate(shown):
            weight = 1 / clicks if place < clicks else -1 / (len(shown) - clicks)
            pieces[o].append((torch.from_numpy(query), weight))

    def similarity(q, part):
        if metric is COSINE:
            return torch.cosine_similarity(q, part, dim=0)
        return q @ part if metric is DOT else -torch.dist(q, part)

    def to_object(q, parts):
        if aggregation is AVG:
            return similarity(q, parts.mean(0))
        each = torch.stack([similarity(q, part) for part in parts])
        return torch.softmax(each.detach() / 0.7, 0) @ each

    def to_query(query, parts):
        each = torch.stack([to_object(q, parts) for q in query])
        return -each.square().mean().sqrt() if metric is EUCLID else each.mean()

    batch = evidence_batch(sessions, torch.float64)
    adjuster = unlimited(metric, aggregation, 5, adjustment_rate=0.05, softmin_temperature=0.7)
    for key, rows, mask in zip(batch.keys, adjuster.adjust(batch), batch.part_mask, strict=True):
        parts = torch.from_numpy(objects[key[1]].copy()).requires_grad_()
        optimizer = torch.optim.AdamW([parts], lr=0.05)
        for _ in range(10):
            optimizer.zero_grad()
            sum(-weight * to_query(query, parts) ** 3 for query, weight in pieces[key[1]]).backward()
            optimizer.step()
        assert torch.allclose(rows[mask], parts.detach(), rtol=0, atol=1e-5), key


def test_a_batch_larger_than_one_chunk_is_the_same_as_its_objects_alone(monkeypatch):
    rng = np.random.default_rng(0)
    query, clicked = rng.normal(size=(1, 7)), rng.normal(size=(40, 2, 7))
    batch = batch_of(query, clicked[:20], clicked[20:])
    adjuster = TorchBasedAdjuster(SearchIndexInfo(7))
    together = adjuster.adjust(batch)
    for chunk in (1, 100):
        monkeypatch.setattr(torch_based, "CHUNK", chunk)
        assert adjuster.adjust(batch).equal(together)
    assert not together.equal(batch.parts)


def test_at_temperature_zero_only_the_nearest_part_moves():
    batch = batch_of([[1.0, 0.2]], [[[0.9, 0.5], [0.2, 1.0], [-1.0, 0.3]]])
    for metric in MetricType:
        adjusted = unlimited(metric, softmin_temperature=0.0).adjust(batch)[0]
        assert not adjusted[0].equal(batch.parts[0, 0])
        assert adjusted[1:].equal(batch.parts[0, 1:])  # nor does weight decay shrink them


def test_with_avg_every_part_moves_and_the_temperature_does_not_matter():
    batch = batch_of([[1.0, 0.2]], [[[0.9, 0.5], [0.2, 1.0]]])
    adjusted = unlimited(DOT, AVG, softmin_temperature=0.0).adjust(batch)
    assert (adjusted - batch.parts).ne(0).all()
    assert unlimited(DOT, AVG, softmin_temperature=5.0).adjust(batch).equal(adjusted)


def test_the_defaults_stay_within_their_limit_where_the_published_ones_turn_by_half_a_right_angle():
    rng = np.random.default_rng(0)
    query, clicked = (rng.normal(size=(1, 384)) for _ in range(2))
    unit = clicked / np.linalg.norm(clicked)
    batch = batch_of(query / np.linalg.norm(query), [unit])

    def angle(adjuster):
        return math.acos(torch.cosine_similarity(adjuster.adjust(batch), batch.parts, dim=-1).item())

    assert angle(unlimited(COSINE, dimensions=384)) > math.pi / 4
    assert angle(TorchBasedAdjuster(SearchIndexInfo(384))) == pytest.approx(0.3, abs=1e-3)


def test_no_steps_or_no_rate_move_nothing():
    batch = batch_of([[1.0, 0.2]], [[[0.9, 0.5]]], [[[0.2, 1.0]]])
    for settings in ({"num_iterations": 0}, {"adjustment_rate": 0.0}):
        assert unlimited(COSINE, **settings).adjust(batch).equal(batch.parts)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("adjustment_rate", -0.1),
        ("adjustment_rate", math.inf),
        ("num_iterations", 1.5),
        ("num_iterations", -1),
        ("softmin_temperature", -1.0),
        ("softmin_temperature", math.nan),
        ("max_drift", -0.3),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it(setting, value):
    with pytest.raises(ValueError, match=f"^{setting}: expected"):
        TorchBasedAdjuster(SearchIndexInfo(2), **{setting: value})


def test_settings_are_frozen_and_show_in_the_repr():
    # the repr is part of a copy's revision: other settings, other copies
    adjuster = TorchBasedAdjuster(SearchIndexInfo(2), adjustment_rate=0.05)
    with pytest.raises(AttributeError):
        adjuster.max_drift = 1.0
    assert adjuster == TorchBasedAdjuster(SearchIndexInfo(2), adjustment_rate=0.05)
    assert repr(adjuster) != repr(TorchBasedAdjuster(SearchIndexInfo(2), adjustment_rate=0.06))


def test_making_one_does_not_load_torch():
    code = (
        "import sys; from improvement.adjusters.torch_based import TorchBasedAdjuster;"
        "from improvement.domain import SearchIndexInfo; TorchBasedAdjuster(SearchIndexInfo(3));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0

"""The protocol, on a data set computed by hand, against production, and on the real one."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from improvement.adjusters.torch_based import TorchBasedAdjuster
from improvement.copies import personal_copies
from improvement.domain import MetricAggregationType, MetricType, SearchDomain
from improvement.evaluation.dataset import ReplayDataset, ReplayUser, load_dataset
from improvement.evaluation.learner import Learner, Scene
from improvement.evaluation.metrics import weighted_mean
from improvement.evaluation.profiles import profile_of
from improvement.evaluation.replay import Replay, choose, compare, replay
from improvement.evidence import DAY, EvidenceWeights, SkippedItems
from improvement.inputs import EvidenceBatch
from improvement.profiles.settings import ProfileSettings
from tests.improvement.evaluation.conftest import Write, at
from tests.support import make_domain

REAL = Path(__file__).parents[4] / "shared" / "data" / "movielens-replay"
SECOND = 1 / math.log2(3)  # the discount of the second place


@dataclass(frozen=True)
class Pounce:
    """Moves what was clicked exactly onto its first query, and nothing else."""

    max_drift: float = math.inf
    seen: Callable[[EvidenceBatch], None] = lambda batch: None

    def adjust(self, batch: EvidenceBatch) -> torch.Tensor:
        self.seen(batch)
        clicked = batch.weights.sum(1) > 0
        first = batch.queries[batch.evidence[:, 0], 0]
        return torch.where(clicked[:, None, None] & batch.part_mask[..., None], first[:, None], batch.parts)


def means(run: Replay) -> dict[str, float]:
    return {name: weighted_mean(sample.values) for name, sample in run.samples.items()}


@pytest.fixture
def scene(write: Write) -> Scene:
    return Scene.of(load_dataset(write()))


def test_without_learning_the_metrics_are_those_computed_by_hand(scene: Scene):
    found = means(replay(scene, None, EvidenceWeights()))
    # ann's "high" finds o23, o22 ... : o22 is second of the two she wants, o05 far below. What bob asks has
    # no relevant object and no topic, so only ann counts.
    assert found["heldout.ndcg@10"] == pytest.approx(SECOND / (1 + SECOND))
    assert found["heldout.topical@10"] == pytest.approx(2 / 10)  # o23 and o15 are among o23 ... o14
    # o00 ... o19 were shown to her: left are o23, o22 ..., and of the relevant ones o22
    assert found["heldout.unseen_ndcg@10"] == pytest.approx(SECOND)
    # "low" again: o02 is third; o21 is 22nd
    assert found["refind.ndcg@10"] == pytest.approx(1 / 2 / (1 + SECOND))
    assert found["drift"] == 0


def test_with_learning_too(scene: Scene):
    run = replay(scene, Pounce(), EvidenceWeights())
    found = means(run)
    # o02 now lies on the query, beside o00, which comes first because it comes first in the file
    assert found["refind.ndcg@10"] == pytest.approx(SECOND / (1 + SECOND))
    assert found["heldout.ndcg@10"] == pytest.approx(SECOND / (1 + SECOND))
    # 20 objects were shown to each of two users, and one of them went 2 degrees
    assert found["drift"] == pytest.approx((1 - math.cos(math.radians(2))) / 40, rel=1e-4)
    # o00 and o01 stand above the click: passed over, copied, not moved
    assert (run.clicked, run.copies) == (1, 3)
    assert run.adjuster_seconds > 0


def test_a_session_teaches_by_the_copies_that_earlier_ones_made(write: Write):
    # ann asks "low" twice. Once o02 is on the query it is shown again, and clicked again.
    sessions = [{"user_id": "ann", "query_id": "low", "split": "train"}] * 2
    batches: list[EvidenceBatch] = []
    scene = Scene.of(load_dataset(write(sessions_jsonl=sessions)))
    run = replay(scene, Pounce(seen=batches.append), EvidenceWeights())
    first, again, second = batches  # the first batch is run twice, once to warm up
    assert {key for _, key in first.keys} == {key for _, key in again.keys} == {"o00", "o01", "o02"}
    # now o02 is second, so only o00 stands above it; its evidence is of both sessions
    assert {key for _, key in second.keys} == {"o00", "o02"}
    assert second.weights.ne(0).sum(1).tolist() == [2, 2]
    assert means(run)["refind.ndcg@10"] == pytest.approx(SECOND / (1 + SECOND))
    assert math.isnan(means(run)["heldout.ndcg@10"])


def test_the_mean_part_decides_under_avg(write: Write):
    relevance = [{"user_id": "ann", "query_id": "low", "object_ids": ["o00"]}]
    data = load_dataset(write(relevance_jsonl=relevance))
    nearest, mean = (
        means(replay(Scene.of(data, aggregation=one), None, EvidenceWeights()))["refind.ndcg@10"]
        for one in MetricAggregationType
    )
    assert nearest == 1  # a part of o00 lies on the query
    assert mean == 0  # the mean of its two opposite parts has no direction


def random_dataset(seed: int, users: int = 3) -> ReplayDataset:
    """Parts, query vectors, sessions and relevance at random; few enough objects to meet again and again."""
    rng = np.random.default_rng(seed)
    objects = [rng.standard_normal((1 + i % 3, 6)).astype(np.float32) for i in range(30)]
    queries = [rng.standard_normal((1 + i % 2, 6)).astype(np.float32) for i in range(6)]

    def some(count: int, of: int) -> frozenset[int]:
        return frozenset(rng.choice(of, count, replace=False).tolist())

    everybody = tuple(
        ReplayUser(f"u{i}", (0, 1, 2, 0), (3, 4, 5), {q: some(8, 30) for q in range(6)}) for i in range(users)
    )
    ids = tuple(f"o{i}" for i in range(30))
    return ReplayDataset(ids, tuple(objects), tuple(queries), everybody, {3: some(5, 30)})


def learn_all(scene: Scene, evidence: EvidenceWeights, adjuster: Any) -> Learner:
    user = scene.dataset.users[0]
    learner = Learner(scene, adjuster, evidence, user, DAY)
    for query in user.train:
        learner.search(query)
    return learner


@pytest.mark.parametrize("half_life", [None, 1.0, 0.001])
@pytest.mark.parametrize("metric", MetricType)
@pytest.mark.parametrize("aggregation", MetricAggregationType)
def test_a_user_ends_with_what_production_makes_of_all_their_sessions_at_once(
    metric: MetricType, aggregation: MetricAggregationType, half_life: float | None
):
    scene = Scene.of(random_dataset(0), metric, aggregation)
    adjuster = TorchBasedAdjuster(scene.info, adjustment_rate=0.05, num_iterations=3)
    learner = learn_all(scene, EvidenceWeights(half_life_days=half_life), adjuster)
    assert len(learner.taught) > 2
    inputs = learner.inputs
    domain = SearchDomain("all", scene.info, adjuster, make_domain().encoder)
    keys = {(e.user_id, e.id): "" for one in inputs for e, _ in one.weighted()}
    made = personal_copies(inputs, scene.originals, keys, domain)
    assert {str(copy.original_id) for copy in made} == {scene.dataset.object_ids[r] for r in learner.copies}
    for copy in made:
        mine = learner.copies[scene.rows[str(copy.original_id)]]
        np.testing.assert_allclose(mine.parts, copy.parts, atol=1e-6)
        np.testing.assert_allclose(mine.mean, copy.mean, atol=1e-6)


def test_each_session_weighs_by_its_age_beside_the_latest():
    scene = Scene.of(random_dataset(0))
    adjuster = TorchBasedAdjuster(scene.info, num_iterations=1)
    learner = learn_all(scene, EvidenceWeights(half_life_days=1.0), adjuster)
    now = int(learner.taught[-1][0].session.session_id)
    assert now == 4
    for (usable, _), made in zip(learner.taught, learner.inputs, strict=True):
        days = now - int(usable.session.session_id)
        expected = {object_id: weight * 0.5**days for object_id, weight in usable.weights.items()}
        assert {element.id: weight for element, weight in made.weighted()} == pytest.approx(expected)


def test_evidence_that_says_nothing_teaches_nothing():
    scene = Scene.of(random_dataset(0))
    run = replay(scene, Pounce(), EvidenceWeights(events={}))
    assert (run.copies, run.adjuster_seconds) == (0, 0.0)


@settings(max_examples=8)
@given(st.integers(0, 1_000))
def test_users_do_not_touch_each_other(seed: int):
    scene = Scene.of(random_dataset(seed))
    together = replay(scene, Pounce(), EvidenceWeights())
    for number, user in enumerate(scene.dataset.users):
        alone = replay(scene, Pounce(), EvidenceWeights(), [user])
        for name, sample in together.samples.items():
            mine = sample.values[sample.users == number]
            np.testing.assert_array_equal(mine, alone.samples[name].values)


def test_an_adjuster_that_does_nothing_is_no_learning():
    scene = Scene.of(random_dataset(3))
    still = TorchBasedAdjuster(scene.info, num_iterations=0)
    baseline, row = compare(scene, "still", still, EvidenceWeights()).rows
    for name, estimate in baseline.metrics.items():
        assert row.metrics[name].mean == pytest.approx(estimate.mean, abs=0, nan_ok=True)
    assert all(e.mean == 0 or e.count == 0 for e in row.differences.values())


@pytest.mark.parametrize("metric", MetricType)
def test_drift_is_that_of_the_metric(metric: MetricType):
    scene = Scene.of(random_dataset(1), metric)
    learner = learn_all(scene, EvidenceWeights(), Pounce())
    expected = []
    for row in sorted(learner.shown):
        old = scene.originals[scene.dataset.object_ids[row]].parts.astype(np.float64)
        new = learner.copies[row].parts.astype(np.float64) if row in learner.copies else old
        if metric is MetricType.COSINE:
            sizes = np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)
            expected.append(np.mean(1 - (old * new).sum(1) / sizes))
        else:
            expected.append(np.mean(np.linalg.norm(new - old, axis=1) / np.linalg.norm(old, axis=1)))
    np.testing.assert_allclose(learner.measure()["drift"], expected, atol=1e-6)
    assert max(expected) > 0.01


def test_a_report_is_json_with_every_interval_around_its_mean():
    scene = Scene.of(random_dataset(0, users=8))
    report = compare(scene, "pounce", Pounce(), EvidenceWeights(), "6")
    told = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert [row["method"] for row in told["rows"]] == ["no learning", "pounce"]
    assert told["source"]["users"] == 6
    for row in told["rows"]:
        for estimate in (*row["metrics"].values(), *row["differences"].values()):
            if estimate["low"] is None:
                continue  # fewer than two users have a value
            assert estimate["low"] <= estimate["mean"] + 1e-9
            assert estimate["mean"] - 1e-9 <= estimate["high"]
    assert report.row("pounce").facts["sessions_per_second"] > 0
    assert "drift" not in report.row("pounce").differences


def test_what_is_undefined_is_null_in_json(write: Write):
    data = load_dataset(write(relevance_jsonl=[], topics_jsonl=None))
    told = compare(Scene.of(data), None, None, EvidenceWeights()).as_json()
    assert told["rows"][0]["metrics"]["heldout.topical@10"] == {
        "mean": None, "low": None, "high": None, "count": 0,
    }  # fmt: skip


def test_the_halves_share_nobody_and_leave_nobody_out():
    users = random_dataset(0, users=7).users
    even, odd = choose(users, "even"), choose(users, "odd")
    assert [user.user_id for user in even] == ["u0", "u2", "u4", "u6"]
    assert {user.user_id for user in (*even, *odd)} == {user.user_id for user in users}
    assert len(even) + len(odd) == 7
    assert choose(users, "99") == choose(users, "all") == users


@pytest.mark.parametrize("which", ["0", "-1", "half", "", "1.5", "²"])
def test_a_choice_of_nobody_is_refused(which: str):
    with pytest.raises(ValueError, match="users: "):
        choose(random_dataset(0).users, which)


def learned(scene: Scene, profiles: ProfileSettings, adjuster: Any = None) -> Learner:
    """Return the first user after training with a profile; all that was not clicked is skipped."""
    user = scene.dataset.users[0]
    evidence = EvidenceWeights(skipped_items=SkippedItems.ALL, per_session=False)
    learner = Learner(scene, adjuster, evidence, user, DAY, profiles=profiles)
    for query in user.train:
        learner.search(query)
    return learner


def test_a_profile_finds_what_copies_cannot_know(write: Write):
    # ann looks from 0 degrees, and of the twenty she is shown she wants the two farthest: o18 and o19. No
    # copy of those could tell that she wants o20 rather than o23 when she looks for "high", at 23 degrees.
    sessions = [
        {"user_id": "ann", "query_id": "low", "split": "train"},
        {"user_id": "ann", "query_id": "high", "split": "test"},
    ]
    relevance = [
        {"user_id": "ann", "query_id": "low", "object_ids": ["o18", "o19"]},
        {"user_id": "ann", "query_id": "high", "object_ids": ["o20"]},
    ]
    scene = Scene.of(load_dataset(write(sessions_jsonl=sessions, relevance_jsonl=relevance)))
    profiles = ProfileSettings(min_interactions=1, search_weight=0.9, negative_weight=0.0, away=0.0)
    learner = learned(scene, profiles)
    assert learner.profile is not None
    # o18 has a part on the far side, so its mean part has no direction, and o19 alone is liked: 19 degrees
    np.testing.assert_allclose(learner.profile.embedding, at(19)[0], atol=1e-6)
    assert learner.ranking(1, 4) == [19, 20, 18, 21]  # nearest to 19.4 degrees
    assert Learner.ranking(learned(scene, replace(profiles, min_interactions=2)), 1, 4) == [23, 22, 21, 20]
    assert learned(scene, replace(profiles, rescored=4)).ranking(1, 5) == [20, 21, 22, 23, 19]


def cosine(a: Any, b: Any) -> float:
    sizes = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / sizes if sizes else 0.0


def turned(a: Any, b: Any, share: float) -> Any:
    """Turn the unit vector a by a share of its angle to b; by a share < 0, away, up to the right angle."""
    b = b / np.linalg.norm(b)
    angle = math.acos(cosine(a, b))
    by = share * angle if share > 0 else share * max(0.0, math.pi / 2 - angle)
    beside = b - math.cos(angle) * a
    return math.cos(by) * a + math.sin(by) * beside / np.linalg.norm(beside)


@given(st.integers(0, 1_000))
@settings(max_examples=15)
def test_a_user_with_a_profile_alone_is_a_loop_over_everything(seed: int):
    data, profiles = (
        random_dataset(seed),
        ProfileSettings(search_weight=0.3, rescored=25, remember=50, interests=1, min_interactions=3),
    )
    user, now = data.users[0], 0
    said: list[tuple[int, float, int]] = []

    def ranking(query: int) -> list[int]:
        def closeness(vectors: Any) -> Callable[[int], float]:
            return lambda row: sum(max(cosine(v, p) for p in data.objects[row]) for v in vectors)

        first = sorted(range(30), key=closeness(data.queries[query]), reverse=True)
        likes = [(row, weight) for row, weight, _ in said[-50:] if weight > 0]
        if len(likes) < 3:
            return first
        means = [sum(part / np.linalg.norm(part) for part in one) for one in data.objects]
        means = [one / np.linalg.norm(one) for one in means]
        liked = sum(weight * means[row] for row, weight in likes)
        liked = liked / np.linalg.norm(liked)
        last = max(at for _, weight, at in said[-50:] if weight < 0)
        disliked = sum(
            math.tanh(-weight / 3) * 0.5 ** ((last - at) / 30) * means[row]
            for row, weight, at in said[-50:]
            if weight < 0
        )

        def strength(day: int) -> float:
            return math.tanh(float(np.linalg.norm(disliked)) * 0.5 ** ((day - last) / 30))

        embedding = turned(liked, disliked, -0.6 * strength(now))  # now is the latest session still
        queries = [v / np.linalg.norm(v) for v in data.queries[query]]
        queries = [turned(turned(v, embedding, 0.3), disliked, -0.2 * strength(now + 1)) for v in queries]
        return sorted(first[:25], key=closeness(queries), reverse=True) + first[25:]

    shown = set()
    for query in user.train:
        page = ranking(query)[:20]
        shown |= set(page)
        clicked = [row for row in page if row in user.relevant[query]]
        now += 1
        if clicked:
            said += [(row, 3 * math.tanh((2 if row in clicked else -2) / 3), now) for row in page]
    learner = learned(Scene.of(data), profiles)
    assert learner.shown == shown
    for query in user.test:
        assert learner.ranking(query, 30) == ranking(query)


@settings(max_examples=8)
@given(st.integers(0, 1_000))
def test_a_profile_of_weight_zero_changes_nothing(seed: int):
    scene = Scene.of(random_dataset(seed))
    copies = replay(scene, Pounce(), EvidenceWeights())
    both = replay(scene, Pounce(), EvidenceWeights(), profiles=ProfileSettings(search_weight=0.0))
    for name, sample in copies.samples.items():
        np.testing.assert_array_equal(sample.values, both.samples[name].values)


def test_the_second_stage_ranks_copies_and_a_profile_is_made_of_originals():
    scene = Scene.of(random_dataset(0))
    profiles = ProfileSettings(min_interactions=1, search_weight=1e-9, negative_weight=0.0)
    both = learned(scene, profiles, Pounce())
    copies = learned(scene, replace(profiles, search_weight=0.0), Pounce())
    assert both.copies.keys() == copies.copies.keys()
    for query in scene.dataset.users[0].test:  # turned by nothing that could be measured
        assert both.ranking(query, 30) == copies.ranking(query, 30)
    assert both.ranking(0, 30) != learned(scene, profiles).ranking(0, 30)
    means = {one.object_id: one.mean for one in scene.originals.values()}
    again = profile_of("u0", both.said, means, profiles)
    assert again is not None
    assert both.profile is not None
    np.testing.assert_array_equal(again.embedding, both.profile.embedding)


def test_the_rows_are_copies_then_both_or_the_profile_alone():
    scene = Scene.of(random_dataset(0, users=8))
    profiles = ProfileSettings(min_interactions=1, search_weight=0.3)
    told = compare(scene, "pounce", Pounce(), EvidenceWeights(), profiles=profiles)
    assert [row.method for row in told.rows] == ["no learning", "pounce", "pounce + profile"]
    both = told.row("pounce + profile")
    assert both.settings["profile"]["search_weight"] == 0.3
    assert (told.row("pounce").facts["profiles"], both.facts["profiles"]) == (0, 8)
    assert both.versus["pounce"].keys() == both.differences.keys()
    for name in ("heldout.ndcg@10", "heldout.topical@10", "refind.ndcg@10"):
        found = both.versus["pounce"][name]
        mean = {row.method: row.metrics[name].mean for row in told.rows}
        assert found.mean == pytest.approx(mean["pounce + profile"] - mean["pounce"], abs=1e-9)
        assert both.differences[name].mean == pytest.approx(mean["pounce + profile"] - mean["no learning"])
    alone = compare(scene, None, None, EvidenceWeights(), profiles=profiles)
    assert [row.method for row in alone.rows] == ["no learning", "profile"]
    assert alone.row("profile").facts["copies"] == 0
    assert alone.row("profile").versus == {}
    assert json.dumps(told.as_json(), allow_nan=False)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="its licence keeps the data set out of this repository")
def test_the_first_row_of_the_real_data_set_is_reproduced():
    found = means(replay(Scene.of(load_dataset(REAL)), None, EvidenceWeights()))
    assert {name: round(value, 4) for name, value in found.items()} == {
        "heldout.ndcg@10": 0.0360,
        "heldout.topical@10": 0.6487,
        "heldout.unseen_ndcg@10": 0.0401,
        "refind.ndcg@10": 0.0346,
        "drift": 0.0,
    }

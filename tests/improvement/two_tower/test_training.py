"""Training: it learns, it repeats itself bit for bit, and what is broken leaves no trace."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from improvement.errors import Invalid
from improvement.two_tower.facts import History, ItemFacts, Past
from improvement.two_tower.model import projection_of
from improvement.two_tower.rows import ItemRows
from improvement.two_tower.settings import TowerSettings
from improvement.two_tower.tower import Tower
from improvement.two_tower.trainer import CandidateBatch, LossIsNaN, Training, UserBatch

SIZE, WIDE, ITEMS = 16, 24, 40
SETTINGS = TowerSettings(
    size=SIZE, hidden=32, authors=64, heads=2, history=6, candidate_steps=4, candidate_rate=0.003,
    user_tower_rate=0.003, row_rate=0.02, prior=2.0,
)  # fmt: skip


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    rows = rng.standard_normal(shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def catalogue(seed: int = 0) -> ItemFacts:
    rng = np.random.default_rng(seed)
    return ItemFacts(tuple(f"o{n}" for n in range(ITEMS)), unit(rng, ITEMS, WIDE), ("a", None, "b", "c") * 10)


def begun(settings: TowerSettings = SETTINGS) -> Training:
    return Training(settings, projection_of(catalogue().texts, SIZE, seed=3))


def candidate_batch(seed: int = 1, n: int = 30) -> CandidateBatch:
    rng = np.random.default_rng(seed)
    return CandidateBatch(
        users=unit(rng, n, SIZE), items=catalogue(), chosen=rng.integers(0, ITEMS // 2, n),
        signals=np.where(np.arange(n) % 5, 1.0, -0.5).astype(np.float32),
        negatives=rng.integers(-1, ITEMS, (n, 3)), log_q=np.full(ITEMS, -1.0, np.float32),
        owners=rng.integers(0, 7, n),
    )  # fmt: skip


def user_batch(seed: int = 2, b: int = 5) -> UserBatch:
    rng = np.random.default_rng(seed)
    histories = [
        History(
            [Past(str(n), f"o{n}", "a", "click", 0.5, float(n)) for n in range(h)], unit(rng, h, SIZE), 99.0
        )
        for h in range(1, b + 1)
    ]
    return UserBatch(histories, unit(rng, b, SIZE), unit(rng, b, 3, SIZE))


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes() for name in one
    )


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {name for name in after if name not in before or before[name].tobytes() != after[name].tobytes()}


def trained(steps: int = 3, settings: TowerSettings = SETTINGS) -> Training:
    training = begun(settings)
    for seed in range(steps):
        training.update_candidate(candidate_batch(seed))
        training.update_users([user_batch(seed)])
    return training


def test_two_runs_under_one_seed_are_equal_bit_for_bit_and_another_seed_is_another_run():
    assert same(trained().arrays(), trained().arrays())
    assert changed(trained().arrays(), trained(settings=replace(SETTINGS, seed=1)).arrays())


@pytest.mark.parametrize("steps", [0, 2])
def test_a_restored_training_goes_on_as_if_nothing_had_happened(steps: int):
    one = trained(steps)
    other = Training.restored(SETTINGS, one.arrays())
    assert same(one.arrays(), other.arrays())
    for training in (one, other):
        training.update_candidate(candidate_batch(9), rate=0.5)
        training.update_users([user_batch(9)] * 2)
    assert same(one.arrays(), other.arrays())
    assert (other.candidate_updates, other.user_steps) == (steps + 1, steps + 2)


def test_arrays_are_copies_that_numpy_stores_without_pickle(tmp_path):
    training = trained()
    arrays, before = training.arrays(), training.arrays()
    np.savez(tmp_path / "it.npz", **arrays)
    with np.load(tmp_path / "it.npz", allow_pickle=False) as stored:
        assert same(before, dict(stored))
    for array in arrays.values():
        array.fill(0)
    assert same(before, training.arrays())


def test_each_update_changes_its_own_tower_only_and_never_the_projection():
    training = begun()
    first = training.arrays()
    for seed in range(50):
        training.update_candidate(candidate_batch(seed))
    second = training.arrays()
    own = ("model.mlp.", "model.author.", "candidate.", "rows.", "counts")
    assert all(name.startswith(own) for name in changed(first, second))
    assert {"model.mlp.0.weight", "model.mlp.2.bias", "model.author.weight"} <= changed(first, second)
    training.update_users([user_batch(seed) for seed in range(50)])
    third = training.arrays()
    assert not any(
        name.startswith(("model.mlp.", "model.author.", "candidate.", "rows."))
        for name in changed(second, third)
    )
    learned = {
        "action.weight",
        "user_projection.weight",
        "author_use.weight",
        "everybody",
        "attention.weight",
    }
    assert {f"model.{name}" for name in learned} <= changed(second, third)
    assert first["model.projection"].tobytes() == third["model.projection"].tobytes()
    assert not [name for name in third if "projection" in name and name.startswith("candidate.")]
    assert not [name for name in third if name.startswith("users.projection")]


def cosines(training: Training, batch: CandidateBatch) -> np.ndarray[Any, Any]:
    items = Tower(SETTINGS, training.arrays()).items(batch.items)
    return (batch.users * items[batch.chosen]).sum(axis=1)


def test_liked_items_come_closer_and_disliked_ones_go_away():
    training, batch = begun(), replace(candidate_batch(), chosen=np.arange(30))
    before = cosines(training, batch)
    for _ in range(30):
        losses = training.update_candidate(batch)
    after = cosines(training, batch)
    assert len(losses) == SETTINGS.candidate_steps
    assert (after - before)[batch.signals > 0].mean() > 0.1
    assert (after - before)[batch.signals < 0].mean() < -0.1


def test_what_the_same_user_engaged_with_is_no_negative():
    rng = np.random.default_rng(0)
    user = np.repeat(unit(rng, 1, SIZE), 2, axis=0)
    batch = CandidateBatch(
        user, catalogue(), np.array([0, 1]), np.ones(2, np.float32), np.full((2, 1), -1),
        np.zeros(ITEMS, np.float32), np.array([5, 5]),
    )  # fmt: skip
    assert begun().update_candidate(batch) == [0.0] * SETTINGS.candidate_steps
    assert begun().update_candidate(replace(batch, owners=None))[0] > 0.0
    same_item = replace(batch, owners=None, chosen=np.array([0, 0]))
    assert begun().update_candidate(same_item) == [0.0] * SETTINGS.candidate_steps


def test_the_users_of_a_batch_come_closer_to_what_they_took_next():
    training, batch = begun(), user_batch(b=8)

    def gap() -> float:
        users = Tower(SETTINGS, training.arrays()).users(batch.histories)
        towards = (users * batch.positives).sum(axis=1)
        return float((towards[:, None] - np.einsum("bs,bks->bk", users, batch.negatives)).mean())

    before = gap()
    losses = training.update_users([batch] * 60)
    assert gap() > before + 0.1
    assert losses[-1] < losses[0]


def test_only_items_that_were_engaged_with_get_a_row():
    training, batch = begun(), candidate_batch()
    training.update_candidate(batch)
    assert len(training.arrays()["rows.ends"]) == len(set(batch.chosen.tolist()))
    training.update_candidate(replace(batch, chosen=np.full(30, ITEMS - 1)))
    assert len(training.arrays()["rows.ends"]) == len(set(batch.chosen.tolist()) | {ITEMS - 1})


def steps_of(training: Training, batch: CandidateBatch) -> np.ndarray[Any, Any]:
    """Return how far each item's row moved in an update, by place of the item."""
    before = ItemRows.restored(SIZE, training.arrays()).of(batch.items.object_ids)[0]
    training.update_candidate(batch)
    after = ItemRows.restored(SIZE, training.arrays()).of(batch.items.object_ids)[0]
    return np.linalg.norm(after - before, axis=1)


def test_one_engagement_moves_a_row_less_than_many():
    users = np.repeat(unit(np.random.default_rng(0), 1, SIZE), 30, axis=0)
    chosen = np.array([0] * 29 + [1])
    batch = replace(
        candidate_batch(), users=users, chosen=chosen, negatives=np.full((30, 1), 20),
        signals=np.ones(30, np.float32), owners=np.zeros(30, np.int64),
    )  # fmt: skip
    moved = steps_of(begun(replace(SETTINGS, candidate_steps=1)), batch)
    assert 0 < moved[1] < 0.8 * moved[0]


def test_a_row_that_moved_for_years_goes_on_moving():
    fresh = trained()
    arrays = fresh.arrays()
    arrays["rows.moved"].fill(1e3)
    worn = Training.restored(SETTINGS, arrays)

    def share(seed: int) -> float:
        step, of = (steps_of(training, candidate_batch(seed)).max() for training in (worn, fresh))
        return float(step / of)

    assert share(0) < 0.3
    for seed in range(1, 80):
        for training in (worn, fresh):
            training.update_candidate(candidate_batch(seed))
    assert share(80) > 0.5


def test_item_ids_of_any_characters_find_their_rows_again():
    ids = ("", "a\0", "a", "\ud800", "é", "e\u0301", "x" * 512, *(f"o{n}" for n in range(7, ITEMS)))
    training, batch = begun(), candidate_batch()
    batch = replace(batch, items=replace(batch.items, object_ids=ids), chosen=np.arange(30) % 7)
    training.update_candidate(batch)
    again = Training.restored(SETTINGS, training.arrays())
    for one in (training, again):
        one.update_candidate(batch)
    assert same(training.arrays(), again.arrays())
    assert len(again.arrays()["rows.ends"]) == 7


def broken(what: str) -> CandidateBatch:
    batch = candidate_batch()
    if what == "users":
        batch.users[3] = np.nan
    elif what == "texts":
        batch.items.texts[int(batch.chosen[1])] = np.inf
    elif what == "signals":
        batch.signals[1] = np.nan
    else:
        batch.log_q[:] = -np.inf
    return batch


@pytest.mark.parametrize("what", ["users", "texts", "signals", "log_q"])
def test_a_candidate_update_that_is_no_number_changes_nothing(what: str):
    training = trained()
    before = training.arrays()
    with pytest.raises(LossIsNaN):
        training.update_candidate(broken(what))
    assert same(before, training.arrays())
    training.update_candidate(candidate_batch())
    other = trained()
    other.update_candidate(candidate_batch())
    assert same(training.arrays(), other.arrays())


@pytest.mark.parametrize("what", ["positives", "negatives", "items"])
def test_a_round_of_the_user_tower_that_breaks_in_the_middle_changes_nothing(what: str):
    training, bad = trained(), user_batch()
    (bad.histories[1].items if what == "items" else getattr(bad, what))[0] = np.nan
    before = training.arrays()
    with pytest.raises(LossIsNaN):
        training.update_users([user_batch(7), bad])
    assert same(before, training.arrays())


def test_progress_that_raises_changes_nothing_either():
    training = trained()
    before = training.arrays()

    def stop(step: int, steps: int, loss: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.update_candidate(candidate_batch(), progress=stop)
    with pytest.raises(KeyboardInterrupt):
        training.update_users([user_batch()] * 3, progress=stop)
    assert same(before, training.arrays())


def test_progress_hears_of_every_step():
    heard: list[tuple[int, int, float]] = []
    losses = trained().update_candidate(candidate_batch(), progress=lambda *said: heard.append(said))
    assert heard == [(n + 1, 4, loss) for n, loss in enumerate(losses)]


def nothing() -> CandidateBatch:
    return CandidateBatch(
        np.zeros((0, SIZE), np.float32), ItemFacts((), np.zeros((0, WIDE), np.float32), ()),
        np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros((0, 3), np.int64), np.zeros(0, np.float32),
    )  # fmt: skip


@pytest.mark.parametrize(
    "batch",
    [
        nothing(),
        replace(candidate_batch(), signals=np.zeros(30, np.float32)),
        replace(candidate_batch(), users=np.zeros((30, SIZE), np.float32)),
    ],
    ids=["empty", "no signal", "no user has a vector"],
)
def test_a_batch_in_which_nothing_speaks_changes_nothing(batch: CandidateBatch):
    training = trained()
    before = training.arrays()
    assert training.update_candidate(batch) == []
    assert training.update_users([]) == []
    no_history = History([], np.zeros((0, SIZE), np.float32), 0.0)
    vectors = unit(np.random.default_rng(0), 1, SIZE)
    assert training.update_users([UserBatch([no_history], vectors, vectors[None])]) == []
    assert same(before, training.arrays())


@pytest.mark.parametrize("signal", [1.0, -1.0, 1e-30])
def test_one_engagement_is_enough(signal: float):
    batch = replace(candidate_batch(n=1), signals=np.array([signal], np.float32))
    training = begun()
    assert np.isfinite(training.update_candidate(batch)).all()
    assert np.isfinite(training.update_users([user_batch(b=1)])).all()
    assert training.candidate_updates == training.user_steps == 1


def test_items_without_text_learn_by_their_rows_alone():
    training = begun()
    facts = ItemFacts(catalogue().object_ids, np.zeros((ITEMS, WIDE), np.float32), (None,) * ITEMS)
    batch = replace(candidate_batch(), items=facts, signals=np.ones(30, np.float32))
    for _ in range(5):
        training.update_candidate(batch)
    made = Tower(SETTINGS, training.arrays()).items(facts)
    lengths = np.linalg.norm(made, axis=1)
    chosen = np.isin(np.arange(ITEMS), batch.chosen)
    np.testing.assert_allclose(lengths[chosen], 1, atol=1e-5)
    assert not lengths[~chosen].any()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"users": np.zeros((30, SIZE + 1), np.float32)}, "users"),
        ({"chosen": np.full(30, ITEMS)}, "chosen"),
        ({"chosen": np.full(30, -1)}, "chosen"),
        ({"negatives": np.full((30, 2), -2)}, "negatives"),
        ({"negatives": np.full((29, 2), 0)}, "negatives"),
        ({"signals": np.ones(29, np.float32)}, "signals"),
        ({"log_q": np.ones(1, np.float32)}, "log_q"),
        ({"owners": np.ones(1, np.int64)}, "owners"),
        ({"items": replace(catalogue(), object_ids=("twice",) * ITEMS)}, "items.object_ids"),
        ({"items": replace(catalogue(), texts=np.zeros((ITEMS, 3), np.float32))}, "items.texts"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change: dict[str, Any], field: str):
    training = trained()
    before = training.arrays()
    with pytest.raises(Invalid, match=f"^{field}: "):
        training.update_candidate(replace(candidate_batch(), **change))
    assert same(before, training.arrays())


@pytest.mark.parametrize("change", [{"size": 8}, {"hidden": 8}, {"layers": 2}, {"actions": 3}])
def test_arrays_of_other_towers_are_refused(change: dict[str, Any]):
    with pytest.raises(Invalid):
        Training.restored(replace(SETTINGS, **change), trained().arrays())


@pytest.mark.parametrize(
    "name", ["counts", "model.projection", "rows.ends", "rows.values", "users.gap.bias.exp_avg"]
)
def test_a_missing_array_is_named(name: str):
    arrays = trained().arrays()
    del arrays[name]
    with pytest.raises(Invalid, match=name.removeprefix("model.")):
        Training.restored(SETTINGS, arrays)


def test_the_random_numbers_of_others_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained()
    assert torch.equal(torch.rand(3), expected)

"""The towers themselves: what an untrained one gives, what has no direction, and a naive user tower."""

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from improvement.errors import Invalid
from improvement.two_tower.facts import History, ItemFacts, Past
from improvement.two_tower.model import BEND, projection_of
from improvement.two_tower.settings import TowerSettings
from improvement.two_tower.tower import Tower
from improvement.two_tower.trainer import CandidateBatch, Training, UserBatch

SIZE, WIDE = 8, 12
SETTINGS = TowerSettings(size=SIZE, hidden=16, authors=64, heads=2, history=5, user_rate=0.1)
RNG = np.random.default_rng(0)


def unit(*shape: int) -> np.ndarray[Any, Any]:
    rows = RNG.standard_normal(shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


TEXTS = unit(30, WIDE)
PROJECTION = projection_of(TEXTS, SIZE, seed=0)


def facts(texts: np.ndarray[Any, Any], author: str | None = None) -> ItemFacts:
    return ItemFacts(tuple(f"o{n}" for n in range(len(texts))), texts, (author,) * len(texts))


def a_history(signals: list[float], at: float = 100.0, **changes: Any) -> History:
    pasts = [
        replace(Past(str(n), f"o{n}", "a", "click", signal, float(n)), **changes)
        for n, signal in enumerate(signals)
    ]
    return History(pasts, unit(len(signals), SIZE), at)


def untrained(settings: TowerSettings = SETTINGS) -> Tower:
    return Tower(settings, Training(settings, PROJECTION).arrays())


def trained() -> Tower:
    training = Training(replace(SETTINGS, user_tower_rate=0.01, candidate_rate=0.01), PROJECTION)
    histories = [a_history([1.0] * n) for n in range(1, 7)]
    for _ in range(5):
        training.update_users([UserBatch(histories, unit(6, SIZE), unit(6, 2, SIZE))])
        training.update_candidate(
            CandidateBatch(
                unit(9, SIZE),
                facts(TEXTS, "a"),
                np.arange(9),
                np.ones(9, np.float32),
                np.full((9, 1), 20),
                np.zeros(30, np.float32),
            )  # fmt: skip
        )
    return Tower(SETTINGS, training.arrays())


def test_an_untrained_candidate_tower_gives_the_projected_text():
    expected = TEXTS @ PROJECTION.T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(untrained().items(facts(TEXTS, "a")), expected, atol=1e-6)


def test_an_untrained_user_tower_gives_the_signed_recency_weighted_mean():
    history = a_history([1.0, -0.5, 0.25, 1.0])
    expected = sum(
        past.signal * 0.9**later * row
        for later, past, row in zip((3, 2, 1, 0), history.pasts, history.items, strict=True)
    )
    (made,) = untrained().users([history])
    np.testing.assert_allclose(made, expected / np.linalg.norm(expected), atol=1e-6)


def test_only_the_newest_engagements_are_read():
    whole = a_history([1.0] * 9)
    newest = History(whole.pasts[-5:], whole.items[-5:], whole.at)
    np.testing.assert_allclose(*trained().users([whole, newest]), atol=1e-6)


@pytest.mark.parametrize("tower", [untrained(), trained()], ids=["untrained", "trained"])
def test_a_user_is_the_same_whoever_stands_beside_them(tower: Tower):
    histories = [a_history([1.0] * n) for n in (1, 5, 0, 3, 2)]
    together = tower.users(histories)
    alone = np.concatenate([tower.users([history]) for history in histories])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), [1, 1, 0, 1, 1], atol=1e-5)


def test_who_did_little_is_closer_to_everybody():
    tower = trained()
    everybody = tower._model.everybody.numpy()
    row = unit(1, SIZE)
    little, much = (History(a_history([1.0] * n).pasts, np.repeat(row, n, axis=0), 100.0) for n in (1, 5))
    made = untrained()
    made._model.everybody.copy_(tower._model.everybody)
    cosines = made.users([little, much]) @ everybody
    assert cosines[0] > cosines[1] > float(row[0] @ everybody)


def test_however_long_it_learns_a_user_tower_stays_near_the_mean():
    training = Training(replace(SETTINGS, user_tower_rate=0.1, prior=0.0), PROJECTION)
    histories = [a_history([1.0] * n) for n in range(1, 6)]
    for _ in range(20):
        training.update_users([UserBatch(histories, unit(5, SIZE), unit(5, 2, SIZE))])
    made = Tower(replace(SETTINGS, prior=0.0), training.arrays()).users(histories)
    cosines = (made * untrained().users(histories)).sum(axis=1)
    assert (cosines < 0.9999).all()
    assert (cosines > np.sqrt(1 - BEND**2) - 1e-5).all()


def test_nothing_has_no_direction():
    tower = untrained()
    assert tower.items(facts(TEXTS[:0])).shape == (0, SIZE)
    assert tower.users([]).shape == (0, SIZE)
    assert not tower.users([a_history([])]).any()
    cancels = replace(a_history([1.0, -1.0]), items=np.repeat(unit(1, SIZE), 2, axis=0))
    without_recency = untrained(replace(SETTINGS, user_rate=0.0))
    assert not without_recency.users([cancels]).any()


def test_an_item_without_text_author_and_row_gets_zeros_also_from_trained_towers():
    tower, nothing = trained(), np.zeros((12, WIDE), np.float32)
    lengths = np.linalg.norm(tower.items(facts(nothing)), axis=1)
    np.testing.assert_allclose(lengths, [1] * 9 + [0] * 3, atol=1e-5)  # nine have a row
    np.testing.assert_allclose(np.linalg.norm(tower.items(facts(nothing, "a")), axis=1), 1, atol=1e-5)


def test_one_item_that_is_no_number_fails_alone():
    texts = TEXTS.copy()
    texts[4] = np.nan
    made = trained().items(facts(texts))
    np.testing.assert_allclose(np.linalg.norm(np.delete(made, 4, axis=0), axis=1), 1, atol=1e-5)
    assert not made[4].any()


@pytest.mark.parametrize("at", [-1e300, 1e300, float("inf"), float("nan"), -5.0])
def test_clocks_that_differ_break_nobody(at: float):
    fine, skewed, tower = a_history([1.0, 1.0]), a_history([1.0, 1.0], at=at), trained()
    made = tower.users([skewed, fine])
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(made[1], tower.users([fine])[0], atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(action=st.text(max_size=8), author=st.none() | st.text(max_size=8))
def test_any_action_and_author_can_be_read(action: str, author: str | None):
    made = STRANGE.users([a_history([1.0, -1.0, 0.5], action=action, author=author)])
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)


STRANGE = trained()


def test_texts_of_another_width_are_refused():
    with pytest.raises(Invalid, match="texts"):
        untrained().items(facts(unit(3, WIDE + 1)))


def test_arrays_of_other_towers_are_refused():
    arrays = Training(SETTINGS, PROJECTION).arrays()
    with pytest.raises(Invalid, match="projection"):
        Tower(replace(SETTINGS, size=4), arrays)
    with pytest.raises(Invalid, match=r"mlp\.0"):
        Tower(replace(SETTINGS, hidden=4), arrays)
    with pytest.raises(Invalid, match="projection"):
        Tower(SETTINGS, {})


def test_a_tower_keeps_what_it_was_made_of_while_training_goes_on():
    training = Training(SETTINGS, PROJECTION)
    tower, history = Tower(SETTINGS, training.arrays()), a_history([1.0] * 3)
    before = tower.users([history])
    training.update_users([UserBatch([history], unit(1, SIZE), unit(1, 2, SIZE))] * 3)
    np.testing.assert_array_equal(before, tower.users([history]))


def test_threads_may_share_a_tower():
    tower, histories = trained(), [a_history([1.0] * n) for n in range(1, 6)]
    items, users = tower.items(facts(TEXTS)), tower.users(histories)
    wrong: list[int] = []

    def ask(number: int) -> None:
        for _ in range(10):
            if not (
                np.array_equal(tower.items(facts(TEXTS)), items)
                and np.array_equal(tower.users(histories), users)
            ):
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@settings(deadline=None, max_examples=30)
@given(n=st.integers(0, 20), wide=st.integers(1, 12), size=st.integers(2, 16), seed=st.integers(0, 5))
def test_a_projection_loses_as_little_as_it_can(n: int, wide: int, size: int, seed: int):
    texts = np.random.default_rng(seed).standard_normal((n, wide)).astype(np.float32)
    made = projection_of(texts, size, seed)
    assert made.shape == (size, wide)
    square = made @ made.T if size <= wide else made.T @ made
    np.testing.assert_allclose(square, np.eye(len(square)), atol=1e-5)
    np.testing.assert_array_equal(made, projection_of(texts, size, seed))
    if size <= wide and n:
        best = np.linalg.svd(texts.astype(np.float64), compute_uv=False)[:size]
        assert np.square(texts @ made.T).sum() == pytest.approx(np.square(best).sum(), rel=1e-4)


def test_a_projection_leaves_out_rows_that_are_no_numbers():
    texts = TEXTS.copy()
    texts[3] = np.nan
    np.testing.assert_array_equal(
        projection_of(texts, SIZE, 0), projection_of(np.delete(texts, 3, axis=0), SIZE, 0)
    )

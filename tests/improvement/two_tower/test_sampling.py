"""Negatives: what was passed over first, then random ones of the same time, never what the user likes."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from improvement.two_tower.sampling import Positive, Reason, Seen, draw_negatives, log_frequencies

HOUR = 3_600.0
IDS = st.sampled_from([f"o{n}" for n in range(12)])
TIMES = st.sampled_from([0.0, 1.0, HOUR, HOUR + 1, 2 * HOUR, 9 * HOUR])


def draw(positives, seen=(), engaged=None, pool=(), count=5, seed=0):
    rng = np.random.default_rng(seed)
    return draw_negatives(positives, seen, engaged or {}, pool, count, HOUR, rng)


@settings(deadline=None, max_examples=50)
@given(
    positives=st.lists(st.builds(Positive, st.sampled_from("uv"), IDS, TIMES), max_size=4),
    seen=st.lists(st.builds(Seen, st.sampled_from("uvw"), IDS, TIMES), max_size=20),
    engaged=st.dictionaries(st.sampled_from("uv"), st.frozensets(IDS, max_size=6)),
    pool=st.lists(st.tuples(IDS, TIMES), max_size=40),
    count=st.integers(1, 6),
)
def test_as_many_as_there_are_are_drawn_in_order_of_the_reasons(positives, seen, engaged, pool, count):
    drawn = draw(positives, seen, engaged, pool, count)
    assert len(drawn) == len(positives)
    for positive, negatives in zip(positives, drawn, strict=True):
        ids = [object_id for object_id, _ in negatives]
        liked = engaged.get(positive.user_id, frozenset()) | {positive.object_id}
        shown = {
            one.object_id
            for one in seen
            if one.user_id == positive.user_id and positive.at - HOUR <= one.at <= positive.at
        } - liked
        near = {one for one, at in pool if abs(at - positive.at) <= HOUR} - liked
        anywhere = {one for one, _ in pool} - liked
        assert len(ids) == len(set(ids)) == min(count, len(shown | anywhere))
        assert not set(ids) & liked
        of_shown = [one for one, reason in negatives if reason is Reason.SHOWN]
        assert ids[: len(of_shown)] == of_shown
        assert set(of_shown) <= shown
        assert len(of_shown) == min(count, len(shown))
        rest = ids[len(of_shown) :]
        assert all(reason is Reason.RANDOM for _, reason in negatives[len(of_shown) :])
        assert len(set(rest) & near) == min(len(rest), len(near - set(of_shown)))


def test_equal_generators_draw_equal_negatives_and_others_others():
    positives = [Positive("u", f"liked {n}", float(n)) for n in range(20)]
    pool = [(f"o{n}", float(n % 50)) for n in range(500)]
    assert draw(positives, pool=pool) == draw(positives, pool=pool)
    assert draw(positives, pool=pool) != draw(positives, pool=pool, seed=1)


@pytest.mark.parametrize("copies", [3, 400])
def test_what_is_there_often_is_not_drawn_more_often(copies: int):
    pool = [("popular", 0.0)] * copies + [(f"rare {n}", 0.0) for n in range(19)]
    drawn = draw([Positive("u", "liked", 0.0)] * 4_000, pool=pool, count=1)
    times = Counter(object_id for negatives in drawn for object_id, _ in negatives)
    assert len(times) == 20
    assert times["popular"] / 4_000 == pytest.approx(1 / 20, abs=0.015)


def test_ids_may_be_anything():
    strange = ["", "a\0", "a", "\ud800", "e\u0301", "x" * 512]
    (drawn,) = draw([Positive("u", "é", 0.0)], pool=[(one, 0.0) for one in strange], count=9)
    assert {one for one, _ in drawn} == set(strange)


def test_log_frequencies_are_the_chances_that_a_simulation_finds():
    counts = {"a": 60, "b": 30, "c": 9, "d": 1}
    rng = np.random.default_rng(0)
    batches = rng.choice(4, size=(20_000, 5), p=[0.6, 0.3, 0.09, 0.01])
    found = [(batches == n).any(axis=1).mean() for n in range(4)]
    np.testing.assert_allclose(np.exp(log_frequencies(["a", "b", "c", "d"], counts, 5)), found, atol=0.01)


def test_log_frequencies_are_finite_whatever_is_counted():
    assert log_frequencies(["only"], {"only": 3}, 10).tolist() == [0.0]
    assert np.isfinite(log_frequencies(["new", "a"], {"a": 5}, 0)).all()
    assert log_frequencies(["new"], {"a": 7}, 3) == log_frequencies(["once"], {"once": 1, "a": 6}, 3)
    assert log_frequencies([], {}, 3).shape == (0,)
    assert np.isfinite(log_frequencies(["new"], {}, 1_000)).all()

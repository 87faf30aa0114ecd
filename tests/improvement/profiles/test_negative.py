"""Each law of what is remembered of dislikes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from improvement.profiles.negative import remember_dislike
from tests.improvement.profiles.angles import (
    DAY,
    EPS,
    angle,
    dimensions,
    dislikes,
    law,
    pairs,
    seeds,
    unit,
)


@given(seeds, dimensions, st.floats(0.1, 100))
@law
def test_a_negative_profile_does_not_depend_on_the_order_in_which_dislikes_arrive(seed, size, half_life):
    rng = np.random.default_rng(seed)
    events = [(rng.normal(size=size), -rng.random(), float(rng.uniform(0, 60 * DAY))) for _ in range(6)]
    profiles = []
    for order in (events, sorted(events, key=lambda e: e[2]), sorted(events, key=lambda e: -e[2])):
        profile = None
        for item, rating, at in order:
            profile = remember_dislike(profile, item, rating, at, half_life)
        profiles.append(profile)
    latest = max(at for *_, at in events)
    expected = sum(-r * unit(item) * 0.5 ** ((latest - at) / (half_life * DAY)) for item, r, at in events)
    for profile in profiles:
        assert profile.at == latest
        assert profile.vector == pytest.approx(expected, abs=EPS)


@given(pairs(), st.floats(-1, -1e-3), st.floats(0, 1e7), st.floats(1, 1000))
@law
def test_a_dislike_moves_the_negative_profile_towards_the_item_in_their_plane(pair, rating, later, half_life):
    first, item = pair
    before = remember_dislike(None, first, -1.0, 0, half_life)
    after = remember_dislike(before, item, rating, later, half_life)
    assert angle(after.vector, item) <= angle(first, item) + 1e-7
    between = angle(after.vector, first) + angle(after.vector, item)
    assert between == pytest.approx(angle(first, item), abs=1e-6)


@given(pairs(), dislikes, st.floats(0, 1e9), st.floats(0, 1e9), st.floats(0.01, 1000))
@law
def test_the_strength_of_a_negative_profile_is_0_to_1_and_only_fades(pair, rating, sooner, later, half_life):
    profile = remember_dislike(None, pair[1], rating, 0, half_life)
    sooner, later = sorted((sooner, later))
    assert 0 <= profile.strength(later, half_life) <= profile.strength(sooner, half_life) <= 1
    assert (
        profile.strength(-5, half_life) == profile.strength(0, half_life) == pytest.approx(math.tanh(-rating))
    )
    one_life = profile.strength(half_life * DAY, half_life)
    assert one_life == pytest.approx(math.tanh(-rating / 2), abs=EPS)


def test_only_a_dislike_of_something_is_remembered():
    item, profile = np.array([0.0, 3.0]), remember_dislike(None, [1.0, 0.0], -0.5, 10, 1)
    for kept in (None, profile):
        assert remember_dislike(kept, item, 0.0, 20, 1) is kept
        assert remember_dislike(kept, item, 0.9, 20, 1) is kept
        assert remember_dislike(kept, 0 * item, -0.9, 20, 1) is kept


ROW = [1.0, 0.0]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: remember_dislike(None, [math.nan], -1, 0, 1), "item_vector"),
        (lambda: remember_dislike(None, ROW, -2, 0, 1), "rating"),
        (lambda: remember_dislike(None, ROW, -1, math.nan, 1), "at"),
        (lambda: remember_dislike(remember_dislike(None, ROW, -1, 0, 1), [1.0], -1, 0, 1), "item_vector"),
        (lambda: remember_dislike(None, ROW, -1, 0, 0), "half_life_days"),
        (lambda: remember_dislike(None, ROW, -1, 0, 1).strength(math.inf, 1), "now"),
    ],
)
def test_bad_input_is_refused_by_name(call, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        call()

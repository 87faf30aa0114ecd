"""How an engagement moves vectors: laws over any run of engagements, and the seed's formulas."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from improvement.two_tower.moves import moved_item, moved_user, user_of, within
from tests.improvement.two_tower.living import angle, unit_rows

SIGNALS = st.floats(-1, 1, allow_nan=False)
RUNS = st.lists(st.tuples(st.integers(0, 9), SIGNALS), max_size=40)


@given(RUNS, st.floats(0, math.pi), st.floats(0, 1), st.integers(2, 6))
def test_an_item_never_leaves_its_limit_and_keeps_its_length(run: Any, drift: float, rate: float, size: int):
    users, base = unit_rows(10, 1, size), unit_rows(1, 2, size)[0]
    item = base
    for who, signal in run:
        item = moved_item(item, base, users[who], signal, rate, drift)
        assert item.dtype == np.float32
        assert abs(np.linalg.norm(item) - 1) < 1e-6
        assert angle(item, base) <= drift + 1e-3 * (drift > 3) + 1e-5


@given(st.integers(0, 500), SIGNALS, st.floats(0, 1), st.floats(0.01, 1.5))
def test_for_moves_closer_and_against_apart_but_never_beyond_a_right_angle(
    seed: int, signal: float, rate: float, drift: float
):
    user, item = unit_rows(2, seed, 5)
    moved = moved_item(item, item, user, signal, rate, drift)
    before, after = angle(user, item), angle(user, moved)
    if signal >= 0:
        assert after <= before + 1e-5
    else:
        assert before - 1e-5 <= after <= max(before, math.pi / 2) + 1e-5
    assert angle(item, moved) <= abs(rate * signal) * math.pi + 1e-5


@given(st.integers(0, 500), SIGNALS, st.floats(0.001, 0.01))
def test_at_the_limit_a_move_away_still_does_not_come_closer(seed: int, signal: float, rate: float):
    user, base, other = unit_rows(3, seed, 4)
    item = within(other, base, 0.3)
    moved = moved_item(item, base, user, signal, rate, 0.3)
    change = math.cos(angle(moved, user)) - math.cos(angle(item, user))
    assert change * np.sign(signal) >= -1e-5


@pytest.mark.parametrize("rate", [0.001, 0.01])
def test_an_items_move_is_the_seeds_to_first_order(rate: float):
    user, item = unit_rows(2, 3)
    seeds = item + rate * 0.9 * math.cos(0) * user
    ours = moved_item(item, item, user, 0.9, rate, 1.0)
    theta = angle(user, item)
    assert angle(ours, item) == pytest.approx(rate * 0.9 * theta, rel=1e-3)
    assert angle(ours, seeds / np.linalg.norm(seeds)) < rate * theta


def test_a_users_share_falls_as_the_seed_says_and_no_further_than_the_least():
    user, item = unit_rows(2, 4)
    theta = angle(user, item)
    for count, least, share in (
        (0, 0.05, 0.1),
        (9, 0.05, 0.1),
        (14, 0.05, 1 / 15),
        (99, 0.05, 0.05),
        (99, 0.0, 0.01),
    ):
        moved = moved_user(user, item, 1.0, count, least)
        assert angle(moved, user) == pytest.approx(share * theta, rel=1e-3)
    slower = moved_user(user, item, 1.0, 0, 0.05, rate=0.5)
    assert angle(slower, user) == pytest.approx(0.05 * theta, rel=1e-3)


@given(RUNS)
def test_a_user_is_of_length_one_after_every_engagement_or_is_not_there(run: Any):
    items, user = unit_rows(10, 5, 3), None
    for count, (what, signal) in enumerate(run):
        before, user = user, moved_user(user, items[what], signal, count, 0.05)
        if before is None and signal <= 0:
            assert user is None
        else:
            assert user is not None
            assert abs(np.linalg.norm(user) - 1) < 1e-6
            assert before is not None or angle(user, items[what]) < 1e-3
    twice = moved_user(user, items[0], -1.0, 0, 1.0) if user is not None else None
    assert twice is None or twice @ items[0] <= max(1e-5, float(user @ items[0]))


def test_a_user_without_a_vector_moves_no_item():
    item = unit_rows(1)[0]
    assert moved_item(item, item, None, 1.0, 0.01, 0.3) is item


def test_of_nothing_and_of_what_cancels_out_no_user_is_made():
    one, other = unit_rows(2, 6)
    assert user_of([], []) is None
    assert user_of([one, one], [0.5, -0.5]) is None
    made = user_of([one, other], [0.5, 0.0])
    assert made is not None
    assert angle(made, one) < 1e-3
    mixed = user_of([one, other], [1.0, -0.5])
    expected = one - 0.5 * other
    assert mixed is not None
    assert angle(mixed, expected / np.linalg.norm(expected)) < 1e-3


def test_the_exact_opposite_is_brought_back_to_the_middle():
    base = unit_rows(1, 7)[0]
    assert angle(within(-base, base, 0.3), base) <= 0.3 + 1e-5
    assert within(base, base, 0.0).tolist() == pytest.approx(base.tolist(), abs=1e-6)

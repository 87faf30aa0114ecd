"""Click-through before and after: an interval that holds, and looks that do not cry wolf together."""

import numpy as np
import pytest

from improvement.evaluation.clickthrough import LEAST_USERS, LOOKS, Sessions, compared, look_due

Clicks = list[tuple[str | None, bool]]


def period(rng: np.random.Generator, tastes: np.ndarray, count: int, factor: float = 1.0) -> Clicks:
    """So many sessions of users who click as often as they do, some of them far more active than others."""
    active = rng.pareto(2.5, len(tastes)) + 0.2
    users = rng.choice(len(tastes), count, p=active / active.sum())
    clicked = rng.random(count) < tastes[users] * factor
    return [(f"u{user}", bool(one)) for user, one in zip(users, clicked, strict=True)]


def watched(rng: np.random.Generator, factor: float, rate: float, sessions: int, least: int = 200) -> bool:
    """Watch a promotion to its end; say whether it was an alert."""
    tastes = rng.beta(3 * rate, 3 * (1 - rate), 1_000)
    before, after = period(rng, tastes, sessions), period(rng, tastes, sessions, factor)
    looks = 0
    while look_due(sessions, least, looks):
        count = least * 2**looks
        looks += 1
        found = compared(before[-count:], after[:count], least)
        if found is not None and found.high < 0:
            return True
    return False


@pytest.mark.parametrize("rate", [0.4, 0.05])
def test_repeated_looks_at_no_change_alarm_in_less_than_five_of_a_hundred(rate: float):
    rng = np.random.default_rng(1)
    alarms = sum(watched(rng, 1.0, rate, 3_200) for _ in range(200))
    assert alarms <= 10


def test_a_drop_of_three_tenths_is_noticed_early():
    rng = np.random.default_rng(2)
    assert sum(watched(rng, 0.7, 0.4, 3_200) for _ in range(50)) == 50
    assert sum(watched(rng, 0.7, 0.4, 800) for _ in range(50)) > 35


def test_without_the_correction_for_looks_it_would_cry_wolf():
    """The simulation can see a false alarm: at one look's plain 95%, there are too many."""
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(200):
        tastes = rng.beta(1.2, 1.8, 1_000)
        before, after = period(rng, tastes, 3_200), period(rng, tastes, 3_200)
        alarms += any(
            compared(before[-count:], after[:count], 200, level=0.90).high < 0
            for count in (200, 400, 800, 1_600, 3_200)
        )
    assert alarms > 20


def test_the_interval_of_users_who_come_once_is_that_of_two_proportions():
    """Agresti and Caffo by hand: 30 of 100 before and 50 of 100 after, each with one more of either sort."""
    before: Sessions = [(None, i < 30) for i in range(100)]
    after: Sessions = [(None, i < 50) for i in range(100)]
    found = compared(before, after, 2, level=0.95)
    shares = 31 / 102, 51 / 102
    error = sum(p * (1 - p) / 102 for p in shares) ** 0.5
    assert (found.before, found.after, found.difference) == (0.3, 0.5, pytest.approx(0.2))
    assert (found.low + found.high) / 2 == pytest.approx(shares[1] - shares[0])
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.004)


def test_who_is_there_in_both_periods_compares_with_themselves():
    """Half of them always click, half of them never: nothing changed, and that is certain."""
    same = [(f"u{i}", i % 2 == 0) for i in range(400)]
    others = [(f"v{i}", i % 2 == 0) for i in range(400)]
    alike, strangers = compared(same, same, 2), compared(same, others, 2)
    assert alike.high - alike.low < (strangers.high - strangers.low) / 5


def test_a_few_loud_users_do_not_make_it_look_certain():
    quiet: Sessions = [(f"u{i}", i % 2 == 0) for i in range(400)]
    loud: Sessions = [(f"u{i % 20}", i % 2 == 0) for i in range(400)]
    one, other = compared(quiet, [(f"v{u}", c) for u, c in quiet], 2), compared(quiet, loud, 2)
    assert other.high - other.low > 2 * (one.high - one.low)


def test_with_too_few_sessions_or_users_nothing_is_said():
    many: Sessions = [(f"u{i}", True) for i in range(100)]
    assert compared(many, many[:99], 100) is None
    assert compared([], [], 2) is None
    few: Sessions = [(f"u{i % (LEAST_USERS - 1)}", True) for i in range(100)]
    assert compared(many, few, 100) is None
    assert compared(many, many, 100) is not None


def test_looks_end_however_many_sessions_come():
    assert not look_due(10**12, 2, LOOKS)
    assert sum(look_due(10**12, 200, looks) for looks in range(100)) == LOOKS

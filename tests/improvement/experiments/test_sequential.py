"""Looking as often as one likes: seldom wrong without a difference, and right with one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from improvement.experiments.assignment import evenness
from improvement.experiments.sequential import always_p, always_reach, holm, mismatch_p, mixture, reach
from improvement.experiments.settings import Arm, Experiment, Treatment
from tests.improvement.experiments.simulated import Log, simulated, simulated_mixed

LOOKS = np.unique(np.geomspace(60, 4_000, 40).astype(int))


def rejecting(seeds: int, **how: float) -> tuple[float, float]:
    """Return how often any of 40 looks finds a difference: by what always holds, and by what holds once."""
    always = once = 0
    for seed in range(seeds):
        log = simulated(seed, 4_000, **how)
        found = [log.looked(count) for count in LOOKS]
        always += any(one.p_value is not None and one.p_value <= 0.05 for one in found)
        once += any(one.low is not None and (one.low > 0 or one.high < 0) for one in found)
    return always / seeds, once / seeds


@pytest.mark.parametrize(
    ("people", "spread", "naive"),
    [(4_000, 1e4, 0.1), (600, 2.0, 0.1), (240, 0.5, 0.05)],
    ids=["everybody comes once or twice", "some come often", "few, and very unlike"],
)
def test_who_looks_every_day_is_seldom_wrong_where_there_is_no_difference(
    people: int, spread: float, naive: float
):
    always, once = rejecting(120, people=people, spread=spread)
    assert always <= 0.05
    assert once > naive, "an interval for one look is wrong far more often than it says"


@pytest.mark.parametrize("chance", [0.02, 0.05])
@pytest.mark.parametrize("share", [0.1, 0.25])
def test_a_small_arm_in_which_nothing_was_liked_yet_is_not_worse_for_it(chance: float, share: float):
    always, _ = rejecting(60, people=3_000, spread=1e4, chance=chance, share=share)
    assert always <= 0.05


def test_a_rare_metric_that_differs_is_found_also_in_a_small_arm():
    assert rejecting(20, people=4_000, spread=1e4, chance=0.05, share=0.25, effect=0.08)[0] > 0.8
    assert rejecting(20, people=4_000, spread=1e4, chance=0.06, effect=-0.05)[0] > 0.8, "nearly none left"


def test_an_arm_of_which_nothing_is_liked_at_all_is_found_to_be_worse():
    log = simulated(3, 4_000, 4_000, -0.3, 1e4, share=0.25)
    assert not log.liked[log.arm == 1].any()
    end = log.looked(4_000)
    assert end.p_value < 0.001
    assert end.always_high < 0


def test_a_few_users_who_are_all_there_is_to_see_decide_nothing():
    users, liked = np.arange(400), np.zeros(400)
    liked[:4] = 1
    log = Log(users, (users < 200).astype(int), liked, 400)
    assert "users make up nearly all the variance" in log.looked(400).why
    liked[4] = 1
    assert log.looked(400).p_value is not None


@pytest.mark.parametrize("ratio", [0.1, 0.15, 0.5])
def test_mixed_lists_of_which_none_is_preferred_seldom_say_so(ratio: float):
    wrong = 0
    for seed in range(150):
        log = simulated_mixed(5_000 + seed, 600, ratio)
        looks = (log.looked(count).versus_half.p_value for count in np.geomspace(20, 600, 30).astype(int))
        wrong += any(p_value is not None and p_value <= 0.05 for p_value in looks)
    assert wrong / 150 <= 0.05


@pytest.mark.parametrize("ratio", [0.1, 0.5])
def test_a_preferred_list_is_found_in_mixed_lists_of_any_ratio(ratio: float):
    found = [simulated_mixed(seed, 400, ratio, 0.7).looked(400) for seed in range(20)]
    assert sum(one.versus_half.p_value <= 0.05 and one.preference > 0.5 for one in found) >= 18


def test_what_all_users_prefer_is_found_though_they_are_all_alike():
    one = simulated_mixed(1, 60, 0.5, 1.0).looked(60)
    assert (one.wins, one.losses, one.preference) == (60, 0, 1.0)
    assert one.versus_half.p_value < 0.001


def test_a_difference_is_found_and_long_before_the_end():
    always, _ = rejecting(60, people=4_000, spread=1e4, effect=0.1)
    assert always > 0.95
    log = simulated(1, 4_000, 4_000, 0.1, 1e4)
    assert min(count for count in LOOKS if (log.looked(count).p_value or 1) <= 0.05) < 2_500
    end = log.looked(4_000)
    assert end.always_low <= 0.1 <= end.always_high
    assert end.always_low < end.low < end.difference < end.high < end.always_high


def test_the_truth_stays_inside_the_sequence_at_all_looks():
    outside = 0
    for seed in range(60):
        log = simulated(seed, 4_000, 4_000, 0.1, 1e4)
        found = [log.looked(count) for count in LOOKS]
        outside += any(
            one.always_low is not None and not one.always_low <= 0.1 <= one.always_high for one in found
        )
    assert outside <= 3


@given(
    error=st.floats(1e-6, 1e6),
    sessions=st.integers(1, 10**9),
    planned=st.integers(1, 10**9),
    level=st.floats(0.5, 0.999),
    z=st.floats(-50, 50),
)
def test_the_interval_leaves_out_zero_just_where_the_p_value_says_so(
    error: float, sessions: int, planned: int, level: float, z: float
):
    rho2 = mixture(planned, level)
    off = always_reach(error, sessions, rho2, level)
    p_value = always_p(z * error, error, sessions, rho2)
    assert 0 <= p_value <= 1
    assert off > reach(error, level)
    if abs(abs(z * error) - off) > 1e-6 * off:
        assert (p_value < 1 - level) == (abs(z * error) > off)


def test_the_sequence_is_narrowest_where_it_was_planned_to_be():
    for planned in (300, 2_000, 50_000):
        rho2 = mixture(planned, 0.95)
        planned_for = always_reach(1.0, planned, rho2, 0.95)
        for factor in (0.1, 0.5, 2.0, 10.0):  # a little less than exact: Lambert's W is approximated
            assert planned_for < 1.01 * always_reach(1.0, planned, rho2 * factor, 0.95)


@given(st.dictionaries(st.text(max_size=3), st.none() | st.floats(0, 1), max_size=6))
def test_holm_is_what_a_naive_reading_says(p_values: dict[str, float | None]):
    adjusted = holm(p_values)
    assert adjusted.keys() == p_values.keys()
    known = {name: p for name, p in p_values.items() if p is not None}
    for name, p in known.items():
        steps = [
            min(1, other * (len(p_values) - sum((q, n) < (other, that) for n, q in known.items())))
            for that, other in known.items()
            if (other, that) <= (p, name)
        ]
        assert adjusted[name] == pytest.approx(max(steps))
    assert all(adjusted[name] is None for name in p_values.keys() - known.keys())


def test_people_may_be_counted_after_each_of_them_without_a_false_alarm():
    rng, experiment = np.random.default_rng(5), Experiment("e", tuple(Arm(n, Treatment.COPIES) for n in "ab"))
    alarms = chi_square = 0
    for _ in range(200):
        seconds = np.cumsum(rng.integers(0, 2, 2_000))[49::50]
        counts = [(int(n - b), int(b)) for n, b in zip(range(50, 2_001, 50), seconds, strict=True)]
        alarms += min(mismatch_p(pair, (0.5, 0.5)) for pair in counts) <= 0.05
        chi_square += min(evenness(dict(zip("ab", pair, strict=True)), experiment) for pair in counts) <= 0.05
    assert alarms <= 10
    assert chi_square > 30


def test_arms_with_too_few_people_are_noticed():
    assert mismatch_p((5_000, 5_000), (0.5, 0.5)) == 1
    assert mismatch_p((5_300, 4_700), (0.5, 0.5)) < 0.001
    assert mismatch_p((3_000, 1_000), (0.75, 0.25)) == 1
    assert mismatch_p((3_000, 1_000, 10), (0.5, 0.25, 0.25)) < 1e-100
    assert mismatch_p((0, 0), (0.5, 0.5)) == 1

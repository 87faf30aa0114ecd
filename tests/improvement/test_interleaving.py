"""Laws of the team draft."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from improvement.interleaving import Team, interleave

LISTS = st.lists(st.integers(0, 30), unique=True, max_size=20)
RATIOS = st.floats(0, 1)


def mix(a, b, ratio=0.5, seed="s", limit=100):
    return interleave(a, b, ratio, seed, limit, key=int)


@given(LISTS, LISTS, RATIOS, st.text(max_size=5), st.integers(0, 40))
def test_no_result_comes_twice_and_none_is_missing(a, b, ratio, seed, limit):
    picked = [result for result, _ in mix(a, b, ratio, seed, limit)]
    assert len(picked) == len(set(picked)) == min(limit, len({*a, *b}))
    assert set(picked) <= {*a, *b}


@given(LISTS, LISTS, RATIOS, st.integers(0, 20), st.integers(0, 20))
def test_a_longer_list_begins_with_the_shorter_one(a, b, ratio, k, j):
    assert mix(a, b, ratio, limit=k + j)[:k] == mix(a, b, ratio, limit=k)


@given(st.permutations(range(20)), st.permutations(range(20)), RATIOS, st.integers(1, 10))
def test_lists_cut_below_the_page_change_nothing_on_it(a, b, ratio, k):
    assert mix(a[:k], b[:k], ratio, limit=k) == mix(a, b, ratio, limit=k)


@given(LISTS, LISTS)
def test_ratio_nought_is_the_personalised_list_and_one_the_baseline(a, b):
    assert [r for r, _ in mix(a, b, 0.0)][: len(a)] == a
    assert [r for r, _ in mix(a, b, 1.0)][: len(b)] == b


@given(LISTS, LISTS, RATIOS)
def test_each_team_picks_in_its_own_order(a, b, ratio):
    mixed = mix(a, b, ratio)
    for team, ranking in ((Team.PERSONALISED, a), (Team.BASELINE, b)):
        picks = [result for result, of in mixed if of is team]
        assert picks == [result for result in ranking if result in picks]


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.8])
def test_the_share_of_baseline_picks_is_the_ratio(ratio):
    teams = [
        team
        for seed in range(200)
        for _, team in mix(range(100), range(100, 200), ratio, str(seed), limit=20)
    ]
    assert sum(team is Team.BASELINE for team in teams) / len(teams) == pytest.approx(ratio, abs=0.03)


def test_another_process_mixes_the_same():
    code = (
        "from improvement.interleaving import interleave\n"
        "print([r for r, _ in interleave(range(9), range(9, 18), 0.5, 'é', 18, key=int)])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str([r for r, _ in mix(range(9), range(9, 18), 0.5, "é", 18)])

"""Laws of team-draft interleaving."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from improvement.interleaving import Team, interleave

RANKINGS = st.lists(st.integers(0, 12), max_size=14)
RATIOS = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))
SEEDS = st.text(max_size=8)
LIMITS = st.integers(0, 30)


def same(item: int) -> int:
    return item


def items(mixed: list[tuple[int, Team]]) -> list[int]:
    return [item for item, _ in mixed]


def distinct(*rankings: list[int]) -> list[int]:
    return list(dict.fromkeys(item for ranking in rankings for item in ranking))


@settings(deadline=None, max_examples=50)
@given(RANKINGS, RANKINGS, RATIOS, SEEDS, LIMITS)
def test_nothing_comes_twice_and_nothing_is_left_out_below_the_limit(mine, base, ratio, seed, limit):
    mixed = items(interleave(mine, base, ratio, seed, limit, key=same))
    assert len(mixed) == len(set(mixed)) == min(limit, len(set(mine) | set(base)))
    assert set(mixed) <= set(mine) | set(base)


@settings(deadline=None, max_examples=50)
@given(RANKINGS, RANKINGS, RATIOS, SEEDS, LIMITS)
def test_every_pick_is_its_teams_best_item_not_taken_yet(mine, base, ratio, seed, limit):
    mixed = interleave(mine, base, ratio, seed, limit, key=same)
    for place, (item, team) in enumerate(mixed):
        taken = items(mixed[:place])
        ranking = mine if team is Team.PERSONALISED else base
        assert item == next(one for one in ranking if one not in taken)


@settings(deadline=None, max_examples=50)
@given(RANKINGS, RANKINGS, SEEDS, LIMITS)
def test_ratio_0_is_the_personalised_ranking_and_ratio_1_the_baseline(mine, base, seed, limit):
    for ratio, first, second, team in (
        (0, mine, base, Team.PERSONALISED),
        (1, base, mine, Team.BASELINE),
    ):
        mixed = interleave(mine, base, ratio, seed, limit, key=same)
        assert items(mixed) == distinct(first, second)[:limit]
        own = min(limit, len(set(first)))
        assert [one for _, one in mixed[:own]] == [team] * own


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 40), max_size=20, unique=True),
    st.lists(st.integers(0, 40), max_size=20, unique=True),
    RATIOS,
    SEEDS,
    st.integers(0, 12),
    st.integers(0, 12),
)
def test_a_longer_list_continues_a_shorter_one(mine, base, ratio, seed, limit, more):
    """What paging needs: page 1 was made of rankings only as long as itself."""
    page = interleave(mine[:limit], base[:limit], ratio, seed, limit, key=same)
    longer = interleave(mine, base, ratio, seed, limit + more, key=same)
    assert longer[:limit] == page


@settings(deadline=None, max_examples=50)
@given(RANKINGS, RATIOS, SEEDS)
def test_equal_rankings_stay_as_they_are(ranking, ratio, seed):
    assert items(interleave(ranking, ranking, ratio, seed, 30, key=same)) == distinct(ranking)


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.9])
def test_the_share_of_baseline_picks_approaches_the_ratio(ratio: float):
    mine, base = list(range(10_000)), list(range(20_000, 30_000))
    mixed = interleave(mine, base, ratio, "share", 10_000, key=same)
    share = sum(team is Team.BASELINE for _, team in mixed) / len(mixed)
    assert share == pytest.approx(ratio, abs=0.02)  # four standard deviations


def test_the_baseline_gets_the_first_place_as_often_as_the_ratio_says():
    """Over many sessions, not only inside one long list."""
    first = [interleave([1], [2], 0.25, f"session {i}", 1, key=same)[0][1] for i in range(4_000)]
    assert first.count(Team.BASELINE) / 4_000 == pytest.approx(0.25, abs=0.028)


def test_another_process_tosses_the_same_coins():
    code = (
        "from improvement.interleaving import interleave;"
        "print(interleave(list(range(40)), list(range(60, 20, -1)), 0.4, 'sitzung ü', 50, key=lambda i: i))"
    )
    here = interleave(list(range(40)), list(range(60, 20, -1)), 0.4, "sitzung ü", 50, key=same)
    for hash_seed in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": "."},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert told.stdout.strip() == str(here)


def test_another_seed_mixes_differently():
    mixes = {str(interleave(range(20), range(40, 60), 0.5, f"s{i}", 20, key=same)) for i in range(10)}
    assert len(mixes) == 10


def test_items_are_the_same_by_key_and_keep_the_form_of_the_team_that_picked_them():
    mine, base = [("a", "copy"), ("b", "copy")], [("b", "original"), ("a", "original")]
    mixed = interleave(mine, base, 1, "s", 5, key=lambda item: item[0])
    assert mixed == [(("b", "original"), Team.BASELINE), (("a", "original"), Team.BASELINE)]


def test_any_seed_will_do():
    assert items(interleave([1], [1], 0.5, "\ud800", 1, key=same)) == [1]


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_ratio_outside_0_to_1_is_refused(ratio: float):
    with pytest.raises(ValueError, match="exploration_ratio: expected 0 to 1"):
        interleave([1], [2], ratio, "s", 1, key=same)


def test_a_negative_limit_is_refused():
    with pytest.raises(ValueError, match="limit: expected 0 or more"):
        interleave([1], [2], 0.5, "s", -1, key=same)

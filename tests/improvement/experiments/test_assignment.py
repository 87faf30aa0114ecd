"""Who is in which arm: always the same, as the shares say, and few move when arms change."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from improvement.experiments.assignment import assigned, chi_square_tail, evenness, expected_shares
from improvement.experiments.settings import Arm, Experiment, Treatment

USERS = [f"user {n}" for n in range(20_000)]
A, B, C = (Arm(name, Treatment.COPIES) for name in "abc")
TWO = Experiment("e", (A, B))


def arms(experiment: Experiment) -> dict[str, str | None]:
    found = {user: assigned(experiment, user) for user in USERS}
    return {user: None if arm is None else arm.name for user, arm in found.items()}


def moved(before: Experiment, after: Experiment) -> Counter[tuple[str | None, str | None]]:
    one, other = arms(before), arms(after)
    return Counter((one[user], other[user]) for user in USERS if one[user] != other[user])


def test_nobody_is_in_no_arm():
    assert assigned(TWO, None) is None
    assert assigned(None, "ann") is None
    assert assigned(replace(TWO, percent=0.0), "ann") is None


def test_the_same_user_gets_the_same_arm_in_every_process_and_version():
    known = {"ann": "b", "bob": "a", "": "b", "ünï\ncode\0": "b", "\ud800": "b", "x" * 512: "b"}
    assert {user: assigned(TWO, user).name for user in known} == known
    code = (
        "from improvement.experiments.assignment import *\n"
        "from improvement.experiments.settings import *\n"
        "two = Experiment('e', (Arm('a', Treatment.COPIES), Arm('b', Treatment.COPIES)))\n"
        "print(''.join(assigned(two, f'user {n}').name for n in range(200)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "".join(assigned(TWO, user).name for user in USERS[:200])


@pytest.mark.parametrize("shares", [(1, 1), (1, 1, 1), (3, 1), (0.5, 0.25, 0.25), (1e-3, 1)])
def test_arms_have_the_users_that_their_shares_promise(shares: tuple[float, ...]):
    made = tuple(Arm(f"arm {n}", Treatment.COPIES, share) for n, share in enumerate(shares))
    experiment = Experiment("shares", made)
    counts = Counter(arms(experiment).values())
    assert evenness(counts, experiment) > 0.001
    assert set(expected_shares(experiment)) == {arm.name for arm in made}
    wrong = counts | {"arm 0": counts["arm 0"] + 1_500}
    assert evenness(wrong, experiment) < 1e-6


def test_experiments_are_independent_of_each_other():
    other = Experiment("another", (A, B))
    pairs = Counter(zip(arms(TWO).values(), arms(other).values(), strict=True))
    assert max(pairs.values()) < 1.06 * min(pairs.values())


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_arm_that_comes_takes_its_share_and_nobody_else_moves(place: int):
    three = Experiment("e", ((A, B)[:place] + (C,) + (A, B)[place:]))
    moves = moved(TWO, three)
    assert {to for _, to in moves} == {"c"}
    assert sum(moves.values()) == pytest.approx(len(USERS) / 3, rel=0.05)
    assert moves["a", "c"] == pytest.approx(moves["b", "c"], rel=0.1)


def test_an_arm_that_goes_moves_its_own_users_only():
    assert {of for of, _ in moved(Experiment("e", (A, B, C)), TWO)} == {"c"}


def test_a_larger_share_only_draws_users_in():
    moves = moved(TWO, Experiment("e", (A, replace(B, share=1.5))))
    assert set(moves) == {("a", "b")}
    assert sum(moves.values()) == pytest.approx(len(USERS) * (0.6 - 0.5), rel=0.1)


def test_more_percent_let_users_in_and_leave_the_others_where_they_are():
    for low, high in ((5.0, 20.0), (50.0, 100.0)):
        moves = moved(replace(TWO, percent=low), replace(TWO, percent=high))
        assert {of for of, _ in moves} == {None}
        assert sum(moves.values()) == pytest.approx(len(USERS) * (high - low) / 100, rel=0.1)


def test_whether_and_where_users_take_part_is_independent():
    few = {user: arm for user, arm in arms(replace(TWO, percent=30.0)).items() if arm is not None}
    assert evenness(Counter(few.values()), TWO) > 0.001


@given(user=st.text(max_size=50), name=st.text(min_size=1, max_size=20))
def test_any_text_may_be_a_user_or_a_name(user: str, name: str):
    arm = assigned(Experiment(name, (A, B)), user)
    assert arm in (A, B)
    assert arm == assigned(Experiment(name, (B, A)), user), "the order of the arms means nothing"


@given(counts=st.lists(st.integers(0, 10**6), min_size=2, max_size=6))
def test_evenness_is_a_probability(counts: list[int]):
    made = tuple(Arm(f"{n}", Treatment.COPIES, n + 0.5) for n in range(len(counts)))
    found = evenness({f"{n}": count for n, count in enumerate(counts)}, Experiment("e", made))
    assert 0 <= found <= 1 or (not any(counts) and found != found)


def test_the_tail_of_chi_square_is_that_of_the_tables():
    for freedom, at_five_in_a_hundred in {1: 3.841, 2: 5.991, 3: 7.815, 7: 14.067, 30: 43.773}.items():
        assert chi_square_tail(at_five_in_a_hundred, freedom) == pytest.approx(0.05, abs=2e-5)
    assert chi_square_tail(0.0, 3) == 1
    assert chi_square_tail(1e6, 99) == 0

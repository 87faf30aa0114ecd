"""Team-draft interleaving: two rankings in one list, each result knowing which one brought it."""

import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from enum import StrEnum
from typing import TypeVar

T = TypeVar("T")


class Team(StrEnum):
    """The list a result came from."""

    PERSONALISED = "personalised"
    BASELINE = "baseline"


def interleave(
    personalised: Sequence[T],
    baseline: Sequence[T],
    exploration_ratio: float,
    seed: str,
    limit: int,
    key: Callable[[T], Hashable],
) -> list[tuple[T, Team]]:
    """Mix two rankings by team draft, without duplicates.

    For each place a coin that shows "baseline" with probability ``exploration_ratio`` says whose turn it is;
    that team takes its best result that is not taken yet, and a team with none left gives its turn away.
    The same seed gives the same list in every process, and a longer list begins with the shorter one: that
    makes pages fit together.

    Source: Radlinski, Kurup, Joachims. How does clickthrough data reflect retrieval quality? CIKM 2008.
    There the coin is fair and tossed once per pair of picks; here it may be biased, tossed per pick.

    Args:
        exploration_ratio: 0 is the personalised list alone, 1 the baseline alone.
        limit: at most this many results.
        key: what makes two results the same object.

    >>> mixed = interleave("abc", "cab", 0.5, "session 1", 3, key=str)
    >>> sorted(result for result, team in mixed)
    ['a', 'b', 'c']
    """
    coin = random.Random(seed)  # seeded by the text itself: hash() differs between processes
    taken: set[Hashable] = set()
    left = {Team.PERSONALISED: iter(personalised), Team.BASELINE: iter(baseline)}

    def next_free(team: Team) -> Iterator[tuple[T, Team]]:
        for result in left[team]:
            if key(result) not in taken:
                yield result, team
                return

    mixed: list[tuple[T, Team]] = []
    while len(mixed) < limit:
        turn = Team.BASELINE if coin.random() < exploration_ratio else Team.PERSONALISED
        other = Team.PERSONALISED if turn is Team.BASELINE else Team.BASELINE
        pick = next(next_free(turn), None) or next(next_free(other), None)
        if pick is None:
            break
        taken.add(key(pick[0]))
        mixed.append(pick)
    return mixed

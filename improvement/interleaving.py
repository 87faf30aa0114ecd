"""Team-draft interleaving: two rankings mixed into one list that says which of them each item came from."""

import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from enum import StrEnum
from typing import TypeVar

T = TypeVar("T")


class Team(StrEnum):
    """The ranking that an item of a mixed list was taken from."""

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
    """Mix two rankings pick by pick, as two captains draft their teams.

    Each turn is the baseline's with probability ``exploration_ratio``, by a coin that only ``seed`` and the
    number of the pick decide; the team whose turn it is takes its best item not taken yet, and when it has
    none left the other one fills. After Radlinski, Kurup and Joachims, "How does clickthrough data
    reflect retrieval quality?" (CIKM 2008), whose coin is fair and decides who goes first in each round of
    two picks; here it decides every pick, so that any ratio is possible.

    Asking for more continues the same list: with rankings of at least ``limit`` distinct items each (or all
    there are), the answer is the beginning of every answer for longer rankings and a larger limit.

    Args:
        personalised: best first; so is ``baseline``.
        exploration_ratio: 0 gives the personalised ranking, 1 the baseline's, each then filled by the other.
        seed: equal seeds toss equal coins, in every process.
        limit: length of the answer, unless there are fewer distinct items.
        key: what makes two items the same.

    Returns:
        Items, none twice, each with the team that picked it.

    Raises:
        ValueError: a ratio outside 0 to 1, or a negative limit.

    >>> [f"{item}:{team}" for item, team in interleave("abc", "cde", 0.5, "session", 4, key=str)]
    ['c:baseline', 'a:personalised', 'b:personalised', 'd:baseline']
    """
    if not 0 <= exploration_ratio <= 1:
        raise ValueError(f"exploration_ratio: expected 0 to 1, got {exploration_ratio}")
    if limit < 0:
        raise ValueError(f"limit: expected 0 or more, got {limit}")
    coin = random.Random(seed.encode("utf-8", "surrogatepass"))
    taken: set[Hashable] = set()
    sides = {
        Team.PERSONALISED: _untaken(personalised, taken, key),
        Team.BASELINE: _untaken(baseline, taken, key),
    }
    picks: list[tuple[T, Team]] = []
    while len(picks) < limit:
        explores = coin.random() < exploration_ratio
        turns = (Team.BASELINE, Team.PERSONALISED) if explores else (Team.PERSONALISED, Team.BASELINE)
        pick = next(((item, team) for team in turns for item in sides[team]), None)
        if pick is None:
            break
        taken.add(key(pick[0]))
        picks.append(pick)
    return picks


def _untaken(ranking: Sequence[T], taken: set[Hashable], key: Callable[[T], Hashable]) -> Iterator[T]:
    """Yield items in order; whether one is taken is looked up when its turn comes."""
    return (item for item in ranking if key(item) not in taken)

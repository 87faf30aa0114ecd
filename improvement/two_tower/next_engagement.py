"""The next-engagement test: what two towers would have recommended to users before they engaged again.

Both sides read the same engagements, those received up to a watermark that neither side's training went
beyond, and are asked for what came after. Items are where the checkpoints put them, not where engagement
moved them since: in the collection that serves they moved towards those very users by what is asked for here,
and in the other they did not.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from improvement.evaluation.metrics import ndcg
from improvement.evaluation.report import Sample
from improvement.objects import Vectors
from improvement.two_tower.exact import Best
from improvement.two_tower.facts import History, ItemFacts, Past
from improvement.two_tower.pairs import Pair, PairStore
from improvement.two_tower.tower import Tower

#: Recommendations that are looked at for recall, and for nDCG.
DEEP, TOP = 20, 10
#: Users whose vectors are made at once.
USERS = 100
#: Engagements of a user before the test that are read: what they know is not recommended to them.
BEFORE = 500
#: Engagements behind the watermark that are read.
MOST = 200_000
#: What stands before the metrics of all users, not only of those with enough engagements.
ALL = "all_"

#: Called with what was done and how many more of it.
Progress = Callable[[str, int], object]
#: Object ids, base space -> facts of those that are there.
FactsOf = Callable[[Collection[str], str], ItemFacts]
Item = TypeVar("Item")


@dataclass(frozen=True)
class TowerSide:
    """One of the two: the towers of a checkpoint, and the space of the texts that they read."""

    tower: Tower
    base_space: str


@dataclass(frozen=True)
class Case:
    """A user of the test.

    Attributes:
        pasts: what they did before, oldest first.
        wanted: what they engaged with after that, and had not before.
        at: when they did so first, seconds since 1970.
    """

    user_id: str
    pasts: Sequence[Past]
    wanted: frozenset[str]
    at: float


@dataclass(frozen=True, eq=False)
class Answers:
    """What two towers recommended.

    Attributes:
        blue, green: metric -> values, in one order of users; NaN where a metric does not count a user.
        queries: (S,) of blue and of green, each a user's vector; those who have one on both sides.
        users, enough: how many users were tested, and how many of them have enough engagements.
    """

    blue: Mapping[str, Sample]
    green: Mapping[str, Sample]
    queries: Sequence[tuple[Vectors, Vectors]]
    users: int
    enough: int


def behind(watermark: float) -> float:
    """Return the first moment after a watermark, seconds since 1970."""
    return math.nextafter(watermark, math.inf)


def cases(pairs: PairStore, domain: str, watermark: float, most: int, progress: Progress) -> list[Case]:
    """Return the users who engaged with something new to them after a watermark, those who did last first.

    Args:
        watermark: seconds since 1970; what was received at that moment still counts as before.
        most: users.
    """
    since = behind(watermark)
    later: dict[str, set[str]] = {}
    first: dict[str, float] = {}
    newest: dict[str, float] = {}
    for pair in islice(pairs.between(domain, since, math.inf), MOST):
        if pair.signal > 0:
            later.setdefault(pair.user_id, set()).add(pair.object_id)
            first[pair.user_id] = min(pair.at, first.get(pair.user_id, pair.at))
            newest[pair.user_id] = pair.received_at
    users = sorted(later, key=lambda user: (-newest[user], user))[:most]
    found: list[Case] = []
    for some in _chunks(users):
        earlier = pairs.of_users(domain, some, since, BEFORE)
        for user in some:
            pasts = [_past(pair) for pair in earlier.get(user, [])]
            known = {past.object_id for past in pasts}
            wanted = frozenset(later[user] - known)
            if pasts and wanted:
                found.append(Case(user, pasts, wanted, first[user]))
        progress("read", len(some))
    return found


def ask_both(
    facts: FactsOf,
    pages: Iterable[Mapping[str, ItemFacts]],
    blue: TowerSide,
    green: TowerSide,
    these: Sequence[Case],
    enough: int,
    queries: int,
    progress: Progress,
) -> Answers:
    """Ask both sides what they recommend to each user, and see what of it was wanted.

    Each side's towers make the user's vector from their past, and rank the whole catalogue without what the
    user knows. An object that is not there any more was not wanted; a user who then wanted nothing does not
    count.

    Args:
        facts: reads what the candidate tower reads of these objects, in a base space.
        pages: the whole catalogue in pieces, each by base space.
        enough: engagements before the test that a user needs to count beyond the metrics of `ALL`.
        queries: most pairs of vectors that are returned.
    """
    sides = (blue, green)
    made, known = _users(facts, sides, these, progress)
    without = [frozenset(past.object_id for past in case.pasts) for case in these]
    best = [Best(users, without, DEEP) for users in made]
    for page in pages:
        for side, of in zip(sides, best, strict=True):
            one = page[side.base_space]
            of.add(one.object_ids, side.tower.items(one))
        progress("ranked", len(next(iter(page.values()))))
    found = [of.ids for of in best]
    rows: list[tuple[str, bool, list[float]]] = []
    kept: list[tuple[Vectors, Vectors]] = []
    for place, case in enumerate(these):
        if not (wanted := case.wanted & known):
            continue
        scores = [score for of in found for score in _scores(of[place], wanted)]
        rows.append((case.user_id, len(case.pasts) >= enough, scores))
        if len(kept) < queries and all(users[place].any() for users in made):
            kept.append((made[0][place], made[1][place]))
    numbers = np.array([scores for _, _, scores in rows], np.float64).reshape(-1, 4)
    users = np.arange(len(rows))
    warm = np.array([warm for _, warm, _ in rows], bool)

    def samples(recall: NDArray[np.float64], gain: NDArray[np.float64]) -> dict[str, Sample]:
        of = {f"recall@{DEEP}": recall, f"ndcg@{TOP}": gain}
        own = {name: Sample(np.where(warm, values, np.nan), users) for name, values in of.items()}
        return own | {f"{ALL}{name}": Sample(values, users) for name, values in of.items()}

    first, second = samples(*numbers[:, :2].T), samples(*numbers[:, 2:].T)
    return Answers(first, second, kept, len(rows), int(warm.sum()))


def _users(
    facts: FactsOf, sides: Sequence[TowerSide], these: Sequence[Case], progress: Progress
) -> tuple[list[Vectors], set[str]]:
    """Return each side's vectors of the users, and which of all that they did and wanted is still there."""
    made: list[list[Vectors]] = [[np.zeros((0, side.tower.settings.size), np.float32)] for side in sides]
    known: set[str] = set()
    for some in _chunks(these):
        ids = {past.object_id for case in some for past in case.pasts}.union(*(case.wanted for case in some))
        read = {space: facts(ids, space) for space in {side.base_space for side in sides}}
        for side, of in zip(sides, made, strict=True):
            one = read[side.base_space]
            known.update(one.object_ids)
            of.append(_read(side.tower, dict(zip(one.object_ids, side.tower.items(one), strict=True)), some))
        progress("prepared", len(some))
    return [np.concatenate(of) for of in made], known


def _read(tower: Tower, held: Mapping[str, Vectors], some: Sequence[Case]) -> Vectors:
    histories = []
    for case in some:
        pasts = [past for past in case.pasts if past.object_id in held][-tower.settings.history :]
        items = [held[past.object_id] for past in pasts]
        none = np.zeros((0, tower.settings.size), np.float32)
        histories.append(History(pasts, np.stack(items) if items else none, case.at))
    return tower.users(histories)


def _scores(found: Sequence[str], wanted: Collection[str]) -> tuple[float, float]:
    """Return recall among the first `DEEP` and nDCG among the first `TOP`."""
    marked = [object_id in wanted for object_id in found]
    return sum(marked) / len(wanted), ndcg(marked, len(wanted), TOP)


def _past(pair: Pair) -> Past:
    return Past(pair.pair_id, pair.object_id, pair.author, pair.action, pair.signal, pair.at)


def _chunks(every: Sequence[Item]) -> Iterator[Sequence[Item]]:
    return (every[start : start + USERS] for start in range(0, len(every), USERS))

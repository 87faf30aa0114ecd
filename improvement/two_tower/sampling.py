"""Negatives for engagements: what was shown and passed over first, then random ones of the same time."""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray


class Reason(StrEnum):
    """Why a pair is a training pair."""

    ENGAGED = "engaged"
    DISLIKED = "disliked"
    SHOWN = "shown"
    RANDOM = "random"


@dataclass(frozen=True)
class Positive:
    """An engagement that negatives are drawn for: who, with what, when (seconds since 1970)."""

    user_id: str
    object_id: str
    at: float


@dataclass(frozen=True)
class Seen:
    """That an object was shown to a user, when (seconds since 1970)."""

    user_id: str
    object_id: str
    at: float


def draw_negatives(
    positives: Sequence[Positive],
    seen: Sequence[Seen],
    engaged: Mapping[str, frozenset[str]],
    pool: Sequence[tuple[str, float]],
    count: int,
    within: float,
    rng: np.random.Generator,
) -> list[list[tuple[str, Reason]]]:
    """Draw up to ``count`` different negatives for each positive, none that its user ever engaged with.

    First `Reason.SHOWN`: shown to the same user in the ``within`` seconds up to the positive, at random
    among them; then `Reason.RANDOM`: from the pool, of the same ``within`` seconds before and after it, at
    random, or from all of the pool where that is not enough (seed 001). Each different object there is as
    likely, however often it is there: negatives drawn by popularity would teach that the popular is bad.

    Args:
        engaged: user id -> object ids that the user engaged with, ever or as far as is known.
        pool: object ids and when somebody engaged with them or they were shown.
        rng: equal generators draw equal negatives.
    """
    shown: dict[str, list[tuple[str, float]]] = {}
    for one in seen:
        shown.setdefault(one.user_id, []).append((one.object_id, one.at))
    of_users = {
        user_id: _Timeline(shown[user_id]) for user_id in {p.user_id for p in positives} & shown.keys()
    }
    nobody, everything = _Timeline([]), _Timeline(pool)
    drawn = []
    for positive in positives:
        at, never = positive.at, {*engaged.get(positive.user_id, ()), positive.object_id}
        own = of_users.get(positive.user_id, nobody)
        negatives: list[tuple[str, Reason]] = []
        for among, since, until, reason in (
            (own, at - within, at, Reason.SHOWN),
            (everything, at - within, at + within, Reason.RANDOM),
            (everything, -np.inf, np.inf, Reason.RANDOM),
        ):
            found = among.draw(since, until, never, count - len(negatives), rng)
            negatives += [(one, reason) for one in found]
            never.update(found)
        drawn.append(negatives)
    return drawn


class _Timeline:
    """Objects by time, of which each different one in a stretch of time is as likely to be drawn."""

    def __init__(self, its: Sequence[tuple[str, float]]) -> None:
        ordered = sorted(its, key=itemgetter(1))
        self.times = [at for _, at in ordered]
        self.ids = [object_id for object_id, _ in ordered]
        self.before: list[int] = []  # the place where the same object stands before, -1 for none
        last: dict[str, int] = {}
        for place, object_id in enumerate(self.ids):
            self.before.append(last.get(object_id, -1))
            last[object_id] = place

    def draw(
        self, since: float, until: float, never: Collection[str], count: int, rng: np.random.Generator
    ) -> list[str]:
        """Return up to ``count`` different ones of the stretch; all there are where these are fewer."""
        low, high = bisect_left(self.times, since), bisect_right(self.times, until)
        if count <= 0 or low == high:
            return []
        found: dict[str, None] = {}

        def look(place: int) -> None:
            # Each object counts where it stands first in the stretch, so once.
            if len(found) < count and self.before[place] < low and self.ids[place] not in never:
                found[self.ids[place]] = None

        if high - low > 16 * count:  # most likely a few tries are enough
            for place in rng.integers(low, high, size=8 * count).tolist():
                look(place)
        if len(found) < count:
            for place in (low + rng.permutation(high - low)).tolist():
                look(place)
        return list(found)


def log_frequencies(object_ids: Sequence[str], counts: Mapping[str, int], size: int) -> NDArray[np.float32]:
    """Return the log of the chance that each item is among ``size`` draws, by how often it was drawn.

    With p = its count over all counts that is ``log(1 - (1 - p)^size)``; never drawn counts as drawn once.

    >>> log_frequencies(["a", "b"], {"a": 3, "b": 1}, size=1).round(3).tolist()
    [-0.288, -1.386]
    """
    total = max(1, sum(counts.values()))
    share = np.array([max(1, counts.get(one, 0)) for one in object_ids], np.float64) / total
    with np.errstate(divide="ignore"):  # p = 1: the log of 0 chances that it is not there
        chance = -np.expm1(max(1, size) * np.log1p(-np.minimum(share, 1.0)))
    made: NDArray[np.float32] = np.log(chance).astype(np.float32)
    return made

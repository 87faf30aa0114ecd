"""Searches that two collections ranked, one by one: which of them ranks better, and where most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from improvement.evaluation.report import Sample

#: What a user sees (copies, and the profile as far as the domain uses it), and what everybody sees alike.
SEEN, PLAIN = "seen", "plain"
#: Way of ranking -> nDCG@10, reciprocal rank, nDCG@10 with inverse propensities as gains; of one search.
Scores = Mapping[str, tuple[float, float, float]]


@dataclass(frozen=True)
class Pair:
    """One search, as the blue and as the green collection rank what it showed.

    Attributes:
        query: its text; may be empty.
        clicked: what was clicked of what it showed.
        weight: mean inverse propensity of the clicks.
        copies, profile: whether a copy took part on either side, and whether a profile did.
        blue, green: how well each does, in each way of ranking.
        before, after: object ids as the user would see them in blue and in green, best first.
    """

    user_id: str
    query: str
    clicked: frozenset[str]
    weight: float
    copies: bool
    profile: bool
    blue: Scores
    green: Scores
    before: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def change(self) -> float:
        """By how much green's nDCG@10 is higher, as the user sees it, -1..1."""
        return self.green[SEEN][0] - self.blue[SEEN][0]


def samples(pairs: Sequence[Pair], *, propensities: bool) -> tuple[dict[str, Sample], dict[str, Sample]]:
    """Return blue's and green's values of every metric, in one order.

    Args:
        propensities: whether they are known; without them there are no ``ips_`` metrics.

    Returns:
        Metric -> sample: ``ndcg@10``, ``mrr``, ``ips_ndcg@10``, ``ips_mrr`` as users see it, and the same
        behind ``plain_``.
    """
    numbers = {user: number for number, user in enumerate({one.user_id: None for one in pairs})}
    users = np.array([numbers[one.user_id] for one in pairs])
    weights = np.array([one.weight for one in pairs])

    def of(side: Sequence[Scores]) -> dict[str, Sample]:
        found: dict[str, Sample] = {}
        for way, prefix in ((SEEN, ""), (PLAIN, "plain_")):
            gain, rank, weighted = np.array([one[way] for one in side], np.float64).reshape(-1, 3).T
            found |= {f"{prefix}ndcg@10": Sample(gain, users), f"{prefix}mrr": Sample(rank, users)}
            if propensities:
                found |= {
                    f"{prefix}ips_ndcg@10": Sample(weighted, users, weights),
                    f"{prefix}ips_mrr": Sample(rank, users, weights),
                }
        return found

    return of([one.blue for one in pairs]), of([one.green for one in pairs])


def movers(pairs: Sequence[Pair], most: int) -> tuple[list[Pair], list[Pair]]:
    """Return the searches that gained most and those that lost most, the largest changes first.

    Of searches with one text only the one that changed most; texts decide between equal changes.
    """
    order = sorted(pairs, key=lambda one: (-abs(one.change), one.query, one.before, one.after))
    gained, lost = [one for one in order if one.change > 0], [one for one in order if one.change < 0]
    return _each_text_once(gained)[:most], _each_text_once(lost)[:most]


def _each_text_once(pairs: Sequence[Pair]) -> list[Pair]:
    first: dict[object, Pair] = {}
    for number, one in enumerate(pairs):
        first.setdefault(one.query or number, one)
    return list(first.values())

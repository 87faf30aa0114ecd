"""Rank again what one logged session showed, and say how well each method does by its clicks."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clickstream.records import RegisteredSession
from improvement.copies import Key
from improvement.domain import SearchDomain
from improvement.evaluation.metrics import graded_ndcg, ndcg, reciprocal_rank
from improvement.evaluation.profiles import rescored
from improvement.evaluation.ranking import best_first, scores, searched
from improvement.evaluation.report import NO_LEARNING, Row, Sample, settings_of, with_profile
from improvement.evidence import happened_at
from improvement.objects import Object, Vectors
from improvement.profiles.profile import Profile
from improvement.profiles.settings import ProfileSettings

AS_SHOWN = "as shown"
#: Places that nDCG looks at.
K = 10
#: Clip of the inverse propensities that weigh the clicks.
MAX_INVERSE_PROPENSITY = 10.0


@dataclass(frozen=True)
class Judged:
    """One session, judged.

    Attributes:
        weight: mean inverse propensity of its clicks.
        has_copies, has_profile: whether a copy took part, and whether a profile did.
        found: method -> nDCG, reciprocal rank, nDCG with the inverse propensities as gains.
    """

    user_id: str
    weight: float
    has_copies: bool
    has_profile: bool
    found: Mapping[str, tuple[float, float, float]]


def judged_by(gains: Mapping[str, float], order: Sequence[str]) -> tuple[float, float, float]:
    """Return nDCG, reciprocal rank, and nDCG with the gains as they are, of a ranked list.

    Args:
        gains: object id -> what it is worth, at least one above 0.
        order: object ids, best first; one that has a gain and is not in it was not found.

    >>> judged_by({"a": 2.0, "b": 0.0}, ["b", "a"])
    (0.63, 0.5, 0.63)
    >>> judged_by({"a": 2.0, "b": 0.0}, ["b"])
    (0.0, 0.0, 0.0)
    """
    worth = np.array([gains[o] for o in order])
    ranked = set(order)
    lost = [gain for object_id, gain in gains.items() if object_id not in ranked]
    first = reciprocal_rank(worth)
    return (
        ndcg(worth > 0, sum(gain > 0 for gain in gains.values()), K),
        0.0 if np.isnan(first) else first,
        graded_ndcg([*worth, *[0.0] * K, *lost], K),
    )


def mean_gain(gains: Mapping[str, float]) -> float:
    """Return the mean gain of what has one."""
    return float(np.mean([gain for gain in gains.values() if gain]))


@dataclass(frozen=True)
class Judge:
    """Judges the sessions of one domain.

    Attributes:
        domain: its selector says what a click is, its index how to compare.
        method: what to call ranking with copies; None leaves it out.
        propensities: chance, in 0..1, that each place is looked at; none means that all are certain.
        profiles: how profiles are used, after the copies; None leaves that row out.
    """

    domain: SearchDomain
    method: str | None
    propensities: Sequence[float] = ()
    profiles: ProfileSettings | None = None

    def judge(
        self,
        session: RegisteredSession,
        query: Vectors,
        originals: Mapping[str, Object],
        copies: Mapping[Key, Object],
        profile: Profile | None = None,
    ) -> Judged | str:
        """Rank what a session showed in every way, or say why that tells nothing.

        Equal scores keep the order in which they were shown. Objects that are no longer there are left out.

        Args:
            query: (M, D) prepared query vectors.
            originals: by object id; may hold more than the session showed, or less.
            copies: by user and object id.
            profile: the user's, or None while there is none to use.
        """
        gains = self.gains(session, originals)
        if len(gains) < 2:
            return "fewer than 2 of the shown objects are still there"
        if not any(gains.values()):
            return self.says_nothing(session)
        orders = self.orders(session, query, list(gains), originals, copies, profile)
        return Judged(
            user_id=str(session.user_id),
            weight=mean_gain(gains),
            has_copies=any((str(session.user_id), o) in copies for o in gains),
            has_profile=self.profiles is not None and profile is not None,
            found={name: judged_by(gains, order) for name, order in orders.items()},
        )

    def gains(self, session: RegisteredSession, there: Container[str]) -> dict[str, float]:
        """Return what each shown object that is there is worth, in shown order; 0 where nobody clicked."""
        clicks = self._clicks(session)
        return {
            result.object_id: self._inverse(place) if result.object_id in clicks else 0.0
            for place, result in enumerate(session.search_results)
            if result.object_id in there
        }

    def says_nothing(self, session: RegisteredSession) -> str:
        """Return why a session without any gain tells nothing."""
        shown_once = {result.object_id for result in session.search_results}
        clicked = self._clicks(session) & shown_once
        return "no clicked object is still there" if clicked else "dislikes only, no click"

    def _clicks(self, session: RegisteredSession) -> set[str]:
        return {e.object_id for e in session.events if e.event_type in self.domain.selector.click_events}

    def orders(
        self,
        session: RegisteredSession,
        query: Vectors,
        there: Sequence[str],
        originals: Mapping[str, Object],
        copies: Mapping[Key, Object],
        profile: Profile | None = None,
    ) -> dict[str, list[str]]:
        """Rank objects in every way; equal scores keep the order they are given in.

        Args:
            there: ids of objects, all of them in ``originals``.

        Returns:
            Method -> object ids, best first.
        """
        user_id = str(session.user_id)
        mine = [copies.get((user_id, o), originals[o]) for o in there]
        order = self._order(query, mine)
        orders: dict[str, Any] = {
            AS_SHOWN: range(len(there)),
            NO_LEARNING: self._order(query, [originals[o] for o in there]),
        }
        if self.method is not None:
            orders[self.method] = order
        if self.profiles is not None:
            orders[with_profile(self.method)] = order
            if profile is not None:
                seen, now = [mine[place] for place in order], happened_at(session)
                again = rescored(query, seen, profile, now, self.profiles, self.domain.search_index_info)
                orders[with_profile(self.method)] = order[again]
        return {name: [there[place] for place in places] for name, places in orders.items()}

    def _order(self, query: Vectors, objects: Sequence[Object]) -> Any:
        info = self.domain.search_index_info
        compared = [searched(one, info.metric_aggregation_type) for one in objects]
        return best_first(scores([query], compared, info.metric_type)[0], len(objects))

    def _inverse(self, place: int) -> float:
        if not self.propensities:
            return 1.0
        looked_at = self.propensities[min(place, len(self.propensities) - 1)]
        return 1 / max(looked_at, 1 / MAX_INVERSE_PROPENSITY)

    def rows(self, judged: Sequence[Judged], seed: int) -> list[Row]:
        """Return a row for each method: means over sessions, raw and weighted, and differences."""
        numbers = {user: number for number, user in enumerate({one.user_id: None for one in judged})}
        users = np.array([numbers[one.user_id] for one in judged])
        weights = np.array([one.weight for one in judged])

        def samples(name: str) -> dict[str, Sample]:
            gain, rank, weighted = np.array([one.found[name] for one in judged]).T
            return {
                f"ndcg@{K}": Sample(gain, users),
                "mrr": Sample(rank, users),
                f"ips_ndcg@{K}": Sample(weighted, users, weights),
                "ips_mrr": Sample(rank, users, weights),
            }

        baseline = samples(NO_LEARNING)
        rows = [
            Row.of(AS_SHOWN, samples(AS_SHOWN), baseline, seed),
            Row.of(NO_LEARNING, baseline, None, seed),
        ]
        told = {"evidence": settings_of(self.domain.evidence)}
        before = {}
        if self.method is not None:
            told["adjuster"] = settings_of(self.domain.adjuster)
            before = {self.method: samples(self.method)}
            rows.append(Row.of(self.method, before[self.method], baseline, seed, told))
        if self.profiles is not None:
            told = told | {"profile": settings_of(self.profiles)}
            way = with_profile(self.method)
            rows.append(Row.of(way, samples(way), baseline, seed, told, others=before))
        return rows

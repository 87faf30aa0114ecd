"""One user of a data set: they search, click what is relevant, learn, and search again.

The protocol is that of `docs/replay.md`. What a user learns goes the way of production: a registered session,
evidence weights, `improvement_input`, `personal_copies`, and the batch's profile.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from clickstream.records import RegisteredSession, SearchResult, SessionEvent
from improvement.adjusters.base import drift
from improvement.copies import UsableSession, improvement_input, personal_copies
from improvement.domain import (
    MetricAggregationType,
    MetricType,
    SearchDomain,
    SearchIndexInfo,
    VectorsAdjuster,
    prepare_vectors,
)
from improvement.evaluation.behaviour import Behaviour
from improvement.evaluation.dataset import ReplayDataset, ReplayUser
from improvement.evaluation.metrics import ndcg, share
from improvement.evaluation.profiles import profile_of, rescored
from improvement.evaluation.ranking import best_first, scores, searched
from improvement.evidence import EvidenceWeights
from improvement.inputs import ImprovementInput
from improvement.objects import Object, Vectors
from improvement.profiles.profile import Interaction, Profile
from improvement.profiles.searched import searched as said_by
from improvement.profiles.settings import ProfileSettings

#: Objects a training search shows.
SHOWN = 20
#: Places the metrics look at, and how deep a ranking goes before what was shown is taken out of it.
K, DEPTH = 10, 200
#: When the first session is, in seconds since 1970; any will do, for only ages count.
START = 1_700_000_000
#: Seconds from a session's search to its clicks.
CLICK_AFTER = 30
HELDOUT_NDCG, TOPICAL, UNSEEN_NDCG, REFIND_NDCG, DRIFT = (
    f"heldout.ndcg@{K}", f"heldout.topical@{K}", f"heldout.unseen_ndcg@{K}", f"refind.ndcg@{K}", "drift",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Scene:
    """A data set prepared for one metric and aggregation, and scored once for every user and method.

    Attributes:
        originals: object id -> prepared original.
        rows: object id -> its row in the data set.
        queries: prepared query vectors, (M, D) each.
        base: (queries, objects) scores of the originals.
    """

    dataset: ReplayDataset
    info: SearchIndexInfo
    originals: Mapping[str, Object]
    rows: Mapping[str, int]
    queries: tuple[Vectors, ...]
    base: Vectors

    @classmethod
    def of(
        cls,
        dataset: ReplayDataset,
        metric: MetricType = MetricType.COSINE,
        aggregation: MetricAggregationType = MetricAggregationType.MIN,
    ) -> "Scene":
        """Prepare the vectors as a domain with this metric does, and score them."""
        info = SearchIndexInfo(dataset.dimensions, metric, aggregation)
        originals = {
            object_id: Object(object_id, prepare_vectors(parts, metric), tuple(map(str, range(len(parts)))))
            for object_id, parts in zip(dataset.object_ids, dataset.objects, strict=True)
        }
        queries = tuple(prepare_vectors(vectors, metric) for vectors in dataset.queries)
        compared = [searched(original, aggregation) for original in originals.values()]
        rows = {object_id: row for row, object_id in enumerate(dataset.object_ids)}
        return cls(dataset, info, originals, rows, queries, scores(queries, compared, metric))


class _NoEncoder:
    """Stands where a domain has its encoder: a data set brings its vectors."""

    model_id = "the data set's"

    def encode(self, texts: Sequence[str]) -> Vectors:
        raise ValueError(f"a data set brings its vectors: nothing embeds its {len(texts)} texts")


@dataclass(eq=False)
class Learner:
    """One user: what they were shown, what it taught, and the copies and the profile they have now."""

    scene: Scene
    adjuster: VectorsAdjuster | None
    evidence: EvidenceWeights
    user: ReplayUser
    seconds_apart: int
    behaviour: Behaviour = field(default_factory=Behaviour)
    profiles: ProfileSettings | None = None
    searches: int = 0
    clicks: int = 0
    shown: set[int] = field(default_factory=set)
    taught: list[tuple[UsableSession, Vectors]] = field(default_factory=list)
    inputs: list[ImprovementInput] = field(default_factory=list)
    copies: dict[int, Object] = field(default_factory=dict)
    said: list[Interaction] = field(default_factory=list)
    profile: Profile | None = None

    def ranking(self, query: int, depth: int) -> list[int]:
        """Rank all objects as this user sees them: copies for originals, the first ones by the profile."""
        if self.profiles is None or self.profile is None:
            return self._by_copies(query, depth)
        ranking = self._by_copies(query, max(depth, self.profiles.rescored))
        ids = self.scene.dataset.object_ids
        first = ranking[: self.profiles.rescored]
        seen = [self.copies.get(row, self.scene.originals[ids[row]]) for row in first]
        now = START + (self.searches + 1) * self.seconds_apart
        places = rescored(self.scene.queries[query], seen, self.profile, now, self.profiles, self.scene.info)
        return [*(first[place] for place in places), *ranking[len(first) :]][:depth]

    def _by_copies(self, query: int, depth: int) -> list[int]:
        scored = self.scene.base[query]
        if self.copies:
            info = self.scene.info
            mine = [searched(copy, info.metric_aggregation_type) for copy in self.copies.values()]
            scored = scored.copy()
            scored[list(self.copies)] = scores([self.scene.queries[query]], mine, info.metric_type)[0]
        ranking: list[int] = best_first(scored, depth).tolist()
        return ranking

    def search(self, query: int) -> None:
        """Show the best, let the user act on it (click what is relevant), and learn from that."""
        shown = self.ranking(query, SHOWN)
        wanted = self.user.relevant.get(query, frozenset())
        progress = self.searches / max(1, len(self.user.train))
        relevant = [row in wanted for row in shown]
        self.searches += 1
        session = self._session(shown, self.behaviour.acts(self.random, relevant, progress))
        self.shown.update(shown)
        if not any(event.event_type == "click" for event in session.events):
            return
        self.clicks += 1
        weights = self.evidence.of(session, self.behaviour.propensities(SHOWN))
        if not weights:
            return
        usable = UsableSession(session, weights)
        if self.adjuster is not None:
            self.taught.append((usable, self.scene.queries[query]))
            self._learn(self.adjuster)
        if self.profiles is not None:
            said = self.said + said_by([usable], self.evidence)
            self.said = said[-self.profiles.remember :]
            means = {one.object_id: self.scene.originals[one.object_id].mean for one in self.said}
            self.profile = profile_of(self.user.user_id, self.said, means, self.profiles)

    @cached_property
    def random(self) -> np.random.Generator:
        """Of this user's own, so that who else is replayed changes nothing."""
        return np.random.default_rng(zlib.crc32(self.user.user_id.encode()))

    def _session(
        self, shown: Sequence[int], acts: Iterable[tuple[int, str, float | None]]
    ) -> RegisteredSession:
        ids = self.scene.dataset.object_ids
        now = START + self.searches * self.seconds_apart
        events = (
            SessionEvent(
                event_id=str(place),
                object_id=ids[shown[place]],
                event_type=event_type,
                created_at=now + CLICK_AFTER,
                meta=None if dwell is None else {"dwell_seconds": dwell},
            )
            for place, event_type, dwell in acts
        )
        return RegisteredSession(
            session_id=f"{self.searches:06}",
            search_query="",
            search_results=tuple(SearchResult(object_id=ids[row]) for row in shown),
            user_id=self.user.user_id,
            created_at=now,
            events=tuple(events),
        )

    def _learn(self, adjuster: VectorsAdjuster) -> None:
        """Make the copies again whose evidence changed: all of them, where evidence decays."""
        changed = self.taught[-1:]
        if self.evidence.half_life_days is not None:
            changed, self.inputs = self.taught, []
        fresh = [self._input(usable, query) for usable, query in changed]
        self.inputs += fresh
        keys = {(element.user_id, element.id) for one in fresh for element, _ in one.weighted()}
        domain = SearchDomain("replay", self.scene.info, adjuster, _NoEncoder())
        for copy in personal_copies(
            self.inputs, self.scene.originals, dict.fromkeys(sorted(keys), ""), domain
        ):
            self.copies[self.scene.rows[str(copy.original_id)]] = copy

    def _input(self, usable: UsableSession, query: Vectors) -> ImprovementInput:
        latest = self.taught[-1][0].session
        decay = self.evidence.decay((latest.created_at or 0) - (usable.session.created_at or 0))
        info = self.scene.info
        return improvement_input(usable, query, self.scene.originals, info.dimensions, decay)

    def measure(self) -> dict[str, list[float]]:
        """Rank for the held-out and, again, for the training queries; return each metric's values."""
        found: dict[str, list[float]] = {HELDOUT_NDCG: [], TOPICAL: [], UNSEEN_NDCG: []}
        for query in self.user.test:
            ranking = self.ranking(query, DEPTH)
            wanted = self.user.relevant.get(query, frozenset())
            topic = self.scene.dataset.topics.get(query)
            unseen = [row for row in ranking if row not in self.shown]
            found[HELDOUT_NDCG].append(_ndcg(ranking, wanted))
            found[UNSEEN_NDCG].append(_ndcg(unseen, wanted - self.shown))
            on_topic = [row in topic for row in ranking[:K]] if topic else []
            found[TOPICAL].append(share(on_topic, K))
        found[REFIND_NDCG] = [
            _ndcg(self.ranking(query, K), self.user.relevant.get(query, frozenset()))
            for query in self.user.train
        ]
        return found | {DRIFT: self._drifts()}

    def _drifts(self) -> list[float]:
        originals, ids = self.scene.originals, self.scene.dataset.object_ids
        return [
            drift_of(originals[ids[row]], self.copies[row], self.scene.info) if row in self.copies else 0.0
            for row in sorted(self.shown)
        ]


def _ndcg(ranking: Sequence[int], wanted: frozenset[int]) -> float:
    return ndcg([row in wanted for row in ranking[:K]], len(wanted), K)


def drift_of(original: Object, copy: Object, info: SearchIndexInfo) -> float:
    """Return how far a copy is from its original, the mean over the vectors that the search compares.

    COSINE: 1 - cos; 1 where it is undefined. DOT, EUCLID: the distance as a share of the original's length.

    >>> from improvement.objects import Object
    >>> there, here = (Object("o", np.array([row], np.float32), ("p",)) for row in ([1, 0], [0, 1]))
    >>> drift_of(there, here, SearchIndexInfo(2))
    1.0
    """
    before, after = (
        torch.from_numpy(searched(one, info.metric_aggregation_type)) for one in (original, copy)
    )
    moved = drift(before, after, info.metric_type).numpy()
    if info.metric_type is MetricType.COSINE:
        moved = 2 * np.sin(np.where(np.isfinite(moved), moved, np.pi / 2) / 2) ** 2
    return float(moved.mean())

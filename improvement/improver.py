"""Improver: the rooms that the worker's jobs need."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from clickstream.actions import ActionStore
from clickstream.improvement_queue import ImprovementQueue
from clickstream.store import ClickstreamStore
from improvement.background import Wake
from improvement.domain import SearchDomain
from improvement.green.builds import BuildStore
from improvement.green.mirror import Mirror
from improvement.green.population_store import PopulationStore
from improvement.green.reports import ReportStore
from improvement.popularity_store import PopularityStore
from improvement.profiles.batch import ProfileBatch
from improvement.profiles.neighbours import Neighbours
from improvement.profiles.store import ProfileStore
from improvement.propensity_store import PropensityStore
from improvement.quality.alerts import AlertStore
from improvement.quality.audits import AuditStore
from improvement.quality.learning import LearningStore
from improvement.quality.samples import SampleStore
from improvement.releases import Releases
from improvement.telemetry import Metrics
from improvement.two_tower.checkpoints import CheckpointStore
from improvement.two_tower.entries import EntryStore
from improvement.two_tower.pairs import PairStore
from improvement.two_tower.progress import TrainingStore
from improvement.two_tower.reading import CatalogueFacts
from improvement.two_tower.serving import ServingTowers
from improvement.vectors import VectorStore


@dataclass(frozen=True)
class Improver:
    """What improving needs: the stores, the domains, and how long a user may be held.

    Attributes:
        lease_seconds: how long a claimed user is held.
        tower_lease: how long a domain's towers are held.
        max_attempts: claims after which an entry that never ends is given up as failed.
        profile_interval: seconds between two batches of profiles.
        popularity_interval: seconds for which what is popular is kept.
        clock: seconds since 1970, by which evidence expires.
        optimize: builds a collection's index now; None where the engine does it by itself.
    """

    clickstream: ClickstreamStore
    queue: ImprovementQueue
    vectors: VectorStore
    releases: Releases
    domains: Mapping[str, SearchDomain]
    propensities: PropensityStore
    actions: ActionStore
    batch: ProfileBatch
    popularity: PopularityStore
    population: PopulationStore
    mirror: Mirror
    builds: BuildStore
    reports: ReportStore
    learning: LearningStore
    alerts: AlertStore
    audits: AuditStore
    samples: SampleStore
    entries: EntryStore
    pairs: PairStore
    checkpoints: CheckpointStore
    training: TrainingStore
    towers: ServingTowers
    facts: CatalogueFacts
    wake: Wake
    lease_seconds: float = 120.0
    tower_lease: float = 120.0
    max_attempts: int = 5
    profile_interval: float = 7_200.0
    popularity_interval: float = 3_600.0
    metrics: Metrics = field(default_factory=Metrics)
    optimize: Callable[[str], Any] | None = None
    clock: Callable[[], float] = time.time

    @property
    def profiles(self) -> ProfileStore:
        """The store of the batch."""
        return self.batch.profiles

    @property
    def neighbours(self) -> Neighbours:
        """Those of the batch."""
        return self.batch.neighbours

"""Improver: the rooms that the worker's jobs need."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from clickstream.actions import ActionStore
from clickstream.improvement_queue import ImprovementQueue
from clickstream.store import ClickstreamStore
from improvement.domain import SearchDomain
from improvement.popularity_store import PopularityStore
from improvement.profiles.batch import ProfileBatch
from improvement.propensity_store import PropensityStore
from improvement.releases import Releases
from improvement.telemetry import Metrics
from improvement.vectors import VectorStore


@dataclass(frozen=True)
class Improver:
    """What improving needs: the stores, the domains, and how long a user may be held.

    Attributes:
        lease_seconds: how long a claimed user is held.
        max_attempts: claims after which an entry that never ends is given up as failed.
        profile_interval: seconds between two batches of profiles.
        popularity_interval: seconds for which what is popular is kept.
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
    lease_seconds: float = 120.0
    max_attempts: int = 5
    profile_interval: float = 7_200.0
    popularity_interval: float = 3_600.0
    metrics: Metrics = field(default_factory=Metrics)

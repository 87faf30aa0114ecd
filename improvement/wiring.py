"""The one place that opens connections: settings in, rooms out."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from dramatiq import Broker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from pymongo import MongoClient
from qdrant_client import QdrantClient

from clickstream.actions import ActionStore
from clickstream.improvement_queue import ImprovementQueue
from clickstream.store import ClickstreamStore
from improvement.background import BuildTicker, Ticker, TowerTicker, Wake, sender
from improvement.domain import SearchDomain, load_domain
from improvement.embedded import EmbeddedMongo
from improvement.errors import WrongPlugin
from improvement.green.builds import BuildStore
from improvement.green.mirror import Mirror
from improvement.green.population_store import PopulationStore
from improvement.green.reports import ReportStore
from improvement.green.shapes import Shaper
from improvement.improver import Improver
from improvement.popularity_store import PopularityStore
from improvement.profiles.batch import ProfileBatch
from improvement.profiles.cache import MemoryCache, ProfileCache, RedisCache
from improvement.profiles.neighbours import Neighbours
from improvement.profiles.store import ProfileStore
from improvement.propensity_store import PropensityStore
from improvement.quality.alerts import AlertStore
from improvement.quality.audits import AuditStore
from improvement.quality.learning import LearningStore
from improvement.quality.samples import SampleStore
from improvement.quality.webhook import Webhook
from improvement.releases import Releases
from improvement.settings import Settings
from improvement.telemetry import Metrics
from improvement.two_tower.checkpoints import CheckpointStore
from improvement.two_tower.entries import EntryStore
from improvement.two_tower.pairs import PairStore
from improvement.two_tower.progress import TrainingStore
from improvement.two_tower.reading import CatalogueFacts
from improvement.two_tower.serving import ServingTowers
from improvement.two_tower.shapes import EveryShape
from improvement.vectors import VectorStore

#: Seconds a store may take to answer before the caller is told that it does not.
STORE_TIMEOUT = 10


@dataclass(frozen=True)
class Rooms:
    """Everything an entry point needs, connected; `close` gives it all back."""

    settings: Settings
    domains: Mapping[str, SearchDomain]
    clickstream: ClickstreamStore
    actions: ActionStore
    queue: ImprovementQueue
    vectors: VectorStore
    releases: Releases
    propensities: PropensityStore
    profiles: ProfileStore
    neighbours: Neighbours
    batch: ProfileBatch
    popularity: PopularityStore
    population: PopulationStore
    shaper: Shaper
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
    broker: Broker
    wake: Wake
    metrics: Metrics
    #: Store name -> a call that raises when the store does not answer.
    checks: Mapping[str, Callable[[], Any]]
    #: Collection -> build its index now; None where the engine does it by itself.
    optimize: Callable[[str], Any] | None
    close: Callable[[], None]

    @property
    def default_domain(self) -> SearchDomain:
        """The first configured domain, meant by requests that name none."""
        return next(iter(self.domains.values()))


def load_domains(paths: Iterable[str]) -> dict[str, SearchDomain]:
    """Load the configured plugins by name; raises WrongPlugin."""
    domains: dict[str, SearchDomain] = {}
    for path in paths:
        domain = load_domain(path)
        if domain.name in domains:
            raise WrongPlugin(path, "name", f"a name no other domain has, got {domain.name!r} again")
        domains[domain.name] = domain
    return domains


def build_broker(settings: Settings) -> Broker:
    """Make the Dramatiq broker, Redis or in-process; it connects when it is first used."""
    if settings.redis_url is None:
        return StubBroker()
    return RedisBroker(  # type: ignore[no-untyped-call]
        url=settings.redis_url.get_secret_value(),
        socket_timeout=STORE_TIMEOUT,
        socket_connect_timeout=STORE_TIMEOUT,
    )


def build(
    settings: Settings, domains: Mapping[str, SearchDomain] | None = None, broker: Broker | None = None
) -> Rooms:
    """Connect the rooms; what has no URL runs embedded in ``settings.data_dir``.

    Raises:
        WrongPlugin: a domain cannot be used.
        Unavailable: a store does not answer, or its folder belongs to another process.
    """
    domains = load_domains(settings.domains) if domains is None else domains
    broker = build_broker(settings) if broker is None else broker
    with ExitStack() as stack:
        qdrant, optimize = _qdrant(settings, stack)
        mongo_url = settings.mongo_url.get_secret_value() if settings.mongo_url else None
        if mongo_url is None:
            embedded = EmbeddedMongo(settings.data_dir / "mongo")
            stack.callback(embedded.stop)
            mongo_url = embedded.url
        mongo: MongoClient[dict[str, Any]] = MongoClient(
            mongo_url, serverSelectionTimeoutMS=STORE_TIMEOUT * 1000, appname="embedding-studio"
        )
        stack.callback(mongo.close)
        database = mongo[settings.mongo_database]
        clickstream, queue = ClickstreamStore(database), ImprovementQueue(database)
        actions = ActionStore(database)
        releases, vectors = Releases(qdrant, database), VectorStore(qdrant)
        cache: ProfileCache = MemoryCache()
        if settings.redis_url is not None:
            cache = RedisCache.at(settings.redis_url.get_secret_value(), next(iter(domains)))
            stack.callback(cache.close)
        profiles, neighbours = ProfileStore(database, cache), Neighbours(qdrant, vectors)
        population, builds, reports = PopulationStore(database), BuildStore(database), ReportStore(database)
        shaper = Shaper(population)
        audits, samples = AuditStore(database), SampleStore(database)
        entries, pairs = EntryStore(database), PairStore(database)
        checkpoints, training = CheckpointStore(database), TrainingStore(database)
        towers = ServingTowers(releases, checkpoints)
        webhook = settings.alert_webhook_url
        metrics = Metrics()
        clickstream.ensure_indexes()
        actions.ensure_indexes()
        profiles.ensure_indexes()
        queue.ensure_indexes()
        population.ensure_indexes()
        reports.ensure_indexes()
        builds.ensure_indexes()
        audits.ensure_indexes()
        samples.ensure_indexes()
        entries.ensure_indexes()
        pairs.ensure_indexes()
        checkpoints.ensure_indexes()
        for domain in domains.values():
            releases.ensure(domain)
        checks: dict[str, Callable[[], Any]] = {
            "mongo": lambda: mongo.admin.command("ping"),
            "qdrant": qdrant.get_collections,
        }
        if isinstance(broker, RedisBroker):
            checks["redis"] = broker.client.ping
        return Rooms(
            settings=settings,
            domains=domains,
            clickstream=clickstream,
            actions=actions,
            queue=queue,
            vectors=vectors,
            releases=releases,
            propensities=PropensityStore(database),
            profiles=profiles,
            neighbours=neighbours,
            batch=ProfileBatch(profiles, actions, vectors, releases, neighbours, metrics),
            popularity=PopularityStore(database),
            population=population,
            shaper=shaper,
            mirror=Mirror(vectors, EveryShape(shaper, towers)),
            builds=builds,
            reports=reports,
            learning=LearningStore(database),
            alerts=AlertStore(database, None if webhook is None else Webhook(webhook)),
            audits=audits,
            samples=samples,
            entries=entries,
            pairs=pairs,
            checkpoints=checkpoints,
            training=training,
            towers=towers,
            facts=CatalogueFacts(vectors, releases),
            broker=broker,
            wake=sender(broker),
            metrics=metrics,
            checks=checks,
            optimize=optimize,
            close=stack.pop_all().close,
        )


def tickers(settings: Settings, rooms: Callable[[], Rooms]) -> list[Ticker]:
    """Return the middlewares that wake the workers, once per interval, for builds, and for towers.

    Args:
        rooms: asked for at every tick, so that the first one may connect.
    """

    def building() -> bool:
        return bool(rooms().builds.due()) and rooms().queue.take_tick("builds", settings.build_interval)

    def training() -> bool:
        towers = any(domain.towers is not None for domain in rooms().domains.values())
        return towers and rooms().queue.take_tick("towers", settings.tower_interval)

    return [
        Ticker(lambda: rooms().queue.take_tick("improvement", settings.interval), settings.interval),
        BuildTicker(building, settings.build_interval),
        TowerTicker(training, settings.tower_interval),
    ]


def improver(rooms: Rooms) -> Improver:
    """Return what improving needs of the connected rooms."""
    return Improver(
        clickstream=rooms.clickstream,
        queue=rooms.queue,
        vectors=rooms.vectors,
        releases=rooms.releases,
        domains=rooms.domains,
        propensities=rooms.propensities,
        actions=rooms.actions,
        batch=rooms.batch,
        popularity=rooms.popularity,
        population=rooms.population,
        mirror=rooms.mirror,
        builds=rooms.builds,
        reports=rooms.reports,
        learning=rooms.learning,
        alerts=rooms.alerts,
        audits=rooms.audits,
        samples=rooms.samples,
        entries=rooms.entries,
        pairs=rooms.pairs,
        checkpoints=rooms.checkpoints,
        training=rooms.training,
        towers=rooms.towers,
        facts=rooms.facts,
        wake=rooms.wake,
        lease_seconds=rooms.settings.improvement_lease_seconds,
        tower_lease=rooms.settings.tower_lease_seconds,
        max_attempts=rooms.settings.improvement_max_attempts,
        profile_interval=rooms.settings.profile_seconds_interval,
        popularity_interval=rooms.settings.popularity_interval,
        metrics=rooms.metrics,
        optimize=rooms.optimize,
    )


def _qdrant(settings: Settings, stack: ExitStack) -> tuple[Any, Callable[[str], Any] | None]:
    if settings.qdrant_url is None:
        from improvement.edge import EdgeClient  # an optional extra: only the embedded service needs it

        edge = EdgeClient(settings.data_dir / "qdrant")
        stack.callback(edge.close)
        return edge, edge.optimize
    key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
    client = QdrantClient(url=settings.qdrant_url, api_key=key, timeout=STORE_TIMEOUT)
    stack.callback(client.close)
    return client, None

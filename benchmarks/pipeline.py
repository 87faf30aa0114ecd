"""Sessions improved per second, and how many store calls a batch of them costs.

A batch of 128 sessions must cost as many store calls as one session does, but for what is sent in chunks
(256 points a request) or read in pages. Calls are counted where they leave: Mongo's wire commands by
pymongo's monitoring, Qdrant's by a proxy around the client.

Queries are texts, embedded at once by made-up vectors: stores and adjuster are timed, no embedding model.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import structlog
import torch
import typer
from counted import Calls, CountedMongo, CountedQdrant, taken
from pymongo import MongoClient
from random_objects import RandomEncoder, random_objects
from report import Goal, JsonOut, Seed, Strict, finish, machine, progress, quantiles, table

from clickstream.actions import ActionStore
from clickstream.improvement_queue import ImprovementQueue, Owner, Request
from clickstream.records import SearchResult, Session, SessionEvent
from clickstream.store import ClickstreamStore
from improvement.domain import SearchDomain, load_domain
from improvement.edge import EdgeClient
from improvement.embedded import EmbeddedMongo
from improvement.green.builds import BuildStore
from improvement.green.mirror import Mirror
from improvement.green.population_store import PopulationStore
from improvement.green.reports import ReportStore
from improvement.green.shapes import Shaper
from improvement.improver import Improver
from improvement.jobs import improve_users
from improvement.popularity_store import PopularityStore
from improvement.profiles.batch import ProfileBatch
from improvement.profiles.cache import MemoryCache
from improvement.profiles.neighbours import Neighbours
from improvement.profiles.settings import ProfileSettings
from improvement.profiles.store import ProfileStore
from improvement.propensity_store import PropensityStore
from improvement.quality.alerts import AlertStore
from improvement.quality.audits import AuditStore
from improvement.quality.learning import LearningStore
from improvement.quality.samples import SampleStore
from improvement.releases import Releases
from improvement.two_tower.checkpoints import CheckpointStore
from improvement.two_tower.entries import EntryStore
from improvement.two_tower.pairs import PairStore
from improvement.two_tower.progress import TrainingStore
from improvement.two_tower.reading import CatalogueFacts
from improvement.two_tower.serving import ServingTowers
from improvement.vectors import CHUNK, VectorStore

#: Results one session shows, and the most of them that are clicked.
SHOWN, MOST_CLICKS = 20, 3


@dataclass(frozen=True)
class Batch:
    """What improving one batch took."""

    sessions: int
    users: int
    copies: int
    seconds: float
    calls: Calls

    @property
    def steps(self) -> int:
        """Store calls, those that go on with the one before left out."""
        return self.calls.names.total() - self.calls.further.total()


@dataclass(frozen=True)
class Bench:
    """The rooms that improve, with a counter at each store."""

    rooms: Improver
    domain: SearchDomain
    mongo: CountedMongo
    qdrant: CountedQdrant
    rng: np.random.Generator

    def queue(self, name: str, sessions: int, users: int, objects: int) -> int:
        """Register and queue sessions of users nobody has seen before; return how many users."""
        now = int(time.time())
        owners = [f"{name}-{n % users}" for n in range(sessions)]
        shown = [self.rng.choice(objects, SHOWN, replace=False) for _ in owners]
        ids = [f"{name}/{n}" for n in range(sessions)]
        self.rooms.clickstream.register_many(
            [
                (
                    Session(
                        session_id=session_id,
                        search_query=f"query of {session_id}",
                        search_results=tuple(SearchResult(object_id=f"o{o}") for o in places),
                        user_id=owner,
                        created_at=now - 60,
                        domain=self.domain.name,
                    ),
                    None,
                )
                for session_id, owner, places in zip(ids, owners, shown, strict=True)
            ]
        )
        self.rooms.clickstream.push_events(
            [
                (session_id, SessionEvent(event_id=str(n), object_id=f"o{o}", created_at=now - 30 + n))
                for session_id, places in zip(ids, shown, strict=True)
                for n, o in enumerate(
                    self.rng.choice(places, self.rng.integers(1, MOST_CLICKS + 1), replace=False)
                )
            ]
        )
        changed = time.time()
        self.rooms.queue.enqueue(
            [
                Request(session_id, Owner(self.domain.name, owner), changed)
                for session_id, owner in zip(ids, owners, strict=True)
            ]
        )
        return len(set(owners))

    def improve(self, name: str, sessions: int, users: int, objects: int) -> Batch:
        """Improve one new batch, timed and counted from claiming it to writing its outcomes."""
        users = self.queue(name, sessions, users, objects)
        taken(self.mongo, self.qdrant)
        started = time.perf_counter()
        ended = improve_users(self.rooms, sessions).ended
        seconds = time.perf_counter() - started
        calls = taken(self.mongo, self.qdrant)
        done = self.rooms.queue.counts()
        if ended != sessions or done["done"] != sum(done.values()):
            raise SystemExit(f"{ended} of {sessions} sessions ended, {done}: what was timed is not the job")
        blue = self.rooms.releases.blue(self.domain.name).collection_id
        copies = self.rooms.vectors.copies(blue, [f"{name}-{n}" for n in range(users)])
        return Batch(sessions, users, len(copies), seconds, calls)


def run(
    domain: SearchDomain, sizes: Sequence[int], rounds: int, users: int, objects: int, seed: int
) -> dict[int, list[Batch]]:
    """Improve a batch of each size in every round, the sizes taking turns; return them by size."""
    rng = np.random.default_rng(seed)
    mongo = CountedMongo()
    batches: dict[int, list[Batch]] = {size: [] for size in sizes}
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch, progress() as bars:
        server = EmbeddedMongo(Path(scratch) / "mongo")
        edge = EdgeClient(Path(scratch) / "qdrant")
        client: MongoClient[dict[str, Any]] = MongoClient(server.url, event_listeners=[mongo])
        try:
            qdrant, database = CountedQdrant(edge), client["bench"]
            clickstream, queue = ClickstreamStore(database), ImprovementQueue(database)
            releases, vectors = Releases(qdrant, database), VectorStore(qdrant)
            clickstream.ensure_indexes()
            queue.ensure_indexes()
            releases.ensure(domain)
            blue = releases.blue(domain.name).collection_id
            originals = random_objects(rng, objects, domain.search_index_info.dimensions)
            indexing = bars.add_task(f"index {objects:,} objects", total=objects)
            for start in range(0, objects, CHUNK):
                vectors.upsert(blue, originals[start : start + CHUNK])
                bars.update(indexing, completed=min(objects, start + CHUNK))
            profiles, actions = ProfileStore(database, MemoryCache()), ActionStore(database)
            profiles.ensure_indexes()
            batch = ProfileBatch(profiles, actions, vectors, releases, Neighbours(qdrant, vectors))
            population, checkpoints = PopulationStore(database), CheckpointStore(database)
            rooms = Improver(
                clickstream, queue, vectors, releases, {domain.name: domain}, PropensityStore(database),
                actions, batch, PopularityStore(database), population, Mirror(vectors, Shaper(population)),
                BuildStore(database), ReportStore(database), LearningStore(database), AlertStore(database),
                AuditStore(database), SampleStore(database), EntryStore(database), PairStore(database),
                checkpoints, TrainingStore(database), ServingTowers(releases, checkpoints),
                CatalogueFacts(vectors, releases), wake=lambda: None,
            )  # fmt: skip
            bench = Bench(rooms, domain, mongo, qdrant, rng)
            bench.improve("warm-up", 1, users, objects)  # torch loads its kernels on first use
            improving = bars.add_task("improve", total=rounds * sum(sizes))
            for number in range(rounds):
                for size in sizes:
                    batches[size].append(bench.improve(f"{number}-{size}", size, users, objects))
                    bars.advance(improving, size)
        finally:
            client.close()
            edge.close()
            server.stop()
    return batches


def main(
    sizes: Annotated[list[int] | None, typer.Argument(min=1, help="Sessions in a batch. [1 16 128]")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Batches of each size.")] = 5,
    users: Annotated[int, typer.Option(min=1, help="Users that share a batch's sessions.")] = 8,
    objects: Annotated[int, typer.Option(min=SHOWN, help="Objects in the collection.")] = 2_000,
    plugin: Annotated[
        str, typer.Option(help="Domain whose metric, adjuster and selector are used.")
    ] = "plugins.default:domain",
    seed: Seed = 7,
    json_out: JsonOut = None,
    strict: Strict = False,
) -> None:
    """Time and count improve_users on the embedded stores: sessions of 20 results, objects of 1 to 3 parts.

    Goal: the store calls of a batch do not depend on how many sessions are in it.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))  # warnings and worse
    sizes = sorted(set(sizes or (1, 16, 128)))
    facts = machine()
    loaded = load_domain(plugin)
    encoder = RandomEncoder(loaded.search_index_info.dimensions)
    # All users get a profile that is used, and so the same calls, however little they click.
    domain = replace(loaded, name="bench", encoder=encoder, profiles=ProfileSettings(min_interactions=1))
    batches = run(domain, sizes, rounds, users, objects, seed)

    def middle(values: Sequence[float]) -> float:
        return quantiles(values, 0.5)[0]

    rates = {size: quantiles([b.sessions / b.seconds for b in of], 0, 0.5, 1) for size, of in batches.items()}
    speed = table(
        f"sessions improved per second, {rounds} batches of each size",
        ["batch", "users", "copies", "min", "median", "max", "copies/s", "in Mongo", "in Qdrant"],
        [
            [
                size,
                of[0].users,
                f"{middle([b.copies for b in of]):,.0f}",
                *(f"{rate:.1f}" for rate in rates[size]),
                f"{middle([b.copies / b.seconds for b in of]):,.0f}",
                *(f"{middle([b.calls.seconds[s] / b.seconds for b in of]):.0%}" for s in ("Mongo", "Qdrant")),
            ]
            for size, of in batches.items()
        ],
    )
    names = sorted({name for of in batches.values() for batch in of for name in batch.calls.names})

    def calls(size: int, name: str) -> str:
        count = middle([b.calls.names[name] for b in batches[size]])
        further = middle([b.calls.further[name] for b in batches[size]])
        return f"{count:.0f}" + (f" ({further:.0f} further)" if further else "")

    steps = {size: sorted({batch.steps for batch in of}) for size, of in batches.items()}
    counted = table(
        f"store calls per batch (further: the step's next {CHUNK} points, or next page)",
        ["call", *(f"batch of {size}" for size in sizes)],
        [
            *([name, *(calls(size, name) for size in sizes)] for name in names),
            ["all", *(f"{middle([b.calls.names.total() for b in batches[size]]):.0f}" for size in sizes)],
            ["steps: all but further", *(" or ".join(map(str, steps[size])) for size in sizes)],
        ],
    )
    different = sorted({count for of in steps.values() for count in of})
    goal = Goal(
        "as many steps at every batch size", " or ".join(map(str, different)) + " steps", len(different) == 1
    )
    result = {
        "settings": {
            "rounds": rounds, "users": users, "objects": objects, "shown": SHOWN, "plugin": plugin,
            "dimensions": encoder.dimensions, "seed": seed, "chunk": CHUNK,
            "torch_threads": torch.get_num_threads(),
        },
        "rows": [
            {
                "sessions": size,
                "users": of[0].users,
                "copies": [b.copies for b in of],
                "seconds": [round(b.seconds, 4) for b in of],
                "sessions_per_second": dict(zip(("min", "median", "max"), rates[size], strict=True)),
                "seconds_in": {s: [round(b.calls.seconds[s], 4) for b in of] for s in ("Mongo", "Qdrant")},
                "calls": {name: [b.calls.names[name] for b in of] for name in names},
                "further": {name: [b.calls.further[name] for b in of] for name in names},
                "steps": [b.steps for b in of],
            }
            for size, of in batches.items()
        ],
    }  # fmt: skip
    finish("pipeline", facts, [speed, counted], result, [goal], json_out, strict)


if __name__ == "__main__":
    typer.run(main)

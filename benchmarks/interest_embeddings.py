"""The batch of profiles, end to end on the embedded stores: seconds, where they go, and store calls.

Every user has 50 actions outside searches, each on an object they chose (some objects are chosen far more
often than others). A batch is timed from asking who is due to the last profile written, with the vectors
fetched, the profiles aggregated, stored and cached, and the users put into the collection of similar users.

The profiles' documents are written as `POST /actions` leaves them, by the same store, a thousand users at a
time. The log of actions is only filled with --reread: a batch reads it after a model switch, not otherwise.
"""

import gc
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import structlog
import typer
from counted import Calls, CountedMongo, CountedQdrant, taken
from numpy.typing import NDArray
from pymongo import MongoClient
from random_objects import RandomEncoder, random_objects
from report import Goal, JsonOut, Seed, Strict, finish, machine, progress, quantiles, table

from clickstream.actions import ActionStore
from clickstream.improvement_queue import Owner
from clickstream.records import Action
from improvement.domain import SearchDomain, SearchIndexInfo
from improvement.edge import EdgeClient
from improvement.embedded import EmbeddedMongo
from improvement.profiles.batch import ProfileBatch
from improvement.profiles.cache import MemoryCache
from improvement.profiles.neighbours import Neighbours
from improvement.profiles.profile import Interaction
from improvement.profiles.settings import ProfileSettings
from improvement.profiles.store import PAGE, Applied, ProfileStore
from improvement.releases import Releases
from improvement.vectors import CHUNK, VectorStore

#: Seconds that a batch of `GOAL_USERS` users may take.
GOAL, GOAL_USERS = 10.0, 10_000
#: What users do, and how often they do something else than the first.
KINDS = ("view_post", "like_post", "comment_post", "bookmark_post", "share_post", "not_interested")
SHARES = (0.5, 0.2, 0.08, 0.08, 0.04, 0.1)


class NoAdjuster:
    """Makes no copies: nobody asks it to."""

    max_drift = 0.0

    def adjust(self, batch: Any) -> Any:
        """Refuse."""
        raise RuntimeError("this benchmark makes no copies")


@dataclass(frozen=True)
class Run:
    """What one batch took."""

    users: int
    seconds: float
    processor: float
    calls: Calls

    @property
    def pages(self) -> int:
        """Pages of users that were read and written."""
        return -(-self.users // PAGE)

    @property
    def steps(self) -> int:
        """Store calls, those that go on with the one before left out."""
        return self.calls.names.total() - self.calls.further.total()


@dataclass(frozen=True)
class Bench:
    """The batch, with a counter at each store."""

    batch: ProfileBatch
    domain: SearchDomain
    mongo: CountedMongo
    qdrant: CountedQdrant

    def settle(self, users: Sequence[str], done: Sequence[Sequence[Interaction]]) -> None:
        """Store what users did as a push does, without the log."""
        profiles = self.batch.profiles
        profiles.announce(Owner(self.domain.name, user) for user in users)
        held = profiles.load(self.domain.name, users)
        remember = self.domain.profiles.remember
        profiles.apply([Applied(held[u].profile, of) for u, of in zip(users, done, strict=True)], remember)

    def run(self, users: int) -> Run:
        """Make the profiles of all users who are due, timed and counted."""
        taken(self.mongo, self.qdrant)
        started, working = time.perf_counter(), time.process_time()
        report = self.batch.run(self.domain)
        seconds, processor = time.perf_counter() - started, time.process_time() - working
        calls = taken(self.mongo, self.qdrant)
        if len(report.processed) != users or len(report) != users:
            raise SystemExit(
                f"{len(report.processed)} of {users} made, {report.skipped or report.failed}: not the job"
            )
        return Run(users, seconds, processor, calls)


def chosen(rng: np.random.Generator, users: int, actions: int, objects: int) -> NDArray[np.int64]:
    """Return what each user did: (users, actions, 2), the object's number and the place of the kind."""
    often = 1 / np.arange(1, objects + 1) ** 0.7  # the tenth object a fifth as often as the first
    which = np.searchsorted(np.cumsum(often / often.sum()), rng.random((users, actions)))
    kinds = rng.choice(len(KINDS), (users, actions), p=SHARES)
    return np.stack([np.minimum(which, objects - 1), kinds], axis=-1)


def measure(
    sizes: Sequence[int], rounds: int, actions: int, objects: int, interests: int, dimensions: int,
    reread: bool, seed: int,
) -> tuple[dict[int, list[Run]], Run | None, float]:  # fmt: skip
    """Return the batches by size, the one that reads the log again, and the seconds that filling took."""
    rng = np.random.default_rng(seed)
    info = SearchIndexInfo(dimensions)
    settings = ProfileSettings(interests=interests)
    domain = SearchDomain("bench", info, NoAdjuster(), RandomEncoder(dimensions), profiles=settings)
    mongo, users = CountedMongo(), [f"user-{n}" for n in range(max(sizes))]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        bars = stack.enter_context(progress())
        server = EmbeddedMongo(folder / "mongo")
        stack.callback(server.stop)
        edge = EdgeClient(folder / "qdrant")
        stack.callback(edge.close)
        client: MongoClient[dict[str, Any]] = MongoClient(server.url, event_listeners=[mongo])
        stack.callback(client.close)
        qdrant, database = CountedQdrant(edge), client["bench"]
        profiles, log = ProfileStore(database, MemoryCache()), ActionStore(database)
        profiles.ensure_indexes()
        log.ensure_indexes()
        releases, vectors = Releases(qdrant, database), VectorStore(qdrant)
        releases.ensure(domain)
        batch = ProfileBatch(profiles, log, vectors, releases, Neighbours(qdrant, vectors))
        bench = Bench(batch, domain, mongo, qdrant)

        started = time.perf_counter()
        blue = releases.blue(domain.name).collection_id
        originals = random_objects(rng, objects, dimensions)
        bar = bars.add_task(f"index {objects:,} objects", total=objects)
        for start in range(0, objects, CHUNK):
            vectors.upsert(blue, originals[start : start + CHUNK])
            bars.update(bar, completed=min(objects, start + CHUNK))
        now, acts = time.time(), chosen(rng, len(users), actions, objects)
        bar = bars.add_task(f"store what {len(users):,} users did", total=len(users))
        for start in range(0, len(users), PAGE):
            some = slice(start, start + PAGE)
            weights = [
                [
                    Interaction(f"o{o}", domain.evidence.weight(KINDS[kind]), now - actions + n)
                    for n, (o, kind) in enumerate(of.tolist())
                ]
                for of in acts[some]
            ]
            bench.settle(users[some], weights)
            bars.advance(bar, len(users[some]))
        filled = time.perf_counter() - started

        bar = bars.add_task("make profiles", total=(1 + rounds) * sum(sizes))
        found: dict[int, list[Run]] = {size: [] for size in sizes}
        gc.freeze()  # as a worker does that has started
        bench.run(len(users))  # the collection of similar users is made, and numpy warms up
        for _ in range(rounds):
            for size in sizes:
                for start in range(0, size, PAGE):  # they did something of no weight: due, nothing else
                    acting = users[start : min(size, start + PAGE)]
                    bench.settle(acting, [()] * len(acting))
                found[size].append(bench.run(size))
                bars.advance(bar, size)
        again = None
        if reread:
            bar = bars.add_task("fill the log", total=len(users))
            for user, of in zip(users, acts, strict=True):
                log.push(
                    [
                        Action(
                            action_id=str(n),
                            user_id=user,
                            object_id=f"o{o}",
                            action_type=KINDS[kind],
                            domain="bench",
                        )
                        for n, (o, kind) in enumerate(of.tolist())
                    ]
                )
                bars.advance(bar)
            profiles.mark_all(domain.name)
            again = bench.run(len(users))
    return found, again, filled


def row(of: Sequence[Run], reread: bool) -> dict[str, Any]:
    """Return what batches of one size took."""
    names = sorted({name for one in of for name in one.calls.names})
    return {
        "users": of[0].users,
        "reread": reread,
        "seconds": [round(one.seconds, 4) for one in of],
        "processor_seconds": [round(one.processor, 4) for one in of],
        "seconds_in": {
            store: [round(one.calls.seconds[store], 4) for one in of] for store in ("Mongo", "Qdrant")
        },
        "calls": {name: [one.calls.names[name] for one in of] for name in names},
        "further": {name: [one.calls.further[name] for one in of] for name in names},
        "steps_per_page": [round(one.steps / one.pages, 2) for one in of],
    }


def main(
    sizes: Annotated[
        list[int] | None, typer.Argument(min=1, help="Users in a batch. [1000 2000 10000]")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Batches of each size.")] = 3,
    actions: Annotated[int, typer.Option(min=20, max=200, help="Actions of each user.")] = 50,
    objects: Annotated[int, typer.Option(min=100, help="Objects in the collection.")] = 5_000,
    interests: Annotated[int, typer.Option(min=1, max=16, help="Interests of a user at most.")] = 1,
    dimensions: Annotated[int, typer.Option(min=2, help="Dimensions of the embedding space.")] = 384,
    reread: Annotated[
        bool, typer.Option(help="Fill the log, too, and time a batch after a model switch.")
    ] = False,
    seed: Seed = 7,
    json_out: JsonOut = None,
    strict: Strict = False,
) -> None:
    """Time and count the batch of profiles on the embedded stores.

    Goals: 10,000 users of 50 actions, 384 dimensions, in at most 10 s; and for each 1,000 users no more store
    calls than for the first, however many users there are.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))  # warnings and worse
    sizes = sorted(set(sizes or (1_000, 2_000, 10_000)))
    facts = machine()
    found, again, filled = measure(sizes, rounds, actions, objects, interests, dimensions, reread, seed)
    rows = [row(of, False) for of in found.values()] + ([row([again], True)] if again else [])

    def middle(values: Sequence[float]) -> float:
        return quantiles(values, 0.5)[0]

    def label(one: dict[str, Any]) -> str:
        return f"{one['users']:,}" + (", log read again" if one["reread"] else "")

    speed = table(
        f"seconds a batch, median (least to most) of {rounds}; some are stored while the next are made",
        ["users", "seconds", "for each 1,000", "own processor", "in Mongo", "in Qdrant"],
        [
            [
                label(one),
                "{:.2f} ({:.2f} to {:.2f})".format(*quantiles(one["seconds"], 0.5, 0, 1)),
                f"{1_000 * middle(one['seconds']) / one['users']:.2f}",
                f"{middle(one['processor_seconds']):.2f}",
                *(f"{middle(one['seconds_in'][store]):.2f}" for store in ("Mongo", "Qdrant")),
            ]
            for one in rows
        ],
    )
    names = sorted({name for one in rows for name in one["calls"]})

    def calls(one: dict[str, Any], name: str) -> str:
        count, further = (middle(one[kind].get(name, [0])) for kind in ("calls", "further"))
        return f"{count:.0f}" + (f" ({further:.0f} further)" if further else "")

    counted = table(
        f"store calls a batch (further: the step's next {CHUNK} points, or next page of a query)",
        ["call", *map(label, rows)],
        [
            *([name, *(calls(one, name) for one in rows)] for name in names),
            [f"steps for each {PAGE:,} users", *(f"{middle(one['steps_per_page']):g}" for one in rows)],
        ],
    )
    largest, pages = rows[len(sizes) - 1], [max(one["steps_per_page"]) for one in rows[: len(sizes)]]
    each = 1_000 * middle(largest["seconds"]) / largest["users"]
    goals = [
        Goal(
            f"{GOAL_USERS:,} users of {actions} actions, {dimensions} d, in <= {GOAL:g} s "
            f"(from a batch of {largest['users']:,})",
            f"{each * GOAL_USERS / 1_000:.1f} s",
            each * GOAL_USERS / 1_000 <= GOAL,
        ),
        Goal(
            f"no more store calls for each {PAGE:,} users than for the first",
            ", ".join(f"{count:g}" for count in pages),
            max(pages) == pages[0],
        ),
    ]
    result = {
        "settings": {
            "rounds": rounds, "actions": actions, "objects": objects, "interests": interests,
            "dimensions": dimensions, "page": PAGE, "chunk": CHUNK, "seed": seed,
            "filled": "profiles through their store, without HTTP; the log only with --reread",
            "fill_seconds": round(filled, 1),
        },
        "rows": rows,
    }  # fmt: skip
    finish("interest_embeddings", facts, [speed, counted], result, goals, json_out, strict)


if __name__ == "__main__":
    typer.run(main)

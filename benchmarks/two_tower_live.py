"""Two towers at once: one engagement's way into both vectors and the training pairs, beside bare calls.

First `LiveTowers.learn_actions` in this process, one logged action a call, on embedded stores: the towers
are begun as a worker begins them, and every user has a history. Then an action's whole way over HTTP, to a
service in a process of its own with its worker, over one kept-open connection: announced, logged, applied to
the profile, learned by the towers, answered. (What the worker does for the towers is left out: embedded, it
trains in the same process, while requests wait.)

The bare calls are those that learning takes, as many and of the same kinds, one after the other, with nothing
around them: six reads and three writes, on collections with the same indexes and documents as large, in the
same stores. The two take turns, so that other work on the machine slows both alike.
"""

import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from profiles import connected
from pymongo import MongoClient, UpdateOne
from qdrant_client import models
from random_objects import RandomEncoder, random_objects, unit_rows
from report import Goal, JsonOut, Seed, Strict, finish, machine, progress, quantiles, table

from clickstream.records import Action, ReceivedAction
from improvement.adjusters.geodesic import GeodesicAdjuster
from improvement.domain import MetricAggregationType, SearchDomain, SearchIndexInfo
from improvement.embedded import EmbeddedMongo, running_service
from improvement.objects import Object
from improvement.releases import create_collection
from improvement.settings import Settings
from improvement.two_tower import documents
from improvement.two_tower.beginning import begin_towers
from improvement.two_tower.entries import EntryStore
from improvement.two_tower.facts import Past
from improvement.two_tower.live import LiveTowers
from improvement.two_tower.pairs import PairStore
from improvement.two_tower.settings import TowerSettings
from improvement.vectors import AVERAGE, PARTS, VectorStore, point_id
from improvement.wiring import Rooms, build, improver

#: Numbers of one text's vector.
DIMENSIONS = 384
#: Milliseconds of one engagement's way into both vectors (p99), that we promise.
LEARNED = 10
#: What users do, most of it good.
KINDS = ("like_post", "share_post", "click", "hide", "not_interested")
#: Engagements of every user before the clock starts.
HISTORY = 20
#: A week: for as long the worker leaves the towers alone.
LATER = "604800"

info = SearchIndexInfo(dimensions=DIMENSIONS)
#: What the service serves: it imports this file by its name.
domain = SearchDomain(
    name="bench-towers",
    search_index_info=info,
    adjuster=GeodesicAdjuster(info),
    encoder=RandomEncoder(DIMENSIONS),
    towers=TowerSettings(),
)


def said(rng: np.random.Generator, count: int, users: int, objects: int) -> list[Action]:
    """Return actions of random users on random objects."""
    return [
        Action(
            action_id=uuid.uuid4().hex, user_id=f"user {rng.integers(users)}",
            object_id=f"o{rng.integers(objects)}",
            action_type=KINDS[rng.integers(len(KINDS))], domain=domain.name,
        )
        for _ in range(count)
    ]  # fmt: skip


def live_towers(rooms: Rooms) -> LiveTowers:
    """Return what the service makes of its rooms."""
    return LiveTowers(
        rooms.domains, rooms.entries, rooms.pairs, rooms.vectors, rooms.towers, rooms.clickstream,
        rooms.actions, rooms.learning,
    )  # fmt: skip


@contextmanager
def towers_of(
    mongo_url: str, folder: Path, objects: int, users: int, rng: np.random.Generator
) -> Iterator[Rooms]:
    """Connect rooms whose towers serve these many objects, to users who all have a history."""
    settings = Settings(_env_file=None, mongo_url=mongo_url, mongo_database="served", data_dir=folder)
    rooms = build(settings, {domain.name: domain})
    try:
        blue = rooms.releases.blue(domain.name).collection_id
        rooms.vectors.upsert(blue, random_objects(rng, objects, DIMENSIONS))
        begin_towers(improver(rooms), domain)
        live = live_towers(rooms)
        with progress() as bars:
            for _ in bars.track(range(HISTORY), description="histories of all users"):
                one_each = [
                    one.model_copy(update={"user_id": f"user {number}"})
                    for number, one in enumerate(said(rng, users, users, objects))
                ]
                live.learn_actions(domain, rooms.actions.push(one_each), fresh=True)
        yield rooms
    finally:
        rooms.close()


class Bare:
    """The calls that learning from one engagement takes, and nothing else."""

    def __init__(self, rooms: Rooms, mongo: MongoClient[Any], objects: int, users: int, seed: int) -> None:
        rng, database = np.random.default_rng(seed), mongo["bare"]
        EntryStore(database).ensure_indexes()
        PairStore(database).ensure_indexes()
        self._entries, self._pairs = database["tower_entries"], database["training_pairs"]
        self._actions, self._learning = mongo["served"]["actions"], database["learning"]
        self._qdrant: Any = rooms.vectors._client
        self._collection = "bare"
        assert domain.towers is not None
        space = SearchIndexInfo(domain.towers.size, metric_aggregation_type=MetricAggregationType.AVG)
        create_collection(self._qdrant, self._collection, space)
        self._rows = unit_rows(rng, objects, domain.towers.size)
        its = [Object(f"o{n}", self._rows[n : n + 1], ("p",), revision="1") for n in range(objects)]
        VectorStore(self._qdrant).upsert(self._collection, its)
        pasts = [Past(f"a:{uuid.uuid4().hex}", f"o{n}", None, "like", 0.9, 1.8e9) for n in range(HISTORY)]
        self._history, self._vector = documents.packed(pasts), documents.binary(self._rows[0])
        for kind, count in (("user", users), ("item", objects)):
            self._entries.insert_many(
                [
                    {"_id": f"{kind} {n}", "version": 1, "domain": "d", "kind": kind} | self._fields(kind)
                    for n in range(count)
                ]
            )

    def _fields(self, kind: str) -> dict[str, Any]:
        both = {"vector": self._vector, "space": "s", "count": 9, "write": uuid.uuid4().hex}
        if kind == "item":
            return both | {"base": self._vector, "heard": [uuid.uuid4().hex[:16] for _ in range(9)]}
        before = [{"id": "a", "user": self._vector, "item": self._vector}]
        return both | {"pasts": self._history, "before": before, "due": True}

    def call(self, one: ReceivedAction) -> tuple[float, float]:
        """Return the milliseconds of all calls, and of the writes among them."""
        keys = f"user {one.user_id.split()[1]}", f"item {one.object_id[1:]}"
        same = {"version": {"$eq": 1, "$exists": True}}
        writes = [UpdateOne({"_id": key} | same, {"$set": self._fields(key.split()[0])}) for key in keys]
        row, identity = self._rows[0].tolist(), point_id(one.object_id)
        moved = models.PointVectors.model_construct(id=identity, vector={PARTS: [row], AVERAGE: row})
        pair = {
            "_id": one.place, "pair_id": one.place, "domain": one.domain, "user_id": one.user_id,
            "object_id": one.object_id, "author": None, "action": one.action_type, "signal": 0.9, "label": 1,
            "reason": "engaged", "user_vector": self._vector, "item_vector": self._vector, "space": "s",
            "at": one.received_at, "received_at": one.received_at, "seconds": 0.005, "batch": None,
            "engaged": True, "open": True,
        }  # fmt: skip
        started = time.perf_counter()
        list(self._learning.find({"_id": {"$in": ["domain", "towers"]}}))
        list(self._entries.find({"_id": {"$in": keys}}))
        self._qdrant.get_aliases()
        self._qdrant.retrieve(self._collection, [identity], with_payload=True, with_vectors=[AVERAGE])
        writing = time.perf_counter()
        self._entries.bulk_write(writes, ordered=False)
        self._qdrant.update_vectors(self._collection, [moved])
        written = time.perf_counter() - writing
        list(self._entries.find({"_id": {"$in": [keys[1]]}}, {"version": 1}))
        writing = time.perf_counter()
        self._pairs.insert_many([pair], ordered=False)
        written += time.perf_counter() - writing
        list(self._actions.find({"_id": {"$in": [one.place]}}, {"_id": 1}))
        return (time.perf_counter() - started) * 1e3, written * 1e3


def run(count: int, users: int, objects: int, seed: int) -> dict[str, list[float]]:
    """Return the milliseconds of every engagement: learned, bare, and over HTTP."""
    rng = np.random.default_rng(seed)
    times: dict[str, list[float]] = {"learn": [], "bare": [], "writes": [], "HTTP": []}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        server = EmbeddedMongo(folder / "mongo")
        stack.callback(server.stop)
        mongo: MongoClient[Any] = stack.enter_context(MongoClient(server.url))
        with towers_of(server.url, folder, objects, users, rng) as rooms, progress() as bars:
            bare, live = Bare(rooms, mongo, objects, users, seed), live_towers(rooms)
            for one in bars.track(said(rng, count, users, objects), description="one engagement a call"):
                received = rooms.actions.push([one])
                started = time.perf_counter()
                if live.learn_actions(domain, received, fresh=True) != 1:
                    raise SystemExit(f"not learned: {one}")
                times["learn"].append((time.perf_counter() - started) * 1e3)
                every, writes = bare.call(received[0])
                times["bare"].append(every)
                times["writes"].append(writes)
            for job in (
                "towers",
                "improvement",
            ):  # the service's worker leaves them alone until the run is over
                rooms.queue.take_tick(job, float(LATER))
        found = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        settings = {
            "MONGO_URL": server.url, "MONGO_DATABASE": "served", "TOWER_SECONDS_INTERVAL": LATER,
            "PROFILE_SECONDS_INTERVAL": LATER, "POPULARITY_SECONDS_INTERVAL": LATER,
            "PYTHONPATH": os.pathsep.join(found),
        }  # fmt: skip
        before = mongo["served"]["training_pairs"].count_documents({})
        service = running_service(folder, [f"{Path(__file__).stem}:domain"], environment=settings)
        send = stack.enter_context(connected(stack.enter_context(service)))
        bars = stack.enter_context(progress())
        for one in bars.track(said(rng, count, users, objects), description="one action a request"):
            action = one.model_dump(exclude_none=True)
            started = time.perf_counter()
            answer = send("POST", "/api/v1/actions", {"actions": [action]})
            times["HTTP"].append((time.perf_counter() - started) * 1e3)
            if answer != {"accepted": 1, "repeated": 0, "rejected": []}:
                raise SystemExit(f"not accepted: {answer}")
        learned = mongo["served"]["training_pairs"].count_documents({}) - before
        if learned != count:
            raise SystemExit(f"learned {learned} of {count} actions")
    return times


def main(
    engagements: Annotated[int, typer.Argument(min=50, help="Engagements, one a call; and actions.")] = 2_000,
    users: Annotated[int, typer.Option(min=1, help="Users who act, in turn at random.")] = 500,
    objects: Annotated[int, typer.Option(min=2, help="Objects of 1 to 3 parts.")] = 2_000,
    seed: Seed = 7,
    json_out: JsonOut = None,
    strict: Strict = False,
) -> None:
    """Time one engagement's way into the vectors of its user and item, and an action's over HTTP.

    Goal: 99 of 100 engagements are in both vectors, searchable, and a training pair, within 10 ms.
    """
    facts = machine()
    times = run(engagements, users, objects, seed)
    names = {
        "learn": "learned: both vectors moved, searchable, a pair",
        "bare": "bare: the same calls of the stores, alone",
        "writes": "bare: the three writes among them",
        "HTTP": "over HTTP: logged, profile, towers, answered",
    }
    rows = {
        way: dict(zip(("p50", "p95", "p99", "max"), quantiles(spent, 0.5, 0.95, 0.99, 1), strict=True))
        for way, spent in times.items()
    }
    tables = [
        table(
            f"milliseconds an engagement, {engagements:,} of {users:,} users with {objects:,} objects",
            ["", "p50", "p95", "p99", "max"],
            [[names[way], *(f"{spent:.2f}" for spent in row.values())] for way, row in rows.items()],
        )
    ]
    p99 = rows["learn"]["p99"]
    measured = f"{p99:.2f} (bare {rows['bare']['p99']:.2f})"
    goals = [Goal(f"an engagement's p99 < {LEARNED} ms", measured, p99 < LEARNED)]
    result = {
        "settings": {"engagements": engagements, "users": users, "objects": objects, "seed": seed},
        "milliseconds": rows,
    }
    finish("two_tower_live", facts, tables, result, goals, json_out, strict)


if __name__ == "__main__":
    typer.run(main)

"""User profiles at once: one update's arithmetic, and an action's whole way over HTTP beside bare writes.

The service runs in a process of its own, with its worker, as users run it; profiles are made anew and popular
objects counted at the intervals of production. (Embedded, both are due twice a minute, and SecantusDB writes
one profile after the other while everybody else waits: ``--batch-seconds 30`` shows it.) Each request has one
action, over one kept-open connection, JSON made and parsed. Its way: announced, logged, the object's
vector fetched, the profile turned, stored and cached, answered.

The bare writes are the three that this takes at least, one after the other, on the same MongoDB server but
without the service: an announcement's upsert, the action's insert, and an update of a document as large as a
profile. The two take turns action by action, so that other work on the machine slows both alike.
"""

import http.client
import json
import os
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import numpy as np
import typer
from pymongo import MongoClient
from pymongo.database import Database
from random_objects import RandomEncoder, random_objects, unit_rows
from report import Goal, JsonOut, Seed, Strict, finish, machine, progress, quantiles, table

from clickstream.actions import ActionStore
from clickstream.improvement_queue import Owner
from clickstream.records import Action
from improvement.adjusters.geodesic import GeodesicAdjuster
from improvement.domain import SearchDomain, SearchIndexInfo
from improvement.embedded import EmbeddedMongo, running_service
from improvement.objects import Object
from improvement.profiles import documents
from improvement.profiles.cache import MemoryCache
from improvement.profiles.online import update_user_embedding, update_user_embeddings
from improvement.profiles.profile import Profile
from improvement.profiles.store import ProfileStore

#: Numbers of one profile.
DIMENSIONS = 768
#: Microseconds of one update's arithmetic, and milliseconds of an action's way (p99), that we promise.
COMPUTE, END_TO_END = 50, 10
#: Profiles updated at once.
AT_ONCE = 1_000
#: Objects put with one request.
OBJECTS_AT_ONCE = 100
#: What users do, most of it good.
KINDS = ("view_post", "like_post", "like_post", "share_post", "not_interested", "hide")

info = SearchIndexInfo(dimensions=DIMENSIONS)
#: What the service serves: it imports this file by its name.
domain = SearchDomain(
    name="bench-profiles",
    search_index_info=info,
    adjuster=GeodesicAdjuster(info),
    encoder=RandomEncoder(DIMENSIONS),
)


def compute(rng: np.random.Generator, rounds: int) -> dict[str, float]:
    """Return the median microseconds of one update of one profile."""
    user, item, liked = unit_rows(rng, 3, DIMENSIONS)
    user, near = (user + item) / np.linalg.norm(user + item), (user + liked) / np.linalg.norm(user + liked)
    users, items = unit_rows(rng, AT_ONCE, DIMENSIONS), unit_rows(rng, AT_ONCE, DIMENSIONS)
    ratings = rng.uniform(-1, 1, AT_ONCE)

    def median(call: Callable[[], object], times: int) -> float:
        spent = []
        for _ in range(times):
            started = time.perf_counter()
            call()
            spent.append(time.perf_counter() - started)
        return quantiles(spent, 0.5)[0] * 1e6

    def one(rating: float) -> Callable[[], object]:
        return lambda: update_user_embedding(user, item, rating, 0.05, 30, liked=near)

    at_once = median(
        lambda: update_user_embeddings(users, items, ratings, 0.05, 30, liked=users), rounds // 20
    )
    return {
        "like": median(one(0.9), rounds),
        "dislike": median(one(-0.9), rounds),
        f"one of {AT_ONCE:,} at once": at_once / AT_ONCE,
    }


@contextmanager
def connected(address: str) -> Iterator[Callable[[str, str, Any], Any]]:
    """Keep one connection open; yields a call that sends JSON and returns the answer's."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)

    def send(method: str, path: str, body: Any) -> Any:
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise SystemExit(f"{method} {path}: {response.status} {answer[:500]!r}")
        return json.loads(answer)

    try:
        yield send
    finally:
        connection.close()


def bodies(objects: Sequence[Object]) -> Iterator[dict[str, Any]]:
    """Yield objects as requests."""
    for start in range(0, len(objects), OBJECTS_AT_ONCE):
        yield {
            "objects": [
                {"object_id": one.object_id, "parts": [{"vector": part} for part in one.parts.tolist()]}
                for one in objects[start : start + OBJECTS_AT_ONCE]
            ]
        }


def made_up(rng: np.random.Generator, count: int, users: int, objects: int) -> list[dict[str, Any]]:
    """Return actions of random users on random objects."""
    return [
        {
            "action_id": f"a{number}",
            "user_id": f"user {user}",
            "object_id": f"o{what}",
            "action_type": KINDS[kind],
        }
        for number, (user, what, kind) in enumerate(
            zip(
                rng.integers(0, users, count),
                rng.integers(0, objects, count),
                rng.integers(0, len(KINDS), count),
                strict=True,
            )
        )
    ]


class Bare:
    """The three writes that an action takes at least, and nothing else."""

    def __init__(self, database: Database[dict[str, Any]], rng: np.random.Generator) -> None:
        ActionStore(database).ensure_indexes()
        ProfileStore(database, MemoryCache()).ensure_indexes()
        self._actions, self._profiles = database["actions"], database["user_embeddings"]
        self._vectors = unit_rows(rng, 2, DIMENSIONS)

    def write(self, action: dict[str, Any]) -> float:
        """Return the milliseconds that the writes of this action took."""
        now = time.time()
        sent = Action(**action, domain=domain.name, created_at=int(now))
        document = sent.model_dump() | {"_id": uuid.uuid4().hex, "received_at": now}
        key = {"_id": Owner(domain.name, sent.user_id).key}
        announcement = {
            "$inc": {"announced": 1},
            "$set": {"pending": True, "announced_at": now, "due_at": now},
        }
        new = {"user_id": sent.user_id, "domain": domain.name, "version": 0}
        embedding, liked = self._vectors
        profile = Profile(sent.user_id, domain.name, "random", embedding, liked)
        stored = {
            "$set": documents.fields(profile),
            "$inc": {"version": 1, "applied": 1},
            "$push": {"recent": {"$each": [[sent.object_id, 5.0, now]], "$slice": -200}},
        }
        started = time.perf_counter()
        self._profiles.update_one(key, announcement | {"$setOnInsert": new}, upsert=True)
        self._actions.insert_one(document)
        self._profiles.update_one(key, stored)
        return (time.perf_counter() - started) * 1e3


def run(actions: int, users: int, objects: int, batch_seconds: float, seed: int) -> dict[str, list[float]]:
    """Return the milliseconds of every action, over HTTP and bare."""
    rng = np.random.default_rng(seed)
    given = made_up(rng, actions, users, objects)
    times: dict[str, list[float]] = {"HTTP": [], "bare": []}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        server = EmbeddedMongo(folder / "mongo")
        stack.callback(server.stop)
        client: MongoClient[dict[str, Any]] = stack.enter_context(MongoClient(server.url))
        bare = Bare(client["bare"], rng)
        found = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        settings = {
            "MONGO_URL": server.url,
            "MONGO_DATABASE": "served",
            "PROFILE_SECONDS_INTERVAL": str(batch_seconds),
            "POPULARITY_SECONDS_INTERVAL": str(batch_seconds),
            "PYTHONPATH": os.pathsep.join(found),
        }
        service = running_service(folder, [f"{Path(__file__).stem}:domain"], environment=settings)
        send = stack.enter_context(connected(stack.enter_context(service)))
        for body in bodies(random_objects(rng, objects, DIMENSIONS)):
            send("PUT", "/api/v1/objects", body)
        bars = stack.enter_context(progress())
        for action in bars.track(given, description="one action a request"):
            started = time.perf_counter()
            answer = send("POST", "/api/v1/actions", {"actions": [action]})
            times["HTTP"].append((time.perf_counter() - started) * 1e3)
            if answer != {"accepted": 1, "repeated": 0, "rejected": []}:
                raise SystemExit(f"not accepted: {answer}")
            times["bare"].append(bare.write(action))
        check(client["served"], given)
    return times


def check(database: Database[dict[str, Any]], actions: Sequence[dict[str, Any]]) -> None:
    """Stop unless every action is in its user's profile, once."""
    sent = Counter(action["user_id"] for action in actions)
    for held in database["user_embeddings"].find():
        count = sent.pop(held["user_id"], 0)
        remembered = min(count, domain.profiles.remember)
        if not held["announced"] == held["applied"] == count or len(held["recent"]) != remembered:
            raise SystemExit(f"not every action of {held['user_id']} is in the profile, once")
    if sent:
        raise SystemExit(f"no profile: {list(sent)}")


def main(
    actions: Annotated[int, typer.Argument(min=100, help="Actions, one a request.")] = 5_000,
    users: Annotated[int, typer.Option(min=1, help="Users who act, in turn at random.")] = 500,
    objects: Annotated[int, typer.Option(min=1, help="Objects of 1 to 3 parts.")] = 1_000,
    batch_seconds: Annotated[
        float, typer.Option(min=1, help="Seconds between batches while actions come.")
    ] = 7_200,
    seed: Seed = 7,
    json_out: JsonOut = None,
    strict: Strict = False,
) -> None:
    """Time a profile's update: its arithmetic, and an action's whole way, over HTTP.

    Goals: at most 50 us of arithmetic; 99 of 100 actions logged, applied and answered within 10 ms.
    """
    facts = machine()
    microseconds = compute(np.random.default_rng(seed), rounds=2_000)
    times = run(actions, users, objects, batch_seconds, seed)

    rows = {}
    for way, spent in times.items():
        rows[way] = dict(zip(("p50", "p95", "p99", "max"), quantiles(spent, 0.5, 0.95, 0.99, 1), strict=True))
    names = {"HTTP": "over HTTP: logged, applied, answered", "bare": "bare: the three writes alone"}
    tables = [
        table(
            f"microseconds to update a profile of {DIMENSIONS} numbers, median",
            ["", "us"],
            [[name, f"{spent:.1f}"] for name, spent in microseconds.items()],
        ),
        table(
            f"milliseconds an action, {actions:,} actions of {users:,} users on {objects:,} objects",
            ["", "p50", "p95", "p99", "max"],
            [[names[way], *(f"{spent:.2f}" for spent in row.values())] for way, row in rows.items()],
        ),
    ]
    slower = max(microseconds["like"], microseconds["dislike"])
    p99 = rows["HTTP"]["p99"]
    goals = [
        Goal(f"one update <= {COMPUTE} us", f"{slower:.1f}", slower <= COMPUTE),
        Goal(
            f"an action's p99 < {END_TO_END} ms",
            f"{p99:.2f} (bare {rows['bare']['p99']:.2f})",
            p99 < END_TO_END,
        ),
    ]
    result = {
        "settings": {
            "actions": actions, "users": users, "objects": objects, "batch_seconds": batch_seconds,
            "dimensions": DIMENSIONS, "seed": seed,
        },
        "microseconds": microseconds,
        "milliseconds": rows,
    }  # fmt: skip
    finish("profiles", facts, tables, result, goals, json_out, strict)


if __name__ == "__main__":
    typer.run(main)

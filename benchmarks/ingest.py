"""Events per second over HTTP against raw pymongo insert_many of the same documents on the same server.

Three ways to store a batch of one session's events, each into a database of its own with the same indexes.
raw: one unordered insert_many, nothing checked. store: ClickstreamStore.push_events in this process, which
also notes that the session is active. http: POST /api/v1/clickstream/session/events to the service, which
runs in a process of its own with an idle worker, over one kept-open connection, JSON made and parsed.

The three take turns batch by batch, so that other work on the machine slows all of them alike.
"""

import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from pymongo import MongoClient
from report import Goal, JsonOut, Seed, Strict, finish, machine, progress, quantiles, table

from clickstream.records import SearchResult, Session, SessionEvent
from clickstream.store import ClickstreamStore
from improvement.embedded import EmbeddedMongo, running_service

#: HTTP events/s over raw events/s that we promise.
GOAL = 0.5
#: Results each session shows.
SHOWN = 20
#: The three ways, in the order of the table.
WAYS = ("raw", "store", "http")

#: Seconds of each round, by way.
Times = dict[str, list[float]]


def service(mongo_url: str, database: str, folder: Path, max_events: int) -> AbstractContextManager[str]:
    """Run the service as users do, in another process; yields its address."""
    settings = {
        "MONGO_URL": mongo_url,
        "MONGO_DATABASE": database,
        "MAX_EVENTS_PER_REQUEST": str(max_events),
        # Nothing becomes due while we measure.
        "SESSION_IDLE_SECONDS": "86400",
        "IMPROVEMENT_SECONDS_INTERVAL": "86400",
    }
    return running_service(folder, ["plugins.default:domain"], environment=settings)


def posts(size: int, events: int) -> int:
    """Return how many batches make about so many events."""
    return max(1, round(events / size))


def made_up(rng: np.random.Generator, session_id: str, events: int) -> tuple[Session, list[SessionEvent]]:
    """Return a session and events on what it showed."""
    now = int(time.time())
    shown = tuple(SearchResult(object_id=f"object {o}") for o in rng.choice(10_000, SHOWN, replace=False))
    session = Session(
        session_id=session_id, search_query="red shoes", search_results=shown, user_id="ann", created_at=now
    )
    kinds = rng.choice(["click", "like", "view"], events)
    return session, [
        SessionEvent(
            event_id=f"{session_id}/{n}",
            object_id=shown[n % SHOWN].object_id,
            event_type=str(kind),
            created_at=now,
        )
        for n, kind in enumerate(kinds)
    ]


def measure(
    ways: Mapping[str, Callable[[str, list[SessionEvent]], Callable[[], object]]],
    sessions: Sequence[tuple[Session, list[SessionEvent]]],
) -> dict[str, float]:
    """Store each session's events all ways, taking turns; return the seconds spent by way.

    A way gets its input ready, untimed, and returns the call that is timed.
    """
    seconds = dict.fromkeys(ways, 0.0)
    for number, (session, events) in enumerate(sessions):
        for place in range(len(WAYS)):  # whoever is first this time is second the next time
            way = WAYS[(number + place) % len(WAYS)]
            write = ways[way](session.session_id, events)
            started = time.perf_counter()
            write()
            seconds[way] += time.perf_counter() - started
    return seconds


def run(
    sizes: Sequence[int], rounds: int, events: int, seed: int, mongo_url: str | None = None
) -> dict[int, Times]:
    """Return the seconds that each round of about ``events`` events took, by batch size and way.

    Args:
        mongo_url: a server, on which new databases are made and dropped; None starts an embedded one.
    """
    rng = np.random.default_rng(seed)
    times: dict[int, Times] = {size: {way: [] for way in WAYS} for size in sizes}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        if mongo_url is None:
            server = EmbeddedMongo(folder / "mongo")
            stack.callback(server.stop)
            mongo_url = server.url
        client: MongoClient[dict[str, Any]] = stack.enter_context(MongoClient(mongo_url))
        databases = {way: client[f"bench_{uuid.uuid4().hex[:8]}_{way}"] for way in WAYS}
        for database in databases.values():
            stack.callback(client.drop_database, database.name)
        stores = {way: ClickstreamStore(database) for way, database in databases.items()}
        for store in stores.values():
            store.ensure_indexes()
        address = stack.enter_context(service(mongo_url, databases["http"].name, folder, max(sizes)))
        http = stack.enter_context(httpx.Client(base_url=address, timeout=60))
        raw = databases["raw"]["session_events"]

        def insert_many(session_id: str, of: list[SessionEvent]) -> Callable[[], object]:
            stored = {"session_id": session_id, "received_at": time.time()}
            documents = [event.model_dump() | stored for event in of]
            return lambda: raw.insert_many(documents, ordered=False)

        def push_events(session_id: str, of: list[SessionEvent]) -> Callable[[], object]:
            pairs = [(session_id, event) for event in of]
            return lambda: stores["store"].push_events(pairs)

        def post(session_id: str, of: list[SessionEvent]) -> Callable[[], object]:
            body = {"session_id": session_id, "events": [event.model_dump() for event in of]}
            return lambda: http.post("/api/v1/clickstream/session/events", json=body).raise_for_status()

        ways = dict(zip(WAYS, (insert_many, push_events, post), strict=True))
        bars = stack.enter_context(progress())
        bar = bars.add_task("store events three ways", total=(1 + rounds) * len(sizes))
        for number in range(-1, rounds):  # the first one warms everything up and is not counted
            for size in sizes:
                names = [f"session {number}/{size}/{post}" for post in range(posts(size, events))]
                sessions = [made_up(rng, name, size) for name in names]
                for store in stores.values():
                    store.register_many([(session, None) for session, _ in sessions])
                for way, seconds in measure(ways, sessions).items():
                    if number >= 0:
                        times[size][way].append(seconds)
                bars.advance(bar)
        stored = {way: of["session_events"].count_documents({}) for way, of in databases.items()}
        if len(set(stored.values())) > 1:
            raise SystemExit(f"events stored: {stored}; what was timed is not the same job")
    return times


def row(size: int, way: str, events: int, times: Times) -> dict[str, Any]:
    """Return one way's events per second, and its share of raw in each round."""
    number = size * posts(size, events)
    rates = quantiles([number / seconds for seconds in times[way]], 0, 0.5, 1)
    return {
        "batch": size,
        "way": way,
        "events": number,
        "seconds": [round(seconds, 4) for seconds in times[way]],
        "events_per_second": dict(zip(("min", "median", "max"), rates, strict=True)),
        "over_raw": [raw / own for raw, own in zip(times["raw"], times[way], strict=True)],
    }


def main(
    sizes: Annotated[list[int] | None, typer.Argument(min=1, help="Events in a batch. [100 1000]")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the ratio is the median of theirs.")] = 5,
    events: Annotated[int, typer.Option(min=1, help="Events of each round, size and way.")] = 5_000,
    mongo_url: Annotated[
        str | None,
        typer.Option(help="Use this server; databases of ours are made and dropped. [an embedded one]"),
    ] = None,
    seed: Seed = 7,
    json_out: JsonOut = None,
    strict: Strict = False,
) -> None:
    """Time the clickstream's way in: sessions' events over HTTP, against raw insert_many.

    Goal: at least half as many events a second over HTTP as raw.
    """
    sizes = sorted(set(sizes or (100, 1_000)))
    facts = machine()
    times = run(sizes, rounds, events, seed, mongo_url)

    rows = [row(size, way, events, times[size]) for size in sizes for way in WAYS]
    found = table(
        f"events/s, {rounds} rounds of {events:,}; over raw: median (least to most)",
        ["batch", "way", "min", "median", "max", "over raw"],
        [
            [
                one["batch"] if one["way"] == WAYS[0] else "",
                one["way"],
                *(f"{rate:,.0f}" for rate in one["events_per_second"].values()),
                "{:.2f} ({:.2f} to {:.2f})".format(*quantiles(one["over_raw"], 0.5, 0, 1)),
            ]
            for one in rows
        ],
    )
    goals = []
    for one in rows:
        if one["way"] == "http":
            ratio = quantiles(one["over_raw"], 0.5)[0]
            goals.append(
                Goal(
                    f"HTTP events/s over raw >= {GOAL} (batches of {one['batch']})",
                    f"{ratio:.2f}",
                    ratio >= GOAL,
                )
            )
    result = {
        "settings": {"rounds": rounds, "events": events, "seed": seed, "embedded": mongo_url is None},
        "rows": rows,
    }
    finish("ingest", facts, [found], result, goals, json_out, strict)


if __name__ == "__main__":
    typer.run(main)

"""Collections built, promoted and rolled back while objects are written and searched: is anything lost?

The service runs in a process of its own with its worker, on the embedded stores, as users run it. Writers put
and delete objects at a given rate, each over a connection of its own and of objects of its own, so that it is
known what was acknowledged last of every object. Searchers search all the while, as users who have copies and
as nobody; new sessions come, so that copies are made. Meanwhile collections are built and promoted by force
(what a gate takes is no matter of this), rolled back, and promoted again.

In the end nothing is written for a moment, and everything that was acknowledged is compared with what the
serving collection and its followers hold. Lost is what is other than acknowledged, or missing; duplicated is
an object that one answer to a search names twice, or that a collection holds twice.
"""

import http.client
import itertools
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import numpy as np
import typer
from random_objects import RandomEncoder
from report import Goal, JsonOut, Seed, Strict, finish, machine, progress, quantiles, table

from improvement.adjusters.geodesic import GeodesicAdjuster
from improvement.domain import SearchDomain, SearchIndexInfo
from improvement.embedded import running_service

DIMENSIONS = 384
#: Objects put with one request before the clock runs, and named in one question.
AT_ONCE, ASKED = 200, 500
#: Share of the writes that delete.
DELETED = 0.1
#: Results of a search.
LIMIT = 10
#: Seconds that a build may take, and between two looks at how far it is.
PATIENCE, LOOK = 600.0, 0.25
#: Seconds between two switches without a build between them.
BETWEEN = 1.0

info = SearchIndexInfo(dimensions=DIMENSIONS)
#: What the service serves: it imports this file by its name.
domain = SearchDomain(
    name="bench-switches",
    search_index_info=info,
    adjuster=GeodesicAdjuster(info),
    encoder=RandomEncoder(DIMENSIONS),
)

Send = Callable[[str, str, Any], Any]


class Refused(Exception):
    """The service answered with something else than 200."""


@contextmanager
def connected(address: str) -> Iterator[Send]:
    """Keep one connection open; yields a call that sends JSON and returns the answer's."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)

    def send(method: str, path: str, body: Any = None) -> Any:
        payload = None if body is None else json.dumps(body)
        connection.request(method, path, payload, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise Refused(f"{method} {path[:80]}: {response.status} {answer[:300]!r}")
        return json.loads(answer)

    try:
        yield send
    finally:
        connection.close()


def body_of(object_id: str, version: int) -> dict[str, Any]:
    return {
        "object_id": object_id,
        "parts": [{"text": f"{object_id} {version}"}],
        "payload": {"version": version},
    }


@dataclass
class Load:
    """What is sent while collections are switched, and how it went.

    Attributes:
        acknowledged: the version of every object that was acknowledged last; None: it was deleted.
        unknown: objects whose last write failed, so that nobody knows what it left.
        failed: what was not answered with 200, or could not be sent.
        doubled: searches that named an object twice.
        spent: milliseconds of every request by kind, and when it was sent, in seconds of a clock.
    """

    address: str
    rate: float
    at_once: int
    acknowledged: dict[str, int | None] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    failed: dict[str, list[str]] = field(
        default_factory=lambda: {"writes": [], "searches": [], "sessions": []}
    )
    doubled: int = 0
    written: int = 0
    spent: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, ids: Sequence[str], pace: float, rng: np.random.Generator) -> None:
        """Put and delete objects, a request every ``pace`` seconds; who is late hurries."""
        due = time.perf_counter() + rng.uniform(0, pace)
        with connected(self.address) as send:
            while not self.stop.is_set():
                time.sleep(max(0.0, due - time.perf_counter()))
                due += pace
                some = [ids[n] for n in rng.choice(len(ids), min(self.at_once, len(ids)), replace=False)]
                if rng.random() < DELETED:
                    said: dict[str, int | None] = dict.fromkeys(some)
                    query = "&".join(f"object_id={quote(one)}" for one in some)
                    request = ("DELETE", f"/api/v1/objects?{query}", None)
                else:
                    said = {one: (self.acknowledged.get(one) or 0) + int(rng.integers(1, 10)) for one in some}
                    put = [body_of(one, version or 0) for one, version in said.items()]
                    request = ("PUT", "/api/v1/objects", {"objects": put})
                if self.timed("writes", lambda: send(*request)) is not None:  # noqa: B023
                    self.acknowledged |= said
                    self.unknown -= said.keys()
                    with self.lock:
                        self.written += len(said)
                else:
                    self.unknown |= said.keys()

    def search(self, users: int, rng: np.random.Generator) -> None:
        """Search without a pause."""
        with connected(self.address) as send:
            while not self.stop.is_set():
                query: dict[str, Any] = {"search_query": f"query {rng.integers(1_000)}", "limit": LIMIT}
                if rng.random() < 0.5:
                    query["user_id"] = f"user {rng.integers(users)}"
                path = "/api/v1/embeddings/similarity-search"
                answer = self.timed("searches", lambda: send("POST", path, query))  # noqa: B023
                if answer is not None:
                    found = [hit["object_id"] for hit in answer["search_results"]]
                    if len(found) != LIMIT:
                        self.failed["searches"].append(f"{len(found)} results, expected {LIMIT}")
                    with self.lock:
                        self.doubled += len(found) != len(set(found))

    def click(self, ids: Sequence[str], users: int, rng: np.random.Generator) -> None:
        """Register a session with a click every half second, and have it improve its user's copies."""
        path = "/api/v1/clickstream"
        with connected(self.address) as send:
            for number in itertools.count():
                if self.stop.wait(0.5):
                    return
                shown = [ids[n] for n in rng.choice(len(ids), LIMIT, replace=False)]
                now = int(time.time())
                session = {
                    "session_id": f"session {number}", "user_id": f"user {rng.integers(users)}",
                    "search_query": f"query {rng.integers(1_000)}", "created_at": now - 60,
                    "search_results": [{"object_id": one} for one in shown],
                }  # fmt: skip
                event = {"event_id": "e", "object_id": shown[0], "created_at": now}
                events = {"session_id": session["session_id"], "events": [event]}
                use = {"session_id": session["session_id"]}

                def register(session: Any = session, events: Any = events, use: Any = use) -> int:
                    send("POST", f"{path}/session", session)
                    send("POST", f"{path}/session/events", events)
                    send("POST", f"{path}/internal/session/use-for-improvement", use)
                    return 1

                self.timed("sessions", register)

    def timed(self, kind: str, call: Callable[[], Any]) -> Any:
        """Return what a call returns, or None if it failed; keep how long it took."""
        started = time.perf_counter()
        try:
            answer = call()
        except (Refused, OSError, http.client.HTTPException) as error:
            self.failed[kind].append(repr(error))
            return None
        with self.lock:
            self.spent.setdefault(kind, []).append((started, (time.perf_counter() - started) * 1e3))
        return True if answer is None else answer


def switch_all(send: Send, switches: int, builds: int, done: Callable[[], object]) -> list[dict[str, Any]]:
    """Build collections and switch to and fro; return every switch and every build with its seconds."""
    told: list[dict[str, Any]] = []

    def timed(what: str, call: Callable[[], Any]) -> Any:
        began, clock = time.perf_counter(), time.time()
        answer = call()
        told.append({"what": what, "at": clock, "began": began, "seconds": time.perf_counter() - began})
        return answer

    by = {"by": "a benchmark"}
    left = switches
    for number in range(builds):
        build_id = timed("build", lambda: built(send, by))
        shares = -(-left // (builds - number))
        for turn in range(shares):
            if turn % 2:
                timed("rollback", lambda: send("POST", "/api/v1/internal/green/rollback", by))
            else:
                asked = by | {"build_id": build_id, "force": "nobody waits for a gate here"}
                timed("promote", lambda: send("POST", "/api/v1/internal/green/promote", asked))  # noqa: B023
            left -= 1
            done()
            time.sleep(BETWEEN)
    return told


def built(send: Send, by: dict[str, str]) -> str:
    """Have a collection built, and return the build's id when it is."""
    build_id: str = send("POST", "/api/v1/internal/green/build", by)["build_id"]
    deadline = time.monotonic() + PATIENCE
    while (found := send("GET", f"/api/v1/internal/green/status?build_id={build_id}", None))[
        "state"
    ] != "built":
        if found["state"] not in ("queued", "building") or time.monotonic() > deadline:
            raise SystemExit(f"the build is {found['state']}: {found['reason']}")
        time.sleep(LOOK)
    return build_id


@dataclass(frozen=True)
class Compared:
    """How many objects are other than acknowledged, and found more than once, over all collections."""

    collections: int
    objects: int
    lost: int
    doubled: int
    first: str | None


def compare(send: Send, acknowledged: dict[str, int | None]) -> Compared:
    """Compare every collection that is to hold everything with what was acknowledged."""
    releases = send("GET", "/api/v1/internal/vectordb/collections/list", None)["collections"]
    every = [one for one in releases if one["work_state"] == "blue" or one["follows"]]
    lost, doubled, ids = [], 0, sorted(acknowledged)
    expected = {one: version for one, version in acknowledged.items() if version is not None}
    for release in every:
        model = release["embedding_model"]["id"]
        held: dict[str, int] = {}
        for start in range(0, len(ids), ASKED):
            named = {"embedding_model_id": model, "object_ids": ids[start : start + ASKED]}
            for found in send("POST", "/api/v1/internal/vectordb/collections/objects/find-by-ids", named):
                doubled += found["object_id"] in held
                held[found["object_id"]] = found["payload"]["version"]
        other = [one for one in ids if held.get(one) != expected.get(one)]
        lost += [f"{one} in {model}: {held.get(one)}, not {expected.get(one)}" for one in other]
    counted = send("POST", "/api/v1/embeddings/payload-count", {})["total_count"]
    doubled += max(0, counted - len(expected))
    return Compared(len(every), len(expected), len(lost), doubled, lost[0] if lost else None)


def run(
    switches: int,
    builds: int,
    rate: float,
    at_once: int,
    writers: int,
    searchers: int,
    objects: int,
    users: int,
    seed: int,
) -> tuple[Load, list[dict[str, Any]], Compared, float]:
    """Return what was sent, what was switched, how it all compares, and for how many seconds it was sent."""
    ids = [f"o{n}" for n in range(objects)]
    found = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch, progress() as bars:
        settings = {"PYTHONPATH": os.pathsep.join(found)}
        plugin = [f"{Path(__file__).stem}:domain"]
        with (
            running_service(Path(scratch), plugin, environment=settings) as address,
            connected(address) as send,
        ):
            load = Load(address, rate, at_once)
            indexing = bars.add_task(f"index {objects:,} objects", total=objects)
            for start in range(0, objects, AT_ONCE):
                some = ids[start : start + AT_ONCE]
                send("PUT", "/api/v1/objects", {"objects": [body_of(one, 1) for one in some]})
                load.acknowledged |= dict.fromkeys(some, 1)
                bars.advance(indexing, len(some))
            pace = writers * at_once / rate
            rngs = iter(np.random.default_rng(seed).spawn(writers + searchers + 1))
            threads = [
                *(
                    threading.Thread(target=load.write, args=(ids[n::writers], pace, next(rngs)))
                    for n in range(writers)
                ),
                *(threading.Thread(target=load.search, args=(users, next(rngs))) for _ in range(searchers)),
                threading.Thread(target=load.click, args=(ids, users, next(rngs))),
            ]
            switching = bars.add_task("switch", total=switches)
            began = time.perf_counter()
            for thread in threads:
                thread.start()
            try:
                told = switch_all(send, switches, builds, lambda: bars.advance(switching))
            finally:
                load.stop.set()
                for thread in threads:
                    thread.join()
            seconds = time.perf_counter() - began
            known = {one: of for one, of in load.acknowledged.items() if one not in load.unknown}
            return load, told, compare(send, known), seconds


def main(
    switches: Annotated[int, typer.Argument(min=1, help="Promotions and rollbacks.")] = 10,
    builds: Annotated[int, typer.Option(min=1, help="Collections built for them.")] = 2,
    rate: Annotated[float, typer.Option(min=1, help="Objects written a second.")] = 200,
    at_once: Annotated[int, typer.Option(min=1, max=1_000, help="Objects written with one request.")] = 10,
    writers: Annotated[int, typer.Option(min=1, help="Connections that write.")] = 4,
    searchers: Annotated[int, typer.Option(min=1, help="Connections that search without a pause.")] = 2,
    objects: Annotated[int, typer.Option(min=100, help="Objects, one part of 384 numbers each.")] = 2_000,
    users: Annotated[int, typer.Option(min=1, help="Users who search and click.")] = 20,
    seed: Seed = 7,
    json_out: JsonOut = None,
    strict: Strict = False,
) -> None:
    """Switch collections while objects are written and searched; compare everything in the end.

    Goals: 10 switches under 200 writes a second lose nothing, double nothing, and fail no search.
    """
    facts = machine()
    load, told, compared, seconds = run(
        switches, builds, rate, at_once, writers, searchers, objects, users, seed
    )
    achieved = load.written / seconds
    milliseconds = {
        kind: dict(zip(("p50", "p99", "max"), quantiles([ms for _, ms in of], 0.5, 0.99, 1), strict=True))
        for kind, of in load.spent.items()
    }
    tables = [
        table(
            f"{seconds:.0f} s of writing and searching, {achieved:.0f} objects written a second",
            ["", "requests", "failed", "p50 ms", "p99 ms", "max ms"],
            [
                [kind, len(load.spent[kind]), len(load.failed[kind]), *(f"{ms:.1f}" for ms in of.values())]
                for kind, of in milliseconds.items()
            ],
        ),
        table(
            "seconds",
            ["", "times", "least", "most"],
            [
                [what, len(of), f"{min(of):.2f}", f"{max(of):.2f}"]
                for what in ("build", "promote", "rollback")
                if (of := [one["seconds"] for one in told if one["what"] == what])
            ],
        ),
        table(
            f"{compared.objects:,} objects compared in {compared.collections} collections",
            ["", "number"],
            [
                ["lost", compared.lost],
                ["found twice", compared.doubled + load.doubled],
                ["of unknown outcome", len(load.unknown)],
            ],
        ),
    ]
    failures = [why for of in load.failed.values() for why in of]
    if failures or compared.first:
        typer.echo(f"the first that went wrong: {compared.first or failures[0]}", err=True)
    switched = sum(one["what"] != "build" for one in told)
    doubled, failed = compared.doubled + load.doubled, load.failed
    goals = [
        Goal(f"{switches} switches", str(switched), switched == switches),
        Goal(f"{rate:g} objects written a second", f"{achieved:.0f}", achieved >= 0.95 * rate),
        Goal("0 lost", str(compared.lost), not compared.lost),
        Goal("0 duplicated", str(doubled), not doubled),
        Goal("0 failed searches", str(len(failed["searches"])), not failed["searches"]),
        Goal("0 failed writes", str(len(failed["writes"])), not failed["writes"]),
    ]
    result = {
        "settings": {
            "switches": switches, "builds": builds, "rate": rate, "at_once": at_once, "writers": writers,
            "searchers": searchers, "objects": objects, "users": users, "dimensions": DIMENSIONS,
            "seed": seed,
        },
        "seconds": seconds,
        "written": load.written,
        "written_per_second": achieved,
        "requests": {kind: len(of) for kind, of in load.spent.items()},
        "failed": {kind: len(of) for kind, of in failed.items()},
        "milliseconds": milliseconds,
        "switches": [{"what": one["what"], "seconds": one["seconds"]} for one in told],
        "compared": {
            "collections": compared.collections, "objects": compared.objects, "lost": compared.lost,
            "doubled": doubled, "unknown": len(load.unknown),
        },
    }  # fmt: skip
    finish("switches", facts, tables, result, goals, json_out, strict)


if __name__ == "__main__":
    typer.run(main)

"""Personalised against plain search, both through VectorStore.search, and the engine's bare query beside it.

Plain is the same collection searched without a user: copies are filtered out. Personalised is a search as one
of the users with copies: theirs are seen, everybody else's are not, and the originals they shadow are not.
The bare query filters nothing, so it is what the engine could do at best.

The three take turns on the same queries, so that other work on the machine slows all of them alike; ratios
are taken within a round.
"""

import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from pymongo import MongoClient
from qdrant_client import QdrantClient, models
from random_objects import RandomEncoder, random_objects, unit_rows
from report import Goal, JsonOut, Seed, Strict, finish, machine, progress, quantiles, table
from rich.progress import Progress

from improvement.domain import MetricAggregationType, SearchDomain, load_domain
from improvement.edge import EdgeClient
from improvement.embedded import EmbeddedMongo
from improvement.objects import Object, Vectors
from improvement.releases import Releases
from improvement.vectors import AVERAGE, CHUNK, MIN_EF, PARTS, VectorStore

#: Results on the page that is asked for, the first one.
LIMIT = 20
#: Personalised p50 over plain p50 that we promise.
GOAL = 1.3
#: How far a copy is from its original: (1 - share) * original + share * a random direction.
DRIFT = 0.2
#: Seconds a server gets to build its index.
PATIENCE = 600
#: The three searches, in the order of the table.
KINDS = ("bare engine query", "plain", "personalised")

#: Milliseconds of every search, by kind, one list a round.
Times = dict[str, list[list[float]]]


@dataclass(frozen=True)
class Bench:
    """A filled collection and who has copies in it."""

    client: Any
    vectors: VectorStore
    collection: str
    domain: SearchDomain
    users: Sequence[str]

    def searches(self) -> dict[str, Callable[[Vectors, str], int]]:
        """Return the searches by kind; each takes a query and a user and returns how many results it got."""
        info = self.domain.search_index_info
        multi = info.metric_aggregation_type is MetricAggregationType.MIN
        ef = models.SearchParams(hnsw_ef=MIN_EF)

        def bare(query: Vectors, user_id: str) -> int:
            found = self.client.query_points(
                self.collection,
                query=[query.tolist()] if multi else query.tolist(),
                using=PARTS if multi else AVERAGE,
                search_params=ef,
                limit=LIMIT,
                with_payload=["object_id", "original_id", "payload"],
            )
            return len(found.points)

        def plain(query: Vectors, user_id: str) -> int:
            return len(self.vectors.search(self.collection, info, query, LIMIT)[0])

        def personalised(query: Vectors, user_id: str) -> int:
            return len(self.vectors.search(self.collection, info, query, LIMIT, user_id=user_id)[0])

        return dict(zip(KINDS, (bare, plain, personalised), strict=True))

    def time(self, queries: Vectors, rounds: int, bars: Progress, name: str) -> Times:
        """Run every query of every round as all kinds, one after the other, and time each."""
        searches = self.searches()
        expected = min(LIMIT, int(self.client.count(self.collection, exact=True).count))
        times: Times = {kind: [[] for _ in range(rounds)] for kind in KINDS}
        for search in searches.values():
            for user_id in self.users:
                search(queries[0], user_id)  # warm
        bar = bars.add_task(name, total=len(queries))
        for number, query in enumerate(queries):
            user_id = self.users[number // len(KINDS) % len(self.users)]
            for place in range(len(KINDS)):  # whoever is first this time is second the next time
                kind = KINDS[(number + place) % len(KINDS)]
                started = time.perf_counter()
                found = searches[kind](query, user_id)
                taken = 1e3 * (time.perf_counter() - started)
                times[kind][number * rounds // len(queries)].append(taken)
                if found < expected:
                    raise SystemExit(f"{kind}: {found} results instead of {expected}")
            bars.advance(bar)
        return times


def copies_of(rng: np.random.Generator, originals: Sequence[Object], user_id: str) -> list[Object]:
    """Return a user's copies of these originals, each a little way off."""
    return [
        replace(
            original,
            object_id=f"{original.object_id}_{user_id}",
            original_id=original.object_id,
            user_id=user_id,
            parts=(1 - DRIFT) * original.parts + DRIFT * unit_rows(rng, *original.parts.shape),
        )
        for original in originals
    ]


@contextmanager
def filled(
    client: Any, domain: SearchDomain, objects: int, copies: int, users: int, seed: int, bars: Progress,
    name: str,
) -> Iterator[Bench]:  # fmt: skip
    """Make a collection as the service does, fill it, and delete it at the end."""
    rng = np.random.default_rng(seed)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        server = EmbeddedMongo(folder)
        stack.callback(server.stop)
        mongo: MongoClient[dict[str, Any]] = stack.enter_context(MongoClient(server.url))
        releases = Releases(client, mongo["bench"])
        model_id = domain.encoder.model_id
        collection = releases.create(domain, model_id).collection_id
        stack.callback(releases.delete, domain.name, model_id)
        vectors = VectorStore(client)
        originals = random_objects(rng, objects, domain.search_index_info.dimensions)
        names = [f"user {n}" for n in range(users)]
        chosen = {name: rng.choice(objects, min(copies, objects), replace=False) for name in names}
        stored = originals + [
            copy for name in names for copy in copies_of(rng, [originals[i] for i in chosen[name]], name)
        ]
        bar = bars.add_task(f"{name}: fill", total=len(stored))
        for start in range(0, len(stored), CHUNK):
            vectors.upsert(collection, stored[start : start + CHUNK])
            bars.update(bar, completed=min(len(stored), start + CHUNK))
        yield Bench(client, vectors, collection, domain, names)


def wait_until_indexed(client: QdrantClient, collection: str, bars: Progress) -> None:
    """Wait until the server says that its optimizers are done."""
    bar = bars.add_task("server: index", total=None)
    deadline = time.monotonic() + PATIENCE
    while client.get_collection(collection).status is not models.CollectionStatus.GREEN:
        if time.monotonic() > deadline:
            raise SystemExit(f"the server's index was not ready after {PATIENCE} s")
        time.sleep(0.5)
    bars.update(bar, total=1, completed=1)


def on_edge(
    domain: SearchDomain, objects: int, copies: int, users: int, queries: int, rounds: int, seed: int,
    bars: Progress,
) -> dict[str, Times]:  # fmt: skip
    """Time the searches on Qdrant Edge, before and after its index is built."""
    asked = unit_rows(np.random.default_rng(seed + 1), rounds * queries, domain.search_index_info.dimensions)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        edge = EdgeClient(Path(folder))
        try:
            with filled(edge, domain, objects, copies, users, seed, bars, "Edge") as bench:
                before = bench.time(asked, rounds, bars, "Edge, no index: search")
                bar = bars.add_task("Edge: index (everything waits)", total=1)
                bars.refresh()
                edge.optimize(bench.collection)
                bars.advance(bar)
                after = bench.time(asked, rounds, bars, "Edge, indexed: search")
        finally:
            edge.close()
    return {"Edge, no index": before, "Edge, indexed": after}


def on_server(
    url: str, key: str | None, domain: SearchDomain, objects: int, copies: int, users: int, queries: int,
    rounds: int, seed: int, bars: Progress,
) -> dict[str, Times]:  # fmt: skip
    """Time the searches on a Qdrant server, in a collection of its own that is deleted afterwards."""
    asked = unit_rows(np.random.default_rng(seed + 1), rounds * queries, domain.search_index_info.dimensions)
    client = QdrantClient(url=url, api_key=key, timeout=60)
    try:
        with filled(client, domain, objects, copies, users, seed, bars, "server") as bench:
            wait_until_indexed(client, bench.collection, bars)
            return {"server": bench.time(asked, rounds, bars, "server: search")}
    finally:
        client.close()


def row(objects: int, engine: str, times: Times) -> dict[str, Any]:
    """Return one engine's p50 and p95 by kind, and the ratios of each round."""
    rounds = len(times["plain"])

    def share(of: str, quantile: float) -> list[float]:
        return [
            quantiles(times[of][n], quantile)[0] / quantiles(times["plain"][n], quantile)[0]
            for n in range(rounds)
        ]

    all_of = {kind: [one for of in times[kind] for one in of] for kind in KINDS}
    return {
        "objects": objects,
        "engine": engine,
        "milliseconds": {
            kind: dict(zip(("p50", "p95"), quantiles(all_of[kind], 0.5, 0.95), strict=True)) for kind in KINDS
        },
        "ratio_p50": {kind: share(kind, 0.5) for kind in KINDS if kind != "plain"},
        "ratio_p95": {kind: share(kind, 0.95) for kind in KINDS if kind != "plain"},
        "searches": len(all_of["plain"]),
    }


def main(
    sizes: Annotated[list[int] | None, typer.Argument(min=LIMIT, help="Objects. [20000]")] = None,
    copies: Annotated[int, typer.Option(min=1, help="Copies of each user.")] = 500,
    users: Annotated[int, typer.Option(min=1, help="Users with copies.")] = 3,
    queries: Annotated[int, typer.Option(min=1, help="Queries in a round, each searched all ways.")] = 60,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the ratio is the median of theirs.")] = 5,
    plugin: Annotated[str, typer.Option(help="Domain whose metric and index are used.")] = (
        "plugins.default:domain"
    ),
    qdrant_url: Annotated[
        str | None, typer.Option(envvar="QDRANT_URL", help="Measure this server, too.")
    ] = None,
    qdrant_api_key: Annotated[str | None, typer.Option(envvar="QDRANT_API_KEY", show_default=False)] = None,
    seed: Seed = 7,
    json_out: JsonOut = None,
    strict: Strict = False,
) -> None:
    """Time personalised and plain search: 20 results, page 1, random queries, objects of 1 to 3 parts.

    Goal: with an index, a personalised search takes at most 1.3 times as long as a plain one (p50).
    """
    facts = machine()
    loaded = load_domain(plugin)
    encoder = RandomEncoder(loaded.search_index_info.dimensions)
    # A name of its own: other collections of that server are not ours.
    domain = replace(loaded, name=f"bench-{uuid.uuid4().hex[:8]}", encoder=encoder)
    rows = []
    with progress() as bars:
        for objects in sizes or [20_000]:
            shape = (domain, objects, copies, users, queries, rounds, seed, bars)
            measured = on_edge(*shape)
            if qdrant_url is not None:
                measured |= on_server(qdrant_url, qdrant_api_key, *shape)
            rows += [row(objects, engine, times) for engine, times in measured.items()]

    def cells(one: dict[str, Any], kind: str) -> list[str]:
        spent = one["milliseconds"][kind]
        ratios = quantiles(one["ratio_p50"][kind], 0.5, 0, 1) if kind in one["ratio_p50"] else None
        ratio = "1" if ratios is None else "{:.2f} ({:.2f} to {:.2f})".format(*ratios)
        return [f"{spent['p50']:.2f}", f"{spent['p95']:.2f}", ratio]

    found = table(
        f"a search, ms; p50 over plain: median of {rounds} rounds (least to most)",
        ["objects, engine", "search", "p50", "p95", "p50 over plain"],
        [
            [f"{one['objects']:,}, {one['engine']}" if kind == KINDS[0] else "", kind, *cells(one, kind)]
            for one in rows
            for kind in KINDS
        ],
    )
    goals = []
    for one in rows:
        ratio = quantiles(one["ratio_p50"]["personalised"], 0.5)[0]
        if one["engine"] != "Edge, no index":
            where = f"{one['objects']:,} objects, {one['engine']}"
            goals.append(
                Goal(f"personalised p50 over plain p50 <= {GOAL} ({where})", f"{ratio:.2f}", ratio <= GOAL)
            )
    result = {
        "settings": {
            "copies": copies, "users": users, "queries": queries, "rounds": rounds, "limit": LIMIT,
            "plugin": plugin, "dimensions": encoder.dimensions, "seed": seed,
        },
        "rows": rows,
    }  # fmt: skip
    finish("search", facts, [found], result, goals, json_out, strict)


if __name__ == "__main__":
    typer.run(main)

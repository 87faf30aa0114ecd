"""Recommendations against a plain Qdrant query of the same limit, and what a profile costs a search.

The users have profiles that the batch made of 200 likes each, drawn from the 1,000 objects nearest to a
direction, and copies of some of them. So 6 or 7 of the 32 objects nearest to a profile were seen and must not
be seen again; on movielens-replay it is 6. Beside each stands a fan, who liked the very nearest: nothing that
is near is left to recommend. The bare query asks the same client, for the same limit and payload, with the
same vector and no filter, so it is what the engine could do at best. A recommendation is the call that the
HTTP route makes.

All kinds take turns on the same users, so that other work on the machine slows all of them alike; ratios are
taken within a round. Over HTTP the service runs in a process of its own, and is asked on one kept-open
connection.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from qdrant_client import models
from random_objects import random_objects, unit_rows
from report import Goal, JsonOut, Seed, Strict, finish, machine, progress, quantiles, table
from rich.progress import Progress
from search import copies_of

from clickstream.records import Action
from improvement.domain import SearchDomain, load_domain
from improvement.embedded import running_service
from improvement.objects import Vectors
from improvement.profile_routes import recommendations_of
from improvement.profiles.live import LiveProfiles
from improvement.routes import search_of
from improvement.schemas import Recommend, SimilaritySearch
from improvement.settings import Settings
from improvement.vectors import CHUNK, MIN_EF, PARTS
from improvement.wiring import Rooms, build

#: Objects that a user's likes are drawn from: the nearest so many times their number.
NEAR = 5
#: Results that are asked for.
LIMIT = 10
#: Recommendation p95 over bare query p95 that we promise.
GOAL = 1.5
#: What ``profile_weight`` the turned searches say.
WEIGHT = 0.25
BARE, RECOMMENDED, TO_FANS = "bare engine query", "recommend", "recommend to fans"
#: What each kind is compared with.
OVER = {
    BARE: BARE,
    RECOMMENDED: BARE,
    TO_FANS: BARE,
    "search as a user": BARE,
    f"the same, profile_weight {WEIGHT}": "search as a user",
    "HTTP: search, no user": "HTTP: search, no user",
    "HTTP: recommend": "HTTP: search, no user",
}

#: Milliseconds of every call, by kind, one list a round.
Times = dict[str, list[list[float]]]


@dataclass(frozen=True)
class User:
    """Who asks, where their profile points, and the fan of the same things."""

    user_id: str
    direction: Vectors
    fan: str


def settings_of(folder: Path) -> Settings:
    """Return the settings of the embedded service on a folder, whatever the environment says."""
    return Settings(_env_file=None, data_dir=folder, mongo_url=None, redis_url=None, qdrant_url=None)  # type: ignore[call-arg]


def fill(
    rooms: Rooms, domain: SearchDomain, objects: int, users: int, seen: int, copies: int, seed: int,
    bars: Progress,
) -> list[User]:  # fmt: skip
    """Fill the blue collection, and let users like what is nearest to a direction of theirs."""
    rng = np.random.default_rng(seed)
    size = domain.search_index_info.dimensions
    originals = random_objects(rng, objects, size)
    means = np.stack([original.mean for original in originals])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    stored, actions = list(originals), []
    for number, direction in enumerate(unit_rows(rng, users, size)):
        near = np.argsort(-(means @ direction))
        for name, liked in (
            (f"user {number}", rng.permutation(near[: NEAR * seen])[:seen]),
            (f"fan {number}", near[:seen]),
        ):
            stored += copies_of(rng, [originals[i] for i in liked[:copies]], name)
            actions += [
                Action(
                    action_id=f"o{i}", user_id=name, object_id=f"o{i}", action_type="like_post",
                    domain=domain.name,
                )
                for i in liked
            ]  # fmt: skip
    bar = bars.add_task("fill", total=len(stored))
    for start in range(0, len(stored), CHUNK):
        rooms.vectors.upsert(domain.name, stored[start : start + CHUNK])
        bars.update(bar, completed=min(len(stored), start + CHUNK))
    live = LiveProfiles(
        rooms.profiles, rooms.actions, rooms.vectors, rooms.releases, rooms.domains, rooms.learning
    )
    for start in range(0, len(actions), 1_000):
        live.push(actions[start : start + 1_000])
    rooms.batch.run(domain)
    return [User(f"user {n}", embedding_of(rooms, domain, f"user {n}"), f"fan {n}") for n in range(users)]


def embedding_of(rooms: Rooms, domain: SearchDomain, user_id: str) -> Vectors:
    """Return the vector of a user who must have one."""
    profile = rooms.profiles.get(user_id, domain.name)
    if profile is None or profile.embedding is None:
        raise SystemExit(f"{user_id} has no profile")
    return profile.embedding


def in_process(
    rooms: Rooms, domain: SearchDomain, collection: str, client: Any
) -> dict[str, Callable[[User], int]]:
    """Return the calls inside this process by kind; each returns how many results it got."""
    recommendations, search = recommendations_of(rooms), search_of(rooms)

    def bare(user: User) -> int:
        found = client.query_points(
            collection,
            query=[user.direction.tolist()],
            using=PARTS,
            search_params=models.SearchParams(hnsw_ef=MIN_EF),
            limit=LIMIT,
            with_payload=["object_id", "original_id", "payload"],
        )
        return len(found.points)

    def recommended(user_id: str) -> int:
        answer = recommendations.recommend(domain, Recommend(user_id=user_id, limit=LIMIT))
        if answer["meta"]["source"] != "profile":
            raise SystemExit(f"{user_id}: {answer['meta']}")
        return len(answer["search_results"])

    def recommend(user: User) -> int:
        return recommended(user.user_id)

    def to_fans(user: User) -> int:
        return recommended(user.fan)

    def searched(weight: float) -> Callable[[User], int]:
        def call(user: User) -> int:
            body = SimilaritySearch(
                search_query=user.direction.tolist(), limit=LIMIT, user_id=user.user_id, profile_weight=weight
            )
            answer = search.similar(domain, body)
            if answer["meta"]["profile"] != (weight > 0):
                raise SystemExit(f"{user.user_id}: {answer['meta']}")
            return len(answer["search_results"])

        return call

    return dict(zip(OVER, (bare, recommend, to_fans, searched(0.0), searched(WEIGHT)), strict=False))


def over_http(service: httpx.Client) -> dict[str, Callable[[User], int]]:
    """Return the calls to a running service by kind; each returns how many results it got."""

    def post(path: str, body: Mapping[str, Any]) -> int:
        answer = service.post(f"/api/v1/{path}", json=body)
        answer.raise_for_status()
        return len(answer.json()["search_results"])

    def plain(user: User) -> int:
        body = {"search_query": user.direction.tolist(), "limit": LIMIT}
        return post("embeddings/similarity-search", body)

    def recommend(user: User) -> int:
        return post("recommend", {"user_id": user.user_id, "limit": LIMIT})

    return dict(zip(list(OVER)[-2:], (plain, recommend), strict=True))


def measure(
    kinds: Mapping[str, Callable[[User], int]], users: Sequence[User], calls: int, rounds: int,
    bars: Progress, name: str,
) -> Times:  # fmt: skip
    """Make every call of every round in all kinds, one after the other, and time each."""
    times: Times = {kind: [[] for _ in range(rounds)] for kind in kinds}
    for call in kinds.values():
        for user in users:
            call(user)  # warm
    bar = bars.add_task(name, total=calls * rounds)
    names = list(kinds)
    for number in range(calls * rounds):
        user = users[number // len(names) % len(users)]
        for place in range(len(names)):  # whoever is first this time is second the next time
            kind = names[(number + place) % len(names)]
            started = time.perf_counter()
            found = kinds[kind](user)
            times[kind][number // calls].append(1e3 * (time.perf_counter() - started))
            if found != LIMIT:
                raise SystemExit(f"{kind}: {found} results instead of {LIMIT}")
        bars.advance(bar)
    return times


@contextmanager
def embedded(folder: Path, domain: SearchDomain) -> Iterator[Rooms]:
    """Connect the rooms on a folder."""
    rooms = build(settings_of(folder), {domain.name: domain})
    try:
        yield rooms
    finally:
        rooms.close()


def row(kind: str, times: Times) -> dict[str, Any]:
    """Return one kind's p50 and p95, and their ratios, round by round, to what it is compared with."""
    over = OVER[kind]

    def share(quantile: float) -> list[float]:
        return [
            quantiles(mine, quantile)[0] / quantiles(theirs, quantile)[0]
            for mine, theirs in zip(times[kind], times[over], strict=True)
        ]

    p50, p95 = quantiles([one for of in times[kind] for one in of], 0.5, 0.95)
    return {
        "kind": kind, "over": over, "p50": p50, "p95": p95, "ratio_p50": share(0.5), "ratio_p95": share(0.95),
        "calls": sum(map(len, times[kind])),
    }  # fmt: skip


def main(
    objects: Annotated[int, typer.Argument(min=LIMIT, help="Objects.")] = 20_000,
    users: Annotated[int, typer.Option(min=1, help="Users with a profile; as many fans beside them.")] = 20,
    seen: Annotated[int, typer.Option(min=3, help="Objects each user liked, and must not see again.")] = 200,
    copies: Annotated[int, typer.Option(min=0, help="Copies each user has of those.")] = 50,
    calls: Annotated[int, typer.Option(min=1, help="Calls in a round, each made all ways.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; a ratio is the median of theirs.")] = 5,
    plugin: Annotated[str, typer.Option(help="Domain whose metric and index are used.")] = (
        "plugins.default:domain"
    ),
    seed: Seed = 7,
    json_out: JsonOut = None,
    strict: Strict = False,
) -> None:
    """Time recommendations and searches with a profile: 10 results, Edge with an index, 1 to 3 parts.

    Goal: a recommendation takes at most 1.5 times as long as a bare query of the same limit (p95).
    """
    facts, domain = machine(), load_domain(plugin)
    with tempfile.TemporaryDirectory(prefix="bench-") as name, progress() as bars:
        folder = Path(name)
        with embedded(folder, domain) as rooms:
            asking = fill(rooms, domain, objects, users, seen, copies, seed, bars)
            bar = bars.add_task("index (everything waits)", total=1)
            bars.refresh()
            collection = rooms.releases.blue(domain.name).collection_id
            assert rooms.optimize is not None
            rooms.optimize(collection)
            bars.advance(bar)
            kinds = in_process(rooms, domain, collection, rooms.vectors._client)
            times = measure(kinds, asking, calls, rounds, bars, "in this process")
        quiet = {"IMPROVEMENT_SECONDS_INTERVAL": "86400", "SESSION_IDLE_SECONDS": "86400"}
        with (
            running_service(folder, [plugin], environment=quiet) as address,
            httpx.Client(base_url=address, timeout=60) as service,
        ):
            times |= measure(over_http(service), asking, calls, rounds, bars, "over HTTP")
    rows = [row(kind, times) for kind in OVER]

    def ratio(values: Sequence[float]) -> str:
        return "{:.2f} ({:.2f} to {:.2f})".format(*quantiles(values, 0.5, 0, 1))

    found = table(
        f"a call, ms; over what it is compared with: median of {rounds} rounds (least to most)",
        ["call", "p50", "p95", "p50 over", "p95 over"],
        [
            [one["kind"], f"{one['p50']:.2f}", f"{one['p95']:.2f}"]
            + (
                ["1", "1"]
                if one["over"] == one["kind"]
                else [ratio(one["ratio_p50"]), ratio(one["ratio_p95"])]
            )
            for one in rows
        ],
    )
    measured = quantiles(next(one for one in rows if one["kind"] == RECOMMENDED)["ratio_p95"], 0.5)[0]
    goal = f"recommend p95 over bare query p95 <= {GOAL} ({objects:,} objects, {seen} seen)"
    result = {
        "settings": {
            "objects": objects, "users": users, "seen": seen, "copies": copies, "calls": calls,
            "rounds": rounds, "limit": LIMIT, "plugin": plugin, "seed": seed,
        },
        "rows": rows,
    }  # fmt: skip
    goals = [Goal(goal, f"{measured:.2f}", measured <= GOAL)]
    finish("recommend", facts, [found], result, goals, json_out, strict)


if __name__ == "__main__":
    typer.run(main)

"""How long a green build takes, stage by stage, and whether that grows as the catalogue does.

Every size has embedded stores of its own: objects of 1 to 3 parts, one session of 20 results for every ten
objects, one user for every hundred; what the users clicked turns the objects, and every user has copies. So
each stage has work in proportion to the objects. Vectors and texts are made up: stores, adjusters and the
engine's index are timed, no embedding model.
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
from random_objects import RandomEncoder, random_objects
from report import Goal, JsonOut, Seed, Strict, finish, machine, progress, table
from rich.progress import Progress

from clickstream.improvement_queue import Owner, Request
from clickstream.records import SearchResult, Session, SessionEvent
from improvement.domain import SearchDomain, load_domain
from improvement.green.building import work_on
from improvement.green.builds import Build, BuildState, Stage
from improvement.green.orders import ask_build
from improvement.jobs import improve_users
from improvement.settings import Settings
from improvement.vectors import CHUNK
from improvement.wiring import Rooms, build, improver

#: Results one session shows, and the most of them that are clicked.
SHOWN, MOST_CLICKS = 20, 3
#: Objects for one session, and for one user.
PER_SESSION, PER_USER = 10, 100
#: Highest power of the objects that seconds may grow with: 1 is in proportion, 2 is with the square.
GOAL = 1.15
#: Seconds a build is held; nobody else wants it.
LEASE = 3_600.0


@dataclass(frozen=True)
class Built:
    """One build: what it was of, and the seconds of each stage, by the clock and of the processor."""

    objects: int
    users: int
    sessions: int
    turned: int
    copies: int
    seconds: dict[str, float]
    processor: dict[str, float]

    @property
    def total(self) -> float:
        """Seconds of all stages by the clock."""
        return sum(self.seconds.values())


def fill(rooms: Rooms, domain: SearchDomain, objects: int, rng: np.random.Generator, bars: Progress) -> int:
    """Write a catalogue, have users search and click in it, and make their copies; return how many users."""
    blue = rooms.releases.blue(domain.name).collection_id
    originals = random_objects(rng, objects, domain.search_index_info.dimensions)
    bar = bars.add_task(f"{objects:,}: write objects", total=objects)
    for start in range(0, objects, CHUNK):
        rooms.vectors.upsert(blue, originals[start : start + CHUNK])
        bars.update(bar, completed=min(objects, start + CHUNK))
    sessions, users, now = max(2, objects // PER_SESSION), max(2, objects // PER_USER), int(time.time())
    bar = bars.add_task(f"{objects:,}: search and click", total=sessions)
    for first in range(0, sessions, CHUNK):
        made, events, requests = [], [], []
        for n in range(first, min(sessions, first + CHUNK)):
            shown = rng.choice(objects, SHOWN, replace=False)
            clicked = shown[rng.choice(SHOWN, rng.integers(1, MOST_CLICKS + 1), replace=False)]
            session = Session(
                session_id=f"s{n}", search_query=f"query {n % users}", user_id=f"u{n % users}",
                domain=domain.name, search_results=tuple(SearchResult(object_id=f"o{o}") for o in shown),
                created_at=now - 86_400 + n,
            )  # fmt: skip
            made.append((session, None))
            events += [
                (f"s{n}", SessionEvent(event_id=str(o), object_id=f"o{o}", created_at=now - 86_370 + n))
                for o in clicked
            ]
            requests.append(Request(f"s{n}", Owner(domain.name, f"u{n % users}"), 1))
        rooms.clickstream.register_many(made)
        rooms.clickstream.push_events(events)
        rooms.queue.enqueue(requests)
        bars.advance(bar, len(made))
    bar = bars.add_task(f"{objects:,}: improve users", total=sessions)
    while (done := improve_users(improver(rooms), 256)).claimed:
        bars.advance(bar, done.ended)
    return users


def timed(domain: SearchDomain, objects: int, seed: int, bars: Progress) -> Built:
    """Build one catalogue in fresh stores."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        rooms = build(Settings(_env_file=None, data_dir=Path(scratch)), {domain.name: domain})
        try:
            users = fill(rooms, domain, objects, rng, bars)
            asked = ask_build(improver(rooms), domain, space=None, population=True, by="benchmark")
            token = rooms.builds.claim(asked, LEASE)
            assert token is not None
            bar = bars.add_task(f"{objects:,}: build", total=len(Stage))
            began: dict[str, tuple[float, float]] = {}

            def note(now: Build) -> None:
                times = time.perf_counter(), time.process_time()
                began.setdefault(now.stage if now.active else "end", times)
                bars.update(bar, completed=len(began) - 1)

            done = work_on(improver(rooms), asked, token, LEASE, note)
            if done.state is not BuildState.BUILT or done.failed:
                raise SystemExit(f"{done.state}: {done.reason}, {done.failures}")
            stages = [*Stage, "end"]
            seconds, processor = (
                {
                    str(stage): began[after][clock] - began[stage][clock]
                    for stage, after in zip(stages, stages[1:], strict=False)
                }
                for clock in (0, 1)
            )
            green = rooms.releases.get(domain.name, done.embedding_model_id).collection_id
            if rooms.vectors.count(green, None) != objects:
                raise SystemExit("objects are missing: what was timed is not the job")
            copies = sum(
                len(rooms.vectors.copies(green, [f"u{n}" for n in range(first, min(users, first + CHUNK))]))
                for first in range(0, users, CHUNK)
            )
            sessions = max(2, objects // PER_SESSION)
            return Built(objects, users, sessions, done.turned, copies, seconds, processor)
        finally:
            rooms.close()


def slope(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Return the exponent of seconds as a power of the size; NaN for a single size."""
    if len(sizes) < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def main(
    sizes: Annotated[
        list[int] | None, typer.Argument(min=SHOWN, help="Objects in a catalogue. [5000 10000 20000 50000]")
    ] = None,
    plugin: Annotated[
        str, typer.Option(help="Domain whose space, metric, adjuster and evidence are used.")
    ] = "plugins.default:domain",
    dimensions: Annotated[int, typer.Option(min=2, help="Dimensions of the made-up vectors.")] = 384,
    seed: Seed = 7,
    json_out: JsonOut = None,
    strict: Strict = False,
) -> None:
    """Time green builds with population on the embedded stores, by size of the catalogue and by stage.

    Goal: seconds grow in proportion to the objects; told twice, for the index is the engine's work.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))  # warnings and worse
    torch.set_num_threads(1)  # as in the worker
    sizes = sorted(set(sizes or (5_000, 10_000, 20_000, 50_000)))
    facts = machine()
    loaded = load_domain(plugin)
    info = replace(loaded.search_index_info, dimensions=dimensions)
    adjuster: Any = loaded.adjuster
    domain = replace(
        loaded, name="bench", encoder=RandomEncoder(dimensions), search_index_info=info,
        adjuster=replace(adjuster, search_index_info=info), variants=(),
    )  # fmt: skip
    with progress() as bars:
        builds = [timed(domain, size, seed, bars) for size in sizes]

    def per_second(one: Built) -> float:
        return one.objects / one.total

    found = table(
        f"seconds of a build, {dimensions} d, one thread",
        ["catalogue", "copies", *(f"{stage} s" for stage in Stage), "all s", "CPU s", "objects/s"],
        [
            [
                f"{one.objects:,}", f"{one.copies:,}", *(f"{one.seconds[stage]:.1f}" for stage in Stage),
                f"{one.total:.1f}", f"{sum(one.processor.values()):.1f}", f"{per_second(one):,.0f}",
            ]
            for one in builds
        ],
    )  # fmt: skip
    slopes = {str(stage): slope(sizes, [one.seconds[stage] for one in builds]) for stage in Stage}
    slopes["all"] = slope(sizes, [one.total for one in builds])
    slopes["all but index"] = slope(sizes, [one.total - one.seconds[Stage.INDEX] for one in builds])
    slopes["CPU"] = slope(sizes, [sum(one.processor.values()) for one in builds])
    grows = table(
        "slope of log(seconds) over log(objects): 1 is in proportion",
        ["", *slopes],
        [["slope", *(f"{value:.2f}" for value in slopes.values())]],
    )
    goals = [
        Goal(f"slope of {what} <= {GOAL}", f"{slopes[what]:.2f}", slopes[what] <= GOAL)
        for what in ("all but index", "all")
    ]
    result = {
        "settings": {
            "plugin": plugin, "dimensions": dimensions, "seed": seed, "shown": SHOWN,
            "objects_per_session": PER_SESSION, "objects_per_user": PER_USER,
        },
        "rows": [
            {
                "objects": one.objects, "users": one.users, "sessions": one.sessions, "turned": one.turned,
                "copies": one.copies, "seconds": {name: round(s, 3) for name, s in one.seconds.items()},
                "processor_seconds": {name: round(s, 3) for name, s in one.processor.items()},
                "objects_per_second": per_second(one),
            }
            for one in builds
        ],
        "slopes": {name: None if np.isnan(value) else value for name, value in slopes.items()},
    }  # fmt: skip
    finish("build", facts, [found, grows], result, goals, json_out, strict)


if __name__ == "__main__":
    typer.run(main)

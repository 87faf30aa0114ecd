"""The two towers' batch work on a processor: one update of each tower, and a refresh of all items.

Texts are ready unit vectors, as the text encoder's are when a refresh begins. The goals are for what the
clock says, with one thread on an otherwise quiet machine; the processor's seconds stand beside them, which
others who run at the same time change less. The first call of each is not counted.
"""

import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
import typer
from report import Goal, JsonOut, Seed, Strict, finish, machine, progress, quantiles, table

from improvement.objects import Vectors
from improvement.two_tower.facts import History, ItemFacts, Past
from improvement.two_tower.model import projection_of
from improvement.two_tower.settings import TowerSettings
from improvement.two_tower.tower import Tower
from improvement.two_tower.trainer import CandidateBatch, Training, UserBatch

#: Seconds that each may take (seed 001: 30, 120 and 300).
BARS = {"candidate": 0.5, "users": 2.0, "refresh": 15.0}
NOW = 1_700_000_000.0
#: Different authors, and action types.
AUTHORS, ACTIONS = 5_000, ("click", "like", "dwell", "hide")


def unit_rows(rng: np.random.Generator, *shape: int) -> Vectors:
    """Return random unit rows."""
    rows = rng.standard_normal(shape).astype(np.float32)
    made: Vectors = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return made


def catalogue(rng: np.random.Generator, objects: int, dimensions: int) -> ItemFacts:
    """Return items with random texts and authors."""
    authors = tuple(f"author-{n}" for n in rng.integers(AUTHORS, size=objects))
    return ItemFacts(
        tuple(f"object-{n}" for n in range(objects)), unit_rows(rng, objects, dimensions), authors
    )


def candidate_batch(
    rng: np.random.Generator, items: ItemFacts, settings: TowerSettings, pairs: int
) -> CandidateBatch:
    """Return engagements of users with items, each with its negatives; every twentieth is a dislike."""
    chosen = rng.integers(len(items), size=pairs)
    drawn = rng.integers(len(items), size=(pairs, settings.negatives))
    places, rows = np.unique(np.concatenate([chosen[:, None], drawn], axis=1), return_inverse=True)
    rows = rows.reshape(pairs, -1)
    facts = ItemFacts(
        tuple(items.object_ids[place] for place in places), items.texts[places],
        tuple(items.authors[place] for place in places),
    )  # fmt: skip
    signals = np.where(np.arange(pairs) % 20, 1.0, -1.0).astype(np.float32)
    return CandidateBatch(
        unit_rows(rng, pairs, settings.size), facts, rows[:, 0], signals, rows[:, 1:],
        np.full(len(facts), np.log(pairs / len(items)), np.float32), rng.integers(pairs // 4 + 1, size=pairs),
    )  # fmt: skip


def user_batch(
    rng: np.random.Generator, items: ItemFacts, settings: TowerSettings, users: int, events: int
) -> UserBatch:
    """Return users with full histories."""
    histories = []
    for _ in range(users):
        pasts = [
            Past(str(n), items.object_ids[row], items.authors[row], ACTIONS[n % 4], 1.0, NOW + 60.0 * n)
            for n, row in enumerate(rng.integers(len(items), size=events))
        ]
        histories.append(History(pasts, unit_rows(rng, events, settings.size), NOW + 60.0 * events))
    return UserBatch(
        histories,
        unit_rows(rng, users, settings.size),
        unit_rows(rng, users, settings.negatives, settings.size),
    )


def timed(call: Callable[[], Any], rounds: int, tick: Callable[[], object]) -> dict[str, list[float]]:
    """Return the processor's and the clock's seconds of each call but the first."""
    taken: dict[str, list[float]] = {"processor": [], "clock": []}
    for _ in range(rounds + 1):
        started, working = time.perf_counter(), time.process_time()
        call()
        taken["processor"].append(time.process_time() - working)
        taken["clock"].append(time.perf_counter() - started)
        tick()
    return {of: seconds[1:] for of, seconds in taken.items()}


def main(
    objects: Annotated[int, typer.Argument(min=1, help="Items of the refresh.")] = 50_000,
    pairs: Annotated[int, typer.Option(min=1, help="Engagements of a candidate update.")] = 1_000,
    users: Annotated[int, typer.Option(min=1, help="Users of a user-tower step.")] = 128,
    events: Annotated[int, typer.Option(min=1, help="Engagements of each of them.")] = 50,
    dimensions: Annotated[int, typer.Option(min=1, help="Of the texts.")] = 384,
    rounds: Annotated[int, typer.Option(min=1, help="Calls of which the median is taken.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Of torch.")] = 1,
    seed: Seed = 7,
    json_out: JsonOut = None,
    strict: Strict = False,
) -> None:
    """Time an update of each tower, and a refresh."""
    torch.set_num_threads(threads)
    facts, rng, settings = machine(), np.random.default_rng(seed), TowerSettings(negatives=5)
    items = catalogue(rng, objects, dimensions)
    training = Training(settings, projection_of(items.texts[:10_000], settings.size, seed))
    engaged = candidate_batch(rng, items, settings, pairs)
    histories = user_batch(rng, items, settings, users, events)
    with progress() as bar:
        task = bar.add_task("updates and refreshes", total=3 * (rounds + 1))

        def measure(call: Callable[[], Any]) -> dict[str, list[float]]:
            return timed(call, rounds, lambda: bar.advance(task))

        taken = {
            "candidate": measure(lambda: training.update_candidate(engaged)),
            "users": measure(lambda: training.update_users([histories])),
        }
        tower = Tower(settings, training.arrays())
        taken["refresh"] = measure(lambda: tower.items(items))
    names = {
        "candidate": f"candidate update: {pairs:,} pairs, {settings.negatives} negatives each, "
        f"{settings.candidate_steps} steps",
        "users": f"user-tower step: {users} users x {events} events",
        "refresh": f"refresh of {objects:,} items",
    }
    medians = {what: quantiles(seconds["clock"], 0.5)[0] for what, seconds in taken.items()}
    rows = [
        (
            names[what],
            *(f"{q:.3f}" for of in ("clock", "processor") for q in quantiles(seconds[of], 0.5, 0, 1)),
        )
        for what, seconds in taken.items()
    ]
    goals = [
        Goal(f"{names[what]} <= {bar} s", f"{medians[what]:.3f} s", medians[what] <= bar)
        for what, bar in BARS.items()
    ]
    told = {
        "objects": objects, "pairs": pairs, "users": users, "events": events, "dimensions": dimensions,
        "rounds": rounds, "threads": threads, "seed": seed,
    }  # fmt: skip
    made = table(
        f"Seconds, medians of {rounds} calls, {threads} thread(s)",
        ["", "clock", "least", "most", "processor", "least", "most"],
        rows,
    )
    finish("two_tower", facts, [made], {"settings": told, "seconds": taken}, goals, json_out, strict)


if __name__ == "__main__":
    typer.run(main)

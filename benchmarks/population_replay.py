"""What is everybody's choice worth to others: users search what other users have taught.

The second half of a data set's users teaches: each sees the best 20 of their training queries as they are
without learning, and clicks what is relevant. What `improvement.green.learned` makes of that turns the
objects, and the first half searches: without any history of their own, and with their own copies and profile
as `profile_replay.py` makes them. Differences are paired, with 95% bootstrap intervals over users.

One account is also let loose: what it can do to an object alone, and to all of them.
"""

import resource
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from pymongo import MongoClient
from random_objects import RandomEncoder
from report import Goal, JsonOut, Strict, finish, machine, progress, table

from clickstream.records import QueryVector, RegisteredSession, SearchResult, Session, SessionEvent
from clickstream.store import ClickstreamStore
from improvement.adjusters.geodesic import GeodesicAdjuster
from improvement.adjusters.population import turned
from improvement.domain import SearchDomain, SearchIndexInfo
from improvement.embedded import EmbeddedMongo
from improvement.evaluation.dataset import ReplayUser, load_dataset
from improvement.evaluation.learner import (
    CLICK_AFTER,
    HELDOUT_NDCG,
    REFIND_NDCG,
    SHOWN,
    START,
    TOPICAL,
    UNSEEN_NDCG,
    Scene,
)
from improvement.evaluation.options import change_profiles
from improvement.evaluation.ranking import best_first, scores, searched
from improvement.evaluation.replay import choose, replay
from improvement.evaluation.report import NO_LEARNING, Report, Row, Sample, settings_of
from improvement.evidence import DAY, EvidenceWeights, SkippedItems
from improvement.green.learned import Learned, learn
from improvement.green.settings import GateSettings, PopulationSettings
from improvement.objects import Vectors
from improvement.profiles.settings import ProfileSettings

PROTOCOL = EvidenceWeights(skipped_items=SkippedItems.ALL)
PROFILES = change_profiles(ProfileSettings(), {})
METRICS = (HELDOUT_NDCG, TOPICAL, UNSEEN_NDCG, REFIND_NDCG)
OWN, POPULATION, ALL = "own", "population", "population + own"
#: The least it must be worth on movielens-replay.
BARS = {
    POPULATION: {HELDOUT_NDCG: 0.090, TOPICAL: 0.64},
    ALL: {HELDOUT_NDCG: 0.150, UNSEEN_NDCG: 0.055, TOPICAL: 0.60},
}
#: What is tried with --sweep, one setting at a time.
SWEEP: dict[str, Sequence[float]] = {
    "max_drift": (0.1, 0.15, 0.2, 0.25, 0.3),
    "prior": (5.0, 10.0, 20.0, 40.0),
    "strongest": (1.0, 1.5, 2.0, 3.0),
    "per_user": (1.0, 2.0, 3.0, 1000.0),
    "away": (0.0, 0.25, 0.5, 0.75, 1.0),
}
#: Sessions of the account that is let loose.
ATTACKS = 10_000


class _NoEncoder:
    model_id = "the data set's"

    def encode(self, texts: Sequence[str]) -> Vectors:
        raise ValueError(f"a data set brings its vectors: nothing embeds its {len(texts)} texts")


@dataclass(frozen=True)
class Log:
    """Sessions in memory, in the place of the store."""

    sessions: Sequence[RegisteredSession]

    def history(self, domain: str, *, newest_first: bool = True, limit: int) -> Iterator[RegisteredSession]:
        """Yield them as they are, as `ClickstreamStore.history` does."""
        yield from self.sessions[:limit]


@dataclass(frozen=True, eq=False)
class Bench:
    """A data set, who searches, and what the others did."""

    scene: Scene
    searching: Sequence[ReplayUser]
    log: Sequence[RegisteredSession]
    defaults: PopulationSettings = field(default_factory=PopulationSettings)

    def learned(
        self, settings: PopulationSettings | None = None, more: Sequence[RegisteredSession] = ()
    ) -> Learned:
        """Learn from the log, and from more sessions, which are the oldest."""
        domain = SearchDomain(
            "replay", self.scene.info, GeodesicAdjuster(self.scene.info), _NoEncoder(),
            population=settings or self.defaults, gate=GateSettings(holdout=1e-6),
        )  # fmt: skip
        store: Any = Log([*self.log, *more])
        return learn(store, domain)

    def turned(self, learned: Learned) -> Scene:
        """Return the scene with its objects turned."""
        scene, originals = self.scene, dict(self.scene.originals)
        metric = scene.info.metric_type
        for row, object_id in enumerate(learned.object_ids):
            parts = originals[object_id].parts
            target = np.broadcast_to(learned.turns.targets[row], parts.shape)
            amounts = np.full(len(parts), learned.turns.amounts[row])
            originals[object_id] = replace(originals[object_id], parts=turned(parts, target, amounts, metric))
        compared = [searched(one, scene.info.metric_aggregation_type) for one in originals.values()]
        return replace(scene, originals=originals, base=scores(scene.queries, compared, metric))

    def search(self, scene: Scene, own: bool, advance: Any) -> dict[str, Sample]:
        """Have the users search, with copies and profiles of their own or without."""
        adjuster = GeodesicAdjuster(scene.info) if own else None
        profiles = PROFILES if own else None
        run = replay(scene, adjuster, PROTOCOL, self.searching, profiles=profiles, progress=advance)
        return dict(run.samples)


def taught_by(scene: Scene, users: Sequence[ReplayUser]) -> list[RegisteredSession]:
    """Return the training sessions of users who see what nobody taught, newest first."""
    return [
        a_session(scene, user.user_id, day, number, query, user.relevant.get(query, frozenset()))
        for day in range(max(len(user.train) for user in users) - 1, -1, -1)
        for number, user in reversed(list(enumerate(users)))
        for query in user.train[day : day + 1]
    ]


def a_session(
    scene: Scene, user_id: str, day: int, second: int, query: int, wanted: Collection[int],
    shown: Sequence[int] | None = None,
) -> RegisteredSession:  # fmt: skip
    """Return one session that shows the best, or what is said, and in which all that is wanted is clicked."""
    ids, now = scene.dataset.object_ids, START + day * DAY + second
    rows = best_first(scene.base[query], SHOWN).tolist() if shown is None else shown
    events = [
        SessionEvent(event_id=str(place), object_id=ids[row], created_at=now + CLICK_AFTER)
        for place, row in enumerate(rows)
        if row in wanted
    ]
    vectors = tuple(map(tuple, scene.queries[query].tolist()))
    return RegisteredSession.model_construct(
        session_id=f"{user_id} {day} {second}", search_query="", user_id=user_id, created_at=now,
        search_results=tuple(SearchResult(object_id=ids[row]) for row in rows), events=tuple(events),
        query_vector=QueryVector.model_construct(model_id=_NoEncoder.model_id, vectors=vectors),
        is_irrelevant=False, registered_at=None,
    )  # fmt: skip


def attack(bench: Bench) -> dict[str, float]:
    """Return how far, in lengths of an object, one account moves what."""
    scene, before = bench.scene, bench.learned()
    amounts = dict(zip(before.object_ids, before.turns.amounts.tolist(), strict=True))
    ids = scene.dataset.object_ids
    shown = {one.object_id for session in bench.log for one in session.search_results}
    unknown = next(row for row, object_id in enumerate(ids) if object_id not in shown)
    popular = scene.rows[max(amounts or shown, key=lambda one: amounts.get(one, 0.0))]
    query = int(scene.base[:, unknown].argmin())  # far from everything it is about
    found = {}
    for name, row in (("an object nobody else saw", unknown), ("the object turned farthest", popular)):
        repeated = [a_session(scene, "attacker", 0, n, query, [row], [row]) for n in range(ATTACKS)]
        found[f"{name}, clicked {ATTACKS:,} times"] = _moved(bench, before, repeated)[ids[row]]
    everything = [
        a_session(scene, "attacker", 0, n, n, best_first(scene.base[n], SHOWN)[: SHOWN // 2].tolist())
        for n in range(len(scene.queries))
    ]
    moved = _moved(bench, before, everything)
    found["any object, by clicking half of what is shown for every query"] = max(moved.values())
    found["all objects by that, on average"] = float(np.mean(list(moved.values())))
    return found


def _moved(bench: Bench, before: Learned, more: Sequence[RegisteredSession]) -> dict[str, float]:
    there, here = (bench.turned(one).originals for one in (before, bench.learned(more=more)))
    lengths = {one: np.linalg.norm(here[one].parts - there[one].parts, axis=1).max() for one in here}
    return {one: float(length) for one, length in lengths.items()}


def timed(count: int, dimensions: int = 384, objects: int = 50_000) -> dict[str, float]:
    """Return what it takes to learn from a log of so many sessions in the embedded store."""
    rng, now = np.random.default_rng(7), START
    encoder = RandomEncoder(dimensions)
    asked = [
        QueryVector(model_id=encoder.model_id, vectors=(tuple(row),))
        for row in encoder.encode([f"query {n}" for n in range(2_000)]).tolist()
    ]
    info = SearchIndexInfo(dimensions)
    domain = SearchDomain("bench", info, GeodesicAdjuster(info), encoder)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        bars = stack.enter_context(progress())
        server = EmbeddedMongo(folder / "mongo")
        stack.callback(server.stop)
        client: MongoClient[dict[str, Any]] = stack.enter_context(MongoClient(server.url))
        clickstream = ClickstreamStore(client["bench"])
        clickstream.ensure_indexes()
        filling, reading = (bars.add_task(what, total=count) for what in ("fill the log", "learn"))
        for start in range(0, count, 500):
            sessions, events = [], []
            for n in range(start, min(start + 500, count)):
                shown = [f"object-{row}" for row in rng.choice(objects, SHOWN, replace=False)]
                results = tuple(SearchResult(object_id=one) for one in shown)
                session = Session(
                    session_id=str(n), search_query="", search_results=results, domain="bench",
                    user_id=f"user-{rng.integers(count // 10 + 1)}", created_at=now + n,
                )  # fmt: skip
                sessions.append((session, asked[rng.integers(len(asked))]))
                for one in shown[: rng.integers(1, 4)]:
                    event = SessionEvent(event_id=one, object_id=one, created_at=now + n + CLICK_AFTER)
                    events.append((str(n), event))
            clickstream.register_many(sessions)
            clickstream.push_events(events)
            bars.advance(filling, len(sessions))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started, working = time.perf_counter(), time.process_time()
        learned = learn(clickstream, domain, progress=lambda what, n: bars.advance(reading, n))
        seconds, processor = time.perf_counter() - started, time.process_time() - working
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {
        "sessions read": learned.read, "sessions taught": learned.sessions,
        "objects turned": len(learned.object_ids), "seconds": seconds,
        "of them this process's own": processor, "MiB more at the peak": more,
    }  # fmt: skip


def main(
    dataset: Annotated[Path, typer.Option(help="Folder of a replay data set.")],
    users: Annotated[str, typer.Option(help="Who searches: all, even, odd or a number.")] = "all",
    sweep: Annotated[bool, typer.Option("--sweep", help="Try other settings, one at a time.")] = False,
    log: Annotated[int, typer.Option(min=0, help="Time learning from so many stored sessions, too.")] = 0,
    json_out: JsonOut = None,
    strict: Strict = False,
) -> None:
    """Let half of the users teach, and the others search."""
    torch.set_num_threads(1)
    facts = machine()
    spent = timed(log) if log else {}  # first, while little memory was needed yet
    scene = Scene.of(load_dataset(dataset))
    everybody = scene.dataset.users
    half = (len(everybody) + 1) // 2
    bench = Bench(scene, choose(everybody[:half], users), taught_by(scene, everybody[half:]))
    ways = {NO_LEARNING: (False, False), POPULATION: (True, False), OWN: (False, True), ALL: (True, True)}
    tried = _settings(bench.defaults) if sweep else []
    samples: dict[str, dict[str, Sample]] = {}
    rows: dict[str, Row] = {}
    with progress() as bar:
        task = bar.add_task("users, each way to learn", total=len(bench.searching) * (4 + 2 * len(tried)))

        def advance() -> None:
            bar.advance(task)

        started = time.perf_counter()
        learned = bench.learned()
        seconds = time.perf_counter() - started
        moved = bench.turned(learned)
        for name, (by_all, own) in ways.items():
            samples[name] = bench.search(moved if by_all else scene, own, advance)
            told = settings_of(bench.defaults) if by_all else {}
            others = {OWN: samples[OWN]} if name == ALL else None
            rows[name] = Row.of(name, samples[name], samples.get(NO_LEARNING), 0, told, None, others)
        swept = []
        for name, settings in tried:
            shape = bench.turned(bench.learned(settings))
            found = [bench.search(shape, own, advance) for own in (False, True)]
            means = [float(np.nanmean(of[m].values)) for of in found for m in METRICS[:3]]
            swept.append((name, *(f"{mean:.4f}" for mean in means)))
    hurt = attack(bench)
    amounts = learned.turns.amounts
    about = {
        "sessions taught": f"{learned.sessions:,} of {learned.read:,}",
        "objects turned": f"{len(amounts):,} of {len(scene.originals):,}",
        "towards, away": f"{(amounts > 0).sum():,}, {(amounts < 0).sum():,}",
        "seconds to learn": f"{seconds:.2f}",
        **{f"one account moves: {what}": f"{far:.4f}" for what, far in hurt.items()},
    }
    tables = [
        table(
            f"{dataset.name}: {half} users, of whom {len(bench.searching)} search; the others taught",
            ["learned from", "heldout nDCG", "topical", "unseen nDCG", "refind nDCG"],
            [(name, *(f"{row.metrics[m].mean:.4f}" for m in METRICS)) for name, row in rows.items()],
        ),
        table(
            "difference to the same without the population",
            ["learned from", "heldout nDCG", "topical", "unseen nDCG", "refind nDCG"],
            [
                (name, *(f"{d[m].mean:+.4f}\n{d[m].low:+.4f}..{d[m].high:+.4f}" for m in METRICS))
                for name, d in ((POPULATION, rows[POPULATION].differences), (ALL, rows[ALL].versus[OWN]))
            ],
        ),
        table("what was learned", ["", ""], list(about.items())),
    ]
    if swept:
        columns = ["nDCG", "topical", "unseen"]
        title = "other settings: population, then population + own"
        tables.append(table(title, ["setting", *columns, *columns], swept))
    if spent:
        said = [(what, f"{value:,.0f}") for what, value in spent.items()]
        tables.append(table("learning from a log in the embedded store", ["", ""], said))
    source = {"dataset": dataset.name, "users": len(bench.searching), "users_chosen": users}
    result = Report(source, list(rows.values())).as_json()
    result |= {"learned": about, "sweep": swept, "attack": hurt, "log": spent}
    finish("population_replay", facts, tables, result, _goals(rows, hurt), json_out, strict)


def _settings(defaults: PopulationSettings) -> list[tuple[str, PopulationSettings]]:
    return [
        (f"{name} {value:g}{' *' if value == getattr(defaults, name) else ''}",
         replace(defaults, **{name: value}))
        for name, values in SWEEP.items()
        for value in values
    ]  # fmt: skip


def _goals(rows: dict[str, Row], hurt: dict[str, float]) -> list[Goal]:
    goals = []
    for name, bars in BARS.items():
        for metric, bar in bars.items():
            mean = rows[name].metrics[metric].mean
            goals.append(Goal(f"{name}: {metric} >= {bar:.3f}", f"{mean:.4f}", mean >= bar))
    what, far = next(iter(hurt.items()))
    return [*goals, Goal(f"{what}, by one account: it does not move", f"{far:.4f}", far == 0)]


if __name__ == "__main__":
    typer.run(main)

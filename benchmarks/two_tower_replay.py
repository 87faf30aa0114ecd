"""Two towers beside `implicit`'s ALS and BPR: what users have not seen yet, ranked without a query.

Two logs are made of a data set's training sessions. "clicks": each user is shown the best 20 of every
training query, nobody having taught anything, and clicks what is relevant. "ratings": all that is relevant to
the training queries. Held out is what is relevant to the test queries; what was engaged with or shown in
training is neither ranked nor held out. Recall@20 and nDCG@10 are means over the users with something held
out, with paired differences and 95% bootstrap intervals over users.

ALS, BPR and the towers are tuned on grids of their own, by recall + nDCG on two validation splits: what is
relevant to the last quarter of the training queries, learned from the others, and to the first quarter
likewise. What is worth most on average is then trained on the whole log. "Towers, one pass" are not tuned:
they have the default settings and see each engagement once, with what its user did before, as in production.
Texts are the data set's vectors; there are no authors.

The towers learn as in production: engagements in time order, a candidate update for every 1,000, negatives by
`draw_negatives`, and a round of the user tower after each pass over the log. Where there are several passes,
a user's history is all that the user did beside the engagement in question, so that the second is like the
first.
"""

import itertools
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from report import Goal, JsonOut, Seed, Strict, finish, machine, progress, table

from improvement.evaluation.dataset import load_dataset
from improvement.evaluation.learner import CLICK_AFTER, SHOWN, START, Scene
from improvement.evaluation.metrics import ndcg
from improvement.evaluation.ranking import best_first
from improvement.evaluation.report import Estimate, Report, Row, Sample, settings_of
from improvement.evidence import DAY
from improvement.objects import Vectors
from improvement.two_tower.facts import History, ItemFacts, Past
from improvement.two_tower.model import projection_of
from improvement.two_tower.sampling import Positive, Seen, draw_negatives, log_frequencies
from improvement.two_tower.settings import TowerSettings
from improvement.two_tower.tower import Tower
from improvement.two_tower.trainer import CandidateBatch, Training, UserBatch

T = TypeVar("T")
RECALL, NDCG = "recall@20", "ndcg@10"
ALS, BPR, POPULAR, UNTRAINED, ONCE, TOWERS, SERVED = (
    "ALS", "BPR", "popularity", "towers, untrained", "towers, one pass", "towers",
    "towers, popularity for few",
)  # fmt: skip
#: What is tried of each: fairly much, for it takes a fraction of a second a time.
ALS_GRID: Mapping[str, Sequence[float]] = {
    "factors": (4, 8, 16, 32, 64, 128), "regularization": (0.1, 1.0, 10.0, 30.0),
    "alpha": (1.0, 5.0, 20.0), "iterations": (15, 30),
}  # fmt: skip
BPR_GRID: Mapping[str, Sequence[float]] = {
    "factors": (16, 32, 64, 128), "regularization": (0.001, 0.01, 0.1),
    "learning_rate": (0.01, 0.05), "iterations": (50, 100, 300),
}  # fmt: skip
TOWER_GRID: Mapping[str, Sequence[float]] = {"row_rate": (0.01, 0.03), "temperature": (0.15, 0.2)}
#: Times that the towers go over a log at most, while they are tuned.
PASSES = {"clicks": 6, "ratings": 3}
#: Share of the training queries that is held out while something is chosen, and from where.
HELD, SPLITS = 0.25, ("last", "first")


@dataclass(frozen=True)
class Engagement:
    """A user (row) engaged with an object (row) then."""

    at: float
    user: int
    object: int


@dataclass(frozen=True, eq=False)
class Task:
    """A log to learn from, and what is to be found.

    Attributes:
        log: in time order; each user engages with an object once.
        seen: what was shown in it.
        left_out: for each user the objects that are not ranked.
        wanted: for each user what should be ranked high.
    """

    log: Sequence[Engagement]
    seen: Sequence[Seen]
    left_out: Sequence[NDArray[np.int64]]
    wanted: Sequence[frozenset[int]]

    @classmethod
    def of(cls, scene: Scene, clicks: bool, split: str | None = None) -> "Task":
        """Make one of the data set's sessions; with a split, held out are the first or last of them."""
        dataset = scene.dataset
        log, seen, left_out, wanted = [], [], [], []
        for number, user in enumerate(dataset.users):
            some = round(HELD * len(user.train))
            asked = {"first": user.train[:some], "last": user.train[len(user.train) - some :]}
            shown: set[int] = set()
            engaged: dict[int, float] = {}
            for day, query in enumerate(user.train):
                if split is not None and query in asked[split]:
                    continue
                at, relevant = START + day * DAY + number, user.relevant.get(query, frozenset())
                best = best_first(scene.base[query], SHOWN).tolist()
                shown.update(best)
                seen += [Seen(user.user_id, dataset.object_ids[row], at) for row in best]
                for row in [row for row in best if row in relevant] if clicks else sorted(relevant):
                    engaged.setdefault(row, at + CLICK_AFTER)
            known = shown | engaged.keys()
            queries = user.test if split is None else asked[split]
            wanted.append(frozenset().union(*(user.relevant.get(query, ()) for query in queries)) - known)
            left_out.append(np.array(sorted(known), np.int64))
            log += [Engagement(at, number, row) for row, at in engaged.items()]
        return cls(sorted(log, key=lambda one: (one.at, one.user)), seen, left_out, wanted)

    def judged(self, scores: NDArray[Any]) -> dict[str, Sample]:
        """Return each user's metrics of scores (users, objects); NaN where nothing is wanted."""
        found: dict[str, list[float]] = {RECALL: [], NDCG: []}
        for each, left_out, wanted in zip(scores, self.left_out, self.wanted, strict=True):
            open_to = np.array(each, np.float32)
            open_to[left_out] = -np.inf
            hits = [row in wanted for row in best_first(open_to, 20).tolist()]
            found[RECALL].append(sum(hits) / len(wanted) if wanted else float("nan"))
            found[NDCG].append(ndcg(hits, len(wanted)))
        users = np.arange(len(self.wanted))
        return {name: Sample(np.array(values), users) for name, values in found.items()}

    def worth(self, scores: NDArray[Any]) -> float:
        """Return what things are chosen by."""
        return float(sum(np.nanmean(sample.values) for sample in self.judged(scores).values()))

    def matrix(self, objects: int) -> Vectors:
        """Return (users, objects): 1 where somebody engaged with something."""
        made = np.zeros((len(self.wanted), objects), np.float32)
        for one in self.log:
            made[one.user, one.object] = 1.0
        return made


@dataclass(eq=False)
class Learner:
    """Towers that go over a task's log.

    Attributes:
        as_it_came: whether a history ends before the engagement in question, or has all the others.
    """

    scene: Scene
    task: Task
    settings: TowerSettings
    items: ItemFacts
    as_it_came: bool = False
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        ids, users, of_users = self.items.object_ids, self.scene.dataset.users, self.settings
        self.training = Training(of_users, projection_of(self.items.texts, of_users.size, of_users.seed))
        self.rng = np.random.default_rng(of_users.seed)
        self.user_ids = [user.user_id for user in users]
        self.by_user: list[list[tuple[Past, int]]] = [[] for _ in users]
        for number, one in enumerate(self.task.log):
            past = Past(str(number), ids[one.object], None, "click", 1.0, one.at)
            self.by_user[one.user].append((past, one.object))
        self.engaged = {
            user_id: frozenset(ids[row] for _, row in its)
            for user_id, its in zip(self.user_ids, self.by_user, strict=True)
        }
        self.pool = [(ids[one.object], one.at) for one in self.task.log]
        self.pool += [(one.object_id, one.at) for one in self.task.seen]
        self.counts = Counter(ids[one.object] for one in self.task.log)
        self.now = max(one.at for one in self.task.log)
        self._look()

    def scores(self) -> Vectors:
        """Return each user's cosines with all objects."""
        made: Vectors = (
            self.tower.users([self._history(user) for user in range(len(self.by_user))]) @ self.vectors.T
        )
        return made

    def go_over(self) -> None:
        """Learn from the log once, then have the user tower learn from every user."""
        for batch in _batched(self.task.log, self.settings.candidate_every):
            self.losses += self.training.update_candidate(self._candidate_batch(batch))
            self._look()
        users = [int(user) for user in self.rng.permutation(len(self.by_user)) if len(self.by_user[user]) > 1]
        self.training.update_users(
            [self._user_batch(some) for some in _batched(users, self.settings.user_batch)]
        )
        self._look()

    def _look(self) -> None:
        self.tower = Tower(self.settings, self.training.arrays())
        self.vectors = self.tower.items(self.items)

    def _history(self, user: int, before: Engagement | None = None) -> History:
        its, at = self.by_user[user], self.now
        if before is not None and self.as_it_came:
            its, at = [each for each in its if each[0].at < before.at], before.at
        elif before is not None:
            its = [each for each in its if each[1] != before.object]
        newest = its[-self.settings.history :]
        rows = np.array([row for _, row in newest], np.int64)
        return History([past for past, _ in newest], self.vectors[rows], at)

    def _negatives(self, some: Sequence[Engagement]) -> list[list[str]]:
        asked = [Positive(self.user_ids[one.user], self.items.object_ids[one.object], one.at) for one in some]
        drawn = draw_negatives(
            asked, self.task.seen, self.engaged, self.pool,
            self.settings.negatives, self.settings.negative_seconds, self.rng,
        )  # fmt: skip
        return [[object_id for object_id, _ in each] for each in drawn]

    def _candidate_batch(self, some: Sequence[Engagement]) -> CandidateBatch:
        negatives = self._negatives(some)
        rows = sorted({one.object for one in some} | {self.scene.rows[o] for each in negatives for o in each})
        places = {row: place for place, row in enumerate(rows)}
        drawn = np.full((len(some), self.settings.negatives), -1)
        for number, each in enumerate(negatives):
            drawn[number, : len(each)] = [places[self.scene.rows[object_id]] for object_id in each]
        ids = tuple(self.items.object_ids[row] for row in rows)
        return CandidateBatch(
            users=self.tower.users([self._history(one.user, one) for one in some]),
            items=ItemFacts(ids, self.items.texts[rows], (None,) * len(rows)),
            chosen=np.array([places[one.object] for one in some]),
            signals=np.ones(len(some), np.float32),
            negatives=drawn,
            log_q=log_frequencies(ids, self.counts, len(some)),
            owners=np.array([one.user for one in some]),
        )

    def _user_batch(self, users: Sequence[int]) -> UserBatch:
        targets = []
        for user in users:
            past, row = self.by_user[user][self.rng.integers(len(self.by_user[user]))]
            targets.append(Engagement(past.at, user, row))
        negatives = np.zeros((len(users), self.settings.negatives, self.settings.size), np.float32)
        for number, each in enumerate(self._negatives(targets)):
            negatives[number, : len(each)] = self.vectors[[self.scene.rows[one] for one in each]]
        return UserBatch(
            [self._history(one.user, one) for one in targets],
            self.vectors[[one.object for one in targets]],
            negatives,
        )


def _batched(its: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(its), size):
        yield its[start : start + size]


def factorised(name: str, matrix: Vectors, settings: Mapping[str, float], seed: int) -> Vectors:
    """Return the scores of `implicit`'s ALS or BPR, (users, objects)."""
    try:
        from implicit.als import AlternatingLeastSquares
        from implicit.bpr import BayesianPersonalizedRanking
        from scipy.sparse import csr_matrix
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise typer.BadParameter(f"{error}: this benchmark needs `pip install implicit==0.7.3`") from None
    kind = AlternatingLeastSquares if name == ALS else BayesianPersonalizedRanking
    with warnings.catch_warnings(), threadpool_limits(1, "blas"):  # small matrices: more threads are slower
        warnings.simplefilter("ignore")
        model = kind(**settings, num_threads=1, random_state=seed)
        model.fit(csr_matrix(matrix), show_progress=False)
    made: Vectors = model.user_factors @ model.item_factors.T
    return made


def tuned(
    name: str, tasks: Sequence[Task], objects: int, seed: int, tick: Callable[[], object]
) -> dict[str, float]:
    """Return the settings of a grid that are worth most on average."""
    matrices = [task.matrix(objects) for task in tasks]
    best: tuple[float, dict[str, float]] = (-1.0, {})
    for settings in _grid(ALS_GRID if name == ALS else BPR_GRID):
        worth = sum(
            task.worth(factorised(name, matrix, settings, seed))
            for task, matrix in zip(tasks, matrices, strict=True)
        )
        best = max(best, (worth, settings), key=lambda each: each[0])
        tick()
    return best[1]


def tuned_towers(
    learner: Callable[[Task, TowerSettings], Learner],
    tasks: Sequence[Task],
    settings: TowerSettings,
    passes: int,
    tick: Callable[[], object],
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Return the settings of the grid that are worth most after some pass, and what each pass led to."""
    best: tuple[float, dict[str, float], list[dict[str, float]]] = (-1.0, {}, [])
    for chosen in _grid(TOWER_GRID):
        learners, curve = [learner(task, replace(settings, **chosen)) for task in tasks], []
        for number in range(1, passes + 1):
            judged = []
            for one in learners:
                one.go_over()
                judged.append(one.task.judged(one.scores()))
                tick()
            metrics = {
                what: float(np.mean([np.nanmean(each[what].values) for each in judged]))
                for what in (RECALL, NDCG)
            }
            loss = float(np.mean([one.losses[-1] for one in learners]))
            curve.append({"pass": number, "loss": loss, **metrics})
        best = max(best, (max(map(_worth, curve)), chosen, curve), key=lambda each: each[0])
    return best[1:]


def _worth(reached: Mapping[str, float]) -> float:
    return reached[RECALL] + reached[NDCG]


def _grid(of: Mapping[str, Sequence[float]]) -> Iterator[dict[str, float]]:
    for values in itertools.product(*of.values()):
        yield dict(zip(of, values, strict=True))


def _many(of: Mapping[str, Sequence[float]]) -> int:
    return int(np.prod([len(values) for values in of.values()]))


@dataclass(frozen=True, eq=False)
class Found:
    """What one log led to: each method's users, its settings and seconds, and how the towers got there."""

    samples: Mapping[str, Mapping[str, Sample]]
    facts: Mapping[str, Mapping[str, Any]]
    curve: Sequence[Mapping[str, float]]


def run(scene: Scene, name: str, settings: TowerSettings, bar: Any) -> Found:
    """Tune on the validation splits, train on all, and rank what is held out."""
    tasks, whole = (
        [Task.of(scene, name == "clicks", each) for each in SPLITS],
        Task.of(scene, name == "clicks"),
    )
    objects = len(scene.dataset.object_ids)
    texts = np.stack([o.mean for o in scene.originals.values()])
    items = ItemFacts(scene.dataset.object_ids, texts, (None,) * objects)
    samples: dict[str, Mapping[str, Sample]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for method, grid in ((ALS, ALS_GRID), (BPR, BPR_GRID)):
        bars = bar.add_task(f"{name}: tune {method}", total=_many(grid))
        started = time.perf_counter()
        best = tuned(method, tasks, objects, settings.seed, lambda bars=bars: bar.advance(bars))
        seconds = time.perf_counter() - started
        scores = factorised(method, whole.matrix(objects), best, settings.seed)
        samples[method], facts[method] = whole.judged(scores), {**best, "seconds to tune": round(seconds, 1)}
    popular = np.broadcast_to(whole.matrix(objects).sum(axis=0), (len(whole.wanted), objects))
    samples[POPULAR] = whole.judged(popular)

    once = Learner(scene, whole, settings, items, as_it_came=True)
    samples[UNTRAINED] = whole.judged(once.scores())
    started = time.perf_counter()
    once.go_over()
    facts[ONCE] = {"seconds to train": round(time.perf_counter() - started, 1)}
    samples[ONCE] = whole.judged(once.scores())

    bars = bar.add_task(f"{name}: tune towers", total=_many(TOWER_GRID) * PASSES[name] * len(tasks))
    started = time.perf_counter()
    chosen, curve = tuned_towers(
        lambda task, its: Learner(scene, task, its, items), tasks, settings, PASSES[name],
        lambda: bar.advance(bars),
    )  # fmt: skip
    passes = 1 + int(np.argmax([_worth(reached) for reached in curve]))
    tuning = time.perf_counter() - started
    learner = Learner(scene, whole, replace(settings, **chosen), items)
    for _ in range(passes):
        learner.go_over()
    facts[TOWERS] = {
        **chosen, "passes": passes, "seconds to tune": round(tuning, 1),
        "seconds to train": round(time.perf_counter() - started - tuning, 1),
    }  # fmt: skip
    scores = learner.scores()
    samples[TOWERS] = whole.judged(scores)
    few = [len(its) < settings.min_engagements for its in learner.by_user]
    samples[SERVED] = whole.judged(np.where(np.array(few)[:, None], popular, scores))
    facts["log"] = {
        "engagements": len(whole.log), "objects engaged with": len({one.object for one in whole.log}),
        "held out": sum(map(len, whole.wanted)), "users with few": sum(few),
    }  # fmt: skip
    return Found(samples, facts, curve)


def plotted(found: Mapping[str, Found], path: Path) -> None:
    """Draw how good the towers were on the validation split after each pass, and their loss."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    for place, (name, one) in enumerate(found.items()):
        axes = figure.add_subplot(1, len(found), place + 1)
        passes = [at["pass"] for at in one.curve]
        for metric in (RECALL, NDCG):
            axes.plot(passes, [at[metric] for at in one.curve], marker="o", label=f"{metric}, validation")
        axes.axvline(one.facts[TOWERS]["passes"], color="grey", linestyle=":", label="chosen")
        axes.set(title=name, xlabel="passes over the log", ylim=(0, None))
        right = axes.twinx()
        right.plot(passes, [at["loss"] for at in one.curve], color="black", linewidth=0.8, label="loss")
        right.set_ylabel("loss of the pass's last batch")
        axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def main(
    dataset: Annotated[Path, typer.Option(help="Folder of a replay data set.")],
    plot: Annotated[Path | None, typer.Option(dir_okay=False, help="Draw the learning curve there.")] = None,
    seed: Seed = 0,
    json_out: JsonOut = None,
    strict: Strict = False,
) -> None:
    """Train, and rank what is held out."""
    torch.set_num_threads(1)
    facts, started = machine(), time.perf_counter()
    scene, settings = Scene.of(load_dataset(dataset)), TowerSettings(author_field=None, seed=seed)
    with progress() as bar:
        found = {name: run(scene, name, settings, bar) for name in PASSES}
    seconds = time.perf_counter() - started
    tables, goals, result = [], [], {}
    for name, one in found.items():
        rows = {
            method: Row.of(
                method, samples, None, 0, settings_of(settings) if method in (ONCE, TOWERS) else {},
                one.facts.get(method), {ALS: one.samples[ALS], BPR: one.samples[BPR]},
            )
            for method, samples in one.samples.items()
        }  # fmt: skip
        tables.append(_table(name, one, rows))
        for other, metric in itertools.product((ALS, BPR), (RECALL, NDCG)):
            more = rows[TOWERS].versus[other][metric]
            goals.append(Goal(f"{name}: {metric} of the towers >= {other}", _said(more, " "), more.mean >= 0))
        source = {"dataset": dataset.name, "users": len(scene.dataset.users), "log": one.facts["log"]}
        result[name] = Report(source, list(rows.values())).as_json() | {"curve": one.curve}
    if plot is not None:
        plotted(found, plot)
    told = {"seed": seed, "seconds": round(seconds, 1)}
    finish("two_tower_replay", facts, tables, {"settings": told, **result}, goals, json_out, strict)
    typer.echo(f"{seconds:.0f} s in all")


def _table(name: str, one: Found, rows: Mapping[str, Row]) -> Any:
    columns = [
        "method",
        RECALL,
        NDCG,
        *(f"{m}, to {o}" for o in (ALS, BPR) for m in (RECALL, NDCG)),
        "settings",
    ]
    lines = [
        (
            method, *(f"{row.metrics[metric].mean:.4f}" for metric in (RECALL, NDCG)),
            *(_said(row.versus[o][m]) if o != method else "" for o in (ALS, BPR) for m in (RECALL, NDCG)),
            ", ".join(f"{what} {value}" for what, value in row.facts.items()),
        )
        for method, row in rows.items()
    ]  # fmt: skip
    log = ", ".join(f"{what} {value:,}" for what, value in one.facts["log"].items())
    return table(f"{name}: {log}", columns, lines)


def _said(found: Estimate, between: str = "\n") -> str:
    return f"{found.mean:+.4f}{between}{found.low:+.4f}..{found.high:+.4f}"


if __name__ == "__main__":
    typer.run(main)

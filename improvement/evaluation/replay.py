"""Replay a data set for one method: every user by themselves, then all their measurements."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from improvement.domain import VectorsAdjuster
from improvement.evaluation.behaviour import Behaviour
from improvement.evaluation.dataset import ReplayUser
from improvement.evaluation.learner import Learner, Scene
from improvement.evaluation.report import NO_LEARNING, Report, Row, Sample, settings_of, with_profile
from improvement.evidence import DAY, EvidenceWeights
from improvement.inputs import EvidenceBatch
from improvement.profiles.settings import ProfileSettings

#: The protocol's users: they look at everything, and click all and only what is relevant.
PERFECT = Behaviour()


@dataclass(frozen=True, eq=False)
class Replay:
    """What one method did to some users.

    Attributes:
        samples: metric -> its values; `docs/replay.md` says what each one means.
        clicked: sessions with a click.
        copies: personal copies at the end, of all users together.
        profiles: users whose profile can be used at the end.
        adjuster_seconds: time inside the adjuster, without what it does once at its first call.
        seconds: time of everything.
    """

    samples: Mapping[str, Sample]
    clicked: int
    copies: int
    profiles: int
    adjuster_seconds: float
    seconds: float


def replay(
    scene: Scene,
    adjuster: VectorsAdjuster | None,
    evidence: EvidenceWeights,
    users: Sequence[ReplayUser] | None = None,
    *,
    profiles: ProfileSettings | None = None,
    days_between_sessions: float = 1.0,
    behaviour: Behaviour = PERFECT,
    progress: Callable[[], object] = lambda: None,
) -> Replay:
    """Run the protocol for each user alone.

    Args:
        adjuster: makes the copies; None makes none.
        evidence: what a training session says of what it showed.
        users: some of the data set's; None means all.
        profiles: how profiles are made and used, in training searches too; None makes none.
        days_between_sessions: time from each training session to the next, for decay by age.
        behaviour: of the users; the protocol's is the default.
        progress: called after each user.

    Raises:
        ValueError: the adjuster refused a batch, or returned NaN or infinity.
    """
    started = time.perf_counter()
    timed = None if adjuster is None else _Timed(adjuster)
    chosen = scene.dataset.users if users is None else users
    seconds_apart = round(days_between_sessions * DAY)
    values: dict[str, list[list[float]]] = {}
    clicked = copies = usable = 0
    for user in chosen:
        learner = Learner(scene, timed, evidence, user, seconds_apart, behaviour, profiles)
        for query in user.train:
            learner.search(query)
        for name, found in learner.measure().items():
            values.setdefault(name, []).append(found)
        clicked += learner.clicks
        copies += len(learner.copies)
        usable += learner.profile is not None
        progress()
    return Replay(
        samples={name: _sample(of_users) for name, of_users in values.items()},
        clicked=clicked,
        copies=copies,
        profiles=usable,
        adjuster_seconds=(timed.seconds if timed else None) or 0.0,
        seconds=time.perf_counter() - started,
    )


def _sample(values: Sequence[Sequence[float]]) -> Sample:
    users = np.repeat(np.arange(len(values)), [len(found) for found in values])
    return Sample(np.array([value for found in values for value in found], np.float64), users)


@dataclass
class _Timed:
    """An adjuster that adds up the seconds it takes."""

    adjuster: VectorsAdjuster
    seconds: float | None = None

    @property
    def max_drift(self) -> float:
        return self.adjuster.max_drift

    def adjust(self, batch: EvidenceBatch) -> torch.Tensor:
        if self.seconds is None:  # what is compiled or loaded at the first call is not counted
            self.adjuster.adjust(batch)
            self.seconds = 0.0
        started = time.perf_counter()
        adjusted = self.adjuster.adjust(batch)
        self.seconds += time.perf_counter() - started
        return adjusted


def compare(
    scene: Scene,
    method: str | None,
    adjuster: VectorsAdjuster | None,
    evidence: EvidenceWeights,
    users: str = "all",
    *,
    profiles: ProfileSettings | None = None,
    days_between_sessions: float = 1.0,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> Report:
    """Replay with and without learning: rows "no learning", ``method``, and ``method`` "+ profile".

    Args:
        method: what to call the adjuster's copies; None leaves them out.
        users: as in `choose`.
        profiles: how profiles are made and used; None leaves their row out.
        seed: of the bootstrap.
        progress: called after each user, once for every row.

    Raises:
        ValueError: as in `replay` and `choose`.
    """
    chosen = choose(scene.dataset.users, users)
    baseline = replay(scene, None, evidence, chosen, progress=progress)
    rows = [Row.of(NO_LEARNING, baseline.samples, None, seed, facts=_facts(baseline))]
    before: dict[str, Mapping[str, Sample]] = {}
    ways: list[tuple[str, ProfileSettings | None]] = []
    if method is not None and adjuster is not None:
        ways.append((method, None))
    if profiles is not None:
        ways.append((with_profile(method), profiles))
    for way, settings in ways:
        run = replay(
            scene, adjuster, evidence, chosen, profiles=settings,
            days_between_sessions=days_between_sessions, progress=progress,
        )  # fmt: skip
        parts = {"adjuster": adjuster, "evidence": evidence, "profile": settings}
        told = {name: settings_of(part) for name, part in parts.items() if part is not None}
        rows.append(Row.of(way, run.samples, baseline.samples, seed, told, _facts(run), before))
        before = {way: run.samples}
    source = {
        "metric": scene.info.metric_type,
        "aggregation": scene.info.metric_aggregation_type,
        "objects": len(scene.dataset.objects),
        "dimensions": scene.info.dimensions,
        "users": len(chosen),
        "users_chosen": users,
        "days_between_sessions": days_between_sessions,
        "seed": seed,
    }
    return Report(source, rows)


def choose(users: Sequence[ReplayUser], which: str) -> Sequence[ReplayUser]:
    """Return "all" users, the "even" ones (first, third ...), the "odd" ones, or the first so many.

    Tune on one half, report the other.

    Raises:
        ValueError: it is none of these, or nobody is left.

    >>> choose(["u0", "u1", "u2"], "even"), choose(["u0", "u1", "u2"], "2")
    (['u0', 'u2'], ['u0', 'u1'])
    """
    halves = {"all": slice(None), "even": slice(0, None, 2), "odd": slice(1, None, 2)}
    if which not in halves and not (which.isascii() and which.isdigit()):
        raise ValueError(f"users: expected all, even, odd or a number, got {which!r}")
    chosen = users[halves[which] if which in halves else slice(int(which))]
    if not chosen:
        raise ValueError(f"users: {which!r} chooses none of the {len(users)} there are")
    return chosen


def _facts(run: Replay) -> dict[str, float]:
    facts: dict[str, float] = {
        "sessions_with_clicks": run.clicked,
        "copies": run.copies,
        "profiles": run.profiles,
        "seconds": run.seconds,
    }
    if run.adjuster_seconds:
        facts["adjuster_seconds"] = run.adjuster_seconds
        facts["sessions_per_second"] = run.clicked / run.adjuster_seconds
    return facts

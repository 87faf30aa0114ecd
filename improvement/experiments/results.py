"""Results: each arm's metrics, what differs from the control, and how sure that is; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from improvement.experiments.assignment import evenness, expected_shares
from improvement.experiments.estimates import Difference, Estimate, Sample, difference, distance
from improvement.experiments.sequential import holm, mismatch_p, mixture
from improvement.experiments.settings import Experiment, Metric

#: Below this always-valid p-value the arms do not have the users that their shares promise.
MISMATCH = 0.001
#: Share of the planned sessions that is planned for mixed lists, which tell as much with far fewer: users
#: compare with themselves (Chapelle et al. 2012, "Large-scale validation and analysis of interleaved search
#: evaluation", https://doi.org/10.1145/2094072.2094078).
MIXED = 0.1
#: Metrics of which less is better.
LESS_IS_BETTER = frozenset({Metric.DISLIKES})
#: What `Results` corrects, and what it does not.
CORRECTED = (
    "always_low, always_high and p_value hold however often one looks; low and high hold for one look, "
    "planned before. adjusted_p is the primary metric's p_value, corrected for the number of arms (Holm). "
    "Nothing is corrected for the number of metrics, and no interval for the number of arms."
)


@dataclass(frozen=True, eq=False)
class Columns:
    """What an experiment's sessions say, one row each.

    Attributes:
        users: names; a number stands for its place here.
        who, arm: (n,) whose each session is, and in which arm, by its place in the experiment.
        values: (n, metrics) in the order of `Metric`.
        mixed_who, mixed_arm: (m,) the same of the sessions that showed a mixed list.
        credits: (m, 3) of the personalised list, of the baseline, and their variance: `measured.Credit`.
        left_out: why sessions of the period do not count, and how many.
        cut_at: when the last session was registered, in seconds since 1970, if there were too many to read.
    """

    users: Sequence[str]
    who: NDArray[np.int64]
    arm: NDArray[np.int64]
    values: NDArray[np.float64]
    mixed_who: NDArray[np.int64]
    mixed_arm: NDArray[np.int64]
    credits: NDArray[np.float64]
    left_out: Mapping[str, int] = field(default_factory=dict)
    cut_at: float | None = None


@dataclass(frozen=True)
class Interleaved:
    """Personal lists against the baseline, in the mixed lists of one arm.

    Attributes:
        sessions: in which something was liked; ``users``: whose.
        wins, losses, ties: users who liked more of the personalised list, or of the baseline, or as much.
        preference: share of the personalised list in all that was liked, 0..1, as if the lists had been given
            the same number of places.
        low, high: its interval for one look.
        versus_half: how far the preference is from one half, what is no preference.
    """

    sessions: int
    users: int
    wins: int
    losses: int
    ties: int
    preference: float | None
    low: float | None
    high: float | None
    versus_half: Difference

    def as_json(self) -> dict[str, Any]:
        """Return what the API shows."""
        return {**self.__dict__, "versus_half": self.versus_half.as_json()}


@dataclass(frozen=True)
class ArmResults:
    """One arm: its metrics, and how far they are from the control's; none of the control itself."""

    name: str
    treatment: str
    users: int
    sessions: int
    metrics: Mapping[Metric, Estimate]
    differences: Mapping[Metric, Difference]
    interleaved: Interleaved | None

    def as_json(self) -> dict[str, Any]:
        """Return what the API shows."""
        return {
            "name": self.name,
            "treatment": self.treatment,
            "users": self.users,
            "sessions": self.sessions,
            "metrics": {metric.value: one.as_json() for metric, one in self.metrics.items()},
            "differences": {metric.value: one.as_json() for metric, one in self.differences.items()},
            "interleaved": self.interleaved.as_json() if self.interleaved else None,
        }


@dataclass(frozen=True)
class Results:
    """What an experiment shows so far.

    Attributes:
        arms: in the order of the experiment, the control first.
        users_in_several: users who were in more than one arm, because these were changed.
        evenness: chi-square p-value of the numbers of users, for one look; NaN without users.
        mismatch_p: always-valid p-value of the same.
        left_out, cut_at: as in `Columns`.
    """

    experiment: Experiment
    arms: Sequence[ArmResults]
    users_in_several: int
    evenness: float
    mismatch_p: float
    left_out: Mapping[str, int]
    cut_at: float | None = None

    @property
    def mismatch(self) -> bool:
        """Whether the arms have other shares of the users than they should: then trust nothing here."""
        return self.mismatch_p < MISMATCH

    @property
    def warnings(self) -> list[str]:
        """Why these results may be wrong, one sentence each."""
        said = []
        if self.mismatch:
            said.append(
                f"sample ratio mismatch (p = {self.mismatch_p:.2g}): the arms do not have the users that "
                "their shares promise; find out why before you believe anything else"
            )
        if self.users_in_several:
            said.append(
                f"{self.users_in_several} users were in more than one arm: arms or shares were changed; "
                "begin the period after that, or give the experiment another name"
            )
        if self.cut_at is not None:
            said.append("there are too many sessions to read: those after `cut_at` are not in it")
        said += [f"arm {arm.name!r} has no sessions" for arm in self.arms if not arm.sessions]
        return said

    def verdict(self, arm: ArmResults, metric: Metric) -> str:
        """Say in a word what is known of an arm beside the control: better, worse, or undecided.

        Of the primary metric by `Difference.adjusted_p`, of the others by their own always-valid p-value.
        """
        found = arm.differences[metric]
        p_value = found.adjusted_p if metric is self.experiment.primary else found.p_value
        if p_value is None or found.difference is None:
            return "too little"
        if p_value > 1 - self.experiment.level:
            return "undecided"
        return "better" if (found.difference > 0) != (metric in LESS_IS_BETTER) else "worse"

    def as_json(self) -> dict[str, Any]:
        """Return what the API shows; what is undefined is null."""
        arms = [arm.as_json() for arm in self.arms]
        for told, arm in zip(arms, self.arms, strict=True):
            for metric in arm.differences:
                told["differences"][metric.value]["verdict"] = self.verdict(arm, metric)
        return {
            "experiment": self.experiment.name,
            "level": self.experiment.level,
            "primary": self.experiment.primary.value,
            "control": self.experiment.arms[0].name,
            "sessions": sum(arm.sessions for arm in self.arms),
            "left_out": dict(self.left_out),
            "cut_at": self.cut_at,
            "warnings": self.warnings,
            "sample_ratio": {
                "expected": expected_shares(self.experiment),
                "users": {arm.name: arm.users for arm in self.arms},
                "chi_square_p": None if np.isnan(self.evenness) else self.evenness,
                "always_valid_p": self.mismatch_p,
                "mismatch": self.mismatch,
            },
            "arms": arms,
            "corrected": CORRECTED,
        }


def results(experiment: Experiment, columns: Columns) -> Results:
    """Compare an experiment's arms with its control, which is the first one."""
    level, rho2 = experiment.level, mixture(experiment.planned_sessions, experiment.level)
    people = len(columns.users)
    of_arm = [np.flatnonzero(columns.arm == place) for place in range(len(experiment.arms))]
    samples = [
        {
            metric: Sample(columns.who[rows], columns.values[rows, n], np.ones(len(rows)), people)
            for n, metric in enumerate(Metric)
        }
        for rows in of_arm
    ]
    arms = [
        ArmResults(
            arm.name,
            arm.treatment.value,
            users=len(np.unique(columns.who[rows])),
            sessions=len(rows),
            metrics={metric: Estimate.of(sample, level) for metric, sample in mine.items()},
            differences={
                metric: difference(sample, samples[0][metric], level, rho2)
                for metric, sample in mine.items()
                if place > 0
            },
            interleaved=_interleaved(columns, place, level, rho2 / MIXED),
        )
        for place, (arm, rows, mine) in enumerate(zip(experiment.arms, of_arm, samples, strict=True))
    ]
    arms = [arms[0], *_adjusted(arms[1:], experiment.primary)]
    users = {arm.name: arm.users for arm in arms}
    shares = expected_shares(experiment)
    pairs = np.unique(np.stack([columns.who, columns.arm]), axis=1)
    return Results(
        experiment,
        arms,
        users_in_several=int((np.bincount(pairs[0], minlength=1) > 1).sum()),
        evenness=evenness(users, experiment),
        mismatch_p=mismatch_p(list(users.values()), list(shares.values())),
        left_out=columns.left_out,
        cut_at=columns.cut_at,
    )


def _adjusted(arms: Sequence[ArmResults], primary: Metric) -> list[ArmResults]:
    """Return the arms with the primary metric's p-values for all of them together."""
    together = holm({arm.name: arm.differences[primary].p_value for arm in arms})
    return [
        replace(
            arm,
            differences={
                **arm.differences,
                primary: replace(arm.differences[primary], adjusted_p=together[arm.name]),
            },
        )
        for arm in arms
    ]


def _interleaved(columns: Columns, place: int, level: float, rho2: float) -> Interleaved | None:
    """Return what an arm's mixed lists say; None if it has none."""
    rows = np.flatnonzero(columns.mixed_arm == place)
    if not len(rows):
        return None
    rows = rows[columns.credits[rows, :2].sum(axis=1) > 0]  # where nothing was liked, nothing was preferred
    who, credits = columns.mixed_who[rows], columns.credits[rows]
    sample = Sample(who, credits[:, 0], credits[:, :2].sum(axis=1), len(columns.users))
    least = float(credits[:, 2].sum()) / (2 * sample.total) ** 2 if sample.total else 0.0
    mine = np.bincount(who, credits[:, 0] - credits[:, 1], len(columns.users))[np.unique(who)].round(9)
    preference = Estimate.of(sample, level)
    return Interleaved(
        sessions=len(rows),
        users=len(mine),
        wins=int((mine > 0).sum()),
        losses=int((mine < 0).sum()),
        ties=int((mine == 0).sum()),
        preference=preference.mean,
        low=preference.low,
        high=preference.high,
        versus_half=distance(sample, 0.5, level, rho2, least),
    )

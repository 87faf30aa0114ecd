"""What a domain calls healthy (seed 001), and how much it may keep."""

from dataclasses import dataclass

from improvement.bounds import check_bounds, check_flags


@dataclass(frozen=True)
class AuditSettings:
    """When drift and evidence are a warning, and when an alarm.

    Attributes:
        warn_drift: mean cosine distance a day, of objects or profiles, that is a warning, 0..2.
        alarm_drift: the same for an alarm; at least ``warn_drift``.
        least_negatives: fewest negative pieces of evidence for one positive before an alarm, >= 0.
        most_negatives: most negative ones for one positive before an alarm.
        good_negatives: between these two many it is neither alarm nor warning.
        sample: objects, and profiles, whose vectors are remembered from audit to audit, >= 1.
        least_evidence: pieces of evidence below which their ratio says nothing, >= 1.
        least_rate: pieces of evidence an hour below which it is a warning, once there was any; 0 switches it
            off.
        least_coverage: share of the active users with enough interactions who have a usable profile, below
            which it is a warning, 0..1.
        least_new_clicks: click-through of new objects below which it is a warning, 0..1.
        self_heal: whether an alarm of drift freezes learning, restores the last good release and resumes
            with half the rate by itself.
    """

    warn_drift: float = 0.1
    alarm_drift: float = 0.3
    least_negatives: float = 3.0
    most_negatives: float = 20.0
    good_negatives: tuple[float, float] = (5.0, 10.0)
    sample: int = 1_000
    least_evidence: int = 100
    least_rate: float = 10.0
    least_coverage: float = 0.7
    least_new_clicks: float = 0.005
    self_heal: bool = False

    def __post_init__(self) -> None:
        check_bounds(
            self,
            {
                "warn_drift": (0.0, 2.0), "alarm_drift": (0.0, 2.0), "least_negatives": (0.0, 1e6),
                "most_negatives": (0.0, 1e6), "sample": (1, 100_000), "least_evidence": (1, 10_000_000),
                "least_rate": (0.0, 1e9), "least_coverage": (0.0, 1.0), "least_new_clicks": (0.0, 1.0),
            },
        )  # fmt: skip
        check_flags(self, "self_heal")
        low, high = self.good_negatives
        if not self.least_negatives <= low <= high <= self.most_negatives:
            raise ValueError(
                f"good_negatives: expected two numbers from {self.least_negatives:.6g} to "
                f"{self.most_negatives:.6g}, got {self.good_negatives!r}"
            )
        if self.alarm_drift < self.warn_drift:
            raise ValueError(f"alarm_drift: expected at least warn_drift, got {self.alarm_drift!r}")


@dataclass(frozen=True)
class CopyLimits:
    """How many personal copies a user may have, and how long.

    Attributes:
        per_user: most copies of one user in one collection, >= 1; the least useful ones go first.
        expire_days: days after which a session stops teaching copies, > 0; None: never.
    """

    per_user: int = 1_000
    expire_days: float | None = 365.0

    def __post_init__(self) -> None:
        check_bounds(
            self,
            {"per_user": (1, 1_000_000), "expire_days": (1e-6, 1e6)},
            optional=frozenset({"expire_days"}),
        )

"""What a domain says of its green builds: how far everybody moves objects, what gates and watches ask."""

import math
from dataclasses import dataclass

from improvement.bounds import check_bounds, check_flags


@dataclass(frozen=True)
class PopulationSettings:
    """How far what everybody chose moves an object, see `adjusters.population`.

    The defaults were chosen on one half of the users of a replay, see docs/population.md.

    Attributes:
        max_drift: farthest an object is moved: radians (cosine) or a share of its length (dot, euclid), 0..1.
        prior: impressions at the mean rate that every object is given beforehand, > 0. The more of them, the
            less one account, or a few impressions, can say.
        strongest: logarithm of the rate over the mean (or of the mean over the rate) at which an object is
            moved farthest, > 0.
        per_user: most impressions, choices and refusals of one object by one user that count, > 0.
        away: share of this by which an object that is chosen less than the mean is turned away, 0..1.
        sessions: newest sessions that are learned from, >= 1.

    Raises:
        ValueError: naming the field and what was expected.
    """

    max_drift: float = 0.15
    prior: float = 5.0
    strongest: float = 3.0
    per_user: float = 1.0
    away: float = 1.0
    sessions: int = 50_000

    def __post_init__(self) -> None:
        check_bounds(
            self,
            {
                "max_drift": (0.0, 1.0), "prior": (1e-6, 1e9), "strongest": (1e-6, 100.0),
                "per_user": (1e-6, 1e9), "away": (0.0, 1.0), "sessions": (1, 10_000_000),
            },
        )  # fmt: skip


@dataclass(frozen=True)
class GateSettings:
    """What a green collection must show before it may serve.

    Attributes:
        holdout: share of the sessions, the newest, that a build does not learn from and its gate tests on,
            above 0 and below 1.
        sessions: newest sessions that the gate tests on at most, >= 2.
        history: newest sessions that it reads at most, >= 2; those before the tested ones make the copies and
            the profiles that users have in the test.
        least_sessions: judged sessions below which nothing can be said, and the gate fails, >= 2.
        margin: by how much nDCG@10 and MRR may be worse, at the lower end of the 95% interval, 0..1.
        topical_margin: the same for the topical share of a data set.
        queries: queries searched in both collections for overlap and coverage, >= 1.
        least_overlap: least mean share of the ten best that stay, 0..1.
        least_coverage: least number of different objects found, as a share of blue's, 0..1.
        most_drift: farthest any object may be from what was given, radians or relative distance; not asked
            of another embedding space.
        most_missing: share of blue's objects that green may lack, 0..1; asked again before it serves.
        fresh_hours: hours after which a report is too old to promote by, > 0.
    """

    holdout: float = 0.1
    sessions: int = 2_000
    history: int = 10_000
    least_sessions: int = 50
    margin: float = 0.01
    topical_margin: float = 0.02
    queries: int = 500
    least_overlap: float = 0.3
    least_coverage: float = 0.8
    most_drift: float = 0.3
    most_missing: float = 0.0
    fresh_hours: float = 24.0

    def __post_init__(self) -> None:
        check_bounds(
            self,
            {
                "holdout": (1e-6, 1 - 1e-6), "sessions": (2, 10_000_000),
                "history": (2, 10_000_000), "least_sessions": (2, 10_000_000),
                "margin": (0.0, 1.0), "topical_margin": (0.0, 1.0), "queries": (1, 100_000),
                "least_overlap": (0.0, 1.0), "least_coverage": (0.0, 1.0), "most_drift": (0.0, math.inf),
                "most_missing": (0.0, 1.0), "fresh_hours": (1e-6, 1e6),
            },
        )  # fmt: skip


@dataclass(frozen=True)
class PromotionSettings:
    """What happens after a promotion.

    Attributes:
        keep_previous: earlier blue collections kept, and kept in line, to roll back to, 0..10.
        watch_hours: hours in which click-through is compared with the same time before, > 0.
        watch_sessions: sessions of each period below which nothing is said, >= 2.
        watch_margin: by how much the share of sessions with a click may fall, at the upper end of the 95%
            interval, before it is an alert, 0..1.
        roll_back: whether such an alert rolls back by itself.
    """

    keep_previous: int = 1
    watch_hours: float = 24.0
    watch_sessions: int = 200
    watch_margin: float = 0.0
    roll_back: bool = False

    def __post_init__(self) -> None:
        check_bounds(
            self,
            {
                "keep_previous": (0, 10), "watch_hours": (1e-6, 1e6), "watch_sessions": (2, 10_000_000),
                "watch_margin": (0.0, 1.0),
            },
        )  # fmt: skip
        check_flags(self, "roll_back")

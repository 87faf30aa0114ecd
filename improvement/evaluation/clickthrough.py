"""Did a promotion change how often people click? Two periods, compared a few times: pure functions."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: How often two periods are compared at most. Whoever looks often enough sees a difference by chance, so each
#: look gets its part of the 5 in 100 that a 95% interval may be wrong (Bonferroni): together they stay below.
LOOKS = 16
#: Users of each period without whom nothing is said: the variance between fewer is anybody's guess.
LEAST_USERS = 20

#: Sessions as (user, clicked); None is a user of its own each time.
Sessions = Sequence[tuple[str | None, bool]]


@dataclass(frozen=True)
class Compared:
    """Click-through of two periods.

    Attributes:
        before, after: share of sessions with a click, 0..1.
        sessions_before, sessions_after, users_before, users_after: of how many.
        difference: after less before.
        low, high: its interval, at the level of one look of `LOOKS`.
    """

    before: float
    after: float
    sessions_before: int
    sessions_after: int
    users_before: int
    users_after: int
    difference: float
    low: float
    high: float

    def as_json(self) -> dict[str, Any]:
        """Return what the API shows."""
        return asdict(self)


def look_due(sessions: int, least: int, looks: int) -> bool:
    """Say whether it is time for the next look: at ``least`` sessions, and whenever they doubled since.

    >>> [look_due(n, 200, looks) for n, looks in ((199, 0), (200, 0), (399, 1), (400, 1), (10**9, LOOKS))]
    [False, True, False, True, False]
    """
    return looks < LOOKS and sessions >= least * 2**looks


def compared(
    before: Sessions, after: Sessions, least: int, level: float = 1 - 0.05 / LOOKS
) -> Compared | None:
    """Compare the share of sessions with a click, or return None where there is too little to say anything.

    The interval is around the difference of the two shares, each with one more session that was clicked and
    one that was not (Agresti and Caffo 2000, "Simple and effective confidence intervals for proportions",
    https://doi.org/10.1080/00031305.2000.10474560), so that it holds for small shares, too. Its variance is
    that between users, over both periods: a user's sessions are not independent, and who is there in both
    periods compares with themselves (linearised ratio estimators, Cochran 1977, "Sampling techniques",
    chapter 6).

    Args:
        least: sessions of each period without which nothing is said, as without `LEAST_USERS` users.
        level: chance that the interval holds, 0..1.
    """
    users, clicked, late = _columns(before, after)
    counts = np.array([len(before), len(after)])
    people = [len(np.unique(users[late == period])) for period in (0, 1)]
    if counts.min() < least or min(people) < LEAST_USERS:
        return None
    shown = counts + 2
    shares = (np.bincount(late, clicked, 2) + 1) / shown
    sign = np.array([-1.0, 1.0])
    influence = (sign / shown)[late] * (clicked - shares[late])
    groups = np.bincount(users, influence)
    added = ((1 - shares) ** 2 + shares**2) / shown**2  # of the sessions that were added, each a user
    variance = (groups @ groups) * len(groups) / (len(groups) - 1) + added.sum()
    middle = float(shares @ sign)
    reach = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance)
    plain = np.bincount(late, clicked, 2) / counts
    return Compared(
        before=float(plain[0]),
        after=float(plain[1]),
        sessions_before=len(before),
        sessions_after=len(after),
        users_before=people[0],
        users_after=people[1],
        difference=float(plain[1] - plain[0]),
        low=middle - reach,
        high=middle + reach,
    )


def _columns(
    before: Sessions, after: Sessions
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Return of each session a number of its user, whether it was clicked, and 1 if it was after."""
    numbers: dict[object, int] = {}
    every = [*before, *after]
    users = [
        numbers.setdefault((place,) if user is None else user, len(numbers))
        for place, (user, _) in enumerate(every)
    ]
    clicked = np.array([one for _, one in every], np.float64)
    late = np.repeat([0, 1], [len(before), len(after)])
    return np.asarray(users, np.int64), clicked, late

"""How the users of a replay behave: the protocol's users are perfect, real ones are not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Behaviour:
    """What a user does with a shown list; the default is the protocol: all and only the relevant is clicked.

    Attributes:
        position_bias: the k-th place is looked at with probability ``k ** -position_bias``, >= 0; what is not
            looked at is not acted on. 0: everything is.
        accidents: probability, 0..1, that something irrelevant is clicked when looked at, and left within a
            second. A relevant click stays for 20 seconds when there are accidents.
        dislikes: probability, 0..1, that something irrelevant is marked not_interested when looked at.
        misleading_sessions: share, 0..1, of the training sessions, the first ones, in which the user looks
            for somebody else: as many clicks as there are relevant objects, on irrelevant ones.

    Raises:
        ValueError: naming the field and what was expected.
    """

    position_bias: float = 0.0
    accidents: float = 0.0
    dislikes: float = 0.0
    misleading_sessions: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.position_bias < np.inf:
            raise ValueError(f"position_bias: expected a finite number >= 0, got {self.position_bias!r}")
        for name in ("accidents", "dislikes", "misleading_sessions"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a number from 0 to 1, got {getattr(self, name)!r}")

    def propensities(self, places: int) -> tuple[float, ...]:
        """Return the chance that each place is looked at; () when all are certain.

        >>> Behaviour(position_bias=1.0).propensities(3)
        (1.0, 0.5, 0.3333)
        """
        if self.position_bias == 0:
            return ()
        return tuple((np.arange(1, places + 1) ** -self.position_bias).round(4).tolist())

    def acts(
        self, rng: np.random.Generator, relevant: Sequence[bool], progress: float
    ) -> Iterator[tuple[int, str, float | None]]:
        """Yield what the user does with a shown list: place from 0, event type, seconds of dwell.

        Args:
            relevant: of each place, whether the user wants what stands there.
            progress: how much of the training is over, 0..1.
        """
        wanted = np.array(relevant, bool)
        looked_at = rng.random(len(wanted)) < np.array(self.propensities(len(wanted)) or np.ones(len(wanted)))
        if progress < self.misleading_sessions:
            others = np.flatnonzero(~wanted)
            chosen = rng.choice(others, min(len(others), int(wanted.sum())), replace=False)
            wanted = np.isin(np.arange(len(wanted)), chosen)
        chance = rng.random(len(wanted))
        for place in np.flatnonzero(looked_at).tolist():
            if wanted[place]:
                yield place, "click", 20.0 if self.accidents else None
            elif chance[place] < self.accidents:
                yield place, "click", 1.0
            elif chance[place] < self.accidents + self.dislikes:
                yield place, "not_interested", None

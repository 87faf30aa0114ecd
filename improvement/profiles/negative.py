"""What a user disliked, fading: kept for use at query time."""

import math
from dataclasses import dataclass

from numpy.typing import ArrayLike

from improvement.evidence import DAY
from improvement.profiles.sphere import Floats, directions, lengths, number, positive_number


@dataclass(frozen=True, eq=False)
class NegativeProfile:
    """What a user disliked, fading: ``sum(|rating| * 0.5 ** (age / half life) * item)``, items of length 1.

    Its direction is the mean of the dislikes, its length their amount: dislikes that agree add up, those that
    have nothing to do with each other add up less (as the root of their number).

    Attributes:
        vector: the sum (D,), of any length, as it was at ``at``.
        at: the latest dislike, in seconds since 1970 by the server's clock.
    """

    vector: Floats
    at: float

    def strength(self, now: float, half_life_days: float) -> float:
        """Return how much it counts, 0 to 1: tanh of what is left of its length.

        One full dislike counts 0.76, half a life later 0.61, one life later 0.46. A ``now`` before ``at``
        counts as ``at``.
        """
        age = number("now", now) - self.at
        return math.tanh(float(lengths(self.vector)) * _left(age, half_life_days))


def remember_dislike(
    profile: NegativeProfile | None, item_vector: ArrayLike, rating: float, at: float, half_life_days: float
) -> NegativeProfile | None:
    """Return the negative profile after a rating; as it is, if that is no dislike or the item is zeros.

    Its direction moves towards the item along the great circle between them. The order in which dislikes
    arrive does not matter, only when they happened.

    Args:
        profile: None for a user who disliked nothing yet.
        item_vector: (D,), finite, of any length.
        rating: -1 to 1; only what is below 0 counts.
        at: when it happened, in seconds since 1970. Take the server's clock: from a date in the future, all
            that came before looks old.
        half_life_days: days after which a dislike counts half, > 0.

    Raises:
        ValueError: naming the argument and what was expected.

    >>> day = 86_400
    >>> first = remember_dislike(None, [2.0, 0.0], -1.0, at=0, half_life_days=30)
    >>> first.vector, round(first.strength(0, 30), 2), round(first.strength(30 * day, 30), 2)
    (array([1., 0.]), 0.76, 0.46)
    >>> remember_dislike(first, [0.0, 1.0], -0.5, at=30 * day, half_life_days=30).vector
    array([0.5, 0.5])
    """
    rating, at = number("rating", rating, -1, 1), number("at", at)
    shape = (None,) if profile is None else profile.vector.shape
    item = directions("item_vector", item_vector, shape)
    age = 0.0 if profile is None else at - profile.at
    fading = _left(age, half_life_days)
    if rating >= 0 or not item.any():
        return profile
    if profile is None:
        return NegativeProfile(-rating * item, at)
    late = _left(-age, half_life_days)  # what happened before the latest dislike has faded since
    return NegativeProfile(fading * profile.vector - rating * late * item, max(at, profile.at))


def _left(age: float, half_life_days: float) -> float:
    return float(0.5 ** (max(0.0, age) / (positive_number("half_life_days", half_life_days) * DAY)))

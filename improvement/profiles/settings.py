"""ProfileSettings: how a domain's users get profiles and what profiles do; data of the domain."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ProfileSettings:
    """How profiles are made, and how they steer a search.

    Attributes:
        learning_rate: least share of an interaction in the profile, 0..1; the first ones count 1 / (1 + n).
        min_interactions: interactions a user needs before the profile is used, >= 1.
        remember: latest interactions that the batch aggregates and that recommendations leave out, 1..1000.
        interests: most directions a user's taste is split into, 1..16; 1 keeps it whole.
        half_life_days: age, to the user's latest interaction, at which one counts half in the batch, > 0;
            None switches decay off.
        negative_half_life_days: age at which a dislike counts half, > 0.
        max_drift: farthest that dislikes turn a profile from what was liked, radians, 0..pi.
        away: how far the batch turns what was liked away from what was disliked, 0..1; 0: not at all.
        search_weight: ``profile_weight`` of searches that do not say, 0..1; 0 leaves them alone.
        negative_weight: how far a search is turned away from what was disliked, 0..1.
        rescored: nearest results of a search that the profile may reorder, 1..1000; the rest stay.
        temperature: how sharply a query picks among several interests, in cosines, > 0.
        popularity_half_life_days: age at which what somebody did counts half for what is popular, > 0.

    Raises:
        ValueError: naming the field and what was expected.
    """

    learning_rate: float = 0.05
    min_interactions: int = 2
    remember: int = 200
    interests: int = 1
    half_life_days: float | None = None
    negative_half_life_days: float = 30.0
    max_drift: float = math.pi / 3
    away: float = 0.6
    search_weight: float = 0.0
    negative_weight: float = 0.2
    rescored: int = 50
    temperature: float = 0.2
    popularity_half_life_days: float = 7.0

    def __post_init__(self) -> None:
        bounds = {
            "learning_rate": (0, 1), "max_drift": (0, math.pi), "away": (0, 1), "search_weight": (0, 1),
            "negative_weight": (0, 1), "min_interactions": (1, 1_000_000), "remember": (1, 1_000),
            "interests": (1, 16), "rescored": (1, 1_000),
        }  # fmt: skip
        for name, (least, most) in bounds.items():
            value, whole = getattr(self, name), isinstance(getattr(type(self), name), int)
            kinds = int if whole else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
                what = "a whole number" if whole else "a number"
                raise ValueError(f"{name}: expected {what} from {least} to {most:.6g}, got {value!r}")
        for name in (
            "half_life_days", "negative_half_life_days", "temperature", "popularity_half_life_days",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is None and name == "half_life_days":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"{name}: expected a number > 0, got {value!r}")

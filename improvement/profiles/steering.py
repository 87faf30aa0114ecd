"""A query, turned towards what its user likes and away from what they dislike."""

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from improvement.objects import Vectors
from improvement.profiles.negative import NegativeProfile
from improvement.profiles.settings import ProfileSettings
from improvement.profiles.sphere import PARALLEL, Floats, directions, lengths, number, positive_number, turn


class Tastes(Protocol):
    """What of a user turns their queries; `Profile` and `Taste` have it."""

    @property
    def embedding(self) -> Vectors | None: ...
    @property
    def interests(self) -> Vectors: ...
    @property
    def negative(self) -> NegativeProfile | None: ...


def steered(
    query: ArrayLike, profile: Tastes, now: float, profile_weight: float, settings: ProfileSettings
) -> Vectors:
    """Turn a query towards what a user likes and away from what they dislike; its length stays.

    It is `steer` towards `positive_for` the query, and away from the dislikes by `negative_weight` times what
    is left of their strength now. With weight 0 and nothing disliked the query comes back bit for bit.

    Args:
        query: (D,), finite, of any length; zeros stay.
        now: seconds since 1970, for the fading of dislikes.
        profile_weight: 0 to 1.

    Returns:
        float32 (D,).

    Raises:
        ValueError: naming the argument and what was expected.
    """
    direction = directions("query", query, (None,))
    negative, away = profile.negative, 0.0
    if negative is not None:
        away = settings.negative_weight * negative.strength(now, settings.negative_half_life_days)
    turned = steer(
        direction,
        positive_for(direction, profile.embedding, profile.interests, settings.temperature),
        None if negative is None else negative.vector,
        profile_weight,
        away,
    )
    length = lengths(np.asarray(query, np.float64))
    return (turned * length).astype(np.float32)


def positive_for(
    query: ArrayLike, embedding: ArrayLike | None, interests: ArrayLike, temperature: float
) -> Floats | None:
    """Return the direction of a taste that a query is about: unit (D,), or None when there is no taste.

    With several interests it is their mean weighted by ``softmax(interests @ query / temperature)``, so that
    the interests a query has nothing to do with stay out of it; with fewer than 2 it is the embedding.

    Args:
        query: (D,), finite, of any length; zeros ask for all interests alike.
        embedding: (D,), the whole taste, or None; also the answer if the weighted interests cancel out.
        interests: unit rows (k, D).
        temperature: > 0, in cosines.

    Raises:
        ValueError: naming the argument and what was expected.

    >>> positive_for([1.0, 0.0], None, [[0.8, 0.6], [0.0, 1.0]], temperature=0.1).round(3)
    array([0.8, 0.6])
    """
    temperature = max(1e-300, positive_number("temperature", temperature))  # quotients stay finite
    asked = directions("query", query, (None,))
    whole = None if embedding is None else directions("embedding", embedding, asked.shape)
    if len(np.atleast_1d(interests)) < 2:
        return whole
    rows = directions("interests", interests, (None, asked.size))
    cosines = rows @ asked
    weights = np.exp((cosines - cosines.max()) / temperature)
    mixed = weights @ rows / weights.sum()
    length = lengths(mixed)
    return whole if length < PARALLEL else mixed / length


def steer(
    query: ArrayLike,
    positive: ArrayLike | None,
    negative: ArrayLike | None,
    profile_weight: float,
    negative_weight: float,
) -> Floats:
    """Turn queries towards a profile, then away from a negative one: unit vectors, shape of the query.

    The turns are those of a like and a dislike, with the weights as shares. So the angle to the query is at
    most ``profile_weight * angle(query, positive) + negative_weight * pi / 2``, and the second turn ends at
    cosine 0 to the negative profile. A query that is the negative profile stays: it was asked for.

    Args:
        query: (..., D), finite. Zeros mean no query: the profile takes their place, if it has any weight.
        positive: the profile (D,), or None; zeros turn nothing.
        negative: the direction to leave (D,), or None, e.g. `NegativeProfile.vector`; zeros turn nothing.
        profile_weight: 0 to 1; 1 is the profile alone. At the angles that embeddings have (60 to 80 degrees),
            adding w times the profile to the query is about a weight of w / (1 + w).
        negative_weight: 0 to 1, e.g. a setting times `NegativeProfile.strength`.

    Raises:
        ValueError: naming the argument and what was expected.

    >>> steer([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], None, profile_weight=1 / 3, negative_weight=0.0)
    array([0.866, 0.5 , 0.   ])
    >>> steer([0.6, 0.8], None, [1.0, 0.0], profile_weight=0.0, negative_weight=1.0).round(6)
    array([0., 1.])
    """
    towards = number("profile_weight", profile_weight, 0, 1)
    away = number("negative_weight", negative_weight, 0, 1)
    steered = directions("query", query, None)
    size = steered.shape[-1:]
    for name, profile, share in (("positive", positive, towards), ("negative", negative, -away)):
        if profile is not None:
            steered = turn(steered, directions(name, profile, size), np.float64(share))[0]
    return steered

"""Profile: what is known of one user in one domain, and the interactions it was made from."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from improvement.objects import Vectors
from improvement.profiles.negative import NegativeProfile


class Interaction(NamedTuple):
    """What a user did with one object, all signals of one occasion together.

    A tuple, because batches hold hundreds of thousands.

    Attributes:
        weight: sum of the signed event weights (`EvidenceWeights.events`), not 0.
        at: when, in seconds since 1970.
    """

    object_id: str
    weight: float
    at: float


@dataclass(frozen=True, eq=False)
class Profile:
    """What serving needs of a user in a domain; this is what the cache holds.

    Vectors are unit float32 rows of one embedding space, and are compared in that space only.

    Attributes:
        model_version: id of the embedding space (the blue collection's ``embedding_model_id``).
        embedding: (D,), what the user likes, turned away from what they dislike; None while there is none.
        liked: (D,), what the likes alone say; dislikes may turn only so far from it; or None.
        negative: what the user dislikes, fading; None while there is nothing.
        interests: (k, D) directions of a taste that is not one direction; k = 0 when it is.
        positives, negatives: interactions of either sign that the profile is made from.
        seen: objects the user acted on, the latest last; at most ``2 * remember``.
        updated_at: last change, seconds since 1970; generated_at: last batch that made it anew, or None.
        version: grows with every change of the stored profile.
    """

    user_id: str
    domain: str
    model_version: str = ""
    embedding: Vectors | None = None
    liked: Vectors | None = None
    negative: NegativeProfile | None = None
    interests: Vectors = field(default_factory=lambda: np.empty((0, 0), np.float32))
    positives: int = 0
    negatives: int = 0
    seen: tuple[str, ...] = ()
    updated_at: float = 0.0
    generated_at: float | None = None
    version: int = 0

    @property
    def interactions(self) -> int:
        """Interactions of either sign."""
        return self.positives + self.negatives


@dataclass(frozen=True, eq=False)
class StoredProfile:
    """A profile with its history, as the store holds it.

    Attributes:
        recent: latest actions outside searches, oldest first, at most ``remember``.
        searched: latest evidence of improved sessions, oldest first, at most ``remember``.
        announced, applied: pushes of actions that were announced, and those whose actions are in the profile.
            They differ while a push is under way, or for good after one died.
        announced_at: the latest announcement, seconds since 1970.
        reread: whether ``recent`` must be read again from the log before the profile is made anew.
    """

    profile: Profile
    recent: tuple[Interaction, ...] = ()
    searched: tuple[Interaction, ...] = ()
    announced: int = 0
    applied: int = 0
    announced_at: float = 0.0
    reread: bool = False

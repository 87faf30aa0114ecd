"""One user's profile, made anew from their interactions; pure."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from improvement.objects import Vectors
from improvement.profiles.interests import taste
from improvement.profiles.profile import StoredProfile
from improvement.profiles.settings import ProfileSettings
from improvement.profiles.store import Rebuilt


def made(
    stored: StoredProfile, means: Mapping[str, Vectors | None], space: str, settings: ProfileSettings
) -> Rebuilt:
    """Make a user's profile anew from what they did; see `taste` for the formulas.

    All that searches say is aggregated, but only what they say for objects counts as interactions: what they
    say against them was mostly passed over, nothing that the user did. Objects that are gone say nothing.

    A profile of too few interactions has a reason not to be used. Its vectors are kept: what the user does
    next goes on from there.

    Args:
        means: object id -> mean part (D,), None where the object is gone; every object of the user is there.
        space: id of the embedding space that the mean parts are of.

    Raises:
        ValueError: a weight, time or vector that no profile can be made from; it is named.
    """
    history = sorted((*stored.searched, *stored.recent), key=lambda one: one.at)
    vectors, known = [], []
    for one in history:
        if (mean := means[one.object_id]) is not None:
            vectors.append(mean)
            known.append(one)
    said = taste(
        np.stack(vectors) if vectors else np.empty((0, 1), np.float32),
        [one.weight for one in known],
        [one.at for one in known],
        settings,
    )
    latest_first = dict.fromkeys(one.object_id for one in reversed(history))
    profile = replace(
        stored.profile,
        model_version=space,
        embedding=said.embedding,
        liked=said.liked,
        negative=said.negative,
        interests=said.interests,
        positives=said.positives,
        negatives=sum(one.weight < 0 and means[one.object_id] is not None for one in stored.recent),
        seen=tuple(latest_first)[: 2 * settings.remember][::-1],
    )
    reason = None
    if profile.interactions < settings.min_interactions:
        reason = f"{profile.interactions} of {settings.min_interactions} interactions"
    return Rebuilt(stored, profile, stored.recent, reason)

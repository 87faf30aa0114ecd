"""Profiles in a replay: made as the worker makes them, used as a search uses them."""

from collections.abc import Mapping, Sequence

import numpy as np

from improvement.domain import SearchIndexInfo
from improvement.evaluation.ranking import best_first, scores, searched
from improvement.objects import Object, Vectors
from improvement.profiles.made import made
from improvement.profiles.profile import Interaction, Profile, StoredProfile
from improvement.profiles.settings import ProfileSettings
from improvement.profiles.steering import steered
from improvement.profiles.usable import unusable

#: Stands where a collection has the id of its embedding space.
SPACE = "the replay's"


def profile_of(
    user_id: str,
    said: Sequence[Interaction],
    means: Mapping[str, Vectors | None],
    settings: ProfileSettings,
) -> Profile | None:
    """Return what a user's searches make of their profile, or None while it cannot be used.

    Args:
        said: what their sessions say, oldest first; the latest ``settings.remember`` count.
        means: object id -> the original's mean part (D,), or None where it is gone; all that counts.
    """
    stored = StoredProfile(Profile(user_id, "replay"), searched=tuple(said[-settings.remember :]))
    profile = made(stored, means, SPACE, settings).profile
    return profile if unusable(profile, SPACE, settings.min_interactions) is None else None


def rescored(
    query: Vectors,
    ranked: Sequence[Object],
    profile: Profile,
    now: float,
    settings: ProfileSettings,
    info: SearchIndexInfo,
) -> list[int]:
    """Return the places of ranked objects in the order that a profile gives the first ``settings.rescored``.

    Equal scores keep their order, what stands behind the first ones keeps its place, and with
    ``search_weight`` 0 everything does.

    Args:
        query: (M, D) prepared query vectors, each turned on its own.
        ranked: what the user sees, best first, copies in place of their originals.
        now: when the search happens, in seconds since 1970.
    """
    if settings.search_weight == 0:
        return list(range(len(ranked)))
    first = ranked[: settings.rescored]
    turned = np.stack([steered(row, profile, now, settings.search_weight, settings) for row in query])
    compared = [searched(one, info.metric_aggregation_type) for one in first]
    order = best_first(scores([turned], compared, info.metric_type)[0], len(first))
    return [*order.tolist(), *range(len(first), len(ranked))]

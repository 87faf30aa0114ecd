"""What a log of actions says, as interactions: those of one push on one object are one."""

import math
from collections import defaultdict
from collections.abc import Iterable

from clickstream.records import ReceivedAction
from improvement.evidence import MAX_WEIGHT, EvidenceWeights
from improvement.profiles.profile import Interaction

#: What one push said of one object: the weights of its actions, when they happened, their places in the log.
_Occasion = tuple[list[float], list[float], list[str]]


def interactions(
    actions: Iterable[ReceivedAction],
    evidence: EvidenceWeights,
    remember: int | None = None,
    broken: dict[str, str] | None = None,
) -> dict[str, list[Interaction]]:
    """Return each user's interactions, oldest first; of one user those they sent last, if not all.

    An interaction weighs what its actions add up to, but no more than the strongest event of the domain,
    however often it was done at once. Actions that say nothing, or cancel each other out, are none.

    Args:
        actions: of any users, in any order; read once, and forgotten as newer ones come.
        remember: most interactions of a user; None is all.
        broken: gets users whose actions the domain cannot weigh, with the reason; without it, that raises.
    """
    strongest = max((abs(weight) for weight in evidence.events.values()), default=0.0) or MAX_WEIGHT
    users: dict[str, dict[tuple[float, str], _Occasion]] = defaultdict(dict)
    oldest: dict[str, float] = {}
    for action in actions:
        try:
            weight = evidence.weight(action.action_type, action.meta)
        except Exception as error:  # a plugin may have weights of its own
            if broken is None:
                raise
            broken[action.user_id] = f"{type(error).__name__}: {error}"
            continue
        if not weight or action.received_at < oldest.get(action.user_id, 0.0):
            continue
        mine, key = users[action.user_id], (action.received_at, action.object_id)
        weights, times, places = mine.setdefault(key, ([], [], []))
        weights.append(weight)
        # created_at is a client's word, and its clock may run ahead: everything else would look old beside it
        created = action.received_at if action.created_at is None else action.created_at
        times.append(float(min(created, action.received_at)))
        places.append(action.place)
        if remember is not None and len(mine) > 4 * remember:  # some may cancel out: keep twice as many
            for late in sorted(mine)[: -2 * remember]:
                del mine[late]
            oldest[action.user_id] = min(mine)[0]
    return {user_id: said for user_id, mine in users.items() if (said := _said(mine, strongest, remember))}


def _said(
    mine: dict[tuple[float, str], _Occasion], strongest: float, remember: int | None
) -> list[Interaction]:
    found = []
    for (_, object_id), (weights, times, _) in sorted(mine.items(), key=lambda one: min(one[1][2])):
        weight = math.fsum(weights)  # whose last bit does not depend on the order of the actions
        if weight:
            found.append(Interaction(object_id, max(-strongest, min(strongest, weight)), max(times)))
    kept = found if remember is None else found[-remember:]
    return sorted(kept, key=lambda one: one.at)

"""Which copies a user keeps: of evidence that is young enough, those it says most about; pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from math import fsum

from clickstream.records import RegisteredSession
from improvement.copies import Key
from improvement.evidence import DAY
from improvement.inputs import ImprovementInput
from improvement.quality.settings import CopyLimits


def expires_at(session: RegisteredSession, limits: CopyLimits) -> float:
    """Return when a session stops teaching copies, in seconds since 1970.

    That long after it was registered: when it happened is a client's word.

    >>> expires_at(RegisteredSession(session_id="s", search_query="", registered_at=60), CopyLimits(1, 2.0))
    172860.0
    """
    if limits.expire_days is None or session.registered_at is None:
        return float("inf")
    return session.registered_at + limits.expire_days * DAY


def usefulness(inputs: Iterable[ImprovementInput]) -> dict[Key, float]:
    """Return how much a user's sessions say about each object: the sum of its weights' sizes, after decay.

    By user and object; the same in whatever order the sessions come.
    """
    sizes: dict[Key, list[float]] = defaultdict(list)
    for session in inputs:
        for element, weight in session.weighted():
            sizes[element.user_id, element.id].append(abs(weight))
    return {key: fsum(of) for key, of in sizes.items()}


def most_useful(useful: Mapping[Key, float], per_user: int) -> list[Key]:
    """Return each user's most useful objects, the most useful first and equally useful ones by their id.

    Who may keep one more keeps the same and one behind them.

    >>> most_useful({("ann", "b"): 1.0, ("ann", "a"): 1.0, ("ann", "c"): 2.0, ("bob", "a"): 0.1}, 2)
    [('ann', 'c'), ('ann', 'a'), ('bob', 'a')]

    Args:
        useful: by user and object, see `usefulness`.
        per_user: most objects of one user, >= 1.
    """
    mine: dict[str, list[Key]] = defaultdict(list)
    for key in useful:
        mine[key[0]].append(key)
    return [
        key for keys in mine.values() for key in sorted(keys, key=lambda key: (-useful[key], key))[:per_user]
    ]

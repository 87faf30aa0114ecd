"""What everybody likes at the moment: each user's word once per object, fading with age."""

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from clickstream.records import ReceivedAction, RegisteredSession
from improvement.evidence import DAY, EvidenceWeights, happened_at


class Signal(NamedTuple):
    """What one user did with one object: signed event weight, and when (seconds since 1970)."""

    user_id: str
    object_id: str
    weight: float
    at: float


def popularity(signals: Iterable[Signal], half_life_days: float, limit: int) -> list[tuple[str, float]]:
    """Return the most popular objects and their scores, best first; objects that tie by their id.

    The score of an object is a sum over users, of each user's strongest signal alone::

        score(o) = sum over users of  max over their signals about o of  weight * 0.5 ** (age / half life)

    So nobody makes an object popular alone, however often they act. Age counts to the latest of all signals:
    against any later moment all would fade alike.

    Args:
        signals: in any order; weights of 0 and below say nothing here.
        half_life_days: age at which a signal counts half, > 0.
        limit: most objects.

    >>> popularity([Signal("ann", "a", 5, 0), Signal("bob", "b", 1, 0), Signal("cat", "b", 5, 0)], 7, 10)
    [('b', 6.0), ('a', 5.0)]
    """
    liked = [signal for signal in signals if signal.weight > 0]
    latest = max((signal.at for signal in liked), default=0.0)
    strongest: dict[tuple[str, str], float] = {}
    for user_id, object_id, weight, at in liked:
        key, left = (object_id, user_id), weight * 0.5 ** ((latest - at) / (half_life_days * DAY))
        strongest[key] = max(left, strongest.get(key, 0.0))
    words: dict[str, list[float]] = defaultdict(list)
    for (object_id, _), left in strongest.items():
        words[object_id].append(left)
    # fsum: who acted first must not decide between objects that tie
    scores = {object_id: math.fsum(of) for object_id, of in words.items()}
    return heapq.nsmallest(limit, scores.items(), key=lambda one: (-one[1], one[0]))


def acted(actions: Iterable[ReceivedAction], evidence: EvidenceWeights) -> Iterator[Signal]:
    """Yield what actions outside searches say; a client's clock that runs ahead does not count."""
    for action in actions:
        at = action.received_at if action.created_at is None else min(action.created_at, action.received_at)
        yield Signal(action.user_id, action.object_id, evidence.weight(action.action_type, action.meta), at)


def searched(sessions: Iterable[RegisteredSession], evidence: EvidenceWeights) -> Iterator[Signal]:
    """Yield what the events of sessions say of the objects that were shown.

    Sessions marked irrelevant say nothing. Those of nobody in particular do not either: who is not known
    cannot be counted once.
    """
    for session in sessions:
        if session.user_id is None or session.is_irrelevant:
            continue
        shown = {result.object_id for result in session.search_results}
        weights: dict[str, list[float]] = defaultdict(list)
        for event in session.events:
            if event.object_id in shown:
                weights[event.object_id].append(evidence.weight(event.event_type, event.meta))
        for object_id, of in weights.items():  # a thousand shares are one
            yield Signal(session.user_id, object_id, min(math.fsum(of), max(of)), happened_at(session))

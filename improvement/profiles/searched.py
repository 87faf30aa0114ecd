"""What a user's improved searches say, as interactions; pure."""

from collections.abc import Iterable

from improvement.copies import UsableSession
from improvement.evidence import EvidenceWeights, happened_at
from improvement.profiles.profile import Interaction


def searched(sessions: Iterable[UsableSession], evidence: EvidenceWeights) -> list[Interaction]:
    """Return what sessions say of their objects, in units of event weights, in their order.

    A weight of a session is a share of full evidence; saturation brings it to the scale of event weights.

    >>> from clickstream.records import RegisteredSession
    >>> session = RegisteredSession(session_id="s", search_query="", user_id="ann", created_at=60)
    >>> searched([UsableSession(session, {"o": -0.5})], EvidenceWeights(saturation=3.0))
    [Interaction(object_id='o', weight=-1.5, at=60.0)]
    """
    scale = evidence.saturation or 1.0
    return [
        Interaction(object_id, float(weight * scale), float(happened_at(one.session)))
        for one in sessions
        for object_id, weight in one.weights.items()
    ]

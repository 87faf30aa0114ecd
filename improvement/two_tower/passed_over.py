"""What was shown before engagements, to their users and to others, from the log."""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from math import inf, nextafter

from clickstream.records import ReceivedAction
from clickstream.store import ASKED
from improvement.domain import SearchDomain
from improvement.evidence import happened_at
from improvement.improver import Improver
from improvement.two_tower.engagement import signal_of
from improvement.two_tower.sampling import Seen

#: Sessions of a stretch of time that are read at most, the newest, and actions, the oldest.
SESSIONS, ACTIONS = 5_000, 20_000
#: Times that something was shown, beyond which no more sessions are read.
SHOWN = 500_000


def shown_before(
    rooms: Improver,
    domain: SearchDomain,
    users: Collection[str],
    moments: Sequence[float],
    within: float,
    keep: Callable[[], object] = lambda: None,
) -> tuple[list[Seen], list[tuple[str, float]]]:
    """Read from the log what was shown in the ``within`` seconds before each of these moments; in pages.

    Which sessions these are the server's clock says; when what they show was shown, the client's where it is
    earlier, as for engagements: so a clock that is wrong is wrong of both.

    Args:
        users: whose sessions and views are told apart.
        moments: when engagements were received, seconds since 1970; at least one.
        keep: called between pages.

    Returns:
        What was shown to these users, or seen by them, and when; and object ids of what was shown to anybody,
        and when. Both oldest first.
    """
    ordered, whose = sorted(moments), frozenset(users)
    seen: list[Seen] = []
    pool: list[tuple[str, float]] = []

    def show(user_id: str | None, objects: Sequence[str], at: float) -> None:
        pool.extend((object_id, at) for object_id in objects)
        if user_id is not None and user_id in whose:
            seen.extend(Seen(user_id, object_id, at) for object_id in objects)

    since, until = ordered[0] - within, nextafter(ordered[-1], inf)
    chosen: deque[str] = deque(maxlen=SESSIONS)
    for page in rooms.clickstream.registered(domain.name, since, until):
        for session_id, at in page:
            place = bisect_left(ordered, at)
            if place < len(ordered) and ordered[place] - at <= within:
                chosen.append(session_id)
        keep()
    ids = list(chosen)[::-1]  # the newest first
    for start in range(0, len(ids), ASKED):
        if len(pool) > SHOWN:
            break
        for session in rooms.clickstream.sessions(ids[start : start + ASKED]):
            if not session.is_irrelevant:
                objects = [result.object_id for result in session.search_results]
                show(session.user_id, objects, happened_at(session))
        keep()
    for action in islice(rooms.actions.since(domain.name, since), ACTIONS):
        if action.received_at >= until:
            break
        if _seen_only(action, domain):
            at = min(float(action.created_at or action.received_at), action.received_at)
            show(action.user_id, [action.object_id], at)
    keep()
    # a store may answer in any order, and what is drawn must not depend on it
    seen.sort(key=lambda one: (one.at, one.user_id, one.object_id))
    pool.sort(key=lambda one: (one[1], one[0]))
    return seen, pool


def _seen_only(action: ReceivedAction, domain: SearchDomain) -> bool:
    """Say whether an action is a weak view: it says that the object was seen, and is no engagement."""
    seen = domain.evidence.weight(action.action_type, action.meta) > 0
    return seen and signal_of(domain, action.action_type, action.meta) is None

"""Erase a user: everything that names them, in every store."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import structlog

from clickstream.improvement_queue import Owner

if TYPE_CHECKING:
    from improvement.wiring import Rooms

log = structlog.get_logger()


@dataclass(frozen=True)
class Erased:
    """How much of each kind was removed.

    Attributes:
        queue: sessions that were or had been queued for improvement.
        profiles: domains the user had a profile in.
        neighbours: collections of nearest users that the user was in.
        copies: personal copies in all collections, blue and green.
        towers: vectors and training pairs of the two towers.
    """

    sessions: int
    events: int
    actions: int
    queue: int
    profiles: int
    neighbours: int
    copies: int
    towers: int

    def as_json(self) -> dict[str, int]:
        """Return what the API shows."""
        return asdict(self)


def erase_user(rooms: "Rooms", user_id: str) -> Erased:
    """Delete everything of a user; safe to repeat, and to be repeated when it failed half-way.

    The number of store calls depends on how many domains and collections there are, not on what the user
    did. Whatever is received while this runs may count as coming before it or after.

    Nobody is waited for. A worker that read the user's sessions before may write copies and evidence after;
    but it holds the user's lease, so that the rebuild queued here is done behind it: it finds no session,
    deletes what came late, and then its own line, the last to name the user. A batch that is making the
    user's profile finds it gone when it writes, and takes the user out of the neighbours again. Gate reports
    lose what the user searched for, and a gate at work takes it out of what it has just stored; their
    numbers, which are means, stay.

    The towers go by the log, too: whoever learned from an engagement looks, after the last write, whether it
    is still logged, and deletes the user's vectors and pairs if it is not. How the user moved items stays,
    for it names nobody: an item tells its engagements apart by digests.

    Where learning is frozen, a rebuild would wait, and its line name the user, until somebody resumes: there
    it is queued only if a worker holds the user.

    Raises:
        Unavailable, PyMongoError, ApiException: a store does not answer; some of it is erased, repeat it.
    """
    # Profiles before actions: whoever announced actions before and logs them after finds no profile and takes
    # them back. Whoever announced them after may have applied what was then deleted from the log, which is
    # therefore read again.
    profiles = rooms.profiles.erase(user_id, rooms.domains)
    actions = rooms.actions.erase(user_id)
    rooms.profiles.mark_user(user_id)
    neighbours = rooms.neighbours.erase(user_id)  # after the profiles: who finds them gone cleans up
    sessions, events = rooms.clickstream.erase(user_id)
    # After the log, actions and sessions: what is written while that goes is deleted now, or by its writer.
    towers = rooms.entries.erase(user_id) + rooms.pairs.erase(user_id)
    # What audits remember after profiles and entries: one that read these before looks for them behind its
    # samples.
    rooms.samples.erase([Owner(name, user_id).key for name in rooms.domains])
    # After the sessions: a gate looks, behind its report, whether those whom it tells of still have theirs.
    rooms.reports.erase(Owner(name, user_id).key for name in rooms.domains)
    queue = rooms.queue.erase(user_id)
    collections = [release.collection_id for name in rooms.domains for release in rooms.releases.list(name)]
    copies = sum(rooms.vectors.erase(collection, [user_id]) for collection in collections)
    owners = [Owner(name, user_id) for name in rooms.domains]
    frozen = rooms.learning.frozen(rooms.domains)
    held = rooms.queue.held(owner for owner in owners if owner.domain in frozen)
    rooms.queue.enqueue_rebuild(o for o in owners if o.domain not in frozen or o in held)
    rooms.wake()
    erased = Erased(sessions, events, actions, queue, profiles, neighbours, copies, towers)
    log.info("user erased", **erased.as_json())
    return erased

"""How many of those who are there have a profile that can be used, and copies of their own."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import structlog

from clickstream.improvement_queue import Owner
from improvement.domain import SearchDomain
from improvement.improver import Improver
from improvement.profiles.profile import StoredProfile
from improvement.profiles.usable import unusable
from improvement.releases import Serving

log = structlog.get_logger()

#: Users asked for in one request.
ASKED = 100


@dataclass(frozen=True)
class Coverage:
    """Of some users who were active.

    Attributes:
        active: how many there were; ``looked_at``: how many of them these shares are of, always the same
            ones.
        usable: share with a profile that can be used, 0..1; None of nobody.
        copies: share with copies of their own.
        ready: how many did enough for a profile.
        usable_of_ready: share of those who have one that can be used; None of nobody.
    """

    active: int
    looked_at: int
    usable: float | None
    copies: float | None
    ready: int
    usable_of_ready: float | None

    def as_json(self) -> dict[str, Any]:
        """Return what the API shows."""
        return asdict(self)


def coverage(rooms: Improver, domain: SearchDomain, serving: Serving, active: Iterable[str]) -> Coverage:
    """Return how many of these users have a profile, and copies, in the collection that serves."""
    everybody = sorted(set(active), key=lambda user: Owner(domain.name, user).key)
    users = everybody[: domain.audit.sample]
    known: dict[str, StoredProfile] = {}
    with_copies: set[str] = set()
    for start in range(0, len(users), ASKED):
        some = users[start : start + ASKED]
        known |= _loaded(rooms, domain.name, some)
        with_copies |= {copy.user_id for copy in rooms.vectors.copies(serving.collection_id, some)}
    least = domain.profiles.min_interactions
    usable = {u for u, one in known.items() if unusable(one.profile, serving.space, least) is None}
    ready = {u for u, one in known.items() if len(one.recent) + len(one.searched) >= least}
    return Coverage(
        active=len(everybody),
        looked_at=len(users),
        usable=len(usable) / len(users) if users else None,
        copies=len(with_copies.intersection(users)) / len(users) if users else None,
        ready=len(ready),
        usable_of_ready=len(usable & ready) / len(ready) if ready else None,
    )


def _loaded(rooms: Improver, domain: str, users: list[str]) -> Mapping[str, StoredProfile]:
    try:
        return rooms.profiles.load(domain, users)
    except (KeyError, TypeError, ValueError) as error:  # a document that cannot be read: whose, is not asked
        log.warning("profiles that cannot be read", domain=domain, users=len(users), error=repr(error))
        return {}

"""What a worker does for the two towers of every domain, one thing after the other."""

from collections.abc import Callable

import structlog

from improvement.domain import SearchDomain
from improvement.improver import Improver
from improvement.two_tower.anchoring import read_users
from improvement.two_tower.audit import audit_towers
from improvement.two_tower.beginning import begin_when_settled
from improvement.two_tower.catching_up import catch_up
from improvement.two_tower.progress import LostTraining
from improvement.two_tower.releasing import publish_due, tend_releases
from improvement.two_tower.training import archive_pairs, train_candidate, train_users

log = structlog.get_logger()

#: In this order: what was missed is learned before it is trained on, and what was trained is published.
STEPS: tuple[Callable[[Improver, SearchDomain], object], ...] = (
    begin_when_settled,
    catch_up,
    train_candidate,
    train_users,
    publish_due,
    tend_releases,
    read_users,
    archive_pairs,
    audit_towers,
)


def run_towers(rooms: Improver) -> int:
    """Do what is due of every domain's towers; return how many steps did something.

    A step that fails is logged and tried again with the next tick; it keeps neither the others from theirs
    nor the other domains.
    """
    done = 0
    for domain in rooms.domains.values():
        if domain.towers is None:
            continue
        for step in STEPS:
            try:
                done += bool(step(rooms, domain))
            except LostTraining:
                break  # another worker is at it
            except Exception:
                log.exception("towers step failed", step=step.__name__, domain=domain.name)
    return done

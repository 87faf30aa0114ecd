"""Promote and roll back: switch the alias, then have personal copies rebuilt where it points now."""

from clickstream.improvement_queue import ImprovementQueue
from improvement.background import Wake
from improvement.releases import Release, Releases


def promote(
    releases: Releases, queue: ImprovementQueue, wake: Wake, domain: str, embedding_model_id: str
) -> Release:
    """Make a collection blue; every user's copies follow from the clickstream."""
    release = releases.set_blue(domain, embedding_model_id)
    # Also when it was blue already: repeating set-blue brings copies in line with the clickstream.
    rebuild_copies(releases, queue, domain)
    wake()
    return release


def rollback(releases: Releases, queue: ImprovementQueue, wake: Wake, domain: str) -> Release:
    """Make the collection blue that was blue before; raises Conflict without one."""
    release = releases.rollback(domain)
    rebuild_copies(releases, queue, domain)
    wake()
    return release


def rebuild_copies(releases: Releases, queue: ImprovementQueue, domain: str) -> None:
    """Queue a rebuild for every user of a domain; the worker does it too, should we die before."""
    queue.enqueue_rebuild(queue.owners(domain))
    releases.mark_rebuilt(domain)

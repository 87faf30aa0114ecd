"""Promote and roll back: switch the alias, then have personal copies rebuilt where it points now."""

from clickstream.improvement_queue import ImprovementQueue
from improvement.background import Wake
from improvement.releases import Release, Releases


def promote(
    releases: Releases, queue: ImprovementQueue, wake: Wake, domain: str, embedding_model_id: str
) -> Release:
    """Make a collection blue; every user's copies follow from the clickstream."""
    release = releases.set_blue(domain, embedding_model_id)
    _rebuild(queue, wake, domain)
    return release


def rollback(releases: Releases, queue: ImprovementQueue, wake: Wake, domain: str) -> Release:
    """Make the collection blue that was blue before; raises Conflict without one."""
    release = releases.rollback(domain)
    _rebuild(queue, wake, domain)
    return release


def _rebuild(queue: ImprovementQueue, wake: Wake, domain: str) -> None:
    queue.enqueue_rebuild(queue.owners(domain))
    wake()

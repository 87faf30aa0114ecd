"""Promote and roll back: switch the alias, then have copies and profiles rebuilt where it points now."""

from clickstream.improvement_queue import ImprovementQueue
from improvement.background import Wake
from improvement.profiles.store import ProfileStore
from improvement.releases import Release, Releases


def promote(
    releases: Releases,
    queue: ImprovementQueue,
    profiles: ProfileStore,
    wake: Wake,
    domain: str,
    embedding_model_id: str,
) -> Release:
    """Make a collection blue; every user's copies and profile follow from the clickstream."""
    release = releases.set_blue(domain, embedding_model_id)
    # Also when it was blue already: repeating set-blue brings both in line with the clickstream.
    rebuild_all(releases, queue, profiles, domain)
    wake()
    return release


def rollback(
    releases: Releases, queue: ImprovementQueue, profiles: ProfileStore, wake: Wake, domain: str
) -> Release:
    """Make the collection blue that was blue before; raises Conflict without one."""
    release = releases.rollback(domain)
    rebuild_all(releases, queue, profiles, domain)
    wake()
    return release


def rebuild_all(releases: Releases, queue: ImprovementQueue, profiles: ProfileStore, domain: str) -> None:
    """Have every user's copies and profile of a domain made anew by the worker's next run.

    The worker does it too, should we die before.
    """
    queue.enqueue_rebuild(queue.owners(domain))
    profiles.mark_all(domain)
    queue.hurry(profiles_tick(domain))
    releases.mark_rebuilt(domain)


def profiles_tick(domain: str) -> str:
    """Return the name of the tick at which the domain's profiles are made anew."""
    return f"profiles {domain}"

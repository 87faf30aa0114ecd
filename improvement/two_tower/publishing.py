"""Publish a checkpoint: a collection of its own with every object, through its candidate tower."""

import time
from collections.abc import Callable
from dataclasses import replace

import structlog

from improvement.domain import SearchDomain
from improvement.errors import NotFound
from improvement.improver import Improver
from improvement.releases import Release
from improvement.two_tower.names import towers_domain, towers_info

log = structlog.get_logger()

#: Objects brought at once.
PAGE = 1_000
#: Seconds between two looks at a server's index, and after which it is not waited for any longer.
PAUSE, PATIENCE = 0.25, 600.0
#: Called with how many objects were looked at, and of how many.
Progress = Callable[[int, int], object]


def publish(
    rooms: Improver,
    domain: SearchDomain,
    checkpoint_id: str,
    progress: Progress = lambda done, total: None,
) -> Release:
    """Make, or finish, the green collection of a checkpoint: every object through its candidate tower.

    From its first moment writes of the catalogue reach it, too. Killed anywhere and repeated it goes on: what
    is there already is compared and left alone. Objects that cannot be made (see `EveryShape`) are left out.

    Raises:
        NotFound: the domain has no such checkpoint.
        Unavailable: the checkpoint is damaged, or a store does not answer.
    """
    if rooms.towers.checkpoint(checkpoint_id).domain != domain.name:
        raise NotFound(f"domain {domain.name!r} has no checkpoint {checkpoint_id!r}")
    info = towers_info(rooms.towers.tower(checkpoint_id).settings)  # the domain's may have changed since
    named = replace(towers_domain(domain), search_index_info=info)
    release = rooms.releases.create(named, checkpoint_id)
    rooms.releases.follow(release, True)
    failed = _fill(rooms, domain, release, progress)
    if not release.index_created:
        _index(rooms, release, progress)
    log.info(
        "towers published", domain=domain.name, checkpoint=checkpoint_id, failed=len(failed),
        first=next(iter(failed.items()), None),
    )  # fmt: skip
    return rooms.releases.get(release.domain, checkpoint_id)


def _fill(rooms: Improver, domain: SearchDomain, release: Release, progress: Progress) -> dict[str, str]:
    """Bring all there is, and then what somebody wrote who died; return why some cannot be made."""
    while True:
        source = rooms.releases.blue(domain.name)
        try:
            failed = _brought(rooms, domain, source, release, progress)
        except Exception:
            if rooms.releases.serving(domain.name).collection_id == source.collection_id:
                raise
            continue  # it is not served from any more, and may be gone
        if rooms.releases.serving(domain.name).collection_id == source.collection_id:
            return failed


def _brought(
    rooms: Improver, domain: SearchDomain, source: Release, release: Release, progress: Progress
) -> dict[str, str]:
    total, done, after = rooms.vectors.count(source.collection_id, None), 0, None
    while True:
        _, count, after = rooms.mirror.fill(domain, source, release, PAGE, after)
        done += count
        progress(done, max(done, total))
        if after is None:
            break
    return rooms.mirror.reconcile(domain, source, release, lambda _: progress(done, done)).failed


def _index(rooms: Improver, release: Release, progress: Progress) -> None:
    if rooms.optimize is not None:
        rooms.optimize(release.collection_id)
    waited = time.monotonic()
    while not rooms.releases.indexed(release):
        progress(1, 1)
        if time.monotonic() - waited > PATIENCE:
            log.warning("the index is not waited for any longer", collection=release.collection_id)
            break
        time.sleep(PAUSE)
    rooms.releases.mark_indexed(release)

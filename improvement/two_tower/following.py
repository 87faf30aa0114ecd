"""TowerFollowing: a domain's towers hold what its catalogue holds, within the request that wrote it."""

from collections.abc import Sequence

import structlog

from improvement.domain import SearchDomain
from improvement.green.mirror import Mirror
from improvement.releases import Release, Releases
from improvement.two_tower.entries import EntryStore
from improvement.two_tower.names import towers_name
from improvement.two_tower.resetting import forget_moves
from improvement.two_tower.serving import ServingTowers
from improvement.vectors import VectorStore

log = structlog.get_logger()

#: Rounds after which a write is given up because another collection begins to serve in each of them.
ROUNDS = 20


class TowerFollowing:
    """Brings objects to the towers' collections: the one that serves, and those that follow it.

    The argument why nothing is lost is that of `green.mirror`: it asks who follows behind the write, and
    looks at what was written again behind its own. Copies of users never go there.
    """

    def __init__(
        self,
        releases: Releases,
        vectors: VectorStore,
        mirror: Mirror,
        towers: ServingTowers,
        entries: EntryStore,
    ) -> None:
        self._releases, self._vectors, self._mirror = releases, vectors, mirror
        self._towers, self._entries = towers, entries

    def bring(self, domain: SearchDomain, object_ids: Sequence[str]) -> None:
        """Bring these objects to the towers as the domain's own collection holds them, or does no longer.

        New ones are noted as created now. One whose content changed gets a vector anew, and how engagement
        moved the old one is forgotten. Call it behind the write; a domain without towers costs nothing.

        Towers that cannot be read (their checkpoint is gone, or was damaged) keep nobody from writing: that
        is logged, and a worker brings what they lack once an hour. A store that fails is told, as everywhere.
        """
        if domain.towers is None or not object_ids:
            return
        ids = list(dict.fromkeys(object_ids))
        for _ in range(ROUNDS):
            source = self._releases.blue(domain.name)
            try:
                self._bring(domain, source, ids)
                return
            except Exception:
                if self._releases.serving(domain.name).collection_id == source.collection_id:
                    raise  # else it is not served from any more, and may be gone
        log.warning("left to the next comparison", domain=domain.name, objects=len(ids))

    def _bring(self, domain: SearchDomain, source: Release, ids: Sequence[str]) -> None:
        there = self._vectors.revisions(source.collection_id, ids)
        releases = self._towers.releases_of(domain.name)
        held = {one.collection_id: self._held(one, ids) for one in releases}
        known = [held[one.collection_id] for one in releases if one.blue]
        new = [i for i in there if not any(i in of for of in known)]
        self._entries.create_items(domain.name, new)  # first: should we die, they are new the next time, too
        for release in releases:
            having = held[release.collection_id]
            changed = [i for i in having if i not in there or having[i] != there[i].given]
            lacking = [i for i in there if having.get(i) != there[i].given]
            if lacking and not self._readable(domain, release):
                continue
            # Twice: whoever moves one meanwhile begins at what is old the first time.
            self._forget(domain, release, changed)
            try:
                brought = self._mirror.bring(domain, source, release, ids)
            except Exception:
                if any(one.collection_id == release.collection_id for one in self._now(domain)):
                    raise
                continue  # it was deleted meanwhile, or follows no longer
            self._forget(domain, release, changed)
            if brought.failed:
                log.warning(
                    "the towers lack objects", domain=domain.name, collection=release.collection_id,
                    count=len(brought.failed), first=next(iter(brought.failed.items())),
                )  # fmt: skip
        self._entries.delete_items(domain.name, [i for i in ids if i not in there])

    def _held(self, release: Release, ids: Sequence[str]) -> dict[str, str]:
        """Return what content a release holds of these objects."""
        try:
            found = self._vectors.revisions(release.collection_id, ids)
        except Exception:
            if any(one.collection_id == release.collection_id for one in self._releases.list(release.domain)):
                raise
            return {}
        return {object_id: one.given for object_id, one in found.items()}

    def _readable(self, domain: SearchDomain, release: Release) -> bool:
        try:
            self._towers.tower(release.space)
        except Exception:  # whatever is wrong with it, it is not the writer's fault
            log.exception("towers cannot be read", domain=domain.name, checkpoint=release.space)
            return False
        return True

    def _forget(self, domain: SearchDomain, release: Release, changed: Sequence[str]) -> None:
        if release.blue and changed:
            forget_moves(self._entries, domain.name, changed)

    def _now(self, domain: SearchDomain) -> list[Release]:
        return self._releases.list(towers_name(domain.name))

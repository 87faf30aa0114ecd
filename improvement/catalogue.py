"""Catalogue: the writer of a domain's objects, in every collection that must hold them.

A write is done when, behind the last thing that its writer wrote, every follower was seen to hold it and then
the blue collection was. To have seen it in the blue one alone says nothing: a builder taken for dead may have
brought back, late, what was there before, a writer may have brought that to the follower, and while the blue
one holds the new for a moment the old comes back from there.

Why both looks are enough, in this order, whatever late builders bring from a follower to what serves by now:
behind the look at it a follower goes on holding what was written, for only writers bring it anything, and
this one is done. Whoever brings something from there looks there again after he wrote it, and brings what he
finds until it is the same. If he looks there after our look, what he leaves is ours; if he was done before,
so was his write, and our look at the blue one came after it. So what it holds in the end is what was
acknowledged, or what another writer wrote who was not done by then, and who looks in the same way.

What nobody can see by looking: two that are late in opposite directions, each holding something old that he
read before the write began; or one late builder, and a writer who dies with that old content in his hands.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import structlog

from clickstream.improvement_queue import ImprovementQueue, Owner
from improvement.background import Wake
from improvement.domain import SearchDomain
from improvement.errors import Conflict, Unavailable
from improvement.green.mirror import Mirror
from improvement.green.shapes import Shaper
from improvement.objects import Object, given_rows
from improvement.originals import delete_originals, write_originals
from improvement.releases import Release, Releases, World
from improvement.schemas import with_revision
from improvement.vectors import VectorStore

log = structlog.get_logger()

#: Times that what was not found everywhere is written again, and the longest pause before it, in seconds for
#: each time that it was: two who write one object would else keep in step.
REWRITES, PAUSE = 10, 0.01
#: Rounds after which a write is refused because another collection begins to serve in each of them.
ROUNDS = 20
#: The revision that each of these objects is to have, as given; None: it is not to be there.
Wanted = Mapping[str, str | None]


class Behind(Protocol):
    """What else is told of every write, behind it, see `improvement.two_tower.following`."""

    def bring(self, domain: SearchDomain, object_ids: Sequence[str]) -> None:
        """Bring in line with these objects what else holds them."""
        ...


class Catalogue:
    """Upserts, inserts and deletes of one domain's objects; round trips per batch, never per object.

    What is written goes to the blue collection first, then whoever follows it is brought in line, see
    `improvement.green.mirror`. When a call returns, all of them hold it, whatever was built, promoted or
    rolled back meanwhile. When one raises, the blue one may hold it already: send it again. (Unavailable also
    says that others wrote the same objects all the time.)

    Args:
        domain: as it is configured, with all its variants.
        aside: a collection made by hand, to write instead of the blue one; should it begin to serve
            meanwhile, what is written goes the way of everything.
        behind: is told of every write of originals.
    """

    def __init__(
        self,
        domain: SearchDomain,
        vectors: VectorStore,
        queue: ImprovementQueue,
        wake: Wake,
        releases: Releases,
        mirror: Mirror,
        shaper: Shaper,
        aside: Release | None = None,
        behind: Behind | None = None,
    ) -> None:
        self._domain, self._vectors, self._queue, self._wake = domain, vectors, queue, wake
        self._releases, self._mirror, self._shaper, self._aside = releases, mirror, shaper, aside
        self._behind = behind

    def insert(self, objects: Sequence[Object], space: str) -> None:
        """Write new objects; raises Conflict, and writes nothing, when an original exists already."""
        originals = [o.object_id for o in objects if o.user_id is None]
        existing = self._vectors.revisions(self._now().blue.collection_id, originals)
        if existing:
            raise Conflict(f"already there, use upsert: {sorted(existing)[:10]}")
        self.upsert(objects, space)

    def upsert(self, objects: Sequence[Object], space: str, shrink_parts: bool = True) -> None:
        """Write objects; what is unchanged is left alone, and copies of what changed are made anew.

        Args:
            objects: each id once, as given.
            space: the embedding space of their vectors.
            shrink_parts: False keeps stored parts whose part_id the new object does not name.

        Raises:
            Conflict: a collection of another space began to serve, and an object cannot be made for it.
            Unavailable: so it did, and vectors of the space that served cannot be used any more.
        """
        copies = [o for o in objects if o.user_id is not None]
        given = {o.object_id: o for o in objects if o.user_id is None}
        if copies or not shrink_parts:
            blue = self._now().blue
            if blue.space != space:
                raise Unavailable(f"a collection of the space {blue.space!r} began to serve; send it again")
            stored = {} if shrink_parts else self._vectors.find(blue.collection_id, given)
            given = {object_id: _merged(stored.get(object_id), o) for object_id, o in given.items()}

        wanted = {object_id: o.given_revision for object_id, o in given.items()}
        begun: dict[str, str | None] = {}

        def write(blue: Release) -> bool:
            held = self._vectors.revisions(blue.collection_id, given)
            lacking = [o for i, o in given.items() if i not in held or held[i].given != o.given_revision]
            shaped = self._shaper.shaped(self._domain, lacking, space, blue)
            if shaped.failed:
                self._refuse(blue, begun, shaped.failed)
            begun.update((o.object_id, wanted[o.object_id]) for o in shaped.objects)
            write_originals(self._vectors, blue.collection_id, shaped.objects, held, self._rebuild)
            return bool(lacking)

        if given:
            self._carry(write, wanted)
            self._tell(wanted)
        if copies:
            self._write_copies(copies, space)

    def delete(self, object_ids: Sequence[str]) -> None:
        """Delete originals and every copy of them; unknown ids are ignored."""
        again = False

        def write(blue: Release) -> bool:
            nonlocal again
            held = self._vectors.revisions(blue.collection_id, object_ids)
            # At first the rest too, which may have copies all the same. Not when it is looked at again: what
            # somebody writes after this look must stay, for nobody would tell the others that it is gone.
            gone = [*held] if again else object_ids
            delete_originals(self._vectors, blue.collection_id, gone, self._rebuild)
            again = True
            return bool(held)

        if object_ids:
            self._carry(write, dict.fromkeys(object_ids))
            self._tell(dict.fromkeys(object_ids))

    def _carry(self, write: Callable[[Release], bool], wanted: Wanted) -> None:
        """Write the blue collection and bring the others in line until all of them were seen to hold it.

        Args:
            write: writes what the blue one lacks, and says whether it lacked anything.
        """
        world, brought, in_line = self._now(), 0, False
        for _ in range(ROUNDS):
            blue = world.blue
            try:
                lacked = write(blue)
            except Exception:
                world, in_line = self._now(), False
                if _same(world, blue):
                    raise
                continue  # it is not served from any more, and may be gone
            if in_line and not lacked:
                return
            world, in_line = self._now(), False
            if not _same(world, blue):
                continue
            found = self._bring_all(world, wanted)
            if found is None:
                world = self._now()
                continue
            if not world.followers:
                return
            if brought == REWRITES:
                log.warning("others write the same objects", domain=self._domain.name, ids=[*wanted][:3])
                raise Unavailable(f"others write {[*wanted][:3]} again and again; send it again")
            if lacked and brought:
                time.sleep(random.uniform(0, brought * PAUSE))
            brought += 1
            in_line = found
            if self._releases.serving(self._domain.name).collection_id != blue.collection_id:
                world, in_line = self._now(), False
        raise Unavailable(f"another collection of {self._domain.name!r} begins to serve again and again")

    def _bring_all(self, world: World, wanted: Wanted) -> bool | None:
        """Bring every follower in line, and return whether each was seen to hold what is wanted then.

        None if one failed and another collection serves by now.
        """
        in_line = True
        for follower in world.followers:
            try:
                brought = self._mirror.bring(self._domain, world.blue, follower, wanted, self._rebuild)
                held = self._vectors.revisions(follower.collection_id, wanted)
            except Exception:
                now = self._now()
                if not _same(now, world.blue):
                    return None
                if any(one.collection_id == follower.collection_id for one in now.followers):
                    raise
                continue  # it was deleted meanwhile, or follows no longer
            for object_id, given in wanted.items():
                there = held[object_id].given if object_id in held else None
                in_line &= there == given or object_id in brought.failed
            if brought.failed:
                log.warning(
                    "a collection lacks objects that cannot be made for it", domain=self._domain.name,
                    collection=follower.collection_id, count=len(brought.failed),
                    first=next(iter(brought.failed.items())),
                )  # fmt: skip
        return in_line

    def _tell(self, wanted: Wanted) -> None:
        if self._behind is not None:
            self._behind.bring(self._domain, list(wanted))

    def _refuse(self, blue: Release, begun: Wanted, failed: Mapping[str, str]) -> None:
        """Say what cannot be made for the collection that serves, after undoing what this call wrote before.

        Nothing else is undone: the one before may hold what could not be made for this one when it was
        promoted.
        """
        world = self._now()
        if begun and _same(world, blue):
            self._bring_all(world, begun)
        object_id, reason = next(iter(failed.items()))
        raise Conflict(f"object {object_id!r} cannot be made for the space {blue.space!r}: {reason}")

    def _write_copies(self, copies: Sequence[Object], space: str) -> None:
        """Write users' copies as they were given; in another space the improvement worker makes others."""
        for _ in range(ROUNDS):
            world = self._now()
            for release in world.releases:
                if release.space == space:
                    try:
                        self._vectors.upsert(release.collection_id, copies)
                    except Exception:
                        if release.collection_id in (one.collection_id for one in self._now().releases):
                            raise
            if _same(self._now(), world.blue):
                return

    def _now(self) -> World:
        """Return what has to be written, as of now."""
        world = self._releases.world(self._domain.name)
        aside = self._aside
        if aside is None or _same(world, aside):
            return world
        if any(one.collection_id == aside.collection_id for one in world.followers):
            raise Conflict(
                f"collection {aside.embedding_model_id!r} is kept in line with the one that serves, "
                f"{world.blue.embedding_model_id!r}: write there"
            )
        return World(aside, ())

    def _rebuild(self, users: set[str]) -> None:
        self._queue.enqueue_rebuild(Owner(self._domain.name, user_id) for user_id in users)
        self._wake()


def _same(world: World, blue: Release) -> bool:
    return world.blue.collection_id == blue.collection_id


def _merged(stored: Object | None, new: Object) -> Object:
    """Return the new object with the stored parts it does not name, as they were given, behind its own."""
    if stored is None:
        return new
    kept = [i for i, part_id in enumerate(stored.part_ids) if part_id not in new.part_ids]
    own, count = new.texts or (None,) * (len(new.parts) + 1), len(new.parts)
    theirs = stored.texts or (None,) * len(stored.parts)
    average = () if new.average is None else own[count : count + 1]
    texts = (*own[:count], *(theirs[i] for i in kept), *average)
    return with_revision(
        replace(
            new,
            parts=np.concatenate([new.parts, given_rows(stored)[kept]]),
            part_ids=(*new.part_ids, *(stored.part_ids[i] for i in kept)),
            texts=texts if any(texts) else (),
        )
    )

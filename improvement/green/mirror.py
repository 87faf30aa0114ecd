"""Mirror: keeps one collection's originals in line with another's, while both are being written.

Why no write is lost, without a lock or a log:

- A writer writes the blue collection first and asks only then which others follow (`Releases.world`). A
  collection that begins to follow later is filled later, and its filling reads what was written.
- Nobody writes to a follower what he himself has in mind. He reads what the blue one holds, writes that, and
  looks at the blue one again; where it changed meanwhile he does it again. Whoever wrote to a follower last
  has therefore seen, after his write, that the blue one holds the same; and whoever changes the blue one
  after that writes to the follower again. So both hold the same when everybody is done, also when somebody
  is late and brings things to what serves by then.
- Such a latecomer may bring what is old to the collection that serves: `Catalogue` looks at it once more
  before it says that a write is done, and whoever brings something later than that finds it in the other
  collection, for it is there already.

Somebody who dies between writing and looking leaves a difference behind. A build that goes on does its page
again, a worker compares once an hour, and nothing is promoted without `Mirror.reconcile`.

What cannot be made for a follower, because it came without texts or an encoder is away, stays there as it was
before, if it was, and is brought when that is possible: an encoder's hiccup must cost no object. Until then
it differs, which gates count as missing. Just before such a follower is to serve, what cannot be made even
then is taken out of it (`bring` without ``keeping``): an old content that serves would be brought back over
the new one. So what could not be made is never in none: it is in the one that served.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from improvement.domain import SearchDomain
from improvement.errors import Conflict
from improvement.green.shapes import Shaped
from improvement.objects import Object
from improvement.originals import Renewing, delete_originals, write_originals
from improvement.releases import Release
from improvement.vectors import Revision, VectorStore

#: Originals compared in one request.
PAGE = 1_000
#: Rounds after which objects that change all the time are given up; every round is one change by somebody.
ROUNDS = 100
#: Rounds without a pause, and the longest pause before each later one, in seconds. Two who bring an object in
#: opposite directions, because one of them is late, would else chase each other while they keep in step.
AT_ONCE, PAUSE = 3, 0.01


@dataclass
class Brought:
    """How many objects were written and deleted, and why others cannot be made, by object id."""

    written: int = 0
    deleted: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, other: "Brought") -> None:
        """Count in what was brought elsewhere."""
        self.written += other.written
        self.deleted += other.deleted
        self.failed |= other.failed


class Shapes(Protocol):
    """Makes objects as a release holds them; see `improvement.green.shapes.Shaper`."""

    def shaped(self, domain: SearchDomain, objects: Sequence[Object], space: str, release: Release) -> Shaped:
        """Return originals as a release holds them; one that cannot be made fails alone."""
        ...


def _nobody(users: set[str]) -> None:
    pass


class Mirror:
    """Brings originals of one release to another, in the shape that they have there.

    Copies of what changes in the other release are deleted. ``renewing`` gets their users, before and after,
    by user id; leave it out only where every user is queued for new copies afterwards.
    """

    def __init__(self, vectors: VectorStore, shaper: Shapes) -> None:
        self._vectors, self._shaper = vectors, shaper

    def bring(
        self,
        domain: SearchDomain,
        source: Release,
        target: Release,
        object_ids: Iterable[str],
        renewing: Renewing = _nobody,
        keeping: bool = True,
    ) -> Brought:
        """Bring these originals of a release in line with another's.

        Args:
            keeping: whether what cannot be made stays in the target as it was before; else it is deleted.

        Raises:
            Conflict: somebody changed one of them `ROUNDS` times meanwhile.
        """
        wanted = set(object_ids)
        found = self._vectors.find(source.collection_id, wanted) if wanted else {}
        return self._bring(domain, source, target, wanted, found, renewing, keeping)

    def fill(
        self,
        domain: SearchDomain,
        source: Release,
        target: Release,
        limit: int,
        after: str | None,
        renewing: Renewing = _nobody,
    ) -> tuple[Brought, int, str | None]:
        """Bring a page of originals; see `VectorStore.page`.

        Returns:
            What was brought, how many were on the page, and where the next one starts.
        """
        objects, following = self._vectors.page(source.collection_id, limit, after)
        found = {o.object_id: o for o in objects}
        return self._bring(domain, source, target, set(found), found, renewing), len(objects), following

    def _bring(
        self,
        domain: SearchDomain,
        source: Release,
        target: Release,
        wanted: set[str],
        found: Mapping[str, Object],
        renewing: Renewing,
        keeping: bool = True,
    ) -> Brought:
        """Bring what was found in the source; an object that is wanted and was not found is deleted."""
        brought = Brought()
        if not wanted:
            return brought
        for round_ in range(ROUNDS):
            if round_ >= AT_ONCE:
                time.sleep(random.uniform(0, PAUSE))
            held = self._vectors.revisions(target.collection_id, wanted)
            changed = [o for o in found.values() if _given(held, o.object_id) != o.given_revision]
            shaped = self._shaper.shaped(domain, changed, source.space, target)
            # What failed in an earlier round may be another thing by now.
            brought.failed = {i: why for i, why in brought.failed.items() if i not in wanted} | shaped.failed
            unmade = () if keeping else shaped.failed
            gone = [i for i in wanted if i in held and (i not in found or i in unmade)]
            write_originals(self._vectors, target.collection_id, shaped.objects, held, renewing)
            delete_originals(self._vectors, target.collection_id, gone, renewing)
            brought.written += len(shaped.objects)
            brought.deleted += len(gone)
            now = self._vectors.revisions(source.collection_id, wanted)
            before = {o.object_id: o.given_revision for o in found.values()}
            wanted = {i for i in wanted if _given(now, i) != before.get(i)}
            if not wanted:
                return brought
            found = self._vectors.find(source.collection_id, wanted)
        raise Conflict(
            f"{sorted(wanted)[:3]} changed {ROUNDS} times while they were brought to {target.collection_id}"
        )

    def differing(self, source: Release, target: Release, deleting: bool = True) -> Iterator[list[str]]:
        """Yield, page by page, the ids of the originals that are not in line: a comparison of everything.

        Args:
            deleting: whether what the target alone has is not in line either.
        """
        extra = ((target, source, False),) if deleting else ()
        for one, other, both in ((source, target, True), *extra):
            after: str | None = None
            while True:
                page, after = self._vectors.revision_page(one.collection_id, PAGE, after)
                held = self._vectors.revisions(other.collection_id, page)
                yield [
                    i for i, found in page.items()
                    if i not in held or (both and held[i].given != found.given)
                ]  # fmt: skip
                if after is None:
                    break

    def reconcile(
        self,
        domain: SearchDomain,
        source: Release,
        target: Release,
        progress: Callable[[int], object] = lambda count: None,
        renewing: Renewing = _nobody,
        deleting: bool = True,
    ) -> Brought:
        """Compare everything and bring what is not in line; ``progress`` gets how many were, page by page.

        Args:
            deleting: delete what the target alone has. Not where the target served, ever: what was written
                to it then, and could not be made for the source, is nowhere else.
        """
        total = Brought()
        for ids in self.differing(source, target, deleting):
            total.add(self.bring(domain, source, target, ids, renewing))
            progress(len(ids))
        return total


def _given(revisions: Mapping[str, Revision], object_id: str) -> str | None:
    return revisions[object_id].given if object_id in revisions else None

"""Fallbacks: what is recommended to whom no model knows: the popular, the new, and then anything."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import structlog

from improvement.popularity_store import PopularityStore
from improvement.recommended import Recommended, Source, Wish, showing
from improvement.search import Shown
from improvement.served import Served
from improvement.two_tower.entries import EntryStore
from improvement.vectors import CHUNK, Hit, VectorStore

log = structlog.get_logger()

#: Popular objects looked at.
POPULAR = 1_000
#: New objects looked at: so many times what is missing, for some are filtered or left out; at most so many.
NEW, MOST_NEW = 4, 1_000


@dataclass(frozen=True)
class Fallbacks:
    """The lists that are not personal, of all domains over one vector store."""

    vectors: VectorStore
    popularity: PopularityStore
    entries: EntryStore

    def recommend(self, serving: Served, wish: Wish, reason: str, *, newest: bool = False) -> Recommended:
        """Return what is popular, best first, then what is new, the newest first, then the catalogue.

        A source that fails is logged and passed over; the catalogue's failure is raised. Nothing is returned
        if no fallback is wanted.

        Args:
            reason: why this is not a personal list, for a person to read.
            newest: whether the domain notes when items came (it has towers).
        """
        if not wish.fallback:
            return Recommended((), "none", {"reason": reason})
        shown = self._popular(serving, wish)
        if newest and len(shown) < wish.limit:
            shown += self._newest(serving, _rest(wish, shown))
        if len(shown) < wish.limit:
            rest = _rest(wish, shown)
            more, _ = self.vectors.listed(serving.collection, rest.where, rest.limit, 0, without=rest.without)
            shown += [showing(hit, Source.CATALOGUE) for hit in more]
        source = shown[0].marks["source"] if shown else Source.CATALOGUE.value
        return Recommended(shown, str(source), {"reason": reason})

    def _popular(self, serving: Served, wish: Wish) -> list[Shown]:
        name = serving.domain.name

        def ranked() -> list[str]:
            return [object_id for object_id, _ in self.popularity.top(name, POPULAR)]

        return self._tried(serving, wish, Source.POPULARITY, ranked)

    def _newest(self, serving: Served, wish: Wish) -> list[Shown]:
        name, count = serving.domain.name, min(NEW * (wish.limit + len(wish.without)), MOST_NEW)

        def ranked() -> list[str]:
            newest = self.entries.newest_items(name, count)
            return [entry.id for entry in newest if entry.created_at]  # of the others nobody knows when

        return self._tried(serving, wish, Source.RECENCY, ranked)

    def _tried(
        self, serving: Served, wish: Wish, source: Source, ranked: Callable[[], Sequence[str]]
    ) -> list[Shown]:
        try:
            left_out = set(wish.without)
            wanted = [object_id for object_id in ranked() if object_id not in left_out]
            hits: list[Hit] = []
            for some in self._chosen(serving.collection, wanted, wish):
                hits += some
                if len(hits) >= wish.limit:
                    break
            return [showing(hit, source) for hit in hits[: wish.limit]]
        except Exception as error:  # whatever a store raises: there is still the catalogue
            log.warning("fallback failed", source=source.value, domain=serving.domain.name, error=repr(error))
            return []

    def _chosen(self, collection: str, object_ids: Sequence[str], wish: Wish) -> Iterator[list[Hit]]:
        start, size = 0, min(2 * wish.limit, CHUNK)  # most often the first few are all that is needed
        while start < len(object_ids):
            yield self.vectors.chosen(collection, object_ids[start : start + size], wish.where)
            start, size = start + size, CHUNK


def _rest(wish: Wish, shown: Sequence[Shown]) -> Wish:
    """Return what is still wanted."""
    missing = wish.limit - len(shown)
    left = wish.but_for(one.hit.object_id for one in shown)
    return Wish(wish.user_id, missing, where=wish.where, without=left.without)

"""Recommendations: what a user may like next, from their profile, or else from what everybody likes."""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from qdrant_client import models

from clickstream.records import QueryVector
from improvement.domain import SearchDomain
from improvement.filters import parse_filter
from improvement.objects import Vectors
from improvement.popularity_store import PopularityStore
from improvement.profiles.diversity import diverse
from improvement.profiles.profile import Profile
from improvement.profiles.sphere import directions
from improvement.profiles.steering import steer
from improvement.profiles.store import ProfileStore
from improvement.profiles.usable import unusable
from improvement.releases import Releases
from improvement.schemas import MAX_LIMIT, Recommend
from improvement.search import Search, Shown
from improvement.served import Served, served
from improvement.vectors import CHUNK, Hit, VectorStore, point_id

#: Candidates that a diverse list is picked from: so many times its length, and at least and at most so many.
CANDIDATES, LEAST_CANDIDATES, MOST_CANDIDATES = 5, 50, MAX_LIMIT
#: Popular objects looked at.
POPULAR = 1_000


class Source(StrEnum):
    """What a recommendation was made from."""

    PROFILE = "profile"
    POPULARITY = "popularity"
    CATALOGUE = "catalogue"


@dataclass(frozen=True)
class Recommendations:
    """The recommendations of all domains over one vector store."""

    vectors: VectorStore
    profiles: ProfileStore
    popularity: PopularityStore
    releases: Releases
    search: Search
    clock: Callable[[], float] = time.time

    def recommend(self, domain: SearchDomain, body: Recommend) -> dict[str, Any]:
        """Answer in the form of a similarity search; raises Invalid.

        A user whose profile cannot be used gets what is popular, and where that is not enough, the catalogue
        in no order that means anything; or nothing, if no fallback is wanted.
        """
        where = parse_filter(body.filter, point_id)
        serving = served(self.releases, domain)
        domain, space = serving.domain, serving.space or self.releases.space(domain.name)
        profile = self.profiles.get(body.user_id, domain.name, space)
        seen = profile.seen if profile is not None and body.exclude_seen else ()
        reason = unusable(profile, space, domain.profiles.min_interactions)
        queries = None
        if profile is None or reason or profile.embedding is None:
            meta = {"reason": reason or "nothing liked yet"}
            shown = [] if body.fallback == "none" else self._popular(serving, body.limit, where, seen)
        else:
            meta, queries = {}, self._queries(domain, profile)
            shown = self._liked(serving, body, queries, where, seen)
        source = _first_source(shown, body.fallback) if queries is None else Source.PROFILE.value
        session_id = body.session_id or (str(uuid.uuid4()) if body.create_session else None)
        if body.create_session and session_id is not None:
            vector = None
            if queries is not None:
                vector = QueryVector(model_id=space, vectors=tuple(map(tuple, queries.tolist())))
            self.search.register(domain, body, session_id, "", shown, vector)
        return {
            "session_id": session_id,
            "search_results": [one.as_json() for one in shown],
            "next_page_offset": None,
            "total_count": None,
            "meta_info": body.meta_info,
            "meta": {"source": source, **meta},
        }

    def _queries(self, domain: SearchDomain, profile: Profile) -> Vectors:
        """Return what to search with, (k, D): a row for each interest, the heaviest first."""
        assert profile.embedding is not None
        rows = profile.interests if len(profile.interests) > 1 else profile.embedding[None]
        if profile.negative is None:
            return rows
        settings = domain.profiles
        strength = profile.negative.strength(self.clock(), settings.negative_half_life_days)
        away = settings.negative_weight * strength
        queries: Vectors = steer(rows, None, profile.negative.vector, 0.0, away).astype(np.float32)
        return queries

    def _liked(
        self,
        serving: Served,
        body: Recommend,
        queries: Vectors,
        where: models.Filter | None,
        seen: Sequence[str],
    ) -> list[Shown]:
        """Return what is near the queries, in turns; picked for being diverse, if that is asked for."""
        count = body.limit
        if body.diversity > 0:
            count = max(count, min(max(CANDIDATES * count, LEAST_CANDIDATES), MOST_CANDIDATES))
        rankings = [
            self.vectors.search(
                serving.collection, serving.domain.search_index_info, query, count, user_id=body.user_id,
                where=where, without=seen,
            )[0]
            for query in queries
        ]  # fmt: skip
        hits = in_turns(rankings, count)
        if body.diversity > 0:
            hits = self._diverse(serving.collection, body, queries, hits)
        return [_shown(hit, Source.PROFILE) for hit in hits]

    def _diverse(self, collection: str, body: Recommend, queries: Vectors, hits: Sequence[Hit]) -> list[Hit]:
        # The engine's own MMR would do this in one call, but among originals and copies: a shadowed original
        # would push away its copy.
        means = self.vectors.means_of(collection, hits, body.user_id)
        found = [hit for hit in hits if hit.object_id in means]  # the others were deleted since
        if not found:
            return []
        rows = np.stack([means[hit.object_id] for hit in found])
        relevance = (directions("means", rows, (None, None)) @ queries.T).max(axis=1)
        return [found[pick] for pick in diverse(relevance, rows, body.diversity, body.limit)]

    def _popular(
        self, serving: Served, limit: int, where: models.Filter | None, seen: Sequence[str]
    ) -> list[Shown]:
        """Return what is popular, best first, then anything."""
        left_out = set(seen)
        ranked = [o for o, _ in self.popularity.top(serving.domain.name, POPULAR) if o not in left_out]
        hits: list[Hit] = []
        for start in range(0, len(ranked), CHUNK):
            if len(hits) < limit:
                hits += self.vectors.chosen(serving.collection, ranked[start : start + CHUNK], where)
        shown = [_shown(hit, Source.POPULARITY) for hit in hits[:limit]]
        if len(shown) < limit:
            known = [*seen, *(one.hit.object_id for one in shown)]
            more, _ = self.vectors.listed(serving.collection, where, limit - len(shown), 0, without=known)
            shown += [_shown(hit, Source.CATALOGUE) for hit in more]
        return shown


def _shown(hit: Hit, source: Source) -> Shown:
    return Shown(hit, {"source": source.value}, ranked=source is Source.PROFILE)


def _first_source(shown: Sequence[Shown], fallback: str) -> str:
    nothing = "none" if fallback == "none" else Source.CATALOGUE.value
    return str(shown[0].marks["source"]) if shown else nothing


def in_turns(rankings: Sequence[Sequence[Hit]], limit: int) -> list[Hit]:
    """Merge rankings: in turns, each gives its best hit not yet taken, the first ranking first."""
    taken: dict[str, Hit] = {}
    left = [iter(ranking) for ranking in rankings]
    while left and len(taken) < limit:
        for ranking in list(left):
            hit = next((hit for hit in ranking if hit.object_id not in taken), None)
            if hit is None:
                left.remove(ranking)
            else:
                taken[hit.object_id] = hit
    return list(taken.values())[:limit]

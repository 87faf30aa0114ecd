"""Search as a user sees it: personal copies, exploration, sorting, and the session it registers."""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog
from pydantic import ValidationError
from qdrant_client import models

from clickstream.records import QueryVector, SearchResult, Session
from clickstream.store import ClickstreamStore, SessionFull
from improvement.domain import SearchDomain
from improvement.errors import Invalid
from improvement.experiments.treatment import Treated, treated
from improvement.filters import parse_filter
from improvement.interleaving import interleave
from improvement.objects import Vectors
from improvement.profiles.steering import steered
from improvement.profiles.store import ProfileStore
from improvement.profiles.usable import unusable
from improvement.releases import Releases
from improvement.schemas import Asked, PayloadSearch, SimilaritySearch, SortBy, checked_vectors
from improvement.served import Served, answered_to, served_to
from improvement.telemetry import Metrics
from improvement.vectors import Hit, VectorStore, point_id

log = structlog.get_logger()

#: Nearest results that sorting by a payload field looks at.
SORT_WINDOW = 1_000


@dataclass(frozen=True)
class Shown:
    """One result, and what else is to be said of it.

    Attributes:
        marks: e.g. the list it came from, when two were mixed.
        ranked: whether it was ranked by distance.
    """

    hit: Hit
    marks: Mapping[str, Any] = field(default_factory=dict)
    ranked: bool = True

    @property
    def distance(self) -> float | None:
        """The distance to what ranked it, if that was a vector."""
        return self.hit.distance if self.ranked else None

    @property
    def meta(self) -> dict[str, Any]:
        """What the result says of itself; ``profile`` when the user's profile helped to rank it."""
        profile = {"profile": True} if self.hit.rescored else {}
        return {"personalized": self.hit.personalized, **self.marks, **profile}

    def as_json(self) -> dict[str, Any]:
        """Return the result in the published form."""
        return {
            "object_id": self.hit.object_id,
            "distance": self.distance,
            "payload": self.hit.payload,
            "meta": self.meta,
        }


@dataclass(frozen=True)
class Search:
    """The searches of all domains over one vector store."""

    vectors: VectorStore
    clickstream: ClickstreamStore
    metrics: Metrics
    profiles: ProfileStore
    releases: Releases
    clock: Callable[[], float] = time.time

    def similar(self, domain: SearchDomain, body: SimilaritySearch) -> dict[str, Any]:
        """Answer a similarity search, as the user's arm of an experiment has it; raises Invalid."""
        as_is = treated(domain, body.user_id)
        as_is = as_is.but(own_knob(body, as_is))
        return answered_to(self.releases, domain, as_is, lambda how: self._similar(domain, body, how))

    def _similar(self, domain: SearchDomain, body: SimilaritySearch, how: Treated) -> dict[str, Any]:
        personalized = str(body.user_id is not None).lower()
        with self.metrics.searches.labels(domain.name, personalized).time():
            serving, query, how = self._asked(domain, body, how)
            where = parse_filter(body.filter, point_id)
            offset, limit = body.offset or 0, body.limit
            session_id = body.session_id or (str(uuid.uuid4()) if body.create_session else None)
            towards = None
            if body.sort_by is not None:
                found, more = self._sorted(serving, body, query, where, offset + limit, how)
            else:
                towards = self._towards_profile(serving, body, query, how)
                found, more = self._ranked(serving, body, query, towards, where, session_id, how)
        meta = {"profile": towards is not None, **how.meta}
        answer = self._answer(body, session_id, found, more) | {"meta": meta}
        if body.create_session and session_id is not None:
            text = body.search_query if isinstance(body.search_query, str) else ""
            space = serving.domain.encoder.model_id
            vector = QueryVector(model_id=space, vectors=(tuple(query.tolist()),))
            how = replace(how, mixed=explores(body, how))
            self.register(domain, body, session_id, text, found, vector, how)
        return answer

    def _asked(
        self, domain: SearchDomain, body: SimilaritySearch, how: Treated
    ) -> tuple[Served, Vectors, Treated]:
        """Return what serves, the query in its space, and how its user is treated there.

        Embedding takes its time. Where another collection serves afterwards, that one is searched: the one
        before may be about to be deleted.
        """
        serving, how = served_to(self.releases, domain, how)
        while True:
            query, before = self._query(serving.domain, body), serving
            serving, how = served_to(self.releases, domain, how)
            if serving.space == before.space:
                return serving, query, how

    def _query(self, domain: SearchDomain, body: SimilaritySearch) -> Vectors:
        """Return the query's prepared vector, shape (D,)."""
        if not isinstance(body.search_query, str):
            given: Vectors = checked_vectors([list(body.search_query)], domain, "search_query")[0]
            return given
        if not body.search_query.strip():
            raise Invalid("search_query: expected a text or a vector, got an empty text")
        embedded: Vectors = domain.embed([body.search_query])[0]
        return embedded

    def _towards_profile(
        self, serving: Served, body: SimilaritySearch, query: Vectors, how: Treated
    ) -> Vectors | None:
        """Return the query as the user's profile turns it; None if that is not wanted or not possible."""
        domain = serving.domain
        settings = domain.profiles
        weight = how.weight(body.profile_weight, settings.search_weight)
        if body.user_id is None or weight == 0:
            return None
        try:
            space = serving.space or self.releases.space(domain.name)
            if isinstance(body.search_query, str) and domain.encoder.model_id != space:
                return None  # the text was embedded in another space
            profile = self.profiles.get(body.user_id, domain.name, space)
            if profile is None or (profile.embedding is None and profile.negative is None):
                return None
            if unusable(profile, space, settings.min_interactions):
                return None
            return steered(query, profile, self.clock(), weight, settings)
        except Exception as error:  # whatever a store raises: a plain search is better than none
            log.warning("profile not used", domain=domain.name, error=repr(error)[:500])
            return None

    def _ranked(
        self,
        serving: Served,
        body: SimilaritySearch,
        query: Vectors,
        towards: Vectors | None,
        where: models.Filter | None,
        session_id: str | None,
        how: Treated,
    ) -> tuple[list[Shown], bool]:
        """Rank by similarity, the best again by the profile; mix in the baseline when asked to explore."""
        domain, collection = serving.domain, serving.collection
        info, offset, limit = domain.search_index_info, body.offset or 0, body.limit
        second: dict[str, Any] = {"rescore": towards, "rescored": domain.profiles.rescored}
        user_id = body.user_id if how.copies else None
        if not explores(body, how):
            hits, more = self.vectors.search(
                collection, info, query, limit, offset=offset, user_id=user_id, where=where,
                max_distance=body.max_distance, **second,
            )  # fmt: skip
            return [Shown(hit) for hit in hits], more
        end = offset + limit
        mine, baseline = (
            self.vectors.search(
                collection, info, query, end + 1, user_id=user, where=where, max_distance=body.max_distance,
                **stage,
            )[0]
            for user, stage in ((user_id, second), (None, {}))
        )  # fmt: skip
        seed = session_id or f"{body.user_id}\0{body.search_query}"
        mixed = interleave(mine, baseline, body.exploration_ratio, seed, end + 1, lambda hit: hit.object_id)
        return [Shown(hit, {"list": team.value}) for hit, team in mixed[offset:end]], len(mixed) > end

    def _sorted(
        self,
        serving: Served,
        body: SimilaritySearch,
        query: Vectors,
        where: models.Filter | None,
        end: int,
        how: Treated,
    ) -> tuple[list[Shown], bool]:
        """Sort the nearest `SORT_WINDOW` by a payload field; ``similarity_first`` lets it break ties only."""
        if end > SORT_WINDOW:
            raise Invalid(f"offset + limit: expected at most {SORT_WINDOW} when sort_by is given, got {end}")
        hits, _ = self.vectors.search(
            serving.collection, serving.domain.search_index_info, query, SORT_WINDOW,
            user_id=body.user_id if how.copies else None, where=where, max_distance=body.max_distance,
        )  # fmt: skip
        assert body.sort_by is not None
        ordered = by_field(hits, body.sort_by)
        if body.similarity_first:
            ordered = sorted(ordered, key=lambda hit: hit.distance)
        return [Shown(hit) for hit in ordered[body.offset or 0 : end]], len(ordered) > end

    def by_payload(self, domain: SearchDomain, body: PayloadSearch) -> dict[str, Any]:
        """Answer a search by payload only; raises Invalid."""
        where = parse_filter(body.filter, point_id)
        offset, end = body.offset or 0, (body.offset or 0) + body.limit
        total = self.vectors.count(domain.name, where)
        if body.sort_by is None:
            hits, more = self.vectors.listed(domain.name, where, body.limit, offset)
        else:
            if total > SORT_WINDOW:
                raise Invalid(f"sort_by: {total} objects pass the filter, expected at most {SORT_WINDOW}")
            every, _ = self.vectors.listed(domain.name, where, SORT_WINDOW, 0)
            hits, more = by_field(every, body.sort_by)[offset:end], total > end
        shown = [Shown(hit) for hit in hits]
        session_id = body.session_id or (str(uuid.uuid4()) if body.create_session else None)
        if body.create_session and session_id is not None:
            self.register(domain, body, session_id, "", shown)
        return self._answer(body, session_id, shown, more) | {"total_count": total}

    def register(
        self,
        domain: SearchDomain,
        body: Asked,
        session_id: str,
        text: str,
        shown: Sequence[Shown],
        vector: QueryVector | None = None,
        how: Treated | None = None,
    ) -> None:
        """Register what was shown, and by which arm; raises Invalid for what no session can hold."""
        sort_by = body.sort_by if isinstance(body, PayloadSearch) else None
        try:
            session = Session(
                session_id=session_id,
                search_query=text,
                search_results=tuple(
                    SearchResult(object_id=one.hit.object_id, rank=one.distance, meta=one.meta)
                    for one in shown
                ),
                search_meta=body.meta_info,
                payload_filter=body.filter,
                sort_by=sort_by.model_dump() if sort_by else None,
                user_id=body.user_id,
                domain=domain.name,
                **(how or Treated()).named,
            )
            self.clickstream.register(session, vector)
            if body.session_id is not None and how is not None and how.uncounted is not None:
                self.clickstream.uncount(session_id)  # it may be a further page of one that counted
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise Invalid(f"create_session: {first['loc'][0]}: {first['msg']}") from None
        except SessionFull as error:
            raise Invalid(str(error)) from error

    def _answer(
        self, body: PayloadSearch, session_id: str | None, shown: Sequence[Shown], more: bool
    ) -> dict[str, Any]:
        return {
            "session_id": session_id,
            "search_results": [one.as_json() for one in shown],
            "next_page_offset": (body.offset or 0) + body.limit if more else None,
            "total_count": None,
            "meta_info": body.meta_info,
        }


def explores(body: SimilaritySearch, how: Treated) -> bool:
    """Return whether a search mixes its user's own list with the baseline."""
    return body.exploration_ratio > 0 and body.sort_by is None and body.user_id is not None and how.copies


def own_knob(body: SimilaritySearch, how: Treated) -> str | None:
    """Return why a search is not what its user's arm makes of it, but what the request asks for."""
    if body.profile_weight is not None:
        return "the request sets profile_weight"
    if body.exploration_ratio > 0 and body.sort_by is None and not how.copies:
        return "the request asks for a mixed list, and other arms' mixed lists do not count here"
    return None


def by_field(hits: Sequence[Hit], sort_by: SortBy) -> list[Hit]:
    """Sort by a payload field, dotted for nested ones; objects without it come last, either order.

    Numbers come before texts; equal values keep the order they came in.
    """

    def value(hit: Hit) -> Any:
        found: Any = hit.payload
        for name in sort_by.field.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        return found

    def key(hit: Hit) -> tuple[bool, float, str]:
        found = value(hit)
        is_text = isinstance(found, str)
        return (is_text, 0.0 if is_text else float(found), found if is_text else "")

    present = [hit for hit in hits if isinstance(value(hit), str | int | float)]
    absent = [hit for hit in hits if not isinstance(value(hit), str | int | float)]
    return sorted(present, key=key, reverse=sort_by.order == "desc") + absent

"""Recommendations: what a user may like next, by the model that is asked for."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog

from improvement.domain import SearchDomain
from improvement.errors import Invalid
from improvement.experiments.treatment import Treated, treated
from improvement.fallbacks import Fallbacks
from improvement.filters import parse_filter
from improvement.nearest import nearest
from improvement.objects import Vectors
from improvement.patience import impatiently
from improvement.profiles.profile import Profile
from improvement.profiles.steering import steer
from improvement.profiles.store import ProfileStore
from improvement.profiles.usable import unusable
from improvement.recommended import Recommended, Source, Wish, asked_with, showing
from improvement.releases import Releases
from improvement.schemas import Recommend
from improvement.search import Search
from improvement.served import answered_to, served_to
from improvement.two_tower.recommending import TowerRecommendations
from improvement.vectors import VectorStore, point_id

log = structlog.get_logger()


@dataclass(frozen=True)
class Recommendations:
    """The recommendations of all domains over one vector store."""

    vectors: VectorStore
    profiles: ProfileStore
    releases: Releases
    search: Search
    fallbacks: Fallbacks
    towers: TowerRecommendations
    clock: Callable[[], float] = time.time

    def recommend(self, domain: SearchDomain, body: Recommend) -> dict[str, Any]:
        """Answer in the form of a similarity search; raises Invalid.

        A user of whom the model can say nothing gets what is popular, and where that is not enough, the
        catalogue in no order that means anything; or nothing, if no fallback is wanted. Who takes part in an
        experiment gets what their arm makes of it. Mongo is not waited for longer than `patience.SECONDS`;
        what needs none of it answers then.
        """
        named = None if body.model is None else "the request names its model"
        as_is = treated(domain, body.user_id).but(named)
        return answered_to(self.releases, domain, as_is, lambda how: self._recommend(domain, body, how))

    def _recommend(self, domain: SearchDomain, body: Recommend, how: Treated) -> dict[str, Any]:
        where = parse_filter(body.filter, point_id)
        wish = Wish(body.user_id, body.limit, body.diversity, body.fallback != "none", where)
        with impatiently():
            if self.model(domain, body, how) is Source.TWO_TOWER:
                found = self.towers.recommend(domain, wish, body.exclude_seen)
            else:
                found, how = self._by_profile(domain, wish, body, how)
        session_id = body.session_id or (str(uuid.uuid4()) if body.create_session else None)
        if body.create_session and session_id is not None:
            self.search.register(domain, body, session_id, "", found.shown, found.query, how)
        return {
            "session_id": session_id,
            "search_results": [one.as_json() for one in found.shown],
            "next_page_offset": None,
            "total_count": None,
            "meta_info": body.meta_info,
            "meta": {"source": found.source, **found.meta, **how.meta},
        }

    def model(self, domain: SearchDomain, body: Recommend, how: Treated) -> Source:
        """Return what is to recommend: the one place where that is decided; raises Invalid.

        What the caller names, or the user's arm of an experiment, or the profile.
        """
        if body.model is None:
            return Source.TWO_TOWER if how.two_tower else Source.PROFILE
        if body.model == "two_tower" and domain.towers is None:
            raise Invalid(f"model: domain {domain.name!r} has no two towers; leave it out, or use 'profile'")
        return Source(body.model)

    def _by_profile(
        self, domain: SearchDomain, wish: Wish, body: Recommend, how: Treated
    ) -> tuple[Recommended, Treated]:
        """Return what is near the user's profile, their own copies included; and how they were treated."""
        serving, how = served_to(self.releases, domain, how)
        domain, space = serving.domain, serving.space or self.releases.space(domain.name)
        profile, unread = None, None
        try:
            profile = self.profiles.get(wish.user_id, domain.name, space)
        except Exception as error:  # whatever a store raises: there is something to show without it
            log.warning("profile not read", domain=domain.name, error=repr(error)[:500])
            unread = "the profile cannot be read"
        if profile is not None and body.exclude_seen:
            wish = wish.but_for(profile.seen)
        reason = unread or unusable(profile, space, domain.profiles.min_interactions)
        if not how.profile and body.model is None:
            reason = f"the arm {how.arm!r} of an experiment uses no profile"
        if profile is None or reason or profile.embedding is None:
            return self.fallbacks.recommend(serving, wish, reason or "nothing liked yet"), how
        queries = self._queries(domain, profile)
        info = domain.search_index_info
        hits = nearest(self.vectors, serving.collection, info, queries, wish, copies=how.copies)
        shown = [showing(hit, Source.PROFILE) for hit in hits]
        return Recommended(shown, Source.PROFILE.value, query=asked_with(queries, space)), how

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

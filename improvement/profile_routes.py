"""HTTP for what is made of profiles: recommendations, a user's vector, similar users; routes only."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.convertors import PathConvertor, register_url_convertor

from clickstream.records import MAX_ID_LENGTH
from improvement.domain import SearchDomain
from improvement.errors import NotFound
from improvement.fallbacks import Fallbacks
from improvement.profiles.profile import Profile
from improvement.profiles.usable import unusable
from improvement.recommend import Recommendations
from improvement.routes import chosen, search_of
from improvement.schemas import MAX_LIMIT, Recommend
from improvement.two_tower.recommending import TowerRecommendations
from improvement.wiring import Rooms


class AnyText(PathConvertor):
    """A piece of a path that may hold anything, encoded: slashes as `path` may, and line breaks."""

    regex = r"(?s:.*)"


register_url_convertor("any", AnyText())

UserId = Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH)]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]


def profiles_router(rooms: Rooms) -> APIRouter:
    """Return the routes that profiles answer (role client)."""
    router = APIRouter(tags=["profiles"])
    recommendations = recommendations_of(rooms)

    @router.post("/recommend")
    def recommend(body: Recommend) -> dict[str, Any]:
        """Recommend objects to a user; ``meta.source`` says from what.

        `model` left out, or `profile`: near the user's profile, own copies included; for whom there is none,
        `popularity`, then `catalogue`.

        `model: two_tower`: originals near the user's vector in the towers' space (there are no personal
        copies there). In this order, `meta.source` of the answer and of each result says which:
        `two_tower` · `pretrained` (the towers do not serve, are untrained or fail: near what the user
        engaged with, in the encoder's space) · `popularity`, `recency`, `catalogue` (users with fewer
        engagements than `meta.min_engagements`). `meta.reason` says why it is not the first of them.
        422 for a domain without towers.
        """
        return recommendations.recommend(chosen(rooms.domains, body.domain), body)

    @router.get("/users/{user_id:any}/embedding")
    def get_embedding(user_id: UserId, domain: str | None = None) -> dict[str, Any]:
        """Return a user's profile; 404 says why there is none."""
        found = chosen(rooms.domains, domain)
        return profile_json(usable_profile(rooms, found, user_id), found, recommendations.clock())

    @router.get("/users/{user_id:any}/similar")
    def get_similar(user_id: UserId, limit: Limit = 10, domain: str | None = None) -> dict[str, Any]:
        """Return the users whose profiles are nearest, by cosine; 404 without a profile."""
        found = chosen(rooms.domains, domain)
        profile = usable_profile(rooms, found, user_id)
        assert profile.embedding is not None
        near = rooms.neighbours.near(
            found.name, profile.model_version, profile.embedding, limit, without=user_id
        )
        known = rooms.profiles.load(found.name, [user for user, _ in near])  # the others were just erased
        users = [{"user_id": user, "similarity": similarity} for user, similarity in near if user in known]
        return {"user_id": user_id, "domain": found.name, "users": users}

    return router


def recommendations_of(rooms: Rooms) -> Recommendations:
    """Return the recommendations over these rooms."""
    vectors, profiles, releases = rooms.vectors, rooms.profiles, rooms.releases
    fallbacks = Fallbacks(vectors, rooms.popularity, rooms.entries)
    towers = TowerRecommendations(vectors, profiles, releases, rooms.entries, rooms.towers, fallbacks)
    return Recommendations(vectors, profiles, releases, search_of(rooms), fallbacks, towers)


def usable_profile(rooms: Rooms, domain: SearchDomain, user_id: str) -> Profile:
    """Return a user's profile, with an embedding of the serving space; raises NotFound with the reason."""
    space = rooms.releases.space(domain.name)
    profile = rooms.profiles.get(user_id, domain.name, space)
    reason = unusable(profile, space, domain.in_space(space).profiles.min_interactions)
    if profile is None or reason is not None or profile.embedding is None:
        raise NotFound(
            f"user {user_id!r} has no embedding in domain {domain.name!r}: {reason or 'nothing liked yet'}"
        )
    return profile


def profile_json(profile: Profile, domain: SearchDomain, now: float) -> dict[str, Any]:
    """Return a profile with an embedding as callers see it."""
    assert profile.embedding is not None
    half_life = domain.in_space(profile.model_version).profiles.negative_half_life_days
    strength = 0.0 if profile.negative is None else profile.negative.strength(now, half_life)
    return {
        "user_id": profile.user_id,
        "domain": profile.domain,
        "embedding": profile.embedding.tolist(),
        "model_version": profile.model_version,
        "generated_at": profile.generated_at,
        "updated_at": profile.updated_at,
        "interactions": {"positive": profile.positives, "negative": profile.negatives},
        "interests": profile.interests.tolist(),
        "negative": {"strength": strength},
    }

"""Neighbours: users whose profiles are near each other, in Qdrant collections of their own."""

from collections.abc import Sequence
from typing import Protocol

from qdrant_client import models

from improvement.domain import MetricAggregationType, MetricType, SearchIndexInfo
from improvement.objects import Object, Vectors
from improvement.profiles.profile import Profile
from improvement.releases import CollectionClient, create_collection, physical_name
from improvement.vectors import VectorStore

#: First piece of the collections' names, of four; a release's have three.
USERS = "users"


class NeighbourClient(CollectionClient, Protocol):
    """The calls this module makes; `QdrantClient` and `EdgeClient` both have them."""

    def get_collections(self) -> models.CollectionsResponse: ...


class Neighbours:
    """Users by the direction of their profile: one collection a domain and embedding space.

    A collection appears with the first user put into it; where there is none, nobody is near.
    """

    def __init__(self, client: NeighbourClient, vectors: VectorStore) -> None:
        self._client, self._vectors = client, vectors

    def put(self, domain: str, space: str, profiles: Sequence[Profile]) -> None:
        """Store users; those without an embedding, or with one of another space, are left out.

        Whether a profile has enough interactions to be shown is for the caller to say.
        """
        objects = [
            Object(profile.user_id, profile.embedding[None], (profile.user_id,))
            for profile in profiles
            if profile.embedding is not None and profile.embedding.any() and profile.model_version == space
        ]
        if objects:
            name, size = collection_name(domain, space), objects[0].parts.shape[1]
            if not self._client.collection_exists(name):
                create_collection(self._client, name, _info(size))
            self._vectors.upsert(name, objects)

    def drop(self, domain: str, space: str, user_ids: Sequence[str]) -> None:
        """Take users out of one collection; unknown ones are ignored."""
        name = collection_name(domain, space)
        if user_ids and self._client.collection_exists(name):
            self._vectors.delete(name, user_ids)

    def near(
        self, domain: str, space: str, vector: Vectors, limit: int, without: str
    ) -> list[tuple[str, float]]:
        """Return the users nearest to a direction (D,), and their cosines, the nearest first.

        Args:
            limit: most users, >= 1.
            without: the user who asks.
        """
        name = collection_name(domain, space)
        if not self._client.collection_exists(name):
            return []
        hits, _ = self._vectors.search(name, _info(len(vector)), vector, limit + 1)
        return [(hit.object_id, 1.0 - hit.distance) for hit in hits if hit.object_id != without][:limit]

    def erase(self, user_id: str) -> int:
        """Take a user out of every domain and space; return from how many collections."""
        held = [name for name in self._collections() if self._vectors.revisions(name, [user_id])]
        for name in held:
            self._vectors.delete(name, [user_id])
        return len(held)

    def discard(self, domain: str, space: str) -> None:
        """Delete the collection of a space that is gone; nothing if there is none."""
        name = collection_name(domain, space)
        if self._client.collection_exists(name):
            self._client.delete_collection(name)

    def _collections(self) -> list[str]:
        every = [found.name for found in self._client.get_collections().collections]
        return [name for name in every if name.startswith(f"{USERS}.") and name.count(".") == 3]


def collection_name(domain: str, space: str) -> str:
    """Return the name of the users' collection of a domain and embedding space.

    >>> collection_name("docs", "all MiniLM/v1")
    'users.docs.all-MiniLM-v1.df2d6fb9'
    """
    return f"{USERS}.{physical_name(domain, space)}"


def _info(dimensions: int) -> SearchIndexInfo:
    return SearchIndexInfo(dimensions, MetricType.COSINE, MetricAggregationType.AVG)

"""Releases: which physical collections exist and which one serves; the only file that speaks aliases."""

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from pymongo import DESCENDING
from pymongo.database import Database
from qdrant_client import models

from improvement.domain import MetricAggregationType, MetricType, SearchDomain, SearchIndexInfo
from improvement.errors import Conflict, NotFound
from improvement.vectors import AVERAGE, PARTS

Document = dict[str, Any]

_DISTANCES = {
    MetricType.COSINE: models.Distance.COSINE,
    MetricType.DOT: models.Distance.DOT,
    MetricType.EUCLID: models.Distance.EUCLID,
}
#: Payload fields that filters use, all keyword indexes; user_id is the tenant.
_INDEXES = ("object_id", "original_id")


class CollectionClient(Protocol):
    """The calls this module makes; `QdrantClient` and `EdgeClient` both have them."""

    def create_collection(
        self, collection_name: str, vectors_config: Any = ..., hnsw_config: Any = ...
    ) -> Any: ...
    def delete_collection(self, collection_name: str) -> Any: ...
    def collection_exists(self, collection_name: str) -> bool: ...
    def create_payload_index(self, collection_name: str, field_name: str, field_schema: Any = ...) -> Any: ...
    def update_collection_aliases(self, change_aliases_operations: Any) -> Any: ...
    def get_aliases(self) -> models.CollectionsAliasesResponse: ...


@dataclass(frozen=True)
class Release:
    """One physical collection of a domain; ``blue`` when the domain's alias points at it."""

    collection_id: str
    domain: str
    embedding_model_id: str
    info: Document
    created_at: int
    index_created: bool
    blue: bool

    def as_json(self) -> Document:
        """Return the published collection state."""
        return {
            "collection_id": self.collection_id,
            "domain": self.domain,
            "embedding_model": {"name": self.embedding_model_id, "id": self.embedding_model_id, **self.info},
            "created_at": self.created_at,
            "index_created": self.index_created,
            "work_state": "blue" if self.blue else "green",
            "applied_optimizations": [],
        }


class Releases:
    """Blue and green collections of every domain.

    Which one is blue is the alias itself, asked for each time: no process remembers it. Mongo's ``releases``
    describes the collections, ``promotions`` is the history that rollback walks.
    """

    def __init__(
        self,
        client: CollectionClient,
        database: Database[Document],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._releases = database["releases"]
        self._promotions = database["promotions"]
        self._clock = clock
        self._spaces: dict[str, str] = {}

    def ensure(self, domain: SearchDomain) -> None:
        """Give a domain its first collection and make it blue, unless it has one; safe to race."""
        if self._blue_id(domain.name) is None:
            model_id = domain.encoder.model_id
            self.create(domain, model_id)
            if self._blue_id(domain.name) is None:
                self.set_blue(domain.name, model_id)

    def create(self, domain: SearchDomain, embedding_model_id: str) -> Release:
        """Create a green collection in the domain's space; repeating it finishes or changes nothing."""
        info = domain.search_index_info
        collection_id = physical_name(domain.name, embedding_model_id)
        described = {
            "domain": domain.name,
            "embedding_model_id": embedding_model_id,
            "info": asdict(info),
            "created_at": int(self._clock()),
            "index_created": False,
        }
        self._releases.update_one({"_id": collection_id}, {"$setOnInsert": described}, upsert=True)
        create_collection(self._client, collection_id, info)
        return self.get(domain.name, embedding_model_id)

    def get(self, domain: str, embedding_model_id: str) -> Release:
        """Return one release; raises NotFound."""
        found = self._releases.find_one({"_id": physical_name(domain, embedding_model_id)})
        if found is None:
            raise NotFound(f"domain {domain!r} has no collection for embedding model {embedding_model_id!r}")
        return _release(found, self._blue_id(domain))

    def blue(self, domain: str) -> Release:
        """Return the release that serves; raises NotFound before the first promotion."""
        collection_id = self._blue_id(domain)
        found = self._releases.find_one({"_id": collection_id}) if collection_id else None
        if found is None:
            raise NotFound(f"domain {domain!r} has no blue collection")
        return _release(found, collection_id)

    def space(self, domain: str) -> str:
        """Return the id of the embedding space that serves: the blue release's ``embedding_model_id``.

        The alias is asked for each time; a collection's own space never changes, so it is asked for once.

        Raises:
            NotFound: before the first promotion.
        """
        collection_id = self._blue_id(domain)
        if collection_id is None or collection_id not in self._spaces:
            blue = self.blue(domain)
            self._spaces[blue.collection_id] = blue.embedding_model_id
            return blue.embedding_model_id
        return self._spaces[collection_id]

    def list(self, domain: str) -> list[Release]:
        """Return every release of a domain, oldest first."""
        blue = self._blue_id(domain)
        found = self._releases.find({"domain": domain}).sort([("created_at", 1), ("_id", 1)])
        return [_release(document, blue) for document in found]

    def set_blue(self, domain: str, embedding_model_id: str) -> Release:
        """Make a collection the serving one, in one atomic alias call."""
        target = self.get(domain, embedding_model_id)
        if not target.blue:
            previous = self._blue_id(domain)
            # Recorded first: a promotion that was not carried out names a collection that is not blue, and
            # rollback passes over it; one that was carried out but not recorded could not be rolled back.
            self._promotions.insert_one(
                {
                    "domain": domain,
                    "previous": previous,
                    "current": target.collection_id,
                    "at": self._clock(),
                    "undone": False,
                    "rebuilt": previous is None,
                }
            )
            self._switch(domain, previous, target.collection_id)
        return self.get(domain, embedding_model_id)

    def rollback(self, domain: str) -> Release:
        """Make the collection that was blue before the blue one serve again; raises Conflict without one."""
        blue = self._blue_id(domain)
        wanted = {"domain": domain, "current": blue, "undone": False}
        promotion = self._promotions.find_one(wanted, sort=[("at", DESCENDING)])
        previous = promotion["previous"] if promotion else None
        if promotion is None or previous is None:
            raise Conflict(f"domain {domain!r} has no earlier blue collection to roll back to")
        if not self._client.collection_exists(previous):
            raise Conflict(f"the earlier blue collection {previous!r} was deleted")
        self._promotions.update_one({"_id": promotion["_id"]}, {"$set": {"rebuilt": False}})
        self._switch(domain, blue, previous)
        self._promotions.update_one({"_id": promotion["_id"]}, {"$set": {"undone": True}})
        return self.blue(domain)

    def unrebuilt(self) -> set[str]:
        """Return the domains that were switched and whose copies nobody has queued for rebuilding since."""
        return set(self._promotions.distinct("domain", {"rebuilt": False}))

    def mark_rebuilt(self, domain: str) -> None:
        """Note that the domain's copies are queued for rebuilding."""
        self._promotions.update_many({"domain": domain, "rebuilt": False}, {"$set": {"rebuilt": True}})

    def delete(self, domain: str, embedding_model_id: str) -> None:
        """Delete a green collection; raises Conflict for the blue one."""
        target = self.get(domain, embedding_model_id)
        if target.blue:
            raise Conflict(f"{embedding_model_id!r} is blue: set another collection blue before deleting it")
        self._client.delete_collection(target.collection_id)
        self._releases.delete_one({"_id": target.collection_id})

    def mark_indexed(self, release: Release) -> None:
        """Note that the operator asked for the index of this release."""
        self._releases.update_one({"_id": release.collection_id}, {"$set": {"index_created": True}})

    def _blue_id(self, domain: str) -> str | None:
        for alias in self._client.get_aliases().aliases:
            if alias.alias_name == domain:
                return str(alias.collection_name)
        return None

    def _switch(self, domain: str, previous: str | None, current: str) -> None:
        drop = [models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=domain))]
        create = models.CreateAlias(collection_name=current, alias_name=domain)
        self._client.update_collection_aliases(
            change_aliases_operations=[
                *(drop if previous else []),
                models.CreateAliasOperation(create_alias=create),
            ]
        )


def create_collection(client: CollectionClient, name: str, info: SearchIndexInfo) -> None:
    """Create a collection for objects of a space, and its indexes; safe to repeat and to race."""
    if not client.collection_exists(name):
        # Only the vector that the aggregation searches gets a graph.
        searched = PARTS if info.metric_aggregation_type is MetricAggregationType.MIN else AVERAGE
        hnsw = {
            vector: models.HnswConfigDiff(m=info.hnsw.m if vector == searched else 0)
            for vector in (PARTS, AVERAGE)
        }
        size, distance = info.dimensions, _DISTANCES[info.metric_type]
        max_sim = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
        try:
            client.create_collection(
                name,
                vectors_config={
                    PARTS: models.VectorParams(
                        size=size, distance=distance, multivector_config=max_sim, hnsw_config=hnsw[PARTS]
                    ),
                    AVERAGE: models.VectorParams(size=size, distance=distance, hnsw_config=hnsw[AVERAGE]),
                },
                hnsw_config=models.HnswConfigDiff(ef_construct=info.hnsw.ef_construction),
            )
        except Exception:  # another process may have won the race; anything else is a real failure
            if not client.collection_exists(name):
                raise
    tenant = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
    client.create_payload_index(name, "user_id", field_schema=tenant)
    for field in _INDEXES:
        client.create_payload_index(name, field, field_schema=models.PayloadSchemaType.KEYWORD)


def physical_name(domain: str, embedding_model_id: str) -> str:
    """Return the collection's name: readable, safe for any model id, distinct for distinct ones.

    >>> physical_name("docs", "all MiniLM/v1")
    'docs.all-MiniLM-v1.df2d6fb9'
    """
    digest = hashlib.sha256(embedding_model_id.encode()).hexdigest()[:8]
    return f"{domain}.{re.sub(r'[^A-Za-z0-9_-]+', '-', embedding_model_id)[:64]}.{digest}"


def _release(document: Document, blue: str | None) -> Release:
    return Release(
        collection_id=document["_id"],
        domain=document["domain"],
        embedding_model_id=document["embedding_model_id"],
        info=document["info"],
        created_at=document["created_at"],
        index_created=document["index_created"],
        blue=document["_id"] == blue,
    )

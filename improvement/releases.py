"""Releases: which physical collections exist and which one serves; the only file that speaks aliases."""

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

from pymongo.database import Database
from qdrant_client import models

from improvement.domain import MetricAggregationType, MetricType, SearchDomain, SearchIndexInfo
from improvement.errors import Conflict, NotFound
from improvement.promotion_log import Promotion, PromotionLog, serving_last
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
    def get_collection(self, collection_name: str) -> models.CollectionInfo: ...


@dataclass(frozen=True)
class Release:
    """One physical collection of a domain; ``blue`` when the domain's alias points at it.

    Attributes:
        embedding_model_id: what the published API calls it by: the embedding model's id, for a build with
            what tells the build from others behind it.
        space: the embedding space of its vectors: the ``model_id`` of an encoder.
        follows: whether it is kept in line with the blue one, object by object and copy by copy.
        build: the build that fills it; None for one made by hand.
        population: whether its objects are turned by what everybody chose, as `PopulationStore` says.
    """

    collection_id: str
    domain: str
    embedding_model_id: str
    info: Document
    created_at: int
    index_created: bool
    blue: bool
    space: str
    follows: bool = False
    build: str | None = None
    population: bool = False

    def as_json(self) -> Document:
        """Return the published collection state, and what a build is."""
        return {
            "collection_id": self.collection_id,
            "domain": self.domain,
            "embedding_model": {"name": self.space, "id": self.embedding_model_id, **self.info},
            "created_at": self.created_at,
            "index_created": self.index_created,
            "work_state": "blue" if self.blue else "green",
            "applied_optimizations": ["population"] if self.population else [],
            "follows": self.follows and not self.blue,
            "build": self.build,
        }


class Serving(NamedTuple):
    """The collection that serves, and its embedding space."""

    collection_id: str
    space: str


@dataclass(frozen=True)
class World:
    """The collections that every write of a domain must reach: the blue one, and those that follow it."""

    blue: Release
    followers: tuple[Release, ...]

    @property
    def releases(self) -> tuple[Release, ...]:
        """All of them, the blue one first."""
        return (self.blue, *self.followers)


class Releases:
    """Blue and green collections of every domain.

    Which one is blue is the alias itself, asked for each time: no process remembers it. Mongo's ``releases``
    describes the collections; `promotions` is the history that rollback walks.
    """

    def __init__(
        self,
        client: CollectionClient,
        database: Database[Document],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._releases = database["releases"]
        self.promotions = PromotionLog(database, clock)
        self._clock = clock
        self._spaces: dict[str, str] = {}

    def ensure(self, domain: SearchDomain) -> None:
        """Give a domain its first collection and make it blue, unless it has one; safe to race.

        Where the alias was lost but not the collection that served (a snapshot without aliases), that one
        serves again.
        """
        if self._blue_id(domain.name) is None:
            served = serving_last(self.promotions.history(domain.name))
            if served is not None and self._client.collection_exists(served):
                self._switch(domain.name, None, served)
                return
            model_id = domain.encoder.model_id
            self.create(domain, model_id)
            if self._blue_id(domain.name) is None:
                self.set_blue(domain.name, model_id)

    def create(
        self,
        domain: SearchDomain,
        embedding_model_id: str,
        *,
        space: str | None = None,
        build: str | None = None,
        population: bool = False,
    ) -> Release:
        """Create a green collection; repeating it finishes or changes nothing.

        Args:
            domain: in the space that the collection is for, see `SearchDomain.in_space`.
            embedding_model_id: names the collection among the domain's.
            space: id of the embedding space; None is ``embedding_model_id`` itself.
            build: the build that fills it.
            population: as in `Release`.
        """
        info = domain.search_index_info
        collection_id = physical_name(domain.name, embedding_model_id)
        described = {
            "domain": domain.name,
            "embedding_model_id": embedding_model_id,
            "info": asdict(info),
            "created_at": int(self._clock()),
            "index_created": False,
            "space": space or embedding_model_id,
            "follows": False,
            "build": build,
            "population": population,
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

    def serving(self, domain: str) -> Serving:
        """Return the collection that serves, and its embedding space.

        The alias is asked for each time; a collection's own space never changes, so it is asked for once.

        Raises:
            NotFound: before the first promotion.
        """
        collection_id = self._blue_id(domain)
        if collection_id is None or collection_id not in self._spaces:
            blue = self.blue(domain)
            self._spaces[blue.collection_id] = blue.space
            return Serving(blue.collection_id, blue.space)
        return Serving(collection_id, self._spaces[collection_id])

    def space(self, domain: str) -> str:
        """Return the embedding space that serves; raises NotFound before the first promotion."""
        return self.serving(domain).space

    def world(self, domain: str) -> World:
        """Return the collections that a write must reach, as of now; raises NotFound without a blue one.

        A write reaches all of them if this is asked after the blue one was written: a collection that begins
        to follow after that is filled after that.
        """
        # The collections first: one that a promotion makes follow, or no longer follow, does so before the
        # alias moves, respectively after, so that none is missed between the two questions.
        found = list(self._releases.find({"domain": domain}))
        blue = self._blue_id(domain)
        every = [_release(document, blue) for document in found]
        serving = next((release for release in every if release.blue), None)
        if serving is None:
            raise NotFound(f"domain {domain!r} has no blue collection")
        return World(serving, tuple(one for one in every if one.follows and not one.blue))

    def follow(self, release: Release, follows: bool) -> None:
        """Have writes reach a collection from now on, or no longer."""
        self._releases.update_one({"_id": release.collection_id}, {"$set": {"follows": follows}})

    def list(self, domain: str) -> list[Release]:
        """Return every release of a domain, oldest first."""
        blue = self._blue_id(domain)
        found = self._releases.find({"domain": domain}).sort([("created_at", 1), ("_id", 1)])
        return [_release(document, blue) for document in found]

    def set_blue(self, domain: str, embedding_model_id: str, **facts: Any) -> Release:
        """Make a collection the serving one, in one atomic alias call.

        Args:
            facts: what else the history is to say of this promotion.
        """
        target = self.get(domain, embedding_model_id)
        if not target.blue:
            previous = self._blue_id(domain)
            # Recorded first: a promotion that was not carried out names a collection that is not blue, and
            # rollback passes over it; one that was carried out but not recorded could not be rolled back.
            self.promotions.begin(domain, previous, target.collection_id, facts)
            self._switch(domain, previous, target.collection_id)
        return self.get(domain, embedding_model_id)

    def earlier(self, domain: str) -> Release:
        """Return what a rollback would make blue; raises Conflict without one."""
        blue = self._blue_id(domain)
        promotion = self.promotions.latest(domain, blue)
        if promotion is None or promotion.previous is None:
            raise Conflict(f"domain {domain!r} has no earlier blue collection to roll back to")
        found = self._releases.find_one({"_id": promotion.previous})
        if found is None or not self._client.collection_exists(promotion.previous):
            raise Conflict(f"the earlier blue collection {promotion.previous!r} was deleted")
        return _release(found, blue)

    def rollback(self, domain: str, by: str = "", why: str = "") -> Release:
        """Make the collection that was blue before the blue one serve again; raises Conflict without one."""
        blue = self._blue_id(domain)
        previous = self.earlier(domain).collection_id
        promotion = self.promotions.latest(domain, blue)
        assert promotion is not None  # `earlier` found it
        self.promotions.undoing(promotion, by, why)
        self._switch(domain, blue, previous)
        self.promotions.undone(promotion)
        return self.blue(domain)

    def history(self, domain: str, limit: int = 0) -> Sequence[Promotion]:
        """Return who made what blue, when and why, the newest first; 0 is all of it."""
        return self.promotions.history(domain, limit)

    def unrebuilt(self) -> set[str]:
        """Return the domains that were switched and whose copies nobody has queued for rebuilding since."""
        return self.promotions.unrebuilt()

    def mark_rebuilt(self, domain: str) -> None:
        """Note that the domain's copies are queued for rebuilding."""
        self.promotions.mark_rebuilt(domain)

    def delete(self, domain: str, embedding_model_id: str) -> None:
        """Delete a green collection; raises Conflict for the blue one."""
        target = self.get(domain, embedding_model_id)
        if target.blue:
            raise Conflict(f"{embedding_model_id!r} is blue: set another collection blue before deleting it")
        self.follow(target, False)  # before it is gone, so that no writer looks for it
        self._client.delete_collection(target.collection_id)
        self._releases.delete_one({"_id": target.collection_id})

    def indexed(self, release: Release) -> bool:
        """Say whether the engine has done all that it does by itself for a collection, its index too."""
        status = self._client.get_collection(release.collection_id).status
        return status is models.CollectionStatus.GREEN  # the engine's word, which has nothing to do with ours

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
        space=document.get("space") or document["embedding_model_id"],
        follows=document.get("follows", False),
        build=document.get("build"),
        population=document.get("population", False),
    )

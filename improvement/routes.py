"""HTTP for search, objects and collections; routes only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query

from improvement.catalogue import Catalogue
from improvement.domain import SearchDomain
from improvement.errors import Conflict, Invalid
from improvement.filters import parse_filter
from improvement.green.orders import discard
from improvement.promotion import drop_collection, promote, rollback
from improvement.releases import Release
from improvement.schemas import (
    MAX_OBJECTS,
    CollectionObjectIds,
    CollectionObjects,
    CollectionRef,
    DomainRef,
    FindSimilar,
    PayloadCount,
    PayloadSearch,
    PutObjects,
    SimilaritySearch,
    checked_vectors,
    object_json,
    to_objects,
)
from improvement.search import Search
from improvement.two_tower.following import TowerFollowing
from improvement.vectors import point_id
from improvement.wiring import Rooms, improver

#: Who switches collections by the published paths, which do not ask.
BY = "an operator, by HTTP"
ObjectIds = Annotated[list[str], Query(alias="object_id", min_length=1, max_length=MAX_OBJECTS)]


def chosen(domains: Mapping[str, SearchDomain], name: str | None) -> SearchDomain:
    """Return the named domain, or the default one; raises Invalid for one that is not configured."""
    if name is None:
        return next(iter(domains.values()))
    if name not in domains:
        raise Invalid(f"domain {name!r} is not configured; expected one of {list(domains)}")
    return domains[name]


def search_router(rooms: Rooms) -> APIRouter:
    """Return the search routes (role client)."""
    router = APIRouter(prefix="/embeddings", tags=["search"])
    search = search_of(rooms)

    @router.post("/similarity-search")
    def similarity_search(body: SimilaritySearch) -> dict[str, Any]:
        """Search by text or vector, as the user sees the objects."""
        return search.similar(chosen(rooms.domains, body.domain), body)

    @router.post("/payload-search")
    def payload_search(body: PayloadSearch) -> dict[str, Any]:
        """Search by payload only."""
        return search.by_payload(chosen(rooms.domains, body.domain), body)

    @router.post("/payload-count")
    def payload_count(body: PayloadCount) -> dict[str, int]:
        """Count the objects that pass a filter."""
        where = parse_filter(body.filter, point_id)
        return {"total_count": rooms.vectors.count(chosen(rooms.domains, body.domain).name, where)}

    return router


def objects_router(rooms: Rooms) -> APIRouter:
    """Return the routes for objects of the blue collection (role operator)."""
    router = APIRouter(prefix="/objects", tags=["objects"])

    def blue(domain: SearchDomain) -> str:
        return rooms.releases.blue(domain.name).collection_id

    @router.put("")
    def put_objects(body: PutObjects) -> dict[str, int]:
        """Create or replace objects in the serving collection; their copies follow."""
        domain = chosen(rooms.domains, body.domain)
        space = rooms.releases.space(domain.name)
        objects = to_objects(body.objects, domain.in_space(space))
        catalogue(rooms, domain).upsert(objects, space, body.shrink_parts)
        return {"written": len(objects)}

    @router.get("")
    def get_objects(object_ids: ObjectIds, domain: str | None = None) -> dict[str, Any]:
        """Return objects of the serving collection by id."""
        return {"objects": _found(rooms, blue(chosen(rooms.domains, domain)), object_ids)}

    @router.delete("")
    def delete_objects(object_ids: ObjectIds, domain: str | None = None) -> None:
        """Delete objects and every copy of them; unknown ids are ignored."""
        catalogue(rooms, chosen(rooms.domains, domain)).delete(object_ids)

    return router


def collections_router(rooms: Rooms) -> APIRouter:
    """Return the routes for collections, blue and green (role operator)."""
    router = APIRouter(prefix="/internal/vectordb", tags=["collections"])
    releases = rooms.releases

    def state(name: str | None, find: Callable[[str], Release]) -> dict[str, Any]:
        return find(chosen(rooms.domains, name).name).as_json()

    @router.post("/collections/create")
    def create(body: CollectionRef) -> dict[str, Any]:
        """Create a green collection for an embedding model; repeating it changes nothing.

        409 for the name of a build's collection: what its gate has not seen must not look like it.
        """
        domain = chosen(rooms.domains, body.domain).in_space(body.embedding_model_id)
        if rooms.builds.named(domain.name, body.embedding_model_id):
            raise Conflict(f"{body.embedding_model_id!r} is a build's name; take another one")
        return releases.create(domain, body.embedding_model_id).as_json()

    @router.post("/collections/create-index")
    def create_index(body: CollectionRef) -> dict[str, Any]:
        """Build the collection's search index now; a server builds it by itself as well."""
        domain = chosen(rooms.domains, body.domain).name
        release = releases.get(domain, body.embedding_model_id)
        if rooms.optimize is not None:
            rooms.optimize(release.collection_id)
        releases.mark_indexed(release)
        return releases.get(domain, body.embedding_model_id).as_json()

    @router.post("/collections/delete")
    def delete(body: CollectionRef) -> None:
        """Delete a green collection, and where users are in its space; 409 for the blue one."""
        domain = chosen(rooms.domains, body.domain).name
        release = releases.get(domain, body.embedding_model_id)
        if release.build is not None:
            discard(improver(rooms), rooms.builds.get(release.build))
            return
        with releases.promotions.switching(domain, BY):
            drop_collection(releases, rooms.neighbours, releases.get(domain, body.embedding_model_id))

    @router.post("/collections/set-blue")
    def set_blue(body: CollectionRef) -> dict[str, Any]:
        """Make a collection the serving one: one atomic alias call; 409 if a build's gate is against it."""
        domain = chosen(rooms.domains, body.domain).name
        return promote(rooms, domain, body.embedding_model_id, BY).as_json()

    @router.post("/collections/rollback")
    def roll_back(body: DomainRef) -> dict[str, Any]:
        """Make the collection serve again that was blue before."""
        domain = chosen(rooms.domains, body.domain).name
        return rollback(rooms, domain, BY).as_json()

    @router.get("/collections/list")
    @router.get("/collections/queries/list")
    @router.get("/queries/list")
    def list_collections(domain: str | None = None) -> dict[str, Any]:
        """List the collections of a domain. Queries are embedded in the same spaces and kept in Mongo."""
        found = releases.list(chosen(rooms.domains, domain).name)
        return {"collections": [release.as_json() for release in found]}

    @router.get("/collections/get-info")
    def get_info(embedding_model_id: str, domain: str | None = None) -> dict[str, Any]:
        """Describe one collection."""
        return state(domain, lambda name: releases.get(name, embedding_model_id))

    @router.get("/collections/get-blue-info")
    @router.get("/collections/get-blue-query-info")
    @router.get("/queries/get-blue-query-info")
    def get_blue_info(domain: str | None = None) -> dict[str, Any]:
        """Describe the collection that serves."""
        return state(domain, releases.blue)

    _collection_objects(router, rooms)
    return router


def _collection_objects(router: APIRouter, rooms: Rooms) -> None:
    """Add the routes for objects of a named collection."""

    def target(body: CollectionRef) -> tuple[SearchDomain, Release]:
        domain = chosen(rooms.domains, body.domain)
        return domain, rooms.releases.get(domain.name, body.embedding_model_id)

    @router.post("/collections/objects/insert")
    def insert(body: CollectionObjects) -> None:
        """Write new objects; 409 when one exists."""
        domain, release = target(body)
        objects = to_objects(body.objects, domain.in_space(release.space))
        catalogue(rooms, domain, release).insert(objects, release.space)

    @router.post("/collections/objects/upsert")
    def upsert(body: CollectionObjects) -> None:
        """Write objects; ``shrink_parts`` false keeps stored parts that are not named.

        409 for a collection that is kept in line with the one that serves: write there.
        """
        domain, release = target(body)
        objects = to_objects(body.objects, domain.in_space(release.space))
        catalogue(rooms, domain, release).upsert(objects, release.space, body.shrink_parts)

    @router.post("/collections/objects/delete")
    def delete(body: CollectionObjectIds) -> None:
        """Delete objects and every copy of them."""
        domain, release = target(body)
        catalogue(rooms, domain, release).delete(body.object_ids)

    @router.post("/collections/objects/find-by-ids")
    def find_by_ids(body: CollectionObjectIds) -> list[dict[str, Any]]:
        """Return objects, and copies by their full name, with their vectors."""
        _, release = target(body)
        return _found(rooms, release.collection_id, body.object_ids)

    @router.post("/collections/objects/find-similar")
    def find_similar(body: FindSimilar) -> list[dict[str, Any]]:
        """Return the nearest originals with their distance."""
        domain, release = target(body)
        domain, collection = domain.in_space(release.space), release.collection_id
        query = checked_vectors([body.query_vector], domain, "query_vector")[0]
        hits, _ = rooms.vectors.search(
            collection, domain.search_index_info, query, body.limit, offset=body.offset or 0,
            max_distance=body.max_distance,
        )  # fmt: skip
        found = rooms.vectors.find(collection, [hit.object_id for hit in hits])
        return [
            object_json(found[hit.object_id]) | {"distance": hit.distance}
            for hit in hits
            if hit.object_id in found
        ]


def search_of(rooms: Rooms) -> Search:
    """Return the searches over these rooms."""
    return Search(rooms.vectors, rooms.clickstream, rooms.metrics, rooms.profiles, rooms.releases)


def catalogue(rooms: Rooms, domain: SearchDomain, release: Release | None = None) -> Catalogue:
    """Return the writer of a domain's objects, or of a release that was made by hand and does not serve."""
    aside = None if release is None or release.blue else release
    behind = None
    if domain.towers is not None:
        behind = TowerFollowing(rooms.releases, rooms.vectors, rooms.mirror, rooms.towers, rooms.entries)
    return Catalogue(
        domain,
        rooms.vectors,
        rooms.queue,
        rooms.wake,
        rooms.releases,
        rooms.mirror,
        rooms.shaper,
        aside,
        behind,
    )


def _found(rooms: Rooms, collection: str, object_ids: Sequence[str]) -> list[dict[str, Any]]:
    return [object_json(o) for o in rooms.vectors.named(collection, object_ids)] if object_ids else []

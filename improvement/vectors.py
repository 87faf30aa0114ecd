"""VectorStore: objects, personal copies and personalised search; the only file that speaks Qdrant points."""

import base64
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from qdrant_client import models
from qdrant_client.http import models as rest

from improvement.domain import MetricAggregationType, MetricType, SearchIndexInfo
from improvement.objects import Object, Vectors

#: Namespace of point ids; changing it orphans every stored point.
NAMESPACE = uuid.UUID("5c0b8d0e-2f57-5b0a-9d8e-6a0f6f1f4f57")
#: Points sent or fetched in one request.
CHUNK = 256
#: Candidates HNSW looks at. Fixed for pages below it, so that a second page continues the first.
MIN_EF = 128
#: Further results ranked when objects are to be left out: of the 32 nearest to a profile of 200 likes, 6 are
#: among these on average and 9 at the 95th percentile (movielens-replay, 3,496 objects).
LEFT_OUT = 16
#: How far beyond a page equal distances are followed to put them in a stable order.
MAX_TIES = 1_000

PARTS, AVERAGE = "parts", "average"
_REVISIONS = ["object_id", "revision", "given"]
_BASE = models.IsEmptyCondition(is_empty=models.PayloadField(key="user_id"))


class PointClient(Protocol):
    """The calls this module makes; `QdrantClient` and `EdgeClient` both have them."""

    def upsert(self, collection_name: str, points: Any, wait: bool = ...) -> Any: ...
    def update_vectors(
        self, collection_name: str, points: Any, wait: bool = ..., *, update_filter: Any = ...
    ) -> Any: ...
    def delete(self, collection_name: str, points_selector: Any, wait: bool = ...) -> Any: ...
    def retrieve(
        self, collection_name: str, ids: Any, with_payload: Any = ..., with_vectors: Any = ...
    ) -> list[models.Record]: ...
    def scroll(
        self,
        collection_name: str,
        scroll_filter: Any = ...,
        limit: int = ...,
        offset: Any = ...,
        with_payload: Any = ...,
        with_vectors: Any = ...,
    ) -> tuple[list[models.Record], Any]: ...
    def query_points(
        self,
        collection_name: str,
        query: Any = ...,
        using: str | None = ...,
        query_filter: Any = ...,
        search_params: Any = ...,
        limit: int = ...,
        with_payload: Any = ...,
        score_threshold: float | None = ...,
    ) -> rest.QueryResponse: ...
    def count(
        self, collection_name: str, count_filter: Any = ..., exact: bool = ...
    ) -> models.CountResult: ...
    def collection_exists(self, collection_name: str) -> bool: ...


def point_id(object_id: str, user_id: str | None = None) -> str:
    """Return the UUIDv5 of an original, or of the pair of an original and a user.

    The pair is joined by lengths, not by a character an id could contain:

    >>> point_id("a_b", "c") == point_id("a", "b_c")
    False
    """
    owner = "-" if user_id is None else f"{len(user_id)}:{user_id}"
    return str(uuid.uuid5(NAMESPACE, f"{len(object_id)}:{object_id}|{owner}"))


@dataclass(frozen=True)
class Hit:
    """One search result.

    Attributes:
        object_id: always the original's.
        distance: to the query that ranked it, smaller = closer.
        personalized: whether the user's own copy ranked it.
        rescored: whether it was ranked by the second query, see `VectorStore.search`.
    """

    object_id: str
    distance: float
    payload: Mapping[str, Any] = field(default_factory=dict)
    personalized: bool = False
    rescored: bool = False


@dataclass(frozen=True)
class CopyRef:
    """A stored copy without its vectors."""

    user_id: str
    original_id: str
    revision: str


class Revision(NamedTuple):
    """What an original was made from: as its collection holds it, and as it was given."""

    revision: str
    given: str


class Told(NamedTuple):
    """What an original says of itself: its mean part (D,), None without a direction, payload, revision."""

    mean: Vectors | None
    payload: Mapping[str, Any]
    revision: str = ""


class VectorStore:
    """Objects and copies of the collections behind one client (a server, or Qdrant Edge)."""

    def __init__(self, client: PointClient) -> None:
        self._client = client

    def upsert(self, collection: str, objects: Sequence[Object]) -> None:
        """Write originals or copies, `CHUNK` points a request; an existing point is replaced."""
        for start in range(0, len(objects), CHUNK):
            points = [_point(o) for o in objects[start : start + CHUNK]]
            self._client.upsert(collection, points=points, wait=True)

    def find(self, collection: str, object_ids: Iterable[str]) -> dict[str, Object]:
        """Return those of these originals that exist, by object id, with their vectors."""
        records = self._retrieve(collection, map(point_id, set(object_ids)), True, [PARTS, AVERAGE])
        return {o.object_id: o for o in map(_object, records)}

    def means(self, collection: str, object_ids: Iterable[str]) -> dict[str, Vectors]:
        """Return the mean parts (D,) of those of these originals that exist and have a direction."""
        found: dict[str, Vectors] = {}
        for record in self._retrieve(collection, map(point_id, set(object_ids)), ["object_id"], [AVERAGE]):
            vectors: Any = record.vector
            mean = np.asarray(vectors[AVERAGE], dtype=np.float32)
            if mean.any() and np.isfinite(mean).all():
                found[(record.payload or {})["object_id"]] = mean
        return found

    def told(self, collection: str, object_ids: Iterable[str]) -> dict[str, Told]:
        """Return what those of these originals say that exist, by object id."""
        fields = ["object_id", "payload", "revision"]
        found: dict[str, Told] = {}
        for record in self._retrieve(collection, map(point_id, set(object_ids)), fields, [AVERAGE]):
            payload, vectors = record.payload or {}, record.vector
            mean = np.asarray(vectors[AVERAGE], dtype=np.float32)  # type: ignore[index, call-overload]
            useful = bool(mean.any() and np.isfinite(mean).all())
            mine = mean if useful else None
            found[payload["object_id"]] = Told(mine, payload["payload"], payload["revision"])
        return found

    def move(self, collection: str, vectors: Mapping[str, tuple[Vectors, str]]) -> None:
        """Give originals of one part another vector (D,), `CHUNK` a request; nothing else of them changes.

        Each only if it still has the revision given with the vector. Those that are gone are left out.
        """
        moved = [_moved(object_id, *to) for object_id, to in vectors.items()]
        for start in range(0, len(moved), CHUNK):
            part = moved[start : start + CHUNK]
            try:
                self._move(collection, part)
            except Exception:  # each client has its own; one that is gone fails all those behind it
                ids = [str(point.id) for point, _ in part]
                there = {str(one.id) for one in self._retrieve(collection, ids, False, False)}
                left = [one for one in part if str(one[0].id) in there]
                if len(left) == len(part):
                    raise
                self._move(collection, left)

    def _move(self, collection: str, moved: Sequence[tuple[models.PointVectors, models.Filter]]) -> None:
        if moved:
            unchanged = models.Filter.model_construct(should=[same for _, same in moved])
            points = [point for point, _ in moved]
            self._client.update_vectors(collection, points=points, wait=True, update_filter=unchanged)

    def revisions(self, collection: str, object_ids: Iterable[str]) -> dict[str, Revision]:
        """Return the revisions of those of these originals that exist, without fetching vectors."""
        records = self._retrieve(collection, map(point_id, set(object_ids)), _REVISIONS, False)
        return dict(_revision(r) for r in records)

    def page(self, collection: str, limit: int, after: str | None = None) -> tuple[list[Object], str | None]:
        """Return a page of the originals, whole, in the order of their points, and where the next one starts.

        Args:
            limit: most objects, >= 1.
            after: what the page before returned; None for the first page. What is written meanwhile is on a
                later page or on none.

        Returns:
            The objects, and None instead of a place behind the last page.
        """
        records, following = self._scrolled(collection, limit, after, True, [PARTS, AVERAGE])
        return [_object(r) for r in records], following

    def revision_page(
        self, collection: str, limit: int, after: str | None = None
    ) -> tuple[dict[str, Revision], str | None]:
        """Return a page of the originals' revisions, as `page` does."""
        records, following = self._scrolled(collection, limit, after, _REVISIONS, False)
        return dict(_revision(r) for r in records), following

    def _scrolled(
        self, collection: str, limit: int, after: str | None, with_payload: Any, with_vectors: Any
    ) -> tuple[list[models.Record], str | None]:
        records, following = self._client.scroll(
            collection, scroll_filter=models.Filter(must=[_BASE]), limit=limit, offset=after,
            with_payload=with_payload, with_vectors=with_vectors,
        )  # fmt: skip
        return records, None if following is None else str(following)

    def named(self, collection: str, object_ids: Sequence[str]) -> list[Object]:
        """Return everything whose ``object_id`` is one of these: originals, and copies by their full name."""
        condition = models.FieldCondition(key="object_id", match=models.MatchAny(any=list(object_ids)))
        return [
            _object(r)
            for r in self._scroll(collection, models.Filter(must=[condition]), True, [PARTS, AVERAGE])
        ]

    def delete(self, collection: str, object_ids: Sequence[str]) -> None:
        """Delete originals and, in the same operation, every copy of them."""
        condition = models.FieldCondition(key="original_id", match=models.MatchAny(any=list(object_ids)))
        originals = models.HasIdCondition.model_construct(has_id=[point_id(o) for o in object_ids])
        self._delete(collection, models.Filter(should=[originals, condition]))

    def delete_copies(self, collection: str, copies: Iterable[CopyRef]) -> None:
        """Delete these copies; one request."""
        ids = [point_id(copy.original_id, copy.user_id) for copy in copies]
        if ids:
            self._client.delete(collection, points_selector=models.PointIdsList(points=list(ids)), wait=True)

    def delete_copies_of(self, collection: str, original_ids: Sequence[str]) -> None:
        """Delete every user's copies of these originals; one request."""
        condition = models.FieldCondition(key="original_id", match=models.MatchAny(any=list(original_ids)))
        self._delete(collection, models.Filter(must=[condition]))

    def erase(self, collection: str, user_ids: Sequence[str]) -> int:
        """Delete every copy of these users; return how many there were, 0 if the collection is gone."""
        if not self._client.collection_exists(collection):
            return 0
        condition = models.FieldCondition(key="user_id", match=models.MatchAny(any=list(user_ids)))
        theirs = models.Filter(must=[condition])
        held = self._client.count(collection, count_filter=theirs, exact=True).count
        self._delete(collection, theirs)  # also if there were none: one may have come since
        return held

    def copies(self, collection: str, user_ids: Sequence[str]) -> list[CopyRef]:
        """Return what copies these users have."""
        return self._copies(collection, "user_id", user_ids)

    def copies_of(self, collection: str, original_ids: Sequence[str]) -> list[CopyRef]:
        """Return what copies these originals have."""
        return self._copies(collection, "original_id", original_ids)

    def _copies(self, collection: str, key: str, values: Sequence[str]) -> list[CopyRef]:
        wanted = models.Filter(must=[models.FieldCondition(key=key, match=models.MatchAny(any=list(values)))])
        fields = ["user_id", "original_id", "revision"]
        return [CopyRef(**r.payload) for r in self._scroll(collection, wanted, fields, False) if r.payload]

    def search(
        self,
        collection: str,
        info: SearchIndexInfo,
        query: Vectors,
        limit: int,
        *,
        offset: int = 0,
        user_id: str | None = None,
        where: models.Filter | None = None,
        max_distance: float | None = None,
        without: Sequence[str] = (),
        rescore: Vectors | None = None,
        rescored: int = 50,
    ) -> tuple[list[Hit], bool]:
        """Rank objects by distance to a query vector of shape (D,), as this user sees them.

        A user's copy stands in for its original wherever the copy ranks: originals and own copies are ranked
        together, then the originals found are asked, by id and at once, whether they have a copy. Should that
        leave too few, more are ranked, so ``limit`` asked is ``limit`` returned while there are that many.
        (Having the engine leave out the originals of all the user's copies was 10 times a plain search with
        500 copies, this is 1.2 times: benchmarks/search.py.) Equal distances come in a stable order, so pages
        neither repeat nor miss.

        With ``rescore`` there is a second stage: what this user sees as the query's own best ``rescored`` are
        ranked again, by distance to that vector; everything behind them keeps its place. A hit's distance is
        to the vector that ranked it, so distances may fall where the second stage ends. (The engine's own
        second stage, a prefetch, cannot do this in its one call: which originals are shadowed is known only
        after the first, and which of the others to leave out only with the first one's distances.)

        What is to be left out is taken out of what was ranked, too; only if that leaves too few, the engine
        is told. (Telling it 200 ids costs as much as half a search.)

        Args:
            max_distance: farthest from the query, in the first stage.
            without: objects to leave out, as originals and as copies.
            rescore: (D,), prepared like the query.
            rescored: >= 1.

        Returns:
            The hits, nearest first, and whether a next page exists.
        """
        end = offset + limit
        head = rescored if rescore is not None and offset < rescored else 0
        visible, hidden = _visible(user_id, where), frozenset(without)
        names = ["object_id", "original_id"]
        fields = [*names, "payload"] if offset == 0 else names
        first = names if end <= head else fields
        needed = max(end, head) + 1
        wanted = (needed if user_id is None else int(1.5 * needed)) + min(LEFT_OUT, len(hidden))
        while True:
            points = self._nearest(collection, info, query, wanted, visible, max_distance, first)
            left = [p for p in points[:wanted] if _object_id(p) not in hidden]
            kept = self._unshadowed(collection, left, user_id)
            if len(kept) >= needed or len(points) <= wanted:
                break
            if hidden:
                visible, hidden = _visible(user_id, where, without), frozenset()
            else:
                wanted *= 2
        more = len(kept) > end
        front: list[models.ScoredPoint] = []
        if rescore is not None and head:
            front = self._rescored(collection, info, rescore, kept[:head], fields)
        page = [*front, *kept[head:]][offset:end]
        if offset and page:
            found = self._retrieve(collection, [str(p.id) for p in page], [*names, "payload"], False)
            payloads = {str(r.id): r.payload for r in found}
            page = [
                p.model_copy(update={"payload": payloads[str(p.id)]}) for p in page if str(p.id) in payloads
            ]
        return [_hit(p, info.metric_type, n < len(front)) for n, p in enumerate(page, offset)], more

    def _unshadowed(
        self, collection: str, points: list[models.ScoredPoint], user_id: str | None
    ) -> list[models.ScoredPoint]:
        """Leave out the originals of which this user has a copy."""
        if user_id is None:
            return points
        payloads: dict[str, Mapping[str, Any]] = {str(p.id): p.payload or {} for p in points}
        copy_of = {
            identity: point_id(payload["object_id"], user_id)
            for identity, payload in payloads.items()
            if payload.get("original_id") is None
        }
        held = {str(r.id) for r in self._retrieve(collection, copy_of.values(), False, False)}
        held |= payloads.keys()  # a copy that was ranked counts, even if it was deleted since
        return [p for p in points if copy_of.get(str(p.id)) not in held]

    def _rescored(
        self,
        collection: str,
        info: SearchIndexInfo,
        query: Vectors,
        points: Sequence[models.ScoredPoint],
        fields: list[str],
    ) -> list[models.ScoredPoint]:
        """Rank these points by another query; those deleted since are left out."""
        if not points:
            return []
        these = models.HasIdCondition.model_construct(has_id=[p.id for p in points])
        every = models.SearchParams(exact=True)  # an index could pass over some of them
        wanted = models.Filter(must=[these])
        return self._query(collection, info, query, len(points), wanted, every, fields, None)

    def _nearest(
        self,
        collection: str,
        info: SearchIndexInfo,
        query: Vectors,
        count: int,
        visible: models.Filter,
        max_distance: float | None,
        fields: list[str],
    ) -> list[models.ScoredPoint]:
        """Return at least ``count`` + 1 nearest points when they exist, in a total order."""
        wanted = count + 1
        while True:
            params = models.SearchParams(hnsw_ef=max(MIN_EF, wanted))
            points = self._query(collection, info, query, wanted, visible, params, fields, max_distance)
            tied = len(points) == wanted and count > 0 and points[-1].score == points[count - 1].score
            if not tied or wanted > count + MAX_TIES:
                return points
            wanted = count + 2 * (wanted - count)

    def _query(
        self,
        collection: str,
        info: SearchIndexInfo,
        query: Vectors,
        limit: int,
        where: models.Filter,
        params: models.SearchParams,
        fields: list[str],
        max_distance: float | None,
    ) -> list[models.ScoredPoint]:
        """Return the nearest points, by distance and then by id."""
        multi = info.metric_aggregation_type is MetricAggregationType.MIN
        vector = np.asarray(query, dtype=np.float32).tolist()
        points = self._client.query_points(
            collection,
            query=[vector] if multi else vector,
            using=PARTS if multi else AVERAGE,
            query_filter=where,
            search_params=params,
            limit=limit,
            with_payload=fields,
            score_threshold=None if max_distance is None else _score(max_distance, info.metric_type),
        ).points
        sign = 1 if info.metric_type is MetricType.EUCLID else -1
        return sorted(points, key=lambda p: (sign * p.score, str(p.id)))

    def chosen(self, collection: str, object_ids: Sequence[str], where: models.Filter | None) -> list[Hit]:
        """Return those of these originals that exist and pass the filter, in the order asked for."""
        if not object_ids:
            return []
        these = models.HasIdCondition.model_construct(has_id=[point_id(o) for o in object_ids])
        visible = _visible(None, models.Filter(must=[these, *([] if where is None else [where])]))
        records = self._scroll(collection, visible, ["object_id", "payload"], False)
        found = {r.payload["object_id"]: r.payload["payload"] for r in records if r.payload}
        return [Hit(o, 0.0, found[o]) for o in dict.fromkeys(object_ids) if o in found]

    def means_of(self, collection: str, hits: Sequence[Hit], user_id: str | None) -> dict[str, Vectors]:
        """Return the mean parts (D,) of what ranked these hits, copies too, by object id."""
        ids = {point_id(hit.object_id, user_id if hit.personalized else None): hit.object_id for hit in hits}
        records: Iterable[Any] = self._retrieve(collection, ids, False, [AVERAGE])
        return {ids[str(r.id)]: np.asarray(r.vector[AVERAGE], dtype=np.float32) for r in records}

    def listed(
        self,
        collection: str,
        where: models.Filter | None,
        limit: int,
        offset: int,
        without: Sequence[str] = (),
    ) -> tuple[list[Hit], bool]:
        """Return originals that pass the filter, in a stable order, and whether there are more."""
        visible = _visible(None, where, without)
        records, _ = self._client.scroll(
            collection,
            scroll_filter=visible,
            limit=offset + limit + 1,
            with_payload=False,
            with_vectors=False,
        )
        page = [str(r.id) for r in records[offset : offset + limit]]
        found = {str(r.id): r for r in self._retrieve(collection, page, ["object_id", "payload"], False)}
        payloads = [found[i].payload or {} for i in page if i in found]
        hits = [Hit(payload["object_id"], 0.0, payload["payload"]) for payload in payloads]
        return hits, len(records) > offset + limit

    def count(self, collection: str, where: models.Filter | None) -> int:
        """Return how many originals pass the filter."""
        visible = _visible(None, where)
        return self._client.count(collection, count_filter=visible, exact=True).count

    def total(self, collection: str) -> int:
        """Return how many points there are: originals and copies."""
        return self._client.count(collection, exact=True).count

    def _retrieve(
        self, collection: str, ids: Iterable[str], with_payload: Any, with_vectors: Any
    ) -> Iterable[models.Record]:
        wanted = list(ids)
        for start in range(0, len(wanted), CHUNK):
            chunk = wanted[start : start + CHUNK]
            yield from self._client.retrieve(
                collection, ids=chunk, with_payload=with_payload, with_vectors=with_vectors
            )

    def _scroll(
        self, collection: str, wanted: models.Filter, with_payload: Any, with_vectors: Any
    ) -> Iterable[models.Record]:
        offset = None
        while True:
            records, offset = self._client.scroll(
                collection,
                scroll_filter=wanted,
                limit=1_000,
                offset=offset,
                with_payload=with_payload,
                with_vectors=with_vectors,
            )
            yield from records
            if offset is None:
                return

    def _delete(self, collection: str, wanted: models.Filter) -> None:
        self._client.delete(collection, points_selector=models.FilterSelector(filter=wanted), wait=True)


def _visible(user_id: str | None, where: models.Filter | None, without: Sequence[str] = ()) -> models.Filter:
    """Return the filter of what this user may see: originals, and their own copies; but not ``without``."""
    must = None if where is None else [where]
    base: models.Condition = _BASE
    own: models.Condition = models.FieldCondition(key="user_id", match=models.MatchValue(value=user_id or ""))
    if without:
        # By payload, not by point id: to make and send 400 ids took as long as the search itself. Each kind
        # by its own field, for a copy's full name may look like another original's id.
        these = models.MatchAny(any=list(without))
        base, own = (
            models.Filter(must=[kind], must_not=[models.FieldCondition(key=key, match=these)])
            for kind, key in ((base, "object_id"), (own, "original_id"))
        )
    if user_id is None:
        return models.Filter(must=[base, *(must or [])])
    return models.Filter(should=[base, own], must=must)


def _point(o: Object) -> models.PointStruct:
    payload: dict[str, Any] = {
        "object_id": o.object_id,
        "payload": dict(o.payload),
        "storage_meta": dict(o.storage_meta),
        "part_ids": list(o.part_ids),
        "has_average": o.average is not None,
        "revision": o.revision,
    }
    if o.user_id is not None and o.original_id is not None:
        payload |= {
            "user_id": o.user_id,
            "original_id": o.original_id,
            "session_id": o.session_id,
        }
        identity = point_id(o.original_id, o.user_id)
    else:
        identity = point_id(o.object_id)
    if o.texts:
        payload["texts"] = list(o.texts)
    if o.given is not None:
        payload["given"] = o.given
    if o.raw is not None:  # exact, and never compared: no vector of the collection's
        payload["raw"] = base64.b64encode(np.ascontiguousarray(o.raw, "<f4").tobytes()).decode()
    vectors = {PARTS: o.parts.tolist(), AVERAGE: o.mean.tolist()}
    return models.PointStruct.model_construct(id=identity, vector=vectors, payload=payload)


def _moved(object_id: str, vector: Vectors, revision: str) -> tuple[models.PointVectors, models.Filter]:
    """Return an original's new vectors, and the condition that it still is of this revision."""
    identity, row = point_id(object_id), vector.tolist()
    same = models.FieldCondition(key="revision", match=models.MatchValue(value=revision))
    these = models.HasIdCondition.model_construct(has_id=[identity])
    to = models.PointVectors.model_construct(id=identity, vector={PARTS: [row], AVERAGE: row})
    return to, models.Filter(must=[these, same])


def _object(record: models.Record) -> Object:
    payload: Mapping[str, Any] = record.payload or {}
    vectors: Any = record.vector
    parts = np.asarray(vectors[PARTS], dtype=np.float32)
    raw = payload.get("raw")
    mean, has_average = np.asarray(vectors[AVERAGE], dtype=np.float32), payload["has_average"]
    return Object(
        object_id=payload["object_id"],
        parts=parts,
        part_ids=tuple(payload["part_ids"]),
        average=mean if has_average else None,
        payload=payload["payload"],
        storage_meta=payload["storage_meta"],
        user_id=payload.get("user_id"),
        original_id=payload.get("original_id"),
        session_id=payload.get("session_id"),
        revision=payload["revision"],
        texts=tuple(payload.get("texts", ())),
        raw=None if raw is None else np.frombuffer(base64.b64decode(raw), "<f4").reshape(-1, parts.shape[1]),
        given=payload.get("given"),
        centre=mean if not has_average and len(parts) > 1 else None,
    )


def _revision(record: models.Record) -> tuple[str, Revision]:
    payload: Mapping[str, Any] = record.payload or {}
    revision = payload["revision"]
    return payload["object_id"], Revision(revision, payload.get("given") or revision)


def _object_id(point: models.ScoredPoint) -> str:
    payload: Mapping[str, Any] = point.payload or {}
    original = payload.get("original_id")
    return str(payload["object_id"] if original is None else original)


def _hit(point: models.ScoredPoint, metric: MetricType, rescored: bool) -> Hit:
    payload: Mapping[str, Any] = point.payload or {}
    return Hit(
        object_id=_object_id(point),
        distance=_distance(point.score, metric),
        payload=payload["payload"],
        personalized=payload.get("original_id") is not None,
        rescored=rescored,
    )


def _distance(score: float, metric: MetricType) -> float:
    """Turn Qdrant's score into a distance, smaller = closer: 1 - cos, -dot, or euclid itself."""
    if metric is MetricType.COSINE:
        return max(0.0, 1.0 - score)
    return -score if metric is MetricType.DOT else score


def _score(distance: float, metric: MetricType) -> float:
    if metric is MetricType.COSINE:
        return 1.0 - distance
    return -distance if metric is MetricType.DOT else distance

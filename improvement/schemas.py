"""Bodies of the search, object and collection routes: Embedding Studio's fields, ours optional on top."""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, FiniteFloat, JsonValue, model_validator

from clickstream.records import Identifier, Meta, Record, Text, Timestamp, storable, storable_text
from improvement.domain import MetricType, SearchDomain
from improvement.errors import Invalid
from improvement.objects import Object, Vectors

#: Parts one object may have.
MAX_PARTS = 512
#: Objects one request may carry.
MAX_OBJECTS = 1_000
#: Results one page may hold, and how deep pages go.
MAX_LIMIT, MAX_OFFSET = 1_000, 10_000

#: Texts, and past engagements, that one request may have embedded.
MAX_TEXTS, MAX_PASTS = 256, 500
#: Bytes of one object's payload as JSON.
MAX_PAYLOAD_BYTES = 262_144


def _payload(value: dict[str, Any]) -> dict[str, Any]:
    storable(value)
    if len(json.dumps(value)) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"larger than {MAX_PAYLOAD_BYTES} bytes as JSON")
    return value


Payload = Annotated[dict[str, Any], AfterValidator(_payload)]
StorableText = Annotated[Text, AfterValidator(storable_text)]
StorableId = Annotated[Identifier, AfterValidator(storable_text)]
DomainName = Annotated[str, Field(max_length=64)]
ModelId = Annotated[str, Field(min_length=1, max_length=256)]


class SortBy(Record):
    """Order by a payload field."""

    field: Annotated[str, Field(min_length=1, max_length=256)]
    order: Literal["asc", "desc"] = "asc"


class Asked(Record):
    """What every request for a list of objects may say."""

    filter: dict[str, JsonValue] | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 10
    create_session: bool = False
    user_id: Identifier | None = None
    session_id: Identifier | None = None
    meta_info: Meta | None = None
    domain: DomainName | None = None


class PayloadSearch(Asked):
    """A search by payload only."""

    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET)] | None = None
    sort_by: SortBy | None = None


class SimilaritySearch(PayloadSearch):
    """A search by text (the domain's encoder embeds it) or by a vector of the domain's dimensions.

    ``exploration_ratio`` mixes the user's own list with the baseline by team-draft interleaving.
    ``profile_weight`` is how far the user's profile turns the search; left out, the domain decides.
    """

    search_query: Text | list[FiniteFloat]
    max_distance: FiniteFloat | None = None
    similarity_first: bool = False
    exploration_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    profile_weight: Annotated[float, Field(ge=0, le=1)] | None = None


class Recommend(Asked):
    """What a user may like next, without a query.

    ``exclude_seen`` leaves out what the user acted on; ``diversity`` trades likeness to the profile for
    difference among the results, 0 not at all; ``fallback`` is what a user gets whom ``model`` does not know;
    ``model`` left out is "profile".
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"user_id": "ann", "limit": 10}, {"user_id": "ann", "model": "two_tower"}]
        }
    )

    user_id: Identifier
    exclude_seen: bool = True
    fallback: Literal["popularity", "none"] = "popularity"
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.0
    model: Literal["profile", "two_tower"] | None = None


class PastBody(Record):
    """Something that somebody did with an object, as in an action or a session's event."""

    object_id: StorableId
    action_type: Annotated[str, Field(min_length=1, max_length=128)]
    created_at: Timestamp | None = None
    meta: Meta | None = None


class Embed(Record):
    """What is to be a vector: texts, or a history (oldest first where times are equal), or objects."""

    domain: DomainName | None = None
    model: Literal["two_tower", "encoder"] = "two_tower"
    texts: Annotated[list[StorableText], Field(min_length=1, max_length=MAX_TEXTS)] | None = None
    history: Annotated[list[PastBody], Field(min_length=1, max_length=MAX_PASTS)] | None = None
    object_ids: Annotated[list[StorableId], Field(min_length=1, max_length=MAX_OBJECTS)] | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"texts": ["waterproof walking boots"]},
                {"history": [{"object_id": "o1", "action_type": "like"}]},
                {"object_ids": ["o1", "o2"]},
                {"model": "encoder", "texts": ["waterproof walking boots"]},
            ]
        }
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        given = sum(one is not None for one in (self.texts, self.history, self.object_ids))
        if given != 1:
            raise ValueError(f"expected exactly one of texts, history and object_ids, got {given}")
        return self


class PayloadCount(Record):
    """How many objects pass a filter."""

    filter: dict[str, JsonValue] | None = None
    domain: DomainName | None = None


class PartBody(Record):
    """One part: a vector, or a text for the domain's encoder."""

    vector: Annotated[list[FiniteFloat], Field(min_length=1)] | None = None
    text: Text | None = None
    part_id: Identifier | None = None
    is_average: bool = False


class ObjectBody(Record):
    """One object as callers send it. ``user_id`` with ``original_id`` makes it that user's copy."""

    object_id: Identifier
    payload: Payload | None = None
    storage_meta: Payload = Field(default_factory=dict)
    user_id: Identifier | None = None
    session_id: Identifier | None = None
    original_id: Identifier | None = None
    parts: Annotated[list[PartBody], Field(min_length=1, max_length=MAX_PARTS)]


class PutObjects(Record):
    """Objects for the blue collection of a domain."""

    objects: Annotated[list[ObjectBody], Field(max_length=MAX_OBJECTS)]
    shrink_parts: bool = True
    domain: DomainName | None = None


class CollectionRef(Record):
    """Names a collection by its embedding model."""

    embedding_model_id: ModelId
    domain: DomainName | None = None


class DomainRef(Record):
    """Names a domain, the default one when left out."""

    domain: DomainName | None = None


class CollectionObjects(CollectionRef):
    """Objects for a named collection."""

    objects: Annotated[list[ObjectBody], Field(max_length=MAX_OBJECTS)]
    shrink_parts: bool = True


class CollectionObjectIds(CollectionRef):
    """Object ids in a named collection."""

    object_ids: Annotated[list[Identifier], Field(max_length=MAX_OBJECTS)]


class FindSimilar(CollectionRef):
    """A plain nearest-neighbour query."""

    query_vector: list[FiniteFloat]
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)]
    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET)] | None = None
    max_distance: FiniteFloat | None = None


def checked_vectors(rows: list[list[float]], domain: SearchDomain, where: str) -> Vectors:
    """Return rows as a prepared float32 array (len(rows), D).

    Raises:
        Invalid: wrong dimensions, a number too large for float32, or no direction under cosine.
    """
    info = domain.search_index_info
    for row in rows:
        if len(row) != info.dimensions:
            raise Invalid(f"{where}: expected {info.dimensions} dimensions, got {len(row)}")
    with np.errstate(over="ignore"):
        vectors = np.asarray(rows, dtype=np.float32)
    if not np.isfinite(vectors).all():
        raise Invalid(f"{where}: expected finite 32-bit numbers, got NaN or infinity")
    prepared = domain.prepare_vectors(vectors)
    if info.metric_type is MetricType.COSINE and not prepared.any(axis=-1).all():
        raise Invalid(f"{where}: a zero vector has no direction, which cosine needs")
    return prepared


def to_objects(bodies: list[ObjectBody], domain: SearchDomain) -> list[Object]:
    """Turn bodies into objects with vectors prepared for the domain; all texts are embedded at once.

    Originals keep their texts, so that they can be embedded anew in another space.

    Args:
        domain: in the space of the collection that the objects are for.

    Raises:
        Invalid: naming the object and what is wrong with it.
    """
    seen: set[tuple[str, str | None]] = set()
    for body in bodies:
        _check(body, seen)
    texts = [part.text for body in bodies for part in body.parts if part.text is not None]
    embedded = iter(domain.embed(texts).tolist() if texts else [])
    objects = []
    for body in bodies:
        rows = [next(embedded) if part.vector is None else part.vector for part in body.parts]
        vectors = checked_vectors(rows, domain, f"object {body.object_id!r}")
        averages = [i for i, part in enumerate(body.parts) if part.is_average]
        kept = [i for i in range(len(rows)) if i not in averages] or averages
        is_copy = body.user_id is not None
        known = tuple(body.parts[i].text for i in [*kept, *averages])
        made = Object(
            object_id=body.object_id,
            parts=vectors[kept],
            part_ids=tuple(body.parts[i].part_id or f"{body.object_id}:{i}" for i in kept),
            average=vectors[averages[0]] if averages else None,
            payload=body.payload or {},
            storage_meta=body.storage_meta,
            user_id=body.user_id,
            original_id=(body.original_id or body.object_id) if is_copy else None,
            session_id=body.session_id,
            texts=() if is_copy or not any(known) else known,
        )
        objects.append(with_revision(made))
    return objects


def _check(body: ObjectBody, seen: set[tuple[str, str | None]]) -> None:
    where = f"object {body.object_id!r}"
    if (body.object_id, body.user_id) in seen:
        raise Invalid(f"{where}: expected each object once in a request")
    seen.add((body.object_id, body.user_id))
    if body.original_id is not None and body.user_id is None:
        raise Invalid(f"{where}: original_id is for copies; expected user_id beside it")
    for part in body.parts:
        if (part.vector is None) == (part.text is None):
            raise Invalid(f"{where}: expected each part to have either a vector or a text")
    if sum(part.is_average for part in body.parts) > 1:
        raise Invalid(f"{where}: expected at most one average part")
    ids = [part.part_id for part in body.parts if part.part_id is not None]
    if len(ids) != len(set(ids)):
        raise Invalid(f"{where}: expected distinct part_ids")


def with_revision(o: Object) -> Object:
    """Return the object with the digest of its content as its revision."""
    digest = hashlib.blake2b(np.ascontiguousarray(o.parts).tobytes(), digest_size=16)
    digest.update(b"" if o.average is None else o.average.tobytes())
    described: dict[str, Any] = {"p": o.payload, "s": o.storage_meta, "i": o.part_ids, "d": o.parts.shape}
    if any(o.texts):  # of one that has none, the digest is what it was before texts were kept
        described["t"] = o.texts
    digest.update(json.dumps(described, sort_keys=True).encode())
    return Object(**{**o.__dict__, "revision": digest.hexdigest()})


def object_json(o: Object) -> dict[str, Any]:
    """Return an object in the published form."""
    parts = [
        {"part_id": part_id, "vector": row.tolist(), "is_average": False}
        for part_id, row in zip(o.part_ids, o.parts, strict=True)
    ]
    if o.average is not None:
        parts.append({"part_id": f"{o.object_id}:average", "vector": o.average.tolist(), "is_average": True})
    return {
        "object_id": o.object_id,
        "payload": o.payload,
        "storage_meta": o.storage_meta,
        "user_id": o.user_id,
        "session_id": o.session_id,
        "original_id": o.original_id,
        "parts": parts,
    }

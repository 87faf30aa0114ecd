"""Collections, points and results, as `qdrant_client.models` spells them, to and from Qdrant Edge's own."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic_core import to_jsonable_python
from qdrant_client import models

from improvement.edge_filters import engine
from improvement.errors import Invalid


def full_hnsw(*diffs: models.HnswConfigDiff | models.HnswConfig | None) -> models.HnswConfig:
    """Lay settings over Qdrant's defaults, the later over the earlier."""
    settings: dict[str, Any] = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000}
    for diff in diffs:
        settings |= {} if diff is None else diff.model_dump(exclude_none=True)
    return models.HnswConfig(**settings)


def engine_hnsw(hnsw: models.HnswConfig) -> Any:
    """Return HNSW settings as the engine takes them."""
    return engine.HnswIndexConfig(
        hnsw.m,
        hnsw.ef_construct,
        hnsw.full_scan_threshold,
        max_indexing_threads=hnsw.max_indexing_threads or 0,
        payload_m=hnsw.payload_m,
    )


def engine_config(vectors: Mapping[str, models.VectorParams], hnsw: models.HnswConfig) -> Any:
    """Return a collection's vectors and HNSW settings as the engine takes them."""
    max_sim = engine.MultiVectorConfig(engine.MultiVectorComparator.MaxSim)
    return engine.EdgeConfig(
        vectors={
            name: engine.EdgeVectorParams(
                params.size,
                getattr(engine.Distance, params.distance.value),
                multivector_config=None if params.multivector_config is None else max_sim,
                hnsw_config=engine_hnsw(full_hnsw(hnsw, params.hnsw_config)),
            )
            for name, params in vectors.items()
        },
        hnsw_config=engine_hnsw(hnsw),
    )


def engine_schema(schema: Any) -> Any:
    """Return a payload index's type or params as the engine takes them."""
    if isinstance(schema, str):  # PayloadSchemaType is one too
        return getattr(engine.PayloadSchemaType, models.PayloadSchemaType(schema).value.capitalize())
    # The engine's classes have the names and fields of the client's, but for the tag of the union.
    return getattr(engine, type(schema).__name__)(**schema.model_dump(exclude_none=True, exclude={"type"}))


def engine_params(params: models.SearchParams | None) -> Any:
    """Return search params as the engine takes them."""
    if params is None:
        return None
    return engine.SearchParams(
        hnsw_ef=params.hnsw_ef, exact=bool(params.exact), indexed_only=bool(params.indexed_only)
    )


def engine_point(vectors: Mapping[str, models.VectorParams], point: models.PointStruct) -> Any:
    """Return a point as the engine takes it, its vectors checked; raises Invalid."""
    if not isinstance(point.vector, Mapping):
        raise Invalid("vector: expected a dict of vector name to vector")
    named = {name: checked_vector(vectors, name, value) for name, value in point.vector.items()}
    return engine.Point(point.id, named, to_jsonable_python(point.payload or {}))


def engine_vectors(vectors: Mapping[str, models.VectorParams], point: models.PointVectors) -> Any:
    """Return a point's new vectors as the engine takes them, checked; raises Invalid."""
    if not isinstance(point.vector, Mapping):
        raise Invalid("vector: expected a dict of vector name to vector")
    named = {name: checked_vector(vectors, name, value) for name, value in point.vector.items()}
    return engine.PointVectors(point.id, named)


def checked_vector(vectors: Mapping[str, models.VectorParams], name: str, value: Any) -> list[Any]:
    """Return a vector as the engine takes it, checked: a list, or a list of lists for a multivector."""
    params = vectors.get(name)
    if params is None:
        raise Invalid(f"vector {name!r}: expected one of {sorted(vectors)}")
    try:
        with np.errstate(over="ignore"):  # too large becomes infinite, which is told below
            array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise Invalid(f"vector {name!r}: expected numbers in rows of equal length ({error})") from error
    if params.multivector_config is not None and array.ndim == 1:
        array = array[None]
    rows = (len(array),) if params.multivector_config is not None and array.ndim else ()
    if array.shape != (*rows, params.size) or 0 in rows:
        wanted = "(parts, {})" if params.multivector_config is not None else "({},)"
        raise Invalid(f"vector {name!r}: expected shape {wanted.format(params.size)}, got {array.shape}")
    if not np.isfinite(array).all():
        raise Invalid(f"vector {name!r}: expected finite numbers, got NaN or infinity")
    plain: list[Any] = array.tolist()
    return plain


def wanted(selector: bool | Sequence[str]) -> bool | list[str]:
    """Return what to include, True, False or names, as the engine takes it."""
    return selector if isinstance(selector, bool) else list(selector)


def client_record(record: Any) -> models.Record:
    """Return the engine's record as the client's."""
    return models.Record.model_construct(
        id=client_id(record.id), payload=record.payload, vector=record.vector
    )


def client_id(point_id: Any) -> int | str:
    """Return the engine's id, an int or a UUID, as the server writes it."""
    return point_id if isinstance(point_id, int) else str(point_id)


def done() -> models.UpdateResult:
    """Return what the server answers to a write."""
    return models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)

"""EdgeClient: the QdrantClient calls this service makes, on Qdrant Edge, the engine in this process.

On disk: ``<folder>/collections/<digest>-<slug>/`` is one collection (``shard/`` is the engine's, and
``collection.json`` says it was created completely), ``<folder>/aliases.json`` holds every alias.
"""

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from qdrant_client import models
from qdrant_client.http.models import QueryResponse  # models.QueryResponse is another class, fastembed's
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from improvement.edge_filters import engine, engine_filter
from improvement.edge_types import (
    checked_vector,
    client_id,
    client_record,
    done,
    engine_config,
    engine_params,
    engine_point,
    engine_schema,
    engine_vectors,
    full_hnsw,
    wanted,
)
from improvement.errors import Conflict, Invalid, NotFound, StudioError, Unavailable

#: Written points after which the engine flushes. A killed process loses nothing either way: an update is in
#: the write-ahead log, in the kernel's page cache, before the call returns. (A machine that loses power may
#: lose what was written since the last flush.) But only flushing shrinks the log, which is replayed when the
#: collection is opened: 48,000 unflushed points of 384 d take 6 s, this many 0.6 s.
FLUSH_POINTS = 5_000
#: Longest collection or alias name, in characters; Qdrant's own limit.
MAX_NAME = 255

#: Starts of the engine's messages that are not the caller's fault.
_ENGINE_FAULTS = (
    "Service runtime error",
    "Inconsistent storage",
    "Out of memory",
    "Timeout",
    "Operation canc",
)
_CLOSED = "Service runtime error: Shard is not initialized"
#: What a call says that needs the shard for itself while another thread is on its way into it; after how many
#: seconds it is asked again, and for how long.
_BORROWED = "Already borrowed"
BORROWED_WAIT, BORROWED_SECONDS = 0.005, 30.0


@dataclass(eq=False)
class _Collection:
    folder: Path
    shard: Any
    vectors: dict[str, models.VectorParams]
    hnsw: models.HnswConfig
    unflushed: int = 0


class EdgeClient:
    """Stand in for QdrantClient, with its signatures and models, on a folder instead of a server.

    Vectors are named; of a vector's parameters the size, distance, multivector and HNSW settings count.
    Scores and thresholds are the server's: similarity for cosine and dot, plain distance for Euclid.

    Thread-safe: the engine holds the interpreter's lock through each call, so two calls never overlap; what
    changes the set of collections or aliases is serialised here.

    Raises (every call):
        Unavailable: the folder is in use, the client is closed, or the engine fails.
        NotFound: no collection or alias of that name.
        Invalid: the engine cannot use a vector, id, payload, filter or name.
    """

    def __init__(self, folder: Path) -> None:
        if engine is None:
            raise Unavailable(
                "no QDRANT_URL is set and Qdrant Edge is not installed: pip install '.[embedded]'"
            )
        self._root = folder / "collections"
        self._aliases_file = folder / "aliases.json"
        self._root.mkdir(parents=True, exist_ok=True)
        self._change = threading.RLock()
        self._collections: dict[str, _Collection] = {}
        self._aliases: dict[str, str] = {}
        self._closed = False
        # Not thread_local: the thread that closes is not the one that opened.
        self._owner = FileLock(folder / ".lock", thread_local=False, blocking=False)
        try:
            self._owner.acquire()
        except Timeout as error:
            raise Unavailable(
                f"the Qdrant Edge folder {str(folder)!r} is in use by another process or client; it "
                "belongs to one at a time: stop the other, or run a Qdrant server and set QDRANT_URL"
            ) from error
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Flush everything and give the folder back; closing twice is allowed."""
        with self._change:
            self._closed = True
            collections, self._collections, self._aliases = self._collections, {}, {}
            try:
                for collection in collections.values():
                    collection.shard.flush()
                    _alone(collection.shard.close)
            finally:
                self._owner.release()

    # Collections and aliases

    def get_collections(self) -> models.CollectionsResponse:
        """List the collections; aliases are not among them."""
        self._check_open()
        return models.CollectionsResponse(
            collections=[models.CollectionDescription(name=name) for name in list(self._collections)]
        )

    def collection_exists(self, collection_name: str) -> bool:
        """Say whether there is a collection or alias of this name."""
        self._check_open()
        return self._aliases.get(collection_name, collection_name) in self._collections

    def create_collection(
        self,
        collection_name: str,
        vectors_config: Mapping[str, models.VectorParams],
        *,
        hnsw_config: models.HnswConfigDiff | None = None,
    ) -> bool:
        """Create a collection of named vectors; raises Conflict when the name is taken."""
        _check_name(collection_name)
        if not isinstance(vectors_config, Mapping):
            raise Invalid("vectors_config: expected a dict of vector name to VectorParams")
        with self._change:
            self._check_open()
            if collection_name in self._collections or collection_name in self._aliases:
                raise Conflict(f"a collection or alias {collection_name!r} already exists")
            folder = self._root / _folder_name(collection_name)
            shutil.rmtree(folder, ignore_errors=True)  # what an interrupted delete has left
            (folder / "shard").mkdir(parents=True)
            vectors, hnsw = dict(vectors_config), full_hnsw(hnsw_config)
            with _translated(collection_name):
                shard = engine.EdgeShard.create(str(folder / "shard"), engine_config(vectors, hnsw))
                shard.flush()
            described = {
                "name": collection_name,
                "vectors": {
                    name: params.model_dump(mode="json", exclude_none=True)
                    for name, params in vectors.items()
                },
                "hnsw": hnsw.model_dump(exclude_none=True),
            }
            # Last: without this file the folder is not a collection, and the next start removes it.
            _write(folder / "collection.json", described)
            self._collections[collection_name] = _Collection(folder, shard, vectors, hnsw)
        return True

    def delete_collection(self, collection_name: str) -> bool:
        """Delete a collection and its aliases; return False when there is none of this (own) name."""
        with self._change:
            self._check_open()
            collection = self._collections.get(collection_name)
            if collection is None:
                return False
            # First: from here on the folder is not a collection, and the next start finishes what is left.
            (collection.folder / "collection.json").unlink()
            del self._collections[collection_name]
            kept = {alias: name for alias, name in self._aliases.items() if name != collection_name}
            if kept != self._aliases:
                _write(self._aliases_file, kept)
                self._aliases = kept
            _alone(collection.shard.close)
            shutil.rmtree(collection.folder)
        return True

    def get_collection(self, collection_name: str) -> models.CollectionInfo:
        """Describe a collection."""
        collection = self._collection(collection_name)
        with _translated(collection_name):
            info = collection.shard.info()
        schema = {
            field: models.PayloadIndexInfo(
                data_type=models.PayloadSchemaType(str(index.data_type).rpartition(".")[2].lower()),
                points=index.points,
            )
            for field, index in info.payload_schema.items()
        }
        return models.CollectionInfo(
            status=models.CollectionStatus.GREEN,
            optimizer_status=models.OptimizersStatusOneOf.OK,
            points_count=info.points_count,
            indexed_vectors_count=info.indexed_vectors_count,
            segments_count=info.segments_count,
            payload_schema=schema,
            config=models.CollectionConfig(
                params=models.CollectionParams(vectors=dict(collection.vectors)),
                hnsw_config=collection.hnsw,
                optimizer_config=models.OptimizersConfig(default_segment_number=0, flush_interval_sec=0),
            ),
        )

    def create_payload_index(
        self, collection_name: str, field_name: str, field_schema: Any, *, wait: bool = True
    ) -> models.UpdateResult:
        """Index a payload field, given a PayloadSchemaType or the params of one; repeating is allowed."""
        with _translated(collection_name):
            schema = engine_schema(field_schema)
            self._update(collection_name, engine.UpdateOperation.create_field_index(field_name, schema), 1)
        return done()

    def update_collection_aliases(self, change_aliases_operations: Sequence[models.AliasOperations]) -> bool:
        """Apply all operations in one atomic switch, or none of them."""
        with self._change:
            self._check_open()
            aliases = dict(self._aliases)
            for operation in change_aliases_operations:
                self._change_alias(aliases, operation)
            _write(self._aliases_file, aliases)
            # One assignment: a reader sees all of the change or nothing of it.
            self._aliases = aliases
        return True

    def get_aliases(self) -> models.CollectionsAliasesResponse:
        """List every alias."""
        self._check_open()
        return models.CollectionsAliasesResponse(
            aliases=[
                models.AliasDescription(alias_name=alias, collection_name=name)
                for alias, name in self._aliases.items()
            ]
        )

    def optimize(self, collection_name: str) -> bool:
        """Build the HNSW index and vacuum deleted points now; return whether there was anything to do.

        A server does this by itself; the engine only when asked, and it holds the interpreter's lock until
        it is done, so the whole process stands still: 20 to 30 s for 20,000 points of 384 d on two cores.
        Before, a search is exact: every vector that passes the filter is compared.
        """
        collection = self._collection(collection_name)
        with _translated(collection_name):
            optimized = bool(_alone(collection.shard.optimize))
            collection.shard.flush()
        return optimized

    # Points

    def upsert(
        self, collection_name: str, points: Sequence[models.PointStruct], *, wait: bool = True
    ) -> models.UpdateResult:
        """Insert points or replace them whole; vectors are lists, lists of lists or arrays, by name."""
        vectors = self._collection(collection_name).vectors
        with _translated(collection_name):
            # All are checked before the engine sees the first. A bad point would leave a batch half applied,
            # and a ragged multivector panics the engine, again each time the log is replayed: a lost shard.
            converted = [engine_point(vectors, point) for point in points]
            self._update(collection_name, engine.UpdateOperation.upsert_points(converted), len(converted))
        return done()

    def update_vectors(
        self,
        collection_name: str,
        points: Sequence[models.PointVectors],
        *,
        wait: bool = True,
        update_filter: models.Filter | None = None,
    ) -> models.UpdateResult:
        """Replace these named vectors of points that pass the filter; their payload, and other vectors, stay.

        Raises:
            Invalid: a point does not exist; those before it are written.
        """
        vectors = self._collection(collection_name).vectors
        with _translated(collection_name):
            converted = [engine_vectors(vectors, point) for point in points]  # all checked, as in `upsert`
            operation = engine.UpdateOperation.update_vectors(converted, engine_filter(update_filter))
            self._update(collection_name, operation, len(converted))
        return done()

    def delete(self, collection_name: str, points_selector: Any, *, wait: bool = True) -> models.UpdateResult:
        """Delete points by ids (list, PointIdsList) or by Filter, FilterSelector; absent ids are fine."""
        selector = points_selector
        if isinstance(selector, models.FilterSelector):
            selector = selector.filter
        elif isinstance(selector, models.PointIdsList):
            selector = selector.points
        with _translated(collection_name):
            if isinstance(selector, models.Filter):
                operation = engine.UpdateOperation.delete_points_by_filter(engine_filter(selector))
            else:
                operation = engine.UpdateOperation.delete_points(list(selector))
            self._update(collection_name, operation, 1)
        return done()

    def retrieve(
        self,
        collection_name: str,
        ids: Sequence[Any],
        with_payload: bool | Sequence[str] = True,
        with_vectors: bool | Sequence[str] = False,
    ) -> list[models.Record]:
        """Return those of these points that exist; ``with_*`` is True, False or the names wanted."""
        shard = self._collection(collection_name).shard
        with _translated(collection_name):
            return [
                client_record(r)
                for r in shard.retrieve(list(ids), wanted(with_payload), wanted(with_vectors))
            ]

    def scroll(
        self,
        collection_name: str,
        scroll_filter: models.Filter | None = None,
        limit: int = 10,
        *,
        offset: Any = None,
        with_payload: bool | Sequence[str] = True,
        with_vectors: bool | Sequence[str] = False,
    ) -> tuple[list[models.Record], Any]:
        """Return matching points in order of id from ``offset`` on, and the next offset or None."""
        shard = self._collection(collection_name).shard
        _check_limit(limit)
        with _translated(collection_name):
            records, following = shard.scroll(
                engine.ScrollRequest(
                    offset=offset,
                    limit=limit,
                    filter=engine_filter(scroll_filter),
                    with_payload=wanted(with_payload),
                    with_vector=wanted(with_vectors),
                )
            )
            return [client_record(r) for r in records], following if following is None else client_id(
                following
            )

    def query_points(
        self,
        collection_name: str,
        query: Any = None,
        using: str | None = None,
        *,
        query_filter: models.Filter | None = None,
        search_params: models.SearchParams | None = None,
        limit: int = 10,
        offset: int | None = None,
        with_payload: bool | Sequence[str] = True,
        with_vectors: bool | Sequence[str] = False,
        score_threshold: float | None = None,
    ) -> QueryResponse:
        """Return the nearest points to a vector or multivector, best first; without a query, by id.

        ``score_threshold`` is exclusive: a score must be above it (cosine, dot) or below it (Euclid).
        """
        collection = self._collection(collection_name)
        _check_limit(limit)
        with _translated(collection_name):
            nearest = None
            if query is not None:
                vector = checked_vector(collection.vectors, using or "", query)
                nearest = engine.Query.Nearest(vector, using)
            points = collection.shard.query(
                engine.QueryRequest(
                    limit=limit,
                    offset=offset,
                    query=nearest,
                    filter=engine_filter(query_filter),
                    params=engine_params(search_params),
                    score_threshold=score_threshold,
                    with_payload=wanted(with_payload),
                    with_vector=wanted(with_vectors),
                )
            )
            # model_construct: the engine's values need no validation, which would cost more than the search.
            found = [
                models.ScoredPoint.model_construct(
                    id=client_id(p.id), version=p.version, score=p.score, payload=p.payload, vector=p.vector
                )
                for p in points
            ]
        return QueryResponse.model_construct(points=found)

    def count(
        self, collection_name: str, count_filter: models.Filter | None = None, exact: bool = True
    ) -> models.CountResult:
        """Count matching points."""
        shard = self._collection(collection_name).shard
        with _translated(collection_name):
            request = engine.CountRequest(exact=exact, filter=engine_filter(count_filter))
            return models.CountResult(count=shard.count(request))

    def facet(
        self,
        collection_name: str,
        key: str,
        facet_filter: models.Filter | None = None,
        limit: int = 10,
        exact: bool = False,
    ) -> models.FacetResponse:
        """Count matching points per value of an indexed field, most frequent first."""
        shard = self._collection(collection_name).shard
        _check_limit(limit)
        with _translated(collection_name):
            request = engine.FacetRequest(key, limit=limit, exact=exact, filter=engine_filter(facet_filter))
            hits = [
                models.FacetValueHit.model_construct(value=hit.value, count=hit.count)
                for hit in shard.facet(request).hits
            ]
        return models.FacetResponse.model_construct(hits=hits)

    def _load(self) -> None:
        for folder in sorted(self._root.iterdir()):
            description = folder / "collection.json"
            if not description.exists():  # a process was killed while it created or deleted this one
                shutil.rmtree(folder)
                continue
            described = json.loads(description.read_text(encoding="utf-8"))
            vectors = {name: models.VectorParams(**p) for name, p in described["vectors"].items()}
            try:
                shard = engine.EdgeShard.load(str(folder / "shard"))
            except Exception as error:  # the engine raises bare exceptions
                raise Unavailable(
                    f"collection {described['name']!r} cannot be opened from {str(folder)!r}: {error}"
                ) from error
            hnsw = models.HnswConfig(**described["hnsw"])
            self._collections[described["name"]] = _Collection(folder, shard, vectors, hnsw)
        if self._aliases_file.exists():
            aliases = json.loads(self._aliases_file.read_text(encoding="utf-8"))
            # An interrupted delete_collection can leave aliases of what is gone.
            self._aliases = {alias: name for alias, name in aliases.items() if name in self._collections}

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("this Qdrant Edge client is closed")

    def _collection(self, name: str) -> _Collection:
        found = self._collections.get(self._aliases.get(name, name))
        if found is None:
            self._check_open()
            raise NotFound(f"there is no collection or alias {name!r}")
        return found

    def _update(self, name: str, operation: Any, points: int) -> None:
        collection = self._collection(name)
        collection.shard.update(operation)
        collection.unflushed += points
        if collection.unflushed >= FLUSH_POINTS:
            collection.unflushed = 0
            collection.shard.flush()

    def _change_alias(self, aliases: dict[str, str], operation: models.AliasOperations) -> None:
        if isinstance(operation, models.DeleteAliasOperation):
            aliases.pop(operation.delete_alias.alias_name, None)
            return
        if isinstance(operation, models.CreateAliasOperation):
            name, target = operation.create_alias.alias_name, operation.create_alias.collection_name
            if target not in self._collections:
                raise NotFound(f"there is no collection {target!r} for alias {name!r}")
        else:
            rename = operation.rename_alias
            name, target = rename.new_alias_name, aliases.pop(rename.old_alias_name, "")
            if not target:
                raise NotFound(f"there is no alias {rename.old_alias_name!r}")
        _check_name(name)
        if name in self._collections:
            raise Conflict(f"alias {name!r}: a collection of that name exists")
        aliases[name] = target


def _alone(call: Callable[[], Any]) -> Any:
    """Make a call that needs the shard for itself, as soon as no other thread is on its way into it."""
    in_use = retry_if_exception(lambda error: isinstance(error, RuntimeError) and str(error) == _BORROWED)
    waits = Retrying(
        retry=in_use, wait=wait_fixed(BORROWED_WAIT), stop=stop_after_delay(BORROWED_SECONDS), reraise=True
    )
    return waits(call)


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """Turn the engine's exceptions, most of them a bare Exception, into this service's."""
    try:
        yield
    except StudioError:
        raise
    except Exception as error:
        message = (str(error) or type(error).__name__).partition("\n")[0]
        if message == _CLOSED:  # another thread deleted the collection, or closed the client, under us
            raise NotFound(f"collection {name!r} was deleted or closed") from error
        wrong = Unavailable if message.startswith(_ENGINE_FAULTS) else Invalid
        raise wrong(f"collection {name!r}: {message}") from error


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME:
        raise Invalid(f"name: expected 1 to {MAX_NAME} characters, got {name!r:.80}")


def _check_limit(limit: int) -> None:
    if limit < 1:
        raise Invalid(f"limit: expected 1 or more, got {limit}")


def _folder_name(name: str) -> str:
    """Name a collection's folder: the digest tells names apart, the readable rest is for people.

    >>> _folder_name("../../etc").partition("-")[2]
    'etc'
    """
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{digest}-{re.sub(r'[^A-Za-z0-9_]+', '-', name)[:40].strip('-')}"


def _write(path: Path, content: Any) -> None:
    """Replace a JSON file so that a reader, or a restart, finds the old or the new one, whole."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)

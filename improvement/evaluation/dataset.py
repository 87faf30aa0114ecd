"""A folder of real preferences as a search clickstream; `docs/replay.md` describes the files."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from clickstream.records import Identifier, storable_text
from improvement.errors import Invalid
from improvement.objects import Vectors

Id = Annotated[Identifier, AfterValidator(storable_text)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _Vector(_Line):
    parts: int = Field(1, ge=1)


class _Object(_Vector):
    object_id: Id


class _Query(_Vector):
    query_id: Id
    text: Any = None


class _Session(_Line):
    user_id: Id
    query_id: Id
    split: Literal["train", "test"]


class _Relevance(_Line):
    user_id: Id
    query_id: Id
    object_ids: list[Id]


class _Topic(_Line):
    query_id: Id
    object_ids: list[Id]


@dataclass(frozen=True)
class ReplayUser:
    """One user's searches, as rows of the dataset's queries, in time order.

    Attributes:
        train: the queries of the sessions that teach.
        test: the queries held out.
        relevant: query -> the objects this user wants for it.
    """

    user_id: str
    train: tuple[int, ...]
    test: tuple[int, ...]
    relevant: Mapping[int, frozenset[int]]


@dataclass(frozen=True, eq=False)
class ReplayDataset:
    """Objects, queries and users; objects and queries are named by their row everywhere.

    Attributes:
        object_ids: the objects' ids.
        objects: for each object its parts, float32 (P, D).
        queries: for each query its vectors, float32 (M, D).
        users: in the order of their first session.
        topics: query -> the objects on its topic, whoever asks; queries without any are left out.
        texts: for each query what it was embedded from, or None where the folder does not say.
    """

    object_ids: tuple[str, ...]
    objects: tuple[Vectors, ...]
    queries: tuple[Vectors, ...]
    users: tuple[ReplayUser, ...]
    topics: Mapping[int, frozenset[int]]
    texts: tuple[str | None, ...] = ()

    @property
    def dimensions(self) -> int:
        """D, of every vector."""
        return int(self.objects[0].shape[1])


def load_dataset(folder: Path) -> ReplayDataset:
    """Read and check a folder.

    Raises:
        Invalid: naming the file, the line (or the row of vectors) and what was expected there.
    """
    object_ids, objects, _ = _vectors(folder, "objects", _Object, "object_id")
    query_ids, queries, asked = _vectors(folder, "queries", _Query, "query_id")
    if objects[0].shape[1] != queries[0].shape[1]:
        raise Invalid(
            f"{folder / 'queries.npy'}: expected rows of {objects[0].shape[1]} numbers, "
            f"as in objects.npy, got {queries[0].shape[1]}"
        )
    topics: dict[int, frozenset[int]] = {}
    if (folder / "topics.jsonl").exists():
        for place, topic in _lines(folder / "topics.jsonl", _Topic):
            query = _row(query_ids, topic.query_id, "query_id", place)
            if query in topics:
                raise Invalid(f"{place}: query_id: {topic.query_id!r} again")
            topics[query] = _rows(object_ids, topic.object_ids, place)
    return ReplayDataset(
        object_ids=tuple(object_ids),
        objects=objects,
        queries=queries,
        users=_users(folder, query_ids, object_ids),
        topics={query: on_topic for query, on_topic in topics.items() if on_topic},
        texts=tuple(one.text if isinstance(one.text, str) and one.text else None for one in asked),
    )


def _users(folder: Path, queries: Mapping[str, int], objects: Mapping[str, int]) -> tuple[ReplayUser, ...]:
    asked: dict[str, dict[str, list[int]]] = {}
    for place, session in _lines(folder / "sessions.jsonl", _Session):
        splits = asked.setdefault(session.user_id, {"train": [], "test": []})
        splits[session.split].append(_row(queries, session.query_id, "query_id", place))
    if not asked:
        raise Invalid(f"{folder / 'sessions.jsonl'}: expected at least one session")
    relevant: dict[str, dict[int, frozenset[int]]] = {user: {} for user in asked}
    for place, wanted in _lines(folder / "relevance.jsonl", _Relevance):
        query = _row(queries, wanted.query_id, "query_id", place)
        if wanted.user_id not in relevant:
            raise Invalid(f"{place}: user_id: {wanted.user_id!r} has no line in sessions.jsonl")
        if query in relevant[wanted.user_id]:
            raise Invalid(f"{place}: query_id: {wanted.query_id!r} again for user {wanted.user_id!r}")
        relevant[wanted.user_id][query] = _rows(objects, wanted.object_ids, place)
    return tuple(
        ReplayUser(user, tuple(splits["train"]), tuple(splits["test"]), relevant[user])
        for user, splits in asked.items()
    )


Line = TypeVar("Line", bound=_Line)
VectorLine = TypeVar("VectorLine", bound=_Vector)


def _lines(path: Path, kind: type[Line]) -> Iterator[tuple[str, Line]]:
    """Yield where each line stands and what it says; blank lines say nothing."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise Invalid(f"{path}: {error.strerror}") from None
    for number, line in enumerate(text.split(b"\n"), start=1):
        place = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            yield place, kind.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, first["loc"]))
            raise Invalid(f"{place}: {field + ': ' if field else ''}{first['msg']}") from None


def _vectors(
    folder: Path, name: str, kind: type[VectorLine], key: str
) -> tuple[dict[str, int], tuple[Vectors, ...], list[VectorLine]]:
    """Return the rows of ids, the vectors of each, and the lines."""
    rows: dict[str, int] = {}
    lines: list[VectorLine] = []
    places: list[str] = []
    parts: list[int] = []
    for place, line in _lines(folder / f"{name}.jsonl", kind):
        identifier = getattr(line, key)
        if identifier in rows:
            raise Invalid(f"{place}: {key}: {identifier!r} again, first at {places[rows[identifier]]}")
        rows[identifier] = len(rows)
        places.append(place)
        parts.append(line.parts)
        lines.append(line)
    if not rows:
        raise Invalid(f"{folder / name}.jsonl: expected at least one line")
    path = folder / f"{name}.npy"
    matrix = _matrix(path)
    if len(matrix) != sum(parts):
        raise Invalid(f"{path}: expected {sum(parts)} rows, as {name}.jsonl counts parts, got {len(matrix)}")
    ends = np.cumsum(parts)
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        row = int(finite.argmin())
        owner = int(np.searchsorted(ends, row, side="right"))
        raise Invalid(f"{path}, row {row + 1}: expected finite numbers for {places[owner]}")
    return rows, tuple(np.split(matrix, ends[:-1])), lines


def _matrix(path: Path) -> Vectors:
    try:
        matrix: Any = np.load(path, allow_pickle=False)
    except OSError as error:
        raise Invalid(f"{path}: {error.strerror or error}") from None
    except (ValueError, EOFError, MemoryError) as error:  # what numpy raises for bytes that are no array
        raise Invalid(f"{path}: expected an array in NumPy's format: {error}") from None
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        got = f"{matrix.dtype} {matrix.shape}" if isinstance(matrix, np.ndarray) else type(matrix).__name__
        raise Invalid(f"{path}: expected a table of numbers, one row a vector, got {got}")
    if not matrix.shape[1]:
        raise Invalid(f"{path}: expected at least one number a row")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # beyond float32 is infinite, and refused as that
        return matrix.astype(np.float32)


def _row(rows: Mapping[str, int], identifier: str, field: str, place: str) -> int:
    try:
        return rows[identifier]
    except KeyError:
        raise Invalid(f"{place}: {field}: unknown, got {identifier!r}") from None


def _rows(rows: Mapping[str, int], identifiers: Sequence[str], place: str) -> frozenset[int]:
    found = frozenset(_row(rows, identifier, "object_ids", place) for identifier in identifiers)
    if len(found) < len(identifiers):
        twice = next(one for i, one in enumerate(identifiers) if one in identifiers[:i])
        raise Invalid(f"{place}: object_ids: {twice!r} again")
    return found

"""EdgeClient answers as qdrant-client's local mode does, keeps what it was told, and keeps others out."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from improvement.edge import FLUSH_POINTS, EdgeClient
from improvement.errors import Conflict, Invalid, NotFound, Unavailable

pytest.importorskip("qdrant_edge", reason="Qdrant Edge is an optional extra")

DIM = 5
OBJECTS = 40
METRICS = [models.Distance.COSINE, models.Distance.DOT, models.Distance.EUCLID]
MAX_SIM = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)


def ids(*numbers: int) -> list[str]:
    return [str(uuid.uuid5(uuid.NAMESPACE_OID, str(number))) for number in numbers]


def space(
    distance: models.Distance = models.Distance.COSINE, dim: int = DIM
) -> dict[str, models.VectorParams]:
    return {
        "parts": models.VectorParams(size=dim, distance=distance, multivector_config=MAX_SIM),
        "average": models.VectorParams(size=dim, distance=distance),
    }


def some_points(numbers: range, seed: int = 0) -> list[models.PointStruct]:
    rng = np.random.default_rng(seed)
    points = []
    for number, point_id in zip(numbers, ids(*numbers), strict=True):
        parts = rng.normal(size=(1 + number % 3, DIM))
        payload: dict[str, Any] = {"number": number, "tags": [f"t{t}" for t in range(number % 4)]}
        if number % 2:
            payload["user_id"] = f"u{number % 5}"
        if number % 3:
            payload["payload"] = {"price": float(rng.integers(5)) / 2, "new": bool(number % 4)}
        if number % 5 == 0:
            payload["gone"] = None
        payload["offers"] = [{"shop": int(s), "left": int(rng.integers(3))} for s in range(number % 3)]
        payload["at"] = datetime(2024, 1, 1 + number % 28, tzinfo=UTC).isoformat()
        payload["text"] = f"object number {number} of {number % 7} kinds"
        # Quarters: the engine reads other fractions up to one unit in the last place off.
        payload["place"] = {"lon": int(rng.integers(-80, 80)) / 4, "lat": int(rng.integers(-80, 80)) / 4}
        points.append(
            models.PointStruct(
                id=point_id,
                vector={"parts": parts.tolist(), "average": parts.mean(0).tolist()},
                payload=payload,
            )
        )
    return points


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeClient]:
    client = EdgeClient(tmp_path / "edge")
    yield client
    client.close()


@pytest.fixture(scope="module", params=METRICS, ids=lambda m: m.value)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The same objects in Qdrant Edge and in the oracle."""
    edge, local = EdgeClient(tmp_path_factory.mktemp("edge")), QdrantClient(":memory:")
    for client in (edge, local):
        client.create_collection("c", vectors_config=space(request.param))
        client.upsert("c", points=some_points(range(OBJECTS)), wait=True)
    for field, schema in {
        "user_id": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True),
        "tags": models.PayloadSchemaType.KEYWORD,
        "number": models.PayloadSchemaType.INTEGER,
        "at": "datetime",
    }.items():
        edge.create_payload_index("c", field, field_schema=schema)
    yield edge, local, request.param
    edge.close()
    local.close()


# --- congruence with the oracle


def field(key: str, **condition: Any) -> models.FieldCondition:
    return models.FieldCondition(key=key, **condition)


def ring(corners: list[tuple[int, int]]) -> models.GeoLineString:
    # off the quarters of the objects' places: on an edge, inside is a matter of taste
    points = [models.GeoPoint(lon=lon / 4 + 0.11, lat=lat / 4 + 0.07) for lon, lat in corners]
    return models.GeoLineString(points=[*points, points[0]])


LEAVES: list[st.SearchStrategy[Any]] = [
    st.integers(0, 4).map(lambda u: field("user_id", match=models.MatchValue(value=f"u{u}"))),
    st.integers(0, 9).map(lambda n: field("number", match=models.MatchValue(value=n))),
    st.booleans().map(lambda b: field("payload.new", match=models.MatchValue(value=b))),
    st.lists(st.integers(0, 4), max_size=3).map(
        lambda t: field("tags", match=models.MatchAny(any=[f"t{i}" for i in t]))
    ),
    st.lists(st.integers(0, OBJECTS), max_size=9).map(
        lambda n: field("number", match=models.MatchAny(any=n))
    ),
    st.lists(st.integers(0, 4), min_size=1, max_size=3).map(
        lambda t: field("tags", match=models.MatchExcept(**{"except": [f"t{i}" for i in t]}))
    ),
    st.sampled_from(["object 3", "KINDS of", "nothing", ""]).map(
        lambda t: field("text", match=models.MatchText(text=t))
    ),
    st.tuples(st.integers(-1, OBJECTS), st.integers(0, 20)).map(
        lambda r: field("number", range=models.Range(gte=r[0], lt=r[0] + r[1]))
    ),
    st.sampled_from([0.0, 0.5, 1.0, 2.5]).map(
        lambda p: field("payload.price", range=models.Range(gt=p, lte=2.0))
    ),
    st.integers(1, 28).map(
        lambda d: field("at", range=models.DatetimeRange(lte=datetime(2024, 1, d, 12, tzinfo=UTC)))
    ),
    # naive: Qdrant reads it as UTC
    st.integers(1, 28).map(lambda d: field("at", range=models.DatetimeRange(gt=datetime(2024, 1, d)))),
    st.integers(0, 4).map(lambda n: field("tags", values_count=models.ValuesCount(gte=n, lt=4))),
    st.sampled_from(["user_id", "tags", "gone", "payload.price", "nowhere"]).map(
        lambda k: models.IsEmptyCondition(is_empty=models.PayloadField(key=k))
    ),
    st.sampled_from(["user_id", "gone", "nowhere"]).map(
        lambda k: models.IsNullCondition(is_null=models.PayloadField(key=k))
    ),
    st.booleans().map(lambda e: field("tags", is_empty=e)),
    st.lists(st.integers(0, OBJECTS + 5), max_size=25).map(
        lambda n: models.HasIdCondition(has_id=list(ids(*n)))
    ),
    st.tuples(st.integers(0, 2), st.integers(0, 3)).map(
        lambda o: models.NestedCondition(
            nested=models.Nested(
                key="offers",
                filter=models.Filter(
                    must=[field("shop", match=models.MatchValue(value=o[0]))],
                    must_not=[field("left", range=models.Range(gte=o[1]))],
                ),
            )
        )
    ),
    st.tuples(st.floats(-20, 0), st.floats(0, 20)).map(
        lambda b: field(
            "place",
            geo_bounding_box=models.GeoBoundingBox(
                top_left=models.GeoPoint(lon=b[0], lat=b[1]), bottom_right=models.GeoPoint(lon=b[1], lat=b[0])
            ),
        )
    ),
    st.sampled_from(
        [
            models.MatchTextAny(text_any="3 17 cat"),
            models.MatchPhrase(phrase="number 7 of"),
            models.MatchPrefix(prefix="object number 1"),
            models.MatchSubstring(substring="2 of"),
        ]
    ).map(lambda m: field("text", match=m)),
    st.sampled_from(["parts", "average", "none"]).map(lambda n: models.HasVectorCondition(has_vector=n)),
    st.lists(st.integers(-80, 80), min_size=6, max_size=6).map(
        lambda c: field(
            "place", geo_polygon=models.GeoPolygon(exterior=ring([(c[0], c[1]), (c[2], c[3]), (c[4], c[5])]))
        )
    ),
    st.floats(1e5, 2e6).map(
        lambda r: field(
            "place", geo_radius=models.GeoRadius(center=models.GeoPoint(lon=1.0, lat=2.0), radius=r)
        )
    ),
]


def nested_filters(conditions: st.SearchStrategy[Any]) -> st.SearchStrategy[models.Filter]:
    clause = st.none() | st.lists(conditions, max_size=3)
    at_least = st.builds(
        models.MinShould, conditions=st.lists(conditions, min_size=1, max_size=3), min_count=st.integers(1, 2)
    )
    return st.builds(
        models.Filter, must=clause, should=clause, must_not=clause, min_should=st.none() | at_least
    )


FILTERS = nested_filters(st.recursive(st.one_of(LEAVES), nested_filters, max_leaves=6))


def same_points(ours: list[Any], theirs: list[Any]) -> None:
    """Compare what both engines return for points: ids, payloads, vectors."""
    assert [p.id for p in ours] == [p.id for p in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.payload == other.payload
        assert (mine.vector is None) == (other.vector is None)
        for name in other.vector or {}:
            np.testing.assert_allclose(mine.vector[name], other.vector[name], rtol=1e-5, atol=1e-6)
        assert set(mine.vector or {}) == set(other.vector or {})


def by_score(points: list[Any]) -> list[Any]:
    """Put equal scores into one order: the engines leave it open."""
    return sorted(points, key=lambda p: (round(p.score, 4), p.id))


TAGGED = models.FieldCondition(key="tags", match=models.MatchAny(any=["t0"]))
NEW = models.FieldCondition(key="payload.new", match=models.MatchValue(value=True))
NEVER = models.MinShould(conditions=[TAGGED], min_count=2)


@example(where=models.Filter(must=[NEW]), seed=0, limit=9, multi=False)
@example(where=models.Filter(must=[TAGGED], min_should=NEVER), seed=0, limit=9, multi=True)
@settings(deadline=None, max_examples=40)
@given(where=FILTERS, seed=st.integers(0, 99), limit=st.integers(1, OBJECTS), multi=st.booleans())
def test_any_filter_finds_what_local_mode_finds(
    both: Any, where: models.Filter, seed: int, limit: int, multi: bool
) -> None:
    edge, local, metric = both
    vector = np.random.default_rng(seed).normal(size=DIM).tolist()
    query: dict[str, Any] = (
        {"query": [vector], "using": "parts"} if multi else {"query": vector, "using": "average"}
    )

    counts = [c.count("c", count_filter=where, exact=True).count for c in both[:2]]
    assert counts[0] == counts[1]
    pages = [c.scroll("c", scroll_filter=where, limit=limit, with_vectors=True) for c in both[:2]]
    same_points(pages[0][0], pages[1][0])
    assert pages[0][1] == pages[1][1]
    facets = [c.facet("c", key="tags", facet_filter=where, limit=3, exact=True).hits for c in both[:2]]
    assert [(h.value, h.count) for h in facets[0]] == [(h.value, h.count) for h in facets[1]]

    everything = [c.query_points("c", **query, query_filter=where, limit=OBJECTS).points for c in both[:2]]
    same_points(*map(by_score, everything))
    scores = [[p.score for p in points] for points in everything]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4, atol=1e-5)
    assert scores[0] == sorted(scores[0], reverse=metric is not models.Distance.EUCLID)
    if len(scores[0]) > 1:
        middle = len(scores[0]) // 2
        between = (scores[0][middle - 1] + scores[0][middle]) / 2
        if min(abs(between - s) for s in scores[0]) > 1e-3:
            cut = [
                c.query_points(
                    "c", **query, query_filter=where, limit=OBJECTS, score_threshold=between
                ).points
                for c in both[:2]
            ]
            assert len(cut[0]) == middle
            same_points(*map(by_score, cut))
        page = edge.query_points("c", **query, query_filter=where, limit=limit, offset=1).points
        np.testing.assert_allclose([p.score for p in page], scores[0][1 : limit + 1])


def test_several_query_vectors_add_up_as_they_do_in_local_mode(both: Any) -> None:
    edge, local, _ = both
    query = np.random.default_rng(1).normal(size=(3, DIM))
    ours, theirs = (
        c.query_points("c", query=query, using="parts", limit=OBJECTS).points for c in (edge, local)
    )
    np.testing.assert_allclose([p.score for p in ours], [p.score for p in theirs], rtol=1e-4, atol=1e-5)


def test_the_score_of_a_multivector_is_that_of_its_nearest_part(both: Any) -> None:
    """The sign convention that distances are made from: similarity, or for Euclid the plain distance."""
    edge, _, metric = both
    query = np.random.default_rng(2).normal(size=DIM).astype(np.float32)
    parts = {p.id: np.asarray(p.vector["parts"], dtype=np.float32) for p in some_points(range(OBJECTS))}
    for point in edge.query_points("c", query=query, using="parts", limit=OBJECTS).points:
        rows = parts[point.id]
        if metric is models.Distance.EUCLID:
            expected = np.linalg.norm(rows - query, axis=1).min()
        elif metric is models.Distance.DOT:
            expected = (rows @ query).max()
        else:
            expected = (rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)).max()
        assert point.score == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.value)
def test_a_score_threshold_is_exclusive_in_both(edge: EdgeClient, metric: models.Distance) -> None:
    local = QdrantClient(":memory:")
    found = []
    for client in (edge, local):
        client.create_collection(
            "c", vectors_config={"average": models.VectorParams(size=2, distance=metric)}
        )
        points = [
            models.PointStruct(id=i, vector={"average": vector})
            for i, vector in enumerate([[0.0, 1.0], [1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]])
        ]
        client.upsert("c", points=points)
        hits = client.query_points("c", query=[1.0, 0.0], using="average", score_threshold=1.0).points
        found.append([(p.id, p.score) for p in hits])
    local.close()
    assert found[0] == found[1]
    assert 0 < len(found[0]) < 4 or metric is models.Distance.COSINE


def test_without_a_query_points_come_in_order_of_id(both: Any) -> None:
    edge, local, _ = both
    where = models.Filter(must=[field("number", range=models.Range(lt=9))])
    for limit, offset in ((4, None), (4, 3), (50, 2)):
        ours, theirs = (
            c.query_points("c", query_filter=where, limit=limit, offset=offset).points for c in (edge, local)
        )
        same_points(ours, theirs)


@pytest.mark.parametrize("with_payload", [True, False, ["number", "payload.price"], ["nowhere"], []])
@pytest.mark.parametrize("with_vectors", [True, False, ["average"], ["parts", "average"]])
def test_payload_and_vectors_come_as_asked(both: Any, with_payload: Any, with_vectors: Any) -> None:
    asked = {"with_payload": with_payload, "with_vectors": with_vectors}
    wanted = [*ids(3, 1, 999, 2), uuid.UUID(ids(7)[0])]
    results = []
    for client in both[:2]:
        records = client.retrieve("c", ids=wanted, **asked)
        page, _ = client.scroll("c", limit=5, **asked)
        hits = client.query_points("c", query=[[1.0] * DIM], using="parts", limit=OBJECTS, **asked).points
        results.append((sorted(records, key=lambda r: str(r.id)), page, by_score(hits)))
    for ours, theirs in zip(*results, strict=True):
        same_points(ours, theirs)


def test_scrolling_by_pages_visits_every_point_once(both: Any) -> None:
    edge, local, _ = both
    seen: list[str] = []
    offset = None
    while True:
        page, offset = edge.scroll("c", limit=7, offset=offset, with_payload=False)
        seen += [r.id for r in page]
        if offset is None:
            break
        assert isinstance(offset, str)
    assert seen == [r.id for r in local.scroll("c", limit=OBJECTS)[0]]


@settings(deadline=None, max_examples=15)
@given(where=FILTERS, again=st.lists(st.integers(0, OBJECTS + 9), max_size=5))
def test_writes_and_deletes_leave_what_they_leave_in_local_mode(
    tmp_path_factory: pytest.TempPathFactory, where: models.Filter, again: list[int]
) -> None:
    edge, local = EdgeClient(tmp_path_factory.mktemp("edge")), QdrantClient(":memory:")
    left = []
    for client in (edge, local):
        client.create_collection("c", vectors_config=space())
        client.upsert("c", points=some_points(range(OBJECTS)))
        client.delete("c", points_selector=models.FilterSelector(filter=where))
        for number in again:  # replaced whole: a vector or field that is not named is gone
            vector = {"average": [float(number + 1)] * DIM}
            client.upsert(
                "c", points=[models.PointStruct(id=ids(number)[0], vector=vector, payload={"n": 1})]
            )
        client.delete("c", points_selector=models.PointIdsList(points=list(ids(2, 999))))
        client.delete("c", points_selector=list(ids(4)))
        client.delete(
            "c", points_selector=models.Filter(must=[field("number", match=models.MatchValue(value=8))])
        )
        left.append(client.scroll("c", limit=2 * OBJECTS, with_vectors=True)[0])
    edge.close()
    local.close()
    same_points(*left)


def test_a_collection_describes_itself(both: Any) -> None:
    edge, local, metric = both
    ours, theirs = edge.get_collection("c"), local.get_collection("c")
    assert ours.config.params.vectors == theirs.config.params.vectors
    assert ours.config.params.vectors["average"].distance is metric
    assert (ours.points_count, ours.status) == (theirs.points_count, theirs.status)
    assert ours.indexed_vectors_count == 0
    assert ours.segments_count >= 1
    assert ours.payload_schema["user_id"].data_type is models.PayloadSchemaType.KEYWORD
    assert edge.get_collections() == local.get_collections()


# --- aliases


def create(alias: str, collection: str) -> models.CreateAliasOperation:
    return models.CreateAliasOperation(
        create_alias=models.CreateAlias(collection_name=collection, alias_name=alias)
    )


def drop(alias: str) -> models.DeleteAliasOperation:
    return models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))


def rename(old: str, new: str) -> models.RenameAliasOperation:
    return models.RenameAliasOperation(
        rename_alias=models.RenameAlias(old_alias_name=old, new_alias_name=new)
    )


NAMES = st.sampled_from(["blue", "green", "live", "old"])
STEPS = st.lists(
    st.one_of(
        st.lists(
            st.one_of(
                st.builds(create, NAMES, NAMES), st.builds(drop, NAMES), st.builds(rename, NAMES, NAMES)
            ),
            min_size=1,
            max_size=3,
        ),
        NAMES,  # create the collection, or delete it when it is there
    ),
    max_size=8,
)


@settings(deadline=None, max_examples=20)
@given(steps=STEPS)
def test_aliases_do_what_they_do_in_local_mode(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("edge")
    edge, local = EdgeClient(folder), QdrantClient(":memory:")

    def apply(client: Any, step: Any) -> bool:
        try:
            if isinstance(step, list):
                return client.update_collection_aliases(change_aliases_operations=step)
            if step in {c.name for c in client.get_collections().collections}:
                return client.delete_collection(step)
            return client.create_collection(step, vectors_config=space())
        except (ValueError, NotFound, Conflict):
            return False

    def state(client: Any) -> Any:
        aliases = {a.alias_name: a.collection_name for a in client.get_aliases().aliases}
        names = {c.name for c in client.get_collections().collections}
        return aliases, names, [client.collection_exists(n) for n in ("blue", "green", "live", "old")]

    for step in ["blue", "green", *steps]:
        assert apply(edge, step) == apply(local, step)
        assert state(edge) == state(local)
    edge.close()
    reopened = EdgeClient(folder)
    assert state(reopened) == state(local)
    reopened.close()
    local.close()


def test_a_refused_alias_operation_undoes_the_ones_before_it(edge: EdgeClient) -> None:
    edge.create_collection("blue", vectors_config=space())
    edge.update_collection_aliases(change_aliases_operations=[create("live", "blue")])
    with pytest.raises(NotFound, match="green"):
        edge.update_collection_aliases(change_aliases_operations=[drop("live"), create("live", "green")])
    assert edge.collection_exists("live")


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Let threads take turns every few instructions, so that they meet in the narrowest places."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_threads")
def test_a_switch_is_seen_whole_by_every_reader(edge: EdgeClient) -> None:
    for number, name in enumerate(("blue", "green")):
        edge.create_collection(name, vectors_config=space())
        edge.upsert(name, points=some_points(range(number, number + 1)))
    edge.update_collection_aliases(change_aliases_operations=[create("live", "blue")])
    stop = threading.Event()
    wrong: list[Any] = []

    def read() -> None:
        while not stop.is_set():
            try:
                assert len(edge.retrieve("live", ids=ids(0, 1))) == 1
            except BaseException as error:
                wrong.append(error)
                return

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for turn in range(60):
        target = ("green", "blue")[turn % 2]
        edge.update_collection_aliases(change_aliases_operations=[drop("live"), create("live", target)])
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []


# --- names and mistakes

HOSTILE = [
    "..",
    ".",
    "../../escape",
    "/etc/passwd",
    "a/b\\c",
    "A",
    "a",
    "nul\0byte",
    "x" * 255,
    "名前",
    "\ud800",
    " ",
    "con",
]


def test_no_name_leaves_the_folder_or_meets_another(tmp_path: Path) -> None:
    folder = tmp_path / "inside" / "edge"
    edge = EdgeClient(folder)
    for number, name in enumerate(HOSTILE):
        edge.create_collection(name, vectors_config=space())
        edge.upsert(name, points=some_points(range(number)))
        edge.update_collection_aliases(change_aliases_operations=[create(f"to {name}"[:255], name)])
    edge.close()
    edge = EdgeClient(folder)
    for number, name in enumerate(HOSTILE):
        assert edge.count(name).count == edge.count(f"to {name}"[:255]).count == number
    assert edge.delete_collection("..")
    edge.close()
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
    assert [path.name for path in folder.parent.iterdir()] == ["edge"]
    assert len(list((folder / "collections").iterdir())) == len(HOSTILE) - 1


@pytest.mark.parametrize("name", ["", "x" * 256])
def test_names_have_a_length(edge: EdgeClient, name: str) -> None:
    with pytest.raises(Invalid, match="1 to 255"):
        edge.create_collection(name, vectors_config=space())


def test_what_does_not_exist_is_not_found(edge: EdgeClient) -> None:
    for call in (
        lambda: edge.count("gone"),
        lambda: edge.upsert("gone", points=[]),
        lambda: edge.query_points("gone", query=[1.0], using="average"),
        lambda: edge.get_collection("gone"),
        lambda: edge.optimize("gone"),
        lambda: edge.create_payload_index("gone", "f", field_schema="keyword"),
    ):
        with pytest.raises(NotFound, match="gone"):
            call()
    assert not edge.delete_collection("gone")


def test_a_taken_name_is_a_conflict(edge: EdgeClient) -> None:
    edge.create_collection("c", vectors_config=space())
    edge.update_collection_aliases(change_aliases_operations=[create("alias", "c")])
    for name in ("c", "alias"):
        with pytest.raises(Conflict, match=name):
            edge.create_collection(name, vectors_config=space())


BAD_VECTORS: list[Any] = [
    {"average": [1.0]},
    {"average": [[1.0] * DIM]},
    {"average": [float("nan")] * DIM},
    {"average": [1e300] * DIM},
    {"average": "text"},
    {"average": None},
    {"parts": []},
    {"parts": [[]]},
    {"parts": [[1.0] * DIM, [1.0]]},
    {"parts": [[1.0] * (DIM + 1)]},
    {"parts": [[[1.0] * DIM]]},
    {"parts": 1.0},
    {"unknown": [1.0] * DIM},
    [1.0] * DIM,
]


@pytest.mark.parametrize("vector", BAD_VECTORS, ids=str)
def test_one_bad_point_refuses_its_batch_and_harms_nothing(tmp_path: Path, vector: Any) -> None:
    """The engine alone would write the points before it, and panic over a ragged one at every later start."""
    edge = EdgeClient(tmp_path)
    edge.create_collection("c", vectors_config=space())
    points = some_points(range(3))
    points[1] = models.PointStruct.model_construct(id=ids(1)[0], vector=vector, payload={})
    with pytest.raises(Invalid, match="vector"):
        edge.upsert("c", points=points)
    assert edge.count("c").count == 0
    edge.close()
    edge = EdgeClient(tmp_path)
    assert edge.count("c").count == 0
    edge.close()


def test_what_the_engine_cannot_use_is_invalid(edge: EdgeClient) -> None:
    edge.create_collection("c", vectors_config=space())
    edge.upsert("c", points=some_points(range(3)))
    where = models.Filter(must=[models.HasIdCondition(has_id=["not a uuid"])])
    for call in (
        lambda: edge.query_points("c", query=[1.0], using="average"),
        lambda: edge.query_points("c", query=[[1.0] * DIM, [1.0]], using="parts"),
        lambda: edge.query_points("c", query=[1.0] * DIM, using="unknown"),
        lambda: edge.query_points("c", query=[1.0] * DIM),
        lambda: edge.query_points("c", query=[1.0] * DIM, using="average", limit=0),
        lambda: edge.query_points("c", query=[1.0] * DIM, using="average", offset=-1),
        lambda: edge.count("c", count_filter=where),
        lambda: edge.count("c", count_filter=models.Filter(must=[field("a[", is_null=True)])),
        lambda: edge.retrieve("c", ids=["not a uuid"]),
        lambda: edge.retrieve("c", ids=[-1]),
        lambda: edge.retrieve("c", ids=ids(1), with_vectors=["unknown"]),
        lambda: edge.scroll("c", limit=0),
        lambda: edge.facet("c", key="never_indexed"),
        lambda: edge.create_payload_index("c", "f", field_schema="nonsense"),
        lambda: edge.upsert("c", points=[models.PointStruct(id="x", vector={}, payload={})]),
        lambda: edge.upsert("c", points=[models.PointStruct(id=1, vector={}, payload={"a": float("nan")})]),
        lambda: edge.create_collection("d", vectors_config=models.VectorParams(size=2, distance="Dot")),
    ):
        with pytest.raises(Invalid):
            call()
    assert edge.count("c").count == 3


def test_arrays_and_rich_payloads_are_stored_as_the_server_would(edge: EdgeClient) -> None:
    edge.create_collection("c", vectors_config=space(models.Distance.DOT))
    array = np.arange(2 * DIM, dtype=np.float32).reshape(2, DIM)
    moment, key = datetime(2024, 5, 1, tzinfo=UTC), uuid.uuid4()
    point = models.PointStruct.model_construct(
        id=uuid.UUID(int=7), vector={"parts": array, "average": array[0]}, payload={"at": moment, "key": key}
    )
    edge.upsert("c", points=[point, models.PointStruct(id=5, vector={})])
    number, named = edge.scroll("c", with_vectors=True)[0]
    assert (number.id, number.payload, number.vector) == (5, {}, {})
    assert named.id == str(uuid.UUID(int=7))
    assert named.vector == {"parts": array.tolist(), "average": array[0].tolist()}
    assert named.payload is not None
    assert datetime.fromisoformat(named.payload["at"]) == moment
    assert named.payload["key"] == str(key)


def test_deleted_points_are_vacuumed_and_the_rest_is_still_found(edge: EdgeClient) -> None:
    edge.create_collection("c", vectors_config=space())
    edge.upsert("c", points=some_points(range(1500)))
    edge.delete("c", points_selector=models.PointIdsList(points=list(ids(*range(600)))))
    before = edge.query_points("c", query=[1.0] * DIM, using="average", limit=50).points
    assert edge.optimize("c")
    assert not edge.optimize("c")
    after = edge.query_points("c", query=[1.0] * DIM, using="average", limit=50).points
    assert [p.id for p in after] == [p.id for p in before]
    assert edge.count("c").count == 900


# --- one owner, and what survives


def python(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, with this file's helpers at hand."""
    prelude = "import importlib.util, os, signal, sys\n" + (
        f"spec = importlib.util.spec_from_file_location('helpers', {__file__!r})\n"
        "t = importlib.util.module_from_spec(spec); spec.loader.exec_module(t)\n"
        "from pathlib import Path\nfrom improvement.edge import EdgeClient\n"
    )
    return subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )


def test_a_folder_belongs_to_one_client_at_a_time(tmp_path: Path) -> None:
    first = EdgeClient(tmp_path)
    with pytest.raises(Unavailable, match="in use by another process"):
        EdgeClient(tmp_path)
    other = python("EdgeClient(Path(sys.argv[1]))", tmp_path)
    assert other.returncode == 1
    assert "improvement.errors.Unavailable: the Qdrant Edge folder" in other.stderr
    closer = threading.Thread(target=first.close)  # not the thread that opened
    closer.start()
    closer.join()
    EdgeClient(tmp_path).close()
    first.close()


def test_a_closed_client_says_so(tmp_path: Path) -> None:
    edge = EdgeClient(tmp_path)
    edge.create_collection("c", vectors_config=space())
    edge.close()
    for call in (
        lambda: edge.count("c"),
        edge.get_collections,
        edge.get_aliases,
        lambda: edge.collection_exists("c"),
        lambda: edge.create_collection("d", vectors_config=space()),
        lambda: edge.delete_collection("c"),
    ):
        with pytest.raises(Unavailable, match="closed"):
            call()


def contents(edge: EdgeClient) -> Any:
    points = edge.scroll("live", limit=1000, with_vectors=True)[0]
    return {str(p.id): (p.payload, p.vector) for p in points}, edge.get_collection("live").payload_schema


def fill(edge: EdgeClient) -> None:
    hnsw = models.HnswConfigDiff(ef_construct=77)
    edge.create_collection("blue", vectors_config=space(models.Distance.EUCLID), hnsw_config=hnsw)
    edge.update_collection_aliases(change_aliases_operations=[create("live", "blue")])
    edge.create_payload_index("live", "user_id", field_schema=models.PayloadSchemaType.KEYWORD)
    edge.upsert("live", points=some_points(range(60)))
    edge.upsert("live", points=some_points(range(10, 20), seed=1))
    edge.delete("live", points_selector=list(ids(3)))
    edge.delete(
        "live", points_selector=models.Filter(must=[field("number", match=models.MatchValue(value=8))])
    )


def test_everything_is_there_after_a_close(tmp_path: Path) -> None:
    edge = EdgeClient(tmp_path)
    fill(edge)
    before, info = contents(edge), edge.get_collection("live")
    edge.close()
    edge = EdgeClient(tmp_path)
    assert contents(edge) == before
    assert edge.get_collection("live") == info
    assert info.config.hnsw_config.ef_construct == 77
    edge.close()


def test_everything_is_there_after_a_sigkill(tmp_path: Path) -> None:
    killed = python(
        "edge = EdgeClient(Path(sys.argv[1])); t.fill(edge); os.kill(os.getpid(), signal.SIGKILL)",
        tmp_path / "killed",
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    undisturbed, survivor = EdgeClient(tmp_path / "undisturbed"), EdgeClient(tmp_path / "killed")
    fill(undisturbed)
    assert contents(survivor) == contents(undisturbed)
    undisturbed.close()
    survivor.close()


def test_a_kill_while_creating_or_deleting_leaves_all_or_nothing(tmp_path: Path) -> None:
    """Killed before the n-th change that create, alias and delete make to a file outside the engine."""
    script = """
    import shutil
    changes = int(sys.argv[2])
    def dying(real):
        def call(*args, **options):
            global changes
            if changes == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            changes -= 1
            return real(*args, **options)
        return call
    for changes in range(changes):
        child = os.fork()
        if child:
            status = os.waitpid(child, 0)[1]
            assert os.WTERMSIG(status) == signal.SIGKILL, (changes, status)
            continue
        edge = EdgeClient(Path(sys.argv[1]) / str(changes))
        edge.create_collection("kept", vectors_config=t.space())
        os.replace, os.fsync, shutil.rmtree = dying(os.replace), dying(os.fsync), dying(shutil.rmtree)
        Path.unlink = dying(Path.unlink)
        edge.create_collection("new", vectors_config=t.space())
        edge.update_collection_aliases(change_aliases_operations=[t.create("live", "new")])
        edge.delete_collection("new")
        os._exit(0)
    """
    changes = (
        9  # create: rmtree, fsync, replace; alias: fsync, replace; delete: unlink, fsync, replace, rmtree
    )
    done = python(script, tmp_path, changes)
    assert done.returncode == 0, done.stderr
    found = []
    for number in range(changes):
        folder = tmp_path / str(number)
        edge = EdgeClient(folder)
        names = {c.name for c in edge.get_collections().collections}
        assert {a.collection_name for a in edge.get_aliases().aliases} <= names
        assert len(list((folder / "collections").iterdir())) == len(names)
        if "new" not in names:
            edge.create_collection("new", vectors_config=space())
        edge.upsert("new", points=some_points(range(2)))
        edge.close()
        found.append(sorted(names))
    kept = ["kept"]
    assert found == [kept] * 3 + [["kept", "new"]] * 3 + [kept] * 3


def test_the_write_ahead_log_is_cut_while_the_client_runs(edge: EdgeClient, tmp_path: Path) -> None:
    size = 1024
    edge.create_collection("c", vectors_config={"average": models.VectorParams(size=size, distance="Dot")})
    rng = np.random.default_rng(0)
    points = [
        models.PointStruct.model_construct(id=i, vector={"average": rng.normal(size=size)}, payload=None)
        for i in range(1000)
    ]
    written = 0
    for _ in range(5 * FLUSH_POINTS // 1000):
        edge.upsert("c", points=points)
        written += 1000 * size * 4
    logs = (tmp_path / "edge" / "collections").glob("*/shard/wal/*")
    assert sum(path.stat().st_blocks * 512 for path in logs) < 0.7 * written


@pytest.mark.usefixtures("eager_threads")
def test_many_threads_may_write_search_and_delete_at_once(edge: EdgeClient) -> None:
    edge.create_collection("c", vectors_config=space())
    wrong: list[BaseException] = []

    def work(worker: int) -> None:
        rng = np.random.default_rng(worker)
        mine = range(worker * 1000, worker * 1000 + 60)
        own = models.Filter(must=[models.HasIdCondition(has_id=list(ids(*mine)))])
        try:
            for start in range(0, 60, 10):
                edge.upsert("c", points=some_points(mine)[start : start + 10])
                query = rng.normal(size=(1, DIM))
                hits = edge.query_points("c", query=query, using="parts", query_filter=own, limit=100).points
                assert len(hits) == start + 10
                edge.create_collection(f"{worker}-{start}", vectors_config=space())
                edge.update_collection_aliases(
                    change_aliases_operations=[create(f"alias {worker}", f"{worker}-{start}")]
                )
                assert edge.count(f"alias {worker}").count == 0
                edge.delete_collection(f"{worker}-{start}")
            edge.delete("c", points_selector=list(ids(*mine[:30])))
            assert edge.count("c", count_filter=own).count == 30
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert edge.count("c").count == 6 * 30
    assert [c.name for c in edge.get_collections().collections] == ["c"]
    assert edge.get_aliases().aliases == []


def test_a_collection_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    edge = EdgeClient(tmp_path)
    edge.create_collection("broken one", vectors_config=space())
    edge.close()
    (description,) = (tmp_path / "collections").glob("*/collection.json")
    assert json.loads(description.read_text())["name"] == "broken one"
    (description.parent / "shard").rename(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="'broken one' cannot be opened"):
        EdgeClient(tmp_path)
    (tmp_path / "elsewhere").rename(description.parent / "shard")
    EdgeClient(tmp_path).close()  # the failed start gave the folder back


def test_without_the_extra_only_making_a_client_fails(tmp_path: Path) -> None:
    script = """
    sys.modules["qdrant_edge"] = None
    for name in ("improvement.edge", "improvement.edge_filters"):
        del sys.modules[name]
    from improvement.edge import EdgeClient
    EdgeClient(Path(sys.argv[1]))
    """
    failed = python(script, tmp_path)
    assert (
        "improvement.errors.Unavailable: no QDRANT_URL is set and Qdrant Edge is not installed"
        in failed.stderr
    )
    assert os.listdir(tmp_path) == []


def test_a_collection_is_deleted_as_soon_as_no_other_thread_is_on_its_way_into_it(edge: EdgeClient) -> None:
    edge.create_collection("new", vectors_config=space())
    held = edge._collections["new"]
    closed, asked = held.shard.close, []

    class Borrowed:
        """The engine's shard as another thread's call has it: twice it cannot be closed."""

        def close(self) -> None:
            asked.append(1)
            if len(asked) < 3:
                raise RuntimeError("Already borrowed")
            closed()

    held.shard = Borrowed()
    assert edge.delete_collection("new")
    assert len(asked) == 3
    assert not held.folder.exists()

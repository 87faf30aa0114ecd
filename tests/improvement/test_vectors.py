"""Personalised search against a naive reading of the laws."""

import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from improvement.domain import MetricAggregationType, MetricType, SearchDomain
from improvement.objects import Object
from improvement.releases import create_collection
from improvement.vectors import CopyRef, VectorStore, point_id
from improvement.wiring import Rooms
from tests.support import make_domain, make_object, make_objects


@pytest.fixture
def store(rooms: Rooms) -> VectorStore:
    return rooms.vectors


@pytest.fixture
def collection(rooms: Rooms, domain: SearchDomain) -> str:
    return rooms.releases.blue(domain.name).collection_id


def copy_of(original: Object, user_id: str, vectors: np.ndarray) -> Object:
    return replace(
        original,
        object_id=f"{original.object_id}_{user_id}",
        original_id=original.object_id,
        user_id=user_id,
        parts=np.asarray(vectors, np.float32),
    )


def naive(
    domain: SearchDomain,
    originals: Sequence[Object],
    copies: Sequence[Object],
    query: np.ndarray,
    user: str | None,
) -> dict[str, float]:
    """Distance of every object as this user sees it, straight from the laws."""
    mine = {c.original_id: c for c in copies if c.user_id == user and user is not None}
    info = domain.search_index_info

    def distance(parts: np.ndarray) -> float:
        rows = parts if info.metric_aggregation_type is MetricAggregationType.MIN else parts.mean(0)[None]
        if info.metric_type is MetricType.EUCLID:
            return float(np.linalg.norm(rows - query, axis=1).min())
        if info.metric_type is MetricType.DOT:
            return float(-(rows @ query).max())
        return float(1 - (rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)).max())

    return {o.object_id: distance(mine.get(o.object_id, o).parts) for o in originals}


def pages(
    store: VectorStore, domain: SearchDomain, collection: str, query: np.ndarray, size: int, **kw
) -> list:
    hits, offset = [], 0
    while True:
        page, more = store.search(collection, domain.search_index_info, query, size, offset=offset, **kw)
        hits += page
        offset += size
        if not more:
            return hits
        assert len(page) == size, "a page with a successor is full"


@pytest.mark.parametrize("metric", list(MetricType))
@pytest.mark.parametrize("aggregation", list(MetricAggregationType))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 9), filtered=st.booleans())
def test_pages_show_each_object_once_in_the_users_own_order(
    rooms: Rooms, metric: MetricType, aggregation: MetricAggregationType, seed: int, size: int, filtered: bool
):
    domain = replace(make_domain(metric=metric, aggregation=aggregation), name=f"d{uuid.uuid4().hex}")
    rooms.releases.ensure(domain)
    collection = rooms.releases.blue(domain.name).collection_id
    rng = np.random.default_rng(seed)
    originals = make_objects(domain, 25, seed)
    for i in range(3):  # objects with equal vectors: ties must not break paging
        originals.append(replace(originals[0], object_id=f"twin{i}"))
    copies = [
        copy_of(o, user, domain.prepare_vectors(rng.standard_normal(o.parts.shape).astype("f4")))
        for user in ("ann", "bob")
        for o in originals
        if rng.random() < 0.5
    ]
    rooms.vectors.upsert(collection, [*originals, *copies])
    query = domain.prepare_vectors(rng.standard_normal(16).astype("f4"))
    red = models.Filter(
        must=[models.FieldCondition(key="payload.color", match=models.MatchValue(value="red"))]
    )
    for user in ("ann", "stranger", None):
        expected = naive(domain, originals, copies, query, user)
        if filtered:
            expected = {o.object_id: expected[o.object_id] for o in originals if o.payload["color"] == "red"}
        hits = pages(
            rooms.vectors, domain, collection, query, size, user_id=user, where=red if filtered else None
        )
        assert sorted(hit.object_id for hit in hits) == sorted(expected)
        np.testing.assert_allclose([h.distance for h in hits], sorted(expected.values()), atol=1e-5)
        for hit in hits:
            assert hit.distance == pytest.approx(expected[hit.object_id], abs=1e-5)
            assert hit.personalized == any(
                c.user_id == user and c.original_id == hit.object_id for c in copies if user
            )


ENGINES = ["edge", "oracle"]


@contextmanager
def engine_of(rooms: Rooms, engine: str) -> Iterator[Any]:
    """The rooms' own engine, or qdrant-client's local one."""
    if engine == "edge":
        yield rooms.vectors._client
        return
    with warnings.catch_warnings():  # it has no indexes, and says so
        warnings.filterwarnings("ignore", "Payload indexes|Local mode performs exact")
        client = QdrantClient(":memory:")
        yield client
        client.close()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("metric", list(MetricType))
@pytest.mark.parametrize("aggregation", list(MetricAggregationType))
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 9),
    rescored=st.integers(1, 40),
    filtered=st.booleans(),
)
def test_a_second_query_reorders_the_best_the_user_sees_and_nothing_else(
    rooms: Rooms,
    engine: str,
    metric: MetricType,
    aggregation: MetricAggregationType,
    seed: int,
    size: int,
    rescored: int,
    filtered: bool,
):
    domain = make_domain(metric=metric, aggregation=aggregation)
    collection, rng = f"c{uuid.uuid4().hex}", np.random.default_rng(seed)
    originals = make_objects(domain, 25, seed)
    originals += [replace(originals[0], object_id=f"twin{i}") for i in range(3)]
    copies = [
        copy_of(o, user, domain.prepare_vectors(rng.standard_normal(o.parts.shape).astype("f4")))
        for user in ("ann", "bob")
        for o in originals
        if rng.random() < 0.5
    ]
    query, second = domain.prepare_vectors(rng.standard_normal((2, 16)).astype("f4"))
    red = models.Filter(
        must=[models.FieldCondition(key="payload.color", match=models.MatchValue(value="red"))]
    )
    with engine_of(rooms, engine) as client:
        create_collection(client, collection, domain.search_index_info)
        store = VectorStore(client)
        store.upsert(collection, [*originals, *copies])
        for user in ("ann", None):
            kw: dict[str, Any] = {"user_id": user, "where": red if filtered else None}
            plain = pages(store, domain, collection, query, 40, **kw)
            again = naive(domain, originals, copies, second, user)
            head = sorted(plain[:rescored], key=lambda hit: again[hit.object_id])
            hits = pages(store, domain, collection, query, size, rescore=second, rescored=rescored, **kw)
            assert {h.object_id for h in hits[:rescored]} == {h.object_id for h in head}
            assert [h.object_id for h in hits[rescored:]] == [h.object_id for h in plain[rescored:]]
            assert [h.rescored for h in hits] == [n < rescored for n in range(len(plain))]
            np.testing.assert_allclose(
                [h.distance for h in hits],
                [again[h.object_id] for h in head] + [h.distance for h in plain[rescored:]],
                atol=1e-5,
            )
            copied = {h.object_id: h.personalized for h in plain}
            assert [h.personalized for h in hits] == [copied[h.object_id] for h in hits]
        client.delete_collection(collection)


def test_a_second_query_leaves_the_distance_limit_to_the_first(
    store: VectorStore, collection: str, domain: SearchDomain
):
    originals = make_objects(domain, 30)
    store.upsert(collection, originals)
    info, query = domain.search_index_info, originals[3].parts[0]
    plain, _ = store.search(collection, info, query, 30)
    near = plain[10].distance + 1e-6
    hits, more = store.search(collection, info, query, 30, max_distance=near, rescore=-query)
    assert {h.object_id for h in hits} == {h.object_id for h in plain[:11]}
    assert [h.object_id for h in hits] != [h.object_id for h in plain[:11]]
    assert not more


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_left_out_is_left_out_as_original_and_as_copy(
    rooms: Rooms, engine: str, domain: SearchDomain
):
    originals = make_objects(domain, 20)
    copies = [copy_of(o, user, o.parts) for user in ("ann", "bob") for o in originals[:10]]
    seen = [o.object_id for o in originals[5:15]]
    with engine_of(rooms, engine) as client:
        create_collection(client, collection := f"c{uuid.uuid4().hex}", domain.search_index_info)
        store = VectorStore(client)
        store.upsert(collection, [*originals, *copies])
        query = originals[6].parts[0]
        for user in ("ann", None):
            every = pages(store, domain, collection, query, 3, user_id=user)
            hits = pages(store, domain, collection, query, 3, user_id=user, without=[*seen, "unknown"])
            assert hits == [hit for hit in every if hit.object_id not in seen]
            assert len(hits) == 10
        listed, _ = store.listed(collection, None, 20, 0, without=seen)
        assert {h.object_id for h in listed} == {o.object_id for o in originals} - {*seen}
        client.delete_collection(collection)


def test_what_is_far_is_found_when_all_that_is_near_is_left_out(
    store: VectorStore, collection: str, domain: SearchDomain
):
    angles = np.linspace(0, 1.5, 70)
    rows = np.zeros((70, 16), np.float32)
    rows[:, 0], rows[:, 1] = np.cos(angles), np.sin(angles)
    originals = [make_object(f"o{n}", row) for n, row in enumerate(rows)]
    store.upsert(collection, originals + [copy_of(o, "ann", o.parts) for o in originals[:60]])
    info, near = domain.search_index_info, [f"o{n}" for n in range(50)]
    for user in ("ann", None):
        hits, more = store.search(collection, info, rows[0], 15, user_id=user, without=near)
        assert [h.object_id for h in hits] == [f"o{n}" for n in range(50, 65)]
        assert more


def test_leaving_out_an_original_leaves_a_copy_that_has_its_name(
    store: VectorStore, collection: str, domain: SearchDomain
):
    axis = np.eye(16, dtype=np.float32)
    a, a_b = make_object("a", axis[0]), make_object("a_b", axis[1])
    store.upsert(collection, [a, a_b, copy_of(a, "b", axis[2:3])])
    info = domain.search_index_info
    hits, _ = store.search(collection, info, axis[1], 9, user_id="b", without=["a_b"])
    assert [(h.object_id, h.personalized) for h in hits] == [("a", True)]


def test_chosen_objects_come_in_the_order_asked_for_once_and_as_the_filter_says(
    store: VectorStore, collection: str, domain: SearchDomain
):
    originals = make_objects(domain, 9)
    store.upsert(collection, originals + [copy_of(o, "ann", o.parts) for o in originals])
    red = models.Filter(
        must=[models.FieldCondition(key="payload.color", match=models.MatchValue(value="red"))]
    )
    asked = ["o6", "unknown", "o1", "o3", "o6"]
    assert [h.object_id for h in store.chosen(collection, asked, None)] == ["o6", "o1", "o3"]
    assert [h.object_id for h in store.chosen(collection, asked, red)] == ["o6", "o3"]
    assert store.chosen(collection, asked, red)[0].payload == {"n": 6, "color": "red"}
    assert store.chosen(collection, [], red) == []


def test_the_means_of_hits_are_those_of_what_ranked_them(
    store: VectorStore, collection: str, domain: SearchDomain
):
    axis = np.eye(16, dtype=np.float32)
    a, b = make_object("a", axis[:2]), make_object("b", axis[2])
    store.upsert(collection, [a, b, copy_of(a, "ann", axis[4:6])])
    hits, _ = store.search(collection, domain.search_index_info, axis[0], 9, user_id="ann")
    found = store.means_of(collection, hits, "ann")
    np.testing.assert_allclose(found["a"], axis[4:6].mean(0) / np.sqrt(0.5), atol=1e-6)
    np.testing.assert_allclose(found["b"], axis[2], atol=1e-6)


def test_a_copy_shadows_its_original_wherever_it_ranks(
    store: VectorStore, collection: str, domain: SearchDomain
):
    axis = np.eye(16, dtype=np.float32)
    near, far = make_object("near", axis[0]), make_object("far", axis[0] + axis[1])
    store.upsert(collection, [near, far, copy_of(near, "ann", -axis[:1])])
    hits, _ = store.search(collection, domain.search_index_info, axis[0], 1, user_id="ann")
    assert [h.object_id for h in hits] == ["far"], "the original must not stand in for its far copy"
    hits, _ = store.search(collection, domain.search_index_info, axis[0], 10, user_id="ann")
    assert [(h.object_id, h.personalized) for h in hits] == [("far", False), ("near", True)]
    hits, _ = store.search(collection, domain.search_index_info, axis[0], 10, user_id="bob")
    assert [(h.object_id, h.personalized) for h in hits] == [("near", False), ("far", False)]


def test_k_asked_is_k_returned_when_every_object_has_a_copy(
    store: VectorStore, collection: str, domain: SearchDomain
):
    originals = make_objects(domain, 40)
    store.upsert(collection, originals + [copy_of(o, "ann", o.parts) for o in originals])
    query = originals[0].parts[0]
    first, more = store.search(collection, domain.search_index_info, query, 20, user_id="ann")
    second, end = store.search(collection, domain.search_index_info, query, 20, offset=20, user_id="ann")
    assert (len(first), more, len(second), end) == (20, True, 20, False)
    assert len({h.object_id for h in first + second}) == 40


def test_max_distance_cuts_where_it_says(store: VectorStore, collection: str, domain: SearchDomain):
    originals = make_objects(domain, 30)
    store.upsert(collection, originals)
    query = originals[3].parts[0]
    every, _ = store.search(collection, domain.search_index_info, query, 30)
    limit = every[10].distance
    near, more = store.search(collection, domain.search_index_info, query, 30, max_distance=limit + 1e-6)
    assert [h.object_id for h in near] == [h.object_id for h in every[:11]]
    assert not more


IDS = st.text(min_size=1, max_size=6, alphabet="a_b:|-1\x00é𝄞 /")


@given(IDS, st.none() | IDS, IDS, st.none() | IDS)
def test_point_ids_never_confuse_two_pairs(a: str, b: str | None, c: str, d: str | None):
    assert (point_id(a, b) == point_id(c, d)) == ((a, b) == (c, d))


def test_objects_come_back_as_they_were_written(store: VectorStore, collection: str, domain: SearchDomain):
    rows = domain.prepare_vectors(np.random.default_rng(0).standard_normal((2, 16)).astype("f4"))
    written = make_object(
        "an id with 'quotes' / and é", rows, payload={"a": {"b": [1, None]}}, storage_meta={"url": "x"}
    )
    store.upsert(collection, [written])
    [found] = store.find(collection, [written.object_id, "unknown"]).values()
    np.testing.assert_allclose(found.parts, rows, atol=1e-6)
    for name in ("object_id", "part_ids", "payload", "storage_meta", "revision", "user_id", "original_id"):
        assert getattr(found, name) == getattr(written, name)


def test_means_are_those_of_the_originals_that_exist(
    store: VectorStore, collection: str, domain: SearchDomain
):
    given = {o.object_id: o for o in make_objects(domain, 6)}
    given["averaged"] = make_object("averaged", np.eye(16)[:2], average=np.eye(16, dtype=np.float32)[5])
    copy = copy_of(given["o1"], "ann", np.ones((1, 16)))
    store.upsert(collection, [*given.values(), copy])
    found = store.means(collection, [*given, "o1", "gone", copy.object_id])
    assert found.keys() == given.keys()
    for object_id, mean in found.items():
        expected = given[object_id].mean / np.linalg.norm(given[object_id].mean)  # as a cosine index has it
        assert (mean.dtype, mean.shape) == (np.float32, (16,))
        np.testing.assert_allclose(mean, expected, atol=1e-6)
    assert store.means(collection, []) == {}


def test_named_finds_copies_by_their_full_name_without_parsing_it(store: VectorStore, collection: str):
    axis = np.eye(16, dtype=np.float32)
    a, a_b = make_object("a", axis[0]), make_object("a_b", axis[1])
    store.upsert(collection, [a, a_b, copy_of(a, "b_c", axis[2:3]), copy_of(a_b, "c", axis[3:4])])
    found = store.named(collection, ["a_b_c"])
    assert sorted((o.original_id, o.user_id) for o in found) == [("a", "b_c"), ("a_b", "c")]


def test_deleting_an_original_takes_all_its_copies_and_no_others(store: VectorStore, collection: str):
    axis = np.eye(16, dtype=np.float32)
    a, b = make_object("a", axis[0]), make_object("b", axis[1])
    store.upsert(collection, [a, b, *(copy_of(o, u, axis[2:3]) for o in (a, b) for u in ("ann", "bob"))])
    store.delete(collection, ["a", "unknown"])
    assert store.find(collection, ["a", "b"]).keys() == {"b"}
    assert {(c.original_id, c.user_id) for c in store.copies(collection, ["ann", "bob"])} == {
        ("b", "ann"),
        ("b", "bob"),
    }
    store.delete_copies(collection, [CopyRef("ann", "b", "")])
    assert [c.user_id for c in store.copies_of(collection, ["b"])] == ["bob"]


def test_erasing_users_takes_all_their_copies_and_nothing_else(store: VectorStore, collection: str):
    axis = np.eye(16, dtype=np.float32)
    a, b = make_object("a", axis[0]), make_object("b", axis[1])
    users = ("ann", "ann2", "bob", "Ann")
    store.upsert(collection, [a, b, *(copy_of(o, u, axis[2:3]) for o in (a, b) for u in users)])
    assert store.erase(collection, ["ann", "bob", "nobody"]) == 4
    assert {copy.user_id for copy in store.copies_of(collection, ["a", "b"])} == {"ann2", "Ann"}
    assert store.find(collection, ["a", "b"]).keys() == {"a", "b"}
    assert store.erase(collection, ["ann"]) == store.erase("things.gone.0", ["ann"]) == 0


def test_listing_and_counting_show_originals_only(store: VectorStore, collection: str, domain: SearchDomain):
    originals = make_objects(domain, 12)
    store.upsert(collection, originals + [copy_of(o, "ann", o.parts) for o in originals[:6]])
    assert store.count(collection, None) == 12
    first, more = store.listed(collection, None, 8, 0)
    rest, end = store.listed(collection, None, 8, 8)
    assert sorted(h.object_id for h in first + rest) == sorted(o.object_id for o in originals)
    assert (more, end) == (True, False)

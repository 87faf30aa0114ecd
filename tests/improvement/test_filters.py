"""Both filter dialects against a naive predicate, on the engine itself; and what is refused."""

import math
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from improvement.domain import SearchDomain
from improvement.errors import Invalid
from improvement.filters import MAX_CONDITIONS, parse_filter
from improvement.vectors import point_id
from improvement.wiring import Rooms
from tests.support import make_object

PAYLOADS: list[dict[str, Any]] = [
    {"color": "red", "n": 1, "price": 1.5, "ok": True, "tags": ["a", "b"], "size": {"w": 3}},
    {"color": "green", "n": 2, "price": 2.5, "ok": False, "tags": ["b"], "size": {"w": 5}},
    {"color": "red shoes", "n": 3, "tags": [], "a key with spaces": "x"},
    {"color": "reddish", "n": -4, "price": 0.0, "offers": [{"shop": "x", "eur": 5}, {"shop": "y", "eur": 9}]},
    {"color": None, "n": 2, "offers": [{"shop": "x", "eur": 9}]},
    {},
]


@pytest.fixture
def matching(rooms: Rooms, domain: SearchDomain) -> Any:
    collection = rooms.releases.blue(domain.name).collection_id
    axis = np.eye(16, dtype=np.float32)
    rooms.vectors.upsert(
        collection, [make_object(f"o{i}", axis[i], payload=payload) for i, payload in enumerate(PAYLOADS)]
    )

    def found(raw: dict[str, Any]) -> list[int]:
        hits, _ = rooms.vectors.listed(collection, parse_filter(raw, point_id), 100, 0)
        return sorted(int(hit.object_id[1:]) for hit in hits)

    return found


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        # Qdrant's own
        ({"must": [{"key": "color", "match": {"value": "red"}}]}, [0]),
        ({"must": {"key": "color", "match": {"value": "red"}}}, [0]),
        ({"must_not": [{"key": "color", "match": {"value": "red"}}]}, [1, 2, 3, 4, 5]),
        ({"should": [{"key": "n", "match": {"any": [1, 3]}}, {"key": "ok", "match": {"value": False}}]}, [0, 1, 2]),
        ({"must": [{"key": "n", "range": {"gte": 2}}], "must_not": [{"key": "n", "range": {"gt": 2}}]}, [1, 4]),
        ({"must": [{"is_empty": {"key": "tags"}}]}, [2, 3, 4, 5]),
        ({"must": [{"is_null": {"key": "color"}}]}, [4]),
        ({"must": [{"key": "size.w", "range": {"lt": 4}}]}, [0]),
        ({"must": [{"key": "tags", "match": {"value": "a"}}]}, [0]),
        ({"must": [{"has_id": ["o1", "o5", "nobody"]}]}, [1, 5]),
        ({"must": [{"key": "a key with spaces", "match": {"value": "x"}}]}, [2]),
        (
            {"must": [{"nested": {"key": "offers", "filter": {"must": [
                {"key": "shop", "match": {"value": "x"}}, {"key": "eur", "range": {"gt": 6}}]}}}]},
            [4],
        ),
        ({"min_should": {"conditions": [{"key": "n", "match": {"value": 2}},
                                        {"key": "ok", "match": {"value": False}}], "min_count": 2}}, [1]),
        ({"must": [{"should": [{"key": "n", "match": {"value": 1}}, {"key": "n", "match": {"value": 3}}]}]}, [0, 2]),
        # Embedding Studio's
        ({"term": {"color": "red"}}, [0]),
        ({"query": {"field": "color", "value": "red"}}, [0]),
        ({"term": {"field": "n", "value": 2}}, [1, 4]),
        ({"term": {"price": 2.5}}, [1]),
        ({"term": {"ok": True}}, [0]),
        ({"terms": {"n": [1, 3, 99]}}, [0, 2]),
        ({"field": "price", "values": [1.5, 0.0]}, [0, 3]),
        ({"terms": {"n": []}}, []),
        ({"range": {"n": {"gte": 2, "lt": 3}}}, [1, 4]),
        ({"field": "n", "range": {"eq": 3}}, [2]),
        ({"exists": {"field": "price"}}, [0, 1, 3]),
        ({"field": "offers"}, [3, 4]),
        ({"wildcard": {"color": "red*"}}, [0, 2, 3]),
        ({"wildcard": {"color": "*sho*"}}, [2]),
        ({"wildcard": {"color": "red"}}, [0]),
        ({"query": {"bool": {"must": [{"range": {"n": {"gt": 0}}}], "filter": [{"exists": {"field": "price"}}],
                             "must_not": [{"term": {"ok": False}}]}}}, [0]),
        ({"bool": {"should": [{"term": {"n": 1}}, {"field": "n", "value": 3}]}}, [0, 2]),
        ({}, [0, 1, 2, 3, 4, 5]),
    ],
)  # fmt: skip
def test_a_filter_finds_what_it_says(matching: Any, raw: dict[str, Any], expected: list[int]):
    assert matching(raw) == expected


CONDITIONS = st.one_of(
    st.tuples(st.just("term"), st.sampled_from(["red", "green", "reddish"])).map(
        lambda c: ({"term": {"color": c[1]}}, lambda p: p.get("color") == c[1])
    ),
    st.integers(-5, 4).map(
        lambda n: ({"key": "n", "range": {"gte": n}}, lambda p: p.get("n") is not None and p["n"] >= n)
    ),
    st.booleans().map(lambda b: ({"field": "ok", "value": b}, lambda p: p.get("ok") is b)),
    st.just(({"exists": {"field": "price"}}, lambda p: "price" in p)),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    must=st.lists(CONDITIONS, max_size=2),
    should=st.lists(CONDITIONS, max_size=3),
    without=st.lists(CONDITIONS, max_size=2),
)
def test_combined_filters_agree_with_a_naive_predicate(matching: Any, must: Any, should: Any, without: Any):
    clauses = {"must": must, "should": should, "must_not": without}
    raw = {name: [form for form, _ in clause] for name, clause in clauses.items() if clause}

    def passes(payload: dict[str, Any]) -> bool:
        return (
            all(check(payload) for _, check in must)
            and (not should or any(check(payload) for _, check in should))
            and not any(check(payload) for _, check in without)
        )

    assert matching(raw) == [i for i, payload in enumerate(PAYLOADS) if passes(payload)]


def deep(levels: int) -> dict[str, Any]:
    raw: dict[str, Any] = {"term": {"a": 1}}
    for _ in range(levels):
        raw = {"must": [raw]}
    return raw


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"nonsense": 1}, "filter: expected a Qdrant or Embedding Studio condition"),
        ({"must": [{"nonsense": 1}]}, r"filter\.must\[0\]: expected"),
        ({"must": ["red"]}, r"filter\.must\[0\]: expected an object, got str"),
        ({"must": [{"key": "n"}]}, "expected key and one of"),
        ({"must": [{"key": "n", "matches": 1}]}, "expected key and one of"),
        ({"must": [{"key": "n", "match": {"value": [1]}}]}, r"filter\.must\[0\]"),
        ({"must": [{"key": 5, "match": {"value": 1}}]}, "name of a payload field"),
        ({"must": [{"key": "n", "range": {"gte": math.nan}}]}, "finite"),
        ({"must": [{"key": "n", "match": {"value": 2**70}}]}, "64-bit"),
        ({"must": [{"key": 'a"b', "match": {"value": 1}}]}, "quotes"),
        ({"must": [{"key": "n", "match": {"any": list(range(1_001))}}]}, "at most 1000"),
        ({"must": [{"has_id": "o1"}]}, "list of up to 1000 object ids"),
        ({"term": {"a": 1, "b": 2}}, "expected one field"),
        ({"term": {"a": {"b": 1}}}, "expected a text, a number"),
        ({"range": {"n": {"above": 1}}}, "expected gte"),
        ({"range": {"n": {"gte": math.inf}}}, "finite"),
        ({"wildcard": {"color": "r*d"}}, "'begin\\*' and '\\*piece\\*' only"),
        ({"wildcard": {"color": "r?d"}}, "only"),
        ({"min_should": {"conditions": [], "min_count": 0}}, "min_count"),
        ({"bool": {}}, "filter.bool: expected"),
        ({"query": [1]}, "filter.query: expected an object"),
        (deep(17), "nested deeper than 16"),
        ({"must": [{"term": {"a": 1}}] * (MAX_CONDITIONS + 1)}, "at most 500 conditions"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_its_place(raw: dict[str, Any], says: str):
    with pytest.raises(Invalid, match=says):
        parse_filter(raw, point_id)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["must", "key", "match", "value", "term", "bool", "field", "range", "has_id", "nested", "x"]),
            inner, max_size=3,
        ),
        max_leaves=20,
    )
)  # fmt: skip
def test_any_json_is_parsed_or_refused(raw: Any):
    if isinstance(raw, dict):
        with suppress(Invalid):
            parse_filter(raw, point_id)

"""Filters mean what they say: every form against a naive reading, and whatever is wrong is refused."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from improvement.errors import Invalid
from improvement.filter_values import MAX_CONDITIONS, MAX_DEPTH, MAX_VALUES
from improvement.filters import parse_filter
from improvement.vectors import point_id

Json = Any
ANY = object()

#: What callers write -> the steps a naive reader takes.
PATHS: dict[str, tuple[Any, ...]] = {
    "a": ("a",),
    "t": ("t",),
    "tags": ("tags",),
    "tags[]": ("tags", ANY),
    "tags[0]": ("tags", 0),
    "o.b": ("o", "b"),
    "o.my key": ("o", "my key"),
    'o."my key"': ("o", "my key"),
    "items[].p": ("items", ANY, "p"),
    '"odd.key"': ("odd.key",),
    "größe (cm)": ("größe (cm)",),
    "d": ("d",),
    "missing": ("missing",),
}
SCALARS = st.sampled_from([0, 1, 2, 1.0, 1.5, True, False, "1", "red", "Red shoe", "shoe red", "re", ""])
MOMENTS = st.sampled_from(["2024-01-01", "2024-01-01T12:00:00Z", "2024-01-02T01:00:00+02:00"])
VALUES = st.one_of(SCALARS, st.none(), MOMENTS, st.lists(st.one_of(SCALARS, st.none()), max_size=3))
ITEMS = st.lists(st.fixed_dictionaries({}, optional={"p": SCALARS, "q": SCALARS}), max_size=3)
PAYLOADS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("a", "t", "tags", "odd.key", "größe (cm)", "d"), VALUES),
        "o": st.fixed_dictionaries({}, optional={"b": VALUES, "my key": VALUES}),
        "items": ITEMS,
    },
)


# The naive reading


def reached(payload: Json, steps: Sequence[Any]) -> list[Any]:
    found = [payload]
    for step in steps:
        if step is ANY:
            found = [one for value in found if isinstance(value, list) for one in value]
        elif isinstance(step, int):
            found = [value[step] for value in found if isinstance(value, list) and step < len(value)]
        else:
            found = [value[step] for value in found if isinstance(value, dict) and step in value]
    return found


def unwrapped(values: list[Any]) -> list[Any]:
    return [one for value in values for one in (value if isinstance(value, list) else [value])]


def is_empty(values: list[Any]) -> bool:
    return all(value in (None, []) for value in values)


def is_null(values: list[Any]) -> bool:
    return any(value is None or (isinstance(value, list) and None in value) for value in values)


def exactly(value: Any, wanted: Any) -> bool:
    return type(value) is type(wanted) and value == wanted


def by_value(value: Any, wanted: Any) -> bool:
    numbers = [isinstance(one, int | float) and not isinstance(one, bool) for one in (value, wanted)]
    return value == wanted if all(numbers) else exactly(value, wanted)


def words(text: Any) -> list[str]:
    return text.lower().split() if isinstance(text, str) else []


def matches(match: Json, value: Any) -> bool:
    ((kind, wanted),) = match.items()
    if kind == "value":
        return exactly(value, wanted)
    if kind == "any":
        return any(exactly(value, one) for one in wanted)
    if kind == "except":
        return value is not None and not any(exactly(value, one) for one in wanted)
    if kind == "prefix":
        return isinstance(value, str) and value.startswith(wanted)
    if kind == "text":
        return bool(words(wanted)) and set(words(wanted)) <= set(words(value))
    if kind == "text_any":
        return bool(set(words(wanted)) & set(words(value)))
    assert kind == "phrase"
    return bool(words(wanted)) and f" {' '.join(words(wanted))} " in f" {' '.join(words(value))} "


def moment(text: Any) -> datetime | None:
    try:
        parsed = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def within(bounds: Json, value: Any) -> bool:
    bounds = {name: bound for name, bound in bounds.items() if bound is not None}
    if any(isinstance(bound, str) for bound in bounds.values()):
        value, bounds = moment(value), {name: moment(bound) for name, bound in bounds.items()}
    elif isinstance(value, bool) or not isinstance(value, int | float):
        value = None
    compare: dict[str, Callable[[Any], bool]] = {
        "lt": lambda b: value < b, "lte": lambda b: value <= b, "gt": lambda b: value > b,
        "gte": lambda b: value >= b, "eq": lambda b: value == b,
    }  # fmt: skip
    return value is not None and all(compare[name](bound) for name, bound in bounds.items())


def holds(raw: Json, payload: Json) -> bool:
    """Read a filter or a condition the slow way."""
    clauses = raw.get("bool", raw)
    if clauses.keys() & {"must", "should", "must_not", "filter", "min_should"}:
        should, at_least = clauses.get("should") or [], clauses.get("min_should")
        return (
            all(holds(one, payload) for one in (clauses.get("must") or []) + (clauses.get("filter") or []))
            and (not should or any(holds(one, payload) for one in should))
            and not any(holds(one, payload) for one in clauses.get("must_not") or [])
            and (
                at_least is None
                or sum(holds(one, payload) for one in at_least["conditions"]) >= at_least["min_count"]
            )
        )
    if "nested" in raw:
        elements = reached(payload, ("items", ANY))
        return any(holds(raw["nested"]["filter"], one) for one in elements if isinstance(one, dict))
    for name, test in (("is_empty", is_empty), ("is_null", is_null)):
        if name in raw and "key" not in raw:
            return test(reached(payload, PATHS[raw[name]["key"]]))
    if "exists" in raw or raw.keys() == {"field"}:
        values = reached(payload, PATHS[raw.get("exists", raw)["field"]])
        return any(value != [] for value in values)
    if "key" in raw:
        values = reached(payload, PATHS.get(raw["key"], (raw["key"],)))
        if "match" in raw:
            return any(matches(raw["match"], value) for value in unwrapped(values))
        if "range" in raw:
            return any(within(raw["range"], value) for value in unwrapped(values))
        if "values_count" in raw:
            sizes = [0 if v is None else len(v) if isinstance(v, list) else 1 for v in values] or [0]
            return any(within(raw["values_count"], size) for size in sizes)
        return is_empty(values) is raw["is_empty"] if "is_empty" in raw else is_null(values) is raw["is_null"]
    if "range" in raw:
        found = unwrapped(reached(payload, PATHS[raw["field"]]))
        bounds = dict(raw["range"])
        equal = bounds.pop("eq", None)
        return (equal is None or any(within({"eq": equal}, value) for value in found)) and (
            not any(b is not None for b in bounds.values()) or any(within(bounds, value) for value in found)
        )
    ((form, body),) = raw.items()
    found = unwrapped(reached(payload, PATHS[body["field"]]))
    if form == "all":
        return all(any(by_value(value, one) for value in found) for one in body["values"])
    if form in {"term", "terms", "any"}:
        wanted = body.get("values", [body.get("value")])
        return any(by_value(value, one) for value in found for one in wanted)
    if form == "wildcard":
        start = body["value"].removesuffix("*")
        kind = "value" if start == body["value"] else "prefix"
        return any(matches({kind: start}, value) for value in found)
    kind = {"match": "text", "match_phrase": "phrase"}[form]
    return any(matches({kind: body["value"]}, value) for value in found)


# Random filters of every form

TEXTS = st.sampled_from(["red", "Red shoe", "shoe red", "re", "1", "", "shoe"])
EXACT = st.one_of(TEXTS, st.sampled_from([0, 1, True, False]))
LISTS = st.one_of(st.lists(TEXTS, max_size=3), st.lists(st.sampled_from([0, 1, 2]), max_size=3))
NUMBERS = st.sampled_from([0, 1, 1.0, 1.2, 2])


def some(names: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    """At least one of these names, each with such a value."""
    return st.dictionaries(st.sampled_from(names.split()), values, min_size=1)


def of(**parts: Any) -> st.SearchStrategy[Json]:
    strategies = {k: v if isinstance(v, st.SearchStrategy) else st.just(v) for k, v in parts.items()}
    return st.fixed_dictionaries(strategies)


KEYS = st.sampled_from(sorted(PATHS))
MATCHES = st.one_of(
    of(value=EXACT), of(any=LISTS), of(**{"except": LISTS}), of(prefix=TEXTS), of(text=TEXTS),
    of(text_any=TEXTS), of(phrase=TEXTS),
)  # fmt: skip
RANGES = st.one_of(some("lt lte gt gte", NUMBERS), some("lt lte gt gte", MOMENTS))


def native(keys: st.SearchStrategy[str]) -> st.SearchStrategy[Json]:
    return st.one_of(
        of(key=keys, match=MATCHES),
        of(key=keys, range=RANGES),
        of(key=keys, values_count=some("lt lte gt gte", st.integers(0, 3))),
        of(key=keys, is_empty=st.booleans()),
        of(key=keys, is_null=st.booleans()),
    )


STUDIO = st.one_of(
    of(term=of(field=KEYS, value=SCALARS)),
    st.sampled_from(["terms", "any", "all"]).flatmap(
        lambda form: of(**{form: of(field=KEYS, values=st.lists(SCALARS, min_size=1, max_size=3))})
    ),
    st.sampled_from(["match", "match_phrase"]).flatmap(
        lambda form: of(**{form: of(field=KEYS, value=TEXTS, force_not_payload=False)})
    ),
    of(wildcard=of(field=KEYS, value=st.sampled_from(["red", "re*", "*", "Red*", ""]))),
    of(exists=of(field=KEYS)),
    of(field=KEYS),
    of(field=KEYS, range=some("lt lte gt gte eq", NUMBERS)),
)
LEAVES = st.one_of(
    native(KEYS),
    of(is_empty=of(key=KEYS)),
    of(is_null=of(key=KEYS)),
    of(nested=of(key=st.sampled_from(["items", "items[]"]), filter=of(must=st.lists(native(st.just("p")))))),
    STUDIO,
)


def groups(conditions: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    several = st.lists(conditions, max_size=3)
    clauses = st.fixed_dictionaries(
        {"must": several},
        optional={
            "should": several,
            "must_not": several,
            "filter": several,
            "min_should": of(
                conditions=st.lists(conditions, min_size=1, max_size=3), min_count=st.integers(1, 3)
            ),
        },
    )
    return st.one_of(clauses, of(bool=clauses))


FILTERS = st.recursive(LEAVES, groups, max_leaves=8)


def collection(payloads: Sequence[Json]) -> Callable[[models.Filter | None], set[int]]:
    """Store payloads; the answer says which of them, by number, a filter finds."""
    client = QdrantClient(":memory:")
    client.create_collection("c", models.VectorParams(size=1, distance=models.Distance.DOT))
    points = [
        models.PointStruct(id=i, vector=[1.0], payload={"object_id": str(i), "payload": payload})
        for i, payload in enumerate(payloads)
    ]
    client.upsert("c", points)

    def find(where: models.Filter | None) -> set[int]:
        records, _ = client.scroll("c", scroll_filter=where, limit=len(points) + 1)
        return {int(record.id) for record in records}

    return find


def found_by(where: models.Filter | None, payloads: Sequence[Json]) -> set[int]:
    return collection(payloads)(where)


@settings(deadline=None, max_examples=50)
@given(raws=st.lists(FILTERS, min_size=1, max_size=6), payloads=st.lists(PAYLOADS, min_size=1, max_size=12))
def test_a_filter_of_any_form_finds_what_a_naive_reading_finds(raws: list[Json], payloads: list[Json]):
    find = collection(payloads)
    for raw in raws:
        expected = {i for i, payload in enumerate(payloads) if holds(raw, payload)}
        assert find(parse_filter(raw, point_id)) == expected, raw
        assert parse_filter({"query": raw}, point_id) == parse_filter(raw, point_id)


@pytest.mark.parametrize("leaf", range(9))
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_every_kind_of_condition_is_met_by_a_payload_it_describes(leaf: int, data: st.DataObject):
    """The property above would also pass on filters that find nothing; here each form must find something."""
    value = data.draw(st.sampled_from([1, True, "red"]))
    raw = [
        {"key": "a", "match": {"value": value}},
        {"term": {"field": "a", "value": value}},
        {"terms": {"field": "a", "values": [value, 7]}},
        {"any": {"field": "tags", "values": [value]}},
        {"all": {"field": "tags", "values": [value, "blue"]}},
        {"exists": {"field": "a"}},
        {"must": [{"key": "o.my key", "match": {"any": ["x", "y"]}}]},
        {"nested": {"key": "items", "filter": {"must": [{"key": "p", "match": {"value": value}}]}}},
        {"min_should": {"conditions": [{"key": "a", "match": {"value": value}}], "min_count": 1}},
    ][leaf]
    payload = {"a": value, "tags": ["blue", value], "o": {"my key": "x"}, "items": [{"p": value}]}
    assert found_by(parse_filter(raw, point_id), [payload, {}]) == {0}


def test_no_filter_is_no_filter():
    assert parse_filter(None, point_id) is None
    assert parse_filter({}, point_id) is None
    assert parse_filter({"query": {}}, point_id) is None


def test_numbers_are_one_kind_in_embedding_studio_and_two_in_qdrant():
    payloads = [{"a": 5}, {"a": 5.0}, {"a": "5"}, {"a": True}]
    assert found_by(parse_filter({"term": {"field": "a", "value": 5}}, point_id), payloads) == {0, 1}
    assert found_by(parse_filter({"key": "a", "match": {"value": 5}}, point_id), payloads) == {0}
    huge = 2**62 + 1
    where = parse_filter({"term": {"field": "a", "value": huge}}, point_id)
    assert found_by(where, [{"a": huge}, {"a": huge + 1}]) == {0}


@pytest.mark.parametrize(
    ("condition", "texts"),
    [
        ({"match": {"field": "t", "value": "RED shoe"}}, {"red shoe", "Shoe, red", "a red old shoe"}),
        ({"match_phrase": {"field": "t", "value": "Red shoe"}}, {"red shoe"}),
        ({"wildcard": {"field": "t", "value": "red*"}}, {"red shoe", "redshoe"}),
        ({"wildcard": {"field": "t", "value": "red shoe"}}, {"red shoe"}),
        ({"wildcard": {"field": "t", "value": "*"}}, {"red shoe", "Shoe, red", "a red old shoe", "redshoe"}),
        ({"key": "t", "match": {"text": "shoe red"}}, {"red shoe", "Shoe, red", "a red old shoe"}),
        ({"key": "t", "match": {"text_any": "blue red"}}, {"red shoe", "Shoe, red", "a red old shoe"}),
        ({"key": "t", "match": {"phrase": "shoe red"}}, {"Shoe, red"}),
        ({"key": "t", "match": {"prefix": "a red"}}, {"a red old shoe"}),
        ({"key": "t", "match": {"except": ["redshoe", "red shoe"]}}, {"Shoe, red", "a red old shoe"}),
    ],
)
def test_texts_are_matched_by_words_by_phrase_or_by_their_beginning(condition: Json, texts: set[str]):
    every = ["red shoe", "Shoe, red", "a red old shoe", "redshoe"]
    found = found_by(parse_filter(condition, point_id), [{"t": text} for text in every] + [{"t": None}, {}])
    assert {every[i] for i in found} == texts


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("category", "payload.category"),
        ("size.width", "payload.size.width"),
        ("items[].price", "payload.items[].price"),
        ("grid[0][12].x-y_z", "payload.grid[0][12].x-y_z"),
        ("my key", 'payload."my key"'),
        ("a.my key[]", 'payload.a."my key"[]'),
        ('"a.b"', 'payload."a.b"'),
        ('"a.b"[2].c', 'payload."a.b"[2].c'),
        ("preis (€)", 'payload."preis (€)"'),
        ("a[b]", 'payload."a[b]"'),
        ("[0]", 'payload."[0]"'),
        ("payload.a", "payload.payload.a"),
        ("line\nbreak", 'payload."line\nbreak"'),
    ],
)
def test_a_key_lies_below_payload_and_odd_names_are_quoted(key: str, path: str):
    where = parse_filter({"must": [{"key": key, "match": {"value": "x"}}]}, point_id)
    assert where is not None
    assert where.must[0].key == path  # type: ignore[index,union-attr]


@pytest.mark.parametrize(
    "key", ["", ".", "a.", ".a", "a..b", 'a"b', "a\\b", '"a', '""', "a" * 600, None, 3, ["a"]]
)
def test_a_key_that_is_no_path_is_refused(key: Json):
    with pytest.raises(Invalid, match=r"filter\.must\[0\]\.key: expected"):
        parse_filter({"must": [{"key": key, "match": {"value": "x"}}]}, point_id)


def test_keys_inside_nested_are_relative_to_the_element():
    inner = {"key": "price", "range": {"gt": 3}}
    where = parse_filter({"must": [{"nested": {"key": "items", "filter": inner}}]}, point_id)
    assert where is not None
    nested = where.must[0].nested  # type: ignore[index,union-attr]
    assert nested.key == "payload.items"
    assert nested.filter.must[0].key == "price"


def test_has_id_takes_object_ids_and_holds_for_copies_too():
    client = QdrantClient(":memory:")
    client.create_collection("c", models.VectorParams(size=1, distance=models.Distance.DOT))
    points = [(point_id(one), {"object_id": one}) for one in ("a", "b", "c d")]
    points.append((point_id("a", "u"), {"object_id": "a_u", "original_id": "a", "user_id": "u"}))
    client.upsert("c", [models.PointStruct(id=i, vector=[1.0], payload=p) for i, p in points])

    def names(raw: Json) -> set[str]:
        records, _ = client.scroll("c", scroll_filter=parse_filter(raw, point_id))
        return {record.payload["object_id"] for record in records if record.payload}

    assert names({"has_id": ["a", "c d"]}) == {"a", "a_u", "c d"}
    assert names({"must_not": [{"has_id": ["a"]}]}) == {"b", "c d"}
    assert names({"must": [{"has_id": []}]}) == set()
    with pytest.raises(Invalid, match="nested"):
        parse_filter({"nested": {"key": "x", "filter": {"must": [{"has_id": ["a"]}]}}}, point_id)
    with pytest.raises(Invalid, match=r"has_id\[0\]: expected a text, got 5"):
        parse_filter({"has_id": [5]}, point_id)


def test_places_on_earth_are_filtered_by_box_circle_and_polygon():
    here = [
        {"at": {"lat": 52.5, "lon": 13.4}},
        {"at": {"lat": 0.5, "lon": 0.5}},
        {"at": {"lat": 48.9, "lon": 2.4}},
    ]
    ring = [{"lat": lat, "lon": lon} for lat, lon in [(0, 0), (0, 2), (2, 2), (2, 0), (0, 0)]]
    box = {"top_left": {"lat": 53, "lon": 13}, "bottom_right": {"lat": 52, "lon": 14}}
    near_paris = {"center": {"lat": 48.85, "lon": 2.35}, "radius": 10_000}
    assert found_by(parse_filter({"key": "at", "geo_bounding_box": box}, point_id), here) == {0}
    assert found_by(parse_filter({"key": "at", "geo_radius": near_paris}, point_id), here) == {2}
    square = {"exterior": {"points": ring}}
    assert found_by(parse_filter({"key": "at", "geo_polygon": square}, point_id), here) == {1}


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("red", "filter.must[0]: expected an object, got 'red'"),
        ({}, "expected a condition"),
        ({"fuzzy": {"field": "a"}}, "filter.must[0]: expected a condition"),
        ({"key": "a"}, "filter.must[0]: expected one of match, range"),
        ({"key": "a", "match": {"value": 1}, "range": {"gt": 1}}, "got match, range"),
        ({"key": "a", "match": {"value": 1}, "boost": 2}, "got 'boost'"),
        ({"key": "a", "match": {"value": 1.5}}, "must[0].match.value: expected a text, a whole number"),
        ({"key": "a", "match": {"value": None}}, "expected one of value, text"),
        ({"key": "a", "match": {"value": 2**63}}, "whole number of 64 bits"),
        ({"key": "a", "match": {"any": ["a", 1]}}, "only texts or only whole numbers"),
        ({"key": "a", "match": {"any": [True]}}, "match.any[0]: expected a whole number"),
        ({"key": "a", "match": {"any": "ab"}}, "match.any: expected a list, got 'ab'"),
        ({"key": "a", "match": {"any": [1] * (MAX_VALUES + 1)}}, "at most 10000 entries"),
        ({"key": "a", "match": {"text": 3}}, "match.text: expected a text, got 3"),
        ({"key": "a", "match": {"value": "\ud800"}}, "lone surrogate"),
        ({"key": "a", "match": {"substring": "x"}}, "expected only value, text"),
        ({"key": "a", "range": {}}, "range: expected at least one of gte"),
        ({"key": "a", "range": {"gt": float("nan")}}, "range.gt: expected a finite number, got nan"),
        ({"key": "a", "range": {"gt": float("inf")}}, "range.gt: expected a finite number, got inf"),
        ({"key": "a", "range": {"gt": True}}, "range.gt: expected a finite number, got true"),
        ({"key": "a", "range": {"gt": 10**400}}, "range.gt: expected a finite number, got a huge"),
        ({"key": "a", "range": {"gt": "soon"}}, "range.gt: expected dates and times as ISO 8601"),
        ({"key": "a", "range": {"gt": "2024-01-01", "lt": 5}}, "range.lt: expected dates and times"),
        ({"key": "a", "range": {"gt": "0001-01-01T00:00:00+14:00"}}, "range.gt: expected dates and times"),
        ({"key": "a", "range": {"eq": 1}}, "got 'eq'"),
        ({"key": "a", "values_count": {"gt": 1.5}}, "values_count.gt: expected a whole number >= 0"),
        ({"key": "a", "values_count": {"gt": -1}}, "values_count.gt: expected a whole number >= 0"),
        ({"key": "a", "is_empty": "yes"}, "is_empty: expected true or false"),
        ({"key": "a", "geo_radius": {"center": {"lat": 1, "lon": 2}, "radius": float("nan")}}, "radius"),
        ({"key": "a", "geo_radius": {"center": {"lat": 91, "lon": 2}, "radius": 1}}, "lat in -90..90"),
        ({"key": "a", "geo_radius": {"center": {"lat": "1", "lon": 2}, "radius": 1}}, "radius.center.lat"),
        ({"key": "a", "geo_radius": {"center": [1, 2], "radius": 1}}, "geo_radius.center"),
        ({"key": "a", "geo_polygon": {"exterior": {"points": []}}}, "at least 4 points"),
        ({"is_empty": "a"}, "is_empty: expected an object"),
        ({"is_null": {"key": "a"}, "key": "b"}, "is_null"),
        ({"has_id": "a"}, "has_id: expected a list"),
        ({"has_vector": "parts"}, "expected a condition"),
        ({"nested": {"key": "a"}}, "nested.filter: expected an object, got null"),
        ({"min_should": {"conditions": [{"field": "a"}], "min_count": 0}}, "min_count: expected a whole"),
        ({"min_should": {"conditions": [], "min_count": 1}}, "conditions: expected at least one condition"),
        ({"should": "a"}, "should: expected a list"),
        ({"must": [], "minimum": 1}, "got 'minimum'"),
        ({"term": {"field": "a"}}, "term.value: expected a text, a number or a boolean, got null"),
        ({"term": {"field": "a", "value": {}}}, "got an object"),
        ({"term": {"category": "red", "color": "blue"}}, "expected only field, force_not_payload, value"),
        ({"term": {"field": "a", "value": 1, "force_not_payload": True}}, "only payload fields"),
        ({"terms": {"field": "a", "values": []}}, "values: expected at least one value"),
        ({"all": {"field": "a", "values": [1, None]}}, "values[1]: expected a text, a number or a boolean"),
        ({"field": "a", "range": {"gte": None}}, "range: expected at least one of gte, gt, lte, lt, eq"),
        ({"wildcard": {"field": "a", "value": "a*b"}}, "Qdrant has no other pattern"),
        ({"wildcard": {"field": "a", "value": "*b"}}, "Qdrant has no other pattern"),
        ({"wildcard": {"field": "a", "value": "*b*"}}, "Qdrant has no other pattern"),
        ({"wildcard": {"field": "a", "value": "b?"}}, "Qdrant has no other pattern"),
        ({"query": {"term": {"field": "a", "value": 1}}}, "expected a condition"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_the_place_and_what_was_expected(condition: Json, message: str):
    with pytest.raises(Invalid) as refusal:
        parse_filter({"must": [condition]}, point_id)
    assert message in str(refusal.value)
    assert str(refusal.value).startswith("filter.must[0]")
    str(refusal.value).encode()


@pytest.mark.parametrize("raw", [[], "a", 3, True, {"query": None}, {"query": [1]}])
def test_a_filter_that_is_no_object_is_refused(raw: Json):
    with pytest.raises(Invalid, match="expected an object"):
        parse_filter(raw, point_id)


def test_filters_nest_only_so_deep():
    def deep(levels: int) -> Json:
        raw: Json = {"term": {"field": "a", "value": 1}}
        for _ in range(levels):
            raw = {"must": [raw]}
        return raw

    assert found_by(parse_filter(deep(MAX_DEPTH), point_id), [{"a": 1}, {}]) == {0}
    for levels in (MAX_DEPTH + 1, 100_000):
        with pytest.raises(Invalid, match="nested at most 16 deep"):
            parse_filter(deep(levels), point_id)


def test_a_filter_holds_only_so_many_conditions_values_of_terms_included():
    one = {"term": {"field": "a", "value": 1}}
    parse_filter({"must": [one] * (MAX_CONDITIONS - 1)}, point_id)
    parse_filter({"terms": {"field": "a", "values": [str(i) for i in range(MAX_CONDITIONS * 2)]}}, point_id)
    for raw in (
        {"must": [one] * MAX_CONDITIONS},
        {"terms": {"field": "a", "values": list(range(MAX_CONDITIONS))}},
        {"must": [{"all": {"field": "a", "values": [str(i) for i in range(MAX_CONDITIONS)]}}]},
    ):
        with pytest.raises(Invalid, match="at most 500 conditions"):
            parse_filter(raw, point_id)


NAMES = st.sampled_from(
    ["must", "should", "must_not", "filter", "min_should", "conditions", "min_count", "key", "match", "value",
     "any", "except", "text", "range", "gt", "lt", "geo_radius", "center", "radius", "lat", "lon", "is_empty",
     "is_null", "has_id", "nested", "term", "terms", "field", "values", "wildcard", "exists", "bool", "query",
     "all", "values_count", "force_not_payload", "\ud800"]
)  # fmt: skip
JUNK = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3),
        st.sampled_from(["a", "", "*", "\ud800", "a..b", 10**400]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=12,
)  # fmt: skip


@settings(deadline=None, max_examples=50)
@given(raw=st.dictionaries(NAMES, JUNK, max_size=3), wrong=st.data())
def test_junk_is_refused_or_understood_but_never_crashes(raw: Json, wrong: st.DataObject):
    good = wrong.draw(FILTERS)
    broken = json.loads(json.dumps(good))
    place = broken
    while isinstance(place, dict | list) and place:  # put the junk somewhere inside a good filter
        steps = list(place) if isinstance(place, dict) else list(range(len(place)))
        step = wrong.draw(st.sampled_from(steps))
        if not isinstance(place[step], dict | list) or wrong.draw(st.booleans()):
            place[step] = wrong.draw(JUNK)
            break
        place = place[step]
    for candidate in (raw, broken):
        try:
            where = parse_filter(candidate, point_id)
        except Invalid as refusal:
            str(refusal).encode()
        else:
            found_by(where, [{"a": 1}, {"tags": ["x"], "items": [{"p": 1}]}])

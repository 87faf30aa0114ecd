"""Payload filters: Qdrant's own JSON and Embedding Studio's forms, checked, as one `models.Filter`.

Both may be mixed at any level, for their shapes differ. Payloads lie under the point's key ``payload``, so
every key of the caller is put below it; inside ``nested`` keys are relative, as in Qdrant.

Embedding Studio's forms say: ``{"term": {"field", "value"}}``, ``{"terms" | "any" | "all": {"field",
"values"}}``, ``{"match" | "match_phrase" | "wildcard": {"field", "value"}}``, ``{"exists": {"field"}}``,
``{"field", "range": {"gte", "lte", "gt", "lt", "eq"}}`` and ``must, should, filter, must_not`` with or
without ``bool`` around them; the whole may stand in ``{"query": ...}``. Read too: Elasticsearch's short form
``{"term": {"color": "red"}}`` and the older bare ``{"field", "value"}`` (words for a text). Their meaning:

- ``term``, ``terms``, ``any``, ``all`` compare numbers by value (5 is 5.0), texts and booleans exactly; on a
  list one equal element is enough, except that ``all`` wants every value.
- ``match`` wants all words of the text, ``match_phrase`` wants them side by side; both by whole words,
  whatever their case.
- ``exists`` wants the key to be there, even with null. Qdrant cannot tell ``[]`` from a missing key.
- ``wildcard`` matches the whole text, with its case: ``text*``, or no star at all. Qdrant 1.19 has no other
  pattern, so those are refused; so is its own ``substring``, which only 1.20 has.
- ``must_not`` wants none of its conditions (the published server only refuses all of them together).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from typing import Any, TypeVar

from pydantic import ValidationError
from qdrant_client import models

from improvement.errors import Invalid
from improvement.filter_values import (
    MAX_DEPTH,
    Place,
    boolean,
    bounds_of,
    key_path,
    listed,
    mapping,
    moment_of,
    number,
    one_of,
    only,
    said,
    scalar,
    text,
    whole,
)

#: Up to here a float holds every whole number.
_EXACT = 2**53

_CLAUSES = ("must", "should", "must_not", "min_should", "filter")


_Reader = Callable[[Any, Place], models.Condition]
_Shape = TypeVar("_Shape", models.GeoBoundingBox, models.GeoRadius, models.GeoPolygon)


def parse_filter(raw: Any, point_id: Callable[[str], str]) -> models.Filter | None:
    """Turn a caller's filter into Qdrant's; None and ``{}`` mean no filter.

    Args:
        raw: parsed JSON, trusted in nothing.
        point_id: the point id of the original with this object id. ``has_id`` takes object ids, and holds
            for the original and for every copy of it.

    Raises:
        Invalid: says where, and what was expected.

    >>> found = parse_filter({"must": [{"key": "my color", "match": {"value": "red"}}]}, str)
    >>> found.must[0].key
    'payload."my color"'
    >>> parse_filter({"query": {"term": {"field": "color", "value": []}}}, str)
    Traceback (most recent call last):
    improvement.errors.Invalid: filter.query.term.value: expected a text, a number or a boolean, got a list
    """
    if raw is None:
        return None
    place = Place("filter", "payload.", point_id, 0, count())
    wanted = mapping(raw, place)
    if wanted.keys() == {"query"}:
        place = place.at("query")
        wanted = mapping(wanted["query"], place)
    return _filter(wanted, place) if wanted else None


def _filter(raw: Any, place: Place) -> models.Filter:
    condition = _condition(raw, place)
    return condition if isinstance(condition, models.Filter) else models.Filter(must=[condition])


def _condition(raw: Any, place: Place) -> models.Condition:
    place.one_more()
    if place.depth > MAX_DEPTH:
        raise Invalid(f"{place.path}: expected filters nested at most {MAX_DEPTH} deep, got deeper")
    given = mapping(raw, place)
    place = replace(place, depth=place.depth + 1)
    if "key" in given:
        return _field(given, place)
    if "field" in given:
        return _range_or_exists(given, place)
    form = next((name for name in _FORMS if name in given), None)
    if form is not None:
        only(given, (form,), place)
        return _FORMS[form](given[form], place.at(form))
    if given.keys().isdisjoint(_CLAUSES):
        known = ", ".join(("key", "field", *_FORMS, *_CLAUSES))
        raise Invalid(f"{place.path}: expected a condition ({known}), got {said(next(iter(given), given))}")
    return _clauses(given, place)


def _clauses(raw: Any, place: Place) -> models.Filter:
    given = only(mapping(raw, place), _CLAUSES, place)
    at_least = given.get("min_should")
    return models.Filter(
        must=[*_conditions(given, "must", place), *_conditions(given, "filter", place)] or None,
        should=_conditions(given, "should", place) or None,
        must_not=_conditions(given, "must_not", place) or None,
        min_should=None if at_least is None else _min_should(at_least, place.at("min_should")),
    )


def _conditions(given: Mapping[str, Any], name: str, place: Place) -> list[models.Condition]:
    """Read a clause: a list, one condition without a list, or nothing."""
    clause, place = given.get(name), place.at(name)
    if clause is None:
        return []
    if isinstance(clause, Mapping):
        return [_condition(clause, place)]
    return [_condition(one, place.at(i)) for i, one in enumerate(listed(clause, place))]


def _min_should(raw: Any, place: Place) -> models.MinShould:
    given = only(mapping(raw, place), ("conditions", "min_count"), place)
    conditions = _conditions(given, "conditions", place)
    if not conditions:
        raise place.at("conditions").invalid("at least one condition", given.get("conditions"))
    return models.MinShould(
        conditions=conditions, min_count=whole(given.get("min_count"), place.at("min_count"), least=1)
    )


# Qdrant's own conditions


def _field(given: Mapping[str, Any], place: Place) -> models.FieldCondition:
    name = one_of({k: v for k, v in given.items() if k != "key"}, tuple(_FIELDS), place)
    read = _FIELDS[name](given[name], place.at(name))
    return models.FieldCondition(key=key_path(given["key"], place.at("key")), **{name: read})


def _match(raw: Any, place: Place) -> Any:
    given = mapping(raw, place)
    name = one_of(given, tuple(_MATCHES), place)
    value, place = given[name], place.at(name)
    if name == "value":
        if isinstance(value, float):
            raise place.invalid("a text, a whole number or a boolean (a fraction needs range)", value)
        value = scalar(value, place)
    elif name in {"any", "except"}:
        texts = [isinstance(one, str) for one in listed(value, place)]
        if len(set(texts)) > 1:
            raise place.invalid("only texts or only whole numbers", value)
        read = text if any(texts) else whole
        value = [read(one, place.at(i)) for i, one in enumerate(value)]
    else:
        value = text(value, place)
    return _MATCHES[name](**{name: value})


def _range(raw: Any, place: Place) -> models.Range | models.DatetimeRange:
    given = bounds_of(raw, ("gte", "gt", "lte", "lt"), place)
    if any(isinstance(bound, str) for bound in given.values()):
        moments = {name: moment_of(bound, place.at(name)) for name, bound in given.items()}
        return models.DatetimeRange(**moments)
    return models.Range(**{name: number(bound, place.at(name)) for name, bound in given.items()})


def _values_count(raw: Any, place: Place) -> models.ValuesCount:
    given = bounds_of(raw, ("gte", "gt", "lte", "lt"), place)
    return models.ValuesCount(
        **{name: whole(bound, place.at(name), least=0) for name, bound in given.items()}
    )


def _geo_bounding_box(raw: Any, place: Place) -> models.GeoBoundingBox:
    box = _shape(models.GeoBoundingBox, raw, place)
    _on_earth([box.top_left, box.bottom_right], place)
    return box


def _geo_radius(raw: Any, place: Place) -> models.GeoRadius:
    circle = _shape(models.GeoRadius, raw, place)
    _on_earth([circle.center], place)
    if not 0 <= circle.radius < math.inf:
        raise place.at("radius").invalid("a finite number of meters >= 0", circle.radius)
    return circle


def _geo_polygon(raw: Any, place: Place) -> models.GeoPolygon:
    polygon = _shape(models.GeoPolygon, raw, place)
    for ring in (polygon.exterior, *(polygon.interiors or [])):
        _on_earth(ring.points, place)
        if len(ring.points) < 4 or ring.points[0] != ring.points[-1]:
            raise place.invalid("rings of at least 4 points, the last equal to the first", raw)
    return polygon


def _shape(model: type[_Shape], raw: Any, place: Place) -> _Shape:
    try:
        return model.model_validate(mapping(raw, place), strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = "".join("." + said(step).strip("'") for step in first["loc"])
        raise Invalid(f"{place.path}{where}: {first['msg']}") from None


def _on_earth(points: list[models.GeoPoint], place: Place) -> None:
    for point in points:
        if not (-90 <= point.lat <= 90 and -180 <= point.lon <= 180):
            raise Invalid(
                f"{place.path}: expected lat in -90..90 and lon in -180..180, got {point.lat}, {point.lon}"
            )


def _is_empty(raw: Any, place: Place) -> models.IsEmptyCondition:
    return models.IsEmptyCondition(is_empty=_payload_field(raw, place))


def _is_null(raw: Any, place: Place) -> models.IsNullCondition:
    return models.IsNullCondition(is_null=_payload_field(raw, place))


def _payload_field(raw: Any, place: Place) -> models.PayloadField:
    given = only(mapping(raw, place), ("key",), place)
    return models.PayloadField(key=key_path(given.get("key"), place.at("key")))


def _has_id(raw: Any, place: Place) -> models.Filter:
    if place.point_id is None:
        raise Invalid(f"{place.path}: has_id is about whole objects, expected none inside nested")
    ids = [text(one, place.at(i)) for i, one in enumerate(listed(raw, place))]
    originals = models.HasIdCondition(has_id=[place.point_id(one) for one in ids])
    copies = models.FieldCondition(key="original_id", match=models.MatchAny(any=ids))
    return models.Filter(should=[originals, copies])


def _nested(raw: Any, place: Place) -> models.NestedCondition:
    given = only(mapping(raw, place), ("key", "filter"), place)
    inside = replace(place.at("filter"), prefix="", point_id=None)
    nested = models.Nested(
        key=key_path(given.get("key"), place.at("key")), filter=_filter(given.get("filter"), inside)
    )
    return models.NestedCondition(nested=nested)


# Embedding Studio's forms


def _range_or_exists(given: Mapping[str, Any], place: Place) -> models.Condition:
    if given.get("range") is None:
        if "values" in given:  # without a name around it, as the published union of models reads it
            return _terms(given, place)
        if "value" in given:
            return _words(given, place) if isinstance(given["value"], str) else _term(given, place)
        return _exists(given, place)
    key, raw = _studio(given, "range", place)
    place = place.at("range")
    bounds = bounds_of(raw, ("gte", "gt", "lte", "lt", "eq"), place)
    found: list[models.Condition] = []
    if "eq" in bounds:
        found.append(_equal(key, number(bounds.pop("eq"), place.at("eq"))))
    if bounds:
        found.append(models.FieldCondition(key=key, range=_range(bounds, place)))
    return found[0] if len(found) == 1 else models.Filter(must=found)


def _named_range(raw: Any, place: Place) -> models.Condition:
    key, limits = (None, raw) if "field" in mapping(raw, place) else next(iter(raw.items()), (None, None))
    return _range_or_exists(raw if key is None else {"field": key, "range": limits}, place)


def _exists(raw: Any, place: Place) -> models.Filter:
    key, _ = _studio(raw, None, place)
    field = models.PayloadField(key=key)
    filled = models.Filter(must_not=[models.IsEmptyCondition(is_empty=field)])
    return models.Filter(should=[filled, models.IsNullCondition(is_null=field)])


def _term(raw: Any, place: Place) -> models.FieldCondition:
    key, value = _studio(raw, "value", place)
    return _equal(key, scalar(value, place.at("value")))


def _terms(raw: Any, place: Place) -> models.Condition:
    key, values = _studio_values(raw, place)
    texts = [value for value in values if isinstance(value, str)]
    found = [_equal(key, value) for value in values if not isinstance(value, str)]
    if texts:
        found.append(models.FieldCondition(key=key, match=models.MatchAny(any=texts)))
    for _ in found:
        place.one_more()
    return models.Filter(should=list(found))


def _all(raw: Any, place: Place) -> models.Condition:
    key, values = _studio_values(raw, place)
    for _ in values:
        place.one_more()
    return models.Filter(must=[_equal(key, value) for value in values])


def _words(raw: Any, place: Place) -> models.FieldCondition:
    key, value = _studio(raw, "value", place)
    return models.FieldCondition(key=key, match=models.MatchText(text=text(value, place.at("value"))))


def _phrase(raw: Any, place: Place) -> models.FieldCondition:
    key, value = _studio(raw, "value", place)
    return models.FieldCondition(key=key, match=models.MatchPhrase(phrase=text(value, place.at("value"))))


def _wildcard(raw: Any, place: Place) -> models.FieldCondition:
    key, value = _studio(raw, "value", place)
    pattern = text(value, place.at("value"))
    start = pattern.removesuffix("*")
    if set(start) & set("*?\\"):
        raise place.at("value").invalid("'text' or 'text*' (Qdrant has no other pattern)", pattern)
    if pattern == start:
        return models.FieldCondition(key=key, match=models.MatchValue(value=pattern))
    return models.FieldCondition(key=key, match=models.MatchPrefix(prefix=start))


def _equal(key: str, value: Any) -> models.FieldCondition:
    """Compare numbers by value, which Qdrant's exact match does not, and anything else exactly."""
    if isinstance(value, float) or (type(value) is int and abs(value) <= _EXACT):
        return models.FieldCondition(key=key, range=models.Range(gte=value, lte=value))
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _studio(raw: Any, value_name: str | None, place: Place) -> tuple[str, Any]:
    """Return the key and the value of one of Embedding Studio's queries."""
    names = ("field", "force_not_payload", *([] if value_name is None else [value_name]))
    given = mapping(raw, place)
    if value_name and len(given) == 1 and "field" not in given:  # Elasticsearch's shorthand
        [(name, value)] = given.items()
        return key_path(name, place), value
    given = only(given, names, place)
    outside = given.get("force_not_payload")
    if outside is not None and outside is not False:
        raise place.at("force_not_payload").invalid("false (only payload fields can be filtered)", outside)
    return key_path(given.get("field"), place.at("field")), given.get(value_name) if value_name else None


def _studio_values(raw: Any, place: Place) -> tuple[str, list[Any]]:
    key, values = _studio(raw, "values", place)
    place = place.at("values")
    if not listed(values, place):
        raise place.invalid("at least one value", values)
    return key, [scalar(value, place.at(i)) for i, value in enumerate(values)]


_FIELDS: dict[str, Callable[[Any, Place], Any]] = {
    "match": _match,
    "range": _range,
    "values_count": _values_count,
    "geo_bounding_box": _geo_bounding_box,
    "geo_radius": _geo_radius,
    "geo_polygon": _geo_polygon,
    "is_empty": boolean,
    "is_null": boolean,
}

_MATCHES: dict[str, Callable[..., Any]] = {
    "value": models.MatchValue,
    "text": models.MatchText,
    "text_any": models.MatchTextAny,
    "phrase": models.MatchPhrase,
    "prefix": models.MatchPrefix,
    "any": models.MatchAny,
    "except": models.MatchExcept,
}

#: Forms of one name around one value.
_FORMS: dict[str, _Reader] = {
    "is_empty": _is_empty,
    "is_null": _is_null,
    "has_id": _has_id,
    "nested": _nested,
    "bool": _clauses,
    "term": _term,
    "terms": _terms,
    "any": _terms,
    "all": _all,
    "match": _words,
    "match_phrase": _phrase,
    "wildcard": _wildcard,
    "range": _named_range,
    "exists": _exists,
}

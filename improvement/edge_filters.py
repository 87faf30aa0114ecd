"""Qdrant's filters, as `qdrant_client.models` spells them, translated for the in-process engine."""

import importlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from qdrant_client import models

from improvement.errors import Invalid

#: The module `qdrant_edge`, or None: it is an optional extra, and EdgeClient says so when it is made.
engine: Any
try:
    engine = importlib.import_module("qdrant_edge")
except ModuleNotFoundError:
    engine = None


def engine_filter(where: models.Filter | None) -> Any:
    """Translate a filter; None stays None, ids are passed on unchecked because there can be hundreds.

    Raises:
        Invalid: a condition the engine does not have, or a ``min_should`` below 1.
        Exception: whatever the engine raises for a bad id, key, date or value.
    """
    return None if where is None else _filter(where)


def _filter(where: models.Filter) -> Any:
    return engine.Filter(
        must=_conditions(where.must),
        should=_conditions(where.should),
        must_not=_conditions(where.must_not),
        min_should=None if where.min_should is None else _min_should(where.min_should),
    )


def _min_should(wanted: models.MinShould) -> Any:
    if wanted.min_count < 1:
        raise Invalid(f"filter: min_should.min_count: expected 1 or more, got {wanted.min_count}")
    if wanted.min_count > len(wanted.conditions):
        # Never met. The engine can think otherwise where an index already answered the same condition.
        return engine.MinShould([engine.HasIdCondition(set())], 1)
    return engine.MinShould(_conditions(wanted.conditions), wanted.min_count)


def _conditions(clause: models.Condition | Sequence[models.Condition] | None) -> list[Any] | None:
    if clause is None:
        return None
    return [_condition(c) for c in (clause if isinstance(clause, list) else [clause])]


def _condition(condition: Any) -> Any:
    translate = _CONDITIONS.get(type(condition))
    if translate is None:
        raise Invalid(f"filter: {type(condition).__name__} is not supported on Qdrant Edge")
    return translate(condition)


# Kept, because the binding needs 1 ms to read 500 ids, and a user's searches hide the same ones each time.
@lru_cache(maxsize=64)
def _has_id(ids: frozenset[Any]) -> Any:
    return engine.HasIdCondition(set(ids))


def _field(condition: models.FieldCondition) -> Any:
    box, circle, polygon = condition.geo_bounding_box, condition.geo_radius, condition.geo_polygon
    count = condition.values_count
    return engine.FieldCondition(
        condition.key,
        match=condition.match and _match(condition.match),
        range=condition.range and _range(condition.range),
        geo_bounding_box=box and engine.GeoBoundingBox(_point(box.top_left), _point(box.bottom_right)),
        geo_radius=circle and engine.GeoRadius(_point(circle.center), circle.radius),
        geo_polygon=polygon
        and engine.GeoPolygon(_line(polygon.exterior), [_line(line) for line in polygon.interiors or []]),
        values_count=count and engine.ValuesCount(lt=count.lt, gt=count.gt, lte=count.lte, gte=count.gte),
        is_empty=condition.is_empty,
        is_null=condition.is_null,
    )


def _match(match: Any) -> Any:
    name, field = _MATCHES[type(match)]
    value = getattr(match, field)
    # The binding takes a Python bool for the int it also is and finds nothing; numpy's it takes as bool.
    return getattr(engine, name)(np.bool_(value) if isinstance(value, bool) else value)


def _range(limits: models.Range | models.DatetimeRange) -> Any:
    if isinstance(limits, models.Range):
        return engine.RangeFloat(gte=limits.gte, gt=limits.gt, lte=limits.lte, lt=limits.lt)
    names = ("gte", "gt", "lte", "lt")
    moments = {name: getattr(limits, name) for name in names}
    return engine.RangeDateTime(**{name: m.isoformat() for name, m in moments.items() if m is not None})


def _point(point: models.GeoPoint) -> Any:
    return engine.GeoPoint(point.lon, point.lat)


def _line(line: models.GeoLineString) -> list[Any]:
    return [_point(point) for point in line.points]


_CONDITIONS: dict[type, Callable[[Any], Any]] = {
    models.FieldCondition: _field,
    models.HasIdCondition: lambda c: _has_id(frozenset(c.has_id)),
    models.IsEmptyCondition: lambda c: engine.IsEmptyCondition(c.is_empty.key),
    models.IsNullCondition: lambda c: engine.IsNullCondition(c.is_null.key),
    models.HasVectorCondition: lambda c: engine.HasVectorCondition(c.has_vector),
    models.NestedCondition: lambda c: engine.NestedCondition(c.nested.key, _filter(c.nested.filter)),
    models.Filter: _filter,
}

#: Condition -> the engine's class of the same meaning, and the field that holds its one argument.
_MATCHES: dict[type, tuple[str, str]] = {
    models.MatchValue: ("MatchValue", "value"),
    models.MatchAny: ("MatchAny", "any"),
    models.MatchExcept: ("MatchExcept", "except_"),
    models.MatchText: ("MatchText", "text"),
    models.MatchTextAny: ("MatchTextAny", "text_any"),
    models.MatchPhrase: ("MatchPhrase", "phrase"),
    models.MatchPrefix: ("MatchPrefix", "prefix"),
    models.MatchSubstring: ("MatchSubstring", "substring"),
}

"""Places in a stranger's filter, and the values read there, each checked; an error says where it stands."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from clickstream.records import MAX_ID_LENGTH, MAX_INT, storable_text
from improvement.errors import Invalid

#: Filters inside filters.
MAX_DEPTH = 16
#: Conditions and groups of conditions in one filter.
MAX_CONDITIONS = 500
#: Values in one list of a condition.
MAX_VALUES = 10_000

#: One step of a path: a quoted or a plain name, then any number of [] and [3].
_STEP = re.compile(r'(?:"([^"\\]+)"|([^."\\]+?))((?:\[[0-9]{0,9}\])*)(?:\.(?!\Z)|\Z)')
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Place:
    """Where in the filter we are: what errors call it, what keys are relative to, what is still allowed."""

    path: str
    prefix: str
    point_id: Callable[[str], str] | None
    depth: int
    seen: Iterator[int]

    def at(self, step: str | int) -> "Place":
        name = f"[{step}]" if isinstance(step, int) else f".{step}"
        return replace(self, path=self.path + name)

    def invalid(self, expected: str, got: Any) -> Invalid:
        return Invalid(f"{self.path}: expected {expected}, got {said(got)}")

    def one_more(self) -> None:
        if next(self.seen) >= MAX_CONDITIONS:
            raise Invalid(f"{self.path}: expected at most {MAX_CONDITIONS} conditions in all, got more")


def key_path(raw: Any, place: Place) -> str:
    """Return a Qdrant JSON path: dots, [] and [3] keep their meaning, odd names are quoted."""
    key = text(raw, place)
    steps, end = [], 0
    while step := _STEP.match(key, end):
        quoted, plain, indices = step.groups()
        name = quoted or plain
        steps.append((name if _PLAIN.fullmatch(name) else f'"{name}"') + indices)
        end = step.end()
    if end < len(key) or not key or len(key) > MAX_ID_LENGTH:
        raise place.invalid('a payload path such as color, size.width, items[].price or "odd.name"', raw)
    return place.prefix + ".".join(steps)


def mapping(raw: Any, place: Place) -> Mapping[str, Any]:
    """Return a JSON object."""
    if not isinstance(raw, Mapping):
        raise place.invalid("an object", raw)
    return raw


def listed(raw: Any, place: Place) -> list[Any]:
    """Return a list of at most `MAX_VALUES` entries."""
    if not isinstance(raw, list):
        raise place.invalid("a list", raw)
    if len(raw) > MAX_VALUES:
        raise Invalid(f"{place.path}: expected at most {MAX_VALUES} entries, got {len(raw)}")
    return raw


def only(given: Mapping[str, Any], names: tuple[str, ...], place: Place) -> Mapping[str, Any]:
    """Return the object when it has no other keys than these."""
    unknown = next((name for name in given if name not in names), None)
    if unknown is not None:
        raise Invalid(f"{place.path}: expected only {', '.join(names)}, got {said(unknown)}")
    return given


def one_of(given: Mapping[str, Any], names: tuple[str, ...], place: Place) -> str:
    """Return which one of these keys the object has."""
    only(given, names, place)
    present = [name for name in given if given[name] is not None]
    if len(present) != 1:
        raise Invalid(f"{place.path}: expected one of {', '.join(names)}, got {', '.join(present) or 'none'}")
    return present[0]


def bounds_of(raw: Any, names: tuple[str, ...], place: Place) -> dict[str, Any]:
    """Return the bounds that are given; at least one must be."""
    given = only(mapping(raw, place), names, place)
    bounds = {name: bound for name, bound in given.items() if bound is not None}
    if not bounds:
        raise Invalid(f"{place.path}: expected at least one of {', '.join(names)}, got none")
    return bounds


def text(raw: Any, place: Place) -> str:
    """Return a text that the stores can hold."""
    if not isinstance(raw, str):
        raise place.invalid("a text", raw)
    try:
        return storable_text(raw)
    except ValueError as error:
        raise Invalid(f"{place.path}: {error}") from None


def whole(raw: Any, place: Place, least: int = -MAX_INT - 1) -> int:
    """Return a whole number of 64 bits, not below ``least``."""
    if not isinstance(raw, int) or isinstance(raw, bool) or not least <= raw <= MAX_INT:
        smallest = "of 64 bits" if least < 0 else f">= {least}"
        raise place.invalid(f"a whole number {smallest}", raw)
    return raw


def number(raw: Any, place: Place) -> float:
    """Return a finite number as a float."""
    fits = isinstance(raw, int) and not isinstance(raw, bool) and abs(raw) <= MAX_INT
    if not fits and not (isinstance(raw, float) and math.isfinite(raw)):
        raise place.invalid("a finite number", raw)
    return float(raw)


def scalar(raw: Any, place: Place) -> str | int | float | bool:
    """Return a text, a number or a boolean."""
    if isinstance(raw, str):
        return text(raw, place)
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, int):
        return whole(raw, place)
    if isinstance(raw, float):
        return number(raw, place)
    raise place.invalid("a text, a number or a boolean", raw)


def boolean(raw: Any, place: Place) -> bool:
    """Return true or false."""
    if not isinstance(raw, bool):
        raise place.invalid("true or false", raw)
    return raw


def moment_of(raw: Any, place: Place) -> datetime:
    """Return an ISO 8601 text as a moment in UTC."""
    expected = "dates and times as ISO 8601 texts (without an offset: UTC), or only numbers"
    if not isinstance(raw, str):
        raise place.invalid(expected, raw)
    try:
        moment = datetime.fromisoformat(raw)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise place.invalid(expected, raw) from None


def said(value: Any) -> str:
    """Name a stranger's value so that any log and any JSON can hold it."""
    if isinstance(value, str):
        return ascii(value if len(value) <= 40 else value[:40] + "...")
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    if isinstance(value, int):
        return str(value) if abs(value) <= MAX_INT else "a huge whole number"
    if isinstance(value, float):
        return repr(value)
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, Mapping) else "a value"

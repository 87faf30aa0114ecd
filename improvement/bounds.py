"""Bounds: every settings class of a domain checks its numbers the same way."""

from collections.abc import Mapping
from typing import Any

Bounds = Mapping[str, tuple[float, float]]


def check_bounds(settings: Any, bounds: Bounds, *, optional: frozenset[str] = frozenset()) -> None:
    """Check that fields are numbers in their ranges; whole ones where the range's ends are whole numbers.

    Args:
        bounds: field -> least and most, both allowed; two ``int`` ends ask for an ``int``.
        optional: fields that may be None.

    Raises:
        ValueError: naming the field and what was expected.
    """
    for name, (least, most) in bounds.items():
        value = getattr(settings, name)
        if value is None and name in optional:
            continue
        whole = isinstance(least, int) and isinstance(most, int)
        kinds = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
            what = "a whole number" if whole else "a number"
            raise ValueError(f"{name}: expected {what} from {least:.6g} to {most:.6g}, got {value!r}")


def check_flags(settings: Any, *names: str) -> None:
    """Check that fields are True or False; raises ValueError naming the field."""
    for name in names:
        if not isinstance(getattr(settings, name), bool):
            raise ValueError(f"{name}: expected True or False, got {getattr(settings, name)!r}")

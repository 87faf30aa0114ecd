"""Adjusters, evidence weights and profiles from words: what `python -m improvement replay` is told."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass, replace
from operator import attrgetter
from types import NoneType
from typing import Any, NamedTuple, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from improvement.domain import SearchIndexInfo, VectorsAdjuster
from improvement.errors import Invalid
from improvement.evidence import EvidenceWeights
from improvement.profiles.settings import ProfileSettings

#: Where the built-in adjusters are; none is imported before it is asked for.
ADJUSTERS = {
    "geodesic": "improvement.adjusters.geodesic:GeodesicAdjuster",
    "torch": "improvement.adjusters.torch_based:TorchBasedAdjuster",
}
#: What the index settles for the adjuster.
INFO = "search_index_info"
EVIDENCE, PROFILE = "evidence.", "profile."
#: ``search_weight`` of a replay with profiles whose settings have none: without any there is nothing to see.
SEARCH_WEIGHT = 0.25


class Settings(NamedTuple):
    """What was set, as text, without the prefixes."""

    adjuster: Mapping[str, str]
    evidence: Mapping[str, str]
    profile: Mapping[str, str]


def parse_settings(pairs: Sequence[str]) -> Settings:
    """Return what ``key=value``, ``evidence.key=value`` and ``profile.key=value`` set.

    Raises:
        Invalid: one has no "=", or a key is set twice.

    >>> parse_settings(["adjustment_rate=0.1", "evidence.skipped=0"])
    Settings(adjuster={'adjustment_rate': '0.1'}, evidence={'skipped': '0'}, profile={})
    """
    found: dict[str, dict[str, str]] = {"": {}, EVIDENCE: {}, PROFILE: {}}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise Invalid(f"expected key=value, got {pair!r}")
        prefix = next((prefix for prefix in (EVIDENCE, PROFILE) if key.startswith(prefix)), "")
        settings, name = found[prefix], key.removeprefix(prefix)
        if name in settings:
            raise Invalid(f"{key}: set twice")
        settings[name] = value
    return Settings(*found.values())


def make_adjuster(name: str, info: SearchIndexInfo, given: Mapping[str, str]) -> VectorsAdjuster:
    """Make an adjuster for an index.

    Args:
        name: one of `ADJUSTERS`, or ``module:attribute``, a class (or function) to call, or an adjuster.
        given: its settings, as text.

    Raises:
        Invalid: there is no such adjuster, or a setting is unknown or has no such value.
    """
    path = ADJUSTERS.get(name, name)
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise Invalid(f"expected {', '.join(ADJUSTERS)}, none or module:attribute, got {name!r}")
    try:
        found = attrgetter(attribute)(importlib.import_module(module_name))
    except Exception as error:  # foreign code: whatever it raises, the caller needs its name
        raise Invalid(f"{name!r} cannot be imported: {error!r}") from error
    if isinstance(found, VectorsAdjuster) and not isinstance(found, type):
        return change_adjuster(found, info, given)
    if not callable(found):
        raise Invalid(f"{name!r}: expected an adjuster (adjust, max_drift) or its class, got {found!r}")
    try:
        settings = typed_settings(found, given, "")
        if INFO in inspect.signature(found).parameters:
            settings[INFO] = info
        made = found(**settings)
    except Invalid:
        raise
    except (TypeError, ValueError) as error:  # its own checks, or nothing that one can look into
        raise Invalid(f"{name!r}: {error}") from error
    if not isinstance(made, VectorsAdjuster):
        raise Invalid(f"{name!r}: expected an adjuster (adjust, max_drift), got {made!r}")
    return made


def change_adjuster(
    adjuster: VectorsAdjuster, info: SearchIndexInfo, given: Mapping[str, str]
) -> VectorsAdjuster:
    """Return an adjuster with some settings changed, for an index.

    Raises:
        Invalid: it is not a dataclass, or a setting is unknown or has no such value.
    """
    if not is_dataclass(adjuster):
        if given:
            raise Invalid(f"{type(adjuster).__name__} is no dataclass: its settings cannot be changed")
        return adjuster
    changes = typed_settings(type(adjuster), given, "")
    if INFO in inspect.signature(type(adjuster)).parameters:
        changes[INFO] = info
    try:
        changed: VectorsAdjuster = replace(adjuster, **changes)
    except (TypeError, ValueError) as error:
        raise Invalid(str(error)) from error
    return changed


def change_evidence(evidence: EvidenceWeights, given: Mapping[str, str]) -> EvidenceWeights:
    """Return evidence weights with some fields changed; raises Invalid.

    >>> change_evidence(EvidenceWeights(), {"skipped_items": "all", "saturation": "none"}).saturation is None
    True
    """
    try:
        return replace(evidence, **typed_settings(EvidenceWeights, given, EVIDENCE))
    except ValueError as error:
        raise Invalid(str(error)) from error


def change_profiles(profiles: ProfileSettings, given: Mapping[str, str]) -> ProfileSettings:
    """Return profile settings with some fields changed, and with `SEARCH_WEIGHT` if they had none.

    Raises:
        Invalid: a field is unknown, or has no such value.

    >>> changed = change_profiles(ProfileSettings(), {"interests": "8"})
    >>> changed.interests, changed.search_weight
    (8, 0.25)
    """
    if not profiles.search_weight:
        given = {"search_weight": str(SEARCH_WEIGHT), **given}
    try:
        return replace(profiles, **typed_settings(ProfileSettings, given, PROFILE))
    except ValueError as error:
        raise Invalid(f"{PROFILE}{error}") from error


def typed_settings(make: Callable[..., Any], given: Mapping[str, str], prefix: str) -> dict[str, Any]:
    """Return settings as the types that a class (or function) wants of them.

    "none" is None where None is allowed; mappings and lists are JSON.

    Args:
        prefix: of the keys, for messages.

    Raises:
        Invalid: naming the key, and the valid ones when it is unknown.
    """
    parameters = {
        name: parameter.default
        for name, parameter in inspect.signature(make).parameters.items()
        if name != INFO and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    hints = _hints(make)
    settings = {}
    for key, text in given.items():
        if key not in parameters:
            valid = ", ".join(f"{prefix}{name}" for name in parameters) or "nothing"
            raise Invalid(f"{prefix}{key}: unknown; what can be set: {valid}")
        try:
            settings[key] = _typed(hints.get(key) or type(parameters[key]), text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise Invalid(f"{prefix}{key}: {first['msg']}, got {text!r}") from None
    return settings


def _hints(make: Any) -> dict[str, Any]:
    called = inspect.getattr_static(make, "__init__") if isinstance(make, type) else make
    try:
        return get_type_hints(called)
    except (NameError, TypeError):  # names that are imported for type checkers only
        return {}


def _typed(kind: Any, text: str) -> Any:
    if NoneType in get_args(kind) and text.lower() in ("none", "null", ""):
        return None
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        return adapter.validate_strings(text)
    except ValidationError as error:
        try:
            return adapter.validate_json(text)
        except ValidationError:
            raise error from None

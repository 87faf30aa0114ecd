"""Adjusters and evidence weights from words."""

from dataclasses import dataclass
from typing import Any

import pytest

from improvement.adjusters.torch_based import TorchBasedAdjuster
from improvement.domain import SearchIndexInfo
from improvement.errors import Invalid
from improvement.evaluation.options import (
    change_adjuster,
    change_evidence,
    change_profiles,
    make_adjuster,
    parse_settings,
)
from improvement.evidence import EvidenceWeights, SkippedItems
from improvement.profiles.settings import ProfileSettings

INFO = SearchIndexInfo(dimensions=3)


@dataclass(frozen=True)
class Plain:
    """An adjuster that needs no index."""

    power: int = 2
    loud: bool = False
    max_drift: float = 0.5

    def adjust(self, batch: Any) -> Any:
        return batch.parts


class Bare:
    """An adjuster that is no dataclass and has no annotations."""

    max_drift = 0.1

    def __init__(self, rate=0.5, *rest, **more):
        self.rate = rate

    def adjust(self, batch: Any) -> Any:
        return batch.parts


ready = Plain(power=7)
bare = Bare()
nested = {"not": "an adjuster"}
HERE = f"{__name__}"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "some_plugin", sys.modules[__name__])


def test_settings_are_typed_by_the_adjusters_own_fields():
    made = make_adjuster(
        "torch", INFO, {"adjustment_rate": "1e-2", "num_iterations": "3", "max_drift": "inf"}
    )
    assert made == TorchBasedAdjuster(INFO, adjustment_rate=0.01, num_iterations=3, max_drift=float("inf"))


def test_a_plugins_class_instance_or_nested_attribute_will_do():
    assert make_adjuster("some_plugin:Plain", INFO, {"power": "3", "loud": "true"}) == Plain(3, True)
    assert make_adjuster("some_plugin:ready", INFO, {"loud": "yes"}) == Plain(7, True)
    assert make_adjuster("some_plugin:bare", INFO, {}) is bare
    made = make_adjuster("some_plugin:Bare", INFO, {"rate": "0.25"})
    assert isinstance(made, Bare)
    assert made.rate == 0.25
    found = make_adjuster("plugins.documents:domain.adjuster", INFO, {})
    assert found.search_index_info == INFO  # type: ignore[attr-defined]


def test_geodesic_has_the_same_settings():
    names = ("adjustment_rate", "num_iterations", "softmin_temperature", "max_drift")
    made = make_adjuster("geodesic", INFO, dict.fromkeys(names, "1"))
    assert [getattr(made, name) for name in names] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("torch", {"rate": "1"}, "rate: unknown; what can be set: adjustment_rate, num_iterations"),
        ("torch", {"search_index_info": "1"}, "search_index_info: unknown"),
        ("torch", {"num_iterations": "1.5"}, "num_iterations: Input should be a valid integer.*got '1.5'"),
        ("torch", {"adjustment_rate": "fast"}, "adjustment_rate: Input should be a valid number"),
        ("torch", {"adjustment_rate": "-1"}, "adjustment_rate: expected a finite number >= 0"),
        ("torch", {"adjustment_rate": "nan"}, "adjustment_rate: expected a finite number >= 0"),
        ("best", {}, "expected geodesic, torch, none or module:attribute, got 'best'"),
        ("no_such_module:adjuster", {}, "cannot be imported"),
        ("some_plugin:nothing", {}, "cannot be imported"),
        ("some_plugin:nested", {}, "expected an adjuster"),
        ("some_plugin:HERE", {}, "expected an adjuster"),
        ("builtins:dict", {}, "builtins:dict"),
        ("builtins:list", {}, "builtins:list"),
        ("some_plugin:bare", {"rate": "1"}, "no dataclass"),
        ("some_plugin:Bare", {"more": "1"}, "more: unknown; what can be set: rate"),
    ],
)
def test_what_cannot_be_made_is_said_with_what_could(name: str, given: dict[str, str], says: str):
    with pytest.raises(Invalid, match=says):
        make_adjuster(name, INFO, given)


def test_the_domains_own_adjuster_is_changed_only_where_it_is_told():
    own = TorchBasedAdjuster(INFO, adjustment_rate=0.7)
    assert change_adjuster(own, INFO, {"num_iterations": "1"}) == TorchBasedAdjuster(INFO, 0.7, 1)


def test_evidence_fields_are_typed_too():
    changed = change_evidence(
        EvidenceWeights(),
        {
            "events": '{"click": 1, "hide": -2}', "saturation": "None",
            "skipped_items": "all", "skipped": "0", "per_session": "false", "half_life_days": "7",
        },
    )  # fmt: skip
    assert changed.events == {"click": 1.0, "hide": -2.0}
    assert (changed.saturation, changed.half_life_days) == (None, 7.0)
    assert (changed.skipped_items, changed.skipped, changed.per_session) == (SkippedItems.ALL, 0.0, False)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"half_life": "7"}, "evidence.half_life: unknown; what can be set: evidence.events, evidence.sat"),
        ({"skipped_items": "some"}, "evidence.skipped_items: Input should be 'all' or 'examined'"),
        ({"skipped": "1"}, "skipped: expected a number <= 0"),
        ({"events": "click"}, "evidence.events: "),
        ({"per_session": "none"}, "evidence.per_session: "),
    ],
)
def test_wrong_evidence_is_named(given: dict[str, str], says: str):
    with pytest.raises(Invalid, match=says):
        change_evidence(EvidenceWeights(), given)


def test_profile_settings_are_typed_too_and_have_a_weight_unless_zero_is_asked_for():
    changed = change_profiles(ProfileSettings(), {"interests": "8", "half_life_days": "none", "away": "0"})
    assert changed == ProfileSettings(interests=8, away=0.0, search_weight=0.25)
    assert change_profiles(ProfileSettings(search_weight=0.7), {}).search_weight == 0.7
    assert change_profiles(ProfileSettings(search_weight=0.7), {"search_weight": "0.1"}).search_weight == 0.1
    assert change_profiles(ProfileSettings(), {"search_weight": "0"}).search_weight == 0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"weight": "1"}, "profile.weight: unknown; what can be set: profile.learning_rate, profile.min_"),
        ({"interests": "2.5"}, "profile.interests: Input should be a valid integer"),
        ({"interests": "17"}, "profile.interests: expected a whole number from 1 to 16, got 17"),
        ({"search_weight": "nan"}, "profile.search_weight: expected a number from 0 to 1"),
        ({"temperature": "0"}, "profile.temperature: expected a number > 0"),
    ],
)
def test_wrong_profile_settings_are_named(given: dict[str, str], says: str):
    with pytest.raises(Invalid, match=says):
        change_profiles(ProfileSettings(), given)


@pytest.mark.parametrize("pair", ["", "=1", "rate", "evidence.skipped"])
def test_a_setting_without_key_or_value_sign_is_refused(pair: str):
    with pytest.raises(Invalid, match="key=value"):
        parse_settings([pair])


def test_a_setting_may_hold_the_sign_itself_but_not_be_given_twice():
    told = parse_settings(["a=b=c", "evidence.a=", "profile.a=0"])
    assert told == ({"a": "b=c"}, {"a": ""}, {"a": "0"})
    with pytest.raises(Invalid, match="evidence.a: set twice"):
        parse_settings(["evidence.a=1", "a=1", "evidence.a=2"])

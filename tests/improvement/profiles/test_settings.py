"""The settings of profiles say what is wrong with them."""

import math
from dataclasses import fields
from typing import Any

import pytest

from improvement.profiles.settings import ProfileSettings


def test_the_defaults_are_allowed_and_so_is_every_bound():
    ProfileSettings()
    ProfileSettings(
        learning_rate=0, max_drift=0, away=0, search_weight=0, negative_weight=0,
        min_interactions=1, remember=1, interests=1, rescored=1,
    )  # fmt: skip
    ProfileSettings(
        learning_rate=1, max_drift=math.pi, away=1, search_weight=1, negative_weight=1,
        remember=1_000, interests=16, rescored=1_000, half_life_days=0.5,
    )  # fmt: skip


@pytest.mark.parametrize("name", [field.name for field in fields(ProfileSettings)])
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "3", True])
def test_a_value_out_of_range_is_refused_by_its_name(name: str, value: Any):
    with pytest.raises(ValueError, match=f"^{name}: expected a"):
        ProfileSettings(**{name: value})


@pytest.mark.parametrize("name", ["min_interactions", "remember", "interests", "rescored"])
def test_a_count_is_a_whole_number(name: str):
    with pytest.raises(ValueError, match=f"^{name}: expected a whole number"):
        ProfileSettings(**{name: 1.5})


def test_no_half_life_switches_decay_off_but_dislikes_always_fade():
    assert ProfileSettings(half_life_days=None).half_life_days is None
    with pytest.raises(ValueError, match="^negative_half_life_days"):
        ProfileSettings(negative_half_life_days=None)  # type: ignore[arg-type]

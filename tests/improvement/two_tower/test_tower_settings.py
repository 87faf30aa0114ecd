from dataclasses import replace

import pytest

from improvement.domain import check_domain
from improvement.errors import WrongPlugin
from improvement.evidence import EvidenceWeights
from improvement.two_tower.settings import TowerHealth, TowerSettings
from tests.support import make_domain


def test_the_seeds_numbers_are_the_defaults():
    settings, health = TowerSettings(), TowerHealth()
    assert settings.size == 128
    assert 0.001 <= settings.realtime_rate <= 0.01
    assert settings.candidate_every == 1_000
    assert 5 <= settings.negatives <= 10
    assert settings.negative_seconds == 3_600
    assert settings.user_every_seconds == 3_600
    assert 32 <= settings.user_batch <= 128
    assert settings.publish_hours == 24
    assert 10 <= settings.min_engagements <= 20
    assert (health.good_latency, health.most_latency) == (0.01, 0.05)
    assert (health.good_rate, health.least_rate) == (100, 10)
    assert (health.good_negatives, health.least_negatives, health.most_negatives) == ((5, 10), 3, 20)
    assert (health.good_drift, health.most_drift) == (0.1, 0.3)
    assert (health.good_cold_clicks, health.least_cold_clicks) == (0.01, 0.005)
    assert (health.good_coverage, health.least_coverage, health.least_items) == (0.9, 0.7, 0.9)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 1), ("size", 128.0), ("realtime_rate", 0.02), ("realtime_rate", float("nan")),
        ("heads", 3), ("negatives", 0), ("user_batch", 0), ("temperature", 0.0), ("auto_promote", 1),
        ("seed", -1), ("min_engagements", True), ("max_drift", 4.0),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(name: str, value: object):
    with pytest.raises(ValueError, match=name):
        replace(TowerSettings(), **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("good_negatives", (10.0, 5.0)),
        ("most_drift", 3.0),
        ("sample", 0),
        ("self_heal", 0),
        ("least_kept", 1.1),
        ("good_kept", -0.1),
    ],
)
def test_health_that_cannot_be_is_refused_by_name(name: str, value: object):
    with pytest.raises(ValueError, match=name):
        replace(TowerHealth(), **{name: value})


@pytest.mark.parametrize("name", ["towers", "experiment"])
def test_a_plugin_with_something_else_there_is_named(name: str):
    with pytest.raises(WrongPlugin, match=name):
        check_domain(replace(make_domain(), **{name: {"size": 128}}), "a plugin")


def test_towers_that_no_event_could_ever_teach_are_refused():
    weak = EvidenceWeights.published()  # every event weighs 1
    with pytest.raises(
        WrongPlugin,
        match=r"towers.engaged_from: expected at most 1, the strongest weight: else nobody engages",
    ):
        check_domain(make_domain(evidence=weak, towers=TowerSettings()), "a plugin")
    check_domain(make_domain(evidence=weak, towers=TowerSettings(engaged_from=1.0)), "a plugin")

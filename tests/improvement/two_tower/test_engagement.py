"""Engagement: every row of the signal tables of seed 001, and what strangers may send."""

from dataclasses import replace
from typing import Any

import pytest

from clickstream.records import ReceivedAction, SessionEvent
from improvement.domain import SearchDomain
from improvement.evidence import EvidenceWeights
from improvement.two_tower.engagement import of_action, of_event, signal_of
from improvement.two_tower.settings import TowerSettings
from tests.support import make_domain


@pytest.fixture
def domain() -> SearchDomain:
    return replace(make_domain(), evidence=EvidenceWeights(), towers=TowerSettings())


STRENGTHS = {"very strong": (0.98, 1.0), "strong": (0.8, 0.999), "weak": (0.4, 0.7), "implicit": (0.2, 0.8)}


@pytest.mark.parametrize(
    ("kind", "meta", "sign", "strength"),
    [
        ("like", None, 1, "strong"),
        ("like_post", None, 1, "strong"),
        ("reply", None, 1, "very strong"),
        ("comment_post", None, 1, "very strong"),
        ("repost", None, 1, "strong"),
        ("share_post", None, 1, "strong"),
        ("click", None, 1, "weak"),
        ("dwell", {"dwell_seconds": 5.1}, 1, "implicit"),
        ("view", {"dwell_seconds": 60}, 1, "implicit"),
        ("not_interested", None, -1, "strong"),
        ("hide", None, -1, "weak"),
        ("skip", None, -1, "implicit"),
        ("view", {"dwell_seconds": 1.9}, -1, "implicit"),
        ("block", None, -1, "very strong"),
        ("mute", None, -1, "very strong"),
    ],
)
def test_each_row_of_the_table_speaks_as_loudly_as_it_says(
    domain: SearchDomain, kind: str, meta: Any, sign: int, strength: str
):
    signal = signal_of(domain, kind, meta)
    least, most = STRENGTHS[strength]
    assert signal is not None
    assert least <= sign * signal <= most


def test_the_order_of_the_strengths_is_that_of_the_table(domain: SearchDomain):
    signals = [
        signal_of(domain, kind)
        for kind in ("block", "not_interested", "hide", "skip", "click", "like", "reply")
    ]
    assert signals == sorted(signals)
    assert len(set(signals)) == len(signals)


@pytest.mark.parametrize(
    ("kind", "meta"),
    [("view", None), ("view_post", {"dwell_seconds": 3}), ("dwell", None), ("dwell", {"dwell_seconds": 4}),
     ("what is this", None), ("dwell", {"dwell_seconds": "60"}), ("dwell", {"dwell_seconds": True}),
     ("view", "no mapping"), ("like", {"dwell_seconds": -1e400})],
)  # fmt: skip
def test_what_only_says_that_it_was_seen_is_no_engagement(domain: SearchDomain, kind: str, meta: Any):
    assert signal_of(domain, kind, meta) in (None, signal_of(domain, "like") if kind == "like" else None)


def test_without_saturation_weights_are_cut_off_and_the_least_weight_decides(domain: SearchDomain):
    blunt = replace(domain, evidence=EvidenceWeights(saturation=None))
    assert signal_of(blunt, "click") == 1.0
    assert signal_of(blunt, "skip") == -1.0
    picky = replace(domain, towers=TowerSettings(engaged_from=4.0))
    assert signal_of(picky, "click") is None
    assert signal_of(picky, "like")
    assert signal_of(picky, "skip")
    faint = replace(domain, evidence=EvidenceWeights(events={"x": -1e-300}, saturation=1e300))
    assert signal_of(faint, "x") is None


def received(**changes: Any) -> ReceivedAction:
    fields = {
        "action_id": "1",
        "user_id": "u",
        "object_id": "o",
        "action_type": "like",
        "domain": "things",
        "received_at": 500.5,
        "place": "p",
    }
    return ReceivedAction(**(fields | changes))


def test_a_client_whose_clock_runs_ahead_is_taken_at_the_time_it_was_received(domain: SearchDomain):
    ahead, behind = of_action(received(created_at=900), domain), of_action(received(created_at=100), domain)
    unsaid = of_action(received(), domain)
    assert ahead is not None
    assert behind is not None
    assert unsaid is not None
    assert (ahead.at, behind.at, unsaid.at) == (500.5, 100.0, 500.5)
    assert ahead.received_at == 500.5
    assert of_action(received(action_type="view"), domain) is None


def test_every_event_has_an_id_of_its_own(domain: SearchDomain):
    def named(session: str, event: str) -> str:
        made = of_event(session, "u", SessionEvent(event_id=event, object_id="o"), domain, 5.0)
        assert made is not None
        return made.engagement_id

    assert named("a:1", "b") != named("a", "1:b")
    assert named("a", "b") == named("a", "b")
    assert named("a", "b") != of_action(received(place="1:a:b"), domain).engagement_id  # type: ignore[union-attr]
    assert (
        of_event("a", "u", SessionEvent(event_id="1", object_id="o", event_type="view"), domain, 5.0) is None
    )

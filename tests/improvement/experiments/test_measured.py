"""What a session says: each metric against a naive reading, and mixed lists that are fair at any ratio."""

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickstream.records import RegisteredSession, SearchResult, SessionEvent
from improvement.evidence import EvidenceWeights
from improvement.experiments.measured import credit, is_mixed, measured
from improvement.experiments.settings import Metric
from improvement.interleaving import Team, interleave

EVIDENCE = EvidenceWeights()


def session(shown: list[Any], events: list[tuple[str, str]], **changes: Any) -> RegisteredSession:
    results = [one if isinstance(one, SearchResult) else SearchResult(object_id=one) for one in shown]
    return RegisteredSession(
        session_id="s",
        search_query="q",
        user_id="ann",
        search_results=tuple(results),
        events=tuple(
            SessionEvent(event_id=f"{n}", object_id=o, event_type=kind, **changes)
            for n, (o, kind) in enumerate(events)
        ),
    )


def values(shown: list[Any], events: list[tuple[str, str]], **changes: Any) -> list[float]:
    said = measured(session(shown, events, **changes), EVIDENCE)
    assert list(said) == list(Metric)
    return [said[metric] for metric in Metric]


def test_each_metric_reads_what_was_liked_and_disliked():
    shown = ["a", "b", "c", "d"]
    said = measured(session(shown, [("b", "click"), ("d", "like"), ("a", "not_interested")]), EVIDENCE)
    assert said[Metric.CLICKTHROUGH] == 1
    assert said[Metric.MRR] == 1 / 2
    best = 1 + 1 / np.log2(3)
    assert said[Metric.NDCG] == pytest.approx((1 / np.log2(3) + 1 / np.log2(5)) / best)
    assert said[Metric.DISLIKES] == 1
    assert said[Metric.CONVERSIONS] == 1
    expected = sum(
        EVIDENCE.of(session(shown, [("b", "click"), ("d", "like"), ("a", "not_interested")])).values()
    )
    assert said[Metric.EVIDENCE] == pytest.approx(expected)


def test_a_list_nobody_liked_has_a_value_in_every_metric():
    assert values(["a", "b"], []) == [0.0] * 6
    assert values([], []) == [0.0] * 6, "an arm that shows nothing must not look better for it"
    assert values(["a"], [("elsewhere", "like")]) == [0.0] * 6, "what was not shown says nothing of the list"
    assert values(["a"], [("a", "a word of the client's own")]) == [0.0] * 6


def test_who_left_at_once_did_not_like_it():
    assert values(["a"], [("a", "click")], meta={"dwell_seconds": 1.0})[0] == 0
    assert values(["a"], [("a", "click")], meta={"dwell_seconds": 30.0})[0] == 1
    assert values(["a"], [("a", "click")], meta={"dwell_seconds": "long"})[0] == 1


def test_the_same_event_sent_often_counts_one_object():
    said = measured(session(["a", "b"], [("a", "like")] * 50 + [("b", "purchase")]), EVIDENCE)
    assert said[Metric.CONVERSIONS] == 2
    assert said[Metric.MRR] == 1


def mixed(teams: str, liked: Iterable[str]) -> RegisteredSession:
    names = {"p": "personalised", "b": "baseline"}
    shown = [SearchResult(object_id=f"{n}", meta={"list": names[team]}) for n, team in enumerate(teams)]
    return session(shown, [(place, "click") for place in liked])


def test_a_list_says_which_team_was_liked_as_if_they_were_equally_large():
    assert credit(mixed("pbpb", "02"), EVIDENCE) == (2.0, 0.0, 2.0)
    assert credit(mixed("pbpb", "01"), EVIDENCE) == (1.0, 1.0, 2.0)
    assert credit(mixed("pppb", "012"), EVIDENCE) == (1.5, 0.0, 2.25)
    assert credit(mixed("pppb", "3"), EVIDENCE) == (0.0, 1.5, 0.75)
    assert credit(mixed("pb", ""), EVIDENCE) == (0.0, 0.0, 0.0)
    assert credit(mixed("ppp", "0"), EVIDENCE) is None


@given(st.text("pb", min_size=2, max_size=12).filter(lambda teams: len(set(teams)) == 2))
def test_the_variance_of_a_like_is_that_over_all_places(teams: str):
    found = [credit(mixed(teams, [str(place)]), EVIDENCE) for place in range(len(teams))]
    differences = np.array([one.personalised - one.baseline for one in found])
    assert differences.mean() == pytest.approx(0, abs=1e-12)
    assert differences.var() == pytest.approx(found[0].variance)


def test_a_list_of_which_a_part_was_not_mixed_says_nothing_of_either_team():
    whole = mixed("pb", "0")
    more = (*whole.search_results, SearchResult(object_id="a further page"))
    assert credit(whole.model_copy(update={"search_results": more}), EVIDENCE) is None


def test_what_was_to_be_mixed_and_found_nothing_is_no_plain_list():
    nothing = session([], []).model_copy(update={"mixed": True})
    assert is_mixed(nothing)
    assert credit(nothing, EVIDENCE) is None


def test_only_what_was_mixed_is_mixed():
    assert is_mixed(mixed("p", ""))
    for meta in (None, {}, {"list": "mine"}, {"list": ["personalised"]}, {"list": None}):
        assert not is_mixed(session([SearchResult(object_id="a", meta=meta)], []))


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.8])
def test_lists_that_are_alike_have_the_same_to_expect_at_any_ratio(ratio: float):
    rng, sums = random.Random(3), np.zeros(2)
    for n in range(2_000):
        picks = interleave("abcdefghij", "abcdefghij", ratio, f"session {n}", 10, key=str)
        shown = [SearchResult(object_id=o, meta={"list": team.value}) for o, team in picks]
        clicks = [
            (one.object_id, "click") for place, one in enumerate(shown) if rng.random() < 0.5 / (1 + place)
        ]
        if (found := credit(session(shown, clicks), EVIDENCE)) is not None:
            sums += found[:2]
    assert sums[0] / sums.sum() == pytest.approx(0.5, abs=0.035)
    assert Team.PERSONALISED.value == "personalised"

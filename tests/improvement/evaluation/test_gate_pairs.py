"""Searches ranked by two collections: their samples, the biggest movers, and which of them are tested on."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickstream.records import RegisteredSession
from improvement.copies import UsableSession
from improvement.evaluation.paired_log import split
from improvement.evaluation.pairs import PLAIN, SEEN, Pair, movers, samples
from improvement.evaluation.report import Row
from improvement.green.settings import GateSettings
from tests.support import make_session


def pair(query: str, before: float, after: float, user: str = "ann", **changes: Any) -> Pair:
    made: dict[str, Any] = {
        "clicked": frozenset("a"), "weight": 1.0, "copies": False, "profile": False,
        "blue": {SEEN: (before, before, before), PLAIN: (0.1, 0.2, 0.3)},
        "green": {SEEN: (after, after, after), PLAIN: (0.4, 0.5, 0.6)},
        "before": ("a", "b"), "after": ("b", "a"),
    }  # fmt: skip
    return Pair(user_id=user, query=query, **made | changes)


def test_each_way_of_ranking_has_its_metrics_and_propensities_theirs():
    blue, green = samples([pair("x", 0.5, 0.7), pair("y", 0.1, 0.1, "bob", weight=3.0)], propensities=True)
    row = Row.of("green", green, blue, seed=0)
    assert list(green) == [
        "ndcg@10", "mrr", "ips_ndcg@10", "ips_mrr",
        "plain_ndcg@10", "plain_mrr", "plain_ips_ndcg@10", "plain_ips_mrr",
    ]  # fmt: skip
    assert row.differences["ndcg@10"].mean == pytest.approx(0.1)
    assert row.differences["ips_ndcg@10"].mean == pytest.approx(0.2 / 4)
    assert row.differences["plain_mrr"].mean == pytest.approx(0.3)
    assert list(samples([pair("x", 0.5, 0.7)], propensities=False)[0]) == [
        "ndcg@10", "mrr", "plain_ndcg@10", "plain_mrr",
    ]  # fmt: skip


def test_without_any_search_nothing_is_defined():
    blue, green = samples([], propensities=True)
    row = Row.of("green", green, blue, seed=0)
    assert all(found.count == 0 and found.mean != found.mean for found in row.differences.values())


def test_movers_are_those_that_changed_most_one_for_each_text():
    pairs = [
        pair("up", 0.1, 0.5), pair("up", 0.1, 0.9), pair("same", 0.5, 0.5), pair("", 0.0, 0.2),
        pair("", 0.0, 0.3), pair("down", 0.9, 0.1), pair("little", 0.3, 0.2),
    ]  # fmt: skip
    gained, lost = movers(pairs, 10)
    assert [(one.query, round(one.change, 1)) for one in gained] == [("up", 0.8), ("", 0.3), ("", 0.2)]
    assert [(one.query, round(one.change, 1)) for one in lost] == [("down", -0.8), ("little", -0.1)]
    assert movers(pairs, 1) == ([pairs[1]], [pairs[5]])
    assert movers(list(reversed(pairs)), 10) == (gained, lost)


def at(moments: list[int]) -> list[UsableSession]:
    sessions = [make_session(f"s{n}", "ann", ["a"], created_at=at) for n, at in enumerate(sorted(moments))]
    return [UsableSession(RegisteredSession(**session.model_dump()), {}) for session in sessions]


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 20), max_size=30), st.none() | st.integers(-1, 21),
    st.integers(2, 40), st.floats(0.01, 0.99),
)  # fmt: skip
def test_the_newest_are_tested_on_and_never_one_that_taught(
    moments: list[int], taught_until: int | None, most: int, holdout: float
):
    usable = at(moments)
    before, test = split(usable, taught_until, GateSettings(sessions=most, holdout=holdout))
    assert [*before, *test] == usable
    assert len(test) <= most
    if taught_until is None:
        assert bool(test) == bool(usable)
        assert len(test) <= max(1, round(holdout * len(usable)))
    else:
        new = sum(one.session.created_at > taught_until for one in usable)
        assert len(test) == min(most, new)
        assert all(one.session.created_at > taught_until for one in test)

"""What sessions of an experiment add up to: naive loops, hostile sessions, nothing that JSON cannot hold."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickstream.records import RegisteredSession, SearchResult, SessionEvent
from improvement.evidence import EvidenceWeights
from improvement.experiments.estimates import LEAST_USERS
from improvement.experiments.reading import columns
from improvement.experiments.results import Results, results
from improvement.experiments.settings import Arm, Experiment, Metric, Treatment
from tests.support import make_domain

ARMS = (Arm("control", Treatment.STATIC), Arm("b", Treatment.COPIES), Arm("c", Treatment.PROFILE))
EXPERIMENT = Experiment("e", ARMS)
DOMAIN = make_domain(evidence=EvidenceWeights(), experiment=EXPERIMENT)


def session(n: int, user: str | None, arm: str | None, liked: str = "", **changes: Any) -> RegisteredSession:
    return RegisteredSession(
        session_id=f"s{n}",
        search_query="",
        user_id=user,
        experiment="e",
        arm=arm,
        search_results=tuple(SearchResult(object_id=o) for o in "xyz"),
        events=tuple(SessionEvent(event_id=o, object_id=o) for o in liked),
        registered_at=float(n),
        **changes,
    )


def found(
    sessions: Sequence[RegisteredSession], experiment: Experiment = EXPERIMENT, most: int = 10**6
) -> Results:
    domain = replace(DOMAIN, experiment=experiment)
    return results(experiment, columns(domain, experiment, sessions, most))


def many(rates: dict[str, float], users: int = 300, seed: int = 0) -> list[RegisteredSession]:
    rng, made = np.random.default_rng(seed), []
    for name, rate in rates.items():
        for user in range(users):
            for _ in range(int(rng.integers(1, 6))):
                liked = "x" if rng.random() < rate else ""
                made.append(session(len(made), f"{name} {user}", name, liked))
    return made


def test_a_mean_is_over_sessions_and_its_interval_over_users():
    sessions = many({"control": 0.3, "b": 0.3, "c": 0.3})
    told = found(sessions)
    for arm in told.arms:
        mine = [one for one in sessions if one.arm == arm.name]
        assert arm.sessions == len(mine)
        assert arm.users == len({one.user_id for one in mine})
        mean = sum(bool(one.events) for one in mine) / len(mine)
        one = arm.metrics[Metric.CLICKTHROUGH]
        assert one.mean == pytest.approx(mean)
        without = []  # the jackknife, naively
        for user in {one.user_id for one in mine}:
            others = [one for one in mine if one.user_id != user]
            without.append(sum(bool(one.events) for one in others) / len(others))
        error = np.sqrt(sum((mean - other) ** 2 for other in without) * (len(without) - 1) / len(without))
        assert one.high - one.mean == pytest.approx(1.959964 * error)
        assert one.mean - one.low == pytest.approx(1.959964 * error)
    assert told.arms[0].differences == {}
    difference = told.arms[1].differences[Metric.CLICKTHROUGH]
    means = [arm.metrics[Metric.CLICKTHROUGH].mean for arm in told.arms]
    assert difference.difference == pytest.approx(means[1] - means[0])


def test_sessions_of_one_user_are_one_piece_of_evidence():
    rng = np.random.default_rng(1)
    once, often = [], []
    for name in ("control", "b"):
        for user in range(60):
            liked = "x" if rng.random() < 0.5 else ""
            once.append(session(len(once), f"{name} {user}", name, liked))
            often += [session(len(often) + n, f"{name} {user}", name, liked) for n in range(10)]
    few, repeated = (found(one).arms[1].differences[Metric.CLICKTHROUGH] for one in (once, often))
    assert few.high - few.low == pytest.approx(repeated.high - repeated.low)


def test_what_is_better_is_said_to_be_and_less_of_the_bad_is_better():
    told = found(many({"control": 0.2, "b": 0.5, "c": 0.2}, users=500))
    by_name = {arm.name: arm for arm in told.arms}
    assert told.verdict(by_name["b"], Metric.CLICKTHROUGH) == "better"
    assert told.verdict(by_name["c"], Metric.CLICKTHROUGH) == "undecided"
    assert told.verdict(by_name["b"], Metric.DISLIKES) == "too little"
    disliked = [
        one.model_copy(
            update={"events": tuple(e.model_copy(update={"event_type": "hide"}) for e in one.events)}
        )
        for one in many({"control": 0.2, "b": 0.5, "c": 0.2}, users=500)
    ]
    told = found(disliked)
    assert told.verdict(told.arms[1], Metric.DISLIKES) == "worse"
    assert told.verdict(told.arms[1], Metric.EVIDENCE) == "worse"
    assert told.verdict(told.arms[1], Metric.CLICKTHROUGH) == "too little"


def test_the_primary_metric_is_corrected_for_the_arms_and_nothing_else_is():
    told = found(many({"control": 0.2, "b": 0.5, "c": 0.3}, users=300))
    b, c = (arm.differences[Metric.CLICKTHROUGH] for arm in told.arms[1:])
    assert b.p_value < c.p_value
    assert b.adjusted_p == pytest.approx(2 * b.p_value)
    assert c.adjusted_p == pytest.approx(max(c.p_value, b.adjusted_p))
    assert all(arm.differences[Metric.MRR].adjusted_p is None for arm in told.arms[1:])


def test_too_few_users_say_nothing_and_say_so():
    rates = {"control": 0.5, "b": 0.5, "c": 0.5}
    told = found(many(rates, users=LEAST_USERS - 1))
    for arm in told.arms[1:]:
        one = arm.differences[Metric.CLICKTHROUGH]
        assert one.difference is not None
        assert (one.low, one.always_low, one.p_value, one.adjusted_p) == (None,) * 4
        assert f"{LEAST_USERS - 1} of {LEAST_USERS} users" in one.why
        assert told.verdict(arm, Metric.CLICKTHROUGH) == "too little"
    assert found(many(rates, users=LEAST_USERS)).arms[1].differences[Metric.CLICKTHROUGH].p_value is not None


def test_nothing_at_all_is_undefined_and_not_zero():
    told = found([])
    assert [(arm.users, arm.sessions) for arm in told.arms] == [(0, 0)] * 3
    assert told.arms[1].metrics[Metric.CLICKTHROUGH].mean is None
    assert told.arms[1].differences[Metric.NDCG].why == "no sessions"
    assert [f"arm {name!r} has no sessions" for name in ("control", "b", "c")] == told.warnings
    json.dumps(told.as_json(), allow_nan=False)


def test_what_does_not_count_is_counted_apart():
    class Fussy(EvidenceWeights):
        def of(self, session: Any, propensities: Any = ()) -> dict[str, float]:
            if session.session_id == "s4":
                raise RuntimeError("not this one")
            return super().of(session, propensities)

    sessions = [
        session(0, "ann", "control", "x"),
        session(1, "ann", "gone", "x"),
        session(2, None, "control"),
        session(3, "bob", "b", is_irrelevant=True),
        session(4, "bob", "b", "x"),
        session(5, "bob", None),
    ]
    domain = replace(DOMAIN, evidence=Fussy())
    told = results(EXPERIMENT, columns(domain, EXPERIMENT, sessions, 100))
    assert told.left_out == {
        "of an arm that is not configured": 2,
        "without a user": 1,
        "marked irrelevant": 1,
        "could not be judged": 1,
    }
    assert [arm.sessions for arm in told.arms] == [1, 0, 0]


def test_an_arm_that_was_removed_no_longer_counts_and_the_others_stay():
    sessions = many({"control": 0.3, "b": 0.4, "c": 0.3})
    fewer = found(sessions, replace(EXPERIMENT, arms=ARMS[:2]))
    whole = found(sessions)
    assert [arm.name for arm in fewer.arms] == ["control", "b"]
    assert [arm.metrics for arm in fewer.arms] == [arm.metrics for arm in whole.arms[:2]]
    assert fewer.left_out == {"of an arm that is not configured": whole.arms[2].sessions}


def test_arms_without_their_share_of_users_are_a_warning():
    even = many({"control": 0.3, "b": 0.3, "c": 0.3}, users=200)
    assert (found(even).mismatch, found(even).warnings) == (False, [])
    lost = [one for one in even if one.arm != "c" or int(str(one.user_id).split()[1]) < 80]
    told = found(lost)
    assert told.mismatch
    assert "sample ratio mismatch" in told.warnings[0]
    ratio = told.as_json()["sample_ratio"]
    assert ratio["users"] == {"control": 200, "b": 200, "c": 80}
    assert ratio["chi_square_p"] < 1e-6


def test_who_was_in_two_arms_is_told_and_counts_in_both():
    sessions = many({"control": 0.3, "b": 0.3, "c": 0.3}, users=50)
    sessions += [session(len(sessions) + n, f"control {n}", "b", "x") for n in range(7)]
    told = found(sessions)
    assert told.users_in_several == 7
    assert "7 users were in more than one arm" in told.warnings[0]
    assert told.arms[1].users == 57


def test_more_sessions_than_can_be_read_are_said_to_be_cut_off():
    sessions = many({"control": 0.3, "b": 0.3})
    told = found(sessions[:100], most=100)
    assert told.cut_at == 99.0
    assert any("too many sessions" in warning for warning in told.warnings)


def mixed(n: int, user: str, arm: str, liked: str) -> RegisteredSession:
    lists = {"x": "personalised", "y": "baseline"}
    shown = tuple(SearchResult(object_id=o, meta={"list": team}) for o, team in lists.items())
    return session(n, user, arm, liked).model_copy(update={"search_results": shown})


def test_mixed_lists_count_for_their_arm_and_not_for_its_metrics():
    sessions = many({"control": 0.3, "b": 0.3, "c": 0.3}, users=40)
    before = found(sessions)
    rng = np.random.default_rng(2)
    for user in range(200):
        liked = "x" if rng.random() < 0.8 else "y"
        sessions.append(mixed(len(sessions), f"b {user}", "b", liked))
    sessions += [mixed(len(sessions) + n, f"b {n}", "b", "") for n in range(5)]
    sessions += [mixed(len(sessions) + n, f"tie {n}", "b", "xy") for n in range(3)]
    told = found(sessions)
    assert [arm.metrics for arm in told.arms] == [arm.metrics for arm in before.arms]
    assert told.arms[0].interleaved is None
    one = told.arms[1].interleaved
    assert (one.sessions, one.users, one.ties) == (203, 203, 3)
    assert one.wins + one.losses == 200
    assert one.preference == pytest.approx((one.wins + 3) / 206)
    assert 0.5 < one.low < one.preference < one.high
    assert one.versus_half.p_value < 0.001


values = st.sampled_from(["control", "b", "c", "gone", None])
people = st.sampled_from(["ann", "bob", "ünï\0code", "x" * 512, None])


@given(st.lists(st.tuples(values, people, st.sampled_from(["", "x", "xy"]), st.booleans()), max_size=40))
def test_whatever_came_the_answer_is_json(rows: list[tuple[Any, Any, str, bool]]):
    sessions = [
        (mixed if is_mixed and arm and user else session)(n, user, arm, liked)
        for n, (arm, user, liked, is_mixed) in enumerate(rows)
    ]
    told = found(sessions).as_json()
    json.dumps(told, allow_nan=False)
    counted = told["sessions"] + sum(told["left_out"].values())
    assert counted <= len(rows)

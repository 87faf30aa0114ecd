"""Builds as they are kept: one a domain, held by one worker, resumed by the next."""

import threading
from dataclasses import replace
from typing import Any

import pytest
from pymongo.database import Database

from improvement.errors import Conflict, NotFound
from improvement.green.builds import MAX_REASON, Build, BuildState, BuildStore, LostBuild, Stage
from tests.support import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def builds(database: Database[Any], clock: Clock) -> BuildStore:
    store = BuildStore(database, clock)
    store.ensure_indexes()
    return store


def ask(builds: BuildStore, domain: str = "docs") -> Build:
    return builds.ask(domain, "words@1", "words", True, "ann")


def claim(builds: BuildStore, build: Build, seconds: float = 60) -> str:
    token = builds.claim(build, seconds)
    assert token is not None
    return token


def test_a_build_is_kept_as_it_was_asked_for(builds: BuildStore, clock: Clock):
    asked = ask(builds)
    assert builds.get(asked.build_id) == asked == builds.latest("docs")
    assert (asked.domain, asked.space, asked.asked_by, asked.created_at) == (
        "docs",
        "words",
        "ann",
        clock.now,
    )
    assert asked.active
    assert builds.list("docs") == [asked]
    assert builds.list("other") == []


def test_a_domain_has_one_unfinished_build(builds: BuildStore):
    first = ask(builds)
    ask(builds, "other")
    with pytest.raises(Conflict, match=first.build_id):
        ask(builds)
    builds.end(first.build_id, BuildState.CANCELLED)
    second = ask(builds)
    builds.finish(second.build_id, claim(builds, second), state=BuildState.BUILT)
    ask(builds)


def test_of_many_that_ask_at_once_one_gets_its_build(builds: BuildStore):
    start, outcomes = threading.Barrier(6), list[str]()

    def asking() -> None:
        start.wait()
        try:
            outcomes.append(ask(builds).build_id)
        except Conflict:
            outcomes.append("")

    threads = [threading.Thread(target=asking) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(bool, outcomes)) == [False] * 5 + [True]
    assert len(builds.list("docs")) == 1


def test_one_worker_has_a_build_until_its_lease_ends(builds: BuildStore, clock: Clock):
    asked = ask(builds)
    first = claim(builds, asked)
    assert builds.claim(asked, 60) is None
    assert builds.due() == []
    clock.now += 61
    assert [build.build_id for build in builds.due()] == [asked.build_id]
    second = claim(builds, asked)
    with pytest.raises(LostBuild):
        builds.save(asked.build_id, first, 60, done=5)
    with pytest.raises(LostBuild):
        builds.finish(asked.build_id, first, state=BuildState.BUILT)
    assert not builds.give_back(asked.build_id, first)
    assert builds.save(asked.build_id, second, 60, done=7).done == 7
    assert builds.get(asked.build_id).attempts == 2


def test_saving_holds_a_build_on(builds: BuildStore, clock: Clock):
    asked = ask(builds)
    token = claim(builds, asked)
    for _ in range(3):
        clock.now += 50
        assert builds.save(asked.build_id, token, 60).updated_at == clock.now
        assert builds.due() == []


def test_what_was_given_back_is_free_at_once_and_a_forgiven_attempt_does_not_count(
    builds: BuildStore,
):
    asked = ask(builds)
    assert builds.give_back(asked.build_id, claim(builds, asked), "the store is away", forgive=True)
    [due] = builds.due()
    assert (due.attempts, due.reason) == (0, "the store is away")
    assert builds.give_back(asked.build_id, claim(builds, asked))
    [due] = builds.due()
    assert (due.attempts, due.reason) == (1, "the store is away")


def test_what_somebody_faster_ended_cannot_be_claimed_any_more(builds: BuildStore):
    asked = ask(builds)
    builds.finish(asked.build_id, claim(builds, asked), state=BuildState.BUILT)
    assert builds.claim(asked, 60) is None  # from a list of what was due a moment ago
    builds.ask_gate(asked.build_id)
    [due] = builds.due()
    builds.finish(asked.build_id, claim(builds, due), gate_asked=False)
    assert builds.claim(due, 60) is None
    assert builds.get(asked.build_id).finished_at is not None


def test_ending_takes_a_build_from_its_worker(builds: BuildStore):
    asked = ask(builds)
    token = claim(builds, asked)
    assert builds.end(asked.build_id, BuildState.CANCELLED, "enough", among=[BuildState.QUEUED])
    assert not builds.end(asked.build_id, BuildState.CANCELLED, among=[BuildState.QUEUED])
    with pytest.raises(LostBuild):
        builds.save(asked.build_id, token, 60, done=1)
    ended = builds.get(asked.build_id)
    assert (ended.state, ended.reason, ended.done) == ("cancelled", "enough", 0)
    assert builds.due() == []


def test_the_newest_build_that_was_not_discarded_is_the_latest(builds: BuildStore, clock: Clock):
    first = ask(builds)
    builds.end(first.build_id, BuildState.FAILED)
    clock.now += 1
    second = ask(builds)
    assert builds.latest("docs").build_id == second.build_id
    builds.end(second.build_id, BuildState.DISCARDED)
    assert builds.latest("docs").build_id == first.build_id
    assert [build.build_id for build in builds.list("docs")] == [second.build_id, first.build_id]
    for missing in (lambda: builds.latest("other"), lambda: builds.get("x")):
        with pytest.raises(NotFound):
            missing()


def test_reasons_are_kept_for_objects_of_any_name(builds: BuildStore):
    asked = ask(builds)
    failures = {"a.b": "one", "$set": "two", "": "three", "x\ny": "four", "\u2028é": "five"}
    saved = builds.save(asked.build_id, claim(builds, asked), 60, failures=failures, failed=5)
    assert saved.failures == builds.get(asked.build_id).failures == failures


def test_a_long_reason_is_cut(builds: BuildStore):
    asked = ask(builds)
    builds.give_back(asked.build_id, claim(builds, asked), "x" * 5_000)
    assert builds.get(asked.build_id).reason == "x" * MAX_REASON


def test_rate_and_time_left_are_those_of_the_stage():
    build = Build("b", "docs", "words@1", "words", True, stage=Stage.OBJECTS, stage_at=100.0)
    assert build.rate(110) is build.eta(110) is None
    half = replace(build, done=50, total=100)
    assert (half.rate(110), half.eta(110)) == (5.0, 10.0)
    assert half.eta(100) is None
    assert replace(half, total=None).eta(110) is None
    assert replace(half, total=40).eta(110) == 0.0


def test_of_an_ended_build_the_rate_is_what_it_was_then():
    build = Build(
        "b", "docs", "words@1", "words", True,
        state=BuildState.CANCELLED, done=50, total=100, stage_at=100.0, finished_at=110.0,
    )  # fmt: skip
    shown = build.as_json(now=1_000_000.0)
    assert (shown["rate"], shown["eta_seconds"], shown["state"]) == (5.0, None, "cancelled")

"""Experiments over HTTP and on the command line: assignment, results, and sessions that clients register."""

import json
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import structlog
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from improvement.__main__ import app
from improvement.api import create_app
from improvement.domain import SearchDomain
from improvement.experiments.assignment import assigned
from improvement.experiments.settings import Metric
from improvement.settings import Settings
from improvement.wiring import Rooms, build
from tests.improvement.experiments.experiment_domain import EXPERIMENT
from tests.improvement.experiments.experiment_domain import domain as cli_domain
from tests.support import click, make_objects, make_session, serving

SEARCH = "/api/v1/embeddings/similarity-search"
SESSION, EVENTS = "/api/v1/clickstream/session", "/api/v1/clickstream/session/events"
ASSIGNMENT, RESULTS = "/api/v1/experiment/assignment", "/api/v1/internal/experiment"
CONTROL, OTHER = (arm.name for arm in EXPERIMENT.arms)


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return replace(domain, experiment=EXPERIMENT, evidence=cli_domain.evidence)


def user_in(arm: str | None) -> str:
    found = ((f"user {n}", assigned(EXPERIMENT, f"user {n}")) for n in range(10_000))
    return next(user for user, one in found if (None if one is None else one.name) == arm)


def results(service: httpx.Client, **period: Any) -> dict[str, Any]:
    response = service.get(RESULTS, params=period)
    assert response.status_code == 200, response.text
    told: dict[str, Any] = json.loads(response.text, parse_constant=lambda name: pytest.fail(name))
    return told


def sessions(told: dict[str, Any]) -> list[int]:
    return [arm["sessions"] for arm in told["arms"]]


# --- over HTTP


def test_anybody_can_be_asked_about(service: httpx.Client, domain: SearchDomain):
    for user in ("ann", "a/b?c&d=e#f", "line\nbreak\0nul", "ünïcödé 🎲", "x" * 512, user_in(None)):
        told = service.get(f"{ASSIGNMENT}?user_id={quote(user, safe='')}").json()
        arm = assigned(EXPERIMENT, user)
        assert told == {
            "domain": domain.name,
            "user_id": user,
            "experiment": EXPERIMENT.name if arm else None,
            "arm": arm.name if arm else None,
            "treatment": arm.treatment if arm else None,
        }
    assert told["arm"] is None


def test_what_is_no_question_is_422(service: httpx.Client):
    assert service.get(ASSIGNMENT).status_code == 422
    for wrong in ({"user_id": ""}, {"user_id": "x" * 513}, {"user_id": "a", "domain": "elsewhere"}):
        assert service.get(ASSIGNMENT, params=wrong).status_code == 422
    for wrong in ({"since": "nan"}, {"until": "inf"}, {"since": -1}, {"since": "soon"}, {"domain": "x"}):
        response = service.get(RESULTS, params=wrong)
        assert response.status_code == 422, wrong
        assert next(iter(wrong)) in response.text
    backwards = service.get(RESULTS, params={"since": 200, "until": 100})
    assert (backwards.status_code, "until" in backwards.text) == (422, True)


def test_a_domain_without_an_experiment_has_no_results_and_no_arms(settings: Settings, domain: SearchDomain):
    rooms = build(settings, {domain.name: replace(domain, experiment=None)})
    try:
        with serving(create_app(rooms)) as service:
            missing = service.get(RESULTS)
            assert (missing.status_code, "no experiment" in missing.text) == (404, True)
            told = service.get(ASSIGNMENT, params={"user_id": "ann"}).json()
            assert (told["experiment"], told["arm"], told["treatment"]) == (None, None, None)
    finally:
        rooms.close()


def test_results_are_for_operators_and_assignment_for_clients(settings: Settings, domain: SearchDomain):
    keys = {"api_client_keys": (SecretStr("c" * 32),), "api_operator_keys": (SecretStr("o" * 32),)}
    rooms = build(settings.model_copy(update=keys), {domain.name: domain})
    try:
        for key, expected in (("c" * 32, (200, 403)), ("o" * 32, (200, 200)), ("", (401, 401))):
            with serving(create_app(rooms), headers={"X-API-Key": key} if key else None) as service:
                asked = service.get(ASSIGNMENT, params={"user_id": "ann"}), service.get(RESULTS)
            assert tuple(one.status_code for one in asked) == expected
    finally:
        rooms.close()


def test_a_client_may_register_an_arms_sessions_itself(service: httpx.Client):
    body = {"session_id": "s1", "search_query": "q", "user_id": "ann", "search_results": [{"object_id": "a"}]}
    named = body | {"experiment": EXPERIMENT.name, "arm": OTHER}
    assert service.post(SESSION, json=named).status_code == 200
    kept = service.get(SESSION, params={"session_id": "s1"}).json()
    assert (kept["experiment"], kept["arm"]) == (EXPERIMENT.name, OTHER)
    for n, unknown in enumerate(
        ({"arm": "gone"}, {"experiment": "another"}, {"arm": None}, {"user_id": None}), start=2
    ):
        assert service.post(SESSION, json=named | {"session_id": f"s{n}"} | unknown).status_code == 200
    told = results(service)
    assert sessions(told) == [0, 1]
    assert told["left_out"] == {"of an arm that is not configured": 2, "without a user": 1}
    for wrong in ({"arm": ""}, {"arm": "x" * 65}, {"experiment": 5}):
        response = service.post(SESSION, json=named | {"session_id": "w"} | wrong)
        assert (response.status_code, next(iter(wrong)) in response.text) == (422, True)


def test_a_session_of_no_experiment_looks_as_it_always_did(service: httpx.Client):
    body = {"session_id": "s1", "search_query": "q", "user_id": "ann"}
    service.post(SESSION, json=body)
    kept = service.get(SESSION, params={"session_id": "s1"}).json()
    assert not {"experiment", "arm", "mixed"} & kept.keys()


def test_the_servers_clock_says_when_a_session_was(rooms: Rooms, domain: SearchDomain, service: httpx.Client):
    now = time.time()
    for n, at in enumerate((0, int(now), int(now) + 10**6)):
        arm = {"experiment": EXPERIMENT.name, "arm": OTHER}
        session = make_session(f"s{n}", f"u{n}", ["a"], created_at=at, domain=domain.name, **arm)
        rooms.clickstream.register(session)
    assert sessions(results(service, since=now - 60)) == [0, 3]
    assert sessions(results(service, until=now - 60)) == [0, 0]
    assert sessions(results(service, since=now + 60, until=now + 120)) == [0, 0]
    assert sessions(results(service, since=now, until=now)) == [0, 0]


def test_who_is_erased_counts_no_more(rooms: Rooms, domain: SearchDomain, service: httpx.Client):
    for n in range(4):
        arm = {"experiment": EXPERIMENT.name, "arm": OTHER}
        rooms.clickstream.register(make_session(f"s{n}", f"u{n % 2}", ["a"], domain=domain.name, **arm))
        rooms.clickstream.push_events([(f"s{n}", click("a"))])
    assert sessions(results(service)) == [0, 4]
    assert service.delete("/api/v1/users/u1").status_code == 200
    told = results(service)
    assert sessions(told) == [0, 2]
    assert told["arms"][1]["users"] == 1
    assert "u0" not in json.dumps(told), "results name nobody"


def test_an_arm_that_is_better_is_found_by_users_of_the_served_service(
    rooms: Rooms, domain: SearchDomain, service: httpx.Client
):
    """Everybody is looking for the last object, which copies put first and originals do not."""
    objects = make_objects(domain, 6, max_parts=1)
    rooms.vectors.upsert(domain.name, objects)
    query = (objects[0].parts[0] + 0.1).tolist()
    plain = service.post(SEARCH, json={"search_query": query, "limit": 6}).json()["search_results"]
    last = next(o for o in objects if o.object_id == plain[-1]["object_id"])
    users = [f"user {n}" for n in range(90)]
    rooms.vectors.upsert(
        domain.name,
        [
            replace(
                last, object_id=f"{last.object_id}_{user}", user_id=user, original_id=last.object_id,
                parts=objects[0].parts,
            )
            for user in users
        ],
    )  # fmt: skip
    coin = random.Random(0)
    for user in users:
        body = {"search_query": query, "limit": 6, "user_id": user, "create_session": True}
        answer = service.post(SEARCH, json=body).json()
        for place, result in enumerate(answer["search_results"][:2]):
            if result["object_id"] == last.object_id and coin.random() < 0.9 / (1 + place):
                event = {"event_id": "e", "object_id": last.object_id, "event_type": "click"}
                service.post(EVENTS, json={"session_id": answer["session_id"], "events": [event]})
    told = results(service)
    counts = {arm.name: 0 for arm in EXPERIMENT.arms}
    for user in users:
        if (arm := assigned(EXPERIMENT, user)) is not None:
            counts[arm.name] += 1
    assert {arm["name"]: arm["users"] for arm in told["arms"]} == counts
    assert told["sample_ratio"]["mismatch"] is False
    assert told["arms"][0]["metrics"]["clickthrough"]["mean"] == 0
    assert told["arms"][1]["metrics"]["clickthrough"]["mean"] > 0.7
    better = told["arms"][1]["differences"]["clickthrough"]
    assert (better["verdict"], better["adjusted_p"] < 0.01) == ("better", True)
    assert better["always_low"] > 0.2


# --- on the command line


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    environment = {
        "MONGO_URL": settings.mongo_url.get_secret_value() if settings.mongo_url else "",
        "MONGO_DATABASE": settings.mongo_database,
        "DATA_DIR": str(settings.data_dir),
        "DOMAINS": "tests.improvement.experiments.experiment_domain:domain",
        "COLUMNS": "160",
    }

    def invoke(*arguments: str, **changes: str) -> Result:
        return CliRunner().invoke(app, list(arguments), env=environment | changes)

    monkeypatch.chdir(settings.data_dir.parent)
    yield invoke
    structlog.reset_defaults()


def test_operators_see_tables_json_and_a_plot(settings: Settings, run: Any, tmp_path: Path):
    rooms = build(settings, {cli_domain.name: cli_domain})
    coin, new = random.Random(1), []
    for n in range(240):
        arm = EXPERIMENT.arms[n % 2].name
        named = {"experiment": EXPERIMENT.name, "arm": arm, "domain": cli_domain.name}
        new.append((make_session(f"s{n}", f"u{n % 120}", ["a", "b"], **named), None))
    rooms.clickstream.register_many(new)
    clicked = [one.session_id for n, (one, _) in enumerate(new) if coin.random() < (0.8 if n % 2 else 0.2)]
    rooms.clickstream.push_events([(session_id, click("a")) for session_id in clicked])
    rooms.close()

    shown = run("experiment", "results")
    assert shown.exit_code == 0, shown.output
    for text in ("does [it] help?", "[b]copies", "clickthrough (primary)", "better", "for all looks"):
        assert text in shown.stdout
    plot = tmp_path / "arms.svg"
    told = run("experiment", "results", "--json", "--plot", str(plot), "--since", "2020-01-01")
    parsed = json.loads(told.stdout)
    assert parsed["since"] == 1_577_836_800
    assert parsed["arms"][1]["differences"]["clickthrough"]["verdict"] == "better"
    assert set(parsed["arms"][0]["metrics"]) == {metric.value for metric in Metric}
    assert plot.read_text().startswith("<?xml")
    empty = json.loads(run("experiment", "results", "--until", "2020-01-01", "--json").stdout)
    assert sessions(empty) == [0, 0]
    assert len(empty["warnings"]) == 2
    assert run("experiment", "results", "--until", "2020-01-01", "--plot", str(plot)).exit_code == 0
    rows = json.loads(run("experiment", "assign", "ann", "bob", "--json").stdout)
    assert [row["user_id"] for row in rows] == ["ann", "bob"]
    assert "ann" in run("experiment", "assign", "ann").stdout


def test_what_cannot_be_done_is_said_with_an_exit_code(run: Any, tmp_path: Path):
    without = {"DOMAINS": "tests.worker_domain:domain"}
    for arguments in (("results",), ("assign", "ann")):
        refused = run("experiment", *arguments, **without)
        assert (refused.exit_code, "no experiment" in refused.stderr) == (1, True)
    backwards = run("experiment", "results", "--since", "2026-01-02", "--until", "2026-01-01")
    assert (backwards.exit_code, "until" in backwards.stderr) == (1, True)
    for wrong in (
        ("results", "--since", "yesterday"), ("results", "--domain", "elsewhere"), ("assign",),
        ("results", "--plot", str(tmp_path / "arms.nothing")),
        ("results", "--plot", str(tmp_path / "no" / "folder.svg")),
    ):  # fmt: skip
        refused = run("experiment", *wrong)
        assert (refused.exit_code, "Traceback" in refused.output) == (2, False), wrong

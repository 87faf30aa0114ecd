"""Alerts, audits, promotions and the brake, over HTTP and on the command line."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from pydantic import SecretStr
from typer.testing import CliRunner

from improvement.__main__ import app
from improvement.api import create_app
from improvement.domain import SearchDomain
from improvement.quality.alerts import Alert, Severity
from improvement.quality.healing import HEALED
from improvement.settings import Settings
from improvement.wiring import Rooms, build
from tests.support import make_objects, serving
from tests.worker_domain import domain as cli_domain

INTERNAL = "/api/v1/internal"


def test_alerts_are_listed_of_all_domains_or_one(rooms: Rooms, domain: SearchDomain, service: httpx.Client):
    rooms.alerts.tell(Alert(domain.name, "a", Severity.ALARM, "first"))
    rooms.alerts.tell(Alert("elsewhere", "a", Severity.WARNING, "second"))
    rooms.alerts.tell(Alert(domain.name, "b", Severity.WARNING, "third"))
    rooms.alerts.over(domain.name, "b")

    def messages(**query: Any) -> list[str]:
        return [one["message"] for one in service.get(f"{INTERNAL}/alerts", params=query).json()["alerts"]]

    assert messages() == ["second", "first"]
    assert messages(domain=domain.name) == ["first"]
    assert messages(domain=domain.name, over=True) == ["third", "first"]
    assert service.get(f"{INTERNAL}/alerts", params={"domain": "x"}).status_code == 422


def test_an_audit_can_be_asked_for_and_is_kept(rooms: Rooms, domain: SearchDomain, service: httpx.Client):
    rooms.vectors.upsert(rooms.releases.blue(domain.name).collection_id, make_objects(domain, 5))
    assert service.get(f"{INTERNAL}/audit").json() == {"domain": domain.name, "audits": []}
    made = service.post(f"{INTERNAL}/audit", json={}).json()
    assert (made["grade"], made["release"]) == ("good", "words-v1")
    assert service.get(f"{INTERNAL}/audit").json()["audits"] == [made]
    assert service.get(f"{INTERNAL}/audit", params={"limit": 0}).status_code == 422


def test_the_brake_is_pulled_let_go_and_says_who_did_it(
    rooms: Rooms, domain: SearchDomain, service: httpx.Client
):
    rooms.alerts.tell(Alert(domain.name, HEALED, Severity.WARNING, "it healed itself"))
    assert service.get(f"{INTERNAL}/learning").json()["frozen"] is False
    said = {"by": "ann", "why": "spam"}
    frozen = service.post(f"{INTERNAL}/learning/freeze", json=said).json()
    assert (frozen["frozen"], frozen["by"], frozen["why"]) == (True, "ann", "spam")
    assert rooms.alerts.open() == [], "somebody looked at it"
    resumed = service.post(f"{INTERNAL}/learning/resume", json=said | {"rate": 0.5}).json()
    assert (resumed["frozen"], resumed["rate"]) == (False, 0.5)
    restored = service.post(f"{INTERNAL}/learning/restore", json=said).json()
    assert (restored["release"], restored["rolled_back"]) == ("words-v1", False)


#: Who and why must be said and be short, and a rate is a share.
WRONG: list[dict[str, Any]] = [
    {}, {"by": "ann"}, {"why": "spam"}, {"by": "", "why": "spam"}, {"by": "ann", "why": "x" * 1_001},
    {"by": "a" * 201, "why": "spam"}, {"by": "ann", "why": "\ud800"}, {"by": 3, "why": []},
    {"by": "ann", "why": "spam", "rate": 0}, {"by": "ann", "why": "spam", "rate": 1.5},
    {"by": "ann", "why": "spam", "rate": "NaN"}, {"by": "ann", "why": "spam", "domain": "x"},
]  # fmt: skip


def test_what_cannot_be_meant_is_refused(rooms: Rooms, domain: SearchDomain, service: httpx.Client):
    for body in WRONG:
        content, headers = json.dumps(body).encode(), {"content-type": "application/json"}
        answer = service.post(f"{INTERNAL}/learning/resume", content=content, headers=headers)
        assert answer.status_code == 422, body
    assert rooms.learning.of(domain.name).at == 0


def test_only_operators_may_look_and_brake(rooms: Rooms, settings: Settings):
    keys = {"api_client_keys": (SecretStr("c" * 16),), "api_operator_keys": (SecretStr("o" * 16),)}
    closed = replace(rooms, settings=settings.model_copy(update=keys))
    paths = [("GET", p) for p in ("alerts", "audit", "promotions", "learning")]
    paths += [("POST", p) for p in ("audit", "learning/freeze", "learning/resume", "learning/restore")]
    with serving(create_app(closed)) as client:
        for method, path in paths:
            for key, status in (("", 401), ("c" * 16, 403)):
                answer = client.request(method, f"{INTERNAL}/{path}", headers={"X-API-Key": key}, json={})
                assert answer.status_code == status, path


# On the command line


@pytest.fixture
def run(mongo_url: str, database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    environment = {
        "MONGO_URL": mongo_url,
        "MONGO_DATABASE": database.name,
        "DATA_DIR": str(tmp_path / "data"),
        "DOMAINS": "tests.worker_domain:domain",
        "COLUMNS": "300",
    }
    yield lambda *arguments: CliRunner().invoke(app, list(arguments), env=environment)
    structlog.reset_defaults()


@pytest.fixture
def stored(mongo_url: str, database: Any, tmp_path: Path) -> Iterator[Rooms]:
    settings = Settings(
        _env_file=None, mongo_url=mongo_url, mongo_database=database.name, data_dir=tmp_path / "data"
    )
    rooms = build(settings, {cli_domain.name: cli_domain})
    yield rooms
    rooms.close()


def test_the_command_line_audits_and_draws_how_it_went(run: Any):
    assert "no audit yet" in run("audit").stdout
    for _ in range(2):
        made = json.loads(run("audit", "--now", "--json").stdout)
    assert [one["grade"] for one in made["audits"]] == ["good", "good"]
    shown = run("audit").stdout
    for words in ("drift of profiles, a day", "evidence an hour", "▁▁", "too little to judge yet"):
        assert words in shown


def test_the_command_line_freezes_and_resumes_learning(run: Any):
    [frozen] = json.loads(run("learning", "freeze", "--why", "spam", "--by", "ann", "--json").stdout)
    assert (frozen["frozen"], frozen["by"]) == (True, "ann")
    assert "spam" in run("learning", "status").stdout
    [resumed] = json.loads(run("learning", "resume", "--why", "gone", "--rate", "0.5", "--json").stdout)
    assert (resumed["frozen"], resumed["rate"]) == (False, 0.5)
    assert resumed["by"], "the login name"
    refused = run("learning", "resume", "--why", "faster", "--rate", "2")
    assert (refused.exit_code, "rate: expected" in refused.stderr) == (1, True)
    assert run("learning", "freeze").exit_code == 2, "nobody brakes without saying why"
    [restored] = json.loads(run("learning", "restore", "--why", "spam", "--json").stdout)
    assert restored["rolled_back"] is False


def test_the_command_line_lists_alerts_and_promotions(run: Any, stored: Rooms):
    stored.alerts.tell(Alert(cli_domain.name, "drift.objects", Severity.ALARM, "objects moved"))
    stored.releases.create(cli_domain, "v2")
    stored.close()
    assert run("collections", "set-blue", "v2").exit_code == 0
    assert run("collections", "rollback").exit_code == 0
    [alert] = json.loads(run("alerts", "--json").stdout)
    assert (alert["kind"], alert["open"]) == ("drift.objects", True)
    assert "objects moved" in run("alerts").stdout
    history = json.loads(run("promotions", "--json").stdout)
    assert [(one["gated"], one["undone"]) for one in history] == [(False, True), (False, False)]
    assert "by hand" in run("promotions").stdout
    assert run("alerts", "--domain", "x").exit_code == 2

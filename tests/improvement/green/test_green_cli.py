"""`python -m improvement green`: what it does and prints, its exit codes, and how it is stopped."""

import getpass
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from pymongo.database import Database
from typer.testing import CliRunner, Result

from improvement import green_cli
from improvement.__main__ import app
from improvement.green import building, gating
from improvement.green.builds import BuildState
from improvement.green.mirror import Mirror
from improvement.green.reports import GateReport
from improvement.settings import Settings
from improvement.wiring import build
from tests.support import make_objects
from tests.worker_domain import domain as WORK


@pytest.fixture
def settings(mongo_url: str, database: Database[Any], tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None, mongo_url=mongo_url, mongo_database=database.name, data_dir=tmp_path / "data",
        domains=("tests.worker_domain:domain",),
    )  # fmt: skip


@pytest.fixture
def run(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # wide enough that no line is broken
    assert settings.mongo_url is not None
    environment = {
        "MONGO_URL": settings.mongo_url.get_secret_value(),
        "MONGO_DATABASE": settings.mongo_database,
        "DATA_DIR": str(settings.data_dir),
        "DOMAINS": "tests.worker_domain:domain",
    }

    def invoke(*arguments: str, **changes: str) -> Result:
        return CliRunner().invoke(app, ["green", *arguments], env=environment | changes)

    yield invoke
    structlog.reset_defaults()  # the commands configure logging for their process, which is ours here


@pytest.fixture
def filled(settings: Settings) -> None:
    rooms = build(settings, {WORK.name: WORK})
    rooms.vectors.upsert(rooms.releases.blue(WORK.name).collection_id, make_objects(WORK, 30))
    rooms.close()


def state(run: Any, *arguments: str) -> dict[str, Any]:
    result = run("status", "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.usefixtures("filled")
def test_a_build_is_filled_forced_to_serve_rolled_back_and_discarded(run: Any):
    done = run("build", "--no-population", "--by", "ann")
    assert done.exit_code == 0, done.stderr
    assert "built" in done.stdout
    first = state(run)
    assert (first["state"], first["asked_by"], first["population"], first["failed"]) == (
        "built",
        "ann",
        False,
        0,
    )
    assert (first["release"]["work_state"], first["release"]["follows"], first["gate"]) == (
        "green",
        True,
        None,
    )
    assert "not run yet" in run("status").stdout
    refused = run("promote")
    assert (refused.exit_code, "green gate" in refused.stderr) == (1, True)
    forced = run("promote", "--force", "a test", "--by", "ann", "--json")
    assert forced.exit_code == 0, forced.stderr
    assert json.loads(forced.stdout)["embedding_model"]["id"] == first["embedding_model_id"]
    assert state(run)["release"]["work_state"] == "blue"
    assert "serves" in run("discard").stderr
    back = run("rollback", "--why", "a test")
    assert (back.exit_code, back.stdout.split()[0]) == (0, "words-v1")
    gone = run("discard", "--build", first["build_id"], "--json")
    assert json.loads(gone.stdout)["state"] == "discarded"
    assert "has no build" in run("status").stderr
    assert state(run, "--build", first["build_id"])["release"] is None


def test_a_detached_build_waits_for_a_worker_and_can_be_cancelled_or_gone_on_with(run: Any):
    queued = run("build", "--detach")
    assert queued.exit_code == 0
    build_id = queued.stdout.strip()
    assert state(run)["state"] == "queued"
    busy = run("build")
    assert (busy.exit_code, build_id in busy.stderr) == (1, True)
    assert run("build", "--resume").exit_code == 0
    assert state(run)["build_id"] == build_id
    assert "nothing to resume" in run("build", "--resume").stderr
    run("build", "--detach")
    assert "cancelled" in run("cancel").stdout
    assert "cancelled already" in run("cancel").stderr


@pytest.mark.usefixtures("filled")
def test_interrupted_it_says_how_to_go_on_and_goes_on_there(run: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(building, "PAGE", 10)
    fill, pages = Mirror.fill, list[Any]()

    def interrupt(*given: Any, **named: Any) -> Any:
        pages.append(given[5])
        if len(pages) == 2:
            raise KeyboardInterrupt
        return fill(*given, **named)

    monkeypatch.setattr(Mirror, "fill", interrupt)
    stopped = run("build", "--no-population")
    assert stopped.exit_code == 1
    assert "--resume" in stopped.stderr
    half = state(run)
    assert (half["state"], half["stage"], half["done"], half["total"]) == ("building", "objects", 10, 30)
    assert run("build", "--resume").exit_code == 0
    assert pages[2] == pages[1], "the page at which it stopped"
    assert len(pages) == 4
    assert state(run)["state"] == "built"


def test_a_build_that_fails_leaves_with_one_and_says_why(run: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(building, "spaces_of", lambda rooms, domain: [])
    failed = run("build")
    assert failed.exit_code == 1
    assert "has the space 'words-v1' any more" in failed.stdout
    assert state(run)["state"] == "failed"


@pytest.mark.parametrize("passed", [True, False])
@pytest.mark.usefixtures("filled")
def test_a_gate_shows_rules_and_metrics_and_its_exit_code_says_whether_it_passed(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passed: bool
):
    run("build", "--no-population")
    asked: dict[str, Any] = {}
    estimate = {"mean": 0.25, "low": 0.125, "high": 0.5, "samples": 9}
    found = {
        "rules": [
            {"rule": "mrr", "threshold": -0.01, "found": 0.125, "passed": passed, "sentence": "s"},
            {"rule": "drift", "threshold": 0.3, "found": None, "passed": True, "sentence": "s"},
        ],
        "metrics": {"blue": {"mrr": estimate}, "green": {"mrr": estimate}, "differences": {"mrr": estimate}},
    }

    def run_gate(rooms: Any, build: Any, **given: Any) -> GateReport:
        asked.update(given)
        reasons = () if passed else ("MRR is worse",)
        return GateReport("r" * 32, WORK.name, build.build_id, "g", "b", passed, reasons, found, 1.0)

    monkeypatch.setattr(gating, "run_gate", run_gate)
    monkeypatch.setattr(green_cli, "WATCH", 0)
    folder, html = tmp_path / "data set", tmp_path / "gate.html"
    folder.mkdir()
    done = run("gate", "--dataset", str(folder), "--html", str(html), "--seed", "3")
    assert done.exit_code == (0 if passed else 1), done.stderr
    assert (asked["dataset"], asked["seed"]) == (folder, 3)
    assert "0.2500 (0.1250 to 0.5000)" in done.stdout
    assert ("- MRR is worse" in done.stdout) is not passed
    assert html.read_text("utf-8").startswith("<!doctype html>")
    as_json = run("gate", "--json")
    assert json.loads(as_json.stdout)["passed"] is passed
    assert as_json.exit_code == (0 if passed else 1)


@pytest.mark.usefixtures("filled")
def test_a_real_gate_runs_and_refuses_without_sessions(run: Any):
    run("build", "--no-population")
    refused = run("gate")
    assert refused.exit_code == 1
    assert "sessions" in refused.stdout
    gate = state(run)["gate"]
    assert (gate["passed"], gate["fresh"]) == (False, True)
    assert gate["age_seconds"] < 60
    assert "failed" in run("status").stdout


def test_what_is_at_work_is_watched_until_it_ends(run: Any, monkeypatch: pytest.MonkeyPatch):
    run("build", "--detach")
    looks = 0

    def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            store = stores[0]
            store.end(store.latest(WORK.name).build_id, BuildState.CANCELLED, "by a test")

    stores: list[Any] = []
    find = green_cli.orders.find_build
    monkeypatch.setattr(
        green_cli.orders, "find_build", lambda store, *given: (stores.append(store), find(store, *given))[1]
    )
    monkeypatch.setattr(green_cli, "time", SimpleNamespace(sleep=sleep, time=lambda: 0.0))
    watched = run("status", "--watch")
    assert (watched.exit_code, looks) == (0, 2)
    assert "by a test" in watched.stdout
    lines = run("status", "--watch", "--json").stdout.splitlines()
    assert [json.loads(line)["state"] for line in lines] == ["cancelled"]


def test_who_does_it_is_the_login_name_unless_said(run: Any):
    run("build", "--detach")
    assert state(run)["asked_by"] == getpass.getuser()


REFUSED = [
    (["build", "--space", "words-v9"], "expected one of ['words-v1']"),
    (["status"], "domain 'work' has no build"),
    (["status", "--build", "0" * 32], "there is no build"),
    (["rollback"], "no earlier blue collection"),
]


def test_what_is_refused_is_one_line_and_exit_code_one(run: Any):
    for arguments, says in REFUSED:
        refused = run(*arguments)
        assert refused.exit_code == 1, arguments
        assert says in refused.stderr.replace("\n", "")
        assert "Traceback" not in refused.stderr


WRONG = [
    ["build", "--resume", "--detach"],
    ["build", "--resume", "--space", "words-v1"],
    ["build", "--domain", "nothing"],
    ["gate", "--html", "no/such/folder/gate.html"],
    ["gate", "--dataset", "no/such/folder"],
    ["gate", "--seed", "-1"],
    ["nonsense"],
]


def test_wrong_usage_is_exit_code_two(run: Any):
    for arguments in WRONG:
        assert run(*arguments).exit_code == 2, arguments

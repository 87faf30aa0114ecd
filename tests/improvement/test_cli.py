"""The operator's command line: what it prints, and its exit codes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner, Result

from improvement.__main__ import app
from improvement.edge import EdgeClient
from improvement.settings import template


@pytest.fixture
def run(mongo_url: str, database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    environment = {
        "MONGO_URL": mongo_url,
        "MONGO_DATABASE": database.name,
        "DATA_DIR": str(tmp_path / "data"),
        "DOMAINS": "tests.worker_domain:domain",
    }

    def invoke(*arguments: str, **changes: str) -> Result:
        return CliRunner().invoke(app, list(arguments), env=environment | changes)

    yield invoke
    structlog.reset_defaults()  # the commands configure logging for their process, which is ours here


def test_collections_go_blue_and_back(run: Any):
    [first] = json.loads(run("collections", "list", "--json").stdout)
    assert (first["work_state"], first["embedding_model"]["id"]) == ("blue", "words-v1")
    [created] = json.loads(run("collections", "create", "words-v2", "--json").stdout)
    assert created["work_state"] == "green"
    [promoted] = json.loads(run("collections", "set-blue", "words-v2", "--json").stdout)
    assert promoted["work_state"] == "blue"
    refused = run("collections", "delete", "words-v2")
    assert (refused.exit_code, "is blue" in refused.stderr) == (1, True)
    [back] = json.loads(run("collections", "rollback", "--json").stdout)
    assert back["embedding_model"]["id"] == "words-v1"
    again = run("collections", "rollback")
    assert (again.exit_code, "roll back" in again.stderr) == (1, True)
    assert run("collections", "delete", "words-v2").exit_code == 0
    assert run("collections", "set-blue", "words-v2").exit_code == 1


def test_the_queue_the_stores_and_an_improvement_are_one_command_away(run: Any):
    assert json.loads(run("queue", "--json").stdout) == [{"pending": 0, "done": 0, "skipped": 0, "failed": 0}]
    assert {row["answer"] for row in json.loads(run("ready", "--json").stdout)} == {"ok"}
    [result] = json.loads(run("improve", "--json").stdout)
    assert result["ended"] == 0
    assert "pending" in run("queue").stdout


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"DOMAINS": "plugins.nothing:domain"}, "plugins.nothing"),
        ({"DOMAINS": "plugins.documents:info"}, "expected a SearchDomain"),
        ({"DOMAINS": "tests.worker_domain:domain,tests.worker_domain:domain"}, "no other domain has"),
        ({"ENVIRONMENT": "production"}, "must be set when ENVIRONMENT=production"),
        ({"SESSION_IDLE_SECONDS": "soon"}, "SESSION_IDLE_SECONDS"),
        ({"HOST": "0.0.0.0"}, "loopback"),
    ],
)
def test_what_stops_start_up_is_one_line_and_exit_code_one(run: Any, changes: dict[str, str], says: str):
    result = run("queue", **changes)
    assert result.exit_code == 1
    assert says in result.stderr.replace("\n", "")
    assert "Traceback" not in result.stderr


def test_a_folder_in_use_is_said_in_a_sentence(run: Any, tmp_path: Path):
    owner = EdgeClient(tmp_path / "data" / "qdrant")
    result = run("queue")
    owner.close()
    assert result.exit_code == 1
    assert "in use by another process" in result.stderr.replace("\n", " ")


def test_settings_are_printed_as_an_env_file(run: Any):
    assert run("settings").stdout == template()


def test_wrong_usage_is_exit_code_two(run: Any):
    assert run("collections", "set-blue").exit_code == 2
    assert run("nonsense").exit_code == 2

"""`python -m improvement replay`: what it prints, and its exit codes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import torch
from typer.testing import CliRunner, Result

from improvement.__main__ import app
from improvement.settings import Settings
from improvement.wiring import build
from tests.improvement.evaluation.conftest import Write
from tests.support import click, make_objects, make_session
from tests.worker_domain import domain as DOMAIN

ROOT = Path(__file__).parents[3]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    threads = torch.get_num_threads()
    # wide enough that no message is broken into lines
    monkeypatch.setenv("COLUMNS", "300")
    yield lambda *arguments, **env: CliRunner().invoke(app, ["replay", *map(str, arguments)], env=env)
    torch.set_num_threads(threads)
    structlog.reset_defaults()


def process(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "improvement", "replay", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_replay_leaves_with_zero_and_only_its_table_on_stdout(write: Write, tmp_path: Path):
    out = tmp_path / "out.json"
    done = process("--dataset", write(), "--adjuster", "torch", "--set", "adjustment_rate=0.2", "--json", out)
    assert done.returncode == 0, done.stderr
    assert "heldout.unseen_ndcg@10" in done.stdout
    assert "difference" in done.stdout
    told = json.loads(out.read_text())
    assert [row["method"] for row in told["rows"]] == ["no learning", "torch"]
    assert told["rows"][1]["settings"]["adjuster"]["adjustment_rate"] == 0.2
    assert told["source"]["users"] == 2


def test_a_folder_that_cannot_be_used_leaves_with_one_and_a_sentence(write: Write):
    done = process("--dataset", write(topics_jsonl=b"nonsense\n"))
    assert done.returncode == 1
    assert "topics.jsonl, line 1" in done.stderr.replace("\n", "")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_wrong_usage_leaves_with_two():
    assert process().returncode == 2


def test_asking_for_help_teaches_both_forms(run: Any):
    told = run("--help").stdout
    assert "--dataset movielens-replay" in told
    assert "replay --log" in told
    assert "Exit codes" in told


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--log", "--dataset", "{data}"], "exactly one of --dataset and --log"),
        (["--dataset", "{data}/nowhere"], "does not exist"),
        (["--dataset", "{data}/objects.npy"], "is a file"),
        (["--dataset", "{data}", "--adjuster", "best"], "expected geodesic, torch, none or module:attribute"),
        (["--dataset", "{data}", "--adjuster", "torch", "--set", "rate=1"], "can be set: adjustment_rate,"),
        (["--dataset", "{data}", "--adjuster", "none", "--set", "rate=1"], "'none' has no settings"),
        (["--dataset", "{data}", "--set", "evidence.rate=1"], "what can be set: evidence.events"),
        (["--dataset", "{data}", "--set", "rate"], "expected key=value, got 'rate'"),
        (["--dataset", "{data}", "--set", "profile.interests=8"], "profile.interests: needs --profile"),
        (
            ["--dataset", "{data}", "--profile", "--set", "profile.rate=1"],
            "can be set: profile.learning_rate",
        ),
        (["--dataset", "{data}", "--profile", "--set", "profile.away=2"], "profile.away: expected a number"),
        (["--dataset", "{data}", "--metric", "manhattan"], "'manhattan' is not one of"),
        (["--dataset", "{data}", "--users", "some"], "users: expected all, even, odd or a number"),
        (["--dataset", "{data}", "--days-between-sessions", "-1"], "days-between-sessions"),
        (["--dataset", "{data}", "--domain", "documents"], "belongs to --log"),
        (["--dataset", "{data}", "--test-share", "0.3"], "belongs to --log"),
        (["--dataset", "{data}", "--json", "{data}/nowhere/out.json"], "no folder to write to"),
        (["--log", "--users", "even"], "belongs to --dataset"),
        (["--log", "--metric", "dot"], "belongs to --dataset"),
        (["--log", "--test-share", "1"], "--test-share"),
    ],
)
def test_wrong_usage_is_explained(run: Any, write: Write, arguments: list[str], says: str):
    folder = str(write())
    result = run(*(argument.format(data=folder) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert says in result.stderr


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclid"])
@pytest.mark.parametrize("aggregation", ["min", "avg"])
def test_every_metric_and_aggregation_runs(run: Any, write: Write, metric: str, aggregation: str):
    how = ["--metric", metric, "--aggregation", aggregation, "--users", "1", "--days-between-sessions", "0"]
    result = run("--dataset", write(), *how, "--adjuster", "torch", "--evidence", "published")
    assert result.exit_code == 0, result.output
    assert f"metric: {metric}" in result.stdout
    assert f"aggregation: {aggregation}" in result.stdout


def test_the_table_fits_a_terminal_of_eighty_columns(run: Any, write: Write):
    result = run("--dataset", write(), "--adjuster", "torch", COLUMNS="80")
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "…" not in result.stdout
    assert "fewer than 20 users" in result.stdout


def test_without_adjuster_there_is_one_row(run: Any, write: Write, tmp_path: Path):
    result = run("--dataset", write(), "--adjuster", "none", "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    assert [row["method"] for row in json.loads((tmp_path / "out.json").read_text())["rows"]] == [
        "no learning"
    ]


def test_profiles_come_on_top_of_the_copies_or_alone(run: Any, write: Write, tmp_path: Path):
    out = tmp_path / "out.json"
    how = ["--dataset", write(), "--profile", "--set", "profile.min_interactions=1", "--json", out]
    result = run(*how, "--adjuster", "torch", "--set", "profile.interests=8", COLUMNS="80")
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    told = json.loads(out.read_text())
    assert [row["method"] for row in told["rows"]] == ["no learning", "torch", "torch + profile"]
    asked = told["rows"][2]["settings"]["profile"]
    assert (asked["search_weight"], asked["interests"], asked["min_interactions"]) == (0.25, 8, 1)
    assert told["rows"][2]["versus"].keys() == {"torch"}

    result = run(*how, "--adjuster", "none", "--set", "profile.search_weight=0.5")
    assert result.exit_code == 0, result.output
    told = json.loads(out.read_text())
    assert [row["method"] for row in told["rows"]] == ["no learning", "profile"]
    assert told["rows"][1]["settings"]["profile"]["search_weight"] == 0.5
    assert told["rows"][1]["facts"]["profiles"] == 1  # only one of the two finds what they want


@pytest.fixture
def log(run: Any, mongo_url: str, database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    environment = {
        "MONGO_URL": mongo_url,
        "MONGO_DATABASE": database.name,
        "DATA_DIR": str(tmp_path / "data"),
        "DOMAINS": "tests.worker_domain:domain",
    }

    def invoke(*arguments: str) -> Result:
        result: Result = run("--log", *arguments, **environment)
        return result

    return invoke


def test_the_log_is_replayed_with_the_domains_own_adjuster_or_another(
    log: Any, mongo_url: str, database: Any, tmp_path: Path
):
    empty = log()
    assert (empty.exit_code, "expected at least 2 usable sessions" in empty.stderr) == (1, True)

    settings = Settings(
        _env_file=None, mongo_url=mongo_url, mongo_database=database.name, data_dir=tmp_path / "data"
    )
    rooms = build(settings, {DOMAIN.name: DOMAIN})
    blue = rooms.releases.blue(DOMAIN.name).collection_id
    rooms.vectors.upsert(blue, make_objects(DOMAIN, 5))
    for number in range(10):
        name = f"s{number}"
        rooms.clickstream.register(
            make_session(name, f"u{number % 2}", ["o1", "o2", "o3"], domain=DOMAIN.name)
        )
        rooms.clickstream.push_events([(name, click("o2"))])
    rooms.close()

    own = log("--json", str(tmp_path / "own.json"), "--set", "num_iterations=7")
    assert own.exit_code == 0, own.output
    assert "ips_ndcg@10" in own.stdout
    told = json.loads((tmp_path / "own.json").read_text())
    assert [row["method"] for row in told["rows"]] == ["as shown", "no learning", "TorchBasedAdjuster"]
    assert told["rows"][2]["settings"]["adjuster"]["num_iterations"] == 7
    assert told["rows"][2]["settings"]["adjuster"]["adjustment_rate"] == DOMAIN.adjuster.adjustment_rate
    assert told["rows"][2]["settings"]["evidence"]["saturation"] == DOMAIN.evidence.saturation
    assert (told["source"]["log"], told["source"]["judged"]) == ("work", 2)

    both = log("--json", str(tmp_path / "both.json"), "--profile", "--set", "profile.away=0.5")
    assert both.exit_code == 0, both.output
    assert "judged with profile: 2" in both.stdout
    told = json.loads((tmp_path / "both.json").read_text())
    assert told["rows"][3]["method"] == "TorchBasedAdjuster + profile"
    own_settings = {"away": 0.5, "search_weight": 0.25, "rescored": DOMAIN.profiles.rescored}
    assert own_settings.items() <= told["rows"][3]["settings"]["profile"].items()
    other = log("--adjuster", "torch", "--evidence", "default", "--domain", "work", "--test-share", "0.5")
    assert other.exit_code == 0, other.output
    plain = log("--adjuster", "none", "--limit", "4")
    assert (plain.exit_code, "sessions read: 4" in plain.stdout) == (0, True)
    unknown = log("--domain", "elsewhere")
    assert (unknown.exit_code, "configured: work" in unknown.stderr) == (2, True)
    wrong = log("--set", "evidence.nothing=1")
    assert (wrong.exit_code, "what can be set" in wrong.stderr) == (2, True)

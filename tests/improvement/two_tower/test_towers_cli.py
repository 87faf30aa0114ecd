"""`python -m improvement towers`: what it does and prints, its exit codes, and what it refuses."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from pymongo.database import Database
from typer.testing import CliRunner, Result

from improvement.__main__ import app
from improvement.settings import Settings
from improvement.two_tower import switching
from improvement.wiring import build, improver
from tests.improvement.two_tower.published import begun, come_back, engaged, some_objects, trained, write
from tests.improvement.two_tower.tower_plugin import domain as TOWERED
from tests.improvement.two_tower.tower_plugin import plain as PLAIN

MODULE = "tests.improvement.two_tower.tower_plugin"


@pytest.fixture
def settings(mongo_url: str, database: Database[Any], tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None, mongo_url=mongo_url, mongo_database=database.name, data_dir=tmp_path / "data",
        domains=(f"{MODULE}:domain", f"{MODULE}:plain"),
    )  # fmt: skip


@pytest.fixture
def run(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(switching, "GRACE", 0.0)
    monkeypatch.setenv("COLUMNS", "200")  # wide enough that no line is broken
    assert settings.mongo_url is not None
    environment = {
        "MONGO_URL": settings.mongo_url.get_secret_value(),
        "MONGO_DATABASE": settings.mongo_database,
        "DATA_DIR": str(settings.data_dir),
        "DOMAINS": f"{MODULE}:domain,{MODULE}:plain",
    }

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["towers", *arguments], env=environment)

    yield invoke
    structlog.reset_defaults()  # the commands configure logging for their process, which is ours here


def fill(settings: Settings, users: int = 0, head: bool = False, begin: bool = True) -> str | None:
    """Have towers serve, and users come back; return the newest checkpoint if ``head`` asks for one."""
    rooms = build(settings, {TOWERED.name: TOWERED, PLAIN.name: PLAIN})
    try:
        if not begin:
            write(rooms, TOWERED, some_objects(TOWERED, 30))
            return None
        begun(rooms, improver(rooms), TOWERED)
        come_back(rooms, TOWERED, users)
        return trained(improver(rooms), TOWERED, 1_000.0) if head else None
    finally:
        rooms.close()


def told(run: Any, *arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_an_operator_trains_publishes_gates_promotes_and_goes_back(
    run: Any, settings: Settings, tmp_path: Path
):
    head = fill(settings, users=4, head=True)
    assert head is not None
    before = told(run, "status")
    assert before["newest"]["checkpoint_id"] == head != before["serving"]["checkpoint_id"]
    refused = run("promote")
    assert refused.exit_code == 1
    assert "towers publish" in refused.stderr
    published = run("publish")
    assert published.exit_code == 0, published.stderr
    assert "is published and follows" in published.stdout
    waiting = told(run, "status")["waiting"]
    assert (waiting["checkpoint_id"], waiting["complete"]) == (head, True)
    assert waiting["against"] == ["no gate has tested it"]
    gated = run("gate")
    assert gated.exit_code == 0, gated.stdout
    assert "recall@20" in gated.stdout
    assert "passed" in gated.stdout
    served = run("promote", "--checkpoint", head[:8], "--by", "ann")
    assert served.exit_code == 0, served.stderr
    assert head in served.stdout
    status = run("status")
    assert f"{head[:12]}, candidate, 1,000 engagements" in status.stdout
    rows = told(run, "checkpoints")
    assert {(row["checkpoint_id"] == head, row["serves"]) for row in rows} == {(True, True), (False, False)}
    back = told(run, "rollback", "--why", "ten items for all")
    assert back["embedding_model"]["id"] == before["serving"]["checkpoint_id"]
    assert "bad" in run("status").stdout
    reverted = run("revert", "--why", "a bot")
    assert reverted.exit_code == 0, reverted.stderr
    assert told(run, "status")["newest"]["trained"] == "begun"


def test_training_here_and_now_begins_the_towers_and_learns_every_full_batch(run: Any, settings: Settings):
    fill(settings, begin=False)
    first = told(run, "train")
    assert (first["begun"], first["candidate_batches"], first["reason"]) == (1, 0, None)
    rooms = build(settings, {TOWERED.name: TOWERED, PLAIN.name: PLAIN})
    row = np.eye(8, dtype=np.float32)[0]
    pairs = [pair for n in range(2) for pair in engaged(TOWERED, f"u{n}", ["o1", "o2", "o3"], 1_000.0)]
    rooms.pairs.add(
        [replace(pair, user_vector=row, item_vector=row, space=first["newest"]) for pair in pairs]
    )
    rooms.close()
    shown = run("train")
    assert shown.exit_code == 0, shown.stderr
    rows = told(run, "checkpoints")
    assert {row["trained"] for row in rows} >= {"begun", "candidate"}
    listed = run("checkpoints")
    assert "last loss" in listed.stdout


def test_the_learning_curve_is_a_png(run: Any, settings: Settings, tmp_path: Path):
    fill(settings, head=True)
    drawn = run("curve", "curve.png")
    assert drawn.exit_code == 0, drawn.stderr
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert run("curve", "-").stdout_bytes.startswith(b"\x89PNG")
    assert run("curve", "nowhere/curve.png").exit_code == 2


def test_what_cannot_be_done_says_what_to_do(run: Any, settings: Settings):
    head = fill(settings, head=True)
    assert head is not None
    for arguments, code, says in (
        (("status", "--domain", "plain"), 1, "towers=TowerSettings()"),
        (("status", "--domain", "nobody"), 2, "configured"),
        (("gate", "--checkpoint", "ffff"), 1, "no checkpoint"),
        (("gate",), 1, "towers publish"),
        (("gate", "--checkpoint", head), 1, "no collection"),
        (("rollback",), 1, "no earlier"),
        (("revert",), 2, "--why"),
        (("publish", "--detach", "--checkpoint", head), 2, "newest"),
    ):
        result = run(*arguments)
        assert (result.exit_code, says in result.stderr) == (code, True), (arguments, result.stderr)
    assert run("publish").exit_code == 0
    waits = run("gate")
    assert waits.exit_code == 1
    assert "Ask again when more came back" in waits.stderr
    assert told(run, "publish", "--detach")["publishing"]["asked"]
    assert "docs/towers.md" in run("--help").stdout

"""Each benchmark at a tiny size, run as a person runs it: what it says must be true at any size."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.improvement.evaluation.conftest import write_folder

ROOT = Path(__file__).parents[2]
#: Large enough that the bigger pipeline batch writes more points than one request takes.
TINY = {
    "pipeline": ["1", "30", "--rounds", "2", "--users", "4", "--objects", "300"],
    "search": ["300", "--copies", "40", "--users", "2", "--queries", "6", "--rounds", "3"],
    "recommend": ["300", "--users", "2", "--seen", "20", "--copies", "5", "--calls", "6", "--rounds", "3"],
    "ingest": ["1", "20", "--events", "40", "--rounds", "2", "--strict"],
    "interest_embeddings": [
        "20", "45", "--rounds", "2", "--actions", "20", "--objects", "300", "--dimensions", "16", "--reread",
    ],
    "build": ["200", "400", "--dimensions", "16"],
    "profiles": ["100", "--users", "7", "--objects", "30"],
    "two_tower": [
        "200", "--pairs", "50", "--users", "4", "--events", "10", "--dimensions", "16", "--rounds", "1",
    ],
    "two_tower_live": ["60", "--users", "7", "--objects", "60"],
    "switches": ["3", "--builds", "1", "--objects", "120", "--rate", "40", "--users", "4"],
}  # fmt: skip


@dataclass
class Run:
    code: int
    output: str
    result: dict[str, Any]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """All of them at once: they mostly wait for their stores to start and stop."""
    folder = tmp_path_factory.mktemp("benchmarks")
    environment = {k: v for k, v in os.environ.items() if k not in {"QDRANT_URL", "MONGO_URL"}}
    started = {
        name: subprocess.Popen(
            [sys.executable, ROOT / "benchmarks" / f"{name}.py", *tiny, "--json", folder / f"{name}.json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
            env=environment | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"},
        )
        for name, tiny in TINY.items()
    }  # fmt: skip
    try:
        runs = {}
        for name, process in started.items():
            output, errors = process.communicate(timeout=120)
            assert (folder / f"{name}.json").exists(), errors
            runs[name] = Run(
                process.returncode, output, json.loads((folder / f"{name}.json").read_text("utf-8"))
            )
        yield runs
    finally:
        for process in started.values():
            process.kill()


@pytest.mark.parametrize("name", TINY)
def test_a_benchmark_says_where_it_ran_and_whether_each_goal_was_met(runs: dict[str, Run], name: str):
    run = runs[name]
    assert run.result["benchmark"] == name
    assert run.result["machine"]["cores"] >= 1
    assert run.result["machine"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert run.result["settings"]["seed"] == 7
    assert run.result["goals"]
    for goal in run.result["goals"]:
        assert f"goal: {goal['goal']}: {'met' if goal['met'] else 'MISSED'}" in run.output
        assert f"measured {goal['measured']}" in run.output


@pytest.mark.parametrize("name", TINY)
def test_only_strict_makes_a_missed_goal_an_error(runs: dict[str, Run], name: str):
    missed = not all(goal["met"] for goal in runs[name].result["goals"])
    assert runs[name].code == (1 if missed and "--strict" in TINY[name] else 0)


def test_a_batch_costs_as_many_store_calls_as_one_session_but_for_chunks(runs: dict[str, Run]):
    result = runs["pipeline"].result
    one, many = result["rows"]
    assert (one["sessions"], many["sessions"], one["users"], many["users"]) == (1, 30, 1, 4)
    assert {*one["steps"], *many["steps"]} == {one["steps"][0]}
    assert result["goals"][0]["met"]
    for row in (one, many):
        assert row["calls"].keys() == row["further"].keys()
        for number, copies in enumerate(row["copies"]):
            # Counted by hand, from what was written: a call for each 256 copies, and one for the users.
            chunks = -(-copies // result["settings"]["chunk"])
            assert row["calls"]["Qdrant upsert"][number] == chunks + 1
            all_calls = sum(counts[number] for counts in row["calls"].values())
            further = sum(counts[number] for counts in row["further"].values())
            assert row["steps"][number] == all_calls - further
    assert min(many["copies"]) > result["settings"]["chunk"]
    assert 0 < sum(many["seconds_in"]["Mongo"]) + sum(many["seconds_in"]["Qdrant"]) < sum(many["seconds"])


def test_a_build_is_timed_stage_by_stage_at_every_size(runs: dict[str, Run]):
    result = runs["build"].result
    for row, objects in zip(result["rows"], (200, 400), strict=True):
        assert (row["objects"], row["users"], row["sessions"]) == (
            objects,
            max(2, objects // 100),
            objects // 10,
        )
        assert list(row["seconds"]) == ["evidence", "objects", "copies", "index"]
        assert row["objects_per_second"] == pytest.approx(objects / sum(row["seconds"].values()), rel=0.05)
        assert row["copies"] > 0 < row["turned"]
    for goal, what in zip(result["goals"], ("all but index", "all"), strict=True):
        assert goal["measured"] == f"{result['slopes'][what]:.2f}"
        assert goal["met"] == (result["slopes"][what] <= 1.15)


def test_everything_written_during_switches_is_compared_with_what_all_collections_hold(runs: dict[str, Run]):
    result = runs["switches"].result
    assert [one["what"] for one in result["switches"]] == ["build", "promote", "rollback", "promote"]
    assert result["compared"]["collections"] == 2
    assert 60 < result["compared"]["objects"] <= 120
    assert result["compared"]["lost"] == result["compared"]["doubled"] == result["compared"]["unknown"] == 0
    assert set(result["failed"].values()) == {0}
    assert result["written"] == pytest.approx(result["written_per_second"] * result["seconds"])
    assert result["requests"].keys() == result["milliseconds"].keys() == {"writes", "searches", "sessions"}


def test_searches_are_compared_round_by_round_with_and_without_an_index(runs: dict[str, Run]):
    result = runs["search"].result
    assert [row["engine"] for row in result["rows"]] == ["Edge, no index", "Edge, indexed"]
    for row in result["rows"]:
        assert (row["objects"], row["searches"]) == (300, 18)
        for spent in row["milliseconds"].values():
            assert 0 < spent["p50"] <= spent["p95"]
        assert len(row["ratio_p50"]["personalised"]) == 3
    (goal,) = result["goals"]
    ratio = sorted(result["rows"][1]["ratio_p50"]["personalised"])[1]
    assert goal["measured"] == f"{ratio:.2f}"
    assert goal["met"] == (ratio <= 1.3)


def test_recommendations_are_compared_with_the_bare_engine_round_by_round(runs: dict[str, Run]):
    result = runs["recommend"].result
    rows = {row["kind"]: row for row in result["rows"]}
    assert len(rows) == 7
    for row in rows.values():
        assert 0 < row["p50"] <= row["p95"]
        assert row["calls"] == 18
        assert len(row["ratio_p95"]) == 3
        assert row["over"] in rows
    assert rows["recommend"]["over"] == "bare engine query"
    (goal,) = result["goals"]
    ratio = sorted(rows["recommend"]["ratio_p95"])[1]
    assert goal["measured"] == f"{ratio:.2f}"
    assert goal["met"] == (ratio <= 1.5)


def test_http_is_compared_with_raw_writes_of_as_many_events(runs: dict[str, Run]):
    result = runs["ingest"].result
    assert [(row["batch"], row["way"]) for row in result["rows"]] == [
        (size, way) for size in (1, 20) for way in ("raw", "store", "http")
    ]
    for row in result["rows"]:
        assert row["events"] == 40
        assert row["over_raw"] == [1, 1] or row["way"] != "raw"
        assert row["events_per_second"]["median"] > 0
    assert len(result["goals"]) == 2


def test_an_action_over_http_is_compared_with_its_bare_writes(runs: dict[str, Run]):
    result = runs["profiles"].result
    assert {"like", "dislike"} < result["microseconds"].keys()
    assert all(spent > 0 for spent in result["microseconds"].values())
    assert result["milliseconds"].keys() == {"HTTP", "bare"}
    for spent in result["milliseconds"].values():
        assert 0 < spent["p50"] <= spent["p95"] <= spent["p99"] <= spent["max"]
    arithmetic, way = result["goals"]
    slower = max(result["microseconds"]["like"], result["microseconds"]["dislike"])
    assert arithmetic["met"] == (slower <= 50)
    assert way["met"] == (result["milliseconds"]["HTTP"]["p99"] < 10)


def test_a_replay_compares_copies_and_profiles_and_says_which_goals_it_meets(tmp_path: Path):
    out, folder = tmp_path / "out.json", write_folder(tmp_path / "tiny")
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "profile_replay.py", "--dataset", folder, "--json", out],
        capture_output=True, text=True, timeout=120, env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text("utf-8"))
    rows = {row["method"]: row for row in result["rows"]}
    assert list(rows)[:4] == ["no learning", "copies", "profile", "copies + profile"]
    assert rows["copies + profile"]["settings"]["profiles"]["search_weight"] > 0
    assert rows["profile"]["versus"]["copies"].keys() == rows["profile"]["differences"].keys()
    measured = f"{rows['copies + profile']['metrics']['heldout.ndcg@10']['mean']:.4f}"
    assert (result["goals"][0]["measured"], len(result["goals"])) == (measured, 4)
    for goal in result["goals"]:
        assert f"goal: {goal['goal']}: {'met' if goal['met'] else 'MISSED'}" in done.stdout


def test_the_replay_of_a_population_tells_whether_it_met_its_goals(tmp_path: Path):
    folder, out = tmp_path / "data", tmp_path / "replay.json"
    write_folder(folder)
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "population_replay.py", "--dataset", folder, "--json", out],
        capture_output=True, text=True, timeout=120, env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text("utf-8"))
    assert len(result["goals"]) >= 5
    for goal in result["goals"]:
        assert f"goal: {goal['goal']}: {'met' if goal['met'] else 'MISSED'}" in done.stdout


def test_the_batch_of_profiles_costs_as_many_store_calls_however_many_users(runs: dict[str, Run]):
    result = runs["interest_embeddings"].result
    few, many, again = result["rows"]
    assert [(row["users"], row["reread"]) for row in result["rows"]] == [(20, False), (45, False), (45, True)]
    assert {*few["steps_per_page"], *many["steps_per_page"]} == {few["steps_per_page"][0]}
    for row in (few, many):
        assert row["calls"]["Mongo update"] == [1, 1]
        assert row["calls"]["Qdrant upsert"] == [1, 1]
        assert min(row["seconds_in"]["Mongo"]) > 0
        assert len(row["seconds"]) == len(row["processor_seconds"]) == 2
    assert again["calls"]["Mongo find"][0] > many["calls"]["Mongo find"][0], "it read the log"
    speed, calls = result["goals"]
    seconds = sum(many["seconds"]) / 2 / 45 * 10_000
    assert float(speed["measured"].split()[0]) == pytest.approx(seconds, abs=0.06)
    assert speed["met"] == (seconds <= 10)
    assert calls["met"]

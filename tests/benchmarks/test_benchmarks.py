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

ROOT = Path(__file__).parents[2]
#: Large enough that the bigger pipeline batch writes more points than one request takes.
TINY = {
    "pipeline": ["1", "30", "--rounds", "2", "--users", "4", "--objects", "300"],
    "search": ["300", "--copies", "40", "--users", "2", "--queries", "6", "--rounds", "3"],
    "ingest": ["1", "20", "--events", "40", "--rounds", "2", "--strict"],
}


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
            # Counted by hand, from what was written: a call for each 256 points.
            assert row["calls"]["Qdrant upsert"][number] == -(-copies // result["settings"]["chunk"])
            all_calls = sum(counts[number] for counts in row["calls"].values())
            further = sum(counts[number] for counts in row["further"].values())
            assert row["steps"][number] == all_calls - further
    assert min(many["copies"]) > result["settings"]["chunk"]
    assert 0 < sum(many["seconds_in"]["Mongo"]) + sum(many["seconds_in"]["Qdrant"]) < sum(many["seconds"])


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

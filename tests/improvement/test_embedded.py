"""The embedded processes: they keep their data, never outlive their parent, and say what is wrong."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from pymongo import MongoClient

from improvement.embedded import EmbeddedMongo, running_service
from improvement.errors import Unavailable
from tests.support import eventually


def servers(folder: Path) -> list[int]:
    """Processes that were started on this folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in part for part in process.info["cmdline"] or []):
            found.append(process.pid)
    return found


def test_what_was_written_is_there_after_a_restart(tmp_path: Path):
    for expected in (0, 1):
        server = EmbeddedMongo(tmp_path)
        with MongoClient(server.url) as client:
            assert client["d"]["c"].count_documents({}) == expected
            client["d"]["c"].insert_one({"_id": expected})
        server.stop()
    assert servers(tmp_path) == []


def test_a_second_server_on_the_same_folder_is_refused(tmp_path: Path):
    first = EmbeddedMongo(tmp_path)
    with pytest.raises(Unavailable, match=r"did not start; see .*secantusd\.log"):
        EmbeddedMongo(tmp_path)
    first.stop()


def test_the_server_ends_with_its_parent_even_by_sigkill(tmp_path: Path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom improvement.embedded import EmbeddedMongo\n"
        f"EmbeddedMongo(Path({str(tmp_path)!r}))\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    assert servers(tmp_path)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    eventually(lambda: not servers(tmp_path))


def test_the_whole_service_keeps_its_data_over_a_restart(tmp_path: Path):
    one = {"object_id": "a", "parts": [{"vector": [1.0] * 16}]}
    with running_service(tmp_path, ["tests.worker_domain:domain"]) as address:
        assert httpx.put(f"{address}/api/v1/objects", json={"objects": [one]}).status_code == 200
        session = {"session_id": "s", "search_query": "q", "search_results": [{"object_id": "a"}]}
        assert httpx.post(f"{address}/api/v1/clickstream/session", json=session).status_code == 200
    with running_service(tmp_path, ["tests.worker_domain:domain"]) as address:
        found = httpx.get(f"{address}/api/v1/objects", params={"object_id": "a"}).json()
        assert [o["object_id"] for o in found["objects"]] == ["a"]
        again = httpx.get(f"{address}/api/v1/clickstream/session", params={"session_id": "s"})
        assert again.json()["search_query"] == "q"


def test_a_service_that_cannot_start_says_where_to_look(tmp_path: Path):
    with (
        pytest.raises(Unavailable, match=r"did not start; see .*service\.log"),
        running_service(tmp_path, ["plugins.nothing:domain"]),
    ):
        pass
    assert "plugins.nothing" in (tmp_path / "service.log").read_text()

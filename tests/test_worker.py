"""Real `dramatiq worker` processes over real Redis, killed and flushed at bad moments."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from pymongo.database import Database

from clickstream.actions import ActionStore
from clickstream.improvement_queue import Owner, Request
from clickstream.records import Action
from improvement.background import build_sender
from improvement.domain import SearchDomain
from improvement.green.builds import BuildState, Stage
from improvement.green.orders import ask_build
from improvement.jobs import improve_users, run_improvement
from improvement.settings import Settings
from improvement.wiring import Rooms, build, improver
from tests.support import click, eventually, make_objects, make_session
from tests.worker_domain import domain as WORK
from tests.worker_domain import feed as FEED
from tests.worker_domain import slow as SLOW

ROOT = Path(__file__).parents[1]
ON_SERVER = bool(os.environ.get("TEST_QDRANT_URL"))

Vectors = dict[tuple[str, str], bytes]


def settings_for(mongo_url: str, database: str, folder: Path, **changes: Any) -> Settings:
    return Settings(
        _env_file=None,
        mongo_url=mongo_url,
        mongo_database=database,
        qdrant_url=os.environ.get("TEST_QDRANT_URL"),
        data_dir=folder,
        domains=("tests.worker_domain:domain",),
        **changes,
    )


@contextmanager
def opened(settings: Settings, domain: SearchDomain = WORK) -> Iterator[Rooms]:
    rooms = build(settings, {domain.name: domain})
    try:
        yield rooms
    finally:
        rooms.close()


def fill(settings: Settings) -> None:
    with opened(settings) as rooms:
        blue = rooms.releases.blue(WORK.name).collection_id
        rooms.vectors.delete_copies_of(blue, [f"o{i}" for i in range(30)])
        rooms.vectors.upsert(blue, make_objects(WORK, 30))


def teach(rooms: Rooms, sessions: int, users: int = 4) -> list[str]:
    """Register and queue some sessions; return their ids."""
    requests = []
    for i in range(sessions):
        shown = [f"o{(i * 3 + j) % 30}" for j in range(10)]
        session = make_session(
            f"s{i}", f"user{i % users}", shown, f"query {i % 5}", created_at=1_700_000_000, domain=WORK.name
        )
        rooms.clickstream.register(session)
        rooms.clickstream.push_events(
            [(f"s{i}", click(shown[i % 7]).model_copy(update={"created_at": 1_700_000_030}))]
        )
        requests.append(Request(f"s{i}", Owner(WORK.name, f"user{i % users}"), 1))
    rooms.queue.enqueue(requests)
    return [request.session_id for request in requests]


def copies(rooms: Rooms) -> Vectors:
    blue = rooms.releases.blue(WORK.name).collection_id
    refs = rooms.vectors.copies(blue, [f"user{i}" for i in range(40)])
    names = [f"{ref.original_id}_{ref.user_id}" for ref in refs]
    found = rooms.vectors.named(blue, names) if names else []
    return {(str(o.user_id), str(o.original_id)): o.parts.tobytes() for o in found}


@contextmanager
def worker(settings: Settings, redis_url: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `dramatiq worker` on these settings; yields the process, stops it at the end."""
    assert settings.mongo_url is not None
    process = subprocess.Popen(
        [sys.executable, "-m", "dramatiq", "worker", "--processes", "1", "--threads", "2"],
        cwd=ROOT,
        start_new_session=True,
        env=os.environ
        | {
            "MONGO_URL": settings.mongo_url.get_secret_value(),
            "MONGO_DATABASE": settings.mongo_database,
            "REDIS_URL": redis_url,
            "QDRANT_URL": settings.qdrant_url or "",
            "DATA_DIR": str(settings.data_dir),
            "DOMAINS": "tests.worker_domain:domain",
        }
        | environment,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def flushed(redis_url: str) -> redis.Redis:
    client = redis.Redis.from_url(redis_url)
    client.flushall()
    return client


def test_a_queued_session_is_improved_by_the_next_tick(
    mongo_url: str, database: Database[Any], redis_url: str, flushed: redis.Redis, tmp_path: Path
):
    settings = settings_for(mongo_url, database.name, tmp_path / "edge")
    fill(settings)
    with opened(settings_for(mongo_url, database.name, tmp_path / "other")) as rooms:
        ids = teach(rooms, 6)
        with worker(settings, redis_url, IMPROVEMENT_SECONDS_INTERVAL="1"):
            eventually(lambda: rooms.queue.counts()["done"] == len(ids), 60)
    with opened(settings) as rooms:
        assert {user for user, _ in copies(rooms)} == {f"user{i}" for i in range(4)}


def test_a_wake_up_takes_effect_long_before_the_interval(
    mongo_url: str, database: Database[Any], redis_url: str, flushed: redis.Redis, tmp_path: Path
):
    settings = settings_for(mongo_url, database.name, tmp_path / "edge")
    fill(settings)
    sender = settings_for(mongo_url, database.name, tmp_path / "other", redis_url=redis_url)
    with opened(sender) as rooms, worker(settings, redis_url, IMPROVEMENT_SECONDS_INTERVAL="3600"):
        # the first tick has come and gone: from here on only a wake-up can be heard
        eventually(lambda: database["ticks"].find_one({"next_at": {"$gt": 0}}) is not None, 60)
        time.sleep(1)
        teach(rooms, 1)
        started = time.monotonic()
        rooms.wake()
        eventually(lambda: rooms.queue.counts()["done"] == 1, 30)
        assert time.monotonic() - started < 15


def test_a_flushed_redis_loses_nothing(
    mongo_url: str, database: Database[Any], redis_url: str, flushed: redis.Redis, tmp_path: Path
):
    settings = settings_for(mongo_url, database.name, tmp_path / "edge")
    fill(settings)
    sender = settings_for(mongo_url, database.name, tmp_path / "other", redis_url=redis_url)
    with opened(sender) as rooms:
        teach(rooms, 8)
        rooms.wake()
        flushed.flushall()
        with worker(settings, redis_url, IMPROVEMENT_SECONDS_INTERVAL="1"):
            for _ in range(5):
                flushed.flushall()
                time.sleep(0.3)
            eventually(lambda: rooms.queue.counts()["done"] == 8, 60)


def test_two_workers_on_one_queue_take_every_session_once(
    mongo_url: str, database: Database[Any], redis_url: str, flushed: redis.Redis, tmp_path: Path
):
    folders = [settings_for(mongo_url, database.name, tmp_path / name) for name in ("one", "two")]
    for settings in folders:
        fill(settings)
    with opened(settings_for(mongo_url, database.name, tmp_path / "other")) as rooms:
        ids = teach(rooms, 60, users=30)
        environment = {"IMPROVEMENT_SECONDS_INTERVAL": "0.3", "IMPROVEMENT_BATCH_SESSIONS": "3"}
        with ExitStack() as stack:
            for settings in folders:
                stack.enter_context(worker(settings, redis_url, **environment))
            eventually(lambda: rooms.queue.counts()["done"] == len(ids), 90)
        entries = [rooms.queue.entry(session_id) for session_id in ids]
        assert all(entry is not None and entry.attempts == 1 for entry in entries)
    shares: list[Vectors] = []
    for settings in folders[: 1 if ON_SERVER else 2]:
        with opened(settings) as rooms:
            shares.append(copies(rooms))
    union = {key: value for share in shares for key, value in share.items()}
    assert sum(len(share) for share in shares) == len(union), "no user was improved by both"
    assert union == undisturbed(mongo_url, database, tmp_path, 60, 30)


def undisturbed(
    mongo_url: str, database: Database[Any], tmp_path: Path, sessions: int, users: int
) -> Vectors:
    """The vectors of one quiet run in one process."""
    quiet = settings_for(mongo_url, f"{database.name}_quiet", tmp_path / "quiet")
    fill(quiet)
    with opened(quiet) as rooms:
        teach(rooms, sessions, users)
        run_improvement(improver(rooms), 1_000, idle_seconds=1e9)
        result = copies(rooms)
    database.client.drop_database(quiet.mongo_database)
    assert result
    return result


def test_improving_goes_on_beside_a_build_and_a_killed_builder_is_replaced(
    mongo_url: str, database: Database[Any], redis_url: str, flushed: redis.Redis, tmp_path: Path
):
    settings = settings_for(mongo_url, database.name, tmp_path / "edge")
    with opened(settings, SLOW) as rooms:
        objects = [replace(o, texts=("a word",) * len(o.parts)) for o in make_objects(SLOW, 700)]
        rooms.vectors.upsert(rooms.releases.blue(SLOW.name).collection_id, objects)
    sender = settings_for(mongo_url, database.name, tmp_path / "other", redis_url=redis_url)
    environment = {
        "DOMAINS": "tests.worker_domain:slow",
        "BUILD_LEASE_SECONDS": "1",
        "IMPROVEMENT_SECONDS_INTERVAL": "0.5",
    }
    with opened(sender, SLOW) as rooms:
        build = ask_build(improver(rooms), SLOW, space="words-v2", population=False, by="a test")

        def stands(*stages: Stage, least: int = 0) -> bool:
            now = rooms.builds.get(build.build_id)
            return now.active and now.stage in stages and now.done >= least

        with worker(settings, redis_url, **environment) as process:
            build_sender(rooms.broker)()
            eventually(lambda: stands(Stage.OBJECTS, least=1), 60)
            session = make_session("s", "ann", [f"o{n}" for n in range(10)], domain=SLOW.name)
            rooms.clickstream.register(session)
            rooms.clickstream.push_events([("s", click("o3"))])
            rooms.queue.enqueue([Request("s", Owner(SLOW.name, "ann"), 1)])
            rooms.wake()
            eventually(lambda: rooms.queue.counts()["done"] == 1, 60)
            assert stands(Stage.OBJECTS), "improved before the objects were there"
            os.killpg(process.pid, signal.SIGKILL)
        with worker(settings, redis_url, **environment):
            eventually(lambda: not rooms.builds.get(build.build_id).active, 60)
        built = rooms.builds.get(build.build_id)
    assert (built.state, built.failed, built.reason) == (BuildState.BUILT, 0, None)
    with opened(settings, SLOW) as rooms:
        blue, green = rooms.releases.world(SLOW.name).releases
        assert green.embedding_model_id == build.embedding_model_id
        assert rooms.vectors.count(green.collection_id, None) == 700
        held = [rooms.vectors.copies(one.collection_id, ["ann"]) for one in (blue, green)]
        assert {ref.original_id for ref in held[0]} == {ref.original_id for ref in held[1]} != set()


def test_towers_learn_every_engagement_once_though_their_worker_is_killed_again_and_again(
    mongo_url: str, database: Database[Any], redis_url: str, flushed: redis.Redis, tmp_path: Path
):
    settings = settings_for(mongo_url, database.name, tmp_path / "edge")
    with opened(settings, FEED) as rooms:
        rooms.vectors.upsert(rooms.releases.blue(FEED.name).collection_id, make_objects(FEED, 30))
    did = [
        Action(
            action_id=f"a{n}", user_id=f"user{n % 7}", object_id=f"o{n % 30}", action_type="like",
            created_at=1_700_000_000 + n, domain=FEED.name,
        )
        for n in range(90)
    ]  # fmt: skip
    ActionStore(database, clock=lambda: time.time() - 120).push(did)  # nobody learned them at once
    environment = {
        "DOMAINS": "tests.worker_domain:feed",
        "TOWER_LEASE_SECONDS": "1",
        "TOWER_SECONDS_INTERVAL": "0.3",
    }
    sender = settings_for(mongo_url, database.name, tmp_path / "other", redis_url=redis_url)
    with opened(sender, FEED) as rooms:

        def learned_from(engagements: int) -> bool:
            head = rooms.training.of(FEED.name).head
            return head is not None and rooms.checkpoints.get(head).engagements >= engagements

        for engagements in (0, 13, 33):  # killed while it learns, and between two batches
            with worker(settings, redis_url, **environment) as process:
                eventually(partial(learned_from, engagements), 90)
                os.killpg(process.pid, signal.SIGKILL)
        with worker(settings, redis_url, **environment):
            eventually(lambda: learned_from(73), 90)
        line = {one.checkpoint_id: one for one in rooms.checkpoints.list(FEED.name)}
        head = rooms.training.of(FEED.name).head
        learned = []
        while head in line:
            learned += [line[head].engagements] * (line[head].trained == "candidate")
            head = line[head].parent
        assert learned == [73, 53, 33, 13]  # the 7 users' first ones were made before they had vectors
        pairs = list(rooms.pairs.between(FEED.name, 0, 2e9))
        assert sorted(pair.object_id for pair in pairs) == sorted(one.object_id for one in did)
        assert sum(pair.batch is None for pair in pairs) == 10


def _improve_and_die(settings: dict[str, Any], after: int) -> None:
    """Improve in a process of its own, killed by SIGKILL right after the n-th store call."""
    from tests.support import Calls

    with opened(Settings(_env_file=None, **settings)) as rooms:
        doomed = Calls(after, lambda: os.kill(os.getpid(), signal.SIGKILL))
        improve_users(doomed.around(improver(rooms)), 1_000)


@pytest.fixture(scope="module")
def launch() -> Callable[..., int | None]:
    """Run a function in a fresh process that has the imports ready; returns its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["improvement.jobs", "improvement.edge", "tests.improvement.test_jobs"])

    def run(target: Callable[..., None], *args: Any) -> int | None:
        process = context.Process(target=target, args=args)
        process.start()
        process.join(60)
        return process.exitcode

    return run


def test_killed_at_any_store_call_it_ends_with_the_vectors_of_an_undisturbed_run(
    mongo_url: str, database: Database[Any], tmp_path: Path, launch: Callable[..., int | None]
):
    expected = undisturbed(mongo_url, database, tmp_path, 8, 4)
    survived = False
    for after in range(1, 40):
        settings = settings_for(mongo_url, f"{database.name}_{after}", tmp_path / str(after))
        fill(settings)
        with opened(settings) as rooms:
            teach(rooms, 8)
        plain = settings.model_dump() | {"mongo_url": mongo_url}
        code = launch(_improve_and_die, plain, after)
        with opened(settings) as rooms:
            if code == 0:
                survived = True
            else:
                assert code == -signal.SIGKILL, code
                leases = database.client[settings.mongo_database]["improvement_leases"]
                leases.update_many({}, {"$set": {"until": 0.0}})  # the dead worker's time is up
                run_improvement(improver(rooms), 1_000, idle_seconds=1e9)
            assert rooms.queue.counts() == {"pending": 0, "done": 8, "skipped": 0, "failed": 0}
            assert copies(rooms) == expected, f"killed after store call {after}"
        database.client.drop_database(settings.mongo_database)
        if survived:
            break
    assert survived, "the run has more store calls than this test kills"
    assert after > 8, "the run was killed at every stage before it survived"

"""Writers, searchers and workers at work on the real service while collections are built and switched."""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from improvement.domain import SearchDomain
from improvement.green.builds import BuildState
from improvement.improver import Improver
from improvement.jobs import run_improvement
from improvement.objects import Object, given_rows
from improvement.releases import Release
from improvement.wiring import Rooms
from tests.support import DIMENSIONS, eventually

WORDS = ["red", "green", "blue", "shoes", "hat", "coat", "boots", "summer", "winter", "wool", "leather"]
#: Objects of each writer, of all together, and of nobody, who stay as they are.
OWN, COMMON, STILL = 12, 4, 8
PAGE = 16
USERS = 4


@dataclass
class Crowd:
    """Threads that use the service until they are told to stop, and what they found wrong."""

    address: str
    wrong: list[str] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)
    #: What was acknowledged last of every object that only one writer writes; None is deleted.
    acknowledged: dict[str, str | None] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def at_work(self, *jobs: tuple[str, Callable[[httpx.Client, random.Random], None]]) -> Iterator[None]:
        threads = [
            threading.Thread(target=self._repeat, args=(name, job, number))
            for number, (name, job) in enumerate(jobs)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _repeat(self, name: str, job: Callable[[httpx.Client, random.Random], None], number: int) -> None:
        rng = random.Random(number)
        with httpx.Client(base_url=self.address, timeout=30) as client:
            while not self._stop.is_set():
                try:
                    job(client, rng)
                    self.done[name] = self.done.get(name, 0) + 1
                except Exception as error:
                    self.wrong.append(f"{name}: {error!r}")

    def writer(self, ids: list[str], mine: bool) -> Callable[[httpx.Client, random.Random], None]:
        def write(client: httpx.Client, rng: random.Random) -> None:
            chosen = rng.sample(ids, rng.randint(1, 3))
            if rng.random() < 0.25:
                answer = client.delete("/api/v1/objects", params={"object_id": chosen})
                said: dict[str, str | None] = dict.fromkeys(chosen)
            else:
                texts = {i: " ".join(rng.choices(WORDS, k=3)) for i in chosen}
                objects = [{"object_id": i, "parts": [{"text": text}], "payload": {"text": text}}
                           for i, text in texts.items()]  # fmt: skip
                answer = client.put("/api/v1/objects", json={"objects": objects})
                said = dict(texts)
            if not mine and answer.status_code == 503 and "send it again" in answer.text:
                return  # two who write the same all the time may be told so
            answer.raise_for_status()
            if mine:
                self.acknowledged |= said
            time.sleep(0.01)

        return write


def search(client: httpx.Client, rng: random.Random) -> None:
    asked = {
        "search_query": " ".join(rng.choices(WORDS, k=2)),
        "limit": 20,
        "user_id": f"u{rng.randrange(USERS)}",
    }
    answer = client.post("/api/v1/embeddings/similarity-search", json=asked)
    answer.raise_for_status()
    found = [hit["object_id"] for hit in answer.json()["search_results"]]
    assert len(found) == len(set(found)) >= STILL, found
    nearest = client.post("/api/v1/embeddings/similarity-search", json={"search_query": "still", "limit": 20})
    nearest.raise_for_status()
    still = {hit["object_id"] for hit in nearest.json()["search_results"]}
    assert {f"still{n}" for n in range(STILL)} <= still, still
    time.sleep(0.01)


def click_something(client: httpx.Client, rng: random.Random) -> None:
    session_id, now = f"s{rng.getrandbits(64):x}", int(time.time())
    shown = rng.sample([f"still{n}" for n in range(STILL)], 4) + rng.sample(
        [f"w0-{n}" for n in range(OWN)], 4
    )
    session = {
        "session_id": session_id, "user_id": f"u{rng.randrange(USERS)}", "created_at": now - 60,
        "search_query": " ".join(rng.choices(WORDS, k=2)),
        "search_results": [{"object_id": i} for i in shown],
    }  # fmt: skip
    client.post("/api/v1/clickstream/session", json=session).raise_for_status()
    events = [{"event_id": "e", "object_id": rng.choice(shown), "event_type": "click", "created_at": now}]
    body = {"session_id": session_id, "events": events}
    client.post("/api/v1/clickstream/session/events", json=body).raise_for_status()
    used = client.post(
        "/api/v1/clickstream/internal/session/use-for-improvement", json={"session_id": session_id}
    )
    used.raise_for_status()
    time.sleep(0.05)


def build(rooms: Rooms, domain: SearchDomain, number: int) -> str:
    """Fill a collection as a build does, every third object turned; return the build's id."""
    space, rng = rooms.releases.space(domain.name), np.random.default_rng(number)
    asked = rooms.builds.ask(domain.name, f"{space}@{number}", space, True, "a test")
    ids = [f"w{writer}-{n}" for writer in range(3) for n in range(0, OWN, 3)] + ["still0"]
    rooms.population.save(
        asked.build_id, ids, rng.standard_normal((len(ids), DIMENSIONS)).astype(np.float32), [0.1] * len(ids)
    )
    green = rooms.releases.create(
        domain, asked.embedding_model_id, space=space, build=asked.build_id, population=True
    )
    rooms.releases.follow(green, True)
    after = None
    while True:
        blue = rooms.releases.blue(domain.name)
        _, _, after = rooms.mirror.fill(domain, blue, green, PAGE, after)
        if after is None:
            break
    rooms.queue.enqueue_rebuild(rooms.queue.owners(domain.name))
    rooms.builds.end(asked.build_id, BuildState.BUILT)
    return asked.build_id


def everything(rooms: Rooms, release: Release) -> tuple[dict[str, Object], set[tuple[str, str]]]:
    """All originals of a collection, and whose copies of which there are."""
    originals, after = rooms.vectors.page(release.collection_id, 1_000)
    assert after is None
    copies = rooms.vectors.copies(release.collection_id, [f"u{n}" for n in range(USERS)])
    return {o.object_id: o for o in originals}, {(copy.user_id, copy.original_id) for copy in copies}


def test_nothing_is_lost_while_collections_are_built_promoted_and_rolled_back(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, improving: Improver
):
    still = [{"object_id": f"still{n}", "parts": [{"text": f"still {WORDS[n]}"}]} for n in range(STILL)]
    service.put("/api/v1/objects", json={"objects": still}).raise_for_status()
    own = [[f"w{writer}-{n}" for n in range(OWN)] for writer in range(3)]
    common = [f"common-{n}" for n in range(COMMON)]
    crowd = Crowd(str(service.base_url))

    def improve(client: httpx.Client, rng: random.Random) -> None:
        run_improvement(improving, 32, idle_seconds=1e9)
        time.sleep(0.05)

    def post(path: str, **body: str) -> dict[str, Any]:
        answer = service.post(f"/api/v1/internal/green/{path}", json={"by": "a test", **body})
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    with crowd.at_work(
        *((f"writer {n}", crowd.writer(ids, mine=True)) for n, ids in enumerate(own)),
        ("rival 1", crowd.writer(common, mine=False)), ("rival 2", crowd.writer(common, mine=False)),
        ("searches", search), ("more searches", search), ("clicks", click_something), ("improve", improve),
    ):  # fmt: skip
        time.sleep(0.3)
        for number in range(3):
            promoted = post("promote", build_id=build(rooms, domain, number), force="no gate here")
            assert promoted["work_state"] == "blue"
            if number == 1:
                for _ in range(2):
                    time.sleep(0.2)
                    post("rollback")
                    post("promote", build_id=promoted["build"], force="no gate here")
        time.sleep(0.3)
    assert crowd.wrong == []
    assert min(crowd.done.values()) > 0, crowd.done

    def at_rest() -> bool:
        run_improvement(improving, 100, idle_seconds=1e9)
        return rooms.queue.counts()["pending"] == 0

    eventually(at_rest)
    world = rooms.releases.world(domain.name)
    assert len(world.releases) == 2, "the one before is kept, and follows"
    for one, other in ((world.blue, world.followers[0]), (world.followers[0], world.blue)):
        assert [i for page in rooms.mirror.differing(one, other) for i in page] == []
    originals, copies = everything(rooms, world.blue)
    followed, copied = everything(rooms, world.followers[0])
    assert originals.keys() == followed.keys()
    assert copies == copied
    assert copies
    for i, o in originals.items():
        assert np.allclose(given_rows(o), given_rows(followed[i]), atol=1e-6)
        assert (o.payload, o.texts) == (followed[i].payload, followed[i].texts)
    turned = {i for i, o in originals.items() if o.raw is not None}
    assert turned <= {f"w{w}-{n}" for w in range(3) for n in range(0, OWN, 3)} | {"still0"}
    assert "still0" in turned
    for object_id, text in crowd.acknowledged.items():
        assert (originals[object_id].texts if object_id in originals else None) == (text and (text,)), (
            object_id
        )

"""What tests share: a small domain with a hand-made encoder, an evolving clock, and a real HTTP server."""

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import uvicorn

from clickstream.records import SearchResult, Session, SessionEvent
from improvement.adjusters.torch_based import TorchBasedAdjuster
from improvement.domain import MetricAggregationType, MetricType, SearchDomain, SearchIndexInfo
from improvement.evidence import EvidenceWeights, SkippedItems
from improvement.objects import Object, Vectors
from improvement.profiles.settings import ProfileSettings
from improvement.schemas import with_revision

DIMENSIONS = 16


class WordEncoder:
    """Sums one fixed random vector per word; texts sharing words are near. Explodes on "explode"."""

    def __init__(self, dimensions: int = DIMENSIONS, model_id: str = "words-v1") -> None:
        self.dimensions, self.model_id = dimensions, model_id
        self.calls: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(list(texts))
        if any("explode" in text for text in texts):
            raise RuntimeError("the encoder exploded")
        rows = [
            sum((_word(w, self.dimensions) for w in re.findall(r"\w+", t)), np.zeros(self.dimensions))
            for t in texts
        ]
        return np.asarray(rows, dtype=np.float32).reshape(len(texts), self.dimensions)


def _word(word: str, dimensions: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(word.lower().encode()).digest()[:8], "big")
    return np.random.default_rng(seed).standard_normal(dimensions)


def make_domain(
    name: str = "things",
    metric: MetricType = MetricType.COSINE,
    aggregation: MetricAggregationType = MetricAggregationType.MIN,
    dimensions: int = DIMENSIONS,
    **changes: Any,
) -> SearchDomain:
    info = SearchIndexInfo(dimensions=dimensions, metric_type=metric, metric_aggregation_type=aggregation)
    domain = SearchDomain(
        name=name,
        search_index_info=info,
        adjuster=TorchBasedAdjuster(info, adjustment_rate=0.05, num_iterations=5, max_drift=0.3),
        encoder=WordEncoder(dimensions),
        evidence=EvidenceWeights.published(SkippedItems.ALL),
        profiles=ProfileSettings(min_interactions=3, interests=1),
    )
    return replace(domain, **changes)


def make_object(object_id: str, vectors: Any, **changes: Any) -> Object:
    rows = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
    part_ids = tuple(f"{object_id}:{i}" for i in range(len(rows)))
    return with_revision(Object(object_id=object_id, parts=rows, part_ids=part_ids, **changes))


def make_objects(domain: SearchDomain, count: int, seed: int = 0, max_parts: int = 3) -> list[Object]:
    rng = np.random.default_rng(seed)
    size = domain.search_index_info.dimensions
    return [
        make_object(
            f"o{i}",
            domain.prepare_vectors(rng.standard_normal((1 + i % max_parts, size)).astype(np.float32)),
            payload={"n": i, "color": ["red", "green", "blue"][i % 3]},
        )
        for i in range(count)
    ]


def make_session(
    session_id: str, user_id: str | None, shown: Sequence[str], query: str = "red shoes", **changes: Any
) -> Session:
    return Session(
        session_id=session_id,
        search_query=query,
        search_results=tuple(SearchResult(object_id=o) for o in shown),
        user_id=user_id,
        created_at=changes.pop("created_at", int(time.time()) - 60),
        **changes,
    )


def click(
    object_id: str, event_id: str = "", seconds_ago: int = 30, event_type: str = "click"
) -> SessionEvent:
    return SessionEvent(
        event_id=event_id or f"click {object_id}",
        object_id=object_id,
        event_type=event_type,
        created_at=int(time.time()) - seconds_ago,
    )


class Clock:
    """A clock that tests move."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@contextmanager
def serving(app: Any, headers: dict[str, str] | None = None) -> Iterator[httpx.Client]:
    """Run an ASGI app on a real socket and yield a client for it."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


def eventually(check: Any, seconds: float = 20.0) -> None:
    """Wait until ``check()`` is true."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


class Gap:
    """Stands before an object and does something once, before or after one of its methods."""

    def __init__(self, inner: Any, method: str, act: Callable[[], None], before: bool = False) -> None:
        self._inner, self._method, self._act, self._before = inner, method, act, before
        self.acted = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name != self._method or self.acted:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self.acted = True
            if self._before:
                self._act()
            result = found(*args, **kwargs)
            if not self._before:
                self._act()
            return result

        return call


class Calls:
    """Stands before stores, counts their calls, and does something once, right after the n-th of them."""

    def __init__(self, after: int = 0, act: Callable[[], None] = lambda: None) -> None:
        self.calls, self.after, self.act = 0, after, act

    def before(self, store: Any) -> Any:
        counter = self

        class Proxy:
            def __getattr__(self, name: str) -> Any:
                method = getattr(store, name)

                def call(*args: Any, **kwargs: Any) -> Any:
                    result = method(*args, **kwargs)
                    counter.calls += 1
                    if counter.calls == counter.after:
                        counter.act()
                    return result

                return call

        return Proxy()

    def around(self, rooms: Any, *names: str) -> Any:
        """Return the rooms with this before some of their stores."""
        names = names or ("clickstream", "queue", "vectors", "releases")
        return replace(rooms, **{name: self.before(getattr(rooms, name)) for name in names})

"""Counts store calls where they leave: Mongo's wire commands, and the calls to a Qdrant client."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pymongo import monitoring

from improvement.vectors import CHUNK


@dataclass
class Calls:
    """The calls of one batch, in order.

    Attributes:
        names: of every call.
        further: of those calls that only go on with the one before: the next chunk, or the next page.
        seconds: spent waiting, by store.
    """

    names: Counter[str] = field(default_factory=Counter)
    further: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))


class CountedMongo(monitoring.CommandListener):
    """Count every command that goes over the wire."""

    def __init__(self) -> None:
        self.calls = Calls()

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        name = f"Mongo {event.command_name}"
        self.calls.names[name] += 1
        self.calls.further[name] += event.command_name == "getMore"

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        self.calls.seconds["Mongo"] += event.duration_micros / 1e6

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        self.calls.seconds["Mongo"] += event.duration_micros / 1e6


class CountedQdrant:
    """Stand in for a Qdrant client and count every call to it."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._before = ("", 0)
        self.calls = Calls()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            points = len(kwargs.get("ids") or kwargs.get("points") or ())
            full_before = self._before == (name, CHUNK)
            self._before = (name, points)
            self.calls.names[f"Qdrant {name}"] += 1
            self.calls.further[f"Qdrant {name}"] += full_before or kwargs.get("offset") is not None
            started = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.calls.seconds["Qdrant"] += time.perf_counter() - started

        return counted


def taken(mongo: CountedMongo, qdrant: CountedQdrant) -> Calls:
    """Return what was called at both since the last time this was asked."""
    calls = Calls(
        mongo.calls.names + qdrant.calls.names,
        mongo.calls.further + qdrant.calls.further,
        defaultdict(float, mongo.calls.seconds | qdrant.calls.seconds),
    )
    mongo.calls, qdrant.calls = Calls(), Calls()
    return calls

"""`dramatiq worker`: the broker and the improvement actor; the work itself is `improvement.jobs`."""

import gc
import threading
from collections.abc import Callable
from functools import cache, partial

import dramatiq

from improvement.background import Ticker, declare_improvement
from improvement.settings import Environment, Settings
from improvement.telemetry import configure_logging
from improvement.wiring import Rooms, build, build_broker, improver

settings = Settings()
configure_logging(json_lines=settings.environment is Environment.PRODUCTION)
broker = build_broker(settings)  # connects when it is first used
dramatiq.set_broker(broker)


_connecting = threading.Lock()


@cache
def _connected() -> Rooms:
    return build(settings, broker=broker)


def rooms() -> Rooms:
    """Connect once per worker process, at the first tick or message, whichever thread has it."""
    with _connecting:
        return _connected()


@cache
def _improving() -> Callable[[], int]:
    import torch  # here, because the parent process need not load it

    from improvement.jobs import run_improvement

    # More worker processes, not more threads: on busy cores they wait for each other.
    torch.set_num_threads(1)
    what = improver(rooms())
    gc.freeze()  # what start-up made stays as long as the process: no need to look for garbage in it
    return partial(run_improvement, what, settings.improvement_batch_sessions, settings.session_idle_seconds)


def improve() -> int:
    """Improve until nothing is free to claim."""
    return _improving()()


broker.add_middleware(
    Ticker(lambda: rooms().queue.take_tick("improvement", settings.interval), settings.interval)
)
declare_improvement(
    broker, improve, settings.improvement_worker_max_retries, settings.improvement_worker_time_limit
)

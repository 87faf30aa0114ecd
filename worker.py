"""`dramatiq worker`: the broker and the improvement actor; the work itself is `improvement.jobs`."""

import threading
from functools import cache

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


def improve() -> int:
    """Improve until nothing is free to claim."""
    import torch  # here, because the parent process need not load it

    from improvement.jobs import run_improvement

    torch.set_num_threads(
        1
    )  # more worker processes, not more threads: on busy cores they wait for each other
    what = improver(rooms())
    return run_improvement(what, settings.improvement_batch_sessions, settings.session_idle_seconds)


broker.add_middleware(
    Ticker(lambda: rooms().queue.take_tick("improvement", settings.interval), settings.interval)
)
declare_improvement(
    broker, improve, settings.improvement_worker_max_retries, settings.improvement_worker_time_limit
)

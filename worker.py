"""`dramatiq worker`: the broker and the actors; the work is `improvement.jobs` and `improvement.green`."""

import gc
import threading
from functools import cache

import dramatiq

from improvement.background import declare_builds, declare_improvement, declare_towers
from improvement.improver import Improver
from improvement.settings import Environment, Settings
from improvement.telemetry import configure_logging
from improvement.wiring import Rooms, build, build_broker, improver, tickers

settings = Settings()
configure_logging(json_lines=settings.environment is Environment.PRODUCTION)
broker = build_broker(settings)  # connects when it is first used
dramatiq.set_broker(broker)

_starting = threading.RLock()  # several threads may have the first tick or message


@cache
def _connected() -> Rooms:
    return build(settings, broker=broker)


@cache
def _prepared() -> Improver:
    import torch  # here, because the parent process need not load it

    import improvement.green.building  # noqa: F401  (all that the actors need)
    import improvement.two_tower.jobs  # noqa: F401

    # More worker processes, not more threads: on busy cores they wait for each other.
    torch.set_num_threads(1)
    gc.freeze()  # what start-up made stays as long as the process: no need to look for garbage in it
    return improver(rooms())


def rooms() -> Rooms:
    """Connect once per worker process."""
    with _starting:
        return _connected()


def working() -> Improver:
    """Load once per worker process what the work needs."""
    with _starting:
        return _prepared()


def improve() -> int:
    """Improve until nothing is free to claim."""
    from improvement.jobs import run_improvement

    return run_improvement(working(), settings.improvement_batch_sessions, settings.session_idle_seconds)


def build_green() -> int:
    """Build, and run the gates of, what is due."""
    from improvement.green.building import run_builds

    return run_builds(working(), settings.build_lease_seconds)


def train_towers() -> int:
    """Train and publish what is due of two towers."""
    from improvement.two_tower.jobs import run_towers

    return run_towers(working())


for ticker in tickers(settings, rooms):
    broker.add_middleware(ticker)
retries = settings.improvement_worker_max_retries
declare_improvement(broker, improve, retries, settings.improvement_worker_time_limit)
declare_builds(broker, build_green, retries, settings.build_worker_time_limit)
declare_towers(broker, train_towers, retries, settings.tower_worker_time_limit)

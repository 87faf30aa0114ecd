"""The actors of the worker and their tickers, for `dramatiq worker` and for the embedded service alike."""

import threading
from collections.abc import Callable

import dramatiq
import structlog
from dramatiq import Broker, Message, Middleware, Worker
from dramatiq.errors import BrokerConnectionError
from redis.exceptions import RedisError

from clickstream.queues import (
    BUILD_ACTOR,
    BUILDS_QUEUE,
    IMPROVE_ACTOR,
    IMPROVEMENT_QUEUE,
    TOWERS_ACTOR,
    TOWERS_QUEUE,
)

log = structlog.get_logger()

#: Says "there is work in Mongo"; carries none of it.
Wake = Callable[[], None]


def sender(broker: Broker) -> Wake:
    """Return a function that wakes a worker, and that only logs when the broker is away.

    A lost wake-up costs one interval, never the work.
    """
    return _sender(broker, IMPROVEMENT_QUEUE, IMPROVE_ACTOR)


def build_sender(broker: Broker) -> Wake:
    """Return what `sender` does, for whoever builds green collections and runs their gates."""
    return _sender(broker, BUILDS_QUEUE, BUILD_ACTOR)


def tower_sender(broker: Broker) -> Wake:
    """Return what `sender` does, for whoever trains and publishes two towers."""
    return _sender(broker, TOWERS_QUEUE, TOWERS_ACTOR)


def _sender(broker: Broker, queue: str, actor: str) -> Wake:
    def wake() -> None:
        try:
            broker.declare_queue(queue)
            broker.enqueue(_message(queue, actor))
        except (BrokerConnectionError, RedisError) as error:
            log.warning("no wake-up sent, the next tick will find the work", error=str(error))

    return wake


def _message(queue: str, actor: str) -> Message[None]:
    return Message(queue_name=queue, actor_name=actor, args=(), kwargs={}, options={})


def declare_improvement(
    broker: Broker, improve: Callable[[], int], max_retries: int, time_limit: int
) -> None:
    """Register the actor that improves until the queue is empty.

    Args:
        improve: does the work and returns how many queue entries ended.
        max_retries: how often a message that raised is repeated.
        time_limit: longest run of one message, milliseconds.
    """

    @dramatiq.actor(
        actor_name=IMPROVE_ACTOR,
        queue_name=IMPROVEMENT_QUEUE,
        broker=broker,
        max_retries=max_retries,
        time_limit=time_limit,
    )
    def run() -> None:
        improve()


def declare_builds(broker: Broker, build: Callable[[], int], max_retries: int, time_limit: int) -> None:
    """Register the actor that does what is due of green builds and gates; see `_declare_alone`."""
    _declare_alone(broker, BUILDS_QUEUE, BUILD_ACTOR, build, max_retries, time_limit)


def declare_towers(broker: Broker, train: Callable[[], int], max_retries: int, time_limit: int) -> None:
    """Register the actor that does what is due of two towers; see `_declare_alone`."""
    _declare_alone(broker, TOWERS_QUEUE, TOWERS_ACTOR, train, max_retries, time_limit)


def _declare_alone(
    broker: Broker, queue: str, actor: str, work: Callable[[], int], max_retries: int, time_limit: int
) -> None:
    """Register an actor of which a process runs one at a time, so that its other threads go on improving.

    The messages that come meanwhile end at once, for whoever is at it looks again before it ends, and so does
    the next tick.

    Args:
        work: does what is due and returns how much that was.
        max_retries: how often a message that raised is repeated.
        time_limit: longest run of one message, milliseconds.
    """
    working = threading.Lock()

    @dramatiq.actor(
        actor_name=actor,
        queue_name=queue,
        broker=broker,
        max_retries=max_retries,
        time_limit=time_limit,
    )
    def run() -> None:
        if working.acquire(blocking=False):
            try:
                work()
            finally:
                working.release()


class Ticker(Middleware):
    """Wake the workers once per interval, however many workers tick.

    Args:
        take_tick: says whether this process sends the tick that is due now; shared by all processes.
        interval: seconds between two ticks.
    """

    queue, actor = IMPROVEMENT_QUEUE, IMPROVE_ACTOR

    def __init__(self, take_tick: Callable[[], bool], interval: float) -> None:
        self._take_tick = take_tick
        self._poll = min(interval, max(0.2, interval / 10))
        self._stop = threading.Event()

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        """Start ticking when a worker starts."""
        name = f"{self.actor}-ticker"
        threading.Thread(target=self._tick, args=(broker,), name=name, daemon=True).start()

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """Stop ticking when the worker stops."""
        self._stop.set()

    def _tick(self, broker: Broker) -> None:
        while not self._stop.is_set():
            try:
                if self._take_tick():
                    broker.enqueue(_message(self.queue, self.actor))
            except Exception as error:  # a store that is away must not end the ticking
                log.warning("tick failed", error=str(error))
            self._stop.wait(self._poll)


class BuildTicker(Ticker):
    """Wake whoever builds, once per interval while something of builds is due."""

    queue, actor = BUILDS_QUEUE, BUILD_ACTOR


class TowerTicker(Ticker):
    """Wake whoever trains two towers, once per interval where a domain has them."""

    queue, actor = TOWERS_QUEUE, TOWERS_ACTOR

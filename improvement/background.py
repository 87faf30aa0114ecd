"""The improvement actor and its ticker, for `dramatiq worker` and for the embedded service alike."""

import threading
from collections.abc import Callable

import dramatiq
import structlog
from dramatiq import Broker, Message, Middleware, Worker
from dramatiq.errors import BrokerConnectionError
from redis.exceptions import RedisError

from clickstream.queues import IMPROVE_ACTOR, IMPROVEMENT_QUEUE

log = structlog.get_logger()

#: Says "there is work in Mongo"; carries none of it.
Wake = Callable[[], None]


def sender(broker: Broker) -> Wake:
    """Return a function that wakes a worker, and that only logs when the broker is away.

    A lost wake-up costs one interval, never the work.
    """

    def wake() -> None:
        try:
            broker.declare_queue(IMPROVEMENT_QUEUE)
            broker.enqueue(_message())
        except (BrokerConnectionError, RedisError) as error:
            log.warning("no wake-up sent, the next tick will find the work", error=str(error))

    return wake


def _message() -> Message[None]:
    return Message(queue_name=IMPROVEMENT_QUEUE, actor_name=IMPROVE_ACTOR, args=(), kwargs={}, options={})


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


class Ticker(Middleware):
    """Wake the workers once per interval, however many workers tick.

    Args:
        take_tick: says whether this process sends the tick that is due now; shared by all processes.
        interval: seconds between two ticks.
    """

    def __init__(self, take_tick: Callable[[], bool], interval: float) -> None:
        self._take_tick = take_tick
        self._poll = min(interval, max(0.2, interval / 10))
        self._stop = threading.Event()

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        """Start ticking when a worker starts."""
        threading.Thread(target=self._tick, args=(broker,), name="improvement-ticker", daemon=True).start()

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """Stop ticking when the worker stops."""
        self._stop.set()

    def _tick(self, broker: Broker) -> None:
        while not self._stop.is_set():
            try:
                if self._take_tick():
                    broker.enqueue(_message())
            except Exception as error:  # a store that is away must not end the ticking
                log.warning("tick failed", error=str(error))
            self._stop.wait(self._poll)

"""Logs as events with fields, and the numbers an operator watches. Labels never carry a user."""

import logging
import sys

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram


def configure_logging(json_lines: bool) -> None:
    """Send structlog events to standard error: JSON lines in production, readable ones elsewhere."""
    renderer = structlog.processors.JSONRenderer() if json_lines else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        # Asked for at every line: what standard error is may change, in tests and under servers.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # It writes every URL into the log, and that of a webhook is a secret.
    logging.getLogger("httpx").setLevel(logging.WARNING)


class Metrics:
    """Counters of one process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sessions = Counter(
            "improvement_sessions_total", "Queued sessions by how they ended", ["domain", "outcome"],
            registry=self.registry,
        )  # fmt: skip
        self.copies = Counter(
            "improvement_copies_total", "Personal copies written or deleted", ["domain", "change"],
            registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "improvement_batch_seconds", "Time to improve one claimed batch", registry=self.registry,
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
        )  # fmt: skip
        self.profiles = Counter(
            "profiles_total", "Profiles by what the batch made of them", ["domain", "outcome"],
            registry=self.registry,
        )  # fmt: skip
        self.push_seconds = Histogram(
            "profile_push_seconds", "Time to log the actions of a request and apply them to profiles",
            registry=self.registry, buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
        )  # fmt: skip
        self.profile_seconds = Histogram(
            "profile_group_seconds", "Time to make one group of profiles anew", registry=self.registry,
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        )  # fmt: skip
        self.tower_seconds = Histogram(
            "tower_update_seconds", "Time for an engagement to move its user's and its item's vector",
            registry=self.registry, buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
        )  # fmt: skip
        self.searches = Histogram(
            "search_seconds", "Time to answer a similarity search", ["domain", "personalized"],
            registry=self.registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
        )  # fmt: skip

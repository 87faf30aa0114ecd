"""The domain of the worker tests, loaded by worker processes as `tests.worker_domain:domain`."""

from tests.support import make_domain

domain = make_domain("work")

"""Going on after a freeze."""

from clickstream.improvement_queue import Owner, Request
from improvement.domain import SearchDomain
from improvement.improver import Improver
from improvement.jobs import improve_users, run_improvement
from improvement.quality.healing import go_on
from tests.support import make_session


def test_going_on_at_another_rate_has_everything_made_anew(improving: Improver, domain: SearchDomain):
    improving.clickstream.register(make_session("s1", "ann", ["a"], domain=domain.name))
    improving.queue.enqueue([Request("s1", Owner(domain.name, "ann"), 1)])
    improve_users(improving, 10)
    improving.learning.freeze(domain.name, "ops", "it drifts")
    assert go_on(improving, domain, "ops", "mended").rate == 1.0
    assert improving.queue.counts()["pending"] == 0
    assert go_on(improving, domain, "ops", "slower", 0.5).rate == 0.5
    assert improving.queue.counts()["pending"] == 1


def test_what_was_queued_while_frozen_is_done_after_going_on(improving: Improver, domain: SearchDomain):
    improving.learning.freeze(domain.name, "ops", "it drifts")
    improving.queue.enqueue([Request("s1", Owner(domain.name, "ann"), 1)])
    assert run_improvement(improving, 10, 1_800) == 0
    go_on(improving, domain, "ops", "mended")
    assert run_improvement(improving, 10, 1_800) == 1

from dataclasses import replace

import pytest

from improvement.domain import SearchDomain
from improvement.improver import Improver
from improvement.two_tower import jobs
from improvement.two_tower.progress import LostTraining
from improvement.two_tower.settings import TowerSettings
from improvement.wiring import Rooms, improver
from tests.support import make_domain


@pytest.fixture
def worker(rooms: Rooms) -> Improver:
    first = replace(make_domain("first"), towers=TowerSettings())
    return replace(improver(rooms), domains={"first": first, "plain": make_domain("plain")})


def steps(monkeypatch: pytest.MonkeyPatch, *raising: Exception | None) -> list[tuple[int, str]]:
    done: list[tuple[int, str]] = []

    def step(number: int, error: Exception | None):
        def act(rooms: Improver, domain: SearchDomain) -> int:
            done.append((number, domain.name))
            if error is not None:
                raise error
            return 3

        return act

    monkeypatch.setattr(jobs, "STEPS", tuple(step(n, error) for n, error in enumerate(raising)))
    return done


def test_a_domain_without_towers_is_left_alone(worker: Improver, monkeypatch: pytest.MonkeyPatch):
    done = steps(monkeypatch, None)
    assert jobs.run_towers(worker) == 1
    assert done == [(0, "first")]


def test_a_step_that_fails_keeps_neither_the_next_nor_the_next_domain_from_theirs(
    worker: Improver, monkeypatch: pytest.MonkeyPatch
):
    done = steps(monkeypatch, ValueError("a step"), None)
    second = replace(make_domain("second"), towers=TowerSettings())
    assert jobs.run_towers(replace(worker, domains={**worker.domains, "second": second})) == 2
    assert done == [(0, "first"), (1, "first"), (0, "second"), (1, "second")]


def test_whoever_lost_the_towers_to_another_worker_leaves_them(
    worker: Improver, monkeypatch: pytest.MonkeyPatch
):
    done = steps(monkeypatch, LostTraining(), None)
    assert jobs.run_towers(worker) == 0
    assert done == [(0, "first")]

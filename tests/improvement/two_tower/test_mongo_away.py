"""Recommendations while Mongo is away: of the catalogue, soon, whatever is asked for."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pymongo
import pytest
from pydantic import SecretStr

from improvement import patience
from improvement.api import create_app
from improvement.domain import SearchDomain
from improvement.embedded import EmbeddedMongo
from improvement.experiments.assignment import assigned
from improvement.experiments.settings import Arm, Experiment, Treatment
from improvement.settings import Settings
from improvement.wiring import build
from tests.improvement.two_tower.given_towers import SETTINGS, serve_towers
from tests.support import make_objects, serving

ARMS = (Treatment.STATIC, Treatment.TWO_TOWER, Treatment.PROFILE, Treatment.COPIES)
EXPERIMENT = Experiment("arms", tuple(Arm(treatment.value, treatment) for treatment in ARMS))


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return replace(domain, towers=SETTINGS, experiment=EXPERIMENT)


@pytest.fixture
def client(settings: Settings, domain: SearchDomain, tmp_path: Path) -> Iterator[httpx.Client]:
    """A service whose Mongo went away after it had begun."""
    mongo = EmbeddedMongo(tmp_path / "mongo")
    rooms = build(settings.model_copy(update={"mongo_url": SecretStr(mongo.url)}), {domain.name: domain})
    try:
        objects = make_objects(domain, 20)
        rooms.vectors.upsert(domain.name, objects)
        serve_towers(rooms, domain, objects)
        mongo.stop()
        with serving(create_app(rooms)) as client:
            yield client
    finally:
        mongo.stop()
        with pymongo.timeout(0.1):  # else it says goodbye to Mongo for ten seconds
            rooms.close()


def ask(client: httpx.Client, user_id: str, model: str | None) -> tuple[str, float]:
    body = {"user_id": user_id, "limit": 5} | ({} if model is None else {"model": model})
    began = time.perf_counter()
    response = client.post("/api/v1/recommend", json=body)
    took = time.perf_counter() - began
    assert response.status_code == 200, response.text
    answer = response.json()
    assert len(answer["search_results"]) == 5
    assert "reason" in answer["meta"]
    return answer["meta"]["source"], took


def test_every_arm_and_every_model_answers_from_the_catalogue(
    client: httpx.Client, domain: SearchDomain, monkeypatch: pytest.MonkeyPatch
):
    assert domain.experiment is not None
    source, took = ask(client, "ann", "two_tower")
    assert source == "catalogue"
    assert took < 5, "a store that is away is waited for once"
    monkeypatch.setattr(patience, "SECONDS", 0.2)
    for arm in EXPERIMENT.arms:
        user = next(u for n in range(999) if assigned(EXPERIMENT, u := f"u{n}") == arm)
        for model in (None, "two_tower", "profile"):
            source, took = ask(client, user, model)
            assert source == "catalogue", (arm, model)
            assert took < 2, (arm, model)

"""The batch of profiles by hand, over HTTP."""

from dataclasses import replace
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from improvement import batch_routes
from improvement.api import create_app
from improvement.domain import SearchDomain
from improvement.evidence import EvidenceWeights
from improvement.wiring import Rooms
from tests.support import make_objects, serving

PATH = "/api/actions/batch-process"


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return replace(domain, evidence=EvidenceWeights())


@pytest.fixture(autouse=True)
def objects(rooms: Rooms, domain: SearchDomain) -> None:
    rooms.vectors.upsert(rooms.releases.blue(domain.name).collection_id, make_objects(domain, 10))


def act(service: httpx.Client, user: str, *objects: str, **changes: Any) -> None:
    actions = [
        {"action_id": o, "user_id": user, "object_id": o, "action_type": "like_post"} | changes
        for o in objects
    ]
    answer = service.post("/api/v1/actions", json={"actions": actions})
    assert answer.json()["accepted"] == len(objects)


def process(service: httpx.Client, **params: Any) -> dict[str, Any]:
    answer = service.get(PATH, params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_it_says_who_was_processed_skipped_and_why(service: httpx.Client, rooms: Rooms, domain: SearchDomain):
    act(service, "ann", "o1", "o2", "o3")
    act(service, "bob", "o1", "o2")
    assert process(service) == {
        "processed": 1,
        "skipped": [{"user_id": "bob", "domain": domain.name, "reason": "2 of 3 interactions"}],
        "skipped_count": 1,
        "failed": [],
        "failed_count": 0,
        "more": False,
    }
    assert process(service)["processed"] == 0, "nobody did anything since"
    profile = rooms.profiles.get("ann", domain.name)
    assert profile is not None
    assert profile.generated_at is not None
    assert b"profiles_total" in service.get("/metrics").content


def test_a_limit_says_that_there_is_more(service: httpx.Client):
    for user in ("ann", "bob", "cat"):
        act(service, user, "o1", "o2", "o3")
    first, second = process(service, limit=2), process(service, limit=2)
    assert (first["processed"], first["more"]) == (2, True)
    assert (second["processed"], second["more"]) == (1, False)


def test_lists_are_capped_and_numbers_are_not(service: httpx.Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batch_routes, "LISTED", 2)
    for user in ("ann", "bob", "cat"):
        act(service, user, "o1")
    answer = process(service)
    assert (len(answer["skipped"]), answer["skipped_count"]) == (2, 3)


def test_every_domain_is_processed_or_the_one_that_is_named(rooms: Rooms, domain: SearchDomain):
    other = replace(domain, name=f"{domain.name}-too")
    rooms.releases.ensure(other)
    rooms.vectors.upsert(rooms.releases.blue(other.name).collection_id, make_objects(other, 10))
    both = replace(rooms, domains={domain.name: domain, other.name: other})
    with serving(create_app(both)) as service:
        for name in (domain.name, other.name):
            act(service, f"ann of {name}", "o1", "o2", "o3", domain=name)
        assert process(service, domain=other.name)["processed"] == 1
        assert process(service)["processed"] == 1
        act(service, "bob", "o1", domain=domain.name)
        act(service, "bob", "o2", domain=other.name)
        answer = process(service)
        assert [one["domain"] for one in answer["skipped"]] == [domain.name, other.name]


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 10**9}, "limit"),
        ({"limit": "all"}, "limit"),
        ({"domain": "?"}, "'?'"),
    ],
)
def test_what_it_cannot_do_is_named(service: httpx.Client, params: dict[str, Any], field: str):
    answer = service.get(PATH, params=params)
    assert answer.status_code == 422
    assert field in answer.text


def test_it_takes_an_operators_key(rooms: Rooms):
    keys = {"api_client_keys": (SecretStr("c" * 16),), "api_operator_keys": (SecretStr("o" * 16),)}
    closed = replace(rooms, settings=rooms.settings.model_copy(update=keys))
    with serving(create_app(closed)) as service:
        assert service.get(PATH).status_code == 401
        assert service.get(PATH, headers={"X-API-Key": "c" * 16}).status_code == 403
        assert service.get(PATH, headers={"X-API-Key": "o" * 16}).status_code == 200


def test_a_domain_whose_learning_is_frozen_is_left_alone(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain
):
    act(service, "ann", "o1", "o2", "o3")
    rooms.profiles.mark_all(domain.name)
    rooms.learning.freeze(domain.name, "ops", "it drifts")
    assert process(service)["processed"] == 0
    refused = service.get(PATH, params={"domain": domain.name})
    assert (refused.status_code, "it drifts" in refused.json()["detail"]) == (409, True)
    rooms.learning.resume(domain.name, "ops", "mended")
    rooms.profiles.mark_all(domain.name)
    assert process(service)["processed"] + len(process(service)["skipped"]) > 0

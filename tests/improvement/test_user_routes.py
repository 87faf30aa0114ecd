"""Erasing users over HTTP."""

import time
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from pydantic import SecretStr

from improvement.api import create_app
from improvement.domain import SearchDomain
from improvement.embedded import free_port
from improvement.evidence import EvidenceWeights
from improvement.improver import Improver
from improvement.jobs import run_improvement
from improvement.profiles.cache import RedisCache
from improvement.profiles.settings import ProfileSettings
from improvement.wiring import Rooms
from tests.support import make_objects, serving

ODD_IDS = ["a/b", "/", "a//b/", "100%", "%2F", "two words", "名前 é𝄞", "a?b#c&d=e", "a\nb", "a\x00b",
           "ann/embedding", "x" * 512]  # fmt: skip


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return replace(domain, evidence=EvidenceWeights(), profiles=ProfileSettings(min_interactions=1))


def erase(service: httpx.Client, user_id: str, **options: Any) -> httpx.Response:
    return service.delete(f"/api/v1/users/{quote(user_id, safe='')}", **options)


def search_and_like(service: httpx.Client, user_id: str) -> None:
    found = service.post(
        "/api/v1/embeddings/similarity-search",
        json={"search_query": "red shoes", "limit": 3, "user_id": user_id, "create_session": True},
    ).json()
    session_id, object_id = found["session_id"], found["search_results"][0]["object_id"]
    event = {
        "event_id": "e",
        "object_id": object_id,
        "event_type": "click",
        "created_at": int(time.time()) + 30,
    }
    event["session_id"] = session_id
    like = {"action_id": "a", "user_id": user_id, "object_id": "o3", "action_type": "like_post"}
    for path, body in (
        ("clickstream/session/events", {"session_id": session_id, "events": [event]}),
        ("clickstream/internal/session/use-for-improvement", {"session_id": session_id}),
        ("actions", {"actions": [like]}),
    ):
        answer = service.post(f"/api/v1/{path}", json=body)
        assert answer.status_code == 200, answer.text


def test_a_user_is_erased_with_all_they_did_and_made_and_a_second_call_answers_zeros(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, improving: Improver
):
    rooms.vectors.upsert(rooms.releases.blue(domain.name).collection_id, make_objects(domain, 8))
    for user_id in ("ann", "bob"):
        search_and_like(service, user_id)
    run_improvement(improving, 10, idle_seconds=1e9)
    copies = len(rooms.vectors.copies(rooms.releases.blue(domain.name).collection_id, ["ann"]))
    assert copies > 0
    answer = erase(service, "ann")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "sessions": 1, "events": 1, "actions": 1, "queue": 1, "profiles": 1, "neighbours": 1,
        "copies": copies, "towers": 0,
    }  # fmt: skip
    assert set(erase(service, "ann").json().values()) == {0}
    run_improvement(improving, 10, idle_seconds=1e9)
    assert set(erase(service, "ann").json().values()) == {0}
    assert service.get("/api/v1/users/ann/embedding").status_code == 404
    search_and_like(service, "ann")
    answer = erase(service, "ann").json()
    assert (answer["sessions"], answer["actions"], answer["copies"]) == (1, 1, 0), "who comes back is new"
    assert erase(service, "bob").json()["copies"] > 0


def test_any_id_can_be_erased_encoded_in_the_path(service: httpx.Client):
    for user_id in ODD_IDS:
        body = {"action_id": "a", "user_id": user_id, "object_id": "o", "action_type": "like_post"}
        assert service.post("/api/v1/actions", json={"actions": [body]}).json()["accepted"] == 1
        answer = erase(service, user_id)
        assert answer.status_code == 200, (user_id, answer.text)
        assert (answer.json()["actions"], answer.json()["profiles"]) == (1, 1), user_id


def test_an_id_that_nobody_can_have_is_refused(service: httpx.Client):
    assert erase(service, "").status_code in (404, 405, 422)
    assert erase(service, "x" * 513).status_code == 422


def test_only_operators_erase(rooms: Rooms):
    keys = {"api_client_keys": (SecretStr("c" * 16),), "api_operator_keys": (SecretStr("o" * 16),)}
    guarded = replace(rooms, settings=rooms.settings.model_copy(update=keys))
    with serving(create_app(guarded)) as service:
        assert erase(service, "ann").status_code == 401
        assert erase(service, "ann", headers={"X-API-Key": "c" * 16}).status_code == 403
        assert erase(service, "ann", headers={"X-API-Key": "o" * 16}).status_code == 200


def test_a_cache_that_is_away_answers_503_and_says_so(rooms: Rooms):
    rooms.profiles._cache = RedisCache.at(f"redis://127.0.0.1:{free_port()}/0", "things")
    with serving(create_app(rooms)) as service:
        answer = erase(service, "ann")
        assert (answer.status_code, "profile cache" in answer.json()["detail"]) == (503, True)

"""A user's vector and similar users, over HTTP."""

import time
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from pydantic import SecretStr

from improvement.api import create_app
from improvement.domain import SearchDomain
from improvement.profiles.negative import NegativeProfile
from improvement.wiring import Rooms
from tests.improvement.profiles.given import give_profile, unit
from tests.support import serving

USERS = "/api/v1/users"
TASTE = unit(np.random.default_rng(3).standard_normal(16))
ODD_IDS = ["a/b", "/", "a//b/", "100%", "%2F", "two words", "名前 é𝄞", "a?b#c&d=e", "a\nb", "a\x00b",
           "ann/similar", "ann/embedding", "x" * 512]  # fmt: skip


def get(service: httpx.Client, user_id: str, what: str, **params: Any) -> httpx.Response:
    return service.get(f"{USERS}/{quote(user_id, safe='')}/{what}", params=params)


def test_a_profile_comes_as_it_is(service: httpx.Client, rooms: Rooms, domain: SearchDomain):
    interests = unit(np.random.default_rng(4).standard_normal((2, 16)))
    negative = NegativeProfile(np.eye(16)[0], time.time())
    profile = give_profile(rooms, domain, "ann", TASTE, interests=interests, negative=negative)
    response = get(service, "ann", "embedding")
    assert response.status_code == 200, response.text
    answer = response.json()
    np.testing.assert_allclose(answer.pop("embedding"), TASTE, atol=1e-6)
    np.testing.assert_allclose(answer.pop("interests"), interests, atol=1e-6)
    assert answer.pop("negative")["strength"] == pytest.approx(np.tanh(1), abs=1e-3)
    assert answer == {
        "user_id": "ann",
        "domain": domain.name,
        "model_version": "words-v1",
        "generated_at": None,
        "updated_at": profile.updated_at,
        "interactions": {"positive": 5, "negative": 0},
    }
    give_profile(rooms, domain, "calm", TASTE)
    assert get(service, "calm", "embedding").json()["negative"] == {"strength": 0.0}


def test_without_a_profile_404_says_why(service: httpx.Client, rooms: Rooms, domain: SearchDomain):
    give_profile(rooms, domain, "few", TASTE, positives=2)
    give_profile(rooms, domain, "old", TASTE, space="words-v0")
    give_profile(rooms, domain, "grump", None)
    for user, reason in {
        "few": "2 of 3 interactions",
        "old": "made in another embedding space, 'words-v0'; it is rebuilt",
        "grump": "nothing liked yet",
        "nobody": "no interactions yet",
    }.items():
        for what in ("embedding", "similar"):
            response = get(service, user, what)
            assert response.status_code == 404
            assert reason in response.json()["detail"]
            assert domain.name in response.json()["detail"]


def test_any_id_can_be_asked_for(service: httpx.Client, rooms: Rooms, domain: SearchDomain):
    for user in ODD_IDS:
        give_profile(rooms, domain, user, TASTE)
        rooms.neighbours.put(
            domain.name, "words-v1", [rooms.profiles.load(domain.name, [user])[user].profile]
        )
    for user in ODD_IDS:
        for what in ("embedding", "similar"):
            response = get(service, user, what)
            assert response.status_code == 200, (user, what, response.text)
            assert response.json()["user_id"] == user
        similar = get(service, user, "similar", limit=100).json()["users"]
        assert {one["user_id"] for one in similar} == {*ODD_IDS} - {user}


def test_similar_users_are_the_nearest_first(service: httpx.Client, rooms: Rooms, domain: SearchDomain):
    rng = np.random.default_rng(0)
    users = {f"user {n}": unit(rng.standard_normal(16)) for n in range(12)}
    made = [give_profile(rooms, domain, user, row) for user, row in users.items()]
    rooms.neighbours.put(domain.name, "words-v1", made)
    cosines = {user: float(row @ users["user 5"]) for user, row in users.items() if user != "user 5"}
    expected = sorted(cosines, key=lambda user: -cosines[user])
    for limit in (1, 5, 1_000):
        similar = get(service, "user 5", "similar", limit=limit).json()["users"]
        assert [one["user_id"] for one in similar] == expected[:limit]
        for one in similar:
            assert one["similarity"] == pytest.approx(cosines[one["user_id"]], abs=1e-5)
    rooms.profiles.erase(expected[0], [domain.name])  # as an erasure leaves it when it dies half-way
    similar = get(service, "user 5", "similar", limit=3).json()["users"]
    assert [one["user_id"] for one in similar] == expected[1:3]
    give_profile(rooms, domain, "lonely", TASTE)
    rooms.neighbours.discard(domain.name, "words-v1")
    assert get(service, "lonely", "similar").json()["users"] == []


def test_what_is_no_request_is_422(service: httpx.Client, rooms: Rooms, domain: SearchDomain):
    give_profile(rooms, domain, "ann", TASTE)
    for limit in ("0", "1001", "many"):
        assert get(service, "ann", "similar", limit=limit).status_code == 422
    for what in ("embedding", "similar"):
        assert get(service, "ann", what, domain="elsewhere").status_code == 422
        assert get(service, "x" * 513, what).status_code == 422
        assert get(service, "", what).status_code == 422


def test_deleting_a_collection_forgets_the_users_in_its_space(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain
):
    rooms.releases.create(domain, "green")
    profile = replace(give_profile(rooms, domain, "ann", TASTE), model_version="green")
    rooms.neighbours.put(domain.name, "green", [profile])
    assert rooms.neighbours.near(domain.name, "green", TASTE, 9, "?")
    path = "/api/v1/internal/vectordb/collections/delete"
    assert service.post(path, json={"embedding_model_id": "green"}).status_code == 200
    assert rooms.neighbours.near(domain.name, "green", TASTE, 9, "?") == []


def test_profiles_ask_for_a_clients_key(rooms: Rooms):
    keys = {"api_client_keys": (SecretStr("c" * 16),), "api_operator_keys": (SecretStr("o" * 16),)}
    locked = replace(rooms, settings=rooms.settings.model_copy(update=keys))
    with serving(create_app(locked)) as service:
        asked = [
            ("GET", f"{USERS}/ann/embedding"),
            ("GET", f"{USERS}/ann/similar"),
            ("POST", "/api/v1/recommend"),
        ]
        for method, path in asked:
            body = {"json": {"user_id": "ann"}} if method == "POST" else {}
            assert service.request(method, path, **body).status_code == 401
            allowed = service.request(method, path, headers={"X-API-Key": "c" * 16}, **body)
            assert allowed.status_code in (200, 404)

"""Searching a domain that is switched between embedding spaces of different sizes."""

import threading
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from improvement.domain import SearchDomain
from improvement.profiles.settings import ProfileSettings
from improvement.schemas import SimilaritySearch
from improvement.search import Search
from improvement.served import served
from improvement.wiring import Rooms
from tests.improvement.profiles.given import give_profile
from tests.improvement.two_spaces import FIRST, SECOND, TEXTS, Worlds, in_two_spaces, objects_in
from tests.support import Gap

SEARCH, RECOMMEND = "/api/v1/embeddings/similarity-search", "/api/v1/recommend"


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return in_two_spaces(replace(domain, profiles=ProfileSettings(min_interactions=1, interests=1)))


@pytest.fixture
def worlds(rooms: Rooms, domain: SearchDomain) -> Worlds:
    return Worlds(rooms, domain)


def ranked(domain: SearchDomain, query: np.ndarray) -> list[tuple[str, float]]:
    """What a space finds, nearest first, with distances."""
    found = {o.object_id: 1 - float((o.parts @ query).max()) for o in objects_in(domain)}
    return sorted(found.items(), key=lambda one: one[1])


def agrees(answer: dict[str, Any], expected: list[tuple[str, float]]) -> bool:
    got = [(one["object_id"], one["distance"]) for one in answer["search_results"]]
    same = len(got) == len(expected)
    return same and all(abs(a[1] - b[1]) < 1e-4 for a, b in zip(got, expected, strict=True))


def post(service: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    response = service.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_switching_between_spaces_under_searches_fails_none_and_each_answer_is_of_one_space(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, worlds: Worlds
):
    worlds.green(follows=False)
    expected = {
        space: ranked(domain.in_space(space), domain.in_space(space).embed(["red shoes"])[0])
        for space in (FIRST, SECOND)
    }
    assert not np.allclose([d for _, d in expected[FIRST]], [d for _, d in expected[SECOND]], atol=1e-3)
    stop, lock = threading.Event(), threading.Lock()
    answers: list[dict[str, Any]] = []
    troubles: list[str] = []

    def search(number: int) -> None:
        own = httpx.Client(base_url=service.base_url, timeout=30)
        while not stop.is_set():
            body = {"search_query": "red shoes", "limit": 10, "create_session": True, "user_id": f"u{number}"}
            response = own.post(SEARCH, json=body | ({"exploration_ratio": 0.5} if number == 2 else {}))
            with lock:
                if response.status_code == 200:
                    answers.append(response.json())
                else:
                    troubles.append(response.text)
        own.close()

    threads = [threading.Thread(target=search, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for switch in range(24):
        before = len(answers)
        rooms.releases.set_blue(domain.name, (SECOND, FIRST)[switch % 2])
        while len(answers) < before + 4 and not troubles:
            pass
    stop.set()
    for thread in threads:
        thread.join()
    assert not troubles
    spaces = []
    sessions = {s.session_id: s for s in rooms.clickstream.history(domain.name, limit=10_000)}
    for answer in answers:
        vector = sessions[answer["session_id"]].query_vector
        assert agrees(answer, expected[vector.model_id])
        assert len(vector.vectors[0]) == {FIRST: 16, SECOND: 24}[vector.model_id]
        spaces.append(vector.model_id)
    assert set(spaces) == {FIRST, SECOND}


def test_a_search_begun_before_a_switch_ends_where_it_began(
    rooms: Rooms, domain: SearchDomain, worlds: Worlds
):
    worlds.green(follows=False)

    class Switching:
        """The vectors, switched away under the request just before they are searched."""

        def __getattr__(self, name: str) -> Any:
            rooms.releases.set_blue(domain.name, SECOND)
            return getattr(rooms.vectors, name)

    switching: Any = Switching()
    search = Search(switching, rooms.clickstream, rooms.metrics, rooms.profiles, rooms.releases)
    expected = ranked(domain, domain.embed(["red shoes"])[0])
    assert agrees(search.similar(domain, SimilaritySearch(search_query="red shoes")), expected)
    sorted_too = SimilaritySearch.model_validate({"search_query": "red shoes", "sort_by": {"field": "n"}})
    rooms.releases.set_blue(domain.name, FIRST)
    assert len(search.similar(domain, sorted_too)["search_results"]) == len(TEXTS)


def test_vectors_profiles_and_recommendations_are_of_the_space_that_serves(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, worlds: Worlds
):
    worlds.green(follows=False)
    for space in (FIRST, SECOND):
        rooms.releases.set_blue(domain.name, space)
        here = domain.in_space(space)
        taste = here.embed(["green boots"])[0]
        give_profile(rooms, domain, f"of {space}", taste, space=space)
        given = post(service, SEARCH, search_query=taste.tolist(), limit=10)
        assert agrees(given, ranked(here, taste))
        answer = post(service, RECOMMEND, user_id=f"of {space}", limit=10, create_session=True, diversity=0.1)
        assert answer["meta"] == {"source": "profile"}
        assert sorted(one["object_id"] for one in answer["search_results"]) == sorted(TEXTS)
        [session] = rooms.clickstream.sessions([answer["session_id"]])
        assert session.query_vector.model_id == space
        turned = post(service, SEARCH, search_query="red hat", user_id=f"of {space}", profile_weight=1.0)
        assert turned["meta"] == {"profile": True}
        assert agrees(turned, ranked(here, taste))
        found = service.get(f"/api/v1/users/of {space}/embedding").json()
        assert len(found["embedding"]) == here.search_index_info.dimensions
    assert service.get(f"/api/v1/users/of {FIRST}/embedding").status_code == 404
    plain = post(service, SEARCH, search_query="red hat", user_id=f"of {FIRST}", profile_weight=1.0)
    assert plain["meta"] == {"profile": False}
    wrong = service.post(SEARCH, json={"search_query": [1.0] * 16})
    assert wrong.status_code == 422
    assert "24 dimensions" in wrong.text


def test_without_variants_nothing_is_asked_and_the_alias_is_searched(
    rooms: Rooms, domain: SearchDomain, worlds: Worlds
):
    class Asked:
        """Releases nobody is to ask."""

        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"asked for {name}")

    plain = replace(domain, variants=())
    nobody: Any = Asked()
    assert served(nobody, plain) == (plain, domain.name, None)
    search = Search(rooms.vectors, rooms.clickstream, rooms.metrics, rooms.profiles, nobody)
    found = search.similar(plain, SimilaritySearch(search_query="red shoes", user_id="ann"))
    assert agrees(found, ranked(domain, domain.embed(["red shoes"])[0]))


def test_with_variants_one_request_asks_before_and_after_it_embeds(
    rooms: Rooms, domain: SearchDomain, worlds: Worlds
):
    asked = []

    class Noted:
        """Releases that note what they are asked."""

        def __getattr__(self, name: str) -> Any:
            asked.append(name)
            return getattr(rooms.releases, name)

    noted: Any = Noted()
    search = Search(rooms.vectors, rooms.clickstream, rooms.metrics, rooms.profiles, noted)
    search.similar(
        domain, SimilaritySearch(search_query="red", user_id="ann", profile_weight=1.0, exploration_ratio=0.5)
    )
    assert asked == ["serving", "serving"]


def test_a_collection_of_a_space_nobody_knows_is_searched_as_the_domains_own(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, worlds: Worlds
):
    by_hand = rooms.releases.create(domain, "by hand")
    rooms.vectors.upsert(by_hand.collection_id, objects_in(domain))
    rooms.releases.set_blue(domain.name, "by hand")
    answer = post(service, SEARCH, search_query="red shoes", limit=10)
    assert agrees(answer, ranked(domain, domain.embed(["red shoes"])[0]))


def test_what_was_switched_while_a_query_was_embedded_is_searched_where_it_serves_now(
    rooms: Rooms, domain: SearchDomain, worlds: Worlds
):
    green = worlds.green("words-v1@b", FIRST)
    before = rooms.releases.blue(domain.name)

    def switch_and_delete() -> None:
        rooms.releases.set_blue(domain.name, green.embedding_model_id)
        rooms.releases.delete(domain.name, before.embedding_model_id)

    slow = replace(domain, encoder=Gap(domain.encoder, "encode", switch_and_delete))
    search = Search(rooms.vectors, rooms.clickstream, rooms.metrics, rooms.profiles, rooms.releases)
    found = search.similar(slow, SimilaritySearch(search_query="red shoes", limit=5))
    assert len(found["search_results"]) == 5

"""What a profile does to a similarity search, over HTTP."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from improvement.domain import SearchDomain
from improvement.objects import Object
from improvement.profiles.negative import NegativeProfile
from improvement.profiles.settings import ProfileSettings
from improvement.profiles.steering import steered
from improvement.schemas import SimilaritySearch
from improvement.search import Search
from improvement.wiring import Rooms
from tests.improvement.profiles.given import give_profile, unit
from tests.support import make_objects

SEARCH = "/api/v1/embeddings/similarity-search"
RESCORED = 10


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return replace(
        domain, profiles=ProfileSettings(rescored=RESCORED, negative_weight=0.8, min_interactions=3)
    )


@pytest.fixture
def objects(rooms: Rooms, domain: SearchDomain) -> list[Object]:
    made = make_objects(domain, 40)
    rooms.vectors.upsert(domain.name, made)
    return made


def direction(seed: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal(16))


QUERY = direction(100)


def search(service: httpx.Client, **body: Any) -> dict[str, Any]:
    response = service.post(SEARCH, json={"search_query": QUERY.tolist(), "limit": 40} | body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def shown(answer: dict[str, Any]) -> list[str]:
    return [result["object_id"] for result in answer["search_results"]]


def nearest(objects: Sequence[Object], query: np.ndarray) -> list[str]:
    return [o.object_id for o in sorted(objects, key=lambda o: -float((o.parts @ query).max()))]


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_a_profile_reorders_the_best_results_and_leaves_the_rest(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, objects: list[Object], weight: float
):
    profile = give_profile(rooms, domain, "ann", direction(7))
    plain = nearest(objects, QUERY)
    assert shown(search(service, user_id="ann")) == plain, "the domain's own weight is 0"
    answer = search(service, user_id="ann", profile_weight=weight)
    turned = steered(QUERY, profile, time.time(), weight, domain.profiles)
    best = [o for o in objects if o.object_id in plain[:RESCORED]]
    assert shown(answer) == nearest(best, turned) + plain[RESCORED:]
    assert shown(answer) != plain
    assert answer["meta"] == {"profile": True}
    metas = [result["meta"] for result in answer["search_results"]]
    assert metas[:RESCORED] == [{"personalized": False, "profile": True}] * RESCORED
    assert metas[RESCORED:] == [{"personalized": False}] * (40 - RESCORED)


def test_pages_of_a_turned_search_neither_repeat_nor_miss(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, objects: list[Object]
):
    give_profile(rooms, domain, "ann", direction(7))
    whole = shown(search(service, user_id="ann", profile_weight=0.5))
    paged, offset = [], 0
    while offset is not None:
        page = search(service, user_id="ann", profile_weight=0.5, limit=7, offset=offset)
        paged += shown(page)
        offset = page["next_page_offset"]
    assert paged == whole


def test_copies_still_shadow_their_originals(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, objects: list[Object]
):
    give_profile(rooms, domain, "ann", direction(7))
    mine = [
        replace(o, object_id=f"{o.object_id}_ann", original_id=o.object_id, user_id="ann", parts=-o.parts)
        for o in objects[::2]
    ]
    rooms.vectors.upsert(domain.name, mine)
    seen_by_ann = [replace(o, object_id=str(o.original_id)) for o in mine] + objects[1::2]
    answer = search(service, user_id="ann", profile_weight=1.0)
    plain = nearest(seen_by_ann, QUERY)
    best = [o for o in seen_by_ann if o.object_id in plain[:RESCORED]]
    assert shown(answer) == nearest(best, direction(7)) + plain[RESCORED:]
    copied = {o.original_id for o in mine}
    for result in answer["search_results"]:
        assert result["meta"]["personalized"] == (result["object_id"] in copied)


def test_the_domains_weight_counts_when_a_request_says_none(
    rooms: Rooms, domain: SearchDomain, objects: list[Object]
):
    give_profile(rooms, domain, "ann", direction(7))
    eager = replace(domain, profiles=replace(domain.profiles, search_weight=0.5))
    searches = Search(rooms.vectors, rooms.clickstream, rooms.metrics, rooms.profiles, rooms.releases)

    def asked(**body: Any) -> list[str]:
        query = SimilaritySearch(search_query=QUERY.tolist(), limit=40, user_id="ann", **body)
        return shown(searches.similar(eager, query))

    assert asked() == asked(profile_weight=0.5) != asked(profile_weight=0.0)
    assert asked(profile_weight=0.0) == nearest(objects, QUERY)


def test_without_a_usable_profile_a_search_is_plain_and_says_so(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, objects: list[Object]
):
    give_profile(rooms, domain, "ann", direction(7))
    give_profile(rooms, domain, "too few interactions", direction(7), positives=2)
    give_profile(rooms, domain, "another space", direction(7), space="words-v0")
    give_profile(rooms, domain, "no vectors", None)
    plain = nearest(objects, QUERY)
    for user in ("too few interactions", "another space", "no vectors", "unknown", None):
        answer = search(service, user_id=user, profile_weight=1)
        assert (shown(answer), answer["meta"]) == (plain, {"profile": False}), user
    answer = search(service, user_id="ann", profile_weight=0)
    assert (shown(answer), answer["meta"]) == (plain, {"profile": False})


def test_dislikes_turn_a_search_away_even_without_likes(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, objects: list[Object]
):
    plain = nearest(objects, QUERY)
    disliked = next(o for o in objects if o.object_id == plain[0])
    best_part = disliked.parts[(disliked.parts @ QUERY).argmax()]
    give_profile(
        rooms, domain, "ann", None, positives=5,
        negative=NegativeProfile(5 * best_part.astype(np.float64), time.time()),
    )  # fmt: skip
    turned = shown(search(service, user_id="ann", profile_weight=0.01))
    assert turned.index(plain[0]) > 0
    assert shown(search(service, user_id="ann", profile_weight=0)) == plain


def test_the_baseline_of_exploration_knows_no_profile(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, objects: list[Object]
):
    give_profile(rooms, domain, "ann", direction(7))
    asked = {"user_id": "ann", "profile_weight": 1.0, "session_id": "s"}
    assert shown(search(service, **asked, exploration_ratio=1.0)) == nearest(objects, QUERY)
    mixed = search(service, **asked, exploration_ratio=0.5)
    lists = {"personalised": shown(search(service, **asked)), "baseline": nearest(objects, QUERY)}
    for name, ranking in lists.items():
        picked = [r["object_id"] for r in mixed["search_results"] if r["meta"]["list"] == name]
        assert picked == sorted(picked, key=ranking.index)
    for result in mixed["search_results"]:
        assert not (result["meta"]["list"] == "baseline" and "profile" in result["meta"])


def test_sorting_by_a_field_leaves_the_profile_out(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, objects: list[Object]
):
    give_profile(rooms, domain, "ann", direction(7))
    asked = {"user_id": "ann", "sort_by": {"field": "color"}, "similarity_first": True}
    turned, plain = search(service, **asked, profile_weight=1.0), search(service, **asked)
    assert turned["search_results"] == plain["search_results"]
    assert turned["meta"] == {"profile": False}


def test_what_a_search_registers_is_the_query_that_was_asked(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, objects: list[Object]
):
    give_profile(rooms, domain, "ann", direction(7))
    answer = search(service, user_id="ann", profile_weight=1.0, create_session=True, limit=5)
    session = rooms.clickstream.session(answer["session_id"])
    assert session is not None
    assert session.query_vector is not None
    np.testing.assert_allclose(session.query_vector.vectors, [QUERY], atol=1e-6)
    assert [result.object_id for result in session.search_results] == shown(answer)
    assert session.search_results[0].meta == {"personalized": False, "profile": True}


class Away:
    """A store that does not answer."""

    def get(self, user_id: str, domain: str) -> Any:
        raise ConnectionError("no answer")

    space = get


def test_a_store_that_is_away_costs_the_profile_not_the_search(
    rooms: Rooms, domain: SearchDomain, objects: list[Object]
):
    give_profile(rooms, domain, "ann", direction(7))
    searches = Search(rooms.vectors, rooms.clickstream, rooms.metrics, rooms.profiles, rooms.releases)
    query = SimilaritySearch(search_query=QUERY.tolist(), limit=40, user_id="ann", profile_weight=1.0)
    assert searches.similar(domain, query)["meta"] == {"profile": True}
    for store in ("profiles", "releases"):
        answer = replace(searches, **{store: Away()}).similar(domain, query)
        assert (shown(answer), answer["meta"]) == (nearest(objects, QUERY), {"profile": False}), store


def test_a_weight_that_is_none_is_422(service: httpx.Client):
    for weight in ("-0.1", "1.1", '"much"', "[1]", "NaN", "1e400"):
        response = service.post(
            SEARCH,
            content=f'{{"search_query": "red", "profile_weight": {weight}}}',
            headers={"content-type": "application/json"},
        )
        assert response.status_code == 422, weight
        assert "profile_weight" in response.text


def test_a_text_is_not_steered_by_a_profile_of_a_space_the_encoder_does_not_embed_in(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, objects: list[Object]
):
    rooms.releases.create(domain, "words-v2")
    rooms.releases.set_blue(domain.name, "words-v2")
    rooms.vectors.upsert(domain.name, objects)
    give_profile(rooms, domain, "ann", direction(7), space="words-v2")
    asked = {"user_id": "ann", "limit": 5, "profile_weight": 1}
    path = "/api/v1/embeddings/similarity-search"
    by_text = service.post(path, json=asked | {"search_query": "red shoes"}).json()
    by_vector = service.post(path, json=asked | {"search_query": QUERY.tolist()}).json()
    assert (by_text["meta"], by_vector["meta"]) == ({"profile": False}, {"profile": True})

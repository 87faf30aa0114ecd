"""What is recommended to whom, over HTTP, against a naive reading."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickstream.records import SessionEvent
from improvement.domain import SearchDomain
from improvement.improver import Improver
from improvement.jobs import run_improvement
from improvement.nearest import in_turns
from improvement.objects import Object
from improvement.profiles.diversity import diverse
from improvement.profiles.negative import NegativeProfile
from improvement.profiles.steering import steered
from improvement.vectors import Hit
from improvement.wiring import Rooms
from tests.improvement.profiles.given import give_profile, unit
from tests.support import make_objects

RECOMMEND = "/api/v1/recommend"
TASTE = unit(np.random.default_rng(3).standard_normal(16))


@pytest.fixture
def objects(rooms: Rooms, domain: SearchDomain) -> list[Object]:
    made = make_objects(domain, 40)
    rooms.vectors.upsert(domain.name, made)
    return made


def recommend(service: httpx.Client, user_id: str = "ann", **body: Any) -> dict[str, Any]:
    response = service.post(RECOMMEND, json={"user_id": user_id, "limit": 40} | body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def shown(answer: dict[str, Any]) -> list[str]:
    return [result["object_id"] for result in answer["search_results"]]


def sources(answer: dict[str, Any]) -> list[str]:
    return [result["meta"]["source"] for result in answer["search_results"]]


def nearest(objects: Sequence[Object], query: np.ndarray) -> list[str]:
    return [o.object_id for o in sorted(objects, key=lambda o: -float((o.parts @ query).max()))]


# --- from a profile


def test_the_nearest_unseen_objects_come_first(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, objects: list[Object]
):
    seen = [o.object_id for o in objects[:15]]
    give_profile(rooms, domain, "ann", TASTE, seen=[*seen, "deleted long ago"])
    every = nearest(objects, TASTE)
    answer = recommend(service, limit=7)
    assert shown(answer) == [o for o in every if o not in seen][:7]
    assert answer["meta"] == {"source": "profile"}
    assert sources(answer) == ["profile"] * 7
    first = answer["search_results"][0]
    by_id = {o.object_id: o for o in objects}
    top = by_id[first["object_id"]]
    assert first["distance"] == pytest.approx(1 - float((top.parts @ TASTE).max()), abs=1e-5)
    assert first["payload"] == top.payload
    published = {"session_id", "search_results", "next_page_offset", "total_count", "meta_info"}
    assert published < answer.keys()
    assert shown(recommend(service)) == [o for o in every if o not in seen]
    assert shown(recommend(service, exclude_seen=False)) == every
    red = {"must": [{"key": "color", "match": {"value": "red"}}]}
    colors = {o.object_id: o.payload["color"] for o in objects}
    assert shown(recommend(service, filter=red)) == [o for o in every if o not in seen and colors[o] == "red"]


def test_a_users_copies_rank_and_seen_ones_do_not_come_back(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, objects: list[Object]
):
    mine = [
        replace(o, object_id=f"{o.object_id}_ann", original_id=o.object_id, user_id="ann", parts=-o.parts)
        for o in objects[:20]
    ]
    others = [replace(copy, object_id="x", user_id="bob", parts=copy.parts + 1) for copy in mine]
    rooms.vectors.upsert(domain.name, [*mine, *others])
    seen = [o.object_id for o in objects[10:30]]
    give_profile(rooms, domain, "ann", TASTE, seen=seen)
    as_ann = [replace(o, object_id=str(o.original_id)) for o in mine] + objects[20:]
    answer = recommend(service)
    assert shown(answer) == [o for o in nearest(as_ann, TASTE) if o not in seen]
    copied = {o.object_id for o in objects[:20]}
    for result in answer["search_results"]:
        assert result["meta"]["personalized"] == (result["object_id"] in copied)


def test_several_interests_take_turns_the_heaviest_first(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, objects: list[Object]
):
    tastes = unit(np.random.default_rng(8).standard_normal((3, 16)))
    give_profile(rooms, domain, "ann", TASTE, interests=tastes)
    expected: list[str] = []
    rankings = [nearest(objects, taste) for taste in tastes]
    while len(expected) < 40:
        for ranking in rankings:
            expected += [next(o for o in ranking if o not in expected)] if len(expected) < 40 else []
    assert shown(recommend(service)) == expected
    assert shown(recommend(service, limit=4)) == expected[:4]


def test_what_is_disliked_is_turned_away_from(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, objects: list[Object]
):
    disliked = unit(np.random.default_rng(4).standard_normal(16) + TASTE)
    negative = NegativeProfile(5 * disliked.astype(np.float64), time.time())
    profile = give_profile(rooms, domain, "ann", TASTE, negative=negative)
    turned = steered(TASTE, profile, time.time(), 0.0, domain.profiles)
    assert turned @ disliked < TASTE @ disliked - 0.05
    assert shown(recommend(service)) == nearest(objects, turned) != nearest(objects, TASTE)


def test_a_diverse_list_is_picked_by_marginal_relevance(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, objects: list[Object]
):
    mine = [replace(objects[0], object_id="x", original_id="o0", user_id="ann", parts=objects[1].parts)]
    rooms.vectors.upsert(domain.name, mine)
    as_ann = [replace(mine[0], object_id="o0"), *objects[1:]]
    give_profile(rooms, domain, "ann", TASTE)
    ranked = {o.object_id: o for o in as_ann}
    order = nearest(as_ann, TASTE)
    means = unit(np.stack([ranked[o].mean for o in order]))
    for diversity in (0.3, 1.0):
        picks = diverse(means @ TASTE, means, diversity, 8)
        assert shown(recommend(service, limit=8, diversity=diversity)) == [order[pick] for pick in picks]
    assert shown(recommend(service, limit=8, diversity=0)) == order[:8]
    assert sorted(shown(recommend(service, diversity=0.7))) == sorted(order)


ranking = st.lists(st.sampled_from("abcdefgh"), unique=True)


@given(rankings=st.lists(ranking, max_size=4), limit=st.integers(1, 9))
def test_turns_are_fair_until_a_ranking_has_nothing_left(rankings: list[list[str]], limit: int):
    merged = [h.object_id for h in in_turns([[Hit(o, 0.0) for o in one] for one in rankings], limit)]
    expected: list[str] = []
    while any(o not in expected for one in rankings for o in one):
        for one in rankings:
            expected += [o for o in one if o not in expected][:1]
    assert merged == expected[:limit]


# --- without one


def test_whoever_wants_no_fallback_gets_nothing_instead(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, objects: list[Object]
):
    rooms.popularity.save(domain.name, [("o5", 9.0)])
    answer = recommend(service, "newcomer", fallback="none")
    assert shown(answer) == []
    assert answer["meta"] == {"source": "none", "reason": "no interactions yet"}
    give_profile(rooms, domain, "ann", TASTE)
    assert recommend(service, fallback="none")["meta"] == {"source": "profile"}
    assert service.post(RECOMMEND, json={"user_id": "ann", "fallback": "magic"}).status_code == 422


def test_a_new_user_gets_what_is_popular_then_the_catalogue(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, objects: list[Object]
):
    rooms.popularity.save(domain.name, [("o5", 9.0), ("gone", 8.0), ("o2", 7.0), ("o9", 1.0)])
    answer = recommend(service, "never seen before", limit=6)
    assert shown(answer)[:3] == ["o5", "o2", "o9"]
    assert sources(answer) == ["popularity"] * 3 + ["catalogue"] * 3
    assert len(set(shown(answer))) == 6
    assert answer["meta"] == {"source": "popularity", "reason": "no interactions yet"}
    assert {result["distance"] for result in answer["search_results"]} == {None}
    assert answer["search_results"][0]["payload"] == objects[5].payload
    assert sorted(shown(recommend(service, "never seen before"))) == sorted(o.object_id for o in objects)
    assert shown(recommend(service, "never seen before", limit=2)) == ["o5", "o2"]
    red = {"must": [{"key": "color", "match": {"value": "red"}}]}
    filtered = recommend(service, "never seen before", filter=red, diversity=0.5)
    assert shown(filtered)[0] == "o9"
    assert {r["payload"]["color"] for r in filtered["search_results"]} == {"red"}


def test_who_cannot_have_a_profile_yet_is_told_why_and_not_shown_what_they_saw(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, objects: list[Object]
):
    rooms.popularity.save(domain.name, [("o5", 9.0), ("o2", 7.0)])
    give_profile(rooms, domain, "few", TASTE, positives=2, seen=["o5", "o7"])
    give_profile(rooms, domain, "old", TASTE, seen=["o5", "o7"], space="words-v0")
    give_profile(rooms, domain, "grump", None, seen=["o5", "o7"])
    for user, reason in (("few", "2 of 3"), ("old", "words-v0"), ("grump", "nothing liked")):
        answer = recommend(service, user)
        assert reason in answer["meta"]["reason"]
        assert answer["meta"]["source"] == "popularity"
        assert shown(answer)[0] == "o2"
        assert {o.object_id for o in objects} - {*shown(answer)} == {"o5", "o7"}
        assert shown(recommend(service, user, exclude_seen=False))[:2] == ["o5", "o2"]


def test_with_nothing_known_there_is_the_catalogue_and_without_objects_nothing(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain
):
    empty = recommend(service)
    assert (empty["search_results"], empty["meta"]["source"]) == ([], "catalogue")
    rooms.vectors.upsert(domain.name, make_objects(domain, 3))
    answer = recommend(service)
    assert (sources(answer), answer["meta"]["source"]) == (["catalogue"] * 3, "catalogue")


# --- sessions


def test_a_click_on_a_recommendation_teaches_as_one_on_a_search_does(
    service: httpx.Client, rooms: Rooms, improving: Improver, domain: SearchDomain, objects: list[Object]
):
    tastes = unit(np.random.default_rng(8).standard_normal((2, 16)))
    give_profile(rooms, domain, "ann", TASTE, interests=tastes)
    answer = recommend(service, limit=5, create_session=True, meta_info={"page": "home"})
    session = rooms.clickstream.session(answer["session_id"])
    assert session is not None
    assert [r.object_id for r in session.search_results] == shown(answer)
    assert session.search_results[0].meta == {"personalized": False, "source": "profile"}
    assert (session.user_id, session.domain, session.search_meta) == ("ann", domain.name, {"page": "home"})
    assert session.query_vector is not None
    assert session.query_vector.model_id == rooms.releases.space(domain.name)
    np.testing.assert_allclose(session.query_vector.vectors, tastes, atol=1e-6)
    clicked = shown(answer)[2]
    event = SessionEvent(event_id="e", object_id=clicked, created_at=int(time.time()) + 30)
    rooms.clickstream.push_events([(answer["session_id"], event)])
    path = "/api/v1/clickstream/internal/session/use-for-improvement"
    assert service.post(path, json={"session_id": answer["session_id"]}).status_code == 200
    run_improvement(improving, 10, idle_seconds=1e9)
    assert clicked in {copy.original_id for copy in rooms.vectors.copies(domain.name, ["ann"])}


def test_popular_objects_are_registered_without_a_query(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, objects: list[Object]
):
    rooms.popularity.save(domain.name, [("o5", 9.0)])
    answer = recommend(service, limit=2, create_session=True, session_id="mine")
    session = rooms.clickstream.session("mine")
    assert session is not None
    assert [r.object_id for r in session.search_results] == shown(answer)
    assert [r.rank for r in session.search_results] == [None, None]
    assert (session.search_query, session.query_vector) == ("", None)
    assert rooms.clickstream.session(recommend(service, limit=2, session_id="other")["session_id"]) is None


# --- strangers


def test_what_is_no_request_is_422_and_names_the_field(service: httpx.Client):
    for field, wrong in {
        "limit": ["0", "1001", '"x"'],
        "diversity": ["-0.1", "1.1", "NaN"],
        "user_id": ['""', "5", "null", '"' + "x" * 513 + '"'],
        "exclude_seen": ['"perhaps"'],
        "filter": ['{"must": [{"key": "n", "match": {}}]}'],
        "domain": ['"elsewhere"'],
    }.items():
        for value in wrong:
            response = service.post(
                RECOMMEND,
                content=f'{{"user_id": "ann", "{field}": {value}}}',
                headers={"content-type": "application/json"},
            )
            assert response.status_code == 422, (field, value)
            assert field in response.text
    assert service.post(RECOMMEND, json={}).status_code == 422

"""The HTTP service over a real socket: published paths, fields and statuses, and what is ours."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from improvement.api import create_app
from improvement.domain import SearchDomain
from improvement.improver import Improver
from improvement.jobs import run_improvement
from improvement.settings import Settings
from improvement.wiring import Rooms, build
from tests.support import make_domain, serving

V1 = "/api/v1"
CLICKSTREAM = f"{V1}/clickstream"
VECTORDB = f"{V1}/internal/vectordb"
SEARCH = f"{V1}/embeddings/similarity-search"


def ok(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()


def refused(response: httpx.Response, status: int, says: str = "") -> None:
    assert response.status_code == status, response.text
    assert says in response.text


def body(object_id: str, text: str = "", **changes: Any) -> dict[str, Any]:
    return {"object_id": object_id, "parts": [{"text": text or object_id}]} | changes


@pytest.fixture
def filled(service: httpx.Client) -> httpx.Client:
    words = ["red shoes", "red hat", "blue shoes", "blue hat", "green coat", "red coat", "old book"]
    objects = [
        body(f"o{i}", f"{word} {i}", payload={"n": i, "color": word.split()[0], "tags": ["all", word]})
        for i, word in enumerate(words * 4)
    ]
    ok(service.put(f"{V1}/objects", json={"objects": objects}))
    return service


def test_a_session_goes_in_and_comes_back_with_its_events(service: httpx.Client):
    now = int(time.time())
    session = {
        "session_id": "s",
        "search_query": "red shoes",
        "search_results": [{"object_id": "a", "rank": 0.5, "meta": {"x": 1}}, {"object_id": "b"}],
        "search_meta": {"page": 1},
        "user_id": "ann",
        "created_at": now - 20,
    }
    assert ok(service.post(f"{CLICKSTREAM}/session", json=session)) is None
    assert ok(service.post(f"{CLICKSTREAM}/session", json=session)) is None
    events = {"session_id": "s", "events": [{"event_id": "e", "object_id": "a"}]}
    assert ok(service.post(f"{CLICKSTREAM}/session/events", json=events)) is None
    assert ok(service.post(f"{CLICKSTREAM}/session/events", json=events)) is None
    found = ok(service.get(f"{CLICKSTREAM}/session", params={"session_id": "s"}))
    assert found["is_irrelevant"] is False
    assert found["search_results"] == [
        {"object_id": "a", "rank": 0.5, "meta": {"x": 1}},
        {"object_id": "b", "rank": None, "meta": None},
    ]
    [event] = found["events"]
    assert (event["event_id"], event["object_id"], event["event_type"]) == ("e", "a", "click")
    assert abs(event["created_at"] - now) < 60
    for name in ("session_id", "search_query", "search_meta", "user_id", "created_at"):
        assert found[name] == session[name]


@pytest.mark.parametrize("offset", [-13 * 3600, 600])
def test_a_timestamp_outside_the_window_is_400(service: httpx.Client, offset: int):
    moment = int(time.time()) + offset
    session = {"session_id": "s", "search_query": "q", "search_results": [], "created_at": moment}
    refused(service.post(f"{CLICKSTREAM}/session", json=session), 400, "created_at")
    events = {"session_id": "s", "events": [{"event_id": "e", "object_id": "a", "created_at": moment}]}
    refused(service.post(f"{CLICKSTREAM}/session/events", json=events), 400, "created_at")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{",
        b'{"session_id": 5, "search_query": "q"}',
        b'{"session_id": "s"}',
        b'{"session_id": "", "search_query": "q"}',
        b'{"session_id": "s", "search_query": "q", "search_results": [{"object_id": "a", "rank": NaN}]}',
        b'{"session_id": "\\ud800", "search_query": "q"}',
        b'{"session_id": "s", "search_query": "q", "search_meta": {"a": 1e400}}',
        b'{"session_id": "s", "search_query": "q", "search_meta": {"\\ud800": 1e400}}',
        b'{"session_id": "s", "search_query": "q", "search_meta": '
        + b'{"a":' * 500
        + b"1"
        + b"}" * 500
        + b"}",
        b'{"session_id": "s", "search_query": "q", "created_at": 99999999999999999999999}',
        b"\xff\xfe",
    ],
)
def test_a_malformed_body_is_422_with_a_detail(service: httpx.Client, raw: bytes):
    response = service.post(
        f"{CLICKSTREAM}/session", content=raw, headers={"content-type": "application/json"}
    )
    refused(response, 422, "detail")


def test_unknown_sessions_and_batches_are_404(service: httpx.Client):
    refused(service.get(f"{CLICKSTREAM}/session", params={"session_id": "?"}), 404, "not known")
    for path in ("session/irrelevant", "internal/session/use-for-improvement"):
        refused(service.post(f"{CLICKSTREAM}/{path}", json={"session_id": "?"}), 404, "not known")
    refused(service.get(f"{CLICKSTREAM}/internal/batch/sessions", params={"batch_id": "?"}), 404, "not known")
    refused(
        service.get(f"{CLICKSTREAM}/internal/session/improvement", params={"session_id": "?"}),
        404,
        "never queued",
    )


def test_too_many_events_in_one_request_are_422(service: httpx.Client):
    events = [{"event_id": str(i), "object_id": "a"} for i in range(1_001)]
    refused(
        service.post(f"{CLICKSTREAM}/session/events", json={"session_id": "s", "events": events}),
        422,
        "at most 1000",
    )


def test_a_body_that_is_too_large_is_413_declared_or_not(service: httpx.Client, settings: Settings):
    size = settings.max_body_bytes + 1
    refused(service.post(f"{CLICKSTREAM}/session", content=b"x" * size), 413, "larger than")

    def chunks() -> Iterator[bytes]:
        for _ in range(size // 65536 + 1):
            yield b"x" * 65536

    refused(service.post(f"{CLICKSTREAM}/session", content=chunks()), 413, "larger than")


@pytest.mark.parametrize("number", [-1, 2**63, "x"])
def test_a_page_that_no_batch_has_is_422(service: httpx.Client, number: object):
    release = ok(service.post(f"{CLICKSTREAM}/internal/batch/release", json={"release_id": "r"}))
    params = {"batch_id": release["batch_id"], "after_number": number}
    refused(service.get(f"{CLICKSTREAM}/internal/batch/sessions", params=params), 422, "after_number")


@pytest.mark.parametrize("path", ["ubi/queries", "ubi/events"])
def test_no_documents_are_no_error(service: httpx.Client, path: str):
    assert ok(service.post(f"{V1}/{path}", json=[])) == {"accepted": 0, "rejected": []}


def test_batches_are_released_once_and_paged(service: httpx.Client):
    for i in range(5):
        session = {"session_id": f"s{i}", "search_query": "q", "search_results": [{"object_id": "a"}]}
        ok(service.post(f"{CLICKSTREAM}/session", json=session))
    release = ok(service.post(f"{CLICKSTREAM}/internal/batch/release", json={"release_id": "r"}))
    assert release == ok(service.post(f"{CLICKSTREAM}/internal/batch/release", json={"release_id": "r"}))
    assert release["release_id"] == "r"
    assert isinstance(release["released_at"], int)
    params = {"batch_id": release["batch_id"], "limit": 3}
    first = ok(service.get(f"{CLICKSTREAM}/internal/batch/sessions", params=params))
    assert [s["session_number"] for s in first["sessions"]] == [1, 2, 3]
    assert first["last_number"] == 3
    rest = ok(
        service.get(
            f"{CLICKSTREAM}/internal/batch/sessions", params=params | {"after_number": first["last_number"]}
        )
    )
    assert [s["session_id"] for s in rest["sessions"]] == ["s3", "s4"]


def test_ubi_documents_are_answered_one_by_one(service: httpx.Client):
    queries = [
        {
            "query_id": "q1",
            "client_id": "c1",
            "user_query": "red shoes",
            "query_response_hit_ids": ["a", "b"],
            "timestamp": "2026-01-01T10:00:00.000Z",
        },
        {"client_id": "c1", "user_query": "no id"},
        "not a document",
    ]
    answer = ok(service.post(f"{V1}/ubi/queries", json=queries))
    assert answer["accepted"] == 1
    assert [r["index"] for r in answer["rejected"]] == [1, 2]
    assert all(r["reason"] for r in answer["rejected"])
    event = {
        "action_name": "click",
        "query_id": "q1",
        "client_id": "c1",
        "timestamp": "2026-01-01T10:00:30Z",
        "event_attributes": {"object": {"object_id": "b"}, "position": {"ordinal": 2}},
    }
    ahead = event | {"timestamp": int(time.time() * 1000) + 3_600_000}
    answer = ok(service.post(f"{V1}/ubi/events", json=[event, event, ahead, {}]))
    assert answer["accepted"] == 2
    assert [r["index"] for r in answer["rejected"]] == [2, 3]
    found = ok(service.get(f"{CLICKSTREAM}/session", params={"session_id": "q1"}))
    assert [e["object_id"] for e in found["events"]] == ["b"]
    assert [r["object_id"] for r in found["search_results"]] == ["a", "b"]


def test_search_by_text_finds_what_shares_words(filled: httpx.Client):
    answer = ok(filled.post(SEARCH, json={"search_query": "red shoes", "limit": 4, "filter": None}))
    assert [r["payload"]["tags"][1] for r in answer["search_results"]] == ["red shoes"] * 4
    assert all(r["meta"] == {"personalized": False} for r in answer["search_results"])
    assert answer["next_page_offset"] == 4
    assert answer["session_id"] is None


def test_search_by_vector_equals_search_by_its_text(filled: httpx.Client, domain: SearchDomain):
    vector = domain.encoder.encode(["blue hat"])[0].tolist()
    by_vector = ok(filled.post(SEARCH, json={"search_query": vector, "limit": 5}))
    by_text = ok(filled.post(SEARCH, json={"search_query": "blue hat", "limit": 5}))
    assert by_vector["search_results"] == by_text["search_results"]


def test_paging_follows_next_page_offset_to_the_end(filled: httpx.Client):
    seen, offset = [], 0
    while offset is not None:
        answer = ok(filled.post(SEARCH, json={"search_query": "red", "limit": 6, "offset": offset}))
        seen += [r["object_id"] for r in answer["search_results"]]
        offset = answer["next_page_offset"]
    assert len(seen) == len(set(seen)) == 28


@pytest.mark.parametrize(
    "where",
    [
        {"must": [{"key": "color", "match": {"value": "red"}}]},
        {"term": {"color": "red"}},
        {"query": {"bool": {"must": [{"terms": {"color": ["red"]}}]}}},
    ],
)
def test_filters_are_taken_in_both_forms(filled: httpx.Client, where: dict[str, Any]):
    answer = ok(filled.post(SEARCH, json={"search_query": "shoes", "limit": 50, "filter": where}))
    assert {r["payload"]["color"] for r in answer["search_results"]} == {"red"}
    assert len(answer["search_results"]) == 12
    count = ok(filled.post(f"{V1}/embeddings/payload-count", json={"filter": where}))
    assert count == {"total_count": 12}
    listed = ok(
        filled.post(f"{V1}/embeddings/payload-search", json={"filter": where, "limit": 5, "offset": 10})
    )
    assert (len(listed["search_results"]), listed["total_count"], listed["next_page_offset"]) == (2, 12, None)


def test_sorting_by_a_payload_field(filled: httpx.Client):
    request = {"search_query": "red", "limit": 28, "sort_by": {"field": "n", "order": "desc"}}
    answer = ok(filled.post(SEARCH, json=request))
    assert [r["payload"]["n"] for r in answer["search_results"]] == list(range(27, -1, -1))
    request = {"limit": 3, "offset": 2, "sort_by": {"field": "n"}}
    answer = ok(filled.post(f"{V1}/embeddings/payload-search", json=request))
    assert [r["payload"]["n"] for r in answer["search_results"]] == [2, 3, 4]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"search_query": [0.1, 0.2]}, "expected 16 dimensions, got 2"),
        ({"search_query": [0.0] * 16}, "no direction"),
        ({"search_query": [1e300] * 16}, "finite"),
        ({"search_query": " "}, "empty text"),
        ({"search_query": {"a": 1}}, "search_query"),
        ({"limit": 0}, "limit"),
        ({"limit": 10_000}, "limit"),
        ({"offset": -1}, "offset"),
        ({"filter": {"nonsense": 1}}, "detail"),
        ({"exploration_ratio": 2}, "exploration_ratio"),
        ({"domain": "unknown"}, "not configured"),
        ({"user_id": ""}, "user_id"),
    ],
)
def test_a_search_that_cannot_be_meant_is_422(filled: httpx.Client, change: dict[str, Any], says: str):
    refused(filled.post(SEARCH, json={"search_query": "red", "limit": 3} | change), 422, says)


def test_an_exploding_encoder_is_an_error_to_the_caller_and_nobody_else(filled: httpx.Client):
    refused(filled.post(SEARCH, json={"search_query": "explode", "limit": 3}), 500, "the encoder exploded")
    ok(filled.post(SEARCH, json={"search_query": "red", "limit": 3}))


def learn(service: httpx.Client, improving: Improver, user: str = "ann") -> str:
    """Search, click the last result, wait as long as a reader would, and improve."""
    answer = ok(
        service.post(
            SEARCH,
            json={"search_query": "red shoes", "limit": 10, "user_id": user, "create_session": True},
        )
    )
    shown = [r["object_id"] for r in answer["search_results"]]
    event = {"event_id": "e", "object_id": shown[-1], "created_at": int(time.time()) + 20}
    ok(
        service.post(
            f"{CLICKSTREAM}/session/events", json={"session_id": answer["session_id"], "events": [event]}
        )
    )
    reference = {"session_id": answer["session_id"]}
    ok(service.post(f"{CLICKSTREAM}/internal/session/use-for-improvement", json=reference))
    run_improvement(improving, 100, idle_seconds=1e9)
    status = ok(service.get(f"{CLICKSTREAM}/internal/session/improvement", params=reference))
    assert (status["status"], status["reason"], status["user_id"]) == ("done", None, user)
    return shown[-1]


def test_a_click_lifts_its_object_for_this_user_only(filled: httpx.Client, improving: Improver):
    request = {"search_query": "red shoes", "limit": 28}
    before = [r["object_id"] for r in ok(filled.post(SEARCH, json=request))["search_results"]]
    clicked = learn(filled, improving)
    anns = ok(filled.post(SEARCH, json=request | {"user_id": "ann"}))["search_results"]
    assert [r["object_id"] for r in anns].index(clicked) < before.index(clicked)
    assert {r["object_id"] for r in anns if r["meta"]["personalized"]} == set(before[:10])
    assert sorted(r["object_id"] for r in anns) == sorted(before)
    bobs = ok(filled.post(SEARCH, json=request | {"user_id": "bob"}))["search_results"]
    assert [r["object_id"] for r in bobs] == before


def test_a_created_session_holds_what_was_shown_and_a_second_page_extends_it(filled: httpx.Client):
    request = {
        "search_query": "red",
        "limit": 4,
        "create_session": True,
        "session_id": "mine",
        "user_id": "ann",
    }
    first = ok(filled.post(SEARCH, json=request))
    second = ok(filled.post(SEARCH, json=request | {"offset": 4}))
    assert first["session_id"] == second["session_id"] == "mine"
    found = ok(filled.get(f"{CLICKSTREAM}/session", params={"session_id": "mine"}))
    assert [r["object_id"] for r in found["search_results"]] == [
        r["object_id"] for page in (first, second) for r in page["search_results"]
    ]
    assert found["search_results"][0]["rank"] == pytest.approx(first["search_results"][0]["distance"])
    assert found["search_query"] == "red"


def test_what_no_session_can_hold_is_422(filled: httpx.Client):
    huge = {"should": [{"term": {"field": "color", "value": "x" * 200}}] * 100}
    request = {"search_query": "red", "limit": 4, "filter": huge}
    ok(filled.post(SEARCH, json=request))
    refused(filled.post(SEARCH, json=request | {"create_session": True}), 422, "payload_filter")


def test_exploration_mixes_both_lists_and_says_which(filled: httpx.Client, improving: Improver):
    learn(filled, improving)
    request = {"search_query": "red shoes", "limit": 7, "user_id": "ann", "session_id": "fixed"}
    explore = request | {"exploration_ratio": 0.5}
    seen: list[str] = []
    teams: set[str] = set()
    offset: int | None = 0
    while offset is not None:
        answer = ok(filled.post(SEARCH, json=explore | {"offset": offset}))
        assert answer == ok(filled.post(SEARCH, json=explore | {"offset": offset}))
        seen += [r["object_id"] for r in answer["search_results"]]
        teams |= {r["meta"]["list"] for r in answer["search_results"]}
        offset = answer["next_page_offset"]
    assert len(seen) == len(set(seen)) == 28
    assert teams == {"personalised", "baseline"}


def test_objects_are_written_read_and_deleted_and_copies_follow(filled: httpx.Client, improving: Improver):
    clicked = learn(filled, improving)
    [found] = ok(filled.get(f"{V1}/objects", params={"object_id": clicked}))["objects"]
    assert found["object_id"] == clicked
    assert len(found["parts"][0]["vector"]) == 16
    mine = {"search_query": "red shoes", "limit": 50, "user_id": "ann"}

    changed = body(clicked, "an old sandwich", payload={"color": "brown"})
    ok(filled.put(f"{V1}/objects", json={"objects": [changed]}))
    for _ in range(2):  # at once, and again after the copies were rebuilt
        results = {r["object_id"]: r for r in ok(filled.post(SEARCH, json=mine))["search_results"]}
        assert results[clicked]["payload"] == {"color": "brown"}
        assert len(results) == 28
        run_improvement(improving, 100, idle_seconds=1e9)
    assert results[clicked]["meta"]["personalized"], "rebuilt on the new original"

    ok(filled.delete(f"{V1}/objects", params={"object_id": [clicked, "unknown"]}))
    for _ in range(2):
        results = {r["object_id"]: r for r in ok(filled.post(SEARCH, json=mine))["search_results"]}
        assert clicked not in results
        assert len(results) == 27
        run_improvement(improving, 100, idle_seconds=1e9)


def test_writing_an_unchanged_object_leaves_its_copies_alone(filled: httpx.Client, improving: Improver):
    clicked = learn(filled, improving)
    ok(filled.put(f"{V1}/objects", json={"objects": [body("new one")]}))
    [same] = ok(filled.get(f"{V1}/objects", params={"object_id": clicked}))["objects"]
    queue = ok(filled.get(f"{CLICKSTREAM}/internal/queue"))
    ok(filled.put(f"{V1}/objects", json={"objects": [same]}))
    again = same | {"payload": same["payload"]}
    ok(filled.put(f"{V1}/objects", json={"objects": [again]}))
    assert ok(filled.get(f"{CLICKSTREAM}/internal/queue"))["done"] == queue["done"]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (body("a", parts=[]), "parts"),
        (body("a", parts=[{"vector": [1.0]}]), "object 'a': expected 16 dimensions, got 1"),
        (body("a", parts=[{"vector": [0.0] * 16}]), "no direction"),
        (body("a", parts=[{"vector": [1e39] * 16}]), "finite"),
        (body("a", parts=[{"vector": [1.0] * 16}] * 513), "parts"),
        (body("a", parts=[{}]), "either a vector or a text"),
        (body("a", parts=[{"vector": [1.0] * 16, "part_id": "p"}] * 2), "distinct part_ids"),
        (body("a", parts=[{"vector": [1.0] * 16, "is_average": True}] * 2), "at most one average"),
        (body("a", original_id="b"), "expected user_id"),
        (body("", parts=[{"vector": [1.0] * 16}]), "object_id"),
        (body("a", payload={"x": "\x00", "\x00": 1}), "NUL"),
    ],
)
def test_a_bad_object_is_422_and_its_neighbours_are_not_written(
    service: httpx.Client, bad: dict[str, Any], says: str
):
    refused(service.put(f"{V1}/objects", json={"objects": [body("good"), bad]}), 422, says)
    assert ok(service.get(f"{V1}/objects", params={"object_id": "good"}))["objects"] == []


def test_a_vector_with_nan_is_422(service: httpx.Client):
    raw = b'{"objects": [{"object_id": "a", "parts": [{"vector": [' + b",".join([b"NaN"] * 16) + b"]}]}]}"
    refused(service.put(f"{V1}/objects", content=raw, headers={"content-type": "application/json"}), 422)


def test_the_same_object_twice_in_one_request_is_422(service: httpx.Client):
    refused(service.put(f"{V1}/objects", json={"objects": [body("a"), body("a")]}), 422, "each object once")


def test_unnamed_parts_stay_when_asked(service: httpx.Client):
    axis = np.eye(16).tolist()
    parts = [{"vector": axis[0], "part_id": "p0"}, {"vector": axis[1], "part_id": "p1"}]
    ok(service.put(f"{V1}/objects", json={"objects": [body("a", parts=parts)]}))
    one = [body("a", parts=[{"vector": axis[2], "part_id": "p1"}])]
    ok(service.put(f"{V1}/objects", json={"objects": one, "shrink_parts": False}))
    [found] = ok(service.get(f"{V1}/objects", params={"object_id": "a"}))["objects"]
    assert {p["part_id"]: p["vector"] for p in found["parts"]} == {"p0": axis[0], "p1": axis[2]}
    ok(service.put(f"{V1}/objects", json={"objects": one}))
    [found] = ok(service.get(f"{V1}/objects", params={"object_id": "a"}))["objects"]
    assert [p["part_id"] for p in found["parts"]] == ["p1"]


def test_an_explicit_average_is_what_avg_searches(rooms: Rooms, settings: Settings):
    from improvement.domain import MetricAggregationType

    domain = replace(make_domain(aggregation=MetricAggregationType.AVG), name=f"avg{time.time_ns()}")
    rooms.releases.ensure(domain)
    with serving(create_app(replace(rooms, domains={domain.name: domain}))) as service:
        axis = np.eye(16).tolist()
        parts = [{"vector": axis[0]}, {"vector": axis[1], "is_average": True}]
        ok(service.put(f"{V1}/objects", json={"objects": [body("a", parts=parts)]}))
        [hit] = ok(service.post(SEARCH, json={"search_query": axis[1], "limit": 1}))["search_results"]
        assert hit["distance"] == pytest.approx(0, abs=1e-6)


def test_the_published_object_routes_work_on_a_named_collection(service: httpx.Client, domain: SearchDomain):
    objects = f"{VECTORDB}/collections/objects"
    model = {"embedding_model_id": domain.encoder.model_id}
    axis = np.eye(16).tolist()
    one = {
        "object_id": "a",
        "payload": {"x": 1},
        "storage_meta": {"url": "u"},
        "parts": [{"vector": axis[0]}],
    }
    assert ok(service.post(f"{objects}/insert", json=model | {"objects": [one]})) is None
    refused(service.post(f"{objects}/insert", json=model | {"objects": [one]}), 409, "already there")
    assert (
        ok(service.post(f"{objects}/upsert", json=model | {"objects": [one, one | {"object_id": "b"}]}))
        is None
    )
    [found] = ok(service.post(f"{objects}/find-by-ids", json=model | {"object_ids": ["a", "z"]}))
    assert (found["payload"], found["storage_meta"], found["original_id"]) == ({"x": 1}, {"url": "u"}, None)
    similar = model | {"query_vector": axis[0], "limit": 1}
    [near] = ok(service.post(f"{objects}/find-similar", json=similar))
    assert near["distance"] == pytest.approx(0, abs=1e-6)
    assert ok(service.post(f"{objects}/delete", json=model | {"object_ids": ["a"]})) is None
    assert ok(service.post(f"{objects}/find-by-ids", json=model | {"object_ids": ["a"]})) == []
    refused(
        service.post(f"{objects}/find-by-ids", json={"embedding_model_id": "?", "object_ids": ["a"]}), 404
    )


def test_collections_go_blue_back_and_away(filled: httpx.Client, domain: SearchDomain, improving: Improver):
    collections = f"{VECTORDB}/collections"
    clicked = learn(filled, improving)
    first = ok(filled.get(f"{collections}/get-blue-info"))
    assert first["work_state"] == "blue"
    assert first["embedding_model"] == {
        "name": "words-v1",
        "id": "words-v1",
        "dimensions": 16,
        "metric_type": "cosine",
        "metric_aggregation_type": "min",
        "hnsw": {"m": 16, "ef_construction": 100},
    }
    green = {"embedding_model_id": "a second / model"}
    refused(filled.post(f"{collections}/set-blue", json=green), 404)
    created = ok(filled.post(f"{collections}/create", json=green))
    assert created["work_state"] == "green"
    assert ok(filled.post(f"{collections}/create", json=green)) == created
    assert ok(filled.post(f"{collections}/create-index", json=green))["index_created"] is True
    objects = ok(filled.get(f"{V1}/objects", params={"object_id": [f"o{i}" for i in range(28)]}))["objects"]
    ok(filled.post(f"{collections}/objects/upsert", json=green | {"objects": objects}))
    refused(filled.post(f"{collections}/delete", json={"embedding_model_id": "words-v1"}), 409, "is blue")

    assert ok(filled.post(f"{collections}/set-blue", json=green))["work_state"] == "blue"
    listed = ok(filled.get(f"{collections}/list"))["collections"]
    assert {c["embedding_model"]["id"]: c["work_state"] for c in listed} == {
        "words-v1": "green",
        "a second / model": "blue",
    }
    run_improvement(improving, 100, idle_seconds=1e9)
    mine = {"search_query": "red shoes", "limit": 28, "user_id": "ann"}
    after = ok(filled.post(SEARCH, json=mine))["search_results"]
    assert {r["object_id"]: r["meta"]["personalized"] for r in after}[clicked], "copies survive the switch"

    assert ok(filled.post(f"{collections}/rollback", json={}))["embedding_model"]["id"] == "words-v1"
    refused(filled.post(f"{collections}/rollback", json={}), 409, "roll back")
    assert ok(filled.post(f"{collections}/delete", json=green)) is None
    refused(filled.get(f"{collections}/get-info", params=green), 404)
    for path in ("queries/list", "collections/queries/list", "collections/get-blue-query-info"):
        ok(filled.get(f"{VECTORDB}/{path}"))


def test_health_says_which_store_is_away(service: httpx.Client, rooms: Rooms):
    assert ok(service.get("/healthz")) == {"status": "ok"}
    assert ok(service.get(f"{V1}/ping")) == {}
    assert ok(service.get("/readyz")) == {"mongo": "ok", "qdrant": "ok"}

    def away() -> None:
        raise ConnectionError("gone fishing")

    broken = replace(rooms, checks=dict(rooms.checks) | {"mongo": away})
    with serving(create_app(broken)) as client:
        refused(client.get("/readyz"), 503, "gone fishing")
        ok(client.get("/healthz"))


def test_metrics_count_searches(filled: httpx.Client, domain: SearchDomain):
    ok(filled.post(SEARCH, json={"search_query": "red", "limit": 3, "user_id": "ann"}))
    text = filled.get("/metrics").text
    assert f'search_seconds_count{{domain="{domain.name}",personalized="true"}} 1.0' in text
    assert "ann" not in text


CLIENT, OPERATOR = "c" * 20, "o" * 20


@pytest.fixture
def locked(settings: Settings, domain: SearchDomain) -> Iterator[httpx.Client]:
    keys = {"api_client_keys": CLIENT, "api_operator_keys": OPERATOR, "cors_origins": "https://shop.example"}
    guarded = Settings(_env_file=None, **settings.model_dump() | keys)
    rooms = build(guarded, {domain.name: domain})
    with serving(create_app(rooms)) as client:
        yield client
    rooms.close()


@pytest.mark.parametrize(
    ("key", "client_path", "operator_path"),
    [
        (None, 401, 401),
        ("wrong" * 5, 401, 401),
        ("é" * 20, 401, 401),
        (CLIENT, 200, 403),
        (OPERATOR, 200, 200),
    ],
)
def test_keys_open_what_their_role_may(
    locked: httpx.Client, key: str | None, client_path: int, operator_path: int
):
    for headers in ({"X-API-Key": key or ""}, {"Authorization": f"Bearer {key}"}):
        raw = {name: value.encode() for name, value in headers.items()} if key else {}
        search = locked.post(f"{V1}/embeddings/payload-count", json={}, headers=raw)
        assert search.status_code == client_path, search.text
        for path in (f"{VECTORDB}/collections/list", "/metrics", f"{CLICKSTREAM}/internal/queue"):
            assert locked.get(path, headers=raw).status_code == operator_path
    assert locked.get("/healthz").status_code == 200


def test_cors_is_open_to_the_origins_set_only(locked: httpx.Client):
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" in locked.options(SEARCH, headers=asked).headers
    stranger = asked | {"Origin": "https://evil.example"}
    assert "access-control-allow-origin" not in locked.options(SEARCH, headers=stranger).headers


def test_cors_is_closed_unless_set(service: httpx.Client):
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in service.options(SEARCH, headers=asked).headers


def test_the_docs_are_served(service: httpx.Client):
    assert service.get("/docs").status_code == 200
    paths = ok(service.get("/openapi.json"))["paths"]
    assert f"{CLICKSTREAM}/session" in paths

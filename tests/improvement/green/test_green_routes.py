"""Green builds over HTTP: what an operator asks for, sees and is refused."""

from dataclasses import replace
from typing import Any

import httpx
import pytest

from clickstream.queues import BUILDS_QUEUE
from improvement.api import create_app
from improvement.domain import SearchDomain
from improvement.green.building import run_builds
from improvement.green.builds import BuildState
from improvement.settings import Settings
from improvement.wiring import Rooms, improver
from tests.support import make_objects, serving

GREEN = "/api/v1/internal/green"


@pytest.fixture
def filled(rooms: Rooms, domain: SearchDomain) -> Rooms:
    rooms.vectors.upsert(rooms.releases.blue(domain.name).collection_id, make_objects(domain, 12))
    return rooms


def post(service: httpx.Client, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = service.post(f"{GREEN}/{path}", json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def get(service: httpx.Client, path: str, status: int = 200, **query: Any) -> dict[str, Any]:
    answer = service.get(f"{GREEN}/{path}", params=query)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def work(rooms: Rooms) -> int:
    return run_builds(improver(rooms), 60)


def test_a_build_goes_from_asked_for_to_gated_to_serving_and_back(
    service: httpx.Client, filled: Rooms, domain: SearchDomain
):
    asked = post(service, "build", population=False, by="ann")
    assert (asked["state"], asked["asked_by"], asked["gate"], asked["release"]) == (
        "queued",
        "ann",
        None,
        None,
    )
    assert filled.broker.queues[BUILDS_QUEUE].qsize() == 1
    work(filled)
    built = get(service, "status")
    assert (built["state"], built["build_id"], built["eta_seconds"]) == ("built", asked["build_id"], None)
    assert (built["release"]["work_state"], built["release"]["follows"]) == ("green", True)
    assert get(service, "builds")["builds"][0]["build_id"] == asked["build_id"]

    assert "no gate report" in get(service, "report", 404)["detail"]
    assert post(service, "gate", build_id=asked["build_id"])["gate_asked"]
    assert filled.broker.queues[BUILDS_QUEUE].qsize() == 2
    work(filled)
    gated = get(service, "status", build_id=asked["build_id"])
    assert (gated["gate_asked"], gated["gate"]["passed"], gated["gate"]["fresh"]) == (False, False, True)
    report = get(service, "report", build_id=asked["build_id"])
    assert report == get(service, "report", report_id=gated["gate"]["report_id"])
    assert report["reasons"] == gated["gate"]["reasons"] != []
    page = service.get(f"{GREEN}/report", params={"format": "html"})
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.text.startswith("<!doctype html>")

    refused = post(service, "promote", 409, by="ann")
    assert "may not serve" in refused["detail"]
    serving_now = post(service, "promote", by="ann", force="a test")
    assert (serving_now["work_state"], serving_now["build"]) == ("blue", asked["build_id"])
    assert "serves" in post(service, "discard", 409)["detail"]
    assert post(service, "rollback", by="ann", why="a test")["embedding_model"]["id"] == "words-v1"
    assert post(service, "discard")["state"] == "discarded"
    get(service, "status", 404)
    assert get(service, "status", build_id=asked["build_id"])["release"] is None


def test_a_second_build_is_refused_until_the_first_is_cancelled(service: httpx.Client, filled: Rooms):
    first = post(service, "build")
    assert first["build_id"] in post(service, "build", 409)["detail"]
    assert post(service, "cancel")["state"] == "cancelled"
    assert "cancelled already" in post(service, "cancel", 409)["detail"]
    assert work(filled) == 0
    assert post(service, "gate", 409)["detail"].endswith("only one that is built can be gated")
    post(service, "build")


def test_a_frozen_domain_is_not_built(service: httpx.Client, filled: Rooms, domain: SearchDomain):
    filled.learning.freeze(domain.name, "ann", "drift")
    assert "frozen by ann" in post(service, "build", 409)["detail"]


def test_a_gate_that_cannot_run_says_so_in_the_status(
    service: httpx.Client, filled: Rooms, domain: SearchDomain
):
    build = post(service, "build", population=False)
    work(filled)
    post(service, "gate")
    filled.releases.set_blue(domain.name, build["embedding_model_id"])  # by hand, meanwhile
    assert work(filled) == 1
    status = get(service, "status")
    assert (status["gate_asked"], status["state"]) == (False, "built")
    assert "serves already" in status["reason"]
    assert work(filled) == 0


MALFORMED: list[tuple[str, dict[str, Any], str]] = [
    ("build", {"space": ""}, "space"),
    ("build", {"space": "x" * 257}, "space"),
    ("build", {"by": "x" * 201}, "by"),
    ("build", {"population": "perhaps"}, "population"),
    ("build", {"domain": "x" * 65}, "domain"),
    ("promote", {}, "by"),
    ("promote", {"by": "ann", "force": ""}, "force"),
    ("promote", {"by": "ann", "force": "x" * 1_001}, "force"),
    ("rollback", {"by": ""}, "by"),
    ("gate", {"build_id": "../x"}, "build_id"),
    ("cancel", {"build_id": 5}, "build_id"),
    ("discard", {"build": "0" * 32}, "build"),
]


def test_a_malformed_body_is_refused_and_names_the_field(service: httpx.Client):
    for path, body, names in MALFORMED:
        detail = post(service, path, 422, **body)["detail"]
        assert any(names in one["loc"] for one in detail), (path, body)


def test_text_that_no_store_can_hold_is_refused(service: httpx.Client):
    for body in (b'{"by": "\\ud800"}', b'{"by": "ann", "why": "\\udfff"}'):
        answer = service.post(f"{GREEN}/rollback", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 422


def test_a_malformed_query_is_refused(service: httpx.Client):
    get(service, "status", 422, build_id="x")
    get(service, "status", 422, domain="nothing")
    get(service, "builds", 422, limit=0)
    get(service, "report", 422, format="pdf")


def test_a_build_of_another_domain_is_not_found(service: httpx.Client, filled: Rooms):
    build = filled.builds.ask("elsewhere", "m@1", "m", False, "ann")
    assert "not of domain" in get(service, "status", 404, build_id=build.build_id)["detail"]
    assert get(service, "status", 404, build_id="0" * 32)["detail"].startswith("there is no build")


def test_an_unknown_space_is_refused_and_the_known_ones_are_named(service: httpx.Client, filled: Rooms):
    assert "['words-v1']" in post(service, "build", 422, space="words-v9")["detail"]


def test_builds_are_for_operators(rooms: Rooms, settings: Settings):
    keys = {"api_client_keys": ("c" * 16,), "api_operator_keys": ("o" * 16,)}
    closed = replace(rooms, settings=Settings(_env_file=None, **keys))
    with serving(create_app(closed)) as client:
        for path in ("build", "gate", "promote", "rollback", "cancel", "discard"):
            answer = client.post(f"{GREEN}/{path}", json={}, headers={"X-API-Key": "c" * 16})
            assert answer.status_code == 403
        for path in ("status", "builds", "report"):
            assert client.get(f"{GREEN}/{path}", headers={"X-API-Key": "c" * 16}).status_code == 403
            assert client.get(f"{GREEN}/{path}").status_code == 401


def test_deleting_a_builds_collection_by_the_published_path_discards_the_build(
    service: httpx.Client, filled: Rooms, domain: SearchDomain
):
    asked = post(service, "build", population=False, by="ann")
    work(filled)
    name = {"embedding_model_id": asked["embedding_model_id"]}
    collections = "/api/v1/internal/vectordb/collections"
    assert service.post(f"{collections}/delete", json=name).status_code == 200
    assert filled.builds.get(asked["build_id"]).state is BuildState.DISCARDED
    # nobody may pass off another collection as what the gate has seen
    assert service.post(f"{collections}/create", json=name).status_code == 409

"""Two towers over HTTP: what an operator asks for, sees and is refused."""

from dataclasses import replace
from typing import Any

import httpx
import pytest

from clickstream.queues import TOWERS_QUEUE
from improvement.api import create_app
from improvement.domain import SearchDomain
from improvement.improver import Improver
from improvement.settings import Settings
from improvement.two_tower import switching
from improvement.two_tower.releasing import publish_due
from improvement.wiring import Rooms
from tests.improvement.two_tower.published import begun, come_back, trained, with_towers
from tests.support import serving

TOWERS = "/api/v1/internal/towers"


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return with_towers(domain, auto_promote=False)


def post(service: httpx.Client, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = service.post(f"{TOWERS}/{path}", json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def get(service: httpx.Client, path: str, status: int = 200, **query: Any) -> dict[str, Any]:
    answer = service.get(f"{TOWERS}/{path}", params=query)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_checkpoint_goes_from_asked_for_to_serving_and_back(
    service: httpx.Client,
    rooms: Rooms,
    improving: Improver,
    domain: SearchDomain,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(switching, "GRACE", 0.0)
    assert get(service, "status")["serving"] is None
    assert "begins its towers first" in post(service, "publish", 409)["detail"]
    begun(rooms, improving, domain)
    first = get(service, "status")["serving"]
    assert (first["trained"], first["objects"]) == ("begun", 30)
    head = trained(improving, domain, 1_000.0)
    come_back(rooms, domain)
    assert post(service, "publish")["publishing"]["asked"]
    assert rooms.broker.queues[TOWERS_QUEUE].qsize() == 1
    assert publish_due(improving, domain) == 2
    waiting = post(service, "gate")["waiting"]
    assert (waiting["checkpoint_id"], waiting["gate"]["passed"], waiting["against"]) == (head, True, [])
    assert get(service, "report")["build"] == head
    promoted = post(service, "promote", checkpoint=head[:10], by="ann")
    assert (promoted["embedding_model"]["id"], promoted["work_state"]) == (head, "blue")
    newest = get(service, "status")["promotions"][0]
    assert (newest["by"], newest["gated"]) == ("ann", True)
    back = post(service, "rollback", by="ann", why="odd results")
    assert back["embedding_model"]["id"] == first["checkpoint_id"]
    reverted = post(service, "revert", by="ann", why="odd results")
    assert reverted["embedding_model"]["id"] == first["checkpoint_id"]
    assert get(service, "status")["newest"]["checkpoint_id"] == first["checkpoint_id"]
    rows = get(service, "checkpoints")["checkpoints"]
    assert {row["checkpoint_id"]: row["good"] for row in rows} == {head: False, first["checkpoint_id"]: None}
    curve = service.get(f"{TOWERS}/curve")
    assert curve.headers["content-type"] == "image/png"
    assert curve.content.startswith(b"\x89PNG")


def test_a_domain_without_towers_is_told_how_to_get_them(
    settings: Settings, rooms: Rooms, domain: SearchDomain
):
    plain = replace(rooms, domains={domain.name: replace(domain, towers=None)})
    with serving(create_app(plain)) as service:
        for answer in (
            service.get(f"{TOWERS}/status"),
            service.get(f"{TOWERS}/curve"),
            service.post(f"{TOWERS}/publish", json={}),
            service.post(f"{TOWERS}/revert", json={"by": "ann", "why": "why"}),
        ):
            assert answer.status_code == 409
            assert "towers=TowerSettings()" in answer.json()["detail"]


def test_orders_that_cannot_be_carried_out_are_refused(service: httpx.Client):
    for path, body, status in (
        ("promote", {"by": "ann", "checkpoint": "ffff"}, 404),
        ("promote", {"by": "ann"}, 409),
        ("promote", {"by": "ann", "checkpoint": "../etc"}, 422),
        ("promote", {"checkpoint": "ffff"}, 422),
        ("rollback", {"by": "ann"}, 409),
        ("revert", {"by": "ann"}, 422),
        ("revert", {"by": "ann", "why": "why", "force": True}, 422),
        ("gate", {}, 409),
        ("publish", {"domain": "nobody"}, 422),
    ):
        assert "detail" in post(service, path, status, **body)

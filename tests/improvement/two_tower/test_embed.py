"""Vectors of texts, histories and objects over HTTP, and what strangers send instead of them."""

import json
import math
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from improvement.domain import SearchDomain
from improvement.errors import Conflict, Invalid, Unavailable
from improvement.evidence import EvidenceWeights
from improvement.objects import Object
from improvement.schemas import Embed
from improvement.two_tower.embedding import Embedded, Embedding
from improvement.two_tower.facts import History, ItemFacts, Past
from improvement.two_tower.names import towers_name
from improvement.two_tower.serving import TowerServing
from improvement.wiring import Rooms
from tests.improvement.two_tower.given_towers import SETTINGS, SIZE, serve_towers, unit
from tests.support import Clock, Gap, WordEncoder, make_object

EMBED = "/api/v1/embed"
TEXTS = ["red shoes", "green tea", "blue sky above the hills"]
STRANGE = "a/b\n\N{GRINNING FACE} ../?x=%00&y"


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return replace(domain, towers=SETTINGS, evidence=EvidenceWeights())


@pytest.fixture
def objects(rooms: Rooms, domain: SearchDomain) -> list[Object]:
    rows = domain.embed(TEXTS)
    ids = ["o0", "o1", STRANGE]
    made = [
        make_object(object_id, row, payload={"author": f"author of {object_id}"})
        for object_id, row in zip(ids, rows, strict=True)
    ]
    rooms.vectors.upsert(domain.name, made)
    return made


@pytest.fixture
def towers(rooms: Rooms, domain: SearchDomain, objects: list[Object]) -> TowerServing:
    return serve_towers(rooms, domain, objects)


def embedding(rooms: Rooms, now: float = 2_000.0) -> Embedding:
    return Embedding(rooms.vectors, rooms.releases, rooms.entries, rooms.towers, Clock(now))


def embed(rooms: Rooms, domain: SearchDomain, **body: Any) -> Embedded:
    return embedding(rooms).embed(domain, Embed.model_validate(body))


def post(service: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    response = service.post(EMBED, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def did(object_id: str, action_type: str = "like", **more: Any) -> dict[str, Any]:
    return {"object_id": object_id, "action_type": action_type} | more


def test_over_http_a_text_is_where_a_new_object_of_it_would_be(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, towers: TowerServing
):
    texts = ["red shoes", "shoes red", "something else"]
    answer = post(service, {"texts": texts})
    tower = rooms.towers.tower(towers.checkpoint_id)
    facts = ItemFacts(("x", "y", "z"), unit(domain.embed(texts)), (None,) * 3)
    np.testing.assert_allclose(answer["vectors"], tower.items(facts), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(answer["vectors"], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(answer["vectors"][0], answer["vectors"][1], atol=1e-6)
    described = {key: answer[key] for key in answer if key != "vectors"}
    assert described == {
        "model_id": towers.checkpoint_id, "space": towers.checkpoint_id, "dimensions": SIZE,
        "meta": {"is_pretrained": True},
    }  # fmt: skip
    encoded = post(service, {"model": "encoder", "texts": texts, "domain": domain.name})
    np.testing.assert_allclose(encoded["vectors"], domain.embed(texts), atol=1e-6)
    assert (encoded["model_id"], encoded["space"], encoded["dimensions"]) == ("words-v1", "words-v1", 16)
    history = post(service, {"history": [did("o0"), did(STRANGE)]})
    assert len(history["vectors"]) == 1
    found = post(service, {"object_ids": [STRANGE, "o0"]})
    assert found["meta"]["object_ids"] == [STRANGE, "o0"]
    for wrong, what in (
        ({"texts": ["red", "?!"]}, "texts[1]: expected text that has a direction"),
        ({"texts": ["red"], "domain": "elsewhere"}, "not configured"),
        ({"history": [did("gone"), did("gone\n")]}, "none of its objects is known: ['gone', 'gone\\n']"),
        ({"history": [did("o0", "view"), did("gone")]}, "no action on a known object"),
        ({"object_ids": ["gone"]}, "object_ids: none of them is known"),
        ({"history": [did("o0")], "model": "encoder"}, "texts: expected texts"),
        ({"texts": ["red"], "history": [did("o0")]}, "exactly one of texts, history and object_ids"),
        ({}, "exactly one of texts, history and object_ids"),
        ({"texts": []}, "texts"),
        ({"history": []}, "history"),
        ({"texts": ["red"] * 257}, "at most 256"),
    ):
        response = service.post(EMBED, json=wrong)
        assert response.status_code == 422, wrong
        assert what in str(response.json()["detail"]), (wrong, response.text)
    nan = '{"history": [{"object_id": "o0", "action_type": "like", "meta": {"x": NaN}}]}'
    raw = service.post(EMBED, content=nan, headers={"content-type": "application/json"})
    assert raw.status_code == 422
    assert "NaN" in raw.text
    lone = service.post(
        EMBED, content=b'{"texts": ["\\ud800"]}', headers={"content-type": "application/json"}
    )
    assert lone.status_code == 422
    assert service.get("/openapi.json").json()["paths"][EMBED]["post"]["description"]


def test_a_history_is_what_the_user_tower_says_of_it(
    rooms: Rooms, domain: SearchDomain, objects: list[Object], towers: TowerServing
):
    later = [did(STRANGE, "hide", created_at=900), did("o0", "like", created_at=100)]
    ignored = [did("o0", "view"), did("o1", "whatever"), did("gone")]
    found = embed(rooms, domain, history=[*later, did("o1", "click"), *ignored, did("o1", created_at=9_999)])
    assert found.meta == {"is_pretrained": False, "engagements": 4, "unknown": ["gone"]}
    assert found.space == towers.checkpoint_id
    rows = rooms.vectors.means(towers.collection_id, ["o0", "o1", STRANGE])
    said = [
        ("o0", "like", 100.0),
        (STRANGE, "hide", 900.0),
        ("o1", "click", 2_000.0),
        ("o1", "like", 2_000.0),
    ]
    pasts = [
        Past(str(n), o, f"author of {o}", action, math.tanh(domain.evidence.weight(action) / 3), at)
        for n, (o, action, at) in enumerate(said)
    ]
    history = History(pasts, np.stack([rows[past.object_id] for past in pasts]), 2_000.0)
    expected = rooms.towers.tower(towers.checkpoint_id).users([history])
    np.testing.assert_allclose(found.vectors, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.vectors), 1, atol=1e-5)


def test_only_the_newest_engagements_are_read(
    rooms: Rooms, domain: SearchDomain, objects: list[Object], towers: TowerServing
):
    newest = [did("o0", created_at=at) for at in range(1_000, 1_000 + SETTINGS.history)]
    old = [did("o1", created_at=at) for at in range(400)]
    alone, both = embed(rooms, domain, history=newest), embed(rooms, domain, history=[*newest, *old])
    assert both.meta["engagements"] == SETTINGS.history
    np.testing.assert_array_equal(alone.vectors, both.vectors)


def test_objects_are_as_they_serve_and_say_whether_somebody_touched_them(
    rooms: Rooms, domain: SearchDomain, objects: list[Object], towers: TowerServing
):
    rooms.entries.create_items(domain.name, ["o0", STRANGE])
    entry = rooms.entries.load(domain.name, [("item", STRANGE)])[("item", STRANGE)]
    rooms.entries.save([replace(entry, count=3)])
    moved = replace(rooms.vectors.find(towers.collection_id, ["o0"])["o0"], parts=unit(np.ones((1, SIZE))))
    rooms.vectors.upsert(towers.collection_id, [moved])
    found = embed(rooms, domain, object_ids=[STRANGE, "gone", "o0", STRANGE, "o1"])
    assert found.meta == {
        "is_pretrained": [False, True, True], "object_ids": [STRANGE, "o0", "o1"], "unknown": ["gone"],
    }  # fmt: skip
    np.testing.assert_allclose(found.vectors[1], moved.mean, atol=1e-6)


def test_towers_that_begin_to_serve_meanwhile_embed(
    rooms: Rooms, domain: SearchDomain, objects: list[Object], towers: TowerServing
):
    bodies: list[dict[str, Any]] = [
        {"object_ids": ["o0"]},
        {"history": [did("o0")]},
        {"texts": ["red shoes"]},
    ]
    for seed, body in enumerate(bodies, 1):
        before = rooms.towers.serving(domain.name)
        assert before is not None

        def switch(seed: int = seed, before: TowerServing = before) -> None:
            serve_towers(rooms, domain, objects, seed=seed)
            rooms.releases.delete(towers_name(domain.name), before.checkpoint_id)
            rooms.checkpoints.prune(domain.name, 1, set())

        answer = embed(replace(rooms, towers=Gap(rooms.towers, "serving", switch)), domain, **body)
        after = rooms.towers.serving(domain.name)
        assert after is not None
        assert answer.space == after.checkpoint_id != before.checkpoint_id


def test_what_does_not_serve_says_so(rooms: Rooms, domain: SearchDomain, objects: list[Object]):
    with pytest.raises(Unavailable, match="do not serve yet"):
        embed(rooms, domain, texts=["red"])
    with pytest.raises(Invalid, match="model: domain .* has no two towers"):
        embed(rooms, replace(domain, towers=None), texts=["red"])
    assert embed(rooms, replace(domain, towers=None), model="encoder", texts=["red"]).space == "words-v1"
    serve_towers(rooms, domain, objects, trained=False)
    assert embed(rooms, domain, history=[did("o0")]).meta["is_pretrained"] is True
    other = replace(domain, encoder=WordEncoder(model_id="words-v2"))
    with pytest.raises(Conflict, match="no encoder of 'words-v1'"):
        embed(rooms, other, texts=["red"])
    rooms.checkpoints.prune(domain.name, 0, set())
    with pytest.raises(Unavailable, match="there is no checkpoint"):
        embed(rooms, domain, texts=["red"])


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
bodies = st.dictionaries(
    st.sampled_from(["texts", "history", "object_ids", "model", "domain"]),
    anything
    | st.lists(st.text(max_size=6), max_size=3)
    | st.lists(
        st.fixed_dictionaries(
            {"object_id": st.text(max_size=4) | anything, "action_type": st.text(max_size=4) | anything},
            optional={"created_at": anything, "meta": anything},
        ),
        max_size=3,
    ),
)


@given(body=bodies)
def test_a_strangers_body_is_refused_or_has_exactly_one_thing_to_embed(body: dict[str, Any]):
    try:
        wanted = Embed.model_validate(body)
    except ValidationError:
        return
    given = [one for one in (wanted.texts, wanted.history, wanted.object_ids) if one is not None]
    assert len(given) == 1
    assert 1 <= len(given[0]) <= 1_000
    for past in wanted.history or ():
        assert past.object_id.encode()
        json.dumps(past.meta, allow_nan=False)

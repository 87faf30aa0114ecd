"""What the two towers recommend, and what stands in for them, against a naive reading."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from clickstream.improvement_queue import Owner, Request, Status
from clickstream.records import SessionEvent
from improvement.domain import MetricType, SearchDomain
from improvement.erasure import erase_user
from improvement.errors import Unavailable
from improvement.improver import Improver
from improvement.jobs import run_improvement
from improvement.objects import Object
from improvement.profile_routes import recommendations_of
from improvement.profiles.diversity import diverse
from improvement.recommend import Recommend
from improvement.settings import Settings
from improvement.two_tower.facts import History
from improvement.two_tower.moves import user_of
from improvement.two_tower.names import towers_name
from improvement.two_tower.serving import TowerServing
from improvement.two_tower.tower import Tower
from improvement.two_tower.trainer import Training
from improvement.two_tower.user_vectors import amid, faded
from improvement.wiring import Rooms, build
from tests.improvement.profiles.given import give_profile
from tests.improvement.two_tower.given_towers import SETTINGS, SIZE, know_user, past, serve_towers, unit
from tests.support import Gap, make_domain, make_object, make_objects

TASTE = unit(np.random.default_rng(3).standard_normal(SIZE))
LIKED = ("o1", "o4", "o7")


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return replace(domain, towers=SETTINGS)


@pytest.fixture
def objects(rooms: Rooms, domain: SearchDomain) -> list[Object]:
    made = make_objects(domain, 40)
    rooms.vectors.upsert(domain.name, made)
    return made


@pytest.fixture
def towers(rooms: Rooms, domain: SearchDomain, objects: list[Object]) -> TowerServing:
    return serve_towers(rooms, domain, objects)


def recommend(rooms: Rooms, user_id: str = "ann", domain: str | None = None, **body: Any) -> dict[str, Any]:
    found = next(iter(rooms.domains.values())) if domain is None else rooms.domains[domain]
    wanted = Recommend.model_validate({"user_id": user_id, "limit": 40, "model": "two_tower"} | body)
    return recommendations_of(rooms).recommend(found, wanted)


def shown(answer: dict[str, Any]) -> list[str]:
    return [result["object_id"] for result in answer["search_results"]]


def sources(answer: dict[str, Any]) -> list[str]:
    return [result["meta"]["source"] for result in answer["search_results"]]


def rows_of(rooms: Rooms, collection: str, objects: Sequence[Object]) -> dict[str, np.ndarray]:
    return rooms.vectors.means(collection, [o.object_id for o in objects])


def nearest(rows: dict[str, np.ndarray], query: np.ndarray) -> list[str]:
    return sorted(rows, key=lambda one: -float(unit(rows[one]) @ query))


def naive_mean(rows: Sequence[np.ndarray], signals: Sequence[float], keep: float) -> np.ndarray | None:
    total, mine = np.zeros(len(rows[0])), 1.0
    for row, signal in zip(reversed(rows), reversed(signals), strict=True):
        total, mine = total + signal * mine * row, mine * keep
    length = float(np.linalg.norm(total))
    return None if length < 1e-9 else total / length


@given(data=st.data(), count=st.integers(1, 6), keep=st.sampled_from([1.0, 0.95, 0.5]))
def test_a_user_begins_with_the_signed_mean_of_their_items_the_newer_the_more(
    data: st.DataObject, count: int, keep: float
):
    seed = data.draw(st.integers(0, 999))
    signals = data.draw(st.lists(st.sampled_from([-0.9, -0.2, 0.3, 1.0]), min_size=count, max_size=count))
    rows = unit(np.random.default_rng(seed).standard_normal((count, 5)))
    made, expected = user_of(list(rows), faded(signals, keep).tolist()), naive_mean(list(rows), signals, keep)
    assert made is not None
    assert expected is not None
    np.testing.assert_allclose(made, expected, atol=1e-5)


def test_an_untrained_user_tower_says_the_same():
    training = Training(SETTINGS, np.eye(SIZE, dtype=np.float32))
    tower = Tower(SETTINGS, training.arrays())
    rows = unit(np.random.default_rng(1).standard_normal((4, SIZE)))
    pasts = [past(f"o{n}", signal, 100.0 * n) for n, signal in enumerate([0.5, -0.7, 0.2, 0.9])]
    said = tower.users([History(pasts, rows, 1_000.0)])[0]
    begun = user_of(list(rows), faded([one.signal for one in pasts], 1 - SETTINGS.user_rate).tolist())
    np.testing.assert_allclose(said, begun, atol=1e-6)


# --- by the towers


def test_unseen_originals_near_the_users_vector_come_first(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, objects: list[Object], towers: TowerServing
):
    know_user(rooms, domain, "ann", [past(o) for o in LIKED], count=12, vector=TASTE,
              space=towers.checkpoint_id)  # fmt: skip
    give_profile(rooms, domain, "ann", np.ones(16), seen=["o9", "gone"])
    mine = [replace(o, object_id="x", original_id=o.object_id, user_id="ann") for o in objects[:9]]
    rooms.vectors.upsert(domain.name, mine)
    rooms.entries.create_items(domain.name, ["o2"])  # it came, and nobody touched it
    touched = replace(rooms.entries.load(domain.name, [("item", "o2")])[("item", "o2")], id="o3", count=1)
    rooms.entries.save([replace(touched, version=0)])
    body = {"user_id": "ann", "model": "two_tower", "limit": 40}
    answer = service.post("/api/v1/recommend", json=body).json()
    every = nearest(rows_of(rooms, towers.collection_id, objects), TASTE)
    assert shown(answer) == [o for o in every if o not in {*LIKED, "o9"}]
    assert answer["meta"] == {
        "source": "two_tower", "checkpoint_id": towers.checkpoint_id, "engagements": 12,
    }  # fmt: skip
    by_id = {o.object_id: o for o in objects}
    for result in answer["search_results"]:
        assert result["meta"] == {
            "personalized": False, "source": "two_tower", "is_pretrained": result["object_id"] != "o3",
        }  # fmt: skip
        assert result["payload"] == by_id[result["object_id"]].payload
    distances = [result["distance"] for result in answer["search_results"]]
    assert distances == sorted(distances)
    red = {"must": [{"key": "color", "match": {"value": "red"}}]}
    reds = [o for o in every if by_id[o].payload["color"] == "red"]
    assert shown(recommend(rooms, filter=red, exclude_seen=False, limit=5)) == reds[:5]
    rows = rows_of(rooms, towers.collection_id, objects)
    ranked = unit(np.stack([rows[o] for o in every]))
    picks = diverse(ranked @ TASTE, ranked, 0.4, 6)
    mixed = recommend(rooms, diversity=0.4, limit=6, exclude_seen=False)
    assert shown(mixed) == [every[pick] for pick in picks]
    default = service.post("/api/v1/recommend", json={"user_id": "ann"}).json()
    assert default["meta"]["source"] == "profile"


def test_a_user_whose_vector_is_of_another_space_begins_from_what_they_did(
    rooms: Rooms, domain: SearchDomain, objects: list[Object], towers: TowerServing
):
    pasts = [past("o1", 0.9), past("o2", -0.8), past("gone", 1.0), past("o5", 0.3)]
    know_user(rooms, domain, "ann", pasts, vector=TASTE, space="another checkpoint")
    rows = rows_of(rooms, towers.collection_id, objects)
    query = naive_mean([rows["o1"], rows["o2"], rows["o5"]], [0.9, -0.8, 0.3], 1 - SETTINGS.user_rate)
    assert query is not None
    answer = recommend(rooms, exclude_seen=False)
    assert answer["meta"]["source"] == "two_tower"
    assert shown(answer) == nearest(rows, query)


def test_towers_that_begin_to_serve_meanwhile_answer(
    rooms: Rooms, domain: SearchDomain, objects: list[Object], towers: TowerServing
):
    know_user(rooms, domain, "ann", [past(o) for o in LIKED], vector=TASTE, space=towers.checkpoint_id)

    def switch() -> None:
        serve_towers(rooms, domain, objects, seed=1)
        rooms.releases.delete(towers_name(domain.name), towers.checkpoint_id)

    answer = recommend(replace(rooms, towers=Gap(rooms.towers, "serving", switch)))
    assert answer["meta"]["source"] == "two_tower"
    assert answer["meta"]["checkpoint_id"] == rooms.towers.serving(domain.name).checkpoint_id  # type: ignore[union-attr]
    assert answer["meta"]["checkpoint_id"] != towers.checkpoint_id
    assert len(shown(answer)) == 37


def test_a_click_teaches_the_profile_but_no_copy_in_a_space_that_is_not_its_own(
    rooms: Rooms, improving: Improver, domain: SearchDomain, objects: list[Object], towers: TowerServing
):
    know_user(rooms, domain, "ann", [past(o) for o in LIKED], vector=TASTE, space=towers.checkpoint_id)
    answer = recommend(rooms, create_session=True, limit=5)
    session_id, clicked = answer["session_id"], shown(answer)[1]
    session = rooms.clickstream.session(session_id)
    assert session is not None
    assert session.query_vector is not None
    assert session.query_vector.model_id == towers.checkpoint_id
    np.testing.assert_allclose(session.query_vector.vectors, [TASTE], atol=1e-6)
    event = SessionEvent(event_id="e", object_id=clicked, created_at=int(time.time()) + 30)
    rooms.clickstream.push_events([(session_id, event)])
    rooms.queue.enqueue([Request(session_id, Owner(domain.name, "ann"), 9)])
    run_improvement(improving, 10, idle_seconds=1e9)
    assert rooms.vectors.copies(domain.name, ["ann"]) == []
    entry = rooms.queue.entry(session_id)
    assert entry is not None
    assert entry.status is Status.SKIPPED
    assert entry.reason == f"no query vector: its query is a vector of {towers.checkpoint_id!r}"
    stored = rooms.profiles.load(domain.name, ["ann"])["ann"]
    assert [one.object_id for one in stored.searched if one.weight > 0] == [clicked]


def test_nothing_of_another_domain_is_recommended(settings: Settings, domain: SearchDomain):
    other = replace(make_domain(f"{domain.name}-b"), towers=SETTINGS)
    rooms = build(settings, {domain.name: domain, other.name: other})
    try:
        mine, theirs = make_objects(domain, 6), make_objects(other, 12, seed=5)[6:]
        for one, its in ((domain, mine), (other, theirs)):
            rooms.vectors.upsert(one.name, its)
            serving = serve_towers(rooms, one, its)
            know_user(rooms, one, "ann", [past(its[0].object_id)], count=9, vector=TASTE,
                      space=serving.checkpoint_id)  # fmt: skip
        for one, its in ((domain, mine), (other, theirs)):
            answer = recommend(rooms, domain=one.name)
            assert answer["meta"]["source"] == "two_tower"
            assert sorted(shown(answer)) == sorted(o.object_id for o in its[1:])
    finally:
        rooms.close()


# --- new users


def test_a_new_user_gets_what_is_popular_then_what_is_new_then_anything(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain, objects: list[Object], towers: TowerServing
):
    rooms.popularity.save(domain.name, [("o5", 9.0), ("gone", 8.0), ("o1", 7.0), ("o9", 1.0)])
    for now, object_id in enumerate(("o20", "gone too", "o5", "o21")):
        rooms.entries.clock = lambda now=now: 1_000.0 + now  # type: ignore[misc]
        rooms.entries.create_items(domain.name, [object_id])
    know_user(rooms, domain, "ann", [past("o1"), past("o21", -0.9)], vector=TASTE,
              space=towers.checkpoint_id)  # fmt: skip
    give_profile(rooms, domain, "ann", np.ones(16))
    body = {"user_id": "ann", "model": "two_tower", "limit": 6}
    answer = service.post("/api/v1/recommend", json=body).json()
    assert shown(answer)[:3] == ["o5", "o9", "o20"]
    assert sources(answer) == ["popularity"] * 2 + ["recency"] + ["catalogue"] * 3
    assert not {"o1", "o21"} & {*shown(answer)}
    assert answer["meta"] == {
        "source": "popularity", "reason": "2 of 3 engagements", "engagements": 2, "min_engagements": 3,
    }  # fmt: skip
    stranger = recommend(rooms, "nobody", limit=4)
    assert shown(stranger) == ["o5", "o1", "o9", "o21"]
    assert stranger["meta"]["engagements"] == 0
    assert sorted(shown(recommend(rooms, "nobody"))) == sorted(o.object_id for o in objects)
    assert recommend(rooms, "nobody", fallback="none") == {
        "session_id": None, "search_results": [], "next_page_offset": None, "total_count": None,
        "meta_info": None,
        "meta": {"source": "none", "reason": "0 of 3 engagements", "engagements": 0, "min_engagements": 3},
    }  # fmt: skip


def test_what_was_there_before_the_towers_is_not_new(
    rooms: Rooms, domain: SearchDomain, objects: list[Object], towers: TowerServing
):
    rooms.entries.create_items(domain.name, ["o1", "o2", "o3", "o4"])
    old = {"domain": domain.name, "id": {"$in": ["o2", "o3", "o4"]}}
    rooms.entries._entries.update_many(old, {"$set": {"created_at": 0.0}})  # somebody engaged with them
    answer = recommend(rooms, "nobody", limit=3)
    assert sources(answer) == ["recency", "catalogue", "catalogue"]
    assert shown(answer)[0] == "o1"


def test_whoever_was_erased_is_new(
    rooms: Rooms, domain: SearchDomain, objects: list[Object], towers: TowerServing
):
    know_user(rooms, domain, "ann", [past(o) for o in LIKED], vector=TASTE, space=towers.checkpoint_id)
    give_profile(rooms, domain, "ann", np.ones(16), seen=["o9"])
    rooms.popularity.save(domain.name, [("o9", 9.0), ("o1", 7.0)])
    assert recommend(rooms)["meta"]["source"] == "two_tower"
    erase_user(rooms, "ann")
    rooms.entries.erase("ann")
    answer = recommend(rooms, limit=2)
    assert (shown(answer), sources(answer)) == (["o9", "o1"], ["popularity"] * 2)


# --- where the towers cannot say


@given(data=st.data(), count=st.integers(1, 6))
def test_amid_what_was_liked_is_nearest_to_all_of_it_wherever_the_origin_is(data: st.DataObject, count: int):
    weights = data.draw(st.lists(st.sampled_from([-0.9, 0.2, 1.0]), min_size=count, max_size=count))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    rows, shift = rng.standard_normal((2, count, 5)).astype(np.float32)
    shift = shift[0]
    here, there = amid(list(rows), weights), amid(list(rows + shift), weights)
    if max(weights) < 0:
        assert here is None
        assert there is None
        return
    np.testing.assert_allclose(here + shift, there, atol=1e-5)

    def far(place: np.ndarray) -> float:
        return sum(
            w * float(np.sum((row - place) ** 2)) for row, w in zip(rows, weights, strict=True) if w > 0
        )

    for step in rng.standard_normal((5, 5)):
        assert far(here) <= far(here + 0.1 * step) + 1e-4


def test_nobody_is_amid_nothing():
    assert amid([], []) is None


@pytest.mark.parametrize("metric", list(MetricType))
@pytest.mark.parametrize("diversity", [0.0, 0.3])
def test_pretrained_is_near_what_was_liked_by_whatever_metric(
    settings: Settings, metric: MetricType, diversity: float
):
    domain = replace(
        make_domain(metric=metric), name=f"by-{metric.value}-{diversity:.0%}"[:-1], towers=SETTINGS
    )
    rng = np.random.default_rng(0)
    one, other = 10 * np.eye(16)[0], 0.3 * np.eye(16)[1]
    rows = {f"near{n}": one + 0.5 * rng.standard_normal(16) for n in range(10)}
    rows |= {f"far{n}": other + 0.015 * rng.standard_normal(16) for n in range(10)}
    rooms = build(settings, {domain.name: domain})
    try:
        made = [
            make_object(name, domain.prepare_vectors(row.astype(np.float32))) for name, row in rows.items()
        ]
        rooms.vectors.upsert(domain.name, made)
        know_user(rooms, domain, "ann", [past("far9", -0.9), *(past(f"near{n}") for n in range(5))])
        answer = recommend(rooms, domain=domain.name, limit=5, diversity=diversity)
    finally:
        rooms.close()
    assert answer["meta"]["source"] == "pretrained"
    assert sorted(shown(answer)) == [f"near{n}" for n in range(5, 10)]


def test_before_towers_serve_there_are_the_encoders_vectors_of_what_the_user_did(
    rooms: Rooms, domain: SearchDomain, objects: list[Object]
):
    signals = [0.9, -0.8, 0.3]
    know_user(rooms, domain, "ann", [past(o, s) for o, s in zip(LIKED, signals, strict=True)])
    mine = [
        replace(o, object_id="x", original_id=o.object_id, user_id="ann", parts=-o.parts) for o in objects
    ]
    rooms.vectors.upsert(domain.name, mine)
    rows = rows_of(rooms, domain.name, objects)
    query = naive_mean([unit(rows[o]) for o in LIKED], signals, 1 - SETTINGS.user_rate)
    assert query is not None
    expected = sorted(objects, key=lambda o: -float((o.parts @ query).max()))
    answer = recommend(rooms, create_session=True, session_id="s", fallback="none")
    assert shown(answer) == [o.object_id for o in expected if o.object_id not in LIKED]
    assert set(sources(answer)) == {"pretrained"}
    assert answer["meta"] == {"source": "pretrained", "reason": "no towers serve yet", "engagements": 3}
    assert not any(result["meta"]["personalized"] for result in answer["search_results"])
    session = rooms.clickstream.session("s")
    assert session is not None
    assert session.query_vector is not None
    assert session.query_vector.model_id == rooms.releases.space(domain.name)
    # nobody counted engagements yet: what the profile was made from says what they are
    give_profile(rooms, domain, "bob", np.ones(16), seen=["o1", "o4", "o7"])
    answer = recommend(rooms, "bob", exclude_seen=False)
    same = naive_mean([unit(rows[o]) for o in LIKED], [1.0, 1.0, 1.0], 1 - SETTINGS.user_rate)
    assert same is not None
    assert answer["meta"]["source"] == "pretrained"
    assert shown(answer) == [
        o.object_id for o in sorted(objects, key=lambda o: -float((o.parts @ same).max()))
    ]
    give_profile(rooms, domain, "cat", np.ones(16), seen=["o1", "o4"])
    meta = recommend(rooms, "cat")["meta"]
    assert meta["source"] == "catalogue"
    assert meta["reason"] == "no towers serve yet; 2 of 3 engagements"
    know_user(rooms, domain, "dan", [past(o) for o in ("gone", "gone too", "all gone")])
    assert "no vectors" in recommend(rooms, "dan")["meta"]["reason"]


def test_towers_that_are_not_trained_yet_are_called_pretrained(
    rooms: Rooms, domain: SearchDomain, objects: list[Object]
):
    serving = serve_towers(rooms, domain, objects, trained=False)
    know_user(rooms, domain, "ann", [past(o) for o in LIKED], vector=TASTE, space=serving.checkpoint_id)
    meta = recommend(rooms)["meta"]
    assert (meta["source"], "not trained" in meta["reason"]) == ("pretrained", True)


class Broken:
    """Stands before a store of which some methods raise."""

    def __init__(self, inner: Any, *methods: str, error: Exception | None = None) -> None:
        self._inner, self._methods, self._error = inner, methods, error or Unavailable("the store is gone")

    def __getattr__(self, name: str) -> Any:
        def fail(*args: Any, **kwargs: Any) -> Any:
            raise self._error

        return fail if name in self._methods else getattr(self._inner, name)


class NoTowerCollection(Broken):
    """A vector store that searches any collection but the towers'."""

    def search(self, collection: str, *args: Any, **kwargs: Any) -> Any:
        if ".towers." in collection:
            raise RuntimeError("no such collection")
        return self._inner.search(collection, *args, **kwargs)


def test_whatever_fails_of_the_towers_somebody_stands_in(
    rooms: Rooms, domain: SearchDomain, objects: list[Object], towers: TowerServing
):
    know_user(rooms, domain, "ann", [past(o) for o in LIKED], vector=TASTE, space=towers.checkpoint_id)
    give_profile(rooms, domain, "ann", np.ones(16), seen=["o9", "o8", "o7"])
    rooms.popularity.save(domain.name, [("o9", 9.0), ("o6", 8.0), ("o5", 7.0)])
    vectors, entries = rooms.vectors, rooms.entries
    for broken, source in (
        ({"entries": Broken(entries, "load", "newest_items")}, "pretrained"),
        ({"towers": Broken(rooms.towers, "serving")}, "pretrained"),
        ({"towers": Broken(rooms.towers, "checkpoint")}, "pretrained"),
        ({"vectors": NoTowerCollection(vectors)}, "pretrained"),
        ({"vectors": Broken(vectors, "search")}, "popularity"),
        ({"vectors": Broken(vectors, "search", "chosen")}, "catalogue"),
        ({"profiles": Broken(rooms.profiles, "get", "load")}, "two_tower"),
        ({"entries": Broken(entries, "load", "newest_items"), "popularity": Broken(rooms.popularity, "top"),
          "profiles": Broken(rooms.profiles, "get", "load")}, "catalogue"),
    ):  # fmt: skip
        answer = recommend(replace(rooms, **broken), limit=4)
        assert answer["meta"]["source"] == source, broken
        assert ("reason" in answer["meta"]) == (source != "two_tower")
        assert len(shown(answer)) == 4
        if "profiles" not in broken:
            assert "o9" not in shown(answer)


def test_what_the_towers_found_is_shown_though_nobody_can_say_who_touched_it(
    rooms: Rooms, domain: SearchDomain, objects: list[Object], towers: TowerServing
):
    know_user(rooms, domain, "ann", [past(o) for o in LIKED], vector=TASTE, space=towers.checkpoint_id)

    class Patience(Broken):
        """Entries of users, and none of items: Mongo was waited for long enough."""

        def load(self, domain: str, keys: Any) -> Any:
            if keys[0][0] == "item":
                raise Unavailable("it took too long")
            return self._inner.load(domain, keys)

    answer = recommend(replace(rooms, entries=Patience(rooms.entries)))
    assert shown(answer) == shown(recommend(rooms))
    assert answer["meta"]["source"] == "two_tower"
    assert not any("is_pretrained" in result["meta"] for result in answer["search_results"])


def test_towers_without_their_checkpoint_are_not_asked(
    rooms: Rooms, domain: SearchDomain, objects: list[Object], towers: TowerServing
):
    know_user(rooms, domain, "ann", [past(o) for o in LIKED], vector=TASTE, space=towers.checkpoint_id)
    rooms.checkpoints.prune(domain.name, 0, set())
    meta = recommend(rooms)["meta"]
    assert meta["source"] == "pretrained"
    assert meta["reason"] == "the towers did not answer"


def test_a_domain_without_towers_says_so(rooms: Rooms, domain: SearchDomain):
    plain = replace(rooms, domains={domain.name: replace(domain, towers=None)})
    with pytest.raises(ValueError, match="model: domain .* has no two towers"):
        recommend(plain)
    assert recommend(plain, model="profile")["meta"]["source"] == "catalogue"


@pytest.mark.parametrize("model", ["", "two towers", "TWO_TOWER", "pretrained", 5, ["two_tower"], {"a": 1}])
def test_a_model_that_nobody_knows_is_refused(model: Any):
    with pytest.raises(ValidationError, match="model"):
        Recommend.model_validate({"user_id": "ann", "model": model})

"""What each arm does to searches and recommendations, over HTTP, and which sessions count for it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from improvement.domain import SearchDomain
from improvement.experiments.assignment import assigned
from improvement.experiments.reading import experiment_results
from improvement.experiments.settings import Arm, Experiment, Treatment
from improvement.experiments.treatment import treated
from improvement.objects import Object
from improvement.profiles.settings import ProfileSettings
from improvement.schemas import SimilaritySearch
from improvement.search import Search
from improvement.two_tower.settings import TowerSettings
from improvement.wiring import Rooms
from tests.improvement.profiles.given import give_profile, unit
from tests.support import Gap, make_objects

SEARCH, RECOMMEND = "/api/v1/embeddings/similarity-search", "/api/v1/recommend"
FOLLOWER = "words-v1@build"
EXPERIMENT = Experiment(
    "e",
    (
        Arm("static", Treatment.STATIC),
        Arm("copies", Treatment.COPIES),
        Arm("profile", Treatment.PROFILE),
        Arm("weighted", Treatment.PROFILE, profile_weight=1.0),
        Arm("population", Treatment.POPULATION, collection=FOLLOWER),
        Arm("towers", Treatment.TWO_TOWER),
    ),
    percent=90.0,
)


def user_in(arm: str | None) -> str:
    """The first user of an arm, or one who takes no part."""
    found = ((f"user {n}", assigned(EXPERIMENT, f"user {n}")) for n in range(10_000))
    return next(user for user, one in found if (None if one is None else one.name) == arm)


USERS = {arm.name: user_in(arm.name) for arm in EXPERIMENT.arms}
OUTSIDE = user_in(None)


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    profiles = ProfileSettings(min_interactions=3, rescored=40)
    return replace(domain, experiment=EXPERIMENT, profiles=profiles, towers=TowerSettings(size=8, heads=2))


def direction(seed: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal(16))


QUERY, TASTE = direction(100), direction(7)


@pytest.fixture
def objects(rooms: Rooms, domain: SearchDomain) -> list[Object]:
    """Forty objects; every user has a copy of the one that is farthest off, which makes it the nearest."""
    made = make_objects(domain, 40)
    rooms.vectors.upsert(domain.name, made)
    last = made[[o.object_id for o in made].index(nearest(made, QUERY)[-1])]
    users = [*USERS.values(), OUTSIDE]
    copies = [
        replace(
            last, object_id=f"{last.object_id}_{user}", user_id=user, original_id=last.object_id,
            parts=np.repeat(QUERY[None], len(last.parts), 0),
        )
        for user in users
    ]  # fmt: skip
    rooms.vectors.upsert(domain.name, copies)
    for user in users:
        give_profile(rooms, domain, user, TASTE)
    return made


def nearest(objects: Sequence[Object], query: np.ndarray) -> list[str]:
    return [o.object_id for o in sorted(objects, key=lambda o: -float((o.parts @ query).max()))]


def ask(service: httpx.Client, path: str, user: str | None, **body: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {"search_query": QUERY.tolist()} if path == SEARCH else {}
    response = service.post(path, json=plain | {"limit": 40, "user_id": user} | body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def shown(answer: dict[str, Any]) -> list[str]:
    return [result["object_id"] for result in answer["search_results"]]


def registered(rooms: Rooms, service: httpx.Client, path: str, user: str | None, **body: Any) -> Any:
    answer = ask(service, path, user, create_session=True, **body)
    session = rooms.clickstream.session(answer["session_id"])
    assert session is not None
    return session.experiment, session.arm


# --- searches


def test_originals_for_everybody_the_same(service: httpx.Client, objects: list[Object]):
    answer = ask(service, SEARCH, USERS["static"])
    assert shown(answer) == nearest(objects, QUERY)
    assert not any(result["meta"]["personalized"] for result in answer["search_results"])
    assert answer["meta"] == {"profile": False, "experiment": {"name": "e", "arm": "static"}}
    sorted_by_field = ask(service, SEARCH, USERS["static"], sort_by={"field": "n"})
    assert not any(result["meta"]["personalized"] for result in sorted_by_field["search_results"])


def test_copies_without_a_profile(service: httpx.Client, objects: list[Object]):
    plain = nearest(objects, QUERY)
    for arm in ("copies", "towers"):
        answer = ask(service, SEARCH, USERS[arm])
        assert shown(answer) == [plain[-1], *plain[:-1]]
        assert answer["meta"] == {"profile": False, "experiment": {"name": "e", "arm": arm}}


def test_a_profile_with_the_weight_of_the_arm(service: httpx.Client, objects: list[Object]):
    by_weight = {
        weight: shown(ask(service, SEARCH, OUTSIDE, profile_weight=weight)) for weight in (0.0, 0.3, 1.0)
    }
    assert len({tuple(one) for one in by_weight.values()}) == 3
    for arm, weight in {"profile": 0.3, "weighted": 1.0}.items():
        answer = ask(service, SEARCH, USERS[arm])
        assert answer["meta"] == {"profile": True, "experiment": {"name": "e", "arm": arm}}
        assert shown(answer) == by_weight[weight]
    assert shown(ask(service, SEARCH, OUTSIDE)) == by_weight[0.0]


def test_the_domains_own_weight_comes_before_ours(domain: SearchDomain):
    how = treated(domain, USERS["profile"])
    assert [how.weight(None, by_domain) for by_domain in (0.0, 0.1, 0.9)] == [0.3, 0.1, 0.9]
    assert treated(domain, USERS["weighted"]).weight(None, 0.1) == 1.0
    assert treated(domain, USERS["copies"]).weight(None, 0.9) == 0.0
    assert [treated(domain, OUTSIDE).weight(None, by_domain) for by_domain in (0.0, 0.9)] == [0.0, 0.9]


def test_who_takes_no_part_gets_what_the_domain_does_and_hears_nothing_of_it(
    rooms: Rooms, service: httpx.Client, objects: list[Object]
):
    for user in (OUTSIDE, None):
        assert ask(service, SEARCH, user)["meta"] == {"profile": False}
        assert registered(rooms, service, SEARCH, user) == (None, None)


def test_a_session_says_which_arm_it_is_of(rooms: Rooms, service: httpx.Client, objects: list[Object]):
    for arm in ("static", "copies", "profile", "towers"):
        for path in (SEARCH, RECOMMEND):
            assert registered(rooms, service, path, USERS[arm]) == ("e", arm)
    mixed = registered(rooms, service, SEARCH, USERS["copies"], exploration_ratio=0.5)
    assert mixed == ("e", "copies"), "mixed lists count as such"


@pytest.mark.parametrize(
    ("path", "arm", "body", "why"),
    [
        (SEARCH, "copies", {"profile_weight": 0.5}, "profile_weight"),
        (SEARCH, "static", {"profile_weight": 0.0}, "profile_weight"),
        (SEARCH, "static", {"exploration_ratio": 0.5}, "mixed list"),
        (RECOMMEND, "towers", {"model": "profile"}, "model"),
        (RECOMMEND, "static", {"model": "two_tower"}, "model"),
    ],
)
def test_a_request_with_knobs_of_its_own_gets_them_and_does_not_count(
    rooms: Rooms, service: httpx.Client, objects: list[Object], path: str, arm: str, body: Any, why: str
):
    told = ask(service, path, USERS[arm], **body)["meta"]["experiment"]
    assert (told["name"], told["arm"]) == ("e", arm)
    assert why in told["not_counted"]
    assert registered(rooms, service, path, USERS[arm], **body) == (None, None)


def pages(
    rooms: Rooms, service: httpx.Client, *asked: tuple[str, str | None, dict[str, Any]]
) -> tuple[str | None, str | None]:
    """The experiment and arm of one session after several requests."""
    for number, (path, user, body) in enumerate(asked):
        page = {"limit": 5} | ({"offset": 5 * number} if path == SEARCH else {})
        ask(service, path, user, session_id="s", create_session=True, **page | body)
    session = rooms.clickstream.session("s")
    assert session is not None
    return session.experiment, session.arm


KNOB = {"profile_weight": 1.0}


@pytest.mark.parametrize(
    "other",
    [
        (SEARCH, USERS["copies"], KNOB),
        (SEARCH, USERS["copies"], KNOB | {"offset": 0}),
        (SEARCH, USERS["copies"], KNOB | {"max_distance": -5.0}),
        (SEARCH, USERS["copies"], {"exploration_ratio": 0.5}),
        (SEARCH, USERS["copies"], {"exploration_ratio": 0.5, "max_distance": -5.0}),
        (SEARCH, USERS["static"], {}),
        (SEARCH, OUTSIDE, {}),
        (SEARCH, None, {}),
        (RECOMMEND, USERS["copies"], {"model": "profile"}),
    ],
)
def test_a_session_counts_only_if_all_its_pages_do(
    rooms: Rooms, service: httpx.Client, objects: list[Object], other: tuple[str, str | None, dict[str, Any]]
):
    plain = (SEARCH, USERS["copies"], {})
    assert pages(rooms, service, plain, plain) == ("e", "copies")
    assert pages(rooms, service, plain, plain, other) == (None, None)
    assert pages(rooms, service, plain) == (None, None), "and then no page brings it back"


@pytest.mark.parametrize("other", [(SEARCH, USERS["copies"], KNOB), (SEARCH, OUTSIDE, {})])
def test_a_session_whose_first_page_does_not_count_never_does(
    rooms: Rooms, service: httpx.Client, objects: list[Object], other: tuple[str, str | None, dict[str, Any]]
):
    assert pages(rooms, service, other, (SEARCH, USERS["copies"], {})) == (None, None)


def test_searches_that_explore_and_find_nothing_count_in_no_arms_metrics(
    domain: SearchDomain, rooms: Rooms, service: httpx.Client, objects: list[Object]
):
    for arm in ("static", "copies"):
        for how in ({}, {"exploration_ratio": 0.5}, {"exploration_ratio": 0.5, "max_distance": -5.0}):
            ask(service, SEARCH, USERS[arm], create_session=True, **how)
    found = experiment_results(rooms.clickstream, domain, 0.0, 1e12)
    assert {arm.name: arm.sessions for arm in found.arms[:2]} == {"static": 1, "copies": 1}
    assert found.left_out == {"mixed lists without both lists in them": 1}


# --- a collection of the arm's own


@pytest.fixture
def follower(rooms: Rooms, domain: SearchDomain, objects: list[Object]) -> Callable[[bool], None]:
    """A collection in which every object is as its opposite is in the other."""
    release = rooms.releases.create(domain, FOLLOWER, space="words-v1")
    rooms.vectors.upsert(release.collection_id, [replace(o, parts=-o.parts) for o in objects])

    def follow(follows: bool) -> None:
        rooms.releases.follow(release, follows)

    follow(True)
    return follow


def test_an_arm_searches_the_collection_it_names_while_that_follows(
    rooms: Rooms, service: httpx.Client, objects: list[Object], follower: Callable[[bool], None]
):
    user = USERS["population"]
    opposite = nearest([replace(o, parts=-o.parts) for o in objects], QUERY)
    answer = ask(service, SEARCH, user)
    assert shown(answer) == opposite
    assert answer["meta"]["experiment"] == {"name": "e", "arm": "population"}
    assert shown(ask(service, SEARCH, USERS["static"])) == nearest(objects, QUERY)
    assert registered(rooms, service, SEARCH, user) == ("e", "population")
    liked = ask(service, RECOMMEND, user)
    assert liked["meta"]["experiment"] == {"name": "e", "arm": "population"}
    assert shown(liked) == nearest([replace(o, parts=-o.parts) for o in objects], TASTE)
    follower(False)
    plain = nearest(objects, QUERY)
    for path in (SEARCH, RECOMMEND):
        answer = ask(service, path, user)
        assert "does not follow" in answer["meta"]["experiment"]["not_counted"]
        assert registered(rooms, service, path, user) == (None, None)
    assert shown(ask(service, SEARCH, user)) == [plain[-1], *plain[:-1]], "as the domain does, copies too"


def test_a_collection_that_serves_everybody_by_now_is_no_arm_any_more(
    rooms: Rooms, domain: SearchDomain, service: httpx.Client, objects: list[Object], follower: Any
):
    rooms.releases.set_blue(domain.name, FOLLOWER)
    told = ask(service, SEARCH, USERS["population"])["meta"]["experiment"]
    assert "serves everybody" in told["not_counted"]


def test_a_collection_deleted_while_it_is_searched_is_not_missed(
    rooms: Rooms, domain: SearchDomain, objects: list[Object], follower: Any
):
    gap = Gap(rooms.vectors, "search", lambda: rooms.releases.delete(domain.name, FOLLOWER), before=True)
    search = Search(gap, rooms.clickstream, rooms.metrics, rooms.profiles, rooms.releases)
    body = SimilaritySearch(search_query=QUERY.tolist(), user_id=USERS["population"], limit=40)
    answer = search.similar(domain, body)
    assert gap.acted
    assert len(shown(answer)) == 40
    assert "deleted" in answer["meta"]["experiment"]["not_counted"]


def test_a_search_that_fails_for_another_reason_fails(
    rooms: Rooms, domain: SearchDomain, objects: list[Object], follower: Any
):
    def fail() -> None:
        raise RuntimeError("no power")

    gap = Gap(rooms.vectors, "search", fail, before=True)
    search = Search(gap, rooms.clickstream, rooms.metrics, rooms.profiles, rooms.releases)
    with pytest.raises(RuntimeError, match="no power"):
        search.similar(domain, SimilaritySearch(search_query=QUERY.tolist(), user_id=USERS["population"]))


# --- recommendations


def test_recommendations_are_from_the_profile_only_where_the_arm_has_one(
    service: httpx.Client, objects: list[Object]
):
    for arm in ("profile", "weighted"):
        assert ask(service, RECOMMEND, USERS[arm])["meta"]["source"] == "profile"
    for arm in ("static", "copies"):
        answer = ask(service, RECOMMEND, USERS[arm])
        assert answer["meta"]["source"] == "catalogue"
        assert f"the arm {arm!r}" in answer["meta"]["reason"]
        assert not any(result["meta"]["personalized"] for result in answer["search_results"])
    assert ask(service, RECOMMEND, OUTSIDE)["meta"] == {"source": "profile"}


def test_the_towers_recommend_to_the_arm_that_has_them(service: httpx.Client, objects: list[Object]):
    by_arm = ask(service, RECOMMEND, USERS["towers"])
    asked_for = ask(service, RECOMMEND, USERS["towers"], model="two_tower")
    assert shown(by_arm) == shown(asked_for)
    assert {**by_arm["meta"], "experiment": 0} == {**asked_for["meta"], "experiment": 0}
    assert "not_counted" not in by_arm["meta"]["experiment"]

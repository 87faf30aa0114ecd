"""Who is near whom, in collections that nobody else sees."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from improvement.domain import SearchDomain
from improvement.profiles.neighbours import Neighbours, collection_name
from improvement.profiles.profile import Profile
from improvement.wiring import Rooms

SPACE = "words-v1"
ODD_IDS = ["a/b", "100%", "two words", "名前 é𝄞", "a'b\"c", "\x00", "x" * 512]


@pytest.fixture
def neighbours(rooms: Rooms) -> Neighbours:
    return rooms.neighbours


def profile(user_id: str, embedding: np.ndarray | None, space: str = SPACE) -> Profile:
    return Profile(user_id, "any", space, None if embedding is None else embedding.astype(np.float32))


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    rows = rng.standard_normal(shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), limit=st.integers(1, 30))
def test_the_nearest_users_are_those_a_loop_finds_and_never_who_asks(rooms: Rooms, seed: int, limit: int):
    domain = f"d{seed}"
    rng = np.random.default_rng(seed)
    users = {f"user {n}": row for n, row in enumerate(unit(rng, 25, 8))}
    rooms.neighbours.put(domain, SPACE, [profile(user, row) for user, row in users.items()])
    found = rooms.neighbours.near(domain, SPACE, users["user 3"], limit, without="user 3")
    cosines = {user: float(row @ users["user 3"]) for user, row in users.items() if user != "user 3"}
    expected = sorted(cosines.items(), key=lambda pair: -pair[1])[:limit]
    assert [user for user, _ in found] == [user for user, _ in expected]
    np.testing.assert_allclose([c for _, c in found], [c for _, c in expected], atol=1e-5)
    rooms.neighbours.discard(domain, SPACE)


def test_a_user_who_moved_is_found_at_the_new_place_only(neighbours: Neighbours, domain: SearchDomain):
    axis = np.eye(4)
    neighbours.put(domain.name, SPACE, [profile("ann", axis[0]), profile("bob", axis[1])])
    neighbours.put(domain.name, SPACE, [profile("ann", axis[1])])
    assert neighbours.near(domain.name, SPACE, axis[1], 9, "bob") == [("ann", pytest.approx(1.0))]
    assert neighbours.near(domain.name, SPACE, axis[0], 9, "bob") == [("ann", pytest.approx(0.0))]


def test_domains_and_spaces_do_not_see_each_other(neighbours: Neighbours, domain: SearchDomain):
    vector = np.ones(4)
    neighbours.put(domain.name, SPACE, [profile("ann", vector)])
    neighbours.put(domain.name, "other", [profile("bob", vector, "other")])
    neighbours.put("elsewhere", SPACE, [profile("eve", vector)])
    assert [u for u, _ in neighbours.near(domain.name, SPACE, vector, 9, "?")] == ["ann"]
    assert [u for u, _ in neighbours.near(domain.name, "other", vector, 9, "?")] == ["bob"]


def test_who_has_no_direction_in_this_space_is_left_out(neighbours: Neighbours, domain: SearchDomain):
    neighbours.put(
        domain.name,
        SPACE,
        [profile("none", None), profile("zeros", np.zeros(4)), profile("old", np.ones(4), "old space")],
    )
    assert neighbours.near(domain.name, SPACE, np.ones(4), 9, "?") == []
    neighbours.drop(domain.name, SPACE, ["nobody was ever put"])
    assert neighbours.erase("nobody") == 0


@pytest.mark.parametrize("user_id", ODD_IDS)
def test_any_id_can_be_put_found_dropped_and_erased(
    neighbours: Neighbours, domain: SearchDomain, user_id: str
):
    vector = np.ones(4)
    for space in (SPACE, "other"):
        neighbours.put(domain.name, space, [profile(user_id, vector, space), profile("bob", vector, space)])
    assert {u for u, _ in neighbours.near(domain.name, SPACE, vector, 9, "?")} == {user_id, "bob"}
    neighbours.drop(domain.name, SPACE, [user_id])
    assert [u for u, _ in neighbours.near(domain.name, SPACE, vector, 9, "?")] == ["bob"]
    neighbours.put(domain.name, SPACE, [profile(user_id, vector)])
    assert neighbours.erase(user_id) == 2
    for space in (SPACE, "other"):
        assert [u for u, _ in neighbours.near(domain.name, space, vector, 9, "?")] == ["bob"]
    assert neighbours.erase(user_id) == 0


def test_releases_and_searches_do_not_show_users(rooms: Rooms, domain: SearchDomain):
    vector = np.ones(16)
    before = rooms.releases.list(domain.name)
    rooms.neighbours.put(domain.name, SPACE, [profile("ann", vector)])
    assert rooms.releases.list(domain.name) == before
    assert rooms.releases.blue(domain.name) == before[0]
    assert rooms.vectors.count(domain.name, None) == 0
    hits, _ = rooms.vectors.search(domain.name, domain.search_index_info, vector, 9)
    assert hits == []


def test_no_release_can_have_the_name_of_a_users_collection(rooms: Rooms, domain: SearchDomain):
    users = replace(domain, name="users")
    release = rooms.releases.create(users, "words.v1/one")
    assert release.collection_id.count(".") == 2
    assert collection_name("users", "words.v1/one").count(".") == 3
    rooms.releases.delete("users", "words.v1/one")

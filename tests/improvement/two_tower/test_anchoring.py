"""read_users: the user tower's word takes the place of what engagement made, and nobody's act is lost."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from improvement.domain import SearchDomain
from improvement.improver import Improver
from improvement.two_tower import anchoring
from improvement.two_tower.anchoring import read_users
from improvement.wiring import Rooms, improver
from tests.improvement.two_tower.living import SIZE, World, plain, with_towers
from tests.support import Gap


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return with_towers(domain, user_batch=4)


@pytest.fixture
def world(rooms: Rooms, domain: SearchDomain) -> World:
    return World(rooms, domain)


class LastItem:
    """A tower that says that a user is the last item of their history; zeros for who ends at a dislike."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def users(self, histories: Any) -> Any:
        self.read.append(len(histories))
        rows = [np.zeros(SIZE) if h.pasts[-1].signal < 0 else h.items[-1] for h in histories]
        return np.asarray(rows, np.float32).reshape(len(rows), SIZE)


@pytest.fixture
def tower(world: World, monkeypatch: Any) -> LastItem:
    tower = LastItem()
    monkeypatch.setattr(world.rooms.towers, "tower", lambda checkpoint_id: tower)
    return tower


@pytest.fixture
def worker(rooms: Rooms) -> Improver:
    return improver(rooms)


def likes(world: World, user: str, *items: str, start: int = 0) -> None:
    world.live().learn(
        world.domain,
        [
            replace(world.say(start + n, user, item), engagement_id=f"{user}/{start + n}")
            for n, item in enumerate(items)
        ],
    )


def test_users_with_enough_engagements_are_read_and_the_others_keep_theirs(
    world: World, worker: Improver, tower: LastItem
):
    world.serve("first")
    for n in range(6):
        likes(world, f"u{n}", "o1", "o2", f"o{n}")
    likes(world, "new", "o1", "o2")
    before, shown = world.user("new").vector, world.shown()
    assert read_users(worker, world.domain) == 7
    assert [plain(world.user(f"u{n}").vector) for n in range(6)] == [plain(shown[f"o{n}"]) for n in range(6)]
    assert plain(world.user("new").vector) == plain(before)
    assert max(tower.read) <= 4
    assert sum(tower.read) == 6
    assert not any(world.user(name).due for name in ("u0", "new"))
    assert read_users(worker, world.domain) == 0
    likes(world, "new", "o3", start=10)
    assert read_users(worker, world.domain) == 1
    assert plain(world.user("new").vector) == plain(world.shown()["o3"])


def test_who_acts_meanwhile_stays_due_and_keeps_what_they_did(
    world: World, worker: Improver, tower: LastItem
):
    world.serve("first")
    likes(world, "ann", "o1", "o2", "o3")
    gap: Any = Gap(world.rooms.vectors, "means", lambda: likes(world, "ann", "o4", start=10))
    assert read_users(replace(worker, vectors=gap), world.domain) in (0, 1)
    ann = world.user("ann")
    assert ann.count == 4
    assert len(ann.pasts) == 4
    assert read_users(worker, world.domain) == int(ann.due)
    assert plain(world.user("ann").vector) == plain(world.shown()["o4"])


def test_who_is_erased_meanwhile_stays_erased(world: World, worker: Improver, tower: LastItem):
    world.serve("first")
    likes(world, "ann", "o1", "o2", "o3")
    gap: Any = Gap(world.rooms.vectors, "means", lambda: world.rooms.entries.erase("ann"))
    assert read_users(replace(worker, vectors=gap), world.domain) == 0
    assert world.user("ann") is None


def test_users_of_another_space_are_brought_to_the_one_that_serves_due_or_not(
    world: World, worker: Improver, tower: LastItem
):
    world.serve("first")
    likes(world, "old", "o1", "o2", "o3")
    likes(world, "few", "o1")
    likes(world, "lost", "o1", "o2", "o3")
    assert read_users(worker, world.domain) == 3
    rows = world.serve("second", seed=9)
    serving = world.rooms.towers.serving(world.name)
    world.rooms.vectors.delete(serving.collection_id, ["nothing"])
    assert read_users(worker, world.domain) == 3
    assert plain(world.user("old").vector) == plain(rows[3])
    assert plain(world.user("few").vector) == plain(rows[1])  # the signed mean of all there is
    assert {world.user(name).space for name in ("old", "few", "lost")} == {"second"}
    assert read_users(worker, world.domain) == 0


def test_who_engaged_with_nothing_that_is_left_has_no_vector_in_a_new_space(
    world: World, worker: Improver, tower: LastItem
):
    world.serve("first")
    likes(world, "ann", "o8", "o9", "o10")
    world.serve("second", count=3)
    assert read_users(worker, world.domain) == 1
    assert (world.user("ann").vector, world.user("ann").due, tower.read) == (None, False, [])


def test_where_the_tower_has_no_word_what_engagement_made_stays(
    world: World, worker: Improver, tower: LastItem
):
    world.serve("first")
    likes(world, "ann", "o1", "o2")
    world.live().learn(world.domain, [world.say(5, "ann", "o3", signal=-0.9)])
    before = world.user("ann").vector
    assert read_users(worker, world.domain) == 1
    assert plain(world.user("ann").vector) == plain(before)


def test_nobody_is_read_while_nothing_serves_or_learning_is_frozen_and_not_too_many_at_once(
    world: World, worker: Improver, tower: LastItem, monkeypatch: Any
):
    assert read_users(worker, world.domain) == 0
    world.serve("first")
    for n in range(6):
        likes(world, f"u{n}", "o1", "o2", "o3")
    world.rooms.learning.freeze(world.name, "me", "test")
    assert read_users(worker, world.domain) == 0
    world.rooms.learning.resume(world.name, "me", "test")
    monkeypatch.setattr(anchoring, "MOST", 5)
    assert [read_users(worker, world.domain) for _ in range(3)] == [5, 1, 0]

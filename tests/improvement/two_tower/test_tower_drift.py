"""How far the towers' users and items moved: in one space by vectors, across a promotion by neighbours."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from improvement.domain import SearchDomain
from improvement.erasure import erase_user
from improvement.evaluation.drift import Grade
from improvement.improver import Improver
from improvement.objects import Object, Vectors
from improvement.quality.samples import DAY, Row, SampleStore, Snapshot
from improvement.two_tower.entries import Entry, Kind
from improvement.two_tower.names import towers_name
from improvement.two_tower.serving import TowerServing
from improvement.two_tower.settings import TowerHealth
from improvement.two_tower.shapes import in_tower_space
from improvement.two_tower.tower_drift import (
    ITEMS,
    LEAST_NEIGHBOURS,
    USERS,
    TowerMoved,
    compare,
    drifted,
    drifted_in_week,
    kept_neighbours,
    remember,
    snapshots,
)
from improvement.wiring import Rooms
from tests.improvement.two_tower.given_towers import SETTINGS, SIZE, know_user, past, serve_towers, unit
from tests.support import Gap, make_objects

NOW = 1_800_000_000.0
HEALTH = TowerHealth(least_pairs=5)


# The pure part


def naive_kept(before: np.ndarray, now: np.ndarray, count: int) -> float:
    def nearest(rows: np.ndarray, place: int) -> set[int]:
        likeness = [float(rows[place] @ rows[other]) for other in range(len(rows))]
        others = [other for other in range(len(rows)) if other != place]
        return set(sorted(others, key=lambda other: (-likeness[other], other))[:count])

    shares = [len(nearest(before, place) & nearest(now, place)) / count for place in range(len(before))]
    return float(np.mean(shares))


@given(st.integers(4, 30), st.integers(1, 3), st.integers(0, 10**6))
def test_kept_neighbours_are_counted_as_a_loop_would(rows: int, count: int, seed: int):
    rng = np.random.default_rng(seed)
    before, now = unit(rng.normal(size=(rows, 5))), unit(rng.normal(size=(rows, 3)))
    wide, narrow = before.astype(np.float64), now.astype(np.float64)
    assert kept_neighbours(before, now, count) == pytest.approx(naive_kept(wide, narrow, count))


@given(st.integers(0, 10**6), st.floats(0.01, 100.0))
def test_a_space_that_is_only_turned_keeps_every_neighbour(seed: int, scale: float):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(40, 6))
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    assert kept_neighbours(rows, scale * rows @ turn, 5) == 1.0


def test_unrelated_spaces_keep_few_neighbours_and_rows_without_length_break_nothing():
    rng = np.random.default_rng(3)
    before, now = rng.normal(size=(200, 8)), rng.normal(size=(200, 8))
    now[:5] = 0.0
    assert kept_neighbours(before, now) < 0.15


# In the stores


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return replace(domain, towers=replace(SETTINGS, health=HEALTH))


@pytest.fixture
def objects(rooms: Rooms, domain: SearchDomain) -> list[Object]:
    made = make_objects(domain, LEAST_NEIGHBOURS + 10)
    rooms.vectors.upsert(rooms.releases.blue(domain.name).collection_id, made)
    return made


@pytest.fixture
def serving(rooms: Rooms, domain: SearchDomain, objects: list[Object]) -> TowerServing:
    return serve_towers(rooms, domain, objects)


def turned(rows: Vectors, angle: float) -> Vectors:
    """Turn each row by an angle, each towards a direction of its own."""
    side = np.roll(rows, 1, axis=1).astype(np.float64)
    side -= (side * rows).sum(axis=1, keepdims=True) * rows
    return unit(np.cos(angle) * rows + np.sin(angle) * unit(side))


def turn_items(rooms: Rooms, serving: TowerServing, objects: Sequence[Object], angle: float) -> None:
    held = rooms.vectors.means(serving.collection_id, [o.object_id for o in objects])
    rows = turned(np.stack([held[o.object_id] for o in objects]), angle)
    moved = [in_tower_space(o, row) for o, row in zip(objects, rows, strict=True)]
    rooms.vectors.upsert(serving.collection_id, moved)


def put_user(rooms: Rooms, domain: SearchDomain, user: str, vector: Vectors, serving: TowerServing) -> None:
    stored = rooms.entries.load(domain.name, [(Kind.USER, user)]).get((Kind.USER, user))
    entry = stored or Entry(domain.name, Kind.USER, user, count=5)
    entry = replace(entry, vector=vector, space=serving.checkpoint_id)
    assert not rooms.entries.save([entry])


def taken(rooms: Rooms, domain: SearchDomain, serving: TowerServing, at: float):
    assert domain.towers is not None
    items, users, people = snapshots(rooms, domain, domain.towers, serving, at)
    changes = {one.kind: compare(rooms.samples, one) for one in (items, users)}
    remember(rooms, domain, (items, users), people)
    return changes


def test_the_first_look_has_nothing_to_compare_with(
    rooms: Rooms, domain: SearchDomain, serving: TowerServing
):
    changes = taken(rooms, domain, serving, NOW)
    assert drifted(changes, HEALTH) is None
    assert drifted_in_week(changes, HEALTH) is None
    assert rooms.samples.newest_at(towers_name(domain.name), ITEMS) == NOW


def test_items_that_were_moved_are_measured_to_the_angle(
    rooms: Rooms, domain: SearchDomain, serving: TowerServing, objects: list[Object]
):
    taken(rooms, domain, serving, NOW)
    angles = [(0.0, Grade.GOOD), (0.4, Grade.GOOD), (0.6, Grade.NOTE), (0.9, Grade.ALARM)]
    for day, (angle, grade) in enumerate(angles, 1):
        turn_items(rooms, serving, objects, angle)
        found = drifted(taken(rooms, domain, serving, NOW + day * DAY), HEALTH)
        assert found is not None
        assert found.value == pytest.approx(1 - np.cos(angle), abs=1e-5)
        assert found.grade is grade
        assert "60 compared" in found.message


def test_users_drift_too_and_the_one_who_moved_more_is_told(
    rooms: Rooms, domain: SearchDomain, serving: TowerServing
):
    rng = np.random.default_rng(0)
    before = unit(rng.normal(size=(6, SIZE)))
    for n, row in enumerate(before):
        put_user(rooms, domain, f"user {n}", row, serving)
    taken(rooms, domain, serving, NOW)
    for n, row in enumerate(turned(before, 1.0)):
        put_user(rooms, domain, f"user {n}", row, serving)
    changes = taken(rooms, domain, serving, NOW + DAY)
    found = drifted(changes, HEALTH)
    assert (found.grade, found.value) == (Grade.ALARM, pytest.approx(1 - np.cos(1.0), abs=1e-5))
    assert found.message.startswith("users moved")
    assert changes[ITEMS]["day"].moved.drift.mean == 0
    assert json.dumps({kind: one["day"].as_json() for kind, one in changes.items()}, allow_nan=False)


def test_a_week_that_moved_little_a_day_is_told_as_a_week(
    rooms: Rooms, domain: SearchDomain, serving: TowerServing, objects: list[Object]
):
    for day in range(8):
        changes = taken(rooms, domain, serving, NOW + day * DAY)
        assert (day < 7) == (changes[ITEMS]["week"].moved.since is None)
        turn_items(rooms, serving, objects, 0.1)
    assert drifted(changes, HEALTH).grade is Grade.GOOD
    found = drifted_in_week(changes, HEALTH)
    assert (found.kind, found.grade) == ("towers.audit.drift", Grade.WARNING)
    assert found.message.startswith("high embedding drift")
    assert found.value < 0.9


def test_after_a_promotion_neighbours_are_compared_and_drift_begins_anew(
    rooms: Rooms, domain: SearchDomain, serving: TowerServing, objects: list[Object]
):
    put_user(rooms, domain, "ann", unit(np.ones((1, SIZE)))[0], serving)
    taken(rooms, domain, serving, NOW)
    following = serve_towers(rooms, domain, objects, seed=7)
    assert following.checkpoint_id != serving.checkpoint_id
    changes = taken(rooms, domain, following, NOW + DAY)
    day = changes[ITEMS]["day"]
    assert (day.moved.cause, day.moved.drift) == ("space", None)
    assert 0.0 < day.kept_neighbours < 1.0
    found = drifted(changes, HEALTH)
    assert (found.grade, found.value) == (Grade.GOOD, day.kept_neighbours)
    assert "promotion" in found.message
    assert drifted(changes, replace(HEALTH, good_kept=0.99)).grade is Grade.NOTE
    assert drifted(changes, replace(HEALTH, good_kept=0.99, least_kept=0.95)).grade is Grade.WARNING
    assert drifted_in_week(changes, HEALTH) is None
    assert not rooms.samples.before(towers_name(domain.name), USERS, NOW + 2 * DAY).rows, "another space"
    again = drifted(taken(rooms, domain, following, NOW + 2 * DAY), HEALTH)
    assert again.value == 0.0


def test_a_promotion_of_too_few_items_to_have_neighbours_is_told_and_not_judged(
    rooms: Rooms, domain: SearchDomain
):
    few = make_objects(domain, LEAST_NEIGHBOURS - 1)
    rooms.vectors.upsert(rooms.releases.blue(domain.name).collection_id, few)
    taken(rooms, domain, serve_towers(rooms, domain, few), NOW)
    following = serve_towers(rooms, domain, few, seed=7)
    found = drifted(taken(rooms, domain, following, NOW + DAY), HEALTH)
    assert (found.grade, found.value) == (Grade.GOOD, None)
    assert drifted_in_week(taken(rooms, domain, following, NOW + 7 * DAY), HEALTH) is None


def test_a_service_that_promotes_once_a_day_is_judged_by_the_day_and_by_the_week(
    rooms: Rooms, domain: SearchDomain, objects: list[Object]
):
    strict = replace(HEALTH, good_kept=0.99, least_kept=0.95)
    for day in range(9):
        serving = serve_towers(rooms, domain, objects, seed=day)
        changes = taken(rooms, domain, serving, NOW + day * DAY)
        assert (drifted(changes, HEALTH) is None) == (day == 0)
        assert (drifted_in_week(changes, HEALTH) is None) == (day < 7)
    for judged, kind in ((drifted, "towers.drift"), (drifted_in_week, "towers.audit.drift")):
        found = judged(changes, strict)
        assert (found.kind, found.grade) == (kind, Grade.WARNING)
        assert 0.0 < found.value < 0.95
        assert "promotion" in found.message


def test_nothing_older_than_the_baseline_is_compared_with(
    rooms: Rooms, domain: SearchDomain, serving: TowerServing, objects: list[Object]
):
    taken(rooms, domain, serving, NOW)
    turn_items(rooms, serving, objects, 1.0)
    rooms.samples.rebase(towers_name(domain.name), NOW + DAY)
    assert drifted(taken(rooms, domain, serving, NOW + DAY + 60), HEALTH) is None
    found = drifted(taken(rooms, domain, serving, NOW + 2 * DAY), HEALTH)
    assert found.value == 0.0, "remembered anew right behind the baseline, not half a day later"


def test_an_item_that_was_written_anew_did_not_drift(
    rooms: Rooms, domain: SearchDomain, serving: TowerServing, objects: list[Object]
):
    taken(rooms, domain, serving, NOW)
    rewritten = [replace(o, revision=f"{o.object_id} anew") for o in objects[:30]]
    turn_items(rooms, serving, rewritten, 1.5)
    day = taken(rooms, domain, serving, NOW + DAY)[ITEMS]["day"].moved
    assert (day.replaced, day.drift.compared, day.drift.mean) == (30, 30, 0.0)


def test_who_is_erased_is_forgotten_by_the_samples_too(
    rooms: Rooms, domain: SearchDomain, serving: TowerServing
):
    for user in ("ann", "bob"):
        put_user(rooms, domain, user, unit(np.ones((1, SIZE)))[0], serving)
    taken(rooms, domain, serving, NOW)
    erase_user(rooms, "ann")
    left = rooms.samples.before(towers_name(domain.name), USERS, NOW)
    assert len(left.rows) == 1
    assert "bob" not in str(left.rows.keys()), "by digests, never by names"


def test_who_is_erased_while_a_sample_is_taken_is_not_remembered(
    rooms: Rooms, domain: SearchDomain, serving: TowerServing
):
    put_user(rooms, domain, "ann", unit(np.ones((1, SIZE)))[0], serving)
    assert domain.towers is not None
    items, users, people = snapshots(rooms, domain, domain.towers, serving, NOW)
    rooms.entries.erase("ann")
    remember(rooms, domain, (items, users), people)
    assert not rooms.samples.before(towers_name(domain.name), USERS, NOW).rows


@pytest.mark.parametrize("step", ["neighbours", "clickstream", "reports", "queue"])
@pytest.mark.parametrize("comes_back", [False, True])
def test_samples_written_between_two_steps_of_an_erasure_do_not_survive_it(
    rooms: Rooms, domain: SearchDomain, serving: TowerServing, step: str, comes_back: bool
):
    put_user(rooms, domain, "ann", unit(np.ones((1, SIZE)))[0], serving)
    assert domain.towers is not None
    items, users, people = snapshots(rooms, domain, domain.towers, serving, NOW)

    def audit() -> None:
        if comes_back and not rooms.entries.load(domain.name, [(Kind.USER, "ann")]):
            put_user(rooms, domain, "ann", -unit(np.ones((1, SIZE)))[0], serving)
        remember(rooms, domain, (items, users), people)

    gap = Gap(getattr(rooms, step), "erase", audit)
    erase_user(replace(rooms, **{step: gap}), "ann")
    assert gap.acted
    assert not rooms.samples.before(towers_name(domain.name), USERS, NOW).rows


@pytest.mark.parametrize("method", ["newest_at", "save"])
@pytest.mark.parametrize("comes_back", [False, True])
def test_an_erasure_between_two_steps_of_an_audit_leaves_no_samples(
    rooms: Rooms, domain: SearchDomain, serving: TowerServing, method: str, comes_back: bool
):
    put_user(rooms, domain, "ann", unit(np.ones((1, SIZE)))[0], serving)
    assert domain.towers is not None
    items, users, people = snapshots(rooms, domain, domain.towers, serving, NOW)

    def erase() -> None:
        erase_user(rooms, "ann")
        if comes_back:
            put_user(rooms, domain, "ann", -unit(np.ones((1, SIZE)))[0], serving)

    gap = Gap(rooms.samples, method, erase)
    remember(replace(rooms, samples=gap), domain, (items, users), people)
    assert gap.acted
    assert not rooms.samples.before(towers_name(domain.name), USERS, NOW).rows


def test_a_user_without_a_vector_or_of_another_space_is_not_in_the_sample(
    improving: Improver, rooms: Rooms, domain: SearchDomain, serving: TowerServing
):
    know_user(rooms, domain, "ann", [past("o1")])
    know_user(rooms, domain, "bob", [past("o1")], vector=unit(np.ones((1, SIZE)))[0], space="older")
    assert domain.towers is not None
    _, users, _ = snapshots(improving, domain, domain.towers, serving, NOW)
    assert not users.rows


def test_vectors_that_are_no_numbers_are_left_out(database, domain: SearchDomain):
    samples = SampleStore(database)
    name = towers_name(domain.name)
    rows = {"a": Row(np.full(SIZE, np.nan, np.float32)), "b": Row(np.eye(SIZE, dtype=np.float32)[0])}
    snapshot = Snapshot(name, ITEMS, NOW, "collection", "space", rows)
    samples.save(snapshot)
    found = compare(samples, replace(snapshot, at=NOW + DAY))["day"]
    assert isinstance(found, TowerMoved)
    assert found.moved.drift.compared == 1

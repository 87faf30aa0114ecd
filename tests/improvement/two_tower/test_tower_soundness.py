"""What was bad, or is damaged, neither comes back nor stops what goes on."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pymongo.database import Database

from improvement.domain import SearchDomain
from improvement.errors import NotFound
from improvement.evaluation.drift import Grade
from improvement.improver import Improver
from improvement.quality.audits import Audit, AuditStore, Finding, new_id
from improvement.two_tower import switching
from improvement.two_tower.audit import audit_towers
from improvement.two_tower.damaged import DAMAGED
from improvement.two_tower.names import BEGUN, towers_name
from improvement.two_tower.publishing import publish
from improvement.two_tower.releasing import GATE_SECONDS, publish_due
from improvement.two_tower.reverting import revert_towers
from improvement.two_tower.sound import go_on, sound_head
from improvement.two_tower.switching import candidate, promote_towers, rollback_towers
from improvement.two_tower.vital_signs import DRIFT
from improvement.wiring import Rooms
from tests.improvement.two_tower.living import World, angle
from tests.improvement.two_tower.published import begun, come_back, held, trained, with_towers
from tests.support import Clock

HOUR = 3_600.0


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switching, "GRACE", 0.0)


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return with_towers(domain)


@pytest.fixture
def clock(improving: Improver) -> Clock:
    """A clock long after whatever was published."""
    made = Clock(2e9)
    improving.training.clock = made
    improving.queue._clock = made
    return made


def promoted(worker: Improver, domain: SearchDomain, watermark: float, seed: int) -> str:
    head = trained(worker, domain, watermark, seed)
    publish(worker, domain, head)
    promote_towers(worker, domain, head, "ann", force="try")
    return head


def serving(rooms: Rooms | Improver, domain: SearchDomain) -> str:
    found = rooms.towers.serving(domain.name)
    assert found is not None
    return found.checkpoint_id


def spoil(worker: Improver, database: Database[Any], checkpoint_id: str) -> None:
    """Have the store lose a checkpoint's arrays, which nobody has loaded."""
    found = database["tower_checkpoints"].find_one({"_id": checkpoint_id})
    assert found is not None
    database["checkpoints.chunks"].delete_many({"files_id": found["file"]})
    worker.towers._loaded = {}


def told(rooms: Rooms, domain: SearchDomain, kind: str) -> list[str]:
    return [one.alert.message for one in rooms.alerts.open(domain.name) if one.alert.kind == kind]


def test_what_came_of_a_reverted_checkpoint_is_bad_and_never_serves(
    rooms: Rooms, improving: Improver, domain: SearchDomain, clock: Clock
):
    begun(rooms, improving, domain)
    good = promoted(improving, domain, 100.0, 1)
    rooms.checkpoints.judge(good, True)
    bad = promoted(improving, domain, 200.0, 2)
    child = trained(improving, domain, 300.0, 3)
    publish(improving, domain, child)
    come_back(rooms, domain, watermark=350.0)
    assert revert_towers(improving, domain, "audit", "drift").space == good
    judged = {one: rooms.checkpoints.get(one).good for one in (good, bad, child)}
    assert judged == {good: True, bad: False, child: False}
    assert candidate(improving, domain) is None
    assert child not in {one.space for one in rooms.releases.list(towers_name(domain.name))}
    publish_due(improving, domain)
    assert serving(rooms, domain) == good == rooms.training.of(domain.name).head


def test_a_rollback_judges_what_came_of_it_too_and_training_goes_back(
    rooms: Rooms, improving: Improver, domain: SearchDomain, clock: Clock
):
    begun(rooms, improving, domain)
    good = promoted(improving, domain, 100.0, 1)
    bad = promoted(improving, domain, 200.0, 2)
    waiting = trained(improving, domain, 300.0, 3)
    publish(improving, domain, waiting)
    head = trained(improving, domain, 400.0, 4)
    rollback_towers(improving, domain, "ann")
    assert [rooms.checkpoints.get(one).good for one in (good, bad, waiting, head)] == [None, *[False] * 3]
    assert {one.space for one in rooms.releases.list(towers_name(domain.name))} == {good, bad}
    with improving.training.held(domain.name, 60) as hold:
        assert hold is not None
        assert sound_head(improving, domain, hold) == good == hold.state.head
    come_back(rooms, domain, watermark=450.0)
    publish_due(improving, domain)
    assert serving(rooms, domain) == good


def test_what_is_trained_on_from_what_is_bad_is_bad_though_all_between_was_deleted(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    begun(rooms, improving, domain)
    bad = promoted(improving, domain, 100.0, 1)
    settings, arrays = rooms.checkpoints.load(bad)

    def trained_from(parent: str, number: int) -> str:
        return rooms.checkpoints.save(
            domain.name, settings, arrays, parent=parent, base_space="words", watermark=float(number),
            trained="users",
        ).checkpoint_id  # fmt: skip

    between = trained_from(bad, 1)
    last = trained_from(between, 2)
    rooms.checkpoints.prune(domain.name, 1, {bad})
    with pytest.raises(NotFound):
        rooms.checkpoints.get(between)
    assert rooms.checkpoints.ancestors(last)[:2] == [between, bad]
    rooms.checkpoints.judge_bad(bad)
    assert rooms.checkpoints.get(last).good is False
    assert rooms.checkpoints.get(trained_from(last, 3)).good is False


def test_untrained_towers_are_never_to_blame(rooms: Rooms, improving: Improver, domain: SearchDomain):
    begun(rooms, improving, domain)
    first = serving(rooms, domain)
    promoted(improving, domain, 100.0, 1)
    two = promoted(improving, domain, 200.0, 2)
    assert revert_towers(improving, domain, "ann", "why").space == first
    rollback_towers(improving, domain, "ann")
    assert serving(rooms, domain) == two
    assert rooms.checkpoints.get(first).good is None


def test_an_audit_of_what_serves_no_longer_blames_that_and_not_its_successor(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    begun(rooms, improving, domain)
    one = promoted(improving, domain, 100.0, 1)
    collection = rooms.releases.blue(towers_name(domain.name)).collection_id
    improving.audits.save(
        Audit(
            audit_id=new_id(), domain=towers_name(domain.name), at=improving.clock(), release=one,
            collection=collection, space=one, findings=[Finding(DRIFT, Grade.ALARM, "far", 0.5)],
            release_good=False, measured={}, healing=AuditStore.DUE, heal_rate=0.5,
        )
    )  # fmt: skip
    two = promoted(improving, domain, 200.0, 2)
    audit_towers(improving, domain)
    assert (rooms.checkpoints.get(one).good, rooms.checkpoints.get(two).good) == (False, None)
    assert serving(rooms, domain) == two
    assert not rooms.learning.of(towers_name(domain.name)).frozen
    assert improving.audits.due(towers_name(domain.name)) is None


def test_a_damaged_checkpoint_that_waits_makes_room_and_is_told(
    rooms: Rooms, improving: Improver, domain: SearchDomain, clock: Clock, database: Database[Any]
):
    begun(rooms, improving, domain)
    green = trained(improving, domain, 100.0, 1)
    publish(improving, domain, green)
    newer = trained(improving, domain, 200.0, 2)
    come_back(rooms, domain, watermark=250.0)
    spoil(improving, database, green)
    with improving.training.held(domain.name, 60) as hold:
        assert hold is not None
        hold.save(published_at=clock.now)
    assert publish_due(improving, domain) == 0
    (message,) = told(rooms, domain, DAMAGED)
    assert green in message
    clock.now += 25 * HOUR
    assert publish_due(improving, domain) == 3
    assert serving(rooms, domain) == newer
    assert not told(rooms, domain, DAMAGED)


def test_training_goes_on_from_before_a_damaged_head_and_says_what_is_lost(
    rooms: Rooms, improving: Improver, domain: SearchDomain, clock: Clock, database: Database[Any]
):
    begun(rooms, improving, domain)
    clock.now += 25 * HOUR
    first = serving(rooms, domain)
    head = trained(improving, domain, 100.0, 1)
    spoil(improving, database, head)
    publish_due(improving, domain)
    assert rooms.training.of(domain.name).head == first
    (message,) = told(rooms, domain, DAMAGED)
    assert head in message
    assert first in message


def test_where_nothing_before_it_is_left_training_begins_anew_and_mends_what_was_damaged(
    rooms: Rooms, improving: Improver, domain: SearchDomain, database: Database[Any]
):
    begun(rooms, improving, domain)
    first = serving(rooms, domain)
    spoil(improving, database, first)
    with improving.training.held(domain.name, 60) as hold:
        assert hold is not None
        assert go_on(improving, domain, hold).parent.checkpoint_id == first
    assert rooms.checkpoints.get(first).trained == BEGUN
    rooms.checkpoints.load(first)
    assert first in told(rooms, domain, DAMAGED)[0]


def test_what_serves_and_is_damaged_is_told_and_replaced_by_what_is_better_than_untrained(
    rooms: Rooms, improving: Improver, domain: SearchDomain, clock: Clock, database: Database[Any]
):
    begun(rooms, improving, domain)
    clock.now += 25 * HOUR
    blue = promoted(improving, domain, 100.0, 1)
    newer = trained(improving, domain, 200.0, 2)
    come_back(rooms, domain, watermark=250.0)
    spoil(improving, database, blue)
    assert publish_due(improving, domain) == 3
    report = rooms.reports.latest(newer)
    first = rooms.checkpoints.ancestors(newer)[-1]
    assert (report.passed, report.found["source"]["instead"]) == (True, first)
    assert serving(rooms, domain) == newer


def test_what_cannot_be_read_is_not_reverted_to(
    rooms: Rooms, improving: Improver, domain: SearchDomain, database: Database[Any]
):
    begun(rooms, improving, domain)
    first = serving(rooms, domain)
    good = promoted(improving, domain, 100.0, 1)
    rooms.checkpoints.judge(good, True)
    promoted(improving, domain, 200.0, 2)
    spoil(improving, database, good)
    assert revert_towers(improving, domain, "ann", "why").space == first


def test_a_gate_that_waits_too_long_says_why_and_makes_room(
    rooms: Rooms, improving: Improver, domain: SearchDomain, clock: Clock
):
    begun(rooms, improving, domain)
    clock.now += 25 * HOUR
    green = trained(improving, domain, 100.0, 1)
    assert publish_due(improving, domain) == 1
    newer = trained(improving, domain, 200.0, 2)
    assert publish_due(improving, domain) == 0
    assert not told(rooms, domain, "towers.gate")
    clock.now += 25 * HOUR
    assert publish_due(improving, domain) == 0
    (message,) = told(rooms, domain, "towers.gate")
    assert "0 users" in message
    assert "2 are needed" in message
    waiting = candidate(improving, domain)
    assert waiting is not None
    assert waiting.space == green
    clock.now += 48 * HOUR
    assert publish_due(improving, domain) == 1
    waiting = candidate(improving, domain)
    assert waiting is not None
    assert waiting.space == newer


def test_a_gate_that_waits_is_asked_now_and_then_and_at_once_for_an_operator(
    rooms: Rooms, improving: Improver, domain: SearchDomain, clock: Clock
):
    patient = replace(domain, towers=replace(domain.towers, auto_promote=False))  # type: ignore[arg-type]
    begun(rooms, improving, patient)
    clock.now += 25 * HOUR
    trained(improving, patient, 200.0, 1)
    assert publish_due(improving, patient) == 1
    come_back(rooms, patient, watermark=250.0)
    assert publish_due(improving, patient) == 0
    clock.now += GATE_SECONDS - 1
    assert publish_due(improving, patient) == 0
    rooms.training.ask_publish(domain.name)
    assert publish_due(improving, patient) == 1


@pytest.mark.parametrize("back", ["rollback", "promotion"])
def test_what_serves_again_is_where_its_checkpoint_put_it_so_no_item_drifts_farther(
    rooms: Rooms, improving: Improver, domain: SearchDomain, back: str
):
    near = with_towers(domain, max_drift=0.1, keep_previous=2)
    rooms.domains[domain.name] = near  # type: ignore[index]
    begun(rooms, improving, near)
    world, first, base = World(rooms, near), serving(rooms, near), held(rooms, near)
    live = world.live()
    far = min(base, key=lambda one: float(base[one] @ base["o1"]))

    def crowd(number: int) -> None:
        for n in range(number, number + 30):
            live.learn(near, [world.say(2 * n, f"u{n}", far, signal=1.0)])
            live.learn(near, [world.say(2 * n + 1, f"u{n}", "o1", signal=1.0)])

    crowd(0)
    assert angle(held(rooms, near)["o1"], base["o1"]) == pytest.approx(0.1, abs=1e-3)
    promoted(improving, near, 100.0, 1)
    live.learn(near, [world.say(1_000, "u0", "o1", signal=1.0)])
    if back == "rollback":
        rollback_towers(improving, near, "ann")
    else:
        promote_towers(improving, near, first, "ann", force="again")
    assert serving(rooms, near) == first
    again = held(rooms, near)
    for object_id, row in base.items():
        np.testing.assert_allclose(again[object_id], row, atol=1e-5)
    crowd(500)
    assert angle(held(rooms, near)["o1"], base["o1"]) <= 0.1001

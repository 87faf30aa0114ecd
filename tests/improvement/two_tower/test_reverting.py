from dataclasses import replace

import numpy as np
import pytest

from improvement.domain import SearchDomain
from improvement.errors import Conflict
from improvement.improver import Improver
from improvement.two_tower import reverting, switching
from improvement.two_tower.entries import Kind
from improvement.two_tower.names import BEGUN, towers_name
from improvement.two_tower.publishing import publish
from improvement.two_tower.reverting import revert_towers
from improvement.two_tower.switching import promote_towers
from improvement.wiring import Rooms
from tests.improvement.two_tower.published import begun, held, move, trained, with_towers


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switching, "GRACE", 0.0)


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return with_towers(domain)


def promoted(worker: Improver, domain: SearchDomain, seed: int) -> str:
    head = trained(worker, domain, 1_000.0 * seed, seed)
    publish(worker, domain, head)
    promote_towers(worker, domain, head, "ann", force="try")
    return head


def serving(rooms: Rooms, domain: SearchDomain) -> str:
    found = rooms.towers.serving(domain.name)
    assert found is not None
    return found.checkpoint_id


def moved(rooms: Rooms, domain: SearchDomain, object_id: str) -> None:
    """Move an item as engagement does: its entry, and the vector that is searched."""
    (entry,) = rooms.entries.load(domain.name, [(Kind.ITEM, object_id)]).values()
    base = held(rooms, domain)[object_id]
    vector = np.roll(base, 1)
    entry = replace(entry, vector=vector, base=base, space=serving(rooms, domain), count=2)
    assert not rooms.entries.save([entry])
    move(rooms, domain, {object_id: vector})


def test_what_serves_and_is_good_loses_what_engagement_moved(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    begun(rooms, improving, domain)
    good = promoted(improving, domain, 1)
    rooms.checkpoints.judge(good, True)
    trained(improving, domain, 2_000.0, seed=2)
    before = held(rooms, domain)
    moved(rooms, domain, "o1")
    assert revert_towers(improving, domain, "audit", "drift").space == good
    for object_id, row in held(rooms, domain).items():
        np.testing.assert_allclose(row, before[object_id], atol=1e-6)
    (entry,) = rooms.entries.load(domain.name, [(Kind.ITEM, "o1")]).values()
    assert (entry.vector, entry.base, entry.count) == (None, None, 2)
    assert rooms.training.of(domain.name).head == good


def test_the_newest_good_one_that_is_kept_in_line_serves_again(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    begun(rooms, improving, domain)
    good = promoted(improving, domain, 1)
    rooms.checkpoints.judge(good, True)
    bad = promoted(improving, domain, 2)
    assert revert_towers(improving, domain, "audit", "drift").space == good == serving(rooms, domain)
    assert rooms.checkpoints.get(bad).good is False
    assert rooms.training.of(domain.name).head == good
    newest = rooms.releases.history(towers_name(domain.name))[0]
    assert (newest.undone, newest.undone_by, newest.undone_why) == (True, "audit", "drift")
    assert revert_towers(improving, domain, "audit", "drift").space == good


def test_one_further_back_is_promoted_against_any_gate(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    patient = replace(domain, towers=replace(domain.towers, keep_previous=3))  # type: ignore[arg-type]
    begun(rooms, improving, patient)
    good = promoted(improving, patient, 1)
    rooms.checkpoints.judge(good, True)
    promoted(improving, patient, 2)
    promoted(improving, patient, 3)
    assert revert_towers(improving, patient, "audit", "drift").space == good
    newest = rooms.releases.history(towers_name(domain.name))[0]
    assert newest.forced is not None
    assert newest.forced["why"] == "drift"


@pytest.mark.parametrize("forgotten", [False, True])
def test_where_none_is_known_to_be_good_the_untrained_one_serves_though_it_was_deleted(
    rooms: Rooms, improving: Improver, domain: SearchDomain, forgotten: bool
):
    begun(rooms, improving, domain)
    first = serving(rooms, domain)
    promoted(improving, domain, 1)
    newest = promoted(improving, domain, 2)
    assert first not in {one.space for one in rooms.releases.list(towers_name(domain.name))}
    if forgotten:  # old checkpoints are pruned
        rooms.checkpoints.prune(domain.name, 1, {newest})
    release = revert_towers(improving, domain, "ann", "a bot liked everything")
    assert rooms.checkpoints.get(release.space).trained == BEGUN
    assert release.space == first
    assert len(held(rooms, domain)) == 30
    assert rooms.training.of(domain.name).head == first
    assert rooms.checkpoints.get(newest).good is False


def test_whoever_trains_is_waited_for_and_then_told_of(
    rooms: Rooms, improving: Improver, domain: SearchDomain, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(Conflict, match="nothing to revert"):
        revert_towers(improving, domain, "ann", "why")
    begun(rooms, improving, domain)
    monkeypatch.setattr(reverting, "PATIENCE", 0.0)
    with rooms.training.held(domain.name, 60), pytest.raises(Conflict, match="a worker trains"):
        revert_towers(improving, domain, "ann", "why")
    assert revert_towers(improving, domain, "ann", "why").space == serving(rooms, domain)

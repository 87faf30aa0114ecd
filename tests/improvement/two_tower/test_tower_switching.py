from typing import Any

import pytest

from improvement.domain import SearchDomain
from improvement.errors import Conflict, Invalid, NotFound, Unavailable
from improvement.improver import Improver
from improvement.releases import Releases
from improvement.routes import catalogue
from improvement.two_tower import switching
from improvement.two_tower.names import towers_name
from improvement.two_tower.publishing import publish
from improvement.two_tower.releasing import publish_due, tend_releases
from improvement.two_tower.switching import drop_unserved, promote_towers, rollback_towers
from improvement.two_tower.tower_gate import run_tower_gate
from improvement.wiring import Rooms
from tests.improvement.two_tower.published import (
    begun,
    come_back,
    held,
    some_objects,
    trained,
    with_towers,
    write,
)


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switching, "GRACE", 0.0)


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return with_towers(domain)


def published(rooms: Rooms, worker: Improver, domain: SearchDomain, seed: int = 1) -> str:
    head = trained(worker, domain, 1_000.0, seed)
    publish(worker, domain, head)
    return head


def serving(rooms: Rooms, domain: SearchDomain) -> str:
    found = rooms.towers.serving(domain.name)
    assert found is not None
    return found.checkpoint_id


def test_what_no_gate_tested_serves_only_when_forced_and_that_is_kept(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    begun(rooms, improving, domain)
    head = published(rooms, improving, domain)
    with pytest.raises(Conflict, match="no gate has tested it"):
        promote_towers(improving, domain, head, "ann")
    release = promote_towers(improving, domain, head, "ann", force="the old one's licence ends")
    assert release.blue
    assert release.space == head == serving(rooms, domain)
    (newest, _) = rooms.releases.history(towers_name(domain.name))
    assert newest.forced == {"why": "the old one's licence ends", "reasons": ["no gate has tested it"]}
    assert newest.by == "ann"
    assert not rooms.releases.unrebuilt()


def test_a_gate_against_what_served_before_lets_nothing_serve(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    begun(rooms, improving, domain)
    come_back(rooms, domain)
    head = published(rooms, improving, domain)
    assert run_tower_gate(improving, domain, head).passed
    other = published(rooms, improving, domain, seed=2)
    promote_towers(improving, domain, other, "ann", force="first")
    with pytest.raises(Conflict, match="serves now"):
        promote_towers(improving, domain, head, "ann")
    assert run_tower_gate(improving, domain, head).passed
    assert promote_towers(improving, domain, head, "ann").space == head
    assert promote_towers(improving, domain, head, "ann").space == head  # again changes nothing


def test_who_and_why_are_said_briefly(improving: Improver, domain: SearchDomain):
    for by, force in (("", None), ("ann", " "), ("a" * 201, None), ("ann", "w" * 1_001)):
        with pytest.raises(Invalid, match="expected 1 to"):
            promote_towers(improving, domain, "0" * 64, by, force)


def test_without_towers_that_serve_there_is_nothing_to_switch(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    with pytest.raises(Conflict, match="a worker begins them first"):
        promote_towers(improving, domain, "0" * 64, "ann", "why")
    with pytest.raises(Conflict, match="nothing to roll back"):
        rollback_towers(improving, domain, "ann")
    begun(rooms, improving, domain)
    with pytest.raises(NotFound):
        promote_towers(improving, domain, "0" * 64, "ann", "why")
    with pytest.raises(Conflict, match="no earlier"):
        rollback_towers(improving, domain, "ann")


def test_rollback_brings_model_and_items_back_to_the_last_write(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    begun(rooms, improving, domain)
    first, before = serving(rooms, domain), held(rooms, domain)
    head = published(rooms, improving, domain)
    promote_towers(improving, domain, head, "ann", force="try")
    write(rooms, domain, some_objects(domain, 1, seed=4, start=70))
    catalogue(rooms, domain).delete(["o5"])
    release = rollback_towers(improving, domain, "ann", "the same ten for everybody")
    assert release.space == first == serving(rooms, domain)
    now = held(rooms, domain)
    assert now.keys() == (before.keys() | {"o70"}) - {"o5"}
    assert rooms.checkpoints.get(head).good is False
    assert rooms.releases.get(towers_name(domain.name), head).follows
    (promotion, _) = rooms.releases.history(towers_name(domain.name))
    assert (promotion.undone, promotion.undone_why) == (True, "the same ten for everybody")
    come_back(rooms, domain)
    rooms.training.ask_publish(domain.name)
    assert publish_due(improving, domain) == 0  # what was rolled back is not published again
    assert serving(rooms, domain) == first


def test_nothing_is_rolled_back_to_towers_that_cannot_be_read(
    rooms: Rooms, improving: Improver, domain: SearchDomain, monkeypatch: pytest.MonkeyPatch
):
    begun(rooms, improving, domain)
    head = published(rooms, improving, domain)
    promote_towers(improving, domain, head, "ann", force="try")

    def damaged(checkpoint_id: str) -> Any:
        raise Unavailable("its digest differs")

    monkeypatch.setattr(rooms.towers, "tower", damaged)
    with pytest.raises(Unavailable):
        rollback_towers(improving, domain, "ann")
    assert serving(rooms, domain) == head
    assert rooms.checkpoints.get(head).good is None


def test_only_the_latest_that_served_are_kept(rooms: Rooms, improving: Improver, domain: SearchDomain):
    begun(rooms, improving, domain)
    first = serving(rooms, domain)
    one, two = (published(rooms, improving, domain, seed) for seed in (1, 2))
    promote_towers(improving, domain, one, "ann", force="one")
    waiting = published(rooms, improving, domain, seed=3)
    promote_towers(improving, domain, two, "ann", force="two")
    there = {release.space for release in rooms.releases.list(towers_name(domain.name))}
    assert there == {one, two, waiting}
    assert first not in there
    rollback_towers(improving, domain, "ann")
    with pytest.raises(Conflict, match="was deleted"):
        rollback_towers(improving, domain, "ann")


def test_what_never_served_is_deleted_when_it_is_replaced(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    begun(rooms, improving, domain)
    one, two = (published(rooms, improving, domain, seed) for seed in (1, 2))
    assert drop_unserved(improving, domain, two) == 1
    there = {release.space for release in rooms.releases.list(towers_name(domain.name))}
    assert there == {serving(rooms, domain), two}
    assert one not in there


@pytest.mark.parametrize("back", [False, True])
def test_a_switch_whose_maker_died_is_finished_by_a_worker(
    rooms: Rooms, improving: Improver, domain: SearchDomain, monkeypatch: pytest.MonkeyPatch, back: bool
):
    begun(rooms, improving, domain)
    first, head = serving(rooms, domain), published(rooms, improving, domain)
    if back:
        promote_towers(improving, domain, head, "ann", force="try")
    tend_releases(improving, domain)

    def die(*args: Any, **facts: Any) -> Any:
        raise KeyboardInterrupt

    def switch() -> None:
        if back:
            rollback_towers(improving, domain, "ann")
        else:
            promote_towers(improving, domain, head, "ann", force="try")

    with monkeypatch.context() as patched:
        patched.setattr(switching, "_drop_old", die)
        with pytest.raises(KeyboardInterrupt):
            switch()
    name = towers_name(domain.name)
    assert rooms.releases.promotions.unfinished(name) is not None
    assert serving(rooms, domain) == (first if back else head)
    assert tend_releases(improving, domain) == 1
    assert rooms.releases.promotions.unfinished(name) is None
    assert tend_releases(improving, domain) == 0


def test_a_rollback_that_died_behind_its_switch_is_finished_and_not_done_twice(
    rooms: Rooms, improving: Improver, domain: SearchDomain, monkeypatch: pytest.MonkeyPatch
):
    begun(rooms, improving, domain)
    first, head = serving(rooms, domain), published(rooms, improving, domain)
    promote_towers(improving, domain, head, "ann", force="try")
    switch = Releases._switch

    def die_behind(self: Releases, *args: Any) -> None:
        switch(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Releases, "_switch", die_behind)
        with pytest.raises(KeyboardInterrupt):
            rollback_towers(improving, domain, "ann")
    assert serving(rooms, domain) == first
    assert rollback_towers(improving, domain, "ann").space == first


def test_what_cannot_be_made_for_it_keeps_a_checkpoint_from_serving(
    rooms: Rooms, improving: Improver, domain: SearchDomain, monkeypatch: pytest.MonkeyPatch
):
    begun(rooms, improving, domain)
    come_back(rooms, domain)
    head = published(rooms, improving, domain)
    assert run_tower_gate(improving, domain, head).passed
    green = rooms.releases.get(towers_name(domain.name), head)
    rooms.vectors.delete(green.collection_id, ["o1"])
    tower = rooms.towers.tower

    def blind(checkpoint_id: str) -> Any:
        made = tower(checkpoint_id)
        if checkpoint_id != head:
            return made

        class Blind:
            settings = made.settings

            @staticmethod
            def items(facts: Any) -> Any:
                rows = made.items(facts)
                rows[[i == "o1" for i in facts.object_ids]] = 0
                return rows

        return Blind

    monkeypatch.setattr(rooms.towers, "tower", blind)
    with pytest.raises(Conflict, match="1 objects of what serves cannot be made for it, such as 'o1'"):
        promote_towers(improving, domain, head, "ann")
    assert promote_towers(improving, domain, head, "ann", force="let it be missing").space == head
    assert "o1" not in held(rooms, domain)

import threading
from typing import Any

import pytest

from improvement.domain import SearchDomain
from improvement.errors import NotFound
from improvement.improver import Improver
from improvement.two_tower import switching
from improvement.two_tower.publishing import publish
from improvement.two_tower.serving import KEPT, ServingTowers
from improvement.two_tower.switching import promote_towers
from improvement.wiring import Rooms
from tests.improvement.two_tower.published import begun, trained, with_towers


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return with_towers(domain)


def test_the_alias_says_which_items_and_which_model_serve(
    rooms: Rooms, improving: Improver, domain: SearchDomain, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(switching, "GRACE", 0.0)
    elsewhere = ServingTowers(rooms.releases, rooms.checkpoints)
    assert elsewhere.serving(domain.name) is None
    assert elsewhere.releases_of(domain.name) == []
    begun(rooms, improving, domain)
    first = elsewhere.serving(domain.name)
    head = trained(improving, domain, 5.0)
    green = publish(improving, domain, head)
    assert elsewhere.serving(domain.name) == first
    assert {one.space for one in elsewhere.releases_of(domain.name)} == {first and first.checkpoint_id, head}
    promote_towers(improving, domain, head, "ann", force="try")
    now = elsewhere.serving(domain.name)
    assert now is not None
    assert (now.collection_id, now.checkpoint_id) == (green.collection_id, head)
    assert elsewhere.tower(now.checkpoint_id).settings == domain.towers


def test_a_tower_is_loaded_once_however_many_ask_and_the_oldest_is_let_go(
    rooms: Rooms, improving: Improver, domain: SearchDomain, monkeypatch: pytest.MonkeyPatch
):
    begun(rooms, improving, domain)
    ids = [trained(improving, domain, 5.0, seed, head=False) for seed in range(KEPT + 1)]
    loads: list[str] = []
    load = rooms.checkpoints.load

    def counted(checkpoint_id: str) -> Any:
        loads.append(checkpoint_id)
        return load(checkpoint_id)

    monkeypatch.setattr(rooms.checkpoints, "load", counted)
    towers = ServingTowers(rooms.releases, rooms.checkpoints)
    threads = [threading.Thread(target=towers.tower, args=(ids[0],)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == [ids[0]]
    for one in ids:
        towers.tower(one)
    assert loads == ids
    towers.tower(ids[0])
    assert loads == [*ids, ids[0]]


def test_a_checkpoint_that_is_gone_is_not_found(rooms: Rooms):
    with pytest.raises(NotFound):
        rooms.towers.tower("0" * 64)
    with pytest.raises(NotFound):
        rooms.towers.checkpoint("0" * 64)

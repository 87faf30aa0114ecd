import threading
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest

from improvement.domain import SearchDomain
from improvement.errors import Conflict, NotFound
from improvement.improver import Improver
from improvement.routes import catalogue
from improvement.two_tower import beginning, publishing, releasing, switching
from improvement.two_tower.beginning import begin_towers, begin_when_settled
from improvement.two_tower.names import BEGUN, towers_name
from improvement.two_tower.publishing import publish
from improvement.two_tower.reading import facts_of
from improvement.two_tower.releasing import publish_due, tend_releases
from improvement.two_tower.switching import candidate, promote_towers, rollback_towers
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

HOUR = 3_600.0


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return with_towers(domain)


def test_the_first_towers_serve_every_object_without_a_gate_and_say_why(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    objects = begun(rooms, improving, domain)
    serving = rooms.towers.serving(domain.name)
    assert serving is not None
    checkpoint = rooms.checkpoints.get(serving.checkpoint_id)
    assert (checkpoint.trained, checkpoint.parent, checkpoint.base_space) == (
        BEGUN,
        None,
        domain.encoder.model_id,
    )
    assert improving.training.of(domain.name).head == serving.checkpoint_id
    facts, failed = facts_of(domain, objects, checkpoint.base_space, checkpoint.base_space)
    assert not failed
    rows = rooms.towers.tower(serving.checkpoint_id).items(facts)
    found = held(rooms, domain)
    assert found.keys() == set(facts.object_ids)
    for object_id, row in zip(facts.object_ids, rows, strict=True):
        np.testing.assert_allclose(found[object_id], row, atol=1e-6)
    (promotion,) = rooms.releases.history(towers_name(domain.name))
    assert promotion.by == "towers"
    assert promotion.forced is not None
    assert promotion.finished
    assert "nothing to test" in promotion.forced["why"]
    assert rooms.releases.unrebuilt() == set()


def test_an_empty_catalogue_begins_no_towers_and_begun_ones_are_left_alone(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    assert begin_towers(improving, domain) == 0
    assert rooms.towers.serving(domain.name) is None
    begun(rooms, improving, domain)
    assert begin_towers(improving, domain) == 0


@pytest.mark.parametrize("died_in", ["publish", "serve_first"])
def test_beginning_that_died_is_finished_with_the_same_checkpoint(
    rooms: Rooms, improving: Improver, domain: SearchDomain, monkeypatch: pytest.MonkeyPatch, died_in: str
):
    write(rooms, domain, some_objects(domain, 20))

    def die(*args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(beginning, died_in, die)
        with pytest.raises(KeyboardInterrupt):
            begin_towers(improving, domain)
    write(rooms, domain, some_objects(domain, 10, seed=5, start=20))
    assert begin_towers(improving, domain) == 1
    serving = rooms.towers.serving(domain.name)
    assert serving is not None
    assert [one.checkpoint_id for one in rooms.checkpoints.list(domain.name)] == [serving.checkpoint_id]
    assert len(held(rooms, domain)) == 30


def test_towers_whose_alias_was_lost_serve_again(rooms: Rooms, improving: Improver, domain: SearchDomain):
    begun(rooms, improving, domain)
    was = rooms.towers.serving(domain.name)
    trained(improving, domain, 5.0)
    alias = {"delete_alias": {"alias_name": towers_name(domain.name)}}
    from qdrant_client import models

    rooms.releases._client.update_collection_aliases([models.DeleteAliasOperation.model_validate(alias)])
    assert rooms.towers.serving(domain.name) is None
    assert begin_towers(improving, domain) == 1
    assert rooms.towers.serving(domain.name) == was


def test_what_is_published_holds_what_its_tower_makes_and_does_not_serve(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    begun(rooms, improving, domain)
    before, head = held(rooms, domain), trained(improving, domain, 5.0)
    seen: list[tuple[int, int]] = []
    release = publish(improving, domain, head, lambda done, total: seen.append((done, total)))
    assert release.follows
    assert release.index_created
    assert not release.blue
    assert seen[-1] == (30, 30)
    now = held(rooms, domain, head)
    assert now.keys() == before.keys()
    assert max(float(np.abs(now[i] - before[i]).max()) for i in now) > 0.01


def test_publishing_that_died_goes_on_where_it_was(
    rooms: Rooms, improving: Improver, domain: SearchDomain, monkeypatch: pytest.MonkeyPatch
):
    begun(rooms, improving, domain)
    head = trained(improving, domain, 5.0)
    monkeypatch.setattr(publishing, "PAGE", 10)

    def die(done: int, total: int) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(improving, domain, head, die)
    assert len(held(rooms, domain, head)) == 20
    write(rooms, domain, some_objects(domain, 1, seed=9, start=40))  # it follows already
    assert "o40" in held(rooms, domain, head)
    publish(improving, domain, head)
    assert len(held(rooms, domain, head)) == 31


def test_an_object_that_the_towers_cannot_see_is_left_out_alone(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    domain = replace(domain, towers=replace(domain.towers, author_field=None))
    objects = begun(rooms, improving, domain)
    blue = rooms.releases.blue(domain.name).collection_id
    dark = replace(objects[0], object_id="dark", parts=np.zeros_like(objects[0].parts))
    rooms.vectors.upsert(blue, [dark])
    head = trained(improving, domain, 5.0)
    publish(improving, domain, head)
    assert len(held(rooms, domain, head)) == 30


def test_only_a_checkpoint_of_the_domain_is_published(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    begun(rooms, improving, domain)
    head = trained(improving, domain, 5.0)
    with pytest.raises(NotFound, match="no checkpoint"):
        publish(improving, replace(domain, name="others"), head)
    with pytest.raises(NotFound):
        publish(improving, domain, "0" * 64)


def test_what_passes_serves_by_itself_and_the_one_before_follows(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    begun(rooms, improving, domain)
    first = rooms.towers.serving(domain.name)
    head = trained(improving, domain, 1_000.0)
    come_back(rooms, domain)
    assert publish_due(improving, domain) == 0  # it was published an hour ago at most
    rooms.training.ask_publish(domain.name)
    assert publish_due(improving, domain) == 3  # published, gated, promoted
    now = rooms.towers.serving(domain.name)
    assert now is not None
    assert first is not None
    assert now.checkpoint_id == head
    (newest, _) = rooms.releases.history(towers_name(domain.name))
    assert newest.by == "towers"
    assert newest.report_id
    assert newest.as_json()["gated"]
    following = {one.space for one in rooms.towers.releases_of(domain.name)}
    assert following == {first.checkpoint_id, head}
    assert publish_due(improving, domain) == 0
    state = rooms.training.of(domain.name)
    assert not state.publish_asked
    assert state.published_at > 0


def test_what_waits_for_users_stays_until_they_came_back(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    begun(rooms, improving, domain)
    head = trained(improving, domain, 1_000.0)
    _due(improving, domain)
    assert publish_due(improving, domain) == 1
    later = trained(improving, domain, 2_000.0, seed=2)
    _due(improving, domain)
    assert publish_due(improving, domain) == 0
    waiting = candidate(improving, domain)
    assert waiting is not None
    assert waiting.space == head
    come_back(rooms, domain)
    improving.queue.hurry(f"towers gate {domain.name}")
    assert publish_due(improving, domain) == 2
    serving = rooms.towers.serving(domain.name)
    assert serving is not None
    assert serving.checkpoint_id == head != later


def test_what_did_not_pass_is_told_and_replaced_by_the_next_one(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    strict = replace(domain, gate=replace(domain.gate, margin=0.0))
    begun(rooms, improving, strict)
    head = trained(improving, strict, 1_000.0, seed=3)
    come_back(rooms, strict)
    _due(improving, strict)
    assert publish_due(improving, strict) == 2
    assert publish_due(improving, strict) == 0
    (alert,) = rooms.alerts.open(strict.name)
    assert alert.alert.kind == "towers.gate"
    assert head[:12] in alert.alert.message
    later = trained(improving, strict, 1_001.0, seed=4)
    _due(improving, strict)
    assert publish_due(improving, domain) == 3
    assert not rooms.alerts.open(strict.name)
    name = towers_name(domain.name)
    assert head not in {one.space for one in rooms.releases.list(name)}
    assert rooms.releases.blue(name).space == later


def test_what_passed_is_left_to_the_operator_where_the_domain_says_so(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    careful = replace(domain, towers=replace(domain.towers, auto_promote=False))
    begun(rooms, improving, careful)
    head = trained(improving, careful, 1_000.0)
    come_back(rooms, careful)
    _due(improving, careful)
    assert publish_due(improving, careful) == 2
    assert publish_due(improving, careful) == 0
    assert rooms.reports.latest(head).passed
    serving = rooms.towers.serving(domain.name)
    assert serving is not None
    assert serving.checkpoint_id != head


def test_frozen_learning_publishes_nothing_and_a_bad_checkpoint_never_is(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    begun(rooms, improving, domain)
    head = trained(improving, domain, 1_000.0)
    _due(improving, domain)
    rooms.learning.freeze(towers_name(domain.name), "ann", "spam")
    assert publish_due(improving, domain) == 0
    rooms.learning.resume(towers_name(domain.name), "ann", "spam is gone")
    rooms.checkpoints.judge(head, False)
    assert publish_due(improving, domain) == 0
    assert candidate(improving, domain) is None


def test_what_a_dead_writer_left_is_brought_once_an_hour(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    objects = begun(rooms, improving, domain)
    blue = rooms.releases.blue(domain.name).collection_id
    rooms.vectors.delete(blue, ["o0"])
    rooms.vectors.upsert(blue, [replace(objects[1], object_id="new")])
    assert tend_releases(improving, domain) == 1
    found = held(rooms, domain)
    assert "o0" not in found
    assert "new" in found
    assert tend_releases(improving, domain) == 0


def test_a_domain_without_objects_to_serve_tends_to_nothing(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    assert tend_releases(improving, domain) == 1
    assert publish_due(improving, domain) == 0


def test_who_switches_the_towers_keeps_others_from_it(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    write(rooms, domain, some_objects(domain, 3))
    busy = rooms.releases.promotions.switching(towers_name(domain.name), "ann")
    with busy, pytest.raises(Conflict, match="being switched"):
        begin_towers(improving, domain)


def test_no_write_is_lost_while_towers_are_published_and_switched(
    rooms: Rooms, improving: Improver, domain: SearchDomain, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(switching, "GRACE", 0.0)
    begun(rooms, improving, domain)
    head = trained(improving, domain, 5.0)
    monkeypatch.setattr(publishing, "PAGE", 3)
    stop, failures = threading.Event(), list[Exception]()

    def write_on(own: int) -> None:
        try:
            for n in count():
                ids = [f"o{own + k}" for k in (0, 2, 4)]
                changed = some_objects(domain, 30, seed=own + n)[own : own + 5 : 2]
                write(rooms, domain, changed)
                if n % 3 == 0:
                    catalogue(rooms, domain).delete(ids[:1])
                if stop.is_set():
                    return
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write_on, args=(own,)) for own in (0, 10)]
    for thread in threads:
        thread.start()
    publish(improving, domain, head)
    promote_towers(improving, domain, head, "ann", force="try")
    rollback_towers(improving, domain, "ann")
    promote_towers(improving, domain, head, "ann", force="again")
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    wanted, _ = rooms.vectors.revision_page(rooms.releases.blue(domain.name).collection_id, 100)
    for release in rooms.towers.releases_of(domain.name):
        found, _ = rooms.vectors.revision_page(release.collection_id, 100)
        assert {i: one.given for i, one in found.items()} == {i: one.given for i, one in wanted.items()}


def _due(worker: Improver, domain: SearchDomain) -> None:
    with worker.training.held(domain.name, 60) as hold:
        assert hold is not None
        hold.save(published_at=worker.training.clock() - 25 * HOUR)


def test_towers_wait_for_a_catalogue_that_still_grows(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    assert begin_when_settled(improving, domain) == 0
    write(rooms, domain, some_objects(domain, 10))
    assert begin_when_settled(improving, domain) == 0
    write(rooms, domain, some_objects(domain, 10, start=10))
    assert begin_when_settled(improving, domain) == 0
    assert begin_when_settled(improving, domain) == 1
    assert begin_when_settled(improving, domain) == 0


def test_a_brake_pulled_while_the_gate_runs_keeps_what_passed_from_serving(
    rooms: Rooms, improving: Improver, domain: SearchDomain, monkeypatch: pytest.MonkeyPatch
):
    begun(rooms, improving, domain)
    come_back(rooms, domain)
    before = rooms.towers.serving(domain.name)
    trained(improving, domain, 1_000.0)
    rooms.training.ask_publish(domain.name)
    gate = releasing.run_tower_gate

    def slow(*arguments: Any, **named: Any) -> Any:
        rooms.learning.freeze(towers_name(domain.name), "olga", "something is wrong")
        return gate(*arguments, **named)

    monkeypatch.setattr(releasing, "run_tower_gate", slow)
    assert publish_due(improving, domain) == 2  # published, gated
    assert rooms.towers.serving(domain.name) == before
    rooms.learning.resume(towers_name(domain.name), "olga", "it was nothing")
    assert publish_due(improving, domain) == 1  # promoted

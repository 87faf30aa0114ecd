"""Builds end equal to what serves: whatever dies, moves, fails or is taken away in between."""

import itertools
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from pymongo.database import Database

from clickstream.improvement_queue import Owner, Request
from improvement.domain import SearchDomain
from improvement.embedded import free_port, running_service
from improvement.errors import Conflict, Invalid, NotFound, Unavailable
from improvement.green import building, orders
from improvement.green.building import run_builds, work_on
from improvement.green.builds import Build, BuildState, Stage
from improvement.objects import Object
from improvement.promotion import promote
from improvement.releases import Release
from improvement.routes import catalogue
from improvement.wiring import Rooms, improver
from tests.support import (
    WordEncoder,
    click,
    eventually,
    make_domain,
    make_object,
    make_objects,
    make_session,
)
from tests.worker_domain import slow

LEASE = 60.0


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    """The shared one, and an encoder of another size beside its own."""
    other = make_domain(domain.name, dimensions=8, encoder=WordEncoder(8, "words-v2"))
    return replace(domain, variants=(other,))


@dataclass
class World:
    """A domain of 35 objects, built ten at a time."""

    rooms: Rooms
    domain: SearchDomain
    database: Database[Any]

    def ask(self, space: str | None = None, population: bool = False) -> Build:
        return orders.ask_build(
            improver(self.rooms), self.domain, space=space, population=population, by="ann"
        )

    def now(self, build: Build) -> Build:
        return self.rooms.builds.get(build.build_id)

    def work(self, build: Build, progress: Callable[[Build], object] = lambda build: None) -> Build:
        token = self.rooms.builds.claim(build, LEASE)
        assert token is not None
        return work_on(improver(self.rooms), self.now(build), token, LEASE, progress)

    def run(self) -> int:
        return run_builds(improver(self.rooms), LEASE)

    def expire(self, build: Build) -> None:
        self.database["builds"].update_one({"_id": build.build_id}, {"$set": {"until": 1.0}})

    @property
    def blue(self) -> Release:
        return self.rooms.releases.blue(self.domain.name)

    def release(self, build: Build) -> Release:
        return self.rooms.releases.get(self.domain.name, build.embedding_model_id)

    def put(self, *objects: Object) -> None:
        self.rooms.vectors.upsert(self.blue.collection_id, objects)

    def held(self, release: Release) -> dict[str, tuple[str, Any, bytes]]:
        """All originals of a collection, one by one."""
        found = {}
        after = None
        while True:
            page, after = self.rooms.vectors.page(release.collection_id, 100, after)
            for o in page:
                found[o.object_id] = (o.given_revision, o.payload, o.parts.tobytes())
            if after is None:
                return found

    def copies(self, release: Release) -> dict[tuple[str, str], str]:
        users = [str(owner.user_id) for owner in self.rooms.queue.owners(self.domain.name)]
        refs = self.rooms.vectors.copies(release.collection_id, users) if users else []
        return {(ref.user_id, ref.original_id): ref.revision for ref in refs}

    def teach(self, users: int) -> None:
        """Have some users click, and their copies made."""
        requests = []
        for n in range(users):
            session_id, shown = f"s{n}", [f"o{(n + i) % 35}" for i in range(6)]
            session = make_session(session_id, f"user{n}", shown, domain=self.domain.name)
            self.rooms.clickstream.register(session)
            self.rooms.clickstream.push_events([(session_id, click(shown[3]))])
            requests.append(Request(session_id, Owner(self.domain.name, f"user{n}"), 1))
        self.rooms.queue.enqueue(requests)
        while building.improve_users(improver(self.rooms), 100).claimed:
            pass


@pytest.fixture
def world(
    rooms: Rooms, domain: SearchDomain, database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> World:
    monkeypatch.setattr(building, "PAGE", 10)
    monkeypatch.setattr(building, "PAUSE", 0.01)
    made = World(rooms, domain, database)
    made.put(*make_objects(domain, 35))
    return made


def test_a_plain_rebuild_holds_what_serves_object_by_object_and_copy_by_copy(world: World):
    world.teach(3)
    asked = world.ask()
    assert (asked.space, asked.embedding_model_id) == ("words-v1", f"words-v1@{asked.build_id[:8]}")
    done = world.work(asked)
    release = world.release(done)
    assert (done.state, done.failed, done.reason) == (BuildState.BUILT, 0, None)
    assert world.held(release) == world.held(world.blue)
    assert world.copies(release) == world.copies(world.blue) != {}
    assert (release.follows, release.index_created, release.blue, release.build) == (
        True, True, False, done.build_id
    )  # fmt: skip
    assert world.rooms.builds.due() == []


def test_progress_counts_every_stage_up_to_its_total(world: World):
    world.teach(3)
    seen: list[Build] = []
    world.work(world.ask(), seen.append)
    stages = [stage for stage, _ in itertools.groupby(build.stage for build in seen)]
    assert stages == list(Stage)
    for _, of in itertools.groupby(seen, key=lambda build: build.stage):
        counts = [build.done for build in of]
        assert counts == sorted(counts)
    objects = [(b.done, b.total) for b in seen if b.stage is Stage.OBJECTS and b.total is not None]
    assert [done for done, _ in itertools.groupby(objects)] == [(n, 35) for n in (0, 10, 20, 30, 35)]
    copies = [(b.done, b.total) for b in seen if b.stage is Stage.COPIES and b.total is not None]
    assert copies[0] == (0, 3)
    assert all(build.updated_at >= build.stage_at > 0 for build in seen)


def test_another_space_is_embedded_anew_and_what_cannot_be_is_counted(world: World):
    vectors = world.domain.embed(["red shoes", "blue hat"])
    world.rooms.vectors.delete(world.blue.collection_id, [f"o{n}" for n in range(33)])
    world.put(
        *(replace(make_object(f"t{n}", vectors[n % 2]), texts=("red shoes",)) for n in range(12)),
        replace(make_object("bad", vectors[1]), texts=("explode",)),
    )
    done = world.work(world.ask("words-v2"))
    held = world.held(world.release(done))
    assert done.state is BuildState.BUILT
    assert held.keys() == {f"t{n}" for n in range(12)}
    expected = world.domain.in_space("words-v2").embed(["red shoes"])[0]
    assert all(found[2] == expected.tobytes() for found in held.values())
    assert done.failed == 3
    assert done.failures.keys() == {"o33", "o34", "bad"}
    assert "exploded" in done.failures["bad"]


def test_what_everybody_chose_turns_its_objects_and_the_newest_sessions_are_left_for_the_gate(world: World):
    moments = []
    for n in range(40):
        created = 1_700_000_000 + 1_000 * n
        session = make_session(
            f"s{n}", f"user{n}", [f"o{i}" for i in range(10)], domain=world.domain.name, created_at=created
        )
        world.rooms.clickstream.register(session)
        event = click("o4").model_copy(update={"created_at": created + 30})
        world.rooms.clickstream.push_events([(f"s{n}", event)])
        moments.append(created)
    seen: list[Build] = []
    done = world.work(world.ask(population=True), seen.append)
    assert (done.state, done.learned, done.failed) == (BuildState.BUILT, 36, 0)
    assert moments[35] <= (done.taught_until or 0) < moments[36]
    assert (40, 40) in {(b.done, b.total) for b in seen if b.stage is Stage.EVIDENCE}
    release = world.release(done)
    turns = world.rooms.population.of(done.build_id, [f"o{n}" for n in range(35)])
    assert 1 <= len(turns) == done.turned <= 10
    query = world.domain.embed(["red shoes"])[0]
    before, after = (world.rooms.vectors.find(r.collection_id, ["o4"])["o4"] for r in (world.blue, release))
    assert (after.parts @ query).max() > (before.parts @ query).max()
    blue, green = world.held(world.blue), world.held(release)
    assert {i: o[:2] for i, o in blue.items()} == {i: o[:2] for i, o in green.items()}
    assert {i for i in blue if blue[i] != green[i]} == set(turns)


def test_only_some_reasons_are_kept(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(building, "REASONS", 4)
    done = world.work(world.ask("words-v2"))
    assert (done.state, done.failed, len(done.failures)) == (BuildState.BUILT, 35, 4)


def test_a_space_that_no_encoder_has_is_refused(world: World):
    with pytest.raises(Invalid, match=r"words-v9.*words-v1.*words-v2"):
        world.ask("words-v9")


def test_a_space_whose_encoder_was_taken_away_ends_the_build(world: World, monkeypatch: pytest.MonkeyPatch):
    asked = world.ask("words-v2")
    alone = {world.domain.name: replace(world.domain, variants=())}
    monkeypatch.setattr(world, "rooms", replace(world.rooms, domains=alone))
    assert world.run() == 1
    failed = world.now(asked)
    assert (failed.state, "words-v2" in str(failed.reason)) == (BuildState.FAILED, True)


class Dead(BaseException):
    """Stands for a SIGKILL: nothing is given back."""


def test_killed_at_any_saving_it_goes_on_there_and_ends_equal(world: World, monkeypatch: pytest.MonkeyPatch):
    world.teach(2)
    fills: list[str | None] = []
    fill = world.rooms.mirror.fill
    monkeypatch.setattr(
        world.rooms.mirror, "fill", lambda *given, **named: (fills.append(given[4]), fill(*given, **named))[1]
    )
    asked = world.ask()
    for death in itertools.count(1):
        fills.clear()
        before = world.now(asked)
        if not before.active:
            break
        world.put(make_object("o3", np.eye(16)[death % 16]))  # what is built changes all the time
        saves = itertools.count(-death % 4)

        def die(build: Build, saves: Iterator[int] = saves) -> None:
            if next(saves) == 4:
                raise Dead

        token = world.rooms.builds.claim(asked, LEASE)
        assert token is not None
        with monkeypatch.context() as killed:
            killed.setattr(world.rooms.builds, "give_back", lambda *_: True)
            try:
                work_on(improver(world.rooms), before, token, LEASE, die)
            except Dead:
                world.expire(asked)
        if before.stage is Stage.OBJECTS and before.cursor and fills:
            assert fills[0] == json.loads(before.cursor)[1], "it went on where it had been"
    done = world.now(asked)
    assert (done.state, done.attempts) == (BuildState.BUILT, 0)
    assert death > 5
    building.improve_users(improver(world.rooms), 100)  # what the last comparison queued
    assert world.held(world.release(done)) == world.held(world.blue)
    assert world.copies(world.release(done)).keys() == world.copies(world.blue).keys()


def test_a_build_that_kills_its_worker_each_time_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch):
    asked = world.ask()

    def die(*_: Any, **__: Any) -> None:
        raise Dead

    monkeypatch.setattr(world.rooms.mirror, "fill", die)
    with monkeypatch.context() as killed:
        killed.setattr(world.rooms.builds, "give_back", lambda *_: True)
        for _ in range(improver(world.rooms).max_attempts):
            with pytest.raises(Dead):
                world.run()
            world.expire(asked)
    assert world.run() == 1
    failed = world.now(asked)
    assert (failed.state, failed.reason) == (
        BuildState.FAILED, "given up after 5 attempts: its worker died each time"
    )  # fmt: skip
    assert not world.release(asked).follows
    assert world.run() == 0
    world.ask()


def test_a_store_that_is_away_stops_a_build_and_is_not_held_against_it(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    asked = world.ask()
    fill = world.rooms.mirror.fill
    pages = itertools.count(1)

    def fail(*given: Any, **named: Any) -> Any:
        if next(pages) == 3:
            raise Unavailable("the store is away")
        return fill(*given, **named)

    monkeypatch.setattr(world.rooms.mirror, "fill", fail)
    with pytest.raises(Unavailable):
        world.run()
    stopped = world.now(asked)
    assert (stopped.state, stopped.done, stopped.attempts) == (BuildState.BUILDING, 20, 0)
    assert stopped.reason == "Unavailable: the store is away"
    assert world.run() == 1
    assert next(pages) == 6, "two pages, one that failed, and the two that were left"
    assert world.now(asked).reason is None
    assert world.held(world.release(asked)) == world.held(world.blue)


def test_what_is_wrong_with_a_build_itself_ends_it_after_some_attempts(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    asked = world.ask()

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(world.rooms.mirror, "fill", fail)
    for _ in range(improver(world.rooms).max_attempts):
        with pytest.raises(ValueError, match="a bug"):
            world.run()
    world.run()
    failed = world.now(asked)
    assert failed.state is BuildState.FAILED
    assert failed.reason == "given up after 5 attempts: ValueError: a bug"


def test_cancelled_it_stops_within_a_page_and_no_write_reaches_it_any_more(world: World):
    asked = world.ask()

    def cancel(build: Build) -> None:
        if build.stage is Stage.OBJECTS and build.done == 10:
            orders.cancel(improver(world.rooms), build)

    cancelled = world.work(asked, cancel)
    assert cancelled.state is BuildState.CANCELLED
    release = world.release(asked)
    assert len(world.held(release)) == 20
    assert not release.follows
    assert world.run() == 0
    with pytest.raises(Conflict, match="cancelled already"):
        orders.cancel(improver(world.rooms), cancelled)


def test_cancelled_while_it_begins_to_follow_it_does_not_go_on_following(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    asked = world.ask()
    follow = world.rooms.releases.follow

    def late(release: Release, follows: bool) -> None:
        if follows:
            orders.cancel(improver(world.rooms), asked)
        follow(release, follows)

    monkeypatch.setattr(world.rooms.releases, "follow", late)
    assert world.work(asked).state is BuildState.CANCELLED
    assert not world.release(asked).follows


def test_discarded_at_any_moment_nothing_of_it_is_left(world: World):
    for stage in Stage:
        asked = world.ask("words-v2")

        def discard(build: Build, stage: Stage = stage) -> None:
            if build.stage is stage:
                orders.discard(improver(world.rooms), build)

        assert world.work(asked, discard).state is BuildState.DISCARDED
        with pytest.raises(NotFound):
            world.release(asked)
        assert [release.blue for release in world.rooms.releases.list(world.domain.name)] == [True]
        assert world.run() == 0


def test_what_serves_cannot_be_discarded(world: World):
    done = world.work(world.ask())
    world.rooms.releases.set_blue(world.domain.name, done.embedding_model_id)
    with pytest.raises(Conflict, match="serves"):
        orders.discard(improver(world.rooms), done)
    assert world.now(done).state is BuildState.BUILT


def test_whoever_lost_the_lease_stops_quietly_and_the_other_ends_equal(world: World):
    asked, others = world.ask(), list[Build]()

    def lose(build: Build) -> None:
        if build.stage is Stage.OBJECTS and build.done == 20 and not others:
            world.expire(build)
            others.append(world.work(build))

    mine = world.work(asked, lose)
    assert [build.state for build in others] == [BuildState.BUILT]
    assert mine == world.now(asked)
    assert mine.state is BuildState.BUILT
    assert world.release(asked).follows
    assert world.held(world.release(asked)) == world.held(world.blue)


def test_two_workers_never_build_the_same(world: World, monkeypatch: pytest.MonkeyPatch):
    asked, lock, at_work, most = world.ask(), threading.Lock(), set[str](), list[int]()
    work = building.work_on

    def counted(rooms: Any, build: Build, token: str, *rest: Any) -> Any:
        with lock:
            at_work.add(token)
            most.append(len(at_work))
        try:
            return work(rooms, build, token, *rest)
        finally:
            with lock:
                at_work.discard(token)

    monkeypatch.setattr(building, "work_on", counted)
    taken: list[int] = []
    threads = [threading.Thread(target=lambda: taken.append(world.run())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [0, 0, 0, 1]
    assert most == [1]
    assert world.now(asked).state is BuildState.BUILT


def test_when_another_collection_serves_meanwhile_the_build_is_filled_from_that(world: World):
    other = world.rooms.releases.create(world.domain, "words-v1-by-hand", space="words-v1")
    world.rooms.vectors.upsert(other.collection_id, make_objects(world.domain, 15, seed=1))

    def switch(build: Build) -> None:
        if build.stage is Stage.OBJECTS and build.done == 20:
            world.rooms.releases.set_blue(world.domain.name, "words-v1-by-hand")

    done = world.work(world.ask(), switch)
    assert (done.state, world.blue.collection_id) == (BuildState.BUILT, other.collection_id)
    held = world.held(world.release(done))
    assert len(held) == 15
    assert held == world.held(world.blue)


@pytest.mark.parametrize("stage", [Stage.OBJECTS, Stage.COPIES, Stage.INDEX])
@pytest.mark.parametrize("stopped", [False, True])
def test_a_build_goes_on_following_whoever_is_set_blue_by_hand(world: World, stage: Stage, stopped: bool):
    rooms, name = world.rooms, world.domain.name
    hand = rooms.releases.create(world.domain, "by hand", space="words-v1")
    rooms.vectors.upsert(hand.collection_id, make_objects(world.domain, 15, seed=1))
    switched: list[Stage] = []

    def switch(build: Build) -> None:
        if build.stage is stage and not switched:
            switched.append(stage)
            promote(rooms, name, "by hand", "ann")
            if stage is not Stage.OBJECTS or build.done:
                assert world.release(build).follows
            if stopped and stage is not Stage.OBJECTS:
                rooms.releases.follow(world.release(build), False)  # whoever it was

    done = world.work(world.ask(), switch)
    assert (done.state, world.blue.collection_id) == (BuildState.BUILT, hand.collection_id)
    catalogue(rooms, world.domain).upsert([make_object("late", [1.0] * 16)], "words-v1")
    held = world.held(world.release(done))
    assert "late" in held
    assert held == world.held(world.blue)


def test_a_frozen_domain_is_not_built(world: World):
    asked = world.ask()
    world.rooms.learning.freeze(world.domain.name, "ann", "drift")
    assert world.run() == 0
    with pytest.raises(Conflict, match="frozen by ann: drift"):
        orders.refuse_frozen(improver(world.rooms), world.domain.name)
    world.rooms.learning.resume(world.domain.name, "ann", "all is well")
    assert world.run() == 1
    assert world.now(asked).state is BuildState.BUILT


def test_frozen_while_copies_are_made_it_lets_go_and_waits(world: World):
    world.teach(2)

    def freeze(build: Build) -> None:
        if build.stage is Stage.COPIES and build.total is not None:
            world.rooms.learning.freeze(world.domain.name, "ann", "drift")

    asked = world.ask()
    left = world.work(asked, freeze)
    assert (left.state, left.stage, left.attempts) == (BuildState.BUILDING, Stage.COPIES, 0)
    assert world.run() == 0
    world.rooms.learning.resume(world.domain.name, "ann", "all is well")
    assert world.run() == 1
    assert world.now(asked).state is BuildState.BUILT
    assert world.copies(world.release(asked)).keys() == world.copies(world.blue).keys()


def test_copies_that_another_worker_makes_are_waited_for(world: World):
    world.teach(2)
    asked = world.ask()
    held = list[Any]()
    waited = itertools.count()

    def elsewhere(build: Build) -> None:
        """Another worker claims all users as soon as they are queued, and works for a while."""
        if build.stage is Stage.COPIES and build.total is not None:
            if not held:
                held.append(world.rooms.queue.claim(100, LEASE))
            elif next(waited) == 3:
                world.rooms.queue.give_back(held[0])

    assert world.work(asked, elsewhere).state is BuildState.BUILT
    assert len(held[0].entries) == 2
    assert next(waited) > 3
    assert world.copies(world.release(asked)).keys() == world.copies(world.blue).keys()


def test_copies_that_nobody_gets_done_are_left_to_be_made_later(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    world.teach(2)
    monkeypatch.setattr(building, "PATIENCE", 0.05)
    claims = list[Any]()

    def hold(build: Build) -> None:
        if build.stage is Stage.COPIES and build.total is not None and not claims:
            claims.append(world.rooms.queue.claim(100, LEASE))

    done = world.work(world.ask(), hold)
    assert done.state is BuildState.BUILT
    world.rooms.queue.give_back(claims[0])
    while building.improve_users(improver(world.rooms), 100).claimed:
        pass
    assert world.copies(world.release(done)).keys() == world.copies(world.blue).keys()


def test_a_writer_that_died_before_it_reached_the_build_is_made_up_for_at_the_end(world: World):
    """Blue is written and nobody brings it: only the last comparison can find it."""

    def write(build: Build) -> None:
        if build.stage is Stage.INDEX and build.done == 0:
            world.put(make_object("new", np.eye(16)[1]), make_object("o1", np.eye(16)[2]))
            world.rooms.vectors.delete(world.blue.collection_id, ["o2"])

    done = world.work(world.ask(), write)
    assert world.held(world.release(done)) == world.held(world.blue)


def test_an_index_is_waited_for_but_not_for_ever(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(world, "rooms", replace(world.rooms, optimize=None))  # a server does it by itself
    answers = iter([False, False, True])
    with monkeypatch.context() as slow:
        slow.setattr(world.rooms.releases, "indexed", lambda release: next(answers))
        assert world.work(world.ask()).state is BuildState.BUILT
    assert next(answers, None) is None
    monkeypatch.setattr(building, "PATIENCE", 0.05)
    monkeypatch.setattr(world.rooms.releases, "indexed", lambda release: False)
    done = world.work(world.ask())
    assert done.state is BuildState.BUILT
    assert world.release(done).index_created


def test_a_domain_that_is_not_configured_any_more_is_not_built(world: World):
    asked = world.ask()
    elsewhere = replace(world.rooms, domains={})
    assert run_builds(improver(elsewhere), LEASE) == 1
    assert "is not configured" in str(world.now(asked).reason)


def test_one_build_that_fails_does_not_keep_another_from_its_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    other = replace(make_domain(), name=f"{world.domain.name}-b")
    world.rooms.releases.ensure(other)
    monkeypatch.setattr(
        world, "rooms", replace(world.rooms, domains={**world.rooms.domains, other.name: other})
    )
    asked = world.ask()
    second = orders.ask_build(improver(world.rooms), other, space=None, population=False, by="ann")
    fill = world.rooms.mirror.fill

    def fail(domain: SearchDomain, *rest: Any, **named: Any) -> Any:
        if domain.name == world.domain.name:
            raise Unavailable("one store is away")
        return fill(domain, *rest, **named)

    monkeypatch.setattr(world.rooms.mirror, "fill", fail)
    with pytest.raises(Unavailable):
        world.run()
    assert world.now(second).state is BuildState.BUILT
    assert world.now(asked).active


class Writer:
    """Puts and deletes objects over HTTP until it is stopped; remembers what was answered."""

    def __init__(self, address: str) -> None:
        self.address, self.answered = address, dict[str, str | None]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _write(self) -> None:
        rng = np.random.default_rng(7)
        with httpx.Client(base_url=f"{self.address}/api/v1", timeout=30) as client:
            while not self._stop.is_set():
                written: dict[str, str | None] = {
                    f"o{n}": f"word{rng.integers(50)} word{rng.integers(50)}" for n in rng.integers(0, 900, 3)
                }
                deleted = f"o{rng.integers(0, 900)}"
                for request, changes in (
                    (lambda written=written: put(client, written), written),
                    (lambda deleted=deleted: client.delete(f"/objects?object_id={deleted}"), {deleted: None}),
                ):
                    try:
                        if request().status_code == 200:
                            self.answered |= changes
                    except httpx.TransportError:  # it was killed: nobody knows what was done
                        for object_id in changes:
                            self.answered.pop(object_id, None)
                self._stop.wait(0.01)


def put(client: httpx.Client, texts: Mapping[str, str | None]) -> httpx.Response:
    objects = [
        {"object_id": i, "payload": {"text": text}, "parts": [{"text": text}]} for i, text in texts.items()
    ]
    return client.put("/objects", json={"objects": objects})


@pytest.mark.slow
@pytest.mark.skipif(bool(os.environ.get("TEST_QDRANT_URL")), reason="runs embedded stores of its own")
def test_killed_by_sigkill_while_objects_are_written_the_next_process_ends_with_every_write(
    tmp_path: Path,
):
    environment = {"BUILD_LEASE_SECONDS": "1", "IMPROVEMENT_SECONDS_INTERVAL": "0.5"}
    port = free_port()

    def service() -> AbstractContextManager[str]:
        return running_service(tmp_path / "data", ["tests.worker_domain:slow"], port, environment)

    def state(client: httpx.Client) -> dict[str, Any]:
        found: dict[str, Any] = client.get("/internal/green/status").raise_for_status().json()
        return found

    with service() as address, httpx.Client(base_url=f"{address}/api/v1", timeout=60) as client:
        put(client, {f"o{n}": f"word{n % 50} thing" for n in range(700)}).raise_for_status()
        asked = {"space": "words-v2", "population": False}
        build = client.post("/internal/green/build", json=asked).raise_for_status().json()
        writer = Writer(address)
        try:
            eventually(lambda: 0 < state(client)["done"] < 700 and state(client)["stage"] == "objects")
            [process] = [
                p for p in psutil.process_iter(["cmdline"])
                if str(port) in (p.info["cmdline"] or []) and "improvement" in (p.info["cmdline"] or [])
            ]  # fmt: skip
            process.kill()
            process.wait(10)
            with service():
                eventually(lambda: state(client)["state"] != "building", 60)
                built = state(client)
                writer.stop()
                blue = client.get("/internal/vectordb/collections/get-blue-info").json()["embedding_model"]
                held = {
                    model: found(client, model, [f"o{n}" for n in range(900)])
                    for model in (blue["id"], build["embedding_model_id"])
                }
        finally:
            writer.stop()
    assert (built["state"], built["build_id"], built["failed"]) == ("built", build["build_id"], 0)
    assert built["gate"] is None
    first, second = held.values()
    assert {i: o["payload"] for i, o in first.items()} == {i: o["payload"] for i, o in second.items()}
    assert len(first) > 600
    expected = slow.in_space("words-v2").embed([o["payload"]["text"] for o in second.values()])
    np.testing.assert_allclose([o["parts"][0]["vector"] for o in second.values()], expected, atol=1e-6)
    assert len(writer.answered) > 20
    for object_id, text in writer.answered.items():
        assert first.get(object_id, {"payload": {"text": None}})["payload"]["text"] == text


def found(client: httpx.Client, model: str, object_ids: list[str]) -> dict[str, Any]:
    body = {"embedding_model_id": model, "object_ids": object_ids}
    answer = client.post("/internal/vectordb/collections/objects/find-by-ids", json=body)
    return {o["object_id"]: o for o in answer.raise_for_status().json()}

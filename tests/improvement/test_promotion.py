"""Promoting and rolling back: by the rule of the gate, once, and finished whoever dies."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import httpx
import pytest
from pymongo.collection import Collection
from pymongo.database import Database

from improvement import promotion
from improvement.domain import SearchDomain
from improvement.errors import Conflict, Invalid, NotFound
from improvement.green.builds import Build, BuildState
from improvement.green.reports import ReportStore
from improvement.green.settings import PromotionSettings
from improvement.improver import Improver
from improvement.jobs import run_improvement
from improvement.objects import Object
from improvement.promotion import drop_collection, promote, promote_build, rollback
from improvement.promotion_log import SWITCH_SECONDS, Promotion, last_served, serving_last
from improvement.releases import Release, Releases
from improvement.routes import catalogue
from improvement.wiring import Rooms
from tests.support import Gap, make_object, make_objects

SPACE = "words-v1"
WRITES = {
    Collection: ("insert_one", "update_one", "update_many", "delete_one", "delete_many", "bulk_write"),
    None: (
        "upsert",
        "delete",
        "delete_collection",
        "update_collection_aliases",
    ),  # the vector engine's client
}


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotion, "GRACE", 0.0)


@pytest.fixture
def originals(rooms: Rooms, domain: SearchDomain) -> list[Object]:
    objects = make_objects(domain, 9)
    rooms.vectors.upsert(rooms.releases.blue(domain.name).collection_id, objects)
    return objects


def built(rooms: Rooms, domain: SearchDomain, name: str, population: bool = False) -> Build:
    """A build that is done: filled, following, nothing left but to be promoted."""
    blue = rooms.releases.blue(domain.name)
    model = f"{SPACE}@{name}"
    build = rooms.builds.ask(domain.name, model, SPACE, population, "ann", build_id=name * 32)
    green = rooms.releases.create(domain, model, space=SPACE, build=build.build_id, population=population)
    rooms.releases.follow(green, True)
    rooms.mirror.reconcile(domain, blue, green)
    rooms.builds.end(build.build_id, BuildState.BUILT)
    return rooms.builds.get(build.build_id)


def gated(rooms: Rooms, build: Build, *reasons: str, reports: ReportStore | None = None) -> str:
    green = rooms.releases.get(build.domain, build.embedding_model_id).collection_id
    blue = rooms.releases.blue(build.domain).collection_id
    store = reports or rooms.reports
    return store.save(build.domain, build.build_id, green, blue, list(reasons), {}).report_id


def passed(rooms: Rooms, domain: SearchDomain, name: str, population: bool = False) -> Build:
    build = built(rooms, domain, name, population)
    gated(rooms, build)
    return build


def models(rooms: Rooms, domain: SearchDomain) -> dict[str, str]:
    """How each collection stands: blue, following, or kept as it is."""
    return {
        r.embedding_model_id: "blue" if r.blue else "follows" if r.follows else "kept"
        for r in rooms.releases.list(domain.name)
    }


def in_line(rooms: Rooms, one: Release, other: Release) -> bool:
    pairs = ((one, other), (other, one))
    return not [i for pair in pairs for ids in rooms.mirror.differing(*pair) for i in ids]


def newest(rooms: Rooms, domain: SearchDomain) -> Promotion:
    return rooms.releases.history(domain.name)[0]


def expire(rooms: Rooms) -> None:
    """The lease of somebody who died runs out."""
    rooms.releases.promotions._switching.update_many({}, {"$set": {"until": 0.0}})


# The rule


def test_a_build_that_passed_serves_and_what_served_goes_on_following(
    rooms: Rooms, domain: SearchDomain, originals: list[Object]
):
    first = rooms.releases.blue(domain.name)
    build = built(rooms, domain, "a")
    report = gated(rooms, build)
    assert promote_build(rooms, build, "ann").embedding_model_id == f"{SPACE}@a"
    assert models(rooms, domain) == {SPACE: "follows", f"{SPACE}@a": "blue"}
    said = newest(rooms, domain)
    assert (said.by, said.build, said.report_id, said.forced) == ("ann", build.build_id, report, None)
    assert (said.previous, said.finished, said.as_json()["gated"]) == (first.collection_id, True, True)
    assert rooms.releases.unrebuilt() == set()


def told(rooms: Rooms, build: Build, **changes: Any) -> None:
    """Change what the newest report says."""
    report = rooms.reports.latest(build.build_id)
    rooms.reports._reports.update_one({"_id": report.report_id}, {"$set": changes})


#: What may be wrong with a report, and what is said then.
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"passed": False, "reasons": ["nDCG@10 is worse"]}, "nDCG@10 is worse"),
    ({"created_at": time.time() - 25.5 * 3600}, "its gate ran 25."),
    ({"created_at": time.time() + 25.5 * 3600}, "its gate ran -25."),
    ({"green": "another"}, "tested another collection, 'another'"),
    ({"blue": "another"}, "compared it with 'another'"),
]


def test_a_build_is_refused_unless_its_report_passed_is_fresh_and_of_these_two(
    rooms: Rooms, domain: SearchDomain
):
    build = built(rooms, domain, "a")
    for changes, reason in WRONG:
        gated(rooms, build)
        told(rooms, build, **changes)
        with pytest.raises(Conflict) as refused:
            promote_build(rooms, build, "ann")
        for words in (reason, "green gate", "--force"):
            assert words in str(refused.value)
        rooms.reports._reports.delete_many({})
    assert models(rooms, domain) == {SPACE: "blue", f"{SPACE}@a": "follows"}


def test_a_build_without_a_report_or_that_is_not_built_is_refused(rooms: Rooms, domain: SearchDomain):
    build = built(rooms, domain, "a")
    with pytest.raises(Conflict, match="no gate has tested it"):
        promote_build(rooms, build, "ann")
    gated(rooms, build)
    for state in (BuildState.CANCELLED, BuildState.BUILDING, BuildState.QUEUED, BuildState.FAILED):
        rooms.builds.end(build.build_id, state)
        with pytest.raises(Conflict, match=f"is {state}; only one that is built"):
            promote_build(rooms, build, "ann", force="I said so")
    with pytest.raises(NotFound):
        promote_build(rooms, replace(build, build_id="f" * 32), "ann")


def test_a_report_is_stale_as_soon_as_another_collection_serves(rooms: Rooms, domain: SearchDomain):
    one, two = passed(rooms, domain, "a"), passed(rooms, domain, "b")
    promote_build(rooms, one, "ann")
    with pytest.raises(Conflict, match="serves now"):
        promote_build(rooms, two, "ann")
    gated(rooms, two)
    assert promote_build(rooms, two, "ann").embedding_model_id == f"{SPACE}@b"


def test_force_is_recorded_with_who_and_why_and_against_what(rooms: Rooms, domain: SearchDomain):
    build = built(rooms, domain, "a")
    report = gated(rooms, build, "MRR is worse")
    promote_build(rooms, build, "ann", force="the licence ends today")
    said = newest(rooms, domain)
    assert said.forced == {
        "why": "the licence ends today", "reasons": ["its gate did not pass: MRR is worse"],
    }  # fmt: skip
    assert (said.by, said.report_id, said.as_json()["gated"]) == ("ann", report, False)


def test_who_and_why_must_be_said_and_be_short(rooms: Rooms, domain: SearchDomain):
    build = passed(rooms, domain, "a")
    for by, force in (("", None), (" ", None), ("a" * 201, None), ("ann", ""), ("ann", "x" * 1_001)):
        with pytest.raises(Invalid, match="characters"):
            promote_build(rooms, build, by, force)
    assert models(rooms, domain)[SPACE] == "blue"


def test_an_empty_collection_that_serves_does_not_empty_the_build(
    rooms: Rooms, domain: SearchDomain, originals: list[Object]
):
    build = built(rooms, domain, "a")
    blue = rooms.releases.blue(domain.name).collection_id
    rooms.vectors.delete(blue, [o.object_id for o in originals])
    with pytest.raises(Conflict, match="serves and is empty"):
        promote_build(rooms, build, "ann", force="restored from a backup")


# What follows a switch


def test_the_last_writes_are_brought_before_and_after_the_switch(
    rooms: Rooms, domain: SearchDomain, originals: list[Object]
):
    """Somebody died after writing blue and before telling the others: nobody else repairs it."""
    blue, build = rooms.releases.blue(domain.name), passed(rooms, domain, "a")
    green = rooms.releases.get(domain.name, build.embedding_model_id)
    rooms.vectors.upsert(blue.collection_id, [make_object("late", originals[0].parts)])
    rooms.vectors.delete(blue.collection_id, ["o3"])

    def dies_on_the_new_one() -> None:
        rooms.vectors.upsert(green.collection_id, [make_object("later", originals[1].parts)])

    releases: Any = Gap(rooms.releases, "set_blue", dies_on_the_new_one)
    promote_build(replace(rooms, releases=releases), build, "ann")
    ids = {o.object_id for o in rooms.vectors.page(green.collection_id, 100)[0]}
    assert ids == {f"o{i}" for i in range(9)} - {"o3"} | {"late", "later"}
    assert in_line(rooms, green, blue)


def test_keep_previous_says_how_many_are_kept_and_the_rest_goes_with_all_it_has(
    rooms: Rooms, domain: SearchDomain, originals: list[Object]
):
    for name in "abc":
        build = passed(rooms, domain, name, population=True)
        rooms.population.save(build.build_id, ["o1"], originals[0].parts[:1], [0.1])
        promote_build(rooms, build, "ann")
    assert models(rooms, domain) == {f"{SPACE}@b": "follows", f"{SPACE}@c": "blue"}
    assert [bool(rooms.population.of(n * 32, ["o1"])) for n in "abc"] == [False, True, True]
    assert [rooms.builds.get(n * 32).state.value for n in "abc"] == ["discarded", "built", "built"]
    assert rollback(rooms, domain.name, "ann").embedding_model_id == f"{SPACE}@b"
    with pytest.raises(Conflict, match="was deleted"):
        rollback(rooms, domain.name, "ann")


@pytest.mark.parametrize(("keep", "left"), [(0, set()), (2, {SPACE, f"{SPACE}@a"})])
def test_none_or_several_can_be_kept(
    rooms: Rooms, domain: SearchDomain, originals: list[Object], keep: int, left: set[str]
):
    keeping = replace(domain, promotion=PromotionSettings(keep_previous=keep))
    others = replace(rooms, domains={domain.name: keeping})
    for name in "ab":
        promote_build(others, passed(rooms, domain, name), "ann")
    assert models(rooms, domain) == {f"{SPACE}@b": "blue"} | dict.fromkeys(left, "follows")


def test_a_build_that_never_served_stays_however_old_it_is(rooms: Rooms, domain: SearchDomain):
    built(rooms, domain, "a")
    for name in "bcd":
        promote_build(rooms, passed(rooms, domain, name), "ann")
    assert models(rooms, domain)[f"{SPACE}@a"] == "follows"


def test_the_neighbours_of_a_space_go_with_its_last_collection(rooms: Rooms, domain: SearchDomain):
    discarded: list[str] = []

    class Discarding:
        def discard(self, name: str, space: str) -> None:
            discarded.append(space)

    watched = replace(rooms, neighbours=Discarding())
    rooms.releases.create(domain, "old")
    promote(watched, domain.name, "old", "ann")
    promote_build(watched, passed(rooms, domain, "a"), "ann")  # deletes words-v1, whose space goes on
    assert discarded == []
    promote_build(watched, passed(rooms, domain, "b"), "ann")
    assert discarded == ["old"]


def test_what_serves_cannot_be_deleted_and_loses_nothing_by_the_attempt(rooms: Rooms, domain: SearchDomain):
    class Discarding:
        def discard(self, name: str, space: str) -> None:
            raise AssertionError("users are still near each other there")

    neighbours: Any = Discarding()
    with pytest.raises(Conflict, match="is blue"):
        drop_collection(rooms.releases, neighbours, rooms.releases.blue(domain.name))


# Collections made by hand


def test_a_collection_made_by_hand_serves_without_a_gate_and_says_so(
    rooms: Rooms, domain: SearchDomain, originals: list[Object]
):
    promote_build(rooms, passed(rooms, domain, "a"), "ann")
    rooms.releases.create(domain, "v2")
    promote(rooms, domain.name, "v2", "bob")
    said = newest(rooms, domain).as_json()
    assert (said["by"], said["build"], said["gated"]) == ("bob", None, False)
    # nothing follows it: it may have other objects
    assert models(rooms, domain) == {SPACE: "kept", f"{SPACE}@a": "kept", "v2": "blue"}
    assert rollback(rooms, domain.name, "bob").embedding_model_id == f"{SPACE}@a"
    assert models(rooms, domain) == {SPACE: "kept", f"{SPACE}@a": "blue", "v2": "kept"}


def test_going_back_by_hand_to_what_was_kept_in_line_keeps_the_other_in_line(
    rooms: Rooms, domain: SearchDomain, originals: list[Object]
):
    promote_build(rooms, passed(rooms, domain, "a"), "ann")
    promote(rooms, domain.name, SPACE, "ann")
    assert models(rooms, domain) == {SPACE: "blue", f"{SPACE}@a": "follows"}


def test_the_published_set_blue_goes_by_the_rule_where_a_build_made_the_collection(
    rooms: Rooms, domain: SearchDomain, service: httpx.Client
):
    build = built(rooms, domain, "a")
    set_blue = {"embedding_model_id": build.embedding_model_id}
    refused = service.post("/api/v1/internal/vectordb/collections/set-blue", json=set_blue)
    assert (refused.status_code, "no gate has tested it" in refused.json()["detail"]) == (409, True)
    gated(rooms, build)
    assert service.post("/api/v1/internal/vectordb/collections/set-blue", json=set_blue).status_code == 200
    again = service.post("/api/v1/internal/vectordb/collections/set-blue", json=set_blue)
    assert again.json()["work_state"] == "blue"
    answer = service.get("/api/v1/internal/promotions").json()["promotions"]
    assert [(one["build"], one["gated"]) for one in answer] == [(build.build_id, True), (None, False)]


def test_a_set_blue_that_failed_stops_nothing_from_following(
    rooms: Rooms, domain: SearchDomain, originals: list[Object], monkeypatch: pytest.MonkeyPatch
):
    promote_build(rooms, passed(rooms, domain, "a"), "ann")
    rooms.releases.create(domain, "hand")

    def away(*args: Any) -> None:
        raise ConnectionError("the vector engine is away")

    with monkeypatch.context() as patched:
        patched.setattr(Releases, "_switch", away)
        with pytest.raises(ConnectionError):
            promote(rooms, domain.name, "hand", "ann")
    promotion.finish_switch(rooms, domain)
    assert models(rooms, domain) == {SPACE: "follows", f"{SPACE}@a": "blue", "hand": "kept"}
    catalogue(rooms, domain).upsert([make_object("new", originals[0].parts)], SPACE)
    back = rollback(rooms, domain.name, "ann")
    assert "new" in rooms.vectors.find(back.collection_id, ["new"])


def test_a_set_blue_that_died_behind_its_switch_is_finished_by_a_worker_or_by_the_next_switch(
    rooms: Rooms, domain: SearchDomain, originals: list[Object], monkeypatch: pytest.MonkeyPatch
):
    def dies(*args: Any, **kwargs: Any) -> None:
        raise Killed

    def die_behind(embedding_model_id: str) -> None:
        rooms.releases.create(domain, embedding_model_id)
        with monkeypatch.context() as patched:
            patched.setattr(promotion, "_finish", dies)
            with suppress(Killed):
                promote(rooms, domain.name, embedding_model_id, "ann")
        assert models(rooms, domain)[f"{SPACE}@a"] == "follows"

    built(rooms, domain, "a")
    die_behind("hand")
    promotion.finish_switch(rooms, domain)
    assert models(rooms, domain) == {SPACE: "kept", f"{SPACE}@a": "kept", "hand": "blue"}
    rooms.releases.follow(rooms.releases.get(domain.name, f"{SPACE}@a"), True)
    die_behind("by hand")
    rollback(rooms, domain.name, "ann")
    assert models(rooms, domain)[f"{SPACE}@a"] == "kept"


# Clocks


def test_what_served_last_is_kept_whatever_the_clocks_of_those_who_promote(
    rooms: Rooms, domain: SearchDomain, originals: list[Object], monkeypatch: pytest.MonkeyPatch
):
    for name, ahead in (("a", 120.0), ("b", 0.0), ("c", -120.0)):
        build = passed(rooms, domain, name)
        monkeypatch.setattr(rooms.releases.promotions, "clock", lambda ahead=ahead: time.time() + ahead)
        promote_build(rooms, build, "ann")
    assert models(rooms, domain) == {f"{SPACE}@b": "follows", f"{SPACE}@c": "blue"}
    assert [one.build for one in rooms.releases.history(domain.name)] == [*(n * 32 for n in "cba"), None]
    assert rollback(rooms, domain.name, "ann").embedding_model_id == f"{SPACE}@b"


def test_nobody_waits_longer_than_searches_take_because_a_clock_is_ahead(
    rooms: Rooms, domain: SearchDomain, originals: list[Object], monkeypatch: pytest.MonkeyPatch
):
    none = replace(domain, promotion=PromotionSettings(keep_previous=0))
    log, slept = rooms.releases.promotions, list[float]()
    monkeypatch.setattr(promotion, "GRACE", 2.0)
    monkeypatch.setattr(promotion.time, "sleep", slept.append)
    begin = log.begin

    def ahead(*args: Any) -> None:  # whoever switched died; somebody else, whose clock is right, goes on
        monkeypatch.setattr(log, "clock", lambda: time.time() + 3_600)
        begin(*args)
        monkeypatch.setattr(log, "clock", time.time)

    monkeypatch.setattr(log, "begin", ahead)
    promote_build(replace(rooms, domains={domain.name: none}), passed(rooms, domain, "a"), "ann")
    assert 2.0 in slept
    assert max(slept) <= 2.0


# Rolling back


def test_a_rollback_swaps_the_roles_and_says_who_and_why(
    rooms: Rooms, domain: SearchDomain, originals: list[Object]
):
    build = passed(rooms, domain, "a")
    promote_build(rooms, build, "ann")
    green = rooms.releases.blue(domain.name)
    back = rollback(rooms, domain.name, "bob", "it looks odd")
    assert models(rooms, domain) == {SPACE: "blue", f"{SPACE}@a": "follows"}
    assert in_line(rooms, back, green)
    said = newest(rooms, domain)
    assert (said.undone, said.undone_by, said.undone_why) == (True, "bob", "it looks odd")
    assert said.watch.state == "ended"
    gated(rooms, build)
    assert promote_build(rooms, build, "ann").embedding_model_id == f"{SPACE}@a"  # it may be tried again


def test_where_nothing_served_before_there_is_no_way_back(rooms: Rooms, domain: SearchDomain):
    with pytest.raises(Conflict, match="no earlier blue"):
        rollback(rooms, domain.name, "ann", "why not")
    with pytest.raises(NotFound):
        rollback(rooms, "unknown", "ann")


# Two at once


def test_while_somebody_switches_nobody_else_does(rooms: Rooms, domain: SearchDomain):
    build, other = passed(rooms, domain, "a"), passed(rooms, domain, "b")
    refusals: list[str] = []

    def meanwhile() -> None:
        for attempt in (
            lambda: promote_build(rooms, other, "bob", force="now"),
            lambda: promote_build(rooms, build, "bob"),
            lambda: promote(rooms, domain.name, SPACE, "bob"),
            lambda: rollback(rooms, domain.name, "bob"),
        ):
            with pytest.raises(Conflict, match="being switched just now by ann") as refused:
                attempt()
            refusals.append(str(refused.value))

    mirror: Any = Gap(rooms.mirror, "reconcile", meanwhile)
    promote_build(replace(rooms, mirror=mirror), build, "ann")
    assert len(refusals) == 4
    assert models(rooms, domain)[f"{SPACE}@a"] == "blue"
    with pytest.raises(Conflict, match="no earlier blue"):  # given back, also by one that is refused
        rollback(rooms, domain.name, "bob") and rollback(rooms, domain.name, "bob")
    assert rooms.releases.promotions._switching.find_one({"_id": domain.name})["until"] == 0


def test_of_many_promoters_at_once_one_switches(rooms: Rooms, domain: SearchDomain, originals: list[Object]):
    build, outcomes = passed(rooms, domain, "a"), []

    def attempt() -> None:
        try:
            outcomes.append(promote_build(rooms, build, "ann").blue)
        except Conflict as refused:
            outcomes.append("being switched" in str(refused))

    threads = [threading.Thread(target=attempt) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [True] * 6
    assert [one.build for one in rooms.releases.history(domain.name)] == [build.build_id, None]


def test_who_slept_through_their_lease_does_not_switch(
    rooms: Rooms, domain: SearchDomain, originals: list[Object], database: Database[Any]
):
    one, two = passed(rooms, domain, "a"), passed(rooms, domain, "b")

    def another_takes_over() -> None:
        expire(rooms)
        promote_build(rooms, two, "bob")

    mirror: Any = Gap(rooms.mirror, "reconcile", another_takes_over)
    with pytest.raises(Conflict, match="somebody else took over"):
        promote_build(replace(rooms, mirror=mirror), one, "ann")
    assert models(rooms, domain)[f"{SPACE}@b"] == "blue"
    assert SWITCH_SECONDS > 60


# Dying


class Killed(BaseException):
    """The process is gone: nothing it does after this has any effect."""


@contextmanager
def dying(rooms: Rooms, number: int) -> Iterator[Callable[[], bool]]:
    """Die before the write of that number; yields whether that happened."""
    count = [0]

    def dead() -> bool:
        return count[0] > number

    with pytest.MonkeyPatch.context() as patched:
        for owner, methods in WRITES.items():
            owner = owner or type(rooms.releases._client)
            for method in methods:
                alive = getattr(owner, method)

                def mortal(self: Any, *args: Any, _alive: Any = alive, **kwargs: Any) -> Any:
                    count[0] += 1
                    if dead():
                        raise Killed
                    return _alive(self, *args, **kwargs)

                patched.setattr(owner, method, mortal)
        yield dead


def dies_everywhere(rooms: Rooms, start: Callable[[int], Any], act: Callable[[Any], Any]) -> Iterator[Any]:
    """Act, dying before the first write, the second and so on until it survives; yield what was acted on."""
    for number in range(200):
        what = start(number)
        with dying(rooms, number) as dead:
            with suppress(Killed):
                act(what)
            survived = not dead()
        expire(rooms)
        yield what
        if survived:
            assert number > 8, "it wrote less than it must have"
            return
    raise AssertionError("it never ends")


def test_a_promotion_that_died_anywhere_is_finished_by_repeating_it(
    rooms: Rooms, domain: SearchDomain, originals: list[Object]
):
    def start(number: int) -> Build:
        name = f"{number:032x}"
        build = rooms.builds.ask(domain.name, f"{SPACE}@{number}", SPACE, True, "ann", name)
        blue = rooms.releases.blue(domain.name)
        green = rooms.releases.create(
            domain, build.embedding_model_id, space=SPACE, build=name, population=True
        )
        rooms.mirror.reconcile(domain, blue, green)
        rooms.population.save(name, ["o1"], originals[0].parts[:1], [0.1])
        rooms.builds.end(name, BuildState.BUILT)
        rooms.vectors.upsert(
            blue.collection_id, [make_object("new", originals[0].parts, payload={"n": number})]
        )
        gated(rooms, build)
        return rooms.builds.get(name)

    before = rooms.releases.blue(domain.name)
    for build in dies_everywhere(rooms, start, lambda build: promote_build(rooms, build, "ann")):
        assert promote_build(rooms, build, "ann").build == build.build_id
        states = models(rooms, domain)
        assert states == {before.embedding_model_id: "follows", build.embedding_model_id: "blue"}
        blue = rooms.releases.blue(domain.name)
        assert in_line(rooms, blue, before)
        assert rooms.releases.promotions.unfinished(domain.name) is None
        assert rooms.releases.unrebuilt() == set()
        kept = {document["build"] for document in rooms.population._turns.find()}
        assert kept == {build.build_id} | ({before.build} - {None})
        before = blue


def test_a_promotion_that_died_anywhere_behind_its_switch_is_finished_by_a_worker(
    rooms: Rooms, domain: SearchDomain, originals: list[Object], improving: Improver
):
    before = rooms.releases.blue(domain.name)
    names = iter("abcdefghijklmnopqrstuvwxyz")

    def start(number: int) -> Build:
        return passed(rooms, domain, next(names))

    finished = 0
    for build in dies_from_the_switch_on(rooms, start):
        run_improvement(improving, 10, idle_seconds=1e9)
        assert rooms.releases.blue(domain.name).build == build.build_id
        assert rooms.releases.promotions.unfinished(domain.name) is None
        assert models(rooms, domain) == {
            before.embedding_model_id: "follows",
            build.embedding_model_id: "blue",
        }
        before, finished = rooms.releases.blue(domain.name), finished + 1
    assert finished > 3


def dies_from_the_switch_on(rooms: Rooms, start: Callable[[int], Build]) -> Iterator[Build]:
    for number in range(9):
        build = start(number)
        with pytest.MonkeyPatch.context() as patched:
            switch = Releases._switch
            context = dying(rooms, number)

            def switch_and_die(self: Any, *args: Any, _context: Any = context, _switch: Any = switch) -> None:
                _switch(self, *args)
                _context.__enter__()

            patched.setattr(Releases, "_switch", switch_and_die)
            with suppress(Killed):
                promote_build(rooms, build, "ann")
            context.__exit__(None, None, None)
        expire(rooms)
        yield build


def test_a_rollback_that_died_anywhere_goes_back_one_step_and_not_two(
    rooms: Rooms, domain: SearchDomain, originals: list[Object]
):
    keeping = replace(domain, promotion=PromotionSettings(keep_previous=3))
    others = replace(rooms, domains={domain.name: keeping})
    for name in "ab":
        promote_build(others, passed(rooms, domain, name), "ann")
    build = rooms.builds.get("b" * 32)

    def start(number: int) -> str:
        if rooms.releases.blue(domain.name).build != build.build_id:
            gated(rooms, build)
            promote_build(others, build, "ann")
        return domain.name

    for _ in dies_everywhere(rooms, start, lambda name: rollback(others, name, "bob", "it died")):
        if not (newest(rooms, domain).undone and newest(rooms, domain).finished):
            rollback(others, domain.name, "bob", "it died")
        assert rooms.releases.blue(domain.name).embedding_model_id == f"{SPACE}@a"
        assert newest(rooms, domain).undone
        assert models(rooms, domain)[f"{SPACE}@b"] == "follows"
        assert models(rooms, domain)[SPACE] == "follows"


# History


def test_what_served_last_is_known_from_the_history_also_backwards():
    one = Promotion("1", "d", None, "x", 1.0)
    two = Promotion("2", "d", "x", "y", 2.0)
    three = Promotion("3", "d", "y", "z", 3.0, undone=True, undone_at=4.0)
    assert {i: left.at for i, left in last_served([three, two, one]).items()} == {
        "x": 2.0,
        "y": 3.0,
        "z": 4.0,
    }
    assert [serving_last(known) for known in ([], [one], [two, one], [three, two, one])] == [
        None,
        "x",
        "y",
        "y",
    ]


def test_an_alias_that_was_lost_is_set_to_what_served_last(
    rooms: Rooms, domain: SearchDomain, database: Database[Any], originals: list[Object]
):
    promote_build(rooms, passed(rooms, domain, "a"), "ann")
    client = rooms.releases._client
    from qdrant_client import models as qdrant

    gone = qdrant.DeleteAliasOperation(delete_alias=qdrant.DeleteAlias(alias_name=domain.name))
    client.update_collection_aliases(change_aliases_operations=[gone])
    rooms.releases.ensure(domain)
    assert rooms.releases.blue(domain.name).embedding_model_id == f"{SPACE}@a"
    assert len(rooms.releases.history(domain.name)) == 2


def test_promotions_of_earlier_versions_are_read_and_rolled_back(
    rooms: Rooms, domain: SearchDomain, database: Database[Any]
):
    release = rooms.releases.create(domain, "v2")
    before = rooms.releases.blue(domain.name)
    rooms.releases.set_blue(domain.name, "v2")
    database["promotions"].delete_many({"current": release.collection_id})
    database["promotions"].update_many({}, {"$unset": {"order": "", "undone_order": "", "apart": ""}})
    old = {"domain": domain.name, "previous": before.collection_id, "current": release.collection_id}
    database["promotions"].insert_one(old | {"at": time.time(), "undone": False, "rebuilt": True})
    assert newest(rooms, domain).by == ""
    assert rollback(rooms, domain.name, "ann").embedding_model_id == SPACE
    assert newest(rooms, domain).undone

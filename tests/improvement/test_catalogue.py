"""Objects written once arrive in every collection that must hold them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import httpx
import numpy as np
import pytest
from pymongo.database import Database

from clickstream.improvement_queue import ImprovementQueue, Owner
from improvement.api import create_app
from improvement.catalogue import REWRITES, Catalogue
from improvement.domain import SearchDomain
from improvement.errors import Conflict, Unavailable
from improvement.green.mirror import Mirror
from improvement.green.population_store import PopulationStore
from improvement.green.shapes import Shaper
from improvement.objects import Object, given_rows
from improvement.releases import Release, Releases
from improvement.routes import catalogue as catalogue_of
from improvement.schemas import ObjectBody, to_objects, with_revision
from improvement.vectors import VectorStore
from improvement.wiring import Rooms
from tests.naive import NaiveQdrant
from tests.support import DIMENSIONS, Calls, Gap, WordEncoder, make_domain, make_object, make_objects, serving

SPACE, OTHER = "words-v1", "words-v2"


@dataclass(frozen=True)
class Stores:
    """What a catalogue needs, on a naive Qdrant that makes collections in no time."""

    vectors: VectorStore
    releases: Releases
    queue: ImprovementQueue
    population: PopulationStore
    shaper: Shaper
    mirror: Mirror
    wake: Callable[[], None] = lambda: None


@pytest.fixture
def stores(database: Database[Any], domain: SearchDomain) -> Stores:
    qdrant, population = NaiveQdrant(), PopulationStore(database)
    vectors, shaper = VectorStore(qdrant), Shaper(population)
    releases = Releases(qdrant, database)
    releases.ensure(domain)
    queue, mirror = ImprovementQueue(database), Mirror(vectors, shaper)
    return Stores(vectors, releases, queue, population, shaper, mirror)


def catalogue(stores: Any, domain: SearchDomain, release: Release | None = None) -> Catalogue:
    return catalogue_of(stores, domain, release)


class Steps(Calls):
    """Does something once, right after the n-th call to any of the stores that a catalogue writes to."""

    def around(self, stores: Stores, domain: SearchDomain) -> Catalogue:
        proxies = {name: self.before(getattr(stores, name)) for name in ("vectors", "releases")}
        mirror = type(stores.mirror)(proxies["vectors"], stores.shaper)
        return catalogue(replace(stores, **proxies, mirror=mirror), domain)


@pytest.fixture
def both(domain: SearchDomain) -> SearchDomain:
    other = make_domain(domain.name, dimensions=8, encoder=WordEncoder(8, OTHER))
    return replace(domain, variants=(other,))


def filled(stores: Any, domain: SearchDomain) -> Release:
    """The collection that serves, with six objects."""
    release: Release = stores.releases.blue(domain.name)
    stores.vectors.upsert(release.collection_id, make_objects(domain, 6))
    return release


@pytest.fixture
def blue(stores: Stores, domain: SearchDomain) -> Release:
    return filled(stores, domain)


def follower(stores: Any, domain: SearchDomain, name: str = "b", space: str = SPACE) -> Release:
    """A collection that follows, filled."""
    where = domain.in_space(space)
    made = stores.releases.create(where, f"{space}@{name}", space=space, build=name, population=True)
    stores.releases.follow(made, True)
    stores.mirror.reconcile(domain, stores.releases.blue(domain.name), made)
    return stores.releases.get(domain.name, made.embedding_model_id)


def switch(stores: Any, domain: SearchDomain, to: Release) -> None:
    """What serves begins to follow what is to serve, and does so."""
    stores.releases.follow(stores.releases.blue(domain.name), True)
    stores.releases.set_blue(domain.name, to.embedding_model_id)


def drop(stores: Stores, domain: SearchDomain, release: Release) -> None:
    stores.releases.delete(domain.name, release.embedding_model_id)


def new(object_id: str, number: int = 0) -> Object:
    return make_object(object_id, np.eye(DIMENSIONS, dtype=np.float32)[number], payload={"new": number})


def described(domain: SearchDomain, object_id: str, *texts: str) -> Object:
    part_ids = tuple(f"{object_id}:{n}" for n in range(len(texts)))
    return with_revision(Object(object_id, domain.embed(texts), part_ids, texts=texts))


def copy_of(original: Object, user: str) -> Object:
    return replace(
        original, object_id=f"{original.object_id}_{user}", user_id=user, original_id=original.object_id
    )


def given(stores: Any, release: Release) -> dict[str, str]:
    """What each original of a collection was given as."""
    found, after = stores.vectors.revision_page(release.collection_id, 1_000)
    assert after is None
    return {object_id: revision.given for object_id, revision in found.items()}


def expect_everywhere(stores: Any, domain: SearchDomain, objects: Iterable[Object], gone: str = "") -> None:
    """Assert that all collections of the world hold the same, among it these, and not what is gone."""
    world = stores.releases.world(domain.name)
    held = [given(stores, release) for release in world.releases]
    assert all(one == held[0] for one in held)
    for o in objects:
        assert held[0].get(o.object_id) == o.given_revision, o.object_id
    assert gone not in held[0]


def pending(stores: Stores, domain: SearchDomain) -> set[str]:
    """Users of this test who are queued for new copies."""
    queued = stores.queue.rebuilding(domain.name)
    return {user for user in ("ann", "bob", "eve", "fay") if Owner(domain.name, user).key in queued}


# Where writes go


def test_what_is_written_reaches_what_serves_and_everything_that_follows(
    stores: Stores, domain: SearchDomain, blue: Release
):
    green, kept = follower(stores, domain, "b"), follower(stores, domain, "c")
    alone = stores.releases.create(domain, "by-hand")
    writer = catalogue(stores, domain)
    objects = [new("o1"), new("o9", 3)]
    writer.upsert(objects, SPACE)
    expect_everywhere(stores, domain, objects)
    writer.insert([new("o10", 4)], SPACE)
    writer.delete(["o2", "nowhere"])
    expect_everywhere(stores, domain, [*objects, new("o10", 4)], gone="o2")
    assert len(given(stores, green)) == len(given(stores, kept)) == 7
    assert given(stores, alone) == {}
    writer.upsert([], SPACE)
    writer.delete([])


def test_each_collection_holds_an_object_in_its_own_shape(
    stores: Stores, domain: SearchDomain, both: SearchDomain, blue: Release, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("improvement.green.shapes.turned", lambda rows, targets, *_: (rows + targets) / 2)
    catalogue(stores, both).delete([f"o{n}" for n in range(6)])
    turned, other = follower(stores, both, "b"), follower(stores, both, "c", OTHER)
    target = np.eye(DIMENSIONS, dtype=np.float32)[5]
    stores.population.save("b", ["o"], target[None], [0.1])
    o = described(domain, "o", "red shoes", "blue hat")
    catalogue(stores, both).upsert([o], SPACE)
    found = {
        r.space + str(r.build): stores.vectors.find(r.collection_id, ["o"])["o"]
        for r in (blue, turned, other)
    }
    assert np.allclose(found[f"{SPACE}None"].parts, o.parts, atol=1e-6)
    assert found[f"{SPACE}None"].raw is None
    assert np.allclose(found[f"{SPACE}b"].parts, (o.parts + target) / 2, atol=1e-6)
    assert found[f"{SPACE}b"].raw is not None
    assert np.allclose(given_rows(found[f"{SPACE}b"]), o.parts, atol=1e-6)
    assert np.allclose(found[f"{OTHER}c"].parts, both.variants[0].embed(o.texts), atol=1e-6)
    assert {one.given_revision for one in found.values()} == {o.revision}
    switch(stores, both, turned)
    newer = described(domain, "o", "red shoes", "green hat")
    catalogue(stores, both).upsert([newer], SPACE)
    expect_everywhere(stores, both, [newer])
    served = stores.vectors.find(turned.collection_id, ["o"])["o"]
    assert served.raw is not None
    assert np.allclose(given_rows(served), newer.parts, atol=1e-6)


def test_what_is_unchanged_is_not_written_again_but_brought_where_it_is_missing(
    stores: Stores, domain: SearchDomain, blue: Release
):
    green = follower(stores, domain)
    writer = catalogue(stores, domain)
    writer.upsert([new("o1")], SPACE)
    stores.vectors.delete(green.collection_id, ["o1"])  # as if we had died before bringing it
    written: list[str] = []

    class Watching:
        def __getattr__(self, name: str) -> Any:
            return getattr(stores.vectors, name)

        def upsert(self, collection: str, objects: list[Object]) -> None:
            written.extend([collection] * len(objects))
            stores.vectors.upsert(collection, objects)

    watching: Any = Watching()
    watched = catalogue(
        replace(stores, vectors=watching, mirror=type(stores.mirror)(watching, stores.shaper)), domain
    )
    watched.upsert([new("o1")], SPACE)
    assert written == [green.collection_id]
    watched.upsert([new("o1")], SPACE)
    assert written == [green.collection_id]
    expect_everywhere(stores, domain, [new("o1")])


def test_an_insert_of_what_is_there_writes_nothing(stores: Stores, domain: SearchDomain, blue: Release):
    follower(stores, domain)
    with pytest.raises(Conflict, match="o3"):
        catalogue(stores, domain).insert([new("o9"), new("o3")], SPACE)
    expect_everywhere(stores, domain, make_objects(domain, 6), gone="o9")


def test_objects_that_cannot_be_made_for_a_follower_do_not_fail_the_write(
    stores: Stores, domain: SearchDomain, both: SearchDomain, blue: Release
):
    green = follower(stores, both, space=OTHER)
    catalogue(stores, both).upsert([new("o9"), described(domain, "o8", "red shoes")], SPACE)
    assert given(stores, blue).keys() == {*(f"o{n}" for n in range(6)), "o8", "o9"}
    assert given(stores, green).keys() == {"o8"}


# Trouble


def test_a_follower_that_fails_fails_the_write_which_is_done_when_it_is_sent_again(
    stores: Stores, domain: SearchDomain, blue: Release
):
    green = follower(stores, domain)

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(stores.vectors, name)

        def upsert(self, collection: str, objects: list[Object]) -> None:
            if collection == green.collection_id:
                raise ConnectionError("the store went away")
            stores.vectors.upsert(collection, objects)

    failing: Any = Failing()
    mirror = type(stores.mirror)(failing, stores.shaper)
    with pytest.raises(ConnectionError):
        catalogue(replace(stores, vectors=failing, mirror=mirror), domain).upsert([new("o1")], SPACE)
    assert given(stores, blue)["o1"] == new("o1").revision != given(stores, green)["o1"]
    catalogue(stores, domain).upsert([new("o1")], SPACE)
    expect_everywhere(stores, domain, [new("o1")])


def test_a_store_that_fails_for_what_serves_fails_the_write(
    stores: Stores, domain: SearchDomain, blue: Release
):
    def fail() -> None:
        raise ConnectionError("the store went away")

    vectors: Any = Gap(stores.vectors, "upsert", fail, before=True)
    with pytest.raises(ConnectionError):
        catalogue(replace(stores, vectors=vectors), domain).upsert([new("o1")], SPACE)


def test_a_follower_that_is_deleted_at_any_moment_does_not_fail_a_write(
    stores: Stores, domain: SearchDomain, blue: Release
):
    after, steps = 0, Steps(0, lambda: None)
    while steps.calls >= after:
        after += 1
        green = follower(stores, domain, f"b{after}")
        steps = Steps(after, partial(drop, stores, domain, green))
        writer = steps.around(stores, domain)
        writer.upsert([new("o1", after % 16), new(f"new{after}")], SPACE)
        writer.delete(["o2"])
        assert given(stores, blue)["o1"] == new("o1", after % 16).revision
        stores.vectors.upsert(blue.collection_id, [new("o2")])
    assert after > 12


def test_a_switch_at_any_moment_of_a_write_loses_nothing(stores: Stores, domain: SearchDomain, blue: Release):
    green = follower(stores, domain)
    writes: list[tuple[Callable[[Catalogue, int], None], Callable[[int], list[Object]], str]] = [
        (
            lambda w, n: w.upsert([new("o1", n), new("o9", n)], SPACE),
            lambda n: [new("o1", n), new("o9", n)],
            "",
        ),
        (lambda w, n: w.delete(["o9"]), lambda n: [], "o9"),
    ]
    for write, expected, gone in writes:
        after, steps = 0, Steps(0, lambda: None)
        while steps.calls >= after:
            after += 1
            if gone:
                catalogue(stores, domain).upsert([new(gone)], SPACE)
            other = green if stores.releases.blue(domain.name).collection_id == blue.collection_id else blue
            steps = Steps(after, partial(switch, stores, domain, other))
            write(steps.around(stores, domain), after % 16)
            expect_everywhere(stores, domain, expected(after % 16), gone)
        assert after > 8


def test_a_switch_after_which_the_earlier_collection_is_deleted_at_once_loses_nothing(
    stores: Stores, domain: SearchDomain, blue: Release
):
    after, steps = 0, Steps(0, lambda: None)
    while steps.calls >= after:
        after += 1
        served, green = stores.releases.blue(domain.name), follower(stores, domain, f"b{after}")

        def promote_and_drop(green: Release = green, served: Release = served) -> None:
            switch(stores, domain, green)
            drop(stores, domain, served)

        steps = Steps(after, promote_and_drop)
        steps.around(stores, domain).upsert([new("o1", after % 16), new("o9", after % 16)], SPACE)
        expect_everywhere(stores, domain, [new("o1", after % 16), new("o9", after % 16)])
    assert after > 8


def test_a_collection_that_begins_to_follow_at_any_moment_gets_it_or_is_filled_with_it(
    stores: Stores, domain: SearchDomain, blue: Release
):
    after, steps = 0, Steps(0, lambda: None)
    while steps.calls >= after:
        after += 1
        steps = Steps(after, lambda: follower(stores, domain, f"b{after}") and None)  # noqa: B023
        steps.around(stores, domain).upsert([new("o1", after), new("o9", after)], SPACE)
        expect_everywhere(stores, domain, [new("o1", after), new("o9", after)])
        for release in stores.releases.world(domain.name).followers:
            drop(stores, domain, release)
    assert after >= 5


def test_two_that_write_one_object_leave_every_collection_with_the_same(
    stores: Stores, domain: SearchDomain, blue: Release
):
    follower(stores, domain)
    other = catalogue(stores, domain)
    after, steps = 0, Steps(0, lambda: None)
    while steps.calls >= after:
        after += 1
        steps = Steps(after, lambda: other.upsert([new("o1", 7), new("o2", 8)], SPACE))
        steps.around(stores, domain).upsert([new("o1", 1), new("o3", 2)], SPACE)
        acted = steps.calls >= after
        expect_everywhere(stores, domain, [new("o3", 2), *([new("o2", 8)] if acted else [])])
        steps = Steps(after, lambda: other.delete(["o1", "o2"]))
        steps.around(stores, domain).upsert([new("o1", 1), new("o3", 3)], SPACE)
        expect_everywhere(stores, domain, [new("o3", 3)], gone="o2" if steps.calls >= after else "")


@pytest.mark.parametrize("gone", ["", "o1"])
def test_a_filler_taken_for_dead_that_writes_late_takes_nothing_back(
    stores: Stores, domain: SearchDomain, blue: Release, gone: str
):
    """He read the page before the switch, and brings what is old by then to what serves by then."""
    after, steps = 0, Steps(0, lambda: None)
    while steps.calls >= after:
        after += 1
        served, green = stores.releases.blue(domain.name), follower(stores, domain, f"b{after}")
        catalogue(stores, domain).upsert([new("o1", 9)], SPACE)
        drop_page = stores.vectors.find(served.collection_id, ["o1"])
        switch(stores, domain, green)

        def bring_late(
            served: Release = served, green: Release = green, page: dict[str, Object] = drop_page
        ) -> None:
            nobody: Any = lambda users: None  # noqa: E731
            stores.mirror._bring(domain, served, green, {"o1"}, page, nobody)

        steps = Steps(after, bring_late)
        writer = steps.around(stores, domain)
        if gone:
            writer.delete([gone])
        else:
            writer.upsert([new("o1", after % 8)], SPACE)
        bring_late()
        expect_everywhere(stores, domain, [] if gone else [new("o1", after % 8)], gone)
        for release in stores.releases.world(domain.name).followers:
            drop(stores, domain, release)
    assert after > 8


def test_who_is_overwritten_all_the_time_writes_again_only_so_often_and_is_told(
    stores: Stores, domain: SearchDomain, blue: Release
):
    green = follower(stores, domain)
    mine = 0

    class Busy:
        def __getattr__(self, name: str) -> Any:
            return getattr(stores.vectors, name)

        def upsert(self, collection: str, objects: list[Object]) -> None:
            nonlocal mine
            stores.vectors.upsert(collection, objects)
            if collection == blue.collection_id:
                mine += 1
                stores.vectors.upsert(collection, [new("o1", 15)])

    busy: Any = Busy()
    with pytest.raises(Unavailable, match="others write .'o1'. again and again; send it again"):
        catalogue(replace(stores, vectors=busy), domain).upsert([new("o1", 1)], SPACE)
    assert mine == 1 + REWRITES
    assert given(stores, blue) == given(stores, green)


def test_a_write_that_never_finds_the_same_collection_serving_is_refused(
    stores: Stores, domain: SearchDomain, blue: Release
):
    green = follower(stores, domain)

    class Turning:
        def __getattr__(self, name: str) -> Any:
            return getattr(stores.vectors, name)

        def upsert(self, collection: str, objects: list[Object]) -> None:
            stores.vectors.upsert(collection, objects)
            stores.vectors.delete(collection, [o.object_id for o in objects])
            serving = stores.releases.blue(domain.name)
            switch(stores, domain, green if serving.collection_id == blue.collection_id else blue)

    turning: Any = Turning()
    with pytest.raises(Unavailable, match="again and again"):
        catalogue(replace(stores, vectors=turning), domain).upsert([new("o1")], SPACE)


def test_an_object_that_cannot_be_made_for_what_begins_to_serve_is_refused_and_left_nowhere(
    stores: Stores, domain: SearchDomain, both: SearchDomain, blue: Release
):
    catalogue(stores, both).delete([f"o{n}" for n in range(6)])
    catalogue(stores, both).upsert([described(domain, "o1", "red shoes")], SPACE)
    green = follower(stores, both, space=OTHER)
    steps = Steps(4, partial(switch, stores, both, green))  # behind the write to what served
    with pytest.raises(Conflict, match="'o1' cannot be made for the space 'words-v2'.*1 texts"):
        steps.around(stores, both).upsert([described(domain, "o2", "hat"), new("o1")], SPACE)
    expect_everywhere(stores, both, [described(domain, "o1", "red shoes")], gone="o2")
    catalogue(stores, both).upsert([described(domain, "o3", "blue hat")], SPACE)
    expect_everywhere(stores, both, [described(domain, "o3", "blue hat")])


# Parts that are kept


def test_parts_that_are_not_named_stay_as_they_were_given_texts_too(
    stores: Stores, domain: SearchDomain, blue: Release, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("improvement.green.shapes.turned", lambda rows, targets, *_: (rows + targets) / 2)
    green = follower(stores, domain, "b")
    stores.population.save("b", ["o"], np.eye(DIMENSIONS, dtype=np.float32)[5][None], [0.1])
    switch(stores, domain, green)
    writer = catalogue(stores, domain)
    body = {
        "object_id": "o",
        "parts": [
            {"part_id": "p", "text": "red"}, {"part_id": "q", "vector": [1.0] * DIMENSIONS},
            {"part_id": "mean", "text": "all", "is_average": True},
        ],
    }  # fmt: skip
    first = to_objects([ObjectBody.model_validate(body)], domain)
    writer.upsert(first, SPACE)
    more = {
        "object_id": "o",
        "parts": [{"part_id": "r", "text": "blue"}, {"part_id": "mean", "text": "both", "is_average": True}],
    }
    second = to_objects([ObjectBody.model_validate(more)], domain)
    writer.upsert(second, SPACE, shrink_parts=False)
    found = stores.vectors.find(green.collection_id, ["o"])["o"]
    assert found.part_ids == ("r", "p", "q")
    assert found.texts == ("blue", "red", None, "both")
    assert found.raw is not None
    rows = np.concatenate([second[0].parts, first[0].parts, second[0].average[None]])  # type: ignore[index]
    assert np.allclose(found.raw, rows, atol=1e-6)
    assert not np.allclose(found.parts, rows[:3], atol=0.1)
    bare = make_object("o", np.eye(DIMENSIONS, dtype=np.float32)[1])
    writer.upsert([replace(bare, part_ids=("s",))], SPACE, shrink_parts=False)
    merged = stores.vectors.find(green.collection_id, ["o"])["o"]
    assert (merged.part_ids, merged.texts) == (("s", "r", "p", "q"), (None, "blue", "red", None))
    assert merged.average is None
    expect_everywhere(stores, domain, [merged])


def test_what_needs_vectors_of_the_space_that_serves_is_to_be_sent_again_when_it_is_another(
    stores: Stores, domain: SearchDomain, both: SearchDomain, blue: Release
):
    catalogue(stores, both).delete([f"o{n}" for n in range(6)])
    switch(stores, both, follower(stores, both, space=OTHER))
    writer = catalogue(stores, both)
    with pytest.raises(Unavailable, match="words-v2.*send it again"):
        writer.upsert([described(domain, "o", "red")], SPACE, shrink_parts=False)
    with pytest.raises(Unavailable, match="words-v2.*send it again"):
        writer.upsert([copy_of(new("o1"), "ann")], SPACE)
    writer.upsert([described(domain, "o", "red")], SPACE)  # it has texts
    expect_everywhere(stores, both, [described(domain, "o", "red")])


# Copies


def test_copies_of_what_changes_go_everywhere_and_their_users_are_queued(
    stores: Stores, domain: SearchDomain, blue: Release
):
    green = follower(stores, domain)
    objects = make_objects(domain, 6)
    stores.vectors.upsert(blue.collection_id, [copy_of(objects[1], "ann"), copy_of(objects[2], "bob")])
    stores.vectors.upsert(green.collection_id, [copy_of(objects[1], "ann"), copy_of(objects[1], "eve")])
    stores.vectors.upsert(green.collection_id, [copy_of(objects[3], "fay")])
    woken: list[int] = []
    writer = catalogue(replace(stores, wake=lambda: woken.append(1)), domain)
    writer.upsert([new("o1"), objects[2]], SPACE)
    left = [
        (release, copy.user_id)
        for release in (blue, green)
        for copy in stores.vectors.copies(release.collection_id, ["ann", "bob", "eve", "fay"])
    ]
    assert left == [(blue, "bob"), (green, "fay")]
    assert pending(stores, domain) == {"ann", "eve"}
    assert woken
    writer.delete(["o2", "o3"])
    assert stores.vectors.copies(blue.collection_id, ["bob"]) == []
    assert stores.vectors.copies(green.collection_id, ["fay"]) == []
    assert pending(stores, domain) == {"ann", "eve", "bob", "fay"}


def test_copies_of_what_another_writer_wrote_in_between_go_with_it(
    stores: Stores, domain: SearchDomain, blue: Release
):
    def meanwhile() -> None:  # another writes the same new object, and a user gets a copy of that
        stores.vectors.upsert(blue.collection_id, [new("o9", 1), copy_of(new("o9", 1), "ann")])

    vectors: Any = Gap(stores.vectors, "upsert", meanwhile, before=True)
    catalogue(replace(stores, vectors=vectors), domain).upsert([new("o9", 2)], SPACE)
    assert stores.vectors.copies(blue.collection_id, ["ann"]) == []
    assert pending(stores, domain) == {"ann"}


@pytest.mark.parametrize("method", ["upsert", "delete_copies_of"])
def test_dying_while_an_original_is_replaced_leaves_its_users_queued(
    stores: Stores, domain: SearchDomain, blue: Release, method: str
):
    def die() -> None:
        raise SystemExit

    stores.vectors.upsert(blue.collection_id, [copy_of(make_objects(domain, 2)[1], "ann")])
    vectors: Any = Gap(stores.vectors, method, die)
    with pytest.raises(SystemExit):
        catalogue(replace(stores, vectors=vectors), domain).upsert([new("o1")], SPACE)
    assert pending(stores, domain) == {"ann"}


def test_copies_that_callers_write_go_where_their_space_is(
    stores: Stores, domain: SearchDomain, both: SearchDomain, blue: Release
):
    green, other = follower(stores, both, "b"), follower(stores, both, "c", OTHER)
    body = {"object_id": "o1", "user_id": "ann", "parts": [{"text": "red shoes"}]}
    copies = to_objects([ObjectBody.model_validate(body)], domain)
    assert copies[0].texts == ()
    changed = new("o1")
    catalogue(stores, both).upsert([*copies, changed], SPACE)
    held = {
        r.space + str(r.build): stores.vectors.copies(r.collection_id, ["ann"]) for r in (blue, green, other)
    }
    assert {name: len(of) for name, of in held.items()} == {f"{SPACE}None": 1, f"{SPACE}b": 1, f"{OTHER}c": 0}


# Collections by name


def test_a_collection_made_by_hand_is_written_alone(stores: Stores, domain: SearchDomain, blue: Release):
    green, hand = follower(stores, domain), stores.releases.create(domain, "by-hand")
    before = given(stores, blue)
    writer = catalogue(stores, domain, hand)
    writer.insert([new("o1"), new("o2")], "by-hand")
    with pytest.raises(Conflict, match="o2"):
        writer.insert([new("o2"), new("o3")], "by-hand")
    writer.upsert([new("o1", 4), copy_of(new("o1"), "ann")], "by-hand")
    writer.delete(["o2"])
    assert given(stores, hand) == {"o1": new("o1", 4).revision}
    assert [copy.user_id for copy in stores.vectors.copies(hand.collection_id, ["ann"])] == ["ann"]
    assert given(stores, blue) == given(stores, green) == before
    drop(stores, domain, hand)
    with pytest.raises(KeyError):  # as the store says it
        writer.upsert([new("o1")], "by-hand")


def test_a_collection_made_by_hand_that_begins_to_serve_is_written_as_what_serves(
    stores: Stores, domain: SearchDomain, blue: Release
):
    green, hand = follower(stores, domain), stores.releases.create(domain, "by-hand")
    stores.vectors.upsert(hand.collection_id, make_objects(domain, 6))
    vectors: Any = Gap(stores.vectors, "upsert", lambda: switch(stores, domain, hand))
    sent = [described(domain, "o1", "red shoes")]
    catalogue(replace(stores, vectors=vectors), domain, hand).upsert(sent, "by-hand")
    assert given(stores, hand)["o1"] == sent[0].revision
    assert given(stores, green)["o1"] == given(stores, blue)["o1"] == sent[0].revision


@pytest.mark.parametrize("method", ["revisions", "upsert"])
def test_a_collection_that_begins_to_follow_is_written_by_nobody_else(
    stores: Stores, domain: SearchDomain, blue: Release, method: str
):
    hand = stores.releases.create(domain, "by-hand", space=SPACE)
    vectors: Any = Gap(stores.vectors, method, lambda: stores.releases.follow(hand, True))
    with pytest.raises(Conflict, match="'by-hand' is kept in line with the one that serves, 'words-v1'"):
        catalogue(replace(stores, vectors=vectors), domain, hand).upsert([new("o1")], SPACE)
    stores.mirror.reconcile(domain, blue, hand)
    assert given(stores, hand) == given(stores, blue)


def test_over_http_followers_are_kept_in_line_and_not_written(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain
):
    blue = filled(rooms, domain)
    green = follower(rooms, domain)
    parts = [{"text": "red shoes"}]
    sent = {"objects": [{"object_id": "o1", "parts": parts}, {"object_id": "o9", "parts": parts}]}
    assert service.put("/api/v1/objects", json=sent).json() == {"written": 2}
    assert given(rooms, green) == given(rooms, blue)
    assert rooms.vectors.find(green.collection_id, ["o9"])["o9"].texts == ("red shoes",)
    assert service.delete("/api/v1/objects", params={"object_id": ["o9"]}).status_code == 200
    assert given(rooms, green) == given(rooms, blue)
    path = "/api/v1/internal/vectordb/collections/objects"
    named = {"embedding_model_id": green.embedding_model_id}
    for action, body in (("insert", sent), ("upsert", sent), ("delete", {"object_ids": ["o1"]})):
        answer = service.post(f"{path}/{action}", json=named | body)
        assert answer.status_code == 409
        assert "write there" in answer.json()["detail"]
    blue_named = {"embedding_model_id": blue.embedding_model_id}
    assert service.post(f"{path}/upsert", json=blue_named | sent).status_code == 200
    assert service.post(f"{path}/delete", json=blue_named | {"object_ids": ["o1", "o2"]}).status_code == 200
    assert given(rooms, green) == given(rooms, blue)
    assert given(rooms, green).keys() == {"o0", "o3", "o4", "o5", "o9"}
    found = service.post(f"{path}/find-by-ids", json=named | {"object_ids": ["o9"]}).json()
    assert found[0]["object_id"] == "o9"


def test_over_http_texts_are_embedded_in_the_space_that_serves(rooms: Rooms, both: SearchDomain):
    blue = rooms.releases.blue(both.name)
    green = follower(rooms, both, space=OTHER)
    switch(rooms, both, green)
    with serving(create_app(replace(rooms, domains={both.name: both}))) as client:
        body = {
            "objects": [{"object_id": "o", "parts": [{"text": "red"}, {"text": "hat", "is_average": True}]}]
        }
        assert client.put("/api/v1/objects", json=body).json() == {"written": 1}
        wrong = {"objects": [{"object_id": "p", "parts": [{"vector": [1.0] * DIMENSIONS}]}]}
        assert "expected 8 dimensions" in client.put("/api/v1/objects", json=wrong).json()["detail"]
        raw = '{"objects": [{"object_id": "q", "parts": [{"text": "\\ud800"}]}]}'
        assert client.put("/api/v1/objects", content=raw).status_code == 422
    here, there = (rooms.vectors.find(r.collection_id, ["o"])["o"] for r in (green, blue))
    assert np.allclose(here.parts, both.variants[0].embed(["red"]), atol=1e-6)
    assert np.allclose(there.parts, both.embed(["red"]), atol=1e-6)
    assert there.average is not None
    assert np.allclose(there.average, both.embed(["hat"])[0], atol=1e-6)
    assert here.texts == there.texts == ("red", "hat")
    expect_everywhere(rooms, both, [here])


# What is remembered of a text


def test_texts_are_remembered_part_by_part_and_the_average_last(domain: SearchDomain):
    vector = [1.0] * DIMENSIONS

    def made(*parts: dict[str, Any]) -> Object:
        return to_objects([ObjectBody.model_validate({"object_id": "o", "parts": list(parts)})], domain)[0]

    assert made({"text": "a"}, {"vector": vector}).texts == ("a", None)
    assert made({"text": "mean", "is_average": True}, {"text": "a"}, {"vector": vector}).texts == (
        "a", None, "mean",
    )  # fmt: skip
    assert made({"text": "all", "is_average": True}).texts == ("all", "all")
    assert made({"vector": vector}).texts == ()
    assert made({"text": "a"}).revision != made({"text": "b"}).revision
    as_vector = {"vector": domain.embed(["a"])[0].tolist()}
    assert made({"text": "a"}).revision != made(as_vector).revision, "another encoder tells them apart"

"""Two collections in line, while both are being written."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from improvement.domain import SearchDomain
from improvement.errors import Conflict
from improvement.green.mirror import ROUNDS, Mirror
from improvement.objects import Object
from improvement.releases import Release
from improvement.schemas import with_revision
from improvement.vectors import VectorStore
from improvement.wiring import Rooms
from tests.support import Gap, WordEncoder, make_domain, make_object, make_objects

SPACE = "words-v1"


@pytest.fixture
def blue(rooms: Rooms, domain: SearchDomain) -> Release:
    return rooms.releases.blue(domain.name)


@pytest.fixture
def green(rooms: Rooms, domain: SearchDomain) -> Release:
    made = rooms.releases.create(domain, f"{SPACE}@1", space=SPACE, build="1")
    rooms.releases.follow(made, True)
    return rooms.releases.get(domain.name, made.embedding_model_id)


@pytest.fixture
def originals(rooms: Rooms, domain: SearchDomain, blue: Release) -> list[Object]:
    objects = make_objects(domain, 9)
    rooms.vectors.upsert(blue.collection_id, objects)
    return objects


def around(rooms: Rooms, method: str, act: Callable[[], None], before: bool = False) -> Mirror:
    """A mirror with something happening once, before or after one of its calls."""
    between: Any = Gap(rooms.vectors, method, act, before)
    return Mirror(between, rooms.shaper)


def changed(object_id: str, number: int = 0) -> Object:
    return make_object(object_id, np.eye(16, dtype=np.float32)[number], payload={"changed": number})


def copy_of(original: Object, user: str) -> Object:
    return replace(
        original, object_id=f"{original.object_id}_{user}", user_id=user, original_id=original.object_id
    )


def in_line(rooms: Rooms, one: Release, other: Release) -> bool:
    differing = [
        i for pair in ((one, other), (other, one)) for ids in rooms.mirror.differing(*pair) for i in ids
    ]
    return not differing


def ids(rooms: Rooms, release: Release) -> set[str]:
    return {o.object_id for o in rooms.vectors.page(release.collection_id, 100)[0]}


def test_a_collection_is_filled_page_by_page(
    rooms: Rooms, domain: SearchDomain, blue: Release, green: Release, originals: list[Object]
):
    after, pages = None, []
    while True:
        brought, count, after = rooms.mirror.fill(domain, blue, green, 4, after)
        assert (brought.written, brought.deleted, brought.failed) == (count, 0, {})
        pages.append(count)
        if after is None:
            break
    assert pages == [4, 4, 1]
    found = rooms.vectors.find(green.collection_id, [o.object_id for o in originals])
    for o in originals:
        assert np.allclose(found[o.object_id].parts, o.parts, atol=1e-6)
        assert (found[o.object_id].revision, found[o.object_id].payload) == (o.revision, o.payload)
    again, count, _ = rooms.mirror.fill(domain, blue, green, 100, None)
    assert (again.written, count) == (0, 9), "what is in line is not written again"


def test_what_was_named_is_brought_and_what_vanished_is_deleted(
    rooms: Rooms, domain: SearchDomain, blue: Release, green: Release, originals: list[Object]
):
    rooms.vectors.upsert(green.collection_id, [changed("o1"), changed("o2"), changed("gone"), changed("o5")])
    brought = rooms.mirror.bring(domain, blue, green, ["o1", "o2", "o3", "gone", "nowhere"])
    assert (brought.written, brought.deleted, brought.failed) == (3, 1, {})
    found = rooms.vectors.revisions(green.collection_id, ["o1", "o2", "o3", "o5", "gone"])
    assert found.keys() == {"o1", "o2", "o3", "o5"}
    assert all(found[f"o{n}"].given == originals[n].revision for n in (1, 2, 3))
    assert found["o5"].given != originals[5].revision, "it was not named"
    assert rooms.mirror.bring(domain, blue, green, []).written == 0


def test_a_comparison_of_everything_finds_what_is_other_missing_or_too_much(
    rooms: Rooms, domain: SearchDomain, blue: Release, green: Release, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("improvement.green.mirror.PAGE", 3)
    objects = make_objects(domain, 10)
    rooms.vectors.upsert(blue.collection_id, objects)
    rooms.vectors.upsert(green.collection_id, [*objects[:6], changed("o3"), changed("x"), changed("y")])
    rooms.vectors.upsert(green.collection_id, [copy_of(objects[0], "ann")])
    found = [i for page in rooms.mirror.differing(blue, green) for i in page]
    assert sorted(found) == ["o3", "o6", "o7", "o8", "o9", "x", "y"]
    counted: list[int] = []
    brought = rooms.mirror.reconcile(domain, blue, green, counted.append)
    assert (brought.written, brought.deleted, sum(counted)) == (5, 2, 7)
    assert in_line(rooms, blue, green)
    assert rooms.vectors.copies(green.collection_id, ["ann"]), "copies are nobody's business here"


def test_comparing_is_possible_where_there_is_nothing(
    rooms: Rooms, domain: SearchDomain, blue: Release, green: Release
):
    assert list(rooms.mirror.differing(blue, green)) == [[], []]
    assert rooms.mirror.fill(domain, blue, green, 10, None)[1:] == (0, None)


@pytest.mark.parametrize("before", [True, False])
def test_an_object_that_changes_while_it_is_brought_arrives_as_it_is_at_the_end(
    rooms: Rooms, domain: SearchDomain, blue: Release, green: Release, originals: list[Object], before: bool
):
    for n, method in enumerate(("find", "revisions", "upsert")):
        newer = changed(f"o{n}", 3)
        racing = around(rooms, method, partial(rooms.vectors.upsert, blue.collection_id, [newer]), before)
        racing.bring(domain, blue, green, [f"o{n}", "o5"])
        assert in_line_of(rooms, blue, green, [f"o{n}", "o5"]), method
        assert rooms.vectors.revisions(green.collection_id, [f"o{n}"])[f"o{n}"].given == newer.revision


@pytest.mark.parametrize("before", [True, False])
def test_an_object_that_is_deleted_while_it_is_brought_is_not_there_at_the_end(
    rooms: Rooms, domain: SearchDomain, blue: Release, green: Release, originals: list[Object], before: bool
):
    for n, method in enumerate(("find", "revisions", "upsert")):
        racing = around(rooms, method, partial(rooms.vectors.delete, blue.collection_id, [f"o{n}"]), before)
        racing.bring(domain, blue, green, [f"o{n}", "o5"])
        assert ids(rooms, green) == {"o5"}, method


def test_an_object_that_is_deleted_while_its_page_is_filled_does_not_come_back(
    rooms: Rooms, domain: SearchDomain, blue: Release, green: Release, originals: list[Object]
):
    def delete_everywhere(object_id: str) -> None:  # as the catalogue does
        rooms.vectors.delete(blue.collection_id, [object_id])
        rooms.mirror.bring(domain, blue, green, [object_id])

    for n, method in enumerate(("page", "revisions", "upsert")):
        around(rooms, method, partial(delete_everywhere, f"o{n}")).fill(domain, blue, green, 100, None)
        assert ids(rooms, green) == {o.object_id for o in originals[n + 1 :]}, method
        rooms.vectors.delete(green.collection_id, [o.object_id for o in originals])


def test_an_object_that_changes_back_is_brought_as_it_is(
    rooms: Rooms, domain: SearchDomain, blue: Release, green: Release, originals: list[Object]
):
    def there_and_back() -> None:
        rooms.vectors.upsert(blue.collection_id, [changed("o4")])
        rooms.mirror.bring(domain, blue, green, ["o4"])
        rooms.vectors.upsert(blue.collection_id, [originals[4]])

    around(rooms, "find", there_and_back).bring(domain, blue, green, ["o4"])
    assert in_line_of(rooms, blue, green, ["o4"])


def in_line_of(rooms: Rooms, one: Release, other: Release, object_ids: Sequence[str]) -> bool:
    held = [
        {i: found.given for i, found in rooms.vectors.revisions(r.collection_id, object_ids).items()}
        for r in (one, other)
    ]
    return held[0] == held[1]


def test_what_changes_while_everything_is_compared_is_in_line_in_the_end(
    rooms: Rooms, domain: SearchDomain, blue: Release, green: Release, originals: list[Object]
):
    writes = iter([changed("o0", 1), changed("new", 2), changed("o8", 3), changed("o0", 4)])

    class Busy:
        """Each page that is read brings a write, which its writer carries to the follower himself."""

        def __getattr__(self, name: str) -> Any:
            return getattr(rooms.vectors, name)

        def revision_page(self, *args: Any) -> Any:
            page = rooms.vectors.revision_page(*args)
            if (written := next(writes, None)) is not None:
                rooms.vectors.upsert(blue.collection_id, [written])
                rooms.mirror.bring(domain, blue, green, [written.object_id])
            return page

    busy: Any = Busy()
    Mirror(busy, rooms.shaper).reconcile(domain, blue, green)
    assert in_line(rooms, blue, green)


def test_an_object_that_never_stands_still_is_given_up(
    rooms: Rooms, domain: SearchDomain, blue: Release, green: Release, originals: list[Object]
):
    rounds = 0

    class Busy:
        def __getattr__(self, name: str) -> Any:
            return getattr(rooms.vectors, name)

        def find(self, collection: str, object_ids: Any) -> Any:
            nonlocal rounds
            found = rooms.vectors.find(collection, object_ids)
            rounds += 1
            rooms.vectors.upsert(collection, [make_object("o4", np.ones(16), payload={"round": rounds})])
            return found

    busy: Any = Busy()
    with pytest.raises(Conflict, match=f"o4.*{ROUNDS} times"):
        Mirror(busy, rooms.shaper).bring(domain, blue, green, ["o4"])
    assert rounds == ROUNDS + 1


def test_the_last_round_may_be_the_one_that_does_it(
    rooms: Rooms, domain: SearchDomain, blue: Release, green: Release, originals: list[Object],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr("improvement.green.mirror.ROUNDS", 1)
    assert rooms.mirror.bring(domain, blue, green, ["o4"]).written == 1


def test_a_latecomer_who_brings_what_is_old_puts_it_right_himself(
    rooms: Rooms, domain: SearchDomain, blue: Release, green: Release, originals: list[Object]
):
    """He read before the switch and writes after it, to what serves by then."""
    newer = changed("o4", 5)

    def switch_and_write() -> None:
        rooms.releases.follow(blue, True)
        rooms.releases.set_blue(domain.name, green.embedding_model_id)
        rooms.vectors.upsert(green.collection_id, [newer])
        rooms.mirror.bring(domain, green, blue, ["o4"])

    around(rooms, "upsert", switch_and_write, before=True).bring(domain, blue, green, ["o4"])
    for release in (blue, green):
        assert rooms.vectors.revisions(release.collection_id, ["o4"])["o4"].given == newer.revision


# Copies


def test_copies_of_what_is_replaced_are_deleted_and_their_users_told_of_before_and_after(
    rooms: Rooms, domain: SearchDomain, blue: Release, green: Release, originals: list[Object]
):
    rooms.vectors.upsert(green.collection_id, [*originals[:3], changed("gone")])
    theirs = [copy_of(originals[0], "ann"), copy_of(originals[1], "bob"), copy_of(changed("gone"), "eve")]
    rooms.vectors.upsert(green.collection_id, theirs)
    rooms.vectors.upsert(blue.collection_id, [changed("o1")])
    told: list[tuple[set[str], int]] = []

    def renewing(users: set[str]) -> None:
        told.append((users, len(rooms.vectors.copies(green.collection_id, list(users)))))

    rooms.mirror.bring(domain, blue, green, ["o0", "o1", "o2", "o3", "gone"], renewing)
    assert told == [({"bob"}, 1), ({"bob"}, 0), ({"eve"}, 1), ({"eve"}, 0)]
    left = rooms.vectors.copies(green.collection_id, ["ann", "bob", "eve"])
    assert [copy.user_id for copy in left] == ["ann"]


def test_a_copy_of_what_was_there_before_that_is_made_meanwhile_is_deleted_and_its_user_told_of(
    rooms: Rooms, domain: SearchDomain, blue: Release, green: Release, originals: list[Object]
):
    rooms.vectors.upsert(green.collection_id, [changed("o1")])
    stale = copy_of(changed("o1"), "ann")
    racing = around(rooms, "upsert", lambda: rooms.vectors.upsert(green.collection_id, [stale]), before=True)
    told: list[set[str]] = []
    racing.bring(domain, blue, green, ["o1"], told.append)
    assert told == [{"ann"}, {"ann"}]
    assert rooms.vectors.copies(green.collection_id, ["ann"]) == []


# Other shapes


@pytest.fixture
def spaces(rooms: Rooms, domain: SearchDomain) -> tuple[SearchDomain, Release]:
    other = make_domain(domain.name, dimensions=8, encoder=WordEncoder(8, "words-v2"))
    both = replace(domain, variants=(other,))
    release = rooms.releases.create(other, "words-v2@1", space="words-v2", build="1")
    return both, release


def described(domain: SearchDomain, object_id: str, text: str) -> Object:
    return with_revision(Object(object_id, domain.embed([text]), (f"{object_id}:0",), texts=(text,)))


def test_what_cannot_be_made_for_a_collection_stays_in_it_as_it_was_unless_it_is_to_go(
    rooms: Rooms, domain: SearchDomain, blue: Release, spaces: tuple[SearchDomain, Release]
):
    both, other = spaces
    rooms.vectors.upsert(blue.collection_id, [described(domain, f"o{n}", f"word {n}") for n in range(4)])
    assert rooms.mirror.reconcile(both, blue, other).written == 4
    rooms.vectors.upsert(blue.collection_id, [changed("o1"), changed("o9")])  # without texts
    brought = rooms.mirror.bring(both, blue, other, ["o0", "o1", "o9"])
    assert (brought.written, brought.deleted, brought.failed.keys()) == (0, 0, {"o1", "o9"})
    assert ids(rooms, other) == {"o0", "o1", "o2", "o3"}
    assert rooms.mirror.reconcile(both, blue, other).failed.keys() == {"o1", "o9"}, "it differs still"
    brought = rooms.mirror.bring(both, blue, other, ["o0", "o1", "o9"], keeping=False)
    assert (brought.written, brought.deleted, brought.failed.keys()) == (0, 1, {"o1", "o9"})
    assert ids(rooms, other) == {"o0", "o2", "o3"}


def test_a_comparison_may_leave_alone_what_the_other_has_by_itself(
    rooms: Rooms, domain: SearchDomain, blue: Release, green: Release, originals: list[Object]
):
    rooms.vectors.upsert(green.collection_id, [changed("alone"), changed("o3")])
    brought = rooms.mirror.reconcile(domain, blue, green, deleting=False)
    assert (brought.written, brought.deleted) == (9, 0)
    assert ids(rooms, green) == {o.object_id for o in originals} | {"alone"}


def test_what_failed_and_can_be_made_by_the_end_did_not_fail(
    rooms: Rooms, domain: SearchDomain, blue: Release, spaces: tuple[SearchDomain, Release]
):
    both, other = spaces
    rooms.vectors.upsert(blue.collection_id, [changed("o1"), changed("o2")])

    def describe() -> None:
        rooms.vectors.upsert(blue.collection_id, [described(domain, "o1", "red shoes")])

    brought = around(rooms, "find", describe).bring(both, blue, other, ["o1", "o2"])
    assert brought.failed.keys() == {"o2"}
    assert ids(rooms, other) == {"o1"}


def test_there_and_back_through_another_space_an_object_stays_what_it_is(
    rooms: Rooms, domain: SearchDomain, blue: Release, spaces: tuple[SearchDomain, Release]
):
    both, other = spaces
    o = described(domain, "o", "red shoes")
    rooms.vectors.upsert(blue.collection_id, [o])
    rooms.mirror.bring(both, blue, other, ["o"])
    assert in_line(rooms, blue, other)
    assert rooms.mirror.bring(both, other, blue, ["o"]).written == 0
    back = rooms.releases.create(domain, f"{SPACE}@2", space=SPACE, build="2")
    rooms.mirror.bring(both, other, back, ["o"])
    made = VectorStore(rooms.vectors._client).find(back.collection_id, ["o"])["o"]
    assert np.allclose(made.parts, o.parts, atol=1e-6)
    assert made.given_revision == o.revision

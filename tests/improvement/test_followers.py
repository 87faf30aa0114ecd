"""Copies in every collection that follows the serving one, each in its own space; and trouble in one."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from clickstream.improvement_queue import Owner
from clickstream.records import QueryVector
from improvement.domain import SearchDomain
from improvement.improver import Improver
from improvement.jobs import improve_users
from improvement.promotion import rebuild_all
from improvement.wiring import Rooms, improver
from tests.improvement.two_spaces import FIRST, SECOND, TEXTS, Worlds, in_two_spaces
from tests.support import Calls, Gap, WordEncoder, click, make_object, make_session


class Fussy(WordEncoder):
    """Explodes on one word more, when it is told to."""

    def __init__(self, dimensions: int, model_id: str) -> None:
        super().__init__(dimensions, model_id)
        self.refused = "nothing"

    def encode(self, texts: Any) -> Any:
        if any(self.refused in text for text in texts):
            raise RuntimeError(f"{self.refused} is too much")
        return super().encode(texts)


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return in_two_spaces(replace(domain, encoder=Fussy(16, FIRST)), encoder=Fussy(24, SECOND))


@pytest.fixture
def worlds(rooms: Rooms, domain: SearchDomain) -> Worlds:
    return Worlds(rooms, domain)


def encoders(worlds: Worlds) -> tuple[Fussy, Fussy]:
    first, second = worlds.domain.encoder, worlds.domain.variants[0].encoder
    assert isinstance(first, Fussy)
    assert isinstance(second, Fussy)
    return first, second


def test_every_follower_has_the_copies_it_would_have_alone(worlds: Worlds):
    other_space, same_space = worlds.green(), worlds.green("words-v1@b", FIRST)
    blue = worlds.rooms.releases.blue(worlds.domain.name)
    worlds.search("s1", "ann")
    worlds.search("s2", "ann", "o4", query="old things")
    worlds.search("s3", "bob", "o2")
    assert worlds.improve() == 3
    made = {release.collection_id: worlds.copies(release) for release in (blue, other_space, same_space)}
    assert {len(of) for of in made.values()} == {2 * len(TEXTS)}
    assert made[blue.collection_id] == made[same_space.collection_id]
    for release in (other_space, same_space, blue):
        assert worlds.alone(release) == made[release.collection_id]


def test_what_is_green_and_does_not_follow_gets_no_copies(worlds: Worlds):
    green = worlds.green(follows=False)
    worlds.search("s", "ann")
    worlds.improve()
    assert worlds.copies(green) == {}


def test_each_text_is_embedded_once_a_space_and_remembered_in_the_serving_one(worlds: Worlds):
    worlds.green(), worlds.green("words-v2@b")
    first, second = encoders(worlds)
    for n, user in enumerate(("ann", "bob", "cid")):
        worlds.search(f"s{n}", user)
    worlds.search("t", "ann", "o4", query="old things")
    first.calls.clear(), second.calls.clear()
    worlds.improve()
    assert [sorted(texts) for texts in first.calls] == [["old things", "red shoes"]]
    assert [sorted(texts) for texts in second.calls] == [["old things", "red shoes"]]
    [known] = worlds.rooms.clickstream.sessions(["t"])
    assert known.query_vector.model_id == FIRST
    worlds.again("ann")
    first.calls.clear()
    worlds.improve()
    assert first.calls == []


def test_a_query_that_is_a_vector_of_a_followers_space_teaches_only_there(worlds: Worlds):
    green = worlds.green()
    session = make_session("s", "ann", list(TEXTS), "", domain=worlds.domain.name)
    vector = worlds.domain.variants[0].embed(["red shoes"])[0].tolist()
    worlds.rooms.clickstream.register(session, QueryVector(model_id=SECOND, vectors=(tuple(vector),)))
    worlds.rooms.clickstream.push_events([("s", click("o1"))])
    worlds.ask("s", "ann")
    worlds.improve()
    assert worlds.status("s") == "skipped"
    assert worlds.copies(worlds.rooms.releases.blue(worlds.domain.name)) == {}
    assert len(worlds.copies(green)) == len(TEXTS)
    assert worlds.rooms.clickstream.sessions(["s"])[0].query_vector.model_id == SECOND


def test_what_fails_in_a_follower_is_done_in_the_serving_one_and_takes_nothing_away(worlds: Worlds):
    green = worlds.green()
    blue = worlds.rooms.releases.blue(worlds.domain.name)
    worlds.search("s1", "ann")
    worlds.improve()
    before = worlds.copies(green)
    encoders(worlds)[1].refused = "shoes"
    worlds.search("s2", "ann", "o4", query="old things")
    worlds.search("s3", "bob", query="old things")
    worlds.improve()
    assert {worlds.status(s) for s in ("s1", "s2", "s3")} == {"done"}
    assert worlds.copies(green, ["ann"]) == before
    assert len(worlds.copies(green, ["bob"])) == len(TEXTS), "who has nothing to do with it"
    assert len(worlds.copies(blue)) == 2 * len(TEXTS)
    encoders(worlds)[1].refused = "nothing"
    worlds.again("ann")
    worlds.improve()
    assert worlds.copies(green) == worlds.alone(green)


def test_what_fails_in_the_serving_one_teaches_no_follower(worlds: Worlds):
    green = worlds.green()
    worlds.search("s1", "ann", "o4", query="old things")
    worlds.improve()
    encoders(worlds)[0].refused = "shoes"
    worlds.search("s2", "ann")
    worlds.improve()
    assert worlds.status("s2") == "failed"
    made = worlds.copies(green)
    worlds.again("ann")
    worlds.improve()
    assert worlds.copies(green) == made == worlds.alone(green)


def test_store_calls_grow_with_the_collections_and_not_with_the_batch(worlds: Worlds):
    def calls(name: str, users: int) -> int:
        for n in range(users):
            worlds.search(f"{name} {n}", f"{name} {n}", query=f"{name} {n}")
        counted = Calls()
        assert improve_users(counted.around(worlds.improver), 1_000).ended == users
        return counted.calls

    one = calls("a", 2)
    assert calls("b", 20) == one
    worlds.green()
    two = calls("c", 2)
    assert calls("d", 20) == two
    worlds.green("words-v2@b")
    assert calls("e", 20) - two == two - one


@pytest.mark.parametrize("after", range(1, 18, 4))
def test_a_collection_that_begins_to_follow_at_any_moment_has_every_copy_afterwards(
    worlds: Worlds, after: int
):
    greens = []

    def begin() -> None:
        greens.append(worlds.green())
        worlds.again("ann", "bob")  # as a build does when it has filled it

    worlds.search("s1", "ann")
    worlds.search("s2", "bob", "o4")
    calls = Calls(after, begin)
    improve_users(calls.around(worlds.improver), 100)
    assert calls.calls >= after
    worlds.improve()
    assert worlds.rooms.queue.counts()["pending"] == 0
    assert worlds.copies(greens[0]) == worlds.alone(greens[0])
    assert len(worlds.copies(greens[0])) == 2 * len(TEXTS)


@pytest.mark.parametrize("after", range(1, 27, 5))
def test_a_switch_at_any_moment_leaves_every_copy_in_what_serves_and_in_what_served(
    worlds: Worlds, after: int
):
    name, releases = worlds.domain.name, worlds.rooms.releases
    blue, green = releases.blue(name), worlds.green()

    def switch() -> None:
        releases.follow(blue, True)
        releases.set_blue(name, SECOND)
        rebuild_all(releases, worlds.rooms.queue, worlds.rooms.profiles, name)

    worlds.search("s", "ann")
    calls = Calls(after, switch)
    improve_users(calls.around(worlds.improver), 100)
    assert calls.calls >= after
    worlds.improve()
    assert worlds.status("s") == "done"
    for release in (green, blue):
        assert len(worlds.copies(release)) == len(TEXTS)
        assert worlds.copies(release) == worlds.alone(release)


def test_what_began_to_follow_while_a_user_was_improved_leaves_the_user_pending(worlds: Worlds):
    greens = []
    worlds.search("s", "ann")
    began: Any = Gap(worlds.rooms.vectors, "upsert", lambda: greens.append(worlds.green()))
    assert improve_users(replace(worlds.improver, vectors=began), 10) == (1, 0)
    assert improve_users(worlds.improver, 10) == (1, 1)
    assert len(worlds.copies(greens[0])) == len(TEXTS)


def test_an_original_replaced_in_a_follower_meanwhile_gets_a_copy_of_the_new_one(worlds: Worlds):
    green = worlds.green()
    worlds.search("s", "ann")
    changed = make_object("o1", worlds.domain.variants[0].embed(["something else"])[0], payload={"new": True})

    class Replacing:
        """Replaces an original of the follower when copies were written to it."""

        done = False

        def __getattr__(self, name: str) -> Any:
            return getattr(worlds.rooms.vectors, name)

        def upsert(self, collection: str, objects: Any) -> None:
            worlds.rooms.vectors.upsert(collection, objects)
            if collection == green.collection_id and not self.done:
                self.done = True
                worlds.rooms.vectors.upsert(collection, [changed])

    racing: Any = Replacing()
    assert improve_users(replace(worlds.improver, vectors=racing), 10).ended == 0
    assert improve_users(worlds.improver, 10).ended == 1
    [copy] = worlds.rooms.vectors.named(green.collection_id, ["o1_ann"])
    assert copy.payload == {"new": True}


# A follower whose store fails


class Lost:
    """Vectors of which one collection does not answer."""

    def __init__(self, worlds: Worlds, collection: str) -> None:
        self._inner, self._collection = worlds.rooms.vectors, collection

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        def call(collection: str, *args: Any, **kwargs: Any) -> Any:
            if collection == self._collection:
                raise ConnectionError("this collection is gone")
            return method(collection, *args, **kwargs)

        return call


def without(worlds: Worlds, collection: str) -> Improver:
    lost: Any = Lost(worlds, collection)
    return replace(worlds.improver, vectors=lost)


def test_a_follower_that_does_not_answer_costs_the_serving_one_nothing_and_gets_all_later(worlds: Worlds):
    green, other = worlds.green(), worlds.green("words-v1@b", FIRST)
    blue = worlds.rooms.releases.blue(worlds.domain.name)
    worlds.search("s", "ann")
    assert improve_users(without(worlds, green.collection_id), 10) == (1, 0)
    assert len(worlds.copies(blue)) == len(worlds.copies(other)) == len(TEXTS)
    assert worlds.status("s") == "pending"
    for _ in range(worlds.improver.max_attempts + 1):
        improve_users(without(worlds, green.collection_id), 10)
    worlds.improve()
    assert worlds.status("s") == "done", "it is not its fault"
    assert worlds.copies(green) == worlds.alone(green)


def test_users_that_wait_for_a_follower_do_not_keep_others_from_the_serving_one(worlds: Worlds):
    green = worlds.green()
    blue = worlds.rooms.releases.blue(worlds.domain.name)
    for n in range(4):
        worlds.search(f"s{n}", f"u{n}")
    worlds.again("u0", "u1")
    for _ in range(4):
        improve_users(without(worlds, green.collection_id), 2)
    users = [f"u{n}" for n in range(4)]
    assert len(worlds.copies(blue, users)) == 4 * len(TEXTS)
    worlds.improve()
    assert worlds.rooms.queue.counts()["pending"] == 0
    assert len(worlds.copies(green, users)) == 4 * len(TEXTS)


def test_a_follower_that_is_discarded_meanwhile_holds_nobody_up(worlds: Worlds):
    green = worlds.green()
    worlds.search("s", "ann")

    def discard() -> None:
        worlds.rooms.releases.delete(worlds.domain.name, green.embedding_model_id)

    racing: Any = Gap(worlds.rooms.vectors, "upsert", discard)
    assert improve_users(replace(worlds.improver, vectors=racing), 10) == (1, 1)


def test_an_erased_user_leaves_nothing_in_a_follower_either(worlds: Worlds):
    from improvement.erasure import erase_user

    green = worlds.green()
    blue = worlds.rooms.releases.blue(worlds.domain.name)

    def moments() -> Iterator[Any]:
        for before in (True, False):
            for method in ("find", "copies", "upsert", "revisions"):
                yield lambda erase, m=method, b=before: Gap(worlds.rooms.vectors, m, erase, b)

    for n, moment in enumerate(moments()):
        user = f"ann{n}"
        worlds.search(f"s{n}", user)
        racing: Any = moment(lambda user=user: erase_user(worlds.rooms, user))
        improve_users(replace(improver(worlds.rooms), vectors=racing), 10)
        worlds.improve()
        assert worlds.copies(blue, [user]) == worlds.copies(green, [user]) == {}
        assert worlds.rooms.queue.taught_by([Owner(worlds.domain.name, user)]) == {
            Owner(worlds.domain.name, user): []
        }


def test_users_wait_for_what_serves_when_what_served_is_deleted_meanwhile(worlds: Worlds):
    rooms, before = worlds.rooms, worlds.rooms.releases.blue(worlds.domain.name)
    green = worlds.green("words-v1@b", FIRST)
    worlds.search("s1", "ann")

    def switch_and_delete() -> None:
        rooms.releases.set_blue(worlds.domain.name, green.embedding_model_id)
        rooms.releases.delete(worlds.domain.name, before.embedding_model_id)

    gap = Gap(rooms.vectors, "find", switch_and_delete, before=True)
    claimed, ended = improve_users(replace(worlds.improver, vectors=gap), 10)
    assert (claimed, ended, worlds.status("s1")) == (1, 0, "pending")
    worlds.improve()
    assert (worlds.status("s1"), len(worlds.copies(green))) == ("done", len(TEXTS))

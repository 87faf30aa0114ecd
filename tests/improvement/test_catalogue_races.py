"""Writers, builders and switches that take turns at every single call to their stores, in any order."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from hypothesis import example, given, settings
from hypothesis import strategies as st

from improvement.catalogue import Catalogue
from improvement.domain import SearchDomain
from improvement.errors import Unavailable
from improvement.green.mirror import Mirror
from improvement.green.shapes import Shaper
from improvement.releases import Release, Releases
from improvement.vectors import VectorStore
from tests.naive import NaiveCollection, NaiveQdrant, Stage
from tests.support import make_domain, make_object

T = TypeVar("T")
SPACE, IDS = "words-v1", ("a", "b", "c", "d", "e")
#: Objects on a page of a builder.
PAGE = 2

#: What a writer does, one request after the other: True is a new version of an object, False deletes it.
Requests = list[dict[str, bool]]
requests = st.lists(st.dictionaries(st.sampled_from(IDS), st.booleans(), min_size=1, max_size=3), max_size=4)
#: Who acts, and how often in a row; afterwards everybody in turn.
turns = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 15)), max_size=60)


@dataclass(frozen=True)
class Write:
    """What somebody wrote of one object, from when to when; None deletes."""

    object_id: str
    given: str | None
    began: int
    ended: int


def persist(act: Callable[[], T]) -> T:
    """Do it again until the stores answer."""
    while True:
        with contextlib.suppress(ConnectionError, Unavailable):
            return act()


class Queue:
    """Nobody has copies here."""

    def enqueue_rebuild(self, owners: Any) -> None:
        raise AssertionError(list(owners))


@dataclass
class Play:
    """One domain with three objects, its collections, and who acts on them.

    ``comparing`` is whether builds and switches compare everything, which only helps where somebody died.
    """

    domain: SearchDomain = field(default_factory=make_domain)
    stage: Stage = field(default_factory=Stage)
    writes: list[Write] = field(default_factory=list)
    versions: int = 0
    comparing: bool = False

    def __post_init__(self) -> None:
        qdrant = self.stage.watched(NaiveQdrant())
        nobody_turns: Any = None
        self.vectors, self.shaper = VectorStore(qdrant), Shaper(nobody_turns)
        releases = self.stage.watched(NaiveCollection())
        database: Any = {"releases": releases, "promotions": NaiveCollection(), "switching": None}
        self.releases, self.mirror = Releases(qdrant, database), Mirror(self.vectors, self.shaper)
        self.releases.ensure(self.domain)
        self.write(dict.fromkeys(IDS[:3], True))

    def blue(self) -> Release:
        return self.releases.blue(self.domain.name)

    def green(self) -> Release:
        return self.releases.create(self.domain, f"{SPACE}@1", space=SPACE, build="1")

    def write(self, request: dict[str, bool]) -> None:
        queue: Any = Queue()
        writer = Catalogue(
            self.domain, self.vectors, queue, lambda: None, self.releases, self.mirror, self.shaper
        )
        self.versions += 1
        payload = {"version": self.versions}
        objects = [make_object(i, [1.0] * 16, payload=payload) for i, there in request.items() if there]
        gone = [i for i, there in request.items() if not there]
        began = self.stage.now
        if objects:
            persist(lambda: writer.upsert(objects, SPACE))
        if gone:
            persist(lambda: writer.delete(gone))
        given = {o.object_id: o.revision for o in objects}
        self.writes += [Write(i, given.get(i), began, self.stage.now) for i in request]

    # Actors

    def writer(self, requests: Requests) -> Callable[[], None]:
        def act() -> None:
            for request in requests:
                self.write(request)

        return act

    def builder(self, green: Release, cursor: list[Any], after: int | None = None) -> Callable[[], None]:
        """Fills a collection as a build does, from where its cursor is, when another actor is done."""

        def page() -> None:
            _, _, following = self.mirror.fill(self.domain, self.blue(), green, PAGE, cursor[0])
            self.stage.pause()  # to write down how far it is takes a call, too
            cursor[0] = "the end" if following is None else following

        def act() -> None:
            if after is not None:
                self.stage.wait_for(after)
            persist(lambda: self.releases.follow(green, True))
            while cursor[0] != "the end":
                persist(page)
            persist(lambda: self.compare(green))

        return act

    def compare(self, follower: Release) -> None:
        if self.comparing:
            self.mirror.reconcile(self.domain, self.blue(), follower)

    def killer(self, victim: int, turns: int) -> Callable[[], None]:
        def act() -> None:
            for _ in range(turns):
                self.stage.pause()
            self.stage.kill(victim)

        return act

    def switcher(self, green: Release, after: int, switches: int) -> Callable[[], None]:
        """Promotes what an actor built, rolls back, and promotes it again, as `promotion` does."""

        def switch(target: Release) -> None:
            blue = self.blue()
            if target is green:
                self.compare(target)
            self.releases.follow(blue, True)
            self.releases.set_blue(self.domain.name, target.embedding_model_id)
            persist(lambda: self.compare(blue))

        def act() -> None:
            self.stage.wait_for(after)
            for target in [green, persist(self.blue), green][:switches]:
                persist(partial(switch, target))

        return act

    # What is true in the end

    def expect_nothing_lost(self) -> None:
        world = self.releases.world(self.domain.name)
        assert len(world.releases) == 2
        held, other = (
            {i: found.given for i, found in self.vectors.revision_page(r.collection_id, 100)[0].items()}
            for r in world.releases
        )
        assert held == other
        for i in {write.object_id for write in self.writes}:
            mine = [write for write in self.writes if write.object_id == i]
            # The last one; or any that no other one began after.
            last = [w for w in mine if all(other.began <= w.ended for other in mine)]
            assert held.get(i) in {write.given for write in last}, (i, mine)


@settings(max_examples=50)
@example(first=[], second=[{"a": True}], third=[{"a": False}, {"a": False}], switches=1, turns=[])
@given(first=requests, second=requests, third=requests, switches=st.integers(0, 3), turns=turns)
def test_a_builder_taken_for_dead_goes_on_late_and_nothing_is_lost(
    first: Requests, second: Requests, third: Requests, switches: int, turns: list[tuple[int, int]],
):  # fmt: skip
    play = Play()
    green = play.green()
    actors = [
        play.writer(first), play.writer(second), play.writer(third),
        play.builder(green, [None]), play.builder(green, [None]),
        play.switcher(green, after=4, switches=switches),
    ]  # fmt: skip
    play.stage.play(actors, iter(turns))
    play.expect_nothing_lost()


@settings(max_examples=50)
@given(first=requests, second=requests, killed=st.integers(0, 40), turns=turns)
def test_a_builder_is_killed_and_another_goes_on_from_his_place_and_nothing_is_lost(
    first: Requests, second: Requests, killed: int, turns: list[tuple[int, int]]
):
    play = Play(comparing=True)
    green, cursor = play.green(), [None]
    actors = [
        play.writer(first), play.writer(second), play.killer(3, killed),
        play.builder(green, cursor), play.builder(green, cursor, after=3),
        play.switcher(green, after=4, switches=3),
    ]  # fmt: skip
    play.stage.play(actors, iter(turns))
    play.expect_nothing_lost()


@settings(max_examples=50)
@given(
    first=requests, second=requests, turns=turns,
    failing=st.sets(st.integers(20, 300), max_size=40),
)  # fmt: skip
def test_stores_that_fail_now_and_then_lose_nothing_of_what_is_sent_until_it_is_done(
    first: Requests, second: Requests, turns: list[tuple[int, int]], failing: set[int]
):
    play = Play(stage=Stage(failing), comparing=True)
    green = play.green()
    actors = [
        play.writer(first), play.writer(second), play.builder(green, [None]),
        play.switcher(green, after=2, switches=3),
    ]  # fmt: skip
    play.stage.play(actors, iter(turns))
    play.expect_nothing_lost()


class Noting(Stage):
    """Notes the calls that are made: which, and to what collection."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any]] = []

    def watched(self, store: Any) -> Any:
        stage = self

        class Noted:
            def __getattr__(self, name: str) -> Any:
                method = getattr(store, name)

                def call(*args: Any, **kwargs: Any) -> Any:
                    result = method(*args, **kwargs)
                    stage.calls.append((name, args[0] if args else kwargs.get("collection_name")))
                    return result

                return call

        return super().watched(Noted())

    def script(self, lines: str, collections: dict[str, str]) -> Iterator[tuple[int, int]]:
        """Let who is named act until he has made the named call, line by line: ``0 upsert green``."""
        for line in lines.strip().splitlines():
            who, name, where = line.split()
            before = len(self.calls)
            while (name, collections[where]) not in self.calls[before:]:
                assert len(self.calls) < before + 30, line
                yield int(who), 1


def late(play: Play) -> Callable[[], None]:
    """Promote a filled collection, and return a builder that fills it from the earlier one all the same."""
    earlier, green = play.blue(), play.green()
    play.releases.follow(green, True)
    play.mirror.fill(play.domain, earlier, green, 100, None)
    play.releases.follow(earlier, True)
    play.releases.set_blue(play.domain.name, green.embedding_model_id)

    def act() -> None:
        persist(lambda: play.mirror.fill(play.domain, earlier, green, 100, None))

    return act


#: The late builder (0) carries what was there before back to what serves, the writer (1) carries that to the
#: follower; the builder finds it there once more, just when the writer looks whether all is well.
ROUND_TRIP = """
0 scroll earlier
1 upsert green
1 upsert earlier
0 upsert green
0 retrieve earlier
1 retrieve green
1 retrieve green
1 retrieve earlier
0 retrieve earlier
0 retrieve green
1 upsert earlier
1 retrieve green
0 upsert green
1 retrieve green
0 retrieve earlier
0 retrieve earlier
0 retrieve green
0 upsert green
0 retrieve earlier
"""


def test_what_makes_a_round_trip_over_a_follower_while_a_writer_looks_is_not_taken_for_done():
    stage = Noting()
    play = Play(stage=stage)
    play.write({"a": True})
    earlier, builder = play.blue(), late(play)
    collections = {"earlier": earlier.collection_id, "green": play.blue().collection_id}
    stage.calls.clear()
    stage.play([builder, play.writer([{"a": True}])], stage.script(ROUND_TRIP, collections))
    play.expect_nothing_lost()


@settings(max_examples=50)
@given(first=requests, second=requests, turns=turns)
def test_builders_that_bring_what_followed_to_what_serves_lose_nothing_that_was_acknowledged(
    first: Requests, second: Requests, turns: list[tuple[int, int]]
):
    play = Play()
    builder = late(play)
    play.stage.play([builder, play.writer(first), play.writer(second), builder], iter(turns))
    play.expect_nothing_lost()

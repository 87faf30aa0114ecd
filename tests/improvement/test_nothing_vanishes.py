"""No switch makes an object vanish from both collections: neither what cannot be made, nor what failed."""

from dataclasses import replace
from typing import Any

import pytest

from improvement.domain import SearchDomain
from improvement.errors import Conflict, PluginFailed
from improvement.green.builds import Build, BuildState
from improvement.green.settings import GateSettings
from improvement.improver import Improver
from improvement.jobs import run_improvement
from improvement.periodic import FOLLOWERS_INTERVAL, repair_followers
from improvement.promotion import promote, promote_build, rollback
from improvement.releases import Release
from improvement.routes import catalogue
from improvement.wiring import Rooms
from tests.improvement.two_spaces import FIRST, SECOND, Worlds, in_two_spaces
from tests.support import make_object


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return in_two_spaces(domain)


@pytest.fixture
def blue(rooms: Rooms, domain: SearchDomain) -> Release:
    Worlds(rooms, domain)
    return rooms.releases.blue(domain.name)


@pytest.fixture
def build(rooms: Rooms, domain: SearchDomain, blue: Release) -> Build:
    """One of the other space, whose gate it passed when nothing was missing yet."""
    asked = rooms.builds.ask(domain.name, f"{SECOND}@1", SECOND, False, "ann")
    here = domain.in_space(SECOND)
    green = rooms.releases.create(here, asked.embedding_model_id, space=SECOND, build=asked.build_id)
    rooms.releases.follow(green, True)
    rooms.mirror.fill(domain, blue, green, 100, None)
    rooms.builds.end(asked.build_id, BuildState.BUILT)
    rooms.reports.save(domain.name, asked.build_id, green.collection_id, blue.collection_id, [], {})
    return rooms.builds.get(asked.build_id)


def write(rooms: Rooms, domain: SearchDomain, object_id: str, space: str, text: str | None = None) -> None:
    """As the published API does; without a text no other space can have it."""
    here = domain.in_space(space)
    row = here.embed([text or "one vector"])[0]
    texts = (text,) if text else ()
    catalogue(rooms, domain).upsert([make_object(object_id, row, texts=texts, payload={"v": text})], space)


def holders(rooms: Rooms, domain: SearchDomain, object_id: str) -> dict[str, Any]:
    """The spaces that have an object, and what its payload says there."""
    return {
        release.space: found[object_id].payload.get("v")
        for release in rooms.releases.list(domain.name)
        if (found := rooms.vectors.find(release.collection_id, [object_id]))
    }


class Away:
    """The encoder of a space does not answer, for a while."""

    def __init__(self, space: str) -> None:
        self.patched, self.space = pytest.MonkeyPatch(), space

    def __enter__(self) -> None:
        real = SearchDomain.embed

        def embed(domain: SearchDomain, texts: Any) -> Any:
            if domain.encoder.model_id == self.space:
                raise PluginFailed("the model's server does not answer")
            return real(domain, texts)

        self.patched.setattr(SearchDomain, "embed", embed)

    def __exit__(self, *failure: object) -> None:
        self.patched.undo()


def test_what_cannot_be_made_for_a_build_keeps_it_from_serving_unless_it_is_forced(
    rooms: Rooms, domain: SearchDomain, build: Build
):
    write(rooms, domain, "vec", FIRST)
    with pytest.raises(Conflict, match=r"1 objects.*cannot be made for it, such as 'vec': expected 1 texts"):
        promote_build(rooms, build, "ann")
    assert rooms.releases.space(domain.name) == FIRST
    promote_build(rooms, build, "ann", force="nobody needs it")
    forced = rooms.releases.history(domain.name)[0].forced
    assert forced is not None
    assert "'vec'" in forced["reasons"][0]
    assert holders(rooms, domain, "vec").keys() == {FIRST}, "it stays where it was"
    rollback(rooms, domain.name, "ann")
    assert holders(rooms, domain, "vec").keys() == {FIRST}


def test_as_many_may_be_missing_as_the_gate_says(rooms: Rooms, domain: SearchDomain, build: Build):
    lenient = replace(domain, gate=GateSettings(most_missing=0.2))
    write(rooms, domain, "vec", FIRST)
    promote_build(replace(rooms, domains={domain.name: lenient}), build, "ann")
    assert holders(rooms, domain, "vec").keys() == {FIRST}


def test_what_was_written_in_the_new_space_survives_however_often_it_is_switched(
    rooms: Rooms, domain: SearchDomain, build: Build, improving: Improver
):
    promote_build(rooms, build, "ann")
    write(rooms, domain, "vec", SECOND)
    for _ in range(2):
        rollback(rooms, domain.name, "ann")
        run_improvement(improving, 10, idle_seconds=1e9)
        assert holders(rooms, domain, "vec").keys() == {SECOND}
        promote_build(rooms, build, "ann", force="once more")
        assert holders(rooms, domain, "vec").keys() == {SECOND}
    promote(rooms, domain.name, FIRST, "ann")  # by hand, back to what was kept in line
    assert holders(rooms, domain, "vec").keys() == {SECOND}
    catalogue(rooms, domain).delete(["vec"])
    assert holders(rooms, domain, "vec") == {}, "users delete it everywhere"


def test_a_hiccup_of_an_encoder_costs_no_object(rooms: Rooms, domain: SearchDomain, build: Build):
    promote_build(rooms, build, "ann")
    with Away(FIRST):
        write(rooms, domain, "o1", SECOND, "wool hat")  # was there
        write(rooms, domain, "new", SECOND, "wool hat")
        assert holders(rooms, domain, "o1") == {FIRST: None, SECOND: "wool hat"}, "kept as it was, for now"
    rollback(rooms, domain.name, "ann")
    for object_id in ("o1", "new"):
        assert holders(rooms, domain, object_id) == {FIRST: "wool hat", SECOND: "wool hat"}


def test_an_old_content_never_wins_over_one_that_could_not_be_made(
    rooms: Rooms, domain: SearchDomain, build: Build, improving: Improver
):
    promote_build(rooms, build, "ann")
    with Away(FIRST):
        write(rooms, domain, "o1", SECOND, "wool hat")
        rollback(rooms, domain.name, "ann")
    run_improvement(improving, 10, idle_seconds=1e9)
    assert holders(rooms, domain, "o1") == {SECOND: "wool hat"}
    promote_build(rooms, build, "ann", force="it is well again")
    assert holders(rooms, domain, "o1") == {FIRST: "wool hat", SECOND: "wool hat"}


def test_a_worker_brings_once_an_hour_what_followers_lack_and_deletes_nothing(
    rooms: Rooms, domain: SearchDomain, build: Build, improving: Improver
):
    with Away(SECOND):
        write(rooms, domain, "o1", FIRST, "wool hat")
    green = rooms.releases.get(domain.name, build.embedding_model_id)
    row = domain.in_space(SECOND).embed(["tie"])[0]
    rooms.vectors.upsert(green.collection_id, [make_object("alone", row, payload={"v": "tie"})])
    repair_followers(improving, domain)
    assert holders(rooms, domain, "o1") == {FIRST: "wool hat", SECOND: "wool hat"}
    assert holders(rooms, domain, "alone") == {SECOND: "tie"}

    # Somebody died after writing what serves, before telling the follower.
    row = domain.embed(["green tie"])[0]
    late = make_object("late", row, texts=("green tie",), payload={"v": "late"})
    rooms.vectors.upsert(rooms.releases.blue(domain.name).collection_id, [late])
    repair_followers(improving, domain)
    assert holders(rooms, domain, "late") == {FIRST: "late"}, "an hour has not passed"
    rooms.queue.hurry(f"followers {domain.name}", -FOLLOWERS_INTERVAL)
    repair_followers(improving, domain)
    assert holders(rooms, domain, "late") == {FIRST: "late", SECOND: "late"}


def test_what_is_sent_again_and_refused_stays_where_it_was(rooms: Rooms, domain: SearchDomain, build: Build):
    write(rooms, domain, "vec", FIRST)
    promote_build(rooms, build, "ann", force="x")
    with pytest.raises(Conflict):
        write(rooms, domain, "vec", FIRST)
    assert holders(rooms, domain, "vec").keys() == {FIRST}

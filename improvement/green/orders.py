"""What an operator orders of builds: ask for one, find it, have it gated, cancel it, throw it away."""

import uuid
from typing import Any

from improvement.domain import SearchDomain
from improvement.errors import Conflict, Invalid, NotFound
from improvement.green.builds import ACTIVE, Build, BuildState, BuildStore
from improvement.green.rule import is_fresh
from improvement.improver import Improver
from improvement.promotion import drop_collection
from improvement.releases import Release

#: Characters of a build's id behind the space in the name of its collection.
SHORT = 8


def spaces_of(rooms: Improver, domain: SearchDomain) -> list[str]:
    """Return the embedding spaces that a domain can be built in: the blue one's, then those it configures."""
    configured = [domain.encoder.model_id, *(one.encoder.model_id for one in domain.variants)]
    return list(dict.fromkeys([rooms.releases.space(domain.name), *configured]))


def ask_build(
    rooms: Improver, domain: SearchDomain, *, space: str | None, population: bool, by: str
) -> Build:
    """Queue a build of a domain; in the blue one's space without population it is a plain rebuild.

    Args:
        space: ``model_id`` of the encoder to build with; None is the blue collection's own space.
        population: whether what everybody chose turns its objects.
        by: who asks.

    Raises:
        Invalid: the domain has no such space.
        Conflict: the domain learns nothing now, or has a build that is not finished.
        NotFound: the domain has no blue collection.
    """
    known = spaces_of(rooms, domain)
    if space is not None and space not in known:
        raise Invalid(f"space {space!r} is not one of domain {domain.name!r}; expected one of {known}")
    refuse_frozen(rooms, domain.name)
    build_id, space = uuid.uuid4().hex, known[0] if space is None else space
    name = f"{space}@{build_id[:SHORT]}"
    return rooms.builds.ask(domain.name, name, space, population, by, build_id)


def refuse_frozen(rooms: Improver, domain: str) -> None:
    """Raise Conflict while a domain learns nothing: a build would learn, and wait for copies."""
    learning = rooms.learning.of(domain)
    if learning.frozen:
        why = f" by {learning.by}: {learning.why}" if learning.by or learning.why else ""
        raise Conflict(f"learning of domain {domain!r} is frozen{why}; resume it first")


def find_build(builds: BuildStore, domain: str, build_id: str | None) -> Build:
    """Return the build of that id, or the domain's newest that was not discarded.

    Raises:
        NotFound: there is none, or it is another domain's.
    """
    if build_id is None:
        return builds.latest(domain)
    build = builds.get(build_id)
    if build.domain != domain:
        raise NotFound(f"build {build_id!r} is not of domain {domain!r} but of {build.domain!r}")
    return build


def ask_gate(rooms: Improver, build: Build) -> Build:
    """Have a worker run a build's gate; raises Conflict unless it is built."""
    if build.state is not BuildState.BUILT:
        raise Conflict(f"build {build.build_id} is {build.state}, and only one that is built can be gated")
    rooms.builds.ask_gate(build.build_id)
    return rooms.builds.get(build.build_id)


def cancel(rooms: Improver, build: Build) -> Build:
    """Stop a build: its worker finds out with the next page; what it made stays until it is discarded.

    Raises:
        Conflict: it ended already.
    """
    if not rooms.builds.end(build.build_id, BuildState.CANCELLED, "cancelled", among=ACTIVE):
        now = rooms.builds.get(build.build_id)
        raise Conflict(f"build {build.build_id} is {now.state} already; discard it if nobody needs it")
    unfollow(rooms, build)
    return rooms.builds.get(build.build_id)


def discard(rooms: Improver, build: Build) -> Build:
    """Delete what a build made, its collection and its turns; one that is at work stops.

    Raises:
        Conflict: its collection serves, or somebody is switching the domain just now.
    """
    with rooms.releases.promotions.switching(build.domain, "somebody who discards a build"):
        _throw_away(rooms, build)
    return rooms.builds.get(build.build_id)


def _throw_away(rooms: Improver, build: Build) -> None:
    release = release_of(rooms, build)
    if release is not None and release.blue:
        raise Conflict(f"{release.embedding_model_id!r} serves: roll back, or promote another, before that")
    rooms.builds.end(build.build_id, BuildState.DISCARDED)  # first: its worker must not make it again
    if release is not None:
        drop_collection(rooms.releases, rooms.neighbours, release)
    rooms.population.drop(build.build_id)


def clear_up(rooms: Improver, build: Build) -> None:
    """Undo what the worker of a build did after somebody ended it; nothing if it goes on elsewhere."""
    now = rooms.builds.get(build.build_id)
    if now.state in (BuildState.CANCELLED, BuildState.FAILED):
        unfollow(rooms, now)
    elif now.state is BuildState.DISCARDED:
        _throw_away(rooms, now)


def unfollow(rooms: Improver, build: Build) -> None:
    """Have writes no longer reach a build's collection, if there is one and it does not serve."""
    release = release_of(rooms, build)
    if release is not None and not release.blue:
        rooms.releases.follow(release, False)


def release_of(rooms: Improver, build: Build) -> Release | None:
    """Return a build's collection; None before there is one, and after it was deleted."""
    try:
        return rooms.releases.get(build.domain, build.embedding_model_id)
    except NotFound:
        return None


def state(rooms: Improver, build: Build) -> dict[str, Any]:
    """Return all there is to see of a build, as JSON: how far it is, its last gate, its collection.

    And while it serves its promotion, with what the watch over it found.
    """
    now = rooms.builds.clock()
    release = release_of(rooms, build)
    gate = None
    try:
        report = rooms.reports.latest(build.build_id)
    except NotFound:
        pass
    else:
        domain = rooms.domains.get(build.domain)
        gate = {
            "report_id": report.report_id, "passed": report.passed, "reasons": list(report.reasons),
            "age_seconds": now - report.created_at,
            "fresh": domain is not None and is_fresh(report, domain.gate.fresh_hours, now),
        }  # fmt: skip
    promotion = None
    if release is not None and release.blue:
        promotion = rooms.releases.promotions.latest(build.domain, release.collection_id)
    return build.as_json(now) | {
        "gate": gate,
        "release": None if release is None else release.as_json(),
        "promotion": None if promotion is None else promotion.as_json(),
    }

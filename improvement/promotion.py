"""Promote and roll back: switch the alias, and leave nothing behind that is not in line with it.

Every function may be repeated after it died anywhere: what is done already stays done, the rest is done.

No switch, forwards or back, makes an object vanish from both collections. What cannot be made for the one
that is to serve stays in the one that served: nothing is deleted from a collection that ever served because
another lacks it. Deletions reach both by the catalogue; one whose maker died, and which was therefore never
acknowledged, may come back with a rollback.
"""

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from clickstream.improvement_queue import ImprovementQueue, Owner
from improvement.background import Wake
from improvement.domain import SearchDomain
from improvement.errors import Conflict, Invalid, NotFound
from improvement.green.builds import Build, BuildState, BuildStore
from improvement.green.mirror import PAGE, Brought, Mirror
from improvement.green.population_store import PopulationStore
from improvement.green.reports import GateReport, ReportStore
from improvement.green.rule import reasons_against
from improvement.profiles.neighbours import Neighbours
from improvement.profiles.store import ProfileStore
from improvement.promotion_log import Hold, Promotion, Watch, last_served
from improvement.quality.alerts import Alarm
from improvement.releases import Release, Releases
from improvement.vectors import VectorStore

log = structlog.get_logger()

#: Seconds for which a collection that served a moment ago is left alone: searches may still be reading it.
GRACE = 2.0
#: Characters of who asks, and of why.
MAX_BY, MAX_WHY = 200, 1_000
#: Objects that cannot be made for a collection of which it is said why.
SHOWN = 3
#: Kinds of alerts about the promotion that serves; the next switch ends them.
CLICKS, ROLLED_BACK = "watch.clicks", "watch.rolled_back"


class PromotionRooms(Protocol):
    """What promoting needs; `Rooms` and `Improver` both have it."""

    @property
    def domains(self) -> Mapping[str, SearchDomain]: ...
    @property
    def releases(self) -> Releases: ...
    @property
    def vectors(self) -> VectorStore: ...
    @property
    def queue(self) -> ImprovementQueue: ...
    @property
    def profiles(self) -> ProfileStore: ...
    @property
    def neighbours(self) -> Neighbours: ...
    @property
    def population(self) -> PopulationStore: ...
    @property
    def mirror(self) -> Mirror: ...
    @property
    def builds(self) -> BuildStore: ...
    @property
    def reports(self) -> ReportStore: ...
    @property
    def alerts(self) -> Alarm: ...
    @property
    def wake(self) -> Wake: ...


def promote_build(rooms: PromotionRooms, build: Build, by: str, force: str | None = None) -> Release:
    """Make a build's collection blue, if its gate lets it; finish that if it is blue already.

    Args:
        by: who asks.
        force: why to do it although the gate is against it; None does not.

    Raises:
        Conflict: it is not built, its gate is against it, more objects of what serves cannot be made for it
            than the gate lets be missing, or somebody else is switching the domain.
        Invalid: ``by`` or ``force`` is empty or too long.
    """
    who, why = said("by", by, MAX_BY), None if force is None else said("force", force, MAX_WHY)
    domain = _domain(rooms, build.domain)
    with rooms.releases.promotions.switching(domain.name, who) as hold:
        _settle(rooms, domain.name)
        build = rooms.builds.get(build.build_id)
        if build.state is not BuildState.BUILT:
            raise Conflict(f"build {build.build_id} is {build.state}; only one that is built can serve")
        green = rooms.releases.get(domain.name, build.embedding_model_id)
        if not green.blue:
            _switch(rooms, domain, build, green, who, why, hold)
        _finish(rooms, domain, hold)
    rooms.wake()
    return rooms.releases.blue(domain.name)


def promote(rooms: PromotionRooms, domain: str, embedding_model_id: str, by: str) -> Release:
    """Make any collection blue: a build's by the rule of its gate, one made by hand without.

    Nothing is kept in line with a collection that was not in line with what served: it may have other
    objects, and vectors of a space that no encoder of ours has. Builds that are at work go on with it.

    Raises:
        Conflict: the gate is against it, somebody else is switching the domain, or it is not configured.
    """
    target = rooms.releases.get(domain, embedding_model_id)
    if target.build is not None and not target.blue:
        return promote_build(rooms, rooms.builds.get(target.build), by)
    who = said("by", by, MAX_BY)
    with rooms.releases.promotions.switching(domain, who) as hold:
        configured = _domain(rooms, domain)
        _settle(rooms, domain)
        target = rooms.releases.get(domain, embedding_model_id)
        if not target.blue:
            blue = rooms.releases.blue(domain)
            if target.follows:
                _leave_out(
                    rooms, configured, blue, target, _catch_up(rooms, configured, blue, target, hold), hold
                )
            # Before the switch: whoever writes after it finds out whom else to tell.
            rooms.releases.follow(blue, target.follows)
            hold()
            rooms.releases.set_blue(
                domain, embedding_model_id, by=who, apart=not target.follows, watch=Watch().as_json()
            )
        # Also when it was blue already: repeating set-blue brings all in line with the clickstream.
        _finish(rooms, configured, hold)
    rooms.wake()
    return rooms.releases.blue(domain)


def rollback(rooms: PromotionRooms, domain: str, by: str, why: str | None = None) -> Release:
    """Make the collection blue that was blue before; what served until now follows it, if it followed.

    If it followed, it is compared with what serves before that, to the last write. What cannot be made for it
    does not keep a rollback from being done: it is not found then, and stays in what served until now.

    Where a rollback died behind its switch, it is finished, and nothing is rolled back once more.

    Raises:
        Conflict: there is none, somebody else is switching the domain, or it is not configured.
    """
    who, reason = said("by", by, MAX_BY), "" if why is None else said("why", why, MAX_WHY)
    with rooms.releases.promotions.switching(domain, who) as hold:
        left = rooms.releases.blue(domain)
        configured = _domain(rooms, domain)
        _settle(rooms, domain)
        died = rooms.releases.promotions.unfinished(domain)
        if died is None or died.undone_at is None or died.previous != left.collection_id:
            earlier = rooms.releases.earlier(domain)
            if earlier.follows:
                _leave_out(
                    rooms, configured, left, earlier, _catch_up(rooms, configured, left, earlier, hold), hold
                )
            # Before the switch: whoever writes after it finds out whom else to tell.
            rooms.releases.follow(left, earlier.follows)
            hold()
            rooms.releases.rollback(domain, who, reason)
        _finish(rooms, configured, hold)
    log.warning("rolled back", domain=domain, by=who, why=reason)
    rooms.wake()
    return rooms.releases.blue(domain)


def finish_switch(rooms: PromotionRooms, domain: SearchDomain) -> None:
    """Finish a switch whose maker died; nothing if there is none, or if its maker is still at it."""
    if rooms.releases.promotions.unfinished(domain.name) is None:
        return
    try:
        with rooms.releases.promotions.switching(domain.name, "a worker") as hold:
            _finish(rooms, domain, hold, anew=domain.name in rooms.releases.unrebuilt())
    except Conflict as reason:
        log.info("a switch is left to be finished", domain=domain.name, reason=str(reason))


def rebuild_all(releases: Releases, queue: ImprovementQueue, profiles: ProfileStore, domain: str) -> None:
    """Have every user's copies and profile of a domain made anew by the worker's next run.

    The worker does it too, should we die before.
    """
    queue.enqueue_rebuild(queue.owners(domain))
    profiles.mark_all(domain)
    queue.hurry(profiles_tick(domain))
    releases.mark_rebuilt(domain)


def profiles_tick(domain: str) -> str:
    """Return the name of the tick at which the domain's profiles are made anew."""
    return f"profiles {domain}"


def _switch(
    rooms: PromotionRooms,
    domain: SearchDomain,
    build: Build,
    green: Release,
    by: str,
    force: str | None,
    hold: Hold,
) -> None:
    """Bring a build in line with what serves, to the last write, and have it serve."""
    blue, now = rooms.releases.blue(domain.name), rooms.builds.clock()
    report = _newest_report(rooms, build)
    against = reasons_against(report, build.build_id, green, blue, domain.gate.fresh_hours, now)
    if against and force is None:
        raise Conflict(
            f"build {build.build_id} may not serve: {'. '.join(against)}. Run `green gate` and look at its "
            f'report, or promote it with --force "why"'
        )
    if rooms.vectors.count(green.collection_id, None) and not rooms.vectors.count(blue.collection_id, None):
        raise Conflict(
            f"{blue.collection_id!r} serves and is empty: in line with it, the build would be, too"
        )
    rooms.releases.follow(green, True)
    brought = _catch_up(rooms, domain, blue, green, hold)
    if len(brought.failed) > domain.gate.most_missing * rooms.vectors.count(blue.collection_id, None):
        against = [*against, _unmade(brought)]
        if force is None:
            raise Conflict(
                f"build {build.build_id} may not serve: {against[-1]}. Send them with texts, or promote it "
                f'with --force "why": they are not found then, and stay in what serves now while it is kept'
            )
    _leave_out(rooms, domain, blue, green, brought, hold)
    # Before the switch: whoever writes after it finds out whom else to tell.
    rooms.releases.follow(blue, domain.promotion.keep_previous > 0)
    hold()
    rooms.releases.set_blue(
        domain.name,
        green.embedding_model_id,
        by=by,
        build=build.build_id,
        report_id=report.report_id if report else None,
        forced=None if force is None else {"why": force, "reasons": against},
        watch=Watch().as_json(),
    )
    log.info("promoted", domain=domain.name, collection=green.collection_id, by=by, forced=force is not None)


def _finish(rooms: PromotionRooms, domain: SearchDomain, hold: Hold, anew: bool = True) -> None:
    """Do all that follows a switch, forwards or back: copies, profiles, what was left, what is too old.

    Args:
        anew: whether copies and profiles are to be made anew.
    """
    name, promotions = domain.name, rooms.releases.promotions
    _settle(rooms, name)
    for kind in (CLICKS, ROLLED_BACK):
        rooms.alerts.over(name, kind)
    if anew:
        rebuild_all(rooms.releases, rooms.queue, rooms.profiles, name)
    switched = promotions.unfinished(name)
    if switched is not None:
        _bring_along(rooms, domain, switched, hold)
        if switched.build is not None and not switched.undone:
            _drop_old(rooms, domain, hold)
    promotions.mark_finished(name)


def _settle(rooms: PromotionRooms, name: str) -> None:
    """Write down what whoever died behind the latest switch did not: it decides what comes next."""
    promotions, world = rooms.releases.promotions, rooms.releases.world(name)
    if half := promotions.half_undone(name, world.blue.collection_id):
        promotions.undone(half)
    switched = promotions.unfinished(name)
    if switched is None or not switched.apart or switched.undone:
        return
    if switched.current != world.blue.collection_id:
        return  # the switch failed: all goes on following what serves
    building = {build.build_id for build in rooms.builds.list(name) if build.active}
    for release in world.followers:
        if release.build not in building:
            rooms.releases.follow(release, False)


def _catch_up(
    rooms: PromotionRooms, domain: SearchDomain, blue: Release, target: Release, hold: Hold
) -> Brought:
    """Bring what is to serve in line with what serves, to the last write."""
    fresh = target.collection_id not in last_served(rooms.releases.history(domain.name))
    renew = _renewing(rooms, domain)
    return rooms.mirror.reconcile(domain, blue, target, hold, renew, deleting=fresh)


def _leave_out(
    rooms: PromotionRooms, domain: SearchDomain, blue: Release, target: Release, brought: Brought, hold: Hold
) -> None:
    """Take what cannot be made for what is to serve out of it: as it was, it would win over the new."""
    if not brought.failed:
        return
    log.warning(
        "objects are not found from now on", domain=domain.name, collection=target.collection_id,
        reason=_unmade(brought),
    )  # fmt: skip
    unmade = list(brought.failed)
    for start in range(0, len(unmade), PAGE):
        some = unmade[start : start + PAGE]
        rooms.mirror.bring(domain, blue, target, some, _renewing(rooms, domain), keeping=False)
        hold()


def _unmade(brought: Brought) -> str:
    some = "; ".join(f"{object_id!r}: {why}" for object_id, why in list(brought.failed.items())[:SHOWN])
    return f"{len(brought.failed)} objects of what serves cannot be made for it, such as {some}"


def _renewing(rooms: PromotionRooms, domain: SearchDomain) -> Callable[[set[str]], None]:
    def renew(users: set[str]) -> None:
        rooms.queue.enqueue_rebuild(Owner(domain.name, user) for user in users)

    return renew


def _bring_along(rooms: PromotionRooms, domain: SearchDomain, switched: Promotion, hold: Hold) -> None:
    """Bring what served before in line with what serves, if it is kept so, for writers may have died."""
    world = rooms.releases.world(domain.name)
    for release in world.followers:
        if release.collection_id == switched.left:
            renew = _renewing(rooms, domain)
            rooms.mirror.reconcile(domain, world.blue, release, hold, renew, deleting=False)


def _drop_old(rooms: PromotionRooms, domain: SearchDomain, hold: Hold) -> None:
    """Delete collections that served, but for the latest ``keep_previous``; those that never did stay."""
    left = last_served(rooms.releases.history(domain.name))
    served = [one for one in rooms.releases.list(domain.name) if one.collection_id in left and not one.blue]
    served.sort(key=lambda one: left[one.collection_id], reverse=True)
    for release in served[domain.promotion.keep_previous :]:
        since = rooms.releases.promotions.clock() - left[release.collection_id].at
        time.sleep(min(GRACE, max(0.0, GRACE - since)))  # the clock may be behind that of who switched
        hold()
        rooms.releases.follow(release, False)
        if release.build is not None:
            # What can be found by the collection alone goes before it: dying in between, it is found again.
            rooms.population.drop(release.build)
            rooms.builds.end(release.build, BuildState.DISCARDED, "it served, and newer ones are kept")
        drop_collection(rooms.releases, rooms.neighbours, release)
        log.info("deleted", domain=domain.name, collection=release.collection_id)


def drop_collection(releases: Releases, neighbours: Neighbours, release: Release) -> None:
    """Delete a green collection, and where users are in its space if no other has it.

    Raises:
        Conflict: it is blue.
    """
    others = [one for one in releases.list(release.domain) if one.collection_id != release.collection_id]
    if not release.blue and all(other.space != release.space for other in others):
        neighbours.discard(release.domain, release.space)
    releases.delete(release.domain, release.embedding_model_id)


def _newest_report(rooms: PromotionRooms, build: Build) -> GateReport | None:
    try:
        return rooms.reports.latest(build.build_id)
    except NotFound:
        return None


def _domain(rooms: PromotionRooms, name: str) -> SearchDomain:
    if name not in rooms.domains:
        raise Conflict(f"domain {name!r} is not configured; expected one of {list(rooms.domains)}")
    return rooms.domains[name]


def said(name: str, text: str, most: int) -> str:
    """Return what somebody said, without what is blank around it; raises Invalid for nothing, or too much."""
    stripped = text.strip()
    if not stripped or len(stripped) > most:
        raise Invalid(f"{name}: expected 1 to {most} characters, got {len(stripped)}")
    return stripped

"""The use cases, one short function each; entry points call them with the rooms they need."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import structlog

from clickstream.improvement_queue import Claim, Entry, Outcome, Owner, Request, Status
from improvement.copies import UsableSession
from improvement.domain import SearchDomain
from improvement.experiments.treatment import evidence_for
from improvement.green.watch import watch_promotion
from improvement.improver import Improver
from improvement.lessons import Lessons, read_lessons
from improvement.periodic import (
    each_domain,
    refresh_popularity,
    refresh_propensities,
    repair_followers,
    sweep_expired,
    update_profiles,
    uses_propensities,
)
from improvement.profiles.searched import searched
from improvement.promotion import rebuild_all
from improvement.quality.audit import audit_quality
from improvement.queries import Queries, queries_of
from improvement.releases import World
from improvement.renewal import Renewed, renew_copies

log = structlog.get_logger()

#: Rounds in a row in which everything claimed was overtaken, after which the next tick goes on.
VAIN_ROUNDS = 5
#: Idle sessions looked at in one sweep.
SWEEP_LIMIT = 1_000


class Improved(NamedTuple):
    """How many queue entries were claimed, and how many of them ended."""

    claimed: int
    ended: int


class _Ended(NamedTuple):
    """How entries of a domain ended, and whether the others are to wait: a follower's store failed."""

    outcomes: Mapping[str, Outcome]
    wait: bool = False


def improve_users(rooms: Improver, limit: int) -> Improved:
    """Claim up to ``limit`` queued sessions, improve their users' copies, and write every outcome.

    Copies are made in every collection of the domain's world. Claimed but not ended are those that somebody
    changed meanwhile; they stay pending. Domains that learn nothing now are left alone.
    """
    started = time.perf_counter()
    frozen = rooms.learning.frozen(rooms.domains)
    claim = rooms.queue.claim(limit, rooms.lease_seconds, rooms.domains.keys() - frozen if frozen else None)
    if not claim.entries:
        rooms.queue.give_back(claim)  # another worker may have ended what we hold the leases for
        return Improved(0, 0)
    outcomes: dict[str, Outcome] = {}
    waiting: list[Owner] = []
    try:
        for name in sorted({owner.domain for owner in claim.entries}):
            entries = {owner: of for owner, of in claim.entries.items() if owner.domain == name}
            ended = _improve_domain(rooms, claim, name, entries)
            outcomes |= ended.outcomes
            waiting += entries if ended.wait else ()
        unfinished = [o for o, of in claim.entries.items() if any(e.entry_id not in outcomes for e in of)]
        rooms.queue.forgive(claim, unfinished)
        rooms.queue.put_off(claim, waiting)
        rooms.queue.finish(claim, outcomes)
    except Exception:  # a store failed: no session is to blame
        rooms.queue.forgive(claim, claim.entries)
        rooms.queue.give_back(claim)
        raise
    except BaseException:  # the time limit struck: somebody's session may be, so the attempt counts
        rooms.queue.give_back(claim)
        raise
    owners = {entry.entry_id: entry.owner for of in claim.entries.values() for entry in of}
    for entry_id, outcome in outcomes.items():
        rooms.metrics.sessions.labels(owners[entry_id].domain, outcome.status.value).inc()
    rooms.metrics.seconds.observe(time.perf_counter() - started)
    return Improved(len(owners), len(outcomes))


def _improve_domain(
    rooms: Improver, claim: Claim, name: str, entries: Mapping[Owner, Sequence[Entry]]
) -> _Ended:
    """Bring the copies of these users in line with their evidence, in every collection of the domain."""
    domain = rooms.domains.get(name)
    if domain is None:
        unknown = Outcome(Status.FAILED, f"domain {name!r} is not configured")
        return _Ended({entry.entry_id: unknown for of in entries.values() for entry in of})
    domain = domain.at_rate(rooms.learning.of(name).rate)
    propensities = rooms.propensities.get(name) if uses_propensities(domain) else ()
    lessons = read_lessons(rooms, domain, entries, propensities)
    world = rooms.releases.world(name)
    here = domain.in_space(world.blue.space)
    queries = queries_of(here, [one.session for one in lessons.teaching])
    rooms.clickstream.save_query_vectors(queries.embedded)
    try:
        blue = renew_copies(rooms, claim, world.blue, here, lessons, queries)
    except Exception:
        if rooms.releases.serving(name).collection_id == world.blue.collection_id:
            raise
        return _Ended({})  # it serves no more, and may be gone: they all wait for what does
    overtaken, behind = _follow(rooms, claim, domain, world, lessons, queries, blue)

    still_held = rooms.queue.renew(claim, rooms.lease_seconds)
    _forget(rooms, name, [o.user_id for o in lessons.forgotten if o.user_id and o.key in still_held])
    _update_profiles(rooms, domain, lessons.usable, [o.user_id for o in entries if o.key in still_held])
    still_held = rooms.queue.renew(claim, rooms.lease_seconds)
    # Whoever took these over while we wrote may have read newer evidence and been overwritten.
    rooms.queue.enqueue_rebuild(owner for owner in entries if owner.user_id and owner.key not in still_held)
    log.info(
        "users improved", domain=name, users=len(lessons.users), copies=blue.written, removed=blue.deleted,
        followers=len(world.followers),
    )  # fmt: skip

    # The overtaken stay pending: whoever holds them now, or the next claim, does them again.
    kept = {owner: of for owner, of in entries.items() if owner.user_id not in overtaken}
    outcomes = {
        entry.entry_id: blue.verdicts.get(entry.session_id or "")
        or blue.broken.get(owner.user_id)
        or Outcome(Status.DONE, keep=owner not in lessons.forgotten)
        for owner, of in kept.items()
        for entry in of
    }
    return _Ended(outcomes, behind)


def _follow(
    rooms: Improver,
    claim: Claim,
    domain: SearchDomain,
    world: World,
    lessons: Lessons,
    queries: Queries,
    blue: Renewed,
) -> tuple[set[str | None], bool]:
    """Make the copies of the collections that follow the blue one, whose verdicts stand whatever fails here.

    Returns:
        The users who must be done again, in any collection, and whether that is for a store that failed.
    """
    overtaken, lessons = set(blue.overtaken), lessons.after(blue.verdicts)
    written, lost = {world.blue.collection_id}, set()
    known = {domain.in_space(world.blue.space).encoder.model_id: queries}
    for release in world.followers:
        here = domain.in_space(release.space)
        space = here.encoder.model_id
        try:
            if space not in known:  # not remembered: sessions remember their query in the serving space
                known[space] = queries_of(here, [one.session for one in lessons.teaching])
            renewed = renew_copies(rooms, claim, release, here, lessons, known[space], blue.broken)
        except Exception as error:  # a store failed, and the blue copies are made
            log.error(
                "follower not improved", domain=domain.name, collection=release.collection_id,
                error=repr(error)[:2_000],
            )  # fmt: skip
            lost.add(release.collection_id)
            continue
        written.add(release.collection_id)
        overtaken |= renewed.overtaken
        if failures := {u: why.reason for u, why in renewed.broken.items() if u not in blue.broken}:
            log.warning(
                "copies not made in a follower", domain=domain.name, collection=release.collection_id,
                users=len(failures), reason=next(iter(failures.values())),
            )  # fmt: skip
    # Asked after writing: what began to follow before this, and was not written to, waits for our copies.
    now = {release.collection_id for release in rooms.releases.world(domain.name).releases}
    if now - written:
        overtaken |= set(lessons.users)
    return overtaken, bool(now & lost)


def _forget(rooms: Improver, name: str, users: Sequence[str]) -> None:
    """Delete what users without any session left have in any collection of a domain, blue or green.

    Whoever was at work on them when they were erased may have written to one that is not blue any more.
    """
    if users:
        for release in rooms.releases.list(name):
            rooms.vectors.erase(release.collection_id, users)
            rooms.batch.neighbours.drop(name, release.space, users)


def _update_profiles(
    rooms: Improver, domain: SearchDomain, usable: Iterable[UsableSession], users: Iterable[str | None]
) -> None:
    """Tell these users' profiles what their sessions say, and have them made anew."""
    taught: dict[str | None, list[UsableSession]] = {user: [] for user in users if user is not None}
    for one in usable:  # oldest first
        if (of := taught.get(one.session.user_id)) is not None:
            of.append(one)
    latest = -domain.profiles.remember
    evidence = {
        str(user): searched(of, evidence_for(domain.experiment, user, domain.evidence))[latest:]
        for user, of in taught.items()
    }
    rooms.batch.profiles.put_searched(domain.name, evidence)
    try:
        rooms.batch.rebuild(domain, evidence)
    except Exception:  # the copies are made, and the profiles stay due
        log.exception("profiles not updated", domain=domain.name, users=len(evidence))


def sweep_idle(rooms: Improver, idle_seconds: float) -> int:
    """Queue the idle sessions that pass their domain's selector; return how many were looked at."""
    idle = rooms.clickstream.idle_sessions(idle_seconds, SWEEP_LIMIT)
    requests, changed = [], []
    for session, version in idle:
        domain = rooms.domains.get(session.domain or "")
        if domain is None:
            continue
        try:
            selection = domain.selector.select(session)
        except Exception:  # queued all the same: the worker then records why it fails
            log.exception("selector failed", domain=domain.name, session_id=session.session_id)
            requests.append(Request(session.session_id, Owner(domain.name, session.user_id), version))
            continue
        if selection.usable:
            owner = Owner(domain.name, session.user_id)
            requests.append(Request(session.session_id, owner, version, selection.priority))
        else:
            changed.append(session.session_id)
    rooms.queue.enqueue(requests)
    rooms.queue.requeue(changed)  # what taught before and no longer passes takes its influence back
    rooms.clickstream.mark_swept((session.session_id, version) for session, version in idle)
    return len(idle)


def run_improvement(rooms: Improver, limit: int, idle_seconds: float) -> int:
    """Finish promotions, sweep, improve until nothing is free to claim, then what is due of the rest.

    A domain whose learning is frozen is swept, and its popularity counted; the rest waits.

    Returns:
        How many queue entries ended.
    """
    for name in rooms.releases.unrebuilt():  # whoever switched died before queueing the rebuild
        rebuild_all(rooms.releases, rooms.queue, rooms.batch.profiles, name)
    while sweep_idle(rooms, idle_seconds) == SWEEP_LIMIT:
        pass
    each_domain(rooms, refresh_propensities, learning=True)
    each_domain(rooms, sweep_expired, learning=True)
    total = in_vain = 0
    while in_vain < VAIN_ROUNDS:
        claimed, ended = improve_users(rooms, limit)
        if not claimed:
            break
        total += ended
        in_vain = 0 if ended else in_vain + 1
    each_domain(rooms, update_profiles, learning=True)
    each_domain(rooms, refresh_popularity)
    each_domain(rooms, watch_promotion)
    each_domain(rooms, repair_followers)
    each_domain(rooms, audit_quality)
    return total

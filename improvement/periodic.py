"""What a worker does for a domain when it is due: propensities, profiles, popularity, what expired."""

import time
from collections.abc import Callable
from itertools import chain

import numpy as np
import structlog

from clickstream.improvement_queue import Owner
from improvement.domain import SearchDomain
from improvement.errors import Conflict
from improvement.evidence import DAY
from improvement.experiments.treatment import all_evidence
from improvement.improver import Improver
from improvement.popularity import acted, popularity, searched
from improvement.profiles.batch import SETTLE_SECONDS
from improvement.promotion import profiles_tick
from improvement.propensity import MIN_SESSIONS, estimate_propensities, impressions

log = structlog.get_logger()

#: Seconds between two estimates of a domain's propensities, and after one that failed or had too little log.
PROPENSITIES_INTERVAL, PROPENSITIES_RETRY = 86_400, 3_600
#: Newest sessions that propensities are estimated from.
PROPENSITIES_SESSIONS = 20_000
#: Newest actions, and newest sessions, that popularity is counted from; and how many objects are remembered.
POPULARITY_LOG, POPULAR = 20_000, 1_000
#: Share of the time that counting popularity may take, and the most seconds between two counts because of it.
POPULARITY_SHARE, POPULARITY_LONGEST = 0.05, 3_600.0
#: Seconds after which a batch of profiles, or a count of popularity, is tried again when it failed.
RETRY_SECONDS = 60.0
#: Seconds between two sweeps of what expired; and of how many seconds each does again what the one before
#: did: who was being improved then, or by a clock behind ours, may have learned from it.
EXPIRY_INTERVAL, EXPIRY_OVERLAP = 86_400.0, 3_600.0
#: Seconds between two comparisons of what follows a domain's serving collection with it.
FOLLOWERS_INTERVAL = 3_600.0


def uses_propensities(domain: SearchDomain) -> bool:
    """Say whether a domain's evidence, or that of an arm, asks how likely each place is looked at."""
    return any(evidence.max_inverse_propensity > 1 for evidence in all_evidence(domain))


def refresh_propensities(rooms: Improver, domain: SearchDomain) -> None:
    """Estimate from a domain's newest sessions how likely each place is looked at, at most once a day.

    Rounded to hundredths, so that copies are not made again for noise.
    """
    if not uses_propensities(domain) or not rooms.propensities.due(domain.name, PROPENSITIES_RETRY):
        return
    history = rooms.clickstream.history(domain.name, limit=PROPENSITIES_SESSIONS)
    seen = impressions(history, domain.selector.click_events)
    enough = seen.sessions >= MIN_SESSIONS
    values = estimate_propensities(seen.places, seen.clicked, seen.pairs) if enough else np.empty(0)
    rooms.propensities.save(domain.name, values.round(2).tolist(), seen.sessions, time.time())
    if enough:
        rooms.propensities.next_in(domain.name, PROPENSITIES_INTERVAL)
    log.info("propensities estimated", domain=domain.name, sessions=seen.sessions, places=len(values))


def refresh_popularity(rooms: Improver, domain: SearchDomain) -> None:
    """Count anew what is popular in a domain, unless that was done a moment ago.

    What takes long is done less often than the interval says: at most `POPULARITY_SHARE` of the time.
    """
    tick, started = f"popularity {domain.name}", time.perf_counter()
    if not rooms.queue.take_tick(tick, max(POPULARITY_LONGEST, rooms.popularity_interval)):
        return
    next_in = RETRY_SECONDS
    try:
        actions = rooms.actions.newest(domain.name, POPULARITY_LOG)
        sessions = rooms.clickstream.history(domain.name, limit=POPULARITY_LOG)
        said = chain(acted(actions, domain.evidence), searched(sessions, domain.evidence))
        ranked = popularity(said, domain.profiles.popularity_half_life_days, POPULAR)
        rooms.popularity.save(domain.name, ranked)
        seconds = time.perf_counter() - started
        log.debug("popularity counted", domain=domain.name, objects=len(ranked), seconds=round(seconds, 3))
        # nothing popular: the service has just begun, and somebody waits for the first recommendations
        next_in = max(rooms.popularity_interval if ranked else 0.0, seconds / POPULARITY_SHARE)
    finally:
        rooms.queue.hurry(tick, next_in)


def update_profiles(rooms: Improver, domain: SearchDomain) -> None:
    """Make the profiles anew whose users have news, if that is due; what is left when it dies stays due."""
    tick = profiles_tick(domain.name)
    if not rooms.queue.take_tick(tick, rooms.profile_interval):
        return
    try:
        report = rooms.batch.run(domain.at_rate(rooms.learning.of(domain.name).rate))
        if report.again_soon:
            rooms.queue.hurry(tick, SETTLE_SECONDS)
    except BaseException:
        rooms.queue.hurry(tick, RETRY_SECONDS)
        raise
    if report:
        log.info(
            "profiles made", domain=domain.name, processed=len(report.processed),
            skipped=len(report.skipped), failed=len(report.failed),
        )  # fmt: skip


def sweep_expired(rooms: Improver, domain: SearchDomain) -> None:
    """Have copies forget, once a day, what sessions taught them that are too old by now.

    Those sessions are queued again; improving their users finds them expired, so that copies go also of users
    who never come back. Dying half-way leaves the rest to the next sweep.
    """
    tick, days = f"expired {domain.name}", domain.copies.expire_days
    if days is None or not rooms.queue.take_tick(tick, EXPIRY_INTERVAL):
        return
    until, swept = rooms.clock() - days * DAY, 0
    try:
        since = (rooms.queue.reached(tick) or 0.0) - EXPIRY_OVERLAP
        for page in rooms.clickstream.registered(domain.name, since, until):
            rooms.queue.requeue([session_id for session_id, _ in page], failed=False)
            rooms.queue.reach(tick, page[-1][1])
            swept += len(page)
        rooms.queue.reach(tick, until)
    except BaseException:
        rooms.queue.hurry(tick, RETRY_SECONDS)
        raise
    log.info("expired sessions swept", domain=domain.name, sessions=swept)


def repair_followers(rooms: Improver, domain: SearchDomain) -> None:
    """Bring collections that follow the serving one in line with it, once an hour.

    They lack what could not be made for them when it came, and what somebody wrote who died half-way. Nothing
    is deleted: one that served may have what the serving one lacks. Collections being built do it themselves.
    """
    tick, name = f"followers {domain.name}", domain.name
    if not rooms.queue.take_tick(tick, FOLLOWERS_INTERVAL):
        return
    world = rooms.releases.world(name)

    def still_serves(count: int) -> None:
        if rooms.releases.serving(name).collection_id != world.blue.collection_id:
            raise Conflict("another collection serves by now")

    def renew(users: set[str]) -> None:
        rooms.queue.enqueue_rebuild(Owner(name, user) for user in users)

    try:
        building = {build.build_id for build in rooms.builds.list(name) if build.active}
        for release in (one for one in world.followers if one.build not in building):
            brought = rooms.mirror.reconcile(domain, world.blue, release, still_serves, renew, deleting=False)
            if brought.written or brought.failed:
                log.info(
                    "follower compared", domain=name, collection=release.collection_id,
                    written=brought.written, failed=len(brought.failed),
                )  # fmt: skip
    except BaseException:
        rooms.queue.hurry(tick, RETRY_SECONDS)
        raise


def each_domain(
    rooms: Improver, job: Callable[[Improver, SearchDomain], None], *, learning: bool = False
) -> None:
    """Do a job for every domain; one that fails is logged and does not keep the others from theirs.

    Args:
        learning: leave out the domains whose learning is frozen.
    """
    frozen = rooms.learning.frozen(rooms.domains) if learning else set()
    for name, domain in rooms.domains.items():
        if name in frozen:
            continue
        try:
            job(rooms, domain)
        except Exception:  # what was there before does meanwhile, and the other domains go on
            log.exception("job failed", job=job.__name__, domain=name)

"""What a worker does for a domain when it is due: propensities, profiles, popularity."""

import time
from collections.abc import Callable
from itertools import chain

import numpy as np
import structlog

from improvement.domain import SearchDomain
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


def uses_propensities(domain: SearchDomain) -> bool:
    """Say whether a domain's evidence asks how likely each place is looked at."""
    return domain.evidence.max_inverse_propensity > 1


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
        report = rooms.batch.run(domain)
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


def each_domain(rooms: Improver, job: Callable[[Improver, SearchDomain], None]) -> None:
    """Do a job for every domain; one that fails is logged and does not keep the others from theirs."""
    for domain in rooms.domains.values():
        try:
            job(rooms, domain)
        except Exception:  # what was there before does meanwhile, and the other domains go on
            log.exception("job failed", job=job.__name__, domain=domain.name)

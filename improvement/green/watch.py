"""The watch over a promotion: click-through since, compared with the same length of time before."""

from collections.abc import Iterable
from dataclasses import replace

import structlog

from improvement.domain import SearchDomain
from improvement.errors import Conflict
from improvement.evaluation.clickthrough import LOOKS, Compared, compared, look_due
from improvement.improver import Improver
from improvement.promotion import CLICKS, ROLLED_BACK, finish_switch, rollback
from improvement.promotion_log import Promotion, Watch, WatchState
from improvement.quality.alerts import Alert, Severity

log = structlog.get_logger()

#: Who rolls back.
WATCH = "watch"
#: Seconds between two counts of what came in since.
EVERY = 60.0
#: Seconds that a session has for a click, before and after alike; but at most this share of the watch.
SETTLE, SETTLE_SHARE = 600.0, 0.1
#: Sessions of each period that are read at most.
MOST = 10_000
HOUR = 3_600


def watch_promotion(rooms: Improver, domain: SearchDomain) -> None:
    """Finish a promotion whose maker died, and look at what it did to click-through when that is due."""
    finish_switch(rooms, domain)
    if rooms.queue.take_tick(f"{WATCH} {domain.name}", EVERY):
        look(rooms, domain, rooms.clock())


def look(rooms: Improver, domain: SearchDomain, now: float) -> Watch | None:
    """Compare click-through since the promotion that serves with the time before, if it is time to.

    That is at ``watch_sessions`` sessions since, whenever their number has doubled, and at the end. It is an
    alert when even the upper end of the interval is below ``-watch_margin``; if the domain says so and the
    collection that served before was kept in line, it is rolled back to.

    A watch is over when its collection stops serving. It is not taken up again when a rollback makes that
    serve once more: what others did meanwhile says nothing about it, and an operator chose it knowing more.

    Args:
        now: seconds since 1970.

    Returns:
        What is known; None where no promotion is watched.
    """
    serving = rooms.releases.serving(domain.name).collection_id
    promotion = rooms.releases.promotions.latest(domain.name, serving)
    if promotion is None:
        return None
    history = rooms.releases.history(domain.name)
    for older in history:
        if older.watch is not None and older.at < promotion.at:
            _end(rooms, older, older.watch)
    if promotion.watch is None or promotion.previous is None:
        return None
    if _came_back(history, promotion):
        return _end(rooms, promotion, promotion.watch)
    watch, ends = promotion.watch, promotion.at + domain.promotion.watch_hours * HOUR
    if watch.state is WatchState.WATCHING:
        watch = _looked(rooms, domain, promotion, watch, min(now, ends), now >= ends, now)
    if watch.state is WatchState.FELL and now < ends + HOUR:
        _roll_back(rooms, domain, promotion, watch)
    return watch


def _came_back(history: Iterable[Promotion], promotion: Promotion) -> bool:
    """Say whether another collection served since a promotion, and was rolled back from."""
    return any(
        one.previous == promotion.current and one.at > promotion.at and one.undone_at is not None
        for one in history
    )


def _end(rooms: Improver, promotion: Promotion, watch: Watch) -> Watch:
    """End the watch over a collection that served no longer; what was found stays."""
    if watch.state is WatchState.WATCHING:
        watch = replace(watch, state=WatchState.ENDED, reason="another collection served instead")
        rooms.releases.promotions.watched(promotion, watch)
    return watch


def _looked(
    rooms: Improver,
    domain: SearchDomain,
    promotion: Promotion,
    watch: Watch,
    until: float,
    last: bool,
    now: float,
) -> Watch:
    """Return what is known after this look, and write it down if it is news."""
    settings, log_of = domain.promotion, rooms.releases.promotions
    settle = min(SETTLE, SETTLE_SHARE * settings.watch_hours * HOUR)
    until -= settle
    count = rooms.clickstream.count_registered(domain.name, promotion.at, until)
    if not last and not look_due(count, settings.watch_sessions, watch.looks):
        return watch
    found = _compared(rooms, domain, promotion, until, settle) if watch.looks < LOOKS else None
    fell = found is not None and found.high < -settings.watch_margin
    if found is not None:
        watch = replace(watch, found=found.as_json())
    watch = replace(watch, looks=watch.looks + 1, looked_at=now)
    if fell or last:
        state = WatchState.FELL if fell else WatchState.ENDED
        watch = replace(watch, state=state, reason=_reason(watch, fell))
    if fell:  # told first: should we die before it is written down, it is found, and told, again
        rooms.alerts.tell(
            Alert(domain.name, CLICKS, Severity.ALARM, watch.reason or "", {**(watch.found or {})})
        )
    log_of.watched(promotion, watch)
    return watch


def _compared(
    rooms: Improver, domain: SearchDomain, promotion: Promotion, until: float, settle: float
) -> Compared | None:
    """Compare the time since a promotion with as much before, or as there is since the switch before it."""
    at, clicks = promotion.at, domain.selector.click_events
    earlier = [one for one in rooms.releases.history(domain.name) if one.previous is not None]
    switches = [when for one in earlier for when in (one.at, one.undone_at) if when is not None and when < at]
    since = max([at - (until - at), *switches])

    def sessions(start: float, end: float) -> list[tuple[str | None, bool]]:
        return rooms.clickstream.clickthrough(domain.name, start, end, clicks, within=settle, most=MOST)

    return compared(sessions(since, at), sessions(at, until), domain.promotion.watch_sessions)


def _reason(watch: Watch, fell: bool) -> str:
    found = watch.found
    if found is None:
        return "there were too few sessions or users to say anything"
    shares = f"from {found['before']:.1%} to {found['after']:.1%}"
    if not fell:
        return f"the share of sessions with a click went {shares}: no worse, as far as that tells"
    return (
        f"the share of sessions with a click fell {shares} since the promotion "
        f"(difference {found['low']:+.3f} to {found['high']:+.3f})"
    )


def _roll_back(rooms: Improver, domain: SearchDomain, promotion: Promotion, watch: Watch) -> None:
    if not domain.promotion.roll_back:
        return
    world = rooms.releases.world(domain.name)
    if world.blue.collection_id != promotion.current:
        return  # somebody switched while we looked
    if not any(release.collection_id == promotion.previous for release in world.followers):
        log.warning("not rolled back: what served before was not kept in line", domain=domain.name)
        return
    try:
        rollback(rooms, domain.name, WATCH, watch.reason)
    except Conflict as refused:  # somebody is switching: the next look finds out what became of it
        log.warning("not rolled back", domain=domain.name, reason=str(refused))
        return
    message = f"rolled back by itself: {watch.reason}"
    rooms.alerts.tell(Alert(domain.name, ROLLED_BACK, Severity.ALARM, message))

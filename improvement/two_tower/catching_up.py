"""Learn what was logged and never learned: what failed, was frozen, or came before its session."""

from collections.abc import Callable
from itertools import islice, takewhile

import structlog

from improvement.domain import SearchDomain
from improvement.evidence import DAY
from improvement.improver import Improver
from improvement.two_tower.live import LiveTowers, rate_of
from improvement.two_tower.progress import LostTraining

log = structlog.get_logger()

#: How far back a domain's first time looks, in seconds.
LOOK_BACK = 7 * DAY
#: How many seconds each time does again of what the time before did: what came by a clock behind ours.
OVERLAP = 300.0
#: Seconds for which what was received is left to the process that received it: it is at it.
SETTLED = 60.0
#: Actions read at once; new engagements that one time learns at least before it leaves the rest to the next.
PAGE, ENOUGH = 500, 2_000
#: Actions, and sessions, that one time reads at most behind where the time before came to.
READ = 20_000


def catch_up(rooms: Improver, domain: SearchDomain, settled: float = SETTLED) -> int:
    """Learn what was logged and never learned; return how many engagements.

    Of actions those received since the time before, of sessions those active since then, oldest first; what
    has its training pair was learned. What is not done in one time, or fails, is done the next time. While
    nothing serves, or learning is frozen, nothing is done, and what comes meanwhile waits; before the first
    time it does so for `LOOK_BACK` seconds.

    One process at a time does it for a domain; while another one does, this one does nothing. What was
    received by a clock ahead of ours waits until ours comes to it.

    Args:
        settled: seconds for which what was received, or active, last is left alone.
    """
    assert domain.towers is not None
    if not rate_of(rooms.learning, domain) or rooms.towers.serving(domain.name) is None:
        return 0
    live = LiveTowers(
        rooms.domains, rooms.entries, rooms.pairs, rooms.vectors, rooms.towers, rooms.clickstream,
        rooms.actions, rooms.learning, rooms.metrics, rooms.clock,
    )  # fmt: skip
    until, learned = rooms.clock() - settled, 0
    # No domain can have this name, for a dot is not allowed in it.
    with rooms.training.held(f"{domain.name}.catching up", rooms.tower_lease) as hold:
        if hold is None:
            return 0
        try:
            learned += _actions(rooms, domain, live, until, hold.keep_on)
            learned += _sessions(rooms, domain, live, until, hold.keep_on)
        except LostTraining:
            log.info("another worker catches up by now", domain=domain.name)
    if learned:
        log.info("engagements caught up with", domain=domain.name, engagements=learned)
    return learned


def _actions(
    rooms: Improver, domain: SearchDomain, live: LiveTowers, until: float, keep: Callable[[], None]
) -> int:
    name, learned, read = f"towers actions {domain.name}", 0, 0
    reached = _reached(rooms, name, until)
    found = takewhile(
        lambda action: action.received_at <= until, rooms.actions.since(domain.name, reached - OVERLAP)
    )
    while learned < ENOUGH and read < READ and (page := list(islice(found, PAGE))):
        learned += live.learn_actions(domain, page, late=True)
        read += sum(action.received_at > reached for action in page)
        keep()
        _reach(rooms, name, reached, page[-1].received_at)
    return learned


def _sessions(
    rooms: Improver, domain: SearchDomain, live: LiveTowers, until: float, keep: Callable[[], None]
) -> int:
    name, learned, read = f"towers sessions {domain.name}", 0, 0
    reached = _reached(rooms, name, until)
    for found in rooms.clickstream.active(domain.name, reached - OVERLAP):
        page = [(session, active_at) for session, active_at in found if active_at <= until]
        if not page:
            break
        said = [
            (session.session_id, session.user_id, event, active_at)
            for session, active_at in page
            if session.user_id is not None and not session.is_irrelevant
            for event in session.events
        ]
        learned += live.learn_events(domain, said, late=True)
        read += sum(active_at > reached for _, active_at in page)
        keep()
        _reach(rooms, name, reached, page[-1][1])
        if learned >= ENOUGH or read >= READ:
            break
    return learned


def _reached(rooms: Improver, name: str, until: float) -> float:
    """Return how far the time before came, by our clock at most: its own may have been ahead."""
    rooms.queue.take_tick(name, 0.0)  # only what was taken once remembers how far it came
    reached = rooms.queue.reached(name)
    return rooms.clock() - LOOK_BACK if reached is None else min(reached, until)


def _reach(rooms: Improver, name: str, before: float, now: float) -> None:
    if now > before:
        rooms.queue.reach(name, now)

"""What the vital signs of a domain's towers are judged by: read from pairs, entries, sessions and vectors."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from clickstream.improvement_queue import Owner
from clickstream.records import ReceivedAction, RegisteredSession
from improvement.domain import SearchDomain
from improvement.improver import Improver
from improvement.two_tower.engagement import of_action, of_event
from improvement.two_tower.entries import Kind
from improvement.two_tower.names import towers_name
from improvement.two_tower.pairs import Pair
from improvement.two_tower.sampling import Reason
from improvement.two_tower.serving import TowerServing
from improvement.two_tower.settings import TowerSettings
from improvement.two_tower.vital_signs import LATE_SECONDS, LEAST_TIMED, trained

HOUR, DAY, WEEK = 3_600.0, 86_400.0, 604_800.0
#: Newest engagements that are asked how long learning took.
TIMED = 1_000
#: Engagements of each hour of the last day, its first ones, that are asked whether learning was late.
LATE_ASKED = 100
#: Newest items, and newest sessions, of a day that are read for the click-through of what is new; as many
#: sessions of a week for what users did of whom the towers know nothing.
NEW_ITEMS, SESSIONS = 5_000, 5_000
#: Newest sessions, and newest actions, that are asked who was active.
ACTIVE_SESSIONS, ACTIVE_ACTIONS = 100_000, 20_000
#: Seconds that a new item may take until it has a vector.
GRACE = 60.0


@dataclass(frozen=True)
class Pairs:
    """Training pairs of a period.

    Attributes:
        reasons: how many came, by reason.
        positives, negatives: how many of them are trained on, see `trained`.
        waiting: engagements that no batch learned from yet; counted up to what came.
    """

    reasons: dict[str, int]
    positives: int
    negatives: int
    waiting: int

    def as_json(self) -> dict[str, Any]:
        """Return what the API shows."""
        ratio = self.negatives / self.positives if self.positives else None
        return asdict(self) | {"negatives_per_positive": ratio}


@dataclass(frozen=True)
class NewItems:
    """What became of the items of the last day.

    Attributes:
        settled: how many are older than `GRACE`; ``with_vectors``: those that the towers' collection has.
        shown, clicked: how often any of them was shown in a session, and clicked there.
    """

    settled: int = 0
    with_vectors: int = 0
    shown: int = 0
    clicked: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return what the API shows."""
        return asdict(self) | {
            "coverage": self.with_vectors / self.settled if self.settled else None,
            "click_through": self.clicked / self.shown if self.shown else None,
        }


@dataclass(frozen=True)
class Covered:
    """Of the users who were active in a period.

    Attributes:
        active: how many; ``looked_at``: how many of them the rest is of, always the same ones.
        ready: who engaged often enough for a vector; ``covered``: who of these has one of the space that
            serves.
    """

    active: int = 0
    looked_at: int = 0
    ready: int = 0
    covered: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return what the API shows."""
        return asdict(self) | {"share": self.covered / self.ready if self.ready else None}


@dataclass(frozen=True)
class Measured:
    """What vital signs are judged by.

    Attributes:
        seconds: that learning from each of the newest engagements took; ``timed``: of an "hour" or a "day".
        per_hour: training pairs an hour: in the last one, or on the last day's mean where that is more (the
            negatives of many engagements come at once, and nights are quiet).
        late, asked: of so many engagements of the last day so many were learned from much later.
        pairs: of the last day.
        items: of the last day.
        users: of the last day and of the last week.
    """

    seconds: list[float]
    timed: str
    per_hour: float
    pairs: Pairs
    items: NewItems
    users: dict[str, Covered] = field(default_factory=dict)
    late: int = 0
    asked: int = 0

    @property
    def any_pairs(self) -> bool:
        """Whether a pair came in the last day."""
        return any(self.pairs.reasons.values())


def measure(
    rooms: Improver, domain: SearchDomain, towers: TowerSettings, serving: TowerServing | None, now: float
) -> Measured:
    """Read a domain's vital signs as of ``now``, seconds since 1970."""
    seconds, timed = rooms.pairs.latencies(domain.name, now - HOUR, TIMED), "hour"
    if len(seconds) < LEAST_TIMED:
        seconds, timed = rooms.pairs.latencies(domain.name, now - DAY, TIMED), "day"
    in_hour = sum(rooms.pairs.counts(domain.name, now - HOUR).values())
    day = pairs_since(rooms, domain, now - DAY)
    late, asked = learned_late(rooms, domain, now)
    return Measured(
        seconds=seconds,
        timed=timed,
        per_hour=max(float(in_hour), sum(day.reasons.values()) * HOUR / DAY),
        pairs=day,
        items=new_items(rooms, domain, serving, now),
        users=covered_users(rooms, domain, towers, serving, now),
        late=late,
        asked=asked,
    )


def pairs_since(rooms: Improver, domain: SearchDomain, since: float) -> Pairs:
    """Return what pairs came since then, seconds since 1970."""
    counts = rooms.pairs.counts(domain.name, since)
    engaged = counts.get(Reason.ENGAGED, 0) + counts.get(Reason.DISLIKED, 0)
    waiting = rooms.pairs.unclaimed(domain.name, engaged)
    positives, negatives = trained(counts, waiting)
    return Pairs({reason.value: count for reason, count in counts.items()}, positives, negatives, waiting)


def learned_late(rooms: Improver, domain: SearchDomain, now: float) -> tuple[int, int]:
    """Return how many engagements of the last day were learned from late, and of how many that is asked.

    Those that were caught up with, for learning failed when they came. The first `LATE_ASKED` of each hour
    are asked, but none of before the first towers served: these nobody could learn from at once.
    """
    served = rooms.releases.promotions.history(towers_name(domain.name))
    began = min((promotion.at for promotion in served), default=now)
    late = asked = 0
    for hour in range(round(DAY / HOUR)):
        since = now - DAY + hour * HOUR
        if since < began:
            continue
        for pair in islice(rooms.pairs.between(domain.name, since, since + HOUR), LATE_ASKED):
            asked += 1
            late += _late(pair)
    return late, asked


def new_items(rooms: Improver, domain: SearchDomain, serving: TowerServing | None, now: float) -> NewItems:
    """Return what became of the newest items: have they vectors, were they clicked where they were shown?

    Items of which nobody knows when they came (``created_at`` 0, they were there before the towers) are not
    new.
    """
    newest = rooms.entries.newest_items(domain.name, NEW_ITEMS)
    new = {
        entry.id: entry.created_at for entry in newest if entry.created_at and entry.created_at >= now - DAY
    }
    if not new:
        return NewItems()
    settled = {object_id for object_id, at in new.items() if at <= now - GRACE}
    held = rooms.vectors.means(serving.collection_id, settled) if serving is not None else {}
    shown = clicked = 0
    for session in _sessions(rooms, domain, now - DAY, now):
        seen = {result.object_id for result in session.search_results} & new.keys()
        shown += len(seen)
        clicks = domain.selector.click_events
        clicked += len(seen & {e.object_id for e in session.events if e.event_type in clicks})
    return NewItems(len(settled), len(held) if serving is not None else 0, shown, clicked)


def covered_users(
    rooms: Improver, domain: SearchDomain, towers: TowerSettings, serving: TowerServing | None, now: float
) -> dict[str, Covered]:
    """Return how many of those who were active in the last "day" and "week", and did enough, have a vector.

    One that can be used. Of whom the towers know nothing the log says whether they did enough.
    """
    actions = list(_actions(rooms, domain, now - WEEK))
    active, looked_at = dict[str, set[str]](), dict[str, list[str]]()
    for name, since in {"day": now - DAY, "week": now - WEEK}.items():
        active[name] = rooms.clickstream.active_users(domain.name, since, ACTIVE_SESSIONS)
        active[name] |= {action.user_id for action in actions if action.received_at >= since}
        by_key = sorted(active[name], key=lambda user: Owner(domain.name, user).key)
        looked_at[name] = by_key[: towers.health.sample]
    everybody = set().union(*looked_at.values())
    entries = {
        entry.id: entry
        for entry in rooms.entries.load(domain.name, [(Kind.USER, user) for user in everybody]).values()
    }
    least, space = towers.min_engagements, serving.checkpoint_id if serving is not None else None
    ready = {user for user, entry in entries.items() if entry.count >= least}
    covered = {user for user in ready if entries[user].vector is not None and entries[user].space == space}
    if serving is not None and (unknown := everybody - entries.keys()):
        ready |= _engaged_enough(rooms, domain, serving, unknown, actions, least, now)
    return {
        name: Covered(len(active[name]), len(users), len(ready.intersection(users)),
                      len(covered.intersection(users)))
        for name, users in looked_at.items()
    }  # fmt: skip


def _engaged_enough(
    rooms: Improver,
    domain: SearchDomain,
    serving: TowerServing,
    users: Collection[str],
    actions: Collection[ReceivedAction],
    least: int,
    now: float,
) -> set[str]:
    """Return those of these users who engaged often enough, by these actions and by a week's sessions.

    With objects that the towers' collection holds: only these move anybody.
    """
    said = [of_action(action, domain) for action in actions if action.user_id in users]
    for session in _sessions(rooms, domain, now - WEEK, now):
        if (user := session.user_id) is not None and user in users and not session.is_irrelevant:
            said += [of_event(session.session_id, user, event, domain, now) for event in session.events]
    objects: dict[str, list[str]] = defaultdict(list)
    for one in said:
        if one is not None:
            objects[one.user_id].append(one.object_id)
    often = {user: of for user, of in objects.items() if len(of) >= least}
    held = rooms.vectors.revisions(serving.collection_id, set().union(*often.values())) if often else {}
    return {user for user, of in often.items() if sum(one in held for one in of) >= least}


def _sessions(rooms: Improver, domain: SearchDomain, since: float, now: float) -> Iterator[RegisteredSession]:
    for session in rooms.clickstream.history(domain.name, limit=SESSIONS):
        at = session.registered_at
        if at is None or at > now:
            continue
        if at < since:
            return
        yield session


def _actions(rooms: Improver, domain: SearchDomain, since: float) -> Iterator[ReceivedAction]:
    for action in islice(rooms.actions.newest(domain.name, ACTIVE_ACTIONS), ACTIVE_ACTIONS):
        if action.received_at < since:
            return
        yield action


def _late(pair: Pair) -> bool:
    """Say whether an engagement was caught up with, and long after it came."""
    if pair.seconds is not None or pair.stored_at is None:
        return False
    return pair.stored_at - pair.received_at > LATE_SECONDS

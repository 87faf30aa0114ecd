"""How far users and items moved in the towers' space: a sample of each now, and as it was earlier."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clickstream.improvement_queue import Owner
from improvement.domain import SearchDomain
from improvement.evaluation.drift import Drift, Grade
from improvement.improver import Improver
from improvement.quality.audits import Finding
from improvement.quality.moved import AGES, Moved, moved, objects_now
from improvement.quality.samples import DAY, Row, SampleStore, Snapshot
from improvement.quality.samples import Kind as Sampled
from improvement.releases import Serving
from improvement.two_tower.entries import Kind
from improvement.two_tower.names import towers_domain, towers_name
from improvement.two_tower.serving import TowerServing
from improvement.two_tower.settings import TowerHealth, TowerSettings
from improvement.two_tower.vital_signs import DRIFT, drift, kept, week_drift

#: Whose vectors they are, as the samples' store calls them; and in words.
ITEMS, USERS = Sampled.OBJECTS, Sampled.PROFILES
WORDS = {ITEMS: "items", USERS: "users"}
#: Nearest neighbours that are compared where vectors cannot be, and items below which that says nothing.
NEIGHBOURS, LEAST_NEIGHBOURS = 10, 50


@dataclass(frozen=True)
class TowerMoved:
    """What became of a sample since an earlier look.

    Attributes:
        moved: cause "learning" in the same space, else "space", without a drift: a promotion.
        kept_neighbours: share of the nearest neighbours that items kept when the space changed, 0..1; None
            where that was not asked, or there are too few.
    """

    moved: Moved
    kept_neighbours: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what the API shows."""
        return self.moved.as_json() | {"kept_neighbours": self.kept_neighbours}


Changes = Mapping[Sampled, Mapping[str, TowerMoved]]


def snapshots(
    rooms: Improver, domain: SearchDomain, towers: TowerSettings, serving: TowerServing, at: float
) -> tuple[Snapshot, Snapshot, dict[str, float]]:
    """Return the vectors of a sample of the items and of the users as they serve, and who these users are.

    Who they are is said with when their entries were made, in seconds since 1970: an entry of another time
    is of somebody who was erased, and came back.

    Of the users those who engaged often enough to be recommended by their vectors: before that, each
    engagement turns them far, and nobody sees it.

    Args:
        at: now, seconds since 1970.
    """
    sampled = replace(domain.audit, sample=towers.health.sample)
    theirs = replace(towers_domain(domain), audit=sampled)
    serves = Serving(serving.collection_id, serving.checkpoint_id)
    items = objects_now(rooms, theirs, serves, at)
    entries = rooms.entries.sample(domain.name, Kind.USER, towers.health.sample)
    rows = {
        _key(domain, entry.id): Row(entry.vector, "", _key(domain, entry.id))
        for entry in entries
        if entry.vector is not None
        and entry.space == serving.checkpoint_id
        and entry.count >= towers.min_engagements
    }
    users = Snapshot(theirs.name, USERS, at, serves.collection_id, serves.space, rows)
    return items, users, {entry.id: entry.created_at for entry in entries}


def compare(samples: SampleStore, now: Snapshot) -> dict[str, TowerMoved]:
    """Return how far a sample moved since about a day and since about a week ago.

    Nothing older than the baseline is compared with: what is put back by healing has moved, too.
    """
    baseline, found = samples.baseline(now.domain), {}
    for name, days in AGES.items():
        before = samples.before(now.domain, now.kind, now.at - days * DAY)
        if before is not None and before.at <= baseline:
            before = None
        share = None
        if before is not None and before.space != now.space and now.kind is ITEMS:
            same = [i for i, row in now.rows.items() if i in before.rows and before.rows[i].mark == row.mark]
            if len(same) >= LEAST_NEIGHBOURS:
                old, new = (np.stack([of.rows[i].vector for i in same]) for of in (before, now))
                share = kept_neighbours(old, new)
        found[name] = TowerMoved(moved(before, now), share)
    return found


def kept_neighbours(before: ArrayLike, now: ArrayLike, count: int = NEIGHBOURS) -> float:
    """Return the mean share of each row's nearest neighbours by cosine that are so in both spaces, 0..1.

    It asks nothing of the axes, so that spaces of two trainings can be compared.

    Args:
        before, now: (N, D) and (N, E): the same N > ``count`` things, in the same order.

    >>> rows = np.eye(4)[[0, 0, 1, 1]]
    >>> kept_neighbours(rows, -rows[:, ::-1], 1), kept_neighbours(rows, np.eye(4)[[0, 1, 0, 1]], 1)
    (1.0, 0.0)
    """
    old, new = _nearest(before, count), _nearest(now, count)
    return float((old & new).sum() / old.sum())


def drifted(changes: Changes, health: TowerHealth) -> Finding | None:
    """Judge the drift of a day, of items or of users, whichever moved more; None where nothing is known.

    Across a promotion it is how many of their neighbours items kept.
    """
    far = [(one.mean, WORDS[kind], one) for kind, one in _known(changes, "day", health)]
    if far:
        value, who, most = max(far, key=lambda each: each[0])
        what = (
            f"{who} moved by {value:.3f} a day ({most.compared} compared over {most.days:.1f} days, 95th "
            f"percentile {most.p95:.3f} a day, cosine distance)"
        )
        return drift(value, what, health)
    day = changes[ITEMS]["day"] if ITEMS in changes else None
    if day is None or day.moved.cause != "space":
        return None
    if day.kept_neighbours is not None:
        return kept(day.kept_neighbours, False, health)
    message = "another checkpoint was promoted since: its space is another, drift is measured anew"
    return Finding(DRIFT, Grade.GOOD, message, None)


def drifted_in_week(changes: Changes, health: TowerHealth) -> Finding | None:
    """Judge how like itself a sample stayed over the week, or across promotions who is near to whom.

    None where nothing is known.
    """
    like = [1 - one.whole for _, one in _known(changes, "week", health)]
    if like:
        return week_drift(min(like))
    week = changes[ITEMS]["week"] if ITEMS in changes else None
    if week is None or week.moved.cause != "space" or week.kept_neighbours is None:
        return None
    return kept(week.kept_neighbours, True, health)


def _known(changes: Changes, period: str, health: TowerHealth) -> list[tuple[Sampled, Drift]]:
    """Return what drifted in a period; of users only where these are enough."""
    drifts = [(kind, periods[period].moved.drift) for kind, periods in changes.items()]
    least = {USERS: health.least_pairs}
    return [(kind, one) for kind, one in drifts if one is not None and one.compared >= least.get(kind, 1)]


def remember(
    rooms: Improver,
    domain: SearchDomain,
    taken: tuple[Snapshot, ...],
    users: Mapping[str, float],
    anew: bool = False,
) -> None:
    """Keep what later looks compare with, unless that was done since the baseline and a moment ago.

    Whoever erases a user deletes entries first and samples after; here samples are written first, and then
    the entries are looked at. So one of the two finds what is left, whatever the user does again meanwhile.

    Args:
        users: whom they were taken of, as `snapshots` says.
        anew: keep it all the same: another checkpoint serves.
    """
    baseline = rooms.samples.baseline(towers_name(domain.name))
    for snapshot in taken:
        newest = rooms.samples.newest_at(snapshot.domain, snapshot.kind)
        if anew or newest is None or newest <= baseline or snapshot.at - newest >= AGES["day"] * DAY:
            rooms.samples.save(snapshot)
    there = rooms.entries.load(domain.name, [(Kind.USER, user) for user in users])
    made = {entry.id: entry.created_at for entry in there.values()}
    gone = [user for user, at in users.items() if made.get(user) != at]  # erased while we read
    rooms.samples.erase([_key(domain, user) for user in gone])


def _key(domain: SearchDomain, user_id: str) -> str:
    """Return the user's key in the domain itself, by which erasing finds what is remembered of them."""
    return Owner(domain.name, user_id).key


def _nearest(rows: ArrayLike, count: int) -> NDArray[np.bool_]:
    """Return (N, N): whether each row's ``count`` nearest others include another; ties by their order."""
    wide = np.asarray(rows, np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    unit = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -np.inf)
    chosen = np.argsort(-likeness, axis=1, kind="stable")[:, :count]
    found = np.zeros(likeness.shape, bool)
    np.put_along_axis(found, chosen, True, axis=1)
    return found

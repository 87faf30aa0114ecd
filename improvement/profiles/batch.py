"""ProfileBatch: makes profiles anew, for many users at once, from what the log says they did."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import structlog

from clickstream.actions import ActionStore
from improvement.domain import SearchDomain
from improvement.objects import Vectors
from improvement.profiles.history import interactions
from improvement.profiles.made import made
from improvement.profiles.neighbours import Neighbours
from improvement.profiles.profile import Profile, StoredProfile
from improvement.profiles.store import ProfileStore, Rebuilt
from improvement.releases import Releases
from improvement.telemetry import Metrics
from improvement.vectors import VectorStore

log = structlog.get_logger()

#: Users asked for in one query; bounds the memory of a SecantusDB, which holds them until they are read.
SWEEP = 20_000
#: Users made at once, while those before them are being stored.
GROUP = 250
#: Interactions aggregated at once, and mean parts kept from group to group; bounds the memory here.
ROWS = 100_000
#: Seconds after which a push of actions that was announced and not applied is taken for dead.
SETTLE_SECONDS = 30.0
#: Seconds after which a user whose profile could not be made is due again.
RETRY_SECONDS = 3_600.0

ACTING, NOTHING_LEFT = "acting right now", "no interactions left"


@dataclass
class BatchReport:
    """What a batch did, user by user.

    Attributes:
        processed: users whose profile was made anew and can be used.
        skipped: users of whom there is none to use, or not now; and why.
        failed: users whose profile could not be made; and why.
        again_soon: whether somebody whose profile is out of date altogether was acting right now.
    """

    domain: str
    processed: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    again_soon: bool = False

    def __len__(self) -> int:
        return len(self.processed) + len(self.skipped) + len(self.failed)

    def add(self, other: "BatchReport") -> None:
        """Count in what another batch of the domain did."""
        self.processed += other.processed
        self.skipped |= other.skipped
        self.failed |= other.failed
        self.again_soon |= other.again_soon

    def as_json(self) -> dict[str, Any]:
        """Return how many were processed, and everybody else with the reason."""

        def listed(reasons: Mapping[str, str]) -> list[dict[str, str]]:
            return [{"user_id": user, "domain": self.domain, "reason": why} for user, why in reasons.items()]

        return {
            "processed": len(self.processed),
            "skipped": listed(self.skipped),
            "failed": listed(self.failed),
        }


class Means:
    """Mean parts of a collection's objects, each fetched once while there is room to remember them."""

    def __init__(self, vectors: VectorStore) -> None:
        self._vectors = vectors
        self._collection = ""
        self._known: dict[str, Vectors | None] = {}

    def of(self, collection: str, object_ids: set[str]) -> Mapping[str, Vectors | None]:
        """Return at least these objects' mean parts (D,), None for objects without, or with no direction."""
        if collection != self._collection or len(self._known) + len(object_ids) > ROWS:
            self._collection, self._known = collection, {}
        if missing := object_ids - self._known.keys():
            found = self._vectors.means(collection, missing)
            self._known |= {object_id: found.get(object_id) for object_id in missing}
        return self._known


@dataclass
class _Group:
    """What became of some users, before it is stored."""

    space: str
    report: BatchReport
    started: float
    changes: list[Rebuilt] = field(default_factory=list)
    empty: list[StoredProfile] = field(default_factory=list)


@dataclass(frozen=True)
class ProfileBatch:
    """Makes profiles anew, `GROUP` users at a time; every group costs the same number of store calls.

    Safe to repeat, and to run several times at once: what is written is a function of the log, and it is
    written only if the user did nothing meanwhile.
    """

    profiles: ProfileStore
    actions: ActionStore
    vectors: VectorStore
    releases: Releases
    neighbours: Neighbours
    metrics: Metrics = field(default_factory=Metrics)
    clock: Callable[[], float] = time.time

    def run(
        self,
        domain: SearchDomain,
        limit: int | None = None,
        progress: Callable[[BatchReport], None] = lambda report: None,
    ) -> BatchReport:
        """Make the profiles of all users who have news; who becomes due meanwhile is left to the next run.

        Args:
            limit: most users; None is all of them.
            progress: is told after each group what was done so far.
        """
        started, total = self.clock(), BatchReport(domain.name)
        while limit is None or len(total) < limit:
            room = SWEEP if limit is None else min(SWEEP, limit - len(total))
            before = len(total)
            self._make_all(domain, self.profiles.due_pages(domain.name, room, started), total, progress)
            if len(total) - before < room:
                break
        return total

    def rebuild(self, domain: SearchDomain, user_ids: Iterable[str]) -> BatchReport:
        """Make these users' profiles now, due or not; those without a document are left out."""
        total = BatchReport(domain.name)
        self._make_all(domain, [list(self.profiles.load(domain.name, user_ids).values())], total)
        return total

    def _make_all(
        self,
        domain: SearchDomain,
        pages: Iterable[Sequence[StoredProfile]],
        total: BatchReport,
        progress: Callable[[BatchReport], None] = lambda report: None,
    ) -> None:
        means = Means(self.vectors)
        with ThreadPoolExecutor(1) as storing:  # some users are stored while the next ones are made
            before: Future[BatchReport] | None = None
            for users in chain.from_iterable(map(_bounded, pages)):
                group = self._make(domain, users, means)
                if before is not None:
                    total.add(before.result())
                    progress(total)
                before = storing.submit(self._store, domain.name, group)
            if before is not None:
                total.add(before.result())
                progress(total)

    def _make(self, domain: SearchDomain, users: Sequence[StoredProfile], means: Means) -> _Group:
        started, report = time.perf_counter(), BatchReport(domain.name)
        ready = self._ready(domain, users, report)
        # Only after the users were read: a model switch from now on marks them, and nothing is written then.
        blue = self.releases.serving(domain.name)
        wanted = {one.object_id for _, now in ready for one in (*now.recent, *now.searched)}
        vectors = means.of(blue.collection_id, wanted)
        group, settings = _Group(blue.space, report, started), domain.in_space(blue.space).profiles
        for stored, now in ready:
            if _settled(stored) and not now.recent and not now.searched:
                group.empty.append(stored)
                continue
            try:
                change = made(now, vectors, group.space, settings)
                group.changes.append(replace(change, stored=stored))
            except Exception as error:  # this user's trouble is nobody else's
                report.failed[stored.profile.user_id] = _reason(error)
        # Before the profiles are written: who was erased meanwhile is found to be missing then.
        usable = [change.profile for change in group.changes if change.reason is None]
        shown = {profile.user_id for profile in usable if profile.embedding is not None}
        everybody = [one.stored.profile for one in group.changes] + [one.profile for one in group.empty]
        others = [profile.user_id for profile in everybody if profile.user_id not in shown]
        self._tell_neighbours(domain.name, group.space, usable, others)
        return group

    def _ready(
        self, domain: SearchDomain, users: Sequence[StoredProfile], report: BatchReport
    ) -> list[tuple[StoredProfile, StoredProfile]]:
        """Return who is not acting just now: as stored, and with actions read again where that is needed."""
        young = self.clock() - SETTLE_SECONDS
        for one in users:
            if not _settled(one) and one.announced_at > young:
                report.skipped[one.profile.user_id] = ACTING
                report.again_soon |= one.reread
        ready = [one for one in users if one.profile.user_id not in report.skipped]
        stale = {one.profile.user_id for one in ready if one.reread or not _settled(one)}
        log_of = self.actions.of_users(stale, domain.name)
        told = interactions(log_of, domain.evidence, domain.profiles.remember, broken=report.failed)
        said = {user_id: tuple(told.get(user_id, ())) for user_id in stale}
        return [
            (one, replace(one, recent=said.get(one.profile.user_id, one.recent)))
            for one in ready
            if one.profile.user_id not in report.failed
        ]

    def _store(self, domain: str, group: _Group) -> BatchReport:
        """Write what was made, and what there is to say of each user."""
        report = group.report
        self.profiles.postpone(domain, report.skipped, SETTLE_SECONDS)
        self.profiles.postpone(domain, report.failed, RETRY_SECONDS)
        lost = self.profiles.rebuild(group.changes)
        if lost:
            erased = lost - self.profiles.load(domain, lost).keys()
            # Not `_tell_neighbours`: who is erased is never in another batch that would tell them again.
            self.neighbours.drop(domain, group.space, sorted(erased))
        for change in group.changes:
            user_id = change.profile.user_id
            if user_id in lost:  # still due, but not in this run
                report.skipped[user_id] = ACTING
            elif change.reason is not None:
                report.skipped[user_id] = change.reason
            else:
                report.processed.append(user_id)
        self.profiles.drop(group.empty)
        report.skipped |= {one.profile.user_id: NOTHING_LEFT for one in group.empty}
        for outcome in ("processed", "skipped", "failed"):
            self.metrics.profiles.labels(domain, outcome).inc(len(getattr(report, outcome)))
        self.metrics.profile_seconds.observe(time.perf_counter() - group.started)
        return report

    def _tell_neighbours(
        self, domain: str, space: str, usable: Sequence[Profile], others: Sequence[str]
    ) -> None:
        try:
            self.neighbours.put(domain, space, usable)
            self.neighbours.drop(domain, space, others)
        except Exception:  # similar users can wait for the next batch, profiles need not
            log.exception("neighbours not updated", domain=domain, users=len(usable) + len(others))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _settled(stored: StoredProfile) -> bool:
    return stored.announced == stored.applied


def _bounded(users: Sequence[StoredProfile]) -> Iterator[list[StoredProfile]]:
    """Split users so that no group has more than `GROUP`, or many more interactions than `ROWS`."""
    group: list[StoredProfile] = []
    rows = 0
    for one in users:
        group.append(one)
        rows += len(one.recent) + len(one.searched)
        if rows >= ROWS or len(group) == GROUP:
            yield group
            group, rows = [], 0
    if group:
        yield group

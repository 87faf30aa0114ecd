"""How far a domain's vectors moved: a sample of them now, and as earlier audits remember them."""

from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from clickstream.improvement_queue import Owner
from improvement.domain import SearchDomain
from improvement.evaluation.drift import Drift, drift
from improvement.improver import Improver
from improvement.objects import Vectors
from improvement.profiles.profile import Profile
from improvement.quality.samples import DAY, Kind, Row, SampleStore, Snapshot
from improvement.releases import Serving
from improvement.vectors import CopyRef, point_id

#: Objects listed, and copies fetched, in one request; users asked for their copies in one.
PAGE, NAMED, ASKED = 1_000, 256, 100
#: Users, the first ones of the sample, of whose copies the sample of copies is taken.
COPY_USERS = 100
#: How old the snapshot is, in days, that a day's and a week's drift is measured from, at least.
AGES = {"day": 0.5, "week": 6.5}


class Moved(NamedTuple):
    """What became of a sample since an earlier audit.

    Attributes:
        since: when that was, in seconds since 1970; None before there was one.
        cause: "learning", "promotion" if another collection of the space serves now, or "space": its vectors
            cannot be compared.
        drift: None where nothing can be compared.
        replaced: objects that somebody wrote anew meanwhile, which is no drift; ``gone``: rows that are not
            there any more; ``new``: names of those that were not there.
    """

    since: float | None = None
    cause: str = "learning"
    drift: Drift | None = None
    replaced: int = 0
    gone: int = 0
    new: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """Return what the API shows."""
        shown = self._asdict() | {"new": len(self.new)}
        return shown | {"drift": None if self.drift is None else self.drift.as_json()}


def moved(before: Snapshot | None, now: Snapshot) -> Moved:
    """Return how far the vectors of a sample moved that are in both snapshots and were made from the same."""
    if before is None:
        return Moved()
    common = [name for name in now.rows if name in before.rows]
    gone = len(before.rows) - len(common)
    new = [
        name
        for name in now.rows
        if name not in before.rows and (before.upto is None or _place(now.kind, name) <= before.upto)
    ]
    if before.space != now.space:
        return Moved(before.at, "space", None, 0, gone, new)
    same = [name for name in common if now.rows[name].mark == before.rows[name].mark]
    same = [name for name in same if now.rows[name].vector.shape == before.rows[name].vector.shape]
    cause = "learning" if before.release == now.release else "promotion"
    found = None
    if same:
        old, new_rows = (np.stack([of.rows[name].vector for name in same]) for of in (before, now))
        found = drift(old, new_rows, (now.at - before.at) / DAY)
    return Moved(before.at, cause, found, len(common) - len(same), gone, new)


def compare(samples: SampleStore, now: Snapshot) -> dict[str, Moved]:
    """Return how far a sample moved since about a day and since about a week ago."""
    return {
        name: moved(samples.before(now.domain, now.kind, now.at - days * DAY), now)
        for name, days in AGES.items()
    }


def objects_now(rooms: Improver, domain: SearchDomain, serving: Serving, at: float) -> Snapshot:
    """Return the mean vectors of the originals that serve: always the same sample of them.

    Points are listed by their ids, which are digests of the objects' ids: the first ones are as good as drawn
    by lot, and are the same ones tomorrow.
    """
    most, marks = domain.audit.sample, dict[str, str]()
    after: str | None = None
    while len(marks) < most:
        page, after = rooms.vectors.revision_page(serving.collection_id, min(PAGE, most - len(marks)), after)
        marks |= {object_id: revision.given for object_id, revision in page.items()}
        if after is None:
            break
    means = rooms.vectors.means(serving.collection_id, marks)
    none = np.zeros(domain.in_space(serving.space).search_index_info.dimensions, np.float32)
    rows = {object_id: Row(means.get(object_id, none), mark) for object_id, mark in marks.items()}
    upto = max((_place(Kind.OBJECTS, name) for name in rows), default=None) if after is not None else None
    return Snapshot(domain.name, Kind.OBJECTS, at, serving.collection_id, serving.space, rows, upto)


def profiles_now(domain: SearchDomain, serving: Serving, at: float, profiles: Sequence[Profile]) -> Snapshot:
    """Return the embeddings of these profiles that are of the space that serves."""
    rows = {
        _owner(domain, profile.user_id): Row(profile.embedding, "", _owner(domain, profile.user_id))
        for profile in profiles
        if profile.embedding is not None and profile.model_version == serving.space
    }
    return Snapshot(domain.name, Kind.PROFILES, at, serving.collection_id, serving.space, rows)


def copies_now(
    rooms: Improver, domain: SearchDomain, serving: Serving, at: float, users: Sequence[str]
) -> Snapshot:
    """Return the mean vectors of a sample of the copies of these users' first `COPY_USERS`."""
    refs: list[CopyRef] = []
    for start in range(0, len(users[:COPY_USERS]), ASKED):
        refs += rooms.vectors.copies(serving.collection_id, users[:COPY_USERS][start : start + ASKED])
    named = {point_id(ref.original_id, ref.user_id): ref for ref in refs}
    wanted = {name: named[name] for name in sorted(named)[: domain.audit.sample]}
    full = iter([f"{ref.original_id}_{ref.user_id}" for ref in wanted.values()])
    rows: dict[str, Row] = {}
    while some := list(islice(full, NAMED)):
        for copy in rooms.vectors.named(serving.collection_id, some):
            if copy.user_id is not None and copy.original_id is not None:  # other ids may look like that
                name = point_id(copy.original_id, copy.user_id)
                if name in wanted:
                    mean: Vectors = copy.mean
                    rows[name] = Row(mean, "", _owner(domain, copy.user_id))
    return Snapshot(domain.name, Kind.COPIES, at, serving.collection_id, serving.space, rows)


def _owner(domain: SearchDomain, user_id: str) -> str:
    return Owner(domain.name, user_id).key


def _place(kind: Kind, name: str) -> str:
    return point_id(name) if kind is Kind.OBJECTS else name

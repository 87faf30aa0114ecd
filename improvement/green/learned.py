"""What a domain's log teaches about everybody: from sessions to one turn for each object."""

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from clickstream.records import RegisteredSession
from clickstream.store import ClickstreamStore
from improvement.adjusters.population import Floats, Ints, PopulationEvidence, Turns, population_turns
from improvement.domain import SearchDomain, embed_each
from improvement.errors import PluginFailed
from improvement.evidence import GOING_ON, EvidenceWeights, happened_at
from improvement.objects import Vectors

#: Sessions between two words on progress, and texts embedded at once.
READ, TEXTS = 100, 256

Progress = Callable[[str, int], object]
Key = TypeVar("Key")


@dataclass(frozen=True, eq=False)
class Learned:
    """What a log teaches.

    Attributes:
        object_ids: the objects that are turned.
        turns: how each of them is; its targets are in the space that was learned in.
        sessions: how many sessions taught.
        taught_until: ``happened_at`` of the newest session before the held-out ones; None: there is too
            little log to hold any out, and nothing is turned.
        read: how many sessions were read.
    """

    object_ids: tuple[str, ...]
    turns: Turns
    sessions: int
    taught_until: float | None
    read: int


def learn(
    clickstream: ClickstreamStore,
    domain: SearchDomain,
    propensities: Sequence[float] = (),
    *,
    progress: Progress = lambda what, count: None,
) -> Learned:
    """Learn from a domain's newest sessions how everybody's choices turn its objects.

    The domain's selector says which sessions count, its evidence what they say of each object; what is only
    passed over counts as shown. A session that cannot be used is left out alone: without a user, without a
    query that can be embedded, or one that the domain's code fails on. The newest ``domain.gate.holdout``
    share of those that count teaches nothing, and of the others only what was known when the first of these
    began: a later click on an old list is the future.

    Args:
        domain: in the embedding space that is learned in, as `SearchDomain.in_space` returns it.
        propensities: chance, in 0..1, that each place is looked at; none means that all are certain.
        progress: called with what was done ("read", "embedded") and how many more of it; what it raises ends
            the learning.
    """
    evidence = replace(domain.evidence, per_session=False, skipped=0.0)
    log, read = _Log(domain, evidence, propensities), 0
    for session in clickstream.history(domain.name, limit=domain.population.sessions):
        log.add(session)
        read += 1
        if read % READ == 0:
            progress("read", READ)
    if read % READ:
        progress("read", read % READ)
    times = np.asarray(log.times, np.float64)
    held_out = min(len(times) - 1, max(1, round(len(times) * domain.gate.holdout)))
    moment = np.sort(times)[-held_out] if len(times) > 1 else -np.inf
    taught = times < moment
    if not taught.any():
        return Learned((), Turns(_nothing(domain), np.empty(0)), 0, None, read)
    until = float(times[taught].max())
    starts = np.cumsum(log.sizes) - log.sizes
    for number, session in log.late.items():
        if taught[number]:
            taught[number] = log.forget_after(float(moment), int(starts[number]), session)
    queries = _queries(log.queries, log.asked, taught, domain, progress)
    taught &= queries.known[log.asked]
    turns = population_turns(_evidence(log, taught, until, evidence, queries.vectors), domain.population)
    moved, ids = np.flatnonzero(turns.amounts), list(log.objects)
    return Learned(
        tuple(ids[row] for row in moved),
        Turns(turns.targets[moved], turns.amounts[moved]),
        int(taught.sum()),
        until,
        read,
    )


@dataclass(eq=False)
class _Log:
    """Sessions that count, as columns: one place for each session, one for each object that it showed.

    Attributes:
        users, objects: id -> its number.
        queries: a vector's bytes, or a text that is not embedded -> its number.
        late: sessions with events after their normal course, by number.
        times, whose, asked, sizes: of each session: when, the numbers of user and query, how many it showed.
        shown, chosen, refused, looked: of each impression, see `PopulationEvidence`.
    """

    domain: SearchDomain
    evidence: EvidenceWeights
    propensities: Sequence[float]
    users: dict[str, int] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)
    queries: dict[bytes | str, int] = field(default_factory=dict)
    late: dict[int, RegisteredSession] = field(default_factory=dict)
    times: "array[float]" = field(default_factory=lambda: array("d"))
    whose: "array[int]" = field(default_factory=lambda: array("q"))
    asked: "array[int]" = field(default_factory=lambda: array("q"))
    sizes: "array[int]" = field(default_factory=lambda: array("q"))
    shown: "array[int]" = field(default_factory=lambda: array("q"))
    chosen: "array[float]" = field(default_factory=lambda: array("d"))
    refused: "array[float]" = field(default_factory=lambda: array("d"))
    looked: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, session: RegisteredSession) -> None:
        """Note a session, if it counts."""
        said, query = self._said(session), _query(session, self.domain)
        if session.user_id is None or said is None or query is None:
            return
        at, ids = happened_at(session), _ids(session)
        if any((event.created_at or 0) > at + GOING_ON for event in session.events):
            self.late[len(self.times)] = session.model_copy(update={"query_vector": None})
        self.times.append(at)
        self.whose.append(_number(self.users, session.user_id))
        self.asked.append(_number(self.queries, query))
        self.sizes.append(len(ids))
        self.shown.extend(_number(self.objects, object_id) for object_id in ids)
        self.chosen.extend(max(0.0, said.get(object_id, 0.0)) for object_id in ids)
        self.refused.extend(max(0.0, -said.get(object_id, 0.0)) for object_id in ids)
        self.looked.extend(self._looked(place) for place in range(len(ids)))

    def forget_after(self, moment: float, start: int, session: RegisteredSession) -> bool:
        """Make the session whose impressions start there what was known of it; return whether it counts.

        One that was still going on then counts whole: the split is between sessions.
        """
        end = max(moment, happened_at(session) + GOING_ON)
        events = tuple(event for event in session.events if (event.created_at or 0) <= end)
        said = self._said(session.model_copy(update={"events": events}))
        if said is None:
            return False
        for place, object_id in enumerate(_ids(session), start=start):
            self.chosen[place] = max(0.0, said.get(object_id, 0.0))
            self.refused[place] = max(0.0, -said.get(object_id, 0.0))
        return True

    def _said(self, session: RegisteredSession) -> dict[str, float] | None:
        """Return what a session says of what it showed, or None if it does not count."""
        try:
            if not self.domain.selector.select(session).usable:
                return None
            said = self.evidence.of(session, self.propensities)
        except Exception:  # plugin code: one session's trouble stays its own
            return None
        return said if all(map(math.isfinite, said.values())) else None

    def _looked(self, place: int) -> float:
        if not self.propensities:
            return 1.0
        chance = self.propensities[min(place, len(self.propensities) - 1)]
        return min(1.0, chance * self.evidence.max_inverse_propensity)


def _evidence(
    log: _Log, taught: NDArray[np.bool_], until: float, weights: EvidenceWeights, queries: Vectors
) -> PopulationEvidence:
    """Return what the taught sessions say, each fading with its age at that time."""
    sizes = np.asarray(log.sizes, np.int64)
    faded = np.ones(len(sizes))
    if weights.half_life_days is not None:
        faded = np.array([weights.decay(until - at) for at in log.times])
    rows = np.repeat(taught, sizes)

    def of_sessions(column: "array[int]") -> Ints:
        return np.repeat(np.asarray(column, np.int64), sizes)[rows]

    left = np.repeat(faded, sizes)[rows]

    def of_impressions(column: "array[float]") -> Floats:
        values: Floats = np.asarray(column, np.float64)[rows] * left
        return values

    return PopulationEvidence(
        users=of_sessions(log.whose),
        objects=np.asarray(log.shown, np.int64)[rows],
        searches=of_sessions(log.asked),
        chosen=of_impressions(log.chosen),
        refused=of_impressions(log.refused),
        looked=of_impressions(log.looked),
        queries=queries,
        count=len(log.objects),
    )


@dataclass(frozen=True, eq=False)
class _Queries:
    """Query vectors (S, D), and which of them are known (S,)."""

    vectors: Vectors
    known: NDArray[np.bool_]


def _queries(
    numbers: dict[bytes | str, int],
    asked: "array[int]",
    taught: NDArray[np.bool_],
    domain: SearchDomain,
    progress: Progress,
) -> _Queries:
    """Return all queries' vectors; of texts, those that taught sessions ask are embedded, once each."""
    vectors = np.zeros((len(numbers), domain.search_index_info.dimensions), np.float32)
    known = np.zeros(len(numbers), np.bool_)
    wanted = np.zeros(len(numbers), np.bool_)
    wanted[np.asarray(asked, np.int64)[taught]] = True
    texts: list[tuple[str, int]] = []
    for key, number in numbers.items():
        if isinstance(key, str):
            texts += [(key, number)] if wanted[number] else []
        else:
            vectors[number], known[number] = np.frombuffer(key, np.float32), True
    for start in range(0, len(texts), TEXTS):
        some = texts[start : start + TEXTS]
        for (_, number), found in zip(some, embed_each(domain, [text for text, _ in some]), strict=True):
            if not isinstance(found, PluginFailed) and np.isfinite(found).all():
                vectors[number], known[number] = found, True
        progress("embedded", len(some))
    return _Queries(vectors, known)


def _query(session: RegisteredSession, domain: SearchDomain) -> bytes | str | None:
    """Return a session's query as bytes of its mean vector, as a text to embed, or None if it has none."""
    vector = session.query_vector
    if vector is None or vector.model_id != domain.encoder.model_id:
        return session.search_query or None
    size = domain.search_index_info.dimensions
    if not vector.vectors or any(len(row) != size for row in vector.vectors):
        return None
    mean = np.array(vector.vectors, np.float64).mean(axis=0)
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and left out as that
        row = mean.astype(np.float32)
    return row.tobytes() if np.isfinite(row).all() else None


def _ids(session: RegisteredSession) -> list[str]:
    return list(dict.fromkeys(result.object_id for result in session.search_results))


def _number(numbers: dict[Key, int], key: Key) -> int:
    return numbers.setdefault(key, len(numbers))


def _nothing(domain: SearchDomain) -> Vectors:
    return np.empty((0, domain.search_index_info.dimensions), np.float32)

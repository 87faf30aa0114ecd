"""Rank again what the newest sessions of a log showed, in two collections; nothing is written.

In both, users see what they would see there: copies and profiles are made from that collection's originals
and from the sessions before those that are tested on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from clickstream.store import ClickstreamStore
from improvement.copies import UsableSession
from improvement.evaluation.judging import Judge, judged_by, mean_gain
from improvement.evaluation.learned import Learned, learn
from improvement.evaluation.pairs import PLAIN, SEEN, Pair
from improvement.evaluation.report import NO_LEARNING, with_profile
from improvement.evaluation.sessions import (
    ENCODER_FAILED,
    Progress,
    Tally,
    by_users,
    known_before,
    query_vectors,
    usable_sessions,
)
from improvement.evaluation.side import Side
from improvement.evidence import happened_at
from improvement.green.settings import GateSettings
from improvement.objects import Vectors
from improvement.profiles.settings import ProfileSettings
from improvement.vectors import VectorStore

#: What ranking with copies is called between here and the judge.
COPIES = "copies"


@dataclass(frozen=True, eq=False)
class PairedLog:
    """What two collections made of the same searches.

    Attributes:
        pairs: the searches that could be judged, oldest first among each user's.
        queries: distinct queries of the tested sessions, the newest first: (D,) for blue and for green.
        source: what was read, and why what does not count does not; no user and no text of a stranger's.
        sessions: by user id, one of the tested sessions.
    """

    pairs: Sequence[Pair]
    queries: Sequence[tuple[Vectors, Vectors]]
    source: Mapping[str, object] = field(default_factory=dict)
    sessions: Mapping[str, str] = field(default_factory=dict)


def split(
    usable: Sequence[UsableSession], taught_until: float | None, settings: GateSettings
) -> tuple[Sequence[UsableSession], Sequence[UsableSession]]:
    """Return the sessions before the test, and those to test on: the newest that taught nobody.

    Args:
        usable: oldest first.
        taught_until: when the last session happened that taught a collection; None where none did: then the
            newest ``holdout`` share is tested on, one session at least.
    """
    if taught_until is None:
        start = len(usable) - max(1, round(len(usable) * settings.holdout))
    else:
        start = sum(happened_at(one.session) <= taught_until for one in usable)
    start = max(0, start, len(usable) - settings.sessions)
    return usable[:start], usable[start:]


def pair_log(
    clickstream: ClickstreamStore,
    vectors: VectorStore,
    blue: Side,
    green: Side,
    *,
    taught_until: float | None,
    settings: GateSettings,
    propensities: Sequence[float],
    progress: Progress,
) -> PairedLog:
    """Rank what the newest sessions showed in both collections; see `split` for which they are.

    What a user would not find in a collection, because it lacks the object or cannot embed the query, counts
    as not found there.

    Args:
        propensities: chance, in 0..1, that each place is looked at; none means that all are certain.
        progress: called with what was done ("read", "embedded", "judged") and how many more of it.
    """
    domain, tally = blue.domain, Tally()
    history = clickstream.history(domain.name, limit=settings.history)
    usable = usable_sessions(history, domain, propensities, tally, progress)
    train, test = split(usable, taught_until, settings)
    if test:
        train = known_before(happened_at(test[0].session), train, domain, propensities)
    users = {one.session.user_id for one in test}
    taught = [one for one in train if one.session.user_id in users and one.weights]
    asked = [one.session for one in (*taught, *test)]
    queries = {side.space: query_vectors(side.domain, asked, progress) for side in (blue, green)}
    sides = [
        _Half(side, vectors, Judge(side.domain, COPIES, propensities, _profiles(side)), queries[side.space])
        for side in (blue, green)
    ]
    pairs: list[Pair] = []
    for some_taught, some_test in by_users(taught, test):
        learned = [half.learn(some_taught, some_test, tally) for half in sides]
        for one in some_test:
            found = _pair(one, sides, learned)
            if isinstance(found, str):
                tally.not_judged[found] += 1
                continue
            pairs.append(found)
            there = learned[0].originals.keys() | learned[1].originals.keys()
            tally.objects_missing += sum(r.object_id not in there for r in one.session.search_results)
        progress("judged", len(some_test))
    source = {
        "sessions_read": tally.read,
        "usable": len(usable),
        "train": len(train),
        "test": len(test),
        "split_at": happened_at(test[0].session) if test else None,
        "taught_until": taught_until,
        "judged": len(pairs),
        "judged_with_copies": sum(one.copies for one in pairs),
        "judged_with_profile": sum(one.profile for one in pairs),
        "users": len({one.user_id for one in pairs}),
        "objects_missing": tally.objects_missing,
        "not_judged": dict(tally.not_judged),
        "not_taught": sum(tally.not_taught.values()),
        "propensities": list(propensities),
    }
    distinct = _distinct(test, queries[blue.space], queries[green.space])
    sessions = {str(one.session.user_id): one.session.session_id for one in test}
    return PairedLog(pairs, distinct, source, sessions)


@dataclass(frozen=True)
class _Half:
    """One side of the replay."""

    side: Side
    vectors: VectorStore
    judge: Judge
    queries: Mapping[str, Vectors | str]

    def learn(self, taught: Sequence[UsableSession], test: Sequence[UsableSession], tally: Tally) -> Learned:
        return learn(
            self.vectors, self.side.collection, self.side.domain, taught, test, self.queries, tally,
            copies=True, profiles=self.judge.profiles, forgiving=True,
        )  # fmt: skip

    def orders(self, one: UsableSession, there: Sequence[str], learned: Learned) -> dict[str, list[str]]:
        """Rank what is there of what the session showed, plain and as its user sees it."""
        query = self.queries[one.session.session_id]
        if isinstance(query, str):
            return {PLAIN: [], SEEN: []}
        profile = learned.profiles.get(str(one.session.user_id))
        held = [o for o in there if o in learned.originals]
        found = self.judge.orders(one.session, query, held, learned.originals, learned.copies, profile)
        seen = COPIES if self.judge.profiles is None else with_profile(COPIES)
        return {PLAIN: found[NO_LEARNING], SEEN: found[seen]}


def _profiles(side: Side) -> ProfileSettings | None:
    settings = side.domain.profiles
    return settings if settings.search_weight else None


def _pair(one: UsableSession, sides: Sequence[_Half], learned: Sequence[Learned]) -> Pair | str:
    session = one.session
    why = [query for half in sides if isinstance(query := half.queries[session.session_id], str)]
    if len(why) == len(sides) or any(reason != ENCODER_FAILED for reason in why):
        # nobody can ask this there; but a text that only one side cannot embed is a search it fails
        return next((reason for reason in why if reason != ENCODER_FAILED), ENCODER_FAILED)
    there = learned[0].originals.keys() | learned[1].originals.keys()
    gains = sides[0].judge.gains(session, there)
    if len(gains) < 2:
        return "fewer than 2 of the shown objects are still there"
    if not any(gains.values()):
        return sides[0].judge.says_nothing(session)
    orders = [half.orders(one, list(gains), of) for half, of in zip(sides, learned, strict=True)]
    blue, green = ({way: judged_by(gains, order) for way, order in of.items()} for of in orders)
    user = str(session.user_id)
    return Pair(
        user_id=user,
        query=session.search_query,
        clicked=frozenset(o for o, gain in gains.items() if gain),
        weight=mean_gain(gains),
        copies=any((user, o) in of.copies for of in learned for o in gains),
        profile=any(user in of.profiles for of in learned),
        blue=blue,
        green=green,
        before=tuple(orders[0][SEEN][:10]),
        after=tuple(orders[1][SEEN][:10]),
    )


def _distinct(
    test: Sequence[UsableSession], blue: Mapping[str, Vectors | str], green: Mapping[str, Vectors | str]
) -> list[tuple[Vectors, Vectors]]:
    """Return each query that both sides can search for; a search has one vector."""
    found: dict[object, tuple[Vectors, Vectors]] = {}
    for one in reversed(test):
        here, there = blue[one.session.session_id], green[one.session.session_id]
        if isinstance(here, str) or isinstance(there, str) or len(here) != 1 or len(there) != 1:
            continue
        found.setdefault(one.session.search_query or here.tobytes(), (here[0], there[0]))
    return list(found.values())

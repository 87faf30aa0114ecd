"""The sessions of a log that a replay learns from or tests on, and their query vectors."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clickstream.records import RegisteredSession
from improvement.copies import UsableSession
from improvement.domain import SearchDomain, embed_each
from improvement.errors import PluginFailed
from improvement.evidence import GOING_ON, happened_at
from improvement.objects import Vectors

#: Texts embedded, and sessions held beside their objects' vectors, at once.
TEXTS, SESSIONS = 256, 1_000
#: Why a session has no query vector although it has a text.
ENCODER_FAILED = "the encoder failed on its query"

#: Told what was done ("read", "embedded", "judged" ...) and how many more of it.
Progress = Callable[[str, int], object]


@dataclass
class Tally:
    """What was read, and why what does not count does not."""

    read: int = 0
    objects_missing: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    not_taught: Counter[str] = field(default_factory=Counter)
    not_judged: Counter[str] = field(default_factory=Counter)


def usable_sessions(
    sessions: Iterable[RegisteredSession],
    domain: SearchDomain,
    propensities: Sequence[float],
    tally: Tally,
    progress: Progress,
) -> list[UsableSession]:
    """Return the sessions that the domain's selector lets through, oldest first."""
    usable = []
    for session in sessions:
        tally.read += 1
        progress("read", 1)
        found = _weighed(session, domain, propensities)
        if isinstance(found, str):
            tally.unusable[found] += 1
        else:
            usable.append(found)
    return sorted(usable, key=lambda one: (happened_at(one.session), one.session.session_id))


def known_before(
    moment: float, sessions: Sequence[UsableSession], domain: SearchDomain, propensities: Sequence[float]
) -> list[UsableSession]:
    """Return the sessions as they were known then: a later click on an old list is the future.

    A session that was still going on at that moment counts whole: the split is between sessions.
    """
    known = []
    for one in sessions:
        end = max(moment, happened_at(one.session) + GOING_ON)
        events = tuple(event for event in one.session.events if (event.created_at or 0) <= end)
        if len(events) == len(one.session.events):
            known.append(one)
            continue
        found = _weighed(one.session.model_copy(update={"events": events}), domain, propensities)
        if not isinstance(found, str):
            known.append(found)
    return known


def _weighed(
    session: RegisteredSession, domain: SearchDomain, propensities: Sequence[float]
) -> UsableSession | str:
    """Return what a session says, or why it does not count."""
    try:
        selection = domain.selector.select(session)
        if not selection.usable:
            # numbers differ from session to session, and there may be many
            return re.sub(r"-?\d+", "…", selection.reason or "")
        if session.user_id is None:  # a selector of the plugin's own may not mind
            return "anonymous"
        return UsableSession(session, domain.evidence.of(session, propensities))
    except Exception as error:  # plugin code: one session's trouble stays its own
        return f"{type(error).__name__}: {error}"


def query_vectors(
    domain: SearchDomain, sessions: Iterable[RegisteredSession], progress: Progress
) -> dict[str, Vectors | str]:
    """Return each session's query vectors (M, D), or why it has none; nothing is embedded twice."""
    queries: dict[str, Vectors | str] = {}
    texts: dict[str, list[str]] = {}
    for session in sessions:
        vector = session.query_vector
        if vector is not None and vector.model_id == domain.encoder.model_id:
            queries[session.session_id] = _checked(vector.vectors, domain.search_index_info.dimensions)
        elif session.search_query:
            texts.setdefault(session.search_query, []).append(session.session_id)
        else:
            queries[session.session_id] = "no query text, and no vector of the domain's model"
    unknown = list(texts)
    for start in range(0, len(unknown), TEXTS):
        some = unknown[start : start + TEXTS]
        for text, found in zip(some, embed_each(domain, some), strict=True):
            embedded = ENCODER_FAILED if isinstance(found, PluginFailed) else found[None, :]
            queries |= dict.fromkeys(texts[text], embedded)
        progress("embedded", len(some))
    return queries


def _checked(rows: Any, dimensions: int) -> Vectors | str:
    vectors: Vectors = np.array([row for row in rows if len(row) == dimensions], np.float32)
    if len(vectors) < len(rows) or not len(rows) or not np.isfinite(vectors).all():
        return f"its query vector is not {dimensions} finite numbers a row"
    return vectors


def by_users(
    taught: Sequence[UsableSession], test: Sequence[UsableSession]
) -> Iterator[tuple[list[UsableSession], list[UsableSession]]]:
    """Yield some users' sessions at a time, about `SESSIONS` of them: what teaches, and what is tested on.

    Args:
        taught: sessions of users that ``test`` has sessions of.
    """
    mine: dict[str | None, tuple[list[UsableSession], list[UsableSession]]] = {
        one.session.user_id: ([], []) for one in test
    }
    for which, sessions in enumerate((taught, test)):
        for one in sessions:
            mine[one.session.user_id][which].append(one)
    some: tuple[list[UsableSession], list[UsableSession]] = ([], [])
    for of_user in mine.values():
        some[0].extend(of_user[0])
        some[1].extend(of_user[1])
        if len(some[0]) + len(some[1]) >= SESSIONS:
            yield some
            some = ([], [])
    if some[1]:
        yield some


def shown_in(sessions: Iterable[UsableSession]) -> set[tuple[str, str]]:
    """Return what these sessions showed, as pairs of user and object."""
    return {(str(one.session.user_id), r.object_id) for one in sessions for r in one.session.search_results}


def reasons(why: Mapping[str, int]) -> str:
    """Return the three most frequent reasons in brackets, or nothing.

    >>> reasons({"no clicks": 2})
    ' (2 no clicks)'
    """
    said = ", ".join(f"{count} {reason}" for reason, count in Counter(why).most_common(3))
    return f" ({said})" if said else ""

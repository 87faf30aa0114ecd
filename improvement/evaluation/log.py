"""Replay the service's own log: learn from its earlier sessions, rank again what its later ones showed.

Nothing is written. `docs/replay.md` says what this can tell and what it cannot.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clickstream.records import RegisteredSession
from clickstream.store import ClickstreamStore
from improvement.copies import Key, UsableSession, improvement_input, personal_copies
from improvement.domain import SearchDomain
from improvement.errors import Invalid, PluginFailed
from improvement.evaluation.judging import Judge, Judged
from improvement.evaluation.profiles import profile_of
from improvement.evaluation.report import Report
from improvement.evidence import happened_at
from improvement.inputs import ImprovementInput
from improvement.objects import Object, Vectors
from improvement.profiles.profile import Profile
from improvement.profiles.searched import searched
from improvement.profiles.settings import ProfileSettings
from improvement.vectors import VectorStore

#: Texts embedded, sessions held beside their objects' vectors, and copies made at once.
TEXTS, SESSIONS, COPIES = 256, 1_000, 4_096

#: Seconds after its start in which an event belongs to a session's normal course.
GOING_ON = 3_600

Progress = Callable[[str, int], object]


@dataclass
class _Tally:
    """What was read, and why what does not count does not."""

    read: int = 0
    objects_missing: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    not_taught: Counter[str] = field(default_factory=Counter)
    not_judged: Counter[str] = field(default_factory=Counter)


def replay_log(
    clickstream: ClickstreamStore,
    vectors: VectorStore,
    collection: str,
    domain: SearchDomain,
    *,
    method: str | None,
    profiles: ProfileSettings | None = None,
    propensities: Sequence[float] = (),
    limit: int = 10_000,
    test_share: float = 0.2,
    seed: int = 0,
    progress: Progress = lambda what, count: None,
) -> Report:
    """Learn from a domain's earlier sessions, and rank again what its later ones showed.

    Args:
        collection: where the originals are.
        domain: its selector says which sessions count and what a click is; its evidence and its adjuster
            make the copies.
        method: what to call ranking with copies; None makes none.
        profiles: how profiles are made and used; None makes none.
        propensities: chance, in 0..1, that each place is looked at; none means that all are certain.
        limit: sessions read, the newest ones.
        test_share: share of the usable sessions, the latest, to test on; above 0 and below 1.
        seed: of the bootstrap.
        progress: called with what was done ("read", "embedded", "judged") and how many more of it.

    Returns:
        Rows "as shown", "no learning", ``method``, and ``method`` "+ profile", with the metrics ndcg@10, mrr,
        ips_ndcg@10, ips_mrr.

    Raises:
        Invalid: there are not two usable sessions, or none of the later ones can be judged; it says why.
        ValueError: a setting is out of its range, or the adjuster refused a batch.
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share: expected a number above 0 and below 1, got {test_share}")
    tally = _Tally()
    usable = _usable(clickstream.history(domain.name, limit=limit), domain, propensities, tally, progress)
    if len(usable) < 2:
        raise Invalid(
            f"domain {domain.name!r}: expected at least 2 usable sessions, got {len(usable)} of "
            f"{tally.read}{_because(tally.unusable)}"
        )
    split = len(usable) - min(len(usable) - 1, max(1, round(len(usable) * test_share)))
    train, test = usable[:split], usable[split:]
    train = _before(happened_at(test[0].session), train, domain, propensities)
    users = {one.session.user_id for one in test}
    learning = method is not None or profiles is not None
    taught = [one for one in train if one.session.user_id in users and one.weights and learning]
    asked = [] if method is None else taught  # profiles need what was liked, not what was asked
    queries = _query_vectors(domain, [one.session for one in (*asked, *test)], progress)
    judge = Judge(domain, method, propensities, profiles)
    judged: list[Judged] = []
    for some_taught, some_test in _by_users(taught, test):
        shown = {
            (str(one.session.user_id), r.object_id) for one in some_test for r in one.session.search_results
        }
        telling = [
            one
            for one in some_taught
            if method is not None and any((one.session.user_id, o) in shown for o in one.weights)
        ]
        wanted = {object_id for _, object_id in shown} | {o for one in telling for o in one.weights}
        originals = vectors.find(collection, wanted)
        inputs = _inputs(domain, some_taught, telling, queries, originals, tally)
        copies = _copies(domain, inputs, originals, shown)
        known = _profiles(domain, profiles, some_taught, vectors, collection)
        for one in some_test:
            missing = [r for r in one.session.search_results if r.object_id not in originals]
            tally.objects_missing += len(missing)
            query = queries[one.session.session_id]
            profile = known.get(str(one.session.user_id))
            found = (
                query
                if isinstance(query, str)
                else judge.judge(one.session, query, originals, copies, profile)
            )
            if isinstance(found, str):
                tally.not_judged[found] += 1
            else:
                judged.append(found)
        progress("judged", len(some_test))
    if not judged:
        raise Invalid(
            f"domain {domain.name!r}: none of its {len(test)} test sessions can be judged"
            f"{_because(tally.not_judged)}"
        )
    source = {
        "log": domain.name,
        "collection": collection,
        "sessions_read": tally.read,
        "usable": len(usable),
        "train": len(train),
        "test": len(test),
        "split_at": happened_at(test[0].session),
        "judged": len(judged),
        "judged_with_copies": sum(one.has_copies for one in judged),
        **({} if profiles is None else {"judged_with_profile": sum(one.has_profile for one in judged)}),
        "users": len({one.user_id for one in judged}),
        "objects_missing": tally.objects_missing,
        "unusable": tally.unusable,
        "not_taught": tally.not_taught,
        "not_judged": tally.not_judged,
        "propensities": propensities,
        "seed": seed,
    }
    return Report(source, judge.rows(judged, seed))


def _usable(
    sessions: Iterable[RegisteredSession],
    domain: SearchDomain,
    propensities: Sequence[float],
    tally: _Tally,
    progress: Progress,
) -> list[UsableSession]:
    """Return the sessions that the domain's selector lets through, oldest first."""
    usable = []
    for session in sessions:
        tally.read += 1
        progress("read", 1)
        try:
            selection = domain.selector.select(session)
            if not selection.usable:
                # numbers differ from session to session, and there may be many
                tally.unusable[re.sub(r"-?\d+", "…", selection.reason or "")] += 1
            elif session.user_id is None:  # a selector of the plugin's own may not mind
                tally.unusable["anonymous"] += 1
            else:
                usable.append(UsableSession(session, domain.evidence.of(session, propensities)))
        except Exception as error:  # plugin code: one session's trouble stays its own
            tally.unusable[f"{type(error).__name__}: {error}"] += 1
    return sorted(usable, key=lambda one: (happened_at(one.session), one.session.session_id))


def _before(
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
        session = one.session.model_copy(update={"events": events})
        if domain.selector.select(session).usable:
            known.append(UsableSession(session, domain.evidence.of(session, propensities)))
    return known


def _query_vectors(
    domain: SearchDomain, sessions: Sequence[RegisteredSession], progress: Progress
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
        for text, found in zip(some, _embed(domain, some), strict=True):
            queries |= dict.fromkeys(texts[text], found)
        progress("embedded", len(some))
    return queries


def _checked(rows: Any, dimensions: int) -> Vectors | str:
    vectors: Vectors = np.array([row for row in rows if len(row) == dimensions], np.float32)
    if len(vectors) < len(rows) or not len(rows) or not np.isfinite(vectors).all():
        return f"its query vector is not {dimensions} finite numbers a row"
    return vectors


def _embed(domain: SearchDomain, texts: Sequence[str]) -> list[Vectors | str]:
    """Embed all texts at once, or one by one when that fails, so that one bad text fails alone."""
    try:
        return [row[None, :] for row in domain.embed(texts)]
    except PluginFailed:
        if len(texts) == 1:
            return ["the encoder failed on its query"]
        return [_embed(domain, [text])[0] for text in texts]


def _by_users(
    taught: Sequence[UsableSession], test: Sequence[UsableSession]
) -> Iterator[tuple[list[UsableSession], list[UsableSession]]]:
    """Yield some users' sessions at a time, about `SESSIONS` of them."""
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


def _inputs(
    domain: SearchDomain,
    taught: Iterable[UsableSession],
    telling: Iterable[UsableSession],
    queries: Mapping[str, Vectors | str],
    originals: Mapping[str, Object],
    tally: _Tally,
) -> list[ImprovementInput]:
    """Return what the telling ones of the taught sessions say, weighed by age as production does."""
    latest: dict[str | None, float] = {}
    for one in taught:  # oldest first
        latest[one.session.user_id] = happened_at(one.session)
    inputs = []
    for one in telling:
        query = queries[one.session.session_id]
        if isinstance(query, str):
            tally.not_taught[query] += 1
            continue
        decay = domain.evidence.decay(latest[one.session.user_id] - happened_at(one.session))
        try:
            inputs.append(
                improvement_input(one, query, originals, domain.search_index_info.dimensions, decay)
            )
        except ValueError as error:
            tally.not_taught[str(error)] += 1
    return inputs


def _copies(
    domain: SearchDomain, inputs: Sequence[ImprovementInput], originals: Mapping[str, Object], shown: set[Key]
) -> dict[Key, Object]:
    """Make the copies of what the test sessions showed; nobody looks at others."""
    evidence = {(element.user_id, element.id) for one in inputs for element, _ in one.weighted()}
    keys = sorted(evidence & shown)
    copies: dict[Key, Object] = {}
    for start in range(0, len(keys), COPIES):
        some = dict.fromkeys(keys[start : start + COPIES], "")
        users = {user for user, _ in some}
        about = [one for one in inputs if one.query.user_id in users]
        for copy in personal_copies(about, originals, some, domain):
            copies[str(copy.user_id), str(copy.original_id)] = copy
    return copies


def _profiles(
    domain: SearchDomain,
    settings: ProfileSettings | None,
    taught: Iterable[UsableSession],
    vectors: VectorStore,
    collection: str,
) -> dict[str, Profile]:
    """Make the profiles of those users who have enough of one; their objects are fetched at once."""
    if settings is None:
        return {}
    sessions: dict[str, list[UsableSession]] = {}
    for one in taught:  # oldest first
        sessions.setdefault(str(one.session.user_id), []).append(one)
    said = {user: searched(of, domain.evidence)[-settings.remember :] for user, of in sessions.items()}
    wanted = {one.object_id for of_user in said.values() for one in of_user}
    means: dict[str, Vectors | None] = {**dict.fromkeys(wanted), **vectors.means(collection, wanted)}
    made = {user: profile_of(user, of_user, means, settings) for user, of_user in said.items()}
    return {user: profile for user, profile in made.items() if profile is not None}


def _because(reasons: Counter[str]) -> str:
    said = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
    return f" ({said})" if said else ""

"""The use cases, one short function each; entry points call them with the rooms they need."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import structlog

from clickstream.improvement_queue import Claim, Entry, Outcome, Owner, Request, Status
from clickstream.records import QueryVector, RegisteredSession
from clickstream.store import ClickstreamStore
from improvement.copies import Key, UsableSession, improvement_input, personal_copies, revisions
from improvement.domain import SearchDomain
from improvement.evidence import happened_at
from improvement.improver import Improver
from improvement.inputs import ImprovementInput
from improvement.objects import Object, Vectors
from improvement.periodic import (
    each_domain,
    refresh_popularity,
    refresh_propensities,
    update_profiles,
    uses_propensities,
)
from improvement.profiles.searched import searched
from improvement.promotion import rebuild_all
from improvement.vectors import CopyRef

log = structlog.get_logger()

#: Copies adjusted at once; bounds the memory of a batch.
ADJUST_ROWS = 4_096
#: Rounds in a row in which everything claimed was overtaken, after which the next tick goes on.
VAIN_ROUNDS = 5
#: Idle sessions looked at in one sweep.
SWEEP_LIMIT = 1_000


class Improved(NamedTuple):
    """How many queue entries were claimed, and how many of them ended."""

    claimed: int
    ended: int


def improve_users(rooms: Improver, limit: int) -> Improved:
    """Claim up to ``limit`` queued sessions, improve their users' copies, and write every outcome.

    Claimed but not ended are those that somebody changed meanwhile; they stay pending.
    """
    started = time.perf_counter()
    claim = rooms.queue.claim(limit, rooms.lease_seconds)
    if not claim.entries:
        rooms.queue.give_back(claim)  # another worker may have ended what we hold the leases for
        return Improved(0, 0)
    outcomes: dict[str, Outcome] = {}
    try:
        for name in sorted({owner.domain for owner in claim.entries}):
            entries = {owner: of for owner, of in claim.entries.items() if owner.domain == name}
            outcomes |= _improve_domain(rooms, claim, name, entries)
        unfinished = [o for o, of in claim.entries.items() if any(e.entry_id not in outcomes for e in of)]
        rooms.queue.forgive(claim, unfinished)
        rooms.queue.finish(claim, outcomes)
    except Exception:  # a store failed: no session is to blame
        rooms.queue.forgive(claim, claim.entries)
        rooms.queue.give_back(claim)
        raise
    except BaseException:  # the time limit struck: somebody's session may be, so the attempt counts
        rooms.queue.give_back(claim)
        raise
    owners = {entry.entry_id: entry.owner for of in claim.entries.values() for entry in of}
    for entry_id, outcome in outcomes.items():
        rooms.metrics.sessions.labels(owners[entry_id].domain, outcome.status.value).inc()
    rooms.metrics.seconds.observe(time.perf_counter() - started)
    return Improved(len(owners), len(outcomes))


def _improve_domain(
    rooms: Improver, claim: Claim, name: str, entries: Mapping[Owner, Sequence[Entry]]
) -> dict[str, Outcome]:
    """Bring the copies of these users in line with their evidence."""
    pending = {entry.session_id: entry for of in entries.values() for entry in of if entry.session_id}
    domain = rooms.domains.get(name)
    if domain is None:
        unknown = Outcome(Status.FAILED, f"domain {name!r} is not configured")
        return {entry.entry_id: unknown for of in entries.values() for entry in of}
    usable, verdicts, forgotten = _select(rooms, domain, entries, pending)
    queries = _query_vectors(rooms.clickstream, domain, [one.session for one in usable], verdicts)
    blue = rooms.releases.blue(name).collection_id
    shown = {o for one in usable if one.session.session_id in queries for o in one.weights}
    originals = rooms.vectors.find(blue, shown)
    inputs = _inputs(domain, usable, queries, originals, verdicts)
    users = [owner.user_id for owner in entries if owner.user_id is not None]
    held = rooms.vectors.copies(blue, users) if users else []
    copies, stale, broken = _changes(domain, inputs, originals, held)
    for one in usable:  # evidence that cannot be read just now must not look like evidence taken back
        verdict = verdicts.get(one.session.session_id)
        if verdict and verdict.status is Status.FAILED and one.session.session_id not in pending:
            broken.setdefault(one.session.user_id, verdict)

    still_held = rooms.queue.renew(claim, rooms.lease_seconds)
    lost = {owner.user_id for owner in entries if owner.key not in still_held}
    rooms.vectors.upsert(blue, [copy for copy in copies if copy.user_id not in lost])
    rooms.vectors.delete_copies(blue, [copy for copy in stale if copy.user_id not in lost | broken.keys()])
    lost |= _overtaken(rooms, name, blue, originals, copies)
    _forget(rooms, name, [owner.user_id for owner in forgotten if owner.user_id and owner.key in still_held])
    _update_profiles(rooms, domain, usable, [owner.user_id for owner in entries if owner.key in still_held])
    still_held = rooms.queue.renew(claim, rooms.lease_seconds)
    # Whoever took these over while we wrote may have read newer evidence and been overwritten.
    rooms.queue.enqueue_rebuild(owner for owner in entries if owner.user_id and owner.key not in still_held)
    log.info("users improved", domain=name, users=len(users), copies=len(copies), removed=len(stale))
    rooms.metrics.copies.labels(name, "written").inc(len(copies))
    rooms.metrics.copies.labels(name, "deleted").inc(len(stale))

    # The lost stay pending: whoever holds them now, or the next claim, does them again.
    kept = {owner: of for owner, of in entries.items() if owner.user_id not in lost}
    return {
        entry.entry_id: verdicts.get(entry.session_id or "")
        or broken.get(owner.user_id)
        or Outcome(Status.DONE, keep=owner not in forgotten)
        for owner, of in kept.items()
        for entry in of
    }


def _select(
    rooms: Improver,
    domain: SearchDomain,
    entries: Mapping[Owner, Sequence[Entry]],
    pending: Mapping[str, Entry],
) -> tuple[list[UsableSession], dict[str, Outcome], set[Owner]]:
    """Read all that these users were ever shown.

    Returns:
        What teaches, oldest first; why the rest does not; and the users of whom no session is left, perhaps
        because they were erased. A line about what is gone is not kept, for it names its user: a sweeper that
        read the session before the erasure queues it after.
    """
    exhausted = {s for s, entry in pending.items() if entry.attempts > rooms.max_attempts}
    taught = rooms.queue.taught_by(owner for owner in entries if owner.user_id is not None)
    wanted = {s for of in taught.values() for s in of} | set(pending)
    sessions = rooms.clickstream.sessions(wanted - exhausted)
    verdicts = {s: Outcome(Status.FAILED, f"given up after {rooms.max_attempts} attempts") for s in exhausted}
    known = exhausted | {session.session_id for session in sessions}
    for session_id in pending.keys() - known:
        verdicts[session_id] = Outcome(Status.FAILED, "session not found", keep=False)
    forgotten = {owner for owner, of in taught.items() if not known.intersection(of)}
    propensities = rooms.propensities.get(domain.name) if uses_propensities(domain) else ()
    usable = []
    for session in sorted(sessions, key=lambda s: (happened_at(s), s.session_id)):
        try:
            selection = domain.selector.select(session)
            weights = domain.evidence.of(session, propensities) if selection.usable else {}
            if weights:
                usable.append(UsableSession(session, weights))
            else:
                reason = selection.reason or "no event that the domain's evidence weighs"
                verdicts[session.session_id] = Outcome(Status.SKIPPED, reason)
        except Exception as error:  # plugin code: one session's trouble stays its own
            verdicts[session.session_id] = _failed(error)
    return usable, verdicts, forgotten


def _query_vectors(
    clickstream: ClickstreamStore,
    domain: SearchDomain,
    sessions: Iterable[RegisteredSession],
    verdicts: dict[str, Outcome],
) -> dict[str, Vectors]:
    """Return each session's prepared query vectors (M, D), embedding at once what is not known yet."""
    space = domain.encoder.model_id
    queries: dict[str, Vectors] = {}
    texts: dict[str, str] = {}
    for session in sessions:
        vector = session.query_vector
        if vector is not None and vector.model_id == space:
            queries[session.session_id] = np.asarray(vector.vectors, dtype=np.float32)
        elif session.search_query:
            texts[session.session_id] = session.search_query
        else:
            reason = (
                "it has no query text" if vector is None else f"its query is a vector of {vector.model_id!r}"
            )
            verdicts[session.session_id] = Outcome(Status.SKIPPED, f"no query vector: {reason}")
    encoded = _encode(domain, texts, verdicts)
    clickstream.save_query_vectors(
        {i: QueryVector(model_id=space, vectors=(tuple(row.tolist()),)) for i, row in encoded.items()}
    )
    return queries | {session_id: row[None, :] for session_id, row in encoded.items()}


def _encode(
    domain: SearchDomain, texts: Mapping[str, str], verdicts: dict[str, Outcome]
) -> dict[str, Vectors]:
    """Embed all texts at once, or one by one when that fails, so that one bad text fails alone."""
    if not texts:
        return {}
    try:
        return dict(zip(texts, domain.embed(list(texts.values())), strict=True))
    except Exception:
        encoded = {}
        for session_id, text in texts.items():
            try:
                encoded[session_id] = domain.embed([text])[0]
            except Exception as error:
                verdicts[session_id] = _failed(error)
        return encoded


def _inputs(
    domain: SearchDomain,
    sessions: Sequence[UsableSession],
    queries: Mapping[str, Vectors],
    originals: Mapping[str, Object],
    verdicts: dict[str, Outcome],
) -> list[ImprovementInput]:
    """Return what each session that can be compared says, weighed by its age beside its user's latest."""
    latest: dict[str | None, float] = {}
    for one in sessions:
        user = one.session.user_id
        latest[user] = max(latest.get(user, 0.0), happened_at(one.session))
    inputs = []
    for one in sessions:
        query = queries.get(one.session.session_id)
        if query is None:
            continue
        try:
            decay = domain.evidence.decay(latest[one.session.user_id] - happened_at(one.session))
            inputs.append(
                improvement_input(one, query, originals, domain.search_index_info.dimensions, decay)
            )
        except ValueError as error:
            verdicts[one.session.session_id] = Outcome(Status.SKIPPED, str(error))
        except Exception as error:  # plugin code again
            verdicts[one.session.session_id] = _failed(error)
    return inputs


def _changes(
    domain: SearchDomain,
    inputs: Sequence[ImprovementInput],
    originals: Mapping[str, Object],
    held: Iterable[CopyRef],
) -> tuple[list[Object], list[CopyRef], dict[str | None, Outcome]]:
    """Return the copies to write, those to delete, and the users whose adjustment failed."""
    wanted = revisions(inputs, originals, domain)
    stored: dict[Key, str] = {(copy.user_id, copy.original_id): copy.revision for copy in held}
    changed = {key: revision for key, revision in wanted.items() if stored.get(key) != revision}
    stale = [copy for copy in held if (copy.user_id, copy.original_id) not in wanted]
    keys = list(changed)
    copies: list[Object] = []
    broken: dict[str | None, Outcome] = {}
    for start in range(0, len(keys), ADJUST_ROWS):
        chunk = {key: changed[key] for key in keys[start : start + ADJUST_ROWS]}
        try:
            copies += personal_copies(_about(inputs, chunk), originals, chunk, domain)
        except Exception:  # find out whose: the others must not suffer
            for user in {user for user, _ in chunk}:
                mine = {key: revision for key, revision in chunk.items() if key[0] == user}
                try:
                    copies += personal_copies(_about(inputs, mine), originals, mine, domain)
                except Exception as error:
                    broken[user] = _failed(error)
    return [copy for copy in copies if copy.user_id not in broken], stale, broken


def _about(inputs: Iterable[ImprovementInput], keys: Mapping[Key, str]) -> list[ImprovementInput]:
    users = {user for user, _ in keys}
    return [session for session in inputs if session.query.user_id in users]


def _overtaken(
    rooms: Improver, name: str, blue: str, originals: Mapping[str, Object], copies: Sequence[Object]
) -> set[str | None]:
    """Return the users whose originals changed, vanished or moved while we wrote; remove orphaned copies.

    Whoever changes an original queues its users again, but a user's first copy may have been in flight then.
    """
    if rooms.releases.blue(name).collection_id != blue:
        return {copy.user_id for copy in copies}
    used = {copy.original_id for copy in copies if copy.original_id is not None}
    now = rooms.vectors.revisions(blue, used)
    changed = {o for o in used if now.get(o) != originals[o].revision}
    orphans = [
        CopyRef(str(copy.user_id), str(copy.original_id), copy.revision)
        for copy in copies
        if copy.original_id in used - now.keys()
    ]
    rooms.vectors.delete_copies(blue, orphans)
    return {copy.user_id for copy in copies if copy.original_id in changed}


def _forget(rooms: Improver, name: str, users: Sequence[str]) -> None:
    """Delete what users without any session left have in any collection of a domain, blue or green.

    Whoever was at work on them when they were erased may have written to one that is not blue any more.
    """
    if users:
        for release in rooms.releases.list(name):
            rooms.vectors.erase(release.collection_id, users)
            rooms.batch.neighbours.drop(name, release.embedding_model_id, users)


def _update_profiles(
    rooms: Improver, domain: SearchDomain, usable: Iterable[UsableSession], users: Iterable[str | None]
) -> None:
    """Tell these users' profiles what their sessions say, and have them made anew."""
    taught: dict[str | None, list[UsableSession]] = {user: [] for user in users if user is not None}
    for one in usable:  # oldest first
        if (of := taught.get(one.session.user_id)) is not None:
            of.append(one)
    latest = -domain.profiles.remember
    evidence = {str(user): searched(of, domain.evidence)[latest:] for user, of in taught.items()}
    rooms.batch.profiles.put_searched(domain.name, evidence)
    try:
        rooms.batch.rebuild(domain, evidence)
    except Exception:  # the copies are made, and the profiles stay due
        log.exception("profiles not updated", domain=domain.name, users=len(evidence))


def sweep_idle(rooms: Improver, idle_seconds: float) -> int:
    """Queue the idle sessions that pass their domain's selector; return how many were looked at."""
    idle = rooms.clickstream.idle_sessions(idle_seconds, SWEEP_LIMIT)
    requests, changed = [], []
    for session, version in idle:
        domain = rooms.domains.get(session.domain or "")
        if domain is None:
            continue
        try:
            selection = domain.selector.select(session)
        except Exception:  # queued all the same: the worker then records why it fails
            log.exception("selector failed", domain=domain.name, session_id=session.session_id)
            requests.append(Request(session.session_id, Owner(domain.name, session.user_id), version))
            continue
        if selection.usable:
            owner = Owner(domain.name, session.user_id)
            requests.append(Request(session.session_id, owner, version, selection.priority))
        else:
            changed.append(session.session_id)
    rooms.queue.enqueue(requests)
    rooms.queue.requeue(changed)  # what taught before and no longer passes takes its influence back
    rooms.clickstream.mark_swept((session.session_id, version) for session, version in idle)
    return len(idle)


def run_improvement(rooms: Improver, limit: int, idle_seconds: float) -> int:
    """Finish promotions, sweep, improve until nothing is free to claim, then what is due of the rest.

    Returns:
        How many queue entries ended.
    """
    for name in rooms.releases.unrebuilt():  # whoever switched died before queueing the rebuild
        rebuild_all(rooms.releases, rooms.queue, rooms.batch.profiles, name)
    while sweep_idle(rooms, idle_seconds) == SWEEP_LIMIT:
        pass
    each_domain(rooms, refresh_propensities)
    total = in_vain = 0
    while in_vain < VAIN_ROUNDS:
        claimed, ended = improve_users(rooms, limit)
        if not claimed:
            break
        total += ended
        in_vain = 0 if ended else in_vain + 1
    each_domain(rooms, update_profiles)
    each_domain(rooms, refresh_popularity)
    return total


def _failed(error: Exception) -> Outcome:
    return Outcome(Status.FAILED, f"{type(error).__name__}: {error}")

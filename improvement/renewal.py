"""Renewal: bring users' copies in one collection in line with what their sessions say."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from clickstream.improvement_queue import Claim, Outcome, Status
from improvement.copies import Key, improvement_input, personal_copies, revisions
from improvement.domain import SearchDomain
from improvement.evidence import happened_at
from improvement.experiments.treatment import evidence_for
from improvement.improver import Improver
from improvement.inputs import ImprovementInput
from improvement.lessons import Lessons
from improvement.objects import Object, Vectors
from improvement.quality.limits import most_useful, usefulness
from improvement.queries import Queries, failed
from improvement.releases import Release
from improvement.vectors import CopyRef

#: Copies adjusted at once; bounds the memory of a batch.
ADJUST_ROWS = 4_096


@dataclass(frozen=True)
class Renewed:
    """What was done in one collection.

    Attributes:
        written, deleted: copies.
        verdicts: why sessions taught nothing here, by session id.
        broken: users whose copies could not be made and are as they were, and why.
        overtaken: users who must be done again: somebody else took them over, or changed their originals.
    """

    written: int
    deleted: int
    verdicts: Mapping[str, Outcome]
    broken: Mapping[str | None, Outcome]
    overtaken: set[str | None]


def renew_copies(
    rooms: Improver,
    claim: Claim,
    release: Release,
    domain: SearchDomain,
    lessons: Lessons,
    queries: Queries,
    spared: Mapping[str | None, Outcome] | None = None,
) -> Renewed:
    """Write the copies that a collection lacks, and delete those without evidence; store calls per batch.

    Args:
        domain: in the space of the release, at the rate it learns.
        queries: of the sessions that teach, in that space.
        spared: users whose copies stay as they are, and why.
    """
    collection, verdicts = release.collection_id, {**lessons.verdicts, **queries.verdicts}
    shown = {o for one in lessons.teaching if one.session.session_id in queries.vectors for o in one.weights}
    originals = rooms.vectors.find(collection, shown)
    inputs = _inputs(domain, lessons, queries.vectors, originals, verdicts)
    held = rooms.vectors.copies(collection, lessons.users) if lessons.users else []
    copies, stale, broken = _changes(domain, inputs, originals, held)
    broken |= dict(spared or {})
    for (
        one
    ) in lessons.teaching:  # evidence that cannot be read just now must not look like evidence taken back
        verdict = verdicts.get(one.session.session_id)
        if verdict and verdict.status is Status.FAILED and one.session.session_id not in lessons.queued:
            broken.setdefault(one.session.user_id, verdict)

    still_held = rooms.queue.renew(claim, rooms.lease_seconds)
    lost = {owner.user_id for owner in lessons.entries if owner.key not in still_held}
    copies = [copy for copy in copies if copy.user_id not in lost | broken.keys()]
    stale = [copy for copy in stale if copy.user_id not in lost | broken.keys()]
    rooms.vectors.upsert(collection, copies)
    rooms.vectors.delete_copies(collection, stale)
    lost |= _overtaken(rooms, collection, originals, copies)
    rooms.metrics.copies.labels(release.domain, "written").inc(len(copies))
    rooms.metrics.copies.labels(release.domain, "deleted").inc(len(stale))
    return Renewed(len(copies), len(stale), verdicts, broken, lost)


def _inputs(
    domain: SearchDomain,
    lessons: Lessons,
    queries: Mapping[str, Vectors],
    originals: Mapping[str, Object],
    verdicts: dict[str, Outcome],
) -> list[ImprovementInput]:
    """Return what each session that can be compared says, weighed by its age beside its user's latest."""
    latest: dict[str | None, float] = {}
    for one in lessons.teaching:
        user = one.session.user_id
        latest[user] = max(latest.get(user, 0.0), happened_at(one.session))
    inputs = []
    for one in lessons.teaching:
        query = queries.get(one.session.session_id)
        if query is None:
            continue
        try:
            evidence = evidence_for(lessons.experiment, one.session.user_id, domain.evidence)
            decay = evidence.decay(latest[one.session.user_id] - happened_at(one.session))
            inputs.append(
                improvement_input(one, query, originals, domain.search_index_info.dimensions, decay)
            )
        except ValueError as error:
            verdicts[one.session.session_id] = Outcome(Status.SKIPPED, str(error))
        except Exception as error:  # plugin code again
            verdicts[one.session.session_id] = failed(error)
    return inputs


def _changes(
    domain: SearchDomain,
    inputs: Sequence[ImprovementInput],
    originals: Mapping[str, Object],
    held: Iterable[CopyRef],
) -> tuple[list[Object], list[CopyRef], dict[str | None, Outcome]]:
    """Return the copies to write, those to delete, and the users whose adjustment failed."""
    kept = set(most_useful(usefulness(inputs), domain.copies.per_user))
    wanted = {key: digest for key, digest in revisions(inputs, originals, domain).items() if key in kept}
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
                    broken[user] = failed(error)
    return copies, stale, broken


def _about(inputs: Iterable[ImprovementInput], keys: Mapping[Key, str]) -> list[ImprovementInput]:
    users = {user for user, _ in keys}
    return [session for session in inputs if session.query.user_id in users]


def _overtaken(
    rooms: Improver, collection: str, originals: Mapping[str, Object], copies: Sequence[Object]
) -> set[str | None]:
    """Return the users whose originals changed or vanished while we wrote; remove orphaned copies.

    Whoever changes an original queues its users again, but a user's first copy may have been in flight then.
    """
    used = {copy.original_id for copy in copies if copy.original_id is not None}
    now = rooms.vectors.revisions(collection, used)
    changed = {o for o in used if o not in now or now[o].revision != originals[o].revision}
    gone = used - now.keys()
    orphans = [
        CopyRef(str(copy.user_id), str(copy.original_id), copy.revision)
        for copy in copies
        if copy.original_id in gone
    ]
    rooms.vectors.delete_copies(collection, orphans)
    return {copy.user_id for copy in copies if copy.original_id in changed}

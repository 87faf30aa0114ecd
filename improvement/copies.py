"""Personal copies as a pure function of the originals and a user's evidence."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from clickstream.records import RegisteredSession
from improvement.adjusters.base import limit_drift
from improvement.domain import SearchDomain
from improvement.inputs import ImprovementElement, ImprovementInput, evidence_batch
from improvement.objects import Object, Vectors

#: (user_id, original's object_id)
Key = tuple[str, str]


@dataclass(frozen=True)
class UsableSession:
    """A session that teaches, and which of the objects it showed were clicked and skipped."""

    session: RegisteredSession
    clicked: Sequence[str]
    skipped: Sequence[str]


def improvement_input(
    usable: UsableSession, query: Vectors, originals: Mapping[str, Object], dimensions: int
) -> ImprovementInput:
    """Make one usable session's input; shown objects that no longer exist are left out.

    Args:
        query: (M, D) the query's vectors, prepared for the domain.
        dimensions: the domain's D.

    Raises:
        ValueError: no user, no clicked object left, or a query vector of another size or with NaN.
    """
    session = usable.session
    if session.user_id is None:
        raise ValueError("anonymous: there is no user to make copies for")
    if query.shape[1] != dimensions or not np.isfinite(query).all():
        raise ValueError(
            f"its query vector has shape {query.shape}; expected {dimensions} finite numbers a row"
        )
    user_id = session.user_id

    def elements(object_ids: Iterable[str]) -> list[ImprovementElement]:
        return [ImprovementElement(i, originals[i].parts, user_id) for i in object_ids if i in originals]

    clicked = elements(usable.clicked)
    if not clicked:
        raise ValueError("the clicked objects are no longer in the collection")
    return ImprovementInput(
        session_id=session.session_id,
        query=ImprovementElement(session.session_id, query, user_id),
        clicked_elements=clicked,
        non_clicked_elements=elements(usable.skipped),
    )


def revisions(
    inputs: Sequence[ImprovementInput], originals: Mapping[str, Object], domain: SearchDomain
) -> dict[Key, str]:
    """Return for each (user, object) a digest of everything its copy depends on.

    Equal digests mean equal copies, so what is stored under the same digest need not be made again.
    """
    evidence: dict[Key, list[bytes]] = {}
    for session in inputs:
        query = hashlib.blake2b(np.ascontiguousarray(session.query.vector).tobytes(), digest_size=16).digest()
        for elements, sign in ((session.clicked_elements, b"+"), (session.non_clicked_elements, b"-")):
            weight = sign + str(len(elements)).encode() + query + session.session_id.encode()
            for element in elements:
                evidence.setdefault((element.user_id, element.id), []).append(weight)
    settings = repr((domain.adjuster, domain.search_index_info)).encode()
    digests = {}
    for key, pieces in evidence.items():
        digest = hashlib.blake2b(settings, digest_size=16)
        digest.update(originals[key[1]].revision.encode())
        for piece in sorted(pieces):
            digest.update(hashlib.blake2b(piece, digest_size=16).digest())
        digests[key] = digest.hexdigest()
    return digests


def personal_copies(
    inputs: Sequence[ImprovementInput],
    originals: Mapping[str, Object],
    wanted: Mapping[Key, str],
    domain: SearchDomain,
) -> list[Object]:
    """Adjust the wanted (user, object) pairs and return them as copies.

    Args:
        inputs: usable sessions, oldest first.
        wanted: the revision to write for each pair; other pairs of the inputs are left out.

    Raises:
        ValueError: an input or a result cannot be used (NaN, wrong dimensions).
    """
    if not wanted:
        return []
    batch = evidence_batch(inputs, only=wanted.keys())
    adjusted = domain.adjuster.adjust(batch)
    if not torch.isfinite(adjusted).all():
        raise ValueError("the adjuster returned NaN or infinity")
    latest = _latest_sessions(inputs, wanted.keys())
    copies = []
    for key, rows, mask in zip(batch.keys, adjusted, batch.part_mask, strict=True):
        original = originals[key[1]]
        parts: Vectors = rows[mask].numpy()
        copies.append(
            replace(
                original,
                object_id=f"{original.object_id}_{key[0]}",
                parts=parts,
                average=_average(original, parts, domain),
                user_id=key[0],
                original_id=original.object_id,
                session_id=latest[key],
                revision=wanted[key],
            )
        )
    return copies


def _average(original: Object, parts: Vectors, domain: SearchDomain) -> Vectors:
    """Move the average as the parts' mean moved, and no further than the law allows."""
    moved = original.mean + (parts.mean(axis=0) - original.parts.mean(axis=0))
    before, after = (torch.from_numpy(np.asarray(v, np.float32))[None] for v in (original.mean, moved))
    limited = limit_drift(before, after, domain.search_index_info.metric_type, domain.adjuster.max_drift)
    average: Vectors = limited[0].numpy()
    return average


def _latest_sessions(inputs: Sequence[ImprovementInput], keys: Collection[Key]) -> dict[Key, str]:
    latest: dict[Key, str] = {}
    for session in inputs:
        for element in (*session.clicked_elements, *session.non_clicked_elements):
            key = (element.user_id, element.id)
            if key in keys:
                latest[key] = session.session_id
    return latest

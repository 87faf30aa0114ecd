"""Personal copies as a pure function of the originals and a user's evidence."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from clickstream.records import RegisteredSession
from improvement.adjusters.base import limit_drift
from improvement.domain import SearchDomain
from improvement.inputs import ImprovementElement, ImprovementInput, evidence_batch
from improvement.objects import Object, Vectors

#: Largest weight that a float32 batch holds.
MAX_WEIGHT = float(np.finfo(np.float32).max)
#: (user_id, original's object_id)
Key = tuple[str, str]


@dataclass(frozen=True)
class UsableSession:
    """A session that teaches, and the signed weight of every object that it says something about.

    Raises:
        ValueError: a weight is not a finite number; it is named.
    """

    session: RegisteredSession
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        for object_id, weight in self.weights.items():
            if not abs(weight) <= MAX_WEIGHT:  # here, where only this session fails
                raise ValueError(f"weight of {object_id!r}: expected a finite number, got {weight!r}")


def improvement_input(
    usable: UsableSession,
    query: Vectors,
    originals: Mapping[str, Object],
    dimensions: int,
    decay: float = 1.0,
) -> ImprovementInput:
    """Make one usable session's input; shown objects that no longer exist are left out.

    Args:
        query: (M, D) the query's vectors, prepared for the domain.
        dimensions: the domain's D.
        decay: what age has left of the session's evidence, in 0..1.

    Raises:
        ValueError: no user, no object left, a decay out of its range, or a query vector of another size or
            with NaN.
    """
    session = usable.session
    if session.user_id is None:
        raise ValueError("anonymous: there is no user to make copies for")
    if query.shape[1] != dimensions or not np.isfinite(query).all():
        raise ValueError(
            f"its query vector has shape {query.shape}; expected {dimensions} finite numbers a row"
        )
    if not 0 <= decay <= 1:
        raise ValueError(f"decay: expected a number in 0..1, got {decay!r}")
    user_id = session.user_id
    weights = {i: float(weight * decay) for i, weight in usable.weights.items() if i in originals}

    def elements(sign: int) -> list[ImprovementElement]:
        return [
            ImprovementElement(i, originals[i].parts, user_id, weight)
            for i, weight in weights.items()
            if weight * sign > 0
        ]

    clicked, non_clicked = elements(1), elements(-1)
    if not clicked and not non_clicked:
        raise ValueError("the objects it is about are no longer in the collection")
    return ImprovementInput(
        session_id=session.session_id,
        query=ImprovementElement(session.session_id, query, user_id),
        clicked_elements=clicked,
        non_clicked_elements=non_clicked,
    )


def revisions(
    inputs: Sequence[ImprovementInput], originals: Mapping[str, Object], domain: SearchDomain
) -> dict[Key, str]:
    """Return for each (user, object) a digest of everything its copy depends on.

    Every piece of evidence is in it with its final weight. Equal digests mean equal copies, so what is
    stored under the same digest need not be made again.
    """
    evidence: dict[Key, list[bytes]] = {}
    for session in inputs:
        query = hashlib.blake2b(np.ascontiguousarray(session.query.vector).tobytes(), digest_size=16).digest()
        for element, weight in session.weighted():
            # the query's digest first, for it is of one length: the pieces can be told apart
            piece = query + f"{weight!r} {session.session_id}".encode()
            evidence.setdefault((element.user_id, element.id), []).append(piece)
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
    made = [rows[mask].numpy() for rows, mask in zip(adjusted, batch.part_mask, strict=True)]
    averages = _averages([originals[o] for _, o in batch.keys], made, domain)
    return [
        replace(
            originals[object_id],
            object_id=f"{object_id}_{user_id}",
            parts=parts,
            average=average,
            user_id=user_id,
            original_id=object_id,
            session_id=latest[user_id, object_id],
            revision=wanted[user_id, object_id],
            texts=(),
            raw=None,
            given=None,
        )
        for (user_id, object_id), parts, average in zip(batch.keys, made, averages, strict=True)
    ]


def _averages(originals: Sequence[Object], made: Sequence[Vectors], domain: SearchDomain) -> Vectors:
    """Move each average as its parts' mean moved, and no further than the law allows: (N, D)."""
    before = np.stack([original.mean for original in originals])
    moved = [
        parts.mean(axis=0) - original.parts.mean(axis=0)
        for original, parts in zip(originals, made, strict=True)
    ]
    old, new = torch.from_numpy(before), torch.from_numpy(before + np.stack(moved))
    limited = limit_drift(old, new, domain.search_index_info.metric_type, domain.adjuster.max_drift)
    averages: Vectors = limited.numpy()
    return averages


def _latest_sessions(inputs: Sequence[ImprovementInput], keys: Collection[Key]) -> dict[Key, str]:
    latest: dict[Key, str] = {}
    for session in inputs:
        for element, _ in session.weighted():
            key = (element.user_id, element.id)
            if key in keys:
                latest[key] = session.session_id
    return latest

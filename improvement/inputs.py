"""From sessions to evidence to one padded batch with masks; tensor shapes are made only here.

Dimension names, used everywhere: N objects to adjust (one per user and object), P parts of an object,
S searches (sessions), M vectors of a query, E pieces of evidence per object, D dimensions.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from improvement.objects import Vectors


@dataclass(frozen=True, eq=False)
class ImprovementElement:
    """A query or an object as vectors.

    Attributes:
        id: the object's id, or the session's for a query.
        vector: float array of shape (parts, D).
        user_id: whose session it stands in.
    """

    id: str
    vector: Vectors
    user_id: str


@dataclass(frozen=True, eq=False)
class ImprovementInput:
    """One usable session: its query, and the original vectors of what was clicked and skipped."""

    session_id: str
    query: ImprovementElement
    clicked_elements: Sequence[ImprovementElement]
    non_clicked_elements: Sequence[ImprovementElement]


@dataclass(frozen=True, eq=False)
class EvidenceBatch:
    """Everything an adjuster needs, regrouped by what is adjusted: one row per user and object.

    A row's evidence is every session in which that user was shown that object, so a row's result depends on
    nothing else in the batch. Padding is masked: rows of ``parts`` by ``part_mask``, rows of ``queries`` by
    ``query_mask``, evidence by weight 0.

    Attributes:
        keys: N pairs (user_id, object_id).
        parts: (N, P, D) the originals' parts, zero where padded.
        part_mask: (N, P) bool, True where a part is real.
        queries: (S, M, D) the searches' query vectors, zero where padded.
        query_mask: (S, M) bool.
        evidence: (N, E) int64, for each piece of evidence the row of ``queries`` it is about.
        weights: (N, E) signed: +1/clicked of its session for a click, -1/skipped of its session for a skip
            (the means of the published loss), 0 for padding.
    """

    keys: tuple[tuple[str, str], ...]
    parts: torch.Tensor
    part_mask: torch.Tensor
    queries: torch.Tensor
    query_mask: torch.Tensor
    evidence: torch.Tensor
    weights: torch.Tensor


def evidence_batch(
    inputs: Sequence[ImprovementInput],
    dtype: torch.dtype = torch.float32,
    only: Collection[tuple[str, str]] | None = None,
) -> EvidenceBatch:
    """Regroup sessions by user and object and pad them to one batch.

    ``only`` keeps the rows of these (user_id, object_id); weights still count whole sessions.

    The evidence of a row is sorted by session id, so the order of ``inputs`` changes nothing.

    Raises:
        ValueError: no inputs, an input without clicked or skipped elements, or vectors that differ in D.
    """
    if not inputs:
        raise ValueError("inputs: expected at least one session, got none")
    searches: list[torch.Tensor] = []
    originals: dict[tuple[str, str], torch.Tensor] = {}
    evidence: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row, session in enumerate(sorted(inputs, key=lambda i: (i.query.user_id, i.session_id))):
        if not session.clicked_elements and not session.non_clicked_elements:
            raise ValueError(
                f"session {session.session_id!r}: expected clicked or skipped elements, got none"
            )
        searches.append(_rows(session.query, dtype))
        for elements, sign in ((session.clicked_elements, 1.0), (session.non_clicked_elements, -1.0)):
            for element in elements:
                key = (element.user_id, element.id)
                if only is not None and key not in only:
                    continue
                originals.setdefault(key, _rows(element, dtype))
                evidence.setdefault(key, []).append((row, sign / len(elements)))
    sizes = {rows.shape[1] for rows in (*searches, *originals.values())}
    if len(sizes) > 1:
        raise ValueError(f"vectors: expected one number of dimensions, got {sorted(sizes)}")
    parts, part_mask = _padded(list(originals.values()))
    queries, query_mask = _padded(searches)
    return EvidenceBatch(
        keys=tuple(originals),
        parts=parts,
        part_mask=part_mask,
        queries=queries,
        query_mask=query_mask,
        evidence=pad_sequence([torch.tensor([row for row, _ in evidence[key]]) for key in originals], True),
        weights=pad_sequence(
            [torch.tensor([weight for _, weight in evidence[key]], dtype=dtype) for key in originals], True
        ),
    )


def _rows(element: ImprovementElement, dtype: torch.dtype) -> torch.Tensor:
    vector = np.asarray(element.vector)
    if vector.ndim != 2 or 0 in vector.shape:
        raise ValueError(f"element {element.id!r}: expected shape (parts, dimensions), got {vector.shape}")
    if not np.isfinite(vector).all():
        raise ValueError(f"element {element.id!r}: expected finite numbers, got NaN or infinity")
    return torch.tensor(vector, dtype=dtype)


def _padded(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([len(r) for r in rows])
    padded = pad_sequence(rows, batch_first=True)
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]

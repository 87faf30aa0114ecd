"""From sessions to evidence to one padded batch with masks; tensor shapes are made only here.

Dimension names, used everywhere: N objects to adjust (one per user and object), P parts of an object,
S searches (sessions), M vectors of a query, E pieces of evidence per object, D dimensions.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from improvement.objects import Vectors


@dataclass(frozen=True, eq=False)
class ImprovementElement:
    """A query or an object as vectors.

    Attributes:
        id: the object's id, or the session's for a query.
        vector: float array of shape (parts, D).
        user_id: whose session it stands in.
        weight: signed, how much the session says for (> 0) or against (< 0) the object; None is the published
            mean: 1/clicked of its session for a click, -1/skipped of its session for a skip.
    """

    id: str
    vector: Vectors
    user_id: str
    weight: float | None = None


@dataclass(frozen=True, eq=False)
class ImprovementInput:
    """One usable session: its query, and the original vectors of what it speaks for and against."""

    session_id: str
    query: ImprovementElement
    clicked_elements: Sequence[ImprovementElement]
    non_clicked_elements: Sequence[ImprovementElement]

    def weighted(self) -> Iterator[tuple[ImprovementElement, float]]:
        """Yield each object's element with its signed weight, the published mean where it has none."""
        for elements, sign in ((self.clicked_elements, 1.0), (self.non_clicked_elements, -1.0)):
            for element in elements:
                yield element, sign / len(elements) if element.weight is None else element.weight


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
        weights: (N, E) signed: > 0 speaks for the object, < 0 against it, 0 is padding.
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
        ValueError: no inputs, an input without clicked or skipped elements, nothing to keep, vectors that
            differ in D, or NaN or infinity in one of them or in a weight, which is named.
    """
    if not inputs:
        raise ValueError("inputs: expected at least one session, got none")
    searches: list[ImprovementElement] = []
    originals: dict[tuple[str, str], ImprovementElement] = {}
    evidence: dict[tuple[str, str], list[int]] = {}
    weights: dict[tuple[str, str], list[float]] = {}
    for row, session in enumerate(sorted(inputs, key=lambda i: (i.query.user_id, i.session_id))):
        if not session.clicked_elements and not session.non_clicked_elements:
            raise ValueError(
                f"session {session.session_id!r}: expected clicked or skipped elements, got none"
            )
        searches.append(session.query)
        for element, weight in session.weighted():
            key = (element.user_id, element.id)
            if only is not None and key not in only:
                continue
            if not abs(weight) <= torch.finfo(dtype).max:
                raise ValueError(f"element {element.id!r}: expected a finite weight, got {weight!r}")
            originals.setdefault(key, element)
            evidence.setdefault(key, []).append(row)
            weights.setdefault(key, []).append(weight)
    if not originals:
        raise ValueError("only: expected at least one of the objects shown in the sessions, got none")
    sizes = {_shape(element)[1] for element in (*searches, *originals.values())}
    if len(sizes) > 1:
        raise ValueError(f"vectors: expected one number of dimensions, got {sorted(sizes)}")
    parts, part_mask = _padded_vectors(list(originals.values()), dtype)
    queries, query_mask = _padded_vectors(searches, dtype)
    return EvidenceBatch(
        keys=tuple(originals),
        parts=parts,
        part_mask=part_mask,
        queries=queries,
        query_mask=query_mask,
        evidence=_padded([np.array(rows, np.int64) for rows in evidence.values()])[0],
        weights=_padded([np.array(row) for row in weights.values()])[0].to(dtype),
    )


def _shape(element: ImprovementElement) -> tuple[int, ...]:
    shape = np.shape(element.vector)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"element {element.id!r}: expected shape (parts, dimensions), got {shape}")
    return shape


def _padded_vectors(
    elements: Sequence[ImprovementElement], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    padded, mask = _padded([np.asarray(element.vector) for element in elements])
    padded = padded.to(dtype)  # first, because what is finite in float64 may not be in float32
    finite = padded.isfinite().flatten(1).all(1)
    if not finite.all():
        broken = elements[int(finite.int().argmin())]
        raise ValueError(f"element {broken.id!r}: expected finite numbers, got NaN or infinity")
    return padded, mask


def _padded(rows: list[NDArray[Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack arrays that differ in their first length, padded with 0; the mask is True where one is real."""
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    values = np.concatenate(rows)
    padded = np.zeros((*mask.shape, *values.shape[1:]), values.dtype)
    padded[mask] = values
    return torch.from_numpy(padded), torch.from_numpy(mask)

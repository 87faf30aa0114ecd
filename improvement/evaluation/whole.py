"""Compare two whole collections: what is found, what is missing, and how far objects were moved."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from improvement.adjusters.base import drift
from improvement.domain import MetricType
from improvement.evaluation.sessions import Progress
from improvement.evaluation.side import Side
from improvement.objects import Object, Vectors, given_mean, given_rows
from improvement.vectors import VectorStore

#: Results of a search that are compared, and objects read at once.
TOP, PAGE = 10, 500
#: How often objects that are not in line are looked at again: writers may just be at work on them.
LOOKS = 3


@dataclass(frozen=True, eq=False)
class Found:
    """What searches find in two collections.

    Attributes:
        overlap: for each query, the share of the ten best that are in both tens, 0..1.
        blue, green: how many different objects all the searches found.
    """

    overlap: NDArray[np.float64]
    blue: int
    green: int


@dataclass(frozen=True, eq=False)
class Held:
    """How a green collection holds the blue one's objects.

    Attributes:
        objects: how many the blue one has.
        missing: those of them that the green one lacks, or holds in an older version.
        drift: of each that both hold, how far green's farthest vector is from what was given: radians or
            relative distance; None where the embedding spaces differ.
        examples: ids of some that are missing.
    """

    objects: int
    missing: int
    drift: NDArray[np.float64] | None
    examples: Sequence[str] = field(default_factory=tuple)


def find_in_both(
    vectors: VectorStore,
    blue: Side,
    green: Side,
    queries: Iterable[tuple[Vectors, Vectors]],
    progress: Progress,
) -> Found:
    """Search both collections as somebody without any history does.

    Args:
        queries: (D,) for blue and for green.
    """
    overlap: list[float] = []
    seen: tuple[set[str], set[str]] = (set(), set())
    for pair in queries:
        tens: list[set[str]] = []
        for side, query in zip((blue, green), pair, strict=True):
            hits, _ = vectors.search(side.collection, side.domain.search_index_info, query, TOP)
            tens.append({hit.object_id for hit in hits})
        here, there = tens
        overlap.append(len(here & there) / max(len(here), len(there)) if here or there else np.nan)
        seen[0].update(here)
        seen[1].update(there)
        progress("searched", 1)
    return Found(np.array(overlap, np.float64), len(seen[0]), len(seen[1]))


def hold_both(vectors: VectorStore, blue: Side, green: Side, *, same_space: bool, progress: Progress) -> Held:
    """Compare all originals of two collections, page by page.

    Args:
        same_space: whether both are of one embedding space; drift is not measured otherwise.
    """
    metric = blue.domain.search_index_info.metric_type
    objects, moved = 0, []
    suspects: list[str] = []
    after: str | None = None
    while True:
        page, after = vectors.page(blue.collection, PAGE, after)
        held = vectors.find(green.collection, [o.object_id for o in page])
        objects += len(page)
        in_line = [o for o in page if _given(held.get(o.object_id)) == o.given_revision]
        suspects += {o.object_id for o in page} - {o.object_id for o in in_line}
        if same_space and in_line:
            moved.append(_drifts(in_line, held, metric))
        progress("compared", len(page))
        if after is None:
            break
    missing = _still_missing(vectors, blue, green, suspects)
    distances = np.concatenate([np.zeros(0), *moved]) if same_space else None
    return Held(objects, len(missing), distances, tuple(missing[:10]))


def _given(held: Object | None) -> str | None:
    return None if held is None else held.given_revision


def _rows(parts: Vectors, mean: Vectors) -> Vectors:
    return np.concatenate([parts, mean[None]])


def _drifts(given: Sequence[Object], held: Mapping[str, Object], metric: MetricType) -> NDArray[np.float64]:
    """Return how far each object's farthest row is from what was given; infinitely, without such a row.

    The mean part, which aggregation AVG searches, is a row, too.
    """
    pairs = [
        (_rows(given_rows(o)[: len(o.parts)], given_mean(o)), _rows(green.parts, green.mean))
        for o, green in ((o, held[o.object_id]) for o in given)
    ]
    found = np.full(len(pairs), np.inf)
    alike = [n for n, (before, after) in enumerate(pairs) if before.shape == after.shape]
    if alike:
        before, after = (torch.from_numpy(np.concatenate([pairs[n][i] for n in alike])) for i in (0, 1))
        starts = np.cumsum([0, *(len(pairs[n][0]) for n in alike[:-1])])
        found[alike] = np.maximum.reduceat(drift(before, after, metric).numpy(), starts)
    return found


def _still_missing(vectors: VectorStore, blue: Side, green: Side, suspects: Sequence[str]) -> list[str]:
    """Return those that are not in line, however often one looks, and that blue still has."""
    for _ in range(LOOKS):
        if not suspects:
            break
        there = vectors.revisions(blue.collection, suspects)
        held = vectors.revisions(green.collection, suspects)
        suspects = [o for o in suspects if o in there and (o not in held or held[o].given != there[o].given)]
    return list(suspects)

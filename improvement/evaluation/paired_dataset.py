"""Ask a data set's test queries of two collections; nothing is written.

Whoever asks, sees what somebody without any history sees: originals alone. Ranking is exact.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from improvement.adjusters.base import drift
from improvement.domain import embed_each
from improvement.errors import Invalid, PluginFailed
from improvement.evaluation.dataset import ReplayDataset
from improvement.evaluation.metrics import ndcg, share
from improvement.evaluation.ranking import best_first, scores, searched
from improvement.evaluation.report import Sample
from improvement.evaluation.sessions import TEXTS, Progress
from improvement.evaluation.side import Side
from improvement.objects import Object, Vectors, given_rows
from improvement.vectors import VectorStore

#: Places that the metrics look at, and queries ranked at once.
K, QUERIES = 10, 64
NDCG, MRR, TOPICAL = f"dataset_ndcg@{K}", "dataset_mrr", f"dataset_topical@{K}"
#: Objects by which it is seen whether vectors are of a collection's space, and how far these may be from the
#: collection's in the middle: radians, or a share of the length. Another model is at right angles.
COMPARED, SAME_SPACE = 200, 0.1


@dataclass(frozen=True, eq=False)
class PairedDataset:
    """What two collections made of the same test queries.

    Attributes:
        blue, green: metric -> its values, in one order; the topical share only where there are topics.
        source: what there was to ask and to find.
    """

    blue: Mapping[str, Sample]
    green: Mapping[str, Sample]
    source: Mapping[str, object]


@dataclass(frozen=True)
class _Ask:
    """A user's test query; ``wanted`` and ``topic`` are rows of objects."""

    user: int
    query: int
    wanted: frozenset[int]
    topic: frozenset[int] | None


def pair_dataset(
    data: ReplayDataset, vectors: VectorStore, blue: Side, green: Side, progress: Progress
) -> PairedDataset:
    """Rank a data set's objects for its test queries as both collections hold them.

    Objects are found by their ids; what a collection lacks is not found in it, and what both lack is left
    out. Queries are the data set's vectors where they are of the collection's space, which the vectors of
    its objects tell, or else its texts.

    Raises:
        Invalid: neither is there for a collection, or it holds none of the objects.
    """
    sides = [blue, green]
    found = [vectors.find(side.collection, data.object_ids) for side in sides]
    there = {row for row, o in enumerate(data.object_ids) if any(o in held for held in found)}
    asks = [
        _Ask(number, query, user.relevant.get(query, frozenset()) & there, data.topics.get(query))
        for number, user in enumerate(data.users)
        for query in user.test
    ]
    if not there:
        raise Invalid("dataset: none of its objects are in the collections, by their object_id")
    progress("fetched", sum(map(len, found)))
    ways, values = [], []
    for side, held in zip(sides, found, strict=True):
        queries, way = _queries(data, side, held, sorted({ask.query for ask in asks}), progress)
        ways.append(way)
        values.append(_judged(data, side, held, queries, asks))
    users = np.array([ask.user for ask in asks])
    names = [NDCG, MRR, *([TOPICAL] if any(ask.topic for ask in asks) else [])]
    source = {
        "users": len(data.users),
        "asked": len(asks),
        "objects": len(data.object_ids),
        "objects_missing": [len(data.object_ids) - len(held) for held in found],
        "queries": ways,
    }
    samples = [{name: Sample(of[:, n], users) for n, name in enumerate(names)} for of in values]
    return PairedDataset(samples[0], samples[1], source)


def _queries(
    data: ReplayDataset,
    side: Side,
    held: Mapping[str, Object],
    wanted: Sequence[int],
    progress: Progress,
) -> tuple[dict[int, Vectors | None], str]:
    """Return the queries' prepared vectors (M, D), None where the encoder failed, and where they are from."""
    if _fits(data, side, held):
        return {q: side.domain.prepare_vectors(data.queries[q]) for q in wanted}, "vectors"
    texts = {q: data.texts[q] for q in wanted if q < len(data.texts) and data.texts[q]}
    if len(texts) < len(wanted):
        raise Invalid(
            f"queries.npy: expected vectors of the embedding space {side.space!r}, like the objects of "
            f"collection {side.collection!r}, or a text for every test query in queries.jsonl; "
            f"{len(wanted) - len(texts)} have neither"
        )
    queries: dict[int, Vectors | None] = {}
    for start in range(0, len(wanted), TEXTS):
        some = wanted[start : start + TEXTS]
        for q, row in zip(some, embed_each(side.domain, [str(texts[q]) for q in some]), strict=True):
            queries[q] = None if isinstance(row, PluginFailed) else row[None, :]
        progress("embedded", len(some))
    return queries, "texts"


def _fits(data: ReplayDataset, side: Side, held: Mapping[str, Object]) -> bool:
    """Whether the data set's vectors of objects are those that the collection was given."""
    info = side.domain.search_index_info
    if data.dimensions != info.dimensions:
        return False
    far: list[float] = []
    for object_id, parts in zip(data.object_ids, data.objects, strict=True):
        if object_id in held and len(far) < COMPARED:
            given, mine = given_rows(held[object_id])[: len(parts)], side.domain.prepare_vectors(parts)
            if given.shape == mine.shape:
                moved = drift(torch.tensor(given), torch.from_numpy(mine), info.metric_type)
                far.append(float(moved.mean()))
    return bool(far) and float(np.median(far)) <= SAME_SPACE


def _judged(
    data: ReplayDataset,
    side: Side,
    held: Mapping[str, Object],
    queries: Mapping[int, Vectors | None],
    asks: Sequence[_Ask],
) -> NDArray[np.float64]:
    """Return each ask's nDCG, reciprocal rank and topical share, (asks, 3); NaN where undefined."""
    found = np.full((len(asks), 3), np.nan)
    of_query: dict[int, list[int]] = {}
    for number, ask in enumerate(asks):
        of_query.setdefault(ask.query, []).append(number)
    for query, order in _rankings(data, side, held, queries):
        place = {row: number for number, row in enumerate(order, start=1)}
        for number in of_query[query]:
            ask = asks[number]
            if ask.wanted:
                first = min((place[row] for row in ask.wanted if row in place), default=np.inf)
                hits = [row in ask.wanted for row in order[:K]]
                found[number, :2] = ndcg(hits, len(ask.wanted), K), 1 / first
            if ask.topic:
                found[number, 2] = share([row in ask.topic for row in order[:K]] or [False], K)
    return found


def _rankings(
    data: ReplayDataset, side: Side, held: Mapping[str, Object], queries: Mapping[int, Vectors | None]
) -> Iterator[tuple[int, list[int]]]:
    """Yield each query and the rows of the objects, best first; none where it could not be embedded."""
    info = side.domain.search_index_info
    rows = [row for row, o in enumerate(data.object_ids) if o in held]
    compared = [searched(held[data.object_ids[row]], info.metric_aggregation_type) for row in rows]
    asked = [(query, vectors) for query, vectors in queries.items() if vectors is not None]
    for start in range(0, len(asked), QUERIES):
        some = asked[start : start + QUERIES]
        scored = scores([vectors for _, vectors in some], compared, info.metric_type)
        for (query, _), of in zip(some, scored, strict=True):
            yield query, [rows[place] for place in best_first(of, len(rows))]
    yield from ((query, []) for query, vectors in queries.items() if vectors is None)

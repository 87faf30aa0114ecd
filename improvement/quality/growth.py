"""What each collection holds, and about how many bytes that takes: the cost gauge."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from improvement.objects import Object
from improvement.releases import Release, Releases
from improvement.two_tower.names import towers_name
from improvement.vectors import VectorStore

#: Originals looked at to know how large they are; in the order of hashes, so it is a fair sample.
SAMPLE = 100
#: Bytes of a number in a vector.
NUMBER = 4


@dataclass(frozen=True)
class Size:
    """What one collection holds.

    Attributes:
        embedding_model_id: of its release; ``blue`` and ``follows`` as there.
        copies: personal ones.
        points: originals and copies.
        parts: mean number of parts of an original.
        bytes: estimate of what vectors and payload take, without indexes and what an engine holds twice.
    """

    domain: str
    collection: str
    embedding_model_id: str
    blue: bool
    follows: bool
    originals: int
    copies: int
    points: int
    parts: float
    bytes: int


def growth(releases: Releases, vectors: VectorStore, domains: Iterable[str]) -> list[dict[str, Any]]:
    """Return what each collection of these domains, and of their towers, holds as JSON; see `Size`.

    Three cheap calls a collection: two counts, and a page of `SAMPLE` originals. A collection that is deleted
    meanwhile is left out.
    """
    rows = []
    for name in (name for domain in domains for name in (domain, towers_name(domain))):
        for release in releases.list(name):
            try:
                rows.append(asdict(_size(vectors, release)))
            except Exception:
                if any(one.collection_id == release.collection_id for one in releases.list(name)):
                    raise
    return rows


def _size(vectors: VectorStore, release: Release) -> Size:
    collection = release.collection_id
    originals, points = vectors.count(collection, None), vectors.total(collection)
    points = max(points, originals)  # some may have been written between the two
    sample, _ = vectors.page(collection, SAMPLE)
    dimensions, copies = release.info["dimensions"], points - originals
    return Size(
        domain=release.domain,
        collection=collection,
        embedding_model_id=release.embedding_model_id,
        blue=release.blue,
        follows=release.follows and not release.blue,
        originals=originals,
        copies=copies,
        points=points,
        parts=sum(len(o.parts) for o in sample) / len(sample) if sample else 0.0,
        bytes=estimated_bytes(sample, dimensions, originals, copies),
    )


def estimated_bytes(sample: Sequence[Object], dimensions: int, originals: int, copies: int) -> int:
    """Return about how many bytes so many originals, and copies of them, take; 0 for an empty sample.

    Each has its parts and their average as 32-bit numbers, and its payload as JSON text; an original that was
    turned by what everybody chose has its rows once more, in base64.
    """
    if not sample:
        return 0
    vectors = sum((len(o.parts) + 1) * dimensions * NUMBER for o in sample)
    payload = sum(
        len(json.dumps([o.object_id, o.part_ids, dict(o.payload), dict(o.storage_meta)])) for o in sample
    )
    given = sum(o.raw.size * NUMBER * 4 / 3 for o in sample if o.raw is not None)
    given += sum(len(json.dumps(o.texts)) for o in sample)
    each = len(sample)
    return round(originals * (vectors + payload + given) / each + copies * (vectors + payload) / each)

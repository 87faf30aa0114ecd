"""What the candidate tower reads of objects: the catalogue's content as `ItemFacts`."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from improvement.domain import SearchDomain
from improvement.green.shapes import embedded_rows
from improvement.objects import Object, Vectors, given_mean
from improvement.releases import Releases
from improvement.two_tower.facts import ItemFacts
from improvement.vectors import VectorStore


def facts_of(
    domain: SearchDomain, objects: Sequence[Object], space: str, base_space: str
) -> tuple[ItemFacts, dict[str, str]]:
    """Return what the candidate tower reads of originals, and why others cannot be read, by object id.

    The text row is the mean part as it was given (`given_mean`), brought to length 1; where the rows are of
    another space than ``base_space``, the mean of the parts embedded anew from texts by the variant of that
    space.

    Args:
        domain: as it is configured, with all its variants.
        objects: as given, or in the shape of any release of ``space``; each id once.
        space: the embedding space that their rows are of.
        base_space: the one that the towers were begun on.

    Returns:
        The facts, in the order of the objects, without those that cannot be read; one fails alone.
    """
    means, failed = _means(domain, objects, space, base_space)
    wide = domain.in_space(base_space).search_index_info.dimensions
    read, rows = [], []
    for o in objects:
        if o.object_id not in means:
            continue
        row = means[o.object_id]
        if row.shape != (wide,) or not np.isfinite(row).all():
            failed[o.object_id] = f"expected {wide} finite numbers of the space {base_space!r}"
            continue
        read.append(o)
        rows.append(_unit(row))
    texts = np.stack(rows) if rows else np.zeros((0, wide), np.float32)
    field = domain.towers.author_field if domain.towers is not None else None
    authors = tuple(author_of(o.payload, field) for o in read)
    return ItemFacts(tuple(o.object_id for o in read), texts, authors), failed


class CatalogueFacts:
    """Reads facts of a domain's objects from the collection that serves."""

    def __init__(self, vectors: VectorStore, releases: Releases) -> None:
        self._vectors, self._releases = vectors, releases

    def of(self, domain: SearchDomain, object_ids: Iterable[str], base_space: str) -> ItemFacts:
        """Return facts of those of these objects that are there and can be read, each once, in this order."""
        wanted = list(dict.fromkeys(object_ids))
        while True:
            serving = self._releases.serving(domain.name)
            try:
                found = self._vectors.find(serving.collection_id, wanted) if wanted else {}
                break
            except Exception:  # it may have been replaced and deleted meanwhile
                if self._releases.serving(domain.name) == serving:
                    raise
        there = [found[one] for one in wanted if one in found]
        return facts_of(domain, there, serving.space, base_space)[0]


def author_of(payload: Mapping[str, object], field: str | None) -> str | None:
    """Return who made an object, as its payload says; None where that is no id.

    >>> author_of({"author": "ann"}, "author"), author_of({"author": 7}, "author"), author_of({}, "author")
    ('ann', '7', None)
    """
    found = payload.get(field) if field is not None else None
    if isinstance(found, bool) or not isinstance(found, str | int):
        return None
    return str(found) or None


def _means(
    domain: SearchDomain, objects: Sequence[Object], space: str, base_space: str
) -> tuple[dict[str, Vectors], dict[str, str]]:
    """Return the mean parts (T,) as given, in the space that the towers were begun on, by object id."""
    if space == base_space:
        return {o.object_id: given_mean(o) for o in objects}, {}
    here = domain.in_space(base_space)
    if here.encoder.model_id != base_space:
        reason = f"domain {domain.name!r} has no encoder of the space {base_space!r}"
        return {}, dict.fromkeys((o.object_id for o in objects), reason)
    rows, failed = embedded_rows(here, objects, here.texts or domain.texts)
    means: dict[str, Vectors] = {}
    for o in objects:
        if o.object_id in rows:
            of = rows[o.object_id]
            means[o.object_id] = of[-1] if o.average is not None else of.mean(axis=0, dtype=np.float32)
    return means, failed


def _unit(row: Vectors) -> Vectors:
    """Return a row of length 1; zeros where it has no direction."""
    length = float(np.linalg.norm(row.astype(np.float64)))
    made: Vectors = (row / length if length > 0 else np.zeros_like(row)).astype(np.float32)
    return made

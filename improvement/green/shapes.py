"""Shaper: an object has one content, as it was given, and a shape in every release.

In the shape, the rows are embedded by the encoder of the release's space, and turned by what everybody chose
as far as the release's build says. What was given is kept beside it (`Object.raw`, `Object.given`), so that
every other shape can be made from any one, and turns never add up from build to build.

The mean part is a row of its own (`Object.centre`) and is turned as the others are: parts turned a little,
each on its own way, may have a mean that is far from where it was.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from improvement.adjusters.population import turned
from improvement.domain import MetricType, SearchDomain, embed_each
from improvement.errors import PluginFailed
from improvement.green.population_store import PopulationStore
from improvement.objects import Object, Vectors, given_mean, given_rows
from improvement.releases import Release

#: See `SearchDomain.texts`.
TextsOf = Callable[[Object], Sequence[str]]
#: Characters kept of why an object cannot be made.
MAX_REASON = 300


@dataclass(frozen=True, eq=False)
class Shaped:
    """Objects as a release holds them, and why others cannot be made for it, by object id."""

    objects: list[Object] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class Shaper:
    """Makes the shapes of objects; reads turns, and calls encoders where the space is another."""

    def __init__(self, population: PopulationStore) -> None:
        self._population = population

    def shaped(self, domain: SearchDomain, objects: Sequence[Object], space: str, release: Release) -> Shaped:
        """Return originals as a release holds them; one whose texts are unknown, or fail, fails alone.

        Args:
            domain: as it is configured, with all its variants.
            objects: as given, or in the shape of any release of ``space``; each id once.
            space: the embedding space that their rows are of.
        """
        here = domain.in_space(release.space)
        if release.space == space:
            rows, failed = {o.object_id: given_rows(o) for o in objects}, dict[str, str]()
        elif here.encoder.model_id != release.space:
            # The domain's own vectors would fit in by chance at best.
            reason = f"domain {domain.name!r} has no encoder of the space {release.space!r}"
            return Shaped([], {o.object_id: reason for o in objects})
        else:
            rows, failed = embedded_rows(here, objects, here.texts or domain.texts)
        turns = self._population.of(release.build, rows) if release.population and release.build else {}
        same = release.space == space
        wide = {o.object_id: _with_centre(o, rows[o.object_id], same) for o in objects if o.object_id in rows}
        moved = _turned(wide, turns, here)
        made = [
            _in_shape(o, wide[o.object_id], moved.get(o.object_id), same)
            for o in objects
            if o.object_id in wide
        ]
        return Shaped(made, failed)


def embedded_rows(
    domain: SearchDomain, objects: Sequence[Object], texts_of: TextsOf | None
) -> tuple[dict[str, Vectors], dict[str, str]]:
    """Embed all objects' texts anew: parts, then the average, by object id; and why there are none."""
    texts: dict[str, Sequence[str]] = {}
    failed: dict[str, str] = {}
    for o in objects:
        try:
            texts[o.object_id] = _texts(o, texts_of)
        except Exception as error:  # plugin code, and objects that have no texts
            failed[o.object_id] = str(error)[:MAX_REASON]
    every = [text for of in texts.values() for text in of]
    try:
        flat = iter(embed_each(domain, every))
    except Exception as error:  # plugin code that prepares vectors
        return {}, failed | dict.fromkeys(texts, repr(error)[:MAX_REASON])
    rows: dict[str, Vectors] = {}
    for object_id, of in texts.items():
        found = [next(flat) for _ in of]
        try:
            rows[object_id] = np.stack([_usable(row, domain) for row in found])
        except PluginFailed as error:
            failed[object_id] = str(error)[:MAX_REASON]
    return rows, failed


def _texts(o: Object, texts_of: TextsOf | None) -> Sequence[str]:
    count = len(o.parts) + (o.average is not None)
    known: Sequence[str | None] = o.texts
    if (len(known) != count or None in known) and texts_of is not None:
        known = tuple(texts_of(o))
        if any(not isinstance(text, str) or not text.strip() for text in known):
            raise ValueError(f"texts: expected texts to embed, got {known!r}")
    found = [text for text in known if text is not None]
    if len(found) != count:
        raise ValueError(f"expected {count} texts to embed anew, one for each row, got {len(found)}")
    return found


def _usable(row: Vectors | PluginFailed, domain: SearchDomain) -> Vectors:
    if isinstance(row, PluginFailed):
        raise row
    if not np.isfinite(row).all():
        raise PluginFailed(f"domain {domain.name!r} prepared a vector with NaN or infinity")
    if domain.search_index_info.metric_type is MetricType.COSINE and not row.any():
        raise PluginFailed("its text is a zero vector there: no direction, which cosine needs")
    return row


def _turned(
    rows: Mapping[str, Vectors], turns: Mapping[str, tuple[Vectors, float]], domain: SearchDomain
) -> dict[str, Vectors]:
    """Turn all rows of the objects that have a turn, at once; by object id."""
    size = domain.search_index_info.dimensions
    ids = [i for i in rows if i in turns and len(turns[i][0]) == size and turns[i][1]]
    if not ids:
        return {}
    lengths = [len(rows[i]) for i in ids]
    targets = np.repeat(np.stack([turns[i][0] for i in ids]), lengths, axis=0)
    amounts = np.repeat(np.array([turns[i][1] for i in ids]), lengths)
    every = np.concatenate([rows[i] for i in ids])
    moved = turned(every, targets, amounts, domain.search_index_info.metric_type)
    return dict(zip(ids, np.split(moved, np.cumsum(lengths)[:-1]), strict=True))


def _with_centre(o: Object, rows: Vectors, same_space: bool) -> Vectors:
    """Return rows as given with, behind several parts without an average, their centre."""
    if o.average is not None or len(o.parts) == 1:
        return rows
    centre = given_mean(o) if same_space else rows.mean(axis=0, dtype=np.float32)
    return np.concatenate([rows, centre[None]])


def _in_shape(o: Object, given: Vectors, moved: Vectors | None, same_space: bool) -> Object:
    rows, count = given if moved is None else moved, len(o.parts)
    behind = rows[-1] if len(rows) > count else None
    content, revision = o.given_revision, o.given_revision
    if moved is not None or not same_space or o.given is not None:
        digest = hashlib.blake2b(content.encode(), digest_size=16)
        digest.update(np.ascontiguousarray(rows, "<f4").tobytes())
        revision = digest.hexdigest()
    return replace(
        o, parts=rows[:count], revision=revision,
        average=None if o.average is None else behind, centre=behind if o.average is None else None,
        raw=None if moved is None else given, given=None if revision == content else content,
    )  # fmt: skip

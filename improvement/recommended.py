"""What is wanted of a list of recommendations, and what one says of itself."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from qdrant_client import models

from clickstream.records import QueryVector
from improvement.objects import Vectors
from improvement.search import Shown
from improvement.vectors import Hit


class Source(StrEnum):
    """What a recommendation was made from."""

    PROFILE = "profile"
    #: The user tower's vector, near the candidate tower's.
    TWO_TOWER = "two_tower"
    #: The encoder's vectors of what the user engaged with, and of everything else, as nobody moved them.
    PRETRAINED = "pretrained"
    POPULARITY = "popularity"
    #: What came last.
    RECENCY = "recency"
    CATALOGUE = "catalogue"


#: Made for one user, and ranked by distance.
PERSONAL = frozenset({Source.PROFILE, Source.TWO_TOWER, Source.PRETRAINED})


@dataclass(frozen=True)
class Wish:
    """Whom something is recommended to, and what of it is wanted.

    Attributes:
        limit: most results, >= 1.
        diversity: 0..1, see `improvement.profiles.diversity`.
        fallback: whether what is not personal is better than nothing.
        where: filter of the results.
        without: object ids to leave out.
    """

    user_id: str
    limit: int
    diversity: float = 0.0
    fallback: bool = True
    where: models.Filter | None = None
    without: tuple[str, ...] = ()

    def but_for(self, object_ids: Iterable[str]) -> "Wish":
        """Return the wish that leaves these out, too."""
        return replace(self, without=tuple(dict.fromkeys((*self.without, *object_ids))))


@dataclass(frozen=True, eq=False)
class Recommended:
    """A list of recommendations.

    Attributes:
        shown: best first.
        source: what the list was made from, or the first of it.
        meta: what else the answer says of itself.
        query: what was searched with; None where nothing was.
    """

    shown: Sequence[Shown]
    source: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    query: QueryVector | None = None


def showing(hit: Hit, source: Source, **marks: Any) -> Shown:
    """Return a hit as a result that says what it was made from."""
    return Shown(hit, {"source": source.value, **marks}, ranked=source in PERSONAL)


def asked_with(queries: Vectors, space: str) -> QueryVector:
    """Return what was searched with, (k, D), as a session remembers it."""
    return QueryVector(model_id=space, vectors=tuple(map(tuple, queries.tolist())))

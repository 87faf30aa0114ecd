"""Served: where one request searches, and in which embedding space; the same from its start to its end."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from improvement.domain import SearchDomain
from improvement.experiments.treatment import Treated
from improvement.releases import Releases

T = TypeVar("T")


class Served(NamedTuple):
    """What serves a domain.

    Attributes:
        domain: as it is in the space that serves: what embeds queries, and how vectors are compared.
        collection: a collection of that space.
        space: the embedding space; None where it was not asked for.
    """

    domain: SearchDomain
    collection: str
    space: str | None


def served(releases: Releases, domain: SearchDomain) -> Served:
    """Return what serves a domain now.

    A domain with variants may be switched to another space while a request is on its way: it therefore
    searches the collection whose space it used, by its own name, and not the alias. A collection that served
    stays for a moment at least (`promotion.GRACE`), so ask again after what takes long. Without variants
    nothing is asked and the alias is searched.
    """
    if not domain.variants:
        return Served(domain, domain.name, None)
    collection, space = releases.serving(domain.name)
    return Served(domain.in_space(space), collection, space)


def served_to(releases: Releases, domain: SearchDomain, treated: Treated) -> tuple[Served, Treated]:
    """Return what serves a user of an experiment, and how they are treated: as usual without its collection.

    A collection that does not follow what serves may have old objects and no copies. One that serves by now
    serves the other arms, too.
    """
    if treated.collection is None:
        return served(releases, domain), treated
    world = releases.world(domain.name)
    for release in world.followers:
        if release.embedding_model_id == treated.collection:
            here = domain.in_space(release.space)
            return Served(here, release.collection_id, release.space), treated
    serves = world.blue.embedding_model_id == treated.collection
    why = "serves everybody" if serves else "does not follow what serves"
    return served(releases, domain), treated.as_usual(f"the collection {treated.collection!r} {why}")


def answered_to(
    releases: Releases, domain: SearchDomain, treated: Treated, answer: Callable[[Treated], T]
) -> T:
    """Answer a user of an experiment; as usual if its collection is deleted while it is searched."""
    try:
        return answer(treated)
    except Exception:  # whatever a store says of what is gone
        if treated.collection is None or served_to(releases, domain, treated)[1].collection is not None:
            raise
        return answer(treated.as_usual(f"the collection {treated.collection!r} was just deleted"))

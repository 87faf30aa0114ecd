"""Served: where one request searches, and in which embedding space; the same from its start to its end."""

from typing import NamedTuple

from improvement.domain import SearchDomain
from improvement.releases import Releases


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

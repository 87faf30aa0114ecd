"""Side: one of two collections that are compared."""

from dataclasses import dataclass, replace

from improvement.domain import SearchDomain
from improvement.releases import Release


@dataclass(frozen=True)
class Side:
    """A collection, and the domain in its embedding space.

    Attributes:
        collection: physical, never the alias.
        domain: embeds for this collection, and ranks in it.
    """

    collection: str
    domain: SearchDomain

    @classmethod
    def of(cls, domain: SearchDomain, release: Release) -> "Side":
        """Return a release as a side; what counts and what it says is the domain's, in every space."""
        here = domain.in_space(release.space)
        same = replace(here, selector=domain.selector, evidence=domain.evidence)
        return cls(release.collection_id, same)

    @property
    def space(self) -> str:
        """Id of the embedding space."""
        return self.domain.encoder.model_id

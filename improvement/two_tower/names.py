"""How the towers of a domain are named, and the space that they make."""

from dataclasses import replace

from improvement.domain import MetricAggregationType, SearchDomain, SearchIndexInfo
from improvement.two_tower.settings import TowerSettings

#: What `Checkpoint.trained` is of towers that have learned nothing yet.
BEGUN = "begun"


def towers_name(domain: str) -> str:
    """Return the name under which a domain's towers have releases, an alias and a brake of their own.

    No domain can have this name, for a dot is not allowed in it.

    >>> towers_name("documents")
    'documents.towers'
    """
    return f"{domain}.towers"


def towers_info(settings: TowerSettings) -> SearchIndexInfo:
    """Return the towers' space: cosine, one vector for each object."""
    return SearchIndexInfo(settings.size, metric_aggregation_type=MetricAggregationType.AVG)


def towers_domain(domain: SearchDomain) -> SearchDomain:
    """Return the domain as `Releases` needs it for towers' collections: without an encoder of their space."""
    assert domain.towers is not None
    return replace(
        domain, name=towers_name(domain.name), search_index_info=towers_info(domain.towers), variants=()
    )

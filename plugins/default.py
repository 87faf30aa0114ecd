"""A starting point for any search: GeodesicAdjuster and the evidence weights as they are measured best."""

from improvement.adjusters.geodesic import GeodesicAdjuster
from improvement.domain import SearchDomain, SearchIndexInfo
from improvement.encoders import MiniLMEncoder

info = SearchIndexInfo(dimensions=384)

domain = SearchDomain(
    name="default",
    search_index_info=info,
    adjuster=GeodesicAdjuster(info),
    encoder=MiniLMEncoder(),
)

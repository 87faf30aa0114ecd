"""The demo's domain: documentation of the Python standard library, long docstrings in several parts."""

from improvement.adjusters.geodesic import GeodesicAdjuster
from improvement.domain import MetricAggregationType, MetricType, SearchDomain, SearchIndexInfo
from improvement.encoders import MiniLMEncoder

info = SearchIndexInfo(
    dimensions=384,
    metric_type=MetricType.COSINE,
    metric_aggregation_type=MetricAggregationType.MIN,
)

domain = SearchDomain(
    name="stdlib",
    search_index_info=info,
    adjuster=GeodesicAdjuster(info),
    encoder=MiniLMEncoder(),
)

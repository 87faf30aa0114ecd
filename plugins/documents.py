"""Document search: long texts in several parts, the nearest part decides (seed 002)."""

from improvement.adjusters.geodesic import GeodesicAdjuster
from improvement.domain import MetricAggregationType, MetricType, SearchDomain, SearchIndexInfo
from improvement.encoders import MiniLMEncoder

info = SearchIndexInfo(
    dimensions=384,
    metric_type=MetricType.COSINE,
    metric_aggregation_type=MetricAggregationType.MIN,
)

domain = SearchDomain(
    name="documents",
    search_index_info=info,
    # Conservative, with more iterations for complex documents, and smoother over their chunks.
    adjuster=GeodesicAdjuster(
        info, adjustment_rate=0.05, num_iterations=25, softmin_temperature=2.0, max_drift=0.3
    ),
    encoder=MiniLMEncoder(),
)

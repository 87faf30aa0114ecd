"""Product search: several descriptions or pictures of one product, their mean decides (seed 002)."""

from improvement.adjusters.geodesic import GeodesicAdjuster
from improvement.domain import MetricAggregationType, MetricType, SearchDomain, SearchIndexInfo
from improvement.encoders import MiniLMEncoder

info = SearchIndexInfo(
    dimensions=384,
    metric_type=MetricType.COSINE,
    metric_aggregation_type=MetricAggregationType.AVG,
)

domain = SearchDomain(
    name="ecommerce",
    search_index_info=info,
    # Moderately aggressive, slightly focused.
    adjuster=GeodesicAdjuster(
        info, adjustment_rate=0.15, num_iterations=15, softmin_temperature=0.8, max_drift=0.3
    ),
    encoder=MiniLMEncoder(),
)

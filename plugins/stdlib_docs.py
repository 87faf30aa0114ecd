"""The demo's domain: documentation of the Python standard library, long docstrings in several parts."""

from improvement.adjusters.torch_based import TorchBasedAdjuster
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
    # Small steps: ten of 0.01 a coordinate reach the limit of drift, and little more is thrown away there.
    # A low temperature, since only the part that the search found should answer for the click.
    adjuster=TorchBasedAdjuster(
        info, adjustment_rate=0.01, num_iterations=10, softmin_temperature=0.1, max_drift=0.4
    ),
    encoder=MiniLMEncoder(),
)

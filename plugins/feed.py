"""A feed of posts by authors: two towers learn who reads what, beside profiles and copies (seed 001)."""

from improvement.adjusters.geodesic import GeodesicAdjuster
from improvement.domain import MetricAggregationType, MetricType, SearchDomain, SearchIndexInfo
from improvement.encoders import MiniLMEncoder
from improvement.two_tower.settings import TowerSettings

info = SearchIndexInfo(
    dimensions=384,
    metric_type=MetricType.COSINE,
    metric_aggregation_type=MetricAggregationType.AVG,
)

domain = SearchDomain(
    name="feed",
    search_index_info=info,
    adjuster=GeodesicAdjuster(info),
    encoder=MiniLMEncoder(),
    towers=TowerSettings(author_field="author"),
)

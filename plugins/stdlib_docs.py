"""The demo's domain: documentation of the Python standard library, long docstrings in several parts."""

from improvement.adjusters.geodesic import GeodesicAdjuster
from improvement.domain import MetricAggregationType, MetricType, SearchDomain, SearchIndexInfo
from improvement.encoders import MiniLMEncoder
from improvement.green.settings import GateSettings
from improvement.two_tower.settings import TowerSettings

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
    # A demo has few people: 30 are enough to say something here, and of some 2,300 clicks the first 1,500
    # teach the towers, so that the others can test them.
    gate=GateSettings(least_sessions=30),
    towers=TowerSettings(author_field="module", candidate_every=1_500),
)

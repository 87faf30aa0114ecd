"""A starting point for any search: the seeds' balanced values (rate 0.1, 10 iterations, temperature 1)."""

from improvement.adjusters.torch_based import TorchBasedAdjuster
from improvement.domain import SearchDomain, SearchIndexInfo
from improvement.encoders import MiniLMEncoder

info = SearchIndexInfo(dimensions=384)

domain = SearchDomain(
    name="default",
    search_index_info=info,
    adjuster=TorchBasedAdjuster(
        info, adjustment_rate=0.1, num_iterations=10, softmin_temperature=1.0, max_drift=0.3
    ),
    encoder=MiniLMEncoder(),
)

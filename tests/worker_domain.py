"""Domains of the worker tests, loaded by worker processes as `tests.worker_domain:domain` and `:slow`."""

import time
from collections.abc import Sequence

from improvement.evidence import EvidenceWeights
from improvement.objects import Vectors
from improvement.two_tower.settings import TowerSettings
from tests.support import WordEncoder, make_domain


class Slow(WordEncoder):
    """Takes three seconds for a thousand texts, so that a test can do something meanwhile."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        time.sleep(0.003 * len(texts))
        return super().encode(texts)


domain = make_domain("work")
#: Can be built in another space, slowly.
slow = make_domain("slow", variants=(make_domain("slow", dimensions=8, encoder=Slow(8, "words-v2")),))
#: Has two towers that learn from every twenty engagements.
feed = make_domain(
    "feed",
    evidence=EvidenceWeights(),
    towers=TowerSettings(
        size=8, hidden=12, heads=2, authors=16, actions=16, candidate_every=20, user_every_seconds=1e6
    ),
)

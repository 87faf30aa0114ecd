"""A plugin with two towers, and one without, for commands that load them by name."""

from dataclasses import replace

from improvement.evidence import EvidenceWeights
from tests.improvement.two_tower.published import with_towers
from tests.support import make_domain

domain = with_towers(make_domain("towered", evidence=EvidenceWeights()), candidate_every=4)
plain = replace(make_domain("plain"))

"""The untrained checkpoint: towers as catalogue and settings make them, that have learned nothing."""

from improvement.domain import SearchDomain
from improvement.improver import Improver
from improvement.two_tower.model import projection_of
from improvement.two_tower.names import BEGUN
from improvement.two_tower.reading import facts_of
from improvement.two_tower.trainer import Training

#: Objects whose texts decide what the frozen projection keeps: the first in the order of their points, which
#: is that of a hash of their ids, and so as good as drawn at random.
SAMPLE = 2_000


def begun_checkpoint(rooms: Improver, domain: SearchDomain) -> str:
    """Make the untrained checkpoint of a domain, or find it made; return its id."""
    assert domain.towers is not None
    blue = rooms.releases.blue(domain.name)
    objects, _ = rooms.vectors.page(blue.collection_id, SAMPLE)
    texts = facts_of(domain, objects, blue.space, blue.space)[0].texts
    projection = projection_of(texts[texts.any(axis=1)], domain.towers.size, domain.towers.seed)
    training = Training(domain.towers, projection)
    return rooms.checkpoints.save(
        domain.name, domain.towers, training.arrays(),
        parent=None, base_space=blue.space, watermark=0.0, trained=BEGUN,
    ).checkpoint_id  # fmt: skip

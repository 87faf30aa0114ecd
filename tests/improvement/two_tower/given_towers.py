"""Towers that serve, and what users did, put where the service finds it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from improvement.domain import SearchDomain
from improvement.objects import Object, Vectors
from improvement.two_tower.entries import Entry, Kind
from improvement.two_tower.facts import Past
from improvement.two_tower.model import projection_of
from improvement.two_tower.names import towers_domain, towers_name
from improvement.two_tower.serving import TowerServing
from improvement.two_tower.settings import TowerSettings
from improvement.two_tower.shapes import EveryShape
from improvement.two_tower.trainer import Training
from improvement.wiring import Rooms

SIZE = 8
SETTINGS = TowerSettings(size=SIZE, hidden=12, heads=2, authors=16, actions=16, min_engagements=3)


def serve_towers(
    rooms: Rooms, domain: SearchDomain, objects: Sequence[Object], *, trained: bool = True, seed: int = 0
) -> TowerServing:
    """Have a checkpoint serve whose towers differ from untrained ones, and hold these objects."""
    assert domain.towers is not None
    settings = replace(domain.towers, seed=seed)
    wide = domain.search_index_info.dimensions
    texts = np.stack([o.mean for o in objects]) if objects else np.zeros((0, wide), np.float32)
    arrays = Training(settings, projection_of(texts, settings.size, seed)).arrays()
    if trained:
        rng = np.random.default_rng(seed)
        for name in ("model.mlp.2.weight", "model.user_projection.weight"):
            arrays[name] = (0.3 * rng.standard_normal(arrays[name].shape)).astype(np.float32)
    space = rooms.releases.space(domain.name)
    checkpoint = rooms.checkpoints.save(
        domain.name, settings, arrays, parent="before" if trained else None, base_space=space,
        watermark=0.0, trained="candidate" if trained else "begun",
    )  # fmt: skip
    release = rooms.releases.create(towers_domain(domain), checkpoint.checkpoint_id)
    shaped = EveryShape(rooms.shaper, rooms.towers).shaped(domain, objects, space, release)
    assert not shaped.failed
    rooms.vectors.upsert(release.collection_id, shaped.objects)
    rooms.releases.set_blue(towers_name(domain.name), checkpoint.checkpoint_id)
    return TowerServing(release.collection_id, checkpoint.checkpoint_id)


def past(object_id: str, signal: float = 0.7, at: float = 1_000.0) -> Past:
    return Past(f"a:{object_id}:{at}", object_id, None, "like", signal, at)


def know_user(
    rooms: Rooms, domain: SearchDomain, user_id: str, pasts: Sequence[Past], **changes: object
) -> Entry:
    """Store what a user did, as many engagements as there are pasts unless ``count`` says more."""
    entry = Entry(domain.name, Kind.USER, user_id, pasts=tuple(pasts), count=len(pasts))
    entry = replace(entry, **changes)  # type: ignore[arg-type]
    assert not rooms.entries.save([entry])
    return entry


def unit(rows: np.ndarray) -> Vectors:
    made: Vectors = (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)
    return made

"""A user's profile, put where the service finds it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from clickstream.improvement_queue import Owner
from improvement.domain import SearchDomain
from improvement.profiles.negative import NegativeProfile
from improvement.profiles.profile import Interaction, Profile
from improvement.profiles.store import Applied
from improvement.wiring import Rooms


def give_profile(
    rooms: Rooms,
    domain: SearchDomain,
    user_id: str,
    embedding: np.ndarray | None,
    *,
    positives: int = 5,
    seen: Sequence[str] = (),
    interests: np.ndarray | None = None,
    negative: NegativeProfile | None = None,
    space: str = "words-v1",
) -> Profile:
    owner = Owner(domain.name, user_id)
    rooms.profiles.announce([owner])
    stored = rooms.profiles.load(domain.name, [user_id])[user_id].profile
    profile = replace(
        stored,
        model_version=space,
        embedding=None if embedding is None else unit(embedding),
        negative=negative,
        interests=np.empty((0, 0), np.float32) if interests is None else unit(interests),
        positives=positives,
    )
    interactions = [Interaction(object_id, 5.0, float(at)) for at, object_id in enumerate(seen)]
    assert not rooms.profiles.apply([Applied(profile, interactions)], remember=200)
    found = rooms.profiles.get(user_id, domain.name)
    assert found is not None
    return found


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)

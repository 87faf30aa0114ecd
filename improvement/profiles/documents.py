"""Profiles as documents of Mongo, and back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from bson.binary import Binary
from numpy.typing import NDArray

from clickstream.improvement_queue import Owner
from clickstream.store import Document
from improvement.objects import Vectors
from improvement.profiles.negative import NegativeProfile
from improvement.profiles.profile import Interaction, Profile, StoredProfile

#: Subtype of BSON's own vectors, and how one starts when its numbers are float32 and none is padding.
_VECTOR, _FLOAT32 = 9, b"\x27\x00"


def key(profile: Profile) -> str:
    """Return the ``_id`` of a profile's document: its owner's key."""
    return Owner(profile.domain, profile.user_id).key


def rows(interactions: Sequence[Interaction]) -> list[str]:
    """Return interactions as texts, ``weight at object_id``: the least work for whoever stores hundreds."""
    return [f"{float(one.weight)!r} {float(one.at)!r} {one.object_id}" for one in interactions]


def fields(profile: Profile) -> Document:
    """Return the fields of a profile, except user, domain and version, which no rewriting changes."""
    negative = profile.negative
    return {
        "model_version": profile.model_version,
        "embedding": _binary(profile.embedding),
        "liked": _binary(profile.liked),
        "negative": None if negative is None else _binary(negative.vector),
        "negative_at": None if negative is None else negative.at,
        "interests": [_binary(row) for row in profile.interests],
        "positives": profile.positives,
        "negatives": profile.negatives,
        "seen": list(profile.seen),
        "updated_at": profile.updated_at,
        "generated_at": profile.generated_at,
    }


def profile(document: Document) -> Profile:
    """Return the profile of a document; what it never had is as for a new user."""
    negative = _vector(document.get("negative"))
    interests = [row for row in map(_vector, document.get("interests", ())) if row is not None]
    return Profile(
        user_id=document["user_id"],
        domain=document["domain"],
        model_version=document.get("model_version", ""),
        embedding=_vector(document.get("embedding")),
        liked=_vector(document.get("liked")),
        negative=None
        if negative is None
        else NegativeProfile(negative.astype(np.float64), document["negative_at"]),
        interests=np.stack(interests) if interests else np.empty((0, 0), np.float32),
        positives=document.get("positives", 0),
        negatives=document.get("negatives", 0),
        seen=tuple(document.get("seen", ())),
        updated_at=document.get("updated_at", 0.0),
        generated_at=document.get("generated_at"),
        version=document["version"],
    )


def stored(document: Document) -> StoredProfile:
    """Return the profile of a whole document with its history."""
    return StoredProfile(
        profile=profile(document),
        recent=_interactions(document.get("recent", ())),
        searched=_interactions(document.get("searched", ())),
        announced=document["announced"],
        applied=document.get("applied", 0),
        announced_at=document.get("announced_at", 0.0),
        reread=document.get("reread", False),
    )


def _interactions(found: Sequence[str]) -> tuple[Interaction, ...]:
    split = (row.split(" ", 2) for row in found)  # what is behind the second space is the id, spaces and all
    return tuple(Interaction(object_id, float(weight), float(at)) for weight, at, object_id in split)


def _binary(vector: NDArray[Any] | None) -> Binary | None:
    """Return BSON's own vector, float32; copied in one go, where `Binary.from_vector` walks a list."""
    return None if vector is None else Binary(_FLOAT32 + np.asarray(vector, "<f4").tobytes(), _VECTOR)


def _vector(found: bytes | None) -> Vectors | None:
    return None if found is None else np.frombuffer(found, "<f4", offset=len(_FLOAT32))

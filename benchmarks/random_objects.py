"""Made-up objects in a made-up space: enough to time the stores, nothing to learn from."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from improvement.objects import Object, Vectors


def unit_rows(rng: np.random.Generator, count: int, dimensions: int) -> Vectors:
    """Return random directions, shape (count, dimensions), each row of length 1."""
    rows = rng.standard_normal((count, dimensions)).astype(np.float32)
    unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def random_objects(rng: np.random.Generator, count: int, dimensions: int) -> list[Object]:
    """Return objects of 1 to 3 parts with ids o0, o1, ..., and a payload like a catalogue's."""
    parts_of = rng.integers(1, 4, count)
    rows = np.split(unit_rows(rng, int(parts_of.sum()), dimensions), np.cumsum(parts_of)[:-1])
    return [
        Object(
            object_id=f"o{n}",
            parts=parts,
            part_ids=tuple(f"o{n}#{part}" for part in range(len(parts))),
            payload={"title": f"object number {n}", "color": ("red", "green", "blue")[n % 3]},
            revision="1",
        )
        for n, parts in enumerate(rows)
    ]


@dataclass
class RandomEncoder:
    """Gives each text a random direction of its own, in no time: stores are measured, not a model."""

    dimensions: int
    model_id: str = "random"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return shape (len(texts), dimensions)."""
        rows = [unit_rows(np.random.default_rng(zlib.crc32(t.encode())), 1, self.dimensions) for t in texts]
        return np.concatenate(rows)

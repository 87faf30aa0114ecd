"""ItemRows: the learned lookup table of items, grown as items come."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from improvement.errors import Invalid
from improvement.objects import Vectors


class ItemRows:
    """A row of S numbers for each item that somebody engaged with, and how much it was moved already.

    The rows learn by row-wise AdaGrad: one number of state a row (Mudigere et al., "Software-Hardware
    Co-design for Fast and Scalable Training of Deep Learning Recommendation Models", ISCA 2022), whose sums
    fade.
    """

    def __init__(self, size: int) -> None:
        self.places: dict[str, int] = {}
        self._rows: Vectors = np.zeros((0, size), np.float32)
        self._moved: Vectors = np.zeros(0, np.float32)

    def __len__(self) -> int:
        return len(self.places)

    def where(self, object_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the place of each item's row, -1 for those without one."""
        return np.array([self.places.get(one, -1) for one in object_ids], np.int64)

    def of(self, object_ids: Sequence[str]) -> tuple[Vectors, Vectors]:
        """Return copies of rows (n, S) and of what they were moved (n,); zeros for unknown items."""
        places = self.where(object_ids)
        known = places >= 0
        rows = np.zeros((len(places), self._rows.shape[1]), np.float32)
        moved = np.zeros(len(places), np.float32)
        rows[known], moved[known] = self._rows[places[known]], self._moved[places[known]]
        return rows, moved

    def put(self, object_ids: Sequence[str], rows: Vectors, moved: Vectors) -> None:
        """Store rows of different items; those that were unknown get a place."""
        for one in object_ids:
            self.places.setdefault(one, len(self.places))
        short = len(self.places) - len(self._rows)
        if short > 0:
            more = max(short, len(self._rows))  # doubled: growing costs little per item
            self._rows = np.concatenate([self._rows, np.zeros((more, self._rows.shape[1]), np.float32)])
            self._moved = np.concatenate([self._moved, np.zeros(more, np.float32)])
        places = self.where(object_ids)
        self._rows[places], self._moved[places] = rows, moved

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return copies: ids as bytes, one behind the other, where each ends, rows, and what moved them."""
        ids = [one.encode("utf-8", "surrogatepass") for one in self.places]
        return {
            "rows.ids": np.frombuffer(b"".join(ids), np.uint8).copy(),
            "rows.ends": np.cumsum([len(one) for one in ids], dtype=np.int64),
            "rows.values": self._rows[: len(self)].copy(),
            "rows.moved": self._moved[: len(self)].copy(),
        }

    @classmethod
    def restored(cls, size: int, arrays: Mapping[str, NDArray[Any]]) -> "ItemRows":
        """Return what `arrays` were taken of; raises Invalid where they do not fit."""
        made = cls(size)
        for name in ("rows.ids", "rows.ends", "rows.values", "rows.moved"):
            if name not in arrays:
                raise Invalid(f"{name}: expected an array, got nothing")
        ends, values, moved = arrays["rows.ends"], arrays["rows.values"], arrays["rows.moved"]
        if values.shape != (len(ends), size) or moved.shape != ends.shape:
            raise Invalid(f"rows.values: expected ({len(ends)}, {size}), got {values.shape}")
        text = arrays["rows.ids"].tobytes()
        starts = [0, *ends.tolist()]
        for start, end in zip(starts, starts[1:], strict=False):
            made.places[text[start:end].decode("utf-8", "surrogatepass")] = len(made.places)
        if len(made) != len(ends):
            raise Invalid("rows.ids: expected different ids")
        made._rows, made._moved = values.astype(np.float32), moved.astype(np.float32)
        return made

"""Tower: the towers of one checkpoint, for use: items, texts and histories in, vectors out; no gradients."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from improvement.errors import Invalid
from improvement.objects import Vectors
from improvement.two_tower.facts import History, ItemFacts, buckets_of
from improvement.two_tower.model import begun, unit
from improvement.two_tower.padded import padded
from improvement.two_tower.rows import ItemRows
from improvement.two_tower.settings import TowerSettings
from improvement.two_tower.state import Arrays, with_weights

#: Items, or users, that are computed at once: what is between the layers stays small.
CHUNK = 4_096
USERS = 128
#: Shorter sums have no direction.
NOTHING = 1e-6


class Tower:
    """The towers of a checkpoint's arrays (the optimisers' are ignored); safe to use from several threads."""

    def __init__(self, settings: TowerSettings, arrays: Arrays) -> None:
        """Copy the weights.

        Raises:
            Invalid: the arrays are of another shape of towers.
        """
        self.settings = settings
        self._model = begun(settings, np.asarray(arrays.get("model.projection", np.zeros(0))))
        self._model.requires_grad_(False)
        with_weights(self._model, arrays)
        self._rows = ItemRows.restored(settings.size, arrays)

    def items(self, facts: ItemFacts) -> Vectors:
        """Return unit rows (n, S) float32; an item without text, author and row of its own gets zeros.

        Raises:
            Invalid: the texts are of another shape.
        """
        wide = self._model.projection.shape[1]
        if facts.texts.shape != (len(facts), wide):
            raise Invalid(f"texts: expected shape ({len(facts)}, {wide}), got {facts.texts.shape}")
        made = np.zeros((len(facts), self.settings.size), np.float32)
        authors = buckets_of(facts.authors, self.settings.authors)
        for start in range(0, len(facts), CHUNK):
            part = slice(start, start + CHUNK)
            texts, own, rows = facts.texts[part], authors[part], self._rows.of(facts.object_ids[part])[0]
            known = texts.any(axis=1) | (own > 0) | rows.any(axis=1)
            tensors = [torch.from_numpy(np.ascontiguousarray(each)) for each in (texts, own, rows)]
            with torch.no_grad():
                found = self._model.items(tensors[0].float() @ self._model.projection.T, *tensors[1:])
            made[part] = _directions(found) * known[:, None]
        return made

    def users(self, histories: Sequence[History]) -> Vectors:
        """Return unit rows (b, S) float32; zeros for an empty history, or for no direction."""
        made = np.zeros((len(histories), self.settings.size), np.float32)
        there = [place for place, history in enumerate(histories) if len(history.pasts)]
        for start in range(0, len(there), USERS):
            places = there[start : start + USERS]
            with torch.no_grad():
                found = self._model.users(*padded([histories[place] for place in places], self.settings))
            made[places] = _directions(found)
        return made


def _directions(rows: Tensor) -> Vectors:
    """Return unit rows; zeros where there is no direction, or no number."""
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    kept = torch.isfinite(lengths) & (lengths > NOTHING)
    made: Vectors = torch.where(kept, unit(rows, NOTHING), 0.0).numpy()
    return made

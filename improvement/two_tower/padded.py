"""Histories of several users as tensors of one length, as the user tower reads them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from improvement.two_tower.facts import History, bucket
from improvement.two_tower.settings import TowerSettings

#: Ages beyond this count as this: a hundred years, in seconds.
OLDEST = 3.2e9


def padded(histories: Sequence[History], settings: TowerSettings) -> tuple[Tensor, ...]:
    """Return the arguments of `TwoTower.users` for the newest engagements of b histories, none of them empty.

    Ages that are negative (clocks differ) count as 0.
    """
    newest = [(history.pasts[-settings.history :], history) for history in histories]
    b, h = len(newest), max(len(pasts) for pasts, _ in newest)
    items = np.zeros((b, h, settings.size), np.float32)
    signals = np.zeros((b, h), np.float32)
    ages = np.zeros((b, h), np.float32)
    actions, authors = np.zeros((2, b, h), np.int64)
    there = np.zeros((b, h), bool)
    rows: dict[tuple[str | None, int], int] = {}

    def row(name: str | None, table: int) -> int:  # hashed once a call: the same few come again and again
        if (name, table) not in rows:
            rows[name, table] = bucket(name, table)
        return rows[name, table]

    for user, (pasts, history) in enumerate(newest):
        n = len(pasts)
        there[user, :n] = True
        items[user, :n] = history.items[-n:]
        signals[user, :n] = [past.signal for past in pasts]
        ages[user, :n] = np.clip(np.nan_to_num([history.at - past.at for past in pasts]), 0.0, OLDEST)
        actions[user, :n] = [row(past.action, settings.actions) for past in pasts]
        authors[user, :n] = [row(past.author, settings.authors) for past in pasts]
    return tuple(map(torch.from_numpy, (items, signals, actions, authors, ages, there)))

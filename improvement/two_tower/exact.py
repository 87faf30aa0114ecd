"""Exact rankings of a whole catalogue by a tower, page by page; pure but for the tower."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from improvement.objects import Vectors


class Best:
    """The ``deep`` best items of each of n users, among all pages added so far.

    Ties go to what was added first, and on a page to what stands first on it.

    >>> best = Best(np.array([[1.0, 0.0]], np.float32), [{"b"}], deep=2)
    >>> best.add(["a", "b"], np.array([[0.6, 0.8], [1.0, 0.0]], np.float32))
    >>> best.add(["c", "d"], np.array([[0.8, 0.6], [0.0, 1.0]], np.float32))
    >>> best.ids
    [['c', 'a']]
    """

    def __init__(self, users: Vectors, without: Sequence[Collection[str]], deep: int) -> None:
        """Begin with nothing.

        Args:
            users: (n, S); a row of zeros finds nothing.
            without: for each user what is not to be found.
            deep: >= 1.
        """
        self._users, self._without, self._deep = users, [frozenset(of) for of in without], deep
        self._scores: NDArray[np.float32] = np.full((len(users), 0), -np.inf, np.float32)
        self._found: NDArray[np.object_] = np.full((len(users), 0), None, object)

    def add(self, object_ids: Sequence[str], vectors: Vectors) -> None:
        """Rank a page of items, (m, S), with those that were found before."""
        scores = self._users @ vectors.T
        column = {object_id: place for place, object_id in enumerate(object_ids)}
        for user, without in enumerate(self._without):
            scores[user, [column[one] for one in without & column.keys()]] = -np.inf
        names = np.broadcast_to(np.array([*object_ids, None], object)[:-1], scores.shape)
        every = np.concatenate([self._scores, scores], axis=1)
        ids = np.concatenate([self._found, names], axis=1)
        order = np.argsort(-every, axis=1, kind="stable")[:, : self._deep]
        self._scores = np.take_along_axis(every, order, axis=1)
        self._found = np.take_along_axis(ids, order, axis=1)

    @property
    def ids(self) -> list[list[str]]:
        """Of each user the ids of the best items, best first."""
        return [
            [one for one, score in zip(found, scores, strict=True) if np.isfinite(score)]
            if user.any()
            else []
            for user, found, scores in zip(self._users, self._found.tolist(), self._scores, strict=True)
        ]

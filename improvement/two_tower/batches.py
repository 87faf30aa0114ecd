"""What updates learn from: engagements with their items, and histories with what came next; checked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from improvement.errors import Invalid
from improvement.objects import Vectors
from improvement.two_tower.facts import History, ItemFacts


@dataclass(frozen=True, eq=False)
class CandidateBatch:
    """What one update of the candidate tower learns from: n engagements, and the m items that they mention.

    Attributes:
        users: (n, S) unit rows, the users' vectors at the time; zeros where there was none.
        items: the m items, each once.
        chosen: (n,) index of the item that each engagement is about.
        signals: (n,) in -1..1: above 0 a positive pair, pulled together; below 0 pushed apart.
        negatives: (n, k) indices of drawn negatives, -1 where there are fewer than k; only of positives.
        log_q: (m,) log of the chance that an item is in a batch (for in-batch negatives: Yi et al.,
            "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys 2019).
        owners: (n,) a number for each engagement's user, equal for engagements of the same one: what a user
            engaged with in this batch is no in-batch negative of theirs. None: every engagement is another's.
    """

    users: Vectors
    items: ItemFacts
    chosen: NDArray[np.int64]
    signals: NDArray[np.float32]
    negatives: NDArray[np.int64]
    log_q: NDArray[np.float32]
    owners: NDArray[np.int64] | None = None

    def narrowed(self, size: int, wide: int) -> "CandidateBatch | None":
        """Return the engagements that say something, checked; None where there are none.

        Args:
            size, wide: dimensions of the towers' space, and of the texts.

        Raises:
            Invalid: naming the array that does not fit.
        """
        n, m = len(self.chosen), len(self.items)
        _check("users", self.users, (n, size))
        _check("items.texts", self.items.texts, (m, wide))
        _check("signals", self.signals, (n,))
        _check("log_q", self.log_q, (m,))
        _check("negatives", self.negatives, (n, self.negatives.shape[-1]))
        if len(self.items.authors) != m:
            raise Invalid(f"items.authors: expected {m} of them, got {len(self.items.authors)}")
        if len(set(self.items.object_ids)) < m:
            raise Invalid("items.object_ids: expected different ids")
        for name, places, least in (("chosen", self.chosen, 0), ("negatives", self.negatives, -1)):
            if places.size and not (least <= int(places.min()) and int(places.max()) < m):
                raise Invalid(f"{name}: expected numbers from {least} to {m - 1}")
        owners = np.arange(n) if self.owners is None else self.owners
        _check("owners", owners, (n,))
        said = (self.signals != 0) & self.users.any(axis=1)
        if not said.any():
            return None
        return replace(
            self, users=_floats(self.users[said]), chosen=self.chosen[said].astype(np.int64),
            signals=_floats(self.signals[said]), negatives=self.negatives[said].astype(np.int64),
            items=replace(self.items, texts=_floats(self.items.texts)), log_q=_floats(self.log_q),
            owners=owners[said],
        )  # fmt: skip

    def engaged_with(self, items: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return (n, b): whether the user of an engagement engaged, in this batch, with each of b items."""
        _, owners = np.unique(
            np.arange(len(self.chosen)) if self.owners is None else self.owners, return_inverse=True
        )
        engaged = np.zeros((len(self.chosen), len(self.items)), bool)
        engaged[owners, self.chosen] = True
        found: NDArray[np.bool_] = engaged[owners][:, items]
        return found


@dataclass(frozen=True, eq=False)
class UserBatch:
    """What one step of the user tower learns from: b users, what each engaged with next, and did not.

    Attributes:
        histories: b, each before its target; the item vectors are those of the present candidate tower.
        positives: (b, S) unit rows: the item that each engaged with next.
        negatives: (b, k, S) unit rows: items that were shown and passed over, or random ones of the same
            time; zeros where there are fewer than k.
    """

    histories: Sequence[History]
    positives: Vectors
    negatives: Vectors

    def narrowed(self, size: int) -> "UserBatch | None":
        """Return the users who have a history, checked; None where there are none.

        Raises:
            Invalid: naming the array that does not fit.
        """
        b = len(self.histories)
        _check("positives", self.positives, (b, size))
        _check(
            "negatives", self.negatives, (b, self.negatives.shape[1] if self.negatives.ndim == 3 else 0, size)
        )
        for history in self.histories:
            _check("items of a history", history.items, (len(history.pasts), size))
        there = [place for place, history in enumerate(self.histories) if len(history.pasts)]
        if not there:
            return None
        histories = tuple(self.histories[place] for place in there)
        return UserBatch(histories, _floats(self.positives[there]), _floats(self.negatives[there]))


def _check(name: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise Invalid(f"{name}: expected an array of shape {shape}, got {array.shape}")


def _floats(array: NDArray[Any]) -> Vectors:
    return np.ascontiguousarray(array, np.float32)

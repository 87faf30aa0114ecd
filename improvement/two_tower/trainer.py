"""Training: the towers and their optimisers, and one update of each from a batch; no I/O, deterministic."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from improvement.errors import Invalid, StudioError
from improvement.objects import Vectors
from improvement.two_tower.batches import CandidateBatch, UserBatch
from improvement.two_tower.facts import buckets_of
from improvement.two_tower.losses import batch_loss, triplet
from improvement.two_tower.model import begun, unit
from improvement.two_tower.padded import padded
from improvement.two_tower.rows import ItemRows
from improvement.two_tower.settings import TowerSettings
from improvement.two_tower.state import Arrays, optimiser_arrays, restore_optimiser, weights, with_weights

__all__ = ["Arrays", "CandidateBatch", "LossIsNaN", "Progress", "Training", "UserBatch"]

#: Called after every gradient step with its number, from 1, of how many, and its loss.
Progress = Callable[[int, int, float], object]
#: What a step leaves of the squares that a row's steps are divided by: what moved for years goes on moving.
FADE = 0.99
#: Where these squares begin, of gradients summed over engagements: one engagement moves a row less than many.
LITTLE = 3.0


class LossIsNaN(StudioError):
    """A loss, or a gradient, was NaN or infinite; the training was left as it was before the update."""


class Training:
    """The model, its optimisers, and how often each was updated.

    Equal state and equal batches give equal bits on the same machine and number of threads.

    Attributes:
        candidate_updates: calls of `update_candidate` that changed something.
        user_steps: gradient steps of the user tower.
    """

    def __init__(self, settings: TowerSettings, projection: Vectors) -> None:
        """Begin untrained, with random weights that ``settings.seed`` decides, and this frozen projection."""
        self.settings = settings
        self.candidate_updates = self.user_steps = 0
        self._model = begun(settings, projection)
        self._rows = ItemRows(settings.size)
        self._candidate = _adam([each for _, each in self._model.candidate_parts()], settings.weight_decay)
        self._users = _adam([each for _, each in self._model.user_parts()], settings.weight_decay)

    @classmethod
    def restored(cls, settings: TowerSettings, arrays: Arrays) -> "Training":
        """Return a training as it was when `arrays` were taken: weights, optimisers, item rows, counts.

        Raises:
            Invalid: the arrays are of another shape of towers.
        """
        if "counts" not in arrays or np.shape(arrays["counts"]) != (2,):
            raise Invalid("counts: expected two numbers")
        made = cls(settings, np.asarray(arrays.get("model.projection", np.zeros(0))))
        with_weights(made._model, arrays)
        made._rows = ItemRows.restored(settings.size, arrays)
        for name, optimiser, parts in made._optimisers():
            restore_optimiser(name, optimiser, parts, arrays)
        made.candidate_updates, made.user_steps = (int(count) for count in arrays["counts"])
        return made

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return copies of all that is learned, and the optimisers' state."""
        made = weights(self._model) | self._rows.arrays()
        for name, optimiser, parts in self._optimisers():
            made |= optimiser_arrays(name, optimiser, parts)
        return made | {"counts": np.array([self.candidate_updates, self.user_steps], np.int64)}

    def update_candidate(
        self, batch: CandidateBatch, rate: float = 1.0, progress: Progress = lambda *_: None
    ) -> list[float]:
        """Take ``settings.candidate_steps`` gradient steps of the contrastive loss; return each step's loss.

        The MLP, the author table and the rows of the batch's items learn; items that were engaged with, and
        had no row, get one. A batch in which nothing speaks changes nothing and returns no losses.

        Args:
            rate: share of the settings' learning rate, in (0, 1].

        Raises:
            Invalid: arrays of the batch do not fit together.
            LossIsNaN: and nothing was changed.
        """
        settings = self.settings
        said = batch.narrowed(settings.size, self._model.projection.shape[1])
        if said is None:
            return []
        facts, losses = said.items, []
        rows, moved = self._rows.of(facts.object_ids)
        learns = self._rows.where(facts.object_ids) >= 0
        learns[said.chosen] = True
        table, sums, mask = torch.from_numpy(rows), torch.from_numpy(moved), torch.from_numpy(learns)[:, None]
        with torch.no_grad():
            projected = torch.from_numpy(facts.texts) @ self._model.projection.T
        authors = torch.from_numpy(buckets_of(facts.authors, settings.authors))
        loss_of = batch_loss(said, settings)
        with self._all_or_nothing(self._candidate):
            for step in range(settings.candidate_steps):
                table.requires_grad_(True)
                items = unit(self._model.items(projected, authors, table * mask))
                losses.append(
                    self._step(self._candidate, loss_of(items), settings.candidate_rate * rate, table)
                )
                table = _adagrad(table, sums, settings.row_rate * rate, settings.row_decay, len(said.chosen))
                progress(step + 1, settings.candidate_steps, losses[-1])
        kept = np.flatnonzero(learns)
        ids = [facts.object_ids[place] for place in kept]
        self._rows.put(ids, table.detach().numpy()[kept], sums.numpy()[kept])
        self.candidate_updates += 1
        return losses

    def update_users(
        self, batches: Sequence[UserBatch], rate: float = 1.0, progress: Progress = lambda *_: None
    ) -> list[float]:
        """Take one gradient step of the triplet loss for each batch; return each step's loss.

        The Transformer, the action table, the projection and the mean of everybody learn. A batch of empty
        histories is passed over.

        Args:
            rate: share of the settings' learning rate, in (0, 1].

        Raises:
            Invalid: arrays of a batch do not fit together.
            LossIsNaN: and nothing was changed.
        """
        settings, losses = self.settings, []
        with self._all_or_nothing(self._users):
            for number, batch in enumerate(batches):
                said = batch.narrowed(settings.size)
                if said is None:
                    continue
                items, signals, actions, authors, ages, there = padded(said.histories, settings)
                self._model.meet(items, signals, there)
                users = unit(self._model.users(items, signals, actions, authors, ages, there))
                loss = triplet(
                    users, torch.from_numpy(said.positives), torch.from_numpy(said.negatives), settings.margin
                )
                losses.append(self._step(self._users, loss, settings.user_tower_rate * rate))
                progress(number + 1, len(batches), losses[-1])
        self.user_steps += len(losses)
        return losses

    def _step(self, optimiser: torch.optim.Optimizer, loss: Tensor, rate: float, *more: Tensor) -> float:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        learned = [each for group in optimiser.param_groups for each in group["params"]] + list(more)
        gradients = [each.grad for each in learned if each.grad is not None]
        if not all(bool(torch.isfinite(each.sum())) for each in (loss, *gradients)):
            raise LossIsNaN("the loss, or a gradient, is not a finite number")
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        return float(loss.detach())

    @contextmanager
    def _all_or_nothing(self, optimiser: torch.optim.Optimizer) -> Iterator[None]:
        """Put the weights and the optimiser back where they were if anything is raised."""
        weights_before = copy.deepcopy(self._model.state_dict())
        state_before = copy.deepcopy(optimiser.state_dict())
        try:
            yield
        except BaseException:
            self._model.load_state_dict(weights_before)
            optimiser.load_state_dict(state_before)
            raise
        finally:
            optimiser.zero_grad(set_to_none=True)

    def _optimisers(self) -> Iterator[tuple[str, torch.optim.Optimizer, list[tuple[str, nn.Parameter]]]]:
        yield "candidate", self._candidate, self._model.candidate_parts()
        yield "users", self._users, self._model.user_parts()


def _adam(parts: list[nn.Parameter], decay: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parts, weight_decay=decay, foreach=False)


def _adagrad(table: Tensor, sums: Tensor, rate: float, decay: float, engagements: int) -> Tensor:
    """Return the rows after one step; those without a gradient stay, ``sums`` change in place."""
    assert table.grad is not None
    with torch.no_grad():
        gradient = table.grad * engagements  # of the sum of their losses: as large in batches of any size
        squares = gradient.square().mean(1)
        moved = squares > 0
        sums += squares - (1 - FADE) * moved * sums
        return table - rate * moved[:, None] * (gradient / (LITTLE + sums).sqrt()[:, None] + decay * table)

"""The two losses: contrastive for items, triplet for users; pure functions on tensors."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from improvement.two_tower.batches import CandidateBatch
from improvement.two_tower.settings import TowerSettings


def contrastive(
    users: Tensor,
    items: Tensor,
    chosen: Tensor,
    negatives: Tensor,
    inside: Tensor,
    log_q: Tensor,
    apart: Tensor,
    weights: Tensor,
    temperature: float,
) -> Tensor:
    """Return the softmax loss of n positive pairs against drawn and in-batch negatives, a number.

    For a pair (u, i) with drawn negatives D and in-batch negatives B, all cosines over ``temperature``:
    ``-log(e^ui / (e^ui + sum_D e^ud + sum_B e^(ub - log q_b)))``. A batch holds item b with the chance q_b,
    so the second sum is, on average, that over all items (Bengio and Senecal 2008, "Adaptive Importance
    Sampling to Accelerate Training of a Neural Probabilistic Language Model"; Yi et al. 2019).

    Args:
        users: (n, S) unit rows. items: (m, S) unit rows. chosen: (n,) rows of items.
        negatives: (n, k) rows of items, -1 for none.
        inside, log_q: (b,) rows of the in-batch items, and log of the chance that each is in a batch.
        apart: (n, b), True where an in-batch item is not a negative: the same item, or the same user's.
        weights: (n,) > 0.
    """

    def of(rows: Tensor) -> Tensor:  # embedding: its gradient is summed in one order, indexing's is not
        looked_up = functional.embedding(rows.clamp_min(0), items)
        cosines: Tensor = (looked_up @ users[:, :, None])[..., 0] / temperature
        return cosines.masked_fill(rows < 0, -torch.inf)

    own, drawn = of(chosen[:, None]), of(negatives)
    others = users @ functional.embedding(inside, items).T / temperature - log_q
    others = others.masked_fill(apart, -torch.inf)
    loss = torch.logsumexp(torch.cat([own, drawn, others], dim=1), dim=1) - own[:, 0]
    return (weights * loss).sum() / weights.sum()


def repulsion(users: Tensor, items: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Return the mean of log(1 + e^(cosine / temperature)) over n disliked pairs, rows of equal place."""
    cosines = (users * items).sum(1) / temperature
    return (weights * functional.softplus(cosines)).sum() / weights.sum()


def triplet(users: Tensor, positives: Tensor, negatives: Tensor, margin: float) -> Tensor:
    """Return the mean of max(0, margin - cos(user, positive) + cos(user, negative)) over all negatives.

    Args:
        users, positives: (b, S) unit rows.
        negatives: (b, k, S) unit rows; zeros where there is none.

    Source: Schroff et al. 2015, "FaceNet", with cosines in the place of distances.
    """
    towards = (users * positives).sum(1, keepdim=True)
    away = (negatives @ users[:, :, None])[..., 0]
    there = negatives.abs().sum(2) != 0  # NaN is there, and found by whoever looks at the loss
    return (functional.relu(margin - towards + away) * there).sum() / there.sum().clamp_min(1)


def batch_loss(said: CandidateBatch, settings: TowerSettings) -> Callable[[Tensor], Tensor]:
    """Return the loss of a batch as a function of its items' unit rows (m, S): both kinds by their share."""
    users, signals = torch.from_numpy(said.users), torch.from_numpy(said.signals)
    chosen, drawn = torch.from_numpy(said.chosen), torch.from_numpy(said.negatives)
    disliked = signals < 0
    positive = ~disliked  # what is no number is among them, and makes the loss none
    inside = torch.unique(chosen[positive])
    log_q = torch.from_numpy(said.log_q)[inside] * settings.log_q
    apart = torch.from_numpy(said.engaged_with(inside.numpy()))[positive]
    share = positive.float().mean()

    def loss(items: Tensor) -> Tensor:
        total = items.new_zeros(())
        if bool(positive.any()):
            total = total + share * contrastive(
                users[positive], items, chosen[positive], drawn[positive], inside, log_q, apart,
                signals[positive], settings.temperature,
            )  # fmt: skip
        if bool(disliked.any()):
            away = functional.embedding(chosen[disliked], items)
            total = total + (1 - share) * repulsion(
                users[disliked], away, -signals[disliked], settings.temperature
            )
        return total

    return loss

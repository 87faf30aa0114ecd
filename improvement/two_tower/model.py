"""TwoTower: the candidate tower and the user tower, as a torch module (seed 001)."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from improvement.errors import Invalid
from improvement.objects import Vectors
from improvement.two_tower.settings import TowerSettings

#: Numbers in an author's embedding.
AUTHOR = 32
#: Seconds of the scales on which the user tower feels how long ago something was: an hour, a day, a month.
SCALES = (3_600.0, 86_400.0, 2_592_000.0)
#: Shorter sums have no direction to speak of: training does not blow them up, so that gradients stay bounded.
SHORT = 0.1
#: How long what the Transformer adds to the mean becomes at most, as a share of the mean's length: without a
#: bound, a few hundred steps from few users' engagements make all users alike.
BEND = 0.2
#: Users that are remembered in the mean of everybody: enough for a mean, few enough to follow moving items.
MEMORY = 256


class TwoTower(nn.Module):
    """Items from text and author, users from their engagements, both in one space of S dimensions.

    Candidate tower: ``z = P x`` (P frozen, T -> S), ``unit(z + MLP([z, author]) + row)``: a two-layer MLP
    whose last layer begins at zero, and a row for each item of the learned lookup table, zeros for unknown
    items. So an untrained tower gives ``unit(P x)``: the pre-trained embedding, projected.

    User tower: tokens = item vector (times its signal) + action and author embedding + time gap, a small
    Transformer, attention pooling, a linear projection to S that begins at zero, kept shorter than `BEND` of
    the mean that it is added to: the signed, recency-weighted one of the items, in which the mean of
    everybody counts like ``prior`` engagements (shrinkage: who did little is closer to what many like). An
    untrained tower knows nobody, and gives the mean of the user's own items.

    The author table is the candidate tower's; the user tower reads it through a layer of its own.

    Attributes:
        projection: the frozen P, (S, T): principal directions of the catalogue it was begun on.
        everybody: (S,) the mean of the users that its updates met lately, zeros before the first.
        met: how many that were.
    """

    projection: Tensor
    everybody: Tensor
    met: Tensor

    def __init__(self, settings: TowerSettings, projection: Tensor) -> None:
        """Draw random weights from torch's generator as it is."""
        super().__init__()
        size = settings.size
        self.register_buffer("projection", projection)
        self.register_buffer("everybody", torch.zeros(size))
        self.register_buffer("met", torch.zeros(()))
        self.keep, self.prior = 1.0 - settings.user_rate, settings.prior
        self.author = nn.Embedding(settings.authors, AUTHOR, padding_idx=0)
        self.mlp = nn.Sequential(
            nn.Linear(size + AUTHOR, settings.hidden), nn.GELU(), nn.Linear(settings.hidden, size)
        )
        self.action = nn.Embedding(settings.actions, size)
        self.author_use = nn.Linear(AUTHOR, size, bias=False)
        self.gap = nn.Linear(len(SCALES) + 1, size)
        self.transformer = nn.ModuleList(
            nn.TransformerEncoderLayer(
                size,
                settings.heads,
                2 * size,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(settings.layers)
        )
        self.attention = nn.Linear(size, 1)
        self.user_projection = nn.Linear(size, size, bias=False)
        with torch.no_grad():
            for begins_at_zero in (*self.mlp[-1].parameters(), *self.user_projection.parameters()):
                begins_at_zero.zero_()
            for small in (self.author, self.action):
                small.weight.mul_(0.1)

    def candidate_parts(self) -> list[tuple[str, nn.Parameter]]:
        """Return what the candidate tower's updates change, item rows aside, by name."""
        own = ("author.", "mlp.")
        return [(name, each) for name, each in self.named_parameters() if name.startswith(own)]

    def user_parts(self) -> list[tuple[str, nn.Parameter]]:
        """Return what the user tower's updates change, by name."""
        others = {name for name, _ in self.candidate_parts()}
        return [(name, each) for name, each in self.named_parameters() if name not in others]

    def items(self, projected: Tensor, authors: Tensor, rows: Tensor) -> Tensor:
        """Return (n, S), not yet unit, of ``P x`` (n, S), author table places (n,) and item rows (n, S)."""
        deep: Tensor = self.mlp(torch.cat([projected, self.author(authors)], dim=1))
        return projected + deep + rows

    def users(
        self, items: Tensor, signals: Tensor, actions: Tensor, authors: Tensor, ages: Tensor, there: Tensor
    ) -> Tensor:
        """Return (b, S), not yet unit, of b histories of h engagements, oldest first, padded behind.

        Args:
            items: (b, h, S) unit rows.
            signals: (b, h), 0 where padded.
            actions, authors: (b, h), rows of the lookup tables.
            ages: (b, h) seconds, >= 0.
            there: (b, h), False where padded; True at least once in each row.
        """
        own, total = self.sums(items, signals, there)
        mean = (own + self.prior * self.everybody) / (total + self.prior)
        known = functional.embedding(authors, self.author.weight.detach())
        tokens = (
            signals[..., None] * items + self.action(actions) + self.author_use(known) + self.gap(since(ages))
        )
        for layer in self.transformer:
            tokens = layer(tokens, src_key_padding_mask=~there)
        looks = self.attention(tokens)[..., 0].masked_fill(~there, -torch.inf).softmax(1)
        pooled: Tensor = self.user_projection((looks[..., None] * tokens).sum(1))
        longest = BEND * torch.linalg.vector_norm(mean.detach(), dim=1, keepdim=True)
        length = torch.linalg.vector_norm(pooled, dim=1, keepdim=True)
        made: Tensor = mean + pooled * (longest / (longest + length).clamp_min(1e-6))
        return made

    def sums(self, items: Tensor, signals: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Return signed, recency-weighted sums of histories' items (b, S), and of their weights (b, 1)."""
        later = there.flip(1).cumsum(1).flip(1) - 1  # engagements of the same user after this one
        weights = signals * self.keep ** later.clamp_min(0)
        total = weights.abs().sum(1, keepdim=True).clamp_min(1e-6)
        return (weights[..., None] * items).sum(1), total

    @torch.no_grad()
    def meet(self, items: Tensor, signals: Tensor, there: Tensor) -> None:
        """Take users into the mean of everybody; what is older fades after `MEMORY` users."""
        own, total = self.sums(items, signals, there)
        share = len(own) / (self.met + len(own))
        self.everybody += share * ((own / total).mean(0) - self.everybody)
        self.met.copy_((self.met + len(own)).clamp_max(MEMORY))


def begun(settings: TowerSettings, projection: Vectors) -> TwoTower:
    """Return untrained towers; equal settings and projections give equal bits."""
    if projection.ndim != 2 or len(projection) != settings.size:
        raise Invalid(f"projection: expected {settings.size} rows, got an array of shape {projection.shape}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return TwoTower(settings, torch.from_numpy(projection.astype(np.float32)))


def since(ages: Tensor) -> Tensor:
    """Return what the user tower reads of ages in seconds: their log, and how much is left on each scale."""
    left = [torch.exp(-ages / scale) for scale in SCALES]
    return torch.stack([torch.log1p(ages) / 20, *left], dim=-1)


def unit(rows: Tensor, short: float = SHORT) -> Tensor:
    """Return rows of length 1; what is shorter than ``short`` is only divided by it."""
    made: Tensor = rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(short)
    return made


def projection_of(texts: Vectors, size: int, seed: int) -> Vectors:
    """Return the frozen projection (size, T) for a catalogue sample (n, T): rows orthonormal.

    The rows are the directions in which the sample is largest, so that cosines change little (the uncentred
    principal components: Eckart and Young 1936); drawn at random where the sample has no more of them. With
    more rows than columns it is the columns that are orthonormal: nothing is lost then.

    Args:
        texts: n >= 0 rows; those that are not finite are left out.

    >>> made = projection_of(np.eye(3, 4, dtype=np.float32), size=2, seed=0)
    >>> made.shape, bool(np.allclose(made @ made.T, np.eye(2), atol=1e-6))
    ((2, 4), True)
    """
    wide = texts.shape[1]
    rows = texts[np.isfinite(texts).all(axis=1)].astype(np.float64)
    rng = np.random.default_rng(seed)
    strengths, found = np.linalg.eigh(rows.T @ rows)
    principal = found.T[::-1][strengths[::-1] > 1e-9 * max(1.0, float(strengths[-1]))][: min(size, wide)]
    # QR keeps the span of what stands before, so the random ones fill up what is missing.
    drawn = rng.standard_normal((wide, wide - len(principal)))
    basis, _ = np.linalg.qr(np.concatenate([principal.T, drawn], axis=1))
    square = basis.T
    square[: len(principal)] = principal
    square *= np.sign(square[np.arange(wide), np.abs(square).argmax(axis=1)])[:, None]  # one sign everywhere
    if size > wide:
        square = np.linalg.qr(rng.standard_normal((size, wide)))[0] @ square
    made: Vectors = np.ascontiguousarray(square[:size], np.float32)
    return made

"""The passes of `improvement.adjusters.planes` as torch operations, for devices other than the processor.

Names, arguments and results are those of `improvement.adjusters.compiled`: rows (R, D), table (T, D), index
and weight (R, K); answers are written into the last argument. In float64, some thousand rows at a time.
"""

from collections.abc import Iterator

import torch

from improvement.adjusters.base import drift
from improvement.adjusters.compiled import ROUNDING, reached
from improvement.domain import MetricType

#: Numbers in the largest temporary tensor.
CHUNK = 1 << 24


def squares(rows: torch.Tensor, answer: torch.Tensor) -> None:
    """Write x.x of every row."""
    for piece in _pieces(rows):
        answer[piece] = rows[piece].double().square().sum(-1)


def products(
    rows: torch.Tensor, table: torch.Tensor, index: torch.Tensor, weight: torch.Tensor, answer: torch.Tensor
) -> None:
    """Write x.q of every piece of evidence, 0 where there is none."""
    for piece in _pieces(rows):
        x = rows[piece].double()
        for k in range(index.shape[1]):
            answer[piece, k] = (x * table[index[piece, k]].double()).sum(-1)
    answer[weight == 0] = 0


def travel(
    rows: torch.Tensor,
    table: torch.Tensor,
    index: torch.Tensor,
    weight: torch.Tensor,
    total: torch.Tensor,
    kind: int,
    on_sphere: bool,
    time: float,
    limit: float,
    lengths: tuple[float, float],
    only_step: bool,
    narrow: float,
    out: torch.Tensor,
) -> float:
    """Write where the rows arrive; return the sum of all products. All is float64, narrow or not."""
    checksum = 0.0
    for piece in _pieces(rows):
        x, g = rows[piece].double(), _directions(table, index[piece], weight[piece])
        # A plane is three numbers: the processor follows the flow.
        plane = torch.stack([(x * x).sum(-1), (x * g).sum(-1), (g * g).sum(-1)], -1).cpu().numpy()
        checksum += float(plane.sum())
        arrived = reached(plane, total[piece].cpu().numpy(), kind, on_sphere, time, limit, *lengths)
        points = torch.from_numpy(arrived).to(rows.device)
        a, b = points[:, :1] - float(only_step), points[:, 1:]
        moved = (a * x + b * g).to(out)
        if not only_step:  # what rounding carried too far stays where it was
            metric = MetricType.COSINE if on_sphere else MetricType.EUCLID
            lawful = drift(rows[piece], moved, metric) <= limit + ROUNDING * (1 + limit)
            moved = torch.where(lawful[:, None], moved, rows[piece])
        out[piece] = moved
    return checksum


def _directions(table: torch.Tensor, index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return g, added up in the order of the evidence."""
    g = torch.zeros(len(index), table.shape[1], dtype=torch.float64, device=table.device)
    for k in range(index.shape[1]):
        g += weight[:, k, None] * table[index[:, k]].double()
    return g


def _pieces(rows: torch.Tensor) -> Iterator[slice]:
    size = max(1, CHUNK // rows.shape[1])
    return (slice(first, first + size) for first in range(0, len(rows), size))

"""The learning curve of a domain's towers: the loss of every step, checkpoint after checkpoint.

Drawn by matplotlib's objects, never by its global state, so that threads may draw at once; equal checkpoints
give equal bytes.
"""

import threading
from collections.abc import Collection, Sequence
from io import BytesIO
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from improvement.two_tower.checkpoints import Checkpoint

if TYPE_CHECKING:  # whoever draws nothing starts without it
    from matplotlib.axes import Axes

#: What trains which tower, and what its panel is called.
PANELS = {"candidate": "candidate tower: contrastive loss", "users": "user tower: triplet loss"}
#: Inches of the whole, and pixels an inch.
SIZE, DPI = (9.0, 5.6), 120
LOSS, QUIET, GOOD, BAD = "#1f5fa8", "#b8bec6", "#1f8a4c", "#c0392b"
#: Some settings matplotlib has for all threads together: one at a time changes them.
_LOCK = threading.Lock()


def learning_curve(
    checkpoints: Sequence[Checkpoint],
    *,
    promoted: Collection[str] = (),
    stopped: Collection[str] = (),
    form: Literal["png", "svg"] = "png",
) -> bytes:
    """Draw the loss of every gradient step, a panel for each tower, with a line where a checkpoint was made.

    Args:
        checkpoints: of one domain, in any order; drawn as they were created.
        promoted: ids of those that served: their lines are green. Lines of those judged bad are red.
        stopped: ids of those at which training stopped, as the loss was not a finite number: a red cross.
    """
    import matplotlib
    from matplotlib.figure import Figure

    ordered = sorted(checkpoints, key=lambda one: (one.created_at, one.engagements, one.checkpoint_id))
    written = BytesIO()
    with _LOCK, matplotlib.rc_context({"svg.hashsalt": "curve", "svg.fonttype": "none", "font.size": 9.0}):
        figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
        for axes, (trained, title) in zip(figure.subplots(len(PANELS), 1), PANELS.items(), strict=True):
            row = [one for one in ordered if one.trained == trained]
            axes.set_title(title, loc="left")
            _panel(axes, row, promoted, stopped)
        nothing = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
        figure.savefig(written, format=form, metadata=nothing)
    return written.getvalue()


def _panel(
    axes: "Axes", row: Sequence[Checkpoint], promoted: Collection[str], stopped: Collection[str]
) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylabel("loss")
    axes.set_xlabel("gradient step; a line behind each checkpoint, green: it served, red: it was judged bad")
    losses = [loss for one in row for loss in one.losses]
    if not losses:
        axes.text(0.5, 0.5, "no step yet", transform=axes.transAxes, ha="center", color=QUIET)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    axes.plot(range(1, len(losses) + 1), losses, color=LOSS, linewidth=1.2, marker=".", markersize=3)
    for one, step in zip(row, accumulate(len(one.losses) for one in row), strict=True):
        colour = GOOD if one.checkpoint_id in promoted else BAD if one.good is False else QUIET
        axes.axvline(step + 0.5, color=colour, linewidth=0.8 if colour == QUIET else 1.6, zorder=0)
        if one.checkpoint_id in stopped:
            axes.plot([step + 0.5], [one.losses[-1]], "x", color=BAD, markersize=9, markeredgewidth=2)
            axes.annotate(
                "stopped: not a number", (step + 0.5, one.losses[-1]), xytext=(-8, 8),
                textcoords="offset points", color=BAD, ha="right",
            )  # fmt: skip

"""The plots of a gate's report, as SVG to stand inside an HTML page.

Drawn by matplotlib's objects, never by its global state, so that threads may draw at once; equal numbers give
equal text. Colours are the page's own: it says what ``--ink`` and the others are by day and by night.
"""

import re
import threading
from collections.abc import Mapping, Sequence
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the web process starts without it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Stand-ins for the page's colours, by the name of its variable.
COLOURS: Mapping[str, str] = {
    "ink": "#010203", "quiet": "#040506", "good": "#070809", "bad": "#0a0b0c", "plain": "#0d0e0f",
}  # fmt: skip
#: Inches.
WIDTH, ROW = 7.6, 0.3
#: Some settings matplotlib has for all threads together: one at a time changes them.
_LOCK = threading.Lock()


def differences(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """Draw paired differences with their intervals, and how far below 0 each may reach.

    Args:
        rows: top to bottom, each with ``name``, ``mean``, ``low``, ``high`` (None where undefined) and
            ``margin`` (None where no rule asks).
        title: what a screen reader says of it.
    """

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        _plain_axes(axes)
        axes.axvline(0, color=COLOURS["ink"], linewidth=1)
        for place, row in enumerate(rows):
            mean, low, high, margin = (_number(row.get(key)) for key in ("mean", "low", "high", "margin"))
            if margin is not None:
                axes.plot([-margin] * 2, [place - 0.4, place + 0.4], color=COLOURS["bad"], linestyle="--")
            if mean is None:
                axes.text(0, place, " not measured", color=COLOURS["quiet"], va="center")
                continue
            colour = COLOURS["plain"]
            if low is not None and high is not None:
                below = margin is not None and low < -margin
                colour = COLOURS["bad" if below else "good" if low > 0 else "plain"]
                axes.plot([low, high], [place] * 2, color=colour, linewidth=2)
            axes.plot([mean], [place], "o", color=colour, markersize=5)
        axes.set_yticks(range(len(rows)), [str(row["name"]) for row in rows], parse_math=False)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("green - blue, with 95% intervals; dashed: how far below 0 an interval may reach")

    return _svg(draw, ROW * len(rows) + 0.7, title)


def histogram(counts: Sequence[int], edges: Sequence[float], limit: float | None, title: str) -> str:
    """Draw how many objects moved how far, and the farthest that is allowed.

    Args:
        counts: of each bar.
        edges: of the bars, one more than there are.
        limit: None where there is none.
    """

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        _plain_axes(axes)
        widths = [after - before for before, after in zip(edges[:-1], edges[1:], strict=True)]
        axes.bar(edges[:-1], counts, widths, align="edge", color=COLOURS["plain"])
        # Few objects move far, and they are what one looks for.
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        if limit is not None:
            axes.axvline(limit, color=COLOURS["bad"], linestyle="--")
        axes.set_xlabel("distance from what was given; dashed: the farthest that is allowed")
        axes.set_ylabel("objects")

    return _svg(draw, 2.4, title)


def _plain_axes(axes: "Axes") -> None:
    axes.set_facecolor("none")
    axes.tick_params(colors=COLOURS["ink"], which="both")
    axes.xaxis.label.set_color(COLOURS["ink"])
    axes.yaxis.label.set_color(COLOURS["ink"])
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("bottom", "left"))
        spine.set_color(COLOURS["quiet"])


def _svg(draw: Any, height: float, title: str) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    written = StringIO()
    with (
        _LOCK,
        matplotlib.rc_context({"svg.hashsalt": "gate", "svg.fonttype": "none", "font.size": 9.0}),
    ):
        figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="none")
        draw(figure)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(written, format="svg", metadata=nothing)
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style).*?</\1>", "", svg, flags=re.DOTALL)  # a style would be the whole page's
    svg = re.sub(r"font-family: [^;]*;", "", svg)
    # Names of parts, which nothing refers to, and which two plots on a page would share.
    svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None

"""A plot of an experiment's results: how far each arm is from the control, a panel for each metric."""

import warnings
from pathlib import Path

from improvement.experiments.results import Results
from improvement.experiments.settings import Metric

#: Inches.
WIDTH, ROW = 9.0, 0.34
#: Colours of the verdicts.
COLOURS = {"better": "#1a7f37", "worse": "#b42318", "undecided": "#475467", "too little": "#98a2b3"}


def plot(found: Results, path: Path) -> None:
    """Write the differences to the control, with both intervals, to a file; its ending says the format.

    Drawn by matplotlib's objects, never by its global state. Thick: for one look; thin: for all looks.

    Raises:
        ValueError: a format that cannot be written.
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    arms = found.arms[1:]
    rows = -(-len(Metric) // 2)
    figure = Figure(figsize=(WIDTH, rows * (ROW * len(arms) + 0.9) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    control = found.arms[0].name
    figure.suptitle(f"{found.experiment.name}: difference to {control}", parse_math=False, fontsize=11)
    for number, metric in enumerate(Metric):
        axes = figure.add_subplot(rows, 2, number + 1)
        axes.axvline(0, color="#101828", linewidth=0.8)
        for place, arm in enumerate(arms):
            one, verdict = arm.differences[metric], found.verdict(arm, metric)
            colour = COLOURS[verdict]
            if one.always_low is not None and one.always_high is not None:
                axes.plot([one.always_low, one.always_high], [place] * 2, color=colour, linewidth=1)
            if one.low is not None and one.high is not None:
                axes.plot([one.low, one.high], [place] * 2, color=colour, linewidth=4, alpha=0.5)
            if one.difference is not None:
                axes.plot([one.difference], [place], "o", color=colour, markersize=4)
        axes.set_yticks(range(len(arms)), [arm.name for arm in arms], parse_math=False)
        axes.set_ylim(len(arms) - 0.5, -0.5)
        primary = " (primary)" if metric is found.experiment.primary else ""
        axes.set_title(metric.value + primary, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    level = f"{found.experiment.level:.0%}"
    figure.supxlabel(f"thick: {level} interval for one look; thin: for all looks together", fontsize=8)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name may have what the font has not
        figure.savefig(path)

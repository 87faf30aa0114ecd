"""A report on a terminal: metrics down, methods across, then what it was run on."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from textwrap import wrap
from typing import Any

from rich.console import Console
from rich.table import Table

from improvement.evaluation.report import Estimate, Report

#: Users below which intervals over users are rougher, and mostly narrower, than they say.
FEW_USERS = 20
#: Characters of an interval; longer headings are broken, so that a table fits 80 columns.
WIDTH = 14


def show(report: Report, console: Console) -> None:
    """Print a report."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0))
    table.add_column("metric", no_wrap=True)
    learned = [row for row in report.rows if row.settings]
    for heading in [row.method for row in report.rows] + ["difference"] * len(learned):
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", heading)
        table.add_column("\n".join(wrap(words, WIDTH)), justify="right")
    for metric in report.rows[0].metrics:
        cells = [_cell(row.metrics[metric]) for row in report.rows]
        cells += [_cell(row.differences.get(metric), "+") for row in learned]
        table.add_row(metric, *cells)
    console.print(table)

    def line(name: str, value: str) -> None:
        console.print(f"{name.replace('_', ' ')}: {value}", markup=False, highlight=False)

    for row in report.rows:
        if row.facts:
            line(row.method, _joined({name: f"{value:,.4g}" for name, value in row.facts.items()}))
    for name, value in report.source.items():
        if name == "split_at":
            line(name, f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S} UTC")
        elif isinstance(value, Mapping):
            line(name, _joined(value) or "none")
        elif isinstance(value, list | tuple):
            line(name, " ".join(map(str, value)) or "not known, taken as 1")
        else:
            line(name, str(value))
    if report.source["users"] < FEW_USERS:
        line("note", f"with fewer than {FEW_USERS} users, take the intervals as a hint")


def _joined(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def _cell(estimate: Estimate | None, sign: str = "") -> str:
    if estimate is None or math.isnan(estimate.mean):
        return "-"
    interval = "" if math.isnan(estimate.low) else f"\n{estimate.low:{sign}.4f}..{estimate.high:{sign}.4f}"
    return f"{estimate.mean:{sign}.4f}{interval}"

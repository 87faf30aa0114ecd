"""A report on a terminal: metrics down, methods across, then what it was run on."""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from textwrap import wrap
from typing import Any

from rich.console import Console
from rich.table import Table

from improvement.evaluation.report import NO_LEARNING, Estimate, Report

#: Users below which intervals over users are rougher, and mostly narrower, than they say.
FEW_USERS = 20
#: Characters of an interval; longer headings are broken, so that a table fits 80 columns.
WIDTH = 14
#: A column: its heading, what it shows of each metric, and the sign of numbers above 0.
_Column = tuple[str, Mapping[str, Estimate], str]


def show(report: Report, console: Console) -> None:
    """Print a report; differences have a table of their own where there are several."""
    means = [(row.method, row.metrics, "") for row in report.rows]
    learned = [row for row in report.rows if row.settings]
    differences = [(f"{row.method}\nto {NO_LEARNING}", row.differences, "+") for row in learned]
    differences += [
        (f"{row.method}\nto {other}", found, "+") for row in learned for other, found in row.versus.items()
    ]
    metrics = list(report.rows[0].metrics)
    if len(differences) > 1:
        console.print(_table("metric", metrics, means))
        console.print()
        console.print(_table("difference", metrics, differences))
    else:
        console.print(_table("metric", metrics, means + [("difference", *one[1:]) for one in differences]))

    def line(name: str, value: str) -> None:
        console.print(f"{name.replace('_', ' ')}: {value}", markup=False, highlight=False)

    for row in report.rows:
        if row.facts:
            facts = {n: f"{v:,}" if isinstance(v, int) else f"{v:,.4g}" for n, v in row.facts.items()}
            line(row.method, _joined(facts))
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


def _table(name: str, metrics: Sequence[str], columns: Sequence[_Column]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0))
    table.add_column(name, no_wrap=True)
    for heading, _, _ in columns:
        lines = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", heading).splitlines()
        table.add_column("\n".join(part for line in lines for part in wrap(line, WIDTH)), justify="right")
    for metric in metrics:
        if any(metric in found for _, found, _ in columns):
            table.add_row(metric, *(_cell(found.get(metric), sign) for _, found, sign in columns))
    return table


def _joined(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def _cell(estimate: Estimate | None, sign: str = "") -> str:
    if estimate is None or math.isnan(estimate.mean):
        return "-"
    interval = "" if math.isnan(estimate.low) else f"\n{estimate.low:{sign}.4f}..{estimate.high:{sign}.4f}"
    return f"{estimate.mean:{sign}.4f}{interval}"

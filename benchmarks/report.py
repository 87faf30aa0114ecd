"""What the benchmarks share: progress, machine facts, quantiles, and how a result is printed and kept."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

#: Packages whose versions say what was measured.
PACKAGES = (
    "numpy",
    "torch",
    "pymongo",
    "qdrant-client",
    "qdrant-edge-py",
    "SecantusDB",
    "fastapi",
    "uvicorn",
)

# Options that every benchmark has.
JsonOut = Annotated[
    Path | None, typer.Option("--json", dir_okay=False, help="Write the result there as JSON, too.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 when a goal is missed.")]
Seed = Annotated[int, typer.Option(help="Another seed makes other vectors, sessions and queries.")]


@dataclass(frozen=True)
class Goal:
    """One promise, what was measured of it, and whether it held."""

    goal: str
    measured: str
    met: bool


def progress() -> Progress:
    """Return progress bars on stderr, so that stdout holds the result alone."""
    columns = TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=Console(stderr=True))


def quantiles(values: Sequence[float], *wanted: float) -> list[float]:
    """Return quantiles, each asked for as a share in 0..1: 0 is the least, 0.5 the median."""
    return [float(q) for q in np.quantile(values, wanted)]


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Return a table: the first column of words, the others of numbers."""
    made = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        made.add_column(column, justify="right" if place else "left")
    for row in rows:
        made.add_row(*map(str, row))
    return made


def machine() -> dict[str, Any]:
    """Say where this ran; ``load_1m`` above the number of cores means that others were running too."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # the embedded stores are an optional extra
            versions[package] = "not installed"
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_1m": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "versions": versions,
    }


def finish(
    name: str,
    facts: Mapping[str, Any],
    tables: Sequence[Table],
    result: Mapping[str, Any],
    goals: Sequence[Goal],
    json_out: Path | None,
    strict: bool,
) -> None:
    """Print the tables and goals, write the JSON, and exit with 1 if ``strict`` and a goal was missed.

    Args:
        facts: `machine()` as it was before the run, so that ``load_1m`` is of the others.
    """
    console = Console()
    for made in tables:
        console.print(made)
    console.print(
        f"{facts['cores']} cores, Python {facts['python']}, {facts['system']}, "
        f"load {facts['load_1m']} before the run"
    )
    for goal in goals:
        said = "[green]met[/]" if goal.met else "[bold red]MISSED[/]"
        console.print(f"goal: {goal.goal}: {said}, measured {goal.measured}")
    if json_out is not None:
        whole = {"benchmark": name, "machine": facts, **result, "goals": [asdict(goal) for goal in goals]}
        json_out.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    if strict and not all(goal.met for goal in goals):
        raise typer.Exit(1)

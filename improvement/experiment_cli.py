"""`python -m improvement experiment`: who is in which arm, and what the arms show."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from improvement.errors import NotFound
from improvement.experiment_routes import assignment_json
from improvement.experiments.reading import experiment_results
from improvement.experiments.results import ArmResults, Results
from improvement.experiments.settings import Metric
from improvement.terminal import Connect, DomainName, Json, cell, chosen_domain, show

_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]
Since = Annotated[
    datetime | None,
    typer.Option(
        formats=_FORMATS, help="First moment, UTC; leave it where it is from look to look. All if left out."
    ),
]
Until = Annotated[
    datetime | None, typer.Option(formats=_FORMATS, help="Moment of the end, UTC; now if left out.")
]
Plot = Annotated[
    Path | None,
    typer.Option(
        dir_okay=False,
        metavar="FILE",
        help="Draw the differences there; its ending (.svg, .png) is the format.",
    ),
]
Users = Annotated[list[str], typer.Argument(metavar="USER...", help="Ids of users.")]


def register(app: typer.Typer, connect: Connect) -> None:
    """Add the commands to a command line; ``connect`` opens the stores."""
    experiment = typer.Typer(
        help="A domain's experiment: its arms are data of the plugin. docs/experiments.md explains it.\n\n"
        "Exit codes: 0 done, 1 refused or failed (no experiment, say), 2 wrong usage.",
        no_args_is_help=True,
    )
    app.add_typer(experiment, name="experiment")

    @experiment.command()
    def results(
        since: Since = None,
        until: Until = None,
        domain: DomainName = None,
        plot: Plot = None,
        as_json: Json = False,
    ) -> None:
        """Compare the arms with the control, which is the first one.

        Example: experiment results --since 2026-11-01 --plot arms.svg
        """
        begin, end = _seconds(since) or 0.0, _seconds(until)
        end = time.time() if end is None else end
        with connect() as rooms:
            chosen = chosen_domain(rooms, domain)
            found = experiment_results(rooms.clickstream, chosen, begin, end)
        if plot is not None:
            _draw(found, plot)
        if as_json:
            typer.echo(json.dumps({"domain": chosen.name, "since": begin, "until": end, **found.as_json()}))
        else:
            _print(found)

    @experiment.command()
    def assign(users: Users, domain: DomainName = None, as_json: Json = False) -> None:
        """Say which arm users are in; nothing for who takes no part.

        Example: experiment assign ann bob
        """
        with connect() as rooms:
            chosen = chosen_domain(rooms, domain)
            if chosen.experiment is None:
                raise NotFound(f"domain {chosen.name!r} has no experiment")
            rows = [assignment_json(chosen, user) for user in users]
        show([row if as_json else {name: said or "" for name, said in row.items()} for row in rows], as_json)


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.replace(tzinfo=UTC).timestamp()


def _draw(found: Results, path: Path) -> None:
    from improvement.experiments.plots import plot

    try:
        plot(found, path)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error), param_hint="--plot") from None


def _print(found: Results) -> None:
    """Print who was there, the metrics, the primary one first, mixed lists, and what to beware of."""
    console = Console()
    people = Table("arm", "gets", _right("users"), _right("sessions"), title=cell(found.experiment.name))
    for arm in found.arms:
        people.add_row(cell(arm.name), arm.treatment, f"{arm.users:,}", f"{arm.sessions:,}")
    console.print(people, _metrics(found))
    if any(arm.interleaved for arm in found.arms):
        console.print(_mixed(found))
    for why, count in found.left_out.items():
        typer.echo(f"sessions that do not count, {why}: {count:,}")
    for warning in found.warnings:
        typer.echo(f"warning: {warning}", err=True)


def _metrics(found: Results) -> Table:
    """Return the means, and the differences by intervals that hold for all looks: people look often."""
    primary = found.experiment.primary
    numbers = (f"mean, {found.experiment.level:.0%}", "difference, for all looks", "p")
    table = Table("metric", "arm", *map(_right, numbers), "")
    for metric in sorted(Metric, key=lambda metric: metric is not primary):
        for arm in found.arms:
            name = "" if arm is not found.arms[0] else metric.value + " (primary)" * (metric is primary)
            mean, control = arm.metrics[metric], metric not in arm.differences
            said = ["", "", "control"] if control else _compared(found, arm, metric)
            table.add_row(name, cell(arm.name), _number(mean.mean, mean.low, mean.high), *said)
        table.add_section()
    return table


def _compared(found: Results, arm: ArmResults, metric: Metric) -> list[str]:
    one = arm.differences[metric]
    p_value = one.adjusted_p if metric is found.experiment.primary else one.p_value
    return [
        _number(one.difference, one.always_low, one.always_high, sign=True),
        _chance(p_value),
        one.why or found.verdict(arm, metric),
    ]


def _mixed(found: Results) -> Table:
    columns = ("users", "wins", "losses", "ties", "preference", "less 0.5, for all looks", "p")
    table = Table("mixed lists", *map(_right, columns), "")
    for arm in found.arms:
        if one := arm.interleaved:
            counts, half = (one.users, one.wins, one.losses, one.ties), one.versus_half
            table.add_row(
                cell(arm.name), *(f"{count:,}" for count in counts),
                _number(one.preference, one.low, one.high),
                _number(half.difference, half.always_low, half.always_high, sign=True),
                _chance(half.p_value),
                half.why or "",
            )  # fmt: skip
    return table


def _right(name: str) -> Column:
    return Column(name, justify="right")


def _chance(p_value: float | None) -> str:
    """Return a p-value.

    >>> _chance(0.0496), _chance(1e-9), _chance(None)
    ('0.050', '<0.001', '')
    """
    return "" if p_value is None else "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _number(value: float | None, low: Any = None, high: Any = None, sign: bool = False) -> str:
    """Return a number and its interval, where None stands for what is not known.

    >>> _number(0.12345), _number(0.5, -0.25, 1.25, sign=True), _number(None)
    ('0.123', '+0.500 (-0.250 to +1.250)', '-')
    """
    if value is None:
        return "-"
    form = "+.3f" if sign else ".3f"
    interval = "" if low is None or high is None else f" ({low:{form}} to {high:{form}})"
    return f"{value:{form}}{interval}"

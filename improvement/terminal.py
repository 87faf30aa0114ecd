"""What the operator's commands share: their common options, and tables that show any text as it is."""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from improvement.domain import SearchDomain
from improvement.login import login_name
from improvement.wiring import Rooms

#: Opens the stores; what goes wrong on purpose inside becomes one line and an exit code.
Connect = Callable[[], AbstractContextManager[Rooms]]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
DomainName = Annotated[
    str | None, typer.Option("--domain", help="Search domain; the first configured one if left out.")
]
By = Annotated[
    str | None, typer.Option("--by", metavar="NAME", help="Who does it; your login name if left out.")
]


def chosen_domain(rooms: Rooms, domain: str | None) -> SearchDomain:
    """Return the named domain, or the default one; an unknown one is wrong usage."""
    if domain is not None and domain not in rooms.domains:
        known = ", ".join(rooms.domains)
        raise typer.BadParameter(f"unknown domain {domain!r}; configured: {known}", param_hint="--domain")
    return rooms.domains[domain] if domain else rooms.default_domain


def who(by: str | None) -> str:
    """Return who does it: as said, or else the login name."""
    return by or login_name()


def show(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Print rows with equal keys as JSON, or as a table."""
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table(*rows[0]) if rows else Table("nothing")
    for row in rows:
        table.add_row(*map(cell, row.values()))
    Console().print(table)


def cell(value: Any) -> Text:
    """Return a value as text to stand in a table: what has brackets is no markup.

    >>> cell("[red]"), cell({"a": [1]})
    (<text '[red]' [] ''>, <text '{"a": [1]}' [] ''>)
    """
    return Text(json.dumps(value) if isinstance(value, dict | list) else str(value))

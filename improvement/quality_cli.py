"""`python -m improvement alerts|audit|promotions|learning`: what operators watch, and the brake."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from improvement.quality.audit import audit as audit_now
from improvement.quality.audits import Audit
from improvement.quality.healing import HEALED, go_on, restore
from improvement.quality.learning import Learning
from improvement.terminal import By, Connect, DomainName, Json, chosen_domain, show, who
from improvement.two_tower.audit import audit_name, look
from improvement.two_tower.healing import HEALED as TOWERS_HEALED
from improvement.two_tower.healing import go_on_towers
from improvement.wiring import improver

Limit = Annotated[int, typer.Option(min=1, max=1_000, help="How many, the newest first.")]
Why = Annotated[str, typer.Option(help="Why; it is recorded.")]
Towers = Annotated[bool, typer.Option("--towers", help="Of the domain its two towers alone.")]
Rate = Annotated[
    float | None,
    typer.Option(help="Share of the domain's own learning rates to go on with; as it was if left out."),
]

#: What a trend shows: its name, and where an audit has it.
TRENDS: dict[str, tuple[str, ...]] = {
    "drift of objects, a day": ("drift", "objects", "day", "drift", "mean"),
    "drift of profiles, a day": ("drift", "profiles", "day", "drift", "mean"),
    "drift of copies, a day": ("drift", "copies", "day", "drift", "mean"),
    "negatives for a positive": ("evidence", "negatives_per_positive"),
    "evidence an hour": ("evidence", "rate_per_hour"),
    "users of a week with a profile": ("users", "week", "usable"),
    "users of a week with copies": ("users", "week", "copies"),
    "new objects shown": ("new_objects", "coverage"),
}
TOWER_TRENDS: dict[str, tuple[str, ...]] = {
    "seconds to learn, 95th percentile": ("latency", "p95"),
    "training pairs an hour": ("per_hour",),
    "negatives for a positive": ("pairs", "negatives_per_positive"),
    "engagements that wait": ("pairs", "waiting"),
    "drift of items, a day": ("drift", "items", "day", "drift", "mean"),
    "drift of users, a day": ("drift", "users", "day", "drift", "mean"),
    "clicks on new items": ("items", "click_through"),
    "new items with a vector": ("items", "coverage"),
    "users of a week with a vector": ("users", "week", "share"),
}
_BARS = "▁▂▃▄▅▆▇█"


def register(app: typer.Typer, connect: Connect) -> None:
    """Add the commands to a command line; ``connect`` opens the stores."""

    @app.command()
    def alerts(
        domain: DomainName = None,
        over: Annotated[bool, typer.Option("--over", help="Also those that are over.")] = False,
        as_json: Json = False,
    ) -> None:
        """List the alerts that are not over; of all domains, unless one is named."""
        with connect() as rooms:
            name = None if domain is None else chosen_domain(rooms, domain).name
            told = rooms.alerts.list(name) if over else rooms.alerts.open(name)
            rows = [one.as_json() for one in told]
            shown = ("domain", "kind", "severity", "message", "open", "told_at")
            show([row if as_json else _dated({f: row[f] for f in shown}) for row in rows], as_json)

    @app.command()
    def audit(
        now: Annotated[bool, typer.Option("--now", help="Audit first, here and now.")] = False,
        domain: DomainName = None,
        towers: Towers = False,
        limit: Limit = 30,
        as_json: Json = False,
    ) -> None:
        """Show what the latest audit found, and how that went over the last ones."""
        with connect() as rooms:
            chosen = chosen_domain(rooms, domain)
            name = audit_name(chosen) if towers else chosen.name
            if now:
                worker = improver(rooms)
                if towers:
                    look(worker, chosen, worker.clock(), whole=True)
                else:
                    audit_now(worker, chosen, worker.clock())
            found = rooms.audits.list(name, limit)
            if as_json:
                typer.echo(json.dumps({"domain": name, "audits": [one.as_json() for one in found]}))
            elif found:
                _print_audit(found, TOWER_TRENDS if towers else TRENDS)
            else:
                often = "hour" if towers else "day"
                typer.echo(f"no audit yet; the worker makes one every {often}, and `--now` makes one now")

    @app.command()
    def promotions(domain: DomainName = None, limit: Limit = 30, as_json: Json = False) -> None:
        """List who made which collection blue, when and why, and what became of it."""
        with connect() as rooms:
            rows = [one.as_json() for one in rooms.releases.history(chosen_domain(rooms, domain).name, limit)]
            show(rows if as_json else [_promotion(row) for row in rows], as_json)

    learning = typer.Typer(help="Freeze and resume learning; restore what was good.", no_args_is_help=True)
    app.add_typer(learning, name="learning")
    _add_learning(learning, connect)


def _add_learning(learning: typer.Typer, connect: Connect) -> None:
    @learning.command()
    def status(domain: DomainName = None, towers: Towers = False, as_json: Json = False) -> None:
        """Say whether a domain learns, how fast, and who said so."""
        with connect() as rooms:
            chosen = chosen_domain(rooms, domain)
            _print_learning(rooms.learning.of(audit_name(chosen) if towers else chosen.name), as_json)

    @learning.command()
    def freeze(
        why: Why, domain: DomainName = None, towers: Towers = False, by: By = None, as_json: Json = False
    ) -> None:
        """Stop learning: what is logged and queued waits."""
        with connect() as rooms:
            chosen = chosen_domain(rooms, domain)
            said = rooms.learning.freeze(audit_name(chosen) if towers else chosen.name, who(by), why)
            rooms.alerts.over(chosen.name, TOWERS_HEALED if towers else HEALED)
            _print_learning(said, as_json)

    @learning.command()
    def resume(
        why: Why,
        rate: Rate = None,
        domain: DomainName = None,
        towers: Towers = False,
        by: By = None,
        as_json: Json = False,
    ) -> None:
        """Learn again."""
        with connect() as rooms:
            chosen = chosen_domain(rooms, domain)
            if towers:
                audit_name(chosen)
            _print_learning((go_on_towers if towers else go_on)(rooms, chosen, who(by), why, rate), as_json)

    @learning.command("restore")
    def restore_release(why: Why, domain: DomainName = None, by: By = None, as_json: Json = False) -> None:
        """Roll back to the last good collection, if need be, and have copies and profiles made anew."""
        with connect() as rooms:
            done = restore(improver(rooms), chosen_domain(rooms, domain), who(by), why)
            show([done.as_json()], as_json)


def sparkline(values: Sequence[float | None]) -> str:
    """Draw numbers, the first one leftmost; a space where there is none.

    >>> sparkline([0.0, 0.5, None, 1.0])
    '▁▄ █'
    >>> sparkline([0.3, 0.3])
    '▁▁'
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(
        " " if value is None or not math.isfinite(value) else _BARS[int((value - low) * scale)]
        for value in values
    )


def _print_audit(found: Sequence[Audit], measures: Mapping[str, Sequence[str]]) -> None:
    latest, console = found[0], Console()
    findings = Table(
        "what", "grade", "found", title=f"{latest.domain}: {latest.grade.value}, {_when(latest.at)}"
    )
    for finding in latest.findings:
        findings.add_row(finding.kind, finding.grade.value, finding.message)
    if not latest.findings:
        findings.add_row("", "", "too little to judge yet")
    console.print(findings)
    if latest.healing:
        console.print(latest.healing, markup=False)
    trends = Table("measure", "latest", f"the last {len(found)}, the newest rightmost")
    for name, path in measures.items():
        values = [_at(one.measured, path) for one in reversed(found)]
        trends.add_row(name, "" if values[-1] is None else f"{values[-1]:.4g}", sparkline(values))
    console.print(trends)


def _at(measured: Any, path: Sequence[str]) -> float | None:
    for name in path:
        measured = (measured or {}).get(name)
    return None if measured is None else float(measured)


def _promotion(row: dict[str, Any]) -> dict[str, Any]:
    forced, watch = row["forced"], row["watch"]
    how = f"forced: {forced['why']}" if forced else "gated" if row["gated"] else "by hand"
    undone = f"{_when(row['undone_at'])} by {row['undone_by']}: {row['undone_why']}" if row["undone"] else ""
    return {
        "when": _when(row["at"]), "who": row["by"], "from": row["previous"] or "", "to": row["current"],
        "how": how, "watch": (watch["reason"] or watch["state"]) if watch else "", "rolled back": undone,
    }  # fmt: skip


def _print_learning(learning: Learning, as_json: bool) -> None:
    row = learning.as_json()
    show([row if as_json else row | {"at": _when(learning.at) if learning.at else ""}], as_json)


def _dated(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"told_at": _when(row["told_at"])}


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")

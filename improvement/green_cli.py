"""`python -m improvement green`: build a green collection, watch it, gate it, promote it, roll back."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from improvement.background import build_sender
from improvement.errors import Conflict
from improvement.green import orders
from improvement.green.builds import Build, BuildState
from improvement.improver import Improver
from improvement.promotion import promote_build
from improvement.promotion import rollback as roll_back
from improvement.terminal import By, Connect, DomainName, Json, cell, chosen_domain, who
from improvement.wiring import improver

#: Seconds between two looks of ``status --watch``.
WATCH = 1.0

BuildId = Annotated[
    str | None,
    typer.Option("--build", metavar="ID", help="Which build; the newest that was not discarded if left out."),
]
Space = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="Embedding space to build in: the model_id of the domain's encoder, or of one of its variants. "
        "Left out: the serving collection's.",
    ),
]
Population = Annotated[
    bool,
    typer.Option(help="Turn objects by what everybody chose; without, the objects are as they were given."),
]
Detach = Annotated[
    bool, typer.Option("--detach", help="Leave it to a worker; `green status --watch` shows how far it is.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the build that was stopped, where it stopped.")
]
Watch = Annotated[bool, typer.Option("--watch", help="Show it every second, until nobody works on it.")]
Dataset = Annotated[
    Path | None,
    typer.Option(
        exists=True, file_okay=False,
        help="Test on this data set, too; docs/replay.md has its format.",
    ),
]  # fmt: skip
Html = Annotated[
    Path | None, typer.Option(dir_okay=False, help="Write the report there as a page with plots.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of the bootstrap: another seed, slightly other intervals.")]
Force = Annotated[
    str | None,
    typer.Option(metavar="WHY", help="Promote although the gate did not let it pass; who and why is kept."),
]


def register(app: typer.Typer, connect: Connect) -> None:
    """Add the commands to a command line; ``connect`` opens the stores."""
    green = typer.Typer(
        help="Green builds: a second collection of a domain is filled, gated, and promoted.\n\n"
        "The usual way: build, gate, promote; then rollback if need be, or discard. docs/green.md explains "
        "each step. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.",
        no_args_is_help=True,
    )
    app.add_typer(green, name="green")
    _add_build(green, connect)
    _add_status(green, connect)
    _add_gate(green, connect)
    _add_switches(green, connect)
    _add_endings(green, connect)


def _add_build(green: typer.Typer, connect: Connect) -> None:
    @green.command()
    def build(
        domain: DomainName = None,
        space: Space = None,
        population: Population = True,
        detach: Detach = False,
        resume: Resume = False,
        by: By = None,
    ) -> None:
        """Fill a green collection from the serving one, here and now.

        Writes and new sessions go on meanwhile and reach it, too. Ctrl-C stops
        it so that it can go on: with --resume, or in any worker by itself.

        Example, everything embedded anew by another encoder of the domain:

          green build --domain documents --space my-encoder-v2 --no-population
        """
        if resume and (space is not None or not population or detach):
            raise typer.BadParameter(
                "goes on with what was asked before; give it alone", param_hint="--resume"
            )
        with connect() as rooms:
            worker, chosen = improver(rooms), chosen_domain(rooms, domain)
            if resume:
                orders.refuse_frozen(worker, chosen.name)
                asked = rooms.builds.latest(chosen.name)
                if not asked.active:
                    raise Conflict(f"build {asked.build_id} is {asked.state}: there is nothing to resume")
            else:
                asked = orders.ask_build(worker, chosen, space=space, population=population, by=who(by))
            typer.echo(f"build {asked.build_id}: {asked.embedding_model_id}", err=True)
            if detach:
                build_sender(rooms.broker)()
                typer.echo(asked.build_id)
                return
            done = _build_here(worker, asked, rooms.settings.build_lease_seconds)
            _print_state(orders.state(worker, done))
            if done.state is not BuildState.BUILT:
                raise typer.Exit(1)


def _build_here(worker: Improver, asked: Build, lease_seconds: float) -> Build:
    from improvement.green.building import work_on  # brings torch

    token = worker.builds.claim(asked, lease_seconds)
    if token is None:
        raise Conflict(f"a worker has build {asked.build_id}: `green status --watch` shows how far it is")
    try:
        with _bars() as show:
            return work_on(worker, worker.builds.get(asked.build_id), token, lease_seconds, show)
    except KeyboardInterrupt:
        again = f"--domain {asked.domain} --resume"
        typer.echo(
            f"stopped; `green build {again}` goes on from here, as a worker does by itself; "
            "`green cancel` gives it up",
            err=True,
        )
        raise typer.Exit(1) from None


@contextmanager
def _bars() -> Iterator[Callable[[Build], None]]:
    """Show how far a build is, a bar for each stage."""
    columns = (
        TextColumn("{task.description:<9}"), BarColumn(), TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def show(build: Build) -> None:
            for stage, task in tasks.items():  # those before are done, whatever was counted of them
                if stage != build.stage or not build.active:
                    one = bars.tasks[task]
                    bars.update(task, total=one.total or 1, completed=one.total or 1)
            if build.active:
                if build.stage not in tasks:
                    tasks[build.stage] = bars.add_task(build.stage, total=None, count="")
                count = _count(build.done, build.total, build.rate(time.time()))
                bars.update(tasks[build.stage], total=build.total, completed=build.done, count=count)

        yield show


def _add_status(green: typer.Typer, connect: Connect) -> None:
    @green.command()
    def status(
        domain: DomainName = None, build_id: BuildId = None, as_json: Json = False, watch: Watch = False
    ) -> None:
        """Show how far a build is, and what its last gate found.

        Example: green status --watch
        """
        with connect() as rooms:
            worker, chosen = improver(rooms), chosen_domain(rooms, domain)

            def look() -> dict[str, Any]:
                return orders.state(worker, orders.find_build(rooms.builds, chosen.name, build_id))

            found = look()
            if not watch or as_json:
                while True:
                    _print_state(found, as_json)
                    if not (watch and _is_at_work(found)):
                        return
                    time.sleep(WATCH)
                    found = look()
            with Live(_table(found), auto_refresh=False) as live:
                while _is_at_work(found):
                    time.sleep(WATCH)
                    found = look()
                    live.update(_table(found), refresh=True)


def _add_gate(green: typer.Typer, connect: Connect) -> None:
    @green.command()
    def gate(
        domain: DomainName = None,
        build_id: BuildId = None,
        dataset: Dataset = None,
        html: Html = None,
        seed: Seed = 0,
        as_json: Json = False,
    ) -> None:
        """Compare a build with the serving collection, on sessions it has not learned from.

        The report is kept; exit code 1 says that it did not pass, and stdout why.

        Example: green gate --html gate.html
        """
        if html is not None and not html.absolute().parent.is_dir():
            raise typer.BadParameter(f"no folder to write to: {html.parent}", param_hint="--html")
        with connect() as rooms:
            from improvement.evaluation.gate_page import page  # brings what draws plots
            from improvement.green.gating import run_gate  # brings torch

            build = orders.find_build(rooms.builds, chosen_domain(rooms, domain).name, build_id)
            with counting() as count:
                report = run_gate(improver(rooms), build, dataset=dataset, seed=seed, progress=count)
            found = report.as_json()
            if html is not None:
                html.write_text(page(found), encoding="utf-8")
            if as_json:
                typer.echo(json.dumps(found))
            else:
                print_report(found)
            if not report.passed:
                raise typer.Exit(1)


@contextmanager
def counting() -> Iterator[Callable[[str, int], None]]:
    """Show how many of what were done; nobody knows of how many."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def count(what: str, number: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=None)
            bars.advance(tasks[what], number)

        yield count


def _add_switches(green: typer.Typer, connect: Connect) -> None:
    @green.command()
    def promote(
        domain: DomainName = None,
        build_id: BuildId = None,
        force: Force = None,
        by: By = None,
        as_json: Json = False,
    ) -> None:
        """Make a build's collection serve; refused without a passed and fresh report.

        Example: green promote --force "the old model's licence ends today"
        """
        with connect() as rooms:
            build = orders.find_build(rooms.builds, chosen_domain(rooms, domain).name, build_id)
            release = promote_build(rooms, build, who(by), force)
            _print_release(release.as_json(), as_json)

    @green.command()
    def rollback(
        domain: DomainName = None,
        why: Annotated[str | None, typer.Option(metavar="WHY", help="Why; it is recorded.")] = None,
        by: By = None,
        as_json: Json = False,
    ) -> None:
        """Make the collection serve again that did before.

        Example: green rollback --domain documents --why "complaints about stale results"
        """
        with connect() as rooms:
            name = chosen_domain(rooms, domain).name
            release = roll_back(rooms, name, who(by), why)
            _print_release(release.as_json(), as_json)


def _add_endings(green: typer.Typer, connect: Connect) -> None:
    @green.command()
    def cancel(domain: DomainName = None, build_id: BuildId = None, as_json: Json = False) -> None:
        """Stop a build that is not finished; what it made stays until it is discarded.

        Example: green cancel
        """
        with connect() as rooms:
            build = orders.find_build(rooms.builds, chosen_domain(rooms, domain).name, build_id)
            worker = improver(rooms)
            _print_state(orders.state(worker, orders.cancel(worker, build)), as_json)

    @green.command()
    def discard(domain: DomainName = None, build_id: BuildId = None, as_json: Json = False) -> None:
        """Delete what a build made; refused while its collection serves.

        Example: green discard --build 0123456789abcdef0123456789abcdef
        """
        with connect() as rooms:
            build = orders.find_build(rooms.builds, chosen_domain(rooms, domain).name, build_id)
            worker = improver(rooms)
            _print_state(orders.state(worker, orders.discard(worker, build)), as_json)


def _is_at_work(state: dict[str, Any]) -> bool:
    return state["state"] in (BuildState.QUEUED, BuildState.BUILDING) or bool(state["gate_asked"])


def _print_state(state: dict[str, Any], as_json: bool = False) -> None:
    if as_json:
        typer.echo(json.dumps(state))
    else:
        Console().print(_table(state))


def _print_release(release: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(release))
    else:
        typer.echo(f"{release['embedding_model']['id']} serves domain {release['domain']}")


def print_report(report: dict[str, Any]) -> None:
    """Print the rules and the metrics, then whether it passed, and why not."""
    rules = Table("rule", Column("found", justify="right"), Column("threshold", justify="right"), "holds")
    for rule in report["rules"]:
        holds = "yes" if rule["passed"] else "no"
        rules.add_row(rule["rule"], _number(rule["found"]), _number(rule["threshold"]), holds)
    numbers = [Column(name, justify="right") for name in ("blue", "green", "difference, 95% interval")]
    metrics, found = Table("metric", *numbers), report["metrics"]
    for name, one in found["differences"].items():
        interval = f"{_number(one['mean'])} ({_number(one['low'])} to {_number(one['high'])})"
        means = (_number(found[side][name]["mean"]) for side in ("blue", "green"))
        metrics.add_row(name, *means, interval)
    console = Console()
    console.print(rules, metrics)
    typer.echo("passed" if report["passed"] else "not passed:")
    for reason in report["reasons"]:
        typer.echo(f"- {reason}")


def _table(state: dict[str, Any]) -> Table:
    """Return what a person wants to know of a build; lines that say nothing are left out."""
    table = Table(show_header=False)
    eta, gate, release = state["eta_seconds"], state["gate"], state["release"]
    rows = {
        "build": state["build_id"],
        "domain": state["domain"],
        "collection": state["embedding_model_id"],
        "state": state["state"],
        "stage": state["stage"] if _is_at_work(state) else None,
        "done": _count(state["done"], state["total"], state["rate"]) if _is_at_work(state) else None,
        "time left": None if eta is None else span(eta),
        "learned": f"{state['learned']:,} sessions, {state['turned']:,} objects turned",
        "missing": f"{state['failed']:,} objects" if state["failed"] else None,
        "why": "\n".join(f"{i}: {why}" for i, why in list(state["failures"].items())[:5]) or None,
        "reason": state["reason"],
        "gate": _gate(gate, state["gate_asked"]),
        "serves": None if release is None else ("yes" if release["work_state"] == "blue" else "no"),
        "follows": "yes" if release is not None and release["follows"] else None,
        "watch": _watch(state["promotion"]),
    }
    for name, value in rows.items():
        if value is not None:
            table.add_row(name, cell(value))
    return table


def _watch(promotion: dict[str, Any] | None) -> str | None:
    watch = None if promotion is None else promotion["watch"]
    return None if watch is None else watch["reason"] or f"{watch['state']}, {watch['looks']} looks so far"


def _gate(gate: dict[str, Any] | None, asked: bool) -> str:
    if asked:
        return "queued, or running"
    if gate is None:
        return "not run yet"
    age = "" if gate["fresh"] else ", too old to promote by"
    said = f"{'passed' if gate['passed'] else 'failed'} {span(gate['age_seconds'])} ago{age}"
    return "\n".join([said, *(f"- {reason}" for reason in gate["reasons"])])


def _count(done: int, total: int | None, rate: float | None) -> str:
    """Return how far something is.

    >>> _count(1500, 2000, 312.34)
    '1,500 of 2,000, 312.3/s'
    """
    of = "" if total is None else f" of {total:,}"
    return f"{done:,}{of}" + ("" if rate is None else f", {rate:,.1f}/s")


def _number(value: Any) -> str:
    """Return a number of a report, where None stands for one that could not be measured.

    >>> _number(0.123456), _number(50), _number(None)
    ('0.1235', '50', '-')
    """
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def span(seconds: float) -> str:
    """Return a length of time as people say it.

    >>> span(59.7), span(90 * 60), span(50 * 3600)
    ('60 s', '90 min', '50 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3600:.0f} h"

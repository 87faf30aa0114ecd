"""`python -m improvement towers`: train two towers, publish them, gate, promote, roll back, revert."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from improvement.background import tower_sender
from improvement.domain import SearchDomain
from improvement.errors import Conflict
from improvement.green_cli import counting, print_report, span
from improvement.improver import Improver
from improvement.terminal import By, Connect, DomainName, Json, cell, chosen_domain, show, who
from improvement.two_tower.names import towers_name
from improvement.two_tower.overview import (
    checkpoint_rows,
    curve_of,
    find_checkpoint,
    tower_state,
    with_towers,
)
from improvement.two_tower.progress import Hold, LostTraining
from improvement.two_tower.switching import promote_towers, rollback_towers
from improvement.wiring import Rooms, improver

CheckpointId = Annotated[
    str | None,
    typer.Option(
        "--checkpoint", metavar="ID",
        help="Which checkpoint, by its id or what that begins with; what was published and waits to serve "
        "if left out.",
    ),
]  # fmt: skip
Newest = Annotated[
    str | None,
    typer.Option("--checkpoint", metavar="ID", help="Which checkpoint; the newest one if left out."),
]
Detach = Annotated[
    bool, typer.Option("--detach", help="Leave it to a worker; `towers status` tells the rest.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of the bootstrap: another seed, slightly other intervals.")]
Force = Annotated[
    str | None,
    typer.Option(metavar="WHY", help="Promote although the gate did not let it pass; who and why is kept."),
]
Out = Annotated[
    Path, typer.Argument(dir_okay=False, metavar="FILE", help="Where to write the PNG; - is standard output.")
]


def register(app: typer.Typer, connect: Connect) -> None:
    """Add the commands to a command line; ``connect`` opens the stores."""
    towers = typer.Typer(
        help="Two towers: a retrieval model that learns from engagement, beside a domain's own vectors.\n\n"
        "Workers do all of it by themselves: train, publish, gate, promote. These commands look at it and "
        "step in: publish, gate, promote; then rollback if need be, or revert. docs/towers.md explains each "
        "step. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.",
        no_args_is_help=True,
    )
    app.add_typer(towers, name="towers")
    _add_views(towers, connect)
    _add_training(towers, connect)
    _add_gate(towers, connect)
    _add_switches(towers, connect)


def _add_views(towers: typer.Typer, connect: Connect) -> None:
    @towers.command()
    def status(domain: DomainName = None, as_json: Json = False) -> None:
        """Show what serves, what waits to, and how far training is.

        Example: towers status --domain feed
        """
        with connect() as rooms:
            _print_state(tower_state(*_both(rooms, domain)), as_json)

    @towers.command()
    def checkpoints(domain: DomainName = None, as_json: Json = False) -> None:
        """List a domain's checkpoints, the newest first.

        Example: towers checkpoints --json
        """
        with connect() as rooms:
            rows = checkpoint_rows(*_both(rooms, domain))
            shown = ("trained", "engagements", "good", "serves", "follows", "newest")
            if not as_json:
                rows = [
                    {"checkpoint": row["checkpoint_id"][:12]}
                    | {name: row[name] for name in shown}
                    | {
                        "last loss": f"{row['losses'][-1]:.4f}"
                        if row["losses"] and row["losses"][-1]
                        else "-"
                    }
                    for row in rows
                ]
            show(rows, as_json)

    @towers.command()
    def curve(out: Out, domain: DomainName = None) -> None:
        """Draw the loss of every training step, checkpoint after checkpoint, as PNG.

        Example: towers curve curve.png
        """
        with connect() as rooms:
            drawn = curve_of(*_both(rooms, domain))
            if str(out) == "-":
                typer.get_binary_stream("stdout").write(drawn)
                return
            if not out.absolute().parent.is_dir():
                raise typer.BadParameter(f"no folder to write to: {out.parent}", param_hint="FILE")
            out.write_bytes(drawn)
            typer.echo(str(out))


def _add_training(towers: typer.Typer, connect: Connect) -> None:
    @towers.command()
    def train(domain: DomainName = None, as_json: Json = False) -> None:
        """Train here and now on what is there: a worker does the same when it is due.

        What was logged and never learned is learned first. The candidate tower
        is updated from every full batch of engagements, the user tower from
        what users did since its last round.

        Example: towers train --domain feed
        """
        with connect() as rooms:
            _print_facts(_train(*_both(rooms, domain)), as_json)

    @towers.command()
    def publish(
        domain: DomainName = None, checkpoint: Newest = None, detach: Detach = False, as_json: Json = False
    ) -> None:
        """Make the collection of a checkpoint, every object through its candidate tower.

        It follows from then on, and does not serve: `towers gate` tests it, and
        `towers promote` has it serve. Ctrl-C stops it; repeated, it goes on.

        Example: towers publish && towers gate && towers promote
        """
        if detach and checkpoint is not None:
            raise typer.BadParameter("a worker publishes the newest one", param_hint="--detach")
        with connect() as rooms:
            worker, chosen = _both(rooms, domain)
            head = worker.training.of(chosen.name).head
            if checkpoint is None and head is None:
                raise Conflict(
                    f"domain {chosen.name!r} has no checkpoint yet; `towers train` begins its towers"
                )
            if detach:
                worker.training.ask_publish(chosen.name)
                tower_sender(rooms.broker)()
                _print_state(tower_state(worker, chosen), as_json)
                return
            wanted = find_checkpoint(worker, chosen, checkpoint or head).checkpoint_id
            from improvement.two_tower.publishing import publish as publish_now

            with _held(worker, chosen) as hold, _bar("objects") as bar:

                def progress(done: int, total: int) -> None:
                    hold.keep_on()
                    bar(done, total)

                release = publish_now(worker, chosen, wanted, progress)
                if wanted == head:
                    hold.save(published_at=worker.training.clock(), publish_asked=False)
            _print_facts(release.as_json(), as_json, f"{wanted} is published and follows")


def _add_gate(towers: typer.Typer, connect: Connect) -> None:
    @towers.command()
    def gate(
        domain: DomainName = None, checkpoint: CheckpointId = None, seed: Seed = 0, as_json: Json = False
    ) -> None:
        """Test a published checkpoint against the one that serves, on what users engaged with next.

        The report is kept; exit code 1 says that it did not pass, and stdout
        why, or that too few users came back yet.

        Example: towers gate --domain feed
        """
        with connect() as rooms:
            from improvement.two_tower.tower_gate import run_tower_gate  # brings torch

            worker, chosen = _both(rooms, domain)
            wanted = find_checkpoint(worker, chosen, checkpoint).checkpoint_id
            with counting() as count:
                report = run_tower_gate(worker, chosen, wanted, seed=seed, progress=count)
            if as_json:
                typer.echo(json.dumps(report.as_json()))
            else:
                print_report(report.as_json())
            if not report.passed:
                raise typer.Exit(1)


def _add_switches(towers: typer.Typer, connect: Connect) -> None:
    @towers.command()
    def promote(
        domain: DomainName = None,
        checkpoint: CheckpointId = None,
        force: Force = None,
        by: By = None,
        as_json: Json = False,
    ) -> None:
        """Have a checkpoint serve, items and model at once; refused without a passed and fresh report.

        Example: towers promote --checkpoint 0123abcd --force "the old one learned from spam"
        """
        with connect() as rooms:
            worker, chosen = _both(rooms, domain)
            wanted = find_checkpoint(worker, chosen, checkpoint).checkpoint_id
            _print_serving(promote_towers(worker, chosen, wanted, who(by), force).as_json(), as_json)

    @towers.command()
    def rollback(
        domain: DomainName = None,
        why: Annotated[str | None, typer.Option(metavar="WHY", help="Why; it is recorded.")] = None,
        by: By = None,
        as_json: Json = False,
    ) -> None:
        """Have the checkpoint serve again that did before, items and model at once.

        What served until now is judged bad, and not published again. Training
        goes on from the newest checkpoint; `towers revert` takes that back, too.

        Example: towers rollback --why "the same ten items for everybody"
        """
        with connect() as rooms:
            worker, chosen = _both(rooms, domain)
            _print_serving(rollback_towers(worker, chosen, who(by), why).as_json(), as_json)

    @towers.command()
    def revert(
        why: Annotated[str, typer.Option(metavar="WHY", help="Why; it is recorded.")],
        domain: DomainName = None,
        by: By = None,
        as_json: Json = False,
    ) -> None:
        """Go back to the last checkpoint known to be good, and train on from there.

        What engagement moved since is undone. Where none is known to be good,
        it is the untrained one that everything began with.

        Example: towers revert --why "a bot liked everything"
        """
        with connect() as rooms:
            from improvement.two_tower.reverting import revert_towers  # brings torch

            worker, chosen = _both(rooms, domain)
            _print_serving(revert_towers(worker, chosen, who(by), why).as_json(), as_json)


def _both(rooms: Rooms, domain: str | None) -> tuple[Improver, SearchDomain]:
    return improver(rooms), with_towers(chosen_domain(rooms, domain))


def _train(worker: Improver, domain: SearchDomain) -> dict[str, Any]:
    """Do what a worker would, with a bar for the steps of each tower; return what was done."""
    from improvement.two_tower.beginning import begin_towers  # brings torch
    from improvement.two_tower.catching_up import catch_up
    from improvement.two_tower.training import train_candidate, train_users

    if frozen := worker.learning.frozen([domain.name, towers_name(domain.name)]):
        raise Conflict(f"learning of {' and '.join(sorted(frozen))} is frozen; resume it first")
    try:
        done: dict[str, Any] = {
            "begun": begin_towers(worker, domain),
            "engagements_caught_up": catch_up(worker, domain),
        }
        worker.queue.hurry(f"tower users {domain.name}")
        with _bar("candidate tower") as bar:
            done["candidate_batches"] = train_candidate(worker, domain, bar)
        with _bar("user tower") as bar:
            done["user_steps"] = train_users(worker, domain, bar)
    except LostTraining:
        raise Conflict(f"a worker trains the towers of domain {domain.name!r} just now") from None
    state = worker.training.of(domain.name)
    return done | {"newest": state.head, "reason": state.reason}


@contextmanager
def _held(worker: Improver, domain: SearchDomain) -> Iterator[Hold]:
    with worker.training.held(domain.name, worker.tower_lease) as hold:
        if hold is None:
            raise Conflict(f"a worker has the towers of domain {domain.name!r}: see `towers status`")
        yield hold


@contextmanager
def _bar(what: str) -> Iterator[Callable[..., None]]:
    """Show how many of how many are done, and the loss where there is one."""
    columns = (
        TextColumn("{task.description:<15}"), BarColumn(),
        TextColumn("{task.completed:,} of {task.total:,} {task.fields[loss]}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task: TaskID | None = None

        def advance(done: int, total: int, loss: float | None = None) -> None:
            nonlocal task
            if task is None:
                task = bars.add_task(what, total=total, loss="")
            said = "" if loss is None else f"loss {loss:.4f}"
            bars.update(task, total=total, completed=done, loss=said)

        yield advance


def _print_facts(found: dict[str, Any], as_json: bool, line: str | None = None) -> None:
    if as_json:
        typer.echo(json.dumps(found))
    elif line is not None:
        typer.echo(line)
    else:
        Console().print(_two_columns({name.replace("_", " "): value for name, value in found.items()}))


def _print_serving(release: dict[str, Any], as_json: bool) -> None:
    name = release["embedding_model"]["id"]
    _print_facts(release, as_json, f"{name} serves {release['domain']}")


def _print_state(state: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(state))
        return
    training, publishing, learning = state["training"], state["publishing"], state["learning"]
    waiting, serving = state["waiting"], state["serving"]
    batch = f"{training['engagements_waiting']:,} of {training['candidate_every']:,} engagements for the next"
    due = "asked for" if publishing["asked"] else f"due in {span(publishing['due_in_seconds'])}"
    Console().print(
        _two_columns(
            {
                "domain": state["domain"],
                "serves": _checkpoint(serving),
                "objects": f"{serving['objects']:,}" if serving else None,
                "newest": _checkpoint(state["newest"]),
                "waits": _checkpoint(waiting),
                "why it waits": None if waiting is None else "\n".join(waiting["against"]) or "it may serve",
                "batches": f"{training['batches']:,} trained, {batch}",
                "stopped": training["reason"],
                "publication": due if serving else None,
                "learning": f"frozen by {learning['by']}: {learning['why']}" if learning["frozen"] else None,
                "rate": f"{learning['rate']:g}",
            }
        )
    )


def _checkpoint(one: dict[str, Any] | None) -> str | None:
    if one is None or one.get("missing"):
        return None if one is None else f"{one['checkpoint_id'][:12]}, whose checkpoint is gone"
    judged = {True: ", good", False: ", bad"}.get(one["good"], "")
    return f"{one['checkpoint_id'][:12]}, {one['trained']}, {one['engagements']:,} engagements{judged}"


def _two_columns(rows: dict[str, Any]) -> Table:
    """Return a table; lines that say nothing are left out."""
    table = Table(show_header=False)
    for name, value in rows.items():
        if value is not None:
            table.add_row(name, cell(value))
    return table

"""Operator's command line: `python -m improvement --help`."""

import gc
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import uvicorn
from pydantic import ValidationError
from rich.console import Console

from improvement.errors import StudioError
from improvement.experiment_cli import register as register_experiment
from improvement.green_cli import register as register_green
from improvement.login import login_name
from improvement.promotion import promote, rollback
from improvement.quality_cli import register as register_quality
from improvement.replay_cli import register as register_replay
from improvement.settings import Environment, Settings, template
from improvement.telemetry import configure_logging
from improvement.terminal import show
from improvement.towers_cli import register as register_towers
from improvement.wiring import Rooms, build, improver, tickers

app = typer.Typer(
    help="Embedding Studio for Qdrant: serve, watch the queue, switch collections.\n\n"
    "Settings come from the environment and .env; .env.example lists them all. "
    "Commands other than `serve` open the same stores: embedded stores belong to one process, so stop "
    "the service first or use the HTTP paths. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
collections = typer.Typer(help="Blue and green collections of a domain.", no_args_is_help=True)
app.add_typer(collections, name="collections")

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Domain = Annotated[str | None, typer.Option(help="Search domain; the first configured one if left out.")]
Model = Annotated[str, typer.Argument(help="Embedding model id of the collection.")]


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; overrides HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; overrides PORT.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the embedded stores.")] = None,
) -> None:
    """Run the HTTP service; what has no URL in the settings runs embedded, the worker too."""
    given = {"host": host, "port": port, "data_dir": data_dir}
    with _rooms(**{name: value for name, value in given.items() if value is not None}) as rooms:
        from improvement.api import create_app

        address = f"http://{rooms.settings.host}:{rooms.settings.port}"
        typer.echo(f"serving {', '.join(rooms.domains)} on {address}, docs at {address}/docs", err=True)
        stop = _start_embedded_worker(rooms) if rooms.settings.redis_url is None else None
        # uvicorn raises the signal it was stopped by again; as an exit it lets the stores close.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        made = create_app(rooms)
        gc.freeze()  # what start-up made stays as long as the process: no need to look for garbage in it
        try:
            uvicorn.run(
                made, host=rooms.settings.host, port=rooms.settings.port, log_level="warning",
                timeout_graceful_shutdown=10,
            )  # fmt: skip
        finally:
            if stop is not None:
                stop()


def _start_embedded_worker(rooms: Rooms) -> Any:
    """Run the actors in this process and return a function that stops them."""
    import torch
    from dramatiq import Worker

    from improvement.background import declare_builds, declare_improvement, declare_towers
    from improvement.green.building import run_builds
    from improvement.jobs import run_improvement
    from improvement.two_tower.jobs import run_towers

    torch.set_num_threads(1)  # the other cores are for the searches
    settings, broker = rooms.settings, rooms.broker
    what = improver(rooms)
    for ticker in tickers(settings, lambda: rooms):
        broker.add_middleware(ticker)
    retries = settings.improvement_worker_max_retries
    declare_improvement(
        broker,
        lambda: run_improvement(what, settings.improvement_batch_sessions, settings.session_idle_seconds),
        retries,
        settings.improvement_worker_time_limit,
    )
    declare_builds(
        broker,
        lambda: run_builds(what, settings.build_lease_seconds),
        retries,
        settings.build_worker_time_limit,
    )
    declare_towers(broker, lambda: run_towers(what), retries, settings.tower_worker_time_limit)
    worker = Worker(broker, worker_threads=3, worker_timeout=100)  # improving goes on beside a build
    worker.start()
    return worker.stop


@app.command()
def ready(as_json: Json = False) -> None:
    """Ask every store; exit 0 only if all answer."""
    with _rooms() as rooms:
        from improvement.api import ready as ask

        answers = ask(rooms)
        show([{"store": name, "answer": answer} for name, answer in answers.items()], as_json)
        if any(answer != "ok" for answer in answers.values()):
            raise typer.Exit(1)


@app.command()
def queue(as_json: Json = False) -> None:
    """Count the improvement queue by status."""
    with _rooms() as rooms:
        show([rooms.queue.counts()], as_json)


@app.command()
def improve(as_json: Json = False) -> None:
    """Sweep and improve once, here and now, until the queue is empty."""
    with _rooms() as rooms:
        from improvement.jobs import run_improvement

        settings = rooms.settings
        ended = run_improvement(
            improver(rooms), settings.improvement_batch_sessions, settings.session_idle_seconds
        )
        show([{"ended": ended} | rooms.queue.counts()], as_json)


@app.command("settings")
def print_settings() -> None:
    """Print every setting with its meaning and default, as an .env file."""
    typer.echo(template(), nl=False)


@collections.command("list")
def list_collections(domain: Domain = None, as_json: Json = False) -> None:
    """List the collections of a domain and which one is blue."""
    with _rooms() as rooms:
        show([r.as_json() for r in rooms.releases.list(domain or rooms.default_domain.name)], as_json)


@collections.command()
def create(model: Model, domain: Domain = None, as_json: Json = False) -> None:
    """Create a green collection for an embedding model."""
    with _rooms() as rooms:
        found = rooms.domains[domain] if domain else rooms.default_domain
        show([rooms.releases.create(found, model).as_json()], as_json)


@collections.command("set-blue")
def set_blue(model: Model, domain: Domain = None, as_json: Json = False) -> None:
    """Make a collection the serving one; copies are rebuilt on it."""
    with _rooms() as rooms:
        name = domain or rooms.default_domain.name
        show([promote(rooms, name, model, login_name()).as_json()], as_json)


@collections.command("rollback")
def roll_back(domain: Domain = None, as_json: Json = False) -> None:
    """Make the collection serve again that was blue before."""
    with _rooms() as rooms:
        name = domain or rooms.default_domain.name
        show([rollback(rooms, name, login_name()).as_json()], as_json)


@collections.command()
def delete(model: Model, domain: Domain = None) -> None:
    """Delete a green collection; refused for the blue one."""
    with _rooms() as rooms:
        rooms.releases.delete(domain or rooms.default_domain.name, model)


@contextmanager
def _rooms(**overrides: Any) -> Iterator[Rooms]:
    """Connect, and turn what goes wrong on purpose into one line and exit code 1."""
    errors = Console(stderr=True)
    try:
        settings = Settings(**overrides)
        configure_logging(json_lines=settings.environment is Environment.PRODUCTION)
        rooms = build(settings)
    except ValidationError as error:
        for one in error.errors():
            place = ".".join(map(str, one["loc"])).upper()
            errors.print(f"settings: {place} {one['msg']}".strip(), style="red", markup=False)
        raise typer.Exit(1) from None
    except StudioError as error:
        errors.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from None
    try:
        yield rooms
    except StudioError as error:
        errors.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from None
    finally:
        rooms.close()


register_replay(app, _rooms)
register_green(app, _rooms)
register_quality(app, _rooms)
register_towers(app, _rooms)
register_experiment(app, _rooms)


if __name__ == "__main__":
    app()

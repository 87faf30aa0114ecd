"""`python -m improvement replay`: how much personal copies help, on a data set or on the own log."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from improvement.domain import MetricAggregationType, MetricType, SearchIndexInfo, VectorsAdjuster
from improvement.errors import Invalid, StudioError
from improvement.evidence import EvidenceWeights, SkippedItems
from improvement.profiles.settings import ProfileSettings
from improvement.wiring import Rooms

if TYPE_CHECKING:  # brings torch, which other commands do without
    from improvement.evaluation.options import Settings
    from improvement.evaluation.report import Report


class Evidence(StrEnum):
    """Evidence weights that have a name."""

    DEFAULT = "default"
    PUBLISHED = "published"


DatasetPath = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="Folder of a data set; docs/replay.md has its format."),
]
Log = Annotated[bool, typer.Option("--log", help="Use the service's own clickstream.")]
Adjuster = Annotated[
    str | None,
    typer.Option(
        help="geodesic, torch, none, or module:attribute (an adjuster or its class). "
        "Default: geodesic; with --log the domain's own."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting of the adjuster (adjustment_rate=0.3), or of the evidence weights "
        "(evidence.skipped_items=all, evidence.saturation=none), or with --profile of the profiles "
        "(profile.interests=8). Repeatable.",
    ),
]
UseProfile = Annotated[
    bool,
    typer.Option(
        "--profile",
        help="Learn user profiles, too, and rank with copies and profile together; with --adjuster none by "
        "the profile alone. With --log the domain's own profile settings; where their search_weight is 0, "
        "as by default, it is 0.25 unless --set says otherwise.",
    ),
]
EvidenceName = Annotated[
    Evidence | None,
    typer.Option(
        help="Evidence weights to start from. Left out: with --log the domain's own; with --dataset the "
        "default ones, but skipped is what the protocol says, all that was not clicked."
    ),
]
Metric = Annotated[MetricType | None, typer.Option(help="--dataset: how vectors compare (default: cosine).")]
Aggregation = Annotated[
    MetricAggregationType | None,
    typer.Option(help="--dataset: nearest part or mean part (default: min)."),
]
Users = Annotated[
    str | None,
    typer.Option(
        metavar="all|even|odd|N",
        help="--dataset: which users; tune on even, report odd. N: the first N (default: all).",
    ),
]
Days = Annotated[
    float | None,
    typer.Option(
        min=0, max=3650, help="--dataset: days from one session to the next, for decay by age (default: 1)."
    ),
]
DomainName = Annotated[
    str | None, typer.Option(help="--log: search domain; the first configured one if left out.")
]
Limit = Annotated[int | None, typer.Option(min=2, help="--log: newest sessions to read (default: 10000).")]
TestShare = Annotated[
    float | None,
    typer.Option(
        min=0.01, max=0.99, help="--log: share of the sessions, the latest, to test on (default: 0.2)."
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of the bootstrap: another seed, slightly other intervals.")]
JsonOut = Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write the result there, too.")]


def register(app: typer.Typer, connect: Callable[[], AbstractContextManager[Rooms]]) -> None:
    """Add the command to a command line; ``connect`` opens the stores that ``--log`` reads."""

    @app.command()
    def replay(
        dataset: DatasetPath = None,
        log: Log = False,
        adjuster: Adjuster = None,
        settings: Set = None,
        profile: UseProfile = False,
        evidence: EvidenceName = None,
        metric: Metric = None,
        aggregation: Aggregation = None,
        users: Users = None,
        days_between_sessions: Days = None,
        domain: DomainName = None,
        limit: Limit = None,
        test_share: TestShare = None,
        seed: Seed = 0,
        json_out: JsonOut = None,
    ) -> None:
        """Measure how much personal copies and profiles help: ranking with and without.

        With --dataset DIR, users of a data set search, click, and search again.
        With --log, the earlier sessions of your own users teach, and what the
        later ones showed is ranked again. No store is written to.

        Below each mean stands its 95% bootstrap interval over users. Differences
        are paired, to "no learning" where nothing else is said: an interval
        without 0 is a real difference. docs/replay.md explains every number.

        Examples:

          replay --dataset movielens-replay --users even

          replay --dataset movielens-replay --set adjustment_rate=0.3

          replay --dataset movielens-replay --profile --set profile.interests=8

          replay --log --domain documents --set evidence.half_life_days=30

        Exit codes: 0 done, 1 the data cannot be used, 2 wrong usage.
        """
        if (dataset is None) == (not log):
            raise typer.BadParameter("give exactly one of --dataset and --log")
        of_datasets = {
            "--metric": metric, "--aggregation": aggregation, "--users": users,
            "--days-between-sessions": days_between_sessions,
        }  # fmt: skip
        of_logs = {"--domain": domain, "--limit": limit, "--test-share": test_share}
        given = [name for name, value in (of_datasets if log else of_logs).items() if value is not None]
        if given:
            raise typer.BadParameter(f"belongs to --{'dataset' if log else 'log'}", param_hint=given)
        if json_out is not None and not (json_out.parent.is_dir() and os.access(json_out.parent, os.W_OK)):
            raise typer.BadParameter(f"no folder to write to: {json_out.parent}", param_hint="--json")
        with _usage("--set"):
            from improvement.evaluation.options import parse_settings

            wanted = Wanted(adjuster, parse_settings(settings or []), evidence, profile, seed)
            if wanted.settings.profile and not profile:
                raise Invalid(f"profile.{next(iter(wanted.settings.profile))}: needs --profile")
        if dataset is not None:
            with _failures():
                report = on_dataset(
                    dataset, wanted, metric or MetricType.COSINE, aggregation or MetricAggregationType.MIN,
                    users or "all", 1.0 if days_between_sessions is None else days_between_sessions,
                )  # fmt: skip
        else:
            with connect() as rooms, _failures():
                report = on_log(rooms, wanted, domain, limit or 10_000, test_share or 0.2)
        from improvement.evaluation.table import show

        show(report, Console())
        if json_out is not None:
            with _failures():
                json_out.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for, whatever it is run on; settings are still text."""

    adjuster: str | None
    settings: "Settings"
    evidence: Evidence | None
    profile: bool
    seed: int

    def weights(self, default: EvidenceWeights) -> EvidenceWeights:
        """Return the evidence weights asked for; wrong ones are wrong usage."""
        from improvement.evaluation.options import change_evidence

        named = {
            None: default,
            Evidence.DEFAULT: EvidenceWeights(),
            Evidence.PUBLISHED: EvidenceWeights.published(),
        }
        with _usage("--set"):
            return change_evidence(named[self.evidence], self.settings.evidence)

    def profiles(self, default: ProfileSettings) -> ProfileSettings | None:
        """Return the profile settings asked for, None for no profiles; wrong ones are wrong usage."""
        from improvement.evaluation.options import change_profiles

        with _usage("--set"):
            return change_profiles(default, self.settings.profile) if self.profile else None

    def made(self, name: str, info: SearchIndexInfo) -> VectorsAdjuster | None:
        """Return the adjuster of that name, None for "none"; a wrong one is wrong usage."""
        from improvement.evaluation.options import make_adjuster

        with _usage("--adjuster, --set"):
            if name != "none":
                return make_adjuster(name, info, self.settings.adjuster)
            if given := self.settings.adjuster:
                raise Invalid(f"the adjuster 'none' has no settings, got {', '.join(given)}")
            return None


def on_dataset(
    folder: Path,
    wanted: Wanted,
    metric: MetricType,
    aggregation: MetricAggregationType,
    users: str,
    days_between_sessions: float,
) -> "Report":
    """Replay a data set."""
    from improvement.evaluation.dataset import load_dataset

    data = load_dataset(folder)
    name = wanted.adjuster or "geodesic"
    adjuster = wanted.made(name, SearchIndexInfo(data.dimensions, metric, aggregation))
    weights = wanted.weights(EvidenceWeights(skipped_items=SkippedItems.ALL))  # the protocol's skipped
    profiles = wanted.profiles(ProfileSettings())

    import torch

    from improvement.evaluation.learner import Scene
    from improvement.evaluation.replay import choose, compare

    with _usage("--users"):
        runs = len(choose(data.users, users)) * (1 + (adjuster is not None) + (profiles is not None))
    torch.set_num_threads(1)  # one user's batches are too small to share
    with _progress() as progress:
        task = progress.add_task("users, without learning and with", total=runs)
        report = compare(
            Scene.of(data, metric, aggregation), None if adjuster is None else name, adjuster, weights, users,
            profiles=profiles, days_between_sessions=days_between_sessions, seed=wanted.seed,
            progress=lambda: progress.advance(task),
        )  # fmt: skip
    return replace(report, source={"dataset": str(folder)} | dict(report.source))


def on_log(rooms: Rooms, wanted: Wanted, domain: str | None, limit: int, test_share: float) -> "Report":
    """Replay a domain's own log; reads only."""
    if domain is not None and domain not in rooms.domains:
        known = ", ".join(rooms.domains)
        raise typer.BadParameter(f"unknown domain {domain!r}; configured: {known}", param_hint="--domain")
    found = rooms.domains[domain] if domain else rooms.default_domain
    info = found.search_index_info
    adjuster: VectorsAdjuster | None
    if wanted.adjuster is None:
        from improvement.evaluation.options import change_adjuster

        name = type(found.adjuster).__name__
        with _usage("--set"):
            adjuster = change_adjuster(found.adjuster, info, wanted.settings.adjuster)
    else:
        name, adjuster = wanted.adjuster, wanted.made(wanted.adjuster, info)
    weights = wanted.weights(found.evidence)
    profiles = wanted.profiles(found.profiles)

    from improvement.evaluation.log import replay_log

    with _progress() as progress:
        tasks: dict[str, TaskID] = {}

        def advance(what: str, count: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=None)
            progress.advance(tasks[what], count)

        changed = replace(found, adjuster=adjuster or found.adjuster, evidence=weights)
        return replay_log(
            rooms.clickstream, rooms.vectors, rooms.releases.blue(found.name).collection_id,
            changed, method=None if adjuster is None else name, profiles=profiles,
            propensities=rooms.propensities.get(found.name),
            limit=limit, test_share=test_share, seed=wanted.seed, progress=advance,
        )  # fmt: skip


def _progress() -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True)


@contextmanager
def _usage(option: str) -> Iterator[None]:
    """Turn what was refused inside into wrong usage of an option: exit code 2."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


@contextmanager
def _failures() -> Iterator[None]:
    """Turn what goes wrong on purpose inside into one line and exit code 1."""
    try:
        yield
    except (StudioError, ValueError, OSError) as error:
        Console(stderr=True).print(str(error), style="red", markup=False)
        raise typer.Exit(1) from None

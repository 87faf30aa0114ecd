"""Run a build's gate: measure its collection against the one that serves, and store what was found."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from clickstream.improvement_queue import Owner
from improvement.domain import SearchDomain
from improvement.errors import Conflict, NotFound
from improvement.evaluation.dataset import load_dataset
from improvement.evaluation.gate import Measured, reasons, verdict
from improvement.evaluation.gate_report import metrics_json, movers_json, objects_json, overlap_json
from improvement.evaluation.metrics import weighted_mean
from improvement.evaluation.paired_dataset import PairedDataset, pair_dataset
from improvement.evaluation.paired_log import PairedLog, pair_log
from improvement.evaluation.pairs import movers, samples
from improvement.evaluation.report import Row, plain
from improvement.evaluation.side import Side
from improvement.evaluation.whole import Found, Held, find_in_both, hold_both
from improvement.green.builds import Build, BuildState
from improvement.green.reports import GateReport
from improvement.improver import Improver
from improvement.releases import Release

#: Searches in a report that gained most, and that lost most.
MOVERS = 10


def run_gate(
    rooms: Improver,
    build: Build,
    *,
    dataset: Path | None = None,
    seed: int = 0,
    progress: Callable[[str, int], object] = lambda what, count: None,
) -> GateReport:
    """Measure a build's collection against the serving one, and store the report; changes neither.

    The sessions tested on happened after the last one that taught either collection. docs/gate.md says what
    is measured, and how.

    Args:
        dataset: folder of a data set to ask of both, too; see `evaluation.dataset`.
        seed: of the bootstrap: equal seeds find equal intervals.
        progress: called with what was done ("read", "embedded", "judged", "fetched", "searched", "compared")
            and how many more of it.

    Raises:
        NotFound: the build's domain is not configured, or its collection is gone.
        Conflict: the build is not finished, or its collection serves already.
        Invalid: the data set cannot be used.
    """
    domain = _domain(rooms, build)
    blue = rooms.releases.blue(domain.name)
    green = rooms.releases.get(domain.name, build.embedding_model_id)
    if build.state is not BuildState.BUILT:
        raise Conflict(f"build {build.build_id!r} is {build.state}: only one that is built can be tested")
    if green.blue:
        raise Conflict(f"{build.embedding_model_id!r} serves already: there is nothing to test it against")
    data = None if dataset is None else load_dataset(dataset)
    settings, vectors = domain.gate, rooms.vectors
    sides = Side.of(domain, blue), Side.of(domain, green)
    propensities, taught_until = rooms.propensities.get(domain.name), _taught_until(rooms, build, blue)
    log = pair_log(
        rooms.clickstream, vectors, *sides,
        taught_until=taught_until, settings=settings, propensities=propensities, progress=progress,
    )  # fmt: skip
    asked = None if data is None else pair_dataset(data, vectors, *sides, progress)
    found = find_in_both(vectors, *sides, log.queries[: settings.queries], progress)
    held = hold_both(vectors, *sides, same_space=blue.space == green.space, progress=progress)
    before, after = _rows(log, asked, bool(propensities), seed)
    rules = verdict(_measured(log, after, found, held), settings)
    gained, lost = movers(log.pairs, MOVERS)
    shown = {o for one in (*gained, *lost) for o in (*one.before, *one.after)}
    payloads = {hit.object_id: hit.payload for hit in vectors.chosen(blue.collection_id, sorted(shown), None)}
    told = {
        "metrics": metrics_json(before, after),
        "rules": [asdict(rule) for rule in rules],
        "searches": overlap_json(found, seed),
        "objects": objects_json(held, settings.most_drift),
        "movers": {"gained": movers_json(gained, payloads), "lost": movers_json(lost, payloads)},
        "source": {
            "blue": blue.embedding_model_id,
            "green": green.embedding_model_id,
            "spaces": [blue.space, green.space],
            **log.source,
            "dataset": None if asked is None or dataset is None else {"name": dataset.name, **asked.source},
        },
        "thresholds": asdict(settings),
        "seed": seed,
    }
    owners = {
        name: [Owner(domain.name, one.user_id).key for one in of]
        for name, of in (("gained", gained), ("lost", lost))
    }
    report = rooms.reports.save(
        domain.name, build.build_id, green.collection_id, blue.collection_id, reasons(rules), plain(told),
        owners,
    )  # fmt: skip
    return _without_erased(rooms, report, {one.user_id: log.sessions[one.user_id] for one in gained + lost})


def _without_erased(rooms: Improver, report: GateReport, sessions: Mapping[str, str]) -> GateReport:
    """Take out of a report who was erased while it was made; whoever is erased from now on finds it stored.

    Args:
        sessions: by user id, one of their sessions.
    """
    there = {session.session_id for session in rooms.clickstream.sessions(sessions.values())}
    gone = [Owner(report.domain, user).key for user, of_user in sessions.items() if of_user not in there]
    if not gone:
        return report
    rooms.reports.erase(gone)
    return rooms.reports.get(report.report_id)


def _domain(rooms: Improver, build: Build) -> SearchDomain:
    """Return the build's domain, learning as fast as it does now: users have the copies that this makes."""
    if build.domain not in rooms.domains:
        raise NotFound(f"domain {build.domain!r} is not configured")
    return rooms.domains[build.domain].at_rate(rooms.learning.of(build.domain).rate)


def _taught_until(rooms: Improver, build: Build, blue: Release) -> float | None:
    """Return when the last session happened that taught green's population, or blue's."""
    known = [build.taught_until]
    if blue.population and blue.build is not None:
        with suppress(NotFound):  # nobody knows any more what taught it
            known.append(rooms.builds.get(blue.build).taught_until)
    return max((at for at in known if at is not None), default=None)


def _rows(log: PairedLog, asked: PairedDataset | None, propensities: bool, seed: int) -> tuple[Row, Row]:
    """Return blue's means, and green's with their differences to blue's."""
    blue, green = samples(log.pairs, propensities=propensities)
    if asked is not None:
        blue, green = blue | dict(asked.blue), green | dict(asked.green)
    return Row.of("blue", blue, None, seed), Row.of("green", green, blue, seed)


def _measured(log: PairedLog, green: Row, found: Found, held: Held) -> Measured:
    drift = held.drift
    return Measured(
        judged=len(log.pairs),
        differences=green.differences,
        overlap=weighted_mean(found.overlap),
        coverage=found.green / found.blue if found.blue else float("nan"),
        missing=held.missing / held.objects if held.objects else float("nan"),
        drift=None if drift is None else float(drift.max()) if len(drift) else float("nan"),
    )

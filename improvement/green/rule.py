"""May a build serve? The rule of the gate: a passed and fresh report, made against what serves now."""

from improvement.green.reports import GateReport
from improvement.releases import Release

HOUR = 3_600


def reasons_against(
    report: GateReport | None, build_id: str, green: Release, blue: Release, fresh_hours: float, now: float
) -> list[str]:
    """Return why a build may not serve, one sentence each; none if it may.

    Args:
        report: its newest one, or None.
        build_id: which build; of towers the checkpoint.
        green: its collection; ``blue``: the one that serves.
        fresh_hours: hours after which a report is too old.
        now: seconds since 1970.
    """
    if report is None:
        return ["no gate has tested it"]
    against = []
    if not report.passed:
        against.append("its gate did not pass: " + ("; ".join(report.reasons) or "no reason was given"))
    if (report.build, report.green) != (build_id, green.collection_id):
        against.append(f"its gate tested another collection, {report.green!r}")
    if report.blue != blue.collection_id:
        against.append(f"its gate compared it with {report.blue!r}, and {blue.collection_id!r} serves now")
    if not is_fresh(report, fresh_hours, now):
        hours = (now - report.created_at) / HOUR
        against.append(f"its gate ran {hours:.1f} hours ago, and a report is fresh for {fresh_hours:.6g}")
    return against


def is_fresh(report: GateReport, fresh_hours: float, now: float) -> bool:
    """Say whether a report is young enough to promote by.

    One from the future, by a clock that is wrong, would stay fresh for long: it may be no farther off.
    """
    return abs(now - report.created_at) <= fresh_hours * HOUR

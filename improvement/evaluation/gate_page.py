"""A gate's report as one HTML page: nothing is fetched, nothing runs, and every text is escaped."""

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from jinja2 import ChainableUndefined, Environment, select_autoescape

from improvement.evaluation.gate_plots import differences, histogram


def page(report: Mapping[str, Any]) -> str:
    """Return a report, as `GateReport.as_json` gives it, as a page; equal reports give equal pages.

    What a report lacks is left empty, so that older ones can still be shown.
    """
    environment = Environment(
        autoescape=select_autoescape(default_for_string=True, default=True),
        undefined=ChainableUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"number": _number, "moment": _moment}
    template = environment.from_string(files(__package__).joinpath("gate_page.html").read_text("utf-8"))
    return template.render(
        report=report,
        verdict=_verdict(report),
        differences=_differences(report),
        drift=_drift(report),
        facts=list(_facts(report)),
    )


def _verdict(report: Mapping[str, Any]) -> str:
    rules = report.get("rules", ())
    broken = [str(rule["rule"]) for rule in rules if not rule["passed"]]
    if report.get("passed"):
        return f"Green may serve: all {len(rules)} rules hold"
    return f"Green may not serve: {len(broken)} of {len(rules)} rules do not hold ({', '.join(broken)})"


def _differences(report: Mapping[str, Any]) -> str:
    found = report.get("metrics", {}).get("differences", {})
    asked = [rule for rule in report.get("rules", ()) if rule["rule"] in found]
    margins = {rule["rule"]: -rule["threshold"] for rule in asked}
    rows = [{"name": name, "margin": margins.get(name), **one} for name, one in found.items()]
    return differences(rows, "differences of each metric, green - blue, with 95% intervals") if rows else ""


def _drift(report: Mapping[str, Any]) -> str:
    drift = report.get("objects", {}).get("drift")
    if not drift:
        return ""
    limit = report.get("thresholds", {}).get("most_drift")
    shown = float(limit) if isinstance(limit, int | float) and math.isfinite(limit) else None
    return histogram(drift["counts"], drift["edges"], shown, "how many objects moved how far")


def _facts(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for part in ("source", "thresholds"):
        for name, value in report.get(part, {}).items():
            yield name.replace("_", " "), _said(value, name)
    for name in ("seed", "build", "report_id"):
        yield name.replace("_", " "), _said(report.get(name), name)


def _said(value: Any, name: str) -> str:
    if value is not None and name in ("split_at", "taught_until"):
        return _moment(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_said(item, str(key))}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(_said(item, "") for item in value) or "none"
    return value if isinstance(value, str) else _number(value)


def _number(value: Any, digits: int = 4, sign: bool = False) -> str:
    """Show a number shortly; text that stands for one (infinity) as it is, and nothing as a dash.

    >>> _number(12345), _number(0.12345), _number(0.5, 2, True), _number(None), _number("inf")
    ('12,345', '0.1235', '+0.50', '–', 'inf')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–"
    return (
        f"{value:{'+' if sign else ''},}"
        if isinstance(value, int)
        else f"{value:{'+' if sign else ''}.{digits}f}"
    )


def _moment(value: Any) -> str:
    """Show seconds since 1970 as UTC.

    >>> _moment(1_700_000_000.5)
    '2023-11-14 22:13:20 UTC'
    """
    if not isinstance(value, int | float) or not 0 <= value < 1e11:
        return "–"
    return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S} UTC"

"""What a gate found, as JSON can hold it: bounded in size, and without a user in it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from improvement.evaluation.metrics import bootstrap_interval, weighted_mean
from improvement.evaluation.pairs import SEEN, Pair
from improvement.evaluation.report import Estimate, Row
from improvement.evaluation.whole import Found, Held

#: Characters kept of an id or a title, and of a query, whatever strangers made of them.
SHORT, QUERY = 64, 200
#: Bars of the histogram of drift.
BARS = 20


def metrics_json(blue: Row, green: Row) -> dict[str, Any]:
    """Return the means of both sides and the paired differences, metric by metric, with their intervals."""

    def of(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
        return {name: asdict(estimate) for name, estimate in estimates.items()}

    return {"blue": of(blue.metrics), "green": of(green.metrics), "differences": of(green.differences)}


def overlap_json(found: Found, seed: int) -> dict[str, Any]:
    """Return what the same searches found in both collections."""
    low, high = bootstrap_interval(found.overlap, seed=seed)
    return {
        "queries": len(found.overlap),
        "overlap@10": asdict(Estimate(weighted_mean(found.overlap), low, high, len(found.overlap))),
        "found_in_blue": found.blue,
        "found_in_green": found.green,
    }


def objects_json(held: Held, most_drift: float) -> dict[str, Any]:
    """Return how green holds blue's objects; the histogram of drift reaches to what is allowed at least."""
    told: dict[str, Any] = {
        "objects": held.objects,
        "missing": held.missing,
        "missing_examples": [_cut(object_id, SHORT) for object_id in held.examples],
        "drift": None,
    }
    if held.drift is not None and len(held.drift):
        finite = held.drift[np.isfinite(held.drift)]
        most = max([float(finite.max(initial=0.0)), *([most_drift] if np.isfinite(most_drift) else [])])
        counts, edges = np.histogram(finite, BARS, (0.0, most or 1.0))
        told["drift"] = {
            "mean": float(held.drift.mean()),
            "p95": float(np.quantile(held.drift, 0.95, method="lower")),
            "max": float(held.drift.max()),
            "counts": counts.tolist(),
            "edges": edges.tolist(),
        }
    return told


def movers_json(pairs: Sequence[Pair], payloads: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return searches with the first ten of what they showed, in blue's and in green's order.

    Args:
        payloads: by object id; a text in its ``title`` or ``name`` is shown.
    """

    def listed(one: Pair, order: Sequence[str]) -> list[dict[str, Any]]:
        return [
            {
                "object_id": _cut(o, SHORT),
                "title": _title(payloads.get(o, {})),
                "clicked": o in one.clicked,
            }
            for o in order
        ]

    return [
        {
            "query": _cut(one.query, QUERY),
            "personal": one.copies or one.profile,
            "ndcg_before": one.blue[SEEN][0],
            "ndcg_after": one.green[SEEN][0],
            "change": one.change,
            "before": listed(one, one.before),
            "after": listed(one, one.after),
        }
        for one in pairs
    ]


def _title(payload: Mapping[str, Any]) -> str | None:
    found = next((payload[name] for name in ("title", "name") if isinstance(payload.get(name), str)), None)
    return None if found is None else _cut(found, SHORT)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"

"""What each evidence weight is good for: replays with users as they are, each switch on and off.

The data set's own users are perfect: they look at everything, and click all and only what is relevant. Here
they also look at high places first, click by accident, dislike, or search for somebody else at first.
Differences are paired, with 95% bootstrap intervals over users.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from report import JsonOut, Strict, finish, machine, progress, table

from improvement.adjusters.geodesic import GeodesicAdjuster
from improvement.evaluation.behaviour import Behaviour
from improvement.evaluation.dataset import load_dataset
from improvement.evaluation.learner import HELDOUT_NDCG, REFIND_NDCG, TOPICAL, Scene
from improvement.evaluation.replay import choose, replay
from improvement.evaluation.report import Row
from improvement.evidence import EVENT_WEIGHTS, EvidenceWeights, SkippedItems

PROTOCOL = EvidenceWeights(skipped_items=SkippedItems.ALL)
NO_DISLIKES = {event: weight for event, weight in EVENT_WEIGHTS.items() if weight > 0}

#: Scenario -> the users' behaviour, and name -> weights; the first one is what the others are compared to.
SCENARIOS: Mapping[str, tuple[Behaviour, Mapping[str, EvidenceWeights]]] = {
    "perfect users": (
        Behaviour(),
        {
            "all that was not clicked is skipped": PROTOCOL,
            "examined only": EvidenceWeights(),
            "skipped off": replace(PROTOCOL, skipped=0.0),
            "per_session off": replace(PROTOCOL, per_session=False),
            "per_session off, skipped -0.2": replace(PROTOCOL, per_session=False, skipped=-0.2),
            "tanh off (saturation none)": replace(PROTOCOL, saturation=None),
        },
    ),
    "place k is looked at with 1/k": (
        Behaviour(position_bias=1.0),
        {
            "all skipped, no propensities": PROTOCOL,
            "all skipped, clip 3": replace(PROTOCOL, max_inverse_propensity=3.0),
            "all skipped, clip 10": replace(PROTOCOL, max_inverse_propensity=10.0),
            "examined only, no propensities": EvidenceWeights(),
            "examined only, clip 3": EvidenceWeights(max_inverse_propensity=3.0),
            "examined only, clip 10": EvidenceWeights(max_inverse_propensity=10.0),
        },
    ),
    "1 in 10 irrelevant clicked by accident": (
        Behaviour(accidents=0.1),
        {
            "dwell off": replace(PROTOCOL, long_dwell=0.0, short_dwell=0.0),
            "dwell on": PROTOCOL,
            "dwell on, short -1": replace(PROTOCOL, short_dwell=-1.0),
        },
    ),
    "1 in 5 irrelevant marked not_interested": (
        Behaviour(dislikes=0.2),
        {"dislikes off": replace(PROTOCOL, events=NO_DISLIKES), "dislikes on": PROTOCOL},
    ),
    "first half searched for somebody else": (
        Behaviour(misleading_sessions=0.5),
        {
            "decay off": PROTOCOL,
            "half-life 10 sessions": replace(PROTOCOL, half_life_days=10.0),
            "half-life 3 sessions": replace(PROTOCOL, half_life_days=3.0),
            "half-life 1 session": replace(PROTOCOL, half_life_days=1.0),
        },
    ),
    "perfect users, decay": (
        Behaviour(),
        {"decay off": PROTOCOL, "half-life 10 sessions": replace(PROTOCOL, half_life_days=10.0)},
    ),
}


def main(
    dataset: Annotated[Path, typer.Option(help="Folder of a replay data set.")],
    users: Annotated[str, typer.Option(help="all, even, odd or a number.")] = "all",
    json_out: JsonOut = None,
    strict: Strict = False,
) -> None:
    """Replay every scenario with every choice of weights."""
    torch.set_num_threads(1)
    facts = machine()
    scene = Scene.of(load_dataset(dataset))
    chosen = choose(scene.dataset.users, users)
    adjuster = GeodesicAdjuster(scene.info)
    result: dict[str, dict[str, object]] = {}
    lines = []
    with progress() as bar:
        task = bar.add_task("replays", total=len(chosen) * sum(len(each) for _, each in SCENARIOS.values()))
        for scenario, (behaviour, choices) in SCENARIOS.items():
            lines.append((f"[bold]{scenario}[/]", "", "", "", "", ""))
            first = None
            for name, weights in choices.items():
                run = replay(
                    scene, adjuster, weights, chosen, behaviour=behaviour, progress=lambda: bar.advance(task)
                )
                row = Row.of(name, run.samples, first, 0)
                first = first or run.samples
                mean = {metric: found.mean for metric, found in row.metrics.items()}
                change = row.differences.get(HELDOUT_NDCG)
                lines.append(
                    (
                        f"  {name}",
                        *(f"{mean[m]:.4f}" for m in (HELDOUT_NDCG, TOPICAL, REFIND_NDCG, "drift")),
                        f"{change.mean:+.4f} ({change.low:+.4f}..{change.high:+.4f})" if change else "",
                    )
                )
                result.setdefault(scenario, {})[name] = mean
    columns = [
        "evidence",
        "heldout nDCG",
        "topical",
        "refind nDCG",
        "drift",
        "heldout, difference to the first",
    ]
    finish("evidence", facts, [table(f"{dataset.name}, {len(chosen)} users", columns, lines)],
           {"rows": result}, [], json_out, strict)  # fmt: skip


if __name__ == "__main__":
    typer.run(main)

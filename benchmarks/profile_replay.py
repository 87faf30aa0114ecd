"""What profiles are good for: a replay with copies, with profiles, and with both.

Copies know what a user was shown, profiles generalise to the rest: see the unseen column. Differences to the
copies alone are paired, with 95% bootstrap intervals over users. How profiles are made and used is what
`python -m improvement replay --profile` does by default.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from report import Goal, JsonOut, Strict, finish, machine, progress, table

from improvement.adjusters.geodesic import GeodesicAdjuster
from improvement.evaluation.dataset import load_dataset
from improvement.evaluation.learner import HELDOUT_NDCG, REFIND_NDCG, TOPICAL, UNSEEN_NDCG, Scene
from improvement.evaluation.options import change_profiles
from improvement.evaluation.replay import choose, replay
from improvement.evaluation.report import NO_LEARNING, Estimate, Report, Row, Sample, settings_of
from improvement.evidence import EvidenceWeights, SkippedItems
from improvement.profiles.settings import ProfileSettings

PROTOCOL = EvidenceWeights(skipped_items=SkippedItems.ALL)
PROFILES = change_profiles(ProfileSettings(), {})
METRICS = (HELDOUT_NDCG, TOPICAL, UNSEEN_NDCG, REFIND_NDCG)


@dataclass(frozen=True)
class Way:
    """One way to learn: whether copies are made, how profiles are, and what a session says."""

    copies: bool = True
    profiles: ProfileSettings | None = None
    evidence: EvidenceWeights = PROTOCOL


COPIES, BOTH = "copies", "copies + profile"
WAYS: Mapping[str, Way] = {
    NO_LEARNING: Way(copies=False),
    COPIES: Way(),
    "profile": Way(copies=False, profiles=PROFILES),
    BOTH: Way(profiles=PROFILES),
    "+ 4 interests": Way(profiles=replace(PROFILES, interests=4)),
    "+ 8 interests": Way(profiles=replace(PROFILES, interests=8)),
    "copies, EXAMINED": Way(evidence=EvidenceWeights()),
    "+ profile, EXAMINED": Way(profiles=PROFILES, evidence=EvidenceWeights()),
}
#: The least that copies and profile together are worth on movielens-replay.
BARS: Mapping[str, float] = {HELDOUT_NDCG: 0.110, TOPICAL: 0.60, UNSEEN_NDCG: 0.048}


def main(
    dataset: Annotated[Path, typer.Option(help="Folder of a replay data set.")],
    users: Annotated[str, typer.Option(help="all, even, odd or a number.")] = "all",
    json_out: JsonOut = None,
    strict: Strict = False,
) -> None:
    """Replay every way to learn."""
    torch.set_num_threads(1)
    facts = machine()
    scene = Scene.of(load_dataset(dataset))
    chosen = choose(scene.dataset.users, users)
    adjuster = GeodesicAdjuster(scene.info)
    rows: dict[str, Row] = {}
    samples: dict[str, Mapping[str, Sample]] = {}
    with progress() as bar:
        task = bar.add_task("users, each way to learn", total=len(chosen) * len(WAYS))
        for name, way in WAYS.items():
            run = replay(
                scene, adjuster if way.copies else None, way.evidence, chosen,
                profiles=way.profiles, progress=lambda: bar.advance(task),
            )  # fmt: skip
            rows[name] = Row.of(
                name, run.samples, samples.get(NO_LEARNING), 0, settings_of(way), {"profiles": run.profiles},
                {COPIES: samples[COPIES]} if COPIES in samples else None,
            )  # fmt: skip
            samples[name] = run.samples
    columns = ["way to learn", "heldout nDCG", "topical", "unseen nDCG", "refind nDCG"]
    means = [
        (name, *(f"{row.metrics[metric].mean:.4f}" for metric in METRICS), row.facts["profiles"])
        for name, row in rows.items()
    ]
    changes = [
        (name, *(_interval(row.versus[COPIES][metric]) for metric in METRICS))
        for name, row in rows.items()
        if COPIES in row.versus
    ]
    tables = [
        table(f"{dataset.name}, {len(chosen)} users", [*columns, "users with profile"], means),
        table("difference to copies alone", columns, changes),
    ]
    source = {"dataset": dataset.name, "users": len(chosen), "users_chosen": users}
    result = Report(source, list(rows.values())).as_json()
    finish("profile_replay", facts, tables, result, _goals(rows[BOTH]), json_out, strict)


def _goals(both: Row) -> list[Goal]:
    goals = [
        Goal(f"{BOTH}: {name} >= {bar:.3f}", f"{both.metrics[name].mean:.4f}", both.metrics[name].mean >= bar)
        for name, bar in BARS.items()
    ]
    again = both.versus[COPIES][REFIND_NDCG]
    kept = not again.high < 0
    return [*goals, Goal(f"{BOTH}: {REFIND_NDCG} not below {COPIES}", _interval(again, " "), kept)]


def _interval(found: Estimate, between: str = "\n") -> str:
    return f"{found.mean:+.4f}{between}{found.low:+.4f}..{found.high:+.4f}"


if __name__ == "__main__":
    typer.run(main)

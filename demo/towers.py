"""The demo's third part: two towers, learned from what everybody clicked, gated, promoted, rolled back."""

import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from demo.api import Api, ids
from demo.judging import JUDGED
from demo.show import Show

#: Seconds that training, publishing and the gate may take.
PATIENCE = 180
#: What the gate compares: of what members of the team engaged with next, in the first 20 and the first 10.
COMPARED = ("recall@20", "ndcg@10")


@dataclass(frozen=True)
class Learned:
    """What the two towers learned.

    Attributes:
        checkpoints: how many there were, and how many engagements the newest had learned from.
        gate: what its report says: untrained towers against trained ones.
        sources: what recommendations are made from: for a member of the team, and for a newcomer.
        relevant: how many of the first ten for the member are relevant to their work; they clicked none.
        first: what is recommended to the member first.
        serving: the checkpoint that served at first, promoted, and rolled back.
    """

    checkpoints: int
    engagements: int
    gate: Mapping[str, Any]
    sources: Mapping[str, str]
    relevant: int
    first: tuple[str, ...]
    serving: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return what the report and ``--json`` show."""
        return asdict(self)

    def checks(self) -> dict[str, bool]:
        """Return what must hold."""
        different = self.gate["differences"]
        return {
            "the gate let the trained towers pass": bool(self.gate["passed"]),
            "trained, they find more of what members clicked next": all(
                different[metric]["low"] > 0 for metric in COMPARED
            ),
            "who clicked much gets the towers' recommendations, a newcomer what is popular": self.sources
            == {"member": "two_tower", "newcomer": "popularity"},
            "items and model were promoted and rolled back together": self.serving["before"]
            == self.serving["rolled back"]
            != self.serving["promoted"],
        }


def learn(show: Show, api: Api, member: str, mine: Collection[str], newcomer: str) -> Learned:
    """Publish what the towers learned while everybody clicked, see it gated and promoted, and roll it back.

    Args:
        mine: the objects that are relevant to the member.
    """
    before = serving(api)
    api.call("POST", "/internal/towers/publish", {})
    status = await_promotion(show, api, before)
    gate = api.call("GET", f"/internal/towers/report?checkpoint={status['serving']['checkpoint_id']}")
    promoted = serving(api)
    answers = {
        who: api.call("POST", "/recommend", {"user_id": user_id, "limit": JUDGED, "model": "two_tower"})
        for who, user_id in (("member", member), ("newcomer", newcomer))
    }
    api.call("POST", "/internal/towers/rollback", {"by": "demo", "why": "to show it"})
    checkpoints = api.call("GET", "/internal/towers/checkpoints")["checkpoints"]
    found = ids(answers["member"]["search_results"])
    return Learned(
        checkpoints=len(checkpoints),
        engagements=max(one["engagements"] for one in checkpoints),
        gate={
            "passed": gate["passed"],
            "reasons": gate["reasons"],
            "users": gate["source"]["users_with_enough"],
            **{side: {metric: gate["metrics"][side][metric] for metric in COMPARED}
               for side in ("blue", "green", "differences")},
        },
        sources={who: answer["meta"]["source"] for who, answer in answers.items()},
        relevant=sum(object_id in mine for object_id in found),
        first=tuple(found[:3]),
        serving={"before": before, "promoted": promoted, "rolled back": serving(api)},
    )  # fmt: skip


def serving(api: Api) -> str:
    """Return the id of the checkpoint whose items and model serve."""
    return str(api.call("GET", "/internal/towers/status")["serving"]["checkpoint_id"])


def await_promotion(show: Show, api: Api, before: str) -> Mapping[str, Any]:
    """Wait until a worker published the newest checkpoint, gated it, and had it serve; or could not."""
    deadline = time.monotonic() + PATIENCE
    with show.phase("two towers: publish, gate", 1) as bar:
        while True:
            status: Mapping[str, Any] = api.call("GET", "/internal/towers/status")
            if status["serving"]["checkpoint_id"] != before:
                bar.advance(bar.task_ids[0])
                return status
            gate = (status["waiting"] or {}).get("gate")
            if gate and not gate["passed"]:
                raise SystemExit(f"the gate of the towers: {'; '.join(gate['reasons'])}")
            if time.monotonic() > deadline:
                raise SystemExit(f"no trained towers serve after {PATIENCE} s: {status}")
            time.sleep(0.2)


def towers_table(towers: Mapping[str, Any]) -> Table:
    """Return what the towers find of what members of the team clicked next."""
    gate = towers["gate"]
    table = Table(
        title=f"two towers: what {gate['users']} people clicked next, without a query\n"
        f"({towers['engagements']} engagements taught the trained ones; later ones test both)"
    )
    for title in ("", "untrained", "trained", "difference, 95%"):
        table.add_column(title, justify="right" if title else "left")
    for metric in COMPARED:
        change = gate["differences"][metric]
        table.add_row(
            metric, f"{gate['blue'][metric]['mean']:.3f}", f"{gate['green'][metric]['mean']:.3f}",
            f"{change['low']:+.3f} to {change['high']:+.3f}",
        )  # fmt: skip
    return table

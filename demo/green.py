"""The demo's second half: what a whole team chose, shipped to somebody who never clicked anything."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from demo.api import Api, ids
from demo.corpus import StdlibObject
from demo.judging import JUDGED, Relevant, judge, view
from demo.show import Show
from demo.users import TEAM, TOPICS, Person, clicked, colleagues, relevant_objects, visits

#: Members of the team, sessions of each, and results shown in one.
MEMBERS, SESSIONS, SHOWN = 40, 20, 20
#: Seconds a build, a gate, or the worker may take.
PATIENCE = 180


@dataclass(frozen=True)
class Shipped:
    """What happened to a green build.

    Attributes:
        build: its state at the end; ``gate``: what its report says.
        newcomer: held-out nDCG@10 of a new member of the team: before, promoted, rolled back.
        personal: mean held-out nDCG@10 of the four users with their own copies, likewise.
        same_view: whether a new user sees exactly after the rollback what they saw before the promotion.
        releases: which collection was blue before, promoted and rolled back.
        member: one of the team, and what is relevant to their work.
    """

    build: Mapping[str, Any]
    gate: Mapping[str, Any]
    newcomer: Mapping[str, float]
    personal: Mapping[str, float]
    same_view: bool
    releases: Mapping[str, str]
    member: tuple[str, frozenset[str]]

    def as_json(self) -> dict[str, Any]:
        """Return what the report and ``--json`` show."""
        return {name: value for name, value in asdict(self).items() if name != "member"}

    def checks(self) -> dict[str, bool]:
        """Return what must hold."""
        blue = self.releases
        return {
            "the gate let the green collection pass": bool(self.gate["passed"]),
            "promoted, a new member of the team finds more": self.newcomer["promoted"]
            > self.newcomer["before"],
            "the promotion and the rollback took effect": blue["before"]
            == blue["rolled back"]
            != blue["promoted"],
            "after the rollback everybody sees what they saw before": self.same_view
            and self.personal["rolled back"] == self.personal["before"],
        }


def ship(
    show: Show, api: Api, objects: Sequence[StdlibObject], relevant: Relevant, newcomer: str, seed: int
) -> Shipped:
    """Have a team click, build a green collection of what it chose, gate it, promote it, and roll back."""
    members = colleagues(MEMBERS, random.Random(f"{seed}/team"))
    team = relevant_objects(objects, (*members, Person(newcomer, TEAM.works_with)))
    play(show, api, {m.user_id: team[m.user_id] for m in members}, seed)
    mine = {newcomer: team[newcomer]}

    def judged(when: str) -> tuple[float, float]:
        return (
            judge(show, api, f"a new member: {when}", mine)["mean"],
            judge(show, api, f"the four users: {when}", relevant)["mean"],
        )

    first, seen = api.blue(), view(show, api, "what a new user sees", newcomer)
    scores = {"before": judged("before")}
    build = api.call("POST", "/internal/green/build", {"population": True, "by": "demo"})
    build = follow(
        show, api, "build a green collection", build["build_id"], lambda now: now["state"] == "built"
    )
    api.call("POST", "/internal/green/gate", {"build_id": build["build_id"]})
    follow(show, api, "gate: replay on green and blue", build["build_id"], lambda now: not now["gate_asked"])
    gate = api.call("GET", f"/internal/green/report?build_id={build['build_id']}")
    if gate["passed"]:
        api.call("POST", "/internal/green/promote", {"build_id": build["build_id"], "by": "demo"})
    promoted = api.blue()
    settle(show, api, "promoted")
    scores["promoted"] = judged("promoted")
    if gate["passed"]:
        api.call("POST", "/internal/green/rollback", {"by": "demo", "why": "to show it"})
    settle(show, api, "rolled back")
    scores["rolled back"] = judged("rolled back")
    return Shipped(
        build={name: build[name] for name in ("embedding_model_id", "learned", "turned", "failed", "state")},
        gate={"passed": gate["passed"], "reasons": gate["reasons"], "rules": gate["rules"]},
        newcomer={when: round(score, 4) for when, (score, _) in scores.items()},
        personal={when: round(score, 4) for when, (_, score) in scores.items()},
        same_view=view(show, api, "what a new user sees again", newcomer) == seen,
        releases={"before": first, "promoted": promoted, "rolled back": api.blue()},
        member=(members[0].user_id, frozenset().union(*team[members[0].user_id].values())),
    )


def play(show: Show, api: Api, team: Relevant, seed: int) -> None:
    """Play the sessions of a team; nobody queues them, so they make no copies: only the population learns."""
    with show.phase("a team searches and clicks", SESSIONS * len(team)) as bar:
        for number in range(SESSIONS):
            for user_id, topics in team.items():
                means = {query: topics[t.name] for t in TOPICS if t.name in topics for query in t.asked}
                query = visits(list(means), SESSIONS, random.Random(f"{seed}/{user_id}"))[number]
                session_id = f"{user_id}/{number + 1}"
                shown = ids(api.search(query, user_id, SHOWN, session_id))
                api.click(session_id, clicked(shown, means[query], random.Random(f"{seed}/{session_id}")))
                bar.advance(bar.task_ids[0])


def follow(
    show: Show, api: Api, name: str, build_id: str, ended: Callable[[Mapping[str, Any]], bool]
) -> Mapping[str, Any]:
    """Show how a build gets on until it is where it should be."""
    deadline = time.monotonic() + PATIENCE
    with show.phase(name, 1) as bar:
        while True:
            now: Mapping[str, Any] = api.call("GET", f"/internal/green/status?build_id={build_id}")
            if ended(now):
                bar.update(bar.task_ids[0], total=1, completed=1, description=name)
                return now
            if now["state"] == "failed" or time.monotonic() > deadline:
                raise SystemExit(f"{name}: {now['state']} {now['reason'] or ''} after {PATIENCE} s at most")
            stage = f"{name}: {now['stage']}" if now["state"] == "building" else name
            bar.update(bar.task_ids[0], total=now["total"] or 1, completed=now["done"], description=stage)
            time.sleep(0.2)


def settle(show: Show, api: Api, when: str) -> None:
    """Wait until the improvement queue is empty."""
    deadline = time.monotonic() + PATIENCE
    with show.phase(f"{when}: copies follow", 1) as bar:
        while pending := api.queue()["pending"]:
            if time.monotonic() > deadline:
                raise SystemExit(f"{when}: {pending} users still pending after {PATIENCE} s")
            time.sleep(0.1)
        bar.advance(bar.task_ids[0])


def ship_table(green: Mapping[str, Any]) -> Table:
    """Return what the team's choices did for somebody who made none."""
    build = green["build"]
    table = Table(
        title=f"held-out nDCG@{JUDGED} with a green collection of what the team chose\n"
        f"({build['learned']} sessions moved {build['turned']} objects)"
    )
    for title in ("", "blue", "green, promoted", "rolled back"):
        table.add_column(title, justify="right" if title else "left")
    for who, scores in (
        ("a new member of the team, no clicks", green["newcomer"]),
        ("the four users, with their copies", green["personal"]),
    ):
        table.add_row(who, *(f"{scores[when]:.3f}" for when in ("before", "promoted", "rolled back")))
    return table

"""What an operator sees of a domain's towers, and how they name a checkpoint; loads no torch."""

from dataclasses import asdict
from typing import Any

from improvement.domain import SearchDomain
from improvement.errors import Conflict, Invalid, NotFound
from improvement.evaluation.report import plain
from improvement.green.rule import HOUR, is_fresh
from improvement.improver import Improver
from improvement.two_tower.checkpoints import Checkpoint
from improvement.two_tower.curve import learning_curve
from improvement.two_tower.lineage import STOPPED
from improvement.two_tower.names import towers_name
from improvement.two_tower.switching import against_serving, candidate, newest_report

#: Promotions that are shown.
LATEST = 5


def with_towers(domain: SearchDomain) -> SearchDomain:
    """Return a domain that has towers; raises Conflict for one that has none."""
    if domain.towers is None:
        raise Conflict(
            f"domain {domain.name!r} has no towers: give it `towers=TowerSettings()` in its plugin, and "
            "restart the service and its workers"
        )
    return domain


def find_checkpoint(rooms: Improver, domain: SearchDomain, checkpoint_id: str | None) -> Checkpoint:
    """Return a checkpoint by its id, or what that begins with; the one that waits to serve if none is named.

    Raises:
        NotFound: the domain has no such checkpoint.
        Invalid: several begin like this.
        Conflict: none is named, and none waits.
    """
    if checkpoint_id is None:
        green = candidate(rooms, domain)
        if green is None:
            raise Conflict(f"no published checkpoint of domain {domain.name!r} waits; run `towers publish`")
        return rooms.checkpoints.get(green.space)
    known = rooms.checkpoints.list(domain.name)
    found = [one for one in known if one.checkpoint_id.startswith(checkpoint_id)] if checkpoint_id else []
    if not found:
        raise NotFound(
            f"domain {domain.name!r} has no checkpoint {checkpoint_id!r}; see `towers checkpoints`"
        )
    if len(found) > 1:
        raise Invalid(f"checkpoint: {len(found)} begin with {checkpoint_id!r}; say more of it")
    return found[0]


def tower_state(rooms: Improver, domain: SearchDomain) -> dict[str, Any]:
    """Return all there is to see of a domain's towers, as JSON: what serves, what waits, how training is."""
    assert domain.towers is not None
    name, now = towers_name(domain.name), rooms.training.clock()
    serving, training = rooms.towers.serving(domain.name), rooms.training.of(domain.name)
    green = candidate(rooms, domain) if serving is not None else None
    learning = [rooms.learning.of(one) for one in (domain.name, name)]
    every = domain.towers.candidate_every
    return {
        "domain": domain.name,
        "serving": None if serving is None else {
            **_described(rooms, serving.checkpoint_id),
            "collection_id": serving.collection_id,
            "objects": rooms.vectors.count(serving.collection_id, None),
        },
        "newest": _described(rooms, training.head) if training.head else None,
        "waiting": None if green is None else _waiting(rooms, domain, green.space, green.index_created),
        "training": {
            "batch": training.batch,
            "batches": training.batches,
            "engagements_waiting": rooms.pairs.unclaimed(domain.name, every),
            "candidate_every": every,
            "users_at": training.users_at or None,
            "reason": training.reason,
        },
        "publishing": {
            "asked": training.publish_asked,
            "published_at": training.published_at or None,
            "due_in_seconds": max(0.0, training.published_at + domain.towers.publish_hours * HOUR - now),
            "auto_promote": domain.towers.auto_promote,
        },
        "learning": {
            "frozen": any(one.frozen for one in learning),
            "rate": learning[0].rate * learning[1].rate,
            "by": next((one.by for one in learning if one.frozen), ""),
            "why": next((one.why for one in learning if one.frozen), ""),
        },
        "promotions": [one.as_json() for one in rooms.releases.history(name, LATEST)],
    }  # fmt: skip


def checkpoint_rows(rooms: Improver, domain: SearchDomain) -> list[dict[str, Any]]:
    """Return a domain's checkpoints as JSON, the newest first, and which serves, or has a collection."""
    serving, head = rooms.towers.serving(domain.name), rooms.training.of(domain.name).head
    published = {one.space: one for one in rooms.releases.list(towers_name(domain.name))}
    return [
        checkpoint_json(one)
        | {
            "serves": serving is not None and serving.checkpoint_id == one.checkpoint_id,
            "follows": one.checkpoint_id in published and published[one.checkpoint_id].follows,
            "newest": one.checkpoint_id == head,
        }
        for one in rooms.checkpoints.list(domain.name)
    ]


def checkpoint_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what the API shows of a checkpoint."""
    shown: dict[str, Any] = plain(asdict(checkpoint))
    return shown


def curve_of(rooms: Improver, domain: SearchDomain) -> bytes:
    """Draw a domain's learning curve as PNG: what served is marked, and where training stopped."""
    served = {one.build for one in rooms.releases.history(towers_name(domain.name)) if one.build}
    told = [one.alert for one in rooms.alerts.list(domain.name) if one.alert.kind == STOPPED]
    stopped = {str(alert.facts.get("checkpoint")) for alert in told}
    return learning_curve(rooms.checkpoints.list(domain.name), promoted=served, stopped=stopped)


def _described(rooms: Improver, checkpoint_id: str) -> dict[str, Any]:
    try:
        return checkpoint_json(rooms.towers.checkpoint(checkpoint_id))
    except NotFound:  # its collection goes on serving items; users' vectors cannot be made
        return {"checkpoint_id": checkpoint_id, "missing": True}


def _waiting(rooms: Improver, domain: SearchDomain, checkpoint_id: str, complete: bool) -> dict[str, Any]:
    report, gate = newest_report(rooms, checkpoint_id), None
    if report is not None:
        now = rooms.releases.promotions.clock()
        gate = {
            "report_id": report.report_id, "passed": report.passed, "reasons": list(report.reasons),
            "age_seconds": now - report.created_at, "fresh": is_fresh(report, domain.gate.fresh_hours, now),
        }  # fmt: skip
    return {
        **_described(rooms, checkpoint_id),
        "complete": complete,
        "gate": gate,
        "against": against_serving(rooms, domain, checkpoint_id, report),
    }

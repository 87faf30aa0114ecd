"""HTTP for what operators watch: alerts, audits, promotions, and the brake on learning; routes only."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import FiniteFloat

from improvement.green_routes import Who, Why
from improvement.quality.audit import audit
from improvement.quality.healing import HEALED, go_on, restore
from improvement.routes import chosen
from improvement.schemas import DomainName, DomainRef
from improvement.two_tower.audit import audit_name, look
from improvement.two_tower.healing import HEALED as TOWERS_HEALED
from improvement.two_tower.healing import go_on_towers
from improvement.wiring import Rooms, improver

Limit = Annotated[int, Query(ge=1, le=1_000)]


class Said(DomainRef):
    """Who wants it, and why; both are recorded."""

    by: Who
    why: Why


class Audited(DomainRef):
    """``towers``: audit the domain's two towers instead of what else it learns."""

    towers: bool = False


class Freeze(Said):
    """``towers``: of the domain its two towers alone."""

    towers: bool = False


class Resume(Freeze):
    """``rate``: share of the domain's own learning rates, 0..1; left out, it stays as it was."""

    rate: FiniteFloat | None = None


def quality_router(rooms: Rooms) -> APIRouter:
    """Return the routes for alerts, audits, promotions and learning (role operator)."""
    router = APIRouter(prefix="/internal", tags=["quality"])
    worker = improver(rooms)

    @router.get("/alerts")
    def alerts(domain: DomainName | None = None, over: bool = False) -> dict[str, Any]:
        """List what is not over, or with ``over`` every kind of alert that was ever told."""
        name = None if domain is None else chosen(rooms.domains, domain).name
        told = rooms.alerts.list(name) if over else rooms.alerts.open(name)
        return {"alerts": [one.as_json() for one in told]}

    @router.get("/audit")
    def audits(domain: DomainName | None = None, limit: Limit = 30, towers: bool = False) -> dict[str, Any]:
        """Return a domain's audits, or those of its two towers, the newest first."""
        found = chosen(rooms.domains, domain)
        name = audit_name(found) if towers else found.name
        return {"domain": name, "audits": [one.as_json() for one in rooms.audits.list(name, limit)]}

    @router.post("/audit")
    def audit_now(body: Audited) -> dict[str, Any]:
        """Audit a domain now, and act upon what it finds as the daily audit does.

        Of its two towers the vital signs; what is to be done about them, a worker does.
        """
        domain = chosen(rooms.domains, body.domain)
        if not body.towers:
            return audit(worker, domain, worker.clock()).as_json()
        return look(worker, domain, worker.clock(), acting=False).as_json()

    @router.get("/promotions")
    def promotions(domain: DomainName | None = None, limit: Limit = 30) -> dict[str, Any]:
        """Return who made what blue, when and why, the newest first; with what its watch found."""
        name = chosen(rooms.domains, domain).name
        history = rooms.releases.history(name, limit)
        return {"domain": name, "promotions": [one.as_json() for one in history]}

    @router.get("/learning")
    def learning(domain: DomainName | None = None, towers: bool = False) -> dict[str, Any]:
        """Say whether a domain, or its two towers alone, learns, how fast, and who said so."""
        found = chosen(rooms.domains, domain)
        return rooms.learning.of(audit_name(found) if towers else found.name).as_json()

    @router.post("/learning/freeze")
    def freeze(body: Freeze) -> dict[str, Any]:
        """Stop learning: what is logged and queued waits."""
        domain = chosen(rooms.domains, body.domain)
        name = audit_name(domain) if body.towers else domain.name
        frozen = rooms.learning.freeze(name, body.by, body.why)
        rooms.alerts.over(domain.name, TOWERS_HEALED if body.towers else HEALED)
        return frozen.as_json()

    @router.post("/learning/resume")
    def resume(body: Resume) -> dict[str, Any]:
        """Learn again, with this share of the domain's own rates."""
        domain = chosen(rooms.domains, body.domain)
        if not body.towers:
            return go_on(rooms, domain, body.by, body.why, body.rate).as_json()
        audit_name(domain)
        return go_on_towers(rooms, domain, body.by, body.why, body.rate).as_json()

    @router.post("/learning/restore")
    def restore_release(body: Said) -> dict[str, Any]:
        """Roll back to the last good collection, if need be, and have copies and profiles made anew."""
        domain = chosen(rooms.domains, body.domain)
        return restore(worker, domain, body.by, body.why).as_json()

    return router

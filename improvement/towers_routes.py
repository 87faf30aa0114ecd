"""HTTP for a domain's two towers: watch, publish, gate, promote, revert (role operator); routes only."""

from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import Field

from improvement.background import tower_sender
from improvement.domain import SearchDomain
from improvement.errors import Conflict
from improvement.green_routes import Order, Who, Why
from improvement.routes import chosen
from improvement.schemas import DomainName
from improvement.two_tower.overview import (
    checkpoint_rows,
    curve_of,
    find_checkpoint,
    tower_state,
    with_towers,
)
from improvement.two_tower.switching import promote_towers, rollback_towers
from improvement.wiring import Rooms, improver

#: An id, or what it begins with.
CheckpointId = Annotated[str, Field(pattern=r"^[0-9a-f]{4,64}$")]


class CheckpointRef(Order):
    """Names a checkpoint; left out, the one that was published and waits to serve."""

    checkpoint: CheckpointId | None = None


class Promote(CheckpointRef):
    """Who promotes; ``force`` is why, although the gate did not let it pass."""

    by: Who
    force: Why | None = None


class RollBack(Order):
    """Who rolls back, and why."""

    by: Who
    why: Why | None = None


class Revert(Order):
    """Who reverts, and why; both are recorded."""

    by: Who
    why: Why


def towers_router(rooms: Rooms) -> APIRouter:
    """Return the routes for what an operator does with two towers."""
    router = APIRouter(prefix="/internal/towers", tags=["two towers"])
    worker, wake = improver(rooms), tower_sender(rooms.broker)

    def of(name: str | None) -> SearchDomain:
        return with_towers(chosen(rooms.domains, name))

    @router.get("/status")
    def status(domain: DomainName | None = None) -> dict[str, Any]:
        """Return what serves, what waits to, how far training is, and when the next publication is due."""
        return tower_state(worker, of(domain))

    @router.get("/checkpoints")
    def checkpoints(domain: DomainName | None = None) -> dict[str, Any]:
        """Return a domain's checkpoints, the newest first."""
        return {"checkpoints": checkpoint_rows(worker, of(domain))}

    @router.get("/curve", response_class=Response, responses={200: {"content": {"image/png": {}}}})
    def curve(domain: DomainName | None = None) -> Response:
        """Draw the loss of every training step, as PNG."""
        return Response(curve_of(worker, of(domain)), media_type="image/png")

    @router.post("/publish")
    def publish(body: Order) -> dict[str, Any]:
        """Have a worker publish the newest checkpoint now; answers at once, and ``status`` tells the rest."""
        domain = of(body.domain)
        if rooms.training.of(domain.name).head is None:
            raise Conflict(f"domain {domain.name!r} has no checkpoint yet; a worker begins its towers first")
        rooms.training.ask_publish(domain.name)
        wake()
        return tower_state(worker, domain)

    @router.post("/gate")
    def gate(body: Order) -> dict[str, Any]:
        """Have a worker gate what waits to serve; answers at once.

        It does so by itself, too, until enough users came back and there is a fresh report; ``waiting.gate``
        of the status is what it found. 409 where nothing waits.
        """
        domain = of(body.domain)
        find_checkpoint(worker, domain, None)
        wake()
        return tower_state(worker, domain)

    @router.get("/report")
    def report(checkpoint: CheckpointId | None = None, domain: DomainName | None = None) -> dict[str, Any]:
        """Return the newest gate's report of a checkpoint, of the one that waits if none is named."""
        found = find_checkpoint(worker, of(domain), checkpoint)
        return rooms.reports.latest(found.checkpoint_id).as_json()

    @router.post("/promote")
    def promote(body: Promote) -> dict[str, Any]:
        """Have a checkpoint serve, items and model in one atomic call; 409 without a passed, fresh report."""
        domain = of(body.domain)
        wanted = find_checkpoint(worker, domain, body.checkpoint)
        return promote_towers(worker, domain, wanted.checkpoint_id, body.by, body.force).as_json()

    @router.post("/rollback")
    def roll_back(body: RollBack) -> dict[str, Any]:
        """Have the checkpoint serve again that did before, items and model in one atomic call."""
        return rollback_towers(worker, of(body.domain), body.by, body.why).as_json()

    @router.post("/revert")
    def revert(body: Revert) -> dict[str, Any]:
        """Go back to the last checkpoint known to be good, undo what engagement moved, train on from it."""
        from improvement.two_tower.reverting import revert_towers  # brings torch

        return revert_towers(worker, of(body.domain), body.by, body.why).as_json()

    return router

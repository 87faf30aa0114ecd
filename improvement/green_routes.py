"""HTTP for green builds: build, watch, gate, promote, roll back (role operator); routes only."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, Response
from pydantic import AfterValidator, Field

from clickstream.records import storable_text
from improvement.background import build_sender
from improvement.green import orders
from improvement.green.builds import Build
from improvement.promotion import MAX_BY, MAX_WHY, promote_build, rollback
from improvement.routes import chosen
from improvement.schemas import DomainName, DomainRef, ModelId
from improvement.wiring import Rooms, improver

#: What the HTML report may load: nothing but what it brings along.
PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

BuildId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Who = Annotated[str, Field(min_length=1, max_length=MAX_BY), AfterValidator(storable_text)]
Why = Annotated[str, Field(min_length=1, max_length=MAX_WHY), AfterValidator(storable_text)]


class Order(DomainRef, extra="forbid"):
    """What every order says; a misspelt name is refused, for it could mean another build."""


class AskBuild(Order):
    """What to build: ``space`` is the model_id of an encoder of the domain, left out the blue one's."""

    space: ModelId | None = None
    population: bool = True
    by: Who = "operator"


class BuildRef(Order):
    """Names a build; left out, the domain's newest that was not discarded."""

    build_id: BuildId | None = None


class Promote(BuildRef):
    """Who promotes; ``force`` is why, although the gate did not let it pass."""

    by: Who
    force: Why | None = None


class RollBack(Order):
    """Who rolls back, and why."""

    by: Who
    why: Why | None = None


def green_router(rooms: Rooms) -> APIRouter:
    """Return the routes for green builds."""
    router = APIRouter(prefix="/internal/green", tags=["green builds"])
    worker, wake = improver(rooms), build_sender(rooms.broker)

    def found(domain: str | None, build_id: str | None) -> Build:
        return orders.find_build(rooms.builds, chosen(rooms.domains, domain).name, build_id)

    def shown(build: Build) -> dict[str, Any]:
        return orders.state(worker, build)

    @router.post("/build")
    def build(body: AskBuild) -> dict[str, Any]:
        """Queue a build; a worker begins it at once. 409 while the domain has one that is not finished."""
        domain = chosen(rooms.domains, body.domain)
        asked = orders.ask_build(worker, domain, space=body.space, population=body.population, by=body.by)
        wake()
        return shown(asked)

    @router.get("/status")
    def status(domain: DomainName | None = None, build_id: BuildId | None = None) -> dict[str, Any]:
        """Return how far a build is, what its last gate found, and its collection."""
        return shown(found(domain, build_id))

    @router.get("/builds")
    def builds(
        domain: DomainName | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
    ) -> dict[str, Any]:
        """Return a domain's builds, the newest first."""
        name, now = chosen(rooms.domains, domain).name, rooms.builds.clock()
        return {"builds": [one.as_json(now) for one in rooms.builds.list(name, limit)]}

    @router.post("/gate")
    def gate(body: BuildRef) -> dict[str, Any]:
        """Queue the gate of a build; ``gate_asked`` of its status is true until the report is there."""
        asked = orders.ask_gate(worker, found(body.domain, body.build_id))
        wake()
        return shown(asked)

    @router.get("/report", response_model=None)
    def report(
        report_id: BuildId | None = None,
        domain: DomainName | None = None,
        build_id: BuildId | None = None,
        format: Literal["json", "html"] = "json",
    ) -> Response | dict[str, Any]:
        """Return a gate's report, by its id or the newest of a build: as JSON, or as a page with plots."""
        if report_id is not None:
            made = rooms.reports.get(report_id)
        else:
            made = rooms.reports.latest(found(domain, build_id).build_id)
        if format == "json":
            return made.as_json()
        from improvement.evaluation.gate_page import page  # draws plots, which nothing else here does

        return HTMLResponse(page(made.as_json()), headers={"Content-Security-Policy": PAGE_POLICY})

    @router.post("/promote")
    def promote(body: Promote) -> dict[str, Any]:
        """Make a build's collection serve, in one atomic call; 409 without a passed and fresh report."""
        wanted = found(body.domain, body.build_id)
        return promote_build(rooms, wanted, body.by, body.force).as_json()

    @router.post("/rollback")
    def roll_back(body: RollBack) -> dict[str, Any]:
        """Make the collection serve again that did before."""
        domain = chosen(rooms.domains, body.domain)
        return rollback(rooms, domain.name, body.by, body.why).as_json()

    @router.post("/cancel")
    def cancel(body: BuildRef) -> dict[str, Any]:
        """Stop a build; what it made stays until it is discarded. 409 when it ended already."""
        return shown(orders.cancel(worker, found(body.domain, body.build_id)))

    @router.post("/discard")
    def discard(body: BuildRef) -> dict[str, Any]:
        """Delete a build's collection and turns; 409 while its collection serves."""
        return shown(orders.discard(worker, found(body.domain, body.build_id)))

    return router

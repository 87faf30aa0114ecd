"""HTTP for experiments: who is in which arm, and what the arms show; routes only."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import AfterValidator, FiniteFloat

from clickstream.records import Identifier, storable_text
from improvement.domain import SearchDomain
from improvement.experiments.assignment import assigned
from improvement.experiments.reading import experiment_results
from improvement.routes import chosen
from improvement.schemas import DomainName
from improvement.wiring import Rooms

UserId = Annotated[Identifier, AfterValidator(storable_text)]
Moment = Annotated[FiniteFloat, Query(ge=0, description="Seconds since 1970, by the server's clock.")]


def assignment_router(rooms: Rooms) -> APIRouter:
    """Return the route that says who is in which arm (role client)."""
    router = APIRouter(prefix="/experiment", tags=["experiment"])

    @router.get("/assignment")
    def assignment(user_id: Annotated[UserId, Query()], domain: DomainName | None = None) -> dict[str, Any]:
        """Say which arm a user is in, for frontends that do an arm's work themselves; null for none."""
        return assignment_json(chosen(rooms.domains, domain), user_id)

    return router


def experiment_router(rooms: Rooms) -> APIRouter:
    """Return the route that says what an experiment shows (role operator)."""
    router = APIRouter(prefix="/internal", tags=["experiment"])

    @router.get("/experiment")
    def results(
        since: Moment = 0.0, until: Moment | None = None, domain: DomainName | None = None
    ) -> dict[str, Any]:
        """Compare the arms of a domain's experiment; 404 without one.

        Look as often as you like at what says `always`, but leave `since` where it is.
        """
        found, end = chosen(rooms.domains, domain), time.time() if until is None else until
        told = experiment_results(rooms.clickstream, found, since, end).as_json()
        return {"domain": found.name, "since": since, "until": end, **told}

    return router


def assignment_json(domain: SearchDomain, user_id: str) -> dict[str, Any]:
    """Return a user's arm as callers see it; null for who takes part in nothing."""
    arm, experiment = assigned(domain.experiment, user_id), domain.experiment
    return {
        "domain": domain.name,
        "user_id": user_id,
        "experiment": experiment.name if experiment is not None and arm is not None else None,
        "arm": None if arm is None else arm.name,
        "treatment": None if arm is None else arm.treatment.value,
    }

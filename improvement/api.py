"""create_app: the whole HTTP service over connected rooms."""

import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import structlog
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import APIKeyHeader
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pymongo.errors import PyMongoError
from qdrant_client.http.exceptions import ApiException

from clickstream.actions_api import create_actions_router
from clickstream.api import ClickstreamRooms, create_internal_router, create_router, create_ubi_router
from clickstream.records import Action, ReceivedAction, RegisteredSession
from improvement.batch_routes import batch_router
from improvement.embed_routes import embed_router
from improvement.errors import Conflict, Invalid, NotFound, StudioError, Unavailable
from improvement.experiment_routes import assignment_router, experiment_router
from improvement.green_routes import green_router
from improvement.profile_routes import profiles_router
from improvement.profiles.live import LiveProfiles
from improvement.quality.gauges import StoredGauges
from improvement.quality_routes import quality_router
from improvement.routes import collections_router, objects_router, search_router
from improvement.security import ApiKeys, BodyLimit
from improvement.towers_routes import towers_router
from improvement.two_tower.live import LiveTowers
from improvement.user_routes import users_router
from improvement.wiring import Rooms, improver

log = structlog.get_logger()

#: Which error answers which status; the first match counts.
STATUS: tuple[tuple[type[Exception], int], ...] = (
    (Invalid, 422),
    (NotFound, 404),
    (Conflict, 409),
    (Unavailable, 503),
    (StudioError, 500),
    (PyMongoError, 503),
    (ApiException, 503),
    (Exception, 500),
)


def create_app(rooms: Rooms) -> FastAPI:
    """Return the service over these rooms; whoever connected them closes them."""
    settings = rooms.settings
    keys = ApiKeys(settings.api_client_keys, settings.api_operator_keys)
    documented = Depends(APIKeyHeader(name="X-API-Key", auto_error=False))  # shows the lock in /docs
    client, operator = [Depends(keys.client), documented], [Depends(keys.operator), documented]
    towers = LiveTowers(
        rooms.domains, rooms.entries, rooms.pairs, rooms.vectors, rooms.towers, rooms.clickstream,
        rooms.actions, rooms.learning, rooms.metrics,
    )  # fmt: skip
    clickstream = ClickstreamRooms(
        store=rooms.clickstream,
        queue=rooms.queue,
        domains=list(rooms.domains),
        wake=rooms.wake,
        prioritize=lambda session: _priority(rooms, session),
        oldest_seconds=settings.clickstream_time_max_delta_minus_sec,
        newest_seconds=settings.clickstream_time_max_delta_plus_sec,
        max_events=settings.max_events_per_request,
        engaged=towers.hear_events,
    )

    live = LiveProfiles(
        rooms.profiles, rooms.actions, rooms.vectors, rooms.releases, rooms.domains, rooms.learning
    )

    def push(actions: Sequence[Action]) -> list[ReceivedAction]:
        with rooms.metrics.push_seconds.time():
            received = live.push(actions)
        towers.hear_actions(received)
        return received

    app = FastAPI(title="Embedding Studio for Qdrant", version=version("embedding-studio-qdrant"))
    v1 = APIRouter(prefix="/api/v1")
    v1.include_router(create_router(clickstream), dependencies=client)
    v1.include_router(create_ubi_router(clickstream), dependencies=client)
    v1.include_router(create_actions_router(clickstream, push), dependencies=client)
    v1.include_router(search_router(rooms), dependencies=client)
    v1.include_router(profiles_router(rooms), dependencies=client)
    v1.include_router(embed_router(rooms), dependencies=client)
    v1.include_router(assignment_router(rooms), dependencies=client)
    v1.include_router(create_internal_router(clickstream), dependencies=operator)
    v1.include_router(objects_router(rooms), dependencies=operator)
    v1.include_router(collections_router(rooms), dependencies=operator)
    v1.include_router(users_router(rooms), dependencies=operator)
    v1.include_router(green_router(rooms), dependencies=operator)
    v1.include_router(quality_router(rooms), dependencies=operator)
    v1.include_router(towers_router(rooms), dependencies=operator)
    v1.include_router(experiment_router(rooms), dependencies=operator)

    @v1.get("/ping", tags=["health"])
    def ping() -> dict[str, str]:
        """Answer that the process lives (the published path)."""
        return {}

    app.include_router(v1)
    app.include_router(batch_router(rooms), dependencies=operator)
    app.include_router(_health(rooms))
    stored = CollectorRegistry()
    stored.register(StoredGauges(improver(rooms)))

    @app.get("/metrics", tags=["health"], dependencies=operator)
    def metrics() -> Response:
        """Return Prometheus metrics: what this process counts, and what the stores say."""
        lines = generate_latest(rooms.metrics.registry) + generate_latest(stored)
        return Response(lines, media_type=CONTENT_TYPE_LATEST)

    for kind, status in STATUS:
        app.add_exception_handler(kind, _answer(status))
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=["*"], allow_headers=["*"]
        )
    return app


def _priority(rooms: Rooms, session: RegisteredSession) -> int:
    domain = rooms.domains.get(session.domain or rooms.default_domain.name)
    try:
        return domain.selector.select(session).priority if domain else 1
    except Exception:  # plugin code; the worker records why it fails
        return 1


def _health(rooms: Rooms) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/healthz")
    def healthz() -> dict[str, str]:
        """Answer that the process lives."""
        return {"status": "ok"}

    @router.get("/readyz")
    def readyz(response: Response) -> dict[str, str]:
        """Ask each store; 503 names the one that does not answer."""
        answers = ready(rooms)
        if any(answer != "ok" for answer in answers.values()):
            response.status_code = 503
        return answers

    return router


def ready(rooms: Rooms) -> dict[str, str]:
    """Return "ok" or the error of each store."""
    answers = {}
    for name, check in rooms.checks.items():
        try:
            check()
            answers[name] = "ok"
        except Exception as error:  # whatever a client library raises, the store did not answer
            answers[name] = f"{type(error).__name__}: {error}"[:300]
    return answers


def _answer(status: int) -> Callable[[Request, Exception], Response]:
    def handle(request: Request, error: Exception) -> Response:
        if status >= 500:
            log.error("request failed", path=request.url.path, error=repr(error)[:2_000])
        if isinstance(error, StudioError):
            detail = str(error)
        elif status == 503:
            detail = f"a store did not do its part: {error}"
        else:
            detail = "internal error; the service's log has it"
        return _json(status, {"detail": detail[:2_000]})

    return handle


def _malformed(request: Request, error: Exception) -> Response:
    """Answer 422 without echoing the input, which may be NaN or not even be valid Unicode."""
    assert isinstance(error, RequestValidationError)
    details = [
        {"loc": [str(place) for place in one["loc"]], "msg": one["msg"], "type": one["type"]}
        for one in error.errors()[:20]
    ]
    return _json(422, {"detail": details})


def _json(status: int, content: Any) -> Response:
    return Response(json.dumps(content), status, media_type="application/json")  # ASCII: any text survives

"""HTTP for the clickstream: the published paths, fields and statuses, and UBI beside them; routes only."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Body, HTTPException, Query
from pydantic import ValidationError

from clickstream import ubi
from clickstream.improvement_queue import ImprovementQueue, Owner, Request
from clickstream.records import (
    MAX_INT,
    Action,
    Identifier,
    Record,
    RegisteredSession,
    Session,
    SessionBatch,
    SessionEvent,
)
from clickstream.store import ClickstreamStore, SessionFull

#: Sessions one page of a batch may hold.
MAX_PAGE = 1_000

_InDomain = TypeVar("_InDomain", Session, Action)


@dataclass(frozen=True)
class ClickstreamRooms:
    """What the clickstream routes need.

    Attributes:
        domains: names a session may carry; the first is the default.
        wake: tells the workers that there is work.
        prioritize: how urgent an explicitly queued session is, lower first.
        oldest_seconds: how far back a client's timestamp may lie.
        newest_seconds: how far ahead of our clock a client's timestamp may lie.
        max_events: most events or documents in one request.
        engaged: is told of events, with the ids of their sessions, once they are stored; must not raise.
    """

    store: ClickstreamStore
    queue: ImprovementQueue
    domains: Sequence[str]
    wake: Callable[[], None]
    prioritize: Callable[[RegisteredSession], int] = lambda session: 1
    oldest_seconds: int = 12 * 3600
    newest_seconds: int = 300
    max_events: int = 1_000
    clock: Callable[[], float] = time.time
    engaged: Callable[[Sequence[tuple[str, SessionEvent]]], object] = lambda events: None


class SessionEvents(Record):
    """Body of `POST /clickstream/session/events`."""

    session_id: Identifier
    events: tuple[SessionEvent, ...]


class SessionRef(Record):
    """Body that names a session."""

    session_id: Identifier


class ReleaseRef(Record):
    """Body of a batch release; the caller's id makes it repeatable."""

    release_id: Identifier


class Rejected(Record):
    """One document that was not taken, and why."""

    index: int
    reason: str


class Receipt(Record):
    """Answer to many documents at once."""

    accepted: int
    rejected: list[Rejected]


Documents = Annotated[list[Any] | dict[str, Any], Body()]


def create_router(rooms: ClickstreamRooms) -> APIRouter:
    """Return the routes a frontend calls (role client)."""
    router = APIRouter(prefix="/clickstream", tags=["clickstream"])

    @router.post("/session")
    def register_session(session: Session) -> None:
        """Register a search and what it showed; a further page under the same id extends the list."""
        check_time(rooms, session.created_at)
        try:
            rooms.store.register(in_domain(session, rooms.domains))
        except SessionFull as error:
            raise HTTPException(422, str(error)) from error

    @router.get("/session")
    def get_session(session_id: str) -> dict[str, Any]:
        """Return a session with all its events."""
        return session_json(known(rooms, session_id))

    @router.post("/session/events")
    def push_events(body: SessionEvents) -> None:
        """Register events; a repeated event_id is ignored, and the session may come later."""
        check_count(rooms, body.events)
        for event in body.events:
            check_time(rooms, event.created_at)
        events = [(body.session_id, event) for event in body.events]
        rooms.store.push_events(events)
        rooms.engaged(events)

    @router.post("/session/irrelevant")
    def mark_irrelevant(body: SessionRef) -> None:
        """Stop learning from a session and take back what it taught."""
        if not rooms.store.mark_irrelevant(body.session_id):
            raise HTTPException(404, f"session {body.session_id!r} is not known")
        rooms.queue.requeue([body.session_id])
        rooms.wake()

    return router


def create_ubi_router(rooms: ClickstreamRooms) -> APIRouter:
    """Return the User Behavior Insights routes (role client)."""
    router = APIRouter(prefix="/ubi", tags=["ubi"])

    @router.post("/queries")
    def push_queries(documents: Documents) -> Receipt:
        """Take UBI query documents, one or a list; each is answered by itself."""
        sessions: list[Session] = []
        index_of: dict[str, int] = {}
        rejected = []
        for index, document in enumerate(listed(rooms, documents)):
            try:
                session = ubi.query_session(document)
                application = (session.search_meta or {}).get("application")
                named = session.model_copy(
                    update={"domain": application if application in rooms.domains else None}
                )
                not_ahead(rooms, session.created_at)
                sessions.append(in_domain(named, rooms.domains))
                index_of[session.session_id] = index
            except (ValueError, ValidationError) as error:
                rejected.append(Rejected(index=index, reason=reason(error)))
        full = rooms.store.register_many([(session, None) for session in sessions])
        rejected += [Rejected(index=index_of[i], reason=str(SessionFull(i))) for i in full]
        return Receipt(accepted=len(sessions) - len(full), rejected=rejected)

    @router.post("/events")
    def push_ubi_events(documents: Documents) -> Receipt:
        """Take UBI event documents, one or a list; each is answered by itself."""
        events: list[tuple[str, SessionEvent]] = []
        rejected = []
        for index, document in enumerate(listed(rooms, documents)):
            try:
                session_id, event = ubi.event(document)
                not_ahead(rooms, event.created_at)
                events.append((session_id, event))
            except (ValueError, ValidationError) as error:
                rejected.append(Rejected(index=index, reason=reason(error)))
        rooms.store.push_events(events)
        rooms.engaged(events)
        return Receipt(accepted=len(events), rejected=rejected)

    return router


def create_internal_router(rooms: ClickstreamRooms) -> APIRouter:
    """Return the routes an operator's jobs call (role operator)."""
    router = APIRouter(prefix="/clickstream/internal", tags=["clickstream internal"])

    @router.post("/session/use-for-improvement")
    def use_for_improvement(body: SessionRef) -> None:
        """Queue a session, once until it changes, and wake a worker."""
        version = rooms.store.version(body.session_id) or 1  # before the session: what comes later is newer
        session = known(rooms, body.session_id)
        owner = Owner(session.domain or rooms.domains[0], session.user_id)
        rooms.queue.enqueue([Request(body.session_id, owner, version, rooms.prioritize(session))])
        rooms.wake()

    @router.get("/session/improvement")
    def get_improvement(session_id: str) -> dict[str, Any]:
        """Say how a queued session ended: done, skipped(reason) or failed(reason)."""
        entry = rooms.queue.entry(session_id)
        if entry is None:
            raise HTTPException(404, f"session {session_id!r} was never queued for improvement")
        return entry.as_json()

    @router.get("/queue")
    def get_queue() -> dict[str, int]:
        """Count the queue's entries by status."""
        return rooms.queue.counts()

    @router.get("/batch/sessions")
    def get_batch_sessions(
        batch_id: str,
        after_number: Annotated[int, Query(ge=0, le=MAX_INT)] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 10,
        events_limit: Annotated[int, Query(ge=0)] = 100,
    ) -> dict[str, Any]:
        """Page through a released batch; ``last_number`` is the next page's ``after_number``."""
        if rooms.store.batch(batch_id) is None:
            raise HTTPException(404, f"batch {batch_id!r} is not known")
        sessions = rooms.store.batch_sessions(batch_id, after_number, limit)
        return {
            "batch_id": batch_id,
            "last_number": sessions[-1].session_number if sessions else after_number,
            "sessions": [
                session_json(session.model_copy(update={"events": session.events[:events_limit]}))
                | {"session_number": session.session_number}
                for session in sessions
            ],
        }

    @router.post("/batch/release")
    def release_batch(body: ReleaseRef) -> SessionBatch:
        """Release the batch that is collecting; the same release_id answers the same batch."""
        return rooms.store.release(body.release_id)

    return router


def known(rooms: ClickstreamRooms, session_id: str) -> RegisteredSession:
    """Return a session; raises 404."""
    session = rooms.store.session(session_id)
    if session is None:
        raise HTTPException(404, f"session {session_id!r} is not known")
    return session


def in_domain(given: _InDomain, domains: Collection[str]) -> _InDomain:
    """Return a session or action with its domain filled in; raises 422 for one that is not configured."""
    if given.domain is None:
        return given.model_copy(update={"domain": next(iter(domains))})
    if given.domain not in domains:
        raise HTTPException(
            422, f"domain {given.domain!r} is not configured; expected one of {list(domains)}"
        )
    return given


def check_time(rooms: ClickstreamRooms, created_at: int | None) -> None:
    """Refuse a client's timestamp outside the window; raises 400."""
    if created_at is None:
        return
    now = rooms.clock()
    if not now - rooms.oldest_seconds <= created_at <= now + rooms.newest_seconds:
        raise HTTPException(
            400,
            f"created_at {created_at} is outside [now - {rooms.oldest_seconds} s, "
            f"now + {rooms.newest_seconds} s], now is {int(now)}",
        )


def not_ahead(rooms: ClickstreamRooms, created_at: int | None) -> None:
    """Refuse a UBI timestamp ahead of our clock; logs are shipped late, so old ones are welcome."""
    if created_at is not None and created_at > rooms.clock() + rooms.newest_seconds:
        raise ValueError(f"timestamp is more than {rooms.newest_seconds} s ahead of the server's clock")


def check_count(rooms: ClickstreamRooms, items: Sequence[Any]) -> None:
    """Refuse too many events or documents in one request; raises 422."""
    if len(items) > rooms.max_events:
        raise HTTPException(422, f"expected at most {rooms.max_events} in one request, got {len(items)}")


def listed(rooms: ClickstreamRooms, documents: list[Any] | dict[str, Any]) -> list[Any]:
    """Return one document or many as a list within the limit."""
    several = documents if isinstance(documents, list) else [documents]
    check_count(rooms, several)
    return several


def reason(error: ValueError) -> str:
    """Say in one line what is wrong with a document."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}"[:500]
    return str(error)[:500]


def session_json(session: RegisteredSession) -> dict[str, Any]:
    """Return a session in the published form; its experiment if it has one."""
    nothing = {name for name in ("experiment", "arm", "mixed") if getattr(session, name) is None}
    return session.model_dump(exclude={"query_vector", "session_number"} | nothing)

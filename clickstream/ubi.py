"""User Behavior Insights (https://github.com/o19s/ubi, schemas 1.0.0 to 1.3.0) to and from our records.

A UBI query is a session and its ``query_id`` the session's id; a UBI event joins it by ``query_id``.
The published event schema's ``oneOf`` for ``action_name`` rejects plain ``click``, which matches two branches:
any text is accepted here, and what is exported passes the strict schema too.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from clickstream.records import RegisteredSession, SearchResult, Session, SessionEvent

#: Epoch numbers above this are milliseconds: as seconds it is the year 5138.
MILLISECONDS_FROM = 100_000_000_000
#: Names the strict schema takes only in another spelling, because its ``oneOf`` matches them twice.
STRICT_NAMES = {"click": "item_click", "impression": "item_impression"}

Document = Mapping[str, Any]


def query_session(document: Any, client_is_user: bool = True) -> Session:
    """Turn a UBI query document into a session.

    Args:
        client_is_user: without any ``user_id`` the ``client_id`` stands for the user. By the schemas queries
            carry no user, so otherwise every UBI session would be anonymous and teach nothing.

    Raises:
        ValueError: says in one sentence what is missing or wrong.
    """
    raw = _document(document)
    attributes = _optional(raw, "query_attributes")
    hits = raw.get("query_response_hit_ids", raw.get("query_response_object_ids")) or []
    if not isinstance(hits, list):
        raise ValueError(f"query_response_hit_ids: expected a list, got {type(hits).__name__}")
    query = raw.get("user_query") or ""  # recommendations have none
    if isinstance(query, Mapping):
        query = json.dumps(query, sort_keys=True)
    kept = ("application", "client_id", "object_id_field", "query_response_id", "query_attributes")
    return Session(
        session_id=_id(raw.get("query_id"), "query_id"),
        search_query=query,
        search_results=tuple(SearchResult(object_id=_id(hit, "query_response_hit_ids")) for hit in hits),
        search_meta={name: raw[name] for name in kept if raw.get(name) is not None} or None,
        user_id=_user(raw, attributes, client_is_user),
        created_at=seconds(raw.get("timestamp")),
    )


def event(document: Any) -> tuple[str, SessionEvent]:
    """Turn a UBI event document into the id of its session and an event.

    UBI events have no id of their own, so one is made of what they say: the same document twice is one event.

    Raises:
        ValueError: says in one sentence what is missing or wrong.
    """
    raw = _document(document)
    attributes = _optional(raw, "event_attributes")
    thing = _optional(attributes, "object")
    if raw.get("query_id") is None:
        raise ValueError(
            "query_id: expected, because it joins the event to its query (the schema lets it out)"
        )
    if thing.get("object_id") is None:
        raise ValueError(
            "event_attributes.object.object_id: expected, there is nothing to learn from without it"
        )
    session_id = _id(raw["query_id"], "query_id")
    given = raw.get("event_id", raw.get("id"))
    kept = (
        "application",
        "session_id",
        "client_id",
        "user_id",
        "message",
        "message_type",
        "event_attributes",
    )
    return session_id, SessionEvent(
        event_id=_digest(raw, thing) if given is None else _id(given, "event_id"),
        object_id=_id(thing["object_id"], "event_attributes.object.object_id"),
        event_type=_id(raw.get("action_name"), "action_name"),
        created_at=seconds(raw.get("timestamp")),
        meta={name: raw[name] for name in kept if raw.get(name) is not None} or None,
    )


def seconds(timestamp: Any) -> int | None:
    """Return whole UTC seconds of an ISO 8601 text or of an epoch number, in seconds or milliseconds.

    A text without an offset is UTC. None stays None.

    >>> seconds("2026-01-01T10:00:00.900+01:00") == seconds(1767258000) == seconds("1767258000900")
    True

    Raises:
        ValueError: it is neither.
    """
    if timestamp is None:
        return None
    if isinstance(timestamp, str):
        text = timestamp.strip()
        try:
            number = float(text)
        except ValueError:
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                raise ValueError(f"timestamp: expected ISO 8601 or epoch, got {text[:40]!r}") from None
            number = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    elif isinstance(timestamp, int | float) and not isinstance(timestamp, bool):
        number = timestamp
    else:
        raise ValueError(f"timestamp: expected ISO 8601 or epoch, got {type(timestamp).__name__}")
    if not (0 <= number < 2**53) or not math.isfinite(number):
        raise ValueError(f"timestamp: expected a time since 1970, got {str(timestamp)[:40]}")
    return int(number // 1000 if number >= MILLISECONDS_FROM else number)


def to_ubi(session: RegisteredSession) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a session as UBI 1.3.0 documents, its query and its events, valid under strict schemas."""
    places = {result.object_id: place for place, result in enumerate(session.search_results, start=1)}
    client = session.user_id or "anonymous"
    query = {
        "query_id": session.session_id,
        "client_id": client,
        "user_query": session.search_query,
        "query_response_hit_ids": list(places),
        "timestamp": _iso(session.created_at),
    }
    if session.domain is not None:
        query["application"] = session.domain
    events = []
    for one in session.events:
        attributes: dict[str, Any] = {"object": {"object_id": one.object_id, "object_id_field": "object_id"}}
        if one.object_id in places:
            attributes["position"] = {"ordinal": places[one.object_id]}
        events.append(
            {
                "action_name": STRICT_NAMES.get(one.event_type, one.event_type),
                "query_id": session.session_id,
                "session_id": session.session_id,
                "client_id": client,
                "timestamp": _iso(one.created_at),
                "event_attributes": attributes,
            }
        )
    return query, events


def _document(document: Any) -> Document:
    if not isinstance(document, Mapping):
        raise ValueError(f"expected a JSON object, got {type(document).__name__}")
    return document


def _optional(raw: Document, name: str) -> Document:
    inner = raw.get(name)
    if inner is None:
        return {}
    if not isinstance(inner, Mapping):
        raise ValueError(f"{name}: expected a JSON object, got {type(inner).__name__}")
    return inner


def _id(value: Any, name: str) -> str:
    """Ids are texts; numbers are seen too and mean their digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 2**63 else _id(None, name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}: expected a text, got {value!r:.40}")
    return value


def _user(raw: Document, attributes: Document, client_is_user: bool) -> str | None:
    user = (
        raw.get("user_id") or attributes.get("user_id") or (raw.get("client_id") if client_is_user else None)
    )
    return None if user is None else _id(user, "user_id")


def _digest(raw: Document, thing: Document) -> str:
    said = [raw.get(name) for name in ("query_id", "session_id", "client_id", "action_name", "timestamp")]
    content = json.dumps([*said, thing.get("object_id")], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _iso(timestamp: int | None) -> str:
    return datetime.fromtimestamp(timestamp or 0, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")

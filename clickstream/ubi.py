"""User Behavior Insights documents, schemas 1.0.0 to 1.3.0, read as records and written from them.

UBI (https://github.com/o19s/ubi) is an open form of search clickstreams: a *query* document says what was
asked and shown, an *event* document what somebody did; ``query_id`` joins them, and is our ``session_id``.
Its own ``session_id`` is a visit of many queries, kept in the meta field.

Reading is lenient where the schema is not what its own samples do: ``action_name`` may be any text (its
``oneOf`` refuses ``click``, which both branches describe), ``position`` may be empty, ``user_query`` may be
absent, ids may be whole numbers, timestamps epoch seconds or milliseconds. Writing keeps to the letter of
1.3.0.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from pydantic import ValidationError

from clickstream.records import MAX_INT, Identifier, Record, RegisteredSession, Session, SessionEvent

Document = dict[str, Any]
_Record = TypeVar("_Record", bound=Record)

#: The list of what was shown, by its names over the versions and their documentation, newest first.
_HITS = ("query_response_hit_ids", "query_response_object_ids", "query_response_objects_ids")
#: What a query document says that a session has a field for; ``query`` is the engine's own request, and long.
_QUERY_FIELDS = {"query_id", "user_query", "user_id", "timestamp", "query", *_HITS}
#: What an event document says that an event has a field for.
_EVENT_FIELDS = {"query_id", "action_name", "timestamp", "event_id", "id"}
#: Record fields by the name under which the sender knows them.
_UBI_NAMES = {
    "session_id": "query_id",
    "search_query": "user_query",
    "search_results": _HITS[0],
    "search_meta": "the other fields",
    "meta": "the other fields",
    "created_at": "timestamp",
    "object_id": "event_attributes.object.object_id",
    "event_type": "action_name",
}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: 9999-12-31T23:59:59Z, the last second that ISO 8601 has four digits for.
_LAST_SECOND = 253_402_300_799
#: Epoch numbers from here on are milliseconds: as seconds it is the year 5138, as milliseconds 1973.
_FIRST_MILLISECONDS = 10**11

#: Characters of a text in the strict schema.
_STRICT_LENGTH = 100
#: Actions that a strict validator of any version refuses because both branches of ``oneOf`` hold.
_REFUSED_ACTIONS = {"add_to_cart", "click", "click_through", "impression", "purchase", "view", "watch"}


class _Joined(Record):
    session_id: Identifier


def query_session(document: Any, *, client_is_user: bool = True) -> Session:
    """Read a UBI query document.

    The user is ``user_id``, given at the top or in ``query_attributes``. No schema has that field, most
    documents carry ``client_id`` alone, and an anonymous session teaches nobody; so by default ``client_id``
    stands in: copies are then made for a browser, and serve searches whose ``user_id`` is that client's.

    Args:
        client_is_user: False leaves sessions without a ``user_id`` anonymous.

    Returns:
        The session; ``search_meta`` has every other field but ``query``, the engine's own request.

    Raises:
        ValueError: says which field is wrong and what was expected.

    >>> query_session({"query_id": "q", "client_id": "c", "query_response_hit_ids": ["a", 7]}).user_id
    'c'
    """
    given = _object(document, "the document")
    attributes = _object(given.get("query_attributes"), "query_attributes")
    query_id = _id(given.get("query_id"), "query_id")
    if query_id is None:
        raise ValueError("query_id: expected the id that events will refer to, got none")
    user_id = _id(given.get("user_id"), "user_id") or _id(
        attributes.get("user_id"), "query_attributes.user_id"
    )
    client_id = _id(given.get("client_id"), "client_id")
    meta = {name: value for name, value in given.items() if name not in _QUERY_FIELDS and value is not None}
    asked = given.get("user_query")
    if isinstance(asked, dict):  # the README shows {"query": "RAM memory", "page": 1, ...}
        meta["user_query"], asked = asked, asked.get("query")
    if asked is not None and not isinstance(asked, str):
        raise ValueError(f"user_query: expected a text, got {_said(asked)}")
    return _record(
        Session,
        session_id=_original(attributes, "query_id", query_id),
        search_query=asked or "",
        search_results=[{"object_id": hit} for hit in _hits(given)],
        search_meta=meta or None,
        user_id=user_id or (client_id if client_is_user else None),
        created_at=_seconds(_microseconds(given.get("timestamp"))),
    )


def event(document: Any) -> tuple[str, SessionEvent]:
    """Read a UBI event document.

    The schema has no event id: unless the document brings an ``event_id`` or ``id``, it is a digest of what
    tells events apart, so that an event sent twice is one event.

    Returns:
        The id of the session it belongs to, and the event; ``meta`` has every other field, and ``position``,
        the ordinal, when there is one.

    Raises:
        ValueError: says which field is wrong and what was expected. That includes events that are fine by the
            schema but teach nothing: without ``query_id``, or about no object.

    >>> click = {"action_name": "click", "query_id": "q", "timestamp": "2024-05-16T12:34:56Z",
    ...          "event_attributes": {"object": {"object_id": "a"}, "position": {"ordinal": 2}}}
    >>> session_id, read = event(click)
    >>> session_id, read.event_type, read.object_id, read.created_at, read.meta["position"]
    ('q', 'click', 'a', 1715862896, 2)
    """
    given = _object(document, "the document")
    attributes = _object(given.get("event_attributes"), "event_attributes")
    query_id = _id(given.get("query_id"), "query_id")
    if query_id is None:
        raise ValueError(
            "query_id: expected the query this event follows, got none"
            " (the schema lets it be absent, but then there is no search to learn from)"
        )
    action = given.get("action_name")
    if not isinstance(action, str):
        raise ValueError(f"action_name: expected a text, got {_said(action)}")
    object_id = _object_id(_object(attributes.get("object"), "event_attributes.object"))
    at = _microseconds(given.get("timestamp"))
    if at is None:
        raise ValueError("timestamp: expected when the event happened, got none")
    visit, client_id = (_id(given.get(name), name) for name in ("session_id", "client_id"))
    event_id = _id(given.get("event_id"), "event_id") or _id(given.get("id"), "id")
    if event_id is None:
        event_id = "ubi-" + _digest(json.dumps([query_id, visit, client_id, action, object_id, at]))[:32]
    meta = {name: value for name, value in given.items() if name not in _EVENT_FIELDS and value is not None}
    ordinal = _ordinal(attributes)
    read = _record(
        SessionEvent,
        event_id=event_id,
        object_id=_original(attributes, "object_id", object_id),
        event_type=_original(attributes, "action_name", action),
        created_at=_seconds(at),
        meta=meta if ordinal is None else meta | {"position": ordinal},
    )
    joined = _record(_Joined, session_id=_original(attributes, "query_id", query_id))
    return joined.session_id, read


def to_ubi(session: RegisteredSession) -> tuple[Document, list[Document]]:
    """Write a session and its events as UBI 1.3.0, so that a strict validator accepts them.

    What the schema has no place for is changed, with the original beside it in ``originals`` of the
    attributes, where `query_session` and `event` find it: actions that its ``oneOf`` refuses (``click`` is
    written ``item_click``) and ids longer than it allows (a digest). Reading back gives the same ids, user,
    query, shown objects, event types and times; ranks, metas that are not UBI's, filters and marks stay here.
    An event on an object that was not shown gets ordinal 0, for the schema demands one.

    Returns:
        The query document, and one document an event, in the session's order.
    """
    meta = session.search_meta or {}
    query_id = _STRICT["query_id"](session.session_id)
    attributes = _others(meta.get("query_attributes"), {"user_id", "originals"})
    if session.user_id is not None:
        attributes["user_id"] = session.user_id
    attributes |= _originals(query_id=session.session_id)
    query: Document = {
        **({} if session.domain is None else {"application": session.domain}),
        **_texts(meta, ("application", "client_id", "object_id_field", "query_response_id")),
        "query_id": query_id,
        "user_query": session.search_query,
        "query_response_hit_ids": [result.object_id for result in session.search_results],
        "query_attributes": attributes,
    }
    if session.created_at is not None:
        query["timestamp"] = _iso(session.created_at)
    places = {result.object_id: place for place, result in enumerate(session.search_results, start=1)}
    sender = _texts(query, ("application", "client_id"))
    if session.user_id is not None:
        sender |= _texts({"user_id": session.user_id}, ("user_id",))
    return query, [
        _event_document(session, one, places.get(one.object_id, 0), sender) for one in session.events
    ]


def _event_document(session: RegisteredSession, one: SessionEvent, place: int, sender: Document) -> Document:
    meta = one.meta or {}
    position = meta.get("position")
    created_at = session.created_at or 0 if one.created_at is None else one.created_at
    return {
        **sender,
        **_texts(meta, ("application", "client_id", "session_id", "message_type")),
        "action_name": _STRICT["action_name"](one.event_type),
        "query_id": _STRICT["query_id"](session.session_id),
        "timestamp": _iso(created_at),
        "event_id": one.event_id,
        "event_attributes": {
            **_others(meta.get("event_attributes"), {"object", "position", "originals"}),
            "object": {"object_id": _STRICT["object_id"](one.object_id)},
            "position": {"ordinal": position if type(position) is int else place},
            **_originals(query_id=session.session_id, object_id=one.object_id, action_name=one.event_type),
        },
    }


# Reading


def _object(value: Any, where: str) -> Document:
    if value is None and where != "the document":
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, got {_said(value)}")
    return value


def _id(value: Any, where: str) -> str | None:
    """Return an id as text; null and the empty text mean that there is none."""
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_INT:
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"{where}: expected a text or a whole number, got {_said(value)}")
    return value


def _hits(given: Document) -> list[str]:
    name = next((name for name in _HITS if given.get(name) is not None), _HITS[0])
    shown = given.get(name) or []
    if not isinstance(shown, list):
        raise ValueError(f"{name}: expected a list of ids, got {_said(shown)}")
    ids = [_id(hit, f"{name}[{i}]") for i, hit in enumerate(shown)]
    if None in ids:
        raise ValueError(f"{name}[{ids.index(None)}]: expected an id, got none")
    return [hit for hit in ids if hit is not None]


def _object_id(target: Document) -> str:
    """Return the id of the object acted on; some senders keep it under the name in ``object_id_field``."""
    where = "event_attributes.object.object_id"
    object_id = _id(target.get("object_id"), where)
    named = target.get("object_id_field")
    if object_id is None and isinstance(named, str):
        object_id = _id(target.get(named), f"event_attributes.object[{_said(named)}]")
    if object_id is None:
        raise ValueError(f"{where}: expected an id, got none, so there is nothing to learn from")
    return object_id


def _ordinal(attributes: Document) -> int | None:
    """Return the place on the page: {"ordinal": 3}, or {"ordinal": {"index": 3}} up to 1.2."""
    position = attributes.get("position")
    ordinal = position.get("ordinal") if isinstance(position, dict) else None
    if isinstance(ordinal, dict):
        ordinal = ordinal.get("index")
    return ordinal if type(ordinal) is int and abs(ordinal) <= MAX_INT else None


def _microseconds(value: Any) -> int | None:
    """Return a timestamp as microseconds since 1970; a text of 9 digits or more is an epoch number."""
    if value is None:
        return None
    wrong = ValueError(
        "timestamp: expected ISO 8601, or seconds or milliseconds since 1970, from 1970 to 9999,"
        f" got {_said(value)}"
    )
    if isinstance(value, str):
        text = value.strip()
        if not re.fullmatch(r"[0-9]{9,15}(\.[0-9]{1,9})?", text):
            try:
                moment = datetime.fromisoformat(text.upper())
            except ValueError:
                raise wrong from None
            since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
            if since < timedelta(0):
                raise wrong
            return since // timedelta(microseconds=1)
        value = float(text) if "." in text else int(text)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise wrong
    if not 0 <= value <= _LAST_SECOND * 1000:  # NaN too
        raise wrong
    return math.floor(value * (1_000_000 if value < _FIRST_MILLISECONDS else 1_000))


def _seconds(microseconds: int | None) -> int | None:
    return None if microseconds is None else microseconds // 1_000_000


def _record(kind: type[_Record], **fields: Any) -> _Record:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = str(first["loc"][0])
        reason = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{_UBI_NAMES.get(name, name)}: {reason}") from None


def _said(value: Any) -> str:
    """Name a stranger's value so that any log and any JSON can hold it."""
    if isinstance(value, str):
        return ascii(value if len(value) <= 40 else value[:40] + "...")
    kinds = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "none" if value is None else kinds.get(type(value), "a value")


# Writing, to the letter of 1.3.0


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"sha256:{_digest(text)}"


def _strict_action(event_type: str) -> str:
    return _short(f"item_{event_type}" if event_type in _REFUSED_ACTIONS else event_type, _STRICT_LENGTH)


#: How a field is written; `_original` undoes it only where doing it again gives what was read.
_STRICT: dict[str, Callable[[str], str]] = {
    "query_id": partial(_short, limit=_STRICT_LENGTH),
    "object_id": partial(_short, limit=256),
    "action_name": _strict_action,
}


def _originals(**values: str) -> Document:
    changed = {name: value for name, value in values.items() if _STRICT[name](value) != value}
    return {"originals": changed} if changed else {}


def _original(attributes: Document, name: str, written: str) -> str:
    originals = attributes.get("originals")
    original = originals.get(name) if isinstance(originals, dict) else None
    return original if isinstance(original, str) and _STRICT[name](original) == written else written


def _texts(given: Document, names: tuple[str, ...]) -> Document:
    """Return those of these fields that are texts the strict schema takes."""
    found = {name: given.get(name) for name in names}
    return {name: one for name, one in found.items() if isinstance(one, str) and len(one) <= _STRICT_LENGTH}


def _others(attributes: Any, ours: set[str]) -> Document:
    return {k: v for k, v in attributes.items() if k not in ours} if isinstance(attributes, dict) else {}


def _iso(seconds: int) -> str:
    return f"{datetime.fromtimestamp(min(seconds, _LAST_SECOND), UTC):%Y-%m-%dT%H:%M:%SZ}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

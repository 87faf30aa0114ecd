"""What happened, as frozen records: sessions, what they showed, and the events that followed.

Field names, types and defaults are Embedding Studio's published ones; what is ours on top is optional.
Every bound here is a limit on a stranger's input: breaking one is a 422 that names the field.
"""

import math
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import bson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat

#: Characters an id may have; any character, but not none.
MAX_ID_LENGTH = 512
#: Characters of a search query.
MAX_QUERY_LENGTH = 16_384
#: Results one request may register; a second page extends the session.
MAX_RESULTS = 1_000
#: Bytes of one free-form field (meta, search_meta, ...) as it is stored.
MAX_META_BYTES = 16_384
#: Bytes of one shown result's meta; a session of many pages must fit one document.
MAX_RESULT_META_BYTES = 2_048
#: Levels of lists and mappings inside one free-form field.
MAX_META_DEPTH = 16
#: Largest whole number a BSON document holds.
MAX_INT = 2**63 - 1


def storable_text(text: str) -> str:
    """Refuse text that is not valid Unicode (a lone surrogate), which no store can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("text is not valid Unicode (it has a lone surrogate)") from None
    return text


def storable(value: Any, depth: int = 0) -> Any:
    """Refuse what JSON can say and the stores cannot hold: deep nests, huge numbers, NaN, NUL in keys."""
    if depth > MAX_META_DEPTH:
        raise ValueError(f"nested deeper than {MAX_META_DEPTH} levels")
    if isinstance(value, dict):
        for key, item in value.items():
            if "\0" in storable_text(key):
                raise ValueError("a key has a NUL character")
            storable(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            storable(item, depth + 1)
    elif isinstance(value, str):
        storable_text(value)
    elif isinstance(value, int) and not -MAX_INT - 1 <= value <= MAX_INT:
        raise ValueError("a whole number does not fit 64 bits")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number is NaN or infinite")
    return value


def _at_most(limit: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def check(meta: dict[str, Any]) -> dict[str, Any]:
        storable(meta)
        if len(bson.encode(meta)) > limit:
            raise ValueError(f"larger than {limit} bytes as it is stored (BSON)")
        return meta

    return check


Identifier = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]
Text = Annotated[str, Field(max_length=MAX_QUERY_LENGTH)]
Meta = Annotated[dict[str, Any], AfterValidator(_at_most(MAX_META_BYTES))]
ResultMeta = Annotated[dict[str, Any], AfterValidator(_at_most(MAX_RESULT_META_BYTES))]
#: Whole UTC seconds since 1970.
Timestamp = Annotated[int, Field(ge=0, le=MAX_INT)]


class Record(BaseModel):
    """Frozen; unknown fields are ignored, as the published API does; change one with ``model_copy``."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class SearchResult(Record):
    """One impression: an object as it was shown. ``rank`` is the published server's distance, not a place;
    the place is the position in ``Session.search_results``."""

    object_id: Identifier
    rank: FiniteFloat | None = None
    meta: ResultMeta | None = None


class Session(Record):
    """One search and what it showed, best first.

    ``created_at`` is filled with the server's clock when the client leaves it out. ``domain`` names the
    search domain (ours; the first configured one when left out). ``experiment`` and ``arm`` name the
    experiment that its user took part in, and what it showed them (ours; neither when left out); ``mixed``
    says that two rankings were to be mixed for them, even if nothing was found.
    """

    session_id: Identifier
    search_query: Text
    search_results: Annotated[tuple[SearchResult, ...], Field(max_length=MAX_RESULTS)] = ()
    search_meta: Meta | None = None
    payload_filter: Meta | None = None
    sort_by: Meta | None = None
    user_id: Identifier | None = None
    created_at: Timestamp | None = None
    domain: Annotated[str, Field(max_length=64)] | None = None
    experiment: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    arm: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    mixed: bool | None = None


class SessionEvent(Record):
    """Something a user did with a shown object. ``event_id`` is unique inside its session."""

    event_id: Identifier
    object_id: Identifier
    event_type: Annotated[str, Field(min_length=1, max_length=128)] = "click"
    created_at: Timestamp | None = None
    meta: Meta | None = None


class Action(Record):
    """Something a user did outside a search. ``action_id`` is unique to its user, in all domains.

    Attributes:
        action_type: any text; `view_post`, `like_post` and the others that evidence weighs say something.
        created_at: filled with the server's clock when the client leaves it out.
        domain: the search domain whose object it is about; the first configured one when left out.
        meta: what else there is to say; ``dwell_seconds`` is how long the user stayed.
    """

    action_id: Identifier
    user_id: Identifier
    object_id: Identifier
    action_type: Annotated[str, Field(min_length=1, max_length=128)]
    created_at: Timestamp | None = None
    domain: Annotated[str, Field(max_length=64)] | None = None
    meta: Meta | None = None


class ReceivedAction(Action):
    """An action as the store holds it.

    Attributes:
        received_at: when it came, in seconds since 1970 by the server's clock (``created_at`` is the
            client's word).
        place: its place in the log; texts that sort as the actions were received.
    """

    received_at: float
    place: str


class QueryVector(Record):
    """A search query as vectors, M rows of D numbers, and the embedding model they belong to."""

    model_id: str
    vectors: tuple[tuple[float, ...], ...]


class RegisteredSession(Session):
    """A session as the store holds it, with its events in the order they happened.

    Attributes:
        search_results: every page's results, each object once, in the order they were shown.
        events: all events, by ``created_at`` then ``event_id``.
        query_vector: the query as it was embedded, when known.
        session_number: the session's place in its released batch, from 1; None before release.
        registered_at: when it came, in seconds since 1970 by the server's clock (``created_at`` is the
            client's word); left out of every dump, for the published answers do not have it.
    """

    search_results: tuple[SearchResult, ...] = ()
    is_irrelevant: bool = False
    events: tuple[SessionEvent, ...] = ()
    query_vector: QueryVector | None = None
    session_number: int | None = None
    registered_at: float | None = Field(default=None, exclude=True)


class BatchStatus(StrEnum):
    """A batch is collecting while its sessions are being numbered, and released for ever after."""

    COLLECTING = "collecting"
    RELEASED = "released"


class SessionBatch(Record):
    """The sessions registered between two releases."""

    batch_id: str
    release_id: str
    status: BatchStatus
    created_at: int
    released_at: int | None = None

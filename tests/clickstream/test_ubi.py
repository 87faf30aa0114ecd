"""UBI documents become the records they mean, and records become documents a strict validator accepts."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from clickstream.records import RegisteredSession, SearchResult, SessionEvent
from clickstream.ubi import event, query_session, to_ubi

Json = Any

# The constraints of UBI 1.3.0 (2025-02-26), restated without its descriptions: both request schemas are
# open objects, so only what they constrain is here.


def text(length: int | None = None) -> Json:
    return {"type": "string"} if length is None else {"type": "string", "maxLength": length}


def known_or_any(*known: str) -> Json:
    """The schema's pair of branches that a known word satisfies twice, and oneOf therefore refuses."""
    return {"oneOf": [text(100) | {"enum": list(known)}, text(100)]}


def fields(required: list[str], **properties: Json) -> Json:
    return {"type": "object", "required": required, "properties": properties}


ID = {"anyOf": [text(256), {"type": "integer"}]}
NUMBER = {"type": "number"}
MOMENT = text() | {"format": "date-time"}
QUERY_SCHEMA = Draft202012Validator(
    fields(
        ["user_query"],
        application=text(100),
        query_id=text(100),
        client_id=text(100),
        user_query=text(),
        query_attributes={"type": "object"},
        object_id_field=text(100),
        timestamp=MOMENT,
        query_response_id=text(),
        query_response_hit_ids={"type": "array", "items": text()},
    )
)
EVENT_SCHEMA = Draft202012Validator(
    fields(
        ["action_name", "timestamp"],
        application=text(100),
        action_name=known_or_any("add_to_cart", "click", "watch", "view", "purchase", "impression"),
        query_id=text(100),
        session_id=text(100),
        client_id=text(100),
        user_id=text(100),
        timestamp=MOMENT,
        message_type=text(100),
        message=text(1024),
        user_query=text(),
        event_attributes=fields(
            ["position"],
            object=fields(
                ["object_id"],
                object_id=ID,
                object_id_type=known_or_any("product", "user", "post", "comment", "video"),
                object_id_field=text(100),
                internal_id=ID,
            ),
            position={
                "type": "object",
                "oneOf": [
                    fields(["ordinal"], ordinal={"type": "integer"}),
                    fields(["xy"], xy=fields(["x", "y"], x=NUMBER, y=NUMBER)),
                ],
            },
        ),
    )
)

QUERY = {
    "application": "shop",
    "query_id": "00112233-4455-6677-8899-aabbccddeeff",
    "client_id": "browser 7",
    "user_query": "red shoes",
    "query_attributes": {"experiment": "b", "page": 1},
    "timestamp": "2024-05-16T12:34:56.789Z",
    "query_response_id": "r1",
    "query_response_hit_ids": ["a", "b"],
}
CLICK = {
    "application": "shop",
    "action_name": "click",
    "query_id": QUERY["query_id"],
    "session_id": "visit 3",
    "client_id": "browser 7",
    "timestamp": "2024-05-16T12:35:08.789Z",
    "message_type": "INFO",
    "event_attributes": {
        "object": {"object_id": "b", "object_id_type": "product"},
        "position": {"ordinal": 2},
        "dwell": 3.5,
    },
}


def without(document: Json, name: str) -> Json:
    return {key: value for key, value in document.items() if key != name}


def about(target: Json) -> Json:
    return CLICK | {"event_attributes": {"object": target, "position": {}}}


# Queries


def test_a_query_is_a_session_of_what_it_showed():
    session = query_session(QUERY)
    assert session.session_id == QUERY["query_id"]
    assert session.search_query == "red shoes"
    assert [result.object_id for result in session.search_results] == ["a", "b"]
    assert session.created_at == 1715862896
    assert session.search_meta == {
        "application": "shop",
        "client_id": "browser 7",
        "query_attributes": {"experiment": "b", "page": 1},
        "query_response_id": "r1",
    }


@pytest.mark.parametrize(
    "name", ["query_response_hit_ids", "query_response_object_ids", "query_response_objects_ids"]
)
def test_what_was_shown_is_found_by_its_name_in_every_version(name: str):
    session = query_session(without(QUERY, "query_response_hit_ids") | {name: ["x", 7]})
    assert [result.object_id for result in session.search_results] == ["x", "7"]


@pytest.mark.parametrize("shown", [{}, {"query_response_hit_ids": None}, {"query_response_hit_ids": []}])
def test_a_query_may_have_shown_nothing(shown: Json):
    assert query_session(without(QUERY, "query_response_hit_ids") | shown).search_results == ()


@pytest.mark.parametrize("asked", [{}, {"user_query": None}])
def test_a_recommendation_has_no_text(asked: Json):
    assert query_session(without(QUERY, "user_query") | asked).search_query == ""


def test_the_readmes_query_of_several_parts_is_read():
    session = query_session(QUERY | {"user_query": {"query": "RAM memory", "page": 1}})
    assert session.search_query == "RAM memory"
    assert (session.search_meta or {})["user_query"] == {"query": "RAM memory", "page": 1}


@pytest.mark.parametrize(
    ("identity", "user", "without_clients"),
    [
        ({"client_id": "c"}, "c", None),
        ({"client_id": "c", "user_id": "u"}, "u", "u"),
        ({"client_id": "c", "user_id": 1821196507152684}, "1821196507152684", "1821196507152684"),
        ({"client_id": "c", "query_attributes": {"user_id": "u"}}, "u", "u"),
        ({"client_id": "c", "user_id": ""}, "c", None),
        ({"client_id": None, "user_id": None}, None, None),
    ],
)
def test_the_user_is_who_the_document_names_and_else_its_client(
    identity: Json, user: str | None, without_clients: str | None
):
    document = {"query_id": "q", "user_query": "x"} | identity
    assert query_session(document).user_id == user
    assert query_session(document, client_is_user=False).user_id == without_clients


def test_the_engines_own_request_is_not_kept():
    assert query_session(QUERY | {"query": "{" * 100_000}).search_meta == query_session(QUERY).search_meta


# Time


@pytest.mark.parametrize(
    "timestamp",
    [
        "2024-05-16T12:34:56Z", "2024-05-16T12:34:56.999Z", "2024-05-16T12:34:56.123456789Z",
        "2024-05-16T14:34:56+02:00", "2024-05-16T12:34:56", "2024-05-16 12:34:56", "20240516T123456Z",
        "2024-05-16t12:34:56z", " 2024-05-16T12:34:56Z ", 1715862896, 1715862896789, 1715862896.5,
        1715862896789.0, "1715862896", "1715862896789", "1715862896.25",
    ],
)  # fmt: skip
def test_a_timestamp_of_any_form_is_whole_utc_seconds(timestamp: Json):
    assert query_session(QUERY | {"timestamp": timestamp}).created_at == 1715862896
    assert event(CLICK | {"timestamp": timestamp})[1].created_at == 1715862896


@settings(deadline=None, max_examples=50)
@given(
    st.datetimes(datetime(1973, 4, 1), datetime(9999, 12, 30)),
    st.timedeltas(timedelta(hours=-23), timedelta(hours=23)),
)
def test_the_forms_of_one_moment_are_one_moment(moment: datetime, offset: timedelta):
    utc = moment.replace(tzinfo=UTC, microsecond=moment.microsecond // 1000 * 1000)
    seconds = (utc - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    milliseconds = seconds * 1000 + utc.microsecond // 1000
    minutes = timedelta(minutes=offset // timedelta(minutes=1))
    sign, hours = ("-", -minutes) if minutes < timedelta(0) else ("+", minutes)
    local = (utc + minutes).replace(tzinfo=None).isoformat()
    shifted = f"{local}{sign}{hours // timedelta(hours=1):02}:{hours // timedelta(minutes=1) % 60:02}"
    for form in (utc.isoformat(), shifted, milliseconds, str(milliseconds)):
        assert query_session(QUERY | {"timestamp": form}).created_at == seconds


def test_a_day_is_its_first_second():
    assert query_session(QUERY | {"timestamp": "2024-05-16"}).created_at == 1715817600
    assert query_session(QUERY | {"timestamp": "20240516"}).created_at == 1715817600


def test_a_query_without_a_time_leaves_it_to_the_server():
    assert query_session(without(QUERY, "timestamp")).created_at is None


@pytest.mark.parametrize(
    "timestamp",
    ["", "soon", "2024-13-01T00:00:00Z", "1969-12-31T23:59:59Z", "12345", "9" * 30, float("nan"),
     float("inf"), -1, -0.5, 10**400, 1715862896789000, True, [], {}, "\ud800", "２０２４"],
)  # fmt: skip
def test_a_timestamp_that_is_none_is_refused(timestamp: Json):
    for read, document in ((query_session, QUERY), (event, CLICK)):
        with pytest.raises(ValueError, match="timestamp: expected ISO 8601") as refusal:
            read(document | {"timestamp": timestamp})
        str(refusal.value).encode()


# Events


def test_a_click_is_an_event_of_its_query():
    session_id, click = event(CLICK)
    assert session_id == QUERY["query_id"]
    assert (click.event_type, click.object_id, click.created_at) == ("click", "b", 1715862908)
    assert click.meta == {
        "application": "shop",
        "session_id": "visit 3",
        "client_id": "browser 7",
        "message_type": "INFO",
        "event_attributes": CLICK["event_attributes"],
        "position": 2,
    }


@pytest.mark.parametrize("action", ["click", "impression", "item_click", "add_to_cart", "product_hover", "ü"])
def test_an_action_is_an_event_type_of_the_same_name(action: str):
    assert event(CLICK | {"action_name": action})[1].event_type == action


@pytest.mark.parametrize(
    ("position", "place"),
    [({"ordinal": 3}, 3), ({"ordinal": {"index": 3}}, 3), ({"ordinal": 0}, 0), ({"xy": {"x": 1}}, None),
     ({"ordinal": "3"}, None), ({"ordinal": True}, None), ({}, None), (None, None), ([3], None)],
)  # fmt: skip
def test_the_place_is_kept_when_there_is_one(position: Json, place: int | None):
    attributes = {"object": {"object_id": "b"}, "position": position}
    meta = event(CLICK | {"event_attributes": attributes})[1].meta or {}
    assert meta.get("position") == place


@pytest.mark.parametrize(
    ("target", "object_id"),
    [
        ({"object_id": "b"}, "b"),
        ({"object_id": 17}, "17"),
        ({"object_id": 0}, "0"),
        ({"object_id": None, "object_id_field": "isbn", "isbn": "978-3"}, "978-3"),
        ({"object_id": "b", "object_id_field": "isbn", "isbn": "978-3"}, "b"),
    ],
)
def test_the_object_is_found_where_senders_put_it(target: Json, object_id: str):
    assert event(about(target))[1].object_id == object_id


def test_an_event_sent_twice_is_one_event_and_another_is_another():
    event_id = event(CLICK)[1].event_id
    assert event(json.loads(json.dumps(CLICK)))[1].event_id == event_id
    assert event(CLICK | {"timestamp": "2024-05-16T14:35:08.789+02:00"})[1].event_id == event_id
    others = [
        CLICK | {"timestamp": "2024-05-16T12:35:08.790Z"},
        CLICK | {"query_id": "q2"},
        CLICK | {"client_id": "browser 8"},
        CLICK | {"session_id": "visit 4"},
        CLICK | {"action_name": "view"},
        CLICK | {"client_id": "visit 3", "session_id": "browser 7"},
        without(CLICK, "client_id"),
        about({"object_id": "a"}),
    ]
    ids = {event(other)[1].event_id for other in others}
    assert len(ids | {event_id}) == len(others) + 1


def test_an_events_own_id_is_kept():
    assert event(CLICK | {"event_id": "e1", "id": "x"})[1].event_id == "e1"
    assert event(CLICK | {"id": 12})[1].event_id == "12"


def test_a_page_exit_teaches_nothing_and_says_so():
    page_exit = {
        "action_name": "page_exit", "user_id": "1821196507152684", "query_id": "q", "session_id": "s",
        "timestamp": "2024-05-16T12:34:56.789Z", "message": "On page for 3.35 seconds",
        "event_attributes": {"position": {}, "object": {"idleTimeoutMs": 5000}},
    }  # fmt: skip
    with pytest.raises(ValueError, match="object_id: expected an id, got none, so there is nothing to learn"):
        event(page_exit)


# What is wrong


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (None, "the document: expected an object, got none"),
        ([QUERY], "the document: expected an object, got a list"),
        ("query", "the document: expected an object, got 'query'"),
        (without(QUERY, "query_id"), "query_id: expected the id that events will refer to, got none"),
        (QUERY | {"query_id": ""}, "query_id: expected the id"),
        (QUERY | {"query_id": {"a": 1}}, "query_id: expected a text or a whole number, got an object"),
        (QUERY | {"query_id": 1.5}, "query_id: expected a text or a whole number, got a number"),
        (QUERY | {"query_id": True}, "query_id: expected a text or a whole number, got a boolean"),
        (QUERY | {"query_id": 10**5000}, "query_id: expected a text or a whole number"),
        (QUERY | {"query_id": "x" * 513}, "query_id: String should have at most 512 characters"),
        (QUERY | {"query_id": "\ud800"}, "query_id: "),
        (QUERY | {"client_id": ["c"]}, "client_id: expected a text"),
        (QUERY | {"user_id": {"id": 1}}, "user_id: expected a text"),
        (QUERY | {"query_attributes": "page 1"}, "query_attributes: expected an object"),
        (QUERY | {"query_attributes": {"user_id": []}}, "query_attributes.user_id: expected a text"),
        (QUERY | {"user_query": 5}, "user_query: expected a text, got a number"),
        (QUERY | {"user_query": {"q": 1}, "query_id": None}, "query_id"),
        (QUERY | {"user_query": "x" * 20_000}, "user_query: String should have at most 16384 characters"),
        (QUERY | {"user_query": "\udfff"}, "user_query: "),
        (QUERY | {"query_response_hit_ids": "a"}, "query_response_hit_ids: expected a list of ids, got 'a'"),
        (QUERY | {"query_response_hit_ids": ["a", None]}, "hit_ids[1]: expected an id, got none"),
        (QUERY | {"query_response_hit_ids": [["a"]]}, "query_response_hit_ids[0]: expected a text"),
        (QUERY | {"query_response_hit_ids": ["\ud800"]}, "query_response_hit_ids: "),
        (QUERY | {"query_response_hit_ids": ["x" * 513]}, "hit_ids: String should have at most"),
        (QUERY | {"query_response_hit_ids": list(range(1001))}, "query_response_hit_ids: Tuple should have"),
        (QUERY | {"query_attributes": {"x": float("nan")}}, "the other fields: a number is NaN or infinite"),
        (QUERY | {"query_attributes": {"x": "y" * 20_000}}, "the other fields: larger than 16384 bytes"),
        (QUERY | {"query_attributes": {"x": 2**70}}, "the other fields: a whole number does not fit 64 bits"),
    ],
)  # fmt: skip
def test_a_wrong_query_is_refused_by_its_own_names(document: Json, reason: str):
    with pytest.raises(ValueError) as refusal:
        query_session(document)
    assert reason in str(refusal.value)
    str(refusal.value).encode()


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (3, "the document: expected an object, got a number"),
        (without(CLICK, "query_id"), "query_id: expected the query this event follows, got none"),
        (CLICK | {"query_id": "x" * 513}, "query_id: String should have at most 512 characters"),
        (CLICK | {"query_id": "\ud800"}, "query_id: "),
        (without(CLICK, "action_name"), "action_name: expected a text, got none"),
        (CLICK | {"action_name": ["click"]}, "action_name: expected a text, got a list"),
        (CLICK | {"action_name": ""}, "action_name: String should have at least 1 character"),
        (CLICK | {"action_name": "x" * 129}, "action_name: String should have at most 128 characters"),
        (without(CLICK, "timestamp"), "timestamp: expected when the event happened, got none"),
        (without(CLICK, "event_attributes"), "nothing to learn from"),
        (CLICK | {"event_attributes": []}, "event_attributes: expected an object, got a list"),
        (CLICK | {"event_attributes": {"object": "b"}}, "attributes.object: expected an object, got 'b'"),
        (about({"object_id": ""}), "event_attributes.object.object_id: expected an id, got none"),
        (about({"object_id": {}}), "event_attributes.object.object_id: expected a text"),
        (about({"object_id": "x" * 513}), "event_attributes.object.object_id: String should have at most"),
        (about({"object_id": "\ud800"}), "event_attributes.object.object_id: "),
        (about({"object_id_field": "\ud800", "\ud800": []}), "expected a text or a whole number, got a list"),
        (CLICK | {"session_id": {}}, "session_id: expected a text"),
        (CLICK | {"event_id": []}, "event_id: expected a text"),
        (CLICK | {"message": "\ud800"}, "the other fields: text is not valid Unicode"),
    ],
)  # fmt: skip
def test_a_wrong_event_is_refused_by_its_own_names(document: Json, reason: str):
    with pytest.raises(ValueError) as refusal:
        event(document)
    assert reason in str(refusal.value)
    str(refusal.value).encode()


def test_a_deep_nest_is_refused():
    deep: Json = "x"
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="the other fields: nested deeper than 16 levels"):
        query_session(QUERY | {"query_attributes": {"deep": deep}})
    with pytest.raises(ValueError, match="the other fields: nested deeper than 16 levels"):
        event(CLICK | {"extra": deep})
    with pytest.raises(ValueError, match="query_id: expected a text"):
        query_session(QUERY | {"query_id": deep})


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4),
    st.sampled_from(["\ud800", 10**400, "2024-05-16", 1715862896789, ""]),
)  # fmt: skip
NAMES = st.sampled_from(
    sorted(
        {*QUERY, *CLICK, "object", "object_id", "object_id_field", "position", "ordinal", "originals", "id"}
    )
)
JUNK = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=4))
)


def refusal(read: Callable[[Json], Any], document: Json) -> str | None:
    try:
        read(document)
    except ValueError as error:
        return str(error).encode().decode()
    return None


@settings(deadline=None, max_examples=50)
@given(junk=st.one_of(JUNK, st.dictionaries(NAMES, JUNK)), place=NAMES)
def test_junk_is_refused_with_a_reason_or_read_but_never_crashes(junk: Json, place: str):
    for read in (query_session, event):
        for document in (junk, QUERY | {place: junk}, CLICK | {place: junk}, about({place: junk})):
            reason = refusal(read, document)
            assert reason is None or re.match(r"[\w.'\[\]\\ ]+: \S", reason)


# Writing


def valid(schema: Draft202012Validator, document: Json) -> bool:
    return not list(schema.iter_errors(json.loads(json.dumps(document))))


def test_the_restated_schema_sets_the_traps_of_the_published_one():
    assert valid(QUERY_SCHEMA, QUERY)
    assert not valid(EVENT_SCHEMA, CLICK)
    plain = about({"object_id": "b"}) | {"action_name": "item_click"}
    assert not valid(EVENT_SCHEMA, plain)
    placed = {"object": {"object_id": "b"}, "position": {"ordinal": 2}}
    assert valid(EVENT_SCHEMA, plain | {"event_attributes": placed})


IDS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
    st.sampled_from(["q" * 100, "q" * 101, "q" * 512, "00112233-4455-6677-8899-aabbccddeeff"]),
)
TIMES = st.integers(0, 253_402_300_799)
TYPES = st.sampled_from(["click", "impression", "click_through", "item_click", "like", "e" * 101, "e" * 128])
METAS = st.one_of(
    st.none(),
    st.dictionaries(
        NAMES, st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 9), st.none())
    ),
    st.just({"event_attributes": {"originals": {"object_id": "other"}, "position": "first"}}),
    st.just({"query_attributes": {"originals": {"query_id": "other"}, "user_id": "other"}}),
)
EVENTS = st.builds(SessionEvent, event_id=IDS, object_id=IDS, event_type=TYPES, created_at=TIMES, meta=METAS)
SESSIONS = st.builds(
    RegisteredSession,
    session_id=IDS,
    search_query=st.text(st.characters(exclude_categories=["Cs"])),
    search_results=st.lists(st.builds(SearchResult, object_id=IDS), max_size=4),
    search_meta=METAS,
    user_id=st.one_of(st.none(), IDS),
    created_at=st.one_of(st.none(), TIMES),
    domain=st.one_of(st.none(), st.just("shop")),
    events=st.lists(EVENTS, max_size=4),
)


@settings(deadline=None, max_examples=50)
@given(session=SESSIONS)
def test_what_is_written_is_valid_by_the_letter_and_reads_back(session: RegisteredSession):
    query, events = to_ubi(session)
    assert not list(QUERY_SCHEMA.iter_errors(json.loads(json.dumps(query))))
    for document in events:
        assert not list(EVENT_SCHEMA.iter_errors(json.loads(json.dumps(document))))
        assert document["query_id"] == query["query_id"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", document["timestamp"])
    read = query_session(query, client_is_user=False)
    same = ("session_id", "search_query", "search_results", "user_id", "created_at")
    assert [getattr(read, name) for name in same] == [
        tuple(SearchResult(object_id=result.object_id) for result in session.search_results)
        if name == "search_results"
        else getattr(session, name)
        for name in same
    ]
    for document, written in zip(events, session.events, strict=True):
        session_id, back = event(document)
        assert session_id == session.session_id
        for name in ("event_id", "object_id", "event_type", "created_at"):
            assert getattr(back, name) == getattr(written, name)


def test_a_click_is_written_as_item_click_with_its_place_and_sender():
    session = query_session(QUERY)
    click = SessionEvent(event_id="e1", object_id="b", created_at=1715862908)
    registered = RegisteredSession(**session.model_dump(), events=(click,))
    query, (written,) = to_ubi(registered)
    assert query == QUERY | {
        "timestamp": "2024-05-16T12:34:56Z",
        "query_attributes": {"experiment": "b", "page": 1, "user_id": "browser 7"},
    }
    assert written == {
        "application": "shop",
        "client_id": "browser 7",
        "user_id": "browser 7",
        "action_name": "item_click",
        "query_id": QUERY["query_id"],
        "timestamp": "2024-05-16T12:35:08Z",
        "event_id": "e1",
        "event_attributes": {
            "object": {"object_id": "b"},
            "position": {"ordinal": 2},
            "originals": {"action_name": "click"},
        },
    }


def test_an_original_that_does_not_belong_to_the_written_value_is_ignored():
    attributes = {"object": {"object_id": "b"}, "originals": {"object_id": "a", "action_name": "click"}}
    read = event(CLICK | {"action_name": "view", "event_attributes": attributes})[1]
    assert (read.object_id, read.event_type) == ("b", "view")
    attributes = {"originals": {"query_id": "another"}}
    assert query_session(QUERY | {"query_attributes": attributes}).session_id == QUERY["query_id"]


def test_an_event_on_something_not_shown_has_ordinal_0_and_one_without_a_time_its_sessions():
    unseen = SessionEvent(event_id="e", object_id="z", event_type="like")
    session = RegisteredSession(session_id="q", search_query="", created_at=5, events=(unseen,))
    query, (written,) = to_ubi(session)
    assert written["event_attributes"]["position"] == {"ordinal": 0}
    assert written["timestamp"] == query["timestamp"] == "1970-01-01T00:00:05Z"

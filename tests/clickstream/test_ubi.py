"""UBI documents of every seen shape become records, and bad ones say why."""

import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from clickstream.records import RegisteredSession, SearchResult, SessionEvent
from clickstream.ubi import event, query_session, seconds, to_ubi

QUERY = {
    "application": "shop",
    "query_id": "q1",
    "client_id": "browser-7",
    "user_query": "red shoes",
    "query_attributes": {"ab": "B"},
    "query_response_hit_ids": ["a", "b"],
    "timestamp": "2026-01-01T10:00:00.000Z",
}
EVENT = {
    "action_name": "click",
    "query_id": "q1",
    "session_id": "s1",
    "client_id": "browser-7",
    "user_id": "ann",
    "timestamp": "2026-01-01T10:00:30.000Z",
    "event_attributes": {"object": {"object_id": "b", "object_id_field": "sku"}, "position": {"ordinal": 2}},
}


def without(document: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}


def test_a_query_becomes_a_session():
    session = query_session(QUERY)
    assert (session.session_id, session.search_query, session.user_id) == ("q1", "red shoes", "browser-7")
    assert [result.object_id for result in session.search_results] == ["a", "b"]
    assert session.created_at == 1_767_261_600
    assert session.search_meta == {
        "application": "shop",
        "client_id": "browser-7",
        "query_attributes": {"ab": "B"},
    }


def test_older_schemas_name_the_hits_otherwise():
    older = without(QUERY, "query_response_hit_ids") | {"query_response_object_ids": ["x", 5]}
    assert [result.object_id for result in query_session(older).search_results] == ["x", "5"]


def test_a_recommendation_has_no_query_text_and_may_have_no_hits():
    session = query_session(without(QUERY, "user_query", "query_response_hit_ids", "timestamp"))
    assert (session.search_query, session.search_results, session.created_at) == ("", (), None)


def test_a_user_is_who_is_named_before_the_client():
    assert query_session(QUERY | {"user_id": "ann"}).user_id == "ann"
    assert query_session(QUERY | {"query_attributes": {"user_id": "ann"}}).user_id == "ann"
    assert query_session(QUERY, client_is_user=False).user_id is None


@pytest.mark.parametrize("action", ["click", "impression", "item_click", "add_to_cart", "anything at all"])
def test_any_action_name_is_an_event_type(action: str):
    session_id, found = event(EVENT | {"action_name": action})
    assert (session_id, found.event_type, found.object_id) == ("q1", action, "b")
    assert found.created_at == 1_767_261_630
    assert found.meta is not None
    assert found.meta["event_attributes"]["position"] == {"ordinal": 2}


def test_the_same_document_is_the_same_event_and_another_is_another():
    again = event(dict(reversed(EVENT.items())))[1]
    assert event(EVENT)[1].event_id == again.event_id
    for name, value in (
        ("timestamp", "2026-01-01T10:00:31Z"),
        ("action_name", "hover"),
        ("session_id", "s2"),
    ):
        assert event(EVENT | {name: value})[1].event_id != again.event_id
    assert event(EVENT | {"event_id": "mine"})[1].event_id == "mine"


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        ("2026-01-01T10:00:00Z", 1_767_261_600),
        ("2026-01-01T10:00:00", 1_767_261_600),
        ("2026-01-01T11:00:00.999+01:00", 1_767_261_600),
        ("2026-01-01T10:00:00.123456Z", 1_767_261_600),
        (1_767_261_600, 1_767_261_600),
        (1_767_261_600_999, 1_767_261_600),
        (1_767_261_600.5, 1_767_261_600),
        ("1767261600999", 1_767_261_600),
        (None, None),
    ],
)
def test_times_are_read_as_they_are_seen(stamp: Any, expected: int | None):
    assert seconds(stamp) == expected


@pytest.mark.parametrize(
    "stamp", ["yesterday", "", math.nan, math.inf, -1, 1e300, "1e300", "nan", True, [], {}]
)
def test_what_is_no_time_is_refused(stamp: Any):
    with pytest.raises(ValueError, match="timestamp"):
        seconds(stamp)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ([], "expected a JSON object"),
        (None, "expected a JSON object"),
        (without(QUERY, "query_id"), "query_id: expected a text"),
        (QUERY | {"query_id": ""}, "query_id: expected a text"),
        (QUERY | {"query_id": 2**80}, "query_id: expected a text"),
        (QUERY | {"query_response_hit_ids": "a"}, "query_response_hit_ids: expected a list"),
        (QUERY | {"query_response_hit_ids": [{}]}, "query_response_hit_ids: expected a text"),
        (QUERY | {"query_attributes": 5}, "query_attributes: expected a JSON object"),
        (QUERY | {"user_query": 5}, "search_query"),
        (QUERY | {"query_id": "\ud800"}, "unicode"),
    ],
)
def test_a_bad_query_says_why(document: Any, says: str):
    with pytest.raises((ValueError, ValidationError), match=says):
        query_session(document)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("click", "expected a JSON object"),
        (without(EVENT, "query_id"), "query_id: expected, because it joins"),
        (without(EVENT, "event_attributes"), "nothing to learn from"),
        (EVENT | {"event_attributes": {"object": "b"}}, "object: expected a JSON object"),
        (without(EVENT, "action_name"), "action_name: expected a text"),
        (EVENT | {"timestamp": "soon"}, "timestamp: expected"),
    ],
)
def test_a_bad_event_says_why(document: Any, says: str):
    with pytest.raises(ValueError, match=says):
        event(document)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*QUERY, *EVENT]), inner),
    max_leaves=10,
)


@given(JSON, st.dictionaries(st.sampled_from([*QUERY, *EVENT]), JSON))
def test_any_json_is_taken_or_refused_with_a_reason(document: Any, change: dict[str, Any]):
    for read, base in ((query_session, QUERY), (event, EVENT)):
        for given_document in (document, {**base, **change}):
            with suppress(ValueError):  # anything else than a ValueError is a defect
                read(given_document)


def test_an_exported_session_reads_back():
    session = RegisteredSession(
        session_id="q1",
        search_query="red shoes",
        search_results=(SearchResult(object_id="a"), SearchResult(object_id="b")),
        user_id="ann",
        created_at=1_767_261_600,
        events=(SessionEvent(event_id="e", object_id="b", created_at=1_767_261_630),),
    )
    query, events = to_ubi(session)
    back = query_session(query)
    for name in ("session_id", "search_query", "user_id", "created_at", "search_results"):
        assert getattr(back, name) == getattr(session, name)
    session_id, one = event(events[0])
    assert (session_id, one.object_id, one.event_type) == ("q1", "b", "item_click")
    assert one.created_at == 1_767_261_630
    assert events[0]["event_attributes"]["position"] == {"ordinal": 2}

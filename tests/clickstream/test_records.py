"""What a stranger may send, and what is refused before it reaches a store."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from clickstream.records import MAX_META_DEPTH, SearchResult, Session, SessionEvent, storable


@given(st.text(min_size=1, max_size=50, alphabet=st.characters(codec="utf-8")))
def test_an_id_may_have_any_characters(text: str):
    assert Session(session_id=text, search_query=text).session_id == text


@pytest.mark.parametrize("bad", ["", "x" * 513, "\ud800"])
def test_an_id_that_no_store_can_hold_is_refused(bad: str):
    with pytest.raises(ValidationError, match="session_id"):
        Session(session_id=bad, search_query="q")


@pytest.mark.parametrize(
    "meta",
    [
        {"a": math.nan},
        {"a": [math.inf]},
        {"a": 2**63},
        {"nul\0": 1},
        {"a": "\udfff"},
        {"a": "x" * 20_000},
    ],
)
def test_meta_that_no_store_can_hold_is_refused(meta: dict):
    with pytest.raises(ValidationError, match="meta"):
        SessionEvent(event_id="e", object_id="o", meta=meta)


def test_meta_nested_too_deep_is_refused():
    nested: dict = {}
    for _ in range(MAX_META_DEPTH + 2):
        nested = {"a": nested}
    with pytest.raises(ValueError, match="nested deeper"):
        storable(nested)


@pytest.mark.parametrize("rank", [math.nan, math.inf, "first"])
def test_a_rank_is_a_finite_number(rank: object):
    with pytest.raises(ValidationError, match="rank"):
        SearchResult(object_id="o", rank=rank)


def test_a_session_shows_at_most_a_thousand_results_a_request():
    results = [{"object_id": str(i)} for i in range(1_001)]
    with pytest.raises(ValidationError, match="search_results"):
        Session(session_id="s", search_query="q", search_results=results)

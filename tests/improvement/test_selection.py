"""Which sessions teach, and what counts as skipped (seed 002)."""

import pytest

from clickstream.records import RegisteredSession, SearchResult, SessionEvent
from improvement.selection import SessionSelector, SkippedItems

START = 1_800_000_000


def session(
    shown: str, clicks: str, seconds: int = 30, event_type: str = "click", **changes
) -> RegisteredSession:
    fields = {
        "session_id": "s",
        "search_query": "q",
        "search_results": tuple(SearchResult(object_id=o) for o in shown),
        "user_id": "u",
        "created_at": START,
        "events": tuple(
            SessionEvent(event_id=str(i), object_id=o, event_type=event_type, created_at=START + seconds)
            for i, o in enumerate(clicks)
        ),
    }
    return RegisteredSession(**fields | changes)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (session("abc", ""), "no clicks"),
        (session("abc", "b", event_type="impression"), "no clicks"),
        (session("abc", "b", event_type="hide"), "no clicks"),
        (session("abc", "b", seconds=9), "lasted 9 s, under 10 s"),
        (session("abc", "b", seconds=-5), "under 10 s"),
        (session("abc", "b" * 11), "11 clicks, more than 10"),
        (session("abc", "b", is_irrelevant=True), "marked irrelevant"),
        (session("abc", "b", user_id=None), "anonymous"),
        (session("abc", "z"), "no click on a shown object"),
        (session("", "z"), "no click on a shown object"),
    ],
)
def test_a_session_that_teaches_nothing_says_why(given: RegisteredSession, reason: str):
    selection = SessionSelector().select(given)
    assert not selection.usable
    assert reason in str(selection.reason)


@pytest.mark.parametrize("given", [session("abc", "b", seconds=10), session("abc", "b" * 10)])
def test_the_limits_themselves_are_allowed(given: RegisteredSession):
    assert SessionSelector().select(given).usable


def test_a_click_below_the_third_place_goes_first():
    assert SessionSelector().select(session("abcd", "d")).priority == 0
    assert SessionSelector().select(session("abcd", "c")).priority == 1


@pytest.mark.parametrize(
    ("skipped_items", "skipped"), [(SkippedItems.ALL, "acef"), (SkippedItems.EXAMINED, "ac")]
)
def test_skipped_is_all_or_what_stands_above_the_last_click(skipped_items: SkippedItems, skipped: str):
    selector = SessionSelector(skipped_items=skipped_items)
    assert selector.split(session("abcdef", "bd")) == (["b", "d"], list(skipped))


def test_nothing_skipped_is_a_case_not_an_error():
    assert SessionSelector(skipped_items=SkippedItems.ALL).split(session("ab", "ab")) == (["a", "b"], [])

"""Which sessions teach (seed 002)."""

import pytest

from clickstream.records import RegisteredSession, SearchResult, SessionEvent
from improvement.evidence import EVENT_WEIGHTS, EvidenceWeights
from improvement.selection import CLICKS, SessionSelector

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
        (session("abc", "b", event_type="skip"), "no clicks"),
        (session("abc", "b", seconds=9), "lasted 9 s, under 10 s"),
        (session("abc", "b", seconds=-5), "under 10 s"),
        (session("abc", "b" * 11), "11 clicks, more than 10"),
        (session("abc", "b", is_irrelevant=True), "marked irrelevant"),
        (session("abc", "b", user_id=None), "anonymous"),
        (session("abc", "z"), "no click on a shown object"),
        (session("", "z"), "no click on a shown object"),
        (session("abc", "z", event_type="hide"), "no dislike on a shown object"),
        (session("abc", "b", event_type="hide", is_irrelevant=True), "marked irrelevant"),
        (session("abc", "b", event_type="hide", user_id=None), "anonymous"),
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


@pytest.mark.parametrize("event_type", ["not_interested", "dislike", "hide", "block", "mute"])
@pytest.mark.parametrize("seconds", [-5, 0, 1, 30])
def test_a_dislike_of_a_shown_object_teaches_without_a_click_and_at_once(event_type: str, seconds: int):
    selection = SessionSelector().select(session("abcd", "d", seconds=seconds, event_type=event_type))
    assert (selection.usable, selection.priority) == (True, 1)


def both(clicked: str, disliked: str, seconds: int) -> RegisteredSession:
    hidden = session("abc", disliked, event_type="hide", seconds=seconds).events
    click = session("abc", clicked, seconds=seconds).events[0].model_copy(update={"event_id": "click"})
    return session("abc", "", events=(*hidden, click))


def test_a_dislike_does_not_make_a_bounce_with_a_click_teach():
    assert SessionSelector().select(both("a", "b", seconds=10)).usable
    assert "lasted 9 s" in str(SessionSelector().select(both("a", "b", seconds=9)).reason)


def test_one_click_or_dislike_on_something_shown_is_enough():
    assert SessionSelector().select(both("z", "b", seconds=30)).usable
    assert SessionSelector().select(both("b", "z", seconds=30)).usable
    assert not SessionSelector().select(both("y", "z", seconds=30)).usable


def test_which_events_count_is_the_plugins_choice():
    selector = SessionSelector(click_events=frozenset({"play"}), dislike_events=frozenset({"skip"}))
    assert selector.select(session("abc", "b", event_type="play")).usable
    assert selector.select(session("abc", "b", event_type="skip")).usable
    assert selector.select(session("abc", "b", event_type="hide")).reason == "no clicks"
    assert not SessionSelector(dislike_events=frozenset()).select(session("a", "a", event_type="hide")).usable


def test_clicks_and_dislikes_are_events_that_evidence_weighs():
    selector = SessionSelector()
    assert EvidenceWeights.published().events.keys() == CLICKS
    assert all(EVENT_WEIGHTS[event] > 0 for event in selector.click_events)
    assert all(EVENT_WEIGHTS[event] < 0 for event in selector.dislike_events)

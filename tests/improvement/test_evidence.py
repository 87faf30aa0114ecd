"""What a session says about what it showed: bounded, monotone, whatever a stranger puts into an event."""

import copy
import math
import pickle
import random
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickstream.records import RegisteredSession, SearchResult, SessionEvent
from improvement.evidence import DAY, EVENT_WEIGHTS, EvidenceWeights, SkippedItems, happened_at

Happened = tuple[str, str, Any]


def session(shown: str, *happened: Happened | tuple[str, str]) -> RegisteredSession:
    """A session that showed one object a letter, and its events: object, type and dwell."""
    events = [
        SessionEvent.model_construct(
            event_id=str(i),
            object_id=object_id,
            event_type=event_type,
            created_at=i,
            meta={"dwell_seconds": dwell[0]} if dwell else None,
        )
        for i, (object_id, event_type, *dwell) in enumerate(happened)
    ]
    return RegisteredSession.model_construct(
        session_id="s",
        search_query="q",
        search_results=tuple(SearchResult(object_id=o) for o in shown),
        user_id="u",
        events=tuple(events),
    )


#: Plain enough to count by hand: no means, no curve.
PLAIN = EvidenceWeights(per_session=False, saturation=None, events={"click": 0.5, "hide": -0.5, "love": 3.0})

TYPES = st.sampled_from([*EVENT_WEIGHTS, "impression", "", "click "])
DWELLS = st.one_of(
    st.none(),
    st.floats(),
    st.integers(-(10**400), 10**400),
    st.booleans(),
    st.text(),
    st.just([9]),
    st.just({}),
)
EVENTS = st.lists(st.tuples(st.sampled_from("abcdxyz"), TYPES, DWELLS), max_size=12)
SESSIONS = st.builds(
    lambda shown, events: session("".join(shown), *events), st.lists(st.sampled_from("abcdef")), EVENTS
)
WEIGHTS = st.builds(
    EvidenceWeights,
    events=st.dictionaries(TYPES, st.floats(-1e6, 1e6)),
    saturation=st.one_of(st.none(), st.floats(0, exclude_min=True, allow_infinity=False)),
    skipped=st.floats(-1e6, 0),
    skipped_items=st.sampled_from(SkippedItems),
    long_dwell=st.floats(-1e6, 1e6),
    short_dwell=st.floats(-1e6, 1e6),
    per_session=st.booleans(),
    max_inverse_propensity=st.floats(1, 1e6),
)
PROPENSITIES = st.lists(st.floats(0, 1), max_size=8)


@settings(deadline=None, max_examples=50)
@given(weights=WEIGHTS, given=SESSIONS, propensities=PROPENSITIES)
def test_evidence_is_about_shown_objects_in_their_order_bounded_and_never_0(
    weights: EvidenceWeights, given: RegisteredSession, propensities: list[float]
):
    shown = list(dict.fromkeys(result.object_id for result in given.search_results))
    for one, bound in (
        (weights, weights.max_inverse_propensity),
        (replace(weights, max_inverse_propensity=1), 1.0),
    ):
        evidence = one.of(given, propensities)
        assert list(evidence) == [o for o in shown if o in evidence]
        assert all(0 < abs(weight) <= bound for weight in evidence.values())


@settings(deadline=None, max_examples=50)
@given(weights=WEIGHTS, given=SESSIONS, propensities=PROPENSITIES, shuffle=st.randoms(use_true_random=False))
def test_the_order_of_events_changes_not_even_the_last_bit(
    weights: EvidenceWeights, given: RegisteredSession, propensities: list[float], shuffle: random.Random
):
    events = list(given.events)
    shuffle.shuffle(events)
    shuffled = given.model_copy(update={"events": tuple(events)})
    assert weights.of(shuffled, propensities) == weights.of(given, propensities)


@settings(deadline=None, max_examples=50)
@given(
    given=SESSIONS, event_type=st.sampled_from(list(EVENT_WEIGHTS)),
    less=st.floats(-20, 20), more=st.floats(-20, 20), saturation=st.one_of(st.none(), st.floats(0.1, 50)),
)  # fmt: skip
def test_a_larger_weight_of_an_event_never_speaks_less_for_its_object(
    given: RegisteredSession, event_type: str, less: float, more: float, saturation: float | None
):
    less, more = sorted((less, more))
    low, high = (
        EvidenceWeights(
            events=EVENT_WEIGHTS | {event_type: weight}, saturation=saturation, skipped=0, per_session=False
        ).of(given)
        for weight in (less, more)
    )
    about = {event.object_id for event in given.events if event.event_type == event_type}
    for object_id in low.keys() | high.keys():
        before, after = low.get(object_id, 0.0), high.get(object_id, 0.0)
        assert before <= after if object_id in about else before == after


def test_the_sum_of_events_is_exact_whichever_comes_first():
    weights = replace(PLAIN, events={"x": 0.1, "y": 0.2, "z": 0.3})
    assert weights.of(session("a", ("a", "x"), ("a", "y"), ("a", "z"))) == {
        "a": 0.6
    }  # not 0.6000000000000001


def test_evidence_too_small_for_a_float_is_none():
    faint = EvidenceWeights(events={"click": 5e-324}, per_session=True)
    assert faint.of(session("ab", ("b", "click"))) == {}


def test_events_of_one_object_add_up_and_are_cut_off_or_saturate():
    clicks = session("ab", ("a", "click"), ("a", "click"), ("a", "hide"))
    assert PLAIN.of(clicks) == {"a": 0.5}
    assert PLAIN.of(session("a", ("a", "love"))) == {"a": 1.0}
    curved = replace(PLAIN, saturation=5.0)
    assert curved.of(session("a", ("a", "love"))) == {"a": math.tanh(3 / 5)}
    assert curved.of(session("a", *[("a", "love")] * 900)) == {"a": 1.0}


def test_the_default_orders_the_events_as_the_seeds_do():
    def says(event_type: str) -> float:
        return EvidenceWeights().of(session("a", ("a", event_type))).get("a", 0.0)

    order = [
        "block",
        "dislike",
        "hide",
        "skip",
        "impression",
        "view",
        "click",
        "like",
        "bookmark",
        "comment",
        "share",
    ]
    values = [says(event_type) for event_type in order]
    assert values == sorted(values)
    assert len(set(values)) == len(values)
    assert says("impression") == says("Click") == 0


def test_what_was_not_shown_says_nothing():
    assert EvidenceWeights().of(session("ab", ("z", "click"), ("y", "hide"))) == {}
    assert EvidenceWeights().of(session("", ("z", "click"))) == {}


def test_an_object_listed_twice_stands_where_it_was_seen_first():
    twice = session("aba", ("a", "click"))
    assert PLAIN.of(twice) == {"a": 0.5}
    assert PLAIN.of(session("bcb", ("c", "click"))) == {"b": -1.0, "c": 0.5}


@pytest.mark.parametrize(
    ("skipped_items", "skipped"), [(SkippedItems.ALL, "acef"), (SkippedItems.EXAMINED, "ac")]
)
def test_skipped_is_all_or_what_stands_above_the_last_click(skipped_items: SkippedItems, skipped: str):
    published = EvidenceWeights.published(skipped_items)
    expected = {"b": 0.5, "d": 0.5} | {o: -1 / len(skipped) for o in skipped}
    assert published.of(session("abcdef", ("b", "click"), ("d", "click"))) == expected


def test_nothing_skipped_is_a_case_not_an_error():
    assert EvidenceWeights.published().of(session("ab", ("a", "click"), ("b", "like"))) == {
        "a": 0.5,
        "b": 0.5,
    }


def test_an_explicit_dislike_teaches_and_takes_nothing_else_as_skipped():
    weights = EvidenceWeights(skipped_items=SkippedItems.ALL)
    assert weights.of(session("abcd", ("c", "hide"))) == {"c": math.tanh(-2 / 3)}


def test_an_object_whose_events_cancel_out_was_not_passed_over():
    both = session("abc", ("a", "click"), ("a", "hide"), ("c", "click"))
    assert PLAIN.of(both) == {"b": -1.0, "c": 0.5}


def test_a_click_undone_by_a_dislike_looks_at_nothing_above_it():
    undone = session("abc", ("c", "click"), ("c", "hide"), ("c", "hide"))
    assert replace(PLAIN, skipped_items=SkippedItems.ALL).of(undone) == {"c": -0.5}


@settings(deadline=None, max_examples=50)
@given(given=SESSIONS, weights=WEIGHTS)
def test_a_session_counts_once_however_much_happened_in_it(
    given: RegisteredSession, weights: EvidenceWeights
):
    weights = replace(weights, per_session=True, max_inverse_propensity=1.0)
    values = list(weights.of(given).values())
    assert sum(value for value in values if value > 0) <= 1 + 1e-9
    assert (
        sum(value for value in values if value < 0) >= -2 - 1e-9
    )  # of dislikes, and of what was passed over


def test_means_are_taken_over_likes_dislikes_and_skips_by_themselves():
    happened = session("abcdef", ("b", "click"), ("c", "hide"), ("d", "hide"), ("f", "click"))
    plain = replace(PLAIN, per_session=False).of(happened)
    means = replace(PLAIN, per_session=True).of(happened)
    assert {o: plain[o] / means[o] for o in plain} == dict.fromkeys("abcdef", 2.0)


@pytest.mark.parametrize(
    "dwell",
    ["10", True, False, None, math.nan, math.inf, -math.inf, -0.1, 10**400, -(10**400), [10], {"s": 10}],
)
def test_a_dwell_that_is_no_time_says_nothing(dwell: Any):
    assert EvidenceWeights().of(session("a", ("a", "click", dwell))) == EvidenceWeights().of(
        session("a", ("a", "click"))
    )


@pytest.mark.parametrize(
    ("dwell", "more"), [(0, -3), (1.99, -3), (2, 0), (5, 0), (5.01, 2), (10**300, 2), (1e308, 2)]
)
def test_a_long_dwell_speaks_for_an_object_and_a_short_one_against_it(dwell: float, more: float):
    assert EvidenceWeights().of(session("a", ("a", "like", dwell)))["a"] == math.tanh((5 + more) / 3)
    quiet = EvidenceWeights(long_dwell=0, short_dwell=0)
    assert quiet.of(session("a", ("a", "like", dwell)))["a"] == math.tanh(5 / 3)
    seen = EvidenceWeights().of(session("a", ("a", "impression", dwell)))
    assert seen == ({"a": math.tanh(more / 3)} if more else {})


def test_each_switch_switches_its_rule_off():
    happened = session("abcd", ("b", "like", 60), ("c", "hide", 0), ("d", "share"))
    places = [1.0, 0.5, 0.25, 0.1]
    clicks = dict.fromkeys(("like", "share"), 2.0) | {"hide": -2.0}
    off: dict[str, Any] = {
        "skipped": 0, "long_dwell": 0, "short_dwell": 0, "saturation": None, "per_session": False,
        "events": clicks,
    }  # fmt: skip
    full = EvidenceWeights(max_inverse_propensity=4.0)
    for name, value in (off | {"max_inverse_propensity": 1.0}).items():
        without = replace(full, **{name: value})
        assert without.of(happened, places) != full.of(happened, places), name
    assert EvidenceWeights(**off).of(happened, places) == {"b": 1.0, "c": -1.0, "d": 1.0}
    assert EvidenceWeights(**off, max_inverse_propensity=1.0).of(happened) == {"b": 1.0, "c": -1.0, "d": 1.0}


def test_the_published_evidence_knows_clicks_and_nothing_else():
    happened = session(
        "abcde", ("a", "hide"), ("b", "share", 90), ("b", "click"), ("c", "view", 90), ("e", "click", 0)
    )
    assert EvidenceWeights.published().of(happened, [0.5]) == {
        "a": -1 / 3, "b": 0.5, "c": -1 / 3, "d": -1 / 3, "e": 0.5,
    }  # fmt: skip


def test_inverse_propensities_are_clipped_and_the_last_stands_for_those_below():
    weights = replace(PLAIN, max_inverse_propensity=3.0, skipped=0)
    happened = session("abcde", *((o, "click") for o in "abcde"))
    assert weights.of(happened, [1.0, 0.5, 0.1, 0.0]) == {"a": 0.5, "b": 1.0, "c": 1.5, "d": 1.5, "e": 1.5}
    assert weights.of(happened, []) == weights.of(happened, [1.0]) == dict.fromkeys("abcde", 0.5)
    assert replace(weights, max_inverse_propensity=1.0).of(happened, [0.1]) == dict.fromkeys("abcde", 0.5)


def test_below_the_last_click_an_object_counts_as_skipped_by_the_chance_that_it_was_looked_at():
    weights = replace(PLAIN, max_inverse_propensity=2.0, skipped_items=SkippedItems.ALL)
    happened = session("abcd", ("b", "click"))
    assert weights.of(happened, [0.5, 1.0, 0.25, 0.0]) == {"a": -1.0, "b": 0.5, "c": -0.25}
    certain = replace(weights, max_inverse_propensity=1.0)
    assert certain.of(happened, [0.5, 1.0, 0.25, 0.0]) == {"a": -1.0, "b": 0.5, "c": -1.0, "d": -1.0}


def test_evidence_halves_in_quarters_of_a_half_life():
    weights = EvidenceWeights(half_life_days=8)
    for days, left in ((0, 1), (1.99, 1), (2, 0.5**0.25), (4, 0.5**0.5), (8, 0.5), (9.9, 0.5), (16, 0.25)):
        assert weights.decay(days * DAY) == left, days
    assert weights.decay(-5) == weights.decay(math.nan) == 1
    assert 0 < weights.decay(2**63) == weights.decay(math.inf) < 1e-8
    assert EvidenceWeights(half_life_days=None).decay(1e12) == 1


@given(
    days=st.floats(0, 1e9),
    more=st.floats(0, 1e9),
    half_life=st.floats(0, exclude_min=True, allow_infinity=False),
)
def test_older_evidence_never_counts_more(days: float, more: float, half_life: float):
    weights = EvidenceWeights(half_life_days=half_life)
    assert 0 < weights.decay((days + more) * DAY) <= weights.decay(days * DAY) <= 1


@pytest.mark.parametrize(
    ("created_at", "registered_at", "at"),
    [(5, 7.5, 5), (9, 7.5, 7.5), (5, None, 5), (None, 7.5, 7.5), (None, None, 0)],
)
def test_a_session_happened_before_it_was_registered_whatever_its_clock_says(
    created_at: int | None, registered_at: float | None, at: float
):
    dated = session("a").model_copy(update={"created_at": created_at, "registered_at": registered_at})
    assert happened_at(dated) == at


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"events": {"click": math.nan}}, "events['click']"),
        ({"events": {"click": "1"}}, "events['click']"),
        ({"events": {"click": 10**400}}, "events['click']"),
        ({"events": {"click": True}}, "events['click']"),
        ({"events": ["click"]}, "events"),
        ({"events": None}, "events"),
        ({"saturation": 0}, "saturation"),
        ({"saturation": -1.0}, "saturation"),
        ({"saturation": math.inf}, "saturation"),
        ({"skipped": 0.5}, "skipped"),
        ({"skipped": -math.inf}, "skipped"),
        ({"skipped_items": "some"}, "skipped_items"),
        ({"long_dwell": math.nan}, "long_dwell"),
        ({"short_dwell": 1e7}, "short_dwell"),
        ({"long_dwell_seconds": math.inf}, "long_dwell_seconds"),
        ({"short_dwell_seconds": -1}, "short_dwell_seconds"),
        ({"short_dwell_seconds": 6}, "short_dwell_seconds"),
        ({"per_session": 2}, "per_session"),
        ({"max_inverse_propensity": 0.5}, "max_inverse_propensity"),
        ({"max_inverse_propensity": math.nan}, "max_inverse_propensity"),
        ({"half_life_days": 0}, "half_life_days"),
        ({"half_life_days": "30"}, "half_life_days"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(wrong: dict[str, Any], field: str):
    with pytest.raises(ValueError) as caught:
        EvidenceWeights(**wrong)
    assert str(caught.value).startswith(f"{field}: expected ")


def test_evidence_can_be_copied_compared_hashed_and_written_down():
    for weights in (EvidenceWeights(), EvidenceWeights.published()):
        for twin in (copy.deepcopy(weights), pickle.loads(pickle.dumps(weights)), replace(weights)):
            assert twin == weights
            assert hash(twin) == hash(weights)
            assert repr(twin) == repr(weights)
        assert EvidenceWeights(**asdict(weights)) == weights

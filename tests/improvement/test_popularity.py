"""What is popular: each user's word once per object, fading; and where it is kept."""

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo.database import Database

from clickstream.records import ReceivedAction, RegisteredSession, SearchResult, SessionEvent
from improvement.evidence import DAY, EvidenceWeights
from improvement.popularity import Signal, acted, popularity, searched
from improvement.popularity_store import PopularityStore
from tests.support import Clock

EVIDENCE = EvidenceWeights()

signals = st.lists(
    st.builds(
        Signal,
        user_id=st.sampled_from(["ann", "bob", "cat"]),
        object_id=st.sampled_from(["a", "b", "c", "d"]),
        weight=st.floats(-10, 10),
        at=st.floats(0, 100 * DAY),
    ),
    max_size=30,
)


def naive(said: list[Signal], half_life_days: float) -> dict[str, float]:
    liked = [one for one in said if one.weight > 0]
    scores: dict[str, float] = defaultdict(float)
    for object_id in {one.object_id for one in liked}:
        for user_id in {one.user_id for one in liked}:
            scores[object_id] += max(
                (
                    one.weight * 0.5 ** ((max(o.at for o in liked) - one.at) / DAY / half_life_days)
                    for one in liked
                    if (one.object_id, one.user_id) == (object_id, user_id)
                ),
                default=0.0,
            )
    return scores


@given(signals, st.floats(0.5, 50))
def test_popularity_is_what_a_loop_over_users_and_objects_makes(said: list[Signal], half_life: float):
    ranked = popularity(said, half_life, 100)
    assert dict(ranked) == pytest.approx(naive(said, half_life))
    assert ranked == sorted(ranked, key=lambda one: (-one[1], one[0]))


@given(signals, st.randoms())
def test_the_order_in_which_the_log_is_read_does_not_matter_not_even_in_the_last_bit(
    said: list[Signal], random: Any
):
    shuffled = list(said)
    random.shuffle(shuffled)
    assert popularity(said, 7, 100) == popularity(shuffled, 7, 100)


def test_one_account_cannot_make_an_object_popular():
    eve = [Signal("eve", "hers", 10, at) for at in range(100)]
    others = [Signal(name, "theirs", 5, 0) for name in ("ann", "bob", "cat")]
    assert popularity([*eve, *others], 7, 10) == [("theirs", pytest.approx(15, rel=1e-3)), ("hers", 10)]


def test_what_is_recent_beats_what_was_liked_more_a_while_ago():
    old, new = Signal("ann", "old", 10, 0), Signal("ann", "new", 2, 21 * DAY)
    assert [name for name, _ in popularity([old, new], 7, 10)] == ["new", "old"]
    assert [name for name, _ in popularity([old, new], 70, 10)] == ["old", "new"]
    assert [name for name, _ in popularity([old, new], 7, 1)] == ["new"]


def test_times_far_apart_and_nothing_at_all_have_answers():
    ages = [Signal("ann", "ancient", 1.0, 0.0), Signal("ann", "today", 1.0, 2.0**63)]
    assert popularity(ages, 1e-3, 10) == [("today", 1.0), ("ancient", 0.0)]
    assert popularity([], 7, 10) == []
    assert popularity([Signal("ann", "a", -5.0, 0.0)], 7, 10) == []


def action(kind: str = "like_post", created_at: int | None = 50, **meta: Any) -> ReceivedAction:
    return ReceivedAction(
        action_id="1", user_id="ann", object_id="o", action_type=kind, created_at=created_at, meta=meta,
        received_at=60.5, place="1",
    )  # fmt: skip


def test_an_action_weighs_what_evidence_says_and_is_never_from_the_future():
    said = [action(), action("hide"), action("dwell", dwell_seconds=60), action(created_at=10**9)]
    assert list(acted(said, EVIDENCE)) == [
        Signal("ann", "o", 5.0, 50),
        Signal("ann", "o", -2.0, 50),
        Signal("ann", "o", 2.0, 50),
        Signal("ann", "o", 5.0, 60.5),
    ]


def session(user_id: str | None, *kinds: str, **changes: Any) -> RegisteredSession:
    fields = {
        "session_id": "s", "search_query": "shoes", "user_id": user_id, "created_at": 40,
        "search_results": (SearchResult(object_id="o"), SearchResult(object_id="p")),
        "events": tuple(
            SessionEvent(event_id=str(n), object_id=kind.split()[-1], event_type=kind.split()[0])
            for n, kind in enumerate(kinds)
        ),
    }  # fmt: skip
    return RegisteredSession(**fields | changes)


def test_a_session_says_of_shown_objects_what_its_events_add_up_to_and_no_more_than_the_strongest():
    kinds = ("click o", "like o", "hide p", "purchase elsewhere")
    said = searched([session("ann", *kinds)], EVIDENCE)
    assert list(said) == [Signal("ann", "o", 5.0, 40), Signal("ann", "p", -2.0, 40)]
    taken_back = searched([session("ann", "like o", "hide o")], EVIDENCE)
    assert list(taken_back) == [Signal("ann", "o", 3.0, 40)]
    spam = searched([session("eve", *["share o"] * 1_000)], EVIDENCE)
    assert [signal.weight for signal in spam] == [10.0]


def test_sessions_of_nobody_and_irrelevant_ones_say_nothing():
    assert list(searched([session(None, "like o")], EVIDENCE)) == []
    assert list(searched([session("ann", "like o", is_irrelevant=True)], EVIDENCE)) == []


def test_the_store_returns_the_best_of_a_domain_as_they_were_saved(database: Database[Any]):
    clock = Clock()
    store = PopularityStore(database, clock)
    assert store.top("things", 5) == []
    store.save("things", [("a b", 3.5), ("ü", 2.0), ("c", 2.0)])
    store.save("other", [("x", 1.0)])
    assert store.top("things", 2) == [("a b", 3.5), ("ü", 2.0)]
    assert store.top("things", 100) == [("a b", 3.5), ("ü", 2.0), ("c", 2.0)]
    assert store.top("things", 0) == []
    store.save("things", [("d", 9.0)])
    assert store.top("things", 5) == [("d", 9.0)]
    assert database["popularity"].find_one({"_id": "things"})["made_at"] == clock.now

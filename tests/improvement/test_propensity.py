"""Propensities from a simulated log whose examination probabilities are known, and their store."""

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pymongo.database import Database

from clickstream.records import RegisteredSession, SearchResult, SessionEvent
from improvement.propensity import FLOOR, MAX_PLACES, estimate_propensities, impressions
from improvement.propensity_store import PropensityStore
from tests.support import Clock

Log = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
EXAMINATION = np.arange(1, 11) ** -0.8


def simulate(
    examination: NDArray[Any], sessions: int = 4_000, queries: int = 50, seed: int = 0, order: float = 1.5
) -> Log:
    """Show the best of 60 objects, best first but for noise: relevant objects stand high more often."""
    rng = np.random.default_rng(seed)
    relevance = rng.beta(0.5, 2, (queries, 60))
    query = rng.integers(queries, size=sessions)
    score = order * relevance[query] / relevance.std() + rng.standard_normal((sessions, 60))
    shown = np.argsort(-score, axis=1)[:, : len(examination)]
    clicked = rng.random(shown.shape) < examination * relevance[query[:, None], shown]
    places = np.broadcast_to(np.arange(len(examination)), shown.shape)
    return places.ravel(), clicked.ravel(), (query[:, None] * 60 + shown).ravel()


def click_through(log: Log) -> NDArray[Any]:
    ratio = np.bincount(log[0], log[1]) / np.bincount(log[0])
    return ratio / ratio[0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("queries", [50, 200])
def test_known_examination_is_recovered_where_the_click_through_ratio_is_not(seed: int, queries: int):
    log = simulate(EXAMINATION, sessions=8_000, queries=queries, seed=seed)
    error = np.abs(estimate_propensities(*log) - EXAMINATION).max()
    naive = np.abs(click_through(log) - EXAMINATION).max()
    assert error < 0.04
    assert error < naive / 2


def test_where_every_place_is_looked_at_alike_the_estimate_says_so():
    log = simulate(np.full(10, 0.6))
    assert click_through(log)[-1] < 0.6
    np.testing.assert_allclose(estimate_propensities(*log), 1, atol=0.1)


def test_every_place_may_be_the_most_looked_at_but_none_counts_more_than_the_first():
    examination = np.array([0.5, 0.9, 0.2, 0.2])
    np.testing.assert_allclose(estimate_propensities(*simulate(examination)), [1, 1, 0.4, 0.4], atol=0.08)


def test_a_first_place_that_nobody_clicks_is_no_division_by_zero():
    places, clicked, pairs = simulate(EXAMINATION)
    np.testing.assert_array_equal(estimate_propensities(places, clicked & (places > 0), pairs), 1)


def test_too_little_says_nothing():
    places, clicked, pairs = simulate(EXAMINATION)
    assert estimate_propensities([], [], []).size == 0
    assert estimate_propensities(places[:2_000], clicked[:2_000], pairs[:2_000]).size == 0
    assert estimate_propensities(places, np.zeros_like(clicked), pairs).size == 0
    assert estimate_propensities(places, clicked, pairs, min_clicks=len(pairs)).size == 0
    assert estimate_propensities(np.zeros_like(places), clicked, pairs).size == 0, "one place"
    assert estimate_propensities(places, clicked, np.arange(len(pairs))).size == 0, "nothing shown twice"
    assert estimate_propensities(places, clicked, pairs * 100 + places).size == 0, "nothing at two places"


def test_a_place_with_too_few_impressions_ends_the_list():
    places, clicked, pairs = simulate(EXAMINATION)
    few = np.flatnonzero(places == 5)[200:]
    kept = np.setdiff1d(np.arange(len(places)), few)
    estimate = estimate_propensities(places[kept], clicked[kept], pairs[kept])
    assert len(estimate) == 5
    np.testing.assert_allclose(estimate, EXAMINATION[:5], atol=0.06)


def test_only_so_many_places_are_told_apart():
    rng = np.random.default_rng(0)
    places, pairs = np.tile(np.arange(150), 1_000), rng.integers(2_000, size=150_000)
    clicked = rng.random(150_000) < 0.3
    estimate = estimate_propensities(places, clicked, pairs)
    assert len(estimate) == MAX_PLACES
    assert estimate.min() > 0.5


@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 120), st.booleans(), st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3)),
        max_size=60,
    )
)
def test_the_estimate_is_a_chance_relative_to_the_first_place_whatever_the_log(
    rows: list[tuple[int, bool, int]],
):
    log = [np.array(column) for column in zip(*rows, strict=True)] or [[], [], []]
    estimate = estimate_propensities(*log, min_clicks=0, min_impressions=0, min_shown=0)
    assert len(estimate) <= MAX_PLACES
    assert np.all((estimate >= FLOOR) & (estimate <= 1))
    assert len(estimate) != 1


def test_a_log_that_is_no_log_is_refused():
    with pytest.raises(ValueError, match="three rows of one length"):
        estimate_propensities([0, 1], [True], [1, 2])
    with pytest.raises(ValueError, match="places: expected whole numbers >= 0, got -1"):
        estimate_propensities([0, -1], [True, False], [1, 2])


def shown(session_id: str, query: str, objects: str, clicked: str = "", **changes: Any) -> RegisteredSession:
    return RegisteredSession(
        session_id=session_id,
        search_query=query,
        search_results=tuple(SearchResult(object_id=o) for o in objects),
        events=tuple(SessionEvent(event_id=o, object_id=o) for o in clicked),
        **changes,
    )


def test_a_log_is_read_place_by_place_with_the_sessions_that_clicked_nothing():
    seen = impressions(
        [
            shown("1", "red", "abc", "bz"),
            shown("2", "red", "cab"),
            shown("3", "blue", "a", "a"),
            shown("4", "red", "abc", "abc", is_irrelevant=True),
            shown("5", "red", ""),
        ],
        {"click"},
    )
    assert seen.sessions == 4
    assert seen.places.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert seen.clicked.tolist() == [False, True, False, False, False, False, True]
    a, b, c, again_c, again_a, again_b, other = seen.pairs.tolist()
    assert (a, b, c) == (again_a, again_b, again_c)
    assert len({a, b, c, other}) == 4
    assert not impressions([shown("1", "red", "a", "a")], {"like"}).clicked.any()


def test_what_stands_below_the_last_place_told_apart_is_not_read():
    long = shown("s", "red", "").model_copy(
        update={"search_results": tuple(SearchResult(object_id=str(i)) for i in range(150))}
    )
    assert impressions([long], {"click"}).places.tolist() == list(range(MAX_PLACES))


def test_what_was_estimated_is_kept_by_domain(database: Database[Any]):
    store = PropensityStore(database)
    assert store.get("shop") == ()
    store.save("shop", np.array([1.0, 0.25]), 1_200, 5.0)
    assert store.get("shop") == (1.0, 0.25)
    assert store.get("other") == ()
    store.save("shop", [], 3, 6.0)
    assert store.get("shop") == ()


def test_an_estimate_is_due_once_in_an_interval_for_one_of_many(database: Database[Any]):
    clock = Clock()
    store = PropensityStore(database, clock)
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(store.due("shop", 60))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False] * 7 + [True]
    store.save("shop", [1.0], 1, clock.now)
    clock.now += 59
    assert not store.due("shop", 60)
    assert store.due("other", 60)
    clock.now += 1
    assert store.due("shop", 60)
    assert store.get("shop") == (1.0,)


def test_an_estimate_saved_before_anybody_asked_is_due(database: Database[Any]):
    store = PropensityStore(database)
    store.save("shop", [1.0], 1, 0.0)
    assert store.due("shop", 60)

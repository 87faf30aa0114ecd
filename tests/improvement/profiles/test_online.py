"""Each law of the online profile, as a property of vectors of 2 to 768 dimensions."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from clickstream.records import RegisteredSession, SearchResult, SessionEvent
from improvement.evidence import EVENT_WEIGHTS, EvidenceWeights
from improvement.profiles.online import (
    MAX_DRIFT,
    rating_from_signals,
    update_user_embedding,
    update_user_embeddings,
)
from tests.improvement.profiles.angles import (
    EPS,
    angle,
    dimensions,
    dislikes,
    law,
    pairs,
    seeds,
    shares,
    unit,
)

run = settings(deadline=None, max_examples=8)
counts = st.one_of(st.integers(0, 5), st.integers(0, 10**9))


def by_the_book(u, v, rating, learning_rate, count):
    """The same turn by the textbook's slerp formula, in u and v, number by number."""
    u, v = unit(u).tolist(), unit(v).tolist()
    cosine = max(-1.0, min(1.0, math.fsum(a * b for a, b in zip(u, v, strict=True))))
    theta = math.acos(cosine)
    share = abs(rating) * max(learning_rate, 1 / (1 + count))
    after = theta * (1 - share) if rating > 0 else theta + share * max(0.0, math.pi / 2 - theta)
    if math.sin(theta) < 1e-12 or after == theta:
        return u
    a, b = math.sin(after) / math.sin(theta), math.sin(theta - after) / math.sin(theta)
    return [a * x + b * y for x, y in zip(u, v, strict=True)]


@given(pairs(), st.floats(-1, 1), shares, counts)
@law
def test_the_length_is_always_1(pair, rating, rate, count):
    assert np.linalg.norm(update_user_embedding(*pair, rating, rate, count)) == pytest.approx(1, abs=1e-11)


@given(pairs(), st.floats(-1, 1), shares, counts)
@law
def test_the_update_stays_in_the_plane_of_the_profile_and_the_item(pair, rating, rate, count):
    updated = update_user_embedding(*pair, rating, rate, count)
    plane, _ = np.linalg.qr(np.stack([unit(row) for row in pair], axis=1))
    assert np.linalg.norm(updated - plane @ (plane.T @ updated)) < 1e-6


@given(pairs(), st.floats(-1, 1), shares, counts)
@law
def test_the_update_is_what_the_textbook_formula_gives(pair, rating, rate, count):
    updated = update_user_embedding(*pair, rating, rate, count)
    assert updated == pytest.approx(by_the_book(*pair, rating, rate, count), abs=1e-6)


@given(pairs(), st.floats(0.01, 1), shares, counts)
@law
def test_a_like_goes_its_share_of_the_angle_towards_the_item(pair, rating, rate, count):
    u, v = pair
    share = rating * max(rate, 1 / (1 + count))
    updated = update_user_embedding(u, v, rating, rate, count)
    assert angle(updated, v) == pytest.approx((1 - share) * angle(u, v), abs=1e-9)
    assert angle(updated, u) == pytest.approx(share * angle(u, v), abs=1e-9)


@given(pairs(), dislikes, shares, counts)
@law
def test_a_dislike_never_brings_the_profile_nearer_to_the_item(pair, rating, rate, count):
    u, v = pair
    assert unit(v) @ update_user_embedding(u, v, rating, rate, count) <= unit(u) @ unit(v) + 1e-12


@given(pairs(), st.floats(-1, -0.01), st.floats(0.01, 1), counts)
@law
def test_a_dislike_moves_away_as_long_as_the_profile_points_at_the_item(pair, rating, rate, count):
    u, v = pair
    before = unit(u) @ unit(v)
    assume(before > 1e-6)
    assert unit(v) @ update_user_embedding(u, v, rating, rate, count) < before


@given(pairs(), dislikes, shares, counts)
@law
def test_a_dislike_never_ends_beyond_orthogonal(pair, rating, rate, count):
    u, v = pair
    floor = min(0.0, unit(u) @ unit(v))
    assert unit(v) @ update_user_embedding(u, v, rating, rate, count) >= floor - EPS


@given(pairs(), dislikes, shares, counts)
@law
def test_a_dislike_of_what_the_profile_does_not_point_at_changes_nothing(pair, rating, rate, count):
    u, v = unit(pair[0]), pair[1]
    v = v if u @ v < 0 else v - 2 * (u @ v) * u
    assert np.array_equal(update_user_embedding(u, v, rating, rate, count), u)


@given(pairs(), st.lists(st.floats(-1, 1), min_size=2, max_size=6), shares, counts)
@law
def test_a_better_rating_never_ends_farther_from_the_item(pair, ratings, rate, count):
    cosines = [unit(pair[1]) @ update_user_embedding(*pair, r, rate, count) for r in sorted(ratings)]
    assert all(worse <= better + 1e-12 for worse, better in zip(cosines, cosines[1:], strict=False))


@given(pairs(), shares, counts)
@law
def test_a_rating_of_0_is_the_identity_bit_for_bit(pair, rate, count):
    u, v = unit(pair[0]), pair[1]
    assert np.array_equal(update_user_embedding(u, v, 0.0, rate, count), u)
    again = update_user_embedding(u, v, 0.7, rate, count)
    assert np.array_equal(update_user_embedding(again, v, -0.0, rate, count), again)


@given(pairs(), st.floats(-1, 1), shares, counts, st.floats(1e-300, 1e300))
@law
def test_lengths_do_not_matter_not_even_extreme_ones(pair, rating, rate, count, length):
    u, v = unit(pair[0]), unit(pair[1])
    usual = update_user_embedding(u, v, rating, rate, count)
    assert update_user_embedding(u, v * length, rating, rate, count) == pytest.approx(usual, abs=EPS)
    assert update_user_embedding(u * length, v, rating, rate, count) == pytest.approx(usual, abs=EPS)


@given(pairs(), st.floats(-1, 1), shares, counts)
@law
def test_the_update_turns_with_the_space(pair, rating, rate, count):
    u, v = pair
    mirror = unit(np.arange(1.0, len(u) + 1))

    def reflect(x):
        return x - 2 * (x @ mirror) * mirror

    updated = update_user_embedding(reflect(u), reflect(v), rating, rate, count)
    assert updated == pytest.approx(reflect(update_user_embedding(u, v, rating, rate, count)), abs=1e-8)


@given(pairs(), st.floats(-1, 1), shares, counts)
@law
def test_the_update_leaves_its_input_as_it_was(pair, rating, rate, count):
    before = [row.copy() for row in pair]
    for row in pair:
        row.flags.writeable = False
    update_user_embedding(*pair, rating, rate, count)[:] = 0  # and the answer is not a view of it
    assert all(np.array_equal(row, old) for row, old in zip(pair, before, strict=True))


@given(pairs(), st.floats(-1, 1), shares, counts)
@law
def test_a_new_user_becomes_the_first_item_liked_and_nothing_by_dislikes(pair, rating, rate, count):
    updated = update_user_embedding(np.zeros_like(pair[0]), pair[1], rating, rate, count)
    assert updated == pytest.approx(unit(pair[1]) if rating > 0 else 0 * updated, abs=1e-12)


@given(pairs(), st.floats(-1, 1), shares, counts)
@law
def test_an_item_without_direction_changes_nothing(pair, rating, rate, count):
    u = unit(pair[0])
    assert np.array_equal(update_user_embedding(u, 0 * u, rating, rate, count), u)
    assert not update_user_embedding(0 * u, 0 * u, rating, rate, count).any()


@given(pairs(), st.floats(-1, 1), shares, counts)
@law
def test_a_profile_that_is_the_item_stays_when_liked_and_is_forgotten_when_disliked(
    pair, rating, rate, count
):
    u = unit(pair[0])
    for same in (3 * u, u.astype(np.float32)):
        updated = update_user_embedding(u, same, rating, rate, count)
        assert updated == pytest.approx(u if rating >= 0 else 0 * u, abs=1e-6)


@given(pairs(), st.floats(-1, 1), shares, counts)
@law
def test_a_profile_opposite_to_the_item_stays_unless_a_like_goes_all_the_way(pair, rating, rate, count):
    u = unit(pair[0])
    for opposite in (-3 * u, -u.astype(np.float32)):
        all_the_way = rating * max(rate, 1 / (1 + count)) == 1
        updated = update_user_embedding(u, opposite, rating, rate, count)
        assert updated == pytest.approx(-u if all_the_way else u, abs=1e-6)
    assert update_user_embedding(u, -u, 1.0, 1.0) == pytest.approx(-u, abs=1e-12)


@given(seeds, dimensions, st.floats(-1, -0.1), st.floats(0.01, 0.3))
@run
def test_a_run_of_dislikes_never_freezes_however_many_came_before(seed, size, rating, rate):
    rng = np.random.default_rng(seed)
    u = unit(rng.normal(size=size))
    for count in range(1_000, 1_200):
        v = unit(rng.normal(size=size))
        u, before = update_user_embedding(u, v, rating, rate, count), u
        pointed = max(0.0, math.pi / 2 - angle(before, v))
        assert angle(u, before) == pytest.approx(-rating * rate * pointed, abs=EPS)


@given(seeds, dimensions, shares)
@run
def test_dislikes_never_lead_away_from_what_none_of_them_points_at(seed, size, rate):
    rng = np.random.default_rng(seed)
    safe, u = unit(rng.normal(size=size)), unit(rng.normal(size=size))
    u = start = u if u @ safe >= 0 else -u
    for count in range(300):
        v = rng.normal(size=size)
        v = v if v @ safe <= 0 else -v
        u, before = update_user_embedding(u, v, rng.uniform(-1, 0), rate, count), u
        assert u @ safe >= before @ safe - 1e-12
    assert angle(u, start) <= 2 * angle(start, safe) + EPS


@pytest.mark.parametrize("size", [2, 8, 64, 384, 768])
@given(seed=seeds, rate=shares)
@run
def test_dislikes_cost_a_liked_direction_no_more_than_they_share_with_it(size, seed, rate):
    rng = np.random.default_rng(seed)
    liked = unit(rng.normal(size=size))
    u, count, bound = liked, 0, 1.0
    while count < 300:
        v = unit(rng.normal(size=size))
        bound -= max(0.0, v @ liked) ** 2
        if bound <= 0:  # the dislikes have said as much against it as there was for it
            break
        u, count = update_user_embedding(u, v, rng.uniform(-1, 0), rate, count), count + 1
        assert u @ liked >= math.sqrt(bound) - EPS
    assert count >= size // 4  # the law had something to say


@given(seeds, dimensions, shares, st.floats(0, math.pi))
@run
def test_dislikes_never_lead_farther_from_what_was_liked_than_the_limit(seed, size, rate, limit):
    rng = np.random.default_rng(seed)
    liked = unit(rng.normal(size=size))
    u = unit(liked + 0.5 * unit(rng.normal(size=size)))
    limit, behind = max(limit, angle(u, liked)), 0.3
    for count in range(400):
        # the worst there is: always from behind, so that every dislike pushes on in the same direction
        v = rng.normal(size=size) if count % 2 else u + behind * (liked + 0.1 * unit(rng.normal(size=size)))
        u = update_user_embedding(u, v, rng.uniform(-1, 0), rate, count, liked=7 * liked, max_drift=limit)
        assert angle(u, liked) <= limit + 1e-7


@given(pairs(), seeds, dislikes, shares, counts, st.floats(0, math.pi))
@law
def test_the_limit_only_ever_shortens_a_dislike_and_no_more_than_it_must(
    pair, seed, rating, rate, count, limit
):
    u, v = unit(pair[0]), unit(pair[1])
    liked = unit(u + np.random.default_rng(seed).normal(size=len(u)) / math.sqrt(len(u)))
    freely = update_user_embedding(u, v, rating, rate, count)
    held = update_user_embedding(u, v, rating, rate, count, liked=liked, max_drift=limit)
    allowed = max(limit, angle(u, liked))
    assert angle(held, u) <= angle(freely, u) + EPS
    assert angle(held, liked) <= allowed + 1e-7
    if angle(held, u) < angle(freely, u) - 1e-6:
        assert angle(held, liked) == pytest.approx(allowed, abs=1e-6)


@given(pairs(), st.floats(0, 1), shares, counts)
@law
def test_likes_are_not_held_back_and_an_unknown_past_holds_nothing_back(pair, rating, rate, count):
    u, v = pair
    liked = update_user_embedding(u, v, rating, rate, count, liked=u, max_drift=0.0)
    assert np.array_equal(liked, update_user_embedding(u, v, rating, rate, count))
    disliked = update_user_embedding(u, v, -rating, rate, count, liked=0 * u, max_drift=0.0)
    assert np.array_equal(disliked, update_user_embedding(u, v, -rating, rate, count))


def test_without_a_memory_of_likes_a_run_from_behind_goes_round_and_with_it_it_does_not():
    free = held = liked = np.array([1.0, 0.0])
    farthest = 0.0
    for _ in range(60):
        free = update_user_embedding(free, free @ np.array([[0.9, -0.44], [0.44, 0.9]]), -1.0, 0.2, 99)
        behind = held @ np.array([[0.9, -0.44], [0.44, 0.9]])
        held = update_user_embedding(held, behind, -1.0, 0.2, 99, liked=liked)
        farthest = max(farthest, angle(free, liked))
    assert farthest > 3
    assert angle(held, liked) == pytest.approx(MAX_DRIFT, abs=1e-9)


@given(seeds, st.integers(0, 300), st.sampled_from([2, 7, 48]), st.booleans())
@settings(deadline=None, max_examples=20)
def test_many_users_at_once_get_what_one_after_another_would(seed, size, width, remembered):
    rng = np.random.default_rng(seed)
    users, items, liked = rng.normal(size=(3, size, width))
    for rows, share in ((users, 0.1), (items, 0.1), (liked, 0.3)):
        rows[rng.random(size) < share] = 0
    same = rng.random(size) < 0.2
    items[same] = users[same] * rng.choice([-2, 2], size=(same.sum(), 1))
    ratings, rates = rng.choice([-1, -0.3, 0, 0.4, 1], size), rng.choice([0, 0.05, 1], size)
    numbers = rng.integers(0, 50, size)
    near = liked if remembered else None
    together = update_user_embeddings(users, items, ratings, rates, numbers, liked=near)
    assert together.shape == (size, width)
    for n in range(size):
        beside = liked[n] if remembered else None
        alone = update_user_embedding(
            users[n], items[n], ratings[n], rates[n], int(numbers[n]), liked=beside
        )  # fmt: skip
        assert together[n] == pytest.approx(alone, abs=1e-6)


def test_one_learning_rate_and_count_serve_all_users():
    rows = np.eye(3)
    together = update_user_embeddings(rows, rows[::-1], [0.5, 0.5, -0.5], 0.2, 4)
    assert together == pytest.approx(
        update_user_embeddings(rows, rows[::-1], [0.5, 0.5, -0.5], [0.2] * 3, [4] * 3)
    )


@given(st.lists(st.floats(-1e6, 1e6), max_size=8), st.floats(1e-3, 1e3), seeds)
@law
def test_a_rating_is_between_minus_1_and_1_and_does_not_depend_on_order(signals, saturation, seed):
    rating = rating_from_signals(signals, saturation)
    assert -1 <= rating <= 1
    assert np.sign(rating) in (0, np.sign(math.fsum(signals)))
    shuffled = np.random.default_rng(seed).permutation(signals)
    assert rating_from_signals(shuffled, saturation) == rating
    assert rating_from_signals(dict(enumerate(signals)), saturation) == rating


@given(st.lists(st.floats(-50, 50), max_size=6), st.floats(0, 10), st.floats(0.1, 10))
@law
def test_a_stronger_signal_never_lowers_the_rating(signals, more, saturation):
    assert rating_from_signals([*signals, more], saturation) >= rating_from_signals(signals, saturation)


@pytest.mark.parametrize("saturation", [EvidenceWeights().saturation, None])
def test_the_rating_of_one_event_is_the_evidence_that_a_session_has_of_it(saturation):
    weights = EvidenceWeights(saturation=saturation)
    for event_type, weight in EVENT_WEIGHTS.items():
        session = RegisteredSession(
            session_id="s", search_query="q", search_results=(SearchResult(object_id="a"),),
            events=(SessionEvent(event_id="e", object_id="a", event_type=event_type),),
        )  # fmt: skip
        assert weights.of(session).get("a", 0.0) == rating_from_signals([weight], saturation)


ROW = [1.0, 0.0]
BAD = [
    ("current_vector", [math.nan, 0.0]), ("current_vector", [math.inf, 0.0]), ("current_vector", []),
    ("current_vector", [[1.0, 0.0]]), ("current_vector", ["a", "b"]), ("current_vector", 1.0),
    ("current_vector", [True, False]), ("current_vector", [[1.0], [1.0, 2.0]]), ("current_vector", None),
    ("item_vector", [0.0, -math.inf]), ("item_vector", [1.0, 0.0, 0.0]), ("item_vector", [1j, 0.0]),
    ("item_vector", [1e300, math.nan]), ("item_vector", [10**400, 0]),
    ("rating", 1.001), ("rating", -1.001), ("rating", math.nan), ("rating", "1"), ("rating", None),
    ("rating", True), ("rating", 10**400), ("rating", np.array([0.5])),
    ("learning_rate", -0.1), ("learning_rate", 1.1), ("learning_rate", math.inf), ("learning_rate", None),
    ("interaction_count", -1), ("interaction_count", 1.5), ("interaction_count", True),
    ("interaction_count", math.nan), ("interaction_count", "3"),
    ("liked", [math.nan, 0.0]), ("liked", [1.0]), ("max_drift", -0.1), ("max_drift", 4.0),
    ("max_drift", math.nan),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD, ids=lambda value: str(value)[:20])
def test_bad_input_is_refused_by_name(name, value):
    good = {"current_vector": ROW, "item_vector": ROW, "rating": 0.5, "learning_rate": 0.1}
    with pytest.raises(ValueError, match=f"^{name}"):
        update_user_embedding(**(good | {name: value}))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("users", [ROW, [0.0, math.nan]], r"users\[1, 1\]: expected a finite number, got nan"),
        ("users", ROW, r"users: expected shape \(any, any\)"),
        ("items", [ROW], r"items: expected shape \(2, 2\)"),
        ("ratings", [0.0, -2.0], r"ratings\[1\]: expected a finite number from -1 to 1, got -2"),
        ("ratings", [0.0, math.nan], r"ratings\[1\]"),
        ("ratings", 0.5, r"ratings: expected shape \(2,\)"),
        ("learning_rates", [0.1, 1.5], r"learning_rates\[1\]"),
        ("learning_rates", math.nan, r"learning_rates\[0\]"),
        ("counts", [1, -1], r"counts\[1\]: expected a finite number >= 0"),
        ("counts", [1, 1.5], r"counts\[1\]: expected a whole number"),
        ("counts", [1, math.inf], r"counts\[1\]"),
        ("counts", [True, False], r"counts: expected numbers"),
        ("liked", [ROW, [math.inf, 0.0]], r"liked\[1, 0\]"),
        ("max_drift", 9, "max_drift"),
    ],
)
def test_bad_input_for_many_users_is_refused_by_name_and_row(name, value, said):
    good = {"users": [ROW, ROW], "items": [ROW, ROW], "ratings": [0, 1], "learning_rates": 0.1, "counts": 0}
    with pytest.raises(ValueError, match=said):
        update_user_embeddings(**(good | {name: value}))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: rating_from_signals({"like": math.nan}), r"signals\['like'\]"),
        (lambda: rating_from_signals([1.0, 1e9]), r"signals\[1\]"),
        (lambda: rating_from_signals([1.0], saturation=0), "saturation"),
        (lambda: rating_from_signals([1.0], saturation=math.inf), "saturation"),
    ],
)
def test_bad_signals_are_refused_by_name(call, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        call()


def test_the_web_process_can_use_profiles_without_torch():
    code = (
        "import sys\n"
        "from improvement.profiles import interests, online, steering\n"
        "assert not {'torch', 'sklearn', 'scipy', 'numba'} & sys.modules.keys()"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0

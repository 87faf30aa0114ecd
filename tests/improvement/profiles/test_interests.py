"""What a user's interactions say together: against a loop, and each promise of interests."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from improvement.profiles.interests import taste
from improvement.profiles.negative import remember_dislike
from improvement.profiles.online import rating_from_signals, update_user_embedding
from improvement.profiles.settings import ProfileSettings
from tests.improvement.profiles.angles import DAY, angle, dimensions, law, seeds, shares, unit

WHOLE, SPLIT = ProfileSettings(interests=1), ProfileSettings(interests=4)
FADING = ProfileSettings(half_life_days=20.0, negative_half_life_days=10.0)
#: What rounding to float32 may cost.
SINGLE = 1e-6


def log(seed, size=24, count=30, signs=(-5.0, -1.0, 1.0, 2.0, 8.0)):
    """Interactions of a month, some of them at once and alike."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, size)).astype(np.float32) + 0.5
    return vectors, rng.choice(signs, count), rng.choice([0.0, 3.5, 11.0, 30.0], count) * DAY


def topics(seed, sizes, size=64, apart=0.5):
    """Likes of some topics, each row the same cosine (1 - apart) to others of its topic, and none beyond."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.normal(size=(size, len(sizes))))[0].T
    about = np.repeat(np.arange(len(sizes)), sizes)
    noise = rng.normal(size=(len(about), size))
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    return math.sqrt(1 - apart) * centres[about] + math.sqrt(apart) * noise, centres


@given(seeds, dimensions, st.integers(1, 30), st.sampled_from([WHOLE, FADING]))
@law
def test_liked_is_the_weighted_mean_and_the_embedding_is_it_after_one_dislike_of_the_rest(
    seed, size, count, settings
):
    vectors, weights, at = log(seed, size, count)
    made = taste(vectors, weights, at, settings)
    liked, negative = np.zeros(size), None
    for vector, weight, when in zip(vectors, weights.tolist(), at.tolist(), strict=True):
        if weight > 0:
            age = (at.max() - when) / DAY
            liked += (
                weight * 0.5 ** (age / (settings.half_life_days or math.inf)) * unit(vector.astype(float))
            )
        rating, half_life = rating_from_signals([weight]), settings.negative_half_life_days
        negative = remember_dislike(negative, vector, min(0.0, rating), when, half_life)
    assert (made.positives, made.negatives) == ((weights > 0).sum(), (weights < 0).sum())
    assert (made.negative is None) == (negative is None)
    away = 0.0
    if negative is not None:
        assert made.negative.at == negative.at
        assert made.negative.vector == pytest.approx(negative.vector, abs=SINGLE)
        away = 0.6 * negative.strength(at.max(), half_life)
    if not liked.any():
        assert made.liked is made.embedding is None
        return
    assert made.liked == pytest.approx(unit(liked), abs=SINGLE)
    disliked = np.zeros(size) if negative is None else negative.vector
    turned = update_user_embedding(liked, disliked, -away, 1.0, liked=liked)
    assert made.embedding == pytest.approx(turned, abs=SINGLE)


@given(seeds, st.sampled_from([2, 16, 384]), st.sampled_from([WHOLE, SPLIT, replace(FADING, interests=3)]))
@law
def test_the_order_of_interactions_does_not_matter_not_even_in_the_last_bit(seed, size, settings):
    vectors, weights, at = log(seed, size)
    vectors[::7], vectors[1::7] = 0.0, np.eye(size, dtype=np.float32)[0]
    order = np.random.default_rng(seed).permutation(len(at))
    made, again = (
        taste(vectors, weights, at, settings),
        taste(vectors[order], weights[order], at[order], settings),
    )
    assert np.array_equal(made.embedding, again.embedding)
    assert np.array_equal(made.liked, again.liked)
    assert np.array_equal(made.negative.vector, again.negative.vector)
    assert np.array_equal(made.interests, again.interests)


@given(seeds, dimensions, shares, st.floats(0, math.pi), st.integers(1, 4))
@law
def test_dislikes_turn_a_taste_only_so_far_and_never_beyond_orthogonal(seed, size, away, limit, interests):
    vectors, weights, at = log(seed, size)
    settings = ProfileSettings(away=away, max_drift=limit, interests=interests)
    made, alone = taste(vectors, weights, at, settings), taste(vectors, np.maximum(0, weights), at, settings)
    assert np.array_equal(made.liked, alone.embedding)
    rows, before = np.vstack([made.embedding, made.interests]), np.vstack([made.liked, alone.interests])
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=SINGLE)
    for turned, liked in zip(rows.astype(float), before.astype(float), strict=True):
        assert angle(turned, liked) <= min(limit, away * math.pi / 2) + 1e-5
        disliked = unit(made.negative.vector)
        assert min(0.0, liked @ disliked) - SINGLE <= turned @ disliked <= liked @ disliked + SINGLE


def test_many_dislikes_turn_the_whole_share_and_one_turns_less():
    likes, dislikes = [[1.0, 0.0, 0.0]] * 5, [[0.6, 0.8, 0.0]] * 60
    missing = math.pi / 2 - math.acos(0.6)
    for count, strength in ((1, math.tanh(math.tanh(1 / 3))), (60, 1.0)):
        made = taste(likes + dislikes[:count], [2.0] * 5 + [-1.0] * count, [0.0] * (5 + count), WHOLE)
        assert angle(made.embedding, made.liked) == pytest.approx(0.6 * strength * missing, abs=1e-6)


def test_a_dislike_before_later_likes_has_faded_by_the_latest_of_them_and_not_by_today():
    vectors = [[0.6, 0.8], [0.6, 0.8], [1.0, 0.0]]
    soon = taste(vectors, [2.0, 2.0, -5.0], [0.0, DAY, 0.0], WHOLE)
    late = taste(vectors, [2.0, 2.0, -5.0], [0.0, 90 * DAY, 0.0], WHOLE)
    assert soon.embedding[0] < late.embedding[0] < 0.6
    years = taste(vectors, [2.0, 2.0, -5.0], np.array([0.0, 90 * DAY, 0.0]) + 2**32, WHOLE)
    assert np.array_equal(years.embedding, late.embedding)


@given(seeds, st.floats(1e-30, 1e30))
@law
def test_lengths_and_the_unit_of_weights_do_not_matter_to_what_was_liked(seed, scale):
    vectors, weights, at = log(seed, signs=(1.0, 2.0, 8.0))
    made = taste(vectors, weights, at, SPLIT)
    assert taste(vectors.astype(float) * scale, weights, at, SPLIT).embedding == pytest.approx(
        made.embedding, abs=SINGLE
    )
    assert taste(vectors, weights * 1e-3, at, SPLIT).interests == pytest.approx(made.interests, abs=SINGLE)


@given(seeds, st.booleans())
@law
def test_what_says_nothing_changes_nothing_and_is_not_counted(seed, first):
    vectors, weights, at = log(seed)
    made = taste(vectors, weights, at, SPLIT)
    extra = np.vstack([np.zeros(24), np.ones(24)]), [9.0, 0.0], [99 * DAY, 98 * DAY]
    pieces = zip(extra, (vectors, weights, at), strict=True)
    again = taste(*(np.concatenate([a, b] if first else [b, a]) for a, b in pieces), SPLIT)
    assert np.array_equal(made.embedding, again.embedding)
    assert np.array_equal(made.interests, again.interests)
    assert (made.positives, made.negatives) == (again.positives, again.negatives)


def test_whoever_only_dislikes_has_a_negative_profile_and_no_other():
    made = taste(np.eye(3), [-1.0, -5.0, 0.0], [0.0, 60.0, 90.0], SPLIT)
    assert made.embedding is made.liked is None
    assert made.negative.at == 60.0
    assert (made.interests.shape, made.positives, made.negatives) == ((0, 3), 0, 2)


def test_nothing_says_nothing():
    made = taste(np.empty((0, 3), np.float32), [], [], SPLIT)
    assert made.embedding is made.liked is made.negative is None
    assert (made.interests.shape, made.positives, made.negatives) == ((0, 3), 0, 0)


@pytest.mark.parametrize("settings", [WHOLE, SPLIT])
def test_likes_that_cancel_out_are_no_taste_and_rounding_is_not_taken_for_one(settings):
    vectors = np.random.default_rng(0).normal(size=(9, 16))
    made = taste(
        np.vstack([vectors, vectors, -vectors]), [0.1] * 9 + [0.2] * 9 + [0.3] * 9, [0.0] * 27, settings
    )
    assert made.embedding is made.liked is None
    assert (len(made.interests), made.positives) == (0, 27)


def test_whoever_likes_the_very_thing_they_dislike_keeps_it():
    vector = np.random.default_rng(0).normal(size=(1, 384)).astype(np.float32)
    made = taste(np.vstack([vector, 3 * vector]), [5.0, -5.0], [0.0, 1.0], WHOLE)
    assert np.array_equal(made.embedding, made.liked)
    assert made.liked == pytest.approx(unit(vector[0]), abs=SINGLE)


def test_dislikes_that_cancel_out_turn_nothing():
    made = taste([[0.6, 0.8], [1.0, 0.0], [-1.0, 0.0]], [5.0, -5.0, -5.0], [0.0] * 3, WHOLE)
    assert np.array_equal(made.embedding, made.liked)
    assert made.negatives == 2


@given(seeds, st.integers(1, 40), st.floats(0.0, 0.7))
@law
def test_one_topic_is_one_direction(seed, count, apart):
    # in few dimensions noise alone makes topics: of 400 draws in 64 dimensions, up to 3 in 100 were split
    vectors, _ = topics(seed, [count], size=384, apart=apart)
    weights = np.random.default_rng(seed).choice([1.0, 2.0, 5.0], count)
    assert taste(vectors, weights, np.zeros(count), SPLIT).interests.shape == (0, 384)


@given(seeds, st.lists(st.integers(8, 20), min_size=2, max_size=4), st.floats(0.0, 0.4))
@law
def test_topics_far_apart_are_an_interest_each_the_heaviest_first(seed, sizes, apart):
    vectors, centres = topics(seed, sizes, apart=apart)
    made = taste(vectors, np.ones(len(vectors)), np.zeros(len(vectors)), ProfileSettings(interests=8))
    cosines = made.interests @ centres.T
    assert len(made.interests) == len(sizes)
    assert [sizes[topic] for topic in cosines.argmax(1)] == sorted(sizes, reverse=True)
    assert sorted(cosines.argmax(1)) == list(range(len(sizes)))
    assert (cosines.max(1) > 0.9).all()


def test_interests_follow_the_weight_they_carry_not_the_number_of_likes():
    vectors, centres = topics(0, [4, 12])
    made = taste(vectors, [10.0] * 4 + [1.0] * 12, [0.0] * 16, SPLIT)
    assert (made.interests @ centres.T).argmax(1).tolist() == [0, 1]


def test_a_like_that_agrees_with_no_other_is_no_interest_of_its_own():
    vectors, _ = topics(0, [1, 20], apart=0.3)
    assert len(taste(vectors, [1.0] * 21, [0.0] * 21, SPLIT).interests) == 0
    assert len(taste(np.eye(8), [1.0] * 8, [0.0] * 8, ProfileSettings(interests=8)).interests) == 0


def test_a_heavy_like_apart_from_all_others_does_not_hide_what_they_share():
    vectors, centres = topics(0, [1, 20], apart=0.3)
    made = taste(vectors, [30.0] + [1.0] * 20, [0.0] * 21, SPLIT)
    assert (made.interests @ centres[1]).max() > 0.95


@given(seeds, st.lists(st.integers(3, 9), min_size=2, max_size=6), st.integers(2, 6))
@law
def test_interests_are_at_most_as_many_as_asked_and_centres_of_what_is_nearest_to_them(seed, sizes, most):
    vectors, _ = topics(seed, sizes, apart=0.5)
    weights = np.random.default_rng(seed).choice([1.0, 2.0, 5.0], len(vectors))
    made = taste(vectors, weights, np.zeros(len(vectors)), ProfileSettings(interests=most))
    assert len(made.interests) in {0, *range(2, most + 1)}
    rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    nearest = (rows @ made.interests.T.astype(float)).argmax(1) if len(made.interests) else None
    for number, interest in enumerate(made.interests):
        mine = nearest == number
        assert interest == pytest.approx(unit(weights[mine] @ rows[mine]), abs=1e-5)


def test_each_interest_is_turned_away_from_what_was_disliked():
    likes, centres = topics(0, [10, 12], apart=0.1)
    disliked = np.tile(centres[0] + np.roll(centres[0], 1), (30, 1))
    vectors, weights = np.vstack([likes, disliked]), [2.0] * 22 + [-5.0] * 30
    made = taste(vectors, weights, [0.0] * 52, SPLIT)
    alone = taste(likes, [2.0] * 22, [0.0] * 22, SPLIT)
    (other, hit), (other_before, before) = made.interests, alone.interests
    direction = unit(disliked[0])
    assert hit @ direction < before @ direction - 0.3
    assert angle(other, other_before) < angle(hit, before)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("vectors", [[1.0, 0.0], [math.nan, 0.0]], r"vectors\[1, 0\]: expected a finite number"),
        ("vectors", [1.0, 0.0], r"vectors: expected shape \(any, any\)"),
        ("vectors", np.empty((2, 0)), "vectors: expected shape"),
        ("weights", [1.0], r"weights: expected shape \(2,\)"),
        ("weights", [1.0, math.inf], r"weights\[1\]: expected a finite number"),
        ("weights", 1.0, r"weights: expected shape \(2,\)"),
        ("at", [0.0, math.nan], r"at\[1\]: expected a finite number"),
        ("at", [0.0, "x"], "at: expected numbers"),
    ],
)
def test_bad_input_is_refused_by_name_and_row(name, value, said):
    good = {"vectors": np.eye(2), "weights": [1.0, -1.0], "at": [0.0, 1.0]}
    with pytest.raises(ValueError, match=f"^{said}"):
        taste(**(good | {name: value}), settings=WHOLE)


def test_extreme_settings_and_ages_do_not_break_it():
    settings = ProfileSettings(half_life_days=1e-300, negative_half_life_days=1e-300, max_drift=0.0)
    made = taste(np.eye(3), [1e15, 1e-15, -1e15], [-1e15, 1e15, 0.0], settings)
    assert np.array_equal(made.embedding, [0.0, 1.0, 0.0])
    assert np.array_equal(made.embedding, made.liked)

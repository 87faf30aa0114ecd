"""Each law of steering queries, and of which part of a taste a query is about."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from improvement.profiles.interests import Taste
from improvement.profiles.negative import NegativeProfile
from improvement.profiles.online import update_user_embedding
from improvement.profiles.profile import Profile
from improvement.profiles.settings import ProfileSettings
from improvement.profiles.steering import positive_for, steer, steered
from tests.improvement.profiles.angles import angle, dimensions, law, pairs, seeds, shares, unit

NONE = np.empty((0, 0), np.float32)
SETTINGS = ProfileSettings(temperature=0.1)


@given(pairs(), seeds, shares, shares)
@law
def test_a_steered_query_has_length_1_and_stays_near_and_in_the_span(pair, seed, towards, away):
    query, positive = pair
    negative = np.random.default_rng(seed).normal(size=len(query)) + query
    turned = steer(query, positive, negative, towards, away)
    assert np.linalg.norm(turned) == pytest.approx(1, abs=1e-11)
    assert angle(turned, query) <= towards * angle(query, positive) + away * math.pi / 2 + 1e-7
    span, _ = np.linalg.qr(np.stack([query, positive, unit(negative)], axis=1))
    assert np.linalg.norm(turned - span @ (span.T @ turned)) < 1e-6


@given(pairs(), seeds, shares, shares)
@law
def test_steering_never_points_more_at_what_was_disliked_nor_beyond_orthogonal(pair, seed, towards, away):
    query, positive = pair
    negative = unit(np.random.default_rng(seed).normal(size=len(query)) + query)
    blended = negative @ steer(query, positive, None, towards, 0.0)
    turned = negative @ steer(query, positive, negative, towards, away)
    assert min(0.0, blended) - 1e-9 <= turned <= blended + 1e-9


@given(pairs(), shares, shares)
@law
def test_steering_turns_as_far_as_a_like_and_a_dislike_of_the_same_share(pair, towards, away):
    query, profile = pair
    like = update_user_embedding(query, profile, towards, 1.0)
    assert steer(query, profile, None, towards, 0.5) == pytest.approx(like, abs=1e-12)
    dislike = update_user_embedding(query, profile, -away, 1.0)
    assert steer(query, None, profile, 0.5, away) == pytest.approx(dislike, abs=1e-12)


@given(pairs(), shares, shares)
@law
def test_without_weights_or_profiles_a_query_is_only_made_unit(pair, towards, away):
    query, other = unit(pair[0]), pair[1]
    assert np.array_equal(steer(query, other, other, 0.0, 0.0), query)
    assert np.array_equal(steer(query, None, None, towards, away), query)
    assert np.array_equal(steer(query, 0 * query, 0 * query, towards, away), query)


@given(pairs(), st.floats(0.01, 1), shares)
@law
def test_no_query_is_the_profile_and_a_query_for_the_disliked_stays(pair, towards, away):
    query, other = unit(pair[0]), pair[1]
    assert steer(0 * query, other, None, towards, away) == pytest.approx(unit(other), abs=1e-12)
    assert not steer(0 * query, None, other, towards, away).any()
    assert np.array_equal(steer(query, None, 2 * query, towards, away), query)


@given(seeds, shares, shares)
@law
def test_many_queries_are_steered_as_each_alone(seed, towards, away):
    rng = np.random.default_rng(seed)
    queries, (positive, negative) = rng.normal(size=(2, 3, 8)), rng.normal(size=(2, 8))
    together = steer(queries, positive, negative, towards, away)
    for i, j in np.ndindex(2, 3):
        alone = steer(queries[i, j], positive, negative, towards, away)
        assert together[i, j] == pytest.approx(alone, abs=1e-12)


@given(seeds, dimensions, st.integers(0, 5), st.floats(0.01, 10), st.floats(1e-3, 1e3))
@law
def test_the_positive_of_a_query_is_the_mean_of_interests_by_softmax(seed, size, count, temperature, length):
    rng = np.random.default_rng(seed)
    query, whole, *interests = (unit(rng.normal(size=size)) for _ in range(2 + count))
    found = positive_for(length * query, whole, np.array(interests).reshape(count, size), temperature)
    shares = [math.exp(float(query @ interest) / temperature) for interest in interests]
    mixed = sum(share * interest for share, interest in zip(shares, interests, strict=True))
    assert found == pytest.approx(unit(mixed) if count > 1 else whole, abs=1e-6)


@pytest.mark.parametrize("temperature", [1e-300, 5e-324, 1e-3, 0.01])
def test_the_colder_the_more_a_query_picks_the_one_interest_nearest_to_it(temperature):
    interests = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], np.float32)
    found = positive_for([0.9, 0.1, 0.0], None, interests, temperature)
    assert found == pytest.approx([0.0, 1.0, 0.0], abs=1e-4)


def test_interests_that_cancel_out_leave_the_embedding_and_without_one_nothing():
    opposite = np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32)
    assert np.array_equal(positive_for([0.0, 1.0], [0.0, 2.0], opposite, 0.1), [0.0, 1.0])
    assert positive_for([0.0, 1.0], None, opposite, 0.1) is None
    assert positive_for([0.0, 1.0], None, NONE, 0.1) is None


def test_a_query_without_direction_asks_for_all_interests_alike():
    interests = np.eye(2, dtype=np.float32)
    assert positive_for([0.0, 0.0], None, interests, 0.1) == pytest.approx(unit(np.ones(2)))


def drawn(seed, size, count, disliking):
    """A user, in float32 as they are stored, and a query of any length."""
    rng = np.random.default_rng(seed)
    embedding, *interests = unit(rng.normal(size=(count + 1, size)).astype(np.float32))
    negative = NegativeProfile(3 * rng.normal(size=size), 0.0) if disliking else None
    rows = np.array(interests, np.float32).reshape(count, size)
    query = (rng.normal(size=size) * 10.0 ** rng.uniform(-3, 3)).astype(np.float32)
    return query, Profile("u", "d", "m", embedding=unit(embedding), negative=negative, interests=rows)


@given(seeds, dimensions, st.integers(0, 3), st.booleans(), shares, shares, st.floats(0, 100 * 86_400))
@law
def test_a_user_steers_a_query_s_direction_by_all_they_are_and_its_length_stays(
    seed, size, count, disliking, weight, away, now
):
    query, user = drawn(seed, size, count, disliking)
    turned = steered(query, user, now, weight, replace(SETTINGS, negative_weight=away))
    assert turned.dtype == np.float32
    assert turned.shape == query.shape
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(query), rel=1e-5)
    strength = user.negative.strength(now, 30) if disliking else 0.0
    positive = positive_for(query, user.embedding, user.interests, 0.1)
    disliked = user.negative.vector if disliking else None
    assert unit(turned) == pytest.approx(steer(query, positive, disliked, weight, away * strength), abs=1e-6)


@given(seeds, dimensions, st.integers(0, 3), st.booleans())
@law
def test_what_has_no_weight_leaves_the_query_bit_for_bit(seed, size, count, disliking):
    query, user = drawn(seed, size, count, disliking)
    assert np.array_equal(steered(query, user, 0.0, 0.0, replace(SETTINGS, negative_weight=0.0)), query)
    assert np.array_equal(steered(query, replace(user, negative=None), 0.0, 0.0, SETTINGS), query)
    assert np.array_equal(steered(query, Profile("u", "d"), 0.0, 1.0, SETTINGS), query)
    assert not steered(0 * query, user, 0.0, 1.0, SETTINGS).any()


def test_a_dislike_steers_less_as_it_fades():
    query, disliked = np.array([0.8, 0.6], np.float32), NegativeProfile(np.array([1.0, 0.0]), 0.0)
    user = Taste(None, None, disliked, NONE, 0, 1)
    cosines = [steered(query, user, days * 86_400.0, 0.0, SETTINGS)[0] for days in (0, 30, 300, 3_000)]
    assert cosines == sorted(cosines)
    assert cosines[0] < cosines[1] < cosines[2]
    assert cosines[3] == pytest.approx(0.8)


ROW = [1.0, 0.0]
USER = Profile("u", "d", embedding=np.array([0.0, 1.0], np.float32))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: steer([math.nan, 0.0], None, None, 0, 0), "query"),
        (lambda: steer(1.0, None, None, 0, 0), "query"),
        (lambda: steer(ROW, [1.0], None, 0, 0), "positive"),
        (lambda: steer(ROW, None, [[1.0, 0.0]], 0, 0), "negative"),
        (lambda: steer(ROW, None, None, 1.1, 0), "profile_weight"),
        (lambda: steer(ROW, None, None, 0, -0.1), "negative_weight"),
        (lambda: positive_for([math.inf, 0.0], None, NONE, 0.1), "query"),
        (lambda: positive_for(ROW, [1.0], NONE, 0.1), "embedding"),
        (lambda: positive_for(ROW, None, np.eye(3), 0.1), "interests"),
        (lambda: positive_for(ROW, None, NONE, 0.0), "temperature"),
        (lambda: steered([ROW], USER, 0.0, 0.5, SETTINGS), "query"),
        (lambda: steered([1.0], USER, 0.0, 0.5, SETTINGS), "embedding"),
        (lambda: steered(ROW, USER, 0.0, math.nan, SETTINGS), "profile_weight"),
    ],
)
def test_bad_input_is_refused_by_name(call, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        call()

"""What a profile makes of a ranked list: by hand, against a naive loop, and against production."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickstream.improvement_queue import Owner, Request
from clickstream.records import RegisteredSession
from improvement.copies import UsableSession
from improvement.domain import MetricAggregationType, MetricType, SearchDomain, SearchIndexInfo
from improvement.evaluation.profiles import profile_of, rescored
from improvement.evidence import EvidenceWeights
from improvement.improver import Improver
from improvement.jobs import improve_users
from improvement.objects import Vectors
from improvement.profiles.negative import NegativeProfile
from improvement.profiles.profile import Interaction, Profile
from improvement.profiles.searched import searched
from improvement.profiles.settings import ProfileSettings
from improvement.wiring import Rooms
from tests.improvement.evaluation.conftest import at
from tests.support import click, make_object, make_objects, make_session

FLAT = SearchIndexInfo(2)


def liking(degrees: float) -> Profile:
    return Profile("ann", "docs", embedding=at(degrees)[0])


def order(objects: Sequence[float], profile: Profile, **settings: float) -> list[float]:
    """Rank objects at these angles, nearest to 0 degrees first, again by a profile; return their angles."""
    ranked = sorted(objects, key=abs)
    made = ProfileSettings(**settings)  # type: ignore[arg-type]
    seen = [make_object(str(angle), at(angle)) for angle in ranked]
    return [ranked[place] for place in rescored(at(0), seen, profile, 0.0, made, FLAT)]


def test_the_first_ones_are_ranked_by_the_query_turned_towards_what_is_liked():
    # a third of the way from 0 to 90 degrees is 30 degrees
    told = order([0, 10, -15, 25, 40, -50], liking(90), search_weight=1 / 3)
    assert told == [25, 40, 10, 0, -15, -50]


def test_what_stands_behind_the_first_ones_keeps_its_place():
    told = order([0, 10, -15, 25, 40, -50], liking(90), search_weight=1 / 3, rescored=3)
    assert told == [10, 0, -15, 25, 40, -50]


def test_what_is_disliked_is_turned_away_from():
    # its strength, tanh(10), is 1: half of the 80 degrees from the query to what is orthogonal to 10 degrees
    disliking = Profile("ann", "docs", negative=NegativeProfile(10.0 * at(10)[0].astype(float), at=0.0))
    told = order([0, 20, -20, -35], disliking, search_weight=0.25, negative_weight=0.5)
    assert told == [-35, -20, 0, 20]


def test_equal_scores_keep_their_order():
    twins = [make_object(name, at(angle)) for name, angle in (("far", 50), ("a", 20), ("b", 20))]
    assert rescored(at(0), twins, liking(20), 0.0, ProfileSettings(search_weight=1.0), FLAT) == [1, 2, 0]


def test_weight_zero_and_an_empty_list_are_left_alone():
    shunned = Profile("ann", "docs", negative=NegativeProfile(at(0)[0].astype(float), at=0.0))
    assert order([0, 30, -40], shunned, search_weight=0.0) == [0, 30, -40]
    assert rescored(at(0), [], liking(90), 0.0, ProfileSettings(search_weight=0.5), FLAT) == []


def cosine(a: Vectors, b: Vectors) -> float:
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def between(a: Vectors, b: Vectors, share: float) -> Vectors:
    """Return what lies between two vectors on the great circle through both, with the length of the first."""
    angle = math.acos(cosine(a, b))
    beside = b / np.linalg.norm(b) - math.cos(angle) * a / np.linalg.norm(a)
    unit = math.cos(share * angle) * a / np.linalg.norm(a)
    return (unit + math.sin(share * angle) * beside / np.linalg.norm(beside)) * np.linalg.norm(a)


@given(
    st.integers(0, 10_000), st.sampled_from(MetricType), st.sampled_from(MetricAggregationType),
    st.integers(1, 3), st.integers(1, 12),
)  # fmt: skip
def test_any_metric_ranks_like_a_loop_over_objects(
    seed: int, metric: MetricType, aggregation: MetricAggregationType, vectors: int, rescore: int
):
    rng = np.random.default_rng(seed)
    query = rng.standard_normal((vectors, 5)).astype(np.float32)
    liked = rng.standard_normal(5)
    liked /= np.linalg.norm(liked)
    seen = [make_object(str(i), rng.standard_normal((1 + i % 2, 5))) for i in range(8)]
    profile = Profile("ann", "docs", embedding=liked.astype(np.float32))
    settings = ProfileSettings(search_weight=0.4, rescored=rescore)
    told = rescored(query, seen, profile, 0.0, settings, SearchIndexInfo(5, metric, aggregation))

    def closeness(place: int) -> float:
        parts = seen[place].parts if aggregation is MetricAggregationType.MIN else seen[place].mean[None]
        total = 0.0
        for row in query:
            turned = between(row.astype(float), liked, 0.4)
            if metric is MetricType.COSINE:
                total += max(cosine(turned, part) for part in parts)
            elif metric is MetricType.DOT:
                total += max(float(turned @ part) for part in parts)
            else:
                total += max(-float((turned - part) @ (turned - part)) for part in parts)
        return total

    first = sorted(range(min(rescore, 8)), key=closeness, reverse=True)
    assert told == [*first, *range(len(first), 8)]


def said(*weights: float) -> list[Interaction]:
    return [Interaction(f"o{place}", weight, 60.0 * place) for place, weight in enumerate(weights)]


def test_a_profile_is_used_from_the_least_number_of_likes_on():
    means = {f"o{place}": at(place)[0] for place in range(5)}
    settings = ProfileSettings(min_interactions=3)
    assert profile_of("ann", said(1.0, 1.0, -1.0, -1.0), means, settings) is None
    made = profile_of("ann", said(1.0, 1.0, -1.0, 1.0), means, settings)
    assert made is not None
    assert made.positives == 3


def test_only_the_latest_interactions_count_and_those_whose_object_is_there():
    means = {"o0": None, "o1": at(10)[0], "o2": at(20)[0], "o3": None, "o4": at(80)[0]}
    settings = ProfileSettings(min_interactions=1, remember=3)
    made = profile_of("ann", said(9.0, 9.0, 1.0, 1.0, 1.0), {**means, "o1": None}, settings)
    assert made is not None
    np.testing.assert_allclose(made.embedding, at(50)[0], atol=1e-6)
    again = profile_of("ann", said(9.0, 9.0, 1.0, 1.0, 1.0), means, settings)
    assert again is not None
    np.testing.assert_array_equal(again.embedding, made.embedding)


@pytest.mark.parametrize(("saturation", "expected"), [(3.0, 1.5), (None, 0.5)])
def test_interactions_weigh_what_production_says(saturation: float | None, expected: float):
    session = RegisteredSession(
        session_id="s", search_query="", user_id="ann", created_at=90, registered_at=60.0
    )
    (one,) = searched([UsableSession(session, {"o": 0.5})], EvidenceWeights(saturation=saturation))
    assert one == Interaction("o", expected, 60.0)


def test_the_worker_makes_the_same_profile_of_the_same_sessions(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    objects = make_objects(domain, 12)
    rooms.vectors.upsert(rooms.releases.blue(domain.name).collection_id, objects)
    rng = np.random.default_rng(0)
    for number in range(5):
        shown = [f"o{i}" for i in rng.choice(12, 6, replace=False)]
        name = f"s{number}"
        session = make_session(name, "ann", shown, domain=domain.name, created_at=1_700_000_000 + number)
        rooms.clickstream.register(session)
        rooms.clickstream.push_events([(name, click(object_id)) for object_id in shown[2:4]])
    registered = sorted(rooms.clickstream.history(domain.name, limit=9), key=lambda s: s.session_id)
    owner = Owner(domain.name, "ann")
    rooms.queue.enqueue([Request(one.session_id, owner, version=9) for one in registered])
    assert improve_users(improving, limit=9).ended == 5
    theirs = rooms.profiles.get("ann", domain.name)
    assert theirs is not None
    usable = [UsableSession(one, domain.evidence.of(one)) for one in registered]
    mine = profile_of(
        "ann",
        searched(usable, domain.evidence),
        {one.object_id: one.mean for one in objects},
        domain.profiles,
    )
    assert mine is not None
    np.testing.assert_allclose(mine.embedding, theirs.embedding, atol=1e-6)
    assert mine.negative is not None
    assert theirs.negative is not None
    np.testing.assert_allclose(mine.negative.vector, theirs.negative.vector, atol=1e-6)
    assert mine.positives == theirs.positives == 10

import random
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from improvement.inputs import ImprovementElement, ImprovementInput, evidence_batch


def element(id, user="u", parts=1, dimensions=3):
    seed = [ord(c) for c in f"{id}"]
    vector = np.random.default_rng(seed).normal(size=(parts, dimensions)).astype(np.float32)
    return ImprovementElement(id, vector, user)


def session(id, clicked, skipped=(), user="u", query_vectors=1):
    return ImprovementInput(
        session_id=id,
        query=element(id, user, query_vectors),
        clicked_elements=[element(o, user, parts=len(o)) for o in clicked],
        non_clicked_elements=[element(o, user, parts=len(o)) for o in skipped],
    )


@st.composite
def many_sessions(draw):
    """Sessions of two users over the same few objects, whose ids are as long as they have parts."""
    objects = ["a", "bb", "ccc", "d"]
    made = []
    for number in range(draw(st.integers(1, 6))):
        shown = draw(st.lists(st.sampled_from(objects), min_size=1, unique=True))
        clicks = draw(st.integers(0, len(shown)))
        user, vectors = draw(st.sampled_from("uv")), draw(st.integers(1, 3))
        made.append(session(f"s{number}", shown[:clicks], shown[clicks:], user, vectors))
    return made


@given(sessions=many_sessions())
@settings(deadline=None)
def test_a_batch_says_what_a_loop_over_the_sessions_says(sessions):
    batch = evidence_batch(sessions)
    expected = defaultdict(list)
    for s in sorted(sessions, key=lambda s: s.session_id):
        for o in s.clicked_elements:
            expected[o.user_id, o.id].append((s.query.vector, 1 / len(s.clicked_elements)))
        for o in s.non_clicked_elements:
            expected[o.user_id, o.id].append((s.query.vector, -1 / len(s.non_clicked_elements)))
    assert sorted(batch.keys) == sorted(expected)
    for row, (user, object_id) in enumerate(batch.keys):
        parts = batch.parts[row][batch.part_mask[row]]
        np.testing.assert_array_equal(parts.numpy(), element(object_id, user, len(object_id)).vector)
        real = batch.weights[row].nonzero()[:, 0]
        assert len(real) == len(expected[user, object_id])
        for piece, (query, weight) in zip(real, expected[user, object_id], strict=True):
            search = batch.evidence[row, piece]
            np.testing.assert_array_equal(batch.queries[search][batch.query_mask[search]].numpy(), query)
            assert batch.weights[row, piece].item() == pytest.approx(weight)


@given(sessions=many_sessions())
@settings(deadline=None)
def test_padding_is_zero_and_comes_after_what_is_real(sessions):
    batch = evidence_batch(sessions)
    for rows, mask in ((batch.parts, batch.part_mask), (batch.queries, batch.query_mask)):
        assert mask.any(1).all()
        assert mask.any(0).all()
        assert rows[~mask].eq(0).all()
        assert mask.int().diff(dim=1).le(0).all()
    assert batch.weights.ne(0).int().diff(dim=1).le(0).all()
    assert batch.weights.ne(0).any(0).all()


@given(sessions=many_sessions(), shuffle=st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_sessions_changes_nothing(sessions, shuffle: random.Random):
    batch = evidence_batch(sessions)
    shuffled = sessions[:]
    shuffle.shuffle(shuffled)
    other = evidence_batch(shuffled)
    assert other.keys == batch.keys
    for field in ("parts", "part_mask", "queries", "query_mask", "evidence", "weights"):
        assert getattr(other, field).equal(getattr(batch, field)), field


def test_a_session_gives_weight_one_to_its_clicks_and_minus_one_to_its_skips():
    batch = evidence_batch([session("s", ["a", "b"], ["c", "d", "e", "f"])])
    assert batch.weights.flatten().tolist() == [0.5, 0.5, -0.25, -0.25, -0.25, -0.25]


def weighted(id, weight):
    return replace(element(id), weight=weight)


def test_an_elements_own_weight_is_taken_and_the_others_keep_the_published_mean():
    clicked, skipped = [weighted("a", 0.25), element("b")], [weighted("c", -0.75), element("d")]
    batch = evidence_batch([ImprovementInput("s", element("q"), clicked, skipped)])
    assert batch.weights.flatten().tolist() == [0.25, 0.5, -0.75, -0.5]


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -float("inf"), 1e300])  # not in float32
def test_a_weight_that_cannot_be_used_is_an_error_that_names_its_element(weight):
    broken = [ImprovementInput("s", element("q"), [element("a"), weighted("broken", weight)], [])]
    with pytest.raises(ValueError, match="'broken': expected a finite weight"):
        evidence_batch(broken)
    assert evidence_batch(broken, only={("u", "a")}).weights.tolist() == [[0.5]]


def test_the_same_object_of_two_users_is_two_rows():
    batch = evidence_batch([session("s", ["a"], user="u"), session("t", ["a"], user="v")])
    assert batch.keys == (("u", "a"), ("v", "a"))
    assert batch.evidence.tolist() == [[0], [1]]


def test_users_and_objects_whose_joined_ids_agree_are_not_mixed_up():
    batch = evidence_batch([session("s", ["a_b"], user="c"), session("t", ["a"], user="b_c")])
    assert len(batch.keys) == 2


def test_an_object_clicked_once_and_skipped_once_has_both_pieces():
    batch = evidence_batch([session("1", ["a"]), session("2", ["b"], ["a"])])
    assert batch.weights[batch.keys.index(("u", "a"))].tolist() == [1.0, -1.0]


def test_a_session_with_nothing_skipped_or_nothing_clicked_is_evidence_too():
    assert evidence_batch([session("s", ["a"])]).weights.tolist() == [[1.0]]
    assert evidence_batch([session("s", [], ["a"])]).weights.tolist() == [[-1.0]]


def test_only_the_wanted_rows_are_made_and_they_are_the_same_as_among_all():
    sessions = [session("s", ["a", "bb"], ["c"]), session("t", ["bb"], ["a"])]
    everything, wanted = evidence_batch(sessions), evidence_batch(sessions, only={("u", "bb")})
    row = everything.keys.index(("u", "bb"))
    assert wanted.keys == (("u", "bb"),)
    assert wanted.parts[0].equal(everything.parts[row])
    assert wanted.weights[0].equal(everything.weights[row])
    assert wanted.evidence[0].equal(everything.evidence[row])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vectors_and_weights_have_the_asked_dtype_and_evidence_is_whole(dtype):
    batch = evidence_batch([session("s", ["a"], ["bb"])], dtype)
    assert {batch.parts.dtype, batch.queries.dtype, batch.weights.dtype} == {dtype}
    assert batch.evidence.dtype == torch.int64
    assert batch.part_mask.dtype == batch.query_mask.dtype == torch.bool


def test_the_batch_shares_no_memory_with_the_callers_vectors():
    s = session("s", ["a"])
    batch = evidence_batch([s])
    before = s.clicked_elements[0].vector.copy(), s.query.vector.copy()
    batch.parts.zero_()
    batch.queries.zero_()
    np.testing.assert_array_equal(s.clicked_elements[0].vector, before[0])
    np.testing.assert_array_equal(s.query.vector, before[1])


def test_read_only_vectors_are_fine():
    s = session("s", ["a"])
    s.clicked_elements[0].vector.flags.writeable = False
    evidence_batch([s])


def with_vector(vector):
    broken = ImprovementElement("broken", vector, "u")
    return [ImprovementInput("s", element("q"), [element("a"), broken], [])]


@pytest.mark.parametrize(
    "vector",
    [
        np.array([[1.0, np.nan, 0.0]]),
        np.array([[1.0, 2.0, 3.0], [np.inf, 0.0, 0.0]], np.float32),
        np.array([[1e300, 0.0, 0.0]]),  # finite, but not in float32
        np.ones(3),
        np.ones((0, 3)),
        np.ones((3, 0)),
        np.ones((1, 1, 3)),
    ],
)
def test_a_vector_that_cannot_be_used_is_an_error_that_names_it(vector):
    with pytest.raises(ValueError, match="'broken'"):
        evidence_batch(with_vector(vector))


def test_a_broken_query_is_named_too():
    query = ImprovementElement("my search", np.array([[np.nan, 0.0, 0.0]]), "u")
    with pytest.raises(ValueError, match="'my search'"):
        evidence_batch([ImprovementInput("s", query, [element("a")], [])])


def test_vectors_of_different_dimensions_are_an_error():
    with pytest.raises(ValueError, match=r"dimensions, got \[3, 4\]"):
        evidence_batch(with_vector(np.ones((1, 4))))


def test_nothing_to_learn_from_is_an_error():
    with pytest.raises(ValueError, match="at least one session"):
        evidence_batch([])
    with pytest.raises(ValueError, match="session 's': expected clicked or skipped"):
        evidence_batch([session("s", [])])
    with pytest.raises(ValueError, match="only"):
        evidence_batch([session("s", ["a"])], only=set())

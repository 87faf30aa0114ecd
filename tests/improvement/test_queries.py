"""Queries of sessions as vectors of one space."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clickstream.records import QueryVector, RegisteredSession
from improvement.objects import Vectors
from improvement.queries import queries_of
from tests.support import WordEncoder, make_domain

TEXTS = st.lists(
    st.sampled_from(["red shoes", "blue hat", "old boots", "explode", "explode twice", ""]), max_size=12
)


def session(number: int, text: str, vector: QueryVector | None = None) -> RegisteredSession:
    return RegisteredSession(session_id=f"s{number}", search_query=text, query_vector=vector)


@given(TEXTS)
def test_each_text_is_embedded_once_and_a_bad_one_fails_alone(texts: Sequence[str]):
    encoder = WordEncoder()
    domain = make_domain(encoder=encoder)
    found = queries_of(domain, [session(number, text) for number, text in enumerate(texts)])
    first: list[str] = encoder.calls[0] if encoder.calls else []
    assert sorted(first) == sorted({text for text in texts if text})
    for number, text in enumerate(texts):
        name = f"s{number}"
        good = bool(text) and "explode" not in text
        assert (name in found.vectors) == (name in found.embedded) == good
        if good:
            np.testing.assert_array_equal(found.vectors[name], domain.embed([text]))
            assert found.embedded[name].model_id == "words-v1"
        else:
            assert found.verdicts[name].status == ("failed" if text else "skipped")
            assert ("exploded" if text else "no query text") in str(found.verdicts[name].reason)


def test_a_vector_of_this_space_is_taken_as_it_is_and_one_of_another_is_not():
    domain = make_domain()
    here = QueryVector(model_id="words-v1", vectors=((1.0,) * 16, (2.0,) * 16))
    there = QueryVector(model_id="elsewhere", vectors=((1.0,) * 3,))
    found = queries_of(domain, [session(0, "", here), session(1, "", there), session(2, "red shoes", there)])
    np.testing.assert_array_equal(found.vectors["s0"], np.array([[1.0] * 16, [2.0] * 16]))
    assert found.embedded.keys() == {"s2"}
    assert found.verdicts["s1"].reason == "no query vector: its query is a vector of 'elsewhere'"


def test_what_prepares_vectors_may_fail_for_one_text_too():
    def prepare(rows: Vectors) -> Vectors:
        if len(rows) > 1 or rows[0, 0] > 0:
            raise ArithmeticError("not these")
        return rows

    domain = make_domain(prepare=prepare)
    rows = WordEncoder().encode(["red", "blue", "green", "old"])
    found = queries_of(domain, [session(n, text) for n, text in enumerate(["red", "blue", "green", "old"])])
    assert found.vectors.keys() == {f"s{n}" for n in range(4) if rows[n, 0] <= 0}
    assert all("ArithmeticError" in str(outcome.reason) for outcome in found.verdicts.values())
    assert len(found.vectors) + len(found.verdicts) == 4

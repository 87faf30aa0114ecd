"""Reading a data set's folder: what is there, and a sentence for everything that is wrong with it."""

from typing import Any

import numpy as np
import pytest

from improvement.errors import Invalid
from improvement.evaluation.dataset import load_dataset
from tests.improvement.evaluation.conftest import Write, hand_made


def test_a_folder_becomes_objects_queries_and_users(write: Write):
    data = load_dataset(write())
    assert [len(parts) for parts in data.objects[:4]] == [2, 1, 1, 2]
    assert (len(data.objects), len(data.queries), data.dimensions) == (24, 2, 2)
    ann, bob = data.users
    assert (ann.user_id, ann.train, ann.test) == ("ann", (0,), (1,))
    assert ann.relevant == {0: {2, 21}, 1: {22, 5}}
    assert (bob.train, bob.test, bob.relevant) == ((1,), (0,), {})
    assert data.topics == {1: {23, 15, 0}}


def test_topics_may_be_missing_queries_may_have_parts_and_lines_may_be_blank(write: Write):
    queries = b'{"query_id": "low", "parts": 2}\n\n{"query_id": "high"}'
    vectors = np.ones((3, 2), np.int64)
    data = load_dataset(write(topics_jsonl=None, queries_jsonl=queries, queries_npy=vectors))
    assert [len(vectors) for vectors in data.queries] == [2, 1]
    assert data.queries[0].dtype == np.float32
    assert data.topics == {}


def changed(name: str, line: int, **fields: Any) -> dict[str, Any]:
    lines = hand_made()[f"{name}.jsonl"]
    lines[line] = {key: value for key, value in (lines[line] | fields).items() if value is not None}
    return {f"{name}_jsonl": lines}


def poisoned(value: float) -> np.ndarray:
    vectors = hand_made()["objects.npy"].astype(np.float64)
    vectors[3, 1] = value  # the row of the fourth line's neighbour: o00 has two parts, so this is o02
    return vectors


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sessions_jsonl": None}, r"sessions.jsonl: No such file"),
        ({"objects_npy": None}, r"objects.npy: No such file"),
        ({"relevance_jsonl": None}, r"relevance.jsonl: No such file"),
        ({"objects_jsonl": b""}, r"objects.jsonl: expected at least one line"),
        ({"sessions_jsonl": b"\n"}, r"sessions.jsonl: expected at least one session"),
        ({"queries_jsonl": b'{"query_id": "low"\n'}, r"queries.jsonl, line 1: Invalid JSON"),
        ({"queries_jsonl": b"[]\n"}, r"queries.jsonl, line 1: Input should be an object"),
        ({"queries_jsonl": b'\n{"query_id": "\xff"}\n'}, r"queries.jsonl, line 2: Invalid JSON"),
        (changed("objects", 4, object_id="o01"), r"objects.jsonl, line 5: object_id: 'o01' again.*line 2"),
        (changed("objects", 4, object_id=None), r"objects.jsonl, line 5: object_id: Field required"),
        (changed("objects", 4, object_id=""), r"objects.jsonl, line 5: object_id: String should have"),
        (changed("objects", 4, object_id=4), r"objects.jsonl, line 5: object_id: Input should be"),
        (changed("objects", 4, parts=0), r"objects.jsonl, line 5: parts: Input should be greater than"),
        (changed("objects", 4, parts=True), r"objects.jsonl, line 5: parts: Input should be a valid int"),
        (changed("objects", 4, parts=7), r"objects.npy: expected 38 rows, as objects.jsonl counts"),
        ({"objects_npy": np.ones((32, 3))}, r"queries.npy: expected rows of 3 numbers, as in"),
        ({"objects_npy": np.ones(32)}, r"objects.npy: expected a table of numbers.* got float64 \(32,\)"),
        ({"objects_npy": np.ones((32, 0))}, r"objects.npy: expected at least one number a row"),
        ({"objects_npy": np.full((32, 2), "x")}, r"objects.npy: expected a table of numbers"),
        ({"objects_npy": b"no array"}, r"objects.npy: expected an array in NumPy's format"),
        ({"objects_npy": b""}, r"objects.npy: expected an array in NumPy's format"),
        ({"objects_npy": poisoned(float("nan"))}, r"objects.npy, row 4: expected finite.*jsonl, line 3"),
        ({"objects_npy": poisoned(1e300)}, r"objects.npy, row 4: expected finite.*jsonl, line 3"),
        (changed("sessions", 2, query_id="nothing"), r"sessions.jsonl, line 3: query_id: unknown, got"),
        (changed("sessions", 2, split="validation"), r"sessions.jsonl, line 3: split: Input should be"),
        (changed("relevance", 1, user_id="eve"), r"relevance.jsonl, line 2: user_id: 'eve' has no line"),
        (changed("relevance", 1, query_id="low"), r"relevance.jsonl, line 2: query_id: 'low' again for"),
        (changed("relevance", 1, object_ids=["o99"]), r"relevance.jsonl, line 2: object_ids: unknown"),
        (changed("relevance", 1, object_ids=["o1", 2]), r"relevance.jsonl, line 2: object_ids.1: Input"),
        (changed("relevance", 1, object_ids=["o01"] * 2), r"relevance.jsonl, line 2: object_ids: 'o01'"),
        (changed("topics", 0, query_id="nothing"), r"topics.jsonl, line 1: query_id: unknown"),
        ({"topics_jsonl": hand_made()["topics.jsonl"] * 2}, r"topics.jsonl, line 2: query_id: 'high' again"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_file_and_line(write: Write, changes: dict[str, Any], says: str):
    with pytest.raises(Invalid, match=says):
        load_dataset(write(**changes))


def test_pickled_arrays_are_not_opened(write: Write):
    with pytest.raises(Invalid, match="expected an array"):
        load_dataset(write(objects_npy=np.array([{"a": 1}], dtype=object)))

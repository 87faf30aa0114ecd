"""A data set small enough to compute by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

#: Writes the folder, some files replaced: a list becomes lines, an array a table, None is left out.
Write = Callable[..., Path]


def at(*degrees: float) -> np.ndarray:
    """Return unit vectors in the plane at these angles."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def hand_made() -> dict[str, Any]:
    """24 objects fanned out from 0 to 23 degrees, some with a second part on the far side.

    The query "low" looks from 0 degrees, so it finds them in order; "high" from 23, in reverse.
    """
    parts = [2 if i % 3 == 0 else 1 for i in range(24)]
    rows = [at(*([i, 180 + i][: parts[i]])) for i in range(24)]
    ids = [f"o{i:02}" for i in range(24)]
    return {
        "objects.jsonl": [
            {"object_id": o, "parts": p, "payload": {}} for o, p in zip(ids, parts, strict=True)
        ],
        "objects.npy": np.concatenate(rows),
        "queries.jsonl": [{"query_id": q, "text": q} for q in ("low", "high")],
        "queries.npy": at(0, 23),
        "sessions.jsonl": [
            {"user_id": "ann", "query_id": "low", "split": "train"},
            {"user_id": "ann", "query_id": "high", "split": "test"},
            {"user_id": "bob", "query_id": "high", "split": "train"},
            {"user_id": "bob", "query_id": "low", "split": "test"},
        ],
        "relevance.jsonl": [
            {"user_id": "ann", "query_id": "low", "object_ids": ["o02", "o21"]},
            {"user_id": "ann", "query_id": "high", "object_ids": ["o22", "o05"]},
        ],
        "topics.jsonl": [{"query_id": "high", "object_ids": ["o23", "o15", "o00"]}],
    }


def write_folder(folder: Path, **changes: Any) -> Path:
    """Write the hand-made data set, some files replaced."""
    folder.mkdir(exist_ok=True)
    for name, content in (hand_made() | {n.replace("_", "."): c for n, c in changes.items()}).items():
        path = folder / name
        if isinstance(content, np.ndarray):
            np.save(path, content)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        elif content is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text("".join(json.dumps(line) + "\n" for line in content))
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return lambda **changes: write_folder(tmp_path / "dataset", **changes)

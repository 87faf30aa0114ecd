"""What collections hold, and what it takes."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from improvement.domain import SearchDomain
from improvement.quality.growth import SAMPLE, estimated_bytes, growth
from improvement.wiring import Rooms
from tests.support import Gap, make_object, make_objects


def copy_of(o: Any, user: str) -> Any:
    return replace(o, object_id=f"{o.object_id}_{user}", original_id=o.object_id, user_id=user)


def test_each_collection_says_what_it_holds(rooms: Rooms, domain: SearchDomain):
    objects = make_objects(domain, 2 * SAMPLE)
    green = rooms.releases.create(domain, "v2")
    rooms.releases.follow(green, True)
    rooms.vectors.upsert(green.collection_id, objects)
    blue = rooms.releases.blue(domain.name)
    copies = [copy_of(o, user) for o in objects[:30] for user in ("ann", "bob")]
    rooms.vectors.upsert(blue.collection_id, [*objects[:50], *copies])
    rows = {row["collection"]: row for row in growth(rooms.releases, rooms.vectors, [domain.name])}
    assert rows.keys() == {blue.collection_id, green.collection_id}
    serving, other = rows[blue.collection_id], rows[green.collection_id]
    assert (serving["originals"], serving["copies"], serving["points"]) == (50, 60, 110)
    assert (serving["blue"], serving["follows"]) == (True, False)
    assert (other["originals"], other["copies"], other["points"]) == (2 * SAMPLE, 0, 2 * SAMPLE)
    assert (other["blue"], other["follows"]) == (False, True)
    assert (other["domain"], other["embedding_model_id"]) == (domain.name, "v2")
    assert other["parts"] == pytest.approx(2.0, abs=0.3)
    vectors = sum((len(o.parts) + 1) * 16 * 4 for o in objects)
    assert vectors < other["bytes"] < 4 * vectors
    assert json.loads(json.dumps(list(rows.values()))) == list(rows.values())


def test_an_empty_collection_takes_nothing_and_an_unknown_domain_has_none(rooms: Rooms, domain: SearchDomain):
    [row] = growth(rooms.releases, rooms.vectors, [domain.name, "nowhere"])
    assert (row["points"], row["parts"], row["bytes"]) == (0, 0.0, 0)


def test_a_collection_deleted_meanwhile_is_left_out(rooms: Rooms, domain: SearchDomain):
    rooms.releases.create(domain, "v2")
    blue = rooms.releases.blue(domain.name).collection_id
    racing: Any = Gap(rooms.vectors, "count", lambda: rooms.releases.delete(domain.name, "v2"), before=True)
    assert [row["collection"] for row in growth(rooms.releases, racing, [domain.name])] == [blue]


def test_a_store_that_does_not_answer_is_said(rooms: Rooms, domain: SearchDomain):
    def fail() -> None:
        raise ConnectionError("away")

    away: Any = Gap(rooms.vectors, "count", fail)
    with pytest.raises(ConnectionError):
        growth(rooms.releases, away, [domain.name])


def test_calls_do_not_grow_with_what_is_held(rooms: Rooms, domain: SearchDomain):
    blue = rooms.releases.blue(domain.name).collection_id

    def calls(count: int) -> int:
        rooms.vectors.upsert(blue, make_objects(domain, count))
        counted = Counted(rooms.vectors)
        stored: Any = counted
        growth(rooms.releases, stored, [domain.name])
        return counted.calls

    assert calls(3) == calls(3 * SAMPLE) == 3


class Counted:
    """Counts the calls to the vectors."""

    def __init__(self, inner: Any) -> None:
        self._inner, self.calls = inner, 0

    def __getattr__(self, name: str) -> Any:
        self.calls += 1
        return getattr(self._inner, name)


def test_bytes_are_what_vectors_and_payload_of_a_sample_take_for_all():
    plain = make_object("o", np.ones((3, 8)), payload={"text": "x" * 1_000})
    vectors = 4 * 8 * 4
    one = estimated_bytes([plain], 8, 1, 0)
    assert vectors + 1_000 < one < vectors + 1_200
    assert estimated_bytes([plain], 8, 10, 0) == 10 * one
    assert estimated_bytes([plain], 8, 0, 7) <= 7 * one
    turned = replace(plain, raw=plain.parts, given="before")
    assert estimated_bytes([turned], 8, 1, 0) - one == 3 * 8 * 4 * 4 // 3
    assert estimated_bytes([turned], 8, 0, 1) == estimated_bytes([plain], 8, 0, 1)
    assert estimated_bytes([], 8, 0, 0) == 0

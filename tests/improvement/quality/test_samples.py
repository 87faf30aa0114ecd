"""What audits remember: the same sample every day, for so long, and nobody who was erased."""

import uuid
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymongo.database import Database

from clickstream.improvement_queue import Owner
from improvement.domain import SearchDomain
from improvement.evaluation.drift import UNMOVED, cosine_distances
from improvement.improver import Improver
from improvement.quality.moved import compare, moved, objects_now
from improvement.quality.samples import DAY, Kind, Row, SampleStore, Snapshot, kept
from improvement.quality.settings import AuditSettings
from improvement.vectors import point_id
from improvement.wiring import Rooms
from tests.support import make_object, make_objects

NOW = 2_000 * DAY


@pytest.fixture
def samples(database: Database[Any]) -> SampleStore:
    store = SampleStore(database)
    store.ensure_indexes()
    return store


def snapshot(at: float = NOW, names: str = "ab", **changes: Any) -> Snapshot:
    rows = {name: Row(np.eye(4, dtype=np.float32)[n % 4], f"made of {name}") for n, name in enumerate(names)}
    return replace(Snapshot("docs", Kind.OBJECTS, at, "docs.1", "words-v1", rows), **changes)


def test_what_is_remembered_is_what_was_saved(samples: SampleStore):
    rows = {
        "any\nname $ at.all": Row(np.arange(4, dtype=np.float32), "mark", "key"),
        "o2": Row(np.ones(4, np.float32)),
    }
    saved = snapshot(rows=rows, upto="place")
    samples.save(saved)
    found = samples.before("docs", Kind.OBJECTS, NOW)
    assert (found.at, found.release, found.space, found.upto) == (NOW, "docs.1", "words-v1", "place")
    assert found.rows.keys() == rows.keys()
    for name, row in rows.items():
        np.testing.assert_array_equal(found.rows[name].vector, row.vector)
        assert (found.rows[name].mark, found.rows[name].owner) == (row.mark, row.owner)


def test_the_newest_that_is_old_enough_is_compared_with(samples: SampleStore):
    for days in (9, 7, 3, 0):
        samples.save(snapshot(NOW - days * DAY))
    samples.save(snapshot(NOW, kind=Kind.COPIES))
    samples.save(snapshot(NOW, domain="shop"))
    assert samples.before("docs", Kind.OBJECTS, NOW - 0.5 * DAY).at == NOW - 3 * DAY
    assert samples.before("docs", Kind.OBJECTS, NOW - 6.5 * DAY).at == NOW - 7 * DAY
    assert samples.before("docs", Kind.OBJECTS, NOW - 20 * DAY) is None
    assert samples.newest_at("docs", Kind.OBJECTS) == NOW
    assert samples.newest_at("docs", Kind.PROFILES) is None


def test_profiles_and_copies_are_not_compared_with_what_they_were_before_they_were_made_anew(
    samples: SampleStore,
):
    for kind in Kind:
        for days in (1.0, 0.0):
            samples.save(snapshot(NOW - days * DAY, kind=kind))
    assert samples.baseline("docs") == 0
    samples.rebase("docs", NOW)
    samples.rebase("docs", NOW - DAY)
    assert samples.baseline("docs") == NOW
    for kind, there in ((Kind.OBJECTS, True), (Kind.PROFILES, False), (Kind.COPIES, False)):
        assert (samples.before("docs", kind, NOW) is not None) == there
        samples.save(snapshot(NOW + 0.4 * DAY, kind=kind))
        assert (samples.before("docs", kind, NOW + 0.4 * DAY) is not None) == there, "it may still settle"
        samples.save(snapshot(NOW + 0.5 * DAY, kind=kind))
        assert samples.before("docs", kind, NOW + DAY).at == NOW + 0.5 * DAY


def test_what_is_too_old_is_forgotten_with_its_vectors(samples: SampleStore):
    for day in range(80):
        samples.save(snapshot(NOW + day * DAY, "a"))
    held = sorted((NOW + 79 * DAY - d["at"]) / DAY for d in samples._samples.find())
    assert held[:9] == list(range(9))
    assert len(held) == 9 + 5
    assert np.diff(held[9:]).tolist() == [7] * 4
    assert samples._rows.count_documents({}) == len(held)


@given(ages=st.lists(st.floats(0, 100), max_size=60))
@settings(deadline=None, max_examples=40)
def test_there_is_always_one_of_a_day_ago_and_one_of_a_week_ago_if_there_was(ages: list[float]):
    """Whatever was saved when: forgetting takes nothing that the next audit compares with."""
    times = {f"s{n}": NOW - age * DAY for n, age in enumerate(ages)}
    left = kept(times, NOW)
    for days in (0.5, 6.5):
        old = [name for name, at in times.items() if NOW - 8 * DAY <= at <= NOW - days * DAY]
        assert not old or max(old, key=times.__getitem__) in left
    assert kept({name: times[name] for name in left}, NOW) == left


def test_one_that_died_while_it_was_written_does_not_count_and_goes_away(samples: SampleStore):
    samples._samples.insert_one(
        {"_id": "half", "domain": "docs", "kind": "objects", "at": NOW, "whole": False, "release": "",
         "space": "", "upto": None}
    )  # fmt: skip
    samples._rows.insert_one({"_id": "half\na", "sample": "half"})
    assert samples.before("docs", Kind.OBJECTS, NOW) is None
    samples.save(snapshot(NOW + DAY / 2))
    assert samples._rows.count_documents({"sample": "half"}) == 1, "somebody may be writing it"
    samples.save(snapshot(NOW + 2 * DAY))
    assert samples._rows.count_documents({"sample": "half"}) == 0


def test_who_is_erased_is_forgotten(samples: SampleStore):
    ann, bob = Owner("docs", "ann").key, Owner("docs", "bob").key
    rows = {key: Row(np.ones(4, np.float32), "", key) for key in (ann, bob)}
    for days in (1, 0):
        samples.save(snapshot(NOW - days * DAY, kind=Kind.PROFILES, rows=rows))
    assert samples.erase([ann, Owner("shop", "ann").key]) == 2
    assert samples.before("docs", Kind.PROFILES, NOW).rows.keys() == {bob}


# What moved


def test_only_what_was_made_from_the_same_is_compared():
    before = snapshot(NOW - DAY, "abcd")
    rows = dict(before.rows) | {"e": Row(np.ones(4, np.float32), "made of e")}
    rows["b"] = Row(np.array([1, 1, 0, 0], np.float32), "somebody wrote it anew")
    rows["c"] = Row(-rows["c"].vector, rows["c"].mark)
    del rows["d"]
    found = moved(before, snapshot(NOW, rows=rows))
    assert (found.drift.compared, found.drift.whole, found.drift.moved) == (2, 1.0, 0.5)
    assert (found.replaced, found.gone, list(found.new)) == (1, 1, ["e"])
    assert found.as_json()["new"] == 1


def test_another_collection_is_a_promotion_and_another_space_nothing():
    before, now = snapshot(NOW - DAY), snapshot(NOW)
    assert moved(before, now).cause == "learning"
    assert moved(before, replace(now, release="docs.2")).cause == "promotion"
    other = moved(before, replace(now, release="docs.2", space="words-v2"))
    assert (other.cause, other.drift) == ("space", None)
    assert moved(None, now).since is None


def test_vectors_of_another_size_or_none_at_all_are_not_compared():
    wide = snapshot(NOW, rows={"a": Row(np.ones(9, np.float32), "made of a")})
    assert moved(snapshot(NOW - DAY), wide).drift is None
    assert moved(snapshot(NOW - DAY), snapshot(NOW, rows={})).drift is None


def sampled(rooms: Rooms, improving: Improver, domain: SearchDomain, most: int) -> Snapshot:
    asked = replace(domain, audit=AuditSettings(sample=most))
    return objects_now(improving, asked, rooms.releases.serving(domain.name), NOW)


def test_the_sample_of_objects_is_always_the_same_one(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    blue = rooms.releases.blue(domain.name).collection_id
    objects = make_objects(domain, 60)
    rooms.vectors.upsert(blue, objects)
    places = sorted(point_id(o.object_id) for o in objects)
    found = sampled(rooms, improving, domain, 20)
    assert {point_id(name) for name in found.rows} == set(places[:20])
    assert found.upto == places[19]
    for o in objects:
        if o.object_id in found.rows:
            assert cosine_distances([found.rows[o.object_id].vector], [o.mean])[0] < UNMOVED
            assert found.rows[o.object_id].mark == o.given_revision
    assert sampled(rooms, improving, domain, 1_000).upto is None
    assert len(sampled(rooms, improving, domain, 1_000).rows) == 60


def test_new_objects_of_the_sample_are_those_that_were_not_there_not_those_that_moved_up(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    blue = rooms.releases.blue(domain.name).collection_id
    names = sorted((f"o{n}" for n in range(40)), key=point_id)
    vector = np.ones(16, np.float32)
    rooms.vectors.upsert(blue, [make_object(name, vector) for name in names])
    rooms.samples.save(replace(sampled(rooms, improving, domain, 10), at=NOW - DAY))
    new = [name for name in (uuid.uuid4().hex for _ in range(400)) if point_id(name) < point_id(names[9])][:3]
    rooms.vectors.delete(blue, names[:5])  # five that were beyond the sample are in it now
    rooms.vectors.upsert(blue, [make_object(name, vector) for name in new])
    found = compare(rooms.samples, sampled(rooms, improving, domain, 10))["day"]
    assert set(found.new) == set(new)
    assert found.gone == 5
    assert found.drift.whole == 0

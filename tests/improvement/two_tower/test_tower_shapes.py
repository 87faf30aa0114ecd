from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from improvement.domain import MetricAggregationType, SearchDomain
from improvement.errors import Unavailable
from improvement.improver import Improver
from improvement.routes import catalogue
from improvement.two_tower.entries import Kind
from improvement.two_tower.following import TowerFollowing
from improvement.two_tower.names import towers_name
from improvement.two_tower.reading import author_of, facts_of
from improvement.two_tower.shapes import EveryShape
from improvement.wiring import Rooms
from tests.improvement.two_tower.published import begun, held, move, some_objects, with_towers, write
from tests.support import WordEncoder, make_domain, make_object

OTHER = "words-v2"


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return with_towers(domain)


def two_spaces(**changes: Any) -> SearchDomain:
    other = replace(make_domain(dimensions=24), encoder=WordEncoder(24, OTHER))
    return with_towers(replace(make_domain(), variants=(other,), **changes))


def test_the_text_row_is_the_mean_part_as_given_at_length_1():
    domain = with_towers(make_domain())
    rows = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    several = make_object("several", rows, payload={"author": "ann"})
    turned = replace(several, object_id="turned", parts=rows[::-1] * 9, raw=rows)
    averaged = make_object("averaged", rows[:1], average=rows[2] * 5, payload={"author": ["ann"]})
    facts, failed = facts_of(domain, [several, turned, averaged], "words-v1", "words-v1")
    mean = rows.mean(axis=0)
    np.testing.assert_allclose(facts.texts[0], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_allclose(facts.texts[1], facts.texts[0], atol=1e-6)
    np.testing.assert_allclose(facts.texts[2], rows[2] / np.linalg.norm(rows[2]), atol=1e-6)
    assert facts.authors == ("ann", "ann", None)
    assert facts.object_ids == ("several", "turned", "averaged")
    assert not failed


def test_rows_of_another_space_are_embedded_anew_and_a_bad_text_fails_alone():
    domain = two_spaces()
    good = make_object("good", np.ones(16), texts=("red shoes",))
    bad = make_object("bad", np.ones(16), texts=("explode",))
    mute = make_object("mute", np.ones(16))
    facts, failed = facts_of(domain, [bad, good, mute], "words-v1", OTHER)
    wanted = WordEncoder(24, OTHER).encode(["red shoes"])[0]
    np.testing.assert_allclose(facts.texts, [wanted / np.linalg.norm(wanted)], atol=1e-6)
    assert facts.object_ids == ("good",)
    assert failed.keys() == {"bad", "mute"}


def test_a_space_that_no_encoder_has_any_more_fails_each_object_with_a_reason():
    domain = with_towers(make_domain())
    facts, failed = facts_of(domain, [make_object("o", np.ones(16))], "words-v1", "gone")
    assert len(facts) == 0
    assert "no encoder of the space 'gone'" in failed["o"]


@pytest.mark.parametrize("rows", [np.ones(7), np.full(16, np.nan), np.full(16, np.inf)])
def test_what_has_another_width_or_no_numbers_fails_alone(rows: np.ndarray):
    domain = with_towers(make_domain())
    objects = [make_object("bad", rows), make_object("good", np.ones(16))]
    facts, failed = facts_of(domain, objects, "words-v1", "words-v1")
    assert (facts.object_ids, failed.keys()) == (("good",), {"bad"})


@pytest.mark.parametrize(
    ("payload", "author"),
    [
        ({"by": "ann"}, "ann"), ({"by": ""}, None), ({"by": 3}, "3"), ({"by": True}, None),
        ({"by": 1.5}, None), ({"by": None}, None), ({"by": {"id": 1}}, None), ({}, None),
    ],
)  # fmt: skip
def test_an_author_is_an_id_or_nobody(payload: dict[str, Any], author: str | None):
    assert author_of(payload, "by") == author
    assert author_of(payload, None) is None


def test_every_other_collection_has_the_shape_that_it_had(rooms: Rooms, domain: SearchDomain):
    objects = some_objects(domain, 3)
    release = rooms.releases.blue(domain.name)
    mine = EveryShape(rooms.shaper, rooms.towers).shaped(domain, objects, release.space, release)
    assert [o.object_id for o in mine.objects] == ["o0", "o1", "o2"]
    np.testing.assert_array_equal(mine.objects[0].parts, objects[0].parts)


def test_facts_are_read_from_what_serves_in_the_order_asked(rooms: Rooms, domain: SearchDomain):
    objects = some_objects(domain, 5)
    write(rooms, domain, objects)
    facts = rooms.facts.of(domain, ["o3", "nobody", "o1", "o3"], domain.encoder.model_id)
    assert facts.object_ids == ("o3", "o1")
    np.testing.assert_allclose(facts.texts[0], objects[3].mean, atol=1e-6)
    assert len(rooms.facts.of(domain, [], domain.encoder.model_id)) == 0


def test_a_new_object_is_found_by_the_towers_within_the_request_that_made_it(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    begun(rooms, improving, domain)
    (new,) = some_objects(domain, 1, seed=7, start=50)
    write(rooms, domain, [new])
    serving = rooms.towers.serving(domain.name)
    assert serving is not None
    row = held(rooms, domain)["o50"]
    info = replace(domain.search_index_info, metric_aggregation_type=MetricAggregationType.AVG)
    hits, _ = rooms.vectors.search(serving.collection_id, info, row, 1)
    assert hits[0].object_id == "o50"
    assert hits[0].payload["author"] == "a0"
    (entry, *_) = rooms.entries.newest_items(domain.name, 1)
    assert (entry.id, entry.is_pretrained) == ("o50", True)


def test_what_changes_gets_a_vector_anew_and_its_moves_are_forgotten(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    objects = begun(rooms, improving, domain)
    serving = rooms.towers.serving(domain.name)
    assert serving is not None
    before = held(rooms, domain)
    moved = np.roll(before["o1"], 1)
    for object_id in ("o0", "o1"):
        known = rooms.entries.load(domain.name, [(Kind.ITEM, object_id)])[Kind.ITEM, object_id]
        entry = replace(known, vector=moved, base=before[object_id], space=serving.checkpoint_id, count=3)
        assert not rooms.entries.save([entry])
    move(rooms, domain, {"o0": moved, "o1": moved})
    changed = make_object("o0", -objects[0].parts, payload=objects[0].payload)
    write(rooms, domain, [changed, objects[1]])
    now = held(rooms, domain)
    assert np.abs(now["o0"] - before["o0"]).max() > 0.1
    assert np.abs(now["o0"] - moved).max() > 0.1
    np.testing.assert_allclose(now["o1"], moved, atol=1e-6)  # its content is what it was
    entries = rooms.entries.load(domain.name, [(Kind.ITEM, "o0"), (Kind.ITEM, "o1")])
    assert (entries[Kind.ITEM, "o0"].vector, entries[Kind.ITEM, "o0"].count) == (None, 3)
    assert entries[Kind.ITEM, "o1"].vector is not None


def test_what_is_deleted_leaves_the_towers_and_their_entries(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    begun(rooms, improving, domain)
    catalogue(rooms, domain).delete(["o3", "never there"])
    assert "o3" not in held(rooms, domain)
    assert not rooms.entries.load(domain.name, [(Kind.ITEM, "o3")])


def test_copies_of_users_never_reach_the_towers(rooms: Rooms, improving: Improver, domain: SearchDomain):
    objects = begun(rooms, improving, domain)
    copy = replace(objects[0], object_id="o0_ann", user_id="ann", original_id="o0")
    write(rooms, domain, [copy])
    serving = rooms.towers.serving(domain.name)
    assert serving is not None
    assert rooms.vectors.total(serving.collection_id) == 30


def test_towers_that_cannot_be_read_keep_nobody_from_writing(
    rooms: Rooms, improving: Improver, domain: SearchDomain, monkeypatch: pytest.MonkeyPatch
):
    begun(rooms, improving, domain)

    def damaged(checkpoint_id: str) -> None:
        raise Unavailable("its digest differs")

    with monkeypatch.context() as patched:
        patched.setattr(rooms.towers, "tower", damaged)
        write(rooms, domain, some_objects(domain, 1, seed=3, start=60))
        catalogue(rooms, domain).delete(["o2"])
    assert "o60" in rooms.vectors.find(rooms.releases.blue(domain.name).collection_id, ["o60"])
    assert "o2" not in held(rooms, domain)
    assert "o60" not in held(rooms, domain)
    write(rooms, domain, some_objects(domain, 1, seed=3, start=60))
    assert "o60" in held(rooms, domain)


def test_a_domain_without_towers_asks_nothing(rooms: Rooms, domain: SearchDomain):
    plain = replace(domain, towers=None)
    following = TowerFollowing(*[None] * 5)  # type: ignore[arg-type]
    following.bring(plain, ["o1"])
    write(rooms, plain, some_objects(plain, 2))
    assert rooms.entries.newest_items(domain.name, 5) == []
    assert not rooms.releases.list(towers_name(domain.name))


def test_objects_written_before_any_towers_serve_are_known_as_new(rooms: Rooms, domain: SearchDomain):
    write(rooms, domain, some_objects(domain, 4))
    assert {one.id for one in rooms.entries.newest_items(domain.name, 10)} == {"o0", "o1", "o2", "o3"}

"""EntryStore: what is stored comes back, conditional writes, and each question it answers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pymongo.database import Database

from improvement.two_tower.entries import HEARD, Before, Entry, EntryStore, Kind, short
from improvement.two_tower.facts import Past
from tests.support import Clock

STRANGE = "a\0b|“ü”\n$.'{}"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def entries(database: Database[Any], clock: Clock) -> EntryStore:
    store = EntryStore(database, clock)
    store.ensure_indexes()
    store.ensure_indexes()
    return store


def past(number: int, **changes: Any) -> Past:
    return replace(Past(f"a:{number}", f"o{number}", None, "click", 0.5, float(number)), **changes)


def user(name: str = "u", **changes: Any) -> Entry:
    return replace(Entry("d", Kind.USER, name), **changes)


def item(name: str = "o", **changes: Any) -> Entry:
    return replace(Entry("d", Kind.ITEM, name), **changes)


def same(one: Entry, other: Entry) -> bool:
    def arrays(entry: Entry) -> list[Any]:
        return [None if each is None else each.tolist() for each in (entry.vector, entry.base)]

    plain = {"vector": None, "base": None}
    return vars(replace(one, **plain)) == vars(replace(other, **plain)) and arrays(one) == arrays(other)


def test_what_was_saved_comes_back_whatever_it_is_called(entries: EntryStore):
    vector = np.array([0.6, -0.8, 0.0], np.float32)
    pasts = (past(1, engagement_id=STRANGE, object_id=STRANGE, author=STRANGE, action=STRANGE), past(2))
    someone = user(STRANGE, vector=vector, space="s", count=2, pasts=pasts, created_at=5.0, due=True)
    something = item(
        STRANGE, vector=vector, base=-vector, space="s", content=STRANGE, count=1, heard=(STRANGE,),
        created_at=6.0,
    )  # fmt: skip
    nobody = user("nobody")
    assert entries.save([someone, something, nobody]) == set()
    found = entries.load("d", [someone.key, something.key, nobody.key, (Kind.USER, "unknown")])
    assert found.keys() == {someone.key, something.key, nobody.key}
    assert same(found[someone.key], replace(someone, version=1))
    assert same(found[something.key], replace(something, version=1))
    assert same(found[nobody.key], replace(nobody, version=1, created_at=entries.clock()))
    assert entries.load("other", [someone.key]) == {}
    assert entries.versions("d", [someone.key, (Kind.USER, "unknown")]) == {someone.key: 1}


def test_what_was_before_engagements_comes_back_with_its_space_the_newest_only(entries: EntryStore):
    vector = np.array([0.6, -0.8], np.float32)
    before = [Before(f"a:{n}", vector, None if n % 2 else -vector, f"s{n}") for n in range(2 * HEARD + 3)]
    entries.save([user(before=tuple(before))])
    found = entries.load("d", [(Kind.USER, "u")])[Kind.USER, "u"].before
    assert [(one.engagement_id, one.space) for one in found] == [
        (one.engagement_id, one.space) for one in before[3:]
    ]
    assert (found[0].user.tolist(), found[0].item) == (vector.tolist(), None)
    assert found[1].item.tolist() == (-vector).tolist()


def test_more_entries_than_one_request_takes_are_loaded(entries: EntryStore):
    many = [user(f"u{n}") for n in range(250)]
    entries.save(many)
    assert len(entries.load("d", [one.key for one in many])) == 250


def test_a_write_of_an_older_version_does_not_land_and_is_named(entries: EntryStore):
    entries.save([user("a"), user("b")])
    held = entries.load("d", [(Kind.USER, "a"), (Kind.USER, "b")])
    assert entries.save([replace(held[Kind.USER, "a"], count=1)]) == set()
    both = [replace(one, count=7) for one in held.values()]
    assert entries.save(both) == {(Kind.USER, "a")}
    now = entries.load("d", held)
    assert (now[Kind.USER, "a"].count, now[Kind.USER, "b"].count) == (1, 7)


def test_of_two_who_make_an_entry_one_is_told_that_it_is_there(entries: EntryStore):
    assert entries.save([user(count=1)]) == set()
    assert entries.save([user(count=9), item()]) == {(Kind.USER, "u")}
    assert entries.load("d", [(Kind.USER, "u")])[Kind.USER, "u"].count == 1


def test_a_late_write_does_not_bring_back_what_was_erased(entries: EntryStore):
    entries.save([user()])
    held = entries.load("d", [(Kind.USER, "u")])[Kind.USER, "u"]
    assert entries.erase("u") == 1
    assert entries.save([held]) == {held.key}
    assert entries.load("d", [held.key]) == {}


def test_erasing_deletes_a_users_entries_in_every_domain_and_no_item_of_that_name(entries: EntryStore):
    entries.save([user("x"), replace(user("x"), domain="e"), item("x"), user("y")])
    assert entries.erase("x") == 2
    assert entries.erase("x") == 0
    assert entries.load("d", [(Kind.ITEM, "x"), (Kind.USER, "y")]).keys() == {
        (Kind.ITEM, "x"),
        (Kind.USER, "y"),
    }


def test_an_entry_given_twice_is_refused(entries: EntryStore):
    with pytest.raises(ValueError, match="each once"):
        entries.save([user(), user()])


def test_items_are_new_once_and_gone_when_deleted(entries: EntryStore, clock: Clock):
    vector = np.array([1.0, 0.0], np.float32)
    entries.create_items("d", ["a", "b", "a"])
    clock.now += 10
    entries.save([item("b", vector=vector, base=vector, space="s", count=1, version=1)])
    entries.create_items("d", ["b", "c"])
    newest = entries.newest_items("d", 10)
    assert [one.id for one in newest][0] == "c"
    assert {one.id for one in newest} == {"a", "b", "c"}
    by_id = {one.id: one for one in newest}
    assert by_id["a"].is_pretrained
    assert by_id["a"].vector is None
    assert by_id["a"].version == 1
    assert not by_id["b"].is_pretrained
    assert by_id["b"].created_at == clock.now - 10
    assert [one.id for one in entries.newest_items("d", 1)] == ["c"]
    assert entries.newest_items("d", 0) == []
    entries.delete_items("d", ["a", "c", "never"])
    assert [one.id for one in entries.newest_items("d", 10)] == ["b"]


def test_users_who_waited_longest_are_due_first_and_behind_them_those_of_another_space(
    entries: EntryStore, clock: Clock
):
    for name in ("late", "early", "other"):
        clock.now -= 5
        entries.save([user(name, due=name != "other", space="old" if name == "other" else "now")])
    entries.save([user("none", space=""), item("thing", space="old"), user("zz", space="z", due=True)])
    assert [one.id for one in entries.due_users("d", 10)] == ["zz", "early", "late"]
    assert [one.id for one in entries.due_users("d", 10, "now")] == ["zz", "early", "late", "other"]
    assert len(entries.due_users("d", 2, "now")) == 2
    assert entries.due_users("d", 0, "now") == []
    held = entries.load("d", [(Kind.USER, "early")])[Kind.USER, "early"]
    entries.save([replace(held, due=False)])
    assert "early" not in [one.id for one in entries.due_users("d", 10, "now")]


def test_a_sample_is_the_same_every_time_and_has_vectors(entries: EntryStore):
    vector = np.array([1.0, 0.0], np.float32)
    entries.save([user(f"u{n}", vector=vector if n % 2 else None, space="s") for n in range(20)])
    entries.save([item(f"o{n}", vector=vector, base=vector, space="s") for n in range(20)])
    sample = [one.id for one in entries.sample("d", Kind.USER, 5)]
    assert len(sample) == 5
    assert all(int(name[1:]) % 2 for name in sample)
    assert sample == [one.id for one in entries.sample("d", Kind.USER, 5)]
    assert len(entries.sample("d", Kind.USER, 100)) == 10
    assert entries.sample("d", Kind.USER, 0) == []


def test_an_item_remembers_the_newest_engagements_only(entries: EntryStore):
    entries.save([item(heard=tuple(short(f"a:{n}") for n in range(HEARD + 5)))])
    found = entries.load("d", [(Kind.ITEM, "o")])[Kind.ITEM, "o"]
    assert len(found.heard) == HEARD
    assert found.knows(f"a:{HEARD + 4}")
    assert not found.knows("a:0")


def test_every_question_of_many_is_answered_by_an_index(entries: EntryStore):
    for question in (
        {"domain": "d", "due": True},
        {"domain": "d", "kind": "user", "space": {"$gt": "s"}},
        {"domain": "d", "kind": "item"},
        {"user_id": "u"},
        {"_id": {"$in": ["a", "b"]}},
    ):
        plan = entries._entries.find(question).explain()["queryPlanner"]["winningPlan"]
        assert "COLLSCAN" not in str(plan), (question, plan)

import random
from itertools import combinations

import pytest

from demo.corpus import StdlibObject, stdlib_objects
from demo.users import (
    CLICK_OTHER,
    ENOUGH,
    MIN_RELEVANT,
    PEOPLE,
    TOPICS,
    Person,
    Topic,
    clicked,
    on_topic,
    relevant_objects,
    visits,
)


@pytest.fixture(scope="module")
def objects() -> list[StdlibObject]:
    return stdlib_objects()


def about(name: str, doc: str) -> StdlibObject:
    return StdlibObject(name, "function", name.rpartition(".")[0], doc)


def test_queries_of_judgement_are_never_typed_while_learning():
    asked = [query for topic in TOPICS for query in topic.asked]
    held_out = [query for topic in TOPICS for query in topic.held_out]
    assert not set(asked) & set(held_out)
    assert len({*asked, *held_out}) == len(asked) + len(held_out)


def test_no_two_people_work_with_the_same_module(objects):
    for one, other in combinations(PEOPLE, 2):
        both = {found.module for found in objects if one.knows(found.module) and other.knows(found.module)}
        assert not both, (one.user_id, other.user_id)


def test_every_module_people_work_with_exists(objects):
    modules = {found.module.split(".")[0] for found in objects}
    assert {name for person in PEOPLE for name in person.works_with} <= modules


def test_everyone_looks_for_many_things_and_most_of_them_with_others(objects):
    relevant = relevant_objects(objects)
    assert set(relevant) == {person.user_id for person in PEOPLE}
    for topics in relevant.values():
        assert len(topics) >= 15
        assert all(len(ids) >= MIN_RELEVANT for ids in topics.values())
    shared = [t for t in TOPICS if sum(t.name in topics for topics in relevant.values()) >= 2]
    assert len(shared) == len(TOPICS)


def test_relevance_is_a_word_of_name_or_summary_in_a_module_one_works_with():
    topic = Topic("wait", ("wait",), ("wait for it",), ("pause",))
    person = Person("p", frozenset({"asyncio"}))
    objects = [
        about("asyncio.wait_for", "Run it."),
        about("asyncio.locks.acquire", "Block, waiting for the lock."),
        about("asyncio.AsyncWaiter", "Run it."),
        about("asyncio.sleep", "Sleep.\n\nOther tasks wait."),
        about("asyncio.await_it", "Run it."),
        about("threading.wait", "Wait."),
    ]
    assert [on_topic(found, topic) for found in objects] == [True, True, True, False, False, True]
    found = relevant_objects(objects * MIN_RELEVANT, [person], [topic])
    assert found == {"p": {}}  # the same few objects again are no more work
    many = [about(f"asyncio.wait{n}", "Run it.") for n in range(MIN_RELEVANT)]
    assert len(relevant_objects([*many, *objects], [person], [topic])["p"]["wait"]) == MIN_RELEVANT + 3


def test_a_topics_own_name_for_a_module_makes_no_object_relevant():
    """`select.select` is about select, but not everything in `selectors` is."""
    topic = Topic("select", ("select",), ("choose",), ("pick",))
    assert not on_topic(about("selectors.close", "Close it."), topic)
    assert on_topic(about("selectors.select", "Do it."), topic)


def test_all_queries_are_typed_before_any_comes_again():
    queries = visits(["a", "b", "c"], 7, random.Random(1))
    assert len(queries) == 7
    assert sorted(queries[:3]) == sorted(queries[3:6]) == ["a", "b", "c"]
    assert queries == visits(["a", "b", "c"], 7, random.Random(1))


def test_clicks_are_shown_objects_in_order_mostly_relevant_and_soon_enough():
    shown = [str(n) for n in range(20)]
    relevant = {str(n) for n in range(0, 20, 2)}
    rng = random.Random(3)
    lists = [clicked(shown, relevant, rng) for _ in range(500)]
    for clicks in lists:
        assert clicks == [object_id for object_id in shown if object_id in clicks]
        assert len(clicks) <= ENOUGH
    clicks = [click for clicks in lists for click in clicks]
    mistakes = sum(click not in relevant for click in clicks)
    assert 0 < mistakes < len(clicks) * 3 * CLICK_OTHER
    assert clicks.count("0") > clicks.count("8") > clicks.count("16")


def test_clicks_depend_on_the_seed_only():
    shown, relevant = [str(n) for n in range(20)], {"3", "5", "8"}
    first = [clicked(shown, relevant, random.Random(seed)) for seed in range(20)]
    assert first == [clicked(shown, relevant, random.Random(seed)) for seed in range(20)]
    assert len({tuple(clicks) for clicks in first}) > 1

"""Actions in Mongo, over a real socket: each once, in the order they came, whatever their ids are."""

import math
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import bson
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.monitoring import CommandListener, CommandStartedEvent

from clickstream.actions import CHUNK, ActionStore
from clickstream.records import Action, RegisteredSession, SessionEvent
from improvement.evidence import EVENT_WEIGHTS, EvidenceWeights
from improvement.selection import CLICKS
from tests.support import Clock

#: Texts that a careless join, key or order would confuse.
CONFUSABLE = [
    "a",
    "a\0",
    "a\0b",
    "b",
    "$a",
    "a.b",
    " ",
    "é",
    "e\u0301",
    "😀",
    "\uffff",
    "a" * 512,
    "%s",
    "{}",
]


def act(action_id: str, user_id: str = "ann", **changes: Any) -> Action:
    fields = {"object_id": "o1", "action_type": "view_post", "domain": "posts"} | changes
    return Action(action_id=action_id, user_id=user_id, **fields)


def pushed(store: ActionStore, *actions: Action) -> list[str]:
    return [action.action_id for action in store.push(actions)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database: Database[Any], clock: Clock) -> ActionStore:
    made = ActionStore(database, clock)
    made.ensure_indexes()
    return made


def ids(store: ActionStore, user_id: str = "ann", domain: str = "posts") -> list[str]:
    return [action.action_id for action in store.of_user(user_id, domain)]


# The record


def test_an_action_is_frozen_and_ignores_what_it_does_not_know():
    action = act("x", colour="red")
    assert not hasattr(action, "colour")
    with pytest.raises(ValidationError, match="frozen"):
        action.user_id = "bob"  # type: ignore[misc]


@pytest.mark.parametrize("missing", ["action_id", "user_id", "object_id", "action_type"])
def test_an_action_without_its_four_names_is_refused(missing: str):
    fields = {"action_id": "x", "user_id": "u", "object_id": "o", "action_type": "like_post"}
    del fields[missing]
    with pytest.raises(ValidationError, match=f"{missing}\n  Field required"):
        Action(**fields)


@pytest.mark.parametrize(
    ("field", "bad"),
    [(name, bad) for name in ("action_id", "user_id", "object_id") for bad in ("", "x" * 513, "\ud800", 5)]
    + [("action_type", bad) for bad in ("", "x" * 129, "\ud800", ["like"])]
    + [("domain", "x" * 65), ("created_at", -1), ("created_at", 2**63), ("created_at", math.nan)]
    + [("meta", bad) for bad in ({"dwell_seconds": math.nan}, {"a": "x" * 20_000}, {"\0": 1}, [1], "long")],
)  # fmt: skip
def test_what_no_session_event_may_have_no_action_may(field: str, bad: object):
    with pytest.raises(ValidationError, match=field):
        act("x", **{field: bad}) if field != "action_id" else act(bad)  # type: ignore[arg-type]


TEXTS = st.text(st.characters(), max_size=6)  # lone surrogates too
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.sampled_from([*Action.model_fields, "other"]), JSON))
def test_whatever_is_an_action_a_document_can_hold(junk: dict[str, Any]):
    for fields in (junk, act("x").model_dump() | junk):
        try:
            action = Action.model_validate(fields)
        except ValidationError:
            continue
        assert bson.decode(bson.encode(action.model_dump())) == action.model_dump()


# What actions say


def says(event_type: str, dwell: float | None = None) -> float:
    meta = None if dwell is None else {"dwell_seconds": dwell}
    event = SessionEvent(event_id="e", object_id="o", event_type=event_type, meta=meta)
    shown = RegisteredSession(
        session_id="s", search_query="", search_results=({"object_id": "o"},), events=(event,)
    )
    return EvidenceWeights().of(shown).get("o", 0.0)


def test_evidence_understands_the_published_names_of_actions():
    posts = {"view_post": 1, "like_post": 5, "bookmark_post": 7, "comment_post": 8, "share_post": 10}
    assert {name: EVENT_WEIGHTS[name] for name in posts} == posts
    assert all(says(name) == says(name.removesuffix("_post")) > 0 for name in posts)
    assert all(says(name) < 0 for name in ("not_interested", "hide", "skip", "block", "mute"))


def test_dwell_says_something_by_its_seconds_alone():
    assert EVENT_WEIGHTS["dwell"] == says("dwell") == says("dwell", 3) == 0
    assert says("dwell", 60) > 0 > says("dwell", 0.5)


def test_the_published_evidence_still_knows_the_clicks_of_a_search_only():
    assert EvidenceWeights.published().events.keys() == CLICKS


# Once


def test_an_action_comes_back_as_it_was_with_the_servers_time_beside_its_own(
    store: ActionStore, clock: Clock
):
    sent = act("x", created_at=5, meta={"dwell_seconds": 7.5, "$set": {"a.b": 1}, "": None})
    clock.now = 1_800_000_000.5
    [pushed] = store.push([sent])
    [found] = store.of_user("ann", "posts")
    assert found == pushed
    assert Action(**found.model_dump(exclude={"received_at", "place"})) == sent
    assert (found.created_at, found.received_at) == (5, 1_800_000_000.5)


def test_a_time_left_out_is_the_servers_in_whole_seconds(store: ActionStore, clock: Clock):
    clock.now = 1_800_000_000.9
    store.push([act("x")])
    assert [action.created_at for action in store.of_user("ann", "posts")] == [1_800_000_000]


def test_a_repeat_changes_nothing_in_a_later_push_or_in_the_same(store: ActionStore):
    assert pushed(store, act("x", object_id="first"), act("x", object_id="second"), act("y")) == ["x", "y"]
    assert pushed(store, act("x", object_id="third"), act("z"), act("x", domain="elsewhere")) == ["z"]
    assert store.push([]) == []
    found = {action.action_id: action.object_id for action in store.of_user("ann", "posts")}
    assert found == {"x": "first", "y": "o1", "z": "o1"}
    assert store.of_user("ann", "elsewhere") == []


def test_an_action_id_belongs_to_its_user(store: ActionStore):
    assert len(store.push([act("x", "ann"), act("x", "bob")])) == 2


def test_ids_that_look_alike_are_different_whatever_characters_they_have(store: ActionStore):
    pairs = [(user, action) for user in CONFUSABLE for action in CONFUSABLE]
    sent = [act(action, user) for user, action in pairs]
    assert [(one.user_id, one.action_id) for one in store.push(sent)] == pairs
    assert store.push(sent) == []
    for user in CONFUSABLE:
        assert sorted(ids(store, user)) == sorted(CONFUSABLE)
    assert store.erase("a") == len(CONFUSABLE)
    assert [user for user in CONFUSABLE if len(ids(store, user)) != len(CONFUSABLE)] == ["a"]


def test_pushes_that_race_count_each_action_once(store: ActionStore):
    counted: list[str] = []
    barrier = threading.Barrier(4)

    def push(start: int) -> None:
        barrier.wait()
        for _ in range(3):
            counted.extend(pushed(store, *(act(str(i)) for i in range(start, start + 60))))

    threads = [threading.Thread(target=push, args=(20 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(counted) == Counter(ids(store)) == Counter(map(str, range(120)))


# Pages


def test_pages_give_each_action_once_the_latest_received_first(store: ActionStore, clock: Clock):
    for push in range(4):
        clock.now += push % 2  # two pushes in the same instant
        # the client's own times say the contrary
        store.push([act(f"{push}-{i}", created_at=1_000 - 10 * push - i) for i in range(5)])
    store.push([act("other", domain="elsewhere"), act("bob's", "bob")])
    whole = ids(store)
    assert len(whole) == 20
    assert "".join(action_id[0] for action_id in whole[::5]) in ("3210", "3120")
    for push in range(4):
        assert [i for i in whole if i[0] == str(push)] == [f"{push}-{i}" for i in (4, 3, 2, 1, 0)]
    for limit in (1, 3, 7, 20, 100):
        walked: list[str] = []
        after = None
        while page := store.of_user("ann", "posts", after, limit):
            assert len(page) <= limit
            walked += [action.action_id for action in page]
            after = page[-1].place
            clock.now += 1
            store.push([act(f"meanwhile {limit} {len(walked)}")])
        assert [i for i in walked if not i.startswith("meanwhile")] == whole
        assert not [i for i in walked if i.startswith(f"meanwhile {limit} ")]
    assert store.of_user("ann", "posts", limit=0) == store.of_user("ann", "posts", limit=-1) == []


def test_a_log_read_backwards_is_the_log_as_it_happened(store: ActionStore, clock: Clock):
    for i in range(3):
        clock.now += 0.000_01
        store.push([act(f"{i}{j}") for j in range(3)])
    assert ids(store)[::-1] == [f"{i}{j}" for i in range(3) for j in range(3)]


# Many users at once


def test_what_many_users_did_is_what_their_pages_say(store: ActionStore, clock: Clock):
    rng = np.random.default_rng(0)
    users = [*CONFUSABLE, *(f"u{i}" for i in range(2 * CHUNK))]  # three requests
    for push in range(6):
        clock.now += push % 2  # two pushes in the same instant
        who = [*users, *rng.choice(users, 80)]
        where = rng.choice(["posts", "elsewhere"], len(who), p=[0.8, 0.2]).tolist()
        store.push([act(f"{push}-{i}", u, domain=d) for i, (u, d) in enumerate(zip(who, where, strict=True))])
    found = store.of_users([*users, *users, "nobody"], "posts")
    naive = [(user, action_id) for user in users for action_id in ids(store, user)]
    assert sorted((one.user_id, one.action_id) for one in found) == sorted(naive)
    assert list(store.of_users(["ann"], "posts")) == list(store.of_users(users, "nowhere")) == []


def test_of_many_users_there_is_all_that_evidence_asks_for_and_no_more(store: ActionStore):
    metas = [None, {}, {"text": "x" * 9_000}, {"dwell_seconds": 7.5, "text": "x" * 9_000}]
    sent = [act(str(i), action_type="dwell", created_at=5 + i, meta=meta) for i, meta in enumerate(metas)]
    store.push(sent)
    wholes = store.of_user("ann", "posts")[::-1]
    mine = sorted(store.of_users(["ann"], "posts"), key=lambda one: one.place)
    for found in (mine, list(store.newest("posts", 10))[::-1]):
        for one, whole in zip(found, wholes, strict=True):
            assert one.model_dump(exclude={"meta"}) == whole.model_dump(exclude={"meta"})
        assert [(one.meta or {}).get("dwell_seconds") for one in found] == [None, None, None, 7.5]
        assert not [one for one in found if "text" in (one.meta or {})]


def test_the_newest_of_a_domain_come_latest_first_whoever_did_them(store: ActionStore, clock: Clock):
    for i in range(4):
        clock.now += 1
        store.push([act(f"{i}{user}", user) for user in ("ann", "bob")] + [act(f"{i}", domain="elsewhere")])
    newest = [action.action_id for action in store.newest("posts", 5)]
    assert newest == ["3bob", "3ann", "2bob", "2ann", "1bob"]
    assert len(list(store.newest("posts", 1_000))) == 8
    assert list(store.newest("nowhere", 5)) == list(store.newest("posts", -1)) == []


def test_what_is_taken_back_is_gone_and_may_come_again(store: ActionStore):
    received = store.push([act(str(i)) for i in range(250)])
    store.take_back(received[:240])
    store.take_back(received[:250:2])
    assert ids(store) == ["249", "247", "245", "243", "241"]
    assert pushed(store, act("0"), act("249")) == ["0"]


def test_erasing_a_user_takes_every_action_in_every_domain_and_nobody_elses(store: ActionStore, clock: Clock):
    store.push([act("1"), act("2"), act("3", domain="elsewhere"), act("1", "bob")])
    assert store.erase("ann") == 3
    assert store.erase("ann") == 0
    assert ids(store) == ids(store, domain="elsewhere") == []
    assert ids(store, "bob") == ["1"]
    assert pushed(store, act("1")) == ["1"]


# What it costs


class Commands(CommandListener):
    """Note every command that goes over the wire."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    @property
    def names(self) -> list[str]:
        return [next(iter(command)) for command in self.sent]

    def started(self, event: CommandStartedEvent) -> None:
        self.sent.append(dict(event.command))

    def succeeded(self, event: Any) -> None:
        pass

    failed = succeeded


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
def counted(
    mongo_url: str, store: ActionStore, database: Database[Any], commands: Commands
) -> Iterator[ActionStore]:
    with MongoClient(mongo_url, event_listeners=[commands]) as client:
        yield ActionStore(client[database.name], store._clock)


def test_every_call_is_one_round_trip_however_much_it_carries(counted: ActionStore, commands: Commands):
    for size in (1, 10, 1_000):
        fresh = [act(f"{size}-{i}", f"u{i % 50}", object_id="😀" * 512) for i in range(size)]
        for repeat in (False, True):
            commands.sent.clear()
            assert len(counted.push(fresh)) == (0 if repeat else size)
            assert commands.names == ["insert"]
    for call, expected in (
        (lambda: counted.of_user("u0", "posts"), ["find"]),
        (lambda: list(counted.of_users([f"u{i}" for i in range(CHUNK)], "posts")), ["find"]),
        (lambda: list(counted.of_users([f"u{i}" for i in range(CHUNK + 1)], "posts")), ["find", "find"]),
        (lambda: list(counted.newest("posts", 50)), ["find"]),
        (lambda: counted.erase("u0"), ["delete"]),
    ):
        commands.sent.clear()
        assert call()
        assert [name for name in commands.names if name != "getMore"] == expected


def test_nothing_is_sent_for_nothing(counted: ActionStore, commands: Commands):
    counted.take_back([])
    assert counted.push([]) == counted.of_user("ann", "posts", limit=0) == []
    assert list(counted.of_users([], "posts")) == []
    assert list(counted.newest("posts", 0)) == []
    assert commands.names == []


def stages(plan: Any) -> Iterator[str]:
    if isinstance(plan, dict):
        yield from (value for key, value in plan.items() if key == "stage")
        for inner in plan.values():
            yield from stages(inner)
    elif isinstance(plan, list):
        for inner in plan:
            yield from stages(inner)


def test_every_question_is_answered_by_an_index(
    counted: ActionStore, commands: Commands, database: Database[Any]
):
    counted.push([act(str(i), f"u{i}") for i in range(20)])
    commands.sent.clear()
    counted.of_user("u1", "posts")
    counted.of_user("u1", "posts", after="f")
    list(counted.of_users(["u1", "u2", "u3"], "posts"))
    counted.erase("u1")
    assert len(commands.sent) == 4
    for command in commands.sent:
        asked = {key: value for key, value in command.items() if key not in ("lsid", "$db", "txnNumber")}
        if "delete" in asked:  # SecantusDB explains a delete as it does not run it
            asked = {"find": "actions", "filter": asked["deletes"][0]["q"]}
        found = set(stages(database.command("explain", asked)))
        assert "IXSCAN" in found, asked
        assert "COLLSCAN" not in found, asked

"""LiveTowers: engagement moves both vectors at once, once, whoever dies or comes in between."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickstream.records import SessionEvent
from improvement.api import create_app
from improvement.domain import SearchDomain
from improvement.erasure import erase_user
from improvement.errors import Conflict
from improvement.improver import Improver
from improvement.two_tower.engagement import Engagement
from improvement.two_tower.entries import HEARD, Entry, Kind
from improvement.two_tower.facts import ItemFacts
from improvement.two_tower.live import CROWD, LiveTowers, slices
from improvement.two_tower.moves import moved_item, moved_user
from improvement.two_tower.names import towers_name
from improvement.two_tower.negatives import store_drawn
from improvement.two_tower.recomputing import recompute_stale
from improvement.two_tower.resetting import forget_moves
from improvement.two_tower.sampling import Reason
from improvement.wiring import Rooms
from tests.improvement.two_tower import published
from tests.improvement.two_tower.living import World, angle, plain, unit_rows, with_towers
from tests.support import Calls, Gap, make_object, make_session, serving

STORES = ("entries", "pairs", "vectors", "towers", "clickstream", "actions", "learning")


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return with_towers(domain)


@pytest.fixture
def world(rooms: Rooms, domain: SearchDomain) -> World:
    return World(rooms, domain)


class Killed(BaseException):
    pass


def kill() -> None:
    raise Killed


def test_an_engagement_moves_its_user_and_its_item_at_once_and_makes_a_pair(world: World):
    rows = world.serve("first")
    live = world.live()
    assert live.learn(world.domain, [world.say(1, item="o1", signal=0.9)]) == 1
    assert live.learn(world.domain, [world.say(2, item="o2", signal=0.5)]) == 1
    ann, o1, o2 = world.user("ann"), world.item("o1"), world.item("o2")
    assert plain(ann.vector) == plain(moved_user(rows[1], rows[2], 0.5, 1, 0.05))
    assert (ann.count, ann.due, ann.space) == (2, True, "first")
    assert [(past.object_id, past.author, past.action) for past in ann.pasts] == [
        ("o1", "a1", "like"), ("o2", "a2", "like"),
    ]  # fmt: skip
    assert o1.vector is None
    assert o1.count == 1
    assert plain(o2.vector) == plain(moved_item(rows[2], rows[2], rows[1], 0.5, 0.01, 0.3))
    assert plain(o2.base) == plain(rows[2])
    assert not o2.is_pretrained
    assert plain(world.shown()["o2"]) == plain(o2.vector)
    assert plain(world.shown()["o1"]) == plain(rows[1])
    first, second = world.pairs()["a:1"], world.pairs()["a:2"]
    assert (first.user_vector, plain(first.item_vector)) == (None, plain(rows[1]))
    assert (plain(second.user_vector), plain(second.item_vector)) == (plain(rows[1]), plain(rows[2]))
    assert (second.reason, second.label, second.space, second.author) == (Reason.ENGAGED, 1, "first", "a2")
    assert second.seconds is not None
    assert 0 < second.seconds < 10
    timed = world.rooms.metrics.registry.get_sample_value("tower_update_seconds_count")
    assert timed == 2


def test_moving_an_item_changes_its_two_vectors_and_nothing_else(world: World):
    world.serve("first")
    collection = world.rooms.towers.serving(world.name).collection_id
    before = world.rooms.vectors.find(collection, ["o1", "o2"])
    to = before["o2"].parts[0]
    said = world.rooms.vectors.told(collection, ["o1", "o3", "nowhere"])
    assert said.keys() == {"o1", "o3"}
    assert said["o1"].payload == {"author": "a1"}
    world.rooms.vectors.move(
        collection, {"nowhere": (to, "x"), "o1": (to, said["o1"].revision), "o3": (to, "of another content")}
    )
    after = world.rooms.vectors.find(collection, ["o1", "o3"])
    assert plain(after["o1"].parts[0]) == plain(after["o1"].mean) == plain(to)
    assert after["o1"].revision == before["o1"].revision
    assert after["o1"].payload == before["o1"].payload
    assert plain(after["o3"].parts[0]) != plain(to)
    world.rooms.vectors.move(collection, {})
    hits, _ = world.rooms.vectors.search(
        collection, replace(world.domain.search_index_info, dimensions=8), to, 3
    )
    assert {hit.object_id for hit in hits[:2]} == {"o1", "o2"}


def test_dislikes_move_apart_and_make_negative_pairs(world: World):
    rows = world.serve("first")
    world.live().learn(world.domain, [world.say(1), world.say(2, item="o2", action="block", signal=-0.99)])
    near = rows[1] @ rows[2] > 0
    assert (world.user("ann").vector @ rows[2] <= rows[1] @ rows[2] + 1e-6) or not near
    assert world.pairs()["a:2"].reason is Reason.DISLIKED
    assert world.pairs()["a:2"].label == 0
    assert world.live().learn(world.domain, [world.say(3, user="bob", item="o3", signal=-0.9)]) == 1
    bob = world.user("bob")
    assert (bob.vector, bob.count, len(bob.pasts)) == (None, 1, 1)


def many(world: World, count: int, seed: int = 1) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [
        world.say(
            number, user=f"u{rng.integers(4)}", item=f"o{rng.integers(14)}",
            signal=float(rng.choice([-0.9, -0.3, 0.5, 0.9])),
        )
        for number in range(count)
    ]  # fmt: skip


def test_many_at_once_are_learned_as_one_after_the_other(rooms: Rooms, domain: SearchDomain):
    other = replace(domain, name=f"{domain.name}-b")
    both = replace(rooms, domains={domain.name: domain, other.name: other})
    at_once, slowly = World(both, domain), World(both, other)
    at_once.serve("first"), slowly.serve("first")
    assert at_once.live().learn(domain, many(at_once, 30)) == 30
    for one in many(slowly, 30):
        assert slowly.live().learn(other, [one]) == 1
    assert at_once.state() == slowly.state()
    assert any(pair[5] is not None for pair in at_once.state()["pairs"].values())


def test_what_was_learned_is_not_learned_again_nor_twice_in_one_call(world: World):
    world.serve("first")
    said = many(world, 10)
    assert world.live().learn(world.domain, [*said, *said]) == 10
    before = world.state()
    assert world.live().learn(world.domain, said[::-1]) == 0
    assert world.live().learn(world.domain, said, fresh=True) == 0  # the entries know them
    assert world.state() == before
    assert world.live().learn(world.domain, []) == 0


def test_however_many_users_and_items_each_store_is_called_as_often(world: World):
    world.serve("first")
    counted = []
    for start, size in ((0, 1), (100, 30)):
        calls = Calls()
        world.live().learn(world.domain, many(world, 5, seed=9)[:0])
        calls.around(world.live(), *STORES).learn(
            world.domain,
            [replace(one, engagement_id=f"a:{start + n}") for n, one in enumerate(many(world, size))],
        )
        counted.append(calls.calls)
    assert counted[0] <= counted[1] <= 10  # the first moves no item: its user has no vector


def test_whoever_is_killed_after_any_call_and_learns_again_has_learned_once(
    rooms: Rooms, domain: SearchDomain
):
    def fresh(name: str) -> World:
        one = replace(domain, name=f"{domain.name}-{name}")
        made = World(replace(rooms, domains={one.name: one}), one)
        made.serve("first")
        made.live().learn(one, many(made, 6, seed=2))
        return made

    def next_ones(world: World) -> list[Any]:
        return [replace(one, engagement_id=f"b:{n}") for n, one in enumerate(many(world, 5, seed=3))]

    whole = fresh("whole")
    calls = Calls()
    calls.around(whole.live(), *STORES).learn(whole.domain, next_ones(whole))
    expected = whole.state()
    assert calls.calls >= 8
    for after in range(1, calls.calls + 1):
        world = fresh(f"killed-{after}")
        dying = Calls(after, kill).around(world.live(), *STORES)
        with pytest.raises(Killed):
            dying.learn(world.domain, next_ones(world))
        world.live().learn(world.domain, next_ones(world))
        assert world.state() == expected, f"killed after call {after}"


def test_an_object_that_the_collection_does_not_know_moves_nothing_but_makes_a_pair(world: World):
    world.serve("first")
    world.live().learn(world.domain, [world.say(1), world.say(2, item="what ' is \0 this")])
    ann = world.user("ann")
    assert (ann.count, len(ann.pasts)) == (1, 2)
    assert world.item("what ' is \0 this") is None
    assert plain(ann.vector) == plain(world.shown()["o1"])
    pair = world.pairs()["a:2"]
    assert pair.item_vector is None
    assert pair.user_vector is not None
    assert pair.author is None


def test_frozen_learning_learns_nothing_and_a_slower_rate_moves_less(world: World):
    rows = world.serve("first")
    for brake in (world.name, towers_name(world.name)):
        world.rooms.learning.freeze(brake, "me", "test")
        assert world.live().learn(world.domain, [world.say(1)]) == 0
        world.rooms.learning.resume(brake, "me", "test")
    assert world.user("ann") is None
    assert world.pairs() == {}
    world.live().learn(world.domain, [world.say(1)])
    world.rooms.learning.resume(world.name, "me", "test", 0.5)
    world.rooms.learning.resume(towers_name(world.name), "me", "test", 0.5)
    world.live().learn(world.domain, [world.say(2, item="o2")])
    theta = angle(rows[1], rows[2])
    assert angle(world.item("o2").vector, rows[2]) == pytest.approx(0.25 * 0.01 * 0.9 * theta, rel=0.02)
    assert angle(world.user("ann").vector, rows[1]) == pytest.approx(0.25 * 0.1 * 0.9 * theta, rel=0.02)


def test_before_the_first_publication_nothing_is_learned(world: World):
    assert world.live().learn(world.domain, [world.say(1)]) == 0
    assert world.user("ann") is None


def test_when_another_space_serves_vectors_are_begun_anew_from_what_was_done(world: World):
    world.serve("first")
    world.live().learn(world.domain, [world.say(1), world.say(2, item="o2", signal=-0.5)])
    rows = world.serve("second", seed=50)
    world.live().learn(world.domain, [world.say(3, item="o2", signal=0.9)])
    begun = 0.95 * 0.9 * rows[1] - 0.5 * rows[2]  # the newer the more
    begun /= np.linalg.norm(begun)
    pair = world.pairs()["a:3"]
    assert plain(pair.user_vector) == plain(begun)
    assert plain(pair.item_vector) == plain(rows[2])
    assert pair.space == world.user("ann").space == world.item("o2").space == "second"
    assert plain(world.user("ann").vector) == plain(moved_user(begun, rows[2], 0.9, 2, 0.05))
    assert plain(world.item("o2").base) == plain(rows[2])
    assert world.item("o2").count == 2


def test_an_item_whose_content_changed_meanwhile_keeps_its_new_vector(world: World):
    rows = world.serve("first")
    world.live().learn(world.domain, [world.say(1)])
    collection = world.rooms.towers.serving(world.name).collection_id

    def rewrite() -> None:
        forget_moves(world.rooms.entries, world.name, ["o2"])
        new = make_object("o2", rows[5], payload={"author": "z"})
        world.rooms.vectors.upsert(collection, [new])
        forget_moves(world.rooms.entries, world.name, ["o2"])

    gap: Any = Gap(world.rooms.entries, "save", rewrite)
    world.live(entries=gap).learn(world.domain, [world.say(2, item="o2")])
    assert plain(world.shown()["o2"]) == plain(rows[5])
    world.live().learn(world.domain, [world.say(3, item="o2")])
    assert plain(world.item("o2").base) == plain(rows[5])
    assert world.item("o2").count == 2


def test_an_item_deleted_meanwhile_is_nobodys_trouble(world: World):
    world.serve("first")
    world.live().learn(world.domain, [world.say(1)])
    collection = world.rooms.towers.serving(world.name).collection_id
    gap: Any = Gap(world.rooms.entries, "save", lambda: world.rooms.vectors.delete(collection, ["o2"]))
    said = [world.say(2, item="o2"), world.say(3, item="o3")]
    assert world.live(entries=gap).learn(world.domain, said) == 2
    assert "o2" not in world.shown()
    assert plain(world.shown()["o3"]) == plain(world.item("o3").vector)


def test_whoever_writes_the_collection_last_has_seen_the_newest_entry(world: World):
    world.serve("first")
    world.live().learn(world.domain, [world.say(1), world.say(2, user="bob", item="o5")])
    between: list[Any] = [lambda: world.live().learn(world.domain, [world.say(4, user="bob", item="o2")])]
    for moment in ("load", "save"):
        gap: Any = Gap(world.rooms.entries, moment, lambda: between[0]())
        number = 10 if moment == "load" else 20
        between[0] = lambda n=number: world.live().learn(
            world.domain, [world.say(n + 1, user="bob", item="o2")]
        )
        world.live(entries=gap).learn(world.domain, [world.say(number, item="o2")])
        o2 = world.item("o2")
        assert plain(world.shown()["o2"]) == plain(o2.vector), moment
    assert o2.count == 4
    assert len(o2.heard) == 4


def test_writers_at_the_same_time_lose_nothing_and_count_nothing_twice(world: World):
    world.serve("first")
    said = [
        [world.say(100 * t + n, user="ann" if n % 2 else f"u{t}", item=f"o{n % 3}") for n in range(12)]
        for t in range(4)
    ]
    failures: list[BaseException] = []

    def learn(its: list[Any]) -> None:
        for one in its:
            while True:
                try:
                    world.live().learn(world.domain, [one])
                    break
                except Conflict:
                    continue
                except BaseException as error:
                    failures.append(error)
                    return

    threads = [threading.Thread(target=learn, args=(its,)) for its in said]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert world.user("ann").count == 24
    assert len(world.pairs()) == 48
    assert sum(world.item(f"o{n}").count for n in range(3)) == 48
    for n in range(3):
        item = world.item(f"o{n}")
        assert plain(world.shown()[f"o{n}"]) == plain(item.vector)
        assert angle(item.vector, item.base) <= 0.3 + 1e-5


def test_somebody_who_is_always_faster_is_given_up_and_caught_up_with(world: World, monkeypatch: Any):
    world.serve("first")
    monkeypatch.setattr(world.rooms.entries, "save", lambda entries: {entry.key for entry in entries})
    with pytest.raises(Conflict, match="faster"):
        world.live().learn(world.domain, [world.say(1)])


def traces(world: World, user: str) -> int:
    left = [world.user(user)] if world.user(user) else []
    its = world.rooms.pairs.of_users(world.name, [user], 1e12, 100)
    return len(left) + len(its)


@pytest.mark.parametrize("known", [True, False])
def test_a_user_erased_at_any_moment_does_not_come_back(world: World, known: bool):
    world.serve("first")
    total = 0
    for after in range(1, 20):
        user = f"ann {known} {after}"
        if known:
            world.live().hear_actions(world.log(world.act(after, user, "o2")))
            assert traces(world, user)
        received = world.log(world.act(1000 + after, user, "o1"))
        calls = Calls(after, lambda user=user: erase_user(world.rooms, user))
        calls.around(world.live(), *STORES).hear_actions(received)
        total = calls.calls
        assert traces(world, user) == (0 if after <= total else traces(world, user)), (after, total)
        if after > total:
            break
    assert 7 <= total < 20


def test_erasing_tells_how_much_there_was_and_leaves_others_alone(world: World):
    world.serve("first")
    world.live().learn(world.domain, [world.say(1), world.say(2, item="o2"), world.say(3, user="bob")])
    assert erase_user(world.rooms, "ann").towers == 3
    assert traces(world, "ann") == 0
    assert traces(world, "bob") == 2
    assert world.item("o2").vector is not None


def test_a_session_erased_while_its_events_are_learned_leaves_nothing(world: World):
    world.serve("first")
    world.rooms.clickstream.register(make_session("s1", "cid", ["o1"], domain=world.name))
    gap: Any = Gap(world.rooms.pairs, "add", lambda: erase_user(world.rooms, "cid"), before=True)
    world.live(pairs=gap).hear_events([("s1", SessionEvent(event_id="e", object_id="o1", event_type="like"))])
    assert gap.acted
    assert traces(world, "cid") == 0


def test_what_fails_is_no_trouble_of_whoever_was_heard(world: World):
    world.serve("first")

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("the store does not answer")

    received = world.log(world.act(1))
    for store in STORES:
        broken: LiveTowers = world.live(**{store: Broken()})
        broken.hear_actions(received)
        broken.hear_events([("s1", SessionEvent(event_id="e", object_id="o1"))])
    world.live().hear_events([])
    assert world.pairs().keys() <= {f"a:{received[0].place}"}


def test_domains_without_towers_and_unknown_ones_learn_nothing(world: World):
    world.serve("first")
    bare = world.live(domains={world.name: replace(world.domain, towers=None)}, clickstream=None)
    bare.hear_actions(world.log(world.act(1)))
    bare.hear_events([("s1", SessionEvent(event_id="e", object_id="o1"))])
    world.live(domains={}).hear_actions(world.log(world.act(2)))
    assert world.pairs() == {}


@pytest.fixture
def client(rooms: Rooms) -> Iterator[httpx.Client]:
    with serving(create_app(rooms)) as client:
        yield client


def test_actions_and_events_over_http_are_learned_within_the_request(world: World, client: httpx.Client):
    world.serve("first")
    sent = [
        {
            "action_id": str(n),
            "user_id": "ann",
            "object_id": f"o{n}",
            "action_type": kind,
            "domain": world.name,
        }
        for n, kind in enumerate(["like_post", "share_post", "view_post", "hide"])
    ]
    answer = client.post("/api/v1/actions", json={"actions": [*sent, sent[0], {"action_id": "bad"}]})
    assert answer.json()["accepted"] == 4
    assert answer.json()["repeated"] == 1
    assert len(world.pairs()) == 3
    assert world.user("ann").count == 3
    session = make_session("s1", "bob", ["o1", "o2"], domain=world.name).model_dump()
    early = {"session_id": "s1", "events": [{"event_id": "e0", "object_id": "o5", "event_type": "like"}]}
    assert client.post("/api/v1/clickstream/session/events", json=early).status_code == 200
    assert client.post("/api/v1/clickstream/session", json=session).status_code == 200
    events = {
        "session_id": "s1",
        "events": [
            {"event_id": "e1", "object_id": "o1"},
            {"event_id": "e2", "object_id": "o2", "event_type": "view"},
        ],
    }
    for _ in range(2):
        assert client.post("/api/v1/clickstream/session/events", json=events).status_code == 200
    assert world.user("bob").count == 1
    assert len(world.pairs()) == 4
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    ubi = {
        "action_name": "like", "query_id": "s1", "client_id": "bob", "timestamp": now,
        "event_attributes": {"object": {"object_id": "o7"}},
    }  # fmt: skip
    assert client.post("/api/v1/ubi/events", json=[ubi]).json()["accepted"] == 1
    assert world.user("bob").count == 2


def test_towers_that_fail_do_not_fail_the_request(
    world: World, client: httpx.Client, monkeypatch: Any, capsys: Any
):
    world.serve("first")

    def broken(*args: Any, **more: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr(type(world.rooms.entries), "load", broken)
    sent = {
        "action_id": "1",
        "user_id": "ann",
        "object_id": "o1",
        "action_type": "like",
        "domain": world.name,
    }
    answer = client.post("/api/v1/actions", json={"actions": [sent]})
    assert (answer.status_code, answer.json()["accepted"]) == (200, 1)
    assert "engagements wait" in "".join(capsys.readouterr())


def test_a_session_that_must_not_teach_teaches_nothing(world: World):
    world.serve("first")
    store = world.rooms.clickstream
    store.register(make_session("marked", "ann", ["o1"], domain=world.name))
    store.register(make_session("nobodys", None, ["o1"], domain=world.name))
    store.mark_irrelevant("marked")
    like = SessionEvent(event_id="e", object_id="o1", event_type="like")
    world.live().hear_events([("marked", like), ("nobodys", like), ("unknown", like)])
    assert world.pairs() == {}


def test_one_event_that_cannot_be_read_fails_alone(world: World, monkeypatch: Any):
    world.serve("first")
    received = world.log(world.act(1), world.act(2, item="o2"))
    received[0].__dict__["created_at"] = "no number"
    world.live().hear_actions(received)
    assert len(world.pairs()) == 1


def test_a_run_of_engagements_never_takes_an_item_farther_than_it_may_go(world: World):
    rows = world.serve("first")
    tight = replace(world.domain, towers=replace(world.domain.towers, max_drift=0.01))
    live = world.live(domains={world.name: tight})
    live.learn(tight, [world.say(0, item="o2")])
    live.learn(tight, [world.say(n, item="o1", signal=1.0) for n in range(1, 40)])
    item = world.item("o1")
    assert angle(item.vector, rows[1]) == pytest.approx(0.01, abs=1e-4)
    assert angle(world.shown()["o1"], rows[1]) <= 0.01 + 1e-4
    assert item.key == (Kind.ITEM, "o1")


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=200))
@settings(deadline=None, max_examples=50)
def test_no_slice_has_more_of_a_user_or_an_item_than_entries_know(said: Any):
    its = [
        Engagement(f"a:{n}", "d", f"u{user}", f"o{item}", "like", 0.9, n, n)
        for n, (user, item) in enumerate(said)
    ]
    parts = list(slices(its))
    assert [one for part in parts for one in part] == its
    for number, part in enumerate(parts):
        for name in ("user_id", "object_id"):
            of = [getattr(one, name) for one in part]
            assert max(map(of.count, of)) <= HEARD
        if number:  # the one before could not take this one's first
            before, first = parts[number - 1], part[0]
            full = [one for one in before if one.user_id == first.user_id]
            popular = [one for one in before if one.object_id == first.object_id]
            assert HEARD in (len(full), len(popular))


@pytest.mark.parametrize("how", ["killed", "somebody was faster"])
def test_many_of_one_user_move_it_once_each(world: World, how: str):
    world.serve("first")
    its = [world.say(n, item=f"o{n % 12}") for n in range(100)]

    def bob(number: int) -> None:
        world.live().learn(world.domain, [world.say(number, user="bob", item="o3")])

    if how == "killed":
        with pytest.raises(Killed):
            world.live(pairs=Gap(world.rooms.pairs, "add", kill, before=True)).learn(world.domain, its)
        world.live().learn(world.domain, its)
    else:
        bob(1000)
        gap: Any = Gap(world.rooms.entries, "save", lambda: bob(1001), before=True)
        world.live(entries=gap).learn(world.domain, its)
    assert world.user("ann").count == 100
    assert sum(world.item(f"o{n}").count for n in range(12)) == 100 + 2 * (how != "killed")
    assert sum(pair.user_id == "ann" for pair in world.pairs().values()) == 100


@pytest.mark.parametrize("moment", ["load", "save"])
@pytest.mark.parametrize("known", [True, False])
def test_what_another_process_learned_meanwhile_is_not_learned_again(world: World, moment: str, known: bool):
    world.serve("first")
    if known:
        world.live().learn(world.domain, [world.say(500, item="o2")])
    its = [world.say(n, item=f"o{n % 3}") for n in range(100)]
    gap: Any = Gap(world.rooms.entries, moment, lambda: world.live().learn(world.domain, its), before=True)
    assert world.live(entries=gap).learn(world.domain, its[:30]) == 0
    assert world.user("ann").count == 100 + known
    assert sum(world.item(f"o{n}").count for n in range(3)) == 100 + known


def test_a_pair_says_nothing_rather_than_what_was_after_the_engagement(world: World):
    world.serve("first")
    live = world.live()
    with pytest.raises(Killed):
        world.live(pairs=Gap(world.rooms.pairs, "add", kill, before=True)).learn(
            world.domain, [world.say(n, item=f"o{n}") for n in range(3)]
        )
    expected = world.user("ann").before
    for n in range(20, 24):  # the same user goes on before anybody catches up
        live.learn(world.domain, [world.say(n, item="o5")])
    live.learn(world.domain, [world.say(n, item=f"o{n}") for n in range(3)], late=True)
    pairs = world.pairs()
    assert pairs["a:0"].user_vector is None
    for n in range(3):
        assert plain(pairs[f"a:{n}"].user_vector) == plain(expected[n].user)
        assert plain(pairs[f"a:{n}"].item_vector) == plain(expected[n].item)
    entry = world.user("ann")
    world.rooms.pairs.erase("ann")
    world.rooms.entries.save([replace(entry, before=())])  # so long ago that nobody knows
    live.learn(world.domain, [world.say(1, item="o1")], late=True)
    assert (world.pairs()["a:1"].user_vector, world.pairs()["a:1"].item_vector) == (None, None)


def test_what_was_before_is_let_go_once_the_pairs_are_stored(world: World):
    world.serve("first")
    calls = Calls()
    live = calls.around(world.live(), "pairs")
    for n in range(40):
        live.learn(world.domain, [world.say(n, item=f"o{n % 12}")], fresh=True)
        assert len(world.user("ann").before) <= CROWD + 1
    assert calls.calls <= 40 + 40 // CROWD  # one write each, and a question now and then


def test_a_pair_stored_after_another_space_serves_says_the_space_it_is_of(world: World):
    rows = world.serve("first")
    world.live().learn(world.domain, [world.say(0, item="o0")])
    with pytest.raises(Killed):
        world.live(pairs=Gap(world.rooms.pairs, "add", kill, before=True)).learn(
            world.domain, [world.say(1, item="o1")]
        )
    world.serve("second", seed=9)
    world.live().learn(world.domain, [world.say(1, item="o1")], late=True)
    pair = world.pairs()["a:1"]
    assert pair.space == "first"
    assert plain(pair.user_vector) == plain(rows[0])
    assert plain(pair.item_vector) == plain(rows[1])


@pytest.mark.parametrize("first", [True, False])
def test_what_was_moved_of_old_content_never_comes_back(world: World, first: bool):
    rows = world.serve("first")
    world.live().learn(world.domain, [world.say(1)])
    if not first:
        world.live().learn(world.domain, [world.say(2, item="o2")])
    collection = world.rooms.towers.serving(world.name).collection_id
    new = make_object("o2", rows[5], payload={"author": "z"})
    gap: Any = Gap(
        world.rooms.entries, "save", lambda: world.rooms.vectors.upsert(collection, [new]), before=True
    )
    world.live(entries=gap).learn(world.domain, [world.say(3, item="o2")])  # nobody forgets its moves
    assert plain(world.shown()["o2"]) == plain(rows[5])
    world.live().learn(world.domain, [world.say(4, user="bob", item="o3"), world.say(5, item="o2")])
    assert plain(world.item("o2").base) == plain(rows[5])
    assert angle(world.shown()["o2"], rows[5]) < 0.02
    assert plain(world.shown()["o2"]) == plain(world.item("o2").vector)
    assert world.item("o2").count == 3 - first


def test_no_engagement_has_the_id_of_a_drawn_negative(world: World, improving: Improver):
    world.serve("first")

    def click(event_id: str) -> int:
        event = SessionEvent(event_id=event_id, object_id="o4", event_type="like")
        return world.live().learn_events(world.domain, [("s1", "ann", event, 2e9)])

    world.rooms.clickstream.register(make_session("s1", "ann", ["o4"], domain=world.name))
    assert click("c") == 1
    no_facts = ItemFacts((), unit_rows(0), ())
    drawn = [("o7", Reason.RANDOM), ("o8", Reason.RANDOM)]
    store_drawn(improving, world.domain, "b", list(world.pairs().values()), [drawn], no_facts)
    assert world.rooms.pairs.counts(world.name, 0)[Reason.RANDOM] == 2
    assert [click(event_id) for event_id in ("c/0", "c/1", "n:0:c", "c/n")] == [1, 1, 1, 1]


def test_a_move_from_elsewhere_than_the_checkpoint_put_an_item_is_forgotten_when_it_is_made_anew(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    domain = replace(published.with_towers(domain), evidence=domain.evidence)
    rooms.domains[domain.name] = domain
    published.begun(rooms, improving, domain)
    put, world = published.held(rooms, domain), World(rooms, domain)
    world.live().learn(domain, [world.say(1, item="o1"), world.say(2, item="o2"), world.say(3, item="o3")])
    assert recompute_stale(improving, domain).stale == 0
    moved = world.item("o3")
    far = unit_rows(1, seed=5)[0]

    def strange(name: str, **changes: Any) -> Entry:
        return replace(world.item(name), vector=far, base=far, **changes)

    rooms.entries.save([strange("o1", content=moved.content, space=moved.space), strange("o2")])
    published.move(rooms, domain, {"o1": far, "o2": far})
    recompute_stale(improving, domain)
    now = published.held(rooms, domain)
    for name in ("o1", "o2"):
        assert angle(now[name], put[name]) < 1e-3
        assert world.item(name).vector is None
    assert plain(now["o3"]) == plain(moved.vector)
    assert world.item("o3").version == moved.version

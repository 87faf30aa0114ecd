"""Actions that update profiles at once, through the real service and stores: each counted exactly once."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo import MongoClient
from pymongo.errors import AutoReconnect
from pymongo.monitoring import CommandListener, CommandStartedEvent

from clickstream.actions import ActionStore
from clickstream.improvement_queue import Owner
from clickstream.records import Action
from improvement.domain import SearchDomain
from improvement.errors import Unavailable
from improvement.evidence import EvidenceWeights
from improvement.profiles import store as profile_store
from improvement.profiles.cache import MemoryCache
from improvement.profiles.live import LATE, LiveProfiles, turned
from improvement.profiles.negative import NegativeProfile, remember_dislike
from improvement.profiles.online import rating_from_signals, update_user_embedding
from improvement.profiles.profile import Interaction, Profile, StoredProfile
from improvement.profiles.settings import ProfileSettings
from improvement.profiles.store import ProfileStore
from improvement.wiring import Rooms
from tests.support import Clock, make_domain, make_object

OBJECTS = 40
SIZE = 16


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return replace(domain, evidence=EvidenceWeights(), profiles=ProfileSettings(remember=10))


def directions(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, SIZE)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


ITEMS = {f"o{i}": row for i, row in enumerate(directions(OBJECTS))}


@pytest.fixture
def filled(rooms: Rooms) -> Rooms:
    collection = rooms.releases.blue(rooms.default_domain.name).collection_id
    rooms.vectors.upsert(collection, [make_object(object_id, row) for object_id, row in ITEMS.items()])
    return rooms


@pytest.fixture
def live(filled: Rooms) -> LiveProfiles:
    return LiveProfiles(
        filled.profiles, filled.actions, filled.vectors, filled.releases, filled.domains, filled.learning
    )


@pytest.fixture
def act(domain: SearchDomain) -> Callable[..., Action]:
    def make(action_id: str, object_id: str = "o1", user_id: str = "ann", **changes: Any) -> Action:
        fields = {"action_type": "like_post", "domain": domain.name} | changes
        return Action(action_id=action_id, user_id=user_id, object_id=object_id, **fields)

    return make


def stored(rooms: Rooms, user_id: str = "ann") -> StoredProfile:
    return rooms.profiles.load(rooms.default_domain.name, [user_id])[user_id]


def settled(one: StoredProfile) -> bool:
    return one.announced == one.applied


def batch_later(rooms: Rooms) -> None:
    """Make ann's profile anew, when pushes that were not applied by now are taken for dead."""
    replace(rooms.batch, clock=lambda: time.time() + 60).rebuild(rooms.default_domain, ["ann"])


# Over HTTP


def post(service: httpx.Client, *actions: dict[str, Any]) -> dict[str, Any]:
    response = service.post("/api/v1/actions", json={"actions": actions})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def body(action_id: Any, object_id: str = "o1", user_id: str = "ann", **changes: Any) -> dict[str, Any]:
    fields = {"action_type": "like_post"} | changes
    return {"action_id": action_id, "user_id": user_id, "object_id": object_id} | fields


def test_an_action_is_in_the_profile_when_it_is_answered(service: httpx.Client, filled: Rooms):
    assert post(service, body("1"))["accepted"] == 1
    cached = filled.profiles.get("ann", filled.default_domain.name)
    for profile in (cached, stored(filled).profile):
        np.testing.assert_allclose(profile.embedding, ITEMS["o1"], atol=1e-6)
        np.testing.assert_allclose(profile.liked, ITEMS["o1"], atol=1e-6)
        assert (profile.positives, profile.negatives, profile.negative) == (1, 0, None)
        assert profile.model_version == filled.releases.space(filled.default_domain.name)
        assert profile.seen == ("o1",)
    [said] = stored(filled).recent
    assert (said.object_id, said.weight) == ("o1", 5.0)
    assert settled(stored(filled))

    post(service, body("2", "o2", action_type="not_interested"))
    disliked = stored(filled).profile
    assert disliked.embedding @ ITEMS["o2"] < max(1e-6, ITEMS["o1"] @ ITEMS["o2"])
    np.testing.assert_array_equal(disliked.liked, stored(filled).profile.liked)
    assert disliked.negative is not None
    np.testing.assert_allclose(disliked.negative.vector / 0.9311, ITEMS["o2"], atol=1e-4)
    assert (disliked.positives, disliked.negatives) == (1, 1)


def test_a_bad_action_changes_nothing_and_harms_nobody_elses_profile(service: httpx.Client, filled: Rooms):
    answer = post(
        service,
        body("good"), body("nowhere", "o2", domain="nowhere"), body("", "o3"), body("bad", ""),
        body("bad", "o4", meta={"a": "x" * 20_000}), {}, None,  # type: ignore[arg-type]
        body("odd", "o5\0$.", "b\0b", meta={"dwell_seconds": "long"}),
        body("huge", "o6", "cid", action_type="dwell", meta={"dwell_seconds": 1e308}),
        body("negative", "o7", "dan", action_type="dwell", meta={"dwell_seconds": -1e308}),
        body("also good", "o8", "eve"),
    )  # fmt: skip
    assert answer["accepted"] == 5
    assert [rejected["index"] for rejected in answer["rejected"]] == [1, 2, 3, 4, 5, 6]
    users = {user: stored(filled, user).profile for user in ("ann", "b\0b", "cid", "dan", "eve")}
    assert [one.interactions for one in users.values()] == [1, 0, 1, 0, 1]
    assert users["ann"].seen == ("o1",)
    assert all(settled(stored(filled, user)) for user in users)


def test_without_vectors_an_action_is_logged_and_waits_for_the_batch(
    service: httpx.Client, filled: Rooms, monkeypatch: pytest.MonkeyPatch
):
    post(service, body("1"))
    before = stored(filled).profile
    for broken, name in ((filled.vectors, "means"), (filled.releases, "serving"), (filled.profiles, "apply")):
        with monkeypatch.context() as away:

            def lost(*_: Any) -> Any:
                raise Unavailable("it is gone")

            away.setattr(broken, name, lost)
            assert post(service, body(name, "o2"))["accepted"] == 1
            assert post(service, body(name, "o2"))["repeated"] == 1
    found = stored(filled)
    assert (found.announced, found.applied) == (7, 1)
    assert found.profile.version == before.version
    assert len(filled.actions.of_user("ann", filled.default_domain.name)) == 4
    # what the process that died on the way leaves to the batch
    batch_later(filled)
    assert settled(stored(filled))
    assert stored(filled).profile.positives == 4
    post(service, body("2", "o3"))
    assert stored(filled).profile.positives == 5
    assert settled(stored(filled))


@pytest.mark.parametrize("step", ["announce", "push"])
def test_what_may_not_be_logged_is_503_and_sending_again_counts_it_once(
    service: httpx.Client, filled: Rooms, monkeypatch: pytest.MonkeyPatch, step: str
):
    where = filled.profiles if step == "announce" else filled.actions
    works = getattr(where, step)
    with monkeypatch.context() as away:

        def lost(*given: Any) -> Any:
            works(*given)  # it arrives, the answer does not
            raise AutoReconnect("connection closed")

        away.setattr(where, step, lost)
        assert service.post("/api/v1/actions", json={"actions": [body("1")]}).status_code == 503
    answer = post(service, body("1"))
    assert (answer["accepted"], answer["repeated"]) == ((1, 0) if step == "announce" else (0, 1))
    assert not settled(stored(filled)), "the batch looks"
    batch_later(filled)
    assert stored(filled).profile.positives == 1
    assert settled(stored(filled))


# Once


def test_pushes_that_race_for_one_user_are_each_applied_once(
    live: LiveProfiles, filled: Rooms, act: Callable[..., Action]
):
    pushes, threads = 12, 6
    barrier = threading.Barrier(threads)
    counted: list[int] = []

    def push(thread: int) -> None:
        barrier.wait()
        for n in range(pushes):
            mine = act(f"{thread} {n}", f"o{(thread * pushes + n) % OBJECTS}")
            everybodys = act(f"everybody {n}", f"o{n}", action_type="hide")
            counted.append(len(live.push([mine, everybodys])))

    running = [threading.Thread(target=push, args=(thread,)) for thread in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    found = stored(filled)
    assert sum(counted) == pushes * (threads + 1)
    # a like and a dislike of the same object, pushed together by accident, are one interaction
    assert found.profile.interactions <= sum(counted)
    assert found.profile.positives == pushes * threads
    assert found.announced == found.applied == found.profile.version == pushes * threads
    assert filled.profiles.get("ann", filled.default_domain.name).version == found.profile.version


def test_an_action_sent_again_changes_nothing_of_the_profile(
    live: LiveProfiles, filled: Rooms, act: Callable[..., Action]
):
    sent = [act("1"), act("2", "o2", action_type="hide"), act("1", "o3"), act("3", "gone")]
    assert [one.action_id for one in live.push(sent)] == ["1", "2", "3"]
    before = stored(filled)
    assert live.push(sent) == live.push(sent[::-1]) == live.push([act("2", "o9", action_type="block")]) == []
    after = stored(filled)
    for name in ("embedding", "liked", "positives", "negatives", "seen", "model_version"):
        np.testing.assert_array_equal(getattr(after.profile, name), getattr(before.profile, name))
    np.testing.assert_array_equal(after.profile.negative.vector, before.profile.negative.vector)
    assert after.recent == before.recent
    assert after.announced == after.applied == 4


def test_what_a_user_does_with_one_object_at_once_is_one_interaction(
    live: LiveProfiles, filled: Rooms, act: Callable[..., Action]
):
    live.push([act("1", action_type="view_post"), act("2"), act("3", "o2"), act("4", user_id="bob")])
    live.push([act("5", action_type="share_post"), act("6", "o3", action_type="waves"), act("7", "o4"),
               act("8", "o4", action_type="not_interested")])  # fmt: skip
    found = stored(filled)
    assert [(one.object_id, one.weight) for one in found.recent] == [("o1", 6), ("o2", 5), ("o1", 10)]
    assert (found.profile.positives, found.profile.negatives) == (3, 0)
    assert stored(filled, "bob").profile.positives == 1


def test_only_the_newest_interactions_are_remembered(
    live: LiveProfiles, filled: Rooms, act: Callable[..., Action]
):
    live.push([act(str(n), f"o{n}") for n in range(25)])
    live.push([act("again", "o20")])
    found = stored(filled)
    assert [one.object_id for one in found.recent] == [*(f"o{n}" for n in range(16, 25)), "o20"]
    assert found.profile.seen == (*(f"o{n}" for n in range(5, 20)), *(f"o{n}" for n in range(21, 25)), "o20")
    assert found.profile.positives == 26


def test_objects_that_are_not_there_count_nowhere_but_are_remembered(
    live: LiveProfiles, filled: Rooms, act: Callable[..., Action]
):
    live.push([act("1", "not yet"), act("2", "nor this", action_type="hide")])
    found = stored(filled)
    assert found.profile.embedding is found.profile.liked is found.profile.negative is None
    assert found.profile.interactions == 0
    assert [one.object_id for one in found.recent] == ["not yet", "nor this"]
    assert settled(found)


# Who comes between


def test_a_profile_that_changed_since_it_was_cached_is_read_again(
    live: LiveProfiles, filled: Rooms, act: Callable[..., Action]
):
    name = filled.default_domain.name
    live.push([act("1")])
    filled.profiles.mark([Owner(name, "ann")])
    filled.profiles.put_searched(name, {"ann": [Interaction("o7", 1.0, 5.0)]})
    live.push([act("2", "o2")])
    found = stored(filled)
    assert (found.profile.positives, found.profile.version) == (2, 4)
    assert settled(found)
    assert [one.object_id for one in found.searched] == ["o7"]


def test_the_cache_of_another_process_may_be_behind(
    live: LiveProfiles, filled: Rooms, database: Any, act: Callable[..., Action]
):
    other = replace(live, profiles=ProfileStore(database, MemoryCache()))
    for n in range(6):
        (live, other)[n % 2].push([act(str(n), f"o{n}")])
    assert stored(filled).profile.positives == 6
    assert settled(stored(filled))


class Interrupted:
    """Stands for one step of a push and does something else before or after it, once."""

    def __init__(self, step: Callable[..., Any], before: bool, what: Callable[[], Any]) -> None:
        self.step, self.before, self.what = step, before, what

    def __call__(self, *given: Any) -> Any:
        what, self.what = self.what, lambda: None
        if self.before:
            what()
        answer = self.step(*given)
        if not self.before:
            what()
        return answer


@pytest.mark.parametrize("users", [["ann"], ["ann", "bob"]])
@pytest.mark.parametrize(
    ("room", "step", "before"),
    [("actions", "push", True), ("actions", "push", False), ("vectors", "means", False),
     ("profiles", "apply", True), ("profiles", "apply", False)],
)  # fmt: skip
def test_of_a_user_erased_meanwhile_nothing_comes_back(
    live: LiveProfiles, filled: Rooms, act: Callable[..., Action], monkeypatch: pytest.MonkeyPatch,
    room: str, step: str, before: bool, users: list[str],
):  # fmt: skip
    name = filled.default_domain.name
    live.push([act("0", user_id=user) for user in users])

    def erase() -> None:
        filled.profiles.erase("ann", [name])
        filled.actions.erase("ann")

    where = getattr(filled, room)
    monkeypatch.setattr(where, step, Interrupted(getattr(where, step), before, erase))
    live.push([act("1", "o2", user_id=user) for user in users])
    assert filled.profiles.get("ann", name) is None
    assert filled.profiles.load(name, ["ann"]) == {}
    assert filled.actions.of_user("ann", name) == []
    if "bob" in users:
        assert stored(filled, "bob").profile.positives == 2
        assert len(filled.actions.of_user("bob", name)) == 2


def test_what_was_done_before_the_erasure_is_not_in_the_profile_begun_after_it(
    live: LiveProfiles, filled: Rooms, act: Callable[..., Action], monkeypatch: pytest.MonkeyPatch
):
    name = filled.default_domain.name
    live.push([act("0")])
    live.push([act("1")])

    def erase_and_act() -> None:
        filled.profiles.erase("ann", [name])
        filled.actions.erase("ann")
        live.push([act("new", "o3")])

    monkeypatch.setattr(filled.profiles, "apply", Interrupted(filled.profiles.apply, True, erase_and_act))
    live.push([act("2", "o2")])
    np.testing.assert_allclose(stored(filled).profile.embedding, ITEMS["o3"], atol=1e-6)
    assert [action.action_id for action in filled.actions.of_user("ann", name)] == ["new"]


def test_a_profile_of_another_space_keeps_its_vectors_and_remembers(
    live: LiveProfiles, filled: Rooms, act: Callable[..., Action]
):
    live.push([act("1")])
    live.push([act("2", user_id="bob", action_type="hide")])
    live.push([act("3", "gone", user_id="cid")])
    before = {user: stored(filled, user) for user in ("ann", "bob", "cid")}
    domain = filled.default_domain
    green = filled.releases.create(domain, "words-v2")
    turned_space = [make_object(object_id, -row) for object_id, row in ITEMS.items()]
    filled.vectors.upsert(green.collection_id, turned_space)
    filled.releases.set_blue(domain.name, "words-v2")

    live.push([act("4", "o2", user_id=user) for user in before])
    for user in ("ann", "bob"):
        found = stored(filled, user)
        assert found.profile.model_version == before[user].profile.model_version
        for name in ("embedding", "liked", "positives", "negatives"):
            np.testing.assert_array_equal(getattr(found.profile, name), getattr(before[user].profile, name))
        assert [one.object_id for one in found.recent] == ["o1", "o2"]
        assert settled(found)
    [due] = filled.profiles.due_pages(domain.name, 10, time.time())
    assert {one.profile.user_id for one in due} == set(before)
    fresh = stored(filled, "cid").profile  # had no vectors that the new ones could be mixed with
    assert (fresh.model_version, fresh.positives) == ("words-v2", 1)
    np.testing.assert_allclose(fresh.embedding, -ITEMS["o2"], atol=1e-6)


# Late


def test_a_push_that_was_logged_late_leaves_its_profile_to_the_batch(
    live: LiveProfiles, filled: Rooms, act: Callable[..., Action], monkeypatch: pytest.MonkeyPatch
):
    clock = Clock()
    slow = replace(live, clock=clock)
    live.push([act("1")])

    def wait() -> None:
        clock.now += LATE + 1

    with monkeypatch.context() as patch:
        patch.setattr(filled.actions, "push", Interrupted(filled.actions.push, True, wait))
        assert len(slow.push([act("2", "o2")])) == 1
    assert stored(filled).reread, "the batch may have read the log before"
    assert stored(filled).profile.positives == 1
    with monkeypatch.context() as patch:
        patch.setattr(filled.vectors, "means", Interrupted(filled.vectors.means, True, wait))
        assert len(slow.push([act("3", "o3")])) == 1
    assert stored(filled).profile.positives == 1
    assert not settled(stored(filled))
    batch_later(filled)
    assert stored(filled).profile.positives == 3


def test_a_domain_that_is_not_configured_is_logged_alone(
    live: LiveProfiles, filled: Rooms, act: Callable[..., Action]
):
    assert len(live.push([act("1", domain="nowhere"), act("2")])) == 2
    assert stored(filled).profile.positives == 1
    assert [action.action_id for action in filled.actions.of_user("ann", "nowhere")] == ["1"]


# What it costs


class Commands(CommandListener):
    """Note the name of every command that goes over the wire."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.names.append(event.command_name)

    def succeeded(self, event: Any) -> None:
        pass

    failed = succeeded


@pytest.fixture
def counted(live: LiveProfiles, mongo_url: str, database: Any) -> Iterator[tuple[LiveProfiles, Commands]]:
    commands = Commands()
    with MongoClient(mongo_url, event_listeners=[commands]) as client:
        mine = client[database.name]
        yield replace(live, profiles=ProfileStore(mine, MemoryCache()), actions=ActionStore(mine)), commands


def test_a_thousand_actions_of_a_thousand_users_cost_as_many_calls_as_two(
    counted: tuple[LiveProfiles, Commands], filled: Rooms, act: Callable[..., Action],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    live, commands = counted
    fetched: list[int] = []
    retrieve = filled.vectors._client.retrieve

    def noted(collection: str, ids: Sequence[str], **fields: Any) -> Any:
        fetched.append(len(ids))
        return retrieve(collection, ids=ids, **fields)

    monkeypatch.setattr(filled.vectors._client, "retrieve", noted)
    for size in (2, 1_000):
        commands.names.clear()
        fetched.clear()
        actions = [act("1", f"o{n % OBJECTS}", f"{size} {n}") for n in range(size)]
        assert len(live.push(actions)) == size
        loads = -(-size // profile_store.CHUNK)
        assert [name for name in commands.names if name != "getMore"] == [
            "update", "insert", *["find"] * loads, "update",
        ]  # fmt: skip
        assert fetched == [min(size, OBJECTS)]
    found = filled.profiles.load(filled.default_domain.name, (f"1000 {n}" for n in range(1_000)))
    assert len(found) == 1_000
    assert all(one.profile.positives == 1 and settled(one) for one in found.values())


def test_one_user_who_is_cached_costs_three_commands_and_nothing_costs_none(
    counted: tuple[LiveProfiles, Commands], act: Callable[..., Action]
):
    live, commands = counted
    live.push([act("1")])
    commands.names.clear()
    live.push([act(str(n), f"o{n}") for n in range(2, 12)])
    assert commands.names == ["update", "insert", "update"]
    commands.names.clear()
    assert live.push([]) == []
    assert commands.names == []


# The mathematics, many users at once


DOMAIN = make_domain(evidence=EvidenceWeights(), profiles=ProfileSettings(learning_rate=0.2))
OBJECT = st.sampled_from([*list(ITEMS)[:6], "gone"])
SAID = st.lists(
    st.builds(Interaction, OBJECT, st.sampled_from([-10.0, -5.0, -1.0, 1.0, 5.0, 10.0]), st.floats(0, 1e9)),
    max_size=5,
)


@st.composite
def known(draw: st.DrawFn) -> Profile:
    rows = directions(6, draw(st.integers(0, 9)))
    return Profile(
        "u", "things", "words-v1",
        embedding=rows[0] if draw(st.booleans()) else None,
        liked=rows[1] if draw(st.booleans()) else None,
        negative=NegativeProfile(rows[2].astype(np.float64), 5.0) if draw(st.booleans()) else None,
        interests=rows[3:] if draw(st.booleans()) else np.empty((0, 0), np.float32),
        positives=draw(st.integers(0, 20)), negatives=draw(st.integers(0, 20)),
    )  # fmt: skip


def one_by_one(profile: Profile, said: Sequence[Interaction]) -> dict[str, Any]:
    settings = DOMAIN.profiles
    zeros = np.zeros(SIZE)
    user, liked = (zeros if row is None else row for row in (profile.embedding, profile.liked))
    interests, negative = [np.array(row, float) for row in profile.interests], profile.negative
    positives, negatives = profile.positives, profile.negatives
    for one in said:
        if one.object_id not in ITEMS:
            continue
        item, rating = ITEMS[one.object_id], rating_from_signals([one.weight], 3.0)
        rate, count = settings.learning_rate, positives + negatives
        user = user if np.any(user) else liked  # a dislike of all it was is forgotten
        user = update_user_embedding(user, item, rating, rate, count, liked=liked)
        if rating > 0:
            liked = update_user_embedding(liked, item, rating, rate, positives)
            if interests:
                k = max(range(len(interests)), key=lambda k: interests[k] @ item)
                interests[k] = update_user_embedding(interests[k], item, rating, rate, positives)
            positives += 1
        else:
            negative = remember_dislike(negative, item, rating, one.at, settings.negative_half_life_days)
            negatives += 1
    return {
        "embedding": user, "liked": liked, "interests": interests, "positives": positives,
        "negatives": negatives, "negative": zeros if negative is None else negative.vector,
    }  # fmt: skip


def vector(found: Any) -> Any:
    if isinstance(found, NegativeProfile):
        return found.vector
    return np.zeros(SIZE) if found is None else found


@given(st.lists(st.tuples(known(), SAID), max_size=6))
def test_many_users_at_once_are_each_user_one_interaction_after_the_other(users: list[Any]):
    before = [(profile.interests.copy(), vector(profile.embedding).copy()) for profile, _ in users]
    after = turned([profile for profile, _ in users], [said for _, said in users], ITEMS, DOMAIN)
    assert len(after) == len(users)
    for (profile, said), found in zip(users, after, strict=True):
        for name, expected in one_by_one(profile, said).items():
            got = vector(getattr(found, name))
            np.testing.assert_allclose(got, np.reshape(expected, np.shape(got)), atol=2e-6, err_msg=name)
        if not [one for one in said if one.object_id in ITEMS]:
            assert found is profile
    for (profile, _), (interests, embedding) in zip(users, before, strict=True):
        np.testing.assert_array_equal(profile.interests, interests)
        np.testing.assert_array_equal(vector(profile.embedding), embedding)


@given(known(), st.sampled_from(list(ITEMS)), st.sampled_from([-1.0, -5.0, -10.0]))
def test_a_dislike_never_brings_the_profile_nearer(profile: Profile, object_id: str, weight: float):
    [found] = turned([profile], [[Interaction(object_id, weight, 9.0)]], ITEMS, DOMAIN)
    before = vector(profile.liked if profile.embedding is None else profile.embedding) @ ITEMS[object_id]
    assert vector(found.embedding) @ ITEMS[object_id] <= before + 1e-6
    if before > 0.01 and profile.liked is None:
        assert vector(found.embedding) @ ITEMS[object_id] < before
    np.testing.assert_array_equal(vector(found.liked), vector(profile.liked))
    np.testing.assert_array_equal(found.interests, profile.interests)


def test_one_light_skip_of_what_was_liked_thirty_times_leaves_the_profile_and_so_does_what_follows(
    live: LiveProfiles, filled: Rooms, act: Callable[..., Action]
):
    for n in range(30):
        live.push([act(f"like {n}")])
    live.push([act("skip", action_type="skip")])
    skipped = stored(filled).profile
    np.testing.assert_allclose(skipped.embedding, ITEMS["o1"], atol=1e-5)
    assert skipped.negative is not None
    live.push([act("view", "o2", action_type="view_post")])
    assert stored(filled).profile.embedding @ ITEMS["o1"] > 0.99


def test_a_push_that_a_batch_with_a_fast_clock_takes_for_dead_counts_once(
    live: LiveProfiles, filled: Rooms, act: Callable[..., Action], monkeypatch: pytest.MonkeyPatch
):
    live.push([act("before", "o3")])
    logged = live.actions.push

    def push(actions: Sequence[Action]) -> Any:
        received = logged(actions)
        batch_later(filled)
        return received

    monkeypatch.setattr(live.actions, "push", push)
    assert len(live.push([act("1")])) == 1
    monkeypatch.undo()
    assert stored(filled).reread
    batch_later(filled)
    found = stored(filled)
    assert [one.object_id for one in found.recent] == ["o3", "o1"]
    assert (found.profile.positives, found.announced, found.applied) == (2, 2, 2)

"""The brake on learning: what is frozen waits and is not lost, what is slowed learns less."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from clickstream.improvement_queue import Owner, Request
from clickstream.records import Action
from improvement.domain import SearchDomain
from improvement.erasure import erase_user
from improvement.evidence import EvidenceWeights
from improvement.jobs import improve_users, run_improvement
from improvement.objects import Object
from improvement.profiles.live import LiveProfiles
from improvement.profiles.profile import StoredProfile
from improvement.profiles.settings import ProfileSettings
from improvement.settings import Settings
from improvement.wiring import Rooms, build, improver
from tests.support import Gap, click, make_objects, make_session


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    evidence = EvidenceWeights(max_inverse_propensity=2.0)
    return replace(domain, evidence=evidence, profiles=ProfileSettings(min_interactions=1, interests=1))


@pytest.fixture
def other(domain: SearchDomain) -> SearchDomain:
    return replace(domain, name=f"other-{domain.name}")


@pytest.fixture
def rooms(settings: Settings, domain: SearchDomain, other: SearchDomain) -> Iterator[Rooms]:
    connected = build(settings, {domain.name: domain, other.name: other})
    for one in (domain, other):
        connected.vectors.upsert(connected.releases.blue(one.name).collection_id, make_objects(one, 12))
    yield connected
    if settings.qdrant_url:
        for one in (domain, other):
            for release in connected.releases.list(one.name):
                connected.vectors._client.delete_collection(release.collection_id)
    connected.close()


def live(rooms: Rooms, **changes: Any) -> LiveProfiles:
    made = LiveProfiles(
        rooms.profiles, rooms.actions, rooms.vectors, rooms.releases, rooms.domains, rooms.learning
    )
    return replace(made, **changes)


def teach(rooms: Rooms, domain: SearchDomain, session_id: str, user: str = "ann") -> None:
    shown = [f"o{n}" for n in range(6)]
    rooms.clickstream.register(make_session(session_id, user, shown, domain=domain.name))
    rooms.clickstream.push_events([(session_id, click("o4"))])
    rooms.queue.enqueue(
        [Request(session_id, Owner(domain.name, user), rooms.clickstream.version(session_id) or 1)]
    )


def like(domain: SearchDomain, *objects: str, user: str = "ann") -> list[Action]:
    return [
        Action(action_id=o, user_id=user, object_id=o, action_type="like_post", domain=domain.name)
        for o in objects
    ]


def run(rooms: Rooms, **changes: Any) -> int:
    return run_improvement(replace(improver(rooms), **changes), 100, idle_seconds=1e9)


def later(rooms: Rooms, domain: SearchDomain) -> None:
    """Make the profiles anew when what was not applied by now is taken for dead."""
    replace(rooms.batch, clock=lambda: time.time() + 60).run(domain)


def stored(rooms: Rooms, domain: SearchDomain, user: str = "ann") -> StoredProfile:
    return rooms.profiles.load(domain.name, [user])[user]


def copies(rooms: Rooms, domain: SearchDomain) -> dict[str, Object]:
    blue = rooms.releases.blue(domain.name).collection_id
    names = [f"{ref.original_id}_{ref.user_id}" for ref in rooms.vectors.copies(blue, ["ann"])]
    return {o.object_id: o for o in rooms.vectors.named(blue, names)} if names else {}


def test_a_frozen_domain_waits_while_the_others_learn_and_goes_on_where_it_was(
    rooms: Rooms, domain: SearchDomain, other: SearchDomain
):
    rooms.learning.freeze(domain.name, "op", "drift")
    teach(rooms, domain, "frozen")
    teach(rooms, other, "other's")
    assert run(rooms) == 1
    assert rooms.queue.entry("frozen").status == "pending"
    assert rooms.queue.entry("frozen").attempts == 0
    assert rooms.queue.entry("other's").status == "done"
    assert not copies(rooms, domain)
    assert copies(rooms, other)
    rooms.learning.resume(domain.name, "op", "looked at it")
    assert run(rooms) == 1
    assert copies(rooms, domain)


def test_with_everything_frozen_nothing_is_claimed(rooms: Rooms, domain: SearchDomain, other: SearchDomain):
    for one in (domain, other):
        rooms.learning.freeze(one.name, "op", "drift")
        teach(rooms, one, one.name)
    assert improve_users(improver(rooms), 10) == (0, 0)
    assert run(rooms) == 0


def test_in_a_frozen_domain_no_job_learns_and_what_is_popular_is_counted(rooms: Rooms, domain: SearchDomain):
    live(rooms).push(like(domain, "o1", "o2"))
    rooms.learning.freeze(domain.name, "op", "drift")
    run(rooms)
    assert stored(rooms, domain).profile.generated_at is None
    assert rooms.propensities.due(domain.name, 0.0), "nobody estimates them"
    assert rooms.popularity.top(domain.name, 3)
    rooms.learning.resume(domain.name, "op", "it was nothing")
    run(rooms)
    assert not rooms.propensities.due(domain.name, 0.0)
    assert stored(rooms, domain).profile.generated_at is not None, "no tick was taken in vain"


def test_actions_in_a_frozen_domain_are_logged_and_count_once_when_it_resumes(
    rooms: Rooms, domain: SearchDomain
):
    pushing = live(rooms)
    pushing.push(like(domain, "o1"))
    before = stored(rooms, domain)
    rooms.learning.freeze(domain.name, "op", "drift")
    assert len(pushing.push(like(domain, "o2", "o3"))) == 2
    assert pushing.push(like(domain, "o2")) == []
    waiting = stored(rooms, domain)
    assert waiting.profile.version == before.profile.version
    assert waiting.profile.embedding.tobytes() == before.profile.embedding.tobytes()
    assert waiting.announced == waiting.applied + 2
    rooms.learning.resume(domain.name, "op", "it was nothing")
    pushing.push(like(domain, "o4"))
    assert stored(rooms, domain).profile.positives == 2, "what waited is for the batch"
    later(rooms, domain)
    found = stored(rooms, domain)
    assert found.profile.positives == 4
    assert sorted(one.object_id for one in found.recent) == ["o1", "o2", "o3", "o4"]
    assert found.announced == found.applied


def test_over_http_a_frozen_domain_takes_actions_and_answers_searches(
    service: httpx.Client, rooms: Rooms, domain: SearchDomain
):
    rooms.learning.freeze(domain.name, "op", "drift")
    action = {"action_id": "1", "user_id": "ann", "object_id": "o1", "action_type": "like_post"}
    answer = service.post("/api/v1/actions", json={"actions": [action]}).json()
    assert answer["accepted"] == 1
    body = {"search_query": "red shoes", "user_id": "ann", "create_session": True}
    found = service.post("/api/v1/embeddings/similarity-search", json=body).json()
    assert len(found["search_results"]) == 10
    assert stored(rooms, domain).profile.embedding is None


@pytest.mark.parametrize("before", [True, False])
def test_who_is_erased_while_acting_in_a_frozen_domain_leaves_nothing_in_the_log(
    rooms: Rooms, domain: SearchDomain, before: bool
):
    rooms.learning.freeze(domain.name, "op", "drift")
    racing: Any = Gap(rooms.actions, "push", lambda: erase_user(rooms, "ann"), before)
    live(rooms, actions=racing).push([*like(domain, "o1"), *like(domain, "o1", user="bob")])
    assert rooms.actions.of_user("ann", domain.name) == []
    assert len(rooms.actions.of_user("bob", domain.name)) == 1
    assert rooms.profiles.load(domain.name, ["ann"]) == {}


def test_erasing_in_a_frozen_domain_leaves_no_line_that_names_the_user(
    rooms: Rooms, domain: SearchDomain, other: SearchDomain
):
    teach(rooms, domain, "s")
    run(rooms)
    rooms.learning.freeze(domain.name, "op", "drift")
    teach(rooms, domain, "waits")
    assert erase_user(rooms, "ann").copies == 5
    assert rooms.queue.owners(domain.name) == []
    run(rooms)
    assert rooms.queue.owners(other.name) == [], "where nothing is frozen, a worker is waited for"


def test_a_worker_that_holds_an_erased_user_when_the_domain_freezes_is_cleaned_up_behind(
    rooms: Rooms, domain: SearchDomain
):
    def freeze_and_erase() -> None:
        rooms.learning.freeze(domain.name, "op", "drift")
        erase_user(rooms, "ann")

    teach(rooms, domain, "s")
    racing: Any = Gap(rooms.vectors, "upsert", freeze_and_erase, before=True)
    improve_users(replace(improver(rooms), vectors=racing), 10)
    rooms.learning.resume(domain.name, "op", "it was nothing")
    run(rooms)
    assert not copies(rooms, domain)
    assert rooms.queue.owners(domain.name) == []


def test_a_slowed_domain_makes_the_copies_and_profiles_of_one_with_lower_rates(
    rooms: Rooms, domain: SearchDomain
):
    domain = replace(domain, profiles=replace(domain.profiles, learning_rate=0.5))

    def learned(user: str, rate: float, what: SearchDomain) -> tuple[dict[str, bytes], np.ndarray]:
        rooms.learning.resume(domain.name, "op", "slower", rate)
        with_it = replace(rooms, domains={**rooms.domains, domain.name: what})
        rooms.queue.enqueue_rebuild([Owner(domain.name, "ann")])
        run(with_it)
        live(with_it).push(like(domain, *(f"o{n}" for n in range(12)), user=user))
        embedding = stored(rooms, domain, user).profile.embedding
        assert embedding is not None
        return {name: copy.parts.tobytes() for name, copy in copies(rooms, domain).items()}, embedding

    teach(rooms, domain, "s")
    fast, slow = learned("bob", 1.0, domain), learned("cid", 0.25, domain)
    expected = learned("dan", 1.0, domain.at_rate(0.25))
    assert slow[0] == expected[0] != fast[0]
    assert slow[0].keys() == fast[0].keys()
    np.testing.assert_array_equal(slow[1], expected[1])
    assert not np.array_equal(fast[1], expected[1])

"""Replaying the service's own log, in real stores."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clickstream.records import QueryVector, Session
from improvement.domain import SearchDomain
from improvement.errors import Invalid
from improvement.evaluation.log import replay_log
from improvement.evaluation.report import Report
from improvement.evidence import DAY, EvidenceWeights
from improvement.objects import Object
from improvement.profiles.settings import ProfileSettings
from improvement.wiring import Rooms
from tests.support import Clock, WordEncoder, click, make_objects, make_session

KINDS, SHOWN, START = 3, 10, 1_700_000_000
#: Says which of the shown objects (their numbers) somebody clicks.
Choice = Callable[[int, list[int]], list[int]]


@pytest.fixture
def originals(rooms: Rooms, domain: SearchDomain) -> list[Object]:
    objects = make_objects(domain, 30)
    rooms.vectors.upsert(rooms.releases.blue(domain.name).collection_id, objects)
    return objects


def a_kind_of_their_own(user: int, shown: list[int]) -> list[int]:
    return sorted(number for number in shown if number % KINDS == user % KINDS)[:2]


def fill(rooms: Rooms, domain: SearchDomain, choose: Choice, users: int = 9, days: int = 8) -> None:
    """Have users search once a day; what is shown is random, what is clicked is their choice."""
    rng = np.random.default_rng(0)
    sessions: list[tuple[Session, None]] = []
    events = []
    for day in range(days):
        for user in range(users):
            shown = rng.choice(30, SHOWN, replace=False).tolist()
            name, now = f"day{day} user{user}", START + day * DAY + user
            query = ("red shoes", "blue hat")[user % 2]
            ids = [f"o{number}" for number in shown]
            sessions.append(
                (make_session(name, f"u{user}", ids, query, created_at=now, domain=domain.name), None)
            )
            for number in choose(user, shown):
                event = click(f"o{number}").model_copy(update={"created_at": now + 30})
                events.append((name, event))
    rooms.clickstream.register_many(sessions)
    rooms.clickstream.push_events(events)


def run(rooms: Rooms, domain: SearchDomain, **changes: Any) -> Report:
    collection = rooms.releases.blue(domain.name).collection_id
    changes = {"method": "learned"} | changes
    return replay_log(rooms.clickstream, rooms.vectors, collection, domain, **changes)


@pytest.mark.usefixtures("originals")
def test_who_keeps_clicking_the_same_kind_is_served_better_by_copies(rooms: Rooms, domain: SearchDomain):
    fill(rooms, domain, a_kind_of_their_own)
    told = run(rooms, domain, propensities=(1.0, 0.8, 0.5))
    learned = told.row("learned")
    for metric in ("ndcg@10", "mrr", "ips_ndcg@10", "ips_mrr"):
        assert learned.differences[metric].low > 0.05, metric
        assert learned.metrics[metric].mean > told.row("no learning").metrics[metric].mean
    # the originals' order is as random as the shown one, for what is liked has nothing to do with the query
    shown = told.row("as shown").differences["ndcg@10"]
    assert shown.low < 0 < shown.high


@pytest.mark.usefixtures("originals")
def test_random_clicks_teach_nothing_that_could_be_measured(rooms: Rooms, domain: SearchDomain):
    rng = np.random.default_rng(1)
    fill(rooms, domain, lambda user, shown: rng.choice(shown, 2, replace=False).tolist())
    told = run(rooms, domain)
    for difference in told.row("learned").differences.values():
        assert difference.low < 0 < difference.high
    assert told.source["judged_with_copies"] > 0


PROFILES = ProfileSettings(search_weight=0.5)


def near_a_direction_of_their_own(objects: list[Object]) -> Choice:
    """Return the choice of users who like what lies in one direction, whatever they search for."""
    directions = np.random.default_rng(2).standard_normal((9, objects[0].parts.shape[1]))

    def choose(user: int, shown: list[int]) -> list[int]:
        return sorted(shown, key=lambda number: -float(directions[user] @ objects[number].mean))[:2]

    return choose


def test_a_profile_helps_those_who_like_one_direction_with_copies_and_without(
    rooms: Rooms, domain: SearchDomain, originals: list[Object]
):
    fill(rooms, domain, near_a_direction_of_their_own(originals))
    told = run(rooms, domain, profiles=PROFILES)
    assert [r.method for r in told.rows] == ["as shown", "no learning", "learned", "learned + profile"]
    both = told.row("learned + profile")
    assert both.versus["learned"]["ndcg@10"].low > 0.02
    assert both.differences["ndcg@10"].mean > told.row("learned").differences["ndcg@10"].mean
    assert both.settings["profile"]["search_weight"] == 0.5
    assert told.source["judged_with_profile"] == told.source["judged"]
    alone = run(rooms, domain, method=None, profiles=PROFILES)
    assert [r.method for r in alone.rows] == ["as shown", "no learning", "profile"]
    assert alone.row("profile").differences["ndcg@10"].low > 0.05
    assert alone.source["judged_with_copies"] == 0
    assert run(rooms, domain).row("learned").metrics == told.row("learned").metrics


@pytest.mark.usefixtures("originals")
def test_who_has_too_few_likes_for_a_profile_sees_what_their_copies_say(rooms: Rooms, domain: SearchDomain):
    fill(rooms, domain, a_kind_of_their_own, users=4, days=5)
    told = run(rooms, domain, profiles=replace(PROFILES, min_interactions=1_000))
    assert told.source["judged_with_profile"] == 0
    assert told.row("learned + profile").metrics == told.row("learned").metrics


def test_a_profile_is_made_without_what_is_gone(rooms: Rooms, domain: SearchDomain, originals: list[Object]):
    fill(rooms, domain, near_a_direction_of_their_own(originals), users=4, days=6)
    blue = rooms.releases.blue(domain.name).collection_id
    rooms.vectors.delete(blue, [f"o{number}" for number in range(0, 30, 3)])
    told = run(rooms, domain, profiles=PROFILES)
    assert told.source["judged_with_profile"] > 0
    assert told.source["objects_missing"] > 0


@pytest.mark.usefixtures("originals")
def test_the_latest_sessions_are_tested_on(rooms: Rooms, domain: SearchDomain):
    fill(rooms, domain, a_kind_of_their_own, users=5, days=4)
    source = run(rooms, domain, test_share=0.25).source
    assert (source["sessions_read"], source["usable"], source["train"], source["test"]) == (20, 20, 15, 5)
    assert source["split_at"] == START + 3 * DAY
    assert (source["judged"], source["users"]) == (5, 5)


@pytest.mark.usefixtures("originals")
def test_test_sessions_teach_nothing_not_even_each_other(rooms: Rooms, domain: SearchDomain):
    # Everything that is tested on is of a user whom nobody saw before the split.
    for number in range(6):
        user = "early" if number < 3 else "late"
        one = make_session(f"s{number}", user, ["o1", "o2"], created_at=START + number, domain=domain.name)
        rooms.clickstream.register(one)
        event = click("o1").model_copy(update={"created_at": START + 60})
        rooms.clickstream.push_events([(f"s{number}", event)])
    told = run(rooms, domain, test_share=0.5)
    assert (told.source["judged"], told.source["users"], told.source["judged_with_copies"]) == (3, 1, 0)
    assert {e.mean for e in told.row("learned").differences.values()} == {0.0}


@pytest.mark.usefixtures("originals")
def test_nothing_is_written(rooms: Rooms, domain: SearchDomain):
    fill(rooms, domain, a_kind_of_their_own, users=3, days=4)
    blue = rooms.releases.blue(domain.name).collection_id

    def state() -> Any:
        versions = {s.session_id: s for s in rooms.clickstream.history(domain.name, limit=99)}
        users = ["u0", "u1", "u2"]
        profiles = rooms.profiles.load(domain.name, users)
        return versions, rooms.vectors.copies(blue, users), profiles, rooms.queue.counts()

    before = state()
    run(rooms, domain, profiles=PROFILES)
    assert state() == before


@pytest.mark.usefixtures("originals")
def test_the_same_log_gives_the_same_numbers_and_without_method_only_two_rows(
    rooms: Rooms, domain: SearchDomain
):
    fill(rooms, domain, a_kind_of_their_own, users=4, days=5)
    told = run(rooms, domain)
    assert run(rooms, domain).as_json() == told.as_json()
    plain = run(rooms, domain, method=None)
    assert [row.method for row in plain.rows] == ["as shown", "no learning"]
    assert plain.rows[1].metrics == told.row("no learning").metrics


@pytest.mark.usefixtures("originals")
def test_many_users_or_few_at_a_time_learn_the_same(
    rooms: Rooms, domain: SearchDomain, monkeypatch: pytest.MonkeyPatch
):
    fill(rooms, domain, a_kind_of_their_own, users=5, days=5)
    whole = run(rooms, domain, profiles=PROFILES)
    for limit in ("sessions.SESSIONS", "learned.COPIES", "sessions.TEXTS"):
        monkeypatch.setattr(f"improvement.evaluation.{limit}", 2)
    pieces = run(rooms, domain, profiles=PROFILES)
    for row in ("learned", "learned + profile"):
        assert pieces.row(row).metrics["ndcg@10"].mean == pytest.approx(
            whole.row(row).metrics["ndcg@10"].mean
        )
    assert pieces.source == whole.source


def test_what_does_not_count_is_counted_with_its_reason(
    rooms: Rooms, domain: SearchDomain, originals: list[Object]
):
    now = START

    def search(user: str | None, shown: list[str], clicked: list[str], query: str = "red shoes") -> None:
        nonlocal now
        now += 60
        one = make_session(f"s{now}", user, shown, query, created_at=now, domain=domain.name)
        vector = QueryVector(model_id="words-v1", vectors=((0.5,) * 3,)) if query == "short" else None
        rooms.clickstream.register(one, vector)
        events = [click(o).model_copy(update={"created_at": now + 30}) for o in clicked]
        rooms.clickstream.push_events([(f"s{now}", event) for event in events])

    search(None, ["o1", "o2"], ["o1"])
    search("ann", ["o1", "o2"], [])
    search("ann", ["o3", "o2"], ["o3"], query="explode now")
    search("ann", ["gone", "o2"], ["gone"])  # what it passed over is still there, and can teach nothing else
    search("ann", ["o1", "o2", "o3"], ["o1"])
    # from here on the test sessions
    search("ann", ["gone", "o2", "o3"], ["gone"])
    search("ann", ["gone", "o2"], ["o2"])
    search("ann", ["o1", "o2"], ["o2"], query="")
    search("ann", ["o1", "o2"], ["o2"], query="explode")
    search("ann", ["o1", "o2"], ["o2"], query="short")
    search("ann", ["o1", "o2", "gone"], ["o2"])
    source = run(rooms, domain, test_share=6 / 9).source
    assert (source["sessions_read"], source["usable"], source["test"], source["judged"]) == (11, 9, 6, 1)
    assert source["unusable"] == {"no clicks": 1, "anonymous: there is no user to make copies for": 1}
    assert source["not_taught"] == {"the encoder failed on its query": 1}
    assert source["not_judged"] == {
        "no clicked object is still there": 1,
        "fewer than 2 of the shown objects are still there": 1,
        "no query text, and no vector of the domain's model": 1,
        "the encoder failed on its query": 1,
        "its query vector is not 16 finite numbers a row": 1,
    }
    assert source["objects_missing"] == 3


@pytest.mark.usefixtures("originals")
@pytest.mark.parametrize(("after", "taught"), [(60, True), (7 * 86_400, False)])
def test_a_click_on_an_old_list_after_the_split_teaches_nothing(
    rooms: Rooms, domain: SearchDomain, after: int, taught: bool
):
    for name, start, clicked in (("old", START, START + after), ("test", START + 1000, START + 1060)):
        one = make_session(name, "ann", ["o1", "o2"], created_at=start, domain=domain.name)
        rooms.clickstream.register(one)
        event = click("o2").model_copy(update={"created_at": clicked})
        rooms.clickstream.push_events([(name, event)])
    source = run(rooms, domain, test_share=0.5).source
    assert (source["test"], source["judged"]) == (1, 1)
    assert source["judged_with_copies"] == int(taught)


@pytest.mark.usefixtures("originals")
def test_a_session_of_dislikes_teaches_and_is_not_judged(rooms: Rooms, domain: SearchDomain):
    domain = replace(domain, evidence=EvidenceWeights())
    for number, (name, kind) in enumerate([("old", "hide"), ("seen", "click"), ("test", "hide")]):
        start = START + number * 1000
        rooms.clickstream.register(
            make_session(name, "ann", ["o1", "o2"], created_at=start, domain=domain.name)
        )
        event = click("o2").model_copy(update={"created_at": start + 60, "event_type": kind})
        rooms.clickstream.push_events([(name, event)])
    source = run(rooms, domain, test_share=0.6).source
    assert (source["train"], source["judged"], source["judged_with_copies"]) == (1, 1, 1)
    assert source["not_judged"] == {"dislikes only, no click": 1}


@pytest.mark.usefixtures("originals")
def test_stored_query_vectors_are_used_and_other_texts_embedded_once(rooms: Rooms, domain: SearchDomain):
    encoder = WordEncoder()
    domain = replace(domain, encoder=encoder)
    vector = QueryVector(model_id=encoder.model_id, vectors=((1.0,) * 16,))
    stale = QueryVector(model_id="another model", vectors=((1.0,) * 4,))
    for number, known in enumerate([vector, vector, stale, None, None]):
        one = make_session(f"s{number}", "ann", ["o1", "o2"], created_at=START + number, domain=domain.name)
        rooms.clickstream.register(one, known)
        event = click("o1").model_copy(update={"created_at": START + 60})
        rooms.clickstream.push_events([(f"s{number}", event)])
    run(rooms, domain)
    assert encoder.calls == [["red shoes"]]


def test_sessions_of_one_second_are_split_by_their_ids(
    rooms: Rooms, domain: SearchDomain, originals: list[Object]
):
    rooms.clickstream._clock = Clock(START + 100.0)
    for name in "cabd":
        one = make_session(name, f"user {name}", ["o1", "o2"], created_at=START, domain=domain.name)
        rooms.clickstream.register(one)
        rooms.clickstream.push_events([(name, click("o1").model_copy(update={"created_at": START + 60}))])
    told = run(rooms, domain, test_share=0.25)
    assert (told.source["train"], told.source["test"], told.source["users"]) == (3, 1, 1)
    assert told.source["split_at"] == START


@pytest.mark.usefixtures("originals")
def test_too_little_to_tell_is_said_in_a_sentence(rooms: Rooms, domain: SearchDomain):
    with pytest.raises(Invalid, match="expected at least 2 usable sessions, got 0 of 0"):
        run(rooms, domain)
    for name in "ab":
        rooms.clickstream.register(make_session(name, "ann", ["o1", "o2"], domain=domain.name))
    with pytest.raises(Invalid, match=r"got 0 of 2 \(2 no clicks\)"):
        run(rooms, domain)
    rooms.clickstream.push_events([(name, click("o1")) for name in "ab"])
    rooms.vectors.delete(rooms.releases.blue(domain.name).collection_id, ["o1"])
    with pytest.raises(Invalid, match="none of its 1 test sessions can be judged .*fewer than 2"):
        run(rooms, domain)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan")])
def test_a_share_of_nothing_or_of_everything_is_refused(rooms: Rooms, domain: SearchDomain, share: float):
    with pytest.raises(ValueError, match="test_share"):
        run(rooms, domain, test_share=share)


@pytest.mark.usefixtures("originals")
def test_evidence_can_be_swapped_without_changing_what_is_judged(rooms: Rooms, domain: SearchDomain):
    fill(rooms, domain, a_kind_of_their_own, users=4, days=5)
    told = run(rooms, domain)
    silent = run(rooms, replace(domain, evidence=EvidenceWeights(events={})))
    assert silent.source["judged"] == told.source["judged"]
    assert silent.row("no learning").metrics == told.row("no learning").metrics
    assert {e.mean for e in silent.row("learned").differences.values()} == {0.0}

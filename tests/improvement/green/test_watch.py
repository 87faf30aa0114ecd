"""The watch over a promotion, on a real log of sessions from before and after it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pymongo.database import Database

from clickstream.records import SessionEvent
from clickstream.store import ClickstreamStore
from improvement.domain import SearchDomain
from improvement.errors import Conflict
from improvement.green.builds import BuildState
from improvement.green.settings import PromotionSettings
from improvement.green.watch import SETTLE, WATCH, look, watch_promotion
from improvement.improver import Improver
from improvement.promotion import CLICKS, ROLLED_BACK, promote, promote_build, rollback
from improvement.promotion_log import WatchState
from improvement.wiring import Rooms
from tests.support import Clock, Gap, make_objects, make_session

SPACE, HOUR = "words-v1", 3_600
SHOWN = ("o1", "o2", "o3")


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return replace(domain, promotion=PromotionSettings(watch_sessions=50, watch_hours=2.0))


@pytest.fixture
def promoted_at(rooms: Rooms, domain: SearchDomain) -> float:
    """A build serves; returns since when."""
    rooms.vectors.upsert(rooms.releases.blue(domain.name).collection_id, make_objects(domain, 5))
    serve(rooms, domain, "a")
    return rooms.releases.history(domain.name)[0].at


def serve(rooms: Rooms, domain: SearchDomain, name: str) -> None:
    build = rooms.builds.ask(domain.name, f"{SPACE}@{name}", SPACE, False, "ann", name * 32)
    rooms.releases.create(domain, build.embedding_model_id, space=SPACE, build=build.build_id)
    rooms.builds.end(build.build_id, BuildState.BUILT)
    promote_build(rooms, build, "ann", force="for the test")


Search = Callable[..., None]


@pytest.fixture
def search(database: Database[Any], domain: SearchDomain) -> Search:
    """Have many users search at a time, and a share of them click some seconds later."""
    numbers = iter(range(1_000_000))

    def searched(
        at: float, count: int, share: float, after: float = 20.0, users: int = 40, **changes: Any
    ) -> None:
        clock = Clock(at)
        store = ClickstreamStore(database, clock)
        rng, sessions, events = np.random.default_rng(int(at) % 1_000), [], []
        for number in range(count):
            name = f"s{next(numbers)}"
            user = f"u{number % users}" if users else None
            shown = changes.get("shown", SHOWN)
            sessions.append((make_session(name, user, shown, created_at=int(at), domain=domain.name), None))
            if rng.random() < share:
                events.append((name, SessionEvent(event_id="e", object_id="o1", created_at=int(at))))
        store.register_many(sessions)
        clock.now += after
        store.push_events(events)

    return searched


def watch_state(rooms: Rooms, domain: SearchDomain) -> Any:
    return rooms.releases.history(domain.name)[0].watch


def open_alerts(rooms: Rooms) -> set[str]:
    return {one.alert.kind for one in rooms.alerts.open()}


def test_a_drop_is_an_alert_with_numbers(
    rooms: Rooms, improving: Improver, domain: SearchDomain, promoted_at: float, search: Search
):
    search(promoted_at - 1_000, 200, 0.6)
    search(promoted_at + 100, 200, 0.2)
    found = look(improving, domain, promoted_at + 2_000)
    assert found.state is WatchState.FELL
    assert found == watch_state(rooms, domain)
    assert found.found["before"] > 0.5 > 0.3 > found.found["after"]
    assert found.found["high"] < 0
    [alert] = rooms.alerts.open()
    assert (alert.alert.kind, alert.alert.severity.value) == (CLICKS, "alarm")
    assert "fell from" in alert.alert.message
    assert rooms.releases.blue(domain.name).embedding_model_id == f"{SPACE}@a", "nobody asked to roll back"


def test_no_change_is_no_alert_and_the_watch_ends_with_its_time(
    rooms: Rooms, improving: Improver, domain: SearchDomain, promoted_at: float, search: Search
):
    search(promoted_at - 1_000, 200, 0.4)
    search(promoted_at + 100, 200, 0.4)
    assert look(improving, domain, promoted_at + 2_000).state is WatchState.WATCHING
    ended = look(improving, domain, promoted_at + 2.1 * HOUR)
    assert (ended.state, ended.looks) == (WatchState.ENDED, 2)
    assert "no worse" in ended.reason
    assert open_alerts(rooms) == set()
    search(promoted_at + 3 * HOUR, 400, 0.0)
    assert look(improving, domain, promoted_at + 5 * HOUR) == ended, "what is over is over"


def test_with_too_few_sessions_nothing_is_said(
    rooms: Rooms, improving: Improver, domain: SearchDomain, promoted_at: float, search: Search
):
    search(promoted_at - 1_000, 49, 1.0)
    search(promoted_at + 100, 500, 0.0)
    assert look(improving, domain, promoted_at + 2_000).found is None
    ended = look(improving, domain, promoted_at + 3 * HOUR)
    assert (ended.state, ended.found) == (WatchState.ENDED, None)
    assert "too few" in ended.reason
    assert open_alerts(rooms) == set()


def test_it_looks_again_only_when_the_sessions_have_doubled(
    rooms: Rooms, improving: Improver, domain: SearchDomain, promoted_at: float, search: Search
):
    reads: list[tuple[Any, ...]] = []

    class Reading:
        def __getattr__(self, name: str) -> Any:
            reads.append((name,))
            return getattr(rooms.clickstream, name)

    reading = replace(improving, clickstream=Reading())
    search(promoted_at - 1_000, 300, 0.4)
    looks = []
    for count in (49, 1, 49, 1, 100, 20):
        search(promoted_at + 10, count, 0.4)
        reads.clear()
        looks.append(look(reading, domain, promoted_at + 2_000).looks)
        assert (("clickthrough",) in reads) == (len(looks) in (2, 4, 5))
    assert looks == [0, 1, 1, 2, 3, 3]


def test_a_session_has_the_same_time_for_a_click_before_and_after(
    rooms: Rooms, improving: Improver, domain: SearchDomain, promoted_at: float, search: Search
):
    """Old sessions were clicked late, new ones are too young to tell: neither looks like a drop."""
    search(promoted_at - 1_000, 200, 0.6, after=2 * SETTLE)
    search(promoted_at + 100, 200, 0.0)
    assert look(improving, domain, promoted_at + 2_000).found["before"] == 0.0
    search(promoted_at + 1_950, 1_000, 0.0)
    assert look(improving, domain, promoted_at + 2_000).found["sessions_after"] == 200


def test_sessions_that_showed_nothing_and_older_switches_are_left_out(
    rooms: Rooms, improving: Improver, domain: SearchDomain, promoted_at: float, search: Search
):
    search(promoted_at - 1_000, 500, 0.9)
    serve(rooms, domain, "b")
    now = rooms.releases.history(domain.name)[0].at
    search(now + 100, 100, 0.3)
    search(now + 100, 100, 0.0, shown=())
    found = look(improving, domain, now + 2_000)
    assert (found.looks, found.found) == (1, None), "between the two promotions there was nobody"


def rolling_back(improving: Improver, domain: SearchDomain) -> tuple[Improver, SearchDomain]:
    asked = replace(domain, promotion=replace(domain.promotion, roll_back=True))
    return replace(improving, domains={domain.name: asked}), asked


def test_it_rolls_back_by_itself_if_the_domain_says_so(
    rooms: Rooms, improving: Improver, domain: SearchDomain, promoted_at: float, search: Search
):
    search(promoted_at - 1_000, 200, 0.6)
    search(promoted_at + 100, 200, 0.1)
    look(*rolling_back(improving, domain), promoted_at + 2_000)
    assert rooms.releases.blue(domain.name).embedding_model_id == SPACE
    said = rooms.releases.history(domain.name)[0]
    assert (said.undone, said.undone_by) == (True, WATCH)
    assert "fell from" in said.undone_why
    assert open_alerts(rooms) == {ROLLED_BACK}
    rooms.releases.follow(rooms.releases.get(domain.name, f"{SPACE}@a"), True)
    assert look(improving, domain, promoted_at + 3_000) is None, "what served first was never promoted"
    promote_build(rooms, rooms.builds.get("a" * 32), "ann", force="it was the weather")
    assert open_alerts(rooms) == set()


def test_a_rollback_that_could_not_be_is_tried_again(
    rooms: Rooms, improving: Improver, domain: SearchDomain, promoted_at: float, search: Search
):
    search(promoted_at - 1_000, 200, 0.6)
    search(promoted_at + 100, 200, 0.1)
    worker, asked = rolling_back(improving, domain)
    with rooms.releases.promotions.switching(domain.name, "somebody else"):
        assert look(worker, asked, promoted_at + 2_000).state is WatchState.FELL
    assert rooms.releases.blue(domain.name).embedding_model_id == f"{SPACE}@a"
    look(worker, asked, promoted_at + 2_100)
    assert rooms.releases.blue(domain.name).embedding_model_id == SPACE


def test_what_was_not_kept_in_line_is_not_rolled_back_to(
    rooms: Rooms, improving: Improver, domain: SearchDomain, search: Search
):
    """A collection made by hand serves: what served before has not heard of anything since."""
    rooms.releases.create(domain, "v2")
    promote(rooms, domain.name, "v2", "ann")
    at = rooms.releases.history(domain.name)[0].at
    search(at - 1_000, 200, 0.6)
    search(at + 100, 200, 0.1)
    assert look(*rolling_back(improving, domain), at + 2_000).state is WatchState.FELL
    assert rooms.releases.blue(domain.name).embedding_model_id == "v2"
    assert open_alerts(rooms) == {CLICKS}


def test_a_death_between_the_alert_and_its_record_loses_neither(
    rooms: Rooms, improving: Improver, domain: SearchDomain, promoted_at: float, search: Search
):
    search(promoted_at - 1_000, 200, 0.6)
    search(promoted_at + 100, 200, 0.1)

    def die() -> None:
        raise ConnectionError("gone")

    dying: Any = Gap(rooms.alerts, "tell", die)
    with pytest.raises(ConnectionError):
        look(replace(improving, alerts=dying), domain, promoted_at + 2_000)
    assert watch_state(rooms, domain).looks == 0
    assert open_alerts(rooms) == {CLICKS}
    assert look(improving, domain, promoted_at + 2_000).state is WatchState.FELL
    [alert] = rooms.alerts.open()
    assert alert.told_at < alert.at, "told once"


def test_the_margin_is_how_much_the_domain_can_bear(
    rooms: Rooms, improving: Improver, domain: SearchDomain, promoted_at: float, search: Search
):
    search(promoted_at - 1_000, 400, 0.6)
    search(promoted_at + 100, 400, 0.4)
    patient = replace(domain, promotion=replace(domain.promotion, watch_margin=0.3))
    assert look(improving, patient, promoted_at + 2_000).state is WatchState.WATCHING


def test_a_rollback_by_hand_ends_the_watch_and_its_alert(
    rooms: Rooms, improving: Improver, domain: SearchDomain, promoted_at: float, search: Search
):
    search(promoted_at - 1_000, 200, 0.6)
    search(promoted_at + 100, 200, 0.1)
    look(improving, domain, promoted_at + 2_000)
    rollback(rooms, domain.name, "ann", "the alert")
    assert open_alerts(rooms) == set()
    assert watch_state(rooms, domain).state is WatchState.ENDED


def test_what_another_release_did_before_a_rollback_is_not_held_against_this_one(
    rooms: Rooms, improving: Improver, domain: SearchDomain, promoted_at: float, search: Search
):
    keeping = replace(domain, promotion=replace(domain.promotion, keep_previous=2, roll_back=True))
    worker = replace(improving, domains={domain.name: keeping})
    both = replace(rooms, domains={domain.name: keeping})
    search(promoted_at - 1_000, 400, 0.6)
    serve(both, keeping, "b")
    search(promoted_at + 100, 400, 0.1)
    rollback(both, domain.name, "ann", "b is bad")
    found = look(worker, keeping, promoted_at + 2_000)
    assert (found.state, found.found) == (WatchState.ENDED, None)
    assert "another collection served" in found.reason
    assert rooms.releases.blue(domain.name).embedding_model_id == f"{SPACE}@a"
    assert open_alerts(rooms) == set()
    assert look(worker, keeping, promoted_at + 3 * HOUR) == found


def test_the_watch_over_a_release_ends_when_the_next_one_serves(
    rooms: Rooms, improving: Improver, domain: SearchDomain, promoted_at: float
):
    serve(rooms, domain, "b")
    assert look(improving, domain, promoted_at + 100).state is WatchState.WATCHING
    newest, older = rooms.releases.history(domain.name)[:2]
    assert (newest.watch.state, older.watch.state) == (WatchState.WATCHING, WatchState.ENDED)


def test_what_somebody_promoted_while_the_watch_looked_is_not_rolled_back(
    rooms: Rooms, improving: Improver, domain: SearchDomain, promoted_at: float, search: Search
):
    search(promoted_at - 1_000, 200, 0.6)
    search(promoted_at + 100, 200, 0.1)
    worker, asked = rolling_back(improving, domain)
    slow: Any = Gap(rooms.clickstream, "clickthrough", lambda: serve(rooms, domain, "b"))
    look(replace(worker, clickstream=slow), asked, promoted_at + 2_000)
    assert rooms.releases.blue(domain.name).embedding_model_id == f"{SPACE}@b"


def test_a_worker_watches_once_a_minute(
    rooms: Rooms, improving: Improver, domain: SearchDomain, promoted_at: float
):
    watch_promotion(improving, domain)
    assert not rooms.queue.take_tick(f"{WATCH} {domain.name}", 60)


def test_anonymous_sessions_count_each_for_itself(
    rooms: Rooms, improving: Improver, domain: SearchDomain, promoted_at: float, search: Search
):
    search(promoted_at - 1_000, 100, 0.6, users=0)
    search(promoted_at + 100, 100, 0.6, users=0)
    found = look(improving, domain, promoted_at + 2_000).found
    assert (found["users_before"], found["users_after"]) == (100, 100)
    with pytest.raises(Conflict):
        rollback(rooms, domain.name, "ann") and rollback(rooms, domain.name, "ann")

"""In a gate users have the copies that a worker makes them: no older ones, and no more than allowed."""

from dataclasses import replace
from typing import Any

import pytest
from pymongo.database import Database

from clickstream.improvement_queue import Owner, Request
from clickstream.records import SessionEvent
from clickstream.store import ClickstreamStore
from improvement.copies import UsableSession
from improvement.domain import SearchDomain
from improvement.evaluation.learned import learn
from improvement.evaluation.sessions import Tally, query_vectors
from improvement.evidence import DAY
from improvement.improver import Improver
from improvement.jobs import improve_users
from improvement.quality.settings import CopyLimits
from improvement.wiring import Rooms
from tests.support import Clock, make_objects, make_session

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (CopyLimits(), {"o0", "o1", "o2", "o3", "o4", "o5"}),
        (CopyLimits(per_user=4), {"o0", "o1", "o2", "o5"}),
        (CopyLimits(expire_days=30.0), {"o0", "o1", "o2"}),
        (CopyLimits(per_user=1, expire_days=30.0), {"o2"}),
    ],
)
def test_users_have_the_copies_in_the_gate_that_they_have(
    rooms: Rooms, improving: Improver, domain: SearchDomain, database: Database[Any],
    limits: CopyLimits, expected: set[str],
):  # fmt: skip
    domain = replace(domain, copies=limits)
    blue = rooms.releases.blue(domain.name).collection_id
    rooms.vectors.upsert(blue, make_objects(domain, 6))
    for name, days, shown, clicked in (
        ("old", 40, ["o3", "o4", "o5"], ["o3", "o4"]), ("new", 2, ["o0", "o1", "o2"], ["o0", "o1"]),
    ):  # fmt: skip
        at = int(NOW - days * DAY)
        store = ClickstreamStore(database, Clock(float(at)))
        store.register(make_session(name, "ann", shown, "red shoes", created_at=at, domain=domain.name))
        clicks = [SessionEvent(event_id=o, object_id=o, created_at=at + 30) for o in clicked]
        store.push_events([(name, one) for one in clicks])
        rooms.queue.enqueue([Request(name, Owner(domain.name, "ann"), 1)])
    improve_users(replace(improving, domains={domain.name: domain}, clock=lambda: NOW), 10)
    real = {ref.original_id for ref in rooms.vectors.copies(blue, ["ann"])}

    shown = make_session("t", "ann", [f"o{n}" for n in range(6)], "red shoes", domain=domain.name)
    ClickstreamStore(database, Clock(NOW)).register(shown)
    *taught, test = [
        UsableSession(one, domain.evidence.of(one))
        for one in sorted(rooms.clickstream.sessions(["old", "new", "t"]), key=lambda s: s.registered_at)
    ]
    queries = query_vectors(domain, [one.session for one in (*taught, test)], lambda *_: None)
    learned = learn(rooms.vectors, blue, domain, taught, [test], queries, Tally(), copies=True, profiles=None)
    assert {original for _, original in learned.copies} == real == expected

"""What an operator sees of a build is what a promotion goes by."""

import pytest

from improvement.domain import SearchDomain
from improvement.green.orders import state
from improvement.green.rule import HOUR, reasons_against
from improvement.improver import Improver
from improvement.wiring import Rooms


@pytest.mark.parametrize(
    ("hours", "fresh"), [(0, True), (23.9, True), (25, False), (-23.9, True), (-72, False)]
)
def test_status_and_promote_agree_on_what_is_fresh(
    rooms: Rooms, improving: Improver, domain: SearchDomain, hours: float, fresh: bool
):
    space = rooms.releases.space(domain.name)
    asked = rooms.builds.ask(domain.name, f"{space}@1", space, False, "ann")
    blue = rooms.releases.blue(domain.name)
    green = rooms.releases.create(domain, asked.embedding_model_id, space=space, build=asked.build_id)
    now = rooms.builds.clock()
    rooms.reports._clock = lambda: now - hours * HOUR
    report = rooms.reports.save(domain.name, asked.build_id, green.collection_id, blue.collection_id, [], {})
    against = reasons_against(report, asked.build_id, green, blue, domain.gate.fresh_hours, now)
    assert state(improving, asked)["gate"]["fresh"] == (not against) == fresh

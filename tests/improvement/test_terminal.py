"""What operators see, whatever strangers wrote."""

import pytest

from improvement.domain import SearchDomain
from improvement.green import orders
from improvement.green_cli import _print_state  # noqa: PLC2701
from improvement.terminal import show
from improvement.wiring import Rooms, improver


def test_text_with_brackets_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]):
    show([{"why": "see [/x] and [red]"}], as_json=False)
    assert "see [/x] and [red]" in capsys.readouterr().out


def test_the_status_of_a_build_shows_any_id(
    rooms: Rooms, domain: SearchDomain, capsys: pytest.CaptureFixture[str]
):
    space = rooms.releases.space(domain.name)
    asked = rooms.builds.ask(domain.name, f"{space}@1", space, False, "t")
    token = rooms.builds.claim(asked, 60)
    assert token is not None
    rooms.builds.save(asked.build_id, token, 60, failed=1, failures={"[/x]": "no texts"})
    _print_state(orders.state(improver(rooms), rooms.builds.get(asked.build_id)))
    assert "[/x]: no texts" in capsys.readouterr().out

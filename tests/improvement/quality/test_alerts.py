"""Alerts: told once, by one process, to the log and to a webhook that may fail."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import structlog
from pydantic import SecretStr, ValidationError
from pymongo.database import Database

from improvement.quality import webhook
from improvement.quality.alerts import AGAIN_SECONDS, Alert, AlertStore, Severity
from improvement.quality.webhook import Webhook
from improvement.settings import Settings
from tests.support import Clock

DRIFT = Alert("docs", "drift.objects", Severity.WARNING, "objects moved", {"value": 0.2})
WORSE = Alert("docs", "drift.objects", Severity.ALARM, "objects moved a lot", {"value": 0.4})


class Taking:
    """A webhook's other side: answers as it is told to, and remembers what it was sent."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.bodies: list[dict[str, Any]] = []
        taking = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                taking.bodies.append(json.loads(body))
                self.send_response(taking.answers.pop(0) if taking.answers else 200)
                self.send_header("location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = SecretStr(f"http://127.0.0.1:{self.server.server_port}/hooks/s3cret")


@pytest.fixture
def taking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Taking]:
    monkeypatch.setattr(webhook, "PAUSE", 0.01)
    other = Taking()
    thread = threading.Thread(target=other.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield other
    other.server.shutdown()
    thread.join()
    other.server.server_close()


class Hooked:
    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send(self, document: Any) -> bool:
        self.sent.append(dict(document))
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hook() -> Hooked:
    return Hooked()


@pytest.fixture
def alerts(database: Database[Any], clock: Clock, hook: Hooked) -> AlertStore:
    return AlertStore(database, hook, clock)


def messages(hook: Hooked) -> list[str]:
    return [document["message"] for document in hook.sent]


def test_what_is_not_over_is_told_once_a_day(alerts: AlertStore, clock: Clock, hook: Hooked):
    for _ in range(3):
        alerts.tell(DRIFT)
        clock.now += AGAIN_SECONDS / 2
    assert messages(hook) == ["objects moved", "objects moved"]
    [one] = alerts.open("docs")
    assert (one.first_at, one.at) == (clock.now - 1.5 * AGAIN_SECONDS, clock.now - AGAIN_SECONDS / 2)


def test_what_gets_worse_is_told_at_once(alerts: AlertStore, hook: Hooked):
    alerts.tell(DRIFT)
    alerts.tell(WORSE)
    alerts.tell(WORSE)
    assert messages(hook) == ["objects moved", "objects moved a lot"]
    assert [one.alert.severity for one in alerts.open()] == [Severity.ALARM]


def test_what_was_over_and_comes_again_is_told_again(alerts: AlertStore, clock: Clock, hook: Hooked):
    alerts.over("docs", "drift.objects")  # nothing was told: nothing is over
    assert alerts.list() == []
    alerts.tell(DRIFT)
    alerts.over("docs", "drift.objects")
    alerts.over("docs", "drift.objects")
    assert alerts.open() == []
    assert [one.over_at for one in alerts.list()] == [clock.now]
    clock.now += 60
    alerts.tell(DRIFT)
    assert len(hook.sent) == 2
    assert [one.first_at for one in alerts.open()] == [clock.now]


def test_kinds_and_domains_are_told_apart_and_listed(alerts: AlertStore, clock: Clock, hook: Hooked):
    for domain, kind in (("docs", "a"), ("docs", "b"), ("shop", "a")):
        clock.now += 1
        alerts.tell(Alert(domain, kind, Severity.WARNING, f"{domain} {kind}"))
    assert [one.alert.message for one in alerts.open()] == ["shop a", "docs b", "docs a"]
    assert [one.alert.message for one in alerts.open("docs")] == ["docs b", "docs a"]
    alerts.over("docs", "a")
    assert [one.alert.message for one in alerts.list("docs")] == ["docs b", "docs a"]


def test_of_many_processes_that_find_it_at_once_one_tells_it(database: Database[Any]):
    hook, start = Hooked(), threading.Barrier(6)

    def find() -> None:
        start.wait()
        AlertStore(database, hook).tell(DRIFT)

    threads = [threading.Thread(target=find) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hook.sent) == 1


def test_facts_that_json_cannot_say_are_told_as_nothing(alerts: AlertStore, hook: Hooked):
    facts = {"ratio": float("inf"), "low": float("nan"), "n": 3, "event": "a name that the log has, too"}
    alerts.tell(Alert("docs", "a", Severity.ALARM, "odd", facts))
    assert json.dumps(hook.sent[0]["facts"], allow_nan=False)
    assert hook.sent[0]["facts"] == {"ratio": None, "low": None, "n": 3, "event": facts["event"]}
    assert json.dumps([one.as_json() for one in alerts.open()], allow_nan=False)


# The webhook


def test_the_webhook_gets_json_that_says_everything(database: Database[Any], taking: Taking, clock: Clock):
    alerts = AlertStore(database, Webhook(taking.url), clock)
    alerts.tell(WORSE)
    [body] = taking.bodies
    assert body == {
        "domain": "docs", "kind": "drift.objects", "severity": "alarm", "message": "objects moved a lot",
        "facts": {"value": 0.4}, "at": clock.now, "text": "[alarm] docs: objects moved a lot",
    }  # fmt: skip
    assert [one.sent for one in alerts.open()] == [True]


@pytest.mark.parametrize(
    ("answers", "arrived", "attempts"),
    [([500, 503], True, 3), ([500, 500, 500], False, 3), ([404, 404, 404], False, 3), ([302] * 3, False, 3)],
)
def test_a_webhook_is_tried_three_times_and_never_followed_elsewhere(
    taking: Taking, answers: list[int], arrived: bool, attempts: int
):
    taking.answers = answers
    assert Webhook(taking.url).send({"kind": "a"}) is arrived
    assert len(taking.bodies) == attempts


def test_a_webhook_that_fails_breaks_nothing_and_its_address_is_in_no_log(
    database: Database[Any], taking: Taking, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    caplog.set_level("DEBUG")
    taking.answers = [500] * 3
    addresses = [
        taking.url,
        SecretStr("http://127.0.0.1:1/s3cret"),
        SecretStr("http://[s3cret"),
        SecretStr("s3cret"),
    ]
    with structlog.testing.capture_logs() as logs:
        for number, address in enumerate(addresses):
            hook = Webhook(address)
            AlertStore(database, hook).tell(Alert("docs", f"kind {number}", Severity.ALARM, "bad"))
            assert "s3cret" not in repr(hook)
    assert [one["event"] for one in logs].count("webhook failed") == len(addresses)
    assert "s3cret" not in repr(logs)
    assert [one.sent for one in AlertStore(database).open()] == [False] * len(addresses)


def test_what_cannot_be_json_fails_like_a_webhook_that_fails(taking: Taking):
    assert Webhook(taking.url).send({"value": float("nan")}) is False
    assert Webhook(taking.url).send({"value": object()}) is False


def test_the_clients_own_log_does_not_have_the_address_either(
    taking: Taking, caplog: pytest.LogCaptureFixture
):
    from improvement.telemetry import configure_logging

    caplog.set_level("INFO")
    configure_logging(json_lines=True)
    try:
        assert Webhook(taking.url).send({"kind": "a"})
    finally:
        structlog.reset_defaults()
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("url", ["s3cret.example", "ftp://s3cret", "http://", "http://[s3cret", "//s3cret"])
def test_an_address_that_is_none_is_refused_at_the_start_without_being_shown(url: str):
    with pytest.raises(ValidationError) as refused:
        Settings(_env_file=None, alert_webhook_url=url)
    assert "http:// or https://" in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_an_address_does_not_show_and_empty_is_none(monkeypatch: pytest.MonkeyPatch):
    assert "s3cret" not in repr(Settings(_env_file=None, alert_webhook_url="https://hooks.example/s3cret"))
    monkeypatch.setenv("ALERT_WEBHOOK_URL", "")
    assert Settings(_env_file=None).alert_webhook_url is None

"""Actions over HTTP, through the whole service: each answered by itself, none counted twice."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pymongo.errors import AutoReconnect

from improvement.api import create_app
from improvement.domain import SearchDomain
from improvement.settings import Settings
from improvement.wiring import Rooms, build
from tests.support import serving

PATH = "/api/v1/actions"


def act(action_id: object, **changes: Any) -> dict[str, Any]:
    fields = {"user_id": "ann", "object_id": "post 1", "action_type": "like_post"}
    return {"action_id": action_id} | fields | changes


def sent_raw(service: httpx.Client, raw: bytes) -> httpx.Response:
    return service.post(PATH, content=raw, headers={"content-type": "application/json"})


def post(service: httpx.Client, *actions: Any) -> dict[str, Any]:
    # not json=...: a stranger's JSON may have NaN and lone surrogates
    response = sent_raw(service, json.dumps({"actions": actions}).encode())
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def stored(rooms: Rooms, user_id: str = "ann") -> list[str]:
    return [action.action_id for action in rooms.actions.of_user(user_id, rooms.default_domain.name)]


def test_actions_are_stored_for_their_user_in_the_default_domain(service: httpx.Client, rooms: Rooms):
    now = int(time.time())
    sent = act("a1", action_type="dwell", created_at=now - 60, meta={"dwell_seconds": 42.5})
    assert post(service, sent, act("a2", user_id="bob", domain=rooms.default_domain.name)) == {
        "accepted": 2, "repeated": 0, "rejected": [],
    }  # fmt: skip
    [found] = rooms.actions.of_user("ann", rooms.default_domain.name)
    assert found.model_dump(exclude={"received_at", "place", "domain"}) == sent | {"created_at": now - 60}
    assert now - 1 <= found.received_at <= time.time()
    assert stored(rooms, "bob") == ["a2"]


def test_a_bad_action_is_rejected_with_its_reason_and_its_neighbours_are_stored(
    service: httpx.Client, rooms: Rooms
):
    answer = post(service, act("1"), act("2", user_id=""), act("3"), act("4", action_type=None), act("5"))
    assert (answer["accepted"], answer["repeated"]) == (3, 0)
    assert answer["rejected"] == [
        {"index": 1, "reason": "user_id: String should have at least 1 character"},
        {"index": 3, "reason": "action_type: Input should be a valid string"},
    ]
    assert sorted(stored(rooms)) == ["1", "3", "5"]


def test_actions_that_are_all_bad_are_answered_and_not_refused(service: httpx.Client, rooms: Rooms):
    answer = post(service, {}, None, [])
    assert (answer["accepted"], answer["repeated"], len(answer["rejected"])) == (0, 0, 3)
    assert stored(rooms) == []


NOW = int(time.time())


#: What no action may be, and what its reason has to say.
BAD: list[tuple[Any, str]] = [
    (None, "expected an object with action_id, user_id, object_id and action_type"),
    ("like", "expected an object"),
    ([act("x")], "expected an object"),
    (7, "expected an object"),
    ({}, "action_id: Field required"),
    (act("x" * 513), "action_id: String should have at most 512 characters"),
    (act("\ud800"), "action_id: "),
    (act(5), "action_id: Input should be a valid string"),
    (act("bad", user_id=None), "user_id: Input should be a valid string"),
    (act("bad", user_id="\udfff"), "user_id: "),
    (act("bad", object_id=""), "object_id: String should have at least 1 character"),
    (act("bad", object_id={"$gt": ""}), "object_id: Input should be a valid string"),
    (act("bad", action_type="x" * 129), "action_type: String should have at most 128 characters"),
    (act("bad", action_type=["like_post"]), "action_type: Input should be a valid string"),
    (act("bad", domain="nowhere"), "domain 'nowhere' is not configured; expected one of ['things-"),
    (act("bad", domain="\ud800"), "domain: "),
    (act("bad", domain=""), "domain '' is not configured"),
    (act("bad", meta={"dwell_seconds": float("nan")}), "meta: a number is NaN or infinite"),
    (act("bad", meta={"dwell_seconds": float("-inf")}), "meta: a number is NaN or infinite"),
    (act("bad", meta={"dwell_seconds": 2**63}), "meta: a whole number does not fit 64 bits"),
    (act("bad", meta={"text": "x" * 20_000}), "meta: larger than 16384 bytes"),
    (act("bad", meta={"nul\0": 1}), "meta: a key has a NUL character"),
    (act("bad", meta={"\ud800": 1}), "meta: text is not valid Unicode"),
    (act("bad", meta=[1]), "meta: Input should be a valid dictionary"),
    (act("bad", meta=json.loads('{"a":' * 100 + "1" + "}" * 100)), "meta: nested deeper than 16 levels"),
    (act("bad", created_at=NOW - 13 * 3600), "is outside [now - 43200 s, now + 300 s]"),
    (act("bad", created_at=NOW + 3600), "is outside [now - 43200 s, now + 300 s]"),
    (act("bad", created_at=True), "created_at 1 is outside"),
    (act("bad", created_at=-1), "created_at: "),
    (act("bad", created_at=2**63), "created_at: "),
    (act("bad", created_at=10**4000), "created_at: "),
    (act("bad", created_at=float("nan")), "created_at: "),
    (act("bad", created_at="yesterday"), "created_at: "),
]


def test_what_is_wrong_is_said_and_harms_nobody_else(service: httpx.Client, rooms: Rooms):
    actions: list[Any] = [act("first")]
    for number, (bad, _) in enumerate(BAD):
        actions += [bad, act(f"after {number}")]
    answer = post(service, *actions)
    assert (answer["accepted"], answer["repeated"]) == (len(BAD) + 1, 0)
    assert [rejected["index"] for rejected in answer["rejected"]] == list(range(1, 2 * len(BAD), 2))
    for rejected, (bad, says) in zip(answer["rejected"], BAD, strict=True):
        assert says in rejected["reason"], ascii(bad)[:200]
        assert len(rejected["reason"]) <= 500
    assert stored(rooms) == [action["action_id"] for action in actions[::-2]]


def test_a_clock_may_be_as_wrong_as_for_session_events(service: httpx.Client):
    skews = (-43_100, -60, 0, 290)
    answer = post(service, *(act(str(skew), created_at=int(time.time()) + skew) for skew in skews))
    assert answer["accepted"] == len(skews)


def test_the_clock_may_be_as_wrong_as_the_settings_say(settings: Settings, domain: SearchDomain):
    limits = {"clickstream_time_max_delta_minus_sec": 10, "clickstream_time_max_delta_plus_sec": 20}
    rooms = build(settings.model_copy(update=limits), {domain.name: domain})
    with serving(create_app(rooms)) as client:
        answer = post(client, act("old", created_at=NOW - 60), act("ahead", created_at=int(time.time()) + 15))
    rooms.close()
    assert answer["accepted"] == 1
    [rejected] = answer["rejected"]
    assert "outside [now - 10 s, now + 20 s]" in rejected["reason"]


IDS = ["\0", "a\0b", "a", "$where", "a.b", " ", "\n", "%00", "../..", "😀" * 100, "é", "e\u0301", "\uffff"]


def test_ids_may_have_any_characters(service: httpx.Client, rooms: Rooms):
    sent = [act(i, user_id=u, object_id=i, action_type=i, meta={u: i} if "\0" not in u else None)
            for i in IDS for u in IDS]  # fmt: skip
    assert post(service, *sent) == {"accepted": len(sent), "repeated": 0, "rejected": []}
    for user_id in IDS:
        assert sorted(stored(rooms, user_id)) == sorted(IDS)


# Bodies


def test_a_body_without_a_list_of_actions_is_422_with_a_detail(service: httpx.Client, rooms: Rooms):
    for raw in (
        b"", b"[]", b"null", b"{", b"{}", b"\xff\xfe",
        b'{"actions": null}', b'{"actions": "like"}', b'{"actions": 5}', b'{"actions": []}',
        json.dumps({"actions": act("x")}).encode(), json.dumps([act("x")]).encode(),
        json.dumps(act("x")).encode(),
    ):  # fmt: skip
        response = sent_raw(service, raw)
        assert response.status_code == 422, (raw, response.text)
        assert response.json()["detail"]
    assert stored(rooms) == []


def test_json_that_no_parser_takes_is_refused_as_a_whole(service: httpx.Client, rooms: Rooms):
    for value in ("[" * 100_000 + "]" * 100_000, "9" * 5_000):
        response = sent_raw(service, f'{{"actions": [{json.dumps(act("x"))}, {value}]}}'.encode())
        assert response.status_code in (400, 422), response.text
        assert response.json()["detail"]
    assert stored(rooms) == []


def test_a_thousand_actions_are_taken_and_one_more_is_422(service: httpx.Client, rooms: Rooms):
    actions = [act(str(i)) for i in range(1_001)]
    response = service.post(PATH, json={"actions": actions})
    assert response.status_code == 422
    assert response.json()["detail"] == "expected at most 1000 in one request, got 1001"
    assert stored(rooms) == []
    assert post(service, *actions[:1_000])["accepted"] == 1_000


# Once


def test_a_request_sent_again_changes_nothing(service: httpx.Client, rooms: Rooms):
    sent = [act(str(i)) for i in range(5)] + [act("bad", object_id="")]
    first = post(service, *sent)
    assert (first["accepted"], first["repeated"]) == (5, 0)
    assert post(service, *sent) == {"accepted": 0, "repeated": 5, "rejected": first["rejected"]}
    assert post(service, *sent[:2], act("new"))["repeated"] == 2
    assert sorted(stored(rooms)) == ["0", "1", "2", "3", "4", "new"]


def test_an_action_twice_in_one_request_counts_once_and_the_first_one_stays(
    service: httpx.Client, rooms: Rooms
):
    answer = post(service, act("x", object_id=""), act("x", object_id="a"), act("x", object_id="b"))
    assert (answer["accepted"], answer["repeated"], len(answer["rejected"])) == (1, 1, 1)
    [found] = rooms.actions.of_user("ann", rooms.default_domain.name)
    assert found.object_id == "a"
    assert post(service, act("x", user_id="bob"))["accepted"] == 1, "another user's x is another action"


def test_requests_that_race_count_each_action_once(service: httpx.Client, rooms: Rooms):
    answers: list[dict[str, Any]] = []
    barrier = threading.Barrier(6)

    def send(start: int) -> None:
        barrier.wait()
        answers.append(post(service, *(act(str(i)) for i in range(start, start + 50))))

    threads = [threading.Thread(target=send, args=(start,)) for start in (0, 0, 25, 25, 50, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(answer["accepted"] for answer in answers) == 100
    assert sum(answer["repeated"] for answer in answers) == 200
    assert Counter(stored(rooms)) == Counter(map(str, range(100)))


def test_a_store_that_is_away_is_503_and_sending_again_is_safe(
    service: httpx.Client, rooms: Rooms, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as away:

        def lost(*_: Any) -> int:
            raise AutoReconnect("connection closed")

        away.setattr(rooms.actions, "push", lost)
        response = service.post(PATH, json={"actions": [act("x")]})
        assert response.status_code == 503
        assert "a store did not do its part" in response.json()["detail"]
    assert post(service, act("x"))["accepted"] == 1


# Who may


CLIENT, OPERATOR = "c" * 20, "o" * 20


@pytest.fixture
def locked(settings: Settings, domain: SearchDomain) -> Iterator[httpx.Client]:
    keys = {"api_client_keys": CLIENT, "api_operator_keys": OPERATOR}
    rooms = build(Settings(_env_file=None, **settings.model_dump() | keys), {domain.name: domain})
    with serving(create_app(rooms)) as client:
        yield client
    rooms.close()


def test_a_client_key_opens_it_and_no_key_does_not(locked: httpx.Client):
    for key, status in ((None, 401), ("wrong" * 5, 401), (CLIENT, 200), (OPERATOR, 200)):
        headers = {"X-API-Key": key} if key else {}
        response = locked.post(PATH, json={"actions": [act("x")]}, headers=headers)
        assert response.status_code == status, response.text


def test_actions_queue_no_session_for_improvement(service: httpx.Client, rooms: Rooms):
    post(service, act("x"))
    assert sum(rooms.queue.counts().values()) == 0

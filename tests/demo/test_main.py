"""The demo's play and its verdict, against a small service in numpy instead of the real one."""

import io
import json
import zlib
from collections import defaultdict

import httpx
import numpy as np
import pytest
from rich.console import Console

from demo import green
from demo.__main__ import NEWCOMER, QUERY, TWO_USERS, report, run
from demo.api import FIRST_CLICK, Api
from demo.corpus import StdlibObject, stdlib_objects
from demo.show import Show
from demo.users import ENOUGH, relevant_objects, words

LIMIT = 0.4


def embed(text: str) -> np.ndarray:
    """Return a bag of hashed words as a unit vector."""
    vector = np.full(64, 1e-3)
    for word in words(text):
        vector[zlib.crc32(word[:4].encode()) % 64] += 1
    return vector / np.linalg.norm(vector)


def turned(vector: np.ndarray, towards: np.ndarray, angle: float) -> np.ndarray:
    across = towards - (towards @ vector) * vector
    return np.cos(angle) * vector + np.sin(angle) * across / np.linalg.norm(across)


def stored(body: dict) -> dict[str, np.ndarray]:
    return {o["object_id"]: np.asarray([part["vector"] for part in o["parts"]]) for o in body["objects"]}


class Service:
    """Every route the demo uses; ``fault`` breaks one promise."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.collections: dict[str, dict[str, np.ndarray]] = {"first": {}}
        self.blue = ["first"]
        self.sessions: dict[str, dict] = {}
        self.events: dict[str, list] = defaultdict(list)
        self.copies: dict[tuple[str, str], np.ndarray] = {}
        self.queued: list[str] = []
        self.polls = 0
        self.towers = ["untrained"]
        self.http = httpx.Client(base_url="http://demo", transport=httpx.MockTransport(self.answer))

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api/v1")
        name = path.strip("/").replace("/", "_").replace("-", "_")
        body = json.loads(request.content) if request.content else {}
        return httpx.Response(200, content=json.dumps(getattr(self, name)(body)))

    def objects(self, body):
        self.collections[self.blue[-1]] |= stored(body)

    def embeddings_similarity_search(self, body):
        query, user = embed(body["search_query"]), body["user_id"]
        if self.fault == "newcomer" and user == NEWCOMER:
            user = TWO_USERS[0]
        ids = list(self.collections[self.blue[-1]])
        parts = [self.copies.get((user, i), self.collections[self.blue[-1]][i]) for i in ids]
        liked = self.liked(user)
        if body["profile_weight"] and liked:
            about = np.mean([self.collections[self.blue[-1]][i].mean(axis=0) for i in liked], axis=0)
            away = self.fault == "wrong profile"
            query = query - 9 * about if away else query + body["profile_weight"] * about
        firsts = np.cumsum([0, *map(len, parts[:-1])])
        scores = np.maximum.reduceat(np.concatenate(parts) @ query, firsts)
        best = np.argsort(-scores, kind="stable")[: body["limit"]]
        if body.get("create_session"):
            self.sessions[body["session_id"]] = {"query": query, "user": user, "shown": len(best)}
        return {"search_results": [{"object_id": ids[i], "distance": float(1 - scores[i])} for i in best]}

    def liked(self, user: str) -> list[str]:
        mine = [i for i, session in self.sessions.items() if session["user"] == user]
        return [event["object_id"] for i in mine for event in self.events[i]]

    def internal_towers_status(self, body):
        waiting = None
        if self.fault == "towers fail":
            waiting = {"gate": {"passed": False, "reasons": ["recall is worse"]}}
        return {"serving": {"checkpoint_id": self.towers[-1]}, "waiting": waiting}

    def internal_towers_publish(self, body):
        if self.fault != "towers fail":
            self.towers.append("trained")

    def internal_towers_report(self, body):
        def of(mean, low=0.1, high=0.3):
            return {name: {"mean": mean, "low": low, "high": high} for name in ("recall@20", "ndcg@10")}

        worse = of(-0.1, -0.2, 0.1) if self.fault == "towers learn nothing" else of(0.2)
        return {
            "passed": self.fault != "towers gate", "reasons": [], "source": {"users_with_enough": 6},
            "metrics": {"blue": of(0.1), "green": of(0.3), "differences": worse},
        }  # fmt: skip

    def internal_towers_checkpoints(self, body):
        return {"checkpoints": [{"engagements": 20}, {"engagements": 0}]}

    def internal_towers_rollback(self, body):
        if self.fault != "towers stay":
            self.towers.pop()

    def recommend(self, body):
        if body.get("model") == "two_tower":
            liked = self.liked(body["user_id"])
            found = [{"object_id": i} for i in self.collections["first"] if i not in liked][: body["limit"]]
            source = "two_tower" if liked or self.fault == "towers know newcomers" else "popularity"
            return {"search_results": found, "meta": {"source": source}}
        liked = self.liked(body["user_id"])
        known = liked if liked or self.fault == "knows newcomers" else []
        source = "profile" if known or self.fault == "knows newcomers" else "popularity"
        again = self.fault == "recommends again"
        new = [i for i in self.collections[self.blue[-1]] if again == (i in liked)][: body["limit"]]
        return {
            "search_results": [{"object_id": i, "distance": 0.5} for i in new],
            "meta": {"source": source},
        }

    def clickstream_session_events(self, body):
        assert len(body["events"]) <= ENOUGH
        assert all(event["event_type"] == "click" for event in body["events"])
        self.events[body["session_id"]] += body["events"]

    def clickstream_internal_session_use_for_improvement(self, body):
        self.queued.append(body["session_id"])

    def clickstream_internal_queue(self, body):
        """Work off half of the queue at each look at it."""
        self.polls += 1
        now, self.queued = self.queued[: len(self.queued) // 2 + 1], self.queued[len(self.queued) // 2 + 1 :]
        for session_id in now if self.fault != "learns nothing" else ():
            session = self.sessions[session_id]
            for event in self.events[session_id]:
                parts = self.collections[self.blue[-1]][event["object_id"]]
                angle = 1.0 if self.fault == "drift" else LIMIT
                copy = np.stack([turned(part, session["query"], angle) for part in parts])
                self.copies[session["user"], event["object_id"]] = copy
        return {"pending": len(self.queued), "done": 1, "skipped": 0, "failed": int(self.fault == "failed")}

    def internal_vectordb_collections_get_blue_info(self, body):
        return {"embedding_model": {"id": self.blue[-1]}}

    def internal_green_build(self, body):
        """Turn what several users clicked towards what they asked."""
        about, users = defaultdict(list), defaultdict(set)
        for session_id, events in self.events.items():
            for event in events:
                about[event["object_id"]].append(self.sessions[session_id]["query"])
                users[event["object_id"]].add(self.sessions[session_id]["user"])
        sign = -1 if self.fault == "learns the wrong way" else 1
        self.collections["green"] = {
            i: np.stack([turned(part, sign * np.mean(about[i], axis=0), LIMIT) for part in parts])
            if len(users[i]) > 1
            else parts
            for i, parts in self.collections["first"].items()
        }
        return self.internal_green_status(body)

    def internal_green_status(self, body):
        state = "failed" if self.fault == "build fails" else "built"
        return {
            "build_id": "1", "embedding_model_id": "green", "state": state, "stage": "index", "done": 1,
            "total": 1, "reason": "no reason", "gate_asked": False, "learned": 1, "turned": 1, "failed": 0,
        }  # fmt: skip

    def internal_green_gate(self, body):
        assert body == {"build_id": "1"}

    def internal_green_report(self, body):
        return {"passed": self.fault != "gate", "reasons": [], "rules": []}

    def internal_green_promote(self, body):
        if self.fault != "no promotion":
            self.blue.append("green")

    def internal_green_rollback(self, body):
        if self.fault == "rollback loses copies":
            self.copies.clear()
        if self.fault not in {"no rollback", "no promotion"}:
            self.blue.pop()

    def internal_vectordb_collections_objects_find_by_ids(self, body):
        found = {f"{original}_{user}": (original, v) for (user, original), v in self.copies.items()}
        return [
            {
                "original_id": original,
                "parts": [
                    *({"vector": row, "is_average": False} for row in rows.tolist()),
                    {"vector": rows.mean(axis=0).tolist(), "is_average": True},
                ],
            }
            for original, rows in (found[i] for i in body["object_ids"] if i in found)
        ]


@pytest.fixture(scope="module")
def objects() -> list[StdlibObject]:
    return stdlib_objects(limit=1_000)


@pytest.fixture(autouse=True)
def small_team(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(green, "MEMBERS", 6)
    monkeypatch.setattr(green, "SESSIONS", 6)


def play(service: Service, objects: list[StdlibObject], seed: int = 7):
    vectors = [np.stack([embed(part) for part in found.parts]).astype(np.float32) for found in objects]
    show = Show(Console(file=io.StringIO()))
    return run(show, Api(service.http), objects, vectors, 2, 6, seed, LIMIT)


def test_a_service_that_learns_passes_and_two_runs_agree(objects):
    service = Service()
    first = play(service, objects)
    assert first["ok"], first["checks"]
    assert first["ndcg_after"]["mean"] > first["ndcg_before"]["mean"]
    assert first["drift"]["angle"] == pytest.approx(LIMIT, abs=1e-4)
    assert first["sessions"] == 2 * 6 * 4
    assert len(service.sessions) == 2 * 6 * 4 + 6 * 6
    scores = first["green"]["newcomer"]
    assert scores["promoted"] > scores["before"] == scores["rolled back"]
    assert first["copies"] == len(service.copies)
    assert first == play(Service(), objects)
    assert first["clicks"] != play(Service(), objects, seed=8)["clicks"]


def test_sessions_last_longer_than_a_bounce_and_event_ids_are_unique(objects):
    service = Service()
    play(service, objects)
    assert FIRST_CLICK >= 10
    for events in service.events.values():
        times = [event["created_at"] for event in events]
        assert times == sorted(times)
        assert len({event["event_id"] for event in events}) == len(events)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("learns nothing", "held-out nDCG@10 went up"),
        ("newcomer", "a new user sees what they saw before"),
        ("wrong profile", "with profiles it went up"),
        ("recommends again", "recommended is only what was not clicked yet"),
        ("knows newcomers", "a new user is recommended what is popular"),
        ("drift", "no copy drifted beyond the limit"),
        ("failed", "no session failed"),
        ("no promotion", "the promotion and the rollback took effect"),
        ("no rollback", "the promotion and the rollback took effect"),
        ("gate", "the gate let the green collection pass"),
        ("learns the wrong way", "promoted, a new member of the team finds more"),
        ("no rollback", "after the rollback everybody sees what they saw before"),
        ("rollback loses copies", "after the rollback everybody sees what they saw before"),
        ("towers gate", "the gate let the trained towers pass"),
        ("towers learn nothing", "trained, they find more of what members clicked next"),
        (
            "towers know newcomers",
            "who clicked much gets the towers' recommendations, a newcomer what is popular",
        ),
        ("towers stay", "items and model were promoted and rolled back together"),
    ],
)
def test_a_service_that_breaks_a_promise_fails(objects, fault, check):
    result = play(Service(fault), objects)
    assert not result["checks"][check]
    assert not result["ok"]


def test_a_build_that_fails_ends_the_demo_with_its_reason(objects):
    with pytest.raises(SystemExit, match="failed no reason"):
        play(Service("build fails"), objects)


def test_towers_whose_gate_fails_end_the_demo_with_its_reasons(objects):
    with pytest.raises(SystemExit, match="recall is worse"):
        play(Service("towers fail"), objects)


def test_an_error_of_the_service_ends_the_demo_with_its_words():
    transport = httpx.MockTransport(lambda request: httpx.Response(422, json={"detail": "no such thing"}))
    with pytest.raises(SystemExit, match="PUT /objects: 422 .*no such thing"):
        Api(httpx.Client(base_url="http://demo", transport=transport)).call("PUT", "/objects", {})


def test_the_report_marks_what_is_relevant_to_whom(objects):
    relevant = relevant_objects(stdlib_objects())
    result = play(Service(), objects)
    wanda = TWO_USERS[0]
    mine = min(relevant[wanda]["wait"], key=len)  # short enough for its column
    for newcomer, times in (mine, 2), ("something.else", 2):
        lists = {"everyone, before": [mine], f"{wanda}, after": [mine], f"{NEWCOMER}, after": [newcomer]}
        out = io.StringIO()
        report(Console(file=out, width=120), {**result, "lists": lists}, relevant)
        assert out.getvalue().count(mine) == times
        assert out.getvalue().count(f"{mine} *") == 1
        asked, _, _ = out.getvalue().partition("held-out nDCG")
        assert asked.count(NEWCOMER) == 1
        assert QUERY in out.getvalue()

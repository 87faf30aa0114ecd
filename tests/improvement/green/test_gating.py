"""The gate as an operator runs it: two real collections, a real log, and what it says of them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clickstream.improvement_queue import Owner
from clickstream.records import SessionEvent
from improvement.domain import SearchDomain
from improvement.erasure import erase_user
from improvement.errors import Conflict, Invalid, NotFound
from improvement.evaluation import paired_log
from improvement.evaluation.gate_page import page
from improvement.evaluation.metrics import ndcg
from improvement.evaluation.ranking import best_first, scores
from improvement.evidence import DAY, happened_at
from improvement.green.builds import Build, BuildState
from improvement.green.gating import run_gate
from improvement.green.reports import KEPT, GateReport
from improvement.green.settings import GateSettings
from improvement.improver import Improver
from improvement.objects import Object, Vectors
from improvement.profiles.settings import ProfileSettings
from improvement.wiring import Rooms
from tests.support import Gap, WordEncoder, make_object, make_objects, make_session

START, OBJECTS, SHOWN, USERS, DAYS = 1_700_000_000, 60, 12, 8, 10
QUERIES = ("red shoes", "blue hat", "green coat", "old red hat")
#: The last day is tested on.
TAUGHT_UNTIL = float(START + (DAYS - 1) * DAY - 1)
EASY = GateSettings(least_sessions=4, least_overlap=0.0, least_coverage=0.0)


@pytest.fixture
def domain(domain: SearchDomain) -> SearchDomain:
    return replace(domain, gate=EASY)


@pytest.fixture
def originals(rooms: Rooms, domain: SearchDomain) -> list[Object]:
    objects = [replace(o, payload={"title": f"No. {o.object_id}"}) for o in make_objects(domain, OBJECTS)]
    rooms.vectors.upsert(rooms.releases.blue(domain.name).collection_id, objects)
    return objects


@pytest.fixture
def log(rooms: Rooms, domain: SearchDomain, originals: list[Object]) -> np.ndarray:
    """Have everybody search once a day and click what lies in one direction; return that direction."""
    rng = np.random.default_rng(0)
    liked = np.random.default_rng(5).standard_normal(originals[0].parts.shape[1])
    sessions, events = [], []
    for day in range(DAYS):
        for user in range(USERS):
            shown = rng.choice(OBJECTS, SHOWN, replace=False).tolist()
            name, now = f"day{day} nr{user}", START + day * DAY + user
            ids = [f"o{number}" for number in shown]
            query = QUERIES[(day + user) % len(QUERIES)]
            one = make_session(name, f"secret{user}", ids, query, created_at=now, domain=domain.name)
            sessions.append((one, None))
            best = sorted(shown, key=lambda number: -float(liked @ originals[number].mean))[:2]
            for number in best:
                kind, at = {"event_type": "click"}, now + 30
                event = SessionEvent(event_id=f"o{number}", object_id=f"o{number}", created_at=at, **kind)
                events.append((name, event))
    rooms.clickstream.register_many(sessions)
    rooms.clickstream.push_events(events)
    return liked / np.linalg.norm(liked)


def built(rooms: Rooms, domain: SearchDomain, objects: Sequence[Object], **changes: Any) -> Build:
    """Make a green collection that holds these objects, and its finished build."""
    number = len(rooms.releases.list(domain.name))
    space = changes.pop("space", domain.encoder.model_id)
    build = Build(
        f"{number:032}", domain.name, f"{space}@{number}", space, True,
        state=BuildState.BUILT, taught_until=TAUGHT_UNTIL,
    )  # fmt: skip
    release = rooms.releases.create(
        domain.in_space(space), build.embedding_model_id, space=space, build=build.build_id, population=True
    )
    rooms.vectors.upsert(release.collection_id, objects)
    return replace(build, **changes)


def turned(o: Object, vectors: Vectors) -> Object:
    """Return an object as a green collection holds it: other vectors of the same content."""
    return replace(o, parts=np.asarray(vectors, np.float32), revision="turned", given=o.revision, raw=o.parts)


def asking(improving: Improver, domain: SearchDomain, **changes: Any) -> Improver:
    """Return the rooms with other thresholds."""
    changed = replace(domain, gate=replace(domain.gate, **changes))
    return replace(improving, domains={domain.name: changed})


def broken(report: GateReport) -> list[str]:
    return [rule["rule"] for rule in report.found["rules"] if not rule["passed"]]


@pytest.mark.usefixtures("log")
def test_a_green_that_holds_the_same_passes_and_nothing_differs(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: list[Object]
):
    counted: dict[str, int] = {}

    def progress(what: str, count: int) -> None:
        counted[what] = counted.get(what, 0) + count

    build = built(rooms, domain, originals)
    report = run_gate(
        asking(improving, domain, least_overlap=1.0, least_coverage=1.0), build, progress=progress
    )
    assert report.passed
    assert report.reasons == ()
    for name, one in report.found["metrics"]["differences"].items():
        assert (one["mean"], one["low"], one["high"], one["count"]) == (0, 0, 0, USERS), name
    assert report.found["searches"]["overlap@10"]["mean"] == 1
    assert report.found["objects"]["drift"]["max"] < 1e-6
    assert report.found["movers"] == {"gained": [], "lost": []}
    assert counted["read"] == USERS * DAYS
    assert (counted["judged"], counted["compared"]) == (USERS, OBJECTS)
    source = report.found["source"]
    assert (source["test"], source["judged"], source["users"]) == (USERS, USERS, USERS)
    assert source["judged_with_copies"] == USERS
    assert (report.green, report.blue) == (
        rooms.releases.get(domain.name, build.embedding_model_id).collection_id,
        rooms.releases.blue(domain.name).collection_id,
    )
    assert rooms.reports.latest(build.build_id).as_json() == report.as_json()


@pytest.mark.usefixtures("log")
def test_a_green_whose_vectors_are_shuffled_fails_and_says_why(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: list[Object]
):
    others = [*originals[7:], *originals[:7]]
    shuffled = [
        replace(o, parts=other.parts[:1].repeat(len(o.parts), axis=0))
        for o, other in zip(originals, others, strict=True)
    ]
    rooms_asking = asking(improving, domain, least_overlap=0.5)
    report = run_gate(rooms_asking, built(rooms, domain, shuffled))
    assert not report.passed
    assert {"overlap", "drift"} <= set(broken(report))
    assert {"ndcg@10", "mrr"} & set(broken(report))
    assert len(report.reasons) == len(broken(report))
    assert any("farthest" in reason for reason in report.reasons)
    assert report.found["movers"]["lost"]


def test_a_green_turned_towards_what_everybody_chose_is_better_and_the_searches_that_gained_are_shown(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: list[Object], log: np.ndarray
):
    asked = domain.prepare_vectors(domain.embed(QUERIES).sum(axis=0))
    better = [
        turned(o, domain.prepare_vectors(o.parts + 0.25 * np.sign(o.mean @ log) * asked)) for o in originals
    ]
    build = built(rooms, domain, better, taught_until=START + 4.0 * DAY - 1)
    report = run_gate(asking(improving, domain, most_drift=0.5), build)  # means move farther than rows
    assert report.passed, report.reasons
    assert report.found["metrics"]["differences"]["plain_ndcg@10"]["low"] > 0
    drift = report.found["objects"]["drift"]
    assert 0.05 < drift["mean"] <= drift["p95"] <= drift["max"] < 0.5
    assert sum(drift["counts"]) == OBJECTS
    gained = report.found["movers"]["gained"]
    assert 0 < len(gained) <= len(QUERIES)
    first = gained[0]
    assert first["query"] in QUERIES
    assert first["change"] == pytest.approx(first["ndcg_after"] - first["ndcg_before"])
    assert len(first["before"]) == len(first["after"]) == 10
    assert first["before"] != first["after"]
    assert sum(one["clicked"] for one in first["after"]) in (1, 2)
    assert all(one["title"] == f"No. {one['object_id']}" for one in first["before"])


def test_a_session_that_taught_is_never_tested_on_and_none_that_is_tested_teaches(
    rooms: Rooms, improving: Improver, domain: SearchDomain, log: np.ndarray, originals: list[Object],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    seen: list[tuple[set[str], set[str]]] = []
    learn = paired_log.learn

    def spy(
        vectors: Any, collection: str, domain: Any, taught: Any, test: Any, *rest: Any, **more: Any
    ) -> Any:
        for one in test:
            assert happened_at(one.session) > until
        first = min(happened_at(one.session) for one in test)
        assert all(happened_at(one.session) < first for one in taught)
        seen.append(tuple({one.session.session_id for one in of} for of in (taught, test)))
        return learn(vectors, collection, domain, taught, test, *rest, **more)

    monkeypatch.setattr(paired_log, "learn", spy)
    build = built(rooms, domain, originals)
    # the second one: exactly when a session happened, which is the last that taught
    for until, tested in ((TAUGHT_UNTIL, USERS), (START + (DAYS - 3) * DAY + 2.0, 3 * USERS - 3)):
        seen.clear()
        report = run_gate(improving, replace(build, taught_until=until))
        assert report.found["source"]["taught_until"] == until
        assert len(seen) == 2  # once for each side
        assert seen[0] == seen[1]
        assert not seen[0][0] & seen[0][1]
        assert (len(seen[0][0]), len(seen[0][1])) == (USERS * DAYS - tested, tested)


@pytest.mark.usefixtures("log")
def test_what_taught_the_blue_collection_is_not_tested_on_either(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: list[Object]
):
    first = rooms.builds.ask(domain.name, "words-v1@first", "words-v1", True, "ann")
    token = rooms.builds.claim(first, 60)
    assert token is not None
    later = TAUGHT_UNTIL + 4  # three sessions of the last day
    rooms.builds.save(first.build_id, token, 60, taught_until=later)
    release = rooms.releases.create(
        domain, "words-v1@first", space="words-v1", build=first.build_id, population=True
    )
    rooms.vectors.upsert(release.collection_id, originals)
    rooms.releases.set_blue(domain.name, "words-v1@first")
    source = run_gate(improving, built(rooms, domain, originals)).found["source"]
    assert (source["taught_until"], source["test"]) == (later, USERS - 4)


@pytest.mark.usefixtures("log")
def test_without_anything_that_taught_the_newest_share_is_tested_on_and_at_most_so_many(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: list[Object]
):
    build = built(rooms, domain, originals, taught_until=None)
    assert run_gate(asking(improving, domain, holdout=0.25), build).found["source"]["test"] == 20
    told = run_gate(asking(improving, domain, holdout=0.25, sessions=6), build).found["source"]
    assert (told["test"], told["train"]) == (6, USERS * DAYS - 6)
    told = run_gate(asking(improving, domain, holdout=0.5, history=10), build).found["source"]
    assert (told["sessions_read"], told["test"]) == (10, 5)


@pytest.mark.usefixtures("log")
def test_too_few_sessions_are_not_enough_however_good_they_look(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: list[Object]
):
    report = run_gate(asking(improving, domain, least_sessions=USERS + 1), built(rooms, domain, originals))
    assert broken(report) == ["sessions"]
    assert report.reasons == (f"{USERS} sessions could be judged; at least {USERS + 1} must be",)


def test_an_empty_log_fails_with_a_report_and_no_error(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: list[Object]
):
    report = run_gate(improving, built(rooms, domain, originals))
    assert broken(report) == ["sessions", "ndcg@10", "mrr", "overlap", "coverage"]
    assert "could not be measured" in report.reasons[1]
    assert page(report.as_json())
    rooms.vectors.delete(report.blue, [o.object_id for o in originals])
    assert "missing" in broken(run_gate(improving, built(rooms, domain, [])))


@pytest.mark.usefixtures("log")
def test_a_report_names_no_user_is_json_and_the_same_for_the_same_seed(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: list[Object]
):
    others = [turned(o, other.parts[:1]) for o, other in zip(originals, originals[::-1], strict=True)]
    build = built(rooms, domain, others)
    first, again = run_gate(improving, build), run_gate(improving, build)
    assert first.found == again.found
    text = json.dumps(first.as_json(), allow_nan=False)
    assert "secret" not in text
    assert page(first.as_json()) == page({**again.as_json(), "report_id": first.report_id,
                                          "created_at": first.created_at})  # fmt: skip
    third = run_gate(improving, build, seed=1)
    assert third.found["metrics"] != first.found["metrics"]
    assert third.found["seed"] == 1


def test_a_report_is_bounded_whatever_ids_titles_and_queries_are(
    rooms: Rooms, improving: Improver, domain: SearchDomain
):
    names = [f"{n:03}" + "\U0001f600" * 500 for n in range(20)]
    rng = np.random.default_rng(0)
    objects = [
        make_object(name, domain.prepare_vectors(rng.standard_normal((1, 16))), payload={"title": name})
        for name in names
    ]
    blue = rooms.releases.blue(domain.name).collection_id
    rooms.vectors.upsert(blue, objects)
    for number in range(40):
        query = f"<script>{number}" + "\U0001f600" * 5_000
        one = make_session(f"s{number}", f"u{number}", names, query, created_at=START + number,
                           domain=domain.name)  # fmt: skip
        rooms.clickstream.register(one)
        event = SessionEvent(event_id="1", object_id=names[number % 20], created_at=START + number + 60)
        rooms.clickstream.push_events([(one.session_id, event)])
    green = [turned(o, other.parts) for o, other in zip(objects, objects[::-1], strict=True)]
    report = run_gate(improving, built(rooms, domain, green[:15], taught_until=START - 1.0))
    assert len(report.found["movers"]["gained"]) == len(report.found["movers"]["lost"]) == 10
    assert len(json.dumps(report.as_json())) < 1_000_000
    assert "<script>" not in page(report.as_json())


def asked_by(rooms: Rooms, domain: SearchDomain, user: str, query: str) -> None:
    """Have somebody search and click on the last day."""
    now, ids = START + (DAYS - 1) * DAY + 500, [f"o{n}" for n in range(SHOWN)]
    one = make_session(f"of {user}", user, ids, query, created_at=now, domain=domain.name)
    rooms.clickstream.register(one)
    event = SessionEvent(event_id="e", object_id="o3", created_at=now + 30, event_type="click")
    rooms.clickstream.push_events([(one.session_id, event)])


def shuffled_by_lot(originals: list[Object]) -> list[Object]:
    rng = np.random.default_rng(3)
    return [turned(o, rng.standard_normal(o.parts.shape)) for o in originals]


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize("when", ["after", "before it is stored", "once it is stored"])
def test_what_an_erased_user_searched_for_is_in_no_report(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: list[Object], when: str
):
    asked_by(rooms, domain, "ann", "my name is Ann Smith")
    asked_by(rooms, domain, "bob", "bobs own words")
    build = built(rooms, domain, shuffled_by_lot(originals))

    def erase() -> None:
        erase_user(rooms, "ann")

    worker = asking(improving, domain)
    if when == "after":
        assert "Ann Smith" in json.dumps(run_gate(worker, build).as_json())
        erase()
    else:
        gap: Any = Gap(rooms.reports, "save", erase, before=when.startswith("before"))
        returned = run_gate(replace(worker, reports=gap), build)
        assert "Ann Smith" not in json.dumps(returned.as_json())
    stored = rooms.reports._reports.find_one({"build": build.build_id})
    assert "Ann Smith" not in json.dumps(stored)
    shown = json.dumps(rooms.reports.latest(build.build_id).as_json())
    assert "Ann Smith" not in shown
    assert "bobs own words" in shown
    assert Owner(domain.name, "bob").key not in shown
    assert '"bob"' not in json.dumps(stored)


def test_only_the_newest_reports_of_a_domain_are_kept(rooms: Rooms):
    times = iter(range(100))
    rooms.reports._clock = lambda: float(next(times))
    other = rooms.reports.save("shop", "b", "g", "w", [], {})
    made = [rooms.reports.save("things", "b", "g", "w", [], {}) for _ in range(KEPT + 2)]
    for old in made[:2]:
        with pytest.raises(NotFound):
            rooms.reports.get(old.report_id)
    for kept in (other, *made[2:]):
        assert rooms.reports.get(kept.report_id) == kept


@pytest.mark.usefixtures("log")
def test_objects_that_green_lacks_are_counted_and_found_nowhere(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: list[Object]
):
    clicked = {e.object_id for s in rooms.clickstream.history(domain.name, limit=USERS) for e in s.events}
    kept = [o for o in originals if o.object_id not in clicked]
    asked = asking(improving, domain, margin=1.0, most_missing=0.0)
    report = run_gate(asked, built(rooms, domain, kept))
    assert broken(report) == ["missing"]
    assert report.found["objects"]["missing"] == len(clicked)
    assert report.found["source"]["judged"] == USERS
    assert report.found["metrics"]["green"]["ndcg@10"]["mean"] == 0
    assert report.found["metrics"]["green"]["mrr"]["mean"] == 0
    assert report.found["metrics"]["blue"]["mrr"]["mean"] > 0
    assert run_gate(
        asking(improving, domain, margin=1.0, most_missing=1.0), built(rooms, domain, kept)
    ).passed


@pytest.mark.usefixtures("log")
def test_an_older_version_counts_as_missing_but_not_what_writers_are_just_bringing(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: list[Object]
):
    old = replace(originals[0], revision="old")
    build = built(rooms, domain, [old, *originals[2:]])
    report = run_gate(improving, build)
    assert broken(report) == ["missing"]
    assert sorted(report.found["objects"]["missing_examples"]) == ["o0", "o1"]
    green = report.green

    def bring() -> None:
        rooms.vectors.upsert(green, originals[:2])

    gap = Gap(rooms.vectors, "page", bring)
    gap_before = Gap(gap, "revisions", lambda: None)
    report = run_gate(replace(improving, vectors=gap_before), replace(build, build_id="c" * 32))
    assert gap.acted
    assert report.passed, report.reasons


@pytest.mark.usefixtures("log")
def test_another_space_is_asked_in_its_own_vectors_and_drift_is_not_its_rule(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: list[Object]
):
    info = replace(domain.search_index_info, dimensions=24)
    other = replace(
        domain, encoder=WordEncoder(24, "words-v2"), search_index_info=info,
        adjuster=replace(domain.adjuster, search_index_info=info),
    )  # fmt: skip
    both = replace(domain, variants=(other,))
    rng = np.random.default_rng(3)
    shapes = [
        replace(o, parts=other.prepare_vectors(rng.standard_normal((len(o.parts), 24)).astype(np.float32)),
                revision="embedded", given=o.revision)
        for o in originals
    ]  # fmt: skip
    report = run_gate(
        replace(improving, domains={domain.name: both}), built(rooms, both, shapes, space="words-v2")
    )
    assert report.found["source"]["judged"] == USERS
    assert report.found["objects"] | {"drift": None} == report.found["objects"]
    assert report.found["objects"]["missing"] == 0
    assert "drift" not in [rule["rule"] for rule in report.found["rules"]]
    assert report.found["searches"]["queries"] == len(QUERIES)
    assert "another embedding space" in page(report.as_json())


@pytest.mark.usefixtures("log")
def test_a_query_that_only_the_new_encoder_cannot_embed_is_a_search_that_finds_nothing(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: list[Object]
):
    class Picky(WordEncoder):
        def encode(self, texts: Sequence[str]) -> Vectors:
            if any("hat" in text for text in texts):
                raise RuntimeError("no hats")
            return super().encode(texts)

    picky = replace(domain, encoder=Picky(model_id="picky"))
    rooms_asking = replace(improving, domains={domain.name: replace(domain, variants=(picky,))})
    report = run_gate(rooms_asking, built(rooms, picky, originals, space="picky"))
    assert report.found["source"]["judged"] == USERS
    lost = {one["query"]: one for one in report.found["movers"]["lost"] if "hat" in one["query"]}
    assert len(lost) == 2
    assert all(one["ndcg_after"] == 0 and one["after"] == [] for one in lost.values())
    report = run_gate(replace(improving, domains={domain.name: picky}), built(rooms, picky, originals))
    assert report.found["source"]["not_judged"] == {"the encoder failed on its query": USERS // 2}


@pytest.mark.usefixtures("log")
def test_propensities_and_profiles_play_their_part_where_the_domain_has_them(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: list[Object]
):
    rooms.propensities.save(domain.name, (1.0, 0.5, 0.25), 99, START)
    profiled = replace(domain, profiles=ProfileSettings(min_interactions=3, interests=1, search_weight=0.5))
    build = built(rooms, domain, originals)
    report = run_gate(replace(improving, domains={domain.name: profiled}), build)
    assert report.found["source"]["judged_with_profile"] == USERS
    assert {"ips_ndcg@10", "ips_mrr", "plain_ips_mrr"} <= report.found["metrics"]["differences"].keys()
    without = run_gate(improving, build)
    assert without.found["source"]["judged_with_profile"] == 0
    seen, alone = (of.found["metrics"]["blue"]["ndcg@10"]["mean"] for of in (report, without))
    assert seen != alone
    plain, same = (of.found["metrics"]["blue"]["plain_ndcg@10"]["mean"] for of in (report, without))
    assert plain == same


@pytest.mark.usefixtures("log")
def test_copies_are_made_at_the_rate_at_which_the_domain_learns_now(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: list[Object],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    rates: list[float] = []
    learn = paired_log.learn

    def spy(vectors: Any, collection: str, domain: Any, *rest: Any, **more: Any) -> Any:
        rates.append(domain.adjuster.adjustment_rate)
        return learn(vectors, collection, domain, *rest, **more)

    monkeypatch.setattr(paired_log, "learn", spy)
    rooms.learning.resume(domain.name, "ann", "after an alarm", 0.5)
    run_gate(improving, built(rooms, domain, originals))
    assert rates == [domain.adjuster.adjustment_rate / 2] * 2


@pytest.mark.usefixtures("log")
def test_users_whose_copies_cannot_be_made_go_without_and_the_others_have_theirs(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: list[Object]
):
    class Broken:
        max_drift = 0.3

        def adjust(self, batch: Any) -> Any:
            if any(user == "secret3" for user, _ in batch.keys):
                raise RuntimeError("secret3 breaks it")
            return domain.adjuster.adjust(batch)

    rooms_asking = replace(improving, domains={domain.name: replace(domain, adjuster=Broken())})
    report = run_gate(rooms_asking, built(rooms, domain, originals))
    assert report.found["source"]["judged"] == USERS
    assert report.found["source"]["judged_with_copies"] == USERS - 1
    assert "secret3" not in json.dumps(report.as_json())


@pytest.mark.usefixtures("log")
def test_nothing_is_written_but_the_report(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: list[Object]
):
    build = built(rooms, domain, originals)
    release = rooms.releases.get(domain.name, build.embedding_model_id)
    users = [f"secret{n}" for n in range(USERS)]

    def state() -> Any:
        sessions = {s.session_id: s for s in rooms.clickstream.history(domain.name, limit=999)}
        collections = [
            (rooms.vectors.copies(c, users), rooms.vectors.revisions(c, [o.object_id for o in originals]))
            for c in (rooms.releases.blue(domain.name).collection_id, release.collection_id)
        ]
        return sessions, collections, rooms.queue.counts(), rooms.releases.list(domain.name)

    before = state()
    run_gate(improving, build)
    assert state() == before


def test_what_cannot_be_gated_is_refused(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: list[Object]
):
    build = built(rooms, domain, originals)
    with pytest.raises(Conflict, match="is building: only one that is built"):
        run_gate(improving, replace(build, state=BuildState.BUILDING))
    with pytest.raises(NotFound, match="'elsewhere' is not configured"):
        run_gate(improving, replace(build, domain="elsewhere"))
    with pytest.raises(NotFound, match="no collection for embedding model 'gone'"):
        run_gate(improving, replace(build, embedding_model_id="gone"))
    rooms.releases.set_blue(domain.name, build.embedding_model_id)
    with pytest.raises(Conflict, match="serves already"):
        run_gate(improving, build)


def test_the_newest_report_of_a_build_is_found_and_an_unknown_one_is_not(rooms: Rooms):
    rooms.reports.ensure_indexes()
    rooms.reports.ensure_indexes()
    first, second = (rooms.reports.save("things", "b", "g", "w", [why], {"n": 1}) for why in ("bad", "worse"))
    assert rooms.reports.latest("b") == second != first == rooms.reports.get(first.report_id)
    assert (second.passed, second.reasons, second.as_json()["n"]) == (False, ("worse",), 1)
    for ask, unknown in ((rooms.reports.get, "x"), (rooms.reports.latest, "another")):
        with pytest.raises(NotFound, match=f"no gate report .*{unknown}"):
            ask(unknown)


Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, domain: SearchDomain, originals: list[Object]) -> Folder:
    """Write a data set of the originals, and of what two users want of them."""

    def write(**changes: Any) -> Path:
        ids = [o.object_id for o in originals]
        content: dict[str, Any] = {
            "objects.jsonl": [{"object_id": o.object_id, "parts": len(o.parts)} for o in originals],
            "queries.jsonl": [{"query_id": q, "text": q} for q in QUERIES],
            "sessions.jsonl": [
                {"user_id": user, "query_id": q, "split": "test"} for user in ("ann", "bob") for q in QUERIES
            ],
            "relevance.jsonl": [
                {"user_id": user, "query_id": q, "object_ids": ids[n::9]}
                for n, user in enumerate(("ann", "bob")) for q in QUERIES
            ],
            "topics.jsonl": [{"query_id": q, "object_ids": ids[::2]} for q in QUERIES[:2]],
        }  # fmt: skip
        content |= {name.replace("_", "."): of for name, of in changes.items() if name.endswith("jsonl")}
        for name, lines in content.items():
            if lines is not None:
                (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        np.save(
            tmp_path / "objects.npy", changes.get("objects", np.concatenate([o.parts for o in originals]))
        )
        np.save(tmp_path / "queries.npy", changes.get("queries", domain.encoder.encode(QUERIES)))
        return tmp_path

    return write


def test_a_data_set_is_asked_of_both_collections_by_hand(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: list[Object], folder: Folder
):
    green = [turned(o, o.parts[::-1] + 0.3) for o in originals[:-5]]
    report = run_gate(improving, built(rooms, domain, green), dataset=folder())
    source = report.found["source"]["dataset"]
    assert source["queries"] == ["vectors", "vectors"]
    assert (source["objects"], source["objects_missing"], source["asked"]) == (OBJECTS, [0, 5], 8)
    queries = domain.embed(QUERIES)
    stored = [rooms.vectors.find(c, [o.object_id for o in originals]) for c in (report.blue, report.green)]
    for side, held in zip(("blue", "green"), stored, strict=True):
        gains, ranks, topics = [], [], []
        for wanted in ({f"o{n}" for n in range(start, OBJECTS, 9)} for start in (0, 1)):
            for number, query in enumerate(queries):
                objects = list(held.values())
                scored = scores([query[None, :]], [o.parts for o in objects], "cosine")[0]
                order = [objects[place].object_id for place in best_first(scored, len(objects))]
                gains.append(ndcg([o in wanted for o in order[:10]], len(wanted)))
                ranks.append(1 / (1 + min(order.index(o) for o in wanted if o in order)))
                if number < 2:
                    topics.append(np.mean([int(o[1:]) % 2 == 0 for o in order[:10]]))
        found = report.found["metrics"][side]
        assert found["dataset_ndcg@10"]["mean"] == pytest.approx(np.mean(gains), abs=1e-6)
        assert found["dataset_mrr"]["mean"] == pytest.approx(np.mean(ranks), abs=1e-6)
        assert found["dataset_topical@10"]["mean"] == pytest.approx(np.mean(topics), abs=1e-6)
    assert {"dataset_ndcg@10", "dataset_mrr", "dataset_topical@10"} <= {
        rule["rule"] for rule in report.found["rules"]
    }


def test_a_data_set_of_another_space_is_asked_by_its_texts_and_refused_without(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: list[Object], folder: Folder
):
    build = built(rooms, domain, originals)
    rng = np.random.default_rng(9)
    rows = sum(len(o.parts) for o in originals)
    alien: dict[str, Any] = {
        "objects": rng.standard_normal((rows, 16)),
        "queries": rng.standard_normal((4, 16)),
    }
    by_texts = run_gate(improving, build, dataset=folder(**alien))
    assert by_texts.found["source"]["dataset"]["queries"] == ["texts", "texts"]
    by_vectors = run_gate(improving, build, dataset=folder())
    assert (
        by_texts.found["metrics"]["blue"]["dataset_mrr"] == by_vectors.found["metrics"]["blue"]["dataset_mrr"]
    )
    wider = {"objects": rng.standard_normal((rows, 20)), "queries": rng.standard_normal((4, 20))}
    assert (
        run_gate(improving, build, dataset=folder(**wider)).found["source"]["dataset"]["queries"][0]
        == "texts"
    )
    mute = [{"query_id": q, "text": 7} for q in QUERIES]
    with pytest.raises(Invalid, match="queries.npy: expected vectors of the embedding space 'words-v1'"):
        run_gate(improving, build, dataset=folder(**alien, queries_jsonl=mute))


def test_a_data_set_that_tells_nothing_does_not_pass(
    rooms: Rooms, improving: Improver, domain: SearchDomain, originals: list[Object], folder: Folder
):
    build = built(rooms, domain, originals)
    report = run_gate(improving, build, dataset=folder(relevance_jsonl=[], topics_jsonl=[]))
    assert {"dataset_ndcg@10", "dataset_mrr"} <= set(broken(report))
    assert "dataset_topical@10" not in {rule["rule"] for rule in report.found["rules"]}
    with pytest.raises(Invalid, match="sessions.jsonl"):
        run_gate(improving, build, dataset=folder(sessions_jsonl=[]))
    unknown = [{"object_id": f"x{o.object_id}", "parts": len(o.parts)} for o in originals]
    with pytest.raises(Invalid, match="none of its objects are in the collections"):
        run_gate(improving, build, dataset=folder(objects_jsonl=unknown, relevance_jsonl=[], topics_jsonl=[]))

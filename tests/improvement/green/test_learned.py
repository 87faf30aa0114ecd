"""Learning from a domain's log what everybody chose."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pymongo.database import Database

from clickstream.records import QueryVector, RegisteredSession, Session, SessionEvent
from clickstream.store import ClickstreamStore
from improvement.domain import SearchDomain
from improvement.evidence import DAY, GOING_ON, EvidenceWeights
from improvement.green.learned import Learned, learn
from improvement.green.settings import GateSettings, PopulationSettings
from improvement.objects import Vectors
from improvement.selection import Selection, SessionSelector
from tests.support import Clock, WordEncoder, make_domain, make_session

START = 1_700_000_000
SHOWN = ("o1", "o2", "o3", "o4", "o5")
QUERY = "red shoes"


@pytest.fixture
def store(database: Database[Any]) -> ClickstreamStore:
    store = ClickstreamStore(database, clock=Clock(START + 100 * DAY))
    store.ensure_indexes()
    return store


@pytest.fixture
def domain() -> SearchDomain:
    settings = PopulationSettings(max_drift=0.2, prior=5, strongest=2, per_user=1, away=1)
    gate = GateSettings(holdout=0.1)
    return make_domain(evidence=EvidenceWeights(), population=settings, gate=gate)


def visit(
    store: ClickstreamStore, number: int, user: str | None, clicked: Sequence[str], *, query: str = QUERY,
    kind: str = "click", after: int = 30, vector: QueryVector | None = None, shown: Sequence[str] = SHOWN,
) -> None:  # fmt: skip
    """Register one session, one a minute, and what was clicked in it."""
    now = START + 60 * number
    session: Session = make_session(f"s{number}", user, shown, query, created_at=now, domain="things")
    store.register(session, vector)
    events = [
        SessionEvent(event_id=f"{kind} {o}", object_id=o, event_type=kind, created_at=now + after)
        for o in clicked
    ]
    store.push_events([(f"s{number}", event) for event in events])


def crowd(store: ClickstreamStore, users: int = 20, clicked: Sequence[str] = ("o2",), first: int = 0) -> None:
    """Have users search for the same, and click the same."""
    for number in range(first, first + users):
        visit(store, number, f"u{number}", clicked)


def amount(learned: Learned, object_id: str) -> float:
    """Return how far an object is turned, 0 if it is not."""
    found = dict(zip(learned.object_ids, learned.turns.amounts.tolist(), strict=True))
    return float(found.get(object_id, 0.0))


def target(learned: Learned, object_id: str) -> np.ndarray:
    return learned.turns.targets[learned.object_ids.index(object_id)]


def test_what_many_choose_is_turned_to_the_query_and_what_they_pass_over_away(
    store: ClickstreamStore, domain: SearchDomain
):
    crowd(store)
    learned = learn(store, domain)
    assert amount(learned, "o2") > 0.05
    assert set(learned.object_ids) == set(SHOWN)
    assert all(amount(learned, o) < -0.05 for o in SHOWN if o != "o2")
    for object_id in SHOWN:
        np.testing.assert_allclose(target(learned, object_id), domain.embed([QUERY])[0], rtol=1e-5)
    assert learned.turns.targets.dtype == np.float32
    assert (learned.read, learned.sessions, learned.taught_until) == (20, 18, START + 60 * 17)


def test_only_what_moves_is_told(store: ClickstreamStore, domain: SearchDomain):
    crowd(store)
    visit(store, -1, "loner", ["x1"], shown=("x1", "x2"))
    assert set(learn(store, domain).object_ids) == set(SHOWN)


def test_the_newest_share_teaches_nothing_whenever_it_was_registered(
    store: ClickstreamStore, domain: SearchDomain
):
    for number in range(19, -1, -1):  # the newest is registered first
        visit(store, number, f"u{number}", ["o2"] if number < 10 else ["o3"])
    learned = learn(store, replace(domain, gate=GateSettings(holdout=0.5)))
    assert amount(learned, "o3") < 0 < amount(learned, "o2")
    assert (learned.sessions, learned.taught_until) == (10, START + 60 * 9)


def test_sessions_of_the_same_second_are_all_held_out_or_none(store: ClickstreamStore, domain: SearchDomain):
    for number in range(20):
        session = make_session(f"s{number}", f"u{number}", SHOWN, created_at=START, domain="things")
        store.register(session)
        event = SessionEvent(event_id="e", object_id="o1", created_at=START + 30)
        store.push_events([(f"s{number}", event)])
    learned = learn(store, domain)
    assert (learned.taught_until, learned.sessions, learned.object_ids) == (None, 0, ())
    visit(store, -1, "early", ["o2"])
    learned = learn(store, domain)
    assert (learned.taught_until, learned.sessions) == (START - 60, 1)


@pytest.mark.parametrize("users", [0, 1])
def test_too_little_log_teaches_nothing(store: ClickstreamStore, domain: SearchDomain, users: int):
    crowd(store, users)
    learned = learn(store, domain)
    assert (learned.read, learned.sessions, learned.taught_until) == (users, 0, None)
    assert learned.object_ids == ()
    assert learned.turns.targets.shape == (0, 16)
    assert learned.turns.amounts.shape == (0,)


def test_a_later_click_on_an_old_list_is_the_future(store: ClickstreamStore, domain: SearchDomain):
    crowd(store, 100)
    before = learn(store, domain)
    for number in range(5):  # after an hour, when the held-out sessions had begun
        event = SessionEvent(event_id="late", object_id="o4", created_at=START + 60 * 95 + number)
        store.push_events([(f"s{number}", event)])
    learned = learn(store, domain)
    assert learned.sessions == before.sessions
    np.testing.assert_array_equal(learned.turns.amounts, before.turns.amounts)
    for number in range(5):  # after an hour, but before the split
        event = SessionEvent(event_id="in time", object_id="o4", created_at=START + 60 * 80 + number)
        store.push_events([(f"s{number}", event)])
    assert amount(learn(store, domain), "o4") > amount(before, "o4")


def test_a_session_that_was_only_clicked_later_does_not_count(store: ClickstreamStore, domain: SearchDomain):
    crowd(store, 100)
    visit(store, -5, "later", ["o4"], after=GOING_ON + 60 * 100)
    assert learn(store, domain).sessions == 90


def test_a_session_going_on_at_the_split_counts_whole(store: ClickstreamStore, domain: SearchDomain):
    for number in range(20):
        visit(store, number, f"u{number}", ["o2"], after=GOING_ON)
    assert learn(store, domain).sessions == 18


def test_who_is_unknown_marked_irrelevant_or_gone_at_once_teaches_nothing(
    store: ClickstreamStore, domain: SearchDomain
):
    crowd(store, 10)
    for number, (user, after) in enumerate([(None, 30), ("bounced", 3), ("marked", 30)], start=-10):
        visit(store, number, user, ["o4"], after=after)
    store.mark_irrelevant("s-8")
    learned = learn(store, domain)
    assert (learned.read, learned.sessions) == (13, 9)

    class Anybody(SessionSelector):
        def select(self, session: RegisteredSession) -> Selection:
            return Selection()

    assert learn(store, replace(domain, selector=Anybody())).sessions == 11  # still without the unknown


def test_one_account_however_often_it_clicks_turns_nothing_to_anything(
    store: ClickstreamStore, domain: SearchDomain
):
    crowd(store)
    before = learn(store, domain)
    for number in range(-60, 0):
        visit(store, number, "attacker", ["o4", "x1"], query="blue hat", shown=("x1", "o4", "o2"))
    after = learn(store, domain)
    assert amount(after, "x1") == 0
    assert abs(amount(after, "o4") - amount(before, "o4")) < 0.03
    np.testing.assert_allclose(target(after, "o2"), target(before, "o2"), rtol=1e-5)


def test_a_dislike_counts_against_what_is_chosen(store: ClickstreamStore, domain: SearchDomain):
    crowd(store)
    before = amount(learn(store, domain), "o2")
    for number in range(-8, 0):
        visit(store, number, f"v{number}", ["o2"], kind="not_interested")
    assert amount(learn(store, domain), "o2") < before


def test_known_vectors_of_the_domains_model_are_used_and_each_other_text_is_embedded_once(
    store: ClickstreamStore, domain: SearchDomain
):
    encoder = WordEncoder()
    mine = replace(domain, encoder=encoder)
    known = QueryVector(model_id="words-v1", vectors=tuple(map(tuple, domain.embed(["blue hat"]).tolist())))
    other = QueryVector(model_id="another", vectors=((1.0, 2.0),))
    for number in range(30):
        vector = (known, other, None)[number % 3]
        visit(store, number, f"u{number}", ["o2"], query=f"text {number % 3}", vector=vector)
    visit(store, 99, "newest", ["o1"], query="held out")
    learned = learn(store, replace(mine, gate=GateSettings(holdout=1e-6)))
    assert [sorted(call) for call in encoder.calls] == [["text 1", "text 2"]]
    wanted = domain.embed(["blue hat", "text 1", "text 2"])
    np.testing.assert_allclose(target(learned, "o1"), wanted.mean(axis=0), atol=0.02)


def test_a_text_that_cannot_be_embedded_and_a_broken_vector_fail_alone(
    store: ClickstreamStore, domain: SearchDomain
):
    crowd(store)
    bad = [
        QueryVector.model_construct(model_id="words-v1", vectors=rows)
        for rows in (((1.0, 2.0),), (), ((float("nan"),) * 16,), ((1e300,) * 16,))
    ]
    for number, vector in enumerate([None, *bad], start=-10):
        visit(store, number, f"v{number}", ["o4"], query="explode", vector=vector)
    visit(store, -20, "silent", ["o4"], query="")
    before = learn(store, domain)
    assert (before.read, before.sessions) == (26, 18)
    assert amount(before, "o4") < 0


def test_a_selector_that_breaks_on_a_session_loses_that_one(store: ClickstreamStore, domain: SearchDomain):
    class Moody(SessionSelector):
        def select(self, session: RegisteredSession) -> Selection:
            if session.user_id == "u3":
                raise RuntimeError("not today")
            return super().select(session)

    crowd(store)
    assert learn(store, replace(domain, selector=Moody())).sessions == 17


def test_weights_and_vectors_that_are_not_numbers_lose_their_sessions_alone(
    store: ClickstreamStore, domain: SearchDomain
):
    class Odd(EvidenceWeights):
        def of(self, session: RegisteredSession, propensities: Sequence[float] = ()) -> dict[str, float]:
            said = super().of(session, propensities)
            return dict.fromkeys(said, float("nan")) if session.user_id == "u3" else said

    def prepare(vectors: Vectors) -> Vectors:
        prepared = vectors.copy()
        prepared[(vectors == domain.encoder.encode(["blue hat"])).all(axis=-1)] = np.nan
        return prepared

    crowd(store)
    visit(store, -1, "v", ["o4"], query="blue hat")
    assert learn(store, replace(domain, evidence=Odd(), prepare=prepare)).sessions == 17


def test_low_places_are_made_up_for_where_the_domain_asks(store: ClickstreamStore, domain: SearchDomain):
    for number in range(40):
        visit(store, number, f"u{number}", ["o1"] if number % 4 else ["o5"])
    propensities = (1.0, 0.8, 0.6, 0.4, 0.3)
    inverse = replace(domain, evidence=EvidenceWeights(max_inverse_propensity=10.0))
    plain = learn(store, domain)
    by_impressions, by_choices = learn(store, domain, propensities), learn(store, inverse, propensities)
    gaps = [amount(one, "o1") - amount(one, "o5") for one in (plain, by_impressions, by_choices)]
    assert gaps[0] > 0.1
    assert max(gaps[1:]) < gaps[0] / 2


def test_old_choices_fade_where_the_domain_says_so(store: ClickstreamStore, domain: SearchDomain):
    crowd(store, 40, ["o2"])
    crowd(store, 40, ["o3"], first=5 * DAY // 60)
    fading = replace(domain, evidence=EvidenceWeights(half_life_days=1.0))
    learned, faded = learn(store, domain), learn(store, fading)
    assert amount(learned, "o2") > 0.02
    assert amount(faded, "o2") < amount(learned, "o2")
    assert amount(faded, "o3") > amount(learned, "o3")


def test_only_the_newest_sessions_are_read(store: ClickstreamStore, domain: SearchDomain):
    for number in range(20):
        store._clock.now += 1  # type: ignore[attr-defined]
        visit(store, number, f"u{number}", ["o3"] if number < 10 else ["o2"])
    few = replace(domain, population=replace(domain.population, sessions=10))
    learned = learn(store, few)
    assert (learned.read, learned.sessions) == (10, 9)
    assert amount(learned, "o3") < 0 < amount(learned, "o2")


def test_the_same_log_teaches_the_same_to_the_bit(store: ClickstreamStore, domain: SearchDomain):
    crowd(store)
    first, again = learn(store, domain), learn(store, domain)
    assert first.object_ids == again.object_ids
    assert first.turns.targets.tobytes() == again.turns.targets.tobytes()
    assert first.turns.amounts.tobytes() == again.turns.amounts.tobytes()


def test_progress_is_told_and_can_end_it(store: ClickstreamStore, domain: SearchDomain):
    crowd(store, 130)
    told: list[tuple[str, int]] = []
    learn(store, domain, progress=lambda what, count: told.append((what, count)))
    assert told == [("read", 100), ("read", 30), ("embedded", 1)]

    def lost(what: str, count: int) -> None:
        raise ConnectionError("somebody else has it")

    with pytest.raises(ConnectionError):
        learn(store, domain, progress=lost)

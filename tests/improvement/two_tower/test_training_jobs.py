import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pymongo import MongoClient
from pymongo.database import Database

from clickstream.actions import ActionStore
from clickstream.improvement_queue import ImprovementQueue
from clickstream.records import Action
from clickstream.store import ClickstreamStore
from improvement.domain import SearchDomain
from improvement.evidence import EvidenceWeights
from improvement.improver import Improver
from improvement.quality.alerts import AlertStore
from improvement.quality.learning import LearningStore
from improvement.two_tower import training_round
from improvement.two_tower.batches import CandidateBatch
from improvement.two_tower.beginning import begin_towers
from improvement.two_tower.checkpoints import Checkpoint, CheckpointStore
from improvement.two_tower.entries import Entry, EntryStore, Kind
from improvement.two_tower.examples import Next
from improvement.two_tower.facts import ItemFacts, Past
from improvement.two_tower.lineage import STOPPED
from improvement.two_tower.model import projection_of
from improvement.two_tower.names import towers_name
from improvement.two_tower.pairs import Pair, PairStore
from improvement.two_tower.progress import LostTraining, TrainingStore
from improvement.two_tower.sampling import Reason
from improvement.two_tower.settings import TowerSettings
from improvement.two_tower.trainer import LossIsNaN, Training
from improvement.two_tower.training import DAY, archive_pairs, train_candidate, train_users
from improvement.two_tower.training_batch import counts_of
from tests.support import DIMENSIONS, Clock, Gap, eventually, make_domain, make_objects, make_session

ROOT = Path(__file__).parents[3]
EVERY, OBJECTS, T = 10, 30, 1_800_000_000.0
TOWERS = TowerSettings(
    size=8, hidden=16, heads=2, authors=16, actions=8, candidate_every=EVERY, candidate_steps=2,
    negatives=3, user_batch=4, keep_checkpoints=1, min_engagements=2,
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def domain() -> SearchDomain:
    name = f"things-{uuid.uuid4().hex[:8]}"
    return replace(make_domain(), name=name, evidence=EvidenceWeights(), towers=TOWERS)


@pytest.fixture
def clock() -> Clock:
    return Clock(T + 3_600)


@pytest.fixture
def worker(improving: Improver, domain: SearchDomain, clock: Clock) -> Improver:
    """Rooms with objects, and untrained towers that nothing serves."""
    improving.training.clock = clock
    ticks = count(T)
    improving.checkpoints.clock = lambda: float(next(ticks))  # the order is that in which they were made
    for other in (improving.clickstream, improving.actions, improving.queue):
        other._clock = clock  # type: ignore[union-attr]
    blue = improving.releases.blue(domain.name).collection_id
    improving.vectors.upsert(blue, make_objects(domain, OBJECTS))
    rooms = replace(improving, clock=clock)
    begin(rooms, domain)
    return rooms


def begin(rooms: Improver, domain: SearchDomain) -> Checkpoint:
    towers = domain.towers
    assert towers is not None
    projection = projection_of(np.eye(DIMENSIONS, dtype=np.float32), towers.size, 0)
    made = rooms.checkpoints.save(
        domain.name, towers, Training(towers, projection).arrays(), parent=None,
        base_space=domain.encoder.model_id, watermark=0.0, trained="begun",
    )  # fmt: skip
    with rooms.training.held(domain.name, 60.0) as hold:
        assert hold is not None
        hold.save(head=made.checkpoint_id)
    return made


def vector(number: int) -> Any:
    made = np.random.default_rng(number).standard_normal(TOWERS.size).astype(np.float32)
    return made / np.linalg.norm(made)


def engage(rooms: Improver, domain: SearchDomain, many: int, first: int = 0, **changes: Any) -> list[Pair]:
    """Store engagements of five users as `LiveTowers` does; one in seven is against its object."""
    known = rooms.checkpoints.list(domain.name)
    changes = {"space": known[-1].checkpoint_id if known else ""} | changes
    made = []
    for n in range(first, first + many):
        signal = -0.5 if n % 7 == 6 else 0.6
        pair = Pair(
            f"e{n:04}", domain.name, f"user {n % 5}", f"o{n * 7 % OBJECTS}", None, "click", signal,
            Reason.ENGAGED if signal > 0 else Reason.DISLIKED, vector(n % 5), vector(100 + n), "",
            T + n, T + n,
        )  # fmt: skip
        pair = replace(pair, **changes)
        made.append(replace(pair, stored_at=pair.stored_at or pair.received_at))
    rooms.pairs.add(made)
    for user in {pair.user_id for pair in made}:
        known = rooms.entries.load(domain.name, [(Kind.USER, user)]).get((Kind.USER, user))
        entry = known or Entry(domain.name, Kind.USER, user)
        new = [
            Past(p.pair_id, p.object_id, p.author, p.action, p.signal, p.at)
            for p in made
            if p.user_id == user
        ]
        rooms.entries.save([replace(entry, pasts=(*entry.pasts, *new), count=entry.count + len(new))])
    return made


def chain(rooms: Improver, domain: SearchDomain) -> list[Checkpoint]:
    """Return the checkpoints from the first to the head."""
    found, at = [], rooms.training.of(domain.name).head
    while at is not None:
        found.append(rooms.checkpoints.get(at))
        at = found[-1].parent
    return found[::-1]


def stored(database: Database[Any], domain: SearchDomain, engaged: bool) -> list[dict[str, Any]]:
    where = {"domain": domain.name, "engaged": engaged}
    return sorted(database["training_pairs"].find(where), key=lambda one: one["pair_id"])


def test_too_few_engagements_wait_and_enough_become_a_checkpoint(
    worker: Improver, domain: SearchDomain, database: Database[Any]
):
    engage(worker, domain, EVERY - 1)
    assert train_candidate(worker, domain) == 0
    engage(worker, domain, 1, first=EVERY - 1)
    steps: list[tuple[int, int, float]] = []
    assert train_candidate(worker, domain, lambda *step: steps.append(step)) == 1
    first, head = chain(worker, domain)
    assert (first.trained, head.trained, head.parent) == ("begun", "candidate", first.checkpoint_id)
    assert (head.watermark, head.engagements, head.base_space) == (T + EVERY - 1, EVERY, "words-v1")
    assert [loss for _, _, loss in steps] == list(head.losses)
    assert [step[:2] for step in steps] == [(1, 2), (2, 2)]
    state = worker.training.of(domain.name)
    assert (state.batch, state.reason, state.batches) == (None, None, 1)
    assert len({one["batch"] for one in stored(database, domain, engaged=True)} - {None}) == 1
    before, after = (worker.checkpoints.load(one.checkpoint_id)[1] for one in (first, head))
    assert not np.array_equal(before["model.mlp.2.weight"], after["model.mlp.2.weight"])
    assert np.array_equal(before["model.projection"], after["model.projection"])
    assert train_candidate(worker, domain) == 0


def test_what_has_waited_long_becomes_batch_after_batch_and_the_rest_waits(
    worker: Improver, domain: SearchDomain, database: Database[Any]
):
    engage(worker, domain, 3 * EVERY + 4)
    assert train_candidate(worker, domain) == 3
    assert [one.engagements for one in chain(worker, domain)] == [0, EVERY, 2 * EVERY, 3 * EVERY]
    sizes = Counter(one["batch"] for one in stored(database, domain, engaged=True))
    assert sorted(sizes.values()) == [4, EVERY, EVERY, EVERY]
    assert sizes[None] == 4


def test_towers_that_were_not_begun_learn_nothing(improving: Improver, domain: SearchDomain):
    engage(improving, domain, EVERY)
    assert train_candidate(improving, domain) == 0
    assert train_users(improving, domain) == 0
    assert improving.pairs.unclaimed(domain.name, 100) == EVERY


def test_what_was_shown_and_passed_over_goes_first_and_what_was_engaged_with_never(
    worker: Improver, domain: SearchDomain, clock: Clock, database: Database[Any]
):
    clock.now = T - 60
    worker.clickstream.register(
        make_session("s", "user 0", ["o0", "o25", "o26", "o27"], created_at=int(T) - 60, domain=domain.name)
    )
    worker.clickstream.register(
        make_session("bad", "user 1", ["o24", "o23"], created_at=int(T) - 60, domain=domain.name)
    )
    worker.clickstream.mark_irrelevant("bad")
    view = {"user_id": "user 2", "domain": domain.name, "created_at": int(T) - 60}
    worker.actions.push(
        [
            Action(action_id="1", object_id="o20", action_type="view_post", **view),
            Action(action_id="2", object_id="o17", action_type="like_post", **view),  # an engagement
            Action(action_id="3", object_id="o18", action_type="unheard of", **view),
        ]
    )
    clock.now = T + 3_600
    pairs = {pair.pair_id: pair for pair in engage(worker, domain, EVERY)}
    engaged = {(pair.user_id, pair.object_id) for pair in pairs.values()}
    train_candidate(worker, domain)
    drawn = stored(database, domain, engaged=False)
    assert not {(one["user_id"], one["object_id"]) for one in drawn} & engaged
    of_user = {n: [one for one in drawn if one["pair_id"].endswith(f":e{n:04}")] for n in range(EVERY)}
    assert {(one["object_id"], one["reason"]) for one in of_user[0]} == {
        ("o25", "shown"), ("o26", "shown"), ("o27", "shown"),
    }  # fmt: skip
    assert {one["reason"] for one in of_user[1]} == {"random"}
    assert [one["object_id"] for one in of_user[2] if one["reason"] == "shown"] == ["o20"]
    assert not {one["object_id"] for one in drawn} & {"o23", "o24", "o18", "o17"}
    assert of_user[6] == []  # it was turned away
    for one in drawn:
        of = pairs[one["pair_id"].split(":", 2)[2]]
        assert (one["user_id"], one["at"], one["received_at"]) == (of.user_id, of.at, of.received_at)
        assert (one["signal"], one["label"], one["batch"] is not None) == (0.0, 0, True)
        assert one["user_vector"] is not None


def test_what_was_shown_longer_ago_was_not_passed_over(
    worker: Improver, domain: SearchDomain, clock: Clock, database: Database[Any]
):
    clock.now = T - TOWERS.negative_seconds - 10
    worker.clickstream.register(
        make_session("s", "user 0", ["o25", "o26"], created_at=int(clock.now), domain=domain.name)
    )
    clock.now = T + 3_600
    engage(worker, domain, EVERY)
    train_candidate(worker, domain)
    assert {one["reason"] for one in stored(database, domain, engaged=False)} == {"random"}


def test_a_client_whose_clock_is_wrong_is_understood(
    worker: Improver, domain: SearchDomain, clock: Clock, database: Database[Any]
):
    late = 5 * 3_600
    clock.now = T - 60
    session = make_session("s", "user 0", ["o25", "o26"], created_at=int(T) - 60 - late, domain=domain.name)
    worker.clickstream.register(session)
    clock.now = T + 3_600
    engage(worker, domain, 1, at=T - late)
    engage(worker, domain, EVERY - 1, first=1)
    train_candidate(worker, domain)
    drawn = [one for one in stored(database, domain, engaged=False) if one["pair_id"].endswith(":e0000")]
    assert {one["object_id"] for one in drawn if one["reason"] == "shown"} == {"o25", "o26"}


def test_drawn_negatives_keep_the_vector_that_serves(
    worker: Improver, domain: SearchDomain, database: Database[Any]
):
    begin_towers(worker, domain)
    serving = worker.towers.serving(domain.name)
    assert serving is not None
    content = worker.vectors.told(serving.collection_id, ["o7"])["o7"].revision
    moved = Entry(
        domain.name, Kind.ITEM, "o7", vector(7), vector(8), serving.checkpoint_id, content=content, count=3
    )
    worker.entries.save([moved])
    engage(worker, domain, EVERY, space=serving.checkpoint_id)
    assert train_candidate(worker, domain) == 1
    drawn = {one["object_id"]: one["item_vector"] for one in stored(database, domain, engaged=False)}
    means = worker.vectors.means(serving.collection_id, drawn)
    means["o7"] = vector(7)
    assert "o7" in drawn
    for object_id, found in drawn.items():
        assert np.allclose(np.frombuffer(found[2:], "<f4"), means[object_id])


@pytest.mark.parametrize("which", ["domain", "towers"])
def test_while_learning_is_frozen_engagements_wait(worker: Improver, domain: SearchDomain, which: str):
    name = domain.name if which == "domain" else towers_name(domain.name)
    engage(worker, domain, 2 * EVERY)
    worker.learning.freeze(name, "test", "because")
    assert train_candidate(worker, domain) == 0
    assert train_users(worker, domain) == 0
    assert worker.pairs.unclaimed(domain.name, 100) == 2 * EVERY
    worker.learning.resume(name, "test", "because")
    assert train_candidate(worker, domain) == 2
    assert train_users(worker, domain) > 0


def test_the_brake_slows_both_towers_by_both_its_rates(
    worker: Improver, domain: SearchDomain, monkeypatch: pytest.MonkeyPatch
):
    rates = []
    for name in ("update_candidate", "update_users"):
        update: Callable[..., Any] = getattr(Training, name)

        def spied(self: Any, lesson: Any, rate: float, *rest: Any, update: Any = update) -> Any:
            rates.append(rate)
            return update(self, lesson, rate, *rest)

        monkeypatch.setattr(Training, name, spied)
    worker.learning.resume(domain.name, "test", "because", 0.5)
    worker.learning.resume(towers_name(domain.name), "test", "because", 0.25)
    engage(worker, domain, EVERY)
    train_candidate(worker, domain)
    train_users(worker, domain)
    assert set(rates) == {0.125}
    assert len(rates) > 1


def overflow(rooms: Improver, domain: SearchDomain) -> Checkpoint:
    """Have the head be towers of finite weights whose sums are not finite."""
    head = rooms.training.of(domain.name).head
    assert head is not None
    settings, arrays = rooms.checkpoints.load(head)
    for name in ("model.mlp.0.weight", "model.gap.weight"):
        arrays[name] = np.full_like(arrays[name], 3e38)
    made = rooms.checkpoints.save(
        domain.name, settings, arrays, parent=head, base_space="words-v1", watermark=0.0, trained="begun"
    )
    with rooms.training.held(domain.name, 60.0) as hold:
        assert hold is not None
        hold.save(head=made.checkpoint_id)
    return made


@pytest.mark.parametrize("tower", ["candidate", "users"])
def test_a_loss_that_is_no_number_stops_keeps_the_checkpoint_and_says_so(
    worker: Improver, domain: SearchDomain, clock: Clock, tower: str
):
    train = train_candidate if tower == "candidate" else train_users
    good = worker.training.of(domain.name).head
    bad = overflow(worker, domain)
    engage(worker, domain, 2 * EVERY)
    train(worker, domain)
    state = worker.training.of(domain.name)
    assert (state.head, state.batch) == (bad.checkpoint_id, None)
    assert "not a finite number" in (state.reason or "")
    (told,) = worker.alerts.open(domain.name)
    assert told.alert.kind == STOPPED
    assert bad.checkpoint_id in told.alert.message
    assert {"candidate": "batch", "users": "users"}[tower] in told.alert.message
    assert worker.learning.of(towers_name(domain.name)).frozen
    assert worker.learning.of(towers_name(domain.name)).by == "training"
    assert not worker.learning.of(domain.name).frozen
    assert len(worker.checkpoints.list(domain.name)) == 2
    assert train(worker, domain) == 0
    with worker.training.held(domain.name, 60.0) as hold:  # an operator goes back, and resumes
        assert hold is not None
        hold.save(head=good)
    worker.learning.resume(towers_name(domain.name), "test", "looked at it")
    engage(worker, domain, EVERY, first=2 * EVERY, at=clock.now + 1, received_at=clock.now + 1)
    clock.now += 3_601
    assert train(worker, domain) > 0
    assert worker.training.of(domain.name).reason is None
    assert worker.alerts.open(domain.name) == []
    if tower == "candidate":  # the batch that was set aside stays so
        assert [one.engagements for one in chain(worker, domain)] == [0, EVERY, 2 * EVERY]
        assert worker.pairs.unclaimed(domain.name, 100) == 0


def test_a_worker_that_dies_while_it_stops_has_the_next_one_say_it(
    worker: Improver, domain: SearchDomain, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: Any) -> None:
        raise LossIsNaN("the loss is not a finite number")

    monkeypatch.setattr(Training, "update_candidate", broken)
    engage(worker, domain, EVERY)
    life = Life()
    train_candidate(mortal(worker, life), domain)
    total = life.calls
    for after in range(total - 8, total):  # from the update on
        reset(worker, domain)
        worker.learning.resume(towers_name(domain.name), "test", "again")
        engage(worker, domain, EVERY)
        die(worker, domain, after)
        if worker.training.of(domain.name).batch is not None:
            worker.learning.resume(towers_name(domain.name), "test", "died in between")
        train_candidate(worker, domain)
        state = worker.training.of(domain.name)
        assert state.batch is None
        assert worker.pairs.unclaimed(domain.name, 100) == 0
        assert "not a finite number" in (state.reason or "")
        assert worker.learning.of(towers_name(domain.name)).frozen


def test_pairs_of_objects_that_are_gone_and_bad_ones_are_left_out_alone(
    worker: Improver, domain: SearchDomain, database: Database[Any]
):
    engage(worker, domain, 1, object_id="deleted")
    engage(worker, domain, 1, first=1, user_vector=np.full(TOWERS.size, np.nan, np.float32))
    engage(worker, domain, 1, first=2, user_vector=vector(1)[:3])
    engage(worker, domain, 1, first=3, user_vector=None)
    foreign = worker.checkpoints.save(
        domain.name, TOWERS, {"a": np.zeros(1)}, parent=None, base_space="other", watermark=0.0,
        trained="begun",
    )  # fmt: skip
    engage(worker, domain, 1, first=4, space=foreign.checkpoint_id)
    engage(worker, domain, EVERY - 5, first=5)
    assert train_candidate(worker, domain) == 1
    assert chain(worker, domain)[-1].engagements == EVERY - 5
    assert not {one["object_id"] for one in stored(database, domain, engaged=False)} & {"deleted"}


def test_a_batch_that_says_nothing_ends_without_a_checkpoint(worker: Improver, domain: SearchDomain):
    engage(worker, domain, EVERY, object_id="deleted")
    engage(worker, domain, EVERY, first=EVERY, user_vector=None)
    assert train_candidate(worker, domain) == 2
    assert len(chain(worker, domain)) == 1
    assert worker.training.of(domain.name).batch is None
    assert worker.pairs.unclaimed(domain.name, 100) == 0


def test_whoever_is_erased_while_a_batch_is_trained_stays_erased(
    worker: Improver, domain: SearchDomain, database: Database[Any]
):
    engage(worker, domain, EVERY)
    gap = Gap(worker.pairs, "add", lambda: worker.pairs.erase("user 1"), before=True)
    assert train_candidate(replace(worker, pairs=gap), domain) == 1
    assert database["training_pairs"].count_documents({"user_id": "user 1"}) == 0
    assert database["training_pairs"].count_documents({"user_id": "user 2", "engaged": False}) > 0


def test_popular_items_are_held_down_by_how_often_they_were_ever_engaged_with(
    worker: Improver, domain: SearchDomain, monkeypatch: pytest.MonkeyPatch
):
    lessons: list[CandidateBatch] = []
    update = Training.update_candidate

    def spied(self: Training, lesson: CandidateBatch, *rest: Any) -> list[float]:
        lessons.append(lesson)
        return update(self, lesson, *rest)

    monkeypatch.setattr(Training, "update_candidate", spied)
    worker.entries.save([Entry(domain.name, Kind.ITEM, "o7", vector(7), vector(8), count=5_000)])
    engage(worker, domain, EVERY)
    train_candidate(worker, domain)
    chances = dict(zip(lessons[0].items.object_ids, np.exp(lessons[0].log_q), strict=True))
    assert chances["o7"] == pytest.approx(1.0, abs=1e-3)
    assert chances["o14"] == pytest.approx(EVERY / 5_010, rel=0.05)


def test_popular_items_are_held_down_as_before_after_going_back_to_an_earlier_checkpoint(
    worker: Improver, domain: SearchDomain
):
    first = chain(worker, domain)[0]
    pairs = engage(worker, domain, 2 * EVERY)
    worker.entries.save([Entry(domain.name, Kind.ITEM, "o7", count=2)])
    train_candidate(worker, domain)
    learned = worker.training.of(domain.name).learned
    assert learned == 2 * EVERY
    before = counts_of(worker, domain, pairs[:4], learned)
    with worker.training.held(domain.name, 60.0) as hold:
        assert hold is not None
        hold.save(head=first.checkpoint_id)
    engage(worker, domain, EVERY - 1, first=2 * EVERY)
    after = counts_of(worker, domain, pairs[:4], worker.training.of(domain.name).learned)
    assert before == {"o0": 1, "o7": 2, "o14": 1, "o21": 1, "": 2 * EVERY - 5}
    assert after == before | {"": 3 * EVERY - 1 - 5}


def test_nothing_that_a_user_ever_engaged_with_is_a_negative_of_theirs(
    worker: Improver, domain: SearchDomain, database: Database[Any]
):
    earlier = [f"o{n}" for n in range(OBJECTS - 3)]
    for n, object_id in enumerate(earlier):
        engage(worker, domain, 1, first=n, user_id="ann", object_id=object_id, batch="earlier")
    for entry in worker.entries.load(domain.name, [(Kind.USER, "ann")]).values():
        worker.entries.save([replace(entry, pasts=())])  # an entry remembers the newest alone
    for n in range(EVERY):
        engage(worker, domain, 1, first=100 + n, user_id="ann", object_id="o29")
    train_candidate(worker, domain)
    assert {one["object_id"] for one in stored(database, domain, engaged=False)} <= {"o27", "o28"}


def test_pairs_of_another_projection_teach_nothing(worker: Improver, domain: SearchDomain):
    projection = projection_of(np.random.default_rng(1).standard_normal((50, DIMENSIONS)), TOWERS.size, 0)
    other = worker.checkpoints.save(
        domain.name, TOWERS, Training(TOWERS, projection).arrays(), parent=None,
        base_space=domain.encoder.model_id, watermark=0.0, trained="begun",
    )  # fmt: skip
    first = chain(worker, domain)[0]
    assert other.lineage != first.lineage
    engage(worker, domain, EVERY - 3, space=other.checkpoint_id)
    engage(worker, domain, 1, first=20, space="nobody knows")
    engage(worker, domain, 2, first=30)
    assert train_candidate(worker, domain) == 1
    head = chain(worker, domain)[-1]
    assert (head.engagements, head.lineage) == (2, first.lineage)


def test_the_untrained_checkpoint_of_the_present_lineage_is_never_pruned(
    worker: Improver, domain: SearchDomain, clock: Clock
):
    first = chain(worker, domain)[0]
    engage(worker, domain, 4 * EVERY)
    train_candidate(worker, domain)
    archive_pairs(worker, domain)
    kept = {one.checkpoint_id for one in worker.checkpoints.list(domain.name)}
    assert kept == {first.checkpoint_id, worker.training.of(domain.name).head}


def test_settings_that_are_not_the_towers_shape_may_change(worker: Improver, domain: SearchDomain):
    other = replace(TOWERS, hidden=20, authors=99, layers=2, candidate_steps=5, margin=0.5)
    engage(worker, domain, EVERY)
    assert train_candidate(worker, replace(domain, towers=other)) == 1
    head = chain(worker, domain)[-1]
    assert len(head.losses) == 5
    assert worker.checkpoints.load(head.checkpoint_id)[0] == replace(TOWERS, candidate_steps=5, margin=0.5)


class Died(BaseException):
    """A worker that is killed."""


class Life:
    """Counts calls of stores, and ends right after one of them."""

    def __init__(self, after: int = 0) -> None:
        self.calls, self.after, self.kept = 0, after, []

    def beat(self) -> None:
        if 0 < self.after <= self.calls:
            raise Died
        self.calls += 1
        if self.calls == self.after:
            raise Died


class Mortal:
    def __init__(self, inner: Any, life: Life) -> None:
        self._inner, self._life = inner, life

    def __getattr__(self, name: str) -> Any:
        found, life = getattr(self._inner, name), self._life
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            if 0 < life.after <= life.calls:
                raise Died
            result = found(*args, **kwargs)
            life.beat()
            return result

        return call


class MortalTraining(Mortal):
    @contextmanager
    def held(self, *args: Any) -> Iterator[Any]:
        holding = self._inner.held(*args)
        self._life.kept.append(holding)  # whom it is taken from does not let go
        hold = holding.__enter__()
        self._life.beat()
        yield None if hold is None else Mortal(hold, self._life)
        holding.__exit__(None, None, None)


def mortal(rooms: Improver, life: Life) -> Improver:
    names = (
        "pairs",
        "checkpoints",
        "facts",
        "entries",
        "clickstream",
        "actions",
        "learning",
        "alerts",
        "queue",
    )
    stores = {name: Mortal(getattr(rooms, name), life) for name in names}
    return replace(rooms, training=MortalTraining(rooms.training, life), **stores)  # type: ignore[arg-type]


def die(rooms: Improver, domain: SearchDomain, after: int, train: Any = train_candidate) -> None:
    life = Life(after)
    with pytest.raises(Died):
        train(mortal(rooms, life), domain)
    if life.kept:
        assert train(rooms, domain) == 0  # nobody else may, yet
    rooms.training.clock.now += rooms.tower_lease + 1  # type: ignore[attr-defined]


def reset(rooms: Improver, domain: SearchDomain) -> None:
    """Forget everything about the towers, and begin them anew."""
    database = rooms.checkpoints._database
    for name in ("training_pairs", "tower_entries", "tower_training", "tower_checkpoints", "ticks",
                 "checkpoints.files", "checkpoints.chunks"):  # fmt: skip
        database[name].delete_many({})
    begin(rooms, domain)


def test_killed_after_any_call_of_a_store_each_engagement_is_learned_from_once(
    worker: Improver, domain: SearchDomain, database: Database[Any]
):
    def learned() -> tuple[Any, ...]:
        batches = [one["batch"] for one in stored(database, domain, engaged=True)]
        drawn = [(one["pair_id"], one["object_id"]) for one in stored(database, domain, engaged=False)]
        return [one.checkpoint_id for one in chain(worker, domain)], batches, drawn

    engage(worker, domain, EVERY + 3)
    life = Life()
    assert train_candidate(mortal(worker, life), domain) == 1
    expected = learned()
    assert len(expected[0]) == 2
    reset(worker, domain)
    engage(worker, domain, EVERY + 3)
    assert train_candidate(worker, domain) == 1
    assert learned() == expected  # the same log, seed and stores give the same checkpoints
    for after in range(1, life.calls):
        reset(worker, domain)
        engage(worker, domain, EVERY + 3)
        die(worker, domain, after)
        train_candidate(worker, domain)
        assert learned() == expected, f"killed after call {after}"


def test_a_round_of_users_that_is_killed_is_done_again_and_once(worker: Improver, domain: SearchDomain):
    engage(worker, domain, 3 * EVERY)
    life = Life()
    assert train_users(mortal(worker, life), domain) > 0
    expected = worker.training.of(domain.name).head
    for after in range(1, life.calls, 3):
        reset(worker, domain)
        engage(worker, domain, 3 * EVERY)
        die(worker, domain, after, train_users)
        worker.queue.hurry(f"tower users {domain.name}")
        train_users(worker, domain)
        if worker.training.of(domain.name).head != expected:  # the clock went on, and the round ended
            assert len(chain(worker, domain)) == 2
        assert len(chain(worker, domain)) == 2


def test_workers_who_take_it_from_one_another_all_the_time_learn_everything_once(
    worker: Improver, domain: SearchDomain, database: Database[Any]
):
    engage(worker, domain, 3 * EVERY)
    hasty = replace(worker, tower_lease=0.0)
    lost: list[str] = []

    def work() -> None:
        for _ in range(100):
            worker.training.clock.now += 1  # type: ignore[attr-defined]
            if hasty.pairs.unclaimed(domain.name, 1) == 0 and hasty.training.of(domain.name).batch is None:
                return
            try:
                train_candidate(hasty, domain)
            except LostTraining:
                lost.append(threading.current_thread().name)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lost
    learned = [one.engagements for one in chain(worker, domain)]
    sizes = Counter(one["batch"] for one in stored(database, domain, engaged=True))
    assert (learned[0], learned[-1]) == (0, 3 * EVERY)
    # Two who claim for one batch in the same instant may make it larger; each of its engagements counts once.
    assert sorted(after - before for before, after in pairwise(learned)) == sorted(sizes.values())
    assert None not in sizes


def lonely(database: Database[Any]) -> Any:
    """Return the rooms that training needs, for a process that may not open the vectors."""

    def facts(domain: SearchDomain, object_ids: Iterable[str], space: str) -> ItemFacts:
        ids = tuple(object_ids)
        rows = [np.random.default_rng(int(one[1:])).standard_normal(DIMENSIONS) for one in ids]
        return ItemFacts(ids, np.array(rows, np.float32).reshape(len(ids), DIMENSIONS), (None,) * len(ids))

    return SimpleNamespace(
        clickstream=ClickstreamStore(database), actions=ActionStore(database), pairs=PairStore(database),
        queue=ImprovementQueue(database), entries=EntryStore(database), learning=LearningStore(database),
        checkpoints=CheckpointStore(database), training=TrainingStore(database), alerts=AlertStore(database),
        towers=SimpleNamespace(serving=lambda name: None), facts=SimpleNamespace(of=facts),
        tower_lease=1.0, clock=time.time,
    )  # fmt: skip


def work_slowly(mongo_url: str, database: str, name: str) -> None:
    """Train as a worker of its own does whose gradient steps take a while."""
    with MongoClient(mongo_url) as client:
        domain = replace(make_domain(name), towers=TOWERS)
        train_candidate(lonely(client[database]), domain, lambda *_: time.sleep(0.2))


def test_a_process_that_is_killed_in_the_middle_is_replaced_by_another(
    mongo_url: str, database: Database[Any]
):
    rooms, domain = lonely(database), replace(make_domain("things"), towers=TOWERS)
    begin(rooms, domain)
    engage(rooms, domain, 4 * EVERY)
    code = f"import sys; from {__name__} import work_slowly; work_slowly(*sys.argv[1:])"
    victim = subprocess.Popen([sys.executable, "-c", code, mongo_url, database.name, domain.name], cwd=ROOT)
    try:
        eventually(lambda: len(chain(rooms, domain)) > 1, seconds=60)
        assert train_candidate(rooms, domain) == 0
    finally:
        victim.kill()
        victim.wait()
    assert rooms.training.of(domain.name).batch is not None
    eventually(lambda: train_candidate(rooms, domain) > 0)
    assert [one.engagements for one in chain(rooms, domain)] == [n * EVERY for n in range(5)]
    sizes = Counter(one["batch"] for one in stored(database, domain, engaged=True))
    assert sorted(sizes.values()) == [EVERY] * 4


def test_users_learn_what_they_engaged_with_next_once_an_hour(
    worker: Improver, domain: SearchDomain, clock: Clock
):
    engage(worker, domain, 3 * EVERY)
    seen: list[tuple[int, int, float]] = []
    steps = train_users(worker, domain, lambda *step: seen.append(step))
    first, head = chain(worker, domain)
    assert (head.trained, head.watermark, head.engagements) == ("users", T + 3 * EVERY - 1, 0)
    assert steps == len(head.losses) == 2  # five users, four at once
    assert [step[:2] for step in seen] == [(1, 2), (2, 2)]
    before, after = (worker.checkpoints.load(one.checkpoint_id)[1] for one in (first, head))
    assert not np.array_equal(before["model.user_projection.weight"], after["model.user_projection.weight"])
    assert np.array_equal(before["model.mlp.2.weight"], after["model.mlp.2.weight"])
    engage(worker, domain, EVERY, first=3 * EVERY, received_at=clock.now + 5, at=clock.now + 5)
    assert train_users(worker, domain) == 0
    clock.now += 3_601
    assert train_users(worker, domain) == 2
    clock.now += 3_601
    assert train_users(worker, domain) == 0  # nobody did anything since
    assert len(chain(worker, domain)) == 3


def test_what_is_caught_up_late_is_news_for_the_user_tower(
    worker: Improver, domain: SearchDomain, clock: Clock
):
    engage(worker, domain, 2 * EVERY)
    assert train_users(worker, domain) > 0
    clock.now += 3_601
    late = clock.now - 10
    engage(worker, domain, EVERY, first=2 * EVERY, stored_at=late)  # received before what was learned from
    assert train_users(worker, domain) > 0


def test_a_round_learns_from_nothing_that_came_after_its_watermark_whenever_that_happened(
    worker: Improver, domain: SearchDomain, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(training_round, "READ", EVERY)
    engage(worker, domain, EVERY)
    offline = engage(worker, domain, 5, first=30, at=T - 5, received_at=T + 500)  # by phones without a net
    seen: list[Next] = []

    def spied(*args: Any) -> Any:
        found = training_round_nexts(*args)
        seen.extend(found[0])
        return found

    training_round_nexts = training_round._nexts
    monkeypatch.setattr(training_round, "_nexts", spied)
    assert train_users(worker, domain) > 0
    assert chain(worker, domain)[-1].watermark == T + EVERY - 1
    read = {past.engagement_id for each in seen for past in (*each.before, each.target)}
    assert read
    assert not read & {pair.pair_id for pair in offline}


def test_one_user_alone_teaches_nothing_yet_and_is_not_forgotten(
    worker: Improver, domain: SearchDomain, clock: Clock
):
    engage(worker, domain, 3, user_id="user 0")
    assert train_users(worker, domain) == 0
    assert worker.training.of(domain.name).users_at == 0.0
    engage(worker, domain, 5, first=3, user_id="user 1")
    assert train_users(worker, domain) == 0  # it was looked at a moment ago
    clock.now += 3_601
    assert train_users(worker, domain) == 1


def test_more_engagements_than_a_round_reads_are_left_to_the_next(
    worker: Improver, domain: SearchDomain, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(training_round, "READ", EVERY)
    engage(worker, domain, EVERY, user_id="user 0")  # alone: nothing to learn from
    engage(worker, domain, 2 * EVERY, first=EVERY)
    for expected in (T + EVERY - 1, T + 2 * EVERY - 2, T + 3 * EVERY - 3):
        train_users(worker, domain)
        assert worker.training.of(domain.name).users_at == expected
        clock.now += 3_601
    assert [one.trained for one in chain(worker, domain)] == ["begun", "users", "users"]


def test_old_pairs_are_archived_and_unused_checkpoints_pruned_once_a_day(
    worker: Improver, domain: SearchDomain, clock: Clock, database: Database[Any]
):
    begin_towers(worker, domain)
    served = worker.training.of(domain.name).head
    engage(worker, domain, 3 * EVERY)
    for number in range(3):
        clock.now += 1
        engage(worker, domain, EVERY, first=(3 + number) * EVERY)
    train_candidate(worker, domain)
    clock.now += TOWERS.archive_days * DAY
    engage(worker, domain, 2, first=90, received_at=clock.now)
    moved = archive_pairs(worker, domain)
    assert moved > 6 * EVERY  # their negatives, too
    assert database["training_pairs"].count_documents({"domain": domain.name}) == 2
    kept = {one.checkpoint_id for one in worker.checkpoints.list(domain.name)}
    assert kept == {worker.training.of(domain.name).head, served}
    engage(worker, domain, EVERY, first=200)
    assert archive_pairs(worker, domain) == 0
    clock.now += DAY
    assert archive_pairs(worker, domain) == 0  # nobody learned from these yet


def test_importing_the_jobs_and_the_curve_loads_neither_torch_nor_matplotlib():
    code = (
        "import sys, improvement.two_tower.training, improvement.two_tower.curve\n"
        "assert not {'torch', 'matplotlib'} & sys.modules.keys()"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0

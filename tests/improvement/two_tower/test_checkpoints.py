import hashlib
import subprocess
import sys
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gridfs import GridFSBucket
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pymongo.database import Database

from improvement.errors import Invalid, NotFound, Unavailable
from improvement.two_tower import checkpoints as module
from improvement.two_tower.batches import CandidateBatch, UserBatch
from improvement.two_tower.checkpoints import UPLOAD_SECONDS, Checkpoint, CheckpointStore
from improvement.two_tower.facts import History, ItemFacts, Past
from improvement.two_tower.packed import packed, settings_of, settings_text, unpacked
from improvement.two_tower.settings import TowerHealth, TowerSettings
from improvement.two_tower.tower import Tower
from improvement.two_tower.trainer import Training
from tests.support import Clock

SMALL = TowerSettings(size=8, hidden=12, heads=2, authors=16, actions=8, candidate_steps=3)
WIDE = 12


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database: Database[Any], clock: Clock) -> CheckpointStore:
    made = CheckpointStore(database, clock)
    made.ensure_indexes()
    return made


def arrays_of(seed: int = 0, size: int = 6) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"model.w": rng.standard_normal((size, 3)).astype(np.float32), "counts": np.array([1, seed])}


def saved(store: CheckpointStore, arrays: Any = None, domain: str = "things", **changes: Any) -> Checkpoint:
    said = {"parent": None, "base_space": "words", "watermark": 0.0, "trained": "candidate"} | changes
    settings = said.pop("settings", SMALL)
    return store.save(domain, settings, arrays_of() if arrays is None else arrays, **said)


def files(database: Database[Any]) -> int:
    return database["checkpoints.files"].count_documents({})


def test_a_checkpoint_comes_back_with_its_settings_and_arrays_bit_for_bit(store: CheckpointStore):
    settings = replace(SMALL, seed=7, author_field=None, candidate_rate=0.1 + 0.2, negatives=9,
                       health=TowerHealth(good_negatives=(4.0, 9.5), most_drift=1 / 3))  # fmt: skip
    arrays = arrays_of() | {
        "none": np.zeros((0, 5), np.float32),
        "one": np.array(3.5, np.float32),
        "bytes": np.arange(5, dtype=np.uint8),
        "denormal": np.array([1e-45, -0.0], np.float32),
    }
    made = saved(store, arrays, settings=settings, parent="p", watermark=12.5, trained="users",
                 engagements=3, losses=(0.1, 1 / 3))  # fmt: skip
    found, back = store.load(made.checkpoint_id)
    assert found == settings
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()
    assert store.get(made.checkpoint_id) == made
    assert (made.parent, made.watermark, made.trained, made.engagements) == ("p", 12.5, "users", 3)
    assert made.losses == (0.1, 1 / 3)


@given(
    st.dictionaries(
        st.text("abc.XYZ_09", min_size=1, max_size=8),
        hnp.arrays(
            st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        ),
        max_size=4,
    )
)
def test_equal_arrays_give_equal_bytes_in_any_order_and_layout(arrays: dict[str, Any]):
    arrays = {
        n: np.nan_to_num(a, posinf=0, neginf=0) if a.dtype.kind == "f" else a for n, a in arrays.items()
    }
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    other = {name: np.asfortranarray(arrays[name].astype(arrays[name].dtype.newbyteorder(">")))
             if arrays[name].ndim else arrays[name] for name in reversed(arrays)}  # fmt: skip
    assert packed(arrays) == packed(other)
    back = unpacked(packed(arrays))
    assert {n: (a.shape, a.tobytes()) for n, a in back.items()} == {
        n: (a.shape, a.tobytes()) for n, a in arrays.items()
    }


def test_other_processes_at_other_times_make_the_same_bytes():
    code = (
        "import time, hashlib, numpy as np\n"
        "time.time = lambda: 1e9; time.localtime = lambda *a: time.gmtime(1e9)\n"
        "from improvement.two_tower.packed import packed\n"
        "print(hashlib.sha256(packed({'a': np.arange(3.0), 'b': np.eye(2)})).hexdigest())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout
    mine = packed({"b": np.eye(2), "a": np.arange(3.0)})
    assert told.strip() == hashlib.sha256(mine).hexdigest()


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("w", np.array([1.0, np.nan]), "w: expected finite"),
        ("w", np.array([np.inf], np.float32), "w: expected finite"),
        ("w", np.array([object()]), "w: expected an array of numbers"),
        ("w", np.array(["text"]), "w: expected an array of numbers"),
        ("../w", np.zeros(1), "arrays: expected names"),
    ],
)
def test_what_nobody_would_want_back_is_refused_by_name(name: str, array: Any, says: str):
    with pytest.raises(Invalid, match=says):
        packed({name: array})


def test_settings_survive_fields_that_came_and_went():
    old = settings_text(SMALL).replace('"seed":0', '"seed":0,"gone":1').replace('"margin":0.2,', "")
    assert settings_of(old) == SMALL


def test_equal_content_is_one_checkpoint_stored_once(
    store: CheckpointStore, clock: Clock, database: Database[Any]
):
    first = saved(store)
    clock.now += 100
    assert saved(store, dict(reversed(arrays_of().items()))) == first
    assert files(database) == 1
    assert len(first.checkpoint_id) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"domain": "others"}, {"settings": replace(SMALL, seed=1)}, {"parent": "p"}, {"base_space": "more"},
        {"watermark": 1.0}, {"trained": "users"}, {"engagements": 1}, {"losses": (0.5,)},
        {"arrays": arrays_of(1)},
    ],
)  # fmt: skip
def test_whatever_differs_gives_another_id(store: CheckpointStore, change: dict[str, Any]):
    assert saved(store, **change).checkpoint_id != saved(store).checkpoint_id


def test_a_large_checkpoint_goes_through_many_chunks(store: CheckpointStore, database: Database[Any]):
    large = np.random.default_rng(0).standard_normal((10_000, 128)).astype(np.float32)
    made = saved(store, {"rows.values": large})
    assert made.bytes > large.nbytes
    assert database["checkpoints.chunks"].count_documents({}) == -(-made.bytes // module.CHUNK)
    assert np.array_equal(store.load(made.checkpoint_id)[1]["rows.values"], large)


def test_a_tampered_chunk_is_found_and_said(store: CheckpointStore, database: Database[Any]):
    made = saved(store)
    chunk = database["checkpoints.chunks"].find_one({})
    assert chunk is not None
    data = bytearray(chunk["data"])
    data[len(data) // 2] ^= 1
    database["checkpoints.chunks"].update_one({"_id": chunk["_id"]}, {"$set": {"data": bytes(data)}})
    with pytest.raises(Unavailable, match=f"{made.checkpoint_id}.*digest"):
        store.load(made.checkpoint_id)


@pytest.mark.parametrize("field", ["settings", "watermark", "parent"])
def test_a_tampered_description_is_found_too(store: CheckpointStore, database: Database[Any], field: str):
    made = saved(store)
    other = {"settings": settings_text(replace(SMALL, seed=3)), "watermark": 9.0, "parent": "x"}[field]
    database["tower_checkpoints"].update_one({"_id": made.checkpoint_id}, {"$set": {field: other}})
    with pytest.raises(Unavailable, match="digest"):
        store.load(made.checkpoint_id)


@pytest.mark.parametrize("lost", ["checkpoints.chunks", "checkpoints.files"])
def test_content_that_the_store_lost_is_said(store: CheckpointStore, database: Database[Any], lost: str):
    made = saved(store)
    database[lost].delete_many({})
    with pytest.raises(Unavailable, match="digest"):
        store.load(made.checkpoint_id)


def test_what_is_unknown_is_not_found(store: CheckpointStore):
    for ask in (store.get, store.load):
        with pytest.raises(NotFound, match="no checkpoint 'x'"):
            ask("x")
    store.judge("x", True)
    assert store.list("things") == []


class Died(BaseException):
    """A worker that is killed."""


@pytest.mark.parametrize("dies_at", ["_uploads.insert_one", "upload", "_described.insert_one", "delete_one"])
def test_a_writer_that_dies_leaves_nothing_half_and_repeating_it_finishes(
    store: CheckpointStore,
    clock: Clock,
    database: Database[Any],
    monkeypatch: pytest.MonkeyPatch,
    dies_at: str,
):
    def die(*_: Any, **__: Any) -> None:
        raise Died

    with monkeypatch.context() as patch:
        if dies_at == "upload":

            def half(self: Any, file_id: Any, name: str, content: bytes) -> None:
                file = self.open_upload_stream_with_id(file_id, name)
                file.write(content * (2 * module.CHUNK // len(content)))
                raise Died  # some chunks arrived, their file is never closed

            patch.setattr(GridFSBucket, "upload_from_stream_with_id", half)
        else:
            name, _, method = dies_at.rpartition(".")
            patch.setattr(getattr(store, name or "_uploads"), method, die, raising=False)
        with pytest.raises(Died):
            saved(store)
    there = {one.checkpoint_id for one in store.list("things")}
    for checkpoint_id in there:
        store.load(checkpoint_id)
    again = CheckpointStore(database, clock)
    made = saved(again)
    assert again.load(made.checkpoint_id)[0] == SMALL
    clock.now += UPLOAD_SECONDS + 1
    again.prune("things", 1, set())
    assert files(database) == 1
    assert database["checkpoints.chunks"].count_documents({}) == 1
    assert database["tower_uploads"].count_documents({}) == 0
    again.load(made.checkpoint_id)


def test_a_writer_so_slow_that_it_was_taken_for_dead_takes_its_word_back(
    store: CheckpointStore, clock: Clock, database: Database[Any], monkeypatch: pytest.MonkeyPatch
):
    upload = GridFSBucket.upload_from_stream_with_id

    def slow(self: Any, *args: Any, **kwargs: Any) -> None:
        upload(self, *args, **kwargs)
        clock.now += UPLOAD_SECONDS + 1
        CheckpointStore(database, clock).prune("things", 1, set())

    with monkeypatch.context() as patch:
        patch.setattr(GridFSBucket, "upload_from_stream_with_id", slow)
        with pytest.raises(Unavailable, match="too long"):
            saved(store)
    assert store.list("things") == []
    store.load(saved(store).checkpoint_id)


def test_two_who_store_the_same_at_once_store_it_once(store: CheckpointStore, database: Database[Any]):
    made: list[Checkpoint] = []
    threads = [threading.Thread(target=lambda: made.append(saved(store))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.checkpoint_id for one in made}) == 1
    assert files(database) == 1
    store.load(made[0].checkpoint_id)


def test_pruning_keeps_the_newest_the_last_good_one_and_what_is_used(store: CheckpointStore, clock: Clock):
    ids = []
    for number in range(7):
        clock.now += 1
        ids.append(saved(store, arrays_of(number)).checkpoint_id)
    other = saved(store, domain="others").checkpoint_id
    assert [one.checkpoint_id for one in store.list("things")] == ids[::-1]
    store.judge(ids[0], True)
    store.judge(ids[2], True)
    store.judge(ids[3], False)
    assert [one.good for one in store.list("things")] == [None, None, None, False, True, None, True]
    assert store.prune("things", 2, {ids[1], "gone"}) == 3
    assert [one.checkpoint_id for one in store.list("things")] == [ids[6], ids[5], ids[2], ids[1]]
    assert store.prune("things", 2, {ids[1]}) == 0
    for checkpoint_id in (ids[6], ids[2], ids[1], other):
        store.load(checkpoint_id)
    with pytest.raises(NotFound):
        store.load(ids[0])


def test_deleting_while_somebody_loads_is_not_found(
    store: CheckpointStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    made = saved(store)
    clock.now += 1
    saved(store, arrays_of(1))
    opened = GridFSBucket.open_download_stream

    def deleted_before(self: Any, *args: Any, **kwargs: Any) -> Any:
        store.prune("things", 1, set())
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(GridFSBucket, "open_download_stream", deleted_before)
    with pytest.raises(NotFound):
        store.load(made.checkpoint_id)


def test_a_pruner_that_dies_leaves_no_file_behind(
    store: CheckpointStore, clock: Clock, database: Database[Any], monkeypatch: pytest.MonkeyPatch
):
    saved(store)
    clock.now += 1
    saved(store, arrays_of(1))

    def die(*_: Any) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "_delete_file", die)
        with pytest.raises(Died):
            store.prune("things", 1, set())
    assert (len(store.list("things")), files(database)) == (1, 2)
    store.prune("things", 1, set())
    assert files(database) == 1


def lesson(seed: int) -> tuple[CandidateBatch, UserBatch]:
    rng = np.random.default_rng(seed)

    def rows(*shape: int) -> Any:
        made = rng.standard_normal(shape).astype(np.float32)
        return made / np.linalg.norm(made, axis=-1, keepdims=True)

    names = [f"o{number}" for number in range(20)]
    items = ItemFacts(tuple(names), rows(20, WIDE), tuple(["ann", None] * 10))
    candidate = CandidateBatch(
        users=rows(9, 8), items=items, chosen=rng.integers(0, 20, 9),
        signals=np.array([1, 0.5, -0.7] * 3, np.float32), negatives=rng.integers(-1, 20, (9, 4)),
        log_q=np.full(20, -2.0, np.float32),
    )  # fmt: skip
    pasts = tuple(Past(f"e{n}", names[n], "ann", "click", 0.6, 100.0 + n) for n in range(5))
    histories = [History(pasts[: 2 + n], rows(2 + n, 8), 200.0) for n in range(3)]
    return candidate, UserBatch(histories, rows(3, 8), rows(3, 4, 8))


def test_restored_towers_answer_the_same_and_go_on_as_if_never_stopped(store: CheckpointStore):
    training = Training(SMALL, np.eye(8, WIDE, dtype=np.float32))
    candidate, users = lesson(1)
    training.update_candidate(candidate)
    training.update_users([users])
    made = saved(store, training.arrays())
    settings, arrays = store.load(made.checkpoint_id)
    for name, array in training.arrays().items():
        assert arrays[name].tobytes() == array.tobytes(), name
    here, there = Tower(SMALL, training.arrays()), Tower(settings, arrays)
    assert np.array_equal(here.items(candidate.items), there.items(candidate.items))
    assert np.array_equal(here.users(users.histories), there.users(users.histories))
    again = Training.restored(settings, arrays)
    candidate, users = lesson(2)
    for one in (training, again):
        one.update_candidate(candidate)
        one.update_users([users])
    for name, array in training.arrays().items():
        assert again.arrays()[name].tobytes() == array.tobytes(), name
    assert saved(store, training.arrays()) == saved(store, again.arrays())

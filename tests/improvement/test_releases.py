"""Blue and green: one atomic switch, a walkable history, nothing remembered by a process."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from pymongo.database import Database

from improvement.domain import SearchDomain
from improvement.errors import Conflict, NotFound
from improvement.releases import Releases, physical_name
from improvement.wiring import Rooms
from tests.support import make_objects


@pytest.fixture
def releases(rooms: Rooms) -> Releases:
    return rooms.releases


def models_of(releases: Releases, domain: SearchDomain) -> dict[str, bool]:
    return {release.embedding_model_id: release.blue for release in releases.list(domain.name)}


def test_a_domain_starts_with_its_encoders_collection_blue(releases: Releases, domain: SearchDomain):
    assert models_of(releases, domain) == {"words-v1": True}
    releases.ensure(domain)
    assert models_of(releases, domain) == {"words-v1": True}


def test_a_switch_is_seen_at_once_by_everybody(rooms: Rooms, domain: SearchDomain, database: Database[Any]):
    another = Releases(rooms.releases._client, database)
    rooms.releases.create(domain, "v2")
    for wanted in ("v2", "words-v1", "v2"):
        rooms.releases.set_blue(domain.name, wanted)
        assert another.blue(domain.name).embedding_model_id == wanted


def test_rollback_walks_the_history_backwards(releases: Releases, domain: SearchDomain):
    for model in ("v2", "v3"):
        releases.create(domain, model)
        releases.set_blue(domain.name, model)
    releases.set_blue(domain.name, "v3")  # again: nothing to promote, nothing to undo
    assert releases.rollback(domain.name).embedding_model_id == "v2"
    assert releases.rollback(domain.name).embedding_model_id == "words-v1"
    with pytest.raises(Conflict, match="no earlier blue"):
        releases.rollback(domain.name)


def test_after_a_rollback_a_new_promotion_can_be_undone_too(releases: Releases, domain: SearchDomain):
    releases.create(domain, "v2")
    for _ in range(3):
        releases.set_blue(domain.name, "v2")
        assert releases.rollback(domain.name).embedding_model_id == "words-v1"


def test_rolling_back_to_a_deleted_collection_is_refused(releases: Releases, domain: SearchDomain):
    releases.create(domain, "v2")
    releases.set_blue(domain.name, "v2")
    releases.delete(domain.name, "words-v1")
    with pytest.raises(Conflict, match="was deleted"):
        releases.rollback(domain.name)
    assert releases.blue(domain.name).embedding_model_id == "v2"


def test_a_promotion_that_died_before_its_switch_is_passed_over(
    releases: Releases, domain: SearchDomain, monkeypatch: pytest.MonkeyPatch
):
    for model in ("v2", "v3"):
        releases.create(domain, model)
    releases.set_blue(domain.name, "v2")
    with monkeypatch.context() as patched:
        patched.setattr(Releases, "_switch", lambda *_: (_ for _ in ()).throw(ConnectionError("gone")))
        with pytest.raises(ConnectionError):
            releases.set_blue(domain.name, "v3")
    assert releases.blue(domain.name).embedding_model_id == "v2"
    assert releases.rollback(domain.name).embedding_model_id == "words-v1"


def test_what_is_blue_cannot_be_deleted_and_what_is_unknown_not_found(
    releases: Releases, domain: SearchDomain
):
    with pytest.raises(Conflict, match="is blue"):
        releases.delete(domain.name, "words-v1")
    for call in (releases.get, releases.set_blue, releases.delete):
        with pytest.raises(NotFound, match="'v9'"):
            call(domain.name, "v9")
    with pytest.raises(NotFound, match="no blue"):
        releases.blue("another-domain")


def test_creating_at_once_from_many_threads_makes_one_collection(releases: Releases, domain: SearchDomain):
    failures: list[Exception] = []

    def create() -> None:
        try:
            releases.create(domain, "v2")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert models_of(releases, domain) == {"words-v1": True, "v2": False}


def test_searches_during_twenty_switches_all_succeed(rooms: Rooms, domain: SearchDomain):
    releases, vectors, info = rooms.releases, rooms.vectors, domain.search_index_info
    releases.create(domain, "v2")
    objects = make_objects(domain, 20)
    for model in ("words-v1", "v2"):
        vectors.upsert(physical_name(domain.name, model), objects)
    stop = threading.Event()
    failures: list[Exception] = []
    answers: list[Sequence[Any]] = []

    def search() -> None:
        while not stop.is_set():
            try:
                hits, _ = vectors.search(domain.name, info, objects[0].parts[0], 5)
                answers.append([hit.object_id for hit in hits])
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(20):
        releases.set_blue(domain.name, ("v2", "words-v1")[turn % 2])
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(answers) > 20
    assert all(answer == answers[0] for answer in answers)

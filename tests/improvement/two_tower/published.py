"""A domain with objects, towers that serve it, and users who came back."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from improvement.domain import SearchDomain
from improvement.green.settings import GateSettings
from improvement.improver import Improver
from improvement.objects import Object, Vectors
from improvement.routes import catalogue
from improvement.two_tower.beginning import begin_towers
from improvement.two_tower.names import towers_name
from improvement.two_tower.pairs import Pair
from improvement.two_tower.sampling import Reason
from improvement.two_tower.settings import TowerSettings
from improvement.wiring import Rooms
from tests.support import make_object

SETTINGS = TowerSettings(size=8, hidden=12, heads=2, authors=16, actions=16, min_engagements=2)
GATE = GateSettings(least_sessions=2, margin=1.0, least_overlap=0.0, least_coverage=0.0)


def with_towers(domain: SearchDomain, **changes: object) -> SearchDomain:
    """Return a domain with small towers, whose gate lets nearly everything pass."""
    return replace(domain, towers=replace(SETTINGS, **changes), gate=GATE)  # type: ignore[arg-type]


def write(rooms: Rooms, domain: SearchDomain, objects: Sequence[Object]) -> None:
    """Write objects as the API does."""
    catalogue(rooms, domain).upsert(objects, rooms.releases.space(domain.name))


def some_objects(domain: SearchDomain, count: int, seed: int = 0, start: int = 0) -> list[Object]:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, domain.search_index_info.dimensions)).astype(np.float32)
    return [
        make_object(f"o{start + n}", domain.prepare_vectors(row), payload={"n": n, "author": f"a{n % 3}"})
        for n, row in enumerate(rows)
    ]


def begun(rooms: Rooms, worker: Improver, domain: SearchDomain, count: int = 30) -> list[Object]:
    """Write objects, and have the untrained towers serve; return the objects."""
    objects = some_objects(domain, count)
    write(rooms, domain, objects)
    assert begin_towers(worker, domain) == 1
    return objects


def trained(
    worker: Improver, domain: SearchDomain, watermark: float, seed: int = 1, head: bool = True
) -> str:
    """Store a checkpoint that differs from the serving one, and make it the head; return its id."""
    serving = worker.towers.serving(domain.name)
    assert serving is not None
    settings, arrays = worker.checkpoints.load(serving.checkpoint_id)
    rng = np.random.default_rng(seed)
    for name in ("model.mlp.2.weight", "model.user_projection.weight"):
        arrays[name] = (0.1 * rng.standard_normal(arrays[name].shape)).astype(np.float32)
    base = worker.checkpoints.get(serving.checkpoint_id).base_space
    made = worker.checkpoints.save(
        domain.name, settings, arrays, parent=serving.checkpoint_id, base_space=base, watermark=watermark,
        trained="candidate", engagements=1_000, losses=(2.0, 1.5),
    ).checkpoint_id  # fmt: skip
    if head:
        with worker.training.held(domain.name, 60) as hold:
            assert hold is not None
            hold.save(head=made)
    return made


def engaged(domain: SearchDomain, user_id: str, object_ids: Iterable[str], received_at: float) -> list[Pair]:
    """Return engagements of a user, a second apart."""
    return [
        Pair(
            f"a:{user_id}:{object_id}", domain.name, user_id, object_id, None, "like", 0.8, Reason.ENGAGED,
            None, None, "", received_at + n, received_at + n,
        )
        for n, object_id in enumerate(object_ids)
    ]  # fmt: skip


def come_back(rooms: Rooms, domain: SearchDomain, users: int = 4, watermark: float = 1_000.0) -> None:
    """Store what users did before a watermark, and one thing that each did after it."""
    for n in range(users):
        before, after = [f"o{(n + k) % 30}" for k in range(4)], [f"o{(n + 4) % 30}", f"o{(n + 9) % 30}"]
        rooms.pairs.add(engaged(domain, f"u{n}", before, watermark - 100))
        rooms.pairs.add(engaged(domain, f"u{n}", after, watermark + 10))


def held(rooms: Rooms, domain: SearchDomain, checkpoint_id: str | None = None) -> dict[str, Vectors]:
    """Return the vectors of a checkpoint's collection, the serving one's if none is named, by object id."""
    name = towers_name(domain.name)
    release = rooms.releases.blue(name) if checkpoint_id is None else rooms.releases.get(name, checkpoint_id)
    objects, _ = rooms.vectors.page(release.collection_id, 10_000)
    return {o.object_id: o.parts[0] for o in objects}


def move(rooms: Rooms, domain: SearchDomain, vectors: Mapping[str, Vectors]) -> None:
    """Move items in the collection that serves, as engagement does."""
    collection = rooms.releases.blue(towers_name(domain.name)).collection_id
    known = rooms.vectors.revisions(collection, vectors)
    rooms.vectors.move(collection, {i: (row, known[i].revision) for i, row in vectors.items()})

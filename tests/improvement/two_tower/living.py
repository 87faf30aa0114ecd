"""A domain whose towers serve: items in their space, and everything that learns from engagement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clickstream.records import Action, ReceivedAction
from improvement.domain import SearchDomain
from improvement.evidence import EvidenceWeights
from improvement.objects import Vectors
from improvement.two_tower.engagement import Engagement
from improvement.two_tower.entries import Entry, Kind
from improvement.two_tower.live import LiveTowers
from improvement.two_tower.names import towers_domain, towers_name
from improvement.two_tower.pairs import Pair
from improvement.two_tower.settings import TowerSettings
from improvement.wiring import Rooms
from tests.support import make_object

SIZE = 8


def with_towers(domain: SearchDomain, **changes: Any) -> SearchDomain:
    settings = replace(TowerSettings(size=SIZE, heads=2, history=40, min_engagements=3), **changes)
    return replace(domain, towers=settings, evidence=EvidenceWeights())


def unit_rows(count: int, seed: int = 0, size: int = SIZE) -> Vectors:
    rows = np.random.default_rng(seed).standard_normal((count, size))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def angle(one: Any, other: Any) -> float:
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    across = np.linalg.norm(one / np.linalg.norm(one) - other / np.linalg.norm(other))
    return float(2 * np.arcsin(min(1.0, across / 2)))


@dataclass
class World:
    rooms: Rooms
    domain: SearchDomain

    @property
    def name(self) -> str:
        return self.domain.name

    def live(self, **changes: Any) -> LiveTowers:
        rooms = self.rooms
        made = LiveTowers(
            rooms.domains, rooms.entries, rooms.pairs, rooms.vectors, rooms.towers, rooms.clickstream,
            rooms.actions, rooms.learning, rooms.metrics,
        )  # fmt: skip
        return replace(made, **changes)

    def serve(self, checkpoint: str, count: int = 12, seed: int = 0) -> Vectors:
        """Have a space serve, with items o0, o1 ... of authors a0, a1, a2; return their vectors."""
        release = self.rooms.releases.create(towers_domain(self.domain), checkpoint)
        rows = unit_rows(count, seed)
        its = [make_object(f"o{n}", rows[n], payload={"author": f"a{n % 3}"}) for n in range(count)]
        self.rooms.vectors.upsert(release.collection_id, its)
        self.rooms.releases.set_blue(towers_name(self.name), checkpoint)
        return rows

    def user(self, name: str) -> Entry | None:
        return self.rooms.entries.load(self.name, [(Kind.USER, name)]).get((Kind.USER, name))

    def item(self, name: str) -> Entry | None:
        return self.rooms.entries.load(self.name, [(Kind.ITEM, name)]).get((Kind.ITEM, name))

    def shown(self, *names: str) -> Mapping[str, Vectors]:
        """Return what the collection that serves holds."""
        serving = self.rooms.towers.serving(self.name)
        assert serving is not None
        return self.rooms.vectors.means(serving.collection_id, names or [f"o{n}" for n in range(12)])

    def pairs(self) -> dict[str, Pair]:
        return {pair.pair_id: pair for pair in self.rooms.pairs.between(self.name, 0, 1e12, vectors=True)}

    def say(
        self, number: int, user: str = "ann", item: str = "o1", action: str = "like", signal: float = 0.9
    ) -> Engagement:
        return Engagement(f"a:{number}", self.name, user, item, action, signal, 1e9 + number, 1e9 + number)

    def act(
        self, number: int, user: str = "ann", item: str = "o1", kind: str = "like_post", **more: Any
    ) -> Action:
        return Action(
            action_id=str(number), user_id=user, object_id=item, action_type=kind, domain=self.name, **more
        )

    def log(self, *actions: Action) -> Sequence[ReceivedAction]:
        return self.rooms.actions.push(actions)

    def state(self) -> dict[str, Any]:
        """Return all that towers learned, but for versions and times."""
        rooms = self.rooms
        entries = {}
        for document in rooms.entries._entries.find({"domain": self.name}):
            key = Kind(document["kind"]), document["id"]
            entry = rooms.entries.load(self.name, [key])[key]
            entries[key] = (
                plain(entry.vector), plain(entry.base), entry.space, entry.count,
                entry.pasts, entry.heard, entry.due,
            )  # fmt: skip
        pairs = {
            name: (
                pair.user_id, pair.object_id, pair.author, pair.signal,
                plain(pair.user_vector), plain(pair.item_vector),
            )
            for name, pair in self.pairs().items()
        }  # fmt: skip
        return {"entries": entries, "pairs": pairs, "shown": {n: plain(v) for n, v in self.shown().items()}}


def plain(vector: Vectors | None) -> list[float] | None:
    return None if vector is None else np.round(vector.astype(np.float64), 5).tolist()

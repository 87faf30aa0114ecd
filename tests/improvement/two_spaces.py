"""A domain in two embedding spaces of different sizes, with collections of both, and users who search it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clickstream.improvement_queue import Owner, Request
from improvement.domain import SearchDomain
from improvement.improver import Improver
from improvement.jobs import run_improvement
from improvement.objects import Object
from improvement.releases import Release
from improvement.wiring import Rooms, improver
from tests.support import WordEncoder, click, make_domain, make_object, make_session

FIRST, SECOND = "words-v1", "words-v2"
TEXTS = {
    f"o{n}": text for n, text in enumerate(["red shoes", "blue hat", "red hat", "green coat", "old boots"])
}


def in_two_spaces(domain: SearchDomain, **changes: Any) -> SearchDomain:
    """The domain, and itself in a space of 24 dimensions."""
    other = make_domain(domain.name, dimensions=24, encoder=WordEncoder(24, SECOND))
    variant = replace(other, evidence=domain.evidence, profiles=domain.profiles, copies=domain.copies)
    return replace(domain, variants=(replace(variant, **changes),))


def objects_in(domain: SearchDomain) -> list[Object]:
    """The objects as this space embeds them."""
    rows = domain.embed(list(TEXTS.values()))
    return [
        make_object(object_id, row, texts=(text,))
        for (object_id, text), row in zip(TEXTS.items(), rows, strict=True)
    ]


@dataclass
class Worlds:
    """A domain whose objects are in as many collections as a test wants."""

    rooms: Rooms
    domain: SearchDomain

    def __post_init__(self) -> None:
        blue = self.rooms.releases.blue(self.domain.name).collection_id
        self.rooms.vectors.upsert(blue, objects_in(self.domain))

    @property
    def improver(self) -> Improver:
        return improver(self.rooms)

    def fill(self, release: Release) -> Release:
        """Bring everything that serves to a collection, as a build does."""
        blue = self.rooms.releases.blue(self.domain.name)
        brought, _, _ = self.rooms.mirror.fill(self.domain, blue, release, 100, None)
        assert brought.written == len(TEXTS)
        return release

    def green(self, name: str = SECOND, space: str = SECOND, follows: bool = True) -> Release:
        """A filled collection beside the one that serves."""
        here = self.domain.in_space(space)
        release = self.rooms.releases.create(here, name, space=space)
        self.rooms.releases.follow(release, follows)
        self.fill(release)
        return self.rooms.releases.get(self.domain.name, name)

    def search(
        self, session_id: str, user: str, clicked: str = "o1", query: str = "red shoes", **changes: Any
    ) -> None:
        session = make_session(session_id, user, list(TEXTS), query, domain=self.domain.name, **changes)
        self.rooms.clickstream.register(session)
        self.rooms.clickstream.push_events([(session_id, click(clicked))])
        self.ask(session_id, user)

    def ask(self, session_id: str, user: str) -> None:
        version = self.rooms.clickstream.version(session_id) or 1
        self.rooms.queue.enqueue([Request(session_id, Owner(self.domain.name, user), version)])

    def again(self, *users: str) -> None:
        self.rooms.queue.enqueue_rebuild(Owner(self.domain.name, user) for user in users)

    def improve(self) -> int:
        return run_improvement(self.improver, 100, idle_seconds=1e9)

    def status(self, session_id: str) -> str:
        entry = self.rooms.queue.entry(session_id)
        assert entry is not None
        return entry.status.value

    def copies(self, release: Release, users: Sequence[str] = ("ann", "bob")) -> dict[tuple[str, str], bytes]:
        """What these users' copies are, to compare."""
        refs = self.rooms.vectors.copies(release.collection_id, list(users))
        names = [f"{ref.original_id}_{ref.user_id}" for ref in refs]
        found = self.rooms.vectors.named(release.collection_id, names) if names else []
        return {
            (str(o.user_id), str(o.original_id)): np.concatenate([o.parts, o.mean[None]]).tobytes()
            for o in found
        }

    def alone(self, release: Release, users: Sequence[str] = ("ann", "bob")) -> dict[tuple[str, str], bytes]:
        """What their copies would be, were they made from nothing with this the only collection."""
        releases, vectors = self.rooms.releases, self.rooms.vectors
        before = releases.blue(self.domain.name)
        followers = releases.world(self.domain.name).followers
        for one in followers:
            releases.follow(one, False)
        releases.set_blue(self.domain.name, release.embedding_model_id)
        vectors.erase(release.collection_id, list(users))
        self.again(*users)
        self.improve()
        found = self.copies(release, users)
        releases.set_blue(self.domain.name, before.embedding_model_id)
        for one in followers:
            releases.follow(one, True)
        return found

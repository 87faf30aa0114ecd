"""The user tower reads users: what it says of a history takes the place of what engagement made of it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from improvement.domain import SearchDomain
from improvement.improver import Improver
from improvement.objects import Vectors
from improvement.two_tower.entries import Entry
from improvement.two_tower.facts import History
from improvement.two_tower.live import rate_of
from improvement.two_tower.moves import user_of
from improvement.two_tower.serving import TowerServing
from improvement.two_tower.user_vectors import faded

#: Users whom one time reads at most; the others stay due.
MOST = 5_000


def read_users(rooms: Improver, domain: SearchDomain) -> int:
    """Have the user tower read what users did since it last did; return how many users.

    Users with news, and those whose vectors are of another space than serves, ``user_batch`` at a time. Who
    has fewer than ``min_engagements`` keeps what engagement made of them, in the space that serves. Whoever
    acts meanwhile stays due, and who is erased meanwhile stays erased.
    """
    settings = domain.towers
    assert settings is not None
    if not rate_of(rooms.learning, domain):
        return 0
    read = 0
    while read < MOST:
        serving = rooms.towers.serving(domain.name)
        if serving is None:
            break
        size = min(settings.user_batch, MOST - read)
        due = rooms.entries.due_users(domain.name, size, serving.checkpoint_id)
        if not due:
            break
        after = _read(rooms, domain, due, serving)
        done = len(after) - len(rooms.entries.save(after))
        if not done:  # all of them act just now
            break
        read += done
    return read


def _read(
    rooms: Improver, domain: SearchDomain, users: Sequence[Entry], serving: TowerServing
) -> list[Entry]:
    settings = domain.towers
    assert settings is not None
    pasts = [entry.pasts[-settings.history :] for entry in users]
    wanted = {past.object_id for of in pasts for past in of}
    items = rooms.vectors.means(serving.collection_id, wanted)
    known = [[past for past in of if past.object_id in items] for of in pasts]
    rows = [np.stack([items[past.object_id] for past in of]) if of else _none(settings.size) for of in known]
    enough = [n for n, entry in enumerate(users) if known[n] and entry.count >= settings.min_engagements]
    made: dict[int, Vectors] = {}
    if enough:
        tower = rooms.towers.tower(serving.checkpoint_id)
        now = rooms.clock()
        said = tower.users([History(known[n], rows[n], now) for n in enough])
        made = {n: row for n, row in zip(enough, said, strict=True) if row.any()}
    after = []
    for n, entry in enumerate(users):
        vector = made.get(n, entry.vector)
        if n not in made and entry.space != serving.checkpoint_id:
            vector = user_of(
                list(rows[n]), faded([past.signal for past in known[n]], 1 - settings.user_rate).tolist()
            )
        after.append(replace(entry, vector=vector, space=serving.checkpoint_id, due=False))
    return after


def _none(size: int) -> Vectors:
    return np.zeros((0, size), np.float32)

"""Negatives for engagements: drawn from the log, and stored as training pairs with the vectors that serve."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np

from improvement.domain import SearchDomain
from improvement.improver import Improver
from improvement.objects import Vectors
from improvement.two_tower.entries import Kind
from improvement.two_tower.facts import ItemFacts
from improvement.two_tower.pairs import Pair
from improvement.two_tower.passed_over import shown_before
from improvement.two_tower.sampling import Positive, Reason, draw_negatives
from improvement.two_tower.settings import TowerSettings

#: Of each engagement, the negatives drawn for it, and why these.
Drawn = Sequence[Sequence[tuple[str, Reason]]]


def drawn_for(
    rooms: Improver,
    domain: SearchDomain,
    settings: TowerSettings,
    positives: Sequence[Positive],
    moments: Sequence[float],
    engaged: Mapping[str, Collection[str]],
    name: str,
    keep: Callable[[], object],
) -> Drawn:
    """Draw negatives for each positive: shown to its user before, or else random ones of the same time.

    Random ones are drawn from what was shown to anybody, and from what these positives are about.

    Args:
        moments: when each was received, seconds since 1970.
        engaged: user id -> objects that the user engaged with, as far as is known.
        name: equal names, settings and logs draw the same.
        keep: called between pages of the log.
    """
    if not positives:
        return []
    users = {one.user_id for one in positives}
    seen, pool = shown_before(rooms, domain, users, moments, settings.negative_seconds, keep)
    pool += [(one.object_id, one.at) for one in positives]
    never = {user: frozenset(objects) for user, objects in engaged.items()}
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    rng = np.random.default_rng([settings.seed, int.from_bytes(digest, "big")])
    within = settings.negative_seconds
    return draw_negatives(positives, seen, never, pool, settings.negatives, within, rng)


def store_drawn(
    rooms: Improver, domain: SearchDomain, batch: str, pairs: Sequence[Pair], drawn: Drawn, facts: ItemFacts
) -> None:
    """Store drawn negatives as pairs of a batch; repeating it changes nothing.

    Whoever was erased since the batch was read is erased again: their pairs are gone by now, these came late.
    """
    space, vectors = _serving_items(rooms, domain, {one for those in drawn for one, _ in those})
    authors = dict(zip(facts.object_ids, facts.authors, strict=True))
    rooms.pairs.add(
        [
            Pair(
                pair_id=f"n:{number}:{pair.pair_id}", domain=domain.name, user_id=pair.user_id,
                object_id=object_id, author=authors.get(object_id), action=pair.action, signal=0.0,
                reason=why, user_vector=pair.user_vector,
                item_vector=vectors.get(object_id) if pair.space == space else None, space=pair.space,
                at=pair.at, received_at=pair.received_at, batch=batch,
            )
            for pair, those in zip(pairs, drawn, strict=True)
            for number, (object_id, why) in enumerate(those)
        ]
    )  # fmt: skip
    there = rooms.pairs.known(domain.name, [pair.pair_id for pair in pairs])
    for user in {pair.user_id for pair in pairs if pair.pair_id not in there}:
        rooms.pairs.erase(user)


def _serving_items(
    rooms: Improver, domain: SearchDomain, object_ids: Iterable[str]
) -> tuple[str | None, Mapping[str, Vectors]]:
    """Return the space that serves, and the vectors (S,) of these items in it; None where none does."""
    wanted = sorted(set(object_ids))
    serving = rooms.towers.serving(domain.name)
    while serving is not None:
        entries = rooms.entries.load(domain.name, [(Kind.ITEM, one) for one in wanted]).values()
        try:
            said = rooms.vectors.told(serving.collection_id, wanted)
            placed = {each: told.mean for each, told in said.items() if told.mean is not None}
            moved = {
                entry.id: entry.vector
                for entry in entries
                if entry.vector is not None and entry.space == serving.checkpoint_id
                if entry.id in placed and entry.content == said[entry.id].revision
            }
            return serving.checkpoint_id, placed | moved
        except Exception:  # it may have been replaced and deleted meanwhile
            if serving == (serving := rooms.towers.serving(domain.name)):
                raise
    return None, {}

"""Training pairs and histories as the batches that updates learn from; pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from improvement.objects import Vectors
from improvement.two_tower.batches import CandidateBatch, UserBatch
from improvement.two_tower.facts import History, ItemFacts, Past
from improvement.two_tower.pairs import Pair
from improvement.two_tower.sampling import log_frequencies


def unusable(pair: Pair, size: int, spaces: Collection[str]) -> str | None:
    """Return why the candidate tower cannot learn from an engagement; None if it can.

    Args:
        size: dimensions of the towers' space.
        spaces: checkpoints of the towers' lineage: vectors of any other say nothing to these.
    """
    if pair.user_vector is None:
        return "its user had no vector"
    if pair.space not in spaces:
        return "its vectors are of another space"
    if pair.user_vector.shape != (size,) or not np.isfinite(pair.user_vector).all():
        return f"user_vector: expected {size} finite numbers"
    if not isfinite(pair.signal) or not 0 < abs(pair.signal) <= 1:
        return "signal: expected a number from -1 to 1, and not 0"
    if not isfinite(pair.at) or not isfinite(pair.received_at):
        return "at, received_at: expected finite numbers"
    return None


def candidate_batch(
    pairs: Sequence[Pair],
    negatives: Sequence[Sequence[str]],
    facts: ItemFacts,
    counts: Mapping[str, int],
    count: int,
) -> CandidateBatch:
    """Return engagements with their drawn negatives as the candidate tower learns from them.

    Args:
        pairs: n usable ones (`unusable`) of objects that facts has.
        negatives: of each, object ids; those without facts are left out.
        counts: how often each object was engaged with lately, for the log-Q correction.
        count: negatives of a pair at most.
    """
    places = {object_id: place for place, object_id in enumerate(facts.object_ids)}
    drawn = np.full((len(pairs), count), -1, np.int64)
    for row, its in enumerate(negatives):
        found = [places[one] for one in its if one in places][:count]
        drawn[row, : len(found)] = found
    users = {pair.user_id: None for pair in pairs}
    numbers = {user: number for number, user in enumerate(users)}
    return CandidateBatch(
        users=np.stack([_unit(pair.user_vector) for pair in pairs if pair.user_vector is not None]),
        items=facts,
        chosen=np.array([places[pair.object_id] for pair in pairs], np.int64),
        signals=np.array([pair.signal for pair in pairs], np.float32),
        negatives=drawn,
        log_q=log_frequencies(facts.object_ids, counts, len(pairs)),
        owners=np.array([numbers[pair.user_id] for pair in pairs], np.int64),
    )


@dataclass(frozen=True)
class Next:
    """What a user engaged with next, and what was before it, oldest first and not empty."""

    user_id: str
    before: Sequence[Past]
    target: Past


def next_of(user_id: str, pasts: Sequence[Past]) -> Next | None:
    """Return a user's newest positive engagement, and those before it; None where there are none."""
    for place in range(len(pasts) - 1, 0, -1):
        if pasts[place].signal > 0:
            return Next(user_id, pasts[:place], pasts[place])
    return None


def user_batch(
    nexts: Sequence[Next], negatives: Sequence[Sequence[str]], vectors: Mapping[str, Vectors], count: int
) -> UserBatch | None:
    """Return users as the user tower learns from them; None where nothing is left of them.

    Left out are items without a vector, and users without a target, a history or a negative then.

    Args:
        negatives: of each user, object ids.
        vectors: unit vectors of items, (S,); zeros for those that have no direction.
        count: negatives of a user at most.
    """
    histories, positives, drawn = [], [], []
    for one, its in zip(nexts, negatives, strict=True):
        before = [past for past in one.before if _there(vectors, past.object_id)]
        away = [vectors[object_id] for object_id in its if _there(vectors, object_id)][:count]
        if before and away and _there(vectors, one.target.object_id):
            items = np.stack([vectors[past.object_id] for past in before])
            histories.append(History(tuple(before), items, one.target.at))
            positives.append(vectors[one.target.object_id])
            nothing = [np.zeros_like(away[0])] * (count - len(away))
            drawn.append(np.stack([*away, *nothing]))
    return UserBatch(histories, np.stack(positives), np.stack(drawn)) if histories else None


def _there(vectors: Mapping[str, Vectors], object_id: str) -> bool:
    return object_id in vectors and bool(vectors[object_id].any())


def _unit(row: Vectors) -> Vectors:
    length = float(np.linalg.norm(row.astype(np.float64)))
    made: Vectors = (row / length if length > 0 else row).astype(np.float32)
    return made

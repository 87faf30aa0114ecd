"""One batch of the candidate tower: claimed, its negatives drawn and stored, learned from, and ended."""

import math
from collections import Counter
from collections.abc import Callable, Sequence

import structlog

from improvement.domain import SearchDomain
from improvement.errors import Invalid
from improvement.improver import Improver
from improvement.two_tower.entries import Kind
from improvement.two_tower.examples import candidate_batch, unusable
from improvement.two_tower.lineage import STOPPED, Resumed, rate, stop, successor
from improvement.two_tower.negatives import drawn_for, store_drawn
from improvement.two_tower.pairs import Pair
from improvement.two_tower.progress import Hold
from improvement.two_tower.sampling import Positive, Reason
from improvement.two_tower.sound import go_on

log = structlog.get_logger()

#: Called after every gradient step with its number, from 1, of how many, and its loss.
Progress = Callable[[int, int, float], object]
#: Newest engagements of a user that are known: none of these objects is a negative of theirs.
KNOWN = 10_000
#: Engagements that wait for a batch, counted at most.
WAITING = 1_000_000


def train_batch(rooms: Improver, domain: SearchDomain, hold: Hold, progress: Progress) -> None:
    """Train one batch, or the one that a dead worker left, and make its checkpoint the head.

    Everything before the last write can be repeated: the batch is named before it has engagements, claiming
    is repeatable, negatives have ids of their own, and equal checkpoints are one.
    """
    from improvement.two_tower.trainer import LossIsNaN

    assert domain.towers is not None
    assert hold.state.head is not None
    head, batch = hold.state.head, hold.state.batch
    if batch is None:
        number = hold.state.batches + 1
        batch = f"{head[:16]}-{number}"
        hold.save(batch=batch, batches=number)
    rooms.pairs.claim(domain.name, batch, domain.towers.candidate_every)
    its = rooms.pairs.of_batch(domain.name, batch)
    learned = hold.state.learned + len(its)
    one = go_on(rooms, domain, hold)
    head = one.parent.checkpoint_id
    pairs, left_out = _usable(rooms, domain, one, its)
    drawn = _draw(rooms, domain, one, batch, pairs, hold)
    ids = [pair.object_id for pair in pairs] + [object_id for those in drawn for object_id, _ in those]
    facts = rooms.facts.of(domain, dict.fromkeys(ids), one.parent.base_space)
    hold.keep_on()
    known = set(facts.object_ids)
    there = [place for place, pair in enumerate(pairs) if pair.object_id in known]
    left_out["its object is gone"] += len(pairs) - len(there)
    pairs = [pairs[place] for place in there]
    drawn = [[each for each in drawn[place] if each[0] in known] for place in there]
    store_drawn(rooms, domain, batch, pairs, drawn, facts)
    hold.keep_on()

    def step(number: int, total: int, loss: float) -> None:
        hold.keep_on()
        progress(number, total, loss)

    losses: list[float] = []
    try:
        if pairs:
            ids_only = [[object_id for object_id, _ in those] for those in drawn]
            counts = counts_of(rooms, domain, pairs, learned)
            lesson = candidate_batch(pairs, ids_only, facts, counts, one.settings.negatives)
            losses = one.training.update_candidate(lesson, rate(rooms, domain), step)
        if not losses:
            hold.save(batch=None, reason=None, learned=learned)
            log.info("batch taught nothing", domain=domain.name, batch=batch, left_out=dict(+left_out))
            return
        newest = max(pair.received_at for pair in pairs)
        made = successor(rooms, one, "candidate", newest, len(pairs), losses)
    except (LossIsNaN, Invalid) as error:
        stop(
            rooms,
            domain,
            hold,
            head,
            f"batch {batch} of {len(pairs)} engagements",
            error,
            batch=None,
            learned=learned,
        )
        return
    hold.save(head=made.checkpoint_id, batch=None, reason=None, learned=learned)
    rooms.alerts.over(domain.name, STOPPED)
    log.info(
        "candidate tower trained", domain=domain.name, batch=batch, engagements=len(pairs),
        left_out=dict(+left_out), negatives=sum(map(len, drawn)), first_loss=losses[0],
        last_loss=losses[-1], checkpoint=made.checkpoint_id,
    )  # fmt: skip


def _usable(
    rooms: Improver, domain: SearchDomain, one: Resumed, its: Sequence[Pair]
) -> tuple[list[Pair], Counter[str]]:
    """Return the engagements that can be learned from, as they were received, and why not the others."""
    spaces = rooms.checkpoints.of_lineage(one.parent.lineage, {pair.space for pair in its})
    found: list[Pair] = []
    left_out: Counter[str] = Counter()
    for pair in its:
        why = unusable(pair, one.settings.size, spaces)
        if why is None:
            found.append(pair)
        else:
            left_out[why] += 1
    return sorted(found, key=lambda pair: (pair.received_at, pair.at, pair.pair_id)), left_out


def _draw(
    rooms: Improver, domain: SearchDomain, one: Resumed, batch: str, pairs: Sequence[Pair], hold: Hold
) -> list[Sequence[tuple[str, Reason]]]:
    """Return negatives of each pair; those that are no positives have none."""
    users = sorted({pair.user_id for pair in pairs})
    engaged: dict[str, set[str]] = {user: set() for user in users}
    for entry in rooms.entries.load(domain.name, [(Kind.USER, user) for user in users]).values():
        engaged[entry.id].update(past.object_id for past in entry.pasts)
    for user, known in rooms.pairs.of_users(domain.name, users, math.inf, KNOWN).items():
        engaged[user].update(pair.object_id for pair in known)
    for pair in pairs:
        engaged[pair.user_id].add(pair.object_id)
    hold.keep_on()
    places = [place for place, pair in enumerate(pairs) if pair.signal > 0]
    found = drawn_for(
        rooms, domain, one.settings,
        [Positive(pairs[place].user_id, pairs[place].object_id, pairs[place].at) for place in places],
        [pairs[place].received_at for place in places],
        engaged, batch, hold.keep_on,
    )  # fmt: skip
    drawn: list[Sequence[tuple[str, Reason]]] = [[] for _ in pairs]
    for place, those in zip(places, found, strict=True):
        drawn[place] = those
    return drawn


def counts_of(rooms: Improver, domain: SearchDomain, pairs: Sequence[Pair], learned: int) -> dict[str, int]:
    """Return how often each of the pairs' objects was engaged with, ever; under "", how often all others.

    Both count what was engaged with in the domain, and not what a checkpoint has learned from: to go back to
    an earlier one changes nothing of it.

    Args:
        learned: engagements that batches took, ever, this one's among them.
    """
    counts = Counter(pair.object_id for pair in pairs)
    keys = [(Kind.ITEM, object_id) for object_id in counts]
    for entry in rooms.entries.load(domain.name, keys).values():
        counts[entry.id] = max(counts[entry.id], entry.count)
    ever = learned + rooms.pairs.unclaimed(domain.name, WAITING)
    return {**counts, "": max(0, ever - sum(counts.values()))}  # no object has this id

"""One round of the user tower: users who did something, what each engaged with next, a step a batch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import numpy as np
import structlog

from improvement.domain import SearchDomain
from improvement.errors import Invalid
from improvement.improver import Improver
from improvement.objects import Vectors
from improvement.two_tower.examples import Next, next_of, user_batch
from improvement.two_tower.facts import Past
from improvement.two_tower.lineage import STOPPED, Resumed, rate, stop, successor
from improvement.two_tower.negatives import drawn_for
from improvement.two_tower.pairs import Pair
from improvement.two_tower.progress import Hold
from improvement.two_tower.sampling import Positive
from improvement.two_tower.sound import go_on
from improvement.two_tower.training_batch import KNOWN, Progress

log = structlog.get_logger()

#: Engagements since the last round that are looked at, for who did something.
READ = 50_000
#: Users with whom a round begins to say anything.
LEAST = 2


def train_round(rooms: Improver, domain: SearchDomain, hold: Hold, progress: Progress) -> int:
    """Take a step of the user tower for each batch of users, as one checkpoint; return how many steps."""
    from improvement.two_tower.trainer import LossIsNaN

    until = rooms.clock()
    active: dict[str, float] = {}
    seen = 0
    for pair in islice(rooms.pairs.stored_between(domain.name, hold.state.users_at, until), READ):
        active[pair.user_id] = max(pair.received_at, active.get(pair.user_id, 0.0))
        seen += 1
        if seen == READ and pair.stored_at is not None:  # the next round goes on there
            until = max(pair.stored_at, math.nextafter(hold.state.users_at, math.inf))
    one = go_on(rooms, domain, hold) if len(active) >= LEAST else None
    nexts, engaged, watermark = list[Next](), dict[str, set[str]](), 0.0
    if one is not None:
        watermark = max(one.parent.watermark, *active.values())
        nexts, engaged = _nexts(rooms, domain, one, sorted(active), watermark, hold)
    if one is None or len(nexts) < LEAST:
        if seen == READ:
            hold.save(users_at=until)
        return 0
    negatives = _draw(rooms, domain, one, nexts, engaged, hold)
    losses: list[float] = []
    size = one.settings.user_batch
    total = -(-len(nexts) // size)
    vectors = _Vectors(rooms, domain, one)
    share = rate(rooms, domain)
    try:
        for number, start in enumerate(range(0, len(nexts), size), 1):
            part, away = nexts[start : start + size], negatives[start : start + size]
            known = vectors.of(_objects(part, away))
            lesson = user_batch(part, away, known, one.settings.negatives)
            hold.keep_on()
            if lesson is not None:
                losses += one.training.update_users([lesson], share)
                progress(number, total, losses[-1] if losses else 0.0)
        if not losses:
            hold.save(users_at=until)
            return 0
        made = successor(rooms, one, "users", watermark, 0, losses)
    except (LossIsNaN, Invalid) as error:
        stop(
            rooms,
            domain,
            hold,
            one.parent.checkpoint_id,
            f"a round of {len(nexts)} users",
            error,
            users_at=until,
        )
        return 0
    hold.save(head=made.checkpoint_id, users_at=until, reason=None)
    rooms.alerts.over(domain.name, STOPPED)
    log.info(
        "user tower trained", domain=domain.name, users=len(nexts), steps=len(losses), first_loss=losses[0],
        last_loss=losses[-1], checkpoint=made.checkpoint_id,
    )  # fmt: skip
    return len(losses)


def _nexts(
    rooms: Improver, domain: SearchDomain, one: Resumed, users: Sequence[str], until: float, hold: Hold
) -> tuple[list[Next], dict[str, set[str]]]:
    """Return what is next of these users, of as many as a round takes, drawn at random.

    Args:
        until: what was received later is left to the next round, and to the test of this one's checkpoint.

    Returns:
        These, and what each user engaged with, as far as is known.
    """
    most, chunk = one.settings.user_batch * one.settings.user_batches, 1_000
    rng = np.random.default_rng([one.settings.seed, int(one.parent.checkpoint_id[:16], 16)])
    chosen = [users[place] for place in rng.permutation(len(users)).tolist()]
    found: list[Next] = []
    engaged: dict[str, set[str]] = {}
    for start in range(0, len(chosen), chunk):
        some, behind = chosen[start : start + chunk], math.nextafter(until, math.inf)
        did = rooms.pairs.of_users(domain.name, some, behind, KNOWN)
        for user in some:
            its = [_past(pair) for pair in did.get(user, [])]
            if (each := next_of(user, its[-one.settings.history - 1 :])) is not None:
                found.append(each)
                engaged[user] = {past.object_id for past in its}
        hold.keep_on()
        if len(found) >= most:
            break
    return found[:most], engaged


def _draw(
    rooms: Improver,
    domain: SearchDomain,
    one: Resumed,
    nexts: Sequence[Next],
    engaged: Mapping[str, set[str]],
    hold: Hold,
) -> list[list[str]]:
    found = drawn_for(
        rooms, domain, one.settings,
        [Positive(each.user_id, each.target.object_id, each.target.at) for each in nexts],
        [each.target.at for each in nexts],
        engaged,
        f"negatives of {one.parent.checkpoint_id}", hold.keep_on,
    )  # fmt: skip
    return [[object_id for object_id, _ in those] for those in found]


def _objects(nexts: Iterable[Next], negatives: Iterable[Iterable[str]]) -> set[str]:
    said = {past.object_id for each in nexts for past in (*each.before, each.target)}
    return said | {object_id for those in negatives for object_id in those}


def _past(pair: Pair) -> Past:
    return Past(pair.pair_id, pair.object_id, pair.author, pair.action, pair.signal, pair.at)


class _Vectors:
    """Vectors of items by the head's candidate tower, each computed once; objects that are gone have none."""

    def __init__(self, rooms: Improver, domain: SearchDomain, one: Resumed) -> None:
        from improvement.two_tower.tower import Tower

        self._rooms, self._domain, self._space = rooms, domain, one.parent.base_space
        self._tower = Tower(one.settings, one.arrays)
        self._known: dict[str, Vectors] = {}
        self._asked: set[str] = set()

    def of(self, object_ids: set[str]) -> dict[str, Vectors]:
        new = sorted(object_ids - self._asked)
        self._asked.update(new)
        if new:
            facts = self._rooms.facts.of(self._domain, new, self._space)
            self._known.update(zip(facts.object_ids, self._tower.items(facts), strict=True))
        return self._known

"""The training jobs: candidate tower every so many engagements, user tower every hour, archive every day."""

import structlog

from improvement.domain import SearchDomain
from improvement.improver import Improver
from improvement.two_tower.lineage import frozen
from improvement.two_tower.names import towers_name
from improvement.two_tower.progress import TrainingState
from improvement.two_tower.training_batch import Progress, train_batch
from improvement.two_tower.training_round import train_round

log = structlog.get_logger()

DAY = 86_400.0
#: Seconds after which a round of the user tower that failed is tried again.
RETRY = 300.0
#: Pairs archived at once.
CHUNK = 10_000


def train_candidate(rooms: Improver, domain: SearchDomain, progress: Progress = lambda *_: None) -> int:
    """Update the candidate tower from every ``candidate_every`` engagements; return how many batches.

    Each engagement is learned from once, whoever dies when: a batch has its id before it has engagements, and
    the new checkpoint becomes the head in the same update that ends the batch. While learning is frozen, of
    the domain or of its towers, engagements wait.

    Raises:
        LostTraining: it took so long that another worker took over; that one goes on.
    """
    if not _due(rooms, domain, rooms.training.of(domain.name)):
        return 0
    done = 0
    with rooms.training.held(domain.name, rooms.tower_lease) as hold:
        while hold is not None and _due(rooms, domain, hold.state):
            train_batch(rooms, domain, hold, progress)
            done += 1
    return done


def train_users(rooms: Improver, domain: SearchDomain, progress: Progress = lambda *_: None) -> int:
    """Update the user tower, if an hour has passed and users did something; return how many steps.

    Each user who engaged since the last round, at least two, is asked what comes next: the newest positive
    engagement, after those before it. The steps make one checkpoint.

    Raises:
        LostTraining: it took so long that another worker took over; that one goes on.
    """
    assert domain.towers is not None
    tick = f"tower users {domain.name}"
    if rooms.training.of(domain.name).head is None or frozen(rooms, domain):
        return 0
    with rooms.training.held(domain.name, rooms.tower_lease) as hold:
        # Held first: who cannot hold the towers leaves the tick to who can.
        if hold is None or not rooms.queue.take_tick(tick, domain.towers.user_every_seconds):
            return 0
        try:
            return train_round(rooms, domain, hold, progress)
        except BaseException:
            rooms.queue.hurry(tick, RETRY)
            raise


def archive_pairs(rooms: Improver, domain: SearchDomain) -> int:
    """Archive, once a day, training pairs that are older than the domain keeps; return how many.

    Checkpoints are pruned, too; the head stays, and those that a collection of the towers was made by.
    """
    assert domain.towers is not None
    now, moved = rooms.clock(), 0
    if now - rooms.training.of(domain.name).archived_at < DAY:
        return 0
    with rooms.training.held(domain.name, rooms.tower_lease) as hold:
        if hold is None or now - hold.state.archived_at < DAY:
            return 0
        before = now - domain.towers.archive_days * DAY
        while part := rooms.pairs.archive(domain.name, before, CHUNK):
            moved += part
            hold.keep()
        used = {release.space for release in rooms.releases.list(towers_name(domain.name))}
        used |= {one for one in (hold.state.head,) if one is not None}
        pruned = rooms.checkpoints.prune(domain.name, domain.towers.keep_checkpoints, used)
        hold.save(archived_at=now)
    log.info("training pairs archived", domain=domain.name, pairs=moved, checkpoints_deleted=pruned)
    return moved


def _due(rooms: Improver, domain: SearchDomain, state: TrainingState) -> bool:
    assert domain.towers is not None
    if state.head is None or frozen(rooms, domain):
        return False
    enough = domain.towers.candidate_every
    return state.batch is not None or rooms.pairs.unclaimed(domain.name, enough) >= enough

"""The job that makes a green collection, stage by stage; killed anywhere, it goes on from there."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import structlog
from dramatiq.middleware import TimeLimitExceeded

from improvement.domain import SearchDomain
from improvement.errors import StudioError
from improvement.green.builds import STORE_FAILURES, Build, BuildState, LostBuild, Stage
from improvement.green.gating import run_gate
from improvement.green.learned import learn
from improvement.green.orders import clear_up, spaces_of, unfollow
from improvement.improver import Improver
from improvement.jobs import improve_users
from improvement.releases import Release

log = structlog.get_logger()

#: Objects brought, and sessions claimed, between two looks at whether the build is still ours.
PAGE, USERS = 256, 256
#: Users queued for new copies in one request.
QUEUED = 1_000
#: Where the next page starts when there is none.
END = ""
#: Objects of which it is kept why they cannot be made.
REASONS = 20
#: Seconds between two looks at work that others do.
PAUSE = 0.25
#: Seconds without any progress after which a stage no longer waits: for copies that others make (they stay
#: queued), and for a server's index (it goes on building).
PATIENCE = 600.0


def run_builds(rooms: Improver, lease_seconds: float) -> int:
    """Do what is due of builds and gates, one after the other; return how many were taken.

    One that fails does not keep the others from theirs; the first failure is raised at the end.
    """
    tried: set[str] = set()
    failures: list[Exception] = []
    taken = 0
    while due := [build for build in waiting(rooms) if build.build_id not in tried]:
        tried.add(due[0].build_id)
        token = rooms.builds.claim(due[0], lease_seconds)
        if token is not None:
            taken += 1
            try:
                work_on(rooms, rooms.builds.get(due[0].build_id), token, lease_seconds)
            except Exception as error:
                log.warning("build stopped", domain=due[0].domain, build=due[0].build_id, error=repr(error))
                failures.append(error)
    if failures:
        raise failures[0]
    return taken


def work_on(
    rooms: Improver,
    build: Build,
    token: str,
    lease_seconds: float,
    progress: Callable[[Build], object] = lambda build: None,
) -> Build:
    """Build, or run the gate of, what was claimed; whatever stops it lets go of it, so that others can go on.

    Args:
        token: what the claim gave.
        lease_seconds: how long the build is held from page to page.
        progress: gets the build whenever it got further.

    Returns:
        The build as it is then. One that was cancelled, or is another worker's by now, is left quietly.
    """
    job = _Job(rooms, build, token, lease_seconds, progress)
    try:
        if build.attempts > rooms.max_attempts:
            return _give_up(job, f"given up after {rooms.max_attempts} attempts: {_last(build)}")
        return _build(job) if build.active else _gate(job)
    except LostBuild:
        clear_up(rooms, build)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        forgive = isinstance(error, STORE_FAILURES)
        if rooms.builds.give_back(build.build_id, token, reason, forgive):
            raise
        clear_up(rooms, build)  # it was taken away under us, which is why it failed
    except BaseException as stop:  # somebody wants this process; but what takes forever may be to blame
        rooms.builds.give_back(build.build_id, token, None, not isinstance(stop, TimeLimitExceeded))
        raise
    return rooms.builds.get(build.build_id)


def waiting(rooms: Improver) -> list[Build]:
    """Return what a worker could take now; builds of a domain that learns nothing wait."""
    due = rooms.builds.due()
    frozen = rooms.learning.frozen({build.domain for build in due if build.active}) if due else set()
    return [build for build in due if not (build.active and build.domain in frozen)]


@dataclass
class _Job:
    """A build in hand; `build` is as it was saved last."""

    rooms: Improver
    build: Build
    token: str
    lease_seconds: float
    progress: Callable[[Build], object]
    saved_at: float = 0.0

    @property
    def domain(self) -> SearchDomain:
        return self.rooms.domains[self.build.domain]

    def save(self, **changes: object) -> None:
        """Hold the build on, and tell how far it is; raises LostBuild."""
        builds = self.rooms.builds
        self.build = builds.save(self.build.build_id, self.token, self.lease_seconds, **changes)
        self.saved_at = time.monotonic()
        self.progress(self.build)

    def count(self, number: int) -> None:
        """Add to what is done, and save it now and then: for what is counted faster than it can be saved."""
        done = self.build.done + number
        if time.monotonic() - self.saved_at > min(1.0, self.lease_seconds / 4):
            self.save(done=done)
        else:
            self.build = replace(self.build, done=done)

    def enter(self, stage: Stage) -> None:
        """Begin a stage; to have come this far is to have got further."""
        now = self.rooms.builds.clock()
        log.info("building", domain=self.build.domain, build=self.build.build_id, stage=stage.value)
        self.save(stage=stage, stage_at=now, done=0, total=None, cursor=None, attempts=1)

    def finish(self, **changes: object) -> Build:
        """Let go of the build, for it is done."""
        self.build = self.rooms.builds.finish(self.build.build_id, self.token, **changes)
        self.progress(self.build)
        return self.build


def _build(job: _Job) -> Build:
    rooms, build = job.rooms, job.build
    if build.domain not in rooms.domains:
        return _give_up(job, f"domain {build.domain!r} is not configured")
    if build.space not in spaces_of(rooms, job.domain):
        return _give_up(job, f"no encoder of domain {build.domain!r} has the space {build.space!r} any more")
    if build.state is BuildState.QUEUED:
        job.save(state=BuildState.BUILDING, stage_at=rooms.builds.clock())
    order = list(STAGES)
    for stage in order[order.index(build.stage) :]:
        if stage is not job.build.stage:
            job.enter(stage)
        if not STAGES[stage](job):
            rooms.builds.give_back(build.build_id, job.token, None, forgive=True)
            return rooms.builds.get(build.build_id)
    done = job.finish(state=BuildState.BUILT, reason=None, attempts=0)
    log.info("built", domain=done.domain, build=done.build_id, collection=done.embedding_model_id)
    return done


def _evidence(job: _Job) -> bool:
    """Find out how what everybody chose turns the objects of the space that is built."""
    rooms, build = job.rooms, job.build
    if not build.population:
        return True
    domain = job.domain.at_rate(rooms.learning.of(build.domain).rate).in_space(build.space)

    def progress(what: str, count: int) -> None:
        job.count(count if what == "read" else 0)

    job.save(done=0)  # whoever died here has to be followed from the beginning
    learned = learn(rooms.clickstream, domain, rooms.propensities.get(build.domain), progress=progress)
    job.save()  # whoever took the build over writes these, too
    turns = learned.turns
    facts = {
        "taught_until": learned.taught_until, "learned": learned.sessions,
        "turned": len(learned.object_ids), "done": learned.read, "total": learned.read,
    }  # fmt: skip
    # Somebody who had the build before, and died behind this or is only late, may have been faster.
    counting = rooms.population.save(
        build.build_id, learned.object_ids, turns.targets, turns.amounts.tolist(), facts
    )
    job.save(**counting)
    return True


def _objects(job: _Job) -> bool:
    """Have every write reach the collection from now on, and fill it with what the blue one holds."""
    rooms, build = job.rooms, job.build
    target = rooms.releases.create(
        job.domain.in_space(build.space), build.embedding_model_id,
        space=build.space, build=build.build_id, population=build.population,
    )  # fmt: skip
    job.save()  # a build that was cancelled must not begin to follow again
    rooms.releases.follow(target, True)
    while True:
        source = rooms.releases.world(build.domain).blue
        filled, after = _place(job.build)
        if filled == source.collection_id and after == END:
            return True
        if filled != source.collection_id:  # the first page; or another collection serves now: all of it
            total, after = rooms.vectors.count(source.collection_id, None), None
            job.save(done=0, total=total, failed=0, failures={})
            rooms.releases.follow(target, True)  # whoever set it blue may have stopped what followed
        brought, count, after = rooms.mirror.fill(job.domain, source, target, PAGE, after)
        failures = job.build.failures | brought.failed
        job.save(
            done=job.build.done + count, cursor=_cursor(source, after or END), attempts=1,
            failed=job.build.failed + len(brought.failed), failures=_some(failures),
        )  # fmt: skip


def _copies(job: _Job) -> bool:
    """Have every user's copies made in the new collection, and help the workers that make them."""
    rooms, build = job.rooms, job.build
    if build.cursor is None:
        _reconcile(job)
        job.save(total=_queue_rebuilds(job), cursor="queued")
    moved_at, before = time.monotonic(), -1
    while left := len(rooms.queue.rebuilding(build.domain)):
        # Others' rebuilds are among them: they may be more than were queued.
        job.save(done=max(0, (job.build.total or 0) - left), **({} if left == before else {"attempts": 1}))
        if rooms.learning.of(build.domain).frozen:
            return False
        if left != before:
            moved_at, before = time.monotonic(), left
        elif time.monotonic() - moved_at > PATIENCE:
            log.warning("copies are left to be made later", domain=build.domain, users=left)
            break
        if not improve_users(rooms, USERS).ended:
            time.sleep(PAUSE)  # another worker has them
    return True


def _index(job: _Job) -> bool:
    """Have the engine build its index, and compare everything once more."""
    rooms = job.rooms
    target = rooms.releases.get(job.build.domain, job.build.embedding_model_id)
    if rooms.optimize is not None:
        # The engine stops this whole process meanwhile. Should the lease run out: whoever has the build then
        # finds the index made.
        rooms.optimize(target.collection_id)
    waited = time.monotonic()
    while not rooms.releases.indexed(target):
        job.save()
        if time.monotonic() - waited > PATIENCE:
            log.warning("the index is not waited for any longer", collection=target.collection_id)
            break
        time.sleep(PAUSE)
    rooms.releases.mark_indexed(target)
    if _reconcile(job):
        _queue_rebuilds(job)  # they are made behind the build: the copies of what has just come
    return True


#: What a build does, in this order; False says that it has to wait, and others may go on with it.
STAGES: Mapping[Stage, Callable[[_Job], bool]] = {
    Stage.EVIDENCE: _evidence,
    Stage.OBJECTS: _objects,
    Stage.COPIES: _copies,
    Stage.INDEX: _index,
}


def _gate(job: _Job) -> Build:
    """Run the gate that an operator asked for; a refusal is told, not tried again."""
    reason = None
    try:
        run_gate(job.rooms, job.build, progress=lambda *_: job.count(0))
    except LostBuild:
        raise
    except StudioError as error:
        if isinstance(error, STORE_FAILURES):
            raise
        reason = str(error)
    return job.finish(gate_asked=False, reason=reason, attempts=0)


def _reconcile(job: _Job) -> int:
    """Bring everything in line with the collection that serves; return how many objects were not."""
    rooms, build, changed = job.rooms, job.build, 0
    target = rooms.releases.get(build.domain, build.embedding_model_id)
    while True:
        source = rooms.releases.world(build.domain).blue
        job.save()  # a build that was cancelled must not begin to follow again
        rooms.releases.follow(target, True)  # whoever set the source blue may have stopped what followed
        brought = rooms.mirror.reconcile(job.domain, source, target, progress=lambda count: job.count(0))
        changed += brought.written + brought.deleted
        # What cannot be made is missing in every comparison.
        job.save(failed=len(brought.failed), failures=_some(brought.failed))
        if rooms.releases.world(build.domain).blue.collection_id == source.collection_id:
            return changed


def _queue_rebuilds(job: _Job) -> int:
    """Queue every user of the domain for new copies; return how many they are."""
    owners = job.rooms.queue.owners(job.build.domain)
    for start in range(0, len(owners), QUEUED):
        job.rooms.queue.enqueue_rebuild(owners[start : start + QUEUED])
        job.save()
    return len(owners)


def _give_up(job: _Job, reason: str) -> Build:
    """End a build, or a gate, that cannot be done."""
    log.error("build given up", domain=job.build.domain, build=job.build.build_id, reason=reason)
    if not job.build.active:
        return job.finish(gate_asked=False, reason=reason, attempts=0)
    done = job.finish(state=BuildState.FAILED, reason=reason)
    unfollow(job.rooms, done)
    return done


def _last(build: Build) -> str:
    return build.reason or "its worker died each time"


def _cursor(source: Release, after: str) -> str:
    return json.dumps([source.collection_id, after])


def _place(build: Build) -> tuple[str | None, str | None]:
    """Return which collection was being read, and from where the next page starts."""
    if build.cursor is None:
        return None, None
    collection_id, after = json.loads(build.cursor)
    return collection_id, after


def _some(failures: Mapping[str, str]) -> dict[str, str]:
    return dict(islice(failures.items(), REASONS))

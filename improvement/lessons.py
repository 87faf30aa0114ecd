"""What users who are to be improved were shown and did: read and judged once, for every collection."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from clickstream.improvement_queue import Entry, Outcome, Owner, Status
from improvement.copies import UsableSession
from improvement.domain import SearchDomain
from improvement.evidence import happened_at
from improvement.experiments.settings import Experiment
from improvement.experiments.treatment import evidence_for
from improvement.improver import Improver
from improvement.quality.limits import expires_at
from improvement.queries import failed


@dataclass(frozen=True)
class Lessons:
    """What a domain's users did.

    Attributes:
        entries: the users' pending lines in the queue.
        usable: sessions that say something, oldest first.
        teaching: those of them that teach copies.
        verdicts: why other sessions, or these, teach nothing; by session id.
        forgotten: the users of whom no session is left, perhaps because they were erased.
        experiment: the one that they may take part in, whose arms may weigh events their own way.
    """

    entries: Mapping[Owner, Sequence[Entry]]
    usable: Sequence[UsableSession]
    teaching: Sequence[UsableSession]
    verdicts: Mapping[str, Outcome]
    forgotten: frozenset[Owner]
    experiment: Experiment | None = None

    @property
    def users(self) -> list[str]:
        """Everybody who is somebody."""
        return [owner.user_id for owner in self.entries if owner.user_id is not None]

    @property
    def queued(self) -> frozenset[str]:
        """The sessions that are queued."""
        return frozenset(e.session_id for of in self.entries.values() for e in of if e.session_id is not None)

    def after(self, verdicts: Mapping[str, Outcome]) -> "Lessons":
        """Return what teaches the followers, once it is known what failed in the blue collection."""
        lost = {s for s in self.queued if s in verdicts and verdicts[s].status is Status.FAILED}
        kept = [one for one in self.teaching if one.session.session_id not in lost]
        return replace(self, teaching=kept, verdicts=verdicts)


def read_lessons(
    rooms: Improver,
    domain: SearchDomain,
    entries: Mapping[Owner, Sequence[Entry]],
    propensities: Sequence[float],
) -> Lessons:
    """Read all that these users were ever shown, and say what of it teaches and why the rest does not.

    A line about what is gone is not kept, for it names its user: a sweeper that read the session before an
    erasure queues it after.
    """
    pending = {entry.session_id: entry for of in entries.values() for entry in of if entry.session_id}
    exhausted = {s for s, entry in pending.items() if entry.attempts > rooms.max_attempts}
    taught = rooms.queue.taught_by(owner for owner in entries if owner.user_id is not None)
    wanted = {s for of in taught.values() for s in of} | set(pending)
    sessions = rooms.clickstream.sessions(wanted - exhausted)
    verdicts = {s: Outcome(Status.FAILED, f"given up after {rooms.max_attempts} attempts") for s in exhausted}
    known = exhausted | {session.session_id for session in sessions}
    for session_id in pending.keys() - known:
        verdicts[session_id] = Outcome(Status.FAILED, "session not found", keep=False)
    forgotten = {owner for owner, of in taught.items() if not known.intersection(of)}
    usable = []
    for session in sorted(sessions, key=lambda s: (happened_at(s), s.session_id)):
        try:
            selection = domain.selector.select(session)
            evidence = evidence_for(domain.experiment, session.user_id, domain.evidence)
            weights = evidence.of(session, propensities) if selection.usable else {}
            if weights:
                usable.append(UsableSession(session, weights))
            else:
                reason = selection.reason or "no event that the domain's evidence weighs"
                verdicts[session.session_id] = Outcome(Status.SKIPPED, reason)
        except Exception as error:  # plugin code: one session's trouble stays its own
            verdicts[session.session_id] = failed(error)
    now, limits = rooms.clock(), domain.copies
    expired = {one.session.session_id for one in usable if expires_at(one.session, limits) < now}
    old = Outcome(Status.SKIPPED, f"registered more than {limits.expire_days} days ago")
    verdicts |= dict.fromkeys(expired, old)
    teaching = [one for one in usable if one.session.session_id not in expired]
    return Lessons(entries, usable, teaching, verdicts, frozenset(forgotten), domain.experiment)

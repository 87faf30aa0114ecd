"""LiveTowers: each engagement moves its user's and its item's vector at once, and becomes a training pair."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import structlog

from clickstream.actions import ActionStore
from clickstream.records import ReceivedAction, SessionEvent
from clickstream.store import ClickstreamStore
from improvement.domain import SearchDomain
from improvement.errors import Conflict
from improvement.quality.learning import LearningStore
from improvement.telemetry import Metrics
from improvement.two_tower.engaged import After, Key, engaged
from improvement.two_tower.engagement import Engagement, of_action, of_event
from improvement.two_tower.entries import HEARD, Entry, EntryStore, Kind
from improvement.two_tower.names import towers_name
from improvement.two_tower.pairs import Pair, PairStore
from improvement.two_tower.sampling import Reason
from improvement.two_tower.serving import ServingTowers, TowerServing
from improvement.vectors import VectorStore

log = structlog.get_logger()

Said = TypeVar("Said")

#: How often somebody else may be faster before an engagement is left to `catch_up`.
TRIES = 16
#: Earlier engagements of a user beyond which the pairs are asked whether what was before them can be let go.
CROWD = 8


@dataclass(frozen=True)
class LiveTowers:
    """Learns from engagements as they come; what fails is caught up with from the log (`catch_up`).

    Frozen learning (of the domain, or of its towers) learns nothing now; the log keeps it.

    Attributes:
        domains: by name; those without towers learn nothing.
        clock: seconds since 1970.
    """

    domains: Mapping[str, SearchDomain]
    entries: EntryStore
    pairs: PairStore
    vectors: VectorStore
    towers: ServingTowers
    clickstream: ClickstreamStore
    actions: ActionStore
    learning: LearningStore
    metrics: Metrics = field(default_factory=Metrics)
    clock: Callable[[], float] = time.time

    def hear_actions(self, received: Sequence[ReceivedAction]) -> None:
        """Learn from actions that were just logged, and are new; never raises: the log has them."""
        for name, its in _by_domain((action.domain or "", action) for action in received):
            domain = self.domains.get(name)
            if domain is not None and domain.towers is not None:
                self._quietly(domain, lambda d, of: self.learn_actions(d, of, fresh=True), its)

    def hear_events(self, events: Sequence[tuple[str, SessionEvent]]) -> None:
        """Learn from events of sessions that were just stored, as (session id, event); never raises.

        Events whose session is not known yet are learned once it is (`catch_up`).
        """
        if not events or all(domain.towers is None for domain in self.domains.values()):
            return
        now = self.clock()
        try:
            whose = self.clickstream.owners(session_id for session_id, _ in events)
        except Exception as error:
            log.warning("engagements wait", events=len(events), error=repr(error)[:2_000])
            return
        mine = ((session_id, event) for session_id, event in events if session_id in whose)
        for name, its in _by_domain(
            (whose[session_id].domain, (session_id, event)) for session_id, event in mine
        ):
            domain = self.domains.get(name)
            if domain is None or domain.towers is None:
                continue
            said = [
                (session_id, owner.user_id, event, now)
                for session_id, event in its
                if (owner := whose[session_id]).user_id is not None and not owner.is_irrelevant
            ]
            self._quietly(domain, self.learn_events, said)

    def learn_actions(
        self,
        domain: SearchDomain,
        actions: Sequence[ReceivedAction],
        *,
        fresh: bool = False,
        late: bool = False,
    ) -> int:
        """Learn from actions that are logged; return how many engagements were new. Arguments as in `learn`.

        Erasing a user deletes the log before entries and pairs. So whatever was written of a user before
        their actions were deleted is deleted after that; and whoever finds them deleted, looking after the
        last write, deletes what may have come too late.
        """
        said = {
            action.place: (action, one) for action in actions if (one := _quiet(of_action, action, domain))
        }
        if not said:
            return 0
        try:
            return self.learn(domain, [one for _, one in said.values()], fresh=fresh, late=late)
        finally:
            gone = said.keys() - self.actions.held(said)
            self._forget(said[place][0].user_id for place in gone)

    def learn_events(
        self,
        domain: SearchDomain,
        events: Sequence[tuple[str, str, SessionEvent, float]],
        *,
        late: bool = False,
    ) -> int:
        """Learn from events: (session id, its user id, event, when it was received); as `learn_actions`."""
        said = [
            (session_id, one)
            for session_id, user_id, event, at in events
            if (one := _quiet(of_event, session_id, user_id, event, domain, at))
        ]
        if not said:
            return 0
        try:
            return self.learn(domain, [one for _, one in said], late=late)
        finally:
            held = self.clickstream.owners(session_id for session_id, _ in said)
            self._forget(one.user_id for session_id, one in said if session_id not in held)

    def learn(
        self,
        domain: SearchDomain,
        engagements: Sequence[Engagement],
        *,
        fresh: bool = False,
        late: bool = False,
    ) -> int:
        """Move the vectors of users and items, and store training pairs; return how many were new.

        An engagement that was learned before, by whomever, moves nothing again. However many users and
        items, each store is called as often, but for chunks, and for what somebody else changes at the same
        time, and for slices of many of one user or of one item. The pairs come last: one that is not there
        tells `catch_up` that not everything was done.

        An entry knows the newest `HEARD` engagements at least, and a slice has no more of one entry, and its
        pairs before the next slice begins. So whoever repeats a slice, in this process or another, finds
        either its pairs or its engagements known, and nothing is done twice. But where a process died (or
        gave up) between entries and pairs, and more than `HEARD` others engaged with one of its items before
        `catch_up` came to it, that item moves once more; so does a user who engaged with as many others.

        Args:
            engagements: of this domain, in the order they happened.
            fresh: whether nobody can have learned from them before: the pairs are not asked, unless somebody
                was faster.
            late: whether they are from the log: how long it took says nothing.

        Raises:
            Conflict: others were faster, again and again.
            StudioError, PyMongoError, ApiException: a store does not answer; some of it is done, repeat it.
        """
        started = time.perf_counter()
        rate = rate_of(self.learning, domain)
        new = list({one.engagement_id: one for one in reversed(engagements)}.values())[::-1]
        if new and rate and late:  # most of these were learned, and nothing else is read for them
            known = self.pairs.known(domain.name, [one.engagement_id for one in new])
            new = [one for one in new if one.engagement_id not in known]
        learned = 0
        for part in slices(new) if rate else ():
            added = self._learn(domain, part, rate, fresh, late, started)
            if added is None:
                break
            learned, started = learned + added, time.perf_counter()
        return learned

    def _learn(
        self,
        domain: SearchDomain,
        part: Sequence[Engagement],
        rate: float,
        fresh: bool,
        late: bool,
        started: float,
    ) -> int | None:
        """Learn from a slice; None if nothing serves."""
        after = self._move(domain, part, rate, fresh)
        if after is None:
            return None
        spent = (time.perf_counter() - started) / len(part)
        added = len(
            self.pairs.add(
                [
                    _pair(one, after, None if late else spent)
                    for one in part
                    if one.engagement_id in after.before
                ]
            )
        )
        for _ in range(0 if late else added):
            self.metrics.tower_seconds.observe((time.perf_counter() - started) / len(part))
        return added

    def _move(
        self, domain: SearchDomain, engagements: Sequence[Engagement], rate: float, fresh: bool
    ) -> After | None:
        """Move, save and show entries; return what became of them; None if nothing serves.

        Of two writers of an entry the second one finds another version, and reads it again. Whoever is known
        to have been there and is not any more was erased, or deleted: nothing is learned of them. The pairs
        are asked after the entries were read: what an entry does not know any more has its pair by then.
        """
        assert domain.towers is not None
        name, left = domain.name, list(engagements)
        held: dict[Key, Entry] = {}  # as stored
        wanted: set[Key] = {key for one in left for key in _keys(one)}
        for turn in range(TRIES):
            found = self.entries.load(name, wanted)
            gone = {key for key in wanted if key in held and key not in found}
            left = [one for one in left if gone.isdisjoint(_keys(one))]
            held = {key: entry for key, entry in (held | found).items() if key not in gone}
            serving = self.towers.serving(name)  # after the entries: it is not older than their space
            if serving is None:
                return None
            these = {one.engagement_id for one in left}
            asked = _crowded(held.values(), these) | (these if turn or not fresh else set())
            stored = self.pairs.known(name, sorted(asked)) if asked else set()
            left = [one for one in left if one.engagement_id not in stored]
            if not left:
                after = After({})
                break
            said = self.vectors.told(serving.collection_id, _asked(left, held.values(), serving))
            after = engaged(held, left, said, serving.checkpoint_id, domain.towers, rate, stored)
            changed = [entry for key, entry in after.entries.items() if _is_new(entry, held.get(key))]
            wanted = self.entries.save(changed)
            saved = [replace(one, version=one.version + 1) for one in changed if one.key not in wanted]
            held |= {entry.key: entry for entry in saved}
            if not wanted:
                break
        else:
            raise Conflict(f"domain {name!r}: others were faster {TRIES} times")
        items = {one.object_id: held.get((Kind.ITEM, one.object_id)) for one in engagements}
        self._show(name, serving, {each: item for each, item in items.items() if item is not None})
        return after

    def _show(self, domain: str, serving: TowerServing, items: Mapping[str, Entry]) -> None:
        """Write items' vectors to the collection that serves, where their content is what was moved.

        Whoever writes an item there last has seen its newest entry: they looked at the entries after that
        write, and had there been a newer one, they would have written again; one that was saved after they
        looked is written to the collection after that, too, by whoever saved it.
        """
        for _ in range(TRIES):
            shown = {
                each: (entry.vector, entry.content)
                for each, entry in items.items()
                if entry.vector is not None and entry.space == serving.checkpoint_id
            }
            if not shown:
                return
            self.vectors.move(serving.collection_id, shown)
            versions = self.entries.versions(domain, [items[each].key for each in shown])
            newer = [key for key, version in versions.items() if version > items[key[1]].version]
            items = (
                {key[1]: entry for key, entry in self.entries.load(domain, newer).items()} if newer else {}
            )

    def _forget(self, user_ids: Iterable[str]) -> None:
        for user_id in set(user_ids):
            self.entries.erase(user_id)
            self.pairs.erase(user_id)

    def _quietly(
        self, domain: SearchDomain, learn: Callable[[SearchDomain, Sequence[Said]], int], said: Sequence[Said]
    ) -> None:
        try:
            learn(domain, said)
        except Exception as error:  # whatever it is, the log has them
            log.warning("engagements wait", domain=domain.name, count=len(said), error=repr(error)[:2_000])


def rate_of(learning: LearningStore, domain: SearchDomain) -> float:
    """Return the share of a domain's learning rates that its towers learn with; 0.0 while they are frozen."""
    brakes = learning.each([domain.name, towers_name(domain.name)])
    return 0.0 if any(brake.frozen for brake in brakes) else brakes[0].rate * brakes[1].rate


def slices(engagements: Iterable[Engagement]) -> Iterator[list[Engagement]]:
    """Yield engagements in runs, as they come, none with more than `HEARD` of one user or of one item."""
    part: list[Engagement] = []
    counts: Counter[Key] = Counter()
    for one in engagements:
        if any(counts[key] >= HEARD for key in _keys(one)):
            yield part
            part, counts = [], Counter()
        part.append(one)
        counts.update(_keys(one))
    if part:
        yield part


def _by_domain(said: Iterable[tuple[str, Said]]) -> Iterable[tuple[str, list[Said]]]:
    domains: dict[str, list[Said]] = {}
    for name, one in said:
        domains.setdefault(name, []).append(one)
    return domains.items()


def _quiet(read: Callable[..., Engagement | None], *said: Any) -> Engagement | None:
    """Return what one event says; one that cannot be read fails alone."""
    try:
        return read(*said)
    except Exception as error:
        log.warning("no engagement", error=repr(error)[:2_000])
        return None


def _keys(one: Engagement) -> tuple[Key, Key]:
    return (Kind.USER, one.user_id), (Kind.ITEM, one.object_id)


def _asked(engagements: Iterable[Engagement], held: Iterable[Entry], serving: TowerServing) -> set[str]:
    """Return the objects of engagements, and of what users of another space engaged with before."""
    others = (entry for entry in held if entry.space != serving.checkpoint_id)
    before = {past.object_id for entry in others for past in entry.pasts}
    return before | {one.object_id for one in engagements}


def _crowded(held: Iterable[Entry], these: set[str]) -> set[str]:
    """Return earlier engagements of users who remember what was before too many of them."""
    earlier = ({one.engagement_id for one in entry.before} - these for entry in held if entry.before)
    return {one for ids in earlier if len(ids) > CROWD for one in ids}


def _is_new(entry: Entry, before: Entry | None) -> bool:
    """Say whether an entry is another one than it was, and not just begun."""
    return entry is not before and bool(entry.version or entry.count or entry.pasts)


def _pair(one: Engagement, after: After, seconds: float | None) -> Pair:
    before = after.before[one.engagement_id]
    reason = Reason.ENGAGED if one.signal > 0 else Reason.DISLIKED
    return Pair(
        one.engagement_id, one.domain, one.user_id, one.object_id, after.authors[one.engagement_id],
        one.action, one.signal, reason, before.user, before.item, before.space, one.at, one.received_at,
        seconds,
    )  # fmt: skip

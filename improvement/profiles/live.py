"""LiveProfiles: actions are logged, each once, and turn their users' profiles at once."""

import time
from collections import defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import structlog
from numpy.typing import NDArray

from clickstream.actions import ActionStore
from clickstream.improvement_queue import Owner
from clickstream.records import Action, ReceivedAction
from improvement.domain import SearchDomain
from improvement.objects import Vectors
from improvement.profiles.history import interactions
from improvement.profiles.negative import remember_dislike
from improvement.profiles.online import rating_from_signals, update_user_embeddings
from improvement.profiles.profile import Interaction, Profile
from improvement.profiles.sphere import Floats
from improvement.profiles.store import Applied, ProfileStore
from improvement.quality.learning import LearningStore
from improvement.releases import Releases
from improvement.vectors import VectorStore

log = structlog.get_logger()

#: Seconds after its announcement in which a push may change profiles: half of what the batch waits before it
#: takes a push for dead and reads the log itself, so that no action is counted by both.
LATE = 15.0


@dataclass(frozen=True)
class LiveProfiles:
    """Takes actions: announces them, logs them, and applies those that are new to their users' profiles.

    Attributes:
        domains: by name; actions carry one of these.
        clock: seconds that pass, from any start.
    """

    profiles: ProfileStore
    actions: ActionStore
    vectors: VectorStore
    releases: Releases
    domains: Mapping[str, SearchDomain]
    learning: LearningStore
    clock: Callable[[], float] = time.monotonic

    def push(self, actions: Sequence[Action]) -> list[ReceivedAction]:
        """Log actions with their domain filled in; return those that were new.

        Once they are logged nothing fails: what cannot be applied now was announced and is not applied, which
        tells the batch to read it from the log; so is everything while a domain's learning is frozen. However
        many actions and users, each store is called as often, but for chunks and for users that somebody else
        changes at the same time.

        Raises:
            PyMongoError: some may not be logged; the same push again logs the rest.
        """
        owners = {Owner(action.domain or "", action.user_id) for action in actions}
        announced = self.clock()
        self.profiles.announce(owners)
        received = self.actions.push(actions)
        new: dict[str, dict[str, list[ReceivedAction]]] = defaultdict(dict)
        for owner in owners:  # a repeat is applied, too: as nothing, so that its announcement is settled
            new[owner.domain][owner.user_id or ""] = []
        for action in received:
            new[action.domain or ""][action.user_id].append(action)
        for domain, users in new.items():
            try:
                self._apply(domain, users, announced + LATE)
            except Exception as error:  # whatever it is, the log has the actions and the batch finds them
                log.warning(
                    "profiles wait for the batch", domain=domain, users=len(users), error=repr(error)[:2_000]
                )
        return received

    def _apply(self, name: str, new: Mapping[str, Sequence[ReceivedAction]], until: float) -> None:
        domain = self.domains[name]
        if self.clock() > until:  # logged so late that the batch may have read the log without them
            self.profiles.mark(Owner(name, user_id) for user_id in new)
            return
        learning = self.learning.of(name)
        if learning.frozen:
            self._take_back(new, self.profiles.load(name, new))
            return
        collection, space = self.releases.serving(name)
        domain = domain.at_rate(learning.rate).in_space(space)
        told = interactions(chain.from_iterable(new.values()), domain.evidence)
        said = {user_id: told.get(user_id, []) for user_id in new}
        items = self.vectors.means(collection, {one.object_id for of in said.values() for one in of})
        held = self._held(name, list(said))
        while said:
            self._take_back({user_id: new[user_id] for user_id in said}, held)
            if self.clock() > until:
                raise TimeoutError(f"announced more than {LATE} s ago")
            profiles = [_begun(profile, space) for profile in held.values()]
            # Vectors of another space stay. What was said is remembered: the announcement made the profile
            # due, and the batch makes it anew, in this space, from what is remembered.
            mine = [said[one.user_id] if one.model_version == space else () for one in profiles]
            after = turned(profiles, mine, items, domain)
            changes = [Applied(profile, said[profile.user_id]) for profile in after]
            lost = self.profiles.apply(changes, domain.profiles.remember)
            said = {user_id: said[user_id] for user_id in lost}
            loaded = self.profiles.load(name, said)
            # a batch whose clock is ahead took this push for dead; whether it saw it in the log, nobody knows
            late = {user_id for user_id, found in loaded.items() if found.applied >= found.announced}
            self.profiles.mark(Owner(name, user_id) for user_id in late)
            said = {user_id: of for user_id, of in said.items() if user_id not in late}
            # Versions grow; a lower one is of another profile, begun after its user was erased.
            held = {
                user_id: found.profile
                for user_id, found in loaded.items()
                if user_id in said and found.profile.version > held[user_id].version
            }

    def _take_back(self, new: Mapping[str, Sequence[ReceivedAction]], known: Container[str]) -> None:
        """Take out of the log what users did who were erased since the announcement: their profile is gone.

        Erasing deletes profiles before actions, so whatever was logged after the actions had been deleted
        comes here.
        """
        self.actions.take_back(action for user_id, of in new.items() if user_id not in known for action in of)

    def _held(self, domain: str, user_ids: Sequence[str]) -> dict[str, Profile]:
        """Return the known ones of these users' profiles; one user's from the cache.

        The cache may be behind. The version then is, too, and the write does not land.
        """
        if len(user_ids) == 1:
            found = self.profiles.get(user_ids[0], domain)
            return {} if found is None else {user_ids[0]: found}
        return {user_id: found.profile for user_id, found in self.profiles.load(domain, user_ids).items()}


def turned(
    profiles: Sequence[Profile],
    said: Sequence[Sequence[Interaction]],
    items: Mapping[str, Vectors],
    domain: SearchDomain,
) -> list[Profile]:
    """Return users' profiles after their interactions, one after the other; pure.

    See `update_user_embeddings`. The likes alone turn ``liked`` and the nearest of several interests, the
    dislikes alone the negative profile.

    Args:
        profiles: N, each without vectors or with some of the space that the items are of.
        said: N lists, oldest first; a profile without any comes back as it is.
        items: object id -> direction (D,), finite and not zeros. Objects that are missing change nothing.
    """
    known = [[one for one in of if one.object_id in items] for of in said]
    settings, size = domain.profiles, domain.search_index_info.dimensions
    rate, half_life = settings.learning_rate, settings.negative_half_life_days
    # what was liked is left where an earlier dislike was of all that the profile was
    users = _rows([p.liked if p.embedding is None else p.embedding for p in profiles], size)
    liked = _rows([profile.liked for profile in profiles], size)
    interests = [profile.interests.astype(np.float64) for profile in profiles]  # a copy, to be written to
    negative = [profile.negative for profile in profiles]
    positives = np.array([profile.positives for profile in profiles], np.int64)
    negatives = np.array([profile.negatives for profile in profiles], np.int64)
    for number in range(max(map(len, known), default=0)):
        acting = np.array([n for n, of in enumerate(known) if number < len(of)])
        now = [known[n][number] for n in acting]
        item = _rows([items[one.object_id] for one in now], size)
        rating = np.array([rating_from_signals([one.weight], domain.evidence.saturation) for one in now])
        count, near = positives[acting] + negatives[acting], liked[acting]
        users[acting] = update_user_embeddings(
            users[acting], item, rating, rate, count, liked=near, max_drift=settings.max_drift
        )
        for row in np.flatnonzero(rating < 0):
            n, at = acting[row], now[row].at
            negative[n] = remember_dislike(negative[n], item[row], float(rating[row]), at, half_life)
        likes = rating > 0
        if likes.any():
            who, what, share = acting[likes], item[likes], rating[likes]
            liked[who] = update_user_embeddings(liked[who], what, share, rate, positives[who])
            _turn_nearest([interests[n] for n in who], what, share, rate, positives[who])
        positives[acting] += likes
        negatives[acting] += rating < 0
    return [
        replace(
            profile,
            embedding=_unit(users[n]),
            liked=_unit(liked[n]),
            negative=negative[n],
            interests=interests[n].astype(np.float32),
            positives=int(positives[n]),
            negatives=int(negatives[n]),
        )
        if known[n]
        else profile
        for n, profile in enumerate(profiles)
    ]


def _turn_nearest(
    interests: Sequence[Floats], items: Floats, ratings: Floats, rate: float, counts: NDArray[np.int64]
) -> None:
    """Turn, in place, each user's interest that is nearest to the item; users may have none."""
    several = [row for row, of in enumerate(interests) if len(of)]
    if several:
        nearest = [int((interests[row] @ items[row]).argmax()) for row in several]
        before = np.stack([interests[row][k] for row, k in zip(several, nearest, strict=True)])
        after = update_user_embeddings(before, items[several], ratings[several], rate, counts[several])
        for row, k, vector in zip(several, nearest, after, strict=True):
            interests[row][k] = vector


def _begun(profile: Profile, space: str) -> Profile:
    """Return a profile in this space if it has no vectors of another one."""
    empty = profile.embedding is None and profile.liked is None and profile.negative is None
    if profile.model_version == space or not empty or len(profile.interests):
        return profile
    return replace(profile, model_version=space, positives=0, negatives=0)


def _rows(vectors: Sequence[Vectors | None], size: int) -> Floats:
    rows = np.zeros((len(vectors), size))
    for row, vector in zip(rows, vectors, strict=True):
        if vector is not None:
            row[:] = vector
    return rows


def _unit(row: Floats) -> Vectors | None:
    return row.astype(np.float32) if row.any() else None

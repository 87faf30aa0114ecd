"""TowerRecommendations: what the two towers recommend, and what is recommended where they cannot say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import structlog

from improvement.domain import MetricType, SearchDomain
from improvement.fallbacks import Fallbacks
from improvement.nearest import nearest
from improvement.objects import Vectors
from improvement.profiles.sphere import directions
from improvement.profiles.store import ProfileStore
from improvement.recommended import Recommended, Source, Wish, asked_with, showing
from improvement.releases import Releases
from improvement.served import Served, served
from improvement.two_tower.entries import Entry, EntryStore, Kind
from improvement.two_tower.moves import user_of
from improvement.two_tower.names import towers_info
from improvement.two_tower.serving import ServingTowers, TowerServing
from improvement.two_tower.user_vectors import amid, faded
from improvement.vectors import VectorStore

log = structlog.get_logger()

#: Times that the towers are asked when others begin to serve in between.
TRIES = 3


class Why(NamedTuple):
    """Why the towers say nothing, for a person to read; and whether that is for the user being new."""

    reason: str
    cold: bool = False


@dataclass(frozen=True)
class TowerRecommendations:
    """Recommendations by the two towers, and by what stands in for them (seed 001: cold start, fallbacks).

    In this order, and said in ``meta.source``:

    1. ``two_tower``: originals near the user's vector in the towers' space. Personal copies are of another
       space, and do not exist there.
    2. ``pretrained``: originals near the signed mean of what the user engaged with, in the encoder's space
       (where that goes by Euclidean distance, the mean of what they liked as it is, not its direction);
       where no towers serve yet, where those that serve are not trained yet, or where they fail. Where
       engagements cannot be read, or nobody counted them yet, what the user's profile was made from says
       what they engaged with.
    3. ``popularity``, then ``recency``, then ``catalogue``: for new users (fewer engagements than
       `TowerSettings.min_engagements`), and for whom there is nothing to begin from.

    A new user gets what is popular even if they have a profile that could be used: what a profile recommends
    is the profile model's answer, and who asks for the towers can tell the two apart.
    """

    vectors: VectorStore
    profiles: ProfileStore
    releases: Releases
    entries: EntryStore
    towers: ServingTowers
    fallbacks: Fallbacks

    def recommend(self, domain: SearchDomain, wish: Wish, exclude_seen: bool) -> Recommended:
        """Recommend objects to a user of a domain that has towers; their failing is logged, never raised."""
        assert domain.towers is not None
        serving, entry = served(self.releases, domain), self._entry(domain, wish.user_id)
        if exclude_seen:
            wish = wish.but_for(self._seen(domain, wish.user_id, entry))
        found = self._by_towers(domain, wish, entry)
        if isinstance(found, Why) and not found.cold:
            found = self._pretrained(domain, serving, wish, entry, found.reason)
        if isinstance(found, Why):
            popular = self.fallbacks.recommend(serving, wish, found.reason, newest=True)
            least = {"min_engagements": domain.towers.min_engagements} if found.cold else {}
            found = replace(popular, meta={**popular.meta, **least})
        count = {} if entry is None else {"engagements": entry.count}
        return replace(found, meta={**count, **found.meta})

    def _entry(self, domain: SearchDomain, user_id: str) -> Entry | None:
        """Return what is known of a user, an empty entry for a new one; None where the store fails."""
        key = (Kind.USER, user_id)
        try:
            return self.entries.load(domain.name, [key]).get(key) or Entry(domain.name, *key)
        except Exception as error:  # whatever a store raises: there is something to show without it
            log.warning("engagements not read", domain=domain.name, error=repr(error)[:500])
            return None

    def _seen(self, domain: SearchDomain, user_id: str, entry: Entry | None) -> list[str]:
        seen = [] if entry is None else [past.object_id for past in entry.pasts]
        try:
            profile = self.profiles.get(user_id, domain.name)
        except Exception as error:
            log.warning("profile not read", domain=domain.name, error=repr(error)[:500])
            return seen
        return seen if profile is None else [*seen, *profile.seen]

    def _by_towers(self, domain: SearchDomain, wish: Wish, entry: Entry | None) -> Recommended | Why:
        """Ask what serves; once more where something else began to, for what served before may be gone."""
        assert domain.towers is not None
        if entry is None:
            return Why("the user's engagements cannot be read")
        for _ in range(TRIES):
            serving = None
            try:
                serving = self.towers.serving(domain.name)
                if serving is None:
                    return Why("no towers serve yet")
                if entry.count < domain.towers.min_engagements:
                    return Why(f"{entry.count} of {domain.towers.min_engagements} engagements", cold=True)
                if self.towers.checkpoint(serving.checkpoint_id).parent is None:
                    return Why("the towers that serve are not trained yet")
                return self._near(domain, serving, wish, entry)
            except Exception as error:  # whatever a store raises
                if self._still(domain, serving):
                    log.warning("towers did not answer", domain=domain.name, error=repr(error)[:500])
                    break
        return Why("the towers did not answer")

    def _still(self, domain: SearchDomain, serving: TowerServing | None) -> bool:
        try:
            return self.towers.serving(domain.name) == serving
        except Exception:
            return True

    def _near(
        self, domain: SearchDomain, serving: TowerServing, wish: Wish, entry: Entry
    ) -> Recommended | Why:
        """Return what is near the user in the collection that serves."""
        assert domain.towers is not None
        user = entry.vector
        if user is None or entry.space != serving.checkpoint_id:  # the user tower has not read it yet
            said = [(past.object_id, past.signal) for past in entry.pasts]
            user = self._begun(serving.collection_id, said, 1 - domain.towers.user_rate, MetricType.COSINE)
        if user is None:
            return Why("what the user engaged with has no vectors in the towers' space")
        query, info = user[None], towers_info(domain.towers)
        hits = nearest(self.vectors, serving.collection_id, info, query, wish, copies=False)
        marks = self._marks(domain, [hit.object_id for hit in hits])
        return Recommended(
            [showing(hit, Source.TWO_TOWER, **marks.get(hit.object_id, {})) for hit in hits],
            Source.TWO_TOWER.value,
            {"checkpoint_id": serving.checkpoint_id},
            asked_with(query, serving.checkpoint_id),
        )

    def _marks(self, domain: SearchDomain, object_ids: Sequence[str]) -> dict[str, dict[str, bool]]:
        """Return of each item whether nobody touched it; nothing where the store fails."""
        keys = [(Kind.ITEM, object_id) for object_id in object_ids]
        try:
            items = self.entries.load(domain.name, keys) if keys else {}
        except Exception as error:  # whatever a store raises
            log.warning("items' engagements not read", domain=domain.name, error=repr(error)[:500])
            return {}
        return {
            key[1]: {"is_pretrained": (one := items.get(key)) is None or one.is_pretrained} for key in keys
        }

    def _pretrained(
        self, domain: SearchDomain, serving: Served, wish: Wish, entry: Entry | None, reason: str
    ) -> Recommended | Why:
        """Return what is near to what the user engaged with, in the domain's own space."""
        assert domain.towers is not None
        least = domain.towers.min_engagements
        try:
            if entry is not None and entry.count >= least and entry.pasts:
                said = [(past.object_id, past.signal) for past in entry.pasts]
            else:
                said = self._interactions(domain, wish.user_id)
                if len(said) < least:
                    count = max(len(said), 0 if entry is None else entry.count)
                    return Why(f"{reason}; {count} of {least} engagements", cold=True)
            info = serving.domain.search_index_info
            user = self._begun(serving.collection, said, 1 - domain.towers.user_rate, info.metric_type)
            if user is None:
                return Why(f"{reason}; what the user engaged with has no vectors either")
            query = user[None]
            hits = nearest(self.vectors, serving.collection, info, query, wish, copies=False)
            space = serving.space or self.releases.space(domain.name)
        except Exception as error:  # whatever a store raises
            log.warning("pre-trained vectors not used", domain=domain.name, error=repr(error)[:500])
            return Why(f"{reason}; pre-trained vectors cannot be read either")
        shown = [showing(hit, Source.PRETRAINED) for hit in hits]
        return Recommended(shown, Source.PRETRAINED.value, {"reason": reason}, asked_with(query, space))

    def _interactions(self, domain: SearchDomain, user_id: str) -> list[tuple[str, float]]:
        """Return what a user's profile was made from, oldest first, with signals as engagements have them."""
        stored = self.profiles.load(domain.name, [user_id]).get(user_id)
        if stored is None:
            return []
        scale = domain.evidence.saturation or 1.0
        every = sorted((*stored.recent, *stored.searched), key=lambda one: one.at)
        return [(one.object_id, math.tanh(one.weight / scale)) for one in every]

    def _begun(
        self, collection: str, said: Sequence[tuple[str, float]], keep: float, metric: MetricType
    ) -> Vectors | None:
        """Return where a user is who engaged with those of these objects that a collection holds, (D,).

        The signed mean, unit float32; or where near means distance, what `amid` says.
        """
        means = self.vectors.means(collection, (object_id for object_id, _ in said))
        there = [(means[one], signal) for one, signal in said if one in means]
        weights = faded([signal for _, signal in there], keep).tolist()
        if metric is MetricType.EUCLID:
            return amid([row for row, _ in there], weights)
        return user_of([_unit(row) for row, _ in there], weights)


def _unit(row: Vectors) -> Vectors:
    return directions("mean", row, (None,)).astype(np.float32)

"""Embedding: texts, histories and objects as vectors of the towers' space; texts of the encoder's, too."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from improvement.domain import SearchDomain
from improvement.errors import Conflict, Invalid, NotFound, Unavailable
from improvement.objects import Vectors
from improvement.releases import Releases
from improvement.schemas import Embed, PastBody
from improvement.served import served
from improvement.two_tower.engagement import signal_of
from improvement.two_tower.entries import EntryStore, Kind
from improvement.two_tower.facts import History, ItemFacts, Past
from improvement.two_tower.reading import author_of
from improvement.two_tower.serving import ServingTowers, TowerServing
from improvement.vectors import VectorStore

#: Times that the towers are asked when others begin to serve in between.
TRIES = 3
#: Ids that an error names.
NAMED = 10


@dataclass(frozen=True, eq=False)
class Embedded:
    """Vectors (n, S) of one space, and what is to be said of them."""

    vectors: Vectors
    space: str
    meta: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return what the API answers; the space of towers is called by their checkpoint."""
        return {
            "vectors": self.vectors.tolist(),
            "model_id": self.space,
            "space": self.space,
            "dimensions": int(self.vectors.shape[1]),
            "meta": self.meta,
        }


@dataclass(frozen=True)
class Embedding:
    """The embedding of all domains by what serves them."""

    vectors: VectorStore
    releases: Releases
    entries: EntryStore
    towers: ServingTowers
    clock: Callable[[], float] = time.time

    def embed(self, domain: SearchDomain, body: Embed) -> Embedded:
        """Return vectors of what the body asks for, by the model that it names.

        Raises:
            Invalid: the domain has no towers; a text has no direction; of a history, or of object ids,
                nothing is known.
            Conflict: the encoder that the towers read is none of the domain's.
            Unavailable: no towers serve yet, or those that do cannot be read.
            PluginFailed: the encoder failed.
        """
        if body.model == "encoder":
            return self._encoded(domain, body)
        if domain.towers is None:
            raise Invalid(f"model: domain {domain.name!r} has no two towers; 'encoder' embeds texts")
        for _ in range(TRIES):
            serving = self.towers.serving(domain.name)
            if serving is None:
                raise Unavailable(f"the two towers of domain {domain.name!r} do not serve yet")
            try:
                return self._by_towers(domain, serving, body)
            except Exception as error:  # what served may be gone; the input's faults are the same again
                if self.towers.serving(domain.name) == serving:
                    if isinstance(error, NotFound):  # a checkpoint that serves, and is not there
                        raise Unavailable(f"the towers that serve cannot be read: {error}") from error
                    raise
        raise Unavailable(f"other towers of domain {domain.name!r} begin to serve all the time; try again")

    def _by_towers(self, domain: SearchDomain, serving: TowerServing, body: Embed) -> Embedded:
        if body.texts is not None:
            return self._texts(domain, serving, body.texts)
        if body.history is not None:
            return self._history(domain, serving, body.history)
        return self._objects(domain, serving, body.object_ids or [])

    def _encoded(self, domain: SearchDomain, body: Embed) -> Embedded:
        if body.texts is None:
            raise Invalid("texts: expected texts, for the encoder reads nothing else")
        here = served(self.releases, domain).domain
        rows = here.embed(body.texts)
        _check_directions(rows)
        return Embedded(rows, here.encoder.model_id, {"is_pretrained": True})

    def _texts(self, domain: SearchDomain, serving: TowerServing, texts: Sequence[str]) -> Embedded:
        """Return where the candidate tower puts items of these texts that nobody has heard of."""
        base_space = self.towers.checkpoint(serving.checkpoint_id).base_space
        here = domain.in_space(base_space)
        if here.encoder.model_id != base_space:
            raise Conflict(f"domain {domain.name!r} has no encoder of {base_space!r}, which its towers read")
        rows = here.embed(texts).astype(np.float64)
        _check_directions(rows)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        # no object has an empty id, so none has a row in the lookup table
        facts = ItemFacts(("",) * len(texts), rows.astype(np.float32), (None,) * len(texts))
        made = self.towers.tower(serving.checkpoint_id).items(facts)
        _check_directions(made)
        return Embedded(made, serving.checkpoint_id, {"is_pretrained": True})

    def _history(self, domain: SearchDomain, serving: TowerServing, said: Sequence[PastBody]) -> Embedded:
        """Return the user tower's word on engagements as they would have been logged."""
        assert domain.towers is not None
        now = self.clock()
        items = self.vectors.find(serving.collection_id, {one.object_id for one in said})
        unknown = [one for one in dict.fromkeys(one.object_id for one in said) if one not in items]
        if len(unknown) == len({one.object_id for one in said}):
            raise Invalid(f"history: none of its objects is known: {unknown[:NAMED]}")
        pasts = []
        for number, one in enumerate(said):
            signal = signal_of(domain, one.action_type, one.meta)
            if signal is None or one.object_id not in items:
                continue
            at = now if one.created_at is None else min(float(one.created_at), now)
            author = author_of(items[one.object_id].payload, domain.towers.author_field)
            pasts.append(Past(str(number), one.object_id, author, one.action_type, signal, at))
        if not pasts:
            raise Invalid(
                "history: no action on a known object speaks for or against it, by the domain's evidence"
            )
        pasts.sort(key=lambda past: past.at)
        read = pasts[-domain.towers.history :]
        rows = np.stack([items[past.object_id].mean for past in read])
        made = self.towers.tower(serving.checkpoint_id).users([History(read, rows, now)])
        if not made.any():
            raise Invalid("history: its engagements cancel each other out, no direction is left")
        untrained = self.towers.checkpoint(serving.checkpoint_id).parent is None
        meta = {"is_pretrained": untrained, "engagements": len(read), "unknown": unknown}
        return Embedded(made, serving.checkpoint_id, meta)

    def _objects(self, domain: SearchDomain, serving: TowerServing, object_ids: Sequence[str]) -> Embedded:
        """Return the vectors of these objects as they serve, as engagement moved them."""
        wanted = list(dict.fromkeys(object_ids))
        means = self.vectors.means(serving.collection_id, wanted)
        there = [one for one in wanted if one in means]
        unknown = [one for one in wanted if one not in means]
        if not there:
            raise Invalid(f"object_ids: none of them is known: {unknown[:NAMED]}")
        items = self.entries.load(domain.name, [(Kind.ITEM, one) for one in there])
        untouched = [(found := items.get((Kind.ITEM, one))) is None or found.is_pretrained for one in there]
        meta = {"is_pretrained": untouched, "object_ids": there, "unknown": unknown}
        return Embedded(np.stack([means[one] for one in there]), serving.checkpoint_id, meta)


def _check_directions(rows: Any) -> None:
    empty = np.flatnonzero(~rows.any(axis=1)).tolist()
    if empty:
        places = ", ".join(f"texts[{place}]" for place in empty[:NAMED])
        raise Invalid(f"{places}: expected text that has a direction, got nothing the encoder knows")

"""SearchDomain: the port a plugin fills, and load_domain, which checks it and names what is wrong."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from improvement.errors import PluginFailed, WrongPlugin
from improvement.evidence import EvidenceWeights
from improvement.experiments.settings import Experiment, Treatment
from improvement.green.settings import GateSettings, PopulationSettings, PromotionSettings
from improvement.objects import Object, Vectors
from improvement.profiles.settings import ProfileSettings
from improvement.quality.settings import AuditSettings, CopyLimits
from improvement.selection import SessionSelector
from improvement.two_tower.settings import TowerSettings

if TYPE_CHECKING:  # torch is for the worker; the web process loads domains without it
    import torch

    from improvement.inputs import EvidenceBatch


class MetricType(StrEnum):
    """How two vectors are compared; the names of the published API."""

    EUCLID = "euclid"
    COSINE = "cosine"
    DOT = "dot"


class MetricAggregationType(StrEnum):
    """How an object's parts make one distance: the nearest part, or the mean part."""

    MIN = "min"
    AVG = "avg"


@dataclass(frozen=True)
class Hnsw:
    """Index settings handed to Qdrant: edges per node, and candidates looked at while building."""

    m: int = 16
    ef_construction: int = 100


@dataclass(frozen=True)
class SearchIndexInfo:
    """The embedding space of a domain: its size D, its metric, and how parts aggregate."""

    dimensions: int
    metric_type: MetricType = MetricType.COSINE
    metric_aggregation_type: MetricAggregationType = MetricAggregationType.MIN
    hnsw: Hnsw = field(default_factory=Hnsw)


@runtime_checkable
class Encoder(Protocol):
    """Turns texts into vectors of one embedding model.

    ``model_id`` names the embedding space: vectors are compared only inside one.
    """

    model_id: str

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return a float32 array of shape (len(texts), D)."""
        ...


@runtime_checkable
class VectorsAdjuster(Protocol):
    """Turns originals and evidence into personal vectors; pure: new tensors out, inputs untouched."""

    @property
    def max_drift(self) -> float:
        """Farthest a copy may be from its original: radians (cosine) or relative distance (dot, euclid)."""
        ...

    def adjust(self, batch: "EvidenceBatch") -> "torch.Tensor":
        """Return the adjusted parts, same shape and dtype as ``batch.parts``."""
        ...


def prepare_vectors(vectors: Vectors, metric_type: MetricType) -> Vectors:
    """Bring vectors of shape (..., D) to the scale their metric wants, row by row (seed 002).

    COSINE: each row to unit length. DOT: each row to [0, 1] by its own minimum and maximum; the seed takes
    them over the whole batch, which would make a vector depend on its neighbours. EUCLID: unchanged.
    A row without length (cosine) or spread (dot) becomes 0.

    >>> prepare_vectors(np.array([[3.0, 4.0]], np.float32), MetricType.COSINE)
    array([[0.6, 0.8]], dtype=float32)
    >>> prepare_vectors(np.array([[1.0, 2.0, 5.0]], np.float32), MetricType.DOT)
    array([[0.  , 0.25, 1.  ]], dtype=float32)
    """
    rows = np.asarray(vectors, dtype=np.float32)
    if metric_type is MetricType.EUCLID:
        return rows
    wide: NDArray[np.float64] = rows.astype(np.float64)
    if metric_type is MetricType.COSINE:
        scale = np.linalg.norm(wide, axis=-1, keepdims=True)
    else:
        low = wide.min(axis=-1, keepdims=True)
        scale = wide.max(axis=-1, keepdims=True) - low
        wide = wide - low
    prepared: Vectors = np.divide(wide, scale, out=np.zeros_like(wide), where=scale > 0).astype(np.float32)
    return prepared


@dataclass(frozen=True)
class SearchDomain:
    """One search or feed, configured: what a plugin file holds.

    Attributes:
        name: the alias under which any Qdrant client finds the blue collection; [A-Za-z0-9_-], up to 64.
        search_index_info: the embedding space.
        adjuster: makes the personal vectors, and holds the law's ``max_drift``.
        encoder: text to vectors; its ``model_id`` names the first collection.
        selector: which sessions teach, and how soon.
        evidence: what a session that teaches says for or against each object it showed.
        profiles: how users get profiles, and what profiles do.
        prepare: replaces the metric's own `prepare_vectors`; takes and returns (..., D).
        population: how far what everybody chose moves objects in a green build.
        gate: what a green build must show before it may serve.
        promotion: what is kept and watched after one serves.
        audit: when drift and evidence are an alarm.
        copies: how many personal copies a user may have, and how long.
        texts: what to embed the rows of an object from that was stored without texts: one text for each part,
            and one more if it has an average of its own.
        variants: this domain in other embedding spaces, for builds with another encoder: same name, another
            ``encoder.model_id``. They serve while a collection of their space is blue.
        towers: how two towers learn beside it; None: there are none.
        experiment: which users see what, to find out what is better; None: everybody sees the same.
    """

    name: str
    search_index_info: SearchIndexInfo
    adjuster: VectorsAdjuster
    encoder: Encoder
    selector: SessionSelector = field(default_factory=SessionSelector)
    evidence: EvidenceWeights = field(default_factory=EvidenceWeights)
    profiles: ProfileSettings = field(default_factory=ProfileSettings)
    prepare: Callable[[Vectors], Vectors] | None = None
    population: PopulationSettings = field(default_factory=PopulationSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    promotion: PromotionSettings = field(default_factory=PromotionSettings)
    audit: AuditSettings = field(default_factory=AuditSettings)
    copies: CopyLimits = field(default_factory=CopyLimits)
    texts: Callable[[Object], Sequence[str]] | None = None
    variants: tuple["SearchDomain", ...] = ()
    towers: TowerSettings | None = None
    experiment: Experiment | None = None

    def in_space(self, space: str) -> "SearchDomain":
        """Return this domain as it is in an embedding space; itself for one that it does not know.

        A collection made and filled by hand may have any id: its vectors are then taken to be of the domain's
        own size and metric.
        """
        return next((one for one in self.variants if one.encoder.model_id == space), self)

    def at_rate(self, rate: float) -> "SearchDomain":
        """Return this domain learning that much (0..1) of its own: copies, profiles and population.

        An adjuster knows itself how to learn less if it has a method ``at_rate(rate)`` that returns the
        adjuster to use; of a dataclass the field ``adjustment_rate`` is multiplied. One with neither makes
        copies as ever, whatever the rate: then it slows down profiles and population only.
        """
        if rate == 1:
            return self
        adjuster: Any = self.adjuster
        if callable(own := getattr(adjuster, "at_rate", None)):
            adjuster = own(rate)
        elif is_dataclass(adjuster) and any(f.name == "adjustment_rate" for f in fields(adjuster)):
            slower: Any = adjuster  # an instance: `is_dataclass` would let a class through, too
            adjuster = replace(slower, adjustment_rate=slower.adjustment_rate * rate)
        return replace(
            self,
            adjuster=adjuster,
            profiles=replace(self.profiles, learning_rate=self.profiles.learning_rate * rate),
            population=replace(self.population, max_drift=self.population.max_drift * rate),
            variants=tuple(one.at_rate(rate) for one in self.variants),
        )

    def prepare_vectors(self, vectors: Vectors) -> Vectors:
        """Bring vectors (..., D) to this domain's scale; applied to objects and queries alike."""
        if self.prepare is not None:
            return self.prepare(vectors)
        return prepare_vectors(vectors, self.search_index_info.metric_type)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed and prepare texts: float32 (len(texts), D).

        Raises:
            PluginFailed: the encoder raised, or returned a wrong shape, NaN or infinity.
        """
        expected = (len(texts), self.search_index_info.dimensions)
        try:
            vectors = np.asarray(self.encoder.encode(texts), dtype=np.float32)
        except Exception as error:  # foreign code may raise anything
            raise PluginFailed(f"the encoder of domain {self.name!r} raised {error!r}") from error
        if vectors.shape != expected or not np.isfinite(vectors).all():
            raise PluginFailed(
                f"the encoder of domain {self.name!r}: expected finite numbers of shape {expected}, "
                f"got shape {vectors.shape}"
            )
        return self.prepare_vectors(vectors)


def embed_each(domain: SearchDomain, texts: Sequence[str]) -> list[Vectors | PluginFailed]:
    """Embed all texts at once, or in halves where that fails, so that one bad text fails alone: (D,) each."""
    if not texts:
        return []
    try:
        return list(domain.embed(texts))
    except PluginFailed as error:
        if len(texts) == 1:
            return [error]
        half = len(texts) // 2
        return embed_each(domain, texts[:half]) + embed_each(domain, texts[half:])


def load_domain(path: str) -> SearchDomain:
    """Import ``"module:attribute"`` and check it.

    Raises:
        WrongPlugin: naming the plugin, the field and what was expected.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise WrongPlugin(path, "path", "the form 'module:attribute', e.g. 'plugins.documents:domain'")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a plugin is foreign code: whatever it raises, the operator needs its name
        raise WrongPlugin(path, "import", f"an importable module, but it raised {error!r}") from error
    domain = getattr(module, attribute, None)
    if not isinstance(domain, SearchDomain):
        raise WrongPlugin(path, attribute, f"a SearchDomain, got {type(domain).__name__}")
    check_domain(domain, path)
    return domain


def check_domain(domain: SearchDomain, plugin: str) -> None:
    """Check every field of a domain without encoding anything; raises WrongPlugin."""
    info = domain.search_index_info

    def expect(holds: bool, field_name: str, expected: str, got: Any) -> None:
        if not holds:
            raise WrongPlugin(plugin, field_name, f"{expected}, got {got!r}")

    name = domain.name
    named = isinstance(name, str) and 1 <= len(name) <= 64
    expect(
        named and all(c.isascii() and (c.isalnum() or c in "_-") for c in name),
        "name", "1 to 64 of [A-Za-z0-9_-]", name,
    )  # fmt: skip
    expect(isinstance(info, SearchIndexInfo), "search_index_info", "a SearchIndexInfo", info)
    expect(
        isinstance(info.dimensions, int) and 1 <= info.dimensions <= 65536,
        "search_index_info.dimensions", "1 to 65536", info.dimensions,
    )  # fmt: skip
    expect(isinstance(info.metric_type, MetricType), "search_index_info.metric_type",
           "a MetricType", info.metric_type)  # fmt: skip
    expect(isinstance(info.metric_aggregation_type, MetricAggregationType),
           "search_index_info.metric_aggregation_type", "a MetricAggregationType",
           info.metric_aggregation_type)  # fmt: skip
    expect(isinstance(info.hnsw, Hnsw), "search_index_info.hnsw", "an Hnsw", info.hnsw)
    expect(isinstance(domain.adjuster, VectorsAdjuster), "adjuster",
           "a VectorsAdjuster (adjust, max_drift)", domain.adjuster)  # fmt: skip
    adjuster_info = getattr(domain.adjuster, "search_index_info", info)
    expect(adjuster_info == info, "adjuster.search_index_info", f"the domain's own {info!r}", adjuster_info)
    drift = domain.adjuster.max_drift
    expect(isinstance(drift, float | int) and 0 <= drift < float("inf"), "adjuster.max_drift",
           "a finite number >= 0", drift)  # fmt: skip
    expect(isinstance(domain.encoder, Encoder), "encoder", "an Encoder (encode, model_id)", domain.encoder)
    expect(isinstance(domain.encoder.model_id, str) and bool(domain.encoder.model_id), "encoder.model_id",
           "a non-empty string", domain.encoder.model_id)  # fmt: skip
    expect(isinstance(domain.selector, SessionSelector), "selector", "a SessionSelector", domain.selector)
    expect(isinstance(domain.evidence, EvidenceWeights), "evidence", "an EvidenceWeights", domain.evidence)
    expect(isinstance(domain.profiles, ProfileSettings), "profiles", "a ProfileSettings", domain.profiles)
    for name, optional in (("towers", TowerSettings), ("experiment", Experiment)):
        given = getattr(domain, name)
        expect(given is None or isinstance(given, optional), name, f"None or a {optional.__name__}", given)
    arms = () if domain.experiment is None else domain.experiment.arms
    needy = [arm.name for arm in arms if arm.treatment is Treatment.TWO_TOWER and domain.towers is None]
    expect(not needy, "experiment.arms", "towers in the domain for the treatment two_tower", needy)
    if domain.towers is not None:
        strongest = max(domain.evidence.events.values(), default=0.0)
        expect(
            strongest >= domain.towers.engaged_from,
            "towers.engaged_from", f"at most {strongest:g}, the strongest weight: else nobody engages",
            domain.towers.engaged_from,
        )  # fmt: skip
    for name in ("prepare", "texts"):
        given = getattr(domain, name)
        expect(given is None or callable(given), name, "None or a callable", given)
    for name, kind in (
        ("population", PopulationSettings), ("gate", GateSettings), ("promotion", PromotionSettings),
        ("audit", AuditSettings), ("copies", CopyLimits),
    ):  # fmt: skip
        expect(isinstance(getattr(domain, name), kind), name, f"a {kind.__name__}", getattr(domain, name))
    known = {domain.encoder.model_id}
    for variant in domain.variants:
        expect(isinstance(variant, SearchDomain), "variants", "SearchDomains", variant)
        expect(
            variant.name == domain.name, "variants.name", f"the domain's own {domain.name!r}", variant.name
        )
        check_domain(variant, plugin)
        expect(not variant.variants, "variants.variants", "none", variant.variants)
        space = variant.encoder.model_id
        expect(space not in known, "variants.encoder.model_id", "one that no other has", space)
        known.add(space)

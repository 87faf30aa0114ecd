"""What a replay found: each method's metrics with intervals, and its difference to no learning."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from improvement.evaluation.metrics import bootstrap_interval, weighted_mean

#: The method that every other one is compared with.
NO_LEARNING = "no learning"


def with_profile(method: str | None) -> str:
    """Return what to call ranking with a profile: beside a method's copies, or alone.

    >>> with_profile("geodesic"), with_profile(None)
    ('geodesic + profile', 'profile')
    """
    return "profile" if method is None else f"{method} + profile"


@dataclass(frozen=True, eq=False)
class Sample:
    """The values of one metric, NaN where it is undefined.

    Attributes:
        values: (n,), one for each query (or object) of each user, in an order that two methods share.
        users: (n,), whose each value is.
        weights: (n,) >= 0; None weighs all the same.
    """

    values: NDArray[np.float64]
    users: NDArray[Any]
    weights: NDArray[np.float64] | None = None

    def minus(self, other: "Sample") -> "Sample":
        """Return the differences, value by value."""
        return Sample(self.values - other.values, self.users, self.weights)


@dataclass(frozen=True)
class Estimate:
    """A mean of ``count`` values, and its 95% bootstrap interval over users; NaN where undefined."""

    mean: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, sample: Sample, seed: int) -> "Estimate":
        """Estimate a sample's (weighted) mean."""
        low, high = bootstrap_interval(sample.values, sample.users, sample.weights, seed=seed)
        count = int((~np.isnan(sample.values)).sum())
        return cls(weighted_mean(sample.values, sample.weights), low, high, count)


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        metrics: name -> mean over everything.
        differences: name -> mean of the paired differences to `NO_LEARNING`, where both are defined.
        settings: what the method was, as JSON can hold it.
        facts: counts and seconds of its run.
        versus: other method -> name -> mean of the paired differences to that method.
    """

    method: str
    metrics: Mapping[str, Estimate]
    differences: Mapping[str, Estimate] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    versus: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        method: str,
        samples: Mapping[str, Sample],
        baseline: Mapping[str, Sample] | None,
        seed: int,
        settings: Mapping[str, Any] | None = None,
        facts: Mapping[str, Any] | None = None,
        others: Mapping[str, Mapping[str, Sample]] | None = None,
    ) -> "Row":
        """Estimate every metric, and the differences to the baseline and to other methods."""
        return cls(
            method,
            {name: Estimate.of(sample, seed) for name, sample in samples.items()},
            _differences(samples, baseline or {}, seed),
            settings or {},
            facts or {},
            {other: _differences(samples, of_other, seed) for other, of_other in (others or {}).items()},
        )


def _differences(
    samples: Mapping[str, Sample], others: Mapping[str, Sample], seed: int
) -> dict[str, Estimate]:
    """Pair the metrics that have values of the same queries (or objects) in both."""
    return {
        name: Estimate.of(sample.minus(others[name]), seed)
        for name, sample in samples.items()
        if name in others and np.array_equal(sample.users, others[name].users)
    }


@dataclass(frozen=True)
class Report:
    """A replay: what it was run on, and a row for each method."""

    source: Mapping[str, Any]
    rows: Sequence[Row]

    def row(self, method: str) -> Row:
        """Return one method's row; raises KeyError."""
        for row in self.rows:
            if row.method == method:
                return row
        raise KeyError(method)

    def as_json(self) -> dict[str, Any]:
        """Return what JSON can hold, see `plain`."""
        told: dict[str, Any] = plain(asdict(self))
        return told


def settings_of(thing: Any) -> dict[str, Any]:
    """Return an adjuster's or evidence weights' settings as JSON can hold them, without the index's.

    >>> from improvement.evidence import EvidenceWeights
    >>> settings_of(EvidenceWeights(events={"click": 2.0}))["events"]
    {'click': 2.0}
    """
    if not is_dataclass(thing) or isinstance(thing, type):
        return {"is": repr(thing)}
    values = {f.name: getattr(thing, f.name) for f in fields(thing) if f.name != "search_index_info"}
    return {"is": type(thing).__name__} | {name: plain(value) for name, value in values.items()}


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: NaN is null, infinity its name, a dataclass its settings.

    >>> plain({"a": float("nan"), "b": (1, float("inf"))})
    {'a': None, 'b': [1, 'inf']}
    """
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return settings_of(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value if isinstance(value, str | int | float | None) else repr(value)

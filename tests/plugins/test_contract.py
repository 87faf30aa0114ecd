"""Every plugin in plugins/ keeps the port's contract."""

from pathlib import Path

import numpy as np
import pytest

from improvement.domain import MetricAggregationType, SearchDomain, load_domain
from improvement.errors import WrongPlugin

PLUGINS = sorted(
    path.stem for path in (Path(__file__).parents[2] / "plugins").glob("*.py") if path.stem != "__init__"
)


@pytest.fixture(params=PLUGINS)
def plugin(request: pytest.FixtureRequest) -> SearchDomain:
    return load_domain(f"plugins.{request.param}:domain")


def test_every_plugin_loads_and_is_checked(plugin: SearchDomain):
    assert plugin.name


def test_names_are_distinct():
    names = [load_domain(f"plugins.{name}:domain").name for name in PLUGINS]
    assert len(set(names)) == len(names)


def test_prepared_vectors_are_prepared_already(plugin: SearchDomain):
    rows = np.random.default_rng(0).standard_normal((5, plugin.search_index_info.dimensions)).astype("f4")
    once = plugin.prepare_vectors(rows)
    np.testing.assert_allclose(plugin.prepare_vectors(once), once, atol=1e-6)


def test_a_row_is_prepared_the_same_alone_and_in_company(plugin: SearchDomain):
    rows = np.random.default_rng(0).standard_normal((5, plugin.search_index_info.dimensions)).astype("f4")
    alone = np.concatenate([plugin.prepare_vectors(row[None]) for row in rows])
    np.testing.assert_array_equal(plugin.prepare_vectors(rows), alone)


@pytest.mark.parametrize(
    ("name", "rate", "iterations", "temperature", "aggregation"),
    [
        ("ecommerce", 0.15, 15, 0.8, MetricAggregationType.AVG),
        ("documents", 0.05, 25, 2.0, MetricAggregationType.MIN),
    ],
)
def test_the_seeds_values_are_kept(
    name: str, rate: float, iterations: int, temperature: float, aggregation: MetricAggregationType
):
    domain = load_domain(f"plugins.{name}:domain")
    adjuster = domain.adjuster
    assert (adjuster.adjustment_rate, adjuster.num_iterations, adjuster.softmin_temperature) == (  # type: ignore[attr-defined]
        rate,
        iterations,
        temperature,
    )
    assert domain.search_index_info.metric_aggregation_type is aggregation


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("plugins.documents", "module:attribute"),
        ("plugins.nothing_here:domain", "importable module"),
        ("plugins.documents:missing", "expected a SearchDomain, got NoneType"),
        ("plugins.documents:info", "expected a SearchDomain, got SearchIndexInfo"),
    ],
)
def test_a_wrong_path_is_named(path: str, says: str):
    with pytest.raises(WrongPlugin, match=says) as caught:
        load_domain(path)
    assert path in str(caught.value)

"""A wrong domain stops start-up and says which field and what was expected."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from improvement.adjusters.torch_based import TorchBasedAdjuster
from improvement.domain import MetricType, SearchIndexInfo, check_domain, prepare_vectors
from improvement.errors import PluginFailed, WrongPlugin
from tests.support import WordEncoder, make_domain

DOMAIN = make_domain()


class NoModelId:
    def encode(self, texts: Any) -> Any:
        return texts


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "with space"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "ä"}, "name"),
        ({"name": 3}, "name"),
        ({"search_index_info": "cosine"}, "search_index_info"),
        ({"search_index_info": SearchIndexInfo(0)}, "search_index_info.dimensions"),
        ({"search_index_info": SearchIndexInfo(16, "cos")}, "search_index_info.metric_type"),
        ({"adjuster": object()}, "adjuster"),
        ({"adjuster": TorchBasedAdjuster(SearchIndexInfo(8))}, "adjuster.search_index_info"),
        ({"encoder": NoModelId()}, "encoder"),
        ({"encoder": WordEncoder(model_id="")}, "encoder.model_id"),
        ({"selector": None}, "selector"),
        ({"evidence": {"click": 1.0}}, "evidence"),
        ({"prepare": 5}, "prepare"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_expected(change: dict[str, Any], field: str):
    with pytest.raises(WrongPlugin, match=f"'mine'.*{field}: expected"):
        check_domain(replace(DOMAIN, **change), "mine")


def test_a_drift_without_bound_is_refused():
    endless = TorchBasedAdjuster(DOMAIN.search_index_info, max_drift=float("inf"))
    with pytest.raises(WrongPlugin, match="max_drift"):
        check_domain(replace(DOMAIN, adjuster=endless), "mine")


ROWS = arrays(np.float32, (3, 4), elements=st.floats(-1e6, 1e6, width=32))


@given(ROWS)
def test_cosine_rows_have_unit_length_or_none(rows: np.ndarray):
    lengths = np.linalg.norm(prepare_vectors(rows, MetricType.COSINE).astype(float), axis=-1)
    assert np.all((np.abs(lengths - 1) < 1e-5) | (lengths == 0))


@given(ROWS)
def test_dot_rows_span_zero_to_one_or_nothing(rows: np.ndarray):
    prepared = prepare_vectors(rows, MetricType.DOT)
    assert prepared.min() >= 0
    assert prepared.max() <= 1


@given(ROWS)
def test_euclid_rows_stay_as_they_are(rows: np.ndarray):
    np.testing.assert_array_equal(prepare_vectors(rows, MetricType.EUCLID), rows)


@dataclass(frozen=True)
class Own:
    """An adjuster of a plugin's own."""

    strength: float = 1.0
    max_drift = 0.3

    def adjust(self, batch: Any) -> Any:
        return batch.parts


class Slower(Own):
    def at_rate(self, rate: float) -> "Slower":
        return Slower(self.strength * rate)


def test_learning_less_is_the_adjusters_own_word_or_its_rate_or_nothing():
    info = DOMAIN.search_index_info
    published = replace(DOMAIN, adjuster=TorchBasedAdjuster(info, adjustment_rate=0.4)).at_rate(0.5)
    assert published.adjuster.adjustment_rate == pytest.approx(0.2)
    assert replace(DOMAIN, adjuster=Slower(3.0)).at_rate(0.5).adjuster == Slower(1.5)
    stubborn = replace(DOMAIN, adjuster=Own(3.0)).at_rate(0.5)
    assert stubborn.adjuster == Own(3.0)
    assert stubborn.profiles.learning_rate == DOMAIN.profiles.learning_rate / 2


@pytest.mark.parametrize("returned", [np.zeros((1, 3)), np.full((1, 16), np.nan), np.zeros(16)])
def test_an_encoder_that_misbehaves_is_caught(returned: np.ndarray):
    class Strange(WordEncoder):
        def encode(self, texts: Any) -> Any:
            return returned

    with pytest.raises(PluginFailed, match="encoder"):
        replace(DOMAIN, encoder=Strange()).embed(["text"])

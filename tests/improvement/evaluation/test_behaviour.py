"""Users who are not perfect."""

import numpy as np
import pytest

from improvement.evaluation.behaviour import Behaviour

RELEVANT = [place % 4 == 1 for place in range(20)]


def acts(behaviour: Behaviour, seed: int = 0, progress: float = 0.9, times: int = 400):
    rng = np.random.default_rng(seed)
    return [act for _ in range(times) for act in behaviour.acts(rng, RELEVANT, progress)]


def test_the_protocols_users_click_all_and_only_what_is_relevant():
    wanted = [(place, "click", None) for place, is_relevant in enumerate(RELEVANT) if is_relevant]
    assert list(Behaviour().acts(np.random.default_rng(0), RELEVANT, 0.0)) == wanted


def test_low_places_are_clicked_as_rarely_as_their_propensity_says():
    biased = Behaviour(position_bias=1.0)
    clicks = np.bincount([place for place, _, _ in acts(biased)], minlength=20) / 400
    expected = np.array(biased.propensities(20)) * RELEVANT
    assert np.abs(clicks - expected).max() < 0.08
    assert clicks[1] > 3 * clicks[17]


def test_accidents_are_left_at_once_and_what_was_meant_is_not():
    found = acts(Behaviour(accidents=0.1))
    assert {dwell for place, _, dwell in found if RELEVANT[place]} == {20.0}
    assert {dwell for place, _, dwell in found if not RELEVANT[place]} == {1.0}
    accidents = sum(not RELEVANT[place] for place, _, _ in found)
    assert accidents == pytest.approx(0.1 * 15 * 400, rel=0.15)


def test_only_what_is_irrelevant_is_disliked():
    disliked = {place for place, event, _ in acts(Behaviour(dislikes=0.2)) if event == "not_interested"}
    assert disliked == {place for place in range(20) if not RELEVANT[place]}


def test_misleading_sessions_come_first_and_click_as_much_but_nothing_relevant():
    lost = Behaviour(misleading_sessions=0.5)
    before, after = acts(lost, progress=0.4, times=10), acts(lost, progress=0.5, times=10)
    assert len(before) == len(after) == 50
    assert not any(RELEVANT[place] for place, _, _ in before)
    assert all(RELEVANT[place] for place, _, _ in after)


@pytest.mark.parametrize(
    ("field", "value"), [("position_bias", -1.0), ("accidents", 1.5), ("dislikes", float("nan"))]
)
def test_what_nobody_can_do_is_named(field: str, value: float):
    with pytest.raises(ValueError, match=f"^{field}: expected"):
        Behaviour(**{field: value})

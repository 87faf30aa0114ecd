"""What everybody chose: how far it turns an object, and what one account can do about that."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from improvement.adjusters import population
from improvement.adjusters.population import PopulationEvidence, Turns, population_turns, turned
from improvement.domain import MetricType
from improvement.green.settings import PopulationSettings

COSINE, DOT, EUCLID = MetricType.COSINE, MetricType.DOT, MetricType.EUCLID
SETTINGS = PopulationSettings(max_drift=0.2, prior=20, strongest=2, per_user=1, away=1)
COLUMNS = ("users", "objects", "searches", "chosen", "refused", "looked")
LAWS = settings(deadline=None, max_examples=50)

numbers = st.one_of(st.floats(-3, 3, width=32), st.floats(-(2.0**100), 2.0**100, width=32))
pairs = st.integers(1, 5).flatmap(lambda d: arrays(np.float32, (2, 3, d), elements=numbers))
reaches = arrays(
    np.float64, 3, elements=st.sampled_from([0.0, 1e-12, 1e-7, -2e-6, 0.01, -0.3, 0.3, 1.0, -3.0, 9.0])
)


def angle(x, y):
    """Measure in long double, by another formula than the code."""
    u, v = (z / np.sqrt((z**2).sum()) for z in (x.astype(np.longdouble), y.astype(np.longdouble)))
    return np.arctan2(np.sqrt(((v - (u @ v) * u) ** 2).sum()), u @ v)


def drift(before, after, metric):
    if np.array_equal(before, after):
        return 0.0
    if metric is COSINE:
        return angle(before, after)
    x, y = before.astype(np.longdouble), after.astype(np.longdouble)
    return np.sqrt(((y - x) ** 2).sum()) / np.sqrt((x**2).sum())


@pytest.mark.parametrize("metric", MetricType)
@given(pair=pairs, amounts=reaches)
@LAWS
def test_a_row_never_drifts_farther_than_its_amount(metric, pair, amounts):
    rows, targets = pair
    given_bytes = (pair.tobytes(), amounts.tobytes())
    after = turned(rows, targets, amounts, metric)
    assert (pair.tobytes(), amounts.tobytes()) == given_bytes
    assert after.dtype == np.float32
    assert np.isfinite(after).all()
    for x, y, amount in zip(rows, after, amounts, strict=True):
        assert drift(x, y, metric) <= abs(amount) + 1e-17  # long double's own rounding


@pytest.mark.parametrize("metric", MetricType)
@given(seed=st.integers(0, 2**32 - 1), dimensions=st.sampled_from([1, 2, 7, 384]))
@LAWS
def test_a_row_is_turned_alike_alone_and_in_any_batch(metric, seed, dimensions):
    rng = np.random.default_rng(seed)
    rows, targets = rng.standard_normal((2, 19, dimensions)).astype(np.float32)
    amounts = rng.uniform(-1, 1, 19)
    together = turned(rows, targets, amounts, metric)
    for n in range(19):
        alone = turned(rows[n : n + 1], targets[n : n + 1], amounts[n : n + 1], metric)
        assert alone.tobytes() == together[n].tobytes()


@given(seed=st.integers(0, 2**32 - 1), amount=st.floats(-4, 4))
@LAWS
def test_on_the_sphere_a_row_turns_as_far_as_it_may_and_not_past_target_or_antipode(seed, amount):
    rows, targets = np.random.default_rng(seed).standard_normal((2, 5, 6)).astype(np.float32)
    after = turned(rows, targets, np.full(5, amount), COSINE)
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), np.linalg.norm(rows, axis=1), rtol=1e-6)
    for x, t, y in zip(rows, targets, after, strict=True):
        left = float(angle(x, t))
        expected = max(0.0, left - amount) if amount > 0 else min(math.pi, left - amount)
        assert float(angle(y, t)) == pytest.approx(expected, abs=1e-5)
        plane = np.stack([x, t, y]).astype(np.float64)
        assert np.linalg.svd(plane / np.linalg.norm(plane, axis=1)[:, None])[1][-1] < 1e-6


def test_in_a_euclidean_space_a_row_goes_to_its_target_and_stops_there():
    rows, target = np.array([[3, 4]] * 3, np.float32), np.array([[3, 0]] * 3, np.float32)
    moved = turned(rows, target, np.array([0.2, 5.0, -0.2]), EUCLID)
    np.testing.assert_allclose(moved, [[3, 3], [3, 0], [3, 5]], atol=1e-4)


def test_for_products_a_row_goes_along_the_direction_however_long_the_target_is():
    rows = np.array([[3, 4]] * 3, np.float32)
    moved = turned(rows, np.array([[9, 0], [0.1, 0], [9, 0]], np.float32), np.array([0.2, 0.2, -0.2]), DOT)
    np.testing.assert_allclose(moved, [[4, 4], [4, 4], [2, 4]], atol=1e-4)


@pytest.mark.parametrize("metric", MetricType)
def test_rows_without_a_way_stay_as_they_are(metric):
    tiny = np.float32(1e-45)
    cases = [([0, 0], [1, 0], 0.3), ([1, 2], [0, 0], 0.3), ([1, 2], [2, 1], 0.0), ([tiny, 0], [0, 1], 0.3)]
    if metric is not DOT:
        cases.append(([1, 2], [1, 2], 0.3))
    if metric is COSINE:
        cases += [([1, 2], [-1, -2], 0.3), ([1, 2], [-1, -2], -0.3), ([1, 2], [2, 4], -0.3)]
    rows, targets, amounts = (np.array(column) for column in zip(*cases, strict=True))
    rows = rows.astype(np.float32)
    assert turned(rows, targets.astype(np.float32), amounts, metric).tobytes() == rows.tobytes()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rows": np.zeros(2)}, "rows"),
        ({"targets": np.zeros((1, 2))}, "targets"),
        ({"amounts": np.zeros(3)}, "amounts"),
        ({"rows": np.full((2, 2), np.nan)}, "rows"),
        ({"targets": np.full((2, 2), np.inf)}, "targets"),
        ({"amounts": np.array([0.1, np.nan])}, "amounts"),
    ],
)
def test_what_cannot_be_turned_is_named(changes, named):
    arguments = {"rows": np.ones((2, 2)), "targets": np.ones((2, 2)), "amounts": np.ones(2)} | changes
    with pytest.raises(ValueError, match=f"^{named}: "):
        turned(**arguments, metric=COSINE)


def said(rows, queries=4, count=6, size=5):
    """Make evidence of rows (user, object, search, chosen, refused, looked)."""
    columns = np.array(rows, np.float64).reshape(-1, 6).T
    where, how = columns[:3].astype(np.int64), columns[3:]
    vectors = np.random.default_rng(0).standard_normal((queries, size)).astype(np.float32)
    return PopulationEvidence(*where, *how, vectors, count)


strengths = st.sampled_from([0.0, 0.0, 0.0, 0.58, 1.0, 30.0])
a_row = st.tuples(
    st.integers(0, 7), st.integers(0, 5), st.integers(0, 3), strengths,
    st.sampled_from([0.0, 0.0, 0.0, 0.9]), st.sampled_from([0.0, 0.1, 1.0]),
)  # fmt: skip
logs = st.lists(a_row, min_size=0, max_size=60)
own = st.lists(a_row.map(lambda row: (8, *row[1:])), max_size=40)
some_settings = st.builds(
    PopulationSettings,
    max_drift=st.sampled_from([0.1, 1.0]), prior=st.sampled_from([0.5, 5.0, 20.0]),
    strongest=st.sampled_from([0.5, 3.0]), per_user=st.sampled_from([0.5, 1.0, 3.0]),
    away=st.sampled_from([0.0, 0.4, 1.0]),
)  # fmt: skip


def mean_rate(evidence, given_settings):
    """Compute the mean over accounts of the rate at which each chooses, at most 1."""
    rates = []
    for user in np.unique(evidence.users):
        looked = chosen = 0.0
        for one in range(evidence.count):
            mine = (evidence.users == user) & (evidence.objects == one)
            sums = [getattr(evidence, name)[mine].sum() for name in ("looked", "chosen", "refused")]
            part = given_settings.per_user / max(given_settings.per_user, *sums)
            looked, chosen = looked + part * sums[0], chosen + part * sums[1]
        if looked:
            rates.append(min(1.0, chosen / looked))
    return sum(rates) / len(rates) if rates else 0.0


def naively(evidence: PopulationEvidence, given: PopulationSettings) -> Turns:
    """Compute with dictionaries what `population_turns` says it computes."""
    pairs: dict[tuple[int, int], list[int]] = {}
    for row, key in enumerate(zip(evidence.objects.tolist(), evidence.users.tolist(), strict=True)):
        pairs.setdefault(key, []).append(row)
    sums = {
        key: {c: sum(getattr(evidence, c)[row] for row in rows) for c in ("chosen", "refused", "looked")}
        for key, rows in pairs.items()
    }
    part = {key: given.per_user / max(given.per_user, *of.values()) for key, of in sums.items()}
    mean = mean_rate(evidence, given)
    targets, amounts = np.zeros((evidence.count, evidence.queries.shape[1])), np.zeros(evidence.count)
    for one in range(evidence.count if mean else 0):
        keys = sorted(key for key in pairs if key[0] == one)
        heard = {}
        for column in ("chosen", "refused", "looked"):
            loudest = max(keys, key=lambda key: part[key] * sums[key][column], default=None)
            heard[column] = [key for key in keys if key != loudest]

        def total(column, keys):
            return sum(part[key] * sums[key][column] for key in keys)

        votes = total("chosen", heard["chosen"]) + given.prior * mean
        liked = votes * votes / (votes + total("refused", heard["refused"]))
        towards = math.log(liked / mean / (total("looked", keys) + given.prior))
        away = math.log(liked / mean / (total("looked", heard["looked"]) + given.prior))
        lift = towards if towards > 1e-12 else min(0.0, away) * given.away
        amounts[one] = given.max_drift * max(-1.0, min(1.0, lift / given.strongest))
        column = "chosen" if lift > 0 else "looked"
        voices = {key: part[key] * sums[key][column] for key in keys}
        # Away, the loudest is left out; towards, he is as loud as the next one.
        following = max((voices[key] for key in heard[column]), default=0.0) if lift > 0 else 0.0
        told = [
            (
                part[key] * getattr(evidence, column)[row]
                * (1.0 if key in heard[column] else following / (voices[key] or 1.0)),
                evidence.queries[evidence.searches[row]],
            )
            for key in keys
            for row in pairs[key]
        ]  # fmt: skip
        if lift and sum(weight for weight, _ in told):
            targets[one] = sum(weight * query for weight, query in told) / sum(weight for weight, _ in told)
    return Turns(targets, np.where(targets.any(axis=1), amounts, 0.0))


@given(rows=logs, given_settings=some_settings)
@LAWS
def test_sums_over_arrays_say_what_a_loop_over_dictionaries_says(rows, given_settings):
    evidence = said(rows)
    held = [getattr(evidence, name).tobytes() for name in (*COLUMNS, "queries")]
    fast, slow = population_turns(evidence, given_settings), naively(evidence, given_settings)
    np.testing.assert_allclose(fast.amounts, slow.amounts, rtol=0, atol=1e-12)
    np.testing.assert_allclose(fast.targets, slow.targets, rtol=1e-5, atol=1e-6)
    assert fast.targets.dtype == np.float32
    assert np.abs(fast.amounts).max() <= given_settings.max_drift
    assert [getattr(evidence, name).tobytes() for name in (*COLUMNS, "queries")] == held


@given(others=logs, attack=own, given_settings=some_settings, times=st.sampled_from([1, 50]))
@LAWS
def test_whatever_one_account_does_an_object_that_only_it_chose_is_not_turned_to_anything(
    others, attack, given_settings, times
):
    turns = population_turns(said(others + attack * times), given_settings)
    choosers = {one: {row[0] for row in others + attack if row[1] == one and row[3]} for one in range(6)}
    seen_by = {one: {row[0] for row in others + attack if row[1] == one} for one in range(6)}
    for one in range(6):
        if len(choosers[one]) <= 1:
            assert turns.amounts[one] <= 0
        if len(seen_by[one]) <= 1:
            assert turns.amounts[one] == 0


@given(others=logs, attack=own, given_settings=some_settings, times=st.sampled_from([1, 50]))
@LAWS
def test_one_more_account_changes_no_angle_by_more_than_the_docstring_says(
    others, attack, given_settings, times
):
    without, within = said(others), said(others + attack * times)
    means = [mean_rate(evidence, given_settings) for evidence in (without, within)]
    if not all(means):
        return
    before, after = (population_turns(evidence, given_settings) for evidence in (without, within))
    shift = 2 * math.log1p(given_settings.per_user / (given_settings.prior * min(means)))
    bound = shift + abs(math.log(means[1] / means[0]))
    most = given_settings.max_drift / given_settings.strongest * bound
    aimed = before.targets.any(axis=1) & after.targets.any(axis=1)  # the others have no query to turn to
    assert np.abs(after.amounts - before.amounts)[aimed].max(initial=0) <= most + 1e-12


def crowd(choosing: int, object_: int = 0, search: int = 0, users: int = 30, first: int = 0):
    """Rows of users who were shown an object and object 5; some chose the first, the others object 5."""
    return [
        row
        for user in range(first, first + users)
        for row in (
            (user, object_, search, float(user - first < choosing), 0, 1),
            (user, 5, search, float(user - first >= choosing), 0, 1),
        )
    ]


def test_what_is_chosen_more_than_the_mean_is_turned_to_its_query_and_the_rest_away():
    evidence = said(crowd(choosing=28))
    turns = population_turns(evidence, SETTINGS)
    assert turns.amounts[0] > 0.03
    assert turns.amounts[5] < -0.03
    np.testing.assert_allclose(turns.targets[[0, 5]], evidence.queries[[0, 0]], rtol=1e-6)
    assert not turns.amounts[1:5].any()
    assert not turns.targets[1:5].any()


def test_away_scales_what_is_turned_away_only():
    turns = population_turns(said(crowd(28)), SETTINGS)
    half = population_turns(said(crowd(28)), replace(SETTINGS, away=0.5))
    none = population_turns(said(crowd(28)), replace(SETTINGS, away=0))
    assert half.amounts[5] == pytest.approx(turns.amounts[5] / 2)
    assert half.amounts[0] == none.amounts[0] == turns.amounts[0]
    assert none.amounts[5] == 0
    assert not none.targets[5].any()


def test_no_object_is_turned_farther_than_max_drift_however_strong_the_evidence():
    eager = replace(SETTINGS, prior=0.01, strongest=0.01)
    assert population_turns(said(crowd(28)), eager).amounts[[0, 5]].tolist() == [0.2, -0.2]


def test_ten_thousand_clicks_of_one_account_count_as_one_look_of_one_account():
    once = population_turns(said([*crowd(28), (99, 0, 1, 1, 0, 1)]), SETTINGS)
    often = population_turns(said([*crowd(28), *[(99, 0, 1, 1, 0, 1)] * 10_000]), SETTINGS)
    np.testing.assert_array_equal(once.amounts, often.amounts)
    np.testing.assert_allclose(once.targets, often.targets, rtol=1e-6)


def test_clicks_where_nobody_looks_are_bounded_too():
    low_down = [(99, 0, 1, 10.0, 0, 0.001)] * 1_000
    before = population_turns(said(crowd(28)), SETTINGS)
    after = population_turns(said([*crowd(28), *low_down]), SETTINGS)
    assert abs(after.amounts[0] - before.amounts[0]) < 0.02


def test_where_to_the_loudest_account_is_no_louder_than_the_next():
    honest = [(user, 0, 0, 0.5, 0, 1) for user in range(4)]
    background = [(user, 5, 2, 0, 0, 1) for user in range(60)]
    loud = [(99, 0, 1, 1.0, 0, 1)] * 100
    evidence = said([*honest, *background, *loud])
    turns = population_turns(evidence, replace(SETTINGS, prior=0.5))
    assert turns.amounts[0] > 0.05
    expected = 0.8 * evidence.queries[0] + 0.2 * evidence.queries[1]
    np.testing.assert_allclose(turns.targets[0], expected, rtol=1e-5)


@pytest.mark.parametrize("loudness", [0.01, 0.99, 1.0, 50.0])
def test_beside_one_honest_choice_an_account_is_at_most_half_of_where_to(loudness):
    background = [(user, 5, 2, 0, 0, 1) for user in range(60)]
    honest, attack = (40, 0, 0, 1.0, 0, 1), (99, 0, 1, loudness, 0, 1)
    evidence = said([*background, honest, attack])
    assert population_turns(said([*background, honest]), replace(SETTINGS, prior=0.5)).amounts[0] == 0
    turns = population_turns(evidence, replace(SETTINGS, prior=0.5))
    if turns.amounts[0]:
        np.testing.assert_allclose(turns.targets[0], evidence.queries[:2].mean(axis=0), rtol=1e-5)


def test_dislikes_count_against_but_not_those_of_one_account():
    def amount(refusing: int) -> float:
        refused = [(user, 0, 0, 0, 0.9, 0) for user in range(100, 100 + refusing)]
        return float(population_turns(said([*crowd(28), *refused]), SETTINGS).amounts[0])

    assert amount(refusing=1) == amount(refusing=0)
    assert amount(0) > amount(4) > amount(40)
    assert amount(40) < 0 < amount(4)


def test_a_low_place_is_not_held_against_an_object():
    rng = np.random.default_rng(1)
    clicked = rng.random((2, 4_000)) < np.array([[0.3], [0.3 * 0.2]])  # the second stands where few look
    rows = [
        (user, one, 0, float(clicked[one, user]), 0, (1.0, 0.2)[one])
        for user in range(4_000)
        for one in range(2)
    ]
    turns = population_turns(said(rows), SETTINGS)
    assert abs(turns.amounts[0] - turns.amounts[1]) < 0.02
    blind = population_turns(replace(said(rows), looked=np.ones(8_000)), SETTINGS)
    assert blind.amounts[0] - blind.amounts[1] > 0.1


def test_the_order_of_the_rows_says_nothing():
    rows = [*crowd(28), *crowd(9, object_=1, search=2, first=30)]
    shuffled = [rows[n] for n in np.random.default_rng(2).permutation(len(rows))]
    straight, mixed = population_turns(said(rows), SETTINGS), population_turns(said(shuffled), SETTINGS)
    np.testing.assert_allclose(straight.amounts, mixed.amounts, rtol=1e-12)
    np.testing.assert_allclose(straight.targets, mixed.targets, rtol=1e-6)


def test_sums_over_queries_are_the_same_in_many_pieces(monkeypatch):
    rows = [*crowd(28), *crowd(9, object_=1, search=2, first=30)]
    whole = population_turns(said(rows), SETTINGS)
    monkeypatch.setattr(population, "CHUNK", 1)
    np.testing.assert_allclose(population_turns(said(rows), SETTINGS).targets, whole.targets, rtol=1e-6)


@pytest.mark.parametrize("rows", [[], [(0, 0, 0, 0, 0, 1), (1, 0, 0, 0, 0, 1)]], ids=["empty", "no choice"])
def test_where_nothing_was_chosen_nothing_moves(rows):
    turns = population_turns(said(rows), SETTINGS)
    assert turns.targets.shape == (6, 5)
    assert not turns.amounts.any()
    assert not turns.targets.any()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("users", np.array([-1])), ("objects", np.array([6])), ("searches", np.array([4])),
        ("chosen", np.array([np.nan])), ("refused", np.array([-0.1])), ("looked", np.array([np.inf])),
        ("objects", np.array([0, 1])), ("queries", np.full((4, 5), np.nan, np.float32)),
    ],
)  # fmt: skip
def test_columns_that_make_no_sense_are_named(name, value):
    evidence = replace(said([(0, 0, 0, 1, 0, 1)]), **{name: value})
    with pytest.raises(ValueError, match=f"^{name}: "):
        population_turns(evidence, SETTINGS)

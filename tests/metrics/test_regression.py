"""What each metric of regression says, on numbers worked out by hand and on any input."""

import doctest
import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertkit.metrics import regression
from bertkit.metrics.regression import MAE, MSE, R2, Pearson, Spearman
from bertkit.registry import Registry
from bertkit.tasks import Kind, Regression

EVERY = [MSE, MAE, Pearson, Spearman, R2]
ERRORS = [MSE, MAE]
CORRELATIONS = [Pearson, Spearman]

every_metric = pytest.mark.parametrize("metric", EVERY, ids=lambda metric: metric.type_name())


def value(metric, references, predictions):
    """Return the score of columns of numbers, or of (n,) as users may give them."""
    return metric().compute(np.array(references, float), np.array(predictions, float), None)


def test_the_examples_in_the_docstrings_run():
    result = doctest.testmod(regression)
    assert result.failed == 0
    assert result.attempted >= len(EVERY)


# --- values worked out by hand -------------------------------------------------------------

TRUTH = [1, 2, 3, 6]  # mean 3, squared deviations 4 1 0 9
GUESS = [2, 2, 5, 3]  # mean 3, squared deviations 1 1 4 0


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (MSE, (1 + 0 + 4 + 9) / 4),
        (MAE, (1 + 0 + 2 + 3) / 4),
        (Pearson, (2 + 1 + 0 + 0) / math.sqrt(14 * 6)),
        # ranks 1 2 3 4 and 1.5 1.5 4 3: deviations -1.5 -0.5 0.5 1.5 and -1 -1 1.5 0.5
        (Spearman, (1.5 + 0.5 + 0.75 + 0.75) / math.sqrt(5 * 4.5)),
        (R2, 1 - 14 / 14),
    ],
)
def test_metrics_of_one_target(metric, expected):
    assert value(metric, TRUTH, GUESS) == pytest.approx(expected)


@every_metric
def test_of_several_targets_it_is_the_mean(metric):
    other = [4, -1, 0, 1], [3, 0, 0, 5]
    both = value(metric, np.stack([TRUTH, other[0]], 1), np.stack([GUESS, other[1]], 1))
    assert both == pytest.approx((value(metric, TRUTH, GUESS) + value(metric, *other)) / 2)


@every_metric
def test_a_column_is_the_same_as_no_column(metric):
    column = value(metric, np.array(TRUTH)[:, None], np.array(GUESS)[:, None])
    assert column == value(metric, TRUTH, GUESS)


def test_r2_is_below_zero_where_the_mean_would_have_been_better():
    assert value(R2, TRUTH, [10, 10, 10, 10]) < 0


def test_spearman_sees_the_order_and_pearson_the_line():
    curved = [0.1, 1, 10, 1e6]
    assert value(Spearman, TRUTH, curved) == pytest.approx(1)
    assert value(Pearson, TRUTH, curved) < 0.95


# --- where a metric is not defined ---------------------------------------------------------

CONSTANT = [7.1, 7.1, 7.1, 7.1]
NOT_DEFINED = [
    ("constant references", CONSTANT, GUESS, {Pearson, Spearman, R2}),
    ("constant predictions", TRUTH, CONSTANT, {Pearson, Spearman}),
    ("one text", [1], [2], {Pearson, Spearman, R2}),
    ("no text", [], [], set(EVERY)),
    ("a reference that is no number", [1, 2, math.nan], [1, 2, 3], set(EVERY)),
    ("a prediction that is infinite", [1, 2, 3], [1, 2, math.inf], set(EVERY)),
    ("one of two targets constant", [[1, 1], [2, 1]], [[1, 1], [2, 2]], {Pearson, Spearman, R2}),
]


@every_metric
@pytest.mark.parametrize(
    ("references", "predictions", "undefined"),
    [case[1:] for case in NOT_DEFINED],
    ids=[case[0] for case in NOT_DEFINED],
)
def test_what_is_not_defined_is_nan_and_no_warning(metric, references, predictions, undefined):
    assert math.isnan(value(metric, references, predictions)) is (metric in undefined)


@pytest.mark.parametrize("metric", CORRELATIONS)
def test_nearly_constant_predictions_are_no_reason_to_warn(metric):
    nearly = [1.0, 1.0, 1.0, 1.0 + 2**-52]
    assert -1 <= value(metric, TRUTH, nearly) <= 1


@every_metric
def test_huge_numbers_are_no_reason_to_warn(metric):
    assert type(value(metric, [1e200, -1e200, 3], [1, 2, 1e200])) is float


# --- what holds for every metric -----------------------------------------------------------


@every_metric
def test_the_name_is_the_key_of_the_result(metric):
    for component, key in [(metric(), metric.type_name()), (metric(name="mine"), "mine")]:
        assert list(component.make(None).compute(references=[0], predictions=[1])) == [key]


@every_metric
def test_it_is_for_regression_and_its_direction_is_known(metric):
    assert metric.tasks == ("regression",)
    assert metric.greater_is_better is (metric not in ERRORS)


def test_every_metric_of_a_regression_is_built_in_and_some_metric_is_there_for_each_kind():
    built_in = [one.cls for one in Registry(plugins=False).all("metric")]
    assert {cls for cls in built_in if "regression" in cls.tasks} == set(EVERY)
    assert {kind for cls in built_in for kind in cls.tasks} == set(get_args(Kind))


numbers = st.integers(-1000, 1000).map(lambda tenths: tenths / 10)


@st.composite
def measured(draw):
    """References and predictions of one target or two, perhaps constant."""
    shape = draw(st.tuples(st.integers(1, 10), st.integers(1, 2)))
    column = st.lists(numbers, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    return [np.array(draw(column)).reshape(shape) for _ in range(2)]


thorough = settings(max_examples=25, deadline=None)


@every_metric
@given(case=measured())
@thorough
def test_a_value_is_in_its_range_and_nothing_beats_the_truth(metric, case):
    references, predictions = case
    found, best = (metric().compute(references, guess, None) for guess in (predictions, references))
    low, high = (0, math.inf) if metric in ERRORS else (-math.inf if metric is R2 else -1, 1)
    for score in (found, best):
        assert type(score) is float
        assert math.isnan(score) or low - 1e-9 <= score <= high + 1e-9
    if not math.isnan(best):
        assert best == pytest.approx(0 if metric in ERRORS else 1)


@every_metric
@given(case=measured(), scale=st.sampled_from([0.25, 8]), shift=numbers)
@thorough
def test_units_change_errors_alone(metric, case, scale, shift):
    references, predictions = case
    here = metric().compute(references, predictions, None)
    there = metric().compute(references * scale + shift, predictions * scale + shift, None)
    factor = {MSE: scale**2, MAE: scale}.get(metric, 1)
    assert there == pytest.approx(here * factor, rel=1e-6, abs=1e-9, nan_ok=True)


@every_metric
@given(case=measured(), data=st.data())
@settings(max_examples=8, deadline=None)
def test_adding_in_pieces_is_computing_at_once_in_any_order(metric, case, data):
    references, predictions = case
    order = np.array(data.draw(st.permutations(range(len(references)))))
    cut = data.draw(st.integers(0, len(references)))
    pieces = metric().make(Regression(("width", "height")[: references.shape[1]]))
    pieces.add_batch(references=references[order[:cut]], predictions=predictions[order[:cut]])
    for i in order[cut:]:
        pieces.add(reference=references[i], prediction=predictions[i])
    at_once = metric().compute(references, predictions, None)
    (found,) = pieces.compute().values()
    assert found == pytest.approx(at_once, rel=1e-9, abs=1e-9, nan_ok=True)

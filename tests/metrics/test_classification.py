"""What each classification metric says, on numbers worked out by hand and on any input."""

import doctest
import math

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bertkit.errors import DataError, SpecError
from bertkit.metrics import classification
from bertkit.metrics.classification import (
    F1,
    Accuracy,
    AveragePrecision,
    CalibrationError,
    LogLoss,
    Matthews,
    Precision,
    Recall,
    RocAuc,
)
from bertkit.tasks import MultiLabel, SingleLabel

ON_LABELS = [Accuracy, Precision, Recall, F1, Matthews]
ON_SCORES = [RocAuc, AveragePrecision, LogLoss, CalibrationError]
AVERAGED = [Precision, Recall, F1]
EVERY = ON_LABELS + ON_SCORES
LOWER_IS_BETTER = [LogLoss, CalibrationError]
RANGES = {Matthews: (-1, 1), LogLoss: (0, 36.05)}

every_metric = pytest.mark.parametrize("metric", EVERY, ids=lambda metric: metric.type_name())
averaged_metric = pytest.mark.parametrize("metric", AVERAGED, ids=lambda metric: metric.type_name())


def named(*labels):
    return SingleLabel(labels)


def value(metric, references, predictions, task=None):
    dtype = np.int64 if metric.predictions == "labels" else np.float64
    return metric.compute(np.array(references, np.int64), np.array(predictions, dtype), task)


def test_the_examples_in_the_docstrings_run():
    result = doctest.testmod(classification)
    assert result.failed == 0
    assert result.attempted > len(EVERY)


# --- values worked out by hand -------------------------------------------------------------

# confusion matrix (rows = true): [2 1 0] [0 1 1] [0 0 1]
TRUTH = [0, 0, 0, 1, 1, 2]
GUESS = [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (Accuracy(), 4 / 6),
        (Precision(), (1 + 1 / 2 + 1 / 2) / 3),
        (Precision(average="weighted"), (3 * 1 + 2 / 2 + 1 / 2) / 6),
        (Precision(average="micro"), 4 / 6),
        (Recall(), (2 / 3 + 1 / 2 + 1) / 3),
        (Recall(average="weighted"), 4 / 6),
        (Recall(average="micro"), 4 / 6),
        (F1(), (4 / 5 + 1 / 2 + 2 / 3) / 3),
        (F1(average="weighted"), (3 * 4 / 5 + 2 / 2 + 2 / 3) / 6),
        (F1(average="micro"), 4 / 6),
        # (correct * n - sum of products of margins) / sqrt(...), margins 3 2 1 and 2 2 2
        (Matthews(), (4 * 6 - 12) / math.sqrt((36 - 12) * (36 - 14))),
    ],
    ids=lambda part: repr(part) if isinstance(part, float) else str(part.type),
)
def test_metrics_of_three_labels(metric, expected):
    assert value(metric, TRUTH, GUESS) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "last", "first"), [(Precision, 1, 1 / 2), (Recall, 1 / 3, 1), (F1, 1 / 2, 2 / 3)]
)
def test_binary_scores_the_last_label_unless_positive_names_the_other(metric, last, first):
    task = named("bad", "good")
    truth, guess = [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]
    for positive, expected in [(None, last), ("good", last), ("bad", first)]:
        binary = metric(average="binary", positive=positive)
        assert value(binary, truth, guess, task) == pytest.approx(expected)
    assert value(metric(average="binary", positive="0"), truth, guess) == pytest.approx(first)


FOUR = [[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.3, 0.6, 0.1], [0.1, 0.1, 0.8]]


def test_roc_auc_counts_the_pairs_in_the_right_order():
    two = [[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]]
    assert value(RocAuc(), [0, 0, 1, 1], two) == pytest.approx(3 / 4)
    assert value(RocAuc(), [0, 0, 1, 2], FOUR) == pytest.approx((3 / 4 + 1 + 1) / 3)


def test_average_precision_weighs_precision_by_the_recall_gained():
    two = [[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]]
    assert value(AveragePrecision(), [0, 0, 1, 1], two) == pytest.approx((1 + 2 / 3) / 2)
    expected = ((1 + 2 / 3) / 2 + 1 + 1) / 3
    assert value(AveragePrecision(), [0, 0, 1, 2], FOUR) == pytest.approx(expected)


def test_log_loss_is_the_mean_surprise_and_is_clipped():
    expected = -(math.log(0.8) + math.log(0.6)) / 2
    assert value(LogLoss(), [0, 1], [[0.8, 0.2], [0.4, 0.6]]) == pytest.approx(expected)
    assert value(LogLoss(), [0], [[0.0, 1.0]]) == pytest.approx(-math.log(2**-52))
    assert value(LogLoss(), [2, 2], [[0.5, 0.3, 0.2]] * 2) == pytest.approx(-math.log(0.2))


def test_log_loss_accepts_the_rounding_of_a_float32_softmax():
    rows = np.array([[0.1, 0.2, 0.7]], np.float32).astype(np.float64)
    assert value(LogLoss(), [2], rows * (1 + 1e-6)) == pytest.approx(-math.log(0.7), rel=1e-5)


def test_calibration_error_is_the_gap_of_each_bin_by_its_share():
    scores = [[0.6, 0.4], [0.6, 0.4], [0.9, 0.1], [0.9, 0.1]]
    assert value(CalibrationError(), [0, 1, 0, 0], scores) == pytest.approx(0.1 / 2 + 0.1 / 2)


def test_bins_decides_what_is_averaged_before_it_is_compared():
    scores = [[0.6, 0.4], [0.6, 0.4], [0.9, 0.1], [0.9, 0.1]]
    one = CalibrationError(bins=1)
    assert value(one, [0, 1, 0, 0], scores) == pytest.approx(0, abs=1e-12)


def test_a_confidence_on_an_edge_belongs_to_the_lower_bin():
    scores = [[0.5, 0.5], [0.75, 0.25]]
    two = CalibrationError(bins=2)
    assert value(two, [0, 1], scores) == pytest.approx((0.5 + 0.75) / 2)


def test_bins_must_be_positive():
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        CalibrationError(bins=0)


# --- labels that do not occur --------------------------------------------------------------


def test_a_label_that_never_occurs_does_not_lower_the_macro_average():
    task = named("a", "b", "never")
    for metric in (Precision(), Recall(), F1(), Accuracy(), Matthews()):
        assert value(metric, [0, 1], [0, 1], task) == 1


def test_a_label_that_is_only_predicted_counts_as_zero():
    assert value(F1(), [0, 0], [0, 1]) == pytest.approx((2 / 3 + 0) / 2)


@averaged_metric
def test_binary_without_a_positive_is_zero(metric):
    assert value(metric(average="binary"), [0, 0], [0, 0], named("no", "yes")) == 0


def test_matthews_of_a_single_label_is_zero():
    assert value(Matthews(), [1, 1], [1, 1]) == 0


@pytest.mark.parametrize("metric", [RocAuc(), AveragePrecision()])
def test_ranking_leaves_out_a_label_that_no_reference_has(metric):
    wider = [[*row, 0.0] for row in FOUR]
    truth = [0, 0, 1, 2]
    assert value(metric, truth, wider) == pytest.approx(value(metric, truth, FOUR))


@pytest.mark.parametrize("metric", [RocAuc(), AveragePrecision()])
@pytest.mark.parametrize("width", [2, 3])
def test_ranking_is_undefined_on_a_single_label(metric, width):
    assert math.isnan(value(metric, [1, 1], [[1 / width] * width] * 2))


def test_log_loss_and_calibration_error_need_no_label_to_occur():
    scores = [[0.0, 0.75, 0.25]]
    assert value(LogLoss(), [1], scores) == pytest.approx(-math.log(0.75))
    assert value(CalibrationError(), [1], scores) == pytest.approx(0.25)


# --- refusals ------------------------------------------------------------------------------


@averaged_metric
def test_binary_refuses_a_task_of_three_labels_before_training(metric):
    task = named("a", "b", "c")
    binary = metric(average="binary")
    where = rf'metrics\.{binary.type}\.average: "binary" needs two labels, found 3 \(a, b, c\)'
    with pytest.raises(SpecError, match=where + "; write macro, weighted or micro"):
        binary.make(task)
    with pytest.raises(SpecError, match=where):
        value(binary, [0], [0], task)


def test_binary_refuses_a_third_label_id_outside_a_run():
    with pytest.raises(SpecError, match=r"found 3 \(0, 1, 2\)"):
        value(F1(average="binary"), [0, 1], [0, 2])


def test_an_unknown_positive_label_is_refused_with_the_nearest_one():
    task = named("negative", "positive")
    binary = F1(average="binary", positive="postive", name="mine")
    with pytest.raises(SpecError) as error:
        binary.make(task)
    assert str(error.value) == (
        'metrics.mine.positive: found "postive", expected one of the labels (negative, positive); '
        'did you mean "positive"?'
    )
    with pytest.raises(SpecError, match="write one of them"):
        F1(average="binary", positive="?").make(task)


@pytest.mark.parametrize("average", ["macro", "weighted", "micro"])
def test_positive_is_refused_where_nothing_would_read_it(average):
    with pytest.raises(ValidationError, match=f'positive\n.*found with "average: {average}"'):
        F1(average=average, positive="good")


def test_an_unknown_average_is_one_mistake_not_two():
    with pytest.raises(ValidationError) as error:
        F1(average="mean", positive="good")
    assert [mistake["loc"] for mistake in error.value.errors()] == [("average",)]


def test_a_label_without_a_column_of_scores_is_refused():
    with pytest.raises(DataError, match=r"metrics\.roc_auc: found label id 2 .* for 2 labels"):
        value(RocAuc(), [0, 2], [[0.5, 0.5]] * 2)


# --- several labels a text ------------------------------------------------------------------

# columns: true and given; the last text rightly has none, and nobody has or is given the last label
SEVERAL = [[1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
GIVEN = [[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
CHANCE = [
    [0.9, 0.8, 0.1, 0],
    [0.9, 0.3, 0.8, 0],
    [0.4, 0.1, 0, 0],
    [0.6, 0.2, 0, 0],
    [0.7, 0, 0, 0],
]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (Accuracy(), 2 / 5),
        (Precision(), (1 + 1 + 0) / 3),
        (Precision(average="weighted"), (3 * 1 + 3 * 1) / 6),
        (Precision(average="micro"), 4 / 5),
        (Precision(average="samples"), (1 + 1 / 2 + 0 + 1 + 1) / 5),
        (Recall(), (1 + 1 / 3 + 0) / 3),
        (Recall(average="weighted"), (3 * 1 + 3 * 1 / 3) / 6),
        (Recall(average="micro"), 4 / 6),
        (Recall(average="samples"), (1 + 1 + 0 + 1 / 2 + 1) / 5),
        (F1(), (1 + 1 / 2 + 0) / 3),
        (F1(average="weighted"), (3 * 1 + 3 * 1 / 2) / 6),
        (F1(average="micro"), 8 / 11),
        (F1(average="samples"), (1 + 2 / 3 + 0 + 2 / 3 + 1) / 5),
    ],
    ids=lambda part: repr(part) if isinstance(part, float) else f"{part.type} {part.key}",
)
def test_labels_of_several_are_judged_each_or_as_a_set(metric, expected):
    assert value(metric, SEVERAL, GIVEN) == pytest.approx(expected)


def test_accuracy_of_several_labels_wants_the_whole_set():
    assert value(Accuracy(), [[1, 1, 1, 0]], [[1, 1, 0, 0]]) == 0


def test_of_several_labels_each_is_ranked_by_itself_where_some_have_it_and_some_not():
    # label 0: texts 0, 1, 3 above 4 above 2, and 4 (0.7) above 3 (0.6); label 1: above 1, not 2
    assert value(RocAuc(), SEVERAL, CHANCE) == pytest.approx((5 / 6 + 4 / 6) / 2)
    precise = (1 + 1 + 3 / 4) / 3, (1 + 2 / 3 + 3 / 4) / 3
    assert value(AveragePrecision(), SEVERAL, CHANCE) == pytest.approx(sum(precise) / 2)


@pytest.mark.parametrize("metric", [RocAuc(), AveragePrecision()], ids=["roc", "precision"])
def test_two_labels_of_several_are_not_each_other_s_opposite(metric):
    truth, scores = [[1, 0], [0, 0]], [[0.9, 0.9], [0.1, 0.1]]
    assert value(metric, truth, scores) == 1, "only the first label has both values"
    assert math.isnan(value(metric, [[1, 0], [1, 0]], scores))


def test_log_loss_of_several_labels_is_the_mean_binary_cross_entropy():
    expected = -(math.log(0.8) + math.log(0.9) + math.log(0.5) + math.log(0.3)) / 4
    assert value(LogLoss(), [[1, 0], [0, 1]], [[0.8, 0.1], [0.5, 0.3]]) == pytest.approx(expected)
    assert value(LogLoss(), [[1]], [[0.0]]) == pytest.approx(-math.log(2**-52))


def test_log_loss_of_several_labels_is_the_plain_loss_of_the_task():
    task = named_several(3)
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    targets = (torch.rand(7, 3, generator=torch.Generator().manual_seed(2)) < 0.4).float()
    found = value(LogLoss(), targets.long().numpy(), task.scores(logits.numpy()))
    assert found == pytest.approx(float(task.loss(logits, targets)) / 7, rel=1e-5)


def test_calibration_of_several_labels_compares_each_probability_with_how_often_it_holds():
    scores = [[0.9, 0.2], [0.9, 0.2], [0.9, 0.2], [0.9, 0.2]]
    truth = [[1, 0], [1, 0], [1, 0], [0, 0]]
    found = value(CalibrationError(), truth, scores)
    assert found == pytest.approx((abs(3 / 4 - 0.9) + abs(0 - 0.2)) / 2)
    assert value(CalibrationError(bins=1), truth, scores) == pytest.approx(abs(3 / 8 - 0.55))


def test_matthews_is_for_one_label_a_text():
    assert Matthews.tasks == ("single_label",)
    assert all("multi_label" in metric.tasks for metric in EVERY if metric is not Matthews)


def named_several(count):
    return MultiLabel(tuple("abcd"[:count]))


@averaged_metric
@pytest.mark.parametrize(
    ("average", "task", "kinds"),
    [
        ("samples", named("a", "b"), "multi_label tasks, and this is a single_label task"),
        ("binary", named_several(2), "single_label tasks, and this is a multi_label task"),
    ],
)
def test_an_average_for_the_other_kind_of_task_is_refused(metric, average, task, kinds):
    several = task.kind == "multi_label"
    found = metric(average=average, name="mine")
    where = rf'metrics\.mine\.average: "{average}" is for {kinds}; write macro, weighted or micro'
    with pytest.raises(SpecError, match=where):
        found.make(task)
    one = [[0, 1]] if several else [1]
    with pytest.raises(SpecError, match=where):
        found.make(None).compute(references=one, predictions=one)


@averaged_metric
@pytest.mark.parametrize("average", ["macro", "weighted", "micro"])
def test_no_label_anywhere_is_nothing_to_divide_by(metric, average):
    assert value(metric(average=average), [[0, 0]], [[0, 0]]) == 0


def test_several_labels_may_be_a_single_one():
    truth, guess, scores = [[1], [1], [0], [0]], [[1], [0], [1], [0]], [[0.9], [0.4], [0.6], [0.1]]
    for average in ("macro", "weighted", "micro"):
        assert value(F1(average=average), truth, guess) == pytest.approx(1 / 2)
    assert value(F1(average="samples"), truth, guess) == pytest.approx(2 / 4)
    assert value(Accuracy(), truth, guess) == pytest.approx(1 / 2)
    assert value(RocAuc(), truth, scores) == pytest.approx(3 / 4)


# --- what holds for every metric -----------------------------------------------------------


@every_metric
def test_the_name_is_the_key_of_the_result(metric):
    one = [0] if metric.predictions == "labels" else [[0.5, 0.5]]
    for component, key in [(metric(), metric.type_name()), (metric(name="mine"), "mine")]:
        assert list(component.make(None).compute(references=[0], predictions=one)) == [key]


@every_metric
def test_the_direction_is_known(metric):
    assert metric.greater_is_better is (metric not in LOWER_IS_BETTER)
    assert metric.predictions == ("scores" if metric in ON_SCORES else "labels")


@every_metric
def test_every_option_is_described(metric):
    assert all(field.description for name, field in metric.model_fields.items() if name != "type")


@every_metric
def test_no_example_is_no_score(metric):
    shape = 0 if metric.predictions == "labels" else (0, 2)
    assert math.isnan(value(metric(), [], np.empty(shape)))


@pytest.mark.parametrize("metric", ON_SCORES)
def test_a_score_that_is_not_finite_gives_no_score(metric):
    assert math.isnan(value(metric(), [0, 1], [[math.nan, math.nan], [0.5, 0.5]]))


@pytest.mark.parametrize("metric", ON_SCORES)
def test_one_column_is_the_probability_of_the_second_label(metric):
    second = np.array([0.1, 0.4, 0.35, 0.8])
    both = np.stack([1 - second, second], axis=1)
    truth = [0, 0, 1, 1]
    assert value(metric(), truth, second) == pytest.approx(value(metric(), truth, both))


@every_metric
def test_as_many_labels_as_examples_are_no_reason_to_warn(metric):
    labels = list(range(25))
    perfect = labels if metric.predictions == "labels" else np.eye(25)
    assert math.isfinite(value(metric(), labels, perfect))


@st.composite
def judged(draw):
    """References, and for both kinds of metric predictions; any label may be absent."""
    width = draw(st.integers(2, 4))
    size = draw(st.integers(1, 12))
    ids = st.lists(st.integers(0, width - 1), min_size=size, max_size=size)
    row = st.lists(st.integers(0, 9), min_size=width, max_size=width).filter(any)
    weights = np.array(draw(st.lists(row, min_size=size, max_size=size)), np.float64)
    scores = weights / weights.sum(axis=1, keepdims=True)
    return (
        np.array(draw(ids)),
        {"labels": np.array(draw(ids)), "scores": scores},
        named(*"abcd"[:width]),
    )


@st.composite
def judged_several(draw):
    """The same for several labels a text, perhaps one, perhaps none."""
    shape = draw(st.tuples(st.integers(1, 8), st.integers(1, 4)))
    flags = st.lists(st.integers(0, 1), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    tenths = st.lists(
        st.integers(0, 10), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]
    )
    scores = np.array(draw(tenths)).reshape(shape) / 10
    return (
        np.array(draw(flags)).reshape(shape),
        {"labels": np.array(draw(flags)).reshape(shape), "scores": scores},
        named_several(shape[1]),
    )


thorough = settings(max_examples=25, deadline=None)
for_every_task = pytest.mark.parametrize(
    ("metric", "cases"),
    [
        (metric, case)
        for case in (judged, judged_several)
        for metric in EVERY
        if case is judged or "multi_label" in metric.tasks
    ],
    ids=lambda part: part.__name__,
)


@for_every_task
@given(data=st.data())
@thorough
def test_a_value_is_in_its_range_or_nan(metric, cases, data):
    references, predictions, task = data.draw(cases())
    found = metric().compute(references, predictions[metric.predictions], task)
    low, high = RANGES.get(metric, (0, 1))
    assert type(found) is float
    assert math.isnan(found) or low - 1e-9 <= found <= high + 1e-9


@for_every_task
@given(data=st.data())
@thorough
def test_the_order_of_the_examples_does_not_matter(metric, cases, data):
    references, predictions, task = data.draw(cases())
    order = np.array(data.draw(st.permutations(range(len(references)))))
    found = predictions[metric.predictions]
    there = metric().compute(references, found, task)
    back = metric().compute(references[order], found[order], task)
    assert back == pytest.approx(there, rel=1e-9, abs=1e-12, nan_ok=True)


@for_every_task
@given(data=st.data())
@thorough
def test_nothing_beats_the_truth(metric, cases, data):
    references, predictions, task = data.draw(cases())
    certain = references if references.ndim == 2 else np.eye(len(task.labels))[references]
    perfect = {"labels": references, "scores": certain.astype(float)}
    best = metric().compute(references, perfect[metric.predictions], task)
    other = metric().compute(references, predictions[metric.predictions], task)
    assert math.isnan(best) == math.isnan(other)
    assert math.isnan(best) or (
        best >= other - 1e-9 if metric.greater_is_better else best <= other + 1e-9
    )


@averaged_metric
@given(case=judged())
@thorough
def test_micro_is_accuracy_where_every_example_has_one_label(metric, case):
    references, predictions, task = case
    micro = metric(average="micro").compute(references, predictions["labels"], task)
    accuracy = Accuracy().compute(references, predictions["labels"], task)
    assert micro == pytest.approx(accuracy)


@for_every_task
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_adding_in_pieces_is_computing_at_once(metric, cases, data):
    references, predictions, task = data.draw(cases())
    found = predictions[metric.predictions]
    cut = data.draw(st.integers(0, len(references)))
    whole, pieces = metric().make(task), metric().make(task)
    pieces.add_batch(references=references[:cut], predictions=found[:cut])
    for reference, prediction in zip(references[cut:], found[cut:], strict=True):
        pieces.add(reference=reference, prediction=prediction)
    at_once = whole.compute(references=references, predictions=found)
    assert pieces.compute() == pytest.approx(at_once, nan_ok=True)
    assert at_once[metric().key] == pytest.approx(
        metric().compute(references, found, task), nan_ok=True
    )


@averaged_metric
@pytest.mark.parametrize("average", ["weighted", "micro"])
@given(case=judged_several())
@thorough
def test_averages_of_several_labels_are_those_of_scikit_learn(metric, average, case):
    references, predictions, _ = case
    # one more label, which nobody has: scikit-learn takes a single column for label ids
    truth, guess = (np.pad(x, ((0, 0), (0, 1))) for x in (references, predictions["labels"]))
    function = getattr(sklearn.metrics, metric.scikit)
    expected = function(truth, guess, average=average, zero_division=0)
    found = metric(average=average).compute(references, predictions["labels"], None)
    assert found == pytest.approx(expected)

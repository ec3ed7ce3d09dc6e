"""What each kind of task learns, says and decides, whatever the data: every stage asks it."""

from __future__ import annotations

import doctest
import json
import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch.nn import functional

from bertkit import tasks
from bertkit.errors import DataError, SpecError
from bertkit.tasks import (
    MIN_POSITIVES,
    NO_LABEL,
    PLAIN,
    STRATA,
    Kind,
    MultiLabel,
    Regression,
    Shaping,
    SingleLabel,
    Task,
    TaskField,
    TaskOptions,
    best_threshold,
    task_from,
)

ONE = SingleLabel(("bad", "fair", "good"))
MANY = MultiLabel(("bad", "late", "rude"))
HEIGHT = Regression(("height",), (170.0,), (8.0,))
SIZES = Regression(("width", "height", "depth"), (3.0, -70.0, 0.0), (0.5, 20.0, 1.0))
EVERY = [ONE, MANY, HEIGHT, SIZES]

every_task = pytest.mark.parametrize(
    "task", EVERY, ids=lambda task: f"{task.kind}-{task.num_labels}"
)
thorough = settings(max_examples=60, deadline=None)


def column(task: Task, count: int = 6, seed: int = 0) -> list[Any]:
    """Return a column `label` as splits hold it."""
    rng = np.random.default_rng(seed)
    if isinstance(task, SingleLabel):
        return rng.integers(0, task.num_labels, count).tolist()
    if isinstance(task, MultiLabel):
        flags = rng.random((count, task.num_labels)) < 0.5
        return [np.flatnonzero(row).tolist() for row in flags]
    return rng.normal(100, 30, (count, task.num_labels)).tolist()


def batch(task: Task, count: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and targets."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, task.num_labels, generator=generator)
    return logits, torch.from_numpy(task.targets(column(task, count, seed)))


def test_the_examples_in_the_docstrings_run() -> None:
    result = doctest.testmod(tasks)
    assert result.failed == 0
    assert result.attempted >= 4


def test_there_is_a_task_for_each_kind() -> None:
    assert {task.kind for task in EVERY} == set(get_args(Kind))
    assert {task.problem_type for task in EVERY} == set(get_args(tasks.ProblemType))


# --- what is learned ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "found", "dtype", "targets"),
    [
        (ONE, [2, 0], np.int64, [2, 0]),
        (MANY, [[2, 0], [], [1]], np.float32, [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
        (HEIGHT, [[178.0], [170.0]], np.float32, [[1], [0]]),
        (SIZES, [[4.0, -70.0, 2.0]], np.float32, [[2, 0, 2]]),
        (Regression(("x", "y")), [[4.0, -7.0]], np.float32, [[4, -7]]),
    ],
)
def test_targets_are_what_the_model_learns(
    task: Task, found: list[Any], dtype: type, targets: list[Any]
) -> None:
    result = task.targets(found)
    assert result.dtype == dtype
    assert result.tolist() == targets


@every_task
def test_no_rows_are_targets_of_no_rows(task: Task) -> None:
    shape = (0,) if task is ONE else (0, task.num_labels)
    assert task.targets([]).shape == shape


@every_task
def test_truth_has_the_form_of_what_is_decided(task: Task) -> None:
    logits, targets = batch(task)
    truth = task.truth(targets.numpy())
    decided = task.decide(task.scores(logits.numpy()))
    assert truth.shape == decided.shape
    assert truth.dtype == decided.dtype == (np.float64 if not task.has_labels else np.int64)


numbers = st.floats(-1e6, 1e6)


@given(
    rows=st.lists(st.tuples(numbers, numbers), min_size=2, max_size=20),
    scale=st.sampled_from([1e-6, 1.0, 1e9]),
)
@thorough
def test_numbers_come_back_in_the_users_units(
    rows: list[tuple[float, float]], scale: float
) -> None:
    values = np.array(rows) * scale
    assume((values.std(axis=0) > abs(values).max() * 1e-6).all())  # no column is constant
    task = Regression(("a", "b")).fitted(values.tolist())
    targets = task.targets(values.tolist())
    assert targets.mean(axis=0) == pytest.approx([0, 0], abs=1e-5)
    assert targets.std(axis=0) == pytest.approx([1, 1], abs=1e-5)
    tolerance = 1e-5 * values.std(axis=0) * len(rows)
    assert (abs(task.truth(targets) - values) <= tolerance).all()


@pytest.mark.parametrize("task", [ONE, MANY])
def test_tasks_with_labels_take_nothing_from_the_train_split(task: Task) -> None:
    assert task.fitted(column(task)) is task


# --- the plain loss -------------------------------------------------------------------------


def test_the_loss_of_one_label_is_the_cross_entropy_bit_for_bit() -> None:
    logits, targets = batch(ONE, 50)
    expected = functional.cross_entropy(logits, targets, reduction="sum")
    assert torch.equal(ONE.loss(logits, targets), expected)


def test_the_loss_of_several_labels_is_the_binary_cross_entropy_bit_for_bit() -> None:
    logits, targets = batch(MANY, 50)
    each = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    assert torch.equal(MANY.loss(logits, targets), each.mean(dim=1).sum())


def test_the_loss_of_a_regression_is_the_squared_error_of_standardised_values() -> None:
    targets = torch.from_numpy(SIZES.targets([[4.0, -70.0, 2.0]]))
    logits = torch.tensor([[2.0, 3.0, 0.0]])
    assert float(SIZES.loss(logits, targets)) == pytest.approx((0 + 9 + 4) / 3)


@every_task
def test_transformers_own_loss_is_the_mean_of_the_plain_one(task: Task) -> None:
    from transformers.loss.loss_utils import ForSequenceClassificationLoss

    class Config:
        problem_type, num_labels = task.problem_type, task.num_labels

    logits, targets = batch(task, 10)
    theirs = ForSequenceClassificationLoss(targets, logits, Config())
    assert float(task.loss(logits, targets)) / 10 == pytest.approx(float(theirs), rel=1e-5)


# --- losses that are shaped -----------------------------------------------------------------

SHAPES = [
    PLAIN,
    Shaping(weights=(0.5, 1.0, 3.0)),
    Shaping(focal=2.0),
    Shaping(focal=0.5),
    Shaping(smoothing=0.1),
    Shaping(weights=(0.5, 1.0, 3.0), focal=1.5, smoothing=0.2),
]
WITH_SHAPES = [
    *[pytest.param(task, shape, id=f"{task.kind}-{shape}")
      for task in (ONE, MANY) for shape in SHAPES],
    pytest.param(SIZES, PLAIN, id="regression"),
]  # fmt: skip
every_loss = pytest.mark.parametrize(("task", "shaping"), WITH_SHAPES)


@every_loss
def test_the_loss_of_a_batch_is_the_sum_over_its_texts(task: Task, shaping: Shaping) -> None:
    logits, targets = batch(task, 8)
    rows = [task.loss(logits[i : i + 1], targets[i : i + 1], shaping) for i in range(8)]
    whole = task.loss(logits, targets, shaping)
    assert whole.shape == ()
    assert float(whole) == pytest.approx(float(sum(rows)), rel=1e-5)


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_is_computed_in_float32(task: Task, shaping: Shaping, dtype: torch.dtype) -> None:
    logits, targets = batch(task)
    half = logits.to(dtype)
    loss = task.loss(half, targets, shaping)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, task.loss(half.float(), targets, shaping))


@every_loss
@pytest.mark.parametrize("size", [0.0, 1e-3, 30.0, 200.0, 1e4])
def test_gradients_are_finite_however_sure_the_model_is(
    task: Task, shaping: Shaping, size: float
) -> None:
    logits, targets = batch(task, 40)
    extreme = (logits.sign() * size).requires_grad_()
    loss = task.loss(extreme, targets, shaping)
    loss.backward()
    assert math.isfinite(loss.item())
    assert loss.item() >= 0
    assert extreme.grad is not None
    assert extreme.grad.isfinite().all()


@pytest.mark.parametrize("task", [ONE, MANY])
@pytest.mark.parametrize("shaping", [Shaping(weights=(1.0, 1.0, 1.0)), Shaping(focal=1e-9)])
def test_shaping_that_changes_nothing_gives_the_plain_loss(task: Task, shaping: Shaping) -> None:
    logits, targets = batch(task, 20)
    found = task.loss(logits, targets, shaping)
    assert float(found) == pytest.approx(float(task.loss(logits, targets)), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.05, 0.3])
def test_smoothing_of_one_label_is_that_of_torch(smoothing: float) -> None:
    logits, targets = batch(ONE, 20)
    expected = functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    found = ONE.loss(logits, targets, Shaping(smoothing=smoothing))
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_smoothing_of_several_labels_moves_both_ends_by_half() -> None:
    logits, targets = batch(MANY, 20)
    smooth = torch.where(targets == 1, 0.9, 0.1)
    expected = functional.binary_cross_entropy_with_logits(logits, smooth, reduction="sum") / 3
    found = MANY.loss(logits, targets, Shaping(smoothing=0.2))
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("focal", [0.5, 1.0, 2.0, 5.0])
def test_the_focal_loss_of_one_label_is_that_of_its_formula(focal: float) -> None:
    logits, targets = batch(ONE, 20)
    p = logits.double().softmax(dim=1)[range(20), targets]
    expected = -((1 - p) ** focal * p.log()).sum()
    found = ONE.loss(logits, targets, Shaping(focal=focal))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("focal", [0.5, 1.0, 2.0, 5.0])
def test_the_focal_loss_of_several_labels_is_that_of_its_formula(focal: float) -> None:
    logits, targets = batch(MANY, 20)
    yes = logits.double().sigmoid()
    p = torch.where(targets == 1, yes, 1 - yes)
    expected = -((1 - p) ** focal * p.log()).sum() / 3
    found = MANY.loss(logits, targets, Shaping(focal=focal))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_the_weight_of_one_label_multiplies_the_loss_of_its_texts() -> None:
    logits, targets = batch(ONE, 20)
    weights = (0.5, 1.0, 3.0)
    each = functional.cross_entropy(logits, targets, reduction="none")
    expected = sum(weights[target] * loss for target, loss in zip(targets, each, strict=True))
    found = ONE.loss(logits, targets, Shaping(weights=weights))
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_the_weights_of_several_labels_multiply_the_loss_of_the_texts_that_have_them() -> None:
    logits, targets = batch(MANY, 20)
    weights = (0.5, 1.0, 3.0)
    expected = functional.binary_cross_entropy_with_logits(
        logits, targets, reduction="sum", pos_weight=torch.tensor(weights)
    )
    found = MANY.loss(logits, targets, Shaping(weights=weights))
    assert float(found) == pytest.approx(float(expected) / 3, rel=1e-6)


def test_weights_focus_and_smoothing_multiply() -> None:
    logits, targets = batch(ONE, 1)
    wrong = 1 - float(logits.softmax(dim=1)[0, targets[0]])
    weight = (0.5, 1.0, 3.0)[int(targets)]
    smoothed = float(ONE.loss(logits, targets, Shaping(smoothing=0.2)))
    found = ONE.loss(logits, targets, Shaping((0.5, 1.0, 3.0), 1.5, 0.2))
    assert float(found) == pytest.approx(weight * wrong**1.5 * smoothed, rel=1e-5)


# --- what is said and decided ---------------------------------------------------------------

anything = st.lists(
    st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3), min_size=1, max_size=8
).map(lambda rows: np.array(rows, np.float32))


@given(logits=anything)
@thorough
def test_scores_of_one_label_are_probabilities_that_sum_to_one(logits: Any) -> None:
    scores = ONE.scores(logits)
    assert scores.dtype == np.float64
    assert scores.sum(axis=1) == pytest.approx(1)
    assert scores == pytest.approx(torch.tensor(logits).double().softmax(dim=1).numpy())


@given(logits=anything)
@thorough
def test_scores_of_several_labels_are_a_probability_each(logits: Any) -> None:
    scores = MANY.scores(logits)
    assert scores.dtype == np.float64
    assert scores == pytest.approx(torch.tensor(logits).double().sigmoid().numpy(), abs=1e-15)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_scores_of_a_regression_are_values_in_the_users_units() -> None:
    scores = SIZES.scores(np.array([[2, -1, 0.5]], np.float32))
    assert scores.dtype == np.float64
    assert scores.tolist() == [[4, -90, 0.5]]
    assert SIZES.decide(scores) is scores


def test_of_one_label_the_likeliest_is_decided() -> None:
    scores = np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])
    assert ONE.decide(scores).tolist() == [1, 0]
    found = ONE.prediction(scores[0])
    assert (found.label, found.score, found.labels) == ("fair", 0.5, ("fair",))
    assert found.scores == {"bad": 0.2, "fair": 0.5, "good": 0.3}
    assert (ONE.answer(found), ONE.figures(found)) == ("fair", "0.5000")


PICKY = MultiLabel(MANY.labels, (0.5, 0.25, 0.9))


@pytest.mark.parametrize(
    ("scores", "labels", "label", "score", "answer"),
    [
        ([0.5, 0.3, 0.89], ("bad", "late"), "bad", 0.5, "bad|late"),
        ([0.5, 0.7, 0.9], ("rude", "late", "bad"), "rude", 0.9, "rude|late|bad"),
        ([0.49, 0.24, 0.89], (), None, 0.89, NO_LABEL),
    ],
)
def test_of_several_labels_those_from_their_threshold_on_are_given_the_likeliest_first(
    scores: list[float], labels: tuple[str, ...], label: str | None, score: float, answer: str
) -> None:
    found = PICKY.prediction(np.array(scores))
    assert (found.labels, found.label, found.score) == (labels, label, score)
    assert found.scores == dict(zip(MANY.labels, scores, strict=True))
    assert PICKY.answer(found) == answer
    of_each = [found.scores[name] for name in labels] or [score]
    assert PICKY.figures(found) == "|".join(f"{one:.4f}" for one in of_each)


@given(data=st.data())
@thorough
def test_a_prediction_gives_the_labels_that_are_decided(data: st.DataObject) -> None:
    shares = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=3, max_size=3)
    task = MultiLabel(MANY.labels, tuple(data.draw(shares)))
    scores = np.array(data.draw(shares))
    (decided,) = task.decide(scores[None])
    names = [name for name, one in zip(task.labels, decided, strict=True) if one]
    assert sorted(task.prediction(scores).labels) == names
    assert task.shown(decided) == (", ".join(names) or NO_LABEL)


def test_thresholds_are_one_half_where_none_were_chosen() -> None:
    assert MANY.decide(np.array([[0.5, 0.499, 0.51]])).tolist() == [[1, 0, 1]]


def test_a_regression_says_the_value_of_every_target() -> None:
    found = SIZES.prediction(np.array([4.0, -90.0, 0.5]))
    assert (found.label, found.score, found.labels) == ("width", 4.0, SIZES.labels)
    assert found.scores == {"width": 4.0, "height": -90.0, "depth": 0.5}
    assert SIZES.answer(found) == "width|height|depth"
    assert SIZES.figures(found) == "4|-90|0.5"
    found = HEIGHT.prediction(np.array([170.0]))
    assert (HEIGHT.answer(found), HEIGHT.figures(found)) == ("height", "170")


@pytest.mark.parametrize(
    ("task", "decided", "shown"),
    [
        (ONE, np.int64(2), "good"),
        (MANY, np.array([1, 0, 1]), "bad, rude"),
        (MANY, np.array([0, 0, 0]), "(no label)"),
        (SIZES, np.array([1.23456, -7.0, 1e6]), "1.235, -7, 1000000"),
    ],
)
def test_a_row_is_shown_in_words(task: Task, decided: Any, shown: str) -> None:
    assert task.shown(decided) == shown


@pytest.mark.parametrize(
    ("task", "about", "one_answer", "has_labels"),
    [
        (ONE, "one of 3 labels each", True, True),
        (MANY, "any number of 3 labels each", False, True),
        (HEIGHT, "one number each", True, False),
        (SIZES, "3 numbers each", False, False),
    ],
)
def test_a_task_tells_what_its_answers_are(
    task: Task, about: str, one_answer: bool, has_labels: bool
) -> None:
    assert (task.about, task.one_answer, task.has_labels) == (about, one_answer, has_labels)
    assert len(task.remarks()) == task.num_labels


def test_the_thresholds_stand_beside_the_labels() -> None:
    assert PICKY.remarks() == [f" (from {limit} on)" for limit in ("0.500", "0.250", "0.900")]


def test_mean_and_deviation_stand_beside_the_targets() -> None:
    task = Regression(("price", "share"), (1_683_494.4, 0.0034069), (252_100.0, 0.001))
    assert task.remarks() == [
        " (mean 1683494, standard deviation 252100 in training)",
        " (mean 0.003407, standard deviation 0.001 in training)",
    ]


@every_task
def test_the_report_is_that_of_its_kind(task: Task) -> None:
    logits, targets = batch(task)
    truth, decided = task.truth(targets.numpy()), task.decide(task.scores(logits.numpy()))
    report = task.report(truth, decided)
    table = report["per_class" if task.has_labels else "per_target"]
    assert list(table) == report["labels"] == list(task.labels)
    json.dumps(report, allow_nan=False)


def test_the_report_of_several_labels_tells_the_thresholds() -> None:
    rows = PICKY.report(np.zeros((1, 3), int), np.zeros((1, 3), int))["per_class"]
    assert [row["threshold"] for row in rows.values()] == [0.5, 0.25, 0.9]


# --- thresholds -----------------------------------------------------------------------------


def f1(scores: Any, truth: Any, threshold: float) -> float:
    given = scores >= threshold
    hits = int((given & (truth == 1)).sum())
    return 2 * hits / int(given.sum() + truth.sum())


@st.composite
def scored(draw: st.DrawFn) -> tuple[Any, Any]:
    """Scores, some of them alike or next to one another, and who has the label."""
    near = np.nextafter(0.7, [0, 1]).tolist()
    tenths = st.sampled_from([0.0, 0.1, 0.4, 0.5, *near, 0.7, 1.0])
    score = st.one_of(tenths, st.floats(0, 1))
    rows = draw(st.lists(st.tuples(score, st.booleans()), min_size=12, max_size=25))
    scores, truth = (np.array(part) for part in zip(*rows, strict=True))
    truth = truth.astype(np.int64)
    truth[: MIN_POSITIVES + 1] = [0] + [1] * MIN_POSITIVES
    return scores, truth


@given(case=scored())
@settings(max_examples=300, deadline=None)
def test_the_best_threshold_has_the_best_f1_that_any_has(case: tuple[Any, Any]) -> None:
    scores, truth = case
    found = best_threshold(scores, truth)
    assert found is not None
    assert 0 <= found <= 1
    best = max(f1(scores, truth, limit) for limit in [*scores, 0.5])
    assert f1(scores, truth, found) == best
    # half-way between two neighbours, above the lower one; or what gives the label to all
    ranked = sorted(set(scores))
    middles = [max((a + b) / 2, float(np.nextafter(a, 1))) for a, b in pairwise(ranked)]
    equal = [limit for limit in [ranked[0], *middles] if f1(scores, truth, limit) == best]
    assert found in equal
    assert abs(found - 0.5) == min(abs(limit - 0.5) for limit in equal)


def test_of_thresholds_that_are_as_good_the_one_nearest_one_half_is_chosen() -> None:
    scores = np.array([0.99, 0.95, 0.9, 0.85, 0.8, 0.7, 0.56, 0.46, 0.3, 0.2, 0.1])
    truth = np.array([0, 1, 1, 1, 0, 0, 1, 0, 0, 1, 0])
    assert f1(scores, truth, 0.825) == f1(scores, truth, 0.51) == f1(scores, truth, 0.15) == 2 / 3
    assert best_threshold(scores, truth) == pytest.approx(0.51)


def test_neighbouring_scores_have_a_threshold_between_them() -> None:
    low = next(x for x in np.random.default_rng(0).random(99) if (x + np.nextafter(x, 1)) / 2 == x)
    high = np.nextafter(low, 1)
    scores, truth = np.repeat([low, high], 6), np.repeat([0, 1], 6)
    assert best_threshold(scores, truth) == high


@pytest.mark.parametrize(
    ("positives", "count", "chosen"),
    [
        (0, 20, False),
        (MIN_POSITIVES - 1, 20, False),
        (MIN_POSITIVES, 20, True),
        (19, 20, True),
        (20, 20, False),
    ],
)
def test_a_threshold_is_chosen_where_enough_have_the_label_and_some_have_not(
    positives: int, count: int, chosen: bool
) -> None:
    truth = np.arange(count) < positives
    scores = np.linspace(1, 0, count)
    assert (best_threshold(scores, truth.astype(np.int64)) is not None) is chosen


SOME = (np.array([[0.8, 0.4, 0.9]] * 6 + [[0.6, 0.1, 0.9]] * 6),
        np.array([[1, 1, 1]] * 6 + [[0, 0, 1]] * 6))  # fmt: skip


@pytest.mark.field("task.thresholds")
@pytest.mark.parametrize(
    ("asked", "validation", "thresholds"),
    [
        ({"late": 0.2}, SOME, (0.5, 0.2, 0.5)),
        ({"late": 0.2, "bad": 1.0, "rude": 0.0}, None, (1.0, 0.2, 0.0)),
        (0.3, SOME, (0.3, 0.3, 0.3)),
        (1, None, (1.0, 1.0, 1.0)),
        ("validation", SOME, (0.7, 0.25, 0.5)),
        (None, SOME, (0.7, 0.25, 0.5)),
        (None, None, (0.5, 0.5, 0.5)),
    ],
)
def test_thresholds_are_what_is_asked_or_what_validation_shows(
    asked: Any, validation: tuple[Any, Any] | None, thresholds: tuple[float, ...]
) -> None:
    decided, _ = MANY.with_thresholds(asked, *(validation or (None, None)))
    scores = np.array([thresholds, np.array(thresholds) - 0.01])
    assert decided.labels == MANY.labels
    assert decided.settings()["thresholds"] == pytest.approx(
        dict(zip(MANY.labels, thresholds, strict=True))
    )
    assert decided.decide(scores + 1e-9).tolist() == [[1, 1, 1], [0, 0, 0]]


def test_thresholds_that_could_not_be_chosen_are_told() -> None:
    _, told = MANY.with_thresholds(None, *SOME)
    assert told[0] == (
        "thresholds chosen on validation, whose f1 they flatter: bad 0.700  late 0.250"
    )
    assert re.search(r"0\.5 for 1 labels that fewer than 5 .* or all: rude$", told[1])
    _, told = MANY.with_thresholds(None, None, None)
    assert told == ["thresholds: 0.5 for every label, as there is no validation split"]


def test_thresholds_without_validation_data_are_refused() -> None:
    with pytest.raises(SpecError, match=r"^task\.thresholds: .*give dataset\.validation"):
        MANY.with_thresholds("validation", None, None)


@pytest.mark.parametrize("task", [ONE, SIZES])
def test_other_tasks_have_no_thresholds(task: Task) -> None:
    assert task.with_thresholds(None, None, None) == (task, [])
    assert "thresholds" not in task.settings()


FIELD = TypeAdapter(TaskField)


@pytest.mark.field("task.type")
@pytest.mark.parametrize(
    ("written", "options"),
    [
        (None, None),
        ("regression", TaskOptions(type="regression")),
        ({"type": "multi_label"}, TaskOptions(type="multi_label")),
        ({"type": "multi_label", "thresholds": 1},
         TaskOptions(type="multi_label", thresholds=1.0)),
        ({"type": "multi_label", "thresholds": {"a": 0.5}},
         TaskOptions(type="multi_label", thresholds={"a": 0.5})),
    ],
)  # fmt: skip
def test_the_name_of_a_kind_is_short_for_its_type(written: Any, options: Any) -> None:
    assert FIELD.validate_python(written) == options


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("multilabel", "single_label"),
        ({"thresholds": 0.5}, "Field required"),
        ({"type": "single_label", "thresholds": 0.5}, "`thresholds` are for `multi_label`"),
        ({"type": "regression", "thresholds": {}}, "`thresholds` are for `multi_label`"),
        ({"type": "multi_label", "thresholds": 1.5}, "less than or equal to 1"),
        ({"type": "multi_label", "thresholds": {"a": -0.1}}, "greater than or equal to 0"),
        ({"type": "multi_label", "thresholds": {"a": math.nan}}, "finite|less than|greater than"),
        ({"type": "multi_label", "thresholds": "test"}, "'validation'"),
        ({"type": "multi_label", "treshold": 0.5}, "Extra inputs"),
    ],
)
def test_what_no_task_is_is_refused(written: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FIELD.validate_python(written)


# --- weights of labels and texts ------------------------------------------------------------


def rows(task: Task, *counts: int) -> Any:
    """Return targets with so many texts of each label."""
    ids = [i for i, count in enumerate(counts) for _ in range(count)]
    return task.targets(ids if task.kind == "single_label" else [[i] for i in ids])


@pytest.mark.parametrize(
    ("counts", "asked", "weights"),
    [
        ((6, 3, 3), "balanced", (12 / 18, 12 / 9, 12 / 9)),
        ((4, 4, 4), "balanced", (1, 1, 1)),
        ((6, 3, 3), {"bad": 1, "fair": 2, "good": 2}, (12 / 18, 24 / 18, 24 / 18)),
        ((6, 3, 3), {"fair": 5}, (0.5, 2.5, 0.5)),
        ((6, 3, 3), {"bad": 0.0}, (0, 2, 2)),
        ((6, 3, 3), {}, (1, 1, 1)),
    ],
)
def test_weights_of_one_label_have_the_mean_one_over_the_train_texts(
    counts: tuple[int, ...], asked: Any, weights: tuple[float, ...]
) -> None:
    targets = rows(ONE, *counts)
    found = ONE.label_weights(asked, targets, "trainer.class_weights")
    assert found == pytest.approx(weights)
    drawn = ONE.row_weights(asked, targets, "trainer.sampling")
    assert drawn.mean() == pytest.approx(1)
    assert drawn.tolist() == [found[i] for i in targets]


@pytest.mark.parametrize("task", [ONE, MANY])
def test_a_balanced_draw_takes_as_much_of_each_label(task: Task) -> None:
    targets = rows(task, 7, 2, 1)
    drawn = task.row_weights("balanced", targets, "trainer.sampling")
    assert [drawn[:7].sum(), drawn[7:9].sum(), drawn[9]] == pytest.approx([drawn.sum() / 3] * 3)


def test_a_label_without_a_train_text_does_not_upset_the_others() -> None:
    found = ONE.label_weights("balanced", rows(ONE, 6, 2, 0), "trainer.class_weights")
    assert found[:2] == pytest.approx((8 / 12, 8 / 4))
    assert all(map(math.isfinite, found))


def test_balanced_weights_of_several_labels_make_having_it_weigh_what_not_having_it_does() -> None:
    targets = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]], np.float32)
    found = MANY.label_weights("balanced", targets, "trainer.class_weights")
    assert found == (3, 1, 1), "1 where all have it or nobody"
    assert MANY.label_weights({"rude": 4}, targets, "trainer.class_weights") == (1, 1, 4)


def test_a_text_of_several_labels_is_drawn_for_the_one_that_weighs_most() -> None:
    targets = MANY.targets([[0], [0], [0], [0, 1], [], []])
    drawn = MANY.row_weights("balanced", targets, "trainer.sampling")
    assert drawn == pytest.approx([6 / 4, 6 / 4, 6 / 4, 6 / 1, 6 / 2, 6 / 2])
    named = MANY.row_weights({"bad": 0, "late": 2}, targets, "trainer.sampling")
    assert named.tolist() == [0, 0, 0, 2, 1, 1]


@pytest.mark.parametrize("task", [ONE, MANY])
@pytest.mark.parametrize("method", ["label_weights", "row_weights"])
def test_a_weight_for_a_label_that_does_not_exist_is_refused(task: Task, method: str) -> None:
    wrong = "godo" if task is ONE else "ruder"
    near = "good" if task is ONE else "rude"
    with pytest.raises(SpecError) as error:
        getattr(task, method)({wrong: 2.0}, rows(task, 1, 1, 1), "trainer.somewhere")
    assert str(error.value) == (
        f"trainer.somewhere: there is no label '{wrong}'. Did you mean `{near}`? "
        f"Known: {', '.join(task.labels)}."
    )


@pytest.mark.parametrize("asked", [{"bad": 0, "fair": 0, "good": 0}, {"bad": 0, "fair": 0}])
def test_weights_that_leave_no_train_text_are_refused(asked: dict[str, float]) -> None:
    targets = rows(ONE, 2, 2, 0)
    for method in (ONE.label_weights, ONE.row_weights):
        with pytest.raises(SpecError, match=r"^trainer\.x: every train text has the weight 0"):
            method(asked, targets, "trainer.x")
    nothing = dict.fromkeys(MANY.labels, 0)
    with pytest.raises(SpecError, match=r"^trainer\.x: every train text has the weight 0"):
        MANY.row_weights(nothing, rows(MANY, 2, 2, 0), "trainer.x")


@pytest.mark.parametrize("asked", ["balanced", {"height": 2.0}])
def test_numbers_have_no_weights(asked: Any) -> None:
    targets = HEIGHT.targets([[1.0], [2.0]])
    for method in (HEIGHT.label_weights, HEIGHT.row_weights):
        with pytest.raises(SpecError, match=r"^trainer\.x: is for labels, .* is regression"):
            method(asked, targets, "trainer.x")


# --- what of a split is held out, counted and refused ---------------------------------------


def test_texts_are_held_out_by_label() -> None:
    assert ONE.strata([2, 0, 1, 2]).tolist() == [2, 0, 1, 2]


def test_texts_of_several_labels_are_held_out_by_the_rarest_of_them() -> None:
    assert MANY.strata([[0, 1], [0], [], [1, 0, 2], [0, 1]]).tolist() == [1, 0, 3, 2, 1]
    assert MANY.strata([[], []]).tolist() == [3, 3]


@given(
    values=st.lists(st.floats(-100, 100), min_size=1, max_size=60),
    targets=st.integers(1, 2),
)
@thorough
def test_numbers_are_held_out_by_rank_in_groups_of_one_size(
    values: list[float], targets: int
) -> None:
    task = Regression(("x", "y")[:targets])
    groups = task.strata([[value, 0.0][:targets] for value in values])
    assert groups.dtype == np.int64
    sizes = np.bincount(groups)
    assert len(sizes) == min(STRATA, len(values))
    assert sizes.max() - sizes.min() <= 1
    largest = [
        max(v for v, g in zip(values, groups, strict=True) if g == i) for i in range(len(sizes))
    ]
    assert largest == sorted(largest)


@pytest.mark.parametrize(
    ("task", "found", "summary", "told"),
    [
        (ONE, [2, 0, 2], {"bad": 1, "fair": 0, "good": 2}, "bad 1  fair 0  good 2"),
        (
            MANY,
            [[0, 1], [], [1]],
            {"bad": 1, "late": 2, "rude": 0, NO_LABEL: 1},
            "bad 1  late 2  rude 0  (no label) 1",
        ),
        (
            HEIGHT,
            [[160.0], [184.0]],
            {"height": {"mean": 172, "deviation": 12, "min": 160, "max": 184}},
            "height 160 to 184, mean 172, deviation 12",
        ),
    ],
)
def test_a_split_is_counted_or_described(
    task: Task, found: list[Any], summary: dict[str, Any], told: str
) -> None:
    result = task.summary(task.targets(found))
    assert list(result) == list(summary)
    for name, value in summary.items():
        assert result[name] == pytest.approx(value, rel=1e-6)
    assert json.loads(json.dumps(result)) == result
    assert task.told(result) == told


def test_a_long_summary_is_told_in_part() -> None:
    many = SingleLabel(tuple(map(str, range(13))))
    line = many.told(many.summary(many.targets([0])))
    assert line.endswith("11 0  …")
    targets = Regression(tuple("abcde"))
    line = targets.told(targets.summary(targets.targets([[1.0] * 5, [2.0] * 5])))
    assert line.count("mean") == 4
    assert line.endswith("…")


@pytest.mark.parametrize(
    ("task", "fine", "useless", "message"),
    [
        (ONE, [0, 2], [2, 2], "every one of its 2 texts has the label `good`; at least two"),
        (MANY, [[], [1]], [[], [], []], "none of its 3 texts has a label"),
        (
            SIZES,
            [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]],
            [[1.0, 2.5, 1.0], [2.0, 2.5, 2.0]],
            "`height` is 2.5 in every one of its 2 texts; at least two different values",
        ),
    ],
)
def test_a_train_split_that_teaches_nothing_is_refused(
    task: Task, fine: Sequence[Any], useless: Sequence[Any], message: str
) -> None:
    task.check(fine)
    with pytest.raises(DataError, match=f"^train: {message}"):
        task.check(useless)


# --- what is saved --------------------------------------------------------------------------

names = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=5, unique=True)
shares = st.floats(0, 1)
finite = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def any_task(draw: st.DrawFn) -> Task:
    labels = tuple(draw(names))
    n = len(labels)

    def several(values: st.SearchStrategy[float]) -> tuple[float, ...]:
        return tuple(draw(st.lists(values, min_size=n, max_size=n)))

    return draw(st.sampled_from([
        SingleLabel(labels),
        MultiLabel(labels, several(shares)),
        Regression(labels, several(finite), several(st.floats(1e-300, 1e300))),
    ]))  # fmt: skip


@given(task=any_task())
@thorough
def test_a_task_comes_back_from_its_settings(task: Task) -> None:
    assert task_from(json.loads(json.dumps(task.settings()))) == task


@pytest.mark.parametrize("task", [MANY, Regression(("x", "y"))])
def test_what_was_left_out_is_saved_as_what_it_means(task: Task) -> None:
    again = task_from(task.settings())
    assert again.settings() == task.settings()
    logits = np.array([[0.3, -0.2, 0.0][: task.num_labels]], np.float32)
    assert again.decide(again.scores(logits)).tolist() == task.decide(task.scores(logits)).tolist()


def changed(task: Task, **values: Any) -> dict[str, Any]:
    """Return the settings of a task with some replaced, or left out where `...`."""
    return {k: v for k, v in {**task.settings(), **values}.items() if v is not ...}


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        ({}, "kind\n.*Field required"),
        (changed(ONE, kind="ranking"), "kind"),
        (changed(ONE, labels=...), "labels\n.*Field required"),
        (changed(ONE, labels=[]), "at least 1 item"),
        (changed(ONE, labels=["a", "b", "a"]), "a name stands twice"),
        (changed(ONE, labels=["a", 2]), "valid string"),
        (changed(ONE, more=1), "Extra inputs"),
        (changed(ONE, thresholds={"bad": 0.5, "fair": 0.5, "good": 0.5}), "thresholds does not"),
        (changed(ONE, center=[0.0] * 3), "center does not fit single_label with 3 labels"),
        (changed(MANY, spread=[1.0] * 3), "spread does not fit multi_label"),
        (changed(MANY, thresholds={}), "thresholds does not fit multi_label with 3"),
        (changed(MANY, thresholds={"bad": 0.5}), "thresholds does not fit"),
        (changed(MANY, thresholds={"bad": 0.5, "late": 0.5, "x": 0.5}), "not those of the labels"),
        (changed(MANY, thresholds={"bad": 0.5, "late": 0.5, "rude": 2.0}), "less than or equal"),
        (changed(MANY, thresholds=[0.5, 0.5, 0.5]), "valid dict"),
        (changed(SIZES, center=[]), "center does not fit regression with 3"),
        (changed(SIZES, spread=[1.0]), "spread does not fit regression with 3"),
        (changed(SIZES, spread=[1.0, 0.0, 1.0]), "greater than 0"),
        (changed(SIZES, center=[1.0, math.nan, 1.0]), "finite"),
        (changed(SIZES, spread=[1.0, math.inf, 1.0]), "finite"),
        (changed(SIZES, center=["1", 0.0, 0.0]), "valid number"),
    ],
)
def test_settings_that_describe_no_task_are_refused(damaged: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        task_from(damaged)


@pytest.mark.parametrize("task", [HEIGHT, SIZES])
def test_the_saved_model_speaks_the_users_units_and_is_understood(task: Task) -> None:
    trained = batch(task)[0].numpy()
    scale = task.plain_scale()
    assert scale is not None
    plain = trained * scale[0] + scale[1]
    assert plain == pytest.approx(task.scores(trained))
    assert task.from_plain(plain) == pytest.approx(trained)


@pytest.mark.parametrize("task", [ONE, MANY])
def test_the_saved_model_of_labels_gives_the_logits_that_were_trained(task: Task) -> None:
    logits = batch(task)[0].numpy()
    assert task.plain_scale() is None
    assert task.from_plain(logits) is logits


@pytest.mark.field("task.thresholds")
def test_labels_that_are_numbers_in_a_spec_are_named_as_in_the_data() -> None:
    options = TaskOptions.model_validate({"type": "multi_label", "thresholds": {0: 0.3, True: 0.6}})
    assert options.thresholds == {"0": 0.3, "True": 0.6}

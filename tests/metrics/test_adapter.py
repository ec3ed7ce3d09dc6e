"""A bertkit metric behind the interface of `evaluate`: in this process, and nowhere else."""

import copy
import doctest
import os
import pickle
import sys
from pathlib import Path
from typing import ClassVar, Literal

import evaluate
import numpy as np
import pytest
import torch

from bertkit.errors import PluginError
from bertkit.metrics import adapter, base
from bertkit.metrics.adapter import in_process
from bertkit.metrics.base import Metric
from bertkit.metrics.classification import F1, Accuracy, LogLoss, Matthews
from bertkit.metrics.regression import MAE
from bertkit.tasks import MultiLabel, Regression, SingleLabel

HALF = {"references": [0, 1], "predictions": [0, 0]}


class Seen(Metric):
    """Keeps what it was given."""

    type: Literal["seen"] = "seen"
    calls: ClassVar[list] = []

    def compute(self, references, predictions, task):
        self.calls.append((references, predictions, task))
        return np.float32(0.5)


class SeenScores(Seen):
    predictions: ClassVar = "scores"


class SeenNumbers(Seen):
    tasks: ClassVar = ("regression",)


class SeenByAll(Seen):
    tasks: ClassVar = ("single_label", "multi_label", "regression")


class SeenScoresByAll(SeenByAll):
    predictions: ClassVar = "scores"


class Drawn(Metric):
    type: Literal["drawn"] = "drawn"

    def compute(self, references, predictions, task):
        return np.random.random()


class Careless(Metric):
    type: Literal["careless"] = "careless"

    def compute(self, references, predictions, task):
        return {"accuracy": 1.0}


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No network, no `evaluate.load`, and a working directory that must stay empty."""

    def refuse(*args, **kwargs):
        raise AssertionError("a metric must not do this")

    monkeypatch.setattr("socket.socket", refuse)
    monkeypatch.setattr("evaluate.load", refuse)
    monkeypatch.setattr("evaluate.loading.load", refuse)
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    Seen.calls.clear()
    yield
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", [adapter, base])
def test_the_examples_in_the_docstrings_run(module):
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted


def test_it_is_an_evaluate_metric_under_the_key_of_the_component():
    metric = in_process(Accuracy(name="acc"), None)
    assert isinstance(metric, evaluate.Metric)
    assert metric.name == "acc"
    assert metric.compute(**HALF) == {"acc": 0.5}


def test_label_metrics_get_int64_ids_and_the_task():
    task = SingleLabel(("a", "b", "c"))
    result = in_process(Seen(), task).compute(references=[0, 1, 2], predictions=[2, 1, 0])
    [(references, predictions, given)] = Seen.calls
    assert references.dtype == predictions.dtype == np.int64
    assert references.tolist() == [0, 1, 2]
    assert predictions.tolist() == [2, 1, 0]
    assert given is task
    assert type(result["seen"]) is float


@pytest.mark.parametrize(
    ("scores", "same"),
    [([[0.25, 0.75], [1, 0]],) * 2, ([0.25, 0.75],) * 2, ([[0.25], [0.75]], [0.25, 0.75])],
    ids=["two columns", "no column", "one column"],
)
def test_score_metrics_get_float64_with_a_dimension_for_labels_where_there_are_columns(
    scores, same
):
    in_process(SeenScores(), None).compute(references=[0, 1], predictions=scores)
    [(references, predictions, _)] = Seen.calls
    assert references.dtype == np.int64
    assert predictions.dtype == np.float64
    assert predictions.tolist() == same


MANY, TWO = MultiLabel(("a", "b", "c")), Regression(("width", "height"))
FLAGS = [[0, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize("task", [MANY, None], ids=["in a run", "outside"])
@pytest.mark.parametrize(
    ("metric", "predictions", "dtype"),
    [
        (SeenByAll(), [[1, 0, 1], [0, 1, 0]], np.int64),
        (SeenScoresByAll(), [[0.1, 0.9, 1], [0, 0, 0.5]], np.float64),
    ],
    ids=["labels", "scores"],
)
def test_references_of_two_dimensions_are_several_labels_a_text(task, metric, predictions, dtype):
    in_process(metric, task).compute(references=FLAGS, predictions=predictions)
    [(references, found, given)] = Seen.calls
    assert (references.dtype, found.dtype, given) == (np.int64, dtype, task)
    assert references.tolist() == FLAGS
    assert found.tolist() == predictions


def test_a_single_label_of_several_keeps_its_column():
    metric = in_process(SeenByAll(), MultiLabel(("only",)))
    metric.add(reference=[1], prediction=[0])
    metric.compute(references=[[0]], predictions=[[0]])
    [(references, found, _)] = Seen.calls
    assert (references.tolist(), found.tolist()) == ([[1], [0]], [[0], [0]])


@pytest.mark.parametrize("metric", [SeenByAll(), SeenScoresByAll(), SeenNumbers()])
def test_a_regression_gets_float64_numbers_a_column_for_each_target(metric):
    values, found = [[1, 2.5], [-3, 1e-9]], [[0.1, 0.2], [7, 8]]
    in_process(metric, TWO).compute(references=values, predictions=found)
    [(references, predictions, task)] = Seen.calls
    assert references.dtype == predictions.dtype == np.float64
    assert (references.tolist(), predictions.tolist(), task) == (values, found, TWO)


@pytest.mark.parametrize("values", [[1, 2.5], [[1], [2.5]]], ids=["(n,)", "(n, 1)"])
def test_numbers_of_one_dimension_are_one_target(values):
    metric = in_process(SeenNumbers(), None)
    metric.add(reference=values[0], prediction=values[1])
    metric.compute(references=values, predictions=values)
    [(references, predictions, _)] = Seen.calls
    assert references.tolist() == [[1], [1], [2.5]]
    assert predictions.tolist() == [[2.5], [1], [2.5]]


def test_a_metric_for_ids_and_numbers_takes_ids_until_a_task_says_otherwise():
    with pytest.raises(ValueError, match="references: label ids"):
        in_process(SeenByAll(), None).compute(references=[0.5], predictions=[0.5])
    in_process(SeenByAll(), Regression(("x",))).compute(references=[0.5], predictions=[0.5])


@pytest.mark.parametrize(
    ("metric", "task", "references", "predictions", "message"),
    [
        (Accuracy(), MANY, [0, 1], [0, 1], "references: 0 or 1 for each label, of shape"),
        (Accuracy(), None, FLAGS, [0, 1], "predictions: 0 or 1 for each label, of shape"),
        (Accuracy(), MANY, [[0, 2, 1]], [[0, 1, 1]], "references: 0 or 1 .* found 2"),
        (Accuracy(), None, FLAGS, [[0, 0.5, 1]] * 2, "predictions: 0 or 1 .* found 0.5"),
        (Accuracy(), MANY, FLAGS, [[0, 1]] * 2, "predictions: rows of 3 expected.* rows of 2"),
        (LogLoss(), MANY, FLAGS, [0.5, 0.5], r"predictions: scores of shape \(n, k\)"),
        (LogLoss(), None, FLAGS, [["a", "b", "c"]] * 2, "predictions: scores of shape"),
        (LogLoss(), None, [0, 1], [[0.5, 0.5], [1]], "predictions: rows of equal length"),
        (Matthews(), None, FLAGS, FLAGS, r"references: label ids of shape \(n,\)"),
        (MAE(), None, ["a"], [1.0], r"references: numbers of shape \(n, t\)"),
        (MAE(), TWO, [[1, 2]], [1.0], "predictions: rows of 2 expected.* rows of 1"),
    ],
)
def test_what_does_not_fit_the_task_is_refused(metric, task, references, predictions, message):
    with pytest.raises(ValueError, match=message):
        in_process(metric, task).compute(references=references, predictions=predictions)


@pytest.mark.parametrize(
    "later",
    [
        {"references": [[0, 1]], "predictions": [[0, 1]]},
        {"references": [0], "predictions": [0]},
    ],
)
def test_rows_of_another_shape_than_before_are_refused(later):
    metric = in_process(Accuracy(), None)
    metric.add_batch(references=[], predictions=[])
    metric.add_batch(references=FLAGS, predictions=FLAGS)
    metric.add_batch(references=[], predictions=[])
    with pytest.raises(ValueError, match=r"references: found shape .*, and rows of \(3,\) before"):
        metric.add_batch(**later)
    assert metric.compute() == {"accuracy": 1.0}
    assert metric.compute(**later) == {"accuracy": 1.0}, "a fresh start takes any shape"


@pytest.mark.parametrize("task", [SingleLabel(("a", "b")), MANY, TWO, None])
def test_no_example_is_no_score_whatever_the_task(task):
    metric = in_process(MAE() if task is TWO else Accuracy(), task)
    (value,) = metric.compute(references=[], predictions=[]).values()
    assert np.isnan(value)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda x: np.array(x, np.int32)])
def test_lists_arrays_and_tensors_are_the_same(kind):
    metric = in_process(Accuracy(), None)
    assert metric.compute(references=kind([0, 1]), predictions=kind([0, 0])) == {"accuracy": 0.5}


def test_a_metric_starts_afresh_after_compute():
    metric = in_process(Accuracy(), None)
    metric.add_batch(**HALF)
    assert metric.compute() == {"accuracy": 0.5}
    assert metric.compute(references=[1], predictions=[1]) == {"accuracy": 1.0}


def test_batches_then_singles_then_compute_are_all_counted():
    metric = in_process(Accuracy(), None)
    metric.add(reference=1, prediction=0)
    metric.add_batch(**HALF)
    metric.add(reference=1, prediction=1)
    metric.add_batch(references=[], predictions=[])
    assert metric.compute(references=[1], predictions=[1]) == {"accuracy": 3 / 5}


def test_instances_do_not_share_examples():
    first, second = in_process(Accuracy(), None), in_process(Accuracy(), None)
    first.add_batch(**HALF)
    second.add_batch(references=[1], predictions=[1])
    assert (first.compute(), second.compute()) == ({"accuracy": 0.5}, {"accuracy": 1.0})


def test_metrics_combine():
    both = evaluate.combine([in_process(Accuracy(), None), in_process(F1(average="micro"), None)])
    assert both.compute(**HALF) == {"accuracy": 0.5, "f1": 0.5}
    both.add_batch(**HALF)
    both.add(references=1, predictions=1)
    assert both.compute() == pytest.approx({"accuracy": 2 / 3, "f1": 2 / 3})


def test_two_metrics_of_one_key_stay_apart_when_combined():
    macro, micro = in_process(F1(), None), in_process(F1(average="micro"), None)
    result = evaluate.combine([macro, micro]).compute(**HALF)
    assert result == pytest.approx({"f1_0_f1": 1 / 3, "f1_1_f1": 0.5})


@pytest.mark.parametrize("column", ["references", "predictions"])
@pytest.mark.parametrize(
    "bad", [[0.7, 1], [float("nan"), 1], ["a", "b"], [None, 1], [[0], [1]], [[0, 1], [1]]]
)
def test_what_is_not_a_label_id_is_refused_not_rounded(column, bad):
    metric = in_process(Accuracy(), SingleLabel(("a", "b")))
    with pytest.raises(ValueError, match=f"{column}: (label ids|rows of equal length)"):
        metric.add_batch(**{**HALF, column: bad})
    with pytest.raises(ValueError, match=f"{column}: label ids"):
        metric.add(**{"reference": 0, "prediction": 0, column[:-1]: bad[0]})
    assert metric.compute(**HALF) == {"accuracy": 0.5}, "nothing of it was kept"


def test_whole_numbers_may_be_floats():
    metric = in_process(Accuracy(), None)
    assert metric.compute(references=[0.0, 1.0], predictions=[0, 0]) == {"accuracy": 0.5}


def test_columns_of_different_length_are_refused():
    with pytest.raises(ValueError, match="Mismatch in the number of predictions"):
        in_process(Accuracy(), None).compute(references=[0, 1], predictions=[0])


def test_scores_of_three_dimensions_are_refused():
    with pytest.raises(ValueError, match="predictions: scores of shape"):
        in_process(LogLoss(), None).compute(references=[0], predictions=[[[0.5, 0.5]]])


def test_a_component_that_returns_no_number_breaks_its_contract():
    with pytest.raises(PluginError, match="metric 'careless': compute returned dict"):
        in_process(Careless(), None).compute(**HALF)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_it_can_be_copied_and_pickled_while_empty(again):
    metric = in_process(F1(average="micro", name="mine"), None)
    assert again(metric).compute(**HALF) == {"mine": 0.5}
    metric.add_batch(**HALF)
    with pytest.raises(TypeError, match=r"mine: call compute\(\) before copying"):
        again(metric)


def test_the_global_random_state_is_left_alone():
    np.random.seed(3)
    expected = np.random.random(2)
    np.random.seed(3)
    first = np.random.random()
    in_process(Accuracy(), None).compute(**HALF)
    assert [first, np.random.random()] == expected.tolist()


def test_a_metric_that_draws_numbers_draws_the_same_ones_each_time():
    values = []
    for seed in (1, 2):
        np.random.seed(seed)
        values.append(in_process(Drawn(), None).compute(**HALF))
    assert values[0] == values[1]


watched: list[tuple] | None = None


def _watch(event, args):
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    if watched is not None and (
        (event == "open" and isinstance(args[2], int) and args[2] & writing)
        or event in ("os.mkdir", "os.rename", "os.remove")
        or event.startswith("socket.")
    ):
        watched.append((event, args))


def test_no_file_is_opened_for_writing_no_folder_made_and_no_socket_used(monkeypatch):
    sys.addaudithook(_watch)
    monkeypatch.setattr(sys.modules[__name__], "watched", seen := [])
    labels, scores = in_process(Accuracy(), None), in_process(LogLoss(), None)
    labels.add_batch(**HALF)
    scores.add_batch(references=[0, 1], predictions=[[0.5, 0.5], [0.5, 0.5]])
    assert list(labels.compute() | scores.compute()) == ["accuracy", "log_loss"]
    assert seen == []
    Path("written").touch()
    Path("written").unlink()
    assert [event for event, _ in seen] == ["open", "os.remove"], "the watch sees what is written"

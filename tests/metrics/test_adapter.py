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
from bertkit.metrics.classification import F1, Accuracy, LogLoss

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
    task = object()
    result = in_process(Seen(), task).compute(references=[0, 1, 2], predictions=[2, 1, 0])
    [(references, predictions, given)] = Seen.calls
    assert references.dtype == predictions.dtype == np.int64
    assert references.tolist() == [0, 1, 2]
    assert predictions.tolist() == [2, 1, 0]
    assert given is task
    assert type(result["seen"]) is float


@pytest.mark.parametrize(
    "scores", [[[0.25, 0.75], [1, 0]], [0.25, 0.75]], ids=["two columns", "one column"]
)
def test_score_metrics_get_float64_of_the_shape_that_was_given(scores):
    in_process(SeenScores(), None).compute(references=[0, 1], predictions=scores)
    [(references, predictions, _)] = Seen.calls
    assert references.dtype == np.int64
    assert predictions.dtype == np.float64
    assert predictions.tolist() == scores


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
@pytest.mark.parametrize("bad", [[0.7, 1], [float("nan"), 1], ["a", "b"], [None, 1], [[0], [1]]])
def test_what_is_not_a_label_id_is_refused_not_rounded(column, bad):
    metric = in_process(Accuracy(), None)
    with pytest.raises(ValueError, match=f"{column}: label ids"):
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

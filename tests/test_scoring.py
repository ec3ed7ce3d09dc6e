"""Logits in the order of the rows, and the scores that follow from them."""

from __future__ import annotations

import math
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bertkit.metrics.base import Metric
from bertkit.metrics.classification import Accuracy
from bertkit.scoring import autocast, compute_scores, predict_logits
from bertkit.tasks import MultiLabel, Regression, SingleLabel
from bertkit.text.encoded import LengthReport, Tokens

TASK = SingleLabel(("bad", "good"))


class Sums(nn.Module):
    """A model whose logits say what it read: the sum of the ids, and how many there were."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.dropout = nn.Dropout(0.5)
        self.seen = []

    def forward(self, input_ids, attention_mask):
        self.seen.append((len(input_ids), self.training, torch.is_grad_enabled()))
        values = (input_ids * attention_mask).float()
        logits = torch.stack([values.sum(1), attention_mask.float().sum(1)], dim=1)
        return SimpleNamespace(logits=self.dropout(logits) * self.weight)


def split(*lengths):
    values = np.arange(1, sum(lengths) + 1)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    labels = np.zeros(len(lengths), dtype=np.int64)
    return Tokens(values, offsets, labels, 0, LengthReport(len(lengths), len(values), 9))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 8))
@settings(max_examples=50, deadline=None)
def test_logits_come_in_the_order_of_the_rows_whatever_the_batches(lengths, size):
    data = split(*lengths)
    logits = predict_logits(Sums(), data, batch_size=size, device="cpu")
    wanted = []
    for row in range(len(data)):
        ids = data.batch([row])["input_ids"]
        wanted.append([float(ids.sum()), float(ids.shape[1])])
    assert logits.tolist() == wanted
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("training", [True, False])
def test_the_model_scores_in_eval_mode_without_gradients_and_goes_back(training):
    model = Sums().train(training)
    predict_logits(model, split(3, 1, 2), batch_size=2, device="cpu")
    assert model.seen == [(2, False, False), (1, False, False)]
    assert model.training is training


def test_logits_of_bf16_come_as_float32():
    model = nn.Linear(1, 2)

    class Wrapped(nn.Module):
        def forward(self, input_ids, attention_mask):
            return SimpleNamespace(logits=model(attention_mask[:, :1].float() / 3))

    exact, rough = (
        predict_logits(Wrapped(), split(2, 2), batch_size=2, device="cpu", precision=precision)
        for precision in ("fp32", "bf16")
    )
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    torch.testing.assert_close(exact, rough, atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_products_are_computed_in_the_precision_asked_for(precision, dtype):
    with autocast("cpu", precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_progress_counts_the_rows():
    seen = []

    class Counting:
        @contextmanager
        def bar(self, title, total, done=0):
            seen.append((title, total))
            yield self

        def advance(self, amount=1, note=""):
            seen.append(amount)

    predict_logits(
        Sums(), split(1, 2, 3), batch_size=2, device="cpu", progress=Counting(), title="scoring"
    )
    assert seen == [("scoring", 3), 2, 1]


LOGITS = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
LABELS = np.array([0, 1, 1])


def test_loss_is_the_mean_cross_entropy():
    scores = compute_scores(LOGITS, LABELS, TASK, [])
    wanted = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1)), math.log(1 + math.exp(3))]
    assert scores.metrics == pytest.approx({"loss": sum(wanted) / 3})
    assert scores.texts == 3
    assert scores.report == {}


def test_metrics_are_called_by_their_names():
    scores = compute_scores(LOGITS, LABELS, TASK, [Accuracy(), Accuracy(name="hits")])
    assert scores.metrics["accuracy"] == scores.metrics["hits"] == pytest.approx(2 / 3)


class Sum(Metric):
    type: Literal["sum"] = "sum"

    def compute(self, references, predictions, task):
        return float(predictions.sum())


class SumOfScores(Sum):
    type: Literal["sum_of_scores"] = "sum_of_scores"
    predictions = "scores"

    def compute(self, references, predictions, task):
        assert predictions.shape == (3, 2)
        return float(predictions[:, 1].sum())


def test_a_metric_gets_labels_or_probabilities_as_it_asks():
    metrics = compute_scores(LOGITS, LABELS, TASK, [Sum(), SumOfScores()]).metrics
    assert metrics["sum"] == 1  # the second text alone is called good
    assert metrics["sum_of_scores"] == pytest.approx(float(LOGITS.softmax(1)[:, 1].sum()))


NUMBERS = Regression(("price", "share"), (100.0, 0.5), (20.0, 0.1))
MANY = MultiLabel(("late", "rude"), (0.2, 0.9))


def test_the_loss_of_several_labels_is_the_mean_binary_cross_entropy():
    logits = torch.tensor([[2.0, 0.0], [-1.0, 3.0]])
    targets = np.array([[1, 0], [0, 0]], dtype=np.float32)
    wanted = [math.log(1 + math.exp(x)) for x in (-2, 0, -1, 3)]
    found = compute_scores(logits, targets, MANY, [])
    assert found.metrics == pytest.approx({"loss": sum(wanted) / 4})


def test_of_several_labels_metrics_see_what_the_thresholds_decide():
    class Decided(Metric):
        type: Literal["decided"] = "decided"
        tasks = ("multi_label",)

        def compute(self, references, predictions, task):
            assert references.tolist() == [[1, 0], [0, 1], [0, 0]]
            return float(predictions[:, 0].sum() * 10 + predictions[:, 1].sum())

    logits = torch.tensor([[0.0, 2.0], [-1.0, 3.0], [-2.0, -3.0]])  # 0.5 0.88, 0.27 0.95, 0.12 0.05
    targets = np.array([[1, 0], [0, 1], [0, 0]], dtype=np.float32)
    found = compute_scores(logits, targets, MANY, [Decided()], report=True)
    assert found.metrics["decided"] == 21
    assert found.report["labels"] == ["late", "rude"]


def test_numbers_are_compared_in_the_units_of_the_data_and_their_loss_standardised():
    class Distance(Metric):
        type: Literal["distance"] = "distance"
        tasks = ("regression",)

        def compute(self, references, predictions, task):
            assert references.tolist() == [[120.0, pytest.approx(0.4)]]
            return float(abs(references - predictions)[0, 0])

    logits, targets = torch.tensor([[1.5, 0.0]]), np.array([[1.0, -1.0]], dtype=np.float32)
    found = compute_scores(logits, targets, NUMBERS, [Distance()], report=True)
    assert found.metrics == pytest.approx({"loss": (0.25 + 1) / 2, "distance": 10})
    assert found.report["labels"] == ["price", "share"]


def test_a_batch_of_windows_gives_a_row_a_text():
    class Counts(nn.Module):
        def forward(self, windows, input_ids, attention_mask):
            parts = (input_ids * attention_mask).sum(1).split(windows.tolist())
            rows = [torch.stack([part.sum(), torch.tensor(len(part))]) for part in parts]
            return SimpleNamespace(logits=torch.stack(rows).float())

    counts = np.array([1, 3, 2])
    values = np.arange(1, 13)
    offsets = np.array([0, 2, 4, 6, 8, 10, 12])
    tokens = Tokens(
        values, offsets, np.zeros(3, dtype=np.int64), 0, LengthReport(3, 12, 6), counts=counts
    )
    found = predict_logits(Counts(), tokens, batch_size=2, device="cpu")
    assert found.tolist() == [[1 + 2, 1], [sum(range(3, 9)), 3], [9 + 10 + 11 + 12, 2]]


def test_the_report_counts_true_against_predicted():
    report = compute_scores(LOGITS, LABELS, TASK, [], report=True).report
    assert report["labels"] == ["bad", "good"]
    assert report["confusion_matrix"] == [[1, 0], [1, 1]]

"""The built-in metrics of classification, with one label a text or several.

One label a text: references are label ids, int64 (n,). Predictions are label ids, int64 (n,), or,
for the metrics that judge scores, probabilities, float64 (n, k), column i for label id i; (n,) is
taken as the probability of label 1 of two. Several labels a text: references are 0 or 1 for each
label, int64 (n, k); predictions are the same, or probabilities, float64 (n, k). Every metric
returns a float, NaN when there is no example or a score is not finite, and emits no warning.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from bertkit.errors import DataError, SpecError
from bertkit.metrics.base import Metric
from bertkit.reports import quiet

if TYPE_CHECKING:
    import evaluate
    import numpy as np

    from bertkit.tasks import Task

    Array = np.ndarray[Any, Any]


class _Classification(Metric):
    """What all metrics of this file share: the undefined cases and the shape of the input."""

    tasks: ClassVar[tuple[str, ...]] = ("single_label", "multi_label")
    scikit: ClassVar[str]
    """The function of `sklearn.metrics` that computes it."""

    def compute(self, references: Array, predictions: Array, task: Task | None) -> float:
        """Return the score; NaN without examples, or when a score is not finite."""
        import numpy as np

        if not len(references) or not np.isfinite(predictions).all():
            return math.nan
        if self.predictions == "scores" and references.ndim == 1:
            if predictions.ndim == 1:
                predictions = np.stack([1 - predictions, predictions], axis=1)
            if references.max() >= predictions.shape[1]:
                raise DataError(
                    f"metrics.{self.key}: found label id {references.max()} and scores for "
                    f"{predictions.shape[1]} labels; give one column of scores per label"
                )
        with quiet():
            return float(self._score(references, predictions, task))

    def _function(self) -> Callable[..., float]:
        import sklearn.metrics

        return getattr(sklearn.metrics, self.scikit)  # type: ignore[no-any-return]

    def _score(self, references: Array, predictions: Array, task: Task | None) -> float:
        return self._function()(references, predictions)


class Accuracy(_Classification):
    """Share of examples whose predicted label is the true one, in [0, 1].

    With several labels a text, the share of texts that are given exactly the labels they have: one
    label too many or too few counts as wrong. Source: scikit-learn, `accuracy_score`.

    Example:
        >>> Accuracy().make(None).compute(references=[0, 1, 1, 1], predictions=[0, 1, 1, 0])
        {'accuracy': 0.75}
    """

    type: Literal["accuracy"] = "accuracy"
    scikit = "accuracy_score"


class _Averaged(_Classification):
    """A score per label, averaged: the options of precision, recall and f1."""

    average: Literal["macro", "weighted", "micro", "binary", "samples"] = Field(
        "macro",
        description="macro: mean over the labels that occur in the references or the predictions; "
        "weighted: the same, weighted by references; micro: from counts over all labels; "
        "binary: the score of one label of two, for `single_label`; samples: mean over the texts, "
        "for `multi_label`.",
    )
    positive: str | None = Field(
        None, description="The label that average: binary scores; the last of the two by default."
    )

    @field_validator("positive")
    @classmethod
    def _read_under_binary_only(cls, value: str | None, info: ValidationInfo) -> str | None:
        average = info.data.get("average", "binary")
        if value is not None and average != "binary":
            raise ValueError(f'found with "average: {average}", expected with "average: binary"')
        return value

    def make(self, task: Task | None) -> evaluate.Metric:
        """Return the `evaluate.Metric`; refuse labels that `average` cannot score."""
        if task is not None:
            self._refuse(task.kind)
            if self.average == "binary":
                self._positive_id(tuple(task.labels))
        return super().make(task)

    def _refuse(self, kind: str) -> None:
        wanted = {"binary": "single_label", "samples": "multi_label"}.get(self.average, kind)
        if kind != wanted:
            raise SpecError(
                f'metrics.{self.key}.average: "{self.average}" is for {wanted} tasks, and this is '
                f"a {kind} task; write macro, weighted or micro"
            )

    def _positive_id(self, labels: tuple[str, ...]) -> int:
        known = ", ".join(labels)
        if len(labels) != 2:
            raise SpecError(
                f'metrics.{self.key}.average: "binary" needs two labels, found {len(labels)} '
                f"({known}); write macro, weighted or micro"
            )
        positive = labels[1] if self.positive is None else self.positive
        if positive not in labels:
            near = get_close_matches(positive, labels, n=1)
            hint = f'did you mean "{near[0]}"?' if near else "write one of them"
            raise SpecError(
                f'metrics.{self.key}.positive: found "{positive}", expected one of the labels '
                f"({known}); {hint}"
            )
        return labels.index(positive)

    def _score(self, references: Array, predictions: Array, task: Task | None) -> float:
        import numpy as np

        self._refuse("multi_label" if references.ndim == 2 else "single_label")
        options: dict[str, Any] = {"average": self.average}
        if references.ndim == 2:
            # One more column: for `samples` it says that there is no label, so that a text that is
            # rightly given none counts. Else it is empty, and there for a task with one label,
            # since scikit-learn takes a single column for label ids.
            samples = self.average == "samples"
            references, predictions = (
                np.hstack([given, samples & ~given.any(axis=1, keepdims=True)])
                for given in (references, predictions)
            )
            occurring = np.flatnonzero((references | predictions).any(axis=0))
            options["labels"] = occurring if len(occurring) else [0]
        if self.average == "binary":
            # Without a task, labels are named by their ids.
            count = max(2, int(max(references.max(), predictions.max())) + 1)
            labels = tuple(task.labels) if task else tuple(map(str, range(count)))
            options = {"average": "macro", "labels": [self._positive_id(labels)]}
        return self._function()(references, predictions, zero_division=0, **options)


class Precision(_Averaged):
    """Share of the examples predicted as a label that have it, in [0, 1]; 0 if none is.

    Averaged over labels or texts as `average` says; of `samples`, a text without labels that is
    given none scores 1. Source: scikit-learn, `precision_score`.

    Example:
        >>> precision = Precision(average="binary")
        >>> precision.make(None).compute(references=[0, 1, 1, 0], predictions=[1, 1, 0, 0])
        {'precision': 0.5}
    """

    type: Literal["precision"] = "precision"
    scikit = "precision_score"


class Recall(_Averaged):
    """Share of the examples that have a label which are predicted as it, in [0, 1]; 0 if none has.

    Averaged over labels or texts as `average` says; of `samples`, a text without labels that is
    given none scores 1. Source: scikit-learn, `recall_score`.

    Example:
        >>> recall = Recall(average="binary")
        >>> recall.make(None).compute(references=[0, 1, 1, 1, 1], predictions=[1, 1, 0, 0, 0])
        {'recall': 0.25}
    """

    type: Literal["recall"] = "recall"
    scikit = "recall_score"


class F1(_Averaged):
    """Harmonic mean of precision and recall, in [0, 1]; 0 if both are 0.

    Averaged over labels or texts as `average` says; of `samples`, a text without labels that is
    given none scores 1. Source: scikit-learn, `f1_score`.

    Example:
        >>> f1 = F1(average="micro")
        >>> f1.make(None).compute(references=[0, 1, 2, 2], predictions=[0, 1, 2, 1])
        {'f1': 0.75}
        >>> f1.make(None).compute(references=[[1, 1, 0], [0, 0, 0]], predictions=[[1, 0, 0]] * 2)
        {'f1': 0.5}
    """

    type: Literal["f1"] = "f1"
    scikit = "f1_score"


class Matthews(_Classification):
    """Correlation of predicted and true labels, in [-1, 1]; 0 when either has one label only.

    For one label a text only. Source: Gorodkin 2004, "Comparing two K-category assignments by a
    K-category correlation coefficient"; scikit-learn, `matthews_corrcoef`.

    Example:
        >>> Matthews().make(None).compute(references=[0, 0, 1, 1], predictions=[1, 1, 0, 0])
        {'matthews': -1.0}
    """

    type: Literal["matthews"] = "matthews"
    tasks: ClassVar[tuple[str, ...]] = ("single_label",)
    scikit = "matthews_corrcoef"


class _Ranking(_Classification):
    """How a label is ranked above the rest: label 1 of two, else the mean over the labels."""

    predictions: ClassVar[Literal["labels", "scores"]] = "scores"

    def _score(self, references: Array, predictions: Array, task: Task | None) -> float:
        import numpy as np

        if references.ndim == 1:
            references = references[:, None] == np.arange(predictions.shape[1])
            if predictions.shape[1] == 2:
                references, predictions = references[:, 1:], predictions[:, 1:]
        values = [
            self._function()(truth, scores)
            for truth, scores in zip(references.T.astype(int), predictions.T, strict=True)
            if 0 < truth.mean() < 1
        ]
        return sum(values) / len(values) if values else math.nan


class RocAuc(_Ranking):
    """Area under the ROC curve: how often a positive outranks a negative, in [0, 1].

    With two labels, label 1 is positive. With more, each label against the rest, unweighted mean
    over the labels that occur; NaN when fewer than two labels occur. With several labels a text,
    the unweighted mean over the labels that some texts have and others have not; NaN when there
    are none. Source: Fawcett 2006, "An introduction to ROC analysis"; scikit-learn,
    `roc_auc_score`.

    Example:
        >>> scores = [[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]]
        >>> RocAuc().make(None).compute(references=[0, 0, 1, 1], predictions=scores)
        {'roc_auc': 0.75}
    """

    type: Literal["roc_auc"] = "roc_auc"
    scikit = "roc_auc_score"


class AveragePrecision(_Ranking):
    """Precision at each positive in the ranking, averaged over positives, in [0, 1].

    Sum over thresholds of (recall gained) * precision, without interpolation. Labels are treated
    as in `roc_auc`. Source: scikit-learn, `average_precision_score`.

    Example:
        >>> scores = [[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]]
        >>> AveragePrecision().make(None).compute(references=[0, 1, 0, 0], predictions=scores)
        {'average_precision': 0.5}
    """

    type: Literal["average_precision"] = "average_precision"
    scikit = "average_precision_score"


class LogLoss(_Classification):
    """Mean of -ln(probability given to the true label), in [0, 36.05]; lower is better.

    With several labels a text, the mean over texts and labels of -ln(probability given to what is
    true, that the text has the label or that it has not): the binary cross-entropy. Probabilities
    are clipped to [2.2e-16, 1 - 2.2e-16]. Source: Bishop 2006, "Pattern Recognition and Machine
    Learning", p. 209; scikit-learn, `log_loss`.

    Example:
        >>> value = LogLoss().make(None).compute(references=[0], predictions=[[0.5, 0.5]])
        >>> round(value["log_loss"], 4)
        0.6931
    """

    type: Literal["log_loss"] = "log_loss"
    scikit = "log_loss"
    predictions: ClassVar[Literal["labels", "scores"]] = "scores"
    greater_is_better = False

    def _score(self, references: Array, predictions: Array, task: Task | None) -> float:
        labels = range(predictions.shape[1])
        if references.ndim == 2:
            labels, references, predictions = range(2), references.ravel(), predictions.ravel()
        return self._function()(references, predictions, labels=labels)


class CalibrationError(_Classification):
    """Expected calibration error: |accuracy - confidence|, in [0, 1]; lower is better.

    The top label's probability is the confidence. Examples fall into `bins` intervals of equal
    width, closed on the right; the gap of each interval is weighted by its share of the examples.
    With several labels a text, each label of each text is an example, its probability the
    confidence, and right where the text has the label. Source: Guo et al. 2017, "On Calibration of
    Modern Neural Networks", equation 3.

    Example:
        >>> metric = CalibrationError().make(None)
        >>> metric.compute(references=[0, 1], predictions=[[0.75, 0.25], [0.75, 0.25]])
        {'calibration_error': 0.25}
    """

    type: Literal["calibration_error"] = "calibration_error"
    predictions: ClassVar[Literal["labels", "scores"]] = "scores"
    greater_is_better = False

    bins: int = Field(15, ge=1, description="Number of confidence intervals of equal width.")

    def _score(self, references: Array, predictions: Array, task: Task | None) -> float:
        import numpy as np

        if references.ndim == 2:
            right, confidence = references.ravel(), predictions.ravel()
        else:
            right, confidence = predictions.argmax(axis=1) == references, predictions.max(axis=1)
        gap = right - confidence
        edges = np.linspace(0, 1, self.bins + 1)[1:-1]
        sums = np.bincount(np.searchsorted(edges, confidence, side="left"), weights=gap)
        return float(np.abs(sums).sum() / len(gap))

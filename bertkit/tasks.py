"""What is predicted: decided once, from the labels; every stage asks the task.

`targets` is what the model learns, `truth` the same as people count it, and both hold one row a
text: label ids, a 0 or 1 for each label, or numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from bertkit.component import Options
from bertkit.errors import DataError, SpecError, suggest

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, Any]

Kind = Literal["single_label", "multi_label", "regression"]
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
Share = Annotated[float, Field(ge=0, le=1)]
Balance = Literal["balanced"] | dict[str, Annotated[float, Field(ge=0)]]
"""`balanced`, or a number by label name."""
MIN_POSITIVES = 5
"""Validation texts a label must have for its threshold to be chosen on them."""
STRATA = 10
"""Groups of equal size that numbers are held out in equal shares of."""
LARGEST_MEAN = 1e5
"""Of a regression's target, in standard deviations: beyond it a float32 has two digits left."""
NO_LABEL = "(no label)"


def label_name(name: Any) -> Any:
    """Return the label name that a number or a boolean of a spec stands for; others as they are."""
    return str(name) if isinstance(name, (int, float)) else name


def keys_as_names(value: Any) -> Any:
    """Return a mapping by label with names as its keys; other values as they are."""
    if not isinstance(value, Mapping):
        return value
    return {label_name(key): item for key, item in value.items()}


def figure(value: float) -> str:
    """Return a number as a person reads it: four digits, large ones without a fraction.

    Example:
        >>> figure(1683494.4), figure(3.35259), figure(0.0034069)
        ('1683494', '3.353', '0.003407')
    """
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e12 else f"{value:.4g}"


class TaskOptions(Options):
    """What the user says of the task."""

    type: Kind = Field(description="What is predicted.")
    thresholds: Literal["validation"] | Share | dict[str, Share] | None = Field(
        None,
        description="For `multi_label`: the probability from which on a label is given, for all "
        "labels or by name (0.5 for those not named), or `validation`: for each label the one "
        "with the best F1 on the validation split. By default that where there is such a split, "
        "else 0.5.",
    )

    @field_validator("thresholds", mode="before")
    @classmethod
    def _label_names_are_text(cls, value: Any) -> Any:
        return keys_as_names(value)

    @model_validator(mode="after")
    def _thresholds_are_for_many_labels(self) -> TaskOptions:
        if self.thresholds is not None and self.type != "multi_label":
            raise ValueError(f"`thresholds` are for `multi_label`, found type: {self.type}")
        return self


def _expanded(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


TaskField = Annotated[
    TaskOptions | None,
    BeforeValidator(_expanded, json_schema_input_type=TaskOptions | Kind | None),
]


@dataclass(frozen=True)
class Shaping:
    """How the loss that is trained on differs from the plain one."""

    weights: tuple[float, ...] | None = None
    """One a label; with a single label a text, their mean over the train texts is 1."""
    focal: float = 0.0
    smoothing: float = 0.0


PLAIN = Shaping()


@dataclass(frozen=True)
class Prediction:
    """What the model says of one text."""

    label: str | None
    """The label; of several given ones the likeliest, None where none is given; in a regression
    the name of the (first) target."""
    score: float
    """Probability of `label`, or where that is None the highest of all; in a regression the value
    predicted for the (first) target."""
    scores: Mapping[str, float]
    """Probability of every label; in a regression the value of every target."""
    labels: tuple[str, ...] = ()
    """Every label given, the likeliest first; in a regression every target."""


@dataclass(frozen=True)
class Task(ABC):
    """What is predicted. Decided once, from the labels; every stage asks it.

    `labels` are the names in id order: `labels[i]` is the name of label id `i`, or of target `i`.
    """

    labels: tuple[str, ...]

    kind: ClassVar[Kind]
    problem_type: ClassVar[ProblemType]
    """What transformers calls it, in a model's config."""
    noun: ClassVar[str] = "Labels"
    """What `labels` names, for a heading."""
    advice: ClassVar[str] = ""
    """What a user of the plain model has to know, in Markdown."""
    default_metrics: ClassVar[tuple[str, ...]]
    """Where the spec names none; the first one decides on the best model."""
    has_labels: ClassVar[bool] = True
    """Whether there are labels, which options may be for."""

    @property
    def num_labels(self) -> int:
        """Number of logits, one a label or target."""
        return len(self.labels)

    @property
    def about(self) -> str:
        """What the model gives, in words."""
        return f"one of {self.num_labels} labels each"

    @property
    def one_answer(self) -> bool:
        """Whether the highest score of a text is the whole answer."""
        return True

    def answer(self, found: Prediction) -> str:
        """Return what a prediction says in one cell, names with a bar between them."""
        return "|".join(found.labels) or NO_LABEL

    def figures(self, found: Prediction) -> str:
        """Return the scores of what `answer` names, in the same order; of no label the highest."""
        scores = [found.scores[name] for name in found.labels] or [found.score]
        return "|".join(f"{score:.4f}" for score in scores)

    def remarks(self) -> list[str]:
        """Return what is to be said of each label beside its name."""
        return [""] * self.num_labels

    @abstractmethod
    def targets(self, column: Sequence[Any]) -> Array:
        """Return what the model learns, from the column `label` of a split."""

    @abstractmethod
    def truth(self, targets: Array) -> Array:
        """Return targets as metrics compare them, the same shape as `decide` returns."""

    @abstractmethod
    def loss(
        self, logits: torch.Tensor, targets: torch.Tensor, shaping: Shaping = PLAIN
    ) -> torch.Tensor:
        """Return the loss summed over the batch, a float32 scalar.

        Args:
            logits: any float dtype, shape (B, num_labels). Raw scores: no softmax before this.
            targets: rows of what `targets` returned, B of them.
            shaping: weights, focal exponent and smoothing; none for evaluation.
        """

    @abstractmethod
    def scores(self, logits: Array) -> Array:
        """Return what a person reads, float64 (n, num_labels): probabilities, or values."""

    @abstractmethod
    def decide(self, scores: Array) -> Array:
        """Return what is predicted for given scores."""

    @abstractmethod
    def prediction(self, scores: Array) -> Prediction:
        """Return the prediction for the scores of one text, float64 (num_labels,)."""

    @abstractmethod
    def shown(self, decided: Array) -> str:
        """Return one row of `truth` or `decide` in words."""

    @abstractmethod
    def strata(self, column: Sequence[Any]) -> Array:
        """Return a group for each row, int64 (n,), that a held-out share takes its part of."""

    @abstractmethod
    def summary(self, targets: Array) -> dict[str, Any]:
        """Count texts by label, or describe each target."""

    @abstractmethod
    def check(self, column: Sequence[Any]) -> None:
        """Refuse a train split that teaches nothing.

        Raises:
            DataError: every text has the same label or value.
        """

    def fitted(self, column: Sequence[Any]) -> Self:
        """Return the task with what it takes from the train split's column `label`."""
        return self

    def told(self, summary: Mapping[str, Any]) -> str:
        """Return a summary in one line."""
        shown = [f"{name} {value}" for name, value in list(summary.items())[:12]]
        return "  ".join(shown) + ("  …" if len(summary) > 12 else "")

    def report(self, truth: Array, decided: Array) -> dict[str, Any]:
        """Return the tables behind the metrics; see `reports.py`."""
        return {}

    def label_weights(self, asked: Balance, targets: Array, place: str) -> tuple[float, ...]:
        """Return one weight a label.

        Args:
            asked: `balanced`, or weights by label name; labels that are not named have 1.
            targets: of the train split.
            place: field path for messages.

        Raises:
            SpecError: a label that does not exist, or a task without labels.
        """
        raise SpecError(f"{place}: is for labels, and the task is {self.kind}; take it out")

    def row_weights(self, asked: Balance, targets: Array, place: str) -> Array:
        """Return how often to draw each row, relative to the others, float64 (n,)."""
        raise SpecError(f"{place}: is for labels, and the task is {self.kind}; take it out")

    def with_thresholds(
        self, asked: Any, scores: Array | None, truth: Array | None
    ) -> tuple[Self, list[str]]:
        """Return the task as it decides from now on, and lines that tell of it."""
        return self, []

    def plain_scale(self) -> tuple[Array, Array] | None:
        """Return factor and shift that turn logits into what the saved model is to say."""
        return None

    def from_plain(self, logits: Array) -> Array:
        """Return logits as they were trained, from those of the saved plain model."""
        return logits

    @property
    def rounding(self) -> float:
        """How far float32 may move a logit on the way to the saved model and back."""
        return 0.0

    def settings(self) -> dict[str, Any]:
        """Return what a saved model keeps of the task; `task_from` reads it."""
        return {"kind": self.kind, "labels": list(self.labels)}

    def _by_name(self, values: Mapping[str, float], rest: float, place: str) -> list[float]:
        for name in values:
            if name not in self.labels:
                raise SpecError(
                    f"{place}: there is no label {name!r}.{suggest(name, self.labels)} "
                    f"Known: {', '.join(self.labels[:20])}."
                )
        return [float(values.get(name, rest)) for name in self.labels]


@dataclass(frozen=True)
class SingleLabel(Task):
    """One label a text. Targets: label ids, int64 (n,)."""

    kind: ClassVar[Kind] = "single_label"
    problem_type: ClassVar[ProblemType] = "single_label_classification"
    default_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "f1")

    def targets(self, column: Sequence[Any]) -> Array:
        """Return label ids, int64 (n,)."""
        import numpy as np

        return np.asarray(column, dtype=np.int64)

    def truth(self, targets: Array) -> Array:
        """Return label ids, int64 (n,)."""
        return targets

    def loss(
        self, logits: torch.Tensor, targets: torch.Tensor, shaping: Shaping = PLAIN
    ) -> torch.Tensor:
        """Return the cross-entropy summed over the batch, a float32 scalar.

        With smoothing s the target is 1 - s on the label and s spread over all (Szegedy et al.
        2016, arXiv:1512.00567); the focal exponent g multiplies by (1 - p)^g, p the probability of
        the label (Lin et al. 2017, arXiv:1708.02002); the weight is that of the label.
        """
        from torch.nn.functional import cross_entropy

        logits = logits.float()
        if shaping == PLAIN:
            return cross_entropy(logits, targets, reduction="sum")
        loss = cross_entropy(logits, targets, reduction="none", label_smoothing=shaping.smoothing)
        if shaping.focal:
            wrong = -(-cross_entropy(logits, targets, reduction="none")).expm1()
            loss = loss * wrong.clamp(min=1e-12) ** shaping.focal
        if shaping.weights:
            loss = loss * logits.new_tensor(shaping.weights)[targets]
        return loss.sum()

    def scores(self, logits: Array) -> Array:
        """Return probabilities, float64 (n, num_labels), rows summing to 1."""
        import numpy as np

        exp = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        result: Array = exp / exp.sum(axis=1, keepdims=True)
        return result

    def decide(self, scores: Array) -> Array:
        """Return the likeliest label ids, int64 (n,)."""
        result: Array = scores.argmax(axis=1)
        return result

    def prediction(self, scores: Array) -> Prediction:
        """Return the likeliest label."""
        best = self.labels[int(scores.argmax())]
        named = dict(zip(self.labels, map(float, scores), strict=True))
        return Prediction(best, named[best], named, (best,))

    def shown(self, decided: Array) -> str:
        """Return the label's name."""
        return self.labels[int(decided)]

    def strata(self, column: Sequence[Any]) -> Array:
        """Group rows by label."""
        return self.targets(column)

    def check(self, column: Sequence[Any]) -> None:
        """Refuse a train split in which one label occurs."""
        used = sorted(set(column))
        if len(used) < 2:
            raise DataError(
                f"train: every one of its {len(column)} texts has the label "
                f"`{self.labels[used[0]]}`; at least two labels are needed"
            )

    def summary(self, targets: Array) -> dict[str, Any]:
        """Count texts by label."""
        import numpy as np

        counts = np.bincount(targets, minlength=self.num_labels)
        return dict(zip(self.labels, map(int, counts), strict=True))

    def report(self, truth: Array, decided: Array) -> dict[str, Any]:
        """Return confusion matrix and per-class scores."""
        from bertkit.reports import classification_report

        return classification_report(truth, decided, self.labels)

    def label_weights(self, asked: Balance, targets: Array, place: str) -> tuple[float, ...]:
        """Return one weight a label, 1 on average over the train texts.

        `balanced` is n / (k n_i), n_i the texts of label i (King & Zeng 2001, as scikit-learn).
        """
        import numpy as np

        counts = np.bincount(targets, minlength=self.num_labels)
        if asked == "balanced":
            weights = len(targets) / np.maximum(counts, 1)
        else:
            weights = np.array(self._by_name(asked, 1.0, place))
        mean = float((weights * counts).sum()) / len(targets)
        if not mean:
            raise SpecError(f"{place}: every train text has the weight 0; give one above 0")
        return tuple(map(float, weights / mean))

    def row_weights(self, asked: Balance, targets: Array, place: str) -> Array:
        """Weigh each text by its label."""
        import numpy as np

        weights: Array = np.array(self.label_weights(asked, targets, place))[targets]
        return weights


@dataclass(frozen=True)
class MultiLabel(Task):
    """Any number of labels a text. Targets: 0 or 1 for each label, float32 (n, k)."""

    advice: ClassVar[str] = (
        "Plain transformers gives every label a probability of its own (`top_k=None` shows all of "
        "them). A text has the labels whose probability reaches the threshold above, and may have "
        "none; `bertkit.load` decides so."
    )

    thresholds: tuple[float, ...] = ()
    """Probability from which on each label is given; 0.5 where empty."""

    kind: ClassVar[Kind] = "multi_label"
    problem_type: ClassVar[ProblemType] = "multi_label_classification"
    default_metrics: ClassVar[tuple[str, ...]] = ("average_precision", "f1")

    @property
    def about(self) -> str:
        """What the model gives, in words."""
        return f"any number of {self.num_labels} labels each"

    @property
    def one_answer(self) -> bool:
        """A text may have several labels."""
        return False

    def remarks(self) -> list[str]:
        """Return the thresholds."""
        return [f" (from {limit:.3f} on)" for limit in self._thresholds]

    def targets(self, column: Sequence[Any]) -> Array:
        """Return 0 or 1 for each label, float32 (n, k), from lists of label ids."""
        import numpy as np

        result = np.zeros((len(column), self.num_labels), dtype=np.float32)
        for row, ids in enumerate(column):
            result[row, list(ids)] = 1
        return result

    def truth(self, targets: Array) -> Array:
        """Return 0 or 1 for each label, int64 (n, k)."""
        import numpy as np

        return targets.astype(np.int64)

    def loss(
        self, logits: torch.Tensor, targets: torch.Tensor, shaping: Shaping = PLAIN
    ) -> torch.Tensor:
        """Return the binary cross-entropy, mean over labels, summed over the batch.

        A label's weight multiplies the loss of the texts that have it; smoothing s moves 0 and 1
        to s/2 and 1 - s/2; the focal exponent is as in `SingleLabel`, for each label.
        """
        from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

        logits, targets = logits.float(), targets.float()
        smooth = targets * (1 - shaping.smoothing) + shaping.smoothing / 2
        weight = logits.new_tensor(shaping.weights) if shaping.weights else None
        loss = cross_entropy(logits, smooth, reduction="none", pos_weight=weight)
        if shaping.focal:
            p = logits.sigmoid()
            wrong = targets * (1 - p) + (1 - targets) * p
            loss = loss * wrong.clamp(min=1e-12) ** shaping.focal
        return loss.mean(dim=1).sum()

    def scores(self, logits: Array) -> Array:
        """Return the probability of each label, float64 (n, k)."""
        import numpy as np

        half = np.tanh(logits.astype(np.float64) / 2) / 2  # a sigmoid that cannot overflow
        result: Array = half + 0.5
        return result

    def decide(self, scores: Array) -> Array:
        """Return 0 or 1 for each label, int64 (n, k)."""
        import numpy as np

        result: Array = (scores >= np.array(self._thresholds)).astype(np.int64)
        return result

    @property
    def _thresholds(self) -> tuple[float, ...]:
        return self.thresholds or (0.5,) * self.num_labels

    def prediction(self, scores: Array) -> Prediction:
        """Return the labels at or above their thresholds."""
        named = dict(zip(self.labels, map(float, scores), strict=True))
        limits = zip(named, self._thresholds, strict=True)
        given = sorted((n for n, limit in limits if named[n] >= limit), key=lambda n: -named[n])
        best = given[0] if given else None
        return Prediction(best, named[best] if best else max(named.values()), named, tuple(given))

    def shown(self, decided: Array) -> str:
        """Return the names of the labels given."""
        names = (name for name, one in zip(self.labels, decided, strict=True) if one)
        return ", ".join(names) or NO_LABEL

    def strata(self, column: Sequence[Any]) -> Array:
        """Group rows by the rarest of their labels."""
        import numpy as np

        counts = np.bincount([i for ids in column for i in ids], minlength=self.num_labels)
        groups = [min(ids, key=lambda i: counts[i]) if ids else self.num_labels for ids in column]
        return np.asarray(groups, dtype=np.int64)

    def check(self, column: Sequence[Any]) -> None:
        """Refuse a train split in which no text has a label."""
        if not any(column):
            raise DataError(
                f"train: none of its {len(column)} texts has a label; texts with labels are needed"
            )

    def summary(self, targets: Array) -> dict[str, Any]:
        """Count texts by label, and those without one."""
        counts = dict(zip(self.labels, map(int, targets.sum(axis=0)), strict=True))
        return {**counts, NO_LABEL: int((targets.sum(axis=1) == 0).sum())}

    def report(self, truth: Array, decided: Array) -> dict[str, Any]:
        """Return per-label scores and counts."""
        from bertkit.reports import multi_label_report

        return multi_label_report(truth, decided, self.labels, self._thresholds)

    def label_weights(self, asked: Balance, targets: Array, place: str) -> tuple[float, ...]:
        """Return one weight a label, for the texts that have it.

        `balanced` gives them, in sum, the weight of the texts that do not have it.
        """
        import numpy as np

        if asked != "balanced":
            return tuple(self._by_name(asked, 1.0, place))
        positive = targets.sum(axis=0)
        weights = (len(targets) - positive) / np.maximum(positive, 1)
        return tuple(float(w) if 0 < p < len(targets) else 1.0
                     for w, p in zip(weights, positive, strict=True))  # fmt: skip

    def row_weights(self, asked: Balance, targets: Array, place: str) -> Array:
        """Weigh each text by the label of it that weighs most; texts without one are a group."""
        import numpy as np

        grouped = np.concatenate([targets, targets.sum(axis=1, keepdims=True) == 0], axis=1)
        if asked == "balanced":
            weights = len(targets) / np.maximum(grouped.sum(axis=0), 1)
        else:
            weights = np.array([*self._by_name(asked, 1.0, place), 1.0])
        result: Array = (grouped * weights).max(axis=1)
        if not result.any():
            raise SpecError(f"{place}: every train text has the weight 0; give one above 0")
        return result

    def with_thresholds(
        self, asked: Any, scores: Array | None, truth: Array | None
    ) -> tuple[MultiLabel, list[str]]:
        """Return the task with its thresholds.

        Args:
            asked: what the spec says.
            scores: of the validation split, float64 (n, k); None where there is none.
            truth: of the same texts, int64 (n, k).

        Raises:
            SpecError: a label that does not exist, or no validation split to choose on.
        """
        place = "task.thresholds"
        if isinstance(asked, dict):
            return replace(self, thresholds=tuple(self._by_name(asked, 0.5, place))), []
        if isinstance(asked, (float, int)):
            return replace(self, thresholds=(float(asked),) * self.num_labels), []
        if scores is None or truth is None:
            if asked == "validation":
                raise SpecError(
                    f"{place}: to be chosen on the validation split, and there is none; give "
                    "dataset.validation, such as 0.1, or the thresholds themselves"
                )
            return self, ["thresholds: 0.5 for every label, as there is no validation split"]
        chosen = [best_threshold(s, t) for s, t in zip(scores.T, truth.T, strict=True)]
        kept = [name for name, one in zip(self.labels, chosen, strict=True) if one is None]
        named = zip(self.labels, chosen, strict=True)
        listed = self.told({name: f"{one:.3f}" for name, one in named if one is not None})
        told = [f"thresholds chosen on validation, whose f1 they flatter: {listed or 'none'}"]
        if kept:
            more = ", …" if len(kept) > 3 else ""
            told.append(
                f"thresholds: 0.5 for {len(kept)} labels that fewer than {MIN_POSITIVES} "
                f"validation texts have, or all: {', '.join(kept[:3])}{more}"
            )
        return replace(self, thresholds=tuple(0.5 if c is None else c for c in chosen)), told

    def settings(self) -> dict[str, Any]:
        """Keep the thresholds, too."""
        named = dict(zip(self.labels, self._thresholds, strict=True))
        return {**super().settings(), "thresholds": named}


def best_threshold(scores: Array, truth: Array) -> float | None:
    """Return the threshold with the best F1, half-way between two scores; nearest 0.5 of equals.

    Args:
        scores: probabilities of one label, float64 (n,).
        truth: 0 or 1, int64 (n,).

    Returns:
        None where fewer than `MIN_POSITIVES` texts have the label, or all have it.

    Example:
        >>> import numpy as np
        >>> scores = np.array([0.1, 0.1, 0.2, 0.3, 0.3, 0.3, 0.3, 0.3])
        >>> best_threshold(scores, np.array([0, 0, 0, 1, 1, 1, 1, 1]))
        0.25
    """
    import numpy as np

    positives = int(truth.sum())
    if not MIN_POSITIVES <= positives < len(truth):
        return None
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(truth[order])
    last = np.flatnonzero(np.append(ranked[1:] < ranked[:-1], True))  # of texts that score alike
    f1 = 2 * hits[last] / (last + 1 + positives)
    above, below = ranked[last[:-1]], ranked[last[:-1] + 1]
    middle = (above + below) / 2
    limits = np.append(np.where(middle > below, middle, above), ranked[-1])
    best = np.flatnonzero(f1 == f1.max())
    return float(limits[best[np.abs(limits[best] - 0.5).argmin()]])


@dataclass(frozen=True)
class Regression(Task):
    """One number a text, or several. Targets: standardised, float32 (n, t).

    The train split's mean becomes 0 and its standard deviation 1, for each target by itself.
    """

    noun: ClassVar[str] = "Targets"
    advice: ClassVar[str] = (
        "The `score` that plain transformers gives is the predicted value itself, in the units of "
        "the training data. The `loss` alone is of standardised values."
    )

    center: tuple[float, ...] = ()
    """Mean of each target in the train split; 0 where empty."""
    spread: tuple[float, ...] = ()
    """Standard deviation of each target in the train split; 1 where empty."""

    kind: ClassVar[Kind] = "regression"
    problem_type: ClassVar[ProblemType] = "regression"
    default_metrics: ClassVar[tuple[str, ...]] = ("r2", "mae", "pearson")
    has_labels: ClassVar[bool] = False

    @property
    def about(self) -> str:
        """What the model gives, in words."""
        return "one number each" if self.num_labels == 1 else f"{self.num_labels} numbers each"

    @property
    def one_answer(self) -> bool:
        """Whether there is one target."""
        return self.num_labels == 1

    def figures(self, found: Prediction) -> str:
        """Return the values."""
        return "|".join(map(figure, found.scores.values()))

    def remarks(self) -> list[str]:
        """Return mean and standard deviation of the train split, which tell the unit."""
        return [
            f" (mean {figure(center)}, standard deviation {figure(spread)} in training)"
            for spread, center in zip(*self._scale(), strict=True)
        ]

    def _scale(self) -> tuple[Array, Array]:
        import numpy as np

        n = self.num_labels
        return np.array(self.spread or [1.0] * n), np.array(self.center or [0.0] * n)

    def targets(self, column: Sequence[Any]) -> Array:
        """Return standardised numbers, float32 (n, t), from lists of t numbers."""
        import numpy as np

        spread, center = self._scale()
        values = np.asarray(column, dtype=np.float64).reshape(len(column), self.num_labels)
        result: Array = ((values - center) / spread).astype(np.float32)
        return result

    def truth(self, targets: Array) -> Array:
        """Return numbers in the user's units, float64 (n, t)."""
        return self.scores(targets)

    def loss(
        self, logits: torch.Tensor, targets: torch.Tensor, shaping: Shaping = PLAIN
    ) -> torch.Tensor:
        """Return the squared error of standardised values, mean over targets, summed."""
        return ((logits.float() - targets.float()) ** 2).mean(dim=1).sum()

    def scores(self, logits: Array) -> Array:
        """Return values in the user's units, float64 (n, t)."""
        import numpy as np

        spread, center = self._scale()
        result: Array = logits.astype(np.float64) * spread + center
        return result

    def decide(self, scores: Array) -> Array:
        """Return the values themselves."""
        return scores

    def prediction(self, scores: Array) -> Prediction:
        """Return the values."""
        named = dict(zip(self.labels, map(float, scores), strict=True))
        return Prediction(self.labels[0], float(scores[0]), named, self.labels)

    def shown(self, decided: Array) -> str:
        """Return the numbers."""
        return ", ".join(map(figure, decided))

    def strata(self, column: Sequence[Any]) -> Array:
        """Group rows by the rank of the first target."""
        import numpy as np

        values = np.asarray(column, dtype=np.float64).reshape(len(column), self.num_labels)[:, 0]
        ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
        result: Array = ranks * min(STRATA, len(ranks)) // len(ranks)
        return result

    def check(self, column: Sequence[Any]) -> None:
        """Refuse a target that has one value only."""
        for i, name in enumerate(self.labels):
            if len({values[i] for values in column}) < 2:
                raise DataError(
                    f"train: `{name}` is {column[0][i]:g} in every one of its {len(column)} texts; "
                    "at least two different values are needed"
                )

    def fitted(self, column: Sequence[Any]) -> Regression:
        """Return the task with the mean and the standard deviation of each target."""
        import numpy as np

        values = np.asarray(column, dtype=np.float64)
        center, spread = values.mean(axis=0), values.std(axis=0)
        for name, mean, deviation in zip(self.labels, center, spread, strict=True):
            if not deviation > abs(mean) / LARGEST_MEAN:
                raise DataError(
                    f"train: `{name}` has a mean of {mean:.6g} and a standard deviation of "
                    f"{deviation:.3g}, which float32 cannot tell apart well; subtract {mean:.6g} "
                    "from the column, or take another unit"
                )
        return replace(self, center=tuple(center.tolist()), spread=tuple(spread.tolist()))

    def summary(self, targets: Array) -> dict[str, Any]:
        """Describe each target: mean, standard deviation, smallest and largest."""
        values = self.truth(targets)
        return {
            name: {
                "mean": float(column.mean()), "deviation": float(column.std()),
                "min": float(column.min()), "max": float(column.max()),
            }
            for name, column in zip(self.labels, values.T, strict=True)
        }  # fmt: skip

    def told(self, summary: Mapping[str, Any]) -> str:
        """Return a summary in one line."""
        return "  ".join(
            f"{name} {figure(one['min'])} to {figure(one['max'])}, mean {figure(one['mean'])}, "
            f"deviation {figure(one['deviation'])}"
            for name, one in list(summary.items())[:4]
        ) + ("  …" if len(summary) > 4 else "")

    def report(self, truth: Array, decided: Array) -> dict[str, Any]:
        """Return the errors of each target."""
        from bertkit.reports import regression_report

        return regression_report(truth, decided, self.labels)

    def plain_scale(self) -> tuple[Array, Array] | None:
        """Return standard deviations and means: the saved model speaks the user's units."""
        return self._scale()

    @property
    def rounding(self) -> float:
        """Some units in the last place of the largest mean, over the deviation."""
        spread, center = self._scale()
        return float((8 * 2.0**-23 * abs(center) / spread).max())

    def from_plain(self, logits: Array) -> Array:
        """Return standardised values."""
        spread, center = self._scale()
        result: Array = (logits - center) / spread
        return result

    def settings(self) -> dict[str, Any]:
        """Keep means and deviations, too."""
        spread, center = self._scale()
        return {**super().settings(), "center": center.tolist(), "spread": spread.tolist()}


class SavedTask(BaseModel):
    """What a saved model keeps of its task."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    kind: Kind
    labels: list[str] = Field(min_length=1)
    thresholds: dict[str, Share] | None = None
    center: list[float] | None = None
    spread: list[Annotated[float, Field(gt=0)]] | None = None

    @model_validator(mode="after")
    def _fits(self) -> SavedTask:
        n = len(self.labels)
        if len(set(self.labels)) < n:
            raise ValueError("labels: a name stands twice")
        kinds = {"thresholds": "multi_label", "center": "regression", "spread": "regression"}
        for name, kind in kinds.items():
            values = getattr(self, name)
            if values is not None and (self.kind != kind or len(values) != n):
                raise ValueError(f"{name} does not fit {self.kind} with {n} labels")
        if self.thresholds and set(self.thresholds) != set(self.labels):
            raise ValueError("thresholds: the names are not those of the labels")
        return self


def task_from(settings: Mapping[str, Any]) -> Task:
    """Return the task that `Task.settings` described.

    Raises:
        pydantic.ValidationError: it describes none.

    Example:
        >>> task_from({"kind": "single_label", "labels": ["bad", "good"]}).num_labels
        2
    """
    saved = SavedTask.model_validate(dict(settings))
    labels = tuple(saved.labels)
    if saved.kind == "multi_label":
        limits = saved.thresholds or {}
        return MultiLabel(labels, tuple(limits.get(name, 0.5) for name in labels))
    if saved.kind == "regression":
        return Regression(labels, tuple(saved.center or ()), tuple(saved.spread or ()))
    return SingleLabel(labels)

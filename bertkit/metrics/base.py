"""What a metric is. The part that a plugin author reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bertkit.component import Component

if TYPE_CHECKING:
    import evaluate
    import numpy as np

    from bertkit.tasks import Task


class Metric(Component):
    """A score computed from references and predictions.

    Implement `compute`; `make` turns it into an `evaluate.Metric` that lives in this process
    (nothing is downloaded, nothing touches the disk), so that `add_batch`, `compute` and
    `evaluate.combine` work as usual. A metric that exists as an `evaluate.Metric` already
    overrides `make` instead.

    Example:
        >>> from typing import Literal
        >>> class ErrorRate(Metric):
        ...     type: Literal["error_rate"] = "error_rate"
        ...     greater_is_better = False
        ...     def compute(self, references, predictions, task):
        ...         return float((references != predictions).mean())
        >>> metric = ErrorRate().make(None)
        >>> metric.compute(references=[0, 1], predictions=[0, 0])
        {'error_rate': 0.5}
    """

    kind: ClassVar[str] = "metric"
    tasks: ClassVar[tuple[str, ...]] = ("single_label",)
    """The task kinds that the metric is defined for."""
    predictions: ClassVar[Literal["labels", "scores"]] = "labels"
    """`labels`: predictions are label ids, int64 (n,). `scores`: probabilities, float64 (n, k)."""
    greater_is_better: ClassVar[bool] = True

    name: str | None = Field(
        None, description="Key of this metric in the results; its type by default."
    )

    @property
    def key(self) -> str:
        """Where the value stands in `RunResult.metrics[split]`."""
        return self.name or self.type

    def compute(
        self, references: np.ndarray[Any, Any], predictions: np.ndarray[Any, Any], task: Task | None
    ) -> float:
        """Return the score.

        Args:
            references: label ids, int64, shape (n,).
            predictions: label ids (n,) or probabilities (n, k), as `predictions` says.
            task: the task with its label names; None outside a run.

        Returns:
            A float; NaN where the score is not defined on these references.
        """
        raise NotImplementedError(f"{type(self).__name__} implements neither compute nor make")

    def make(self, task: Task | None) -> evaluate.Metric:
        """Return an in-process `evaluate.Metric` whose result is `{self.key: value}`."""
        from bertkit.metrics.adapter import in_process

        return in_process(self, task)

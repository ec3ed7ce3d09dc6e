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
    """The kinds of task that the metric is defined for: `single_label`, `multi_label`,
    `regression`."""
    predictions: ClassVar[Literal["labels", "scores"]] = "labels"
    """`labels`: the metric judges what is decided. `scores`: it judges probabilities. In a
    regression both are the predicted numbers."""
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

        What the arguments hold depends on the task's kind, one of those in `tasks`:

        - `single_label`: references are label ids, int64 (n,); predictions are label ids, too, or
          probabilities, float64 (n, k), column i for label id i.
        - `multi_label`: references are 0 or 1 for each label, int64 (n, k); predictions are the
          same, or probabilities, float64 (n, k).
        - `regression`: both are numbers in the user's units, float64 (n, t), one column a target.

        Args:
            references: what is true, n rows.
            predictions: what was decided, or its probabilities, as the class's `predictions` says.
            task: the task with its label names; None outside a run.

        Returns:
            A float; NaN where the score is not defined on these references.
        """
        raise NotImplementedError(f"{type(self).__name__} implements neither compute nor make")

    def make(self, task: Task | None) -> evaluate.Metric:
        """Return an in-process `evaluate.Metric` whose result is `{self.key: value}`."""
        from bertkit.metrics.adapter import in_process

        return in_process(self, task)

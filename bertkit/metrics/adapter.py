"""From a `Metric` of bertkit to an `evaluate.Metric`, without `evaluate.load`.

`evaluate.load` downloads and runs Python, and creates folders. Here the class is made in this
process and its examples stay in memory, so nothing is fetched and nothing is written.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from bertkit.errors import PluginError

if TYPE_CHECKING:
    import evaluate
    import numpy as np

    from bertkit.metrics.base import Metric
    from bertkit.tasks import Task


def in_process(metric: Metric, task: Task | None) -> evaluate.Metric:
    """Return an `evaluate.Metric` that answers with `{metric.key: metric.compute(...)}`.

    References are label ids (n,). Predictions are label ids (n,) where `metric.predictions` is
    `labels`; where it is `scores`, probabilities (n, k), or (n,) for a single column. Lists,
    arrays and CPU tensors are accepted; `metric.compute` gets int64 and float64 arrays. A number
    that is not whole is refused as a label id, never rounded. `evaluate.combine` works; copying
    and pickling too, except between `add` and `compute`. numpy's global random state is fixed
    while `compute` runs, and put back.

    Args:
        metric: the component whose `compute` gives the score.
        task: what `compute` is told about the labels; None outside a run.

    Raises:
        ValueError: from `add`, `add_batch` or `compute`, when the inputs do not fit the above.
        PluginError: from `compute`, when the component returns what is not a number.

    Example:
        >>> from bertkit.metrics.classification import Accuracy
        >>> accuracy = in_process(Accuracy(), None)
        >>> accuracy.add_batch(references=[0, 1], predictions=[0, 1])
        >>> accuracy.add(reference=1, prediction=0)
        >>> accuracy.add(reference=0, prediction=0)
        >>> accuracy.compute()
        {'accuracy': 0.75}
    """
    return _adapter()(metric, task)


def _ids(values: Any, column: str) -> np.ndarray[Any, Any]:
    """Label ids as int64 (n,), or a ValueError: evaluate itself would cut 0.7 down to 0."""
    import numpy as np

    found = np.asarray(values)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "biuf"):
        raise ValueError(f"{column}: label ids of shape (n,) expected, found shape {found.shape}")
    ids = found.astype(np.int64) if np.isfinite(found).all() else np.zeros_like(found, np.int64)
    if (ids != found).any():
        raise ValueError(f"{column}: label ids expected, found {found[ids != found][0]}")
    return ids


def _scores(values: Any, column: str) -> np.ndarray[Any, Any]:
    """Scores as float64 (n, k); (n,) becomes one column."""
    import numpy as np

    found = np.asarray(values, dtype=np.float64)
    if found.ndim not in (1, 2):
        raise ValueError(f"{column}: scores of shape (n, k) expected, found shape {found.shape}")
    return found[:, None] if found.ndim == 1 else found


@cache
def _adapter() -> Any:
    """The class, made on first use: importing evaluate takes seconds."""
    import datasets
    import evaluate
    import numpy as np

    class InProcessMetric(evaluate.Metric):  # type: ignore[misc]
        """One bertkit metric behind evaluate's interface."""

        def __init__(self, metric: Metric, task: Task | None) -> None:
            self.metric, self.task = metric, task
            super().__init__(keep_in_memory=True, seed=0)
            self.info.module_name = metric.key  # what evaluate.combine tells metrics apart by

        def _info(self) -> evaluate.MetricInfo:
            integer, real = datasets.Value("int64"), datasets.Value("float64")
            labels = self.metric.predictions == "labels"
            return evaluate.MetricInfo(
                description=type(self.metric).__doc__ or "",
                citation="",
                features=datasets.Features(
                    {
                        "predictions": integer if labels else datasets.List(real),
                        "references": integer,
                    }
                ),
            )

        def _build_data_dir(self) -> str:
            return ""  # evaluate would create a cache folder here, in memory or not

        def __reduce__(self) -> tuple[Any, ...]:
            if len(self):
                raise TypeError(f"{self.name}: call compute() before copying or pickling")
            return in_process, (self.metric, self.task)

        def _columns(self, predictions: Any, references: Any) -> dict[str, Any]:
            column = _ids if self.metric.predictions == "labels" else _scores
            return {
                "predictions": column(predictions, "predictions"),
                "references": _ids(references, "references"),
            }

        def add_batch(
            self, *, predictions: Any = None, references: Any = None, **kwargs: Any
        ) -> None:
            """Add `predictions` and `references` of equal length."""
            super().add_batch(**self._columns(predictions, references), **kwargs)

        def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
            """Add one `prediction` and its `reference`."""
            one = {"predictions": prediction, "references": reference, **kwargs}
            columns = self._columns([one.pop("predictions")], [one.pop("references")])
            super().add(**{name: column[0] for name, column in columns.items()}, **one)

        def _compute(self, *, predictions: Any, references: Any) -> dict[str, float]:
            labels = self.metric.predictions == "labels"
            found = np.array(predictions, dtype=np.int64 if labels else np.float64)
            if found.ndim == 2 and found.shape[1] == 1:
                found = found[:, 0]
            value = self.metric.compute(np.array(references, dtype=np.int64), found, self.task)
            try:
                return {self.metric.key: float(value)}
            except (TypeError, ValueError):
                raise PluginError(
                    f"metric {self.metric.type!r}: compute returned {type(value).__name__}, "
                    "a float is expected; correct its compute method"
                ) from None

    return InProcessMetric

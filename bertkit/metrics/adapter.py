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

    Array = np.ndarray[Any, Any]


def in_process(metric: Metric, task: Task | None) -> evaluate.Metric:
    """Return an `evaluate.Metric` that answers with `{metric.key: metric.compute(...)}`.

    References and predictions have the shapes that `Metric.compute` names for the task. Without a
    task, references of two dimensions are those of several labels a text where `metric.tasks`
    names `multi_label`; else they are label ids, or what the only kind in `metric.tasks` has.
    Label scores of shape (n,) are a single column, and so are numbers of shape (n,). Lists, arrays
    and CPU tensors are accepted; `metric.compute` gets int64 and float64 arrays. A number that is
    not whole is refused as a label id, never rounded. `evaluate.combine` works; copying and
    pickling too, except between `add` and `compute`. numpy's global random state is fixed while
    `compute` runs, and put back.

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


def _array(values: Any, column: str) -> Array:
    import numpy as np

    try:
        return np.asarray(values)
    except ValueError:
        raise ValueError(f"{column}: rows of equal length expected, found others") from None


def _kind(metric: Metric, task: Task | None, dimensions: int) -> str:
    """Return the kind of task that references of so many dimensions belong to."""
    if task is not None:
        return task.kind
    likely = "multi_label" if dimensions == 2 else "single_label"
    return likely if likely in metric.tasks else metric.tasks[0]


def _checked(values: Any, column: str, kind: str, scores: bool) -> Array:
    """Return a column as `Metric.compute` gets it, or raise a ValueError."""
    import numpy as np

    found = _array(values, column)
    wanted, dimensions = {
        ("single_label", False): ("label ids of shape (n,)", (1,)),
        ("single_label", True): ("scores of shape (n, k)", (2, 1)),
        ("multi_label", False): ("0 or 1 for each label, of shape (n, k),", (2,)),
        ("multi_label", True): ("scores of shape (n, k)", (2,)),
    }.get((kind, scores), ("numbers of shape (n, t)", (2, 1)))
    if found.shape[:1] == (0,):
        found = np.zeros((0,) * dimensions[0])
    if found.ndim not in dimensions or found.dtype.kind not in "biuf":
        raise ValueError(f"{column}: {wanted} expected, found shape {found.shape}")
    if kind == "regression":
        return (found if found.ndim == 2 else found[:, None]).astype(np.float64)
    if scores:
        one_column = kind == "single_label" and found.shape[1:] == (1,)
        return (found[:, 0] if one_column else found).astype(np.float64)
    # evaluate itself would cut 0.7 down to 0
    ids = found.astype(np.int64) if np.isfinite(found).all() else np.zeros_like(found, np.int64)
    wrong = ids != found if kind == "single_label" else (found != 0) & (found != 1)
    if wrong.any():
        raise ValueError(f"{column}: {wanted} expected, found {found[wrong][0]}")
    return ids


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
            decided = real if _kind(self.metric, self.task, 1) == "regression" else integer
            labels = self.metric.predictions == "labels"
            return evaluate.MetricInfo(
                description=type(self.metric).__doc__ or "",
                citation="",
                features=datasets.Features(
                    {  # rows, whatever the shape: which one it is may only show in the data
                        "predictions": datasets.List(decided if labels else real),
                        "references": datasets.List(decided),
                    }
                ),
            )

        def _build_data_dir(self) -> str:
            return ""  # evaluate would create a cache folder here, in memory or not

        def __reduce__(self) -> tuple[Any, ...]:
            if len(self):
                raise TypeError(f"{self.name}: call compute() before copying or pickling")
            return in_process, (self.metric, self.task)

        def _columns(self, predictions: Any, references: Any) -> dict[str, Array]:
            """Return rows to keep, and remember what they are rows of."""
            truth = _array(references, "references")
            kind = _kind(self.metric, self.task, truth.ndim)
            scores = self.metric.predictions == "scores"
            columns = {
                "references": _checked(truth, "references", kind, False),
                "predictions": _checked(predictions, "predictions", kind, scores),
            }
            widths = {name: column.shape[1:] for name, column in columns.items()}
            if widths["references"] and widths["predictions"] != widths["references"]:
                raise ValueError(
                    f"predictions: rows of {widths['references'][0]} expected, as the references "
                    f"have, found rows of {widths['predictions'][0]}"
                )
            if not len(self):
                self.like = {name: column[:0] for name, column in columns.items()}
            for name, column in columns.items():
                if len(column) and column.shape[1:] != self.like[name].shape[1:]:
                    raise ValueError(
                        f"{name}: found shape {column.shape}, and rows of "
                        f"{self.like[name].shape[1:]} before"
                    )
            return {n: c if c.ndim == 2 else c[:, None] for n, c in columns.items()}

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

        def _kept(self, name: str, rows: Any) -> Array:
            like = self.like[name]
            return np.array(rows, like.dtype).reshape(len(rows), *like.shape[1:])

        def _compute(self, *, predictions: Any, references: Any) -> dict[str, float]:
            truth = self._kept("references", references)
            value = self.metric.compute(truth, self._kept("predictions", predictions), self.task)
            try:
                return {self.metric.key: float(value)}
            except (TypeError, ValueError):
                raise PluginError(
                    f"metric {self.metric.type!r}: compute returned {type(value).__name__}, "
                    "a float is expected; correct its compute method"
                ) from None

    return InProcessMetric

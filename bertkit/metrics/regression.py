"""The built-in metrics of regression.

References and predictions are numbers in the user's units, float64 (n, t), one column a target;
(n,) is one target. Every metric returns a float, the unweighted mean over the targets, NaN where it
is not defined for one of them, when there is no example, or when a number is not finite, and emits
no warning.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bertkit.metrics.base import Metric
from bertkit.reports import quiet

if TYPE_CHECKING:
    import numpy as np

    from bertkit.tasks import Task

    Array = np.ndarray[Any, Any]


class _Regression(Metric):
    """What all metrics of this file share: the undefined cases and the mean over the targets."""

    tasks: ClassVar[tuple[str, ...]] = ("regression",)

    def compute(self, references: Array, predictions: Array, task: Task | None) -> float:
        """Return the score, the mean over the targets."""
        import numpy as np

        if not len(references) or not np.isfinite([references, predictions]).all():
            return math.nan
        targets = zip(np.atleast_2d(references.T), np.atleast_2d(predictions.T), strict=True)
        with quiet():
            return float(np.mean([self._score(truth, found) for truth, found in targets]))

    def _score(self, truth: Array, found: Array) -> float:
        """Return the score of one target, from float64 (n,) and (n,)."""
        raise NotImplementedError(f"{type(self).__name__} does not implement _score")


def _varies(truth: Array) -> bool:
    return bool(truth.min() < truth.max())


class MSE(_Regression):
    """Mean squared error, in squared units, at least 0; lower is better.

    Source: scikit-learn, `mean_squared_error`.

    Example:
        >>> MSE().make(None).compute(references=[1.0, 2.0, 3.0, 4.0], predictions=[1, 2, 3, 2])
        {'mse': 1.0}
    """

    type: Literal["mse"] = "mse"
    greater_is_better = False

    def _score(self, truth: Array, found: Array) -> float:
        from sklearn.metrics import mean_squared_error

        return float(mean_squared_error(truth, found))


class MAE(_Regression):
    """Mean absolute error, in the user's units, at least 0; lower is better.

    Source: scikit-learn, `mean_absolute_error`.

    Example:
        >>> MAE().make(None).compute(references=[1.0, 2.0, 3.0, 4.0], predictions=[1, 2, 3, 2])
        {'mae': 0.5}
    """

    type: Literal["mae"] = "mae"
    greater_is_better = False

    def _score(self, truth: Array, found: Array) -> float:
        from sklearn.metrics import mean_absolute_error

        return float(mean_absolute_error(truth, found))


class Pearson(_Regression):
    """Linear correlation of predictions and references, in [-1, 1].

    NaN where all references or all predictions of a target are equal. Source: Pearson 1895, "Notes
    on regression and inheritance in the case of two parents"; scipy, `pearsonr`.

    Example:
        >>> Pearson().make(None).compute(references=[1, 2, 3], predictions=[0.5, 1.5, 0.5])
        {'pearson': 0.0}
    """

    type: Literal["pearson"] = "pearson"

    def _score(self, truth: Array, found: Array) -> float:
        from scipy.stats import pearsonr

        return float(pearsonr(truth, found).statistic) if _varies(truth) else math.nan


class Spearman(_Regression):
    """Correlation of the ranks of predictions and references, in [-1, 1]; equals share a rank.

    NaN where all references or all predictions of a target are equal. Source: Spearman 1904, "The
    proof and measurement of association between two things"; scipy, `spearmanr`.

    Example:
        >>> Spearman().make(None).compute(references=[1, 2, 3], predictions=[0.1, 10, 1000])
        {'spearman': 1.0}
    """

    type: Literal["spearman"] = "spearman"

    def _score(self, truth: Array, found: Array) -> float:
        from scipy.stats import spearmanr

        return float(spearmanr(truth, found).statistic)


class R2(_Regression):
    """Share of the variance of the references that is explained, at most 1.

    0 is as good as predicting their mean, below 0 is worse. NaN where all references of a target
    are equal. Source: scikit-learn, `r2_score`.

    Example:
        >>> R2().make(None).compute(references=[1.0, 2.0, 3.0], predictions=[2, 2, 2])
        {'r2': 0.0}
    """

    type: Literal["r2"] = "r2"

    def _score(self, truth: Array, found: Array) -> float:
        from sklearn.metrics import r2_score

        return float(r2_score(truth, found)) if _varies(truth) else math.nan

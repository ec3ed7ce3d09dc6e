"""What a table of results shows beside the metrics: counts and each label's or target's row."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bertkit.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

    Table = np.ndarray[Any, Any]

QUANTILES = (50, 90, 100)
"""Per cent of the texts whose largest error `regression_report` tells."""


@contextmanager
def quiet() -> Iterator[None]:
    """Drop remarks of libraries on odd data; what they remark on is defined by each metric."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scikit-learn's
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy's and numpy's
        yield


def classification_report(
    references: ArrayLike, predictions: ArrayLike, labels: Sequence[str]
) -> dict[str, Any]:
    """Return counts and per-label scores as plain lists, dicts, ints and floats.

    Args:
        references: true label ids, int, shape (n,); n may be 0.
        predictions: predicted label ids, int, shape (n,).
        labels: the k label names, unique; position is label id.

    Returns:
        `labels`; `confusion_matrix`, k x k counts, row = true label, column = predicted label;
        `per_class`, by label name, with `precision`, `recall` and `f1` in [0, 1], 0.0 where there
        is nothing to divide by, and `support`, the number of references. Source: scikit-learn,
        `confusion_matrix` and `precision_recall_fscore_support`.

    Raises:
        DataError: a label id that no label has.

    Example:
        >>> report = classification_report([0, 0, 1], [0, 1, 1], ["bad", "good"])
        >>> report["confusion_matrix"]
        [[1, 1], [0, 1]]
        >>> report["per_class"]["good"]
        {'precision': 0.5, 'recall': 1.0, 'f1': 0.6666666666666666, 'support': 1}
    """
    import numpy as np
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    truth, guess = np.asarray(references, dtype=np.int64), np.asarray(predictions, dtype=np.int64)
    for name, ids in (("references", truth), ("predictions", guess)):
        if ids.size and not 0 <= ids.min() <= ids.max() < len(labels):
            raise DataError(
                f"{name}: found label ids from {ids.min()} to {ids.max()}, expected 0 to "
                f"{len(labels) - 1} ({', '.join(labels)})"
            )
    known = np.arange(len(labels))
    nothing = np.zeros(len(labels), dtype=np.int64)
    matrix, rows = np.diag(nothing), (nothing / 1, nothing / 1, nothing / 1, nothing)
    if truth.size or guess.size:  # scikit-learn refuses to count no examples
        with quiet():
            matrix = confusion_matrix(truth, guess, labels=known)
            rows = precision_recall_fscore_support(truth, guess, labels=known, zero_division=0)
    columns = zip(labels, *(column.tolist() for column in rows), strict=True)
    return {
        "confusion_matrix": matrix.tolist(),
        "labels": list(labels),
        "per_class": {
            label: {"precision": precision, "recall": recall, "f1": f1, "support": support}
            for label, precision, recall, f1, support in columns
        },
    }


def multi_label_report(
    truth: ArrayLike, decided: ArrayLike, labels: Sequence[str], thresholds: Sequence[float]
) -> dict[str, Any]:
    """Return counts and per-label scores as plain lists, dicts, ints and floats.

    Args:
        truth: 1 where a text has a label, else 0, shape (n, k); n may be 0.
        decided: 1 where it was given the label, else 0, shape (n, k).
        labels: the k label names, unique; position is column.
        thresholds: the probability from which on each label was given, k of them.

    Returns:
        `labels`; `confusion`, by label name, the counts `[[tn, fp], [fn, tp]]`: row = true, column
        = given, first without and then with the label; `per_class`, by label name, with
        `precision`, `recall` and `f1` in [0, 1], 0.0 where there is nothing to divide by,
        `support`, the number of texts that have the label, and `threshold`;
        `texts_without_label`, how many have none (`true`) and were given none (`predicted`).

    Raises:
        DataError: the wrong shape, or a value that is neither 0 nor 1.

    Example:
        >>> report = multi_label_report([[1, 0], [1, 1]], [[1, 0], [0, 0]], ["a", "b"], [0.5, 0.4])
        >>> report["confusion"]
        {'a': [[0, 0], [1, 1]], 'b': [[1, 0], [1, 0]]}
        >>> report["per_class"]["a"]
        {'precision': 1.0, 'recall': 0.5, 'f1': 0.6666666666666666, 'support': 2, 'threshold': 0.5}
        >>> report["texts_without_label"]
        {'true': 0, 'predicted': 1}
    """
    tables = _tables(truth, decided, labels)
    for name, table in tables.items():
        if ((table != 0) & (table != 1)).any():
            raise DataError(f"{name}: found values other than 0 and 1; give 0 or 1 for each label")
    has, given = (table == 1 for table in tables.values())
    confusion, per_class = {}, {}
    for label, threshold, true, found in zip(labels, thresholds, has.T, given.T, strict=True):
        tp, fp = int((true & found).sum()), int((found & ~true).sum())
        fn, tn = int((true & ~found).sum()), int((~true & ~found).sum())
        confusion[label] = [[tn, fp], [fn, tp]]
        per_class[label] = {
            "precision": tp / max(tp + fp, 1),
            "recall": tp / max(tp + fn, 1),
            "f1": 2 * tp / max(2 * tp + fp + fn, 1),
            "support": tp + fn,
            "threshold": float(threshold),
        }
    without = {"true": has, "predicted": given}
    return {
        "confusion": confusion,
        "labels": list(labels),
        "per_class": per_class,
        "texts_without_label": {
            name: int((~table.any(axis=1)).sum()) for name, table in without.items()
        },
    }


def regression_report(
    truth: ArrayLike, decided: ArrayLike, labels: Sequence[str]
) -> dict[str, Any]:
    """Return errors and distributions of each target as plain lists, dicts and floats.

    Args:
        truth: true numbers in the user's units, shape (n, t); n may be 0.
        decided: predicted numbers, shape (n, t).
        labels: the t names of the targets, unique; position is column.

    Returns:
        `labels`; `per_target`, by name, with `mae` and `mse`, the mean absolute and squared error;
        `error_quantiles`, the absolute error that 50, 90 and 100 % of the texts do not exceed
        (between two texts interpolated); and `true` and `predicted`, each with `mean` and
        `deviation`, the standard deviation over the n texts. Without texts all are NaN.

    Raises:
        DataError: the wrong shape.

    Example:
        >>> report = regression_report([[1.0], [3.0], [5.0]], [[2.0], [3.0], [3.0]], ["stars"])
        >>> report["per_target"]["stars"]["mae"]
        1.0
        >>> report["per_target"]["stars"]["error_quantiles"]
        {'50%': 1.0, '90%': 1.8, '100%': 2.0}
    """
    import numpy as np

    tables = _tables(truth, decided, labels)
    if not len(tables["truth"]):  # what is computed from nothing is NaN
        tables = dict.fromkeys(tables, np.full((1, len(labels)), np.nan))
    per_target = {}
    for label, true, found in zip(labels, *(table.T for table in tables.values()), strict=True):
        error = abs(found - true)
        per_target[label] = {
            "mae": float(error.mean()),
            "mse": float((error**2).mean()),
            "error_quantiles": {f"{q}%": float(np.quantile(error, q / 100)) for q in QUANTILES},
            "true": {"mean": float(true.mean()), "deviation": float(true.std())},
            "predicted": {"mean": float(found.mean()), "deviation": float(found.std())},
        }
    return {"labels": list(labels), "per_target": per_target}


def _tables(truth: ArrayLike, decided: ArrayLike, labels: Sequence[str]) -> dict[str, Table]:
    """Return both as float64 (n, number of labels)."""
    import numpy as np

    tables = {}
    for name, values in {"truth": truth, "decided": decided}.items():
        table = np.asarray(values, dtype=np.float64)
        tables[name] = table if table.size else table.reshape(0, len(labels))
        if tables[name].ndim != 2 or tables[name].shape[1] != len(labels):
            raise DataError(
                f"{name}: found shape {table.shape}, expected one column for each of the "
                f"{len(labels)} names ({', '.join(labels)})"
            )
    if len(tables["truth"]) != len(tables["decided"]):
        raise DataError(
            f"truth and decided: found {len(tables['truth'])} and {len(tables['decided'])} rows, "
            "expected as many"
        )
    return tables

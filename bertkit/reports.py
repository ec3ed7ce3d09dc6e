"""What a table of results shows beside the metrics: the confusion matrix and each label's row."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bertkit.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@contextmanager
def quiet() -> Iterator[None]:
    """Drop scikit-learn's remarks on odd data; what they remark on is defined by each metric."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
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

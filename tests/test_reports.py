"""The report of a split: counts and per-label scores, in plain JSON types."""

import doctest
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertkit import reports as report
from bertkit.errors import DataError
from bertkit.reports import classification_report

LABELS = ["bad", "fair", "good"]


def test_the_examples_in_the_docstrings_run():
    result = doctest.testmod(report)
    assert result.failed == 0
    assert result.attempted


def test_rows_are_true_labels_and_columns_are_predicted_ones():
    found = classification_report([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2], LABELS)
    assert found["labels"] == LABELS
    assert found["confusion_matrix"] == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]


def test_each_label_has_its_scores_and_its_support():
    found = classification_report([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2], LABELS)["per_class"]
    assert list(found) == LABELS
    assert found["bad"] == pytest.approx(
        {"precision": 1, "recall": 2 / 3, "f1": 4 / 5, "support": 3}
    )
    assert found["fair"] == pytest.approx(
        {"precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "support": 2}
    )
    assert found["good"] == pytest.approx(
        {"precision": 1 / 2, "recall": 1, "f1": 2 / 3, "support": 1}
    )


def test_a_label_without_support_is_zero_and_present():
    found = classification_report([0, 1], [0, 1], LABELS)
    assert found["confusion_matrix"] == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert found["per_class"]["good"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}


def test_a_label_that_is_only_predicted_shows_in_its_column():
    found = classification_report([0, 0], [0, 2], LABELS)
    assert found["confusion_matrix"] == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert found["per_class"]["bad"]["recall"] == 0.5


def test_no_examples_give_an_empty_table():
    found = classification_report([], [], ["no", "yes"])
    assert found["confusion_matrix"] == [[0, 0], [0, 0]]
    assert found["per_class"]["yes"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}


@pytest.mark.parametrize("bad", [3, -1])
@pytest.mark.parametrize("column", ["references", "predictions"])
def test_an_id_that_no_label_has_is_refused_not_dropped(column, bad):
    columns = {"references": [0, 1], "predictions": [0, 1]} | {column: [1, bad]}
    with pytest.raises(DataError, match=rf"{column}: .* expected 0 to 2 \(bad, fair, good\)"):
        classification_report(**columns, labels=LABELS)


@given(
    pairs=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=15),
    data=st.data(),
)
@settings(max_examples=50, deadline=None)
def test_every_example_is_counted_once_in_any_order_and_survives_json(pairs, data):
    truth, guess = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    found = classification_report(truth, guess, LABELS)
    matrix = found["confusion_matrix"]
    assert [[pairs.count((i, j)) for j in range(3)] for i in range(3)] == matrix
    assert [row["support"] for row in found["per_class"].values()] == [sum(row) for row in matrix]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    order = data.draw(st.permutations(range(len(pairs))))
    shuffled = [pairs[i] for i in order]
    assert (
        classification_report([p[0] for p in shuffled], [p[1] for p in shuffled], LABELS) == found
    )

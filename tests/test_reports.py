"""The report of a split: counts and scores of each label or target, in plain JSON types."""

import doctest
import json

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from bertkit import reports as report
from bertkit.errors import DataError
from bertkit.reports import classification_report, multi_label_report, regression_report

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


# --- several labels a text ------------------------------------------------------------------

HAS = [[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0], [1, 0, 0]]
GIVEN = [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]]
LIMITS = [0.5, 0.25, 0.9]


def test_the_confusion_of_a_label_has_without_before_with_and_true_in_rows():
    found = multi_label_report(HAS, GIVEN, LABELS, LIMITS)
    assert found["labels"] == LABELS
    assert found["confusion"] == {
        "bad": [[2, 0], [1, 2]],
        "fair": [[2, 1], [2, 0]],
        "good": [[5, 0], [0, 0]],
    }


def test_each_of_several_labels_has_its_scores_its_support_and_its_threshold():
    found = multi_label_report(HAS, GIVEN, LABELS, LIMITS)["per_class"]
    assert list(found) == LABELS
    assert found["bad"] == pytest.approx(
        {"precision": 1, "recall": 2 / 3, "f1": 4 / 5, "support": 3, "threshold": 0.5}
    )
    nothing = {"precision": 0, "recall": 0, "f1": 0}
    assert found["fair"] == {**nothing, "support": 2, "threshold": 0.25}
    assert found["good"] == {**nothing, "support": 0, "threshold": 0.9}


def test_texts_without_a_label_are_counted_as_true_and_as_predicted():
    found = multi_label_report(HAS, GIVEN, LABELS, LIMITS)["texts_without_label"]
    assert found == {"true": 1, "predicted": 2}


@pytest.mark.parametrize("nothing", [[], np.zeros((0, 3), np.int64)])
def test_no_examples_give_an_empty_table_of_several_labels(nothing):
    found = multi_label_report(nothing, nothing, LABELS, LIMITS)
    assert found["confusion"]["good"] == [[0, 0], [0, 0]]
    assert found["per_class"]["good"]["support"] == 0
    assert found["texts_without_label"] == {"true": 0, "predicted": 0}


@given(
    rows=st.lists(st.tuples(*[st.booleans()] * 4), max_size=12),
)
@settings(max_examples=50, deadline=None)
def test_every_label_counts_every_example_as_scikit_learn_does_and_survives_json(rows):
    table = np.array(rows, np.int64).reshape(len(rows), 4)
    truth, guess = table[:, :2], table[:, 2:]
    found = multi_label_report(truth, guess, ["a", "b"], [0.5, 0.5])
    assert [sum(map(sum, counts)) for counts in found["confusion"].values()] == [len(rows)] * 2
    if rows:
        counts = sklearn.metrics.multilabel_confusion_matrix(truth, guess)
        assert list(found["confusion"].values()) == counts.tolist()
        scores = sklearn.metrics.precision_recall_fscore_support(truth, guess, zero_division=0)
        for row, *expected in zip(found["per_class"].values(), *scores, strict=True):
            assert list(row.values())[:4] == pytest.approx(expected)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


# --- regression -----------------------------------------------------------------------------

STARS = [[1.0, 10], [2.0, 20], [3.0, 30], [6.0, 60]]
SAID = [[2.0, 10], [2.0, 20], [5.0, 30], [3.0, 60]]


def test_each_target_has_its_errors_and_both_distributions():
    found = regression_report(STARS, SAID, ["stars", "price"])
    assert found["labels"] == list(found["per_target"]) == ["stars", "price"]
    stars, price = found["per_target"].values()
    assert stars["mae"] == pytest.approx((1 + 0 + 2 + 3) / 4)
    assert stars["mse"] == pytest.approx((1 + 0 + 4 + 9) / 4)
    assert stars["error_quantiles"] == pytest.approx({"50%": 1.5, "90%": 2.7, "100%": 3})
    assert stars["true"] == pytest.approx({"mean": 3, "deviation": (14 / 4) ** 0.5})
    assert stars["predicted"] == pytest.approx({"mean": 3, "deviation": (6 / 4) ** 0.5})
    assert (price["mae"], price["mse"], price["error_quantiles"]["100%"]) == (0, 0, 0)


def test_errors_are_counted_in_both_directions():
    found = regression_report([[0.0], [0.0]], [[-1.0], [1.0]], ["x"])["per_target"]["x"]
    assert (found["mae"], found["error_quantiles"]["50%"]) == (1, 1)


@pytest.mark.parametrize("nothing", [[], np.zeros((0, 2))])
def test_no_examples_give_numbers_that_are_none(nothing):
    found = regression_report(nothing, nothing, ["stars", "price"])["per_target"]["price"]
    shape = regression_report(STARS, SAID, ["stars", "price"])["per_target"]["price"]
    assert found.keys() == shape.keys()
    assert all(np.isnan(value) for value in flat(found))


def flat(value):
    return [x for v in value.values() for x in flat(v)] if isinstance(value, dict) else [value]


def test_what_a_regression_reports_is_plain_and_survives_json():
    found = regression_report(np.array(STARS, np.float32), np.array(SAID), ["stars", "price"])
    assert {type(value) for value in flat(found["per_target"])} == {float}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(
    ("truth", "decided", "message"),
    [
        ([[1]], [[1, 0]], r"truth: found shape \(1, 1\), expected one column .* 2 names \(a, b\)"),
        ([[1, 0]], [1, 0], r"decided: found shape \(2,\), expected one column for each"),
        ([[1, 0]], [[1, 0]] * 2, "found 1 and 2 rows"),
        ([], [[1, 0]], "found 0 and 1 rows"),
    ],
)
def test_tables_of_the_wrong_shape_are_refused(truth, decided, message):
    with pytest.raises(DataError, match=message):
        multi_label_report(truth, decided, ["a", "b"], [0.5, 0.5])
    with pytest.raises(DataError, match=message):
        regression_report(truth, decided, ["a", "b"])


@pytest.mark.parametrize("bad", [2, -1, 0.5])
@pytest.mark.parametrize("column", ["truth", "decided"])
def test_a_probability_is_no_decision(column, bad):
    columns = {"truth": [[0, 1]], "decided": [[0, 1]]} | {column: [[bad, 1]]}
    with pytest.raises(DataError, match=f"{column}: found values other than 0 and 1"):
        multi_label_report(**columns, labels=["a", "b"], thresholds=[0.5, 0.5])

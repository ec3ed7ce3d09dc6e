"""What task the label columns of a table mean, how they are read, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from bertkit.compute import quiet_libraries
from bertkit.datasets.labels import MANY_CLASSES
from bertkit.datasets.memory import Memory
from bertkit.datasets.splits import fingerprint, labelled_rows, load_splits
from bertkit.errors import BertkitError, DataError, SpecError
from bertkit.records import Context, Splits
from bertkit.spec import RunSpec
from bertkit.tasks import MultiLabel, Regression, SingleLabel, Task

ROW_1 = "(row 1 is the first text, after any header line)"


class Voice:
    """A context's `say` and `warn`, kept."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def context(self) -> Context:
        return Context(say=self.said.append, warn=self.warned.append)


def read(
    data: Any, *, task: Any = None, voice: Voice | None = None, validation: Any = 0, **options: Any
) -> Splits:
    """Load a table, or several, whose texts need not be given."""
    splits = data if isinstance(data, dict) and "train" in data else {"train": data}
    data = DatasetDict({name: table(one) for name, one in splits.items()})
    raw = {"type": "memory", "data": data, "validation": validation, **options}
    spec = RunSpec.parse({"encoder": "x", "dataset": raw, "task": task})
    return load_splits(spec.dataset, (voice or Voice()).context(), spec.task)


def table(columns: dict[str, Any] | Dataset) -> Dataset:
    if isinstance(columns, Dataset):
        return columns
    count = len(next(iter(columns.values())))
    return Dataset.from_dict({"text": [f"text {i}" for i in range(count)], **columns})


def refusal(kind: type[BertkitError], data: Any, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        read(data, **options)
    assert type(caught.value) is kind
    return str(caught.value)


def classes(names: list[str], values: list[Any], *, listed: bool = False) -> Dataset:
    """A table with a ClassLabel column, or one of lists of them."""
    one = ClassLabel(names=names)
    features = Features(text=Value("string"), label=List(one) if listed else one)
    texts = [f"text {i}" for i in range(len(values))]
    return Dataset.from_dict({"text": texts, "label": values}, features=features)


# What the columns mean

ONE = "column `label` holds one class a text"
LISTS = "column `label` holds lists of labels"
FRACTION = "column `label` holds numbers with a fraction"
Inferred = tuple[Any, dict[str, Any], Task, list[Any], str]
INFERRED: dict[str, Inferred] = {
    # one label a text
    "words": (
        {"label": ["good", "bad", "good"]}, {}, SingleLabel(("bad", "good")), [1, 0, 1], ONE),
    "whole numbers": ({"label": [10, 9, 10]}, {}, SingleLabel(("9", "10")), [1, 0, 1], ONE),
    "floats that are whole": ({"label": [1.0, 0.0]}, {}, SingleLabel(("0", "1")), [1, 0], ONE),
    "whole numbers of a csv file": (
        {"label": ["3", "1", "2"]}, {}, SingleLabel(("1", "2", "3")), [2, 0, 1], ONE),
    "whole numbers that a spreadsheet wrote with a point": (
        {"label": ["2.0", "1.0", "2"]}, {}, SingleLabel(("1", "2")), [1, 0, 1], ONE),
    "codes with leading zeros": (
        {"label": ["01", "1.5", "10"]}, {}, SingleLabel(("01", "1.5", "10")), [0, 1, 2], ONE),
    "versions": ({"label": ["2.0.1", "1.2.3"]}, {}, SingleLabel(("1.2.3", "2.0.1")), [1, 0], ONE),
    "words beside whole numbers": (
        {"label": ["1", "n/a", "2.0"]}, {}, SingleLabel(("1", "2.0", "n/a")), [0, 2, 1], ONE),
    "true and false": (
        {"label": [True, False]}, {}, SingleLabel(("False", "True")), [1, 0], ONE),
    "a class column": (
        classes(["sad", "glad"], [1, 0, 1]), {}, SingleLabel(("sad", "glad")), [1, 0, 1],
        "column `label` holds classes"),
    "a list with one column": (
        {"stars": ["a", "b"]}, {"label": ["stars"]}, SingleLabel(("a", "b")), [0, 1],
        "column `stars` holds one class a text"),
    # any number of labels a text
    "lists of names": (
        {"label": [["b", "a"], [], ["b"]]}, {}, MultiLabel(("a", "b")), [[0, 1], [], [1]], LISTS),
    "lists with a name twice": (
        {"label": [["b", "b"], ["a"]]}, {}, MultiLabel(("a", "b")), [[1], [0]], LISTS),
    "lists that are missing": (
        {"label": [["a"], None]}, {}, MultiLabel(("a",)), [[0], []], LISTS),
    "lists of ids": (
        {"label": [[2, 10], [2], []]}, {}, MultiLabel(("2", "10")), [[0, 1], [0], []], LISTS),
    "lists of the ids 0 and 1": (
        {"label": [[0, 1], [1], []]}, {}, MultiLabel(("0", "1")), [[0, 1], [1], []], LISTS),
    "lists of one id": (
        {"label": [[0], [1]]}, {}, MultiLabel(("0", "1")), [[0], [1]], LISTS),
    "lists of classes": (
        classes(["x", "y", "z"], [[2, 0], [], [2]], listed=True), {},
        MultiLabel(("x", "y", "z")), [[0, 2], [], [2]], LISTS),
    "a 0 or 1 for each label": (
        {"label": [[0, 0, 1], [1, 0, 1]]}, {}, MultiLabel(("0", "1", "2")), [[2], [0, 2]], LISTS),
    "a 0 or 1 for each label, in floats": (
        {"label": [[0.0, 0.0, 0.0], [1.0, 0.0, 1.0]]}, {},
        MultiLabel(("0", "1", "2")), [[], [0, 2]], LISTS),
    "a 0 or 1 for each of two labels, of which every text has one": (
        {"label": [[0, 1], [1, 0]]}, {}, MultiLabel(("0", "1")), [[1], [0]], LISTS),
    "a true or false for each label": (
        {"label": [[True, True], [False, True]]}, {}, MultiLabel(("0", "1")), [[0, 1], [1]], LISTS),
    "joined names": (
        {"label": ["b|a", "b", "a | c"]}, {"separator": "|"},
        MultiLabel(("a", "b", "c")), [[0, 1], [1], [0, 2]],
        "dataset.separator splits column `label`"),
    "joined names with blanks, doubles and empty cells": (
        {"label": ["b||a|", " ", None, "a|a", "|"]}, {"separator": "|"},
        MultiLabel(("a", "b")), [[0, 1], [], [], [0], []],
        "dataset.separator splits column `label`"),
    "names joined by more than one character": (
        {"label": ["a and b", "b"]}, {"separator": " and "}, MultiLabel(("a", "b")), [[0, 1], [1]],
        "dataset.separator splits column `label`"),
    "a number where others are joined": (
        {"label": [0, 1, 0]}, {"separator": "|"}, MultiLabel(("0", "1")), [[0], [1], [0]],
        "dataset.separator splits column `label`"),
    "a column for each label": (
        {"b": [1, 0, 0], "a": [1, 1, 0]}, {"label": ["b", "a"]},
        MultiLabel(("b", "a")), [[0, 1], [1], []], "columns `b`, `a` hold 0 and 1"),
    "columns of a csv file, of truth values and of floats": (
        {"a": ["1", " 0"], "b": ["TRUE", "false"], "c": [False, True], "d": [0.0, 1.0]},
        {"label": ["a", "b", "c", "d"]},
        MultiLabel(("a", "b", "c", "d")), [[0, 1], [2, 3]],
        "columns `a`, `b`, `c`, `d` hold 0 and 1"),
    # numbers
    "numbers with a fraction": (
        {"label": [0.5, 2.0, -1.0]}, {}, Regression(("label",)), [[0.5], [2], [-1]], FRACTION),
    "numbers with a fraction in a csv file": (
        {"score": ["1", "2.5", "1e-3"]}, {"label": "score"}, Regression(("score",)),
        [[1], [2.5], [0.001]], "column `score` holds numbers with a fraction"),
    "numbers too small to be written with a point": (
        {"label": [1e-5, 3e-7]}, {}, Regression(("label",)), [[1e-5], [3e-7]], FRACTION),
    "lists of floats": (
        {"label": [[0.5, 2.0], [1.0, 1.0]]}, {}, Regression(("label_0", "label_1")),
        [[0.5, 2], [1, 1]], "column `label` holds lists of decimal numbers"),
    "lists of one float": (
        {"label": [[0.0], [1.0]]}, {}, Regression(("label",)), [[0], [1]],
        "column `label` holds lists of decimal numbers"),
    "several columns of numbers": (
        {"x": [1, 2], "y": ["0.5", "3"]}, {"label": ["y", "x"]}, Regression(("y", "x")),
        [[0.5, 1], [3, 2]], "columns `y`, `x` hold numbers"),
}  # fmt: skip


def same(found: Task, wanted: Task) -> bool:
    return (type(found), found.labels) == (type(wanted), wanted.labels)


@pytest.mark.field("dataset.label")
@pytest.mark.field("dataset.separator")
@pytest.mark.parametrize("case", INFERRED)
def test_the_columns_decide_on_the_task_and_the_log_says_why(case: str) -> None:
    data, options, task, labels, why = INFERRED[case]
    voice = Voice()
    splits = read(data, voice=voice, **{"labels": None, **options})
    assert same(splits.task, task)
    assert splits.train["label"][:] == labels
    assert voice.said[0] == f"task: {task.kind} (inferred: {why}; `task` may say otherwise)"


@pytest.mark.parametrize("case", INFERRED)
def test_the_same_task_said_changes_nothing_but_the_log(case: str) -> None:
    data, options, task, labels, _ = INFERRED[case]
    voice = Voice()
    splits = read(data, voice=voice, task=task.kind, **options)
    assert same(splits.task, task)
    assert splits.train["label"][:] == labels
    assert voice.said[0] == f"task: {task.kind}"


def test_a_regression_learns_numbers_of_mean_0_and_deviation_1_and_tells_the_users_own() -> None:
    train = {"x": [10.0, 20.0, 30.5], "y": [1, 1, 4]}
    splits = read({"train": train, "test": {"x": [0.5], "y": [2]}}, label=["x", "y"])
    targets = splits.task.targets(splits.train["label"][:])
    assert targets.mean(axis=0) == pytest.approx([0, 0], abs=1e-6)
    assert targets.std(axis=0) == pytest.approx([1, 1])
    assert splits.test is not None
    test = splits.task.targets(splits.test["label"][:])
    assert splits.task.truth(test) == pytest.approx(np.array([[0.5, 2]]), abs=1e-5)
    assert splits.task.settings()["center"] == pytest.approx([60.5 / 3, 2])


# What `task` may say otherwise

OVERRIDDEN: dict[str, tuple[Any, dict[str, Any], str, Task, list[Any]]] = {
    "numbers with a fraction as classes": (
        {"label": [2.5, 10.0, 9.0]}, {}, "single_label",
        SingleLabel(("2.5", "9", "10")), [0, 2, 1]),
    "numbers with a fraction among words as classes": (
        {"label": ["1.5", "best"]}, {}, "single_label", SingleLabel(("1.5", "best")), [0, 1]),
    "whole numbers as quantities": (
        {"label": [5, 1, 3]}, {}, "regression", Regression(("label",)), [[5], [1], [3]]),
    "whole numbers of a csv file as quantities": (
        {"label": ["5", "01", "1e1"]}, {}, "regression", Regression(("label",)), [[5], [1], [10]]),
    "columns of 0 and 1 as quantities": (
        {"a": [0, 1], "b": [1, 0]}, {"label": ["a", "b"]}, "regression",
        Regression(("a", "b")), [[0, 1], [1, 0]]),
    "lists of 0 and 1 as quantities": (
        {"label": [[0, 1], [1, 0]]}, {}, "regression",
        Regression(("label_0", "label_1")), [[0, 1], [1, 0]]),
}  # fmt: skip


@pytest.mark.field("task")
@pytest.mark.field("task.type")
@pytest.mark.parametrize("case", OVERRIDDEN)
def test_the_task_may_be_another_where_the_values_can_be_read_so(case: str) -> None:
    data, options, said, task, labels = OVERRIDDEN[case]
    if "words" not in case:  # which are refused where nothing is said
        assert not same(read(data, **options).task, task)
    for form in (said, {"type": said}):
        splits = read(data, task=form, **options)
        assert same(splits.task, task)
        assert splits.train["label"][:] == labels


CANNOT_BE: dict[str, tuple[Any, dict[str, Any], str, str]] = {
    "several labels of one class a text": (
        {"label": ["a", "b"]}, {}, "multi_label",
        "column `label` holds one class a text, which means single_label; expected a column of "
        "lists, a column of 0 and 1 for each label, or dataset.separator"),
    "several labels of numbers": (
        {"label": [0.5, 1.0]}, {}, "multi_label",
        "column `label` holds numbers with a fraction, which means regression; expected a column "
        "of lists, a column of 0 and 1 for each label, or dataset.separator"),
    "several labels of lists of numbers": (
        {"label": [[0.5], [1.0]]}, {}, "multi_label",
        "column `label` holds lists of decimal numbers, which means regression; expected a column "
        "of lists, a column of 0 and 1 for each label, or dataset.separator"),
    "one label of lists": (
        {"label": [["a"], ["b"]]}, {}, "single_label",
        "column `label` holds lists of labels, which means multi_label; expected one column with "
        "one value a text"),
    "one label of lists of numbers": (
        {"label": [[0.5], [1.0]]}, {}, "single_label",
        "column `label` holds lists of decimal numbers, which means regression; expected one "
        "column with one value a text"),
    "one label of joined strings": (
        {"label": ["a|b", "b"]}, {"separator": "|"}, "single_label",
        "dataset.separator splits column `label`, which means multi_label; expected one column "
        "with one value a text"),
    "one label of several columns": (
        {"a": [0, 1], "b": [1, 1]}, {"label": ["a", "b"]}, "single_label",
        "columns `a`, `b` hold 0 and 1, which means multi_label; expected one column with one "
        "value a text"),
    "numbers of joined strings": (
        {"label": ["1|2", "3"]}, {"separator": "|"}, "regression",
        "dataset.separator splits column `label`, which means multi_label; expected numbers"),
    "numbers of classes": (
        classes(["x", "y"], [0, 1]), {}, "regression",
        "column `label` holds classes, which means single_label; expected numbers"),
    "numbers of lists of classes": (
        classes(["x", "y"], [[0], [1]], listed=True), {}, "regression",
        "column `label` holds lists of labels, which means multi_label; expected numbers"),
}  # fmt: skip


@pytest.mark.field("task")
@pytest.mark.parametrize("case", CANNOT_BE)
def test_a_task_that_the_columns_cannot_mean_is_refused(case: str) -> None:
    data, options, said, reason = CANNOT_BE[case]
    assert refusal(SpecError, data, task=said, **options) == f"task: {said}, but {reason}"


# `labels` give names and order

NAMED: dict[str, tuple[Any, dict[str, Any], Any, tuple[str, ...], list[Any]]] = {
    "an order, of single labels": (
        {"label": ["x", "y"]}, {}, ["y", "x"], ("y", "x"), [1, 0]),
    "names, of ids": ({"label": [0, 1]}, {}, ["no", "yes"], ("no", "yes"), [0, 1]),
    "names by value": ({"label": [1, 2, 3]}, {}, {1: "bad", 2: "good", 3: "good"},
                       ("bad", "good"), [0, 1, 1]),
    "an order, of lists": (
        {"label": [["x", "y"], ["y"]]}, {}, ["y", "x"], ("y", "x"), [[0, 1], [0]]),
    "names, of lists of ids": (
        {"label": [[0, 2], [2]]}, {}, ["a", "b", "c"], ("a", "b", "c"), [[0, 2], [2]]),
    "names by value, of lists, two of them the same": (
        {"label": [["x", "y"], ["z"]]}, {}, {"x": "A", "y": "A", "z": "B"}, ("A", "B"), [[0], [1]]),
    "names, of lists of classes": (
        classes(["x", "y"], [[1], [0, 1]], listed=True), {}, ["X", "Y"], ("X", "Y"), [[1], [0, 1]]),
    "names, of a 0 or 1 for each": (
        {"label": [[0, 1, 1], [1, 0, 1]]}, {}, ["a", "b", "c"], ("a", "b", "c"), [[1, 2], [0, 2]]),
    "names by place, of a 0 or 1 for each": (
        {"label": [[0, 1], [1, 1]]}, {}, {1: "b", 0: "a"}, ("b", "a"), [[0], [0, 1]]),
    "an order, of joined strings": (
        {"label": ["x|y", "y"]}, {"separator": "|"}, ["y", "x"], ("y", "x"), [[0, 1], [0]]),
    "names, of joined ids": (
        {"label": ["0|1", "1"]}, {"separator": "|"}, ["a", "b"], ("a", "b"), [[0, 1], [1]]),
    "names, of columns": (
        {"a": [0, 1], "b": [1, 1]}, {"label": ["a", "b"]}, ["A", "B"], ("A", "B"), [[1], [0, 1]]),
    "names by column": (
        {"a": [0, 1], "b": [1, 1]}, {"label": ["a", "b"]}, {"b": "B", "a": "A"},
        ("A", "B"), [[1], [0, 1]]),
    "names, of targets": (
        {"label": [[0.5, 1.0], [2.0, 2.0]]}, {}, ["valence", "arousal"], ("valence", "arousal"),
        [[0.5, 1.0], [2.0, 2.0]]),
    "a name, of the target": ({"label": [0.5, 1.0]}, {}, ["stars"], ("stars",), [[0.5], [1.0]]),
}  # fmt: skip


@pytest.mark.field("dataset.labels")
@pytest.mark.parametrize("case", NAMED)
def test_labels_give_names_and_order(case: str) -> None:
    data, options, labels, names, column = NAMED[case]
    splits = read(data, labels=labels, **options)
    assert splits.task.labels == names
    assert splits.train["label"][:] == column
    assert tuple(dict.fromkeys(splits.label_values.values())) == names


MISNAMED: dict[str, tuple[type[BertkitError], Any, dict[str, Any], Any, str]] = {
    "a label in a list that labels does not name": (
        DataError, {"label": [["good", "goof"], ["goof"], ["bad"]]}, {}, ["good", "bad"],
        f"train: 2 texts have 1 labels that are not among those dataset.labels names: 'goof' in "
        f"row 1 {ROW_1}. Did you mean `good`? Known: good, bad. Correct those rows or take them "
        "out"),
    "too few names for a 0 or 1 each": (
        SpecError, {"label": [[0, 1, 1], [1, 0, 1]]}, {}, ["a", "b"],
        "dataset.labels: 2 names, and the lists in column `label` hold 0 or 1 for 3 labels; give "
        "one name for each"),
    "too few names for the columns": (
        SpecError, {"a": [0, 1], "b": [1, 1]}, {"label": ["a", "b"]}, ["A"],
        "dataset.labels: 1 names do not fit the 2 columns of dataset.label (a, b); give one name "
        "for each"),
    "names of other columns": (
        SpecError, {"a": [0, 1], "b": [1, 1]}, {"label": ["a", "b"]}, {"a": "A", "c": "C"},
        "dataset.labels: 2 names do not fit the 2 columns of dataset.label (a, b); give one name "
        "for each"),
    "too many names for the targets": (
        SpecError, {"label": [0.5, 1.0]}, {}, ["a", "b"],
        "dataset.labels: 2 names, and the targets of the regression are: label; give a list with "
        "one name for each, or none"),
    "values of a target": (
        SpecError, {"label": [0.5, 1.0]}, {}, {"0.5": "low"},
        "dataset.labels: a mapping, and the targets of the regression are: label; give a list with "
        "one name for each, or none"),
}  # fmt: skip


@pytest.mark.field("dataset.labels")
@pytest.mark.parametrize("case", MISNAMED)
def test_labels_that_do_not_fit_are_refused(case: str) -> None:
    kind, data, options, labels, message = MISNAMED[case]
    assert refusal(kind, data, labels=labels, **options) == message


# What is refused

MIXED = "correct it, or write `task: single_label` if each of them is a class"
FILL = "remove those rows or fill the column `label`"
NO_NUMBER = (
    "; a regression learns numbers. Correct those rows, or write `task: single_label` if the "
    "labels are classes"
)
NO_NUMBERS = "; a regression learns numbers. Correct those rows"
REFUSED: dict[str, tuple[type[BertkitError], Any, dict[str, Any], str]] = {
    # cells
    "numbers and words": (
        DataError, {"label": ["1.5", "2", "good", None]}, {},
        f"train: column `label` mixes numbers, such as 1.5, and words, such as 'good' in row 3 "
        f"{ROW_1}; {MIXED}"),
    "an infinite number": (
        DataError, {"label": [1.0, 0.0, float("inf")]}, {},
        f"train: 1 of 3 labels in column `label` are no finite numbers: inf in row 3 {ROW_1}"
        f"{NO_NUMBER}"),
    "an infinite number in a list": (
        DataError, {"label": [[1.5, 0.0], [0.5, float("-inf")]]}, {},
        f"train: 1 of 2 labels in column `label` are no finite numbers: -inf in row 2 {ROW_1}"
        f"{NO_NUMBERS}"),
    "a target that is NaN": (
        DataError, {"label": [1.5, float("nan"), 2.5]}, {},
        f"train: 1 of 3 labels are missing, in row 2 {ROW_1}; {FILL}"),
    "targets that are missing": (
        DataError, {"label": ["1.5", "", None, "nan"]}, {},
        f"train: 3 of 4 labels are missing, in rows 2, 3, 4 {ROW_1}; {FILL}"),
    "a target of several that is missing": (
        DataError, {"x": [1.5, 2.5], "y": [None, 1.0]}, {"label": ["x", "y"]},
        f"train: 1 of 2 labels are missing, in row 1 {ROW_1}; remove those rows or fill the "
        "columns `x`, `y`"),
    "a word in a column of numbers": (
        DataError, {"x": [1.5, 2.5], "y": ["3", "low"]},
        {"label": ["x", "y"], "task": "regression"},
        f"train: 1 of 2 labels in column `x`, `y` are no finite numbers: 'low' in row 2 {ROW_1}"
        f"{NO_NUMBERS}"),
    "words for a regression": (
        DataError, {"label": ["bad", "2", "good"]}, {"task": "regression"},
        f"train: 2 of 3 labels in column `label` are no finite numbers: 'bad' in row 1, 'good' in "
        f"row 3 {ROW_1}{NO_NUMBER}"),
    "underlines for a regression": (
        DataError, {"label": ["1_0", "2"]}, {"task": "regression"},
        f"train: 1 of 2 labels in column `label` are no finite numbers: '1_0' in row 1 {ROW_1}"
        f"{NO_NUMBER}"),
    "lists of words for a regression": (
        DataError, {"label": [["a"], ["b"]]}, {"task": "regression"},
        f"train: 2 of 2 labels in column `label` are no finite numbers: 'a' in row 1, 'b' in row 2 "
        f"{ROW_1}{NO_NUMBERS}"),
    "lists of different lengths for a regression": (
        DataError, {"label": [[0.5, 1.0], [2.0, 1.5], [1.5], [0.0, 0.0, 0.0]]}, {},
        f"train: the lists in column `label` have different lengths, such as 2 in row 1 and 1 in "
        f"row 3 {ROW_1}; expected as many numbers in each"),
    "empty lists for a regression": (
        DataError, {"label": [[0.5, 1.0], [], None]}, {},
        f"train: 2 of 3 labels are missing, in rows 2, 3 {ROW_1}; {FILL}"),
    "nothing but empty lists for a regression": (
        DataError, {"label": [[], []]}, {"task": "regression"},
        f"train: 2 of 2 labels are missing, in rows 1, 2 {ROW_1}; {FILL}"),
    "an empty label in a list": (
        DataError, {"label": [["a", None], ["b", " "], ["c"]]}, {},
        f"train: 2 of 3 lists in column `label` hold an empty label, in rows 1, 2 {ROW_1}; take it "
        "out; a text without labels has an empty list"),
    "a class in a list that is none": (
        DataError, classes(["x", "y"], [[0], [1, -1]], listed=True), {},
        f"train: 1 label ids are outside 0 to 1, in row 2 {ROW_1}; the data has no label for "
        "them"),
    "a column of one label with something else in it": (
        DataError, {"a": [0, 1, 2], "b": [1, 1, 1]}, {"label": ["a", "b"], "task": "multi_label"},
        f"train: 1 of 3 values in column `a` are neither 0 nor 1, such as 2 in row 3 {ROW_1}; "
        "expected 0 or 1 in a column that belongs to one label"),
    "several columns of words": (
        DataError, {"a": [0, 1], "b": ["yes", "no"]}, {"label": ["a", "b"]},
        f"train: several label columns hold either 0 or 1, one column for each label, or the "
        f"numbers of a regression; found 'yes' in column `b`, row 1 {ROW_1}. Correct it, or name "
        "one column in dataset.label"),
    "several columns, one of classes": (
        DataError, classes(["x", "y", "z"], [0, 2]).add_column("n", [1, 2]),
        {"label": ["n", "label"]},
        f"train: several label columns hold either 0 or 1, one column for each label, or the "
        f"numbers of a regression; found 'x' in column `label`, row 1 {ROW_1}. Correct it, or name "
        "one column in dataset.label"),
    "objects": (
        DataError, {"label": [{"stars": 1}, {"stars": 2}]}, {},
        "dataset.label: column `label` of train holds {'stars': Value('int64')}; expected a string "
        "or a number a text, or a list of them"),
    "lists of lists": (
        DataError, {"label": [[["a"]], [["b"]]]}, {},
        "dataset.label: column `label` of train holds List(List(Value('string'))); expected a "
        "string or a number a text, or a list of them"),
    # columns
    "several columns, one of lists": (
        DataError, {"a": [0, 1], "b": [["x"], ["y"]]}, {"label": ["a", "b"]},
        "dataset.label: column `b` of train holds lists; give either one column of lists, or "
        "several columns of single values"),
    "a label column twice": (
        DataError, {"a": [0, 1]}, {"label": ["a", "a"]},
        "dataset.label: the column `a` is named twice; name each once"),
    "a label column that is a text column": (
        DataError, {"a": [0, 1]}, {"label": ["a", "text"]},
        "dataset.label: the same column as dataset.text, `text`"),
    "one of the label columns misspelt": (
        DataError, {"sports": [0, 1], "politics": [1, 1]}, {"label": ["sports", "politic"]},
        "dataset.label: train has no column `politic`. Did you mean `politics`? Found: text, "
        "sports, politics."),
    "a separator of lists": (
        SpecError, {"label": [["a"], ["b"]]}, {"separator": "|"},
        "dataset.separator: splits one column of joined strings, and column `label` holds lists; "
        "take the separator out"),
    "a separator of classes": (
        SpecError, classes(["x", "y"], [0, 1]), {"separator": "|"},
        "dataset.separator: splits one column of joined strings, and column `label` holds classes; "
        "take the separator out"),
    "a separator of several columns": (
        SpecError, {"a": [0, 1], "b": [1, 1]}, {"label": ["a", "b"], "separator": "|"},
        "dataset.separator: splits one column of joined strings, and dataset.label names 2 "
        "columns; take the separator out"),
    # splits
    "lists in train and none in test": (
        DataError, {"train": {"label": [["a"], ["b"]]}, "test": {"label": ["a"]}}, {},
        "dataset.label: column `label` holds lists in train and single values in test; make them "
        "alike"),
    "lists in test and none in train": (
        DataError, {"train": {"label": ["a", "b"]}, "test": {"label": [["a"]]}}, {},
        "dataset.label: column `label` holds lists in test and single values in train; make them "
        "alike"),
    "words in the test of a regression": (
        DataError, {"train": {"label": ["0.5", "1"]}, "test": {"label": ["1", "good"]}}, {},
        f"test: 1 of 2 labels in column `label` are no finite numbers: 'good' in row 2 {ROW_1}"
        f"{NO_NUMBER}"),
    "more targets in test than in train": (
        DataError, {"train": {"label": [[0.5], [1.0]]}, "test": {"label": [[0.5, 1.0]]}}, {},
        "test: 2 numbers a text; train has 1: label"),
    "a 0 or 1 for more labels in test than in train": (
        DataError, {"train": {"label": [[0, 1], [1, 1]]}, "test": {"label": [[0, 1], [0, 1, 1]]}},
        {},
        f"test: 1 of 2 lists in column `label` do not hold 2 values of 0 or 1, as those of train "
        f"do, in row 2 {ROW_1}"),
    "labels in test that train lacks": (
        DataError,
        {"train": {"label": [["a"], ["b"]]}, "test": {"label": [["a", "x", "y"], ["x"]]}}, {},
        f"test: 2 texts have 2 labels that are not among those train has: 'x' in row 1, 'y' in row "
        f"1 {ROW_1}. Known: a, b. Correct those rows or take them out"),
    "a 0 or 1 for a label that no train text has": (
        DataError, {"train": {"label": [[0, 1, 0], [1, 1, 0]]}, "test": {"label": [[0, 0, 1]]}}, {},
        "test: 1 texts have labels that no train text has: 2; the model cannot learn them. Add "
        "train texts for them, or take them out of test"),
    # nothing to learn
    "one class": (
        DataError, {"label": ["x", "x", "x"]}, {},
        "train: every one of its 3 texts has the label `x`; at least two labels are needed"),
    "one value": (
        DataError, {"x": [1.5, 2.5], "y": [3, 3]}, {"label": ["x", "y"]},
        "train: `y` is 3 in every one of its 2 texts; at least two different values are needed"),
    "no labels": (
        DataError, {"label": [[], None]}, {},
        "train: none of its 2 texts has a label; texts with labels are needed"),
    "no labels in joined strings": (
        DataError, {"label": ["", None]}, {"separator": "|"},
        "train: none of its 2 texts has a label; texts with labels are needed"),
    "no labels in columns": (
        DataError, {"a": [0, 0], "b": [0, 0]}, {"label": ["a", "b"]},
        "train: none of its 2 texts has a label; texts with labels are needed"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_place_count_and_remedy(case: str) -> None:
    kind, data, options, message = REFUSED[case]
    assert refusal(kind, data, **options) == message


# What is only told

UNLABELLED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "empty lists": ({"label": [["a"], [], ["b"], None]}, {}),
    "zeros": ({"label": [[1, 0], [0, 0], [0, 1], [0, 0]]}, {}),
    "empty cells": ({"label": ["a", "", "b|a", None]}, {"separator": "|"}),
    "columns of zeros": ({"a": [1, 0, 0, 0], "b": [0, 0, 1, 0]}, {"label": ["a", "b"]}),
}


@pytest.mark.parametrize("case", UNLABELLED)
def test_texts_without_a_label_are_allowed_and_counted(case: str) -> None:
    data, options = UNLABELLED[case]
    voice = Voice()
    splits = read({"train": data, "test": data}, voice=voice, **options)
    assert [len(ids) for ids in splits.train["label"]][1] == 0
    assert splits.summary()["train"]["(no label)"] == 2
    assert voice.said[1:] == [
        "train: 2 of 4 texts have no label", "test: 2 of 4 texts have no label",
    ]  # fmt: skip


def test_labels_of_a_list_that_train_lacks_are_only_warned_of_where_labels_names_them() -> None:
    voice = Voice()
    data = {"train": {"label": [["a"], ["b"]]}, "test": {"label": [["a", "c"], []]}}
    assert read(data, voice=voice, labels=["a", "b", "c", "d"]).task.num_labels == 4
    assert voice.warned[:2] == [
        "test: 1 texts have labels that no train text has: c; the model cannot learn them",
        "train has no text for 2 of 4 labels: c, d",
    ]


@pytest.mark.parametrize(
    ("labels", "warned"),
    [
        (list(range(MANY_CLASSES)), True),
        ([str(-i) for i in range(MANY_CLASSES)], True),
        (list(range(MANY_CLASSES - 1)), False),
        ([f"code {i}" for i in range(MANY_CLASSES)], False),
    ],
)
def test_many_whole_numbers_may_be_quantities_which_a_warning_says(
    labels: list[Any], warned: bool
) -> None:
    voice = Voice()
    read({"label": labels}, voice=voice)
    assert voice.warned == [
        f"train has {MANY_CLASSES} different whole numbers as labels, each taken for a class of "
        "its own; if they are quantities, write `task: regression`"
    ] * warned  # fmt: skip


# Pairs


def pairs(count: int = 6, **columns: list[Any]) -> dict[str, Any]:
    return {
        "question": [f"question {i}" for i in range(count)],
        "answer": [f"answer {i}" for i in range(count)],
        "label": [("no", "yes")[i % 2] for i in range(count)],
        **columns,
    }


@pytest.mark.field("dataset.text")
def test_two_text_columns_are_a_pair() -> None:
    splits = read({"train": pairs(), "test": pairs(2)}, text=["question", "answer"])
    assert splits.train.column_names == ["text", "text_pair", "label"]
    assert splits.train[1] == {"text": "question 1", "text_pair": "answer 1", "label": 1}
    assert splits.columns == {"text": ["question", "answer"], "label": "label"}
    other = read(pairs(), text=["answer", "question"])
    assert other.train["text"][:] == [f"answer {i}" for i in range(6)]


PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "one side is missing": (
        pairs(3, answer=["a", None, " "]), {},
        f"train: 2 of 3 texts are empty or missing, in rows 2, 3 {ROW_1}; remove those rows or "
        "fill the column `answer`"),
    "one side is missing in test": (
        {"train": pairs(), "test": pairs(2, question=["", "q"])}, {},
        f"test: 1 of 2 texts are empty or missing, in row 1 {ROW_1}; remove those rows or fill the "
        "column `question`"),
    "one side holds numbers": (
        pairs(3, answer=[1, 2, 3]), {},
        "dataset.text: column `answer` of train holds int64; expected strings"),
    "both are the same column": (
        pairs(), {"text": ["answer", "answer"]},
        "dataset.text: both texts are the column `answer`; name two columns"),
    "one is the label": (
        pairs(), {"text": ["question", "label"]},
        "dataset.label: the same column as dataset.text, `label`"),
    "there is no such column": (
        pairs(), {"text": ["question", "answr"]},
        "dataset.text: train has no column `answr`. Did you mean `answer`? Found: text, question, "
        "answer, label."),
}  # fmt: skip


@pytest.mark.field("dataset.text")
@pytest.mark.parametrize("case", PAIRS)
def test_pairs_that_are_none_are_refused(case: str) -> None:
    data, options, message = PAIRS[case]
    assert refusal(DataError, data, **{"text": ["question", "answer"], **options}) == message


def test_pairs_are_cut_and_sampled_together() -> None:
    options = {"test": 0.2, "sample": {"train": 30}, "text": ["question", "answer"]}
    splits = read(pairs(60), validation=0.1, **options)
    assert {name: split.num_rows for name, split in splits.items()} == {
        "train": 21, "validation": 3, "test": 6,
    }  # fmt: skip
    for _, split in splits.items():
        for row in split:
            number = row["text"].removeprefix("question ")
            assert row["text_pair"] == f"answer {number}"
            assert row["label"] == int(number) % 2


def test_a_pair_stands_in_train_where_both_of_its_texts_do() -> None:
    voice = Voice()
    test = pairs(3, question=["question 0", "question 1", "question 9"],
                 answer=["answer 0", "answer 2", "answer 1"])  # fmt: skip
    read({"train": pairs(), "test": test}, voice=voice, text=["question", "answer"])
    told = "test: 1 of 3 texts stand in train, too; scores on them flatter the model"
    assert told in voice.warned


def test_a_fingerprint_changes_with_either_text_of_a_pair_and_where_one_ends() -> None:
    base = {"text": ["ab", "c"], "text_pair": ["x", "yz"], "label": [0, 1]}
    changed: list[dict[str, Any]] = [
        {**base, "text": ["ab", "d"]},
        {**base, "text_pair": ["x", "zy"]},
        {**base, "label": [0, 0]},
        {**base, "text": ["a", "c"], "text_pair": ["bx", "yz"]},
        {**base, "text": base["text_pair"], "text_pair": base["text"]},
        {"text": ["ab", "x", "c", "yz"], "label": [0, 0, 1, 1]},
    ]
    found = {fingerprint(Dataset.from_dict(one)) for one in (base, *changed)}
    assert len(found) == 1 + len(changed)


def test_a_fingerprint_changes_with_a_label_of_several_and_a_number() -> None:
    texts = {"text": ["a", "b"]}
    lists = [[[0], [1]], [[0, 1], []], [[0], [0, 1]], [[0.0], [1.0]], [[0.0], [1.5]]]
    found = {fingerprint(Dataset.from_dict({**texts, "label": one})) for one in lists}
    assert len(found) == len(lists)


# Through every loader

PAIR = ["first", "second"]
FORMS: dict[str, tuple[dict[str, list[Any]], dict[str, Any], set[str]]] = {
    # columns, options, and the loaders that have no such form
    "words": ({"label": ["b", "a", "b", "a"]}, {}, set()),
    "whole numbers": ({"label": [10, 9, 10, 9]}, {}, set()),
    "numbers with a fraction": ({"label": [0.5, -1.0, 2.0, 1e-7]}, {}, set()),
    "lists of names": ({"label": [["b", "a"], [], ["a"], ["c"]]}, {}, {"csv", "tsv"}),
    "lists of ids": ({"label": [[5, 3], [3], [], [12]]}, {}, {"csv", "tsv"}),
    "a 0 or 1 for each": ({"label": [[0, 1], [1, 1], [0, 0], [1, 0]]}, {}, {"csv", "tsv"}),
    "lists of floats": ({"label": [[0.5, 1], [2, 1.5], [0, 0], [3, 1]]}, {}, {"csv", "tsv"}),
    "joined names": ({"label": ["b|a", "", "a", "c | a"]}, {"separator": "|"}, set()),
    "columns of labels": (
        {"x": [0, 1, 1, 0], "y": [1, 1, 0, 0]}, {"label": ["x", "y"]}, {"inline"}),
    "columns of numbers": (
        {"x": [0.5, 1, 1, 0], "y": [1, 2, 0, 0]}, {"label": ["x", "y"]}, {"inline"}),
    "pairs": (
        {"first": ["a", "b", "c", "d"], "second": ["e", "f", "g", "h"], "label": [0, 1, 0, 1]},
        {"text": PAIR}, set()),
}  # fmt: skip


def write_delimited(path: Path, columns: dict[str, list[Any]], delimiter: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def by_row(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def files(write: Callable[[Path, dict[str, list[Any]]], object], name: str) -> Any:
    def make(columns: dict[str, list[Any]], folder: Path) -> dict[str, Any]:
        write(folder / name, columns)
        return {"type": "files", "train": str(folder / name)}

    return make


def memory(kind: Callable[[dict[str, list[Any]]], Any]) -> Any:
    return lambda columns, folder: {"type": "memory", "data": kind(columns)}


def disk(columns: dict[str, list[Any]], folder: Path) -> dict[str, Any]:
    with quiet_libraries():
        Dataset.from_dict(columns).save_to_disk(str(folder / "saved"))
    return {"type": "disk", "path": str(folder / "saved")}


def inline(columns: dict[str, list[Any]], folder: Path) -> dict[str, Any]:
    rows = by_row(columns)
    if "first" in columns:
        rows = [{"text": [row["first"], row["second"]], "label": row["label"]} for row in rows]
    return {"type": "inline", "train": rows}


LOADERS: dict[str, Callable[[dict[str, list[Any]], Path], dict[str, Any]]] = {
    "csv": files(lambda path, columns: write_delimited(path, columns, ","), "a.csv"),
    "tsv": files(lambda path, columns: write_delimited(path, columns, "\t"), "a.tsv"),
    "jsonl": files(
        lambda path, columns: path.write_text("\n".join(map(json.dumps, by_row(columns)))),
        "a.jsonl"),
    "parquet": files(lambda path, columns: pq.write_table(pa.table(columns), path), "a.parquet"),
    "disk": disk,
    "inline": inline,
    "pandas": memory(pd.DataFrame),
    "polars": memory(lambda columns: pl.DataFrame(columns, strict=False)),
    "Dataset": memory(Dataset.from_dict),
    "formatted": memory(lambda columns: Dataset.from_dict(columns).with_format("numpy")),
}  # fmt: skip


@pytest.mark.field("dataset.text")
@pytest.mark.field("dataset.label")
@pytest.mark.field("dataset.separator")
@pytest.mark.field("dataset.inline.train.text")
@pytest.mark.field("dataset.inline.train.label")
@pytest.mark.parametrize(
    ("form", "loader"),
    [(form, loader) for form in FORMS for loader in LOADERS if loader not in FORMS[form][2]],
)
def test_every_loader_reads_every_form_alike(form: str, loader: str, tmp_path: Path) -> None:
    columns, options, _ = FORMS[form]
    columns = {"text": ["s", "t", "u", "v"], **columns} if "first" not in columns else columns
    wanted = read(columns, **options)
    made = LOADERS[loader](columns, tmp_path)
    if loader == "inline":  # which has no names of columns
        options = {key: value for key, value in options.items() if key != "text"}
    raw = {**made, "validation": 0, "test": 0, **options}
    spec = RunSpec.parse({"encoder": "x", "dataset": raw})
    found = load_splits(spec.dataset, Context(), spec.task)
    assert found.task == wanted.task
    assert found.fingerprints == wanted.fingerprints
    assert found.train.column_names == wanted.train.column_names
    assert found.label_values == wanted.label_values
    pair = ["text", "text_pair"] if loader == "inline" else ["first", "second"]
    assert found.columns["text"] == (pair if form == "pairs" else "text")


# Labels of a saved model

SAVED: dict[str, tuple[Any, list[Any]]] = {
    "ids": ({"label": [[0, 2], []]}, [[0, 2], []]),
    "pairs of the ids 0 and 1": ({"label": [[0, 1], [1, 0]]}, [[0, 1], [0, 1]]),
    "a 0 or 1 for each": ({"label": [[0, 1, 0], [0, 1, 1]]}, [[1], [1, 2]]),
    "a single row of them": ({"label": [[0.0, 1.0, 0.0]]}, [[1]]),
}


@pytest.mark.parametrize("case", SAVED)
def test_labels_to_evaluate_are_read_as_those_of_a_model_with_so_many(case: str) -> None:
    data, labels = SAVED[case]
    loader = Memory(data=table(data))
    task, names = MultiLabel(("a", "b", "c")), {"0": "a", "1": "b", "2": "c"}
    assert labelled_rows(loader, task, names, Context())["label"][:] == labels


SAVED_REFUSED: dict[str, tuple[Task, Any, str]] = {
    "a 0 or 1 for other labels": (
        MultiLabel(("a", "b", "c")), {"label": [[0, 1, 0, 0], [1, 1, 0, 1]]},
        "train: the lists in column `label` hold 0 or 1 for 4 labels, and there are 3; give a 0 or "
        "1 for each"),
    "one label a text for a model of several": (
        MultiLabel(("a", "b", "c")), {"label": ["a", "b"]},
        "task: multi_label, but column `label` holds one class a text, which means single_label; "
        "expected a column of lists, a column of 0 and 1 for each label, or dataset.separator"),
    "a label that the model does not know": (
        MultiLabel(("a", "b", "c")), {"label": [["0", "7"]]},
        f"train: 1 texts have 1 labels that are not among those the model knows: '7' in row 1 "
        f"{ROW_1}. Known: 0, 1, 2. Correct those rows or take them out"),
    "words for a regression": (
        Regression(("x",)), {"label": ["good", "1"]},
        f"train: 1 of 2 labels in column `label` are no finite numbers: 'good' in row 1 {ROW_1}"
        f"{NO_NUMBER}"),
    "two numbers for one": (
        Regression(("x",)), {"label": [[0.5, 1.0]]},
        "train: 2 numbers a text; the model knows 1: x"),
}  # fmt: skip


@pytest.mark.parametrize("case", SAVED_REFUSED)
def test_labels_to_evaluate_that_a_model_does_not_have_are_refused(case: str) -> None:
    task, data, message = SAVED_REFUSED[case]
    names = {"0": "a", "1": "b", "2": "c"} if task.has_labels else {"x": "x"}
    with pytest.raises(BertkitError) as caught:
        labelled_rows(Memory(data=table(data)), task, names, Context())
    assert str(caught.value) == message

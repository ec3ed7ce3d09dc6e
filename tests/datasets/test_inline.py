"""Texts and labels written in the spec itself."""

from __future__ import annotations

from typing import Any

import pytest

from bertkit.datasets.inline import Inline
from bertkit.datasets.splits import load_splits
from bertkit.errors import DataError, SpecError
from bertkit.records import Context, Splits
from bertkit.spec import RunSpec
from bertkit.tasks import MultiLabel, Regression, SingleLabel


def spec_of(train: list[dict[str, Any]], **dataset: Any) -> RunSpec:
    data = {"type": "inline", "train": train, "validation": 0, **dataset}
    return RunSpec.parse({"encoder": "x", "dataset": data})


def load(train: list[dict[str, Any]], **dataset: Any) -> Splits:
    return load_splits(spec_of(train, **dataset).dataset, Context())


def rows(*pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"text": text, "label": label} for text, label in pairs]


def pairs_of(splits: Splits, name: str = "train") -> list[tuple[str, str]]:
    split = getattr(splits, name)
    return [(row["text"], splits.task.labels[row["label"]]) for row in split]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["good", "bad"], ("bad", "good")),
        ([10, 9], ("9", "10")),
        (["01", "1"], ("01", "1")),
        (["true", "false"], ("false", "true")),
        ([1, "one"], ("1", "one")),
        ([2**70, 0], ("0", str(2**70))),
    ],
)
def test_labels_are_strings_or_whole_numbers_as_written(labels, names):
    data = rows(*((f"text {i}", label) for i, label in enumerate(labels)))
    splits = load(data)
    assert splits.task.labels == names
    assert pairs_of(splits) == [(f"text {i}", str(label)) for i, label in enumerate(labels)]


@pytest.mark.field("dataset.inline.train.label")
@pytest.mark.parametrize(
    ("labels", "task", "column"),
    [
        ([["b", "a"], []], MultiLabel(("a", "b")), [[0, 1], []]),
        ([["b", 1], [2.5]], MultiLabel(("1", "2.5", "b")), [[0, 2], [1]]),
        ([[10, 9], [9]], MultiLabel(("9", "10")), [[0, 1], [0]]),
        ([[2**70], [0, 1]], MultiLabel(("0", "1", str(2**70))), [[2], [0, 1]]),
        ([[0, 1, 1], [1, 0, 0]], MultiLabel(("0", "1", "2")), [[1, 2], [0]]),
        ([[0, 1.0], [1.0, 0]], MultiLabel(("0", "1")), [[1], [0]]),
        ([[0, 1.5], [1.0, 0]], Regression(("label_0", "label_1")), [[0, 1.5], [1, 0]]),
        ([1, 0.5], Regression(("label",)), [[1], [0.5]]),
        ([1.0, 0.0], SingleLabel(("0", "1")), [1, 0]),
    ],
)
def test_lists_and_numbers_mean_what_they_mean_in_a_file(labels, task, column):
    splits = load(rows(*((f"text {i}", label) for i, label in enumerate(labels))))
    assert (type(splits.task), splits.task.labels) == (type(task), task.labels)
    assert splits.train["label"][:] == column


def test_a_split_may_hold_whole_numbers_only_where_train_has_fractions():
    splits = load(rows(("a", [0.5, 1]), ("b", [1, 2])), test=rows(("c", [3, 4]), ("d", [0, 1])))
    assert splits.test["label"][:] == [[3, 4], [0, 1]]
    splits = load(rows(("a", 0.5), ("b", 1)), test=rows(("c", 3), ("d", 0)))
    assert splits.test["label"][:] == [[3], [0]]


@pytest.mark.field("dataset.inline.train.text")
@pytest.mark.field("dataset.inline.validation.text")
@pytest.mark.field("dataset.inline.test.text")
def test_a_text_may_be_a_list_of_the_two_of_a_pair():
    splits = load(
        rows((["a", "b"], "x"), (["c", "d"], "y")),
        validation=rows((["e", "f"], "x")), test=rows((["g", "h"], "y")),
    )  # fmt: skip
    assert {name: (split["text"][:], split["text_pair"][:]) for name, split in splits.items()} == {
        "train": (["a", "c"], ["b", "d"]),
        "validation": (["e"], ["f"]),
        "test": (["g"], ["h"]),
    }
    assert splits.columns == {"text": ["text", "text_pair"], "label": "label"}
    with pytest.raises(
        DataError, match=r"^train: 1 of 2 texts are empty or missing, in row 2 .*`text_pair`$"
    ):
        load(rows((["a", "b"], 1), (["c", ""], 0)))


@pytest.mark.field("dataset.train")
@pytest.mark.field("dataset.validation")
@pytest.mark.field("dataset.test")
def test_validation_and_test_are_lists_or_shares():
    train = rows(*((f"text {i}", i % 2) for i in range(20)))
    splits = load(train, validation=rows(("v", 1)), test=rows(("t", "0"), ("u", 1)))
    assert len(splits.train) == 20
    assert pairs_of(splits, "validation") == [("v", "1")]
    assert pairs_of(splits, "test") == [("t", "0"), ("u", "1")]
    shared = load(train, validation=0.1, test=0.2)
    assert {name: len(split) for name, split in shared.items()} == {
        "train": 14, "validation": 2, "test": 4,
    }  # fmt: skip


def test_the_texts_are_part_of_the_spec_and_survive_yaml(tmp_path):
    spec = spec_of(rows(("a: b\n#c", "01"), ("很好 'x'", 1), ("- d", "true"), ("e", "null")))
    (tmp_path / "spec.yaml").write_text(spec.to_yaml(), encoding="utf-8")
    again = RunSpec.from_file(tmp_path / "spec.yaml")
    assert again == spec
    assert load_splits(again.dataset, Context()).task.labels == ("01", "1", "null", "true")


@pytest.mark.parametrize(
    "examples",
    [
        rows(("a", 1.0), ("b", 0.5), ("c", 3)),
        rows(("a", ["x", "1"]), ("b", [1]), ("c", [])),
        rows(("a", [0.1, 1.0]), ("b", [1, 2])),
        rows((["a", "b"], "x"), (["c", "d"], "y")),
    ],
)
def test_numbers_lists_and_pairs_survive_yaml_and_json_with_their_types(tmp_path, examples):
    spec = spec_of(examples, test=examples[:1])
    for name, text in {"a.yaml": spec.to_yaml(), "a.json": spec.to_json()}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        again = RunSpec.from_file(tmp_path / name)
        assert again == spec
        assert repr(again.dataset.train) == repr(spec.dataset.train)


@pytest.mark.parametrize(
    ("train", "dataset", "place"),
    [
        ([], {}, "dataset.train: "),
        (rows(("a", [])), {"test": rows(("a", [True]))}, "dataset.test.0.label.0: found true; "),
        (rows(("a", {})), {}, "dataset.train.0.label: found an empty mapping; "),
        (rows(("a", float("nan"))), {}, "dataset.train.0.label: found NaN; "),
        (rows((["a"], 1)), {}, "dataset.train.0.text: "),
        (rows((["a", "b", "c"], 1)), {}, "dataset.train.0.text: "),
        (rows(("a", True)), {}, "dataset.train.0.label: found true; "),
        (rows(("a", None)), {}, "dataset.train.0.label: found null; "),
        (rows(("a", 1), (1, 1)), {}, "dataset.train.1.text: found 1; "),
        ([{"text": "a"}], {}, "dataset.train.0.label: missing, but required"),
        ([{"text": "a", "label": 1, "id": 2}], {}, "dataset.train.0.id: unknown key"),
        (rows(("a", 1)), {"validation": 1}, "dataset.validation: found 1; "),
        (rows(("a", 1)), {"test": -0.1}, "dataset.test: found -0.1; "),
        (rows(("a", 1)), {"text": "review"}, "dataset.text: "),
        (rows(("a", 1)), {"label": "stars"}, "dataset.label: "),
    ],
)
def test_refused_with_its_place(train, dataset, place):
    with pytest.raises(SpecError) as caught:
        spec_of(train, **dataset)
    assert str(caught.value).startswith(f"spec: {place}")


def test_an_empty_text_or_list_is_refused_when_it_is_loaded():
    with pytest.raises(DataError, match=r"^train: 1 of 2 texts are empty or missing, in row 2 "):
        load(rows(("a", 1), (" ", 0)))
    with pytest.raises(
        DataError, match=r"^dataset.test: the split `test` has no rows; expected texts in it$"
    ):
        load(rows(("a", 1), ("b", 0)), test=[])


def test_it_is_made_from_python_too():
    loader = Inline(train=rows(("a", 1), ("b", 0)), validation=0)
    assert pairs_of(load_splits(loader, Context())) == [("a", "1"), ("b", "0")]

"""Texts and labels written in the spec itself."""

from __future__ import annotations

from typing import Any

import pytest

from bertkit.datasets.inline import Inline
from bertkit.datasets.splits import load_splits
from bertkit.errors import DataError, SpecError
from bertkit.records import Context, Splits
from bertkit.spec import RunSpec


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

"""Frames and datasets that are in memory already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict

import bertkit
from bertkit.datasets.splits import load_splits
from bertkit.errors import DataError, SpecError
from bertkit.records import Context, Splits
from bertkit.spec import RunSpec
from bertkit.tasks import MultiLabel
from tests.conftest import reviews

COLUMNS = {"text": ["很好", "so, so", "bad"], "label": ["pos", "neg", "neg"]}


def load(data: Any, **options: Any) -> Splits:
    dataset = {"type": "memory", "data": data, "validation": 0, **options}
    spec = RunSpec.parse({"encoder": "x", "dataset": dataset})
    return load_splits(spec.dataset, Context())


TABLES: dict[str, Any] = {
    "pandas": pd.DataFrame(COLUMNS),
    "pandas with an index": pd.DataFrame(COLUMNS, index=[7, 7, 3]),
    "pandas of objects": pd.DataFrame(COLUMNS, dtype=object),
    "pandas with categories": pd.DataFrame(COLUMNS).astype({"label": "category"}),
    "pandas with a column of anything": pd.DataFrame({**COLUMNS, "x": [object(), 1, "a"]}),
    "polars": pl.DataFrame(COLUMNS),
    "polars with categories": pl.DataFrame(COLUMNS, {"text": pl.String, "label": pl.Categorical}),
    "polars, lazy": pl.LazyFrame(COLUMNS),
    "Dataset": Dataset.from_dict(COLUMNS),
    "Dataset with a format": Dataset.from_dict(COLUMNS).with_format("numpy"),
    "Dataset, shuffled twice": Dataset.from_dict(
        {name: values[::-1] for name, values in COLUMNS.items()}
    ).select([2, 1, 0]),
}


@pytest.mark.field("dataset.memory.data")
@pytest.mark.parametrize("kind", TABLES)
def test_every_kind_of_table_gives_the_same_rows(kind):
    splits = load(TABLES[kind])
    assert splits.train["text"][:] == COLUMNS["text"]
    assert [splits.task.labels[i] for i in splits.train["label"]] == COLUMNS["label"]


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_in_place_of_the_dataset_is_short_for_it(kind):
    spec = RunSpec.parse({"encoder": "x", "dataset": TABLES[kind]})
    assert spec.dataset.type == "memory"
    assert spec.dataset.data is TABLES[kind]


@pytest.mark.field("dataset.memory.data")
@pytest.mark.parametrize("dictionary", [dict, DatasetDict])
def test_a_mapping_of_tables_is_splits_by_name(dictionary):
    some = [Dataset.from_dict({"text": [f"{i}a", f"{i}b"], "label": ["x", "y"]}) for i in range(3)]
    data = dictionary(train=some[0], dev=some[1], test=some[2])
    splits = load(data, validation="dev")
    assert {name: split["text"][:] for name, split in splits.items()} == {
        "train": ["0a", "0b"], "validation": ["1a", "1b"], "test": ["2a", "2b"],
    }  # fmt: skip


def test_a_dataset_dict_has_a_short_form_too_and_frames_of_two_kinds_mix():
    data = DatasetDict(train=Dataset.from_dict(COLUMNS))
    assert RunSpec.parse({"encoder": "x", "dataset": data}).dataset.data is data
    splits = load({"train": pd.DataFrame(COLUMNS), "test": pl.DataFrame(COLUMNS)})
    assert splits.test is not None
    assert splits.test["text"][:] == splits.train["text"][:] == COLUMNS["text"]


LISTS = {"text": ["a", "b", "c"], "label": [["x", "y"], [], ["y"]]}
LISTED: dict[str, Any] = {
    "pandas": pd.DataFrame(LISTS),
    "pandas of tuples": pd.DataFrame({**LISTS, "label": [("x", "y"), (), ("y",)]}),
    "pandas of arrays": pd.DataFrame(
        {**LISTS, "label": [np.array(v, dtype=object) for v in LISTS["label"]]}),
    "pandas with a missing list": pd.DataFrame({**LISTS, "label": [["x", "y"], None, ["y"]]}),
    "polars": pl.DataFrame(LISTS),
    "polars, lazy": pl.LazyFrame(LISTS),
    "Dataset": Dataset.from_dict(LISTS),
    "Dataset with a format": Dataset.from_dict(LISTS).with_format("numpy"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LISTED)
def test_a_column_of_lists_gives_several_labels_a_text(kind):
    splits = load(LISTED[kind])
    assert splits.task == MultiLabel(("x", "y"))
    assert splits.train["label"][:] == [[0, 1], [], [1]]


ONE_EACH: dict[str, list[Any]] = {
    "numbers": [0, 1, 1],
    "truth values": [False, True, True],
    "truth values that may be missing": pd.array([False, True, True], dtype="boolean"),
    "numbers with a fraction": [0.0, 1.0, 1.0],
    "strings": ["0", "1", "1"],
    "categories": pd.Categorical(["no", "yes", "yes"]).codes,
}


@pytest.mark.parametrize("kind", ONE_EACH)
def test_a_column_for_each_label_may_hold_any_0_and_1(kind):
    frame = pd.DataFrame({"text": ["a", "b", "c"], "news": ONE_EACH[kind], "sport": [1, 1, 0]})
    splits = load(frame, label=["sport", "news"])
    assert splits.task == MultiLabel(("sport", "news"))
    assert splits.train["label"][:] == [[0], [0, 1], [1]]


def test_other_columns_of_a_frame_may_be_anything_where_a_pair_and_several_labels_are_named():
    frame = pd.DataFrame({
        "question": ["a", "b"], "answer": ["c", "d"], "x": [1, 0], "y": [1, 1],
        "notes": [object(), [1]],
    })  # fmt: skip
    splits = load(frame, text=["question", "answer"], label=["x", "y"])
    assert splits.train.column_names == ["text", "text_pair", "label"]
    assert splits.train["label"][:] == [[0, 1], [1]]


def test_columns_of_a_frame_without_names_are_called_by_their_number():
    frame = pd.DataFrame([["a", "x"], ["b", "y"]])
    assert load(frame, text="0", label="1").train["text"][:] == ["a", "b"]


def test_the_table_is_left_as_it_is():
    frame = pd.DataFrame({**COLUMNS, "n": [1, 2, 3]}, index=[5, 6, 7])
    before = frame.copy()
    load(frame)
    pd.testing.assert_frame_equal(frame, before)


LOST = "(row 1 is the first text, after any header line); remove those rows or fill the column "
REFUSED: dict[str, tuple[Any, str]] = {
    "a missing text": (
        pd.DataFrame({"text": ["a", None, np.nan], "label": ["x", "y", "x"]}),
        f"train: 2 of 3 texts are empty or missing, in rows 2, 3 {LOST}`text`"),
    "a missing label": (
        pl.DataFrame({"text": ["a", "b"], "label": [None, "y"]}),
        f"train: 1 of 2 labels are missing, in row 1 {LOST}`label`"),
    "a missing number": (
        pd.DataFrame({"text": ["a", "b"], "label": [np.nan, 1]}),
        f"train: 1 of 2 labels are missing, in row 1 {LOST}`label`"),
    "no such column": (
        pd.DataFrame({"txt": ["a"], "label": ["x"]}),
        "dataset.text: the frame `train` has no column `text`. Did you mean `txt`? Found: txt, "
        "label."),
    "labels of two types": (
        pd.DataFrame({"text": ["a", "b"], "label": [1, "y"]}, dtype=object),
        "dataset.data: the frame `train` cannot be read ("),
    "lists and single labels": (
        pd.DataFrame({"text": ["a", "b"], "label": [["x"], "y"]}),
        "dataset.data: the frame `train` cannot be read ("),
    "arrays of two types": (
        pd.DataFrame({"text": ["a", "b"], "label": [np.array(["x"]), np.array([])]}),
        "dataset.data: the frame `train` cannot be read ("),
    "texts of two types": (
        pd.DataFrame({"text": ["a", 1.5], "label": ["x", "y"]}, dtype=object),
        "dataset.data: the frame `train` cannot be read ("),
    "half a character": (
        pd.DataFrame({"text": ["a\ud83d", "b"], "label": ["x", "y"]}, dtype=object),
        "dataset.data: the frame `train` cannot be read ("),
    "a column twice": (
        pd.DataFrame([["a", "b", "x"]], columns=["text", "text", "label"]),
        "dataset.data: the frame `train` cannot be read ("),
    "bytes": (
        pd.DataFrame({"text": [b"a", b"b"], "label": ["x", "y"]}),
        "dataset.text: column `text` of train holds binary; expected strings"),
    "a series": (pd.Series(["a"]), "dataset.data: found Series; expected "),
    "an arrow table": (pa.table(COLUMNS), "dataset.data: found Table; expected "),
    "rows": ([{"text": "a", "label": "x"}], "dataset.data: found list; expected "),
    "columns": (COLUMNS, "dataset.data: found list; expected "),
    "a stream": (
        Dataset.from_dict(COLUMNS).to_iterable_dataset(),
        "dataset.data: found IterableDataset; expected "),
    "no train": (
        {"a": pd.DataFrame(COLUMNS)}, "dataset.train: there is no split `train`. Found: a."),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    data, message = REFUSED[case]
    with pytest.raises(DataError) as caught:
        load(data)
    said = str(caught.value)
    assert said == message or (message[-1] in "( " and said.startswith(message))


WITHOUT_DATA = (
    "dataset.data: `type: memory` holds a Python object, which no file can; run it from Python "
    "with the data, or write the data to a file and use `type: files`"
)


def test_a_spec_file_cannot_ask_for_it_and_leaves_nothing_behind(tmp_path, encoder_dir):
    file = tmp_path / "run.yaml"
    file.write_text(f"encoder: {encoder_dir}\ndataset: {{type: memory}}\noutput: out\n")
    with pytest.raises(SpecError) as caught:
        bertkit.run(file)
    assert str(caught.value) == WITHOUT_DATA
    assert not (tmp_path / "out").exists()


def test_a_replay_of_such_a_run_says_what_is_missing_and_python_can_give_it(tmp_path, encoder_dir):
    spec = {
        "encoder": str(encoder_dir),
        "dataset": pd.DataFrame(reviews(24)),
        "trainer": {"max_steps": 1, "precision": "fp32"},
        "output": str(tmp_path / "run"),
    }
    result = bertkit.run(spec)
    written = Path(result.run_dir, "spec.yaml")
    with pytest.raises(SpecError) as caught:
        bertkit.run(written)
    assert str(caught.value) == WITHOUT_DATA
    replayed = RunSpec.from_file(written)
    data = replayed.dataset.model_copy(update={"data": spec["dataset"]})
    again = bertkit.run(
        replayed.model_copy(update={"dataset": data, "output": str(tmp_path / "b")})
    )
    assert again.provenance["data"] == result.provenance["data"]
    assert again.metrics == result.metrics

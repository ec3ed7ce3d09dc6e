"""Folders that `save_to_disk` wrote."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from bertkit.compute import quiet_libraries
from bertkit.datasets.disk import Disk
from bertkit.datasets.splits import load_splits
from bertkit.errors import DataError
from bertkit.records import Context, Splits
from bertkit.spec import RunSpec

FEATURES = Features(text=Value("string"), label=ClassLabel(names=["negative", "positive"]))


def dataset(*texts: str) -> Dataset:
    labels = [i % 2 for i in range(len(texts))]
    return Dataset.from_dict({"text": [*texts], "label": labels}, features=FEATURES)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with a DatasetDict in `dict`, and a Dataset in `one`."""
    splits = {"train": dataset("a", "b", "c"), "dev": dataset("d", "e"), "test": dataset("f")}
    with quiet_libraries():
        DatasetDict(splits).save_to_disk(str(tmp_path / "dict"))
        dataset("x", "y", "z").save_to_disk(str(tmp_path / "one"))
    return tmp_path


def load(folder: Path, **options: object) -> Splits:
    loader = Disk.model_validate({"path": str(folder), "validation": 0, **options})
    return load_splits(loader, Context())


@pytest.mark.field("dataset.disk.path")
def test_a_dataset_is_the_train_split(saved):
    splits = load(saved / "one")
    assert splits.train["text"][:] == ["x", "y", "z"]
    assert splits.test is None
    assert splits.task.labels == ("negative", "positive")


@pytest.mark.field("dataset.disk.path")
def test_a_dataset_dict_has_its_splits_by_name(saved):
    splits = load(saved / "dict", validation="dev")
    assert {name: split["text"][:] for name, split in splits.items()} == {
        "train": ["a", "b", "c"], "validation": ["d", "e"], "test": ["f"],
    }  # fmt: skip


def test_the_path_of_a_spec_file_starts_at_its_folder(saved):
    (saved / "run.yaml").write_text("encoder: x\ndataset: {type: disk, path: one}\n")
    assert RunSpec.from_file(saved / "run.yaml").dataset.path == str(saved / "one")


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


def truncated(folder: Path) -> None:
    file = next(folder.rglob("*.arrow"))
    file.write_bytes(file.read_bytes()[:100])


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no folder": ("one", gone),
    "a file": ("one", lambda path: (gone(path), path.write_text("text"))),
    "an empty folder": ("one", lambda path: (gone(path), path.mkdir())),
    "a folder of csv files": (
        "one", lambda path: (gone(path), path.mkdir(), (path / "a.csv").write_text("text,label"))),
    "rows missing": ("one", lambda path: next(path.glob("*.arrow")).unlink()),
    "rows cut off": ("one", truncated),
    "state that is no JSON": ("one", lambda path: (path / "state.json").write_text("{")),
    "a split missing": ("dict", lambda path: gone(path / "test")),
    "a split cut off": ("dict", lambda path: truncated(path / "test")),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_what_is_no_whole_dataset_is_refused(saved, case):
    name, damage = DAMAGE[case]
    damage(saved / name)
    with pytest.raises(DataError) as caught:
        load(saved / name)
    message = str(caught.value)
    assert message.startswith("dataset.path: ")
    assert str(saved / name) in message
    assert "`save_to_disk`" in message
    assert "type: files" in message

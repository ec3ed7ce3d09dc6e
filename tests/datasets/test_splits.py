"""From a table to train, validation and test: cuts, samples, label names, and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st

import bertkit
from bertkit.datasets.memory import Memory
from bertkit.datasets.splits import fingerprint, hold_out, load_splits, stratified_indices
from bertkit.errors import DataError
from bertkit.records import Context, Splits
from bertkit.tasks import Kind, MultiLabel, Regression, TaskOptions
from tests.conftest import reviews

ROW_1 = "(row 1 is the first text, after any header line)"


class Voice:
    """A context's `say` and `warn`, kept."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def context(self, seed: int = 42) -> Context:
        return Context(seed=seed, say=self.said.append, warn=self.warned.append)

    @property
    def of_splits(self) -> list[str]:
        """What was said, but for the task."""
        assert self.said[0].startswith("task: ")
        return self.said[1:]

    @property
    def doubted(self) -> list[str]:
        """What was warned of, but for the few texts that a split of a test has."""
        return [line for line in self.warned if "texts, each of which weighs" not in line]


def table(count: int = 40, labels: str = "ab", start: int = 0) -> Dataset:
    numbers = range(start, start + count)
    return Dataset.from_dict(
        {
            "text": [f"text {i}" for i in numbers],
            "label": [labels[i % len(labels)] for i in numbers],
        }
    )


def splits_of(
    data: Any,
    voice: Voice | None = None,
    *,
    seed: int = 42,
    task: Kind | None = None,
    **options: Any,
) -> Splits:
    loader = Memory.model_validate({"data": data, **options})
    said = TaskOptions(type=task) if task else None
    return load_splits(loader, (voice or Voice()).context(seed), said)


def refusal(data: Any, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        splits_of(data, **options)
    return str(caught.value)


def rows(texts: list[Any], labels: list[Any]) -> Dataset:
    return Dataset.from_dict({"text": texts, "label": labels})


def sizes(splits: Splits) -> dict[str, int]:
    return {name: split.num_rows for name, split in splits.items()}


# which rows play which part


@pytest.mark.field("dataset.train")
@pytest.mark.field("dataset.validation")
@pytest.mark.field("dataset.test")
def test_splits_are_named():
    data = DatasetDict(a=table(6), b=table(4, start=6), c=table(2, start=10), rest=table(9))
    splits = splits_of(data, train="a", validation="b", test="c")
    assert sizes(splits) == {"train": 6, "validation": 4, "test": 2}
    assert splits.test is not None
    assert splits.test["text"][:] == ["text 10", "text 11"]


def test_splits_with_the_usual_names_are_found():
    data = DatasetDict(train=table(6), validation=table(4, start=6), test=table(2, start=10))
    assert sizes(splits_of(data)) == {"train": 6, "validation": 4, "test": 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": "tets"},
         "dataset.test: there is no split `tets`. Did you mean `test`? Found: train, test."),
        ({"train": "all"}, "dataset.train: there is no split `all`. Found: train, test."),
    ],
)  # fmt: skip
def test_a_split_that_is_not_there(options, message):
    assert refusal(DatasetDict(train=table(), test=table()), **options) == message


def test_where_only_train_is_given_shares_are_held_out_and_the_log_says_so():
    voice = Voice()
    splits = splits_of(table(40), voice)
    assert sizes(splits) == {"train": 28, "validation": 4, "test": 8}
    assert voice.of_splits == [
        "test: 8 texts held out of train, stratified (none was given)",
        "validation: 4 texts held out of train, stratified (none was given)",
    ]


def test_with_a_test_split_and_no_validation_a_tenth_of_train_is_held_out():
    voice = Voice()
    splits = splits_of(DatasetDict(train=table(40), test=table(3, start=40)), voice)
    assert sizes(splits) == {"train": 36, "validation": 4, "test": 3}
    assert voice.of_splits == ["validation: 4 texts held out of train, stratified (none was given)"]


@pytest.mark.field("dataset.test")
def test_test_0_means_none():
    assert sizes(splits_of(table(40), test=0)) == {"train": 36, "validation": 4}


@pytest.mark.parametrize("validation", [0, 0.1])
def test_with_a_word_on_validation_no_test_is_held_out_unasked(validation):
    assert splits_of(table(40), validation=validation).test is None


@pytest.mark.field("dataset.validation")
def test_validation_0_means_none():
    splits = splits_of(table(40), validation=0)
    assert sizes(splits) == {"train": 40}
    assert splits.validation is None


def test_too_few_texts_to_hold_some_out_go_on_without_where_none_was_asked_for():
    voice = Voice()
    assert sizes(splits_of(table(2), voice)) == {"train": 2}
    assert voice.warned == [
        "test: none was given, and 2 texts are too few to hold some out",
        "validation: none was given, and 2 texts are too few to hold some out",
    ]
    assert refusal(table(4), validation=0.1) == (
        "dataset.validation: 0.1 of 4 texts leaves validation empty; give a larger share, more "
        "texts, or 0 for none"
    )


def test_shares_are_of_all_rows_and_keep_the_proportions_of_the_labels():
    voice = Voice()
    splits = splits_of(table(100, "aaab"), voice, validation=0.2, test=0.2)
    assert sizes(splits) == {"train": 60, "validation": 20, "test": 20}
    assert splits.summary() == {
        "train": {"a": 45, "b": 15},
        "validation": {"a": 15, "b": 5},
        "test": {"a": 15, "b": 5},
    }
    assert voice.of_splits == [
        "test: 20 texts held out of train, stratified",
        "validation: 20 texts held out of train, stratified",
    ]


@pytest.mark.field("seed")
def test_the_seed_decides_which_rows_are_held_out():
    def test_rows(seed: int) -> list[str]:
        split = splits_of(table(40), seed=seed, test=0.2).test
        assert split is not None
        return list(split["text"][:])

    assert test_rows(1) == test_rows(1)
    assert test_rows(1) != test_rows(2)


LABELS = st.lists(st.integers(0, 4), min_size=2, max_size=60).map(np.array)


@settings(max_examples=200, deadline=None)
@given(labels=LABELS, share=st.floats(0, 0.99), seed=st.integers(0, 2**32 - 1))
def test_holding_out_is_a_seeded_stratified_partition(labels, share, seed):
    count = round(share * len(labels))
    held = stratified_indices(labels, count, seed)
    assert np.array_equal(held, stratified_indices(labels, count, seed))
    assert len(set(held.tolist())) == len(held)
    assert set(held.tolist()) <= set(range(len(labels)))

    whole, taken = Counter(labels.tolist()), Counter(labels[held].tolist())
    assert all(taken[label] < size for label, size in whole.items())  # one of each stays
    available = len(labels) - len(whole)
    assert len(held) == min(count, available)
    # as near to its share as whole rows allow; more only where another label ran out of rows
    full = any(taken[label] == size - 1 for label, size in whole.items())
    exact = {label: Fraction(size * count, len(labels)) for label, size in whole.items()}
    for label, size in whole.items():
        assert taken[label] >= min(int(exact[label]), size - 1)
        assert full or taken[label] <= exact[label] + 1
    if not full:  # the largest remainders are rounded up
        missed = {label: share - taken[label] for label, share in exact.items()}
        up = [exact[i] % 1 for i in whole if missed[i] < 0]
        down = [exact[i] % 1 for i in whole if missed[i] > 0]
        assert not (up and down) or min(up) >= max(down)


ID_SETS = st.lists(st.sets(st.integers(0, 4), max_size=3).map(sorted), min_size=2, max_size=40)
MANY = MultiLabel(tuple("abcde"))


@settings(max_examples=200, deadline=None)
@given(ids=ID_SETS, share=st.floats(0, 0.99), seed=st.integers(0, 2**32 - 1))
def test_of_several_labels_a_text_each_keeps_one_text_behind(ids, share, seed):
    count = round(share * len(ids))
    held = set(stratified_indices(MANY.strata(ids), count, seed, ids).tolist())
    rest = [labels for row, labels in enumerate(ids) if row not in held]
    assert rest
    assert set().union(*rest) == set().union(*ids)
    # no text but those that a label needs is kept back
    assert len(held) >= min(count, len(ids) - max(1, len(set().union(*ids))))
    assert len(held) <= count


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.floats(-5, 5), min_size=2, max_size=80),
    share=st.floats(0, 0.99),
    seed=st.integers(0, 2**32 - 1),
)
def test_of_numbers_each_tenth_gives_its_share_and_as_many_as_asked_for_are_held_out(
    values, share, seed
):
    count = round(share * len(values))
    strata = Regression(("x",)).strata([[value] for value in values])
    held = stratified_indices(strata, count, seed, [()] * len(values))
    assert len(held) == len(set(held.tolist())) == min(count, len(values) - 1)
    for group, size in enumerate(np.bincount(strata)):
        assert abs((strata[held] == group).sum() - size * len(held) / len(values)) <= 1


@settings(max_examples=50, deadline=None)
@given(labels=LABELS, share=st.floats(0.01, 0.9))
def test_both_parts_together_are_all_rows_in_their_order(labels, share):
    texts = [str(i) for i in range(len(labels))]
    rest, held = hold_out(rows(texts, labels.tolist()), share, 7)
    parts = [part["text"][:] for part in (rest, held)]
    assert sorted(parts[0] + parts[1], key=int) == texts
    for part, split in zip(parts, (rest, held), strict=True):
        assert part == sorted(part, key=int)
        assert split["label"][:] == [labels[int(i)] for i in part]


# few texts


def few(count: int, validation: int) -> str:
    """Return the warning of a validation split with so many texts."""
    texts = "one text" if count == 1 else f"{count} texts"
    share = round(100 / count)
    name = "validation" if validation else "test"
    return (
        f"{name} has only {texts}, each of which weighs {share} %: its score is partly chance; "
        "label more texts, or compare several seeds"
    )


@pytest.mark.parametrize("classes", [2, 5, 20])
@pytest.mark.parametrize("shots", [8, 16, 64])
def test_with_few_texts_a_class_the_defaults_leave_no_split_empty_and_no_class_out_of_train(
    shots, classes
):
    voice = Voice()
    data = table(shots * classes, "abcdefghijklmnopqrst"[:classes])
    splits = splits_of(data, voice)
    whole = shots * classes
    expected = {"validation": round(0.1 * whole), "test": round(0.2 * whole)}
    assert sizes(splits) == {"train": whole - sum(expected.values()), **expected}
    counts = splits.summary()
    assert min(counts["train"].values()) >= 5
    assert max(counts["train"].values()) - min(counts["train"].values()) <= 2
    assert voice.warned == [few(n, r == "validation") for r, n in expected.items() if n < 30]


@settings(max_examples=60, deadline=None)
@given(sizes_of=st.lists(st.integers(1, 70), min_size=2, max_size=20), seed=st.integers(0, 99))
def test_whatever_the_sizes_of_the_classes_all_are_in_train_and_the_shares_are_kept(sizes_of, seed):
    labels = [f"class {i}" for i, size in enumerate(sizes_of) for _ in range(size)]
    voice = Voice()
    splits = splits_of(rows([f"text {i}" for i in range(len(labels))], labels), voice, seed=seed)
    counts = splits.summary()
    assert min(counts["train"].values()) >= 1
    left = len(labels) - len(sizes_of)  # all but one text a class may be held out
    found = sizes(splits)
    test = min(round(0.2 * len(labels)), left)
    assert found.get("test", 0) == test
    assert found.get("validation", 0) == min(round(0.1 * len(labels)), left - test)
    for role in ("test", "validation"):
        few_texts = few(found.get(role, 0) or 1, role == "validation") in voice.warned
        assert few_texts == (0 < found.get(role, 0) < 30)
        none = f"{role}: none was given, and {len(labels)} texts are too few to hold some out"
        assert (none in voice.warned) == (role not in found)


@pytest.mark.parametrize("count", [16, 32, 128])
def test_few_texts_with_several_labels_or_numbers_are_cut_alike(count):
    texts = [f"text {i}" for i in range(count)]
    lists = [[("a", "b", "c", "d")[i % 4], "rare"][: 1 + (i % 8 == 0)] for i in range(count)]
    numbers = [i / 2 for i in range(count)]
    for labels in (lists, numbers):
        splits = splits_of(rows(texts, labels))
        expected = {"validation": round(0.1 * count), "test": round(0.2 * count)}
        assert sizes(splits) == {"train": count - sum(expected.values()), **expected}


def test_a_tie_between_strata_is_settled_by_lot():
    strata = np.arange(30) // 3  # ten of three
    held = [stratified_indices(strata, 3, seed, [()] * 30) // 3 for seed in range(200)]
    counts = np.bincount(np.concatenate(held), minlength=10)
    assert all(len(set(one)) == 3 for one in held)
    assert counts.min() > 35  # of 60 to be expected
    assert counts.max() < 85


# sample


@pytest.mark.field("dataset.sample.train")
@pytest.mark.field("dataset.sample.validation")
@pytest.mark.field("dataset.sample.test")
@pytest.mark.field("dataset.sample.seed")
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_sample_is_what_shuffle_and_select_of_datasets_give(split):
    data = DatasetDict(train=table(50), validation=table(40, start=50), test=table(30, start=90))
    voice = Voice()
    splits = splits_of(data, voice, sample={split: 12, "seed": 7})
    chosen = getattr(splits, split)
    assert chosen["text"][:] == data[split].shuffle(seed=7).select(range(12))["text"][:]
    others = {name: data[name].num_rows for name in data if name != split}
    assert sizes(splits) == {**others, split: 12}
    assert voice.of_splits == [f"{split}: 12 of {data[split].num_rows} texts sampled, seed 7"]


@pytest.mark.field("dataset.sample.seed")
def test_a_sample_is_drawn_with_the_seed_of_the_run_where_it_has_none():
    first = splits_of(table(50), seed=3, validation=0, sample={"train": 9})
    second = splits_of(table(50), seed=8, validation=0, sample={"train": 9, "seed": 3})
    other = splits_of(table(50), seed=8, validation=0, sample={"train": 9})
    assert first.train["text"][:] == second.train["text"][:] != other.train["text"][:]


def test_what_is_held_out_is_sampled_too():
    splits = splits_of(table(100), test=0.2, sample={"train": 50, "validation": 3, "test": 4})
    assert sizes(splits) == {"train": 35, "validation": 3, "test": 4}


def test_a_sample_larger_than_the_split_is_the_split_with_a_warning():
    voice = Voice()
    splits = splits_of(table(10), voice, validation=0, sample={"train": 11})
    assert splits.train["text"][:] == table(10)["text"][:]
    assert voice.warned == ["dataset.sample.train: 11 texts asked for, 10 are there"]


def test_a_sample_that_leaves_one_label():
    data = rows([str(i) for i in range(200)], ["rare"] + ["usual"] * 199)
    assert refusal(data, validation=0, sample={"train": 3}) == (
        "train: every one of its 3 texts has the label `usual`; at least two labels are needed; "
        "dataset.sample.train draws 3 of 200 texts"
    )


def test_a_sample_that_loses_labels_says_which():
    data = rows([str(i) for i in range(200)], ["rare"] + ["usual", "common"] * 99 + ["usual"])
    voice = Voice()
    splits = splits_of(data, voice, validation=0, sample={"train": 9})
    assert splits.task.labels == ("common", "rare", "usual")
    assert voice.warned == ["train has no text for 1 of 3 labels: rare"]


# label names


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a", "b"], ("a", "b")),
        ([10, 9, -1], ("-1", "9", "10")),
        (["10", "9"], ("9", "10")),
        ([1.0, 0.0], ("0", "1")),
        ([True, False], ("False", "True")),
        (["负面", "正面"], ("正面", "负面")),
    ],
)
def test_names_come_in_one_order_whatever_the_order_of_the_rows(labels, names):
    for some in (labels, labels[::-1]):
        splits = splits_of(rows([str(i) for i in range(len(some))], some), validation=0)
        assert splits.task.labels == names
        assert [splits.task.labels[i] for i in splits.train["label"]] == [
            str(int(one)) if isinstance(one, float) else str(one) for one in some
        ]


def test_labels_that_are_the_same_number_have_one_order_in_every_process(tmp_path):
    """The order of a set of strings differs from process to process."""
    import os
    import subprocess
    import sys

    code = (
        "from bertkit.datasets.inline import Inline\n"
        "from bertkit.datasets.splits import load_splits\n"
        "from bertkit.records import Context\n"
        "rows = [{'text': t, 'label': t} for t in ('1', '01', '001', '2')]\n"
        "print(load_splits(Inline(train=rows, validation=0), Context()).task.labels)\n"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert answers == {"('001', '01', '1', '2')\n"}


CLASSES = Features(text=Value("string"), label=ClassLabel(names=["sad", "glad", "mad"]))


def classes(*ids: int | None) -> Dataset:
    texts = [f"text {i}" for i in range(len(ids))]
    return Dataset.from_dict({"text": texts, "label": list(ids)}, features=CLASSES)


@pytest.mark.field("dataset.labels")
@pytest.mark.parametrize(
    ("labels", "names", "values"),
    [
        (None, ("sad", "glad", "mad"), ["mad", "sad", "glad"]),
        (["S", "G", "M"], ("S", "G", "M"), ["M", "S", "G"]),
        (["glad", "mad", "sad"], ("glad", "mad", "sad"), ["mad", "sad", "glad"]),
        ({"2": "M", "0": "S", "1": "G"}, ("M", "S", "G"), ["M", "S", "G"]),
        ({"mad": "M", "sad": "S", "glad": "S"}, ("M", "S"), ["M", "S", "S"]),
    ],
)
def test_a_class_label_column_brings_its_names_which_labels_may_replace_or_order(
    labels, names, values
):
    splits = splits_of(classes(2, 0, 1), validation=0, labels=labels)
    assert splits.task.labels == names
    assert [names[i] for i in splits.train["label"]] == values


@pytest.mark.field("dataset.labels")
@pytest.mark.parametrize(
    ("found", "labels", "names", "values"),
    [
        (["x", "y"], ["y", "x"], ("y", "x"), {"y": "y", "x": "x"}),
        ([0, 1], ["no", "yes"], ("no", "yes"), {"0": "no", "1": "yes"}),
        ([1, 2], ["2", "1"], ("2", "1"), {"2": "2", "1": "1"}),
        (["x", "y"], {"y": "Y", "x": "X"}, ("Y", "X"), {"y": "Y", "x": "X"}),
        ([1, 2, 3], {1: "bad", 2: "good", 3: "good"}, ("bad", "good"),
         {"1": "bad", "2": "good", "3": "good"}),
    ],
)  # fmt: skip
def test_labels_fix_names_and_order(found, labels, names, values):
    data = rows([f"text {i}" for i in found], found)
    splits = splits_of(data, validation=0, labels=labels)
    assert splits.task.labels == names
    assert splits.label_values == values
    assert [names[i] for i in splits.train["label"]] == [values[str(one)] for one in found]


def test_labels_that_nothing_has_are_kept_with_a_warning():
    voice = Voice()
    splits = splits_of(table(10), voice, validation=0, labels=["b", "c", "a"])
    assert splits.task.labels == ("b", "c", "a")
    assert voice.warned == ["train has no text for 1 of 3 labels: c"]


# what is refused

REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "empty and missing texts": (
        rows(["a", "", None, " \u3000\n", "\t"], list("xyxyx")), {},
        f"train: 4 of 5 texts are empty or missing, in rows 2, 3, 4, … {ROW_1}; remove those rows "
        "or fill the column `text`"),
    "missing labels": (
        rows(["a", "b", "c"], ["x", None, ""]), {},
        f"train: 2 of 3 labels are missing, in rows 2, 3 {ROW_1}; remove those rows or fill the "
        "column `label`"),
    "a label that is NaN": (
        rows(["a", "b", "c"], [1.0, 0.0, float("nan")]), {},
        f"train: 1 of 3 labels are missing, in row 3 {ROW_1}; remove those rows or fill the column "
        "`label`"),
    "a class label without a class": (
        classes(0, 1, -1), {},
        f"train: 1 label ids are outside 0 to 2, in row 3 {ROW_1}; the data has no label for them"),
    "a class label that is missing": (
        classes(0, 1, None), {},
        f"train: 1 of 3 labels are missing, in row 3 {ROW_1}; remove those rows or fill the column "
        "`label`"),
    "one class only": (
        rows(["a", "b"], ["x", "x"]), {},
        "train: every one of its 2 texts has the label `x`; at least two labels are needed"),
    "classes that a mapping makes one": (
        rows(["a", "b"], ["x", "y"]), {"labels": {"x": "same", "y": "same"}},
        "train: every one of its 2 texts has the label `same`; at least two labels are needed"),
    "a label that labels does not name": (
        rows(["a", "b", "c"], ["good", "goof", "bad"]), {"labels": ["good", "bad"]},
        f"train: 1 texts have 1 labels that are not among those dataset.labels names: 'goof' in "
        f"row 2 {ROW_1}. Did you mean `good`? Known: good, bad. "
        "Correct those rows or take them out"),
    "a label in test that train never had": (
        DatasetDict(train=table(), test=rows(["a", "b", "c"], ["a", "z", "z"])), {},
        f"test: 2 texts have 1 labels that are not among those train has: 'z' in row 2 {ROW_1}. "
        "Known: a, b. Correct those rows or take them out"),
    "a class in test that train never had": (
        DatasetDict(train=classes(0, 1), test=classes(2, 0, 2)), {"validation": 0},
        "test: 2 texts have labels that no train text has: mad; the model cannot learn them. Add "
        "train texts for them, or take them out of test"),
    "texts that are numbers": (
        rows([1, 2], ["x", "y"]), {},
        "dataset.text: column `text` of train holds int64; expected strings"),
    "a column for both": (
        table(), {"label": "text"},
        "dataset.label: the same column as dataset.text, `text`"),
    "no such column": (
        table(), {"label": "labels"},
        "dataset.label: train has no column `labels`. Did you mean `label`? Found: text, label."),
    "no rows": (
        DatasetDict(train=table(), test=table(0)), {},
        "dataset.test: the split `test` has no rows; expected texts in it"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_count_and_examples(case):
    data, options, message = REFUSED[case]
    assert refusal(data, **options) == message


def test_labels_of_test_that_train_lacks_are_only_warned_of_where_labels_names_them():
    data = DatasetDict(train=table(), test=rows(["x", "y"], ["a", "c"]))
    voice = Voice()
    splits = splits_of(data, voice, validation=0, labels=["a", "b", "c"])
    assert splits.task.labels == ("a", "b", "c")
    assert voice.doubted == [
        "test: 1 texts have labels that no train text has: c; the model cannot learn them",
        "train has no text for 1 of 3 labels: c",
    ]


def test_texts_that_stand_in_train_and_test_are_counted_in_a_warning():
    voice = Voice()
    splits_of(DatasetDict(train=table(10), test=table(5, start=8)), voice, validation=0)
    assert voice.doubted == [
        "test: 2 of 5 texts stand in train, too; scores on them flatter the model"
    ]


# fingerprints


def test_a_fingerprint_changes_with_any_text_label_or_order():
    base = ["ab", "c", "d"], [0, 1, 0]
    changed = [
        (["ab", "c", "e"], [0, 1, 0]),
        (["a", "bc", "d"], [0, 1, 0]),
        (["ab", "c", "d"], [0, 1, 1]),
        (["c", "ab", "d"], [1, 0, 0]),
        (["ab", "c"], [0, 1]),
        (["ab1:c0:d"], [0]),
    ]
    prints = {fingerprint(rows(*one)) for one in (base, *changed)}
    assert len(prints) == 1 + len(changed)
    assert fingerprint(rows(*base)) in prints


def test_fingerprints_of_a_run_are_those_of_its_splits():
    splits = splits_of(table(40), test=0.2)
    assert splits.fingerprints == {name: fingerprint(split) for name, split in splits.items()}
    assert splits.fingerprints != splits_of(table(40), seed=1, test=0.2).fingerprints


# runs


def run(encoder_dir: Path, output: Path, dataset: Any, **changes: Any) -> bertkit.RunResult:
    trainer = {"epochs": 2, "batch_size": 8, "precision": "fp32", "learning_rate": 1e-3}
    fixed = {"encoder": str(encoder_dir), "dataset": dataset, "output": str(output)}
    return bertkit.run({"trainer": trainer, **fixed, **changes})


def weights(result: bertkit.RunResult) -> str:
    return hashlib.sha256(Path(result.model_dir, "model.safetensors").read_bytes()).hexdigest()


def test_the_test_split_chooses_nothing(encoder_dir, tmp_path):
    """Other test texts and labels: the same weights, history, best step and validation scores."""
    tests = [reviews(12, seed=1), [{"text": "good " * 40, "label": "neg"}] * 3]
    results = []
    for i, test in enumerate(tests):
        data = {"train": Dataset.from_list(reviews()), "test": Dataset.from_list(test)}
        dataset = {"type": "memory", "data": data}
        results.append(run(encoder_dir, tmp_path / str(i), dataset))
    first, second = results
    assert first.metrics["test"] != second.metrics["test"]
    assert weights(first) == weights(second)
    assert first.metrics["validation"] == second.metrics["validation"]
    assert first.training["best"] == second.training["best"]
    timeless = [
        [{k: v for k, v in line.items() if "second" not in k} for line in result.history]
        for result in results
    ]
    assert timeless[0] == timeless[1]


@pytest.mark.field("dataset.labels")
def test_names_and_order_reach_the_saved_model_and_its_predictions(tmp_path):
    things = ["room", "staff", "bed", "food", "view"] * 5
    data = [
        {"text": f"{word} {thing}", "label": i}
        for thing in things
        for i, word in enumerate(("bad", "good"))
    ]
    result = bertkit.run(
        {
            "encoder": {"type": "scratch", "vocab_size": 200, "hidden_size": 32, "layers": 1},
            "dataset": {"type": "inline", "train": data, "labels": {"1": "GOOD", "0": "BAD"}},
            "trainer": {"epochs": 8, "precision": "fp32", "learning_rate": 1e-2, "best": None},
            "output": str(tmp_path / "run"),
        }
    )
    config = json.loads(Path(result.model_dir, "config.json").read_text())
    assert config["id2label"] == {"0": "GOOD", "1": "BAD"}
    assert config["label2id"] == {"GOOD": 0, "BAD": 1}
    assert result.task["labels"] == ["GOOD", "BAD"]
    found = bertkit.load(result.model_dir).predict(["good room", "bad room"])
    assert [prediction.label for prediction in found] == ["GOOD", "BAD"]

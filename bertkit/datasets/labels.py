"""The label columns of a table: what task they mean, and their values, every row checked."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from bertkit.datasets.base import DatasetLoader
from bertkit.errors import DataError, SpecError, suggest
from bertkit.tasks import Kind, MultiLabel, Regression, SingleLabel, Task

if TYPE_CHECKING:
    import datasets

SHOWN = 3
"""Examples that an error message shows."""
FIRST_ROW = "row 1 is the first text, after any header line"
MANY_CLASSES = 50
"""Whole numbers as labels: from so many different ones on, they may be meant as quantities."""
YES_NO = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
"""What may stand in a column that belongs to one label."""


class Labels(ABC):
    """How the label columns of one kind of task are read.

    Args:
        loader: names the columns, their separator and the labels.
        why: what the columns hold, in words.
        count: labels that there are; None where the data says so.
    """

    def __init__(self, loader: DatasetLoader, why: str = "", count: int | None = None) -> None:
        self.loader, self.why, self.count = loader, why, count
        self.columns = loader.label_columns
        self.shown = ", ".join(f"`{column}`" for column in self.columns)

    @abstractmethod
    def read(self, split: datasets.Dataset, role: str) -> list[Any]:
        """Return what the columns say of each row: a string, strings, or numbers.

        Raises:
            DataError: a value that is missing or means nothing, counted and with examples.
        """

    @abstractmethod
    def names(self, train: datasets.Dataset, values: Sequence[Any]) -> dict[str, str]:
        """Return every value that a label may have, and its name, in id order.

        Args:
            train: the train split as it was loaded.
            values: what `read` returned for it.
        """

    @abstractmethod
    def task(self, names: dict[str, str]) -> Task:
        """Return the task with these label names."""

    def doubt(self, names: Sequence[str]) -> str:
        """Return a warning where the labels look like those of another task; "" else."""
        return ""

    def number(
        self, values: Sequence[Any], names: dict[str, str], role: str, source: str
    ) -> list[Any]:
        """Return the column `label` of a split: an id, ids, or numbers for each row.

        Args:
            values: what `read` returned.
            names: what `names` returned.
            role: of the split, for messages.
            source: who knows the names, for messages.

        Raises:
            DataError: a value that is not among the names.
        """
        order = {name: i for i, name in enumerate(dict.fromkeys(names.values()))}
        strange: dict[str, list[int]] = {}
        for row, value in enumerate(values):
            for one in self.ids(value):
                if one not in names:
                    strange.setdefault(one, []).append(row)
        if strange:
            texts = len(set().union(*strange.values()))
            shown = ", ".join(f"{v!r} in row {r[0] + 1}" for v, r in list(strange.items())[:SHOWN])
            hint = suggest(next(iter(strange)), names)
            raise DataError(
                f"{role}: {texts} texts have {len(strange)} labels that are not among those "
                f"{source}: {shown} ({FIRST_ROW}).{hint} Known: {', '.join(list(names)[:20])}. "
                "Correct those rows or take them out"
            )
        return [self._id(value, lambda one: order[names[one]]) for value in values]

    def ids(self, value: Any) -> Iterable[Any]:
        """Return the labels in one value of `read` or `number`."""
        return (value,)

    def _id(self, value: Any, number: Any) -> Any:
        return number(value)

    def declared(self, found: set[str]) -> dict[str, str]:
        """Return values and names, as `dataset.labels` has them or else those found, sorted."""
        labels = self.loader.labels
        if isinstance(labels, dict):
            return dict(labels)
        if isinstance(labels, list):
            ids = [str(i) for i in range(len(labels))]
            if found <= set(ids) and not found <= set(labels):
                return dict(zip(ids, labels, strict=True))
            return {name: name for name in labels}
        if all(re.fullmatch(r"-?\d+(\.\d+)?", value) for value in found):
            return {v: v for v in sorted(found, key=lambda value: (float(value), value))}
        return {value: value for value in sorted(found)}

    def refuse_missing(self, missing: Sequence[bool], role: str) -> None:
        """Raise a DataError where a label is missing."""
        gone = [i for i, is_missing in enumerate(missing) if is_missing]
        if gone:
            columns = "column" if len(self.columns) == 1 else "columns"
            raise DataError(
                f"{role}: {len(gone)} of {len(missing)} labels are missing, in {rows(gone)}; "
                f"remove those rows or fill the {columns} {self.shown}"
            )


class _Single(Labels):
    """One label a text."""

    def read(self, split: datasets.Dataset, role: str) -> list[Any]:
        column = self.columns[0]
        labels, names = split[column][:], class_names(split, column)
        self.refuse_missing([is_missing(label) for label in labels], role)
        if names is not None:
            found = class_strings([[label] for label in labels], names, self.loader, role)
            return [string for (string,) in found]
        strings = [str(label) for label in labels]
        numbers = as_numbers(split, column, strings)
        if numbers is None:
            return strings
        self.refuse_missing([is_missing(number) for number in numbers], role)
        pairs = zip(strings, numbers, strict=True)
        return [str(int(number)) if number.is_integer() else string for string, number in pairs]

    def names(self, train: datasets.Dataset, values: Sequence[Any]) -> dict[str, str]:
        known = class_names(train, self.columns[0])
        if known and not self.loader.labels:
            return {name: name for name in known}
        return self.declared(set(values))

    def doubt(self, names: Sequence[str]) -> str:
        if len(names) < MANY_CLASSES or not all(name.lstrip("-").isdecimal() for name in names):
            return ""
        return (
            f"train has {len(names)} different whole numbers as labels, each taken for a class of "
            "its own; if they are quantities, write `task: regression`"
        )

    def task(self, names: dict[str, str]) -> Task:
        return SingleLabel(tuple(dict.fromkeys(names.values())))


class _Multi(Labels):
    """Any number of labels a text."""

    def ids(self, value: Any) -> Iterable[Any]:
        labels: list[Any] = value
        return labels

    def _id(self, value: Any, number: Any) -> Any:
        return sorted({number(one) for one in value})

    def task(self, names: dict[str, str]) -> Task:
        return MultiLabel(tuple(dict.fromkeys(names.values())))


class _Lists(_Multi):
    """A column of lists: names, ids, or a 0 or 1 for each label."""

    indicators: int | None = None
    """Length of the lists where they hold a 0 or 1 for each label; the first split decides."""

    def read(self, split: datasets.Dataset, role: str) -> list[Any]:
        column = self.columns[0]
        found = [list(one or ()) for one in split[column][:]]
        holes = [any(is_missing(one) for one in labels) for labels in found]
        if any(holes):
            where = [i for i, hole in enumerate(holes) if hole]
            raise DataError(
                f"{role}: {len(where)} of {len(found)} lists in column {self.shown} hold an empty "
                f"label, in {rows(where)}; take it out; a text without labels has an empty list"
            )
        names = class_names(split, column)
        if names is not None:
            return class_strings(found, names, self.loader, role)
        if self.indicators is None:
            self.indicators = len(found[0]) if are_indicators(found, self.count) else 0
        if self.indicators and self.count not in (None, self.indicators):
            raise DataError(
                f"{role}: the lists in column {self.shown} hold 0 or 1 for {self.indicators} "
                f"labels, and there are {self.count}; give a 0 or 1 for each"
            )
        if self.indicators:
            odd = [
                i for i, labels in enumerate(found)
                if len(labels) != self.indicators or not set(labels) <= {0, 1}
            ]  # fmt: skip
            if odd:
                raise DataError(
                    f"{role}: {len(odd)} of {len(found)} lists in column {self.shown} do not hold "
                    f"{self.indicators} values of 0 or 1, as those of train do, in {rows(odd)}"
                )
            return [[str(i) for i, one in enumerate(labels) if one] for labels in found]
        return [[str(one) for one in labels] for labels in found]

    def names(self, train: datasets.Dataset, values: Sequence[Any]) -> dict[str, str]:
        known, labels = class_names(train, self.columns[0]), self.loader.labels
        if known and not labels:
            return {name: name for name in known}
        if self.indicators and labels and len(labels) != self.indicators:
            raise SpecError(
                f"dataset.labels: {len(labels)} names, and the lists in column {self.shown} hold 0 "
                f"or 1 for {self.indicators} labels; give one name for each"
            )
        found = {one for value in values for one in value}
        return self.declared(found | set(map(str, range(self.indicators or 0))))


class _Joined(_Multi):
    """A column of strings with a separator between the labels."""

    def read(self, split: datasets.Dataset, role: str) -> list[Any]:
        separator = str(self.loader.separator)
        column = split[self.columns[0]][:]
        cells = ("" if is_missing(cell) else str(cell) for cell in column)
        parts = (cell.split(separator) for cell in cells)
        return [[one.strip() for one in labels if one.strip()] for labels in parts]

    def names(self, train: datasets.Dataset, values: Sequence[Any]) -> dict[str, str]:
        return self.declared({one for labels in values for one in labels})


class _Columns(_Multi):
    """One column for each label, with 0 or 1."""

    def read(self, split: datasets.Dataset, role: str) -> list[Any]:
        given: list[list[str]] = [[] for _ in range(split.num_rows)]
        for column in self.columns:
            cells = split[column][:]
            flags = [flag(cell) for cell in cells]
            strange = [i for i, one in enumerate(flags) if one is None]
            if strange:
                raise DataError(
                    f"{role}: {len(strange)} of {len(cells)} values in column `{column}` are "
                    f"neither 0 nor 1, such as {cells[strange[0]]!r} in {rows(strange[:1])}; "
                    "expected 0 or 1 in a column that belongs to one label"
                )
            for labels, one in zip(given, flags, strict=True):
                if one:
                    labels.append(column)
        return given

    def names(self, train: datasets.Dataset, values: Sequence[Any]) -> dict[str, str]:
        labels = self.loader.labels
        if labels is None:
            return {column: column for column in self.columns}
        known = (
            labels if isinstance(labels, dict) else dict(zip(self.columns, labels, strict=False))
        )
        if set(known) != set(self.columns) or len(labels) != len(self.columns):
            raise SpecError(
                f"dataset.labels: {len(labels)} names do not fit the {len(self.columns)} columns "
                f"of dataset.label ({', '.join(self.columns)}); give one name for each"
            )
        return {column: known[column] for column in self.columns}


class _Numbers(Labels):
    """One number a text, or several: a column each, or a column of lists."""

    def read(self, split: datasets.Dataset, role: str) -> list[Any]:
        if is_list(split, self.columns[0]):
            found = [list(one or ()) for one in split[self.columns[0]][:]]
            self.refuse_missing([not one for one in found], role)
            odd = [i for i, one in enumerate(found) if len(one) != len(found[0])]
            if odd:
                raise DataError(
                    f"{role}: the lists in column {self.shown} have different lengths, such as "
                    f"{len(found[0])} in row 1 and {len(found[odd[0]])} in {rows(odd[:1])}; "
                    "expected as many numbers in each"
                )
            return self._floats(found, role)
        columns = zip(*(split[column][:] for column in self.columns), strict=True)
        classes = ", or write `task: single_label` if the labels are classes"
        return self._floats(columns, role, classes if len(self.columns) == 1 else "")

    def _floats(
        self, values: Iterable[Sequence[Any]], role: str, otherwise: str = ""
    ) -> list[list[float]]:
        result: list[list[float]] = []
        missing, strange = [], []
        for row, cells in enumerate(values):
            numbers = [_number(cell) for cell in cells]
            result.append([math.nan if number is None else number for number in numbers])
            missing.append(any(is_missing(cell) or number != number
                               for cell, number in zip(cells, numbers, strict=True)))  # fmt: skip
            bad = [c for c, n in zip(cells, numbers, strict=True) if n is None or math.isinf(n)]
            if bad:
                strange.append((row, bad[0]))
        self.refuse_missing(missing, role)
        if strange:
            shown = ", ".join(f"{value!r} in row {row + 1}" for row, value in strange[:SHOWN])
            raise DataError(
                f"{role}: {len(strange)} of {len(result)} labels in column {self.shown} are no "
                f"finite numbers: {shown} ({FIRST_ROW}); a regression learns numbers. Correct "
                f"those rows{otherwise}"
            )
        return result

    def names(self, train: datasets.Dataset, values: Sequence[Any]) -> dict[str, str]:
        count, labels = len(values[0]), self.loader.labels
        names = list(self.columns)
        if len(names) != count:
            names = [f"{self.columns[0]}_{i}" for i in range(count)]
        if labels is None:
            return {name: name for name in names}
        if isinstance(labels, dict) or len(labels) != count:
            found = "a mapping" if isinstance(labels, dict) else f"{len(labels)} names"
            raise SpecError(
                f"dataset.labels: {found}, and the targets of the regression are: "
                f"{', '.join(names)}; give a list with one name for each, or none"
            )
        return dict(zip(names, labels, strict=True))

    def task(self, names: dict[str, str]) -> Task:
        return Regression(tuple(names.values()))

    def number(
        self, values: Sequence[Any], names: dict[str, str], role: str, source: str
    ) -> list[Any]:
        if values and len(values[0]) != len(names):
            raise DataError(
                f"{role}: {len(values[0])} numbers a text; {source} {len(names)}: "
                f"{', '.join(names.values())}"
            )
        return list(values)

    def ids(self, value: Any) -> Iterable[Any]:
        return ()


def labels_of(
    loader: DatasetLoader, train: datasets.Dataset, said: Kind | None, count: int | None = None
) -> Labels:
    """Return the reader of a table's labels.

    Args:
        loader: names the label columns and their separator.
        train: the train split as it was loaded.
        said: what the user says the task is; None to infer it from the columns.
        count: labels that there are; None where the data says so.

    Raises:
        SpecError: what is said cannot be, with these columns.
        DataError: the values are of several kinds.
    """
    columns, separator = loader.label_columns, loader.separator
    listed = [column for column in columns if is_list(train, column)]
    classes = any(class_names(train, column) is not None for column in columns)
    if listed and len(columns) > 1:
        raise DataError(
            f"dataset.label: column `{listed[0]}` of train holds lists; give either one column of "
            "lists, or several columns of single values"
        )
    if separator is not None and (listed or classes or len(columns) > 1):
        what = f"column `{columns[0]}` holds {'lists' if listed else 'classes'}"
        if len(columns) > 1:
            what = f"dataset.label names {len(columns)} columns"
        raise SpecError(
            f"dataset.separator: splits one column of joined strings, and {what}; take the "
            "separator out"
        )
    found, why = _infer(loader, train, bool(listed), said, count)
    single = len(columns) == 1 and not listed
    can_be = {
        "single_label": single and found == "regression",  # each number is a class
        "multi_label": len(columns) > 1,
        "regression": separator is None and not classes,
    }
    kind: Kind = said or found
    if kind != found and not can_be[kind]:
        advice = {
            "single_label": "one column with one value a text",
            "multi_label": "a column of lists, a column of 0 and 1 for each label, or "
            "dataset.separator",
            "regression": "numbers",
        }[kind]
        raise SpecError(f"task: {kind}, but {why}, which means {found}; expected {advice}")
    if kind == "regression":
        return _Numbers(loader, why)
    if kind == "single_label":
        return _Single(loader, why)
    reader = _Lists if listed else _Joined if separator is not None else _Columns
    return reader(loader, why, count)


def _infer(
    loader: DatasetLoader,
    train: datasets.Dataset,
    listed: bool,
    said: Kind | None,
    count: int | None,
) -> tuple[Kind, str]:
    """Return what the columns mean, and why."""
    columns = loader.label_columns
    shown = ", ".join(f"`{column}`" for column in columns)
    if listed:
        if is_float(train, columns[0]) and not are_indicators(train[columns[0]][:], count):
            return "regression", f"column {shown} holds lists of decimal numbers"
        return "multi_label", f"column {shown} holds lists of labels"
    if loader.separator is not None:
        return "multi_label", f"dataset.separator splits column {shown}"
    if len(columns) > 1:
        cells = [(name, i, cell) for name in columns for i, cell in enumerate(train[name][:])]
        if all(flag(cell) is not None for _, _, cell in cells):
            return "multi_label", f"columns {shown} hold 0 and 1"
        words = [
            (name, row, cell) for name, row, cell in cells
            if class_names(train, name) or (_number(cell) is None and not is_missing(cell))
        ]  # fmt: skip
        if words and said is None:
            name, row, word = words[0]
            known = class_names(train, name)
            value = known[word] if known else word
            raise DataError(
                f"train: several label columns hold either 0 or 1, one column for each label, or "
                f"the numbers of a regression; found {value!r} in column `{name}`, {rows([row])}. "
                "Correct it, or name one column in dataset.label"
            )
        return "regression", f"columns {shown} hold numbers"
    if class_names(train, columns[0]) is not None:
        return "single_label", f"column {shown} holds classes"
    strings = [str(cell) for cell in train[columns[0]][:] if not is_missing(cell)]
    numbers = as_numbers(train, columns[0], strings)
    if numbers is not None and not all(number.is_integer() for number in numbers):
        return "regression", f"column {shown} holds numbers with a fraction"
    if numbers is None and said is None:
        _refuse_mixed(train[columns[0]][:], shown)
    return "single_label", f"column {shown} holds one class a text"


def _refuse_mixed(cells: Sequence[Any], shown: str) -> None:
    """Refuse numbers with a fraction among words: a regression with strange cells, or classes."""
    strings = [str(cell) for cell in cells]
    fractions = [s for s in strings if re.fullmatch(r"-?\d*\.\d*[1-9]\d*", s)]
    words = [
        i for i, cell in enumerate(cells) if not is_missing(cell) and _number(strings[i]) is None
    ]
    if fractions and words:
        raise DataError(
            f"train: column {shown} mixes numbers, such as {fractions[0]}, and words, such as "
            f"{strings[words[0]]!r} in {rows(words[:1])}; correct it, or write "
            "`task: single_label` if each of them is a class"
        )


def element(split: datasets.Dataset, column: str) -> Any:
    """Return the feature of a column, or of the elements of its lists."""
    feature = split.features[column]
    return feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)


def is_list(split: datasets.Dataset, column: str) -> bool:
    """Say whether a column holds lists."""
    feature = split.features[column]
    return isinstance(feature, list) or hasattr(feature, "feature")


def class_names(split: datasets.Dataset, column: str) -> list[str] | None:
    """Return the names of a ClassLabel column, or of a column of lists of them."""
    return getattr(element(split, column), "names", None)


def is_float(split: datasets.Dataset, column: str) -> bool:
    """Say whether a column, or its lists, hold floating-point numbers."""
    return str(getattr(element(split, column), "dtype", "")).startswith("float")


def class_strings(
    found: Sequence[Sequence[int]], names: Sequence[str], loader: DatasetLoader, role: str
) -> list[list[str]]:
    """Return the names of ClassLabel ids, row by row; the ids where `dataset.labels` names those.

    Raises:
        DataError: an id without a name.
    """
    strange = [i for i, ids in enumerate(found) if not all(0 <= one < len(names) for one in ids)]
    if strange:
        raise DataError(
            f"{role}: {len(strange)} label ids are outside 0 to {len(names) - 1}, "
            f"in {rows(strange)}; the data has no label for them"
        )
    by_name = loader.labels is None or set(names) & set(loader.labels)
    return [[names[one] if by_name else str(one) for one in ids] for ids in found]


def are_indicators(lists: Sequence[Sequence[Any]], count: int | None = None) -> bool:
    """Say whether lists hold a 0 or 1 for each label, and not the ids 0 and 1.

    Ids do not repeat in a list, so that only pairs leave a doubt: as ids, all of them would have
    the same two labels, which teaches nothing.

    Args:
        lists: of the train split, or of one to evaluate.
        count: labels that there are; None where the data says so.
    """
    length = len(lists[0] or ())
    if length < 2 or not all(len(one or ()) == length and set(one) <= {0, 1} for one in lists):
        return False
    return count in (None, length) or any(len(set(one)) < length for one in lists)


def as_numbers(split: datasets.Dataset, column: str, strings: Sequence[str]) -> list[float] | None:
    """Return decimal numbers; None where a string is none, or all are whole as they are written."""
    if not is_float(split, column) and not any("." in string for string in strings):
        return None
    if any(re.match(r"-?0\d|.*_", string) for string in strings):  # a code such as 01, no number
        return None
    try:
        return [float(string) for string in strings]
    except ValueError:
        return None


def flag(cell: object) -> int | None:
    """Return the 0 or 1 of a cell; None where it holds something else."""
    return YES_NO.get(str(cell).strip().lower())


def _number(value: Any) -> float | None:
    if isinstance(value, str) and "_" in value:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def is_missing(value: object) -> bool:
    """Say whether a cell is empty: null, NaN or blank."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def rows(numbers: Sequence[int]) -> str:
    """Say where: `rows 3, 7, 9, … (row 1 is the first text, after any header line)`."""
    shown = ", ".join(str(row + 1) for row in numbers[:SHOWN])
    return (
        f"row{'s' if len(numbers) > 1 else ''} {shown}{', …' if len(numbers) > SHOWN else ''} "
        f"({FIRST_ROW})"
    )

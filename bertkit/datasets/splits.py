"""From what a loader returns to `Splits`: columns, checks, label ids, cuts and samples."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bertkit.datasets.base import DatasetLoader, Sample
from bertkit.errors import DataError, suggest
from bertkit.records import Context, Splits
from bertkit.tasks import SingleLabel

if TYPE_CHECKING:
    import datasets
    import numpy as np

DEFAULT_VALIDATION = 0.1
DEFAULT_TEST = 0.2
SHOWN = 3
"""Examples that an error message shows."""
FIRST_ROW = "row 1 is the first text, after any header line"


def load_splits(loader: DatasetLoader, ctx: Context, task: str | None = None) -> Splits:
    """Load the data and make it ready for training.

    Args:
        loader: a dataset component.
        ctx: seed, warnings, log.
        task: what the user says the task is; None to infer it.

    Raises:
        DataError: a column, text or label that cannot be used, counted and with examples.
    """
    raw = loader.load(ctx)
    roles = _default_roles(loader.roles(), raw)
    loaded = {
        role: _texts_and_labels(_pick(raw, str(name), role), loader, role, task)
        for role, name in roles.items()
        if isinstance(name, str)
    }
    feature = raw[str(roles["train"])].features[loader.label]
    names = _label_names(loader, loaded["train"], getattr(feature, "names", None))
    source = "dataset.labels names" if loader.labels else "train has"
    numbered = {role: _number(split, names, role, source) for role, split in loaded.items()}
    task_record = SingleLabel(tuple(dict.fromkeys(names.values())))
    _check_labels(numbered, task_record.labels, declared=loader.labels is not None, ctx=ctx)

    sample = loader.sample or Sample()
    seed = ctx.seed if sample.seed is None else sample.seed
    splits = {r: _sample(s, getattr(sample, r), seed, r, ctx) for r, s in numbered.items()}
    shares = {r: s for r, s in roles.items() if isinstance(s, float) and s > 0}
    whole = splits["train"].num_rows
    for role in ("test", "validation"):
        if role in shares:
            rest, held = hold_out(splits["train"], shares[role], ctx.seed, of=whole)
            asked = loader.roles()[role] is not None
            if not held.num_rows and not asked:
                ctx.warn(f"{role}: none was given, and {whole} texts are too few to hold some out")
                continue
            if not held.num_rows:
                raise DataError(
                    f"dataset.{role}: {shares[role]:g} of {whole} texts leaves {role} empty; "
                    "give a larger share, more texts, or 0 for none"
                )
            splits["train"] = rest
            splits[role] = _sample(held, getattr(sample, role), seed, role, ctx)
            told = "" if asked else " (none was given)"
            ctx.say(f"{role}: {held.num_rows} texts held out of train, stratified{told}")
    used = label_ids(splits["train"])
    if len(used) < 2:
        raise DataError(
            f"dataset.sample.train: {splits['train'].num_rows} texts are left, all with the label "
            f"`{task_record.labels[used[0]]}`; at least two labels are needed"
        )
    _warn_of_absent(task_record.labels, used, ctx)
    fingerprints = {role: fingerprint(split) for role, split in splits.items()}
    _warn_of_overlap(splits, ctx)
    return Splits(
        task=task_record,
        train=splits["train"],
        validation=splits.get("validation"),
        test=splits.get("test"),
        fingerprints=fingerprints,
        columns={"text": loader.text, "label": loader.label},
        label_values=names,
    )


def labelled_rows(loader: DatasetLoader, names: dict[str, str], ctx: Context) -> datasets.Dataset:
    """Load the train rows of a loader, their labels numbered as a saved model has them.

    Args:
        loader: a dataset component.
        names: every value that a label may have, and its name, in id order.
        ctx: of the run.
    """
    raw = loader.load(ctx)
    role = str(loader.roles()["train"])
    rows = _texts_and_labels(_pick(raw, role, "train"), loader, role, "single_label")
    return _number(rows, names, role, "the model knows")


def check_columns(
    found: Sequence[str], wanted: dict[str, str], where: str, *, hint: str = ""
) -> None:
    """Refuse a table that lacks a column.

    Args:
        found: the table's columns.
        wanted: option that names a column, and the column.
        where: what the message calls the table.
        hint: a further sentence for the message.

    Raises:
        DataError: naming the option, what is near and what there is.
    """
    for option, column in wanted.items():
        if column not in found:
            raise DataError(
                f"{option}: {where} has no column `{column}`.{suggest(column, found)} "
                f"Found: {', '.join(found)}.{hint}"
            )


def label_ids(split: datasets.Dataset) -> list[int]:
    """Return the label ids that occur in a split, sorted."""
    import numpy as np

    return [int(i) for i in np.unique(split["label"][:])]


def _default_roles(
    roles: dict[str, str | float | None], raw: datasets.DatasetDict
) -> dict[str, str | float | None]:
    filled = dict(roles)
    only_one = roles["validation"] is None and "validation" not in raw
    if only_one:
        filled["validation"] = DEFAULT_VALIDATION
    elif roles["validation"] is None:
        filled["validation"] = "validation"
    if filled["test"] is None:
        filled["test"] = "test" if "test" in raw else DEFAULT_TEST if only_one else None
    return filled


def _pick(raw: datasets.DatasetDict, name: str, role: str) -> datasets.Dataset:
    if name not in raw:
        raise DataError(
            f"dataset.{role}: there is no split `{name}`.{suggest(name, raw)} "
            f"Found: {', '.join(raw) or 'none'}."
        )
    if raw[name].num_rows == 0:
        raise DataError(f"dataset.{role}: the split `{name}` has no rows; expected texts in it")
    return raw[name]


def _texts_and_labels(
    split: datasets.Dataset, loader: DatasetLoader, role: str, task: str | None
) -> datasets.Dataset:
    """Return columns `text` and `label` (strings, or ids of a ClassLabel), every row checked."""
    wanted = {"dataset.text": loader.text, "dataset.label": loader.label}
    check_columns(split.column_names, wanted, role)
    if loader.text == loader.label:
        raise DataError(f"dataset.label: the same column as dataset.text, `{loader.text}`")
    kind = split.features[loader.text]
    if getattr(kind, "dtype", None) not in ("string", "large_string", "string_view"):
        raise DataError(
            f"dataset.text: column `{loader.text}` of {role} holds {_type_name(kind)}; "
            "expected strings"
        )
    texts = split[loader.text][:]
    missing = [i for i, text in enumerate(texts) if text is None or not text.strip()]
    if missing:
        raise DataError(
            f"{role}: {len(missing)} of {len(texts)} texts are empty or missing, in "
            f"{_rows(missing)}; remove those rows or fill the column `{loader.text}`"
        )
    labels = split[loader.label][:]
    _refuse_missing([_is_missing(label) for label in labels], loader, role)
    return _frame(texts, _label_strings(split, loader, role, labels, task))


def _refuse_missing(missing: Sequence[bool], loader: DatasetLoader, role: str) -> None:
    gone = [i for i, is_missing in enumerate(missing) if is_missing]
    if gone:
        raise DataError(
            f"{role}: {len(gone)} of {len(missing)} labels are missing, in {_rows(gone)}; "
            f"remove those rows or fill the column `{loader.label}`"
        )


def _frame(texts: Sequence[str], labels: Sequence[Any]) -> datasets.Dataset:
    from datasets import Dataset

    return Dataset.from_dict({"text": list(texts), "label": list(labels)})


def _label_strings(
    split: datasets.Dataset,
    loader: DatasetLoader,
    role: str,
    labels: Sequence[Any],
    task: str | None,
) -> list[str]:
    from datasets import ClassLabel

    feature = split.features[loader.label]
    if isinstance(feature, ClassLabel):
        strange = [i for i, label in enumerate(labels) if not 0 <= label < feature.num_classes]
        if strange:
            raise DataError(
                f"{role}: {len(strange)} label ids are outside 0 to {feature.num_classes - 1}, "
                f"in {_rows(strange)}; the data has no label for them"
            )
        by_name = loader.labels is None or set(feature.names) & set(loader.labels)
        return [feature.names[label] if by_name else str(label) for label in labels]
    if isinstance(labels[0], (list, tuple, dict)):
        raise DataError(
            f"dataset.label: column `{loader.label}` of {role} holds {_type_name(feature)}; "
            "expected one string or whole number a text"
        )
    strings = [str(label) for label in labels]
    numbers = _as_numbers(strings)
    if numbers is None:
        return strings
    _refuse_missing([_is_missing(number) for number in numbers], loader, role)
    uneven = [i for i, number in enumerate(numbers) if not number.is_integer()]
    if uneven and task != "single_label":
        raise DataError(
            f"{role}: {len(uneven)} of {len(numbers)} labels in column `{loader.label}` are no "
            f"whole numbers, such as {strings[uneven[0]]} in {_rows(uneven[:1])}; "
            "expected classes. If each number is a class, write `task: single_label`"
        )
    whole = zip(strings, numbers, strict=True)
    return [str(int(number)) if number.is_integer() else string for string, number in whole]


def _as_numbers(strings: Sequence[str]) -> list[float] | None:
    """Return decimal numbers; None where a string is none, or all are whole as they are written."""
    if not any("." in string for string in strings):
        return None
    if any(re.match(r"-?0\d|.*_", string) for string in strings):  # a code such as 01, no number
        return None
    try:
        return [float(string) for string in strings]
    except ValueError:
        return None


def _label_names(
    loader: DatasetLoader, train: datasets.Dataset, class_names: list[str] | None
) -> dict[str, str]:
    """Return every value that a label may have, and its name, in id order."""
    found = set(train["label"][:])
    if class_names and not loader.labels:
        return {name: name for name in class_names}
    if isinstance(loader.labels, dict):
        return dict(loader.labels)
    if isinstance(loader.labels, list):
        ids = [str(i) for i in range(len(loader.labels))]
        if found <= set(ids) and not found <= set(loader.labels):
            return dict(zip(ids, loader.labels, strict=True))
        return {name: name for name in loader.labels}
    if all(re.fullmatch(r"-?\d+(\.\d+)?", value) for value in found):
        return {value: value for value in sorted(found, key=lambda value: (float(value), value))}
    return {value: value for value in sorted(found)}


def _number(
    split: datasets.Dataset, names: dict[str, str], role: str, source: str
) -> datasets.Dataset:
    order = {name: i for i, name in enumerate(dict.fromkeys(names.values()))}
    values = list(names)
    strange: dict[str, list[int]] = {}
    ids = []
    for row, value in enumerate(split["label"][:]):
        if value in names:
            ids.append(order[names[value]])
        else:
            strange.setdefault(value, []).append(row)
    if strange:
        rows = sum(map(len, strange.values()))
        shown = ", ".join(f"{v!r} in row {r[0] + 1}" for v, r in list(strange.items())[:SHOWN])
        hint = suggest(next(iter(strange)), values)
        raise DataError(
            f"{role}: {rows} texts have {len(strange)} labels that are not among those {source}: "
            f"{shown} ({FIRST_ROW}).{hint} Known: {', '.join(values[:20])}. "
            "Correct those rows or take them out"
        )
    return _frame(split["text"][:], ids)


def _check_labels(
    splits: dict[str, datasets.Dataset], names: Sequence[str], *, declared: bool, ctx: Context
) -> None:
    seen = label_ids(splits["train"])
    if len(seen) < 2:
        raise DataError(
            f"train: every text has the label `{names[seen[0]]}`; at least two labels are needed"
        )
    for role, split in splits.items():
        unseen = [i for i in label_ids(split) if i not in seen]
        if unseen:
            count = sum(label in unseen for label in split["label"][:])
            message = (
                f"{role}: {count} texts have labels that no train text has: "
                f"{', '.join(names[i] for i in unseen[:SHOWN])}; the model cannot learn them"
            )
            if not declared:
                raise DataError(f"{message}. Add train texts for them, or take them out of {role}")
            ctx.warn(message)


def _warn_of_absent(names: Sequence[str], used: Sequence[int], ctx: Context) -> None:
    absent = [name for i, name in enumerate(names) if i not in used]
    if absent:
        shown = ", ".join(absent[:SHOWN]) + (", …" if len(absent) > SHOWN else "")
        ctx.warn(f"train has no text for {len(absent)} of {len(names)} labels: {shown}")


def _sample(
    split: datasets.Dataset, count: int | None, seed: int, role: str, ctx: Context
) -> datasets.Dataset:
    if count is None:
        return split
    if count >= split.num_rows:
        if count > split.num_rows:
            ctx.warn(f"dataset.sample.{role}: {count} texts asked for, {split.num_rows} are there")
        return split
    ctx.say(f"{role}: {count} of {split.num_rows} texts sampled, seed {seed}")
    # the draw of `datasets`: a tutorial's shuffle(seed).select(range(n)) gives the same rows
    return (
        split.shuffle(seed=seed, keep_in_memory=True)
        .select(range(count))
        .flatten_indices(keep_in_memory=True)
    )


def hold_out(
    split: datasets.Dataset, share: float, seed: int, of: int | None = None
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Split off a share of the rows, stratified by label.

    Every label keeps at least one row in the rest, and both parts keep their order. Labels get
    seats by largest remainder, so that the held-out part has as many rows as asked for, as far as
    that rule allows.

    Args:
        split: with columns `text` and `label`.
        share: from 0 to 1.
        seed: of the draw; the same seed holds out the same rows.
        of: the number of rows that `share` refers to; those of `split` by default.
    """
    import numpy as np

    labels = np.asarray(split["label"][:])
    held = np.sort(stratified_indices(labels, round(share * (of or len(labels))), seed))
    rest = np.setdiff1d(np.arange(len(labels)), held)
    texts = split["text"][:]
    parts = [_frame([texts[i] for i in part], labels[part].tolist()) for part in (rest, held)]
    return parts[0], parts[1]


def stratified_indices(labels: np.ndarray[Any, Any], count: int, seed: int) -> np.ndarray[Any, Any]:
    """Draw `count` row numbers, in proportion to the labels, leaving one row of each label behind.

    Args:
        labels: int64 (n,).
        count: rows to draw; fewer come back where too few may be drawn.
        seed: of the draw.

    Returns:
        int64 row numbers, at most `count`, without repetition.
    """
    import numpy as np

    rng = np.random.default_rng([seed, 0x5EED])
    classes, sizes = np.unique(labels, return_counts=True)
    quota = sizes * (count / len(labels))
    seats = np.minimum(np.floor(quota).astype(int), sizes - 1)
    order = np.argsort(-(quota - np.floor(quota)), kind="stable")
    while seats.sum() < count and (seats < sizes - 1).any():
        for i in order:
            if seats.sum() < count and seats[i] < sizes[i] - 1:
                seats[i] += 1
    drawn = [
        rng.permutation(np.flatnonzero(labels == c))[:n]
        for c, n in zip(classes, seats, strict=True)
    ]
    return np.concatenate(drawn)


def fingerprint(split: datasets.Dataset) -> str:
    """Return the sha256 over the texts and labels of a split, in order."""
    digest = hashlib.sha256()
    for text, label in zip(split["text"][:], split["label"][:], strict=True):
        data = text.encode("utf-8", "surrogatepass")
        digest.update(f"{label}:{len(data)}:".encode() + data)
    return digest.hexdigest()


def _warn_of_overlap(splits: dict[str, datasets.Dataset], ctx: Context) -> None:
    train = set(splits["train"]["text"][:])
    for role in ("validation", "test"):
        if role in splits:
            both = sum(text in train for text in splits[role]["text"][:])
            if both:
                ctx.warn(
                    f"{role}: {both} of {splits[role].num_rows} texts stand in train, too; "
                    "scores on them flatter the model"
                )


def _rows(rows: Sequence[int]) -> str:
    """Say where: `rows 3, 7, 9, … (row 1 is the first text, after any header line)`."""
    shown = ", ".join(str(row + 1) for row in rows[:SHOWN])
    return (
        f"row{'s' if len(rows) > 1 else ''} {shown}{', …' if len(rows) > SHOWN else ''} "
        f"({FIRST_ROW})"
    )


def _is_missing(value: object) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _type_name(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or type(feature).__name__)

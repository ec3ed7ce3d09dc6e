"""From what a loader returns to `Splits`: columns, checks, label ids, cuts and samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bertkit.datasets.base import DatasetLoader, Sample
from bertkit.datasets.labels import SHOWN, Labels, element, is_list, labels_of, rows
from bertkit.errors import DataError, suggest
from bertkit.records import Context, Splits
from bertkit.tasks import NO_LABEL, Task, TaskOptions

if TYPE_CHECKING:
    import datasets
    import numpy as np

DEFAULT_VALIDATION = 0.1
DEFAULT_TEST = 0.2
FEW = 30
"""Texts in a validation or test split below which its scores are partly chance: a warning says so,
and under `best: auto` nothing is chosen by them."""


def load_splits(loader: DatasetLoader, ctx: Context, task: TaskOptions | None = None) -> Splits:
    """Load the data and make it ready for training.

    Args:
        loader: a dataset component.
        ctx: seed, warnings, log.
        task: what the user says the task is; None to infer it.

    Raises:
        DataError: a column, text or label that cannot be used, counted and with examples.
        SpecError: what is said of the task does not fit the data.
    """
    raw = loader.load(ctx)
    roles = _default_roles(loader.roles(), raw)
    picked = {r: _pick(raw, name, r) for r, name in roles.items() if isinstance(name, str)}
    for role, split in picked.items():
        _check_table(split, loader, role)
    _check_alike(picked, loader)
    labels = labels_of(loader, picked["train"], task.type if task else None)
    values = {role: labels.read(split, role) for role, split in picked.items()}
    names = labels.names(picked["train"], values["train"])
    source = "dataset.labels names" if loader.labels else "train has"
    splits = {
        role: _frame(split, loader, role, labels.number(values[role], names, role, source))
        for role, split in picked.items()
    }
    shape = labels.task(names)
    inferred = "" if task else f" (inferred: {labels.why}; `task` may say otherwise)"
    ctx.say(f"task: {shape.kind}{inferred}")
    _check_labels(splits, shape, labels, declared=loader.labels is not None, ctx=ctx)

    sample = loader.sample or Sample()
    seed = ctx.seed if sample.seed is None else sample.seed
    splits = {r: _sample(s, getattr(sample, r), seed, r, ctx) for r, s in splits.items()}
    shares = {r: s for r, s in roles.items() if isinstance(s, float) and s > 0}
    whole = splits["train"].num_rows
    for role in ("test", "validation"):
        if role in shares:
            column = splits["train"]["label"][:]
            rest, held = hold_out(
                splits["train"], shares[role], ctx.seed, of=whole,
                strata=shape.strata(column), ids=[labels.ids(value) for value in column],
            )  # fmt: skip
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
    if sample.train is not None and sample.train < picked["train"].num_rows:
        hint = f"; dataset.sample.train draws {sample.train} of {picked['train'].num_rows} texts"
    else:
        hint = ""
    _check_train(splits["train"], shape, labels, ctx, hint)
    _warn_of_few(splits, ctx)
    fingerprints = {role: fingerprint(split) for role, split in splits.items()}
    _warn_of_overlap(splits, ctx)
    texts = loader.text_columns
    columns: dict[str, Any] = {"text": list(texts) if len(texts) > 1 else texts[0]}
    columns["label"] = loader.label
    if loader.separator is not None:
        columns["separator"] = loader.separator
    return Splits(
        task=shape.fitted(splits["train"]["label"][:]),
        train=splits["train"],
        validation=splits.get("validation"),
        test=splits.get("test"),
        fingerprints=fingerprints,
        columns=columns,
        label_values=names,
    )


def labelled_rows(
    loader: DatasetLoader, task: Task, names: dict[str, str], ctx: Context
) -> datasets.Dataset:
    """Load the train rows of a loader, their labels numbered as a saved model has them.

    Args:
        loader: a dataset component.
        task: of the saved model.
        names: every value that a label may have, and its name, in id order.
        ctx: of the run.
    """
    raw = loader.load(ctx)
    role = str(loader.roles()["train"])
    split = _pick(raw, role, "train")
    _check_table(split, loader, role)
    labels = labels_of(loader, split, task.kind, task.num_labels)
    values = labels.number(labels.read(split, role), names, role, "the model knows")
    return _frame(split, loader, role, values)


def check_columns(
    found: Sequence[str], wanted: Mapping[str, str], where: str, *, hint: str = ""
) -> None:
    """Refuse a table that lacks a column.

    Args:
        found: the table's columns.
        wanted: column, and the option that names it.
        where: what the message calls the table.
        hint: a further sentence for the message.

    Raises:
        DataError: naming the option, what is near and what there is.
    """
    for column, option in wanted.items():
        if column not in found:
            raise DataError(
                f"{option}: {where} has no column `{column}`.{suggest(column, found)} "
                f"Found: {', '.join(found)}.{hint}"
            )


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
    return raw[name].with_format(None)


def _check_table(split: datasets.Dataset, loader: DatasetLoader, role: str) -> None:
    """Refuse columns that are not there, play two roles, or hold what is no label."""
    from datasets import ClassLabel, Value

    check_columns(split.column_names, loader.columns_by_option(), role)
    texts, labels = loader.text_columns, loader.label_columns
    if len(set(texts)) < len(texts):
        raise DataError(f"dataset.text: both texts are the column `{texts[0]}`; name two columns")
    for column in labels:
        if column in texts:
            raise DataError(f"dataset.label: the same column as dataset.text, `{column}`")
        if labels.count(column) > 1:
            raise DataError(f"dataset.label: the column `{column}` is named twice; name each once")
        inner = element(split, column)
        if not isinstance(inner, (Value, ClassLabel)):
            raise DataError(
                f"dataset.label: column `{column}` of {role} holds {split.features[column]}; "
                "expected a string or a number a text, or a list of them"
            )


def _check_alike(picked: Mapping[str, datasets.Dataset], loader: DatasetLoader) -> None:
    """Refuse a column that holds lists in one split and single values in another."""
    for column in loader.label_columns:
        for role, split in picked.items():
            if is_list(split, column) != is_list(picked["train"], column):
                lists, single = (role, "train") if is_list(split, column) else ("train", role)
                raise DataError(
                    f"dataset.label: column `{column}` holds lists in {lists} and single values "
                    f"in {single}; make them alike"
                )


def _frame(
    split: datasets.Dataset, loader: DatasetLoader, role: str, labels: Sequence[Any]
) -> datasets.Dataset:
    """Return the columns `text`, for pairs `text_pair`, and `label`, every text checked."""
    from datasets import Dataset

    columns = {}
    for name, column in zip(("text", "text_pair"), loader.text_columns, strict=False):
        columns[name] = _texts(split, column, role)
    return Dataset.from_dict({**columns, "label": list(labels)})


def _texts(split: datasets.Dataset, column: str, role: str) -> list[str]:
    kind = split.features[column]
    dtype = getattr(kind, "dtype", None)
    if dtype not in ("string", "large_string", "string_view"):
        raise DataError(
            f"dataset.text: column `{column}` of {role} holds {dtype or type(kind).__name__}; "
            "expected strings"
        )
    texts: list[str] = split[column][:]
    missing = [i for i, text in enumerate(texts) if text is None or not text.strip()]
    if missing:
        raise DataError(
            f"{role}: {len(missing)} of {len(texts)} texts are empty or missing, in "
            f"{rows(missing)}; remove those rows or fill the column `{column}`"
        )
    return texts


def _check_labels(
    splits: dict[str, datasets.Dataset], task: Task, labels: Labels, *, declared: bool, ctx: Context
) -> None:
    """Refuse or tell of labels that occur in a split and not in train."""
    seen = _used(splits["train"], labels)
    for role, split in splits.items():
        column = split["label"][:]
        unseen = sorted(_used(split, labels) - seen)
        if unseen:
            count = sum(any(one in unseen for one in labels.ids(value)) for value in column)
            message = (
                f"{role}: {count} texts have labels that no train text has: "
                f"{', '.join(task.labels[i] for i in unseen[:SHOWN])}; the model cannot learn them"
            )
            if not declared:
                raise DataError(f"{message}. Add train texts for them, or take them out of {role}")
            ctx.warn(message)
        none = task.summary(task.targets(column)).get(NO_LABEL, 0)
        if none:
            ctx.say(f"{role}: {none} of {len(column)} texts have no label")


def _used(split: datasets.Dataset, labels: Labels) -> set[int]:
    return {one for value in split["label"][:] for one in labels.ids(value)}


def _check_train(
    train: datasets.Dataset, task: Task, labels: Labels, ctx: Context, hint: str
) -> None:
    """Refuse a train split that teaches nothing, and tell of labels without texts."""
    used = _used(train, labels)
    try:
        task.check(train["label"][:])
    except DataError as error:
        raise DataError(f"{error}{hint}") from None
    absent = [name for i, name in enumerate(task.labels) if used and i not in used]
    if absent:
        shown = ", ".join(absent[:SHOWN]) + (", …" if len(absent) > SHOWN else "")
        ctx.warn(f"train has no text for {len(absent)} of {len(task.labels)} labels: {shown}")
    doubt = labels.doubt(task.labels)
    if doubt:
        ctx.warn(doubt)


def _warn_of_few(splits: dict[str, datasets.Dataset], ctx: Context) -> None:
    for role in ("validation", "test"):
        count = splits[role].num_rows if role in splits else FEW
        if count < FEW:
            texts = "one text" if count == 1 else f"{count} texts"
            ctx.warn(
                f"{role} has only {texts}, each of which weighs {100 / count:.0f} %: its score is "
                "partly chance; label more texts, or compare several seeds"
            )


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
    split: datasets.Dataset,
    share: float,
    seed: int,
    of: int | None = None,
    strata: np.ndarray[Any, Any] | None = None,
    ids: Sequence[Iterable[int]] | None = None,
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Split off a share of the rows, in equal parts of every stratum.

    Every label keeps at least one row in the rest, and both parts keep their order. Strata get
    seats by largest remainder, ties by lot, so that the held-out part has as many rows as asked
    for, as far as that rule allows.

    Args:
        split: with columns `text` and `label`.
        share: from 0 to 1.
        seed: of the draw; the same seed holds out the same rows.
        of: the number of rows that `share` refers to; those of `split` by default.
        strata: group of each row, int64 (n,); its label id by default.
        ids: label ids of each row; its group by default.
    """
    import numpy as np

    groups = np.asarray(split["label"][:]) if strata is None else strata
    held = np.sort(stratified_indices(groups, round(share * (of or len(groups))), seed, ids))
    rest = np.setdiff1d(np.arange(len(groups)), held)
    return split.select(rest), split.select(held)


def stratified_indices(
    strata: np.ndarray[Any, Any],
    count: int,
    seed: int,
    ids: Sequence[Iterable[int]] | None = None,
) -> np.ndarray[Any, Any]:
    """Draw `count` row numbers, in proportion to the strata, leaving one row of each label behind.

    Args:
        strata: group of each row, int64 (n,).
        count: rows to draw; fewer come back where too few may be drawn.
        seed: of the draw.
        ids: label ids of each row; its group by default.

    Returns:
        int64 row numbers, at most `count` and n - 1, without repetition.
    """
    import numpy as np

    rng = np.random.default_rng([seed, 0x5EED])
    groups, sizes = np.unique(strata, return_counts=True)
    free, seen = [], set[int]()
    for group in groups:
        drawn = []
        for row in rng.permutation(np.flatnonzero(strata == group))[::-1]:
            found = {group} if ids is None else set(ids[row])
            if found <= seen:
                drawn.append(row)
            seen |= found
        free.append(drawn[::-1])
    count = min(count, len(strata) - 1)
    quota = sizes * (count / len(strata))
    most = np.array([len(drawn) for drawn in free])
    seats = np.minimum(np.floor(quota).astype(int), most)
    order = np.lexsort((rng.permutation(len(groups)), np.floor(quota) - quota))
    while seats.sum() < count and (seats < most).any():
        for i in order:
            if seats.sum() < count and seats[i] < most[i]:
                seats[i] += 1
    chosen = [row for drawn, n in zip(free, seats, strict=True) for row in drawn[:n]]
    return np.array(chosen, dtype=np.int64)


def fingerprint(split: datasets.Dataset) -> str:
    """Return the sha256 over the texts and labels of a split, in order."""
    digest = hashlib.sha256()
    for label, *texts in zip(split["label"][:], *_text_columns(split), strict=True):
        for mark, text in zip((label, "pair"), texts, strict=False):
            data = text.encode("utf-8", "surrogatepass")
            digest.update(f"{mark}:{len(data)}:".encode() + data)
    return digest.hexdigest()


def _text_columns(split: datasets.Dataset) -> list[list[str]]:
    return [split[name][:] for name in ("text", "text_pair") if name in split.column_names]


def _warn_of_overlap(splits: dict[str, datasets.Dataset], ctx: Context) -> None:
    train = set(zip(*_text_columns(splits["train"]), strict=True))
    for role in ("validation", "test"):
        if role in splits:
            both = sum(one in train for one in zip(*_text_columns(splits[role]), strict=True))
            if both:
                ctx.warn(
                    f"{role}: {both} of {splits[role].num_rows} texts stand in train, too; "
                    "scores on them flatter the model"
                )

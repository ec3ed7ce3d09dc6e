"""What the command line does with a saved model: files in, files out, scores, a first spec."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from bertkit import yaml12
from bertkit.checkpoints import write_durably
from bertkit.datasets.files import plain, read_table
from bertkit.datasets.labels import is_list
from bertkit.datasets.splits import check_columns, labelled_rows
from bertkit.errors import ArtifactError, DataError, SpecError
from bertkit.records import Context, Scores, score_text, to_json
from bertkit.tasks import task_from

if TYPE_CHECKING:
    from bertkit.artifact import Classifier
    from bertkit.tasks import Prediction, Task
    from bertkit.text.long_text import Keep

TABLES = (".jsonl", ".csv", ".tsv")
"""Endings of the files that predictions are written to."""
OTHERS = " By default the columns are called as in training; name others with this option."
TEXT_COLUMNS = ("text", "text_pair")
Text = str | tuple[str, ...]
"""A text, or a pair."""
Write = Callable[[Text, "Prediction"], None]


def read_texts(file: Path | None, columns: Sequence[str]) -> Iterator[Text]:
    """Yield the texts of a file, or the lines of standard input; pairs where two columns are read.

    Args:
        file: a table with those columns, a .txt file of lines, or None for standard input. In
            lines a tab stands between the texts of a pair.
        columns: of the text, or of the two texts of a pair.

    Raises:
        DataError: the file cannot be read, or has no such column.
    """
    pairs = len(columns) > 1
    if file is None:
        yield from _lines(sys.stdin.buffer, "standard input", pairs)
        return
    if file.suffix.lower() == ".txt":
        try:
            with file.open("rb") as lines:
                yield from _lines(lines, f"--file: {file}", pairs)
        except FileNotFoundError:
            raise DataError(f"--file: there is no file {file}") from None
        except OSError as error:
            raise DataError(f"--file: {file} cannot be read ({error.strerror})") from None
        return
    table = read_table(file, plain({"text": _short(list(columns))}), "--file")
    check_columns(table.column_names, dict.fromkeys(columns, "--text"), str(file), hint=OTHERS)
    for number, cells in enumerate(zip(*map(table.column, columns), strict=True), 1):
        texts = tuple(cell.as_py() for cell in cells)
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"{file}, row {number}: expected a text, found {text!r}")
        yield texts if pairs else texts[0]


def _lines(source: Iterable[bytes], where: str, pairs: bool) -> Iterator[Text]:
    for number, line in enumerate(source, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise DataError(
                f"{where}, line {number}: not UTF-8 text; convert it to UTF-8"
            ) from None
        if not text.strip():
            continue
        parts = tuple(text.split("\t"))
        if pairs and (len(parts) != 2 or not all(part.strip() for part in parts)):
            raise DataError(
                f"{where}, line {number}: found {len(parts)} texts; expected the two texts of a "
                "pair with a tab between them"
            )
        yield parts if pairs else text


def check_out(path: Path | None, endings: tuple[str, ...]) -> None:
    """Refuse a name for an output file, before anything expensive.

    Raises:
        SpecError: another ending, a folder, or in a folder that is not there.
    """
    if path is None:
        return
    if path.suffix.lower() not in endings:
        expected = " or ".join(filter(None, [", ".join(endings[:-1]), endings[-1]]))
        raise SpecError(f"--out: {path} should end in {expected}")
    if not path.parent.is_dir():
        raise SpecError(f"--out: there is no folder {path.parent}")
    if path.is_dir():
        raise SpecError(f"--out: {path} is a folder; expected a file")


class Sink:
    """Where predictions go: a file that is there whole or not at all, or standard output.

    Args:
        path: checked, and ending in one of `TABLES`; None for standard output, a tab-separated
            line a text.
        task: of the model.
    """

    def __init__(self, path: Path | None, task: Task) -> None:
        self.path, self.task = path, task
        self.file: IO[str] | None = None

    def __enter__(self) -> Write:
        if self.path is None:
            return self._print
        self.staging = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.file = self.staging.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise _cannot_write(self.path, error) from None
        if self.path.suffix.lower() == ".jsonl":
            return self._json
        self.delimiter = "\t" if self.path.suffix.lower() == ".tsv" else ","
        self.header = False
        return self._row

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if self.file is None:
            return
        assert self.path is not None
        try:
            self.file.close()
            if kind is None:
                self.staging.replace(self.path)
        except OSError as failure:
            error = failure
        self.staging.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _cannot_write(self.path, error) from None

    def _print(self, text: Text, found: Prediction) -> None:
        from bertkit.console import printable

        shown = "\t".join(" ".join(printable(part).split()) for part in _parts(text))
        answer = f"{printable(self.task.answer(found))}\t{self.task.figures(found)}"
        sys.stdout.write(f"{answer}\t{shown}\n")

    def _json(self, text: Text, found: Prediction) -> None:
        assert self.file is not None
        row = {**dict(zip(TEXT_COLUMNS, _parts(text), strict=False)), **asdict(found)}
        self.file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _row(self, text: Text, found: Prediction) -> None:
        parts = _parts(text)
        if not self.header:
            self.header = True
            names = [*TEXT_COLUMNS[: len(parts)], "label", "score"]
            self._line(names + [_cell(f"score:{name}") for name in found.scores])
        number = ".6f" if self.task.has_labels else ".9g"  # 9 digits are all that float32 has
        scores = (format(score, number) for score in (found.score, *found.scores.values()))
        self._line([*map(_cell, (*parts, self.task.answer(found))), *scores])

    def _line(self, cells: list[str]) -> None:
        assert self.file is not None
        line = io.StringIO()
        # the end of a line decides what gets quotes: a text with either character must
        csv.writer(line, delimiter=self.delimiter, lineterminator="\r\n").writerow(cells)
        self.file.write(line.getvalue().removesuffix("\r\n") + "\n")


def _parts(text: Text) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text


def _cannot_write(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"--out: {path} cannot be written ({error.strerror}); choose another")


def _cell(text: str) -> str:
    """Keep a spreadsheet from taking a text for a formula."""
    return f"'{text}" if text[:1] in "=+-@\t\r\n＝＋－＠" else text


def text_columns(classifier: Classifier, named: Sequence[str] | None) -> list[str]:
    """Return the columns of the text, or of a pair: those named, or as in training.

    Raises:
        SpecError: one is named where the model reads two, or the other way round.
    """
    trained = classifier.settings.get("columns", {}).get("text", "text")
    known = trained if isinstance(trained, list) else [trained]
    if not named:
        return list(known)
    if len(named) > 2 or (classifier.pairs is not None and len(named) != len(known)):
        reads = "pairs: give --text twice" if len(known) > 1 else "single texts: give --text once"
        raise SpecError(f"--text: found {', '.join(named)}; the model reads {reads}")
    return list(named)


def evaluate_file(
    classifier: Classifier,
    data: Path,
    *,
    text: Sequence[str] | None = None,
    label: Sequence[str] | None = None,
    separator: str | None = None,
    keep: Keep | None = None,
) -> tuple[Scores, list[tuple[str, str, str]]]:
    """Score a classifier on a file of labelled texts, with the metrics of its training.

    Args:
        classifier: from `bertkit.load`.
        data: a table.
        text: column of the text, or the two of a pair; as in training by default.
        label: column or columns of the label; as in training by default.
        separator: what stands between joined labels; as in training by default.
        keep: what to keep of long texts, in place of what the model was saved with.

    Returns:
        The scores; and for each row its text, its label and the predicted label.

    Raises:
        DataError: the file cannot be read, or has labels that the model does not know.
    """
    import torch
    from datasets import Dataset

    from bertkit.artifact import saved_component
    from bertkit.datasets.memory import Memory
    from bertkit.metrics.base import Metric
    from bertkit.scoring import compute_scores

    settings, task = classifier.settings, classifier.task
    texts = text_columns(classifier, text)
    columns = {**settings.get("columns", {"label": "label"}), "text": _short(texts)}
    if label:
        columns["label"] = _short(list(label))
    if separator:
        columns["separator"] = separator
    names = settings.get("label_values") or {name: name for name in classifier.labels}
    options = {"train": str(data), "labels": names, **columns}
    source = Memory.model_validate(options)
    table = read_table(data, plain(columns), field="data")
    named = {column: place.replace("dataset.", "--")
             for column, place in source.columns_by_option().items()}  # fmt: skip
    check_columns(table.column_names, named, str(data), hint=OTHERS)
    if not table.num_rows:
        raise DataError(f"{data}: no rows; expected labelled texts")
    labelled, labels = Dataset(table), source.label_columns
    if not separator and (len(labels) > 1 or is_list(labelled, labels[0])):
        options.pop("separator", None)  # of training, where labels were joined
    source = Memory.model_validate({**options, "data": {str(data): labelled}})
    try:
        rows = labelled_rows(source, task, names, Context())
    except (DataError, SpecError) as error:  # in the words of the command line
        raise type(error)(str(error).replace("dataset.", "--")) from None
    saved = settings.get("metrics", [{"type": name} for name in task.default_metrics])
    metrics = [
        cast("Metric", saved_component(settings, f"metrics.{i}", "metric", options))
        for i, options in enumerate(saved)
    ]
    given = [rows[name][:] for name in TEXT_COLUMNS if name in rows.column_names]
    read = list(zip(*given, strict=True)) if len(given) > 1 else given[0]
    targets = task.targets(rows["label"][:])
    logits = classifier.logits_of(classifier.tokens(read, targets=targets, keep=keep))
    truth, decided = task.truth(targets), task.decide(task.scores(logits))
    shown = [
        (" / ".join(parts), task.shown(right), task.shown(found))
        for *parts, right, found in zip(*given, truth, decided, strict=True)
    ]
    return compute_scores(torch.from_numpy(logits), targets, task, metrics, report=True), shown


def _short(columns: list[str]) -> str | list[str]:
    return columns if len(columns) > 1 else columns[0]


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file that is there whole or not at all; NaN becomes null.

    Raises:
        ArtifactError: it cannot be written.
    """
    try:
        write_durably(path, to_json(content))
    except OSError as error:
        raise _cannot_write(path, error) from None


def describe(folder: Path) -> Iterable[tuple[str, str]]:
    """Yield what a run or model directory contains, from its JSON files alone.

    Raises:
        ArtifactError: it is neither.
    """
    from bertkit.artifact import read_settings
    from bertkit.records import RunResult

    model = folder / "model" if (folder / "spec.yaml").is_file() else folder
    if not (model / "config.json").is_file() and not (folder / "spec.yaml").is_file():
        raise ArtifactError(
            f"{folder}: neither a run of bertkit nor a model directory; "
            "expected one that `bertkit run` wrote"
        )
    if (folder / "result.json").is_file():
        result = RunResult.read(folder)
        yield "run", f"finished, bertkit {result.provenance.get('bertkit')}"
        for name, values in result.metrics.items():
            yield name, "  ".join(f"{key} {score_text(value)}" for key, value in values.items())
        for warning in result.warnings:
            yield "warning", warning
    elif (folder / "spec.yaml").is_file():
        yield "run", "not finished; go on with --resume"
    steps = sorted(path.name for path in folder.glob("checkpoints/step-*"))
    if steps:
        yield "checkpoints", ", ".join(steps)
    if not (model / "config.json").is_file():
        return
    settings = read_settings(model)
    try:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        kind, classes = config.get("model_type"), config.get("architectures") or []
        yield "model", ", ".join(map(str, [kind, *classes]))
        if not settings:
            yield "task", str(config.get("problem_type"))
            yield "labels", ", ".join(map(str, config.get("id2label", {}).values()))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ArtifactError(f"{model / 'config.json'}: cannot be read ({error})") from None
    if settings:
        task = task_from(settings["task"])
        yield "task", task.kind
        named = zip(task.labels, task.remarks(), strict=True)
        yield task.noun.lower(), ", ".join(f"{name}{remark}" for name, remark in named)
        yield "columns", _told(settings["columns"])
        yield "head", _told(settings["head"])
        yield "long texts", _told(settings["long_text"])
        yield "plugins needed", ", ".join(settings["plugins"].values()) or "none"
    for path in sorted(model.iterdir()):
        known = settings.get("files", {}).get(path.name, {}).get("sha256", "")
        yield path.name, f"{path.stat().st_size:,} bytes  {known[:16]}".rstrip()


def _told(options: Mapping[str, Any]) -> str:
    """Return what is set, as JSON."""
    known = {name: value for name, value in options.items() if value is not None}
    return json.dumps(known, ensure_ascii=False)


def first_spec(data: Path, spec: Path, encoder: str) -> str:
    """Return a spec for a table of labelled texts, its columns guessed and said.

    Raises:
        DataError: the file cannot be read, or no column can be the text or the label.
    """
    table = read_table(data, plain({}), field="data")
    strings: dict[str, float] = {}
    for name in table.column_names:
        values = [v for v in table.column(name).slice(0, 1000).to_pylist() if isinstance(v, str)]
        if values:
            strings[name] = sum(map(len, values)) / len(values)
    if not strings:
        raise DataError(f"{data}: no column of strings; found {', '.join(table.column_names)}")
    text = "text" if "text" in strings else max(strings, key=lambda name: strings[name])
    others = [name for name in table.column_names if name != text]
    if not others:
        raise DataError(f"{data}: no second column for the label; found only `{text}`")

    def distinct(name: str) -> int:
        return len(set(map(str, table.column(name).to_pylist())))

    varied = [name for name in others if distinct(name) > 1] or others
    label = "label" if "label" in others else min(varied, key=distinct)
    try:
        train = str(data.resolve().relative_to(spec.resolve().parent))
    except ValueError:
        train = str(data.resolve())
    dataset = {"type": "files", "train": train, "text": text, "label": label, "test": 0.2}
    comment = (
        f"# Written by `bertkit init`. Text is `{text}`, label is `{label}` "
        f"({distinct(label)} values); change them if that is wrong.\n{_task_line(table, label)}"
    )
    body = {
        "encoder": encoder,
        "dataset": dataset,
        "head": {"type": "linear"},
        "output": f"runs/{spec.stem}",
    }
    return comment + yaml12.write(body)


def _task_line(table: Any, label: str) -> str:
    """Return a comment that says what the task will be; "" where the labels cannot be used."""
    from datasets import Dataset

    from bertkit.datasets.labels import labels_of
    from bertkit.datasets.memory import Memory

    try:
        labels = labels_of(Memory(label=label), Dataset(table), None)
    except (DataError, SpecError):
        return ""
    kind = labels.task({label: label}).kind
    return f"# The task is {kind}: {labels.why}. Write `task: …` for another.\n"

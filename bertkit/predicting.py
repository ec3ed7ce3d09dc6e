"""What the command line does with a saved model: files in, files out, scores, a first spec."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from bertkit import yaml12
from bertkit.checkpoints import write_durably
from bertkit.datasets.files import plain, read_table
from bertkit.datasets.splits import check_columns, labelled_rows
from bertkit.errors import ArtifactError, DataError, SpecError
from bertkit.records import Context, Scores, to_json

if TYPE_CHECKING:
    from bertkit.artifact import Classifier, Prediction
    from bertkit.text.long_text import Keep

Write = Callable[[str, "Prediction"], None]


def read_texts(file: Path | None, column: str) -> Iterator[str]:
    """Yield the texts of a file, or the lines of standard input.

    Args:
        file: a table with that column, a .txt file of lines, or None for standard input.
        column: of the texts.

    Raises:
        DataError: the file cannot be read, or has no such column.
    """
    if file is None:
        yield from _lines(sys.stdin.buffer, "standard input")
        return
    if file.suffix.lower() == ".txt":
        try:
            with file.open("rb") as lines:
                yield from _lines(lines, f"--file: {file}")
        except FileNotFoundError:
            raise DataError(f"--file: there is no file {file}") from None
        except OSError as error:
            raise DataError(f"--file: {file} cannot be read ({error.strerror})") from None
        return
    table = read_table(file, plain({"text": column}), field="--file")
    check_columns(table.column_names, {"--text": column}, str(file))
    for number, value in enumerate(table.column(column), 1):
        text = value.as_py()
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{file}, row {number}: expected a text, found {text!r}")
        yield text


def _lines(source: Iterable[bytes], where: str) -> Iterator[str]:
    for number, line in enumerate(source, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise DataError(
                f"{where}, line {number}: not UTF-8 text; convert it to UTF-8"
            ) from None
        if text.strip():
            yield text


def check_out(path: Path, endings: tuple[str, ...]) -> None:
    """Refuse a name for an output file, before anything expensive.

    Raises:
        SpecError: another ending, a folder, or in a folder that is not there.
    """
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
        path: .jsonl, .csv or .tsv; None for standard output, a tab-separated line a text.

    Raises:
        SpecError: the ending is none of these, or the folder is not there.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.file: IO[str] | None = None
        if path is None:
            return
        check_out(path, (".jsonl", ".csv", ".tsv"))
        self.staging = path.with_name(f".{path.name}.{os.getpid()}")

    def __enter__(self) -> Write:
        if self.path is None:
            return self._print
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

    def _print(self, text: str, found: Prediction) -> None:
        from bertkit.console import printable

        shown = " ".join(printable(text).split())
        sys.stdout.write(f"{printable(found.label)}\t{found.score:.4f}\t{shown}\n")

    def _json(self, text: str, found: Prediction) -> None:
        assert self.file is not None
        row = {"text": text, "label": found.label, "score": found.score, "scores": found.scores}
        self.file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _row(self, text: str, found: Prediction) -> None:
        if not self.header:
            self.header = True
            self._line(["text", "label", "score", *(f"score:{name}" for name in found.scores)])
        cells = [_cell(text), _cell(found.label), f"{found.score:.6f}"]
        self._line(cells + [f"{score:.6f}" for score in found.scores.values()])

    def _line(self, cells: list[str]) -> None:
        assert self.file is not None
        line = io.StringIO()
        # the end of a line decides what gets quotes: a text with either character must
        csv.writer(line, delimiter=self.delimiter, lineterminator="\r\n").writerow(cells)
        self.file.write(line.getvalue().removesuffix("\r\n") + "\n")


def _cannot_write(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"--out: {path} cannot be written ({error.strerror}); choose another")


def _cell(text: str) -> str:
    """Keep a spreadsheet from taking a text for a formula."""
    return f"'{text}" if text[:1] in "=+-@\t\r\n＝＋－＠" else text


def evaluate_file(
    classifier: Classifier,
    data: Path,
    *,
    text: str | None = None,
    label: str | None = None,
    keep: Keep | None = None,
) -> tuple[Scores, list[tuple[str, str, str]]]:
    """Score a classifier on a file of labelled texts, with the metrics of its training.

    Returns:
        The scores; and for each row its text, its label and the predicted label.

    Raises:
        DataError: the file cannot be read, or has labels that the model does not know.
    """
    import numpy as np
    import torch
    from datasets import Dataset

    from bertkit.artifact import saved_component
    from bertkit.datasets.memory import Memory
    from bertkit.metrics.base import Metric
    from bertkit.scoring import compute_scores

    settings = classifier.settings
    columns = {"text": text, "label": label}
    for role, column in columns.items():
        columns[role] = column or settings.get("columns", {}).get(role, role)
    table = read_table(data, plain(columns), field="data")
    check_columns(table.column_names, {f"--{k}": str(v) for k, v in columns.items()}, str(data))
    if not table.num_rows:
        raise DataError(f"{data}: no rows; expected labelled texts")
    names = settings.get("label_values") or {name: name for name in classifier.labels}
    source = Memory.model_validate(
        {"data": {str(data): Dataset(table)}, "train": str(data), "labels": names, **columns}
    )
    rows = labelled_rows(source, names, Context())
    saved = settings.get("metrics", [{"type": "accuracy"}, {"type": "f1"}])
    metrics = [
        cast("Metric", saved_component(settings, f"metrics.{i}", "metric", options))
        for i, options in enumerate(saved)
    ]
    tokens = classifier.tokens(rows["text"][:], keep=keep)
    logits = torch.from_numpy(classifier.logits_of(tokens))
    labels = np.asarray(rows["label"][:], dtype=np.int64)
    task = classifier.task
    predicted = task.decide(task.scores(logits.numpy()))
    shown = [
        (text, task.labels[label], task.labels[found])
        for text, label, found in zip(rows["text"][:], labels, predicted, strict=True)
    ]
    return compute_scores(logits, labels, task, metrics, report=True), shown


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
            numbers = ((k, "–" if v is None else f"{v:.4f}") for k, v in values.items())
            yield name, "  ".join(f"{key} {value}" for key, value in numbers)
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
        labels = settings["task"]["labels"] if settings else config.get("id2label", {}).values()
        yield "model", ", ".join(map(str, [kind, *classes]))
        yield "labels", ", ".join(map(str, labels))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ArtifactError(f"{model / 'config.json'}: cannot be read ({error})") from None
    if settings:
        yield "head", json.dumps(settings["head"])
        yield "long texts", json.dumps(settings["long_text"])
        yield "plugins needed", ", ".join(settings["plugins"].values()) or "none"
    for path in sorted(model.iterdir()):
        known = settings.get("files", {}).get(path.name, {}).get("sha256", "")
        yield path.name, f"{path.stat().st_size:,} bytes  {known[:16]}".rstrip()


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

    label = "label" if "label" in others else min(others, key=distinct)
    try:
        train = str(data.resolve().relative_to(spec.resolve().parent))
    except ValueError:
        train = str(data.resolve())
    dataset = {"type": "files", "train": train, "text": text, "label": label, "test": 0.2}
    comment = (
        f"# Written by `bertkit init`. Text is `{text}`, label is `{label}` "
        f"({distinct(label)} values); change them if that is wrong.\n"
    )
    body = {
        "encoder": encoder,
        "dataset": dataset,
        "head": {"type": "linear"},
        "metrics": ["accuracy", "f1"],
        "output": f"runs/{spec.stem}",
    }
    return comment + yaml12.write(body)

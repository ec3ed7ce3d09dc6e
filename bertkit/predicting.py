"""What the command line does with a saved model: files in, files out, scores, a first spec."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bertkit import yaml12
from bertkit.datasets.files import Files, plain, read_table
from bertkit.datasets.splits import check_columns, labelled_rows
from bertkit.errors import ArtifactError, DataError, SpecError
from bertkit.records import Context, Scores

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
        yield from (line.rstrip("\n") for line in sys.stdin if line.strip())
        return
    if file.suffix.lower() == ".txt":
        try:
            with file.open(encoding="utf-8-sig") as lines:
                yield from (line.rstrip("\n") for line in lines if line.strip())
        except FileNotFoundError:
            raise DataError(f"--file: there is no file {file}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"--file: {file} cannot be read as UTF-8 text ({error})") from None
        return
    table = read_table(file, plain({"text": column}), field="--file")
    check_columns(table.column_names, {"--text": column}, str(file))
    for number, value in enumerate(table.column(column), 1):
        text = value.as_py()
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{file}, row {number}: expected a text, found {text!r}")
        yield text


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
        if path.suffix.lower() not in (".jsonl", ".csv", ".tsv"):
            raise SpecError(f"--out: {path} should end in .jsonl, .csv or .tsv")
        if not path.parent.is_dir():
            raise SpecError(f"--out: there is no folder {path.parent}")
        if path.is_dir():
            raise SpecError(f"--out: {path} is a folder; expected a file")
        self.staging = path.with_name(f".{path.name}.{os.getpid()}")

    def __enter__(self) -> Write:
        if self.path is None:
            return self._print
        try:
            self.file = self.staging.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise ArtifactError(
                f"--out: {self.path} cannot be written ({error.strerror})"
            ) from None
        if self.path.suffix.lower() == ".jsonl":
            return self._json
        delimiter = "\t" if self.path.suffix.lower() == ".tsv" else ","
        self.rows = csv.writer(self.file, delimiter=delimiter, lineterminator="\n")
        self.header = False
        return self._row

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self.file is None:
            return
        self.file.close()
        if kind is None:
            assert self.path is not None
            self.staging.replace(self.path)
        else:
            self.staging.unlink(missing_ok=True)

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
            self.rows.writerow(["text", "label", "score", *(f"score:{k}" for k in found.scores)])
        cells = [_cell(text), _cell(found.label), f"{found.score:.6f}"]
        self.rows.writerow(cells + [f"{score:.6f}" for score in found.scores.values()])


def _cell(text: str) -> str:
    """Keep a spreadsheet from taking a text for a formula."""
    return f"'{text}" if text[:1] in "=+-@\t\r" else text


def evaluate_file(
    classifier: Classifier,
    data: Path,
    *,
    text: str | None = None,
    label: str | None = None,
    keep: Keep | None = None,
) -> Scores:
    """Score a classifier on a file of labelled texts, with the metrics of its training.

    Raises:
        DataError: the file cannot be read, or has labels that the model does not know.
    """
    from bertkit.metrics.base import Metric
    from bertkit.registry import registry
    from bertkit.scoring import compute_scores

    columns = classifier.settings.get("columns", {})
    loader = Files.model_validate(
        {
            "train": str(data),
            "validation": 0,
            "text": text or columns.get("text", "text"),
            "label": label or columns.get("label", "label"),
        }
    )
    names = classifier.settings.get("label_values") or {name: name for name in classifier.labels}
    rows = labelled_rows(loader, names, Context())
    metrics = []
    for options in classifier.settings.get("metrics", [{"type": "accuracy"}, {"type": "f1"}]):
        metric = registry().find("metric", options["type"]).model_validate(options)
        assert isinstance(metric, Metric)
        metrics.append(metric)
    import numpy as np
    import torch

    tokens = classifier.tokens(rows["text"][:], keep=keep)
    logits = torch.from_numpy(classifier.logits_of(tokens))
    labels = np.asarray(rows["label"], dtype=np.int64)
    return compute_scores(logits, labels, classifier.task, metrics, report=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON; NaN becomes null."""

    def plain_value(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain_value(item) for key, item in value.items()}
        return None if isinstance(value, float) and value != value else value

    try:
        text = json.dumps(plain_value(content), ensure_ascii=False, indent=2) + "\n"
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ArtifactError(f"--out: {path} cannot be written ({error.strerror})") from None


def describe(folder: Path) -> Iterable[tuple[str, str]]:
    """Yield what a run or model directory contains, from its JSON files alone.

    Raises:
        ArtifactError: it is neither.
    """
    from bertkit.artifact import SETTINGS
    from bertkit.records import RunResult

    model = folder / "model" if (folder / "spec.yaml").is_file() else folder
    if not (model / "config.json").is_file() and not (folder / "spec.yaml").is_file():
        raise ArtifactError(f"{folder}: neither a run of bertkit nor a model directory")
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
    try:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        file = model / SETTINGS
        settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{model}: cannot be read ({error})") from None
    yield "model", f"{config.get('model_type')}, {', '.join(config.get('architectures') or [])}"
    labels = settings.get("task", {}).get("labels") or list(config.get("id2label", {}).values())
    yield "labels", ", ".join(map(str, labels))
    if settings:
        yield "head", json.dumps(settings.get("head"))
        yield "long texts", json.dumps(settings.get("long_text"))
        yield "plugins needed", ", ".join(settings.get("plugins", {}).values()) or "none"
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

"""Labelled texts in files: CSV, TSV, JSON lines, Parquet, Arrow."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from bertkit.component import SpecPath
from bertkit.datasets.base import DatasetLoader, Fraction
from bertkit.errors import DataError
from bertkit.registry import suggest

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

    from bertkit.records import Context

Format = Literal["csv", "tsv", "jsonl", "parquet", "arrow"]
SUFFIXES: dict[str, Format] = {
    ".csv": "csv", ".tsv": "tsv", ".txt": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".json": "jsonl", ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow",
}  # fmt: skip


class Files(DatasetLoader):
    """Tables in files of this machine, one or several a split."""

    type: Literal["files"] = "files"
    train: SpecPath | list[SpecPath] = Field(description="File or files to train on.")  # type: ignore[assignment]
    validation: Fraction | SpecPath | list[SpecPath] | None = Field(  # type: ignore[assignment]
        None,
        description="File or files that choose models, or the share of the train file to hold out "
        "for it; 0.1 by default, 0 for none.",
    )
    test: Fraction | SpecPath | list[SpecPath] | None = Field(  # type: ignore[assignment]
        None,
        description="File or files for the final scores, or the share of the train file to hold "
        "out for it; none by default.",
    )
    format: Format | None = Field(
        None, description="Format of the files; by their ending if unset."
    )
    encoding: str = Field("utf-8", description="Encoding of text files, such as gb18030.")
    delimiter: str | None = Field(
        None, min_length=1, max_length=1, description="Column separator; comma, or tab for tsv."
    )
    quote: str | None = Field(
        '"', min_length=1, max_length=1, description="Quote character; null where quotes are text."
    )
    columns: list[str] | None = Field(
        None,
        min_length=2,
        description="Column names of csv and tsv files that have no header line.",
    )

    @model_validator(mode="after")
    def _encoding_exists(self) -> Files:
        try:
            "".encode(self.encoding)
        except LookupError:
            raise ValueError(
                f"`encoding`: {self.encoding!r} is no text encoding that Python knows; "
                "common ones are utf-8, gb18030, latin-1"
            ) from None
        return self

    def roles(self) -> dict[str, str | float | None]:
        """Files are the splits they are given as."""
        values = {name: getattr(self, name) for name in ("train", "validation", "test")}
        return {n: n if isinstance(v, (str, list)) else v for n, v in values.items()}

    def load(self, ctx: Context) -> datasets.DatasetDict:
        """Read every file named."""
        import pyarrow as pa
        from datasets import Dataset, DatasetDict

        splits = {}
        for name in ("train", "validation", "test"):
            value = getattr(self, name)
            if not isinstance(value, (str, list)):
                continue
            tables = []
            for path in [value] if isinstance(value, str) else value:
                ctx.say(f"reading {path}")
                tables.append(read_table(Path(path), self, field=f"dataset.{name}"))
            try:
                table = pa.concat_tables(tables, promote_options="permissive")
            except pa.ArrowInvalid as error:
                raise DataError(
                    f"dataset.{name}: the files have columns of different types ({error}); "
                    "make them alike"
                ) from None
            splits[name] = Dataset(table)
        return DatasetDict(splits)


def read_table(path: Path, options: Files, field: str = "data") -> pa.Table:
    """Read one file into an Arrow table.

    Raises:
        DataError: with the file, what was found there, and what to do.
    """
    import pyarrow as pa

    _check_file(path, field)
    kind = options.format or SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise DataError(
            f"{path}: the ending {path.suffix or '(none)'} says nothing about the format; expected "
            f"one of {', '.join(SUFFIXES)}, or set dataset.format"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; expected a header line and rows")
    try:
        if kind == "parquet":
            import pyarrow.parquet as pq

            return pq.read_table(path)
        if kind == "arrow":
            return _read_arrow(path)
        if kind == "jsonl":
            return _read_json(path, options)
        return _read_delimited(path, options, "\t" if kind == "tsv" else ",")
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise DataError(_explain(path, kind, options, str(error))) from None
    except UnicodeDecodeError as error:
        raise DataError(_not_encoded(path, options, error.start)) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read as {kind} ({error.strerror or error})") from None


def _check_file(path: Path, field: str) -> None:
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(path).removeprefix("/")) or "://" in str(path):
        raise DataError(f"{field}: {path} is a URL; download it first and give the file")
    if path.is_dir():
        raise DataError(
            f"{field}: {path} is a folder; expected a file (for a folder that `save_to_disk` "
            "wrote, use `type: disk`)"
        )
    try:
        exists = path.exists()
    except OSError as error:
        raise DataError(f"{field}: {path} cannot be read ({error.strerror})") from None
    if not exists:
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = suggest(path.name, names)
        raise DataError(f"{field}: there is no file {path}.{hint}")


def _read_arrow(path: Path) -> pa.Table:
    import pyarrow as pa
    from pyarrow import feather, ipc

    try:
        return feather.read_table(path)
    except pa.ArrowInvalid:
        with pa.OSFile(str(path)) as source:
            return ipc.open_stream(source).read_all()


def _read_json(path: Path, options: Files) -> pa.Table:
    import json

    import pyarrow as pa
    from pyarrow import json as reader

    text = path.read_bytes().decode(options.encoding).removeprefix("\ufeff")
    if text.lstrip().startswith("["):  # one array of objects
        try:
            rows = json.loads(text)
        except ValueError as error:
            raise pa.ArrowInvalid(str(error)) from None
        if not all(isinstance(row, dict) for row in rows):
            raise pa.ArrowInvalid("expected a list of objects such as {text: …, label: …}")
        return pa.Table.from_pylist(rows)
    parse = reader.ParseOptions(newlines_in_values=False)
    return reader.read_json(pa.BufferReader(text.encode()), parse_options=parse)


def _read_delimited(path: Path, options: Files, delimiter: str) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv

    read = csv.ReadOptions(
        encoding=options.encoding,
        column_names=options.columns,
        block_size=1 << 24,
        use_threads=False,
    )
    parse = csv.ParseOptions(
        delimiter=options.delimiter or delimiter,
        quote_char=options.quote or False,
        newlines_in_values=options.quote is not None,
    )
    # as written: `01` stays `01` and `true` stays `true`
    types = {options.text: pa.string(), options.label: pa.string()}
    convert = csv.ConvertOptions(column_types=types, strings_can_be_null=False)
    return csv.read_csv(path, read_options=read, parse_options=parse, convert_options=convert)


def _explain(path: Path, kind: str, options: Files, error: str) -> str:
    first = error.splitlines()[0]
    if "invalid UTF" in error or "UTF8" in error:
        return _not_encoded(path, options, None)
    if kind in ("csv", "tsv") and "Expected" in error:
        return (
            f"{path}: {first}; a text that holds the delimiter or a line break must stand in "
            "quotes; see dataset.delimiter and dataset.quote"
        )
    return f"{path}: not a readable {kind} file ({first}); check it, or set dataset.format"


def _not_encoded(path: Path, options: Files, at: int | None) -> str:
    data = path.read_bytes()
    if at is None:
        try:
            data.decode(options.encoding)
        except UnicodeDecodeError as error:
            at = error.start
    line = data[: at or 0].count(b"\n") + 1
    hint = "say so, for example `encoding: gb18030` or `encoding: latin-1`"
    return f"{path}, line {line}: not {options.encoding} text; if it has another encoding, {hint}"


def plain(options: dict[str, Any]) -> Files:
    """Return file options for reading one table outside a run, as `predict --file` does."""
    return Files.model_validate({"train": "-", **options})

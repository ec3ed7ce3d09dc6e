"""Labelled texts in files: CSV, TSV, JSON lines, Parquet, Arrow."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from bertkit.component import SpecPath
from bertkit.datasets.base import DatasetLoader, Fraction
from bertkit.datasets.splits import check_columns
from bertkit.errors import DataError, suggest

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

    from bertkit.records import Context

Format = Literal["csv", "tsv", "jsonl", "parquet", "arrow"]
Paths = Annotated[list[SpecPath], Field(min_length=1)]
SUFFIXES: dict[str, Format] = {
    ".csv": "csv", ".tsv": "tsv", ".txt": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".json": "jsonl", ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow",
}  # fmt: skip


class Files(DatasetLoader):
    """Tables in files of this machine, one or several a split."""

    type: Literal["files"] = "files"
    train: SpecPath | Paths = Field(description="File or files to train on.")  # type: ignore[assignment]
    validation: Fraction | SpecPath | Paths | None = Field(  # type: ignore[assignment]
        None,
        description="File or files that choose models, or the share of the train file to hold out "
        "for it; 0.1 by default, 0 for none.",
    )
    test: Fraction | SpecPath | Paths | None = Field(  # type: ignore[assignment]
        None,
        description="File or files for the final scores, or the share of the train file to hold "
        "out for it; 0.2 by default where no validation is given either, 0 for none.",
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

        wanted = self.columns_by_option()
        splits = {}
        for name in ("train", "validation", "test"):
            value = getattr(self, name)
            if not isinstance(value, (str, list)):
                continue
            tables = []
            for path in [value] if isinstance(value, str) else value:
                ctx.say(f"reading {path}")
                table = read_table(Path(path), self, field=f"dataset.{name}")
                check_columns(table.column_names, wanted, path, hint=self._hint(Path(path)))
                tables.append(table.select(list(wanted)))
            try:
                table = pa.concat_tables(tables, promote_options="permissive")
            except pa.ArrowException as error:
                raise DataError(
                    f"dataset.{name}: the files have columns of different types ({error}); "
                    "make them alike"
                ) from None
            splits[name] = Dataset(table)
        return DatasetDict(splits)

    def _hint(self, path: Path) -> str:
        if _kind(path, self) not in ("csv", "tsv") or self.columns:
            return ""
        return (
            " If the file has no header line, name its columns in dataset.columns; if something "
            "else stands between its columns, say so in dataset.delimiter."
        )


def read_table(path: Path, options: Files, field: str = "data") -> pa.Table:
    """Read one file into an Arrow table.

    Args:
        path: of the file.
        options: format, encoding, delimiter, quote and columns.
        field: what a message calls the place that names the file.

    Raises:
        DataError: with the file, what was found there, and what to do.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        _check_file(path, field)
        kind = _kind(path, options)
        if kind is None:
            raise DataError(
                f"{path}: the ending {path.suffix or '(none)'} says nothing about the format; "
                f"expected one of {', '.join(SUFFIXES)}, or set dataset.format"
            )
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty; expected labelled texts")
        if kind == "parquet":
            table = pq.read_table(path)
        elif kind == "arrow":
            table = _read_arrow(path)
        elif kind == "jsonl":
            table = _read_json(path, options)
        else:
            table = _read_delimited(path, options, "\t" if kind == "tsv" else ",")
    except UnicodeError:
        raise DataError(_not_encoded(path, options)) from None
    except pa.ArrowException as error:
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"{path}: not a readable {kind} file ({reason}); check it, or set dataset.format"
        ) from None
    except OSError as error:
        raise DataError(f"{field}: {path} cannot be read ({error.strerror or error})") from None
    names = table.column_names
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise DataError(
            f"{path}: two columns are called {', '.join(f'`{name}`' for name in twice)}; rename one"
        )
    return table


def _kind(path: Path, options: Files) -> Format | None:
    return options.format or SUFFIXES.get(path.suffix.lower())


def _check_file(path: Path, field: str) -> None:
    if path.is_dir():
        raise DataError(
            f"{field}: {path} is a folder; expected a file (for a folder that `save_to_disk` "
            "wrote, use `type: disk`)"
        )
    if path.exists():
        return
    if re.search(r"(^|/)[a-z][a-z0-9+.-]+:/", str(path)):
        raise DataError(f"{field}: {path} is a URL; download it first and give the file")
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise DataError(f"{field}: there is no file {path}.{suggest(path.name, names)}")


def _read_arrow(path: Path) -> pa.Table:
    import pyarrow as pa
    from pyarrow import feather, ipc

    try:
        return feather.read_table(path)
    except pa.ArrowInvalid:
        with pa.OSFile(str(path)) as source:
            return ipc.open_stream(source).read_all()


def _read_json(path: Path, options: Files) -> pa.Table:
    """Read one object a line, or one list of objects."""
    text = path.read_bytes().decode(options.encoding).removeprefix("\ufeff")
    is_list = text.lstrip()[:1] == "["
    parts = [text] if is_list else text.split("\n")
    rows: list[dict[str, Any]] = []
    for number, part in enumerate(parts, 1):
        if not part.strip():
            continue
        try:
            found = json.loads(part, object_pairs_hook=_object)
            for row in found if is_list else [found]:
                if not isinstance(row, dict):
                    raise ValueError(f"found {json.dumps(row)[:40]}")
                rows.append(row)
        except (ValueError, RecursionError) as error:
            line = number + getattr(error, "lineno", 1) - 1
            place = "" if is_list and not hasattr(error, "lineno") else f", line {line}"
            raise DataError(
                f"{path}{place}: {getattr(error, 'msg', error)}; expected one JSON object a line, "
                'such as {"text": "…", "label": "…"}, or one list of them'
            ) from None
    if not rows:
        raise DataError(f"{path}: no JSON object in it; expected labelled texts")
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    for name in options.label_columns:
        _refuse_mixed(path, name, columns.get(name, []))
    return _table(path, columns)


def _refuse_mixed(path: Path, name: str, values: list[Any]) -> None:
    """Refuse a column with lists in some rows, which would be read as their text."""
    listed = [isinstance(value, list) for value in values if value is not None]
    if any(listed) and not all(listed):
        raise DataError(
            f"{path}: column `{name}` holds lists in {sum(listed)} of {len(values)} rows and "
            "single values in others; expected the same in all"
        )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _table(path: Path, columns: dict[str, list[Any]]) -> pa.Table:
    """Make a table of parsed JSON; a column of mixed types becomes strings, as JSON writes them."""
    import pyarrow as pa

    arrays = {}
    for name, values in columns.items():
        try:
            try:
                arrays[name] = pa.array(values)
            except (pa.ArrowException, OverflowError):
                arrays[name] = pa.array(_strings(values))
        except UnicodeEncodeError as error:
            raise DataError(
                f"{path}: column `{name}` holds {error.object[error.start]!r}, "
                "which is half a character; expected whole ones"
            ) from None
    return pa.table(arrays)


def _strings(values: list[Any]) -> list[Any]:
    """Return what is no string as JSON writes it; of lists their elements."""
    if all(value is None or isinstance(value, list) for value in values):
        return [None if value is None else _strings(value) for value in values]
    return [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]


def _read_delimited(path: Path, options: Files, delimiter: str) -> pa.Table:
    """Read cells as they are written: `01` stays `01` and `true` stays `true`."""
    import pyarrow as pa

    limit = csv.field_size_limit(2**31 - 1)
    try:
        with path.open(encoding=options.encoding, newline="") as file:
            if file.read(1) != "\ufeff":
                file.seek(0)
            reader = csv.reader(
                file,
                delimiter=options.delimiter or delimiter,
                quotechar=options.quote,
                quoting=csv.QUOTE_NONE if options.quote is None else csv.QUOTE_MINIMAL,
                strict=True,
            )
            header, rows = _rows(path, reader, options.columns)
    finally:
        csv.field_size_limit(limit)
    cells = zip(*rows, strict=True) if rows else ([] for _ in header)
    return pa.Table.from_arrays([pa.array(column, pa.string()) for column in cells], header)


def _rows(path: Path, reader: Any, names: list[str] | None) -> tuple[list[str], list[list[str]]]:
    """Return column names and rows; a row that does not fit is an error with its line."""
    remedy = (
        "a text that holds the delimiter, a quote or a line break must stand in quotes, with each "
        "quote in it doubled; see dataset.delimiter and dataset.quote"
    )
    header, rows, line = names, [], 1
    try:
        for row in reader:
            if header is None and row:
                header = row
            elif row and len(row) == len(header or ()):
                rows.append(row)
            elif row:
                source = "dataset.columns names" if names else "the header has"
                raise DataError(
                    f"{path}, line {line}: {len(row)} columns, {source} {len(header or ())}; "
                    f"{remedy}"
                )
            line = reader.line_num + 1
    except csv.Error as error:
        what = "a quote is opened and never closed" if "end of data" in str(error) else str(error)
        raise DataError(f"{path}, line {line}: {what}; {remedy}") from None
    if header is None:
        raise DataError(f"{path}: only blank lines; expected a header line and rows")
    return header, rows


def _not_encoded(path: Path, options: Files) -> str:
    data = path.read_bytes()
    line = 1
    try:
        data.decode(options.encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
    except UnicodeError:
        pass
    return (
        f"{path}, line {line}: not {options.encoding} text; if it has another encoding, say so, "
        "for example `encoding: gb18030` or `encoding: latin-1`"
    )


def plain(options: dict[str, Any]) -> Files:
    """Return file options for reading one table outside a run, as `predict --file` does."""
    return Files.model_validate({"train": "-", **options})

"""Tables in files: what is read, how it is read, and what is refused with which words."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather

from bertkit.datasets.files import Files
from bertkit.datasets.splits import load_splits
from bertkit.errors import DataError
from bertkit.records import Context, Splits
from bertkit.spec import RunSpec
from bertkit.tasks import MultiLabel, Regression

Row = tuple[str, str]
ROWS: list[Row] = [("很好看, 推荐", "pos"), ('he said "no"', "neg"), ("two\nlines", "pos")]


def load(path: Path | list[Path], **options: Any) -> Splits:
    train = [str(one) for one in path] if isinstance(path, list) else str(path)
    loader = Files.model_validate({"train": train, "validation": 0, **options})
    return load_splits(loader, Context())


def rows_of(splits: Splits, name: str = "train") -> list[Row]:
    split = getattr(splits, name)
    return [(row["text"], splits.task.labels[row["label"]]) for row in split]


def refusal(path: Path, data: str | bytes, **options: Any) -> str:
    """Return what is said of a file, with its folder left out."""
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(DataError) as caught:
        load(path, **options)
    return str(caught.value).replace(f"{path.parent}/", "")


def write_delimited(path: Path, rows: list[Row], delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["text", "label"])
        writer.writerows(rows)


def write_lines(path: Path, rows: list[Row]) -> None:
    lines = [json.dumps({"text": t, "label": b}, ensure_ascii=False) + "\n" for t, b in rows]
    path.write_text("".join(lines), encoding="utf-8", newline="")


def write_list(path: Path, rows: list[Row]) -> None:
    path.write_text(json.dumps([{"text": t, "label": b} for t, b in rows], indent=1))


def table(rows: list[Row]) -> pa.Table:
    texts, labels = zip(*rows, strict=True)
    return pa.table({"text": texts, "label": labels})


def write_stream(path: Path, rows: list[Row]) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table(rows).schema) as writer:
        writer.write_table(table(rows))


def write_views(path: Path, rows: list[Row]) -> None:
    """Strings as polars writes them."""
    views = pa.schema([("text", pa.string_view()), ("label", pa.string_view())])
    feather.write_feather(table(rows).cast(views), path)


WRITERS: dict[str, Callable[[Path, list[Row]], None]] = {
    "a.csv": write_delimited,
    "a.tsv": lambda path, rows: write_delimited(path, rows, "\t"),
    "a.txt": lambda path, rows: write_delimited(path, rows, "\t"),
    "a.jsonl": write_lines,
    "a.ndjson": write_lines,
    "lines.json": write_lines,
    "list.json": write_list,
    "a.parquet": lambda path, rows: pq.write_table(table(rows), path),
    "a.arrow": write_stream,
    "file.arrow": lambda path, rows: feather.write_feather(table(rows), path),
    "a.feather": lambda path, rows: feather.write_feather(table(rows), path),
    "views.feather": write_views,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path, name):
    WRITERS[name](tmp_path / name, ROWS)
    assert rows_of(load(tmp_path / name)) == ROWS


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
PIECES = st.lists(
    st.sampled_from([",", '"', "\t", "\n", "\r\n", "\r", ";", "很好", "😀", "\ufeff", "a", " "]),
    min_size=1,
).map("".join)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "list.json", "a.parquet"])
@settings(max_examples=50, deadline=None)
@given(texts=st.lists(TEXTS | PIECES.filter(str.strip), min_size=2, max_size=6))
def test_what_was_written_is_read(name, texts):
    rows = [(text, ("a", "b")[i % 2]) for i, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        WRITERS[name](Path(folder, name), rows)
        assert rows_of(load(Path(folder, name))) == rows


@pytest.mark.field("dataset.train")
@pytest.mark.field("dataset.validation")
@pytest.mark.field("dataset.test")
def test_each_split_is_its_own_file_or_files(tmp_path):
    write_delimited(tmp_path / "a.csv", ROWS[:1])
    write_lines(tmp_path / "b.jsonl", ROWS[1:])
    pq.write_table(table(ROWS[:2]), tmp_path / "c.parquet")
    splits = load(
        [tmp_path / "a.csv", tmp_path / "b.jsonl"],
        validation=str(tmp_path / "c.parquet"),
        test=[str(tmp_path / "b.jsonl"), str(tmp_path / "a.csv")],
    )
    assert rows_of(splits) == ROWS
    assert rows_of(splits, "validation") == ROWS[:2]
    assert rows_of(splits, "test") == ROWS[1:] + ROWS[:1]


def test_only_text_and_label_are_taken_so_other_columns_may_be_anything(tmp_path):
    write_lines(tmp_path / "a.jsonl", ROWS)
    lines = [{"text": "x", "label": "pos", "meta": 1}, {"text": "y", "label": "neg", "meta": "no"}]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    splits = load([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    assert splits.train.column_names == ["text", "label"]
    assert len(splits.train) == 5


def test_paths_of_a_spec_file_start_at_its_folder(tmp_path, monkeypatch):
    (tmp_path / "spec").mkdir()
    write_delimited(tmp_path / "spec" / "a.csv", ROWS)
    (tmp_path / "spec" / "run.yaml").write_text("encoder: x\ndataset: {train: a.csv}\n")
    monkeypatch.chdir(tmp_path)
    spec = RunSpec.from_file("spec/run.yaml")
    assert spec.dataset.train == str(tmp_path / "spec" / "a.csv")


# options of text files


@pytest.mark.field("dataset.files.encoding")
@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "big5hkscs"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_other_encodings_are_read_when_they_are_named(tmp_path, name, encoding):
    WRITERS[name](tmp_path / "utf8", ROWS)
    (tmp_path / name).write_bytes((tmp_path / "utf8").read_text("utf-8").encode(encoding))
    assert rows_of(load(tmp_path / name, encoding=encoding)) == ROWS


@pytest.mark.parametrize(("name", "line"), [("a.csv", 3), ("a.jsonl", 2)])
def test_an_encoding_that_is_not_named_is_refused_with_its_line(tmp_path, name, line):
    WRITERS[name](tmp_path / "utf8", [("good", "pos"), ("很差", "neg")])
    data = (tmp_path / "utf8").read_text("utf-8").encode("gb18030")
    assert refusal(tmp_path / name, data) == (
        f"{name}, line {line}: not utf-8 text; if it has another encoding, say so, for example "
        "`encoding: gb18030` or `encoding: latin-1`"
    )


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "list.json"])
@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path, name, encoding):
    WRITERS[name](tmp_path / "plain", ROWS)
    text = "\ufeff" + (tmp_path / "plain").read_bytes().decode()
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert rows_of(load(tmp_path / name, encoding=encoding)) == ROWS


@pytest.mark.field("dataset.files.delimiter")
def test_the_delimiter_stands_between_columns(tmp_path):
    write_delimited(tmp_path / "a.csv", ROWS, ";")
    assert rows_of(load(tmp_path / "a.csv", delimiter=";")) == ROWS
    said = refusal(tmp_path / "a.csv", "text;label\na;1\n")
    assert said.endswith("else stands between its columns, say so in dataset.delimiter.")


@pytest.mark.field("dataset.files.quote")
def test_quotes_are_text_where_quote_is_null_and_another_character_may_quote(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('text\tlabel\n"so so\tneg\n6" pizza\tpos\n')
    assert rows_of(load(path, quote=None)) == [('"so so', "neg"), ('6" pizza', "pos")]
    path.write_text("text\tlabel\n'so\tso'\tneg\n'it''s'\tpos\n")
    assert rows_of(load(path, quote="'")) == [("so\tso", "neg"), ("it's", "pos")]


@pytest.mark.field("dataset.files.columns")
@pytest.mark.field("dataset.labels")
def test_thucnews_has_no_header_and_its_class_names_in_another_file(tmp_path):
    (tmp_path / "class.txt").write_text("finance\nrealty\nstocks\n")
    path = tmp_path / "train.txt"
    path.write_text("词汇阅读是关键\t2\n中华女子学院\t0\n\n两天价网站\t1\n", encoding="utf-8")
    names = (tmp_path / "class.txt").read_text().split()
    expected = [("词汇阅读是关键", "stocks"), ("中华女子学院", "finance"), ("两天价网站", "realty")]
    for labels in (names, {str(i): name for i, name in enumerate(names)}):
        splits = load(path, columns=["text", "label"], labels=labels)
        assert rows_of(splits) == expected
        assert splits.task.labels == ("finance", "realty", "stocks")
    with pytest.raises(DataError, match="If the file has no header line, name its columns in"):
        load(path)


@pytest.mark.field("dataset.files.format")
def test_the_format_may_be_said_where_the_ending_says_another_or_none(tmp_path):
    write_lines(tmp_path / "a.csv", ROWS)
    assert rows_of(load(tmp_path / "a.csv", format="jsonl")) == ROWS
    write_delimited(tmp_path / "data", ROWS)
    assert rows_of(load(tmp_path / "data", format="csv")) == ROWS


@pytest.mark.field("dataset.text")
@pytest.mark.field("dataset.label")
def test_text_and_label_name_the_columns(tmp_path):
    (tmp_path / "a.csv").write_text("id,text,review,stars\n1,no,good,5\n2,no,bad,1\n")
    splits = load(tmp_path / "a.csv", text="review", label="stars")
    assert rows_of(splits) == [("good", "5"), ("bad", "1")]
    assert splits.columns == {"text": "review", "label": "stars"}


# values as they are written


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (["01", "1", "1.0", "true"], ("01", "1", "1.0", "true")),
        (["01", "1.0", "1"], ("01", "1", "1.0")),
        (["1_0", "2.0"], ("1_0", "2.0")),
        (["0", "10", "9", "-1"], ("-1", "0", "9", "10")),
        (["true", "false", "False"], ("False", "false", "true")),
        (["1.0", "0.0", "2"], ("0", "1", "2")),
        (["NA", "null", "None", "nan"], ("NA", "None", "nan", "null")),
        (["v1.5", "v0.5"], ("v0.5", "v1.5")),
        (["--1", "-1", "²"], ("--1", "-1", "²")),
        ([" a", "a"], (" a", "a")),
    ],
)
def test_labels_of_a_csv_file_keep_the_form_they_have_there(tmp_path, cells, labels):
    """But for whole numbers that a spreadsheet wrote as 1.0, which are 1."""
    lines = [f"text {i},{cell}\n" for i, cell in enumerate(cells)]
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(lines), encoding="utf-8")
    assert load(tmp_path / "a.csv").task.labels == labels


def test_texts_that_look_like_something_else_stay_texts(tmp_path):
    texts = ["12", "007", "1.50", "true", "null", "2020-01-02", "1e5", "NaN"]
    rows = [(text, ("a", "b")[i % 2]) for i, text in enumerate(texts)]
    for name in ("a.csv", "a.jsonl"):
        WRITERS[name](tmp_path / name, rows)
        assert rows_of(load(tmp_path / name)) == rows


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system_and_blank_lines(tmp_path, end):
    lines = ["text,label", "a,1", "", '"b', 'c",0', ""]
    (tmp_path / "a.csv").write_text(end.join(lines), newline="")
    assert rows_of(load(tmp_path / "a.csv")) == [("a", "1"), (f"b{end}c", "0")]


def test_a_text_may_be_longer_than_python_reads_by_default(tmp_path):
    rows = [("very " * 50_000, "a"), ("short", "b")]
    write_delimited(tmp_path / "a.csv", rows)
    before = csv.field_size_limit(1000)
    try:
        assert rows_of(load(tmp_path / "a.csv")) == rows
    finally:
        assert csv.field_size_limit(before) == 1000


def test_json_rows_may_have_keys_in_any_order_and_more_of_them(tmp_path):
    first = '{"text": "a\u2028b", "label": 12345678901234567890}'
    second = '{"x": [1], "label": 2, "text": "c"}'
    (tmp_path / "a.jsonl").write_text(f"\n{first}\n\n{second}", encoding="utf-8")
    rows = [("a\u2028b", "12345678901234567890"), ("c", "2")]
    assert rows_of(load(tmp_path / "a.jsonl")) == rows


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        ([["x", 1], [2.5], None], MultiLabel(("1", "2.5", "x"))),
        ([[2**70], [1, True]], MultiLabel(("1", str(2**70), "true"))),
        ([["x"], [], ["x", "y"]], MultiLabel(("x", "y"))),
        ([[1, 0], [0, 1.0]], MultiLabel(("0", "1"))),
        ([[1, 0.5], [0, 1]], Regression(("label_0", "label_1"))),
    ],
)
def test_json_lists_may_mix_names_and_numbers(tmp_path, labels, task):
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = load(tmp_path / "a.jsonl").task
    assert (type(found), found.labels) == (type(task), task.labels)


def test_a_column_that_is_not_named_may_mix_lists_with_anything(tmp_path):
    rows = [{"text": "a", "label": "x", "tags": [1]}, {"text": "b", "label": "y", "tags": "no"}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert rows_of(load(tmp_path / "a.json")) == [("a", "x"), ("b", "y")]


# what is refused

HEADER = "text,label\n"
QUOTES = (
    "; a text that holds the delimiter, a quote or a line break must stand in quotes, with each "
    "quote in it doubled; see dataset.delimiter and dataset.quote"
)
OBJECTS = (
    '; expected one JSON object a line, such as {"text": "…", "label": "…"}, or one list of them'
)
REFUSED: dict[str, tuple[str, str | bytes, str]] = {
    "empty file": ("a.csv", "", "a.csv: the file is empty; expected labelled texts"),
    "blank lines only": (
        "a.csv", "\n\n", "a.csv: only blank lines; expected a header line and rows"),
    "byte order mark only": (
        "a.csv", "\ufeff", "a.csv: only blank lines; expected a header line and rows"),
    "header only": ("a.csv", "text,label",
        "dataset.train: the split `train` has no rows; expected texts in it"),
    "a row too short": ("a.csv", HEADER + "a,1\nb\n",
        "a.csv, line 3: 1 columns, the header has 2" + QUOTES),
    "a row too long": ("a.csv", HEADER + "good, but late,1\n",
        "a.csv, line 2: 3 columns, the header has 2" + QUOTES),
    "a row too long after lines in quotes": ("a.csv", HEADER + '"a\n\n\nb",1\n\nb,c,0\n',
        "a.csv, line 7: 3 columns, the header has 2" + QUOTES),
    "a quote that is never closed": ("a.csv", HEADER + 'a,1\n"b,0\nc,1\nd,0\n',
        "a.csv, line 3: a quote is opened and never closed" + QUOTES),
    "text after a closing quote": ("a.csv", HEADER + 'a,1\n"so" so,0\n',
        "a.csv, line 3: ',' expected after '\"'" + QUOTES),
    "a column twice": ("a.csv", "text,label,text\na,1,b\n",
        "a.csv: two columns are called `text`; rename one"),
    "another column twice": ("a.csv", "text,label,n,n\na,1,2,3\n",
        "a.csv: two columns are called `n`; rename one"),
    "no such column": ("a.csv", "texts,label\na,1\n",
        "dataset.text: a.csv has no column `text`. Did you mean `texts`? Found: texts, label. If "
        "the file has no header line, name its columns in dataset.columns; if something else "
        "stands between its columns, say so in dataset.delimiter."),
    "no such column in json": ("a.jsonl", '{"text": "a", "stars": 1}\n',
        "dataset.label: a.jsonl has no column `label`. Found: text, stars."),
    "a missing label among numbers": ("a.csv", HEADER + "a,1.0\nb,nan\n",
        "train: 1 of 2 labels are missing, in row 2 (row 1 is the first text, after any header "
        "line); remove those rows or fill the column `label`"),
    "an ending that says nothing": ("a.data", HEADER,
        "a.data: the ending .data says nothing about the format; expected one of .csv, .tsv, "
        ".txt, .jsonl, .ndjson, .json, .parquet, .arrow, .feather, or set dataset.format"),
    "a broken line": ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b" "label": 1}\n',
        "a.jsonl, line 2: Expecting ',' delimiter" + OBJECTS),
    "a line that is no object": ("a.jsonl", '{"text": "a", "label": 1}\n\n["b", 1]\n',
        'a.jsonl, line 3: found ["b", 1]' + OBJECTS),
    "a key twice": ("a.jsonl", '{"text": "a", "text": "b", "label": 1}\n',
        "a.jsonl, line 1: a key stands twice in one object" + OBJECTS),
    "a broken list": ("a.json", '[{"text": "a", "label": 1},\n{"text": "b"\n]',
        "a.json, line 3: Expecting ',' delimiter" + OBJECTS),
    "a list of something else": ("a.json", '["a", "b"]', 'a.json: found "a"' + OBJECTS),
    "a list of nothing": ("a.json", "[]", "a.json: no JSON object in it; expected labelled texts"),
    "a list without end": ("a.json", "[" * 100_000,
        "a.json: maximum recursion depth exceeded while decoding a JSON array from a unicode "
        "string" + OBJECTS),
    "half a character": ("a.jsonl", '{"text": "a\\ud83d", "label": 1}\n',
        "a.jsonl: column `text` holds '\\ud83d', which is half a character; expected whole ones"),
    "numbers as texts": ("a.jsonl", '{"text": 1, "label": 1}\n{"text": 2, "label": 0}\n',
        "dataset.text: column `text` of train holds int64; expected strings"),
    "objects as labels": ("a.jsonl", '{"text": "a", "label": {"stars": 5}}\n',
        "dataset.label: column `label` of train holds {'stars': Value('int64')}; expected a string "
        "or a number a text, or a list of them"),
    "lists of lists as labels": ("a.jsonl", '{"text": "a", "label": [["x"]]}\n',
        "dataset.label: column `label` of train holds List(List(Value('string'))); expected a "
        "string or a number a text, or a list of them"),
    "labels that are a list in some rows": ("a.jsonl",
        '{"text": "a", "label": ["x"]}\n{"text": "b", "label": "y"}\n{"text": "c"}\n',
        "a.jsonl: column `label` holds lists in 1 of 3 rows and single values in others; expected "
        "the same in all"),
    "no parquet": ("a.parquet", b"PAR1", "a.parquet: not a readable parquet file ("),
    "no arrow": ("a.arrow", b"\xff\xff\xff\xff\x10\0\0\0", "a.arrow: not a readable arrow file ("),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_place_and_remedy(tmp_path, case):
    name, data, message = REFUSED[case]
    said = refusal(tmp_path / name, data)
    assert said.startswith(message) if message.endswith("(") else said == message


def test_a_row_that_does_not_fit_the_columns_of_the_spec(tmp_path):
    said = refusal(tmp_path / "a.txt", "a\t1\nb\t2\t3\n", columns=["text", "label"])
    assert said == "a.txt, line 2: 3 columns, dataset.columns names 2" + QUOTES


PLACES: dict[str, tuple[str, str]] = {
    "a folder": ("", "dataset.train: {} is a folder; expected a file (for a folder that "
        "`save_to_disk` wrote, use `type: disk`)"),
    "a missing file": ("revews.csv",
        "dataset.train: there is no file {}. Did you mean `reviews.csv`?"),
    "a missing folder": ("nowhere/a.csv", "dataset.train: there is no file {}."),
    "a file as a folder": ("reviews.csv/a.csv", "dataset.train: there is no file {}."),
    "a name too long": ("a" * 300, "dataset.train: {} cannot be read (File name too long)"),
}  # fmt: skip


@pytest.mark.parametrize("case", PLACES)
def test_a_path_that_leads_to_no_file(reviews_csv, case):
    name, message = PLACES[case]
    path = reviews_csv.parent / name
    with pytest.raises(DataError) as caught:
        load(path)
    assert str(caught.value) == message.format(path)


@pytest.mark.parametrize(
    "url", ["https://example.org/a.csv", "hf://datasets/org/name/a.csv", "s3://bucket/a.csv"]
)
def test_a_url_is_refused_as_one_even_where_a_spec_file_made_it_a_path(tmp_path, url):
    (tmp_path / "run.yaml").write_text(f'encoder: x\ndataset: {{train: "{url}"}}\n')
    spec = RunSpec.from_file(tmp_path / "run.yaml")
    with pytest.raises(DataError, match=r"is a URL; download it first and give the file$"):
        load_splits(spec.dataset, Context())


def test_a_file_that_cannot_be_opened(tmp_path, monkeypatch):
    """As root nothing is unreadable, so the system's answer is given for it."""
    write_delimited(tmp_path / "a.csv", ROWS)

    def denied(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(DataError) as caught:
        load(tmp_path / "a.csv")
    where = tmp_path / "a.csv"
    assert str(caught.value) == f"dataset.train: {where} cannot be read (Permission denied)"


def test_files_of_one_split_must_have_labels_of_one_type(tmp_path):
    write_delimited(tmp_path / "a.csv", ROWS)
    (tmp_path / "b.jsonl").write_text('{"text": "a", "label": 1}\n')
    with pytest.raises(DataError, match=r"^dataset.train: the files have columns of different t"):
        load([tmp_path / "a.csv", tmp_path / "b.jsonl"])


@pytest.mark.parametrize("encoding", ["nonsense", "rot13"])
def test_an_encoding_that_python_does_not_know(encoding):
    with pytest.raises(ValueError, match=f"{encoding}' is no text encoding that Python knows"):
        Files.model_validate({"train": "a.csv", "encoding": encoding})

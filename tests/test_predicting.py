"""Prediction and evaluation with a saved model: texts in, labels out; files in, files out."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bertkit
from bertkit import artifact
from bertkit.errors import ArtifactError, DataError, SpecError
from bertkit.predicting import (
    TABLES,
    Sink,
    check_out,
    describe,
    evaluate_file,
    first_spec,
    read_texts,
    write_json,
)
from bertkit.progress import Silent
from bertkit.spec import RunSpec
from bertkit.tasks import Prediction, SingleLabel
from tests.conftest import reviews

LONG = "good " + "room " * 40 + "awful"


def write_csv(path: Path, rows: list[dict]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def train(encoder: Path, folder: Path, dataset: dict, **changes):
    trainer = {"max_steps": 40, "batch_size": 8, "precision": "fp32", "learning_rate": 5e-3}
    spec = {
        "encoder": str(encoder),
        "dataset": {"validation": 0, **dataset},
        "long_text": {"max_length": 20},
        "trainer": {**trainer, "evaluate": None, "best": None, **changes.pop("trainer", {})},
        "output": str(folder / "run"),
        **changes,
    }
    return bertkit.run(spec, progress=Silent())


@pytest.fixture(scope="module")
def trained(encoder_dir, tmp_path_factory):
    """A run whose columns, label values and label names all differ; do not write to it."""
    folder = tmp_path_factory.mktemp("trained")

    def rows(count: int, seed: int) -> list[dict]:
        values = {"neg": "0", "pos": "1"}
        found = reviews(count, seed=seed)
        return [{"stars": values[row["label"]], "review": row["text"]} for row in found]

    dataset = {
        "train": str(write_csv(folder / "train.csv", rows(60, 0))),
        "test": str(write_csv(folder / "test.csv", rows(30, 1))),
        "text": "review",
        "label": "stars",
        "labels": {"0": "bad", "1": "good"},
    }
    metrics = ["accuracy", {"type": "f1", "average": "binary", "positive": "good"}, "log_loss"]
    return train(encoder_dir, folder, dataset, metrics=metrics)


@pytest.fixture(scope="module")
def classifier(trained):
    return bertkit.load(trained.model_dir)


# Classifier.predict


def test_a_single_text_gives_a_list_of_one(classifier):
    (found,) = classifier.predict("good clean room")
    assert isinstance(found, Prediction)
    assert tuple(found.scores) == classifier.labels == ("bad", "good")
    assert sum(found.scores.values()) == pytest.approx(1)
    assert found.score == max(found.scores.values()) == found.scores[found.label]


def test_texts_come_from_any_iterable_and_answers_keep_their_order(classifier):
    texts = [row["text"] for row in reviews(50, seed=4)]  # of many lengths, so that they are sorted
    one_by_one = [classifier.predict(text)[0] for text in texts]
    assert {found.label for found in one_by_one} == {"bad", "good"}
    for form in (texts, tuple(texts), iter(texts), (text for text in texts)):
        for found, alone in zip(classifier.predict(form), one_by_one, strict=True):
            assert found.scores == pytest.approx(alone.scores, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_batch_size_does_not_change_the_answers(classifier, batch_size):
    texts = [row["text"] for row in reviews(30, seed=4)]
    for found, usual in zip(
        classifier.predict(texts, batch_size=batch_size), classifier.predict(texts), strict=True
    ):
        assert found.scores == pytest.approx(usual.scores, abs=1e-6)


def test_no_texts_give_no_answers(classifier):
    assert classifier.predict([]) == []
    assert list(classifier.stream(iter(()))) == []


@pytest.mark.parametrize(
    "text", ["很好看，房间很干净", "🤗", "a\0b", "x" * 10_000, " good\n", "\u200b"]
)
def test_any_text_with_content_gets_an_answer(classifier, text):
    assert classifier.predict(text)[0].label in classifier.labels


@pytest.mark.parametrize("text", ["", "   ", "\n\t", None, 3, b"good", ["good"], "\ud800 good"])
def test_what_is_no_text_is_refused_by_its_number(classifier, text):
    with pytest.raises(DataError, match=r"^text 2: "):
        classifier.predict(["good", text])
    with pytest.raises(DataError, match=r"^text 5: "):
        list(classifier.stream(["good"] * 4 + [text]))


def test_a_stream_reads_no_further_than_a_chunk_ahead(classifier, monkeypatch):
    monkeypatch.setattr(artifact, "STREAM_CHUNK", 8)
    read: list[int] = []

    def source():
        for number in range(30):
            read.append(number)
            yield ("good", "awful")[number % 2]

    answers = []
    for count, found in enumerate(classifier.stream(source()), 1):
        answers.append(found.label)
        assert len(read) <= (count + 7) // 8 * 8
    expected = [found.label for found in classifier.predict(["good", "awful"])]
    assert answers == expected * 15


def test_a_text_in_a_later_chunk_is_refused_by_its_number(classifier, monkeypatch):
    monkeypatch.setattr(artifact, "STREAM_CHUNK", 4)
    with pytest.raises(DataError, match=r"^text 11: "):
        classifier.predict(["good"] * 10 + [""])


@pytest.mark.parametrize(
    ("keep", "same_as"),
    [
        (None, "good " + "room " * 17),
        ("head", "good " + "room " * 17),
        ("tail", "room " * 17 + "awful"),
        ("head+tail", "good " + "room " * 16 + "awful"),
    ],
)
def test_long_texts_are_cut_as_in_training_or_as_asked(classifier, keep, same_as):
    (found,) = classifier.predict(LONG, keep=keep)
    (expected,) = classifier.predict(same_as)
    assert found.scores == pytest.approx(expected.scores, abs=1e-6)


@pytest.mark.parametrize("policy", ["drop", "error"])
def test_long_texts_are_refused_where_training_left_them_out(encoder_dir, tmp_path, policy):
    rows = [{"text": f"{word} room", "label": word} for word in ("good", "bad") * 4]
    run = train(
        encoder_dir, tmp_path, {"type": "inline", "train": rows},
        long_text={"max_length": 20, "keep": policy}, trainer={"max_steps": 1},
    )  # fmt: skip
    found = bertkit.load(run.model_dir)
    with pytest.raises(DataError, match=r"text 2: 44 tokens, the model reads 20.*--keep head"):
        found.predict(["good", LONG])
    assert found.predict(["good", LONG], keep="head")[1].label in ("good", "bad")


# pairs


@pytest.fixture(scope="module")
def reader_of_pairs(encoder_dir, tmp_path_factory):
    """A model of pairs, of 16 tokens at most, the second text cut."""
    rows = [{"text": [row["text"][:20], row["text"]], "label": row["label"]} for row in reviews()]
    run = train(
        encoder_dir, tmp_path_factory.mktemp("pairs"), {"type": "inline", "train": rows},
        long_text={"max_length": 16, "cut": "second"},
    )  # fmt: skip
    return bertkit.load(run.model_dir)


@pytest.fixture(scope="module")
def plain(encoder_dir, tmp_path_factory):
    """A model that transformers alone saved, so that nothing says whether it reads pairs."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path_factory.mktemp("plain")
    AutoModelForSequenceClassification.from_pretrained(encoder_dir).save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder_dir).save_pretrained(folder)
    return bertkit.load(folder)


def scores(found: list[Prediction]) -> list[list[float]]:
    return [list(one.scores.values()) for one in found]


def test_pairs_come_as_one_tuple_or_as_any_iterable_of_them(reader_of_pairs):
    one, two = ("good", "clean room"), ("bad", "dirty bed")
    expected = scores(reader_of_pairs.predict([one, two]))
    assert len(expected) == 2
    assert expected[0] != pytest.approx(expected[1], abs=1e-4)
    assert scores(reader_of_pairs.predict(one)) == [pytest.approx(expected[0], abs=1e-6)]
    for form in ((one, two), iter([one, two]), [list(one), list(two)]):
        assert scores(reader_of_pairs.predict(form)) == expected
    swapped = scores(reader_of_pairs.predict(("clean room", "good")))
    assert swapped[0] != pytest.approx(expected[0], abs=1e-5)


def test_two_texts_in_a_tuple_are_a_pair_only_where_the_model_reads_pairs(classifier, plain):
    for model in (classifier, plain):
        alone = scores(model.predict(["good room", "bad"]))
        assert scores(model.predict(("good room", "bad"))) == alone
    assert plain.pairs is None
    (pair,) = plain.predict([("good room", "bad")])
    assert pair.scores != plain.predict("good room")[0].scores


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("good", "text 2: the model reads pairs of texts, found 'good'; give a tuple of two"),
        (("a", "b", "c"), "text 2: the model reads pairs of texts, found ('a', 'b', 'c')"),
        (("a", None), "text 2: expected a pair of texts, found ('a', None)"),
        ((" ", "b"), "text 2: expected a pair of texts, found (' ', 'b')"),
        (("a", "\ud800"), "text 2: "),
        (("room " * 14, "b"), "text 2: the first text has 14 tokens, beside which nothing of the"),
    ],
)
def test_what_is_no_pair_is_refused_by_its_number(reader_of_pairs, pair, said):
    with pytest.raises(DataError) as caught:
        reader_of_pairs.predict([("a", "b"), pair])
    assert str(caught.value).startswith(said)


def test_another_part_of_long_pairs_is_kept_of_the_text_that_is_cut_in_training(reader_of_pairs):
    first, second = "good bad good " * 3, "room room room room room awful"  # the first is longer
    ends = {
        None: "room room room room", "head": "room room room room", "tail": "room room room awful"
    }  # fmt: skip
    for keep, end in ends.items():
        found = scores(reader_of_pairs.predict((first, second), keep=keep))
        assert found == [pytest.approx(scores(reader_of_pairs.predict((first, end)))[0], abs=1e-6)]


# texts from files


def as_csv(path, texts):
    write_csv(path, [{"review": text, "other": "x"} for text in texts])


def as_tsv(path, texts):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(
            [["other", "review"], *(["x", t] for t in texts)]
        )


def as_jsonl(path, texts):
    lines = (json.dumps({"review": text, "n": 1}) for text in texts)
    path.write_text("\n".join(lines), encoding="utf-8")


def as_json(path, texts):
    path.write_text(json.dumps([{"review": text} for text in texts]), encoding="utf-8")


def as_parquet(path, texts):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"review": list(texts)}), path)


def as_txt(path, texts):
    path.write_text("\ufeff" + "\r\n\r\n".join(texts), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.csv", as_csv), ("a.tsv", as_tsv), ("a.jsonl", as_jsonl), ("a.json", as_json),
        ("a.parquet", as_parquet), ("a.txt", as_txt), ("A.CSV", as_csv), ("A.TXT", as_txt),
    ],
)  # fmt: skip
def test_texts_are_read_from(tmp_path, name, write):
    texts = ["good room", '房间, "clean"', "007", "true", "it's\tfine" if "t" not in name else "x"]
    write(tmp_path / name, texts)
    assert list(read_texts(tmp_path / name, ["review"])) == texts


def stdin(monkeypatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="ascii"))


def test_standard_input_is_utf8_lines_whatever_the_locale_says(monkeypatch):
    stdin(monkeypatch, "\ufeff很好看\r\n\n  \ngood room".encode())
    assert list(read_texts(None, ["text"])) == ["很好看", "good room"]


def test_standard_input_is_read_line_by_line(monkeypatch):
    class Endless(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            buffer[:5] = b"good\n"
            return 5

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Endless())))
    source = read_texts(None, ["text"])
    assert [next(source) for _ in range(3)] == ["good"] * 3


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"text,label\nx,y\n", "--text: {} has no column `review`"),
        ("a.csv", b"reviews,label\nx,y\n", "Did you mean `reviews`?"),
        ("a.csv", b"review,label\ngood,a\n,b\n", "{}, row 2: expected a text, found ''"),
        ("a.csv", b"review\n\xff\xfe\n", "{}, line 2: not utf-8 text"),
        ("a.csv", b"", "{}: the file is empty"),
        ("a.jsonl", b'{"review": 5}\n', "{}, row 1: expected a text, found 5"),
        ("a.jsonl", b'{"review": "x"\n', "{}, line 1: "),
        ("a.xlsx", b"PK", "{}: the ending .xlsx says nothing about the format"),
        ("a.parquet", b"PAR1", "{}: not a readable parquet file"),
        ("a.txt", b"good\nb\xe9d\n", "--file: {}, line 2: not UTF-8 text; convert it"),
        ("missing.txt", None, "--file: there is no file {}"),
        ("missing.csv", None, "--file: there is no file {}"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_texts(path, ["review"]))
    assert said.format(path) in str(caught.value)


def test_standard_input_that_is_not_utf8_is_refused_by_its_line(monkeypatch):
    stdin(monkeypatch, b"good\nb\xe9d\n")
    with pytest.raises(DataError, match=r"standard input, line 2: not UTF-8 text"):
        list(read_texts(None, ["text"]))


# predictions to files


def prediction(label: str = "good") -> Prediction:
    return Prediction(label, 0.75, {label: 0.75, "bad": 0.25}, (label,))


ONE = SingleLabel(("good", "bad"))


def test_json_lines_hold_the_text_and_all_of_the_prediction(tmp_path):
    with Sink(tmp_path / "out.jsonl", ONE) as write:
        write("很\n好", prediction())
        write("b", prediction())
    first, second = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    expected = {"label": "good", "score": 0.75, "scores": {"good": 0.75, "bad": 0.25},
                "labels": ["good"]}  # fmt: skip
    assert json.loads(first) == {"text": "很\n好", **expected}
    assert json.loads(second)["text"] == "b"
    assert "很" in first


@pytest.mark.parametrize(("name", "delimiter"), [("out.csv", ","), ("OUT.TSV", "\t")])
def test_tables_hold_a_header_and_a_column_a_label(tmp_path, name, delimiter):
    with Sink(tmp_path / name, ONE) as write:
        write('a, "b"\nc\td', prediction())
    with (tmp_path / name).open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter=delimiter))
    assert rows == [
        ["text", "label", "score", "score:good", "score:bad"],
        ['a, "b"\nc\td', "good", "0.750000", "0.750000", "0.250000"],
    ]


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", '=HYPERLINK("x")']
)
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_spreadsheet_takes_no_text_and_no_label_for_a_formula(tmp_path, text, ending):
    path = tmp_path / f"out.{ending}"
    with Sink(path, ONE) as write:
        write(text, prediction(label=text))
    with path.open(encoding="utf-8", newline="") as file:
        _, row = csv.reader(file, delimiter="\t" if ending == "tsv" else ",")
    assert row[:2] == [f"'{text}", f"'{text}"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_what_goes_into_a_table_comes_out_of_it(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("out")
    for ending, delimiter in (("csv", ","), ("tsv", "\t")):
        with Sink(folder / f"out.{ending}", ONE) as write:
            for text in texts:
                write(text, prediction())
        with (folder / f"out.{ending}").open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, delimiter=delimiter))[1:]
        assert [row[0].removeprefix("'") for row in rows] == [t.removeprefix("'") for t in texts]
    with Sink(folder / "out.jsonl", ONE) as write:
        for text in texts:
            write(text, prediction())
    lines = (folder / "out.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert [json.loads(line)["text"] for line in lines] == texts


def test_standard_output_gets_one_line_a_text_and_no_control_characters(capsys):
    with Sink(None, ONE) as write:
        write("a\tb\n\x1b[31mred", prediction(label="very\tgood"))
    assert capsys.readouterr().out == "very\\tgood\t0.7500\ta\\tb \\x1b[31mred\n"


@pytest.mark.parametrize("error", [DataError("text 3"), KeyboardInterrupt()])
def test_a_failure_leaves_no_half_file_and_the_old_one_as_it_was(tmp_path, error):
    old = tmp_path / "old.jsonl"
    old.write_text("old")

    def interrupted(path: Path) -> None:
        with Sink(path, ONE) as write:
            write("a", prediction())
            raise error

    for path in (old, tmp_path / "new.csv"):
        with pytest.raises(type(error)):
            interrupted(path)
    assert os.listdir(tmp_path) == ["old.jsonl"]
    assert old.read_text() == "old"


def test_a_disk_that_fills_up_is_one_clear_error_and_leaves_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(path: Path) -> None:
        with Sink(path, ONE) as write:
            for _ in range(1000):
                write("good room", prediction())

    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        with pytest.raises(ArtifactError, match=r"--out: .*out\.csv cannot be written \(File too"):
            fill(tmp_path / "out.csv")
        with pytest.raises(ArtifactError, match=r"--out: .*out\.json cannot be written"):
            write_json(tmp_path / "out.json", ["x" * 20_000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("out.xlsx", "should end in .jsonl, .csv or .tsv"),
        ("out", "should end in"),
        ("nowhere/out.csv", "there is no folder"),
        ("folder.csv", "is a folder; expected a file"),
    ],
)
def test_a_name_that_cannot_be_written_is_refused_before_the_model_is_loaded(tmp_path, name, said):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(SpecError, match=f"^--out: .*{said}"):
        check_out(tmp_path / name, TABLES)


def test_written_json_is_strict(tmp_path):
    write_json(tmp_path / "a.json", {"a": float("nan"), "b": [float("inf"), 1]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [None, 1]}


# evaluation


def test_evaluation_gives_the_test_scores_of_the_run_on_the_same_rows(trained, classifier):
    scores, _ = evaluate_file(classifier, Path(trained.run_dir).parent / "test.csv")
    assert scores.metrics == pytest.approx(trained.metrics["test"], abs=1e-6)
    assert scores.metrics["accuracy"] != scores.metrics["f1"]
    assert scores.report == trained.reports["test"]
    assert scores.texts == 30


def test_evaluation_shows_each_text_beside_its_label_and_prediction(trained, classifier):
    path = Path(trained.run_dir).parent / "test.csv"
    _, rows = evaluate_file(classifier, path)
    with path.open(encoding="utf-8", newline="") as file:
        assert [text for text, _, _ in rows] == [row["review"] for row in csv.DictReader(file)]
    predicted = [found.label for found in classifier.predict([text for text, _, _ in rows])]
    assert [found for _, _, found in rows] == predicted
    hits = sum(label == found for _, label, found in rows)
    assert hits / len(rows) == pytest.approx(trained.metrics["test"]["accuracy"])


def test_evaluation_takes_other_columns_and_formats(trained, classifier, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    with (Path(trained.run_dir).parent / "test.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    table = pa.table({"words": [r["review"] for r in rows], "y": [int(r["stars"]) for r in rows]})
    pq.write_table(table, tmp_path / "test.parquet")
    scores, _ = evaluate_file(classifier, tmp_path / "test.parquet", text=["words"], label=["y"])
    assert scores.metrics == pytest.approx(trained.metrics["test"], abs=1e-6)


def test_evaluation_of_a_plain_model_takes_its_label_names(encoder_dir, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    AutoModelForSequenceClassification.from_pretrained(
        encoder_dir, id2label={0: "neg", 1: "pos"}
    ).save_pretrained(tmp_path / "plain")
    AutoTokenizer.from_pretrained(encoder_dir).save_pretrained(tmp_path / "plain")
    data = write_csv(tmp_path / "data.csv", reviews(10))
    scores, _ = evaluate_file(bertkit.load(tmp_path / "plain"), data)
    assert set(scores.metrics) == {"loss", "accuracy", "f1"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("review,stars\ngood,1\nbad,2\n", "1 texts have 1 labels that are not among those the mod"),
        ("review,stars\ngood,1\nbad,2\n", "'2' in row 2"),
        ("review,stars\ngood,good\n", "Known: 0, 1."),
        ("text,stars\ngood,1\n", "--text: {} has no column `review`"),
        ("review,star\ngood,1\n", "--label: {} has no column `stars`. Did you mean `star`?"),
        ("review,stars\n", "{}: no rows; expected labelled texts"),
        ("review,stars\n,1\n", "texts are empty or missing, in row 1"),
        ("review,stars\ngood,\n", "labels are missing, in row 1"),
    ],
)
def test_data_that_does_not_fit_the_model_is_refused(classifier, tmp_path, content, said):
    path = tmp_path / "data.csv"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        evaluate_file(classifier, path)
    assert said.format(path) in str(caught.value)


# inspect


def test_a_run_is_described_from_its_files_alone(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it would raise
    found = dict(describe(Path(trained.run_dir)))
    assert found["run"] == f"finished, bertkit {bertkit.__version__}"
    assert found["test"].startswith("loss ")
    assert found["checkpoints"].startswith("step-0000")
    assert found["model"] == "bert, BertForSequenceClassification"
    assert found["labels"] == "bad, good"
    assert json.loads(found["columns"]) == {"text": "review", "label": "stars"}
    assert json.loads(found["head"])["type"] == "linear"
    assert json.loads(found["long texts"]) == {"max_length": 20, "keep": "head"}
    assert found["plugins needed"] == "none"
    assert found["model.safetensors"].split()[1] == "bytes"
    model = dict(describe(Path(trained.model_dir)))
    assert "run" not in model
    assert model["labels"] == "bad, good"


def test_an_unfinished_run_says_how_to_go_on(tmp_path):
    (tmp_path / "spec.yaml").write_text("# bertkit run\n")
    assert list(describe(tmp_path)) == [("run", "not finished; go on with --resume")]


@pytest.mark.parametrize("name", [".", "nowhere"])
def test_what_is_neither_run_nor_model_is_refused(tmp_path, name):
    with pytest.raises(ArtifactError, match="neither a run of bertkit nor a model directory"):
        list(describe(tmp_path / name))


# a first spec


@pytest.mark.parametrize(
    ("rows", "text", "label"),
    [
        ([{"id": 1, "text": "a long text", "label": "x"}] * 2, "text", "label"),
        ([{"stars": 5, "review": "a long text"}, {"stars": 1, "review": "b"}], "review", "stars"),
        (
            [{"id": f"a{i}", "words": "many words", "kind": "xy"[i % 2]} for i in range(4)],
            "words", "kind",
        ),
    ],
)  # fmt: skip
def test_the_columns_of_a_first_spec_are_guessed_and_said(tmp_path, rows, text, label):
    data = write_csv(tmp_path / "data.csv", rows)
    content = first_spec(data, tmp_path / "my.yaml", "some/encoder")
    (tmp_path / "my.yaml").write_text(content, encoding="utf-8")
    spec = RunSpec.from_file(tmp_path / "my.yaml")
    assert (spec.dataset.text, spec.dataset.label) == (text, label)
    assert spec.encoder.name == "some/encoder"
    assert spec.output == str(tmp_path / "runs" / "my")
    assert f"Text is `{text}`, label is `{label}`" in content.splitlines()[0]


def test_a_first_spec_finds_its_data_from_where_it_lies(tmp_path):
    data = write_csv(tmp_path / "data.csv", reviews(4))
    (tmp_path / "specs").mkdir()
    inside = first_spec(data, tmp_path / "my.yaml", "x")
    outside = first_spec(data, tmp_path / "specs" / "my.yaml", "x")
    assert "train: data.csv" in inside
    assert str(data) in outside


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("data.jsonl", '{"a": 1, "b": 2}\n', "no column of strings; found a, b"),
        ("data.csv", "text\ngood\n", "no second column for the label; found only `text`"),
    ],
)
def test_a_table_without_text_or_label_is_refused(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        first_spec(tmp_path / name, tmp_path / "my.yaml", "x")
    assert said in str(caught.value)

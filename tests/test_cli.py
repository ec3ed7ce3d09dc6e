"""The command line: what goes where, and what it leaves with."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from loguru import logger
from typer.testing import CliRunner

import bertkit
from bertkit import hookimpl
from bertkit.cli import app
from bertkit.records import RunResult
from bertkit.registry import Registry, use
from bertkit.spec import RunSpec
from bertkit.spec import schema as make_schema
from tests.conftest import reviews

SPEC = """\
encoder: ./encoder
dataset: {{train: reviews.csv, test: 0.2}}
trainer: {{max_steps: 4, batch_size: 8, precision: fp32{trainer}}}
output: runs/first
"""


@pytest.fixture(autouse=True)
def host():
    """Leave registry and log as they were: a command sets up its own."""
    yield
    use(None)
    logger.remove()


@pytest.fixture
def place(encoder_dir, reviews_csv, tmp_path, monkeypatch):
    """A folder with data, an encoder and a spec, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "encoder").symlink_to(encoder_dir)
    (tmp_path / "run.yaml").write_text(SPEC.format(trainer=""), encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def finished(encoder_dir, tmp_path_factory):
    """The directory of a finished run; do not write to it."""
    folder = tmp_path_factory.mktemp("finished")
    rows = [{"review": row["text"], "stars": row["label"]} for row in reviews()]
    with (folder / "reviews.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["review", "stars"])
        writer.writeheader()
        writer.writerows(rows)
    dataset = {"train": str(folder / "reviews.csv"), "text": "review", "label": "stars"}
    trainer = {
        "max_steps": 4, "precision": "fp32", "save": {"steps": 2}, "keep": 2, "evaluate": None,
        "best": None, "learning_rate": 2e-2,
    }  # fmt: skip
    result = bertkit.run(
        {
            "encoder": str(encoder_dir), "dataset": {**dataset, "test": 0.2},
            "trainer": trainer, "output": str(folder / "run"), "long_text": {"max_length": 20},
        }
    )  # fmt: skip
    return Path(result.run_dir)


def guests(count: int = 40) -> list[dict[str, object]]:
    """Return texts with labels of every kind; one label looks like a formula."""
    rows = []
    for i, row in enumerate(reviews(count)):
        names = [name for name, given in (("good", row["label"] == "pos"), ("=x", i % 3)) if given]
        words = row["text"].split()
        rows.append(
            {
                "text": row["text"], "tags": "; ".join(names), "list": names,
                "good": int("good" in names), "cheap": int("=x" in names),
                "stars": 3.5 - 0.01 * i, "price": 1e6 + 1000 * i,
                "first": words[0], "second": " ".join(words[1:]), "same": row["label"],
            }
        )  # fmt: skip
    return rows


KINDS = {
    "tags": {"label": "tags", "separator": ";"},
    "columns": {"label": ["good", "cheap"]},
    "number": {"label": "stars"},
    "numbers": {"label": ["price", "stars"]},
    "pairs": {"label": "same", "text": ["first", "second"]},
}


@pytest.fixture(scope="module")
def kinds(encoder_dir, tmp_path_factory):
    """A folder with a finished run of each of KINDS and its data; do not write to it."""
    folder = tmp_path_factory.mktemp("kinds")
    with (folder / "guests.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(guests()[0]))
        writer.writeheader()
        writer.writerows(guests())
    lines = map(json.dumps, guests())
    (folder / "guests.jsonl").write_text("\n".join(lines), encoding="utf-8")
    trainer = {"max_steps": 8, "precision": "fp32", "evaluate": None, "best": None,
               "learning_rate": 1e-2}  # fmt: skip
    for name, columns in KINDS.items():
        bertkit.run(
            {
                "encoder": str(encoder_dir), "long_text": {"max_length": 32}, "trainer": trainer,
                "dataset": {"train": str(folder / "guests.csv"), **columns},
                "output": str(folder / name), "task": {"type": "multi_label", "thresholds": 0.4}
                if name in ("tags", "columns") else None,
            }
        )  # fmt: skip
    return folder


def cli(*arguments: object, stdin: bytes | None = None):
    """Run a command in this process; return exit code, standard output and standard error."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found


def real(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a process of its own, in a pipe."""
    command = [Path(sys.executable).with_name("bertkit"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False, **options)


# in general


def test_the_version():
    found = cli("--version")
    assert (found.exit_code, found.stdout) == (0, f"bertkit {bertkit.__version__}\n")


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ([], "run"), (["run"], "--resume"), (["predict"], "--keep"), (["evaluate"], "--label"),
        (["inspect"], "DIR"), (["init"], "--encoder"), (["schema"], "JSON Schema"),
        (["plugins"], "list"), (["plugins", "list"], "distribution"),
    ],
)  # fmt: skip
def test_every_command_has_help(command, said, flag):
    found = cli(*command, flag)
    assert found.exit_code == 0
    assert said in found.stdout
    assert found.stderr == ""


def test_no_command_shows_the_help_and_is_a_usage_error():
    found = cli()
    assert found.exit_code == 2
    assert "predict" in found.output


# run


def test_run_in_a_pipe_writes_scores_to_stdout_and_plain_lines_to_stderr(place):
    found = real("run", "run.yaml", cwd=place)
    assert found.returncode == 0, found.stderr
    result = RunResult.read(place / "runs" / "first")
    rows = [line.split("\t") for line in found.stdout.splitlines()]
    assert rows[0] == ["split", "loss", "accuracy", "f1"]
    assert [row[0] for row in rows[1:]] == ["validation", "test"]
    for name, *values in rows[1:]:
        assert values == [f"{value:.4f}" for value in result.metrics[name].values()]

    assert all(c.isprintable() or c == "\n" for c in found.stdout.replace("\t", "") + found.stderr)
    *log, empty, model, predict = found.stderr.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d \S", line) for line in log)
    assert any("device: cpu" in line for line in log)
    assert empty == ""
    assert model == f"model    {result.model_dir}"
    line = shlex.split(predict.removeprefix("predict  "))
    assert line == ["bertkit", "predict", result.model_dir, "a text"]


def test_quiet_leaves_the_scores_only(place):
    found = cli("run", "run.yaml", "--quiet")
    assert found.exit_code == 0
    assert found.stdout.startswith("split\tloss\taccuracy\tf1\nvalidation\t")
    assert found.stderr == ""


def test_set_and_offline_change_the_spec_and_paths_stay_the_specs(place, monkeypatch):
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    found = cli(
        "run", "../run.yaml", "-q", "--offline", "--set", "trainer.max_steps=2",
        "--set", "metrics=[accuracy]", "--set", "output=runs/second",
    )  # fmt: skip
    assert found.exit_code == 0, found.stderr
    assert found.stdout.startswith("split\tloss\taccuracy\n")
    spec = RunSpec.from_file(place / "runs" / "second" / "spec.yaml")
    assert spec.trainer.max_steps == 2
    assert spec.offline
    assert RunResult.read(place / "runs" / "second").training["steps"] == 2


def test_overwrite_replaces_and_without_it_a_run_is_refused(place):
    assert cli("run", "run.yaml", "-q").exit_code == 0
    refused = cli("run", "run.yaml", "--set", "seed=1")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "holds a finished run; go on with it (--resume), replace it" in refused.stderr
    assert cli("run", "run.yaml", "-q", "--set", "seed=1", "--overwrite").exit_code == 0
    assert RunResult.read(place / "runs" / "first").provenance["seed"] == 1


def test_resuming_a_finished_run_says_so_and_shows_its_scores_again(place):
    first = cli("run", "run.yaml", "-q")
    before = {p: p.stat().st_mtime_ns for p in (place / "runs").rglob("*")}
    again = cli("run", "run.yaml", "--resume")
    assert again.exit_code == 0
    assert again.stdout == first.stdout
    assert "this run is finished; nothing to resume" in again.stderr
    assert {p: p.stat().st_mtime_ns for p in (place / "runs").rglob("*")} == before


class Stops:
    """A plugin that plays Ctrl-C at the end of a stage."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    @hookimpl
    def bertkit_stage_finished(self, stage):
        if stage == self.stage:
            raise KeyboardInterrupt


def interrupt_after(stage: str) -> None:
    registry = Registry(plugins=False)
    registry.manager.register(Stops(stage))
    use(registry)


@pytest.mark.parametrize("output", ["runs/first", None, "runs/a folder's name"])
def test_an_interrupted_run_names_the_line_that_goes_on_and_the_line_works(place, output):
    options = ["--set", "trainer.keep=3", "--set", f"output={output or 'null'}", "--offline"]
    interrupt_after("train")
    stopped = cli("run", "run.yaml", *options)
    assert (stopped.exit_code, stopped.stdout) == (130, "")
    (line,) = re.findall(r"error: interrupted; go on with: (.*)\n", stopped.stderr)
    use(None)
    again = cli(*shlex.split(line)[1:])
    assert again.exit_code == 0, again.stderr
    assert "resumed from" in again.stderr
    (run_dir,) = (place / "runs").iterdir()
    assert RunResult.read(run_dir).training["resumed_from"] == 4
    assert RunSpec.from_file(run_dir / "spec.yaml").trainer.keep == 3


def test_a_run_interrupted_before_training_leaves_nothing_and_says_so(place):
    interrupt_after("load")
    before = sorted(place.rglob("*"))
    stopped = cli("run", "run.yaml")
    assert stopped.exit_code == 130
    assert "error: interrupted; nothing was computed yet" in stopped.stderr
    assert sorted(place.rglob("*")) == before


def test_a_run_that_fails_in_training_leaves_with_1(place):
    text = SPEC.format(trainer=", optimizer: sgd, learning_rate: 1.0e+30, clip: null, warmup: 0")
    (place / "run.yaml").write_text(text, encoding="utf-8")
    found = cli("run", "run.yaml")
    assert (found.exit_code, found.stdout) == (1, "")
    last = found.stderr.splitlines()[-1]
    assert last.startswith("error: step 2: the loss is ")
    assert "lower trainer.learning_rate" in last
    assert found.stderr.count("the loss is") == 1  # said once, not by the log, too


@pytest.mark.parametrize("flags", [[], ["--debug"]])
def test_debug_adds_the_traceback_and_changes_nothing_else(place, flags):
    found = cli("run", "nowhere.yaml", *flags)
    assert (found.exit_code, found.stdout) == (2, "")
    assert ("Traceback (most recent call last)" in found.stderr) == bool(flags)
    assert "SpecError" in found.stderr if flags else "SpecError" not in found.stderr
    assert found.stderr.splitlines()[-1].startswith("error: nowhere.yaml: found no such file")


def test_a_mistake_leaves_a_process_with_2_and_an_unknown_word_too(place):
    for arguments in (["run", "nowhere.yaml"], ["runn"]):
        found = real(*arguments, cwd=place)
        assert (found.returncode, found.stdout) == (2, "")
        assert "nowhere.yaml: found no such file" in found.stderr or "Did you mean" in found.stderr


def test_plugins_can_be_left_alone(place):
    interrupt_after("load")
    assert cli("--no-plugins", "run", "run.yaml", "-q").exit_code == 0


# predict


def test_predict_answers_each_text_on_a_line_of_its_own(finished):
    found = cli("predict", finished, "good room", "很好看", "a\tb")
    assert found.exit_code == 0
    assert found.stderr == ""
    rows = [line.split("\t") for line in found.stdout.splitlines()]
    assert [row[2] for row in rows] == ["good room", "很好看", "a\\tb"]
    expected = bertkit.load(finished).predict(["good room", "很好看", "a\tb"])
    assert [row[:2] for row in rows] == [[one.label, f"{one.score:.4f}"] for one in expected]


def test_predict_reads_a_file_and_writes_one(finished, tmp_path):
    data = finished.parent / "reviews.csv"
    found = cli("predict", finished, "--file", data, "--out", tmp_path / "out.jsonl")
    assert (found.exit_code, found.output) == (0, "")
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == [row["text"] for row in reviews()]

    other = tmp_path / "other.tsv"
    other.write_text("words\tn\ngood room\t1\n", encoding="utf-8")
    found = cli("predict", finished, "--file", other, "--text", "words")
    assert found.stdout.endswith("\tgood room\n")


def test_predict_reads_standard_input(finished):
    found = cli("predict", finished, stdin="good room\n\n很好看".encode())
    assert found.exit_code == 0
    assert [line.split("\t")[2] for line in found.stdout.splitlines()] == ["good room", "很好看"]


def test_predict_takes_a_checkpoint_and_a_policy(finished):
    usual = cli("predict", finished, "good room").stdout
    early = cli("predict", finished, "good room", "--step", 2)
    assert early.exit_code == 0
    assert early.stdout != usual
    long = "good " + "room " * 50 + "awful"
    answers = {cli("predict", finished, long, "--keep", k).stdout for k in ("head", "tail")}
    assert len(answers) == 2


def test_a_failure_in_predict_leaves_no_file(finished, tmp_path):
    data = tmp_path / "in.csv"
    data.write_text("review\ngood\n  \n")
    found = cli("predict", finished, "--file", data, "--out", tmp_path / "out.csv")
    assert found.exit_code == 2
    assert "row 2: expected a text" in found.stderr
    assert os.listdir(tmp_path) == ["in.csv"]


@pytest.mark.parametrize("command", ["inspect run", "schema"])
def test_a_reader_who_leaves_early_is_no_error(finished, command):
    line = f"set -o pipefail; '{Path(sys.executable).with_name('bertkit')}' {command} | true"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    found = subprocess.run(
        ["bash", "-c", line], cwd=finished.parent, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


# predict: every kind of task


def test_run_names_a_line_that_predicts_pairs(kinds, place):
    (place / "run.yaml").write_text(
        "encoder: ./encoder\n"
        f"dataset: {{train: {kinds}/guests.csv, text: [first, second], label: same}}\n"
        "trainer: {max_steps: 1, precision: fp32}\noutput: pairs\n"
    )
    found = cli("run", "run.yaml")
    line = shlex.split(found.stderr.splitlines()[-1].removeprefix("predict  "))
    assert cli(*line[1:]).exit_code == 0


def test_predict_takes_the_texts_of_pairs_two_by_two(kinds):
    found = cli("predict", kinds / "pairs", "good", "the room", "a", "was bad")
    expected = bertkit.load(kinds / "pairs").predict([("good", "the room"), ("a", "was bad")])
    assert found.stdout.splitlines() == [
        f"{expected[0].label}\t{expected[0].score:.4f}\tgood\tthe room",
        f"{expected[1].label}\t{expected[1].score:.4f}\ta\twas bad",
    ]


PAIRS = [(row["first"], row["second"]) for row in guests()]


def pairs_as(kind: str, folder: Path) -> list[object]:
    """Write PAIRS; return the arguments that read them."""
    lines = "".join(f"{one}\t{two}\n" for one, two in PAIRS)
    if kind == "stdin":
        return [lines.encode()]
    if kind == "txt":
        (folder / "pairs.txt").write_text(lines)
        return ["--file", folder / "pairs.txt"]
    with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("q", "a"), *PAIRS])
    return ["--file", folder / "pairs.csv", "--text", "q", "--text", "a"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "other names", "txt", "stdin"])
def test_predict_reads_pairs_from(kinds, tmp_path, kind):
    if kind in ("csv", "jsonl"):
        arguments: list[object] = ["--file", kinds / f"guests.{kind}"]
    else:
        arguments = pairs_as(kind, tmp_path)
    stdin = arguments.pop() if kind == "stdin" else None
    found = cli("predict", kinds / "pairs", *arguments, stdin=stdin)
    assert found.exit_code == 0, found.stderr
    rows = [tuple(line.split("\t")) for line in found.stdout.splitlines()]
    assert [row[2:] for row in rows] == PAIRS
    expected = bertkit.load(kinds / "pairs").predict(PAIRS)
    assert [row[:2] for row in rows] == [(one.label, f"{one.score:.4f}") for one in expected]


def test_predict_shows_several_labels_and_numbers_side_by_side(kinds):
    found = cli("predict", kinds / "tags", "good room", "bad bed")
    for line, one in zip(
        found.stdout.splitlines(), bertkit.load(kinds / "tags").predict(["good room", "bad bed"]),
        strict=True,
    ):  # fmt: skip
        labels, scores, _ = line.split("\t")
        assert labels == ("|".join(one.labels) or "(no label)")
        assert scores == "|".join(f"{one.scores[name]:.4f}" for name in one.labels or [one.label])
    assert "|" in found.stdout

    found = cli("predict", kinds / "numbers", "good room")
    (one,) = bertkit.load(kinds / "numbers").predict("good room")
    price, stars = one.scores.values()
    assert 1e6 < price < 1.1e6
    assert found.stdout == f"price|stars\t{price:.0f}|{stars:.4g}\tgood room\n"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv"])
def test_predict_writes_all_of_the_answer_to_a_file(kinds, tmp_path, kind, ending):
    out = tmp_path / f"out.{ending}"
    found = cli("predict", kinds / kind, "--file", kinds / "guests.csv", "--out", out)
    assert (found.exit_code, found.output) == (0, "")
    texts = PAIRS if kind == "pairs" else [row["text"] for row in guests()]
    expected = bertkit.load(kinds / kind).predict(texts)
    columns = ["text", "text_pair"] if kind == "pairs" else ["text"]
    if ending == "jsonl":
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        for row, text, one in zip(rows, texts, expected, strict=True):
            assert [row.pop(name) for name in columns] == (
                list(text) if kind == "pairs" else [text]
            )
            assert row == {
                "label": one.label, "score": pytest.approx(one.score, abs=1e-6),
                "scores": pytest.approx(one.scores, rel=1e-5), "labels": list(one.labels),
            }  # fmt: skip
        return
    with out.open(encoding="utf-8", newline="") as file:
        header, *cells = csv.reader(file, delimiter="\t" if ending == "tsv" else ",")
    names = [f"score:{name}" for name in expected[0].scores]
    assert header == [*columns, "label", "score", *names]
    for row, text, one in zip(cells, texts, expected, strict=True):
        assert row[: len(columns)] == (list(text) if kind == "pairs" else [text])
        label, *numbers = row[len(columns) :]
        assert label == "|".join(one.labels).replace("=x", "'=x", label[:1] == "'")
        assert not label.startswith("=")
        assert [float(number) for number in numbers] == pytest.approx(
            [one.score, *one.scores.values()], rel=1e-6, abs=1e-6
        )
    if kind == "tags":
        assert any(one.labels[:1] == ("=x",) for one in expected)


@pytest.mark.parametrize(
    ("kind", "arguments", "said"),
    [
        ("pairs", ["one"], "reads pairs of texts, found one text; give two for each pair"),
        ("pairs", ["one", "two", "three"], "reads pairs of texts, found 3 texts; give two for"),
        ("pairs", ["one", " "], "text 1: expected a pair of texts, found ('one', ' ')"),
        ("pairs", ["--file", "{}/guests.csv", "--text", "first"],
         "--text: found first; the model reads pairs: give --text twice"),
        ("number", ["--file", "{}/guests.csv", "--text", "first", "--text", "second"],
         "--text: found first, second; the model reads single texts: give --text once"),
        ("pairs", ["--file", "{}/odd.csv"],
         "odd.csv has no column `second`. Did you mean `seconds`? Found: first, seconds. By "
         "default the columns are called as in training; name others with this option."),
        ("pairs", ["--file", "{}/hole.csv"], "row 2: expected a text, found ''"),
        ("pairs", ["--file", "{}/pairs.txt"],
         "pairs.txt, line 3: found 1 texts; expected the two texts of a pair with a tab between"),
        ("number", ["good", "--keep", "windows"], "--keep: found 'windows'; expected head, tail"),
    ],
)  # fmt: skip
def test_predict_says_what_is_wrong_with_pairs_and_columns(kinds, tmp_path, kind, arguments, said):
    (kinds / "odd.csv").write_text("first,seconds\na,b\n")
    (kinds / "hole.csv").write_text("first,second\na,b\nc,\n")
    (kinds / "pairs.txt").write_text("a\tb\n\nc\n")
    found = cli("predict", kinds / kind, *(text.format(kinds) for text in arguments))
    assert found.exit_code == 2
    assert said in found.stderr
    assert "dataset." not in found.stderr


# evaluate, inspect, init, schema, plugins


def test_evaluate_gives_the_scores_of_the_run_and_writes_them(finished, tmp_path):
    out = tmp_path / "scores.json"
    found = cli("evaluate", finished, finished.parent / "reviews.csv", "--out", out)
    assert found.exit_code == 0
    header, row = (line.split("\t") for line in found.stdout.splitlines())
    assert header == ["split", "loss", "accuracy", "f1"]
    written = json.loads(out.read_text(encoding="utf-8"))
    assert row == ["reviews.csv", *(f"{value:.4f}" for value in written["metrics"].values())]
    assert written["texts"] == 48
    assert sum(map(sum, written["report"]["confusion_matrix"])) == 48
    early = cli("evaluate", finished, finished.parent / "reviews.csv", "--step", 2)
    assert early.exit_code == 0
    assert early.stdout != found.stdout


def test_evaluate_takes_other_columns(finished, tmp_path):
    rows = json.dumps([{"t": row["text"], "y": row["label"]} for row in reviews()])
    (tmp_path / "d.json").write_text(rows, encoding="utf-8")
    found = cli("evaluate", finished, tmp_path / "d.json", "--text", "t", "--label", "y")
    same = cli("evaluate", finished, finished.parent / "reviews.csv")
    assert (
        found.stdout.splitlines()[1].split("\t")[1:] == same.stdout.splitlines()[1].split("\t")[1:]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_evaluate_scores_every_kind_of_task_and_shows_its_answers(kinds, tmp_path, kind):
    out = tmp_path / "scores.json"
    data = kinds / "guests.jsonl"
    arguments = ["--label", "list"] if kind == "tags" else []  # other forms of the same labels
    found = cli("evaluate", kinds / kind, data, "--show", 40, "--out", out, *arguments)
    assert found.exit_code == 0, found.stderr
    header, _, titles, *rows = (line.split("\t") for line in found.stdout.splitlines() if line)
    assert titles == ["text", "label", "predicted"]
    metrics = json.loads(out.read_text(encoding="utf-8"))["metrics"]
    assert header == ["split", *metrics]
    texts = PAIRS if kind == "pairs" else [row["text"] for row in guests()]
    answers = bertkit.load(kinds / kind).predict(texts)
    if kind in ("number", "numbers"):
        names = {"number": ["stars"], "numbers": ["price", "stars"]}[kind]
        errors = [
            abs(one.scores[name] - guest[name])
            for one, guest in zip(answers, guests(), strict=True)
            for name in names
        ]
        assert metrics["mae"] == pytest.approx(sum(errors) / len(errors), rel=1e-5)
        assert rows[0][1] == {"number": "3.5", "numbers": "1000000, 3.5"}[kind]
        return
    given = {
        "tags": lambda guest: guest["list"],
        "columns": lambda guest: [name for name in ("good", "cheap") if guest[name]],
        "pairs": lambda guest: [guest["same"]],
    }[kind]
    for cells, guest, answer in zip(rows, guests(), answers, strict=True):
        assert set(cells[1].split(", ")) == set(given(guest) or ["(no label)"])
        assert set(cells[2].split(", ")) == set(answer.labels or ["(no label)"])
    if kind == "pairs":
        assert rows[0][0] == " / ".join(PAIRS[0])[:80]
    else:
        assert metrics["f1"] > 0


def test_evaluate_reads_joined_labels_with_another_separator(kinds, tmp_path):
    rows = [{"text": row["text"], "y": "/".join(row["list"])} for row in guests()]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    options = ["--label", "y", "--separator", "/"]
    found = cli("evaluate", kinds / "tags", tmp_path / "d.jsonl", *options)
    same = cli("evaluate", kinds / "tags", kinds / "guests.csv")
    assert found.exit_code == 0, found.stderr
    assert (
        found.stdout.splitlines()[1].split("\t")[1:]
        == (same.stdout.splitlines()[1].split("\t")[1:])
    )


@pytest.mark.parametrize(
    ("kind", "arguments", "said"),
    [
        ("columns", ["--label", "tags"], "or --separator"),
        ("columns", ["--label", "good"], "task: multi_label, but column `good` holds one class"),
        ("tags", ["--label", "same"], "labels that are not among those the model knows: 'neg'"),
        ("number", ["--label", "text"], "--label: the same column as --text, `text`"),
        ("number", ["--label", "same"], "labels in column `same` are no finite numbers: 'neg'"),
        ("number", ["--label", "price", "--label", "stars"], "2 numbers a text; the model knows 1"),
        ("numbers", ["--label", "stars"], "1 numbers a text; the model knows 2: price, stars"),
        ("pairs", ["--text", "first", "--text", "first"], "--text: both texts are the column"),
        ("pairs", ["--text", "text"], "--text: found text; the model reads pairs"),
        ("pairs", ["--label", "some"], "--label: {} has no column `some`. Did you mean `same`?"),
    ],
)
def test_evaluate_says_what_is_wrong_in_its_own_words(kinds, kind, arguments, said):
    data = kinds / "guests.csv"
    found = cli("evaluate", kinds / kind, data, *arguments)
    assert (found.exit_code, found.stdout) == (2, "")
    assert said.format(data) in found.stderr
    assert "dataset." not in found.stderr


def test_evaluate_shows_texts_beside_their_labels_and_predictions(finished, tmp_path):
    texts = ["good room", "a\tb \x1b[31mred " + "very " * 50]
    lines = [json.dumps({"review": text, "stars": "pos"}) for text in texts]
    (tmp_path / "d.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = cli("evaluate", finished, tmp_path / "d.jsonl", "--show", 2)
    assert found.exit_code == 0
    rows = [line.split("\t") for line in found.stdout.splitlines()[2:]]
    assert rows[0] == ["text", "label", "predicted"]
    predicted = [one.label for one in bertkit.load(finished).predict(texts)]
    assert [row[1:] for row in rows[1:]] == [["pos", label] for label in predicted]
    assert rows[1][0] == "good room"
    assert rows[2][0].startswith("a b \\x1b[31mred very")
    assert len(rows[2][0]) == 80


def test_evaluate_refuses_labels_that_the_model_does_not_know(finished, tmp_path):
    (tmp_path / "d.csv").write_text("review,stars\ngood,pos\nbad,negg\n")
    found = cli("evaluate", finished, tmp_path / "d.csv")
    assert (found.exit_code, found.stdout) == (2, "")
    assert "labels that are not among those the model knows: 'negg'" in found.stderr
    assert "Did you mean `neg`?" in found.stderr


def test_inspect_shows_scores_labels_and_files(finished):
    found = cli("inspect", finished)
    assert found.exit_code == 0
    rows = dict(line.split("\t", 1) for line in found.stdout.splitlines())
    assert rows["labels"] == "neg, pos"
    assert rows["run"] == f"finished, bertkit {bertkit.__version__}"
    assert rows["checkpoints"] == "step-000002, step-000004"
    assert rows["model.safetensors"].split()[1] == "bytes"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("tags", {"task": "multi_label", "labels": "=x (from 0.400 on), good (from 0.400 on)",
                  "columns": '{"text": "text", "label": "tags", "separator": ";"}'}),
        ("number", {"task": "regression", "targets": r"stars \(mean 3\.\d+, standard deviation"}),
        ("pairs", {"task": "single_label", "labels": "neg, pos",
                   "columns": '{"text": ["first", "second"], "label": "same"}'}),
    ],
)  # fmt: skip
def test_inspect_shows_what_a_model_reads_and_answers(kinds, kind, expected):
    rows = dict(line.split("\t", 1) for line in cli("inspect", kinds / kind).stdout.splitlines())
    for key, value in expected.items():
        assert rows[key] == value or re.match(value, rows[key]), key
    assert rows["long texts"] == '{"max_length": 32, "keep": "head"}'


def test_output_is_utf8_whatever_the_locale_says(tmp_path):
    config = {"model_type": "bert", "id2label": {"0": "差评", "1": "好评"}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    found = real("inspect", tmp_path, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert found.returncode == 0, found.stderr
    assert "labels\t差评, 好评\n" in found.stdout


def test_init_writes_a_spec_that_runs(place):
    found = cli("init", "reviews.csv", "first.yaml", "--encoder", "./encoder")
    assert (found.exit_code, found.stdout) == (0, "")
    assert "wrote first.yaml; start it with: bertkit run first.yaml" in found.stderr
    done = cli("run", "first.yaml", "-q", "--set", "trainer.max_steps=1")
    assert done.exit_code == 0, done.stderr
    assert (place / "runs" / "first" / "model" / "config.json").is_file()


def test_init_on_a_table_with_numbers_says_that_it_is_a_regression(kinds, place):
    rows = [{"lang": "en", "review": row["text"], "stars": row["stars"]} for row in guests()]
    (place / "d.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert cli("init", "d.jsonl", "first.yaml", "--encoder", "./encoder").exit_code == 0
    lines = (place / "first.yaml").read_text(encoding="utf-8").splitlines()
    assert "label is `stars` (40 values)" in lines[0]  # not `lang`, which is the same everywhere
    assert lines[1].startswith("# The task is regression: column `stars` holds numbers with a fr")
    done = cli("run", "first.yaml", "-q", "--set", "trainer.max_steps=1")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("split\tloss\tr2\tmae\tpearson\n")


def test_init_replaces_nothing(place):
    before = (place / "run.yaml").read_bytes()
    found = cli("init", "reviews.csv", "run.yaml")
    assert found.exit_code == 2
    assert "run.yaml: is there already; give another name" in found.stderr
    assert (place / "run.yaml").read_bytes() == before


def test_schema_prints_the_schema():
    found = cli("schema")
    assert found.exit_code == 0
    assert json.loads(found.stdout) == make_schema()
    assert found.stderr == ""


def test_plugins_list_shows_kind_name_distribution_version_and_file():
    found = cli("--no-plugins", "plugins", "list")
    assert found.exit_code == 0
    rows = [line.split("\t") for line in found.stdout.splitlines()]
    assert rows[0] == ["kind", "name", "distribution", "version", "file"]
    linear = next(row for row in rows if row[:2] == ["head", "linear"])
    assert linear[2:4] == ["bertkit", bertkit.__version__]
    assert linear[4].endswith("linear.py")


def test_an_interrupt_in_another_command_leaves_with_130(finished, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("bertkit.artifact.load", stop)
    found = cli("predict", finished, "good")
    assert (found.exit_code, found.stdout, found.stderr) == (130, "", "interrupted\n")

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

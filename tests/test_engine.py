"""What a run leaves behind, reports and restores; and what it refuses to touch."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import random
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
from loguru import logger

import bertkit
from bertkit import hookimpl
from bertkit.artifact import load
from bertkit.engine import complete
from bertkit.errors import (
    ArtifactError,
    CheckpointError,
    DataError,
    ModelError,
    SpecError,
    TrainError,
)
from bertkit.heads.linear import Linear
from bertkit.progress import Silent
from bertkit.records import RunResult
from bertkit.registry import Origin, Registry, use
from bertkit.spec import RunSpec

FAST = {"max_steps": 4, "batch_size": 8, "precision": "fp32", "learning_rate": 1e-3}
STAGES = ["load", "tokenize", "build", "train", "evaluate", "save"]


@pytest.fixture
def spec(encoder_dir, reviews_csv, tmp_path):
    """Return a function that makes the smallest spec of these tests, with changes."""

    def make(output: str | Path = tmp_path / "run", **changes: Any) -> dict[str, Any]:
        trainer = {**FAST, **changes.pop("trainer", {})}
        dataset = {"train": str(reviews_csv), "test": 0.2, **changes.pop("dataset", {})}
        return {
            "encoder": str(encoder_dir),
            "dataset": dataset,
            "trainer": trainer,
            "output": str(output),
            **changes,
        }

    return make


@pytest.fixture(scope="module")
def finished(encoder_dir, tmp_path_factory):
    """One finished run, shared; do not write to it. Two texts of test stand in train, too."""
    import csv

    from tests.conftest import reviews

    folder = tmp_path_factory.mktemp("finished")
    rows = reviews()
    for name, part in (("train", rows), ("test", [*reviews(10, seed=1), *rows[:2]])):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"])
            writer.writeheader()
            writer.writerows(part)
    dataset = {"train": str(folder / "train.csv"), "test": str(folder / "test.csv")}
    return bertkit.run(
        {
            "encoder": str(encoder_dir),
            "dataset": dataset,
            "trainer": {
                **FAST,
                "evaluate": {"steps": 2},
                "save": {"steps": 2},
                "best": "accuracy",
            },
            "metrics": ["accuracy", {"type": "f1", "name": "F-score"}, "roc_auc"],
            "output": str(folder / "deep" / "run"),
        },
        progress=Silent(),
    )


@pytest.fixture
def plugin():
    """Return a function that makes an object's hooks part of every run of the test."""
    registry = Registry(plugins=False)

    def register(host: object, name: str = "test") -> None:
        registry.manager.register(host, name=name)
        registry._origins[name] = Origin(name, f"bertkit-{name}", "1.2.3")

    use(registry)
    yield register
    use(None)


def tree(folder: Path) -> dict[str, str]:
    """Return every path below a folder, with the hash of what it holds."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        )
        for path in sorted(folder.rglob("*"))
    }


def weights(run: RunResult) -> str:
    return hashlib.sha256(Path(run.model_dir, "model.safetensors").read_bytes()).hexdigest()


# what a run leaves behind


@pytest.mark.field("output")
def test_the_run_directory_is_the_output_and_holds_what_the_design_names(finished):
    run_dir = Path(finished.run_dir)
    assert run_dir.parts[-2:] == ("deep", "run")
    assert sorted(os.listdir(run_dir)) == [
        "checkpoints", "log.txt", "model", "result.json", "spec.yaml",
    ]  # fmt: skip
    assert Path(finished.model_dir) == run_dir / "model"
    assert sorted(os.listdir(run_dir / "model")) == [
        "README.md", "bertkit.json", "config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip


def test_result_json_is_the_result_and_strict(finished):
    text = Path(finished.run_dir, "result.json").read_text(encoding="utf-8")
    assert text == finished.to_json()
    assert json.loads(text, parse_constant=pytest.fail)
    assert RunResult.read(finished.run_dir).to_json() == text


@pytest.mark.field("metric.name")
def test_scores_stand_under_the_names_that_the_spec_gives(finished):
    keys = {"loss", "accuracy", "F-score", "roc_auc"}
    assert {split: set(values) for split, values in finished.metrics.items()} == {
        "validation": keys, "test": keys,
    }  # fmt: skip
    assert finished.reports["test"]["labels"] == ["neg", "pos"]
    assert sum(map(sum, finished.reports["test"]["confusion_matrix"])) == 12


def test_history_has_the_losses_and_the_evaluations(finished):
    evaluations = [row for row in finished.history if row.get("split") == "validation"]
    assert [row["step"] for row in evaluations] == [2, 4]
    assert all({"epoch", "loss", "accuracy", "F-score"} <= set(row) for row in evaluations)
    assert finished.history[-2]["learning_rate"] == 0  # the linear schedule ends at 0


def test_every_stage_is_timed_and_no_other(finished):
    assert list(finished.timings) == [*STAGES, "total"]
    assert sum(finished.timings[stage] for stage in STAGES) <= finished.timings["total"] + 0.01


def test_provenance_names_versions_data_seed_and_origins(finished):
    facts = finished.provenance
    for name in ("torch", "transformers", "datasets", "tokenizers", "accelerate"):
        assert facts["packages"][name] == metadata.version(name)
    assert facts["bertkit"] == bertkit.__version__
    assert facts["seed"] == 42
    assert {
        place: one["distribution"] for place, one in facts["components"].items()
    } == dict.fromkeys(
        ("encoder", "dataset", "head", "trainer", "metrics.0", "metrics.1", "metrics.2"), "bertkit"
    )
    assert set(facts["data"]) == {"train", "validation", "test"}
    assert all(len(value) == 64 for value in facts["data"].values())


def test_the_fingerprint_of_data_changes_with_one_letter_or_label(spec, tmp_path):
    def prints(n: int, text: str, label: str) -> dict[str, str]:
        rows = [{"text": f"good room {i}", "label": ("a", "b")[i % 2]} for i in range(20)]
        rows[3] = {"text": text, "label": label}
        dataset = {"type": "inline", "train": rows, "validation": 0}
        made = spec(tmp_path / str(n), trainer={"max_steps": 1})
        return dict(bertkit.run({**made, "dataset": dataset}).provenance["data"])

    first = prints(0, "good room", "a")
    assert prints(1, "good room", "a") == first
    assert prints(2, "good rooms", "a") != first
    assert prints(3, "good room", "b") != first


def test_training_and_data_say_what_a_reader_asks_first(finished):
    training = finished.training
    assert training["steps"] == 4
    assert training["parameters"]["trainable"] == training["parameters"]["total"] > 20_000
    assert training["precision"] == {"used": "fp32", "reason": "as the spec says"}
    assert training["best"]["metric"] == "accuracy"
    assert training["device"].startswith("cpu")
    assert training["peak_memory_bytes"] > 50 * 2**20
    assert finished.data["labels"]["test"] == {"neg": 6, "pos": 6}
    assert finished.data["lengths"]["test"]["texts"] == 12
    assert finished.task == {"kind": "single_label", "labels": ["neg", "pos"]}


def test_warnings_stand_in_the_result_and_in_the_log(finished):
    (warning,) = [line for line in finished.warnings if "stand in train, too" in line]
    assert warning.startswith("test: 2 of 12 texts")
    log = Path(finished.run_dir, "log.txt").read_text(encoding="utf-8")
    assert f"WARNING {warning}" in log


@pytest.mark.parametrize(
    "line",
    [
        r"bertkit \d+\.\d+\.\d+: .*deep/run",
        r"reading .*train\.csv",
        r"reading encoder .*bert",
        r"train: 43 texts  \(neg 21  pos 22\)",
        r"model: [\d,]+ parameters, [\d,]+ of them trained",
        r"plan: 6 optimizer steps an epoch, 4 in all \(0\.667 epochs\)",
        r"device: cpu \(\d+ threads\), fp32 \(as the spec says\)",
        r"step 2/4  epoch 0\.33  validation  loss \d\.\d{4}  accuracy \d\.\d{4}  F-score .*",
        r"step 4/4  epoch 0\.67  validation  loss .*",
        r"test: loss \d\.\d{4}  accuracy .*",
        r"model saved: .*model",
        r"done in \d+\.\d s, peak memory \d+\.\d\d GiB",
    ],
)
def test_the_log_says(finished, line):
    import re

    lines = Path(finished.run_dir, "log.txt").read_text(encoding="utf-8").splitlines()
    stamped = re.compile(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{{3}} INFO {{4}}{line}")
    assert sum(bool(stamped.fullmatch(one)) for one in lines) == 1, "\n".join(lines)


# every kind of task

MANY = [["warm"], ["warm", "dear"], ["dear"], [], ["warm"], ["warm", "dear"]]


@pytest.mark.parametrize(
    ("label", "metrics", "lines"),
    [
        (lambda i: "ab"[i % 2], ["loss", "accuracy", "f1"], ["task: single_label (inferred: "]),
        (
            lambda i: MANY[i % 6],
            ["loss", "average_precision", "f1"],
            ["task: multi_label (inferred: ", "(dear 21  warm 28  (no label) 7)",
             "train: 7 of 42 texts have no label", "thresholds chosen on validation, whose f1"],
        ),
        (
            lambda i: 2e6 + 100.5 * i,
            ["loss", "r2", "mae", "pearson"],
            ["task: regression (inferred: ", "(label 2000000 to 2004121, mean 2002060"],
        ),
        (lambda i: [1e-6 * i, i + 0.5], ["loss", "r2", "mae", "pearson"], ["task: regression ("]),
    ],
    ids=["single", "many", "number", "numbers"],
)  # fmt: skip
def test_each_task_has_metrics_of_its_own_where_none_are_named(
    spec, tmp_path, label, metrics, lines
):
    rows = [{"text": f"good room {i}", "label": label(i)} for i in range(42)]
    dataset = {"type": "inline", "train": rows, "validation": rows, "test": rows}
    result = bertkit.run(spec() | {"dataset": dataset})
    assert list(result.metrics["validation"]) == list(result.metrics["test"]) == metrics
    assert result.training["best"]["metric"] == metrics[1]
    log = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    for line in lines:
        assert line in log
    assert RunSpec.from_file(tmp_path / "run" / "spec.yaml").metrics is None  # as it was written
    saved = load(result.model_dir)
    assert [metric["type"] for metric in saved.settings["metrics"]] == metrics[1:]
    assert saved.task.settings() == result.task


@pytest.mark.field("trainer.best")
@pytest.mark.parametrize(
    ("texts", "trainer", "chosen"),
    [
        (29, {}, False), (30, {}, True), (29, {"best": "accuracy"}, True),
        (29, {"best": "loss"}, True), (29, {"early_stopping": 1}, True),
        (30, {"best": None}, False),
    ],
)  # fmt: skip
def test_a_few_validation_texts_choose_no_model_unless_that_is_asked_for(
    spec, tmp_path, texts, trainer, chosen
):
    rows = [{"text": f"good room {i}", "label": "ab"[i % 2]} for i in range(texts)]
    dataset = {"type": "inline", "train": rows, "validation": rows}
    result = bertkit.run(spec() | {"dataset": dataset, "trainer": {**FAST, **trainer}})
    assert (result.training["best"] is not None) == chosen
    log = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    said = "the last weights are kept, as 29 validation texts are too few to choose by (fewer than"
    assert (said in log) == (texts == 29 and not trainer)


def test_windows_are_counted_and_observers_see_the_model_over_them(spec, plugin):
    diary = Diary()
    plugin(diary)
    result = bertkit.run(
        spec(long_text={"keep": "windows", "max_length": 8, "stride": 3, "max_windows": 2})
    )
    assert dict(diary.seen)["build"] == "Windowed"
    for name, report in result.data["lengths"].items():
        assert report["texts"] < report["windows"] <= 2 * report["texts"]
        assert 0 < report["cut_texts"] < report["texts"]
        assert any(f"{name}: {report['cut_texts']} of" in line for line in result.warnings)


# replay


@pytest.mark.parametrize("head", ["linear", "frozen-feature"])
def test_spec_yaml_alone_replays_the_run_to_the_same_weights(spec, tmp_path, monkeypatch, head):
    monkeypatch.chdir(tmp_path)  # the paths of this spec are relative
    given = spec("runs/first", head=head) | {
        "dataset": {"train": "reviews.csv", "test": 0.2, "sample": {"train": 20}},
    }
    first = bertkit.run(given)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    file = Path(first.run_dir, "spec.yaml")
    again = RunSpec.from_file(file, [f"output={tmp_path / 'second'}"])
    second = bertkit.run(again)
    assert weights(second) == weights(first)
    assert second.metrics == first.metrics
    assert second.provenance["data"] == first.provenance["data"]
    assert file.read_text(encoding="utf-8").startswith("# bertkit run; replay it with: bertkit run")


def test_two_runs_in_one_process_do_not_change_each_other(spec, tmp_path):
    alone = bertkit.run(spec(tmp_path / "a"))
    other = bertkit.run(spec(tmp_path / "b", seed=7, trainer={"type": "hf", "optimizer": "sgd"}))
    again = bertkit.run(spec(tmp_path / "c"))
    assert weights(again) == weights(alone) != weights(other)
    assert dict(again.metrics) == dict(alone.metrics)


# the output: what is refused, and what is left alone


def a_file(path: Path) -> None:
    path.write_text("mine")


def a_folder_with_a_file(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("mine")


def a_folder_with_a_hidden_file(path: Path) -> None:
    path.mkdir()
    (path / ".git").write_text("mine")


def a_spec_of_somebody_else(path: Path) -> None:
    path.mkdir()
    (path / "spec.yaml").write_text("openapi: 3.0.0\n")


def a_half_folder(path: Path) -> None:
    (path / "model").mkdir(parents=True)
    (path / "model" / "config.json").write_text("{}")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        a_file,
        a_folder_with_a_file,
        a_folder_with_a_hidden_file,
        a_spec_of_somebody_else,
        a_half_folder,
    ],
)
def test_what_is_not_bertkits_is_refused_and_untouched(spec, tmp_path, make, overwrite):
    make(tmp_path / "run")
    before = tree(tmp_path)
    with pytest.raises(ArtifactError, match=r"^output: .*run"):
        bertkit.run(spec(), overwrite=overwrite)
    assert tree(tmp_path) == before


def test_a_finished_run_is_not_replaced_unasked(spec, tmp_path):
    bertkit.run(spec())
    before = tree(tmp_path)
    with pytest.raises(ArtifactError, match=r"finished run; .*--resume.*--overwrite"):
        bertkit.run(spec())
    assert tree(tmp_path) == before


def test_resuming_a_finished_run_returns_its_result_and_changes_nothing(spec, tmp_path):
    first = bertkit.run(spec())
    before = tree(tmp_path)
    again = bertkit.run(spec(), resume=True)
    assert again.to_json() == first.to_json()
    assert tree(tmp_path) == before


def test_overwrite_replaces_the_run_and_nothing_beside_it(spec, tmp_path):
    first = bertkit.run(spec())
    run_dir, replaced = Path(first.run_dir), weights(first)
    (run_dir / "notes.txt").write_text("mine")
    second = bertkit.run(spec(trainer={"max_steps": 2}), overwrite=True)
    assert second.training["steps"] == 2
    assert RunResult.read(run_dir).training["steps"] == 2
    assert weights(second) != replaced
    assert (run_dir / "notes.txt").read_text() == "mine"
    assert os.listdir(run_dir / "checkpoints") == ["step-000002"]
    assert (run_dir / "log.txt").read_text(encoding="utf-8").count("done in") == 1


def test_an_overwrite_that_cannot_start_leaves_the_old_run_whole(spec, tmp_path):
    bertkit.run(spec())
    before = tree(tmp_path)
    with pytest.raises(DataError):
        bertkit.run(spec(dataset={"label": "stars"}), overwrite=True)
    assert tree(tmp_path) == before


def test_a_run_without_output_gets_a_new_folder_of_its_own(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {key: value for key, value in spec().items() if key != "output"}
    outputs = []
    for _ in range(3):  # in the same second, or nearly so
        outputs.append(Path(str(complete(RunSpec.parse(given)).output)))
        outputs[-1].mkdir(parents=True)
    assert len(set(outputs)) == 3
    run_dir = Path(bertkit.run(given).run_dir)
    assert run_dir not in outputs
    for folder in (*outputs, run_dir):
        assert folder.parent == tmp_path / "runs"
        assert folder.name.startswith("files-2")


@pytest.mark.parametrize(
    ("arguments", "without", "said"),
    [
        ({"resume": True, "overwrite": True}, (), "--resume and --overwrite"),
        ({"resume": True}, ("output",), "output: not set, so there is no telling"),
    ],
)
def test_arguments_that_contradict_are_refused(spec, tmp_path, arguments, without, said):
    given = {key: value for key, value in spec().items() if key not in without}
    with pytest.raises(SpecError) as caught:
        bertkit.run(given, **arguments)
    assert said in str(caught.value)


# resume


class StopsAt(Silent):
    """Progress of a user who presses Ctrl-C when the bar of a stage has come so far."""

    def __init__(self, title: str, count: int) -> None:
        self.title, self.count = title, count

    @contextlib.contextmanager
    def bar(self, title, total, done=0):
        outer = self

        class Bar:
            def advance(self, amount=1, note=""):
                if title == outer.title:
                    outer.count -= amount
                    if outer.count == 0:
                        raise KeyboardInterrupt

        yield Bar()


@pytest.mark.parametrize("trainer", ["loop", "hf"])
def test_an_interrupted_run_resumes_to_the_weights_of_one_that_was_not(spec, tmp_path, trainer):
    options = {"type": trainer, "save": {"steps": 1}, "keep": 2}
    whole = bertkit.run(spec(tmp_path / "whole", trainer=options))
    with pytest.raises(KeyboardInterrupt):
        bertkit.run(spec(trainer=options), progress=StopsAt("train", 3))
    log = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    assert log.splitlines()[-1].endswith("CRITICAL KeyboardInterrupt")
    assert not (tmp_path / "run" / "result.json").exists()

    with pytest.raises(ArtifactError, match="unfinished run; go on with it"):
        bertkit.run(spec(trainer=options))
    resumed = bertkit.run(spec(trainer=options), resume=True)
    assert resumed.training["resumed_from"] == 2
    assert weights(resumed) == weights(whole)
    assert resumed.metrics == whole.metrics
    assert (tmp_path / "run" / "log.txt").read_text(encoding="utf-8").startswith(log)


@pytest.mark.parametrize("change", [{"compute": {"threads": 1}}, {"offline": True}])
def test_what_cannot_change_the_result_may_change_on_a_resume(spec, change):
    first = bertkit.run(spec())
    assert bertkit.run(spec(**change), resume=True).to_json() == first.to_json()


def test_a_resume_of_another_spec_is_refused_field_by_field(spec, tmp_path):
    bertkit.run(spec())
    before = tree(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        bertkit.run(spec(seed=7, trainer={"batch_size": 4}), resume=True)
    message = str(caught.value)
    assert "trainer.batch_size was 8, is 4" in message
    assert "seed was 42, is 7" in message
    assert "Undo the change, or choose another output" in message
    assert tree(tmp_path) == before


@pytest.mark.parametrize("left", [[], [".spec.yaml.123"], [".writable"]])
def test_a_run_killed_before_it_wrote_its_spec_starts_anew(spec, tmp_path, left):
    (tmp_path / "run").mkdir()
    for name in left:
        (tmp_path / "run" / name).write_text("half")
    assert bertkit.run(spec(), resume=True).training["resumed_from"] is None
    assert not any(name.startswith(".") for name in os.listdir(tmp_path / "run"))


# failure


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"dataset": {"text": "review"}}, DataError),
        ({"dataset": {"train": "/nowhere/reviews.csv"}}, DataError),
        ({"encoder": "/nowhere/bert"}, ModelError),
        ({"long_text": {"max_length": 500}}, SpecError),
        ({"dataset": {"validation": 0}, "trainer": {"baseline": True}}, SpecError),
        ({"dataset": {"validation": 0}, "trainer": {"early_stopping": 2}}, SpecError),
        ({"dataset": {"validation": 0}, "trainer": {"best": "accuracy"}}, SpecError),
        ({"trainer": {"type": "hf", "extra": {"no_such": 1}}}, SpecError),
        ({"trainer": {"drop_last": True, "batch_size": 500}}, SpecError),
        ({"metrics": [{"type": "f1", "average": "binary", "positive": "nobody"}]}, Exception),
    ],
)
def test_a_run_that_cannot_start_leaves_nothing_behind(spec, tmp_path, changes, error):
    before = tree(tmp_path)
    with pytest.raises(error):
        bertkit.run(spec(tmp_path / "new" / "parents" / "run", **changes))
    assert tree(tmp_path) == before


def test_a_folder_that_was_there_stays_after_a_failure(spec, tmp_path):
    (tmp_path / "run").mkdir()
    before = tree(tmp_path)
    with pytest.raises(DataError):
        bertkit.run(spec(dataset={"text": "review"}))
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["reviews.csv/run", f"new/{'x' * 300}", "new/run\0"])
def test_a_folder_that_cannot_be_made_is_refused_and_leaves_no_parents(spec, tmp_path, name):
    before = tree(tmp_path)
    with pytest.raises((ArtifactError, SpecError), match="output: "):
        bertkit.run(spec(tmp_path / name))
    assert tree(tmp_path) == before


def test_an_interrupt_before_training_leaves_nothing_behind(spec, tmp_path):
    before = tree(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        bertkit.run(spec(head="frozen-feature"), progress=StopsAt("encode", 32))
    assert tree(tmp_path) == before


def test_a_run_that_fails_in_training_keeps_its_folder_and_says_why_in_the_log(spec, tmp_path):
    options = {"optimizer": "sgd", "learning_rate": 1e30, "clip": None, "warmup": 0}
    with pytest.raises(TrainError, match=r"the loss is .*lower trainer\.learning_rate"):
        bertkit.run(spec(trainer=options))
    log = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    assert "ERROR   TrainError: step 2: the loss is" in log
    assert (tmp_path / "run" / "spec.yaml").is_file()
    assert not (tmp_path / "run" / "model").exists()


class Skewed(Linear):
    """A head whose export is not what was trained."""

    type: Literal["skewed"] = "skewed"

    def export(self, model, task):
        import copy

        import torch

        changed = copy.deepcopy(model)
        with torch.no_grad():
            changed.classifier.bias[0] += 0.5
        return changed


class Narrow(Linear):
    """A head with one logit too few."""

    type: Literal["narrow"] = "narrow"

    def build(self, encoder, task, ctx):
        from dataclasses import replace

        return super().build(encoder, replace(task, labels=task.labels[:1]), ctx)


class Heads:
    @hookimpl
    def bertkit_heads(self):
        return [Skewed, Narrow]


def test_a_model_that_does_not_say_what_was_trained_is_not_saved(spec, tmp_path, plugin):
    plugin(Heads())
    with pytest.raises(ArtifactError, match=r"logits differ by 5\.0e-01"):
        bertkit.run(spec(head="skewed"))
    assert not (tmp_path / "run" / "model").exists()
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_head_of_the_wrong_width_is_refused_before_training(spec, tmp_path, plugin):
    plugin(Heads())
    before = tree(tmp_path)
    with pytest.raises(ModelError, match=r"shape \(4, 1\).*expected finite ones of shape \(4, 2\)"):
        bertkit.run(spec(head="narrow"))
    assert tree(tmp_path) == before


# observers


class Diary:
    """An observer that writes down what it sees."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    @hookimpl
    def bertkit_run_started(self, run):
        self.seen.append(("started", (run.run_dir, run.run_dir.is_dir(), run.resumed)))

    @hookimpl
    def bertkit_stage_finished(self, stage, record):
        self.seen.append((stage, type(record).__name__))

    @hookimpl
    def bertkit_run_finished(self, result):
        self.seen.append(("finished", result))

    @hookimpl
    def bertkit_run_failed(self, run, error):
        self.seen.append(("failed", error))


class Clumsy:
    """An observer that raises."""

    @hookimpl
    def bertkit_stage_finished(self, stage):
        raise ValueError(f"dropped the {stage}")


def test_observers_see_every_stage_and_the_result(spec, tmp_path, plugin):
    diary = Diary()
    plugin(diary)
    result = bertkit.run(spec())
    assert diary.seen == [
        ("started", (tmp_path / "run", True, False)),
        ("load", "Splits"), ("tokenize", "dict"),
        ("build", "BertForSequenceClassification"), ("train", "Fitted"),
        ("evaluate", "dict"), ("save", type(Path()).__name__),
        ("finished", result),
    ]  # fmt: skip


def test_observers_see_a_failure_and_an_interrupt(spec, tmp_path, plugin):
    diary = Diary()
    plugin(diary)
    with pytest.raises(DataError) as caught:
        bertkit.run(spec(dataset={"text": "review"}))
    assert diary.seen[1:] == [("failed", caught.value)]
    with pytest.raises(KeyboardInterrupt) as stopped:
        bertkit.run(spec(), progress=StopsAt("train", 1))
    assert diary.seen[-1] == ("failed", stopped.value)


def test_an_observer_that_raises_changes_nothing_but_the_log(spec, tmp_path, plugin):
    alone = bertkit.run(spec(tmp_path / "alone"))
    plugin(Clumsy(), "clumsy")
    result = bertkit.run(spec())
    assert weights(result) == weights(alone)
    log = Path(result.run_dir, "log.txt").read_text(encoding="utf-8")
    assert "observer clumsy raised in bertkit_stage_finished and was ignored" in log
    assert "ValueError: dropped the train" in log


def test_result_and_model_name_the_distributions_of_plugins(spec, tmp_path, plugin):
    class Twin(Linear):
        type: Literal["twin"] = "twin"

    class Host:
        @hookimpl
        def bertkit_heads(self):
            return [Twin]

    plugin(Host(), "twins")
    result = bertkit.run(spec(head="twin"))
    found = result.provenance["components"]["head"]
    assert (found["distribution"], found["version"]) == ("bertkit-twins", "1.2.3")
    assert load(result.model_dir).settings["plugins"] == {"head": "bertkit-twins"}


# what belongs to the host: random state, environment, threads, verbosity, log


def process_state() -> dict[str, Any]:
    import warnings

    import datasets
    import huggingface_hub.constants
    import numpy as np
    import torch
    import transformers

    log = transformers.utils.logging
    return {
        "random": hashlib.sha256(repr(random.getstate()).encode()).hexdigest(),
        "numpy": hashlib.sha256(repr(np.random.get_state()).encode()).hexdigest(),
        "torch": hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "transformers": (log.get_verbosity(), log.is_progress_bar_enabled()),
        "datasets": (datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()),
        "offline": (huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE),
        "counts": datasets.config.HF_UPDATE_DOWNLOAD_COUNTS,
        "warnings": list(warnings.filters),
        "caching": datasets.is_caching_enabled(),
    }


@pytest.fixture
def odd_host():
    """A host with settings of its own, which are put back after the test."""
    import torch
    import transformers

    log = transformers.utils.logging
    before = log.get_verbosity(), torch.get_num_threads()
    log.set_verbosity_info()
    torch.set_num_threads(2)
    random.seed(123)
    yield
    log.set_verbosity(before[0])
    torch.set_num_threads(before[1])


@pytest.mark.field("compute.threads")
@pytest.mark.field("offline")
@pytest.mark.parametrize(
    "changes",
    [{}, {"trainer": {"type": "hf"}}, {"head": "frozen-feature"}, {"encoder": "/nowhere"}],
)
@pytest.mark.usefixtures("odd_host")
def test_a_run_puts_everything_back_that_is_the_hosts(spec, tmp_path, plugin, changes):
    inside: list[dict[str, Any]] = []

    class Peeks:
        @hookimpl
        def bertkit_run_started(self):
            inside.append(process_state())

    plugin(Peeks())
    process_state()  # imports all it asks
    before = process_state()
    with contextlib.suppress(ModelError):
        bertkit.run(spec(compute={"threads": 1}, offline=True, **changes))
    assert process_state() == before
    (within,) = inside
    assert (before["threads"], within["threads"]) == (2, 1)
    assert within["environment"]["HF_HUB_OFFLINE"] == "1"
    assert within["offline"] == (True, True)


def test_the_hosts_log_keeps_its_sinks_and_gets_bertkits_lines(spec, tmp_path):
    heard: list[str] = []
    sink = logger.add(lambda message: heard.append(str(message)), format="{message}")
    try:
        result = bertkit.run(spec())
        during = len(heard)
        logger.info("after")
    finally:
        logger.remove(sink)
    assert [line for line in heard if line.startswith("model saved")]
    assert heard[during:] == ["after\n"]
    assert "log.txt" not in {Path(file.path).name for file in psutil.Process().open_files()}
    log = Path(result.run_dir, "log.txt").read_text(encoding="utf-8")
    assert "after" not in log
    assert len(log.splitlines()) == during


def test_a_log_file_holds_the_lines_of_its_own_run_only(spec, tmp_path, plugin):
    class Hosts:
        @hookimpl
        def bertkit_stage_finished(self, run, stage):
            if stage == "load" and run.run_dir.name == "run":
                bertkit.run(spec(tmp_path / "inner", seed=1, trainer={"max_steps": 1}))
                logger.info("the host speaks")

    plugin(Hosts())
    bertkit.run(spec())
    log = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    assert "inner" not in log
    assert "the host speaks" not in log
    assert "inner" in (tmp_path / "inner" / "log.txt").read_text(encoding="utf-8")


def test_a_spec_too_large_for_its_own_file_is_refused(spec, tmp_path):
    rows = [{"text": "good " * 2000, "label": i % 2} for i in range(120)]
    before = tree(tmp_path)
    with pytest.raises(SpecError, match=r"more than the 1,048,576 that spec\.yaml may have"):
        bertkit.run(spec() | {"dataset": {"type": "inline", "train": rows}})
    assert tree(tmp_path) == before


def test_the_main_job_as_the_readme_has_it(tmp_path, monkeypatch, encoder_dir):
    from tests.conftest import reviews

    with (tmp_path / "reviews.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "label"])
        writer.writerows((row["text"], row["label"]) for row in reviews(60))
    monkeypatch.chdir(tmp_path)
    result = bertkit.run(
        {
            "encoder": str(encoder_dir),
            "dataset": {
                "type": "files", "train": "reviews.csv", "text": "review", "label": "label",
            },
            "head": {"type": "frozen-feature"},
        }
    )  # fmt: skip
    assert isinstance(result.metrics["test"]["accuracy"], float)
    assert {name: sum(c.values()) for name, c in result.data["labels"].items()} == {
        "train": 42, "validation": 6, "test": 12,
    }  # fmt: skip
    found = bertkit.load(result.model_dir).predict(["good room"])
    assert [type(one).__name__ for one in found] == ["Prediction"]
    assert set(found[0].scores) == {"neg", "pos"}

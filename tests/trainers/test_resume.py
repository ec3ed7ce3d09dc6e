"""A run that is interrupted and resumed ends as if nothing had happened, to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import bertkit
from bertkit.errors import CheckpointError
from tests.conftest import reviews
from tests.trainers.conftest import checkpoints, weights_of


class Interrupt:
    """Progress that somebody interrupts when a piece of work has come so far."""

    def __init__(self, title, at, act=None):
        self.title, self.at, self.act = title, at, act

    @contextmanager
    def bar(self, title, total, done=0):
        self.current, self.done = title, done
        yield self

    def advance(self, amount=1, note=""):
        self.done += amount
        if self.current == self.title and self.done >= self.at:
            if self.act:
                self.act()
            raise KeyboardInterrupt


def identical(resumed, whole):
    """Demand that nothing that was computed tells the two runs apart."""
    assert resumed.history == whole.history
    assert resumed.metrics == whole.metrics
    assert resumed.reports == whole.reports
    for key in ("steps", "epochs", "train_loss", "best", "stopped_early", "padding"):
        assert resumed.training[key] == whole.training[key]
    found, wanted = weights_of(resumed), weights_of(whole)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


MID_EPOCH = {
    "epochs": 2, "batch_size": 8, "save": {"steps": 2}, "learning_rate": 1e-3, "log_steps": 4,
}  # fmt: skip
STOPPING = {
    "max_steps": 40, "batch_size": 8, "evaluate": {"steps": 2}, "save": {"steps": 3},
    "best": "loss", "early_stopping": {"patience": 3}, "learning_rate": 0.3, "optimizer": "adam",
}  # fmt: skip
TIES = {
    "max_steps": 9, "batch_size": 36, "evaluate": {"steps": 1}, "save": {"steps": 3},
    "best": "accuracy", "learning_rate": 1e-4, "schedule": "constant",
}  # fmt: skip
SHAPED = {
    **MID_EPOCH, "sampling": {"pos": 3.0}, "class_weights": {"neg": 2.0}, "focal": 1.5,
    "label_smoothing": 0.1, "accumulation": 2,
}  # fmt: skip
RUNS = {
    # trainer, head, options, step that is interrupted, step that is resumed from
    "loop, mid-epoch": ("loop", "linear", MID_EPOCH, 8, 6),
    "hf, mid-epoch": ("hf", "linear", MID_EPOCH, 8, 6),
    "loop, accumulation": ("loop", "linear", {**MID_EPOCH, "accumulation": 2}, 6, 4),
    "hf, accumulation": ("hf", "linear", {**MID_EPOCH, "accumulation": 2}, 6, 4),
    "loop, at the end of an epoch": ("loop", "linear", {**MID_EPOCH, "save": {"epochs": 1}}, 7, 5),
    "hf, at the end of an epoch": ("hf", "linear", {**MID_EPOCH, "save": {"epochs": 1}}, 7, 5),
    "loop, bf16 and sgd": (
        "loop", "linear", {**MID_EPOCH, "precision": "bf16", "optimizer": "sgd"}, 8, 6,
    ),
    "hf, bf16 and cosine": (
        "hf", "linear", {**MID_EPOCH, "precision": "bf16", "schedule": "cosine"}, 8, 6,
    ),
    "loop, early stopping on features": ("loop", "frozen-feature", STOPPING, 7, 6),
    "hf, early stopping on features": ("hf", "frozen-feature", STOPPING, 7, 6),
    "loop, only the best is saved": (
        "loop", "frozen-feature", {**STOPPING, "save": None}, 5, 2,
    ),
    "loop, ties of the best metric": ("loop", "frozen-feature", TIES, 6, 5),
    "loop, sampling and a shaped loss, mid-epoch": ("loop", "linear", SHAPED, 6, 4),
    "hf, sampling and a shaped loss, mid-epoch": ("hf", "linear", SHAPED, 6, 4),
    "before the first checkpoint": ("loop", "linear", MID_EPOCH, 1, None),
    "after the last step": ("loop", "linear", {**MID_EPOCH, "best": "loss"}, "evaluate", 10),
    "hf, after the last step": ("hf", "linear", {**MID_EPOCH, "best": "loss"}, "evaluate", 10),
}  # fmt: skip


@pytest.mark.parametrize(
    ("trainer", "head", "options", "interrupted", "resumed_from"), RUNS.values(), ids=RUNS
)
def test_resumed_run_is_the_uninterrupted_one(
    train, trainer, head, options, interrupted, resumed_from
):
    whole = train(trainer, head=head, **options)
    where = ("train", interrupted) if isinstance(interrupted, int) else ("evaluate validation", 1)
    with pytest.raises(KeyboardInterrupt):
        train(trainer, head=head, output="cut", progress=Interrupt(*where), **options)
    resumed = train(trainer, head=head, output="cut", resume=True, **options)
    assert resumed.training["resumed_from"] == resumed_from
    assert whole.training["resumed_from"] is None
    identical(resumed, whole)


def test_the_runs_that_stop_early_have_their_best_model_before_the_interruption(train):
    training = train("loop", head="frozen-feature", **STOPPING).training
    assert training["stopped_early"]
    assert (training["best"]["step"], training["steps"]) == (2, 8)


@pytest.mark.parametrize("trainer", ["loop", "hf"])
def test_a_resumed_run_can_be_resumed_again(train, trainer):
    whole = train(trainer, **MID_EPOCH)
    for step in (3, 7):
        with pytest.raises(KeyboardInterrupt):
            train(
                trainer, output="cut", resume=step > 3, progress=Interrupt("train", step),
                **MID_EPOCH,
            )  # fmt: skip
    resumed = train(trainer, output="cut", resume=True, **MID_EPOCH)
    assert resumed.training["resumed_from"] == 6
    identical(resumed, whole)


def test_a_damaged_checkpoint_costs_some_steps_and_nothing_else(train, tmp_path):
    options = {**MID_EPOCH, "keep": 3, "best": "accuracy"}
    whole = train(**options)
    with pytest.raises(KeyboardInterrupt):
        train(output="cut", progress=Interrupt("train", 8), **options)
    newest = tmp_path / "cut/checkpoints/step-000006/weights.safetensors"
    newest.write_bytes(newest.read_bytes()[:-4])
    resumed = train(output="cut", resume=True, **options)
    assert resumed.training["resumed_from"] == 5  # the best one, at the end of the first epoch
    told = "checkpoint passed over: step 6: weights.safetensors is not what was written"
    assert told in resumed.warnings
    identical(resumed, whole)


def test_a_finished_run_is_not_computed_again(train):
    whole = train(output="cut", **MID_EPOCH)
    before = Path(whole.model_dir, "model.safetensors").stat().st_mtime_ns
    again = train(output="cut", resume=True, **MID_EPOCH)
    assert json.loads(again.to_json()) == json.loads(whole.to_json())
    assert Path(whole.model_dir, "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("trainer", ["loop", "hf"])
def test_a_changed_option_is_refused_and_named(train, trainer):
    with pytest.raises(KeyboardInterrupt):
        train(trainer, output="cut", progress=Interrupt("train", 4), **MID_EPOCH)
    with pytest.raises(CheckpointError, match=r"trainer\.learning_rate was 0\.001, is 0\.002"):
        train(trainer, output="cut", resume=True, **{**MID_EPOCH, "learning_rate": 2e-3})


def test_changed_data_is_refused_and_named(train, tmp_path, encoder_dir):
    file = tmp_path / "reviews.jsonl"
    rows = reviews()
    spec = {"dataset": {"type": "files", "train": str(file), "validation": 0.25}}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        train(output="cut", spec=spec, progress=Interrupt("train", 4), **MID_EPOCH)
    rows[0]["text"] += " very"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"the run has changed: data\.train: then '"):
        train(output="cut", spec=spec, resume=True, **MID_EPOCH)


def test_a_killed_process_is_resumed_in_another_one(tmp_path, encoder_dir):
    spec = {
        "encoder": str(encoder_dir),
        "dataset": {"type": "inline", "train": reviews(), "validation": 0.25},
        "trainer": {"type": "loop", "precision": "fp32", "log_steps": 1, **MID_EPOCH},
    }
    cut = {**spec, "output": str(tmp_path / "cut")}
    ran = subprocess.run(
        [sys.executable, "-m", "tests.trainers.test_resume", json.dumps(cut)],
        cwd=Path(__file__).parents[2], capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    assert ran.returncode == -signal.SIGKILL, ran.stderr.decode()
    resumed = bertkit.run(cut, resume=True)
    whole = bertkit.run({**spec, "output": str(tmp_path / "whole")})
    assert resumed.training["resumed_from"] == 6
    assert checkpoints(resumed) == checkpoints(whole)
    identical(resumed, whole)


if __name__ == "__main__":  # the process that gets killed
    kill = Interrupt("train", 8, act=lambda: os.kill(os.getpid(), signal.SIGKILL))
    bertkit.run(json.loads(sys.argv[1]), progress=kill)

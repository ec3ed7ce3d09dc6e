"""What all trainers share: the plan of the steps, what is trained, and when to give up."""

from __future__ import annotations

import copy
import math
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

import bertkit
from bertkit.checkpoints import CheckpointStore
from bertkit.errors import SpecError, TrainError
from bertkit.heads.frozen_feature import FrozenFeature
from bertkit.heads.linear import Linear
from bertkit.heads.modules import FeatureClassifier
from bertkit.metrics.base import Metric
from bertkit.progress import Silent
from bertkit.tasks import SingleLabel
from bertkit.text.encoded import Features, LengthReport, Tokens
from bertkit.trainers.base import Every, TrainingContext
from bertkit.trainers.hf import HF
from bertkit.trainers.loop import Loop
from bertkit.trainers.training import Plan, optimizer_for, padding_of, trained_state
from tests.conftest import reviews
from tests.trainers.conftest import losses

TASK = SingleLabel(("neg", "pos"))
both = pytest.mark.parametrize("trainer", [Loop, HF])


class Small(nn.Module):
    """A linear classifier of features, with a fixed layer and a buffer beside it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fixed = nn.Linear(4, 4).requires_grad_(False)
        self.classifier = nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, features):
        if self.training:
            self.calls += 1
        logits = self.classifier(self.fixed(features))
        return type("Output", (), {"logits": logits})()


def features(rows=20, seed=0):
    matrix = torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))
    return Features(matrix, (matrix[:, 0] > 0).numpy().astype(np.int64))


@pytest.fixture
def context(tmp_path):
    """Return a function that makes a trainer's context, with its log in `lines`."""
    lines = []

    def make(**changes):
        settings = {
            "seed": 3, "task": TASK, "store": CheckpointStore(tmp_path / "checkpoints", {}),
            "say": lines.append,
        }  # fmt: skip
        return TrainingContext(**{**settings, **changes})

    make.lines = lines
    return make


PLANS = [
    # rows, options, (batches an epoch, steps an epoch, steps, epochs, steps of warm-up)
    (40, {"epochs": 2, "batch_size": 8}, (5, 5, 10, 2, 1)),
    (41, {"epochs": 2, "batch_size": 8}, (6, 6, 12, 2, 2)),
    (41, {"epochs": 2, "batch_size": 8, "drop_last": True}, (5, 5, 10, 2, 1)),
    (41, {"epochs": 2, "batch_size": 8, "accumulation": 4}, (6, 2, 4, 2, 1)),
    (41, {"max_steps": 7, "batch_size": 8, "accumulation": 4}, (6, 2, 7, 4, 1)),
    (40, {"max_steps": 1, "batch_size": 80}, (1, 1, 1, 1, 1)),
    (40, {"epochs": 4, "batch_size": 8, "warmup": 7}, (5, 5, 20, 4, 7)),
    (40, {"epochs": 4, "batch_size": 8, "warmup": 0.26}, (5, 5, 20, 4, 6)),
    (40, {"epochs": 4, "batch_size": 8, "warmup": 0}, (5, 5, 20, 4, 0)),
    (40, {"epochs": 4, "batch_size": 8, "schedule": "constant"}, (5, 5, 20, 4, 0)),
]


@pytest.mark.field("trainer.warmup")
@pytest.mark.parametrize(("rows", "options", "wanted"), PLANS, ids=str)
def test_the_plan_of_a_run(rows, options, wanted):
    plan = Plan(Loop(**options), features(rows), seed=0)
    found = (
        plan.batches_per_epoch, plan.steps_per_epoch, plan.steps, plan.epochs, plan.warmup_steps,
    )  # fmt: skip
    assert found == wanted
    groups = plan.step_batches(0)
    assert len(groups) == plan.steps_per_epoch
    assert [rows for group in groups for rows in group] == plan.batches(0)
    assert max(map(len, groups)) == min(plan.options.accumulation, plan.batches_per_epoch)


SIZES = [
    # head, options, texts, (epochs, epochs between two evaluations)
    (Linear, {}, 16, (100, 34)),
    (Linear, {}, 128, (13, 5)),
    (Linear, {}, 544, (3, 1)),
    (Linear, {}, 10_000, (3, 1)),
    (Linear, {"batch_size": 1}, 16, (7, 3)),
    (Linear, {"accumulation": 4}, 128, (50, 17)),
    (Linear, {"drop_last": True}, 31, (100, 34)),
    (Linear, {"epochs": 2}, 16, (2, 1)),
    (Linear, {"max_steps": 7}, 16, (None, 1)),
    (FrozenFeature, {}, 16, (30, 1)),
    (FrozenFeature, {}, 10_000, (30, 1)),
]


@pytest.mark.field("trainer.epochs")
@pytest.mark.field("trainer.evaluate")
@pytest.mark.field("trainer.save")
@pytest.mark.parametrize(("head", "options", "rows", "wanted"), SIZES, ids=str)
def test_few_texts_make_more_epochs_where_the_spec_leaves_them_open(head, options, rows, wanted):
    epochs, between = wanted
    sized = Loop(**options).sized(head(), rows)
    assert sized.epochs == epochs
    assert sized.evaluate == sized.save == Every(epochs=between)
    if "max_steps" not in options and "epochs" not in options:
        assert Plan(sized, features(rows), seed=0).steps >= head.min_steps
    said = Loop(**options, evaluate={"epochs": 2}, save=None).sized(head(), rows)
    assert (said.evaluate, said.save) == (Every(epochs=2), None)


def test_a_plan_without_a_full_batch_is_refused():
    plan = Plan(Loop(epochs=1, batch_size=21, drop_last=True), features(20), seed=0)
    with pytest.raises(
        SpecError, match=r"trainer\.drop_last: 20 texts do not fill one batch of 21"
    ):
        _ = plan.steps


def test_epochs_and_max_steps_exclude_each_other(train):
    with pytest.raises(SpecError, match="give one of `epochs` and `max_steps`"):
        train(epochs=1, max_steps=1)


@both
def test_only_what_requires_gradients_is_trained_and_saved(trainer, context):
    model, ctx = Small(), context()
    before = copy.deepcopy(model.state_dict())
    options = {"epochs": 1, "batch_size": 5, "learning_rate": 0.1}
    fitted = trainer(**options).fit(model, features(), None, ctx)
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"classifier.weight", "classifier.bias", "calls"}
    assert set(trained_state(model)) == changed
    assert set(ctx.store.weights(fitted.steps)) == changed
    assert after["calls"] == 4


def test_a_model_with_nothing_to_train_is_refused():
    with pytest.raises(TrainError, match="no parameter to train"):
        optimizer_for(Small().requires_grad_(False), Loop(learning_rate=0.1))


@both
def test_the_loss_goes_down(trainer, context):
    options = {"epochs": 30, "batch_size": 5, "learning_rate": 0.3, "log_steps": 10}
    fitted = trainer(**options).fit(Small(), features(), None, context())
    first, *_, last = (line["loss"] for line in fitted.history)
    assert last < 0.7 * first
    assert last < fitted.train_loss < first


@both
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_model_is_given_back_as_it_came_but_for_its_weights(trainer, context, precision):
    model = Small()
    forward = model.forward.__func__
    options = {"max_steps": 2, "batch_size": 5, "learning_rate": 0.1}
    trainer(**options).fit(model, features(), None, context(precision=precision))
    assert getattr(model.forward, "__func__", None) is forward
    assert model(features().matrix).logits.dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@both
def test_a_loss_that_is_not_finite_ends_the_run_with_what_to_change(trainer, context):
    data = features()
    data.matrix[7, 2] = math.inf
    options = {"epochs": 1, "batch_size": 20, "learning_rate": 0.25}
    with pytest.raises(TrainError) as caught:
        trainer(**options).fit(Small(), data, None, context())
    assert str(caught.value).startswith("step 1: the loss is nan; lower trainer.learning_rate (now")
    assert "now 0.25" in str(caught.value)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("trainer", ["loop", "hf"])
def test_a_learning_rate_that_blows_up_leaves_a_run_without_a_model(train, tmp_path, trainer):
    with pytest.raises(TrainError, match=r"the loss is nan; lower trainer\.learning_rate"):
        train(
            trainer, output="blown", learning_rate=1e20, optimizer="sgd", clip=None, max_steps=9,
            schedule="constant",
        )  # fmt: skip
    left = {path.name for path in (tmp_path / "blown").iterdir()}
    assert "spec.yaml" in left
    assert not {"model", "result.json"} & left


class Undefined(Metric):
    type: Literal["undefined"] = "undefined"

    def compute(self, references, predictions, task):
        return math.nan


@both
def test_a_metric_that_is_not_defined_is_never_the_best(trainer, context):
    ctx = context(metrics=(Undefined(),), best=("undefined", True))
    options = {"epochs": 3, "batch_size": 5, "learning_rate": 0.1, "early_stopping": 2}
    fitted = trainer(**options).fit(Small(), features(), features(8, seed=1), ctx)
    scored = [line for line in fitted.history if "split" in line]
    assert [line["undefined"] for line in scored] == [None, None]
    assert fitted.best is None
    assert fitted.stopped_early


@both
def test_without_a_validation_split_nothing_is_scored(trainer, context):
    options = {"epochs": 2, "batch_size": 5, "learning_rate": 0.1, "baseline": True}
    fitted = trainer(**options).fit(Small(), features(), None, context())
    assert all("learning_rate" in line for line in fitted.history)


def tokens(*lengths):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    labels = np.arange(len(lengths), dtype=np.int64) % 2
    values = np.arange(offsets[-1]) % 28 + 5
    return Tokens(values, offsets, labels, 0, LengthReport(len(lengths), int(offsets[-1]), 9))


def test_padding_of_a_batch():
    assert padding_of(tokens(4, 1, 3).batch([0, 1, 2])) == (12, 4)
    assert padding_of(tokens(2, 2).batch([0, 1])) == (4, 0)
    assert padding_of(features(6).batch(range(6))) == (6, 0)


def test_padding_of_a_batch_of_windows():
    windows = tokens(4, 1, 3)
    two = Tokens(
        windows.values, windows.offsets, np.array([0, 1]), 0, windows.report,
        counts=np.array([2, 1]),
    )  # fmt: skip
    assert padding_of(two.batch([0, 1])) == (12, 4)
    assert padding_of(two.batch([1])) == (3, 0)
    matrix = features(5).matrix
    assert padding_of(Features(matrix, np.array([0, 1]), np.array([4, 1])).batch([0, 1]))[1] == 0


@both
def test_the_share_of_padding_is_counted_over_all_that_is_trained(trainer, context, encoder_dir):
    from transformers import AutoModel

    model = FeatureClassifier(AutoModel.from_pretrained(encoder_dir), "cls", 2)
    options = {"epochs": 2, "batch_size": 2, "learning_rate": 0.1, "accumulation": 2}
    fitted = trainer(**options).fit(model, tokens(4, 1, 3, 3), None, context())
    assert fitted.padding == pytest.approx(3 / 14)  # by length: 4 with 3, and 3 with 1


@both
def test_the_bar_counts_the_steps_and_shows_the_loss(trainer, context):
    seen = []

    class Watching(Silent):
        @contextmanager
        def bar(self, title, total, done=0):
            seen.append((title, total))
            yield self

        def advance(self, amount=1, note=""):
            seen.append((amount, note[:5]))

    options = {"epochs": 1, "batch_size": 10, "learning_rate": 0.1}
    trainer(**options).fit(Small(), features(), None, context(progress=Watching()))
    assert seen == [("train", 2), (1, "loss "), (1, "loss ")]


def test_every_evaluation_is_a_line_of_the_log(context):
    ctx = context(metrics=(), best=("loss", False))
    options = {"epochs": 2, "batch_size": 10, "learning_rate": 0.1}
    Loop(**options).fit(Small(), features(), features(8, seed=1), ctx)
    first, second = (line for line in context.lines if "validation" in line)
    assert first.startswith("step 2/4  epoch 1.00  validation  loss 0.")
    assert second.startswith("step 4/4  epoch 2.00  validation  loss 0.")


def test_the_test_split_does_not_change_what_is_trained_or_chosen(train):
    rough = {"learning_rate": 0.05, "max_steps": 6, "evaluate": {"steps": 1}, "best": "loss"}

    def with_test(rows):
        data = {"type": "inline", "train": reviews(), "validation": 0.25, "test": rows}
        return train(**rough, spec={"dataset": data})

    flipped = [
        {"text": row["text"], "label": "pos" if row["label"] == "neg" else "neg"}
        for row in reviews(12, seed=5)
    ]
    one, other = with_test(reviews(12, seed=5)), with_test(flipped)
    assert one.history == other.history
    assert one.training["best"] == other.training["best"]
    assert one.metrics["test"] != other.metrics["test"]


def test_a_run_leaves_the_caller_s_random_numbers_alone(train):
    torch.manual_seed(5)
    wanted = torch.rand(2)
    torch.manual_seed(5)
    first = train(max_steps=2)
    assert torch.equal(torch.rand(2), wanted)
    assert losses(train(max_steps=2)) == losses(first)
    assert isinstance(first, bertkit.RunResult)
    assert Path(first.model_dir).is_dir()


@pytest.mark.parametrize("kind", [Loop, HF])
def test_a_best_metric_that_is_never_computed_is_refused(kind):
    with pytest.raises(ValueError, match="`best: accuracy` needs `evaluate`, which is null"):
        kind(best="accuracy", evaluate=None)
    assert kind(best="auto", evaluate=None).best == "auto"

"""`hf` and `loop` follow one trajectory, and it is the one that a plain script follows."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax, logsigmoid

from bertkit.checkpoints import CheckpointStore
from bertkit.compute import seed_everything
from bertkit.encoders.pretrained import load_encoder
from bertkit.heads.frozen_feature import FrozenFeature
from bertkit.heads.linear import Linear
from bertkit.records import Context
from bertkit.tasks import MultiLabel, Regression, SingleLabel
from bertkit.text.encoded import LengthReport, Tokens, epoch_batches
from bertkit.trainers.base import TrainingContext
from bertkit.trainers.hf import HF
from bertkit.trainers.loop import Loop
from tests.trainers.conftest import losses, rates, weights_of

# 36 of 48 texts are trained on: 5 batches of 8 an epoch, the last one of 4
SPECS = {
    "as it comes": {},
    "accumulation, the last step of an epoch has fewer batches": {"accumulation": 2},
    "accumulation of all batches": {"accumulation": 5},
    "accumulation and drop_last": {"accumulation": 3, "drop_last": True},
    "drop_last": {"drop_last": True},
    "max_steps in the middle of an epoch": {"epochs": None, "max_steps": 7},
    "cosine and adam": {"schedule": "cosine", "optimizer": "adam", "warmup": 3},
    "constant and sgd": {"schedule": "constant", "optimizer": "sgd", "learning_rate": 0.05},
    "warm-up only": {"schedule": "constant_with_warmup", "warmup": 0.5},
    "no clipping": {"clip": None},
    "clipping that bites": {"clip": 0.05, "optimizer": "sgd", "learning_rate": 0.05},
    "weight decay": {"weight_decay": 3.0},
    "evaluation within epochs": {"evaluate": {"steps": 2}, "baseline": True},
    "best model": {"best": "loss", "learning_rate": 0.05, "evaluate": {"steps": 1}},
    "early stopping": {"early_stopping": 1, "learning_rate": 0.05, "evaluate": {"steps": 1}},
    "bf16": {"precision": "bf16"},
    "bf16 and accumulation": {"precision": "bf16", "accumulation": 2},
    "weights, accumulation": {"class_weights": {"pos": 3.0}, "accumulation": 2},
    "focal loss and smoothing": {"focal": 2.0, "label_smoothing": 0.1},
    "sampling, accumulation": {"sampling": {"pos": 3.0}, "accumulation": 3, "drop_last": True},
}


def same_course(one, other):
    """Demand equal histories and equal weights, to the bit."""
    assert one.history == other.history
    torch.testing.assert_close(weights_of(one), weights_of(other), rtol=0, atol=0)
    for key in ("steps", "epochs", "stopped_early", "padding", "best", "train_loss"):
        assert one.training[key] == other.training[key]
    assert one.metrics == other.metrics


@pytest.mark.parametrize("options", SPECS.values(), ids=SPECS)
def test_both_trainers_follow_the_same_course(train, options):
    options = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, **options}
    same_course(train("hf", **options), train("loop", **options))


@pytest.mark.parametrize(
    "name", [name for name in SPECS if "accumulation" in name or "best" in name]
)
def test_both_trainers_follow_the_same_course_on_features(train, name):
    options = {"epochs": 3, "batch_size": 8, **SPECS[name]}
    same_course(*(train(kind, head="frozen-feature", **options) for kind in ("hf", "loop")))


def test_evaluating_and_saving_do_not_change_the_course(train):
    plain = train(epochs=2, batch_size=8, evaluate=None, best=None, save=None)
    busy = train(
        epochs=2, batch_size=8, evaluate={"steps": 1}, save={"steps": 2}, best=None, baseline=True
    )
    assert losses(plain) == losses(busy)
    assert all(map(torch.equal, weights_of(plain).values(), weights_of(busy).values()))


@pytest.mark.field("seed")
def test_another_seed_takes_another_course_and_the_same_seed_the_same(train):
    first, again = (train(max_steps=3, spec={"seed": 1}) for _ in range(2))
    other = train(max_steps=3, spec={"seed": 2})
    assert losses(first) == losses(again)
    assert losses(first) != losses(other)


# --- against a script that shares nothing with the trainers but the batches -----------------

TASK = SingleLabel(("neg", "pos"))


def texts(rows=30, seed=0):
    """Draw texts of different lengths, class by the first token."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, 20, rows)
    values = rng.integers(5, 33, lengths.sum())
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    labels = (values[offsets[:-1]] > 18).astype(np.int64)
    return Tokens(values, offsets, labels, 0, LengthReport(rows, int(lengths.sum()), 20))


def summed(logits, labels):
    return cross_entropy(logits, labels, reduction="sum")


def script(
    model, data, *, steps, batch_size, rate, accumulation, clip, decay, course, seed,
    loss_of=summed, weights=None,
):  # fmt: skip
    """Train with AdamW as a textbook has it; return the mean loss of each step."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    spared = [p for name, p in trained.items() if "bias" in name or "norm" in name.lower()]
    decayed = [p for p in trained.values() if not any(p is other for other in spared)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": decay}, {"params": spared, "weight_decay": 0.0}],
        foreach=False,
    )
    means, epoch, queue = [], 0, []
    torch.manual_seed(seed)
    model.train()
    for step in range(steps):
        if not queue:
            queue = epoch_batches(data.lengths, batch_size, seed, epoch, weights=weights)
            epoch += 1
        batches, queue = queue[:accumulation], queue[accumulation:]
        count, total = sum(len(rows) for rows in batches), 0.0
        optimizer.zero_grad()
        for rows in batches:
            batch = data.batch(rows)
            labels = batch.pop("labels")
            loss = loss_of(model(**batch).logits, labels)
            loss.backward()
            total += loss.item()
        gradients = [p.grad.div_(count) for p in trained.values() if p.grad is not None]
        norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients))
        if clip is not None and norm > clip:
            for gradient in gradients:
                gradient.mul_(clip / norm)
        for group in optimizer.param_groups:
            group["lr"] = rate * course(step)
        optimizer.step()
        means.append(total / count)
    return means


def linear(step, warmup, steps):
    return step / warmup if step < warmup else (steps - step) / (steps - warmup)


def cosine(step, warmup, steps):
    if step < warmup:
        return step / warmup
    return (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


SCRIPTS = {
    # options of the trainer, and what they come to: 8 batches of 4 an epoch, the last one of 2
    "linear": ({"max_steps": 12, "warmup": 3}, lambda step: linear(step, 3, 12)),
    "cosine, warm-up as a share": (
        {"max_steps": 12, "warmup": 0.25, "schedule": "cosine", "clip": 0.5},
        lambda step: cosine(step, 3, 12),
    ),
    "accumulation, fewer batches and samples in the last step of an epoch": (
        {"max_steps": 7, "accumulation": 3, "schedule": "constant", "clip": None},
        lambda step: 1.0,
    ),
    "decay": (
        {"max_steps": 4, "warmup": 1, "schedule": "constant_with_warmup", "weight_decay": 5.0},
        lambda step: min(1.0, step),
    ),
}


@pytest.mark.field("trainer.clip")
@pytest.mark.field("trainer.weight_decay")
@pytest.mark.field("trainer.accumulation")
@pytest.mark.field("trainer.schedule")
@pytest.mark.parametrize("head", [Linear(), FrozenFeature(pooling="cls")], ids=lambda h: h.type)
@pytest.mark.parametrize("trainer", [Loop, HF])
@pytest.mark.parametrize(("options", "course"), SCRIPTS.values(), ids=SCRIPTS)
def test_a_plain_script_takes_the_same_course(
    encoder_dir, tmp_path, head, trainer, options, course
):
    encoder, _ = load_encoder(encoder_dir, Context())
    seed_everything(7)
    model = head.build(encoder, TASK, Context())
    assert model.config.hidden_dropout_prob > 0 if head.type == "linear" else True
    twin = copy.deepcopy(model)
    tokens = texts()
    data = head.encode(model, tokens, Context())
    wanted = script(
        twin, head.encode(twin, tokens, Context()), steps=options["max_steps"], batch_size=4,
        rate=0.01, accumulation=options.get("accumulation", 1), clip=options.get("clip", 1.0),
        decay=options.get("weight_decay", 0.01), course=course, seed=7,
    )  # fmt: skip
    ctx = TrainingContext(
        seed=7, task=TASK, store=CheckpointStore(tmp_path / "none", {}), precision="fp32"
    )
    options = {"batch_size": 4, "learning_rate": 0.01, "log_steps": 1, "save": None, **options}
    fitted = trainer(**options).fit(model, data, None, ctx)
    assert [line["loss"] for line in fitted.history] == pytest.approx(wanted, rel=1e-4)
    found, expected = dict(model.named_parameters()), dict(twin.named_parameters())
    for name in [name for name in found if name.endswith("key.bias")]:
        del found[name], expected[name]  # softmax undoes it: its gradient is rounding alone
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


def shaped(logits, labels):
    """Weights 1 and 4 (by 1.6: 24 texts are neg, 6 pos), focal exponent 2, smoothing 0.2."""
    logs = log_softmax(logits, dim=1)
    of_label = logs.gather(1, labels[:, None])[:, 0]
    smooth = 0.8 * of_label + 0.2 * logs.mean(dim=1)
    weights = torch.tensor([1 / 1.6, 4 / 1.6])[labels]
    return -(weights * (1 - of_label.exp()) ** 2 * smooth).sum()


def binary(logits, labels):
    return -(labels * logsigmoid(logits) + (1 - labels) * logsigmoid(-logits)).sum() / 3


def binary_shaped(logits, labels):
    """Weight 5 for the second label, focal exponent 2, smoothing 0.2."""
    yes, no = logsigmoid(logits), logsigmoid(-logits)
    wrong = torch.where(labels == 1, 1 - yes.exp(), 1 - no.exp())
    smooth = 0.8 * labels + 0.1
    weights = torch.tensor([1.0, 5.0, 1.0])
    return -(wrong**2 * (weights * smooth * yes + (1 - smooth) * no)).sum() / 3


def squared(logits, values):
    return ((logits - values) ** 2).sum() / 2


RARE = np.arange(30) % 5 == 0
MANY = (np.random.default_rng(0).random((30, 3)) < 0.3).astype(np.float32)
NUMBERS = np.random.default_rng(1).normal(size=(30, 2)).astype(np.float32)
SHAPED = {"focal": 2.0, "label_smoothing": 0.2}
LOSSES = {
    # task, targets, options, the loss and the weights of rows that they come to
    "single-label, shaped": (
        TASK, RARE.astype(np.int64), {**SHAPED, "class_weights": {"pos": 4.0}}, shaped, None,
    ),
    "single-label, sampled": (
        TASK, RARE.astype(np.int64), {"sampling": "balanced"}, summed, np.where(RARE, 4.0, 1.0),
    ),
    "multi-label": (MultiLabel(("a", "b", "c")), MANY, {}, binary, None),
    "multi-label, shaped": (
        MultiLabel(("a", "b", "c")), MANY, {**SHAPED, "class_weights": {"b": 5.0}}, binary_shaped,
        None,
    ),
    "regression": (Regression(("x", "y")), NUMBERS, {}, squared, None),
}  # fmt: skip


@pytest.mark.field("trainer.class_weights")
@pytest.mark.field("trainer.focal")
@pytest.mark.field("trainer.label_smoothing")
@pytest.mark.field("trainer.sampling")
@pytest.mark.parametrize("head", [Linear(), FrozenFeature(pooling="cls")], ids=lambda h: h.type)
@pytest.mark.parametrize(
    ("task", "targets", "asked", "loss", "weights"), LOSSES.values(), ids=LOSSES
)
def test_every_loss_takes_the_course_of_a_plain_script_and_the_same_under_both_trainers(
    encoder_dir, tmp_path, head, task, targets, asked, loss, weights
):
    tokens = texts()
    tokens.labels = targets
    encoder, _ = load_encoder(encoder_dir, Context())
    seed_everything(7)
    model = head.build(encoder, task, Context())
    data = head.encode(model, tokens, Context())
    done, models = {}, {}
    for kind in (Loop, HF):
        trainer = kind(
            batch_size=4, learning_rate=0.01, log_steps=1, save=None, max_steps=7, accumulation=3,
            schedule="constant", clip=None, **asked,
        )  # fmt: skip
        ctx = TrainingContext(
            seed=7, task=task, store=CheckpointStore(tmp_path / "none", {}), precision="fp32",
            shaping=trainer.shaping(task, targets), row_weights=trainer.row_weights(task, targets),
        )  # fmt: skip
        models[kind] = copy.deepcopy(model)
        done[kind] = trainer.fit(models[kind], data, None, ctx)
    assert done[Loop].history == done[HF].history
    assert done[Loop].train_loss == done[HF].train_loss
    torch.testing.assert_close(models[Loop].state_dict(), models[HF].state_dict(), rtol=0, atol=0)
    wanted = script(
        model, data, steps=7, batch_size=4, rate=0.01, accumulation=3, clip=None, decay=0.01,
        course=lambda step: 1.0, seed=7, loss_of=loss, weights=weights,
    )  # fmt: skip
    assert [line["loss"] for line in done[Loop].history] == pytest.approx(wanted, rel=1e-4)


def test_the_logged_rate_is_that_of_the_next_step_as_in_transformers(train):
    result = train(max_steps=4, warmup=2, learning_rate=0.4)
    assert rates(result) == pytest.approx([0.2, 0.4, 0.2, 0.0])

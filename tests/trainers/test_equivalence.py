"""`hf` and `loop` follow one trajectory, and it is the one that a plain script follows."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from bertkit.checkpoints import CheckpointStore
from bertkit.compute import seed_everything
from bertkit.encoders.pretrained import load_encoder
from bertkit.heads.frozen_feature import FrozenFeature
from bertkit.heads.linear import Linear
from bertkit.records import Context
from bertkit.tasks import SingleLabel
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
}


def same_course(one, other):
    """Demand equal histories and equal weights, to rounding."""
    assert len(one.history) == len(other.history)
    for found, wanted in zip(one.history, other.history, strict=True):
        assert found.keys() == wanted.keys()
        numbers = [key for key in wanted if key != "split"]
        assert [found[key] for key in numbers] == pytest.approx(
            [wanted[key] for key in numbers], rel=1e-6, abs=1e-8
        )
    torch.testing.assert_close(weights_of(one), weights_of(other), rtol=1e-5, atol=1e-7)
    for key in ("steps", "epochs", "stopped_early", "padding"):
        assert one.training[key] == other.training[key]
    assert one.training["best"]["step"] == other.training["best"]["step"]
    assert one.training["train_loss"] == pytest.approx(other.training["train_loss"])
    assert one.metrics["validation"] == pytest.approx(other.metrics["validation"])


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


def script(model, data, *, steps, batch_size, rate, accumulation, clip, decay, course, seed):
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
            queue = epoch_batches(data.lengths, batch_size, seed, epoch)
            epoch += 1
        batches, queue = queue[:accumulation], queue[accumulation:]
        count, total = sum(len(rows) for rows in batches), 0.0
        optimizer.zero_grad()
        for rows in batches:
            batch = data.batch(rows)
            labels = batch.pop("labels")
            loss = cross_entropy(model(**batch).logits, labels, reduction="sum")
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


def test_the_logged_rate_is_that_of_the_next_step_as_in_transformers(train):
    result = train(max_steps=4, warmup=2, learning_rate=0.4)
    assert rates(result) == pytest.approx([0.2, 0.4, 0.2, 0.0])

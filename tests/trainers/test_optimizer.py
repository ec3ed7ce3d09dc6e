"""What of a model is trained, and at which rate: from the optimizer to the weights of a run.

36 of 48 texts are trained on and 12 validate, so an epoch of batches of 8 has 5 batches.
"""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bertkit.checkpoints import CheckpointStore
from bertkit.compute import seed_everything
from bertkit.encoders.pretrained import load_encoder
from bertkit.errors import PluginError, SpecError, TrainError
from bertkit.heads.frozen_feature import FrozenFeature
from bertkit.heads.linear import Linear
from bertkit.records import Context
from bertkit.trainers.base import TrainingContext
from bertkit.trainers.hf import HF
from bertkit.trainers.loop import Loop
from bertkit.trainers.training import Plan, optimizer_for, schedule_for
from tests.trainers.conftest import losses, rates, weights_of
from tests.trainers.test_equivalence import TASK, texts
from tests.trainers.test_resume import Interrupt, identical

both = pytest.mark.parametrize("trainer", ["loop", "hf"])
field = pytest.mark.field
NEVER = {"evaluate": None, "save": None, "best": None}

# --- groups of parameters -------------------------------------------------------------------


def small() -> nn.Module:
    """Two layers with normalisation, and a part that is not trained."""
    model = nn.ModuleDict(
        {"low": nn.Linear(2, 2), "norm": nn.LayerNorm(2), "high": nn.Linear(2, 3)}
    )
    model["fixed"] = nn.Linear(2, 2).requires_grad_(False)
    return model


GROUPS = {
    # rates by name, and the groups they make: factor, decay, names of the parameters
    "none": (
        {},
        [
            (1, 0.5, ["low.weight", "high.weight"]),
            (1, 0.0, ["low.bias", "norm.weight", "norm.bias", "high.bias"]),
        ],
    ),
    "of some": (
        {"low.weight": 0.25, "low.bias": 0.25, "norm.weight": 0.75, "norm.bias": 0.75},
        [
            (1, 0.5, ["high.weight"]),
            (1, 0.0, ["high.bias"]),
            (0.75, 0.0, ["norm.weight", "norm.bias"]),
            (0.25, 0.5, ["low.weight"]),
            (0.25, 0.0, ["low.bias"]),
        ],
    ),
    "higher than the whole": (
        {"low.weight": 4.0, "high.weight": 0.5},
        [
            (1, 0.0, ["low.bias", "norm.weight", "norm.bias", "high.bias"]),
            (4, 0.5, ["low.weight"]),
            (0.5, 0.5, ["high.weight"]),
        ],
    ),
    "of what is not trained": (
        {"fixed.weight": 0.5},
        [
            (1, 0.5, ["low.weight", "high.weight"]),
            (1, 0.0, ["low.bias", "norm.weight", "norm.bias", "high.bias"]),
        ],
    ),
}


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize(("given", "wanted"), GROUPS.values(), ids=GROUPS)
def test_parameters_of_one_rate_and_decay_are_a_group_and_the_whole_rate_comes_first(
    given, wanted, kind
):
    model = small()
    options = Loop(learning_rate=0.125, weight_decay=0.5, optimizer=kind)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for order in (given, dict(reversed(given.items()))):
        groups = optimizer_for(model, options, order).param_groups
        found = [
            (group["lr"] / 0.125, group["weight_decay"], [names[id(p)] for p in group["params"]])
            for group in groups
        ]
        assert found == wanted


def test_a_rate_for_a_parameter_that_is_not_there_is_a_mistake_of_the_head():
    with pytest.raises(PluginError, match=r"the head's rates name `high\.wieght`, which is no par"):
        optimizer_for(small(), Loop(learning_rate=0.1), {"high.wieght": 0.5})


def test_a_model_of_which_nothing_is_trained_is_refused():
    with pytest.raises(TrainError, match="no parameter to train"):
        optimizer_for(small().requires_grad_(False), Loop(learning_rate=0.1), {"low.weight": 0.5})


def test_the_schedule_scales_all_groups_alike():
    plan = Plan(Loop(learning_rate=0.1, max_steps=4, warmup=2), texts(), 0)
    optimizer = optimizer_for(small(), plan.options, GROUPS["of some"][0])
    schedule = schedule_for(optimizer, plan)
    for scale in (0.0, 0.5, 1.0, 0.5):
        factors = [group["lr"] / 0.1 for group in optimizer.param_groups]
        assert factors == pytest.approx([scale * f for f in (1, 1, 0.75, 0.25, 0.25)])
        optimizer.step()
        schedule.step()


def test_a_head_has_the_whole_rate_for_all_unless_it_says_otherwise(encoder_dir):
    encoder, _ = load_encoder(encoder_dir, Context())
    for head in (FrozenFeature(), Linear()):
        assert head.rates(head.build(encoder, TASK, Context())) == {}


# --- one step of training -------------------------------------------------------------------


def moved(encoder_dir, folder, trainer, head, **options):
    """Train from the same weights and seed; return model, what was done, and how far it moved."""
    encoder, _ = load_encoder(encoder_dir, Context())
    seed_everything(3)
    model = head.build(encoder, TASK, Context())
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    ctx = TrainingContext(
        seed=3, task=TASK, store=CheckpointStore(folder / "none", {}), rates=head.rates(model)
    )
    options = {
        "max_steps": 1, "batch_size": 8, "optimizer": "sgd", "learning_rate": 0.5, "clip": None,
        "schedule": "constant", "weight_decay": 0.5, "log_steps": 1, **NEVER, **options,
    }  # fmt: skip
    fitted = trainer(**options).fit(model, texts(), None, ctx)
    return fitted, {name: p.detach() - before[name] for name, p in model.named_parameters()}


SHARE = [("embeddings", 0.0625), (r"layer\.0", 0.25), (r"layer\.1", 1), ("pooler|classifier", 1)]


@field("head.linear.layer_decay")
@pytest.mark.parametrize("trainer", [Loop, HF])
def test_under_layer_decay_each_layer_moves_by_its_share(encoder_dir, tmp_path, trainer):
    _, whole = moved(encoder_dir, tmp_path, trainer, Linear())
    _, found = moved(encoder_dir, tmp_path, trainer, Linear(layer_decay=0.25))
    for name, distance in whole.items():
        (share,) = [share for part, share in SHARE if re.search(part, name)]
        torch.testing.assert_close(found[name], share * distance, rtol=1e-3, atol=1e-6)
    far = [name for name, distance in whole.items() if distance.abs().max() > 1e-3]
    for part, _ in SHARE:
        assert [name for name in far if re.search(part, name)], f"{part} must have moved"


@pytest.mark.parametrize("trainer", [Loop, HF])
def test_the_logged_rate_is_the_whole_one(encoder_dir, tmp_path, trainer):
    options = {"max_steps": 4, "schedule": "linear", "warmup": 2, "learning_rate": 0.4}
    head = Linear(layer_decay=0.25)
    fitted, _ = moved(encoder_dir, tmp_path, trainer, head, **options)
    assert rates(fitted) == pytest.approx([0.2, 0.4, 0.2, 0.0])


# --- whole runs -----------------------------------------------------------------------------


def linear(**options):
    return {"type": "linear", **options}


def kept(result, encoder_dir):
    """Return the names of the encoder's weights that are, to the bit, what they were."""
    before, after = load_file(encoder_dir / "model.safetensors"), weights_of(result)
    return {name for name, value in before.items() if torch.equal(after[f"bert.{name}"], value)}


KEPT = [
    ("loop", {}, None),
    ("loop", {"freeze_embeddings": True}, r"embeddings\."),
    ("hf", {"freeze_embeddings": True}, r"embeddings\."),
    ("loop", {"freeze_layers": 1}, r"encoder\.layer\.0\."),
    ("hf", {"freeze_layers": 1}, r"encoder\.layer\.0\."),
    ("loop", {"freeze_layers": 2, "freeze_embeddings": True}, r"embeddings\.|encoder\.layer\."),
    (
        "hf", {"freeze_layers": 1, "freeze_embeddings": True, "reinit_layers": 1},
        r"embeddings\.|encoder\.layer\.0\.",
    ),
]  # fmt: skip


@field("head.linear.freeze_embeddings")
@field("head.linear.freeze_layers")
@pytest.mark.parametrize(("trainer", "options", "frozen"), KEPT, ids=str)
def test_what_is_frozen_keeps_its_bits_and_all_else_moves(
    train, encoder_dir, trainer, options, frozen
):
    result = train(
        trainer, head=linear(**options), max_steps=3, learning_rate=0.01, weight_decay=1.0, **NEVER
    )
    names = load_file(encoder_dir / "model.safetensors")
    wanted = {name for name in names if frozen and re.match(frozen, name)}
    assert kept(result, encoder_dir) == wanted
    count = result.training["parameters"]
    assert count["total"] - count["trainable"] == sum(names[name].numel() for name in wanted)


@field("head.linear.reinit_layers")
@field("head.linear.hidden_dropout")
@field("head.linear.attention_dropout")
@field("head.linear.classifier_dropout")
@both
def test_training_takes_another_course(train, trainer):
    options = [
        {}, {"reinit_layers": 1}, {"hidden_dropout": 0.75}, {"attention_dropout": 0.75},
        {"classifier_dropout": 0.75},
    ]  # fmt: skip
    courses = [losses(train(trainer, head=linear(**o), max_steps=2, **NEVER)) for o in options]
    for step in zip(*courses, strict=True):
        assert len(set(step)) == len(options), "each its own"


@field("head.linear.layer_decay")
def test_a_run_trains_at_the_rates_of_its_head(train):
    runs = {
        decay: train(head=linear(layer_decay=decay), max_steps=3, learning_rate=0.01, **NEVER)
        for decay in (1.0, 0.001)
    }
    assert losses(runs[1.0])[0] == losses(runs[0.001])[0]
    assert losses(runs[1.0])[1:] != losses(runs[0.001])[1:]
    assert rates(runs[1.0]) == rates(runs[0.001])


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")
def test_checkpointed_activations_do_not_hide_gradients_behind_frozen_embeddings(train):
    head = linear(freeze_embeddings=True)
    options = {"head": head, "max_steps": 3, "learning_rate": 0.01, **NEVER}
    plain = train("hf", **options)
    saving = train("hf", extra={"gradient_checkpointing": True}, **options)
    assert losses(saving) == losses(plain)
    assert all(map(torch.equal, weights_of(saving).values(), weights_of(plain).values()))


ALL_AT_ONCE = [
    {"freeze_embeddings": True, "freeze_layers": 1, "reinit_layers": 1},
    {
        "freeze_embeddings": True, "reinit_layers": 1, "layer_decay": 0.5, "hidden_dropout": 0.2,
        "attention_dropout": 0.3, "classifier_dropout": 0.4,
    },
]  # fmt: skip


@pytest.mark.parametrize("options", ALL_AT_ONCE, ids=["frozen and anew", "decay and anew"])
@both
def test_a_resumed_run_is_the_uninterrupted_one(train, encoder_dir, trainer, options):
    options = {
        "head": linear(**options), "epochs": 2, "batch_size": 8, "save": {"steps": 2}, "keep": 9,
        "learning_rate": 1e-3, "log_steps": 4,
    }  # fmt: skip
    whole = train(trainer, **options)
    with pytest.raises(KeyboardInterrupt):
        train(trainer, output="cut", progress=Interrupt("train", 8), **options)
    resumed = train(trainer, output="cut", resume=True, **options)
    assert resumed.training["resumed_from"] == 6
    identical(resumed, whole)
    assert kept(resumed, encoder_dir) == kept(whole, encoder_dir) != set()


@pytest.mark.parametrize("trainer", ["loop", "hf"])
def test_both_trainers_train_alike_with_all_of_it(train, trainer):
    options = {"head": linear(**ALL_AT_ONCE[1]), "max_steps": 6, "batch_size": 8, **NEVER}
    found, wanted = train(trainer, **options), train("loop", **options)
    assert losses(found) == pytest.approx(losses(wanted), rel=1e-6)
    torch.testing.assert_close(weights_of(found), weights_of(wanted), rtol=1e-5, atol=1e-7)


def test_what_the_encoder_cannot_do_is_refused_before_training(train):
    with pytest.raises(SpecError, match=r"head\.freeze_layers: 3, and the encoder has 2 layers"):
        train(head=linear(freeze_layers=3))

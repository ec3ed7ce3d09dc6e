"""`extra` of `hf`: TrainingArguments that act are on, all others are refused before anything."""

from __future__ import annotations

import os
from dataclasses import fields

import pytest
from transformers import TrainingArguments
from transformers.models.bert.modeling_bert import BertSelfAttention

from bertkit.errors import SpecError
from bertkit.trainers.hf import CHANGES_ENCODER, OWNED, USABLE
from tests.trainers.conftest import losses, weights_of

pytestmark = [
    pytest.mark.field("trainer.hf.extra"),
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning"),
]
SHORT = {"max_steps": 3, "evaluate": None, "save": None, "best": None}
NAMES = {field.name for field in fields(TrainingArguments) if field.init}


@pytest.mark.parametrize("name", ["gradient_checkpointing", "activation_checkpointing"])
def test_checkpointing_runs_every_layer_again_in_the_backward_pass(train, monkeypatch, name):
    if name not in NAMES:
        pytest.skip(f"this transformers has no {name}")
    calls = []
    forward = BertSelfAttention.forward

    def counted(self, *args, **kwargs):
        calls.append(self.training)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(BertSelfAttention, "forward", counted)
    plain = train("hf", **SHORT)
    once = calls.count(True)
    calls.clear()
    recomputed = train("hf", extra={name: True}, **SHORT)
    assert once == 2 * 3  # layers, steps
    assert calls.count(True) == 2 * once
    assert losses(recomputed) == pytest.approx(losses(plain))


def test_neftune_adds_noise_to_the_embeddings_of_training_alone(train):
    options = {**SHORT, "baseline": True}
    plain = train("hf", **options)
    noisy = train("hf", extra={"neftune_noise_alpha": 50.0}, **options)
    assert losses(noisy) != losses(plain)
    assert noisy.history[0] == plain.history[0]


def test_workers_of_the_data_loader_change_the_process_and_not_the_course(train, monkeypatch):
    from bertkit.text.encoded import Tokens

    here = os.getpid()
    seen = []
    batch = Tokens.batch

    def watched(self, rows):
        seen.append(os.getpid())
        return batch(self, rows)

    monkeypatch.setattr(Tokens, "batch", watched)
    plain = train("hf", head="linear", **SHORT)
    loaded_here = len(seen)
    seen.clear()
    apart = train("hf", head="linear", extra={"dataloader_num_workers": 1}, **SHORT)
    assert len(seen) == loaded_here - SHORT["max_steps"]
    assert set(seen) == {here}
    assert losses(apart) == losses(plain)


def test_torch_compile_compiles_the_training_step_and_saves_plain_weights(train):
    from torch._dynamo.utils import counters

    counters.clear()
    options = {**SHORT, "head": "frozen-feature"}
    plain = train("hf", **options)
    assert not counters["frames"]
    extra = {"torch_compile": True, "torch_compile_backend": "eager"}
    compiled = train("hf", extra=extra, **options)
    assert counters["frames"]["ok"] > 0
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-3)
    assert weights_of(compiled).keys() == weights_of(plain).keys()


REFUSED = {
    "a field of the spec": (
        {"num_train_epochs": 5},
        "trainer.extra.num_train_epochs: this is what `trainer.epochs` says; set that",
    ),
    "a name that is gone, for which there is a field": (
        {"warmup_ratio": 0.1},
        "trainer.extra.warmup_ratio: this is what `trainer.warmup` says; set that",
    ),
    "the seed": ({"seed": 1}, "trainer.extra.seed: this is what `seed` says; set that"),
    "a misspelt name": (
        {"gradient_checkpoint": True},
        "trainer.extra.gradient_checkpoint: no such field. Did you mean `gradient_checkpointing`",
    ),
    "a name that is nowhere": ({"xyz": 1}, "trainer.extra.xyz: no such field. Usable: "),
    "what bertkit does itself": (
        {"push_to_hub": True},
        "trainer.extra.push_to_hub: not used by bertkit. Usable: ",
    ),
    "a token": ({"hub_token": "hf_x"}, "trainer.extra.hub_token: not used by bertkit."),
    "what only its own optimizer reads": (
        {"adam_beta2": 0.98},
        "trainer.extra.adam_beta2: not used by bertkit.",
    ),
    "what needs several processes": ({"deepspeed": {}}, "trainer.extra.deepspeed: not used"),
    "a text for a switch": (
        {"gradient_checkpointing": "yes"},
        "trainer.extra.gradient_checkpointing: input should be a valid boolean; found 'yes'",
    ),
    "a number for a switch": (
        {"torch_compile": 1},
        "trainer.extra.torch_compile: input should be a valid boolean; found 1",
    ),
    "a text for a number": (
        {"dataloader_num_workers": "two"},
        "trainer.extra.dataloader_num_workers: input should be a valid integer; found 'two'",
    ),
    "a list for a number": (
        {"neftune_noise_alpha": [1]},
        "trainer.extra.neftune_noise_alpha: input should be a valid number; found [1]",
    ),
    "a value out of range": (
        {"torch_empty_cache_steps": 0},
        "trainer.extra: refused by TrainingArguments: `torch_empty_cache_steps` must be an integer",
    ),
    "the second of two": (
        {"dataloader_num_workers": 1, "do_train": True},
        "trainer.extra.do_train: not used by bertkit.",
    ),
}


@pytest.mark.parametrize(("extra", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_before_anything_is_read(train, tmp_path, extra, message):
    with pytest.raises(SpecError) as caught:
        train("hf", extra=extra, spec={"encoder": str(tmp_path / "nowhere")})
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name in CHANGES_ENCODER if name in NAMES])
def test_what_changes_the_encoder_is_refused_where_it_is_not_trained(train, tmp_path, name):
    with pytest.raises(SpecError, match=rf"trainer\.extra\.{name}: .*`frozen-feature`"):
        train("hf", head="frozen-feature", extra={name: True}, **SHORT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "extra", [{"dataloader_pin_memory": False}, {"torch_empty_cache_steps": 2}], ids=str
)
def test_what_only_a_gpu_shows_is_taken(train, extra):
    assert train("hf", head="frozen-feature", extra=extra, **SHORT).training["steps"] == 3


def test_no_extra_belongs_to_loop(train):
    with pytest.raises(SpecError, match=r"trainer\.extra"):
        train("loop", extra={"gradient_checkpointing": True})


def test_no_name_is_both_a_field_of_the_spec_and_an_extra():
    assert not set(OWNED) & set(USABLE)
    assert set(USABLE) <= NAMES

"""The linear head: transformers' own sequence-classification model, all of it trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, BertForSequenceClassification

import bertkit
from bertkit.errors import ModelError
from bertkit.heads.linear import Linear
from bertkit.records import Context
from bertkit.tasks import SingleLabel
from tests.conftest import reviews

TASK = SingleLabel(("bad", "fair", "good"))


@pytest.fixture
def encoder(encoder_dir):
    return AutoModel.from_pretrained(encoder_dir)


def test_it_is_the_family_s_own_model_with_the_encoder_s_weights(encoder):
    model = Linear().build(encoder, TASK, Context())
    assert type(model) is BertForSequenceClassification
    own = model.bert.state_dict()
    assert all(torch.equal(own[name], value) for name, value in encoder.state_dict().items())
    assert model.classifier.weight.shape == (3, 32)
    assert all(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_its_config_carries_the_names_of_the_labels(encoder):
    config = Linear().build(encoder, TASK, Context()).config
    assert config.id2label == {0: "bad", 1: "fair", 2: "good"}
    assert config.label2id == {"bad": 0, "fair": 1, "good": 2}
    assert config.problem_type == "single_label_classification"
    assert encoder.config.num_labels == 2, "the encoder's own config is left alone"


def test_its_classifier_is_drawn_with_the_seed(encoder):
    def drawn(seed):
        torch.manual_seed(seed)
        return Linear().build(encoder, TASK, Context()).classifier.weight

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_a_family_without_a_classification_model_is_refused():
    config = AutoConfig.for_model(
        "dpr", hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        vocab_size=9,
    )  # fmt: skip
    encoder = torch.nn.Module()
    encoder.config = config
    with pytest.raises(ModelError, match="no sequence-classification model for `dpr`"):
        Linear().build(encoder, TASK, Context())


def test_a_pooler_that_the_encoder_lacks_is_drawn_with_the_head(encoder_dir):
    without_pooler = AutoModel.from_pretrained(encoder_dir, add_pooling_layer=False)
    poolers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model = Linear().build(without_pooler, TASK, Context())
        poolers.append(model.bert.pooler.dense.weight)
    assert torch.equal(poolers[0], poolers[1])
    assert not torch.equal(poolers[0], poolers[2])


def test_weights_that_the_classification_model_needs_cannot_be_left_out(encoder_dir):
    encoder = AutoModel.from_pretrained(encoder_dir)
    del encoder.encoder.layer[1]
    with pytest.raises(ModelError, match=r"the bert encoder lacks encoder\.layer\.1\."):
        Linear().build(encoder, TASK, Context())


@pytest.mark.field("head")
def test_training_changes_the_whole_encoder_and_checkpoints_load_by_step(encoder_dir, tmp_path):
    result = bertkit.run(
        {
            "encoder": str(encoder_dir),
            "dataset": {"type": "inline", "train": reviews()},
            "head": "linear",
            "trainer": {
                "epochs": 3, "learning_rate": 0.01, "keep": 3, "best": None, "precision": "fp32",
            },
            "output": str(tmp_path / "run"),
        }
    )  # fmt: skip
    before = load_file(encoder_dir / "model.safetensors")
    after = load_file(Path(result.model_dir, "model.safetensors"))
    assert not any(torch.equal(after[f"bert.{name}"], value) for name, value in before.items())
    total = result.training["parameters"]
    assert total["trainable"] == total["total"] == sum(v.numel() for v in after.values())

    steps = sorted(int(p.name[5:]) for p in Path(result.run_dir, "checkpoints").iterdir())
    assert len(steps) == 3
    for step in steps:
        wanted = load_file(Path(result.run_dir, f"checkpoints/step-{step:06d}/weights.safetensors"))
        found = bertkit.load(result.run_dir, step=step).model.state_dict()
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert all(torch.equal(after[name], value) for name, value in wanted.items())

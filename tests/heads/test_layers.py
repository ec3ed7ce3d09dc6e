"""The parts of a model that heads name: its output layer, the encoder's layers and embeddings."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from bertkit.errors import ModelError
from bertkit.heads.layers import output_layer
from bertkit.heads.modules import FeatureClassifier

BERT_LIKE = {
    "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8,
    "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip
OWN = {
    "distilbert": {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 8},
    "modernbert": {**BERT_LIKE, "cls_token_id": 2, "sep_token_id": 3},
    "albert": {**BERT_LIKE, "embedding_size": 4},
    "electra": {**BERT_LIKE, "embedding_size": 4},
}  # fmt: skip


def config_of(family: str, **changes: object):
    """Return a tiny config; the rest is as in the family's published models."""
    return AutoConfig.for_model(family, vocab_size=16, **{**OWN.get(family, BERT_LIKE), **changes})


# --- the output layer -----------------------------------------------------------------------

OUTPUT = {
    "bert": "classifier",
    "roberta": "classifier.out_proj",
    "xlm-roberta": "classifier.out_proj",
    "camembert": "classifier.out_proj",
    "electra": "classifier.out_proj",
    "distilbert": "classifier",
    "albert": "classifier",
    "deberta": "classifier",
    "deberta-v2": "classifier",
    "modernbert": "classifier",
    "mpnet": "classifier.out_proj",
}


@pytest.mark.parametrize("labels", [1, 3, 8], ids=["one", "three", "as wide as the encoder"])
@pytest.mark.parametrize("family", OUTPUT)
def test_the_output_layer_is_the_one_whose_values_are_the_logits(family, labels):
    model = AutoModelForSequenceClassification.from_config(config_of(family, num_labels=labels))
    found = output_layer(model.eval(), labels)
    assert found is model.get_submodule(OUTPUT[family])
    seen = []
    found.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[2, 5, 3]])).logits
    assert torch.equal(seen[-1], logits)


def test_the_output_layer_of_a_head_on_features_is_its_classifier():
    module = FeatureClassifier(AutoModel.from_config(config_of("bert")), "mean", 8)
    assert output_layer(module, 8) is module.classifier


def test_an_encoder_has_no_output_layer_whatever_is_in_it():
    encoder = AutoModel.from_config(config_of("bert"))
    assert any(isinstance(part, nn.Linear) and part.out_features == 8 for part in encoder.modules())
    with pytest.raises(ModelError, match=r"no output layer in BertModel: expected.* 8 outputs"):
        output_layer(encoder, 8)


def test_an_output_layer_with_another_number_of_labels_is_none():
    model = AutoModelForSequenceClassification.from_config(config_of("bert", num_labels=3))
    with pytest.raises(ModelError, match="4 outputs"):
        output_layer(model, 4)

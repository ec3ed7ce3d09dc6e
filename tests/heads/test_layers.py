"""The parts of a model that heads name: its output layer, the encoder's layers and embeddings."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from bertkit.errors import ModelError
from bertkit.heads.layers import encoder_layers, heights, output_layer
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


# --- layers and embeddings ------------------------------------------------------------------


@pytest.mark.parametrize("family", [family for family in OUTPUT if family != "albert"])
def test_the_layers_come_in_the_order_in_which_they_read(family):
    encoder = AutoModel.from_config(config_of(family, num_hidden_layers=3)).eval()
    layers = encoder_layers(encoder)
    assert len(layers) == 3
    seen = []
    for layer in layers:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(module))
    encoder(input_ids=torch.tensor([[2, 5, 3]]))
    assert list(map(id, seen)) == list(map(id, layers))


@pytest.mark.parametrize("sets", [1, 2])
def test_layers_that_share_their_weights_are_none_to_treat_by_themselves(sets):
    config = config_of("albert", num_hidden_layers=4, num_hidden_groups=sets, inner_group_num=4)
    with pytest.raises(ModelError, match=rf"the 4 layers of `albert` share {sets} sets? of"):
        encoder_layers(AutoModel.from_config(config))


def test_a_family_with_its_layers_in_several_lists_is_refused():
    encoder = AutoModel.from_config(
        AutoConfig.for_model("xlm", vocab_size=16, emb_dim=8, n_layers=2, n_heads=2)
    )
    with pytest.raises(ModelError, match="no telling the layers of `xlm`: expected one list of 2"):
        heights(encoder)


RELATIVE = {"relative_attention": True, "norm_rel_ebd": "layer_norm", "conv_kernel_size": 3}
HEIGHTS = {
    # family and changes of its config: height of parameters, by how their names begin
    "bert": ({}, {"embeddings.": 0, "encoder.layer.": None, "pooler.": 3}),
    "roberta": ({}, {"embeddings.": 0, "encoder.layer.": None, "pooler.": 3}),
    "electra": ({}, {"embeddings.": 0, "embeddings_project.": 0, "encoder.layer.": None}),
    "distilbert": ({}, {"embeddings.": 0, "transformer.layer.": None}),
    "deberta": (RELATIVE, {"embeddings.": 0, "encoder.layer.": None, "encoder.rel_embeddings.": 0}),
    "deberta-v2": (
        RELATIVE,
        {
            "embeddings.": 0, "encoder.layer.": None, "encoder.rel_embeddings.": 0,
            "encoder.LayerNorm.": 0, "encoder.conv.": 1,
        },
    ),
    "xlm-roberta-xl": (
        {}, {"embeddings.": 0, "encoder.layer.": None, "encoder.LayerNorm.": 2, "pooler.": 3},
    ),
    "modernbert": ({}, {"embeddings.": 0, "layers.": None, "final_norm.": 2}),
    "mpnet": (
        {},
        {
            "embeddings.": 0, "encoder.layer.": None, "encoder.relative_attention_bias.": 0,
            "pooler.": 3,
        },
    ),
    "albert": (
        {},
        {
            "embeddings.": 0, "encoder.embedding_hidden_mapping_in.": 0,
            "encoder.albert_layer_groups.": None, "pooler.": 2,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", HEIGHTS)
def test_every_parameter_of_an_encoder_has_its_height(family):
    changes, by_start = HEIGHTS[family]
    encoder = AutoModel.from_config(config_of(family, **changes))
    found = heights(encoder)
    assert list(found) == [name for name, _ in encoder.named_parameters()]
    starts = set()
    for name, height in found.items():
        (start,) = [start for start in by_start if name.startswith(start)]
        number = name.removeprefix(start).partition(".")[0]
        assert height == (int(number) + 1 if by_start[start] is None else by_start[start]), name
        starts.add(start)
    assert starts == by_start.keys(), "each of them must be there"

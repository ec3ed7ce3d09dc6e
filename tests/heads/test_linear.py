"""The linear head: transformers' own sequence-classification model, all of it trained."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    pipeline,
)

import bertkit
from bertkit.errors import ModelError, SpecError
from bertkit.heads.linear import Linear
from bertkit.records import Context
from bertkit.tasks import MultiLabel, Regression, SingleLabel
from tests.conftest import FAMILIES, make_encoder, reviews

field = pytest.mark.field
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


# --- what is trained, of every family -------------------------------------------------------

OWN_LAYERS = [family for family in FAMILIES if family != "albert"]  # its layers share weights
LAYER = re.compile(r"\.layers?\.(\d)\.|\.albert_layers\.(\d)\.")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Return a function that loads a tiny encoder of a family, of two layers."""
    folders = {}

    def load(family):
        if family not in folders:
            folders[family] = make_encoder(tmp_path_factory.mktemp("families") / family, family)
        return AutoModel.from_pretrained(folders[family])

    return load


def built(encoder, task=TASK, *, seed=0, **options):
    """Build a model as a run does: what cannot work is refused first."""
    head = Linear(**options)
    head.check_encoder(encoder)
    torch.manual_seed(seed)
    return head.build(encoder, task, Context())


def part_of(name):
    """Say in words what a parameter belongs to."""
    if "embedding" in name:
        return "embeddings"
    layer = LAYER.search(name)
    if layer:
        return "lower layer" if "0" in layer.groups() else "upper layer"
    return "norm above" if "final_norm" in name else "head"


FROZEN = [
    ({}, ()),
    ({"freeze_embeddings": True}, ("embeddings",)),
    ({"freeze_layers": 1}, ("lower layer",)),
    ({"freeze_layers": 2}, ("lower layer", "upper layer", "norm above")),
    ({"freeze_embeddings": True, "freeze_layers": 1}, ("embeddings", "lower layer")),
    (
        {"freeze_embeddings": True, "freeze_layers": 2},
        ("embeddings", "lower layer", "upper layer", "norm above"),
    ),
]


@field("head.linear.freeze_embeddings")
@field("head.linear.freeze_layers")
@pytest.mark.parametrize(
    ("family", "options", "frozen"),
    [
        (family, *row)
        for family in FAMILIES
        for row in FROZEN
        if family in OWN_LAYERS or "freeze_layers" not in row[0]
    ],
    ids=str,
)
def test_frozen_parts_need_no_gradient_and_all_others_do(pretrained, family, options, frozen):
    model = built(pretrained(family), **options)
    parts = {name: part_of(name) for name, _ in model.named_parameters()}
    assert {"embeddings", "lower layer", "head"} <= set(parts.values())
    found = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert found == {name for name, part in parts.items() if part in frozen}


def test_frozen_layers_still_drop_out_in_training(pretrained):
    model = built(pretrained("bert"), freeze_embeddings=True, freeze_layers=2).train()
    ids = {"input_ids": torch.tensor([[2, 7, 8, 3]])}
    once, twice = (model.bert(**ids).last_hidden_state for _ in range(2))
    assert not torch.equal(once, twice)


@field("head.linear.reinit_layers")
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("family", OWN_LAYERS)
def test_the_highest_layers_and_the_pooler_are_drawn_anew(pretrained, family, layers):
    encoder = pretrained(family)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 1  # so that nothing drawn or set anew can be what it was
    before = encoder.state_dict()
    model = built(encoder, reinit_layers=layers).base_model
    drawn = {"upper layer", "norm above", "head"} | ({"lower layer"} if layers == 2 else set())
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]) == (part_of(f".{name}") not in drawn), name
    again, other = (built(encoder, reinit_layers=layers, seed=n).base_model for n in (0, 1))
    for name, value in model.named_parameters():
        assert torch.equal(value, again.get_parameter(name)), name
    assert not all(
        torch.equal(value, other.get_parameter(name))
        for name, value in model.named_parameters()
        if part_of(f".{name}") == "upper layer"
    )
    assert all(torch.equal(encoder.state_dict()[name], value) for name, value in before.items())


def test_what_is_drawn_anew_is_drawn_as_the_config_says(pretrained):
    encoder = pretrained("bert")
    encoder.config.initializer_range = 0.5
    layer = built(encoder, reinit_layers=1).bert.encoder.layer[1]
    assert float(layer.intermediate.dense.weight.detach().std()) == pytest.approx(0.5, rel=0.1)
    assert not layer.intermediate.dense.bias.any()
    assert (layer.output.LayerNorm.weight == 1).all()


def test_the_classifier_is_the_same_whatever_else_is_drawn_anew(pretrained):
    plain, other = (built(pretrained("bert"), reinit_layers=n) for n in (0, 1))
    assert torch.equal(plain.classifier.weight, other.classifier.weight)


RATE = {"embeddings": 0.25, "lower layer": 0.5}


@field("head.linear.layer_decay")
@pytest.mark.parametrize("family", OWN_LAYERS)
def test_the_rate_gets_smaller_from_layer_to_layer(pretrained, family):
    model = built(pretrained(family))
    names = [name for name, _ in model.named_parameters()]
    assert Linear().rates(model) == {}
    assert Linear(layer_decay=0.5).rates(model) == {
        name: RATE[part_of(name)] for name in names if part_of(name) in RATE
    }


# --- dropout --------------------------------------------------------------------------------


def dropouts(model):
    """Return the probabilities of all dropout in a model, by the name of the module."""
    found = {}
    for name, part in model.named_modules():
        p = part.p if isinstance(part, torch.nn.Dropout) else getattr(part, "attention_dropout", 0)
        if isinstance(p, float):
            found[name] = p
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_without_options_dropout_is_as_the_config_of_the_encoder_says(pretrained, family):
    encoder = pretrained(family)
    plain = AutoModelForSequenceClassification.from_config(encoder.config)
    assert dropouts(built(encoder)) == dropouts(plain)


@field("head.linear.hidden_dropout")
@field("head.linear.attention_dropout")
@field("head.linear.classifier_dropout")
@pytest.mark.parametrize("option", ["hidden_dropout", "attention_dropout", "classifier_dropout"])
@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_reaches_the_modules_it_is_for(pretrained, family, option, tmp_path):
    encoder = pretrained(family)
    before = dropouts(built(encoder))
    model = built(encoder, **{option: 0.375})
    found = {name for name, p in dropouts(model).items() if p == 0.375}
    changed = {name for name, p in dropouts(model).items() if p != before.get(name)}
    assert found == changed
    inside = {name for name in found if name.startswith(f"{model.base_model_prefix}.")}
    layers = {name for name in inside if LAYER.search(f"{name}.")}
    all_layers = {"0"} if family == "albert" else {"0", "1"}
    if option == "classifier_dropout":
        inner = {"roberta": "classifier.dropout", "electra": "classifier.dropout"}
        assert found == {inner.get(family, "drop" if family == "modernbert" else "dropout")}
    else:
        numbers = {next(filter(None, LAYER.search(f"{name}.").groups())) for name in layers}
        assert numbers == all_layers
        embeddings = {name for name in inside if "embeddings" in name}
        assert bool(embeddings) == (option == "hidden_dropout")
        assert inside == layers | embeddings
        own = family in ("albert", "distilbert", "modernbert")  # never that of hidden states
        assert len(found - inside) == (0 if own or option == "attention_dropout" else 1)
    model.save_pretrained(tmp_path)
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert dropouts(saved) == dropouts(model), "the saved model can be trained on alike"


def test_the_classifier_has_its_own_dropout_where_both_are_given(pretrained):
    found = dropouts(built(pretrained("bert"), hidden_dropout=0.25, classifier_dropout=0.5))
    assert found["dropout"] == 0.5
    assert found["bert.embeddings.dropout"] == 0.25


def test_the_config_of_the_encoder_is_left_alone(pretrained):
    encoder = pretrained("distilbert")
    before = encoder.config.to_dict()
    built(encoder, hidden_dropout=0.5, attention_dropout=0.5, classifier_dropout=0.5)
    assert encoder.config.to_dict() == before


# --- what cannot work -----------------------------------------------------------------------

REFUSED = {
    # family, options, error, what it says
    "more frozen than there are": (
        "bert", {"freeze_layers": 3}, SpecError,
        r"head\.freeze_layers: 3, and the encoder has 2 layers",
    ),
    "more drawn anew than there are": (
        "bert", {"reinit_layers": 7}, SpecError,
        r"head\.reinit_layers: 7, and the encoder has 2 layers",
    ),
    "frozen and drawn anew": (
        "bert", {"freeze_layers": 1, "reinit_layers": 2}, SpecError,
        r"head\.reinit_layers: the highest 2 of 2 layers overlap with the lowest 1 that "
        r"head\.freeze_layers keeps",
    ),
    "a rate for nothing, all is frozen": (
        "bert", {"freeze_layers": 2, "freeze_embeddings": True, "layer_decay": 0.9}, SpecError,
        r"head\.layer_decay: 0\.9, and everything below the highest of 2 layers is frozen",
    ),
    "a rate for nothing, the highest layer has the whole one": (
        "bert", {"freeze_layers": 1, "freeze_embeddings": True, "layer_decay": 0.9}, SpecError,
        r"head\.layer_decay: 0\.9, .*head\.freeze_layers: 1",
    ),
    **{
        f"{option} of shared layers": (
            "albert", {option: value}, ModelError, r"the 2 layers of `albert` share 1 set of weight"
        )
        for option, value in
        {"freeze_layers": 1, "reinit_layers": 1, "layer_decay": 0.5}.items()
    },
    "a dropout that a family does not have": (
        "mpnet", {"classifier_dropout": 0.5}, ModelError,
        r"head\.classifier_dropout: bertkit knows no setting for it in `mpnet`.* roberta",
    ),
    "dropout of an unknown family": (
        "megatron-bert", {"hidden_dropout": 0.5}, ModelError,
        r"head\.hidden_dropout: bertkit knows no setting for it in `megatron-bert`.* mpnet",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("family", "options", "error", "told"), REFUSED.values(), ids=REFUSED)
def test_what_an_encoder_cannot_do_is_refused_before_anything_is_built(
    pretrained, family, options, error, told
):
    with pytest.raises(error, match=told):
        Linear(**options).check_encoder(pretrained(family))


@pytest.mark.parametrize(
    "options",
    [
        {"freeze_layers": 1, "reinit_layers": 1},
        {"freeze_layers": 2, "freeze_embeddings": True},
        {"freeze_layers": 2, "layer_decay": 0.5},  # for the embeddings
        {"freeze_embeddings": True, "layer_decay": 0.5},  # for the lower layer
        {"reinit_layers": 2, "freeze_embeddings": True, "layer_decay": 0.5, "hidden_dropout": 0},
    ],
    ids=str,
)
def test_what_does_not_contradict_itself_is_taken(pretrained, options):
    Linear(**options).check_encoder(pretrained("bert"))


@pytest.mark.parametrize(
    "option",
    [
        {"freeze_layers": -1}, {"freeze_layers": 1.0}, {"reinit_layers": -1}, {"layer_decay": 0.0},
        {"layer_decay": 1.01}, {"hidden_dropout": 1.0}, {"attention_dropout": -0.1},
        {"classifier_dropout": 1.0}, {"freeze_embeddings": 1},
    ],
    ids=str,
)  # fmt: skip
def test_values_out_of_range_are_refused(option):
    with pytest.raises(ValidationError, match=next(iter(option))):
        Linear(**option)


SAID = [
    ({}, []),
    ({"freeze_embeddings": True}, ["frozen: embeddings"]),
    ({"freeze_layers": 2}, ["frozen: 2 of 2 layers"]),
    (
        {"freeze_embeddings": True, "freeze_layers": 1, "reinit_layers": 1},
        [
            "frozen: embeddings and 1 of 2 layers",
            "drawn anew: the highest 1 of 2 layers and the pooler",
        ],
    ),
    ({"layer_decay": 0.9}, ["learning rate: of each layer 0.9 of the layer above"]),
    (
        {"hidden_dropout": 0.25, "classifier_dropout": 0.0},
        ["dropout: hidden_dropout_prob 0.25  classifier_dropout 0"],
    ),
]


@pytest.mark.parametrize(("options", "said"), SAID, ids=str)
def test_the_run_says_what_was_done(pretrained, options, said):
    lines = []
    Linear(**options).build(pretrained("bert"), TASK, Context(say=lines.append))
    assert lines == said


def test_a_pooler_that_a_family_does_not_have_is_not_said_to_be_drawn_anew(pretrained):
    lines = []
    Linear(reinit_layers=1).build(pretrained("electra"), TASK, Context(say=lines.append))
    assert lines == ["drawn anew: the highest 1 of 2 layers"]


# --- the saved model ------------------------------------------------------------------------

BATCH = {"input_ids": torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]]),
         "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])}  # fmt: skip
STARS = Regression(("stars",), center=(3.5,), spread=(1.25,))
PAIR = Regression(("valence", "arousal"), center=(100.0, -3.0), spread=(20.0, 0.5))


def logits_of(model):
    with torch.no_grad():
        return model.eval()(**BATCH).logits.numpy()


@pytest.mark.parametrize("task", [STARS, PAIR], ids=["one target", "two targets"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_regression_is_saved_in_the_units_of_the_data(pretrained, family, task):
    model = built(pretrained(family), task)
    trained = logits_of(model)
    exported = Linear().export(model, task)
    assert exported is model
    assert exported.config.problem_type == "regression"
    found = logits_of(exported)
    assert found.shape == (2, task.num_labels)
    np.testing.assert_allclose(found, trained * task.spread + np.array(task.center), rtol=1e-5)
    np.testing.assert_allclose(found, task.scores(trained), rtol=1e-5)
    np.testing.assert_allclose(task.from_plain(found), trained, atol=2e-5)


@pytest.mark.parametrize("task", [STARS, PAIR], ids=["one target", "two targets"])
def test_the_weights_of_a_checkpoint_are_put_into_the_saved_model_in_its_units(pretrained, task):
    model = built(pretrained("bert"), task)
    early = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01
    late = copy.deepcopy(model.state_dict())
    exported = Linear().export(model, task)
    for weights in (early, late, early):
        Linear().overlay(exported, weights, task)
        wanted = built(pretrained("bert"), task)
        wanted.load_state_dict(weights)
        np.testing.assert_allclose(logits_of(exported), task.scores(logits_of(wanted)), rtol=1e-5)


def test_plain_transformers_predicts_in_the_units_of_the_data(pretrained, encoder_dir, tmp_path):
    model = built(pretrained("bert"), STARS)
    trained = logits_of(model)
    Linear().export(model, STARS).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(encoder_dir).save_pretrained(tmp_path)
    (answer,) = pipeline("text-classification", model=str(tmp_path))(["fine lovely"])
    assert answer == {"label": "stars", "score": pytest.approx(3.5 + 1.25 * trained[0, 0])}


@pytest.mark.parametrize("task", [TASK, MultiLabel(("a", "b"))], ids=lambda task: task.kind)
def test_a_model_of_labels_is_saved_as_it_was_trained(pretrained, task):
    model = built(pretrained("bert"), task)
    before = copy.deepcopy(model.state_dict())
    exported = Linear().export(model, task)
    assert exported.config.problem_type == task.problem_type
    assert exported.config.id2label == dict(enumerate(task.labels))
    assert all(torch.equal(before[name], value) for name, value in exported.state_dict().items())


def test_an_output_layer_without_a_bias_cannot_be_shifted(pretrained):
    model = built(pretrained("bert"), STARS)
    model.classifier.bias = None
    with pytest.raises(ModelError, match="output layer of BertForSequenceClassification has no bi"):
        Linear().export(model, STARS)

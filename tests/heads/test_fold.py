"""A folded model computes `W f + b`, whatever the family, the pooling and the padding."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from bertkit.errors import ModelError
from bertkit.heads.fold import check_foldable, fold, pool, refold, unfold
from bertkit.tasks import Regression, SingleLabel

D = 32
_SMALL = {
    "hidden_size": D,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 99,
    "pad_token_id": 1,
    "max_position_embeddings": 64,
}
_DEBERTA = {
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_biased_input": False,
    "type_vocab_size": 0,
    "pooler_hidden_size": D,
}
CONFIGS = {
    "bert": {},
    "roberta": {"layer_norm_eps": 1e-5},
    "xlm-roberta": {"layer_norm_eps": 1e-5},
    "camembert": {},
    "electra": {"embedding_size": 16},
    "distilbert": {"dim": D, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "albert": {"embedding_size": 16},
    "deberta": {**_DEBERTA, "talking_head": True, "layer_norm_eps": 1e-7},
    "deberta-v2": {
        **_DEBERTA,
        "share_att_key": True,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "conv_kernel_size": 3,
        "layer_norm_eps": 1e-7,
    },
    "modernbert": {
        "eos_token_id": 2,
        "bos_token_id": 0,
        "cls_token_id": 0,
        "sep_token_id": 2,
        "local_attention": 8,
        "global_attn_every_n_layers": 2,
    },
}
POOLERS = ("bert", "roberta", "xlm-roberta", "camembert", "albert")
COMBINATIONS = [
    *[(family, "cls") for family in CONFIGS],
    *[(family, "mean") for family in CONFIGS if family != "albert"],
    *[(family, "pooler") for family in POOLERS],
]
REFUSED = [
    ("albert", "mean"),
    *[(family, "pooler") for family in CONFIGS if family not in POOLERS],
]


def make_encoder(family, *, seed=0, **changes):
    """Build a small random encoder whose norms and biases are far from their neutral values."""
    settings = {**_SMALL, **CONFIGS[family], **changes}
    if family == "distilbert":
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"):
            settings.pop(name)
        settings.pop("intermediate_size")
    torch.manual_seed(seed)
    encoder = AutoModel.from_config(AutoConfig.for_model(family, **settings)).eval()
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.2)
            elif "norm" in name.lower() and name.endswith("weight"):
                parameter.normal_(1, 0.4)
            else:
                parameter.normal_(0, 0.3)
    return encoder


def make_head(labels, *, d=D, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(labels, d, generator=generator), torch.randn(labels, generator=generator)


def make_batch(*, padding=0, rows=8):
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(3, 15, (rows,), generator=generator)
    width = int(lengths.max()) + padding
    mask = (torch.arange(width) < lengths[:, None]).long()
    ids = torch.randint(3, 99, (rows, 15), generator=generator)
    ids = torch.nn.functional.pad(ids, (0, max(0, width - 15)))[:, :width]
    return {"input_ids": torch.where(mask.bool(), ids, 1), "attention_mask": mask}


@torch.no_grad()
def expected(encoder, weight, bias, pooling, batch):
    feature = pool(encoder(**batch), batch["attention_mask"], pooling)
    return (feature.double() @ weight.double().T + bias.double()).float()


@torch.no_grad()
def logits_of(model, batch):
    return model(**batch).logits


def error(found, wanted):
    """Give the largest absolute error, relative to the largest logit where that exceeds 1."""
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1))


def names(labels):
    return {i: f"label {i}" for i in range(labels)}


def task_of(labels):
    kind = Regression if labels == 1 else SingleLabel  # one label alone is nothing to choose from
    return kind(tuple(names(labels).values()))


@pytest.mark.parametrize("labels", [1, 7])
@pytest.mark.parametrize(("family", "pooling"), COMBINATIONS)
def test_folded_logits_are_those_of_the_linear_head(family, pooling, labels, tmp_path):
    encoder = make_encoder(family)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    config_before = encoder.config.to_dict()
    weight, bias = make_head(labels)
    batch = make_batch()
    wanted = expected(encoder, weight, bias, pooling, batch)

    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    model = fold(encoder, weight, bias, pooling, task_of(labels))
    assert torch.rand(1) == drawn, "fold must leave the random state alone"

    found = logits_of(model, batch)
    assert error(found, wanted) <= 1e-5
    assert float(wanted.std()) > 0.5, "the logits must be spread for the test to mean anything"

    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config.id2label == names(labels)
    assert model.config.label2id == {v: k for k, v in names(labels).items()}
    assert model.config.num_labels == labels
    assert model.config.problem_type == task_of(labels).problem_type

    after = encoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert encoder.config.to_dict() == config_before

    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    loaded, report = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report.values()), report
    assert type(loaded) is type(model)
    assert torch.equal(logits_of(loaded.eval(), batch), found)
    assert loaded.config.id2label == names(labels)


@pytest.mark.parametrize(("family", "pooling"), COMBINATIONS)
def test_more_padding_does_not_change_the_logits(family, pooling):
    model = fold(make_encoder(family), *make_head(3), pooling, task_of(3))
    found = logits_of(model, make_batch(padding=11))
    assert error(found, logits_of(model, make_batch())) <= 1e-5


@pytest.mark.parametrize(
    ("family", "pooling"),
    [c for c in COMBINATIONS if c[0] != "deberta"],  # transformers' DeBERTa fails under autocast
)
def test_bf16_autocast_is_as_good_as_bf16_of_the_linear_head(family, pooling):
    encoder, (weight, bias) = make_encoder(family), make_head(3)
    batch = make_batch(rows=32)
    wanted = expected(encoder, weight, bias, pooling, batch)
    model = fold(encoder, weight, bias, pooling, task_of(3))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = model(**batch).logits.float()
        feature = pool(encoder(**batch), batch["attention_mask"], pooling)
        linear = torch.nn.functional.linear(feature, weight, bias).float()
    assert error(found, wanted) <= 1.5 * error(linear, wanted) + 0.02


@pytest.mark.parametrize(
    ("family", "pooling", "labels", "tolerance"),
    [
        ("distilbert", "cls", 16, 1e-5),  # 2 C = d: pairs
        ("distilbert", "cls", 17, 1e-5),  # shifted
        ("distilbert", "mean", 31, 1e-4),
        ("electra", "cls", 17, 1e-5),
        ("electra", "mean", 31, 1e-5),
        ("bert", "cls", 50, 1e-5),
        ("bert", "mean", 31, 1e-5),
        ("modernbert", "mean", 31, 1e-5),
        ("distilbert", "cls", 50, 1e-5),
        ("electra", "cls", 50, 1e-5),
    ],
)
def test_many_labels(family, pooling, labels, tolerance):
    encoder, (weight, bias) = make_encoder(family), make_head(labels)
    model = fold(encoder, weight, bias, pooling, task_of(labels))
    batch = make_batch()
    wanted = expected(encoder, weight, bias, pooling, batch)
    assert error(logits_of(model, batch), wanted) <= tolerance


@pytest.mark.parametrize(("family", "pooling"), COMBINATIONS)
@pytest.mark.parametrize("size", [1e-3, 30.0])
def test_small_and_large_norms_and_heads(family, pooling, size):
    encoder, (weight, bias) = make_encoder(family), make_head(3)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "norm" in name.lower():
                parameter.mul_(math.sqrt(size))
    batch = make_batch()
    weight = weight * size
    wanted = expected(encoder, weight, bias, pooling, batch)
    model = fold(encoder, weight, bias, pooling, task_of(3))
    assert error(logits_of(model, batch), wanted) <= 1e-5


@pytest.mark.parametrize(("family", "pooling"), COMBINATIONS)
def test_bf16_encoder_gives_a_float32_model(family, pooling):
    encoder, head, batch = make_encoder(family), make_head(2), make_batch()
    for parameter in encoder.parameters():
        parameter.data = parameter.data.bfloat16().float()
    wanted = expected(encoder, *head, pooling, batch)
    for parameter in encoder.parameters():  # the buffers stay float32, as in from_pretrained
        parameter.data = parameter.data.bfloat16()
    model = fold(encoder, *head, pooling, task_of(2))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert error(logits_of(model, batch), wanted) <= 1e-5


@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
def test_tanh_families_with_cls_run_in_fp16(family):
    encoder, (weight, bias) = make_encoder(family), make_head(3)
    batch = make_batch()
    wanted = expected(encoder, weight, bias, "cls", batch)
    model = fold(encoder, weight, bias, "cls", task_of(3)).half()
    assert error(logits_of(model, batch).float(), wanted) <= 0.02


@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
def test_encoder_without_pooler(family):
    config = make_encoder(family).config
    encoder = AutoModel.from_config(config, add_pooling_layer=False).eval()
    head, batch = make_head(3), make_batch()
    model = fold(encoder, *head, "cls", task_of(3))
    assert error(logits_of(model, batch), expected(encoder, *head, "cls", batch)) <= 1e-5
    with pytest.raises(ModelError, match=rf"'{family}'.*no pooler weights.*cls"):
        fold(encoder, *head, "pooler", task_of(3))


@pytest.mark.parametrize("flags", [(False, False), (True, True)])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_modernbert_biases(flags, pooling):
    norm_bias, classifier_bias = flags
    encoder = make_encoder("modernbert", norm_bias=norm_bias, classifier_bias=classifier_bias)
    head, batch = make_head(3), make_batch()
    model = fold(encoder, *head, pooling, task_of(3))
    assert error(logits_of(model, batch), expected(encoder, *head, pooling, batch)) <= 1e-5


def test_deberta_v2_of_one_layer_ends_in_its_convolution():
    encoder = make_encoder("deberta-v2", num_hidden_layers=1)
    head, batch = make_head(3), make_batch()
    model = fold(encoder, *head, "mean", task_of(3))
    assert error(logits_of(model, batch), expected(encoder, *head, "mean", batch)) <= 1e-5


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_mean_holds_under_every_attention(attention):
    encoder, head, batch = make_encoder("bert"), make_head(3), make_batch()
    model = fold(encoder, *head, "mean", task_of(3))
    model.set_attn_implementation(attention)
    assert error(logits_of(model, batch), expected(encoder, *head, "mean", batch)) <= 1e-5


@pytest.mark.parametrize(("family", "pooling"), COMBINATIONS)
def test_another_head_takes_the_place_of_the_folded_one(family, pooling):
    encoder, batch = make_encoder(family), make_batch(padding=3)
    first, (weight, bias) = make_head(3), make_head(3, seed=5)
    model = fold(encoder, *first, pooling, task_of(3))
    for head in [(weight, bias), (300 * weight, bias), (weight / 300, 100 * bias), first]:
        refold(model, *head, pooling, task_of(3))
        assert error(logits_of(model, batch), expected(encoder, *head, pooling, batch)) <= 1e-5


@pytest.mark.parametrize("pooling", ["cls", "mean", "pooler"])
def test_another_head_takes_the_place_in_a_saved_model_too(pooling, tmp_path):
    encoder, batch = make_encoder("bert"), make_batch()
    fold(encoder, *make_head(3), pooling, task_of(3)).save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    head = tuple(value.requires_grad_() for value in make_head(3, seed=5))
    refold(model, *head, pooling, task_of(3))
    assert error(logits_of(model, batch), expected(encoder, *head, pooling, batch)) <= 1e-5
    assert model.config.id2label == names(3)


def test_another_head_under_deberta_v2_of_one_layer():
    encoder, batch = make_encoder("deberta-v2", num_hidden_layers=1), make_batch()
    model, head = fold(encoder, *make_head(3), "mean", task_of(3)), make_head(3, seed=5)
    refold(model, *head, "mean", task_of(3))
    assert error(logits_of(model, batch), expected(encoder, *head, "mean", batch)) <= 1e-5


@pytest.mark.parametrize(("family", "pooling"), COMBINATIONS)
def test_the_features_come_back_from_a_folded_model_bit_by_bit(family, pooling):
    encoder, batch = make_encoder(family), make_batch(padding=3)
    model = fold(encoder, *make_head(3), pooling, task_of(3)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    unfolded = unfold(model, pooling)
    assert torch.equal(torch.get_rng_state(), random)
    with torch.no_grad():
        found, wanted = (
            pool(one(**batch), batch["attention_mask"], pooling) for one in (unfolded, encoder)
        )
    assert torch.equal(found, wanted)
    assert not any(part.training for part in unfolded.modules())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


UNITS = Regression(("years", "grams", "share"), (2000.0, -3.0, 0.5), (8.0, 4e4, 1e-3))


@pytest.mark.parametrize(("family", "pooling"), COMBINATIONS)
def test_each_target_of_a_regression_is_said_in_its_own_units(family, pooling):
    encoder, batch = make_encoder(family), make_batch()
    spread, center = torch.tensor(UNITS.spread), torch.tensor(UNITS.center)
    model = fold(encoder, *make_head(3), pooling, UNITS)
    for head in (make_head(3), make_head(3, seed=5)):
        logits = expected(encoder, *head, pooling, batch)
        wanted = logits * spread + center
        rounding = 4e-7 * wanted.abs()
        limit = 1e-5 * spread * logits.abs().max().clamp(min=1) + rounding
        assert ((logits_of(model, batch) - wanted).abs() <= limit).all()
        refold(model, *make_head(3, seed=5), pooling, UNITS)


@pytest.mark.parametrize("pooling", ["cls", "mean", "pooler"])
def test_a_head_of_another_shape_does_not_take_the_place(pooling):
    model = fold(make_encoder("bert"), *make_head(3), pooling, task_of(3))
    with pytest.raises(ModelError, match="'bert'"):
        refold(model, *make_head(4), pooling, task_of(3))


@pytest.mark.parametrize(("family", "pooling"), COMBINATIONS)
def test_check_accepts(family, pooling):
    check_foldable(family, pooling, has_pooler=family in POOLERS)


@pytest.mark.parametrize(("family", "pooling"), REFUSED)
def test_refused_pooling_names_the_family_and_what_works(family, pooling):
    has_pooler = family in POOLERS
    with pytest.raises(ModelError) as caught:
        check_foldable(family, pooling, has_pooler=has_pooler)
    message = str(caught.value)
    assert f"'{family}'" in message
    assert f"'{pooling}'" in message
    works = [p for f, p in COMBINATIONS if f == family]
    assert message.split("with this encoder: ")[1].startswith(", ".join(works) + ".")
    with pytest.raises(ModelError, match=f"'{family}'"):
        fold(make_encoder(family), *make_head(2), pooling, task_of(2))


def test_unknown_family_and_pooling_are_refused():
    with pytest.raises(ModelError, match=r"'mpnet'.*bert, roberta.*modernbert"):
        check_foldable("mpnet", "cls", has_pooler=True)
    with pytest.raises(ModelError, match=r"'bert'.*'max'.*cls, mean, pooler"):
        check_foldable("bert", "max", has_pooler=True)


def test_too_many_labels_for_a_linear_norm():
    for family, pooling in [("modernbert", "cls"), ("bert", "mean")]:
        with pytest.raises(ModelError, match=rf"'{family}'.*at most 31 labels.*32"):
            fold(make_encoder(family), *make_head(32), pooling, task_of(32))


def test_heads_that_do_not_fit_are_refused():
    encoder, (weight, bias) = make_encoder("bert"), make_head(3)
    for bad in [
        (weight[:2], bias),
        (weight[:, :5], bias),
        (weight, bias[:2]),
        (weight * math.nan, bias),
    ]:
        with pytest.raises(ModelError, match="'bert'"):
            fold(encoder, *bad, "cls", task_of(3))
    encoder.config.is_decoder = True
    with pytest.raises(ModelError, match="is_decoder"):
        fold(encoder, weight, bias, "cls", task_of(3))


def test_pool():
    class Outputs:
        last_hidden_state = torch.arange(12.0).view(1, 3, 4).bfloat16()

    mask = torch.tensor([[1, 1, 0]])
    assert pool(Outputs, mask, "cls").tolist() == [[0, 1, 2, 3]]
    assert pool(Outputs, mask, "mean").tolist() == [[2, 3, 4, 5]]
    assert pool(Outputs, None, "mean").tolist() == [[4, 5, 6, 7]]
    assert pool(Outputs, mask, "mean").dtype == torch.float32
    with pytest.raises(ModelError, match="no pooler"):
        pool(Outputs, mask, "pooler")
    with pytest.raises(ModelError, match="'max'"):
        pool(Outputs, mask, "max")

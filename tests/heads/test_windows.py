"""Windows of a text become one answer: their logits are pooled, whatever the head."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel
from transformers.modeling_outputs import SequenceClassifierOutput

import bertkit
from bertkit.heads import windows as module_of_windows
from bertkit.heads.frozen_feature import FrozenFeature
from bertkit.heads.linear import Linear
from bertkit.heads.windows import Attention, Windowed
from bertkit.records import Context
from bertkit.scoring import autocast, predict_logits
from bertkit.tasks import SingleLabel
from bertkit.text.encoded import LengthReport, Tokens
from tests.conftest import FAMILIES, WORDS, make_encoder

TASK = SingleLabel(("bad", "fine", "good"))
POOLS = ["mean", "max", "attention"]
HEADS = {"linear": Linear(), "frozen-feature": FrozenFeature(pooling="cls")}


def split_of(*windows, seed=0):
    """Return a split of texts of so many windows, of three to nine tokens each."""
    lengths = np.random.default_rng(seed).integers(3, 10, sum(windows))
    values = np.random.default_rng(seed).integers(5, 33, lengths.sum())
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    counts = np.array(windows, dtype=np.int64)
    labels = np.arange(len(windows), dtype=np.int64) % 3
    return Tokens(values, offsets, labels, 0, LengthReport(len(windows), 1, 1), counts=counts)


def arguments(split, rows=None):
    batch = split.batch(range(len(split)) if rows is None else rows)
    batch.pop("labels")
    return batch


@pytest.fixture(scope="module")
def encoder_of(tmp_path_factory):
    """Return a function that loads a tiny encoder of a family, without dropout."""
    folders = {}

    def go(family="bert"):
        if family not in folders:
            folder = tmp_path_factory.mktemp(family) / "m"
            folders[family] = make_encoder(folder, family, dropout=0.0)
        return AutoModel.from_pretrained(folders[family])

    return go


@pytest.fixture
def module_for(encoder_of):
    def go(head, family="bert"):
        torch.manual_seed(1)
        return HEADS[head].build(encoder_of(family), TASK, Context()).eval()

    return go


class Given(nn.Module):
    """A module whose logits are the features that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3, 3, bias=False)
        nn.init.eye_(self.out.weight)

    def forward(self, features):
        return SequenceClassifierOutput(logits=self.out(features))


def given(pool):
    return Windowed(Given(), pool, 3)


LOGITS = torch.tensor([[1.0, 5.0, -3.0], [3.0, -1.0, -9.0], [8.0, 8.0, 8.0], [0.0, 1.0, 2.0]])


# --- what pooling makes of the logits ---------------------------------------------------------


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("mean", [[2.0, 2.0, -6.0], [8.0, 8.0, 8.0], [0.0, 1.0, 2.0]]),
        ("max", [[3.0, 5.0, -3.0], [8.0, 8.0, 8.0], [0.0, 1.0, 2.0]]),
    ],
)
def test_mean_and_max_are_taken_for_each_label_over_the_windows_of_a_text(pool, expected):
    with torch.no_grad():
        found = given(pool)(windows=torch.tensor([2, 1, 1]), features=LOGITS).logits
    assert found.tolist() == expected


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_of_one_window_has_the_bits_of_the_plain_model_s_logits(
    module_for, family, head, pool
):
    module = module_for(head, family)
    batch = arguments(split_of(1, 1, 1, 1))
    model = Windowed(module, pool, 3).eval()
    if pool == "attention":
        nn.init.normal_(model.attention.score.weight)
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            found = model(**batch).logits
            plain = module(**{k: v for k, v in batch.items() if k != "windows"}).logits
        assert torch.equal(found, plain)


@pytest.mark.parametrize("head", HEADS)
def test_each_text_is_pooled_by_itself(module_for, head):
    split = split_of(3, 1, 2)
    for pool in POOLS:
        model = Windowed(module_for(head), pool, 3).eval()
        if pool == "attention":
            nn.init.normal_(model.attention.score.weight)
        with torch.no_grad():
            together = model(**arguments(split)).logits
            alone = [model(**arguments(split, [row])).logits[0] for row in range(3)]
            other_way = model(**arguments(split, [2, 0, 1])).logits
        torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together[[2, 0, 1]], other_way, atol=1e-5, rtol=1e-5)


# --- attention --------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_attention_starts_as_the_mean(module_for, head):
    module, batch = module_for(head), arguments(split_of(4, 1, 2))
    mean = Windowed(module, "mean", 3).eval()(**batch).logits
    assert torch.equal(Windowed(module, "attention", 3).eval()(**batch).logits, mean)


def test_attention_weighs_windows_by_w_tanh_of_v_h():
    torch.manual_seed(0)
    model = given("attention")
    nn.init.normal_(model.attention.score.weight)
    v, b = model.attention.hidden.weight, model.attention.hidden.bias
    w = model.attention.score.weight[0]
    scores = torch.tanh(LOGITS @ v.T + b) @ w
    weights = torch.softmax(scores[:3], 0)
    found = model(windows=torch.tensor([3, 1]), features=LOGITS).logits
    torch.testing.assert_close(found[0], weights @ LOGITS[:3])
    assert torch.equal(found[1], LOGITS[3])
    assert weights.max() > 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_reads_what_enters_the_last_layer_and_leaves_no_hook(module_for, family):
    module = module_for("linear", family)
    model = Windowed(module, "attention", 3).eval()
    seen = []
    model.attention.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    batch = arguments(split_of(2, 1))
    with torch.no_grad():
        model(**batch)
        plain = module(**{k: v for k, v in batch.items() if k != "windows"}).logits
    (last,) = model._last
    torch.testing.assert_close(last(seen[0]), plain)
    assert not any(part._forward_pre_hooks for part in module.modules())


def test_attention_is_saved_and_loaded_by_itself(module_for):
    trained = Windowed(module_for("linear"), "attention", 3).eval()
    nn.init.normal_(trained.attention.score.weight)
    other = Windowed(module_for("linear"), "attention", 3).eval()
    state = trained.attention.state_dict()
    assert set(state) == {"hidden.weight", "hidden.bias", "score.weight"}
    other.attention.load_state_dict(state)
    batch = arguments(split_of(3, 2))
    assert torch.equal(other(**batch).logits, trained(**batch).logits)


def test_the_module_s_own_names_stay_under_module(module_for):
    module = module_for("frozen-feature")
    names = {f"module.{name}" for name, _ in module.named_parameters()}
    assert {name for name, _ in Windowed(module, "mean", 3).named_parameters()} == names
    attention = {"attention.hidden.weight", "attention.hidden.bias", "attention.score.weight"}
    model = Windowed(module, "attention", 3)
    assert {name for name, _ in model.named_parameters()} == names | attention
    assert set(model.state_dict()) == {f"module.{n}" for n in module.state_dict()} | attention


def test_attention_needs_a_last_linear_layer():
    with pytest.raises(bertkit.ModelError, match="no output layer in Sequential"):
        Windowed(nn.Sequential(nn.Linear(4, 5)), "attention", 3)
    Windowed(nn.Sequential(nn.Linear(4, 5)), "mean", 3)


# --- training ---------------------------------------------------------------------------------


def gradients(model, batch, labels):
    model.zero_grad()
    TASK.loss(model(**batch).logits, labels).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("head", HEADS)
def test_gradients_reach_the_head_from_every_pool(module_for, head, pool):
    model, split = Windowed(module_for(head), pool, 3).train(), split_of(3, 1, 4)
    batch, labels = arguments(split), torch.tensor([0, 1, 2])
    reached = gradients(model, batch, labels)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(reached) == trained
    zero = {name for name, grad in reached.items() if not grad.any()}
    # a score of 0 lets nothing through to what is behind it, until the first step
    assert zero == ({"attention.hidden.weight", "attention.hidden.bias"} & trained)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in reached:
                parameter -= 0.1 * reached[name]
    assert all(grad.any() for grad in gradients(model, batch, labels).values())


def test_attention_trains_what_it_reads():
    torch.manual_seed(0)
    model = given("attention")
    nn.init.normal_(model.attention.score.weight)
    found, wanted = (LOGITS.clone().requires_grad_() for _ in range(2))
    model(windows=torch.tensor([3, 1]), features=found).logits[0, 0].backward()
    scores = model.attention(wanted[:3])
    (torch.softmax(scores, 0) @ wanted[:3, 0]).backward()
    torch.testing.assert_close(found.grad, wanted.grad)
    assert found.grad[:3, 1:].any()  # which the logit itself does not depend on


def test_max_trains_the_windows_that_say_most():
    model = given("max")
    features = LOGITS.clone().requires_grad_()
    model(windows=torch.tensor([2, 2]), features=features).logits.sum().backward()
    assert features.grad.tolist() == [[0, 1, 1], [1, 0, 0], [1, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize("head", HEADS)
def test_modes_pass_through_to_the_module(module_for, head):
    model = Windowed(module_for(head), "mean", 3)
    for mode in (True, False):
        model.train(mode)
        assert model.module.training is mode
        encoder = model.module.base_model if head == "linear" else model.module.encoder
        assert encoder.training is (mode and head == "linear")


def test_activation_checkpointing_is_the_module_s_and_changes_no_gradient(module_for):
    plain = Windowed(module_for("linear"), "attention", 3).train()
    saving = copy.deepcopy(plain)
    saving.activation_checkpointing_enable()
    assert saving.module.is_activation_checkpointing
    assert saving.is_activation_checkpointing
    assert not plain.is_activation_checkpointing
    batch, labels = arguments(split_of(2, 2)), torch.tensor([0, 2])
    wanted, found = (gradients(model, batch, labels) for model in (plain, saving))
    assert set(wanted) == set(found)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient)


def test_what_the_module_lacks_is_missing_here_too(module_for):
    linear = Windowed(module_for("linear"), "mean", 3)
    assert linear.config is linear.module.config
    features = Windowed(module_for("frozen-feature"), "mean", 3)
    assert not hasattr(features, "activation_checkpointing_enable")
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = features.nothing_like_it


# --- evaluation -------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("head", HEADS)
def test_without_gradients_few_windows_are_in_the_module_at_a_time(
    module_for, monkeypatch, head, pool
):
    split = split_of(5, 1, 3, 2)
    model = Windowed(module_for(head), pool, 3).eval()
    if pool == "attention":
        nn.init.normal_(model.attention.score.weight)
    whole = model(**arguments(split)).logits.detach()
    seen = []
    model.module.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    monkeypatch.setattr(module_of_windows, "CHUNK", 4)
    found = predict_logits(model, split, batch_size=4, device="cpu")
    assert seen == [4, 4, 3]
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)
    model(**arguments(split))
    assert seen[3:] == [11]


@pytest.mark.parametrize("pool", POOLS)
def test_under_autocast_pooling_stays_in_float32(module_for, pool):
    model, split = Windowed(module_for("linear"), pool, 3).eval(), split_of(3, 5)
    if pool == "attention":
        nn.init.normal_(model.attention.score.weight)
    exact = predict_logits(model, split, batch_size=2, device="cpu")
    with torch.no_grad(), autocast("cpu", "bf16"):
        batch = arguments(split)
        windows = batch.pop("windows")
        found = model(windows=windows, **batch).logits
        vectors = torch.randn(5, 32)
        scores = Attention(32)(vectors.bfloat16())
    assert found.dtype == scores.dtype == torch.float32
    assert (found - exact).abs().max() < 0.05
    # values that bfloat16 would round
    many = torch.tensor([[256.0, 0, 0]] + [[1.0, 0, 0]] * 4)
    with torch.no_grad(), autocast("cpu", "bf16"):
        logits, scores = many, torch.zeros(5)
        pooled = given("mean")._pooled(logits, scores, [5])
    assert pooled[0, 0] == pytest.approx(52.0, abs=1e-4)


# --- in a run ---------------------------------------------------------------------------------


def documents(count, *, seed=0):
    """Return texts of 40 words, of which one, anywhere, says the label."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        words = list(rng.choice(WORDS[8:16], 40))
        words[rng.integers(40)] = ("bad", "good")[i % 2]
        rows.append({"text": " ".join(words), "label": ("neg", "pos")[i % 2]})
    return rows


@pytest.fixture
def run(encoder_dir, tmp_path):
    def go(name, head="linear", trainer=None, **long_text):
        return bertkit.run(
            {
                "encoder": str(encoder_dir),
                "dataset": {"type": "inline", "train": documents(48), "validation": 0.25},
                "head": {"type": head},
                "long_text": {"max_length": 16, "keep": "windows", **long_text},
                "trainer": {
                    "max_steps": 3, "precision": "fp32", "learning_rate": 0.01, "best": None,
                    "batch_size": 8, **(trainer or {}),
                },
                "output": str(tmp_path / name),
            }
        )  # fmt: skip

    return go


@pytest.mark.field("long_text.pool")
@pytest.mark.parametrize("head", HEADS)
def test_pool_decides_what_is_learned_and_predicted(run, head):
    results = {pool: run(pool, head, pool=pool) for pool in POOLS}
    assert run("default", head).metrics == results["mean"].metrics
    assert len({str(result.metrics) for result in results.values()}) == 3
    text = documents(1, seed=5)[0]["text"]
    for pool, result in results.items():
        assert result.data["lengths"]["train"]["windows"] == 36 * 5
        classifier = bertkit.load(result.model_dir)
        tokens = classifier.tokens([text])
        plain = predict_logits(classifier.model, tokens.apart(), batch_size=8, device="cpu")
        assert len(plain) == 5
        found = classifier.logits_of(tokens)[0]
        wanted = {"mean": plain.mean(0), "max": plain.amax(0)}.get(pool)
        if wanted is not None:
            assert found == pytest.approx(wanted.numpy(), abs=1e-5)
        else:
            assert (plain.amin(0).numpy() - 1e-5 <= found).all()
            assert (plain.amax(0).numpy() + 1e-5 >= found).all()


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("head", HEADS)
def test_both_trainers_follow_the_same_path_over_windows(run, head, pool):
    extra = {"extra": {"activation_checkpointing": True}} if head == "linear" else {}
    losses = {}
    for name, options in {"loop": {}, "hf": extra}.items():
        trainer = {"type": name, "log_steps": 1, **options}
        result = run(f"{name}", head, pool=pool, trainer=trainer)
        losses[name] = [line["loss"] for line in result.history if "loss" in line]
        assert result.provenance["export_difference"] < 1e-4
    assert losses["hf"] == pytest.approx(losses["loop"], rel=1e-4)
    assert len(losses["hf"]) >= 3

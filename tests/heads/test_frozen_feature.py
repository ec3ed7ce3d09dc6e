"""The frozen-feature head: each text is encoded once, and only a linear layer learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel
from transformers.models.bert.modeling_bert import BertModel

import bertkit
from bertkit.errors import ModelError
from bertkit.heads.frozen_feature import FrozenFeature
from bertkit.records import Context
from bertkit.tasks import SingleLabel
from bertkit.text.encoded import LengthReport, Tokens
from tests.conftest import make_encoder, reviews

TASK = SingleLabel(("neg", "pos"))
ROWS = reviews(32)
POOLINGS = ["cls", "mean", "pooler"]


@pytest.fixture
def run(encoder_dir, tmp_path):
    """Return a function that runs a small spec."""

    def go(head=None, *, encoder=encoder_dir, rows=ROWS, **options):
        number = len(list(tmp_path.glob("run*")))
        return bertkit.run(
            {
                "encoder": str(encoder),
                "dataset": {"type": "inline", "train": rows, "validation": 0.25},
                "head": {"type": "frozen-feature", **(head or {})},
                "trainer": {"precision": "fp32", "epochs": 2, **options},
                "output": str(tmp_path / f"run{number}"),
            }
        )

    return go


@pytest.fixture
def passes(monkeypatch):
    """Count the forward passes of BERT: the number of texts in each."""
    seen = []
    forward = BertModel.forward

    def counted(self, input_ids=None, *args, **kwargs):
        seen.append(len(input_ids))
        return forward(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(BertModel, "forward", counted)
    return seen


def tokens(count=5):
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 12, count)
    values = rng.integers(5, 33, lengths.sum())
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    labels = np.arange(count, dtype=np.int64) % 2
    return Tokens(values, offsets, labels, 0, LengthReport(count, int(lengths.sum()), 12))


# --- the features ---------------------------------------------------------------------------


@pytest.mark.field("head.frozen-feature.pooling")
@pytest.mark.parametrize("pooling", POOLINGS)
def test_features_are_those_of_the_encoder_text_by_text(encoder_dir, pooling):
    encoder = AutoModel.from_pretrained(encoder_dir).train()  # with dropout, where it is new
    split = tokens()
    head = FrozenFeature(pooling=pooling)
    features = head.encode(head.build(encoder, TASK, Context()), split, Context())
    assert features.matrix.shape == (5, 32)
    assert features.matrix.dtype == torch.float32
    for row in range(5):
        batch = split.batch([row])
        with torch.no_grad():
            output = encoder.eval()(batch["input_ids"])
        wanted = {
            "cls": output.last_hidden_state[0, 0],
            "mean": output.last_hidden_state[0].mean(0),
            "pooler": output.pooler_output[0],
        }[pooling]
        torch.testing.assert_close(features.matrix[row], wanted, atol=1e-5, rtol=1e-5)
    assert features.labels.tolist() == split.labels.tolist()


def test_features_and_tokens_give_the_same_logits(encoder_dir):
    encoder = AutoModel.from_pretrained(encoder_dir)
    head, split = FrozenFeature(), tokens()
    model = head.build(encoder, TASK, Context())
    features = head.encode(model, split, Context()).batch(range(5))
    from_tokens = split.batch(range(5))
    for batch in (features, from_tokens):
        batch.pop("labels")
    torch.testing.assert_close(model(**features).logits, model(**from_tokens).logits)


def test_each_text_is_encoded_once_however_many_epochs_there_are(run, passes):
    run(epochs=7, evaluate={"epochs": 1}, batch_size=8)
    # 24 texts train, 8 validate; the saved model and the trained head are compared on the latter
    assert passes == [24, 8, 8, 8]


def test_the_encoder_stays_in_eval_mode_without_gradients(encoder_dir):
    encoder = AutoModel.from_pretrained(encoder_dir)
    model = FrozenFeature().build(encoder, TASK, Context())
    model.train()
    assert model.training
    assert model.classifier.training
    assert not any(module.training for module in encoder.modules())
    model(
        **{k: v for k, v in tokens().batch([0, 1]).items() if k != "labels"}
    ).logits.sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {
        "classifier.weight",
        "classifier.bias",
    }


@pytest.mark.parametrize("trainer", ["loop", "hf"])
def test_training_leaves_the_encoder_s_weights_as_they_were(run, encoder_dir, trainer):
    result = run(type=trainer, learning_rate=0.5, weight_decay=1.0)
    before = load_file(encoder_dir / "model.safetensors")
    after = load_file(Path(result.model_dir, "model.safetensors"))
    same = {name for name, value in before.items() if torch.equal(after[f"bert.{name}"], value)}
    # what the fold sets: the last LayerNorm, scaled, and the pooler
    assert {name for name in before if name not in same} <= {
        "encoder.layer.1.output.LayerNorm.weight",
        "encoder.layer.1.output.LayerNorm.bias",
        "pooler.dense.weight",
        "pooler.dense.bias",
    }
    assert result.training["parameters"]["trainable"] == 2 * 32 + 2


# --- the cache ------------------------------------------------------------------------------


def cached(tmp_root):
    return sorted(Path(tmp_root).glob("features/*.safetensors"))


@pytest.fixture
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("BERTKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_other_settings_of_trainer_and_seed_find_the_features_in_the_cache(run, passes, cache_dir):
    first = run()
    assert first.data["feature_cache"] == "miss"
    encoded = len(passes)
    assert encoded >= 2
    again = run(learning_rate=0.5, epochs=5, optimizer="sgd", batch_size=4, type="hf")
    assert again.data["feature_cache"] == "hit"
    # what is left is the comparison of the saved model with the trained head: two passes
    assert len(passes) - encoded == 2
    assert len(cached(cache_dir)) == 2  # train and validation


CHANGES = {
    "another pooling": {"head": {"pooling": "cls"}},
    "another precision": {"precision": "bf16"},
    "more texts": {"rows": reviews(40)},
    "other words": {
        "rows": [{**row, "text": row["text"].replace("hotel", "room")} for row in ROWS]
    },
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_what_changes_the_features_misses_the_cache(run, cache_dir, changes):
    run()
    assert run(**changes).data["feature_cache"] == "miss"


def test_another_encoder_in_the_same_folder_misses_the_cache(run, cache_dir, tmp_path):
    run(encoder=make_encoder(tmp_path / "encoder", seed=0))
    again = run(encoder=make_encoder(tmp_path / "encoder", seed=1))
    assert again.data["feature_cache"] == "miss"


def test_the_same_encoder_in_another_folder_hits_the_cache(run, cache_dir, tmp_path):
    run(encoder=make_encoder(tmp_path / "one"))
    assert run(encoder=make_encoder(tmp_path / "other")).data["feature_cache"] == "hit"


def damage_truncate(file):
    file.write_bytes(file.read_bytes()[:-8])


def damage_garbage(file):
    file.write_bytes(b"not a tensor")


def damage_bit(file):
    content = bytearray(file.read_bytes())
    content[-2] ^= 64
    file.write_bytes(content)


def damage_other_rows(file):
    from safetensors.torch import save_file

    save_file({"features": torch.zeros(3, 32)}, file)


def damage_other_name(file):
    from safetensors.torch import save_file

    save_file({"matrix": torch.zeros(28, 32)}, file)


@pytest.mark.parametrize(
    "damage",
    [damage_truncate, damage_garbage, damage_bit, damage_other_rows, damage_other_name],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_cache_file_is_computed_again(run, cache_dir, damage):
    first = run()
    whole = {file: file.read_bytes() for file in cached(cache_dir)}
    for file in whole:
        damage(file)
    again = run()
    assert again.data["feature_cache"] == "miss"
    assert again.history == first.history
    assert {file: file.read_bytes() for file in cached(cache_dir)} == whole


def test_a_cache_that_cannot_be_written_is_a_warning(run, cache_dir):
    cache_dir.mkdir()
    (cache_dir / "features").write_text("in the way", encoding="utf-8")
    result = run()
    assert result.data["feature_cache"] == "miss"
    assert any("features are not cached" in warning for warning in result.warnings)


# --- what can be saved ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "pooling"),
    [("albert", "mean"), ("distilbert", "pooler"), ("modernbert", "pooler"), ("electra", "pooler")],
)
def test_what_cannot_be_folded_is_refused_before_training_and_leaves_nothing(
    run, tmp_path, cache_dir, family, pooling
):
    encoder = make_encoder(tmp_path / "encoder", family)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ModelError, match=rf"'{family}'.*'{pooling}'.*cls"):
        run({"pooling": pooling}, encoder=encoder)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.field("head.frozen-feature.pooling")
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_checkpoint_loads_as_the_model_of_its_epoch(run, encoder_dir, pooling):
    result = run({"pooling": pooling}, epochs=3, keep=3, learning_rate=0.3, best=None)
    texts = [row["text"] for row in reviews(8, seed=3)]
    final = bertkit.load(result.model_dir)
    features = bertkit.load(result.model_dir).tokens(texts)
    encoder = AutoModel.from_pretrained(encoder_dir).eval()
    head = FrozenFeature(pooling=pooling)
    matrix = head.encode(head.build(encoder, TASK, Context()), features, Context()).matrix
    logits = []
    for folder in sorted(Path(result.run_dir, "checkpoints").iterdir()):
        weights = load_file(folder / "weights.safetensors")
        assert set(weights) == {"classifier.weight", "classifier.bias"}
        wanted = matrix @ weights["classifier.weight"].T + weights["classifier.bias"]
        loaded = bertkit.load(result.run_dir, step=int(folder.name[5:]))
        found = torch.from_numpy(loaded.logits_of(loaded.tokens(texts)))
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
        logits.append(found)
    assert len(logits) == 3
    assert not torch.allclose(logits[0], logits[1], atol=1e-3)
    last = torch.from_numpy(final.logits_of(final.tokens(texts)))
    torch.testing.assert_close(last, logits[-1], atol=1e-5, rtol=1e-5)


def test_the_linear_layer_is_kept_beside_the_model_for_further_training(run):
    result = run(best=None)
    native = load_file(Path(result.model_dir, "head.safetensors"))
    (folder,) = Path(result.run_dir, "checkpoints").iterdir()
    kept = load_file(folder / "weights.safetensors")
    assert torch.equal(native["classifier.weight"], kept["classifier.weight"])
    assert torch.equal(native["classifier.bias"], kept["classifier.bias"])
    assert result.provenance["export_difference"] < 1e-4

"""The encoder that starts from nothing but the train texts."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

import bertkit
from bertkit.encoders.scratch import Scratch
from bertkit.errors import ModelError, SpecError
from bertkit.records import Context, Splits
from bertkit.spec import RunSpec
from bertkit.tasks import SingleLabel

ENGLISH = [
    "The room was lovely, and the staff too!",
    "The Café was noisy; the coffee was not good.",
    "A lovely view, a lovely bed and a lovely breakfast.",
    "Noisy rooms, noisy staff, no breakfast.",
]
CHINESE = ["房间很干净，服务很好", "房间太小，早餐很差", "服务很好，早餐很好", "太差了，不干净"]


def splits(texts: list[str], test: list[str] | None = None) -> Splits:
    def split(some: list[str]) -> Dataset:
        return Dataset.from_dict({"text": some, "label": [i % 2 for i in range(len(some))]})

    return Splits(SingleLabel(("no", "yes")), split(texts), None, split(test) if test else None, {})


def load(texts: list[str] = ENGLISH, seed: int = 42, **options: Any) -> tuple[Any, Any]:
    small = {"vocab_size": 120, "hidden_size": 16, **options}
    return Scratch(**small).load(Context(seed=seed, splits=splits(texts)))


def prints(model: Any, tokenizer: Any) -> dict[str, str]:
    """Return a hash of the tokenizer's file and one of all weights."""
    weights = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        weights.update(name.encode() + value.numpy().tobytes())
    file = tokenizer.backend_tokenizer.to_str()
    return {"tokenizer": hashlib.sha256(file.encode()).hexdigest(), "weights": weights.hexdigest()}


def test_tokenizer_and_weights_are_the_same_bytes_in_every_process():
    code = (
        "import json\n"
        "from tests.encoders.test_scratch import CHINESE, ENGLISH, load, prints\n"
        "print(json.dumps(prints(*load(ENGLISH + CHINESE))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": "7"},
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    here = [prints(*load(ENGLISH + CHINESE)) for _ in range(3)]
    assert here == [json.loads(done.stdout)] * 3


@pytest.mark.field("seed")
def test_the_seed_draws_the_weights_and_leaves_the_tokenizer():
    first, second = prints(*load(seed=1)), prints(*load(seed=2))
    assert first["tokenizer"] == second["tokenizer"]
    assert first["weights"] != second["weights"]


@pytest.mark.field("encoder.scratch.vocab_size")
@pytest.mark.parametrize(
    ("texts", "size"), [(ENGLISH, 16), (ENGLISH, 40), (ENGLISH, 60), (CHINESE, 16), (CHINESE, 20)]
)
def test_the_vocabulary_has_at_most_so_many_tokens(texts, size):
    model, tokenizer = load(texts, vocab_size=size)
    assert len(tokenizer) <= size < len(load(texts, vocab_size=1000)[1])
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)


def test_texts_come_back_from_a_vocabulary_that_is_large_enough():
    _, tokenizer = load(CHINESE, vocab_size=1000)
    ids = tokenizer("房间很好，早餐太差")["input_ids"]
    assert ids[0] == tokenizer.cls_token_id
    assert ids[-1] == tokenizer.sep_token_id
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "房间很好，早餐太差"
    assert tokenizer.unk_token_id in tokenizer("酒店")["input_ids"]


def test_only_train_texts_are_read():
    data = splits(ENGLISH, test=["zzz qqq xxx"] * 50)
    with_test = Scratch(vocab_size=120).load(Context(splits=data))[1]
    without = Scratch(vocab_size=120).load(Context(splits=splits(ENGLISH)))[1]
    assert with_test.get_vocab() == without.get_vocab()
    assert with_test.unk_token_id in with_test("zzz")["input_ids"]


@pytest.mark.field("encoder.scratch.lowercase")
def test_lowercase_folds_case_and_accents():
    _, folded = load()
    assert folded("CAFÉ")["input_ids"] == folded("cafe")["input_ids"]
    _, exact = load(lowercase=False)
    assert exact("The")["input_ids"] != exact("the")["input_ids"]
    assert exact("Café")["input_ids"] != exact("Cafe")["input_ids"]


@pytest.mark.field("encoder.scratch.hidden_size")
@pytest.mark.field("encoder.scratch.layers")
@pytest.mark.field("encoder.scratch.attention_heads")
@pytest.mark.field("encoder.scratch.dropout")
def test_the_shape_of_the_encoder():
    model, _ = load(hidden_size=24, layers=3, attention_heads=4, dropout=0.25)
    assert model(torch.tensor([[2, 5, 3]])).last_hidden_state.shape == (1, 3, 24)
    assert len(model.encoder.layer) == 3
    attention = model.encoder.layer[0].attention.self
    assert (attention.num_attention_heads, attention.attention_head_size) == (4, 6)
    drops = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    assert drops == {0.25}
    model.train()
    torch.manual_seed(0)
    ids = torch.tensor([[2, 5, 6, 7, 3]])
    assert not torch.equal(model(ids).last_hidden_state, model(ids).last_hidden_state)
    still = load(dropout=0)[0].train()
    assert torch.equal(still(ids).last_hidden_state, still(ids).last_hidden_state)


@pytest.mark.field("encoder.scratch.max_length")
def test_the_longest_text_it_reads():
    model, tokenizer = load(max_length=12)
    assert tokenizer.model_max_length == 12
    with torch.no_grad():
        assert model(torch.full((1, 12), 5)).last_hidden_state.shape[1] == 12
        with pytest.raises(RuntimeError):
            model(torch.full((1, 13), 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 30, "attention_heads": 4},
         "hidden_size (30) must be a multiple of attention_heads (4)"),
        ({"vocab_size": 15}, "vocab_size: found 15; expected 16 or more"),
        ({"layers": 0}, "layers: found 0; expected 1 or more"),
        ({"dropout": 1.0}, "dropout: found 1.0; expected a number below 1"),
        ({"max_length": 7}, "max_length: found 7; expected 8 or more"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(SpecError) as caught:
        RunSpec.parse({"encoder": {"type": "scratch", **options}, "dataset": "a.csv"})
    assert message in str(caught.value)


def test_without_texts_there_is_nothing_to_learn_from():
    with pytest.raises(ModelError, match=r"^encoder: `scratch` needs the texts of a run"):
        Scratch().load(Context())


@pytest.mark.parametrize(
    ("good", "bad", "things"),
    [
        ("lovely", "noisy", ["room", "staff", "bed", "food"]),
        ("很好", "太差", ["房间", "早餐", "服务", "位置"]),
    ],
)
def test_a_run_learns_what_can_be_learned(tmp_path, good, bad, things):
    train = [
        {"text": f"{thing}{joint}{word}", "label": label}
        for thing in things
        for joint in (" ", ", ", "! ")
        for word, label in ((good, "good"), (bad, "bad"))
    ]
    result = bertkit.run(
        {
            "encoder": {"type": "scratch", "hidden_size": 32, "layers": 1},
            "dataset": {"type": "inline", "train": train, "test": train[::5], "validation": 0},
            "trainer": {"epochs": 12, "batch_size": 8, "learning_rate": 1e-2, "precision": "fp32"},
            "output": str(tmp_path / "run"),
        }
    )
    assert result.metrics["test"]["accuracy"] == 1.0
    found = bertkit.load(result.model_dir).predict([f"{things[0]} {good}", f"{things[0]} {bad}"])
    assert [prediction.label for prediction in found] == ["good", "bad"]


def test_pairs_have_two_segments_and_both_texts_are_in_the_vocabulary():
    pairs = Dataset.from_dict(
        {"text": ["aa bb", "bb aa"], "text_pair": ["cc", "dd"], "label": [0, 1]}
    )
    made = Splits(SingleLabel(("no", "yes")), pairs, None, None, {})
    _, tokenizer = Scratch(vocab_size=120, hidden_size=16).load(Context(splits=made))
    encoded = tokenizer("aa", "dd")
    assert tokenizer.unk_token_id not in encoded["input_ids"]
    assert encoded["token_type_ids"] == [0, 0, 0, 1, 1]

"""Shared by all tests: no network but loopback, a cache of their own, tiny encoders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

# tiny models, several test processes: threads of one only stand in the way of the other
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

WORDS = [
    "good",
    "great",
    "fine",
    "lovely",
    "bad",
    "awful",
    "poor",
    "sad",
    "room",
    "staff",
    "bed",
    "food",
    "view",
    "noise",
    "price",
    "clean",
    "dirty",
    "the",
    "a",
    "is",
    "was",
    "very",
    "not",
    "and",
    "but",
    "we",
    "it",
    "this",
    "hotel",
]
FAMILIES = ("bert", "roberta", "distilbert", "electra", "albert", "deberta-v2", "modernbert")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """In CI nothing may be skipped: what a test needs is installed there."""
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped and os.environ.get("BERTKIT_NO_SKIPS"):
        terminalreporter.write_line("skipped tests are failures here", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Turn skips into a failure where BERTKIT_NO_SKIPS is set."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter and reporter.stats.get("skipped") and os.environ.get("BERTKIT_NO_SKIPS"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tokenized texts and features of tests out of the user's cache."""
    monkeypatch.setenv("BERTKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("BERTKIT_DISABLE_PLUGINS", raising=False)


def make_encoder(
    folder: Path, family: str = "bert", *, seed: int = 0, dropout: float = 0.1
) -> Path:
    """Save a tiny random encoder of a family, with a word-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: i for i, token in enumerate([*special, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", model_max_length=64,
    )  # fmt: skip
    sizes = {
        "vocab_size": len(vocabulary), "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 66,
        "hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout,
        "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
    }  # fmt: skip
    if family == "distilbert":
        sizes = {
            "vocab_size": len(vocabulary), "dim": 32, "n_layers": 2, "n_heads": 2,
            "hidden_dim": 64, "max_position_embeddings": 66, "dropout": dropout,
            "attention_dropout": dropout, "pad_token_id": 0,
        }  # fmt: skip
    if family in ("albert", "electra"):
        sizes["embedding_size"] = 16
    if family == "modernbert":
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            sizes.pop(name)
        sizes |= {"cls_token_id": 2, "sep_token_id": 3, "mlp_dropout": dropout}
    torch.manual_seed(seed)
    model = AutoModel.from_config(AutoConfig.for_model(family, **sizes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def reviews(count: int = 48, *, seed: int = 0) -> list[dict[str, str]]:
    """Return labelled texts that a tiny model can learn, of different lengths."""
    import random

    rng = random.Random(seed)
    rows = []
    for i in range(count):
        label = ("neg", "pos")[i % 2]
        signal = ("bad", "awful", "poor", "sad") if label == "neg" else WORDS[:4]
        filler = rng.choices(WORDS[8:], k=rng.randint(2, 24))
        filler.insert(rng.randrange(len(filler)), rng.choice(signal))
        rows.append({"text": " ".join(filler), "label": label})
    return rows


@pytest.fixture(scope="session")
def encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT in a folder, shared by all tests of the session; do not write to it."""
    return make_encoder(tmp_path_factory.mktemp("encoder") / "bert")


@pytest.fixture
def reviews_csv(tmp_path: Path) -> Path:
    """A CSV of 48 labelled texts, columns `text` and `label`, labels neg and pos."""
    import csv

    path = tmp_path / "reviews.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(reviews())
    return path

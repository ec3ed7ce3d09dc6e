"""Texts to token ids: as transformers makes them, in one process or several, cached."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING

import bertkit
from bertkit.errors import DataError, ModelError, SpecError
from bertkit.records import Context, Splits
from bertkit.tasks import SingleLabel
from bertkit.text.encoded import Tokens
from bertkit.text.long_text import LongText
from bertkit.text.tokenize import (
    TextEncoder,
    fit_policy,
    longest_input,
    tokenize,
    tokenize_splits,
)
from tests.conftest import FAMILIES, WORDS, make_encoder, reviews

TEXTS = [row["text"] for row in reviews(40)] + ["房间很好，早餐太差。", 'Café "naïve" 😀']


@cache
def family_tokenizer(family: str) -> Any:
    """The tokenizer that transformers has for a family, trained on a few texts."""
    if family == "modernbert":  # transformers has no class of its own for it
        backend = Tokenizer(tokenizers.models.BPE())
        backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
        alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        backend.train_from_iterator(TEXTS, trainer)
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
        names = {"unk": 0, "cls": 1, "sep": 2, "pad": 3, "mask": 4}
        return PreTrainedTokenizerFast(
            tokenizer_object=backend, **{f"{k}_token": special[i] for k, i in names.items()}
        )
    cls = TOKENIZER_MAPPING[type(AutoConfig.for_model(family))]
    cls = next(one for one in cls if one) if isinstance(cls, tuple) else cls
    return cls().train_new_from_iterator(TEXTS, 400, show_progress=False)


def ids_and_before(encoder: TextEncoder, *texts: str) -> tuple[list[list[int]], list[int]]:
    """Tokenize single texts."""
    tokens, before = encoder.tokens(texts)
    return [ids.tolist() for ids in np.split(tokens.values, tokens.offsets[1:-1])], before.tolist()


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=40, deadline=None)
@given(
    text=st.lists(st.sampled_from(TEXTS) | st.text(max_size=8), max_size=3).map(" ".join),
    length=st.integers(4, 30),
)
def test_kept_heads_and_tails_are_what_transformers_truncates_to(family, text, length):
    tokenizer = family_tokenizer(family)
    for keep, side in (("head", "right"), ("tail", "left")):
        tokenizer.truncation_side = side
        expected = tokenizer(text, truncation=True, max_length=length)["input_ids"]
        encoder = TextEncoder(tokenizer, LongText(max_length=length, keep=keep))
        ids, before = ids_and_before(encoder, text)
        assert ids == [expected]
        assert before == [len(tokenizer(text)["input_ids"])]


@pytest.mark.parametrize("family", FAMILIES)
def test_both_ends_stand_between_the_special_tokens(family):
    tokenizer = family_tokenizer(family)
    encoder = TextEncoder(tokenizer, LongText(max_length=10, keep="head+tail", head=3))
    (ids,), (before,) = ids_and_before(encoder, TEXTS[0] * 3)
    whole = tokenizer(TEXTS[0] * 3)["input_ids"]
    assert before == len(whole)
    assert ids == whole[:4] + whole[-6:]


def test_the_tokenizer_keeps_its_own_truncation_and_padding(encoder_dir):
    tokenizer = AutoTokenizer.from_pretrained(encoder_dir)
    tokenizer.backend_tokenizer.enable_truncation(5)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    ids, before = ids_and_before(TextEncoder(tokenizer, LongText(max_length=20)), TEXTS[0])
    assert before == [len(TEXTS[0].split()) + 2]
    assert len(ids[0]) == min(20, before[0])
    assert tokenizer.backend_tokenizer.truncation["max_length"] == 5
    assert tokenizer.backend_tokenizer.padding["length"] == 9


# the longest input


@pytest.mark.parametrize(
    ("family", "limit"),
    [
        ("bert", 20), ("roberta", 18), ("distilbert", 20), ("electra", 20), ("albert", 20),
        ("deberta-v2", 20), ("modernbert", 20), ("xlm-roberta", 18), ("camembert", 18),
        ("mpnet", 18), ("data2vec-text", 18), ("roberta-prelayernorm", 18), ("ernie", 20),
    ],
)  # fmt: skip
def test_a_text_of_exactly_the_limit_runs_through_the_model(tmp_path, family, limit):
    """RoBERTa and its like have 20 positions here, of which the first two are never used."""
    sizes: dict[str, Any] = {
        "vocab_size": 34, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "max_position_embeddings": 20, "pad_token_id": 1,
        "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3,
    }  # fmt: skip
    if family == "distilbert":
        sizes |= {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"):
            del sizes[name]
    model = AutoModel.from_config(AutoConfig.for_model(family, **sizes)).eval()
    tokenizer = AutoTokenizer.from_pretrained(make_encoder(tmp_path))
    tokenizer.model_max_length = 10**30
    assert longest_input(model, tokenizer) == limit
    long = " ".join(WORDS[i % len(WORDS)] for i in range(30))
    policy = fit_policy(LongText(), model, tokenizer)
    ids, _ = ids_and_before(TextEncoder(tokenizer, policy), long)
    assert len(ids[0]) == limit
    with torch.no_grad():
        assert model(torch.tensor(ids)).last_hidden_state.shape[1] == limit
        if family != "modernbert":  # its positions have no end
            with pytest.raises((RuntimeError, IndexError)):
                model(torch.tensor([[*ids[0], 5]]))


@pytest.mark.parametrize(
    ("policy", "positions", "of_tokenizer", "length"),
    [
        ({}, 66, 64, 64),
        ({}, 66, 10**30, 66),
        ({}, 8192, 10**30, 512),
        ({"max_length": 2000}, 8192, 10**30, 2000),
        ({"max_length": 64}, 66, 64, 64),
    ],
)
def test_the_limit_is_that_of_encoder_and_tokenizer_and_512_unasked(
    encoder_dir, policy, positions, of_tokenizer, length
):
    config = AutoConfig.from_pretrained(encoder_dir, max_position_embeddings=positions)
    model = AutoModel.from_config(config)
    tokenizer = AutoTokenizer.from_pretrained(encoder_dir)
    tokenizer.model_max_length = of_tokenizer
    assert fit_policy(LongText(**policy), model, tokenizer).max_length == length
    with pytest.raises(SpecError, match=r"^long_text.max_length: 9000, but the encoder reads "):
        fit_policy(LongText(max_length=9000), model, tokenizer)
    with pytest.raises(SpecError, match=r"^long_text.head: 600 must be below max_length, here "):
        fit_policy(LongText(keep="head+tail", head=600), model, tokenizer)


# splits


@pytest.fixture(scope="module")
def tokenizer(encoder_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(encoder_dir)


def dataset(count: int = 60) -> Dataset:
    rows = reviews(count)
    return Dataset.from_dict(
        {"text": [row["text"] for row in rows], "label": [i % 3 for i in range(count)]}
    )


def tokenized(data: Dataset, encoder: TextEncoder, ctx: Context) -> Tokens:
    return tokenize(data, "train", encoder, np.array(data["label"][:]), ctx)


def content(tokens: Tokens) -> dict[str, Any]:
    return {
        "values": tokens.values.tolist(), "offsets": tokens.offsets.tolist(),
        "labels": tokens.labels.tolist(), "pad": tokens.pad_id, "report": tokens.report,
        "types": None if tokens.types is None else tokens.types.tolist(),
        "counts": None if tokens.counts is None else tokens.counts.tolist(),
    }  # fmt: skip


class Watched:
    """Progress that is kept."""

    def __init__(self) -> None:
        self.bars: list[tuple[str, int]] = []
        self.done = 0

    @contextlib.contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Watched]:
        self.bars.append((title, total))
        yield self

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount


@pytest.mark.field("compute.workers")
@pytest.mark.parametrize("threads", ["true", None])
def test_several_processes_make_the_same_ids_and_show_progress(
    tokenizer, monkeypatch, capfd, threads
):
    if threads is None:
        monkeypatch.delenv("TOKENIZERS_PARALLELISM")
    encoder = TextEncoder(tokenizer, LongText(max_length=12, keep="head+tail"))
    results = {}
    for workers in (1, 2, 7):
        progress = Watched()
        ctx = Context(workers=workers, progress=progress)
        results[workers] = content(tokenized(dataset(), encoder, ctx))
        assert progress.bars == [("tokenize train", 60)]
        assert progress.done == 60
    assert results[1] == results[2] == results[7]
    assert os.environ.get("TOKENIZERS_PARALLELISM") == threads
    assert capfd.readouterr() == ("", "")


@pytest.mark.field("compute.workers")
def test_workers_of_a_spec_are_processes(encoder_dir, reviews_csv, tmp_path, monkeypatch):
    import concurrent.futures

    asked = []

    class Counted(concurrent.futures.ProcessPoolExecutor):
        def __init__(self, workers: int, *args: Any) -> None:
            asked.append(workers)
            super().__init__(workers, *args)

    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", Counted)
    for workers in (1, 3):
        bertkit.run(
            {
                "encoder": str(encoder_dir),
                "dataset": {"train": str(reviews_csv), "test": 0, "validation": 0},
                "trainer": {"max_steps": 1, "precision": "fp32"},
                "compute": {"workers": workers, "cache": str(tmp_path / f"cache-{workers}")},
                "output": str(tmp_path / f"run-{workers}"),
            }
        )
    assert asked == [3]


def test_more_texts_than_go_to_the_tokenizer_at_a_time(tokenizer, monkeypatch):
    encoder = TextEncoder(tokenizer, LongText(max_length=12))
    whole = content(tokenized(dataset(), encoder, Context()))
    monkeypatch.setattr("bertkit.text.tokenize.CHUNK", 7)
    assert content(tokenized(dataset(), encoder, Context())) == whole


@pytest.mark.parametrize("keep", ["head", "drop"])
def test_ids_and_labels_belong_together(tokenizer, keep):
    data = dataset()
    encoder = TextEncoder(tokenizer, LongText(max_length=12, keep=keep))
    tokens = tokenized(data, encoder, Context())
    whole = [tokenizer(text)["input_ids"] for text in data["text"]]
    rows = [i for i, ids in enumerate(whole) if keep == "head" or len(ids) <= 12]
    assert 0 < len(rows) <= len(whole)
    assert tokens.labels.tolist() == [data["label"][i] for i in rows]
    found = [ids.tolist() for ids in np.split(tokens.values, tokens.offsets[1:-1])]
    assert found == [whole[i] if len(whole[i]) <= 12 else [*whole[i][:11], 3] for i in rows]


def test_a_label_that_loses_all_its_texts_is_warned_of(tokenizer):
    texts = ["good room", "bad room", "a very long text " * 4]
    data = Dataset.from_dict({"text": texts, "label": [0, 1, 2]})
    splits = Splits(SingleLabel(("good", "bad", "long")), data, None, None, {})
    said: list[str] = []
    encoder = TextEncoder(tokenizer, LongText(max_length=8, keep="drop"))
    tokenize_splits(splits, encoder, Context(warn=said.append))
    assert said == [
        "train: 1 texts longer than 8 tokens dropped, 2 left",
        "train: no text is left with the labels long",
    ]


def test_a_tokenizer_that_leaves_no_room(tokenizer):
    model = tokenizers.models.WordLevel({"[PAD]": 0}, unk_token="[PAD]")
    deaf = Tokenizer(model)
    deaf.normalizer = tokenizers.normalizers.Replace("a", "")
    fast = PreTrainedTokenizerFast(tokenizer_object=deaf, pad_token="[PAD]")
    with pytest.raises(ModelError, match="in a way that bertkit cannot undo"):
        TextEncoder(fast, LongText(max_length=8))
    many = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    many.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] [CLS] $A [SEP] [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=many, pad_token="[PAD]")
    with pytest.raises(SpecError, match="4 leaves no room beside 4 special tokens"):
        TextEncoder(fast, LongText(max_length=4))


# the cache


class Cache:
    """Tokenize with a cache folder, and say what it answered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.warned: list[str] = []

    def ask(self, data: Dataset, encoder: TextEncoder) -> tuple[str, dict[str, Any]]:
        notes: dict[str, Any] = {}
        ctx = Context(cache_dir=self.folder, note=notes.__setitem__, warn=self.warned.append)
        tokens = tokenized(data, encoder, ctx)
        return notes["token_cache"]["train"], content(tokens)

    def entries(self) -> list[Path]:
        return sorted((self.folder / "tokens").iterdir())


def test_the_second_time_the_cache_answers_with_the_same_tokens(tokenizer, tmp_path):
    cache, encoder = Cache(tmp_path), TextEncoder(tokenizer, LongText(max_length=12))
    first, second = cache.ask(dataset(), encoder), cache.ask(dataset(), encoder)
    assert (first[0], second[0]) == ("miss", "hit")
    assert first[1] == second[1]
    assert len(cache.entries()) == 1


def test_labels_are_not_part_of_what_is_cached(tokenizer, tmp_path):
    cache, encoder = Cache(tmp_path), TextEncoder(tokenizer, LongText(max_length=12))
    cache.ask(dataset(), encoder)
    other = Dataset.from_dict({"text": dataset()["text"][:], "label": [0] * 60})
    answer, found = cache.ask(other, encoder)
    assert answer == "hit"
    assert found["labels"] == [0] * 60


def test_another_policy_tokenizer_or_text_is_another_entry(tokenizer, tmp_path):
    cache = Cache(tmp_path)
    long = AutoTokenizer.from_pretrained(make_encoder(tmp_path / "other"))
    long.backend_tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    long.backend_tokenizer.add_tokens(["hotel room"])
    texts = dataset()["text"][:]
    swapped = [texts[0] + texts[1][:1], texts[1][1:], *texts[2:]]
    asked = [
        (dataset(), TextEncoder(tokenizer, LongText(max_length=12))),
        (dataset(), TextEncoder(tokenizer, LongText(max_length=13))),
        (dataset(), TextEncoder(tokenizer, LongText(max_length=12, keep="tail"))),
        (dataset(), TextEncoder(tokenizer, LongText(max_length=12, keep="head+tail", head=2))),
        (dataset(), TextEncoder(long, LongText(max_length=12))),
        (dataset(59), TextEncoder(tokenizer, LongText(max_length=12))),
        (
            Dataset.from_dict({"text": swapped, "label": [0] * 60}),
            TextEncoder(tokenizer, LongText(max_length=12)),
        ),
    ]
    assert [cache.ask(*one)[0] for one in asked] == ["miss"] * len(asked)
    assert [cache.ask(*one)[0] for one in asked] == ["hit"] * len(asked)
    assert len(cache.entries()) == len(asked)


def flip(file: Path) -> None:
    whole = bytearray(file.read_bytes())
    whole[-3] ^= 64
    file.write_bytes(whole)


DAMAGE: dict[str, Any] = {
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:-20]),
    "cut off in its header": lambda file: file.write_bytes(file.read_bytes()[:20]),
    "empty": lambda file: file.write_bytes(b""),
    "a flipped bit": flip,
    "something else": lambda file: save_file({"x": np.zeros(3)}, file),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_entry_is_made_again(tokenizer, tmp_path, case):
    cache, encoder = Cache(tmp_path), TextEncoder(tokenizer, LongText(max_length=12))
    _, expected = cache.ask(dataset(), encoder)
    (entry,) = cache.entries()
    DAMAGE[case](entry)
    assert cache.ask(dataset(), encoder) == ("miss", expected)
    assert cache.ask(dataset(), encoder) == ("hit", expected)


def test_a_cache_that_cannot_be_written_is_only_warned_of(tokenizer, tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache, encoder = Cache(tmp_path / "file"), TextEncoder(tokenizer, LongText(max_length=12))
    answer, found = cache.ask(dataset(), encoder)
    assert answer == "miss"
    assert found["report"].texts == 60
    assert cache.warned == [
        f"tokenized texts are not cached: {tmp_path / 'file' / 'tokens'}: Not a directory"
    ]


def test_a_text_too_long_is_an_error_from_the_cache_too(tokenizer, tmp_path):
    cache, encoder = Cache(tmp_path), TextEncoder(tokenizer, LongText(max_length=12, keep="error"))
    for _ in range(2):
        with pytest.raises(DataError, match=r"^train: \d+ of 60 texts are longer than 12 tokens"):
            cache.ask(dataset(), encoder)

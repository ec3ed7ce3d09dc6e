"""Texts to token ids: as transformers makes them, in one process or several, cached."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
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
from bertkit.tasks import MultiLabel, SingleLabel
from bertkit.text.encoded import LengthReport, Tokens
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


# pairs and windows


def typed(tokenizer: Any) -> Any:
    """Return a copy of a tokenizer that has the model read token types."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
        pad_token=tokenizer.pad_token,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


words_of_a_text = st.lists(st.sampled_from(WORDS), min_size=1, max_size=20).map(" ".join)
PAIR_FAMILIES = [family for family in FAMILIES if family != "modernbert"]
"""The tokenizer that the tests have for ModernBERT has no template for pairs."""


@pytest.mark.parametrize("family", PAIR_FAMILIES)
@pytest.mark.parametrize("keep", ["head", "tail"])
@settings(max_examples=25, deadline=None)
@given(pairs=st.lists(st.tuples(words_of_a_text, words_of_a_text), min_size=1, max_size=3),
       length=st.integers(6, 40))  # fmt: skip
def test_pairs_are_what_transformers_makes_of_them(family, keep, pairs, length):
    tokenizer = family_tokenizer(family)
    tokenizer.truncation_side = {"head": "right", "tail": "left"}[keep]
    first, second = (list(texts) for texts in zip(*pairs, strict=True))
    expected = tokenizer(
        first, second, truncation="longest_first", max_length=length, padding=True,
        return_tensors="pt",
    )  # fmt: skip
    encoder = TextEncoder(tokenizer, LongText(max_length=length, keep=keep))
    tokens, before = encoder.tokens(first, second)
    assert before.tolist() == [len(ids) for ids in tokenizer(first, second)["input_ids"]]
    batch = tokens.batch(range(len(pairs)))
    assert batch.pop("labels").tolist() == [0] * len(pairs)
    assert set(batch) == set(expected)
    assert ("token_type_ids" in batch) == (family not in ("roberta", "albert"))
    for name in batch:
        assert torch.equal(batch[name], expected[name]), name


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("cut", ["first", "second"])
@settings(max_examples=25, deadline=None)
@given(own=words_of_a_text, other=words_of_a_text, length=st.integers(6, 40))
def test_one_text_of_a_pair_is_cut_as_transformers_does(family, cut, own, other, length):
    tokenizer = family_tokenizer(family)
    tokenizer.truncation_side = "right"
    pair = (own, other) if cut == "first" else (other, own)
    encoder = TextEncoder(tokenizer, LongText(max_length=length, cut=cut))
    room = length - encoder.pair.special - len(tokenizer.tokenize(other))
    if room < 1:
        with pytest.raises(DataError, match=rf"^text 1: .* beside which nothing of the {cut} fits"):
            encoder.tokens([pair[0]], [pair[1]])
    else:
        expected = tokenizer(*pair, truncation=f"only_{cut}", max_length=length)
        tokens, _ = encoder.tokens([pair[0]], [pair[1]])
        assert tokens.values.tolist() == expected["input_ids"]


def test_both_ends_of_the_cut_text_of_a_pair_are_kept(tokenizer):
    first, second = WORDS[:12], WORDS[12:16]
    policy = LongText(max_length=11, keep="head+tail", head=1, cut="first")
    tokens, _ = TextEncoder(typed(tokenizer), policy).tokens([" ".join(first)], [" ".join(second)])
    kept = [5 + WORDS.index(word) for word in (first[0], *first[-3:])]
    others = [5 + WORDS.index(word) for word in second]
    assert tokens.values.tolist() == [2, *kept, 3, *others, 3]
    assert tokens.types.tolist() == [0] * 6 + [1] * 5


def test_types_are_kept_where_the_model_reads_them_and_they_differ(tokenizer):
    policy = LongText(max_length=12)
    texts, others = ["good view", "a"], ["bad", "very sad room"]
    assert TextEncoder(tokenizer, policy).tokens(texts, others)[0].types is None
    assert TextEncoder(typed(tokenizer), policy).tokens(texts)[0].types is None
    tokens, _ = TextEncoder(typed(tokenizer), policy).tokens(texts, others)
    assert tokens.types.dtype == np.uint8
    assert tokens.types[:6].tolist() == [0, 0, 0, 0, 1, 1]
    assert tokens.types[6:].tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_a_single_text_may_have_types_too(tokenizer):
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A [SEP] [CLS]:2", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = typed(PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]"))
    tokens, _ = TextEncoder(fast, LongText(max_length=5)).tokens(["good view room bed", "a"])
    assert tokens.types.tolist() == [0, 0, 0, 0, 2, 0, 0, 2]


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.tuples(words_of_a_text, words_of_a_text), min_size=1, max_size=4),
    length=st.integers(6, 24),
    policy=st.fixed_dictionaries(
        {"keep": st.sampled_from(["head", "tail", "head+tail"])},
        optional={"cut": st.sampled_from(["longest", "first", "second"])},
    )
    | st.just({"keep": "windows"})
    | st.just({"keep": "windows", "stride": 4, "max_windows": 2}),
)
def test_no_input_is_longer_than_max_length(tokenizer, texts, length, policy):
    encoder = TextEncoder(typed(tokenizer), LongText(max_length=length, **policy))
    first, second = (list(column) for column in zip(*texts, strict=True))
    try:
        tokens, before = encoder.tokens(first, None if policy["keep"] == "windows" else second)
    except DataError:
        assert policy.get("cut") in ("first", "second")
        return
    assert int(np.diff(tokens.offsets).max()) <= length
    assert tokens.batch(range(len(texts)))["input_ids"].shape[1] <= length
    if policy["keep"] != "windows":
        assert (tokens.lengths == np.minimum(before, length)).all()
        assert tokens.report.cut_tokens == int((before - tokens.lengths).sum())


def test_windows_hold_the_tokens_of_the_text_between_special_ones(tokenizer):
    policy = LongText(max_length=7, keep="windows", stride=3)
    long, short = " ".join(WORDS[:11]), "good view"
    tokens, before = TextEncoder(tokenizer, policy).tokens([long, short, long])
    ids = list(range(5, 16))
    assert before.tolist() == [13, 4, 13]
    assert tokens.counts.tolist() == [3, 1, 3]
    assert tokens.counts.dtype == np.int64
    assert tokens.lengths.tolist() == [21, 4, 21]
    windows = [[2, *ids[:5], 3], [2, *ids[3:8], 3], [2, *ids[6:], 3]]
    batch = tokens.batch([1, 0])
    assert batch["input_ids"].tolist() == [[2, 5, 17, 3, 0, 0, 0], *windows]
    assert batch["attention_mask"].sum(1).tolist() == [4, 7, 7, 7]
    assert batch["windows"].tolist() == [1, 3]
    assert tokens.report == LengthReport(3, 46, 13, windows=7)


@pytest.mark.parametrize(
    ("most", "cut_texts", "cut_tokens"), [(1, 2, 6 + 2), (2, 1, 3), (3, 0, 0), (8, 0, 0)]
)
def test_what_lies_behind_the_last_window_is_counted_as_cut(tokenizer, most, cut_texts, cut_tokens):
    policy = LongText(max_length=7, keep="windows", stride=3, max_windows=most)
    texts = [" ".join(WORDS[:n]) for n in (11, 5, 7)]
    report = TextEncoder(tokenizer, policy).tokens(texts)[0].report
    assert (report.cut_texts, report.cut_tokens) == (cut_texts, cut_tokens)


def test_windows_are_for_single_texts(tokenizer):
    encoder = TextEncoder(tokenizer, LongText(max_length=12, keep="windows"))
    with pytest.raises(SpecError, match=r"^long_text.keep: windows is for single texts"):
        encoder.tokens(["good"], ["bad"])


def with_pairs_as(tokenizer: Any, template: str | None) -> Any:
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=template, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]")


def test_a_tokenizer_that_is_not_made_for_pairs_is_refused(tokenizer):
    policy = LongText(max_length=12)
    together = with_pairs_as(tokenizer, "[CLS] $A $B:1 [SEP]")
    with pytest.raises(ModelError) as caught:
        TextEncoder(together, policy).tokens(["good"], ["bad"])
    assert str(caught.value) == (
        "encoder: its tokenizer is not made for pairs: of the texts a and b it makes "
        "`[CLS] a [UNK] [SEP]`; choose another encoder"
    )
    tokens, _ = TextEncoder(typed(together), policy).tokens(["good"], ["bad"])
    assert tokens.types.tolist() == [0, 0, 1, 0]
    bare = typed(with_pairs_as(tokenizer, None))
    with pytest.raises(ModelError, match="of the texts a and b it makes `a "):
        TextEncoder(bare, policy).tokens(["good"], ["bad"])


def test_a_pair_needs_room_for_both_texts(tokenizer):
    encoder = TextEncoder(tokenizer, LongText(max_length=4))
    assert encoder.tokens(["good view room"])[0].values.tolist() == [2, 5, 17, 3]
    with pytest.raises(SpecError, match=r"4 leaves no room for two texts beside 3 special tokens"):
        encoder.tokens(["good"], ["bad"])
    tokens, _ = TextEncoder(tokenizer, LongText(max_length=5)).tokens(["good view"], ["bad sad"])
    assert tokens.values.tolist() == [2, 5, 3, 9, 3]


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


def dataset(count: int = 60, *, pairs: bool = False) -> Dataset:
    rows = reviews(count)
    columns = {"text": [row["text"] for row in rows], "label": [i % 3 for i in range(count)]}
    if pairs:
        columns["text_pair"] = [row["text"] for row in reviews(count, seed=1)]
    return Dataset.from_dict(columns)


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
@pytest.mark.parametrize(("threads", "pairs"), [("true", True), (None, False)])
def test_several_processes_make_the_same_ids_and_show_progress(
    tokenizer, monkeypatch, capfd, threads, pairs
):
    if threads is None:
        monkeypatch.delenv("TOKENIZERS_PARALLELISM")
    policy = LongText(max_length=12, keep="head+tail" if pairs else "windows")
    encoder = TextEncoder(typed(tokenizer), policy)
    results = {}
    for workers in (1, 2, 7):
        progress = Watched()
        ctx = Context(workers=workers, progress=progress)
        results[workers] = content(tokenized(dataset(pairs=pairs), encoder, ctx))
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


@pytest.mark.parametrize("workers", [1, 2])
def test_a_pair_that_cannot_be_cut_as_asked_is_named_by_its_row(tokenizer, monkeypatch, workers):
    monkeypatch.setattr("bertkit.text.tokenize.CHUNK", 7)
    columns = {"text": ["good view"] * 20, "text_pair": ["bad"] * 20, "label": [0, 1] * 10}
    columns["text_pair"][16] = "very sad room " * 3
    encoder = TextEncoder(tokenizer, LongText(max_length=12, cut="first"))
    with pytest.raises(DataError) as caught:
        tokenized(Dataset.from_dict(columns), encoder, Context(workers=workers))
    assert str(caught.value) == (
        "train, row 17: the second text has 9 tokens, beside which nothing of the first fits into "
        "12; raise long_text.max_length, or choose long_text.cut: longest"
    )


def test_tokenizing_needs_no_torch():
    code = "import bertkit.text.tokenize, sys; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


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


@pytest.mark.parametrize(
    ("policy", "pairs", "warned"),
    [
        ({"keep": "windows", "stride": 4, "max_windows": 2}, None,
         ["train: 1 of 2 texts have more than 2 windows (the first are kept), 8 tokens left out; "
          "the longest has 22"]),
        ({"keep": "windows"}, None, []),
        ({"keep": "tail"}, ["bad"] * 2,
         ["train: 1 of 2 pairs cut to 10 tokens (tail of the longer text kept), 14 tokens left "
          "out; the longest has 24"]),
        ({"cut": "first"}, ["bad"] * 2,
         ["train: 1 of 2 pairs cut to 10 tokens (head of the first text kept), 14 tokens left "
          "out; the longest has 24"]),
        ({"keep": "drop"}, ["bad"] * 2,
         ["train: 1 pairs longer than 10 tokens dropped, 1 left",
          "train: no text is left with the labels long"]),
    ],
)  # fmt: skip
def test_what_is_cut_or_dropped_is_warned_of(tokenizer, policy, pairs, warned):
    columns: dict[str, Any] = {"text": ["good room", "the room was bad " * 5], "label": [[0], [1]]}
    columns |= {"text_pair": pairs} if pairs else {}
    task = MultiLabel(("short", "long", "never"))
    splits = Splits(task, Dataset.from_dict(columns), None, None, {})
    warnings: list[str] = []
    said: list[str] = []
    encoder = TextEncoder(tokenizer, LongText(max_length=10, **policy))
    tokens = tokenize_splits(splits, encoder, Context(warn=warnings.append, say=said.append))
    assert warnings == warned
    windows = {"windows": 1 + policy.get("max_windows", 4)} if "windows" in policy.values() else {}
    assert said == [f"train: 2 texts in {count} windows" for count in windows.values()]
    left = [[1, 0, 0]] if policy.get("keep") == "drop" else [[1, 0, 0], [0, 1, 0]]
    assert tokens["train"].labels.tolist() == left
    assert tokens["train"].labels.dtype == np.float32


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


@pytest.mark.parametrize("pairs", [False, True])
def test_types_and_windows_come_from_the_cache_too(tokenizer, tmp_path, pairs):
    policy = LongText(max_length=12, keep="head" if pairs else "windows")
    cache, encoder = Cache(tmp_path), TextEncoder(typed(tokenizer), policy)
    data = dataset(pairs=pairs)
    first, second = cache.ask(data, encoder), cache.ask(data, encoder)
    assert (first[0], second[0]) == ("miss", "hit")
    assert first[1] == second[1]
    assert (first[1]["types"] is None, first[1]["counts"] is None) == (not pairs, pairs)


def test_single_texts_are_not_taken_for_pairs_of_the_same(tokenizer, tmp_path):
    cache, encoder = Cache(tmp_path), TextEncoder(tokenizer, LongText(max_length=60))
    pairs = dataset(30, pairs=True)
    texts = [*pairs["text"][:], *pairs["text_pair"][:]]
    assert cache.ask(pairs, encoder)[0] == "miss"
    single = Dataset.from_dict({"text": texts, "label": [0] * 60})
    assert cache.ask(single, encoder)[0] == "miss"


def test_how_windows_are_pooled_is_not_part_of_what_is_cached(tokenizer, tmp_path):
    cache = Cache(tmp_path)
    for pool, answer in [("mean", "miss"), ("max", "hit"), ("attention", "hit")]:
        policy = LongText(max_length=12, keep="windows", pool=pool)
        assert cache.ask(dataset(), TextEncoder(tokenizer, policy))[0] == answer


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
        (dataset(), TextEncoder(tokenizer, LongText(max_length=12, keep="windows"))),
        (dataset(), TextEncoder(tokenizer, LongText(max_length=12, keep="windows", stride=4))),
        (dataset(), TextEncoder(tokenizer, LongText(max_length=12, keep="windows", max_windows=2))),
        (dataset(pairs=True), TextEncoder(tokenizer, LongText(max_length=12))),
        (dataset(pairs=True), TextEncoder(tokenizer, LongText(max_length=60))),
        (dataset(pairs=True), TextEncoder(tokenizer, LongText(max_length=60, cut="second"))),
        (dataset(pairs=True), TextEncoder(typed(tokenizer), LongText(max_length=12))),
        (dataset(pairs=True), TextEncoder(tokenizer, LongText(max_length=12, keep="tail"))),
        (
            dataset(pairs=True).rename_columns({"text": "text_pair", "text_pair": "text"}),
            TextEncoder(tokenizer, LongText(max_length=12)),
        ),
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

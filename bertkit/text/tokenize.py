"""Texts to token ids: the long-text policy applied, counted and cached."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bertkit.errors import DataError, ModelError, SpecError
from bertkit.records import Context, Splits
from bertkit.text.encoded import LengthReport, Tokens
from bertkit.text.long_text import LongText

if TYPE_CHECKING:
    import datasets
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHUNK = 1000
"""Texts that go to the tokenizer at a time."""
THREADS = "TOKENIZERS_PARALLELISM"
Ids = tuple[list[list[int]], list[int]]
"""Token ids of each text, and its number of tokens before it was cut."""
FORMAT = 1
"""Part of the cache key; raised when the meaning of cached tokens changes."""


def longest_input(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the number of tokens that the encoder can read, special tokens included."""
    positions = int(getattr(model.config, "max_position_embeddings", None) or 512)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings"):
            padding = getattr(module, "padding_idx", None)
            if padding is not None:  # as in RoBERTa: the positions before it are never used
                positions -= int(padding) + 1
    return min(positions, int(tokenizer.model_max_length))


def fit_policy(
    policy: LongText, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> LongText:
    """Return the policy with a `max_length` that the encoder can read.

    Raises:
        SpecError: the spec asks for more than that.
    """
    limit = longest_input(model, tokenizer)
    if policy.max_length is not None and policy.max_length > limit:
        raise SpecError(
            f"long_text.max_length: {policy.max_length}, but the encoder reads {limit} tokens at "
            f"most; write {limit} or less"
        )
    fitted = policy.model_copy(update={"max_length": policy.max_length or min(limit, 512)})
    assert fitted.max_length is not None
    if fitted.head is not None and fitted.head >= fitted.max_length:
        raise SpecError(
            f"long_text.head: {fitted.head} must be below max_length, here {fitted.max_length}"
        )
    return fitted


class TextEncoder:
    """A tokenizer and a long-text policy: texts in, token ids out.

    Args:
        tokenizer: a fast one.
        policy: with `max_length` set.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, policy: LongText) -> None:
        from tokenizers import Tokenizer

        # a copy: the caller's tokenizer keeps its own truncation and padding
        self.backend: Tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self.backend.no_truncation()
        self.backend.no_padding()
        self.policy = policy
        self.pad_id = int(tokenizer.pad_token_id)
        whole = self.backend.encode("a").ids
        body = self.backend.encode("a", add_special_tokens=False).ids
        starts = [i for i in range(len(whole)) if whole[i : i + len(body)] == body]
        if not body or not starts:
            raise ModelError("the tokenizer adds special tokens in a way that bertkit cannot undo")
        self.prefix = starts[0]
        self.suffix = len(whole) - starts[0] - len(body)
        assert policy.max_length is not None
        self.max_length = policy.max_length
        if self.max_length <= self.prefix + self.suffix:
            raise SpecError(
                f"long_text.max_length: {self.max_length} leaves no room beside "
                f"{self.prefix + self.suffix} special tokens"
            )

    def key(self) -> str:
        """Return a hash of all that the token ids depend on beside the texts."""
        policy = json.dumps(self.policy.model_dump(), sort_keys=True)
        return hashlib.sha256(f"{FORMAT}{policy}{self.backend.to_str()}".encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> Ids:
        """Return the token ids that are kept of each text, and its number of tokens before."""
        encodings = self.backend.encode_batch_fast(list(texts))
        kept, before = [], []
        room = self.max_length - self.prefix - self.suffix
        for encoding in encodings:
            ids = encoding.ids
            before.append(len(ids))
            if len(ids) > self.max_length:
                end = len(ids) - self.suffix
                body = self.policy.cut(ids[self.prefix : end], room)
                ids = [*ids[: self.prefix], *body, *ids[end:]]
            kept.append(ids)
        return kept, before


def tokenize(split: datasets.Dataset, name: str, encoder: TextEncoder, ctx: Context) -> Tokens:
    """Tokenize one split, or take it from the cache.

    Args:
        split: with columns `text` and `label`.
        name: of the split, for messages.
        encoder: tokenizer and policy.
        ctx: cache, workers, progress. The cache's answer is noted as `token_cache`.

    Raises:
        DataError: a text is too long under `keep: error`, or all are under `drop`.
    """
    digest = hashlib.sha256(encoder.key().encode())
    for text in split["text"][:]:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    folder = ctx.cache_dir / "tokens" / digest.hexdigest()[:32] if ctx.cache_dir else None
    table = _from_cache(folder, split.num_rows)
    ctx.note("token_cache", {name: "miss" if table is None else "hit"})
    if table is None:
        table = _compute(split, name, encoder, ctx)
        table = _to_cache(table, folder, ctx)
    return _apply_policy(table, split, name, encoder)


def _from_cache(folder: Path | None, rows: int) -> datasets.Dataset | None:
    from datasets import load_from_disk

    if folder is None or not folder.is_dir():
        return None
    with suppress(Exception):  # whatever is wrong with it, it can be computed again
        table = load_from_disk(str(folder))
        if (table.column_names, table.num_rows) == (["input_ids", "before"], rows):
            return table
    shutil.rmtree(folder, ignore_errors=True)
    return None


def _to_cache(table: datasets.Dataset, folder: Path | None, ctx: Context) -> datasets.Dataset:
    if folder is None:
        return table
    staging = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        table.save_to_disk(str(staging))
        staging.rename(folder)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        if not folder.is_dir():
            ctx.warn(f"tokenized texts are not cached: {folder.parent}: {error.strerror or error}")
    return _from_cache(folder, table.num_rows) or table


def _compute(
    split: datasets.Dataset, name: str, encoder: TextEncoder, ctx: Context
) -> datasets.Dataset:
    import pyarrow as pa
    from datasets import Dataset

    schema = pa.schema([("input_ids", pa.list_(pa.int32())), ("before", pa.int32())])
    rows, workers = split.num_rows, min(ctx.workers, split.num_rows)
    size = min(CHUNK, -(-rows // workers))
    texts = (split[start : start + size]["text"] for start in range(0, rows, size))
    chunks = []
    with ctx.progress.bar(f"tokenize {name}", rows) as bar, _mapper(encoder, workers) as encode:
        for ids, before in encode(texts):
            chunks.append(pa.table({"input_ids": ids, "before": before}, schema=schema))
            bar.advance(len(ids))
    return Dataset(pa.concat_tables(chunks))


@contextmanager
def _mapper(
    encoder: TextEncoder, workers: int
) -> Iterator[Callable[[Iterable[list[str]]], Iterator[Ids]]]:
    """Give a `map` that encodes chunks of texts, in this process or in several."""
    if workers == 1:
        yield partial(map, encoder.encode)
        return
    from concurrent.futures import ProcessPoolExecutor

    before = os.environ.get(THREADS)
    os.environ[THREADS] = "false"  # the tokenizer's own threads do not survive a fork
    try:
        with ProcessPoolExecutor(workers, None, _start, (encoder,)) as pool:
            yield partial(pool.map, _encode)
    finally:
        os.environ.pop(THREADS)
        if before is not None:
            os.environ[THREADS] = before


_encoder: TextEncoder


def _start(encoder: TextEncoder) -> None:
    """Keep the encoder of a worker process, which needs no torch and no transformers."""
    global _encoder
    _encoder = encoder


def _encode(texts: list[str]) -> Ids:
    return _encoder.encode(texts)


def _apply_policy(
    table: datasets.Dataset, split: datasets.Dataset, name: str, encoder: TextEncoder
) -> Tokens:
    arrow = table.data.table
    chunks = arrow.column("input_ids").chunks
    values = np.concatenate([np.asarray(chunk.flatten()) for chunk in chunks])
    lengths = np.concatenate([np.asarray(chunk.value_lengths()) for chunk in chunks])
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    before = arrow.column("before").to_numpy()
    labels = np.asarray(split["label"][:], dtype=np.int64)
    policy, limit = encoder.policy, encoder.max_length
    long = np.flatnonzero(before > limit)
    if len(long) and policy.keep == "error":
        raise DataError(
            f"{name}: {len(long)} of {len(before)} texts are longer than {limit} tokens, such as "
            f"`{split[int(long[0])]['text'][:40]}…` with {before[long[0]]}; raise "
            "long_text.max_length, or choose what to keep with long_text.keep"
        )
    if len(long) and policy.keep == "drop":
        keep = np.flatnonzero(before <= limit)
        if not len(keep):
            raise DataError(
                f"{name}: all {len(before)} texts are longer than {limit} tokens and dropped; "
                "raise long_text.max_length, or choose another long_text.keep"
            )
        pieces = [values[offsets[i] : offsets[i + 1]] for i in keep]
        values = np.concatenate(pieces)
        offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])])
        labels = labels[keep]
    cut = len(long) if policy.keep not in ("drop", "error") else 0
    report = LengthReport(
        texts=len(labels),
        tokens=int(offsets[-1] - offsets[0]),
        longest=int(before.max()),
        cut_texts=cut,
        cut_tokens=int((before[long] - limit).sum()) if cut else 0,
        dropped_texts=len(before) - len(labels),
    )
    return Tokens(values, offsets, labels, encoder.pad_id, report)


def tokenize_splits(splits: Splits, encoder: TextEncoder, ctx: Context) -> dict[str, Tokens]:
    """Tokenize every split; what was cut or dropped becomes a warning."""
    result = {}
    for name, split in splits.items():
        tokens = result[name] = tokenize(split, name, encoder, ctx)
        report = tokens.report
        if report.cut_texts:
            ctx.warn(
                f"{name}: {report.cut_texts} of {report.texts} texts cut to "
                f"{encoder.max_length} tokens ({encoder.policy.keep} kept), "
                f"{report.cut_tokens} tokens left out; the longest has {report.longest}"
            )
        if report.dropped_texts:
            ctx.warn(
                f"{name}: {report.dropped_texts} texts longer than {encoder.max_length} tokens "
                f"dropped, {report.texts} left"
            )
            gone = np.setdiff1d(split["label"][:], tokens.labels)
            if len(gone):
                words = ", ".join(splits.task.labels[i] for i in gone)
                ctx.warn(f"{name}: no text is left with the labels {words}")
    return result

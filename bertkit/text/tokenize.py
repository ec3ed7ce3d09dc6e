"""Texts to token ids: the long-text policy applied, counted and cached."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain, starmap
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bertkit.errors import DataError, ModelError, SpecError
from bertkit.records import Context, Splits
from bertkit.text.cache import load_arrays, store_arrays
from bertkit.text.encoded import Array, LengthReport, Tokens
from bertkit.text.long_text import LongText

if TYPE_CHECKING:
    import datasets
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHUNK = 1000
"""Texts that go to the tokenizer at a time."""
THREADS = "TOKENIZERS_PARALLELISM"
WHICH = {"longest": "the longer text", "first": "the first text", "second": "the second text"}
Chunk = tuple[list[str], list[str] | None, str, int]
"""What `TextEncoder.encode` takes."""
FORMAT = 2
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
    """Return the policy with a `max_length` that the encoder can read, and its windows settled.

    Raises:
        SpecError: the spec asks for more than that, or for a stride longer than a window.
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
    return fitted.fitted(fitted.max_length - tokenizer.num_special_tokens_to_add())


class Rows(NamedTuple):
    """Tokenized texts or pairs, all of them one after the other."""

    values: Array
    """Token ids, int32."""
    lengths: Array
    """Tokens of each window; int32 (W,)."""
    counts: Array
    """Windows of each text; int32 (n,)."""
    before: Array
    """Tokens of each text before it was cut, special ones included; int32 (n,)."""
    types: Array
    """Token types, uint8, parallel to `values`; empty where the model reads none."""


class Template(NamedTuple):
    """The special tokens that stand before, between and after texts, and their types."""

    ids: list[list[int]]
    types: list[list[int]]
    text_types: list[int]
    """Type of the tokens of each text."""

    @property
    def special(self) -> int:
        """Number of special tokens."""
        return sum(map(len, self.ids))

    def around(self, *texts: Sequence[int]) -> list[int]:
        """Return the token ids of an input."""
        whole = [*self.ids[0]]
        for text, special in zip(texts, self.ids[1:], strict=True):
            whole += text
            whole += special
        return whole

    def types_around(self, *texts: Sequence[int]) -> list[int]:
        """Return the token types of an input."""
        alike = ([one] * len(text) for one, text in zip(self.text_types, texts, strict=True))
        return Template(self.types, [], []).around(*alike)


class TextEncoder:
    """A tokenizer and a long-text policy: texts or pairs in, token ids out.

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
        self.pad_id = int(tokenizer.pad_token_id)
        self.reads_types = "token_type_ids" in tokenizer.model_input_names
        self.single = self._template("a")
        assert policy.max_length is not None
        self.max_length = policy.max_length
        self.room = self.max_length - self.single.special
        if self.room < 1:
            raise SpecError(
                f"long_text.max_length: {self.max_length} leaves no room beside "
                f"{self.single.special} special tokens"
            )
        self.policy = policy.fitted(self.room)

    @cached_property
    def pair(self) -> Template:
        """The special tokens of a pair.

        Raises:
            ModelError: the tokenizer does not tell its two texts apart, or leaves out what it
                puts before a text.
            SpecError: `max_length` has no room for them, or the policy is for single texts.
        """
        template = self._template("a", "b")
        apart = template.ids[1] or self._has_types(template)
        if not apart or template.ids[0] != self.single.ids[0]:
            shown = " ".join(self.backend.encode("a", "b").tokens)
            raise ModelError(
                f"encoder: its tokenizer is not made for pairs: of the texts a and b it makes "
                f"`{shown}`; choose another encoder"
            )
        if self.policy.keep == "windows":
            raise SpecError(
                "long_text.keep: windows is for single texts; for pairs take head, tail or "
                "head+tail, and say with long_text.cut which text loses tokens"
            )
        if self.max_length < template.special + 2:
            raise SpecError(
                f"long_text.max_length: {self.max_length} leaves no room for two texts beside "
                f"{template.special} special tokens"
            )
        return template

    def key(self) -> str:
        """Return a hash of all that the token ids depend on beside the texts."""
        policy = json.dumps(self.policy.model_dump(exclude={"pool"}), sort_keys=True)
        parts = f"{FORMAT}{policy}{self.reads_types}{self.backend.to_str()}"
        return hashlib.sha256(parts.encode()).hexdigest()

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        place: str = "text",
        first: int = 1,
    ) -> Rows:
        """Tokenize texts, and keep of each what the policy says.

        Args:
            texts: the texts, or the first ones of pairs.
            pairs: the second ones.
            place: what a row is called in messages.
            first: number of the first row in messages.

        Raises:
            DataError: of a text that is to be cut, nothing would be left beside the other.
        """
        columns = [self._bodies(column) for column in (texts, pairs) if column is not None]
        template = self.single if pairs is None else self.pair
        before = [sum(map(len, row)) + template.special for row in zip(*columns, strict=True)]
        windows: list[list[tuple[Sequence[int], ...]]]
        if pairs is not None:
            rows = enumerate(zip(*columns, strict=True), first)
            windows = [[self._kept_of_pair(one, two, f"{place} {i}")] for i, (one, two) in rows]
        elif self.policy.keep == "windows":
            windows = [[(w,) for w in self.policy.windows(t, self.room)] for t in columns[0]]
        else:
            windows = [[(self.policy.kept(text, self.room),)] for text in columns[0]]
        inputs = list(chain.from_iterable(windows))
        ids = [template.around(*one) for one in inputs]
        typed = inputs if self._has_types(template) else []
        types = [template.types_around(*one) for one in typed]
        return Rows(
            np.fromiter(chain.from_iterable(ids), np.int32),
            np.fromiter(map(len, ids), np.int32),
            np.fromiter(map(len, windows), np.int32),
            np.array(before, np.int32),
            np.fromiter(chain.from_iterable(types), np.uint8),
        )

    def tokens(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        targets: Array | None = None,
        *,
        first: int = 1,
    ) -> tuple[Tokens, Array]:
        """Tokenize texts in memory, as `tokenize` does; under `drop` and `error` as under `head`.

        Args:
            texts: the texts, or the first ones of pairs.
            pairs: the second ones.
            targets: what the model is to learn; zeros where none are given.
            first: number of the first text in messages.

        Returns:
            The tokens, and how many each text had before it was cut, int32 (n,); where that is
            above `max_length`, the text was too long.

        Raises:
            DataError: of a text that is to be cut, nothing would be left beside the other.
        """
        rows = self.encode(texts, pairs, first=first)
        targets = np.zeros(len(rows.before), dtype=np.int64) if targets is None else targets
        return self.to_tokens(rows, targets), rows.before

    def to_tokens(self, rows: Rows, targets: Array) -> Tokens:
        """Return tokenized texts as a split, with a report of what was cut."""
        offsets = np.concatenate([[0], np.cumsum(rows.lengths, dtype=np.int64)])
        windows = self.policy.keep == "windows"
        if windows:
            assert self.policy.stride is not None
            read = (rows.counts - 1) * self.policy.stride + self.room + self.single.special
            cut = np.maximum(rows.before - read, 0)
        else:
            cut = rows.before - rows.lengths
        report = LengthReport(
            texts=len(targets),
            tokens=len(rows.values),
            longest=int(rows.before.max()),
            cut_texts=int((cut > 0).sum()),
            cut_tokens=int(cut.sum()),
            windows=len(rows.lengths) if windows else None,
        )
        return Tokens(
            rows.values, offsets, targets, self.pad_id, report,
            types=rows.types if len(rows.types) else None,
            counts=rows.counts.astype(np.int64) if windows else None,
        )  # fmt: skip

    def _template(self, *texts: str) -> Template:
        whole = self.backend.encode(texts[0], texts[1] if len(texts) > 1 else None)
        template, end = Template([], [], []), 0
        for body in self._bodies(texts):
            starts = range(end, len(whole.ids) - len(body) + 1)
            start = next((i for i in starts if whole.ids[i : i + len(body)] == body), None)
            if not body or start is None:
                raise ModelError(
                    "the tokenizer adds special tokens in a way that bertkit cannot undo"
                )
            template.ids.append(whole.ids[end:start])
            template.types.append(whole.type_ids[end:start])
            template.text_types.append(whole.type_ids[start])
            end = start + len(body)
        template.ids.append(whole.ids[end:])
        template.types.append(whole.type_ids[end:])
        return template

    def _has_types(self, template: Template) -> bool:
        return self.reads_types and any(chain(template.text_types, *template.types))

    def _bodies(self, texts: Sequence[str]) -> list[list[int]]:
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _kept_of_pair(
        self, one: list[int], two: list[int], place: str
    ) -> tuple[Sequence[int], Sequence[int]]:
        whole = self.max_length - self.pair.special
        rooms = self.policy.rooms(len(one), len(two), whole)
        if min(rooms) < min(len(one), len(two), 1):
            cut, other, count = self.policy.cut, "second", len(two)
            if cut == "second":
                other, count = "first", len(one)
            raise DataError(
                f"{place}: the {other} text has {count} tokens, beside which nothing of the {cut} "
                f"fits into {self.max_length}; raise long_text.max_length, or choose "
                "long_text.cut: longest"
            )
        return self.policy.kept(one, rooms[0]), self.policy.kept(two, rooms[1])


def tokenize(
    split: datasets.Dataset, name: str, encoder: TextEncoder, targets: Array, ctx: Context
) -> Tokens:
    """Tokenize one split, or take it from the cache.

    Args:
        split: with the column `text`, for pairs also `text_pair`.
        name: of the split, for messages.
        encoder: tokenizer and policy.
        targets: what the model is to learn, one row a text.
        ctx: cache, workers, progress. The cache's answer is noted as `token_cache`.

    Raises:
        DataError: a text is too long under `keep: error`, or all are under `drop`.
    """
    columns = ["text", "text_pair"][: 1 + ("text_pair" in split.column_names)]
    digest = hashlib.sha256(f"{encoder.key()} {len(columns)}".encode())
    for column in columns:
        for text in split[column][:]:
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
    file = None
    if ctx.cache_dir:
        file = ctx.cache_dir / "tokens" / f"{digest.hexdigest()[:32]}.safetensors"
    cached = load_arrays(file)
    ctx.note("token_cache", {name: "miss" if cached is None else "hit"})
    if cached is None:
        rows = _compute(split, name, encoder, ctx)
        failure = store_arrays(rows._asdict(), file)
        if file and failure:
            ctx.warn(f"tokenized texts are not cached: {file.parent}: {failure}")
    else:
        rows = Rows(**cached)
    return _without_long(rows, split, name, encoder, targets)


def _compute(split: datasets.Dataset, name: str, encoder: TextEncoder, ctx: Context) -> Rows:
    count, workers = split.num_rows, min(ctx.workers, split.num_rows)
    size = min(CHUNK, -(-count // workers))
    parts = ((start, split[start : start + size]) for start in range(0, count, size))
    chunks = ((p["text"], p.get("text_pair"), f"{name}, row", start + 1) for start, p in parts)
    done = []
    with ctx.progress.bar(f"tokenize {name}", count) as bar, _mapper(encoder, workers) as encode:
        for rows in encode(chunks):
            done.append(rows)
            bar.advance(len(rows.before))
    return Rows(*map(np.concatenate, zip(*done, strict=True)))


@contextmanager
def _mapper(
    encoder: TextEncoder, workers: int
) -> Iterator[Callable[[Iterable[Chunk]], Iterator[Rows]]]:
    """Give a `map` that encodes chunks of texts, in this process or in several."""
    if workers == 1:
        yield partial(starmap, encoder.encode)
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


def _encode(chunk: Chunk) -> Rows:
    return _encoder.encode(*chunk)


def _without_long(
    rows: Rows, split: datasets.Dataset, name: str, encoder: TextEncoder, targets: Array
) -> Tokens:
    """Return the split; under `drop` and `error` without texts that are too long."""
    keep, limit = encoder.policy.keep, encoder.max_length
    fits = rows.before <= limit
    long = np.flatnonzero(~fits)
    if keep not in ("drop", "error") or not len(long):
        return encoder.to_tokens(rows, targets)
    if keep == "error":
        raise DataError(
            f"{name}: {len(long)} of {len(fits)} texts are longer than {limit} tokens, such as "
            f"`{split[int(long[0])]['text'][:40]}…` with {rows.before[long[0]]}; raise "
            "long_text.max_length, or choose what to keep with long_text.keep"
        )
    if not fits.any():
        raise DataError(
            f"{name}: all {len(fits)} texts are longer than {limit} tokens and dropped; "
            "raise long_text.max_length, or choose another long_text.keep"
        )
    kept = np.repeat(fits, rows.lengths)
    left = Rows(
        rows.values[kept], rows.lengths[fits], rows.counts[fits], rows.before[fits],
        rows.types[kept] if len(rows.types) else rows.types,
    )  # fmt: skip
    tokens = encoder.to_tokens(left, targets[fits])
    tokens.report = replace(tokens.report, longest=int(rows.before.max()), dropped_texts=len(long))
    return tokens


def tokenize_splits(splits: Splits, encoder: TextEncoder, ctx: Context) -> dict[str, Tokens]:
    """Tokenize every split; what was cut or dropped becomes a warning."""
    result = {}
    for name, split in splits.items():
        targets = splits.task.targets(split["label"][:])
        tokens = result[name] = tokenize(split, name, encoder, targets, ctx)
        noun = "pairs" if "text_pair" in split.column_names else "texts"
        report, policy = tokens.report, encoder.policy
        if report.windows is not None:
            ctx.say(f"{name}: {report.texts} texts in {report.windows} windows")
        if report.cut_texts:
            what = {
                "texts": f"cut to {encoder.max_length} tokens ({policy.keep} kept)",
                "pairs": f"cut to {encoder.max_length} tokens ({policy.keep} of "
                f"{WHICH[policy.cut or 'longest']} kept)",
            }[noun]
            if report.windows is not None:
                what = f"have more than {policy.max_windows} windows (the first are kept)"
            ctx.warn(
                f"{name}: {report.cut_texts} of {report.texts} {noun} {what}, "
                f"{report.cut_tokens} tokens left out; the longest has {report.longest}"
            )
        if report.dropped_texts:
            ctx.warn(
                f"{name}: {report.dropped_texts} {noun} longer than {encoder.max_length} tokens "
                f"dropped, {report.texts} left"
            )
            before, left = splits.task.summary(targets), splits.task.summary(tokens.labels)
            gone = [label for label, count in before.items() if count and left[label] == 0]
            if gone:
                ctx.warn(f"{name}: no text is left with the labels {', '.join(gone)}")
    return result

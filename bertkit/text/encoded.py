"""Splits that a model can read, and their batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

Ints = np.ndarray[Any, np.dtype[np.int64]]
Array = np.ndarray[Any, Any]


class Encoded(ABC):
    """A split, ready for the model: rows that become batches. A row is a text."""

    labels: Array
    """What the model is to learn, as `Task.targets` has it; n rows."""
    lengths: Ints
    """Cost of a row, in tokens; int64 (n,)."""
    counts: Ints | None = None
    """Windows of each row, int64 (n,); None where every text is read at once."""

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def batch(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return the arguments of the model for these rows, and their `labels`, B of them.

        Where `counts` is not None, a batch holds all windows of its rows, one row after the
        other, and `windows`, int64 (B,), the number of each.
        """


@dataclass(frozen=True)
class LengthReport:
    """What became of the texts, or pairs, of a split."""

    texts: int
    tokens: int
    """Tokens that the model reads, special ones included, and those of every window."""
    longest: int
    """Tokens of the longest text before it was cut."""
    cut_texts: int = 0
    cut_tokens: int = 0
    dropped_texts: int = 0
    windows: int | None = None
    """Windows of all texts; None where every text is read at once."""


class Tokens(Encoded):
    """Tokenized texts, padded to the longest of each batch.

    Args:
        values: token ids of all texts, one after the other.
        offsets: where each text, or window, starts and, at the end, where the last one stops.
        labels: targets, n rows.
        pad_id: id of the padding token.
        report: what was cut.
        types: token types (segments), uint8, parallel to `values`; None where the model reads none.
        counts: windows of each text, int64 (n,); None where there is one text between two offsets.
    """

    def __init__(
        self,
        values: Array,
        offsets: Array,
        labels: Array,
        pad_id: int,
        report: LengthReport,
        *,
        types: Array | None = None,
        counts: Ints | None = None,
    ) -> None:
        self.values, self.offsets, self.labels, self.pad_id = values, offsets, labels, pad_id
        self.report, self.types, self.counts = report, types, counts
        self.starts = _starts(counts, len(labels))
        self.lengths = np.diff(offsets[self.starts]).astype(np.int64)

    def head(self, count: int) -> Tokens:
        """Return the first rows only."""
        count = min(count, len(self))
        counts = None if self.counts is None else self.counts[:count]
        offsets = self.offsets[: self.starts[count] + 1]
        return Tokens(
            self.values, offsets, self.labels[:count], self.pad_id, self.report, types=self.types,
            counts=counts,
        )  # fmt: skip

    def apart(self) -> Tokens:
        """Return the windows as rows of their own, without labels."""
        labels = np.zeros(len(self.offsets) - 1, dtype=np.int64)
        return Tokens(self.values, self.offsets, labels, self.pad_id, self.report, types=self.types)

    def batch(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return the model's arguments and `labels`.

        They are `input_ids` and `attention_mask`, int64 (W, longest), W the windows of all rows,
        B where every text is read at once; and where there are types `token_type_ids`.
        """
        import torch

        inputs = _inputs(self, rows)
        starts = self.offsets[inputs]
        lengths = self.offsets[inputs + 1] - starts
        at = _ranges(starts, lengths)
        mask = np.arange(int(lengths.max())) < lengths[:, None]
        ids = np.full(mask.shape, self.pad_id, dtype=np.int64)
        ids[mask] = self.values[at]
        batch = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
        if self.types is not None:
            batch["token_type_ids"] = np.zeros(mask.shape, dtype=np.int64)
            batch["token_type_ids"][mask] = self.types[at]
        batch |= _of_rows(self, rows)
        return {name: torch.from_numpy(array) for name, array in batch.items()}


class Features(Encoded):
    """One vector a text, or a window of a text, computed once.

    Args:
        matrix: float32 (n, d), or (W, d) with one row a window.
        labels: targets, n rows.
        counts: windows of each text, int64 (n,); None where each has one vector.
    """

    def __init__(self, matrix: torch.Tensor, labels: Array, counts: Ints | None = None) -> None:
        self.matrix, self.labels, self.counts = matrix, labels, counts
        self.starts = _starts(counts, len(labels))
        self.lengths = np.diff(self.starts)

    def batch(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return `features`, float32 (B, d), or (W, d) of all windows, and `labels`."""
        import torch

        features = self.matrix[torch.from_numpy(_inputs(self, rows))]
        rest = {name: torch.from_numpy(array) for name, array in _of_rows(self, rows).items()}
        return {"features": features, **rest}


def _starts(counts: Ints | None, rows: int) -> Ints:
    """Return the first window of each row and, at the end, the number of all; int64 (n + 1,)."""
    if counts is None:
        return np.arange(rows + 1)
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """Return `start, start + 1, …` for each start, as many as its length, one after the other."""
    ends = np.cumsum(lengths)
    result: Ints = np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)
    return result


def _inputs(encoded: Tokens | Features, rows: Sequence[int]) -> Ints:
    """Return the numbers of all windows of these rows, int64 (W,)."""
    if encoded.counts is None:
        return np.asarray(rows)
    return _ranges(encoded.starts[rows], encoded.counts[rows])


def _of_rows(encoded: Encoded, rows: Sequence[int]) -> dict[str, Array]:
    labels = {"labels": encoded.labels[rows]}
    return labels if encoded.counts is None else {"windows": encoded.counts[rows], **labels}


BUCKET = 50
"""Batches that are sorted by length together; within so many, the order of batches is random."""


def epoch_batches(
    lengths: Ints,
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    drop_last: bool = False,
    weights: Array | None = None,
) -> list[list[int]]:
    """Return the batches of one epoch: a pure function of its arguments.

    Rows are shuffled, sorted by length within groups of `BUCKET` batches so that little is
    padding, cut into batches, and the batches shuffled.

    Args:
        lengths: tokens of each row (n,).
        batch_size: rows a batch; the last one may have fewer.
        seed: of the run.
        epoch: counted from 0.
        drop_last: leave out a batch that is not full.
        weights: how often to draw each row, relative to the others, none below 0 and not all 0;
            n rows are then drawn with replacement. None: every row once.

    Returns:
        Lists of row numbers.
    """
    rng = np.random.default_rng([seed, epoch])
    rows = len(lengths)
    if weights is None:
        order = rng.permutation(rows)
    else:
        order = rng.choice(rows, rows, p=weights / weights.sum())
    if drop_last:
        order = order[: len(order) // batch_size * batch_size]
    group = BUCKET * batch_size
    batches: list[list[int]] = []
    for start in range(0, len(order), group):
        part = order[start : start + group]
        part = part[np.argsort(-lengths[part], kind="stable")]
        batches += [part[i : i + batch_size].tolist() for i in range(0, len(part), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def sorted_batches(lengths: Ints, batch_size: int) -> Iterator[list[int]]:
    """Yield batches for evaluation, the longest rows first."""
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size].tolist()

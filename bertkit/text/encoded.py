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


class Encoded(ABC):
    """A split, ready for the model: rows that become batches."""

    labels: Ints
    """Label ids, int64 (n,)."""
    lengths: Ints
    """Cost of a row, in tokens; int64 (n,)."""

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def batch(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return the arguments of the model for these rows, and their `labels`, int64 (B,)."""


@dataclass(frozen=True)
class LengthReport:
    """What became of the texts of a split."""

    texts: int
    tokens: int
    """Tokens kept, special tokens included."""
    longest: int
    """Tokens of the longest text before it was cut."""
    cut_texts: int = 0
    cut_tokens: int = 0
    dropped_texts: int = 0


class Tokens(Encoded):
    """Tokenized texts, padded to the longest of each batch.

    Args:
        values: token ids of all texts, one after the other.
        offsets: where each text starts and, at the end, where the last one stops; (n + 1,).
        labels: label ids (n,).
        pad_id: id of the padding token.
        report: what was cut.
    """

    def __init__(
        self,
        values: np.ndarray[Any, Any],
        offsets: np.ndarray[Any, Any],
        labels: Ints,
        pad_id: int,
        report: LengthReport,
    ) -> None:
        self.values, self.offsets, self.labels, self.pad_id = values, offsets, labels, pad_id
        self.lengths = np.diff(offsets).astype(np.int64)
        self.report = report

    def head(self, count: int) -> Tokens:
        """Return the first rows only."""
        return Tokens(
            self.values, self.offsets[: count + 1], self.labels[:count], self.pad_id, self.report
        )

    def batch(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return `input_ids` and `attention_mask`, int64 (B, longest), and `labels`."""
        import torch

        lengths = self.lengths[rows]
        ids = np.full((len(rows), int(lengths.max())), self.pad_id, dtype=np.int64)
        for i, row in enumerate(rows):
            ids[i, : lengths[i]] = self.values[self.offsets[row] : self.offsets[row + 1]]
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
        return {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(self.labels[rows]),
        }


class Features(Encoded):
    """One vector a text, computed once.

    Args:
        matrix: float32 (n, d).
        labels: label ids (n,).
    """

    def __init__(self, matrix: torch.Tensor, labels: Ints) -> None:
        self.matrix, self.labels = matrix, labels
        self.lengths = np.ones(len(labels), dtype=np.int64)

    def batch(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return `features`, float32 (B, d), and `labels`."""
        import torch

        index = torch.as_tensor(np.asarray(rows))
        return {"features": self.matrix[index], "labels": torch.from_numpy(self.labels[rows])}


BUCKET = 50
"""Batches that are sorted by length together; within so many, the order of batches is random."""


def epoch_batches(
    lengths: Ints, batch_size: int, seed: int, epoch: int, *, drop_last: bool = False
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

    Returns:
        Lists of row numbers; every row once, but for those dropped.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
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

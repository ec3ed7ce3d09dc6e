"""Splits that a model reads: rows are texts, of one window or several, with any targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertkit.text.encoded import Features, LengthReport, Tokens

REPORT = LengthReport(1, 1, 1)


def split_of(texts, *, labels=None, types=False):
    """Return tokens of texts, which are lists of windows, which are lists of ids."""
    windows = [window for text in texts for window in text]
    values = np.array([i for window in windows for i in window], dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(window) for window in windows])])
    counts = np.array([len(text) for text in texts], dtype=np.int64)
    labels = np.arange(len(texts)) if labels is None else labels
    kinds = (values % 2).astype(np.uint8) if types else None
    return Tokens(values, offsets, labels, 0, REPORT, types=kinds, counts=counts)


WINDOW = st.lists(st.integers(1, 99), min_size=1, max_size=6)
TEXTS = st.lists(st.lists(WINDOW, min_size=1, max_size=4), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(texts=TEXTS, data=st.data(), types=st.booleans())
def test_a_batch_holds_the_windows_of_its_rows_one_row_after_the_other(texts, data, types):
    split = split_of(texts, types=types)
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=8))
    batch = split.batch(rows)
    windows = [window for row in rows for window in texts[row]]
    width = max(map(len, windows))
    padded = [[*window, *[0] * (width - len(window))] for window in windows]
    assert batch["input_ids"].tolist() == padded
    assert batch["attention_mask"].tolist() == [[int(i > 0) for i in one] for one in padded]
    assert batch["windows"].tolist() == [len(texts[row]) for row in rows]
    assert batch["labels"].tolist() == rows
    assert ("token_type_ids" in batch) == types
    if types:
        assert batch["token_type_ids"].tolist() == [[i % 2 for i in one] for one in padded]
    assert {value.dtype for value in batch.values()} == {torch.int64}


@settings(max_examples=40, deadline=None)
@given(texts=TEXTS, count=st.integers(1, 9))
def test_the_first_rows_keep_their_windows(texts, count):
    split, head = split_of(texts, types=True), split_of(texts, types=True).head(count)
    count = min(count, len(texts))
    assert len(head) == count
    assert split.lengths.tolist() == [sum(map(len, text)) for text in texts]
    assert head.lengths.tolist() == split.lengths[:count].tolist()
    for name, value in head.batch(range(count)).items():
        assert torch.equal(value, split.batch(range(count))[name])


def test_windows_apart_are_rows_that_are_read_at_once():
    split = split_of([[[5, 6, 7], [8]], [[9, 10]]], types=True).apart()
    assert len(split) == 3
    assert split.counts is None
    assert split.lengths.tolist() == [3, 1, 2]
    batch = split.batch([2, 0])
    assert batch["input_ids"].tolist() == [[9, 10, 0], [5, 6, 7]]
    assert batch["token_type_ids"].tolist() == [[1, 0, 0], [1, 0, 1]]
    assert "windows" not in batch


TARGETS = [
    np.array([2, 0, 1]),
    np.array([[1, 0], [0, 0], [1, 1]], dtype=np.float32),
    np.array([[0.5], [-1.25], [2.0]], dtype=np.float32),
]


@pytest.mark.parametrize("targets", TARGETS, ids=["ids", "labels", "numbers"])
def test_targets_of_any_kind_come_with_their_rows(targets):
    tokens = split_of([[[5]], [[6], [7]], [[8]]], labels=targets)
    features = Features(torch.eye(4), targets, np.array([1, 2, 1]))
    for split in (tokens, features, tokens.head(3)):
        labels = split.batch([2, 1])["labels"]
        assert labels.numpy().dtype == targets.dtype
        assert labels.tolist() == targets[[2, 1]].tolist()


def test_features_of_windows_come_with_the_rows_asked_for():
    matrix = torch.arange(10.0).view(5, 2)
    split = Features(matrix, np.array([0, 1, 1]), np.array([2, 1, 2]))
    assert split.lengths.tolist() == [2, 1, 2]
    batch = split.batch([2, 0])
    assert batch["features"].tolist() == matrix[[3, 4, 0, 1]].tolist()
    assert batch["windows"].tolist() == [2, 2]
    assert batch["labels"].tolist() == [1, 0]

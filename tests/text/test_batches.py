"""Batches: every row once, little padding, and an order that is a function of (seed, epoch)."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertkit.text.encoded import (
    BUCKET,
    Features,
    LengthReport,
    Tokens,
    epoch_batches,
    sorted_batches,
)

lengths_of_texts = st.lists(st.integers(1, 512), min_size=1, max_size=400).map(np.array)
batch_sizes = st.integers(1, 40)
seeds = st.integers(0, 2**32 - 1)
epochs = st.integers(0, 1000)


def skewed_lengths(count, seed=0):
    """Draw lengths as real texts have them: many short, a few very long."""
    return np.random.default_rng(seed).lognormal(3.5, 0.8, count).clip(3, 512).astype(np.int64)


def padding_share(lengths, batches):
    padded = sum(int(lengths[rows].max()) * len(rows) for rows in batches)
    return 1 - sum(int(lengths[rows].sum()) for rows in batches) / padded


@given(lengths_of_texts, batch_sizes, seeds, epochs)
@settings(max_examples=100, deadline=None)
def test_every_row_comes_once_and_only_one_batch_is_not_full(lengths, size, seed, epoch):
    batches = epoch_batches(lengths, size, seed, epoch)
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    assert sorted(map(len, batches))[1:] == [size] * (len(batches) - 1)
    assert len(batches) == -(-len(lengths) // size)


@given(lengths_of_texts, batch_sizes, seeds, epochs)
@settings(max_examples=100, deadline=None)
def test_drop_last_leaves_full_batches_without_repeats(lengths, size, seed, epoch):
    batches = epoch_batches(lengths, size, seed, epoch, drop_last=True)
    rows = [row for batch in batches for row in batch]
    assert [len(batch) for batch in batches] == [size] * (len(lengths) // size)
    assert len(set(rows)) == len(rows)


@given(lengths_of_texts, batch_sizes, seeds, epochs, st.booleans())
@settings(max_examples=50, deadline=None)
def test_nothing_but_the_arguments_decides_on_the_order(lengths, size, seed, epoch, drop):
    def batches():
        return epoch_batches(lengths, size, seed, epoch, drop_last=drop)

    first = batches()
    random.random(), np.random.random(), torch.rand(1)
    epoch_batches(lengths, size, seed, epoch + 1)
    assert batches() == first


@given(lengths_of_texts, batch_sizes)
@settings(max_examples=50, deadline=None)
def test_rows_of_a_batch_come_longest_first(lengths, size):
    for rows in epoch_batches(lengths, size, 0, 0):
        assert (np.diff(lengths[rows]) <= 0).all()


weights_of_rows = st.lists(
    st.tuples(st.integers(1, 512), st.sampled_from([0.0, 0.5, 1.0, 40.0])), min_size=1, max_size=400
).filter(lambda rows: any(weight for _, weight in rows))


@given(weights_of_rows, batch_sizes, seeds, epochs, st.booleans())
@settings(max_examples=100, deadline=None)
def test_with_weights_batches_have_the_same_sizes_and_rows_of_weight_0_never_come(
    rows, size, seed, epoch, drop
):
    lengths, weights = (np.array(column) for column in zip(*rows, strict=True))
    batches = epoch_batches(lengths, size, seed, epoch, drop_last=drop, weights=weights)
    again = epoch_batches(lengths, size, seed, epoch, drop_last=drop, weights=7 * weights)
    assert batches == again
    plain = epoch_batches(lengths, size, seed, epoch, drop_last=drop)
    assert sorted(map(len, batches)) == sorted(map(len, plain))
    for batch in batches:
        assert (weights[batch] > 0).all()
        assert (np.diff(lengths[batch]) <= 0).all()


@pytest.mark.parametrize("drop", [False, True])
def test_with_weights_rows_come_in_proportion_to_them(drop):
    weights = np.arange(40.0)
    drawn = [
        row
        for epoch in range(500)
        for batch in epoch_batches(
            skewed_lengths(40), 16, 3, epoch, drop_last=drop, weights=weights
        )
        for row in batch
    ]
    assert len(drawn) == 500 * (32 if drop else 40)
    expected = len(drawn) * weights / weights.sum()
    assert (abs(np.bincount(drawn, minlength=40) - expected) <= 4 * expected**0.5).all()


def test_with_weights_every_epoch_and_seed_has_draws_of_its_own():
    lengths, weights = skewed_lengths(100), np.ones(100)
    draws = {
        tuple(sorted(np.concatenate(epoch_batches(lengths, 8, seed, epoch, weights=weights))))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(draws) == 16
    assert all(len(set(rows)) < 100 for rows in draws)


def test_with_weights_little_is_padding():
    lengths = skewed_lengths(2000)
    found = padding_share(lengths, epoch_batches(lengths, 16, 0, 0, weights=np.ones(2000)))
    assert found < 0.15


def test_seed_and_epoch_each_give_another_order():
    lengths = skewed_lengths(200)
    orders = {
        str(epoch_batches(lengths, 8, seed, epoch)) for seed in range(4) for epoch in range(4)
    }
    assert len(orders) == 16


def test_rows_that_drop_last_leaves_out_differ_from_epoch_to_epoch():
    lengths = skewed_lengths(39)

    def left_out(epoch):
        batches = epoch_batches(lengths, 8, 0, epoch, drop_last=True)
        return frozenset(range(39)) - {row for rows in batches for row in rows}

    assert len({left_out(epoch) for epoch in range(10)}) > 5


@pytest.mark.parametrize("seed", range(3))
def test_padding_is_a_fraction_of_what_unsorted_batches_have(seed):
    lengths = skewed_lengths(2000, seed)
    order = np.random.default_rng(seed).permutation(2000)
    unsorted = padding_share(lengths, [order[i : i + 16] for i in range(0, 2000, 16)])
    found = padding_share(lengths, epoch_batches(lengths, 16, seed, 0))
    assert unsorted > 0.4
    assert found < unsorted / 4


def test_labels_stay_mixed_though_the_rows_lie_in_order_of_their_labels():
    rows = 16 * BUCKET * 2
    labels = np.repeat([0, 1], rows // 2)
    batches = epoch_batches(skewed_lengths(rows), 16, 42, 0)
    shares = np.array([labels[batch].mean() for batch in batches])
    assert ((shares > 0) & (shares < 1)).all()
    assert shares.std() < 0.2  # 0.125 where every label is drawn by chance


def test_short_and_long_batches_alternate_at_random():
    lengths = skewed_lengths(16 * BUCKET)
    means = [lengths[rows].mean() for rows in epoch_batches(lengths, 16, 42, 0)]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.4


@given(lengths_of_texts, batch_sizes)
@settings(max_examples=50, deadline=None)
def test_evaluation_takes_every_row_once_longest_first_and_ties_in_order(lengths, size):
    rows = [row for batch in sorted_batches(lengths, size) for row in batch]
    assert rows == sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    assert [len(batch) for batch in sorted_batches(lengths, size)][:-1] == [size] * (
        (len(lengths) - 1) // size
    )


def tokens(*texts, pad_id=0):
    values = np.concatenate([np.array(text) for text in texts])
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
    labels = np.arange(len(texts), dtype=np.int64) % 2
    return Tokens(values, offsets, labels, pad_id, LengthReport(len(texts), len(values), 4))


def test_a_batch_of_tokens_is_padded_on_the_right_to_its_own_longest_text():
    split = tokens([5, 6, 7], [8], [9, 10], [11, 12, 13, 14], pad_id=3)
    batch = split.batch([2, 1])
    assert batch["input_ids"].tolist() == [[9, 10], [8, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch["labels"].tolist() == [0, 1]
    assert {value.dtype for value in batch.values()} == {torch.int64}
    assert split.lengths.tolist() == [3, 1, 2, 4]


def test_the_head_of_a_split_has_its_first_rows():
    split = tokens([5, 6, 7], [8], [9, 10]).head(2)
    assert len(split) == 2
    assert split.batch([0, 1])["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]


def test_a_batch_of_features_holds_the_rows_asked_for_in_that_order():
    split = Features(torch.arange(6.0).view(3, 2), np.array([0, 1, 1]))
    batch = split.batch([2, 0])
    assert batch["features"].tolist() == [[4, 5], [0, 1]]
    assert batch["labels"].tolist() == [1, 0]

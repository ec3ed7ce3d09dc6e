"""Texts longer than the encoder reads: in training, in the result and in prediction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bertkit
from bertkit.errors import DataError, SpecError
from bertkit.spec import RunSpec
from bertkit.text.long_text import LongText
from tests.conftest import WORDS

TOKENS = st.lists(st.integers(), max_size=40)
ROOM = st.integers(1, 30)


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ({"keep": "head"}, [1, 2, 3, 4]),
        ({"keep": "tail"}, [6, 7, 8, 9]),
        ({"keep": "head+tail"}, [1, 7, 8, 9]),
        ({"keep": "head+tail", "head": 2}, [1, 2, 8, 9]),
        ({"keep": "head+tail", "head": 3}, [1, 2, 3, 9]),
        ({"keep": "head+tail", "head": 4}, [1, 2, 3, 4]),
        ({"keep": "head+tail", "head": 7}, [1, 2, 3, 4]),
    ],
)
def test_of_nine_tokens_four_are_kept(policy, kept):
    assert LongText(**policy).kept(list(range(1, 10)), 4) == kept


def test_a_quarter_of_the_room_is_head_by_default():
    kept = LongText(keep="head+tail").kept(list(range(1000)), 510)
    assert kept == [*range(127), *range(1000 - 383, 1000)]


@settings(deadline=None)
@given(tokens=TOKENS, room=ROOM, first=st.none() | st.integers(1, 40))
def test_a_cut_text_fills_its_room_with_its_ends(tokens, room, first):
    tokens = list(enumerate(tokens))
    policies: list[dict[str, Any]] = [{"keep": "head"}, {"keep": "tail"}]
    policies.append({"keep": "head+tail", "head": first})
    heads = []
    for policy in policies:
        kept = list(LongText(**policy).kept(tokens, room))
        assert len(kept) == min(len(tokens), room)
        split = next((i for i, pair in enumerate(kept) if pair != tokens[i]), len(kept))
        assert kept[split:] == tokens[len(tokens) - (len(kept) - split) :]
        heads.append(split)
    if len(tokens) > room:
        assert heads[0] == room
        assert heads[1] == 0
        assert heads[2] == min(room, max(1, room // 4) if first is None else first)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"head": 3}, "`head` is for `keep: head+tail`, found keep: head"),
        ({"keep": "head+tail", "head": 8, "max_length": 8},
         "`head` (8) must be below max_length (8)"),
        ({"max_length": 3}, "long_text.max_length: found 3; expected 4 or more"),
        ({"keep": "middle"}, "long_text.keep: "),
        ({"keep": "windows", "stride": 0}, "long_text.stride: found 0; expected 1 or more"),
        ({"keep": "windows", "stride": 9, "max_length": 8},
         "`stride` (9) is more than max_length (8): the tokens between two windows would not be"),
        ({"keep": "windows", "max_windows": 0}, "long_text.max_windows: found 0; expected 1 or"),
        ({"keep": "windows", "pool": "sum"}, "long_text.pool: "),
        ({"stride": 4}, "`stride` is for `keep: windows`, found keep: head"),
        ({"keep": "tail", "pool": "mean"}, "`pool` is for `keep: windows`, found keep: tail"),
        ({"keep": "drop", "max_windows": 8}, "`max_windows` is for `keep: windows`, found keep: d"),
        ({"keep": "windows", "head": 3}, "`head` is for `keep: head+tail`, found keep: windows"),
        ({"keep": "windows", "cut": "first"},
         "`cut` is for `keep: head, tail, head+tail`, found keep: windows"),
        ({"keep": "error", "cut": "longest"}, "`cut` is for `keep: head, tail, head+tail`, f"),
        ({"cut": "shortest"}, "long_text.cut: "),
    ],
)  # fmt: skip
def test_policies_that_make_no_sense(policy, message):
    with pytest.raises(SpecError) as caught:
        RunSpec.parse({"encoder": "x", "dataset": "a.csv", "long_text": policy})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"keep": "drop"},
        {"keep": "head+tail", "head": 5, "cut": "second"},
        {"keep": "windows"},
        {"keep": "windows", "stride": 3, "pool": "attention", "max_windows": 2},
    ],
)
def test_a_policy_is_written_and_read_without_loss(policy):
    spec = RunSpec.parse({"encoder": "x", "dataset": "a.csv", "long_text": policy})
    assert spec.long_text == LongText(**policy)
    assert RunSpec.parse(spec.model_dump(mode="json")) == spec
    fitted = LongText(**policy).fitted(20)
    assert LongText(**fitted.model_dump()) == fitted
    assert fitted.fitted(20) == fitted


# windows


@settings(deadline=None)
@given(
    tokens=st.integers(0, 80), room=ROOM, overlap=st.none() | st.integers(0, 29),
    most=st.none() | st.integers(1, 12),
)  # fmt: skip
def test_windows_start_every_stride_and_end_with_the_first_that_reaches_the_end(
    tokens, room, overlap, most
):
    stride = None if overlap is None else max(1, room - overlap)
    policy = LongText(keep="windows", stride=stride, max_windows=most).fitted(room)
    stride = stride or max(1, room // 2)
    whole = list(range(tokens))
    windows = [list(window) for window in policy.windows(whole, room)]
    expected, start = [whole[:room]], 0
    while start + room < tokens and len(expected) < (most or 8):
        start += stride
        expected.append(whole[start : start + room])
    assert windows == expected
    read = dict.fromkeys(token for window in windows for token in window)  # in order, once each
    assert list(read) == whole[: start + room]
    assert all(windows) or not tokens


def test_by_default_windows_overlap_by_half_and_a_text_has_eight():
    policy = LongText(keep="windows").fitted(6)
    assert (policy.stride, policy.pool, policy.max_windows) == (3, "mean", 8)
    windows = policy.windows(list(range(100)), 6)
    assert [window[0] for window in windows] == [0, 3, 6, 9, 12, 15, 18, 21]


@pytest.mark.field("long_text.stride")
def test_a_stride_longer_than_the_room_of_a_window_is_refused():
    policy = LongText(keep="windows", stride=7, max_length=8)
    assert policy.fitted(7).stride == 7
    with pytest.raises(SpecError) as caught:
        policy.fitted(6)
    assert str(caught.value) == (
        "long_text.stride: 7 is more than the 6 tokens of text in a window, and those between two "
        "windows would not be read; write 6 or less"
    )


# pairs


def token_by_token(first: int, second: int, room: int) -> tuple[int, int]:
    """What transformers calls longest_first."""
    while first + second > room:
        first, second = (first - 1, second) if first >= second else (first, second - 1)
    return first, second


@given(first=st.integers(0, 40), second=st.integers(0, 40), room=st.integers(2, 50))
def test_the_longer_text_of_a_pair_loses_tokens_one_by_one(first, second, room):
    rooms = LongText().rooms(first, second, room)
    assert rooms == LongText(cut="longest").rooms(first, second, room)
    assert sum(rooms) == min(first + second, room)
    assert sorted(rooms) == sorted(token_by_token(first, second, room))
    assert (rooms[0] - rooms[1]) * (first - second) >= 0  # the longer one keeps more


@given(own=st.integers(0, 40), other=st.integers(0, 40), room=st.integers(2, 50))
def test_one_text_of_a_pair_is_cut_for_the_other(own, other, room):
    kept = own if own + other <= room else room - other
    assert LongText(cut="first").rooms(own, other, room) == (kept, other)
    assert LongText(cut="second").rooms(other, own, room) == (other, kept)


# in a run: 10 short texts, and 6 of 20 words, which are 22 tokens

SHORT = [f"the {WORDS[i]} room" for i in range(10)]
LONG = [" ".join(WORDS[(i + k) % len(WORDS)] for k in range(20)) for i in range(6)]


def run(
    encoder_dir: Path, output: Path, policy: dict[str, Any], head: str = "linear"
) -> bertkit.RunResult:
    train = [{"text": text, "label": i % 2} for i, text in enumerate(SHORT + LONG)]
    return bertkit.run(
        {
            "encoder": str(encoder_dir),
            "dataset": {"type": "inline", "train": train, "test": train, "validation": 0},
            "head": head,
            "long_text": policy,
            "trainer": {"max_steps": 1, "precision": "fp32"},
            "output": str(output),
        }
    )


def ids_of(text: str) -> list[int]:
    return [5 + WORDS.index(word) for word in text.split()]


KEPT: dict[str, Any] = {
    "head": lambda ids: ids[:8],
    "tail": lambda ids: ids[-8:],
    "head+tail": lambda ids: ids[:3] + ids[-5:],
}


@pytest.mark.field("long_text.max_length")
@pytest.mark.field("long_text.keep")
@pytest.mark.field("long_text.head")
@pytest.mark.parametrize("keep", KEPT)
def test_what_is_cut_is_counted_and_prediction_cuts_the_same(encoder_dir, tmp_path, keep):
    policy = {"max_length": 10, "keep": keep, **({"head": 3} if keep == "head+tail" else {})}
    result = run(encoder_dir, tmp_path / "run", policy)
    expected = {
        "texts": 16, "tokens": 10 * 5 + 6 * 10, "longest": 22, "cut_texts": 6, "cut_tokens": 6 * 12,
        "dropped_texts": 0, "windows": None,
    }  # fmt: skip
    assert result.data["lengths"] == {"train": expected, "test": expected}
    warning = (
        f"6 of 16 texts cut to 10 tokens ({keep} kept), 72 tokens left out; the longest has 22"
    )
    assert f"train: {warning}" in result.warnings
    assert f"test: {warning}" in result.warnings

    classifier = bertkit.load(result.model_dir)
    tokens = classifier.tokens([LONG[0], SHORT[0]])
    found = [ids.tolist() for ids in np.split(tokens.values, tokens.offsets[1:-1])]
    assert found == [[2, *KEPT[keep](ids_of(LONG[0])), 3], [2, *ids_of(SHORT[0]), 3]]
    words = [WORDS[i - 5] for i in KEPT[keep](ids_of(LONG[0]))]
    whole, ends = classifier.predict([LONG[0], " ".join(words)])
    assert whole.score == pytest.approx(ends.score, abs=1e-6)


@pytest.mark.field("long_text.keep")
def test_dropped_texts_are_in_no_split_and_prediction_refuses_them(encoder_dir, tmp_path):
    result = run(encoder_dir, tmp_path / "run", {"max_length": 10, "keep": "drop"})
    lengths = result.data["lengths"]["test"]
    assert (lengths["texts"], lengths["dropped_texts"], lengths["cut_texts"]) == (10, 6, 0)
    confusion = result.reports["test"]["confusion_matrix"]
    assert sum(map(sum, confusion)) == 10
    assert "train: 6 texts longer than 10 tokens dropped, 10 left" in result.warnings
    classifier = bertkit.load(result.model_dir)
    with pytest.raises(DataError) as caught:
        classifier.predict([SHORT[0], LONG[0]])
    assert str(caught.value).startswith(
        "text 2: 22 tokens, the model reads 10 and was saved with keep: drop; shorten the text"
    )
    kept = classifier.predict([SHORT[0], LONG[0]], keep="tail")
    assert len(kept) == 2


@pytest.mark.field("long_text.keep")
def test_a_text_too_long_may_be_an_error(encoder_dir, tmp_path):
    with pytest.raises(DataError) as caught:
        run(encoder_dir, tmp_path / "run", {"max_length": 10, "keep": "error"})
    assert str(caught.value) == (
        f"train: 6 of 16 texts are longer than 10 tokens, such as `{LONG[0][:40]}…` with 22; raise "
        "long_text.max_length, or choose what to keep with long_text.keep"
    )
    assert not (tmp_path / "run").exists()
    result = run(encoder_dir, tmp_path / "run", {"max_length": 22, "keep": "error"})
    assert result.data["lengths"]["train"]["cut_texts"] == 0
    with pytest.raises(DataError, match="was saved with keep: error"):
        bertkit.load(result.model_dir).predict(f"{LONG[0]} room")


def test_when_every_text_is_dropped_there_is_nothing_to_train_on(encoder_dir, tmp_path):
    with pytest.raises(DataError) as caught:
        run(encoder_dir, tmp_path / "run", {"max_length": 4, "keep": "drop"})
    assert str(caught.value).startswith("train: all 16 texts are longer than 4 tokens and dropped")


@pytest.mark.field("long_text.max_length")
def test_more_than_the_encoder_reads_is_refused_and_leaves_nothing(encoder_dir, tmp_path):
    with pytest.raises(SpecError) as caught:
        run(encoder_dir, tmp_path / "run", {"max_length": 65})
    assert str(caught.value) == (
        "long_text.max_length: 65, but the encoder reads 64 tokens at most; write 64 or less"
    )
    assert not (tmp_path / "run").exists()
    result = run(encoder_dir, tmp_path / "run", {})
    assert bertkit.load(result.model_dir).long_text.max_length == 64


# windows and pairs in a run


def windows_of(text: str, room: int, stride: int, most: int) -> list[str]:
    words = text.split()
    starts = [i for i in range(0, len(words), stride) if i == 0 or i + room - stride < len(words)]
    return [" ".join(words[i : i + room]) for i in starts[:most]]


@pytest.mark.field("long_text.keep")
@pytest.mark.field("long_text.stride")
@pytest.mark.field("long_text.max_windows")
@pytest.mark.parametrize(("stride", "most"), [(None, None), (8, None), (3, 2), (1, 99)])
@pytest.mark.parametrize("head", ["linear", "frozen-feature"])
def test_windows_are_counted_and_pooled_in_training_and_prediction(
    encoder_dir, tmp_path, head, stride, most
):
    policy = {"max_length": 10, "keep": "windows"}
    policy |= {} if stride is None else {"stride": stride}
    policy |= {} if most is None else {"max_windows": most}
    result = run(encoder_dir, tmp_path / "run", policy, head=head)
    stride, most = stride or 4, most or 8
    texts = [windows_of(text, 8, stride, most) for text in SHORT + LONG]
    read = 8 + stride * (len(texts[-1]) - 1)
    found = result.data["lengths"]["train"]
    assert found["windows"] == sum(map(len, texts))
    assert found["tokens"] == sum(len(one.split()) + 2 for parts in texts for one in parts)
    cut = max(0, 20 - read)
    assert (found["cut_texts"], found["cut_tokens"]) == (6 * (cut > 0), 6 * cut)
    warning = f"train: 6 of 16 texts have more than {most} windows (the first are kept), "
    warned = [one for one in result.warnings if one.startswith(warning)]
    assert warned == [f"{warning}{6 * cut} tokens left out; the longest has 22"] * (cut > 0)

    classifier = bertkit.load(result.model_dir)
    tokens = classifier.tokens([SHORT[0], LONG[0]])
    parts = [one for text in (SHORT[0], LONG[0]) for one in windows_of(text, 8, stride, most)]
    assert tokens.counts.tolist() == [1, len(parts) - 1]
    found = [ids.tolist() for ids in np.split(tokens.values, tokens.offsets[1:-1])]
    assert found == [[2, *ids_of(one), 3] for one in parts]
    plain = classifier.predict(parts)  # a text of one window is what the plain model reads
    assert classifier.predict(SHORT[0])[0].score == pytest.approx(plain[0].score, abs=1e-6)
    logits = classifier.logits_of(classifier.tokens(parts[1:])).mean(axis=0)
    assert classifier.logits_of(classifier.tokens([LONG[0]])) == pytest.approx(
        logits[None], abs=1e-5
    )


@pytest.mark.field("long_text.cut")
@pytest.mark.parametrize("cut", ["longest", "first", "second"])
def test_cut_says_which_text_of_a_pair_loses_tokens(encoder_dir, tmp_path, cut):
    words = WORDS[5:]
    pairs = [(words[i : i + 6], words[i : i + 9]) for i in range(8)]
    rows = [
        {"one": " ".join(one), "other": " ".join(other), "label": i % 2}
        for i, (one, other) in enumerate(pairs)
    ]
    file = tmp_path / "pairs.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    result = bertkit.run(
        {
            "encoder": str(encoder_dir),
            "dataset": {"train": str(file), "text": ["one", "other"], "test": 0, "validation": 0},
            "long_text": {"max_length": 13, "keep": "tail", "cut": cut},
            "trainer": {"max_steps": 1, "precision": "fp32"},
            "output": str(tmp_path / "run"),
        }
    )
    found = result.data["lengths"]["train"]
    assert (found["tokens"], found["cut_texts"], found["cut_tokens"]) == (8 * 13, 8, 8 * 5)
    which = {"longest": "the longer text"}.get(cut, f"the {cut} text")
    assert (
        f"train: 8 of 8 pairs cut to 13 tokens (tail of {which} kept), 40 tokens left out; "
        "the longest has 18"
    ) in result.warnings
    lengths = {"longest": (5, 5), "first": (1, 9), "second": (6, 4)}[cut]
    one, other = (part[-n:] for part, n in zip(pairs[0], lengths, strict=True))
    tokens = bertkit.load(result.model_dir).tokens([tuple(map(" ".join, pairs[0]))])
    ids = [2, *ids_of(" ".join(one)), 3, *ids_of(" ".join(other)), 3]
    assert tokens.values.tolist() == ids

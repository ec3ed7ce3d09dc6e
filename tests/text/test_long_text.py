"""Texts longer than the encoder reads: in training, in the result and in prediction."""

from __future__ import annotations

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
    ],
)  # fmt: skip
def test_policies_that_make_no_sense(policy, message):
    with pytest.raises(SpecError) as caught:
        RunSpec.parse({"encoder": "x", "dataset": "a.csv", "long_text": policy})
    assert message in str(caught.value)


# in a run: 10 short texts, and 6 of 20 words, which are 22 tokens

SHORT = [f"the {WORDS[i]} room" for i in range(10)]
LONG = [" ".join(WORDS[(i + k) % len(WORDS)] for k in range(20)) for i in range(6)]


def run(encoder_dir: Path, output: Path, policy: dict[str, Any]) -> bertkit.RunResult:
    train = [{"text": text, "label": i % 2} for i, text in enumerate(SHORT + LONG)]
    return bertkit.run(
        {
            "encoder": str(encoder_dir),
            "dataset": {"type": "inline", "train": train, "test": train, "validation": 0},
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

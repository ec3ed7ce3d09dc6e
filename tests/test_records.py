"""The records that pass from stage to stage, and result.json."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertkit.errors import ArtifactError
from bertkit.records import Context, RunResult, Splits, to_json
from bertkit.tasks import MultiLabel, Regression, SingleLabel

TASK = SingleLabel(("bad", "good", "so-so"))


def test_loss_is_the_cross_entropy_summed_in_float32():
    import torch
    from torch.nn.functional import cross_entropy

    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]], dtype=torch.bfloat16)
    labels = torch.tensor([0, 2])
    loss = TASK.loss(logits, labels)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(2 * cross_entropy(logits.float(), labels).item())


def test_scores_are_probabilities_also_of_huge_logits():
    import numpy as np

    logits = np.array([[1000.0, 0.0, -1000.0], [0.1, 0.2, 0.3]], dtype=np.float32)
    scores = TASK.scores(logits)
    assert scores.dtype == np.float64
    assert scores.sum(axis=1) == pytest.approx([1, 1])
    assert scores[0].tolist() == pytest.approx([1, 0, 0])
    assert TASK.decide(scores).tolist() == [0, 2]


def test_splits_come_in_order_and_count_every_label():
    from datasets import Dataset

    train = Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 0, 2]})
    test = Dataset.from_dict({"text": ["d"], "label": [1]})
    splits = Splits(TASK, train, None, test, {})
    assert [name for name, _ in splits.items()] == ["train", "test"]
    assert splits.summary() == {
        "train": {"bad": 2, "good": 0, "so-so": 1},
        "test": {"bad": 0, "good": 1, "so-so": 0},
    }


def test_splits_count_labels_of_lists_and_describe_numbers_in_the_users_units():
    from datasets import Dataset

    train = Dataset.from_dict({"text": ["a", "b", "c"], "label": [[0, 2], [], [2]]})
    splits = Splits(MultiLabel(("bad", "good", "late")), train, None, None, {})
    assert splits.summary() == {"train": {"bad": 1, "good": 0, "late": 2, "(no label)": 1}}

    numbers = Dataset.from_dict({"text": ["a", "b"], "label": [[10.0], [30.0]]})
    splits = Splits(Regression(("price",), (20.0,), (5.0,)), numbers, None, numbers, {})
    described = {"mean": 20.0, "deviation": 10.0, "min": 10.0, "max": 30.0}
    assert splits.summary() == {name: {"price": described} for name in ("train", "test")}


def test_a_context_changes_by_copy():
    before = Context(seed=1)
    assert (before.with_(seed=2).seed, before.seed) == (2, 1)


numbers = st.none() | st.floats() | st.integers(-(2**60), 2**60)
names = st.text(min_size=1, max_size=8)
tables = st.dictionaries(names, numbers, max_size=3)
results = st.builds(
    RunResult,
    metrics=st.dictionaries(names, tables, max_size=3),
    run_dir=names,
    model_dir=names,
    history=st.lists(tables, max_size=3).map(tuple),
    timings=st.dictionaries(names, st.floats(0, 1e6), max_size=3),
    warnings=st.lists(st.text(max_size=8), max_size=3).map(tuple),
    reports=st.dictionaries(names, st.lists(numbers, max_size=3), max_size=2),
    data=tables,
)


def without_infinities(value):
    if isinstance(value, dict):
        return {key: without_infinities(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_infinities(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@given(results)
def test_a_result_survives_the_way_through_its_file(tmp_path_factory, result):
    folder = tmp_path_factory.mktemp("run")
    text = result.to_json()
    (folder / "result.json").write_text(text, encoding="utf-8")
    again = RunResult.read(folder)
    assert json.loads(text) == without_infinities(vars(result))
    assert vars(again).keys() == vars(result).keys()
    assert without_infinities(vars(again)) == without_infinities(vars(result))
    assert (type(again.history), type(again.warnings)) == (tuple, tuple)
    assert again.to_json() == text


def test_result_files_are_strict_json():
    text = to_json({"a": [math.nan, -math.inf], "b": ("很好", 1.5)})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": [None, None], "b": ["很好", 1.5]}
    assert "很好" in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no result.json, so no finished run; give the folder that `bertkit run` wrote"),
        (b"{", "not a result of bertkit"),
        (b"[1]", "not a result of bertkit"),
        (b'{"accuracy": 1}', "not a result of bertkit"),
        (b"\xff\xfe", "not a result of bertkit"),
        (b'{"metrics": {}}', "not a result of bertkit"),
    ],
)
def test_what_is_no_result_is_refused_by_name(tmp_path, content, said):
    if content is not None:
        (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        RunResult.read(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert said in str(caught.value)

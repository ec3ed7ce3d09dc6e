"""A checkpoint is there whole or not at all, and only whole ones are resumed."""

from __future__ import annotations

import json
import random
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bertkit.checkpoints import (
    MANIFEST,
    CheckpointStore,
    random_state,
    restore_random_state,
    write_durably,
)
from bertkit.errors import CheckpointError

FACTS = {"data.train": "ab12", "torch": "2.13.0"}
FILES = [MANIFEST, "optimizer.safetensors", "state.json", "weights.safetensors"]


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints", FACTS, keep=2)


def save(store, step, *, best=None, size=4):
    """Write a checkpoint whose weights say which step it is."""
    model = nn.Linear(size, 1)
    nn.init.constant_(model.weight, step)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, size)).backward()
    optimizer.step()
    nn.init.constant_(model.weight, step)
    state = {"history": [{"step": step}], "random": random_state()}
    return store.save(step, model.state_dict(), optimizer.state_dict(), state, best)


def names(store):
    return sorted(path.name for path in store.folder.iterdir())


def test_what_is_saved_comes_back(store):
    folder = save(store, 120)
    assert folder.name == "step-000120"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    loaded = store.load(120)
    assert loaded.step == 120
    assert loaded.weights["weight"].tolist() == [[120] * 4]
    assert loaded.state["history"] == [{"step": 120}]
    assert store.weights(120)["weight"].tolist() == [[120] * 4]


def test_there_is_nothing_to_resume_before_the_first_save(store):
    assert store.newest() == (None, [])
    assert not store.folder.exists()


def test_nothing_in_a_checkpoint_is_a_pickle(store):
    for path in save(store, 1).iterdir():
        if path.suffix == ".safetensors":
            header = path.read_bytes()[8:]
            assert json.JSONDecoder().raw_decode(header[: header.index(b"}}") + 2].decode())
        else:
            json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("best_steps", "left"),
    [
        pytest.param([None] * 5, [40, 50], id="without a best one, the newest two"),
        pytest.param([10, 20, 20, 20, 20], [20, 40, 50], id="the best one stays beside them"),
        pytest.param([10, 20, 30, 40, 50], [40, 50], id="a former best one goes"),
        pytest.param([10, 10, 10, 10, 50], [40, 50], id="when another one is better"),
    ],
)
def test_rotation_keeps_the_newest_and_the_best(store, best_steps, left):
    for step, best in zip(range(10, 60, 10), best_steps, strict=True):
        save(store, step, best=best)
    assert store.steps() == left


def damage_truncate(folder):
    file = folder / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def damage_bit(folder):
    file = folder / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def damage_state(folder):
    (folder / "state.json").unlink()


def damage_manifest(folder):
    (folder / MANIFEST).unlink()


def damage_half_manifest(folder):
    file = folder / MANIFEST
    file.write_text(file.read_text(encoding="utf-8")[:50], encoding="utf-8")


def damage_emptied(folder):
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGES = {
    damage_truncate: "weights.safetensors is not what was written",
    damage_bit: "optimizer.safetensors is not what was written",
    damage_state: "state.json is missing",
    damage_manifest: "MANIFEST.json is missing",
    damage_half_manifest: "MANIFEST.json cannot be read",
    damage_emptied: "MANIFEST.json is missing",
}


@pytest.mark.parametrize(
    ("damage", "reason"), DAMAGES.items(), ids=lambda x: getattr(x, "__name__", "")
)
def test_a_damaged_checkpoint_is_passed_over_with_the_reason(store, damage, reason):
    save(store, 10)
    damage(save(store, 20))
    step, passed_over = store.newest()
    assert step == 10
    (found,) = passed_over
    assert found.startswith(f"step 20: {reason}")
    with pytest.raises(CheckpointError, match=reason):
        store.load(20)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    store = CheckpointStore(tmp_path_factory.mktemp("flip"), FACTS)
    return store, save(store, 10)


@given(position=st.integers(min_value=0), bit=st.integers(0, 7), name=st.sampled_from(FILES))
@settings(max_examples=150, deadline=None)
def test_no_flipped_bit_gets_into_a_run(saved, position, bit, name):
    store, folder = saved
    whole = (folder / name).read_bytes()
    content = bytearray(whole)
    content[position % len(content)] ^= 1 << bit
    (folder / name).write_bytes(content)
    try:
        step, refused = store.newest()
    except CheckpointError as error:  # a fact in the manifest reads differently now
        step, refused = None, [str(error)]
    weights = None if step is None else store.load(step).weights["weight"].tolist()
    (folder / name).write_bytes(whole)
    if name == MANIFEST and weights:  # it still describes the other files as they are
        assert weights == [[10] * 4]
    else:
        assert step is None
        assert len(refused) == 1


def test_a_save_after_a_damaged_one_was_passed_over_stays_and_the_damaged_one_goes(tmp_path):
    store = CheckpointStore(tmp_path, FACTS, keep=1)
    save(store, 10, best=10)
    damage_bit(save(store, 30, best=10))
    assert store.newest()[0] == 10
    save(store, 20, best=10)
    assert store.steps() == [10, 20]
    assert store.newest() == (20, [])


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(store):
    damage_bit(save(store, 10))
    save(store, 10)
    assert store.newest() == (10, [])


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({**FACTS, "torch": "2.14.0"}, "torch: then '2.13.0', now '2.14.0'"),
        ({**FACTS, "data.test": "cd"}, "data.test: then None, now 'cd'"),
        (
            {"data.train": "00", "torch": "1"},
            "data.train: then 'ab12', now '00'; torch: then '2.13.0', now '1'",
        ),
    ],
)
def test_changed_facts_are_refused_with_what_has_changed(store, facts, told):
    save(store, 10)
    with pytest.raises(CheckpointError) as caught:
        CheckpointStore(store.folder, facts).newest()
    assert told in str(caught.value)
    assert "Undo the change" in str(caught.value)


def test_a_store_without_facts_reads_any_checkpoint(store):
    save(store, 10)
    assert CheckpointStore(store.folder, {}).newest() == (10, [])


def test_a_step_that_was_not_saved_is_refused_with_those_that_were(store):
    save(store, 10)
    save(store, 20)
    with pytest.raises(
        CheckpointError, match="no checkpoint of step 15; the steps kept are: 10, 20"
    ):
        store.weights(15)


@contextmanager
def largest_file(size):
    """Let no file grow beyond so many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("size", "limit"),
    [
        pytest.param(100_000, 50_000, id="while the weights are written"),
        pytest.param(4, 300, id="while the optimizer is written"),
        pytest.param(4, 600, id="while the state is written"),
    ],
)
def test_a_full_disk_leaves_earlier_checkpoints_and_nothing_half_written(store, size, limit):
    save(store, 10)
    with largest_file(limit), pytest.raises(CheckpointError) as caught:
        save(store, 20, size=size)
    assert "step-000020: the checkpoint cannot be written (" in str(caught.value)
    assert "File too large" in str(caught.value)
    assert names(store) == ["step-000010"]
    assert store.newest() == (10, [])


@pytest.mark.parametrize("call", ["rename", "mkdir"])
def test_an_error_of_the_file_system_leaves_earlier_checkpoints(store, monkeypatch, call):
    save(store, 10)

    def fail(self, *args, **kwargs):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, call, fail)
        with pytest.raises(CheckpointError, match="Input/output error"):
            save(store, 20)
    assert names(store) == ["step-000010"]
    assert store.newest() == (10, [])


def test_what_a_killed_process_left_half_written_goes_with_the_next_save(store):
    unfinished = store.folder / ".step-000010.99999"
    unfinished.mkdir(parents=True)
    (unfinished / "weights.safetensors").write_bytes(b"half")
    assert store.newest() == (None, [])
    save(store, 10)
    assert names(store) == ["step-000010"]


def test_random_states_come_back():
    def draw():
        return [random.random(), random.gauss(0, 1), float(np.random.normal()), *torch.rand(3)]

    draw()
    state = json.loads(json.dumps(random_state()))
    first = draw()
    assert draw() != first
    restore_random_state(state)
    assert draw() == first


OPTIMIZERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, fused=True),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1, betas=(0.8, 0.9)),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimizer_goes_on_as_if_it_had_never_been_saved(store, kind):
    def train(model, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            model(torch.full((2, 3), float(step))).pow(2).mean().backward()
            optimizer.step()

    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    unused = nn.Parameter(torch.ones(2))  # never has a gradient, so the optimizer has no state
    optimizer = OPTIMIZERS[kind]([{"params": [*model.parameters(), unused], "weight_decay": 0.1}])
    train(model, optimizer, range(3))
    store.save(3, model.state_dict(), optimizer.state_dict(), {}, None)
    train(model, optimizer, range(3, 6))

    loaded = store.load(3)
    again = nn.Linear(3, 2)
    again.load_state_dict(loaded.weights)
    other = OPTIMIZERS[kind]([{"params": [*again.parameters(), unused], "weight_decay": 0.0}])
    other.load_state_dict(loaded.optimizer)
    assert other.param_groups[0]["weight_decay"] == 0.1
    train(again, other, range(3, 6))
    assert all(map(torch.equal, model.parameters(), again.parameters()))


def test_an_optimizer_s_plain_values_and_settings_come_back_beside_its_tensors(store):
    state = {
        "state": {0: {"step": 3, "scale": 0.1, "buffer": torch.ones(2)}, 2: {"step": 1}},
        "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "foreach": None, "params": [0, 1, 2]}],
    }
    store.save(1, {"weight": torch.ones(1)}, state, {}, None)
    found = store.load(1).optimizer
    assert torch.equal(found["state"][0].pop("buffer"), state["state"][0].pop("buffer"))
    assert found == state


def test_a_file_is_replaced_whole(tmp_path):
    file = tmp_path / "result.json"
    write_durably(file, "old")
    write_durably(file, "neu: ü\n")
    assert file.read_text(encoding="utf-8") == "neu: ü\n"
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]

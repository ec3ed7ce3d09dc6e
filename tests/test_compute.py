"""The machine: device, threads, cache, precision, network, and what other libraries say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import huggingface_hub.constants
import pytest
import torch
import transformers
from huggingface_hub import utils as hub

import bertkit
from bertkit import compute
from bertkit.compute import (
    Compute,
    memory_errors,
    network,
    quiet_libraries,
    resolve_device,
    resolve_precision,
)
from bertkit.errors import SpecError, TrainError
from bertkit.spec import RunSpec

# device


@pytest.fixture
def machine(monkeypatch):
    """Return a function that makes this machine look like another: no such one is at hand."""

    def make(gpus: int, mps: bool, bf16: bool = True) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return make


@pytest.mark.field("compute.device")
@pytest.mark.parametrize(
    ("gpus", "mps", "asked", "found"),
    [
        (0, False, "auto", "cpu"), (0, False, "cpu", "cpu"), (2, False, "auto", "cuda"),
        (2, False, "cpu", "cpu"), (2, False, "cuda", "cuda"), (0, True, "auto", "mps"),
        (0, True, "mps", "mps"), (1, True, "auto", "cuda"),
    ],
)  # fmt: skip
def test_a_device_is_taken_where_it_is_there(machine, gpus, mps, asked, found):
    machine(gpus, mps)
    assert resolve_device(asked) == found


@pytest.mark.field("compute.device")
@pytest.mark.parametrize(
    ("gpus", "mps", "asked", "there"),
    [
        (0, False, "cuda", "0 CUDA devices"), (0, True, "cuda", "0 CUDA devices and mps"),
        (1, False, "mps", "1 CUDA devices"),
    ],
)  # fmt: skip
def test_a_device_that_is_not_there_is_refused(machine, gpus, mps, asked, there):
    machine(gpus, mps)
    with pytest.raises(SpecError) as caught:
        resolve_device(asked)
    assert str(caught.value) == (
        f"compute.device: `{asked}` is not on this machine, which has {there}; "
        "write `auto` or `cpu`"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_run_on_a_missing_device_leaves_nothing(encoder_dir, reviews_csv, tmp_path):
    spec = {
        "encoder": str(encoder_dir), "dataset": str(reviews_csv), "compute": {"device": "cuda"},
        "output": str(tmp_path / "run"),
    }  # fmt: skip
    with pytest.raises(SpecError, match=r"^compute.device: `cuda` is not on this machine"):
        bertkit.run(spec)
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_no_device_is_refused_by_the_spec():
    for name in ("gpu", "cuda:0", "tpu", "CPU"):
        with pytest.raises(SpecError, match=r"compute\.device"):
            RunSpec.parse({"encoder": "x", "dataset": "a.csv", "compute": {"device": name}})


# threads and cache, in a run


@pytest.mark.field("compute.threads")
@pytest.mark.field("compute.device")
@pytest.mark.field("compute.cache")
def test_threads_device_and_cache_of_a_run(encoder_dir, reviews_csv, tmp_path):
    before = torch.get_num_threads()
    result = bertkit.run(
        {
            "encoder": str(encoder_dir),
            "dataset": {"train": str(reviews_csv)},
            "head": "frozen-feature",
            "trainer": {"max_steps": 1, "precision": "fp32"},
            "compute": {"threads": before + 1, "device": "cpu", "cache": str(tmp_path / "cache")},
            "output": str(tmp_path / "run"),
        }
    )
    assert result.training["device"] == f"cpu ({before + 1} threads)"
    assert torch.get_num_threads() == before
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["features", "tokens"]
    assert not list(Path(os.environ["BERTKIT_CACHE"]).iterdir())


@pytest.mark.field("compute.cache")
def test_the_cache_is_that_of_the_spec_then_of_the_environment_then_of_the_user(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("BERTKIT_CACHE", str(tmp_path / "environment"))
    assert Compute(cache=str(tmp_path / "spec")).cache_dir() == tmp_path / "spec"
    assert Compute().cache_dir() == tmp_path / "environment"
    monkeypatch.delenv("BERTKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    if sys.platform == "linux":
        assert Compute().cache_dir() == tmp_path / "user" / "bertkit"
    assert Compute().cache_dir().name == "bertkit"


# precision


@pytest.mark.parametrize(
    ("gpus", "bf16", "device", "wanted", "found"),
    [
        (0, True, "cpu", "fp32", ("fp32", "as the spec says")),
        (0, True, "cpu", "bf16", ("bf16", "as the spec says")),
        (1, True, "cuda", "auto", ("bf16", "the GPU has it")),
        (1, False, "cuda", "auto", ("fp32", "the GPU has no bf16")),
        (1, False, "cuda", "fp16", ("fp16", "as the spec says")),
        (0, False, "mps", "auto", ("fp32", "nothing else is safe on mps")),
    ],
)
def test_precision_and_its_reason(machine, tmp_path, gpus, bf16, device, wanted, found):
    machine(gpus, device == "mps", bf16)
    assert resolve_precision(wanted, device, tmp_path) == found


def test_fp16_needs_a_gpu(tmp_path):
    with pytest.raises(SpecError) as caught:
        resolve_precision("fp16", "cpu", tmp_path)
    assert str(caught.value) == (
        "trainer.precision: fp16 needs a CUDA device, found cpu; write `auto`, `bf16` or `fp32`"
    )


def test_on_a_cpu_auto_measures_once_and_keeps_the_answer(tmp_path, monkeypatch):
    first = resolve_precision("auto", "cpu", tmp_path)
    (speedup,) = json.loads((tmp_path / "bf16.json").read_text()).values()
    words = f"a bf16 matrix product is {speedup:.1f} times as fast as fp32 here"
    assert first == ("bf16" if speedup > 1.3 else "fp32", words)
    monkeypatch.setattr(torch, "mm", pytest.fail)
    assert resolve_precision("auto", "cpu", tmp_path) == first


@pytest.mark.parametrize(("speedup", "precision"), [(0.5, "fp32"), (1.3, "fp32"), (3.1, "bf16")])
def test_auto_takes_bf16_where_it_pays(tmp_path, monkeypatch, speedup, precision):
    resolve_precision("auto", "cpu", tmp_path)
    file = tmp_path / "bf16.json"
    file.write_text(json.dumps(dict.fromkeys(json.loads(file.read_text()), speedup)))
    words = f"a bf16 matrix product is {speedup:.1f} times as fast as fp32 here"
    assert resolve_precision("auto", "cpu", tmp_path) == (precision, words)


def test_the_answers_of_other_machines_and_thread_counts_are_kept(tmp_path):
    file = tmp_path / "bf16.json"
    file.write_text(json.dumps({"another machine": 2.0}))
    resolve_precision("auto", "cpu", tmp_path)
    known = json.loads(file.read_text())
    assert known["another machine"] == 2.0
    assert len(known) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["bf16.json"]


@pytest.mark.parametrize("content", ["", "[]", "[1]", "null", "{", "\udcff"])
def test_a_damaged_answer_is_measured_again(tmp_path, content):
    file = tmp_path / "bf16.json"
    file.write_text(content, errors="surrogateescape")
    resolve_precision("auto", "cpu", tmp_path)
    assert len(json.loads(file.read_text())) == 1


def test_an_answer_that_cannot_be_kept_is_an_answer(tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert resolve_precision("auto", "cpu", tmp_path / "file")[0] in ("fp32", "bf16")


# network


def network_state() -> dict[str, Any]:
    return {
        "environment": {name: os.environ.get(name) for name in compute.OFFLINE_VARIABLES},
        "flags": (huggingface_hub.is_offline_mode(), datasets.config.HF_HUB_OFFLINE),
    }


OFFLINE = {"environment": compute.OFFLINE_VARIABLES, "flags": (True, True)}


@pytest.mark.field("offline")
@pytest.mark.parametrize("before", [None, "0", "1"])
def test_offline_holds_inside_the_block_and_is_undone_after(monkeypatch, before):
    for name in compute.OFFLINE_VARIABLES:
        if before is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, before)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", before == "1")
    state = network_state()
    with network(False):
        assert network_state() == state
    with network(True):
        assert network_state() == OFFLINE
        with network(True):
            assert network_state() == OFFLINE
        assert network_state() == OFFLINE
    assert network_state() == state
    with pytest.raises(KeyError), network(True):
        raise KeyError
    assert network_state() == state


def test_a_library_first_imported_inside_is_online_after_it_too():
    """They read the variables when they are imported, and never again."""
    code = """
import sys
from bertkit.compute import network
assert not {"datasets", "evaluate", "huggingface_hub"} & set(sys.modules)
with network(True):
    import datasets, evaluate, huggingface_hub
    assert huggingface_hub.is_offline_mode()
print(huggingface_hub.is_offline_mode(), datasets.config.HF_HUB_OFFLINE,
      evaluate.config.HF_EVALUATE_OFFLINE)
"""
    kept = {k: v for k, v in os.environ.items() if k not in compute.OFFLINE_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False"] * 3


# what other libraries say


def voices() -> dict[str, Any]:
    log = transformers.utils.logging
    return {
        "levels": (
            log.get_verbosity(), datasets.logging.get_verbosity(), hub.logging.get_verbosity(),
        ),
        "bars": (
            log.is_progress_bar_enabled(), not datasets.are_progress_bars_disabled(),
            not hub.are_progress_bars_disabled(),
        ),
        "counts": datasets.config.HF_UPDATE_DOWNLOAD_COUNTS,
    }  # fmt: skip


@pytest.fixture
def talkative(monkeypatch):
    """Return a function that sets levels and bars; all is as before after the test."""
    before = voices()
    log = transformers.utils.logging
    # tests run with the variable that switches them off for good
    module = sys.modules["huggingface_hub.utils.tqdm"]
    monkeypatch.setattr(module, "HF_HUB_DISABLE_PROGRESS_BARS", None)

    def choose(level: int, bars: tuple[bool, bool, bool], counts: bool) -> None:
        for one in (log, datasets.logging, hub.logging):
            one.set_verbosity(level)
        (log.enable_progress_bar if bars[0] else log.disable_progress_bar)()
        (datasets.enable_progress_bars if bars[1] else datasets.disable_progress_bars)()
        (hub.enable_progress_bars if bars[2] else hub.disable_progress_bars)()
        monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", counts)

    yield choose
    choose(30, before["bars"], before["counts"])
    for one, level in zip((log, datasets.logging, hub.logging), before["levels"], strict=True):
        one.set_verbosity(level)


@pytest.mark.parametrize("level", [10, 40])
@pytest.mark.parametrize(
    "bars", [(True, True, True), (False, False, False), (True, True, False), (False, True, True)]
)
def test_libraries_are_silent_inside_the_block_and_as_before_after(talkative, level, bars):
    talkative(level, bars, counts=True)
    before = voices()
    assert (before["levels"], before["bars"]) == ((level,) * 3, bars)
    silent = {"levels": (40,) * 3, "bars": (False,) * 3, "counts": False}
    with quiet_libraries():
        assert voices() == silent
        with quiet_libraries():
            assert voices() == silent
        assert voices() == silent
    assert voices() == before
    with pytest.raises(KeyError), quiet_libraries():
        raise KeyError
    assert voices() == before


def test_running_out_of_memory_is_answered_with_what_to_do():
    with (
        pytest.raises(TrainError, match=r"trainer\.batch_size 32; halve it and double") as caught,
        memory_errors(32),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert caught.value.__cause__ is not None

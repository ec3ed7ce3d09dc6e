"""The machine: device, threads, precision, memory, network."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from bertkit.component import Options, SpecPath
from bertkit.errors import BertkitError, SpecError, TrainError

OFFLINE_VARIABLES = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "DISABLE_SAFETENSORS_CONVERSION": "1",
}


class Compute(Options):
    """Which device, and how much of it."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto",
        description="`auto` takes a GPU where there is one. Which GPU `cuda` is, the environment "
        "says (CUDA_VISIBLE_DEVICES).",
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads of torch; as many as there are cores by default."
    )
    workers: int = Field(
        1,
        ge=1,
        description="Processes that tokenize. One is enough for most data: a fast tokenizer uses "
        "all cores by itself.",
    )
    cache: SpecPath | None = Field(
        None,
        description="Folder that keeps tokenized texts and features; the user's cache folder, or "
        "BERTKIT_CACHE, by default.",
    )

    def cache_dir(self) -> Path:
        """Return the folder for tokenized texts and features."""
        import platformdirs

        named = self.cache or os.environ.get("BERTKIT_CACHE")
        return Path(named) if named else Path(platformdirs.user_cache_dir("bertkit"))


def resolve_device(name: str) -> str:
    """Return the torch device that `compute.device` asks for.

    Raises:
        SpecError: this machine has no such device.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        return "cuda" if gpus else "mps" if has_mps else "cpu"
    if (name == "cuda" and not gpus) or (name == "mps" and not has_mps):
        raise SpecError(
            f"compute.device: `{name}` is not on this machine, which has "
            f"{gpus} CUDA devices{' and mps' if has_mps else ''}; write `auto` or `cpu`"
        )
    return name


def describe_device(device: str) -> str:
    """Return the device in words: `cpu (2 threads)`, `cuda (NVIDIA A100)`."""
    import torch

    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)" if device == "cpu" else device


def resolve_precision(wanted: str, device: str, cache_dir: Path) -> tuple[str, str]:
    """Return the precision of the forward pass and the reason for it.

    Raises:
        SpecError: the device cannot compute in the precision asked for.
    """
    import torch

    if wanted == "fp16" and not device.startswith("cuda"):
        raise SpecError(
            f"trainer.precision: fp16 needs a CUDA device, found {device}; "
            "write `auto`, `bf16` or `fp32`"
        )
    if wanted != "auto":
        return wanted, "as the spec says"
    if device.startswith("cuda"):
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "the GPU has it") if fast else ("fp32", "the GPU has no bf16")
    if device != "cpu":
        return "fp32", f"nothing else is safe on {device}"
    speedup = _bf16_speedup(cache_dir)
    words = f"a bf16 matrix product is {speedup:.1f} times as fast as fp32 here"
    return ("bf16" if speedup > 1.3 else "fp32"), words


def _bf16_speedup(cache_dir: Path) -> float:
    """Measure once, and keep the answer: a run and its resume must not differ by a noisy timing."""
    import torch

    machine = f"{platform.machine()} {_cpu_name()} {torch.__version__} {torch.get_num_threads()}"
    file = cache_dir / "bf16.json"
    known: dict[str, float] = {}
    with contextlib.suppress(OSError, ValueError, TypeError):
        known = dict(json.loads(file.read_text(encoding="utf-8")))
    if isinstance(known.get(machine), float):
        return known[machine]

    def seconds(dtype: torch.dtype) -> float:
        a, b = torch.ones(1024, 768, dtype=dtype), torch.ones(768, 768, dtype=dtype)
        times = []
        for _ in range(8):
            start = time.perf_counter()
            torch.mm(a, b)
            times.append(time.perf_counter() - start)
        return min(times)

    speedup = round(seconds(torch.float32) / seconds(torch.bfloat16), 2)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps({**known, machine: speedup}), encoding="utf-8")
        temporary.replace(file)
    return speedup


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "flags")):
                return str(hash_text(line))
    return platform.processor()


def hash_text(text: str) -> str:
    """Return the first 16 hex digits of the sha256 of a text."""
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:16]


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def hub_snapshot(
    name: str,
    revision: str | None,
    patterns: Sequence[str],
    *,
    kind: Literal["encoder", "dataset"],
    offline: bool,
    error: type[BertkitError],
) -> Path:
    """Return the folder of a hub repository's files in the cache; its name is the commit.

    Args:
        name: of the repository.
        revision: branch, tag or commit; main where None.
        patterns: of the files wanted.
        kind: for messages, and where to look.
        offline: take what the cache has.
        error: what to raise.

    Raises:
        BertkitError: of the kind `error`; it is not there, or cannot be reached.
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    place = f"{kind}.name: {name}"
    try:
        folder = snapshot_download(
            name,
            repo_type="model" if kind == "encoder" else kind,
            revision=revision,
            allow_patterns=[*patterns],
            local_files_only=offline,
        )
    except hub.HFValidationError as problem:
        raise error(f"{place} is neither a folder nor a name on the hub ({problem})") from None
    except hub.RevisionNotFoundError:
        raise error(f"{kind}.revision: {name} has no revision {revision}") from None
    except hub.GatedRepoError:
        raise error(
            f"{place}: its owner lets in only those who asked; ask on its page on the hub, then "
            "log in: `hf auth login`"
        ) from None
    except hub.RepositoryNotFoundError:
        raise error(
            f"{place}: no such {kind} on the hub, and no such folder here; check the name "
            "(what is private needs a token: `hf auth login`)"
        ) from None
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled):
        why = "the run is offline" if offline else "the hub cannot be reached"
        wanted = f"its revision {revision}" if revision else "it"
        raise error(
            f"{place}: {why}, and {wanted} is not in the cache; run once with the network, or "
            "give a folder"
        ) from None
    except (hub.HfHubHTTPError, OSError) as problem:
        reason = str(problem).strip().partition("\n")[0]
        raise error(f"{place} cannot be downloaded ({reason})") from None
    return Path(folder)


@contextlib.contextmanager
def memory_errors(batch_size: int) -> Iterator[None]:
    """Say what to do where the device runs out of memory.

    Raises:
        TrainError: it did.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainError(
            f"the device ran out of memory with trainer.batch_size {batch_size}; halve it and "
            "double trainer.accumulation, which trains the same, or lower long_text.max_length"
        ) from error


@contextlib.contextmanager
def network(offline: bool) -> Iterator[None]:
    """Keep every library off the network inside the block, where `offline` is true."""
    if not offline:
        yield
        return
    # imported first: they read the variables once and would stay offline for good
    import datasets
    import evaluate  # noqa: F401
    import huggingface_hub.constants as hub

    before = {name: os.environ.get(name) for name in OFFLINE_VARIABLES}
    os.environ.update(OFFLINE_VARIABLES)
    flags = (hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)
    hub.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = flags
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence bars, advice and usage counts of the libraries: bertkit says what matters itself."""
    import datasets
    import transformers
    from huggingface_hub.utils import logging as hub_log
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled as hub_is_silent
    from huggingface_hub.utils.tqdm import disable_progress_bars as hub_disable
    from huggingface_hub.utils.tqdm import enable_progress_bars as hub_enable

    log = transformers.utils.logging
    hub_level, hub_silent = hub_log.get_verbosity(), hub_is_silent()
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    datasets_bars = datasets.are_progress_bars_disabled()
    datasets_level = datasets.logging.get_verbosity()
    counts = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # it would call a host of its own
    log.set_verbosity_error()
    log.disable_progress_bar()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    hub_log.set_verbosity_error()
    try:
        yield
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counts
        log.set_verbosity(level)
        datasets.logging.set_verbosity(datasets_level)
        hub_log.set_verbosity(hub_level)
        if bars:
            log.enable_progress_bar()
        (hub_disable if hub_silent else hub_enable)()  # transformers turns these, too
        if not datasets_bars:
            datasets.enable_progress_bars()

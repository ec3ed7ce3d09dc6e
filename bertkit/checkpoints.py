"""The only code that writes training state.

A checkpoint is a folder `step-000120` of safetensors and JSON. It is written beside its final
place, synced, described by a manifest with the sha256 of every file, synced, renamed, and only
then are old ones removed: whenever the machine dies, the newest folder whose manifest verifies is
whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertkit.errors import CheckpointError

if TYPE_CHECKING:
    import torch

MANIFEST = "MANIFEST.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, loaded."""

    step: int
    weights: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]
    state: Mapping[str, Any]
    """Everything else: schedule, random states, history, best so far, stopping counter."""


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Make the content of a file durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def file_hash(path: Path) -> str:
    """Return the sha256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_durably(path: Path, text: str) -> None:
    """Write a text file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        sync_file(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: `checkpoints/` of the run directory; made when first written.
        facts: what a resume must find unchanged, such as data fingerprints and versions.
        keep: newest checkpoints to keep; the best one stays in any case.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], keep: int = 1) -> None:
        self.folder, self.facts, self.keep = folder, dict(facts), keep

    def path(self, step: int) -> Path:
        """Return the folder of a step."""
        return self.folder / f"step-{step:06d}"

    def steps(self) -> list[int]:
        """Return the steps that have a folder, oldest first; whole or not."""
        found = self.folder.glob("step-*") if self.folder.is_dir() else ()
        return sorted(int(p.name[5:]) for p in found if p.name[5:].isdecimal())

    def save(
        self,
        step: int,
        weights: Mapping[str, torch.Tensor],
        optimizer: Mapping[str, Any],
        state: Mapping[str, Any],
        best_step: int | None,
    ) -> Path:
        """Write a checkpoint, then remove those that are neither new nor best.

        Later steps are removed, too: a resume passed them over.

        Raises:
            CheckpointError: it could not be written; earlier ones are untouched.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        final = self.path(step)
        staging = self.folder / f".step-{step:06d}.{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for unfinished in self.folder.glob(".step-*"):
                shutil.rmtree(unfinished)
            staging.mkdir()
            save_file(
                {k: v.detach().contiguous().cpu() for k, v in weights.items()},
                staging / "weights.safetensors",
            )
            tensors, settings = _flatten(optimizer)
            save_file(tensors, staging / "optimizer.safetensors")
            full = {**state, "step": step, "optimizer": settings}
            text = json.dumps(full, ensure_ascii=False)
            (staging / "state.json").write_text(text, encoding="utf-8")
            files = {}
            for path in sorted(staging.iterdir()):
                sync_file(path)
                files[path.name] = {"sha256": file_hash(path), "size": path.stat().st_size}
            manifest = {"step": step, "facts": self.facts, "files": files}
            (staging / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            sync_file(staging / MANIFEST)
            sync_folder(staging)
            if final.exists():
                shutil.rmtree(final)
            staging.rename(final)
            sync_folder(self.folder)
            self._rotate(step, best_step)
        except (OSError, SafetensorError) as error:  # the latter is how safetensors says disk full
            shutil.rmtree(staging, ignore_errors=True)
            reason = getattr(error, "strerror", None) or error
            raise CheckpointError(
                f"{final}: the checkpoint cannot be written ({reason}); "
                "free space or choose another output, then run again with --resume"
            ) from error
        return final

    def _rotate(self, newest: int, best_step: int | None) -> None:
        good = [step for step in self.steps() if step <= newest]
        kept = {*good[-self.keep :], best_step}
        for step in self.steps():
            if step not in kept:
                shutil.rmtree(self.path(step))

    def verify(self, step: int) -> str | None:
        """Return what is wrong with a checkpoint, or None where nothing is.

        Raises:
            CheckpointError: nothing is, but it belongs to another spec, data or version.
        """
        folder = self.path(step)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            facts = dict(manifest["facts"])
            for name, entry in manifest["files"].items():
                path = folder / name
                if path.stat().st_size != entry["size"] or file_hash(path) != entry["sha256"]:
                    return f"{name} is not what was written"
        except FileNotFoundError as error:
            return f"{Path(str(error.filename)).name} is missing"
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            return f"{MANIFEST} cannot be read ({error})"
        different = [
            f"{key}: then {facts.get(key)!r}, now {value!r}"
            for key, value in self.facts.items()
            if facts.get(key) != value
        ]
        if different:
            raise CheckpointError(
                f"{folder}: cannot resume, because the run has changed: {'; '.join(different)}. "
                "Undo the change, or start anew in another output"
            )
        return None

    def newest(self) -> tuple[int | None, list[str]]:
        """Return the newest step that verifies, and why newer ones were passed over.

        Raises:
            CheckpointError: that checkpoint belongs to another spec, data or version.
        """
        passed_over: list[str] = []
        for step in reversed(self.steps()):
            reason = self.verify(step)
            if reason is None:
                return step, passed_over
            passed_over.append(f"step {step}: {reason}")
        return None, passed_over

    def weights(self, step: int) -> dict[str, torch.Tensor]:
        """Load the weights of a step.

        Raises:
            CheckpointError: there is no such checkpoint, or it does not verify.
        """
        from safetensors.torch import load_file

        if step not in self.steps():
            raise CheckpointError(
                f"{self.folder}: no checkpoint of step {step}; "
                f"the steps kept are: {', '.join(map(str, self.steps())) or 'none'}"
            )
        reason = self.verify(step)
        if reason:
            raise CheckpointError(f"{self.path(step)}: {reason}; choose another checkpoint")
        loaded: dict[str, torch.Tensor] = load_file(self.path(step) / "weights.safetensors")
        return loaded

    def load(self, step: int) -> Checkpoint:
        """Load all of a step, verified before."""
        from safetensors.torch import load_file

        weights = self.weights(step)
        state = json.loads((self.path(step) / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(self.path(step) / "optimizer.safetensors")
        return Checkpoint(step, weights, _unflatten(tensors, state["optimizer"]), state)


def _flatten(optimizer: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Split an optimizer's state dict into tensors and JSON."""
    import torch

    tensors, values = {}, {}
    for index, entries in optimizer["state"].items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}/{key}"] = value.detach().contiguous().cpu()
            else:
                values[f"{index}/{key}"] = value
    return tensors, {"groups": optimizer["param_groups"], "values": values}


def _unflatten(tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for name, value in [*tensors.items(), *settings["values"].items()]:
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = value
    groups = [
        {k: tuple(v) if k == "betas" else v for k, v in group.items()}
        for group in settings["groups"]
    ]
    return {"state": state, "param_groups": groups}


def random_state() -> dict[str, Any]:
    """Return the states of Python's, numpy's and torch's random generators, as JSON values."""
    import numpy as np
    import torch

    drawn: Any = np.random.get_state()
    name, keys, position, has_gauss, gauss = drawn
    version, words, gauss_next = random.getstate()
    state: dict[str, Any] = {
        "python": [version, list(words), gauss_next],
        "numpy": [name, keys.tolist(), position, has_gauss, gauss],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if torch.cuda.is_available():
        states = torch.cuda.get_rng_state_all()
        state["cuda"] = [one.numpy().tobytes().hex() for one in states]
    return state


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put the random generators back where `random_state` found them."""
    import numpy as np
    import torch

    def tensor(text: str) -> torch.Tensor:
        return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)

    version, words, gauss_next = state["python"]
    random.setstate((version, tuple(words), gauss_next))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(tensor(state["torch"]))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([tensor(one) for one in state["cuda"]])

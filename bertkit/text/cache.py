"""Arrays that took long to compute, kept between runs."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def load_arrays(file: Path | None) -> dict[str, Array] | None:
    """Return what `store_arrays` wrote; None where it is not there, or not whole."""
    from safetensors import SafetensorError, safe_open

    if file is None or not file.is_file():
        return None
    try:
        with safe_open(file, "np") as stored:
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
            written = (stored.metadata() or {}).get("sha256")
    except (SafetensorError, OSError):
        return None
    return arrays if written == _sha256(arrays) else None


def store_arrays(arrays: Mapping[str, Array], file: Path | None) -> str | None:
    """Write arrays whole or not at all; return the reason where that is not possible.

    Args:
        arrays: contiguous, by name.
        file: to write or replace; None: nowhere, which is no failure.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    if file is None:
        return None
    staging = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(arrays), staging, metadata={"sha256": _sha256(arrays)})
        staging.replace(file)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            staging.unlink()
        return str(getattr(error, "strerror", None) or error)
    return None


def _sha256(arrays: Mapping[str, Array]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()

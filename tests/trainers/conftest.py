"""Small runs for the tests of the trainers."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

import bertkit
from tests.conftest import reviews

Train = Callable[..., bertkit.RunResult]


@pytest.fixture(scope="session", autouse=True)
def fewer_objects_to_collect() -> None:
    """Spare Trainer's garbage collection after each training the objects of the libraries."""
    from transformers import Trainer

    assert Trainer
    gc.collect()
    gc.freeze()


@pytest.fixture
def train(encoder_dir: Path, tmp_path: Path) -> Train:
    """Return a function that runs a small spec; its keywords are options of the trainer."""

    def run(
        trainer: str = "loop",
        *,
        head: Any = "linear",
        rows: int = 48,
        output: str | None = None,
        spec: dict[str, Any] | None = None,
        resume: bool = False,
        progress: Any = None,
        **options: Any,
    ) -> bertkit.RunResult:
        number = len(list(tmp_path.glob("run*")))
        return bertkit.run(
            {
                "encoder": str(encoder_dir),
                "dataset": {"type": "inline", "train": reviews(rows), "validation": 0.25},
                "head": head,
                "trainer": {"type": trainer, "precision": "fp32", "log_steps": 1, **options},
                "output": str(tmp_path / (output or f"run{number}")),
                **(spec or {}),
            },
            resume=resume,
            progress=progress,
        )

    return run


def weights_of(result: bertkit.RunResult) -> dict[str, Tensor]:
    """Return the weights of the saved model."""
    return load_file(Path(result.model_dir, "model.safetensors"))


def losses(result: bertkit.RunResult) -> list[float]:
    """Return the logged training losses."""
    return [line["loss"] for line in result.history if "learning_rate" in line]


def rates(result: bertkit.RunResult) -> list[float]:
    """Return the logged learning rates; as in transformers, each is that of the next step."""
    return [line["learning_rate"] for line in result.history if "learning_rate" in line]


def evaluated(result: bertkit.RunResult) -> list[int]:
    """Return the steps after which the validation split was scored."""
    return [line["step"] for line in result.history if line.get("split") == "validation"]


def checkpoints(result: bertkit.RunResult) -> list[int]:
    """Return the steps that have a checkpoint."""
    return sorted(int(path.name[5:]) for path in Path(result.run_dir).glob("checkpoints/step-*"))

"""The frozen records that pass from stage to stage.

`RunSpec -> Splits -> Encoded -> model -> Fitted -> Scores -> RunResult`
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertkit.errors import ArtifactError
from bertkit.progress import Progress, Silent
from bertkit.tasks import figure

if TYPE_CHECKING:
    import datasets

    from bertkit.tasks import Task

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Splits:
    """The labelled texts: columns `text`, for pairs also `text_pair` (strings), and `label`.

    A label is an id, a list of ids, or a list of numbers, as the task has it.
    """

    task: Task
    train: datasets.Dataset
    validation: datasets.Dataset | None
    test: datasets.Dataset | None
    fingerprints: Mapping[str, str]
    """sha256 over texts and labels, per split."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What the user's own data called them: `{"text": "review", "label": "stars"}`; lists of names
    where there are several, and the `separator` of joined labels."""
    label_values: Mapping[str, str] = field(default_factory=dict)
    """What stood in the label column, and the name it got: `{"0": "bad", "1": "good"}`."""

    def items(self) -> list[tuple[str, datasets.Dataset]]:
        """The splits that exist, in the order train, validation, test."""
        pairs = ((name, getattr(self, name)) for name in SPLITS)
        return [(name, split) for name, split in pairs if split is not None]

    def summary(self) -> dict[str, dict[str, Any]]:
        """Count the texts of each label in each split, or describe the targets."""
        task = self.task
        return {name: task.summary(task.targets(split["label"][:])) for name, split in self.items()}


@dataclass(frozen=True)
class Context:
    """What a component may use while it works: settings of the run, and a voice."""

    seed: int = 42
    offline: bool = False
    device: str = "cpu"
    """A torch device name."""
    workers: int = 1
    """Processes that tokenize."""
    precision: str = "fp32"
    """Arithmetic of forward passes: fp32, bf16 or fp16; `auto` is resolved."""
    eval_batch_size: int = 32
    """Texts per forward pass where nothing is trained."""
    cache_dir: Path | None = None
    """Where what is expensive to compute may be kept; None: nowhere."""
    splits: Splits | None = None
    """The loaded data; there for encoders, heads and trainers, not for dataset loaders."""
    say: Callable[[str], None] = lambda message: None
    """Write one line to the log."""
    warn: Callable[[str], None] = lambda message: None
    """Write a warning to the log and to `RunResult.warnings`."""
    note: Callable[[str, Any], None] = lambda key, value: None
    """Keep a fact for `RunResult.provenance`, such as `encoder_revision`."""
    progress: Progress = field(default_factory=Silent)

    def with_(self, **changes: Any) -> Context:
        """Return a copy with some fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Fitted:
    """What a trainer did. The model it was given holds the final weights."""

    steps: int
    """Optimizer steps taken, those before a resume included."""
    epochs: float
    history: tuple[Mapping[str, Any], ...]
    """One mapping per logged step or evaluation, with `step`, `epoch` and its numbers."""
    train_loss: float
    """Mean loss over all training samples seen."""
    precision: str = "fp32"
    best: Mapping[str, Any] | None = None
    """`{"metric", "value", "loss", "step"}` of the best model, where it was loaded."""
    stopped_early: bool = False
    resumed_from: int | None = None
    padding: float = 0.0
    """Share of the trained tokens that was padding."""


@dataclass(frozen=True)
class Scores:
    """The metrics of one split, and the tables behind them."""

    metrics: Mapping[str, float]
    report: Mapping[str, Any] = field(default_factory=dict)
    """Confusion matrix and per-class scores."""
    seconds: float = 0.0
    texts: int = 0


def score_text(value: float | None) -> str:
    """Return a score as a person reads it: four decimals, or four digits where that says more.

    Example:
        >>> score_text(0.9), score_text(0.000123), score_text(102313.3427), score_text(None)
        ('0.9000', '0.000123', '102313', '–')
    """
    if value is None:
        return "–"
    return f"{value:.4f}" if value == 0 or 0.001 <= abs(value) < 1000 else figure(value)


def to_json(value: Any) -> str:
    """Return strict JSON text, numbers that are not finite as null."""

    def finite(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: finite(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [finite(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(value), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


@dataclass(frozen=True)
class Run:
    """A run as observers see it."""

    spec: Any
    run_dir: Path
    resumed: bool = False


@dataclass(frozen=True)
class RunResult:
    """What a run produced; `result.json` in the run directory holds the same.

    Example:
        >>> RunResult.read("runs/reviews").metrics["test"]["accuracy"]  # doctest: +SKIP
        0.8945
    """

    metrics: Mapping[str, Mapping[str, float | None]]
    """Per split and metric, and `loss`. None where a metric is not defined on that data."""
    run_dir: str
    model_dir: str
    history: tuple[Mapping[str, Any], ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds per stage: load, tokenize, build, train, evaluate, save, total."""
    warnings: tuple[str, ...] = ()
    reports: Mapping[str, Any] = field(default_factory=dict)
    """Per split: confusion matrix (rows are true labels) and per-class scores."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Texts per split and label, what was cut or dropped, cache hits."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Steps, epochs, best model, parameters, precision, device, speed, peak memory."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Versions, plugins, data fingerprints, encoder revision, seed: what a replay needs."""
    task: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the result as JSON text, numbers that are not finite as null."""
        return to_json(asdict(self))

    @classmethod
    def read(cls, run_dir: str | Path) -> RunResult:
        """Read `result.json` of a finished run.

        Raises:
            ArtifactError: there is none, or it is not one.
        """
        path = Path(run_dir, "result.json")
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            result = cls(**data)
        except FileNotFoundError:
            raise ArtifactError(
                f"{run_dir}: no result.json, so no finished run; "
                "give the folder that `bertkit run` wrote"
            ) from None
        except (OSError, ValueError, TypeError) as error:
            raise ArtifactError(
                f"{path}: not a result of bertkit ({error}); run it again, or copy the file again"
            ) from None
        return replace(result, history=tuple(result.history), warnings=tuple(result.warnings))

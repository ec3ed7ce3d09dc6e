"""What a trainer is, and the options all trainers share. The part that a plugin author reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from bertkit.component import Component, Options
from bertkit.errors import SpecError
from bertkit.records import Context, Fitted
from bertkit.tasks import PLAIN, Balance, Shaping, keys_as_names

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bertkit.checkpoints import CheckpointStore
    from bertkit.heads.base import Head
    from bertkit.metrics.base import Metric
    from bertkit.tasks import Array, Task
    from bertkit.text.encoded import Encoded


class Every(Options):
    """A rhythm: every so many optimizer steps, or every so many epochs."""

    steps: int | None = Field(None, ge=1, description="Optimizer steps between two times.")
    epochs: int | None = Field(None, ge=1, description="Epochs between two times.")

    @model_validator(mode="after")
    def _one_of_both(self) -> Every:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give one of `steps` and `epochs`, as in {epochs: 1} or {steps: 30}")
        return self

    def due(self, step: int, steps_per_epoch: int) -> bool:
        """Say whether the time has come after optimizer step `step`, counted from 1."""
        return step % (self.steps or (self.epochs or 1) * steps_per_epoch) == 0


Rhythm = Every | Literal["auto"] | None


class EarlyStopping(Options):
    """Stop when validation no longer gets better."""

    patience: int = Field(3, ge=1, description="Evaluations without a better value to wait for.")
    min_delta: float = Field(
        0.0, ge=0, description="A value is better by more than this, or not at all."
    )


def _patience(value: Any) -> Any:
    return {"patience": value} if isinstance(value, int) and not isinstance(value, bool) else value


ByLabel = Annotated[Balance | None, BeforeValidator(keys_as_names)]


class Trainer(Component):
    """How the weights are fitted.

    Every option here means the same under every trainer: the same spec under `hf` and under
    `loop` follows the same loss trajectory. `trainers/training.py` has the parts to build on.
    """

    kind: ClassVar[str] = "trainer"

    epochs: int | None = Field(
        None,
        ge=1,
        description="Passes over the train split; 3 for `linear`, 30 for `frozen-feature`, and "
        "more where few texts would make too few optimizer steps of them.",
    )
    max_steps: int | None = Field(
        None, ge=1, description="Optimizer steps in all, in place of `epochs`."
    )
    batch_size: int = Field(16, ge=1, description="Texts per forward pass.")
    eval_batch_size: int = Field(
        32, ge=1, description="Texts per forward pass in evaluation and feature extraction."
    )
    learning_rate: float | None = Field(
        None, gt=0, description="Peak learning rate; 5e-5 for `linear`, 5e-3 for `frozen-feature`."
    )
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        "linear", description="Course of the learning rate after warm-up."
    )
    warmup: float | None = Field(
        None,
        ge=0,
        description="Optimizer steps of warm-up, or their share of all steps where below 1. "
        "0.1 by default; `constant` has none.",
    )
    weight_decay: float = Field(
        0.01, ge=0, description="Weight decay; biases and normalisation weights are left out."
    )
    optimizer: Literal["adamw", "adam", "sgd"] = Field(
        "adamw", description="Optimizer; `sgd` has momentum 0.9."
    )
    accumulation: int = Field(
        1, ge=1, description="Forward passes per optimizer step; their gradients are averaged."
    )
    clip: float | None = Field(1.0, gt=0, description="Largest gradient norm; null: no clipping.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Arithmetic of the forward pass; weights stay fp32. `auto` takes bf16 where "
        "this machine computes it fast, else fp32; features of a frozen encoder are fp32 under it.",
    )
    drop_last: bool = Field(
        False, description="Leave out the last batch of an epoch when it is not full."
    )
    class_weights: ByLabel = Field(
        None,
        description="Weight of each label in the loss, by name (1 for those not named), or "
        "`balanced`: the rarer a label, the more it weighs. Not for `regression`.",
    )
    focal: float = Field(
        0.0,
        ge=0,
        description="Exponent of the focal loss, under which texts that are easy weigh less; 2 is "
        "usual, 0 is the plain loss. Not for `regression`.",
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of each target that is spread over all labels, so that the model gets "
        "less sure of itself. Not for `regression`.",
    )
    sampling: ByLabel = Field(
        None,
        description="How often texts of each label are drawn, relative to the others, by name (1 "
        "for those not named), or `balanced`: each label alike. They are drawn with replacement, "
        "in an epoch as many as there are. By default each text comes once. Not for `regression`.",
    )
    log_steps: int = Field(50, ge=1, description="Optimizer steps between two logged losses.")
    evaluate: Rhythm = Field(
        "auto",
        description="When to score the validation split; also after the last step. `auto`: every "
        "epoch, or every so many where few texts make more `epochs` than usual. null: never.",
    )
    save: Rhythm = Field(
        "auto",
        description="When to write a checkpoint. `auto`: as for `evaluate`; null: only for the "
        "best model.",
    )
    keep: int = Field(
        1, ge=1, description="Newest checkpoints to keep; the best one stays in any case."
    )
    best: str | None = Field(
        "auto",
        description="Metric on validation that decides which weights are kept at the end, or "
        "`loss`. `auto`: the first of `metrics`, or the last weights where there are fewer than 30 "
        "validation texts; null: the last weights. Of equal values the one with the lower loss is "
        "better.",
    )
    early_stopping: Annotated[
        EarlyStopping | None,
        BeforeValidator(
            _patience,
            json_schema_input_type=EarlyStopping | Annotated[int, Field(ge=1)] | None,
        ),
    ] = Field(
        None, description="Stop when `best` no longer improves; a number is short for its patience."
    )
    baseline: bool = Field(False, description="Score the validation split before training, too.")

    @model_validator(mode="after")
    def _options_agree(self) -> Trainer:
        if self.schedule == "constant" and self.warmup:
            raise ValueError(
                "`schedule: constant` has no warm-up; "
                "write `schedule: constant_with_warmup`, or take `warmup` out"
            )
        if self.early_stopping and (self.best is None or self.evaluate is None):
            raise ValueError("`early_stopping` needs `evaluate` and `best`; neither can be null")
        if self.best not in ("auto", None) and self.evaluate is None:
            raise ValueError(f"`best: {self.best}` needs `evaluate`, which is null; give a rhythm")
        if self.max_steps is not None and self.epochs is not None:
            raise ValueError("give one of `epochs` and `max_steps`")
        return self

    @property
    def warmup_or_default(self) -> float:
        """Steps of warm-up, or their share of all steps where below 1."""
        if self.warmup is not None:
            return self.warmup
        return 0.0 if self.schedule == "constant" else 0.1

    def completed(self, head: Head) -> Trainer:
        """Return a copy with the head's defaults in place of what the user left open."""
        changes: dict[str, Any] = {"warmup": self.warmup_or_default}
        if self.learning_rate is None:
            changes["learning_rate"] = head.learning_rate
        return self.model_copy(update=changes)

    def batches_per_epoch(self, rows: int) -> int:
        """Return the forward passes an epoch over so many texts.

        Raises:
            SpecError: with `drop_last` there would be none.
        """
        size = self.batch_size
        count = rows // size if self.drop_last else math.ceil(rows / size)
        if not count:
            raise SpecError(
                f"trainer.drop_last: {rows} texts do not fill one batch of {size}; "
                "lower trainer.batch_size or leave drop_last out"
            )
        return count

    def steps_per_epoch(self, rows: int) -> int:
        """Return the optimizer steps an epoch; the last one may accumulate fewer batches."""
        return math.ceil(self.batches_per_epoch(rows) / self.accumulation)

    def sized(self, head: Head, rows: int) -> Trainer:
        """Return a copy for so many train texts, with `epochs` where the user left it open.

        That is the head's number, and more where few texts would make fewer than `head.min_steps`
        optimizer steps of it: on few texts a model needs longer than three epochs (Mosbach et al.
        2021, arXiv:2006.04884; Zhang et al. 2021, arXiv:2006.05987). The rhythm `auto` then has as
        many more epochs between two times.
        """
        changes: dict[str, Any] = {}
        between = 1
        if self.epochs is None and self.max_steps is None:
            epochs = max(head.epochs, math.ceil(head.min_steps / self.steps_per_epoch(rows)))
            changes["epochs"], between = epochs, math.ceil(epochs / head.epochs)
        for name in ("evaluate", "save"):
            if getattr(self, name) == "auto":
                changes[name] = Every(epochs=between)
        return self.model_copy(update=changes)

    def shaping(self, task: Task, targets: Array) -> Shaping:
        """Return how the loss to train on differs from the task's plain one.

        Args:
            task: of the run.
            targets: of the train split, as `Encoded.labels` holds them.

        Raises:
            SpecError: a label that does not exist, or an option that the task has no use for.
        """
        for name in ("focal", "label_smoothing"):
            if getattr(self, name) and not task.has_labels:
                raise SpecError(
                    f"trainer.{name}: is for labels, and the task is {task.kind}; take it out"
                )
        weights = None
        if self.class_weights is not None:
            weights = task.label_weights(self.class_weights, targets, "trainer.class_weights")
        return Shaping(weights, self.focal, self.label_smoothing)

    def row_weights(self, task: Task, targets: Array) -> Array | None:
        """Return how often to draw each text, float64 (n,); None where each comes once.

        Arguments and errors are those of `shaping`.
        """
        if self.sampling is None:
            return None
        return task.row_weights(self.sampling, targets, "trainer.sampling")

    def fit(
        self,
        model: nn.Module,
        train: Encoded,
        validation: Encoded | None,
        ctx: TrainingContext,
    ) -> Fitted:
        """Fit the parameters of `model` that require gradients, in place.

        Args:
            model: maps `train.batch(indices)` to an object with `logits`.
            train: what to train on.
            validation: what to score and choose on; None where there is none.
            ctx: task, loss, metrics, checkpoint store, precision, device, progress.

        Raises:
            TrainError: training cannot go on (loss not finite, memory); with the cause.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement fit")


@dataclass(frozen=True, kw_only=True)
class TrainingContext(Context):
    """What a trainer gets beside the model and the data."""

    task: Task
    store: CheckpointStore
    metrics: tuple[Metric, ...] = ()
    best: tuple[str, bool] | None = None
    """Metric key that decides on the best model, and whether greater is better."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Factor of the learning rate by parameter name, for those that do not have the whole one."""
    shaping: Shaping = PLAIN
    row_weights: Array | None = None
    """How often to draw each train text, float64 (n,); None: each comes once an epoch."""
    resume: bool = False

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss to train on, summed over the batch; see `Task.loss`."""
        return self.task.loss(logits, targets, self.shaping)

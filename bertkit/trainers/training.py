"""What all trainers share: plan, optimizer, schedule, and the watch over a run in progress.

A trainer owns its loop and nothing else. It asks `Plan` for the batches, takes `optimizer_for` and
`schedule_for`, and calls `Watch.step_done` after each optimizer step; evaluation, logging, best
model, early stopping and checkpoints happen there, alike under every trainer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bertkit.checkpoints import Checkpoint, random_state, restore_random_state
from bertkit.compute import seed_everything
from bertkit.errors import PluginError, TrainError
from bertkit.progress import Bar
from bertkit.records import Fitted, score_text
from bertkit.scoring import compute_scores, predict_logits
from bertkit.text.encoded import Encoded, epoch_batches
from bertkit.trainers.base import Every, Rhythm, Trainer, TrainingContext

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from torch import nn

    from bertkit.tasks import Array


@dataclass(frozen=True)
class Plan:
    """How many steps there are, and which rows each of them sees."""

    options: Trainer
    train: Encoded
    seed: int
    row_weights: Array | None = None
    """How often to draw each row; None: each comes once an epoch."""

    def batches(self, epoch: int) -> list[list[int]]:
        """Return the batches of an epoch, counted from 0."""
        o = self.options
        return epoch_batches(
            self.train.lengths, o.batch_size, self.seed, epoch, drop_last=o.drop_last,
            weights=self.row_weights,
        )  # fmt: skip

    @cached_property
    def batches_per_epoch(self) -> int:
        """Forward passes an epoch."""
        return self.options.batches_per_epoch(len(self.train))

    @cached_property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch; the last one may accumulate fewer batches."""
        return self.options.steps_per_epoch(len(self.train))

    @cached_property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return self.options.max_steps or (self.options.epochs or 1) * self.steps_per_epoch

    @cached_property
    def epochs(self) -> int:
        """Epochs begun in all."""
        return math.ceil(self.steps / self.steps_per_epoch)

    @cached_property
    def warmup_steps(self) -> int:
        """Optimizer steps of warm-up."""
        warmup = self.options.warmup_or_default
        return math.ceil(warmup * self.steps) if warmup < 1 else int(warmup)

    def due(self, rhythm: Rhythm, step: int) -> bool:
        """Say whether it is time after optimizer step `step`; after the last one it is."""
        if rhythm is None:
            return False
        every = Every(epochs=1) if rhythm == "auto" else rhythm
        return step >= self.steps or every.due(step, self.steps_per_epoch)

    def step_batches(self, epoch: int) -> list[list[list[int]]]:
        """Return the batches of an epoch, grouped by optimizer step."""
        batches, n = self.batches(epoch), self.options.accumulation
        return [batches[i : i + n] for i in range(0, len(batches), n)]


def optimizer_for(
    model: nn.Module, options: Trainer, rates: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """Return the optimizer over the parameters that require gradients.

    Biases and normalisation weights, which are the parameters of one dimension, get no decay.

    Args:
        model: being trained.
        options: of the trainer.
        rates: factor of the learning rate by parameter name, where it is not 1. Parameters with
            the whole rate come first, so that the first group's rate is the one to show.

    Raises:
        PluginError: `rates` names what the model does not have.
        TrainError: nothing requires gradients.
    """
    import torch

    assert options.learning_rate is not None
    rates = rates or {}
    named = dict(model.named_parameters())
    strange = sorted(rates.keys() - named.keys())
    if strange:
        raise PluginError(f"the head's rates name `{strange[0]}`, which is no parameter of it")
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in named.items():
        if parameter.requires_grad:
            key = (rates.get(name, 1.0), parameter.ndim <= 1)
            groups.setdefault(key, []).append(parameter)
    if not groups:
        raise TrainError("the model has no parameter to train")
    rate = options.learning_rate
    ordered = [
        {
            "params": groups[factor, spared],
            "lr": rate * factor,
            "weight_decay": 0.0 if spared else options.weight_decay,
        }
        for factor, spared in sorted(groups, key=lambda key: (key[0] != 1, -key[0], key[1]))
    ]
    if options.optimizer == "sgd":
        return torch.optim.SGD(ordered, lr=rate, momentum=0.9)
    kind = torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW
    trained = [parameter for group in groups.values() for parameter in group]
    fused = all(p.device.type in ("cpu", "cuda") for p in trained)
    return kind(ordered, lr=rate, fused=fused or None)


def schedule_for(
    optimizer: torch.optim.Optimizer, plan: Plan
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the learning-rate schedule that the options ask for."""
    from transformers import get_scheduler

    schedule: torch.optim.lr_scheduler.LRScheduler = get_scheduler(
        plan.options.schedule,
        optimizer=optimizer,
        num_warmup_steps=plan.warmup_steps,
        num_training_steps=plan.steps,
    )
    return schedule


def trained_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return what training may change: parameters that require gradients, and buffers."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def better(value: float, than: float | None, greater: bool, by: float = 0.0) -> bool:
    """Say whether a value beats another by more than `by`; NaN beats nothing."""
    if math.isnan(value):
        return False
    return than is None or (value - than > by if greater else than - value > by)


@dataclass
class Progressing:
    """Where a run in progress stands, beside its weights; JSON values only."""

    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    reference: float | None = None
    """The value that early stopping last counted as better."""
    strikes: int = 0
    loss_sum: float = 0.0
    """Loss summed over all samples seen, and their number."""
    samples: int = 0
    window_loss: float = 0.0
    """The same since the last logged line."""
    window_samples: int = 0
    tokens: int = 0
    padded: int = 0
    stopped_early: bool = False


class Watch:
    """Evaluation, log, best model, early stopping and checkpoints of a run in progress.

    Args:
        plan: of the run.
        model: being trained, unwrapped.
        validation: what to score; None for nothing.
        ctx: of the trainer.
    """

    def __init__(
        self,
        plan: Plan,
        model: nn.Module,
        validation: Encoded | None,
        ctx: TrainingContext,
        bar: Bar,
    ) -> None:
        self.plan, self.model, self.validation, self.ctx, self.bar = (
            plan, model, validation, ctx, bar,
        )  # fmt: skip
        self.at = Progressing()
        self.resumed_from: int | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.schedule: torch.optim.lr_scheduler.LRScheduler | None = None
        self._checkpoint: Checkpoint | None = None
        self._started = time.perf_counter()
        self._samples_at_start = 0
        if plan.options.class_weights == plan.options.sampling == "balanced":
            ctx.warn(
                "trainer.class_weights and trainer.sampling are both `balanced`: rare labels are "
                "made up for twice, and come out too often; one of the two is enough"
            )

    def resume(self) -> None:
        """Load weights and position of the newest whole checkpoint, where a resume is wanted."""
        if not self.ctx.resume:
            return
        step, passed_over = self.ctx.store.newest()
        for reason in passed_over:
            self.ctx.warn(f"checkpoint passed over: {reason}")
        if step is None:
            self.ctx.say("no checkpoint to resume from; training starts at step 0")
            return
        self._checkpoint = checkpoint = self.ctx.store.load(step)
        self.model.load_state_dict(checkpoint.weights, strict=False)
        self.at = Progressing(**checkpoint.state["progress"])
        self.resumed_from = step
        self._samples_at_start = self.at.samples
        self.bar.advance(step)
        self.ctx.say(f"resumed from {self.ctx.store.path(step)}")

    @property
    def done(self) -> bool:
        """Whether a resumed run had nothing left to train."""
        return self.at.step >= self.plan.steps or self.at.stopped_early

    def begin(
        self,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> None:
        """Take optimizer and schedule, restore them on a resume, and score the untrained model.

        The baseline is scored only where `baseline` asks for it.
        """
        self.optimizer, self.schedule = optimizer, schedule
        if self._checkpoint:
            optimizer.load_state_dict(dict(self._checkpoint.optimizer))
            schedule.load_state_dict(self._checkpoint.state["schedule"])
        if self.plan.options.baseline and self.validation is not None and self.at.step == 0:
            self._evaluate()

    def settle_random(self) -> None:
        """Seed the random generators, or restore them; call it right before the first step."""
        if self._checkpoint:
            restore_random_state(self._checkpoint.state["random"])
        else:
            seed_everything(self.ctx.seed)

    def step_done(self, loss_sum: float, samples: int, tokens: int, padded: int) -> bool:
        """Record an optimizer step; evaluate, log and save where due; say whether to stop.

        Args:
            loss_sum: loss summed over the samples of the step.
            samples: their number.
            tokens: tokens in the step's batches, padding included.
            padded: how many of them were padding.

        Raises:
            TrainError: the loss is not finite.
        """
        at, options = self.at, self.plan.options
        at.step += 1
        if not math.isfinite(loss_sum):
            raise TrainError(
                f"step {at.step}: the loss is {loss_sum}; lower trainer.learning_rate"
                f" (now {options.learning_rate:g}), or set trainer.precision to fp32"
                f" (now {self.ctx.precision})"
            )
        at.loss_sum += loss_sum
        at.samples += samples
        at.window_loss += loss_sum
        at.window_samples += samples
        at.tokens += tokens
        at.padded += padded
        last = at.step >= self.plan.steps
        if at.step % options.log_steps == 0 or last:
            self._log()
        self.bar.advance(1, f"loss {loss_sum / samples:.4f}")
        improved = False
        if self.validation is not None and self.plan.due(options.evaluate, at.step):
            improved = self._evaluate()
        due = self.plan.due(options.save, at.step) or (at.stopped_early and options.save)
        if improved or due:
            self.save()
        return last or at.stopped_early

    def _log(self) -> None:
        at = self.at
        assert self.schedule is not None
        loss, rate = at.window_loss / at.window_samples, float(self.schedule.get_last_lr()[0])
        self._record(loss=loss, learning_rate=rate)
        self.ctx.say(f"step {at.step}/{self.plan.steps}  loss {loss:.4f}  learning rate {rate:.2e}")
        at.window_loss, at.window_samples = 0.0, 0

    def _record(self, **numbers: Any) -> None:
        epoch = round(self.at.step / self.plan.steps_per_epoch, 4)
        self.at.history.append({"step": self.at.step, "epoch": epoch, **numbers})

    def _evaluate(self) -> bool:
        """Score the validation split; return whether it is the best so far."""
        assert self.validation is not None
        at, ctx, options = self.at, self.ctx, self.plan.options
        logits = predict_logits(
            self.model, self.validation, batch_size=options.eval_batch_size,
            device=ctx.device, precision=ctx.precision,
        )  # fmt: skip
        values = compute_scores(logits, self.validation.labels, ctx.task, ctx.metrics).metrics
        known = {key: None if math.isnan(v) else v for key, v in values.items()}
        self._record(split="validation", **known)
        words = "  ".join(f"{key} {score_text(value)}" for key, value in values.items())
        epoch = at.step / self.plan.steps_per_epoch
        ctx.say(f"step {at.step}/{self.plan.steps}  epoch {epoch:.2f}  validation  {words}")
        if ctx.best is None or at.step == 0:
            return False
        key, greater = ctx.best
        value, loss = values[key], values["loss"]
        if at.best and value == at.best["value"]:
            improved = better(loss, at.best["loss"], greater=False)
        else:
            improved = better(value, at.best["value"] if at.best else None, greater)
        if improved:
            at.best = {"metric": key, "value": value, "loss": loss, "step": at.step}
        stopping = options.early_stopping
        if stopping:
            if better(value, at.reference, greater, stopping.min_delta):
                at.reference, at.strikes = value, 0
            else:
                at.strikes += 1
            if at.strikes >= stopping.patience and at.step < self.plan.steps:
                at.stopped_early = True
                ctx.say(f"stopped early: {key} no better in {at.strikes} evaluations")
        return improved

    def save(self) -> None:
        """Write a checkpoint of this very moment."""
        assert self.optimizer is not None
        assert self.schedule is not None
        at = self.at
        self.ctx.store.save(
            at.step,
            trained_state(self.model),
            self.optimizer.state_dict(),
            {
                "progress": dict(vars(at)),
                "schedule": self.schedule.state_dict(),
                "random": random_state(),
            },
            best_step=at.best["step"] if at.best else None,
        )

    def finish(self) -> Fitted:
        """Load the best weights where they are not the last, and sum up."""
        at, ctx = self.at, self.ctx
        best = at.best
        if best and best["step"] != at.step:
            self.model.load_state_dict(ctx.store.weights(best["step"]), strict=False)
            value = score_text(best["value"])
            ctx.say(f"best model: step {best['step']}, {best['metric']} {value}; loaded")
        seconds = time.perf_counter() - self._started
        trained = at.samples - self._samples_at_start
        ctx.note("samples_per_second", round(trained / seconds, 2) if trained else None)
        return Fitted(
            steps=at.step,
            epochs=round(at.step / self.plan.steps_per_epoch, 4),
            history=tuple(at.history),
            train_loss=at.loss_sum / max(at.samples, 1),
            precision=ctx.precision,
            best=best,
            stopped_early=at.stopped_early,
            resumed_from=self.resumed_from,
            padding=at.padded / max(at.tokens, 1),
        )


def padding_of(batch: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """Return the tokens of a batch, and how many of them are padding."""
    mask = batch.get("attention_mask")
    if mask is None:
        return len(batch["labels"]), 0
    return mask.numel(), mask.numel() - int(mask.sum())


def accelerator_for(ctx: TrainingContext) -> Accelerator:
    """Return the Accelerator of a run, in its device and precision."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # it remembers the precision of an earlier run in this process, and refuses another
    AcceleratorState._reset_state(reset_partial_state=True)
    mixed = {"bf16": "bf16", "fp16": "fp16"}.get(ctx.precision, "no")
    return Accelerator(mixed_precision=mixed, cpu=ctx.device == "cpu")

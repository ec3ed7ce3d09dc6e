"""The plain PyTorch loop. It reads from top to bottom; accelerate places model and gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from bertkit.records import Fitted
from bertkit.text.encoded import Encoded
from bertkit.trainers.base import Trainer, TrainingContext
from bertkit.trainers.training import (
    Plan,
    Watch,
    accelerator_for,
    optimizer_for,
    padding_of,
    schedule_for,
)

if TYPE_CHECKING:
    from torch import nn


class Loop(Trainer):
    """A plain PyTorch training loop."""

    type: Literal["loop"] = "loop"

    def fit(
        self, model: nn.Module, train: Encoded, validation: Encoded | None, ctx: TrainingContext
    ) -> Fitted:
        """Fit the model."""
        plan = Plan(self, train, ctx.seed, ctx.row_weights)
        accelerator = accelerator_for(ctx)
        with ctx.progress.bar("train", plan.steps) as bar:
            watch = Watch(plan, model, validation, ctx, bar)
            watch.resume()
            model.to(ctx.device)
            optimizer = optimizer_for(model, self, ctx.rates)
            schedule = schedule_for(optimizer, plan)
            wrapped, prepared = accelerator.prepare(model, optimizer)
            watch.begin(optimizer, schedule)
            watch.settle_random()

            stop = watch.done
            while not stop:
                epoch, done = divmod(watch.at.step, plan.steps_per_epoch)
                for batches in plan.step_batches(epoch)[done:]:
                    model.train()
                    samples = sum(map(len, batches))
                    loss_sum, tokens, padded = 0.0, 0, 0
                    for rows in batches:
                        batch = train.batch(rows)
                        size, padding = padding_of(batch)
                        tokens, padded = tokens + size, padded + padding
                        batch = {key: value.to(ctx.device) for key, value in batch.items()}
                        labels = batch.pop("labels")
                        loss = ctx.loss(wrapped(**batch).logits, labels)
                        accelerator.backward(loss / samples)
                        loss_sum += loss.item()
                    if self.clip is not None:
                        accelerator.clip_grad_norm_(wrapped.parameters(), self.clip)
                    prepared.step()
                    schedule.step()
                    prepared.zero_grad()
                    stop = watch.step_done(loss_sum, samples, tokens, padded)
                    if stop:
                        break
            accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
            return watch.finish()

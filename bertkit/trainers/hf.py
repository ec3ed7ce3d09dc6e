"""transformers' `Trainer`, fed with bertkit's batches and watched like every other trainer."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, JsonValue, TypeAdapter, ValidationError

from bertkit.errors import SpecError, suggest
from bertkit.records import Fitted
from bertkit.text.encoded import Encoded
from bertkit.trainers.base import Trainer, TrainingContext
from bertkit.trainers.training import (
    Plan,
    Watch,
    optimizer_for,
    padding_of,
    schedule_for,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bertkit.heads.base import Head

OWNED = {
    "output_dir": "output", "num_train_epochs": "trainer.epochs", "max_steps": "trainer.max_steps",
    "per_device_train_batch_size": "trainer.batch_size",
    "per_device_eval_batch_size": "trainer.eval_batch_size",
    "learning_rate": "trainer.learning_rate", "lr_scheduler_type": "trainer.schedule",
    "lr_scheduler_kwargs": "trainer.schedule", "warmup_steps": "trainer.warmup",
    "warmup_ratio": "trainer.warmup", "weight_decay": "trainer.weight_decay",
    "optim": "trainer.optimizer", "optim_args": "trainer.optimizer",
    "gradient_accumulation_steps": "trainer.accumulation", "max_grad_norm": "trainer.clip",
    "bf16": "trainer.precision", "fp16": "trainer.precision",
    "dataloader_drop_last": "trainer.drop_last", "logging_steps": "trainer.log_steps",
    "logging_strategy": "trainer.log_steps", "eval_strategy": "trainer.evaluate",
    "eval_steps": "trainer.evaluate", "save_strategy": "trainer.save",
    "save_steps": "trainer.save", "save_total_limit": "trainer.keep",
    "metric_for_best_model": "trainer.best", "greater_is_better": "trainer.best",
    "load_best_model_at_end": "trainer.best", "eval_on_start": "trainer.baseline",
    "seed": "seed", "data_seed": "seed", "use_cpu": "compute.device",
    "resume_from_checkpoint": "--resume",
}  # fmt: skip
"""TrainingArguments that have a field of the spec, and which."""

USABLE = (
    "activation_checkpointing", "activation_checkpointing_kwargs",
    "gradient_checkpointing", "gradient_checkpointing_kwargs", "neftune_noise_alpha",
    "torch_compile", "torch_compile_backend", "torch_compile_mode",
    "torch_empty_cache_steps", "dataloader_num_workers", "dataloader_pin_memory",
)  # fmt: skip
"""TrainingArguments that `extra` takes. Others would do nothing here, as the optimizer, the
evaluation and the checkpoints are bertkit's own, or would outlast the run in this process."""

CHANGES_ENCODER = USABLE[:5]
"""Those of them that do nothing where a head trains on features."""


class HF(Trainer):
    """The Trainer of transformers."""

    type: Literal["hf"] = "hf"
    extra: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Further TrainingArguments by name, such as {gradient_checkpointing: true}; "
        "those that would do nothing here are refused.",
    )

    def completed(self, head: Head) -> Trainer:
        """Refuse also what this head has no use for."""
        for name in CHANGES_ENCODER if head.reads_features else ():
            if name in self.extra:
                raise SpecError(
                    f"trainer.extra.{name}: changes how the encoder is trained, and the head "
                    f"`{head.type}` does not train it; remove it"
                )
        return super().completed(head)

    def check(self) -> None:
        """Refuse names and values in `extra` that would do nothing, or that bertkit sets."""
        if not self.extra:
            return
        from typing import get_type_hints

        from transformers import TrainingArguments

        known = get_type_hints(TrainingArguments)
        usable = [name for name in USABLE if name in known]
        for name, value in self.extra.items():
            place = f"trainer.extra.{name}"
            if name in OWNED:
                raise SpecError(f"{place}: this is what `{OWNED[name]}` says; set that")
            if name not in usable:
                what = "not used by bertkit" if name in known else "no such field"
                raise SpecError(
                    f"{place}: {what}.{suggest(name, usable)} Usable: {', '.join(usable)}."
                )
            try:
                TypeAdapter(known[name]).validate_python(value, strict=True)
            except ValidationError as error:
                expected = " or ".join(item["msg"].lower() for item in error.errors())
                raise SpecError(f"{place}: {expected}; found {value!r}") from None
        with tempfile.TemporaryDirectory() as folder:
            self._arguments(folder, use_cpu=True)

    def _arguments(self, folder: str, **values: Any) -> Any:
        from transformers import TrainingArguments

        class Arguments(TrainingArguments):
            n_gpu = 1  # or Trainer spreads batches over all GPUs, and the trajectory is another

        try:
            return Arguments(output_dir=folder, **{**values, **self.extra})
        except (TypeError, ValueError, KeyError, ImportError) as error:
            raise SpecError(f"trainer.extra: refused by TrainingArguments: {error}") from error

    def fit(
        self, model: nn.Module, train: Encoded, validation: Encoded | None, ctx: TrainingContext
    ) -> Fitted:
        """Fit the model."""
        from transformers import PrinterCallback, ProgressCallback, TrainerState

        plan = Plan(self, train, ctx.seed, ctx.row_weights)
        with (
            tempfile.TemporaryDirectory(prefix="bertkit-") as folder,
            ctx.progress.bar("train", plan.steps) as bar,
        ):
            watch = Watch(plan, model, validation, ctx, bar)
            watch.resume()
            model.to(ctx.device)
            optimizer = optimizer_for(model, self, ctx.rates)
            arguments = self._arguments(
                folder,
                max_steps=plan.steps,
                per_device_train_batch_size=self.batch_size,
                gradient_accumulation_steps=self.accumulation,
                max_grad_norm=self.clip or 0.0,
                bf16=ctx.precision == "bf16",
                fp16=ctx.precision == "fp16",
                use_cpu=ctx.device == "cpu",
                seed=ctx.seed,
                eval_strategy="no",
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
                dataloader_pin_memory=ctx.device != "cpu",
            )
            trainer = _trainer_class()(
                plan=plan,
                watch=watch,
                model=model,
                args=arguments,
                optimizers=(optimizer, schedule_for(optimizer, plan)),
            )
            trainer.remove_callback(PrinterCallback)
            trainer.remove_callback(ProgressCallback)
            if watch.at.step:
                from safetensors.torch import save_file

                # whole, though it is loaded already: Trainer fails on a file that lacks weights
                save_file(model.state_dict(), Path(folder, "model.safetensors"))
                state = TrainerState(global_step=watch.at.step, max_steps=plan.steps)
                state.train_batch_size = self.batch_size
                state.save_to_json(str(Path(folder, "trainer_state.json")))
            if not watch.done:
                trainer.train(resume_from_checkpoint=folder if watch.at.step else None)
            trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
            return watch.finish()


def _trainer_class() -> Any:
    """Return the Trainer subclass; a function, because transformers is imported when used."""
    import torch
    from torch.utils.data import DataLoader, Dataset, Sampler
    from transformers import Trainer as HFTrainer
    from transformers import TrainerCallback

    class Rows(Dataset[Any]):
        def __init__(self, encoded: Encoded) -> None:
            self.encoded = encoded

        def __len__(self) -> int:
            return len(self.encoded)

        def __getitems__(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
            return self.encoded.batch(rows)

    class Order(Sampler[list[int]]):
        def __init__(self, plan: Plan) -> None:
            self.plan, self.epoch = plan, 0
            self.batch_size, self.drop_last = plan.options.batch_size, plan.options.drop_last

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __len__(self) -> int:
            return self.plan.batches_per_epoch

        def __iter__(self) -> Any:
            return iter(self.plan.batches(self.epoch))

    class WatchCallback(TrainerCallback):
        def __init__(self, trainer: Any) -> None:
            self.trainer, self.settled = trainer, False

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            optimizer: Any = self.trainer.optimizer
            self.trainer.watch.begin(optimizer.optimizer, self.trainer.lr_scheduler)

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if not self.settled:  # not earlier: the data loader draws random numbers, too
                self.trainer.watch.settle_random()
                self.settled = True

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            control.should_training_stop |= self.trainer.end_step()
            return control

    class WatchedTrainer(HFTrainer):
        def __init__(self, *, plan: Plan, watch: Watch, **rest: Any) -> None:
            self.plan, self.watch = plan, watch
            super().__init__(compute_loss_func=self.task_loss, **rest)
            self.model_accepts_loss_kwargs = False  # the loss is ours, and so is its divisor
            self.add_callback(WatchCallback(self))
            self.reset_step()

        def reset_step(self) -> None:
            self.loss_sum, self.samples, self.tokens, self.padded = 0.0, 0, 0, 0

        def get_train_dataloader(self) -> Any:
            loader = DataLoader(
                Rows(self.plan.train),
                batch_sampler=Order(self.plan),
                collate_fn=lambda batch: batch,
                generator=torch.Generator().manual_seed(self.plan.seed),
                num_workers=self.args.dataloader_num_workers,
                pin_memory=self.args.dataloader_pin_memory,
            )
            return self.accelerator.prepare(loader)

        def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
            batches = list(islice(epoch_iterator, num_batches))
            return batches, sum(len(batch["labels"]) for batch in batches)

        def task_loss(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
            loss = self.watch.ctx.loss(outputs.logits, labels)
            self.loss_sum += loss.item()
            return loss / num_items_in_batch

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            tokens, padded = padding_of(inputs)
            self.tokens, self.padded = self.tokens + tokens, self.padded + padded
            self.samples += len(inputs["labels"])
            return super().training_step(model, inputs, num_items_in_batch)

        def end_step(self) -> bool:
            stop = self.watch.step_done(self.loss_sum, self.samples, self.tokens, self.padded)
            self.reset_step()
            return stop

    return WatchedTrainer

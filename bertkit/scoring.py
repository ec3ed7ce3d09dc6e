"""Logits of a split, and the scores computed from them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bertkit.metrics.base import Metric
from bertkit.progress import Progress, Silent
from bertkit.records import Scores
from bertkit.tasks import Task
from bertkit.text.encoded import Encoded, sorted_batches

if TYPE_CHECKING:
    import torch
    from torch import nn


def autocast(device: str, precision: str) -> Any:
    """Return a context in which the forward pass computes in that precision."""
    import torch

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    return torch.autocast(
        torch.device(device).type, dtype=dtype, enabled=precision in ("bf16", "fp16")
    )


def predict_logits(
    model: nn.Module,
    split: Encoded,
    *,
    batch_size: int,
    device: str,
    precision: str = "fp32",
    progress: Progress | None = None,
    title: str = "evaluate",
) -> torch.Tensor:
    """Return the logits of every row in order, float32 (n, num_labels), on the CPU.

    The model is in eval mode meanwhile, and afterwards in the mode it was in.
    """
    import torch

    was_training = model.training
    model.eval()
    logits: torch.Tensor | None = None
    with torch.inference_mode(), (progress or Silent()).bar(title, len(split)) as bar:
        for rows in sorted_batches(split.lengths, batch_size):
            batch = {k: v.to(device) for k, v in split.batch(rows).items() if k != "labels"}
            with autocast(device, precision):
                output = model(**batch).logits.float().cpu()
            if logits is None:
                logits = torch.empty(len(split), output.shape[1])
            logits[rows] = output
            bar.advance(len(rows))
    model.train(was_training)
    assert logits is not None
    return logits


def compute_scores(
    logits: torch.Tensor,
    targets: np.ndarray[Any, Any],
    task: Task,
    metrics: Sequence[Metric],
    *,
    report: bool = False,
) -> Scores:
    """Return `loss` and every metric for given logits.

    Args:
        logits: float32 (n, num_labels), as they were trained.
        targets: what the model was to learn, n rows, as `Encoded.labels` holds them.
        task: of the run.
        metrics: what to compute.
        report: also compute the tables behind them.
    """
    import torch

    started = time.perf_counter()
    values = {"loss": float(task.loss(logits, torch.from_numpy(targets))) / len(targets)}
    truth, scores = task.truth(targets), task.scores(logits.numpy())
    decided = task.decide(scores)
    for metric in metrics:
        predictions = scores if metric.predictions == "scores" else decided
        result = metric.make(task).compute(
            references=truth.tolist(), predictions=predictions.tolist()
        )
        values[metric.key] = float(result[metric.key])
    tables = task.report(truth, decided) if report else {}
    return Scores(values, tables, time.perf_counter() - started, len(targets))

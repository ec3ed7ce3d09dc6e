"""The corridor: one spec in, one result out."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertkit import compute, yaml12
from bertkit.checkpoints import CheckpointStore
from bertkit.errors import ArtifactError, ModelError, SpecError
from bertkit.progress import Progress
from bertkit.records import Context, RunResult, Scores, Splits
from bertkit.session import Session, open_session
from bertkit.spec import RunSpec
from bertkit.tasks import Task
from bertkit.trainers.base import TrainingContext

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from bertkit.text.encoded import Encoded, Tokens

AGREEMENT = 1e-4
"""Largest difference between the logits that were trained and those of the saved model,
relative to the largest logit where that is above 1."""
COMPARED_TEXTS = 200


def run(
    spec: RunSpec | Mapping[str, Any] | str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> RunResult:
    """Turn a spec into a classifier.

    Args:
        spec: a RunSpec, a mapping, or the path of a YAML or JSON file.
        resume: go on where an earlier run in the same `output` was stopped.
        overwrite: replace the run that `output` holds.
        progress: where bars are shown; on a terminal by default.

    Returns:
        Metrics, history, timings, and `model_dir`, which plain transformers loads.

    Raises:
        BertkitError: one of its kinds, saying where, what was found, and what to do.

    Example:
        >>> result = bertkit.run({"encoder": "bert-base-chinese",
        ...                       "dataset": "reviews.csv"})  # doctest: +SKIP
        >>> result.metrics["validation"]["accuracy"]  # doctest: +SKIP
        0.93
    """
    if resume and overwrite:
        raise SpecError("--resume and --overwrite (resume=, overwrite=): give one of them")
    if isinstance(spec, (str, Path)):
        spec = RunSpec.from_file(spec)
    spec = complete(RunSpec.parse(spec, base=Path.cwd()), resume=resume)
    with ExitStack() as stack:
        session = stack.enter_context(open_session(spec, resume, overwrite, progress))
        if session.finished:
            return session.finished
        ctx = session.context

        with session.stage("load"):
            splits = session.record = _load(spec, ctx)
            ctx = ctx.with_(splits=splits)
            encoder, tokenizer = spec.encoder.load(ctx)
            spec.head.check_encoder(encoder)
            best = _best_rule(spec, splits)

        with session.stage("tokenize"):
            from bertkit.text.tokenize import TextEncoder, fit_policy, tokenize_splits

            long_text = fit_policy(spec.long_text, encoder, tokenizer)
            text_encoder = TextEncoder(tokenizer, long_text)
            tokens = session.record = tokenize_splits(splits, text_encoder, ctx)

        with session.stage("build"):
            compute.seed_everything(spec.seed)
            model = session.record = spec.head.build(encoder, splits.task, ctx)
            ctx = _describe_model(model, spec, ctx)
            encoded = {k: spec.head.encode(model, split, ctx) for k, split in tokens.items()}
            _describe_plan(spec, encoded["train"], ctx)
            _dry_pass(model, encoded["train"], splits.task, ctx)

        with session.stage("train"):
            session.settle()
            training = _training_context(spec, ctx, splits, session, best, resume)
            with compute.memory_errors(spec.trainer.batch_size):
                fitted = session.record = spec.trainer.fit(
                    model, encoded["train"], encoded.get("validation"), training
                )

        with session.stage("evaluate"):
            scores = session.record = _evaluate(model, encoded, splits, spec, ctx)

        with session.stage("save"):
            exported = spec.head.export(model.cpu(), splits.task)
            _compare(model, exported, tokens, ctx)
            session.save(spec, exported, tokenizer, model, splits, long_text, scores)
            session.record = session.model_dir

        return session.finish(spec, splits, tokens, fitted, scores)


def complete(spec: RunSpec, *, resume: bool = False) -> RunSpec:
    """Fill in what the user left open, and let every component check its options."""
    done = spec.model_copy(update={"trainer": spec.trainer.completed(spec.head)})
    if done.output is None:
        if resume:
            raise SpecError(
                "output: not set, so there is no telling which run to resume; name its folder "
                "(--set output=runs/…), or run the spec.yaml in it"
            )
        done = done.model_copy(update={"output": str(_new_folder(spec.dataset.type))})
    for component in done.components().values():
        component.check()
    size = len(done.to_yaml().encode())
    if size > yaml12.MAX_BYTES:
        raise SpecError(
            f"the spec has {size:,} bytes, more than the {yaml12.MAX_BYTES:,} that spec.yaml may "
            "have; keep the texts in a file (`type: files`) or give a frame from Python"
        )
    return done


def _new_folder(name: str) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for suffix in ("", *(f"-{n}" for n in range(2, 1000))):
        folder = Path.cwd() / "runs" / f"{name}-{stamp}{suffix}"
        if not folder.exists():
            break
    return folder


def _load(spec: RunSpec, ctx: Context) -> Splits:
    from bertkit.datasets.splits import load_splits

    splits = load_splits(spec.dataset, ctx, spec.task)
    for metric in spec.metrics:
        if splits.task.kind not in metric.tasks:
            raise SpecError(f"metrics: `{metric.type}` is not defined for {splits.task.kind} tasks")
        metric.make(splits.task)  # refuses label names that do not exist, before training
    counts = splits.summary()
    for name, labels in counts.items():
        shown = "  ".join(f"{label} {count}" for label, count in list(labels.items())[:12])
        more = "  …" if len(labels) > 12 else ""
        ctx.say(f"{name}: {sum(labels.values())} texts  ({shown}{more})")
    return splits


def _best_rule(spec: RunSpec, splits: Splits) -> tuple[str, bool] | None:
    options = spec.trainer
    if splits.validation is None:
        asked = {
            "best": options.best not in ("auto", None),
            "early_stopping": options.early_stopping is not None,
            "baseline": options.baseline,
        }
        for name, wanted in asked.items():
            if wanted:
                raise SpecError(
                    f"trainer.{name}: needs a validation split, and there is none; "
                    "give dataset.validation, such as 0.1"
                )
        return None
    if options.best is None or options.evaluate is None:
        return None
    if options.best == "loss":
        return "loss", False
    by_key = {metric.key: metric for metric in spec.metrics}
    metric = spec.metrics[0] if options.best == "auto" else by_key[options.best]
    return metric.key, metric.greater_is_better


def _describe_model(model: nn.Module, spec: RunSpec, ctx: Context) -> Context:
    """Count parameters, settle the precision, and say both."""
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    ctx.note("parameters", {"total": total, "trainable": trained})
    ctx.say(f"model: {total:,} parameters, {trained:,} of them trained")
    wanted = spec.trainer.precision
    if wanted == "auto" and spec.head.reads_features:
        precision, reason = "fp32", "features are kept exact"
    else:
        folder = spec.compute.cache_dir()
        precision, reason = compute.resolve_precision(wanted, ctx.device, folder)
    ctx.note("precision", {"used": precision, "reason": reason})
    ctx.say(f"device: {compute.describe_device(ctx.device)}, {precision} ({reason})")
    return ctx.with_(precision=precision)


def _describe_plan(spec: RunSpec, train: Encoded, ctx: Context) -> None:
    from bertkit.trainers.training import Plan

    plan = Plan(spec.trainer, train, spec.seed)
    # asked here, so that a train split too small for the options is refused before training
    ctx.say(f"plan: {plan.steps_per_epoch} optimizer steps an epoch, {plan.steps} in all")


def _dry_pass(model: nn.Module, train: Encoded, task: Task, ctx: Context) -> None:
    """Send one batch through the untrained model, so that what cannot work fails at once.

    Raises:
        ModelError: the logits are not finite, or not one a label.
    """
    import torch

    from bertkit.scoring import autocast

    batch = train.batch(range(min(len(train), 4)))
    labels = batch.pop("labels")
    model.to(ctx.device).eval()
    with torch.inference_mode(), autocast(ctx.device, ctx.precision):
        logits = model(**{k: v.to(ctx.device) for k, v in batch.items()}).logits.float().cpu()
    if logits.shape != (len(labels), task.num_labels) or not logits.isfinite().all():
        raise ModelError(
            f"the untrained model gives logits of shape {tuple(logits.shape)}, "
            f"finite: {bool(logits.isfinite().all())}; expected finite ones of shape "
            f"({len(labels)}, {task.num_labels}); are the encoder's weights damaged?"
        )
    loss = float(task.loss(logits, labels)) / len(labels)
    ctx.say(f"one batch through the untrained model: loss {loss:.4f}")


def _training_context(
    spec: RunSpec,
    ctx: Context,
    splits: Splits,
    session: Session,
    best: tuple[str, bool] | None,
    resume: bool,
) -> TrainingContext:
    facts = {f"data.{name}": value for name, value in splits.fingerprints.items()}
    facts |= {"torch": metadata.version("torch"), "precision": ctx.precision}
    store = CheckpointStore(session.run_dir / "checkpoints", facts, keep=spec.trainer.keep)
    return TrainingContext(
        **vars(ctx), task=splits.task, metrics=spec.metrics, store=store, best=best,
        resume=resume,
    )  # fmt: skip


def _evaluate(
    model: nn.Module, encoded: Mapping[str, Encoded], splits: Splits, spec: RunSpec, ctx: Context
) -> dict[str, Scores]:
    from bertkit.scoring import compute_scores, predict_logits

    model.to(ctx.device)
    results = {}
    for name in ("validation", "test"):
        if name not in encoded:
            continue
        started = time.perf_counter()
        logits = predict_logits(
            model, encoded[name], batch_size=ctx.eval_batch_size, device=ctx.device,
            precision=ctx.precision, progress=ctx.progress, title=f"evaluate {name}",
        )  # fmt: skip
        scores = compute_scores(
            logits, encoded[name].labels, splits.task, spec.metrics, report=True
        )
        seconds = time.perf_counter() - started
        results[name] = Scores(scores.metrics, scores.report, seconds, scores.texts)
        words = "  ".join(f"{key} {value:.4f}" for key, value in scores.metrics.items())
        ctx.say(f"{name}: {words}")
        for key, value in scores.metrics.items():
            if math.isnan(value):
                ctx.warn(f"{name}: {key} is not defined on these {scores.texts} texts")
    return results


def _compare(
    model: nn.Module, exported: PreTrainedModel, tokens: Mapping[str, Tokens], ctx: Context
) -> None:
    """Hold the model to be saved against the one that was trained, on real texts.

    Raises:
        ArtifactError: they disagree.
    """
    if exported is model:
        return
    from bertkit.scoring import predict_logits

    split = tokens.get("test") or tokens.get("validation") or tokens["train"]
    some = split.head(COMPARED_TEXTS)
    size = ctx.eval_batch_size
    wanted = predict_logits(model, some, batch_size=size, device="cpu")
    found = predict_logits(exported.eval(), some, batch_size=size, device="cpu")
    difference = float((wanted - found).abs().max())
    ctx.note("export_difference", difference)
    ctx.say(f"saved model against trained head: logits differ by {difference:.1e} at most")
    if not difference <= AGREEMENT * max(1.0, float(wanted.abs().max())):
        raise ArtifactError(
            f"the model cannot be saved as a plain transformers model: on {len(some)} texts its "
            f"logits differ by {difference:.1e} from what was trained; choose another head.pooling"
        )

"""The corridor: one spec in, one result out."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bertkit import compute, yaml12
from bertkit.artifact import Exported, as_trained, attention_of
from bertkit.checkpoints import CheckpointStore
from bertkit.datasets.splits import FEW
from bertkit.errors import ArtifactError, ModelError, SpecError, suggest
from bertkit.progress import Progress
from bertkit.records import Context, RunResult, Scores, Splits, score_text
from bertkit.registry import registry
from bertkit.session import Session, open_session
from bertkit.spec import RunSpec
from bertkit.trainers.base import TrainingContext

if TYPE_CHECKING:
    from torch import nn

    from bertkit.heads.base import Head
    from bertkit.metrics.base import Metric
    from bertkit.tasks import Task
    from bertkit.text.encoded import Encoded, Tokens
    from bertkit.text.long_text import LongText
    from bertkit.trainers.base import Trainer

AGREEMENT = 1e-4
"""Largest difference between the logits that were trained and those of the saved model,
relative to the largest logit where that is above 1."""
COMPARED_TEXTS, COMPARED_TOKENS = 64, 2**14
"""At most so many texts, and no more than that many tokens unless one text has more, are run
through the trained and the saved model."""


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
            spec = _with_metrics(spec, splits.task)
            best = _best_rule(spec, splits, ctx)
            ctx = ctx.with_(splits=splits)
            encoder, tokenizer = spec.encoder.load(ctx)
            spec.head.check_encoder(encoder)

        with session.stage("tokenize"):
            from bertkit.text.tokenize import TextEncoder, fit_policy, tokenize_splits

            text_encoder = TextEncoder(tokenizer, fit_policy(spec.long_text, encoder, tokenizer))
            long_text = text_encoder.policy
            tokens = session.record = tokenize_splits(splits, text_encoder, ctx)

        with session.stage("build"):
            compute.seed_everything(spec.seed)
            inner = spec.head.build(encoder, splits.task, ctx)
            model = session.record = _over_windows(inner, long_text, splits.task)
            ctx = _describe_model(model, spec, ctx)
            encoded = {k: spec.head.encode(inner, split, ctx) for k, split in tokens.items()}
            trainer = spec.trainer.sized(spec.head, len(encoded["train"]))
            _describe_plan(trainer, encoded["train"], ctx)
            _dry_pass(model, encoded["train"], splits.task, ctx)

        with session.stage("train"):
            session.settle()
            training = _training_context(
                spec, ctx, splits, session,
                best=best, resume=resume, rates=_rates(spec.head, inner, model),
                shaping=trainer.shaping(splits.task, encoded["train"].labels),
                row_weights=trainer.row_weights(splits.task, encoded["train"].labels),
            )  # fmt: skip
            with compute.memory_errors(trainer.batch_size):
                fitted = session.record = trainer.fit(
                    model, encoded["train"], encoded.get("validation"), training
                )

        with session.stage("evaluate"):
            task, scores = _evaluate(model, encoded, splits, spec, ctx)
            session.record = scores

        with session.stage("save"):
            exported = _export(model.cpu(), inner, spec, tokens, task, long_text, ctx)
            session.save(spec, exported, tokenizer, splits, task, long_text, scores)
            session.record = session.model_dir

        return session.finish(spec, splits, task, tokens, fitted, scores)


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
    asked = spec.task.thresholds if spec.task else None
    # asked here, too, so that labels that do not exist are refused before anything expensive
    if splits.validation is None or asked != "validation":
        splits.task.with_thresholds(asked, None, None)
    targets = splits.task.targets(splits.train["label"][:])
    spec.trainer.shaping(splits.task, targets)
    spec.trainer.row_weights(splits.task, targets)
    pairs = len(spec.dataset.text_columns) > 1
    if pairs and spec.long_text.keep == "windows":
        raise SpecError(
            "long_text.keep: windows is for single texts, and dataset.text names a pair; for pairs "
            "take head, tail or head+tail, and say with long_text.cut which text loses tokens"
        )
    if spec.long_text.cut is not None and not pairs:
        raise SpecError(
            f"long_text.cut: {spec.long_text.cut}, but dataset.text names one column; it says "
            "which text of a pair is cut, so take it out"
        )
    for name, summary in splits.summary().items():
        ctx.say(f"{name}: {getattr(splits, name).num_rows} texts  ({splits.task.told(summary)})")
    return splits


def _with_metrics(spec: RunSpec, task: Task) -> RunSpec:
    """Return the spec with the task's own metrics where it names none, each of them checked."""
    if spec.metrics is None:
        found = (registry().find("metric", name) for name in task.default_metrics)
        metrics = tuple(cast("Metric", cls.model_validate({})) for cls in found)
        spec = spec.model_copy(update={"metrics": metrics})
    for metric in spec.metrics or ():
        if task.kind not in metric.tasks:
            known = ((r.name, cast("type[Metric]", r.cls)) for r in registry().all("metric"))
            near = [name for name, cls in known if task.kind in cls.tasks]
            raise SpecError(
                f"metrics: `{metric.type}` is for {' and '.join(metric.tasks)}, and the task is "
                f"{task.kind}; choose from: {', '.join(near)}"
            )
        metric.make(task)  # refuses label names that do not exist, before training
    return spec


def _best_rule(spec: RunSpec, splits: Splits, ctx: Context) -> tuple[str, bool] | None:
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
    count = splits.validation.num_rows
    if count < FEW and options.best == "auto" and options.early_stopping is None:
        ctx.say(
            f"best model: the last weights are kept, as {count} validation texts are too few to "
            f"choose by (fewer than {FEW}); `trainer.best` says otherwise"
        )
        return None
    metrics = spec.metrics or ()
    for metric in metrics:
        if options.best in ("auto", metric.key):
            return metric.key, metric.greater_is_better
    known = ["loss", *(metric.key for metric in metrics)]
    raise SpecError(
        f"trainer.best: found `{options.best}`; expected `auto` or one of: {', '.join(known)}."
        f"{suggest(str(options.best), known)}"
    )


def _over_windows(inner: nn.Module, policy: LongText, task: Task) -> nn.Module:
    """Return a head's module as it reads texts: window by window where the policy says so."""
    if policy.keep != "windows":
        return inner
    from bertkit.heads.windows import Windowed

    return Windowed(inner, policy.pool or "mean", task.num_labels)


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


def _describe_plan(trainer: Trainer, train: Encoded, ctx: Context) -> None:
    from bertkit.trainers.training import Plan

    plan = Plan(trainer, train, ctx.seed)
    # asked here, so that a train split too small for the options is refused before training
    ctx.say(
        f"plan: {plan.steps_per_epoch} optimizer steps an epoch, {plan.steps} in all "
        f"({plan.steps / plan.steps_per_epoch:.3g} epochs)"
    )


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
    spec: RunSpec, ctx: Context, splits: Splits, session: Session, **more: Any
) -> TrainingContext:
    facts = {f"data.{name}": value for name, value in splits.fingerprints.items()}
    facts |= {"torch": metadata.version("torch"), "precision": ctx.precision}
    store = CheckpointStore(session.run_dir / "checkpoints", facts, keep=spec.trainer.keep)
    return TrainingContext(
        **vars(ctx), task=splits.task, metrics=spec.metrics or (), store=store, **more
    )


def _rates(head: Head, inner: nn.Module, model: nn.Module) -> dict[str, float]:
    """Return the head's learning-rate factors by the names that the trained model has."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    trained = {name: names[parameter] for name, parameter in inner.named_parameters()}
    return {trained.get(name, name): factor for name, factor in head.rates(inner).items()}


def _evaluate(
    model: nn.Module, encoded: Mapping[str, Encoded], splits: Splits, spec: RunSpec, ctx: Context
) -> tuple[Task, dict[str, Scores]]:
    """Score validation and test; return also the task as it decides from now on."""
    from bertkit.scoring import compute_scores, predict_logits

    model.to(ctx.device)
    task, results = splits.task, {}
    if "validation" not in encoded:
        task = _decided(task, spec, ctx)
    for name in ("validation", "test"):
        if name not in encoded:
            continue
        started = time.perf_counter()
        targets = encoded[name].labels
        logits = predict_logits(
            model, encoded[name], batch_size=ctx.eval_batch_size, device=ctx.device,
            precision=ctx.precision, progress=ctx.progress, title=f"evaluate {name}",
        )  # fmt: skip
        if name == "validation":
            task = _decided(task, spec, ctx, task.scores(logits.numpy()), task.truth(targets))
        scores = compute_scores(logits, targets, task, spec.metrics or (), report=True)
        seconds = time.perf_counter() - started
        results[name] = Scores(scores.metrics, scores.report, seconds, scores.texts)
        words = "  ".join(f"{key} {score_text(value)}" for key, value in scores.metrics.items())
        ctx.say(f"{name}: {words}")
        for key, value in scores.metrics.items():
            if math.isnan(value):
                ctx.warn(f"{name}: {key} is not defined on these {scores.texts} texts")
    return task, results


def _decided(
    task: Task, spec: RunSpec, ctx: Context, scores: Any = None, truth: Any = None
) -> Task:
    """Return the task with its thresholds, and say them."""
    decided, told = task.with_thresholds(spec.task.thresholds if spec.task else None, scores, truth)
    for line in told:
        ctx.say(line)
    return decided


def _export(
    model: nn.Module, inner: nn.Module, spec: RunSpec, tokens: Mapping[str, Tokens], task: Task,
    long_text: LongText, ctx: Context,
) -> Exported:  # fmt: skip
    """Return the plain model to be saved, held against the one that was trained, on real texts.

    Raises:
        ArtifactError: they disagree.
    """
    from bertkit.scoring import predict_logits

    split = tokens.get("test") or tokens.get("validation") or tokens["train"]
    within = int((split.lengths.cumsum() <= COMPARED_TOKENS).sum())
    some = split.head(max(1, min(within, COMPARED_TEXTS)))

    def logits(module: nn.Module) -> Any:
        return predict_logits(module, some, batch_size=ctx.eval_batch_size, device="cpu").numpy()

    wanted = logits(model)
    native = {**spec.head.native(inner), **attention_of(model)}
    exported = Exported(spec.head.export(inner, task), native)
    found = task.from_plain(logits(as_trained(exported, spec.head, task, long_text)))
    difference = float(abs(wanted - found).max())
    ctx.note("export_difference", difference)
    ctx.say(f"saved model against trained head: logits differ by {difference:.1e} at most")
    if not difference <= AGREEMENT * max(1.0, float(abs(wanted).max())) + task.rounding:
        raise ArtifactError(
            f"the model cannot be saved as a plain transformers model: on {len(some)} texts its "
            f"logits differ by {difference:.1e} from what was trained; choose another head, or "
            "another pooling of it"
        )
    return exported

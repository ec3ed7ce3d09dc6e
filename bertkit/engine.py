"""The corridor: one spec in, one result out."""

from __future__ import annotations

import json
import math
import platform
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from loguru import logger

from bertkit import __version__, compute, yaml12
from bertkit.checkpoints import CheckpointStore, random_state, restore_random_state, write_durably
from bertkit.component import Component
from bertkit.errors import ArtifactError, BertkitError, CheckpointError, ModelError, SpecError
from bertkit.progress import Progress, Silent
from bertkit.records import Context, Fitted, Run, RunResult, Scores, Splits, Task
from bertkit.registry import registry
from bertkit.spec import RunSpec
from bertkit.trainers.base import TrainingContext

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from bertkit.text.encoded import Encoded, Tokens

MARK = "# bertkit run; replay it with: bertkit run spec.yaml --set output=ELSEWHERE\n"
AGREEMENT = 1e-4
"""Largest difference between the logits that were trained and those of the saved model,
relative to the largest logit where that is above 1."""
COMPARED_TEXTS = 200
PROBE = ".writable"
"""Written and removed to see whether a folder can be written."""
PACKAGES = (
    "torch", "transformers", "datasets", "tokenizers", "accelerate", "safetensors", "numpy",
    "scikit-learn", "evaluate",
)  # fmt: skip


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
        session = stack.enter_context(_session(spec, resume, overwrite, progress))
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
    for component in components(done).values():
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


def components(spec: RunSpec) -> dict[str, Component]:
    """Return the components of a spec by their place in it."""
    named: dict[str, Component] = {
        kind: getattr(spec, kind) for kind in ("encoder", "dataset", "head", "trainer")
    }
    return named | {f"metrics.{i}": metric for i, metric in enumerate(spec.metrics)}


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
    session: _Session,
    best: tuple[str, bool] | None,
    resume: bool,
) -> TrainingContext:
    facts = {f"data.{name}": value for name, value in splits.fingerprints.items()}
    facts |= {"torch": metadata.version("torch"), "precision": ctx.precision}
    store = CheckpointStore(session.run_dir / "checkpoints", facts, keep=spec.trainer.keep)
    return TrainingContext(
        **{**vars(ctx)}, task=splits.task, metrics=spec.metrics, store=store, best=best,
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


class _Session:
    """What a run holds while it is under way: log, warnings, timings, notes, run directory."""

    def __init__(self, spec: RunSpec, run_dir: Path, resumed: bool, progress: Progress) -> None:
        self.run = Run(spec, run_dir, resumed)
        self.run_dir, self.model_dir = run_dir, run_dir / "model"
        self.log_file = _LogFile(run_dir / "log.txt")
        self.finished: RunResult | None = None
        self.record: object = None
        self.settled = resumed
        self.timings: dict[str, float] = {}
        self.warnings: list[str] = []
        self.notes: dict[str, Any] = {}
        self.started = time.perf_counter()
        self.key = uuid.uuid4().hex
        self.log = logger.bind(bertkit_run=self.key)
        self.context = Context(
            seed=spec.seed,
            offline=spec.offline,
            device=compute.resolve_device(spec.compute.device),
            workers=spec.compute.workers,
            eval_batch_size=spec.trainer.eval_batch_size,
            cache_dir=spec.compute.cache_dir(),
            say=self.log.info,
            warn=self.warn,
            note=self.note,
            progress=progress,
        )

    def warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)
            self.log.warning(message)

    def note(self, key: str, value: Any) -> None:
        """Keep a fact; mappings of one key are merged, and a cache hit counts if all were hits."""
        if isinstance(value, dict) and isinstance(self.notes.get(key), dict):
            value = {**self.notes[key], **value}
        if key == "feature_cache" and self.notes.get(key) == "miss":
            value = "miss"
        self.notes[key] = value

    def observe(self, hook: str, **event: Any) -> None:
        registry().observe(hook, self.log.warning, run=self.run, **event)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.timings[name] = round(time.perf_counter() - started, 3)
        self.observe("bertkit_stage_finished", stage=name, record=self.record)

    def settle(self) -> None:
        """Write down what runs: from here on the run directory is worth keeping."""
        if not self.run.resumed:
            _clear(self.run_dir)
        self.log_file.open()
        self.write("spec.yaml", MARK + self.run.spec.to_yaml())
        self.settled = True

    def write(self, name: str, text: str) -> None:
        try:
            write_durably(self.run_dir / name, text)
        except OSError as error:
            raise ArtifactError(
                f"{self.run_dir / name}: cannot be written ({error.strerror})"
            ) from error

    def save(
        self, spec: RunSpec, exported: Any, tokenizer: Any, model: nn.Module, splits: Splits,
        long_text: Any, scores: Mapping[str, Scores],
    ) -> None:  # fmt: skip
        from bertkit.artifact import model_card, save_model

        parts = components(spec)
        head = spec.head.model_dump(mode="json")
        encoder = str(getattr(spec.encoder, "name", spec.encoder.type))
        numbers = {name: _plain(score.metrics) for name, score in scores.items()}
        save_model(
            self.model_dir, exported, tokenizer,
            task=splits.task,
            long_text=long_text,
            card=model_card(
                self.run_dir.name, splits.task, long_text, head, Path(encoder).name, numbers
            ),
            native=spec.head.native(model),
            settings={
                "bertkit": __version__,
                "head": head,
                "metrics": [metric.model_dump(mode="json") for metric in spec.metrics],
                "columns": dict(splits.columns),
                "label_values": dict(splits.label_values),
                "plugins": {
                    place: origin.distribution
                    for place, part in parts.items()
                    if (origin := registry().origin(part)).distribution != "bertkit"
                },
            },
        )  # fmt: skip
        self.log.info(f"model saved: {self.model_dir}")

    def finish(
        self,
        spec: RunSpec,
        splits: Splits,
        tokens: Mapping[str, Tokens],
        fitted: Fitted,
        scores: Mapping[str, Scores],
    ) -> RunResult:
        total = time.perf_counter() - self.started
        self.timings["total"] = round(total, 3)
        notes = dict(self.notes)
        training = {
            "steps": fitted.steps,
            "epochs": fitted.epochs,
            "train_loss": fitted.train_loss,
            "best": fitted.best,
            "stopped_early": fitted.stopped_early,
            "resumed_from": fitted.resumed_from,
            "padding": round(fitted.padding, 4),
            "parameters": notes.pop("parameters"),
            "precision": notes.pop("precision"),
            "samples_per_second": notes.pop("samples_per_second", None),
            "device": compute.describe_device(self.context.device),
            "peak_memory_bytes": compute.peak_memory(),
            "batch_size": spec.trainer.batch_size * spec.trainer.accumulation,
            "learning_rate": spec.trainer.learning_rate,
        }
        data = {
            "labels": splits.summary(),
            "lengths": {name: asdict(one.report) for name, one in tokens.items()},
            "token_cache": notes.pop("token_cache"),
            "feature_cache": notes.pop("feature_cache", None),
        }
        origins = {place: registry().origin(part) for place, part in components(spec).items()}
        provenance = {
            "bertkit": __version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "packages": {name: metadata.version(name) for name in PACKAGES},
            "components": {place: asdict(origin) for place, origin in origins.items()},
            "data": dict(splits.fingerprints),
            "seed": spec.seed,
            **notes,
        }
        result = RunResult(
            metrics={name: _plain(score.metrics) for name, score in scores.items()},
            run_dir=str(self.run_dir),
            model_dir=str(self.model_dir),
            history=fitted.history,
            timings=self.timings,
            warnings=tuple(self.warnings),
            reports={name: dict(score.report) for name, score in scores.items()},
            data=data,
            training=training,
            provenance=provenance,
            task={"kind": splits.task.kind, "labels": list(splits.task.labels)},
        )
        self.write("result.json", result.to_json())
        peak = training["peak_memory_bytes"] / 2**30
        self.log.info(f"done in {total:.1f} s, peak memory {peak:.2f} GiB")
        self.observe("bertkit_run_finished", result=result)
        return result


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


@contextmanager
def _session(
    spec: RunSpec, resume: bool, overwrite: bool, progress: Progress | None
) -> Iterator[_Session]:
    """Prepare run directory, log and libraries; undo a directory that came to nothing."""
    run_dir = Path(str(spec.output))
    resumed = _check_output(spec, run_dir, resume, overwrite)
    if progress is None:
        from bertkit.console import terminal_progress

        progress = terminal_progress()
    session = _Session(spec, run_dir, resumed, progress or Silent())
    if resumed and (run_dir / "result.json").is_file():
        session.log.info(f"{run_dir}: this run is finished; nothing to resume")
        session.finished = RunResult.read(run_dir)
        yield session
        return
    made = _make_folders(run_dir)
    if resumed:
        session.log_file.open()
    sink = logger.add(
        session.log_file,
        format="{time:YYYY-MM-DD HH:mm:ss.SSS} {level: <7} {message}",
        filter=lambda record: record["extra"].get("bertkit_run") == session.key,
        level="DEBUG", diagnose=False, backtrace=False,
    )  # fmt: skip
    with ExitStack() as stack:
        stack.callback(lambda: None if session.settled else _remove_empty(made))
        stack.callback(logger.remove, sink)
        stack.enter_context(compute.network(spec.offline))
        stack.enter_context(compute.quiet_libraries())
        stack.enter_context(_threads(spec.compute.threads))
        state = random_state()
        stack.callback(restore_random_state, state)
        try:
            session.log.info(f"bertkit {__version__}: {run_dir}")
            session.observe("bertkit_run_started")
            yield session
        except BaseException as error:
            session.observe("bertkit_run_failed", error=error)
            level = "ERROR" if isinstance(error, BertkitError) else "CRITICAL"
            session.log.log(level, f"{type(error).__name__}: {error}".removesuffix(": "))
            raise


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _is_run(folder: Path) -> bool:
    try:
        return (folder / "spec.yaml").read_text(encoding="utf-8").startswith(MARK[:13])
    except (OSError, UnicodeDecodeError):
        return False


def _check_output(spec: RunSpec, run_dir: Path, resume: bool, overwrite: bool) -> bool:
    """Say whether there is a run to resume; refuse a folder that is somebody else's.

    Raises:
        ArtifactError: the folder holds something else, or a run that was not to be touched.
        CheckpointError: the run to resume had another spec.
    """
    if "\0" in str(run_dir):
        raise ArtifactError(f"output: {str(run_dir)!r} holds a null character; choose another")
    try:
        if run_dir.exists() and not run_dir.is_dir():
            raise ArtifactError(f"output: {run_dir} is a file; expected a folder")
        # a run killed while it wrote its first file left no more than that behind
        empty = not run_dir.exists() or all(map(_is_staged, run_dir.iterdir()))
    except OSError as error:
        raise ArtifactError(
            f"output: {run_dir} cannot be used ({error.strerror}); choose another folder"
        ) from None
    if empty:
        return False
    if not _is_run(run_dir):
        raise ArtifactError(
            f"output: {run_dir} is not empty and not a run of bertkit; choose a new folder"
        )
    if overwrite:
        return False
    if not resume:
        state = "a finished run" if (run_dir / "result.json").exists() else "an unfinished run"
        raise ArtifactError(
            f"output: {run_dir} holds {state}; go on with it (--resume), replace it (--overwrite), "
            "or choose another output"
        )
    before = RunSpec.from_file(run_dir / "spec.yaml")
    different = _differences(before.model_dump(mode="json"), spec.model_dump(mode="json"))
    if different:
        raise CheckpointError(
            f"{run_dir}: cannot resume, because the spec has changed: {'; '.join(different)}. "
            "Undo the change, or choose another output"
        )
    return True


def _differences(before: Any, now: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in {**before, **now}:
            place = f"{path}.{key}" if path else key
            if place not in ("output", "compute", "offline"):
                found += _differences(before.get(key), now.get(key), place)
        return found
    return [] if before == now else [f"{path} was {json.dumps(before)}, is {json.dumps(now)}"]


def _make_folders(run_dir: Path) -> list[Path]:
    """Make the run directory; return the folders that were not there before, innermost first."""
    missing = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        probe = run_dir / PROBE
        probe.touch()
        probe.unlink()
    except OSError as error:
        _remove_empty(missing)
        raise ArtifactError(
            f"output: {run_dir} cannot be written ({error.strerror or error}); choose another"
        ) from None
    return missing


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _clear(run_dir: Path) -> None:
    """Remove what an earlier run left here, and nothing else; spec.yaml is to be replaced."""
    staged = [path.name for path in run_dir.iterdir() if _is_staged(path)]
    # result.json first: a run that looks finished is whole
    for name in ("result.json", "log.txt", *staged):
        (run_dir / name).unlink(missing_ok=True)
    for name in ("model", ".model.new", ".model.old", "checkpoints"):
        shutil.rmtree(run_dir / name, ignore_errors=True)


def _is_staged(path: Path) -> bool:
    return path.name == PROBE or path.name.startswith((".spec.yaml.", ".result.json."))


class _LogFile:
    """log.txt; its lines are kept in memory until the run directory is worth keeping."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.early: list[str] = []
        self.file: IO[str] | None = None

    def open(self) -> None:
        if self.file is None:
            self.file = self.path.open("a", encoding="utf-8", errors="backslashreplace")
            self.file.writelines(self.early)
            self.file.flush()

    def write(self, message: str) -> None:
        if self.file is None:
            self.early.append(message)
        else:
            self.file.write(message)

    def flush(self) -> None:
        if self.file is not None:
            self.file.flush()

    def stop(self) -> None:
        """Close the file; loguru calls this when the sink is removed."""
        if self.file is not None:
            self.file.close()

"""What a run holds while it is under way: run directory, log, warnings, timings, notes."""

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
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from loguru import logger

from bertkit import __version__, compute
from bertkit.checkpoints import random_state, restore_random_state, write_durably
from bertkit.errors import ArtifactError, BertkitError, CheckpointError
from bertkit.progress import Progress, Silent
from bertkit.records import Context, Fitted, Run, RunResult, Scores, Splits
from bertkit.registry import registry
from bertkit.spec import RunSpec

if TYPE_CHECKING:
    from bertkit.artifact import Exported
    from bertkit.tasks import Task
    from bertkit.text.encoded import Tokens
    from bertkit.text.long_text import LongText

MARK = "# bertkit run; replay it with: bertkit run spec.yaml --set output=ELSEWHERE\n"
PROBE = ".writable"
"""Written and removed to see whether a folder can be written."""
PACKAGES = (
    "torch", "transformers", "datasets", "tokenizers", "accelerate", "safetensors", "numpy",
    "scikit-learn", "evaluate",
)  # fmt: skip


class Session:
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
        """Log a warning and keep it for the result, once."""
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
        """Tell the observers."""
        registry().observe(hook, self.log.warning, run=self.run, **event)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, and tell the observers of its `record` when it is done."""
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
        """Write a file of the run directory, whole or not at all.

        Raises:
            ArtifactError: it cannot be written.
        """
        try:
            write_durably(self.run_dir / name, text)
        except OSError as error:
            raise ArtifactError(
                f"{self.run_dir / name}: cannot be written ({error.strerror})"
            ) from error

    def save(
        self, spec: RunSpec, exported: Exported, tokenizer: Any, splits: Splits, task: Task,
        long_text: LongText, scores: Mapping[str, Scores],
    ) -> None:  # fmt: skip
        """Save the exported model with its card and settings."""
        from bertkit.artifact import model_card, save_model

        parts = spec.components()
        head = spec.head.model_dump(mode="json")
        encoder = str(getattr(spec.encoder, "name", spec.encoder.type))
        numbers = {name: _plain(score.metrics) for name, score in scores.items()}
        save_model(
            self.model_dir, exported, tokenizer,
            task=task,
            long_text=long_text,
            card=model_card(
                self.run_dir.name, task, long_text, head, Path(encoder).name, numbers,
                columns=spec.dataset.text_columns,
            ),
            settings={
                "bertkit": __version__,
                "head": head,
                "metrics": [metric.model_dump(mode="json") for metric in spec.metrics or ()],
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
        task: Task,
        tokens: Mapping[str, Tokens],
        fitted: Fitted,
        scores: Mapping[str, Scores],
    ) -> RunResult:
        """Sum the run up, write result.json, and tell the observers."""
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
        origins = {place: registry().origin(part) for place, part in spec.components().items()}
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
            task=task.settings(),
        )
        self.write("result.json", result.to_json())
        peak = training["peak_memory_bytes"] / 2**30
        self.log.info(f"done in {total:.1f} s, peak memory {peak:.2f} GiB")
        self.observe("bertkit_run_finished", result=result)
        return result


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


@contextmanager
def open_session(
    spec: RunSpec, resume: bool, overwrite: bool, progress: Progress | None
) -> Iterator[Session]:
    """Prepare run directory, log and libraries; undo a directory that came to nothing."""
    run_dir = Path(str(spec.output))
    resumed = _check_output(spec, run_dir, resume, overwrite)
    if progress is None:
        from bertkit.console import terminal_progress

        progress = terminal_progress()
    session = Session(spec, run_dir, resumed, progress or Silent())
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

"""The hooks a plugin may implement, each with an example.

A plugin is a module named by an entry point in the group `bertkit`:

    [project.entry-points.bertkit]
    tweets = "bertkit_tweets"

Importing that module must pull in nothing heavy: import torch, transformers and datasets inside
the method that needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from bertkit.datasets.base import DatasetLoader
    from bertkit.encoders.base import Encoder
    from bertkit.heads.base import Head
    from bertkit.metrics.base import Metric
    from bertkit.records import Run, RunResult
    from bertkit.trainers.base import Trainer

PROJECT = "bertkit"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def bertkit_datasets() -> list[type[DatasetLoader]]:  # type: ignore[empty-body]
    """Return the dataset loaders that this plugin adds.

    Example:
        @bertkit.hookimpl
        def bertkit_datasets():
            return [Tweets]
    """


@hookspec
def bertkit_encoders() -> list[type[Encoder]]:  # type: ignore[empty-body]
    """Return the encoders that this plugin adds.

    Example:
        @bertkit.hookimpl
        def bertkit_encoders():
            return [MiniLM]
    """


@hookspec
def bertkit_heads() -> list[type[Head]]:  # type: ignore[empty-body]
    """Return the heads that this plugin adds.

    Example:
        @bertkit.hookimpl
        def bertkit_heads():
            return [TextCNN]
    """


@hookspec
def bertkit_trainers() -> list[type[Trainer]]:  # type: ignore[empty-body]
    """Return the trainers that this plugin adds.

    Example:
        @bertkit.hookimpl
        def bertkit_trainers():
            return [Keras]
    """


@hookspec
def bertkit_metrics() -> list[type[Metric]]:  # type: ignore[empty-body]
    """Return the metrics that this plugin adds.

    Example:
        @bertkit.hookimpl
        def bertkit_metrics():
            return [ErrorRate]
    """


@hookspec
def bertkit_run_started(run: Run) -> None:
    """Observe that a run starts: the spec is valid and the run directory exists.

    Observers run on rank 0 only, return nothing and cannot alter the run; an exception in one is
    logged and dropped.

    Example:
        @bertkit.hookimpl
        def bertkit_run_started(run):
            print("writing to", run.run_dir)
    """


@hookspec
def bertkit_stage_finished(run: Run, stage: str, record: object) -> None:
    """Observe that a stage ended, with the record that it made.

    `stage` is one of load (`Splits`), tokenize (a mapping of split to `Encoded`), build (the
    model), train (`Fitted`), evaluate (a mapping of split to `Scores`), save (the model folder).

    Example:
        @bertkit.hookimpl
        def bertkit_stage_finished(run, stage, record):
            if stage == "train":
                print(record.steps, "steps")
    """


@hookspec
def bertkit_run_finished(run: Run, result: RunResult) -> None:
    """Observe that a run ended well.

    Example:
        @bertkit.hookimpl
        def bertkit_run_finished(run, result):
            print(result.metrics)
    """


@hookspec
def bertkit_run_failed(run: Run, error: BaseException) -> None:
    """Observe that a run failed or was interrupted; `error` is raised to the caller afterwards.

    Example:
        @bertkit.hookimpl
        def bertkit_run_failed(run, error):
            print("failed:", error)
    """

"""bertkit: fine-tune BERT-family encoders to classify text.

Example:
    >>> import bertkit
    >>> result = bertkit.run("reviews.yaml")  # doctest: +SKIP
    >>> bertkit.load(result.model_dir).predict(["很好看"])  # doctest: +SKIP
    [Prediction(label='POSITIVE', score=0.98, scores={...})]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "AmbiguousComponentError": "bertkit.errors",
    "ArtifactError": "bertkit.errors",
    "BertkitError": "bertkit.errors",
    "CheckpointError": "bertkit.errors",
    "Classifier": "bertkit.artifact",
    "Context": "bertkit.records",
    "DataError": "bertkit.errors",
    "DatasetLoader": "bertkit.datasets.base",
    "Encoder": "bertkit.encoders.base",
    "Head": "bertkit.heads.base",
    "Metric": "bertkit.metrics.base",
    "MissingPluginError": "bertkit.errors",
    "ModelError": "bertkit.errors",
    "PluginError": "bertkit.errors",
    "Prediction": "bertkit.tasks",
    "RunResult": "bertkit.records",
    "RunSpec": "bertkit.spec",
    "SpecError": "bertkit.errors",
    "SpecPath": "bertkit.component",
    "Task": "bertkit.tasks",
    "TrainError": "bertkit.errors",
    "Trainer": "bertkit.trainers.base",
    "TrainingContext": "bertkit.trainers.base",
    "UnknownComponentError": "bertkit.errors",
    "hookimpl": "bertkit.hooks",
    "load": "bertkit.artifact",
    "run": "bertkit.engine",
}

__all__ = [*sorted(_HOMES, key=lambda name: (name.lower(), name))]  # noqa: PLE0604

if TYPE_CHECKING:
    from bertkit.artifact import Classifier as Classifier
    from bertkit.artifact import load as load
    from bertkit.component import SpecPath as SpecPath
    from bertkit.datasets.base import DatasetLoader as DatasetLoader
    from bertkit.encoders.base import Encoder as Encoder
    from bertkit.engine import run as run
    from bertkit.errors import AmbiguousComponentError as AmbiguousComponentError
    from bertkit.errors import ArtifactError as ArtifactError
    from bertkit.errors import BertkitError as BertkitError
    from bertkit.errors import CheckpointError as CheckpointError
    from bertkit.errors import DataError as DataError
    from bertkit.errors import MissingPluginError as MissingPluginError
    from bertkit.errors import ModelError as ModelError
    from bertkit.errors import PluginError as PluginError
    from bertkit.errors import SpecError as SpecError
    from bertkit.errors import TrainError as TrainError
    from bertkit.errors import UnknownComponentError as UnknownComponentError
    from bertkit.heads.base import Head as Head
    from bertkit.hooks import hookimpl as hookimpl
    from bertkit.metrics.base import Metric as Metric
    from bertkit.records import Context as Context
    from bertkit.records import RunResult as RunResult
    from bertkit.spec import RunSpec as RunSpec
    from bertkit.tasks import Prediction as Prediction
    from bertkit.tasks import Task as Task
    from bertkit.trainers.base import Trainer as Trainer
    from bertkit.trainers.base import TrainingContext as TrainingContext


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bertkit' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

"""The built-in components, registered through the same hooks as everyone else's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bertkit.hooks import hookimpl

if TYPE_CHECKING:
    from bertkit.datasets.base import DatasetLoader
    from bertkit.encoders.base import Encoder
    from bertkit.heads.base import Head
    from bertkit.metrics.base import Metric
    from bertkit.trainers.base import Trainer


@hookimpl
def bertkit_datasets() -> list[type[DatasetLoader]]:
    """`files`, `hub`, `disk`, `inline`, `memory`."""
    from bertkit.datasets.disk import Disk
    from bertkit.datasets.files import Files
    from bertkit.datasets.hub import Hub
    from bertkit.datasets.inline import Inline
    from bertkit.datasets.memory import Memory

    return [Files, Hub, Disk, Inline, Memory]


@hookimpl
def bertkit_encoders() -> list[type[Encoder]]:
    """`pretrained`, `scratch`."""
    from bertkit.encoders.pretrained import Pretrained
    from bertkit.encoders.scratch import Scratch

    return [Pretrained, Scratch]


@hookimpl
def bertkit_heads() -> list[type[Head]]:
    """`linear`, `frozen-feature`."""
    from bertkit.heads.frozen_feature import FrozenFeature
    from bertkit.heads.linear import Linear

    return [Linear, FrozenFeature]


@hookimpl
def bertkit_trainers() -> list[type[Trainer]]:
    """`loop`, `hf`."""
    from bertkit.trainers.hf import HF
    from bertkit.trainers.loop import Loop

    return [Loop, HF]


@hookimpl
def bertkit_metrics() -> list[type[Metric]]:
    """The scores of classification, with one label a text or several, and of regression."""
    from bertkit.metrics import classification as c
    from bertkit.metrics import regression as r

    return [
        c.Accuracy, c.Precision, c.Recall, c.F1, c.Matthews,
        c.RocAuc, c.AveragePrecision, c.LogLoss, c.CalibrationError,
        r.MSE, r.MAE, r.Pearson, r.Spearman, r.R2,
    ]  # fmt: skip

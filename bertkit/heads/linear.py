"""The whole encoder is fine-tuned under transformers' sequence-classification head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, cast

from bertkit.errors import ModelError
from bertkit.heads.base import Head

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from bertkit.records import Context
    from bertkit.tasks import Task


class Linear(Head):
    """Fine-tune the whole encoder under transformers' own sequence-classification head."""

    type: Literal["linear"] = "linear"

    def build(self, encoder: PreTrainedModel, task: Task, ctx: Context) -> nn.Module:
        """Return the sequence-classification model of the encoder's family."""
        return classifier_like(encoder, task)

    def export(self, model: nn.Module, task: Task) -> PreTrainedModel:
        """Return the model itself: it is plain already."""
        return cast("PreTrainedModel", model)

    def overlay(self, exported: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
        """Load the weights; the names are the model's own."""
        exported.load_state_dict(dict(weights), strict=False)


def classifier_like(encoder: PreTrainedModel, task: Task) -> PreTrainedModel:
    """Return a sequence-classification model with the weights of an encoder and a new head.

    Raises:
        ModelError: transformers has none for this family.
    """
    import copy

    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(encoder.config)
    config.id2label = dict(enumerate(task.labels))
    config.label2id = {name: i for i, name in enumerate(task.labels)}
    config.problem_type = "single_label_classification"
    try:
        model = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise ModelError(
            f"encoder: transformers has no sequence-classification model for `{config.model_type}`"
        ) from error
    report = model.base_model.load_state_dict(encoder.state_dict(), strict=False)
    missing = [key for key in report.missing_keys if not key.startswith("pooler.")]
    if missing:
        raise ModelError(
            f"encoder: the {config.model_type} encoder lacks {', '.join(missing[:3])}, "
            "which its classification model needs"
        )
    return cast("PreTrainedModel", model)

"""The whole encoder is fine-tuned under transformers' sequence-classification head."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field

from bertkit.errors import ModelError, SpecError
from bertkit.heads.base import Head
from bertkit.heads.layers import encoder_layers, heights, output_layer

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from bertkit.records import Context
    from bertkit.tasks import Task

Dropout = Annotated[float, Field(ge=0, lt=1)]

_BERT = (("hidden_dropout_prob",), ("attention_probs_dropout_prob",), ("classifier_dropout",))
_DROPOUT: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    **dict.fromkeys(("bert", "camembert", "electra", "ernie", "roberta", "xlm-roberta"), _BERT),
    "albert": (*_BERT[:2], ("classifier_dropout_prob",)),
    "deberta": (*_BERT[:2], ("cls_dropout",)),
    "deberta-v2": (*_BERT[:2], ("cls_dropout",)),
    "distilbert": (("dropout",), ("attention_dropout",), ("seq_classif_dropout",)),
    "modernbert": (
        ("embedding_dropout", "mlp_dropout"), ("attention_dropout",), ("classifier_dropout",),
    ),
    "mpnet": (*_BERT[:2], ()),
}  # fmt: skip
"""What each family's config calls hidden, attention and classifier dropout."""


class Linear(Head):
    """Fine-tune the whole encoder under transformers' own sequence-classification head."""

    type: Literal["linear"] = "linear"
    freeze_embeddings: bool = Field(
        False, description="Keep the embeddings as they are; dropout still applies to them."
    )
    freeze_layers: int = Field(
        0,
        ge=0,
        description="Lowest layers of the encoder to keep as they are. Dropout still applies to "
        "them in training, as is common; `hidden_dropout` and `attention_dropout` lower it.",
    )
    reinit_layers: int = Field(
        0,
        ge=0,
        description="Highest layers of the encoder to draw anew, as its config says, and its "
        "pooler with them (Zhang et al. 2021).",
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Learning rate of a layer as a share of that of the layer above. The highest "
        "layer, pooler and classifier have the whole `learning_rate`, the embeddings the smallest "
        "(Howard & Ruder 2018; Sun et al. 2019).",
    )
    hidden_dropout: Dropout | None = Field(
        None,
        description="Dropout of embeddings and layers, and of the classifier where its own is not "
        "set here or in the encoder's config; null: as that config says.",
    )
    attention_dropout: Dropout | None = Field(
        None, description="Dropout of attention weights; null: as the encoder's config says."
    )
    classifier_dropout: Dropout | None = Field(
        None, description="Dropout before the classifier; null: as the encoder's config says."
    )

    def check_encoder(self, encoder: PreTrainedModel) -> None:
        """Refuse layers that the encoder does not have, and options that contradict each other."""
        self._dropout(encoder.config.model_type)
        if self.freeze_embeddings:
            heights(encoder)
        if not (self.freeze_layers or self.reinit_layers or self.layer_decay < 1):
            return
        count = len(encoder_layers(encoder))
        for name in ("freeze_layers", "reinit_layers"):
            if getattr(self, name) > count:
                raise SpecError(
                    f"head.{name}: {getattr(self, name)}, and the encoder has {count} layers; "
                    "take as many or fewer"
                )
        if self.freeze_layers + self.reinit_layers > count:
            raise SpecError(
                f"head.reinit_layers: the highest {self.reinit_layers} of {count} layers overlap "
                f"with the lowest {self.freeze_layers} that head.freeze_layers keeps as they are; "
                f"together they can be {count} at most"
            )
        if self.layer_decay < 1 and all(self._frozen(height) for height in range(count)):
            raise SpecError(
                f"head.layer_decay: {self.layer_decay:g}, and everything below the highest of "
                f"{count} layers is frozen (head.freeze_embeddings, head.freeze_layers: "
                f"{self.freeze_layers}), so that nothing would have another learning rate; take "
                "it out, or freeze less"
            )

    def build(self, encoder: PreTrainedModel, task: Task, ctx: Context) -> nn.Module:
        """Return the sequence-classification model of the encoder's family."""
        changes = self._dropout(encoder.config.model_type)
        anew = self._drawn_anew(encoder) if self.reinit_layers else set()
        model = classifier_like(encoder, task, changes, anew)
        inner: Any = model.base_model
        if self.freeze_embeddings or self.freeze_layers:
            height = heights(inner)
            for name, parameter in inner.named_parameters():
                parameter.requires_grad_(not self._frozen(height[name]))
        self._say_what_was_done(changes, inner, ctx)
        return model

    def rates(self, model: nn.Module) -> Mapping[str, float]:
        """Return `layer_decay` to the power of how far below the highest layer each one is."""
        if self.layer_decay == 1:
            return {}
        encoder: Any = model.base_model
        count = encoder.config.num_hidden_layers
        prefix = f"{model.base_model_prefix}."
        return {
            f"{prefix}{name}": self.layer_decay ** (count - height)
            for name, height in heights(encoder).items()
            if height < count
        }

    def export(self, model: nn.Module, task: Task) -> PreTrainedModel:
        """Return the model itself, which is plain already.

        Where the task scales (`Task.plain_scale`), the output layer is changed in place to give
        scaled values: train the model before this, and export it once.
        """
        plain = cast("PreTrainedModel", model)
        _scale_output(plain, task)
        return plain

    def overlay(self, exported: PreTrainedModel, weights: Mapping[str, Tensor], task: Task) -> None:
        """Load the weights, whose names are the model's own, and scale the output layer."""
        exported.load_state_dict(dict(weights), strict=False)
        _scale_output(exported, task)

    def _frozen(self, height: int) -> bool:
        return self.freeze_embeddings if height == 0 else height <= self.freeze_layers

    def _drawn_anew(self, encoder: PreTrainedModel) -> set[str]:
        kept = encoder.config.num_hidden_layers - self.reinit_layers
        return {name for name, height in heights(encoder).items() if height > kept}

    def _dropout(self, family: str) -> dict[str, float]:
        """Return what to change in the config of a family.

        Raises:
            ModelError: an option that the family has no setting for.
        """
        changes: dict[str, float] = {}
        for i, option in enumerate(("hidden_dropout", "attention_dropout", "classifier_dropout")):
            value = getattr(self, option)
            if value is None:
                continue
            names = _DROPOUT[family][i] if family in _DROPOUT else ()
            if not names:
                able = ", ".join(sorted(known for known in _DROPOUT if _DROPOUT[known][i]))
                raise ModelError(
                    f"head.{option}: bertkit knows no setting for it in `{family}`; take it out, "
                    f"or choose an encoder of one of these families: {able}"
                )
            changes.update(dict.fromkeys(names, float(value)))
        return changes

    def _say_what_was_done(
        self, changes: Mapping[str, float], encoder: PreTrainedModel, ctx: Context
    ) -> None:
        count = encoder.config.num_hidden_layers
        if changes:
            ctx.say("dropout: " + "  ".join(f"{name} {value:g}" for name, value in changes.items()))
        frozen = ["embeddings"] if self.freeze_embeddings else []
        frozen += [f"{self.freeze_layers} of {count} layers"] if self.freeze_layers else []
        if frozen:
            ctx.say("frozen: " + " and ".join(frozen))
        if self.reinit_layers:
            pooler = " and the pooler" if getattr(encoder, "pooler", None) is not None else ""
            ctx.say(f"drawn anew: the highest {self.reinit_layers} of {count} layers{pooler}")
        if self.layer_decay < 1:
            ctx.say(f"learning rate: of each layer {self.layer_decay:g} of the layer above")


def classifier_like(
    encoder: PreTrainedModel,
    task: Task,
    changes: Mapping[str, float] | None = None,
    anew: Collection[str] = (),
) -> PreTrainedModel:
    """Return a sequence-classification model with the weights of an encoder and a new head.

    Args:
        encoder: as `AutoModel` returns it; it is not changed.
        task: names the labels.
        changes: values of its config that are to be others.
        anew: names of its parameters that are drawn again, and not taken over.

    Raises:
        ModelError: transformers has none for this family.
    """
    import copy

    from transformers import AutoModelForSequenceClassification

    config: Any = copy.deepcopy(encoder.config)
    config.id2label = dict(enumerate(task.labels))
    config.label2id = {name: i for i, name in enumerate(task.labels)}
    config.problem_type = task.problem_type
    for name, value in (changes or {}).items():
        setattr(config, name, value)
    try:
        model = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise ModelError(
            f"encoder: transformers has no sequence-classification model for `{config.model_type}`"
        ) from error
    taken = {name: value for name, value in encoder.state_dict().items() if name not in anew}
    report = model.base_model.load_state_dict(taken, strict=False)
    lacking = set(report.missing_keys) - set(anew)
    missing = sorted(key for key in lacking if not key.startswith("pooler."))
    if missing:
        raise ModelError(
            f"encoder: the {config.model_type} encoder lacks {', '.join(missing[:3])}, "
            "which its classification model needs"
        )
    return cast("PreTrainedModel", model)


def _scale_output(model: PreTrainedModel, task: Task) -> None:
    """Change the output layer to give what the saved model is to say, in place.

    Raises:
        ModelError: it has no bias, and so nothing to add the shift to.
    """
    import torch

    scale = task.plain_scale()
    if scale is None:
        return
    factor, shift = (torch.as_tensor(one, dtype=torch.float64) for one in scale)
    layer = output_layer(model, task.num_labels)
    if layer.bias is None:
        raise ModelError(
            f"head: the output layer of {type(model).__name__} has no bias, so it cannot be saved "
            "to give values in the units of the data; choose another encoder"
        )
    with torch.no_grad():
        layer.weight.copy_(layer.weight.cpu().double() * factor[:, None])
        layer.bias.copy_(layer.bias.cpu().double() * factor + shift)

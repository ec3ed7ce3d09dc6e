"""Where an encoder keeps its layers and its embeddings, and a model its output layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bertkit.errors import ModelError

if TYPE_CHECKING:
    from torch import nn


def output_layer(module: nn.Module, num_labels: int) -> nn.Linear:
    """Return the last Linear that stands outside the encoder and gives one number a label.

    Args:
        module: a sequence-classification model of transformers, or a module that holds an encoder.
        num_labels: logits.

    Raises:
        ModelError: it has none.
    """
    from torch import nn
    from transformers import PreTrainedModel

    encoders = [p for p in module.modules() if isinstance(p, PreTrainedModel) and p.base_model is p]
    inside = {part for encoder in encoders for part in encoder.modules()}
    found = [
        part
        for part in module.modules()
        if isinstance(part, nn.Linear) and part.out_features == num_labels and part not in inside
    ]
    if not found:
        raise ModelError(
            f"head: no output layer in {type(module).__name__}: expected, outside the encoder, a "
            f"torch.nn.Linear with {num_labels} outputs; use a head that ends in one"
        )
    return found[-1]

"""Where an encoder keeps its layers and its embeddings, and a model its output layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bertkit.errors import ModelError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

_ELSEWHERE = {
    "deberta": {"encoder.rel_embeddings.": 0},
    "deberta-v2": {"encoder.rel_embeddings.": 0, "encoder.LayerNorm.": 0, "encoder.conv.": 1},
    "mpnet": {"encoder.relative_attention_bias.": 0},
}
"""Parameters by height that a family keeps behind its layers, though they act below: relative
positions, which all layers read, and a convolution beside the lowest layer."""


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


def encoder_layers(encoder: PreTrainedModel) -> nn.ModuleList:
    """Return the layers of an encoder, the lowest first.

    Args:
        encoder: as `AutoModel` returns it, or the `base_model` of another.

    Raises:
        ModelError: it has none of its own, as in ALBERT, whose layers share their weights.
    """
    _, layers = _stack(encoder)
    wanted = encoder.config.num_hidden_layers
    if len(layers) != wanted:
        raise ModelError(
            f"encoder: the {wanted} layers of `{encoder.config.model_type}` share "
            f"{len(layers)} set{'s' * (len(layers) > 1)} of weights, so that none of them can be "
            "treated by itself; take out head.freeze_layers, head.reinit_layers and "
            "head.layer_decay, or choose another encoder"
        )
    return layers


def heights(encoder: PreTrainedModel) -> dict[str, int]:
    """Return where each parameter of an encoder stands, by its name.

    0: embeddings, what projects them, and what tells positions to all layers; 1 to n: its layers,
    the lowest first, where a norm behind the highest counts with that; n + 1: the pooler.

    Args:
        encoder: as `AutoModel` returns it, or the `base_model` of another.

    Raises:
        ModelError: there is no telling its layers.
    """
    prefix, layers = _stack(encoder)
    elsewhere = _ELSEWHERE.get(encoder.config.model_type, {}) | {"pooler.": len(layers) + 1}
    result, outside = {}, 0
    for name, _ in encoder.named_parameters():
        if name.startswith(prefix):
            result[name] = int(name.removeprefix(prefix).partition(".")[0]) + 1
            outside = len(layers)
        else:
            known = (height for start, height in elsewhere.items() if name.startswith(start))
            result[name] = next(known, outside)
    return result


def _stack(encoder: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Return the list of an encoder's layers, and how the names of their parameters begin."""
    from torch import nn

    outermost: dict[str, nn.ModuleList] = {}
    for name, part in encoder.named_modules():
        if isinstance(part, nn.ModuleList) and not name.startswith(tuple(outermost)):
            outermost[f"{name}."] = part
    wanted = encoder.config.num_hidden_layers
    fitting = [item for item in outermost.items() if len(item[1]) == wanted]
    found = fitting or list(outermost.items())
    if len(found) != 1:
        raise ModelError(
            f"encoder: there is no telling the layers of `{encoder.config.model_type}`: expected "
            f"one list of {wanted}, found {len(found)}; take out head.freeze_embeddings, "
            "head.freeze_layers, head.reinit_layers and head.layer_decay, or choose another encoder"
        )
    return found[0]

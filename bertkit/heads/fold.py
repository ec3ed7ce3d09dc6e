"""Write a linear head over pooled features into a plain transformers classifier.

A frozen encoder with a linear head computes `weight @ feature + bias`. transformers' sequence
classifiers put an activation or a norm between the encoder and their last linear layer, and none
but ModernBERT's pools by the mean. `fold` sets the weights of those modules so that they have no
effect, and the saved model needs no bertkit to be loaded. All scales are powers of two, which
floating point applies without rounding. B bounds the encoder's output: its last LayerNorm allows
no more than |h_i| <= |gamma_i| sqrt(d) + |beta_i|, whatever the text.

- tanh (BERT, ALBERT, RoBERTa and kin): tanh(x) = x - x^3/3 + ..., so dense = 2^-k I and
  classifier = 2^k W with 2^-k B <= 2^-8. A coordinate's relative error is below 2^-17 at the bound
  B, and 2e-8 where |h_i| = 1 and k = 12. k is about that, and fp16 holds the classifier while
  |W_ci| < 2^(16 - k); a larger k would be closer in fp32 and overflow there.
- relu and gelu (DistilBERT, ELECTRA): act(x) - act(-x) = x, so dense holds W and -W and the
  classifier takes the difference; nothing is lost. That takes 2 C <= d. With more labels, ELECTRA
  uses gelu(x) = x/2 with 2^-k B <= 2^-26 (exact, but not in fp16), and DistilBERT uses
  relu(h + B) - B (fp32 only: rounding of B adds about 1e-5 to a logit).
- DeBERTa: the config names the pooler's activation, and it is set to "linear".
- LayerNorm (ModernBERT): (x - mu) / sqrt(var + eps) is linear where var < 2^-26 eps, for then
  var + eps rounds to eps. Scaled by a power of two, W h keeps to that for every h within B; one
  more row, minus the sum of the others, makes mu zero. That takes C + 1 <= d. Not in fp16.
- mean: ModernBERT has it. Elsewhere one transformer layer is appended. Its queries and keys are
  zero, so that attention is the mean over the unmasked tokens; its values are W h; its
  feed-forward block is zero; its two LayerNorms are linear as above. Its first residual
  connection would add the token's own h: the encoder's last LayerNorm is scaled by 2^-k and the
  attention output by a gain so large that this amounts to less than 2^-28 in a logit. The first C
  coordinates of the last hidden state are then the logits without their bias. That takes
  C + 1 <= d, and layers of their own: ALBERT shares its layers.

A model with a folded mean runs one more layer. It is meant for prediction in fp32 or bf16: its
inner values are below fp16's range, and its gradients are of no use for further training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from bertkit.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from bertkit.tasks import Task

Pooling = Literal["cls", "mean", "pooler"]

_LINEAR_RMS = 2.0**-14  # a LayerNorm's input over sqrt(eps): var + eps then rounds to eps
_RESIDUAL = 2.0**-28  # what the residual connection may add to a logit


@dataclass(frozen=True)
class _Family:
    """Where a family keeps what is set; paths are as `Module.get_submodule` takes them."""

    activation: Literal["tanh", "relu", "gelu", "linear", "norm"]  # between dense and out
    dense: str  # first Linear of the classification head
    out: str = "classifier"  # its last Linear
    pooler: str = ""  # Linear of the encoder's own pooler; "" where AutoModel has none
    final_norm: str = "output.LayerNorm"  # ending of the name of the encoder's last LayerNorm
    layers: str = "encoder.layer"  # list of its layers; "" where none can be appended
    attention_norm: str = "attention.output.LayerNorm"
    value: str = "attention.self.value"
    project: str = "attention.output.dense"

    @property
    def poolings(self) -> tuple[str, ...]:
        mean = ("mean",) if self.layers or self.activation == "norm" else ()
        return ("cls", *mean, *(("pooler",) if self.pooler else ()))


_ROBERTA = _Family("tanh", "classifier.dense", "classifier.out_proj", "pooler.dense")
_FAMILIES = {
    "bert": _Family("tanh", "bert.pooler.dense", pooler="pooler.dense"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": _Family("gelu", "classifier.dense", "classifier.out_proj"),
    "distilbert": _Family(
        "relu",
        "pre_classifier",
        final_norm="output_layer_norm",
        layers="transformer.layer",
        attention_norm="sa_layer_norm",
        value="attention.v_lin",
        project="attention.out_lin",
    ),
    "albert": _Family(
        "tanh", "albert.pooler", pooler="pooler", final_norm="full_layer_layer_norm", layers=""
    ),
    "deberta": _Family("linear", "pooler.dense", value="attention.self.in_proj"),
    "deberta-v2": _Family("linear", "pooler.dense", value="attention.self.value_proj"),
    "modernbert": _Family("norm", "head.dense", final_norm="final_norm", layers=""),
}


def check_foldable(model_type: str, pooling: str, *, has_pooler: bool) -> None:
    """Refuse a combination that `fold` cannot save as plain transformers.

    Args:
        model_type: `config.model_type` of the encoder.
        pooling: "cls", "mean" or "pooler".
        has_pooler: whether the encoder holds pooler weights (`encoder.pooler` is not None).

    Raises:
        ModelError: the family, or this pooling in it, cannot be saved so; the message says what
            can.
    """
    family = _FAMILIES.get(model_type)
    if family is None:
        raise ModelError(
            f"a {model_type!r} encoder with a frozen-feature head cannot be saved as a plain "
            f"transformers model; the families that can are {', '.join(_FAMILIES)}. "
            "Choose an encoder of one of these, or fine-tune the whole model instead."
        )
    works = [p for p in family.poolings if p != "pooler" or has_pooler]
    if pooling not in works:
        lacks = pooling == "pooler" and bool(family.pooler)
        reason = " because it has no pooler weights" if lacks else ""
        raise ModelError(
            f"a {model_type!r} encoder with pooling {pooling!r} cannot be saved as a plain "
            f"transformers model{reason}; poolings that can be saved with this encoder: "
            f"{', '.join(works)}. Choose one of these, or fine-tune the whole model instead."
        )


def pool(outputs: Any, attention_mask: Tensor | None, pooling: str) -> Tensor:
    """Turn an encoder's outputs into one feature per text.

    Args:
        outputs: what the encoder returned; `last_hidden_state` is (n, t, d), and `pooler_output`,
            read for pooling "pooler" only, is (n, d).
        attention_mask: (n, t), 1 on tokens and 0 on padding; None where there is no padding.
        pooling: "cls", "mean" or "pooler".

    Returns:
        (n, d) float32.

    Raises:
        ModelError: an unknown pooling, or "pooler" of an encoder that has none.
    """
    hidden: Tensor = outputs.last_hidden_state
    if pooling == "cls":
        return hidden[:, 0].float()
    if pooling == "mean":
        if attention_mask is None:
            return hidden.float().mean(1)
        mask = attention_mask.to(hidden.device).float().unsqueeze(-1)
        return (hidden.float() * mask).sum(1) / mask.sum(1).clamp(min=1)
    if pooling != "pooler":
        raise ModelError(f"pooling {pooling!r} is not known; choose cls, mean or pooler")
    pooled: Tensor | None = getattr(outputs, "pooler_output", None)
    if pooled is None:
        raise ModelError("pooling 'pooler': the encoder has no pooler; choose cls or mean")
    return pooled.float()


def fold(
    encoder: PreTrainedModel,
    weight: Tensor,
    bias: Tensor,
    pooling: Pooling,
    task: Task,
) -> PreTrainedModel:
    """Build the plain transformers classifier whose logits are `weight @ feature + bias`.

    The feature is what `pool` returns. Where the task has a `plain_scale`, the logits are
    `factor * (weight @ feature + bias) + shift`. How each head and pooling is made linear, and how
    exactly, is in the module's docstring. A folded mean costs one more layer and, like ModernBERT
    and like ELECTRA and DistilBERT with more than d / 2 labels, is not for fp16; none is meant for
    further training.

    Args:
        encoder: as `AutoModel` returns it, on any device and of any dtype; it is not changed.
        weight: (C, d), finite.
        bias: (C,), finite.
        pooling: "cls", "mean" or "pooler".
        task: names the C labels or targets, and says how the model is to give them.

    Returns:
        A model of `AutoModelForSequenceClassification`, float32, on the CPU, in eval mode.

    Raises:
        ModelError: the combination cannot be saved so (see `check_foldable`), the encoder is
            configured as a decoder, shapes do not fit, or there are too many labels.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    source: Any = encoder.config
    pooler = getattr(encoder, "pooler", None)
    check_foldable(source.model_type, pooling, has_pooler=pooler is not None)
    family = _FAMILIES[source.model_type]
    _check_head(source, weight, bias, task, family.activation == "norm" or pooling == "mean")
    weight, bias = (t.detach().to("cpu", torch.float64) for t in (weight, bias))
    appended = pooling == "mean" and bool(family.layers)

    # not a copy: the saved model takes the default attention, whatever the encoder runs with
    config = type(source).from_dict(source.to_dict())
    config.dtype = torch.float32
    config.id2label = dict(enumerate(task.labels))
    config.label2id = {label: index for index, label in enumerate(task.labels)}
    config.problem_type = task.problem_type
    if appended:
        config.num_hidden_layers += 1
    if family.activation == "linear":
        config.pooler_hidden_act, config.pooler_hidden_size = "linear", config.hidden_size
    if family.activation == "norm":
        config.classifier_activation, config.classifier_pooling = "linear", pooling
    factory: Any = AutoModelForSequenceClassification
    with torch.random.fork_rng(devices=[]):  # what is drawn here is all replaced below
        model: PreTrainedModel = factory.from_config(config).float()

    with torch.no_grad():
        new_layer = f"{family.layers}.{source.num_hidden_layers}." if appended else "pooler."
        _copy_encoder(encoder, model, ("pooler.", new_layer))
        dense, out = model.get_submodule(family.dense), model.get_submodule(family.out)
        norm = _final_norm(encoder, family)
        bound = _bound(torch.eye(weight.shape[1], dtype=weight.dtype), encoder.get_submodule(norm))
        if pooling == "pooler":
            dense.load_state_dict(encoder.get_submodule(family.pooler).state_dict())
            _set(out, weight, bias)
        elif family.activation == "norm":
            _through_norm(model, dense, out, weight, bias, encoder.get_submodule(norm))
        elif appended:
            weight, bound = _append_mean(model, family, weight, bound, norm)
            _through_activation(family.activation, dense, out, weight, bias, bound, 2.0**-13)
        else:
            _through_activation(family.activation, dense, out, weight, bias, bound, 2.0**-8)
        _scale(out, task)
    model.train(False)
    return model


def refold(
    model: PreTrainedModel, weight: Tensor, bias: Tensor, pooling: Pooling, task: Task
) -> None:
    """Put another head into a model that `fold` made, in place.

    Args:
        model: what `fold` returned, or `from_pretrained` of it.
        weight: (C, d) of the new head; C as before.
        bias: (C,) of the new head.
        pooling: that the model was folded with.
        task: that it was folded for.

    Raises:
        ModelError: shapes do not fit.
    """
    import torch

    family = _FAMILIES[model.config.model_type]
    if pooling == "pooler":
        _check_head(model.config, weight, bias, task, False)
        out = model.get_submodule(family.out)
        with torch.no_grad():
            _set(out, weight, bias)
            _scale(out, task)
        return
    encoder = unfold(model, pooling)
    model.load_state_dict(fold(encoder, weight, bias, pooling, task).state_dict())


def unfold(model: PreTrainedModel, pooling: Pooling) -> PreTrainedModel:
    """Return an encoder with the features of the one that `fold` was given.

    Args:
        model: what `fold` returned, or `from_pretrained` of it; it is not changed.
        pooling: that the model was folded with.

    Returns:
        What `AutoModel` returns, in eval mode, on the model's device; where nothing is to be
        undone, the model's own `base_model`.
    """
    import torch
    from transformers import AutoModel

    family = _FAMILIES[model.config.model_type]
    base: Any = model.base_model
    appended = pooling == "mean" and bool(family.layers)
    lacks_pooler = pooling == "pooler" and base.pooler is None
    if not appended and not lacks_pooler:
        return cast("PreTrainedModel", base.eval())
    config = type(model.config).from_dict(model.config.to_dict())
    state, layer = base.state_dict(), f"{family.layers}.{config.num_hidden_layers - 1}."
    if appended:
        config.num_hidden_layers -= 1
        state = {name: value for name, value in state.items() if not name.startswith(layer)}
    with torch.random.fork_rng(devices=[]):  # what is drawn here is all replaced below
        encoder: Any = AutoModel.from_config(config)
    encoder.load_state_dict(state, strict=False)
    if lacks_pooler:  # RoBERTa: the classification head has it
        dense = model.get_submodule(family.dense)
        encoder.get_submodule(family.pooler).load_state_dict(dense.state_dict())
    else:
        norm = base.get_submodule(_final_norm(base, family))
        gain = float(base.get_submodule(f"{layer}{family.project}").weight.detach()[0, 0])
        root = _root_epsilon(norm)
        scale = _power(root * root) / (float(norm.weight.detach()[0]) * _power(root))
        with torch.no_grad():
            for parameter in encoder.get_submodule(_final_norm(encoder, family)).parameters():
                parameter.mul_(gain / scale)
    return cast("PreTrainedModel", encoder.to(model.device).eval())


def _check_head(config: Any, weight: Tensor, bias: Tensor, task: Task, centred: bool) -> None:
    """Refuse a decoder, or a head that does not fit; `centred` heads take one more coordinate."""
    name, d, c = config.model_type, config.hidden_size, task.num_labels
    if getattr(config, "is_decoder", False):
        raise ModelError(f"the {name!r} encoder has is_decoder = true; load it as an encoder")
    if weight.shape != (c, d) or bias.shape != (c,):
        raise ModelError(
            f"the head of a {name!r} encoder with {c} labels has a weight of shape ({c}, {d}) and "
            f"a bias of shape ({c},); found {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise ModelError(f"the head of the {name!r} encoder has weights that are not finite")
    if centred and c >= d:
        raise ModelError(
            f"with this pooling a {name!r} encoder of hidden size {d} can be saved as a plain "
            f"transformers model with at most {d - 1} labels, and there are {c}"
        )


def _copy_encoder(encoder: Any, model: PreTrainedModel, may_differ: tuple[str, ...]) -> None:
    """Copy the encoder's weights; the others, by prefix, are set later or not needed."""
    result = model.base_model.load_state_dict(encoder.state_dict(), strict=False)
    keys = [*result.missing_keys, *result.unexpected_keys]
    odd = [key for key in keys if not key.startswith(may_differ)]
    if odd:
        raise ModelError(
            f"the encoder is not what AutoModel returns for {encoder.config.model_type!r}: "
            f"weights that do not match are {', '.join(odd[:5])}"
        )


def _final_norm(encoder: PreTrainedModel, family: _Family) -> str:
    """Name the LayerNorm that the encoder's last hidden state comes from."""
    conv = getattr(getattr(encoder, "encoder", None), "conv", None)
    if conv is not None and encoder.config.num_hidden_layers == 1:
        return "encoder.conv.LayerNorm"  # DeBERTa-v2 runs it after its first layer
    names: list[str] = [n for n, _ in encoder.named_modules() if n.endswith(family.final_norm)]
    return names[-1]


def _bound(matrix: Tensor, norm: Any) -> Tensor:
    """Bound |matrix @ h| (m,) for any h that the LayerNorm `norm` can return."""
    import torch

    gamma: Tensor = norm.weight.detach().to("cpu", matrix.dtype)
    beta: Tensor | None = norm.bias
    size: Tensor = math.sqrt(gamma.numel()) * torch.linalg.vector_norm(matrix * gamma, dim=1)
    return size if beta is None else size + (matrix @ beta.detach().to(gamma)).abs()


def _power(x: float) -> float:
    """Give the largest power of two that is not above `x`."""
    return 2.0 ** math.floor(math.log2(x))


def _set(linear: Any, weight: Tensor, bias: Tensor | None = None) -> None:
    """Write `weight` into the upper left corner of a Linear whose other weights become zero."""
    for parameter in linear.parameters():
        parameter.zero_()
    linear.weight[: weight.shape[0], : weight.shape[1]] = weight
    if bias is not None:
        linear.bias.copy_(bias)


def _scale(out: Any, task: Task) -> None:
    """Change the last Linear to give what the task wants of a saved model."""
    import torch

    scale = task.plain_scale()
    if scale is not None:
        factor, shift = map(torch.from_numpy, scale)
        weight, bias = out.weight.cpu().double(), out.bias.cpu().double()
        _set(out, weight * factor[:, None], bias * factor + shift)


def _through_activation(
    activation: str, dense: Any, out: Any, weight: Tensor, bias: Tensor, bound: Tensor, tiny: float
) -> None:
    """Fold (C, d) `weight` past dense, activation and out, where |h| is within `bound` (d,).

    `tiny` is how small tanh's argument has to be.
    """
    import torch

    eye = torch.eye(weight.shape[1], dtype=weight.dtype)
    if activation in ("relu", "gelu") and 2 * len(weight) <= len(eye):
        one = torch.eye(len(weight), dtype=weight.dtype)
        _set(dense, torch.cat([weight, -weight]))
        _set(out, torch.cat([one, -one], dim=1), bias)
    elif activation == "relu":
        _set(dense, eye, bound)
        _set(out, weight, bias - weight.float().double() @ bound.float().double())
    else:
        tiny, slope = {"tanh": (tiny, 1.0), "gelu": (2.0**-26, 0.5)}.get(activation, (1.0, 1.0))
        scale = 1.0 if activation == "linear" else _power(tiny / max(float(bound.max()), 1.0))
        _set(dense, scale * eye)
        _set(out, weight / (scale * slope), bias)


def _linear_rows(weight: Tensor, norm: Any, divisor: float, root: float) -> tuple[Tensor, float]:
    """Prepare W h to pass LayerNorms that are to do no more than divide it by `divisor`.

    Args:
        weight: (C, d) float64.
        norm: the LayerNorm that h comes from.
        divisor: the product of the square roots of the epsilons to pass.
        root: the square root of one epsilon.

    Returns:
        The (C + 1, d) rows, whose sum is zero and which leave a power of two of the division to
        be undone, and the power of two to multiply them by.
    """
    import torch

    rows = (weight * (divisor / _power(divisor))).float().double()
    rows = torch.cat([rows, -rows.sum(0, keepdim=True)])
    rms = float(_bound(rows, norm).norm()) / math.sqrt(rows.shape[1])
    return rows, _power(_LINEAR_RMS * root / max(rms, 1.0))


def _root_epsilon(norm: Any) -> float:
    """Give the square root of a LayerNorm's epsilon, as float32 holds that."""
    import torch

    epsilon = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon  # DeBERTa's own class
    return math.sqrt(float(torch.tensor(epsilon, dtype=torch.float32)))


def _through_norm(
    model: PreTrainedModel, dense: Any, out: Any, weight: Tensor, bias: Tensor, final_norm: Any
) -> None:
    """Fold (C, d) `weight` past ModernBERT's dense, LayerNorm and classifier."""
    import torch

    norm: Any = model.get_submodule("head.norm")
    root = _root_epsilon(norm)
    rows, scale = _linear_rows(weight, final_norm, root, root)
    _set(dense, scale * rows)
    norm.weight.fill_(1)
    if norm.bias is not None:
        norm.bias.zero_()
    _set(out, torch.eye(len(weight), dtype=weight.dtype) * (_power(root) / scale), bias)


def _append_mean(
    model: PreTrainedModel, family: _Family, weight: Tensor, bound: Tensor, norm: str
) -> tuple[Tensor, Tensor]:
    """Set the last layer to put `weight @ mean(h)` into the first C coordinates of its output.

    Args:
        model: holds the encoder's weights and one more layer.
        family: the encoder's.
        weight: (C, d) float64.
        bound: (d,), that of |h|.
        norm: the name of the LayerNorm that h comes from.

    Returns:
        The (C, d) weight that is left for the head, and the bound (d,) of its new input.
    """
    import torch

    base: Any = model.base_model
    own = base.get_submodule(norm)
    layer = base.get_submodule(family.layers)[-1]
    count, d = weight.shape
    root = _root_epsilon(own)
    rows, scale = _linear_rows(weight, own, root * root, root)
    reached = torch.zeros(d, dtype=weight.dtype)
    reached[:count] = _bound(weight, own)
    gain = 1 / _power(_RESIDUAL / max(float(bound.max()), 1.0))
    for parameter in own.parameters():
        parameter.mul_(scale / gain)
    for parameter in layer.parameters():
        parameter.zero_()

    attention = layer.get_submodule(family.value)
    if model.config.model_type == "deberta":  # its rows are query, key and value, head by head
        heads = model.config.num_attention_heads
        value = torch.zeros(d, d, dtype=weight.dtype)
        value[: count + 1] = rows
        attention.weight.view(heads, 3, -1, d)[:, 2] = value.view(heads, -1, d)
        if model.config.to_dict().get("talking_head"):
            layer.attention.self.head_weights_proj.weight.copy_(torch.eye(heads))
    else:
        attention.weight[: count + 1] = rows
    _set(layer.get_submodule(family.project), gain * torch.eye(count + 1, dtype=weight.dtype))
    # the first LayerNorm's output is no larger than its input, so the second is linear as well
    layer.get_submodule(family.attention_norm).weight[: count + 1] = _power(root)
    base.get_submodule(_final_norm(base, family)).weight[:count] = _power(root * root) / (
        scale * _power(root)
    )
    return torch.eye(count, d, dtype=weight.dtype), reached

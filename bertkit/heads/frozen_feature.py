"""The encoder stays as it is; a linear layer learns on one vector a text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bertkit.errors import ModelError
from bertkit.heads.base import Head
from bertkit.heads.fold import check_foldable, fold, pool, refold, unfold
from bertkit.text.cache import load_arrays, store_arrays
from bertkit.text.encoded import Encoded, Features, Tokens, sorted_batches

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from bertkit.records import Context
    from bertkit.tasks import Task

FORMAT = 2
"""Part of the cache key; raised when the meaning of cached features changes."""


class FrozenFeature(Head):
    """A linear layer on features of the fixed encoder, which reads each text only once."""

    type: Literal["frozen-feature"] = "frozen-feature"
    pooling: Literal["cls", "mean", "pooler"] = Field(
        "mean",
        description="The vector of a text: the first token's state (`cls`), the mean over its "
        "tokens (`mean`), or what the encoder's own pooler makes (`pooler`).",
    )

    learning_rate: ClassVar[float] = 5e-3
    epochs: ClassVar[int] = 30
    min_steps: ClassVar[int] = 30  # more gained nothing with 8 and 16 texts per label
    reads_features: ClassVar[bool] = True

    def check_encoder(self, encoder: PreTrainedModel) -> None:
        """Refuse what cannot be saved as a plain transformers model afterwards."""
        has_pooler = getattr(encoder, "pooler", None) is not None
        check_foldable(encoder.config.model_type, self.pooling, has_pooler=has_pooler)

    def build(self, encoder: PreTrainedModel, task: Task, ctx: Context) -> nn.Module:
        """Return a module that reads features, with the fixed encoder beside it."""
        from bertkit.heads.modules import FeatureClassifier

        return FeatureClassifier(encoder, self.pooling, task.num_labels)

    def encode(self, model: nn.Module, split: Encoded, ctx: Context) -> Encoded:
        """Return the features of a split, from the cache where they are there."""
        import torch

        if not isinstance(split, Tokens):
            raise ModelError("head: `frozen-feature` reads tokenized texts")
        encoder: Any = model.encoder
        key = self._key(encoder, split, ctx)
        file = ctx.cache_dir / "features" / f"{key}.safetensors" if ctx.cache_dir else None
        cached = load_arrays(file)
        ctx.note("feature_cache", "miss" if cached is None else "hit")
        if cached is not None:
            return Features(torch.from_numpy(cached["features"]), split.labels, split.counts)
        matrix = self._compute(encoder, split.apart(), ctx)
        failure = store_arrays({"features": matrix.numpy()}, file)
        if file and failure:
            ctx.warn(f"features are not cached: {file.parent}: {failure}")
        return Features(matrix, split.labels, split.counts)

    def _key(self, encoder: PreTrainedModel, split: Tokens, ctx: Context) -> str:
        digest = hashlib.sha256(f"{FORMAT} {self.pooling} {ctx.precision}".encode())
        config = {k: v for k, v in encoder.config.to_dict().items() if k != "_name_or_path"}
        digest.update(json.dumps(config, sort_keys=True, default=str).encode())
        digest.update(weights_hash(encoder).encode())
        digest.update(split.offsets.tobytes() + split.values.tobytes())
        if split.types is not None:
            digest.update(split.types.tobytes())
        return digest.hexdigest()[:32]

    def _compute(self, encoder: PreTrainedModel, split: Tokens, ctx: Context) -> Tensor:
        import torch

        from bertkit.scoring import autocast

        encoder.requires_grad_(False).eval()
        torch.nn.Module.to(encoder, ctx.device)
        matrix = torch.empty(len(split), encoder.config.hidden_size)
        with torch.inference_mode(), ctx.progress.bar("encode", len(split)) as bar:
            for rows in sorted_batches(split.lengths, ctx.eval_batch_size):
                batch = {k: v.to(ctx.device) for k, v in split.batch(rows).items() if k != "labels"}
                with autocast(ctx.device, ctx.precision):
                    outputs = encoder(**batch)
                matrix[rows] = pool(outputs, batch["attention_mask"], self.pooling).float().cpu()
                bar.advance(len(rows))
        return matrix

    def export(self, model: nn.Module, task: Task) -> PreTrainedModel:
        """Fold the linear layer into the family's own classification head."""
        encoder: Any = model.encoder
        head: Any = model.classifier
        return fold(encoder.cpu(), head.weight, head.bias, self.pooling, task)

    def native(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Return the linear layer itself."""
        head: Any = model.classifier
        return {f"classifier.{name}": p.detach().cpu() for name, p in head.named_parameters()}

    def restore(
        self, exported: PreTrainedModel, native: Mapping[str, Tensor], task: Task
    ) -> nn.Module:
        """Return the linear layer on the encoder's features, in the units of the saved model."""
        import torch

        from bertkit.heads.modules import FeatureClassifier

        model = FeatureClassifier(unfold(exported, self.pooling), self.pooling, task.num_labels)
        weight, bias = native["classifier.weight"].double(), native["classifier.bias"].double()
        scale = task.plain_scale()
        if scale is not None:
            factor, shift = map(torch.from_numpy, scale)
            weight, bias = weight * factor[:, None], bias * factor + shift
        model.load_state_dict({"classifier.weight": weight, "classifier.bias": bias}, strict=False)
        return model.to(exported.device).eval()

    def overlay(self, exported: PreTrainedModel, weights: Mapping[str, Tensor], task: Task) -> None:
        """Refold with the linear layer of a checkpoint."""
        head = weights["classifier.weight"], weights["classifier.bias"]
        refold(exported, *head, self.pooling, task)


def weights_hash(model: nn.Module) -> str:
    """Return the sha256 over names and values of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

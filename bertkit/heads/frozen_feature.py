"""The encoder stays as it is; a linear layer learns on one vector a text."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bertkit.errors import ModelError
from bertkit.heads.base import Head
from bertkit.heads.fold import check_foldable, fold, pool
from bertkit.text.encoded import Encoded, Features, Tokens, sorted_batches

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from bertkit.records import Context
    from bertkit.tasks import Task

FORMAT = 1
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
        if not isinstance(split, Tokens):
            raise ModelError("head: `frozen-feature` reads tokenized texts")
        encoder: Any = model.encoder
        key = self._key(encoder, split, ctx)
        file = ctx.cache_dir / "features" / f"{key}.safetensors" if ctx.cache_dir else None
        matrix = _from_cache(file)
        ctx.note("feature_cache", "miss" if matrix is None else "hit")
        if matrix is None:
            matrix = self._compute(encoder, split, ctx)
            _to_cache(matrix, file, ctx)
        return Features(matrix, split.labels)

    def _key(self, encoder: PreTrainedModel, split: Tokens, ctx: Context) -> str:
        digest = hashlib.sha256(f"{FORMAT} {self.pooling} {ctx.precision}".encode())
        config = {k: v for k, v in encoder.config.to_dict().items() if k != "_name_or_path"}
        digest.update(json.dumps(config, sort_keys=True, default=str).encode())
        digest.update(weights_hash(encoder).encode())
        digest.update(split.offsets.tobytes() + split.values.tobytes())
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
        head: Any = model.classifier
        encoder: Any = model.encoder
        labels = dict(enumerate(task.labels))
        return fold(encoder.cpu(), head.weight.cpu(), head.bias.cpu(), self.pooling, labels)

    def native(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Return the linear layer itself."""
        head: Any = model.classifier
        return {"weight": head.weight.detach().cpu(), "bias": head.bias.detach().cpu()}

    def overlay(self, exported: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
        """Refold with the linear layer of a checkpoint."""
        from bertkit.heads.fold import refold

        refold(exported, weights["classifier.weight"], weights["classifier.bias"], self.pooling)


def weights_hash(model: nn.Module) -> str:
    """Return the sha256 over names and values of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _sha256(matrix: Tensor) -> str:
    return hashlib.sha256(matrix.numpy().tobytes()).hexdigest()


def _from_cache(file: Path | None) -> Tensor | None:
    from safetensors import SafetensorError, safe_open

    if file is None or not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as stored:
            matrix: Tensor = stored.get_tensor("features")
            written = (stored.metadata() or {}).get("sha256")
    except (SafetensorError, OSError):
        return None
    return matrix if written == _sha256(matrix) else None


def _to_cache(matrix: Tensor, file: Path | None, ctx: Context) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if file is None:
        return
    staging = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"features": matrix}, staging, metadata={"sha256": _sha256(matrix)})
        staging.replace(file)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            staging.unlink()
        reason = getattr(error, "strerror", None) or error
        ctx.warn(f"features are not cached: {file.parent}: {reason}")

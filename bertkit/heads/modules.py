"""Torch modules of the heads; apart, because importing this imports torch."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from bertkit.heads.fold import Pooling, pool


class FeatureClassifier(nn.Module):
    """A linear layer on features, and the fixed encoder that makes them.

    Args:
        encoder: fixed: no gradient, always in eval mode.
        pooling: how its output becomes one vector a text.
        num_labels: logits.
    """

    def __init__(self, encoder: PreTrainedModel, pooling: Pooling, num_labels: int) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.encoder.requires_grad_(False)
        self.pooling: Pooling = pooling
        self.classifier = nn.Linear(encoder.config.hidden_size, num_labels)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def train(self, mode: bool = True) -> FeatureClassifier:
        """Switch the linear layer; the encoder stays in eval mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(
        self,
        features: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Return `logits`, float (B, num_labels), from features (B, d) or from tokens (B, t)."""
        if features is None:
            types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
            outputs = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **types)
            features = pool(outputs, attention_mask, self.pooling)
        return SequenceClassifierOutput(logits=self.classifier(features))

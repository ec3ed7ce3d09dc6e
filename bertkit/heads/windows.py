"""A head's module over the windows of long texts. Importing this imports torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_outputs import SequenceClassifierOutput

from bertkit.heads.layers import output_layer
from bertkit.text.long_text import Pool

CHUNK = 32
"""Windows that go through the module together where nothing is trained."""
HIDDEN = 128


class Attention(nn.Module):
    """One score a window, w . tanh(V h) (Ilse et al. 2018, arXiv:1802.04712, equation 8).

    All scores are 0 at first, which makes the weighted mean the plain one.

    Args:
        size: of h, the vector of a window.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(size, HIDDEN)
        self.score = nn.Linear(HIDDEN, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return scores, float32 (W,), of vectors (W, size)."""
        with torch.autocast(vectors.device.type, enabled=False):
            scores: Tensor = self.score(torch.tanh(self.hidden(vectors.float())))
        return scores.squeeze(1)


class Windowed(nn.Module):
    """Runs a head's module on every window and pools the logits of each text.

    A text of one window has the logits that the module gives for it. The names of the module's
    own parameters start with `module.`, those of the attention with `attention.`. What is not
    defined here is looked up in the module.

    Args:
        module: maps a batch of windows to an object with `logits`.
        pool: how logits are pooled.
        num_labels: logits.

    Raises:
        ModelError: `attention`, and the module does not end in a Linear.
    """

    def __init__(self, module: nn.Module, pool: Pool, num_labels: int) -> None:
        super().__init__()
        self.module, self.pool = module, pool
        self.attention: Any = None
        if pool == "attention":
            last = output_layer(module, num_labels)
            self.attention = Attention(last.in_features)
            self._last = (last,)  # in a tuple, it is no second child

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)

    def forward(self, windows: Tensor, **batch: Tensor) -> SequenceClassifierOutput:
        """Return `logits`, float32 (B, num_labels).

        Args:
            windows: windows of each text, int64 (B,).
            batch: the module's arguments for all W windows, those of one text after the other.
        """
        count = len(next(iter(batch.values())))
        size = count if torch.is_grad_enabled() else CHUNK
        starts = range(0, count, size)
        parts = [self._run({k: v[i : i + size] for k, v in batch.items()}) for i in starts]
        logits, scores = (torch.cat(part) for part in zip(*parts, strict=True))
        return SequenceClassifierOutput(logits=self._pooled(logits, scores, windows.tolist()))

    def _run(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits, float32 (W, num_labels), and what weighs them, float32 (W,)."""
        if self.attention is None:
            logits = self.module(**batch).logits.float()
            return logits, logits.new_zeros(len(logits))
        seen: list[Tensor] = []
        hook = self._last[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = self.module(**batch).logits.float()
        finally:
            hook.remove()
        return logits, self.attention(seen[0])

    def _pooled(self, logits: Tensor, scores: Tensor, windows: list[int]) -> Tensor:
        def by_text(values: Tensor, fill: float) -> Tensor:
            return pad_sequence(values.split(windows), batch_first=True, padding_value=fill)

        if self.pool == "max":
            return by_text(logits, -torch.inf).amax(1)
        weights = by_text(scores, -torch.inf).softmax(1)
        return (weights.unsqueeze(-1) * by_text(logits, 0.0)).sum(1)

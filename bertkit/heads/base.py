"""What a head is. The part that a plugin author reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from bertkit.component import Component

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from bertkit.records import Context
    from bertkit.tasks import Task
    from bertkit.text.encoded import Encoded


class Head(Component):
    """What stands on the encoder and says the label.

    The module that `build` returns maps a batch to an object with `logits`, float (B, num_labels).
    What it must not train has `requires_grad=False`. `export` turns it into a plain transformers
    model, which is what gets saved and what predicts.
    """

    kind: ClassVar[str] = "head"

    learning_rate: ClassVar[float] = 5e-5
    """Where the spec names no `trainer.learning_rate`."""
    epochs: ClassVar[int] = 3
    """Where the spec names no `trainer.epochs`."""
    min_steps: ClassVar[int] = 100
    """Optimizer steps that there are at least where the spec names no `trainer.epochs`."""
    reads_features: ClassVar[bool] = False
    """Whether `encode` replaces tokens by features, so that training does not touch the encoder."""

    def check_encoder(self, encoder: PreTrainedModel) -> None:
        """Refuse, before anything expensive, an encoder that this head cannot be used with.

        Raises:
            ModelError: with what was found and what works.
        """

    def build(self, encoder: PreTrainedModel, task: Task, ctx: Context) -> nn.Module:
        """Return the module to train, in fp32, with freshly drawn head weights.

        Torch's random state is seeded with the run's seed before the call.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement build")

    def rates(self, model: nn.Module) -> Mapping[str, float]:
        """Return by what to multiply the learning rate of parameters of `model`, by their names.

        Those that are not named have the whole rate, as all have by default.
        """
        return {}

    def encode(self, model: nn.Module, split: Encoded, ctx: Context) -> Encoded:
        """Turn tokens into what the module reads, once; the tokens themselves by default."""
        return split

    def export(self, model: nn.Module, task: Task) -> PreTrainedModel:
        """Return a plain transformers sequence-classification model with the same logits.

        Where the task has a `plain_scale`, the logits are `factor * logits + shift` instead.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement export")

    def native(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Return tensors to keep beside the plain model for further training; none by default.

        They are named as in the module.
        """
        return {}

    def restore(
        self, exported: PreTrainedModel, native: Mapping[str, Tensor], task: Task
    ) -> nn.Module:
        """Return a module with the logits of an exported model whose last layer is as trained.

        Attention over windows reads what enters that layer. By default it is the exported model.

        Args:
            exported: what `export` returned, or `from_pretrained` of it.
            native: what `native` returned.
            task: of the model.
        """
        return exported

    def overlay(self, exported: PreTrainedModel, weights: Mapping[str, Tensor], task: Task) -> None:
        """Put the weights of a checkpoint of this head into its exported model, in place."""
        raise NotImplementedError(f"{type(self).__name__} does not implement overlay")

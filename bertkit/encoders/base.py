"""What an encoder is. The part that a plugin author reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bertkit.component import Component

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bertkit.records import Context


class Encoder(Component):
    """The transformer that turns tokens into vectors, and its tokenizer.

    Example:
        >>> from typing import Literal
        >>> class Tiny(Encoder):
        ...     type: Literal["tiny"] = "tiny"
        ...     def load(self, ctx):
        ...         from transformers import AutoModel, AutoTokenizer
        ...         tokenizer = AutoTokenizer.from_pretrained("./tiny")
        ...         return AutoModel.from_pretrained("./tiny"), tokenizer
    """

    kind: ClassVar[str] = "encoder"

    def load(self, ctx: Context) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return the bare encoder (what `AutoModel` returns, fp32) and its fast tokenizer.

        Args:
            ctx: `ctx.offline` forbids the network; `ctx.splits` holds the data, of which an
                encoder may use the train texts only.

        Raises:
            ModelError: it cannot be found, read or used.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement load")

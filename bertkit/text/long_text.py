"""What happens to texts that are longer than the encoder reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from bertkit.component import Options

Keep = Literal["head", "tail", "head+tail", "drop", "error"]


class LongText(Options):
    """The policy for long texts, the same in training and in prediction."""

    max_length: int | None = Field(
        None,
        ge=4,
        description="Most tokens of a text, special tokens included. By default what the encoder "
        "was made for, 512 at most.",
    )
    keep: Keep = Field(
        "head",
        description="What to keep of a longer text: its first tokens (`head`), its last (`tail`), "
        "both ends (`head+tail`), nothing (`drop`: the text is left out of training and scores), "
        "or refuse it (`error`).",
    )
    head: int | None = Field(
        None,
        ge=1,
        description="Tokens kept from the start under `head+tail`; a quarter of the room by "
        "default (128 of 510, as Sun et al. 2019, arXiv:1905.05583).",
    )

    @model_validator(mode="after")
    def _head_needs_both_ends(self) -> LongText:
        if self.head is not None and self.keep != "head+tail":
            raise ValueError(f"`head` is for `keep: head+tail`, found keep: {self.keep}")
        if self.head is not None and self.max_length is not None and self.head >= self.max_length:
            raise ValueError(f"`head` ({self.head}) must be below max_length ({self.max_length})")
        return self

    def cut(self, tokens: Sequence[int], room: int) -> Sequence[int]:
        """Return what is kept of a text's tokens, special tokens not included.

        Args:
            tokens: token ids of the whole text.
            room: tokens there is room for, at least 1.

        Example:
            >>> LongText(keep="head+tail").cut([1, 2, 3, 4, 5, 6], 4)
            [1, 4, 5, 6]
        """
        if len(tokens) <= room:
            return tokens
        if self.keep == "tail":
            return tokens[-room:]
        if self.keep == "head+tail":
            first = min(self.head if self.head is not None else max(1, room // 4), room)
            last = room - first
            return [*tokens[:first], *(tokens[-last:] if last else ())]
        return tokens[:room]

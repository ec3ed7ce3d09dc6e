"""What happens to texts that are longer than the encoder reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from bertkit.component import Options
from bertkit.errors import SpecError

Keep = Literal["head", "tail", "head+tail", "drop", "error", "windows"]
Cut = Literal["longest", "first", "second"]
Pool = Literal["mean", "max", "attention"]

CUTTING = ("head", "tail", "head+tail")
READ_UNDER = {
    "head": ("head+tail",),
    "cut": CUTTING,
    "stride": ("windows",),
    "pool": ("windows",),
    "max_windows": ("windows",),
}
"""Fields that only some values of `keep` read."""


class LongText(Options):
    """The policy for long texts, the same in training and in prediction."""

    max_length: int | None = Field(
        None,
        ge=4,
        description="Most tokens of an input, special tokens included. By default what the encoder "
        "was made for, 512 at most.",
    )
    keep: Keep = Field(
        "head",
        description="What to keep of a longer text: its first tokens (`head`), its last (`tail`), "
        "both ends (`head+tail`), all of it in overlapping windows (`windows`), nothing (`drop`: "
        "the text is left out of training and scores), or refuse it (`error`).",
    )
    head: int | None = Field(
        None,
        ge=1,
        description="Tokens kept from the start under `head+tail`; a quarter of the room by "
        "default (128 of 510, as Sun et al. 2019, arXiv:1905.05583).",
    )
    cut: Cut | None = Field(
        None,
        description="Which text of a pair loses tokens: the longer one, token by token "
        "(`longest`, the default), the `first` or the `second`. `keep` says which of them.",
    )
    stride: int | None = Field(
        None,
        ge=1,
        description="Tokens between the starts of two neighbouring `windows`; by default half of "
        "what a window has room for, so that each token is read twice.",
    )
    pool: Pool | None = Field(
        None,
        description="How the logits of a text's `windows` become those of the text: their `mean` "
        "(the default), for each label their `max`, or a mean whose weights are learned "
        "(`attention`, Ilse et al. 2018, arXiv:1802.04712).",
    )
    max_windows: int | None = Field(
        None,
        ge=1,
        description="Most `windows` of a text, 8 by default: a limit on memory. What a longer text "
        "has behind them is left out.",
    )

    @model_validator(mode="after")
    def _options_agree(self) -> LongText:
        for name, keeps in READ_UNDER.items():
            if getattr(self, name) is not None and self.keep not in keeps:
                raise ValueError(
                    f"`{name}` is for `keep: {', '.join(keeps)}`, found keep: {self.keep}"
                )
        if self.head is not None and self.max_length is not None and self.head >= self.max_length:
            raise ValueError(f"`head` ({self.head}) must be below max_length ({self.max_length})")
        if self.stride is not None and self.stride > (self.max_length or self.stride):
            raise ValueError(
                f"`stride` ({self.stride}) is more than max_length ({self.max_length}): "
                "the tokens between two windows would not be read"
            )
        return self

    def fitted(self, room: int) -> LongText:
        """Return the policy with a value for every field that `windows` reads.

        Args:
            room: tokens of a text that a window has room for.

        Raises:
            SpecError: the stride is longer than that.
        """
        if self.keep != "windows":
            return self
        if self.stride is not None and self.stride > room:
            raise SpecError(
                f"long_text.stride: {self.stride} is more than the {room} tokens of text in a "
                f"window, and those between two windows would not be read; write {room} or less"
            )
        filled = {
            "stride": self.stride or max(1, room // 2),
            "pool": self.pool or "mean",
            "max_windows": self.max_windows or 8,
        }
        return self.model_copy(update=filled)

    def kept(self, tokens: Sequence[int], room: int) -> Sequence[int]:
        """Return what is kept of a text's tokens, special tokens not included.

        Args:
            tokens: token ids of the whole text.
            room: tokens there is room for.

        Example:
            >>> LongText(keep="head+tail").kept([1, 2, 3, 4, 5, 6], 4)
            [1, 4, 5, 6]
        """
        if len(tokens) <= room:
            return tokens
        first = room
        if self.keep == "tail":
            first = 0
        elif self.keep == "head+tail":
            first = min(self.head if self.head is not None else max(1, room // 4), room)
        return [*tokens[:first], *tokens[len(tokens) - (room - first) :]]

    def windows(self, tokens: Sequence[int], room: int) -> list[Sequence[int]]:
        """Return the windows of a text: from 0, `stride`, 2 `stride`, … until its end is read.

        Args:
            tokens: token ids of the whole text.
            room: tokens of a window.

        Example:
            >>> LongText(keep="windows", stride=2).fitted(3).windows([1, 2, 3, 4, 5, 6], 3)
            [[1, 2, 3], [3, 4, 5], [5, 6]]
        """
        assert self.stride is not None
        assert self.max_windows is not None
        count = 1 + max(0, -(-(len(tokens) - room) // self.stride))
        starts = range(0, min(count, self.max_windows) * self.stride, self.stride)
        return [tokens[start : start + room] for start in starts]

    def rooms(self, first: int, second: int, room: int) -> tuple[int, int]:
        """Return how many tokens of each text of a pair are kept.

        Args:
            first: tokens of the first text.
            second: tokens of the second.
            room: tokens there is room for, of both.

        Returns:
            Two numbers; one is below 1 where the other text alone leaves no room for this one.

        Example:
            >>> LongText().rooms(10, 3, 8), LongText(cut="second").rooms(10, 30, 12)
            ((5, 3), (10, 2))
        """
        if first + second <= room:
            return first, second
        if self.cut == "first":
            return room - second, second
        if self.cut == "second":
            return first, room - first
        shorter = min(first, second, room // 2)
        return (shorter, room - shorter) if first <= second else (room - shorter, shorter)

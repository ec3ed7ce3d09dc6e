"""Progress of long work. The terminal's bars are in `console.py`; here is what stages call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Bar(Protocol):
    """One piece of work under way."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Say that `amount` more is done, with a short note such as `loss 0.31`."""


class Progress(Protocol):
    """Where work under way is shown."""

    def bar(self, title: str, total: int, done: int = 0) -> AbstractContextManager[Bar]:
        """Show a bar for `total` units, of which `done` are done already."""


class _NoBar:
    def advance(self, amount: int = 1, note: str = "") -> None:
        pass


class Silent:
    """Progress that nobody watches."""

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        """Show nothing."""
        yield _NoBar()

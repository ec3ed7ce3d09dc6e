"""What a person sees in a terminal: log lines, progress bars, tables."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from bertkit.progress import Bar, Progress, Silent
from bertkit.records import score_text

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

PLAIN_SECONDS = 20.0
"""Seconds between two progress lines where there is no terminal."""


def terminal_progress() -> Progress:
    """Return bars on a terminal or in a notebook, and silence elsewhere."""
    return Bars() if err.is_terminal or err.is_jupyter else Silent()


class _Moving:
    def __init__(self, progress: RichProgress, task: TaskID) -> None:
        self.progress, self.task = progress, task

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.progress.update(self.task, advance=amount, note=note)


class Bars:
    """Progress bars on standard error, which go when the work is done."""

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        """Show a bar with count, speed and time left."""
        from rich import progress as rich

        columns = (
            rich.TextColumn("{task.description}"),
            rich.BarColumn(bar_width=20),  # a line of less than 80 columns, or ^C would wrap it
            rich.MofNCompleteColumn(),
            rich.TimeElapsedColumn(),
            rich.TextColumn("left"),
            rich.TimeRemainingColumn(),
            rich.TextColumn("{task.fields[note]}"),
        )
        with rich.Progress(*columns, console=err, transient=True) as progress:
            yield _Moving(progress, progress.add_task(title, total=total, completed=done, note=""))


class _Line:
    def __init__(self, title: str, total: int, done: int) -> None:
        self.title, self.total, self.done = title, total, done
        self.last = time.monotonic()

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        if time.monotonic() - self.last >= PLAIN_SECONDS:
            self.last = time.monotonic()
            err.print(f"{self.title}: {self.done}/{self.total}  {note}".rstrip(), markup=False)


class Lines:
    """Progress as a plain line now and then, for pipes and log files."""

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        """Write a line every `PLAIN_SECONDS`."""
        yield _Line(title, total, done)


def start_log(*, quiet: bool, debug: bool) -> Progress:
    """Send bertkit's log to standard error, and return where progress goes.

    Args:
        quiet: errors only, no progress.
        debug: with level and place of every line.
    """
    from loguru import logger

    colours = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}

    def write(message: Any) -> None:
        record = message.record
        style = colours.get(record["level"].name, "")
        when = record["time"].strftime("%H:%M:%S")
        words = "warning: " if record["level"].name == "WARNING" else ""
        place = f" [{record['name']}:{record['line']}]" if debug else ""
        shown = printable(record["message"])
        err.print(f"{when} {words}{shown}{place}", style=style, markup=False)

    logger.remove()
    # errors are shown once, by the command itself
    logger.add(
        write,
        level="ERROR" if quiet else "DEBUG" if debug else "INFO",
        filter=lambda record: debug or record["level"].no < 40,
        format="{message}", diagnose=False, backtrace=False,
    )  # fmt: skip
    if quiet:
        return Silent()
    return Bars() if err.is_terminal else Lines()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on standard output; as tab-separated lines where that is no terminal."""
    columns, rows = _shown(columns), [_shown(row) for row in rows]
    if not out.is_terminal:
        for row in (columns, *rows):
            print("\t".join(row))  # noqa: T201 - this is the command's output
        return
    grid = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for name in columns:
        grid.add_column(name, overflow="fold")
    for row in rows:
        grid.add_row(*map(_literal, row))
    out.print(grid)


def _shown(cells: Sequence[str]) -> list[str]:
    return [printable(cell).replace("\n", "\\n") for cell in cells]


def _literal(text: str) -> Any:
    from rich.text import Text

    return Text(text)


def scores_table(metrics: Mapping[str, Mapping[str, float | None]]) -> None:
    """Print the metrics of each split, a row a split."""
    keys = list(dict.fromkeys(key for values in metrics.values() for key in values))
    rows = [
        [name, *(score_text(values.get(key)) for key in keys)] for name, values in metrics.items()
    ]
    table("", ["split", *keys], rows)


def printable(text: str) -> str:
    """Return a text with control characters shown, not obeyed."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)

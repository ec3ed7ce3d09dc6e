"""Log lines, progress and tables, on a terminal and in a pipe."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger
from rich.console import Console

from bertkit import console
from bertkit.progress import Silent


@pytest.fixture
def terminal(monkeypatch):
    """Make both consoles a terminal of 80 columns, and return what is written to it."""
    screen = io.StringIO()
    for name in ("out", "err"):
        made = Console(
            file=screen, force_terminal=True, width=80, highlight=False, soft_wrap=True,
            color_system="standard", _environ={},
        )  # fmt: skip
        monkeypatch.setattr(console, name, made)
    return screen


@pytest.fixture
def no_sinks():
    """Leave the log without sinks afterwards."""
    yield
    logger.remove()


ROWS = [["validation", "0.9"], ["te\x1b[31mst\n", "\u202e1"]]


def test_a_table_in_a_pipe_is_tab_separated_lines(capsys):
    console.table("scores", ["split", "f1"], ROWS)
    assert capsys.readouterr().out == "split\tf1\nvalidation\t0.9\nte\\x1b[31mst\\n\t\\u202e1\n"


def test_a_table_on_a_terminal_is_a_grid(terminal):
    console.table("", ["split", "f1"], ROWS)
    plain = [line.rstrip() for line in terminal.getvalue().splitlines()]
    assert plain[1:] == ["validation      0.9", "te\\x1b[31mst\\n  \\u202e1"]
    assert "split" in plain[0]


def test_scores_that_are_not_defined_or_not_there_are_a_dash(capsys):
    metrics = {"validation": {"loss": 0.25, "auc": None}, "test": {"loss": 1, "f1": 2 / 3}}
    console.scores_table(metrics)
    assert capsys.readouterr().out.splitlines() == [
        "split\tloss\tauc\tf1",
        "validation\t0.2500\t–\t–",
        "test\t1.0000\t–\t0.6667",
    ]


@given(st.text())
def test_no_control_character_of_a_text_reaches_the_terminal(text):
    shown = console.printable(text)
    assert all(c.isprintable() or c == "\n" for c in shown)
    if all(c.isprintable() for c in text):
        assert shown == text


@pytest.mark.usefixtures("no_sinks")
def test_the_log_in_a_pipe_is_plain_lines_with_the_time(capsys):
    console.start_log(quiet=False, debug=False)
    logger.info("train: 3 texts [bold](neg \x1b[31m2)")
    logger.warning("cut")
    logger.error("shown by the command itself")
    logger.debug("too much")
    out, err = capsys.readouterr()
    assert out == ""
    assert [line[8:] for line in err.splitlines()] == [
        " train: 3 texts [bold](neg \\x1b[31m2)",
        " warning: cut",
    ]
    assert all(line[2] == line[5] == ":" for line in err.splitlines())


@pytest.mark.usefixtures("no_sinks")
def test_a_quiet_log_says_nothing(capsys):
    progress = console.start_log(quiet=True, debug=False)
    logger.info("x")
    logger.warning("x")
    logger.error("x")
    assert capsys.readouterr() == ("", "")
    assert isinstance(progress, Silent)


@pytest.mark.usefixtures("no_sinks")
def test_a_debug_log_says_where_each_line_comes_from(capsys):
    console.start_log(quiet=False, debug=True)
    logger.debug("x")
    assert capsys.readouterr().err.rstrip().endswith(f"[{__name__}:{sys._getframe().f_lineno - 1}]")


@pytest.mark.usefixtures("no_sinks")
def test_a_log_on_a_terminal_colours_warnings_only(terminal):
    console.start_log(quiet=False, debug=False)
    logger.info("plain")
    logger.warning("yellow")
    plain, yellow = terminal.getvalue().splitlines()
    assert "\x1b" not in plain
    assert yellow.startswith("\x1b[33m")


def test_progress_goes_to_bars_on_a_terminal_and_to_lines_in_a_pipe(terminal, monkeypatch):
    assert isinstance(console.start_log(quiet=False, debug=False), console.Bars)
    assert isinstance(console.terminal_progress(), console.Bars)
    monkeypatch.setattr(console, "err", Console(file=io.StringIO()))
    assert isinstance(console.start_log(quiet=False, debug=False), console.Lines)
    assert isinstance(console.terminal_progress(), Silent)
    logger.remove()


def test_a_bar_shows_title_count_and_note_in_less_than_80_columns(terminal):
    with console.Bars().bar("evaluate validation", 100_000, 20_000) as bar:
        bar.advance(3, "loss 0.1234")
        bar.advance()
    shown = terminal.getvalue()
    assert "evaluate validation" in shown
    with console.Bars().bar("train", 18_000) as bar:
        bar.advance(17_000, "loss 0.1234")
    last = terminal.getvalue().replace("\r", "\n").splitlines()
    plain = [Console(file=io.StringIO()).render_str(line) for line in last]
    widest = max(len(strip(str(line))) for line in plain)
    assert 60 < widest < 78  # ^C of an impatient user still fits on the line
    assert any("17000/18000" in strip(str(line)) and "loss 0.1234" in line for line in plain)


def strip(text: str) -> str:
    import re

    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).rstrip()


@pytest.mark.parametrize(("seconds", "count"), [(0.0, 3), (1e9, 0)])
def test_progress_in_a_pipe_is_a_line_now_and_then(capsys, monkeypatch, seconds, count):
    monkeypatch.setattr(console, "PLAIN_SECONDS", seconds)
    with console.Lines().bar("encode", 40, done=10) as bar:
        for _ in range(3):
            bar.advance(5, "loss 0.5")
    lines = capsys.readouterr().err.splitlines()
    expected = [f"encode: {10 + 5 * i}/40  loss 0.5" for i in (1, 2, 3)]
    assert lines == expected[:count]

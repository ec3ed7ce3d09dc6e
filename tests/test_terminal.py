"""The commands in a real terminal: what a person sees, types and interrupts."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import bertkit
from bertkit.records import RunResult
from bertkit.tasks import SingleLabel
from tests.conftest import reviews

pexpect = pytest.importorskip("pexpect")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

BERTKIT = str(Path(sys.executable).with_name("bertkit"))
COLUMNS, ROWS = 80, 30


class Screen:
    """What a terminal shows after some output: as much of a terminal as bertkit asks for."""

    def __init__(self, output: str) -> None:
        self.lines = [""]
        self.row = self.column = 0
        self.cursor = True
        for token in re.findall(r"\x1b\[\??[0-9;]*[A-Za-z]|[^\x1b]|\x1b", output):
            self.take(token)

    def take(self, token: str) -> None:
        if token == "\r":
            self.column = 0
        elif token == "\n":
            self.down()
        elif token.startswith("\x1b["):
            number = re.sub(r"\D", "", token)
            if token[-1] == "A":
                self.row = max(0, self.row - int(number or 1))
            elif token[-1] == "K":
                keep = 0 if number == "2" else self.column
                self.lines[self.row] = self.lines[self.row][:keep]
            elif token.startswith("\x1b[?25"):
                self.cursor = token[-1] == "h"
            elif token[-1] != "m" and token not in ("\x1b[?2004h", "\x1b[?2004l"):
                raise AssertionError(f"no terminal should be asked for {token!r}")
        elif token.isprintable():
            if self.column == COLUMNS:
                self.column = 0
                self.down()
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + token + line[self.column + 1 :]
            self.column += 1
        else:
            raise AssertionError(f"no terminal should be sent {token!r}")

    def down(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")

    @property
    def shown(self) -> list[str]:
        return [line.rstrip() for line in self.lines]


@pytest.fixture
def terminal(tmp_path):
    """Return a function that starts bertkit in a terminal of 80 columns."""
    environment = {
        **{k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")},
        "TERM": "xterm-256color",
        "INPUTRC": os.devnull,
    }
    children = []

    def start(*arguments: object, folder: Path = tmp_path):
        child = pexpect.spawn(
            BERTKIT, list(map(str, arguments)), cwd=str(folder), env=environment,
            dimensions=(ROWS, COLUMNS), encoding="utf-8", timeout=120,
        )  # fmt: skip
        child.logfile_read = Log()
        children.append(child)
        return child

    yield start
    for child in children:
        child.close(force=True)


class Log:
    """Keeps all that a child wrote."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def ended(child) -> int:
    child.expect(pexpect.EOF)
    child.wait()
    return child.exitstatus


@pytest.fixture
def place(encoder_dir, reviews_csv, tmp_path):
    """A folder with data, an encoder, and a spec without `output`."""
    (tmp_path / "encoder").symlink_to(encoder_dir)
    (tmp_path / "run.yaml").write_text(
        "encoder: ./encoder\n"
        "dataset: {train: reviews.csv, test: 0.2}\n"
        "trainer: {max_steps: 120, batch_size: 8, precision: fp32, save: {steps: 10}, keep: 2,"
        " evaluate: {steps: 40}, best: null}\n",
        encoding="utf-8",
    )
    return tmp_path


def test_a_run_shows_bars_and_leaves_a_clean_screen(terminal, place):
    child = terminal("run", "run.yaml", "--set", "output=out")
    assert ended(child) == 0
    text = child.logfile_read.text
    assert re.search(r"train .*━.* left .*loss \d\.\d{4}", text)
    assert "\x1b[38;5;" in text or "\x1b[32m" in text  # the bars are coloured

    screen = Screen(text)
    assert screen.cursor
    result = RunResult.read(place / "out")
    whole = "\n".join(screen.shown)
    assert "━" not in whole
    log, table = whole.split("\nsplit ")
    previous = ""
    for line in log.splitlines():  # a long line goes on in the next; nothing else is between
        assert re.match(r"\d\d:\d\d:\d\d \S", line) or len(previous) >= COLUMNS - 1, line
        previous = line
    assert "done in" in previous
    names, validation, test, empty, *ending = table.splitlines()
    assert names.split() == ["loss", "accuracy", "f1"]
    for row, name in ((validation, "validation"), (test, "test")):
        scores = [f"{value:.4f}" for value in result.metrics[name].values()]
        assert row.split() == [name, *scores]
    assert empty == ""
    assert "".join(ending).startswith(f"model    {result.model_dir}")


def test_ctrl_c_ends_with_130_and_a_line_that_goes_on(terminal, place):
    child = terminal("run", "run.yaml")
    child.expect(r"step 40/120")
    child.sendintr()
    assert ended(child) == 130
    screen = Screen(child.logfile_read.text)
    assert screen.cursor
    whole = "".join(line.ljust(COLUMNS) for line in screen.shown)  # as a person copies it
    assert "━" not in whole
    assert "Traceback" not in whole
    (line,) = re.findall(r"error: interrupted; go on with: (bertkit run .* --resume)", whole)

    words = shlex.split(line)
    (run_dir,) = (place / "runs").iterdir()
    assert not (run_dir / "result.json").exists()
    done = subprocess.run(
        [BERTKIT, *words[1:], "--quiet"], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("split\tloss")
    assert done.stderr == ""
    training = RunResult.read(run_dir).training
    assert training["steps"] == 120
    assert training["resumed_from"] >= 30


def test_texts_are_classified_as_they_are_typed_until_q(terminal, encoder_dir, tmp_path):
    result = bertkit.run(
        {
            "encoder": str(encoder_dir),
            "dataset": {"type": "inline", "train": reviews(20), "validation": 0},
            "long_text": {"max_length": 32, "keep": "error"},
            "trainer": {"max_steps": 2, "precision": "fp32"},
            "output": str(tmp_path / "run"),
        }
    )
    expected = {one: bertkit.load(result.model_dir).predict(one)[0] for one in ("good", "很好看")}
    child = terminal("predict", result.model_dir)
    child.expect_exact("labels: neg, pos; q to leave")
    for text, found in expected.items():
        child.expect_exact("text> ")
        child.sendline(text)
        child.expect_exact(f"{found.label}  {found.score:.4f}")
    child.expect_exact("text> ")
    child.sendline("   ")
    child.expect_exact("text> ")
    child.sendline("room " * 31)  # too long for this model: said, and on it goes
    child.expect_exact("error: text 1: 33 tokens, the model reads 32")
    child.expect_exact("text> ")
    child.sendline("xq\x1b[D\x7f")  # arrow keys move, they are not typed: what is left is q
    assert ended(child) == 0
    assert "Traceback" not in child.logfile_read.text


def test_pairs_are_typed_one_text_after_the_other_and_numbers_are_answered(
    terminal, encoder_dir, tmp_path
):
    rows = [{"text": [row["text"], "good"], "label": 1.5 * i} for i, row in enumerate(reviews(20))]
    result = bertkit.run(
        {
            "encoder": str(encoder_dir),
            "dataset": {"type": "inline", "train": rows, "validation": 0},
            "long_text": {"max_length": 16, "cut": "first"},
            "trainer": {"max_steps": 2, "precision": "fp32"},
            "output": str(tmp_path / "run"),
        }
    )
    (found,) = bertkit.load(result.model_dir).predict([("a room", "very bad")])
    child = terminal("predict", result.model_dir)
    child.expect_exact("targets: label; q to leave")
    child.expect_exact("first> ")
    child.sendline("a room")
    child.expect_exact("second> ")
    child.sendline("")  # nothing typed: asked again
    child.expect_exact("second> ")
    child.sendline("very bad")
    child.expect_exact(f"label  {found.score:.4g}")
    child.expect_exact("first> ")
    child.sendline("a bed")
    child.expect_exact("second> ")
    child.sendline("room " * 20)  # no room is left for the first
    child.expect_exact("error: text 1: the second text has 20 tokens")
    child.expect_exact("first> ")
    child.sendline("q")
    assert ended(child) == 0
    assert "Traceback" not in child.logfile_read.text


@pytest.mark.parametrize(("end", "status"), [(EOFError, 0), (KeyboardInterrupt, 130)])
def test_ctrl_d_and_ctrl_c_end_the_conversation_on_a_line_of_its_own(
    monkeypatch, capsys, end, status
):
    import io

    from bertkit.cli import app

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def key(prompt: str) -> str:
        raise end

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", key)
    model = SimpleNamespace(task=SingleLabel(("a",)), pairs=None)
    monkeypatch.setattr("bertkit.artifact.load", lambda *_, **__: model)
    with pytest.raises(SystemExit) as left:
        app(["predict", "model"])
    assert left.value.code == status
    said = "interrupted\n" if status else ""
    assert capsys.readouterr() == ("", f"labels: a; q to leave\n\n{said}")

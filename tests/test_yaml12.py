"""YAML 1.2: what is read, what is refused and where, and that what is written comes back."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertkit.errors import SpecError
from bertkit.yaml12 import MAX_BYTES, MAX_DEPTH, read, read_file, write

REFUSED = [
    # (text, line, column, words that the message must have: what was found, what to do)
    ("a:\n\tb: 1\n", 2, 1, ["tab", "spaces"]),
    ("a: 1\n\tb: 2\n", 2, 1, ["tab", "spaces"]),
    ("a:\t1\n", 1, 3, ["tab", "spaces"]),
    ("a:\n    b: 1\n  c: 2\n", 3, 3, ["c: 2", "indentation"]),
    ("a: 1\n  b: 2\n", 2, 4, ["b: 2", "key: value", "indent"]),
    ("- a\nb: 1\n", 2, 1, ["b: 1", "indentation"]),
    ("a: 1\nb: 'x\nc: 2\n", 2, 4, ["b: 'x", "close the quote"]),
    ('a: "x\n', 1, 4, ["close the quote"]),
    ("a: 'it's'\n", 1, 8, ["it's", "quote the whole text"]),
    ("title: BERT: a study\n", 1, 12, ["BERT", "quote text with ': '"]),
    ('a: "C:\\data"\n', 1, 8, ["unknown escape", "single quotes", "backslash"]),
    ('a: "\\U00110000"\n', 1, 1, ["0x110000", "correct"]),
    ('a: "\\ud800"\n', 1, 4, ["ud800", "correct"]),
    ("a: @user\n", 1, 4, ["@user", "quotes"]),
    ("a: `x`\n", 1, 4, ["`x`", "quotes"]),
    ("a: %x\n", 1, 4, ["%x", "quotes"]),
    ("a: [1, 2\nb: 3\n", 2, 2, ["','", "closing bracket"]),
    ("a: {b: 1\n", 2, 1, ["','", "closing bracket"]),
    ("a: 1]\nb: ]\n", 2, 4, ["b: ]", "quotes"]),
    ("a: {b}\n", 1, 5, ["'b' without a value", "colon and a space"]),
    ("a: {b:1, c: 2}\n", 1, 5, ["'b:1' without a value", "colon and a space"]),
    ("a: 1\nb: 2\na: 3\n", 3, 1, ["'a' again", "line 1", "delete or rename"]),
    ("t:\n  - {x: 1, x: 2}\n", 2, 12, ["'x' again", "line 2", "delete or rename"]),
    ("a: {1: x, true: y}\n", 1, 11, ["again", "delete or rename"]),
    ("a: &x 1\nb: *x\n", 1, 4, ["anchor", "write the value out"]),
    ("b: 1\na: *x\n", 2, 4, ["alias", "write the value out"]),
    ("&a b: 1\n", 1, 1, ["anchor", "write the value out"]),
    ("a: 1\n<<: {b: 1}\n", 2, 1, ["'<<'", "write it out"]),
    ("a: !!python/object/apply:os.system [ls]\n", 1, 4, ["tag", "write the value out"]),
    ("a: !!int 3\n", 1, 4, ["tag", "quote the text"]),
    ("a: ! 3\n", 1, 4, ["tag", "quote the text"]),
    ("!x\na: 1\n", 1, 1, ["tag"]),
    ("a: !y!z 1\n", 1, 4, ["y!z", "correct"]),
    ("%YAML 1.1\n---\na: no\n", 2, 1, ["% directive", "delete"]),
    ("%TAG ! tag:x,2000:\n---\na: 1\n", 2, 1, ["% directive", "delete"]),
    ("a: 1\n---\nb: 2\n", 2, 1, ["second document", "two files"]),
    ("a: 1\n...\nb: 2\n", 3, 1, ["second document", "two files"]),
    ("", 1, 1, ["no content", "key: value"]),
    ("# only a comment\n\n", 3, 1, ["no content", "key: value"]),
    ("---\n", 2, 1, ["no content", "key: value"]),
    ("a: 1\n2: b\n", 2, 1, ["the key 2", "expected text", "quotes"]),
    ("a: 1\nnull: b\n", 2, 1, ["the key None", "quotes"]),
    ("a:\n  ~: b\n", 2, 3, ["the key None", "quotes"]),
    ("a:\n  .nan: b\n", 2, 3, ["the key nan", "quotes"]),
    ("a:\n  ? [1, 2]\n  : b\n", 2, 5, ["the key [1, 2]", "quotes"]),
    ("a:\n  : b\n", 2, 3, ["the key None", "quotes"]),
    ("a: 1\nb: \x00\n", 2, 4, ["U+0000", "delete"]),
    ("a: 1\r\nb: \x1b[0m\r\n", 2, 4, ["U+001B", "delete"]),
    ("a: x\u2028b: 1\n", 1, 5, ["U+2028", "escape"]),
    ("a: 1\n\ufeffb: 2\n", 2, 1, ["U+FEFF", "delete"]),
    ("a: \ud800\n", 1, 4, ["U+D800", "delete"]),
    ("a: 1\nb: 1e999\n", 2, 4, ["too large", "correct"]),
    (f"a: {'9' * 5000}\n", 1, 4, ["4300 digits", "correct"]),
    ("a: |\n  x\n y: 1\n", 3, 2, ["y: 1", "indentation"]),
    ("a: >5x\n", 1, 6, [">5x", "correct"]),
    (f"a: {'[' * MAX_DEPTH}", 1, 3 + MAX_DEPTH, ["50 levels", "brackets"]),
    (f"a: {'x' * MAX_BYTES}", 1, 1, ["1 MiB", "files of their own"]),
    ("文" * (MAX_BYTES // 3 + 1), 1, 1, ["1 MiB", "files of their own"]),
]


@pytest.mark.parametrize(("text", "line", "column", "words"), REFUSED)
def test_refusals_say_where_what_and_what_to_do(
    text: str, line: int, column: int, words: list[str]
) -> None:
    with pytest.raises(SpecError) as caught:
        read(text, "run.yaml")
    message = str(caught.value)
    assert message.startswith(f"run.yaml, line {line}, column {column}: found ")
    assert "; expected " in message
    assert "\n" not in message
    assert len(message) < 400
    for word in words:
        assert word in message or (word == "tab" and "'\\t'" in message)


READ: dict[str, object] = {
    "no": "no",
    "yes": "yes",
    "on": "on",
    "Off": "Off",
    "null": None,
    "~": None,
    "Null": None,
    "nUll": "nUll",
    "true": True,
    "FALSE": False,
    "tRue": "tRue",
    "1e-5": 1e-5,
    "2.0e-5": 2e-5,
    "1E3": 1000.0,
    ".5": 0.5,
    "-.5e+3": -500.0,
    "1.": 1.0,
    "010": 10,
    "0o10": 8,
    "0x1F": 31,
    "+1": 1,
    "-0": 0,
    "-0x1": "-0x1",
    "0b1": "0b1",
    "1_000": "1_000",
    "12:30:45": "12:30:45",
    "2024-01-01": "2024-01-01",
    "2024-01-01T10:00:00Z": "2024-01-01T10:00:00Z",
    ".": ".",
    "+": "+",
    "=": "=",
    ".inf": float("inf"),
    "-.INF": float("-inf"),
    "inf": "inf",
    "nan": "nan",
    "中文 好": "中文 好",
    "'1'": "1",
    '"\\u4e2d"': "中",
    '"\\ud83d\\ude00"': "😀",
    "C:\\data": "C:\\data",
    "a # comment": "a",
    "a#b": "a#b",
    "{}": {},
    "[]": [],
    '{"a":1,"b":[true,null]}': {"a": 1, "b": [True, None]},
    "{0: NEGATIVE, 1: POSITIVE}": {0: "NEGATIVE", 1: "POSITIVE"},
    '{"<<": 1}': {"<<": 1},
}


@pytest.mark.parametrize(("text", "value"), READ.items())
def test_plain_text_means_what_the_core_schema_says(text: str, value: object) -> None:
    got = read(f"key: {text}\n", "run.yaml")
    assert got == {"key": value}
    assert type(got["key"]) is type(value)
    again = read(write(got), "again")
    assert again == got
    assert type(again["key"]) is type(value)


def test_nan_is_a_float() -> None:
    assert repr(read("a: [.nan, .NaN]", "run.yaml")) == "{'a': [nan, nan]}"


def test_line_ends_a_byte_order_mark_and_a_directive_for_12_are_accepted() -> None:
    expected = {"a": "x\ny\n", "b": [1]}
    text = "%YAML 1.2\n---\na: |\n  x\n  y\nb: [1]\n...\n"
    assert read(text, "s") == expected
    assert read("\ufeff" + text.replace("\n", "\r\n"), "s") == expected
    assert read(text.replace("\n", "\r"), "s") == expected


@pytest.mark.parametrize("start", ["[", "{", "- ", "? ", "a: [", "{a: ", "[{"])
def test_deep_nesting_is_refused_at_once(start: str) -> None:
    began = time.perf_counter()
    with pytest.raises(SpecError, match="levels"):
        read(start * 100_000, "run.yaml")
    assert time.perf_counter() - began < 10


def test_fifty_levels_are_read_and_written() -> None:
    value: object = "deep"
    for _ in range(MAX_DEPTH // 2):
        value = {"a": [value]}
    assert read(write(value), "s") == value
    with pytest.raises(SpecError, match="levels"):
        write([value])
    cycle: list[object] = []
    cycle.append(cycle)
    with pytest.raises(SpecError, match="levels"):
        write(cycle)


def test_an_alias_bomb_is_refused_at_its_first_anchor() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 40)]
    began = time.perf_counter()
    with pytest.raises(SpecError, match="line 1, column 5: found an anchor"):
        read("\n".join(lines), "run.yaml")
    assert time.perf_counter() - began < 1


def test_written_yaml_is_plain_to_read() -> None:
    value = {
        "encoder": {"type": "pretrained", "name": "bert-base-chinese"},
        "labels": ["差", "很好，推荐"],
        "rows": [{"text": "a: b", "label": "no"}, [1, []]],
        "trainer": {"learning_rate": 2e-05, "epochs": 3, "clip": None, "best": True},
        "names": {0: "NEGATIVE"},
        "output": "./runs/reviews",
    }
    assert write(value) == (
        "encoder:\n  type: pretrained\n  name: bert-base-chinese\n"
        'labels:\n  - 差\n  - "很好，推荐"\n'
        'rows:\n  - text: "a: b"\n    label: "no"\n  - - 1\n    - []\n'
        "trainer:\n  learning_rate: 2.0e-05\n  epochs: 3\n  clip: null\n  best: true\n"
        "names:\n  0: NEGATIVE\noutput: ./runs/reviews\n"
    )


@pytest.mark.parametrize("value", [object(), {"a": Path("x")}, [{1, 2}], {("a",): 1}])
def test_only_plain_data_is_written(value: object) -> None:
    with pytest.raises(TypeError):
        write(value)


def same(a: object, b: object) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict) and isinstance(b, dict):
        return same(list(a), list(b)) and same(list(a.values()), list(b.values()))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


TRICKY = ["no", "Yes", "1e-5", "null", "~", "true", "2024-01-01", "", " x ", "a\nb\n", "\r\n", "\t"]
TRICKY += [
    "---",
    "...",
    "- a",
    "a: b",
    "a:",
    "#",
    "x #y",
    "'",
    '"',
    "\\",
    "\x85",
    "\u2028",
    "\ufeff",
]
TRICKY += [
    "\x00",
    "\x7f",
    "很好，",
    "<<",
    "=",
    "0x1F",
    "010",
    ".inf",
    ".nan",
    "@a",
    "`",
    "%a",
    "*a",
]
TRICKY += [
    "&a",
    "!a",
    "|",
    ">",
    "?",
    "? a",
    "{",
    "]",
    ",",
    "1_0",
    "k" * 1200,
    "e" * 5 + " ",
    "\ufffe",
]
TEXTS = st.text(max_size=30) | st.sampled_from(TRICKY)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
NAMES = TEXTS | st.integers(min_value=2) | st.booleans()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=15
)


@given(VALUES)
@settings(deadline=None, max_examples=300)
def test_what_is_written_comes_back(value: object) -> None:
    text = write(value)
    assert same(read(text, "written"), value)
    assert write(value) == text


@given(st.dictionaries(TEXTS, st.dictionaries(NAMES, SCALARS)))
@settings(deadline=None, max_examples=100)
def test_nested_keys_keep_their_types(value: object) -> None:
    assert same(read(write(value), "written"), value)


@given(
    st.lists(
        st.sampled_from([*"ab:-?[]{},#&*!|>'\"%@` \n\t\\", ": ", "- ", "\n  ", "1", "~", "中"])
    )
)
@settings(deadline=None, max_examples=300)
def test_any_text_is_read_or_refused(pieces: list[str]) -> None:
    value: object = None
    with contextlib.suppress(SpecError):  # and no other error
        value = read("".join(pieces), "any")
    assert same(read(write(value), "written"), value)


class TestFiles:
    def test_read(self, tmp_path: Path) -> None:
        path = tmp_path / "评论.yaml"
        path.write_bytes(b"\xef\xbb\xbfname: \xe5\xa5\xbd\r\n")
        assert read_file(path) == {"name": "好"}

    def test_place_in_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "run.yaml"
        path.write_text("a: 1\na: 2\n")
        with pytest.raises(
            SpecError, match=r"run\.yaml, line 2, column 1: found the key 'a' again"
        ):
            read_file(path)

    def test_missing_names_what_is_near(self, tmp_path: Path) -> None:
        (tmp_path / "reviews.yaml").write_text("a: 1")
        with pytest.raises(SpecError, match=r"no such file.*did you mean reviews\.yaml\?"):
            read_file(tmp_path / "review.yml")
        with pytest.raises(SpecError, match=r"no such file.*check the name"):
            read_file(tmp_path / "nowhere" / "x.yaml")
        with pytest.raises(SpecError, match="no such file"):
            read_file(tmp_path / "\x00")

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match=r"a folder.*expected a YAML file"):
            read_file(tmp_path)

    def test_device_and_pipe_are_not_opened(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for path in (Path("/dev/zero"), tmp_path / "pipe"):
            with pytest.raises(SpecError, match="device"):
                read_file(path)

    def test_size_is_checked_before_reading(self, tmp_path: Path) -> None:
        path = tmp_path / "huge.yaml"
        with path.open("wb") as file:
            file.truncate(1 << 40)  # sparse: reading it would not end well
        with pytest.raises(SpecError, match="1 MiB"):
            read_file(path)

    def test_not_utf8(self, tmp_path: Path) -> None:
        path = tmp_path / "gbk.yaml"
        path.write_bytes("a: 1\nb: 好\n".encode("gbk"))
        with pytest.raises(SpecError, match=r"line 2: found byte 0xBA; expected UTF-8: save"):
            read_file(path)

    def test_not_permitted(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            path = Path(folder, "mine.yaml")
            path.write_text("a: 1")
            path.chmod(0)
            mine = os.geteuid()
            if mine == 0:  # root reads everything, so nobody reads here
                os.seteuid(65534)
            try:
                with pytest.raises(SpecError, match="Permission denied; expected a readable file"):
                    read_file(path)
            finally:
                os.seteuid(mine)


def test_importing_it_loads_no_yaml_library() -> None:
    code = "import bertkit.yaml12, sys; print([m for m in sys.modules if 'yaml' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['bertkit.yaml12']"

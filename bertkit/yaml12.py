"""YAML 1.2, strictly: plain data in, plain data out, one clear message for anything else.

ruamel.yaml turns text into events; what they mean is decided here, since its own constructor reads
`1_0` as 10 and dates as dates, follows aliases and allows tags. `write` quotes any text that a YAML
reader, also one of YAML 1.1, could take for something else.
"""

import difflib
import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn

from bertkit.errors import SpecError

MAX_BYTES, MAX_DEPTH = 1 << 20, 50
_CORE = re.compile(  # the core schema of YAML 1.2: what plain text means
    r"(?P<null>|~|null|Null|NULL)|(?P<true>true|True|TRUE)|(?P<false>false|False|FALSE)"
    r"|(?P<int>[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)"
    r"|(?P<float>[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?)"
    r"|(?P<inf>[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))"
)
_YAML11 = "(?i:y|n|yes|no|on|off|null|true|false)"
_SAFE = re.compile(rf"(?!{_YAML11}\Z)(?:[^\W\d]|\.?/)[\w./+-]*(?: [\w./+-]+)*")
_SEEN = "\t\n -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff"
_ADVICE = {  # the parser's words: what to do
    r"'\t'": "expected spaces: replace the tab by spaces",
    "unknown escape": "expected a known escape: use single quotes, or double each backslash",
    "end of stream": "expected a closing quote: close the quote that opens here",
    "mapping values": "expected one `key: value` a line: indent alike, write a space after each "
    "colon, above this line, too, and quote text with ': ' in it",
    "expected ','": "expected a comma or a closing bracket: add what is missing",
    "<block end>": "expected the next entry: correct the indentation, or quote the whole text",
    "": "expected YAML 1.2: correct this, or put the text in quotes",
}


def read(text: str, where: str) -> object:
    """Return the one document in `text` as plain data; `where` is its name in messages."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    reader = _Reader(where, YAML(typ="safe", pure=True, plug_ins=[]).parse(text))
    if len(text.encode(errors="replace")) > MAX_BYTES:
        reader.refuse("more than 1 MiB", "expected a spec: keep data in files of their own")
    if odd := re.search(f"[^{_SEEN}]", text):
        reader.line = text.count("\n", 0, odd.start())
        reader.column = odd.start() - text.rfind("\n", 0, odd.start()) - 1
        found = f"the invisible character U+{ord(odd[0]):04X}"
        reader.refuse(found, "expected visible text: delete it, or write it as an escape")
    try:
        return reader.document()
    except (MarkedYAMLError, ValueError) as error:  # ValueError: a number or escape out of range
        problem = str(getattr(error, "problem", error))
        name = "context_mark" if "end of stream" in problem else "problem_mark"
        mark = getattr(error, name, None) or reader
        advice = next(advice for words, advice in _ADVICE.items() if words in problem)
        line = text.split("\n")[mark.line].strip()
        reader.refuse(f"{line[:60]!r} ({problem})", advice, mark)


def read_file(path: Path) -> object:
    """Read a YAML file: UTF-8, at most 1 MiB, which is looked at before anything is read."""
    try:
        if not path.is_file():
            others = path.parent.iterdir() if path.parent.is_dir() else ()
            names = [item.name for item in others if item.is_file()]
            near = " or ".join(difflib.get_close_matches(path.name, names))
            found = "a folder or a device" if path.exists() else "no such file"
            advice = f"did you mean {near}?" if near else "check the name and the folder"
            raise SpecError(f"{path}: found {found}; expected a YAML file: {advice}")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise SpecError(f"{path}: found {size} bytes; expected at most 1 MiB: move data out")
        data = path.read_bytes()
        return read(data.decode(), str(path))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"found byte 0x{data[error.start]:02X}"
        raise SpecError(f"{path}, line {line}: {found}; expected UTF-8: save it as UTF-8") from None
    except OSError as error:
        found = f"found {error.strerror}"
        raise SpecError(f"{path}: {found}; expected a readable file: check it") from None


class _Reader:
    def __init__(self, where: str, events: Any) -> None:
        self.where, self.events, self.line, self.column = where, events, 0, 0

    def refuse(self, found: str, advice: str, mark: Any = None) -> NoReturn:
        place = f"line {(mark or self).line + 1}, column {(mark or self).column + 1}"
        raise SpecError(f"{self.where}, {place}: found {found}; {advice}")

    def next(self) -> tuple[str, Any]:
        event = next(self.events)
        self.line, self.column = event.start_mark.line, event.start_mark.column
        return type(event).__name__.removesuffix("Event"), event

    def document(self) -> object:
        self.next()  # the start of the stream
        if (step := self.next())[0] == "DocumentStart":
            if step[1].tags or step[1].version not in (None, (1, 2)):
                self.refuse("a % directive above", "expected YAML 1.2: delete the directive")
            step = self.next()
            value = self.node(*step, 0)
            if value is not None or step[1].value:
                self.next()  # the end of the document
                if self.next()[0] == "StreamEnd":
                    return value
                self.refuse("a second document", "expected one: delete it, or use two files")
        self.refuse("no content", "expected `key: value` lines: write the first one")

    def node(self, kind: str, event: Any, depth: int) -> Any:
        if kind == "Alias" or event.anchor is not None or event.tag is not None:
            advice = "expected plain values: delete it and write the value out, or quote the text"
            self.refuse("an anchor, alias or tag (& * !)", advice)
        if kind == "Scalar" and event.style is None:
            return _plain(event.value)
        if kind == "Scalar":  # JSON escapes in pairs of surrogates; a lone one is refused
            return event.value.encode("utf-16", "surrogatepass").decode("utf-16")
        if depth == MAX_DEPTH:
            self.refuse(f"more than {MAX_DEPTH} levels", "expected fewer: close the brackets")
        if kind == "SequenceStart":
            items = []
            while (step := self.next())[0] != "SequenceEnd":
                items.append(self.node(*step, depth + 1))
            return items
        mapping: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        while (step := self.next())[0] != "MappingEnd":
            mark, key = step[1].start_mark, self.node(*step, depth + 1)
            merge = key == "<<" and step[1].style is None
            if merge or key != key or not isinstance(key, (str, int, float) if depth else str):
                advice = "expected text as key: put it in quotes; nothing is merged, write it out"
                self.refuse(f"the key {key!r}", advice, mark)
            if key in mapping:
                found = f"the key {key!r} again (first on line {lines[key]})"
                self.refuse(found, "expected each key once: delete or rename one", mark)
            end, lines[key] = step[1].end_mark.index, mark.line + 1
            if (step := self.next())[1].start_mark.index == end:
                advice = "expected `key: value`: write a colon and a space after the key"
                self.refuse(f"the key {key!r} without a value", advice, mark)
            mapping[key] = self.node(*step, depth + 1)
        return mapping


def _plain(text: str) -> bool | int | float | str | None:
    match = _CORE.fullmatch(text)
    kind = match.lastgroup if match else "str"
    if kind == "int":
        return int(text, 0 if text[1:2] in ("o", "x") else 10)
    if kind == "float" and math.isinf(float(text)):
        raise ValueError("the number is too large for a float")
    if kind in ("float", "inf"):
        return float(text.replace(".", "") if kind == "inf" else text)
    return text if kind == "str" else {"null": None, "true": True, "false": False}[str(kind)]


def write(value: object) -> str:
    """Return plain data as YAML: block style, keys in their order; `read` gives it back."""
    return "\n".join(_block(value, 0)) + "\n"


def _block(value: object, depth: int) -> list[str]:
    if not isinstance(value, dict | list) or not value:
        return [_scalar(value)]
    if depth == MAX_DEPTH:
        raise SpecError(f"value to write: found more than {MAX_DEPTH} levels; expected fewer")
    if isinstance(value, list):
        blocks = [_block(item, depth + 1) for item in value]
        return [("  " if i else "- ") + line for block in blocks for i, line in enumerate(block)]
    lines: list[str] = []
    for key, item in value.items():
        block, name = _block(item, depth + 1), _scalar(key)
        if len(name) > 1000:  # a key of more than 1024 characters has to be announced
            lines, name = [*lines, f"? {name}"], ""
        if isinstance(item, dict | list) and item:
            lines += [f"{name}:", *(f"  {line}" for line in block)]
        else:
            lines.append(f"{name}: {block[0]}")
    return lines


def _scalar(value: object) -> str:
    if isinstance(value, float):
        text = repr(value).replace("inf", ".inf").replace("nan", ".nan")
        return text if "." in text else text.replace("e", ".0e")
    if isinstance(value, str) and _SAFE.fullmatch(value):
        return value
    if value is not None and not isinstance(value, str | int | dict | list):
        raise TypeError(f"only plain data can be written as YAML, not {value!r}")
    quoted = json.dumps(value, ensure_ascii=False)
    return re.sub(f"[^{_SEEN}]", lambda odd: f"\\u{ord(odd[0]):04x}", quoted)

"""Write docs/reference/: the spec from its schema, hooks and Python names from their docstrings.

    python docs/generate_reference.py            writes
    python docs/generate_reference.py --check    says what is out of date

Installed plugins are left out, so that the pages are the same on every machine.
"""

import ast
import dataclasses
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bertkit
from bertkit import hooks
from bertkit.errors import BertkitError
from bertkit.registry import Registry, use
from bertkit.spec import schema

HERE = Path(__file__).parent / "reference"
MARK = "<!-- Written by docs/generate_reference.py; change the code, not this page. -->\n\n"
KINDS = {
    "encoder": "Encoders", "dataset": "Datasets", "head": "Heads", "trainer": "Trainers",
    "metrics": "Metrics",
}  # fmt: skip
Schema = dict[str, Any]


# the spec


def spec_page() -> str:
    """Return the reference of the spec."""
    use(Registry(plugins=False))
    try:
        fields: Schema = schema()["properties"]
    finally:
        use(None)
    parts = [
        "# Spec reference\n",
        "Every field of a spec, from the schema that `bertkit schema` prints. What stands behind "
        "the fields is told in [The spec](../spec.md). Fields in **bold** are required.\n",
        "## Top level\n",
        "\n".join(table({**fields}, "", {"encoder", "dataset"})),
    ]
    for name, field in fields.items():
        if name in KINDS:
            parts += component_section(name, KINDS[name], field)
        elif "properties" in field:
            parts += [f"## {name}\n", f"{field['description']}\n"]
            parts += ["\n".join(table(field["properties"], name, set(field.get("required", ()))))]
    return MARK + "\n\n".join(part.strip("\n") for part in parts) + "\n"


def component_section(place: str, title: str, field: Schema) -> Iterator[str]:
    """Yield the section of one kind: fields of every type, then those of each."""
    if place == "metrics":
        field = {**field, **next(one for one in field["anyOf"] if "items" in one)["items"]}
    choices = field["oneOf"]
    branches = [choice for choice in choices if choice.get("type") == "object"]
    names = ", ".join(f"[`{b['title']}`](#{place}-{b['title']})" for b in branches)
    yield f"## {title}\n"
    yield f"{field['description']} `{place}` is one of {names}; plugins add more.\n"
    first = branches[0]["properties"]
    shared = {
        key: value
        for key, value in first.items()
        if key != "type" and all(b["properties"].get(key) == value for b in branches)
    }
    if shared:
        yield f"### Every {place.removesuffix('s')}\n"
        yield "\n".join(table(shared, place, set()))
    for branch in branches:
        own = {k: v for k, v in branch["properties"].items() if k != "type" and k not in shared}
        yield f"### {place}: `{branch['title']}`\n"
        yield paragraphs(branch["description"])
        required = set(branch.get("required", ())) - {"type"}
        yield "\n".join(table(own, place, required)) if own else "No fields of its own.\n"


def table(fields: Schema, place: str, required: set[str]) -> Iterator[str]:
    """Yield the rows of a table, those of nested fields among them."""
    yield "| field | value | default | meaning |"
    yield "|---|---|---|---|"
    yield from rows(fields, place, required)


def rows(fields: Schema, place: str, required: set[str]) -> Iterator[str]:
    """Yield a row for each field, and for each field inside it."""
    for name, field in fields.items():
        path = f"{place}.{name}" if place else name
        shown = f"**`{path}`**" if name in required else f"`{path}`"
        default = value(field["default"]) if "default" in field else ""
        kind = value_type(field)
        if kind == "mapping" and name not in required:
            default = default or "`{}`"
        if not place and name in KINDS:
            kind = f"[{'list of names or mappings' if name == 'metrics' else 'name or mapping'}]"
            kind += f"(#{KINDS[name].lower()})"
        elif not place and "properties" in field:
            kind, default = f"[mapping](#{name})", ""
        yield f"| {shown} | {kind} | {default} | {cell(field.get('description', ''))} |"
        if place or (name not in KINDS and "properties" not in field):
            inner = nested(field)
            if inner:
                needed = set(inner.get("required", ()))
                yield from rows(inner["properties"], path, needed)


def nested(field: Schema) -> Schema | None:
    """Return the mapping that a field may be, or whose list it may be."""
    for one in (field, *field.get("anyOf", ())):
        for candidate in (one, one.get("items") or {}):
            if "properties" in candidate:
                return dict(candidate)
    return None


def value_type(field: Schema) -> str:
    """Say in words what a field may be."""
    if "anyOf" in field or "oneOf" in field:
        kinds = [value_type(one) for one in field.get("anyOf") or field["oneOf"]]
        return " or ".join(dict.fromkeys(kinds))
    if "const" in field:
        return value(field["const"])
    if "enum" in field:
        return ", ".join(map(value, field["enum"]))
    kind = field.get("type")
    if kind == "array":
        return "list of " + value_type(field.get("items", {}))
    if kind in ("integer", "number"):
        words = {"integer": "whole number", "number": "number"}[kind]
        signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
        limits = [f"{sign} {json.dumps(field[key])}" for key, sign in signs.items() if key in field]
        return " ".join([words, ", ".join(limits)]).strip()
    if kind == "object" and "properties" not in field:
        inner = field.get("additionalProperties")
        return f"mapping to {value_type(inner)}" if isinstance(inner, dict) and inner else "mapping"
    names = {"string": "text", "boolean": "`true`, `false`", "null": "`null`", "object": "mapping"}
    return names.get(str(kind), "any value")


def value(value: Any) -> str:
    """Show a value as it stands in YAML."""
    if isinstance(value, str):
        return cell(f"`{value}`")
    return cell(f"`{json.dumps(value, ensure_ascii=False)}`")


def cell(text: str) -> str:
    """Keep a text inside its table cell."""
    return " ".join(text.split()).replace("|", r"\|")


# hooks and Python names


def hooks_page() -> str:
    """Return the reference of the hooks."""
    parts = ["# Hook reference\n", paragraphs(inspect.getdoc(hooks) or "")]
    groups = {"Registration": "[", "Observers": "None"}
    for title, returns in groups.items():
        parts.append(f"## {title}\n")
        if title == "Registration":
            parts.append("Called once, when a name that is not built in is first looked up.\n")
        for name, function in vars(hooks).items():
            if not name.startswith("bertkit_"):
                continue
            if ("[" in str(inspect.signature(function).return_annotation)) != (returns == "["):
                continue
            parts += [f"### {name}\n", described(name, function)]
    return MARK + "\n\n".join(part.strip("\n") for part in parts) + "\n"


def python_page() -> str:
    """Return the reference of the public Python names."""
    public = {name: getattr(bertkit, name) for name in bertkit.__all__}
    errors: dict[str, type[BertkitError]] = {
        name: thing
        for name, thing in public.items()
        if isinstance(thing, type) and issubclass(thing, BertkitError)
    }
    parts = [
        "# Python reference\n",
        "What `import bertkit` offers. Everything else may change without notice, but for the "
        "`base.py` of each kind of component, which plugins build on.\n",
    ]
    for name, thing in public.items():
        if name in errors:
            continue
        parts.append(f"## {name}\n")
        parts.append(class_text(name, thing) if isinstance(thing, type) else described(name, thing))
    parts += ["## Errors\n", "| error | is a | means | exit code |\n|---|---|---|---|"]
    for name, error in sorted(errors.items()):
        first = (inspect.getdoc(error) or "").split("\n\n")[0]
        base, code = error.__bases__[0].__name__, error.exit_code
        parts[-1] += f"\n| `{name}` | `{base}` | {cell(first)} | {code} |"
    return MARK + "\n\n".join(part.strip("\n") for part in parts) + "\n"


def class_text(name: str, cls: type) -> str:
    """Return docstring, fields and methods of a class."""
    parts = [paragraphs(inspect.getdoc(cls) or "")]
    if dataclasses.is_dataclass(cls):
        notes = field_notes(cls)
        own = [field for field in dataclasses.fields(cls) if field.name in cls.__annotations__]
        parts.append("\n".join(f"- `{f.name}: {f.type}`{notes.get(f.name, '')}" for f in own))
        if dataclasses.is_dataclass(base := cls.__base__):
            parts.append(f"And the fields of `{base.__name__}`.")
    for key, member in vars(cls).items():
        function = getattr(member, "__func__", member)
        if key.startswith("_") or not (
            inspect.isfunction(function) or isinstance(member, property)
        ):
            continue
        if not inspect.getdoc(function) or key in ("model_post_init",):
            continue
        parts.append(f"### {name}.{key}\n")
        if isinstance(member, property):
            parts.append(paragraphs(inspect.getdoc(member) or ""))
        else:
            parts.append(described(key, function))
    return "\n\n".join(part.strip("\n") for part in parts)


def field_notes(cls: type) -> dict[str, str]:
    """Return the docstrings that stand below the fields of a class."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(tree, ast.ClassDef)
    notes = {}
    for field, note in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(note, ast.Expr):
            assert isinstance(field.target, ast.Name)
            assert isinstance(note.value, ast.Constant)
            notes[field.target.id] = ": " + cell(inspect.cleandoc(str(note.value.value)))
    return notes


def described(name: str, function: Any) -> str:
    """Return signature and docstring of a function."""
    if not inspect.isfunction(function):  # a marker of pluggy
        return "`@bertkit.hookimpl` marks a function as the implementation of a [hook](hooks.md)."
    doc = paragraphs(inspect.getdoc(function) or "")
    return f"```text\n{signature(name, function)}\n```\n\n{doc}"


def signature(name: str, function: Callable[..., Any]) -> str:
    """Return a signature, one parameter a line where it is long."""
    found = inspect.signature(function)
    plain = found.replace(
        parameters=[
            p.replace(annotation=Bare(p.annotation)) if p.annotation is not p.empty else p
            for p in found.parameters.values()
        ],
        return_annotation=Bare(found.return_annotation),
    )
    line = f"{name}{plain}"
    if len(line) <= 88:
        return line
    inner, _, rest = line[len(name) + 1 :].rpartition(")")
    parameters = re.split(r", (?=\*|\w+:|\w+=)", inner)
    return f"{name}(\n" + "".join(f"    {p},\n" for p in parameters) + f"){rest}"


class Bare:
    """An annotation that shows without quotes."""

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation

    def __repr__(self) -> str:
        return str(self.annotation).strip("'")


SECTIONS = {
    "Args:": "Arguments", "Returns:": "Returns", "Raises:": "Raises", "Attributes:": "Attributes",
    "Example:": "Example",
}  # fmt: skip


def paragraphs(doc: str) -> str:
    """Turn a docstring into Markdown: sections into lists, examples into code."""
    blocks: list[str] = []
    lines = doc.splitlines()
    while lines:
        line = lines.pop(0)
        if line in SECTIONS:
            body = []
            while lines and (not lines[0] or lines[0].startswith("    ")):
                body.append(lines.pop(0)[4:])
            blocks += ["", f"{SECTIONS[line]}:", "", *section(line, body), ""]
        elif line.startswith("    "):
            code = [line[4:]]
            while lines and (not lines[0] or lines[0].startswith("    ")):
                code.append(lines.pop(0)[4:])
            blocks += ["", *fence(code), ""]
        else:
            blocks.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(blocks)).strip("\n") + "\n"


def section(title: str, body: list[str]) -> list[str]:
    """Return the Markdown of one section of a docstring."""
    if title == "Example:":
        return fence(body)
    if title == "Returns:":
        return body
    items = []
    for line in body:
        if line and not line.startswith(" "):
            name, _, text = line.partition(": ")
            items.append(f"- `{name}`: {text}")
        elif line:
            items.append(f"  {line.strip()}")
    return items


def fence(code: list[str]) -> list[str]:
    """Return a code block in its language."""
    text = "\n".join(code).strip("\n")
    first = text.lstrip()
    kinds = {">>>": "python-console", "@": "python", "[": "toml"}
    kind = next((kind for start, kind in kinds.items() if first.startswith(start)), "text")
    return [f"```{kind}", text, "```"]


PAGES = {"spec.md": spec_page, "hooks.md": hooks_page, "python.md": python_page}


def main() -> int:
    """Write the pages, or say which are out of date."""
    stale = []
    for name, make in PAGES.items():
        text, file = make(), HERE / name
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in sys.argv:
                HERE.mkdir(exist_ok=True)
                file.write_text(text, encoding="utf-8")
    if "--check" in sys.argv and stale:
        print(f"out of date: {', '.join(stale)}; run python docs/generate_reference.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

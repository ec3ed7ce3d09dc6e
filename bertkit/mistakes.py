"""Mistakes in a spec, in plain words: where, what was found, what is expected."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError

from bertkit.component import Component, Options
from bertkit.errors import AmbiguousComponentError, SpecError, UnknownComponentError, suggest
from bertkit.registry import registry
from bertkit.slots import Slot, show, slot_of

EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping with {fields}",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "a number below {lt}",
    "less_than_equal": "{le} or less",
    "string_too_short": "text of length {min_length} or more",
    "string_too_long": "text of length {max_length} at most",
    "string_pattern_mismatch": "{about}",
    "too_short": "{min_length} or more items",
    "too_long": "{max_length} items at most",
    "literal_error": "{choices}",
}
"""What was expected, by pydantic's name of the mistake."""


class _Place(NamedTuple):
    """Where in the spec a mistake is."""

    path: tuple[str | int, ...]
    owner: type[Options] | None
    """The class that has, or lacks, the field at the end of the path."""
    nested: Sequence[type[Options]]
    """The classes of options that may stand at the path."""
    unions: Sequence[tuple[str | int, ...]]
    """Where several kinds of values are allowed, of which pydantic tried each."""

    @property
    def one_of_several(self) -> bool:
        """Whether that is at the end of the path, too."""
        return self.path in self.unions


def _place(root: type[Options], location: tuple[Any, ...], data: Any) -> _Place:
    """Walk through the spec and leave out what pydantic adds: the branches of unions."""
    path: list[str | int] = []
    owner, unions = None, []
    nested: Sequence[type[Options]] = [root]
    slot: Slot | None = None
    for key in location:
        if isinstance(data, BaseModel):
            data = dict(data)
        listed = isinstance(data, (list, tuple))
        named = isinstance(data, Mapping) and (
            key in data or any(key in cls.model_fields for cls in nested)
        )
        if not (named or (listed and isinstance(key, int))):
            unions.append(tuple(path))
            nested = [cls for cls in nested if cls.__name__ == key] or nested
            continue
        path.append(key)
        data = data[key] if listed or key in data else None
        owner = None
        if named:
            owner = nested[0] if nested else None
            field = owner.model_fields.get(key) if owner else None
            slot = slot_of(field) if field else None
            nested = _options_in(field.annotation) if field else []
        if slot and not isinstance(data, (list, tuple)):
            data = slot.expand(data)
            with contextlib.suppress(SpecError):
                nested = [slot.find(data)] if isinstance(data, Mapping) else []
    return _Place(tuple(path), owner, nested, unions)


def _options_in(annotation: Any) -> list[type[Options]]:
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return [annotation]
    return [found for part in get_args(annotation) for found in _options_in(part)]


def explain(error: ValidationError, root: type[Options], data: Any, where: str) -> SpecError:
    """Turn pydantic's errors into one SpecError with a line for each mistake.

    Args:
        error: what validation raised.
        root: the class that was validated.
        data: what it was given.
        where: what the message calls the source.
    """
    found = [(_place(root, item["loc"], data), item) for item in error.errors(include_url=False)]
    kept = [(place, item) for place, item in found if not _beaten(place, item["type"], found)]
    lines: dict[str, dict[str, str]] = {}
    for place, item in kept:
        start, expected, end = _describe(place, item)
        path = "".join(f"{key}." for key in place.path)[:-1]
        lines.setdefault((f"{path}: " if path else "") + start, {})[expected] = end
    shown = [
        start + _or(sorted(ends, key=lambda expected: expected.startswith("a mapping")))
        + max(ends.values(), key=len)
        for start, ends in lines.items()
    ]  # fmt: skip
    by_kind = {
        "unknown_component": UnknownComponentError,
        "ambiguous_component": AmbiguousComponentError,
    }
    kinds = {item["type"] for _, item in kept}
    error_class = by_kind.get(kinds.pop(), SpecError) if len(kinds) == 1 else SpecError
    if len(shown) == 1:
        return error_class(f"{where}: {shown[0]}")
    listing = "".join(f"\n  {line}" for line in shown)
    return error_class(f"{where}: {len(shown)} mistakes{listing}")


def _beaten(place: _Place, kind: str, found: Sequence[tuple[_Place, Any]]) -> bool:
    """Say whether another mistake explains this one better: one deeper, or past the type."""
    same = place.one_of_several
    of_type = kind.endswith("_type") or kind == "literal_error"
    for other, item in found:
        deeper = len(other.path) > len(place.path) and other.path[: len(place.path)] == place.path
        if deeper and (same or kind == "too_short"):
            return True
        past = not item["type"].endswith("_type") and item["type"] != "literal_error"
        if same and other.path == place.path and past and of_type:
            return True
    return False


def _describe(place: _Place, item: Any) -> tuple[str, str, str]:
    """Return what is wrong, what was expected, which `or` may join to more, and what to add."""
    kind, value, context = item["type"], item["input"], item.get("ctx", {})
    owner, name = place.owner, str(place.path[-1]) if place.path else ""
    if kind == "extra_forbidden":
        return _unknown_key(name, owner), "", ""
    field = owner.model_fields.get(name) if owner else None
    about = (field.description or "") if field else ""
    if kind == "missing":
        return f"missing, but required. {about}".rstrip(), "", ""
    message = item["msg"].removeprefix("Value error, ")
    choices = [word.strip(" '") for word in re.split(r",| or ", str(context.get("expected", "")))]
    end = f". {about}" if about and place.one_of_several else ""
    if kind == "component_type":
        expected = message.removeprefix("expected ")
    elif kind in EXPECTED:
        fields = dict.fromkeys(key for cls in place.nested for key in cls.model_fields)
        words = {"fields": ", ".join(fields), "about": about.rstrip("."), "choices": _or(choices)}
        numbers = {key: f"{n:.15g}" for key, n in context.items() if isinstance(n, (int, float))}
        expected = EXPECTED[kind].format(**words, **numbers)
        if kind == "literal_error" and isinstance(value, str):
            near = suggest(value, choices)
            end = f".{near}{end.removeprefix('.')}" if near else end
    elif message.startswith("Input should be "):
        expected = message.removeprefix("Input should be ")
    else:
        return message, "", ""
    return f"found {show(value)}; expected ", expected, end


def _unknown_key(name: str, owner: type[Options] | None) -> str:
    known = list(owner.model_fields) if owner else []
    hint = suggest(name, known)
    if not hint and owner and issubclass(owner, Component):
        others = [r.name for r in registry().all(owner.kind) if name in r.cls.model_fields]
        hint = f" It is an option of `{'`, `'.join(others)}`." if others else ""
    return f"unknown key.{hint} Known: {', '.join(known)}."


def _or(words: Iterable[str]) -> str:
    *first, last = [*words] or [""]
    return f"{', '.join(first)} or {last}" if first else last

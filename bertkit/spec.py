"""RunSpec: everything a run depends on, its YAML and its JSON Schema."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from bertkit import yaml12
from bertkit.component import Component, Options, SpecPath, as_text
from bertkit.compute import Compute
from bertkit.datasets.base import DatasetLoader
from bertkit.encoders.base import Encoder
from bertkit.errors import AmbiguousComponentError, SpecError, UnknownComponentError, suggest
from bertkit.heads.base import Head
from bertkit.metrics.base import Metric
from bertkit.registry import Registration, registry
from bertkit.text.long_text import LongText
from bertkit.trainers.base import Trainer


class Slot:
    """A place in the spec for a component of one kind.

    Args:
        kind: of the component.
        default: type name where a mapping names none.
        short: the field of the default type that a plain string stands for; None where a string
            is a type name.
    """

    def __init__(self, kind: str, default: str | None, short: str | None = None) -> None:
        self.kind, self.default, self.short = kind, default, short

    def expand(self, value: Any) -> Any:
        """Return the mapping that a short form stands for; other values as they are."""
        value = as_text(value)
        if isinstance(value, str):
            return {"type": self.default, self.short: value} if self.short else {"type": value}
        return value

    def find(self, mapping: Mapping[str, Any]) -> type[Component]:
        """Return the class that a mapping asks for."""
        name = mapping.get("type", self.default)
        if not isinstance(name, str):
            found = f"`type` is {_show(name)}" if "type" in mapping else "`type` is missing"
            raise UnknownComponentError(f"{found}; expected the name of {_a(self.kind)}")
        return registry().find(self.kind, name)

    def _validate(self, value: Any, info: core_schema.ValidationInfo) -> Component:
        value = self.expand(value)
        if isinstance(value, Component) and value.kind == self.kind:
            return type(value).model_validate(dict(value), context=info.context)
        if self.kind == "dataset" and _is_table(value):
            value = {"type": "memory", "data": value}
        if not isinstance(value, Mapping):
            raise PydanticCustomError(
                "component_type",
                "expected {kind}: a name, or a mapping with `type`",
                {"kind": _a(self.kind)},
            )
        try:
            cls = self.find(value)
        except UnknownComponentError as error:
            raise PydanticCustomError("unknown_component", "{m}", {"m": str(error)}) from None
        except AmbiguousComponentError as error:
            raise PydanticCustomError("ambiguous_component", "{m}", {"m": str(error)}) from None
        return cls.model_validate(dict(value), context=info.context)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda component, info: component.model_dump(mode=info.mode), info_arg=True
            ),
            metadata={"slot": self},
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        branches: list[JsonSchemaValue] = []
        names = []
        for registration in registry().all(self.kind):
            if registration.name == "memory":
                continue  # holds a Python object, so no file can ask for it
            names.append(registration.name)
            branches.append(_branch(registration, required=registration.name != self.default))
        text: JsonSchemaValue = {"type": "string", "minLength": 1}
        if self.short:
            text["description"] = f"Short for {{type: {self.default}, {self.short}: …}}."
        else:
            text |= {"enum": names, "description": "Short for {type: …}."}
        # editors tell what is wrong by the first branch where none fits better
        return {"oneOf": [*branches, text]}


def _branch(registration: Registration, *, required: bool) -> JsonSchemaValue:
    """Return the schema of one component; one that cannot be described is left open."""
    name, cls = registration.name, registration.cls
    try:
        branch = cls.model_json_schema(schema_generator=_Inline)
    except Exception as error:  # noqa: BLE001 - a stranger's class; the others are still good
        branch = {"type": "object", "$comment": f"its options cannot be described: {error}"}
    about = " ".join((cls.__doc__ or "").strip().partition("\n\n")[0].split())
    properties = {**branch.get("properties", {}), "type": {"const": name, "description": about}}
    needed = [*(["type"] if required else []), *branch.get("required", [])]
    return {
        **branch,
        "title": name,
        "description": about,
        "properties": properties,
        "required": needed,
    }


class _Inline(GenerateJsonSchema):
    """A schema without `$defs`, so that branches of plugins cannot clash by class name."""

    def generate(self, schema: CoreSchema, mode: Any = "validation") -> JsonSchemaValue:
        result = super().generate(schema, mode)
        definitions = result.pop("$defs", {})

        def resolve(node: Any) -> Any:
            if isinstance(node, dict):
                if "$ref" in node:
                    name = node["$ref"].rpartition("/")[2]
                    rest = {key: value for key, value in node.items() if key != "$ref"}
                    return {**resolve(definitions[name]), **rest}
                return {key: resolve(value) for key, value in node.items()}
            return [resolve(item) for item in node] if isinstance(node, list) else node

        resolved: JsonSchemaValue = resolve(result)
        return resolved


def _is_table(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] in ("pandas", "polars", "datasets")


class RunSpec(Options):
    """Everything a run depends on; frozen; round-trips through YAML and JSON without loss.

    Example:
        >>> spec = RunSpec.model_validate(
        ...     {"encoder": "bert-base-chinese", "dataset": {"type": "files", "train": "a.csv"}}
        ... )
        >>> spec.head.type, spec.seed
        ('linear', 42)
    """

    model_config = ConfigDict(title="bertkit run")

    encoder: Annotated[Encoder, Slot("encoder", "pretrained", "name")] = Field(
        description="The transformer to start from."
    )
    dataset: Annotated[DatasetLoader, Slot("dataset", "files", "train")] = Field(
        description="Where the labelled texts come from."
    )
    task: Literal["single_label"] | None = Field(
        None,
        description="What is predicted. Inferred from the labels; say `single_label` to take "
        "labels that are numbers with a fraction as classes.",
    )
    long_text: LongText = Field(
        LongText(), description="What happens to texts longer than the encoder reads."
    )
    head: Annotated[Head, Slot("head", "linear")] = Field(
        default={"type": "linear"},  # type: ignore[assignment]
        description="What stands on the encoder and says the label.",
    )
    trainer: Annotated[Trainer, Slot("trainer", "loop")] = Field(
        default={"type": "loop"},  # type: ignore[assignment]
        description="How the weights are fitted.",
    )
    metrics: tuple[Annotated[Metric, Slot("metric", None)], ...] = Field(
        default=("accuracy", "f1"),  # type: ignore[arg-type]
        min_length=1,
        description="Scores to compute; the first one decides on the best model by default.",
    )
    compute: Compute = Field(Compute(), description="Which device and how much of it.")
    seed: int = Field(42, ge=0, lt=2**32, description="Seed of everything random in the run.")
    output: SpecPath | None = Field(
        None, description="Folder of the run; a new one under `runs/` by default."
    )
    offline: bool = Field(False, description="Reach no network: use what is on this disk.")

    @field_validator("metrics", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _parts_agree(self) -> RunSpec:
        keys = [metric.key for metric in self.metrics]
        twice = sorted({key for key in keys if keys.count(key) > 1} | ({"loss"} & set(keys)))
        if twice:
            raise PydanticCustomError(
                "metric_names",
                "metrics: two results would be called {names}; give one a `name` of its own",
                {"names": ", ".join(f"`{key}`" for key in twice)},
            )
        if self.trainer.best not in (None, "auto", "loss", *keys):
            raise PydanticCustomError(
                "best",
                "trainer.best: found {found}; expected `auto`, `loss` or one of: {known}.{near}",
                {
                    "found": _show(self.trainer.best),
                    "known": ", ".join(keys),
                    "near": suggest(str(self.trainer.best), keys),
                },
            )
        return self

    @classmethod
    def from_file(cls, path: str | Path, overrides: Sequence[str] = ()) -> RunSpec:
        """Read a spec from YAML or JSON; its paths become absolute, against the file's folder.

        Args:
            path: of the file.
            overrides: like `trainer.epochs=1`; the value is read as YAML.

        Raises:
            SpecError: with every mistake found.
        """
        path = Path(path)
        raw = yaml12.read_file(path)
        return cls.parse(raw, base=path.resolve().parent, where=str(path), overrides=overrides)

    @classmethod
    def parse(
        cls,
        raw: object,
        *,
        base: Path | None = None,
        where: str = "spec",
        overrides: Sequence[str] = (),
    ) -> RunSpec:
        """Validate a mapping, with every mistake in one SpecError that a person can act on.

        Args:
            raw: a mapping, or a RunSpec.
            base: folder that relative paths are made absolute against; None leaves them.
            where: what the message calls the source.
            overrides: like `trainer.epochs=1`.
        """
        if isinstance(raw, RunSpec):
            raw = dict(raw)
        if not isinstance(raw, Mapping):
            raise SpecError(
                f"{where}: found {_show(raw)}; expected a mapping with `encoder` and `dataset`"
            )
        data = dict(raw)
        for override in overrides:
            data = _override(data, override)
        try:
            return cls.model_validate(data, context={"base": base} if base else None)
        except ValidationError as error:
            raise explain(error, data, where) from None

    def to_yaml(self) -> str:
        """Return the spec as YAML, every field spelled out."""
        return yaml12.write(self.model_dump(mode="json"))

    def to_json(self) -> str:
        """Return the spec as JSON, every field spelled out."""
        text = json.dumps(self.model_dump(mode="json"), ensure_ascii=False, indent=2) + "\n"
        # what nobody can see is written as an escape, which is all that the reader takes
        return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a spec, with the fields of installed plugins."""
    result = RunSpec.model_json_schema(schema_generator=_Inline)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **result}


def _override(data: dict[str, Any], text: str) -> dict[str, Any]:
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise SpecError(f"--set {text}: expected KEY=VALUE, such as trainer.epochs=1")
    parsed = yaml12.read(value, f"--set {path}") if value.strip() else None
    slot = _slot(RunSpec.model_fields[keys[0]]) if keys[0] in RunSpec.model_fields else None
    if len(keys) == 1:
        return {**data, keys[0]: parsed}
    start = data.get(keys[0])
    if start is None and keys[0] == "metrics":
        start = RunSpec.model_fields["metrics"].default
    if slot and not isinstance(start, (list, tuple)):
        start = slot.expand(start)
    if isinstance(start, Component):
        start = start.model_dump()
    return {**data, keys[0]: _put(start, keys[1:], parsed, text, slot)}


def _put(node: Any, keys: list[str], value: Any, text: str, slot: Slot | None) -> Any:
    if not keys:
        return value
    if isinstance(node, (list, tuple)):
        if not keys[0].isdecimal() or int(keys[0]) >= len(node):
            raise SpecError(
                f"--set {text}: `{keys[0]}` is no place in a list of {len(node)}; "
                "places are counted from 0"
            )
        items = list(node)
        item = items[int(keys[0])]
        if len(keys) > 1 and slot:
            item = slot.expand(item)
        items[int(keys[0])] = _put(item, keys[1:], value, text, None)
        return items
    if node is not None and not isinstance(node, Mapping):
        raise SpecError(f"--set {text}: `{keys[0]}` cannot be set inside {_show(node)}")
    mapping = dict(node or {})
    mapping[keys[0]] = _put(mapping.get(keys[0]), keys[1:], value, text, None)
    return mapping


def _slot(field: Any) -> Slot | None:
    found = [item for item in field.metadata if isinstance(item, Slot)]
    for argument in get_args(field.annotation):
        found += [item for item in getattr(argument, "__metadata__", ()) if isinstance(item, Slot)]
    return found[0] if found else None


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
    "too_short": "{min_length} or more",
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
    union: tuple[str | int, ...] | None
    """Where several kinds of values are allowed, of which pydantic tried each."""


def _place(location: tuple[Any, ...], data: Any) -> _Place:
    """Walk through the spec and leave out what pydantic adds: the branches of unions."""
    path: list[str | int] = []
    owner, union = None, None
    nested: Sequence[type[Options]] = [RunSpec]
    slot: Slot | None = None
    for key in location:
        if isinstance(data, BaseModel):
            data = dict(data)
        listed = isinstance(data, (list, tuple))
        named = isinstance(data, Mapping) and (
            key in data or any(key in cls.model_fields for cls in nested)
        )
        if not (named or (listed and isinstance(key, int))):
            union = union if union is not None else tuple(path)
            nested = [cls for cls in nested if cls.__name__ == key] or nested
            continue
        path.append(key)
        data = data[key] if listed or key in data else None
        owner = None
        if named:
            owner = nested[0] if nested else None
            field = owner.model_fields.get(key) if owner else None
            slot = _slot(field) if field else None
            nested = _options_in(field.annotation) if field else []
        if slot and not isinstance(data, (list, tuple)):
            data = slot.expand(data)
            with contextlib.suppress(SpecError):
                nested = [slot.find(data)] if isinstance(data, Mapping) else []
    return _Place(tuple(path), owner, nested, union)


def _options_in(annotation: Any) -> list[type[Options]]:
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return [annotation]
    return [found for part in get_args(annotation) for found in _options_in(part)]


def explain(error: ValidationError, data: Any, where: str) -> SpecError:
    """Turn pydantic's errors into one SpecError with a line for each mistake."""
    found = [(_place(item["loc"], data), item) for item in error.errors(include_url=False)]
    kept = [(place, item) for place, item in found if not _beaten(place, item["type"], found)]
    lines: dict[tuple[str, str, str], dict[str, None]] = {}
    for place, item in kept:
        start, expected, end = _describe(place, item)
        path = "".join(f"{key}." for key in place.path)[:-1]
        lines.setdefault((f"{path}: " if path else "", start, end), {})[expected] = None
    shown = [path + start + _or(options) + end for (path, start, end), options in lines.items()]
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
    same = place.union == place.path
    for other, item in found:
        deeper = len(other.path) > len(place.path) and other.path[: len(place.path)] == place.path
        if deeper and (same or kind == "too_short"):
            return True
        past = other.path == place.path and not item["type"].endswith("_type")
        if same and past and kind.endswith("_type"):
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
    end = f". {about}" if about and place.union == place.path else ""
    if kind == "component_type":
        expected = message.removeprefix("expected ")
    elif kind in EXPECTED:
        fields = dict.fromkeys(key for cls in place.nested for key in cls.model_fields)
        words = {"fields": ", ".join(fields), "about": about.rstrip("."), "choices": _or(choices)}
        numbers = {key: f"{n:.15g}" for key, n in context.items() if isinstance(n, (int, float))}
        expected = EXPECTED[kind].format(**words, **numbers)
        if kind == "literal_error" and isinstance(value, str):
            end = f".{suggest(value, choices)}".rstrip(".") + end
    elif message.startswith("Input should be "):
        expected = message.removeprefix("Input should be ")
    else:
        return message, "", ""
    return f"found {_show(value)}; expected ", expected, end


def _unknown_key(name: str, owner: type[Options] | None) -> str:
    known = list(owner.model_fields) if owner else []
    hint = suggest(name, known)
    if not hint and owner and issubclass(owner, Component):
        others = [r.name for r in registry().all(owner.kind) if name in r.cls.model_fields]
        hint = f" It is an option of `{'`, `'.join(others)}`." if others else ""
    return f"unknown key.{hint} Known: {', '.join(known)}."


def _show(value: object) -> str:
    """Return a value as YAML writes it, in short."""
    value = list(value) if isinstance(value, tuple) and not value else value
    if isinstance(value, (Mapping, list)):
        noun = "mapping" if isinstance(value, Mapping) else "list"
        return f"a {noun}" if value else f"an empty {noun}"
    if not isinstance(value, (str, int, float, type(None))):
        return _a(type(value).__name__)
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _or(words: Iterable[str]) -> str:
    *first, last = [*words] or [""]
    return f"{', '.join(first)} or {last}" if first else last

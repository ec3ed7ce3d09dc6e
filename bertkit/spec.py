"""RunSpec: everything a run depends on, its YAML and its JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from bertkit import yaml12
from bertkit.component import Component, Options, SpecPath
from bertkit.compute import Compute
from bertkit.datasets.base import DatasetLoader
from bertkit.encoders.base import Encoder
from bertkit.errors import AmbiguousComponentError, SpecError, UnknownComponentError
from bertkit.heads.base import Head
from bertkit.metrics.base import Metric
from bertkit.registry import registry, suggest
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
        if isinstance(value, str):
            return {"type": self.default, self.short: value} if self.short else {"type": value}
        return value

    def find(self, mapping: Mapping[str, Any]) -> type[Component]:
        """Return the class that a mapping asks for."""
        name = mapping.get("type", self.default)
        if not isinstance(name, str):
            raise UnknownComponentError(f"`type` must be the name of a {self.kind}, found {name!r}")
        return registry().find(self.kind, name)

    def _validate(self, value: Any, info: core_schema.ValidationInfo) -> Component:
        value = self.expand(value)
        if isinstance(value, Component) and value.kind == self.kind:
            return type(value).model_validate(dict(value), context=info.context)
        if self.kind == "dataset" and not isinstance(value, Mapping) and _is_table(value):
            value = {"type": "memory", "data": value}
        if not isinstance(value, Mapping):
            raise PydanticCustomError(
                "component_type",
                "expected a {kind}: a mapping with `type`, or a name",
                {"kind": self.kind},
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
            branch = registration.cls.model_json_schema(
                ref_template="#/$defs/{model}", schema_generator=_Inline
            )
            names.append(registration.name)
            required = [*branch.get("required", [])]
            if registration.name != self.default:
                required = ["type", *required]
            branch |= {"required": required, "title": registration.name}
            branch["description"] = (registration.cls.__doc__ or "").strip().split("\n\n")[0]
            branches.append(branch)
        text: JsonSchemaValue = {"type": "string"}
        if self.short:
            text["description"] = f"Short for {{type: {self.default}, {self.short}: …}}."
        else:
            text |= {"enum": names, "description": "Short for {type: …}."}
        return {"oneOf": [text, *branches]}


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
                    "found": repr(self.trainer.best),
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
                f"{where}: expected a mapping with `encoder` and `dataset`, "
                f"found {type(raw).__name__}"
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
        return json.dumps(self.model_dump(mode="json"), ensure_ascii=False, indent=2) + "\n"


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
        if not keys[0].isdigit() or int(keys[0]) >= len(node):
            raise SpecError(
                f"--set {text}: `{keys[0]}` is no place in a list of {len(node)}; "
                f"expected a number from 0 to {len(node) - 1}"
            )
        items = list(node)
        item = items[int(keys[0])]
        if len(keys) > 1 and slot:
            item = slot.expand(item)
        items[int(keys[0])] = _put(item, keys[1:], value, text, None)
        return items
    if node is not None and not isinstance(node, Mapping):
        raise SpecError(f"--set {text}: `{keys[0]}` cannot be set inside {node!r}")
    mapping = dict(node or {})
    mapping[keys[0]] = _put(mapping.get(keys[0]), keys[1:], value, text, None)
    return mapping


def _slot(field: Any) -> Slot | None:
    found = [item for item in field.metadata if isinstance(item, Slot)]
    for argument in get_args(field.annotation):
        found += [item for item in getattr(argument, "__metadata__", ()) if isinstance(item, Slot)]
    return found[0] if found else None


def _options_at(location: tuple[Any, ...], data: Any) -> type[Options] | None:
    """Return the options class whose fields stand at a place of the spec."""
    cls: type[Options] | None = RunSpec
    slot: Slot | None = None
    for key in location:
        try:
            data = data[key]
        except (LookupError, TypeError):
            data = None
        if isinstance(key, int):
            if slot is None:
                return None
            cls = slot.find(slot.expand(data))
            continue
        field = cls.model_fields.get(key) if cls else None
        if field is None:
            return None
        slot = _slot(field)
        if slot and not isinstance(data, (list, tuple)):
            data = slot.expand(data)
            cls = slot.find(data)
        elif not slot:
            candidates = (field.annotation, *get_args(field.annotation))
            nested = [c for c in candidates if isinstance(c, type) and issubclass(c, Options)]
            cls = nested[0] if nested else None
    return cls


def explain(error: ValidationError, data: Any, where: str) -> SpecError:
    """Turn pydantic's errors into one SpecError with a line for each mistake."""
    lines: dict[str, None] = {}
    kinds = set()
    for item in error.errors(include_url=False):
        kinds.add(item["type"])
        location = tuple(key for key in item["loc"] if not str(key).startswith("function-"))
        cls = _options_at(location[:-1], data) if location else RunSpec
        known = list(cls.model_fields) if cls else []
        # a union adds the name of its branch to the place; a reader has no use for it
        while location and cls is None:
            location = location[:-1]
            cls = _options_at(location[:-1], data)
        path = ".".join(map(str, location))
        if item["type"] == "extra_forbidden":
            message = f"unknown key.{suggest(str(location[-1]), known)} Known: {', '.join(known)}."
        elif item["type"] == "missing":
            about = cls.model_fields[str(location[-1])].description if cls else ""
            message = f"is missing, but required: {about}"
        else:
            message = item["msg"].removeprefix("Value error, ")
            message = message[0].lower() + message[1:] if message[:6] == "Input " else message
            simple = isinstance(item["input"], (str, int, float, bool, type(None)))
            if message.startswith("input ") and simple:
                message += f"; found {item['input']!r}"
            expected = str(item.get("ctx", {}).get("expected", ""))
            if item["type"] == "literal_error" and isinstance(item["input"], str):
                choices = [word.strip("' ") for word in expected.replace(" or ", ",").split(",")]
                message += "." + suggest(item["input"], choices)
        lines[f"{path}: {message}" if path else message] = None
    cls_by_kind = {
        "unknown_component": UnknownComponentError,
        "ambiguous_component": AmbiguousComponentError,
    }
    error_class = cls_by_kind.get(next(iter(kinds)), SpecError) if len(kinds) == 1 else SpecError
    if len(lines) == 1:
        return error_class(f"{where}: {next(iter(lines))}")
    listing = "".join(f"\n  {line}" for line in lines)
    return error_class(f"{where}: {len(lines)} mistakes{listing}")

"""The places of a spec that components stand in: what may stand there, and its schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from bertkit.component import Component, as_text
from bertkit.errors import AmbiguousComponentError, UnknownComponentError
from bertkit.registry import Registration, registry


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
            found = f"`type` is {show(name)}" if "type" in mapping else "`type` is missing"
            raise UnknownComponentError(f"{found}; expected the name of {with_article(self.kind)}")
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
                {"kind": with_article(self.kind)},
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
        branch = cls.model_json_schema(schema_generator=Inlined)
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


class Inlined(GenerateJsonSchema):
    """A schema without `$defs`, so that branches of plugins cannot clash by class name."""

    def generate(self, schema: CoreSchema, mode: Any = "validation") -> JsonSchemaValue:
        """Return the schema with every reference replaced by what it refers to."""
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


def slot_of(field: Any) -> Slot | None:
    """Return the slot of a field, or None where it is a plain one."""
    return next((item for item in _metadata(field) if isinstance(item, Slot)), None)


def _metadata(field: Any) -> Iterator[Any]:
    yield from getattr(field, "metadata", ())
    for argument in get_args(getattr(field, "annotation", field)):
        yield from getattr(argument, "__metadata__", ())
        yield from _metadata(argument)


def show(value: object) -> str:
    """Return a value as YAML writes it, in short."""
    value = list(value) if isinstance(value, tuple) and not value else value
    if isinstance(value, (Mapping, list)):
        noun = "mapping" if isinstance(value, Mapping) else "list"
        return f"a {noun}" if value else f"an empty {noun}"
    if not isinstance(value, (str, int, float, type(None))):
        return with_article(type(value).__name__)
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def with_article(noun: str) -> str:
    """Return a noun with `a` or `an` before it."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"

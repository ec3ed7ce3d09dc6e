"""Specs drawn at random from the JSON Schema: every field, every type, every short form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

Strategy = st.SearchStrategy[Any]

TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
ANYTHING = st.none() | st.booleans() | st.integers() | TEXT


def documents(schema: dict[str, Any], special: Mapping[str, Strategy]) -> Strategy:
    """Return a strategy for the documents that a JSON Schema describes.

    Args:
        schema: of the kind that pydantic writes.
        special: by the title of a nested schema or the name of a property, what to draw there.
    """

    def of(name: str, node: Any) -> Strategy:
        if node is True:
            return ANYTHING
        for key in (node.get("title"), name):
            if key in special:
                return special[key]
        if "const" in node:
            return st.just(node["const"])
        if "enum" in node:
            return st.sampled_from(node["enum"])
        for choice in ("anyOf", "oneOf"):
            if choice in node:
                return st.one_of([of(name, branch) for branch in node[choice]])
        if "properties" in node:
            fields = {key: of(key, inner) for key, inner in node["properties"].items()}
            needed = {key: fields.pop(key) for key in node.get("required", [])}
            return st.fixed_dictionaries(needed, optional=fields)
        return scalar(name, node)

    def scalar(name: str, node: dict[str, Any]) -> Strategy:
        least = node.get("minimum", node.get("exclusiveMinimum", 0))
        below = node.get("exclusiveMaximum")
        match node.get("type"):
            case "null":
                return st.none()
            case "boolean":
                return st.booleans()
            case "integer":
                return st.integers(least, (below or 10**6) - 1)
            case "number":
                open_ends = {"exclude_min": "exclusiveMinimum" in node, "exclude_max": bool(below)}
                return st.floats(least, below or 1e9, **open_ends)
            case "string" if "pattern" in node:
                return st.from_regex(node["pattern"], fullmatch=True)
            case "string":
                most = node.get("maxLength", 12)
                return TEXT.map(lambda text: text[:most])
            case "array":
                return st.lists(of("", node["items"]), min_size=node.get("minItems", 0), max_size=3)
            case "object":
                return st.dictionaries(TEXT, of("", node["additionalProperties"]), max_size=3)
        return ANYTHING

    return of("", schema)


def _length(**fields: Strategy) -> Strategy:
    long = {"max_length": st.integers(20, 600) | st.none()}
    return st.fixed_dictionaries(fields, optional=long)


SENSIBLE: dict[str, Strategy] = {
    "Every": st.sampled_from([{"steps": 3}, {"steps": 30, "epochs": None}, {"epochs": 2}]),
    "LongText": _length(keep=st.just("head+tail"), head=st.integers(1, 19))
    | _length(keep=st.sampled_from(["head", "tail", "drop", "error", "head+tail"])),
    "encoding": st.sampled_from(["utf-8", "gb18030", "latin-1"]),
    "hidden_size": st.sampled_from([32, 64, 128]),
    "attention_heads": st.sampled_from([1, 2, 4]),
    "best": st.sampled_from(["auto", "loss"]),
    "max_steps": st.none(),
    "warmup": st.none(),
    "labels": st.none()
    | st.lists(TEXT, min_size=2, max_size=4, unique=True)
    | st.dictionaries(TEXT, TEXT, min_size=2, max_size=4),
    "metrics": st.lists(
        st.sampled_from(["accuracy", "recall", "log_loss"])
        | st.fixed_dictionaries(
            {"type": st.sampled_from(["f1", "precision"])},
            optional={"average": st.sampled_from(["macro", "micro", "binary"])},
        )
        | st.fixed_dictionaries(
            {"type": st.just("calibration_error")},
            optional={"bins": st.integers(1, 30), "name": st.sampled_from(["ece", "错", "1"])},
        ),
        min_size=1,
        max_size=3,
        unique_by=lambda metric: metric if isinstance(metric, str) else metric["type"],
    ),
}
"""Values that keep to the rules between fields, which a JSON Schema does not say."""

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
                return st.floats(least, below or node.get("maximum", 1e9), **open_ends)
            case "string" if "pattern" in node:
                return st.from_regex(node["pattern"], fullmatch=True)
            case "string":
                most = node.get("maxLength", 12)
                return TEXT.map(lambda text: text[:most])
            case "array":
                least, most = node.get("minItems", 0), node.get("maxItems", 3)
                return st.lists(of("", node["items"]), min_size=least, max_size=most)
            case "object":
                return st.dictionaries(TEXT, of("", node["additionalProperties"]), max_size=3)
        return ANYTHING

    return of("", schema)


def _long_text(*keep: str, **fields: Strategy) -> Strategy:
    """Return policies with fields that go with these values of `keep`."""
    fields["max_length"] = st.integers(20, 600) | st.none()
    return st.fixed_dictionaries({"keep": st.sampled_from(keep)}, optional=fields)


def _examples(alike: tuple[bool, bool]) -> Strategy:
    """Return inline datasets of single texts or pairs, each with one label or a list of them."""
    pairs, listed = alike
    value = TEXT | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    example = {
        "text": st.lists(TEXT, min_size=2, max_size=2) if pairs else TEXT,
        "label": st.lists(value, max_size=3) if listed else value,
    }
    rows = st.lists(st.fixed_dictionaries(example), min_size=1, max_size=3)
    others = {name: rows | st.none() | st.just(0.25) for name in ("validation", "test")}
    return st.fixed_dictionaries({"type": st.just("inline"), "train": rows}, optional=others)


CUT = st.sampled_from(["longest", "first", "second", None])

SENSIBLE: dict[str, Strategy] = {
    "Every": st.sampled_from([{"steps": 3}, {"steps": 30, "epochs": None}, {"epochs": 2}]),
    "TaskOptions": st.fixed_dictionaries(
        {"type": st.just("multi_label")},
        optional={
            "thresholds": st.sampled_from([None, "validation", 0, 1, 0.25])
            | st.dictionaries(TEXT, st.floats(0, 1), max_size=3)
        },
    )
    | st.fixed_dictionaries({"type": st.sampled_from(["single_label", "regression"])}),
    "inline": st.tuples(st.booleans(), st.booleans()).flatmap(_examples),
    "LongText": _long_text("head+tail", head=st.integers(1, 19), cut=CUT)
    | _long_text("head", "tail", cut=CUT)
    | _long_text("drop", "error")
    | _long_text(
        "windows",
        stride=st.integers(1, 20) | st.none(),
        pool=st.sampled_from(["mean", "max", "attention", None]),
        max_windows=st.integers(1, 20) | st.none(),
    ),
    "encoding": st.sampled_from(["utf-8", "gb18030", "latin-1"]),
    "hidden_size": st.sampled_from([32, 64, 128]),
    "attention_heads": st.sampled_from([1, 2, 4]),
    "best": st.sampled_from(["auto", "loss"]),
    "max_steps": st.none(),
    "warmup": st.none(),
    "labels": st.none()
    | st.lists(TEXT, min_size=1, max_size=4, unique=True)
    | st.dictionaries(TEXT, TEXT, min_size=1, max_size=4),
    "metrics": st.none()
    | st.lists(
        st.sampled_from(["accuracy", "recall", "log_loss", "pearson", "mae"])
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

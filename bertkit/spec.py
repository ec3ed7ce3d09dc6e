"""RunSpec: everything a run depends on, its YAML and its JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from bertkit import yaml12
from bertkit.component import Component, Options, SpecPath
from bertkit.compute import Compute
from bertkit.datasets.base import DatasetLoader
from bertkit.encoders.base import Encoder
from bertkit.errors import SpecError, suggest
from bertkit.heads.base import Head
from bertkit.metrics.base import Metric
from bertkit.mistakes import explain
from bertkit.slots import Inlined, Slot, show, slot_of
from bertkit.tasks import TaskField
from bertkit.text.long_text import LongText
from bertkit.trainers.base import Trainer


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
    task: TaskField = Field(
        None,
        description="What is predicted: one label a text (`single_label`), any number of them "
        "(`multi_label`) or numbers (`regression`). Inferred from the labels by default.",
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
    metrics: tuple[Annotated[Metric, Slot("metric", None)], ...] | None = Field(
        None,
        min_length=1,
        description="Scores to compute; the first one decides on the best model by default. "
        "Where none are named: accuracy and f1; for `multi_label` average_precision and f1; for "
        "`regression` r2, mae and pearson.",
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
        if self.metrics is None:
            return self
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
                    "found": show(self.trainer.best),
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
                f"{where}: found {show(raw)}; expected a mapping with `encoder` and `dataset`"
            )
        data = dict(raw)
        for override in overrides:
            data = _override(data, override)
        try:
            return cls.model_validate(data, context={"base": base} if base else None)
        except ValidationError as error:
            raise explain(error, cls, data, where) from None

    def components(self) -> dict[str, Component]:
        """Return the components by their place in the spec, such as `metrics.0`."""
        named: dict[str, Component] = {
            kind: getattr(self, kind) for kind in ("encoder", "dataset", "head", "trainer")
        }
        return named | {f"metrics.{i}": metric for i, metric in enumerate(self.metrics or ())}

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
    result = RunSpec.model_json_schema(schema_generator=Inlined)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **result}


def _override(data: dict[str, Any], text: str) -> dict[str, Any]:
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise SpecError(f"--set {text}: expected KEY=VALUE, such as trainer.epochs=1")
    parsed = yaml12.read(value, f"--set {path}") if value.strip() else None
    slot = slot_of(RunSpec.model_fields[keys[0]]) if keys[0] in RunSpec.model_fields else None
    if len(keys) == 1:
        return {**data, keys[0]: parsed}
    start = data.get(keys[0])
    if start is None and keys[0] == "metrics":
        raise SpecError(
            f"--set {text}: the spec names no metrics; name them all, such as "
            "--set metrics=[accuracy,f1]"
        )
    if slot and not isinstance(start, (list, tuple)):
        start = slot.expand(start)
    elif keys[0] == "task" and isinstance(start, str):
        start = {"type": start}
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
        raise SpecError(f"--set {text}: `{keys[0]}` cannot be set inside {show(node)}")
    mapping = dict(node or {})
    mapping[keys[0]] = _put(mapping.get(keys[0]), keys[1:], value, text, None)
    return mapping

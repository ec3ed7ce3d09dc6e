"""Labelled texts written in the spec itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, StrictFloat, StrictInt, model_validator

from bertkit.component import Options
from bertkit.datasets.base import DatasetLoader, Fraction

if TYPE_CHECKING:
    import datasets

    from bertkit.records import Context


Value = StrictInt | StrictFloat | str


class Example(Options):
    """One labelled text."""

    text: str | Annotated[list[str], Field(min_length=2, max_length=2)] = Field(
        description="The text, or a list of the two of a pair."
    )
    label: Value | list[Value] = Field(description="Its label or number, or a list of them.")


class Inline(DatasetLoader):
    """Texts and labels in the spec: for examples, teaching and tests."""

    type: Literal["inline"] = "inline"
    train: list[Example] = Field(min_length=1, description="Texts to train on.")  # type: ignore[assignment]
    validation: list[Example] | Fraction | None = Field(  # type: ignore[assignment]
        None,
        description="Texts that choose models, or the share of the train texts to hold out for "
        "it; 0.1 by default, 0 for none.",
    )
    test: list[Example] | Fraction | None = Field(  # type: ignore[assignment]
        None,
        description="Texts for the final scores, or the share of the train texts to hold out for "
        "them; 0.2 by default where no validation is given either, 0 for none.",
    )
    text: Literal["text"] = Field("text", description="Always `text`.")
    label: Literal["label"] = Field("label", description="Always `label`.")

    @model_validator(mode="after")
    def _examples_are_alike(self) -> Inline:
        splits = (self.train, self.validation, self.test)
        every = [example for split in splits if isinstance(split, list) for example in split]
        for name in ("text", "label"):
            listed = [isinstance(getattr(example, name), list) for example in every]
            if any(listed) and not all(listed):
                raise ValueError(
                    f"`{name}` is a list in {sum(listed)} of {len(every)} examples and not in the "
                    "others; expected the same in all"
                )
        return self

    def roles(self) -> dict[str, str | float | None]:
        """Lists are the splits they are given as."""
        values = {name: getattr(self, name) for name in ("train", "validation", "test")}
        return {n: n if isinstance(v, list) else v for n, v in values.items()}

    def load(self, ctx: Context) -> datasets.DatasetDict:
        """Return the texts of the spec."""
        from datasets import Dataset, DatasetDict

        splits = {}
        for name in ("train", "validation", "test"):
            examples = getattr(self, name)
            if isinstance(examples, list):
                lists = [row.label for row in examples if isinstance(row.label, list)]
                kind = _kind([one for label in lists for one in label])
                splits[name] = Dataset.from_list([_row(row, kind) for row in examples])
        return DatasetDict(splits)

    @property
    def text_columns(self) -> tuple[str, ...]:
        """One column, or two where the examples are pairs."""
        return ("text", "text_pair") if isinstance(self.train[0].text, list) else ("text",)


def _kind(values: list[Any]) -> type:
    """Return what the elements of lists are read as, since a column holds one type."""
    if any(isinstance(one, str) for one in values):
        return str
    if any(isinstance(one, float) for one in values):
        return float
    return int if set(values) <= {0, 1} else str  # ids and names are read alike, of any size


def _row(example: Example, kind: type) -> dict[str, Any]:
    label, texts = example.label, example.text
    pair = dict(zip(("text", "text_pair"), texts, strict=True)) if isinstance(texts, list) else {}
    if isinstance(label, list):
        values: Any = [kind(one) for one in label]
    else:
        values = str(label)  # classes may be words and numbers side by side
    return {"text": texts, **pair, "label": values}

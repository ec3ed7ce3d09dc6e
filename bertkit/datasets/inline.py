"""Labelled texts written in the spec itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, StrictInt

from bertkit.component import Options
from bertkit.datasets.base import DatasetLoader, Fraction

if TYPE_CHECKING:
    import datasets

    from bertkit.records import Context


class Example(Options):
    """One labelled text."""

    text: str = Field(description="The text.")
    label: StrictInt | str = Field(description="Its label.")


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
                rows = [{"text": row.text, "label": str(row.label)} for row in examples]
                splits[name] = Dataset.from_list(rows)
        return DatasetDict(splits)

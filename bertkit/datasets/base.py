"""What a dataset loader is. The part that a plugin author reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, field_validator

from bertkit.component import Component, Options
from bertkit.tasks import label_name

if TYPE_CHECKING:
    import datasets

    from bertkit.records import Context

Fraction = Annotated[float, Field(ge=0, lt=1, strict=True)]
Name = str | int | float | bool
"""A label name as it may be written in a spec."""


class Sample(Options):
    """How many texts to keep of each split, drawn by a seeded shuffle."""

    train: int | None = Field(
        None, ge=1, description="Texts to keep for training, before shares are held out of them."
    )
    validation: int | None = Field(None, ge=1, description="Texts to keep for validation.")
    test: int | None = Field(None, ge=1, description="Texts to keep for the test.")
    seed: int | None = Field(
        None, ge=0, lt=2**32, description="Seed of the draw; the run's seed by default."
    )


class DatasetLoader(Component):
    """Where labelled texts come from.

    `load` returns the splits as the source has them, with the user's own columns; bertkit then
    picks `text` and `label`, checks every row, numbers the labels, and cuts and samples splits.

    Example:
        >>> from typing import Literal
        >>> class Weather(DatasetLoader):
        ...     type: Literal["weather"] = "weather"
        ...     def load(self, ctx):
        ...         from datasets import Dataset, DatasetDict
        ...         rows = {"text": ["sun", "rain"], "label": ["good", "bad"]}
        ...         return DatasetDict(train=Dataset.from_dict(rows))
        >>> Weather().load(None)["train"].num_rows
        2
    """

    kind: ClassVar[str] = "dataset"

    train: str = Field("train", description="Name of the split to train on.")
    validation: str | Fraction | None = Field(
        None,
        description="Name of the split that chooses models, or the share of the train split to "
        "hold out for it. By default a split named `validation` where there is one, else 0.1; "
        "0 for none.",
    )
    test: str | Fraction | None = Field(
        None,
        description="Name of the split for the final scores, or the share of the train split to "
        "hold out for it. By default a split named `test` where there is one; else 0.2, if no "
        "validation split is given either. 0 for none.",
    )
    text: str | Annotated[list[str], Field(min_length=2, max_length=2)] = Field(
        "text",
        description="Column that holds the text, or the two columns of a pair of texts, such as "
        "[question, answer].",
    )
    label: str | Annotated[list[str], Field(min_length=1)] = Field(
        "label",
        description="Column that holds the label, the list of labels or the number; or several "
        "columns: with 0 and 1 one for each label, else the targets of a regression.",
    )
    separator: str | None = Field(
        None,
        min_length=1,
        description="What stands between the labels of a text, where one column holds several, "
        "as in `sports|politics`.",
    )
    labels: list[str] | dict[str, str] | None = Field(
        None,
        description="Label names in id order, or a mapping from the values found in the data to "
        "names. By default the names found in the train split, sorted.",
    )
    sample: Sample | None = Field(None, description="Keep only so many texts of each split.")

    @field_validator(
        "labels", mode="before", json_schema_input_type=list[Name] | dict[str, Name] | None
    )
    @classmethod
    def _label_names_are_text(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {label_name(key): label_name(name) for key, name in value.items()}
        if isinstance(value, (list, tuple)):
            return [label_name(name) for name in value]
        return value

    @field_validator("labels")
    @classmethod
    def _label_names_are_distinct(cls, value: Any) -> Any:
        names = list(value.values()) if isinstance(value, dict) else value
        if names is not None and not names:
            raise ValueError("at least one label name is expected, found none")
        if isinstance(value, list) and len(set(value)) < len(value):
            twice = sorted({name for name in value if value.count(name) > 1})
            raise ValueError(f"label names must differ, found twice: {', '.join(twice)}")
        return value

    @property
    def text_columns(self) -> tuple[str, ...]:
        """One column, or the two of a pair."""
        return (self.text,) if isinstance(self.text, str) else tuple(self.text)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns that the label is read from."""
        return (self.label,) if isinstance(self.label, str) else tuple(self.label)

    def columns_by_option(self) -> dict[str, str]:
        """Return every column that is read, and the option that names it."""
        named: dict[str, str] = {}
        for option, names in (("text", self.text_columns), ("label", self.label_columns)):
            for column in names:
                named.setdefault(column, f"dataset.{option}")
        return named

    def roles(self) -> dict[str, str | float | None]:
        """Say what plays train, validation and test: a key of what `load` returns, or a share."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def load(self, ctx: Context) -> datasets.DatasetDict:
        """Read the data.

        Args:
            ctx: `ctx.seed`, `ctx.offline`, `ctx.cache_dir`; never set global random state.

        Returns:
            Splits by name, each with the columns that `text` and `label` name. Labels are
            strings, numbers, `ClassLabel` ids, or lists of those.

        Raises:
            DataError: it cannot be read; say where, what was found, and what to do.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement load")

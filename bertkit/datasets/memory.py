"""Labelled texts that are in memory already; from Python only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from bertkit.datasets.base import DatasetLoader
from bertkit.errors import DataError

if TYPE_CHECKING:
    import datasets

    from bertkit.records import Context


class Memory(DatasetLoader):
    """A pandas or polars frame, a `datasets` Dataset or DatasetDict, or a mapping of split to one.

    `bertkit.run({"encoder": …, "dataset": frame})` is short for it.
    """

    type: Literal["memory"] = "memory"
    data: SkipJsonSchema[Any] = Field(
        None, exclude=True, repr=False, description="The table or tables; not written to spec.yaml."
    )

    def load(self, ctx: Context) -> datasets.DatasetDict:
        """Return the tables as datasets, without a copy where that can be."""
        from datasets import DatasetDict

        if self.data is None:
            raise DataError(
                "dataset.data: `type: memory` holds a Python object, which a file cannot; "
                "give it from Python, or use `type: files`"
            )
        tables = self.data if isinstance(self.data, Mapping) else {"train": self.data}
        return DatasetDict({str(name): _dataset(table) for name, table in tables.items()})


def _dataset(table: Any) -> datasets.Dataset:
    from datasets import Dataset

    home = type(table).__module__.partition(".")[0]
    if isinstance(table, Dataset):
        return table
    if home == "pandas":
        return Dataset.from_pandas(table, preserve_index=False)
    if home == "polars":
        return Dataset.from_polars(table)
    raise DataError(
        f"dataset.data: found {type(table).__name__}; expected a pandas or polars frame, "
        "a datasets.Dataset, or a mapping of split names to those"
    )

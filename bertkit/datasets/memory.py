"""Labelled texts that are in memory already; from Python only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from bertkit.datasets.base import DatasetLoader
from bertkit.datasets.splits import check_columns
from bertkit.errors import DataError, SpecError

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

    def check(self) -> None:
        """Refuse a spec from a file, which cannot hold the data."""
        if self.data is None:
            raise SpecError(
                "dataset.data: `type: memory` holds a Python object, which no file can; run it "
                "from Python with the data, or write the data to a file and use `type: files`"
            )

    def load(self, ctx: Context) -> datasets.DatasetDict:
        """Return the tables as datasets, without a copy where that can be."""
        from datasets import DatasetDict

        tables = self.data if isinstance(self.data, Mapping) else {"train": self.data}
        wanted = self.columns_by_option()
        return DatasetDict({str(name): _dataset(tables[name], wanted, name) for name in tables})


def _dataset(table: Any, wanted: dict[str, str], split: str) -> datasets.Dataset:
    from datasets import Dataset

    if isinstance(table, Dataset):
        return table
    home, name = type(table).__module__.partition(".")[0], type(table).__name__
    try:
        if (home, name) == ("pandas", "DataFrame"):
            columns = [str(column) for column in table.columns]
            check_columns(columns, wanted, f"the frame `{split}`")
            needed = table.loc[:, [column in wanted for column in columns]]
            return Dataset.from_pandas(needed, preserve_index=False)
        if home == "polars" and name in ("DataFrame", "LazyFrame"):
            return Dataset.from_polars(table)
    except (ValueError, TypeError, NotImplementedError) as error:  # the kinds of pyarrow's errors
        raise DataError(
            f"dataset.data: the frame `{split}` cannot be read ({error}); expected values of one "
            f"type in each of the columns {', '.join(wanted)}"
        ) from error
    raise DataError(
        f"dataset.data: found {type(table).__name__}; expected a pandas or polars frame, "
        "a datasets.Dataset, or a mapping of split names to those"
    )

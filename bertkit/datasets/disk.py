"""Labelled texts that `datasets` saved to disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from bertkit.component import SpecPath
from bertkit.datasets.base import DatasetLoader
from bertkit.errors import DataError

if TYPE_CHECKING:
    import datasets

    from bertkit.records import Context


class Disk(DatasetLoader):
    """A folder that `save_to_disk` of the datasets library wrote."""

    type: Literal["disk"] = "disk"
    path: SpecPath = Field(description="The folder.")

    def load(self, ctx: Context) -> datasets.DatasetDict:
        """Map the folder into memory."""
        from datasets import DatasetDict, load_from_disk

        folder = Path(self.path)
        if not folder.is_dir():
            raise DataError(
                f"dataset.path: there is no folder {folder}; expected one that `save_to_disk` "
                "wrote (for csv or json files use `type: files`)"
            )
        ctx.say(f"reading {folder}")
        try:
            loaded = load_from_disk(str(folder))
        except Exception as error:
            raise DataError(
                f"dataset.path: {folder} is no dataset that `save_to_disk` wrote, or a part of it "
                f"is missing ({type(error).__name__}: {error}); save it again, or use "
                "`type: files` for csv or json files"
            ) from error
        return loaded if isinstance(loaded, DatasetDict) else DatasetDict(train=loaded)

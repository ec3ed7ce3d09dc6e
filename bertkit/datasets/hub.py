"""Labelled texts from the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from bertkit.compute import hub_snapshot
from bertkit.datasets.base import DatasetLoader
from bertkit.errors import DataError

if TYPE_CHECKING:
    import datasets

    from bertkit.records import Context


class Hub(DatasetLoader):
    """A dataset of the Hugging Face hub, by name."""

    type: Literal["hub"] = "hub"
    name: str = Field(min_length=1, description="Name on the hub, such as yelp_review_full.")
    config: str | None = Field(None, description="Configuration of the dataset, such as cola.")
    revision: str | None = Field(None, description="Branch, tag or commit; main by default.")

    def load(self, ctx: Context) -> datasets.DatasetDict:
        """Load it from the hub, or from the local cache when offline."""
        from datasets import DatasetDict, DownloadConfig, load_dataset
        from datasets.exceptions import DatasetsError

        place = f"dataset.name: {self.name}"
        ctx.say(f"reading dataset {self.name} from {'the cache' if ctx.offline else 'the hub'}")
        # with the commit in hand, `datasets` asks the hub only, and no other host
        commit = hub_snapshot(
            self.name, self.revision, ["README.md"], kind="dataset", offline=ctx.offline,
            error=DataError,
        ).name  # fmt: skip
        try:
            loaded = load_dataset(
                self.name,
                self.config,
                revision=commit,
                download_config=DownloadConfig(local_files_only=ctx.offline),
            )
        except (DatasetsError, ValueError, OSError, RuntimeError) as error:
            reason = " ".join(f"{error} {error.__cause__ or ''}".split())
            advice = "; set dataset.config" if "config" in reason.lower() else ""
            raise DataError(f"{place} cannot be read ({reason}){advice}") from error
        _check_commit(loaded, commit, self.name)
        ctx.note("dataset_revision", commit)
        return DatasetDict(loaded)


def _check_commit(loaded: datasets.DatasetDict, commit: str, name: str) -> None:
    """Refuse what `datasets` may have read in place of the commit asked for, without a word.

    It takes a folder of that name in the working directory, and the newest copy in its cache where
    the hub does not answer.
    """
    files = [file["filename"] for split in loaded.values() for file in split.cache_files]
    found = {Path(file).parent.name for file in files} - {commit}
    if found:
        raise DataError(
            f"dataset.name: {name}: commit {commit} was asked for, but the datasets library has "
            f"read {files[0]}; run with the network, and not beside a folder of that name"
        )

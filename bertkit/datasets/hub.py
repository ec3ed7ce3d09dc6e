"""Labelled texts from the Hugging Face hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

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
        from huggingface_hub.errors import HfHubHTTPError

        place = f"dataset.name: {self.name}"
        ctx.say(f"reading dataset {self.name} from {'the cache' if ctx.offline else 'the hub'}")
        try:
            loaded = load_dataset(
                self.name,
                self.config,
                revision=self.revision,
                download_config=DownloadConfig(local_files_only=ctx.offline),
            )
        except ValueError as error:
            if "onfig" not in str(error):
                raise DataError(f"{place} cannot be read: {_first(error)}") from None
            raise DataError(f"{place}: {_first(error)}; set dataset.config") from None
        except (FileNotFoundError, ConnectionError, HfHubHTTPError, RuntimeError) as error:
            offline = "; offline, it must be in the cache already" if ctx.offline else ""
            raise DataError(
                f"{place} cannot be had{offline} ({_first(error)}); check the name and the network"
            ) from None
        except Exception as error:
            if type(error).__module__.startswith("datasets"):
                raise DataError(f"{place} cannot be read: {_first(error)}") from error
            raise
        return loaded if isinstance(loaded, dict) else DatasetDict(train=loaded)


def _first(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"

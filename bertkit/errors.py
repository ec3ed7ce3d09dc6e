"""The error tree. Everything that bertkit raises on purpose is one of these.

    BertkitError
    ├── SpecError                    what the user wrote is not a valid run
    │   ├── UnknownComponentError    a `type` that no built-in and no plugin has
    │   └── AmbiguousComponentError  a `type` that two plugins both claim
    ├── PluginError                  a plugin broke its contract
    ├── DataError                    the texts or labels cannot be used as they are
    ├── ModelError                   the encoder cannot be found, read or used
    ├── TrainError                   training could not go on
    ├── CheckpointError              training state could not be written or read
    └── ArtifactError                a model directory could not be written or read
        └── MissingPluginError       the model needs a plugin that is not installed

A message says where, what was found, what is expected and what to do. `exit_code` is what the
command line leaves with: 2 where the user's input is wrong, 1 where the run failed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BertkitError(Exception):
    """Base of every error that bertkit raises on purpose.

    Example:
        >>> raise DataError("reviews.csv, row 3: the text is empty")
        Traceback (most recent call last):
        ...
        bertkit.errors.DataError: reviews.csv, row 3: the text is empty
    """

    exit_code = 2


class SpecError(BertkitError):
    """The spec is not valid; the message lists every mistake found, one a line."""


class UnknownComponentError(SpecError):
    """A component name that neither bertkit nor an installed plugin provides."""


class AmbiguousComponentError(SpecError):
    """A component name that two installed distributions provide."""


class PluginError(BertkitError):
    """A plugin broke its contract: it failed to load, or returned what it must not."""

    exit_code = 1


class DataError(BertkitError):
    """The data cannot be read, or its texts and labels cannot be used as they are."""


class ModelError(BertkitError):
    """The encoder cannot be found, read or used for this task."""


class TrainError(BertkitError):
    """Training could not start or go on."""

    exit_code = 1


class CheckpointError(BertkitError):
    """Training state could not be written, or what is on disk cannot be resumed."""


class ArtifactError(BertkitError):
    """A run or model directory cannot be written or read."""


class MissingPluginError(ArtifactError):
    """A saved run needs a plugin that is not installed here; the message names it."""


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `" Did you mean `x`?"`, or nothing where nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean `{near[0]}`?" if near else ""

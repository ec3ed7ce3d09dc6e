"""The base of every swappable part."""

from __future__ import annotations

from os.path import normpath
from pathlib import Path, PurePath
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
)

KINDS = ("dataset", "encoder", "head", "trainer", "metric")


class Options(BaseModel):
    """Frozen settings that refuse unknown keys: the base of the spec and all its parts.

    Values are taken as they are written: the text `"3"` is not the number 3, nor is `true` 1.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        arbitrary_types_allowed=True,
    )


class Component(Options):
    """A part of a run, which is its own options.

    Subclass one of `DatasetLoader`, `Encoder`, `Head`, `Trainer` or `Metric`, never this. A
    subclass sets `type: Literal["name"] = "name"`, declares its options as fields with
    descriptions, and implements the one method that does the work. It holds settings only: no
    weights, no open files.
    """

    kind: ClassVar[str]
    type: str

    @classmethod
    def type_name(cls) -> str:
        """The registered name, e.g. `"files"`."""
        return str(cls.model_fields["type"].default)

    def check(self) -> None:
        """Refuse what only this component can judge, before anything is read or written.

        Raises:
            SpecError: an option that cannot work, with its field path.
        """


def as_text(value: Any) -> Any:
    """Return a `pathlib` path as text, and anything else as it is."""
    return str(value) if isinstance(value, PurePath) else value


def anchored(value: str, info: ValidationInfo) -> str:
    """Make a path absolute against the folder given as validation context `{"base": folder}`."""
    base: Any = (info.context or {}).get("base")
    if base is None:
        return value
    try:
        return normpath(Path(base, Path(value).expanduser()))
    except RuntimeError:
        raise ValueError(
            f"found {value}, but `{Path(value).parts[0]}` is no user's home folder here; "
            "write the folder out"
        ) from None


SpecPath = Annotated[str, Field(min_length=1), BeforeValidator(as_text), AfterValidator(anchored)]
"""A path in a spec: relative to the spec file's folder, or to the working directory in Python."""

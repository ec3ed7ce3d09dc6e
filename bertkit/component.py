"""The base of every swappable part."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo

KINDS = ("dataset", "encoder", "head", "trainer", "metric")


class Options(BaseModel):
    """Frozen settings that refuse unknown keys: the base of the spec and all its parts."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, arbitrary_types_allowed=True
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


def anchored(value: str, info: ValidationInfo) -> str:
    """Make a path absolute against the folder given as validation context `{"base": folder}`."""
    from pathlib import Path

    if not value:
        raise ValueError("a path is expected, found an empty string")
    base: Any = (info.context or {}).get("base")
    return value if base is None else str(Path(base, Path(value).expanduser()))


SpecPath = Annotated[str, AfterValidator(anchored)]
"""A path in a spec: relative to the spec file's folder, or to the working directory in Python."""

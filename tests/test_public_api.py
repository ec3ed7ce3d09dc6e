"""The public names: complete, sorted, documented; and every example in a docstring runs."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import bertkit

PACKAGE = Path(bertkit.__file__).parent
MODULES = sorted(module.name for module in pkgutil.walk_packages([str(PACKAGE)], prefix="bertkit."))
PROMISED = {
    "run", "load", "RunSpec", "RunResult", "Classifier", "Prediction", "hookimpl",
    "DatasetLoader", "Encoder", "Head", "Trainer", "Metric", "Task", "Context", "TrainingContext",
    "BertkitError", "SpecError", "UnknownComponentError", "AmbiguousComponentError",
    "PluginError", "DataError", "ModelError", "TrainError", "CheckpointError", "ArtifactError",
    "MissingPluginError", "SpecPath",
}  # fmt: skip
"""What others rely on: a name may be added here, and none taken away."""


def test_all_is_sorted_and_what_was_promised() -> None:
    assert bertkit.__all__ == sorted(bertkit.__all__, key=lambda name: (name.lower(), name))
    assert set(bertkit.__all__) == PROMISED
    assert set(dir(bertkit)) == {*PROMISED, "__version__"}


def test_the_names_for_type_checkers_are_the_same() -> None:
    tree = ast.parse(Path(bertkit.__file__).read_text())
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(checked.test) == "TYPE_CHECKING"
    names = {}
    for node in checked.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.name == alias.asname
            names[alias.name] = node.module
    assert names == bertkit._HOMES


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_a_public_name_is_there_and_documented(name: str) -> None:
    found = getattr(bertkit, name)
    assert getattr(importlib.import_module(bertkit._HOMES[name]), name) is found
    if name not in ("hookimpl", "SpecPath"):  # a marker and a type, which have no docstring
        assert found.__module__ == bertkit._HOMES[name]
        assert inspect.getdoc(found)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'bertkit' has no attribute 'rum'"):
        _ = bertkit.rum
    with pytest.raises(ImportError):
        from bertkit import rum  # noqa: F401


def test_the_version_is_that_of_the_distribution() -> None:
    import tomllib

    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    assert bertkit.__version__ == project["version"]


def public_members() -> Iterator[tuple[str, object]]:
    for name in sorted(PROMISED - {"hookimpl", "SpecPath"}):
        cls = getattr(bertkit, name)
        for member, value in vars(cls).items() if inspect.isclass(cls) else ():
            function = getattr(value, "fget", None) or getattr(value, "__func__", value)
            if getattr(function, "__name__", "") == member and not member.startswith("_"):
                yield f"{name}.{member}", value


@pytest.mark.parametrize("member", [name for name, _ in public_members()])
def test_a_public_method_is_documented(member: str) -> None:
    assert inspect.getdoc(dict(public_members())[member]), member


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_run(name: str) -> None:
    """Each module's examples see what the module has; `bertkit` is there without an import."""
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"bertkit": bertkit}, report=True)
    assert result.failed == 0


def test_there_are_examples_to_run() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    counts = {name: sum(len(one.examples) for one in finder.find(importlib.import_module(name)))
              for name in MODULES}  # fmt: skip
    assert sum(counts.values()) > 20
    assert counts["bertkit.metrics.classification"] > 8

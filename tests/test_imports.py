"""What is imported when: start-up is light, and a spec is read without any heavy library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bertkit.component import KINDS
from bertkit.registry import Registry, base_class

HEAVY = {
    "torch", "transformers", "datasets", "evaluate", "accelerate", "sklearn", "scipy", "pyarrow",
    "pandas", "polars", "tokenizers", "safetensors", "huggingface_hub",
}  # fmt: skip
"""numpy is not among them: the batches of the default trainer are arrays."""

SPEC = """
from bertkit.spec import RunSpec
RunSpec.model_validate({
    "encoder": "bert", "dataset": "a.csv", "head": "frozen-feature", "trainer": "hf",
    "metrics": ["accuracy", "roc_auc", {"type": "f1", "average": "micro"}],
})
"""
MAIN = "from bertkit.cli import main\ntry:\n    main({})\nexcept SystemExit:\n    pass\n"
LIGHT: dict[str, str] = {
    "import bertkit": "import bertkit",
    "import bertkit.cli": "import bertkit.cli",
    "import bertkit.spec": "import bertkit.spec",
    "bertkit --help": MAIN.format(["--help"]),
    "bertkit run --help": MAIN.format(["run", "--help"]),
    "bertkit --version": MAIN.format(["--version"]),
    "the public names": "import bertkit\n[getattr(bertkit, n) for n in dir(bertkit) if n != 'run']",
    "a valid spec": SPEC,
    "a spec with a mistake": MAIN.format(["run", "run.yaml"]),
    "the schema": MAIN.format(["--no-plugins", "schema"]),
    "the list of components": MAIN.format(["--no-plugins", "plugins", "list"]),
}
BUILT_INS = Registry(plugins=False).everything()
COMPONENTS = sorted(
    {one.cls.__module__ for one in BUILT_INS} | {base_class(kind).__module__ for kind in KINDS}
)
"""The modules of the option fields: of every built-in component and of their bases."""


def loaded_after(code: str, folder: Path) -> set[str]:
    """Return the top-level modules of a fresh process that ran this code."""
    code += "\nimport sys\nprint()\nprint(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("case", LIGHT)
def test_this_loads_no_heavy_library(case: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("encoder: bert\ndataset: a.csv\nsede: 1\n")
    modules = loaded_after(LIGHT[case], tmp_path)
    assert "bertkit" in modules
    assert modules & HEAVY == set()


@pytest.mark.parametrize("case", ["import bertkit", "import bertkit.cli", "bertkit --help"])
def test_start_up_loads_hardly_anything(case: str, tmp_path: Path) -> None:
    modules = loaded_after(LIGHT[case], tmp_path)
    assert modules & {"numpy", "pydantic", "pluggy", "loguru", "ruamel"} == set()


def test_no_module_of_a_component_loads_a_heavy_library(tmp_path: Path) -> None:
    assert len(COMPONENTS) >= 17
    code = "import importlib, sys\n"
    for name in COMPONENTS:
        code += f"importlib.import_module({name!r})\n"
        code += f"found = {sorted(HEAVY)!r}\n"
        code += f"assert not [n for n in found if n in sys.modules], {name!r}\n"
    assert loaded_after(code, tmp_path) & HEAVY == set()

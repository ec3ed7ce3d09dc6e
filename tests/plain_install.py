"""Run by `make check-install` in an environment that holds bertkit and what it needs, no more."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

for absent in ("pytest", "hypothesis", "mypy"):
    assert importlib.util.find_spec(absent) is None, f"{absent} came along"
import bertkit  # noqa: E402

assert "site-packages" in bertkit.__file__, bertkit.__file__
command = Path(sys.executable).with_name("bertkit")
with tempfile.TemporaryDirectory() as folder:
    spec = Path(folder, "run.yaml")
    rows = "".join(
        f"    - {{text: '{word} {i}', label: {label}}}\n"
        for i in range(8)
        for word, label in (("good room", "pos"), ("bad food", "neg"))
    )
    spec.write_text(
        "encoder: {type: scratch, vocab_size: 100, hidden_size: 16}\n"
        f"dataset:\n  type: inline\n  train:\n{rows}"
        "trainer: {type: loop, epochs: 1}\noutput: out\noffline: true\n",
        encoding="utf-8",
    )
    subprocess.run([command, "--help"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([command, "run", spec], check=True)
    done = subprocess.run(
        [command, "predict", Path(folder, "out"), "good room"], check=True, capture_output=True
    )
    assert done.stdout.decode().split("\t")[0] in ("pos", "neg"), done
print("pip install . works")

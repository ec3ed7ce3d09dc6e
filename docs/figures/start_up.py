"""Print how long bertkit takes to start, beside `import pydantic`; medians, in turn.

python docs/figures/start_up.py [--times 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {
    "python -c 'pass'": [sys.executable, "-c", "pass"],
    "python -c 'import pydantic'": [sys.executable, "-c", "import pydantic"],
    "python -c 'import pydantic.main'": [sys.executable, "-c", "from pydantic import BaseModel"],
    "python -c 'import bertkit'": [sys.executable, "-c", "import bertkit"],
    "bertkit --help": [str(Path(sys.executable).with_name("bertkit")), "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=15)
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(parser.parse_args().times):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - started)
    for name, seconds in times.items():
        middle, spread = statistics.median(seconds), max(seconds) - min(seconds)
        print(f"{name:<36} {middle:.3f} s (median of {len(seconds)}, range {spread:.3f})")


if __name__ == "__main__":
    main()
